"""Long runs against an endpoint that counts every request exactly and refuses what is over its window."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from stepwell.agent.options import AgentOptions, ExecutionOptions
from stepwell.events import ContextCompacted, ModelFailed, Recorded, RunEnded, ToolEnded, WindowLearned
from stepwell.messages import Message, ToolCall, Usage
from stepwell.models.base import ModelRequest
from stepwell.models.openai import OpenAIModel
from stepwell.models.profiles import profile_for
from stepwell.models.retries import Retries
from stepwell.models.scripted import Answer, reply
from stepwell.runs.contexts import pin
from stepwell.runs.service import RunService
from stepwell.specs import ContextSpec, Limits, RunSpec
from stepwell.store.memory import MemoryStore
from stepwell.tools.base import Toolbox
from stepwell.tools.mark import tool
from stepwell.wiring.engine import EngineMaker
from stepwell.wiring.parts import context_of
from tests.support.audit import audit, check_history
from tests.support.endpoint import Endpoint, Reply, Request, error, text, tool_calls
from tests.support.runs import OWNER, bounded, end_of, events_of, rig, until

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import bpe_openai

FACT = "The customer's number is 4711-Ω."
SYSTEM = "You keep the books of a harbour. Use the tools."
WINDOW = 8192
ENCODING = bpe_openai.get_encoding("o200k_base")


def count(text: str) -> int:
    return len(ENCODING.encode_ordinary(text))


@tool(effect="pure")
async def fetch(page: int) -> str:
    """Fetch a page of the register.

    Args:
        page: Its number.
    """
    if page == 5:
        return "\n".join(
            f"line {number}: berth {hashlib.sha256(str(number).encode()).hexdigest()}" for number in range(900)
        )
    words = ("tide", "crane", "仓库", "潮汐", "🚢", "b64:" + hashlib.sha256(str(page).encode()).hexdigest())
    return " ".join(words[(page * step) % len(words)] for step in range(1, 3 + page * 7 % 120))


class Strict:
    """An endpoint's judgement: counts a request as providers do, and refuses it with their words.

    Args:
        steps: Calls until the answer.
        window: What it holds.
        tells: Whether it reports usage.
    """

    def __init__(self, steps: int, window: int = WINDOW, *, tells: bool = True) -> None:
        self.steps, self.window, self.tells = steps, window, tells
        self.asked = self.refused = self.largest = 0
        self.handle = ""
        self.recalled: list[str] = []
        self.pins = 0
        self.bodies: list[bytes] = []

    def take(self, request: Request) -> Reply:
        body = request.body
        self.bodies.append(request.raw)
        tokens = self.count(body)
        self.largest = max(self.largest, tokens)
        if tokens > self.window:
            self.refused += 1
            words = f"This model's maximum context length is {self.window} tokens. Your messages resulted in {tokens}."
            return error(400, words, code="context_length_exceeded")
        self.look(body["messages"])
        self.asked += 1
        used = (tokens, 20) if self.tells else None
        if self.asked > self.steps:
            return text("All pages are booked.", tokens_used=used)
        if self.asked == self.steps * 3 // 4 and self.handle:
            arguments = json.dumps({"handle": self.handle, "search": "line 777"})
            return tool_calls((f"call_{self.asked}", "recall", [arguments]), tokens_used=used)
        calls = [
            (f"call_{self.asked}_{at}", "fetch", [json.dumps({"page": self.asked + at})])
            for at in range(1 + self.asked % 3)
        ]
        return tool_calls(*calls, said=f"Page {self.asked} is next. " * (self.asked % 5), tokens_used=used)

    def count(self, body: dict[str, Any]) -> int:
        tokens = 3 + sum(20 + count(json.dumps(each, ensure_ascii=False)) for each in body.get("tools", ()))
        for message in body["messages"]:
            tokens += 4 + count(message.get("content") or "") + count(message.get("tool_call_id", ""))
            for call in message.get("tool_calls", ()):
                tokens += 8 + count(call["function"]["name"]) + count(call["function"]["arguments"])
        return tokens

    def look(self, messages: list[dict[str, Any]]) -> None:
        assert messages[0]["role"] == "system"
        assert messages[0]["content"].startswith(SYSTEM)
        assert any("Book all pages." in (each["content"] or "") for each in messages if each["role"] == "user")
        self.pins += FACT in messages[0]["content"]
        for each in messages:
            if each["role"] == "tool" and "recall blob:" in each["content"]:
                self.handle = self.handle or "blob:" + each["content"].split("recall blob:")[1][:12]
            if each["role"] == "tool" and "line 777: berth" in each["content"]:
                self.recalled.append(each["content"])


def spec_of(name: str, window: int, toolbox: Toolbox) -> tuple[RunSpec, Any]:
    profile = profile_for(name, window=window, native_tools=True)
    context: ContextSpec = context_of(AgentOptions(), profile, 512)
    spec = RunSpec(system=SYSTEM, tools=toolbox.names, context=context, max_tokens=None, limits=Limits())
    return spec, profile


async def play(strict: Strict, name: str, window: int = WINDOW) -> list[Any]:
    """Carry a run out against a judge, pin a fact after its third step, and return the audited log."""
    async with Endpoint(strict.take) as endpoint:
        toolbox = Toolbox([fetch])
        spec, profile = spec_of(name, window, toolbox)
        model = OpenAIModel(endpoint.base_url, name, profile=profile, retries=Retries(attempts=1))
        make_engine = EngineMaker(spec, model, toolbox, None)
        service = RunService(MemoryStore(), make_engine)
        ref = await service.start(OWNER, Message("user", "Book all pages."), spec)
        await until(service, ref.thread, lambda _: strict.asked >= 3)
        await pin(service, OWNER, ref.thread, FACT)
        await until(service, ref.thread, lambda item: item.run == ref.run and item.ends_run)
        events = await service.store.read(ref.thread)
        await service.stop()
        await model.close()
        return events


@pytest.mark.limit(240)
@pytest.mark.parametrize(
    ("name", "steps", "tells"),
    [("gpt-4o", 2000, True), ("a-model-of-ours", 600, True), ("a-model-of-ours", 300, False)],
    ids=["tokenizer known", "provider counts", "bytes only"],
)
def test_no_request_is_ever_refused(name: str, steps: int, tells: bool) -> None:
    strict = Strict(steps, tells=tells)
    logs: list[Any] = []

    async def main() -> None:
        logs.extend(await play(strict, name))

    bounded(main, 200)
    assert (strict.refused, strict.asked) == (0, steps + 1)
    assert end_of(logs).reason == "answer"
    assert strict.largest > WINDOW // (2 if name == "gpt-4o" or tells else 8)
    assert not events_of(logs, ModelFailed)
    check_history(list(audit(logs).transcript), False)
    # The fact of step 3 was there ever after, and the result of step 5 could still be read at the end.
    assert strict.pins >= steps - 5
    assert strict.recalled
    rewritten = len(events_of(logs, ContextCompacted)) + 2  # by the pin and by the first text out of line
    shares = [share(*pair) for pair in pairwise(strict.bodies)]
    stable = [each for each in shares if each >= 0.95]
    print(f"share of the prefix: {min(stable):.1%} at least, {len(shares) - len(stable)} of {len(shares)} rewritten")
    assert len(shares) - len(stable) <= rewritten
    assert rewritten < steps / 3


def share(before: bytes, after: bytes) -> float:
    """Return which part of a request's messages the next request begins with."""
    marks = [body.index(b'"messages":') for body in (before, after)]
    ends = [body.rindex(b'],"tools"') if b'],"tools"' in body else len(body) for body in (before, after)]
    first, second = before[marks[0] : ends[0]], after[marks[1] : ends[1]]
    same = next((at for at, (one, other) in enumerate(zip(first, second, strict=False)) if one != other), len(first))
    return same / len(first)


