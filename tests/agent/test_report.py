"""What can be seen of a request's context: its parts, what it cost, what it left out, and that it is the one sent."""

from __future__ import annotations

from base64 import b64encode
from struct import pack
from typing import Any

import pytest

from stepwell import Agent, tool
from stepwell.agent.report import ContextReport
from stepwell.errors import NotFound, RunFailed
from stepwell.events import SummaryEnded, ToolEnded
from stepwell.messages import Usage
from stepwell.models.base import Failure, ModelProfile, ModelRequest
from stepwell.models.scripted import Answer, ScriptedModel, Step, call, reply
from tests.support.runs import bounded

PICTURE = (
    "data:image/png;base64,"
    + b64encode(b"\x89PNG\r\n\x1a\n" + pack(">I4sII", 13, b"IHDR", 640, 480) + b"\x08\x02" + bytes(7)).decode()
)


@tool(effect="pure")
def look(n: int) -> str:
    """Look at something."""
    return f"result {n} " + "words and more words " * 40


@tool(effect="pure")
def dump() -> str:
    """Return very much."""
    return "x" * 200_000


def parts(found: ContextReport) -> dict[str, int]:
    return {part.name: part.tokens for part in found.parts}


def counts(found: ContextReport) -> dict[str, int]:
    return {part.name: part.count for part in found.parts if part.count}


def busy(steps: int) -> Any:
    """Answer with a call in each step but the last of each run; it holds no position but its own count."""
    asked = 0

    def brain(request: ModelRequest) -> Answer:
        nonlocal asked
        if not request.tools:
            return reply('{"summary": "It looked around.", "intentions": "looking"}', usage=Usage(30, 5))
        asked += 1
        return reply(f"thinking {asked}", call("look", n=asked)) if asked % steps else reply("done")

    return brain


def agent(script: Any, *, window: int = 8192, **options: Any) -> Agent:
    profile = ModelProfile(window=window, **options.pop("profile", {}))
    return Agent(ScriptedModel(script, profile=profile), max_steps=None, system="Be short.", **options)


def test_a_request_is_shown_part_by_part_and_is_the_one_that_was_sent() -> None:
    script: list[Step] = [reply("Wait.", call("look", n=1)), reply("Seen.", usage=Usage(500, 3, 400))]

    async def main() -> None:
        async with agent(script, tools=[look]) as made:
            thread = (await made.run("Look once.")).thread
            first, second = await made.context(thread, 1), await made.context(thread)
            assert parts(first).keys() == {"system", "tools", "user", "allowances"}
            assert (parts(first)["system"], parts(first)["user"]) == (len("Be short."), len("Look once."))
            assert counts(second) == {"system": 1, "tools": 1, "user": 1, "replies": 1, "calls": 1, "results": 1}
            assert parts(second)["results"] > 800
            assert second.tokens == sum(parts(second).values()) == second.bound <= second.room
            assert (second.window, second.reserve, second.room) == (8192, 2048, 6144)
            assert (first.step, second.step, second.run, second.model) == (1, 2, 1, "ScriptedModel")
            assert (first.counted, first.cached) == (None, None)
            assert (second.counted, second.cached, second.counting) == (500, 0.8, "bound")
            assert (first.proved, second.proved) == (True, True)
            assert (second.left_out, second.compaction) == ((), None)

    bounded(main)


def test_every_step_of_a_run_over_its_window_is_shown_as_it_was_sent() -> None:
    async def main() -> None:
        async with agent(busy(30), tools=[look], window=6000, summaries=False) as made:
            result = await made.run("Look around.")
            found = [await made.context(result.thread, step) for step in range(1, result.steps + 1)]
            assert [each.step for each in found] == list(range(1, 31))
            assert all(each.proved for each in found)
            assert all(each.bound <= each.room == 4500 for each in found)
            pressed = [each for each in found if each.compaction]
            assert pressed
            last = pressed[-1]
            assert last.compaction is not None
            assert last.compaction.before > last.room >= last.compaction.after
            assert parts(last)["digest"] > 100
            assert counts(last)["tools"] == 2  # recall is offered besides
            left = last.left_out[0]
            assert (left.what, left.why, left.handle[:6]) == ("messages", "window", "event:")
            assert left.gone > 20
            assert {each.what for each in last.left_out} <= {"messages", "text"}

    bounded(main)


def test_a_big_result_is_named_with_its_handle_and_size() -> None:
    async def main() -> None:
        async with agent([reply("", call("dump")), "Much."], tools=[dump]) as made:
            thread = (await made.run("Dump it.")).thread
            (left,) = (await made.context(thread)).left_out
            assert (left.what, left.why, left.gone) == ("result", "size", 200_000)
            store = made._parts.service().store
            (ended,) = [each.event for each in await store.read(thread) if isinstance(each.event, ToolEnded)]
            assert left.handle == f"blob:{ended.blob[:12]}"
            assert left.kept == len(ended.content) < 4000

    bounded(main)


