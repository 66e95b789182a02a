"""What a login at a server brought, kept in a file of its owner's alone; it stands in no log and no message.

A file belongs to one server. Several processes may use it: who renews a token holds the lock meanwhile.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from stepwell.config.mcp import SECRET
from stepwell.errors import ToolError
from stepwell.tools.mcp.files import open_lock, replace

FOLDER = "mcp_logins"
"""In the data folder, for its owner alone; a file for each server."""
LOCKING, AGAIN = 40.0, 0.05
"""Seconds to wait for another process that renews the token, which may take it 30, and between two looks."""
LONGEST = 10 * 365 * 24 * 3600
"""Seconds that a token holds at most, whatever is said of it."""


class Grant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a login brought.

    Args:
        url: The server's address that it is for, and no other.
        access: The token that requests bring.
        refresh: What a new one is had with; empty for nothing.
        expires: When the token ends, in seconds since 1970; 0 for not known.
        client: The id under which this program is registered.
        secret: Its secret; empty for none.
        method: How it shows who it is, as RFC 7591 has it; empty for not at all.
        endpoint: The address where tokens are renewed.
        resource: What tokens are asked for, as RFC 8707 has it; empty for not said.
    """

    url: str
    access: str
    refresh: str = ""
    expires: int = 0
    client: str
    secret: str = ""
    method: str = ""
    endpoint: str
    resource: str = ""

    def __repr__(self) -> str:
        return f"Grant(url={self.url!r})"


def file_of(folder: Path, server: str) -> Path:
    """Return where a server's login is kept.

    Args:
        folder: The data folder.
        server: The server's name.
    """
    return folder / FOLDER / f"{server}.json"


def read(file: Path) -> Grant | None:
    """Return what is kept, or None for nothing that can be used."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Grant)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def end_of(seconds: float | None) -> int:
    """Return when a token ends, in seconds since 1970; 0 for not known.

    Args:
        seconds: That it holds, as the server says; None where it says nothing.
    """
    return round(time.time() + min(seconds, LONGEST)) if seconds is not None and seconds > 0 else 0


def secrets_of(file: Path) -> tuple[str, ...]:
    """Return what of it must stand in no message; what is too short to be secret is left out."""
    grant = read(file)
    told = (grant.access, grant.refresh, grant.secret) if grant is not None else ()
    return tuple(each for each in told if len(each) >= SECRET)


def write(file: Path, grant: Grant) -> None:
    """Keep it in place of what is there.

    Raises:
        ToolError: The file cannot be written.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace(file, msgspec.json.encode(grant))
    except OSError as error:
        raise ToolError(f"the login cannot be kept in {file}: {error.strerror}") from error


@asynccontextmanager
async def locked(file: Path) -> AsyncGenerator[None]:
    """Keep other processes from renewing or writing meanwhile.

    Raises:
        ToolError: One of them does not come to an end, or the folder cannot be written.
    """
    try:
        lock = open_lock(file)
    except OSError as error:
        raise ToolError(f"the login cannot be kept in {file}: {error.strerror}") from error
    try:
        await _taking(lock)
        yield
    finally:
        os.close(lock)


async def _taking(lock: int) -> None:
    try:
        async with asyncio.timeout(LOCKING):
            while not _taken(lock):
                await asyncio.sleep(AGAIN)
    except TimeoutError as error:
        raise ToolError("another program holds the login; try again") from error


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
