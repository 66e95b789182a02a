"""What `stepwell doctor` finds: one record for each thing that it looks at."""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["ok", "off", "warn", "bad"]
"""It works; it is not switched on; it works and deserves a look; it is configured and does not work."""


class Finding(NamedTuple):
    """What was found about one thing.

    Args:
        name: What it is.
        state: How it is.
        detail: The facts.
        remedy: What mends it or switches it on; empty for nothing.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""
