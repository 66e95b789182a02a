"""What of a JSON text stands outside its texts, told piece by piece and without taking it apart.

Values cost time when JSON is taken apart, and bytes of texts hardly any: whoever bounds what comes from outside counts
here first. It checks nothing: what is no JSON is refused by whoever reads it. It mends what no text can hold.
"""

from __future__ import annotations

import re

_MARKS = (b",", b"{", b"[")
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def marks(data: bytes) -> int:
    """Return how many marks stand in some bytes that begin a value or a field, or end one."""
    return sum(map(data.count, _MARKS))


class OutsideTexts:
    """Goes through a JSON text, of which one piece comes after the other, however it was cut."""

    __slots__ = ("_cut", "_in_text")

    def __init__(self) -> None:
        self._in_text, self._cut = False, b""

    def take(self, piece: bytes) -> bytes:
        """Return what stands outside texts of the next piece, of at most some 100 KB."""
        piece = self._cut + piece
        self._cut = b""
        if b"\\" in piece:
            if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
                piece, self._cut = piece[:-1], b"\\"
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        first, *more = piece.replace(b"\r", b"\n").split(b"\n")
        lines = [self._line(first)]
        for each in more:
            self._in_text = False  # no text of JSON reaches beyond its line
            lines.append(self._line(each))
        return b"\n".join(lines)

    def _line(self, line: bytes) -> bytes:
        pieces = line.split(b'"')
        outside = b"".join(pieces[self._in_text :: 2])
        self._in_text ^= not len(pieces) % 2
        return outside


def mend(data: bytes) -> bytes:
    """Return JSON text in which escapes of half a surrogate pair, which no text can hold, are those of U+FFFD."""
    if not _HALF.search(data):
        return data
    return _ESCAPE.sub(lambda found: b"\\ufffd" if found[1] else found[0], data)
