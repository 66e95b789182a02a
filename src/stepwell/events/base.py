"""What all events have in common, and the words that several of them use.

The events themselves stand in the other files of this folder.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Effect = Literal["pure", "idempotent", "write"]
"""What running a tool twice does: nothing outside at all; the same as once when the key is the same; harm."""

ToolStatus = Literal["ok", "failed", "timeout", "invalid", "unknown_tool", "denied", "cancelled", "unknown"]
"""How a call ended: it worked; the tool failed; it took too long; its arguments were wrong and it was not
run; there is no such tool; it was not allowed; it was cancelled; the process died while it ran and nobody knows."""

EndReason = Literal["answer", "limit", "failed", "cancelled"]

Policy = Literal["queue", "steer", "interrupt", "reject"]
"""What becomes of a message that comes while a run is open: it waits for the end; the agent meets it before its next
model call; what is under way is closed first; it is refused."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag_field="type"):
    """The base of all events. No event holds itself, so the garbage collector need not look at them."""
