"""Decisions that every engine takes before its own: what a crash or an interrupt left, limits, pauses, questions.

It asks no model and runs no tool.
"""

from __future__ import annotations

from typing import Literal

from stepwell.engines.base import cancelled_calls, close_inside, ends, pass_on
from stepwell.engines.inquiring import withdrawn
from stepwell.engines.words import words
from stepwell.events import Answered, Asked, MessageEnded, ModelFailed, Stored, TaskEnded
from stepwell.log import Log
from stepwell.messages import Message
from stepwell.specs import NANO, Limits
from stepwell.state.run import Question, RunState, Spent
from stepwell.state.thread import parent_of

Turn = Literal["clear", "recorded", "waits", "stop"]
"""What a question means for the next decision: go on; decide again; wait for people; end the work."""


async def settle(log: Log, run: RunState) -> bool:
    """End what a crash or an interrupt left open in the agent of this log.

    Args:
        log: The agent's.
        run: Its open run or task.

    Returns:
        True where something was recorded: decide again.

    Raises:
        Conflict: Somebody else appended; ask again.
    """
    if run.message:
        if run.interrupted:
            await log.record(MessageEnded(log.partial(run.message), "cancelled", cost=run.reserved))
            return True
        # Only a process that stopped leaves a message open between two decisions.
        failed = ModelFailed("interrupted", "the process stopped while the model answered")
        await log.record(failed, MessageEnded(Message("assistant"), "error", cost=run.reserved))
        return True
    if run.interrupted and run.open:
        await end_delegated(log, run, "interrupted", words("interrupted_call", run.spec.language))
        calls = run.unanswered()
        open_questions = [each.asked for each in calls if each.asked and each.asked.answer is None]
        decided: list[Stored] = [Answered(each.seq, "cancelled") for each in open_questions]
        decided += [taken for each in calls for taken in withdrawn(log, each.call.id)]
        await log.record(*decided, *cancelled_calls(run, "interrupted_call", "interrupted_early"))
        return True
    for path in [*log.whole.agents]:  # a halted agent does not look at those that work for it
        inner = log.whole.agents[path].run
        mine = inner is not None and inner.call in run.calls and parent_of(path) == log.path
        if mine and inner is not None and await settle(log.at(path), inner):
            return True
    return False


async def end_delegated(
    log: Log, run: RunState, cause: str, detail: str, *, keep: bool = False, only: str = ""
) -> None:
    """End the tasks that calls without a result gave to other agents, the deepest first.

    Args:
        log: The agent's that gave them.
        run: Its open run or task.
        cause: A stable word for the cause.
        detail: The cause in words.
        keep: What they wanted to know from people stays open, for a later answer.
        only: Id of the one call whose task is ended; empty for all.
    """
    ids = {only} if only else {each.call.id for each in run.unanswered()}
    for path, agent in [*log.whole.agents.items()]:
        if agent.run is None or agent.run.call not in ids or parent_of(path) != log.path:
            continue
        inner = log.at(path)
        await close_inside(inner, cause, detail, keep=keep)
        asked = [each for each in log.whole.questions.values() if each.path == path and each.seq > agent.run.seq]
        taken = [Answered(each.seq, "cancelled") for each in asked if not (keep and each.event.kind == "question")]
        await pass_on(inner)
        await inner.record(*taken, *ends(inner), TaskEnded("cancelled", cause=cause, detail=detail))


def paused(log: Log) -> bool:
    """Tell whether somebody asked the agent, or the whole run, to halt: no model call and no tool may begin."""
    run = log.state.run
    if run is not None and run.paused:
        return True
    root = log.whole.run if log.path else None  # else it is the same run
    return root is not None and root.paused


def limit_reached(log: Log) -> tuple[str, str] | None:
    """Return name and words of a limit of the run or its thread that allows no further step, or None.

    All agents of a run spend from one purse. How many steps there may be counts only where a step comes next, how many
    calls only where calls wait for results. The seconds of an open run are its driver's business.
    """
    run = log.state.run
    if run is None:
        return None
    root, calling, language = log.whole.run or run, run.open > 0, run.spec.language
    held = _held(log) if calling and log.path else 0
    found = _reached(root.spec.limits, root.spent, calling, held)
    if found is not None:
        return found[0], words(found[0], language, limit=found[1])
    if root.spec.thread_limits is None:
        return None
    total = Spent()
    total.add(log.whole.spent)
    total.add(root.spent)
    found = _reached(root.spec.thread_limits, total, calling, held)
    seconds = root.spec.thread_limits.seconds
    if found is None and seconds is not None and total.milliseconds >= seconds * 1000:
        found = ("seconds", seconds)
    return None if found is None else (f"thread_{found[0]}", words(f"thread_{found[0]}", language, limit=found[1]))


