"""Server-sent events: frames, headers, and the response that streams them.

https://html.spec.whatwg.org/multipage/server-sent-events.html. What the frames say is each face's business.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing

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


async def watched(batches: AsyncGenerator[list[Item]], caller: Caller, run: int = 0) -> AsyncGenerator[list[Item]]:
    """Yield batches as they come, an empty one for each heartbeat.

    Ends after the `RunEnded` of `run`, if it is given, and as soon as the caller's key is found to be revoked.

    Args:
        batches: What `RunService.follow` yields.
        caller: Who listens.
        run: Number of the run; 0 follows the thread without end.
    """
    due = time.monotonic() + RECHECK
    async with aclosing(batches):
        async for items in batches:
            if time.monotonic() > due:
                if not await caller.still_good():
                    return
                due = time.monotonic() + RECHECK
            end = _end(items, run) if run else None
            yield items if end is None else items[: end + 1]
            if end is not None:
                return


def _end(items: list[Item], run: int) -> int | None:
    """Return the place of the run's end among items."""
    for index, item in enumerate(items):
        if item.run == run and item.ends_run:
            return index
    return None
