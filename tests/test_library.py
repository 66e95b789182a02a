"""Stepwell inside a program: an agent as an object."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from base64 import b64decode
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import pytest
from pydantic import BaseModel, field_validator

import stepwell
from stepwell import Agent, Media, Result, RunFailed, tool
from stepwell.errors import Busy, ConfigError, InputError, NotFound
from stepwell.events import (
    CancelRequested,
    MessageAdded,
    MessageEnded,
    Recorded,
    RunClaimed,
    RunEnded,
    RunStarted,
    StepEnded,
    SummaryEnded,
    TextDelta,
    ToolEnded,
)
from stepwell.messages import Image, Usage
from stepwell.models.base import Failure, ModelProfile, ModelRequest
from stepwell.models.scripted import Answer, Gate, ScriptedModel, Step, call, reply
from stepwell.state.run import RunState
from tests.support.audit import audit
from tests.support.runs import bounded, events_of


@tool(effect="pure")
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def log_of(agent: Agent, thread: str = "") -> list[Recorded]:
    store = agent._parts.service().store
    if not thread:
        (info,) = await store.threads("local")
        thread = info.id
    events = await store.read(thread)
    audit(events)
    return events


def echo(request: ModelRequest) -> Answer:
    said = [message.content for message in request.messages if message.role == "user"]
    return " | ".join(said)


@pytest.fixture(params=["memory", "file"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "threads.db" if request.param == "file" else None


# running


def test_a_question_gets_an_answer(path: Path | None) -> None:
    async def main() -> None:
        script: list[Step] = [reply("", call("add", a=1, b=2), usage=Usage(5, 2)), reply("3", usage=Usage(9, 1))]
        async with Agent(ScriptedModel(script), tools=[add], system="Be short.", path=path) as agent:
            result = await agent.run("1 + 2?")
            assert result == Result("3", result.thread, 1, 2, Usage(14, 3))
            log = await log_of(agent, result.thread)
            (started,) = events_of(log, RunStarted)
            assert (started.spec.system, started.spec.tools, started.spec.face) == ("Be short.", ("add",), "library")
            assert [each.content for each in events_of(log, ToolEnded)] == ["3"]

    bounded(main)


def test_a_run_can_be_looked_at_and_forked_while_it_goes_on(path: Path | None) -> None:
    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        @tool(effect="pure")
        async def wait() -> str:
            begun.set()
            await go_on.wait()
            return "waited"

        async with Agent(ScriptedModel([call("wait"), "other", "own"]), tools=[wait], path=path) as agent:
            running = asyncio.create_task(agent.run("Wait."))
            await begun.wait()
            (info,) = await agent._parts.service().threads("local")
            assert (await agent.context(info.id)).step == 1
            fork = await agent.fork(info.id, 3)  # before the model was asked
            assert (await agent.result(fork.thread)).text == "other"
            assert (await agent.diff(info.id, fork.thread)).common == 3
            go_on.set()
            assert (await running).text == "own"

    bounded(main)


def test_a_conversation_goes_on_in_its_thread(path: Path | None) -> None:
    async def main() -> None:
        async with Agent(ScriptedModel(echo), path=path) as agent:
            first = await agent.run("one")
            second = await agent.run("two", thread=first.thread)
            assert (second.text, second.thread, second.run) == ("one | two", first.thread, 8)
            assert (await agent.run("three")).text == "three"
            with pytest.raises(NotFound):
                await agent.run("four", thread="nowhere")

    bounded(main)


def test_images_are_shown_with_the_message() -> None:
    async def main() -> None:
        model = ScriptedModel(["A cat."])
        async with Agent(model) as agent:
            await agent.run("What is this?", images=["https://example.com/cat.png"])
            assert model.calls[0].messages[-1].images == (Image("https://example.com/cat.png"),)

    bounded(main)


def test_an_agent_works_in_one_loop_after_the_other(path: Path | None) -> None:
    agent = Agent(ScriptedModel(echo), path=path)
    first = asyncio.run(agent.run("one"))
    second = asyncio.run(agent.run("two", thread=first.thread))
    assert second.text == "one | two"
    asyncio.run(agent.close())
    asyncio.run(agent.close())


@pytest.mark.parametrize("turns", range(6))
def test_a_run_that_was_under_way_when_its_loop_ended_goes_on_in_the_next(turns: int, path: Path | None) -> None:
    agent = Agent(ScriptedModel(added), tools=[add], path=path)

    async def first() -> str:
        thread = (await agent.send("1")).thread
        for _ in range(turns):
            await asyncio.sleep(0)
        return thread

    async def second() -> str:
        async with asyncio.timeout(20):
            return (await agent.result(thread)).text

    thread = asyncio.run(first())
    assert asyncio.run(second()) == "1001"
    asyncio.run(agent.close())


@pytest.mark.parametrize("closed", [True, False])
def test_loops_of_several_threads_share_an_agent(closed: bool, path: Path | None) -> None:
    agent, loops = Agent(ScriptedModel(echo), path=path), [asyncio.new_event_loop() for _ in range(2)]
    one, other = (loop.run_until_complete(agent.run("one")).thread for loop in loops)
    before = agent._parts._service
    loops[0].close()
    assert loops[1].run_until_complete(agent.run("two", thread=other)).text == "one | two"
    assert agent._parts._service is before  # for what a loop that is still open may have under way
    if closed:
        loops[1].close()
    assert asyncio.run(agent.run("two", thread=one)).text == "one | two"
    assert (agent._parts._service is before) is not closed
    asyncio.run(agent.close())
    loops[1].close()


def added(request: ModelRequest) -> Answer:
    last = request.messages[-1]
    return call("add", a=int(last.content), b=1000) if last.role == "user" else last.content


def test_many_runs_at_once_keep_apart(path: Path | None) -> None:
    def brain(request: ModelRequest) -> Answer:
        last = request.messages[-1]
        return call("add", a=int(last.content), b=1000) if last.role == "user" else last.content

    async def main() -> None:
        async with Agent(ScriptedModel(brain), tools=[add], path=path) as agent:
            results = await asyncio.gather(*(agent.run(str(number)) for number in range(50)))
            assert [result.text for result in results] == [str(1000 + number) for number in range(50)]
            for result in results:
                await log_of(agent, result.thread)

    bounded(main)


def test_a_thread_has_one_run_at_a_time() -> None:
    async def main() -> None:
        gate = Gate()
        async with Agent(ScriptedModel(["one", reply("two", gates={0: gate})])) as agent:
            thread = (await agent.run("first")).thread
            second = asyncio.ensure_future(agent.run("second", thread=thread))
            await gate.reached.wait()
            with pytest.raises(Busy):
                await agent.run("third", thread=thread)
            gate.set()
            assert (await second).text == "two"

    bounded(main)


@pytest.mark.parametrize(
    ("script", "limits", "why"),
    [
        ([Failure("auth", "bad key", 401)], {}, "The model failed: bad key"),
        ([""], {}, "The model returned an empty reply."),
        ([call("add", a=1, b=1)], {"max_steps": 1}, "The run reached its limit of 1 model calls."),
        ([reply("x", gates={0: Gate()})], {"max_seconds": 0.02}, "The run reached its limit of 0.02 seconds."),
        ([], {}, "Stepwell itself failed: ScriptError"),
    ],
)
def test_a_run_without_an_answer_says_why(script: list[Step], limits: dict[str, int], why: str) -> None:
    async def main() -> None:
        async with Agent(ScriptedModel(script), tools=[add], **limits) as agent:  # type: ignore[arg-type]
            with pytest.raises(RunFailed, match=why):
                await agent.run("go")
            await log_of(agent)

    bounded(main)


def test_an_answer_that_was_cut_says_so() -> None:
    async def main() -> None:
        async with Agent(ScriptedModel([reply("It is", stop="length")])) as agent:
            result = await agent.run("go")
            assert (result.text, result.cause) == ("It is", "length")

    bounded(main)


# cancelling


def test_a_cancelled_run_closes_what_it_has_open(path: Path | None) -> None:
    async def main() -> None:
        gate = Gate()
        async with Agent(ScriptedModel([reply(["Half", "."], gates={1: gate}), echo]), path=path) as agent:
            running = asyncio.ensure_future(agent.run("go"))
            await gate.reached.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            log = await log_of(agent)
            assert [each.event for each in log[4:]] == [
                CancelRequested(),
                MessageEnded(log[5].event.message, "cancelled"),  # type: ignore[union-attr]
                StepEnded(),
                RunEnded("cancelled", "cancelled", "The run was cancelled."),
            ]
            assert log[5].event.message.content == "Half"  # type: ignore[union-attr]
            (info,) = await agent._parts.service().store.threads("local")
            assert (await agent.run("again", thread=info.id)).text == "go | again"

    bounded(main)


def test_a_run_in_a_time_limit_of_the_program_is_closed_too(path: Path | None) -> None:
    async def main() -> None:
        started, stopped = asyncio.Event(), asyncio.Event()

        @tool
        async def endless() -> None:
            """Never end."""
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

        async with Agent(ScriptedModel([call("endless")]), tools=[endless], path=path) as agent:

            async def limited() -> None:
                async with asyncio.timeout(None) as scope:
                    running = asyncio.ensure_future(started.wait())
                    running.add_done_callback(lambda _: scope.reschedule(0.0))
                    await agent.run("go")

            with pytest.raises(TimeoutError):
                await limited()
            assert stopped.is_set()
            log = await log_of(agent)
            assert [each.status for each in events_of(log, ToolEnded)] == ["cancelled"]
            assert log[-1].event == RunEnded("cancelled", "cancelled", "The run was cancelled.")

    bounded(main)


# streaming


def test_a_stream_gives_every_event_as_it_happens_and_the_end_last(path: Path | None) -> None:
    async def main() -> None:
        script: list[Step] = [call("add", a=1, b=2), reply(["It ", "is 3."])]
        async with Agent(ScriptedModel(script), tools=[add], path=path) as agent:
            events = [event async for event in agent.stream("1 + 2?")]
            assert [type(events[place]) for place in (0, 1, -1)] == [RunStarted, MessageAdded, RunEnded]
            assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "It is 3."
            stored = [each.event for each in await log_of(agent)]
            assert [event for event in events if type(event) in {type(each) for each in stored}] == stored

    bounded(main)


def test_a_stream_of_a_failing_run_ends_with_the_failure() -> None:
    async def main() -> None:
        async with Agent(ScriptedModel([Failure("server", "down", 500)])) as agent:
            events = [event async for event in agent.stream("go")]
            assert events[-1] == RunEnded("failed", "server", "The model failed: down")
            with pytest.raises(NotFound):
                await anext(agent.stream("go", thread="nowhere"))

    bounded(main)


def test_leaving_a_stream_early_does_not_stop_the_run(path: Path | None) -> None:
    async def main() -> None:
        gate, thread = Gate(), ""
        script: list[Step] = ["one", reply(["Half", " and whole"], gates={1: gate}), echo]
        async with Agent(ScriptedModel(script), path=path) as agent:
            thread = (await agent.run("first")).thread
            async with aclosing(agent.stream("second", thread=thread)) as events:
                async for event in events:
                    if isinstance(event, TextDelta):
                        break
            with pytest.raises(Busy):
                await agent.run("third", thread=thread)
            async with aclosing(agent._parts.service().follow("local", thread)) as batches:
                gate.set()
                ends = 0
                async for items in batches:
                    ends += sum(item.ends_run for item in items)
                    if ends == 2:
                        break
            log = await log_of(agent, thread)
            assert events_of(log, MessageEnded)[-1].message.content == "Half and whole"
            assert (await agent.run("third", thread=thread)).text == "first | second | third"

    bounded(main)


# files


def test_threads_in_a_file_outlive_the_agent(tmp_path: Path) -> None:
    async def main() -> None:
        async with Agent(ScriptedModel(echo), path=tmp_path / "threads.db") as agent:
            first = await agent.run("one")
        async with Agent(ScriptedModel(echo), path=str(tmp_path / "threads.db")) as agent:
            assert (await agent.run("two", thread=first.thread)).text == "one | two"

    bounded(main)


def test_an_unfinished_run_is_finished_by_the_next_agent(tmp_path: Path) -> None:
    async def main() -> None:
        gate, thread = Gate(), ""
        async with Agent(ScriptedModel([reply(["Half", "."], gates={1: gate})]), path=tmp_path / "t.db") as agent:
            async with aclosing(agent.stream("go")) as events:
                async for event in events:
                    if isinstance(event, TextDelta):
                        break
            (info,) = await agent._parts.service().store.threads("local")
            await agent._parts.service().stop(0.0)
        async with Agent(ScriptedModel(["Whole."]), path=tmp_path / "t.db") as agent:
            with pytest.raises(Busy):
                await agent.run("again", thread=info.id)
            assert await agent.resume() == 1
            assert await agent.resume() == 0
            async with aclosing(agent._parts.service().follow("local", info.id)) as batches:
                async for items in batches:
                    if any(item.ends_run for item in items):
                        break
            log = await log_of(agent, thread)
            assert len(events_of(log, RunClaimed)) == 1
            assert events_of(log, MessageEnded)[-1].message.content == "Whole."

    bounded(main)


def test_two_agents_on_one_file_do_not_take_each_others_runs(tmp_path: Path) -> None:
    async def main() -> None:
        gate, ran = Gate(), list[str]()

        @tool
        async def save() -> str:
            """Save."""
            ran.append("saved")
            await gate.wait()
            return "saved"

        def brain(request: ModelRequest) -> Answer:
            return "Done" if request.messages[-1].role == "tool" else call("save")

        path = tmp_path / "threads.db"
        async with (
            Agent(ScriptedModel(brain), tools=[save], path=path) as one,
            Agent(ScriptedModel(brain), tools=[save], path=path) as other,
        ):
            running = asyncio.ensure_future(one.run("go"))
            await gate.reached.wait()
            (info,) = await other._parts.service().store.threads("local")
            with pytest.raises(Busy):
                await other.run("again", thread=info.id)
            assert len(await log_of(one, info.id)) == 6
            gate.set()
            assert (await running).text == "Done"
            assert (await other.run("again", thread=info.id)).text == "Done"
            assert ran == ["saved"] * 2

    bounded(main)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("theirs", ["title", "run"])
def test_a_run_begins_anew_where_another_process_appended_first_and_no_run_is_open(
    theirs: str, streamed: bool, tmp_path: Path
) -> None:
    async def main() -> None:
        path = tmp_path / "threads.db"
        async with (
            Agent(ScriptedModel(lambda request: "mine"), path=path) as one,
            Agent(ScriptedModel(lambda request: "theirs"), path=path) as other,
        ):
            thread = (await one.run("first")).thread
            async with one._parts.service().using("local", thread):  # what it knows of the thread is old when it begins
                if theirs == "run":
                    await other.run("between", thread=thread)
                else:
                    await other._parts.service().rename("local", thread, "Another title")
                if streamed:
                    events = [event async for event in one.stream("second", thread=thread)]
                    assert isinstance(events[-1], RunEnded)
                else:
                    assert (await one.run("second", thread=thread)).text == "mine"
            log = await log_of(other, thread)
            said = ["first", "between", "second"] if theirs == "run" else ["first", "second"]
            assert [each.message.content for each in events_of(log, MessageAdded)] == said
            assert events_of(log, MessageEnded)[-1].message.content == "mine"

    bounded(main)


@pytest.mark.parametrize("over", [True, False])
def test_a_run_that_another_agent_took_over_is_theirs_and_so_is_the_answer(over: bool, tmp_path: Path) -> None:
    async def main() -> None:
        mine, theirs = Gate(), Gate()
        path = tmp_path / "threads.db"

        def brain(request: ModelRequest) -> Answer:
            return "before" if len(request.messages) == 1 else reply("mine", gates={0: mine})

        async with (
            Agent(ScriptedModel(brain), path=path) as one,
            Agent(ScriptedModel([reply("theirs", gates={0: theirs})]), path=path) as other,
        ):
            thread = (await one.run("first")).thread
            running = asyncio.ensure_future(one.run("go", thread=thread))
            await mine.reached.wait()
            while len(await log_of(other, thread)) < 11:  # with the start of its message
                await asyncio.sleep(0)
            assert await other.resume() == 1
            await theirs.reached.wait()
            while not events_of(await log_of(other, thread), RunClaimed):
                await asyncio.sleep(0)
            if not over:
                mine.set()
                with pytest.raises(Busy, match="Another process"):
                    await running
            theirs.set()
            async with aclosing(other._parts.service().follow("local", thread)) as batches:
                async for items in batches:
                    if any(item.ends_run and item.run > 1 for item in items):
                        break
            if over:
                mine.set()
                assert (await running).text == "theirs"
            log = await log_of(other, thread)
            assert events_of(log, MessageEnded)[-1].message.content == "theirs"
            assert (await one.run("again", thread=thread)).text == "mine"

    bounded(main)


def test_wrong_arguments_are_named() -> None:
    for arguments, named in (
        ({"model": "qwen3"}, "base_url"),
        ({"dialect": "morse"}, "morse"),
        ({"tools": [add, add]}, "add"),
        ({"max_steps": 5.0}, "limits.steps"),
        ({"max_seconds": float("inf")}, "infinite"),
        ({"temperature": "high"}, "temperature"),
    ):
        with pytest.raises(ConfigError, match=named):
            Agent(**arguments)  # type: ignore[arg-type]


# what a program imports


def test_importing_an_agent_loads_nothing_heavy() -> None:
    heavy = ("msgspec", "aiohttp", "pydantic", "fastapi", "apsw", "asyncio", "typer", "rich", "uvicorn", "mcp")
    program = f"import sys; from stepwell import Agent, tool; print(*(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert set(done.stdout.split()) <= {"asyncio"}


def test_a_first_run_without_an_endpoint_loads_no_client_and_no_server() -> None:
    program = (
        "import asyncio, sys\nfrom stepwell import Agent\nasyncio.run(Agent().run('hello'))\n"
        "print(*({'aiohttp', 'pydantic', 'fastapi', 'apsw', 'typer', 'rich', 'uvicorn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == []


def test_the_front_of_the_package_has_what_it_names_and_nothing_else() -> None:
    assert {name: getattr(stepwell, name).__name__ for name in stepwell.__all__} == {
        name: name for name in stepwell.__all__
    }
    with pytest.raises(AttributeError, match="no attribute 'Server'"):
        _ = stepwell.Server  # type: ignore[attr-defined]


# answers of a given form


class Sum(BaseModel):
    """A sum."""

    total: int
    terms: list[int] = []


@dataclass
class Total:
    total: int


class Totals(TypedDict):
    total: int


class Record(msgspec.Struct):
    total: int


SCHEMA = {"title": "Sum", "type": "object", "properties": {"total": {"type": "integer"}}, "required": ["total"]}


@pytest.mark.parametrize(
    ("form", "value"),
    [
        (Sum, Sum(total=3)),
        (Total, Total(3)),
        (Totals, {"total": 3}),
        (Record, Record(3)),
        (SCHEMA, {"total": 3}),
    ],
    ids=["pydantic", "dataclass", "typed dict", "struct", "schema"],
)
def test_an_answer_can_be_an_object(form: object, value: object) -> None:
    name = form["title"] if isinstance(form, dict) else getattr(form, "__name__", "")

    async def main() -> None:
        script: list[Step] = [reply("", call("add", a=1, b=2)), reply("", call(name, total=3)), "plain"]
        async with Agent(ScriptedModel(script), tools=[add]) as agent:
            result = await agent.run("1 + 2?", output=form)
            assert (result.output, result.text, result.steps) == (value, '{"total":3}', 2)
            after = await agent.run("Thanks.", thread=result.thread)
            assert (after.text, after.output) == ("plain", None)

    bounded(main)


def test_an_answer_of_another_form_is_asked_for_once_more_and_then_fails() -> None:
    async def main() -> None:
        mended: list[Step] = ["three", reply("", call("Sum", total=3))]
        async with Agent(ScriptedModel(mended)) as agent:
            assert (await agent.run("1 + 2?", output=Sum)).output == Sum(total=3)
        broken: list[Step] = [reply("", call("Sum", total="many")), "three"]
        async with Agent(ScriptedModel(broken)) as agent:
            with pytest.raises(RunFailed) as failed:
                await agent.run("1 + 2?", output=Sum)
            assert failed.value.cause == "invalid_output"
            (ended,) = events_of(await log_of(agent), RunEnded)
            assert ended.cause == "invalid_output"

    bounded(main)


def test_an_answer_that_its_type_refuses_is_an_invalid_output() -> None:
    class Even(BaseModel):
        number: int

        @field_validator("number")
        @classmethod
        def _even(cls, value: int) -> int:
            if value % 2:
                raise ValueError("it is odd")
            return value

    async def main() -> None:
        async with Agent(ScriptedModel([reply("", call("Even", number=3))])) as agent:
            with pytest.raises(RunFailed, match="it is odd") as failed:
                await agent.run("A number?", output=Even)
            assert failed.value.cause == "invalid_output"

    bounded(main)


def test_a_streamed_answer_has_the_form_too() -> None:
    async def main() -> None:
        async with Agent(ScriptedModel([reply("", call("Sum", total=3))])) as agent:
            events = [event async for event in agent.stream("1 + 2?", output=Sum)]
            (ended,) = [event for event in events if isinstance(event, MessageEnded)]
            assert ended.message.content == '{"total":3}'
            assert events[-1] == RunEnded("answer")

    bounded(main)


def test_what_describes_no_answer_is_refused_before_anything_happens() -> None:
    async def main() -> None:
        model = ScriptedModel([])
        async with Agent(model, tools=[add]) as agent:
            for wrong in (7, {"type": "object"}, {**SCHEMA, "title": "add"}):
                with pytest.raises(ConfigError):
                    await agent.run("1 + 2?", output=wrong)
            assert await agent._parts.service().threads("local") == []
            assert model.calls == []

    bounded(main)


# what the model knows


def test_a_fact_that_is_pinned_stays_before_the_model(path: Path | None) -> None:
    def brain(request: ModelRequest) -> Answer:
        return request.messages[0].content

    async def main() -> None:
        async with Agent(ScriptedModel(brain), system="Be short.", path=path) as agent:
            first = await agent.run("hi")
            assert first.text == "Be short."
            await agent.pin(first.thread, "The code is 4711.")
            second = await agent.run("hi", thread=first.thread)
            assert second.text.startswith("Be short.")
            assert "4711" in second.text
            found = await agent.context(first.thread)
            assert (found.run, found.step, found.proved) == (second.run, 1, True)
            assert "pins" in {part.name for part in found.parts}
            with pytest.raises(NotFound):
                await agent.pin("nowhere", "x")
            with pytest.raises(InputError):
                await agent.pin(first.thread, "")

    bounded(main)


def test_an_image_that_is_none_or_too_large_is_refused() -> None:
    huge = "iVBORw0KGgoAAAANSUhEUgAAnEAAAHUwCAIAAAAAAAAA"  # the header of a PNG file of 40,000 x 30,000 pixels

    async def main() -> None:
        async with Agent(ScriptedModel([])) as agent:
            for wrong in ("x.png", "http://x.test/y.png", f"data:image/png;base64,{huge}"):
                with pytest.raises(InputError) as refused:
                    await agent.run("Look", images=["https://x.test/y.png", wrong])
                assert refused.value.field == "images.1"

    bounded(main)


def test_a_tool_can_show_an_image() -> None:
    header = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAoAAAAKCAIAAAAAAAAA")  # of 10 x 10 pixels

    @tool(effect="pure")
    def draw() -> Media:
        """Draw."""
        return Media(header, "image/png")

    async def main() -> None:
        model = ScriptedModel([reply("", call("draw")), "A dot."], profile=ModelProfile(images=True, window=50_000))
        async with Agent(model, tools=[draw]) as agent:
            await agent.run("Draw a dot.")
            (image,) = [each for message in model.calls[1].messages for each in message.images]
            assert b64decode(image.url.partition(",")[2]) == header

    bounded(main)


def test_another_model_is_asked_about_images_and_another_makes_summaries() -> None:
    async def main() -> None:
        seeing = ScriptedModel(["A cat."], profile=ModelProfile(images=True))
        blind = ScriptedModel(["Hello."], profile=ModelProfile(window=50_000))
        async with Agent(blind, image_model=seeing) as agent:
            result = await agent.run("What is this?", images=["https://x.test/cat.png"])
            assert result.text == "A cat."
            assert (await agent.context(result.thread)).model == "image_model"
            assert (await agent.run("hi")).text == "Hello."

    bounded(main)


@pytest.mark.parametrize("wanted", [True, False])
def test_summaries_are_made_by_their_own_model_or_not_at_all(wanted: bool) -> None:
    @tool(effect="pure")
    def look(n: int) -> str:
        """Look at something."""
        return f"result {n} " + "words and more words " * 40

    asked = 0

    def brain(_: ModelRequest) -> Answer:
        nonlocal asked
        asked += 1
        return reply("", call("look", n=asked)) if asked < 40 else reply("done")

    async def main() -> None:
        helper = ScriptedModel(lambda _: '{"summary": "It looked.", "intentions": "looking"}')
        model = ScriptedModel(brain, profile=ModelProfile(window=6000))
        async with Agent(model, tools=[look], summaries=wanted, summary_model=helper) as agent:
            result = await agent.run("Look around.")
            assert (result.text, asked) == ("done", 40)
            assert bool(helper.calls) == wanted
            made = [each for each in events_of(await log_of(agent), SummaryEnded) if each.status == "ok"]
            assert bool(made) == wanted

    bounded(main)


def test_a_run_that_is_over_is_out_of_memory_at_once() -> None:
    def runs() -> int:
        return sum(isinstance(each, RunState) for each in gc.get_objects())

    async def main() -> None:
        async with Agent(ScriptedModel(adds_once), tools=[add]) as agent:
            await agent.run("1 + 2?")
            gc.collect()
            gc.disable()
            try:
                before = runs()
                for _ in range(5):
                    await agent.run("1 + 2?")
                assert runs() == before, "nothing of a run may go round in a circle"
            finally:
                gc.enable()

    bounded(main)


def adds_once(request: ModelRequest) -> Answer:
    return reply("3") if request.messages[-1].role == "tool" else reply("", call("add", a=1, b=2))


@pytest.mark.parametrize(
    ("engine", "tasks", "named"), [("chats", None, "engine"), (None, None, "engine"), ("plan", 5, "tasks")]
)
def test_what_no_log_could_hold_is_refused_before_anything_is_stored(
    tmp_path: Path, engine: Any, tasks: Any, named: str
) -> None:
    async def main() -> None:
        path = tmp_path / "threads.db"
        async with Agent(ScriptedModel([]), tasks=tasks, path=path) as agent:
            with pytest.raises(ConfigError, match=named):
                await agent.run("Hello.", engine=engine)
            with pytest.raises(ConfigError, match=named):
                await agent.send("Hello.", engine=engine)
        assert not path.exists()

    asyncio.run(main())


@pytest.mark.parametrize(("name", "value"), [("language", "de"), ("ask", "maybe"), ("model", 5)])
def test_an_argument_of_no_use_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"`{name}` is .* not "):
        Agent(**{name: value})
