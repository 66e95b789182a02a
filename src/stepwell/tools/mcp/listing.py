"""What a server lists when it is connected: its tools, whether it has resources, and the names of its prompts.

All of it is bounded, and what cannot be used is told with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import mcp_types as types
import msgspec
from mcp.client.session import ClientSession
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from stepwell.errors import ToolError
from stepwell.tools.mcp.base import MOST_SCHEMAS, MOST_TOOLS, OWN, Definition, Offer, ServerSpec, define, tool_name
from stepwell.tools.mcp.pace import fault_of

PAGES = 20
"""Pages of a listing that are asked for."""
REFUSED = 50
"""Tools left out of which the reason is kept."""
MOST_PROMPTS, PROMPTING = 100, 2.0
"""Prompts whose names are kept, and seconds that a server has to list them; they are shown to people only."""
SAID = 300
"""Characters of what it says of a prompt."""


async def offer_of(spec: ServerSpec, session: ClientSession, faulty: Mapping[str, str]) -> Offer:
    """Ask a server what it offers.

    Args:
        spec: The server.
        session: The SDK's session.
        faulty: Why tools that come in are none, by name.

    Raises:
        ToolError: It does not answer as it should.
    """
    able = session.server_capabilities or types.ServerCapabilities()
    listed = await _tools(spec, session, able)
    prompts: dict[str, str] = {}
    if able.prompts is not None:
        with suppress(TimeoutError, MCPError, ValidationError):
            async with asyncio.timeout(PROMPTING):
                page = await session.list_prompts()
                found = page.prompts[:MOST_PROMPTS]
                prompts = {spec.plain(each.name, 64): spec.plain(each.description or "", SAID) for each in found}
    tools, refused = await asyncio.to_thread(_usable, spec, listed, faulty, able.resources is not None)
    return Offer(tools, refused, able.resources is not None, prompts)


async def _tools(spec: ServerSpec, session: ClientSession, able: types.ServerCapabilities) -> dict[str, types.Tool]:
    listed: dict[str, types.Tool] = {}
    cursor: str | None = None
    for _ in range(PAGES):
        params = types.PaginatedRequestParams(cursor=cursor) if cursor else None
        try:
            page = await session.list_tools(params=params)
        except (MCPError, ValidationError) as error:
            if able.tools is None and isinstance(error, MCPError) and error.code == types.METHOD_NOT_FOUND:
                break
            raise ToolError(f"it does not list its tools: {words_of(spec, error)}") from error
        listed.update({each.name: each for each in page.tools})
        cursor = page.next_cursor
        if not cursor or len(listed) >= 4 * MOST_TOOLS:
            break
    return listed


def words_of(spec: ServerSpec, error: Exception) -> str:
    """Return what an error of the SDK says, fit for a message."""
    if isinstance(error, ValidationError):
        return spec.plain(fault_of(error))
    return spec.plain(str(error) or type(error).__name__)


def _usable(
    spec: ServerSpec, listed: Mapping[str, types.Tool], faulty: Mapping[str, str], resources: bool
) -> tuple[dict[str, Definition], dict[str, str]]:
    """Return what can be used of a listing, and why the rest cannot."""
    wanted = [name for name in listed if spec.tools is None or name in spec.tools]
    tools: dict[str, Definition] = {}
    named = {name: fault for name, fault in faulty.items() if spec.tools is None or name in spec.tools}
    refused = {spec.plain(name, 64): spec.plain(f"it is no tool: {fault}", 300) for name, fault in named.items()}
    room = MOST_SCHEMAS
    for name in wanted[:MOST_TOOLS]:
        tool = listed[name]
        hints = tool.annotations or types.ToolAnnotations()
        said = (hints.read_only_hint is True, hints.idempotent_hint is True)
        try:
            made = define(name, tool.description or "", tool.input_schema, said)
            tool_name(spec.name, name)
            room -= len(msgspec.json.encode(made))
            if room < 0:
                raise ValueError(f"the server says more than {MOST_SCHEMAS >> 20} MB of its tools; {_fewer(spec)}")
            tools[name] = made
        except (ValueError, RecursionError, OverflowError) as error:
            refused[spec.plain(name, 64)] = spec.plain(str(error), 300)
    if len(wanted) > MOST_TOOLS:
        refused["…"] = f"the server has more than {MOST_TOOLS} tools; {_fewer(spec)}"
    known = {*listed, *faulty, *(OWN if spec.resources and resources else ())}
    for name in {*(spec.tools or ()), *spec.effects} - known:
        refused[spec.plain(name, 64)] = "the settings name it, and the server does not have it"
    if spec.resources and not resources:
        refused.update(dict.fromkeys(OWN, "the server has no resources"))
    return tools, dict(list(refused.items())[-REFUSED:])


def _fewer(spec: ServerSpec) -> str:
    return f"name those that are used in mcp.{spec.name}.tools"
