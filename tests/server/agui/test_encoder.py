"""The encoder by itself: what it makes of logs, whatever they hold and wherever they were cut."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.errors import InputError
from stepwell.events import (
    Asked,
    MessageEnded,
    MessageStarted,
    Recorded,
    RunEnded,
    RunStarted,
    RunWaiting,
    Stored,
    TaskEnded,
    TaskStarted,
    TextDelta,
    ThinkingDelta,
    ToolEnded,
    ToolStarted,
)
from stepwell.messages import Message, ToolCall
from stepwell.plans import Task
from stepwell.runs.channel import Item, Piece
from stepwell.server.agui.wire import parse_place
from stepwell.specs import RunSpec
from tests.server.agui.client_of_agui import check, names, of, text_of
from tests.server.agui.logs import LOGS, read, runs_of


def numbered(*events: Stored | tuple[str, Stored]) -> list[Item]:
    rows = [each if isinstance(each, tuple) else ("", each) for each in events]
    return [Recorded(seq, seq, 1, event, path) for seq, (path, event) in enumerate(rows, 1)]


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_every_run_of_the_kept_logs_becomes_runs_as_the_protocol_has_them(path: Path) -> None:
    events = read(path)
    for started in events:
        if isinstance(started.event, RunStarted):
            items = [each for each in events if each.run == started.seq]
            last = next((number for number, each in enumerate(items) if each.ends_run), len(items) - 1)
            runs = runs_of(items[: last + 1], started.seq)
            whole = runs if items[last].ends_run else runs[:-1]
            for each in whole:
                check(each)


def test_an_agent_that_waits_is_suspended_and_begun_again() -> None:
    task, call = TaskStarted(Task(id="1", name="dig", goal="a hole"), RunSpec(model="m")), ToolCall("c1", "shell", "{}")
    asks = ("1", MessageEnded(Message("assistant", "I dig.", calls=(call,)), "tool_calls"))
    items = numbered(
        RunStarted(RunSpec()), ("1", task), ("1", MessageStarted()), asks,
        ("1", Asked("approval", "c1", "May it?")), RunWaiting(),
        ("1", TaskEnded("failure", detail="no")), RunEnded("answer"),
    )  # fmt: skip
    first, second = runs_of(items, 1)
    check(first)
    check(second)
    (suspended,) = of(first, "SUBAGENT_FINISHED")
    assert suspended["outcome"] == {"type": "suspended", "interruptIds": ["5"]}
    assert first[-1]["outcome"]["interrupts"][0]["subagentRunId"] == suspended["subagentRunId"]
    assert [each["subagentRunId"] for each in of(second, "SUBAGENT_STARTED")] == [suspended["subagentRunId"]]
    assert [each["message"] for each in of(second, "SUBAGENT_ERROR")] == ["no"]


def test_a_tool_that_asks_while_it_runs_ends_the_run_as_soon_as_nothing_else_goes_on() -> None:
    calls = (ToolCall("c1", "form"), ToolCall("c2", "slow"))
    items = numbered(
        RunStarted(RunSpec()), MessageStarted(), MessageEnded(Message("assistant", calls=calls), "tool_calls"),
        ToolStarted("c1", "form"), ToolStarted("c2", "slow"), Asked("elicitation", "c1", "Who?"),
    )  # fmt: skip
    (first,) = runs_of(items, 1)
    assert first[-1]["type"] == "CUSTOM"
    (whole,) = runs_of([*items, Recorded(7, 7, 1, ToolEnded("c2", "done"))], 1)
    check(whole)
    assert [each["id"] for each in whole[-1]["outcome"]["interrupts"]] == ["6"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["thinking", "text"]), st.text(min_size=1, max_size=5)), max_size=12))
def test_text_and_thinking_come_whole_however_they_were_mixed_and_wherever_a_client_came_late(
    parts: list[tuple[str, str]],
) -> None:
    said = {kind: "".join(text for each, text in parts if each == kind) for kind in ("thinking", "text")}
    start = numbered(RunStarted(RunSpec()), MessageStarted())
    end = [
        Recorded(3, 3, 1, MessageEnded(Message("assistant", said["text"], thinking=said["thinking"]), "stop")),
        Recorded(4, 4, 1, RunEnded("answer")),
    ]
    pieces: list[Item] = []
    for kind, text in parts:
        event = ThinkingDelta(2, text) if kind == "thinking" else TextDelta(2, text)
        pieces.append(Piece(2, len(pieces) + 1, 1, event))
    for late in range(len(pieces) + 1):
        (events,) = runs_of([*start, *pieces[:late], *end], 1)
        check(events)
        assert "".join(text_of(events)) == said["text"]
        assert "".join(each["delta"] for each in of(events, "REASONING_MESSAGE_CONTENT")) == said["thinking"]
        assert ("TEXT_MESSAGE_START" in names(events)) == bool(said["text"])


@given(st.from_regex(r"[0-9]{1,15}(\.[0-9]{1,15})?(-[0-9]{1,6})?~", fullmatch=True) | st.text(max_size=60))
def test_a_place_is_read_or_refused(text: str) -> None:
    try:
        place = parse_place(text, "after")
    except InputError as error:
        assert error.field == "after"  # noqa: PT017 - most texts are places
    else:
        found = re.match("[0-9]+", text.strip())
        assert found is not None
        assert place.cursor.seq == int(found[0])
