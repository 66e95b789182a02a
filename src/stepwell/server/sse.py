"""Server-sent events: frames, headers, and the response that streams them.

https://html.spec.whatwg.org/multipage/server-sent-events.html. What the frames say is each face's business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, suppress
from typing import Any, Literal, NamedTuple

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stepwell.runs.channel import Item, Piece
from stepwell.server.auth import Caller

HEARTBEAT = 15.0
"""Seconds between two comments on a quiet stream."""
RECHECK = 30.0
"""Seconds after which an open stream's key is looked at again."""

_HEAD = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
)


def frame(item: Item) -> bytes:
    """Return a stored or transient event as one frame of the native stream; its id is the `Cursor` after it."""
    if isinstance(item, Piece):
        return b"id: %d.%d\ndata: %s\n\n" % (item.seq, item.offset, item.to_json())
    return b"id: %d\ndata: %s\n\n" % (item.seq, item.to_json())


def error_frame(message: bytes) -> bytes:
    """Return a frame that tells why a stream ends; `message` is a JSON object."""
    return b"event: error\ndata: %s\n\n" % message


def response(
    frames: AsyncGenerator[bytes], headers: dict[str, str] | None = None, direct: Direct | None = None
) -> Response:
    """Return the response that streams frames."""
    return EventStream(frames, headers or {}, direct or Direct())


class Direct:
    """Writes what happens straight to the socket, in the turn of the loop in which it happens.

    That saves a switch of tasks for each piece of text. While the socket is full, and for what may end the
    stream, it leaves the writing to the stream's own task.
    """

    def __init__(self) -> None:
        self.send: Send | None = None
        self._rest: _Rest | None = None

    def take(self, items: list[Item]) -> Literal["taken", "left", "full"]:
        """Write events if the socket takes them now; see `channel.Eager`."""
        if self.send is None or self._rest is not None:
            return "left"
        for item in items:
            if item.ends_run:
                return "left"
        body = frame(items[0]) if len(items) == 1 else b"".join(map(frame, items))
        steps = self.send({"type": "http.response.body", "body": body, "more_body": True}).__await__()
        try:
            blocked_by = next(steps)
        except StopIteration:
            return "taken"
        except Exception:  # it is the stream's to fail, not the run's that is writing here
            return "left"
        self._rest = _Rest(steps, blocked_by)
        return "full"

    async def finish(self) -> None:
        """Wait for a write that the socket did not take at once."""
        rest, self._rest = self._rest, None
        if rest is not None:
            await rest


class _Rest:
    """The rest of an awaitable that was begun outside a task and waits for something."""

    def __init__(self, steps: Generator[Any, Any, None], blocked_by: object) -> None:
        self._steps, self._blocked_by = steps, blocked_by

    def __await__(self) -> Generator[Any, Any, None]:
        blocked_by = self._blocked_by
        while True:
            try:
                value = yield blocked_by
            except BaseException as error:  # whatever wakes the task is for the awaitable, a cancellation too
                step, given = self._steps.throw, error
            else:
                step, given = self._steps.send, value
            try:
                blocked_by = step(given)
            except StopIteration:
                return


class EventStream(Response):
    """Writes frames as they are made and stops when the client goes; whatever makes them goes on.

    Args:
        frames: One write each.
        headers: Of the response, in small letters, besides those of all streams.
        direct: Writes between the frames.
    """

    def __init__(self, frames: AsyncGenerator[bytes], headers: dict[str, str], direct: Direct) -> None:
        self.status_code, self.background, self.body = 200, None, b""
        self.raw_headers = [
            *_HEAD,
            *((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()),
        ]
        self._frames, self._direct, self._over = frames, direct, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        task = asyncio.current_task()
        watching = asyncio.ensure_future(self._watch(receive, task))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            # What the application puts around `send` looks for the head only, and would cost three calls a token.
            send = self._direct.send = scope.get("state", {}).get("send", send)
            async with aclosing(self._frames) as frames:
                async for data in frames:
                    await self._direct.finish()
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            await self._direct.finish()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except asyncio.CancelledError:
            if not watching.done() or task is None or task.uncancel():
                raise
            await send({"type": "http.response.body", "body": b"", "more_body": False})  # heard if the client is there
        finally:
            self._over, self._direct.send = True, None
            watching.cancel()

    async def _watch(self, receive: Receive, task: asyncio.Task[None] | None) -> None:
        with suppress(HTTPException):  # the rest of a body that nobody reads is too long, or does not come
            while (await receive())["type"] != "http.disconnect":
                pass
        if task is not None and not self._over:
            task.cancel()


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
