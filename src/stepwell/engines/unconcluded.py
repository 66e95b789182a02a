"""What stands for the conclusion of work that something else ended: what is there by then, read from the fold.

It asks no model and records nothing. How work ends is in `base.py` and `concluding.py`.
"""

from __future__ import annotations

import msgspec

from stepwell.agent.task_agents import SUBMIT
from stepwell.contexts import FailureGoal, TaskConclusion
from stepwell.engines.choices import came_to, to_say
from stepwell.engines.planning import standing, submission_of
from stepwell.engines.task_words import told
from stepwell.engines.words import words
from stepwell.events import LongTermUpdated, MessageAdded, Stored, Unknown
from stepwell.log import Log
from stepwell.messages import Message, clean
from stepwell.plans import Task, TaskSubmission
from stepwell.specs import RunSpec
from stepwell.state.run import OpenCall, RunState

STATED = "react.time_over"
"""Name of the constant in the versions of runs that state what is there when their time is over; earlier ones said
nothing."""


TIMES = ("seconds", "thread_seconds")
"""Causes of a run whose time is over, or that of its thread."""


def out_of_time(spec: RunSpec, cause: str) -> str:
    """Return in words which limit of time a run came to, by one of `TIMES`."""
    limits = spec.limits if cause == "seconds" else spec.thread_limits
    return words(cause, spec.language, limit=(limits.seconds if limits is not None else None) or 0.0)


def states(spec: RunSpec) -> bool:
    """Tell whether a run states what is there when its time is over."""
    return not spec.versions or STATED in spec.versions


def request_of(log: Log) -> tuple[Task, int]:
    """Return the task of the agent of a log and the number of the event that it comes from.

    A run's own agent has it from the first message that its run was given; what is said later steers the run.
    """
    run = log.state.run
    assert run is not None
    said = [(message.content, seq) for message, seq in log.state.history.entries() if message.role == "user"]
    newest = said[-1] if said else ("", run.seq)
    text, seq = next((each for each in said if each[1] > run.seq), newest)
    if run.task is not None:
        return run.task, seq
    line = " ".join(text[:400].split())
    name = line if len(line) <= 80 else line[:79] + "…"
    return Task(id="1", name=name or "-", goal=text or "-"), seq


def answered(log: Log) -> bool:
    """Tell whether a run's last answer stands already: a process stopped between it and the end of the run."""
    run, transcript = log.state.run, log.state.transcript
    if run is None or log.path or run.unheard:
        return False
    since, said = max(run.seq, run.step), run.reply.content if run.reply is not None else ""
    for at in range(len(transcript) - 1, -1, -1):
        message = transcript[at]
        if transcript.seqs[at] <= since:
            return False
        if message.role == "assistant":
            return not message.calls and message.content != said
    return False


def accepted(run: RunState) -> OpenCall | None:
    """Return the submission of the newest reply that counts, or None."""
    calls = (each for each in run.calls.values() if each.call.name == SUBMIT.name)
    return next((each for each in calls if each.ended is not None and each.ended.status == "ok"), None)


def of_submission(goal: str, submission: TaskSubmission, language: str) -> TaskConclusion:
    """Return the conclusion of a task whose model gave none: what it was submitted with."""
    result = submission.result or told("given_up", language)
    if submission.submit_type == "success":
        return TaskConclusion(summary=result, status="success", reached_goals=(goal,), reply=result)
    reason = told("unconcluded", language)
    return TaskConclusion(
        summary=result, status="failure", failed_goals=(FailureGoal(goal=goal, reason=reason),), reply=result
    )


def of_task(log: Log, run: RunState, why: str) -> TaskConclusion:
    """Return the conclusion of a task that something else ended.

    Args:
        log: The log of its agent.
        run: The open run or task.
        why: What ended it, in words.
    """
    goal, language = request_of(log)[0].goal, run.spec.language
    counts = accepted(run)
    submission = run.submission or (submission_of(counts.call) if counts is not None else None)
    if submission is not None:
        return of_submission(goal, submission, language)
    said = run.reply.content.strip() if run.reply is not None else ""
    last = told("last_said", language, text=said) if said else ""
    text = "\n\n".join(filter(None, (why, last)))
    failure = FailureGoal(goal=goal, reason=why)
    return TaskConclusion(summary=text, status="failure", failed_goals=(failure,), reply=text)


def of_plan(run: RunState, why: str) -> TaskConclusion:
    """Return the conclusion of a plan that something else ended; see `of_task`."""
    if run.plan is not None:
        return standing(run.plan, why, run.spec.language)
    return TaskConclusion(summary=why, status="failure", reply=why)


# the end of the time


def in_time(log: Log, why: str) -> TaskConclusion | None:
    """Return the conclusion of the agent of a log whose time is over; None where it talks and has no task.

    Args:
        log: Its log; nobody works for it any more.
        why: The limit in words; the conclusion begins with them.
    """
    run = log.state.run
    if run is None or run.spec.engine not in ("react", "plan"):
        return None
    found = of_plan(run, why) if run.spec.engine == "plan" else of_task(log, run, why)
    if not found.summary.startswith(why):  # it was submitted in time, and the conclusion did not come
        found = msgspec.structs.replace(found, summary=f"{why}\n\n{found.summary}", reply=f"{why}\n\n{found.reply}")
    return msgspec.structs.replace(found, summary=clean(found.summary), reply=clean(found.reply))


def last_words(log: Log, why: str) -> list[Stored]:
    """Return what a run says at the end of its time: what it concluded, or what the work came to that it spoke for.

    Args:
        log: The run's log; nobody works for it any more.
        why: As in `in_time`.
    """
    run = log.state.run
    if run is None:
        return []
    if run.spec.engine == "interaction":
        text = came_to(run)
        if not text or _said(text) not in to_say(log, run):
            return []
        return [_said(text if text.startswith(why) else f"{why}\n\n{text}")]
    found = in_time(log, why) if not answered(log) else None
    if found is None:
        return []
    known = found in log.state.longterm.past_tasks[-1:]
    return [*(() if known else (LongTermUpdated(past_task=found),)), _said(found.reply)]


def _said(text: str) -> MessageAdded:
    return MessageAdded(Message("assistant", text), "engine")


def is_last_word(event: Stored | Unknown, why: str) -> bool:
    """Tell whether an event is one of the last words of a run whose time is over."""
    match event:
        case LongTermUpdated(past_task=TaskConclusion(summary=text)):
            return text.startswith(why)
        case MessageAdded(message=Message(role="assistant", content=text), source="engine"):
            return text.startswith(why)
        case _:
            return False
