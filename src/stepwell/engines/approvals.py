"""What becomes of one call before it runs: refused, put to a person, answered by one, or started.

Everything is taken from the fold of the log, so that a call is judged alike before and after a crash. Nothing is
recorded and nothing runs here; `calls.py` does that.
"""

from __future__ import annotations

from typing import Any

import msgspec

from stepwell.engines.words import words
from stepwell.errors import ToolError
from stepwell.events import Answered, Asked, Stored, ToolEnded, ToolStarted, ToolStatus, Warned
from stepwell.log import Log
from stepwell.messages import ToolCall, clean
from stepwell.questions import call_hash
from stepwell.specs import Rule
from stepwell.state.run import OpenCall, Question, RunState
from stepwell.tools.arguments import preview
from stepwell.tools.base import Prepared, Tool, Toolbox
from stepwell.tools.policy import Asking, Decision, arguments_of, asking_of, decide, has_probe, place_of, version_of
from stepwell.tools.results import ToolResult

AGAIN = "run_again"
"""Code of the warning that stands before a second attempt which a person asked for: the third needs another yes."""


class Verdict(msgspec.Struct, frozen=True):
    """What becomes of a call now; without anything it waits for a person.

    Args:
        events: What is recorded for it.
        run: The call that is started then; None for none.
        probe: The outside is asked first whether it happened.
        result: What people, or the client that carried it out, say came of it.
    """

    events: tuple[Stored, ...] = ()
    run: Prepared | None = None
    probe: bool = False
    result: ToolResult | None = None


WAITS = Verdict()


async def judge(log: Log, run: RunState, toolbox: Toolbox, each: OpenCall) -> Verdict:
    """Return what becomes of a call of the newest reply that has no result and is not under way.

    Args:
        log: The log of the agent whose call it is.
        run: Its open run or task.
        toolbox: What may be called.
        each: The call.
    """
    if each.started and each.effect == "write":
        return await _cut_off(log, run, toolbox, each)
    if run.stop == "length":
        return _refused(run, each, "truncated_call", status="invalid")
    call = each.call if each.asked is None else _decided(each.call, each.asked)
    prepared = toolbox.prepare(call)
    if isinstance(prepared, ToolResult):
        return Verdict((ended(each, prepared),))
    tool = toolbox.get(call.name)
    if tool is None:
        return WAITS
    if not run.spec.approvals and each.asked is None and asking_of(tool) is None:
        return Verdict(run=prepared)  # most calls
    decision, rule = _ruled(log, run, tool, call)
    if decision == "deny" and not each.started:
        return _refused(run, each, "rule_denies", rule_text(rule))
    if (asking := asking_of(tool)) is not None:
        return _inquired(log, run, each, asking, arguments_of(tool, call.arguments))
    if decision == "allow" and each.asked is None:
        return Verdict(run=prepared)
    return _approved(log, run, tool, each, rule, _noted(run, prepared, call, each))


def _ruled(log: Log, run: RunState, tool: Tool, call: ToolCall) -> tuple[Decision, Rule | None]:
    """Return what the table says of a call."""
    rules = run.spec.approvals
    if not rules:
        return "allow", None
    arguments = arguments_of(tool, call.arguments)
    return decide(rules, call.name, tool.effect, place_of(tool), arguments, log.state.untrusted)


def _approved(log: Log, run: RunState, tool: Tool, each: OpenCall, rule: Rule | None, prepared: Prepared) -> Verdict:
    """Return what becomes of a call that a rule asks for, or asked for once."""
    name, hash = each.call.name, call_hash(each.call.name, each.call.arguments, version_of(tool))
    asked = each.asked if each.asked is not None and each.asked.event.kind == "approval" else None
    if asked is not None:
        answer = asked.answer
        if answer is None:
            return WAITS
        if answer.decision == "deny":
            return _refused(run, each, "denied_because" if answer.text else "denied", clean(answer.text))
        if answer.decision == "expired":
            return _refused(run, each, "approval_expired")
        if answer.decision == "approve" and asked.event.hash == hash:
            return Verdict(run=prepared)
    free = rule is None or rule.decision == "allow" or not {(name, ""), (name, hash)}.isdisjoint(log.whole.allowed)
    if free or (asked is None and each.started):
        return Verdict(run=prepared)
    reason = words("rule_asks", run.spec.language, detail=rule_text(rule))
    if not run.spec.people:
        return _refused(run, each, "nobody_approves", rule_text(rule))
    text = words("approval_question", run.spec.language, detail=name)
    until = _until(log, run.spec.question_seconds)
    return Verdict((Asked("approval", each.call.id, text, reason, hash, until=until),))


