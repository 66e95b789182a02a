"""Open questions as AG-UI's interrupts: what a person sees of each, and the form of the response."""

from __future__ import annotations

import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from stepwell.events import Asked
from stepwell.messages import ToolCall
from stepwell.questions import DECISIONS, visible
from stepwell.server.agui.wire import NAME

Object = dict[str, Any]

_REASONS = MappingProxyType(
    {
        "approval": "tool_call",
        "outcome": "tool_call",
        "confirm": "confirmation",
        "repetition": "confirmation",
        "question": "input_required",
        "elicitation": "input_required",
        "result": "tool_call",
    }
)
"""AG-UI's words for why a run stopped, by the kind of the question."""


class Open(NamedTuple):
    """An open question.

    Args:
        seq: Its number.
        path: The agent that asks; empty for the run's own.
        asked: What is asked.
        call: The call that it is about; None for none.
    """

    seq: int
    path: str
    asked: Asked
    call: ToolCall | None


def interrupt(question: Open, agent: str = "") -> Object:
    """Return a question as an interrupt.

    Args:
        question: What is open.
        agent: Id of the agent inside the run that asks; empty for the run's own.
    """
    asked, call = question.asked, question.call
    found: Object = {
        "id": str(question.seq),
        "reason": _REASONS[asked.kind],
        "message": asked.text or asked.reason or _told(asked, call),
        "responseSchema": response_schema(asked),
        "metadata": {NAME: _more(asked, call)},
    }
    if asked.call:
        found["toolCallId"] = asked.call
    if asked.until:
        until = datetime.datetime.fromtimestamp(asked.until / 1000, datetime.UTC)
        found["expiresAt"] = until.isoformat(timespec="milliseconds")
    if agent:
        found["subagentRunId"] = agent
    return found


def _told(asked: Asked, call: ToolCall | None) -> str:
    return f"{asked.kind}: {call.name}" if call is not None else asked.kind


def _more(asked: Asked, call: ToolCall | None) -> Object:
    more: Object = {"kind": asked.kind, "reason": asked.reason, "decisions": DECISIONS[asked.kind]}
    if call is not None:
        more |= {"tool": call.name, "arguments": call.arguments, "shown": visible(call.arguments)}
    more |= {"hash": asked.hash} if asked.hash else {}
    more |= {"choices": asked.choices} if asked.choices else {}
    return more | ({"default": asked.default} if asked.default is not None else {})


_TEXT: Object = {"type": "string"}


def response_schema(asked: Asked) -> Object:
    """Return the JSON schema of the payload that answers a question."""
    match asked.kind:
        case "approval":
            given: Object = {
                "approved": {"type": "boolean"},
                "editedArgs": {"type": "object", "description": "Arguments that run instead of the model's."},
                "scope": {"enum": ["once", "call", "tool"]},
                "reason": _TEXT,
            }
            return _object(given, "approved")
        case "confirm":
            return _object({"approved": {"type": "boolean"}, "reason": _TEXT}, "approved")
        case "outcome" | "repetition":
            decisions = list(DECISIONS[asked.kind])
            return _object({"decision": {"enum": decisions}, "text": _TEXT}, "decision")
        case "result":
            return _object({"result": _TEXT}, "result")
        case "question" | "elicitation":
            if asked.form is not None:
                return asked.form
            return _object({"answer": {"enum": list(asked.choices)} if asked.choices else _TEXT}, "answer")


def _object(properties: Object, *required: str) -> Object:
    return {"type": "object", "properties": properties, "required": list(required)}
