"""A history that is broken or too long is made good on its way to the model, and kept as it was (F18, F23)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from stepwell.events import ContextCompacted, MessageAdded, ModelFailed, Recorded, RunEnded, ToolEnded, Warned
from stepwell.messages import Message, ToolCall
from stepwell.store.base import ThreadInfo
from stepwell.store.sqlite import SqliteStore
from tests.faults.support.case import calls, case, run
from tests.faults.support.examine import of, replies
from tests.support.endpoint import Reply, Request, error, text

THREAD = "a" * 32
READER = {"tools": ["repeat"]}
"""An agent whose tools leave room in a small window."""


def called(*ids: str) -> Message:
    return Message("assistant", calls=tuple(ToolCall(id, "look", '{"what": "a"}') for id in ids))


BROKEN = (
    Message("user", "the beginning"),
    Message("tool", "before its call", call="late"),
    called("late"),
    Message("tool", "an orphan", call="nobody"),
    called("twice", "twice"),
    Message("tool", "one", call="twice"),
    Message("tool", "two", call="twice"),
    called("b", "c"),
    Message("tool", "of c", call="c"),
    Message("tool", "of b", call="b"),
    Message("assistant"),
    called("never"),
    Message("user", "the end"),
)


def test_f18_a_thread_with_a_broken_history_is_answered_and_its_past_stays_as_it_was(tmp_path: Path) -> None:
    past = [Recorded(seq, 1_000, 0, MessageAdded(each, "history")) for seq, each in enumerate(BROKEN, 1)]

    async def main() -> None:
        store = SqliteStore(tmp_path / "data" / "stepwell.db")
        await store.append(THREAD, past, expect=0, new=ThreadInfo(THREAD, "local", "imported", 1_000))
        await store.close()
        async with case(tmp_path, [calls(("look", {"what": "b"})), text("Well."), text("Still well.")]) as it:
            async with it.serving() as (person, _):
                await person.say(THREAD, "go on")
                await person.say(THREAD, "and on")
            # That each request is valid for a strict provider is checked of every case.
            first = it.endpoint.requests[0].body["messages"]
            said = [each.get("content") for each in first]
            assert "the beginning" in said
            assert "the end" in said
            assert "of b" in said
            assert "an orphan" not in said
        (warned,) = of(it.log, Warned)
        assert warned.code == "history_repaired"
        assert it.log[: len(past)] == past
        assert replies(it.log)[-1] == "Still well."

    run(main)


class Window:
    """An endpoint that refuses what is longer than its window, and says so as OpenAI does.

    Args:
        tokens: What it holds, at four characters a token.
        steps: Calls that it makes before it answers.
        size: Characters of a result that it calls for.
    """

    def __init__(self, tokens: int, steps: int, size: int) -> None:
        self.tokens, self.steps, self.size = tokens, steps, size
        self.refused = 0

    def __call__(self, request: Request) -> Reply:
        tokens = len(json.dumps(request.body["messages"])) // 4
        if tokens > self.tokens:
            self.refused += 1
            said = f"This model's maximum context length is {self.tokens} tokens. Yours has {tokens} tokens."
            return error(400, said, code="context_length_exceeded", type="invalid_request_error")
        if not self.steps:
            return text("All read.")
        self.steps -= 1
        return calls(("repeat", {"text": f"page {self.steps} ", "times": self.size // 8}), number=self.steps)


def test_f23_a_window_that_is_smaller_than_was_thought_is_learned_in_the_middle_of_a_turn(tmp_path: Path) -> None:
    async def main() -> None:
        window = Window(5000, steps=12, size=4000)
        async with case(tmp_path, window, model={"window": 32768}) as it:
            async with it.serving() as (person, _):
                thread = await person.thread()
                frames = await person.say(thread, "Read all pages. " + "x" * 400)
                assert "window_learned" in [frame.type for frame in frames if frame.data]
                window.steps = 3
                await person.say(thread, "Once more.")
                status, context = await person.call("GET", f"/api/threads/{thread}/context")
                assert status == 200
                assert context
        assert 0 < window.refused <= 3
        assert [failed.kind for failed in of(it.log, ModelFailed)] == ["overflow"] * window.refused
        assert of(it.log, ContextCompacted)
        assert [end.reason for end in of(it.log, RunEnded)] == ["answer", "answer"]

    run(main)


def test_f23_a_window_that_is_full_at_the_start_of_a_turn_is_met_before_the_model_is_asked(tmp_path: Path) -> None:
    async def main() -> None:
        window = Window(4096, steps=0, size=0)
        async with case(tmp_path, window, model={"window": 4096}, agent=READER) as it:
            async with it.serving() as (person, _):
                thread = await person.thread()
                for number in range(12):
                    await person.say(thread, f"part {number} " + "word " * 300)
                last: list[dict[str, Any]] = it.endpoint.requests[-1].body["messages"]
                assert "part 11 word" in last[-1]["content"]
        assert window.refused == 0
        assert of(it.log, ContextCompacted)
        assert {end.reason for end in of(it.log, RunEnded)} == {"answer"}

    run(main)


def test_f23_a_result_that_is_larger_than_the_window_is_kept_beside_it_and_can_be_read_by_its_handle(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        def script(request: Request) -> Reply:
            messages = request.body["messages"]
            assert len(json.dumps(messages)) // 4 < 4096
            results = [each["content"] for each in messages if each["role"] == "tool"]
            if not results:
                return calls(("repeat", {"text": "0123456789", "times": 20_000}))
            if len(results) == 1:
                handle = "blob:" + results[0].partition("recall blob:")[2][:12]
                return calls(("recall", {"handle": handle, "search": "0123"}), number=1)
            return text("Read.")

        async with case(tmp_path, script, model={"window": 4096}, agent=READER) as it:
            async with it.serving() as (person, _):
                await person.say(await person.thread(), "go")
            assert len(it.endpoint.requests) == 3
        big, recalled = of(it.log, ToolEnded)
        assert (len(big.blob), big.size) == (64, 200_000)
        assert len(big.content) < 4096 * 4
        assert (recalled.status, "0123" in recalled.content) == ("ok", True)
        assert of(it.log, RunEnded) == [RunEnded("answer")]

    run(main)


def test_f23_a_window_too_small_for_anything_ends_the_run_in_words(tmp_path: Path) -> None:
    async def main() -> None:
        window = Window(10, steps=0, size=0)
        async with case(tmp_path, window) as it:
            async with it.serving() as (person, _):
                thread = await person.thread()
                await asyncio.gather(person.say(thread, "hello " * 50))
                window.tokens = 100_000
                await person.say(thread, "again")
        first, second = of(it.log, RunEnded)
        assert (first.reason, first.cause) == ("failed", "overflow")
        assert "10 tokens" in first.detail
        assert second.reason == "answer"

    run(main)
