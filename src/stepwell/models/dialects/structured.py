"""The structured dialect: each step is a thought and one JSON object `{"action": ..., "action_input": ...}`.

The reply's form, as this parser reads it, whatever pieces it comes in:

- A leading `<think>` block is thinking. What stands before the object is the thought, without a leading `Thought:`;
  where no tools were offered it is the answer.
- The object may be bare or fenced, with `Action:` before it or without, and is known by its first field: `action`,
  `action_input` or `thought`. It ends the reply: there is one call a reply, and the rest is cut.
- `Final Answer` as the action makes its input the answer, which streams where it comes next. So does what follows
  `Final Answer:` at the start of a line. A field `thought` is the thought; one that begins the reply streams, too.
- An input that is a string is the tool's one string argument, where it has one. The object may be Python's. What cannot
  be read becomes a call with that text as its arguments, for the toolbox to complain about.
- `Observation:` at the start of a line and control tokens end a reply.
- A reply that the token limit cut inside an object holds no call; its stop reason stays.
- A reply with neither object nor answer is `unmarked`: its thought is its answer.

An endpoint that keeps replies to a JSON schema is given that of a step (`forms.py`). It forbids the text before the
object, so there the thought is its first field.

Source: the structured chat agents of LangChain and of Langchain-Chatchat 0.2 (its template `ChatGLM3`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal, cast

import msgspec

from stepwell.messages import Message, ToolCall, ToolSpecs
from stepwell.models.base import ModelRequest
from stepwell.models.dialects.arguments import sent_object
from stepwell.models.dialects.blobs import BracketParser, broken_call, call_of, fields_of, text_of
from stepwell.models.dialects.forms import steps
from stepwell.models.dialects.literals import Balanced
from stepwell.models.dialects.requests import escape_control, mark_control, offered, tool_line
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
_COLON = word(":", "：")
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
    some(r"\s", 32),
    word(":"),
)
"""The beginning of an object that is a step."""
END = named("end", word(*ENDS))

_INDENT = row(LINE, some(r"[ \t]", 8))
_ANSWER = named("answer", row(_INDENT, word("Final Answer"), _COLON))
_OBSERVATION = named("observation", row(_INDENT, word("Observation"), _COLON))
SIGNS = "{`A<"
"""What objects and control tokens begin with."""
_FOUND = markers(BLOB, END, _ANSWER, _OBSERVATION, cased=True, signs=SIGNS, lines=r" \tFO")


def _spaced(*texts: str) -> Part:
    return row(*(part for text in texts for part in (some(r"\s", 32), word(text))))


FINAL = "Final Answer"
"""The action whose input is the answer."""
_SAYS = named("text", _spaced('"action"', ":", f'"{FINAL}"', ",", '"action_input"', ":", '"'))
_LEAD = markers(row(word("{"), one_of(_SAYS, named("thought", _spaced('"thought"', ":", '"')))))
_NEXT_LEAD = markers(row(_spaced(","), _SAYS))
_LONGEST_LEAD = 320
_MOST_OBJECTS = 256
"""Objects of one reply that turn out to be no step; all further ones are text."""
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

    def form(self, request: ModelRequest, answer: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Return the schema of a step; None without tools, where the reply is plain text."""
        tools = offered(request)
        return steps(tools, FINAL, answer, request.settings.tool_choice) if tools else None

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
        return blob(FINAL, _encode(text).decode()) if text and tools else text

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

    __slots__ = ("_answered", "_lead", "_leads", "_others", "_string", "_told")

    found = _FOUND
    labelled = True

    def __init__(self, tools: ToolSpecs, *, prose: Channel = "thought") -> None:
        super().__init__(tools, prose=prose)
        self._answered = self._told = False
        self._others = 0  # objects that are no steps
        self._lead: str | None = None  # what may be the beginning of a string that streams
        self._leads = _LEAD
        self._string: Literal["", "thought", "text"] = ""  # what the string is that is being read

    def _begin(self, found: re.Match[str]) -> int:
        if found["brace"] and self._others >= _MOST_OBJECTS:
            self._show(found[0], self._prose)
        elif found["brace"]:
            self._lead, self._leads, self._told = "", _LEAD, False
            return self._open(found.start("brace"))
        elif found["answer"] is not None and self._prose == "thought":
            self._prose = "text"
        elif found["answer"] is not None:
            self._show(found[0], self._prose)
        else:
            self._end(found.start())
        return found.end()

    def _read_body(self, buffer: str, at: int) -> int:
        if self._string:
            return self._read_string(buffer, at)
        end = 0 if self._lead is None else self._read_lead(buffer, at, self._lead)
        return end or super()._read_body(buffer, at)

    def _read_lead(self, buffer: str, at: int, lead: str) -> int:
        """Read on before a string that streams and return where it begins; 0 if it has not, or there is none."""
        whole = lead + buffer[at : at + _LONGEST_LEAD]
        found = self._leads.more.match(whole)
        self._lead = whole if found else None
        if found is None or found["half"] is not None:
            return 0
        if found["text"]:
            self._answered, self._string = True, "text"
        elif self._prose != "thought" or self._thought:
            self._lead = None  # this may be no step: its thought waits until that is known
            return 0
        else:
            self._told, self._string = True, "thought"
            self._balance = Balanced()
            self._balance.feed("{")
        end = at + found.end() - len(lead)
        self._body.append(buffer[at:end])
        return end

    def _read_string(self, buffer: str, at: int) -> int:
        """Read on inside a string that streams."""
        out: list[str] = []
        start = at
        while at < len(buffer) and self._string:
            found = _STRING.search(buffer, at)
            end = found.start() if found else len(buffer)
            out.append(buffer[at:end])
            at = found.end() if found else end
            if found is None:
                break
            if found["half"] is not None:
                self._held = "" if self._final else found[0]
            elif found[0] == '"':
                self._close_string(at)
            else:
                out.append(_unescaped(found[0]))
        self._show("".join(out), "text" if self._answered else "thought")
        if not self._answered:
            self._body.append(buffer[start : at - len(self._held)])
        return at

    def _close_string(self, at: int) -> None:
        if self._answered:
            self._end(at)
        self._string, self._lead, self._leads = "", "", _NEXT_LEAD

    def _read_after(self, buffer: str, at: int) -> int:
        self._end(at)
        return at

    def _take(self, text: str, at: int) -> None:
        fields = fields_of(text)
        if fields is None:
            self._found.append(broken_call(text, "action"))
        elif (action := text_of(fields.get("action", ""))) is None:
            self._state = "text"
            self._others += 1
            self._show(f"\n\n{text}" if self._told else text, self._prose)
            return
        else:
            self._take_step(action, fields)
        self._end(at)

    def _take_step(self, action: str, fields: dict[str, str]) -> None:
        if not self._told and (thought := text_of(fields.get("thought", ""))):
            # Where some of the thought came before the object, this is more of it.
            self._show(thought, "thought" if self._prose == "thought" or self._thought else "thinking")
        if action.strip().lower() != FINAL.lower():
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
