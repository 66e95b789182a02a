"""Agents in the server that holds the data folder, over HTTP on this machine; see `connection.Connection`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from stepwell.cli.people import People
from stepwell.cli.place import PLAIN, Manner, Place
from stepwell.cli.remote_people import RemotePeople, place_in
from stepwell.cli.screen import Screen, short
from stepwell.config import Config
from stepwell.errors import InputError, NotFound, StepwellError
from stepwell.events import Recorded, Transient, decode
from stepwell.messages import clean
from stepwell.models.sse import SSEReader
from stepwell.runs.channel import Cursor, Item, Piece, place_of
from stepwell.runs.contexts import Pin

ADDRESS_FILE = "server.json"
"""In the data folder: where its server is, and a key for commands of the same user."""
QUIET = 60.0
"""Seconds without a byte, not even a heartbeat, after which a stream is taken for broken."""
PAUSES = (0.1, 0.3, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each new try to follow a run; a run goes on while nobody follows it."""
TITLE = 80
"""Characters of a first message that become its thread's title."""
PAGE = 200
"""Threads asked for at a time."""

_RequestContext = AbstractAsyncContextManager[aiohttp.ClientResponse]
_TIMEOUT = aiohttp.ClientTimeout(total=30.0)
_LOST = (aiohttp.ClientError, TimeoutError, OSError)


class _Address(msgspec.Struct, frozen=True):
    url: str
    key: str
    settings: str = ""


class _Line(msgspec.Struct, frozen=True):
    """One event of a stream, or why it ends."""

    seq: int = 0
    time: int = 0
    offset: int | None = None
    run: int = 0
    path: str = ""
    event: msgspec.Raw = msgspec.Raw(b"null")
    error: dict[str, Any] | None = None


class _Models(msgspec.Struct, frozen=True):
    models: list[dict[str, Any]]


_models = msgspec.json.Decoder(_Models)
_lines = msgspec.json.Decoder(_Line)
_pieces = msgspec.json.Decoder(Transient)


async def find_server(config: Config, screen: Screen) -> Remote | None:
    """Return the server that holds the data folder, or None where none answers."""
    file = config.folder / ADDRESS_FILE
    address = _read(file)
    if address is None:
        return None
    server = Remote(file, address, screen)
    if await server.answers():
        return server
    await server.close()
    return None


def _read(file: Path) -> _Address | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Address)
    except (OSError, msgspec.DecodeError):
        return None


