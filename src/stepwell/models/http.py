"""POST requests to one endpoint, for replies that stream: over the connections and the parser of aiohttp.

Its pool, TLS, name look-up and HTTP parser are used as they are. Left out is what its session does for each request
and ours never need: cookies, redirects, forms, a task that sends the body. And as a stream has a chunk for every token,
reads make no new timers, and the parser is asked to go on only where it was stopped. Some of what is called here is no
public part of aiohttp, so `pyproject.toml` names the releases that fit. This is no client for anything else, and it
knows no protocol of models.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy
from yarl import URL

_FORBIDDEN = re.compile("[\0-\x08\x0a-\x1f\x7f]")
_FRAMING = ("content-length", "transfer-encoding")
"""Headers that say how long a body is: each request has its own."""
_TAKEN_AT_ONCE = 64 * 1024
"""Bytes of a body of which no part is left here when its answer comes, whatever the answer."""


class Client:
    """Sends requests to one address; made inside the event loop that uses it.

    Args:
        url: The address.
        headers: Of every request.
        connect: The most seconds until there is a connection.
        silence: The most seconds for which the other side may say nothing while somebody waits for it.

    Raises:
        ValueError: A header cannot be sent, or the address and a header both say who asks.
    """

    def __init__(self, url: URL, headers: Mapping[str, str], connect: float, silence: float) -> None:
        loop = asyncio.get_running_loop()
        if url.user and any(name.lower() == "authorization" for name in headers):
            raise ValueError(
                "the address has a user and a password, and there is a key or a header that authorizes, too"
            )
        self._timeout, self._silence = aiohttp.ClientTimeout(connect=connect), silence
        # Never sent: it tells the pool where to connect, and what headers there are besides ours.
        self._target = aiohttp.ClientRequest("POST", url, headers=headers, loop=loop)
        self._head = _head(self._target.url.raw_path_qs, self._target.headers)
        self._connector = _Connector(loop)

    async def post(self, body: Sequence[bytes | bytearray]) -> Response:
        """Send a request and return its response as soon as its head is there.

        Args:
            body: The parts of the body, in order.

        Raises:
            aiohttp.ClientError: There is no connection, or it broke, or what came is no HTTP.
            TimeoutError: Nothing came in time.
        """
        connection = await self._connect()
        try:
            handler = connection.protocol
            assert isinstance(handler, _Handler)
            handler.begin(self._silence)
            if handler.transport is None:
                raise aiohttp.ServerDisconnectedError()
            # A body that the other side does not take at once waits in the transport: it may be answered before.
            size = sum(map(len, body))
            handler.transport.write(b"".join((self._head, b"%d\r\n\r\n" % size, *body)))
            message, payload = await handler.head()
            if message.code >= 400 and size > _TAKEN_AT_ONCE:
                handler.force_close()  # who refuses a request need not have read it
        except HttpProcessingError as error:
            connection.close()
            raise aiohttp.ClientPayloadError(f"the response is no HTTP: {error.message}") from error
        except BaseException:
            connection.close()
            raise
        return Response(connection, message.code, message.headers, payload)

    async def _connect(self) -> Connection:
        try:
            while True:
                connection = await self._connector.connect(self._target, [], self._timeout)
                handler = connection.protocol
                if not (isinstance(handler, _Handler) and handler.used and handler.should_close):
                    return connection
                connection.close()  # something came over it that nobody had asked for
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError(f"no connection within {self._timeout.connect:g} s") from error

    async def close(self) -> None:
        """Close all connections."""
        await self._connector.close()


def _head(path: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request, up to its length."""
    others = [f"{name}: {value}" for name, value in headers.items() if name.lower() not in _FRAMING]
    lines = [f"POST {path} HTTP/1.1", *others, "Content-Length: "]
    if any(map(_FORBIDDEN.search, lines)):
        raise ValueError("a header has a line break or another control character in it")
    return "\r\n".join(lines).encode()


