"""Responses that tell when they are over, so that a run can end with the connection of the client that asked for it.

What is done then is the business of `chat.py` and `responses.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from fastapi import Response
from starlette.types import Receive, Scope, Send

from stepwell.server import sse

Leave = Callable[[], Awaitable[None]]
"""Told that a response is over, whatever ended it."""


class Streamed(sse.EventStream):
    """A stream that tells when it is over, even where nothing of it was sent.

    Args:
        frames: One write each.
        headers: Of the response, besides those of all streams.
        leave: Called at the end.
    """

    def __init__(self, frames: AsyncGenerator[bytes], headers: dict[str, str], leave: Leave) -> None:
        super().__init__(frames, headers, sse.Direct())
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._leave()


class Awaited(Response):
    """A response that is made while the client waits; it is given up when the client goes.

    Args:
        make: Makes it.
        leave: Called when it is made, or will not be.
    """

    def __init__(self, make: Callable[[], Awaitable[Response]], leave: Leave) -> None:
        super().__init__()
        self._make, self._leave = make, leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        making, gone = asyncio.ensure_future(self._make()), asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((making, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (making, gone):
                task.cancel()
            await asyncio.wait((making, gone))
            await self._leave()
        if not making.cancelled():
            await making.result()(scope, receive, send)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
