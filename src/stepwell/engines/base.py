"""The port of engines, and the one way to close what a run has open.

An engine is asked again and again for one decision until it says that the run is over. Because each decision
is made from the fold, going on after a crash is the same call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from stepwell.agent.asking import Asking
from stepwell.engines.unconcluded import TIMES, in_time, last_words, states
from stepwell.engines.words import words
from stepwell.events import (
    Answered,
    EndReason,
    MessageAdded,
    MessageEnded,
    RunEnded,
    RunWaiting,
    Steered,
    StepEnded,
    StepStarted,
    Stored,
    SummaryEnded,
    TaskEnded,
    ToolEnded,
)
from stepwell.log import Log
from stepwell.messages import Message
from stepwell.state.run import OpenCall, RunState
from stepwell.state.thread import parent_of
from stepwell.tools.bounds import shortened

LONGEST_STATED = 4000
"""Characters of what a delegated task stated that stand in the result of its call."""


T = TypeVar("T")


class Engine(Protocol):
    """The policy that decides the next step of a run."""

    async def step(self, log: Log) -> bool:
        """Make one decision and carry it out; return False when it is over, or waits for people.

        What it works on is the run of the log's own agent, or the task of an agent inside it. An engine of a run that
        waits says so by `wait`; that of a task leaves it to the engine that began the task.

        Raises:
            Conflict: Somebody else appended; ask again.
        """
        ...

    async def close(self) -> None:
        """Give up what goes on beside the run; it records nothing more."""
        ...


@runtime_checkable
class Asks(Protocol):
    """An engine whose requests can be made again from the log."""

    def asking(self, log: Log, started: StepStarted) -> Asking:
        """Return who made a request, and how; nothing is asked or recorded.

        Args:
            log: That of the agent whose engine this is, up to before the step.
            started: The step.
        """
        ...


def side_by_side(log: Log, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Let an agent work beside others, so that it can be interrupted without them: the task is cancelled then.

    Args:
        log: The agent's.
        work: What it does.
    """
    task, workers, path = asyncio.ensure_future(work), log.workers, log.path
    stop = workers[path] = task.cancel

    def left(_: asyncio.Task[T]) -> None:
        if workers.get(path) is stop:
            del workers[path]

    task.add_done_callback(left)
    return task


async def wait(log: Log) -> None:
    """Record that the run goes on only when somebody answers, says something or lets it go on.

    For the task of an agent inside a run nothing is recorded: the engine that began it sees that it waits. Nothing may
    be awaited between the look at the log that led here and this.
    """
    if log.path:
        return
    times = [each.event.until for each in log.whole.questions.values() if each.event.until]
    await log.record(RunWaiting(min(times, default=0)), durable=True)


async def close(log: Log, reason: EndReason, cause: str, detail: str) -> None:
    """Close every bracket that the run has open, then the run, and wait for the commit.

    The agents inside it are closed first, the deepest of them before all others. Calls without a result get one that
    says so, so that the history stays valid for the next turn. Open questions of the run are taken back; those that a
    run with the cause `question` leaves behind stay open, and its last words stand in the conversation. Where the time
    is over (the causes `TIMES`), tasks are closed with what is there, and a run that has a task says it last.

    Args:
        log: The run's log; nothing happens without an open run.
        reason: Why the run ends.
        cause: A stable word for the cause.
        detail: The cause in words.
    """
    run = log.state.run
    if run is None or log.path:
        return
    late, kept = cause in TIMES and states(run.spec), cause == "question"
    if log.whole.agents:
        await close_inside(log, cause, detail, keep=kept, state=late)
    taken: Sequence[Stored] = taken_back(log, run.seq, keep=kept, inside=True) if log.whole.questions else ()
    said: list[Stored] = [MessageAdded(Message("assistant", detail), "engine")] if kept else []
    if late:
        await _cut_off(log, taken)
        taken, said = (), last_words(log, detail)
    await log.record(*taken, *ends(log), *said, RunEnded(reason, cause, detail), durable=True)


