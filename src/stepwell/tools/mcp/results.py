"""What came of a call, from the protocol's blocks to what a model is told. All of it is text of strangers."""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import cast

import msgspec
from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from stepwell.tools.results import Media, ToolResult, to_result

ANY = "application/octet-stream"
COMPARED = 1 << 20
"""Characters of texts that are compared with the structured result."""
SMALL = 1 << 16
"""Bytes of media that are taken apart at once; more in a thread."""


async def result_of(came: CallToolResult) -> ToolResult:
    """Return what the model is told, with images that it is shown."""
    status = "failed" if came.is_error else "ok"
    if len(came.content) == 1 and isinstance(first := came.content[0], TextContent) and came.structured_content is None:
        return ToolResult(first.text, status)
    if sum(map(_size, came.content)) > SMALL:
        result = await asyncio.to_thread(_unwrapped, came)
    else:
        result = _unwrapped(came)
    return msgspec.structs.replace(result, status=status)


def _unwrapped(came: CallToolResult) -> ToolResult:
    parts: list[str | Media] = [_part(block) for block in came.content]
    texts = [part for part in parts if isinstance(part, str)]
    compared = texts if sum(map(len, texts)) <= COMPARED else []
    structured = came.structured_content
    if structured is not None and not any(_says(each, structured) for each in compared):
        parts.append(msgspec.json.encode(structured).decode())
    if any(isinstance(part, Media) for part in parts):
        return to_result(parts)
    return ToolResult("\n".join(part for part in parts if isinstance(part, str)))


def _says(part: str, structured: object) -> bool:
    """Tell whether a part is the structured result as text, as servers send it for older clients."""
    told = [structured]
    if isinstance(structured, dict) and list(cast("dict[str, object]", structured)) == ["result"]:
        told.append(cast("dict[str, object]", structured)["result"])  # the SDKs wrap plain values so
    if part in told:
        return True
    try:
        return part.lstrip()[:1] in '{["tfn-0123456789' and msgspec.json.decode(part) in told
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False


def _size(block: ContentBlock) -> int:
    match block:
        case ImageContent() | AudioContent():
            return len(block.data)
        case EmbeddedResource(resource=BlobResourceContents(blob=data)):
            return len(data)
        case _:
            return 0


def _part(block: ContentBlock) -> str | Media:
    match block:
        case TextContent():
            return block.text
        case ImageContent() | AudioContent():
            return _media(block.data, block.mime_type)
        case ResourceLink():
            told = f"[resource {block.uri}: {block.title or block.name}"
            return f"{told}, {block.mime_type}]" if block.mime_type else f"{told}]"
        case EmbeddedResource(resource=BlobResourceContents() as found):
            return _media(found.blob, found.mime_type or ANY)
        case EmbeddedResource(resource=found):
            text = found.text if isinstance(found, TextResourceContents) else ""
            return f"[resource {found.uri}]\n{text}"


def _media(data: str, kind: str) -> str | Media:
    try:
        return Media(base64.b64decode(data, validate=True), kind.partition(";")[0].strip() or ANY)
    except (binascii.Error, ValueError) as error:
        return f"[{kind[:80]} that cannot be read: {error}]"
