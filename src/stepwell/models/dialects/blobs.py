"""Calls that are one pair of brackets in a reply, such as a JSON object: read to their end, and taken apart.

Shared by dialects. Which markers come before, and which fields such an object has, are theirs.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence

import msgspec

from stepwell.messages import ToolSpec, ToolSpecs
from stepwell.models.base import CallPart
from stepwell.models.dialects.arguments import given_arguments, loose_object, parameters_of
from stepwell.models.dialects.literals import Balanced
from stepwell.models.dialects.streaming import Channel, MarkerParser

MOST_CALLS = 256
"""Calls of one reply; nothing behind them counts."""

_BESIDE = ("id", "thought", "type")
"""Fields of a call that are no arguments, unless the tool has parameters of these names."""

_encode = msgspec.json.Encoder().encode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_string = msgspec.json.Decoder(str).decode


def fields_of(text: str) -> dict[str, str] | None:
    """Return the fields of an object as their JSON texts, or None if the text is no object."""
    found = loose_object(text)
    if found is None:
        return None
    try:
        return {name: bytes(value).decode().strip() for name, value in _fields(found[1]).items()}
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None


def text_of(value: str) -> str | None:
    """Return the text that a JSON value is, or None if it is another value."""
    try:
        return _string(value).encode("utf-8", "replace").decode() if value.startswith('"') else None
    except (msgspec.MsgspecError, UnicodeError):
        return None


def call_of(
    fields: dict[str, str], tools: ToolSpecs, names: Sequence[str], inputs: Iterable[str], *, plain: bool
) -> tuple[str, str] | None:
    """Return the name and the arguments of a call, or None if the fields name no tool.

    Where no field holds the arguments, those that say nothing else of the call are the arguments.

    Args:
        fields: The fields of its object.
        tools: What was offered.
        names: The fields that may hold the name, the likeliest first.
        inputs: The fields that may hold the arguments, the likeliest first.
        plain: Whether text is a tool's one string argument.
    """
    name = next((text for key in names if (text := text_of(fields.get(key, ""))) is not None), None)
    if name is None:
        return None
    spec = tool_of(name, tools)
    given = next((fields[key] for key in inputs if key in fields), None)
    if given is None:
        known = parameters_of(spec) if spec else {}
        beside = {*names, *(key for key in _BESIDE if key not in known)}
        rest = [f"{_encode(key).decode()}: {value}" for key, value in fields.items() if key not in beside]
        given = f"{{{', '.join(rest)}}}" if rest else ""
    return (spec.name if spec else name), given_arguments(spec, given, plain=plain)


def tool_of(name: str, tools: ToolSpecs) -> ToolSpec | None:
    """Return the tool of a name, whitespace round it aside."""
    plain = name.strip()
    return next((tool for tool in tools if tool.name in (name, plain)), None)


def broken_call(text: str, name: str) -> tuple[str, str]:
    """Return the call that an object which cannot be read was meant to be.

    Args:
        text: All that was written of it; it is its arguments, for the toolbox to complain about.
        name: The field that holds the tool's name.
    """
    found = re.search(rf"[\"']{name}[\"']\s{{0,8}}:\s{{0,8}}[\"']([^\"'\\]{{1,200}})[\"']", text)
    return (found[1] if found else ""), text


class BracketParser(MarkerParser):
    """Takes a reply apart in which a call is a pair of brackets."""

    __slots__ = ("_balance", "_body", "_found", "_whole")

    def __init__(self, tools: ToolSpecs, *, prose: Channel = "text") -> None:
        super().__init__(tools, prose=prose)
        self._found: list[tuple[str, str]] = []
        self._body: list[str] = []
        self._balance = Balanced()
        self._whole: int | None = None  # the end of the last call in the reply

    def _open(self, at: int) -> int:
        """Begin a call whose bracket opens here."""
        self._state, self._balance = "body", Balanced()
        self._body.clear()
        return at

    def _read_body(self, buffer: str, at: int) -> int:
        closed = self._balance.feed(buffer, at)
        end = len(buffer) if closed < 0 else closed
        self._body.append(buffer[at:end])
        if closed >= 0:
            self._state = "after"
            self._take("".join(self._body), end)
            self._whole = self._offset + end
        return end

    def _calls(self, *, complete: bool) -> tuple[CallPart, ...]:
        if self._state == "body":
            if complete:
                self._take_open("".join(self._body))
            elif self._found:
                self._cut = self._whole
        return tuple(CallPart(index, name=name, arguments=given) for index, (name, given) in enumerate(self._found))

    def _is_unmarked(self) -> bool:
        return self._prose == "thought"

    @abstractmethod
    def _take(self, text: str, at: int) -> None:
        """Take the text of a pair of brackets, which closes at this place of the buffer."""

    @abstractmethod
    def _take_open(self, text: str) -> None:
        """Take the text of brackets that were open when the reply ended."""
