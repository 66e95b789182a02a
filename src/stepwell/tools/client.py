"""Tools that the client of a run carries out itself: it is told of a call and sends the result.

Nothing is run here. An engine records each call as a question of the kind `result`, whatever face the client speaks.
"""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

from stepwell.errors import InputError, ToolError
from stepwell.events import Effect
from stepwell.messages import ToolSpec, clean
from stepwell.questions import Inquiry
from stepwell.tools.arguments import malformed
from stepwell.tools.base import ToolContext, ToolResult

OURS = frozenset({"recall", "subtask_submit", "conclusion"})
"""Names of calls that are the runtime's own business."""
MOST = 128
"""Tools that one client may bring."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ClientTool:
    """A tool of the client; `tools.policy.Asking` is what engines use of it.

    Args:
        spec: What the model is told of it.
    """

    effect: Effect = "pure"
    """Here nothing happens; what the client does is the client's business."""
    timeout = math.inf
    output_limit = 30_000

    def __init__(self, spec: ToolSpec) -> None:
        self.spec = spec

    def question(self, arguments: dict[str, Any]) -> Inquiry:
        """Return that the client is asked for the result; see `tools.policy.Asking`."""
        return Inquiry(kind="result", text="")

    async def call(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        """Refuse: only the client can carry it out.

        Raises:
            ToolError: Always.
        """
        raise ToolError("Only the client can run this tool, and there is none here.")


def check_client_tools(tools: tuple[ToolSpec, ...], taken: frozenset[str], field: str = "tools") -> None:
    """Refuse tools of a client that no model could be told of.

    Args:
        tools: What the client brings.
        taken: Names that the run's own tools have.
        field: Where they stand in the request.

    Raises:
        InputError: Names the tool's place and what is wrong with it.
    """
    if len(tools) > MOST:
        raise InputError(f"There are {len(tools)} tools; a run takes at most {MOST} of its client.", field)
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        place = f"{field}.{index}"
        if not _NAME.fullmatch(tool.name):
            said = "A tool's name has 1 to 64 letters, digits, `_` and `-`."
            raise InputError(said, f"{place}.name")
        if tool.name in seen:
            raise InputError(f"Two tools are named {tool.name!r}; rename one.", f"{place}.name")
        if tool.name in taken or tool.name in OURS:
            raise InputError(f"The agent has a tool {tool.name!r} of its own; rename yours.", f"{place}.name")
        seen.add(tool.name)
        if clean(tool.description) != tool.description:
            raise InputError("The description holds what cannot be stored; remove it.", f"{place}.description")
        _check_parameters(tool.parameters, f"{place}.parameters")


def _check_parameters(parameters: dict[str, Any], field: str) -> None:
    if parameters.get("type", "object") != "object" or not isinstance(parameters.get("properties", {}), dict):
        raise InputError("The parameters must be a JSON schema of type `object`.", field)
    try:
        storable = b"\\u0000" not in msgspec.json.encode(parameters)
    except (UnicodeEncodeError, RecursionError, ValueError, TypeError):
        storable = False
    if not storable:
        raise InputError("They hold a NUL character, half a surrogate pair or too large a number; remove it.", field)
    if fault := malformed(parameters):
        raise InputError(f"This is no JSON schema that can be used: {fault}.", field)
