"""The tool `delegate`: an agent gives a bounded task to another agent of the settings.

It does nothing itself: an engine begins the task, and the other agent's conclusion becomes the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from stepwell.errors import ToolError
from stepwell.events import Effect
from stepwell.messages import ToolSpec, clean
from stepwell.tools.base import ToolContext, ToolResult

NAME = "delegate"
LONGEST = 20_000
"""Characters of a task."""

_DESCRIPTION = (
    "Give a bounded task to another agent and get its result. The agent sees nothing but the task's text. "
    "The agents are:\n"
)


class DelegateTool:
    """The tool; `engines.delegating.Delegating` is what engines use of it.

    Args:
        agents: What each agent is good for, by its name.
    """

    effect: Effect = "pure"
    timeout = math.inf
    output_limit = 30_000
    place = "workspace"
    """It reaches nothing: what its agent calls is judged call by call."""

    def __init__(self, agents: Mapping[str, str]) -> None:
        described = "\n".join(f"- {name}: {about}" for name, about in agents.items())
        properties = {
            "agent": {"type": "string", "enum": [*agents], "description": "Who is to do it."},
            "task": {"type": "string", "description": "What is to be reached, with all that one has to know for it."},
        }
        self.spec = ToolSpec(
            NAME,
            _DESCRIPTION + described,
            {
                "type": "object",
                "properties": properties,
                "required": ["agent", "task"],
                "additionalProperties": False,
            },
        )
        self._agents = frozenset(agents)

    def delegation(self, arguments: dict[str, Any]) -> tuple[str, str]:
        """Return the name of the agent and its task in words; see `engines.delegating.Delegating`."""
        name, text = clean(str(arguments["agent"])), clean(str(arguments["task"])).strip()
        if name not in self._agents:
            raise ToolError(f"There is no agent {name[:80]!r}; choose one of: {', '.join(sorted(self._agents))}.")
        if not text or len(text) > LONGEST:
            raise ToolError(f"`task` has {len(text)} characters; write 1 to {LONGEST}.")
        return name, text

    async def call(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        """Refuse: without an engine there is nobody to do it.

        Raises:
            ToolError: Always.
        """
        raise ToolError("No task can be given to another agent here.")
