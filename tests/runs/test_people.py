"""What people do to runs: they decide what is asked, say something, halt a run, and it goes on wherever it waits."""

from __future__ import annotations

import asyncio
import statistics
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stepwell.errors import Decided, Expired, InputError, NotFound
from stepwell.events import (
    Answered,
    Asked,
    CancelRequested,
    MessageAdded,
    MessageEnded,
    PauseRequested,
    Recorded,
    RunClaimed,
    RunEnded,
    RunStarted,
    RunWaiting,
    Steered,
    ToolEnded,
    ToolStarted,
)
from stepwell.messages import Message, ToolCall
from stepwell.models.base import ModelRequest
from stepwell.models.scripted import Answer, Gate, call, reply
from stepwell.runs import carrying
from stepwell.runs.people import answer, go_on, pause, pending, questions, steer
from stepwell.runs.service import RunRef, RunService
from stepwell.specs import Limits, Rule, RunSpec
from stepwell.state.thread import State
from stepwell.store.base import Store, ThreadInfo
from stepwell.store.memory import MemoryStore
from stepwell.store.sqlite import SqliteStore
from stepwell.tools.base import Tool
from stepwell.tools.builtin.ask_human import ask_human_tool
from stepwell.tools.mark import tool
from tests.support.runs import (
    OWNER,
    WAIT,
    HeldStore,
    Rig,
    answer_of,
    bounded,
    end_of,
    events_of,
    held,
    is_,
    open_store,
    rig,
    said,
    until,
)

STORES = ("memory", "sqlite")
ASK: dict[str, Any] = {"approvals": (Rule(decision="ask", effect="write"),)}
DAY = 86_400_000


class Outbox:
    """A tool with an effect, and what it did."""

    def __init__(self) -> None:
        self.sent: list[str] = []

        @tool(effect="write")
        async def send(what: str) -> str:
            """Send."""
            self.sent.append(what)
            return f"sent {what}"

        self.tool: Any = send


def sending(*what: str) -> Callable[[ModelRequest], Answer]:
    """Call the tool once for each, then tell of the results."""
    calls = [ToolCall(f"c{at}", "send", f'{{"what": "{each}"}}') for at, each in enumerate(what)]

    def brain(request: ModelRequest) -> Answer:
        results = [each.content for each in request.messages if each.role == "tool"]
        return f"Done: {'; '.join(results)}" if results else reply("", *calls)

    return brain


def asking(**arguments: Any) -> Callable[[ModelRequest], Answer]:
    """Ask a person once, then say what came."""

    def brain(request: ModelRequest) -> Answer:
        last = request.messages[-1]
        return f"Heard: {last.content}" if last.role == "tool" else call("ask_human", **arguments)

    return brain


class Clock:
    """A wall clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now


def clocked(made: Rig, clock: Clock) -> RunService:
    """Give a rig's service a clock."""
    made.service = RunService(made.store, made.assemble, clock=clock)
    return made.service


async def waiting(made: Rig, ref: RunRef, count: int = 1) -> list[int]:
    """Wait until a run waits for people, and return the numbers of its open questions."""
    async with asyncio.timeout(WAIT):
        await until(made.service, ref.thread, lambda item: item.run == ref.run and isinstance(item.event, RunWaiting))
    open_ = [each.seq for each in await questions(made.service, OWNER, ref.thread)]
    assert len(open_) == count
    return open_


async def left(made: Rig, ref: RunRef) -> None:
    """Wait until nobody carries the thread out and its log is forgotten."""
    async with asyncio.timeout(WAIT):
        while made.service._logs or made.service._executor.carries(ref.thread):
            await asyncio.sleep(0)


@asynccontextmanager
async def left_asking(store: Store) -> AsyncIterator[tuple[Rig, Outbox, RunRef, int]]:
    """Give a run that waits for the approval of one call, forgotten by its service, and the question's number."""
    box = Outbox()
    async with rig(sending("a"), box.tool, store=store) as made:
        ref = await made.start(**ASK)
        (number,) = await waiting(made, ref)
        await left(made, ref)
        yield made, box, ref, number


