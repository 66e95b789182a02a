"""One connection to a server, from the handshake to its end: what it lists, and calls of its tools.

It is not made again when it ends, and decides nothing about what may be called; see `server.py` and `pins.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any

import mcp_types as types
from mcp.client.session import ClientSession, IncomingMessage
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost, listen
from mcp.shared.exceptions import MCPError
from pydantic import TypeAdapter, ValidationError

from stepwell.errors import ToolError
from stepwell.tools.base import ToolContext, ToolResult
from stepwell.tools.mcp.address import address
from stepwell.tools.mcp.base import LISTING, MOST_TOOLS, Definition, Lost, Offer, ServerSpec, define, tool_name
from stepwell.tools.mcp.flight import Flight, Flights
from stepwell.tools.mcp.pace import Incoming
from stepwell.tools.mcp.program import program
from stepwell.tools.mcp.results import result_of

PAGES = 20
"""Pages of a listing that are asked for."""
ROUNDS = 10
"""Times that a server may ask before it answers a call (the SDK's own bound)."""
REFUSED = 50
"""Tools left out of which the reason is kept."""

_log = logging.getLogger("stepwell.mcp")
_ANSWER: TypeAdapter[types.CallToolResult | types.InputRequiredResult] = TypeAdapter(
    types.CallToolResult | types.InputRequiredResult
)


class Connection:
    """A connection at work.

    Args:
        spec: The server.
        session: The SDK's session over it.
        incoming: What the server sends; tells when it ends.
        flights: The calls under way.
        changed: Set when the server says that its tools are others.
    """

    def __init__(
        self,
        spec: ServerSpec,
        session: ClientSession,
        incoming: Incoming,
        flights: Flights,
        changed: asyncio.Event,
    ) -> None:
        self._spec, self._session, self._flights = spec, session, flights
        self.ended, self.changed = incoming.ended, changed

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return not self.ended.is_set()

    async def offer(self) -> Offer:
        """Ask the server for its tools.

        Raises:
            ToolError: It does not answer as it should.
        """
        listed: dict[str, types.Tool] = {}
        cursor: str | None = None
        for _ in range(PAGES):
            params = types.PaginatedRequestParams(cursor=cursor) if cursor else None
            try:
                page = await self._session.list_tools(params=params)
            except (MCPError, ValidationError) as error:
                raise ToolError(f"it does not list its tools: {_words(self._spec, error)}") from error
            listed.update({each.name: each for each in page.tools})
            cursor = page.next_cursor
            if not cursor or len(listed) >= 4 * MOST_TOOLS:
                break
        return await asyncio.to_thread(_offer, self._spec, listed)

    async def call(self, tool: str, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        """Call a tool.

        Args:
            tool: Its name there.
            arguments: As they are to be sent.
            context: Of the call.

        Raises:
            Lost: The connection ended before the answer came.
            TimeoutError: It did not answer in time.
            ToolError: It refused, in its own words.
        """
        flight = Flight(self._spec, context, self._spec.timeout)
        async with flight.scope:
            if not self._flights.asks:
                return await self._fly(flight, tool, arguments)
            async with self._flights.turn:
                return await self._fly(flight, tool, arguments)

    async def _fly(self, flight: Flight, tool: str, arguments: dict[str, Any]) -> ToolResult:
        self._flights.flying.append(flight)
        try:
            came = await self._ask(flight, types.CallToolRequestParams(name=tool, arguments=arguments))
        finally:
            self._flights.flying.remove(flight)
            await flight.close()
        return await result_of(came)

    async def _ask(self, flight: Flight, params: types.CallToolRequestParams) -> types.CallToolResult:
        for _ in range(ROUNDS):
            try:
                came = await self._session.send_request(
                    types.CallToolRequest(params=params), _ANSWER, progress_callback=flight.tell
                )
            except MCPError as error:
                raise self._refused(error) from error
            except ValidationError as error:
                raise ToolError(f"The MCP server {self._spec.name} sent what is no result of a call.") from error
            if isinstance(came, types.CallToolResult):
                return came
            answers = {key: await self._answer(flight, each) for key, each in (came.input_requests or {}).items()}
            given = {"input_responses": answers or None, "request_state": came.request_state}
            params = params.model_copy(update=given)
        raise ToolError(f"The MCP server {self._spec.name} asks again and again, and gives no result.")

    async def _answer(self, flight: Flight, asked: types.InputRequest) -> types.ElicitResult:
        if isinstance(asked, types.ElicitRequest):
            return await flight.ask(asked.params)
        raise ToolError(f"The MCP server {self._spec.name} asks for what it is not given: {asked.method}.")

    def _refused(self, error: MCPError) -> ToolError:
        """Say why a call came to nothing, and let go of a connection that is of no more use."""
        name, code, said = self._spec.name, error.code, error.message
        # Servers use the code of the SDK's own failures for whatever they like.
        own = said == "Connection closed" or said.startswith("SSE stream ")
        if code == types.CONNECTION_CLOSED and (own or not self.open):
            self.ended.set()
            return Lost(f"The connection to the MCP server {name} ended.")
        forgotten = code == types.INVALID_REQUEST and said == "Session terminated"
        if self._spec.url and (forgotten or (code == types.CONNECTION_CLOSED and "session" in said.lower())):
            self.ended.set()
            return Lost(f"The MCP server {name} has forgotten us.", sent=False)
        return ToolError(f"The MCP server {name} refused the call: {self._spec.plain(said)}")


@asynccontextmanager
async def connected(spec: ServerSpec, flights: Flights) -> AsyncGenerator[tuple[Connection, Offer]]:
    """Connect to a server and list its tools; the connection ends with the block.

    Args:
        spec: The server.
        flights: Its calls under way.

    Raises:
        ToolError: It does not speak the protocol.
        TimeoutError: It took too long.
        Exception: Whatever a program that cannot be started, or a network, raises.
    """
    changed = asyncio.Event()

    async def noticed(message: IncomingMessage) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            changed.set()

    opened = program(spec) if spec.command else address(spec)
    async with opened as (incoming, outgoing):
        session = ClientSession(
            incoming,
            outgoing,
            elicitation_callback=flights.elicit,
            sampling_callback=None,
            list_roots_callback=None,
            message_handler=noticed,
            client_info=types.Implementation(name="stepwell", version=version("stepwell")),
        )
        async with session:
            connection = Connection(spec, session, incoming, flights, changed)
            async with asyncio.timeout(LISTING):
                await _greet(spec, session)
                offer = await connection.offer()
            listening = asyncio.create_task(_listen(session, changed))
            try:
                yield connection, offer
            finally:
                listening.cancel()
                await asyncio.wait({listening})


async def _greet(spec: ServerSpec, session: ClientSession) -> None:
    """Shake hands; a server that knows no handshake, as of 2026-07-28, is asked what it is."""
    try:
        await session.initialize()
    except MCPError as error:
        if error.code not in (types.UNSUPPORTED_PROTOCOL_VERSION, types.METHOD_NOT_FOUND):
            raise ToolError(f"it refuses the handshake: {_words(spec, error)}") from error
        try:
            await session.discover()
        except (MCPError, ValidationError, RuntimeError) as second:
            raise ToolError(f"it refuses the handshake: {_words(spec, second)}") from second
    except (ValidationError, RuntimeError) as error:
        raise ToolError(f"it does not shake hands as it should: {_words(spec, error)}") from error


async def _listen(session: ClientSession, changed: asyncio.Event) -> None:
    """Hear of other tools from a server of 2026-07-28, which tells only who asks to be told."""
    with suppress(ListenNotSupportedError, MCPError, SubscriptionLost):
        async with listen(session, tools_list_changed=True) as told:
            async for _ in told:
                changed.set()


def _words(spec: ServerSpec, error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return spec.plain(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    return spec.plain(str(error) or type(error).__name__)


def _offer(spec: ServerSpec, listed: Mapping[str, types.Tool]) -> Offer:
    """Return what can be used of a listing, and why the rest cannot."""
    wanted = [name for name in listed if spec.tools is None or name in spec.tools]
    tools: dict[str, Definition] = {}
    refused: dict[str, str] = {}
    for name in wanted[:MOST_TOOLS]:
        tool = listed[name]
        hints = tool.annotations or types.ToolAnnotations()
        said = (hints.read_only_hint is True, hints.idempotent_hint is True)
        try:
            made = define(name, tool.description or "", tool.input_schema, said)
            tool_name(spec.name, name)
            tools[name] = made
        except (ValueError, RecursionError, OverflowError) as error:
            refused[spec.plain(name, 64)] = spec.plain(str(error), 300)
    if len(wanted) > MOST_TOOLS:
        refused["…"] = f"the server has more than {MOST_TOOLS} tools; name those that are used in mcp.{spec.name}.tools"
    for name in {*(spec.tools or ()), *spec.effects} - set(listed):
        refused[spec.plain(name, 64)] = "the settings name it, and the server does not have it"
    return Offer(tools, dict(list(refused.items())[-REFUSED:]))
