"""What the tests of dialects share: tools, replies read in any cut, and calls rendered by a dialect."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from stepwell.messages import Message, StopReason, ToolCall, ToolSpec, ToolSpecs, Transcript
from stepwell.models.base import Delta, ModelRequest
from stepwell.models.dialects.base import Dialect
from stepwell.wiring.parts import DIALECTS, make_dialect

NAMES = tuple(DIALECTS)
TURNS = tuple(name for name in NAMES if name not in ("react", "qwen"))
"""The dialects that speak in the turns of a chat."""


def tool(name: str, /, **parameters: Any) -> ToolSpec:
    """Return a tool; a parameter is the name of its type or a schema."""
    properties = {key: {"type": kind} if isinstance(kind, str) else kind for key, kind in parameters.items()}
    return ToolSpec(name, f"about {name}", {"type": "object", "properties": properties, "required": list(parameters)})


TOOLS = ToolSpecs(
    [
        tool("shell", query="string"),
        tool("weather", city="string", days="integer"),
        tool("store", value={}, name={"anyOf": [{"type": "string"}, {"type": "null"}]}, many="array", deep="object"),
        tool("now"),
    ]
)


class Reply(NamedTuple):
    """What comes of a reply."""

    thinking: str = ""
    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    unmarked: bool = False
    stop: StopReason = "stop"
    raw: str | None = None  # None: all of it


def called(name: str, arguments: str, text: str = "", raw: str | None = None, thinking: str = "") -> Reply:
    return Reply(thinking, text, ((name, arguments),), stop="tool_calls", raw=raw)


def dialect(name: str, prompt: str = "default", language: str = "en") -> Dialect:
    return make_dialect(name, prompt, language)


def read(spoken: Dialect, pieces: list[str], stop: StopReason = "stop", tools: ToolSpecs = TOOLS) -> Reply:
    """Read a reply as the agent does: close the stream when the parser is done; join what was shown."""
    parser = spoken.parser(tools)
    shown: list[Delta] = []
    for piece in pieces:
        if delta := parser.feed(Delta(text=piece)):
            shown.append(delta)
        if parser.done:
            stop = "stop"
            break
    last = parser.finish(stop)
    assert last.stop is not None
    text, thinking = ("".join(getattr(delta, part) for delta in [*shown, last]) for part in ("text", "thinking"))
    assert thinking.endswith(parser.thought)
    assert [part.index for part in last.calls] == list(range(len(last.calls)))
    calls = tuple((part.name, part.arguments) for part in last.calls)
    return Reply(thinking, text, calls, last.unmarked, last.stop, last.raw)


def pieces_of(text: str, lengths: list[int]) -> list[str]:
    out: list[str] = []
    for length in lengths:
        out.append(text[:length])
        text = text[length:]
    return [*out, text]


def turns(spoken: Dialect, *messages: Message, tools: ToolSpecs = TOOLS) -> list[tuple[str, str]]:
    """Return a rendered conversation as pairs of a role and a text."""
    rendered = spoken.render(ModelRequest(Transcript(messages), tools))
    assert rendered.tools == ()
    return [(message.role, message.content) for message in rendered.messages]


def written(spoken: Dialect, *calls: ToolCall, content: str = "", tools: ToolSpecs = TOOLS) -> list[str]:
    """Return the texts by which a dialect shows a reply with calls, one a call where it has one call a reply."""
    results = [Message("tool", f"[result {number}]", call=call.id) for number, call in enumerate(calls)]
    shown = turns(
        spoken, Message("user", "[question]"), Message("assistant", content, calls=calls), *results, tools=tools
    )
    if spoken.name in TURNS:
        return [text for role, text in shown if role == "assistant"]
    ((_, whole),) = shown
    steps = whole.rpartition("Question: [question]\n\nThought: ")[2]
    for number in range(len(calls)):
        steps = steps.replace(f"\nObservation: [result {number}]\nThought: ", "\0")
    return steps.split("\0")[:-1]


def same(one: str, other: str) -> bool:
    """Tell whether two texts of arguments are the same JSON, numbers digit by digit."""

    def plain(text: str) -> Any:
        return json.loads(text, parse_int=str, parse_float=number, object_pairs_hook=sorted_pairs)

    return plain(one) == plain(other)


def number(text: str) -> str:
    return text.lower().replace("e+", "e")


def sorted_pairs(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return sorted(pairs, key=lambda pair: pair[0])
