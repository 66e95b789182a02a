"""One case: a scripted endpoint, servers over one data folder, an outside ledger, and the auditor when it is over.

    async with case(tmp_path, [text("Hello.")], parent) as it:
        async with it.serving() as server: ...      # in this process
        async with it.victim(Death(at=5)) as victim: ...   # a child process that kills itself

Servers follow one another on the folder. Leaving the block fails the test if something is left of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec
import psutil

from stepwell.config import Config
from stepwell.events import Recorded
from tests.faults.support.examine import Logs, check_wire, examine
from tests.faults.support.parent import Death, Order
from tests.faults.support.tools import Effect, effects
from tests.support.endpoint import Endpoint, Reply, Request, Script, text, tool_calls
from tests.support.server import WAIT, Client, Frame, Server, scripted, serving

ROOT = Path(__file__).parents[3]
TOOLS = "tests.faults.support.tools"
ALLOW = {"rules": [{"decision": "allow"}]}
NO_SUMMARIES = {"summary": {"enable": False}}


class Parent:
    """The warmed parent of victims; see `parent.py`."""

    def __init__(self) -> None:
        program = [sys.executable, "-m", "tests.faults.support.parent"]
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(program, stdin=pipe, stdout=pipe, cwd=ROOT, env=kept)
        self._orders, self._answers = _both(self._process)

    def ask(self, **order: Any) -> int:
        """Give an order and return the answer, which is a number."""
        self._orders.write(json.dumps(order).encode() + b"\n")
        self._orders.flush()
        return int(self._answers.readline())

    def children(self) -> list[psutil.Process]:
        """Return the victims that have not been laid to rest, and what they started."""
        return psutil.Process(self._process.pid).children(recursive=True)

    def seconds(self) -> float:
        """Return the processor time of all victims so far."""
        used = psutil.Process(self._process.pid).cpu_times()
        return used.user + used.system + used.children_user + used.children_system

    def owns(self, process: psutil.Process) -> bool:
        return process.pid == self._process.pid

    def stop(self) -> None:
        """Let it end by itself."""
        self._orders.close()
        self._answers.close()
        assert self._process.wait(WAIT) == 0


def _both(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


class Person(Client):
    """What a person does to a server, over HTTP."""

    async def post(self, path: str, body: Any = None, expect: int = 202) -> Any:
        """Make a request that must be answered with a status."""
        status, answer = await self.call("POST", path, json=body)
        assert status == expect, (path, status, answer)
        return answer

    async def questions(self, thread: str) -> list[dict[str, Any]]:
        """Return the open questions of a thread."""
        status, body = await self.call("GET", f"/api/threads/{thread}/questions")
        assert status == 200, body
        return body["questions"]

    async def asked(self, thread: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until so many questions are open, and return them."""
        found, known = list[dict[str, Any]](), 0
        while len(found) < count:  # what a process that died had asked is asked anew by the next one
            seen = await self.happens(thread, lambda events, n=known: len(events) > n and _open(events) >= count)
            found, known = await self.questions(thread), len(seen)
        assert len(found) == count, found
        return found

    async def decide(self, thread: str, question: int, decision: str, expect: int = 202, **more: Any) -> Any:
        """Decide a question."""
        path = f"/api/threads/{thread}/questions/{question}/answer"
        return await self.post(path, {"decision": decision, **more}, expect)

    async def events(self, thread: str) -> list[dict[str, Any]]:
        """Return all stored events of a thread."""
        found: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            status, page = await self.call("GET", f"/api/threads/{thread}/events?after={after}")
            assert status == 200, page
            found += page["events"]
            after = page["next"]
        return found

    async def happens(self, thread: str, when: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """Follow a thread until its stored events fulfil a condition, and return them."""
        stream, seen = await self.follow(thread), list[dict[str, Any]]()
        while not when(seen):
            frame = await stream.frame()
            assert frame is not None, f"the stream ended after {seen}"
            if not frame.comment and "offset" not in frame.body:
                seen.append(frame.body)
        stream.cut()
        return seen

    async def over(self, thread: str, runs: int = 1) -> list[dict[str, Any]]:
        """Wait until so many runs have ended."""
        return await self.happens(thread, lambda events: kinds(events).count("run_ended") == runs)


def kinds(events: Sequence[dict[str, Any]]) -> list[str]:
    """Return the types of events as clients get them."""
    return [each["event"]["type"].partition(".")[0] for each in events]


def shown(frames: Sequence[Frame]) -> str:
    """Return the visible text of pieces."""
    return "".join(frame.body["event"]["text"] for frame in frames if frame.data and frame.type == "text_delta")


def _open(events: Sequence[dict[str, Any]]) -> int:
    return kinds(events).count("asked") - kinds(events).count("answered")


class Victim(Person):
    """A server in a process of its own.

    Args:
        process: Its number.
        dies: Done when it has gone.
        parent: Who forked it.
    """

    def __init__(self, process: int, dies: asyncio.Future[None], parent: Parent) -> None:
        super().__init__(0)
        self.process, self._dies, self._parent = process, dies, parent
        self.code: int | None = None

    def kill(self) -> None:
        """Kill it with SIGKILL, from outside."""
        os.kill(self.process, signal.SIGKILL)

    async def died(self) -> int:
        """Wait until it has gone, and return its exit code; a signal's number is negative."""
        if self.code is None:
            async with asyncio.timeout(WAIT):
                await asyncio.shield(self._dies)
            self.code = self._parent.ask(reap=self.process)
        return self.code


class Case:
    """A case under way.

    Args:
        folder: Where everything of it is.
        endpoint: The model.
        settings: Of its servers, besides the model `m`, the tools and a rule that allows every call; `model` is what is
            special about the model.
        parent: Who forks victims.

    Attributes:
        logs: The logs of all threads, after the block.
    """

    def __init__(self, folder: Path, endpoint: Endpoint, settings: dict[str, Any], parent: Parent | None) -> None:
        self.folder, self.endpoint, self.parent = folder, endpoint, parent
        self.ledger, self.data = folder / "ledger", folder / "data"
        model = {"window": 32768, **settings.pop("model", {})}
        self.settings: dict[str, Any] = {
            "data": self.data,
            "port": 0,
            "auth": "off",
            "models": scripted(endpoint, **model),
            "tools": {"modules": [TOOLS]},
            "approvals": ALLOW,
            "execution": NO_SUMMARIES,
            **settings,
        }
        self.logs: Logs = {}
        self._errors = folder / "errors"

    @property
    def config(self) -> Config:
        return Config(**self.settings)

    @property
    def effects(self) -> list[Effect]:
        """What was done outside so far."""
        return effects(self.ledger)

    @property
    def log(self) -> list[Recorded]:
        """The log of the only thread."""
        (log,) = self.logs.values()
        return log

    @asynccontextmanager
    async def serving(self, **options: Any) -> AsyncGenerator[tuple[Person, Server]]:
        """Serve in this process."""
        settings = {name: value for name, value in self.settings.items() if name not in ("data", "port", "auth")}
        async with serving(self.folder, **settings, **options) as server:
            person = Person(server.port)
            try:
                yield person, server
            finally:
                await person.close()

    @asynccontextmanager
    async def victim(
        self, death: Death | None = None, *, die: str = "", skew: int = 0, lives: bool | None = None
    ) -> AsyncGenerator[Victim]:
        """Serve in a child process.

        Args:
            death: Where its store kills it.
            die: Where a tool kills it, as in `FAULTS_DIE`.
            skew: Milliseconds by which its clock is ahead.
            lives: Whether it must be alive at the end of the block, and is then stopped in order; None where it dies
                because of `death` or `die`.

        Raises:
            ConnectionResetError: It died before it answered requests.
        """
        assert self.parent is not None
        out, into = os.pipe()
        env = self._env | ({"FAULTS_DIE": die} if die else {})
        pipe = f"/proc/{os.getpid()}/fd/{into}"
        order = Order(str(self.folder), env, pipe, str(self._errors), death, skew)
        process = self.parent.ask(fork=msgspec.to_builtins(order))
        os.close(into)
        with _watching(process) as dies:
            victim = Victim(process, dies, self.parent)
            try:
                victim.listens(await _port(out))
                yield victim
                if death is None and not die if lives is None else lives:
                    os.kill(process, signal.SIGTERM)
                    assert await victim.died() == 0
                else:
                    assert await victim.died() == -signal.SIGKILL
            finally:
                if victim.code is None:
                    victim.kill()
                    await victim.died()
                await victim.close()

    @property
    def _env(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        flat = dict(_flat("STEPWELL", self.settings))
        return {**kept, "LANG": "C.UTF-8", "FAULTS_LEDGER": str(self.ledger), **flat}

    async def examine(self, *, open_runs: bool = False) -> None:
        """Have the auditor look at everything that is there."""
        assert not self._errors.exists() or not self._errors.read_text(), self._errors.read_text()
        for request in self.endpoint.requests:
            if request.path.endswith("/chat/completions"):
                check_wire(request.body)
        self.logs = await examine(self.config, self.effects, open_runs=open_runs)


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield settings as variables."""
    if isinstance(value, dict) and prefix != "STEPWELL_MODELS":
        for name, each in value.items():
            yield from _flat(f"{prefix}__{name}".upper().replace("STEPWELL__", "STEPWELL_"), each)
    else:
        yield prefix, value if isinstance(value, str) else str(value) if isinstance(value, Path) else json.dumps(value)


async def _port(pipe: int) -> int:
    """Read what a server says until it is up, and return where it listens."""
    loop, lines = asyncio.get_running_loop(), list[str]()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", 0))
    try:
        async with asyncio.timeout(WAIT):
            while not (lines and "Ctrl-C" in lines[-1]):
                line = await reader.readline()
                if not line:
                    raise ConnectionResetError(f"the server died before it was up: {lines}")
                lines.append(line.decode())
    finally:
        transport.close()
    return int(lines[0].split()[-1].rpartition(":")[2])


@contextmanager
def _watching(process: int) -> Iterator[asyncio.Future[None]]:
    """Give a future that is done when a process has gone."""
    loop = asyncio.get_running_loop()
    dies: asyncio.Future[None] = loop.create_future()
    file = os.pidfd_open(process)

    def gone() -> None:
        loop.remove_reader(file)
        dies.set_result(None)

    loop.add_reader(file, gone)
    try:
        yield dies
    finally:
        loop.remove_reader(file)
        os.close(file)


@asynccontextmanager
async def case(
    folder: Path, script: Script, parent: Parent | None = None, *, open_runs: bool = False, **settings: Any
) -> AsyncGenerator[Case]:
    """Carry a case out in a folder.

    Args:
        folder: Its own.
        script: What the model says; see `Endpoint`.
        parent: Who forks victims.
        open_runs: Whether runs may wait for somebody at its end.
        settings: Of its servers; see `Case`.
    """
    before, tasks = _children(parent), asyncio.all_tasks()
    async with Endpoint(script) as endpoint:
        made = Case(folder, endpoint, settings, parent)
        os.environ["FAULTS_LEDGER"] = str(made.ledger)
        try:
            yield made
        finally:
            del os.environ["FAULTS_LEDGER"]
    await made.examine(open_runs=open_runs)
    left = [each for each in _children(parent) if each not in before]
    assert not left, f"child processes are left: {left}"
    over = asyncio.all_tasks() - tasks
    assert not over, f"tasks are left: {over}"


def _children(parent: Parent | None) -> list[psutil.Process]:
    mine = psutil.Process().children(recursive=True)
    own = [each for each in mine if parent is None or not parent.owns(each)]
    return own


def run(main: Callable[[], Any], seconds: float = 50.0) -> None:
    """Carry an async test out within a bound."""

    async def body() -> None:
        async with asyncio.timeout(seconds):
            await main()

    asyncio.run(body())


async def met(condition: Callable[[], bool]) -> None:
    """Wait until something holds outside of this process, where there is nothing to be woken by."""
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.01)


# scripts


def calls(*wanted: tuple[str, Any], said: str = "", number: int = 0, **more: Any) -> Reply:
    """Return a reply that calls tools, each with its arguments: text as it is, else the JSON of fields."""
    made = [
        (f"call_{number}_{at}", name, [given if isinstance(given, str) else json.dumps(given)])
        for at, (name, given) in enumerate(wanted)
    ]
    return tool_calls(*made, said=said, **more)


def by_turn(*turns: Sequence[tuple[str, Any]], answer: str = "All done.") -> Callable[[Request], Reply]:
    """Return a model that decides by the request alone: the calls of each turn, then an answer.

    Those who ask again after a crash are given the same calls.
    """

    def script(request: Request) -> Reply:
        messages = request.body["messages"]
        last = max(at for at, each in enumerate(messages) if each["role"] == "user")
        done = sum(each["role"] == "tool" for each in messages[last:])
        for number, turn in enumerate(turns):
            if not done:
                return calls(*turn, said="Next: ", number=1000 * len(messages) + number, tokens_used=(10, 5))
            done -= len(turn)
        return text(*answer.split(" "), tokens_used=(10, 5))

    return script
