"""What every adapter of the port of models must do; each runs all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from stepwell.messages import Image, Message, StopReason, ToolCall, ToolSpec, ToolSpecs, Transcript, Usage
from stepwell.models.base import Delta, Failure, Model, ModelRequest, Settings
from stepwell.models.scripted import Reply, reply
from tests.models.contract import ADAPTERS, opened

Body = Callable[[Model], Awaitable[None]]
Run = Callable[[list[Reply], Body], None]

QUESTION = Message("user", "How much is 17*23?")
TOOLS = ToolSpecs([ToolSpec("calculate", "Computes.", {"type": "object", "properties": {"x": {"type": "string"}}})])
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def run(adapter: str) -> Run:
    async def main(script: list[Reply], body: Body) -> None:
        async with opened(adapter, script) as model, asyncio.timeout(30):
            await body(model)

    return lambda script, body: asyncio.run(main(script, body))


def asked(*messages: Message, settings: Settings | None = None) -> ModelRequest:
    return ModelRequest(Transcript(messages or [QUESTION]), TOOLS, settings)


async def collect(model: Model, request: ModelRequest | None = None) -> list[Delta]:
    return [delta async for delta in model.stream(request or asked())]


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def calls_of(deltas: list[Delta]) -> list[tuple[str, str, str]]:
    """Return id, name and arguments of each call, joined as the port tells to."""
    calls: dict[int, list[str]] = {}
    for part in (part for delta in deltas for part in delta.calls):
        call = calls.setdefault(part.index, [part.id, part.name, ""])
        call[2] += part.arguments
    assert list(calls) == list(range(len(calls)))
    return [(id, name, arguments) for id, name, arguments in calls.values()]


def test_only_the_last_delta_tells_why_the_reply_ended(run: Run) -> None:
    async def body(model: Model) -> None:
        deltas = await collect(model)
        assert text_of(deltas) == "Hello, 世界"
        assert [delta.stop for delta in deltas] == [None] * (len(deltas) - 1) + ["stop"]
        assert not any(delta.failure for delta in deltas)

    run([reply(("Hel", "lo, ", "世界"))], body)


def test_thinking_is_told_apart_from_the_text_and_comes_before_it(run: Run) -> None:
    async def body(model: Model) -> None:
        deltas = await collect(model)
        assert "".join(delta.thinking for delta in deltas) == "Hm, 391."
        assert text_of(deltas) == "It is 391."
        thought = max(number for number, delta in enumerate(deltas) if delta.thinking)
        assert thought <= min(number for number, delta in enumerate(deltas) if delta.text)

    run([reply("It is 391.", thinking=("Hm, ", "391."))], body)


def test_calls_come_in_pieces_that_join_to_what_the_model_wrote(run: Run) -> None:
    async def body(model: Model) -> None:
        deltas = await collect(model)
        assert text_of(deltas) == "Let me see."
        assert calls_of(deltas) == [("call_1", "calculate", '{"x":"17*23"}'), ("call_2", "now", '{"zone":"UTC"}')]
        assert deltas[-1].stop == "tool_calls"

    calls = ToolCall("call_1", "calculate", '{"x":"17*23"}'), ToolCall("call_2", "now", '{"zone":"UTC"}')
    run([reply("Let me see.", *calls)], body)


def test_characters_that_no_store_takes_are_left_as_they_came_or_counted(run: Run) -> None:
    async def body(model: Model) -> None:
        deltas = await collect(model)
        said = [text_of(deltas), *(delta.thinking for delta in deltas), *(each[2] for each in calls_of(deltas))]
        assert sum(text.count("\0") for text in said) + sum(delta.replaced for delta in deltas) == 3

    run([reply("a\0b", ToolCall("call_1", "now", '{"zone":"\0"}'), thinking="\0")], body)


@pytest.mark.parametrize("stop", ["length", "content_filter"])
def test_a_reply_that_was_cut_or_filtered_says_so(run: Run, stop: StopReason) -> None:
    async def body(model: Model) -> None:
        assert (await collect(model))[-1].stop == stop

    run([reply("It", stop=stop)], body)


def test_a_call_that_was_cut_is_not_asked_for(run: Run) -> None:
    async def body(model: Model) -> None:
        assert (await collect(model))[-1].stop == "length"

    run([reply("", ToolCall("call_1", "calculate", '{"x":'), stop="length")], body)


def test_tokens_are_told_once(run: Run, adapter: str) -> None:
    async def body(model: Model) -> None:
        [usage] = [delta.usage for delta in await collect(model) if delta.usage]
        if adapter == "pydantic-ai":  # its test model counts words itself
            assert usage.output == 1
        else:
            assert usage == Usage(12, 3, 4)

    run([reply("Hi", usage=Usage(12, 3, 4))], body)


def test_a_refused_request_is_a_failure_and_no_exception(run: Run) -> None:
    async def body(model: Model) -> None:
        refused = await collect(model)
        assert refused[-1].failure == Failure("request", "temperature: too hot", 400)
        assert refused[-1].stop == "error"
        assert len(refused) == 1
        assert text_of(await collect(model)) == "Hi"

    run([reply(failure=Failure("request", "temperature: too hot", 400)), reply("Hi")], body)


def test_a_stream_that_breaks_keeps_what_came_and_is_not_tried_again(run: Run) -> None:
    async def body(model: Model) -> None:
        deltas = await collect(model)
        assert text_of(deltas) == "Hello, "
        assert deltas[-1].stop == "error"
        assert deltas[-1].failure is not None
        assert deltas[-1].failure.kind == "broken"
        assert deltas[-1].failure.retry_in is None

    run([reply("Hello, ", failure=Failure("broken", "The connection broke."))], body)


def test_text_is_given_out_as_it_comes(run: Run) -> None:
    gate = asyncio.Event()

    async def body(model: Model) -> None:
        seen: list[str] = []
        async for delta in model.stream(asked()):
            seen += [delta.text] if delta.text else []
            assert gate.is_set() == (len(seen) > 1 or delta.stop is not None)
            gate.set()
        assert seen == ["first", " then"]

    run([reply(("first", " then"), gates={1: gate})], body)


def test_a_reply_that_is_left_or_cancelled_does_not_hold_up_the_next(run: Run) -> None:
    async def body(model: Model) -> None:
        async with aclosing(model.stream(asked())) as stream:
            assert (await anext(stream)).text == "a"
        seen = asyncio.Event()

        async def follow() -> None:
            async for _ in model.stream(asked()):
                seen.set()

        task = asyncio.ensure_future(follow())
        await seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert text_of(await collect(model)) == "Hi"

    gates = {1: asyncio.Event()}
    run([reply(("a", "b"), gates=gates)] * 2 + [reply("Hi")], body)


def test_a_whole_conversation_with_calls_results_and_images_can_be_sent(run: Run) -> None:
    async def body(model: Model) -> None:
        assert text_of(await collect(model, request)) == "391."

    asked_for = ToolCall("call_1", "calculate", '{"x":"17*23"}'), ToolCall("call_2", "calculate", "no JSON")
    request = asked(
        Message("system", "You compute."),
        Message("user", "And this?", (Image(PIXEL, "low"),)),
        Message("assistant", "Let me see.", thinking="Hm.", calls=asked_for),
        Message("tool", "391", call="call_1"),
        Message("tool", "The arguments are no JSON.", (Image(PIXEL),), call="call_2"),
        Message("user", "Well?"),
        settings=Settings(0.5, 100, ("END",), "auto", None, {"top_p": 0.9}),
    )
    run([reply("391.")], body)


def test_requests_at_the_same_time_do_not_mix(run: Run, adapter: str) -> None:
    async def body(model: Model) -> None:
        replies = await asyncio.gather(*(collect(model) for _ in range(5)))
        assert sorted(map(text_of, replies)) == ["aaa", "bbb", "ccc", "ddd", "eee"]

    run([reply(tuple(letter * 3)) for letter in "abcde"], body)


def test_a_closed_adapter_opens_again(run: Run) -> None:
    async def body(model: Model) -> None:
        assert text_of(await collect(model)) == "one"
        await model.close()
        await model.close()
        assert text_of(await collect(model)) == "two"

    run([reply("one"), reply("two")], body)
