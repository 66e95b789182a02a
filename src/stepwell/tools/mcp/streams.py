"""Streams of events of a server over HTTP: each event comes when it is whole, and nobody reads on for nobody.

The SDK opens a stream again as soon as the server says so, and reads on after a call was given up; both end here.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from typing import TypeVar

import httpx2
from mcp_types import JSONRPCError

from stepwell.tools.mcp.base import MOST_PASSED_OVER
from stepwell.tools.mcp.pace import Incoming, Spending
from stepwell.tools.mcp.weight import (
    GIVEN_UP,
    LARGE,
    NO_MESSAGE,
    Parts,
    failure,
    is_message,
    legible,
    pieces,
    too_much,
)

AGAIN = 0.5
"""Seconds between two times that a stream is opened, whatever the server says of it."""
PART, EVENT, BYTE = 2e-5, 2e-5, 5e-9
"""Seconds that a part of an answer takes, however small, an event, also one that says nothing, and a byte."""

_BLANK = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
"""Where an event ends."""

T = TypeVar("T")
_log = logging.getLogger("stepwell.mcp")


class Exchange:
    """What is sent and read for one request, or to hear what answers none.

    Args:
        id: Of the request; None for none.
    """

    def __init__(self, id: int | str | None) -> None:
        self.id, self.over = id, False
        self._waiting: asyncio.Timeout | None = None
        self._next = 0.0

    def end(self) -> None:
        """Have nobody wait any more."""
        self.over = True
        if self._waiting is not None:
            with suppress(RuntimeError):  # what was waited for came at this very moment
                self._waiting.reschedule(0.0)

    @property
    def last(self) -> bytes:
        """The event after which the SDK reads no more for it, and does not come back."""
        return _event(failure(self.id, GIVEN_UP, "nobody waits for it")) if self.id is not None else b""

    async def waited(self, coming: Awaitable[T]) -> T:
        """Return what comes.

        Args:
            coming: It.

        Raises:
            TimeoutError: Nobody waits for it any more.
        """
        try:
            async with asyncio.timeout(0.0 if self.over else None) as self._waiting:
                return await coming
        finally:
            self._waiting = None

    async def turn(self) -> None:
        """Wait until its stream may be opened again."""
        now = asyncio.get_running_loop().time()
        begins = max(now, self._next)
        self._next = begins + AGAIN
        await asyncio.sleep(begins - now)


class EventStream(httpx2.AsyncByteStream):
    """A stream of events, each of which comes when it is whole; a failure stands for one that is too much.

    Args:
        name: Of the server.
        inner: The stream.
        exchange: What it is read for.
    """

    def __init__(self, name: str, inner: httpx2.AsyncByteStream, exchange: Exchange) -> None:
        self._name, self._inner, self._exchange = name, inner, exchange
        self._event = Parts()
        self._end, self._spending = b"", Spending()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = aiter(self._inner)
        while (part := await self._read(parts)) is not None:
            if self._event.weight.size > MOST_PASSED_OVER:
                raise httpx2.ReadError(f"an event has more than {MOST_PASSED_OVER} bytes")
            seam = len(self._end)
            found = _BLANK.search(self._end + part)
            self._end = (self._end + part)[-3:]
            if found is None:
                self._event.add(part)
                if self._event.weight.fault and self._exchange.id is not None:
                    break
                continue
            cut = max(found.end() - seam, 0)
            self._event.add(part[:cut])
            event, self._event = self._event, Parts()
            async for piece in self._told(event):
                yield piece
            *more, rest = _BLANK.split(part[cut:])
            await self._spending.add((1 + len(more)) * EVENT)
            if whole := part[cut : len(part) - len(rest)]:
                yield legible(whole)
            self._event.add(rest)
        if self._exchange.over:
            yield self._exchange.last
            return
        async for piece in self._told(self._event):
            yield piece

    async def _read(self, parts: AsyncIterator[bytes]) -> bytes | None:
        """Return what comes next; None at the end, and where nobody waits for it."""
        try:
            part = await self._exchange.waited(anext(parts))
        except (StopAsyncIteration, TimeoutError):
            return None
        await self._spending.add(PART + len(part) * BYTE)
        return part

    async def _told(self, event: Parts) -> AsyncIterator[bytes]:
        weight = event.weight
        fault = weight.fault
        if weight.size > LARGE and not fault and not is_message(_data(event.whole())):
            fault = NO_MESSAGE
        if fault:
            _log.warning("MCP server %s: an event of %d bytes is not taken: %s", self._name, weight.size, fault)
            if (id := self._exchange.id) is not None:
                yield _event(too_much(id, fault))
            return
        for piece in pieces(legible(event.whole())):
            await asyncio.sleep(0)
            yield piece
        await Incoming.spend(weight.seconds)

    async def aclose(self) -> None:
        """Read no more."""
        await self._inner.aclose()


def _event(message: JSONRPCError) -> bytes:
    return b"event: message\ndata: " + message.model_dump_json(by_alias=True).encode() + b"\n\n"


def _data(event: bytes) -> bytes:
    lines = [line.removeprefix(b"data:") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(line.removeprefix(b" ") for line in lines)
