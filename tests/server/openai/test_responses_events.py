"""The encoder of responses on logs that are hard to come by: live and stored events come to the same stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stepwell.events import (
    Answered,
    Asked,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    ModelFailed,
    Recorded,
    RunClaimed,
    RunEnded,
    RunStarted,
    RunWaiting,
    StepEnded,
    StepStarted,
    Stored,
    TextDelta,
    ThinkingDelta,
    ToolEnded,
    ToolStarted,
    Transient,
)
from stepwell.messages import Message, ToolCall
from stepwell.runs.channel import Item, Piece
from stepwell.server.openai.responses_events import Encoder
from stepwell.server.openai.responses_frames import REST, TEXT, number
from stepwell.server.openai.responses_items import ResponseId
from stepwell.specs import RunSpec
from tests.server.openai.test_responses_streams import EVENTS, Event, beyond, check_numbers, types

THREAD = "a" * 32


def events_of(data: bytes, *, check: bool = True) -> list[Event]:
    """Read frames; each names its type twice, and fits OpenAI's own types."""
    found: list[Event] = []
    for each in data.decode().split("\n\n"):
        if each and not each.startswith(":"):
            kind, body = each.split("\n", 1)
            found.append(json.loads(body.removeprefix("data: ")))
            assert kind == f"event: {found[-1]['type']}"
            if check:
                EVENTS.validate_python(found[-1])
    return found


def log(*events: Stored | Transient) -> list[Item]:
    """Return a run's events with their numbers, and the pieces between them."""
    found: list[Item] = []
    seq = offset = 0
    for event in (RunStarted(RunSpec(model="m")), MessageAdded(Message("user", "x")), *events):
        if isinstance(event, TextDelta | ThinkingDelta):
            offset += len(event.text)
            found.append(Piece(seq, offset, 1, event))
        else:
            seq, offset = seq + 1, 0
            found.append(Recorded(seq, 1000 * seq, 1, event))  # type: ignore[arg-type]
    return found


def stored(items: list[Item]) -> list[Item]:
    return [each for each in items if isinstance(each, Recorded)]


def encoded(items: list[Item], after: int = -1) -> list[Event]:
    encoder = Encoder(ResponseId(THREAD, 1), after)
    found = events_of(b"".join(map(encoder.encode, items)))
    check_numbers([*found, {"sequence_number": max(after, 0)}] if not found else found)
    return found


def same_everywhere(items: list[Item]) -> list[Event]:
    """Check that live and stored events come to the same stream at every place; return the live one."""
    live = encoded(items)
    for after in sorted({-1, *(each["sequence_number"] for each in live)}):
        assert beyond(encoded(items, after), after) == beyond(live, after)
        assert beyond(encoded(stored(items), after), after) == beyond(live, after)
    return live


STEP = StepStarted(1, "r")


def test_a_second_attempt_goes_on_with_the_item_of_the_first() -> None:
    failed = ModelFailed("interrupted", "the process stopped")
    items = log(
        STEP,
        MessageStarted(),
        ThinkingDelta(4, "hm"),
        TextDelta(4, "For"),
        failed,
        MessageEnded(Message("assistant", "For", thinking="hm"), "error"),
        StepEnded(),
        STEP,
        MessageStarted(),
        TextDelta(9, "Forty"),
        TextDelta(9, "-two"),
        MessageEnded(Message("assistant", "Forty-two"), "stop"),
        StepEnded(),
        RunEnded("answer"),
    )
    live = same_everywhere(items)
    assert [each["type"] for each in live].count("response.output_item.added") == 2
    done = [each for each in live if each["type"] == "response.output_text.done"]
    assert [each["text"] for each in done] == ["Forty-two"]
    assert [each["content"][0]["text"] for each in live[-1]["response"]["output"][1:]] == ["Forty-two"]


def test_an_attempt_of_which_nothing_was_stored_does_not_change_what_comes_after() -> None:
    events: list[Stored | Transient] = [
        STEP,
        MessageStarted(),
        TextDelta(4, "For"),
        ModelFailed("interrupted", "the process stopped"),
        MessageEnded(Message("assistant"), "error"),
        StepEnded(),
        STEP,
        MessageStarted(),
        TextDelta(9, "Forty"),
        MessageEnded(Message("assistant", "Forty"), "stop"),
        StepEnded(),
        RunEnded("answer"),
    ]
    items = log(*events)
    live, after = encoded(items), number(8, 0)
    again = beyond(encoded(stored(items), after), after)
    assert [each for each in again if "added" not in each["type"]][:-3][0]["delta"] == "Forty"
    assert live[-1]["response"]["output"][0]["content"][0]["text"] == "Forty"
    assert again[-1]["response"]["output"][0]["content"] == live[-1]["response"]["output"][0]["content"]


