"""A scripted OpenAI-compatible endpoint on loopback, for tests: real HTTP/1.1 over real sockets, no framework.

    async with Endpoint([text("Hel", "lo"), error(429, "slow down")]) as endpoint:
        model = OpenAIModel(endpoint.base_url, "m")

A script is a list of replies, used in order, or a function of the request. Leaving the block fails the test if
a list was over-used or under-used. A reply is a list of pieces: a dict is sent as one event, bytes as they are,
an `asyncio.Event` holds the reply until it is set, and `Cut` breaks or stalls it.
"""

from __future__ import annotations

import asyncio
import enum
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

DONE = b"data: [DONE]\n\n"
SSE = {"content-type": "text/event-stream; charset=utf-8"}
JSON = {"content-type": "application/json"}
WAIT = 10.0


class Cut(enum.Enum):
    """What becomes of the connection in the middle of a reply."""

    DROP = "closed in order"
    RESET = "reset"
    STALL = "kept open in silence until the client leaves"


Piece = dict[str, Any] | bytes | asyncio.Event | Cut


@dataclass(frozen=True)
class Reply:
    """One response.

    Args:
        pieces: What is sent, in order; each piece is a write and, when chunked, an HTTP chunk.
        status: HTTP status.
        headers: Besides those of the framing.
        framing: How the end of the body is marked.
        cut: Sends the body in HTTP chunks of so many bytes; 0 leaves the pieces as they are.
        together: Sends all of it in one write.
    """

    pieces: Sequence[Piece] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: SSE)
    framing: Literal["chunked", "length", "close"] = "chunked"
    cut: int = 0
    together: bool = False


@dataclass
class Request:
    """A request as it came.

    Args:
        path: With the query.
        headers: By name in lower case.
        raw: The body.
        connection: The number of its connection, from 0.
    """

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    connection: int
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when all of the reply was written."""
    dropped: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client closed the connection before the reply was over."""

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.raw)


Script = Iterable[Reply] | Callable[[Request], Reply | Awaitable[Reply]]


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """Return one chunk of a stream, whose delta has these fields."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def usage(prompt: int, completion: int, cached: int | None = None) -> dict[str, Any]:
    """Return the chunk that carries usage and no choice."""
    return {**chunk(), "choices": [], "usage": usage_field(prompt, completion, cached)}


def usage_field(prompt: int, completion: int, cached: int | None = None) -> dict[str, Any]:
    counted = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return counted if cached is None else {**counted, "prompt_tokens_details": {"cached_tokens": cached}}


def call_chunk(
    index: int | None, id: str | None = None, name: str | None = None, arguments: str | None = None
) -> dict[str, Any]:
    """Return a chunk with one piece of a tool call; what is None is left out."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    piece: dict[str, Any] = {"function": function}
    if index is not None:
        piece["index"] = index
    if id is not None:
        piece |= {"id": id, "type": "function"}
    return chunk(tool_calls=[piece])


def text(*tokens: str, thinking: Iterable[str] = (), finish: str = "stop", tokens_used: tuple[int, int] | None = None,
         cut: int = 0, together: bool = False) -> Reply:  # fmt: skip
    """Return a streamed answer."""
    pieces: list[Piece] = [chunk(role="assistant", content="")]
    pieces += [chunk(reasoning_content=token) for token in thinking]
    pieces += [chunk(content=token) for token in tokens]
    return stream(*pieces, *ending(finish, tokens_used), cut=cut, together=together)


def tool_calls(*calls: tuple[str, str, Sequence[str]], said: str = "", tokens_used: tuple[int, int] | None = None,
               cut: int = 0, together: bool = False) -> Reply:  # fmt: skip
    """Return a streamed reply that calls tools: each an id, a name and the pieces of its arguments."""
    pieces: list[Piece] = [chunk(role="assistant", content=said or None)]
    for index, (id, name, arguments) in enumerate(calls):
        pieces.append(call_chunk(index, id, name, ""))
        pieces += [call_chunk(index, arguments=piece) for piece in arguments]
    return stream(*pieces, *ending("tool_calls", tokens_used), cut=cut, together=together)


def ending(finish: str = "stop", tokens_used: tuple[int, int] | None = None) -> list[Piece]:
    """Return the end of a stream: finish reason, usage, `[DONE]`."""
    return [chunk(finish), *([usage(*tokens_used)] if tokens_used else []), DONE]


def stream(*pieces: Piece, cut: int = 0, together: bool = False) -> Reply:
    return Reply(pieces, cut=cut, together=together)


