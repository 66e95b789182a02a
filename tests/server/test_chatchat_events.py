"""How a run's events become the old service's, whatever part of them a reader saw."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.events import (
    CallDelta,
    MessageEnded,
    MessageStarted,
    ModelFailed,
    Recorded,
    RunClaimed,
    RunEnded,
    RunStarted,
    StepEnded,
    StepStarted,
    TextDelta,
    ThinkingDelta,
    ToolEnded,
    ToolProgress,
    ToolStarted,
)
from stepwell.messages import Message, ToolCall
from stepwell.runs.channel import Item, Piece
from stepwell.server.chatchat.agent_chat_events import OUT_OF_STEPS, Encoder, own
from stepwell.specs import RunSpec

FENCE = "\n```\n"
STARTED = RunStarted(RunSpec(dialect="react", tools=("calculate", "shell")))
REPLY = MessageEnded(Message("assistant", "It is 42.", thinking="I know.", raw="raw"), "stop")


def encoded(*events: Any) -> list[dict[str, Any]]:
    encoder = Encoder()
    return [old for event in events for old in encoder.encode(event)]


def answer(events: list[dict[str, Any]]) -> str:
    return "".join(event.get("answer", "") for event in events)


@pytest.mark.parametrize(
    "seen",
    [
        (),
        (ThinkingDelta(4, "I kn"),),
        (ThinkingDelta(4, "I know."),),
        (ThinkingDelta(4, "I know."), TextDelta(4, "It")),
        (ThinkingDelta(4, "I "), ThinkingDelta(4, "know."), TextDelta(4, "It is "), TextDelta(4, "42.")),
    ],
)
def test_a_reader_that_missed_text_gets_the_rest_when_the_message_ends(seen: tuple[Any, ...]) -> None:
    shown = encoded(STARTED, MessageStarted(), *seen, REPLY, StepEnded(), RunEnded("answer"))
    assert answer(shown) == "I know.\nFinal Answer: It is 42."
    assert shown[-1] == {"final_answer": "It is 42."}
    assert all(len(event) == 1 for event in shown)


def test_without_a_dialect_the_marker_is_not_written() -> None:
    shown = encoded(RunStarted(RunSpec()), MessageStarted(), TextDelta(4, "It is 42."), REPLY, RunEnded("answer"))
    assert answer(shown).startswith("It is 42.")
    assert "Final Answer" not in answer(shown)


def test_an_answer_without_a_thought_has_no_line_break_before_its_marker() -> None:
    reply = MessageEnded(Message("assistant", "42"), "stop")
    assert answer(encoded(STARTED, MessageStarted(), reply)) == "Final Answer: 42"


def test_a_second_attempt_after_a_restart_is_told_from_its_start() -> None:
    failed = (ModelFailed("interrupted", "stopped"), MessageEnded(Message("assistant"), "error"), RunClaimed(1))
    shown = encoded(
        STARTED, MessageStarted(), ThinkingDelta(4, "I kn"), *failed, MessageStarted(), REPLY, RunEnded("answer")
    )
    assert answer(shown) == "I kn" + "I know.\nFinal Answer: It is 42."
    assert [event for event in shown if "final_answer" in event] == [{"final_answer": "It is 42."}]


def test_what_old_clients_do_not_know_is_not_sent() -> None:
    quiet = (
        StepStarted(1, "x"),
        CallDelta(4, 0, "calculate", "{}"),
        ToolStarted("a", "calculate"),
        ToolProgress("a", "half"),
        StepEnded(),
        ModelFailed("rate_limit", "slow down", 429, 1.0),
    )
    assert encoded(STARTED, *quiet) == []


@pytest.mark.parametrize(
    ("call", "ended", "shown"),
    [
        (
            ToolCall("a", "calculate", '{"query": "6*7"}'),
            ToolEnded("a", "Answer: 42"),
            ["工具名称: calculate", "工具状态: 调用成功", "工具输入: 6*7", "工具输出:  42"],
        ),
        (
            ToolCall("a", "calculate", '{"a": 1, "b": "灯"}'),
            ToolEnded("a", "x"),
            ["工具名称: calculate", "工具状态: 调用成功", '工具输入: {"a": 1, "b": "灯"}', "工具输出: x"],
        ),
        (
            ToolCall("a", "now", ""),
            ToolEnded("a", ""),
            ["工具名称: now", "工具状态: 调用成功", "工具输入: ", "工具输出: "],
        ),
        (
            ToolCall("a", "shell", '{"query": "x"}'),
            ToolEnded("a", "it broke\nbadly", "failed"),
            ["工具名称: shell", "工具状态: 调用失败", "错误信息: it broke\nbadly", "重新开始尝试"],
        ),
        (
            ToolCall("a", "shell", "{bad"),
            ToolEnded("a", "Not run.", "invalid"),
            ["工具名称: shell", "工具状态: 调用失败", "错误信息: Not run.", "重新开始尝试"],
        ),
        (
            ToolCall("a", "fly", "{}"),
            ToolEnded("a", "fly is not a valid tool, try one of [calculate, shell].", "unknown_tool"),
            [
                "工具名称: invalid_tool",
                "工具状态: 调用成功",
                "工具输入: {'requested_tool_name': 'fly', 'available_tool_names': ['calculate', 'shell']}",
                "工具输出: fly is not a valid tool, try one of [calculate, shell].",
            ],
        ),
        (
            ToolCall("a", "shell", '{"query": "x"}'),
            ToolEnded("a", "nobody knows", "unknown"),
            ["工具名称: shell", "工具状态: 调用失败", "错误信息: nobody knows", "重新开始尝试"],
        ),
    ],
)
def test_the_end_of_a_tool_is_an_empty_answer_and_six_lines(call: ToolCall, ended: ToolEnded, shown: list[str]) -> None:
    reply = MessageEnded(Message("assistant", calls=(call,)), "tool_calls")
    assert encoded(STARTED, MessageStarted(), reply, ended) == [{"answer": ""}, {"tools": [FENCE, *shown, FENCE]}]


@pytest.mark.parametrize(
    ("end", "final"),
    [
        (RunEnded("answer"), "It is 42."),
        (RunEnded("answer", "length", "cut"), "It is 42."),
        (RunEnded("limit", "steps", "15 calls"), OUT_OF_STEPS),
        (RunEnded("limit", "seconds", "8 s"), OUT_OF_STEPS),
        (RunEnded("failed", "auth", "the key is wrong"), "the key is wrong"),
        (RunEnded("failed", "internal", "we failed"), "we failed"),
        (RunEnded("cancelled", "cancelled", "it was cancelled"), "it was cancelled"),
    ],
)
def test_every_end_is_a_final_answer(end: RunEnded, final: str) -> None:
    assert encoded(STARTED, MessageStarted(), REPLY, end)[-1] == {"final_answer": final}


def test_a_run_that_ends_before_any_reply_has_a_final_answer_too() -> None:
    assert encoded(STARTED, RunEnded("failed", "config", "no model")) == [{"final_answer": "no model"}]
    assert encoded(STARTED, RunEnded("failed", "empty_reply", "empty"))[-1]["final_answer"].endswith("\n\n ``")


@pytest.mark.parametrize(("dialect", "marker"), [("", ""), ("react", "Final Answer: ")])
def test_a_question_that_nobody_can_answer_here_is_the_final_answer(dialect: str, marker: str) -> None:
    kept = RunEnded("answer", "question", 'Which? stepwell answer ab 6 "..."')
    shown = encoded(RunStarted(RunSpec(dialect=dialect)), MessageStarted(), TextDelta(4, "Hm."), REPLY, kept)
    assert shown[-2:] == [{"answer": marker + kept.detail}, {"final_answer": kept.detail}]


def test_what_happens_to_agents_inside_a_run_is_no_part_of_its_answer() -> None:
    inner = set[int]()
    items: list[tuple[Item, bool]] = [
        (Recorded(1, 0, 1, STARTED), True),
        (Recorded(2, 0, 1, MessageStarted()), True),
        (Recorded(3, 0, 1, MessageStarted(), "helper:2"), False),
        (Piece(3, 1, 1, TextDelta(2, "I")), True),
        (Piece(3, 2, 1, TextDelta(3, "I")), False),
        (Piece(3, 3, 1, ThinkingDelta(3, "I")), False),
        (Piece(3, 4, 1, ToolProgress("c", "x")), True),
        (Recorded(4, 0, 1, REPLY, "helper:2"), False),
        (Recorded(5, 0, 1, REPLY), True),
    ]
    assert [own(item, inner) for item, _ in items] == [shown for _, shown in items]
