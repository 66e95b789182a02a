"""The face of Langchain-Chatchat 0.2 clients: `POST /chat/agent_chat`.

One more encoder over a run's events. Field names, framing, labels and their order are the old service's wire
format; what was broken there is mended here (`docs/agent_chat.md` lists it). Each request is a thread of its own.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field

from stepwell.config import Config
from stepwell.errors import StoreError
from stepwell.events import Limits
from stepwell.messages import Message
from stepwell.runs.catalog import Catalog, Wish
from stepwell.runs.channel import Cursor
from stepwell.runs.log import now_ms
from stepwell.runs.service import NewThread, RunRef, RunService
from stepwell.server import sse
from stepwell.server.asking import Key, once_of, run_headers
from stepwell.server.auth import Caller, caller_of
from stepwell.server.bodies import Text
from stepwell.server.chatchat_events import Encoder, Event

DAY = 24 * 3600 * 1000
"""Milliseconds of a day."""


class History(BaseModel):
    """One earlier message."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    role: Text
    content: Text


class AgentChatBody(BaseModel):
    """The body of `POST /chat/agent_chat`; unknown keys are ignored, as they were."""

    model_config = ConfigDict(coerce_numbers_to_str=True, protected_namespaces=(), use_attribute_docstrings=True)

    query: Text
    """What the user says."""
    history: list[History] = Field(default_factory=list[History])
    """Earlier messages, oldest first."""
    stream: bool = False
    """Many events, or one with everything."""
    model_name: Text = ""
    """A model of the settings, or any name: it is sent to the default endpoint."""
    temperature: float | None = Field(default=None, ge=0, le=1)
    """Sampling temperature; empty: the settings'."""
    max_tokens: int | None = None
    """Longest reply in tokens; 0 and less mean no limit."""
    prompt_name: Text = "default"
    """Name of the prompt template: `default` or `ChatGLM3`."""


def chatchat_router(config: Config, service: RunService, catalog: Catalog) -> APIRouter:
    """Return the route of old clients."""
    router = APIRouter(prefix="/chat")

    @router.post("/agent_chat", tags=["chatchat"])
    async def agent_chat(  # pyright: ignore[reportUnusedFunction]
        request: Request, body: AgentChatBody, idempotency_key: Key = None
    ) -> Response:
        """Chat with the agent as Langchain-Chatchat 0.2 does."""
        caller = caller_of(request.scope)
        once = await once_of(request, idempotency_key)
        spec = catalog.spec(_wish(config, body))
        rounds = config.chatchat.history_rounds * 2
        history = [
            Message("user" if each.role == "user" else "assistant", each.content)
            for each in body.history[len(body.history) - rounds if rounds < len(body.history) else 0 :]
        ]
        new = NewThread(history=history if rounds else (), expires=now_ms() + config.chatchat.keep_days * DAY)
        ref = await service.start(caller.owner, Message("user", body.query), spec, new=new, once=once)
        encode = _streamed if body.stream else _whole
        return sse.response(encode(service, caller, ref), run_headers(ref))

    return router


def _wish(config: Config, body: AgentChatBody) -> Wish:
    settings = config.chatchat
    name = body.model_name or settings.model
    return Wish(
        text=body.query,
        model=name,
        any_model=True,
        dialect=settings.dialects.get(name, "react"),
        prompt=body.prompt_name,
        language=settings.language,
        system="",
        temperature=settings.temperature if body.temperature is None else body.temperature,
        max_tokens=body.max_tokens if body.max_tokens and body.max_tokens > 0 else None,
        limits=Limits(steps=settings.max_steps, seconds=config.limits.seconds, tokens=config.limits.tokens),
        face="chatchat",
    )


async def _events(service: RunService, caller: Caller, ref: RunRef) -> AsyncGenerator[Event | None]:
    """Yield the old events of a run, None for a heartbeat."""
    encoder = Encoder()
    batches = service.follow(caller.owner, ref.thread, Cursor(ref.run - 1))
    try:
        async for items in sse.watched(batches, caller, ref.run):
            for item in items:
                for event in encoder.encode(item.event):
                    yield event
            if not items:
                yield None
    except StoreError as error:  # the headers are gone: old clients read the cause as the answer
        yield {"final_answer": str(error)}


async def _streamed(service: RunService, caller: Caller, ref: RunRef) -> AsyncGenerator[bytes]:
    # Old clients take each read of the socket for one event, so every event is a write of its own.
    async for event in _events(service, caller, ref):
        yield _ping() if event is None else _frame(event)


async def _whole(service: RunService, caller: Caller, ref: RunRef) -> AsyncGenerator[bytes]:
    answer: list[str] = []
    final = ""
    async for event in _events(service, caller, ref):
        if event is None:
            yield _ping()
        elif "tools" in event:
            answer.append(_block(event["tools"]))
        else:
            answer.append(event.get("answer", ""))
            final = event.get("final_answer", final)
    yield _frame({"answer": "".join(answer), "final_answer": final})


def _block(lines: list[str]) -> str:
    """Return a `tools` array as text; a failure's promise to start over was never part of it."""
    fence, *labels, _ = lines
    return fence + "".join(f"{label}\n" for label in labels if ": " in label) + fence


def _frame(event: Event) -> bytes:
    return b"data: %s\r\n\r\n" % json.dumps(event, ensure_ascii=False).encode("utf-8", "replace")


def _ping() -> bytes:
    return f": ping - {datetime.datetime.now(datetime.UTC).replace(tzinfo=None)}\r\n\r\n".encode()


_OLD_WORDS = {
    "missing": ("field required", "value_error.missing"),
    "greater_than_equal": ("ensure this value is greater than or equal to {ge:g}", "value_error.number.not_ge"),
    "less_than_equal": ("ensure this value is less than or equal to {le:g}", "value_error.number.not_le"),
    "string_type": ("str type expected", "type_error.str"),
    "list_type": ("value is not a valid list", "type_error.list"),
    "bool_parsing": ("value could not be parsed to a boolean", "type_error.bool"),
    "int_parsing": ("value is not a valid integer", "type_error.integer"),
    "float_parsing": ("value is not a valid float", "type_error.float"),
    "model_attributes_type": ("value is not a valid dict", "type_error.dict"),
}


def old_errors(error: RequestValidationError) -> dict[str, Any]:
    """Return a refusal in the wording of pydantic 1, which old clients read."""
    detail: list[dict[str, Any]] = []
    for each in error.errors():
        message, kind = _OLD_WORDS.get(each["type"], (each["msg"], each["type"]))
        bounds: dict[str, Any] = each.get("ctx") or {}
        text = message.format(**bounds) if each["type"] in _OLD_WORDS else message
        detail.append({"loc": list(each["loc"]), "msg": text, "type": kind})
    return {"detail": detail}