def _inquired(log: Log, run: RunState, each: OpenCall, tool: Asking, arguments: dict[str, Any]) -> Verdict:
    """Return what becomes of a call that is a question to a person."""
    asked, language = each.asked, run.spec.language
    if asked is not None and asked.event.kind == "result" and asked.answer is None:
        return WAITS
    if asked is not None and asked.answer is None:
        if run.spec.people or not all(map(_is_asking, run.unanswered())):
            return WAITS  # somebody may be quicker than the other calls, even where nobody has to be there
        return Verdict((ToolEnded(each.call.id, words("answered_later", language)),))
    if asked is not None and (told := _told(asked, language)) is not None:
        return Verdict(result=told)
    try:
        inquiry = tool.question(arguments)
    except ToolError as error:
        return Verdict((ToolEnded(each.call.id, clean(str(error)), "invalid"),))
    asks = Asked(
        inquiry.kind,
        each.call.id,
        inquiry.text,
        choices=inquiry.choices,
        form=inquiry.form,
        until=_until(log, inquiry.seconds) if run.spec.people else 0,
        default=inquiry.default,
    )
    started = () if each.started else (ToolStarted(each.call.id, each.call.name),)
    return Verdict((*started, asks))


def _sent(answer: Answered, language: str) -> ToolResult:
    """Return the result of a call that the client carried out, or did not."""
    if answer.decision == "done":
        return ToolResult(clean(answer.text))
    return ToolResult(clean(answer.text) or words("not_carried_out", language), "failed")


def _is_asking(each: OpenCall) -> bool:
    return each.asked is not None and each.asked.event.kind == "question" and each.asked.answer is None


def _told(asked: Question, language: str) -> ToolResult | None:
    """Return what the model is told of a question that was decided; None where it is asked, or has to be once more."""
    answer = asked.answer
    match answer.decision if answer is not None else "":
        case "done" | "skip" if answer is not None and asked.event.kind == "result":
            return _sent(answer, language)
        case "answer" if answer is not None:
            return ToolResult(_answer_text(answer))
        case "expired":
            return ToolResult(words("no_answer", language) if asked.event.default is None else asked.event.default)
        case _:
            return None


def _answer_text(answer: Answered) -> str:
    return clean(answer.text if answer.value is None else msgspec.json.encode(answer.value).decode())


# calls that a process left behind


async def _cut_off(log: Log, run: RunState, toolbox: Toolbox, each: OpenCall) -> Verdict:
    """Return what becomes of a call with an effect that a process had begun when it stopped."""
    asked = each.asked if each.asked is not None and each.asked.event.kind == "outcome" else None
    if asked is not None and asked.answer is None:
        return WAITS
    call = _decided(each.call, each.asked) if asked is None else await as_started(log, run, each.call)
    prepared = toolbox.prepare(call)
    good = _noted(run, prepared, call, each) if isinstance(prepared, Prepared) else None
    if asked is not None and asked.answer is not None:
        match asked.answer.decision:
            case "done":
                text = _answer_text(asked.answer) or words("done_by_people", run.spec.language)
                return Verdict((ToolEnded(each.call.id, text),))
            case "skip" | "expired":
                return _refused(run, each, "skipped_outcome", status="unknown")
            case "retry" if good is not None and asked.event.hash == _hash(toolbox, call):
                if not await _tried(log, asked, each.call.id):
                    return Verdict((Warned(AGAIN, each.call.id),), good)
            case _:
                pass
    elif good is not None and (tool := toolbox.get(call.name)) is not None and has_probe(tool):
        return Verdict(run=good, probe=True)
    return Verdict((unknown_outcome(run, toolbox, each, call),))


