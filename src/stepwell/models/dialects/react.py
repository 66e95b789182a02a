"""The ReAct dialect: thought, action, input and observation as lines of text.

The reply's form, as this parser reads it, whatever pieces it comes in:

- `Action:`, `Action Input:`, `Final Answer:` and `Observation:` count at the start of a line only, after no
  more than spaces and tabs, in this case, with `:` or `：`, plain or between `**`. Only LF and CR end a line.
- What stands before them is the thought, without a leading `Thought:`; what follows `Final Answer:` is the
  answer, up to the next of the four. Both stream, without outer whitespace; half a marker is held back.
- A call's input is a JSON object, bare or fenced, which ends the reply where it closes; or plain text, up to
  the next marker, a line that starts with `Thought:`, or the end. There is one call a reply: the rest is cut.
- `Action: None`, or another word for it that no tool has as its name, is no call where `Final Answer:` follows, be it
  behind an input.
- `Observation:` ends a reply everywhere, and `<|observation|>` does so even inside a line.
- A reply that the token limit cut inside an action or its input holds no call; its stop reason stays.
- A reply without action and without final answer is `unmarked`: its thought is its answer.

Nothing is read twice. This module knows nothing of templates' texts or of how tools are run.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from stepwell.messages import NO_TOOLS, Message, ToolCall, ToolSpec, ToolSpecs, Transcript
from stepwell.models.base import CallPart, Delta, ModelRequest
from stepwell.models.dialects.arguments import ObjectEnd, object_arguments, takes_one_text, text_arguments
from stepwell.models.dialects.requests import escape_control, mark_control, offered, tool_line, with_stops
from stepwell.models.dialects.streaming import ReplyParser, word
from stepwell.prompts import load

_LABELS = ("Action Input", "Action", "Final Answer", "Observation")


def _marker(*labels: str) -> re.Pattern[str]:
    """Return what finds a marker, or a beginning of one that ends the text."""
    forms = ("{}:", "**{}**:", "**{}:**", "**{}：**")
    halves = word(*(form.format(label) for form in forms for label in labels)).half
    marker = rf"(\*\*)?(?P<label>{'|'.join(labels)})(?(1)(?:[:：]\*\*|\*\*[:：])|[:：])"
    return re.compile(rf"{marker}|(?=[\s\S])(?:{halves})\Z")


_MARKER, _MARKER_OR_THOUGHT = _marker(*_LABELS), _marker(*_LABELS, "Thought")
_BLANK = re.compile(r"[ \t\r\n]*")
_NONE = re.compile(
    r"none|n/?a|no (?:action|tool)s?(?: (?:is |are )?(?:needed|required|necessary))?|final answer|无|不需要.{0,8}", re.I
)
"""What models write in the place of a tool where they need none."""
_DECORATION = "`'\"*[]<>(). \t"


class Grammar:
    """What tells the ReAct forms apart that families of models were trained on.

    Args:
        ends: Control tokens that end a reply even inside a line, where an endpoint lets them through.
    """

    __slots__ = ("broken", "ends")

    def __init__(self, *ends: str) -> None:
        self.ends = ends
        halves = word(*ends).half
        self.broken = re.compile(rf"[\r\n]|{'|'.join(map(re.escape, ends))}|(?:{halves})\Z")


REACT = Grammar("<|observation|>")
QWEN = Grammar("<|im_end|>", "<|im_start|>", "<|endoftext|>")


class React:
    """Calls tools in the ReAct form.

    Args:
        prompt: Name of the template, of the dialect's kind.
        language: `en` or `zh`.

    Raises:
        ConfigError: There is no such template.
    """

    name: str = "react"
    grammar: Grammar = REACT

    def __init__(self, prompt: str = "default", language: str = "en") -> None:
        self._template = load(self.name, prompt, language)

    @property
    def digest(self) -> str:
        """The hash of the template: 12 hexadecimal digits."""
        return self._template.digest

    def form(self, request: ModelRequest, answer: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Return None: no JSON schema can say lines of text."""
        return None

    def parser(self, tools: ToolSpecs) -> ReactParser:
        """Return a parser for one reply to a request that offered these tools."""
        return ReactParser(tools, self.grammar)

    def render(self, request: ModelRequest) -> ModelRequest:
        """Return the request as one user message: system text, then the template.

        The last user message is the question, what precedes it the history, what follows it the scratchpad. As
        steps are added the text only grows at its end. Texts from outside are marked off (`mark_off`). Images of
        the question and of the results since are kept. The request's tail is a note at the end of the scratchpad.
        """
        pieces = _pieces(request.messages)
        asked = next((i for i in range(len(pieces) - 1, -1, -1) if pieces[i].role == "user"), -1)
        values = self._values(pieces, asked, offered(request))
        if request.tail:
            values["agent_scratchpad"] += _note(request.tail)
        prompt = self._template.render(**values)
        system = [piece.text for piece in pieces if piece.role == "system" and piece.text]
        shown = [*request.messages[max(asked, 0) :], *request.tail]
        images = tuple(image for message in shown for image in message.images)
        said = Message("user", "\n\n".join([*system, prompt]), images)
        settings = with_stops(request.settings, "\nObservation:", *self.grammar.ends)
        return ModelRequest(Transcript([said]), settings=settings, model=request.model)

    def _values(self, pieces: list[_Piece], asked: int, tools: ToolSpecs) -> dict[str, str]:
        wanted = self._template.variables
        values = {
            "tool_names": ", ".join(tool.name for tool in tools),
            "history": "\n".join(filter(None, map(_history_line, pieces[: max(asked, 0)]))),
            "input": pieces[asked].text if asked >= 0 else "",
            "agent_scratchpad": _scratchpad(pieces[asked + 1 :]),
        }
        if "tools" in wanted:
            values["tools"] = "\n".join(tool_line(tool, schema=not takes_one_text(tool)) for tool in tools) or "-"
        if "tool_schemas" in wanted:
            values["tool_schemas"] = "\n".join(tool_line(tool, schema=True) for tool in tools) or "-"
        return values


