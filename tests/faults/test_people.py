"""What people decide and say counts once, in order, whatever dies meanwhile and whatever the clock says (F25, F26)."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stepwell.events import (
    Answered,
    Asked,
    MessageAdded,
    MessageEnded,
    MessageQueued,
    Recorded,
    RunEnded,
    RunStarted,
    Steered,
    ToolEnded,
    ToolStarted,
)
from tests.faults.support.case import Case, Parent, Person, calls, case, kinds, met, run
from tests.faults.support.examine import of, replies
from tests.faults.support.parent import Death
from tests.support.endpoint import Reply, Request, chunk, ending, text
from tests.support.server import WAIT

ASK = {"rules": [{"decision": "ask", "tool": "send"}, {"decision": "allow"}]}
DAY = 24 * 3600 * 1000


def three(request: Request) -> Reply:
    """Call for three approvals at once, then answer."""
    if any(each["role"] == "tool" for each in request.body["messages"]):
        return text("All sent.")
    return calls(*(("send", {"what": what}) for what in "abc"), said="Three letters.")


def one(request: Request) -> Reply:
    """Call for one approval, then answer."""
    if request.body["messages"][-1]["role"] == "tool":
        return text("Sent.")
    return calls(("send", {"what": "a"}), number=len(request.body["messages"]))


async def begin(person: Person, content: str = "go") -> str:
    thread = await person.thread()
    await person.start(thread, content)
    return thread


def sent(it: Case) -> list[str]:
    return [each.what for each in it.effects if each.tool == "send"]


def results(log: list[Recorded]) -> dict[str, tuple[str, str]]:
    """Return status and text of each call's result, by what the model asked for."""
    wanted = {call.id: call.arguments for each in of(log, MessageEnded) for call in each.message.calls}
    return {json.loads(wanted[each.call])["what"]: (each.status, each.content) for each in of(log, ToolEnded)}


def test_f25_three_approvals_outlive_a_crash_and_exactly_the_approved_bytes_run(tmp_path: Path, parent: Parent) -> None:
    async def main() -> None:
        async with case(tmp_path, three, parent, approvals=ASK) as it:
            async with it.victim(lives=False) as victim:
                thread = await begin(victim)
                before = await victim.asked(thread, 3)
                victim.kill()
            async with it.victim(lives=False) as victim:
                assert await victim.questions(thread) == before
                a, b, c = before
                assert [json.loads(each["arguments"])["what"] for each in before] == ["a", "b", "c"]
                await victim.decide(thread, c["seq"], "approve", hash=c["hash"], arguments='{"what": "C, edited"}')
                await victim.happens(thread, lambda events: str(events).count("tool_ended") == 1)
                victim.kill()
            async with it.victim() as victim:
                assert await victim.questions(thread) == [a, b]
                await victim.decide(thread, b["seq"], "deny", text="not today")
                await victim.decide(thread, a["seq"], "approve", hash=a["hash"])
                await victim.over(thread)
            assert Counter(sent(it)) == Counter(["a", "C, edited"])
        found = results(it.log)
        assert {what: status for what, (status, _) in found.items()} == {"a": "ok", "b": "denied", "c": "ok"}
        assert "not today" in found["b"][1]
        assert "C, edited" in found["c"][1], "the model is told what ran in place of its own arguments"
        assert len(of(it.log, Asked)) == len(of(it.log, Answered)) == 3
        started = [each.call for each in of(it.log, ToolStarted)]
        assert len(started) == len(set(started)) == 2, "no tool is announced twice"

    run(main)


def test_f25_a_running_tool_acts_on_no_answer_that_may_be_lost(tmp_path: Path, parent: Parent) -> None:
    """The answer is never stored, and the process dies: had the tool gone on with it, nobody would know with what."""

    def brain(request: Request) -> Reply:
        if request.body["messages"][-1]["role"] == "tool":
            return text("Painted.")
        return calls(("paint" if "paint it" in str(request.body) else "note", {"what": "a"}))

    async def main() -> None:
        async with case(tmp_path, brain, parent) as it:
            async with it.victim(Death(type="answered", when="held")) as victim:
                thread = await begin(victim, "paint it")
                (asked,) = await victim.asked(thread)
                told = asyncio.ensure_future(victim.decide(thread, asked["seq"], "answer", text="red"))
                # Another thread goes from its beginning to its end meanwhile, and the answer still waits for the disk.
                await victim.over(await begin(victim))
                assert not told.done()
                assert [each.tool for each in it.effects] == ["note"]
                victim.kill()
                with pytest.raises(aiohttp.ClientError):
                    await told
            async with it.victim() as victim:
                (asked,) = await victim.asked(thread)
                await victim.decide(thread, asked["seq"], "answer", text="blue")
                await victim.over(thread)
            assert [each.what for each in it.effects if each.tool == "paint"] == ["a blue"]
        said = [each.text for each in of(it.logs[thread], Answered) if each.decision == "answer"]
        assert said == ["blue"]

    run(main)


