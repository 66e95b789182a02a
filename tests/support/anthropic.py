"""Replies in Anthropic's Messages protocol, for a scripted endpoint (`endpoint.py`): server-sent events by hand.

As in the vendor's documents on streaming messages and on errors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.support.endpoint import Piece, Reply, document


def event(kind: str, **fields: Any) -> bytes:
    """Return one event of a stream."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def opening(tokens: int = 1, cached: int = 0) -> bytes:
    """Return the beginning of a reply to a request of so many tokens, and further ones from the cache."""
    usage = {"input_tokens": tokens, "output_tokens": 1, "cache_read_input_tokens": cached}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
    return event("message_start", message={**message, "stop_reason": None, "stop_sequence": None})


def said(index: int, *pieces: str) -> list[Piece]:
    """Return a block of text."""
    return _block(index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": piece} for piece in pieces))


def thought(index: int, *pieces: str) -> list[Piece]:
    """Return a block of thinking, with its signature."""
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
    signed = {"type": "signature_delta", "signature": "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxB"}
    return _block(index, {"type": "thinking", "thinking": "", "signature": ""}, *deltas, signed)


def called(index: int, id: str, name: str, *pieces: str) -> list[Piece]:
    """Return a block that calls a tool, with the pieces of its arguments."""
    deltas = ({"type": "input_json_delta", "partial_json": piece} for piece in pieces)
    return _block(index, {"type": "tool_use", "id": id, "name": name, "input": {}}, *deltas)


def closing(reason: str = "end_turn", tokens: int = 1) -> list[Piece]:
    """Return the end of a reply of so many tokens."""
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [event("message_delta", delta=delta, usage={"output_tokens": tokens}), event("message_stop")]


def refused(status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    """Return an error in place of a stream."""
    return document({"type": "error", "error": {"type": kind, "message": message}}, status, headers)


def _block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[Piece]:
    return [
        event("content_block_start", index=index, content_block=start),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]
