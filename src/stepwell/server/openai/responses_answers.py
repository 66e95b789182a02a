"""What a client sends for the questions of a run that waits, as answers to them. What they take is said elsewhere."""

from __future__ import annotations

import json
from typing import Any, cast

from stepwell.errors import Busy, Decided, InputError
from stepwell.events import Answered
from stepwell.messages import Message
from stepwell.runs.answers import Reply
from stepwell.runs.log import ThreadLog
from stepwell.server.openai.responses_input import Answer, Said
from stepwell.server.openai.responses_items import ELICITATION, FUNCTIONS, VERDICTS, item_id
from stepwell.state.run import Question


def replies(log: ThreadLog, said: Said, run: int, *, whole: bool) -> list[Reply]:
    """Return what a client answers to the open questions of a thread.

    Args:
        log: The thread's.
        said: The input.
        run: Number of the run that should wait; 0 for whichever does.
        whole: The input is the whole conversation: what stands before the answers is known.

    Raises:
        Decided: The run is over or being cancelled.
        Busy: It does not wait.
        InputError: An answer is for nothing that waits, or nothing is answered.
    """
    state = log.state.run
    if state is None or run not in (0, state.seq) or state.cancel is not None:
        raise Decided("The run is over.", "previous_response_id")
    if state.waiting is None and not any(each.event.kind == ELICITATION for each in log.state.questions.values()):
        raise Busy("The run goes on; wait until it waits again.", "previous_response_id")
    found: list[Reply] = []
    for each in said.answers:
        asked = log.state.questions.get(each.question) if each.thread == log.thread else None
        if whole and asked is None and said.may_be_past(each):
            continue
        if asked is None or asked.seq < state.seq:
            raise no_call(each)
        found.append(Reply(_answered(each, asked), places={"": each.field}))
    if not found:
        raise unanswered(log)
    return found


def told(said: Said, *, whole: bool) -> Message | None:
    """Return what a client says besides its answers; None for nothing.

    Raises:
        InputError: A message is somebody else's.
    """
    messages = said.messages[said.after :] if whole else tuple(m for m in said.messages if m.role == "user")
    return joined(messages) if messages else None


def _answered(answer: Answer, asked: Question) -> Answered:
    kind, seq = asked.event.kind, asked.seq
    if kind in VERDICTS and answer.approve is not None:
        return Answered(seq, VERDICTS[kind][not answer.approve], answer.text)
    if kind not in FUNCTIONS or answer.approve is not None:
        raise no_call(answer)
    if answer.images:
        said = "The output of a function is text where its run waits for it; leave the images out."
        raise InputError(said, answer.field.removesuffix("call_id") + "output")
    if kind == "result":
        return Answered(seq, "done", answer.text)
    if kind == ELICITATION and answer.declined:
        return Answered(seq, "deny", answer.text)
    if asked.event.form is not None:
        return Answered(seq, "answer", value=_fields(answer))
    return Answered(seq, "answer", answer.text)


def _fields(answer: Answer) -> dict[str, Any]:
    try:
        value: object = json.loads(answer.text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError("The answer has fields; send them as a JSON object.", answer.field)
    return cast("dict[str, Any]", value)


def no_call(answer: Answer) -> InputError:
    """Return the refusal of an answer to something that was never asked, or is not any more."""
    if answer.approve is None:
        named = item_id("call", answer.thread, answer.question)
        return InputError(f"No tool call found for function call output with call_id {named}.", answer.field)
    named = item_id("mcpr", answer.thread, answer.question)
    return InputError(f"No approval request found for the response with approval_request_id {named}.", answer.field)


def unanswered(log: ThreadLog) -> InputError:
    """Return the refusal of an input that answers nothing of what a run waits for."""
    names: list[str] = []
    for seq, asked in log.state.questions.items():
        names.append(item_id("call" if asked.event.kind in FUNCTIONS else "mcpr", log.thread, seq))
    return InputError(f"No tool output or approval found for {', '.join(names)}.", "input")


def joined(messages: tuple[Message, ...]) -> Message:
    """Return messages of the user as one.

    Raises:
        InputError: There is none, or one is somebody else's.
    """
    if not messages:
        raise InputError("Say something: the input has no message of the user.", "input")
    if any(each.role != "user" for each in messages):
        raise InputError("The conversation is known here; send only what the user says.", "input")
    images = tuple(image for each in messages for image in each.images)
    return Message("user", "\n\n".join(each.content for each in messages if each.content), images)
