"""The bytes of AG-UI's events and of the frames that carry them, and the ids by which a stream is taken up again.

https://docs.ag-ui.com, version 1.0. Which events there are is decided in `encoder.py`.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

from stepwell.errors import InputError
from stepwell.runs.channel import Cursor

PROTOCOL = "1.0"
"""The version of AG-UI that is spoken here."""
NAME = "stepwell"
"""The key of what is ours in metadata and state, and the first word of the names of custom events."""
_LONGEST = 4000
"""Characters of a place that a client may send."""
_MINE = re.compile(r"sw-[0-9]{1,15}")

encode = msgspec.json.Encoder().encode


def check_sendable(value: object, field: str) -> None:
    """Refuse a value that is to be kept or sent back, and that JSON as others read it cannot hold."""
    try:
        encode(value)
    except (RecursionError, UnicodeEncodeError) as error:
        told = "It holds half a surrogate pair, or is nested too deep."
        raise InputError(told, field) from error


def event(kind: str, **fields: Any) -> bytes:
    """Return an event; what is None is left out, for the protocol has no null there."""
    return encode({"type": kind, **{name: value for name, value in fields.items() if value is not None}})


def custom(tag: str, value: bytes, agent: str = "") -> bytes:
    """Return an event of ours that the protocol has no name for.

    Args:
        tag: What follows `stepwell.` in its name.
        value: JSON.
        agent: The agent inside the run that it happened to; empty for the run's own.
    """
    return b'{"type":"CUSTOM"%s,"name":"%s.%s","value":%s}' % (tagged(agent), NAME.encode(), tag.encode(), value)


def tagged(agent: str) -> bytes:
    """Return the field that says which agent inside the run an event is of; empty for the run's own."""
    return b',"subagentRunId":"%s"' % agent.encode() if agent else b""


def message_id(seq: int) -> str:
    """Return the id of the message that an event of this number brought or began."""
    return f"sw-{seq}"


def is_mine(id: str) -> bool:
    """Tell whether an id is one of `message_id`."""
    return _MINE.fullmatch(id) is not None


def number_of(id: str) -> int:
    """Return the number in an id of `message_id`."""
    return int(id.partition("-")[2])


class Shown(NamedTuple):
    """How much of an open reply a client has.

    Args:
        message: Number of the reply's `MessageStarted`.
        thinking: Characters of thinking.
        text: Characters of visible text.
        spans: Spans of thinking begun.
        open: Whether the newest of them is open: 1 or 0.
    """

    message: int
    thinking: int
    text: int
    spans: int
    open: int


class Place(NamedTuple):
    """A place in the stream of one AG-UI run, as the `id` of a frame names it.

    It is the log's cursor, and what the cursor alone does not tell: `12.40~9.0.35.0.0` is the cursor `12.40` with 35
    characters of the open reply 9; `56-2` is the second event of several that what follows event 56 became; `56:1` the
    first of those that open a stream after event 56.

    Args:
        cursor: The log's cursor.
        part: How many events of those that the next item became.
        opening: How many events of those that open the stream which begins after the cursor; 0 where it was open.
        shown: The replies that are open there.
    """

    cursor: Cursor
    part: int = 0
    opening: int = 0
    shown: tuple[Shown, ...] = ()


_PLACE = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,15}))?(?:-([0-9]{1,6})|:([0-9]{1,6}))?(?:(~)([0-9.,]*))?")


def parse_place(text: str, field: str) -> Place:
    """Read the `id` of a frame.

    Raises:
        InputError: It is none; with the field.
    """
    found = _PLACE.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    shown = _parse_shown(found[6] or "") if found else None
    if found is None or shown is None:
        raise InputError(f"{text[:40]!r} is no place in a stream; give the `id` of the last event", field)
    seq, offset, part, opening = (int(each or 0) for each in found.groups()[:4])
    if offset and not found[5]:
        raise InputError(f"{text[:40]!r} does not say what was seen of a reply; give an `id` of this stream", field)
    return Place(Cursor(seq, offset), part, opening, shown)


def _parse_shown(text: str) -> tuple[Shown, ...] | None:
    rows = [each.split(".") for each in text.split(",")] if text else []
    if not all(len(row) == 5 and all(part and len(part) < 16 for part in row) for row in rows):
        return None
    return tuple(Shown(*map(int, row)) for row in rows)


def frames(data: list[bytes], before: tuple[bytes, bytes], after: tuple[bytes, bytes]) -> list[bytes]:
    """Return what one item of the log became as frames; each has the id by which a client goes on after it.

    Args:
        data: The events.
        before: The cursor of the item before, and what `replies.shown` said after it.
        after: The same of this item.
    """
    last = b"id: %s%s\ndata: %s\n\n" % (*after, data[-1])
    if len(data) == 1:
        return [last]
    cursor, shown = before
    first = [b"id: %s-%d%s\ndata: %s\n\n" % (cursor, n, shown, each) for n, each in enumerate(data[:-1], 1)]
    return [*first, last]


def opening(data: list[bytes], seq: int, shown: int = 0) -> bytes:
    """Return the events that open a stream as frames.

    Args:
        data: The events.
        seq: Number of the event after which the stream begins.
        shown: How many of them the client has.
    """
    return b"".join(
        b"id: %d:%d\ndata: %s\n\n" % (seq, number, each) for number, each in enumerate(data, 1) if number > shown
    )
