"""What is asked of the run service, and the address of what came of it. Records only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from stepwell.messages import Message


class RunRef(NamedTuple):
    """A run's address.

    Args:
        thread: The thread's id.
        run: The number of its `RunStarted`; 0 for a message that waits for the end of another.
        repeated: The request was a repetition; the run was there already.
        queued: Number of the `MessageQueued`, where the message waits.
        steered: Number of the `Steered`, where the message was told to a run that was open.
    """

    thread: str
    run: int
    repeated: bool = False
    queued: int = 0
    steered: int = 0


class Once(msgspec.Struct, frozen=True):
    """What makes a request happen once.

    Args:
        route: The key's scope besides the owner.
        key: The client's idempotency key.
        body: SHA-256 of the request's body.
    """

    route: str
    key: str
    body: str


class NewThread(msgspec.Struct, frozen=True):
    """How a thread should be made.

    Args:
        title: Empty: the beginning of the first message.
        history: Earlier messages to begin with.
        expires: When it may be removed if nothing more happens in it, in milliseconds since 1970; 0 never.
        id: Its id, where the client knows it before; a thread of the owner that has it is gone on with. Empty for a
            new one.
    """

    title: str = ""
    history: Sequence[Message] = ()
    expires: int = 0
    id: str = ""
