"""What a replay finds: nothing in logs of all shapes, and the first thing that changed in all others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from stepwell import prompts
from stepwell.engines import chat, words
from stepwell.engines.base import Engine
from stepwell.errors import ConfigError, ReplayDiffers, ToolError
from stepwell.events import (
    CancelRequested,
    MessageAdded,
    MessageEnded,
    ModelFailed,
    Recorded,
    RunClaimed,
    RunEnded,
    Steered,
    StepEnded,
    StepStarted,
    Stored,
    ToolEnded,
    ToolStarted,
)
from stepwell.messages import Message, Usage
from stepwell.models.base import Failure, Model
from stepwell.models.scripted import Gate, ScriptedModel, Step, call, reply
from stepwell.runs.channel import Cursor
from stepwell.runs.driver import Assemble
from stepwell.runs.people import steer
from stepwell.runs.replay import Difference, replay
from stepwell.runs.replay_parts import Sealed
from stepwell.runs.service import NewThread, RunService
from stepwell.specs import Limits, RunSpec
from stepwell.store.sqlite import SqliteStore
from stepwell.tools.base import Prepared, Tool, Toolbox, ToolContext, as_tool
from stepwell.tools.mark import tool
from stepwell.wiring.engine import EngineMaker
from stepwell.wiring.parts import engine_versions, make_dialect

OWNER = "local"


class Bench:
    """Tools that tests can hold, and how often each ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.at = {name: Gate() for name in ("look", "save", "deaf")}
        """A tool waits here if its argument is `wait`."""
        self.first = asyncio.Event()
        self.tools: list[Tool] = [
            as_tool(each)
            for each in (self._look(), self._save(), self._broken(), self._slow(), self._late(), self._deaf())
        ]

    def _look(self) -> Callable[..., Any]:
        @tool(effect="pure")
        async def look(what: str) -> str:
            """Look something up."""
            self.ran.append(f"look {what}")
            if what == "wait":
                await self.at["look"].wait()
            return f"found {what}"

        return look

    def _save(self) -> Callable[..., Any]:
        @tool
        async def save(what: str) -> dict[str, str]:
            """Write something."""
            self.ran.append(f"save {what}")
            if what == "wait":
                await self.at["save"].wait()
            return {"saved": what}

        return save

    def _broken(self) -> Callable[..., Any]:
        @tool(effect="idempotent")
        async def broken() -> str:
            """Fail."""
            raise ToolError("it is broken")

        return broken

    def _slow(self) -> Callable[..., Any]:
        @tool(effect="pure", timeout=0.01)
        async def slow() -> None:
            """Take too long."""
            await asyncio.Event().wait()

        return slow

    def _deaf(self) -> Callable[..., Any]:
        @tool(effect="pure")
        async def deaf() -> str:
            """Go on when it is cancelled."""
            self.at["deaf"].reached.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "not yet"
            return ""

        return deaf

    def _late(self) -> Callable[..., Any]:
        @tool(effect="pure")
        async def ordered(place: int) -> int:
            """End second if called first."""
            if place == 1:
                await self.first.wait()
            else:
                self.first.set()
            return place

        return ordered


class Parts:
    """What engines of these tests are made of."""

    def __init__(self, bench: Bench) -> None:
        self.box = Toolbox(bench.tools)

    def versions(self, spec: RunSpec) -> dict[str, str]:
        return engine_versions(make_dialect(spec.dialect, spec.prompt, spec.language) if spec.dialect else None)

    def toolbox(self, spec: RunSpec) -> Toolbox:
        return self.box

    def engine(self, spec: RunSpec, model: Model, toolbox: Toolbox) -> Engine:
        return EngineMaker(spec, model, toolbox, None)(spec)


