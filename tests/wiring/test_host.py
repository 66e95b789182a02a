"""Servers as processes: how they start, stop, die and go on, on one data folder."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stepwell.config import Config
from stepwell.errors import DataInUse, StoreError
from stepwell.wiring.host import open_host
from tests.support.endpoint import Endpoint, Reply, Request, chunk, ending
from tests.support.server import SSE, WAIT, Frame, Stream

PROGRAM = """
import sys
from stepwell.config import load
from stepwell.errors import StepwellError
from stepwell.wiring.host import serve
try:
    serve(load(), lambda url, key: print(url, key, flush=True))
except StepwellError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print("stopped", flush=True)
"""


class Process:
    """A server in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process, self._streams = process, list[Stream]()
        self.url = self.first_key = self.key = ""

    async def up(self) -> None:
        """Wait until requests are answered, and read the address file."""
        assert self._process.stdout is not None
        async with asyncio.timeout(WAIT):
            line = (await self._process.stdout.readline()).decode().rstrip("\n")
        assert line.startswith("http://127.0.0.1:"), await self.over()
        self.url, _, self.first_key = line.partition(" ")

    async def over(self) -> tuple[int, str, str]:
        """Wait for the end; return the status and what was printed since."""
        async with asyncio.timeout(WAIT):
            out, err = await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode, out.decode(), err.decode()

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def refuses(self) -> None:
        """Wait until no new connection is accepted."""
        async with asyncio.timeout(WAIT):
            with suppress(ConnectionError):
                while True:
                    _, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
                    writer.close()
                    await writer.wait_closed()

    async def kill(self) -> None:
        """Kill it, if it still lives."""
        for stream in self._streams:
            stream.cut()
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def call(self, method: str, path: str, **options: Any) -> Any:
        """Make a request and return the JSON of its answer."""
        headers = {"authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT)) as session,
            session.request(method, self.url + path, headers=headers, **options) as response,
        ):
            return json.loads(await response.text() or "null")

    async def stream(self, method: str, path: str, body: Any = None) -> Stream:
        """Make a request for a stream."""
        port, data = int(self.url.rpartition(":")[2]), json.dumps(body).encode() if body else b""
        fields = {"host": f"127.0.0.1:{port}", "authorization": f"Bearer {self.key}", **SSE}
        if data:
            fields |= {"content-type": "application/json", "content-length": str(len(data))}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        stream = await Stream.send(port, "\r\n".join((*lines, "", "")).encode(), data)
        self._streams.append(stream)
        return stream


