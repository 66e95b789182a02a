"""Reads server-sent events out of bytes, however the network cut them.

It works on bytes and knows three line ends, CR, LF and CRLF, so that a U+2028 inside a JSON text ends
nothing (WHATWG HTML, "Server-sent events", 9.2.6). It keeps the `data` of events and drops all other
fields: chat-completions streams use nothing else. It is not a client: it neither connects nor reconnects.
"""

from __future__ import annotations

_BOM = b"\xef\xbb\xbf"

LIMIT = 32 * 1024 * 1024
"""The most bytes of one event: a whole reply in one line fits, a line without an end does not."""


class EventTooLong(ValueError):
    """An event of the stream is longer than the reader accepts."""


class SSEReader:
    """Cuts a byte stream into the data of its events.

    Args:
        limit: The most bytes that one event may have.
    """

    __slots__ = ("_after_cr", "_ends_line", "_first", "_held", "_limit", "_size")

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._held: list[bytes] = []
        self._size = 0
        self._after_cr = False
        self._ends_line = False
        self._first = True

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of the events that are whole now; an event without data is none.

        Raises:
            EventTooLong: If an event passed the limit.
        """
        if self._after_cr or b"\r" in data:
            data = self._unify(data)
        if not data:
            return []
        if self._held:
            if b"\n\n" not in data and not (self._ends_line and data.startswith(b"\n")):
                self._hold(data)
                return []
            data = b"".join((*self._held, data))
            self._held.clear()
            self._size = 0
        end = data.rfind(b"\n\n")
        if end < 0:
            self._hold(data)
            return []
        if end + 2 < len(data):
            self._hold(data[end + 2 :])
            data = data[: end + 2]
        if self._first:
            self._first = False
            data = data.removeprefix(_BOM)
        return _events(data)

    def close(self) -> list[bytes]:
        """Return the data of an event that the end of the stream cut before its blank line."""
        rest = b"".join(self._held)
        self._held.clear()
        payload = _data(rest.removeprefix(_BOM) if self._first else rest)
        return [] if payload is None else [payload]

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._ends_line = data.endswith(b"\n")
        self._size += len(data)
        if self._size > self._limit:
            raise EventTooLong(f"an event of the stream is longer than {self._limit} bytes")

    def _unify(self, data: bytes) -> bytes:
        """Make every line end an LF; a CR at the end of one read and an LF at the start of the next are one."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if data.endswith(b"\r"):
            self._after_cr = True
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _events(data: bytes) -> list[bytes]:
    """Return the data of the events in a text that ends with a blank line."""
    # The usual stream has one line an event: then each LF belongs to a separator and one split does it all.
    if data.startswith(b"data: "):
        payloads = data[6:-2].split(b"\n\ndata: ")
        if b"\n" not in b"".join(payloads):  # a search in one text is much cheaper than one in each
            return payloads
    return [payload for block in data.split(b"\n\n") if (payload := _data(block)) is not None]


def _data(block: bytes) -> bytes | None:
    """Return the joined data lines of one event, or None if it has none."""
    lines: list[bytes] = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
