"""Request bodies of the old routes, read as pydantic 1 did: near types are converted, unknown keys ignored."""

from __future__ import annotations

import math
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from stepwell.server.bodies import Text
from stepwell.server.counts import Counted

LARGEST = 2**31
"""Largest whole number that a field takes."""


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) else value


def _whole_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and math.isfinite(value) else value


OldText = Annotated[Text, BeforeValidator(_as_text)]
"""Text as pydantic 1 took it: numbers too."""
OldNumber = Annotated[int, BeforeValidator(_whole_number), Field(ge=-LARGEST, le=LARGEST)]
"""A whole number as pydantic 1 took it: the whole part of any."""
MaxTokens = Annotated[int | None, BeforeValidator(_whole_number), Field(le=LARGEST)]
"""Longest reply in tokens; 0 and less mean no limit."""


class OldBody(BaseModel):
    """A body in which unknown keys are ignored and null is no value, as it was."""

    model_config = ConfigDict(allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: each for name, each in cast(dict[str, Any], value).items() if each is not None}


class History(BaseModel):
    """One earlier message."""

    role: OldText
    content: OldText


class AgentChatBody(OldBody):
    """The body of `POST /chat/agent_chat`."""

    query: OldText
    """What the user says."""
    history: Annotated[list[History], Counted] = Field(default_factory=list[History])
    """Earlier messages, oldest first."""
    stream: bool = False
    """Many events, or one with everything."""
    model_name: OldText = ""
    """A model of the settings, or any name: it is sent to the default endpoint."""
    temperature: float | None = Field(default=None, ge=0.0, le=1.0)
    """Sampling temperature; empty: the settings'."""
    max_tokens: MaxTokens = None
    """Longest reply in tokens; 0 and less mean no limit."""
    prompt_name: OldText = "default"
    """Name of the prompt template: `default` or `ChatGLM3`."""


class OldChatBody(OldBody):
    """The body of `POST /chat/chat`."""

    query: OldText
    """What the user says."""
    conversation_id: OldText = Field(default="", max_length=200)
    """Any name of a conversation; empty for none."""
    history_len: OldNumber = -1
    """How many stored rounds the model sees where `history` names none; 0 and less mean none."""
    history: Annotated[list[History] | OldNumber, Counted] = Field(default_factory=list[History])
    """Earlier messages, oldest first; or how many stored rounds."""
    stream: bool = False
    """Many events, or one with everything."""
    model_name: OldText = ""
    """A model of the settings, or any name: it is sent to the default endpoint."""
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    """Sampling temperature; empty: the settings'."""
    max_tokens: MaxTokens = None
    """Longest reply in tokens; 0 and less mean no limit."""
    prompt_name: OldText = "default"
    """Name of the prompt template: `default`, `with_history` or `py`."""


class OldCompletionBody(OldBody):
    """The body of `POST /other/completion`."""

    query: OldText
    """What the model goes on from."""
    stream: bool = False
    """Many events, or one with everything."""
    echo: bool = False
    """Whether the query comes back first."""
    model_name: OldText = ""
    """A model of the settings, or any name: it is sent to the default endpoint."""
    temperature: float | None = Field(default=None, ge=0.0, le=1.0)
    """Sampling temperature; empty: the settings'."""
    max_tokens: MaxTokens = 1024
    """Longest reply in tokens; 0 and less mean no limit."""
    prompt_name: OldText = "default"
    """Name of the prompt template, as for `POST /chat/chat`."""


class OldFeedbackBody(OldBody):
    """The body of `POST /chat/feedback`."""

    message_id: OldText = Field(default="", max_length=32)
    """The `message_id` of an answer."""
    score: OldNumber = 100
    """What people think of it, by custom up to 100: more is better."""
    reason: OldText = Field(default="", max_length=10_000)
    """Why."""


class OldModelBody(OldBody):
    """The body of the routes under `/llm_model` that are about one model; an address in it is not used."""

    model_name: OldText = ""
    """A model of the settings."""


class OldModelsBody(OldBody):
    """The body of `POST /llm_model/list_config_models`."""

    types: list[OldText] = Field(default_factory=lambda: ["local", "online"])
    """Of `local` and `online`."""


class OldTemplateBody(OldBody):
    """The body of `POST /server/get_prompt_template`."""

    type: OldText = "llm_chat"
    """What the template is for."""
    name: OldText = "default"
    """Its name."""


class OldToolCallBody(OldBody):
    """The body of `POST /tools/call`."""

    name: OldText
    """The tool."""
    tool_input: dict[str, Any] = {}
    """Its arguments."""
