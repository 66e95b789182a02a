"""A server of MCP as a catalog uses it: kept, pinned, and called through a toolbox."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from stepwell.events import Answered
from stepwell.questions import Inquiry
from stepwell.tools.base import Prepared, Toolbox, ToolContext, ToolResult
from stepwell.tools.mcp.base import Does, Offer, ServerSpec
from stepwell.tools.mcp.pins import Pins
from stepwell.tools.mcp.server import McpServer
from stepwell.tools.mcp.tool import McpTool, of_resources
from tests.support.mcp_servers import command
from tests.tools.running import context, sent

WAIT = 20.0
"""Seconds that any one wait may take."""
DOES: dict[str, Does] = {"list_resources": "list", "read_resource": "read"}
BASIC = {"PATH": "/usr/bin:/bin", "HOME": "/tmp"}

Ask = Callable[[Inquiry], Awaitable[Answered | None]]


class Kept:
    """A server at work.

    Args:
        spec: The server.
        folder: Where its pins are.
    """

    def __init__(self, spec: ServerSpec, folder: Path) -> None:
        self.spec, self.pins = spec, Pins(folder)
        self.offers: list[Offer] = []
        self.offered = asyncio.Event()
        self.server = McpServer(spec, self._seen)

    def _seen(self, offer: Offer) -> None:
        self.pins.see(self.spec.name, offer)
        self.offers.append(offer)
        self.offered.set()

    async def started(self) -> str:
        """Start it and return what went wrong."""
        async with asyncio.timeout(WAIT):
            return await asyncio.shield(self.server.start())

    async def listed(self, count: int) -> Offer:
        """Return its listing of this number."""
        async with asyncio.timeout(WAIT):
            while len(self.offers) < count:
                self.offered.clear()
                await self.offered.wait()
        return self.offers[count - 1]

    @property
    def box(self) -> Toolbox:
        """Its pinned tools, and those of its resources where they are on."""
        pinned, ours = self.pins.tools(self.spec.name).items(), of_resources(self.spec.name)
        tools = [McpTool(self.spec, name, definition, self._call, self.pins) for name, definition in pinned]
        if self.spec.resources:
            tools += [McpTool(self.spec, name, ours[name], self._call, self.pins, does) for name, does in DOES.items()]
        return Toolbox(tools)

    async def _call(self, tool: McpTool, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        return await self.server.call(tool.name, arguments, context, tool.effect, tool.check, tool.does)

    async def call(
        self,
        tool: str,
        arguments: dict[str, Any] | None = None,
        *,
        told: list[str] | None = None,
        ask: Ask | None = None,
        thread: str = "t",
    ) -> ToolResult:
        """Call a tool as an engine does."""
        box = self.box
        found = box.prepare(sent(f"{self.spec.name}__{tool}", arguments or {}))
        if not isinstance(found, Prepared):
            return found
        async with asyncio.timeout(WAIT):
            return await box.run(found, msgspec.structs.replace(context(told), ask=ask, thread=thread))


@asynccontextmanager
async def kept(mode: str, folder: Path, *arguments: str, start: bool = True, **more: Any) -> AsyncGenerator[Kept]:
    """Keep one of the servers of `mcp_servers.py` while the block runs."""
    named: dict[str, Any] = {"name": "s", "environment": BASIC, "folder": folder}
    spec = ServerSpec(**{**named, **({} if "url" in more else {"command": command(mode, *arguments)}), **more})
    made = Kept(spec, folder)
    try:
        if start:
            assert await made.started() == ""
        yield made
    finally:
        async with asyncio.timeout(WAIT):
            await made.server.close()


@asynccontextmanager
async def holdups() -> AsyncGenerator[Callable[[], float]]:
    """Watch the event loop while the block runs; yield what tells the longest hold-up, in seconds."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - began)

    watching = asyncio.create_task(watch())
    try:
        yield lambda: longest
    finally:
        watching.cancel()


def logged(caplog: Any) -> str:
    """Return what was logged of servers."""
    return "\n".join(each.getMessage() for each in caplog.records if each.name == "stepwell.mcp")


def listen(caplog: Any) -> None:
    """Have all of it kept."""
    caplog.set_level(logging.INFO, "stepwell.mcp")


def living() -> set[int]:
    """Return the ids of the processes that this one has started, and of theirs."""
    return {each.pid for each in psutil.Process().children(recursive=True) if each.status() != "zombie"}
