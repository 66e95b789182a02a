"""A process that dies while tasks are given to other agents: each is gone on with, none begins twice or is lost."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from stepwell.engines.base import Engine
from stepwell.events import MessageEnded, Recorded, RunClaimed, RunEnded, RunWaiting, TaskEnded, TaskStarted, ToolEnded
from stepwell.models.base import Model
from stepwell.runs.channel import Cursor
from stepwell.runs.people import answer, questions
from stepwell.runs.replay import replay
from stepwell.specs import Rule, RunSpec
from stepwell.state.thread import State
from stepwell.store.memory import MemoryStore
from stepwell.tools.base import Toolbox
from tests.support.audit import audit
from tests.support.crash import GIVEN, TASKS, Case, carry_out, giver, log_of, tools
from tests.support.delegating import DELEGATE, DelegatingRig
from tests.support.runs import OWNER, Rig, answer_of, bounded, end_of, events_of, is_, open_store, rig, until


def given(log: list[Recorded]) -> dict[str, list[str]]:
    """Return what became of each call that gave a task, in order: `began` and `ended` by its agent, and its status."""
    calls = {
        each.id: list[str]()
        for reply in events_of(log, MessageEnded)
        for each in reply.message.calls
        if each.name == "delegate"
    }
    for recorded in log:
        match recorded.event:
            case TaskStarted(call=call):
                calls[call].append("began")
            case TaskEnded():
                calls[_giver(log, recorded.path)].append("ended")
            case ToolEnded(call=call, status=status) if call in calls:
                calls[call].append(status)
            case _:
                pass
    return calls


def _giver(log: list[Recorded], path: str) -> str:
    return next(each.event.call for each in log if isinstance(each.event, TaskStarted) and each.path == path)


DONE = ["began", "ended", "ok"]


class Parts:
    """What a replay is made of: neither the model nor the tools can be reached."""

    def versions(self, spec: RunSpec) -> dict[str, str]:
        return {}

    def toolbox(self, spec: RunSpec) -> Toolbox:
        return Toolbox([*tools(Path("/nowhere")), DELEGATE])

    def engine(self, spec: RunSpec, model: Model, toolbox: Toolbox) -> Engine:
        made = DelegatingRig(MemoryStore(), model)
        made.toolbox = toolbox
        return made.assemble(spec)


def written(folder: Path) -> Counter[str]:
    """Return how often each thing was written, which is harm where it comes twice."""
    lines = [line.split() for line in (folder / "ledger").read_text().splitlines()]
    return Counter(what for name, what, _ in lines if name == "note")


def process(folder: Path) -> AbstractAsyncContextManager[Rig]:
    """Give what carries runs out over the files of a folder, until it stops."""
    store = open_store("sqlite", folder)
    return rig(giver, *tools(folder / "ledger"), DELEGATE, store=store, kind=DelegatingRig)


@pytest.mark.limit(120)
def test_tasks_are_done_once_each_wherever_the_process_is_killed(tmp_path: Path) -> None:
    carry_out(tmp_path, [Case("whole", 0, "told", kind="given")])
    whole = log_of(tmp_path / "whole")
    assert [*given(whole).values()] == [DONE] * len(TASKS)
    numbers = range(2, len(whole) + 1)
    cases = [Case(str(at), at, "told" if at % 2 else "committed", kind="given") for at in numbers]
    cases += [Case(f"{at}-again", at, "committed", 3, kind="given") for at in numbers if at % 4 == 0 and at < 40]
    ends = carry_out(tmp_path, cases)
    inside = 0
    for case in cases:
        log = log_of(tmp_path / case.name)
        audit(log)
        assert ends[case.name] == [*[-signal.SIGKILL] * (1 + bool(case.again)), 0], case
        assert (answer_of(log), end_of(log)) == (GIVEN, end_of(whole)), case
        assert [*given(log).values()] == [DONE] * len(TASKS), case
        assert max(written(tmp_path / case.name).values(), default=0) <= 1, case
        assert int(case.name.partition("-")[0]) % 4 or asyncio.run(replay(log, Parts())) is None, case
        claimed = next((each.seq for each in log if isinstance(each.event, RunClaimed)), 1)
        inside += any(agent.run is not None for agent in State(log[: claimed - 1]).agents.values())
    assert inside > len(whole) // 2, "too few processes died while a task was open"


def test_the_questions_of_agents_that_do_tasks_are_answered_one_in_each_process(tmp_path: Path) -> None:
    async def main() -> None:
        async with process(tmp_path) as made:
            ref = await made.start(approvals=(Rule(decision="ask", effect="write"),), tools=made.toolbox.names)
            await until(made.service, ref.thread, is_(RunWaiting))
        for end in (RunWaiting, RunEnded):
            async with process(tmp_path) as made:
                assert await made.service.resume() == 0
                before = (await made.log(ref.thread))[-1].seq
                question = (await questions(made.service, OWNER, ref.thread))[0]
                await answer(made.service, OWNER, ref.thread, question.seq, "approve")
                await until(made.service, ref.thread, is_(end), Cursor(before))

    bounded(main)
    log = log_of(tmp_path)
    assert [*given(log).values()] == [DONE] * len(TASKS)
    assert written(tmp_path) == {"a": 1, "d": 1}
    assert answer_of(log) == GIVEN
