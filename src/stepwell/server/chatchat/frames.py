"""How the old service framed events: `data: `, JSON with spaces, CRLF twice; a comment where nothing happens."""

from __future__ import annotations

import datetime
import json
from collections.abc import AsyncGenerator
from typing import Any

Event = dict[str, Any]
"""One event as old clients read it."""


def frame(event: Event) -> bytes:
    """Return an event as one frame."""
    return b"data: %s\r\n\r\n" % text_of(event)


def text_of(event: Event) -> bytes:
    """Return an event as JSON text, written as Python's `json` writes it."""
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "replace")


def plain(text: str) -> bytes:
    """Return bare text as one frame, a `data:` for each of its lines."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return b"".join(b"data: %s\r\n" % line.encode("utf-8", "replace") for line in lines) + b"\r\n"


def ping() -> bytes:
    """Return the comment that keeps a connection open."""
    return f": ping - {datetime.datetime.now(datetime.UTC).replace(tzinfo=None)}\r\n\r\n".encode()


async def streamed(events: AsyncGenerator[Event | None]) -> AsyncGenerator[bytes]:
    """Yield each event as a write of its own, None as a comment."""
    # Old clients take each read of the socket for one event.
    async for event in events:
        yield ping() if event is None else frame(event)
