"""Request bodies of the native API: what clients may send, checked at the border."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from stepwell.messages import clean


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


class TitleBody(Strict):
    """A thread's new title."""

    title: Text = Field(min_length=1, max_length=200)


class PinBody(Strict):
    """A fact to keep in the agent's context."""

    text: Text = Field(min_length=1, max_length=100_000)
    """What is kept: 1 to 4,000 characters."""


class CancelBody(Strict):
    """Why a run should stop."""

    reason: Text = Field(default="", max_length=1000)


class LimitsBody(Strict):
    """What the run may use; it cannot be more than the settings allow."""

    steps: int | None = Field(default=None, ge=1, le=1_000_000)
    tool_calls: int | None = Field(default=None, ge=0, le=1_000_000)
    tokens: int | None = Field(default=None, ge=1, le=10**12)
    seconds: float | None = Field(default=None, gt=0, le=10**7)


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
    system: Text | None = None
    """The system message; left out, the agent's own."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1, le=10**9)
    """Longest reply in tokens."""
    limits: LimitsBody | None = None
    output: dict[str, Any] | None = None
    """A JSON schema of type `object` with a `title`: the answer is then JSON text that follows it."""