def test_f25_of_many_decisions_at_once_exactly_one_counts(tmp_path: Path) -> None:
    async def main() -> None:
        async with case(tmp_path, one, approvals=ASK) as it:
            async with it.serving() as (person, _):
                threads = [await begin(person) for _ in range(10)]
                for thread in threads:
                    (question,) = await person.asked(thread)
                    path = f"/api/threads/{thread}/questions/{question['seq']}/answer"
                    said = ["approve", "deny", "approve", "deny", "approve"]
                    answers = await asyncio.gather(
                        *(person.call("POST", path, json={"decision": each}) for each in said)
                    )
                    assert sorted(status for status, _ in answers) == [202, 409, 409, 409, 409]
                    await person.over(thread)
                    assert (await person.call("POST", path, json={"decision": "approve"}))[0] == 409
            approved = 0
            assert len(sent(it)) <= len(threads)
        for log in it.logs.values():
            (answered,) = of(log, Answered)
            ran = results(log)["a"][0]
            assert ran == {"approve": "ok", "deny": "denied"}[answered.decision]
            approved += ran == "ok"
        assert len(sent(it)) == approved

    run(main)


def test_f25_a_decision_that_is_foreign_changed_or_unfit_is_refused_and_the_question_stays(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with case(tmp_path, one, approvals=ASK) as it:
            async with it.serving() as (person, _):
                thread, other = await begin(person), await begin(person)
                (question,) = await person.asked(thread)
                await person.asked(other)
                seq = question["seq"]
                refused: list[tuple[str, int, dict[str, Any], int]] = [
                    (thread, seq + 1, {"decision": "approve"}, 404),
                    (thread, 1, {"decision": "approve"}, 404),
                    ("0" * 32, seq, {"decision": "approve"}, 404),
                    (thread, seq, {"decision": "approve", "hash": "0" * 64}, 409),
                    (thread, seq, {"decision": "retry"}, 422),
                    (thread, seq, {"decision": "approve", "arguments": '{"wat": 1}'}, 422),
                    (thread, seq, {"decision": "approve", "arguments": "{"}, 422),
                    (thread, seq, {"decision": "approve", "arguments": {"what": 7}}, 422),
                    (thread, seq, {"decision": "deny", "arguments": {"what": "x"}}, 422),
                    (thread, seq, {"decision": "maybe"}, 422),
                ]
                for at, number, body, status in refused:
                    await person.post(f"/api/threads/{at}/questions/{number}/answer", body, status)
                assert await person.questions(thread) == [question]
                assert sent(it) == []
                await person.decide(thread, seq, "approve", hash=question["hash"], arguments={"what": "edited"})
                await person.over(thread)
                await person.post(f"/api/threads/{other}/runs/1/cancel")
                await person.over(other)
                await person.decide(other, seq, "approve", 409)
            assert sent(it) == ["edited"]

    run(main)


@pytest.mark.parametrize("skew", [DAY, -DAY])
def test_f25_an_approval_expires_by_the_clock_of_the_next_process(tmp_path: Path, parent: Parent, skew: int) -> None:
    async def main() -> None:
        settings: dict[str, Any] = {"approvals": {**ASK, "seconds": 3600}}
        async with case(tmp_path, one, parent, **settings) as it:
            async with it.victim() as victim:
                thread = await begin(victim)
                (question,) = await victim.asked(thread)
            async with it.victim(skew=skew) as victim:
                if skew > 0:
                    await victim.over(thread)
                    await victim.decide(thread, question["seq"], "approve", 410)
                else:
                    assert await victim.questions(thread) == [question]
                    await victim.decide(thread, question["seq"], "approve")
                    await victim.over(thread)
                    await victim.decide(thread, question["seq"], "approve", 409)
            assert sent(it) == (["a"] if skew < 0 else [])
        (answered,) = of(it.log, Answered)
        assert answered.decision == ("expired" if skew > 0 else "approve")
        assert results(it.log)["a"][0] == ("denied" if skew > 0 else "ok")
        assert of(it.log, RunEnded) == [RunEnded("answer")]

    run(main)


def test_f25_an_approval_that_nobody_gives_in_time_expires_by_itself(tmp_path: Path) -> None:
    async def main() -> None:
        settings: dict[str, Any] = {"approvals": {**ASK, "seconds": 0.2}}
        async with case(tmp_path, one, **settings) as it:
            async with it.serving() as (person, _):
                thread = await begin(person)
                await person.over(thread)
                (asked,) = [each for each in await person.events(thread) if each["event"]["type"] == "asked"]
                await person.decide(thread, asked["seq"], "approve", 410)
            assert sent(it) == []
        status, told = results(it.log)["a"]
        assert (status, "nobody decided in time" in told) == ("denied", True)

    run(main)


# messages while a run is open


class Echo:
    """A model that answers each message by its words; the first one only when the test says so."""

    def __init__(self) -> None:
        self.held = asyncio.Event()
        self.first = True

    def __call__(self, request: Request) -> Reply:
        said = request.body["messages"][-1]["content"]
        waits, self.first = self.first, False
        return Reply([chunk(content="To "), *([self.held] if waits else []), chunk(content=said), *ending()])


def test_f26_queued_messages_are_answered_in_the_order_in_which_they_were_sent_over_a_restart(
    tmp_path: Path, parent: Parent
) -> None:
    async def main() -> None:
        model = Echo()
        async with case(tmp_path, model, parent) as it:
            async with it.victim(lives=False) as victim:
                thread = await begin(victim, "one")
                await it.endpoint.request(0)
                queued: list[int] = []
                for content in ("two", "three", "four", "five"):
                    answer = await victim.post(f"/api/threads/{thread}/messages", {"content": content})
                    assert answer["run"] is None
                    queued.append(answer["queued"])
                victim.kill()
            model.first = False
            with suppress(ConnectionResetError):  # it may be dead before it is up
                async with it.victim(Death(type="run_ended")):
                    pass
            async with it.victim() as victim:
                await victim.over(thread, 5)
                assert (await victim.call("GET", f"/api/threads/{thread}/queue"))[1] == {"queue": []}
        assert [each.seq for each in it.log if isinstance(each.event, MessageQueued)] == queued
        assert [each.queued for each in of(it.log, RunStarted)] == [0, *queued]
        assert [said for said in replies(it.log) if said] == ["To one", "To two", "To three", "To four", "To five"]

    run(main)


def test_f26_waiting_messages_are_changed_moved_and_taken_out(tmp_path: Path) -> None:
    async def main() -> None:
        model = Echo()
        async with case(tmp_path, model) as it:
            async with it.serving() as (person, _):
                thread = await begin(person, "one")
                two, three, four = [
                    (await person.post(f"/api/threads/{thread}/messages", {"content": content}))["queued"]
                    for content in ("two", "three", "four")
                ]
                queue = f"/api/threads/{thread}/queue"
                assert (await person.call("PATCH", f"{queue}/{four}", json={"before": two}))[0] == 200
                assert (await person.call("PATCH", f"{queue}/{two}", json={"content": "2"}))[0] == 200
                assert (await person.call("DELETE", f"{queue}/{three}"))[0] == 200
                assert (await person.call("DELETE", f"{queue}/{three}"))[0] == 404
                left = (await person.call("GET", queue))[1]["queue"]
                assert [(each["item"], each["message"]["content"]) for each in left] == [(four, "four"), (two, "2")]
                model.held.set()
                await person.over(thread, 3)
        assert replies(it.log) == ["To one", "To four", "To 2"]

    run(main)


def test_f26_a_thread_is_never_shown_idle_while_a_message_waits(tmp_path: Path) -> None:
    async def main() -> None:
        model = Echo()
        async with case(tmp_path, model) as it:
            async with it.serving() as (person, _):
                thread = await begin(person, "0")
                for number in range(1, 30):
                    await person.post(f"/api/threads/{thread}/messages", {"content": str(number)})
                model.held.set()
                seen: list[dict[str, Any]] = []
                while not seen or seen[-1]["run"] is not None or seen[-1]["queued"]:
                    seen.append((await person.call("GET", f"/api/threads/{thread}"))[1])
                # The last end may be a commit ahead of what is stored.
                assert kinds(await person.events(thread)).count("run_started") == 30
                await person.over(thread, 30)

    run(main)


def test_f26_a_message_is_refused_where_the_thread_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        model = Echo()
        async with case(tmp_path, model) as it:
            async with it.serving() as (person, _):
                thread = await begin(person, "one")
                assert (await person.call("PATCH", f"/api/threads/{thread}", json={"policy": "reject"}))[0] == 200
                path = f"/api/threads/{thread}/messages"
                refused = await person.post(path, {"content": "two"}, 409)
                assert "open run" in refused["error"]["message"]
                await person.post(path, {"content": "three", "while_running": "queue"})
                model.held.set()
                await person.over(thread, 2)
        assert replies(it.log) == ["To one", "To three"]

    run(main)


def test_f26_a_message_that_steers_is_met_before_the_next_request_and_cuts_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        first = calls(("note", {"what": "a"}), said="First.", number=1)
        turns = [Reply([*first.pieces[:2], held, *first.pieces[2:]]), text("As you like.")]
        async with case(tmp_path, turns) as it:
            async with it.serving() as (person, _):
                thread = await begin(person)
                await it.endpoint.request(0)
                answer = await person.post(
                    f"/api/threads/{thread}/messages", {"content": "in blue", "while_running": "steer"}
                )
                assert (answer["run"], answer["steered"] > 1) == (1, True)
                held.set()
                await person.over(thread)
            heard = it.endpoint.requests[1].body["messages"]
            assert [each["role"] for each in heard[1:]] == ["user", "assistant", "tool", "user"]
            assert heard[-1]["content"] == "in blue"
            assert [each.what for each in it.effects] == ["a"]
        assert [each.message.content for each in of(it.log, Steered)] == ["in blue"]
        assert len(of(it.log, RunStarted)) == 1

    run(main)


def test_f26_a_message_after_the_last_request_is_heard_all_the_same(tmp_path: Path, parent: Parent) -> None:
    """It comes while the answer streams, and the process dies before the next request."""

    async def main() -> None:
        model = Echo()
        async with case(tmp_path, model, parent) as it:
            async with it.victim(Death(type="step_ended")) as victim:
                thread = await begin(victim, "one")
                await it.endpoint.request(0)
                await victim.post(f"/api/threads/{thread}/messages", {"content": "two", "while_running": "steer"})
                model.held.set()
            async with it.victim() as victim:
                await victim.over(thread)
        assert replies(it.log)[-1] == "To two"
        assert len(of(it.log, RunStarted)) == 1

    run(main)


def test_f26_a_message_that_interrupts_closes_what_is_open_first_and_keeps_what_came(tmp_path: Path) -> None:
    async def main() -> None:
        turns = [
            Reply([chunk(content="Half of "), asyncio.Event()]),
            calls(("look", {"what": "a"}), ("hang", {"what": "b"}), said="Tools.", number=1),
            text("At your service."),
        ]
        async with case(tmp_path, turns) as it:
            async with it.serving() as (person, _):
                thread = await person.thread()
                stream = await person.stream("POST", f"/api/threads/{thread}/messages", {"content": "go"})
                await stream.until("text_delta")
                path, interrupt = f"/api/threads/{thread}/messages", {"while_running": "interrupt"}
                await person.post(path, {"content": "wait", **interrupt})
                async with asyncio.timeout(WAIT):
                    await it.endpoint.requests[0].dropped.wait()
                await person.happens(thread, lambda events: "tool_ended" in str(events))
                await met(lambda: any(each.tool == "hang" for each in it.effects))
                await person.post(path, {"content": "stop that", **interrupt})
                await person.over(thread)
            heard = it.endpoint.requests[-1].body["messages"]
            assert [(each["role"], each["content"]) for each in heard[1:4]] == [
                ("user", "go"),
                ("assistant", "Half of "),
                ("user", "wait"),
            ]
            assert [each["role"] for each in heard[4:]] == ["assistant", "tool", "tool", "user"]
            assert "interrupted" in heard[6]["content"]
        assert [each.stop for each in of(it.log, MessageEnded)] == ["cancelled", "tool_calls", "stop"]
        assert [each.status for each in of(it.log, ToolEnded)] == ["ok", "cancelled"]
        assert [each.message.content for each in of(it.log, MessageAdded)] == ["go"]
        assert of(it.log, RunEnded) == [RunEnded("answer")]

    run(main)
