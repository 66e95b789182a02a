"""Runs the real `stepwell` command for tests, with pipes or in a terminal, over a data folder of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from tests.support.endpoint import Endpoint

PROGRAM = str(Path(sys.executable).with_name("stepwell"))
WAIT = 20.0
"""Seconds that any one wait may take."""
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str


class Cli:
    """The command line of one person: their folder, environment and language.

    Args:
        folder: Where they are; the data folder is `data` in it.
        env: Variables besides.
    """

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder, self.data = folder, folder / "data"
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self.env = {**kept, "STEPWELL_DATA": str(self.data), "LANG": "C.UTF-8", "TERM": "xterm", **env}

    def at(self, base_url: str, **more: str) -> Cli:
        """Let the model `m` at this endpoint answer."""
        self.env |= {"STEPWELL_MODELS__M__BASE_URL": base_url, "STEPWELL_MODELS__M__API_KEY": "sk-1", **more}
        return self

    async def start(self, *args: str | bytes, **options: Any) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        streams = {"stdin": asyncio.subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, **options}
        return await asyncio.create_subprocess_exec(PROGRAM, *args, cwd=self.folder, env=self.env, **streams)

    async def run(self, *args: str | bytes, stdin: str | None = None, **options: Any) -> Done:
        if stdin is not None:
            options["stdin"] = asyncio.subprocess.PIPE
        return await finish(await self.start(*args, **options), None if stdin is None else stdin.encode())

    async def threads(self) -> list[str]:
        """Return the ids of one's threads, newest first, from the file: a command for each look takes half a second."""
        try:
            db = apsw.Connection(str(self.data / "stepwell.db"), flags=apsw.SQLITE_OPEN_READWRITE)
        except apsw.CantOpenError:
            return []
        db.set_busy_timeout(round(WAIT * 1000))
        made = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'threads'").get
        sql = "SELECT id FROM threads WHERE owner = 'local' ORDER BY no DESC"
        ids = [id for (id,) in db.execute(sql)] if made else []
        db.close()
        return ids

    async def stored(self) -> str:
        """Wait until a thread is on the disk and return its id: a model may be asked a moment before."""
        async with asyncio.timeout(WAIT):
            while not (ids := await self.threads()):
                await asyncio.sleep(0)
        return ids[0]

    async def left_open(self, endpoint: Endpoint) -> str:
        """Ask, kill the command while the model answers, and return the thread that it leaves."""
        process = await self.start("ask", "hello")
        await endpoint.request(0)
        thread = await self.stored()
        process.kill()
        await finish(process)
        return thread

    async def shown(self, thread: str) -> list[str]:
        """Return the lines of `show`, without numbers and times."""
        done = await self.run("show", thread)
        assert done.code == 0, done
        return [line.strip().split("  ", 2)[2] for line in done.out.splitlines()]

    @contextlib.asynccontextmanager
    async def serving(self, *args: str) -> AsyncGenerator[Serving]:
        """Run `stepwell serve` on a free port until the block ends."""
        process = await self.start("serve", "--port", "0", *args)
        serving = Serving(process)
        try:
            await serving.up()
            yield serving
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGINT)
            await finish(process)

    @contextlib.asynccontextmanager
    async def maybe_serving(self, served: bool) -> AsyncGenerator[None]:
        """Run `stepwell serve` until the block ends, or do not."""
        async with self.serving() if served else contextlib.nullcontext():
            yield

    @contextlib.asynccontextmanager
    async def chatting(self, *args: str) -> AsyncGenerator[Terminal]:
        """Chat in a terminal, from the first prompt on; at the end it is left by Ctrl-D, with the code 0."""
        async with self.terminal("chat", *args) as terminal:
            await terminal.expect("> ")
            yield terminal
            terminal.type("\x04")
            assert await terminal.left() == 0

    @contextlib.asynccontextmanager
    async def terminal(self, *args: str, env: Mapping[str, str] | None = None) -> AsyncGenerator[Terminal]:
        """Run a command in a terminal of its own; it is killed at the end if it has not left."""
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        process = await asyncio.create_subprocess_exec(
            PROGRAM,
            *args,
            cwd=self.folder,
            env={**self.env, **(env or {})},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        terminal = Terminal(process, master)
        try:
            yield terminal
        finally:
            terminal.close()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def finish(process: asyncio.subprocess.Process, stdin: bytes | None = None) -> Done:
    """Wait for a command; it is killed if it does not end."""
    try:
        async with asyncio.timeout(WAIT):
            out, err = await process.communicate(stdin)
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    assert process.returncode is not None
    done = Done(process.returncode, (out or b"").decode(), (err or b"").decode())
    assert "Traceback" not in done.err, done.err
    return done


class Serving:
    """A server that a test started."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def up(self) -> None:
        """Wait until it says how to stop it, the last line of its greeting."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT):
            while not (self.lines and "Ctrl-C" in self.lines[-1]):
                line = await self.process.stdout.readline()
                assert line, self.lines
                self.lines.append(line.decode().rstrip("\n"))

    @property
    def url(self) -> str:
        return self.lines[0].split()[-1]

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


class Terminal:
    """A command in a terminal, as a person has it."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process, self._master = process, master
        self.raw = ""
        """Everything that was shown, with its escape sequences."""
        self._seen = 0
        self._more = asyncio.Event()
        os.set_blocking(master, False)
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other side is closed
            asyncio.get_running_loop().remove_reader(self._master)
            data = b""
        self.raw += data.decode("utf-8", "replace")
        self._more.set()

    @property
    def text(self) -> str:
        """Everything that was shown, as it reads."""
        return _ESCAPE.sub("", self.raw).replace("\r\n", "\n")

    async def expect(self, words: str) -> str:
        """Wait until the words are shown after all that was expected before; return what stood before them."""
        async with asyncio.timeout(WAIT):
            while (at := self.text.find(words, self._seen)) < 0:
                self._more.clear()
                try:
                    await self._more.wait()
                except asyncio.CancelledError:
                    raise AssertionError(f"{words!r} is not in {self.text[self._seen :]!r}") from None
        before, self._seen = self.text[self._seen : at], at + len(words)
        return before

    async def enter(self, line: str, *words: str) -> None:
        """Type a line, and wait for words one after the other."""
        self.type(f"{line}\n")
        for each in words:
            await self.expect(each)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    async def left(self) -> int:
        """Wait until the command has ended and return its exit code."""
        async with asyncio.timeout(WAIT):
            return await self.process.wait()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)
