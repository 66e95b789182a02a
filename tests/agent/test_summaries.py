"""Summaries in the background: what is asked, when, what becomes of it, and that nothing waits for it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stepwell.agent import summaries as module
from stepwell.agent.base import BaseAgent, ToolOutput
from stepwell.agent.memory import MemoryLog
from stepwell.agent.options import AgentOptions
from stepwell.agent.summaries import Summaries
from stepwell.engines.base import Engine
from stepwell.events import (
    ContextCompacted,
    HistoryCleared,
    LongTermUpdated,
    MessageEnded,
    Recorded,
    RunClaimed,
    RunEnded,
    StepStarted,
    SummaryEnded,
    SummaryStarted,
    ToolEnded,
)
from stepwell.messages import ToolSpec, ToolSpecs, Usage
from stepwell.models.base import Delta, Failure, Model, ModelProfile, ModelRequest
from stepwell.models.scripted import Answer, Gate, ScriptedModel, call, reply
from stepwell.runs.replay import Difference, replay
from stepwell.runs.service import RunRef
from stepwell.specs import ContextSpec, Limits, Prices, RunSpec, SummaryKind
from stepwell.state.thread import State
from stepwell.store.memory import MemoryStore
from stepwell.store.sqlite import SqliteStore
from stepwell.tools.base import Toolbox
from stepwell.tools.mark import tool
from stepwell.wiring.engine import EngineMaker
from tests.support.audit import audit
from tests.support.runs import OWNER, WAIT, Rig, bounded, end_of, events_of, is_, until

WINDOW = 6000
BOTH: tuple[SummaryKind, ...] = ("tool_calls", "working_context")


@tool(effect="pure")
async def look(what: str) -> str:
    """Look something up."""
    for _ in range(20):
        await asyncio.sleep(0)  # as a tool that waits for something
    return f"found {what}: " + f"detail{what} " * 40


class Worker:
    """A model that looks things up, one in each step, and then answers.

    Args:
        steps: Calls before the answer.
        hold: By the number of a call, from 1: what it waits for.
    """

    def __init__(self, steps: int, hold: dict[int, asyncio.Event] | None = None) -> None:
        self.steps, self.hold = steps, hold or {}
        self.requests: list[ModelRequest] = []

    def __call__(self, request: ModelRequest) -> Answer:
        self.requests.append(request)
        results = [each.content for each in request.all if each.role == "tool"]
        seen = [int(number) for each in results for number in re.findall(r"found (\d+)", each)]
        at = max(seen, default=0) + 1
        gates = {1: self.hold[at]} if at in self.hold else None  # what came before is on the disk then
        if at > self.steps:
            return reply("All done.", gates=gates)
        return reply(f"Thought {at}.", call("look", what=str(at)), usage=Usage(10, 1), gates=gates)


class Helper:
    """A model that makes summaries.

    Args:
        answer: What it says to a question of a kind; None for something that fits.
        gate: What each reply waits for.
        window: In tokens.
    """

    def __init__(
        self,
        answer: Callable[[SummaryKind], Answer] | None = None,
        gate: asyncio.Event | None = None,
        window: int = 1_000_000,
    ) -> None:
        self.asked: list[tuple[SummaryKind, str]] = []
        self._answer, self._gate = answer, gate
        self.model = ScriptedModel(self._reply, profile=ModelProfile(window=window))

    def _reply(self, request: ModelRequest) -> Answer:
        (message,) = request.all
        kind = kind_of(message.content)
        self.asked.append((kind, message.content))
        if self._answer is not None:
            return self._answer(kind)
        text = summary_of(kind, len(self.asked))
        return reply(text, usage=Usage(100, 10), gates={0: self._gate} if self._gate else None)

    def count(self, kind: SummaryKind) -> int:
        return [each for each, _ in self.asked].count(kind)


def kind_of(question: str) -> SummaryKind:
    if '"critical_actions"' in question:
        return "tool_calls"
    return "working_context" if '"self_examination"' in question else "rolling"


def summary_of(kind: SummaryKind, number: int) -> str:
    if kind == "tool_calls":
        return json.dumps({"intentions": f"INTENT-{number}", "critical_actions": [1]})
    if kind == "working_context":
        return json.dumps({"summary": f"SUMMARY-{number}", "self_examination": f"EXAMINED-{number}"})
    return f"ROLLED-{number}"


class Made(Rig):
    """A service whose runs make summaries."""

    def __init__(self, store: Any, worker: Any, helper: Model, *tools: Any) -> None:
        super().__init__(store, ScriptedModel(worker), tools or (look,))
        self.helper = helper

    def assemble(self, spec: RunSpec) -> Engine:
        return EngineMaker(spec, self.model, self.toolbox, None, summaries=lambda: Summaries(self.helper, "cheap"))(
            spec
        )

    async def go(self, kinds: tuple[SummaryKind, ...] | None = BOTH, window: int = WINDOW, **more: Any) -> RunRef:
        context = ContextSpec(window=window, reserve=500, summarize=kinds)
        return await self.start(
            "Look things up.", system="Be brief.", tools=self.toolbox.names, context=context, **more
        )

    async def over(self, ref: RunRef) -> list[Recorded]:
        log = await self.ended(ref)
        await self.service.stop(0.0)
        assert await again(log, self.toolbox) is None
        return log


class Parts:
    """What engines of a replay are made of."""

    def __init__(self, box: Toolbox) -> None:
        self.box = box

    def versions(self, spec: RunSpec) -> dict[str, str]:
        return {}

    def toolbox(self, spec: RunSpec) -> Toolbox:
        return self.box

    def engine(self, spec: RunSpec, model: Model, toolbox: Toolbox) -> Engine:
        return EngineMaker(spec, model, toolbox, None)(spec)


async def again(log: Sequence[Recorded], box: Toolbox) -> Difference | None:
    """Replay a log, whole and cut after some events of summaries; the first difference or None."""
    cuts = [each.seq for each in log if isinstance(each.event, SummaryStarted | SummaryEnded | ContextCompacted)]
    for end in (*cuts[:: max(1, len(cuts) // 6)], len(log)):
        async with asyncio.timeout(WAIT):
            if (found := await replay(log[:end], Parts(box))) is not None:
                return found
    return None


def ranges(log: Sequence[Recorded], kind: SummaryKind, status: str = "ok") -> list[tuple[int, int]]:
    return [
        (each.first, each.last) for each in events_of(log, SummaryEnded) if (each.kind, each.status) == (kind, status)
    ]


def digests(log: Sequence[Recorded]) -> list[str]:
    return [each.digest for each in events_of(log, ContextCompacted)]


def test_a_run_that_fits_its_window_makes_no_call_but_its_own() -> None:
    async def main() -> None:
        helper, worker = Helper(), Worker(20)
        made = Made(MemoryStore(), worker, helper.model)
        log = await made.over(await made.go(window=1_000_000))
        assert (len(worker.requests), helper.asked) == (21, [])
        assert events_of(log, SummaryStarted) == []

    bounded(main)


def test_only_what_left_the_view_is_summarised_each_part_once() -> None:
    async def main() -> None:
        helper = Helper()
        made = Made(MemoryStore(), Worker(60), helper.model)
        log = await made.over(await made.go())
        assert end_of(log) == RunEnded("answer")
        state = State()
        for recorded in log:
            if isinstance(recorded.event, SummaryStarted):
                started = recorded.event
                assert started.first > state.history.summarized.get(started.kind, 0)
                assert started.first <= started.last <= state.history.upto
            state.apply(recorded)
        for kind in BOTH:
            found = ranges(log, kind)
            assert len(found) >= 3
            assert all(before[1] < after[0] for before, after in pairwise(found))
            assert helper.count(kind) == len(found)
        assert helper.count("rolling") == 0

    bounded(main)


def test_a_finished_summary_stands_in_the_next_digest_in_place_of_what_it_covers() -> None:
    async def main() -> None:
        helper = Helper()
        made = Made(MemoryStore(), Worker(40), helper.model)
        log = await made.over(await made.go())
        ended = [each for each in log if isinstance(each.event, SummaryEnded) and each.event.kind == "working_context"]
        first = ended[0]
        summary = first.event
        assert isinstance(summary, SummaryEnded)
        critical = {seq for each in events_of(log, SummaryEnded) for seq in each.critical}
        (after, *_) = [each for each in log if isinstance(each.event, ContextCompacted) and each.seq > first.seq]
        assert isinstance(after.event, ContextCompacted)
        text = after.event.digest
        assert summary.text in text
        assert summary.self_examination in text
        assert f"event:{summary.first}-{summary.last}" in text
        assert "INTENT-" in text
        for recorded in log:
            inside = summary.first <= recorded.seq <= summary.last
            if inside and isinstance(recorded.event, MessageEnded):
                assert f"event:{recorded.seq} [" not in text
            if inside and isinstance(recorded.event, ToolEnded) and recorded.seq in critical:
                assert f"event:{recorded.seq} [" in text
        assert critical
        worker = made.asked[-1]
        assert "SUMMARY-" in worker.messages[1].content
        assert worker.messages[1].content.endswith("Look things up.")

    bounded(main)


@pytest.mark.parametrize("kind", BOTH)
def test_each_kind_can_be_made_alone(kind: SummaryKind) -> None:
    async def main() -> None:
        helper = Helper()
        made = Made(MemoryStore(), Worker(40), helper.model)
        log = await made.over(await made.go((kind,)))
        assert {each for each, _ in helper.asked} == {kind}
        assert ("INTENT-" if kind == "tool_calls" else "SUMMARY-") in digests(log)[-1]

    bounded(main)


def test_no_step_waits_for_a_summary_and_its_bracket_ends_before_the_run() -> None:
    async def main() -> None:
        gate = Gate()
        helper = Helper(gate=gate)
        made = Made(MemoryStore(), Worker(60), helper.model)
        log = await made.over(await made.go())
        assert end_of(log) == RunEnded("answer")
        assert len(helper.asked) == 2
        assert [each.status for each in events_of(log, SummaryEnded)] == ["cancelled"] * 2
        assert all("SUMMARY" not in text for text in digests(log))
        assert len(digests(log)) >= 3

    bounded(main)


def test_a_summary_that_ends_late_is_used_by_the_compaction_after_it() -> None:
    async def main() -> None:
        gate, held = Gate(), Gate()
        helper = Helper(gate=gate)
        made = Made(MemoryStore(), Worker(60, {30: held}), helper.model)
        ref = await made.go()
        await asyncio.wait_for(held.reached.wait(), WAIT)
        before = len(digests(await made.service.events(OWNER, ref.thread, limit=5000)))
        gate.set()
        await until(made.service, ref.thread, is_(SummaryEnded))
        held.set()
        log = await made.over(ref)
        assert before
        assert all("SUMMARY" not in text for text in digests(log)[:before])
        assert all("SUMMARY" in text for text in digests(log)[before + 1 :])

    bounded(main)


def bad(kind: SummaryKind) -> Answer:
    return "no JSON at all" if kind != "rolling" else ""


def failing(kind: SummaryKind) -> Answer:
    return reply("half", failure=Failure("server", "it is down", 500), usage=Usage(7, 0))


@pytest.mark.parametrize(("answer", "detail"), [(bad, "missing"), (failing, "it is down")])
def test_a_summary_that_fails_is_an_event_and_the_run_goes_on(
    answer: Callable[[SummaryKind], Answer], detail: str
) -> None:
    async def main() -> None:
        helper = Helper(answer)
        made = Made(MemoryStore(), Worker(40), helper.model)
        log = await made.over(await made.go())
        assert end_of(log) == RunEnded("answer")
        ended = events_of(log, SummaryEnded)
        assert {each.status for each in ended} == {"failed"}
        assert all(detail in each.detail for each in ended)
        assert all(each.text == "" for each in ended)
        # What failed is not asked for again.
        for kind in BOTH:
            found = ranges(log, kind, "failed")
            assert all(before[1] < after[0] for before, after in pairwise(found))

    bounded(main)


def test_a_summary_without_a_word_hides_nothing() -> None:
    async def main() -> None:
        blank = {"working_context": json.dumps({"summary": " \n"}), "tool_calls": json.dumps({"intentions": "  "})}
        made = Made(MemoryStore(), Worker(40), Helper(lambda kind: blank[kind]).model)
        log = await made.over(await made.go())
        assert end_of(log) == RunEnded("answer")
        assert not [each for each in events_of(log, SummaryEnded) if each.text]
        assert not ranges(log, "working_context")
        assert "[Summary]" not in digests(log)[-1]
        assert "Thought 3" in digests(log)[-1]

    bounded(main)


class Raising:
    """A model that breaks the port's rule."""

    profile = ModelProfile()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Delta]:
        yield Delta(text="half")
        raise RuntimeError("secret")

    async def close(self) -> None: ...


