"""The real server for tests: uvicorn on a free loopback port inside the test's loop, over a real database file.

    async with serving(tmp_path, models=scripted(endpoint)) as server:
        thread = await server.thread()
        events = await server.say(thread, "hello")

Leaving the block fails the test if the server logged an error, so that no fault hides behind a status. `Stream` is a
client of server-sent events on a bare socket: it sees each write of the server and can be cut at any byte.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from fastapi import FastAPI

from stepwell.config import Config
from stepwell.runs.service import RunService
from stepwell.server.app import create_app
from stepwell.server.run import Server as Listening
from stepwell.server.run import listen
from stepwell.store.keys import issue, token
from stepwell.wiring.host import open_host
from tests.support.endpoint import Endpoint

WAIT = 15.0
"""Seconds that any one wait may take."""
OWNER = "ada"
SSE = {"accept": "text/event-stream"}


def scripted(endpoint: Endpoint, name: str = "m", **settings: Any) -> dict[str, Any]:
    """Return the setting `models` with one model that the endpoint serves."""
    return {name: {"base_url": endpoint.base_url, **settings}}


@dataclass(frozen=True)
class Frame:
    """One event or comment of a stream.

    Args:
        id: Its `id:` line, or empty.
        data: Its `data:` lines.
        event: Its `event:` line, or empty.
        comment: What followed a colon at the start of a line.
    """

    id: str = ""
    data: str = ""
    event: str = ""
    comment: str = ""

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.data)

    @property
    def type(self) -> str:
        """The type of the native event in it."""
        return self.body["event"]["type"]


class Stream:
    """A response that is read as it comes, on a socket of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._buffer = b""
        self._over = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.writes: list[bytes] = []
        """The HTTP chunks: what the server wrote, write by write."""

    @classmethod
    async def send(cls, port: int, head: bytes, body: bytes = b"") -> Stream:
        """Send bytes as they are and read the head of the response."""
        async with asyncio.timeout(WAIT):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
            stream = cls(reader, writer)
            try:
                writer.write(head + body)
                raw = await reader.readuntil(b"\r\n\r\n")
            except BaseException:
                stream.cut()
                raise
        status, *lines = raw.decode("latin-1").rstrip().split("\r\n")
        stream.status = int(status.split()[1])
        stream.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return stream

    async def chunk(self) -> bytes:
        """Return what one write of the server brought; empty at the end."""
        async with asyncio.timeout(WAIT):
            size = int(await self._reader.readline() or b"0", 16)
            data = await self._reader.readexactly(size + 2)
        if size:
            self.writes.append(data[:-2])
        else:
            self._over = True
        return data[:-2]

    async def frame(self) -> Frame | None:
        """Return the next frame, or None at the end of the body."""
        while True:
            ends = [(at, len(mark)) for mark in (b"\n\n", b"\r\n\r\n") if (at := self._buffer.find(mark)) >= 0]
            if ends:
                at, size = min(ends)
                raw, self._buffer = self._buffer[:at], self._buffer[at + size :]
                return _frame(raw.decode())
            if self._over:
                assert not self._buffer, f"the stream ended inside a frame: {self._buffer!r}"
                return None
            self._buffer += await self.chunk()

    async def rest(self) -> list[Frame]:
        """Return all frames up to the end of the body."""
        frames: list[Frame] = []
        while (frame := await self.frame()) is not None:
            frames.append(frame)
        return frames

    async def until(self, type: str) -> list[Frame]:
        """Return the frames up to the first native event of a type, without comments."""
        frames: list[Frame] = []
        while not frames or frames[-1].type != type:
            frame = await self.frame()
            assert frame is not None, f"no {type} in {frames}"
            if not frame.comment:
                frames.append(frame)
        return frames

    async def content(self) -> bytes:
        """Return a body of stated length."""
        async with asyncio.timeout(WAIT):
            return await self._reader.readexactly(int(self.headers["content-length"]))

    async def closed(self) -> None:
        """Wait until the server closes the connection, dropping what still comes."""
        async with asyncio.timeout(WAIT):
            with suppress(ConnectionError):
                while await self._reader.read(1 << 16):
                    pass

    def cut(self, *, reset: bool = False) -> None:
        """Close the connection, or break it."""
        if reset:
            raw = self._writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.close()


def _frame(raw: str) -> Frame:
    fields: dict[str, list[str]] = {}
    for line in raw.replace("\r\n", "\n").split("\n"):
        name, _, value = line.partition(":")
        fields.setdefault(name or "comment", []).append(value.removeprefix(" "))
    assert set(fields) <= {"id", "data", "event", "comment"}, raw
    return Frame(**{name: "\n".join(values) for name, values in fields.items()})


