"""Request bodies of the native API: what clients may send, checked at the border."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from stepwell.events import Policy
from stepwell.messages import clean
from stepwell.questions import Scope
from stepwell.specs import EngineName


def _storable(text: str) -> str:
    if clean(text) != text:
        raise ValueError("the text holds a NUL character or half a surrogate pair; remove it")
    return text


def _address(url: str) -> str:
    if not url.startswith(("https://", "data:image/")):
        raise ValueError("an image is an https: address or a data:image/ URL")
    return url


Text = Annotated[str, AfterValidator(_storable)]
Name = Annotated[Text, Field(max_length=200)]
EventNumber = Annotated[int, Field(ge=1, le=2**31)]
AgentPath = Annotated[Text, Field(max_length=500)]
AnyDecision = Literal["approve", "deny", "answer", "retry", "done", "skip", "continue", "stop"]
"""What a person can decide, whatever the question."""
ImageAddress = Annotated[Text, AfterValidator(_address)]


class Strict(BaseModel):
    """A body in which unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class ImageBody(Strict):
    """An image shown with a message."""

    url: ImageAddress = Field(max_length=20_000_000)
    """An https: address or a data: URL."""
    detail: str = Field(default="", pattern="^(low|high)?$")
    """`low`, `high`, or empty for the model's own choice."""


class ThreadBody(Strict):
    """A new thread."""

    title: Text = Field(default="", max_length=200)


class ThreadChangeBody(Strict):
    """What changes about a thread; what is left out stays as it is."""

    title: Text = Field(default="", min_length=1, max_length=200)
    policy: Policy = "queue"
    """What becomes of messages that come while a run is open."""

    @model_validator(mode="after")
    def _something(self) -> ThreadChangeBody:
        if not self.model_fields_set:
            raise ValueError("give `title`, `policy` or both")
        return self


class PinBody(Strict):
    """A fact to keep in the agent's context."""

    text: Text = Field(min_length=1, max_length=100_000)
    """What is kept: 1 to 4,000 characters."""


class ReasonBody(Strict):
    """Why a run should stop or halt."""

    reason: Text = Field(default="", max_length=1000)


class LimitsBody(Strict):
    """What the run may use; it cannot be more than the settings allow."""

    steps: int | None = Field(default=None, ge=1, le=1_000_000)
    tool_calls: int | None = Field(default=None, ge=0, le=1_000_000)
    tokens: int | None = Field(default=None, ge=1, le=10**12)
    seconds: float | None = Field(default=None, gt=0, le=10**7)
    money: float | None = Field(default=None, gt=0, le=10**9)
    """In the unit of the models' prices."""


class PlanBody(Strict):
    """How tasks and plans are carried out; what is left out is as in the settings."""

    max_chain_length: int | None = Field(default=None, ge=1, le=1000)
    """Steps of a task; in the last one it has to hand in what it has."""
    initial_plan: bool | None = None
    """Whether a plan is made before work begins."""
    max_plan_tree_depth: int | None = Field(default=None, ge=1, le=20)
    max_plan_tree_width: int | None = Field(default=None, ge=1, le=100)
    max_plan_refine_chain_length: int | None = Field(default=None, ge=1, le=100)
    """Successful edits of one change of the plan."""
    max_parallel_tasks: int | None = Field(default=None, ge=1, le=100)
    """Tasks of one parent that are done side by side."""
    fast_path: bool | None = None
    """Whether a question that needs no plan is answered without one."""


class ToolBody(Strict):
    """A tool that the client carries out itself."""

    name: Text
    """1 to 64 letters, digits, `_` and `-`."""
    description: Text = Field(default="", max_length=20_000)
    """What it does, for the model."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """A JSON schema of type `object`."""


class MessageBody(Strict):
    """A message to the agent."""

    content: Text
    """What the user says."""
    images: list[ImageBody] = Field(default_factory=list[ImageBody], max_length=100)
    """Shown with the text, in order."""
    model: Name = ""
    """Name of a model in the settings; empty for the default."""
    tools: list[Name] | None = Field(default=None, max_length=500)
    """Names of the tools that the agent may use; left out, all of its own."""
    agent: Name = ""
    """Name of an agent in the settings; empty for the default one."""
    client_tools: list[ToolBody] = Field(default_factory=list[ToolBody], max_length=128)
    """Tools that you carry out: each call is a question of the kind `result`, which you answer with what came of it."""
    system: Text | None = None
    """The system message; left out, the agent's own."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1, le=10**9)
    """Longest reply in tokens."""
    limits: LimitsBody | None = None
    while_running: Policy | None = None
    """What becomes of it while a run is open; left out, the thread's policy."""
    engine: EngineName | None = None
    """Who decides the steps; left out, the settings' choice."""
    plan: PlanBody | None = None
    """How tasks and plans are carried out."""
    people: bool = True
    """Whether somebody can answer questions; where nobody can, to ask is to deny."""
    output: dict[str, Any] | None = None
    """A JSON schema of type `object` with a `title`: the answer is then JSON text that follows it."""


class AnswerBody(Strict):
    """A decision on a question; which ones there are depends on its kind."""

    decision: AnyDecision
    text: Text = Field(default="", max_length=100_000)
    """The answer, the reason of a refusal, or the result of a call that is done."""
    arguments: dict[str, Any] | Text | None = None
    """The arguments that run instead of the model's: an object, or the exact JSON text."""
    value: dict[str, Any] | None = None
    """The fields of an answer with a form."""
    scope: Scope = "once"
    """How far an approval reaches."""
    hash: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    """The question's `hash` as you saw it; the decision is refused if that changed."""


class SteerBody(Strict):
    """Something said to a running agent."""

    content: Text = Field(min_length=1)
    interrupt: bool = False
    """Close what is under way first."""
    path: AgentPath = ""
    """The agent inside the run; empty for the run's own."""


class QueueChangeBody(Strict):
    """What changes about a waiting message."""

    content: Text = Field(default="", min_length=1)
    before: int = Field(default=0, ge=0, le=2**31)
    """The waiting message that it is put in front of; 0 for the end."""

    @model_validator(mode="after")
    def _something(self) -> QueueChangeBody:
        if not self.model_fields_set:
            raise ValueError("give `content`, `before` or both")
        return self


class EditBody(Strict):
    """How the event at which a thread is forked is changed: one of its three fields."""

    content: Text | None = None
    """The text of a message."""
    call: Name = ""
    """The call of a reply whose arguments are changed."""
    arguments: dict[str, Any] | Text | None = None
    """Its arguments: an object, or the exact JSON text."""
    result: Text | None = None
    """What a tool returned."""

    @model_validator(mode="after")
    def _one(self) -> EditBody:
        given = [each for each in (self.content, self.arguments, self.result) if each is not None]
        if len(given) != 1:
            raise ValueError("give one of `content`, `arguments` and `result`")
        if self.call and self.arguments is None:
            raise ValueError("`call` goes with `arguments`")
        return self


class ForkBody(Strict):
    """Where a thread is forked, and what is changed there."""

    at: EventNumber
    """The last event that is kept."""
    edit: EditBody | None = None
    model: Name = ""
    """The model that goes on; empty for the same."""
    title: Text = Field(default="", max_length=200)
    """Empty for the same."""
