"""People and fate: who says, answers, halts, cancels, edits and forks at random moments, and what kills processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from random import Random
from typing import Any, NamedTuple, TypeVar

from stepwell.errors import Busy, Decided, Expired, InputError, KeyReused, NotFound
from stepwell.events import MessageAdded, MessageEnded, Recorded, RunEnded, TaskEnded, TaskStarted, ToolEnded
from stepwell.messages import Message
from stepwell.runs import contexts, forks, people, queue
from stepwell.runs.channel import Cursor
from stepwell.runs.people import QuestionInfo
from stepwell.runs.requests import NewThread, Once, RunRef
from stepwell.runs.service import RunService
from stepwell.specs import ContextSpec, Limits, Prices, Rule, RunSpec, TaskOptions
from tests.simulation.model import CLIENT_TOOLS, WINDOW
from tests.simulation.world import KEY, Assembling, Broken, Gone, NoRoom, Process, World

OWNER = "ann"
REFUSED = (NotFound, Busy, Decided, Expired, InputError, KeyReused, NoRoom, Broken)
"""What people may be told instead of being obeyed."""

HUGE = "".join(f"line {number} of what somebody sent\n" for number in range(3000))
"""A text that no request holds whole."""

T = TypeVar("T")


class Said(NamedTuple):
    """A message that somebody sent.

    Args:
        text: It.
        ref: Where it went; None where nobody knows.
        surely: It was sent until it was taken, with one idempotency key.
    """

    text: str
    ref: RunRef | None
    surely: bool


class People:
    """All people of a world, and what they know.

    Args:
        world: Where they are.
        tools: Names of the tools of their runs.
    """

    def __init__(self, world: World, tools: tuple[str, ...]) -> None:
        self.world = world
        self.chance = world.chance("people")
        self.said: list[Said] = []
        self.seen: dict[str, dict[int, bytes]] = {}
        """Stored events that followers were shown, by thread and number."""
        self.followers: list[asyncio.Task[None]] = []
        self.threads: list[str] = []
        self.runs: dict[str, int] = {}
        self.messages = 0
        self.deletes = self.chance.random() < 0.1
        self.engines = self.chance.choice(
            (("chat",), ("chat", "react"), ("plan",), ("interaction",), ("chat", "react", "plan", "interaction"))
        )
        self.rules = self.chance.choice(
            (
                (),
                (Rule(decision="allow", place="workspace"), Rule(decision="ask", effect="write")),
                (Rule(decision="ask", tool="send"), Rule(decision="deny", tool="put")),
                (Rule(decision="ask", tool="*"),),
                (Rule(decision="ask", effect="write", untrusted=True),),
            )
        )
        self.answering = self.chance.choice((0.3, 0.7, 1.0))
        self.money = self.chance.random() < 0.3
        self.tools = tools if self.chance.random() < 0.5 else tuple(tool for tool in tools if tool != "delegate")
        self.refused: list[str] = []
        """What was said and could not be stored."""
        self.unique = 0
        self.clients = world.chance("clients")

    def spec(self) -> RunSpec:
        """Return how a run is to go."""
        chance = self.chance
        engine: Any = chance.choice(self.engines)
        limits = Limits(
            steps=chance.choice((None, None, 4, 12)),
            tool_calls=chance.choice((None, None, None, 3)),
            seconds=chance.choice((None, None, None, 20.0)),
            money=chance.choice((0.01, 0.05, 1.0)) if self.money else None,
        )
        tasks = TaskOptions(
            max_chain_length=chance.choice((2, 4, 7)),
            initial_plan=chance.random() < 0.8,
            fast_path=chance.random() < 0.5,
            max_parallel_tasks=chance.choice((1, 1, 3)),
            max_plan_refine_chain_length=chance.choice((0, 2, 4)),
        )
        return RunSpec(
            engine=engine,
            tools=self.tools,
            client_tools=CLIENT_TOOLS if self.world.has_clients and self.clients.random() < 0.6 else (),
            context=self._context(chance.choice((6_000, WINDOW, WINDOW))),
            limits=limits,
            tasks=None if engine == "chat" else tasks,
            people=chance.random() < 0.9,
            approvals=self.rules,
            question_seconds=chance.choice((None, None, 5.0, 60.0)),
            repetitions=chance.choice((0, 2)),
            prices=Prices(1.0, 10.0) if self.money or self.world.keys else None,
            key=KEY if self.world.keys else "",
            max_output=2_000,
            language=chance.choice(("en", "zh")),
        )

    def _context(self, window: int) -> ContextSpec:
        if self.world.has_summaries and self.clients.random() < 0.8:
            return ContextSpec(window=4_000, reserve=1_000, summarize=("tool_calls", "working_context"))
        return ContextSpec(window=window, reserve=1_000)

    async def ask(self, work: Callable[[RunService], Awaitable[T]], patience: float = 0.0) -> T:
        """Have some living process do something.

        Raises:
            Gone: It died, there is none, or whoever asked gave up.
        """
        living = self.world.living
        if not living:
            await asyncio.sleep(self.chance.random())
            raise Gone("nobody")
        return await self.chance.choice(living).do(work, patience)

    async def live(self, name: str, acts: int, pace: float) -> None:
        """Do so many things at random moments."""
        for _ in range(acts):
            await asyncio.sleep(self.chance.expovariate(1 / pace))
            act = self._choose()
            patience = self.chance.expovariate(10) if self.chance.random() < 0.05 else 0.0
            try:
                done = await act(self, patience)
                self.world.tell(f"{name}: {act.__name__} -> {done}")
            except (*REFUSED, Gone) as error:
                self.world.tell(f"{name}: {act.__name__} -> {type(error).__name__}: {error}")

    def _choose(self) -> Act:
        if not self.threads:
            return speak
        acts = [*ACTS, *((delete, 1),)] if self.deletes else ACTS
        return self.chance.choices([act for act, _ in acts], [weight for _, weight in acts])[0]

    def thread(self) -> str:
        return self.chance.choice(self.threads)

    def number(self) -> int:
        self.unique += 1
        return self.unique

    async def agent(self, thread: str) -> str:
        """Return the path of some agent at work in a thread, or of one that is gone; empty for none."""
        events = await self.ask(lambda service: service.events(OWNER, thread, limit=10_000))
        paths = [each.path for each in events if isinstance(each.event, TaskStarted)]
        gone = {each.path for each in events if isinstance(each.event, TaskEnded | RunEnded)}
        return self.chance.choice([path for path in paths if path not in gone] or ["", *paths[-1:]])

    async def follow(self, thread: str) -> None:
        """Follow a thread from process to process until the world calms down."""
        seen = self.seen.setdefault(thread, {})

        async def watch(service: RunService) -> None:
            cursor = Cursor(max(seen, default=0))
            async with aclosing(service.follow(OWNER, thread, cursor)) as batches:
                async for items in batches:
                    for item in items:
                        if isinstance(item, Recorded):
                            assert item.seq not in seen, f"event {item.seq} of {thread} was shown twice"
                            seen[item.seq] = item.body

        while not self.world.calm:
            try:
                await self.ask(watch, self.chance.expovariate(0.1))
            except (*REFUSED, Gone):
                pass
            await asyncio.sleep(self.chance.random())


Act = Callable[[People, float], Awaitable[Any]]


async def speak(of: People, patience: float) -> str:
    """Send a message, to a new thread or to one that is there."""
    chance = of.chance
    fresh = not of.threads or (len(of.threads) < 3 and chance.random() < 0.2)
    thread = "" if fresh else of.thread()
    text, policy = f"m{of.number()}", chance.choice(("", "", "queue", "steer", "interrupt", "reject"))
    once = Once("runs", f"key {text}", "0" * 64) if chance.random() < 0.5 else None
    new = (
        NewThread("", (Message("user", "earlier"), Message("assistant", "so")))
        if fresh and chance.random() < 0.3
        else None
    )
    message, spec = Message("user", text), of.spec()
    for attempt in range(20 if once else 1):
        try:
            ref = await of.ask(
                lambda service: service.start(OWNER, message, spec, thread=thread, new=new, once=once, policy=policy),
                0.0 if attempt else patience,
            )
        except (Gone, NoRoom, Broken) as error:
            of.said.append(Said(text, None, False))
            if not isinstance(error, Gone) and not once:
                of.refused.append(text)
            await asyncio.sleep(chance.expovariate(1))
            continue
        of.said.append(Said(text, ref, once is not None))
        if fresh and ref.thread not in of.threads:  # one that is being deleted is not taken up again
            of.threads.append(ref.thread)
            if chance.random() < 0.5:
                of.followers.append(
                    of.world.loop.create_task(of.follow(ref.thread), name=f"follower {ref.thread[-2:]}")
                )
        of.runs[ref.thread] = ref.run or of.runs.get(ref.thread, 0)
        return f"{text} {policy} {tuple(ref)}"
    return f"{text} {policy} was given up"


async def answer(of: People, patience: float) -> str:
    """Decide some of what is asked, in any order."""
    asked = await of.ask(lambda service: people.pending(service, OWNER))
    of.chance.shuffle(asked)
    told: list[str] = []
    for info in asked[: of.chance.randint(1, 3)]:
        if of.chance.random() > of.answering:
            continue
        more = decision_of(of.chance, info)
        if of.chance.random() < 0.05:
            more["hash"] = "f" * 64
        try:
            await of.ask(
                lambda service, info=info, more=more: people.answer(service, OWNER, info.thread, info.seq, **more),
                patience,
            )
            told.append(f"{info.thread[-2:]}.{info.seq} {more}")
        except REFUSED as error:
            told.append(f"{info.seq} {more} refused: {error}")
    return "; ".join(told)


def decision_of(chance: Random, info: QuestionInfo) -> dict[str, Any]:
    """Return how a question is decided."""
    more: dict[str, Any] = {"decision": chance.choice(info.decisions)}
    if more["decision"] == "answer" and info.form is not None:
        more["value"] = {"size": chance.randrange(100)}
    elif more["decision"] == "answer":
        more["text"] = chance.choice(info.choices) if info.choices else f"answer {chance.randrange(100)}"
    elif more["decision"] == "approve" and info.kind == "approval":
        if chance.random() < 0.3 and info.tool != "ask_human":
            more["arguments"] = json.dumps({"n": chance.randint(10, 20)})
        else:
            more["scope"] = chance.choice(("once", "once", "call", "tool"))
    elif more["decision"] == "deny" and chance.random() < 0.5:
        more["text"] = "because"
    elif more["decision"] == "done" and chance.random() < 0.5:
        more["text"] = "it was done"
    if info.kind == "elicitation" and not info.choices and info.form is None and chance.random() < 0.1:
        more["text"] = HUGE
    if info.kind == "result" and chance.random() < 0.9:
        more["text"] = f"result {chance.randrange(100)}" if chance.random() < 0.8 else HUGE
    return more


async def steer(of: People, patience: float) -> str:
    thread, text = of.thread(), f"m{of.number()}"
    run, interrupt = of.runs.get(thread, 0), of.chance.random() < 0.4
    path = of.chance.choice(("", await of.agent(thread)))
    said = Message("user", text)
    of.said.append(Said(text, None, False))
    try:
        await of.ask(
            lambda service: people.steer(service, OWNER, thread, run, said, interrupt=interrupt, path=path), patience
        )
    except (NoRoom, Broken):
        of.refused.append(text)
        raise
    return f"{text} to {run} of {thread[-2:]} at {path!r}{' interrupts' if interrupt else ''}"


async def pause(of: People, patience: float) -> str:
    thread = of.thread()
    run = of.runs.get(thread, 0)
    await of.ask(lambda service: people.pause(service, OWNER, thread, run), patience)
    return f"{run} of {thread[-2:]}"


async def go_on(of: People, patience: float) -> str:
    thread = of.thread()
    run = of.runs.get(thread, 0)
    await of.ask(lambda service: people.go_on(service, OWNER, thread, run), patience)
    return f"{run} of {thread[-2:]}"


async def cancel(of: People, patience: float) -> str:
    thread = of.thread()
    run = of.runs.get(thread, 0)
    for _ in range(of.chance.choice((1, 1, 2))):
        await of.ask(lambda service: service.cancel(OWNER, thread, run), patience)
    return f"{run} of {thread[-2:]}"


async def look(of: People, patience: float) -> str:
    """Find out which run is open."""
    thread = of.thread()
    info = await of.ask(lambda service: service.info(OWNER, thread), patience)
    of.runs[thread] = info.run or of.runs.get(thread, 0)
    return f"{thread[-2:]} has run {info.run}"


async def edit_queue(of: People, patience: float) -> str:
    thread = of.thread()
    items = await of.ask(lambda service: queue.queue(service, OWNER, thread))
    if not items:
        return "nothing waits"
    item, other = of.chance.choice(items).seq, of.chance.choice([0, *(each.seq for each in items)])
    kind = of.chance.choice(("edit", "move", "remove"))
    text = f"e{of.number()}"
    match kind:
        case "edit":
            await of.ask(lambda service: queue.edit_queued(service, OWNER, thread, item, text), patience)
        case "move":
            await of.ask(lambda service: queue.move_queued(service, OWNER, thread, item, other), patience)
        case _:
            await of.ask(lambda service: queue.remove_queued(service, OWNER, thread, item), patience)
    return f"{kind} {item} {other}"


async def set_policy(of: People, patience: float) -> str:
    thread, policy = of.thread(), of.chance.choice(("queue", "steer", "interrupt", "reject"))
    await of.ask(lambda service: queue.set_policy(service, OWNER, thread, policy), patience)
    return f"{policy} in {thread[-2:]}"


async def rename(of: People, patience: float) -> str:
    thread, title = of.thread(), f"title {of.number()}"
    await of.ask(lambda service: service.rename(OWNER, thread, title), patience)
    return f"{thread[-2:]} {title}"


async def pin(of: People, patience: float) -> str:
    thread, text = of.thread(), f"fact {of.chance.randrange(3)}"
    pins = await of.ask(lambda service: contexts.pins(service, OWNER, thread))
    if pins and of.chance.random() < 0.5:
        await of.ask(lambda service: contexts.unpin(service, OWNER, thread, pins[0].id), patience)
        return f"not {pins[0].text} in {thread[-2:]}"
    await of.ask(lambda service: contexts.pin(service, OWNER, thread, text), patience)
    return f"{text} in {thread[-2:]}"


async def fork(of: People, patience: float) -> str:
    if len(of.threads) > 5:
        return "there are enough"
    thread, chance = of.thread(), of.chance
    if chance.random() < 0.2:
        ref = await of.ask(lambda service: forks.regenerate(service, OWNER, thread))
    else:
        events = await of.ask(lambda service: service.events(OWNER, thread, limit=10_000))
        if not events:
            return "nothing to fork"
        chosen = chance.choice(events)
        edit = edit_of(chance, chosen)
        ref = await of.ask(lambda service: forks.fork(service, OWNER, thread, chosen.seq, edit=edit))
    of.threads.append(ref.thread)
    of.runs[ref.thread] = ref.run
    return f"{thread[-2:]} -> {ref.thread[-2:]}, run {ref.run}"


def edit_of(chance: Random, recorded: Recorded) -> forks.Edit | None:
    """Return how an event is changed where a thread is forked at it, or None."""
    if chance.random() < 0.5:
        return None
    match recorded.event:
        case MessageAdded():
            return forks.Edit(content="changed")
        case MessageEnded(message=message) if message.calls and message.calls[0].name in ("send", "look", "put"):
            return forks.Edit(call=message.calls[0].id, arguments='{"n": 9}')
        case MessageEnded(message=message) if message.content:
            return forks.Edit(content="changed")
        case ToolEnded():
            return forks.Edit(result="changed")
        case _:
            return None


async def delete(of: People, patience: float) -> str:
    if len(of.threads) < 2:
        return "too few"
    thread = of.chance.choice(of.threads[1:])
    of.threads.remove(thread)
    await of.ask(lambda service: service.delete(OWNER, thread))
    return thread[-2:]


ACTS: list[tuple[Act, int]] = [
    (speak, 8),
    (answer, 14),
    (steer, 5),
    (pause, 3),
    (go_on, 4),
    (cancel, 3),
    (look, 6),
    (edit_queue, 4),
    (set_policy, 1),
    (rename, 1),
    (pin, 2),
    (fork, 2),
]
"""What people do, and how often."""


class Fate:
    """Starts processes, kills them, and has others take over.

    Args:
        world: Where it works.
        assembling: Says what builds the engines of a process.
    """

    def __init__(self, world: World, assembling: Assembling) -> None:
        self.world, self._assembling = world, assembling
        self.chance = world.chance("fate")
        self.life = self.chance.choice((0.5, 3.0, 15.0, 15.0, 0.0))
        """Seconds that a process lives, on average; 0 for ever."""
        self.overlap = False
        """Two processes were at work at once."""
        self.over = False

    async def begin(self) -> Process:
        """Start a process, which goes on with what others left."""
        process = self.world.start(self._assembling)
        await self.resume(process)
        return process

    async def resume(self, process: Process) -> None:
        try:
            taken = await process.do(lambda service: service.resume())
            self.world.tell(f"{process} goes on with {taken}")
        except Gone:
            pass
        except (NoRoom, Broken):
            self.world.tell(f"{process} cannot go on with what is open")

    async def fill(self) -> None:
        """Have the disk be full, or fail, for a while now and then, until it is over."""
        chance, disk = self.world.chance("trouble"), self.world.disk
        every, long = chance.choice((0.5, 3.0, 10.0)), chance.choice((0.05, 1.0, 6.0))
        while not self.over:
            await asyncio.sleep(chance.expovariate(1 / every))
            if self.over:
                return
            disk.trouble, disk.failing = chance.choice((NoRoom(), Broken())), chance.choice((0.3, 1.0))
            self.world.tell(f"commits fail with {type(disk.trouble).__name__}, {disk.failing}")
            await asyncio.sleep(chance.expovariate(1 / long))
            disk.trouble = None
            self.world.tell("commits fail no more")
            for process in self.world.living:
                if chance.random() < 0.5:
                    await self.resume(process)

    async def rule(self) -> None:
        """Decide over life and death until it is over."""
        chance = self.chance
        while self.life and not self.over:
            await asyncio.sleep(chance.expovariate(1 / self.life))
            if self.over:
                return
            old = chance.choice(self.world.living)
            kind = chance.choices(("crash", "stop", "take over"), (6, 2, 2))[0]
            if kind == "take over":
                self.overlap = True
                await self.begin()
                await asyncio.sleep(chance.expovariate(1))
            await self.end(old, stops=kind == "stop" or chance.random() < 0.2)
            if not self.world.living:
                await asyncio.sleep(chance.choice((0.0, 0.1, 30.0)))
                await self.begin()
            for process in self.world.living:
                await self.resume(process)

    async def end(self, process: Process, *, stops: bool) -> None:
        if stops:
            await process.stop(self.chance.choice((0.0, 0.5, 5.0)))
        else:
            process.crash()
