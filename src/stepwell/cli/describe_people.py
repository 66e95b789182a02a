"""One line for each stored event about people, waiting messages and plans; the rest is in `describe.py`."""

from __future__ import annotations

from typing import assert_never

from stepwell.cli.screen import Screen, Style, short, when
from stepwell.events import (
    Answered,
    Asked,
    Feedback,
    Forked,
    Imported,
    MessageQueued,
    PauseRequested,
    PlanChanged,
    PlanMade,
    PolicyChanged,
    QueueEdited,
    ResumeRequested,
    RunWaiting,
    Steered,
    TaskEnded,
    TaskStarted,
    TaskSubmitted,
)
from stepwell.plans import Task
from stepwell.questions import visible

TEXT = 160
"""Characters shown of a text."""


def of_people(
    event: Asked | Answered | RunWaiting | Steered | PauseRequested | ResumeRequested, screen: Screen
) -> tuple[str, Style]:
    """Return what was asked, answered or said, on one line, and how it looks."""
    match event:
        case Asked():
            return _asked(event, screen), "warn"
        case Answered():
            return _answered(event, screen), "strong"
        case RunWaiting():
            said = screen.say("event_waits_until", time=when(event.until)) if event.until else screen.say("event_waits")
            return said, "dim"
        case Steered():
            name = "event_interrupted" if event.interrupt else "event_steered"
            return screen.say(name, text=_text(event.message.content)), "strong"
        case PauseRequested():
            return _with(screen.say("event_paused"), event.reason), "warn"
        case ResumeRequested():
            return screen.say("event_resumed"), ""
        case _:
            assert_never(event)


def _asked(event: Asked, screen: Screen) -> str:
    said = _with(screen.say(f"event_asked_{event.kind}", call=event.call), event.text, event.reason)
    said += f" [{_text(' | '.join(event.choices))}]" if event.choices else ""
    return said + (screen.say("event_asked_until", time=when(event.until)) if event.until else "")


def _answered(event: Answered, screen: Screen) -> str:
    fields = {"question": event.question, "decision": event.decision}
    said = _with(screen.say("event_answered", **fields), event.text)
    said += screen.say("event_answered_arguments", text=_text(visible(event.arguments))) if event.arguments else ""
    said += "" if event.scope == "once" else screen.say(f"event_scope_{event.scope}")
    return said + (screen.say("event_answered_by", by=_text(event.by)) if event.by else "")


def of_queue(
    event: MessageQueued | QueueEdited | PolicyChanged | Forked | Imported | Feedback, screen: Screen
) -> tuple[str, Style]:
    """Return what became of waiting messages or of the thread, on one line, and how it looks."""
    match event:
        case MessageQueued():
            return screen.say("event_queued", text=_text(event.message.content)), "strong"
        case QueueEdited():
            return _queue_edited(event, screen), ""
        case PolicyChanged():
            return screen.say("event_policy", policy=screen.say(f"policy_{event.policy}")), ""
        case Forked():
            said = screen.say("event_forked", parent=event.parent, at=event.at)
            return said + (screen.say("event_forked_edited", edited=event.edited) if event.edited else ""), ""
        case Imported():
            return _imported(event, screen), "strong"
        case Feedback():
            return _with(screen.say("event_feedback", message=event.message, score=event.score), event.reason), "strong"
        case _:
            assert_never(event)


def _imported(event: Imported, screen: Screen) -> str:
    said = screen.say("event_imported", source=event.source, origin=_text(event.origin), count=event.messages)
    left = ", ".join(f"{count} {what}" for what, count in (event.left_out or {}).items())
    return said + (screen.say("event_imported_left", left=_text(left)) if left else "")


def _queue_edited(event: QueueEdited, screen: Screen) -> str:
    if event.removed:
        return screen.say("event_queue_removed", item=event.item)
    if event.message is not None:
        return screen.say("event_queue_changed", item=event.item, text=_text(event.message.content))
    if event.before:
        return screen.say("event_queue_moved", item=event.item, before=event.before)
    return screen.say("event_queue_last", item=event.item)


def of_tasks(
    event: PlanMade | PlanChanged | TaskStarted | TaskSubmitted | TaskEnded, screen: Screen
) -> tuple[str, Style]:
    """Return what became of a plan or a task, on one line, and how it looks."""
    match event:
        case PlanMade():
            return screen.say("event_plan_made", goal=_text(event.root.goal), tasks=_tasks(event.tasks)), "strong"
        case PlanChanged():
            said = screen.say(f"event_plan_{event.operation}", target=event.target, tasks=_tasks(event.tasks))
            return said, "tool" if event.operation != "exit" else "dim"
        case TaskStarted():
            name = "event_task_delegated" if event.call else "event_task_started"
            return screen.say(name, task=_tasks((event.task,)), call=event.call), "tool"
        case TaskSubmitted():
            return _submitted(event, screen), "tool"
        case TaskEnded():
            summary = event.conclusion.summary if event.conclusion else ""
            said = _with(screen.say("event_task_ended", status=event.status), summary, event.detail)
            return said, "good" if event.status == "success" else "bad"
        case _:
            assert_never(event)


def _submitted(event: TaskSubmitted, screen: Screen) -> str:
    end = event.submission
    said = _with(screen.say("event_task_submitted", kind=end.submit_type), end.result)
    wanted = screen.say("event_task_rectify") if end.need_plan_rectification else ""
    return _with(said + wanted, "; ".join(end.suggestions))


def _tasks(tasks: tuple[Task, ...]) -> str:
    return _text(", ".join(f"{task.id} {task.name}".strip() for task in tasks)) or "-"


def _with(said: str, *texts: str) -> str:
    words = " – ".join(filter(None, map(_text, texts)))
    return f"{said}: {words}" if words else said


def _text(words: str) -> str:
    return short(visible(words), TEXT)
