"""A server at an address: streamable HTTP, with bounds on what it may answer.

Requests go to that address alone: no proxy of the environment is used, and the SDK follows redirects within it only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
import httpx2
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage

from stepwell.tools.mcp.base import MOST_MESSAGE, ServerSpec
from stepwell.tools.mcp.pace import Incoming, Outgoing

CONNECT, WRITE = 10.0, 30.0
"""Seconds to connect and to send; how long an answer may take is the call's business."""
GOODBYE = 2.0
"""Seconds that the end of a session may take."""

_log = logging.getLogger("stepwell.mcp")


class _Source(Protocol):
    async def receive(self) -> SessionMessage | Exception: ...


class _Answers(Incoming):
    """The messages of a server over HTTP.

    Args:
        inner: What the SDK's transport yields.
    """

    def __init__(self, inner: _Source) -> None:
        super().__init__()
        self._inner = inner

    async def take(self) -> SessionMessage | Exception | None:
        """Return the next message."""
        try:
            return await self._inner.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            return None


class _Body(httpx2.AsyncByteStream):
    """A body that ends with an error where it is too long."""

    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._inner:
            size += len(part)
            if size > MOST_MESSAGE:
                raise httpx2.ReadError(f"the answer has more than {MOST_MESSAGE} bytes")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Bounded(httpx2.AsyncBaseTransport):
    """Sends requests, and bounds answers that come in one piece; events of a stream are bounded by the SDK.

    Args:
        name: Of the server.
    """

    def __init__(self, name: str) -> None:
        self._name, self._inner = name, httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        # The last word of a session must not wait for a server that hangs.
        async with asyncio.timeout(GOODBYE if request.method == "DELETE" else None):
            response = await self._inner.handle_async_request(request)
        if response.status_code in (401, 403):
            _log.warning("MCP server %s answers with status %d; look at its headers", self._name, response.status_code)
        # What is packed has no bounds once it is unpacked, and nothing packed was asked for.
        response.headers.pop("content-encoding", None)
        streams = response.headers.get("content-type", "").lower().startswith("text/event-stream")
        if not streams and isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _Body(response.stream)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


@asynccontextmanager
async def address(spec: ServerSpec) -> AsyncGenerator[tuple[Incoming, Outgoing]]:
    """Speak to a server over HTTP while the block runs.

    Args:
        spec: The server.
    """
    timeout = httpx2.Timeout(None, connect=CONNECT, write=WRITE)
    headers = {"accept-encoding": "identity", **spec.headers}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout, transport=_Bounded(spec.name), trust_env=False) as client,
        streamable_http_client(spec.url, http_client=client, max_sse_event_size=MOST_MESSAGE) as (read, write),
    ):
        yield _Answers(read), write
