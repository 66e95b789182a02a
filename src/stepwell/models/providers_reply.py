"""Replies as pydantic-ai streams them, into deltas. It opens no connection and decides about no retry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_ai.messages import (
    ModelResponse,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
)
from pydantic_ai.usage import RequestUsage

from stepwell.messages import StopReason, Usage
from stepwell.models.base import CallPart, Delta, Failure
from stepwell.models.wire import clean, clean_counting, to_json, usage_of


class EventReader:
    """Reads the events of one reply.

    Args:
        max_tokens: The limit that the request set, in tokens: calls that end exactly there count as cut.
    """

    def __init__(self, max_tokens: int | None = None) -> None:
        self._max_tokens = max_tokens
        self._calls: dict[int, int] = {}
        self.started = False
        """Whether any content was given out."""

    def read(self, event: ModelResponseStreamEvent) -> Delta | None:
        """Return what an event brings, or None."""
        delta: Delta | None = None
        if isinstance(event, PartStartEvent):
            delta = self._part(event)
        elif isinstance(event, PartDeltaEvent):
            delta = self._more(event)
        if delta is not None:
            self.started = True
        return delta

    def last(self, reply: ModelResponse) -> Delta:
        """Return the final delta of a reply whose stream is over."""
        if reply.finish_reason is None and reply.state != "suspended":
            failure = Failure("broken", "The vendor's stream ended without a finish reason.")
            return Delta(failure=failure, stop="error")
        usage = _usage(reply.usage)
        if reply.finish_reason == "error":
            failure = Failure("server", "The vendor ended the reply with an error.")
            return Delta(usage=usage, failure=failure, stop="error")
        return Delta(usage=usage, stop=self._stop(reply, usage))

    def _part(self, event: PartStartEvent) -> Delta | None:
        match event.part:
            case TextPart(content=text):
                return _said(text)
            case ThinkingPart(content=text):
                return _thought(text)
            case ToolCallPart() as call:
                index = self._calls[event.index] = len(self._calls)
                text = text_of(call.args)
                part = CallPart(index, clean(call.tool_call_id), clean(call.tool_name), text)
                return Delta(calls=(part,), replaced=_replaced(call.args, text))
            case _:  # what the vendor's own tools say: none are asked for
                return None

    def _more(self, event: PartDeltaEvent) -> Delta | None:
        match event.delta:
            case TextPartDelta(content_delta=text):
                return _said(text)
            case ThinkingPartDelta(content_delta=text):
                return _thought(text)
            case ToolCallPartDelta(args_delta=arguments):
                index, text = self._calls.get(event.index), text_of(arguments)
                if not text or index is None:
                    return None
                return Delta(calls=(CallPart(index, arguments=text),), replaced=_replaced(arguments, text))
            case _:
                return None

    def _stop(self, reply: ModelResponse, usage: Usage | None) -> StopReason:
        if reply.finish_reason == "length" or reply.finish_reason == "content_filter":
            return reply.finish_reason
        if not self._calls:
            return "stop"
        # A reply that used up exactly what the request allowed was cut, whatever its finish reason says.
        cut = self._max_tokens and usage and usage.output >= self._max_tokens
        return "length" if cut else "tool_calls"


def _said(text: str) -> Delta | None:
    text, replaced = clean_counting(text)
    return Delta(text, replaced=replaced) if text else None


def _thought(text: str | None) -> Delta | None:
    text, replaced = clean_counting(text or "")
    return Delta(thinking=text, replaced=replaced) if text else None


def _replaced(arguments: str | Mapping[str, Any] | None, text: str) -> int:
    return text.count("\ufffd") - (arguments if isinstance(arguments, str) else text).count("\ufffd")


def text_of(arguments: str | Mapping[str, Any] | None) -> str:
    """Return arguments as JSON text: vendors send pieces of it or, at once, the whole object."""
    if arguments is None or isinstance(arguments, str):
        return clean(arguments or "")
    return to_json(dict(arguments)).decode()


def _usage(counted: RequestUsage) -> Usage | None:
    if not (counted.input_tokens or counted.output_tokens):
        return None
    return usage_of(counted.input_tokens, counted.output_tokens, counted.cache_read_tokens)
