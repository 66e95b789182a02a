"""The Hermes dialect: `<tool_call>` with a JSON object, results in `<tool_response>`, as Qwen 2.5 and others write it.

Calls are shown to the model as JSON, and read besides in the tags of newer families, who fall back to them.

The reply's form, as this parser reads it, whatever pieces it comes in and whatever the case of its tags:

- A leading `<think>` block is thinking. What follows is text, which streams without outer whitespace.
- `<tool_call>` before a JSON object (or a list of them), bare or fenced, begins a call, which ends where its brackets
  close. Further calls may follow, 256 in all. Behind the calls nothing counts: the rest is cut.
- An object has `name` and `arguments`; the arguments may be an object or a string that holds one, and the object may be
  Python's. What cannot be read becomes a call with that text as its arguments, for the toolbox to complain about.
- `<tool_call>` before `<function=NAME>`, or before a name and `<arg_key>`, begins a call with its values in tags (see
  `tagged.py`); so does `<function=NAME>` alone, at the start of a line or behind a call, where the tool was offered. It
  ends with the tag that closes it, and no tag in an open value counts. A name alone in `<tool_call>` is one, too: any
  at the start of a line, elsewhere that of a tool that was offered.
- `<tool_call>` at the start of a line before anything else begins a call that cannot be read and goes up to its closing
  tag. Other tags without a call are dropped. `<tool_response>` and control tokens end a reply everywhere.
- Where the token limit cuts a call, the calls before it count, and only if there are none the reply is cut.

This module knows nothing of templates' texts or of how tools are run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from stepwell.messages import ToolCall, ToolSpecs
from stepwell.models.dialects.arguments import sent_object
from stepwell.models.dialects.blobs import MOST_CALLS, BracketParser, broken_call, call_of, fields_of, tool_of
from stepwell.models.dialects.literals import literal_json
from stepwell.models.dialects.requests import escape_control, mark_control
from stepwell.models.dialects.streaming import FENCE, LINE, markers, maybe, named, one_of, row, some, word
from stepwell.models.dialects.tagged import CLOSING, FUNCTION, NAME, tagged_call
from stepwell.models.dialects.turns import TurnsDialect

_BRACKET = word("{", "[")
_TAG = row(word("<tool_call>"), some(r"\s", 64))
_AFTER_NAME = one_of(word("<arg_key>"), named("empty", word("</tool_call>")))
_NAMED = row(named("name", NAME), some(r"\s", 64), _AFTER_NAME)
_OBJECT = row(maybe(_TAG), maybe(FENCE), named("object", _BRACKET))
_CALL = row(maybe(FENCE), named("tag", _TAG), one_of(_OBJECT, word("<function="), _NAMED))
_ENDS = ("<tool_response>", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|observation|>", "<|user|>")
_FOUND = markers(
    _CALL,
    named("bare", row(LINE, FUNCTION)),
    named("end", word(*_ENDS)),
    named("stray", word("</tool_call>", "</tool_response>")),
    otherwise=r"(?P<odd>(?<![^\r\n])<tool_call>)|<tool_call>",
    signs="<`",
)
_NEXT = markers(
    _CALL,
    named("naked", row(maybe(FENCE), _BRACKET)),
    named("bare", FUNCTION),
    named("stray", word("</tool_call>")),
    otherwise="```",
)
_ODD_NAME = re.compile(r"\s*(?:<function=)?([\w.-]{1,200})")
_BLANK = re.compile(r"\s*")
_POSING = re.compile(r"<(?=/?(?:tool_call|tool_response|think|thinking)>|function=)", re.IGNORECASE)
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

    __slots__ = ("_odd", "_value")

    found = _FOUND

    def __init__(self, tools: ToolSpecs) -> None:
        super().__init__(tools)
        self._odd = False  # whether the open call has no object
        self._value = ""  # which kind of value is open in it

    def _begin(self, found: re.Match[str]) -> int:
        if found["object"]:
            return self._open(found.end() - 1)
        if found["tag"] or found["bare"]:
            return self._begin_tagged(found)
        if found["odd"]:
            return self._open_odd(found.end())
        if found["end"]:
            self._end(found.start())
        return found.end()

    def _begin_tagged(self, found: re.Match[str]) -> int:
        """Begin a call in tags; what only looks like one is text, without the tag."""
        if found["bare"]:
            if self._offers(found["function"]):
                return self._open_odd(found.start())
            self._show(found[0], self._prose)
            return found.end()
        tag = found.start("tag")
        if found["empty"] and not self._offers(found["name"]) and found.string[tag - 1] not in "\r\n":
            self._show(found.string[found.start() : tag], self._prose)
            return tag + len("<tool_call>")
        return self._open_odd(found.end("tag"))

    def _offers(self, name: str) -> bool:
        return tool_of(name, self._tools) is not None

    def _open_odd(self, at: int) -> int:
        self._odd, self._value = True, ""
        return self._open(at)

    def _read_body(self, buffer: str, at: int) -> int:
        if not self._odd:
            return super()._read_body(buffer, at)
        found = self._pattern(CLOSING).search(buffer, at)
        self._body.append(buffer[at : found.start() if found else len(buffer)])
        if found is None or self._holds(buffer, found):
            return len(buffer)
        if self._closes(found):
            self._take_open("".join(self._body))
            self._state, self._odd, self._whole = "after", False, self._offset + found.end()
        else:
            self._body.append(found[0])
        return found.end()

    def _closes(self, found: re.Match[str]) -> bool:
        """Take a tag in a call that has no object and tell whether it closes the call."""
        if found["opens"]:
            self._value = self._value or found[0][1:4].lower()
        elif found["closes"]:
            self._value = "" if found[0][2:5].lower() == self._value else self._value
        else:
            return not self._value or found["both"] is not None
        return False

    def _read_after(self, buffer: str, at: int) -> int:
        blank = _BLANK.match(buffer, at)
        at = blank.end() if blank else at
        if at == len(buffer):
            return at
        found = self._pattern(_NEXT).match(buffer, at)
        if found is not None and self._holds(buffer, found):
            return len(buffer)
        if found is None or self._is_over(found):
            self._end(at)
            return at
        if found["object"] or found["naked"]:
            return self._open(found.end() - 1)
        if found["tag"] or found["bare"]:
            return self._open_odd(found.end("tag") if found["tag"] else at)
        return found.end()

    def _is_over(self, found: re.Match[str]) -> bool:
        """Tell whether what follows a call is no further one that counts."""
        if found["bare"] and not self._offers(found["function"]):
            return True
        more = found["tag"] or found["naked"] or found["bare"]
        return more is not None and len(self._found) >= MOST_CALLS

    def _take(self, text: str, at: int) -> None:
        for each in _objects(text, MOST_CALLS - len(self._found)):
            fields = fields_of(each) or {}
            inner = fields_of(fields.get("function", "")) or fields
            call = call_of(
                inner, self._tools, ("name", "function", "tool"), ("arguments", "parameters", "args"), plain=False
            )
            self._found.append(call or broken_call(each, "name"))

    def _take_open(self, text: str) -> None:
        if self._odd:
            name = _ODD_NAME.match(text)
            call = tagged_call(text, self._tools) or (name[1] if name else "", text.strip())
            self._found.append(call)
            return
        self._found.append(broken_call(text.rpartition("</tool_call>")[0].strip() or text.strip(), "name"))


def _objects(text: str, most: int) -> list[str]:
    """Return the texts of a list's first items, or the one text."""
    if text[0] != "[":
        return [text]
    for written in (str, literal_json):
        try:
            return [bytes(each).decode() for each in _items(written(text) or "")[:most]]
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            pass
    return [text]
