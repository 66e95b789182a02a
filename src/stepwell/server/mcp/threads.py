"""An owner's threads as resources: listed, and read as the messages of the conversation."""

from __future__ import annotations

from typing import Any

import mcp_types as types
import msgspec
from mcp.server.context import ServerRequestContext

from stepwell.errors import NotFound
from stepwell.messages import Message
from stepwell.runs.service import RunService
from stepwell.server.auth import Caller

SCHEME = "stepwell://threads/"
PAGE = 50
"""Threads of one page, the newest first."""
MOST = 1_000_000
"""Characters of a conversation that are read; of a longer one the newest messages."""
JSON = "application/json"


class Threads:
    """Reads threads.

    Args:
        service: The threads.
    """

    def __init__(self, service: RunService) -> None:
        self._service = service

    async def list(
        self, context: ServerRequestContext[Any, Any], caller: Caller, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        """Return a page of the caller's threads."""
        before = (params.cursor or "") if params is not None else ""
        found = await self._service.threads(caller.owner, before=before, limit=PAGE)
        listed = [
            types.Resource(uri=SCHEME + each.id, name=each.id, title=each.title or None, mime_type=JSON)
            for each in found
        ]
        return types.ListResourcesResult(resources=listed, next_cursor=found[-1].id if len(found) == PAGE else None)

    async def templates(
        self, context: ServerRequestContext[Any, Any], caller: Caller, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        """Return how a thread's address is written."""
        said = "The messages of a conversation with an agent."
        template = types.ResourceTemplate(uri_template=SCHEME + "{id}", name="thread", description=said, mime_type=JSON)
        return types.ListResourceTemplatesResult(resource_templates=[template])

    async def read(
        self, context: ServerRequestContext[Any, Any], caller: Caller, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        """Return the messages of one of the caller's threads.

        Raises:
            NotFound: There is no such thread of theirs.
        """
        uri = str(params.uri)
        if not uri.startswith(SCHEME):
            raise NotFound(f"Resources are threads, such as {SCHEME}0123…", "uri")
        id = uri.removeprefix(SCHEME)
        info = await self._service.info(caller.owner, id)
        async with self._service.using(caller.owner, id) as log:
            messages = [each for each in log.state.transcript if each.role != "system"]
        kept: list[dict[str, Any]] = []
        room = MOST
        for message in reversed(messages):
            told = _told(message)
            room -= len(message.content) + sum(len(call.arguments) for call in message.calls)
            if room < 0:
                break
            kept.append(told)
        body = {"thread": id, "title": info.title, "left_out": len(messages) - len(kept), "messages": kept[::-1]}
        text = msgspec.json.encode(body).decode()
        return types.ReadResourceResult(contents=[types.TextResourceContents(uri=uri, text=text, mime_type=JSON)])


def _told(message: Message) -> dict[str, Any]:
    told: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.calls:
        told["calls"] = [{"tool": call.name, "arguments": call.arguments} for call in message.calls]
    if message.images:
        told["images"] = len(message.images)
    return told
