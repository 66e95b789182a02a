"""Runs over a scripted model for tests: a service with its parts, a reader, and the audit of a log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from dirty_equals import IsStr

from stepwell.agent.base import BaseAgent
from stepwell.agent.summaries import Summaries
from stepwell.engines.base import Engine
from stepwell.engines.chat import ChatEngine
from stepwell.errors import StoreFull
from stepwell.events import (
    CallDelta,
    MessageAdded,
    MessageEnded,
    Recorded,
    RunEnded,
    RunStarted,
    Stored,
    TextDelta,
    ThinkingDelta,
    ToolProgress,
    Transient,
    Unknown,
)
from stepwell.log import Log
from stepwell.messages import Message
from stepwell.models.base import Model
from stepwell.models.dialects.base import Dialect
from stepwell.models.scripted import Brain, Gate, ModelCall, ScriptedModel, Step, reply
from stepwell.runs.channel import Cursor, Item, Piece
from stepwell.runs.service import RunRef, RunService
from stepwell.specs import RunSpec
from stepwell.store.base import Store
from stepwell.store.memory import MemoryStore
from stepwell.store.sqlite import SqliteStore
from stepwell.tools.base import Tool, Toolbox
from tests.support.audit import audit

OWNER = "ann"
WAIT = 20.0
"""Seconds that anything of a test may take: a bound, not a pause."""
REQUEST: Any = IsStr(min_length=40)
"""Any digest of a request."""


def chat_engine(
    model: Model, toolbox: Toolbox, dialect: Dialect | None = None, summarizer: Model | None = None
) -> ChatEngine:
    """Return an engine over a model and tools, with neither prompts nor forms of replies."""

    def make_agent(log: Log) -> BaseAgent:
        return BaseAgent(
            step_prompt="",
            default_replies=None,
            model=model,
            tools=toolbox.specs,
            log=log,
            dialect=dialect,
            summaries=Summaries(summarizer) if summarizer else None,
        )

    return ChatEngine(make_agent, toolbox)


class Rig:
    """A run service over a scripted model.

    Args:
        store: Where its logs live.
        model: Who answers: a model, a script, or a function of the request.
        tools: What it may call.
        dialect: How it is spoken to.
        summarizer: Who makes summaries; None for nobody.
    """

    def __init__(
        self,
        store: Store,
        model: Model | Brain | Sequence[Step],
        tools: Sequence[Tool | Callable[..., Any]] = (),
        dialect: Dialect | None = None,
        summarizer: Model | None = None,
    ) -> None:
        self.store, self.summarizer = store, summarizer
        self.model = ScriptedModel(model) if callable(model) or isinstance(model, Sequence) else model
        self.toolbox, self.dialect = Toolbox(tools), dialect
        self.service = RunService(store, self.assemble)

    def assemble(self, spec: RunSpec) -> Engine:
        return chat_engine(self.model, self.toolbox, self.dialect, self.summarizer)

    @property
    def asked(self) -> list[ModelCall]:
        """What the scripted model was asked."""
        assert isinstance(self.model, ScriptedModel)
        return self.model.calls

    async def start(self, text: str = "go", thread: str = "", **spec: Any) -> RunRef:
        return await self.service.start(OWNER, Message("user", text), RunSpec(**spec), thread=thread)

    async def ended(self, ref: RunRef) -> list[Recorded]:
        """Wait for a run's end and return its thread's audited log."""
        async with asyncio.timeout(WAIT):
            await until(self.service, ref.thread, lambda item: item.run == ref.run and item.ends_run)
        return await self.log(ref.thread)

    async def log(self, thread: str) -> list[Recorded]:
        """Return a thread's audited log."""
        events = await self.store.read(thread)
        audit(events)
        return events

    async def play(self, text: str = "go", **spec: Any) -> list[Stored | Unknown]:
        """Carry a run out and return what happened after the user's message."""
        log = await self.ended(await self.start(text, **spec))
        assert isinstance(log[0].event, RunStarted)
        assert log[1].event == MessageAdded(Message("user", text))
        return [recorded.event for recorded in log[2:]]


def open_store(kind: str, folder: Path) -> Store:
    return MemoryStore() if kind == "memory" else SqliteStore(folder / "stepwell.db")


@asynccontextmanager
async def rig(
    model: Model | Brain | Sequence[Step],
    *tools: Tool | Callable[..., Any],
    store: Store | None = None,
    dialect: Dialect | None = None,
    kind: type[Rig] = Rig,
) -> AsyncIterator[Rig]:
    """Give a rig; afterwards nothing of it may be at work any more."""
    before = asyncio.all_tasks()
    made = kind(store or MemoryStore(), model, tools, dialect)
    try:
        yield made
    finally:
        async with asyncio.timeout(WAIT):
            await made.service.stop(0.0)
    left = asyncio.all_tasks() - before
    assert not left, f"the service left tasks behind: {left}"


