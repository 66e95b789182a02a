"""What AG-UI's clients send: `RunAgentInput` as far as it is used, checked at the border.

Fields that the protocol may gain are ignored. https://docs.ag-ui.com/spec/1.0.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from stepwell.events import Policy
from stepwell.server.bodies import LimitsBody, Name, PlanBody, Strict, Text
from stepwell.server.counts import Counted
from stepwell.specs import EngineName

Id = Annotated[Text, Field(min_length=1, max_length=1000)]


class _Open(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, use_attribute_docstrings=True)


class FunctionBody(_Open):
    """What a call calls."""

    name: Text
    arguments: Text = ""
    """JSON text."""


class CallBody(_Open):
    """A call that an assistant's message made."""

    id: Id
    function: FunctionBody


class InputMessageBody(_Open):
    """One message of the conversation as the client has it."""

    id: Id
    role: Literal["developer", "system", "assistant", "user", "tool", "activity", "reasoning"]
    content: object = None
    """Text, or a list of parts."""
    toolCalls: list[CallBody] | None = None
    """Calls of an assistant's message."""
    toolCallId: Text = ""
    """The call that a tool's message answers."""
    error: Text | None = None
    """Why the tool failed."""


class InputToolBody(_Open):
    """A tool that the client carries out."""

    name: Text
    description: Text = Field(default="", max_length=20_000)
    parameters: dict[str, Any] | None = None
    """A JSON schema of type `object`."""


class ContextBody(_Open):
    """Something that the agent should know in this run."""

    description: Text = ""
    value: Text


class ResumeBody(_Open):
    """The response to one interrupt."""

    interruptId: Id
    status: Literal["resolved", "cancelled"]
    payload: object = None
    """What the interrupt's `responseSchema` says."""


class OptionsBody(Strict):
    """What a run should be besides what the settings say: `forwardedProps.stepwell`."""

    model: Name = ""
    engine: EngineName | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1, le=10**9)
    tools: list[Name] | None = Field(default=None, max_length=500)
    """Names of the agent's own tools that it may use."""
    limits: LimitsBody | None = None
    plan: PlanBody | None = None
    while_running: Policy | None = None
    """What becomes of a message while a run is open."""


class PropsBody(_Open):
    """`forwardedProps`: the whitelist of what is looked at."""

    model: Name = ""
    engine: EngineName | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    stepwell: OptionsBody | None = None
    """Everything that can be wished; it goes before the three others."""


class RunInputBody(_Open):
    """A request to run an agent."""

    threadId: Id
    runId: Id
    messages: Annotated[list[InputMessageBody], Counted]
    """The whole conversation as the client has it; what is new at its end is taken."""
    state: object = None
    tools: list[InputToolBody] | None = Field(default=None, max_length=128)
    context: list[ContextBody] | None = Field(default=None, max_length=1000)
    forwardedProps: PropsBody | None = None
    resume: list[ResumeBody] | None = Field(default=None, max_length=1000)
