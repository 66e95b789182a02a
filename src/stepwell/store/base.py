"""The port of stores: append-only logs of threads, and what cannot be derived from them.

A store keeps events, big results beside them, the rows of threads, the use of idempotency keys and API keys.
It folds nothing, it streams nothing: following a log is the run service's work.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import msgspec

from stepwell.events import Recorded
from stepwell.log import NO_BLOBS
from stepwell.specs import Limits
from stepwell.state.run import Spent

BLOB_LIMIT = 256_000_000
"""Bytes of the largest blob; SQLite takes 10^9 for a whole row."""

_PREFIX = re.compile(r"[0-9a-f]{12,64}")


def is_prefix(text: str) -> bool:
    """Tell whether a blob may be named by this: 12 digits or more of its hash, in lower case."""
    return _PREFIX.fullmatch(text) is not None


class ThreadInfo(msgspec.Struct, frozen=True, gc=False):
    """A thread's row.

    Args:
        id: Opaque, 128 random bits.
        owner: Whose it is.
        title: The newest title.
        created: Milliseconds since 1970.
        seq: Number of its newest event.
        run: Number of the open run's `RunStarted`, or 0.
        expires: When it may be removed if nothing more happens in it, in milliseconds since 1970; 0 never.
        parent: Id of the thread that it was forked from; empty for none.
        forked: Number of the event up to which it was copied, or 0.
    """

    id: str
    owner: str
    title: str = ""
    created: int = 0
    seq: int = 0
    run: int = 0
    expires: int = 0
    parent: str = ""
    forked: int = 0


class Spending(msgspec.Struct, frozen=True, gc=False):
    """What is on the account of a key.

    Args:
        money: Settled and reserved, in billionths of the unit of money.
        tokens: Of requests and replies.
        steps: Model calls.
        tool_calls: Calls of tools; of an open run those that have no result yet, too.
        milliseconds: How long ended runs took.
    """

    money: int = 0
    tokens: int = 0
    steps: int = 0
    tool_calls: int = 0
    milliseconds: int = 0

    def __add__(self, other: Spending) -> Spending:
        mine, more = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return Spending(*(one + two for one, two in zip(mine, more, strict=True)))


NO_SPENDING: Mapping[str, Spending] = MappingProxyType({})


def spending(spent: Spent) -> Spending:
    """Return what the fold of a log counts as it stands on an account: what is reserved counts as spent."""
    tokens = spent.usage.input + spent.usage.output
    return Spending(spent.money + spent.reserved, tokens, spent.steps, spent.tool_calls, spent.milliseconds)


class KeyUse(msgspec.Struct, frozen=True):
    """One use of an idempotency key.

    Args:
        owner: The key's scope.
        route: The key's scope.
        key: What the client sent.
        body: SHA-256 of the request's body, 64 hexadecimal digits.
        thread: What the request made.
        run: Number of the event that it made: the start of a run, a waiting message or what was said to a run; or 0.
    """

    owner: str
    route: str
    key: str
    body: str
    thread: str
    run: int = 0


class ApiKey(msgspec.Struct, frozen=True):
    """An API key as it is kept: never its secret.

    Args:
        id: Public part, shown in lists.
        owner: Whom requests with it speak for.
        hash: SHA-256 of the secret, 64 hexadecimal digits.
        created: Milliseconds since 1970.
        revoked: Milliseconds since 1970; 0 while it is good.
        limits: What all runs on its account may use together; None for no limit.
    """

    id: str
    owner: str
    hash: str
    created: int
    revoked: int = 0
    limits: Limits | None = None


class Store(Protocol):
    """Keeps threads and their events. All of it is safe to call from several tasks at once.

    Attributes:
        instant: An append is done when it returns, so that nothing is gained by collecting events for it.
    """

    instant: bool

    def append(
        self,
        thread: str,
        events: Sequence[Recorded],
        *,
        expect: int,
        new: ThreadInfo | None = None,
        key: KeyUse | None = None,
        blobs: Mapping[str, bytes] = NO_BLOBS,
        wake: int | None = None,
        spent: Mapping[str, Spending] = NO_SPENDING,
    ) -> asyncio.Future[None]:
        """Append events in one transaction and return at once; the future is done when they are on the disk.

        Cancelling whoever waits for the future undoes nothing.

        Args:
            thread: Where to.
            events: Numbered `expect + 1` and on, without gaps. May be empty with `new`.
            expect: The number of the thread's newest event.
            new: Make the thread with this row first.
            key: The idempotency key that these events honour, stored with them.
            blobs: Big results that they refer to, at most `BLOB_LIMIT` bytes each, by their SHA-256 as 64
                hexadecimal digits in lower case. What is there already is not stored twice.
            wake: When the thread has work by itself from now on, as in `State.wake`, where that is not what the
                start or end of a run says: at once while one is open, else never.
            spent: What the thread has spent by now, in all, by the keys whose accounts it is on.

        Raises:
            Conflict: (from the future) the newest event is another, the thread is gone, or the key was used.
            StoreFull: (from the future) no room.
            StoreError: (from the future) anything else.
        """
        ...

    def fork(
        self, thread: str, upto: int, new: ThreadInfo, events: Sequence[Recorded], *, key: KeyUse | None = None
    ) -> asyncio.Future[None]:
        """Make a thread that begins with another's events, in one transaction, and return at once.

        The blobs that the copied events refer to are shared; deleting either thread takes nothing from the other.

        Args:
            thread: Whose events are copied.
            upto: Number of the last of them.
            new: The new thread's row; its `run` is the open run's number after all of its events, or 0.
            events: What follows them, numbered `upto + 1` and on. They open and end no run.
            key: The idempotency key that this honours, stored with it; it goes with the new thread.

        Raises:
            Conflict: (from the future) there is no such thread or event, the new thread is there, or the key was used.
            StoreError: (from the future) anything else.
        """
        ...

    async def read(self, thread: str, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Return events with numbers above `after`, in order, at most `limit`; none for an unknown thread."""
        ...

    async def blob(self, thread: str, prefix: str, *, offset: int = 0, length: int | None = None) -> bytes | None:
        """Return a part of a blob that this thread refers to, or None.

        Args:
            thread: Blobs that only other threads refer to are not found.
            prefix: The beginning of the blob's hash, 12 digits at least; None comes back where it fits several.
            offset: First byte, from 0; past the end nothing is returned.
            length: Bytes at most; all without it.
        """
        ...

    async def blob_size(self, thread: str, prefix: str) -> int | None:
        """Return how many bytes such a blob has, or None."""
        ...

    async def thread(self, thread: str) -> ThreadInfo | None:
        """Return the thread's row, or None."""
        ...

    async def threads(self, owner: str, *, before: str = "", limit: int = 50) -> list[ThreadInfo]:
        """Return an owner's threads, newest first, those made before the thread `before`."""
        ...

    async def due(self, now: int) -> list[ThreadInfo]:
        """Return the threads that have work by itself by now (milliseconds since 1970), oldest first."""
        ...

    async def next_wake(self, now: int) -> int:
        """Return the first time after now at which a thread has work by itself or the time of an open question is over.

        `state.thread.NEVER` for none.
        """
        ...

    async def overdue(self, now: int) -> list[ThreadInfo]:
        """Return the threads of which the time of an open question, or for which a waiting run waits, is over."""
        ...

    async def asking(self, owner: str, limit: int) -> list[str]:
        """Return the ids of an owner's threads that have open questions, the longest asked first."""
        ...

    async def spent(self, key: str) -> Spending:
        """Return what all threads, those that are gone too, have put on the account of a key."""
        ...

    async def delete(self, thread: str) -> bool:
        """Remove a thread with its events and the blobs that no other thread refers to; late appends to it fail.

        Return whether it was there.
        """
        ...

    async def expired(self, now: int) -> list[str]:
        """Return the ids of threads whose time is over; one whose run is carried out is none of them.

        With each event the time begins anew: a thread is kept for so long after its newest one.
        """
        ...

    async def key_use(self, owner: str, route: str, key: str) -> KeyUse | None:
        """Return how an idempotency key was used, or None."""
        ...

    async def add_api_key(self, key: ApiKey) -> None:
        """Keep a new API key."""
        ...

    async def api_keys(self) -> list[ApiKey]:
        """Return all API keys, oldest first, revoked ones too."""
        ...

    async def revoke_api_key(self, id: str, now: int) -> bool:
        """Revoke a key; return whether a good one had this id."""
        ...

    async def close(self) -> None:
        """Write what is queued and let go of the files."""
        ...
