"""How much of a conversation one request may bring, said once for all faces. It reads no message."""

from __future__ import annotations

from typing import Any, cast

from pydantic import BeforeValidator

MOST = 10_000
"""Messages, parts and calls in one request, together: what is read at once keeps all others waiting."""


def _counted(given: Any) -> Any:
    """Refuse a conversation that is too long, before anything in it is looked at."""
    if not isinstance(given, list):
        return given
    listed = cast("list[object]", given)
    found = len(listed)
    if found <= MOST:
        found += sum(map(_inside, listed))
    if found > MOST:
        told = f"It has {found:,} messages, parts and calls, and {MOST:,} are taken at once; leave out the oldest"
        raise ValueError(f"{told}, or send what is new to the thread that has them.")
    return listed


def _inside(message: object) -> int:
    """Return how many parts and calls a message lists."""
    if not isinstance(message, dict):
        return 0
    return sum(
        len(cast("list[object]", each))
        for each in cast("dict[str, object]", message).values()
        if isinstance(each, list)
    )


Counted = BeforeValidator(_counted)
"""A list of messages that is not too long; what is no list is somebody else's to refuse."""
