"""Settings of agents and their tasks: the sections `[agent]`, `[agents.NAME]` and `[tasks]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from stepwell.config.base import Names, Section

AgentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""Stands in the path of its events."""


class AgentSettings(Section):
    """The agent that answers where a request names nothing else."""

    system: str = ""
    """The system message; empty: the built-in one in the language of the question."""
    tools: Names | None = None
    """Names of its tools in order; empty: all that are switched on."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Sampling temperature; empty: the endpoint's own."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest reply in tokens; empty: the endpoint's own."""
    prompt: str = "default"
    """Name of the dialect's template, where the model needs one."""
    language: Literal["auto", "en", "zh"] = "auto"
    """Language of prompts and notices; `auto`: that of the message."""


class HelperSettings(Section):
    """An agent to which others may give tasks."""

    description: str = Field(min_length=1)
    """What it is good for, as the agent is told that gives it tasks."""
    model: str = ""
    """Name of its model; empty: that of the agent that gives the task."""
    tools: Names | None = None
    """Names of its tools in order; empty: those of the agent that gives the task."""
    system: str = ""
    """Its system message; empty: that of the agent that gives the task."""
    max_chain_length: int | None = Field(default=None, ge=1)
    """Steps of one of its tasks; empty: `tasks.max_chain_length`."""


class TaskSettings(Section):
    """How tasks and plans are carried out (XAgent's names and figures)."""

    max_chain_length: int = Field(default=7, ge=1)
    """Steps of a task; in the last one its submission is forced."""
    initial_plan: bool = True
    """Whether a plan is made before work begins."""
    max_plan_tree_depth: int = Field(default=3, ge=1)
    """How deep the tree of a plan may grow; the root has depth 1."""
    max_plan_tree_width: int = Field(default=5, ge=1)
    """Tasks that one task may have below it."""
    max_plan_refine_chain_length: int = Field(default=3, ge=0)
    """Successful edits of one rectification, and refused ones."""
    max_parallel_tasks: int = Field(default=1, ge=1)
    """Siblings done side by side where none needs the other."""
    fast_path: bool = True
    """Whether a question that needs no plan is answered without one."""
