"""Numbers and frames of the events of a response's stream: what a client gives back to go on where it was.

A `sequence_number` is a function of the log alone: the number of the stored event that an event of the stream belongs
to, and the place among what belongs to it. Text has its place by how much of it stands before. Nothing here knows what
the events mean.
"""

from __future__ import annotations

from typing import Any

import msgspec

BITS = 22
"""Bits of a sequence number for the place; above them stands the number of the stored event, so that all fit in the 53
bits that JavaScript counts in."""

THOUGHT = 0
"""Place at which a thought begins that streams; its text follows."""
THOUGHT_ENDS = 1 << 20
"""Place at which it ends."""
TEXT = THOUGHT_ENDS + 16
"""Place at which a text begins that streams; what it says follows."""
LATE = 1 << 12
"""Place of what happened before the event, but after the response before had ended."""
LAST = (1 << BITS) - 1
"""The last place: that of the event that ends a stream."""
REST = LAST - 1
"""Place of what is left of a text that is longer than there are places."""
NOTHING = 1 << 62
"""Above every number: after it nothing comes."""

_encode = msgspec.json.Encoder().encode


def number(seq: int, place: int) -> int:
    """Return a sequence number.

    Args:
        seq: Number of the stored event.
        place: What is counted among what belongs to it, from 0.
    """
    return (seq << BITS) + place


def frame(kind: str, fields: dict[str, Any], sequence: int) -> bytes:
    """Return an event as one frame."""
    body = _encode({"type": kind, **fields, "sequence_number": sequence})
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), body)


def number_of(data: bytes) -> int:
    """Return the sequence number of the last of some frames: it stands at their very end."""
    return int(data[data.rindex(b":") + 1 : -len("}\n\n")])


class Flow:
    """A text that streams: an item's, and how much of it was shown.

    Args:
        kind: Type of its events.
        id: Of the item.
        index: Of the item in the response.
        fields: Further fields of each event.

    Attributes:
        texts: What was shown since `start`.
    """

    __slots__ = ("_base", "_head", "_room", "_shown", "id", "index", "texts")

    def __init__(self, kind: str, id: str, index: int, **fields: Any) -> None:
        self.id, self.index = id, index
        told = _encode({"type": kind, "item_id": id, "output_index": index, **fields})
        self._head = b'event: %s\ndata: %s,"delta":' % (kind.encode(), told[:-1])
        self.texts: list[str] = []
        self._base = self._shown = self._room = 0

    def start(self, base: int, room: int) -> None:
        """Begin with the text, perhaps once more.

        Args:
            base: Sequence number before its first code point.
            room: Code points that can be numbered.
        """
        self.texts.clear()
        self._base, self._room, self._shown = base, room, 0

    @property
    def text(self) -> str:
        """What was shown since `start`."""
        return "".join(self.texts)

    def delta(self, text: str, after: int) -> bytes:
        """Return more of the text as a frame, as far as it lies beyond a sequence number; empty for nothing.

        What cannot be numbered is left to `rest`.
        """
        before = self._shown
        if before + len(text) > self._room:
            text = text[: self._room - before]
        if not text:
            return b""
        self._shown = before + len(text)
        self.texts.append(text)
        sequence = self._base + self._shown
        if sequence <= after:
            return b""
        if self._base + before < after:
            text = text[after - self._base - before :]
        return b'%s%s,"sequence_number":%d}\n\n' % (self._head, _encode(text), sequence)

    def rest(self, whole: str, after: int) -> bytes:
        """Return what a whole text has beyond what was shown, as a frame; see `delta`."""
        return self.delta(whole[self._shown :], after) if len(whole) > self._shown else b""

    def beyond(self, whole: str, sequence: int, after: int) -> bytes:
        """Return what could not be numbered of a whole text as one frame of its own number; empty for nothing."""
        text = whole[self._shown :] if self._shown == self._room else ""
        if not text or sequence <= after:
            return b""
        return b'%s%s,"sequence_number":%d}\n\n' % (self._head, _encode(text), sequence)