class Qwen(React):
    """Calls tools in the ReAct form of Qwen 1 and 1.5: tools with their schemas, and an object for an input.

    Source: the ReAct prompting of the Qwen model cards.
    """

    name = "qwen"
    grammar = QWEN


def _note(tail: tuple[Message, ...]) -> str:
    """Return the request's last messages as lines that pass for no part of the form."""
    said = "\n\n".join(mark_off(message.content) for message in tail if message.content)
    return f"\n[{said}]\nThought: " if said else ""


# Rendering: each message becomes its texts once, kept by the transcript.

_SPEAKER = {"user": "Human", "assistant": "AI"}
_LINE_ENDS = "\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
_INVISIBLE = rf"(?:[^\S{_LINE_ENDS}]|[\u200b-\u200f\u2060\ufeff])*+"
_POSING = re.compile(
    rf"((?:^|[{_LINE_ENDS}]){_INVISIBLE})"
    rf"(?=(?:\*\*)?(?:{'|'.join(_LABELS)}|Thought|Question|Human|AI){_INVISIBLE}(?:\*\*)?{_INVISIBLE}[:：])"
)
_LEADING_LABEL = re.compile(r"[ \t\r\n]*(?:Thought[:：][ \t\r\n]*)*")
_ACTION_LINE = re.compile(r"(?:^|[\r\n])[ \t]*(?:\*\*)?Action(?: Input)?(?:\*\*)?[:：]")
_FENCED_INPUT = re.compile(r"(?:^|[\r\n])[ \t]*(?:\*\*)?Action Input(?:\*\*)?[:：](?:\*\*)?\s*```")