class Folder:
    """A data folder with settings, on which servers are started.

    Args:
        path: Where.
        endpoint: The model.
        settings: More TOML.
    """

    def __init__(self, path: Path, endpoint: Endpoint, settings: str = "") -> None:
        self.path, self.data = path, path / "data"
        path.mkdir(exist_ok=True)
        (path / "program.py").write_text(PROGRAM)
        model = f'[models.m]\nbase_url = "{endpoint.base_url}"\nattempts = 1\n'
        (path / "s.toml").write_text(f'port = 0\ndata = "{self.data}"\n{settings}\n{model}')

    @asynccontextmanager
    async def start(self) -> AsyncGenerator[Process]:
        """Start a process, which is killed at the end of the block if it is still there."""
        process = Process(
            await asyncio.create_subprocess_exec(
                sys.executable,
                str(self.path / "program.py"),
                env=os.environ | {"STEPWELL_CONFIG": str(self.path / "s.toml")},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        )
        try:
            yield process
        finally:
            await process.kill()

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[Process]:
        """Start a server and wait until it is up."""
        async with self.start() as process:
            await process.up()
            process.key = self.address()["key"]
            yield process

    def address(self) -> dict[str, Any]:
        """Return what the address file says."""
        return json.loads((self.data / "server.json").read_text())


def stored(frames: list[Frame]) -> list[dict[str, Any]]:
    return [frame.body for frame in frames if "offset" not in frame.body]


def test_the_first_start_makes_a_key_and_the_second_does_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([]) as endpoint:
            folder = Folder(tmp_path, endpoint)
            async with folder.serving() as server:
                assert server.first_key.startswith("sw_")
                file = folder.data / "server.json"
                assert stat.S_IMODE(file.stat().st_mode) == 0o600
                assert stat.S_IMODE(folder.data.stat().st_mode) == 0o700
                found = folder.address()
                assert len(found.pop("settings")) == 64
                assert found == {"url": server.url, "key": server.key, "pid": server._process.pid}
                mine = await server.call("POST", "/api/threads")
                first = {"authorization": f"Bearer {server.first_key}"}
                assert (await server.call("GET", "/api/threads", headers=first))["threads"] == [mine]
                old_key, server.key = server.key, server.first_key
                server.send(signal.SIGTERM)
                assert await server.over() == (0, "stopped\n", "")
                assert not file.exists()
            async with folder.serving() as server:
                assert server.first_key == ""
                assert server.key != old_key
                assert (await server.call("GET", "/api/threads", headers=first))["threads"] == [mine]
                refused = await server.call("GET", "/api/threads", headers={"authorization": f"Bearer {old_key}"})
                assert "not valid" in refused["error"]["message"]
                server.send(signal.SIGINT)
                assert await server.over() == (0, "stopped\n", "")

    asyncio.run(main())


def test_a_second_server_on_the_folder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([]) as endpoint:
            folder = Folder(tmp_path, endpoint)
            async with folder.serving() as server:
                async with folder.start() as second:
                    status, out, err = await second.over()
                assert (status, out) == (1, "")
                assert err.startswith("DataInUse: ")
                assert str(folder.data) in err
                assert "Traceback" not in err
                assert (await server.call("GET", "/health"))["status"] == "ok"
                assert folder.address()["url"] == server.url

    asyncio.run(main())


def test_a_port_that_is_taken_is_said_and_the_folder_stays_free(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            async with Endpoint([]) as endpoint:
                folder = Folder(tmp_path, endpoint)
                settings = tmp_path / "s.toml"
                settings.write_text(settings.read_text().replace("port = 0", f"port = {port}"))
                async with folder.start() as server:
                    status, out, err = await server.over()
                assert (status, out) == (1, "")
                assert err.startswith(f"ConfigError: host, port: cannot listen on 127.0.0.1:{port}")
                settings.write_text(settings.read_text().replace(f"port = {port}", "port = 0"))
                async with folder.serving() as server:
                    assert server.first_key, "no key was made by the start that failed"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("port = 99999", "port: "),
        ('default_model = "none"', "default_model"),
        ('[tools]\nmodules = ["no_such_module"]', "tools.modules: cannot import no_such_module"),
        ('[tools]\ndisabled = ["none"]', "tools.disabled: there is no tool none"),
        ('[agent]\ntools = ["none"]', "agent.tools: there is no tool none"),
        ('[chatchat]\ndialects = { x = "none" }', "chatchat.dialects.x: there is no dialect 'none'"),
    ],
)
def test_a_wrong_setting_is_told_before_anything_is_served(tmp_path: Path, settings: str, said: str) -> None:
    async def main() -> None:
        async with Endpoint([]) as endpoint:
            folder = Folder(tmp_path, endpoint, settings.replace("port = ", "max_body = 2000\nport = "))
            file = tmp_path / "s.toml"
            if settings.startswith("port"):
                file.write_text(file.read_text().replace("port = 0\n", ""))
            async with folder.start() as server:
                status, out, err = await server.over()
            assert (status, out) == (1, "")
            assert err.startswith("ConfigError: ")
            assert said in err
            assert "Traceback" not in err

    asyncio.run(main())


