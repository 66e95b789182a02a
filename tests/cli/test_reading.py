"""`stepwell threads`, `show` and `replay`: what they read from the database."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import apsw
import pytest

from tests.cli.running import Cli
from tests.support.endpoint import Endpoint, text, tool_calls


def run_with_two_tools(cli: Cli) -> str:
    """Let a model call two tools in two steps; return the thread's id."""

    async def main() -> str:
        replies = [
            tool_calls(("a", "calculate", ['{"query": "6*7"}'])),
            tool_calls(("b", "calculate", ['{"query": "2+3"}'])),
            text("42 and 5", thinking=["hm"]),
        ]
        async with Endpoint(replies) as endpoint:
            assert (await cli.at(endpoint.base_url).run("ask", "6*7 and 2+3?")).code == 0
        (thread,) = await cli.threads()
        return thread

    return asyncio.run(main())


def change(cli: Cli, seq: int, old: str, new: str) -> None:
    """Change an event of the only thread behind everybody's back."""
    db = apsw.Connection(str(cli.data / "stepwell.db"))
    sql = "UPDATE events SET body = replace(body, ?, ?) WHERE id & 4294967295 = ? RETURNING id"
    assert len(list(db.execute(sql, (old, new, seq)))) == 1
    db.close()


def numbered(lines: list[str], beginning: str) -> int:
    return next(number for number, line in enumerate(lines, 1) if line.startswith(beginning))


@pytest.mark.parametrize("command", ["threads", "show", "replay"])
def test_an_empty_folder_is_said_to_be_empty_and_stays_so(tmp_path: Path, command: str) -> None:
    cli = Cli(tmp_path)
    done = asyncio.run(cli.run(command, *([] if command == "threads" else ["0123"])))
    assert (done.code, done.out) == (0 if command == "threads" else 1, "")
    assert str(cli.data) in done.err
    assert not cli.data.exists()


def test_threads_are_listed_newest_first_for_programs_and_for_people(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        for question in ("what is 1+1?", "what is 2+2?", "hello\tthere\nyou"):
            await cli.run("ask", question)
        lines = (await cli.run("threads")).out.splitlines()
        assert [line.split("\t")[-1] for line in lines] == ["hello there you", "what is 2+2?", "what is 1+1?"]
        assert (await cli.run("threads", "--limit", "1")).out.splitlines() == lines[:1]
        nobody = await cli.run("threads", "--owner", "nobody")
        assert (nobody.code, nobody.out, "nobody" in nobody.err) == (0, "", True)
        async with cli.terminal("threads") as terminal:
            assert await terminal.left() == 0
            await terminal.expect("title")
            await terminal.expect(lines[0][:12])
            await terminal.expect("what is 1+1?")
        async with cli.terminal("threads", env={"COLUMNS": "40", "LANG": "zh_CN.UTF-8"}) as terminal:
            assert await terminal.left() == 0
            for line in lines:  # a command takes the id from here, so that it is whole on any screen
                await terminal.expect(line[:12])

    asyncio.run(main())


def test_show_has_a_line_for_each_event(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    thread = run_with_two_tools(cli)
    lines = asyncio.run(cli.shown(thread[:6]))
    assert lines[0].startswith("run started: model m, face cli, tools calculate")
    assert lines[1] == "user: 6*7 and 2+3?"
    assert 'assistant (tool_calls): calculate({"query": "6*7"})' in lines
    assert "tool result (ok, a): 42" in lines
    assert lines[-1] == "run ended: answer"
    as_json = asyncio.run(cli.run("show", thread, "--json")).out.splitlines()
    events = [json.loads(line) for line in as_json]
    assert [event["seq"] for event in events] == list(range(1, len(lines) + 1))
    assert events[-1]["event"] == {"type": "run_ended", "reason": "answer"}


def test_show_shortens_long_text_to_one_line(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        await cli.run("ask", "line\n" * 5000)
        (thread,) = await cli.threads()
        question = (await cli.shown(thread))[1]
        assert question.endswith("…")
        assert len(question) < 200

    asyncio.run(main())


def test_a_prefix_of_two_threads_names_neither(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        for question in ("hi", "hello"):
            await cli.run("ask", question)
        db = apsw.Connection(str(cli.data / "stepwell.db"))
        db.execute("UPDATE threads SET id = 'abc' || no || substr(id, 5)")
        db.close()
        for command in ("show", "replay"):
            done = await cli.run(command, "abc")
            assert (done.code, "2 threads" in done.err) == (1, True)
            assert (await cli.run(command, "abc2")).code == 0
        assert (await cli.run("show", "")).code == 1

    asyncio.run(main())


def test_replay_finds_no_difference_and_asks_nobody(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    thread = run_with_two_tools(cli)
    # The endpoint of that run is closed by now.
    done = asyncio.run(cli.run("replay", thread[:6]))
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("No difference: ")
    assert "1 runs, 3 requests" in done.out


def test_replay_names_the_first_request_that_a_changed_result_makes_different(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    thread = run_with_two_tools(cli)
    lines = asyncio.run(cli.shown(thread))
    change(cli, numbered(lines, "tool result (ok, b)"), '"5"', '"6"')
    done = asyncio.run(cli.run("replay", thread))
    second, third = numbered(lines, "step 2"), numbered(lines, "step 3")
    assert (done.code, done.err) == (1, "")
    assert done.out.splitlines()[0] == f"Event {third}: the request of step 3 differs."
    assert f"event {second} was the same" in done.out
    in_chinese = asyncio.run(Cli(tmp_path, LANG="zh_CN.UTF-8").run("replay", thread))
    assert in_chinese.out.startswith(f"事件 {third}：")


def test_replay_names_a_constant_that_changed(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    thread = run_with_two_tools(cli)
    change(cli, 1, '"chat.malformed_limit":"3"', '"chat.malformed_limit":"2"')
    done = asyncio.run(cli.run("replay", thread))
    assert (done.code, done.out) == (
        1,
        "Event 1: chat.malformed_limit was 2 when the run started; now it is 3.\n",
    )


def test_replay_shows_a_decision_that_differs_and_a_tool_that_is_gone(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    thread = run_with_two_tools(cli)
    gone = asyncio.run(Cli(tmp_path, STEPWELL_TOOLS__DISABLED="now").run("replay", thread))
    assert gone.code == 1
    assert "no longer in the settings: now" in gone.out
    lines = asyncio.run(cli.shown(thread))
    ended = numbered(lines, "run ended")
    change(cli, ended, '"answer"', '"cancelled"')
    done = asyncio.run(cli.run("replay", thread))
    assert done.code == 1
    assert done.out.splitlines()[0].startswith(f"Event {ended}")