class Desk:
    """One database, its services one after another, and one thread in it."""

    def __init__(self, folder: Path, **spec: Any) -> None:
        self.path = folder / "stepwell.db"
        self.bench = Bench()
        self.parts = Parts(self.bench)
        plain = RunSpec(model="scripted", tools=self.parts.box.names, system="Be brief.", **spec)
        self.spec = msgspec.structs.replace(plain, versions=self.parts.versions(plain))
        self.thread = ""
        self.service: RunService

    def open(self, script: Sequence[Step]) -> ScriptedModel:
        model = ScriptedModel(script)
        self.serve(lambda spec: EngineMaker(spec, model, self.parts.box, None)(spec))
        return model

    def serve(self, assemble: Assemble) -> None:
        self.service = RunService(SqliteStore(self.path), assemble)

    async def start(self, text: str = "go", **more: Any) -> int:
        ref = await self.service.start(OWNER, Message("user", text), self.spec, thread=self.thread, **more)
        self.thread = ref.thread
        return ref.run

    async def until(self, test: Callable[[Recorded], bool]) -> None:
        async with asyncio.timeout(10), aclosing(self.service.follow(OWNER, self.thread, Cursor())) as batches:
            async for items in batches:
                if any(isinstance(item, Recorded) and test(item) for item in items):
                    return

    async def ended(self, run: int) -> None:
        await self.until(lambda item: item.run == run and isinstance(item.event, RunEnded))

    async def crash(self) -> None:
        await self.service.stop(0)

    async def events(self) -> list[Recorded]:
        return await self.service.store.read(self.thread)


Play = Callable[[Desk], Awaitable[None]]


def play(folder: Path, acts: Play, **spec: Any) -> tuple[Desk, list[Recorded]]:
    """Let a thread happen and return it as it stands in the database."""

    async def main() -> tuple[Desk, list[Recorded]]:
        desk = Desk(folder, **spec)
        await acts(desk)
        events = await desk.events()
        await desk.service.stop(0)
        return desk, events

    return asyncio.run(main())


def again(desk: Desk, events: Sequence[Recorded]) -> Difference | None:
    """Replay; a tool that runs, or a wait that does not end, fails the test."""
    before = list(desk.bench.ran)

    async def main() -> Difference | None:
        async with asyncio.timeout(10):
            return await replay(events, desk.parts)

    found = asyncio.run(main())
    assert desk.bench.ran == before
    return found


def script(*steps: Step, **more: Any) -> Play:
    """One run to its end."""

    async def acts(desk: Desk) -> None:
        model = desk.open(steps)
        await desk.ended(await desk.start(**more))
        model.assert_complete()

    return acts


def text_of(raw: str, **more: Any) -> Step:
    return reply(raw, cut=3, **more)


