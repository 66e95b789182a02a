"""A server at an address: streamable HTTP, with bounds on what it may answer.

Requests go to that address alone: no proxy of the environment is used, and the SDK follows redirects within it only.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
import httpx2
import msgspec
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types import METHOD_NOT_FOUND

from stepwell.errors import ToolError
from stepwell.tools.mcp.base import MOST_PASSED_OVER, ServerSpec
from stepwell.tools.mcp.bearer import Bearer
from stepwell.tools.mcp.pace import Incoming, Outgoing
from stepwell.tools.mcp.weight import (
    FORGOTTEN,
    LARGE,
    NO_LOGIN,
    TOO_MUCH,
    Parts,
    failure,
    is_message,
    too_much,
    words_of,
)

CONNECT, WRITE = 10.0, 30.0
"""Seconds to connect and to send; how long an answer may take is the call's business."""
GOODBYE = 2.0
"""Seconds that the end of a session may take, and what is told and not asked: the SDK sends nothing else meanwhile."""

NONE = "it is no message"
"""Why a large answer is not taken that is none."""
_LENGTHS = ("content-length", "transfer-encoding")
_BLANK = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
"""Where an event ends."""

_log = logging.getLogger("stepwell.mcp")


class _Asked(msgspec.Struct):
    id: int | str | None = None


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


