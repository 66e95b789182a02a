"""A running tool asks a person: the call goes on with the answer, and nothing it asked is left open behind it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stepwell.engines.base import Engine
from stepwell.engines.inquiring import inquire
from stepwell.errors import Decided, InputError, StoreFull
from stepwell.events import (
    Answered,
    Asked,
    MessageEnded,
    MessageStarted,
    Recorded,
    RunEnded,
    RunStarted,
    StepStarted,
    Stored,
    TitleChanged,
    ToolEnded,
    ToolStarted,
)
from stepwell.messages import Message, ToolCall
from stepwell.models.base import Model, ModelRequest
from stepwell.models.scripted import Answer, Gate, Reply, call
from stepwell.questions import Inquiry
from stepwell.runs.log import ThreadLog
from stepwell.runs.people import answer, questions, steer
from stepwell.runs.replay import replay
from stepwell.runs.requests import RunRef
from stepwell.specs import RunSpec
from stepwell.state.thread import State
from stepwell.store.base import ThreadInfo
from stepwell.store.memory import MemoryStore
from stepwell.tools.base import Toolbox, ToolContext
from stepwell.tools.mark import tool
from tests.support.runs import OWNER, WAIT, HeldStore, Rig, bounded, chat_engine, events_of, is_, open_store, rig, until

FORM = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def booking() -> Any:
    @tool(effect="idempotent")
    async def book(what: str, context: ToolContext) -> str:
        """Book for somebody whose name it asks for."""
        assert context.ask is not None
        inquiry = Inquiry(kind="elicitation", text=f"Who takes the {what}?", form=FORM)
        found = await context.ask(inquiry)
        if found is None or found.decision != "answer" or found.value is None:
            return f"nobody: {found.decision if found is not None else 'not asked'}"
        return f"{what} for {found.value['name']}"

    return book


class Parts:
    """What a replay is made of."""

    def versions(self, spec: RunSpec) -> dict[str, str]:
        return {}

    def toolbox(self, spec: RunSpec) -> Toolbox:
        return Toolbox([booking()])

    def engine(self, spec: RunSpec, model: Model, toolbox: Toolbox) -> Engine:
        return chat_engine(model, toolbox)


def once(request: ModelRequest) -> Answer:
    last = request.messages[-1]
    return f"Done: {last.content}" if last.role == "tool" else call("book", what="table")


async def asked(made: Rig, ref: RunRef) -> int:
    async with asyncio.timeout(WAIT):
        await until(made.service, ref.thread, is_(Asked))
    (found,) = await questions(made.service, OWNER, ref.thread)
    assert (found.kind, found.tool, found.text) == ("elicitation", "book", "Who takes the table?")
    return found.seq


@pytest.mark.parametrize(
    ("decision", "more", "said"),
    [("answer", {"value": {"name": "Ann"}}, "table for Ann"), ("deny", {}, "nobody: deny")],
)
def test_a_call_goes_on_with_what_somebody_answers(
    tmp_path: Path, decision: str, more: dict[str, Any], said: str
) -> None:
    async def main() -> None:
        async with rig(once, booking(), store=open_store("sqlite", tmp_path)) as made:
            ref = await made.start()
            number = await asked(made, ref)
            with pytest.raises(InputError):
                await answer(made.service, OWNER, ref.thread, number, "answer", value={"name": 7})
            await answer(made.service, OWNER, ref.thread, number, decision, **more)
            log = await made.ended(ref)
            assert [each.content for each in events_of(log, ToolEnded)] == [said]
            assert await replay(log, Parts(), ref.thread) is None

    bounded(main)


def test_where_nobody_can_be_asked_the_tool_is_told_at_once() -> None:
    async def main() -> None:
        async with rig(once, booking()) as made:
            ref = await made.start(people=False)
            log = await made.ended(ref)
            assert [each.content for each in events_of(log, ToolEnded)] == ["nobody: not asked"]
            assert events_of(log, Asked) == []

    bounded(main)


def test_a_call_that_is_made_again_after_a_crash_takes_back_what_it_asked_before(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(once, booking(), store=open_store("sqlite", tmp_path)) as made:
            ref = await made.start()
            first = await asked(made, ref)
        async with rig(once, booking(), store=open_store("sqlite", tmp_path)) as made:
            await made.service.resume()
            async with asyncio.timeout(WAIT):
                await until(made.service, ref.thread, lambda item: is_(Asked)(item) and item.seq > first)
            second = await asked(made, ref)
            with pytest.raises(Decided):
                await answer(made.service, OWNER, ref.thread, first, "deny")
            await answer(made.service, OWNER, ref.thread, second, "answer", value={"name": "Bo"})
            log = await made.ended(ref)
            assert [each.content for each in events_of(log, ToolEnded)] == ["table for Bo"]
            decided = {each.question: each.decision for each in events_of(log, Answered)}
            assert decided == {first: "cancelled", second: "answer"}
            assert await replay(log, Parts(), ref.thread) is None

    bounded(main)


def test_a_cancelled_run_leaves_no_question_of_a_call_open() -> None:
    async def main() -> None:
        async with rig(once, booking()) as made:
            ref = await made.start()
            await asked(made, ref)
            await made.service.cancel(OWNER, ref.thread, ref.run)
            async with asyncio.timeout(WAIT):
                await until(made.service, ref.thread, is_(RunEnded))
            assert await questions(made.service, OWNER, ref.thread) == []

    bounded(main)


@tool(effect="idempotent")
async def twice(what: str, context: ToolContext) -> str:
    """Ask two things, one after the other."""
    assert context.ask is not None
    told = [await context.ask(Inquiry(kind="elicitation", text=f"{what} {number}?")) for number in (1, 2)]
    return f"{what}: {', '.join(each.text for each in told if each is not None)}"


@tool(effect="idempotent", timeout=0.05)
async def hurried(what: str, context: ToolContext) -> str:
    """Ask, and give up soon."""
    assert context.ask is not None
    await context.ask(Inquiry(kind="elicitation", text=f"{what}?"))
    return what


class Asking(Parts):
    """What a replay of calls is made of that ask side by side."""

    def toolbox(self, spec: RunSpec) -> Toolbox:
        return Toolbox([twice, hurried])


def side_by_side(request: ModelRequest) -> Answer:
    names = [("a", "twice"), ("b", "hurried"), ("c", "twice")]
    done = request.messages[-1].role == "tool"
    calls = tuple(ToolCall(id, name, f'{{"what": "{id}"}}') for id, name in names)
    return "Done." if done else Reply(calls=calls)


def test_calls_that_ask_side_by_side_are_told_what_was_meant_for_them_and_replay() -> None:
    async def main() -> None:
        async with rig(side_by_side, twice, hurried) as made:
            ref = await made.start()
            async with asyncio.timeout(WAIT):
                while len(decided) < 4:
                    await until(made.service, ref.thread, is_(ToolEnded))  # the hurried one
                    for each in await questions(made.service, OWNER, ref.thread):
                        decided.append(each.text)
                        await answer(made.service, OWNER, ref.thread, each.seq, "answer", text=f"to {each.text}")
                    await asyncio.sleep(0)
            log = await made.ended(ref)
            results = {each.call: each.content for each in events_of(log, ToolEnded)}
            assert (results["a"], results["c"]) == ("a: to a 1?, to a 2?", "c: to c 1?, to c 2?")
            assert [each.status for each in events_of(log, ToolEnded) if each.call == "b"] == ["timeout"]
            assert await replay(log, Asking(), ref.thread) is None

    decided: list[str] = []
    bounded(main)


def test_what_a_call_asked_is_taken_back_when_somebody_interrupts_it() -> None:
    def brain(request: ModelRequest) -> Answer:
        return "Done." if any(each.role == "tool" for each in request.messages) else call("book", what="table")

    async def main() -> None:
        async with rig(brain, booking()) as made:
            ref = await made.start()
            number = await asked(made, ref)
            await steer(made.service, OWNER, ref.thread, ref.run, Message("user", "Stop."), interrupt=True)
            log = await made.ended(ref)
            ended = next(at for at, each in enumerate(log) if isinstance(each.event, ToolEnded))
            assert log[ended - 1].event == Answered(number, "cancelled")
            assert await replay(log, Parts(), ref.thread) is None

    bounded(main)


def test_a_tool_that_cannot_ask_for_another_process_came_first_asks_again(tmp_path: Path) -> None:
    async def main() -> None:
        gate, other = Gate(), open_store("sqlite", tmp_path)

        @tool(effect="idempotent")
        async def book(what: str, context: ToolContext) -> str:
            """Book for somebody."""
            await gate.wait()
            assert context.ask is not None
            found = await context.ask(Inquiry(kind="elicitation", text="Who takes the table?"))
            return "nobody" if found is None else found.text

        async with rig(once, book, store=open_store("sqlite", tmp_path)) as made:
            ref = await made.start()
            await gate.reached.wait()
            events = await other.read(ref.thread)
            theirs = Recorded(events[-1].seq + 1, 0, ref.run, TitleChanged("theirs"))
            await other.append(ref.thread, [theirs], expect=events[-1].seq)
            gate.set()
            number = await asked(made, ref)
            await answer(made.service, OWNER, ref.thread, number, "answer", text="Bo")
            log = await made.ended(ref)
            assert [each.content for each in events_of(log, ToolEnded)] == ["Bo"]
        await other.close()

    bounded(main)


@pytest.mark.parametrize("full", [False, True])
def test_a_tool_goes_on_with_an_answer_when_that_is_stored_and_not_before(full: bool) -> None:
    async def main() -> None:
        store, heard = HeldStore(), list[str]()

        @tool(effect="idempotent")
        async def book(what: str, context: ToolContext) -> str:
            """Book for somebody."""
            assert context.ask is not None
            found = await context.ask(Inquiry(kind="elicitation", text="Who takes the table?"))
            heard.append("nobody" if found is None else found.text)
            return heard[-1]

        async with rig(once, book, store=store) as made:
            ref = await made.start()
            number = await asked(made, ref)
            store.held = True
            told = asyncio.ensure_future(answer(made.service, OWNER, ref.thread, number, "answer", text="Bo"))
            while not store.waiting:
                await asyncio.sleep(0)
            for _ in range(100):
                await asyncio.sleep(0)
            assert (heard, told.done()) == ([], False)
            store.full = full
            store.release()
            if full:
                with pytest.raises(StoreFull):
                    await told
                store.full = False
                await made.service.resume()
                await until(made.service, ref.thread, lambda item: is_(Asked)(item) and item.seq > number)
                again = await asked(made, ref)
                assert heard == []
                await answer(made.service, OWNER, ref.thread, again, "answer", text="Bo")
            await made.ended(ref)
            assert heard == ["Bo"]

    bounded(main)


def test_a_call_that_is_over_asks_nobody() -> None:
    async def main() -> None:
        log = ThreadLog(MemoryStore(), "t" * 32, State(), OWNER)
        reply = Message("assistant", calls=(ToolCall("a", "book", "{}"),))
        begun: list[Stored] = [
            RunStarted(RunSpec()),
            StepStarted(1, ""),
            MessageStarted(),
            MessageEnded(reply, "tool_calls"),
        ]
        log.make(ThreadInfo("t" * 32, OWNER))
        log.append(*begun, ToolStarted("a", "book"), ToolEnded("a", "done elsewhere"))
        assert await inquire(log, "a", Inquiry(kind="elicitation", text="Who?")) is None
        assert not log.state.questions

    bounded(main)