PLAIN: Mapping[str, tuple[Play, dict[str, Any]]] = {
    "an answer": (script(reply("hello", thinking="hm", usage=Usage(3, 4))), {}),
    "characters that no store takes": (
        script(reply("a\0", call("look", what="x")), reply("\ud83d", thinking="\0")),
        {},
    ),
    "a tool and an answer": (script(call("look", what="x"), "it is x"), {}),
    "a tool that writes": (script(reply("one moment", call("save", what="x")), "done"), {}),
    "results that came in another order": (
        script(reply("", call("ordered", place=1), call("ordered", place=2)), "done"),
        {},
    ),
    "calls that are refused": (
        script(reply("", call("look", wrong=1), call("nothing"), call("look", what="x")), "done"),
        {},
    ),
    "tools that fail": (script(reply("", call("broken"), call("slow")), "done"), {}),
    "too many malformed calls": (script(*[call("look", wrong=1)] * 4), {}),
    "a call cut by the token limit": (script(reply("", call("look", what="x"), stop="length"), "done"), {}),
    "a retry": (script(Failure("server", "busy", 503, retry_in=0.1), "at last"), {}),
    "a failure": (script(Failure("rate_limit", "enough", 429)), {}),
    "a failure in the middle": (script(reply("half of", failure=Failure("broken", "cut off"))), {}),
    "an empty reply": (script(""), {}),
    "a withheld reply": (script(reply("x", stop="content_filter")), {}),
    "a reply cut at its limit": (script(reply("x", stop="length")), {}),
    "the limit of steps": (script(*[call("look", what="x")] * 2), {"limits": Limits(steps=2)}),
    "the limit of tool calls": (
        script(call("look", what="x"), reply("", call("look", what="y"), call("look", what="z"))),
        {"limits": Limits(tool_calls=1)},
    ),
    "the limit of tokens": (
        script(reply("", call("look", what="x"), usage=Usage(50, 60))),
        {"limits": Limits(tokens=100)},
    ),
    "earlier messages": (
        script("and again hello", new=NewThread(history=[Message("user", "hi"), Message("assistant", "hello")])),
        {},
    ),
    "Chinese": (script(call("look"), "你好"), {"language": "zh"}),
    "react: a tool and an answer": (
        script(
            text_of("Thought: I look.\nAction: look\nAction Input: x\nObservation: made up"),
            text_of("Thought: now I know\nFinal Answer: it is x"),
        ),
        {"dialect": "react"},
    ),
    "react: thinking apart from the text": (
        script(
            text_of('Action: look\nAction Input: {"what": "x"} and more', thinking="let me see"),
            text_of("Thought: I know\nFinal Answer: x", thinking="good"),
        ),
        {"dialect": "react"},
    ),
    "react: no form at all": (script(text_of("just text", thinking="hm")), {"dialect": "react"}),
    "react: malformed, unknown and cut calls": (
        script(
            text_of('Action: look\nAction Input: {"wrong": 1}'),
            text_of("Action: nothing\nAction Input: x"),
            text_of("Action: look\nAction Inp", stop="length"),
        ),
        {"dialect": "react"},
    ),
    "react: a failure after some text": (
        script(text_of("Thought: I am\nFinal Answer: half", failure=Failure("stall", "no byte"))),
        {"dialect": "react"},
    ),
    "a fault of our own": (script(lambda request: {}[0]), {}),  # type: ignore[arg-type]
}


async def cancelled_answer(desk: Desk) -> None:
    gate = Gate()
    desk.open([reply(("half", " of it"), gates={1: gate})])
    run = await desk.start()
    await asyncio.wait_for(gate.reached.wait(), 10)
    await desk.service.cancel(OWNER, desk.thread, run, "enough")
    await desk.ended(run)
    desk.open(["the rest"])
    await desk.ended(await desk.start("go on"))


async def cancelled_tools(desk: Desk) -> None:
    desk.open([reply("", call("look", what="x"), call("look", what="wait"), call("save", what="wait"))])
    run = await desk.start()
    await desk.until(lambda item: isinstance(item.event, ToolEnded))
    await asyncio.wait_for(desk.bench.at["save"].reached.wait(), 10)
    await desk.service.cancel(OWNER, desk.thread, run)
    await desk.ended(run)


async def cancelled_between_processes(desk: Desk) -> None:
    desk.open([reply(("a", "b"), gates={1: Gate()})])
    run = await desk.start()
    await desk.until(lambda item: isinstance(item.event, StepStarted))
    await desk.crash()
    desk.open([])
    await desk.service.cancel(OWNER, desk.thread, run)
    await desk.ended(run)


async def cancelled_inside_the_answer_of_a_dialect(desk: Desk) -> None:
    gate = Gate()
    desk.open([reply(("Thought: so\nFinal Answer: half", " of it"), gates={1: gate})])
    run = await desk.start()
    await asyncio.wait_for(gate.reached.wait(), 10)
    await desk.service.cancel(OWNER, desk.thread, run)
    await desk.ended(run)


async def cancelled_tool_that_goes_on(desk: Desk) -> None:
    desk.open([call("deaf")])
    run = await desk.start()
    await asyncio.wait_for(desk.bench.at["deaf"].reached.wait(), 10)
    await desk.service.cancel(OWNER, desk.thread, run)
    await desk.ended(run)


