"""A running tool asks a person: the call goes on with the answer, and nothing it asked is left open behind it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stepwell.engines.base import Engine
from stepwell.errors import Decided, InputError
from stepwell.events import Answered, Asked, RunEnded, ToolEnded
from stepwell.models.base import Model, ModelRequest
from stepwell.models.scripted import Answer, call
from stepwell.questions import Inquiry
from stepwell.runs.people import answer, questions
from stepwell.runs.replay import replay
from stepwell.runs.requests import RunRef
from stepwell.specs import RunSpec
from stepwell.tools.base import Toolbox, ToolContext
from stepwell.tools.mark import tool
from tests.support.runs import OWNER, WAIT, Rig, bounded, chat_engine, events_of, is_, open_store, rig, until

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
