"""What servers said of their tools when they were first seen, kept in a file: a tool that says something else is off.

A server decides what its tools are, and could say something harmless when it is set up and something else later. So
models are only told what was there first, or what a person has confirmed since. Several processes may use the file.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from stepwell.errors import ConfigError
from stepwell.tools.mcp.base import Definition, Offer
from stepwell.tools.mcp.files import open_lock, replace

FILE = "mcp.json"
"""In the data folder, for its owner alone."""
State = Literal["on", "changed", "new"]
"""It is as it was pinned; the server says something else now; it was not there when the server was first seen."""


class Pin(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is remembered of a tool.

    Args:
        pinned: What models may be told; None where nobody has confirmed the tool.
        offered: What the server says now, where that is something else.
    """

    pinned: Definition | None = None
    offered: Definition | None = None

    @property
    def state(self) -> State:
        """How the tool is."""
        if self.offered is None:
            return "on"
        return "new" if self.pinned is None else "changed"


class Seen(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is remembered of a server.

    Args:
        tools: By name, as the server has it.
        refused: Why tools are left out that cannot be used, by name.
        resources: It has resources.
        prompts: What it says of its prompts, by name; shown to people only, and not pinned.
    """

    tools: dict[str, Pin] = {}
    refused: dict[str, str] = {}
    resources: bool = False
    prompts: dict[str, str] = {}


class _Kept(msgspec.Struct, frozen=True):
    version: int = 1
    servers: dict[str, Seen] = {}


class Pins:
    """The pins of a data folder.

    Args:
        folder: The data folder; nothing is read before `refresh`.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE
        self._stamp: tuple[int, int, int] | None = None
        self._kept = _Kept()
        self._gone: dict[str, frozenset[str]] = {}

    def refresh(self) -> bool:
        """Read the file if it is another than before, and tell whether it is.

        Raises:
            ConfigError: It is there and cannot be read.
        """
        try:
            status = self.file.stat()
        except OSError:
            stamp = None
        else:
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp == self._stamp:
            return False
        self._kept, self._stamp = (_read(self.file) if stamp else _Kept()), stamp
        return True

    def server(self, name: str) -> Seen | None:
        """Return what is remembered of a server, or None where it has never been seen."""
        return self._kept.servers.get(name)

    def tools(self, name: str) -> dict[str, Definition]:
        """Return the pinned tools of a server, those among them that are off, by name."""
        seen = self._kept.servers.get(name, Seen())
        return {tool: pin.pinned for tool, pin in seen.tools.items() if pin.pinned is not None}

    def is_on(self, name: str, tool: str) -> bool:
        """Tell whether models may be told of a tool."""
        pin = self._kept.servers.get(name, Seen()).tools.get(tool, Pin())
        return pin.pinned is not None and pin.state == "on" and tool not in self._gone.get(name, frozenset())

    def refusal(self, server: str, tool: str, digest: str) -> str:
        """Return why a tool may not be called; see `base.Switch`."""
        self.refresh()
        pin = self._kept.servers.get(server, Seen()).tools.get(tool, Pin())
        if pin.pinned is None:
            return "It has never been confirmed."
        if pin.state == "changed" or pin.pinned.digest != digest:
            remedy = f"stepwell mcp confirm {server} {tool}" if pin.state == "changed" else "start a new run"
            return f"The server says something else of it than before, so that it is off; {remedy}."
        return ""

    def see(self, name: str, offer: Offer) -> bool:
        """Compare what a server offers with what is remembered; a server's first offer is pinned.

        Returns:
            Whether something is now another than before.

        Raises:
            ConfigError: The file cannot be written.
        """
        with self._changing():
            before = self._kept.servers.get(name)
            after = _pinned(offer) if before is None else _compared(before, offer)
            gone = frozenset(tool for tool in after.tools if tool not in offer.tools)
            moved = after != before or gone != self._gone.get(name, frozenset())
            self._gone[name] = gone
            if after != before:
                self._write(name, after)
        return moved

    def confirm(self, name: str, wanted: Mapping[str, str]) -> list[str]:
        """Pin what a server says now of its tools.

        Args:
            name: The server.
            wanted: Digests of what was looked at, by the tool's name; a tool that is another again is left off.

        Returns:
            The names of the tools that are on by this.

        Raises:
            ConfigError: The file cannot be written.
        """
        with self._changing():
            seen = self._kept.servers.get(name, Seen())
            good = {
                tool: Pin(pin.offered)
                for tool, pin in seen.tools.items()
                if pin.offered is not None and pin.offered.digest == wanted.get(tool)
            }
            if good:
                self._write(name, msgspec.structs.replace(seen, tools={**seen.tools, **good}))
        return list(good)

    @contextmanager
    def _changing(self) -> Generator[None]:
        """Keep other processes from writing meanwhile, and begin with what they wrote."""
        try:
            lock = open_lock(self.file)
        except OSError as error:
            raise ConfigError(f"the pins of MCP tools cannot be kept in {self.file}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.refresh()
            yield
        finally:
            os.close(lock)

    def _write(self, name: str, seen: Seen) -> None:
        kept = msgspec.structs.replace(self._kept, servers={**self._kept.servers, name: seen})
        try:
            replace(self.file, msgspec.json.format(msgspec.json.encode(kept), indent=1))
        except OSError as error:
            raise ConfigError(f"the pins of MCP tools cannot be kept in {self.file}: {error.strerror}") from error
        self.refresh()


def _read(file: Path) -> _Kept:
    try:
        kept = msgspec.json.decode(file.read_bytes(), type=_Kept)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        remedy = "mend it, or remove it to pin all tools anew as their servers have them then"
        raise ConfigError(f"{file} does not hold the pins of MCP tools: {error}; {remedy}") from error
    if kept.version != 1:
        raise ConfigError(f"{file} was written by a newer version; use that one")
    return kept


def _pinned(offer: Offer) -> Seen:
    return Seen({name: Pin(each) for name, each in offer.tools.items()}, offer.refused, offer.resources, offer.prompts)


def _compared(before: Seen, offer: Offer) -> Seen:
    tools: dict[str, Pin] = {}
    for name, pin in before.tools.items():
        now = offer.tools.get(name)
        if pin.pinned is None:
            continue
        same = now is not None and pin.pinned.digest == now.digest
        tools[name] = pin if now is None else Pin(pin.pinned, None if same else now)
    new = {name: Pin(None, each) for name, each in offer.tools.items() if name not in tools}
    return Seen({**tools, **new}, offer.refused, offer.resources, offer.prompts)
