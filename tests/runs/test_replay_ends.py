"""Which ends of a run were not its engine's decision, told from what was closed before them."""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.engines.words import words
from stepwell.events import (
    Forked,
    LongTermUpdated,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    Recorded,
    RunEnded,
    RunStarted,
    StepEnded,
    StepStarted,
    Stored,
)
from stepwell.messages import Message
from stepwell.plans import TaskConclusion
from stepwell.runs.replay_ends import interruption
from stepwell.specs import Limits, RunSpec
from stepwell.state.thread import State

SECONDS = 20.0
WHY = words("seconds", "en", limit=SECONDS)
BEGUN: list[Stored] = [
    RunStarted(RunSpec(engine="react", limits=Limits(seconds=SECONDS))),
    StepStarted(1, ""),
    MessageStarted(),
]
SAID = MessageAdded(Message("assistant", f"{WHY}\n\nAs far as it came."), "engine")
OVER = RunEnded("limit", "seconds", WHY)
CUT = MessageEnded(Message("assistant"), "cancelled")


def end(begun: Sequence[Stored], closed: Sequence[Stored]) -> RunEnded | None:
    """Return what is made of events that follow others."""
    made = [Recorded(at, 0 if at <= len(begun) else 20_001, 1, each) for at, each in enumerate([*begun, *closed], 1)]
    return interruption(made, len(begun), State(made[: len(begun)]).run)


def test_last_words_after_the_step_are_those_of_a_run_that_is_closed() -> None:
    assert end(BEGUN, [CUT, StepEnded(), SAID, OVER]) == OVER


def test_words_before_the_step_ends_are_the_engines_own() -> None:
    begun: list[Stored] = [*BEGUN, MessageEnded(Message("assistant", "word"), "stop")]
    assert end(begun, [SAID, StepEnded(), OVER]) is None


def test_a_last_word_that_was_changed_for_a_fork_is_one_all_the_same() -> None:
    concluded = LongTermUpdated(past_task=TaskConclusion(summary=WHY, status="failure", reply=WHY))
    changed = MessageAdded(Message("assistant", "changed"), "engine")
    closed: list[Stored] = [CUT, StepEnded(), concluded, changed]
    at = len(BEGUN) + len(closed)
    found = end(BEGUN, [*closed, Forked("parent", at, edited=at)])
    assert found is not None
    assert (found.reason, found.cause) == ("limit", "seconds")
    assert end(BEGUN, [*closed, Forked("parent", at)]) is None
