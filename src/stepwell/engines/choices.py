"""What the front of an interaction chooses from, and how far its choices are carried out, by the fold of the log.

It asks no model and records nothing; `interaction.py` does that.
"""

from __future__ import annotations

import hashlib
from typing import Any

from stepwell import prompts
from stepwell.agent.base import BaseAgent
from stepwell.engines.planning import overview
from stepwell.engines.words import words
from stepwell.events import (
    Asked,
    MessageAdded,
    Stored,
    ToolEnded,
)
from stepwell.log import Log
from stepwell.messages import Message, ToolCall, ToolSpec, ToolSpecs, clean
from stepwell.plans import Plan
from stepwell.rendering import call_text
from stepwell.state.run import OpenCall, RunState
from stepwell.tools.arguments import BadArguments, read_object

WORK, CHAT = "plan", "chat"
"""How the paths of the working agent and of chats about the work begin; a number follows."""
SHOWN = 12_000
"""Characters of the work that a chat about it is shown."""
MALFORMED_LIMIT = 3
"""Replies in a row that choose nothing and are told so."""


def _text(name: str, about: str, field: str, meaning: str) -> ToolSpec:
    properties = {field: {"type": "string", "description": meaning}}
    return ToolSpec(name, about, {"type": "object", "properties": properties, "required": [field]})


ROUTES = ToolSpecs(
    (
        _text("answer_user", "Answer at once what needs no tools and no plan.", "answer", "What the user is told."),
        _text("ask_user", "Ask the user for what is missing before work can begin.", "question", "The question."),
        _text("start_task", "Begin work that needs tools or several steps.", "task", "The whole task, in one text."),
    )
)
_CHAT_ABOUT = {
    "type": "object",
    "properties": {
        "engine": {"type": "string", "enum": ["plan", "execution"], "description": "Who knows: planner or worker."},
        "question": {"type": "string", "description": "What the user wants to know about the work."},
    },
    "required": ["engine", "question"],
}
JUDGMENTS = ToolSpecs(
    (
        _text("exit_task", "The user wants the work to stop for good.", "reason", "Why."),
        _text("respond", "Answer what has nothing to do with the work.", "answer", "What the user is told."),
        ToolSpec("chat", "Answer a question about the work under way.", _CHAT_ABOUT),
        _text("detail", "Pass on what changes or completes the task.", "instruction", "What the planner must know."),
    )
)


def constants() -> dict[str, str]:
    """Return what decides how runs go besides the log, by name; replay compares it with the run's own."""
    text = b"".join(each.encoded for each in (ROUTES, JUDGMENTS))
    digests = {
        f"prompt.{kind}": prompts.load(kind, "default", "en").digest + prompts.load(kind, "default", "zh").digest
        for kind in ("router", "judger", "chat_about")
    }
    return {
        "interaction.malformed_limit": str(MALFORMED_LIMIT),
        "interaction.choices": hashlib.sha256(text).hexdigest()[:12],
        **digests,
    }


def working(log: Log) -> bool:
    """Tell whether a plan is at work."""
    return work_path(log) in log.whole.agents


def work_path(log: Log) -> str:
    """Return the path of the agent that works, or of the next one that will."""
    return f"{WORK}{log.state.run.tasks + 1 if log.state.run else 1}"


def plan_of(log: Log) -> Plan | None:
    """Return the plan at work, once it is made."""
    agent = log.whole.agents.get(work_path(log))
    return agent.run.plan if agent is not None and agent.run is not None else None


def must_ask(agent: BaseAgent, run: RunState, *, working: bool) -> bool:
    """Tell whether the front has to be asked: something was said since, or its newest reply settled nothing."""
    if run.unheard or run.failure is not None:
        return bool(run.unheard) or trouble_of(agent, run) is None
    calls = [each for each in run.calls.values() if each.ended is not None]
    if not run.kept:
        return True  # nothing was asked yet, or the reply was cut
    if calls and run.malformed:
        return run.malformed <= MALFORMED_LIMIT
    return not working and any(map(_leads_on, calls))


def _leads_on(each: OpenCall) -> bool:
    """Tell whether a choice that was carried out has to be followed by another."""
    status = each.ended.status if each.ended is not None else ""
    if each.call.name == "detail" and status == "failed":
        return True
    return each.call.name == "ask_user" or (each.call.name != "exit_task" and status == "denied")


def trouble_of(agent: BaseAgent, run: RunState) -> tuple[str, str] | None:
    """Return cause and words of what keeps the front from going on, or None."""
    failure, language = run.failure, run.spec.language
    if failure is not None and failure.retry_in is None and failure.kind != "interrupted":
        if failure.kind != "overflow" or not agent.may_learn():
            return failure.kind, words("model_failed", language, detail=failure.detail)
    if run.malformed > MALFORMED_LIMIT:
        return "malformed_tool_call", words("malformed_tool_call", language, limit=run.malformed)
    return None


