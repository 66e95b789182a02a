"""One line for each stored event, for people. What concerns people and plans is in `describe_people.py`."""

from __future__ import annotations

from typing import assert_never

from stepwell.cli.describe_people import of_people, of_queue, of_tasks
from stepwell.cli.screen import Screen, Style, short
from stepwell.contexts import handle_of_blob
from stepwell.events import (
    Answered,
    Asked,
    CancelRequested,
    ContextCompacted,
    Feedback,
    Forked,
    HistoryCleared,
    Imported,
    LongTermUpdated,
    MessageAdded,
    MessageEnded,
    MessageQueued,
    MessageStarted,
    ModelFailed,
    PauseRequested,
    PlanChanged,
    PlanMade,
    PolicyChanged,
    QueueEdited,
    ResumeRequested,
    RunClaimed,
    RunEnded,
    RunStarted,
    RunWaiting,
    Steered,
    StepEnded,
    StepStarted,
    Stored,
    SummaryEnded,
    SummaryStarted,
    TaskEnded,
    TaskStarted,
    TaskSubmitted,
    TitleChanged,
    ToolEnded,
    ToolStarted,
    Unknown,
    Warned,
    WindowLearned,
    WorkingUpdated,
)
from stepwell.messages import Message
from stepwell.questions import visible

TEXT = 160
"""Characters shown of a text."""


def describe(event: Stored | Unknown, screen: Screen) -> tuple[str, Style]:
    """Return what happened on one line, and how it looks."""
    match event:
        case MessageAdded() | MessageStarted() | MessageEnded() | ModelFailed():
            return _of_message(event, screen)
        case ToolStarted() | ToolEnded() | StepStarted() | StepEnded():
            return _of_step(event, screen)
        case RunStarted() | RunEnded() | RunClaimed() | CancelRequested() | Warned() | TitleChanged() | Unknown():
            return _of_run(event, screen)
        case Asked() | Answered() | RunWaiting() | Steered() | PauseRequested() | ResumeRequested():
            return of_people(event, screen)
        case MessageQueued() | QueueEdited() | PolicyChanged() | Forked() | Imported() | Feedback():
            return of_queue(event, screen)
        case PlanMade() | PlanChanged() | TaskStarted() | TaskSubmitted() | TaskEnded():
            return of_tasks(event, screen)
        case SummaryStarted() | SummaryEnded():
            return _of_summary(event, screen)
        case _:
            return _of_context(event, screen)


def _of_step(event: ToolStarted | ToolEnded | StepStarted | StepEnded, screen: Screen) -> tuple[str, Style]:
    match event:
        case ToolStarted():
            return screen.say("event_tool_started", name=event.name, call=event.call, effect=event.effect), "tool"
        case ToolEnded():
            return _tool_ended(event, screen), "tool" if event.status == "ok" else "warn"
        case StepStarted():
            return _step_started(event, screen), "dim"
        case StepEnded():
            return screen.say("event_step_ended"), "dim"
        case _:
            assert_never(event)


def _tool_ended(event: ToolEnded, screen: Screen) -> str:
    fields = {"call": event.call, "status": event.status, "text": _text(event.content)}
    if not event.blob:
        return screen.say("event_tool_ended", **fields)
    return screen.say("event_tool_blob", **fields, handle=handle_of_blob(event.blob), size=event.size)


def _step_started(event: StepStarted, screen: Screen) -> str:
    name = "event_step_form" if event.reply else "event_step_started"
    said = screen.say(name, step=event.step, request=event.request[:12], form=event.reply)
    said += screen.say("event_step_tail", count=len(event.tail)) if event.tail else ""
    said += screen.say("event_step_aside") if event.aside else ""
    return said + (screen.say("event_step_repairs") if event.repairs else "")


def _of_context(
    event: LongTermUpdated | WorkingUpdated | HistoryCleared | ContextCompacted | WindowLearned, screen: Screen
) -> tuple[str, Style]:
    match event:
        case LongTermUpdated():
            return _long_term(event, screen), "dim" if event.rolled is not None else "strong"
        case WorkingUpdated():
            infos = [f"{name}: {value}" for name, value in event.basic_info.items()]
            return screen.say("event_working_updated", text=_text(" ".join([*infos, event.observation or ""]))), "dim"
        case HistoryCleared():
            return screen.say("event_history_cleared"), "warn"
        case ContextCompacted():
            fields = {"rung": event.rung, "before": event.before, "after": event.after, "upto": event.upto}
            return screen.say("event_context_compacted", **fields, cuts=len(event.cuts)), "dim"
        case WindowLearned():
            return screen.say("event_window_learned", model=event.model or "-", window=event.window), "warn"
        case _:
            assert_never(event)