class Remote:
    """A server on this machine.

    Args:
        file: Where its address stands; read again when the server is lost, for it may come back elsewhere.
        address: Where it is.
        screen: Tells in which language to refuse.
    """

    served = True

    def __init__(self, file: Path, address: _Address, screen: Screen) -> None:
        self._file, self._address, self._screen = file, address, screen
        self.people: People = RemotePeople(self)
        # Every request has a connection of its own: between two of them a person may think for hours.
        connector = aiohttp.TCPConnector(force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT)

    @property
    def url(self) -> str:
        """The server's address."""
        return self._address.url

    @property
    def settings(self) -> str:
        """The fingerprint of its settings file; empty for none."""
        return self._address.settings

    def _request(self, method: str, path: str, **options: Any) -> _RequestContext:
        headers = {"authorization": f"Bearer {self._address.key}", **options.pop("headers", {})}
        return self._session.request(method, self._address.url + path, headers=headers, **options)

    async def answers(self) -> bool:
        """Tell whether the server of this folder is there, and not a stranger who came to its address."""
        try:
            async with self._request("GET", "/api/models", timeout=aiohttp.ClientTimeout(total=3.0)) as response:
                return response.status == 200 and bool(_models.decode(await response.read()).models)
        except (*_LOST, msgspec.DecodeError):
            return False

    async def find(self, prefix: str) -> Place:
        """Return a thread with its open run; see the port."""
        matching: list[dict[str, Any]] = []
        before, prefix = "", clean(prefix)
        while True:
            page = await self.call("GET", "/api/threads", params={"before": before, "limit": str(PAGE)})
            matching += [thread for thread in page["threads"] if thread["id"].startswith(prefix)]
            before = page["next"]
            if not before:
                break
        if len(matching) != 1 or not prefix:
            name = "many_threads" if matching else "no_thread"
            raise NotFound(self._screen.say(name, id=repr(prefix), count=len(matching)), "thread")
        return Place(matching[0]["id"], matching[0]["run"] or 0)

    async def look(self, prefix: str) -> Place:
        """Return a thread; see the port."""
        return await self.find(prefix)

    async def model(self) -> str:
        """Return the default model's name."""
        return str((await self.call("GET", "/api/models"))["models"][0]["name"])

    async def send(self, text: str, *, thread: str = "", manner: Manner = PLAIN) -> Place:
        """Start a run; see the port."""
        text = clean(text)
        wished = {"model": clean(manner.model), "engine": manner.engine, "while_running": manner.policy}
        body = {"content": text, "people": manner.people, **{name: each for name, each in wished.items() if each}}
        if thread:
            return await self._start(thread, body)
        title = " ".join(text.split())[:TITLE]
        thread = str((await self.call("POST", "/api/threads", {"title": title}))["id"])
        try:
            return await self._start(thread, body)
        except InputError:
            await self.call("DELETE", f"/api/threads/{thread}")
            raise

    async def _start(self, thread: str, body: dict[str, Any]) -> Place:
        started = await self.call("POST", f"/api/threads/{thread}/messages", body)
        return place_in(started)

    async def follow(self, place: Place, after: int = 0) -> AsyncGenerator[list[Item]]:
        """Yield a run as it happens, over as many connections as it takes; see the port."""
        cursor, pauses = Cursor(after or max(0, place.run - 1)), list(PAUSES)
        while True:
            try:
                async for item in self._stream(place, cursor):
                    cursor, pauses = place_of(item), list(PAUSES)
                    yield [item]
                    if place.run and item.run == place.run and item.ends_run:
                        return
                cause: object = "the stream ended early"
            except _LOST as error:
                cause = error
            if not pauses:
                said = self._screen.say("server_gone", url=self.url, cause=_words(cause), id=place.thread)
                raise StepwellError(said)
            await asyncio.sleep(pauses.pop(0))
            self._address = _read(self._file) or self._address

    async def _stream(self, place: Place, cursor: Cursor) -> AsyncGenerator[Item]:
        reader = SSEReader()
        async with self._request(
            "GET",
            f"/api/threads/{place.thread}/events",
            params={"after": str(cursor), "run": str(place.run)},
            headers={"accept": "text/event-stream"},
            timeout=aiohttp.ClientTimeout(sock_connect=10.0, sock_read=QUIET),
        ) as response:
            await self._check(response)
            async for data in response.content.iter_any():
                for line in reader.feed(data):
                    yield self._item(line)

    def _item(self, data: bytes) -> Item:
        try:
            line = _lines.decode(data)
            if line.error is not None:
                raise StepwellError(str(line.error.get("message", "")))
            if line.offset is None:
                return Recorded(line.seq, line.time, line.run, decode(bytes(line.event)), line.path)
            return Piece(line.seq, line.offset, line.run, _pieces.decode(line.event))
        except msgspec.DecodeError as error:
            said = self._screen.say("server_odd", url=self.url, status=200, cause=error)
            raise StepwellError(said) from error

    async def cancel(self, place: Place) -> None:
        """Ask a run to stop."""
        await self.call("POST", f"/api/threads/{place.thread}/runs/{place.run}/cancel")

    async def pins(self, prefix: str) -> list[Pin]:
        """Return the pinned facts of a thread; see the port."""
        place = await self.find(prefix)
        found = await self.call("GET", f"/api/threads/{place.thread}/pins")
        return msgspec.convert(found["pins"], list[Pin])

    async def pin(self, prefix: str, text: str) -> Pin:
        """Pin a fact; see the port."""
        place = await self.find(prefix)
        return msgspec.convert(await self.call("POST", f"/api/threads/{place.thread}/pins", {"text": text}), Pin)

    async def unpin(self, prefix: str, id: str) -> None:
        """Let go of a pinned fact; see the port."""
        place = await self.find(prefix)
        await self.call("DELETE", f"/api/threads/{place.thread}/pins/{quote(clean(id), safe='')}")

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def call(
        self, method: str, path: str, body: object = None, params: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Make a request and return the JSON object of its answer.

        Raises:
            InputError: The server refuses it.
            StepwellError: The server failed or does not answer.
        """
        headers = {"idempotency-key": secrets.token_hex(16)} if method == "POST" else {}
        try:
            async with self._request(method, path, json=body, params=params, headers=headers) as response:
                await self._check(response)
                status, data = response.status, await response.read() or b"{}"
        except _LOST as error:
            raise StepwellError(self._screen.say("server_silent", url=self.url, cause=_words(error))) from error
        try:
            return msgspec.json.decode(data, type=dict[str, Any])
        except msgspec.DecodeError as error:
            said = self._screen.say("server_odd", url=self.url, status=status, cause=error)
            raise StepwellError(said) from error

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        """Raise what the server refuses with, in its words.

        Raises:
            InputError: The request is wrong.
            StepwellError: The server failed.
        """
        if response.status < 300:
            return
        data = await response.read()
        try:
            said = msgspec.json.decode(data, type=dict[str, dict[str, str]])["error"]
        except (msgspec.DecodeError, KeyError):
            said = {"message": data.decode("utf-8", "replace")}
        message = said.get("message", "")
        if 400 <= response.status < 500 and response.status != 401:
            raise InputError(message, said.get("field", ""))
        values = {"url": self.url, "status": response.status, "cause": short(message, 500)}
        raise StepwellError(self._screen.say("server_odd", **values))


def _words(cause: object) -> str:
    return short(str(cause), 300) or type(cause).__name__