def decide(made: Rig, ref: RunRef, question: int, decision: str = "approve", **more: Any) -> Any:
    return answer(made.service, OWNER, ref.thread, question, decision, **more)


# seeing what is asked


@pytest.mark.parametrize("kind", STORES)
def test_a_question_shows_the_stored_bytes_with_what_is_invisible_written_out(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        box = Outbox()
        async with rig(sending("a\u202eb"), box.tool, store=open_store(kind, tmp_path)) as made:
            ref = await made.start(**ASK)
            (number,) = await waiting(made, ref)
            (info,) = await questions(made.service, OWNER, ref.thread)
            assert (info.thread, info.run, info.seq, info.path) == (ref.thread, ref.run, number, "")
            assert (info.kind, info.call, info.tool) == ("approval", "c0", "send")
            assert info.arguments == '{"what": "a\u202eb"}'
            assert info.shown == '{"what": "a\\u202eb"}'
            assert info.decisions == ("approve", "deny")
            assert (len(info.hash), info.until, info.default) == (64, 0, None)
            assert await pending(made.service, OWNER, 9) == [info]
            assert await pending(made.service, "eve", 9) == []
            with pytest.raises(NotFound):
                await questions(made.service, "eve", ref.thread)
            await decide(made, ref, number, hash=info.hash)
            await made.ended(ref)
            assert box.sent == ["a\u202eb"]
            assert await pending(made.service, OWNER, 9) == []

    bounded(main)


def test_the_inbox_has_the_longest_asked_of_all_threads_first() -> None:
    async def main() -> None:
        box, clock = Outbox(), Clock()
        async with rig(sending("x", "y"), box.tool) as made:
            service = clocked(made, clock)
            refs: list[RunRef] = []
            for _ in range(3):
                clock.now += 1000
                refs.insert(0, await made.start(**ASK))
                await waiting(made, refs[0], 2)
            found = await pending(service, OWNER, 5)
            assert [each.thread for each in found] == [refs[2].thread] * 2 + [refs[1].thread] * 2 + [refs[0].thread]

    bounded(main)


# deciding


@pytest.mark.parametrize("kind", STORES)
def test_answers_come_in_any_order_across_a_restart_and_exactly_what_was_approved_runs(
    kind: str, tmp_path: Path
) -> None:
    async def main() -> None:
        box, store = Outbox(), open_store(kind, tmp_path)
        brain = sending("one", "two", "three")
        async with rig(brain, box.tool, store=store) as made:
            ref = await made.start(**ASK)
            first, second, third = await waiting(made, ref, 3)
            await left(made, ref)
            if kind == "sqlite":
                await made.service.stop(0.0)
                made.store = open_store(kind, tmp_path)
                made.service = RunService(made.store, made.assemble)
                assert await made.service.resume() == 0
            await decide(made, ref, third, "deny", text="not \0that")
            await decide(made, ref, first, arguments='{"what":  "edited"}')
            await until(made.service, ref.thread, is_(ToolStarted))
            assert not [each for each in await made.store.read(ref.thread) if isinstance(each.event, RunEnded)]
            await decide(made, ref, second)
            log = await made.ended(ref)
            assert sorted(box.sent) == ["edited", "two"]
            assert [each.status for each in events_of(log, ToolEnded)].count("denied") == 1
            answers = events_of(log, Answered)
            assert [each.by for each in answers] == [OWNER] * 3
            assert answers[0].text == "not \ufffdthat"
            assert answers[1].arguments == '{"what":  "edited"}'
            assert "not \ufffdthat" in answer_of(log)

    bounded(main)


@pytest.mark.parametrize(
    ("decision", "more", "field"),
    [
        ("answer", {}, "decision"),
        ("expired", {}, "decision"),
        ("", {}, "decision"),
        ("deny", {"arguments": "{}"}, "arguments"),
        ("approve", {"arguments": "[1]"}, "arguments"),
        ("approve", {"arguments": '{"what": '}, "arguments"),
        ("approve", {"arguments": '{"what": 7}'}, "arguments"),
        ("approve", {"arguments": "{}"}, "arguments"),
        ("approve", {"arguments": '{"what": "\ud800"}'}, "arguments"),
        ("approve", {"value": {"a": 1}}, "value"),
        ("approve", {"scope": "always"}, "scope"),
        ("deny", {"scope": "tool"}, "scope"),
        ("approve", {"scope": "tool", "arguments": '{"what": "b"}'}, "scope"),
    ],
)
def test_what_an_approval_does_not_take_is_refused_and_it_stays_open(
    decision: str, more: dict[str, Any], field: str
) -> None:
    async def main() -> None:
        box = Outbox()
        async with rig(sending("a"), box.tool) as made:
            ref = await made.start(**ASK)
            (number,) = await waiting(made, ref)
            with pytest.raises(InputError) as caught:
                await decide(made, ref, number, decision, **more)
            assert caught.value.field == field
            assert not isinstance(caught.value, Decided | Expired | NotFound)
            assert [each.seq for each in await questions(made.service, OWNER, ref.thread)] == [number]
            await decide(made, ref, number)
            await made.ended(ref)
            assert box.sent == ["a"]

    bounded(main)


FORM = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("asked", "bad", "field", "good", "told"),
    [
        ({}, {"text": "  "}, "text", {"text": "blue"}, "blue"),
        ({}, {"text": "blue", "value": {"n": 1}}, "value", {"text": "blue"}, "blue"),
        ({"choices": ["red", "blue"]}, {"text": "green"}, "text", {"text": "red"}, "red"),
        ({"form": FORM}, {"text": "5"}, "value", {"value": {"n": 5}}, '{"n":5}'),
        ({"form": FORM}, {"value": {"n": "5"}}, "value", {"value": {"n": 6}}, '{"n":6}'),
    ],
)
def test_an_answer_has_to_fit_its_question(
    asked: dict[str, Any], bad: dict[str, Any], field: str, good: dict[str, Any], told: str
) -> None:
    async def main() -> None:
        async with rig(asking(question="Which?", **asked), ask_human_tool()) as made:
            ref = await made.start()
            (number,) = await waiting(made, ref)
            (info,) = await questions(made.service, OWNER, ref.thread)
            assert (info.kind, info.text, info.decisions) == ("question", "Which?", ("answer",))
            with pytest.raises(InputError) as caught:
                await decide(made, ref, number, "answer", **bad)
            assert caught.value.field == field
            await decide(made, ref, number, "answer", **good)
            assert answer_of(await made.ended(ref)) == f"Heard: {told}"

    bounded(main)


