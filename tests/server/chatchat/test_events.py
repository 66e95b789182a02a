"""How a run's events become text and chunks, whatever part of them a reader saw."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.events import (
    MessageEnded,
    MessageStarted,
    ModelFailed,
    RunEnded,
    StepStarted,
    TextDelta,
    ThinkingDelta,
    ToolEnded,
    ToolStarted,
)
from stepwell.messages import Message, ToolCall
from stepwell.server.chatchat.completions_events import STATUSES, Chunks, whole
from stepwell.server.chatchat.frames import plain
from stepwell.server.chatchat.texts import Said, Texts

REPLY = MessageEnded(Message("assistant", "It is 42.", thinking="I know."), "stop")
CALLS = MessageEnded(Message("assistant", "", calls=(ToolCall("c", "add", "{}"), ToolCall("d", "add", "{}"))), "stop")
VOID = MessageEnded(Message("assistant", "It"), "error")


def shown(*events: Any) -> list[Said]:
    texts = Texts()
    return [said for event in events if (said := texts.encode(event)) is not None]


def encoded(*events: Any, table: str = "") -> list[tuple[Any, str]]:
    chunks = Chunks("id", "m", 1, STATUSES[table] if table else None)
    found = [chunk for event in events for chunk in chunks.encode(event)]
    return [(each["status"], each["choices"][0]["delta"]["content"]) for each in found]


@pytest.mark.parametrize("seen", ["", "It", "It is 42."])
def test_who_comes_late_gets_the_rest_of_a_text(seen: str) -> None:
    deltas = [TextDelta(2, seen)] if seen else []
    said = shown(StepStarted(1, "h"), MessageStarted(), *deltas, REPLY, RunEnded("answer"))
    assert "".join(each.text for each in said) == "It is 42."
    found = encoded(MessageStarted(), *deltas, REPLY, RunEnded("answer"))
    assert "".join(text for _, text in found) == "It is 42."


def test_a_void_text_is_followed_by_a_new_line() -> None:
    events = [MessageStarted(), TextDelta(2, "It"), ModelFailed("network", "x"), VOID, MessageStarted(), REPLY]
    assert shown(*events) == [Said("It"), Said("\n"), Said("It is 42.")]
    assert [text for _, text in encoded(*events)] == ["It", "\n", "It is 42."]
    assert shown(MessageStarted(), VOID) == []


@pytest.mark.parametrize(
    ("end", "last"),
    [
        (RunEnded("answer"), (5, "It is 42.")),
        (RunEnded("limit", "steps", "no more"), (5, "no more")),
        (RunEnded("answer", "question", "who?"), (5, "who?")),
        (RunEnded("failed", "network", "gone"), (8, "gone")),
        (RunEnded("cancelled", "cancelled", "stopped"), (8, "stopped")),
    ],
)
def test_an_agent_ends_with_its_answer_or_with_what_is_wrong(end: RunEnded, last: tuple[int, str]) -> None:
    assert encoded(MessageStarted(), REPLY, end, table="0.3.1") == [
        (1, ""),
        (2, "I know."),
        (2, "It is 42."),
        (3, ""),
        last,
    ]


def test_calls_side_by_side_keep_their_ids_and_a_refused_one_is_shown_too() -> None:
    chunks = Chunks("id", "m", 1, STATUSES["master"])
    events = [
        CALLS,
        ToolStarted("c", "add"),
        ToolStarted("d", "add"),
        ToolEnded("d", "2"),
        ToolEnded("c", "no", "denied"),
    ]
    found = [chunk for event in events for chunk in chunks.encode(event)]
    calls = [(chunk["status"], *chunk["choices"][0]["delta"]["tool_calls"]) for chunk in found]
    assert [(status, call["id"], call["is_error"]) for status, call in [each for each in calls if len(each) == 2]] == [
        (7, "c", False),
        (7, "d", False),
        (8, "d", False),
        (8, "c", True),
    ]
    refused = Chunks("id", "m", 1, STATUSES["master"])
    refused.encode(CALLS)
    assert [each["status"] for each in refused.encode(ToolEnded("c", "no", "denied"))] == [4, 7, 8]


def test_thoughts_of_a_model_without_tools_are_not_shown() -> None:
    assert encoded(MessageStarted(), ThinkingDelta(2, "hm"), REPLY) == [(None, "It is 42.")]


def test_a_whole_answer_of_a_model_leaves_the_reference_out() -> None:
    chunks = Chunks("id", "m", 1, None)
    told = whole([chunks.reference("add", "2"), *chunks.encode(REPLY), *chunks.encode(RunEnded("answer"))])
    assert told["choices"][0]["message"]["content"] == "It is 42."
    assert whole([chunks.ended("failed", "gone")]) == {"error": "gone"}


def test_bare_text_is_a_line_of_data_for_each_of_its_lines() -> None:
    assert plain("a\r\nb\n") == b"data: a\r\ndata: b\r\ndata: \r\n\r\n"
    assert plain("") == b"data: \r\n\r\n"
