"""Calls whose arguments stand in tags of their own inside `<tool_call>`, as newer families were trained to write them.

Qwen3-Coder and Qwen 3.5 write `<function=NAME>` with `<parameter=KEY>` blocks, GLM-4.5 and later the bare name with
pairs of `<arg_key>` and `<arg_value>`. Values are text that nothing escapes. Where such a call begins in a reply is the
grammar's of `hermes.py`; here is where it ends and what it says.

Source: the chat templates of Qwen3-Coder-30B-A3B-Instruct, GLM-4.5, GLM-4.7 and GLM-5.
"""

from __future__ import annotations

import re

from stepwell.messages import ToolSpecs
from stepwell.models.dialects.arguments import loose_object, typed_object
from stepwell.models.dialects.blobs import tool_of
from stepwell.models.dialects.streaming import markers, named, row, some, word

NAME = some(r"[^\s<>{}\[\]`\"'=]", 128, 1)
"""The name of a tool."""
FUNCTION = row(word("<function="), named("function", NAME), word(">"))
"""The beginning of a call in Qwen's form."""

CLOSING = markers(
    named("opens", word("<parameter=", "<arg_value>")),
    named("closes", word("</parameter>", "</arg_value>")),
    named("both", row(word("</function>"), some(r"\s", 64), word("</tool_call>"))),
    named("ends", word("</tool_call>")),
    otherwise=r"(?P<last></function>)",
    signs="<",
)
"""What tells where a call ends. A value is open from `opens` to `closes`, and then only `both` ends the call."""

_FUNCTION = re.compile(r"\s*<function=([^\s<>]{1,200})>", re.IGNORECASE)
_PARAMETER = re.compile(r"<parameter=([^\r\n<>]{1,200})>", re.IGNORECASE)
_END_OF_PARAMETER = re.compile(r"</parameter>", re.IGNORECASE)
_LAST = re.compile(r"\s*(?:</function>\s*)?(?:</tool_call>\s*)?\Z", re.IGNORECASE)
_BARE = re.compile(r"\s*([^\s<>{}\[\]`\"'=]{1,200})\s*(?=<arg_key>|\{|\Z)", re.IGNORECASE)
_KEY = re.compile(r"<arg_key>([^<>]{1,200})</arg_key>\s{0,64}<arg_value>", re.IGNORECASE)
_END_OF_VALUE = re.compile(r"</arg_value>", re.IGNORECASE)


def tagged_call(text: str, tools: ToolSpecs) -> tuple[str, str] | None:
    """Return the name and the arguments of a call in tags, or None if the text is none.

    Args:
        text: What stands between the tags of the call; the last ones may be missing.
        tools: What was offered: their schemas decide what a value is.
    """
    text = _without_end(text)
    if found := _FUNCTION.match(text):
        values = [(name, _within(value)) for name, value in _pairs(text, _PARAMETER, _END_OF_PARAMETER)]
    elif found := _BARE.match(text):
        values = _pairs(text, _KEY, _END_OF_VALUE)
    else:
        return None
    rest = text[found.end() :].strip()
    tool = tool_of(found[1], tools)
    name = tool.name if tool else found[1]
    if not values and rest:
        whole = loose_object(rest)
        return name, whole[1] if whole else rest
    return name, typed_object(tool, values)


def _pairs(text: str, begins: re.Pattern[str], ends: re.Pattern[str]) -> list[tuple[str, str]]:
    """Return names and values in order; a value without an end goes up to the end of the text."""
    found: list[tuple[str, str]] = []
    at = 0
    while name := begins.search(text, at):
        end = ends.search(text, name.end())
        at = end.end() if end else len(text)
        value = text[name.end() : end.start()] if end else text[name.end() :].rstrip()
        found.append((name[1].strip(), value))
    return found


def _within(value: str) -> str:
    """Return a value without one line end at either side; its own last character may be a CR."""
    line_end = "\r\n" if value.startswith("\r\n") else "\n"
    return value.removeprefix(line_end).removesuffix(line_end)


def _without_end(text: str) -> str:
    """Return a call without the tags that close it, where a value was open when they came."""
    last = text.rfind("</function>")
    last = last if last >= 0 and _LAST.match(text, last) else text.rfind("</tool_call>")
    return text[:last] if last >= 0 and _LAST.match(text, last) else text
