"""The port to what the settings offer: models, tools, and how a run should go. Wiring implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

from stepwell.engines.base import Engine
from stepwell.events import Effect
from stepwell.messages import ToolSpec
from stepwell.specs import EngineName, Limits, RunSpec, TaskOptions


class ModelInfo(msgspec.Struct, frozen=True):
    """What clients may know of a model.

    Args:
        name: Its name in the settings.
        kind: `openai` or `offline`.
        model: The name sent to its endpoint.
        window: Context window in tokens.
        dialect: Empty for native tool calls.
        images: Whether it sees images.
        default: Whether it answers where a request names none.
    """

    name: str
    kind: str
    model: str
    window: int
    dialect: str
    images: bool
    default: bool


class ToolInfo(msgspec.Struct, frozen=True):
    """What clients may know of a tool."""

    spec: ToolSpec
    effect: Effect


class AgentInfo(msgspec.Struct, frozen=True):
    """What clients may know of an agent.

    Args:
        name: Its name in the settings; `default` for the one that answers where a request names none.
        description: What it is for.
        model: Name of its model in the settings.
    """

    name: str
    description: str
    model: str


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks of its run; empty values leave it to the settings.

    Args:
        agent: Name of an agent of the settings; empty for the default one.
        text: The message; its language decides where the settings say `auto`.
        model: Name of a model in the settings.
        any_model: Send an unknown `model` to the default endpoint under that name instead of refusing it.
        dialect: Name of a dialect, or `native`.
        prompt: Name of the dialect's template.
        language: `en` or `zh`.
        system: The system message; None for the settings'.
        tools: Names of tools; None for the settings'.
        client_tools: Tools that the client carries out; see `specs.RunSpec`.
        tool_choice: What the first reply must call; see `specs.RunSpec`.
        sampling: Further fields of each request to the model.
        temperature: 0.0 to 2.0.
        max_tokens: Longest reply in tokens.
        limits: What the run may use; None for the settings'.
        output: Name, description and JSON schema of the final answer; None for plain text.
        face: The protocol of the request.
        engine: The policy that decides the run's steps; empty for the settings'.
        tasks: How tasks and plans are carried out; None for the settings'.
        people: Whether somebody can answer the run's questions.
        key: Whose account the run's spending is on: the id of an API key.
    """

    agent: str = ""
    text: str = ""
    model: str = ""
    any_model: bool = False
    dialect: str = ""
    prompt: str = ""
    language: str = ""
    system: str | None = None
    tools: Sequence[str] | None = None
    client_tools: tuple[ToolSpec, ...] = ()
    tool_choice: str = ""
    sampling: dict[str, Any] = {}
    temperature: float | None = None
    max_tokens: int | None = None
    limits: Limits | None = None
    output: dict[str, Any] | None = None
    face: str = "native"
    engine: EngineName | Literal[""] = ""
    tasks: TaskOptions | None = None
    people: bool = True
    key: str = ""


class Catalog(Protocol):
    """Models, tools and prompts by name."""

    def models(self) -> list[ModelInfo]:
        """Return the models, the default first."""
        ...

    def agents(self) -> list[AgentInfo]:
        """Return the agents, the default first."""
        ...

    def tools(self) -> list[ToolInfo]:
        """Return the tools that are switched on, in order."""
        ...

    def spec(self, wish: Wish) -> RunSpec:
        """Return how a run should go.

        Raises:
            InputError: The wish names an agent, model, tool, dialect or prompt that is not there, or brings a tool that
                no model could be told of.
        """
        ...

    async def admit(self, spec: RunSpec) -> None:
        """Refuse a run whose key has no means left.

        Raises:
            LimitReached: A limit of the key is used up.
            InputError: Under a limit of money something of the run has no known price.
        """
        ...

    def assemble(self, spec: RunSpec) -> Engine:
        """Build the engine of a run.

        Raises:
            ConfigError: The spec names something that the settings no longer have.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
