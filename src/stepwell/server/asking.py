"""What the faces share about requests and answers: idempotency keys, wishes for a stream, headers."""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec
from fastapi import Header, Request, Response

from stepwell.runs.service import Once, RunRef

Key = Annotated[
    str | None, Header(alias="Idempotency-Key", max_length=200, description="Makes a repeated request happen once.")
]


async def once_of(request: Request, key: str | None) -> Once | None:
    """Return what makes this request happen once, if the client sent an idempotency key."""
    if not key:
        return None
    return Once(request.url.path, key, hashlib.sha256(await request.body()).hexdigest())


def wants_stream(request: Request) -> bool:
    """Tell whether the client accepts server-sent events."""
    return "text/event-stream" in request.headers.get("accept", "")


def run_headers(ref: RunRef) -> dict[str, str]:
    """Return the headers that name a run, so that it can be followed and cancelled elsewhere."""
    return {"x-stepwell-thread": ref.thread, "x-stepwell-run": str(ref.run)}


def json_response(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer as JSON."""
    return Response(msgspec.json.encode(body), status, headers, "application/json")