def unknown_outcome(run: RunState, toolbox: Toolbox, each: OpenCall, call: ToolCall | None = None) -> Stored:
    """Return what is recorded of a call that was cut off when nobody but a person can tell what came of it.

    Args:
        run: The run or task.
        toolbox: What may be called.
        each: The call.
        call: It as it was started; None where that is as the model wrote it, or as somebody approved it.
    """
    language = run.spec.language
    if not run.spec.people:
        return ToolEnded(each.call.id, words("unknown_outcome", language), "unknown")
    call = call or _decided(each.call, each.asked)
    text = words("outcome_question", language, detail=f"{call.name}({preview(call.arguments)})")
    return Asked("outcome", each.call.id, text, hash=_hash(toolbox, call), choices=("retry", "done", "skip"))


async def as_started(log: Log, run: RunState, call: ToolCall) -> ToolCall:
    """Return a call as it was started, with arguments that somebody put in place, which the fold forgets.

    Args:
        log: That of the agent whose call it is.
        run: Its open run or task.
        call: The call as the model wrote it.
    """
    asked: set[int] = set()
    for recorded in await log.read(after=run.seq):
        match recorded.event:
            case Asked(kind="approval", call=id) if id == call.id and recorded.path == log.path:
                asked.add(recorded.seq)
            case Answered(decision="approve", arguments=text, question=question) if question in asked and text:
                call = msgspec.structs.replace(call, arguments=text)
            case _:
                pass
    return call


async def _tried(log: Log, asked: Question, id: str) -> bool:
    """Tell whether a process has begun the attempt that a person asked for."""
    return any(recorded.event == Warned(AGAIN, id) for recorded in await log.read(after=asked.seq))


# in words


def ended(each: OpenCall, result: ToolResult) -> ToolEnded:
    """Return the record of a call's result."""
    return ToolEnded(
        each.call.id,
        result.content,
        result.status,
        result.images,
        result.details,
        result.hash,
        result.size or len(result.whole),
    )


def rule_text(rule: Rule | None) -> str:
    """Return a rule as one line: what it is about."""
    if rule is None:
        return "tool *"
    parts = [f"tool {rule.tool}"]
    parts += [f"effect {rule.effect}"] if rule.effect else []
    parts += [f"place {rule.place}"] if rule.place else []
    if rule.untrusted is not None:
        parts.append("untrusted text in the context" if rule.untrusted else "no untrusted text in the context")
    parts += [f"{name} = {pattern}" for name, pattern in rule.arguments.items()]
    return ", ".join(parts)


def _refused(run: RunState, each: OpenCall, text: str, detail: str = "", status: ToolStatus = "denied") -> Verdict:
    return Verdict((ToolEnded(each.call.id, words(text, run.spec.language, detail=detail), status),))


def _decided(call: ToolCall, asked: Question | None) -> ToolCall:
    """Return a call with the arguments that somebody approved in place of the model's."""
    answer = asked.answer if asked is not None and asked.event.kind == "approval" else None
    edited = answer is not None and answer.decision == "approve" and answer.arguments
    return msgspec.structs.replace(call, arguments=answer.arguments) if answer is not None and edited else call


def _noted(run: RunState, prepared: Prepared, call: ToolCall, each: OpenCall) -> Prepared:
    """Have the model told where the arguments are not its own."""
    if call.arguments == each.call.arguments:
        return prepared
    note = words("edited_arguments", run.spec.language, detail=preview(call.arguments))
    return msgspec.structs.replace(prepared, note=note)


def _hash(toolbox: Toolbox, call: ToolCall) -> str:
    tool = toolbox.get(call.name)
    return call_hash(call.name, call.arguments, version_of(tool) if tool is not None else "")


def _until(log: Log, seconds: float | None) -> int:
    return 0 if seconds is None else log.now() + round(seconds * 1000)
