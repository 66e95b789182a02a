"""A control group of Linux around one command, with a limit on its processes.

Only a server run by root needs and may make one: for others the kernel's own limit for each user holds, which
does not count root's processes. It is no sandbox.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path

_PARENTS = ("/sys/fs/cgroup/pids", "/sys/fs/cgroup")
"""Where the controller of processes is: in the first version of control groups, and in the second."""
_JOIN = 'echo $$ >"$0" && exec "$@"'
REMOVE_SECONDS = 1.0
"""How long the last processes may take to disappear."""


class Cell:
    """A control group; make it with `make`.

    Args:
        folder: Its folder among the system's control groups.
    """

    __slots__ = ("folder",)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entrance(self) -> list[str]:
        """Return the start of a command line: the program that follows runs inside."""
        return ["/bin/sh", "-c", _JOIN, str(self.folder / "cgroup.procs")]

    def remove(self) -> bool:
        """Remove it and say whether it is gone; it stays while a process is in it, also a dying one."""
        try:
            self.folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    async def clear(self) -> None:
        """Wait until its processes are gone, at most `REMOVE_SECONDS`, and remove it."""
        end = asyncio.get_running_loop().time() + REMOVE_SECONDS
        while not self.remove() and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.01)


def make(processes: int) -> Cell | None:
    """Make a control group for at most this many processes and threads, or return None where that cannot be."""
    if os.geteuid() != 0:
        return None
    for parent in _PARENTS:
        folder = Path(parent, f"stepwell-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / "pids.max").write_text(str(processes))
        except OSError:
            folder.rmdir()
            continue
        return Cell(folder)
    return None
