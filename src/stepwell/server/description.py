"""What `/openapi.json` says beyond what the framework derives from the routes: keys, errors and streams.

It describes what the gate, the error handlers and the faces do; it does nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_STREAM = {"description": "Server-sent events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
_MAY_STREAM = (
    ("post", "/api/messages"),
    ("post", "/api/threads/{thread}/messages"),
    ("post", "/api/threads/{thread}/fork"),
    ("post", "/api/threads/{thread}/regenerate"),
    ("get", "/api/threads/{thread}/events"),
    ("post", "/v1/chat/completions"),
    ("post", "/v1/responses"),
    ("get", "/v1/responses/{response_id}"),
    ("post", "/chat/chat/completions"),
)
"""Answered with JSON or with a stream."""
_STREAMS = (
    ("post", "/agui"),
    ("post", "/agui/{agent}"),
    ("get", "/agui/threads/{thread}/events"),
    ("post", "/chat/agent_chat"),
    ("post", "/chat/chat"),
    ("post", "/other/completion"),
)
"""Answered with a stream only."""


def _error(**fields: dict[str, Any]) -> dict[str, Any]:
    inner = {"type": "object", "required": list(fields), "properties": fields}
    return {"type": "object", "required": ["error"], "properties": {"error": inner}}


_TEXT: dict[str, Any] = {"type": "string"}
_MAYBE: dict[str, Any] = {"type": ["string", "null"]}
_ERRORS = {
    "native": ("Error", _error(message=_TEXT, field=_TEXT)),
    "openai": ("OpenAIError", _error(message=_TEXT, type=_TEXT, param=_MAYBE, code=_MAYBE)),
}
"""The form of errors by face; that of old clients is the framework's own."""


def describe(app: FastAPI, face: Callable[[str], str]) -> None:
    """Have the description of an application say what its routes do not say themselves.

    Args:
        app: The application, with its routes.
        face: Tells by the path in whose shape errors are written: `native`, `openai` or `chatchat`.
    """
    derived = app.openapi

    def openapi() -> dict[str, Any]:
        made = app.openapi_schema is not None
        document = derived()
        if not made:
            _complete(document, face)
        return document

    app.openapi = openapi


def _complete(document: dict[str, Any], face: Callable[[str], str]) -> None:
    document["components"]["securitySchemes"] = _KEYS
    document["components"]["schemas"] |= dict(_ERRORS.values())
    document["security"] = [{name: []} for name in _KEYS]
    document["paths"]["/health"]["get"]["security"] = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answers = operation["responses"]
            if (shape := face(path)) in _ERRORS and path != "/health":
                answers.pop("422", None)
                answers["default"] = _answer(_ERRORS[shape][0])
            if (method, path) in _STREAMS:
                answers["200"] = _STREAM
            elif (method, path) in _MAY_STREAM:
                whole = answers.setdefault("200", {"description": _STREAM["description"], "content": {}})
                whole["content"] = whole["content"] | _STREAM["content"]


def _answer(name: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"description": "What is wrong.", "content": {"application/json": {"schema": schema}}}