@asynccontextmanager
async def held(*later: Step, store: Store | None = None) -> AsyncIterator[tuple[Rig, RunRef, Gate]]:
    """Give a rig with a run whose model was asked and answers `one` when the gate is set."""
    gate = Gate()
    async with rig([reply("one", gates={0: gate}), *later], store=store) as made:
        ref = await made.start()
        await gate.reached.wait()
        yield made, ref, gate


async def until(
    service: RunService, thread: str, last: Callable[[Item], bool], after: Cursor | None = None
) -> list[Item]:
    """Follow a thread until an item, and return what came."""
    seen: list[Item] = []
    async with aclosing(service.follow(OWNER, thread, after)) as batches:
        async for items in batches:
            for item in items:
                seen.append(item)
                if last(item):
                    return seen
    return seen


def said(text: str) -> Callable[[Item], bool]:
    """Tell the piece of visible text with which everything of `text` has been shown."""
    shown = ""

    def ends(item: Item) -> bool:
        nonlocal shown
        shown += item.event.text if isinstance(item, Piece) else ""
        return text in shown

    return ends


def is_(*kinds: type[Stored] | type[Transient] | type[Unknown]) -> Callable[[Item], bool]:
    """Tell items of these kinds."""
    return lambda item: isinstance(item.event, kinds)


def bounded(main: Callable[[], Awaitable[None]], seconds: float = WAIT * 2) -> None:
    """Run an async test within a bound."""

    async def body() -> None:
        async with asyncio.timeout(seconds):
            await main()

    asyncio.run(body())


def events_of(log: Sequence[Recorded], kind: type[Any]) -> list[Any]:
    return [recorded.event for recorded in log if isinstance(recorded.event, kind)]


def end_of(log: Sequence[Recorded]) -> RunEnded:
    """Return the last run's end, which is the log's last event."""
    event = log[-1].event
    assert isinstance(event, RunEnded), event
    return event


def answer_of(log: Sequence[Recorded]) -> str:
    """Return the text with which the last run ended."""
    return events_of(log, MessageEnded)[-1].message.content


# what a reader sees

Atom = tuple[object, ...]
"""A stored event or one code point of transient text, with what it belongs to."""


def atoms(items: list[Item]) -> Iterator[Atom]:
    for item in items:
        if isinstance(item, Recorded):
            yield "stored", item.seq
            continue
        event = item.event
        match event:
            case CallDelta():
                yield from (("name", event.message, event.index, letter) for letter in event.name)
                yield from (("call", event.message, event.index, letter) for letter in event.text)
            case TextDelta() | ThinkingDelta():
                yield from ((type(event), event.message, letter) for letter in event.text)
            case ToolProgress():
                yield from (("progress", event.call, letter) for letter in event.text)


def before(everything: list[Atom], cursor: Cursor) -> list[Atom]:
    """Return what a client has seen whose cursor this is."""
    start = everything.index(("stored", cursor.seq)) + 1 if cursor.seq else 0
    return everything[: start + cursor.offset]


def cursors(everything: list[Atom]) -> Iterator[Cursor]:
    """Give every cursor that a client can hold, in the middle of pieces too."""
    seq, offset = 0, 0
    yield Cursor()
    for atom in everything:
        seq, offset = (int(str(atom[1])), 0) if atom[0] == "stored" else (seq, offset + 1)
        yield Cursor(seq, offset)


class HeldStore(MemoryStore):
    """A store in memory whose appends are done when the test says so, and which can be full.

    Attributes:
        held: Appends wait for `release`.
        full: Appends fail for want of room.
        waiting: The appends that wait.
    """

    instant = False

    def __init__(self) -> None:
        super().__init__()
        self.held = self.full = False
        self.waiting: list[Callable[[], None]] = []

    def append(self, *args: Any, **more: Any) -> asyncio.Future[None]:
        outer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def commit() -> None:
            if self.full:
                outer.set_exception(StoreFull("no room"))
                return
            inner = super(HeldStore, self).append(*args, **more)
            error = inner.exception()
            outer.set_result(None) if error is None else outer.set_exception(error)

        if self.held:
            self.waiting.append(commit)
        else:
            asyncio.get_running_loop().call_soon(commit)
        return outer

    def release(self) -> None:
        """Let everything that waits be done, and what comes after it."""
        self.held = False
        waiting, self.waiting = self.waiting, []
        for commit in waiting:
            commit()