def mark_off(text: str) -> str:
    """Return a text from outside such that none of its lines can pose as a part of the form.

    A line that starts with a label of the form is quoted with `> `, and `<|name|>` becomes `<| name |>`.
    """
    return mark_control(_POSING.sub(r"\1> ", text))


class _Piece(msgspec.Struct, frozen=True, array_like=True):
    """What a message is in the prompt.

    Args:
        role: Who speaks.
        text: Its content, marked off.
        steps: On an assistant's message its lines in the scratchpad: one text a call, or one at all.
        calls: Ids of the calls; on a `tool` message the id of the call that it answers.
    """

    role: str
    text: str
    steps: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[_Piece]).decode


def _pieces(messages: Transcript) -> list[_Piece]:
    return _decode(b"[%b]" % messages.rendering(_piece).body)


def _piece(message: Message) -> bytes:
    match message.role:
        case "tool":
            piece = _Piece("tool", mark_off(message.content), calls=(message.call,))
        case "assistant":
            ids = tuple(call.id for call in message.calls)
            piece = _Piece("assistant", mark_off(message.content), _steps(message), ids)
        case "user":
            piece = _Piece("user", mark_off(message.content))
        case "system":
            piece = _Piece("system", message.content)
    return _encode(piece)


def _history_line(piece: _Piece) -> str:
    speaker = _SPEAKER.get(piece.role)
    return f"{speaker}: {piece.text}" if speaker and piece.text else ""


def _steps(message: Message) -> tuple[str, ...]:
    calls, text = message.calls, _LEADING_LABEL.sub("", message.raw, count=1).rstrip()
    if text and (not calls or (len(calls) == 1 and _is_step(text, calls[0]))):
        fence = _FENCED_INPUT.search(text)
        if fence and "```" not in text[fence.end() :]:
            text += "\n```"  # the reply ended where its object closed, before the fence did
        begins = _MARKER.match(text)
        return ("\n" + text if begins and begins["label"] else text,)
    thought = mark_off(message.content or message.thinking)
    return (thought + _action(calls[0]), *map(_action, calls[1:])) if calls else (thought,)


def _is_step(text: str, call: ToolCall) -> bool:
    """Tell whether a reply as it was written is this call in the form; another dialect may have taken it apart."""
    if not _ACTION_LINE.search(text):
        return False
    parser = ReactParser(NO_TOOLS)
    parser.feed(Delta(text=text))
    found = parser.finish("stop").calls
    return bool(found) and call.name in (found[0].name, found[0].name.strip(_DECORATION))


def _action(call: ToolCall) -> str:
    name = " ".join(call.name.split())
    arguments = escape_control(_POSING.sub(r"\1> ", call.arguments))
    return f"\nAction: {name}" + (f"\nAction Input: {arguments}" if arguments else "")


def _scratchpad(pieces: list[_Piece]) -> str:
    out: list[str] = []
    open_steps: dict[str, str] = {}
    for piece in pieces:
        if piece.role == "tool":
            out.append(f"{open_steps.pop(piece.calls[0], '')}\nObservation: {piece.text}\nThought: ")
        elif piece.role == "assistant":
            out.extend(f"{step}\nThought: " for step in open_steps.values())
            open_steps = dict(zip(piece.calls, piece.steps, strict=False))
            if not piece.calls:
                out.append(f"{piece.steps[0]}\nThought: ")
    out.extend(f"{step}\nThought: " for step in open_steps.values())
    return "".join(out)


# Parsing.