def test_what_a_call_ran_with_is_shown_when_its_outcome_is_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        @tool(effect="write")
        async def send(what: str) -> str:
            """Send."""
            begun.set()
            await asyncio.Event().wait()
            return what

        store = open_store("sqlite", tmp_path)
        async with rig(sending("everybody"), send, store=store) as made:
            ref = await made.start(**ASK)
            (number,) = await waiting(made, ref)
            await decide(made, ref, number, arguments='{"what": "Ann"}')
            await begun.wait()
        async with rig(sending("everybody"), send, store=open_store("sqlite", tmp_path)) as made:
            await made.service.resume()
            await waiting(made, ref)
            (info,) = await questions(made.service, OWNER, ref.thread)
            assert (info.kind, info.arguments, info.shown) == ("outcome", '{"what": "Ann"}', '{"what": "Ann"}')
            await decide(made, ref, info.seq, "skip")
            await made.ended(ref)

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
def test_a_question_is_decided_once_and_only_as_it_was_seen(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        box = Outbox()
        async with rig(sending("a", "b"), box.tool, store=open_store(kind, tmp_path)) as made:
            ref = await made.start(**ASK)
            first, second = await waiting(made, ref, 2)
            for number in (0, 1, first + 50, 2**70):
                with pytest.raises(NotFound) as caught:
                    await decide(made, ref, number)
                assert caught.value.field == "question"
            with pytest.raises(NotFound):
                await answer(made.service, "eve", ref.thread, first, "approve")
            with pytest.raises(Decided) as changed:
                await decide(made, ref, first, hash="0" * 64)
            assert changed.value.field == "hash"
            outcomes = await asyncio.gather(*(decide(made, ref, first) for _ in range(9)), return_exceptions=True)
            assert sorted(type(each).__name__ for each in outcomes) == ["Decided"] * 8 + ["RunRef"]
            assert RunRef(ref.thread, ref.run) in outcomes
            with pytest.raises(Decided, match="approve"):
                await decide(made, ref, first, "deny")
            await until(made.service, ref.thread, is_(ToolEnded))
            await made.service.cancel(OWNER, ref.thread, ref.run)
            log = await made.ended(ref)
            assert end_of(log).reason == "cancelled"
            with pytest.raises(Decided):
                await decide(made, ref, second)
            assert box.sent == ["a"]

    bounded(main)


def test_an_answer_is_durable_before_it_is_acknowledged_and_a_driver_on_its_way_out_goes_on() -> None:
    async def main() -> None:
        box, store = Outbox(), HeldStore()
        async with rig(sending("a"), box.tool, store=store) as made:
            ref = await made.start(**ASK)
            log = made.service._logs[ref.thread]
            store.held = True  # what comes now is on its way to the disk for long
            while log.state.run is None or log.state.run.waiting is None:
                for each in store.waiting[:]:
                    store.waiting.remove(each)
                    each()
                await asyncio.sleep(0)
            assert log.interrupt is not None
            (number,) = log.state.questions
            answering = asyncio.ensure_future(decide(made, ref, number))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not answering.done()
            store.release()
            assert await answering == RunRef(ref.thread, ref.run)
            ended = await made.ended(ref)
            assert box.sent == ["a"]
            assert events_of(ended, RunClaimed) == []

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
def test_a_run_that_was_forgotten_is_claimed_by_whoever_answers(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with left_asking(open_store(kind, tmp_path)) as (made, box, ref, number):
            await decide(made, ref, number)
            log = await made.ended(ref)
            assert box.sent == ["a"]
            names = [type(each.event).__name__ for each in log]
            at = names.index("RunWaiting")
            assert names[at + 1 : at + 3] == ["RunClaimed", "Answered"]

    bounded(main)


def test_two_processes_that_answer_come_to_one_decision(tmp_path: Path) -> None:
    async def main() -> None:
        box, brain = Outbox(), sending("a")
        async with (
            rig(brain, box.tool, store=SqliteStore(tmp_path / "stepwell.db")) as made,
            rig(brain, box.tool, store=SqliteStore(tmp_path / "stepwell.db")) as other,
        ):
            ref = await made.start(**ASK)
            (number,) = await waiting(made, ref)
            await left(made, ref)
            outcomes = await asyncio.gather(
                decide(made, ref, number), decide(other, ref, number), return_exceptions=True
            )
            assert sorted(type(each).__name__ for each in outcomes) == ["Decided", "RunRef"]
            winner = made if isinstance(outcomes[0], RunRef) else other
            log = await winner.ended(ref)
            assert len(events_of(log, Answered)) == 1
            assert box.sent == ["a"]

    bounded(main)


def test_an_answer_reaches_a_waiting_run_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        box, took = Outbox(), list[float]()
        async with rig(sending("a"), box.tool, store=open_store("sqlite", tmp_path)) as made:
            for _ in range(9):
                ref = await made.start(**ASK)
                (number,) = await waiting(made, ref)
                await left(made, ref)
                begun, ran = time.perf_counter(), len(box.sent)
                await decide(made, ref, number)
                while len(box.sent) == ran:
                    await asyncio.sleep(0)
                took.append(time.perf_counter() - begun)
                await made.ended(ref)
        assert statistics.median(took) < 0.02, took

    bounded(main)


def test_the_answer_to_what_a_run_left_open_begins_another(tmp_path: Path) -> None:
    async def main() -> None:
        script = [call("ask_human", question="Which colour?"), "It is blue"]
        async with rig(script, ask_human_tool(), store=open_store("sqlite", tmp_path)) as made:
            ref = await made.start(people=False, language="zh", model="m")
            log = await made.ended(ref)
            assert end_of(log).cause == "question"
            (info,) = await pending(made.service, OWNER, 9)
            assert (info.run, info.kind) == (0, "question")
            with pytest.raises(InputError):
                await decide(made, ref, info.seq, "answer")
            again = await decide(made, ref, info.seq, "answer", text="blue")
            log = await made.ended(again)
            assert again.run == log[again.run - 1].seq
            assert answer_of(log) == "It is blue"
            started = events_of(log, RunStarted)
            assert (started[1].spec.people, started[1].spec.model) == (True, "m")
            told = events_of(log, MessageAdded)[-1].message.content
            assert told == "你之前提问：“Which colour?”\n回答是：blue"
            assert await pending(made.service, OWNER, 9) == []
            with pytest.raises(Decided):
                await decide(made, ref, info.seq, "answer", text="red")

    bounded(main)


# time


@pytest.mark.parametrize("kind", STORES)
def test_a_question_that_nobody_answers_expires_with_its_default(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        brain = asking(question="Which?", timeout_seconds=60, default="red")
        async with rig(brain, ask_human_tool(), store=open_store(kind, tmp_path)) as made:
            service = clocked(made, clock)
            ref = await made.start()
            (number,) = await waiting(made, ref)
            await left(made, ref)
            assert await service.expire() == 0
            clock.now += DAY  # the machine slept
            with pytest.raises(Expired):
                await decide(made, ref, number, "answer", text="late")
            assert await service.expire() == 1
            log = await made.ended(ref)
            assert events_of(log, Answered) == [Answered(number, "expired", "red")]
            assert answer_of(log) == "Heard: red"
            with pytest.raises(Expired):
                await decide(made, ref, number, "answer", text="late")
            assert await service.expire() == 0

    bounded(main)


def test_a_timer_of_the_service_sees_to_it_and_a_new_process_does_it_first(tmp_path: Path) -> None:
    async def main() -> None:
        brain = asking(question="Which?", timeout_seconds=0.05, default="red")
        async with rig(brain, ask_human_tool(), store=open_store("sqlite", tmp_path)) as made:
            log = await made.ended(await made.start())
            assert answer_of(log) == "Heard: red"
            ref = await made.start()
            await waiting(made, ref)
            await made.service.stop(0.0)
            made.store = open_store("sqlite", tmp_path)
            clock = Clock()
            clock.now = log[-1].time + DAY
            service = clocked(made, clock)
            assert await service.resume() == 1
            assert answer_of(await made.ended(ref)) == "Heard: red"

    bounded(main)


class Slow(MemoryStore):
    """A store with a clock that goes on while it looks for what is overdue."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.passes = clock, 0

    async def overdue(self, now: int) -> list[ThreadInfo]:
        found = await super().overdue(now)
        self.clock.now += self.passes
        self.passes = 0
        return found


def test_what_becomes_due_while_something_else_expires_is_not_forgotten() -> None:
    async def main() -> None:
        clock = Clock()
        store = Slow(clock)
        brain = asking(question="Which?", timeout_seconds=60, default="red")
        async with rig(brain, ask_human_tool(), store=store) as made:
            service = clocked(made, clock)
            refs = [await made.start()]
            clock.now += 5
            refs.append(await made.start())
            for ref in refs:
                await waiting(made, ref)
            clock.now += 60_000 - 5
            store.passes = 20
            service._alarm.set(clock.now)  # the time of the first is over; that of the second will be meanwhile
            for ref in refs:
                assert answer_of(await made.ended(ref)) == "Heard: red"

    bounded(main)


def test_what_expires_on_its_way_to_a_slow_disk_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(carrying, "AGAIN", 10)
        store = HeldStore()
        async with rig(asking(question="Which?", timeout_seconds=0.02), ask_human_tool(), store=store) as made:
            ref = await made.start()
            store.held = True
            (log,) = made.service._logs.values()
            while not log.state.questions:
                await asyncio.sleep(0)
            rung = asyncio.Event()
            ring = made.service._alarm._ring

            async def told() -> int:
                rung.set()
                return await ring()

            monkeypatch.setattr(made.service._alarm, "_ring", told)
            await rung.wait()
            store.release()
            assert events_of(await made.ended(ref), Answered)[0].decision == "expired"

    bounded(main)


def test_what_expires_while_the_run_goes_on_is_decided_alone() -> None:
    async def main() -> None:
        clock, at, box = Clock(), Gate(), Outbox()

        @tool(effect="pure")
        async def slow() -> str:
            """Take long."""
            await at.wait()
            return "slow"

        def brain(request: ModelRequest) -> Answer:
            if request.messages[-1].role == "tool":
                return "Done"
            return reply("", ToolCall("a", "send", '{"what": "a"}'), ToolCall("b", "slow", "{}"))

        async with rig(brain, box.tool, slow) as made:
            service = clocked(made, clock)
            ref = await made.start(**ASK, question_seconds=60.0)
            await at.reached.wait()
            (asked,) = await questions(service, OWNER, ref.thread)
            assert asked.until == clock.now + 60_000
            clock.now += 60_000
            await service.expire()
            await until(service, ref.thread, is_(ToolEnded))
            at.set()
            log = await made.ended(ref)
            assert [(each.call, each.status) for each in events_of(log, ToolEnded)] == [("a", "denied"), ("b", "ok")]
            assert box.sent == []

    bounded(main)


@pytest.mark.parametrize(("limit", "cause"), [("limits", "seconds"), ("thread_limits", "thread_seconds")])
def test_a_waiting_run_ends_when_its_own_time_or_its_threads_is_over(limit: str, cause: str) -> None:
    async def main() -> None:
        clock, box = Clock(), Outbox()
        async with rig(sending("a"), box.tool) as made:
            service = clocked(made, clock)
            limited: dict[str, Any] = {limit: Limits(seconds=90)}
            ref = await made.start(**ASK, **limited)
            await waiting(made, ref)
            await left(made, ref)
            clock.now += 90_000
            assert await service.expire() == 1
            assert end_of(await made.ended(ref)).cause == cause
            assert box.sent == []

    bounded(main)


def test_ten_thousand_waiting_runs_cost_nothing_at_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        store, count = SqliteStore(tmp_path / "stepwell.db"), 10_000
        events = [
            Recorded(1, 5, 1, RunStarted(RunSpec())),
            Recorded(2, 5, 1, MessageAdded(Message("user", "go"))),
            Recorded(3, 5, 1, Asked("question", text="Which?")),
            Recorded(4, 5, 1, RunWaiting()),
        ]
        wake = State(events).wake
        for start in range(0, count, 2000):
            made = range(start, start + 2000)
            rows = [ThreadInfo(f"t{number}", OWNER) for number in made]
            await asyncio.gather(*(store.append(row.id, events, expect=0, new=row, wake=wake) for row in rows))
        async with rig(["Done"], store=store) as made_rig:
            tracemalloc.start()
            begun = time.perf_counter()
            assert await made_rig.service.resume() == 0
            assert time.perf_counter() - begun < 2
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert held < count * 1000
            assert not made_rig.service._logs
            assert len(await pending(made_rig.service, OWNER, 3)) == 3

    bounded(main)


# saying something, halting, going on


@pytest.mark.parametrize("kind", STORES)
def test_what_is_said_to_a_run_is_before_the_model_at_its_next_call(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with held("two", store=open_store(kind, tmp_path)) as (made, ref, gate):
            told = await steer(made.service, OWNER, ref.thread, ref.run, Message("user", "also \0this"))
            assert told.run == ref.run
            gate.set()
            log = await made.ended(ref)
            assert log[told.steered - 1].event == Steered(Message("user", "also \ufffdthis"))
            assert [each.content for each in made.asked[1].messages][-2:] == ["one", "also \ufffdthis"]
            assert answer_of(log) == "two"

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
def test_an_interrupt_closes_what_is_under_way_and_keeps_the_text(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        script = [reply(["Half", "!"], gates={1: Gate()}), "Other"]
        async with rig(script, store=open_store(kind, tmp_path)) as made:
            ref = await made.start()
            await until(made.service, ref.thread, said("Half"))
            await steer(made.service, OWNER, ref.thread, ref.run, Message("user", "stop that"), interrupt=True)
            log = await made.ended(ref)
            assert [(each.message.content, each.stop) for each in events_of(log, MessageEnded)] == [
                ("Half", "cancelled"),
                ("Other", "stop"),
            ]

    bounded(main)


def test_what_is_said_to_a_waiting_run_wakes_it_and_its_questions_stay(tmp_path: Path) -> None:
    async def main() -> None:
        async with left_asking(open_store("sqlite", tmp_path)) as (made, box, ref, number):
            told = await steer(made.service, OWNER, ref.thread, ref.run, Message("user", "hurry"))
            async with asyncio.timeout(WAIT):
                later = await until(
                    made.service,
                    ref.thread,
                    lambda item: item.seq > told.steered and isinstance(item.event, RunWaiting),
                )
            assert isinstance(later[-1], Recorded)
            await decide(made, ref, number)
            log = await made.ended(ref)
            assert box.sent == ["a"]
            assert [each.content for each in made.asked[1].messages][-1] == "hurry"
            assert end_of(log).reason == "answer"

    bounded(main)


def test_a_halted_run_waits_until_it_may_go_on() -> None:
    async def main() -> None:
        gate, ran = Gate(), list[int]()

        @tool
        async def work() -> str:
            """Work."""
            ran.append(1)
            return "worked"

        async with rig([reply("", call("work"), gates={0: gate}), "Done"], work) as made:
            service = made.service
            ref = await made.start()
            await gate.reached.wait()
            for _ in range(2):
                assert await pause(service, OWNER, ref.thread, ref.run, "wait") == RunRef(ref.thread, ref.run)
            gate.set()
            await waiting(made, ref, 0)
            assert ran == []
            await left(made, ref)
            for _ in range(2):
                await go_on(service, OWNER, ref.thread, ref.run)
            log = await made.ended(ref)
            assert ran == [1]
            assert events_of(log, PauseRequested) == [PauseRequested("wait")]
            assert answer_of(log) == "Done"

    bounded(main)


async def refused(attempts: list[Callable[[str, int], Any]], over: int) -> None:
    for attempt in attempts:
        with pytest.raises(Decided):
            await attempt(OWNER, over)
        for owner, run in (("eve", over), (OWNER, 0), (OWNER, 2), (OWNER, 99)):
            with pytest.raises(NotFound):
                await attempt(owner, run)


def test_runs_that_are_over_or_were_never_there_cannot_be_told_anything() -> None:
    async def main() -> None:
        gate, hello = Gate(), Message("user", "hello")
        async with rig(["One", reply("Two", gates={0: gate})]) as made:
            service = made.service
            ref = await made.start()
            await made.ended(ref)
            attempts: list[Callable[[str, int], Any]] = [
                lambda owner, run: steer(service, owner, ref.thread, run, hello),
                lambda owner, run: pause(service, owner, ref.thread, run),
                lambda owner, run: go_on(service, owner, ref.thread, run),
            ]
            await refused(attempts, ref.run)
            again = await made.start("again", ref.thread)
            await gate.reached.wait()
            await refused(attempts, ref.run)
            with pytest.raises(NotFound) as caught:
                await steer(service, OWNER, ref.thread, again.run, hello, path="1.2")
            assert caught.value.field == "path"
            gate.set()
            await made.ended(again)

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
def test_a_waiting_run_is_cancelled_at_once_and_once(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with left_asking(open_store(kind, tmp_path)) as (made, box, ref, number):
            cancels = [made.service.cancel(OWNER, ref.thread, ref.run) for _ in range(5)]
            outcomes = await asyncio.gather(*cancels, decide(made, ref, number), return_exceptions=True)
            assert outcomes[:5] == [None] * 5
            assert isinstance(outcomes[5], Decided)
            log = await made.ended(ref)
            assert len(events_of(log, RunEnded)) == len(events_of(log, CancelRequested)) == 1
            assert end_of(log).reason == "cancelled"
            assert box.sent == []
            assert await pending(made.service, OWNER, 9) == []

    bounded(main)


def test_a_store_in_memory_keeps_threads_that_wait() -> None:
    async def main() -> None:
        box = Outbox()
        tools: tuple[Tool, ...] = (box.tool,)
        async with rig(sending("a"), *tools, store=MemoryStore(limit=2)) as made:
            ref = await made.start(**ASK)
            (number,) = await waiting(made, ref)
            for _ in range(5):
                await made.service.create(OWNER)
            await decide(made, ref, number)
            await made.ended(ref)
            assert box.sent == ["a"]

    bounded(main)
