"""What a request to `POST /chat/chat/completions` of Langchain-Chatchat 0.3 may say, and what it asks of a run."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from pydantic import Field

from stepwell.config import Config
from stepwell.errors import InputError
from stepwell.images import check
from stepwell.messages import Image, Message
from stepwell.runs.catalog import Catalog, Wish
from stepwell.server.bodies import Name
from stepwell.server.chatchat.bodies import MaxTokens, OldBody, OldNumber, OldText
from stepwell.server.chatchat.wishes import model_of, wish
from stepwell.server.counts import Counted

CHOICES = ("auto", "none", "required")
"""Values of `tool_choice` that name no tool."""
SAMPLING = ("top_p", "seed", "stop", "presence_penalty", "frequency_penalty")
"""Fields that are sent to the model as they are."""

Penalty = Annotated[float | None, Field(ge=-2, le=2)]


class Address(OldBody):
    """Where an image is."""

    url: OldText
    """An https: address or a data: URL."""


class Part(OldBody):
    """A part of a message."""

    type: OldText
    """`text` or `image_url`."""
    text: OldText = ""
    """The text of a part of the type `text`."""
    image_url: Address | None = None
    """The image of a part of the type `image_url`."""


class OldMessage(OldBody):
    """One message of the conversation."""

    role: OldText
    """`user`, `assistant` or `system`; others are left out."""
    content: OldText | list[Part] = ""
    """Text, or parts."""


class Function(OldBody):
    """A tool by its name; what else is said of it is not used."""

    name: Name


class ToolObject(OldBody):
    """A tool as OpenAI's clients name it."""

    function: Function


class OldCompletionsBody(OldBody):
    """The body of `POST /chat/chat/completions`."""

    messages: Annotated[list[OldMessage], Counted] = Field(min_length=1)
    """The conversation, oldest first; the last one is the user's."""
    model: OldText = ""
    """A model of the settings, or any name: it is sent to the default endpoint."""
    stream: bool = False
    """Many events, or one JSON object."""
    tools: list[Name | ToolObject] = Field(default_factory=list[Name | ToolObject])
    """Names of tools of this server that the agent may use, or objects with them; empty: a model without tools."""
    tool_choice: Name | ToolObject = ""
    """A tool that must be called first, `auto`, `none` or `required`."""
    tool_input: dict[str, Any] | None = None
    """Arguments with which the tool of `tool_choice` is called before the model answers."""
    conversation_id: OldText = Field(default="", max_length=200)
    """Any name of a conversation; empty for none."""
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    """Sampling temperature; empty: the settings'."""
    max_tokens: MaxTokens = None
    """Longest reply in tokens; 0 and less mean no limit."""
    top_p: float | None = Field(default=None, ge=0.0, le=1.0)
    seed: OldNumber | None = None
    stop: OldText | list[OldText] | None = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    n: Literal[1] = 1
    """How many answers."""


class Asked(NamedTuple):
    """What a request asks for.

    Args:
        tools: Names of the tools that the agent may use.
        choice: What its first reply must call; empty for what it likes.
        called: The tool that is called before; empty for none.
    """

    tools: tuple[str, ...]
    choice: str
    called: str

    @property
    def agent(self) -> bool:
        """Whether an agent with tools is asked for, and not a model alone."""
        return bool(self.tools)


def asked(body: OldCompletionsBody) -> Asked:
    """Return what a request asks for."""
    choice = _name(body.tool_choice)
    named = choice if choice and choice not in CHOICES else ""
    if named and body.tool_input is not None:
        return Asked((), "", named)
    tools = () if choice == "none" else tuple(dict.fromkeys(map(_name, body.tools)))
    if named and named not in tools:
        tools = (*tools, named)
    return Asked(tools, choice if tools and choice not in ("auto", "none") else "", "")


def _name(tool: str | ToolObject) -> str:
    return tool if isinstance(tool, str) else tool.function.name


def conversation(body: OldCompletionsBody, max_pixels: int) -> tuple[list[Message], Message]:
    """Return the messages before the last one, and that.

    Args:
        body: The request.
        max_pixels: Of an image at most.

    Raises:
        InputError: The last one is none of the user, or says nothing; or an image cannot be taken.
    """
    *before, last = body.messages
    if last.role != "user":
        raise InputError("The last message must be the user's.", f"messages.{len(before)}.role")
    message = _message(last, max_pixels, len(before))
    if not message.content and not message.images:
        raise InputError("The last message is empty.", f"messages.{len(before)}.content")
    said = [_message(each, max_pixels, at) for at, each in enumerate(before) if each.role in ("user", "assistant")]
    return [each for each in said if each.content or each.images], message


def _message(each: OldMessage, max_pixels: int, at: int) -> Message:
    role: Literal["user", "assistant"] = "user" if each.role == "user" else "assistant"
    if isinstance(each.content, str):
        return Message(role, each.content)
    shown = [part.image_url.url for part in each.content if part.image_url is not None and role == "user"]
    images = tuple(map(Image, shown))
    for image in images:
        field = f"messages.{at}.content"
        if not image.url.startswith(("https://", "data:image/")):
            raise InputError("An image is an https: address or a data:image/ URL.", field)
        check(image, max_pixels=max_pixels, field=field)
    return Message(role, "\n".join(part.text for part in each.content if part.text), images)


def wish_of(config: Config, body: OldCompletionsBody, wanted: Asked, text: str, key: str) -> Wish:
    """Return what a request asks of its run."""
    system = [_message(each, 0, at).content for at, each in enumerate(body.messages) if each.role == "system"]
    given = body.model_dump(include=set(SAMPLING), exclude_none=True)
    name = model_of(config, body.model)
    plain = wish(config, text=text, key=key, model=name, temperature=body.temperature, max_tokens=body.max_tokens)
    return msgspec.structs.replace(
        plain,
        dialect=config.chatchat.dialects.get(name, "") if wanted.agent else "native",
        system="\n\n".join(filter(None, system)),
        tools=wanted.tools,
        tool_choice=wanted.choice,
        sampling=given,
    )


def check_tools(catalog: Catalog, wanted: Asked) -> None:
    """Refuse tools that this server does not have, in words for those who bring their own.

    Raises:
        InputError: One is not there.
    """
    known = {each.spec.name for each in catalog.tools()}
    for index, name in enumerate(wanted.tools):
        if name not in known:
            said = f"There is no tool {name!r} here; GET /tools lists them. Tools of your own go with /v1."
            raise InputError(said, f"tools.{index}")
