"""The structured dialect: each step is a thought and one JSON object `{"action": ..., "action_input": ...}`.

The reply's form, as this parser reads it, whatever pieces it comes in:

- A leading `<think>` block is thinking. What stands before the object is the thought, without a leading `Thought:`;
  where no tools were offered it is the answer.
- The object may be bare or fenced, with `Action:` before it or without, and is known by its first field: `action`,
  `action_input` or `thought`. It ends the reply: there is one call a reply, and the rest is cut.
- `Final Answer` as the action makes its input the answer, which streams where it comes second. So does what follows
  `Final Answer:` at the start of a line.
- An input that is a string is the tool's one string argument, where it has one. The object may be Python's. What cannot
  be read becomes a call with that text as its arguments, for the toolbox to complain about.
- `Observation:` at the start of a line and control tokens end a reply.
- A reply that the token limit cut inside an object holds no call; its stop reason stays.
- A reply with neither object nor answer is `unmarked`: its thought is its answer.

Source: the structured chat agents of LangChain and of Langchain-Chatchat 0.2 (its template `ChatGLM3`). The endpoint's
JSON mode is not used: it would forbid the thought that stands before the object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

import msgspec

from stepwell.messages import Message, ToolCall, ToolSpecs
from stepwell.models.dialects.arguments import sent_object
from stepwell.models.dialects.blobs import BracketParser, broken_call, call_of, fields_of, text_of
from stepwell.models.dialects.requests import escape_control, mark_control, tool_line
from stepwell.models.dialects.streaming import (
    FENCE,
    LINE,
    Channel,
    Part,
    markers,
    maybe,
    named,
    one_of,
    row,
    some,
    word,
)
from stepwell.models.dialects.turns import TurnsDialect

ENDS = ("<|observation|>", "<|user|>", "<|assistant|>", "<|system|>", "<|im_end|>", "<|im_start|>", "<|endoftext|>")
"""Control tokens that end a reply, where an endpoint lets them through."""

_QUOTE = some(r"[\"']", 1, 1)
_COLON = one_of(word(":"), word("："))
_KEY = one_of(word("action_input"), word("action"), word("thought"))
_LABEL = row(word("Action"), _COLON, some(r"\s", 64))
BLOB = row(
    maybe(_LABEL),
    maybe(FENCE),
    named("brace", word("{")),
    some(r"\s", 64),
    _QUOTE,
    _KEY,
    _QUOTE,
    some(r"\s", 8),
    word(":"),
)
"""The beginning of an object that is a step."""
END = named("end", one_of(*map(word, ENDS)))

_INDENT = row(LINE, some(r"[ \t]", 8))
_ANSWER = named("answer", row(_INDENT, word("Final Answer"), _COLON))
_OBSERVATION = named("observation", row(_INDENT, word("Observation"), _COLON))
SIGNS = r"[{`A<\r\n]"
_FOUND = markers(BLOB, END, _ANSWER, _OBSERVATION, cased=True, signs=SIGNS)


def _spaced(*texts: str) -> Part:
    return row(*(part for text in texts for part in (word(text), some(r"\s", 16))))


_LEAD = markers(
    row(_spaced("{", '"action"', ":", '"Final Answer"', ","), word('"action_input"'), some(r"\s", 16), word(":"),
        some(r"\s", 16), word('"'))
)  # fmt: skip
_LONGEST_LEAD = 256
_HEX = "[0-9a-fA-F]"
_LOW = f"[dD](?:[c-fC-F](?:{_HEX}{_HEX}?)?)?"
_STRING = re.compile(
    rf"\"|\\u[dD][89abAB]{_HEX}{{2}}\\u[dD][c-fC-F]{_HEX}{{2}}"
    rf"|(?P<half>\\(?:u(?:{_HEX}{{0,3}}|[dD][89abAB]{_HEX}{{2}}(?:\\(?:u(?:{_LOW})?)?)?))?\Z)"
    rf"|\\u{_HEX}{{4}}|\\[\s\S]"
)
_string = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode
_POSING = re.compile(r"(?<![^\r\n])([ \t]{0,8})(?=(?:Observation|Final Answer|Action|Thought)[:：])")
_RESULT = re.compile(r"<(?=/?result>)", re.IGNORECASE)


class Structured(TurnsDialect):
    """Calls tools as JSON objects with an action and its input.

    Args:
        prompt: Name of the template, of kind `structured`.
        language: `en` or `zh`.

    Raises:
        ConfigError: There is no such template.
    """

    name = "structured"
    stops = ("\nObservation:",)

    def parser(self, tools: ToolSpecs) -> StructuredParser:
        """Return a parser for one reply to a request that offered these tools."""
        return StructuredParser(tools, prose="thought" if tools else "text")

    def mark(self, text: str) -> str:
        """Return a text from outside such that nothing of it can pose as a part of the form."""
        return mark_steps(text)

    def _tools(self, tools: ToolSpecs) -> Iterator[str]:
        return (tool_line(tool, schema=True) for tool in tools)

    def _thought(self, message: Message) -> str:
        said = self.mark(message.content or message.thinking)
        return f"Thought: {said}" if said else ""

    def _answer(self, text: str, tools: ToolSpecs) -> str:
        return blob("Final Answer", _encode(text).decode()) if text and tools else text

    def _call(self, call: ToolCall, tools: ToolSpecs) -> str:
        return blob(call.name, sent_object(call.arguments))

    def _result(self, text: str) -> str:
        return observation(text)


def mark_steps(text: str) -> str:
    """Return a text from outside such that none of its lines or tags can pose as a part of the form."""
    return _RESULT.sub("< ", _POSING.sub(r"\1> ", mark_control(text)))


def observation(text: str) -> str:
    """Return a result as the user's message that it is part of: its tags tell it from what people say."""
    return f"Observation:\n<result>\n{text}\n</result>"


