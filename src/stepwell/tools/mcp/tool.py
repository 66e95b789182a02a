"""A tool of an MCP server as one of ours. Its results are text of strangers, and it reaches outside."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

from stepwell.errors import ToolError
from stepwell.events import Effect
from stepwell.messages import ToolSpec
from stepwell.tools.base import ToolContext, ToolResult
from stepwell.tools.mcp.base import Definition, ServerSpec, Switch, effect_of, tool_name

Call = Callable[["McpTool", dict[str, Any], ToolContext], Awaitable[ToolResult]]
"""Calls a tool at its server."""


class McpTool:
    """A tool of an MCP server.

    Args:
        server: The server.
        name: The tool's name there.
        definition: What the server said of it when it was pinned.
        call: Calls it there.
        switch: Tells whether it may be called.

    Raises:
        ValueError: Its name with that of its server is too long.
    """

    timeout = math.inf
    """It keeps its own, which stands still while a person is asked."""
    output_limit = 30_000
    place = "outside"
    untrusted = True

    def __init__(self, server: ServerSpec, name: str, definition: Definition, call: Call, switch: Switch) -> None:
        self.spec = ToolSpec(tool_name(server.name, name), definition.description, definition.parameters)
        self.effect: Effect = effect_of(server, name, definition)
        self.version = definition.digest
        self.server, self.name = server.name, name
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
        if refusal := self._switch.refusal(self.server, self.name, self.version):
            raise ToolError(f"Not called: {self.spec.name} is switched off. {refusal}")