def to_say(log: Log, run: RunState) -> list[Stored]:
    """Return what is to be said to the person by now: the choices of the newest reply, then what the work came to."""
    texts = [text for each in run.calls.values() if (text := spoken(each))] if run.kept else []
    entries = [each for each in log.state.history.entries() if each[0].role == "assistant" and not each[0].calls]
    texts = texts[sum(seq > run.kept for _, seq in entries) :]
    done = came_to(run)
    if done and not any(message.content == done and seq > run.seq for message, seq in entries):
        texts.append(done)
    return [MessageAdded(said_by(text), "engine") for text in texts]


def spoken(each: OpenCall) -> str:
    """Return what the person is told by a choice that was carried out; empty for nothing."""
    if each.ended is None or each.ended.status != "ok":
        return ""
    if each.call.name == "chat":
        return each.task.conclusion.reply if each.task is not None and each.task.conclusion is not None else ""
    return read_choice(each.call)[1] if each.call.name in ("answer_user", "respond") else ""


def came_to(run: RunState) -> str:
    """Return what the work came to; empty where none has ended."""
    if run.done is None:
        return ""
    conclusion = run.done.conclusion
    return clean((conclusion.reply or conclusion.summary) if conclusion is not None else run.done.detail)


def stopping(run: RunState) -> bool:
    """Tell whether the person confirmed that the work is to stop."""
    ended = [each.ended for each in run.calls.values() if each.call.name == "exit_task"]
    return bool(run.kept) and any(each is not None and each.status == "ok" for each in ended)


def asked_back(run: RunState, each: OpenCall, question: str) -> list[Stored]:
    """Return what asks the person, or takes the answer."""
    id, language = each.call.id, run.spec.language
    if not run.spec.people:
        asked = () if is_asked(each) else (Asked("question", id, question),)
        return [*asked, ToolEnded(id, words("answered_later", language))]
    answer = each.asked.answer if each.asked is not None else None
    if answer is None or answer.decision == "forked":
        return [Asked("question", id, question)]
    if answer.decision == "cancelled":
        return [ToolEnded(id, words("answered_by_message", language))]
    return [ToolEnded(id, clean(answer.text) or words("nobody_answered", language))]


def asked_to_exit(log: Log, run: RunState, each: OpenCall, reason: str) -> list[Stored]:
    """Return what asks whether the work is really to stop, or takes the answer."""
    id, language, asked = each.call.id, run.spec.language, each.asked
    if asked is not None and asked.answer is not None and asked.answer.decision == "forked":
        asked = None  # nobody was asked in the fork
    if asked is None and not working(log):
        return [ToolEnded(id, words("work_over", language), "failed")]
    if asked is None and run.spec.people:
        return [Asked("confirm", id, words("really_exit", language, detail=reason))]
    if asked is None or (asked.answer is not None and asked.answer.decision == "approve"):
        return [ToolEnded(id, words("work_stops", language))]
    return [ToolEnded(id, words("work_goes_on", language), "denied")]


def is_asked(each: OpenCall) -> bool:
    """Tell whether a choice waits for an answer."""
    return each.asked is not None and each.asked.answer is None


def heard(inner: Log, text: str, since: int) -> bool:
    """Tell whether an agent was told something after an event."""
    pending = [(message, seq) for seq, message in inner.state.run.pending] if inner.state.run else []
    said = [*pending, *inner.state.history.entries()]
    return any(seq > since and message.role == "user" and message.content == text for message, seq in said)


def work_shown(log: Log, run: RunState, engine: str) -> str:
    """Return what the planner, or the agent of the newest task, knows, newest last; or what the work came to."""
    path, plan = work_path(log), plan_of(log)
    below = [each for each in log.whole.agents if each.startswith(f"{path}/")]
    agent = log.whole.agents.get(below[-1] if engine == "execution" and below else path)
    lines: list[str] = []
    room = SHOWN
    for message in reversed(list(agent.transcript) if agent else []):
        calls = [call_text(call, "", None, 400) for call in message.calls]
        line = f"{message.role}: " + "\n".join(filter(None, (message.content, *calls)))
        if len(line) > room:
            break
        lines.append(line)
        room -= len(line)
    shown = overview(plan) if plan is not None else "" if agent is not None else came_to(run)
    return "\n\n".join(filter(None, (shown, *reversed(lines)))) or "-"


def line_of(text: str) -> str:
    """Return the beginning of a text as one line."""
    return " ".join(text[:400].split())[:80] or "-"


def said_by(text: str) -> Message:
    """Return a text as the message of the one who talks."""
    return Message("assistant", clean(text))


def fields_of(call: ToolCall) -> dict[str, Any]:
    """Return the arguments of a choice; none where they cannot be read."""
    try:
        return read_object(call.arguments)
    except BadArguments:
        return {}


def read_choice(call: ToolCall) -> tuple[str, str]:
    """Return the name of a choice, empty where its arguments cannot be read, and its one text."""
    spec = next((each for each in (*ROUTES, *JUDGMENTS) if each.name == call.name), None)
    if spec is None:
        return "", ""
    fields = fields_of(call)
    required: list[str] = spec.parameters["required"]
    given = fields.get(required[-1])
    return (call.name, clean(given).strip()) if isinstance(given, str) and given.strip() else ("", "")
