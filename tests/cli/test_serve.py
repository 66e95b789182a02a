"""`stepwell serve`: what it says, how it ends, and what it leaves."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import stat
from pathlib import Path

import aiohttp
import pytest

from tests.cli.running import Cli, finish
from tests.support.endpoint import Cut, Endpoint, chunk, stream, text


def test_the_first_start_tells_address_key_and_the_next_command_a_later_one_no_key(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        async with cli.serving() as server:
            lines = server.lines
            assert lines[0].startswith("Stepwell serves http://127.0.0.1:")
            assert lines[1].startswith("API key: sw_")
            # Another terminal has no STEPWELL_DATA of this one. Quoted, where a path has a space.
            assert lines[3].replace("'", "").endswith(f"stepwell chat --data {cli.data}")
            key = lines[1].split()[-1]
            async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:
                async with session.get(f"{server.url}/api/threads") as response:
                    assert response.status == 200
            address = cli.data / "server.json"
            assert stat.S_IMODE(address.stat().st_mode) == 0o600
            assert json.loads(address.read_text())["url"] == server.url
        assert not address.exists()
        async with cli.serving("--data", str(cli.data)) as again:
            assert not any("sw_" in line for line in again.lines)
            assert again.lines[1].replace("'", "").endswith(f"stepwell chat --data {cli.data}")

    asyncio.run(main())


def test_a_start_that_cannot_be_announced_ends_with_the_cause(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        (cli.data / "server.json").mkdir(parents=True)
        done = await cli.run("serve", "--port", "0")
        assert (done.code, done.out) == (1, "")
        assert "server.json" in done.err
        (cli.data / "server.json").rmdir()
        with open("/dev/full", "w") as full:
            done = await cli.run("serve", "--port", "0", stdout=full)
        assert (done.code, "No space left on device" in done.err) == (1, True)

    asyncio.run(main())


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_0_and_unfinished_runs_go_on_at_the_next_start(
    tmp_path: Path, sign: signal.Signals
) -> None:
    async def main() -> None:
        async with Endpoint([stream(chunk(content="half"), Cut.STALL), text("all of it")]) as endpoint:
            cli = Cli(tmp_path).at(endpoint.base_url)
            async with cli.serving() as first:
                asking = await cli.start("ask", "hello")
                await endpoint.request(0)
                await cli.stored()
                first.process.send_signal(sign)
                assert (await finish(first.process)).code == 0
                assert not (cli.data / "server.json").exists()
                async with cli.serving():
                    assert (await finish(asking)).out == "all of it\n"

    asyncio.run(main())


def test_commands_work_beside_a_running_server(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        async with cli.serving():
            asked = await cli.run("ask", "what is 2+3?")
            assert (asked.code, asked.out) == (0, "2+3 = 5\n")
            (thread,) = await cli.threads()
            more = await cli.run("ask", "what is 3+4?", "--thread", thread[:4])
            assert more.out == "3+4 = 7\n"
            assert (await cli.shown(thread))[-1] == "run ended: answer"
            assert (await cli.run("replay", thread)).code == 0
            refused = await cli.run("ask", "hi", "--model", "nope")
            assert (refused.code, "nope" in refused.err) == (1, True)
            assert (await cli.run("threads")).out.split("\t")[0] == thread
            unknown = await cli.run("ask", "hi", "--thread", "nope")
            assert "stepwell threads" in unknown.err

    asyncio.run(main())


def test_a_second_server_on_the_folder_and_a_taken_port_are_errors_with_a_remedy(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        async with cli.serving():
            second = await cli.run("serve", "--port", "0")
            assert second.code == 1
            assert str(cli.data) in second.err
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            done = await cli.run("serve", "--port", port)
            assert (done.code, port in done.err, "--port" in done.err) == (1, True, True)

    asyncio.run(main())


def test_it_refuses_to_be_open_to_others_without_keys(tmp_path: Path) -> None:
    done = asyncio.run(Cli(tmp_path, STEPWELL_AUTH="off").run("serve", "--host", "0.0.0.0"))
    assert done.code == 1
    assert "127.0.0.1" in done.err


def test_a_start_tells_which_models_cannot_be_used_and_why_and_the_others_work(tmp_path: Path) -> None:
    async def main() -> None:
        missing = tmp_path / "without"
        missing.mkdir()
        (missing / "pydantic_ai.py").write_text("raise ModuleNotFoundError('No module named pydantic_ai')")
        (tmp_path / "stepwell.toml").write_text(
            """
            default_model = "offline"
            [models.claude]
            kind = "anthropic"
            api_key = "k"
            [models.keyless]
            base_url = "http://127.0.0.1:9/v1"
            api_key_env = "KEY_OF_NOBODY"
            [models.local]
            base_url = "http://127.0.0.1:9/v1"
            """
        )
        cli = Cli(tmp_path, PYTHONPATH=str(missing))
        async with cli.serving() as server:
            assert (await cli.run("ask", "what is 2+3?")).out == "2+3 = 5\n"
            server.process.send_signal(signal.SIGINT)
            told = (await finish(server.process)).err.splitlines()
        assert [line.split(" cannot be used: ")[0] for line in told] == ["The model claude", "The model keyless"]
        assert 'pip install "stepwell[providers]"' in told[0]
        assert "KEY_OF_NOBODY" in told[1]

        unhindered = Cli(tmp_path)
        (tmp_path / "stepwell.toml").write_text('[models.claude]\nkind = "anthropic"')
        async with unhindered.serving() as server:
            server.process.send_signal(signal.SIGINT)
            (line,) = (await finish(server.process)).err.splitlines()
        assert "anthropic wants a key" in line

    asyncio.run(main())


def test_a_command_says_when_its_settings_file_is_not_that_of_the_server_that_answers(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        same, copy, other = (tmp_path / name for name in ("same.toml", "copy.toml", "other.toml"))
        same.write_text('[agent]\nlanguage = "en"\n')
        copy.write_text(same.read_text())
        other.write_text('[agent]\nsystem = "Answer in verse."\n')
        async with cli.serving("--config", str(same)) as server:
            for file in (same, copy):
                done = await cli.run("ask", "what is 2+3?", "--config", str(file))
                assert done.out == "2+3 = 5\n"
                assert "are not used" not in done.err
            assert "are not used" not in (await cli.run("ask", "what is 2+3?")).err, "nothing was named"
            for words in (("ask", "what is 2+3?"), ("run", "what is 2+3?", "--react")):
                told = (await cli.run(*words, "--config", str(other))).err.splitlines()
                assert told[0].startswith(f"The server at {server.url} holds the data folder")
                assert f"those of {other} are not used for this run" in told[0]
            async with cli.terminal("chat", "--config", str(other)) as terminal:
                await terminal.expect("are not used")
            same.write_text('[agent]\nlanguage = "zh"\n')
            changed = await cli.run("ask", "what is 2+3?", "--config", str(same))
            assert f"不使用 {same} 中的设置" in changed.err
        local = await cli.run("ask", "what is 2+3?", "--config", str(other))
        assert local.code == 0
        assert "are not used" not in local.err

    asyncio.run(main())
