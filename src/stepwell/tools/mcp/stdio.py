"""A server that is a program: started in a group of its own, spoken to over its pipes, and ended with all it started.

What it writes to stderr goes to our log, bounded. What it writes to stdout and is no message is passed over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from stepwell.errors import ToolError
from stepwell.tools import strays
from stepwell.tools.mcp.base import MOST_PASSED_OVER, ServerSpec
from stepwell.tools.mcp.pace import Incoming, Outgoing
from stepwell.tools.mcp.weight import NOT_READ, NOT_TAKEN, Parts, answers, failure, legible, too_much

CHUNK = 1 << 16
"""Bytes that are read at once."""
POLITE, FIRM = 1.0, 1.0
"""Seconds that it may take to end after its input is closed, and after SIGTERM, before SIGKILL."""
LINGER = 0.3
"""Seconds for which output may still come after it ended: what it started may hold the pipe for ever."""
LOGGED, LOGGED_SECONDS = 40, 60.0
"""Lines of its stderr that are logged in so many seconds."""
UNREAD = 0.01
"""Seconds between two chunks of what is not logged any more."""
LINE = 500
"""Characters of such a line."""
LOOKED_AT = 16 * LINE + 4
"""Bytes of it, in which there are more characters than may stand before a cut."""

_log = logging.getLogger("stepwell.mcp")


class _Protocol(asyncio.subprocess.SubprocessStreamProtocol):
    """The program's pipes; its output ends soon after it does, whoever else holds the pipe."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=CHUNK, loop=loop)
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()
        asyncio.get_running_loop().call_later(LINGER, self._finish)

    def _finish(self) -> None:
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.feed_eof()


class _Output(Incoming):
    """The messages that a program writes, one a line.

    Args:
        spec: The server.
        stream: Its stdout.
    """

    def __init__(self, spec: ServerSpec, stream: asyncio.StreamReader) -> None:
        super().__init__()
        self._spec, self._stream = spec, stream
        self._begun = Parts()
        self._lines: list[bytes | Parts] = []
        self._strange, self._spent = False, 0.0

    async def take(self) -> SessionMessage | None:
        """Return the next message; what is none is passed over."""
        while True:
            await self.spend(self._spent)
            line = await self._line()
            if line is None:
                return None
            began = time.perf_counter()
            message = self._message(line) if isinstance(line, bytes) else self._too_much(line)
            self._spent = time.perf_counter() - began
            if message is not None:
                return message
            if self.why:
                return None
            await self.count(answer=False)

    async def _line(self) -> bytes | Parts | None:
        """Return the next line, or what is left of one that is too much."""
        while not self._lines:
            chunk = await self._stream.read(CHUNK)
            if not chunk:
                return None
            *whole, rest = chunk.split(b"\n")
            if whole:
                begun, self._begun = self._begun, Parts()
                begun.add(whole[0])
                self._lines = [begun if begun.weight.fault else begun.whole(), *whole[1:]]
                self._lines.reverse()
            self._begun.add(rest)
            if self._begun.weight.size > MOST_PASSED_OVER:
                self.why = f"it sent a message of more than {MOST_PASSED_OVER >> 20} MB"
                return None
        return self._lines.pop()

    def _too_much(self, line: Parts) -> SessionMessage | None:
        """Have the call fail that waits for an answer that is too much; let go where nobody knows which it is."""
        fault, id = line.weight.fault, line.answers()
        _log.warning("MCP server %s: a message of %d bytes is not taken: %s", self._spec.name, line.weight.size, fault)
        if id is not None:
            return SessionMessage(too_much(id, fault))
        if not line.says():
            self.why = f"it sent a message that is not taken: {fault}"
        return None

    def _message(self, line: bytes) -> SessionMessage | None:
        with contextlib.suppress(ValueError):
            return SessionMessage(jsonrpc_message_adapter.validate_json(line))
        if (mended := legible(line)) is not line:
            with contextlib.suppress(ValueError):
                return SessionMessage(jsonrpc_message_adapter.validate_json(mended))
        if not self._strange and line.strip():
            self._strange = True
            shown = self._spec.plain(line[:LOOKED_AT].decode("utf-8", "replace"), LINE)
            _log.warning("MCP server %s writes what is no message to stdout, such as: %s", self._spec.name, shown)
        id = answers(line)
        return None if id is None else SessionMessage(failure(id, NOT_TAKEN, NOT_READ))