async def settings_that_are_gone(desk: Desk) -> None:
    def assemble(spec: RunSpec) -> Engine:
        raise ConfigError("there is no model any more")

    desk.serve(assemble)
    await desk.ended(await desk.start())


async def out_of_time_in_answer(desk: Desk) -> None:
    desk.open([reply(("half", " of it"), gates={1: Gate()})])
    await desk.ended(await desk.start())


async def out_of_time_in_tools(desk: Desk) -> None:
    desk.open([reply("", call("look", what="wait"), call("look", what="x"))])
    await desk.ended(await desk.start())


async def crash_in_answer(desk: Desk) -> None:
    gate = Gate()
    desk.open([call("look", what="x"), reply(("half", " of it"), gates={1: gate})])
    run = await desk.start()
    await asyncio.wait_for(gate.reached.wait(), 10)
    await desk.crash()
    desk.open(["all of it"])
    await desk.service.resume()
    await desk.ended(run)


async def crash_in_tools(desk: Desk) -> None:
    calls = [call("look", what="x"), call("look", what="wait"), call("save", what="wait")]
    desk.open([reply("", *calls)])
    run = await desk.start()
    await desk.until(lambda item: isinstance(item.event, ToolEnded))
    await asyncio.wait_for(desk.bench.at["save"].reached.wait(), 10)
    await desk.crash()
    desk.bench.at["look"].set()
    desk.open(["done"])
    await desk.service.resume()
    await desk.ended(run)
    assert desk.bench.ran.count("save wait") == 1


async def two_crashes(desk: Desk) -> None:
    for number in (1, 2):
        gate = Gate()
        desk.open([reply("half", gates={0: gate})])
        run = await desk.start() if number == 1 else 1
        await desk.service.resume()
        await asyncio.wait_for(gate.reached.wait(), 10)
        await desk.crash()
    desk.open([call("look", what="x"), "done"])
    await desk.service.resume()
    await desk.ended(run)


async def renamed_meanwhile(desk: Desk) -> None:
    desk.open([reply("", call("look", what="wait"), call("look", what="x")), "done"])
    run = await desk.start()
    await asyncio.wait_for(desk.bench.at["look"].reached.wait(), 10)
    await desk.service.rename(OWNER, desk.thread, "Another title")
    desk.bench.at["look"].set()
    await desk.ended(run)
    await desk.service.rename(OWNER, desk.thread, "A third title")


async def interrupted_as_results_came_in(desk: Desk) -> None:
    """What had ended when the interruption came is recorded behind it, before the rest is cut off."""
    desk.open([reply("", *(call("look", what="wait") for _ in "ab"), call("save", what="wait")), "done"])
    run = await desk.start()
    for name in ("look", "save"):
        await asyncio.wait_for(desk.bench.at[name].reached.wait(), 10)
    desk.bench.at["look"].set()
    await steer(desk.service, OWNER, desk.thread, run, Message("user", "stop that"), interrupt=True)
    await desk.ended(run)


async def several_runs(desk: Desk) -> None:
    desk.open([call("look", what="x"), "one", Failure("auth", "no"), call("save", what="y"), "three"])
    for text in ("first", "second", "third"):
        await desk.ended(await desk.start(text))
        desk.spec = msgspec.structs.replace(desk.spec, system=f"After {text}.", temperature=0.5)