@pytest.mark.parametrize("seen", [True, False])
def test_images_cost_tokens_where_they_are_seen_and_are_named_where_not(seen: bool) -> None:
    async def main() -> None:
        async with agent(["A cat."], window=20_000, profile={"images": seen, "image_tokens": "qwen"}) as made:
            thread = (await made.run("What is this?", images=[PICTURE])).thread
            found = await made.context(thread)
            assert found.proved
            assert (parts(found)["images"] > 256) == seen
            assert [(each.what, each.why, each.gone) for each in found.left_out] == (
                [] if seen else [("images", "model", 1)]
            )

    bounded(main)


@pytest.mark.parametrize("native", [True, False])
def test_the_form_of_an_answer_is_a_part_whether_it_is_asked_for_by_a_tool_or_in_words(native: bool) -> None:
    form = {"title": "Sum", "type": "object", "properties": {"total": {"type": "integer"}}, "required": ["total"]}
    answer: Step = reply("", call("Sum", total=3)) if native else '{"total": 3}'

    async def main() -> None:
        options: dict[str, Any] = {"profile": {"native_tools": native}, "dialect": "native"}
        async with agent(["no", answer], **options) as made:
            result = await made.run("1 + 2?", output=form)
            assert result.output == {"total": 3}
            for step in (1, 2):  # the second one repairs the first
                found = await made.context(result.thread, step)
                assert found.proved
                assert ("form" in parts(found)) == native
                assert ("tail" in parts(found)) == (not native or step == 2)

    bounded(main)


def test_a_request_in_words_of_a_dialect_is_shown_whole() -> None:
    async def main() -> None:
        text = 'Thought: look\nAction: look\nAction Input: {"n": 1}'
        async with agent([text, "Final Answer: Seen."], tools=[look], dialect="react") as made:
            thread = (await made.run("Look once.")).thread
            for step in (1, 2):
                found = await made.context(thread, step)
                assert found.proved
                assert "tools" not in parts(found)
                assert parts(found)["dialect"] > 100
                assert found.tokens == found.bound

    bounded(main)


def test_summaries_and_their_price_are_told() -> None:
    async def main() -> None:
        async with agent(busy(40), tools=[look], window=6000) as made:
            result = await made.run("Look around.")
            found = await made.context(result.thread)
            log = await made._parts.service().store.read(result.thread)
            ended = [each.event for each in log if isinstance(each.event, SummaryEnded) and each.event.status == "ok"]
            assert ended
            assert {(each.first, each.last) for each in found.summaries} <= {(each.first, each.last) for each in ended}
            assert [(each.input, each.output) for each in found.summaries] == [(30, 5)] * len(found.summaries)
            assert found.summaries
            assert all(each.tokens > 0 for each in found.summaries)
            assert found.proved

    bounded(main)


def test_a_window_that_an_endpoint_taught_is_told() -> None:
    asked = 0

    def brain(request: ModelRequest) -> Answer:
        nonlocal asked
        asked += 1
        full = Failure("overflow", "This model's maximum context length is 5000 tokens.")
        return full if asked == 2 else reply("", call("look", n=1)) if asked == 1 else reply("Seen.")

    async def main() -> None:
        async with agent(brain, tools=[look]) as made:
            result = await made.run("Look once. " + "and look " * 500)
            before, after = await made.context(result.thread, 1), await made.context(result.thread)
            assert (before.window, before.learned) == (8192, {})
            assert (after.window, after.learned) == (5000, {"ScriptedModel": 5000})

    bounded(main)


def test_a_run_or_step_that_is_not_there_is_named() -> None:
    async def main() -> None:
        async with agent(["one"]) as made:
            thread = (await made.run("hi")).thread
            for step, run, field in ((2, None, "step"), (None, 2, "run"), (1, 9, "run")):
                with pytest.raises(NotFound) as refused:
                    await made.context(thread, step, run=run)
                assert refused.value.field == field
            with pytest.raises(NotFound):
                await made.context("0" * 32)

    bounded(main)


def test_a_step_whose_model_failed_is_shown_too() -> None:
    async def main() -> None:
        async with agent([Failure("stall", "quiet")]) as made:
            with pytest.raises(RunFailed) as failed:
                await made.run("hi")
            assert failed.value.cause == "stall"
            (info,) = await made._parts.service().store.threads("local")
            found = await made.context(info.id)
            assert (found.proved, found.counted, parts(found)["user"]) == (True, None, 2)

    bounded(main)
