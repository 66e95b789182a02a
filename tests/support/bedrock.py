"""Replies in Bedrock's ConverseStream protocol, for a scripted endpoint (`endpoint.py`): binary frames by hand.

As in the vendor's documents on ConverseStream and on `application/vnd.amazon.eventstream`: lengths and a checksum,
headers, a JSON payload, a checksum of all of it.
"""

from __future__ import annotations

import json
import struct
from binascii import crc32
from typing import Any

from tests.support.endpoint import Piece, Reply

HEADERS = {"content-type": "application/vnd.amazon.eventstream"}
ENVIRONMENT = {
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_ACCESS_KEY_ID": "AKIATEST",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "eu-west-1",
}
"""What the vendor's client finds in place of a person's own."""
_TEXT = 7


def frame(payload: bytes, **headers: str) -> bytes:
    """Return one frame; in the names of headers `_` stands for `-`."""
    head = b"".join(_header(":" + name.replace("_", "-"), value) for name, value in headers.items())
    prelude = struct.pack("!II", 12 + len(head) + len(payload) + 4, len(head))
    message = prelude + struct.pack("!I", crc32(prelude)) + head + payload
    return message + struct.pack("!I", crc32(message))


def _header(name: str, value: str) -> bytes:
    return struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", _TEXT, len(value)) + value.encode()


def event(kind: str, **fields: Any) -> bytes:
    """Return one event of a stream."""
    return frame(json.dumps(fields).encode(), event_type=kind, content_type="application/json", message_type="event")


def refused(kind: str, message: str) -> bytes:
    """Return an error in the middle of a stream."""
    payload = json.dumps({"message": message}).encode()
    return frame(payload, exception_type=kind, content_type="application/json", message_type="exception")


def opening() -> bytes:
    """Return the beginning of a reply."""
    return event("messageStart", role="assistant")


def said(index: int, *pieces: str) -> list[Piece]:
    """Return a block of text; the vendor does not announce one."""
    return _block(index, *({"text": each} for each in pieces))


def thought(index: int, *pieces: str) -> list[Piece]:
    """Return a block of thinking, with its signature."""
    deltas = ({"reasoningContent": {"text": each}} for each in pieces)
    return _block(index, *deltas, {"reasoningContent": {"signature": "EqQBCgIYAhIM"}})


def called(index: int, id: str, name: str, *pieces: str) -> list[Piece]:
    """Return a block that calls a tool, with the pieces of its arguments."""
    start = event("contentBlockStart", start={"toolUse": {"toolUseId": id, "name": name}}, contentBlockIndex=index)
    return [start, *_block(index, *({"toolUse": {"input": each}} for each in pieces))]


def closing(reason: str = "end_turn", tokens: tuple[int, int, int] = (1, 1, 0)) -> list[Piece]:
    """Return the end of a reply: tokens of the request, of the reply, and further ones from the cache."""
    new, reply, cached = tokens
    counted = {"inputTokens": new, "outputTokens": reply, "totalTokens": new + reply + cached}
    usage = counted | {"cacheReadInputTokens": cached, "cacheWriteInputTokens": 0}
    return [event("messageStop", stopReason=reason), event("metadata", usage=usage, metrics={"latencyMs": 1})]


def streamed(*pieces: Piece, cut: int = 0, together: bool = False) -> Reply:
    """Return a reply of these frames."""
    return Reply(pieces, headers=HEADERS, cut=cut, together=together)


def _block(index: int, *deltas: dict[str, Any]) -> list[Piece]:
    events = [event("contentBlockDelta", delta=each, contentBlockIndex=index) for each in deltas]
    return [*events, event("contentBlockStop", contentBlockIndex=index)]
