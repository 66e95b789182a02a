"""Closing a run closes everything that it has open, in one append."""

from __future__ import annotations

import pytest

from stepwell.engines.base import close
from stepwell.engines.words import WORDS, words
from stepwell.events import (
    MessageEnded,
    MessageStarted,
    RunEnded,
    StepEnded,
    StepStarted,
    Stored,
    TextDelta,
    ToolEnded,
    ToolStarted,
)
from stepwell.messages import Message, ToolCall
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
