"""One world from its seed: a run service, its executor, engines and a store on a clock that is made up.

As a program it plays many worlds and prints how the first that fails is played again.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import logging
import math
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec

from stepwell.agent import summaries
from stepwell.agent.accounts import Accounts
from stepwell.agent.base import BaseAgent
from stepwell.agent.summaries import Summaries
from stepwell.agent.task_agents import PlanAgent, ToolAgent
from stepwell.engines.base import Engine
from stepwell.engines.calls import Calls
from stepwell.engines.chat import ChatEngine
from stepwell.engines.interaction import InteractionEngine
from stepwell.engines.plan import PlanEngine
from stepwell.engines.react import ReactEngine
from stepwell.events import Recorded
from stepwell.log import Log
from stepwell.messages import NO_TOOLS, ToolSpecs
from stepwell.models.base import Model
from stepwell.plans import Task
from stepwell.runs import people as doors
from stepwell.runs.driver import Assemble
from stepwell.runs.log import ThreadLog
from stepwell.runs.replay_compare import is_input
from stepwell.runs.replay_parts import ReplayModel, ReplayToolbox
from stepwell.specs import RunSpec
from stepwell.state.thread import NEVER
from stepwell.tools.base import Toolbox
from stepwell.tools.client import ClientTool
from tests.simulation.actors import OWNER, REFUSED, Fate, People, decision_of
from tests.simulation.checks import check
from tests.simulation.loop import PROCESS, SimLoop
from tests.simulation.model import Outside, SimModel, SimSummarizer
from tests.simulation.world import Broken, NoRoom, Process, World

PATIENCE = 40_000.0
"""Seconds of the world in which everything must have come to its end once nobody disturbs it."""

MOST_FAILED = 20
"""Worlds that may fail before no further one is begun."""


class Parts:
    """What engines are made of, for runs and for replays.

    Args:
        model: Who answers.
        toolbox: What may be called.
        summarizer: Makes what makes summaries of a run; None for none. In a replay they come from the log.
    """

    def __init__(self, model: Model, toolbox: Toolbox, summarizer: Callable[[], Summaries] | None = None) -> None:
        self._model, self._toolbox, self._summarizer = model, toolbox, summarizer

    def assembling(self, accounts: Accounts) -> Assemble:
        """Return what builds the engines of a process."""
        return lambda spec: self._engine(spec, self._model, self.toolbox(spec), accounts, self._summarizer)

    def versions(self, spec: RunSpec) -> dict[str, str]:
        return {}

    def toolbox(self, spec: RunSpec) -> Toolbox:
        tools = [tool for tool in self._toolbox.tools if tool.spec.name in spec.tools]
        return Toolbox([*tools, *map(ClientTool, spec.client_tools)])

    def engine(self, spec: RunSpec, model: Model, toolbox: Toolbox) -> Engine:
        return self._engine(spec, model, toolbox, model.accounts if isinstance(model, ReplayModel) else None)

    def _engine(
        self,
        spec: RunSpec,
        model: Model,
        toolbox: Toolbox,
        accounts: Accounts | None,
        summarizer: Callable[[], Summaries] | None = None,
    ) -> Engine:
        def assemble(task: RunSpec) -> Engine:
            tools = self.toolbox(task)
            known = toolbox.over(tools) if isinstance(toolbox, ReplayToolbox) else tools
            return self._engine(task, model, known, accounts, summarizer)

        def made(kind: Any, log: Log, tools: ToolSpecs = toolbox.specs) -> Any:
            made = kind(step_prompt="", default_replies=None, model=model, tools=tools, log=log, accounts=accounts)
            made.summaries = summarizer() if summarizer is not None else None
            return made

        def react() -> ReactEngine:
            return ReactEngine(lambda log: made(ToolAgent, log), Calls(toolbox, None, delegate, assemble))

        def plan() -> PlanEngine:
            return PlanEngine(lambda log: made(PlanAgent, log), react)

        match spec.engine:
            case "react":
                return react()
            case "plan":
                return plan()
            case "interaction":
                return InteractionEngine(lambda log: made(BaseAgent, log, NO_TOOLS), plan)
            case "chat":
                engine = ChatEngine(lambda log: made(BaseAgent, log), toolbox)
                engine.calls = Calls(toolbox, None, delegate, assemble)
                return engine


def delegate(parent: RunSpec, name: str, text: str) -> tuple[Task, RunSpec]:
    """Return how another agent does a task; it has fewer tools."""
    tools = tuple(tool for tool in parent.tools if tool != "put")
    spec = msgspec.structs.replace(parent, agent=name, engine="react", tools=tools, output=None)
    return Task(id="1", name=text[:20], goal=text), spec


class Simulation:
    """A world with everything in it.

    Args:
        seed: Decides everything.
        loop: Tells the time.
    """

    def __init__(self, seed: int, loop: SimLoop) -> None:
        self.loop, self.world = loop, World(seed, loop)
        self.chance = self.world.chance("world")
        toolbox = Toolbox(Outside(self.world).tools())
        model = SimModel(self.world, self.chance.choice((0.0, 0.05, 0.3)))
        self.summarizer = SimSummarizer(self.world, model.trouble)
        self.parts = Parts(model, toolbox, self._summaries if self.world.has_summaries else None)
        self.people = People(self.world, toolbox.names)
        self.fate = Fate(self.world, self.parts.assembling)

    def _summaries(self) -> Summaries:
        return Summaries(self.summarizer)

    async def play(self) -> str:
        """Let the world go by, check what it has come to, and return the digest of all that it leaves."""
        await self.fate.begin()
        fate = [self.loop.create_task(self.fate.rule(), name="fate")]
        if self.world.has_trouble:
            fate.append(self.loop.create_task(self.fate.fill(), name="trouble"))
        pace = self.chance.choice((0.02, 0.3, 2.0))
        crowd = [
            self.loop.create_task(self.people.live(name, self.chance.randint(5, 30), pace), name=name)
            for name in ("Ann", "Bob", "Cy")[: self.chance.randint(1, 3)]
        ]
        await asyncio.gather(*crowd)
        self.fate.over = True
        await asyncio.gather(*fate)
        self.world.calm = True
        self.world.tell("nobody disturbs any more")
        await asyncio.gather(*self.people.followers)
        process = await self._last()
        await self._settle(process)
        await self._check_let_go(process)
        await process.stop(1.0)
        await check(self.world, self.people, self.parts, overlap=self.fate.overlap)
        return await self._digest()

    async def _last(self) -> Process:
        """Return the one process that is left, or one that goes on with all that others left."""
        keep = 1 if self.chance.random() < 0.5 else 0
        for process in self.world.living[: len(self.world.living) - keep]:
            await self.fate.end(process, stops=self.chance.random() < 0.5)
        living = self.world.living
        if not living:
            return await self.fate.begin()
        await self.fate.resume(living[0])
        return living[0]

    async def _settle(self, process: Process) -> None:
        """Answer everything and let everything go on until nothing is left to do."""
        end = self.loop.time() + PATIENCE
        while await self._left():
            assert self.loop.time() < end, f"it comes to no end: {await self._left()}\n{self.loop.waiting()}"
            for info in await process.do(lambda service: doors.pending(service, OWNER)):
                await self._answer(process, info)
            for thread, run in await self._left():
                with suppress(*REFUSED):
                    await process.do(lambda service, thread=thread, run=run: doors.go_on(service, OWNER, thread, run))
            await asyncio.sleep(1.0)

    async def _answer(self, process: Process, info: doors.QuestionInfo) -> None:
        more = decision_of(self.chance, info)
        self.world.tell(f"the last one answers {info.seq} of {info.thread[-2:]}: {more}")
        with suppress(*REFUSED):
            await process.do(lambda service: doors.answer(service, OWNER, info.thread, info.seq, **more))

    async def _left(self) -> list[tuple[str, int]]:
        """Return the threads that are not at their end, with their open runs."""
        disk = self.world.disk
        asking, due = await disk.asking(OWNER, 1000), {each.id for each in await disk.due(NEVER - 1)}
        rows = [row for id in disk.ids if (row := await disk.thread(id)) is not None]
        return [(row.id, row.run) for row in rows if row.run or row.id in asking or row.id in due]

    async def _check_let_go(self, process: Process) -> None:
        """Check that a service with nothing to do holds nothing."""
        await asyncio.sleep(30.0)
        service = process.service
        assert not service._logs, f"the service keeps {list(service._logs)}"
        assert not any(service._executor.carries(id) for id in self.world.disk.ids), "something is carried out"
        left = [task for task in self.loop.tasks() if task.process is process]
        assert not left, f"the service left tasks behind\n{self.loop.waiting()}"

    async def _digest(self) -> str:
        digest = hashlib.sha256()
        for id in self.world.disk.ids:
            for each in await self.world.disk.read(id):
                digest.update(id.encode() + each.to_json() + b"\n")
        digest.update(repr(self.world.effects).encode())
        return digest.hexdigest()


class Outcome(NamedTuple):
    """What a world left.

    Args:
        digest: Of all logs and effects.
        events: How many there are.
        seconds: How long it took by its own clock.
        turns: Turns of the loop.
        happened: What people and fate did, one thing a line.
        failure: What did not hold; empty for nothing.
    """

    digest: str
    events: int
    seconds: float
    turns: int
    happened: list[str]
    failure: str


def simulate(seed: int) -> Outcome:
    """Play one world."""
    gc.disable()  # what the collector finds would be let go at moments that no seed decides
    loop = SimLoop()
    simulation = Simulation(seed, loop)
    world, digest, failure = simulation.world, "", ""
    with _same_ids(), _short_summaries(), _displaced(world), _noted(world, loop):
        try:
            digest = loop.run_until_complete(simulation.play())
        except Exception:
            failure = traceback.format_exc()
        seconds, turns = loop.time(), loop.turns
        _bury(world, loop)
    gc.enable()
    return Outcome(digest, sum(map(len, world.disk._events.values())), seconds, turns, world.happened, failure)


@contextmanager
def _same_ids() -> Iterator[None]:
    """Have the ids of threads count instead of being random."""
    numbers = count(1)
    with patch.object(secrets, "token_hex", lambda size: f"{next(numbers):0{2 * size}x}"):
        yield


@contextmanager
def _short_summaries() -> Iterator[None]:
    """Have summaries be made of the little that threads of a world hold."""
    with patch.object(summaries, "LEAST_ENTRIES", 2), patch.object(summaries, "LONG_TERM_PART", 0.02):
        yield


@contextmanager
def _displaced(world: World) -> Iterator[None]:
    """Note the threads where another process came before engines, and the log does not say what these knew.

    Their work is appended after what the other wrote; where several were at work, nothing tells which began again.
    """
    keep, start_over = ThreadLog._keep_facts, ThreadLog._start_over

    def keeping(self: ThreadLog, *more: Any) -> list[Recorded]:
        kept = keep(self, *more)
        if not all(is_input(each.event) for each in kept):
            world.disk.displaced.add(self.thread)
        return kept

    def starting_over(self: ThreadLog, stored: list[Recorded]) -> None:
        if self._unsaved and self.state.agents:
            world.disk.displaced.add(self.thread)
        start_over(self, stored)

    with patch.object(ThreadLog, "_keep_facts", keeping), patch.object(ThreadLog, "_start_over", starting_over):
        yield


@contextmanager
def _noted(world: World, loop: SimLoop) -> Iterator[None]:
    """Take every error that is logged by a living process for a failure."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            process = PROCESS.get()
            if record.exc_info is None and record.getMessage().endswith((str(NoRoom()), str(Broken()))):
                world.tell(f"{process} logged: {record.getMessage()}")
            elif process is None or not process.dead:
                world.errors.append(f"{loop.time():.3f} {process} logged: {self.format(record)}")

    def unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        text = "".join(traceback.format_exception(error)) if error else ""
        world.errors.append(f"{context['message']} {context.get('task') or context.get('future')}\n{text}")

    loop.set_exception_handler(unhandled)
    logger, notes = logging.getLogger("stepwell"), Notes(logging.ERROR)
    before = logger.propagate
    logger.propagate = False
    logger.addHandler(notes)
    try:
        yield
    finally:
        logger.removeHandler(notes)
        logger.propagate = before