ACTED: Mapping[str, tuple[Play, dict[str, Any]]] = {
    "an answer cancelled, then another": (cancelled_answer, {}),
    "a react answer cancelled, then another": (cancelled_answer, {"dialect": "react"}),
    "tools cancelled": (cancelled_tools, {}),
    "cancelled while no process carried it": (cancelled_between_processes, {}),
    "cancelled inside the answer of a dialect": (cancelled_inside_the_answer_of_a_dialect, {"dialect": "react"}),
    "a tool that goes on when it is cancelled": (cancelled_tool_that_goes_on, {}),
    "settings that are gone": (settings_that_are_gone, {}),
    "out of time in an answer": (out_of_time_in_answer, {"limits": Limits(seconds=0.2)}),
    "out of time in tools": (out_of_time_in_tools, {"limits": Limits(seconds=0.2)}),
    "a crash in an answer": (crash_in_answer, {}),
    "a crash in tools": (crash_in_tools, {"people": False}),
    "two crashes": (two_crashes, {}),
    "renamed meanwhile": (renamed_meanwhile, {}),
    "interrupted as results came in": (interrupted_as_results_came_in, {}),
    "several runs": (several_runs, {}),
}
SHAPES = {**PLAIN, **ACTED}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_thread_of_this_shape_replays_without_difference_whole_and_cut_after_each_event(
    shape: str, tmp_path: Path
) -> None:
    acts, spec = SHAPES[shape]
    desk, events = play(tmp_path, acts, **spec)
    assert isinstance(events[-1].event, RunEnded) or shape == "renamed meanwhile"
    assert again(desk, events) is None
    for end in range(len(events)):
        assert again(desk, events[:end]) is None, f"cut after {end}: {events[end - 1]}"


def test_the_shapes_hold_what_they_say(tmp_path: Path) -> None:
    def kinds(shape: str) -> list[type]:
        acts, spec = SHAPES[shape]
        (tmp_path / shape).mkdir()
        return [type(recorded.event) for recorded in play(tmp_path / shape, acts, **spec)[1]]

    assert kinds("two crashes").count(RunClaimed) == 2
    assert ModelFailed in kinds("a retry")
    assert kinds("a crash in tools").count(ToolStarted) == 3
    late = kinds("interrupted as results came in")
    assert late[late.index(Steered) :][:5] == [Steered, ToolEnded, ToolEnded, ToolEnded, StepEnded]


def test_a_run_that_another_process_took_over_inside_a_batch_replays(tmp_path: Path) -> None:
    desk, events = play(tmp_path, script(call("look", what="x"), "x"))
    torn = next(index for index, each in enumerate(events) if isinstance(each.event, StepStarted)) + 1
    head = events[:torn]
    claim = Recorded(torn + 1, head[-1].time, head[-1].run, RunClaimed(1))
    assert again(desk, [*head, claim]) is None


def test_a_cancelled_run_that_another_process_had_to_close_replays(tmp_path: Path) -> None:
    desk, events = play(tmp_path, cancelled_inside_the_answer_of_a_dialect, dialect="react")
    at = number_of(events, CancelRequested)
    claimed = with_event(events, at + 1, RunClaimed(1))
    for end in range(len(claimed) + 1):
        assert again(desk, claimed[:end]) is None, f"cut after {end}"


def with_event(events: Sequence[Recorded], seq: int, event: Stored) -> list[Recorded]:
    """Put an event into a log at this number."""
    before, after = events[: seq - 1], events[seq - 1 :]
    put = Recorded(seq, before[-1].time, before[-1].run, event)
    return [*before, put, *(Recorded(each.seq + 1, each.time, each.run, each.event) for each in after)]


# what changed


def change(desk: Desk, seq: int, old: str, new: str) -> list[Recorded]:
    """Change one row of the database behind everybody's back and read the thread again."""
    db = apsw.Connection(str(desk.path))
    sql = "UPDATE events SET body = replace(body, ?, ?) WHERE id & 4294967295 = ? RETURNING id"
    assert len(list(db.execute(sql, (old, new, seq)))) == 1
    db.close()

    async def read() -> list[Recorded]:
        store = SqliteStore(desk.path)
        events = await store.read(desk.thread)
        await store.close()
        return events

    return asyncio.run(read())


def number_of(events: Sequence[Recorded], kind: type, count: int = 1) -> int:
    return [recorded.seq for recorded in events if isinstance(recorded.event, kind)][count - 1]


THREE_STEPS = script(call("look", what="x"), call("look", what="y"), "done")


