"""Calls of tools: what a crash, a cancel, a failure or bad arguments leave of them (F05-F07, F09, F15, F17, F19)."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from stepwell.events import Answered, Asked, RunClaimed, RunEnded, ToolEnded, ToolStarted, Warned
from tests.faults.support.case import Parent, Victim, by_turn, calls, case, met, run
from tests.faults.support.examine import of, replies
from tests.faults.support.parent import Death
from tests.support.endpoint import text
from tests.support.server import WAIT

DECISIONS = {"retry": ("ok", 1), "done": ("ok", 0), "skip": ("unknown", 0)}
"""How a call that was cut off ends, and how many effects its retry adds."""


async def begin(victim: Victim) -> str:
    """Start the run of a case in a new thread."""
    thread = await victim.thread()
    await victim.start(thread, "go")
    return thread


@pytest.mark.parametrize("decision", DECISIONS)
def test_f05_a_write_that_was_meant_and_not_done_is_decided_by_a_person(
    tmp_path: Path, parent: Parent, decision: str
) -> None:
    async def main() -> None:
        async with case(tmp_path, by_turn([("look", {"what": "a"}), ("note", {"what": "b"})]), parent) as it:
            async with it.victim(die="before note b") as victim:
                thread = await begin(victim)
            await decided(it, thread, decision, done_before=0)
        _check_decided(it.log, decision)

    run(main)


@pytest.mark.parametrize("decision", DECISIONS)
def test_f06_a_write_that_was_done_and_not_noted_is_decided_by_a_person(
    tmp_path: Path, parent: Parent, decision: str
) -> None:
    async def main() -> None:
        async with case(tmp_path, by_turn([("note", {"what": "b"}), ("look", {"what": "a"})]), parent) as it:
            async with it.victim(die="after note b") as victim:
                thread = await begin(victim)
            await decided(it, thread, decision, done_before=1)
        _check_decided(it.log, decision)

    run(main)


async def decided(it: Any, thread: str, decision: str, *, done_before: int) -> None:
    """Restart twice, decide, and check what was done outside: nothing without the decision."""
    async with it.victim() as victim:
        (question,) = await victim.asked(thread)
        assert (question["kind"], question["decisions"]) == ("outcome", ["retry", "done", "skip"])
        assert (question["tool"], json.loads(question["arguments"])) == ("note", {"what": "b"})
    async with it.victim() as victim:
        assert await victim.questions(thread) == [question]
        assert Counter(each.tool for each in it.effects)["note"] == done_before
        more = {"text": "It is in the book."} if decision == "done" else {}
        await victim.decide(thread, question["seq"], decision, hash=question["hash"], **more)
        await victim.over(thread)
    found = Counter(each.tool for each in it.effects)
    assert found["note"] == done_before + DECISIONS[decision][1]


def _check_decided(log: Any, decision: str) -> None:
    (started,) = [each for each in of(log, ToolStarted) if each.name == "note"]
    (ended,) = [each for each in of(log, ToolEnded) if each.call == started.call]
    assert ended.status == DECISIONS[decision][0]
    assert decision != "done" or ended.content == "It is in the book."
    assert [each.kind for each in of(log, Asked)] == ["outcome"]
    assert [each.decision for each in of(log, Answered)] == [decision]
    assert replies(log)[-1] == "Alldone."


@pytest.mark.parametrize("when", ["before", "after"])
def test_f06_an_idempotent_call_that_was_cut_off_is_made_again_under_the_same_key(
    tmp_path: Path, parent: Parent, when: str
) -> None:
    async def main() -> None:
        async with case(tmp_path, by_turn([("put", {"what": "c"}), ("look", {"what": "a"})]), parent) as it:
            async with it.victim(die=f"{when} put c") as victim:
                thread = await begin(victim)
            async with it.victim() as victim:
                await victim.over(thread)
            put = [each for each in it.effects if each.tool == "put"]
            assert len(put) == 1 + (when == "after")
            assert len({each.key for each in put}) == 1, "downstream would have counted two"
        assert [each.status for each in of(it.log, ToolEnded)] == ["ok", "ok"]
        assert not of(it.log, Asked)

    run(main)


@pytest.mark.parametrize("name", ["note", "put"])
def test_f07_a_call_whose_result_is_stored_is_not_made_again(tmp_path: Path, parent: Parent, name: str) -> None:
    async def main() -> None:
        async with case(tmp_path, by_turn([(name, {"what": "a"})]), parent) as it:
            async with it.victim(Death(type="tool_ended")) as victim:
                thread = await begin(victim)
            async with it.victim() as victim:
                await victim.over(thread)
            assert [(each.tool, each.what) for each in it.effects] == [(name, "a")]
            asked = [request.body["messages"][-1] for request in it.endpoint.requests]
            assert asked[-1]["content"] == f"{name} a done"
        assert [each.content for each in of(it.log, ToolEnded)] == [f"{name} a done"]
        assert len(of(it.log, RunClaimed)) == 1

    run(main)


def test_f09_a_tool_that_blocks_its_thread_for_long_is_not_run_again_and_stops_nobody_else(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")

    async def main() -> None:
        model = by_turn([("block", {"what": "gate"})])
        async with case(tmp_path, model) as it:
            async with it.serving(grace=WAIT) as (person, server):
                thread = await person.thread()
                await person.start(thread, "go")
                await person.happens(thread, lambda events: "tool_started" in str(events[-1:]))
                # Nobody may take the run over, however often somebody looks for what is left lying.
                assert [await server.service.resume() for _ in range(3)] == [0, 0, 0]
                with open(tmp_path / "gate", "w") as gate:  # it is there when the tool has opened its end
                    gate.write("opened")
                await person.over(thread)
            assert [each.tool for each in it.effects] == ["block"]
        assert [each.content for each in of(it.log, ToolEnded)] == ["block gate opened"]
        assert not of(it.log, RunClaimed)

    run(main)


def test_f15_a_cancel_leaves_a_thread_to_itself_and_says_so(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")

    async def main() -> None:
        async with case(tmp_path, [calls(("block", {"what": "gate"})), text("Fine.")]) as it:
            async with it.serving() as (person, _):
                thread = await person.thread()
                await person.start(thread, "go")
                await person.happens(thread, lambda events: "tool_started" in str(events[-1:]))
                await person.post(f"/api/threads/{thread}/runs/1/cancel")
                over = await person.over(thread)
                with open(tmp_path / "gate", "w") as gate:
                    gate.write("opened")
                await person.say(thread, "and now?")
                assert (await person.events(thread))[: len(over)] == over
        first = of(it.log, ToolEnded)[0]
        assert (first.status, "may still finish" in first.content) == ("cancelled", True)
        assert "opened" not in first.content
        assert [end.reason for end in of(it.log, RunEnded)] == ["cancelled", "answer"]

    run(main)


@pytest.mark.parametrize("kind", ["bubblewrap", "none"])
def test_f15_a_cancel_ends_a_command_with_its_children_and_theirs(tmp_path: Path, kind: str) -> None:
    seconds = {"bubblewrap": "2971", "none": "2972"}[kind]
    # Without a sandbox nobody can find what leaves the group of its processes.
    leaves = "setsid " if kind == "bubblewrap" else ""
    command = f"(sleep {seconds} & ({leaves}sleep {seconds} & sleep {seconds})) & trap '' TERM; sleep {seconds}; true"

    def running() -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for each in psutil.process_iter(["cmdline"]):
            if each.info["cmdline"] and each.info["cmdline"][-1] == seconds:
                found.append(each)
        return found

    async def main() -> None:
        tools = {"shell": {"enabled": True, "sandbox": kind}, "modules": ["tests.faults.support.tools"]}
        async with case(tmp_path, [calls(("shell", {"query": command})), text("Fine.")], tools=tools) as it:
            async with it.serving() as (person, _):
                thread = await person.thread()
                await person.start(thread, "go")
                await met(lambda: len(running()) >= 4)
                before = running()
                await person.post(f"/api/threads/{thread}/runs/1/cancel")
                async with asyncio.timeout(5.0):
                    await person.over(thread)
                    await asyncio.to_thread(psutil.wait_procs, before, 5.0)
                    assert not running()
                await person.say(thread, "and now?")
        assert of(it.log, ToolEnded)[0].status == "cancelled"
        assert [end.reason for end in of(it.log, RunEnded)] == ["cancelled", "answer"]

    try:
        run(main)
    finally:
        for each in running():
            each.kill()


def test_f17_of_calls_side_by_side_each_has_its_own_result_in_the_order_of_the_calls(tmp_path: Path) -> None:
    wanted = [
        calls(("look", {"what": "a"}), ("fail", {"what": "b"}), ("stop_itself", {"what": "c"}), number=1),
        calls(("look", {"what": "d"}), ("fail", {"what": "e"}), ("hang", {"what": "f"}), number=2),
        text("Fine."),
    ]

    async def main() -> None:
        async with case(tmp_path, wanted) as it:
            async with it.serving() as (person, _):
                thread = await person.thread()
                await person.start(thread, "go")
                await person.happens(thread, lambda events: str(events).count("tool_ended") == 5)
                await met(lambda: any(each.tool == "hang" for each in it.effects))
                await person.post(f"/api/threads/{thread}/runs/1/cancel")
                await person.over(thread)
                await person.say(thread, "and now?")
            sent = [each for each in it.endpoint.requests[-1].body["messages"] if each["role"] == "tool"]
            ids = [f"call_{turn}_{at}" for turn in (1, 2) for at in range(3)]
            assert [each["tool_call_id"] for each in sent] == ids
            told = [each["content"] for each in sent]
            assert told[0] == "look a done"
            assert "no b here" in told[1]
            assert "cancelled itself" in told[2]
            assert told[3] == "look d done"
            assert "no e here" in told[4]
            assert "stopped before" in told[5]
        status = {each.call: each.status for each in of(it.log, ToolEnded)}
        assert [status[id] for id in ids] == ["ok", "failed", "cancelled"] * 2

    run(main)


BAD_ARGUMENTS = {
    "cut": '{"value": "a',
    "null": "null",
    "a list": "[1]",
    "a text": '"a"',
    "the same field twice": '{"value": 1, "value": 2}',
    "not a number": '{"value": NaN}',
    "5,000 digits": '{"value": ' + "9" * 5000 + "}",
    "1,000 deep": '{"value": ' + "[" * 1000 + "]" * 1000 + "}",
    "nothing": "",
    "two objects": '{"value": 1}{"value": 2}',
    "1 MB and cut": '{"value": "' + "x" * 1_000_000,
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_f19_arguments_that_are_no_object_are_never_run_or_mended_and_the_fourth_in_a_row_ends_the_run(
    tmp_path: Path, name: str
) -> None:
    wanted = [calls(("take", BAD_ARGUMENTS[name]), number=number) for number in range(4)]

    async def main() -> None:
        async with case(tmp_path, [*wanted, text("Sorry.")], model={"window": 1_000_000}) as it:
            async with it.serving() as (person, _):
                thread = await person.thread()
                await person.say(thread, "go")
                await person.say(thread, "and now?")
            assert it.effects == []
        ended = of(it.log, ToolEnded)
        assert [each.status for each in ended] == ["invalid"] * 4
        for each in ended:
            assert "Not run: the arguments of take are wrong" in each.content
            assert len(each.content.partition("Sent was: ")[2]) <= 800
        assert of(it.log, ToolStarted) == []
        first, second = of(it.log, RunEnded)
        assert (first.reason, first.cause) == ("failed", "malformed_tool_call")
        assert second.reason == "answer"

    run(main)


def test_f19_a_call_that_brings_the_same_result_again_and_again_stops_and_asks(tmp_path: Path) -> None:
    wanted = [calls(("look", {"what": "a"}), number=number) for number in range(4)]

    async def main() -> None:
        async with case(tmp_path, [*wanted, text("I see.")]) as it:
            async with it.serving() as (person, _):
                thread = await person.thread()
                await person.start(thread, "go")
                (question,) = await person.asked(thread)
                assert (question["kind"], question["decisions"]) == ("repetition", ["continue", "stop"])
                assert len(it.effects) == 3
                await person.decide(thread, question["seq"], "continue")
                await person.over(thread)
            assert len(it.effects) == 4
        assert of(it.log, RunEnded) == [RunEnded("answer")]
        assert not of(it.log, Warned)

    run(main)