class Client:
    """Clients of a server at an address.

    Args:
        port: Where it listens on loopback.
        key: An API key; empty where `auth` is off.
    """

    def __init__(self, port: int, key: str = "") -> None:
        self.key = key
        self.listens(port)
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT))
        self._streams: list[Stream] = []

    def listens(self, port: int) -> None:
        """Turn to another port."""
        self.port, self.url = port, f"http://127.0.0.1:{port}"

    def headers(self, **headers: str) -> dict[str, str]:
        """Return headers with the owner's key, if one is needed."""
        return {**({"authorization": f"Bearer {self.key}"} if self.key else {}), **headers}

    async def call(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> tuple[int, Any]:
        """Make a request and return its status and its JSON body, or its text."""
        sent = self.headers() if headers is None else headers
        async with self.session.request(method, self.url + path, headers=sent, **options) as response:
            text = await response.text()
            is_json = response.content_type == "application/json" and text != ""
            return response.status, json.loads(text) if is_json else text

    async def stream(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> Stream:
        """Make a request on a socket of its own and return the response as a stream."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"host": f"127.0.0.1:{self.port}", **SSE, **(self.headers() if headers is None else headers)}
        if data:
            fields |= {"content-type": "application/json", "content-length": str(len(data))}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        stream = await Stream.send(self.port, "\r\n".join((*lines, "", "")).encode("latin-1"), data)
        self._streams.append(stream)
        return stream

    async def raw(self, head: bytes, body: bytes = b"") -> Stream:
        """Send bytes as they are and return the response."""
        stream = await Stream.send(self.port, head, body)
        self._streams.append(stream)
        return stream

    async def thread(self, title: str = "") -> str:
        """Make a thread and return its id."""
        status, body = await self.call("POST", "/api/threads", json={"title": title})
        assert status == 201, body
        return body["id"]

    async def start(self, thread: str, content: str, **fields: Any) -> int:
        """Send a message and return the number of its run."""
        status, body = await self.call("POST", f"/api/threads/{thread}/messages", json={"content": content, **fields})
        assert status == 202, body
        return body["run"]

    async def say(self, thread: str, content: str, **fields: Any) -> list[Frame]:
        """Send a message and return the whole stream of its run."""
        stream = await self.stream("POST", f"/api/threads/{thread}/messages", {"content": content, **fields})
        assert stream.status == 200, await stream.content()
        return await stream.rest()

    async def follow(self, thread: str, after: str = "", run: int = 0, *, header: bool = False) -> Stream:
        """Follow a thread from a cursor, given as a query or as `Last-Event-ID`."""
        query = f"?run={run}" + (f"&after={after}" if after and not header else "")
        headers = self.headers(**({"last-event-id": after} if header else {}))
        stream = await self.stream("GET", f"/api/threads/{thread}/events{query}", headers=headers)
        assert stream.status == 200, await stream.content()
        return stream

    async def ended(self, thread: str, run: int) -> list[Frame]:
        """Wait for the end of a run and return its stored events."""
        stream = await self.follow(thread, str(run - 1), run)
        return [frame for frame in await stream.rest() if "offset" not in frame.body]

    async def agent_chat(self, query: Any, *, headers: Mapping[str, str] | None = None, **fields: Any) -> Stream:
        """Ask as an old client does, with `stream` unless the fields say otherwise."""
        body = {"query": query, "stream": True, **fields}
        return await self.stream("POST", "/chat/agent_chat", body, headers=headers)

    async def close(self) -> None:
        """Close all clients."""
        for stream in self._streams:
            stream.cut()
        await self.session.close()


class Server(Client):
    """A server at work, and clients of it.

    Args:
        config: Its settings.
        app: The application.
        service: What it serves.
        port: Where it listens.
        key: An API key of `OWNER`; empty where `auth` is off.
        local_key: The key of its address file.
        listening: What listens.
    """

    def __init__(
        self,
        config: Config,
        app: FastAPI,
        service: RunService,
        port: int,
        key: str,
        local_key: str,
        listening: Listening,
    ) -> None:
        super().__init__(port, key)
        self.config, self.app, self.service = config, app, service
        self.local_key = local_key
        self.listening = listening
        self.logged: list[logging.LogRecord] = []

    async def key_for(self, owner: str) -> dict[str, str]:
        """Return headers with a new key of an owner."""
        return {"authorization": f"Bearer {await issue(self.service.store, owner)}"}


class _Collector(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__(logging.WARNING)
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)


@asynccontextmanager
async def serving(
    folder: Path, *, auth: str = "off", quiet: bool = True, grace: float = 0.0, **settings: Any
) -> AsyncGenerator[Server]:
    """Serve a data folder while the block runs.

    Args:
        folder: Where the data is; the same folder again gives the same threads.
        auth: As in the settings; with `keys` the clients use a key of `OWNER`.
        quiet: Whether the test fails when the server logs a warning or an error.
        grace: Seconds that runs get to reach an end when the block is left.
        settings: Further settings.
    """
    config = Config(**{"data": folder / "data", "port": 0, "auth": auth, **settings})
    host = open_host(config)
    local_key = token()
    try:
        await host.start()
        key = await issue(host.service.store, OWNER) if auth == "keys" else ""
        app = create_app(config, host.catalog, host.service, local_key)
        listener = listen(config)
        listening = Listening(app, lambda _: host.service.stop(grace))
        listening.config.load()
        listening.lifespan = listening.config.lifespan_class(listening.config)
        await listening.startup([listener])
        await listening.on_tick(0)
        port = listener.getsockname()[1]
        server = Server(config, app, host.service, port, key, local_key, listening)
        collector = _Collector(server.logged)
        loggers = [logging.getLogger(name) for name in ("uvicorn.error", "stepwell", "asyncio")]
        for logger in loggers:
            logger.addHandler(collector)
        try:
            yield server
        finally:
            await server.close()
            await listening.shutdown([listener])
            for logger in loggers:
                logger.removeHandler(collector)
        if quiet:
            assert [record.getMessage() for record in server.logged] == []
    finally:
        await host.close(grace)
