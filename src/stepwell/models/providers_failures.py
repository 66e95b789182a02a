"""What pydantic-ai's exceptions mean, as a `Failure`. It decides about no retry; secrets are taken out elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec
from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelContextWindowExceededError,
    ModelHTTPError,
    ModelOverloadedError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelServerError,
    ModelTimeoutError,
    ModelUnavailableError,
    UnexpectedModelBehavior,
    UserError,
)

from stepwell.errors import ConfigError
from stepwell.models.base import Failure
from stepwell.models.failures import RETRIED, refusal
from stepwell.models.wire import to_json

_BROKE_OFF = 424
"""The status of Bedrock's `modelStreamErrorException`, after which its documents say to ask again."""


class Setback(msgspec.Struct, frozen=True):
    """A failure, and what is known about trying again.

    Args:
        failure: What went wrong.
        may_pass: Whether the same request may work a little later.
        retry_after: Seconds that the vendor asks to wait, or None if it does not say.
    """

    failure: Failure
    may_pass: bool = False
    retry_after: float | None = None


def setback_of(error: Exception, connect: float, stall: float) -> Setback:
    """Return what an exception means.

    Args:
        error: Raised by pydantic-ai or by what is below it.
        connect: Seconds that a connection was waited for.
        stall: Seconds that a byte was waited for.
    """
    match error:
        case ModelHTTPError():
            return _refused(error)
        case ModelConnectionError():
            return Setback(_unreachable(error, connect, stall), may_pass=True)
        case ModelAPIError():
            failure = _told(error)
            return Setback(failure, failure.kind == "broken" or failure.status in RETRIED, error.retry_after)
        case UnexpectedModelBehavior():
            return Setback(Failure("broken", f"The vendor's reply cannot be read: {error.message}"), may_pass=True)
        case UserError() | ConfigError():
            return Setback(Failure("request", str(error)))
        case _:
            return Setback(Failure("internal", f"{type(error).__name__}: {error}"))


def _refused(error: ModelHTTPError) -> Setback:
    failure = refusal(error.status_code, _bytes_of(error.body))
    if isinstance(error, ModelContextWindowExceededError):
        failure = msgspec.structs.replace(failure, kind="overflow")
    elif isinstance(error, ModelAuthenticationError) and failure.kind != "auth":
        failure = Failure("auth", f"{failure.message} Check the `api_key` of this model.", failure.status)
    elif failure.status == _BROKE_OFF:
        failure = msgspec.structs.replace(failure, kind="server")
    # Used up quota does not come back by waiting.
    may_pass = failure.kind in ("rate_limit", "server") and failure.status in RETRIED | {_BROKE_OFF}
    return Setback(failure, may_pass and not isinstance(error, ModelQuotaExceededError), error.retry_after)


def _unreachable(error: ModelConnectionError, connect: float, stall: float) -> Failure:
    late = isinstance(error, ModelTimeoutError)
    if error.phase in ("connect", "pool"):
        cause = f"none within {connect:g} s" if late else error.message
        return Failure("connect", f"No connection to the vendor: {cause}. Check the network and `base_url`.")
    if late:
        return Failure("stall", f"The vendor sent nothing for {stall:g} s.")
    return Failure("broken", f"The connection to the vendor broke: {error.message}")


def _told(error: ModelAPIError) -> Failure:
    """Return what a vendor told inside a stream, where no status says it."""
    match error:
        case ModelContextWindowExceededError():
            return Failure("overflow", error.message)
        case ModelAuthenticationError():
            return Failure("auth", error.message)
        case ModelRequestRejectedError():
            return Failure("request", error.message)
        case ModelQuotaExceededError():
            return Failure("rate_limit", error.message)
        case ModelRateLimitError():
            return Failure("rate_limit", error.message, 429)
        case ModelOverloadedError():
            return Failure("server", error.message, 529)
        case ModelUnavailableError():
            return Failure("server", error.message, 503)
        case ModelServerError():
            return Failure("server", error.message, 500)
        case _:
            # An error of the vendor's that has no name yet, or else bytes that are no event.
            return Failure("server" if error.body is not None else "broken", error.message)


def _bytes_of(body: object) -> bytes:
    if isinstance(body, str):
        return body.encode("utf-8", "replace")
    told = _told_in(body)
    try:
        return b"" if told is None else to_json(told)
    except TypeError:  # what a client made of the body is not always plain
        return str(told).encode("utf-8", "replace")


def _told_in(body: object) -> object:
    """Return what a body says of the failure; Bedrock's client keeps it beside the headers."""
    if not isinstance(body, Mapping):
        return body
    known = cast("Mapping[str, object]", body)
    error = known.get("Error")
    if not isinstance(error, Mapping):
        return known
    return {name.lower(): value for name, value in cast("Mapping[str, object]", error).items()}
