"""Random runs: every response of each of them is told alike at every number, from live events and from stored ones."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from stepwell.events import (
    Answered,
    Asked,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    ModelFailed,
    Recorded,
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
)
from stepwell.messages import Message, ToolCall, ToolSpec, Usage
from stepwell.runs.channel import Item, Piece
from stepwell.server.openai.responses_events import Encoder
from stepwell.server.openai.responses_items import ResponseId
from stepwell.specs import RunSpec
from tests.server.openai.test_responses_events import THREAD, events_of
from tests.server.openai.test_responses_streams import Event, beyond, check_numbers

FORM = {"name": "a", "description": "", "schema": {"type": "object"}}


class Run:
    """A run that is made up as it goes.

    Args:
        seed: Decides all of it.

    Attributes:
        items: Its events with the pieces between them.
        starts: Numbers with which its responses begin, 0 for the first.
    """

    def __init__(self, seed: int) -> None:
        self.random, self.items, self.starts = random.Random(seed), list[Item](), [0]
        self._seq = self._offset = self._calls = 0
        look = (ToolSpec("look", "", {"type": "object"}),)
        self.store(RunStarted(RunSpec(model="m", client_tools=look, output=FORM if self.chance(0.2) else None)))
        self.store(MessageAdded(Message("user", "x")))
        for step in range(self.random.randint(1, 5)):
            self.store(StepStarted(step + 1, "r", aside=self.chance(0.1), repairs=self.chance(0.1)))
            self.reply()
            self.store(StepEnded())
        self.store(RunEnded("answer"))

    def chance(self, part: float) -> bool:
        return self.random.random() < part

    def store(self, event: Stored) -> int:
        self._seq, self._offset = self._seq + 1, 0
        self.items.append(Recorded(self._seq, self._seq * 1000, 1, event))
        return self._seq

    def show(self, kind: type[TextDelta | ThinkingDelta], message: int, text: str) -> None:
        cuts = sorted({0, len(text), *(self.random.randint(0, len(text)) for _ in range(3))})
        for first, last in pairwise(cuts):
            self._offset += last - first
            self.items.append(Piece(self._seq, self._offset, 1, kind(message, text[first:last])))
            if self.chance(0.1):  # something that takes its time ends beside the reply
                self.store(ToolEnded(f"late{self._seq}", "late", "failed"))

    def reply(self) -> None:
        thinking = "".join(self.random.choice("ab🎉 ") for _ in range(self.random.choice((0, 0, 5, 9))))
        text = "".join(self.random.choice("cd\né") for _ in range(self.random.choice((0, 4, 12))))
        message = self.store(MessageStarted())
        self.show(ThinkingDelta, message, thinking)
        self.show(TextDelta, message, text)
        if self.chance(0.15):
            self.store(ModelFailed("interrupted", "the process stopped"))
            self.store(MessageEnded(Message("assistant", text, thinking=thinking), "error"))
            return
        names = self.random.choices(("look", "calculate", "send"), k=self.random.randint(0, 3))
        calls = tuple(ToolCall(f"c{self._calls + at}", name, '{"a":1}') for at, name in enumerate(names))
        self._calls += len(calls)
        stop = "tool_calls" if calls else self.random.choice(("stop", "cancelled", "length"))
        said = Message("assistant", text, thinking=thinking, calls=calls)
        self.store(MessageEnded(said, stop, usage=Usage(1, 2)))  # type: ignore[arg-type]
        self.carry_out(calls)

    def carry_out(self, calls: tuple[ToolCall, ...]) -> None:
        asked: list[tuple[int, ToolCall]] = []
        running: list[ToolCall] = []
        for call in calls:
            if call.name != "send":
                self.store(ToolStarted(call.id, call.name))
            if call.name == "calculate":
                running.append(call)
            else:
                asked.append((self.store(Asked("result" if call.name == "look" else "approval", call.id)), call))
        self.random.shuffle(running)
        for call in running:
            self.store(ToolEnded(call.id, "42", "ok" if self.chance(0.5) else "failed"))
        while asked:
            self.store(RunWaiting())
            count = self.random.randint(1, len(asked))
            self.decide(asked[:count])
            del asked[:count]

    def decide(self, asked: list[tuple[int, ToolCall]]) -> None:
        decided = [
            self.store(Answered(question, "done" if call.name == "look" else "approve", by="ada"))
            for question, call in asked
        ]
        self.starts.append(decided[0])
        for _, call in asked:
            if call.name == "send":
                self.store(ToolStarted(call.id, call.name))
            self.store(ToolEnded(call.id, "r"))


def told(items: list[Item], id: ResponseId, after: int) -> list[Event]:
    encoder = Encoder(id, after)
    return events_of(b"".join(map(encoder.encode, items)), check=after < 0)


def check_whole(live: list[Event]) -> None:
    """Check that a stream is in order and holds what its last event holds."""
    check_numbers(live)
    assert (live[0]["type"], live[-1]["type"]) == ("response.created", "response.completed")
    output = live[-1]["response"]["output"]
    added = [each["output_index"] for each in live if each["type"] == "response.output_item.added"]
    assert sorted(added) == list(range(len(output)))
    done = {each["output_index"]: each["item"] for each in live if each["type"] == "response.output_item.done"}
    assert [done[at]["id"] for at in range(len(output))] == [each["id"] for each in output]
    assert [done[at] for at, each in enumerate(output) if each["type"] != "reasoning"] == [
        each for each in output if each["type"] != "reasoning"
    ]


@pytest.mark.parametrize("seed", range(12))
def test_a_response_is_told_alike_at_every_number_live_and_stored(seed: int) -> None:
    run = Run(seed)
    stored: list[Item] = [each for each in run.items if isinstance(each, Recorded)]
    last = -1
    for answered in run.starts:
        id = ResponseId(THREAD, 1, answered)
        live = told(run.items, id, -1)
        check_whole(live)
        numbers = [each["sequence_number"] for each in live]
        assert numbers[0] > last
        last = numbers[-1]
        for after in sorted({-1, *numbers, *(each - 1 for each in numbers)}):
            for items in (run.items, stored):
                assert beyond(told(items, id, after), after) == beyond(live, after)
