"""The XML dialect: one tag a tool, one tag a parameter, `<weather><city>Rome</city></weather>`.

The reply's form, as this parser reads it, whatever pieces it comes in:

- A leading `<think>` or `<thinking>` block is thinking. What follows is text, which streams without outer whitespace.
- The tag of a tool that was offered begins a call if a tag of a parameter or its own closing tag comes next, and so
  does `<tool/>`. A tag in snake case at the start of a line that was not offered, with a tag next, is a call of an
  unknown tool; every other tag is text. Further calls may follow, 256 in all. Behind the calls nothing counts: the rest
  is cut.
- A value goes up to its closing tag and is taken as it stands, without one line end at either side; nothing in it is
  unescaped. `<![CDATA[...]]>` holds what could not stand there. A parameter takes a JSON value,
  or the text: where it is none, and where the schema has a string but no such value.
- `<use_tool>` with `<tool_name>` and `<arguments>`, a JSON object, says what cannot be said otherwise.
- A call that lacks its end or holds stray text becomes one with that text as its arguments, for the toolbox to complain
  about. Where the token limit cuts a call, the calls before it count, and only if there are none the reply is cut.
- Control tokens and `<tool_result>` end a reply everywhere.

Source: the prompts of Cline, and the `platform-knowledge-mode` of Langchain-Chatchat.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from stepwell.messages import ToolCall, ToolSpec, ToolSpecs
from stepwell.models.dialects.arguments import given_arguments, parameters_of, sent_object, typed_object, typed_value
from stepwell.models.dialects.blobs import MOST_CALLS, BracketParser, fields_of, text_of, tool_of
from stepwell.models.dialects.requests import escape_control, mark_control, tool_line
from stepwell.models.dialects.streaming import FENCE, Markers, Part, markers, maybe, named, one_of, row, some, word
from stepwell.models.dialects.turns import TurnsDialect

_ENDS = ("<tool_result>", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|observation|>")
_WRAPPERS = ("use_tool", "use_mcp_tool")
_FIRST, _REST = r"[A-Za-z_]", r"[\w.-]"
_NAME = row(Part(_FIRST, "(?!)"), some(_REST, 63))
_TAG = row(word("<"), _NAME, word(">"))
_INNER = one_of(named("first", _TAG), named("last", row(word("</"), _NAME, word(">"))))
_BODY = row(word(">"), some(r"\s", 64), _INNER)
_CALL = row(maybe(FENCE), named("open", word("<")), named("tool", _NAME), one_of(named("empty", word("/>")), _BODY))
_END = named("end", word(*_ENDS))
_FOUND = markers(_END, _CALL, signs="<`")
_NEXT = markers(_END, _CALL, otherwise="```")
_CALLABLE = re.compile(rf"{_FIRST}{_REST}{{0,63}}")
_SNAKE = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+")
_BLANK = re.compile(r"\s*")
_INSIDE = markers(_INNER)
_DATA = markers(named("data", row(some(r"\s", 64), word("<![CDATA["))))
_SPLIT = "]]]]><![CDATA[>"
_POSING = re.compile(r"<(?=/?(?:tool_result|use_tool|use_mcp_tool|think|thinking)>)", re.IGNORECASE)
_EDGES = re.compile(r"\A\r?\n|\r?\n\Z")
_encode = msgspec.json.Encoder().encode


class Xml(TurnsDialect):
    """Calls tools as tags.

    Args:
        prompt: Name of the template, of kind `xml`.
        language: `en` or `zh`.

    Raises:
        ConfigError: There is no such template.
    """

    name = "xml"
    stops = ("<tool_result>",)
    together = True

    def parser(self, tools: ToolSpecs) -> XmlParser:
        """Return a parser for one reply to a request that offered these tools."""
        return XmlParser(tools)

    def mark(self, text: str) -> str:
        """Return a text from outside such that no tag of the form itself stands in it."""
        return _POSING.sub("< ", mark_control(text))

    def _tools(self, tools: ToolSpecs) -> Iterator[str]:
        return (tool_line(tool, schema=True) for tool in tools)

    def _call(self, call: ToolCall, tools: ToolSpecs) -> str:
        written = sent_object(call.arguments)
        tool = next((tool for tool in tools if tool.name == call.name), None)
        if tool is not None and _CALLABLE.fullmatch(call.name) and call.name not in _WRAPPERS:
            values = _as_tags(tool, written)
            if values is not None:
                return "\n".join((f"<{call.name}>", *values, f"</{call.name}>"))
        name, given = _tag("tool_name", call.name), _tag("arguments", escape_control(written))
        return f"<use_tool>\n{name}\n{given}\n</use_tool>"

    def _result(self, text: str) -> str:
        return f"<tool_result>\n{text}\n</tool_result>"


def _as_tags(tool: ToolSpec, written: str) -> list[str] | None:
    """Return an object's fields as tags, or None if they would not read back the same."""
    fields = fields_of(written)
    if fields is None or len(json.loads(written, parse_int=str, object_pairs_hook=list)) != len(fields):
        return None
    tags: list[str] = []
    for name, value in fields.items():
        text = _as_text(tool, name, value)
        if text is None or not _CALLABLE.fullmatch(name) or "\0" in text or mark_control(text) != text:
            return None
        tags.append(_tag(name, text))
    return tags


