"""The eight tools of Langchain-Chatchat 0.2 by their old names, for clients and prompts that know them.

Those that are built here are taken as they are. The others answer that they are not configured, so that a
model which calls one is told so and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from stepwell.errors import ToolError
from stepwell.events import Effect
from stepwell.messages import ToolSpec
from stepwell.tools.base import Tool, ToolContext, ToolResult, as_tool

_NONE: Mapping[str, str] = MappingProxyType({})


class Old(NamedTuple):
    """One of the old tools.

    Args:
        name: As the old service named it.
        argument: The name of its one argument, a string.
        description: What it is for, for the model.
        meaning: What the argument holds, for the model.
    """

    name: str
    argument: str
    description: str
    meaning: str


OLD_TOOLS = (
    Old("calculate", "query", "Work out an arithmetic expression.", "The expression."),
    Old("arxiv", "query", "Find scientific papers on arXiv.", "What the papers are about."),
    Old("weather_check", "location", "Tell the present weather of a place.", "The city, with its district if need be."),
    Old("shell", "query", "Run a command with the Linux shell.", "The command."),
    Old("search_knowledgebase_complex", "location", "Look things up in the local knowledge bases.", "The question."),
    Old("search_internet", "location", "Search the internet.", "What to search for."),
    Old("Wolfram", "location", "Solve hard formulas with Wolfram Alpha.", "The formula or question."),
    Old("search_youtube", "location", "Find videos on YouTube.", "What the videos are about."),
)
"""In the old order, which is the order in which the model and its clients are told of them."""

_REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "calculate": "The server's operator has left it out in its settings (`tools.disabled`).",
        "shell": "Commands are off; the server's operator can set `tools.shell.enabled = true` in its settings.",
    }
)
_REMEDY = "This server has no service for it; its operator can leave it out of the tools in the settings."


class Unconfigured:
    """A tool that is known by name and cannot work.

    Args:
        old: Which one.
        remedy: Why not, and what can be done.
    """

    effect: Effect = "pure"
    timeout = 10.0
    output_limit = 30_000

    def __init__(self, old: Old, remedy: str) -> None:
        field = {"type": "string", "description": old.meaning}
        parameters: dict[str, Any] = {
            "type": "object",
            "properties": {old.argument: field},
            "required": [old.argument],
            "additionalProperties": False,
        }
        self.spec = ToolSpec(old.name, old.description, parameters)
        self.remedy = remedy

    async def call(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        """Say that the tool is not configured.

        Raises:
            ToolError: Always.
        """
        raise ToolError(f"{self.spec.name} is not configured. {self.remedy} Go on without it.")


def chatchat_tools(
    built: Iterable[Tool | Callable[..., Any]] = (), remedies: Mapping[str, str] = _NONE
) -> tuple[Tool, ...]:
    """Return the eight old tools in their order.

    Args:
        built: Tools and functions that exist; those with an old name take its place, the others are passed over.
        remedies: By old name: why it is not configured and what the operator can do.
    """
    found = {each.spec.name: each for each in map(as_tool, built)}
    return tuple(
        found.get(old.name) or Unconfigured(old, remedies.get(old.name) or _REMEDIES.get(old.name, _REMEDY))
        for old in OLD_TOOLS
    )
