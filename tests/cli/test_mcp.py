"""`stepwell mcp`, and what `stepwell doctor` says of MCP servers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import psutil
import pytest

from stepwell.tools.mcp.base import Offer, define
from stepwell.tools.mcp.pins import Pins
from tests.cli.running import WAIT, Cli, finish
from tests.support.endpoint import Endpoint, text, tool_calls
from tests.support.mcp_sdk_server import COMMAND as SDK
from tests.support.mcp_servers import command
from tests.tools.mcp.test_login import browse, login_server


def settings(file: Path, told: Path) -> None:
    program, *rest = command("described", str(told))
    of_s = f"[mcp.s]\ncommand = {json.dumps(program)}\nargs = {json.dumps(rest)}\neffects = {{a = 'pure'}}\n"
    file.write_text(of_s + "[mcp.never]\ncommand = 'x'\n")


def test_a_changed_tool_is_listed_told_by_doctor_and_on_again_when_it_is_confirmed(tmp_path: Path) -> None:
    async def main() -> None:
        told = tmp_path / "tools.json"
        settings(tmp_path / "stepwell.toml", told)
        cli = Cli(tmp_path, STEPWELL_MCP__NEVER__ENABLED="false")
        listed = await cli.run("mcp", "list")
        assert [line.split("\t")[:3] for line in listed.out.splitlines()] == [
            ["s", "-", "never seen"],
            ["never", "-", "never seen"],
        ]
        told.write_text(json.dumps([{"name": "a", "description": "Good."}, {"name": "b c"}]))
        replies = [text("Hello."), tool_calls(("c0", "s__a", ["{}"])), text("No.")]
        async with Endpoint(replies) as endpoint:
            cli.at(endpoint.base_url)
            assert (await cli.run("ask", "Hi")).out == "Hello.\n"
            offered = [each["function"]["name"] for each in (await endpoint.request(0)).body["tools"]]
            assert "s__a" in offered
            evil = "Evil.\nb: on\n  now:    Good."
            told.write_text(json.dumps([{"name": "a", "description": evil}, {"name": "new"}]))
            assert (await cli.run("ask", "Hi")).out.endswith("No.\n")
            assert "s__a is switched off" in (await endpoint.request(2)).body["messages"][-1]["content"]
        listed = await cli.run("mcp", "list")
        rows = {line.split("\t")[1]: line.split("\t")[2:] for line in listed.out.splitlines()}
        assert rows["a"][:2] == ["changed, off", "pure"]
        assert rows["new"][0] == "new, off"
        doctor = await cli.run("doctor")
        assert "a (changed, off), new (new, off)" in doctor.out
        assert "mcp confirm s" in doctor.out
        assert (await cli.run("mcp", "confirm", "s", "b")).code == 1
        done = await cli.run("mcp", "confirm", "s", "a")
        assert (done.code, "before: Good." in done.out, r"now:    Evil.\nb: on\n" in done.out) == (0, True, True)
        assert len(done.out.splitlines()) == 3
        assert (await cli.run("mcp", "confirm", "s")).code == 0
        again = await cli.run("mcp", "confirm", "s")
        assert (again.code, "Nothing of s waits" in again.err) == (0, True)
        unknown = await cli.run("mcp", "confirm", "nobody")
        assert (unknown.code, "known: s, never" in unknown.err) == (1, True)

    asyncio.run(main())


def test_a_run_of_the_command_line_calls_a_tool_and_leaves_no_process(tmp_path: Path) -> None:
    async def main() -> None:
        program, *rest = command("plain")
        values = {"command": program, "args": rest, "effects": {"say": "pure"}}
        async with Endpoint([tool_calls(("c0", "s__say", ['{"text": "heard"}'])), text("Done.")]) as endpoint:
            cli = Cli(tmp_path, STEPWELL_MCP=json.dumps({"s": values})).at(endpoint.base_url)
            assert (await cli.run("ask", "Say it.")).out.endswith("Done.\n")
            assert (await endpoint.request(1)).body["messages"][-1]["content"] == "heard"

    asyncio.run(main())


def test_a_person_logs_in_at_a_server_and_no_token_is_shown(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            login_server() as url,
            Endpoint([tool_calls(("c0", "s__renewed", ["{}"])), text("Done.")]) as endpoint,
        ):
            values = {"url": url, "oauth": True, "effects": {"renewed": "pure"}}
            cli = Cli(tmp_path, STEPWELL_MCP=json.dumps({"s": values, "t": {"command": "x"}})).at(endpoint.base_url)
            logging_in = await cli.start("mcp", "login", "s")
            assert logging_in.stdout is not None
            async with asyncio.timeout(WAIT):
                address = (await logging_in.stdout.readline()).decode().strip()
                assert (await browse(address)).status_code == 200
            done = await finish(logging_in)
            assert (done.code, done.out) == (0, "")
            assert "Open this address" in done.err
            assert "Logged in at s." in done.err
            assert (await cli.run("ask", "Go.")).out == "Done.\n"
            assert (await endpoint.request(1)).body["messages"][-1]["content"] == "0"
            kept = (cli.data / "mcp_logins" / "s.json").read_text()
            token = json.loads(kept)["access"]
            stored = b"".join(each.read_bytes() for each in cli.data.glob("*") if each.is_file())
            assert token.encode() not in stored + (done.out + done.err).encode()
            off = await cli.run("mcp", "login", "t")
            assert (off.code, "mcp.t.oauth is off; switch it on" in off.err) == (1, True)

    asyncio.run(main())


def test_prompts_of_a_server_are_listed(tmp_path: Path) -> None:
    async def main() -> None:
        program, *rest = SDK
        async with Endpoint([text("Hello.")]) as endpoint:
            cli = Cli(tmp_path, STEPWELL_MCP=json.dumps({"s": {"command": program, "args": rest}}))
            assert (await cli.at(endpoint.base_url).run("ask", "Hi")).out == "Hello.\n"
        rows = [line.split("\t") for line in (await cli.run("mcp", "list")).out.splitlines()]
        assert ["s", "greet", "prompt, for people", "", "Greet somebody."] in rows
        assert "read_resource" not in [row[1] for row in rows]

    asyncio.run(main())


def test_a_server_that_is_stopped_leaves_no_process_of_an_mcp_server(tmp_path: Path) -> None:
    async def main() -> list[int]:
        program, *rest = command("children", str(tmp_path / "pids"))
        cli = Cli(tmp_path, STEPWELL_MCP=json.dumps({"s": {"command": program, "args": rest}}))
        async with cli.serving():
            numbers = [int(each) for each in (tmp_path / "pids").read_text().split()]
            assert all(psutil.pid_exists(each) for each in numbers)
        return numbers

    numbers = asyncio.run(main())
    assert len(numbers) == 3
    assert [each for each in numbers if psutil.pid_exists(each) and psutil.Process(each).status() != "zombie"] == []


@pytest.mark.parametrize(("typed", "on"), [("y\n", True), ("\n", False)])
def test_in_a_terminal_a_person_is_asked_before_a_tool_is_on(tmp_path: Path, typed: str, on: bool) -> None:
    async def main() -> None:
        settings(tmp_path / "stepwell.toml", tmp_path / "none")
        cli = Cli(tmp_path)
        pins = Pins(cli.data)
        pins.see("s", Offer({"a": define("a", "Good.", {"type": "object"}, (False, False))}, {}))
        pins.see("s", Offer({"a": define("a", "Evil.", {"type": "object"}, (False, False))}, {}))
        async with cli.terminal("mcp", "confirm", "s") as terminal:
            await terminal.expect("[y/N]")
            terminal.type(typed)
            await terminal.expect("On: a" if on else "Nothing was changed")
        pins.refresh()
        assert pins.is_on("s", "a") is on

    asyncio.run(main())
