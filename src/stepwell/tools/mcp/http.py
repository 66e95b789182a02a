"""A server at an address, over streamable HTTP, with bounds on what it may answer.

Requests go to that address alone: no proxy of the environment is used, and the SDK follows redirects within it only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Protocol
from weakref import WeakValueDictionary

import anyio
import httpx2
import msgspec
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types import METHOD_NOT_FOUND

from stepwell.errors import ToolError
from stepwell.tools.mcp.base import ServerSpec
from stepwell.tools.mcp.bearer import Bearer
from stepwell.tools.mcp.pace import Incoming, Outgoing, Spending
from stepwell.tools.mcp.streams import PART, EventStream, Exchange
from stepwell.tools.mcp.weight import (
    FORGOTTEN,
    LARGE,
    NO_LOGIN,
    NO_MESSAGE,
    NOT_TAKEN,
    Parts,
    failure,
    is_message,
    legible,
    told_of,
)

CONNECT, WRITE = 10.0, 30.0
"""Seconds to connect and to send; how long an answer may take is the call's business."""
GOODBYE = 2.0
"""Seconds that the end of a session may take, and what is told and not asked: the SDK sends nothing else meanwhile."""

_LENGTHS = ("content-length", "transfer-encoding")
_log = logging.getLogger("stepwell.mcp")


class _Named(msgspec.Struct, frozen=True, rename="camel"):
    request_id: int | str | None = None


class _Message(msgspec.Struct, frozen=True):
    """What tells which request a message is, answers or takes back."""

    method: str = ""
    id: int | str | None = None
    params: _Named = _Named()


_exchange: ContextVar[Exchange | None] = ContextVar("stepwell_mcp_exchange", default=None)
"""That of the task: the SDK opens in it, too, the streams in which an answer goes on."""


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


class _Bounded(httpx2.AsyncBaseTransport):
    """Sends requests, and lets no answer through that is too much.

    Args:
        spec: The server.
    """

    def __init__(self, spec: ServerSpec) -> None:
        self._name, self._inner = spec.name, httpx2.AsyncHTTPTransport()
        self._bearer = Bearer(spec, spec.login) if spec.login is not None else None
        self._hearing = Exchange(None)
        self._asked: WeakValueDictionary[int | str, Exchange] = WeakValueDictionary()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        told = _message(request.content) if request.method == "POST" else _Message()
        if told.method == "notifications/cancelled" and told.params.request_id is not None:
            if ended := self._asked.get(told.params.request_id):
                ended.end()
        exchange = self._of(request.method, told)
        if request.method == "GET":
            await exchange.turn()
            if exchange.over:
                return _stopped(exchange)
        tells = exchange.id is None and request.method != "GET"
        try:
            async with asyncio.timeout(GOODBYE if tells else None):
                return await exchange.waited(self._sent(request, exchange))
        except ToolError as error:  # there is no login
            return _instead(request.method, exchange, NO_LOGIN, str(error))
        except TimeoutError:
            if request.method == "DELETE":
                raise
            return _stopped(exchange) if exchange.id is not None else httpx2.Response(202)

    def _of(self, method: str, told: _Message) -> Exchange:
        """Return what a request of HTTP belongs to."""
        if method == "GET":
            return _exchange.get() or self._hearing
        exchange = Exchange(told.id if told.method else None)
        if exchange.id is not None:
            self._asked[exchange.id] = exchange
            _exchange.set(exchange)
        return exchange

    async def _sent(self, request: httpx2.Request, exchange: Exchange) -> httpx2.Response:
        response = await self._answered(request)
        if response.status_code in (401, 403):
            _log.warning("MCP server %s answers with status %d; look at its headers", self._name, response.status_code)
        # What is packed has no bounds once it is unpacked, and nothing packed was asked for.
        response.headers.pop("content-encoding", None)
        if not isinstance(response.stream, httpx2.AsyncByteStream):
            return response
        if response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            response.headers["content-type"] = "text/event-stream"  # in UTF-8, as events always are
            response.stream = EventStream(self._name, response.stream, exchange)
            return response
        return await self._whole(request, response, response.stream, exchange)

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
        self, request: httpx2.Request, response: httpx2.Response, stream: httpx2.AsyncByteStream, exchange: Exchange
    ) -> httpx2.Response:
        """Return an answer that comes in one piece when it is there, or the failure that stands for it."""
        body, spending = Parts(), Spending()
        try:
            async for part in stream:
                body.add(part)
                await spending.add(PART)
                if body.weight.fault:
                    break
        finally:
            await stream.aclose()
        whole, fault = legible(body.whole()), body.weight.fault
        if len(whole) > LARGE:
            fault = fault if is_message(whole) else NO_MESSAGE
            await asyncio.sleep(0)
        forgotten = response.status_code == 404 and "mcp-session-id" in request.headers
        if forgotten and str(METHOD_NOT_FOUND).encode() not in whole:
            return _instead(request.method, exchange, FORGOTTEN, "the session is not there any more")
        if fault:
            _log.warning("MCP server %s: an answer is not taken: %s", self._name, fault)
            return _instead(request.method, exchange, NOT_TAKEN, told_of(fault))
        if response.is_success and exchange.id is not None and _answers_another(whole, exchange.id):
            return _instead(request.method, exchange, NOT_TAKEN, "what it answers is another request")
        return _answer(response.status_code, response.headers, whole)

    async def aclose(self) -> None:
        await self._inner.aclose()


def _message(data: bytes) -> _Message:
    try:
        return msgspec.json.decode(data, type=_Message)
    except msgspec.MsgspecError:
        return _Message()


def _answers_another(data: bytes, id: int | str) -> bool:
    found = _message(data)
    return found != _Message() and not found.method and str(found.id) != str(id)


def _answer(status: int, headers: httpx2.Headers, body: bytes) -> httpx2.Response:
    kept = [(name, value) for name, value in headers.multi_items() if name.lower() not in _LENGTHS]
    return httpx2.Response(status, headers=kept, content=body)


def _instead(method: str, exchange: Exchange, code: int, said: str) -> httpx2.Response:
    """Return a failure in place of an answer."""
    if method != "POST" or exchange.id is None:
        return httpx2.Response(202 if method == "POST" else 405)
    content = failure(exchange.id, code, said).model_dump_json(by_alias=True).encode()
    return httpx2.Response(200, headers={"content-type": "application/json"}, content=content)


def _stopped(exchange: Exchange) -> httpx2.Response:
    """Return what has the SDK come back no more for what nobody waits for."""
    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=exchange.last)


@asynccontextmanager
async def over_http(spec: ServerSpec) -> AsyncGenerator[tuple[Incoming, Outgoing]]:
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