def _bury(world: World, loop: SimLoop) -> None:
    """Let go of everything that was under way, the dead's work included."""
    loop.turns = -1_000_000
    loop.set_exception_handler(lambda loop, context: None)
    for process in world.processes:
        process.store.bury()
        loop.run_frozen(process)
    for _ in range(20):
        for task in loop.tasks():
            task.cancel()
        loop.run_until_complete(asyncio.sleep(10.0))
        if not loop.tasks():
            break
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Play worlds; return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one alone, and print what happened in it")
    parser.add_argument("--seeds", type=int, default=0, help="how many to play (2000, or as many as the minutes allow)")
    parser.add_argument("--from", type=int, default=1, dest="first", help="the first of them (1)")
    parser.add_argument("--minutes", type=float, default=0.0, help="begin no further one after so many minutes")
    parser.add_argument("--digests", action="store_true", help="print what each left, to compare")
    chosen = parser.parse_args(arguments)
    if chosen.seed is not None:
        return _show(chosen.seed)
    end = time.monotonic() + chosen.minutes * 60 if chosen.minutes else math.inf
    played, events, failed = 0, 0, list[int]()
    most = chosen.seeds or (2_000 if math.isinf(end) else sys.maxsize)
    for seed in range(chosen.first, chosen.first + most):
        if time.monotonic() >= end or len(failed) >= MOST_FAILED:
            break
        outcome = simulate(seed)
        played, events = played + 1, events + outcome.events
        if chosen.digests:
            print(seed, outcome.digest)
        if outcome.failure:
            failed.append(seed)
            print(
                f"seed {seed} failed: {outcome.failure.strip().splitlines()[-1]}\n    ./scripts/soak --seed {seed}",
                flush=True,
            )
    print(f"{played} worlds with {events} events; {len(failed)} failed")
    return 1 if failed else 0


def _show(seed: int) -> int:
    outcome = simulate(seed)
    print("\n".join(outcome.happened))
    print(f"seed {seed}: {outcome.events} events in {outcome.seconds:.1f} s, {outcome.turns} turns, {outcome.digest}")
    if outcome.failure:
        print(outcome.failure)
    return 1 if outcome.failure else 0


if __name__ == "__main__":
    sys.exit(main())
