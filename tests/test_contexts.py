"""The contexts as records, handles, and the mark of cut text."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.contexts import (
    WRAPPED,
    FailureGoal,
    LongTermContext,
    TaskConclusion,
    ToolReflection,
    WorkingContext,
    cut_text,
    handle_of_blob,
    handle_of_event,
)
from stepwell.messages import ToolCall

CONCLUSION = TaskConclusion(
    summary="Found it.",
    status="success",
    reached_goals=("find",),
    failed_goals=(FailureGoal(goal="fix", reason="no rights", reflection="ask first"),),
    reflections=("read the log first",),
    tool_reflection=(ToolReflection(tool_name="shell", reflection=("slow",)),),
    reply="It is in a.py.",
)


@pytest.mark.parametrize(
    "record",
    [
        CONCLUSION,
        LongTermContext(user_message=("hi",), past_tasks=(CONCLUSION,), available_tools=({"type": "x"},), rolled="old"),
        WorkingContext(thoughts=({"thought": "hm"},), tool_calls=(ToolCall("1", "now", "{}"),), summary="s"),
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_record_survives_json(record: msgspec.Struct) -> None:
    assert msgspec.json.decode(msgspec.json.encode(record), type=type(record)) == record


def test_an_empty_context_costs_nothing_in_the_log() -> None:
    assert msgspec.json.encode(LongTermContext()) == msgspec.json.encode(WorkingContext()) == b"{}"


def test_a_conclusion_needs_a_summary_and_a_known_status() -> None:
    with pytest.raises(msgspec.ValidationError, match="summary"):
        msgspec.convert({"status": "success"}, TaskConclusion)
    with pytest.raises(msgspec.ValidationError, match="status"):
        msgspec.convert({"summary": "", "status": "done"}, TaskConclusion)


def test_handles_name_their_kind() -> None:
    assert handle_of_event(123) == "event:123"
    assert handle_of_blob("0123456789abcdef" * 4) == "blob:0123456789ab"


def test_a_cut_text_says_how_much_is_missing_and_where_it_is() -> None:
    cut = cut_text("a" * 100 + "b" * 300 + "c" * 50, 100, 50, "event:7")
    assert cut == f"{'a' * 100}\n`wrapped` 300 characters left out; recall event:7\n{'c' * 50}"


def test_a_text_cut_to_nothing_is_the_mark_alone() -> None:
    assert cut_text("x" * 200, 0, 0, "blob:0") == "`wrapped` 200 characters left out; recall blob:0"
    assert cut_text("x" * 200, -5, -5, "") == "`wrapped` 200 characters left out"


@given(st.text(max_size=300), st.integers(-3, 200), st.integers(-3, 200), st.sampled_from(["", "event:1", "blob:ab"]))
def test_a_cut_keeps_both_ends_and_is_shorter_or_is_no_cut(text: str, head: int, tail: int, handle: str) -> None:
    cut = cut_text(text, head, tail, handle)
    if len(text) <= max(head, 0) + max(tail, 0):
        assert cut == text
    if cut != text:
        assert len(cut) < len(text)
        assert cut.startswith(text[: max(head, 0)])
        assert cut.endswith(text[len(text) - max(tail, 0) :])
        assert f"{WRAPPED} {len(text) - max(head, 0) - max(tail, 0)} characters left out" in cut
        assert handle in cut
