"""Questions to people as they are shown in a terminal, and what is typed under them as a decision."""

from __future__ import annotations

from typing import Any

import msgspec

from stepwell.cli.people import Reply
from stepwell.cli.screen import Screen, short, when
from stepwell.errors import InputError
from stepwell.questions import Decision, visible
from stepwell.runs.people import QuestionInfo

SHOWN = 20_000
"""Characters shown of a call's arguments; more are counted."""


def lines_of(question: QuestionInfo, screen: Screen) -> list[str]:
    """Return a question as lines for a person: what is asked, the stored bytes, and why."""
    heading = screen.say(f"asked_{question.kind}", tool=question.tool or "-")
    inside = f" [{question.path}]" if question.path else ""
    lines = [f"? {question.seq}{inside} {heading}"]
    if question.tool and question.kind not in ("question", "confirm"):
        lines.append(f"  {question.tool} {_whole(question.arguments, screen)}")
    lines += [f"  {visible(each)}" for each in question.text.splitlines()]
    if question.reason:
        lines.append("  " + screen.say("asked_reason", reason=short(visible(question.reason), 500)))
    lines += [f"  {number}) {visible(each)}" for number, each in enumerate(question.choices, 1)]
    if question.form is not None:
        lines.append("  " + screen.say("asked_form", form=visible(msgspec.json.encode(question.form).decode())))
    if question.until:
        lines.append("  " + screen.say("asked_until", time=when(question.until)))
    return lines


def keys_of(question: QuestionInfo, screen: Screen) -> str:
    """Return what can be typed under a question."""
    return screen.say(f"keys_{question.kind}")


def _whole(arguments: str, screen: Screen) -> str:
    shown = visible(arguments)
    if len(shown) <= SHOWN:
        return shown
    return shown[:SHOWN] + screen.say("asked_more", count=len(shown) - SHOWN)


def typed(question: QuestionInfo, line: str) -> Reply | None:
    """Return what a typed line decides, or None where it is no decision of this question."""
    word, _, rest = line.strip().partition(" ")
    match question.kind:
        case "approval":
            return _approval(question, word, rest.strip())
        case "question":
            return given(question, line.strip())
        case "elicitation":
            refused = word.lower() in ("deny", "no") and question.form is not None
            return Reply("deny", rest.strip()) if refused else given(question, line.strip())
        case _:
            decision, why = _WORDS[question.kind].get(word.lower()), rest.strip()
            return Reply(decision, why, hash=question.hash) if decision and not (why and decision in _ALONE) else None


_ALONE = frozenset({"approve", "retry", "continue"})
"""Decisions that let something happen: a line that goes on after their word is no decision, but perhaps a message."""
_YES: dict[str, Decision] = {"y": "approve", "yes": "approve", "n": "deny", "no": "deny"}
_WORDS: dict[str, dict[str, Decision]] = {
    "confirm": _YES,
    "outcome": {"r": "retry", "retry": "retry", "d": "done", "done": "done", "s": "skip", "skip": "skip"},
    "result": {"d": "done", "done": "done", "s": "skip", "skip": "skip"},
    "repetition": {"c": "continue", "continue": "continue", "s": "stop", "stop": "stop"},
}


def _approval(question: QuestionInfo, word: str, rest: str) -> Reply | None:
    """What is decided is bound to what was shown: a call that changed since is refused."""
    hash = question.hash
    if word in ("a", "always"):
        return Reply("approve", scope="tool" if rest else "call", hash=hash) if rest in ("", "tool") else None
    if word in ("e", "edit"):
        return Reply("approve", arguments=rest, hash=hash) if rest else None
    decision = _YES.get(word.lower())
    return Reply(decision, rest, hash=hash) if decision and not (rest and decision in _ALONE) else None


def given(question: QuestionInfo, text: str) -> Reply | None:
    """Return the answer to a question that an agent asks: a choice by its number, the fields of a form, or text.

    Raises:
        InputError: It is no JSON object where the answer has fields.
    """
    if not text:
        return None
    if question.form is not None:
        return Reply("answer", value=_fields(text))
    if text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= len(question.choices):
        text = question.choices[int(text) - 1]
    return Reply("answer", text)


def _fields(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise InputError(f"The answer has fields; give them as a JSON object: {error}.", "text") from error
