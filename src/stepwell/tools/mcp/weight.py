"""What it costs to take a message apart, told while it comes in: bytes are cheap, values are not.

A message is taken apart in one piece, in which nobody else is heard. A picture of 20 MB costs a few milliseconds, and a
list of a million numbers a second; so both are bounded, and what is beyond is never taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Generator

import msgspec
from mcp_types import ErrorData, JSONRPCError, jsonrpc_message_adapter

from stepwell.tools.json_text import OutsideTexts, marks, mend
from stepwell.tools.mcp.base import MOST_MESSAGE

MOST_VALUES = 200_000
"""Values, fields and lines of one message; as many take about 100 ms."""
LARGE = 1 << 20
"""Bytes from which on it matters what is done with a message that is none: the SDK repeats it in its error."""
NO_MESSAGE = "it is no message"
"""Why such a large one is not taken."""
NOT_READ = "its answer cannot be read"
"""What is said of an answer that is none."""
PIECE = 1 << 16
"""Bytes of a piece."""
ENDS = 512
"""Bytes that are kept of the beginning and of the end of a message that is too much."""
NOT_TAKEN, NO_LOGIN, FORGOTTEN, GIVEN_UP = -32098, -32097, -32096, -32095
"""Codes of failures of ours: an answer that is not taken; no login for a request, which was not looked at; a session
that the server does not know any more; nobody waits for the answer."""

_NUMBER, _ESCAPES, _WIDE = 32, 32, 64
"""Bytes outside of texts, escapes in them, and bytes of texts that are not ASCII, that cost as much as a value."""
_PER_BYTE, _PER_VALUE = 5e-9, 7e-7
"""Seconds, as measured on a slow core with texts of Chinese, and with objects."""
_ID = rb'"id"\s*:\s*(\d{1,18}|"[^"\\]{1,200}")\s*'
_VERSION = rb'"jsonrpc"\s*:\s*"2\.0"\s*'
_FIRST = re.compile(rb"\s*\{\s*(?:%s,\s*)?%s,\s*(?:%s,\s*)?\"(?:result|error)\"" % (_VERSION, _ID, _VERSION))
_LAST = re.compile(rb",\s*%s(?:,\s*%s)?\}\s*$" % (_ID, _VERSION))
_SAYS = re.compile(rb'\s*\{\s*(?:%s,\s*)?(?:%s,\s*)?"method"' % (_VERSION, _ID))


class Weight:
    """The weight of a message, of which one part is added after the other."""

    def __init__(self) -> None:
        self.size = self.values = 0
        self._outside = OutsideTexts()

    def add(self, part: bytes) -> None:
        """Add a part, of at most some 100 KB."""
        self.size += len(part)
        if self.fault:
            return
        if not part.isascii():
            self.values += len(part) // _WIDE
        outside = self._outside.take(part)
        lines = outside.split(b"\n")
        self.values += marks(outside) + len(lines) - 1 + part.count(b"\\") // _ESCAPES
        self.values += sum(len(line) // _NUMBER for line in lines)

    @property
    def fault(self) -> str:
        """Why it is not taken apart; empty where it is."""
        if self.size > MOST_MESSAGE:
            return f"it has more than {MOST_MESSAGE >> 20} MB"
        return "it is too much to take apart" if self.values > MOST_VALUES else ""

    @property
    def seconds(self) -> float:
        """How long it takes at most to take it apart."""
        return self.size * _PER_BYTE + self.values * _PER_VALUE


class Parts:
    """A message on its way, kept as long as it is not too much."""

    def __init__(self) -> None:
        self.weight = Weight()
        self._data = bytearray()
        self._first = self._last = b""

    def add(self, part: bytes) -> None:
        """Add what comes next, at most some 100 KB."""
        self.weight.add(part)
        if not self.weight.fault:
            self._data += part
            return
        if not self._first:
            self._first = bytes(self._data[:ENDS]) or part[:ENDS]
            self._data = bytearray()
        self._last = (self._last + part[-ENDS:])[-ENDS:]

    def whole(self) -> bytes:
        """Return all of it; nothing of what is too much."""
        return bytes(self._data)

    def answers(self) -> int | str | None:
        """Return the id of the request that it answers, where it is too much and that can be told from its ends."""
        if _SAYS.match(self._first):
            return None
        return _id(_FIRST.match(self._first) or _LAST.search(self._last))

    def says(self) -> bool:
        """Tell whether it is no answer, where it is too much, so that nobody waits for it."""
        return _SAYS.match(self._first) is not None


def pieces(data: bytes) -> Generator[bytes]:
    """Return the same in pieces."""
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE]


def legible(data: bytes) -> bytes:
    """Return a message with U+FFFD for halves of letters, which servers cut in two, and no mark of bytes before it.

    A large one is returned as it is.
    """
    if len(data) > LARGE:
        return data
    return mend(data if data.isascii() else data.decode("utf-8-sig", "replace").encode())


def answers(data: bytes) -> int | str | None:
    """Return the id of the request that something answers, as its beginning says, though it cannot be read."""
    return _id(_FIRST.match(data[:ENDS]))


def _id(found: re.Match[bytes] | None) -> int | str | None:
    try:
        return msgspec.json.decode(found[1], type=int | str) if found else None
    except ValueError:  # bytes that no text holds
        return None


def is_message(data: bytes) -> bool:
    """Tell whether something is a message."""
    try:
        jsonrpc_message_adapter.validate_json(data, by_name=False)
    except ValueError:
        return False
    return True


def failure(id: int | str, code: int, said: str) -> JSONRPCError:
    """Return a failure of ours that stands for an answer.

    Args:
        id: Of the request.
        code: What kind it is of.
        said: In words.
    """
    return JSONRPCError(jsonrpc="2.0", id=id, error=ErrorData(code=code, message=said))


def too_much(id: int | str, fault: str) -> JSONRPCError:
    """Return the failure that stands for an answer.

    Args:
        id: Of the request.
        fault: Why it is too much.
    """
    return failure(id, NOT_TAKEN, told_of(fault))


def told_of(fault: str) -> str:
    """Return what a model is told of an answer that is too much."""
    return f"its answer is not taken: {fault}; ask it for less"
