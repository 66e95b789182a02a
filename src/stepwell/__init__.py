"""Stepwell: an agent runtime and an agent chat server whose every step is an event in a durable log.

    from stepwell import Agent, tool

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwell.errors import RunFailed, RunWaits, StepwellError, ToolError
    from stepwell.library import Agent, Result
    from stepwell.specs import Prices, Rule, TaskOptions
    from stepwell.tools.base import Media
    from stepwell.tools.mark import tool
    from stepwell.wiring.library_people import Answer, At

_HOMES = {
    "Agent": "stepwell.library",
    "Answer": "stepwell.wiring.library_people",
    "At": "stepwell.wiring.library_people",
    "Media": "stepwell.tools.base",
    "Prices": "stepwell.specs",
    "Result": "stepwell.library",
    "Rule": "stepwell.specs",
    "RunFailed": "stepwell.errors",
    "RunWaits": "stepwell.errors",
    "StepwellError": "stepwell.errors",
    "TaskOptions": "stepwell.specs",
    "ToolError": "stepwell.errors",
    "tool": "stepwell.tools.mark",
}

__all__ = [
    "Agent",
    "Answer",
    "At",
    "Media",
    "Prices",
    "Result",
    "Rule",
    "RunFailed",
    "RunWaits",
    "StepwellError",
    "TaskOptions",
    "ToolError",
    "tool",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'stepwell' has no attribute {name!r}")
    return getattr(import_module(home), name)
