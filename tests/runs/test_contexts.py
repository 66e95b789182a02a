"""Pins: facts that stay before the model, asked for from outside, also while a run is open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from stepwell.errors import InputError, NotFound
from stepwell.events import LongTermUpdated, StepStarted
from stepwell.messages import Message
from stepwell.models.base import ModelRequest
from stepwell.models.scripted import Answer, call, reply
from stepwell.runs.contexts import ALL_PINS, LONGEST_PIN, Pin, context, pin, pins, unpin
from stepwell.specs import ContextSpec, RunSpec
from stepwell.tools.mark import tool
from tests.support.runs import OWNER, Rig, bounded, events_of, open_store, rig


def system_of(request: ModelRequest) -> str:
    first = request.messages[0]
    return first.content if first.role == "system" else ""


async def refusal(made: Rig, thread: str, text: str) -> InputError:
    with pytest.raises(InputError) as refused:
        await pin(made.service, OWNER, thread, text)
    assert refused.value.field == "text"
    return refused.value


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_pin_is_before_the_model_in_every_later_run_until_it_is_removed(tmp_path: Path, kind: str) -> None:
    seen: list[str] = []

    def brain(request: ModelRequest) -> Answer:
        seen.append(system_of(request))
        return reply("ok")

    async def main() -> None:
        async with rig(brain, store=open_store(kind, tmp_path)) as made:
            thread = (await made.service.create(OWNER)).id
            first = await pin(made.service, OWNER, thread, "  The code is 4711.\n")
            assert first == Pin(first.id, "The code is 4711.")
            assert await pin(made.service, OWNER, thread, "The code is 4711.") == first
            second = await pin(made.service, OWNER, thread, "密码是 4711。")
            assert await pins(made.service, OWNER, thread) == [first, second]
            await made.ended(await made.start("hi", thread))
            await unpin(made.service, OWNER, thread, first.id)
            assert await pins(made.service, OWNER, thread) == [second]
            log = await made.ended(await made.start("hi again", thread))
            assert [first.text in each for each in seen] == [True, False]
            assert [second.text in each for each in seen] == [True, True]
            changed = events_of(log, LongTermUpdated)
            assert [(each.pinned, each.unpinned) for each in changed] == [
                (first.text, None),
                (second.text, None),
                (None, first.text),
            ]

    bounded(main)


def test_a_pin_during_a_run_counts_from_the_next_request_on() -> None:
    began, go = asyncio.Event(), asyncio.Event()
    seen: list[str] = []

    @tool(effect="pure")
    async def wait() -> str:
        """Wait."""
        began.set()
        await go.wait()
        return "waited"

    def brain(request: ModelRequest) -> Answer:
        seen.append(system_of(request))
        return reply("done") if any(each.role == "tool" for each in request.messages) else reply("", call("wait"))

    async def main() -> None:
        async with rig(brain, wait) as made:
            ref = await made.start()
            await began.wait()
            await pin(made.service, OWNER, ref.thread, "The code is 4711.")
            go.set()
            log = await made.ended(ref)
            assert ["4711" in each for each in seen] == [False, True]
            (at,) = [each.seq for each in log if isinstance(each.event, LongTermUpdated)]
            steps = [each.seq for each in log if isinstance(each.event, StepStarted)]
            assert steps[0] < at < steps[1]
            found = [await context(made.service, OWNER, ref.thread, step=step) for step in (1, 2)]
            assert [[part.name for part in each.parts if part.name == "pins"] for each in found] == [[], ["pins"]]
            assert [each.proved for each in found] == [True, True]

    bounded(main)


def test_pins_are_bounded_one_by_one_and_together() -> None:
    async def main() -> None:
        async with rig(["ok"]) as made:
            thread = (await made.service.create(OWNER)).id
            assert "1 to 4,000" in str(await refusal(made, thread, " \n"))
            assert "4,001" in str(await refusal(made, thread, "x" * (LONGEST_PIN + 1)))
            for letter in "abcd":
                await pin(made.service, OWNER, thread, letter * LONGEST_PIN)
            assert f"{ALL_PINS:,}" in str(await refusal(made, thread, "e"))
            kept = await pins(made.service, OWNER, thread)
            assert len(kept) == 4
            await unpin(made.service, OWNER, thread, kept[0].id)
            await pin(made.service, OWNER, thread, "e")

    bounded(main)


def test_pins_take_no_more_than_a_quarter_of_the_window() -> None:
    async def main() -> None:
        async with rig(["ok"]) as made:
            ref = await made.start(context=ContextSpec(window=4000))
            await made.ended(ref)
            await pin(made.service, OWNER, ref.thread, "x" * 900)
            said = str(await refusal(made, ref.thread, "y" * 200))
            assert "1,100 tokens" in said
            assert "1,000" in said
            assert len(await pins(made.service, OWNER, ref.thread)) == 1

    bounded(main)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(("window", "length"), [(2000, 400), (8000, 1800)])
def test_a_pin_stays_whole_where_the_system_message_is_cut(window: int, length: int, language: str) -> None:
    fact = ("第一条规则。" * 400)[: length // 3] if language == "zh" else "Never delete prod. " * (length // 18)
    seen: list[str] = []

    def brain(request: ModelRequest) -> Answer:
        seen.append(system_of(request))
        return reply("ok")

    async def main() -> None:
        spec = RunSpec(
            system="Be brief. " * window, language=language, context=ContextSpec(window=window, reserve=window // 4)
        )
        async with rig(brain) as made:
            thread = (await made.service.create(OWNER)).id
            await pin(made.service, OWNER, thread, fact)
            for number in range(4):
                ref = await made.service.start(OWNER, Message("user", "Go. " * 50), spec, thread=thread)
                await made.ended(ref)
                if number == 1:
                    await pin(made.service, OWNER, thread, "A second fact.")
            assert all("`wrapped`" in each and fact.strip() in each for each in seen)
            assert ["A second fact." in each for each in seen] == [False, False, True, True]

    bounded(main)


@pytest.mark.parametrize(
    "ask",
    [
        lambda made, thread, owner: pins(made.service, owner, thread),
        lambda made, thread, owner: pin(made.service, owner, thread, "x"),
        lambda made, thread, owner: unpin(made.service, owner, thread, "0" * 12),
        lambda made, thread, owner: context(made.service, owner, thread),
    ],
    ids=["pins", "pin", "unpin", "context"],
)
def test_the_thread_of_another_owner_is_not_found(ask: Callable[..., object]) -> None:
    async def main() -> None:
        async with rig(["ok"]) as made:
            thread = (await made.service.create(OWNER)).id
            for owner, id in (("bob", thread), (OWNER, "0" * 32)):
                with pytest.raises(NotFound):
                    await ask(made, id, owner)  # type: ignore[misc]

    bounded(main)


def test_the_context_of_a_thread_without_a_run_and_a_pin_that_is_not_there_are_not_found() -> None:
    async def main() -> None:
        async with rig(["ok"]) as made:
            thread = (await made.service.create(OWNER)).id
            with pytest.raises(NotFound) as refused:
                await context(made.service, OWNER, thread)
            assert refused.value.field == "run"
            with pytest.raises(NotFound) as refused:
                await unpin(made.service, OWNER, thread, "0" * 12)
            assert refused.value.field == "pin"
            await made.service.begin(OWNER, Message("user", "hi"), RunSpec(), thread=thread)
            with pytest.raises(NotFound) as refused:
                await context(made.service, OWNER, thread)
            assert refused.value.field in ("run", "step")

    bounded(main)