def test_a_reply_without_form_is_a_thought_and_then_the_answer() -> None:
    said = Message("assistant", "Just this.", raw="Just this.\n", unmarked=True)
    items = log(
        STEP,
        MessageStarted(),
        ThinkingDelta(4, "Just "),
        ThinkingDelta(4, "this."),
        MessageEnded(said, "stop"),
        StepEnded(),
        RunEnded("answer"),
    )
    live = same_everywhere(items)
    output = live[-1]["response"]["output"]
    assert [each["type"] for each in output] == ["reasoning", "message"]
    assert output[1]["content"][0]["text"] == "Just this."


def test_an_answer_that_did_not_fit_its_form_is_not_told() -> None:
    spec = RunSpec(model="m", output={"name": "a", "description": "", "schema": {"type": "object"}})
    items = log(
        STEP,
        MessageStarted(),
        TextDelta(4, "no {"),
        MessageEnded(Message("assistant", "no {"), "stop"),
        StepEnded(),
        StepStarted(2, "r", repairs=True),
        MessageStarted(),
        TextDelta(8, "{ }"),
        MessageEnded(Message("assistant", "{}"), "stop"),
        StepEnded(),
        RunEnded("answer"),
    )
    items[0] = Recorded(1, 1000, 1, RunStarted(spec))
    live = same_everywhere(items)
    assert [each["text"] for each in live if each["type"] == "response.output_text.done"] == ["{}"]
    assert len(live[-1]["response"]["output"]) == 1


def test_a_text_longer_than_there_are_numbers_comes_whole() -> None:
    room = REST - TEXT - 2
    piece, count = "x" * 100_000, room // 100_000 + 2
    items = log(
        STEP,
        MessageStarted(),
        *(TextDelta(4, piece) for _ in range(count)),
        MessageEnded(Message("assistant", piece * count), "stop"),
        StepEnded(),
        RunEnded("answer"),
    )
    live = encoded(items)
    for found in (live, encoded(stored(items))):
        deltas = [each["delta"] for each in found if each["type"] == "response.output_text.delta"]
        assert len("".join(deltas)) == count * 100_000
    last = next(each["sequence_number"] for each in live if each["type"] == "response.output_text.delta") + room // 2
    assert beyond(encoded(stored(items), last), last) == beyond(live, last)


def test_what_the_model_thinks_after_it_began_to_speak_is_in_the_end() -> None:
    items = log(
        STEP,
        MessageStarted(),
        ThinkingDelta(4, "one"),
        TextDelta(4, "Yes"),
        ThinkingDelta(4, " two"),
        TextDelta(4, "."),
        MessageEnded(Message("assistant", "Yes.", thinking="one two"), "stop"),
        StepEnded(),
        RunEnded("answer"),
    )
    live = encoded(items)
    assert live[-1]["response"] == encoded(stored(items))[-1]["response"]
    assert live[-1]["response"]["output"][0]["summary"][0]["text"] == "one two"


def span(items: list[Item], answered: int) -> list[Event]:
    """Return the stream of a later response of the run."""
    encoder = Encoder(ResponseId(THREAD, 1, answered), -1)
    return events_of(b"".join(map(encoder.encode, items)))


def shown(events: list[Event]) -> list[tuple[str, str]]:
    return [(each["type"], each.get("status", "")) for each in events[-1]["response"]["output"]]


def test_a_call_whose_outcome_nobody_knows_is_put_to_the_client_and_told_once_more() -> None:
    items = log(
        STEP,
        MessageStarted(),
        MessageEnded(Message("assistant", calls=(ToolCall("c1", "send", "{}"),)), "tool_calls"),
        ToolStarted("c1", "send", "write"),
        RunClaimed(1),
        Asked("outcome", "c1", "Was it sent?", choices=("retry", "done", "skip")),
        RunWaiting(),
        Answered(8, "skip", by="ada"),
        ToolEnded("c1", "nobody knows", "unknown"),
        StepEnded(),
        RunEnded("answer"),
    )
    first = same_everywhere(items)
    assert shown(first) == [("mcp_call", "incomplete"), ("mcp_approval_request", "")]
    asked = first[-1]["response"]["output"][1]
    assert (asked["name"], json.loads(asked["arguments"])["question"]) == ("outcome", "Was it sent?")
    second = span(items, 10)
    assert shown(second) == [("mcp_call", "failed")]
    assert types(second)[-3:] == ["mcp_call.failed", "output_item.done", "completed"]


