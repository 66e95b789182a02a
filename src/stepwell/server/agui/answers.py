"""Responses to interrupts, and results of the client's tools, as answers to the open questions of a thread.

What a question takes is said elsewhere; here it is said in which words the protocol has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from stepwell.errors import InputError
from stepwell.events import Answered
from stepwell.questions import Decision, Scope
from stepwell.runs.answers import Reply
from stepwell.runs.log import ThreadLog
from stepwell.server.agui.bodies import ResumeBody
from stepwell.state.run import Question

Object = dict[str, Any]

NOT_DONE = "The client did not carry it out: the user said something else instead."


class Given(NamedTuple):
    """What a client sends for a call of one of its tools.

    Args:
        call: Id of the call.
        done: Whether there is a result.
        text: The result, or why there is none.
        more: Field of the request in which it is more than text; empty for none.
    """

    call: str
    done: bool
    text: str
    more: str = ""


class Answering:
    """The answers of one request.

    Args:
        now: Returns the time in milliseconds since 1970.
        resume: Responses to interrupts.
        given: Results of the client's tools.
        asked: Numbers of all questions that the thread ever had.
        goes_on: The user says something besides: calls of the client's tools that have no result get none.
    """

    def __init__(
        self,
        now: Callable[[], int],
        resume: Sequence[ResumeBody],
        given: Sequence[Given],
        asked: frozenset[int],
        *,
        goes_on: bool,
    ) -> None:
        self._now, self._resume, self._given, self._asked, self._goes_on = now, resume, given, asked, goes_on

    def replies(self, log: ThreadLog) -> list[Reply]:
        """Return what is answered; nothing where all of it was decided already, or the run is being cancelled.

        Raises:
            InputError: An interrupt is unknown or has no response, or a response or a result is none.
        """
        run, questions = log.state.run, log.state.questions
        found = self._responses(questions, over=run is None)
        taken = {each.made.question for each in found}
        waiting = {each.event.call: each.seq for each in questions.values() if each.event.kind == "result"}
        for given in self._given:
            seq = waiting.get(given.call)
            if seq is not None and seq not in taken:
                if given.more:
                    raise InputError("A result is text where its run waits for it; send text alone.", given.more)
                taken.add(seq)
                found.append(_result(seq, "done" if given.done else "skip", given.text))
        if self._goes_on:
            found += [_result(seq, "skip", NOT_DONE) for seq in waiting.values() if seq not in taken]
        return found if run is None or run.cancel is None else []

    def _responses(self, questions: Mapping[int, Question], *, over: bool) -> list[Reply]:
        if len({each.interruptId for each in self._resume}) != len(self._resume):
            raise InputError("An interrupt has two responses; send one.", "resume")
        numbers = [_number(each.interruptId) for each in self._resume]
        unknown = [
            each.interruptId
            for seq, each in zip(numbers, self._resume, strict=True)
            if seq not in questions and seq not in self._asked
        ]
        if unknown:
            raise InputError(f"There are no interrupts {', '.join(unknown)[:200]} in this thread.", "resume")
        known = frozenset(seq for seq in numbers if seq in questions)
        if known and (missing := unanswered(questions, known)):
            raise InputError(f"{missing} Nothing was answered.", "resume")
        return [
            self._response(questions[seq], self._resume[index], f"resume.{index}", over)
            for index, seq in enumerate(numbers)
            if seq in known
        ]

    def _response(self, question: Question, body: ResumeBody, place: str, over: bool) -> Reply:
        asked, places = question.event, _places(place)
        late = 0 < asked.until <= self._now()
        if not late and body.status == "resolved":
            return Reply(_resolved(question, body.payload, f"{place}.payload"), places=places)
        decision = _CANCELLED[asked.kind]
        if not late and decision != "expired":
            return Reply(Answered(question.seq, decision), places=places)
        if not over:
            return Reply(Answered(question.seq, "expired", asked.default or ""), lapses=True, places=places)
        if not asked.default:
            raise InputError("Its run is over; it can only be answered.", "resume")
        return Reply(Answered(question.seq, "answer", asked.default), places=places)


def _number(id: str) -> int:
    return int(id) if id.isdecimal() and id.isascii() and len(id) < 16 else 0


def _places(place: str) -> Mapping[str, str]:
    """Return where the fields of a response are."""
    payload = f"{place}.payload"
    names = {"decision": "decision", "arguments": "editedArgs", "scope": "scope"}
    inner = {name: f"{payload}.{theirs}" for name, theirs in names.items()}
    return {"": payload, "question": f"{place}.interruptId", **inner}


def _result(seq: int, decision: Decision, text: str) -> Reply:
    return Reply(Answered(seq, decision, text), places={"": "messages"})


def _resolved(question: Question, payload: object, field: str) -> Answered:
    seq, asked = question.seq, question.event
    match asked.kind:
        case "approval" | "confirm":
            return _approval(seq, payload, field)
        case "outcome" | "repetition":
            text = "" if isinstance(payload, str) else _string(_object(payload, field), "text", field)
            return Answered(seq, cast(Decision, _text(payload, "decision", field)), text)
        case "result":
            return Answered(seq, "done", _text(payload, "result", field))
        case "question" | "elicitation":
            if asked.form is not None:
                return Answered(seq, "answer", value=_object(payload, field))
            return Answered(seq, "answer", _text(payload, "answer", field))


def _approval(seq: int, payload: object, field: str) -> Answered:
    given = {"approved": payload} if isinstance(payload, bool) else _object(payload, field)
    approved, edited, scope = given.get("approved"), given.get("editedArgs"), given.get("scope", "once")
    if not isinstance(approved, bool):
        raise InputError("Say by `approved`, true or false, whether it may run.", f"{field}.approved")
    text = _string(given, "reason", field)
    if not approved:
        return Answered(seq, "deny", text)
    arguments = ""
    if edited is not None:
        arguments = json.dumps(_object(edited, f"{field}.editedArgs"), ensure_ascii=False)
    return Answered(seq, "approve", text, arguments, scope=cast(Scope, scope))


_CANCELLED: MappingProxyType[str, Decision] = MappingProxyType(
    {
        "approval": "deny",
        "confirm": "deny",
        "outcome": "skip",
        "repetition": "stop",
        "result": "skip",
        "question": "expired",
        "elicitation": "deny",
    }
)
"""What a response without an answer decides: a question nobody answers ends with its default, or with none."""


def unanswered(questions: Mapping[int, Question], answered: frozenset[int] = frozenset()) -> str:
    """Say which interrupts of a thread have no response; empty where none lacks one."""
    rest = [seq for seq, each in sorted(questions.items()) if each.event.kind != "result" and seq not in answered]
    if not rest:
        return ""
    return f"The thread waits for responses to the interrupts {', '.join(map(str, rest))}; send them all as `resume`."


def _object(payload: object, field: str) -> Object:
    if not isinstance(payload, Mapping):
        raise InputError("The payload is an object, as the interrupt's `responseSchema` says.", field)
    return dict(cast("Mapping[str, Any]", payload))


def _string(given: Object, name: str, field: str) -> str:
    text = given.get(name) or ""
    if not isinstance(text, str):
        raise InputError("This must be a text.", f"{field}.{name}")
    return text


def _text(payload: object, name: str, field: str) -> str:
    found = payload if isinstance(payload, str) else _object(payload, field).get(name)
    if isinstance(found, str):
        return found
    if name == "result" and found is not None:
        return json.dumps(found, ensure_ascii=False)
    raise InputError(f"Give the text, or an object with it as `{name}`.", field)
