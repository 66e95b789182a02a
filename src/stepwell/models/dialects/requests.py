"""What the requests of all dialects share: which tools, which stop texts, and text from outside that can do no harm."""

from __future__ import annotations

import re

import msgspec

from stepwell.messages import NO_TOOLS, ToolSpec, ToolSpecs
from stepwell.models.base import ModelRequest, Settings

_MOST_STOPS = 4  # of OpenAI's chat completions
_CONTROL = re.compile(r"<[|｜]([^|｜<>\s]{1,40})[|｜]>")  # both bars are in use among models
_encode = msgspec.json.Encoder().encode


def offered(request: ModelRequest) -> ToolSpecs:
    """Return the tools that the model may call."""
    return NO_TOOLS if request.settings.tool_choice == "none" else request.tools


def with_stops(settings: Settings, *stops: str) -> Settings:
    """Return settings with texts that end the reply, and without a choice of tools."""
    # The caller's own texts come first: ours only save tokens, the parser cuts without them.
    stop = tuple(dict.fromkeys((*settings.stop, *stops)))[:_MOST_STOPS]
    return msgspec.structs.replace(settings, stop=stop, tool_choice="")


def mark_control(text: str) -> str:
    """Return a text from outside such that `<|name|>` is no control token of any model: it becomes `<| name |>`."""
    return _CONTROL.sub(r"<| \1 |>", text)


def escape_control(text: str) -> str:
    """Return JSON or Python text whose strings hold no control token: the bar of `<|name|>` becomes an escape."""
    return _CONTROL.sub(lambda found: f"<\\u{ord(found[0][1]):04x}{found[0][2:]}", text)


def tool_line(tool: ToolSpec, *, schema: bool) -> str:
    """Return a tool as one line: its name, its description and, if asked for, the schema of its parameters."""
    line = f"{tool.name}: {' '.join(tool.description.split())}"
    return f"{line} Parameters: {_encode(tool.parameters).decode()}" if schema else line
