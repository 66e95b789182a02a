"""What old clients read where something is wrong, or where a route is no chat: `{code, msg, data}`, `{detail}`."""

from __future__ import annotations

from typing import Any

from fastapi import Response
from fastapi.exceptions import RequestValidationError

from stepwell.messages import clean
from stepwell.server.asking import json_response

PREFIXES = ("/chat/", "/other/", "/llm_model/", "/server/", "/tools/", "/knowledge_base/")
"""Where the routes of the old service were that are answered in its shape."""

_OLD_WORDS = {
    "missing": ("field required", "value_error.missing"),
    "model_attributes_type": ("value is not a valid dict", "type_error.dict"),
    "greater_than_equal": ("ensure this value is greater than or equal to {limit_value}", "value_error.number.not_ge"),
    "less_than_equal": ("ensure this value is less than or equal to {limit_value}", "value_error.number.not_le"),
    "string_too_long": ("ensure this value has at most {limit_value} characters", "value_error.any_str.max_length"),
    "too_short": ("ensure this value has at least {limit_value} items", "value_error.list.min_items"),
    "literal_error": ("unexpected value; permitted: {expected}", "value_error.const"),
    "value_error": ("{error}", "value_error"),
}
_BOUNDS = ("le", "ge", "max_length", "min_length")
_OLD_KINDS = {
    "string": ("str type expected", "type_error.str"),
    "list": ("value is not a valid list", "type_error.list"),
    "dict": ("value is not a valid dict", "type_error.dict"),
    "bool": ("value could not be parsed to a boolean", "type_error.bool"),
    "int": ("value is not a valid integer", "type_error.integer"),
    "float": ("value is not a valid float", "type_error.float"),
    "finite": ("value is not a valid float", "type_error.float"),
}
_FIRST = {
    "/chat/chat/completions": "messages",
    "/chat/feedback": "",
    "/chat/": "query",
    "/other/": "query",
    "/tools/": "name",
}
"""The first field that a body needs, by the beginning of the path; the first that fits counts."""
_OLD_NAMES = {"prompt": "prompt_name", "model": "model_name"}
_NOT_HERE = "There is no such route here; docs/chatchat.md lists the routes of the old service and what became of them."


def is_old(path: str) -> bool:
    """Tell whether a path is answered in the shapes of the old service."""
    return path.startswith(PREFIXES) or path == "/tools"


def envelope(data: object = None, code: int = 200, message: str = "success") -> Response:
    """Return the old envelope, whose status is always 200: what came of the request is its `code`.

    Args:
        data: What was asked for.
        code: 200, or what an HTTP status would be.
        message: In words.
    """
    return json_response({"code": code, "msg": clean(message), "data": data})


def old_missing(status: int, message: str) -> dict[str, Any]:
    """Return the answer where there is no such route: what the framework said, and the old envelope beside it."""
    return {"detail": message, "code": status, "msg": _NOT_HERE if status == 404 else message, "data": None}


def old_errors(error: RequestValidationError, path: str) -> dict[str, Any]:
    """Return a refusal in the wording of pydantic 1, which old clients read.

    Args:
        error: What is wrong.
        path: Of the request.
    """
    first = next((field for prefix, field in _FIRST.items() if path.startswith(prefix)), "")
    return {"detail": [_old_error(each, first) for each in error.errors()]}


def _old_error(error: dict[str, Any], first: str) -> dict[str, Any]:
    kind, loc = error["type"], [_clean(part) for part in error["loc"] if not _is_tag(part)]
    given: dict[str, Any] = error.get("ctx") or {}
    if loc == ["body"] and first:  # without an object no field is there
        kind, loc = "missing", ["body", first]
    limit = next((given[name] for name in _BOUNDS if name in given), None)
    if error.get("input", "") is None and kind != "missing":
        message, old = "none is not an allowed value", "type_error.none.not_allowed"
    elif kind in _OLD_WORDS:
        message, old = _OLD_WORDS[kind]
        message = message.format(limit_value=limit, error=given.get("error"), expected=given.get("expected"))
    else:
        message, old = _OLD_KINDS.get(kind.partition("_")[0], (error["msg"], kind))
    told = {"loc": loc, "msg": clean(message), "type": old}
    if kind == "json_invalid":
        return {**told, "ctx": {"error": given["error"]}}
    return told if limit is None else {**told, "ctx": {"limit_value": limit}}


def old_refusal(message: str, field: str) -> dict[str, Any]:
    """Return a refusal of our own in the old form."""
    loc = ["body", *([_OLD_NAMES.get(field, field)] if field else [])]
    return {"detail": [{"loc": loc, "msg": clean(message), "type": "value_error"}]}


def _is_tag(part: Any) -> bool:
    """Tell whether a part of a place names a member of a union, and no field: those are in lower case."""
    return isinstance(part, str) and (part[:1].isupper() or "[" in part) and part != "Idempotency-Key"


def _clean(part: Any) -> Any:
    return clean(part) if isinstance(part, str) else part