class _Events(httpx2.AsyncByteStream):
    """A stream of events, each of which comes when it is whole; a failure stands for one that is too much.

    Args:
        name: Of the server.
        inner: The stream.
        id: Of the request that it answers; None for none.
    """

    def __init__(self, name: str, inner: httpx2.AsyncByteStream, id: int | str | None) -> None:
        self._name, self._inner, self._id = name, inner, id
        self._event = Parts()
        self._end = b""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            if self._event.weight.size > MOST_PASSED_OVER:
                raise httpx2.ReadError(f"an event has more than {MOST_PASSED_OVER} bytes")
            seam = len(self._end)
            found = _BLANK.search(self._end + part)
            self._end = (self._end + part)[-3:]
            if found is None:
                self._event.add(part)
                if self._event.weight.fault and self._id is not None:
                    break
                continue
            cut = max(found.end() - seam, 0)
            self._event.add(part[:cut])
            event, self._event = self._event, Parts()
            async for piece in self._told(event):
                yield piece
            *_, rest = _BLANK.split(part[cut:])
            if whole := part[cut : len(part) - len(rest)]:
                yield whole
            self._event.add(rest)
        async for piece in self._told(self._event):
            yield piece

    async def _told(self, event: Parts) -> AsyncIterator[bytes]:
        weight = event.weight
        fault = weight.fault
        if weight.size > LARGE and not fault and not is_message(_data(event.whole())):
            fault = NONE
        if fault:
            _log.warning("MCP server %s: an event of %d bytes is not taken: %s", self._name, weight.size, fault)
            if self._id is not None:
                yield (
                    b"event: message\ndata: "
                    + too_much(self._id, fault).model_dump_json(by_alias=True).encode()
                    + b"\n\n"
                )
            return
        for piece in event.pieces():
            await asyncio.sleep(0)
            yield piece
        await Incoming.spend(weight.seconds)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Bounded(httpx2.AsyncBaseTransport):
    """Sends requests, and lets no answer through that is too much.

    Args:
        spec: The server.
    """

    def __init__(self, spec: ServerSpec) -> None:
        self._name, self._inner = spec.name, httpx2.AsyncHTTPTransport()
        self._bearer = Bearer(spec, spec.login) if spec.login is not None else None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        tells = request.method == "POST" and _id_of(request) is None
        try:
            async with asyncio.timeout(GOODBYE if tells or request.method == "DELETE" else None):
                return await self._sent(request)
        except ToolError as error:  # there is no login
            return _instead(request, NO_LOGIN, str(error))
        except TimeoutError:
            if tells:
                return httpx2.Response(202)
            raise

    async def _sent(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._answered(request)
        if response.status_code in (401, 403):
            _log.warning("MCP server %s answers with status %d; look at its headers", self._name, response.status_code)
        # What is packed has no bounds once it is unpacked, and nothing packed was asked for.
        response.headers.pop("content-encoding", None)
        if not isinstance(response.stream, httpx2.AsyncByteStream):
            return response
        if response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            response.headers["content-type"] = "text/event-stream"  # in UTF-8, as events always are
            response.stream = _Events(self._name, response.stream, _id_of(request))
            return response
        return await self._whole(request, response, response.stream)

    async def _answered(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request with the token of the login, and once more with a new one where it is not taken.

        Raises:
            ToolError: There is no login that is taken.
        """
        if self._bearer is None:
            return await self._inner.handle_async_request(request)
        token = await self._bearer.token()
        for again in (False, True):
            request.headers["authorization"] = f"Bearer {token}"
            response = await self._inner.handle_async_request(request)
            if response.status_code != 401:
                return response
            await response.aclose()
            if not again:
                token = await self._bearer.token(refused=token)
        raise ToolError(f"it does not take the login; run `stepwell mcp login {self._name}`")

    async def _whole(
        self, request: httpx2.Request, response: httpx2.Response, stream: httpx2.AsyncByteStream
    ) -> httpx2.Response:
        """Return an answer that comes in one piece when it is there, or the failure that stands for it."""
        body = Parts()
        try:
            async for part in stream:
                body.add(part)
                if body.weight.fault:
                    break
        finally:
            await stream.aclose()
        whole, fault = body.whole(), body.weight.fault
        if len(whole) > LARGE:
            fault = fault if is_message(whole) else NONE
            await asyncio.sleep(0)
        forgotten = response.status_code == 404 and "mcp-session-id" in request.headers
        if forgotten and str(METHOD_NOT_FOUND).encode() not in whole:
            return _instead(request, FORGOTTEN, "the session is not there any more")
        if not fault:
            return _answer(response.status_code, response.headers, whole)
        _log.warning("MCP server %s: an answer is not taken: %s", self._name, fault)
        return _instead(request, TOO_MUCH, words_of(fault))

    async def aclose(self) -> None:
        await self._inner.aclose()


def _answer(status: int, headers: httpx2.Headers, body: bytes) -> httpx2.Response:
    kept = [(name, value) for name, value in headers.multi_items() if name.lower() not in _LENGTHS]
    return httpx2.Response(status, headers=kept, content=body)


def _instead(request: httpx2.Request, code: int, said: str) -> httpx2.Response:
    """Return a failure in place of an answer."""
    id = _id_of(request)
    if id is None:
        return httpx2.Response(202 if request.method == "POST" else 405)
    content = failure(id, code, said).model_dump_json(by_alias=True).encode()
    return httpx2.Response(200, headers={"content-type": "application/json"}, content=content)


def _data(event: bytes) -> bytes:
    lines = [line.removeprefix(b"data:") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(line.removeprefix(b" ") for line in lines)


def _id_of(request: httpx2.Request) -> int | str | None:
    """Return the id of the request of MCP in one of HTTP; None where nothing is asked."""
    if request.method != "POST":
        return None
    try:
        return msgspec.json.decode(request.content, type=_Asked).id
    except (msgspec.MsgspecError, httpx2.RequestNotRead):
        return None


@asynccontextmanager
async def address(spec: ServerSpec) -> AsyncGenerator[tuple[Incoming, Outgoing]]:
    """Speak to a server over HTTP while the block runs.

    Args:
        spec: The server.
    """
    timeout = httpx2.Timeout(None, connect=CONNECT, write=WRITE)
    headers = {"accept-encoding": "identity", **spec.headers}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout, transport=_Bounded(spec), trust_env=False) as client,
        streamable_http_client(spec.url, http_client=client, max_sse_event_size=None) as (read, write),
    ):
        yield _Answers(read), write
