"""Processes of one call that left its group: each is known by a token in its environment, and killed.

It works where the system has Linux's `/proc`; elsewhere nothing is found. A program that takes the token out of its
environment, or that runs as another user, is not found either: this is tidiness, and no sandbox.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

VARIABLE = "STEPWELL_CALL"
"""The environment variable that holds the token."""
SECONDS = 1.0
"""How long they are looked for again and again, until none is left."""
PAUSE = 0.005
"""Seconds between two looks."""
UNSURE = 3
"""Looks in a row that find none and leave it open: some processes have no environment at all."""


def new_token() -> str:
    """Return a token that nobody else has; empty where processes cannot be found by it."""
    return secrets.token_hex(16) if Path("/proc/self/environ").exists() else ""


class Look(NamedTuple):
    """What was found.

    Args:
        found: Processes that have the token.
        unsure: Some process has no environment: it may be just starting a program.
    """

    found: list[int]
    unsure: bool


def look(token: str, above: int = 0) -> Look:
    """Look at all processes but this one.

    Args:
        token: As `new_token` made it.
        above: Looks only at processes that were begun after the one with this number, as their numbers tell; 0 for all.
    """
    mine = os.getpid()
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    if above and _newest() >= above:
        numbers = [each for each in numbers if each > above]
    found, unsure, wanted = list[int](), False, f"{VARIABLE}={token}".encode()
    for each in numbers:
        data = _read(each, "environ") if each != mine else b"-"
        if wanted in data and wanted in data.split(b"\0"):
            found.append(each)
        # While a program is started its environment is empty, but not its memory.
        unsure = unsure or (not data and _read(each, "statm").split(b" ")[0] not in (b"", b"0"))
    return Look(found, unsure)


def end(token: str, seconds: float = SECONDS) -> None:
    """Kill all processes that have this token, until none is left or the time is over; blocks meanwhile.

    Args:
        token: As `new_token` made it.
        seconds: How long to go on at most.
    """
    last, unsure = time.monotonic() + seconds, 0
    while any(now := look(token)):
        for each in now.found:
            _kill(each, token)
        unsure = 0 if now.found else unsure + 1
        if unsure == UNSURE or time.monotonic() >= last:
            return
        time.sleep(PAUSE)


def _newest() -> int:
    """Return the number that was given to a process last; 0 where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/loadavg").read_text().split()[4])
    return 0


def _read(process: int, name: str) -> bytes:
    try:
        with open(f"/proc/{process}/{name}", "rb", buffering=0) as file:
            return file.readall()
    except PermissionError:
        return b"another user's"
    except OSError:  # it ended
        return b""


def _kill(process: int, token: str) -> None:
    """Kill a process, unless its number was given to another one meanwhile."""
    with suppress(OSError):
        descriptor = os.pidfd_open(process)
        try:
            if f"{VARIABLE}={token}".encode() in _read(process, "environ").split(b"\0"):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