class ReactParser(ReplyParser):
    """Takes one reply apart while it streams.

    Args:
        tools: What the request offered; they decide how plain text becomes arguments.
        grammar: What ends a reply, and how objects are read.
    """

    __slots__ = ("_arguments", "_braces", "_grammar", "_input", "_line_start", "_name", "_state")

    def __init__(self, tools: ToolSpecs, grammar: Grammar = REACT) -> None:
        super().__init__(tools)
        self._grammar = grammar
        self._state: Literal["thought", "action", "input", "answer"] = "thought"
        self._line_start = True
        self._name: list[str] = []
        self._input: list[str] = []
        self._braces: ObjectEnd | None = ObjectEnd()
        self._arguments: str | None = None

    def _release(self) -> None:
        self._put(self._held, 0)

    def _is_unmarked(self) -> bool:
        return self._state == "thought"

    def _calls(self, *, complete: bool) -> tuple[CallPart, ...]:
        return (self._call(),) if complete and self._state in {"action", "input"} else ()

    def _step(self, buffer: str, at: int) -> int:
        return self._start_line(buffer, at) if self._line_start else self._go_on(buffer, at)

    def _start_line(self, buffer: str, at: int) -> int:
        """Read the blanks and the marker that may stand here; return where to go on."""
        found = _BLANK.match(buffer, at)
        at = self._put_span(buffer, at, found.end() if found else at)
        if at == len(buffer):
            return at
        thought = self._state == "input" or (self._state == "thought" and not self._shown)
        marker = (_MARKER_OR_THOUGHT if thought else _MARKER).match(buffer, at)
        if marker is None:
            self._line_start = False
            return at
        if marker["label"]:
            self._mark(marker["label"], at)
        else:
            self._held = marker[0]
        return marker.end()

    def _go_on(self, buffer: str, at: int) -> int:
        """Read the rest of a line, or what came of it; return where to go on."""
        found = self._grammar.broken.search(buffer, at)
        at = self._put_span(buffer, at, found.start() if found else len(buffer))
        if self.done or not found:
            return at
        if found[0] in {"\r", "\n"}:
            self._line_start = True
        elif found[0] in self._grammar.ends:
            self._end(at)
        else:
            self._held = found[0]
            return len(buffer)
        return at

    def _put_span(self, buffer: str, start: int, end: int) -> int:
        if end > start:
            self._put(buffer[start:end], start)
        return end

    def _put(self, text: str, at: int) -> None:
        match self._state:
            case "thought":
                self._show(text, "thought")
            case "answer":
                self._show(text, "text")
            case "action":
                self._name.append(text)
            case "input":
                self._take(text, at)

    def _take(self, text: str, at: int) -> None:
        self._input.append(text)
        if self._braces is None:
            return
        closed = self._braces.feed(text)
        if closed > 0 and not self._is_none():
            whole = "".join((*self._input[:-1], text[:closed]))
            self._arguments = object_arguments(self._tool()[1], whole)
            if self._arguments is not None:
                self._end(at + closed)
        if closed >= 0:
            self._braces = None

    def _mark(self, label: str, at: int) -> None:
        match self._state, label:
            case "thought", "Thought":
                return  # still at the start: a marker may follow
            case "thought", "Final Answer":
                self._state = "answer"
            case "action" | "input", "Final Answer" if self._is_none():
                self._state = "answer"
            case "input", "Thought" if self._is_none():
                pass  # the answer may follow it
            case "thought", "Action":
                self._state = "action"
            case "thought" | "action", "Action Input":
                self._state = "input"
            case _:
                self._end(at)
        self._line_start = False

    def _tool(self) -> tuple[str, ToolSpec | None]:
        written = re.split(r"[\r\n]", "".join(self._name).strip(), maxsplit=1)[0].strip()
        plain = written.strip(_DECORATION)
        for name in (written, plain):
            if spec := next((tool for tool in self._tools if tool.name == name), None):
                return name, spec
        return written, None

    def _is_none(self) -> bool:
        name, spec = self._tool()
        return spec is None and _NONE.fullmatch(name.strip(_DECORATION)) is not None

    def _call(self) -> CallPart:
        name, spec = self._tool()
        arguments = self._arguments
        if arguments is None:
            arguments = text_arguments(spec, "".join(self._input)) if self._state == "input" else ""
        return CallPart(0, name=name, arguments=arguments)