def _long_term(event: LongTermUpdated, screen: Screen) -> str:
    if event.pinned is not None:
        return screen.say("event_pinned", text=_text(event.pinned))
    if event.unpinned is not None:
        return screen.say("event_unpinned", text=_text(event.unpinned))
    if event.rolled is not None:
        return screen.say("event_rolled", messages=event.rolled_messages, tasks=event.rolled_tasks)
    if event.past_task is not None:
        return screen.say("event_long_term_updated", text=_text(event.past_task.summary))
    if event.user_message is not None:
        return screen.say("event_long_term_updated", text=_text(event.user_message))
    changed = [name for name in event.__struct_fields__ if getattr(event, name)]
    return screen.say("event_long_term_updated", text=", ".join(changed))


def _of_summary(event: SummaryStarted | SummaryEnded, screen: Screen) -> tuple[str, Style]:
    fields = {"kind": event.kind, "first": event.first, "last": event.last}
    if isinstance(event, SummaryStarted):
        return screen.say("event_summary_started", **fields), "dim"
    said = screen.say("event_summary_ended", **fields, status=event.status, text=_text(event.text or event.detail))
    return said.rstrip(" :："), "dim" if event.status == "ok" else "warn"


def _of_message(event: MessageAdded | MessageStarted | MessageEnded | ModelFailed, screen: Screen) -> tuple[str, Style]:
    match event:
        case MessageAdded():
            return screen.say("event_message_added", role=event.message.role, text=_content(event.message)), "strong"
        case MessageStarted():
            return screen.say("event_message_started"), "dim"
        case MessageEnded():
            said = screen.say("event_message_ended", stop=event.stop, text=_content(event.message))
            return said, "warn" if event.stop in ("error", "cancelled") else "strong"
        case ModelFailed():
            name = "event_model_failed" if event.retry_in is None else "event_model_retry"
            return screen.say(name, kind=event.kind, text=_text(event.detail), seconds=event.retry_in or 0.0), "warn"
        case _:
            assert_never(event)


def _of_run(
    event: RunStarted | RunEnded | RunClaimed | CancelRequested | Warned | TitleChanged | Unknown, screen: Screen
) -> tuple[str, Style]:
    match event:
        case RunStarted():
            return _run_started(event, screen), ""
        case RunEnded():
            said = screen.say("event_run_ended", reason=event.reason, text=_text(event.detail)).rstrip()
            return said, "good" if event.reason == "answer" else "bad"
        case RunClaimed():
            return screen.say("event_run_claimed", epoch=event.epoch), "warn"
        case CancelRequested():
            return screen.say("event_cancel_requested", text=_text(event.reason)).rstrip(), "warn"
        case Warned():
            return screen.say("event_warned", code=event.code, text=_text(event.detail)), "warn"
        case TitleChanged():
            return screen.say("event_title_changed", title=_text(event.title)), ""
        case Unknown():
            return screen.say("event_unknown", raw=_text(bytes(event.raw).decode("utf-8", "replace"))), "warn"
        case _:
            assert_never(event)


def _run_started(event: RunStarted, screen: Screen) -> str:
    spec = event.spec
    model = spec.model if not spec.model_name else f"{spec.model}:{spec.model_name}"
    tools = short(", ".join(spec.tools), TEXT) or "-"
    said = screen.say("event_run_started", model=model, face=spec.face, tools=tools)
    said += "" if spec.engine == "chat" else screen.say("event_run_engine", engine=spec.engine)
    return said + (screen.say("event_run_queued", item=event.queued) if event.queued else "")


def _content(message: Message) -> str:
    calls = [f"{call.name}({short(visible(call.arguments), TEXT)})" for call in message.calls]
    images = [f"[{len(message.images)} x image]"] if message.images else []
    return " ".join(filter(None, [_text(message.content), *images, *calls]))


def _text(words: str) -> str:
    return short(words, TEXT)