def blob(action: str, given: str) -> str:
    """Return a step as a model would write it.

    Args:
        action: The name of the tool.
        given: The JSON text of the input.
    """
    written = f'{{"action": {_encode(action).decode()}, "action_input": {given}}}'
    return f"Action:\n```json\n{escape_control(written)}\n```"


class StructuredParser(BracketParser):
    """Takes one reply apart while it streams."""

    __slots__ = ("_answered", "_lead", "_quoted")

    found = _FOUND
    labelled = True

    def __init__(self, tools: ToolSpecs, *, prose: Channel = "thought") -> None:
        super().__init__(tools, prose=prose)
        self._answered = self._quoted = False
        self._lead: str | None = None  # the beginning of an object that may be an answer

    def _begin(self, found: re.Match[str]) -> int:
        if found["brace"]:
            self._lead = ""
            return self._open(found.start("brace"))
        if found["answer"] is not None and self._prose == "thought":
            self._prose = "text"
        elif found["answer"] is not None:
            self._show(found[0], self._prose)
        else:
            self._end(found.start())
        return found.end()

    def _read_body(self, buffer: str, at: int) -> int:
        if self._quoted:
            return self._read_answer(buffer, at)
        if self._lead is not None:
            known = len(self._lead)
            self._lead += buffer[at : at + _LONGEST_LEAD]
            found = _LEAD.more.match(self._lead)
            if found is not None and found["half"] is None:
                self._answered = self._quoted = True
                return at + found.end() - known
            if found is None:
                self._lead = None
        return super()._read_body(buffer, at)

    def _read_answer(self, buffer: str, at: int) -> int:
        """Read on inside the string that is the answer."""
        out: list[str] = []
        while at < len(buffer) and not self.done:
            found = _STRING.search(buffer, at)
            end = found.start() if found else len(buffer)
            out.append(buffer[at:end])
            at = end
            if found is None:
                break
            if found["half"] is not None:
                self._held = "" if self._final else found[0]
                at = len(buffer)
            elif found[0] == '"':
                self._end(found.end())
            else:
                out.append(_unescaped(found[0]))
                at = found.end()
        self._show("".join(out), "text")
        return at

    def _read_after(self, buffer: str, at: int) -> int:
        self._end(at)
        return at

    def _take(self, text: str, at: int) -> None:
        fields = fields_of(text)
        if fields is None:
            self._found.append(broken_call(text, "action"))
        elif (action := text_of(fields.get("action", ""))) is None:
            self._state = "text"
            self._show(text, self._prose)
            return
        else:
            self._take_step(action, fields)
        self._end(at)

    def _take_step(self, action: str, fields: dict[str, str]) -> None:
        if thought := text_of(fields.get("thought", "")):
            self._show(thought, "thought" if self._prose == "thought" else "thinking")
        if action.strip().lower() != "final answer":
            call = call_of(fields, self._tools, ("action",), ("action_input",), plain=True)
            self._found.append(cast(tuple[str, str], call))
            return
        self._answered = True
        given = fields.get("action_input", '""')
        said = text_of(given)
        self._show(given if said is None else said, "text")

    def _take_open(self, text: str) -> None:
        if not self._answered:
            self._found.append(broken_call(text, "action"))

    def _is_unmarked(self) -> bool:
        return self._prose == "thought" and not self._answered


def _unescaped(escape: str) -> str:
    try:
        return _string(f'"{escape}"')
    except (msgspec.MsgspecError, UnicodeError):
        return "\ufffd" if escape[1] == "u" and len(escape) > 2 else escape[1:]