def test_a_window_that_is_smaller_than_was_thought_is_learned_once() -> None:
    strict = Strict(120, window=4096)
    logs: list[Any] = []

    async def main() -> None:
        logs.extend(await play(strict, "gpt-4o", window=16_384))

    bounded(main, 60)
    assert end_of(logs).reason == "answer"
    assert strict.refused == len(events_of(logs, WindowLearned)) == 1
    assert events_of(logs, WindowLearned)[0].window == 4096


def test_a_result_of_fifty_megabytes_is_kept_whole_and_told_in_part() -> None:
    big = "x" * 50_000_000

    @tool(effect="pure")
    async def dump() -> str:
        """Dump everything."""
        return big

    async def main() -> None:
        seen: list[int] = []

        def take(request: Request) -> Reply:
            seen.append(len(request.raw))
            return text("Done.") if len(seen) > 1 else tool_calls(("c1", "dump", ["{}"]))

        async with Endpoint(take) as endpoint:
            toolbox = Toolbox([dump])
            spec, profile = spec_of("gpt-4o", WINDOW, toolbox)
            model = OpenAIModel(endpoint.base_url, "gpt-4o", profile=profile)
            service = RunService(MemoryStore(), EngineMaker(spec, model, toolbox, None))
            ref = await service.start(OWNER, Message("user", "Dump it."), spec)
            await until(service, ref.thread, lambda item: item.run == ref.run and item.ends_run)
            events = await service.store.read(ref.thread)
            (ended,) = events_of(events, ToolEnded)
            assert await service.store.blob(ref.thread, ended.blob, offset=49_999_999) == b"x"
            await service.stop()
            await model.close()
            assert (ended.size, len(ended.content) < 10_000) == (50_000_000, True)
            assert "recall blob:" in ended.content
            assert max(seen) < 20_000

    bounded(main)