def test_a_summary_model_that_raises_ends_no_run() -> None:
    async def main() -> None:
        made = Made(MemoryStore(), Worker(30), Raising())
        log = await made.over(await made.go())
        assert end_of(log) == RunEnded("answer")
        assert {each.detail for each in events_of(log, SummaryEnded)} == {"RuntimeError"}

    bounded(main)


def test_text_of_an_attempt_that_failed_and_was_made_again_is_no_part_of_a_summary() -> None:
    class Retrying:
        profile = ModelProfile(window=1_000_000)

        async def stream(self, request: ModelRequest) -> AsyncGenerator[Delta]:
            yield Delta(text='{"summary": "VOID", "self_examination": null} ')
            yield Delta(failure=Failure("stall", "no byte", 0, 0.0))
            yield Delta(text='{"summary": "GOOD", "self_examination": null}', stop="stop")

        async def close(self) -> None: ...

    async def main() -> None:
        made = Made(MemoryStore(), Worker(30), Retrying())
        log = await made.over(await made.go(("working_context",)))
        assert {each.text for each in events_of(log, SummaryEnded) if each.status == "ok"} == {"GOOD"}

    bounded(main)


def test_the_usage_of_summaries_is_part_of_the_runs_usage() -> None:
    async def main() -> None:
        helper = Helper()
        made = Made(MemoryStore(), Worker(40), helper.model)
        log = await made.over(await made.go())
        paid = [each.usage for each in events_of(log, SummaryEnded) if each.status == "ok"]
        assert paid == [Usage(100, 10)] * len(paid)
        last = State(log).last
        assert last is not None
        assert last[0].spent.usage == Usage(40 * 10 + 100 * len(paid), 40 + 10 * len(paid))
        assert {each.model for each in helper.model.calls} == {"cheap"}

    bounded(main)


