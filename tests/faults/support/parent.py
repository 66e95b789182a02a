"""The warmed parent of servers: it imports everything once and forks a real `stepwell serve` for every order.

Run as a program, it reads orders from stdin and answers each on stdout, one JSON object a line. Nothing of it may start
a thread or a loop. A victim is the command as a person starts it, over a store that kills its process with SIGKILL when
a certain event is on the disk.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import msgspec

from stepwell.config import load
from stepwell.events import Recorded
from stepwell.runs.service import RunService
from stepwell.server.app import create_app
from stepwell.store.base import Store
from stepwell.store.memory import MemoryStore
from stepwell.store.sqlite import SqliteStore
from stepwell.wiring.catalog import ConfigCatalog

WARM = (
    "uvloop",
    "tests.faults.support.tools",
    "stepwell.agent.summaries",
    "stepwell.cli.app",
    "stepwell.cli.screen",
    "stepwell.cli.serve",
    "stepwell.engines.chat",
    "stepwell.models.openai",
    "stepwell.runs.service",
    "stepwell.server.app",
    "stepwell.server.run",
    "stepwell.store.keys",
    "stepwell.store.lock",
    "stepwell.tools.builtin.ask_human",
    "stepwell.tools.builtin.recall",
    "stepwell.tools.builtin.shell",
    "stepwell.tools.builtin.unconfigured",
    "stepwell.wiring.catalog",
    "stepwell.wiring.host",
    "typer._adapters",
    "uvicorn.lifespan.on",
)
"""What a server imports until it has carried out a run."""


PR_SET_PDEATHSIG = 1
"""Has a process killed when its parent ends, so that no victim outlives a test that was stopped (prctl(2))."""
LIBC = ctypes.CDLL(None)


class Death(msgspec.Struct, frozen=True):
    """Where a victim kills itself; it counts what this process stores.

    Args:
        at: So many events are stored.
        type: An event of this type is stored; empty for any.
        nth: Which one of them.
        when: Before those who wait for the commit learn of it, or after; or `held`: the event is never stored, and the
            process lives on until somebody kills it.
    """

    at: int = 0
    type: str = ""
    nth: int = 1
    when: Literal["committed", "told", "held"] = "committed"


class Order(msgspec.Struct, frozen=True):
    """One server to fork.

    Args:
        folder: Its current folder.
        env: All of its variables.
        stdout: Path of the pipe that it writes to.
        stderr: Path of the file that it adds its errors to.
        death: Where it kills itself; None to live.
        skew: Milliseconds by which its clock is ahead.
    """

    folder: str
    env: dict[str, str]
    stdout: str
    stderr: str
    death: Death | None = None
    skew: int = 0


class Fatal(SqliteStore):
    """A store that commits every append alone and kills its process where an order says.

    Args:
        path: The database file.
        death: See `Death`.
    """

    def __init__(self, path: Path, death: Death) -> None:
        super().__init__(path)
        self._death, self._count, self._kind = death, 0, f'{{"type":"{death.type}'.encode()

    def append(self, thread: str, events: Sequence[Recorded], **options: Any) -> asyncio.Future[None]:
        if self._death.when == "held" and self._reaches(events):
            return asyncio.get_running_loop().create_future()
        future = super().append(thread, events, **options)
        if self._death.when == "told":
            future.add_done_callback(lambda _: self._told(events))
        return future

    def _told(self, events: Sequence[Recorded]) -> None:
        if self._reaches(events):
            loop = asyncio.get_running_loop()
            # In the next turn whoever waited is woken, in the one after that it has gone on.
            loop.call_soon(lambda: loop.call_soon(loop.call_soon, die))

    def _commit(self, jobs: list[Any]) -> None:
        for job in jobs:
            super()._commit([job])
            if self._death.when == "committed" and self._reaches(getattr(job, "events", ())):
                die()

    def _reaches(self, events: Sequence[Recorded]) -> bool:
        death = self._death
        wanted = death.at or death.nth
        before = self._count
        self._count += sum(bool(death.at) or each.body.startswith(self._kind) for each in events)
        return before < wanted <= self._count


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def serve(order: Order) -> None:
    """Be the command that the order describes; never return."""
    code: str | int | None = 1
    try:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.environ.clear()
        os.environ.update(order.env)
        os.chdir(order.folder)
        errors = os.open(order.stderr, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(errors, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _inject(order)
        sys.argv = ["stepwell", "serve", "--port", "0"]
        code = importlib.import_module("stepwell.cli.app").run()
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1 if code else 0)


def _inject(order: Order) -> None:
    """Put the fault in its place; the process is the victim's own."""
    death = order.death
    if death is not None:

        def make_store(path: str | os.PathLike[str]) -> Store:
            return Fatal(Path(path), death)

        vars(importlib.import_module("stepwell.wiring.host"))["make_store"] = make_store
    if order.skew:
        skewed = SimpleNamespace(time_ns=lambda: time.time_ns() + order.skew * 1_000_000)
        vars(importlib.import_module("stepwell.runs.log"))["time"] = skewed


def fork(order: Order) -> int:
    """Fork a server and return its process."""
    # Opened by name, so that it is closed for good when the victim has gone.
    pipe = os.open(order.stdout, os.O_WRONLY)
    process = os.fork()
    if not process:
        os.dup2(pipe, 1)
        os.close(pipe)
        serve(order)
    os.close(pipe)
    return process


def warm() -> None:
    """Import all that a server imports, and fill the caches that its application fills when it is made."""
    for name in WARM:
        importlib.import_module(name)
    config = load(auth="off", models={"m": {"base_url": "http://127.0.0.1:1/v1"}})
    catalog = ConfigCatalog(config)
    create_app(config, catalog, RunService(MemoryStore(), catalog.assemble))
    # What is frozen is not looked at by the collector of a victim, so its pages stay shared.
    gc.collect()
    gc.freeze()


def main() -> None:
    """Answer orders until stdin ends."""
    warm()
    for line in iter(sys.stdin.buffer.readline, b""):
        order = json.loads(line)
        if "fork" in order:
            answer = fork(msgspec.convert(order["fork"], Order))
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["reap"], 0)[1])
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