def test_a_user_message_bigger_than_the_window_is_cut_and_answered() -> None:
    async def main() -> None:
        strict = Strict(0)
        async with Endpoint(strict.take) as endpoint:
            toolbox = Toolbox([fetch])
            spec, profile = spec_of("gpt-4o", WINDOW, toolbox)
            model = OpenAIModel(endpoint.base_url, "gpt-4o", profile=profile)
            service = RunService(MemoryStore(), EngineMaker(spec, model, toolbox, None))
            ref = await service.start(OWNER, Message("user", "Book all pages. " + "很长的文字。" * 60_000), spec)
            await until(service, ref.thread, lambda item: item.run == ref.run and item.ends_run)
            events = await service.store.read(ref.thread)
            await service.stop()
            await model.close()
            assert isinstance(events[-1].event, RunEnded)
            assert (events[-1].event.reason, strict.refused, strict.asked) == ("answer", 0, 1)
            assert b"recall event:2" in strict.bodies[0]

    bounded(main)


def counts(function: Callable[[int], int], steps: int = 40) -> list[Recorded]:
    """Return the log of three runs whose endpoint says of the n-th request that it took so many tokens."""
    asked, log = 0, list[Recorded]()

    def brain(_: ModelRequest) -> Answer:
        nonlocal asked
        asked += 1
        used = Usage(function(asked), 1)
        return (
            reply("", ToolCall("", "fetch", f'{{"page": {asked}}}'), usage=used)
            if asked % steps
            else reply("Done.", usage=used)
        )

    async def main() -> None:
        thread = ""
        async with rig(brain, fetch) as made:
            for _ in range(3):
                context = ContextSpec(window=WINDOW, reserve=1024)
                ref = await made.start(thread=thread, tools=("fetch",), context=context)
                thread = ref.thread
                log[:] = await made.ended(ref)

    bounded(main)
    return log


@pytest.mark.parametrize(
    "function",
    [
        lambda number: 10**9 if number == 3 else 0,
        lambda number: 10**9,
        lambda number: 7900,
        lambda number: min(number * 500, 8000),
    ],
    ids=["absurd once", "absurd always", "always near the window", "added up"],
)
def test_wrong_counts_of_an_endpoint_end_no_run(function: Callable[[int], int]) -> None:
    log = counts(function)
    assert events_of(log, RunEnded) == [RunEnded("answer")] * 3


@pytest.mark.parametrize("most", [700, 4096, 6000])
def test_a_limit_of_requests_that_is_below_the_reserve_leaves_room_to_work(most: int) -> None:
    async def main() -> None:
        options = AgentOptions(execution=ExecutionOptions(max_message_tokens=most))
        context = context_of(options, profile_for("a-model-of-ours", window=128_000), None)
        async with rig(["Hello."]) as made:
            ref = await made.start(context=context)
            assert end_of(await made.ended(ref)) == RunEnded("answer")

    bounded(main)


def test_tools_that_are_over_a_limit_of_requests_are_told_of_that_limit() -> None:
    @tool(description="Fetch a page. " * 2000)
    async def much() -> str:
        return ""

    async def main() -> None:
        async with rig([], much) as made:
            ref = await made.start(tools=("much",), context=ContextSpec(window=128_000, max_tokens=5000))
            end = end_of(await made.ended(ref))
            assert end.cause == "window"
            assert "its window has 128000 tokens, of which execution.max_message_tokens leaves 5000" in end.detail

    bounded(main)


def test_a_system_message_that_was_cut_is_whole_again_under_a_larger_window_and_so_is_another() -> None:
    rules, others = "Keep the books. " * 300, "Count the crates. " * 200

    async def main() -> None:
        async with rig(lambda _: reply("Yes.")) as made:
            small, large = ContextSpec(window=2000, reserve=500), ContextSpec(window=WINDOW, reserve=500)
            thread, shown = "", list[str]()
            for system, context in ((rules, small), (rules, small), (rules, large), (others, large), (rules, small)):
                ref = await made.start(thread=thread, system=system, context=context)
                thread = ref.thread
                log = await made.ended(ref)
                shown.append(made.asked[-1].messages[0].content)
            assert [each in (rules, others) for each in shown] == [False, False, True, True, False]
            assert len(events_of(log, ContextCompacted)) == 2

    bounded(main)


def test_arguments_nested_beyond_all_measure_end_no_run() -> None:
    deep = '{"page": ' + "[" * 100_000 + "]" * 100_000 + "}"

    async def main() -> None:
        async with rig([ToolCall("", "fetch", deep), "Sorry.", "And on."], fetch) as made:
            spec: dict[str, Any] = {"tools": ("fetch",), "context": ContextSpec(window=WINDOW, reserve=1024)}
            ref = await made.start(**spec)
            assert end_of(await made.ended(ref)) == RunEnded("answer")
            assert end_of(await made.ended(await made.start(thread=ref.thread, **spec))) == RunEnded("answer")

    bounded(main)
