"""Requests as the turns of a chat: the tools stand in the system message, calls and results in the turns.

Shared by dialects; how a call, a result and the tools are written is theirs. Turns of one speaker in a row become one,
since the templates of many models take turns strictly in turn. Every call and result is written anew from its parts,
whoever made it, so that a thread can change its model or dialect at any time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from stepwell.messages import Image, Message, Role, ToolCall, ToolSpecs, Transcript
from stepwell.models.base import ModelRequest
from stepwell.models.dialects.requests import mark_control, offered, with_stops
from stepwell.prompts import load


class _Turn(msgspec.Struct, frozen=True, array_like=True):
    """What a message is among the turns.

    Args:
        role: Who speaks.
        texts: What is said: one text, or one a call where the dialect has one call a reply.
        calls: Ids of the calls; on a `tool` message the id of the call that it answers.
        images: Shown with it.
    """

    role: Role
    texts: tuple[str, ...]
    calls: tuple[str, ...] = ()
    images: tuple[Image, ...] = ()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[_Turn]).decode


class TurnsDialect(ABC):
    """Calls tools in text, in the turns of a chat.

    Args:
        prompt: Name of the template, of the dialect's kind.
        language: `en` or `zh`.

    Raises:
        ConfigError: There is no such template.

    Attributes:
        stops: Texts that end a reply.
        together: Whether a reply may hold several calls.
    """

    name: str
    stops: tuple[str, ...] = ()
    together: bool = False

    def __init__(self, prompt: str = "default", language: str = "en") -> None:
        self._template = load(self.name, prompt, language)

    @property
    def digest(self) -> str:
        """The hash of the template: 12 hexadecimal digits."""
        return self._template.digest

    def render(self, request: ModelRequest) -> ModelRequest:
        """Return the request as turns. Without tools the template is left out. Images stay with their messages."""
        tools = offered(request)
        turns = _decode(b"[%b]" % request.messages.rendering(_Writer(self, tools)).body)
        turns += [self._turn(message, tools) for message in request.tail]
        system = [turn.texts[0] for turn in turns if turn.role == "system" and turn.texts[0]]
        if tools:
            system.append(self._template.render(**self._values(tools)))
        said = [Message("system", "\n\n".join(system))] if system else []
        said += _joined(_spoken(turns))
        settings = with_stops(request.settings, *self.stops)
        return ModelRequest(Transcript(said), settings=settings, model=request.model)

    def form(self, request: ModelRequest, answer: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Return None: no JSON schema can say a text with calls in it."""
        return None

    def _turn(self, message: Message, tools: ToolSpecs) -> _Turn:
        match message.role:
            case "tool":
                text = self._result(self.mark(message.content))
                return _Turn("tool", (text,), (message.call,), message.images)
            case "assistant":
                ids = tuple(call.id for call in message.calls)
                return _Turn("assistant", self._replies(message, tools), ids, message.images)
            case "user":
                return _Turn("user", (self.mark(message.content),), (), message.images)
            case "system":
                return _Turn("system", (message.content,))

    def _replies(self, message: Message, tools: ToolSpecs) -> tuple[str, ...]:
        said = self.mark(message.content)
        if not message.calls:
            return (self._answer(said, tools),)
        calls = [self._call(call, tools) for call in message.calls]
        if self.together:
            calls = ["\n".join(calls)]
        first = self._thought(message)
        return (f"{first}\n{calls[0]}" if first else calls[0], *calls[1:])

    def mark(self, text: str) -> str:
        """Return a text from outside such that nothing of it can pose as a part of the form."""
        return mark_control(text)

    def _values(self, tools: ToolSpecs) -> dict[str, str]:
        """Return the values of the template."""
        names = ", ".join(tool.name for tool in tools)
        return {"tools": "\n".join(self._tools(tools)), "tool_names": names}

    def _thought(self, message: Message) -> str:
        """Return what stands before a message's calls."""
        return self.mark(message.content)

    def _answer(self, text: str, tools: ToolSpecs) -> str:
        """Return a reply without calls."""
        return text

    @abstractmethod
    def _tools(self, tools: ToolSpecs) -> Iterable[str]:
        """Return the lines that describe the tools."""

    @abstractmethod
    def _call(self, call: ToolCall, tools: ToolSpecs) -> str:
        """Return a call as a model would write it."""

    @abstractmethod
    def _result(self, text: str) -> str:
        """Return a result as a model is shown it."""


class _Writer:
    """Encodes messages as turns; equal where dialect and tools are."""

    __slots__ = ("_dialect", "_key", "_tools")

    def __init__(self, dialect: TurnsDialect, tools: ToolSpecs) -> None:
        self._dialect, self._tools, self._key = dialect, tools, tools.encoded

    def __call__(self, message: Message) -> bytes:
        return _encode(self._dialect._turn(message, self._tools))  # pyright: ignore[reportPrivateUsage]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Writer) and self._dialect is other._dialect and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def _spoken(turns: Sequence[_Turn]) -> Iterator[_Turn]:
    """Yield the turns with each result behind the turn of its call, whatever order they came in."""
    results: dict[str, _Turn] = {}
    open_turn: _Turn | None = None
    for turn in turns:
        if turn.role == "tool":
            results[turn.calls[0]] = turn
            continue
        yield from _answered(open_turn, results)
        results, open_turn = {}, None
        if turn.role == "assistant" and turn.calls:
            open_turn = turn
        elif turn.role != "system":
            yield turn
    yield from _answered(open_turn, results)


def _answered(turn: _Turn | None, results: dict[str, _Turn]) -> Iterator[_Turn]:
    """Yield the turns of a reply with calls, each with its results, and then the results of no call."""
    if turn is not None:
        groups = [turn.calls] if len(turn.texts) == 1 else [(call,) for call in turn.calls]
        for text, calls in zip(turn.texts, groups, strict=False):
            yield _Turn("assistant", (text,), (), turn.images)
            yield from (results.pop(call) for call in calls if call in results)
    yield from results.values()


def _joined(turns: Iterable[_Turn]) -> list[Message]:
    """Return the turns as messages, those of one speaker in a row as one."""
    said: list[Message] = []
    last = ""
    for turn in turns:
        role: Role = "user" if turn.role == "tool" else turn.role
        text = turn.texts[0]
        if not text and not turn.images:
            continue
        if said and said[-1].role == role:
            before = said.pop()
            apart = "\n" if last == turn.role == "tool" else "\n\n"
            whole = apart.join(filter(None, (before.content, text)))
            said.append(Message(role, whole, (*before.images, *turn.images)))
        else:
            said.append(Message(role, text, turn.images))
        last = turn.role
    return said
