"""Runs whose final answer has a form: however it is given, it is the answer, once; else the run fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stepwell.agent.replies import output_of
from stepwell.engines.base import Engine
from stepwell.events import (
    CallDelta,
    MessageEnded,
    Recorded,
    RunClaimed,
    RunEnded,
    StepStarted,
    TextDelta,
    ToolEnded,
)
from stepwell.messages import Message
from stepwell.models.base import Failure, Model, ModelProfile
from stepwell.models.offline import OfflineModel
from stepwell.models.openai import OpenAIModel
from stepwell.models.scripted import Gate, ScriptedModel, Step, call, reply
from stepwell.runs.channel import Cursor
from stepwell.runs.replay import replay
from stepwell.specs import Limits, RunSpec
from stepwell.store.base import Store
from stepwell.store.memory import MemoryStore
from stepwell.store.sqlite import SqliteStore
from stepwell.tools.base import Toolbox
from stepwell.tools.mark import tool
from stepwell.wiring.engine import EngineMaker
from tests.support.endpoint import Endpoint, Reply, Request, text
from tests.support.runs import WAIT, Rig, answer_of, bounded, end_of, events_of, is_, until


class Total(msgspec.Struct):
    """The sum."""

    total: int
    parts: list[int] = []


FORM = msgspec.structs.asdict(output_of(Total).schema)
GOOD, BAD = '{"total":3}', '{"total":"three"}'
ANSWERED = RunEnded("answer")


@tool(effect="pure")
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Asking(Rig):
    """A service whose runs are put together as programs' runs are."""

    def assemble(self, spec: RunSpec) -> Engine:
        return self.engine(spec, self.model, self.toolbox)

    def engine(self, spec: RunSpec, model: Model, toolbox: Toolbox) -> Engine:
        return EngineMaker(spec, model, toolbox, None)(spec)

    def versions(self, spec: RunSpec) -> dict[str, str]:
        return {}

    def toolbox_of(self, spec: RunSpec) -> Toolbox:
        return self.toolbox

    async def over(self, **spec: Any) -> list[Recorded]:
        log = await self.ended(await self.start(output=FORM, **spec))
        await self.service.stop(0.0)
        await self.check(log)
        return log

    async def check(self, log: Sequence[Recorded]) -> None:
        """Replay a log, whole and cut after each event."""
        for end in range(1, len(log) + 1):
            async with asyncio.timeout(WAIT):
                assert await replay(log[:end], _Parts(self)) is None, f"cut after {log[end - 1]}"


class _Parts:
    """What engines of a replay are made of."""

    def __init__(self, rig: Asking) -> None:
        self._rig = rig

    def versions(self, spec: RunSpec) -> dict[str, str]:
        return {}

    def toolbox(self, spec: RunSpec) -> Toolbox:
        return self._rig.toolbox

    def engine(self, spec: RunSpec, model: Model, toolbox: Toolbox) -> Engine:
        model.profile = self._rig.model.profile
        return self._rig.engine(spec, model, toolbox)


def play(
    script: list[Step] | Model, *tools: Any, store: Store | None = None, **spec: Any
) -> tuple[list[Recorded], Any]:
    out: list[tuple[list[Recorded], Any]] = []

    async def main() -> None:
        made = Asking(store or MemoryStore(), script, tools)
        log = await made.over(**spec)
        out.append((log, made.asked if isinstance(made.model, ScriptedModel) else []))

    bounded(main)
    return out[0]


def final(text: str) -> str:
    return f"Thought: I know.\nFinal Answer: {text}"