class Held:
    """A model that says the beginning of its answer and the rest when the gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    def __call__(self, request: Request) -> Reply:
        return Reply([chunk(content="Final Answer: be"), self.gate, chunk(content="gun"), *ending()])


@pytest.mark.parametrize("face", ["native", "chatchat"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_was_going_on_when_the_server_ended_is_finished_by_the_next(
    tmp_path: Path, face: str, number: signal.Signals
) -> None:
    async def main() -> None:
        model = Held()
        async with Endpoint(model) as endpoint:
            folder = Folder(tmp_path, endpoint)
            async with folder.serving() as server:
                if face == "native":
                    stream = await server.stream("POST", "/api/messages", {"content": "x"})
                    seen = await stream.until("text_delta")
                else:
                    stream = await server.stream("POST", "/chat/agent_chat", {"query": "x", "stream": True})
                    seen = []
                    assert (await stream.frame()) is not None
                thread, run = stream.headers["x-stepwell-thread"], int(stream.headers["x-stepwell-run"])
                server.send(number)
                if number == signal.SIGKILL:
                    await server.over()
                    assert folder.address()["url"] == server.url, "a file that was left behind must not hinder"
                else:
                    await server.refuses()
                    server.send(number)  # once more: it need not wait for the run
                    assert await server.over() == (0, "stopped\n", "")
                    assert not (folder.data / "server.json").exists()
            model.gate.set()
            async with folder.serving() as server:
                cursor = seen[-1].id if seen else "0"
                rest = await (
                    await server.stream("GET", f"/api/threads/{thread}/events?after={cursor}&run={run}")
                ).rest()
                events = (await server.call("GET", f"/api/threads/{thread}/events"))["events"]
                assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
                assert stored(seen) + stored(rest) == events
                kinds = [event["event"]["type"] for event in events]
                assert kinds.count("run_started") == kinds.count("run_ended") == kinds.count("message_added") == 1
                assert "run_claimed" in kinds
                answers = [event["event"] for event in events if event["event"]["type"] == "message_ended"]
                assert [answer["stop"] for answer in answers] == ["error", "stop"]
                assert answers[-1]["message"]["content"].removeprefix("Final Answer: ") == "begun"
                assert events[-1]["event"]["reason"] == "answer"
                assert (await server.call("GET", f"/api/threads/{thread}"))["run"] is None

    asyncio.run(main())


def test_a_run_that_ends_while_the_server_stops_is_whole_and_its_client_sees_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        model = Held()
        async with Endpoint(model) as endpoint:
            folder = Folder(tmp_path, endpoint)
            async with folder.serving() as server:
                stream = await server.stream("POST", "/api/messages", {"content": "x"})
                seen = await stream.until("text_delta")
                server.send(signal.SIGTERM)
                await server.refuses()
                model.gate.set()
                seen += await stream.rest()
                assert seen[-1].body["event"]["reason"] == "answer"
                assert await server.over() == (0, "stopped\n", "")
            async with folder.serving() as server:
                thread = stream.headers["x-stepwell-thread"]
                assert (await server.call("GET", f"/api/threads/{thread}/events"))["events"] == stored(seen)

    asyncio.run(main())


def test_a_message_whose_2xx_never_came_is_sent_again_without_harm(tmp_path: Path) -> None:
    async def main() -> None:
        model = Held()
        async with Endpoint(model) as endpoint:
            folder = Folder(tmp_path, endpoint)
            key, body = {"idempotency-key": "k"}, {"content": "once"}
            async with folder.serving() as server:
                first = await server.call("POST", "/api/messages", json=body, headers=key)
                server.send(signal.SIGKILL)
                await server.over()
            model.gate.set()
            async with folder.serving() as server:
                again = await server.call("POST", "/api/messages", json=body, headers=key)
                assert again == {**first, "repeated": True}
                changed = await server.call("POST", "/api/messages", json={"content": "other"}, headers=key)
                assert changed["error"]["field"] == "Idempotency-Key"
                path = f"/api/threads/{first['thread']}/events?run={first['run']}"
                rest = await (await server.stream("GET", path)).rest()
                assert [frame.type for frame in rest].count("message_added") == 1
                assert len((await server.call("GET", "/api/threads"))["threads"]) == 1

    asyncio.run(main())


# In this process


def test_a_folder_is_worked_on_by_one_and_read_beside_it(tmp_path: Path) -> None:
    async def main() -> None:
        config = Config(data=tmp_path / "data")
        host = open_host(config)
        with pytest.raises(DataInUse, match="data"):
            open_host(config)
        thread = await host.service.create("local", title="kept")
        reader = open_host(config, read_only=True)
        assert (await reader.service.info("local", thread.id)).title == "kept"
        await reader.close()
        await host.close()
        again = open_host(config)
        await again.close()

    asyncio.run(main())


def test_a_folder_that_cannot_be_opened_is_let_go(tmp_path: Path) -> None:
    async def main() -> None:
        data = tmp_path / "data"
        data.mkdir()
        (data / "stepwell.db").write_bytes(b"this is no database, but a letter" * 100)
        config = Config(data=data)
        with pytest.raises(StoreError, match=r"stepwell\.db"):
            open_host(config)
        (data / "stepwell.db").unlink()
        host = open_host(config)
        await host.close()

    asyncio.run(main())