def whole(
    content: str | None, *, finish: str | None = "stop", tokens_used: tuple[int, int] = (1, 1), **message: Any
) -> Reply:
    """Return a `chat.completion` that is not streamed."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return document({"object": "chat.completion", "choices": [choice], "usage": usage_field(*tokens_used)})


def document(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Return a body that is not streamed: bytes as they are, else JSON."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Reply([data], status, {**JSON, **(headers or {})}, "length")


def error(status: int, message: str, *, headers: Mapping[str, str] | None = None, **fields: Any) -> Reply:
    """Return an error as OpenAI writes it; `fields` are its `type`, `code` and `param`."""
    return document({"error": {"message": message, **fields}}, status, headers)


class Endpoint:
    """The server; use it as an async context manager.

    Args:
        script: The replies in order, or a function of the request.
        strict: Whether leaving the block checks that a list was used up.
    """

    def __init__(self, script: Script, *, strict: bool = True) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        """How many connections were opened."""
        self.open: set[_Connection] = set()
        """Those that are open now."""
        self.base_url = ""
        self._script = script if callable(script) else None
        self._replies = [] if callable(script) else list(script)
        self._strict = strict
        self._missing = 0
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Endpoint:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=1024)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.base_url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._server.close()
        connections = list(self.open)
        for connection in connections:
            connection.stop()
        await asyncio.gather(*(connection.task for connection in connections), return_exceptions=True)
        if self._strict and kind is None and self._script is None:
            used, written = len(self.requests), len(self.requests) + len(self._replies)
            assert not self._replies, f"{len(self._replies)} of {written} replies were not used"
            assert not self._missing, f"{used} requests came for {used - self._missing} replies"

    async def request(self, number: int) -> Request:
        """Wait for the request with this number, from 0."""
        async with asyncio.timeout(WAIT), self._changed:
            await self._changed.wait_for(lambda: len(self.requests) > number)
        return self.requests[number]

    async def all_closed(self) -> None:
        """Wait until no connection is open."""
        async with asyncio.timeout(WAIT), self._changed:
            await self._changed.wait_for(lambda: not self.open)

    async def take(self, request: Request) -> Reply:
        """Record the request and return the reply that the script has for it."""
        self.requests.append(request)
        await self.notify()
        if self._script is not None:
            reply = self._script(request)
            return reply if isinstance(reply, Reply) else await reply
        if self._replies:
            return self._replies.pop(0)
        self._missing += 1
        return error(400, "the endpoint of this test has no reply left")

    async def notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class _Connection(asyncio.Protocol):
    """One connection of a client: reads requests, writes replies, one after the other."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._number = endpoint.connections
        endpoint.connections += 1
        self._buffer = bytearray()
        self._more = asyncio.Event()
        self._gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._endpoint.open.add(self)
        self.task = asyncio.create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._more.set()

    def eof_received(self) -> None:
        self._gone.set()
        self._more.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self._more.set()

    def stop(self) -> None:
        self._transport.abort()
        self.task.cancel()

    async def _serve(self) -> None:
        try:
            while (request := await self._read_request()) is not None:
                if not await self._answer(request, await self._endpoint.take(request)):
                    break
        finally:
            self._transport.close()
            self._endpoint.open.discard(self)
            await self._endpoint.notify()

    async def _read_request(self) -> Request | None:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not await self._wait_for_more():
                return None
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        method, path, _ = lines[0].split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        size = int(headers.get("content-length", "0"))
        while len(self._buffer) < size:
            if not await self._wait_for_more():
                return None
        raw = bytes(self._buffer[:size])
        del self._buffer[:size]
        return Request(method, path, headers, raw, self._number)

    async def _wait_for_more(self) -> bool:
        if self._gone.is_set():
            return False
        self._more.clear()
        await self._more.wait()
        return True

    async def _answer(self, request: Request, reply: Reply) -> bool:
        """Send the reply and say whether the connection can be used again."""
        self._transport.write(_head(reply))
        data = b"".join(_bytes_of(piece) for piece in reply.pieces if isinstance(piece, (dict, bytes)))
        for piece in [data] if reply.together else reply.pieces:
            if piece is Cut.DROP or piece is Cut.RESET:
                self._cut(reset=piece is Cut.RESET)
                return False
            if isinstance(piece, (dict, bytes)):
                self._send(_bytes_of(piece), reply)
                # Give the client's loop a turn, so that a write is a read of its own as a rule.
                await asyncio.sleep(0)
            else:
                await self._wait_for(self._gone if isinstance(piece, Cut) else piece)
            if self._gone.is_set():
                request.dropped.set()
                return False
        if reply.framing == "chunked":
            self._transport.write(b"0\r\n\r\n")
        request.answered.set()
        return reply.framing != "close"

    async def _wait_for(self, event: asyncio.Event) -> None:
        """Wait for the event or for the client to leave."""
        waits = [asyncio.ensure_future(each.wait()) for each in (event, self._gone)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _send(self, data: bytes, reply: Reply) -> None:
        size = reply.cut or len(data)
        for at in range(0, len(data), max(size, 1)):
            part = data[at : at + size]
            self._transport.write(b"%x\r\n%b\r\n" % (len(part), part) if reply.framing == "chunked" else part)

    def _cut(self, *, reset: bool) -> None:
        if reset:
            raw = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.close()


def _head(reply: Reply) -> bytes:
    headers = dict(reply.headers)
    match reply.framing:
        case "chunked":
            headers["transfer-encoding"] = "chunked"
        case "length":
            headers["content-length"] = str(
                sum(len(_bytes_of(p)) for p in reply.pieces if isinstance(p, (dict, bytes)))
            )
        case "close":
            headers["connection"] = "close"
    lines = [f"HTTP/1.1 {reply.status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def _bytes_of(piece: dict[str, Any] | bytes) -> bytes:
    return piece if isinstance(piece, bytes) else b"data: " + json.dumps(piece).encode() + b"\n\n"
