"""A tool of an MCP server as one of ours. Its results are text of strangers, and it reaches outside."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from stepwell.errors import ToolError
from stepwell.events import Effect
from stepwell.messages import ToolSpec
from stepwell.tools.base import ToolContext, ToolResult
from stepwell.tools.mcp.base import LIST, READ, Definition, Does, ServerSpec, Switch, effect_of, tool_name

Call = Callable[["McpTool", dict[str, Any], ToolContext], Awaitable[ToolResult]]
"""Calls a tool at its server."""


_CURSOR = {
    "type": "string",
    "description": "Where a longer list goes on, as it said; leave it out at first.",
}
_URI = {"type": "string", "description": "The address of the resource, as the list has it."}


class McpTool:
    """A tool of an MCP server.

    Args:
        server: The server.
        name: The tool's name there.
        definition: What the server said of it when it was pinned.
        call: Calls it there.
        switch: Tells whether it may be called.
        does: What it does there; one of ours, for resources, is not pinned.

    Raises:
        ValueError: Its name with that of its server is too long.
    """

    timeout = math.inf
    """It keeps its own, which stands still while a person is asked."""
    output_limit = 30_000
    place = "outside"
    untrusted = True

    def __init__(
        self, server: ServerSpec, name: str, definition: Definition, call: Call, switch: Switch, does: Does = "call"
    ) -> None:
        self.spec = ToolSpec(tool_name(server.name, name), definition.description, definition.parameters)
        self.effect: Effect = effect_of(server, name, definition, does)
        self.version = definition.digest
        self.server, self.name = server.name, name
        self.does: Does = does
        self._call, self._switch = call, switch

    async def call(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        """Call it at its server.

        Raises:
            ToolError: It is off, or what went wrong there, in words.
        """
        self.check()
        return await self._call(self, arguments, context)

    def check(self) -> None:
        """Refuse where it is off.

        Raises:
            ToolError: It is; says why.
        """
        if self.does == "call" and (refusal := self._switch.refusal(self.server, self.name, self.version)):
            raise ToolError(f"Not called: {self.spec.name} is switched off. {refusal}")


def of_resources(server: str) -> dict[str, Definition]:
    """Return the two tools by which a server's resources are listed and read; what they say is ours.

    The server alone is asked, whatever an address looks like: nothing is fetched from elsewhere.
    """
    lists = f"List the resources of the server {server}: the addresses of texts, data and images that it can show."
    reads = f"Read a resource of the server {server} by its address."
    return {
        LIST: _definition(LIST, lists, {"cursor": _CURSOR}, ()),
        READ: _definition(READ, reads, {"uri": _URI}, ("uri",)),
    }


def _definition(name: str, said: str, properties: dict[str, Any], required: tuple[str, ...]) -> Definition:
    parameters = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    digest = hashlib.sha256(msgspec.json.encode((name, said, parameters))).hexdigest()
    return Definition(digest=digest, description=said, parameters=parameters, read_only=True)
