"""What a caller hands to one step: messages, tools and settings, as records or in the forms of OpenAI's API.

It turns one into the other and knows nothing of agents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from stepwell.errors import ConfigError
from stepwell.events import ToolStatus
from stepwell.messages import Image, Message, ToolSpec, ToolSpecs, clean
from stepwell.models.base import Settings


class ToolOutput(msgspec.Struct, frozen=True, gc=False):
    """What came of a call, for `BaseAgent.update_tool_calls_output`.

    Args:
        id: Id of the call.
        output: What it returned.
        status: How it ended.
        images: Shown to models that see.
    """

    id: str
    output: str
    status: ToolStatus = "ok"
    images: tuple[Image, ...] = ()


def message_of(given: Message | Mapping[str, Any]) -> Message:
    """Return a message; a mapping has a `role` and a `content`.

    Raises:
        ConfigError: It is none.
    """
    if not isinstance(given, Message):
        try:
            given = msgspec.convert(dict(given), Message)
        except msgspec.ValidationError as error:
            raise ConfigError(f"message: {error}; give it a `role` and a `content`, which is a text.") from None
    return msgspec.structs.replace(given, content=clean(given.content))


def tools_of(given: Sequence[ToolSpec | Mapping[str, Any]]) -> ToolSpecs:
    """Return tools; a mapping is a function in the form of OpenAI's chat completions, wrapped or bare.

    Raises:
        ConfigError: One is no tool; says which.
    """
    return ToolSpecs(each if isinstance(each, ToolSpec) else _tool(at, each) for at, each in enumerate(given))


def _tool(at: int, given: Mapping[str, Any]) -> ToolSpec:
    missing: dict[str, Any] = {"description": "", "parameters": {"type": "object", "properties": {}}}
    try:
        return msgspec.convert({**missing, **given.get("function", given)}, ToolSpec)
    except (msgspec.ValidationError, TypeError) as error:
        wanted = "`name`, `description` and `parameters`"
        raise ConfigError(f"tools.{at}: {error}; give a function with {wanted}.") from None


def choice_of(given: str | Mapping[str, Any]) -> str:
    """Return which tool must be called: `auto`, `none`, `required` or a name.

    Args:
        given: One of these, or OpenAI's object with the name of a function.

    Raises:
        ConfigError: It names none.
    """
    found: object = given
    if not isinstance(given, str):
        found = given.get("function", given).get("name") or given.get("type")
    if not isinstance(found, str) or not found:
        raise ConfigError("tool_choice: give `auto`, `none`, `required`, a tool's name, or a function with a `name`.")
    return found


def settings_with(
    settings: Settings, tool_choice: str | Mapping[str, Any] | None, further: Mapping[str, Any]
) -> Settings:
    """Return settings with what one step changes of them.

    Args:
        settings: The agent's own.
        tool_choice: As for `choice_of`; None leaves it.
        further: Fields of `Settings`, and others, which become fields of the request's body as they are.
    """
    changes = {name: further[name] for name in further if name in Settings.__struct_fields__}
    others = {name: value for name, value in further.items() if name not in changes}
    if "stop" in changes:
        stop = changes["stop"]
        changes["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    if tool_choice is not None:
        changes["tool_choice"] = choice_of(tool_choice)
    if others or "extra" in changes:
        changes["extra"] = {**settings.extra, **changes.get("extra", {}), **others}
    return msgspec.structs.replace(settings, **changes) if changes else settings
