"""Listening: addresses, the file by which commands find the server, and an orderly end."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from stepwell.config import Config
from stepwell.errors import ConfigError
from stepwell.server.run import address, listen, serve, write_address
from tests.support.endpoint import Endpoint, Reply, chunk, ending
from tests.support.server import scripted, serving


def test_an_address_that_is_taken_is_refused_with_a_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            listen(Config(port=port))
    assert f"cannot listen on 127.0.0.1:{port}" in str(caught.value)
    assert "--port" in str(caught.value)
    with listen(Config(port=port)) as again:
        assert again.getsockname() == ("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "no such name", "a" * 70 + ".test", "127.0.0.1.test."])
def test_an_address_that_is_not_this_machines_is_refused(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    def unknown(*_: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConfigError, match="cannot listen"):
        listen(Config(host=host, port=0))


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "http://127.0.0.1:{}"),
        ("localhost", "http://localhost:{}"),
        ("0.0.0.0", "http://127.0.0.1:{}"),
        ("::1", "http://[::1]:{}"),
        ("::", "http://[::1]:{}"),
    ],
)
def test_the_address_is_one_that_this_machine_reaches(host: str, shown: str) -> None:
    config = Config(host=host, port=0)
    with listen(config) as listener:
        assert address(config, listener) == shown.format(listener.getsockname()[1])


def test_the_address_file_is_for_its_owner_alone_also_where_another_was(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:1", "http://127.0.0.1:2"):
        file = write_address(tmp_path, url, "key", "hash")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert json.loads(file.read_text()) | {"pid": 0} == {"url": url, "key": "key", "pid": 0, "settings": "hash"}
        file.chmod(0o666)


def test_an_address_file_that_is_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "server.json").symlink_to(target)
    write_address(tmp_path, "http://127.0.0.1:1", "key")
    assert target.read_text() == "precious"


def test_small_writes_are_sent_at_once(tmp_path: Path) -> None:
    """With Nagle's algorithm a short answer on a used connection waits 40 ms for an acknowledgement."""

    async def main() -> None:
        async with serving(tmp_path) as server:
            await server.call("GET", "/health")
            connections = list(server.listening.server_state.connections)
            transports: list[Any] = [getattr(each, "transport") for each in connections]  # noqa: B009
            options = [
                each.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in transports
            ]
            assert options
            assert all(options)

    asyncio.run(main())


def test_ctrl_c_before_anything_is_served_begins_nothing() -> None:
    began: list[str] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        began.append("runs are gone on with")
        yield

    async def nothing(*_: Any) -> None:
        pass

    async def main() -> None:
        with listen(Config(port=0)) as listener:
            starting = asyncio.ensure_future(serve(FastAPI(lifespan=lifespan), listener, nothing, nothing))
            asyncio.get_running_loop().call_soon(starting.cancel)
            with pytest.raises(asyncio.CancelledError):
                await starting
            await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    asyncio.run(main())
    assert began == []


@pytest.mark.limit(20)
def test_open_streams_end_in_order_when_the_server_stops(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [Reply([chunk(content="Final Answer: begun"), asyncio.Event(), *ending()]) for _ in range(3)]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            idle = await server.follow(await server.thread())
            busy = await server.stream("POST", "/api/messages", {"content": "x"})
            await busy.until("text_delta")
            old = [await server.agent_chat("x", stream=stream) for stream in (True, False)]
            assert (await old[0].frame()) is not None
            await (await server.follow(old[1].headers["x-stepwell-thread"])).until("text_delta")
            begun = asyncio.get_running_loop().time()
            await server.listening.shutdown([])
            assert asyncio.get_running_loop().time() - begun < 1.5
            assert await idle.rest() == []
            assert await busy.rest() == []
            for stream, answer in zip(old, (None, "Final Answer: begun"), strict=True):
                (last,) = await stream.rest()
                assert stream.headers["x-stepwell-thread"] in last.body["final_answer"]
                assert last.body.get("answer") == answer
            with pytest.raises(ConnectionRefusedError):
                await server.stream("GET", "/health")

    asyncio.run(main())


def test_a_run_that_ends_within_the_grace_is_followed_to_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with (
            Endpoint([Reply([chunk(content="a"), gate, chunk(content="b"), *ending()])]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), grace=10.0) as server,
        ):
            stream = await server.stream("POST", "/api/messages", {"content": "x"})
            await stream.until("text_delta")
            stopping = asyncio.create_task(server.listening.shutdown([]))
            await asyncio.sleep(0)
            gate.set()
            assert (await stream.rest())[-1].type == "run_ended"
            await asyncio.wait_for(stopping, 5)

    asyncio.run(main())