class _Input:
    """The messages to a program, as sessions of the SDK write them.

    Args:
        stream: Its stdin.
    """

    def __init__(self, stream: asyncio.StreamWriter) -> None:
        self._stream = stream

    async def send(self, item: SessionMessage, /) -> None:
        """Write a message.

        Raises:
            anyio.BrokenResourceError: Nobody reads it any more.
        """
        data = item.message.model_dump_json(by_alias=True, exclude_unset=True).encode("utf-8", "replace")
        try:
            self._stream.write(data + b"\n")
            await self._stream.drain()
        except (OSError, RuntimeError) as error:
            raise anyio.BrokenResourceError from error

    async def aclose(self) -> None:
        """Close its input."""
        self._stream.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.aclose()


@asynccontextmanager
async def over_stdio(spec: ServerSpec) -> AsyncGenerator[tuple[Incoming, Outgoing]]:
    """Run a server's program while the block runs.

    Args:
        spec: The server.

    Raises:
        ToolError: It cannot be started.
    """
    token = strays.new_token()
    # A start cancelled half-way would lose sight of what it made.
    starting = asyncio.ensure_future(_start(spec, token))
    cancelled: asyncio.CancelledError | None = None
    while not starting.done():
        try:
            await asyncio.wait({starting})
        except asyncio.CancelledError as error:
            cancelled = error
    try:
        transport, protocol = starting.result()
    except (OSError, ValueError) as error:  # a name with a NUL in it is the latter
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ToolError(f"its program {spec.command[0]} cannot be started in {spec.folder}: {reason}") from error
    assert protocol.stdin is not None
    assert protocol.stdout is not None
    assert protocol.stderr is not None
    hearing = asyncio.create_task(_hear(spec, protocol.stderr))
    try:
        if cancelled is not None:
            raise cancelled
        yield _Output(spec, protocol.stdout), _Input(protocol.stdin)
    finally:
        with anyio.CancelScope(shield=True):
            await _end(transport, protocol, token)
            hearing.cancel()
            await asyncio.wait({hearing})


async def _start(spec: ServerSpec, token: str) -> tuple[asyncio.SubprocessTransport, _Protocol]:
    loop = asyncio.get_running_loop()
    return await loop.subprocess_exec(
        lambda: _Protocol(loop),
        *spec.command,
        cwd=spec.folder,
        env={**spec.environment, **({strays.VARIABLE: token} if token else {})},
        start_new_session=True,
    )


async def _end(transport: asyncio.SubprocessTransport, protocol: _Protocol, token: str) -> None:
    """End the program: close its input, then SIGTERM, then SIGKILL for its group and for what left the group."""
    group = transport.get_pid()
    assert protocol.stdin is not None
    assert protocol.stdout is not None
    protocol.stdin.close()
    draining = asyncio.create_task(_drain(protocol.stdout))
    if not await _within(protocol.exited, POLITE):
        _signal(group, signal.SIGTERM)
        await _within(protocol.exited, FIRM)
    _signal(group, signal.SIGKILL)
    if token:
        await asyncio.to_thread(strays.end, token)
    await _within(protocol.exited, FIRM)
    draining.cancel()
    await asyncio.wait({draining})
    transport.close()


async def _within(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


async def _drain(stream: asyncio.StreamReader) -> None:
    """Read what still comes, so that a full pipe keeps nobody from ending."""
    while await stream.read(CHUNK):
        pass


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says by the latter that nobody is left
        os.killpg(group, number)


async def _hear(spec: ServerSpec, stream: asyncio.StreamReader) -> None:
    """Log what the program writes to stderr."""
    loop = asyncio.get_running_loop()
    since, logged, rest = loop.time(), 0, b""
    while chunk := await stream.read(CHUNK):
        if loop.time() - since > LOGGED_SECONDS:
            since, logged = loop.time(), 0
        if logged > LOGGED:
            rest = b""
            await asyncio.sleep(UNREAD)
            continue
        *lines, rest = (rest + chunk).split(b"\n", LOGGED + 1 - logged)
        rest = rest[-CHUNK:]
        for line in lines:
            logged += 1
            if logged <= LOGGED and line.strip():
                _log.info("%s: %s", spec.name, spec.plain(line[:LOOKED_AT].decode("utf-8", "replace"), LINE))
            elif logged == LOGGED + 1:
                _log.info("%s: it says more than is logged", spec.name)