WAYS: dict[str, tuple[Step, dict[str, Any]]] = {
    "a call of its name": (reply("", call("Total", total=3)), {}),
    "a call of its name that stops as text does": (reply("", call("Total", total=3), stop="stop"), {}),
    "a call with text beside it": (reply("Here it is.", call("Total", total=3)), {}),
    "plain JSON": (GOOD, {}),
    "fenced JSON": (f"```json\n{GOOD}\n```", {}),
    "JSON with line breaks": ('{\n  "total": 3\n}', {}),
    "react": (final(GOOD), {"dialect": "react"}),
    "react, fenced": (final(f"```json\n{GOOD}\n```"), {"dialect": "react"}),
    "react, words around it": (final(f"The result is {GOOD}."), {"dialect": "react"}),
    "react, no form of the dialect": (GOOD, {"dialect": "react"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_of_the_form_is_the_answer_however_it_is_given(way: str) -> None:
    answer, spec = WAYS[way]
    log, asked = play([answer], **spec)
    assert end_of(log) == ANSWERED
    assert json.loads(answer_of(log)) == {"total": 3}
    (ended,) = events_of(log, MessageEnded)
    assert ended.message.calls == ()
    assert len(asked) == 1
    (started,) = events_of(log, StepStarted)
    assert started.reply == "Total"


@pytest.mark.parametrize("dialect", ["", "react"])
def test_tools_can_be_used_before_the_answer(dialect: str) -> None:
    native: list[Step] = [reply("I add.", call("add", a=1, b=2)), reply("", call("Total", total=3, parts=[1, 2]))]
    react: list[Step] = [
        'Thought: I add.\nAction: add\nAction Input: {"a": 1, "b": 2}',
        final('{"total": 3, "parts": [1, 2]}'),
    ]
    log, asked = play(react if dialect else native, add, dialect=dialect, tools=("add",))
    assert end_of(log) == ANSWERED
    assert json.loads(answer_of(log)) == {"total": 3, "parts": [1, 2]}
    assert [each.content for each in events_of(log, ToolEnded)] == ["3"]
    if not dialect:
        assert [each.name for each in asked[0].tools] == ["add", "Total"]
        assert asked[0].settings.tool_choice == ""


def test_a_reply_of_the_form_beside_calls_of_tools_is_no_answer_yet() -> None:
    both = reply("", call("Total", total=0), call("add", a=1, b=2))
    log, _ = play([both, reply("", call("Total", total=3))], add, tools=("add",))
    assert end_of(log) == ANSWERED
    assert json.loads(answer_of(log)) == {"total": 3}
    first, _ = events_of(log, MessageEnded)
    assert [each.name for each in first.message.calls] == ["add"]


REPAIRS: dict[str, tuple[Step, Step, dict[str, Any]]] = {
    "a call with a wrong field": (reply("", call("Total", total="three")), reply("", call("Total", total=3)), {}),
    "text in place of a call": ("It is three.", reply("", call("Total", total=3)), {}),
    "text, then JSON": ("It is three.", GOOD, {}),
    "JSON with a wrong field": (BAD, GOOD, {}),
    "broken JSON": ('{"total": 3', GOOD, {}),
    "react": (final("It is three."), final(GOOD), {"dialect": "react"}),
    "react, a wrong field": (final(BAD), final(f"```\n{GOOD}\n```"), {"dialect": "react"}),
    "react, no form of the dialect": ("It is three.", GOOD, {"dialect": "react"}),
}


@pytest.mark.parametrize("way", REPAIRS)
def test_an_answer_that_does_not_fit_is_asked_for_once_more(way: str) -> None:
    bad, good, spec = REPAIRS[way]
    log, asked = play([bad, good], add, tools=("add",), **spec)
    assert end_of(log) == ANSWERED
    assert json.loads(answer_of(log)) == {"total": 3}
    first, second = events_of(log, StepStarted)
    assert (first.repairs, second.repairs) == (False, True)
    assert second.tools == ()
    words = asked[1].messages[-1].content
    assert "total" in words
    assert "schema" in words
    # The broken answer is no part of the conversation that follows.
    assert len(asked[0].messages) <= len(asked[1].messages)


@pytest.mark.parametrize("way", REPAIRS)
def test_an_answer_that_never_fits_ends_the_run_with_its_reason(way: str) -> None:
    bad, _, spec = REPAIRS[way]
    log, asked = play([bad, bad], add, tools=("add",), **spec)
    end = end_of(log)
    assert (end.reason, end.cause) == ("failed", "invalid_output")
    assert "does not fit the form" in end.detail
    assert len(asked) == 2


def test_the_next_turn_of_the_thread_sees_the_mended_answer_only() -> None:
    async def main() -> None:
        made = Asking(MemoryStore(), ["It is three.", reply("", call("Total", total=3)), "Plain again."])
        ref = await made.start(output=FORM)
        await made.ended(ref)
        ref = await made.start("And now?", thread=ref.thread)
        log = await made.ended(ref)
        assert [each.content for each in made.asked[2].messages] == ["go", GOOD, "And now?"]
        assert answer_of(log) == "Plain again."
        await made.service.stop(0.0)
        await made.check(log)

    bounded(main)


def test_a_limit_of_steps_holds_for_repairs() -> None:
    log, _ = play([BAD], limits=Limits(steps=1))
    assert (end_of(log).reason, end_of(log).cause) == ("limit", "steps")


@pytest.mark.parametrize("at", [0, 1])
def test_a_model_that_fails_ends_the_run_as_it_does_without_a_form(at: int) -> None:
    script: list[Step] = [BAD, BAD]
    script[at] = Failure("rate_limit", "enough", 429)
    log, _ = play(script)
    assert (end_of(log).reason, end_of(log).cause) == ("failed", "rate_limit")


def test_an_answer_that_was_cut_at_its_limit_is_told_as_such() -> None:
    log, _ = play([reply('{"total": 3, "parts": [1,', stop="length")])
    assert end_of(log).cause == "length"


def test_a_process_killed_between_a_bad_answer_and_its_repair_comes_to_the_same_end(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        made = Asking(SqliteStore(tmp_path / "s.db"), [BAD, reply(["{", '"total":3}'], gates={1: gate})])
        ref = await made.start(output=FORM)
        await asyncio.wait_for(gate.reached.wait(), WAIT)
        await made.service.stop(0.0)
        made = Asking(SqliteStore(tmp_path / "s.db"), [GOOD])
        assert await made.service.resume() == 1
        log = await made.ended(ref)
        await made.service.stop(0.0)
        assert end_of(log) == ANSWERED
        assert answer_of(log) == GOOD
        assert len(events_of(log, RunClaimed)) == 1
        assert BAD in made.asked[0].messages[-1].content
        await made.check(log)

    bounded(main)


def test_a_process_killed_after_a_bad_answer_was_stored_repairs_it(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        made = Asking(SqliteStore(tmp_path / "s.db"), [BAD, reply(GOOD, gates={0: gate})])
        ref = await made.start(output=FORM)
        await until(made.service, ref.thread, is_(MessageEnded))
        await made.service.stop(0.0)
        for said, cause in (("No.", "invalid_output"),):
            made = Asking(SqliteStore(tmp_path / "s.db"), [said])
            assert await made.service.resume() == 1
            log = await made.ended(ref)
            assert end_of(log).cause == cause
            assert made.asked[0].tools[0].name == "Total"
            await made.service.stop(0.0)
            await made.check(log)

    bounded(main)


@pytest.mark.parametrize("answer", [reply("", call("Total", total=3)), reply(GOOD, cut=2), reply(final(GOOD), cut=2)])
def test_a_reader_of_the_stream_is_shown_the_answer_once(answer: Step) -> None:
    async def main() -> None:
        dialect = "react" if "Final" in str(answer) else ""
        made = Asking(MemoryStore(), [answer])
        log = await made.service.begin("ann", Message("user", "go"), RunSpec(output=FORM, dialect=dialect))
        await made.service.drive(log)
        items = [item.event for item in log.channel.after(Cursor())[0]]
        text = "".join(each.text for each in items if isinstance(each, TextDelta | CallDelta))
        assert text.count("total") == 1
        assert sum(isinstance(each, MessageEnded) for each in items) == 1

    bounded(main)


def test_the_offline_model_says_plainly_that_it_gives_text_only() -> None:
    log, _ = play(OfflineModel())
    assert (end_of(log).reason, end_of(log).cause) == ("failed", "invalid_output")


def test_a_model_without_tool_calls_is_asked_in_words() -> None:
    model = ScriptedModel([GOOD], profile=ModelProfile(window=100_000, native_tools=False))
    log, asked = play(model)
    assert end_of(log) == ANSWERED
    assert not asked[0].tools
    assert '"total"' in asked[0].messages[-1].content


def test_an_endpoint_with_a_json_mode_is_asked_by_its_schema() -> None:
    seen: list[dict[str, Any]] = []

    def take(request: Request) -> Reply:
        seen.append(request.body)
        return text(GOOD)

    async def main() -> None:
        async with Endpoint(take) as endpoint:
            model = OpenAIModel(endpoint.base_url, "m", profile=ModelProfile(json_mode=True))
            made = Asking(MemoryStore(), model)
            log = await made.ended(await made.start("sum", output=FORM))
            await model.close()
            assert (answer_of(log), end_of(log)) == (GOOD, ANSWERED)

    bounded(main)
    (body,) = seen
    assert "tools" not in body
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["total"]
