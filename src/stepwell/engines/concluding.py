"""The end of a task or plan: its conclusion is asked for, read from the log, and recorded with the end.

The conclusion's reply is no part of the conversation, so it is looked up in the log: a process that takes over after
the reply does not ask again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

import msgspec

from stepwell.agent.asking import Asked
from stepwell.agent.replies import Fault, validate
from stepwell.agent.task_agents import PlanAgent, ToolAgent
from stepwell.contexts import TaskConclusion
from stepwell.engines.base import close, close_inside, ends, pass_on, taken_back
from stepwell.engines.unconcluded import answered
from stepwell.engines.words import words
from stepwell.errors import ReplyMisfit
from stepwell.events import (
    EndReason,
    LongTermUpdated,
    MessageAdded,
    MessageEnded,
    Recorded,
    StepStarted,
    Stored,
    TaskEnded,
    ToolEnded,
    ToolStarted,
)
from stepwell.log import Log
from stepwell.messages import Message, clean
from stepwell.state.run import OpenCall, RunState

LOOKED_BACK = 100
"""Events before a repair that was cut off among which the reply is looked for that it was to repair."""


class Over(NamedTuple):
    """How work ends otherwise than by its own conclusion.

    Args:
        reason: As in `RunEnded`.
        cause: A stable word.
        detail: The cause in words.
    """

    reason: EndReason
    cause: str
    detail: str


def failed(agent: ToolAgent | PlanAgent, run: RunState) -> Over | None:
    """Return how work ends after the newest model call failed for good; None where it goes on."""
    failure = run.failure
    if failure is None or failure.retry_in is not None or failure.kind == "interrupted":
        return None
    if failure.kind == "overflow" and agent.may_learn():
        return None
    return Over("failed", failure.kind, words("model_failed", run.spec.language, detail=failure.detail))


async def conclude(
    log: Log, agent: ToolAgent | PlanAgent, task: str, overview: Callable[[], str]
) -> TaskConclusion | bool:
    """Take one step towards a conclusion.

    Args:
        log: Whose work is concluded.
        agent: Its agent.
        task: What was to be done.
        overview: Says how the plan stands that it is a part of; looked at as late as may be, for others work meanwhile.

    Returns:
        The conclusion; True where the model was asked and the next decision reads its reply; False where it gave none
        that fits, even after one repair.

    Raises:
        ContextFull: As `BaseAgent.ask`.
        LimitReached: As `BaseAgent.ask`.
        Conflict: As `BaseAgent.ask`.
    """
    reply, repaired = await _reply(log)
    tail = await agent.conclusion_tail(task, overview())
    if reply is None:
        await agent.ask_conclusion(tail)
        return True
    found = _read(agent, reply)
    if isinstance(found, TaskConclusion):
        return found
    if repaired:
        return False
    with suppress(ReplyMisfit):  # the next decision reads that it does not fit
        await agent.repair_conclusion(Asked(reply, None, found), tail)
    return True


async def received(log: Log, agent: ToolAgent | PlanAgent) -> TaskConclusion | None:
    """Return the conclusion that a model gave last, where it fits; what ends the work then comes too late."""
    reply, _ = await _reply(log)
    found = _read(agent, reply) if reply is not None else None
    return found if isinstance(found, TaskConclusion) else None


def _read(agent: ToolAgent | PlanAgent, reply: Message) -> TaskConclusion | Fault:
    found = validate(agent.conclusion_arguments, reply.content)
    if not isinstance(found, Fault):
        return msgspec.convert(found.fields, TaskConclusion)
    if not agent.model.profile.replies and reply.content:
        return TaskConclusion(summary=reply.content, status="success", reply=reply.content)
    return found


async def _reply(log: Log) -> tuple[Message | None, bool]:
    """Return the reply of the open step if a conclusion was asked for in it, and whether that was a repair."""
    run = log.state.run
    if run is None or not run.step or not run.aside:
        return None, False
    events = await log.read(after=run.step - 1)
    started = events[0].event if events else None
    if not isinstance(started, StepStarted) or started.reply != "conclusion":
        return None, False
    reply = _newest_reply(log, events)
    if reply is None and started.repairs:
        # The repair was cut off: what it was to repair stands before it.
        first = max(0, run.step - 1 - LOOKED_BACK)
        return _newest_reply(log, await log.read(after=first, limit=run.step - 1 - first)), False
    return reply, started.repairs


def _newest_reply(log: Log, events: Sequence[Recorded]) -> Message | None:
    mine = (each.event for each in reversed(events) if each.path == log.path)
    whole = (each for each in mine if isinstance(each, MessageEnded) and each.stop not in ("error", "cancelled"))
    return next((each.message for each in whole), None)


async def finish(log: Log, conclusion: TaskConclusion, over: Over | None = None, *, tell: bool = True) -> None:
    """End a task or run with its conclusion.

    A run tells it as the last message of the conversation. A task has one status: that of the conclusion.

    Args:
        log: Whose task or run it is.
        conclusion: What became of it.
        over: What ended it, where it did not come to its own end.
        tell: Whether a run has anything to tell besides what its end says.
    """
    run = log.state.run
    assert run is not None
    reason, cause, detail = over or Over("answer", "", "")
    if log.path:
        status: Literal["success", "failure", "cancelled"] = conclusion.status
        if reason == "cancelled":
            status = "cancelled"
        await close_inside(log, cause or "over", detail)
        await pass_on(log)
        await log.record(*taken_back(log, run.seq), *ends(log), TaskEnded(status, conclusion, cause, detail))
        return
    if tell and not answered(log):
        text = conclusion.reply or conclusion.summary or detail
        # An answer follows the results of all calls; the step of a conclusion stays open, so that it is found again.
        closed = [*taken_back(log, run.seq), *ends(log)] if run.unanswered() else []
        said = MessageAdded(Message("assistant", clean(text)), "engine")
        known = conclusion in log.state.longterm.past_tasks[-1:]
        await log.record(*closed, *(() if known else (LongTermUpdated(past_task=conclusion),)), said)
    await close(log, reason, cause, detail)


def own_call(each: OpenCall, text: str, *between: Stored) -> list[Stored]:
    """Return what records a call that an engine carried out itself.

    Args:
        each: The call; where a process stopped after its start, that is not recorded again.
        text: Its result.
        between: What it brought about.
    """
    started = () if each.started else (ToolStarted(each.call.id, each.call.name),)
    return [*started, *between, ToolEnded(each.call.id, text)]
