"""How a run's events become a chat completion, whatever part of them a reader saw."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stepwell.events import (
    Answered,
    Asked,
    CallDelta,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    ModelFailed,
    Recorded,
    RunEnded,
    RunStarted,
    RunWaiting,
    StepStarted,
    Stored,
    TextDelta,
    ThinkingDelta,
    ToolEnded,
    ToolProgress,
    ToolStarted,
    Transient,
)
from stepwell.messages import Message, ToolCall, ToolSpec, Usage
from stepwell.runs.channel import Piece
from stepwell.server.openai.chat_events import Chunks, Document, Turn
from stepwell.specs import RunSpec

THREAD = "0" * 32
SPEC = RunSpec(client_tools=(ToolSpec("look", "Looks.", {"type": "object"}),))
LOOK, OWN = ToolCall("a", "look", '{"at":"top"}'), ToolCall("b", "calculate", "{}")


class Read:
    """What one reader sees of events, streamed and as a document."""

    def __init__(self, *events: Stored | Transient | tuple[str, Stored], given: frozenset[int] = frozenset()) -> None:
        self.chunks = Chunks(THREAD, 1, "m", 1, usage=True)
        self.document = Document()
        self.turns = [Turn(THREAD, self.chunks, given), Turn(THREAD, self.document, given)]
        self._seq = 0
        for each in events:
            self.take(each)

    def take(self, event: Stored | Transient | tuple[str, Stored]) -> None:
        path, event = event if isinstance(event, tuple) else ("", event)
        for turn in self.turns:
            if isinstance(event, TextDelta | ThinkingDelta | CallDelta | ToolProgress):
                turn.take(Piece(self._seq, 1, 1, event))
            else:
                turn.take(Recorded(self._seq + 1, 1000, 1, event, path))
        self._seq += not isinstance(event, TextDelta | ThinkingDelta | CallDelta | ToolProgress)

    def shown(self) -> list[dict[str, Any]]:
        if self.turns[0].end is not None and self.turns[0].end.finish:
            self.chunks.finish(self.turns[0])
        return [json.loads(each[6:]) for each in self.chunks.taken().decode().split("\n\n") if each]

    def body(self) -> dict[str, Any]:
        return self.document.body(self.turns[1], THREAD, 1, "m", 1)


def deltas(chunks: list[dict[str, Any]], name: str) -> list[Any]:
    return [
        each["choices"][0]["delta"][name] for each in chunks if each["choices"] and name in each["choices"][0]["delta"]
    ]


def text(chunks: list[dict[str, Any]]) -> str:
    return "".join(deltas(chunks, "content"))


REPLY = MessageEnded(Message("assistant", "It is 42.", thinking="I know."), "stop", Usage(10, 2, 4))


@pytest.mark.parametrize(
    "seen",
    [
        (),
        (ThinkingDelta(2, "I kn"),),
        (ThinkingDelta(2, "I know."), TextDelta(2, "It")),
        (ThinkingDelta(2, "I "), ThinkingDelta(2, "know."), TextDelta(2, "It is "), TextDelta(2, "42.")),
    ],
)
def test_a_reader_that_missed_text_gets_the_rest_when_the_message_ends(seen: tuple[Any, ...]) -> None:
    read = Read(RunStarted(SPEC), MessageStarted(), *seen, REPLY, RunEnded("answer"))
    shown = read.shown()
    assert text(shown) == "It is 42."
    assert "".join(deltas(shown, "reasoning_content")) == "I know."
    assert shown[-2]["choices"][0]["finish_reason"] == "stop"
    used = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    assert shown[-1] == {**shown[-1], "choices": [], "usage": {**used, "prompt_tokens_details": {"cached_tokens": 4}}}
    message = read.body()["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("It is 42.", "I know.")


def test_a_void_attempt_stays_in_the_stream_apart_from_the_next_and_is_not_in_the_document() -> None:
    failed = (ModelFailed("broken", "cut"), MessageEnded(Message("assistant", "It w"), "error"))
    read = Read(RunStarted(SPEC), MessageStarted(), TextDelta(2, "It w"), *failed, MessageStarted(), REPLY)
    read.take(RunEnded("answer"))
    assert text(read.shown()) == "It w\n\nIt is 42."
    assert read.body()["choices"][0]["message"]["content"] == "It is 42."


def test_forms_asides_and_other_agents_are_not_shown_and_their_tokens_count() -> None:
    aside = (StepStarted(1, "x", aside=True), MessageStarted(), TextDelta(3, "No."), REPLY)
    form = (StepStarted(2, "x", reply="thought"), MessageStarted(), TextDelta(6, "{"), REPLY)
    inner = (("1.1", MessageStarted()), TextDelta(8, "Inner."), ("1.1", REPLY))
    said = MessageAdded(Message("assistant", "Done."), "engine")
    notice = MessageAdded(Message("user", "A notice."), "engine")
    read = Read(RunStarted(SPEC), *aside, *form, *inner, notice, said, RunEnded("answer"))
    shown = read.shown()
    assert text(shown) == "Done."
    assert shown[-1]["usage"]["prompt_tokens"] == 30


def called(*calls: ToolCall) -> tuple[Stored, ...]:
    return MessageStarted(), MessageEnded(Message("assistant", "", calls=calls), "tool_calls")


def test_only_calls_of_the_clients_tools_are_calls_and_only_when_the_run_waits_for_nothing_else() -> None:
    read = Read(RunStarted(SPEC), *called(LOOK, OWN), CallDelta(2, 0, "look", "{"))
    read.take(ToolStarted("a", "look"))
    read.take(Asked("result", "a"))
    read.take(Asked("approval", "b", "May it?"))
    read.take(RunWaiting())
    assert read.turns[0].end is None
    for each in (Answered(6, "approve"), ToolStarted("b", "calculate"), ToolProgress("b", "half"), ToolEnded("b", "4")):
        read.take(each)
    read.take(RunWaiting())
    shown = read.shown()
    (named,), (given,) = deltas(shown, "tool_calls")
    assert named == {
        "index": 0,
        "id": f"call_{THREAD}_5",
        "type": "function",
        "function": {"name": "look", "arguments": ""},
    }
    assert given == {"index": 0, "function": {"arguments": '{"at":"top"}'}}
    assert shown[-2]["choices"][0]["finish_reason"] == "tool_calls"
    told = [each["stepwell"] for each in shown if "type" in each.get("stepwell", {})]
    assert [each["type"] for each in told] == ["asked", "tool_started", "tool_progress", "tool_ended"]
    choice = read.body()["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert [each["id"] for each in choice["message"]["tool_calls"]] == [f"call_{THREAD}_5"]


def test_what_came_before_the_given_results_is_known_and_what_was_asked_meanwhile_is_news() -> None:
    first = (
        StepStarted(1, "x"),
        MessageStarted(),
        MessageEnded(Message("assistant", "I look.", calls=(LOOK,)), "stop"),
    )
    read = Read(RunStarted(SPEC), *first, Asked("result", "a"), RunWaiting(), given=frozenset((5,)))
    other = ToolCall("c", "look", "")
    read.take(("1", MessageEnded(Message("assistant", "", calls=(other,)), "tool_calls", Usage(5, 5))))
    read.take(("1", Asked("result", "c")))
    assert read.shown() == []
    read.take(Answered(5, "done", "ears"))
    read.take(RunWaiting())
    shown = read.shown()
    assert [each[0]["id"] for each in deltas(shown, "tool_calls") if "id" in each[0]] == [f"call_{THREAD}_8"]
    assert shown[-1]["usage"]["total_tokens"] == 0
    assert read.body()["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize(
    ("stop", "ended", "finish", "cause"),
    [
        ("stop", RunEnded("answer"), "stop", None),
        ("length", RunEnded("answer", "length", "It was cut."), "length", "length"),
        ("stop", RunEnded("limit", "steps", "All steps are used."), "length", "steps"),
        (
            "content_filter",
            RunEnded("failed", "content_filter", "It was filtered."),
            "content_filter",
            "content_filter",
        ),
        ("stop", RunEnded("failed", "empty_reply", "It said nothing."), "stop", "empty_reply"),
        ("length", RunEnded("failed", "empty_reply", "It said nothing."), "length", "empty_reply"),
        ("stop", RunEnded("answer", "question", "I need an answer."), "stop", None),
    ],
)
def test_each_end_has_its_reason_and_its_words(stop: Any, ended: RunEnded, finish: str, cause: str | None) -> None:
    read = Read(RunStarted(SPEC), MessageStarted(), MessageEnded(Message("assistant", "It"), stop), ended)
    body = read.body()
    assert body["choices"][0]["finish_reason"] == finish
    assert body["stepwell"].get("cause") == cause
    assert body["stepwell"].get("detail") == (ended.detail if cause else None)


@pytest.mark.parametrize("ended", [RunEnded("failed", "server", "It broke."), RunEnded("cancelled", "cancelled", "x")])
def test_a_failure_has_no_finish(ended: RunEnded) -> None:
    end = Read(RunStarted(SPEC), ended).turns[0].end
    assert end is not None
    assert (end.finish, end.cause, end.detail) == (None, ended.cause, ended.detail)


def test_of_an_answer_with_a_form_only_the_last_json_is_content() -> None:
    spec = RunSpec(output={"name": "n", "description": "", "schema": {}})
    said = MessageEnded(Message("assistant", "Let me see.", calls=(OWN,)), "tool_calls")
    last = MessageEnded(Message("assistant", '{"n": 42}'), "stop")
    read = Read(RunStarted(spec), MessageStarted(), TextDelta(2, "Let me"), said, MessageStarted(), TextDelta(4, "{"))
    read.take(last)
    assert text(read.shown()) == ""
    read.take(RunEnded("answer"))
    assert text(read.shown()) == '{"n": 42}'
    assert read.body()["choices"][0]["message"]["content"] == '{"n": 42}'
