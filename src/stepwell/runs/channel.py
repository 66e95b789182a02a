"""The live end of a thread: stored events and transient text in the order in which they were shown.

Readers share one list and each keep a place in it, so a slow reader costs nothing and finds what it missed
joined. It holds the newest part only; what is older is read from the store.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from typing import Literal

import msgspec

from stepwell.errors import InputError
from stepwell.events import CallDelta, Recorded, TextDelta, ThinkingDelta, ToolProgress, Transient, encode

KEEP = 64
"""Stored events kept for readers that come back soon."""
TRIM = 512
"""Length of the list at which old entries are let go."""


class Cursor(msgspec.Struct, frozen=True, order=True):
    """A place in a thread's stream.

    Args:
        seq: Number of the newest stored event that the client has seen; 0 for none.
        offset: Unicode code points of transient text seen since that event; the names of calls are text too.
    """

    seq: int = 0
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.seq}.{self.offset}" if self.offset else str(self.seq)


def parse_cursor(text: str) -> Cursor:
    """Read `12` or `12.40`.

    Raises:
        InputError: It is neither.
    """
    seq, dot, offset = text.strip().partition(".")
    digits = [seq, offset] if dot else [seq]
    if not all(part.isascii() and part.isdigit() and len(part) < 16 for part in digits):
        raise InputError(f"{text[:40]!r} is no cursor; give the `id` of the last event, such as 12 or 12.40", "after")
    return Cursor(int(seq), int(offset or 0))


class Piece:
    """A transient event with its place.

    Args:
        seq: Number of the newest stored event before it.
        offset: Code points of transient text since then, this piece's included.
        run: Number of the run's `RunStarted`.
        event: The delta.
    """

    __slots__ = ("_json", "event", "offset", "run", "seq")

    ends_run = False

    def __init__(self, seq: int, offset: int, run: int, event: Transient) -> None:
        self.seq, self.offset, self.run, self.event = seq, offset, run, event
        self._json: bytes | None = None

    def to_json(self) -> bytes:
        """Return the piece as clients get it, encoded once for all readers."""
        if self._json is None:
            self._json = b'{"seq":%d,"offset":%d,"run":%d,"event":%s}' % (
                self.seq,
                self.offset,
                self.run,
                encode(self.event),
            )
        return self._json


Item = Recorded | Piece


def place_of(item: Item) -> Cursor:
    """Return the cursor of a client that has seen everything up to this item."""
    return Cursor(item.seq, item.offset if isinstance(item, Piece) else 0)


def _target(event: Transient) -> tuple[type, int | str, int]:
    """Return what the text of an event belongs to: only pieces of the same may be joined."""
    match event:
        case TextDelta() | ThinkingDelta():
            return type(event), event.message, 0
        case CallDelta():
            return CallDelta, event.message, event.index
        case ToolProgress():
            return ToolProgress, event.call, 0


def _names(event: Transient) -> bool:
    return isinstance(event, CallDelta) and bool(event.name)


def join(items: list[Item]) -> list[Item]:
    """Join neighbouring pieces of one text; lossless."""
    if len(items) < 2 or Piece not in map(type, items):  # a token at a time, or what is stored
        return items
    out: list[Item] = []
    start = 0
    while start < len(items):
        first = items[start]
        end = start + 1
        if isinstance(first, Piece):
            target = _target(first.event)
            while end < len(items):
                piece = items[end]
                if not isinstance(piece, Piece) or _target(piece.event) != target or _names(piece.event):
                    break
                end += 1
        out.append(first if end == start + 1 else _joined(items[start:end]))
        start = end
    return out


def _joined(pieces: list[Item]) -> Piece:
    events = [piece.event for piece in pieces if isinstance(piece, Piece)]
    first, last = pieces[0], pieces[-1]
    assert isinstance(first, Piece)
    assert isinstance(last, Piece)
    text = "".join(event.text for event in events)
    return Piece(last.seq, last.offset, last.run, msgspec.structs.replace(first.event, text=text))


def _width(event: Transient) -> int:
    return len(event.text) + len(event.name) if isinstance(event, CallDelta) else len(event.text)


def _rest(piece: Piece, offset: int) -> Piece:
    """Return what of a piece lies beyond an offset inside it."""
    event, seen = piece.event, _width(piece.event) - (piece.offset - offset)
    if isinstance(event, CallDelta):
        name, seen = event.name[seen:], max(0, seen - len(event.name))
        event = msgspec.structs.replace(event, name=name)
    event = msgspec.structs.replace(event, text=event.text[seen:])
    return Piece(piece.seq, piece.offset, piece.run, event)


Eager = Callable[[list[Item]], Literal["taken", "left", "full"]]
"""Takes what happens in the turn of the loop in which it happens: it took it, it leaves it to its reader, or it took
it and can take no more for now."""


class _Waiting:
    """A reader that lets an `Eager` take what is shown while it waits."""

    __slots__ = ("eager", "future", "place", "taken")

    def __init__(self, eager: Eager, place: int) -> None:
        self.eager, self.place = eager, place
        self.taken: Item | None = None
        """The newest item that was taken."""
        self.future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()


class Channel:
    """The shared list of one thread.

    Args:
        seq: Number of the thread's newest stored event.
    """

    def __init__(self, seq: int = 0) -> None:
        self.seq = seq
        self.offset = 0
        self.first = seq
        """Everything after this number is in the list."""
        self._items: list[Item] = []
        self._base = 0
        self._open: dict[str, int] = {}
        self._waiters: list[asyncio.Future[bool]] = []
        self._waiting: list[_Waiting] = []
        self.readers = 0
        self.closed = False

    def stored(self, events: list[Recorded]) -> None:
        """Show events that are on the disk."""
        self._items.extend(events)
        self.seq, self.offset = events[-1].seq, 0
        if len(self._items) > TRIM:
            self._trim()
        if self._waiters or self._waiting:
            self._wake()

    def piece(self, run: int, event: Transient) -> None:
        """Show a transient event; one without text has no address and is left out."""
        width = _width(event)
        if not width:
            return
        self.offset += width
        self._items.append(Piece(self.seq, self.offset, run, event))
        if self._waiters or self._waiting:
            self._wake()

    @property
    def held(self) -> set[str]:
        """The paths of agents for whose open messages everything is kept."""
        return set(self._open)

    def hold(self, seq: int, path: str = "") -> None:
        """Keep everything from event `seq` on until `release`: a message of an agent is open."""
        self._open[path] = seq

    def release(self, *paths: str) -> None:
        """Let `_trim` take what `hold` kept for these agents."""
        for path in paths:
            self._open.pop(path, None)

    def close(self) -> None:
        """Tell readers that nothing follows."""
        self.closed = True
        self._wake()

    def pieces(self, message: int) -> list[Transient]:
        """Return what was shown of an open message, in order."""
        found: list[Transient] = []
        for item in reversed(self._items):
            if isinstance(item, Piece):
                if not isinstance(item.event, ToolProgress) and item.event.message == message:
                    found.append(item.event)
            elif item.seq <= message:
                break
        return found[::-1]

    def after(self, cursor: Cursor) -> tuple[list[Item], int]:
        """Return what lies beyond a cursor at or after `first`, and the reader's new place."""
        index = bisect_right(self._items, cursor, key=place_of)
        items = self._items[index:]
        if cursor.offset and items and isinstance(items[0], Piece) and items[0].seq == cursor.seq:
            first = items[0]
            if first.offset - _width(first.event) < cursor.offset:
                items[0] = _rest(first, cursor.offset)
        return items, self._base + len(self._items)

    def since(self, place: int) -> tuple[list[Item] | None, int]:
        """Return what came after a place, or None where it is no longer held, and the new place."""
        if place < self._base:
            return None, place
        return self._items[place - self._base :], self._base + len(self._items)

    async def wait(self) -> bool:
        """Wait until something is shown; return False where `beat` ended the wait."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    async def pass_on(self, eager: Eager | None, place: int, cursor: Cursor) -> tuple[bool, int, Cursor]:
        """Wait as `wait` does while `eager`, if there is one, takes what is shown; return also how far it got.

        A reader that is not woken for each piece costs no switch of tasks.
        """
        if eager is None:
            return await self.wait(), place, cursor
        waiting = _Waiting(eager, place)
        self._waiting.append(waiting)
        try:
            shown = await waiting.future
            return shown, waiting.place, cursor if waiting.taken is None else place_of(waiting.taken)
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def beat(self) -> None:
        """Wake readers although nothing is shown."""
        self._wake(False)

    def _wake(self, shown: bool = True) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(shown)
        if self._waiting:
            self._waiting = [each for each in self._waiting if self._keeps_waiting(each, shown)]

    def _keeps_waiting(self, waiting: _Waiting, shown: bool) -> bool:
        if waiting.future.done():
            return False
        start = waiting.place - self._base
        items = self._items[start:] if start >= 0 else []
        if items and not self.closed:
            outcome = waiting.eager(join(items))
            if outcome != "left":
                waiting.place, waiting.taken = self._base + len(self._items), items[-1]
            if outcome == "taken":
                return True
            shown = outcome == "left"
        waiting.future.set_result(shown)
        return False

    def _trim(self) -> None:
        cut = len(self._items) - KEEP
        if self._open:
            cut = min(cut, bisect_right(self._items, Cursor(min(self._open.values()) - 1), key=place_of))
        # A cut must fall on a stored event: a piece without the event that it hangs from has no address.
        while cut > 0 and not isinstance(self._items[cut - 1], Recorded):
            cut -= 1
        if cut > 0:
            self.first = self._items[cut - 1].seq
            del self._items[:cut]
            self._base += cut