def _held(log: Log) -> int:
    """Return how many calls gave tasks that others than this agent and its own helpers are at: each will count."""
    inside = f"{log.path}/"
    others = (each for each in log.whole.agents.values() if not each.path.startswith(inside))
    return sum(bool(each.run and each.run.call) for each in others)


def _reached(limits: Limits, spent: Spent, calling: bool, held: int) -> tuple[str, float] | None:
    # Asked before every step: most runs have one limit or two, and looking at all of them costs more.
    if limits.steps is not None and not calling and spent.steps >= limits.steps:
        return "steps", limits.steps
    if limits.tool_calls is not None and calling and spent.tool_calls + held >= limits.tool_calls:
        return "tool_calls", limits.tool_calls
    if limits.tokens is not None and spent.usage.input + spent.usage.output >= limits.tokens:
        return "tokens", limits.tokens
    if limits.money is not None and spent.money / NANO >= limits.money:
        return "money", limits.money
    return None


def repeated(run: RunState) -> bool:
    """Tell whether the same calls brought the same results so often that `repetition` has something to decide."""
    return 0 < run.spec.repetitions <= run.repeats


async def repetition(log: Log) -> Turn:
    """Stop an agent whose calls bring the same results again and again, and ask whether it may go on.

    Returns:
        `clear` where nothing of the kind happened; `recorded` where a question was asked, so decide again; `waits`
        while it is not decided, and then nothing was awaited since the look at the log; `stop` where the agent is to
        end with the limit `repetition`.
    """
    run = log.state.run
    if run is None or not repeated(run):
        return "clear"
    if not run.spec.people:
        return "stop"
    asked = run.asked
    if asked is not None and asked.event.kind == "repetition":
        if asked.answer is None:
            return "waits"
        if asked.answer.decision in ("stop", "expired"):
            return "stop"
    text = words("repetition_question", run.spec.language, limit=run.repeats)
    await log.record(Asked("repetition", text=text, choices=("continue", "stop")))
    return "recorded"


def repetition_words(log: Log) -> tuple[str, str]:
    """Return name and words of the limit with which an agent ends that goes in circles."""
    run = log.state.run
    assert run is not None
    return "repetition", words("repetition", run.spec.language, limit=run.repeats)


def put_off(log: Log) -> str | None:
    """Return the final answer of a run in which nobody can answer and something was asked all the same, or None.

    It names the thread and the command that answers each open question of the run, whichever agent asked. An engine of
    a run then closes it by `base.close(log, "answer", "question", text)`; the engine of a task returns False from its
    step, and leaves the end to the one that began the task.
    """
    root = log.whole.run
    if root is None or root.spec.people or not log.whole.questions:
        return None
    return _kept(log, root)


def _kept(log: Log, root: RunState) -> str | None:
    asked = [each for each in log.whole.questions.values() if each.event.kind == "question" and each.seq > root.seq]
    kept = [each for each in asked if _is_left(log, each)]
    if not kept:
        return None
    language = root.spec.language
    commands = "\n".join(_command(log.thread, each, language) for each in kept)
    return words("question_kept", language, detail=commands)


def _is_left(log: Log, question: Question) -> bool:
    """Tell whether nothing waits for the answer any more: the call that asked has been told that it comes later."""
    agent = log.whole.agents.get(question.path) if question.path else log.whole
    opened = agent.run.calls.get(question.event.call) if agent is not None and agent.run is not None else None
    return opened is None or opened.ended is not None


def _command(thread: str, question: Question, language: str) -> str:
    event = question.event
    choices = f" ({' / '.join(event.choices)})" if event.choices else ""
    return f'{event.text}{choices}\n    stepwell answer {thread} {question.seq} "{words("your_answer", language)}"'
