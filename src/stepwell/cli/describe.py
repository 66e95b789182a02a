"""One line for each stored event, for people."""

from __future__ import annotations

from typing import assert_never

from stepwell.cli.screen import Screen, Style, short
from stepwell.events import (
    CancelRequested,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    ModelFailed,
    RunClaimed,
    RunEnded,
    RunStarted,
    StepEnded,
    StepStarted,
    Stored,
    TitleChanged,
    ToolEnded,
    ToolStarted,
    Unknown,
)
from stepwell.messages import Message

TEXT = 160
"""Characters shown of a text."""


def describe(event: Stored | Unknown, screen: Screen) -> tuple[str, Style]:
    """Return what happened on one line, and how it looks."""
    match event:
        case MessageAdded() | MessageStarted() | MessageEnded() | ModelFailed():
            return _of_message(event, screen)
        case ToolStarted():
            return screen.say("event_tool_started", name=event.name, call=event.call, effect=event.effect), "tool"
        case ToolEnded():
            said = screen.say("event_tool_ended", call=event.call, status=event.status, text=_text(event.content))
            return said, "tool" if event.status == "ok" else "warn"
        case StepStarted():
            return screen.say("event_step_started", step=event.step, request=event.request[:12]), "dim"
        case StepEnded():
            return screen.say("event_step_ended"), "dim"
        case TitleChanged():
            return screen.say("event_title_changed", title=_text(event.title)), ""
        case Unknown():
            return screen.say("event_unknown", raw=_text(bytes(event.raw).decode("utf-8", "replace"))), "warn"
        case _:
            return _of_run(event, screen)


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


def _of_run(event: RunStarted | RunEnded | RunClaimed | CancelRequested, screen: Screen) -> tuple[str, Style]:
    match event:
        case RunStarted():
            spec = event.spec
            model = spec.model if not spec.model_name else f"{spec.model}:{spec.model_name}"
            tools = short(", ".join(spec.tools), TEXT) or "-"
            return screen.say("event_run_started", model=model, face=spec.face, tools=tools), ""
        case RunEnded():
            said = screen.say("event_run_ended", reason=event.reason, text=_text(event.detail)).rstrip()
            return said, "good" if event.reason == "answer" else "bad"
        case RunClaimed():
            return screen.say("event_run_claimed", epoch=event.epoch), "warn"
        case CancelRequested():
            return screen.say("event_cancel_requested", text=_text(event.reason)).rstrip(), "warn"
        case _:
            assert_never(event)


def _content(message: Message) -> str:
    calls = [f"{call.name}({short(call.arguments, TEXT)})" for call in message.calls]
    images = [f"[{len(message.images)} x image]"] if message.images else []
    return " ".join(filter(None, [_text(message.content), *images, *calls]))


def _text(words: str) -> str:
    return short(words, TEXT)
