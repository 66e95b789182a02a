"""What events add up to: the conversation as a model sees it, and what a run has open."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from stepwell.events import (
    Answered,
    Asked,
    CancelRequested,
    Forked,
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
    TitleChanged,
    ToolEnded,
    ToolStarted,
    Unknown,
    decode,
)
from stepwell.messages import Message, StopReason, ToolCall, Usage
from stepwell.specs import Limits, RunSpec
from stepwell.state.agent import AgentState, RunEvent
from stepwell.state.thread import NEVER, State

LOGS = sorted((Path(__file__).parents[1] / "logs").glob("v*/*.jsonl"))
STEP = (StepStarted(1, "…"), MessageStarted())


def fold(*events: Stored | Unknown) -> State:
    return State(Recorded(number, 1000 + number, 0, event) for number, event in enumerate(events, 1))


def started(system: str = "") -> tuple[Stored, ...]:
    return RunStarted(RunSpec(system=system)), MessageAdded(Message("user", "go"))


def replied(text: str = "", *calls: str, stop: StopReason = "stop", usage: Usage | None = None) -> MessageEnded:
    return MessageEnded(Message("assistant", text, calls=tuple(ToolCall(id, "t") for id in calls)), stop, usage)


def told(state: State) -> list[str]:
    return [f"{message.role}: {message.content}" for message in state.transcript]


def test_a_new_thread_is_empty() -> None:
    state = fold()
    assert (state.seq, state.title, told(state), state.run, state.last, state.foreign) == (0, "", [], None, None, [])


def test_results_reach_the_model_in_the_order_of_its_calls_when_all_are_there() -> None:
    events = (*started(), *STEP, replied("", "a", "b", "c"), ToolEnded("c", "3"), ToolEnded("a", "1"))
    assert told(fold(*events)) == ["user: go", "assistant: "]
    assert told(fold(*events, ToolEnded("b", "2")))[2:] == ["tool: 1", "tool: 2", "tool: 3"]
    assert [message.call for message in fold(*events, ToolEnded("b", "2")).transcript[2:]] == ["a", "b", "c"]


def test_a_second_or_foreign_result_changes_nothing() -> None:
    events = (*started(), *STEP, replied("", "a"), ToolStarted("a", "t"), ToolEnded("a", "1"))
    late = (
        ToolEnded("a", "2"),
        ToolEnded("elsewhere", "3"),
        ToolStarted("elsewhere", "t"),
        ToolStarted("a", "t", "write"),
    )
    state = fold(*events, *late)
    assert told(state) == told(fold(*events))
    assert state.run is not None
    assert state.run.spent.tool_calls == 1
    assert state.run.calls["a"].effect == "pure"


def test_calls_tell_what_was_started_and_what_is_unanswered() -> None:
    state = fold(*started(), *STEP, replied("", "a", "b"), ToolStarted("b", "t", "write"))
    assert state.run is not None
    assert [(each.call.id, each.started, each.effect) for each in state.run.unanswered()] == [
        ("a", 0, "pure"),
        ("b", 6, "write"),
    ]
    assert state.has_call("a")
    assert not state.has_call("c")


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        (replied("text"), True),
        (replied("", "a", stop="tool_calls"), True),
        (replied("half", stop="cancelled"), True),
        (replied("", stop="cancelled"), False),
        (replied(""), False),
        (MessageEnded(Message("assistant", thinking="hm"), "stop"), False),
        (replied("half", stop="error"), False),
    ],
)
def test_only_messages_that_say_something_stay_in_the_conversation(reply: MessageEnded, kept: bool) -> None:
    assert (len(fold(*started(), *STEP, reply).transcript) == 2) == kept


def test_the_system_message_is_the_newest_runs_and_comes_first() -> None:
    over = (RunEnded("answer"),)
    assert told(fold(*started("be short"))) == ["system: be short", "user: go"]
    assert told(fold(*started("be short"), *over, *started("be long"))) == ["system: be long", "user: go", "user: go"]
    assert told(fold(*started("be short"), *over, *started())) == ["user: go", "user: go"]
    history = MessageAdded(Message("user", "before"), "history")
    assert told(fold(history, *started("be short"))) == ["system: be short", "user: before", "user: go"]


def test_an_unchanged_system_message_keeps_the_encoded_conversation() -> None:
    state = fold(*started("be short"), RunEnded("answer"))
    before = state.transcript
    state.apply(Recorded(state.seq + 1, 0, 0, RunStarted(RunSpec(system="be short"))))
    assert state.transcript is before


def test_steps_tokens_and_calls_are_counted() -> None:
    state = fold(
        *started(),
        *STEP,
        replied("", "a", "b", usage=Usage(10, 5, 2)),
        ToolEnded("a", ""),
        ToolEnded("b", ""),
        StepEnded(),
        *STEP,
        replied("x", stop="error", usage=Usage(1, 1)),
    )
    assert state.run is not None
    assert (state.run.steps, state.run.spent.tool_calls, state.run.spent.usage) == (2, 2, Usage(11, 6, 2))
    assert (state.run.step, state.run.message) == (9, 0)


def test_a_model_call_that_is_made_again_counts_once() -> None:
    cut = (*STEP, ModelFailed("interrupted", "…"), replied(stop="error"), StepEnded())
    state = fold(*started(), *cut, *cut, *STEP)
    assert state.run is not None
    assert state.run.steps == 1


def test_the_newest_failure_is_remembered_until_a_whole_reply() -> None:
    failed = ModelFailed("server", "busy", 503, 1.0)
    state = fold(*started(), *STEP, failed)
    assert state.run is not None
    assert state.run.failure == failed
    state = fold(*started(), *STEP, failed, replied("there"))
    assert state.run is not None
    assert (state.run.failure, state.run.reply, state.run.stop) == (None, Message("assistant", "there"), "stop")


def test_malformed_replies_are_counted_in_a_row() -> None:
    def reply(number: int, *statuses: str) -> list[Stored]:
        ids = [f"{number}{status}" for status in statuses]
        ends = [ToolEnded(id, "", status) for id, status in zip(ids, statuses, strict=True)]  # type: ignore[arg-type]
        return [*STEP, replied("", *ids), *ends, StepEnded()]

    for last, count in ((["invalid", "unknown_tool"], 0), (["ok", "invalid"], 0), (["invalid"], 3)):
        state = fold(*started(), *reply(1, "invalid"), *reply(2, "invalid"), *reply(3, *last))
        assert state.run is not None
        assert state.run.malformed == count


def test_the_first_cancel_counts() -> None:
    state = fold(*started(), CancelRequested("one"), CancelRequested("two"))
    assert state.run is not None
    assert state.run.cancel == CancelRequested("one")


def test_a_run_that_ended_is_remembered_with_its_end() -> None:
    state = fold(*started(), RunClaimed(3), RunEnded("limit", "steps"))
    assert state.run is None
    assert state.last is not None
    run, end = state.last
    assert (run.seq, run.epoch, run.started, end) == (1, 3, 1001, RunEnded("limit", "steps"))


def test_what_belongs_to_no_open_run_changes_nothing() -> None:
    state = fold(TitleChanged("t"), *STEP, replied("late"), ToolEnded("a", ""), RunEnded("answer"), CancelRequested())
    assert (state.seq, state.title, told(state), state.run, state.last) == (7, "t", [], None, None)


def test_events_of_newer_versions_are_counted_and_nothing_else() -> None:
    state = fold(*started(), Unknown(msgspec.Raw(b'{"type":"future"}')), Unknown(msgspec.Raw(b"{}")))
    assert (state.foreign, state.seq, told(state)) == ([3, 4], 4, ["user: go"])


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.stem)
def test_going_on_from_any_place_of_a_log_comes_to_the_same(log: Path) -> None:
    lines = [msgspec.json.decode(line) for line in log.read_bytes().splitlines()]
    events = [
        Recorded(
            line["seq"],
            line["time"],
            line["run"],
            decode(msgspec.json.encode(line["event"])),
            line.get("path", ""),
        )
        for line in lines
    ]
    whole = State(events)
    for place in range(len(events)):
        state = State(events[:place])
        for recorded in events[place:]:
            state.apply(recorded)
        assert list(state.transcript) == list(whole.transcript)
        assert (state.seq, state.title, state.foreign) == (whole.seq, whole.title, whole.foreign)
        assert state.last is not None
        assert whole.last is not None
        assert state.last[1] == whole.last[1]
        assert state.last[0].spent.usage == whole.last[0].spent.usage


# waiting, forks and accounts


def test_a_waiting_run_has_work_at_the_first_time_that_concerns_it() -> None:
    asked, run = Asked("question", until=5000), RunStarted(RunSpec(limits=Limits(seconds=3)))
    assert fold(run).wake == 0
    assert fold(run, asked, RunWaiting(5000)).wake == 1001 + 3000
    assert fold(run, asked, RunWaiting(4000)).wake == 4000
    assert fold(RunStarted(RunSpec()), asked, RunWaiting()).wake == NEVER
    assert fold(run, asked, RunWaiting(5000), Answered(2, "answer")).wake == 0
    assert fold(run, asked, RunWaiting(5000), RunEnded("answer")).wake == NEVER


def test_questions_of_a_run_that_ended_are_gone_unless_it_ended_for_want_of_an_answer() -> None:
    asked, end = Asked("question"), RunEnded("answer")
    assert not fold(*started(), asked, end).questions
    left = fold(*started(), asked, RunEnded("answer", "question"))
    assert list(left.questions) == [3]
    later = fold(*started(), asked, RunEnded("answer", "question"), *started(), asked, end)
    assert list(later.questions) == [3], "what an earlier run left open is none of its business"


def test_a_fork_counts_for_itself_what_it_spends_and_has_its_time_again() -> None:
    spec = RunSpec(key="k")
    before = (RunStarted(spec), *STEP, replied("a", usage=Usage(7, 1)), StepEnded())
    paid = fold(*before, RunEnded("answer"))
    assert (paid.account("k").steps, paid.account("k").usage) == (1, Usage(7, 1))
    assert paid.account("k").milliseconds == 5
    assert paid.account("other").steps == 0
    state = fold(*before, Forked("t", 5))
    assert state.run is not None
    assert (state.run.started, state.run.spent.steps) == (1006, 1)
    assert (state.account("k").steps, state.account("k").usage) == (0, Usage())
    after = (*STEP, replied("b", usage=Usage(1, 1)), StepEnded())
    went_on = fold(*before, Forked("t", 5), *after, RunEnded("answer"))
    assert (went_on.account("k").steps, went_on.account("k").usage) == (1, Usage(1, 1))
    assert went_on.spent.steps == 2
    # With another key from the fork on.
    other = fold(*before, Forked("t", 5, 0, RunSpec(key="l")), *after, RunEnded("answer"))
    assert [other.account(key).steps for key in "kl"] == [0, 1]
    assert not fold(*before, RunEnded("answer"), Forked("t", 6)).spent_by_key


def test_every_event_of_a_run_is_taken_in() -> None:
    assert set(AgentState.IN_RUNS) == set(get_args(RunEvent))


def test_calls_without_a_result_are_counted_as_they_are_listed() -> None:
    both = replied("", "a", "b")
    assert _open(*started(), *STEP, both) == (2, ["a", "b"])
    assert _open(*started(), *STEP, both, ToolEnded("b", "x")) == (1, ["a"])
    assert _open(*started(), *STEP, both, ToolEnded("b", "x"), ToolEnded("b", "y"), ToolEnded("c", "z")) == (1, ["a"])
    assert _open(*started(), *STEP, both, ToolEnded("b", "x"), ToolEnded("a", "y")) == (0, [])
    assert _open(*started(), *STEP, both, *STEP, replied("done")) == (0, [])


def _open(*events: Stored) -> tuple[int, list[str]]:
    run = fold(*events).run
    assert run is not None
    return run.open, [each.call.id for each in run.unanswered()]
