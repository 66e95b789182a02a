"""Closing a run closes everything that it has open, in one append."""

from __future__ import annotations

import pytest

from stepwell.engines.base import close, close_inside
from stepwell.engines.words import WORDS, words
from stepwell.events import (
    Answered,
    Asked,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    RunEnded,
    StepEnded,
    StepStarted,
    Stored,
    SummaryEnded,
    SummaryStarted,
    TaskEnded,
    TaskStarted,
    TextDelta,
    ToolEnded,
    ToolStarted,
)
from stepwell.messages import Message, ToolCall
from stepwell.plans import Task
from stepwell.specs import RunSpec
from tests.support.runs import OWNER, bounded, rig

STEP: tuple[Stored, ...] = (StepStarted(1, "…"), MessageStarted())
CALLS = MessageEnded(Message("assistant", calls=(ToolCall("a", "t"), ToolCall("b", "t"))), "tool_calls")
NONE = "没有结果：此调用结束之前，运行已停止。"


@pytest.mark.parametrize(
    ("opened", "closing"),
    [
        ([], []),
        ([*STEP], [MessageEnded(Message("assistant", "Half"), "cancelled"), StepEnded()]),
        (
            [*STEP, CALLS, ToolStarted("a", "t")],
            [ToolEnded("a", NONE, "cancelled"), ToolEnded("b", NONE, "cancelled"), StepEnded()],
        ),
        (
            [*STEP, CALLS, ToolStarted("b", "t"), ToolEnded("b", "1")],
            [ToolEnded("a", NONE, "cancelled"), StepEnded()],
        ),
        ([*STEP, MessageEnded(Message("assistant", "All"), "stop")], [StepEnded()]),
    ],
)
def test_whatever_is_open_is_closed_before_the_run(opened: list[Stored], closing: list[Stored]) -> None:
    async def main() -> None:
        async with rig([]) as made:
            log = await made.service.begin(OWNER, Message("user", "go"), RunSpec(language="zh"))
            await log.record(*opened)
            if log.state.run is not None and log.state.run.message:
                log.publish(TextDelta(log.state.run.message, "Half"))
            await close(log, "failed", "why", "because")
            events = [each.event for each in await made.log(log.thread)][2 + len(opened) :]
            assert events == [*closing, RunEnded("failed", "why", "because")]
            await close(log, "failed", "again", "")
            assert len(await made.log(log.thread)) == 2 + len(opened) + len(events)

    bounded(main)


def test_agents_inside_a_run_are_closed_before_it_the_deepest_first() -> None:
    async def main() -> None:
        async with rig([]) as made:
            log = await made.service.begin(OWNER, Message("user", "go"), RunSpec())
            task, spec = Task(id="1.1", name="a", goal="b"), RunSpec()
            await log.record(*STEP, MessageEnded(Message("assistant", calls=(ToolCall("h", "help"),)), "tool_calls"))
            await log.record(ToolStarted("h", "help"))
            for path in ("helper:7", "helper:7/1", "helper:7/2"):
                await log.record(TaskStarted(task, spec), path=path)
            await log.record(StepStarted(1, "…", reserved=50), MessageStarted(), path="helper:7/1")
            message = log.state.agents["helper:7/1"].run
            assert message is not None
            log.publish(TextDelta(message.message, "Half"))
            calls = MessageEnded(Message("assistant", calls=(ToolCall("w", "write"),)), "tool_calls")
            await log.record(*STEP, calls, Asked("approval", "w"), path="helper:7/2")
            asked = log.state.seq
            begun = log.state.seq
            await close(log, "cancelled", "cancelled", "stop")
            none = "No result: the run was stopped before this call ended."
            over = TaskEnded("cancelled", cause="cancelled", detail="stop")
            assert [(each.path, each.event) for each in (await made.log(log.thread))[begun:]] == [
                ("helper:7/1", MessageEnded(Message("assistant", "Half"), "cancelled", cost=50)),
                ("helper:7/1", StepEnded()),
                ("helper:7/1", over),
                ("helper:7/2", Answered(asked, "cancelled")),
                ("helper:7/2", ToolEnded("w", none, "cancelled")),
                ("helper:7/2", StepEnded()),
                ("helper:7/2", over),
                ("helper:7", over),
                ("", ToolEnded("h", none, "cancelled")),
                ("", StepEnded()),
                ("", RunEnded("cancelled", "cancelled", "stop")),
            ]

    bounded(main)


def test_what_a_closed_run_had_reserved_counts_as_spent() -> None:
    async def main() -> None:
        async with rig([]) as made:
            log = await made.service.begin(OWNER, Message("user", "go"), RunSpec())
            await log.record(SummaryStarted("tool_calls", 1, 2, reserved=30))
            await log.record(StepStarted(1, "…", reserved=50), MessageStarted())
            await close(log, "cancelled", "cancelled", "stop")
            ended = [each.event for each in await made.log(log.thread)]
            assert SummaryEnded("tool_calls", 1, 2, "cancelled", detail="the run ended", cost=30) in ended
            assert (log.state.spent.reserved, log.state.spent.money) == (0, 80)

    bounded(main)


def test_a_tool_in_a_thread_may_still_finish_and_the_model_is_told() -> None:
    async def main() -> None:
        async with rig([]) as made:
            for language, told in (("en", "it may still finish."), ("zh", "可能仍会执行完毕。")):
                log = await made.service.begin(OWNER, Message("user", "go"), RunSpec(language=language))
                await log.record(*STEP, CALLS, ToolStarted("a", "t", threaded=True))
                await close(log, "cancelled", "cancelled", "stop")
                ends = [each.event for each in await made.log(log.thread) if isinstance(each.event, ToolEnded)]
                assert [told in each.content for each in ends] == [True, False]

    bounded(main)


def test_a_run_that_ends_for_a_question_leaves_it_open_and_says_its_last_words() -> None:
    async def main() -> None:
        async with rig([]) as made:
            log = await made.service.begin(OWNER, Message("user", "go"), RunSpec())
            await log.record(Asked("question", text="Which?"))
            await log.record(Asked("repetition"))
            await close(log, "answer", "question", "Answer me.")
            events = [each.event for each in await made.log(log.thread)]
            assert events[4:] == [
                Answered(4, "cancelled"),
                MessageAdded(Message("assistant", "Answer me."), "engine"),
                RunEnded("answer", "question", "Answer me."),
            ]
            assert list(log.state.questions) == [3]
            assert log.state.transcript[-1].content == "Answer me."

    bounded(main)


def test_an_agent_inside_a_run_ends_no_run() -> None:
    async def main() -> None:
        async with rig([]) as made:
            log = await made.service.begin(OWNER, Message("user", "go"), RunSpec())
            await log.record(TaskStarted(Task(id="1.1", name="a", goal="b"), RunSpec()), path="1.1")
            await close(log.at("1.1"), "failed", "why", "because")
            assert log.state.run is not None
            await close_inside(log, "why", "because")
            assert not log.state.agents
            assert log.state.run is not None

    bounded(main)


def test_every_text_is_there_in_both_languages_with_the_same_values() -> None:
    for name, (english, chinese) in WORDS.items():
        values = {"limit": 7, "detail": "…"}
        assert words(name, "en", **values) == english.format(**values)
        assert words(name, "zh", **values) == chinese.format(**values)
        assert ("7" in words(name, "en", **values)) == ("7" in words(name, "zh", **values))
        assert ("…" in words(name, "en", **values)) == ("…" in words(name, "zh", **values))
        assert any("一" <= letter <= "鿿" for letter in chinese)
        assert english.isascii()
    assert words("cancelled", "fr") == words("cancelled", "en")
