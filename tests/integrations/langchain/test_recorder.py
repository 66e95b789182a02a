"""What stands in a thread after, and is seen during, a LangChain agent's run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ToolRetryMiddleware
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from stepwell.config import Config
from stepwell.engines.base import Engine
from stepwell.errors import Busy, ConfigError, InputError, NotFound, RunFailed
from stepwell.events import (
    CallDelta,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    ModelFailed,
    Recorded,
    RunEnded,
    RunStarted,
    StepEnded,
    StepStarted,
    TextDelta,
    ToolEnded,
    ToolProgress,
    ToolStarted,
    Warned,
)
from stepwell.integrations.langchain import CustomAsyncIteratorCallbackHandler, StepwellRecorder, outlet
from stepwell.integrations.outside import OutsideEngine
from stepwell.messages import Message, ToolCall, Usage
from stepwell.runs.channel import Cursor, Item
from stepwell.runs.people import pause, steer
from stepwell.runs.replay import replay
from stepwell.runs.service import RunService
from stepwell.specs import RunSpec
from stepwell.state.thread import State
from stepwell.store.base import Store
from stepwell.store.memory import MemoryStore
from stepwell.store.sqlite import SqliteStore
from stepwell.wiring.replay import ConfigParts
from tests.integrations.langchain.scripted import Says, agent, asks, given, user
from tests.support.audit import audit

OWNER = "ann"


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@tool
async def fail(reason: str) -> str:
    """Fail."""
    raise ValueError(reason)


@asynccontextmanager
async def service(store: Store | None = None) -> AsyncIterator[RunService]:
    async with asyncio.timeout(30):
        made = RunService(store or MemoryStore(), lambda spec: OutsideEngine())
        try:
            yield made
        finally:
            await made.stop()


def bounded(main: Callable[[RunService], Awaitable[None]]) -> None:
    async def body() -> None:
        async with service() as made:
            await main(made)

    asyncio.run(body())


async def logged(made: RunService, recorder: StepwellRecorder) -> tuple[list[Recorded], State]:
    """Return the thread, checked, and its fold."""
    events = await made.events(OWNER, recorder.thread)
    return events, audit(events)


def kinds(events: Sequence[Recorded]) -> list[str]:
    return [type(each.event).__name__ for each in events]


def only(events: Sequence[Recorded], kind: type[Any]) -> list[Any]:
    return [each.event for each in events if isinstance(each.event, kind)]


async def follow(made: RunService, thread: str, until: Callable[[Item], bool]) -> list[Item]:
    seen: list[Item] = []
    async with aclosing(made.follow(OWNER, thread, Cursor())) as batches:
        async for items in batches:
            seen += items
            if any(until(each) for each in items):
                return seen
    return seen


async def begun(recorder: StepwellRecorder) -> None:
    while not recorder.run:
        await asyncio.sleep(0)


def test_a_run_stands_in_the_thread_like_one_of_our_own() -> None:
    async def main(made: RunService) -> None:
        recorder = StepwellRecorder(made, OWNER)
        counted = {"input_tokens": 10, "output_tokens": 4, "total_tokens": 14, "input_token_details": {"cache_read": 6}}
        reply = asks("I add.", ("add", {"a": 1, "b": 2}))
        reply.usage_metadata = counted  # pyright: ignore[reportAttributeAccessIssue]
        script = [reply, AIMessage("It is 3.")]
        await agent(script, add, system="Be brief.").ainvoke(user("1 + 2?"), given(recorder))
        events, state = await logged(made, recorder)
        assert kinds(events) == [
            *("RunStarted", "MessageAdded"),
            *("StepStarted", "MessageStarted", "MessageEnded", "ToolStarted", "ToolEnded", "StepEnded"),
            *("StepStarted", "MessageStarted", "MessageEnded", "StepEnded"),
            "RunEnded",
        ]
        spec = only(events, RunStarted)[0].spec
        assert (spec.agent, spec.face, spec.system, spec.people) == ("langchain", "langchain", "Be brief.", False)
        call = ToolCall("call_1", "add", '{"a": 1, "b": 2}')
        assert list(state.transcript) == [
            Message("system", "Be brief."),
            Message("user", "1 + 2?"),
            Message("assistant", "I add.", calls=(call,)),
            Message("tool", "3", call="call_1"),
            Message("assistant", "It is 3."),
        ]
        assert only(events, MessageEnded)[0].usage == Usage(10, 4, 6)
        assert only(events, ToolStarted) == [ToolStarted("call_1", "add", "write", threaded=True)]
        assert only(events, RunEnded) == [RunEnded("answer")]
        assert state.last is not None
        assert (state.last[0].spent.steps, state.last[0].spent.tool_calls) == (2, 1)

    bounded(main)


def test_whoever_follows_sees_words_calls_and_results_as_they_come() -> None:
    async def main(made: RunService) -> None:
        recorder, goes_on = StepwellRecorder(made, OWNER), asyncio.Event()

        @tool
        async def held(name: str) -> str:
            """Wait for the reader."""
            await goes_on.wait()
            return name

        script = [asks("I call it.", ("held", {"name": "x"})), AIMessage("all done")]
        task = asyncio.create_task(agent(script, held).ainvoke(user("go"), given(recorder)))
        await begun(recorder)
        seen = await follow(made, recorder.thread, lambda item: isinstance(item.event, ToolStarted))
        assert not task.done()
        goes_on.set()
        rest = await follow(made, recorder.thread, lambda item: isinstance(item.event, RunEnded))
        await task
        assert "".join(item.event.text for item in seen if isinstance(item.event, TextDelta)) == "I call it."
        pieces = [item.event for item in seen if isinstance(item.event, CallDelta)]
        assert [(each.index, each.name, each.text) for each in pieces] == [(0, "held", '{"name": "x"}')]
        started = [item.seq for item in rest if isinstance(item.event, MessageStarted)]
        last = [item.event for item in rest if isinstance(item.event, TextDelta) and item.event.message == started[-1]]
        assert "".join(each.text for each in last) == "all done"

    bounded(main)


def test_the_next_run_goes_on_in_the_thread_and_repeats_nothing() -> None:
    async def main(made: RunService) -> None:
        recorder = StepwellRecorder(made, OWNER)
        ran = agent([AIMessage("one"), AIMessage("two")])
        first = await ran.ainvoke(
            {"messages": [("user", "before"), ("ai", "yes?"), ("user", "first")]}, given(recorder)
        )
        await ran.ainvoke({"messages": [*first["messages"], ("user", "second")]}, given(recorder))
        events, state = await logged(made, recorder)
        texts = [each.content for each in state.transcript]
        assert texts == ["before", "yes?", "first", "one", "second", "two"]
        assert [each.source for each in only(events, MessageAdded)] == ["history", "history", "user", "user"]
        assert len(only(events, RunStarted)) == 2

    bounded(main)


def test_tools_side_by_side_and_in_threads_keep_their_brackets() -> None:
    async def main(made: RunService) -> None:
        recorder, together = StepwellRecorder(made, OWNER), threading.Barrier(3)

        @tool
        def meet(number: int) -> str:
            """Wait for the others."""
            together.wait(10)
            return f"met {number}"

        script = [asks("", *(("meet", {"number": number}) for number in range(3))), AIMessage("done")]
        await agent(script, meet).ainvoke(user("go"), given(recorder))
        events, _ = await logged(made, recorder)
        assert {(each.call, each.content) for each in only(events, ToolEnded)} == {
            (f"call_{number + 1}", f"met {number}") for number in range(3)
        }

    bounded(main)


def test_a_tool_that_fails_ends_its_call_and_the_run() -> None:
    async def main(made: RunService) -> None:
        recorder = StepwellRecorder(made, OWNER)
        with pytest.raises(ValueError, match="no disk"):
            await agent([asks("", ("fail", {"reason": "no disk"}))], fail).ainvoke(user("go"), given(recorder))
        events, _ = await logged(made, recorder)
        assert only(events, ToolEnded) == [ToolEnded("call_1", "ValueError: no disk", "failed")]
        assert only(events, RunEnded) == [RunEnded("failed", "outside", "ValueError: no disk")]

    bounded(main)


def test_what_the_model_is_told_of_a_failure_is_what_is_recorded() -> None:
    async def main(made: RunService) -> None:
        recorder = StepwellRecorder(made, OWNER)
        script = [asks("", ("nope", {}), ("add", {"a": "x", "b": 2})), AIMessage("sorry")]
        result = await agent(script, add).ainvoke(user("go"), given(recorder))
        events, _ = await logged(made, recorder)
        told = {each.tool_call_id: each.content for each in result["messages"] if each.type == "tool"}
        ended = only(events, ToolEnded)
        assert {each.call: each.content for each in ended} == told
        assert [each.status for each in ended] == ["failed", "failed"]
        assert only(events, RunEnded) == [RunEnded("answer")]

    bounded(main)


def test_a_model_that_fails_leaves_its_failure_and_ends_the_run() -> None:
    async def main(made: RunService) -> None:
        recorder = StepwellRecorder(made, OWNER)
        with pytest.raises(RuntimeError, match="no model"):
            await agent([RuntimeError("no model")]).ainvoke(user("go"), given(recorder))
        events, _ = await logged(made, recorder)
        assert only(events, ModelFailed) == [ModelFailed("server", "RuntimeError: no model")]
        assert only(events, MessageEnded)[0].stop == "error"
        assert only(events, RunEnded) == [RunEnded("failed", "outside", "RuntimeError: no model")]

    bounded(main)


def test_whoever_cancels_the_run_stops_the_agent() -> None:
    async def main(made: RunService) -> None:
        recorder, goes_on = StepwellRecorder(made, OWNER), asyncio.Event()

        @tool
        async def held(name: str) -> str:
            """Wait for the other."""
            await goes_on.wait()
            return name

        script = [asks("", ("held", {"name": "x"})), AIMessage("never said")]
        task = asyncio.create_task(agent(script, held).ainvoke(user("go"), given(recorder)))
        await begun(recorder)
        await follow(made, recorder.thread, lambda item: isinstance(item.event, ToolStarted))
        await made.cancel(OWNER, recorder.thread, recorder.run)
        await follow(made, recorder.thread, lambda item: isinstance(item.event, RunEnded))
        goes_on.set()
        with pytest.raises(RunFailed, match="cancelled"):
            await task
        events, _ = await logged(made, recorder)
        assert [each.status for each in only(events, ToolEnded)] == ["cancelled"]
        assert only(events, RunEnded)[0].reason == "cancelled"
        assert "never said" not in str(events)

    bounded(main)


def test_whoever_deletes_the_thread_stops_the_agent() -> None:
    async def main(made: RunService) -> None:
        recorder, goes_on = StepwellRecorder(made, OWNER), asyncio.Event()

        async def late() -> AIMessage:
            await goes_on.wait()
            return AIMessage("late")

        task = asyncio.create_task(agent([late]).ainvoke(user("go"), given(recorder)))
        await begun(recorder)
        await made.delete(OWNER, recorder.thread)
        goes_on.set()
        with pytest.raises(RunFailed):
            await task
        with pytest.raises(NotFound):
            await made.events(OWNER, recorder.thread)

    bounded(main)


def test_a_cancelled_agent_leaves_a_cancelled_run() -> None:
    async def main(made: RunService) -> None:
        recorder, forever = StepwellRecorder(made, OWNER), asyncio.Event()

        async def never() -> AIMessage:
            await forever.wait()
            return AIMessage("")

        task = asyncio.create_task(agent([never]).ainvoke(user("go"), given(recorder)))
        await begun(recorder)
        task.cancel()
        await asyncio.wait({task})
        events, _ = await logged(made, recorder)
        assert only(events, RunEnded) == [RunEnded("cancelled", "cancelled", "CancelledError")]

    bounded(main)


def test_a_thread_with_an_open_run_takes_no_second_one() -> None:
    async def main(made: RunService) -> None:
        recorder, goes_on = StepwellRecorder(made, OWNER), asyncio.Event()

        async def late() -> AIMessage:
            await goes_on.wait()
            return AIMessage("late")

        task = asyncio.create_task(agent([late]).ainvoke(user("go"), given(recorder)))
        await begun(recorder)
        with pytest.raises(Busy):
            await agent([AIMessage("x")]).ainvoke(user("go"), given(StepwellRecorder(made, OWNER, recorder.thread)))
        assert await made.resume() == 0, "nobody else takes the run while it is carried out"
        goes_on.set()
        await task
        _, state = await logged(made, recorder)
        assert [each.content for each in state.transcript] == ["go", "late"]

    bounded(main)


def test_a_message_that_waits_has_its_run_after_the_agents() -> None:
    async def main(made: RunService) -> None:
        recorder, goes_on = StepwellRecorder(made, OWNER), asyncio.Event()

        async def late() -> AIMessage:
            await goes_on.wait()
            return AIMessage("late")

        task = asyncio.create_task(agent([late]).ainvoke(user("go"), given(recorder)))
        await begun(recorder)
        ref = await made.start(OWNER, Message("user", "and then?"), RunSpec(), thread=recorder.thread)
        assert ref.queued
        goes_on.set()
        await task
        await follow(made, ref.thread, lambda item: isinstance(item.event, RunEnded) and item.run > recorder.run)
        events, _ = await logged(made, recorder)
        assert [each.queued for each in only(events, RunStarted)] == [0, ref.queued]

    bounded(main)


def test_a_tool_that_is_tried_again_has_the_last_result() -> None:
    async def main(made: RunService) -> None:
        recorder, tries = StepwellRecorder(made, OWNER), iter([False, True])

        @tool
        async def shaky(name: str) -> str:
            """Fail the first time."""
            if not next(tries):
                raise ValueError("not yet")
            return name

        again = ToolRetryMiddleware(max_retries=1, initial_delay=0.0, jitter=False)
        made_agent = agent([asks("", ("shaky", {"name": "x"})), AIMessage("done")], shaky, middleware=[again])
        await made_agent.ainvoke(user("go"), given(recorder))
        events, _ = await logged(made, recorder)
        assert only(events, ToolEnded) == [ToolEnded("call_1", "x")]

    bounded(main)


def test_a_tool_may_answer_with_a_command() -> None:
    async def main(made: RunService) -> None:
        recorder, handler = StepwellRecorder(made, OWNER), CustomAsyncIteratorCallbackHandler(maxsize=0)

        @tool
        async def move(tool_call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
            """Answer with a command."""
            return Command(update={"messages": [ToolMessage("moved", tool_call_id=tool_call_id)]})

        script = [asks("", ("move", {})), AIMessage("done")]
        await agent(script, move).ainvoke(user("go"), given(recorder, handler))
        events, _ = await logged(made, recorder)
        assert only(events, ToolEnded) == [ToolEnded("call_1", "moved")]
        assert '"output_str": "moved"' in [text async for text in handler.aiter()][-1]

    bounded(main)


def test_a_run_whose_process_died_ends_as_orphaned(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(SqliteStore(tmp_path / "threads.db")) as first:
            recorder, forever = StepwellRecorder(first, OWNER), asyncio.Event()

            async def never() -> AIMessage:
                await forever.wait()
                return AIMessage("")

            task = asyncio.create_task(agent([never]).ainvoke(user("go"), given(recorder)))
            await begun(recorder)
            await follow(first, recorder.thread, lambda item: isinstance(item.event, MessageStarted))
            thread = recorder.thread
            async with service(SqliteStore(tmp_path / "threads.db")) as second:
                assert await second.resume() == 1
                await follow(second, thread, lambda item: isinstance(item.event, RunEnded))
                events = await second.events(OWNER, thread)
            audit(events)
            end = only(events, RunEnded)[0]
            assert (end.reason, end.cause) == ("failed", "orphaned")
            task.cancel()
            await asyncio.wait({task})

    asyncio.run(main())


def test_whoever_looks_after_the_file_ends_an_orphan_whatever_engines_it_has() -> None:
    async def main(made: RunService) -> None:
        def none(spec: RunSpec) -> Engine:
            raise ConfigError(f"There is no agent {spec.agent}.")

        spec = RunSpec(agent="langchain", outside="langchain")
        log = await made.begin(OWNER, Message("user", "go"), spec)
        await log.committed()
        other = RunService(made.store, none)
        assert await other.resume() == 1
        await follow(other, log.thread, lambda item: isinstance(item.event, RunEnded))
        end = only(await other.events(OWNER, log.thread), RunEnded)[0]
        assert (end.reason, end.cause) == ("failed", "orphaned")

    bounded(main)


def test_a_recorded_run_replays_and_one_that_was_tampered_with_does_not() -> None:
    async def main(made: RunService) -> None:
        recorder = StepwellRecorder(made, OWNER)
        script = [asks("", ("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4})), AIMessage("done")]
        await agent(script, add).ainvoke(user("go"), given(recorder))
        events, _ = await logged(made, recorder)
        parts = ConfigParts(Config())
        assert await replay(events, parts) is None
        at = next(place for place, each in enumerate(events) if isinstance(each.event, ToolEnded))
        wrong = Recorded(events[at].seq, 0, events[at].run, ToolEnded("call_9", "3"))
        found = await replay([*events[:at], wrong, *events[at + 1 :]], parts)
        assert found is not None
        assert found.seq == at + 1

    bounded(main)


def test_a_run_that_hears_nothing_is_told_nothing() -> None:
    async def main(made: RunService) -> None:
        recorder, goes_on = StepwellRecorder(made, OWNER), asyncio.Event()

        async def late() -> AIMessage:
            await goes_on.wait()
            return AIMessage("late")

        task = asyncio.create_task(agent([late]).ainvoke(user("go"), given(recorder)))
        await begun(recorder)
        thread, run = recorder.thread, recorder.run
        with pytest.raises(InputError, match="carried out by langchain"):
            await steer(made, OWNER, thread, run, Message("user", "hey"))
        with pytest.raises(InputError, match="carried out by langchain"):
            await pause(made, OWNER, thread, run)
        ref = await made.start(OWNER, Message("user", "hey"), RunSpec(), thread=thread, policy="steer")
        assert ref.queued
        goes_on.set()
        await task
        await follow(made, thread, lambda item: isinstance(item.event, RunEnded) and item.run > run)

    bounded(main)


def test_what_another_process_appends_meanwhile_is_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(SqliteStore(tmp_path / "threads.db")) as first:
            recorder, goes_on = StepwellRecorder(first, OWNER), asyncio.Event()

            @tool
            async def held(name: str) -> str:
                """Wait for the other."""
                await goes_on.wait()
                return name

            script = [asks("", ("held", {"name": "x"})), AIMessage("done")]
            task = asyncio.create_task(agent(script, held).ainvoke(user("go"), given(recorder)))
            await begun(recorder)
            await follow(first, recorder.thread, lambda item: isinstance(item.event, ToolStarted))
            async with service(SqliteStore(tmp_path / "threads.db")) as second:
                await second.rename(OWNER, recorder.thread, "renamed")
            goes_on.set()
            await task
            events, state = await logged(first, recorder)
            assert state.title == "renamed"
            assert kinds(events)[-9:-5] == ["ToolStarted", "TitleChanged", "ToolEnded", "StepEnded"]
            assert only(events, RunEnded) == [RunEnded("answer")]

    asyncio.run(main())


def test_what_a_tools_own_model_says_is_the_tools_progress() -> None:
    async def main(made: RunService) -> None:
        recorder = StepwellRecorder(made, OWNER)
        inner = agent([asks("I add", ("add", {"a": 1, "b": 2})), AIMessage("inner words")], add)

        @tool
        async def ask(question: str) -> str:
            """Ask another agent."""
            return (await inner.ainvoke(user(question)))["messages"][-1].text

        script = [asks("", ("ask", {"question": "x"})), AIMessage("done")]
        task = asyncio.create_task(agent(script, ask).ainvoke(user("go"), given(recorder)))
        await begun(recorder)
        seen = await follow(made, recorder.thread, lambda item: isinstance(item.event, RunEnded))
        await task
        shown = [item.event for item in seen if isinstance(item.event, ToolProgress)]
        assert {each.call for each in shown} == {"call_1"}
        assert "".join(each.text for each in shown) == 'I addadd({"a": 1, "b": 2})\ninner words'
        events, _ = await logged(made, recorder)
        assert [each.content for each in only(events, ToolEnded)] == ["inner words"]
        assert len(only(events, StepStarted)) == 2

    bounded(main)


def test_models_that_are_asked_side_by_side_are_steps_one_after_another() -> None:
    async def main(made: RunService) -> None:
        recorder = StepwellRecorder(made, OWNER)
        first, second = asyncio.Event(), asyncio.Event()

        async def slow() -> AIMessage:
            first.set()
            await second.wait()
            return AIMessage("slow")

        async def quick() -> AIMessage:
            await first.wait()
            second.set()
            return AIMessage("quick")

        def joined(found: dict[str, AIMessage]) -> str:
            return found["one"].text + found["two"].text

        chain: Any = RunnableParallel(one=Says(replies=[slow]), two=Says(replies=[quick])) | RunnableLambda(joined)
        assert await chain.ainvoke("go", given(recorder)) == "slowquick"
        events, _ = await logged(made, recorder)
        assert sorted(each.message.content for each in only(events, MessageEnded)) == ["quick", "slow"]
        assert len(only(events, StepEnded)) == 2
        assert only(events, MessageAdded)[-1] == MessageAdded(Message("assistant", "slowquick"), "engine")

    bounded(main)


def test_a_tool_that_no_model_called_is_noted() -> None:
    async def main(made: RunService) -> None:
        recorder = StepwellRecorder(made, OWNER)

        async def work(question: str) -> str:
            return f"it is {await add.ainvoke({'a': 1, 'b': 2})}"

        await RunnableLambda(work).ainvoke("1 + 2?", given(recorder))
        events, state = await logged(made, recorder)
        assert only(events, Warned) == [Warned("tool_without_call", 'add({"a": 1, "b": 2}): 3')]
        assert [each.content for each in state.transcript] == ["1 + 2?", "it is 3"]

    bounded(main)


def test_a_model_without_a_chain_is_a_run_of_its_own() -> None:
    async def main(made: RunService) -> None:
        recorder = StepwellRecorder(made, OWNER)
        await Says(replies=[AIMessage("hello")]).ainvoke("hi", given(recorder))
        events, state = await logged(made, recorder)
        assert [each.content for each in state.transcript] == ["hi", "hello"]
        assert kinds(events)[-1] == "RunEnded"

    bounded(main)


def test_an_agent_that_halts_for_people_ends_its_run_and_the_next_goes_on() -> None:
    async def main(made: RunService) -> None:
        recorder = StepwellRecorder(made, OWNER)

        @tool
        async def ask(question: str) -> str:
            """Ask a person."""
            return interrupt(question)

        ran = agent([asks("", ("ask", {"question": "sure?"})), AIMessage("done")], ask)
        ran.checkpointer = InMemorySaver()
        config = given(recorder) | {"configurable": {"thread_id": "1"}}
        await ran.ainvoke(user("go"), config)
        await ran.ainvoke(Command(resume="yes"), config)
        events, state = await logged(made, recorder)
        assert [each.cause for each in only(events, RunEnded)] == ["interrupted", ""]
        assert [each.content for each in state.transcript if each.role == "user"] == ["go", "yes"]
        assert state.transcript[-1].content == "done"

    bounded(main)


def test_ids_that_come_again_are_told_apart() -> None:
    async def main(made: RunService) -> None:
        recorder = StepwellRecorder(made, OWNER)
        one, two = asks("", ("add", {"a": 1, "b": 2})), asks("", ("add", {"a": 3, "b": 4}))
        result = await agent([one, two, AIMessage("done")], add).ainvoke(user("go"), given(recorder))
        assert [each.content for each in result["messages"] if each.type == "tool"] == ["3", "7"]
        events, _ = await logged(made, recorder)
        assert [(each.call, each.content) for each in only(events, ToolEnded)] == [("call_1", "3"), ("call_1_", "7")]

    bounded(main)


def test_a_synchronous_agent_in_a_thread_is_recorded() -> None:
    async def main(made: RunService) -> None:
        recorder = StepwellRecorder(made, OWNER)
        script = [asks("", ("add", {"a": 1, "b": 2})), AIMessage("done")]
        await asyncio.to_thread(agent(script, add).invoke, user("go"), given(recorder))
        _, state = await logged(made, recorder)
        assert [each.content for each in state.transcript] == ["go", "", "3", "done"]

    bounded(main)


def test_a_synchronous_agent_that_blocks_the_loop_is_recorded_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "PATIENCE", 0.05)

    async def main(made: RunService) -> None:
        recorder = StepwellRecorder(made, OWNER)
        script = [asks("", ("add", {"a": 1, "b": 2})), AIMessage("done")]
        agent(script, add).invoke(user("go"), given(recorder))
        await begun(recorder)
        await follow(made, recorder.thread, lambda item: isinstance(item.event, RunEnded))
        _, state = await logged(made, recorder)
        assert [each.content for each in state.transcript] == ["go", "", "3", "done"]

    bounded(main)


def test_a_recorder_is_made_where_its_service_works() -> None:
    with pytest.raises(ConfigError, match="async function"):
        StepwellRecorder(RunService(MemoryStore(), lambda spec: OutsideEngine()))


@pytest.mark.parametrize(
    "used",
    [
        {"input_tokens": None, "output_tokens": 2.5, "total_tokens": None},
        {"input_tokens": -1, "output_tokens": 2**70, "total_tokens": 0, "input_token_details": None},
    ],
)
def test_counts_that_are_none_do_not_stop_a_run(used: Any) -> None:
    async def main(made: RunService) -> None:
        reply = AIMessage("Hello.")
        reply.usage_metadata = used
        recorder = StepwellRecorder(made, OWNER)
        model = Says(replies=[reply], disable_streaming=True)
        assert (await model.ainvoke("Hi.", given(recorder))).content == "Hello."
        events, _ = await logged(made, recorder)
        assert only(events, MessageEnded)[0].usage == Usage()
        assert only(events, RunEnded)[0].reason == "answer"

    bounded(main)


def test_ids_and_names_that_no_store_holds_are_mended() -> None:
    async def main(made: RunService) -> None:
        call = {"name": "ad\ud800d", "args": {"a": 1, "b": 2}, "id": "c\ud800\0"}
        model = Says(replies=[AIMessage("", tool_calls=[call]), AIMessage("3.")], disable_streaming=True)
        recorder = StepwellRecorder(made, OWNER, agent="a\0b")
        made_of: Any = create_agent(model, [add])
        await made_of.ainvoke(user("1 + 2?"), given(recorder))
        events, _ = await logged(made, recorder)
        assert only(events, MessageEnded)[0].message.calls[0].id == "c\ufffd\ufffd"
        assert only(events, ToolEnded)[0].call == "c\ufffd\ufffd"
        assert only(events, RunEnded)[0].reason == "answer"

    bounded(main)


def test_an_input_that_is_nested_without_end_does_not_stop_a_run() -> None:
    async def main(made: RunService) -> None:
        nested: list[Any] = []
        for _ in range(5000):
            nested = [nested]
        recorder = StepwellRecorder(made, OWNER)
        await RunnableLambda(lambda _: "done").ainvoke({"input": nested}, given(recorder))
        events, _ = await logged(made, recorder)
        assert only(events, MessageAdded)[0].message.content == "[list that is nested too deep]"

    bounded(main)


@pytest.mark.parametrize("wrong", [{"agent": None}, {"language": "de"}])
def test_what_no_log_could_hold_is_refused(wrong: Any) -> None:
    async def main(made: RunService) -> None:
        with pytest.raises(ConfigError, match="`agent` is a name, and `language` is `en` or `zh`"):
            StepwellRecorder(made, OWNER, **wrong)

    bounded(main)
