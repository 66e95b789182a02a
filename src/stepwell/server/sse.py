"""Server-sent events: frames, headers, and the response that streams them.

https://html.spec.whatwg.org/multipage/server-sent-events.html. What the frames say is each face's business.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import NamedTuple

from fastapi.responses import StreamingResponse

from stepwell.runs.channel import Item, place_of
from stepwell.server.auth import Caller

HEARTBEAT = 15.0
"""Seconds between two comments on a quiet stream."""
RECHECK = 30.0
"""Seconds after which an open stream's key is looked at again."""

HEADERS = {"cache-control": "no-cache", "connection": "keep-alive", "x-accel-buffering": "no"}


def frame(item: Item) -> bytes:
    """Return a stored or transient event as one frame of the native stream."""
    return b"id: %s\ndata: %s\n\n" % (str(place_of(item)).encode(), item.to_json())


def error_frame(message: bytes) -> bytes:
    """Return a frame that tells why a stream ends; `message` is a JSON object."""
    return b"event: error\ndata: %s\n\n" % message


def response(body: AsyncIterable[bytes], headers: dict[str, str] | None = None) -> StreamingResponse:
    """Return the response that streams frames."""
    return StreamingResponse(body, media_type="text/event-stream", headers={**HEADERS, **(headers or {})})


class Until(NamedTuple):
    """Where a stream ends.

    Args:
        run: With the end of the run of this number; 0 follows the thread without end.
        last: Number of the thread's newest event where that run is over already, else 0.
    """

    run: int = 0
    last: int = 0


async def watched(batches: AsyncGenerator[list[Item]], caller: Caller, until: Until) -> AsyncGenerator[list[Item]]:
    """Yield batches as they come, an empty one for each heartbeat.

    Ends where `until` says and as soon as the caller's key is found to be revoked.

    Args:
        batches: What `RunService.follow` yields.
        caller: Who listens.
        until: Where the stream ends.
    """
    due = time.monotonic() + RECHECK
    async with aclosing(batches):
        async for items in batches:
            if time.monotonic() > due:
                if not await caller.still_good():
                    return
                due = time.monotonic() + RECHECK
            end = _end(items, until)
            if end is None:
                yield items
                continue
            if end:
                yield items[:end]
            return


def _end(items: list[Item], until: Until) -> int | None:
    """Return how many of the items are part of the stream, or None where it goes on after them."""
    if not until.run:
        return None
    for index, item in enumerate(items):
        if item.run > until.run:
            return index
        if (item.run == until.run and item.ends_run) or item.seq == until.last:
            return index + 1
    return None