def test_a_changed_tool_result_is_found_in_the_next_request(tmp_path: Path) -> None:
    desk, events = play(tmp_path, THREE_STEPS)
    changed = change(desk, number_of(events, ToolEnded, 2), "found y", "found z")
    found = again(desk, changed)
    assert found is not None
    third = number_of(events, StepStarted, 3)
    assert (found.seq, found.kind, found.name) == (third, "request", "3")
    assert found.stored == changed[third - 1].event.request  # type: ignore[union-attr]
    assert found.now != found.stored
    assert found.proved == number_of(events, StepStarted, 2)


def test_a_changed_call_is_found_in_what_the_engine_makes_of_it(tmp_path: Path) -> None:
    desk, events = play(tmp_path, script(call("look", what="x"), "done"))
    changed = change(desk, number_of(events, ToolStarted), '"name":"look"', '"name":"lock"')
    found = again(desk, changed)
    assert found is not None
    assert (found.seq, found.kind) == (number_of(events, ToolStarted), "event")
    assert ('"lock"' in found.stored, '"look"' in found.now) == (True, True)


def test_a_changed_answer_of_a_refused_call_is_found_at_once(tmp_path: Path) -> None:
    desk, events = play(tmp_path, script(call("nothing"), "done"))
    seq = number_of(events, ToolEnded)
    found = again(desk, change(desk, seq, "not a valid tool", "a fine tool"))
    assert found is not None
    assert (found.seq, found.kind) == (seq, "event")


def test_a_changed_end_is_found(tmp_path: Path) -> None:
    desk, events = play(tmp_path, script(Failure("rate_limit", "enough", 429)))
    found = again(desk, change(desk, len(events), "rate_limit", "auth"))
    assert found is not None
    assert found.seq == len(events)


def test_a_changed_text_of_a_dialect_is_found_by_parsing_its_raw_text_again(tmp_path: Path) -> None:
    desk, events = play(tmp_path, script(text_of("Thought: so\nFinal Answer: yes")), dialect="react")
    found = again(desk, change(desk, number_of(events, MessageEnded), '"content":"yes"', '"content":"no"'))
    assert found is not None
    assert '"content":"yes"' in found.now


def test_a_changed_thought_of_a_dialect_is_found_in_the_same_way(tmp_path: Path) -> None:
    desk, events = play(tmp_path, script(text_of("Thought: so\nFinal Answer: yes")), dialect="react")
    found = again(desk, change(desk, number_of(events, MessageEnded), '"thinking":"so"', '"thinking":"or"'))
    assert found is not None
    assert '"thinking":"so"' in found.now


def test_a_result_of_a_call_that_does_not_run_is_found(tmp_path: Path) -> None:
    desk, events = play(tmp_path, script(call("look", what="x"), "done"))
    seq = number_of(events, ToolEnded)
    found = again(desk, change(desk, seq, '"call":"', '"call":"un'))
    assert found is not None
    assert (found.seq, found.kind, found.name) == (seq, "tool", "look")


def test_a_second_result_of_a_call_is_found(tmp_path: Path) -> None:
    desk, events = play(tmp_path, script(reply("", call("look", what="x"), call("look", what="y")), "done"))
    first, second = (number_of(events, ToolEnded, count) for count in (1, 2))
    ids = [msgspec.json.decode(events[seq - 1].body)["call"] for seq in (first, second)]
    found = again(desk, change(desk, second, ids[1], ids[0]))
    assert found is not None
    assert (found.seq, found.kind) == (second, "tool")


def test_a_message_that_an_engine_made_is_a_decision(tmp_path: Path) -> None:
    desk, events = play(tmp_path, script(call("look", what="x"), "done"))
    seq = number_of(events, StepStarted, 2)
    found = again(desk, with_event(events, seq, MessageAdded(Message("user", "go on"), "engine")))
    assert found is not None
    assert (found.seq, found.kind) == (seq, "event")


