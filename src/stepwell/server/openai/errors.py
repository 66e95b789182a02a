"""Refusals and failures in the shape that OpenAI's clients read: `{"error": {"message", "type", "param", "code"}}`.

https://platform.openai.com/docs/guides/error-codes. Which failure has which status is said here, too.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, NamedTuple

from fastapi import Response
from fastapi.exceptions import RequestValidationError

from stepwell.errors import InputError, LimitReached, NotFound, StepwellError
from stepwell.messages import clean
from stepwell.server.asking import json_response

PREFIX = "/v1/"
"""Where these routes are."""
HEADERS = (
    *("openai-beta", "openai-organization", "openai-project"),
    *(f"x-stainless-{name}" for name in ("arch", "helper-method", "lang", "os", "package-version")),
    *(f"x-stainless-{name}" for name in ("retry-count", "runtime", "runtime-version", "timeout")),
)
"""What OpenAI's client for browsers sends besides; nothing is made of it."""


ONCE = {"x-should-retry": "false"}
"""Keeps OpenAI's clients from sending by themselves again what began a run: its tools would do all once more."""


class Trouble(NamedTuple):
    """Why a run has no answer, as HTTP tells it.

    Args:
        status: The HTTP status.
        code: A stable word.
        field: The field of the request that is to blame; empty for none.
    """

    status: int
    code: str
    field: str = ""


_CAUSES = MappingProxyType(
    {
        "rate_limit": Trouble(429, "rate_limit_exceeded"),
        "overflow": Trouble(400, "context_length_exceeded", "messages"),
        "window": Trouble(400, "context_length_exceeded", "messages"),
        "request": Trouble(400, "request"),
        "cancelled": Trouble(400, "cancelled"),
        "internal": Trouble(500, "internal"),
        "interrupted": Trouble(503, "interrupted"),
    }
)


def trouble(cause: str) -> Trouble:
    """Return the status and code of a failed or cancelled run.

    What is not to blame on the request or on this server is to blame on the model's endpoint: 502.

    Args:
        cause: As in `RunEnded`.
    """
    return _CAUSES.get(cause) or Trouble(502, cause)


def error_body(status: int, message: str, field: str = "", code: str | None = None) -> dict[str, Any]:
    """Return an error as JSON values, also for the last event of a stream.

    Args:
        status: The HTTP status that it has, or would have.
        message: What is wrong and the remedy.
        field: Path of the field with dots, such as `messages.0.content`; empty for none.
        code: A stable word, if there is one.
    """
    kind = _TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": clean(message), "type": kind, "param": param_of(field) or None, "code": code}}


_TYPES = MappingProxyType({401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"})


def openai_error(
    status: int, message: str, field: str = "", code: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    """Return an error as a response; see `error_body`."""
    return json_response(error_body(status, message, field, code), status, headers)


def refused(error: StepwellError, status: int) -> Response:
    """Return a refusal of our own.

    Args:
        error: What was raised.
        status: The status that it has elsewhere; 422 is 400 here.
    """
    field = error.field if isinstance(error, InputError) else ""
    code: str | None = None
    if isinstance(error, NotFound) and field == "model":
        code = "model_not_found"
    elif isinstance(error, LimitReached):
        code = "insufficient_quota"
    headers = ONCE if status >= 500 else None  # nobody knows whether a run began
    return openai_error(400 if status == 422 else status, str(error), field, code, headers)


def invalid_openai(error: RequestValidationError) -> Response:
    """Return what is wrong with a body that does not fit: the first fault."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return openai_error(400, f"The body is no JSON of one meaning: {first['ctx']['error']}.")
    place = ".".join(str(part) for part in first["loc"][1:])
    return openai_error(400, first["msg"].removeprefix("Value error, "), place)


def param_of(field: str) -> str:
    """Return the path of a field as OpenAI writes it, such as `messages.[0].content`."""
    return clean(".".join(f"[{part}]" if part.isdecimal() else part for part in field.split(".")))