async def close_inside(log: Log, cause: str, detail: str, *, keep: bool = False, state: bool = False) -> None:
    """Close the tasks of all agents that work for the agent of this log, the deepest first; each at once.

    Args:
        log: Whose helpers are closed; its own brackets stay as they are.
        cause: A stable word for the cause.
        detail: The cause in words.
        keep: What they wanted to know from people stays open, for a later answer.
        state: Each is closed with what is there in place of its conclusion.
    """
    inside = f"{log.path}/" if log.path else ""
    paths = [path for path in log.whole.agents if path.startswith(inside) and path != log.path]
    for path in sorted(paths, key=lambda path: (-path.count("/"), path)):
        agent = log.at(path)
        run = agent.state.run
        assert run is not None
        taken: Sequence[Stored] = taken_back(agent, run.seq, keep=keep)
        if log.path:  # else nobody is left to be told
            await pass_on(agent)
        conclusion = None
        if state:
            await _cut_off(agent, taken)
            taken, conclusion = (), in_time(agent, detail)
        await agent.record(*taken, *ends(agent), TaskEnded("cancelled", conclusion, cause, detail))


async def _cut_off(log: Log, taken: Sequence[Stored]) -> None:
    """End the questions, calls and reply that are open; the step stays open, so that what followed it is known."""
    cut = [each for each in ends(log) if isinstance(each, MessageEnded | ToolEnded)]
    if taken or cut:
        await log.record(*taken, *cut)


async def pass_on(log: Log) -> None:
    """Tell the agent above what was said to the agent of a log, whose task ends before it met that."""
    run = log.state.run
    if run is None or not log.path:
        return
    above = log.at(parent_of(log.path))
    said = [*run.unheard, *(message for _, message in run.pending)]
    if said and above.state.run is not None:
        await above.record(*(Steered(message, source="engine") for message in said))


def ends(log: Log) -> list[Stored]:
    """Return what ends everything that the agent of this log has open, but for its run or task itself."""
    run = log.state.run
    if run is None:
        return []
    events: list[Stored] = [*cancelled_calls(run, "cancelled_call")] if run.open else []
    if run.message:
        events.append(MessageEnded(log.partial(run.message), "cancelled", cost=run.reserved))
    if run.step:
        events.append(StepEnded())
    for each in log.state.history.summarizing.values():
        detail = "the run ended"
        events.append(SummaryEnded(each.kind, each.first, each.last, "cancelled", detail=detail, cost=each.reserved))
    return events


def cancelled_calls(run: RunState, text: str, early: str = "") -> list[ToolEnded]:
    """Return results of the calls that have none and will get none.

    Args:
        run: The run or task.
        text: Name of the words that say why.
        early: Name of those for a call that never began; empty for the same.
    """
    found: list[ToolEnded] = []
    for each in run.unanswered():
        said = words(text if each.started or each.task else early or text, run.spec.language)
        if each.started and each.threaded:
            said += " " + words("may_still_finish", run.spec.language)
        found.append(ToolEnded(each.call.id, said + _came_to(each), "cancelled"))
    return found


def _came_to(each: OpenCall) -> str:
    """Return what a delegated task stated when it was closed; empty for nothing."""
    task = each.task
    if task is None or task.status != "cancelled" or task.conclusion is None:
        return ""
    return f"\n\n{shortened(task.conclusion.reply, LONGEST_STATED, '')}"


def taken_back(log: Log, since: int, *, keep: bool = False, inside: bool = False) -> list[Stored]:
    """Return the ends of questions that nobody need answer any more: those asked after an event, by this agent.

    Args:
        log: The agent's.
        since: Number of the event.
        keep: Leave the questions of the kind `question` open.
        inside: Take back those of all agents, also of those that are gone, as a run does.
    """
    return [
        Answered(each.seq, "cancelled")
        for each in log.whole.questions.values()
        if each.seq > since and (inside or each.path == log.path) and not (keep and each.event.kind == "question")
    ]