def _as_text(tool: ToolSpec, name: str, value: str) -> str | None:
    """Return the text that a JSON value is between its tags, or None if no text would read back as it."""
    text = text_of(value)
    if text is not None and typed_value(tool, name, text) == _written(text):
        return text
    return value if typed_value(tool, name, value) == value else None


def _tag(name: str, text: str) -> str:
    """Return a parameter with its value, which stands in a CDATA section where it could be misread."""
    begins = _DATA.last.match(text)
    if begins or _EDGES.search(text) or f"</{name}>".lower() in text.lower():
        text = f"<![CDATA[{text.replace(']]>', _SPLIT)}]]>"
    return f"<{name}>{text}</{name}>"


@lru_cache(maxsize=256)
def _closing(name: str, data: bool) -> Markers:
    tag = word(f"</{name}>")
    return markers(row(word("]]>"), some(r"\s", 64), tag) if data else tag)


class XmlParser(BracketParser):
    """Takes one reply apart while it streams."""

    __slots__ = ("_data", "_known", "_parameter", "_parameters", "_stray", "_tag", "_value")

    found = _FOUND

    def __init__(self, tools: ToolSpecs) -> None:
        super().__init__(tools)
        # Names in the case that the model wrote count first.
        self._known = {**{tool.name.lower(): tool for tool in reversed(tools)}, **{tool.name: tool for tool in tools}}
        self._tag = self._parameter = ""
        self._stray = False
        self._data: bool | None = None
        self._value: list[str] = []
        self._parameters: list[tuple[str, str, bool]] = []

    def _begin(self, found: re.Match[str]) -> int:
        if found["end"]:
            self._end(found.start())
            return found.end()
        name = self._called(found)
        if not name:
            self._show(found.string[found.start() : found.end("open")], self._prose)
            return found.end("open")
        self._tag, self._parameter, self._stray = name, "", False
        self._parameters.clear()
        at = self._open(found.end("tool") + 1)
        if found["empty"]:
            at = found.end()
            self._close(at)
        return at

    def _called(self, found: re.Match[str]) -> str:
        """Return the tag of the call that begins here, or nothing."""
        tag, first = found["tool"], (found["first"] or "")[1:-1]
        tool = self._offered(tag)
        at_line = found.string[found.start() - 1] in "\r\n"
        if tool is not None:
            closed = found["empty"] is not None or (found["last"] or "")[2:-1].lower() == tag.lower()
            return tag if closed or (first and (at_line or first in parameters_of(tool))) else ""
        if tag.lower() in _WRAPPERS:
            return tag if first.lower() in ("tool_name", "server_name", "arguments") else ""
        return tag if first and at_line and _SNAKE.fullmatch(tag) else ""

    def _read_body(self, buffer: str, at: int) -> int:
        end = self._read_value(buffer, at) if self._parameter or self._stray else self._read_between(buffer, at)
        if self._state == "body":
            self._body.append(buffer[at : len(buffer) - len(self._held) if self._held else end])
        return end

    def _read_between(self, buffer: str, at: int) -> int:
        blank = _BLANK.match(buffer, at)
        at = blank.end() if blank else at
        if at == len(buffer):
            return at
        found = self._pattern(_INSIDE).match(buffer, at)
        if found is not None and self._holds(buffer, found):
            return len(buffer)
        if found is not None and found["first"]:
            self._parameter, self._data = found["first"][1:-1], None
            self._value.clear()
            return found.end()
        if found is not None and found["last"][2:-1].lower() == self._tag.lower():
            self._close(found.end())
            return found.end()
        self._stray, self._data = True, False
        return at

    def _read_value(self, buffer: str, at: int) -> int:
        if self._data is None:
            found = self._pattern(_DATA).match(buffer, at)
            if found is not None and self._holds(buffer, found):
                return len(buffer)
            self._data = found is not None
            return found.end() if found else at
        found = self._pattern(_closing(self._tag if self._stray else self._parameter, self._data)).search(buffer, at)
        self._value.append(buffer[at : found.start() if found else len(buffer)])
        if found is None or self._holds(buffer, found):
            return len(buffer)
        if self._stray:
            self._body.append(self._value[-1])
            self._close(found.end())
        else:
            self._parameters.append((self._parameter, "".join(self._value), self._data))
            self._parameter = ""
        return found.end()

    def _close(self, at: int) -> None:
        self._state = "after"
        self._take("".join(self._body), at)
        self._whole = self._offset + at

    def _take(self, text: str, at: int) -> None:
        self._found.append(self._broken(text) if self._stray else self._read_call())

    def _take_open(self, text: str) -> None:
        self._found.append(self._broken(text) if self._stray or self._parameter else self._read_call())

    def _broken(self, text: str) -> tuple[str, str]:
        tool = self._offered(self._tag)
        return (tool.name if tool else self._tag), text.strip()

    def _offered(self, tag: str) -> ToolSpec | None:
        return self._known.get(tag) or self._known.get(tag.lower())

    def _read_call(self) -> tuple[str, str]:
        tool = self._offered(self._tag)
        if tool is None and self._tag.lower() in _WRAPPERS:
            return self._read_wrapper()
        values = ((name, _said(text, data)) for name, text, data in self._parameters)
        return (tool.name if tool else self._tag), typed_object(tool, values)

    def _read_wrapper(self) -> tuple[str, str]:
        given = {name.lower(): _said(text, data) for name, text, data in self._parameters}
        name = given.get("tool_name", "")
        tool = tool_of(name, self._tools)
        arguments = given_arguments(tool, _written(given.get("arguments", "").strip()), plain=False)
        return (tool.name if tool else name), arguments

    def _read_after(self, buffer: str, at: int) -> int:
        blank = _BLANK.match(buffer, at)
        at = blank.end() if blank else at
        if at == len(buffer):
            return at
        found = self._pattern(_NEXT).match(buffer, at)
        if found is not None and self._holds(buffer, found):
            return len(buffer)
        if found is not None and found["tool"] and len(self._found) < MOST_CALLS and self._called(found):
            return self._begin(found)
        if found is not None and found[0] == "```":
            return found.end()
        self._end(at)
        return at


def _said(text: str, data: bool) -> str:
    """Return the text that stands between two tags."""
    return text.replace(_SPLIT, "]]>") if data else _EDGES.sub("", text)


def _written(text: str) -> str:
    return _encode(text.encode("utf-8", "replace").decode()).decode()