def test_a_call_that_ends_while_another_of_its_server_asks_is_told_by_the_next_response() -> None:
    calls = (ToolCall("c1", "s__ask", "{}"), ToolCall("c2", "s__do", "{}"))
    items = log(
        STEP,
        MessageStarted(),
        MessageEnded(Message("assistant", calls=calls), "tool_calls"),
        ToolStarted("c1", "s__ask"),
        ToolStarted("c2", "s__do"),
        Asked("elicitation", "c1", "How big?"),
        ToolEnded("c2", "did"),
        Answered(8, "answer", "big", by="ada"),
        ToolEnded("c1", "asked"),
        StepEnded(),
        RunEnded("answer"),
    )
    first = same_everywhere(items)
    assert shown(first) == [("mcp_call", "incomplete"), ("mcp_call", "incomplete"), ("function_call", "completed")]
    second = span(items, 10)
    check_numbers(second)
    told = second[-1]["response"]["output"]
    assert [(each["name"], each["output"]) for each in told] == [("s__do", "did"), ("s__ask", "asked")]


def test_agents_inside_a_run_ask_and_are_not_heard() -> None:
    inner = "1/helper:5"
    items = log(
        STEP,
        MessageStarted(),
        MessageEnded(Message("assistant", calls=(ToolCall("c1", "delegate", "{}"),)), "tool_calls"),
        ToolStarted("c1", "delegate"),
        MessageStarted(),
        TextDelta(7, "secret"),
        MessageEnded(Message("assistant", "secret", calls=(ToolCall("c2", "send", '{"to": "bob"}'),)), "tool_calls"),
        Asked("approval", "c2", "May it?"),
        RunWaiting(),
        Answered(9, "approve", by="ada"),
        ToolStarted("c2", "send"),
        ToolEnded("c2", "sent"),
        ToolEnded("c1", "done"),
        StepEnded(),
        RunEnded("answer"),
    )
    items = [
        Recorded(each.seq, each.time, each.run, each.event, inner)
        if isinstance(each, Recorded) and each.seq in (7, 8, 9, 12, 13)
        else each
        for each in items
    ]
    first = same_everywhere(items)
    assert "secret" not in json.dumps(first)
    assert shown(first) == [("mcp_call", "incomplete"), ("mcp_approval_request", "")]
    asked = first[-1]["response"]["output"][1]
    assert (asked["name"], asked["arguments"]) == ("send", '{"to": "bob"}')
    second = span(items, 11)
    assert [each["name"] for each in second[-1]["response"]["output"]] == ["delegate"]


@pytest.mark.parametrize(
    ("reason", "cause", "status", "why"),
    [
        ("answer", "", "completed", None),
        ("answer", "length", "incomplete", "max_output_tokens"),
        ("limit", "tokens", "incomplete", "max_output_tokens"),
        ("limit", "steps", "incomplete", "max_messages"),
        ("failed", "content_filter", "incomplete", "content_filter"),
        ("failed", "rate_limit", "failed", "rate_limit_exceeded"),
        ("failed", "server", "failed", "server_error"),
        ("cancelled", "cancelled", "cancelled", None),
    ],
)
def test_each_end_of_a_run_has_its_status(reason: Any, cause: str, status: str, why: str | None) -> None:
    (*_, last) = encoded(log(RunEnded(reason, cause, "said")))
    response = last["response"]
    assert response["status"] == status
    told = response["error"]["code"] if response["error"] else (response["incomplete_details"] or {}).get("reason")
    assert told == why


def test_what_happens_beside_a_reply_comes_after_its_text() -> None:
    items = log(
        STEP,
        MessageStarted(),
        TextDelta(4, "It "),
        Asked("confirm", text="Really?"),
        TextDelta(4, "works."),
        MessageEnded(Message("assistant", "It works."), "stop"),
        StepEnded(),
        RunEnded("answer"),
    )
    live = same_everywhere(items)
    assert shown(live) == [("message", "completed"), ("mcp_approval_request", "")]