def test_a_changed_constant_of_the_engine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, events = play(tmp_path, THREE_STEPS)
    monkeypatch.setattr(chat, "MALFORMED_LIMIT", 5)
    found = again(desk, events)
    assert found == Difference(1, "version", "chat.malformed_limit", "3", "5", 0)


def test_a_changed_text_of_the_engine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, events = play(tmp_path, THREE_STEPS)
    monkeypatch.setattr(chat, "WORDS", {**words.WORDS, "steps": ("That is all.", "到此为止。")})
    found = again(desk, events)
    assert found is not None
    assert (found.seq, found.kind, found.name) == (1, "version", "chat.words")


def test_a_changed_template_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, events = play(tmp_path, script(text_of("Final Answer: yes")), dialect="react")
    other = prompts.load("react", "default", "en")
    text = "".join(f"{{{name}}}\n" for name in sorted(other.variables))
    changed = prompts.Template("react", "default", "en", text)
    monkeypatch.setattr("stepwell.models.dialects.react.load", lambda *names: changed)
    found = again(desk, events)
    assert found == Difference(1, "version", "prompt.react", other.digest, changed.digest, 0)


def test_a_changed_tool_is_found_in_the_first_request(tmp_path: Path) -> None:
    desk, events = play(tmp_path, THREE_STEPS)
    desk.bench.tools.pop()
    desk.parts.box = Toolbox(desk.bench.tools)
    found = again(desk, events)
    assert found is not None
    assert (found.kind, found.name, found.proved) == ("request", "1", 0)


def test_a_limit_that_the_log_does_not_keep_is_found(tmp_path: Path) -> None:
    desk, _ = play(tmp_path, THREE_STEPS, limits=Limits(steps=3))
    found = again(desk, change(desk, 1, '"steps":3', '"steps":2'))
    assert found is not None
    assert (found.kind, '"reason":"limit"' in found.now) == ("event", True)


def test_a_model_or_tool_that_the_log_knows_nothing_of_is_found(tmp_path: Path) -> None:
    desk, events = play(tmp_path, script(call("look", what="x"), "done"))
    answer = number_of(events, MessageEnded, 2)
    asked = again(desk, change(desk, answer, '"message_ended"', '"title_changed_9"'))
    assert asked is not None
    assert (asked.seq, asked.kind) == (answer, "model")
    result = number_of(events, ToolEnded)
    run = again(desk, change(desk, result, '"tool_ended"', '"tool_ended_9"'))
    assert run is not None
    assert (run.seq, run.kind, run.name) == (result, "tool", "look")


def test_an_event_outside_every_run_is_found(tmp_path: Path) -> None:
    desk, events = play(tmp_path, script("done"))
    stray = Recorded(len(events) + 1, events[-1].time, 0, StepStarted(1, "0" * 64))
    found = again(desk, [*events, stray])
    assert found is not None
    assert (found.seq, found.now) == (stray.seq, "")


def test_a_tool_reached_past_the_toolbox_is_an_error(tmp_path: Path) -> None:
    desk, events = play(tmp_path, script(call("look", what="x"), "done"))

    class Reaching:
        """An engine that calls its tools itself."""

        def __init__(self, toolbox: Toolbox) -> None:
            self.toolbox = toolbox

        async def close(self) -> None: ...

        async def step(self, log: Any) -> bool:
            found = self.toolbox.prepare(msgspec.structs.replace(call("look", what="x"), id="a"))
            assert isinstance(found, Prepared)
            assert isinstance(found.tool, Sealed)
            context = ToolContext(thread="", run=1, call="a", key="", progress=lambda _: None)
            await found.tool.call(found.arguments, context)
            return False

    def engine(spec: RunSpec, model: Model, toolbox: Toolbox) -> Engine:
        return Reaching(toolbox)

    desk.parts.engine = engine
    with pytest.raises(ReplayDiffers, match="look"):
        again(desk, events)
    assert desk.bench.ran == ["look x"]
