"""The Hermes dialect: `<tool_call>` with a JSON object, results in `<tool_response>`, as Qwen 2.5 and others write it.

The reply's form, as this parser reads it, whatever pieces it comes in and whatever the case of its tags:

- A leading `<think>` block is thinking. What follows is text, which streams without outer whitespace.
- `<tool_call>` before a JSON object (or a list of them), bare or fenced, begins a call, which ends where its brackets
  close. Further calls may follow. Behind the calls nothing counts: the rest is cut.
- An object has `name` and `arguments`; the arguments may be an object or a string that holds one, and the object may be
  Python's. What cannot be read becomes a call with that text as its arguments, for the toolbox to complain about.
- `<tool_call>` at the start of a line before anything else begins a call too, which cannot be read and goes up to its
  closing tag. Other tags without a call are dropped. `<tool_response>` and control tokens end a reply everywhere.
- Where the token limit cuts a call, the calls before it count, and only if there are none the reply is cut.

This module knows nothing of templates' texts or of how tools are run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from stepwell.messages import ToolCall, ToolSpecs
from stepwell.models.dialects.arguments import sent_object
from stepwell.models.dialects.blobs import BracketParser, broken_call, call_of, fields_of
from stepwell.models.dialects.literals import literal_json
from stepwell.models.dialects.requests import escape_control, mark_control
from stepwell.models.dialects.streaming import FENCE, markers, maybe, named, one_of, row, some, word
from stepwell.models.dialects.turns import TurnsDialect

_BRACKET = one_of(word("{"), word("["))
_TAG = row(word("<tool_call>"), some(r"\s", 64))
_TAGGED = row(_TAG, maybe(_TAG), maybe(FENCE), _BRACKET)
_ENDS = ("<tool_response>", "<|im_end|>", "<|im_start|>", "<|endoftext|>")
_FOUND = markers(
    named("call", row(maybe(FENCE), _TAGGED)),
    named("end", one_of(*map(word, _ENDS))),
    named("stray", one_of(word("</tool_call>"), word("</tool_response>"))),
    otherwise=r"(?P<odd>(?<![^\r\n])<tool_call>)|<tool_call>",
    signs="[<`]",
)
_NEXT = markers(
    named("call", row(maybe(FENCE), one_of(_TAGGED, _BRACKET))),
    named("stray", word("</tool_call>")),
    otherwise="```",
)
_CLOSING = markers(word("</tool_call>"), signs="<")
_ODD_NAME = re.compile(r"\s*(?:<function=)?([\w.-]{1,200})")
_BLANK = re.compile(r"\s*")
_POSING = re.compile(r"<(?=/?(?:tool_call|tool_response|think|thinking)>)", re.IGNORECASE)
_encode = msgspec.json.Encoder().encode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Hermes(TurnsDialect):
    """Calls tools in the form of Hermes and Qwen 2.5.

    Args:
        prompt: Name of the template, of kind `hermes`.
        language: `en` or `zh`.

    Raises:
        ConfigError: There is no such template.
    """

    name = "hermes"
    stops = ("<tool_response>",)
    together = True

    def parser(self, tools: ToolSpecs) -> HermesParser:
        """Return a parser for one reply to a request that offered these tools."""
        return HermesParser(tools)

    def mark(self, text: str) -> str:
        """Return a text from outside such that no tag of the form stands in it."""
        return _POSING.sub("< ", mark_control(text))

    def _values(self, tools: ToolSpecs) -> dict[str, str]:
        return {"tools": "\n".join(self._tools(tools))}

    def _tools(self, tools: ToolSpecs) -> Iterator[str]:
        for tool in tools:
            yield _encode({"type": "function", "function": tool}).decode()

    def _call(self, call: ToolCall, tools: ToolSpecs) -> str:
        arguments = escape_control(sent_object(call.arguments))
        name = escape_control(_encode(call.name).decode())
        return f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'

    def _result(self, text: str) -> str:
        return f"<tool_response>\n{text}\n</tool_response>"


class HermesParser(BracketParser):
    """Takes one reply apart while it streams."""

    __slots__ = ("_odd",)

    found = _FOUND

    def __init__(self, tools: ToolSpecs) -> None:
        super().__init__(tools)
        self._odd = False  # whether the open call has no object

    def _begin(self, found: re.Match[str]) -> int:
        if found["call"]:
            return self._open(found.end() - 1)
        if found["odd"]:
            self._odd = True
            return self._open(found.end())
        if found["end"]:
            self._end(found.start())
        return found.end()

    def _read_body(self, buffer: str, at: int) -> int:
        if not self._odd:
            return super()._read_body(buffer, at)
        found = self._pattern(_CLOSING).search(buffer, at)
        self._body.append(buffer[at : found.start() if found else len(buffer)])
        if found is None or self._holds(buffer, found):
            return len(buffer)
        self._take_open("".join(self._body))
        self._state, self._odd, self._whole = "after", False, self._offset + found.end()
        return found.end()

    def _read_after(self, buffer: str, at: int) -> int:
        blank = _BLANK.match(buffer, at)
        at = blank.end() if blank else at
        if at == len(buffer):
            return at
        found = self._pattern(_NEXT).match(buffer, at)
        if found is None:
            self._end(at)
            return at
        if self._holds(buffer, found):
            return len(buffer)
        return self._open(found.end() - 1) if found["call"] else found.end()

    def _take(self, text: str, at: int) -> None:
        for each in _objects(text):
            fields = fields_of(each) or {}
            inner = fields_of(fields.get("function", "")) or fields
            call = call_of(
                inner, self._tools, ("name", "function", "tool"), ("arguments", "parameters", "args"), plain=False
            )
            self._found.append(call or broken_call(each, "name"))

    def _take_open(self, text: str) -> None:
        if self._odd:
            name = _ODD_NAME.match(text)
            self._found.append((name[1] if name else "", text.strip()))
            return
        self._found.append(broken_call(text.rpartition("</tool_call>")[0].strip() or text.strip(), "name"))


def _objects(text: str) -> list[str]:
    """Return the texts of a list's items, or the one text."""
    if text[0] != "[":
        return [text]
    for written in (text, literal_json(text) or ""):
        try:
            return [bytes(each).decode() for each in _items(written)]
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            pass
    return [text]
