"""`stepwell context` and `pin`, and how `show` describes what an agent knows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import get_args

import pytest

from stepwell.cli.describe import describe
from stepwell.cli.screen import Screen
from stepwell.contexts import TaskConclusion
from stepwell.events import (
    ContextCompacted,
    Cut,
    HistoryCleared,
    LongTermUpdated,
    StepStarted,
    Stored,
    SummaryEnded,
    SummaryStarted,
    ToolEnded,
    Warned,
    WindowLearned,
    WorkingUpdated,
)
from stepwell.messages import Message
from tests.cli.running import Cli
from tests.cli.test_describe import PEOPLE
from tests.support.endpoint import Endpoint, text, tool_calls
from tests.test_examples import CONFIG, QUESTION, cli_in, done

NEW = [
    (LongTermUpdated(pinned="the code"), "pinned: the code"),
    (LongTermUpdated(unpinned="the code"), "pin removed: the code"),
    (LongTermUpdated(rolled="all of it", rolled_messages=3, rolled_tasks=1), "3 user messages and 1 past tasks rolled"),
    (LongTermUpdated(user_message="hello"), "long-term context: hello"),
    (LongTermUpdated(past_task=TaskConclusion(summary="done", status="success")), "long-term context: done"),
    (LongTermUpdated(experience="much", ideas=("one",)), "long-term context: experience, ideas"),
    (WorkingUpdated({"Place": "here"}, "it rains"), "working context: Place: here it rains"),
    (HistoryCleared(), "history cleared"),
    (
        ContextCompacted(9, "digest", (Cut(8, 10),), rung=1, before=5000, after=2000),
        "compacted on rung 1: 5,000 tokens to 2,000, messages up to event 9 left, 1 cut",
    ),
    (WindowLearned(4096, "m"), "the window of m is 4,096 tokens, as its endpoint says"),
    (SummaryStarted("tool_calls", 3, 9), "summary of tool_calls begun (3 to 9)"),
    (SummaryEnded("tool_calls", 3, 9, text="they looked"), "summary of tool_calls (3 to 9, ok): they looked"),
    (SummaryEnded("rolling", 3, 9, "cancelled"), "summary of rolling (3 to 9, cancelled)"),
    (Warned("no_reply", "nothing came"), "warning (no_reply): nothing came"),
    (StepStarted(2, "a" * 43), "step 2, request aaaaaaaaaaaa"),
    (
        StepStarted(2, "a" * 43, (Message("user", "x"),), "Sum", aside=True, repairs=True),
        "step 2, request aaaaaaaaaaaa, reply in the form Sum, 1 messages of its own, aside, repairs the reply before",
    ),
    (
        ToolEnded("c1", "head", blob="ab" * 32, size=50_000),
        "tool result (ok, c1), 50,000 bytes as blob:abababababab: head",
    ),
]


@pytest.mark.parametrize(("event", "line"), NEW)
def test_what_an_agent_knows_has_a_line_in_both_languages(event: Stored, line: str) -> None:
    said, _ = describe(event, Screen("en"))
    assert said.startswith(line)
    chinese, _ = describe(event, Screen("zh"))
    assert any("\u4e00" <= letter <= "\u9fff" for letter in chinese)
    assert "{" not in chinese


def test_every_kind_of_event_about_contexts_is_described_here() -> None:
    old = "RunStarted RunEnded RunClaimed MessageAdded StepEnded MessageStarted MessageEnded ModelFailed ToolStarted"
    older = {*old.split(), "CancelRequested", "TitleChanged", *(type(event).__name__ for event, _ in PEOPLE)}
    assert {type(event).__name__ for event, _ in NEW} == {kind.__name__ for kind in get_args(Stored)} - older


def test_the_context_of_a_step_is_a_table_for_people_and_json_for_programs(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        replies = [
            tool_calls(("a", "calculate", ['{"query": "6*7"}']), tokens_used=(400, 9)),
            text("42", tokens_used=(500, 2)),
        ]
        async with Endpoint(replies) as endpoint:
            assert (await cli.at(endpoint.base_url).run("ask", "6*7?")).code == 0
        (thread,) = await cli.threads()
        done = await cli.run("context", thread[:6])
        assert (done.code, done.err) == (0, "")
        lines = done.out.splitlines()
        assert lines[0].startswith("step 2 of run 1 (event ")
        assert [line.split("\t")[0] for line in lines[1:5]] == ["system message", "tools (2)", "user messages", "calls"]
        assert "The provider counted 500 tokens, 0% of them from its cache." in lines
        assert "The request rebuilt here has the hash of the one that was sent." in lines
        assert lines[-1] == "Nothing was left out."
        first = json.loads((await cli.run("context", thread, "--run", "1", "--step", "1", "--json")).out)
        assert (first["step"], first["counted"], first["proved"]) == (1, 400, True)
        chinese = await Cli(tmp_path, **{**cli.env, "LANG": "zh_CN.UTF-8"}).run("context", thread)
        assert chinese.out.startswith("运行 1 的第 2 步")
        missing = await cli.run("context", thread, "--step", "3")
        assert (missing.code, missing.out) == (1, "")
        assert "no step 3" in missing.err
        assert (await cli.run("context", thread, "--step", "0")).code == 2

    asyncio.run(main())


def test_the_context_of_an_agent_inside_a_run_is_asked_for_by_its_path(tmp_path: Path) -> None:
    async def main() -> None:
        cli = cli_in(tmp_path)
        await done(cli, "run", QUESTION, "--plan")
        (thread,) = await cli.threads()
        shown = (await done(cli, "context", thread, "--agent", "1.2", "--step", "2")).out.splitlines()
        assert shown[0].startswith("step 2 of agent 1.2 in run 1 (event ")
        assert "The request rebuilt here has the hash of the one that was sent." in shown
        newest = json.loads((await done(cli, "context", thread, "--agent", "1.2", "--json")).out)
        assert (newest["agent"], newest["step"], newest["proved"]) == ("1.2", 3, True)
        own = (await done(cli, "context", thread)).out
        assert own.startswith("step ")
        assert " of run 1 " in own
        for args, said in (
            (("--agent", "7"), ("give --agent one of: 1.1, 1.2, 1.3", "--agent 可取：1.1, 1.2, 1.3")),
            (("--agent", "1.2", "--step", "9"), ("its newest is 3", "最新的是第 3 步")),
            (("--run", "9"), ("no such run", "没有这个运行")),
        ):
            for language, words in zip(("C.UTF-8", "zh_CN.UTF-8"), said, strict=True):
                cli.env["LANG"] = language
                missing = await cli.run("context", thread, *args, *CONFIG)
                assert (missing.code, missing.out) == (1, "")
                assert words in missing.err
        cli.env["LANG"] = "zh_CN.UTF-8"
        assert (await done(cli, "context", thread, "--agent", "1.2")).out.startswith("运行 1 中智能体 1.2 的第 3 步")

    asyncio.run(main())


def test_a_run_without_agents_inside_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        async with Endpoint([text("42")]) as endpoint:
            assert (await cli.at(endpoint.base_url).run("ask", "6*7?")).code == 0
        (thread,) = await cli.threads()
        missing = await cli.run("context", thread, "--agent", "1")
        assert (missing.code, "leave out --agent" in missing.err) == (1, True)

    asyncio.run(main())


def test_an_empty_folder_has_no_context(tmp_path: Path) -> None:
    done = asyncio.run(Cli(tmp_path).run("context", "0123"))
    assert (done.code, done.out) == (1, "")


@pytest.mark.parametrize("server", [False, True], ids=["folder", "server"])
def test_a_fact_is_pinned_listed_and_removed(tmp_path: Path, server: bool) -> None:
    async def work(cli: Cli, thread: str) -> None:
        done = await cli.run("pin", thread[:8], "The code is 4711.")
        assert (done.code, done.out, done.err[:10]) == (0, "", "Pinned as ")
        (line,) = (await cli.run("pin", thread, "--list")).out.splitlines()
        id, fact = line.split("\t")
        assert fact == "The code is 4711."
        assert f"pinned: {fact}" in await cli.shown(thread)
        assert (await cli.run("pin", thread, "--remove", "0" * 12)).code == 1
        assert (await cli.run("pin", thread, "--remove", id)).code == 0
        assert (await cli.run("pin", thread, "--list")).out == ""
        long = await cli.run("pin", thread, "x" * 4001)
        assert (long.code, "4,000" in long.err) == (1, True)
        for wrong in ([], ["x", "--list"], ["x", "--remove", id]):
            assert (await cli.run("pin", thread, *wrong)).code == 1
        unknown = await cli.run("pin", "nope", "x")
        assert (unknown.code, "no thread" in unknown.err) == (1, True)

    async def main() -> None:
        cli = Cli(tmp_path)
        await cli.run("ask", "hi")
        (thread,) = await cli.threads()
        async with cli.maybe_serving(server):
            await work(cli, thread)

    asyncio.run(main())
