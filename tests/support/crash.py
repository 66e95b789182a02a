"""Processes that die: each carries a run out until so many events are stored, and kills itself with SIGKILL there.

Run as a program, it imports everything once and forks a victim, and then one who goes on, for every number of
events. Nothing of it may start a thread or a loop before the last fork.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import apsw
import msgspec

from stepwell.events import Recorded
from stepwell.log import NO_BLOBS
from stepwell.messages import Message, ToolCall
from stepwell.models.base import ModelRequest
from stepwell.models.scripted import Answer, ScriptedModel, call, reply
from stepwell.specs import ContextSpec, RunSpec
from stepwell.store.base import NO_SPENDING, KeyUse, Spending, ThreadInfo
from stepwell.store.sqlite import SqliteStore
from stepwell.tools.base import Tool, ToolContext, as_tool
from stepwell.tools.mark import tool
from tests.support.delegating import DELEGATE, DelegatingRig
from tests.support.runs import OWNER, Rig, until
from tests.support.tasks import concluded, offered, results, submit

ROOT = Path(__file__).parents[2]
When = Literal["committed", "told"]
"""A victim dies before those who wait for the commit learn of it, or after."""

AT_ONCE = 3
"""Cases under way at the same time."""
ANSWER = "All ten calls were made."
CALLS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("note", "a"), ("look", "b")),
    (("put", "c"),),
    (("note", "d"), ("note", "e"), ("look", "f")),
    (("look", "g"),),
    (("note", "h"), ("put", "i")),
    (("look", "j"),),
)
"""The calls of each reply: writing, idempotent and pure ones, ten in all."""


class Case(NamedTuple):
    """One way to die.

    Args:
        name: A name for its folder.
        at: So many events are stored when the first process dies; 0 lets it live.
        when: See `When`.
        again: So many more are stored when the one who goes on dies too; 0 lets it live.
        kind: What is carried out: ten calls, a long run that is compacted and summarised, or tasks given to others.
    """

    name: str
    at: int
    when: When
    again: int = 0
    kind: Literal["ten", "long", "given"] = "ten"


def brain(request: ModelRequest) -> Answer:
    """Decide by the request alone: which replies have their results."""
    done = sum(message.role == "tool" for message in request.messages)
    for calls in CALLS:
        if not done:
            return reply("Next: ", *(call(name, what=what) for name, what in calls), cut=2)
        done -= len(calls)
    return reply(ANSWER, cut=5)


PAGES = 24
BOOKED = "All pages are booked."
PAGE = re.compile(r"(?:page |page=|page\":)(\d+)")
SMALL = ContextSpec(window=4096, reserve=512, summarize=("tool_calls", "working_context"))
"""A window that holds a few pages only."""


def bookkeeper(request: ModelRequest) -> Answer:
    """Decide by what is left in the request: the newest page that is told of, or was called for."""
    told = [text for each in request.all for text in (each.content, *(call.arguments for call in each.calls))]
    page = max((int(number) for text in told for number in PAGE.findall(text)), default=0) + 1
    return call("book" if page % 4 == 0 else "read", page=page) if page <= PAGES else reply(BOOKED, cut=5)


def summarizer(ledger: Path) -> ScriptedModel:
    """Return a model that makes summaries and notes each in the ledger, where it outlives its process."""

    def brain(request: ModelRequest) -> Answer:
        kind = "tool_calls" if "critical_actions" in request.messages[0].content else "working_context"
        enter(ledger, f"summary {kind} -")
        said = {"intentions": "To book pages.", "critical_actions": [0]}
        return msgspec.json.encode(said if kind == "tool_calls" else {"summary": "I booked pages."}).decode()

    return ScriptedModel(brain)


def pages(ledger: Path) -> list[Tool]:
    """Return the tools of the long run."""

    async def read(page: int) -> str:
        """Read a page."""
        return f"page {page}: " + "the tide is high " * 20

    async def book(page: int) -> str:
        """Book a page; twice is harm."""
        enter(ledger, f"book {page} -")
        return f"page {page}: booked " + "in the big book " * 20

    return [as_tool(tool(effect="pure")(read)), as_tool(tool(effect="write")(book))]


GIVEN = "Both tasks were done."
TASKS: dict[str, tuple[ToolCall, ...]] = {
    "x": (call("note", what="a"), call("look", what="b")),
    "y": (call("put", what="c"), call("delegate", agent="reader", task="z")),
    "z": (call("note", what="d"),),
}
"""What is called for each task, one after the other; two are given at once, the third by whoever does the second."""


def giver(request: ModelRequest) -> Answer:
    """Decide by what is offered, the task and the number of results."""
    done, names = len(results(request)), offered(request)
    if "conclusion" in names:
        return concluded("ended")
    if "subtask_submit" not in names:
        tasks = (call("delegate", agent=agent, task=task) for agent, task in (("reader", "x"), ("writer", "y")))
        return GIVEN if done else reply("", *tasks)
    opening = next(each.content for each in request.messages if each.role == "user")
    calls = TASKS[opening.split("\n\n")[1]]
    return calls[done] if done < len(calls) else submit("did it")


def enter(ledger: Path, line: str) -> None:
    """Add a line to a file such that it outlives the process."""
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.fsync(file)
    os.close(file)


def tools(ledger: Path) -> list[Tool]:
    """Return the tools; each leaves a line in the ledger that outlives its process."""

    def done(name: str, what: str, key: str) -> str:
        enter(ledger, f"{name} {what} {key}")
        return f"{name} {what} done"

    async def note(what: str, context: ToolContext) -> str:
        """Note something down; twice is harm."""
        return done("note", what, context.key)

    async def put(what: str, context: ToolContext) -> str:
        """Put something in its place."""
        return done("put", what, context.key)

    async def look(what: str, context: ToolContext) -> str:
        """Look something up."""
        return done("look", what, context.key)

    return [
        as_tool(tool(effect="write")(note)),
        as_tool(tool(effect="idempotent")(put)),
        as_tool(tool(effect="pure")(look)),
    ]


class Fatal(SqliteStore):
    """A store that commits every event alone and kills its process when there are so many.

    Args:
        path: The database file.
        at: So many events.
        when: See `When`.
    """

    def __init__(self, path: Path, at: int, when: When) -> None:
        super().__init__(path)
        self._at, self._when = at, when

    def append(
        self,
        thread: str,
        events: Sequence[Recorded],
        *,
        expect: int,
        new: ThreadInfo | None = None,
        key: KeyUse | None = None,
        blobs: Mapping[str, bytes] = NO_BLOBS,
        wake: int | None = None,
        spent: Mapping[str, Spending] = NO_SPENDING,
    ) -> asyncio.Future[None]:
        parts = [events] if new is not None else [[event] for event in events]
        futures = [
            super(Fatal, self).append(
                thread, part, expect=expect + place, new=new, key=key, blobs=blobs, wake=wake, spent=spent
            )
            for place, part in enumerate(parts)
        ]
        for place, future in enumerate(futures):
            if self._when == "told" and expect + len(parts[0]) + place >= self._at:
                future.add_done_callback(self._die_soon)
        return futures[-1]

    def _die_soon(self, _: object) -> None:
        loop = asyncio.get_running_loop()
        # In the next turn whoever waited is woken, in the one after that it has gone on.
        loop.call_soon(lambda: loop.call_soon(loop.call_soon, die))

    def _commit(self, jobs: list[Any]) -> None:
        for job in jobs:
            super()._commit([job])
            if self._when == "committed" and self._writer.execute("SELECT count(*) FROM events").get >= self._at:
                die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def rig(folder: Path, case: Case, at: int) -> Rig:
    """Return what carries a case out in a folder, and dies when so many events are stored; 0 for never."""
    path, ledger = folder / "stepwell.db", folder / "ledger"
    store = Fatal(path, at, case.when) if at else SqliteStore(path)
    if case.kind == "long":
        return Rig(store, bookkeeper, pages(ledger), summarizer=summarizer(ledger))
    if case.kind == "given":
        return DelegatingRig(store, giver, [*tools(ledger), DELEGATE])
    return Rig(store, brain, tools(ledger))


async def first(folder: Path, case: Case) -> None:
    """Start the run and carry it out as far as the case allows."""
    made = rig(folder, case, case.at)
    # Nobody is asked what became of a call that was cut: the model is told that nobody knows.
    spec = RunSpec(tools=made.toolbox.names, context=SMALL if case.kind == "long" else None, people=False)
    ref = await made.service.start(OWNER, Message("user", "go"), spec)
    await until(made.service, ref.thread, lambda item: item.ends_run)
    await made.service.stop(5.0)


async def go_on(folder: Path, case: Case, at: int) -> None:
    """Go on with what another process left."""
    made = rig(folder, case, at)
    await made.service.resume()
    for info in await made.service.threads(OWNER):
        await until(made.service, info.id, lambda item: item.ends_run)
    await made.service.stop(5.0)


def fork(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Carry out a coroutine in a process of its own, and return the process."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        asyncio.run(main())
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def stored(folder: Path) -> int:
    db = apsw.Connection(str(folder / "stepwell.db"))
    count = db.execute("SELECT count(*) FROM events").get
    db.close()
    return count


class Running:
    """A case under way: one process after the other."""

    def __init__(self, folder: Path, case: Case) -> None:
        self.folder, self.case = folder / case.name, case
        self.folder.mkdir()
        self.ends: list[int] = []
        self.process = fork(lambda: first(self.folder, case))

    def next(self, status: int) -> bool:
        """Note how a process ended and start the next; return whether there was one to start."""
        self.ends.append(os.waitstatus_to_exitcode(status))
        case = self.case
        if len(self.ends) == 1 and case.again:
            at = stored(self.folder) + case.again
            self.process = fork(lambda: go_on(self.folder, case, at))
        elif len(self.ends) <= 1 + bool(case.again):
            self.process = fork(lambda: go_on(self.folder, case, 0))
        else:
            return False
        return True


def carry_out(folder: Path, cases: list[Case]) -> dict[str, list[int]]:
    """Carry cases out in processes forked from one that has imported everything; return how those ended."""
    program = [sys.executable, "-m", "tests.support.crash", str(folder)]
    done = subprocess.run(
        program, input=json.dumps(cases), cwd=ROOT, capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stderr
    ends = dict(json.loads(line) for line in done.stdout.splitlines())
    assert ends.keys() == {case.name for case in cases}, done.stderr
    assert not done.stderr
    return ends


def log_of(folder: Path) -> list[Recorded]:
    """Return the one log of a case that is over."""

    async def read() -> list[Recorded]:
        store = SqliteStore(folder / "stepwell.db")
        (info,) = await store.threads(OWNER)
        events = await store.read(info.id)
        await store.close()
        return events

    return asyncio.run(read())


def main(folder: Path, cases: list[Case]) -> None:
    """Carry cases out, and print how the processes of each ended."""
    left, running = list(reversed(cases)), dict[int, Running]()
    while left or running:
        while left and len(running) < AT_ONCE:
            started = Running(folder, left.pop())
            running[started.process] = started
        process, status = os.wait()
        ended = running.pop(process)
        if ended.next(status):
            running[ended.process] = ended
        else:
            print(json.dumps([ended.case.name, ended.ends]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Case(*each) for each in json.load(sys.stdin)])
