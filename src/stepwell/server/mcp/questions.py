"""Questions of runs as MCP's clients put them to people, and what they answer as a decision. Nothing is asked here."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from stepwell.questions import Decision, visible
from stepwell.runs.people import QuestionInfo

_PLAIN = ("string", "integer", "number", "boolean")


class Form(NamedTuple):
    """A question as a client is asked it.

    Args:
        message: In words.
        schema: JSON schema of the answer: one level of plain fields, as the protocol has it.
    """

    message: str
    schema: dict[str, Any]


class Decided(NamedTuple):
    """What an answer decides.

    Args:
        decision: One of those that the question takes; empty where it cannot be answered without saying something.
        text: The answer, or the reason of a refusal.
        value: The fields of an answer with a form.
    """

    decision: Decision | None
    text: str = ""
    value: dict[str, Any] | None = None


def form_of(asked: QuestionInfo) -> Form | None:
    """Return a question as a client is asked it, or None where the protocol has no form for its answer."""
    if asked.kind == "result":
        return None
    words = visible(asked.text)
    if asked.form is not None:
        return Form(words, asked.form) if _is_plain(asked.form) else None
    if asked.tool:
        # All of the arguments: what is not shown is not approved.
        words = f"{words or visible(asked.reason)}\n{asked.tool} {visible(asked.arguments)}".strip()
    if asked.decisions == ("answer",) or asked.kind == "elicitation":
        field: dict[str, Any] = {"type": "string", "title": "Answer"}
        if asked.choices:
            field["enum"] = list(asked.choices)
        return Form(words, _object({"answer": field}, "answer"))
    field = {"type": "string", "title": "Decision", "enum": list(asked.decisions)}
    reason = {"type": "string", "title": "Reason"}
    return Form(words, _object({"decision": field, "reason": reason}, "decision"))


def decided(asked: QuestionInfo, action: str, content: dict[str, Any] | None) -> Decided:
    """Return what a client's answer decides.

    Args:
        asked: The question.
        action: `accept`, `decline` or `cancel`.
        content: The fields of what was accepted.
    """
    if action != "accept":
        refusals: tuple[Decision, ...] = ("deny", "skip", "stop")
        refusal: Decision | None = next((each for each in refusals if each in asked.decisions), None)
        return Decided(refusal, f"The person answered: {action}." if refusal == "deny" else "")
    given = content or {}
    if asked.form is not None:
        return Decided("answer", value=given)
    if "decision" in given:
        return Decided(cast(Decision, str(given["decision"])), str(given.get("reason") or ""))
    return Decided("answer", str(given.get("answer", "")))


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _is_plain(schema: dict[str, Any]) -> bool:
    fields = cast("dict[str, object]", schema.get("properties", {}))
    return all(
        isinstance(each, dict) and cast("dict[str, object]", each).get("type") in _PLAIN for each in fields.values()
    )