class Response:
    """The head of a response, and its body as it comes.

    Attributes:
        status: The HTTP status.
        headers: Its headers.
    """

    __slots__ = ("_connection", "_payload", "headers", "status")

    def __init__(
        self, connection: Connection, status: int, headers: CIMultiDictProxy[str], payload: StreamReader
    ) -> None:
        self.status, self.headers, self._payload = status, headers, payload
        self._connection: Connection | None = connection
        payload.on_eof(self._release)

    async def read(self) -> bytes:
        """Return what has come of the body; nothing at its end.

        Raises:
            aiohttp.ClientError: The connection broke.
            TimeoutError: Nothing came in time.
        """
        payload, connection = self._payload, self._connection
        if (error := payload.exception()) is not None:
            raise error
        if connection is None:  # all of it is here, if there is any, and the connection may be another's by now
            return _taken(payload) if payload.total_bytes else b""
        handler = connection.protocol
        assert isinstance(handler, _Handler)
        handler.start_timeout()
        while not (payload._buffer or payload._eof):  # pyright: ignore[reportPrivateUsage]
            waiter = payload._waiter = asyncio.get_running_loop().create_future()  # pyright: ignore[reportPrivateUsage]
            try:
                await waiter
            finally:
                payload._waiter = None  # pyright: ignore[reportPrivateUsage]
        data = _taken(payload)
        if self._connection is not None:
            handler.heard = None
            handler.resume_reading()
        return data

    @property
    def whole(self) -> bool:
        """Whether nothing more can come: the body has ended, or the response is closed."""
        return self._connection is None

    def when_whole(self, tell: Callable[[], None]) -> None:
        """Call something at the end of the body."""
        self._payload.on_eof(tell)

    def close(self) -> None:
        """Close the connection, unless it is back in the pool."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if connection.transport is None or connection.transport.get_write_buffer_size():
            connection.close()  # it answered before it had the whole request
        else:
            connection.release()


def _taken(payload: StreamReader) -> bytes:
    """Take all that a payload holds; its own way looks at each HTTP chunk, and a stream has one for each token."""
    held, ends = payload._buffer, payload._http_chunk_splits  # pyright: ignore[reportPrivateUsage]
    data = held[0] if len(held) == 1 else b"".join(held)
    held.clear()
    if ends:
        ends.clear()
    payload._size, payload._cursor = 0, payload.total_bytes  # pyright: ignore[reportPrivateUsage]
    return data


class _Handler(ResponseHandler):
    """One connection.

    Attributes:
        heard: When its peer was heard last, or somebody began to wait for it; None while nobody does, and then it may
            be silent as long as it likes.
        used: Whether a request went over it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.heard: float | None = None
        self.used = self._stopped = False

    def begin(self, silence: float) -> None:
        """Make ready for the response to the next request."""
        self.set_response_params(read_until_eof=True, read_timeout=silence)
        self.used, self._stopped = True, False

    async def head(self) -> tuple[RawResponseMessage, StreamReader]:
        """Return the head of the response and its body to come; interim ones are left out."""
        while True:
            self.start_timeout()
            message, payload = await self.read()
            if message.code >= 200 or message.code == 101:
                self.heard = None
                return message, payload

    def start_timeout(self) -> None:
        """Begin to wait for the peer; the timer of an earlier wait goes on, and looks again when it is over."""
        timeout = self._read_timeout
        if timeout:
            self.heard = self._loop.time()
            if self._read_timeout_handle is None:
                self._read_timeout_handle = self._loop.call_later(timeout, self._look)

    def pause_reading(self) -> None:
        """Stop the parser and the socket: nobody takes what they bring."""
        self._stopped = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Let the parser and the socket go on, if they were ever told to stop: the parser may hold something since."""
        if self._stopped:
            super().resume_reading(resume_parser)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """Tell whoever waits what broke, also in the middle of a body."""
        payload = self._payload
        super().set_exception(exc, exc if exc_cause is None else exc_cause)
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            no_http = isinstance(exc, HttpProcessingError)
            payload.set_exception(aiohttp.ClientPayloadError(f"it is no HTTP: {exc.message}") if no_http else exc)

    def eof_received(self) -> None:
        """Go on waiting: the peer has said all, and the read time-out ends it if the connection does not."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Take note that nothing more will come."""
        super().connection_lost(exc)
        super()._drop_timeout()

    def close(self) -> None:
        """Close the connection at once, whatever the peer has not taken yet, and tell who reads from it."""
        payload, transport = self._payload, self.transport
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(aiohttp.ClientConnectionError("the connection was closed here"))
        if transport is not None and (transport.get_write_buffer_size() or transport.get_extra_info("sslcontext")):
            self.abort()  # a transport would wait for the rest to be taken, and under TLS for an answer
        else:
            super().close()

    def _reschedule_timeout(self) -> None:
        if self.heard is not None:
            self.heard = self._loop.time()

    def _drop_timeout(self) -> None:
        self.heard = None

    def _look(self) -> None:
        self._read_timeout_handle = None
        if self.heard is None or not self._read_timeout:
            return
        due = self.heard + self._read_timeout
        if self._loop.time() < due:
            self._read_timeout_handle = self._loop.call_at(due, self._look)
        else:
            self.heard = None
            self._on_read_timeout()


class _Connector(aiohttp.TCPConnector):
    """A pool without a limit: a slow stream holds its connection as long as it lasts."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=0)  # pyright: ignore[reportUnknownMemberType]
        self._factory = partial(_Handler, loop=loop)

    async def _wrap_create_connection(
        self, *args: Any, addr_infos: list[Any], **kwargs: Any
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        """Leave a connection to the only address there is to the loop: nothing has to be raced."""
        family, _, _, _, address = addr_infos[0]
        if len(addr_infos) > 1 or family != socket.AF_INET:
            return await super()._wrap_create_connection(*args, addr_infos=addr_infos, **kwargs)  # pyright: ignore
        return await self._wrap_existing_connection(*args, host=address[0], port=address[1], **kwargs)
