"""Ctrl-C while an event loop runs: it calls what the command says, or else ends the command."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any


class Interrupts:
    """Decides what Ctrl-C does while its block is open.

    Attributes:
        call: Called on Ctrl-C; None ends the command.
    """

    def __init__(self) -> None:
        self.call: Callable[[], None] | None = None
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> Interrupts:
        self._task = asyncio.current_task()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._sound)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)

    def _sound(self) -> None:
        if self.call is not None:
            self.call()
        elif self._task is not None:
            self._task.cancel()


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run a command's coroutine to its exit code.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it.
    """
    try:
        return asyncio.run(work)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
