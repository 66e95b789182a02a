"""One connection to a server, from the handshake to its end: what it lists, and calls of its tools.

It is not made again when it ends, and decides nothing about what may be called; see `server.py` and `pins.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext, suppress
from importlib.metadata import version
from typing import Any, TypeVar, assert_never

import mcp_types as types
import msgspec
from mcp.client.session import ClientSession, IncomingMessage
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost, listen
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, TypeAdapter, ValidationError

from stepwell.errors import ToolError
from stepwell.tools.base import ToolContext, ToolResult
from stepwell.tools.mcp.base import LISTING, PING, SILENT, WORDS, Does, Lost, Offer, ServerSpec
from stepwell.tools.mcp.flight import Flight, Flights
from stepwell.tools.mcp.http import over_http
from stepwell.tools.mcp.listing import offer_of, words_of
from stepwell.tools.mcp.pace import Answering, Incoming
from stepwell.tools.mcp.resources import content_of, list_of
from stepwell.tools.mcp.results import result_of
from stepwell.tools.mcp.stdio import over_stdio
from stepwell.tools.mcp.weight import FORGOTTEN, NO_LOGIN, NOT_READ, NOT_TAKEN

ROUNDS = 10
"""Times that a server may ask before it answers a call (the SDK's own bound)."""

CURSORS = 1_000
"""Places where lists of resources go on that are remembered."""

_log = logging.getLogger("stepwell.mcp")
_CALLED: TypeAdapter[types.CallToolResult | types.InputRequiredResult] = TypeAdapter(
    types.CallToolResult | types.InputRequiredResult
)
_READ: TypeAdapter[types.ReadResourceResult | types.InputRequiredResult] = TypeAdapter(
    types.ReadResourceResult | types.InputRequiredResult
)
_LISTED, _TEMPLATES = TypeAdapter(types.ListResourcesResult), TypeAdapter(types.ListResourceTemplatesResult)

Request = (
    types.CallToolRequest | types.ReadResourceRequest | types.ListResourcesRequest | types.ListResourceTemplatesRequest
)
P = TypeVar("P", types.CallToolRequestParams, types.ReadResourceRequestParams)
R = TypeVar("R", types.CallToolResult, types.ReadResourceResult)
S = TypeVar("S", bound=BaseModel)


def _request(params: types.CallToolRequestParams | types.ReadResourceRequestParams) -> Request:
    if isinstance(params, types.CallToolRequestParams):
        return types.CallToolRequest(params=params)
    return types.ReadResourceRequest(params=params)


class Refused(ToolError):
    """The server refused a request, in its own words."""


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
        self._spec, self._session, self._flights, self._incoming = spec, session, flights, incoming
        self.ended, self.changed = incoming.ended, changed
        self.doubted = asyncio.Event()
        """Set when calls ran out of time and nothing was heard."""
        self._silent, self._heard = 0, 0
        self._cursors: set[str] = set()

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return not self.ended.is_set()

    @property
    def why(self) -> str:
        """Why it ended, where that was our doing."""
        return self._incoming.why

    async def answers(self) -> bool:
        """Ask the server whether it is there, and tell whether anything was answered in time."""
        heard = self._incoming.heard
        with suppress(TimeoutError, MCPError, ValidationError):
            async with asyncio.timeout(PING):
                await self._session.send_ping()
        if self._incoming.heard == heard and self.open:
            self._incoming.why = "it answered nothing any more"
            return False
        return True

    def _ran_out(self) -> None:
        """Count a call that ran out of time; doubt the server where it has said nothing during several of them."""
        silent = self._incoming.heard == self._heard
        self._silent, self._heard = (self._silent + 1 if silent else 1), self._incoming.heard
        if self._silent >= SILENT:
            self._silent = 0
            self.doubted.set()

    async def offer(self) -> Offer:
        """Ask the server what it offers.

        Raises:
            ToolError: It does not answer as it should.
        """
        self._incoming.faulty.clear()
        return await offer_of(self._spec, self._session, self._incoming.faulty)

    async def call(self, does: Does, tool: str, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        """Call a tool, or list or read resources.

        Args:
            does: Which of these.
            tool: Its name there.
            arguments: As they are to be sent.
            context: Of the call.

        Raises:
            Lost: The connection ended before the answer came.
            TimeoutError: It did not answer in time.
            ToolError: It refused, in its own words.
        """
        async with self._flights.turn if self._flights.asks else nullcontext():
            flight = Flight(self._spec, context, self._spec.timeout)
            try:
                async with flight.scope:
                    return await self._fly(flight, does, tool, arguments)
            except TimeoutError:
                self._ran_out()
                raise

    async def _fly(self, flight: Flight, does: Does, tool: str, arguments: dict[str, Any]) -> ToolResult:
        self._flights.flying.append(flight)
        try:
            match does:
                case "call":
                    params = types.CallToolRequestParams(name=tool, arguments=arguments)
                    came = await self._ask(flight, params, _CALLED)
                case "list":
                    came = await self._list(flight, arguments.get("cursor"))
                case "read":
                    asked = types.ReadResourceRequestParams(uri=str(arguments["uri"]))
                    came = content_of(asked.uri, await self._ask(flight, asked, _READ))
                case _:
                    assert_never(does)
        finally:
            self._flights.flying.remove(flight)
            await flight.close()
        result = await result_of(came)
        if result.status == "failed":
            return msgspec.structs.replace(result, content=self._spec.struck(result.content))
        return result

    async def _list(self, flight: Flight, cursor: str | None) -> types.CallToolResult:
        if cursor is not None and cursor not in self._cursors:  # a model must not tell the server anything by it
            raise ToolError("The list has no such cursor; leave `cursor` out to begin anew.")
        params = types.PaginatedRequestParams(cursor=cursor)
        page = await self._send(flight, types.ListResourcesRequest(params=params), _LISTED)
        templates: list[types.ResourceTemplate] = []
        if cursor is None:
            with suppress(Refused):  # many servers have none, and do not know how to say so
                asked = types.ListResourceTemplatesRequest(params=types.PaginatedRequestParams())
                templates = (await self._send(flight, asked, _TEMPLATES)).resource_templates
        more = page.next_cursor
        if more and len(more) <= WORDS:
            self._cursors = {*self._cursors, more} if len(self._cursors) < CURSORS else {more}
        return list_of(self._spec, page, templates)

    async def _ask(self, flight: Flight, params: P, kind: TypeAdapter[R | types.InputRequiredResult]) -> R:
        """Send a request, and again with the answers where the server wants to know something first."""
        for _ in range(ROUNDS):
            came = await self._send(flight, _request(params), kind)
            if not isinstance(came, types.InputRequiredResult):
                return came
            answers = {key: await self._answer(flight, each) for key, each in (came.input_requests or {}).items()}
            given = {"input_responses": answers or None, "request_state": came.request_state}
            params = params.model_copy(update=given)
        raise ToolError(f"The MCP server {self._spec.name} asks again and again, and gives no result.")

    async def _send(self, flight: Flight, request: Request, kind: TypeAdapter[S]) -> S:
        try:
            return await self._session.send_request(request, kind, progress_callback=flight.tell)
        except MCPError as error:
            raise self._refused(error) from error
        except ValidationError as error:
            raise ToolError(f"The MCP server {self._spec.name} sent what is no result of a call.") from error

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
            return Lost(f"The connection to the MCP server {name} ended{f': {self.why}' if self.why else ''}.")
        # Some servers say so with a status of their own.
        if self._spec.url and (code == FORGOTTEN or (code == types.CONNECTION_CLOSED and "session" in said.lower())):
            self.ended.set()
            return Lost(f"The MCP server {name} has forgotten us.", sent=False)
        if code == NO_LOGIN:
            return ToolError(f"The MCP server {name} was not asked: {self._spec.plain(said)}.")
        if code == types.PARSE_ERROR and said.startswith("Failed to parse "):  # so the SDK tells of an answer
            code, said = NOT_TAKEN, NOT_READ
        if code == NOT_TAKEN:
            return ToolError(f"The call reached the MCP server {name}, but {self._spec.plain(said)}.")
        return Refused(f"The MCP server {name} refused the call: {self._spec.plain(said)}")


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

    opened = over_stdio(spec) if spec.command else over_http(spec)
    async with opened as (incoming, outgoing):
        session = ClientSession(
            incoming,
            Answering(outgoing, incoming),
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
            raise ToolError(f"it refuses the handshake: {words_of(spec, error)}") from error
        try:
            await session.discover()
        except (MCPError, ValidationError, RuntimeError) as second:
            raise ToolError(f"it refuses the handshake: {words_of(spec, second)}") from second
    except (ValidationError, RuntimeError) as error:
        raise ToolError(f"it does not shake hands as it should: {words_of(spec, error)}") from error


async def _listen(session: ClientSession, changed: asyncio.Event) -> None:
    """Hear of other tools from a server of 2026-07-28, which tells only who asks to be told."""
    with suppress(ListenNotSupportedError, MCPError, SubscriptionLost):
        async with listen(session, tools_list_changed=True) as told:
            async for _ in told:
                changed.set()
