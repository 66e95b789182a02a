"""The dialect of ChatGLM3: the tool's name on a line, and a Python call `tool_call(a=1, b='x')` in a fence.

The reply's form, as this parser reads it, whatever pieces it comes in:

- A leading `<think>` block is thinking. What stands before a call is text, which streams; so is a reply without one.
- A name alone on a line, then `tool_call(`, fenced or bare, begins a call, which ends the reply where its parentheses
  close. After the name of a tool that was offered a JSON object is one, too, as GLM-4 writes it. Arguments are read as
  Python's literals, then as JSON, and never run.
- The form of the template `ChatGLM3` is read as well, whatever the template: see `structured.py`. A leading `Thought:`
  makes a thought of the text.
- `<|observation|>` and the other control tokens end a reply everywhere.
- A reply that the token limit cut inside a call holds no call; its stop reason stays.

The grammar of Langchain-Chatchat 0.2 sent neither the history nor a user's message, asked for one form and read
another, and took every value for a text; here prompt and parser agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from stepwell.messages import ToolCall, ToolSpecs
from stepwell.models.dialects.arguments import given_arguments, object_arguments, sent_object
from stepwell.models.dialects.blobs import tool_of
from stepwell.models.dialects.literals import as_keywords, keywords_json, literal_json
from stepwell.models.dialects.requests import escape_control, tool_line
from stepwell.models.dialects.streaming import FENCE, LINE, Channel, markers, maybe, named, one_of, row, some, word
from stepwell.models.dialects.structured import BLOB, END, SIGNS, StructuredParser, blob, mark_steps, observation
from stepwell.models.dialects.turns import TurnsDialect

_NAME = r"[A-Za-z0-9_.-]"
_CALL = row(
    LINE,
    some(r"[ \t]", 8),
    named("name", some(_NAME, 64, 1)),
    some(r"[ \t]", 8),
    maybe(word("\r")),
    word("\n"),
    some(r"\s", 16),
    maybe(FENCE),
    one_of(
        row(word("tool_call"), some(r"[ \t]", 4), named("parenthesis", word("("))),
        named("object", word("{")),
    ),
)
_ANSWER = named("answer", row(LINE, word("Final Answer"), word(":", "：")))
_FOUND = markers(_CALL, BLOB, END, _ANSWER, cased=True, signs=SIGNS, lines=r" \tA-Za-z0-9_.-")
_NAMED = re.compile(rf"{_NAME}{{1,64}}")


class Glm3(TurnsDialect):
    """Calls tools in the form of ChatGLM3, or with the template `ChatGLM3` in that of the old service.

    Args:
        prompt: Name of the template, of kind `glm3`.
        language: `en` or `zh`.

    Raises:
        ConfigError: There is no such template.
    """

    name = "glm3"
    stops = ("<|observation|>",)

    def __init__(self, prompt: str = "default", language: str = "en") -> None:
        super().__init__(prompt, language)
        self._python = prompt != "ChatGLM3"

    def parser(self, tools: ToolSpecs) -> Glm3Parser:
        """Return a parser for one reply to a request that offered these tools."""
        return Glm3Parser(tools)

    def mark(self, text: str) -> str:
        """Return a text from outside such that nothing of it can pose as a part of the form."""
        return mark_steps(text)

    def _tools(self, tools: ToolSpecs) -> Iterator[str]:
        return (tool_line(tool, schema=True) for tool in tools)

    def _call(self, call: ToolCall, tools: ToolSpecs) -> str:
        written = sent_object(call.arguments)
        if self._python and _NAMED.fullmatch(call.name) and (keywords := as_keywords(written)) is not None:
            return f"{call.name}\n```python\ntool_call({escape_control(keywords)})\n```"
        return blob(call.name, written)  # which can say every name and every object

    def _result(self, text: str) -> str:
        return observation(text)


class Glm3Parser(StructuredParser):
    """Takes one reply apart while it streams."""

    __slots__ = ("_name",)

    found = _FOUND

    def __init__(self, tools: ToolSpecs, *, prose: Channel = "text") -> None:
        super().__init__(tools, prose=prose)
        self._name: str | None = None

    def _begin(self, found: re.Match[str]) -> int:
        if found["name"] is None:
            return super()._begin(found)
        place = found.start("parenthesis" if found["parenthesis"] else "object")
        if found["object"] and tool_of(found["name"], self._tools) is None:
            self._show(found[0][:-1], self._prose)
            return place
        self._name = found["name"]
        return self._open(place)

    def _take(self, text: str, at: int) -> None:
        if self._name is None:
            super()._take(text, at)
            return
        self._found.append((self._name, self._arguments(text)))
        self._end(at)

    def _take_open(self, text: str) -> None:
        if self._name is None:
            super()._take_open(text)
        else:
            self._found.append((self._name, text))

    def _arguments(self, text: str) -> str:
        tool = tool_of(self._name or "", self._tools)
        if text[0] == "{":
            return object_arguments(None, text) or text
        if (found := keywords_json(text)) is not None:
            return found
        given = literal_json(text)
        return text[1:-1] if given is None else given_arguments(tool, given, plain=True)