# windows


@pytest.mark.parametrize("window", [2500, 4000, 8000])
def test_no_question_for_a_summary_is_over_its_models_window(window: int) -> None:
    async def main() -> None:
        helper = Helper(window=window)
        made = Made(MemoryStore(), Worker(80), helper.model)
        log = await made.over(await made.go())
        assert all(len(text.encode()) < window * 3 // 4 for _, text in helper.asked)
        assert helper.asked
        for kind in BOTH:
            found = ranges(log, kind)
            assert all(before[1] < after[0] for before, after in pairwise(found))

    bounded(main)


def test_a_summary_model_whose_window_holds_nothing_is_never_asked() -> None:
    async def main() -> None:
        helper = Helper(window=600)
        made = Made(MemoryStore(), Worker(30), helper.model)
        log = await made.over(await made.go())
        assert helper.asked == []
        assert end_of(log) == RunEnded("answer")

    bounded(main)


# restarts and takeovers


def test_after_a_restart_a_finished_summary_is_not_made_again_and_an_open_one_once_more(tmp_path: Path) -> None:
    async def main() -> None:
        store, held, never = tmp_path / "stepwell.db", Gate(), Gate()

        def answer(kind: SummaryKind) -> Answer:
            text = summary_of(kind, 1)
            return text if kind == "tool_calls" else reply(text, gates={0: never})

        first = Helper(answer)
        made = Made(SqliteStore(store), Worker(60, {20: held}), first.model)
        ref = await made.go()
        await asyncio.wait_for(held.reached.wait(), WAIT)
        log = await made.service.events(OWNER, ref.thread, limit=5000)
        await made.service.stop(0.0)
        paid = ranges(log, "tool_calls")
        (open_one,) = [each for each in events_of(log, SummaryStarted) if each.kind == "working_context"]
        assert paid
        assert not ranges(log, "working_context")

        second = Helper()
        made = Made(SqliteStore(store), Worker(60), second.model)
        assert await made.service.resume() == 1
        log = await made.over(ref)
        assert ranges(log, "tool_calls")[: len(paid)] == paid
        assert all(each[0] > paid[-1][1] for each in ranges(log, "tool_calls")[len(paid) :])
        assert ranges(log, "working_context", "cancelled") == [(open_one.first, open_one.last)]
        done = ranges(log, "working_context")
        assert done[0][0] == open_one.first
        assert all(before[1] < after[0] for before, after in pairwise(done))
        assert end_of(log) == RunEnded("answer")

    bounded(main)


def test_a_summary_of_a_process_that_lost_its_run_is_dropped(tmp_path: Path) -> None:
    async def main() -> None:
        store, held, gate = tmp_path / "stepwell.db", Gate(), Gate()
        lost = Made(SqliteStore(store), Worker(60, {20: held}), Helper(gate=gate).model)
        ref = await lost.go()
        await asyncio.wait_for(held.reached.wait(), WAIT)
        other = Gate()
        made = Made(SqliteStore(store), Worker(60, {25: other}), Helper(lambda kind: summary_of(kind, 777)).model)
        assert await made.service.resume() == 1
        await asyncio.wait_for(other.reached.wait(), WAIT)
        gate.set()
        held.set()
        await lost.service.stop(1.0)
        other.set()
        log = await made.over(ref)
        assert len(events_of(log, RunClaimed)) == 1
        texts = [each.text for each in events_of(log, SummaryEnded) if each.status == "ok"]
        assert texts
        assert all(text.endswith("-777") for text in texts)

    bounded(main)


def test_a_cancelled_run_ends_its_summaries_first() -> None:
    async def main() -> None:
        held, gate = Gate(), Gate()
        made = Made(MemoryStore(), Worker(60, {20: held}), Helper(gate=gate).model)
        ref = await made.go()
        await asyncio.wait_for(held.reached.wait(), WAIT)
        await made.service.cancel(OWNER, ref.thread, ref.run)
        log = await made.over(ref)
        assert end_of(log).reason == "cancelled"
        assert [each.status for each in events_of(log, SummaryEnded)] == ["cancelled"] * 2

    bounded(main)


def test_the_next_run_of_a_thread_goes_on_with_what_was_summarised() -> None:
    async def main() -> None:
        helper = Helper()
        made = Made(MemoryStore(), Worker(30), helper.model)
        ref = await made.go()
        await made.ended(ref)
        ref = await made.go(thread=ref.thread)
        log = await made.over(ref)
        for kind in BOTH:
            found = ranges(log, kind)
            assert all(before[1] < after[0] for before, after in pairwise(found))

    bounded(main)


# an agent by itself


LOOK = ToolSpec("look", "Look something up.", {"type": "object", "properties": {"what": {"type": "string"}}})


async def worked(helper: Helper, steps: int = 16, **more: Any) -> tuple[BaseAgent, MemoryLog, Summaries]:
    """Return an agent after some steps, with its log and what makes its summaries."""
    log, summaries = MemoryLog(), Summaries(helper.model)
    model = ScriptedModel(lambda request: call("look", what="x"), profile=ModelProfile(window=WINDOW))
    agent = BaseAgent(
        AgentOptions(), "Be brief.", default_replies=None, model=model, log=log, tools=ToolSpecs([LOOK]),
        summaries=summaries, **more,
    )  # fmt: skip
    await agent.update_longterm_context(user_message="Look things up.")
    for number in range(steps):
        _, calls = await agent.step()
        await agent.update_tool_calls_output([ToolOutput(calls[0].id, f"found {number} " * 40)])
    return agent, log, summaries


def test_the_tasks_of_an_agent_are_seen_while_they_are_under_way() -> None:
    async def main() -> None:
        gate = Gate()
        agent, log, summaries = await worked(Helper(gate=gate))
        one, other = agent._tool_call_summary_task, agent._context_summary_task
        assert isinstance(one, asyncio.Task)
        assert isinstance(other, asyncio.Task)
        await agent._setup_summary_tasks()
        assert (agent._tool_call_summary_task, agent._context_summary_task) == (one, other)
        gate.set()
        await summaries.settle()
        assert agent._tool_call_summary_task is agent._context_summary_task is None
        assert {each.status for each in events_of(log.events, SummaryEnded)} == {"ok"}
        audit(log.events)

    bounded(main)


def test_steps_can_be_taken_without_starting_summaries() -> None:
    async def main() -> None:
        helper = Helper()
        agent, _, summaries = await worked(helper, 0)
        for number in range(16):
            _, calls = await agent.step(setup_summary_tasks=False)
            await agent.update_tool_calls_output([ToolOutput(calls[0].id, f"found {number} " * 40)])
        assert helper.asked == []
        await agent.step()
        await summaries.settle()
        assert len(helper.asked) == 2

    bounded(main)


def test_a_summary_of_a_history_that_was_cleared_is_stale() -> None:
    async def main() -> None:
        gate = Gate()
        agent, log, summaries = await worked(Helper(gate=gate))
        await log.record(HistoryCleared())
        gate.set()
        await summaries.settle()
        ended = events_of(log.events, SummaryEnded)
        assert [(each.status, each.text, each.critical) for each in ended] == [("stale", "", ())] * 2
        assert log.state.history.summaries == {}
        assert "SUMMARY" not in str(await agent.get_history_message(10_000))

    bounded(main)


def test_lazy_init_waits_for_summaries_and_then_forgets_them() -> None:
    async def main() -> None:
        gate = Gate()
        agent, log, _ = await worked(Helper(gate=gate))
        asyncio.get_running_loop().call_soon(gate.set)
        await agent.lazy_init(AgentOptions())
        assert agent._tool_call_summary_task is agent._context_summary_task is None
        assert [each.status for each in events_of(log.events, SummaryEnded)] == ["ok", "ok"]
        assert log.state.history.summaries == {}
        assert len(events_of(log.events, HistoryCleared)) == 1
        audit(log.events)

    bounded(main)


def test_a_closed_agent_records_no_summary_any_more() -> None:
    async def main() -> None:
        gate = Gate()
        _, log, summaries = await worked(Helper(gate=gate))
        await summaries.close()
        gate.set()
        await asyncio.sleep(0)
        assert events_of(log.events, SummaryEnded) == []
        assert summaries.task("tool_calls") is None

    bounded(main)


# what the long-term context outgrew


async def with_messages(helper: Helper, *messages: str, steps: int = 3, window: int = 4000) -> MemoryLog:
    log, summaries = MemoryLog(), Summaries(helper.model)
    model = ScriptedModel(lambda request: "fine " * 20, profile=ModelProfile(window=window))
    agent = BaseAgent(None, "Be brief.", default_replies=None, model=model, log=log, summaries=summaries)
    for message in messages:
        await agent.update_longterm_context(user_message=message)
    for _ in range(steps):
        await agent.step()
        await summaries.settle()
    audit(log.events)
    return log


def test_user_messages_that_outgrow_their_part_are_rolled_into_a_summary_at_a_compaction() -> None:
    async def main() -> None:
        helper = Helper()
        messages = [f"wish {n} " * 20 for n in range(8)]
        log = await with_messages(helper, *messages, steps=60)
        (started, *_) = events_of(log.events, SummaryStarted)
        assert started == SummaryStarted("rolling", 4, 0)
        kind, question = helper.asked[0]
        assert kind == "rolling"
        assert all(message.strip() in question for message in messages[:4])
        assert all(message.strip() not in question for message in messages[4:])
        rolled = [
            at for at, each in enumerate(log.events) if isinstance(each.event, LongTermUpdated) and each.event.rolled
        ]
        for at in rolled:
            assert isinstance(log.events[at + 1].event, ContextCompacted | StepStarted)
        applied = events_of(log.events[: rolled[0] + 1], LongTermUpdated)[-1]
        assert (applied.rolled, applied.rolled_messages, applied.rolled_tasks) == ("ROLLED-1", 4, 0)
        assert log.state.longterm.rolled.startswith("ROLLED-")
        assert log.state.longterm.user_message[-1] == messages[-1]
        # One that waits to be used is not made again.
        assert helper.count("rolling") == len(rolled) or helper.count("rolling") == len(rolled) + 1

    bounded(main)


def test_no_user_message_is_rolled_up_that_the_question_did_not_hold() -> None:
    async def main() -> None:
        helper = Helper(window=4000)
        messages = [f"wish {n} " + "w" * 900 for n in range(9)]
        log = await with_messages(helper, *messages, steps=4, window=8000)
        started = events_of(log.events, SummaryStarted)[0]
        _, question = helper.asked[0]
        assert 0 < started.first < 5
        assert all(message in question for message in messages[: started.first])
        assert len(question.encode()) < 3000

    bounded(main)


def test_a_single_message_that_is_too_long_to_be_condensed_is_cut_with_a_mark() -> None:
    async def main() -> None:
        helper = Helper(window=4000)
        log = await with_messages(helper, "wish " * 2000, "and that is all", steps=2, window=30_000)
        started = events_of(log.events, SummaryStarted)[0]
        assert (started.first, started.last) == (1, 0)
        assert "`wrapped`" in helper.asked[0][1]
        assert len(helper.asked[0][1].encode()) < 3000

    bounded(main)


def test_rolling_that_fails_is_not_tried_again_at_every_step() -> None:
    async def main() -> None:
        helper = Helper(bad)
        log = await with_messages(helper, *(f"wish {n} " * 20 for n in range(8)), steps=6)
        assert helper.count("rolling") == 1
        assert [each.status for each in events_of(log.events, SummaryEnded)] == ["failed"]

    bounded(main)


def test_without_summaries_nothing_is_rolled_up() -> None:
    async def main() -> None:
        helper = Helper()
        made = Made(MemoryStore(), Worker(30), helper.model)
        log = await made.over(await made.go(None))
        assert helper.asked == []
        assert events_of(log, SummaryStarted) == []
        assert digests(log)

    bounded(main)


def test_a_summary_that_is_too_long_loses_its_middle() -> None:
    async def main() -> None:
        text = "a" + "x" * 100_000 + "z"
        helper = Helper(lambda kind: text)
        log = await with_messages(helper, *(f"wish {n} " * 20 for n in range(8)), steps=2)
        (ended,) = events_of(log.events, SummaryEnded)
        assert len(ended.text) < module.LONGEST + 100
        assert (ended.text[0], ended.text[-1]) == ("a", "z")
        assert "`wrapped`" in ended.text

    bounded(main)


PRICED: dict[str, Any] = {"prices": Prices(2, 8), "max_output": 200}


class Priced(Made):
    """A service whose summaries are made by a model with prices of its own, or the run's."""

    def __init__(self, *parts: Any, other: str = "") -> None:
        super().__init__(*parts)
        self.other = other

    def assemble(self, spec: RunSpec) -> Engine:
        def summaries() -> Summaries:
            return Summaries(self.helper, "cheap", self.other)

        return EngineMaker(spec, self.model, self.toolbox, None, summaries=summaries)(spec)


def spent(log: Sequence[Recorded]) -> list[int]:
    """Return what was spent and reserved together after each event of a run."""
    state, amounts = State(), list[int]()
    for recorded in log:
        state.apply(recorded)
        if state.run is not None:
            amounts.append(state.run.spent.money + state.run.spent.reserved)
    return amounts


@pytest.mark.parametrize("other", ["", "cheap"])
def test_a_summary_is_paid_from_the_limit_of_its_run_by_the_prices_of_its_model(other: str) -> None:
    async def main() -> None:
        helper = Helper()
        helper.model.profile = ModelProfile(window=1_000_000, prices=Prices(1, 3), max_output=100)
        made = Priced(MemoryStore(), Worker(40), helper.model, other=other)
        log = await made.over(await made.go(limits=Limits(money=5), **PRICED))
        assert end_of(log) == RunEnded("answer")
        started, ended = events_of(log, SummaryStarted), events_of(log, SummaryEnded)
        assert len(started) == len(ended) >= 3
        output = 100 * 3000 if other else 200 * 8000
        assert all(
            each.reserved > output and (each.reserved - output) % (1000 if other else 2000) == 0 for each in started
        )
        done = [each.cost for each in ended if each.status == "ok"]
        assert set(done) == {100 * 1000 + 10 * 3000 if other else 100 * 2000 + 10 * 8000}
        assert {each.settings.max_tokens for each in helper.model.calls} == {100 if other else 200}
        cut = sum(each.cost for each in ended if each.status != "ok")
        whole = State(log).spent
        own = sum(each.cost for each in events_of(log, MessageEnded))
        assert (whole.money, whole.reserved) == (own + sum(done) + cut, 0)

    bounded(main)


def test_a_summary_whose_reply_brings_no_usage_or_fails_costs_what_was_reserved_and_a_refused_one_nothing() -> None:
    async def main() -> None:
        for answer, share in (
            (reply(summary_of("working_context", 1)), 1),
            (reply("", failure=Failure("server", "it is down", 500)), 1),
            (reply("", failure=Failure("rate_limit", "too many", 429)), 0),
        ):
            made = Priced(MemoryStore(), Worker(30), Helper(lambda _, answer=answer: answer).model)
            log = await made.over(await made.go(("working_context",), limits=Limits(money=5), **PRICED))
            (started, *_), (ended, *_) = events_of(log, SummaryStarted), events_of(log, SummaryEnded)
            assert started.reserved > 0
            assert ended.cost == started.reserved * share

    bounded(main)


def test_a_summary_that_cannot_be_paid_is_not_made_and_the_run_goes_on_as_far_as_it_can() -> None:
    async def main() -> None:
        made = Priced(MemoryStore(), Worker(40), Helper().model)
        whole = await made.over(await made.go(limits=Limits(money=5), **PRICED))
        first = next(place for place, each in enumerate(whole) if isinstance(each.event, SummaryStarted))
        limit = spent(whole)[first - 1] + 1_000_000
        helper = Helper()
        poor = Priced(MemoryStore(), Worker(40), helper.model)
        log = await poor.over(await poor.go(limits=Limits(money=limit / 1e9), **PRICED))
        assert (end_of(log).reason, end_of(log).cause) == ("limit", "money")
        assert (helper.asked, events_of(log, SummaryStarted)) == ([], [])
        assert max(spent(log)) <= limit

        helper = Helper()
        unknown = Priced(MemoryStore(), Worker(30), helper.model, other="cheap")
        log = await unknown.over(await unknown.go(limits=Limits(money=5), **PRICED))
        assert (end_of(log), helper.asked) == (RunEnded("answer"), [])

    bounded(main)
