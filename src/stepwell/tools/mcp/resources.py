"""Resources of a server, as the two tools by which they are listed and read tell of them to a model.

What stands there is text of strangers, like any result of a server.
"""

from __future__ import annotations

from collections.abc import Sequence

import mcp_types as types
import msgspec

from stepwell.tools.mcp.base import WORDS, ServerSpec

MOST_LISTED = 500
"""Resources of one page that are told."""


def list_of(
    spec: ServerSpec, page: types.ListResourcesResult, templates: Sequence[types.ResourceTemplate]
) -> types.CallToolResult:
    """Return a page of a listing as a result: a line of JSON for each resource and each template.

    Args:
        spec: The server.
        page: The page.
        templates: Patterns of further addresses.
    """
    shown = page.resources[:MOST_LISTED]
    lines = [_line(spec, each, uri=each.uri, size=each.size) for each in shown]
    lines += [_line(spec, each, template=each.uri_template) for each in templates[:MOST_LISTED]]
    if left := len(page.resources) - len(shown):
        lines.append(f"[{left} further resources of this page are left out]")
    if page.next_cursor:
        lines.append(f"[there are more: call again with the cursor {msgspec.json.encode(page.next_cursor).decode()}]")
    return _text("\n".join(lines) or "The server lists no resources.")


def _line(spec: ServerSpec, found: types.Resource | types.ResourceTemplate, **more: str | int | None) -> str:
    told: dict[str, str | int | None] = {
        **more,
        "name": spec.plain(found.title or found.name),
        "type": spec.plain(found.mime_type or "", 100),
        "description": spec.plain(found.description or "", WORDS),
    }
    return msgspec.json.encode({name: value for name, value in told.items() if value not in (None, "")}).decode()


def content_of(uri: str, came: types.ReadResourceResult) -> types.CallToolResult:
    """Return what was read as a result: text as it is, images to be shown, and other media by a handle.

    Args:
        uri: What was asked for.
        came: The server's answer.
    """
    match came.contents:
        case []:
            return _text("The resource is empty.")
        case [types.TextResourceContents() as only] if only.uri == uri:
            return _text(only.text)
        case several:
            return types.CallToolResult(content=[types.EmbeddedResource(resource=each) for each in several])


def _text(said: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=said)])
