"""A server that is kept: connected in the background, started again when it ends, and told apart from its tools.

A server that ends is started again after a while that doubles each time. A call does not wait that long: it has the
server started at once, and fails in words where that does not help.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from stepwell.errors import ToolError
from stepwell.events import Effect
from stepwell.tools.base import ToolContext, ToolResult
from stepwell.tools.mcp.base import LISTING, Does, Lost, Offer, ServerSpec
from stepwell.tools.mcp.connection import Connection, connected
from stepwell.tools.mcp.flight import Flights

FIRST, MOST = 0.5, 60.0
"""Seconds until a server that ended is started again: at first, and at most."""
STEADY = 60.0
"""Seconds after which a connection counts as good, so that the next start comes soon again."""
CALM = 1.0
"""Seconds after a listing until a server's word that its tools are others counts again; twice as long each time, for
each listing is compared, written down and told."""
CLOSING = 8.0
"""Seconds that its end may take; every step of it has bounds of its own."""

_log = logging.getLogger("stepwell.mcp")


class McpServer:
    """A server, connected or not.

    Args:
        spec: The server.
        seen: Called with what it offers, whenever it has listed its tools.
    """

    def __init__(self, spec: ServerSpec, seen: Callable[[Offer], None]) -> None:
        self.spec, self._seen = spec, seen
        self._flights = Flights(spec)
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._outcome: asyncio.Future[str] | None = None
        """Settled with what comes of the attempt under way, or of the next: a failure in words, or nothing."""
        self._hurry, self._closing = asyncio.Event(), False

    def start(self) -> asyncio.Future[str]:
        """Connect in the background, if that was not begun; return what settles with the first or next attempt."""
        if self._outcome is None:
            self._outcome = asyncio.get_running_loop().create_future()
        if self._task is None and not self._closing:
            self._task = asyncio.create_task(self._keep())
        return self._outcome

    async def call(
        self,
        tool: str,
        arguments: dict[str, Any],
        context: ToolContext,
        effect: Effect,
        check: Callable[[], None] = lambda: None,
        does: Does = "call",
    ) -> ToolResult:
        """Call a tool, or list or read resources, connecting once more if need be.

        Args:
            tool: Its name there.
            arguments: As they are to be sent.
            context: Of the call.
            effect: What calling it twice does; a `write` is sent once only.
            check: Raises where the tool may not be called after all: what the server says of it is known only when it
                is connected.
            does: Which of these.

        Raises:
            ToolError: What went wrong, in words; says so where a call may have taken effect.
        """
        for left in (1, 0):
            connection = await self._connected()
            check()
            try:
                return await connection.call(does, tool, arguments, context)
            except Lost as lost:
                if lost.sent and effect == "write":
                    raise ToolError(f"{lost} {_UNKNOWN}") from lost
                if not left:
                    raise
            except TimeoutError as error:
                said = f"The MCP server {self.spec.name} did not answer within {self.spec.timeout:g} seconds."
                raise ToolError(f"{said} {_UNKNOWN}" if effect == "write" else said) from error
        raise AssertionError("a second attempt always comes to an end")

    async def _connected(self) -> Connection:
        if self._closing:
            raise ToolError(f"The MCP server {self.spec.name} is not kept any more.")
        connection = self._connection
        if connection is None or not connection.open:
            outcome = self.start()
            self._hurry.set()
            if failure := await asyncio.shield(outcome):
                raise ToolError(f"The MCP server {self.spec.name} cannot be reached: {failure}")
            connection = self._connection
        if connection is None:
            raise ToolError(f"The MCP server {self.spec.name} ended as soon as it was there.")
        return connection

    async def close(self) -> None:
        """End the connection and the server's program."""
        self._closing = True
        if self._task is None:
            return
        if self._connection is not None:
            self._connection.ended.set()
            self._hurry.set()
        else:
            self._task.cancel()
        done, _ = await asyncio.wait({self._task}, timeout=CLOSING)
        if not done:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._settle("this program is about to end")

    async def _keep(self) -> None:
        loop, delay = asyncio.get_running_loop(), FIRST
        while not self._closing:
            self._hurry.clear()
            began, failure = loop.time(), "it ended"
            try:
                await self._serve()
            except Exception as error:  # whatever a server makes libraries raise is told, and it is tried again
                failure = self._words(error)
            reached, self._connection = self._connection is not None, None
            if self._closing:
                return
            if not reached:
                self._settle(failure)
                self._hurry.clear()  # who waited for this attempt has been told
            delay = FIRST if loop.time() - began > STEADY else delay
            _log.warning("MCP server %s: %s; started again in %g s", self.spec.name, failure, delay)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), delay)
            delay = min(2 * delay, MOST)

    async def _serve(self) -> None:
        """Connect, and stay until the connection ends."""
        async with connected(self.spec, self._flights) as (connection, offer), asyncio.TaskGroup() as group:
            self._seen(offer)
            self._connection = connection
            self._settle("")
            _log.info("MCP server %s: %d tools", self.spec.name, len(offer.tools))
            listing = group.create_task(self._list_again(connection))
            while connection.open and not self._closing:
                await _either(connection.ended, connection.doubted)
                if connection.open and connection.doubted.is_set():
                    connection.doubted.clear()
                    await self._check(connection)
            listing.cancel()
            if connection.why:
                raise ToolError(connection.why)

    async def _list_again(self, connection: Connection) -> None:
        """List the tools whenever the server says that they are others."""
        calm = CALM
        while True:
            await connection.changed.wait()
            connection.changed.clear()
            async with asyncio.timeout(LISTING):
                self._seen(await connection.offer())
            await asyncio.sleep(calm)
            calm = min(2 * calm, MOST)

    async def _check(self, connection: Connection) -> None:
        """End a connection over which nothing comes any more."""
        asking = asyncio.create_task(connection.answers())
        ended = asyncio.create_task(connection.ended.wait())
        await asyncio.wait({asking, ended}, return_when=asyncio.FIRST_COMPLETED)
        for each in (asking, ended):
            each.cancel()
        await asyncio.wait({asking, ended})
        if not asking.cancelled() and not asking.result():
            connection.ended.set()

    def _settle(self, failure: str) -> None:
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(failure)
        self._outcome = None

    def _words(self, error: BaseException) -> str:
        """Say what went wrong; of several things the first."""
        while isinstance(error, BaseExceptionGroup):
            error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
        if isinstance(error, TimeoutError) and not str(error):
            return "it did not list its tools in time"
        if isinstance(error, ToolError):
            return str(error)
        return self.spec.plain(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, 300)


_UNKNOWN = "Whether the call took effect is not known: look before you call again."


async def _either(*events: asyncio.Event) -> None:
    """Wait for one of several events."""
    waiting = [asyncio.create_task(each.wait()) for each in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
