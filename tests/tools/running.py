"""What the tests of tools share: a context for calls, and one call through a toolbox."""

from __future__ import annotations

import json
from typing import Any

from stepwell.messages import ToolCall
from stepwell.tools.base import Prepared, Tool, Toolbox, ToolContext, ToolResult


def context(told: list[str] | None = None) -> ToolContext:
    """Make a context; progress goes to the list."""
    progress = [].append if told is None else told.append
    return ToolContext(thread="t", run=1, call="c", key="t.2", progress=progress)


def prepared(box: Toolbox, name: str, arguments: dict[str, Any] | str = "") -> Prepared:
    """Prepare a call that must be good."""
    found = box.prepare(sent(name, arguments))
    assert isinstance(found, Prepared), found
    return found


def refused(box: Toolbox, name: str, arguments: dict[str, Any] | str = "") -> ToolResult:
    """Prepare a call that must not run, and return what the model is told."""
    found = box.prepare(sent(name, arguments))
    assert isinstance(found, ToolResult), found
    return found


def sent(name: str, arguments: dict[str, Any] | str) -> ToolCall:
    """Make a call as a model sends it."""
    return ToolCall("c", name, arguments if isinstance(arguments, str) else json.dumps(arguments))


async def called(tool: Tool | Toolbox, arguments: dict[str, Any] | str, name: str = "") -> ToolResult:
    """Call a tool as an engine does."""
    box = tool if isinstance(tool, Toolbox) else Toolbox([tool])
    found = box.prepare(sent(name or box.names[0], arguments))
    return found if isinstance(found, ToolResult) else await box.run(found, context())
