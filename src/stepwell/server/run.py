"""Listens: uvicorn with the settings of a token-streaming server, and the file by which commands find it."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from stepwell.config import Config
from stepwell.errors import ConfigError
from stepwell.runs.carrying import GRACE

ADDRESS_FILE = "server.json"
"""In the data folder, for its owner alone: where the server is and a key for the command line."""
BACKLOG = 4096
"""Connections that may wait to be accepted."""
MAX_HEAD = 65_536
"""Bytes of a request's line and headers; checked between reads, so that one read more may pass."""
HEAD_SECONDS = 60.0
"""Seconds that the head of a request may take to come, and what is left of a body after its answer."""
GC_THRESHOLD = 20_000
"""Allocations between two collections; the default of 700 costs a streaming server a third of its speed."""

Drain = Callable[[float], Awaitable[None]]
_END = b"connection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + _END
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\n" + _END


def listen(config: Config) -> socket.socket:
    """Return the listening socket.

    Raises:
        ConfigError: The address is taken or not this machine's.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY on each connection: without it small writes wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except (OSError, UnicodeError) as error:
        listener.close()
        remedy = "choose another with --port" if config.port else "name an address of this machine"
        raise ConfigError(f"host, port: cannot listen on {config.host}:{config.port}: {error}; {remedy}") from error
    listener.listen(BACKLOG)
    return listener


def address(config: Config, listener: socket.socket) -> str:
    """Return the address under which this machine reaches the server."""
    port = listener.getsockname()[1]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def write_address(folder: Path, url: str, key: str, settings: str = "") -> Path:
    """Tell commands of the same user where the server is, and by the hash of their file which settings it has."""
    file = folder / ADDRESS_FILE
    file.unlink(missing_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        json.dump({"url": url, "key": key, "pid": os.getpid(), "settings": settings}, out)
    return file


class Server(uvicorn.Server):
    """A uvicorn server for streams: they are let end before connections are waited for.

    Args:
        app: The application.
        drain: Stops runs and ends streams, when no new connection is accepted any more; given the seconds that runs
            may take to end by themselves. A second signal calls it again with none.
    """

    def __init__(self, app: FastAPI, drain: Drain) -> None:
        # What uvicorn warns of are mistakes of clients, which get an answer that says so.
        super().__init__(
            uvicorn.Config(
                app,
                http=_Protocol,
                ws="none",
                log_level="error",
                access_log=False,
                proxy_headers=False,
                timeout_graceful_shutdown=2,
            )
        )
        self._drain = drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at a signal, and return to the caller instead of raising the signal again there."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, drain, then close what is left."""
        for server in self.servers:
            server.close()
        draining = asyncio.ensure_future(self._drain(GRACE))
        while not draining.done() and not self.force_exit:
            await asyncio.wait([draining], timeout=0.05)
        if self.force_exit:
            draining.cancel()
            draining = asyncio.ensure_future(self._drain(0.0))
            self.force_exit = False  # nothing is left to be skipped but the order in which things are closed
        await draining
        await super().shutdown(sockets)


class _Protocol(HttpToolsProtocol):
    """HTTP with limits on the head of a request, which the parser itself does not have, and on what nobody reads.

    Without them whoever sends nothing, or a byte now and then, could hold any number of connections, without a key.
    """

    _head: int | None = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._come()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0

    def on_headers_complete(self) -> None:
        self._head = None
        self._come()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._come()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body:  # else it is of a request behind this one
            self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._head = None if self._head is None else self._head + len(data)
        if self._head is not None and self._head > MAX_HEAD:
            self.transport.write(_TOO_LONG)
            self.transport.close()
        elif not self.cycle or self.cycle.response_complete:
            self._wait()  # whatever came, an empty line too, ended the wait for the next request

    def _wait(self) -> None:
        self._timer = self._timer or self.loop.call_later(HEAD_SECONDS, self._late)

    def _come(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        if self._head is not None:
            self.transport.write(_TOO_SLOW)
        self.transport.close()


async def serve(
    app: FastAPI,
    listener: socket.socket,
    started: Callable[[], Awaitable[None]],
    drain: Drain,
) -> None:
    """Serve until a signal asks to stop.

    Args:
        app: The application.
        listener: The listening socket.
        started: Called when requests are answered.
        drain: See `Server`.

    Raises:
        Exception: What `started` raised; the server has stopped then.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    server = Server(app, drain)

    async def announce() -> None:
        while not server.started:
            await asyncio.sleep(0.005)
        try:
            await started()
        except BaseException:
            server.should_exit = True  # nobody could find it, nor has seen the key
            raise

    await asyncio.sleep(0)  # Ctrl-C while all was loaded ends it here, before runs are gone on with
    announcing = asyncio.create_task(announce())
    try:
        await server.serve(sockets=[listener])
    finally:
        announcing.cancel()
    if announcing.done() and not announcing.cancelled():
        announcing.result()
