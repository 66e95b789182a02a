"""Runs one program to its end, with bounds on time, output, processes and memory, and leaves nothing behind.

It knows nothing of sandboxes. A program that makes a session of its own escapes the signals sent to its group: under
bubblewrap the kernel ends it with its namespace, without a sandbox it is found by its environment (`strays.py`).
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from stepwell.tools import strays

WATCH_SECONDS = 0.05
"""How often a running program's processes and memory are counted."""
TERM_SECONDS = 2.0
"""How long a program may take to end after SIGTERM before SIGKILL."""
LINGER_SECONDS = 1.0
"""How long output may still come after the program ended."""
SHORT_SECONDS = 1.0
"""After a program that ended by itself before, only processes younger than it are looked at: others cannot be its own,
for their numbers do not go round in that time unnoticed."""
FLOOD = 64 << 20
"""A program that writes this many bytes to one of its streams is stopped."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a program may use.

    Args:
        seconds: Wall-clock time.
        output: Bytes kept of each of stdout and stderr.
        processes: Processes and threads at once.
        memory: Resident bytes of all its processes together.
    """

    seconds: float
    output: int
    processes: int
    memory: int


class Outcome(msgspec.Struct, frozen=True):
    """How a program ended.

    Args:
        stdout: What it wrote, its middle left out where it is too long.
        stderr: The same.
        exit_code: As a shell tells it: 128 and the signal's number where a signal ended it.
        stopped: Why it was stopped; empty when it ended by itself.
        timed_out: It was stopped because its time was over.
        replaced: How many characters stand in stdout and stderr for bytes that are no text.
    """

    stdout: str
    stderr: str
    exit_code: int
    stopped: str = ""
    timed_out: bool = False
    replaced: int = 0


