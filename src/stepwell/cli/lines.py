"""Lines from stdin while an event loop runs: typed by a person, with editing, or piped from a program."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Generator

try:
    import readline
except ImportError:  # not every Python has it; `input` edits lines with it
    readline = None

BLOCK = 65536


class Lines:
    """Reads one line at a time, each in a thread of its own that never keeps the process alive."""

    def __init__(self) -> None:
        self.typed = sys.stdin.isatty()
        """Whether a person types them."""
        self._rest = b""
        self._ended = self._left = False
        self._kept: list[str] = []
        if self.typed and readline:
            for each in ("input-meta on", "convert-meta off", "output-meta on"):
                readline.parse_and_bind(f"set {each}")  # else bytes of UTF-8 are editing commands in the locale C

    @contextlib.contextmanager
    def listening(self, take: Callable[[str | None], None]) -> Generator[None]:
        """Hand over each line that a person types while the block is open, without a prompt; None is Ctrl-D.

        The terminal itself edits the line; what is not sent yet when the block ends stays for the next prompt.
        """
        loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()

        def ready() -> None:
            try:
                data = os.read(descriptor, BLOCK)
            except OSError:  # the terminal went away
                data = b""
            if not data:
                loop.remove_reader(descriptor)
                take(None)
            for line in data.decode("utf-8", "replace").splitlines():
                take(line)

        if self.typed:
            loop.add_reader(descriptor, ready)
        try:
            yield
        finally:
            if self.typed:
                loop.remove_reader(descriptor)

    def keep(self, line: str | None) -> None:
        """Have a line that was handed over and not used be the next one; None is Ctrl-D."""
        if line is None:
            self.leave()
        else:
            self._kept.append(line)

    def leave(self) -> bool:
        """Take it that the person has left: there is no next line. Return True."""
        self._left = True
        return True

    async def next(self, prompt: str) -> str | None:
        """Return the next line without its end, or None at the end of the input.

        Args:
            prompt: Shown to a person.
        """
        if self._kept:
            return self._kept.pop(0)
        if self._left:
            return None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str | None] = loop.create_future()

        def deliver(line: str | None) -> None:
            if not future.done():
                future.set_result(line)

        def work() -> None:
            line = self._ask(prompt) if self.typed else self._read()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(deliver, line)

        threading.Thread(target=work, name="stepwell-stdin", daemon=True).start()
        return await future

    def redraw(self, prompt: str, write: Callable[[str], None]) -> None:
        """Show the prompt again after something else was written over it, with what is typed so far."""
        write(prompt + (readline.get_line_buffer() if readline else ""))

    def _ask(self, prompt: str) -> str | None:
        if not sys.stdout.isatty():  # answers go to a file, and the prompt is none of them
            sys.stderr.write(prompt)
            sys.stderr.flush()
            prompt = ""
        try:
            return input(prompt)
        except (EOFError, OSError):  # OSError: the terminal went away
            return None

    def _read(self) -> str | None:
        # By descriptor: a thread that waits inside `sys.stdin` would hold its lock when the process ends.
        while b"\n" not in self._rest and not self._ended:
            try:
                block = os.read(sys.stdin.fileno(), BLOCK)
            except OSError:
                block = b""
            self._rest += block
            self._ended = not block
        line, found, self._rest = self._rest.partition(b"\n")
        if not line and not found:
            return None
        return line.decode("utf-8", "replace").removesuffix("\r")
