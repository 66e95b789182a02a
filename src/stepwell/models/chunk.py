"""What one chunk of a chat-completions reply looks like on the wire, read strictly or, where that fails, loosely.

The strict way is a typed decoder of the fields that matter; all others are skipped. The loose way mends what
servers send against the reference: text that is no Unicode, content in parts, arguments as objects, numbers
as text. It puts no chunks together; `reply.py` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import msgspec

from stepwell.messages import Usage
from stepwell.models.wire import clean_all, usage_of


class Function(msgspec.Struct, gc=False):
    """The name and arguments of a piece."""

    name: str | None = None
    arguments: str | None = None


class Piece(msgspec.Struct, gc=False):
    """A piece of a tool call."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None
    extra_content: Any = None


class Part(msgspec.Struct, gc=False):
    """What a chunk adds to the reply."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[Piece] | None = None
    function_call: Function | None = None


class PromptDetails(msgspec.Struct, gc=False):
    """Where the tokens of the request came from."""

    cached_tokens: int | None = None


class WireUsage(msgspec.Struct, gc=False):
    """Tokens, by the names of the wire."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    total_tokens: int | None = None

    def total(self) -> Usage | None:
        """Return the usage in our own form; None where its numbers are no counts of tokens."""
        details = self.prompt_tokens_details
        cached = (details.cached_tokens if details else None) or self.prompt_cache_hit_tokens
        output = self.completion_tokens or 0
        if self.prompt_tokens is not None and self.total_tokens is not None:
            # xAI and Gemini count what was thought in the total alone, and charge for it.
            output = max(output, self.total_tokens - self.prompt_tokens)
        return usage_of(self.prompt_tokens, output, cached)


class Choice(msgspec.Struct, gc=False):
    """One of the replies asked for; we ask for one."""

    index: int | None = None
    delta: Part | None = None
    message: Part | None = None
    finish_reason: str | None = None
    usage: WireUsage | None = None


class Chunk(msgspec.Struct, gc=False):
    """One chunk of a stream, or a whole reply."""

    choices: list[Choice] | None = None
    usage: WireUsage | None = None
    error: Any = None


strictly: Callable[[bytes], Chunk] = msgspec.json.Decoder(Chunk).decode
"""Decode a chunk that keeps to the reference; raises ValueError for any other."""

_MARK = "\ufffd"

KNOWN_FIELDS = Part.__struct_fields__


def loosely(data: bytes, thinking_field: str) -> tuple[Chunk, int]:
    """Decode a chunk as well as it can be read, and count the characters that became U+FFFD.

    Args:
        data: JSON text, perhaps with bytes that are no UTF-8.
        thinking_field: A further field of a delta that carries thinking.

    Raises:
        ValueError: If it is no JSON object.
        RecursionError: If it is nested too deeply.
    """
    text = data.decode("utf-8", "replace")
    read = json.loads(text, strict=False)
    value = clean_all(read)
    replaced = text.count(_MARK) - data.count(_MARK.encode())
    if value != read:
        replaced += repr(value).count(_MARK) - repr(read).count(_MARK)
    if isinstance(value, list) and value:
        value = cast("list[Any]", value)[0]
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    body = cast("dict[str, Any]", value)
    choices = [_choice(item, thinking_field) for item in _dicts(body.get("choices"))]
    return Chunk(choices if "choices" in body else None, _usage(body.get("usage")), body.get("error")), replaced


def _choice(value: dict[str, Any], thinking_field: str) -> Choice:
    reason = value.get("finish_reason")
    return Choice(
        _integer(value.get("index")),
        _part(value.get("delta"), thinking_field),
        _part(value.get("message"), thinking_field),
        None if reason is None else str(reason),
        _usage(value.get("usage")),
    )


def _part(value: Any, thinking_field: str) -> Part | None:
    if not isinstance(value, dict):
        return None
    part = cast("dict[str, Any]", value)
    content = part.get("content")
    thinking = part.get(thinking_field) or part.get("reasoning_content") or part.get("reasoning")
    thinking = _text(thinking) + "".join(_text(item.get("thinking")) for item in _dicts(content))
    return Part(
        _text(content),
        thinking,
        refusal=_text(part.get("refusal")),
        tool_calls=[_piece(item) for item in _dicts(part.get("tool_calls"))],
        function_call=_function(part.get("function_call")),
    )


def _piece(value: dict[str, Any]) -> Piece:
    id = value.get("id")
    function, extra = _function(value.get("function")), value.get("extra_content")
    return Piece(_integer(value.get("index")), None if id is None else str(id), function, extra)


def _function(value: Any) -> Function | None:
    if not isinstance(value, dict):
        return None
    function = cast("dict[str, Any]", value)
    arguments = function.get("arguments")
    if arguments is not None and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return Function(_text(function.get("name")), arguments)


def _usage(value: Any) -> WireUsage | None:
    if not isinstance(value, dict):
        return None
    usage = cast("dict[str, Any]", value)
    details = usage.get("prompt_tokens_details")
    cached = cast("dict[str, Any]", details).get("cached_tokens") if isinstance(details, dict) else None
    return WireUsage(
        _integer(usage.get("prompt_tokens")),
        _integer(usage.get("completion_tokens")),
        PromptDetails(_integer(cached)),
        _integer(usage.get("prompt_cache_hit_tokens")),
        _integer(usage.get("total_tokens")),
    )


def _dicts(value: Any) -> list[dict[str, Any]]:
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", item) for item in items if isinstance(item, dict)]


def _text(value: Any) -> str:
    """Return a text, or the texts of a list of parts, joined."""
    if isinstance(value, str):
        return value
    return "".join(_text(item.get("text")) for item in _dicts(value))


def _integer(value: Any) -> int | None:
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError, OverflowError):
        return None
