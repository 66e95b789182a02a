"""Stepwell: an agent runtime and an agent chat server whose every step is an event in a durable log.

    from stepwell import Agent, tool

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwell.errors import RunFailed, StepwellError, ToolError
    from stepwell.library import Agent, Result
    from stepwell.tools.base import Media
    from stepwell.tools.mark import tool

_HOMES = {
    "Agent": "stepwell.library",
    "Media": "stepwell.tools.base",
    "Result": "stepwell.library",
    "RunFailed": "stepwell.errors",
    "StepwellError": "stepwell.errors",
    "ToolError": "stepwell.errors",
    "tool": "stepwell.tools.mark",
}

__all__ = ["Agent", "Media", "Result", "RunFailed", "StepwellError", "ToolError", "tool"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'stepwell' has no attribute {name!r}")
    return getattr(import_module(home), name)