class _Stream:
    """Keeps the first and the last bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self.head, self.tail, self.total = bytearray(), bytearray(), 0
        self.half = limit // 2

    def feed(self, data: bytes) -> None:
        self.total += len(data)
        room = self.half - len(self.head)
        self.head += data[:room]
        self.tail += data[room:]
        if len(self.tail) > 2 * self.half:
            del self.tail[: -self.half]

    def text(self) -> tuple[str, int]:
        """Return what is kept, and how many characters of it stand for bytes that are no text."""
        if self.total <= len(self.head) + len(self.tail) <= 2 * self.half:
            return _decoded(bytes(self.head + self.tail))
        tail = bytes(self.tail[-self.half :])
        # A character that the cut went through is left out whole.
        start = next((index for index in range(min(4, len(tail))) if tail[index] & 0xC0 != 0x80), 0)
        left_out = f"\n[... {self.total - 2 * self.half} bytes left out ...]\n"
        (before, some), (after, more) = _decoded(bytes(self.head), final=False), _decoded(tail[start:])
        return before + left_out + after, some + more


def _decoded(data: bytes, *, final: bool = True) -> tuple[str, int]:
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(data, final)
    return text, text.count("\ufffd") - data.count("\ufffd".encode()) if "\ufffd" in text else 0


class _Protocol(asyncio.SubprocessProtocol):
    def __init__(self, limit: int) -> None:
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[None] = loop.create_future()
        self.drained: asyncio.Future[None] = loop.create_future()
        self.streams = {1: _Stream(limit), 2: _Stream(limit)}
        self.open = set(self.streams)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.streams[fd].feed(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self.open.discard(fd)
        if not self.open and not self.drained.done():
            self.drained.set_result(None)

    def process_exited(self) -> None:
        if not self.exited.done():
            self.exited.set_result(None)


async def run(
    argv: Sequence[str],
    bounds: Bounds,
    *,
    folder: Path,
    environment: Mapping[str, str],
    descriptors: Sequence[int] = (),
    find_strays: bool = False,
) -> Outcome:
    """Run a program in a session of its own, with no input, and wait for its end.

    At the end, whatever the reason, its process group is killed: by SIGTERM if it still runs, then by
    SIGKILL. A cancelled caller leaves after that.

    Args:
        argv: The program and its arguments.
        bounds: What it may use.
        folder: Where it runs.
        environment: Its whole environment.
        descriptors: File descriptors that it inherits.
        find_strays: Kill those of its processes, too, that left its group; Linux only.

    Raises:
        OSError: The program cannot be started.
    """
    token = strays.new_token() if find_strays else ""
    environment = {**environment, strays.VARIABLE: token} if token else environment
    starting = asyncio.ensure_future(_start(argv, bounds, folder, environment, descriptors))
    # A start cancelled half-way would kill the program that it made, but not what that has started already.
    cancelled = await _settle({starting})
    transport, protocol = starting.result()
    group, began = transport.get_pid(), time.monotonic()
    with contextlib.closing(transport):
        try:
            if cancelled is not None:
                raise cancelled
            stopped = await _watch(group, protocol, bounds)
        finally:
            await _end(group, protocol, not protocol.exited.done(), token, time.monotonic() - began)
    return _outcome(transport.get_returncode(), protocol, stopped)


async def _start(
    argv: Sequence[str], bounds: Bounds, folder: Path, environment: Mapping[str, str], descriptors: Sequence[int]
) -> tuple[asyncio.SubprocessTransport, _Protocol]:
    return await asyncio.get_running_loop().subprocess_exec(
        lambda: _Protocol(bounds.output),
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        cwd=folder,
        env=dict(environment),
        pass_fds=descriptors,
        start_new_session=True,
    )


def _outcome(code: int | None, protocol: _Protocol, stopped: str) -> Outcome:
    if code is None or code < 0:
        code = 128 - (-signal.SIGKILL if code is None else code)
    (out, some), (err, more) = protocol.streams[1].text(), protocol.streams[2].text()
    return Outcome(out, err, code, stopped, stopped.startswith(_TIME), some + more)


_TIME = "it ran longer than"


async def _watch(group: int, protocol: _Protocol, bounds: Bounds) -> str:
    """Wait until the program ends, and return an empty text, or until it uses too much, and return what."""
    loop = asyncio.get_running_loop()
    end = loop.time() + bounds.seconds
    while True:
        left = end - loop.time()
        await asyncio.wait({protocol.exited}, timeout=max(min(WATCH_SECONDS, left), 0))
        if protocol.exited.done():
            return ""
        if left <= 0:
            return f"{_TIME} {bounds.seconds:g} seconds"
        if any(each.total > FLOOD for each in protocol.streams.values()):
            return f"it wrote more than {FLOOD >> 20} MiB"
        processes, memory = usage(group, bounds.processes)
        if processes > bounds.processes:
            return f"it had more than {bounds.processes} processes and threads"
        if memory > bounds.memory:
            return f"it used more than {bounds.memory >> 20} MiB of memory"


async def _end(group: int, protocol: _Protocol, ask: bool, token: str, lasted: float) -> None:
    """Kill the group and its strays, and wait until its leader is gone, also when the caller is cancelled meanwhile.

    Args:
        group: The group.
        protocol: Its leader.
        ask: It still runs, and is asked to end first.
        token: What its strays bear; empty where they are not looked for.
        lasted: Seconds since it was started.
    """
    cancelled, short = None, not ask and lasted < SHORT_SECONDS
    if ask:
        _signal(group, signal.SIGTERM)
        cancelled = await _settle({protocol.exited}, TERM_SECONDS, patient=False)
    _signal(group, signal.SIGKILL)
    if token and not (short and not any(strays.look(token, above=group))):
        # Looking at every process of a busy machine takes some milliseconds.
        cancelled = await _settle({asyncio.ensure_future(asyncio.to_thread(strays.end, token))}) or cancelled
    cancelled = await _settle({protocol.exited, protocol.drained}, LINGER_SECONDS) or cancelled
    if cancelled is not None:
        raise cancelled


async def _settle(
    futures: set[asyncio.Future[Any]], seconds: float = math.inf, *, patient: bool = True
) -> asyncio.CancelledError | None:
    """Wait for futures, and return the cancellation that came meanwhile; an impatient wait ends with it."""
    loop = asyncio.get_running_loop()
    end, cancelled = loop.time() + seconds, None
    while not all(each.done() for each in futures) and loop.time() < end and (patient or cancelled is None):
        try:
            await asyncio.wait(futures, timeout=None if math.isinf(end) else end - loop.time())
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        # Nobody of the group is left; macOS says so by EPERM.
        return


def usage(pid: int, most: int) -> tuple[int, int]:
    """Count a process and its descendants: tasks, and resident bytes of their own; stops counting above `most` tasks.

    Both are 0 where the system has no Linux `/proc`.
    """
    tasks, memory, waiting = 0, 0, [str(pid)]
    while waiting and tasks <= most:
        each = f"/proc/{waiting.pop()}"
        resident = _read(f"{each}/statm").split()[1:3]
        if resident:
            memory += (int(resident[0]) - int(resident[1])) * _PAGE
        for task in _tasks(each):
            tasks += 1
            waiting += _read(f"{each}/task/{task}/children").split()
    return tasks, memory


def _tasks(process: str) -> list[str]:
    try:
        return os.listdir(f"{process}/task")
    except OSError:
        return []


def _read(path: str) -> str:
    """Return a file's text, or an empty one where the process ended while it was counted."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""
