"""Whole logs of runs of the chat engine: what happens, in which order, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from stepwell.agent.memory import MemoryLog
from stepwell.agent.options import AgentOptions, ExecutionOptions
from stepwell.engines.chat import constants
from stepwell.errors import ToolError
from stepwell.events import (
    CancelRequested,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    ModelFailed,
    RunEnded,
    RunStarted,
    StepEnded,
    StepStarted,
    Stored,
    TitleChanged,
    ToolEnded,
    ToolProgress,
    ToolStarted,
    Unknown,
)
from stepwell.messages import Message, StopReason, ToolCall, Usage
from stepwell.models.base import Delta, Failure, FailureKind, ModelProfile, ModelRequest
from stepwell.models.scripted import Answer, Gate, ScriptedModel, Step, call, reply
from stepwell.specs import Limits, Prices, RunSpec
from stepwell.state.thread import State
from stepwell.tools.base import Toolbox, ToolContext
from stepwell.tools.mark import tool
from tests.support.audit import audit
from tests.support.runs import OWNER, REQUEST, bounded, chat_engine, end_of, events_of, is_, rig, said, until

ANSWERED = (StepEnded(), RunEnded("answer"))


@tool(effect="pure")
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool(effect="idempotent")
async def broken() -> str:
    """Fail."""
    raise ToolError("it is broken")


def step(number: int = 1) -> tuple[Stored, Stored]:
    return StepStarted(number, REQUEST), MessageStarted()


def replied(text: str = "", *calls: ToolCall, stop: StopReason = "stop", usage: Usage | None = None) -> MessageEnded:
    return MessageEnded(Message("assistant", text, calls=calls), "tool_calls" if calls else stop, usage)


def play(script: list[Step], *tools: Any, **spec: Any) -> list[Stored | Unknown]:
    """Return what happens in a run over a script, which it must use up."""
    model, out = ScriptedModel(script), list[Stored | Unknown]()

    async def main() -> None:
        async with rig(model, *(tools or (add, broken))) as made:
            out.extend(await made.play(**spec))

    bounded(main)
    model.assert_complete()
    return out


def test_a_question_gets_an_answer() -> None:
    used = Usage(3, 4, 1)
    assert play([reply("It is 12.", usage=used)]) == [*step(), replied("It is 12.", usage=used), *ANSWERED]


def test_a_tool_is_called_and_its_result_is_answered() -> None:
    asked = ToolCall("c1", "add", '{"a": 1, "b": 2}')
    assert play([reply("Wait.", asked), "It is 3."]) == [
        *step(),
        replied("Wait.", asked),
        ToolStarted("c1", "add", "pure"),
        ToolEnded("c1", "3"),
        StepEnded(),
        *step(2),
        replied("It is 3."),
        *ANSWERED,
    ]


def test_calls_of_one_reply_run_side_by_side_and_their_results_stand_in_call_order() -> None:
    first, done = asyncio.Event(), asyncio.Event()

    @tool(effect="pure")
    async def slow() -> str:
        """End last."""
        first.set()
        await done.wait()
        return "slow"

    @tool
    async def fast() -> None:
        """Fail at once."""
        await first.wait()
        done.set()
        raise ValueError("no")

    calls = (ToolCall("a", "slow"), ToolCall("b", "fast"), ToolCall("c", "nothing"))
    log = play([reply("", *calls), "Well."], slow, fast)
    assert log == [
        *step(),
        replied("", *calls),
        ToolEnded("c", "nothing is not a valid tool, try one of [slow, fast].", "unknown_tool"),
        ToolStarted("a", "slow", "pure"),
        ToolStarted("b", "fast", "write"),
        ToolEnded("b", "ValueError: no", "failed"),
        ToolEnded("a", "slow"),
        StepEnded(),
        *step(2),
        replied("Well."),
        *ANSWERED,
    ]


def test_the_model_reads_results_in_the_order_of_its_calls() -> None:
    model = ScriptedModel([reply("", call("nothing"), call("broken"), call("add", a=1, b=1)), "Done."])

    async def main() -> None:
        async with rig(model, add, broken) as made:
            await made.play()

    bounded(main)
    told = [(message.role, message.content) for message in model.calls[1].messages[2:]]
    assert told == [
        ("tool", "nothing is not a valid tool, try one of [add, broken]."),
        ("tool", "it is broken"),
        ("tool", "2"),
    ]


def test_three_malformed_replies_in_a_row_are_told_and_the_fourth_ends_the_run() -> None:
    bad = ToolCall("", "add", "{broken")
    log = play([bad, bad, bad, bad])
    ends = [event for event in log if isinstance(event, ToolEnded)]
    assert [each.status for each in ends] == ["invalid"] * 4
    assert "arguments of add are wrong" in ends[0].content
    assert "{broken" in ends[0].content
    assert not [event for event in log if isinstance(event, ToolStarted)]
    assert log[-2:] == [
        StepEnded(),
        RunEnded("failed", "malformed_tool_call", "The model wrote 4 tool calls in a row that could not be read."),
    ]


def test_a_good_call_or_an_unknown_tool_between_makes_malformed_ones_start_anew() -> None:
    bad = ToolCall("", "add", "[]")
    for good in (call("add", a=1, b=2), call("nothing"), reply("", bad, call("broken"))):
        assert play([bad, bad, bad, good, bad, bad, bad, "At last."])[-1] == RunEnded("answer")


def test_calls_of_a_truncated_reply_are_not_run() -> None:
    asked = ToolCall("c1", "add", '{"a": 1, "b": 2}')
    log = play([reply("Let me", asked, stop="length"), reply("It is", stop="length")])
    assert log == [
        *step(),
        MessageEnded(Message("assistant", "Let me", calls=(asked,)), "length"),
        ToolEnded(
            "c1",
            "Not run: the reply was cut at its token limit, so the call may be incomplete. Make a shorter call.",
            "invalid",
        ),
        StepEnded(),
        *step(2),
        replied("It is", stop="length"),
        StepEnded(),
        RunEnded("answer", "length", "The reply was cut at its token limit."),
    ]


def test_an_empty_reply_ends_the_run_and_is_no_part_of_the_conversation() -> None:
    async def main() -> None:
        async with rig([reply(thinking="Hm."), "Better."]) as made:
            ref = await made.start()
            log = await made.ended(ref)
            assert [each.event for each in log[2:]] == [
                *step(),
                MessageEnded(Message("assistant", thinking="Hm."), "stop"),
                StepEnded(),
                RunEnded("failed", "empty_reply", "The model returned an empty reply."),
            ]
            await made.ended(await made.start("again", ref.thread))
            assert [each.content for each in made.asked[1].messages] == ["go", "again"]

    bounded(main)


def test_a_withheld_reply_ends_the_run_with_its_cause() -> None:
    assert play([reply("Well", stop="content_filter")]) == [
        *step(),
        replied("Well", stop="content_filter"),
        StepEnded(),
        RunEnded("failed", "content_filter", "The endpoint withheld the reply (content filter)."),
    ]


@pytest.mark.parametrize("kind", ["rate_limit", "stall", "auth", "overflow", "broken"])
def test_a_failure_of_the_model_is_stored_and_ends_the_run(kind: FailureKind) -> None:
    log = play([reply("Half a", failure=Failure(kind, "the cause", 500), usage=Usage(1, 2))])
    assert log == [
        *step(),
        ModelFailed(kind, "the cause", 500),
        MessageEnded(Message("assistant", "Half a"), "error", Usage(1, 2)),
        StepEnded(),
        RunEnded("failed", kind, "The model failed: the cause"),
    ]


def test_a_failed_reply_has_no_calls_and_is_no_part_of_the_conversation() -> None:
    async def main() -> None:
        async with rig([reply("x", call("add", a=1, b=2), failure=Failure("broken", "cut")), "Better."], add) as made:
            ref = await made.start()
            log = await made.ended(ref)
            assert events_of(log, MessageEnded) == [MessageEnded(Message("assistant", "x"), "error")]
            await made.ended(await made.start("again", ref.thread))
            assert [each.content for each in made.asked[1].messages] == ["go", "again"]

    bounded(main)


def test_announced_retries_are_shown_and_forgotten_after_success() -> None:
    retries: list[Step] = [Failure("server", "busy", 503, retry_in=0.5), Failure("connect", "gone", retry_in=1.0)]
    assert play([*retries, "Here."]) == [
        *step(),
        ModelFailed("server", "busy", 503, 0.5),
        ModelFailed("connect", "gone", 0, 1.0),
        replied("Here."),
        *ANSWERED,
    ]


def test_a_fault_of_our_own_ends_the_run_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    log = play([])
    assert log == [
        *step(),
        MessageEnded(Message("assistant"), "cancelled"),
        StepEnded(),
        RunEnded("failed", "internal", "Stepwell itself failed: ScriptError. The run was ended; its log is whole."),
    ]
    assert "request 1 came, but the script has 0 steps" in caplog.text


# limits


def endless(*_: object) -> Answer:
    return reply("", call("add", a=1, b=2), call("add", a=3, b=4), usage=Usage(60, 40))


@pytest.mark.parametrize(
    ("limits", "steps", "ran", "detail"),
    [
        (Limits(steps=3), 3, 6, "The run reached its limit of 3 model calls."),
        (Limits(tool_calls=4), 3, 4, "The run reached its limit of 4 tool calls."),
        (Limits(tool_calls=3), 2, 3, "The run reached its limit of 3 tool calls."),
        (Limits(tool_calls=0), 1, 0, "The run reached its limit of 0 tool calls."),
        (Limits(tokens=200), 2, 2, "The run reached its limit of 200 tokens."),
        (Limits(tokens=101), 2, 2, "The run reached its limit of 101 tokens."),
        (Limits(steps=2, tool_calls=50, tokens=5000), 2, 4, "The run reached its limit of 2 model calls."),
    ],
)
def test_a_run_uses_no_more_than_its_limits(limits: Limits, steps: int, ran: int, detail: str) -> None:
    async def main() -> None:
        async with rig(endless, add) as made:
            log = await made.ended(await made.start(limits=limits))
            assert len(events_of(log, StepStarted)) == steps
            results = events_of(log, ToolEnded)
            assert [each.status for each in results] == ["ok"] * ran + ["cancelled"] * (2 * steps - ran)
            assert (end_of(log).reason, end_of(log).detail) == ("limit", detail)
            assert getattr(limits, end_of(log).cause) is not None

    bounded(main)


def test_limits_speak_the_language_of_the_run() -> None:
    log = play([call("add", a=1, b=2)], limits=Limits(steps=1), language="zh")
    assert log[-1] == RunEnded("limit", "steps", "运行已达到 1 次模型调用的上限。")


def test_a_call_that_could_cost_more_than_is_left_ends_the_run_and_is_not_made() -> None:
    async def main() -> None:
        spec: dict[str, Any] = {"prices": Prices(1.0, 1.0), "max_output": 1000}
        async with rig(["Here."]) as made:
            log = await made.ended(await made.start(limits=Limits(money=0.0001), **spec))
            assert (end_of(log).reason, end_of(log).cause) == ("limit", "money")
            assert not events_of(log, StepStarted)
            assert not made.asked
            assert end_of(await made.ended(await made.start(limits=Limits(money=1.0), **spec))) == RunEnded("answer")

    bounded(main)


def test_an_answer_at_the_limit_is_an_answer() -> None:
    script: list[Step] = [reply("", call("add", a=1, b=2), usage=Usage(1, 1)), reply("3", usage=Usage(99, 99))]
    assert play(script, limits=Limits(steps=2, tool_calls=1, tokens=3))[-1] == RunEnded("answer")


def test_time_runs_out_while_the_model_answers() -> None:
    async def main() -> None:
        async with rig([reply(["Half a ", "reply"], gates={1: Gate()})]) as made:
            log = await made.ended(await made.start(limits=Limits(seconds=0.05)))
            assert [each.event for each in log[4:]] == [
                MessageEnded(Message("assistant", "Half a "), "cancelled"),
                StepEnded(),
                RunEnded("limit", "seconds", "The run reached its limit of 0.05 seconds."),
            ]

    bounded(main)


def test_time_runs_out_while_a_tool_runs() -> None:
    @tool
    async def endless() -> None:
        """Never end."""
        await asyncio.Event().wait()

    @tool(effect="pure")
    async def stubborn() -> str:
        """Ignore that it should end."""
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "ignored"
        return ""

    for called in (endless, stubborn):
        log = play([call(called.__name__)], called, limits=Limits(seconds=0.05))
        status = "cancelled" if called is endless else "ok"
        assert [event.status for event in log if isinstance(event, ToolEnded)] == [status]
        assert log[-1] == RunEnded("limit", "seconds", "The run reached its limit of 0.05 seconds.")


# cancelling


def test_a_run_cancelled_while_the_model_answers_keeps_what_was_shown() -> None:
    async def main() -> None:
        gate = Gate()
        script: list[Step] = [reply(["Half ", "a ", "reply"], thinking="Hm.", gates={3: gate}), "Again."]
        async with rig(script) as made:
            ref = await made.start()
            await until(made.service, ref.thread, said("Half a "))
            await made.service.cancel("ann", ref.thread, ref.run, "enough")
            log = await made.ended(ref)
            assert [each.event for each in log[4:]] == [
                CancelRequested("enough"),
                MessageEnded(Message("assistant", "Half a ", thinking="Hm."), "cancelled"),
                StepEnded(),
                RunEnded("cancelled", "cancelled", "The run was cancelled."),
            ]
            await made.ended(await made.start("and now?", ref.thread))
            assert [each.content for each in made.asked[1].messages] == ["go", "Half a ", "and now?"]

    bounded(main)


def test_a_run_cancelled_before_the_first_word_leaves_no_empty_message() -> None:
    async def main() -> None:
        gate = Gate()
        async with rig([reply("never", gates={0: gate})]) as made:
            ref = await made.start()
            await gate.reached.wait()
            await made.service.cancel("ann", ref.thread, ref.run)
            state = audit(await made.ended(ref))
            assert [message.role for message in state.transcript] == ["user"]

    bounded(main)


def test_a_run_cancelled_while_tools_run_closes_their_calls() -> None:
    async def main() -> None:
        at, stopped = Gate(), asyncio.Event()

        @tool
        async def endless() -> None:
            """Never end."""
            try:
                await at.wait()
            finally:
                stopped.set()

        calls = (ToolCall("a", "add", '{"a": 1, "b": 2}'), ToolCall("b", "endless"))
        async with rig([reply("", *calls), "Again."], add, endless) as made:
            ref = await made.start()
            await at.reached.wait()
            await until(made.service, ref.thread, is_(ToolEnded))
            await made.service.cancel("ann", ref.thread, ref.run)
            await stopped.wait()
            log = await made.ended(ref)
            assert [each.event for each in log[7:]] == [
                ToolEnded("a", "3"),
                CancelRequested(),
                ToolEnded("b", "No result: the run was stopped before this call ended.", "cancelled"),
                StepEnded(),
                RunEnded("cancelled", "cancelled", "The run was cancelled."),
            ]
            await made.ended(await made.start("go on", ref.thread))
            assert [each.role for each in made.asked[1].messages] == ["user", "assistant", "tool", "tool", "user"]

    bounded(main)


def test_a_cancelled_run_ends_even_where_a_tool_ignores_it() -> None:
    async def main() -> None:
        at = Gate()

        @tool
        async def stubborn() -> str:
            """Ignore that it should end."""
            try:
                await at.wait()
            except asyncio.CancelledError:
                return "did it all the same"
            return ""

        async with rig([call("stubborn"), "never asked"], stubborn) as made:
            ref = await made.start()
            await at.reached.wait()
            await made.service.cancel("ann", ref.thread, ref.run)
            log = await made.ended(ref)
            assert [each.content for each in events_of(log, ToolEnded)] == ["did it all the same"]
            assert end_of(log).reason == "cancelled"

    bounded(main)


# tools at work


def test_progress_of_a_tool_is_shown_between_its_start_and_its_end() -> None:
    kept: list[ToolContext] = []

    @tool(effect="pure")
    async def count(context: ToolContext) -> str:
        """Count."""
        kept.append(context)
        context.progress("one")
        context.progress("two\0")
        return "done"

    async def main() -> None:
        async with rig([call("count"), "ok"], count) as made:
            ref = await made.start()
            reader = asyncio.ensure_future(until(made.service, ref.thread, is_(TitleChanged)))
            await made.ended(ref)
            kept[0].progress("too late")
            await made.service.rename(OWNER, ref.thread, "over")
            items = await reader
            shown = [item.event for item in items if isinstance(item.event, ToolStarted | ToolProgress | ToolEnded)]
            text = "".join(event.text for event in shown if isinstance(event, ToolProgress))
            assert text == "onetwo\ufffd"
            assert isinstance(shown[0], ToolStarted)
            assert isinstance(shown[-1], ToolEnded)

    bounded(main)


def test_a_call_has_a_key_of_its_own_in_its_thread() -> None:
    seen: list[ToolContext] = []

    @tool
    async def look(context: ToolContext) -> str:
        """Look."""
        seen.append(context)
        return "seen"

    async def main() -> None:
        async with rig([reply("", call("look"), call("look")), "ok"], look) as made:
            ref = await made.start()
            log = await made.ended(ref)
            numbers = [each.seq for each in log if isinstance(each.event, ToolStarted)]
            assert sorted(context.key for context in seen) == sorted(f"{ref.thread}.{number}" for number in numbers)
            assert {(context.thread, context.run) for context in seen} == {(ref.thread, ref.run)}
            assert {context.call for context in seen} == {each.call for each in events_of(log, ToolStarted)}

    bounded(main)


def test_text_that_nothing_can_hold_is_replaced() -> None:
    @tool(effect="pure")
    async def foul() -> str:
        """Return foul text."""
        return "nul \0 lone \ud800"

    script: list[Step] = [
        reply("a\0b", ToolCall("\ud800", "foul"), thinking="\udfff"),
        reply("c\ud83d", failure=Failure("server", "bad \0")),
    ]
    log = play(script, foul)
    assert log == [
        *step(),
        MessageEnded(
            Message("assistant", "a\ufffdb", thinking="\ufffd", calls=(ToolCall("\ufffd", "foul"),)),
            "tool_calls",
            replaced_characters=3,
        ),
        ToolStarted("\ufffd", "foul", "pure"),
        ToolEnded("\ufffd", "nul \ufffd lone \ufffd", details={"replaced_characters": 2}),
        StepEnded(),
        *step(2),
        ModelFailed("server", "bad \ufffd"),
        MessageEnded(Message("assistant", "c\ufffd"), "error", replaced_characters=1),
        StepEnded(),
        RunEnded("failed", "server", "The model failed: bad \ufffd"),
    ]


def test_a_long_run_folds_as_it_went() -> None:
    def brain(request: Any) -> Answer:
        done = sum(message.role == "tool" for message in request.messages)
        return call("add", a=done, b=1) if done < 100 else f"{done} calls"

    async def main() -> None:
        async with rig(brain, add) as made:
            log = await made.ended(await made.start())
            assert len(log) == 2 + 100 * 6 + 5
            assert State(log).transcript[-1].content == "100 calls"

    bounded(main)


class Abrupt:
    """A model whose stream ends without a last delta."""

    profile = ModelProfile()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Delta]:
        yield Delta(text="and so")

    async def close(self) -> None: ...


def test_a_stream_that_just_ends_is_taken_as_it_is() -> None:
    async def main() -> None:
        async with rig(Abrupt()) as made:
            assert (await made.play())[2] == replied("and so")

    bounded(main)


def test_the_constants_that_replay_compares_are_named() -> None:
    assert constants() == {"chat.malformed_limit": "3", "chat.words": constants()["chat.words"]}
    assert len(constants()["chat.words"]) == 12


def test_an_engine_takes_other_options_over_before_and_after_its_first_decision() -> None:
    async def main() -> None:
        model = ScriptedModel([reply("", call("nothing")), reply("x" * 400)])
        engine, log = chat_engine(model, Toolbox()), MemoryLog()
        small, large = (AgentOptions(execution=ExecutionOptions(max_message_tokens=most)) for most in (20_000, 30_000))
        await engine.lazy_init(small)
        await log.record(RunStarted(RunSpec()), MessageAdded(Message("user", "go")))
        assert await engine.step(log)
        agent = engine.make_agent(log)
        run = log.state.run
        assert run is not None
        assert engine.agent is not None
        assert engine.agent.budget(run).room < agent.budget(run).room
        await engine.lazy_init(large, get_available_tools=False)
        assert engine.agent.config is large

    asyncio.run(main())
