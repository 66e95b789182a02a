"""The face of Langchain-Chatchat 0.2 clients: `POST /chat/agent_chat`.

One more encoder over a run's events. Field names, framing, labels and their order are the old service's wire
format; what was broken there is mended here (`docs/agent_chat.md` lists it). Each request is a thread of its own.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import AsyncGenerator
from typing import Annotated, Any, cast

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from stepwell.config import Config
from stepwell.errors import InputError, StoreError
from stepwell.messages import Message, clean
from stepwell.prompts import names
from stepwell.runs.catalog import Catalog, Wish
from stepwell.runs.channel import Cursor
from stepwell.runs.log import now_ms
from stepwell.runs.requests import NewThread, RunRef
from stepwell.runs.service import RunService
from stepwell.server import sse
from stepwell.server.asking import JsonRoute, Key, once_of, run_headers
from stepwell.server.auth import Caller, caller_of
from stepwell.server.bodies import Text
from stepwell.server.chatchat_events import UNFINISHED, Encoder, Event, own
from stepwell.specs import Limits

DAY = 24 * 3600 * 1000
"""Milliseconds of a day."""


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) else value


def _whole_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and math.isfinite(value) else value


OldText = Annotated[Text, BeforeValidator(_as_text)]
"""Text as pydantic 1 took it: numbers too."""


class History(BaseModel):
    """One earlier message."""

    role: OldText
    content: OldText


class AgentChatBody(BaseModel):
    """The body of `POST /chat/agent_chat`; unknown keys are ignored and null is no value, as it was."""

    model_config = ConfigDict(allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True)

    query: OldText
    """What the user says."""
    history: list[History] = Field(default_factory=list[History])
    """Earlier messages, oldest first."""
    stream: bool = False
    """Many events, or one with everything."""
    model_name: OldText = ""
    """A model of the settings, or any name: it is sent to the default endpoint."""
    temperature: float | None = Field(default=None, ge=0.0, le=1.0)
    """Sampling temperature; empty: the settings'."""
    max_tokens: Annotated[int | None, BeforeValidator(_whole_number), Field(le=2**31)] = None
    """Longest reply in tokens; 0 and less mean no limit."""
    prompt_name: OldText = "default"
    """Name of the prompt template: `default` or `ChatGLM3`."""

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: each for name, each in cast(dict[str, Any], value).items() if each is not None}


def chatchat_router(config: Config, service: RunService, catalog: Catalog) -> APIRouter:
    """Return the route of old clients."""
    router = APIRouter(prefix="/chat", route_class=JsonRoute, strict_content_type=False)

    @router.post("/agent_chat", tags=["chatchat"])
    async def agent_chat(  # pyright: ignore[reportUnusedFunction]
        request: Request, body: AgentChatBody, idempotency_key: Key = None
    ) -> Response:
        """Chat with the agent as Langchain-Chatchat 0.2 does."""
        caller = caller_of(request.scope)
        once = await once_of(request, idempotency_key)
        spec = catalog.spec(_wish(config, body, caller.key))
        if not await service.came_before(caller.owner, once):
            await catalog.admit(spec)
        rounds = config.chatchat.history_rounds * 2
        history = [
            Message("user" if each.role == "user" else "assistant", each.content)
            for each in body.history[len(body.history) - rounds if rounds < len(body.history) else 0 :]
        ]
        new = NewThread(history=history if rounds else (), expires=now_ms() + config.chatchat.keep_days * DAY)
        ref = await service.start(caller.owner, Message("user", body.query), spec, new=new, once=once)
        encode = _streamed if body.stream else _whole
        events = _events(service, caller, ref, config.chatchat.language)
        return sse.response(encode(events), run_headers(ref))

    return router


def _wish(config: Config, body: AgentChatBody, key: str) -> Wish:
    settings, known = config.chatchat, names("react")
    if (body.prompt_name or "default") not in known:
        raise InputError(f"There is no prompt {body.prompt_name!r}; known: {', '.join(known)}.", "prompt")
    name = body.model_name or settings.model or config.model_names[0]
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
        engine="chat",
        people=False,
        key=key,
    )


async def _events(service: RunService, caller: Caller, ref: RunRef, language: str) -> AsyncGenerator[Event | None]:
    """Yield the old events of a run, its `final_answer` last, None for a heartbeat."""
    encoder, inner = Encoder(), set[int]()
    batches = service.follow(caller.owner, ref.thread, Cursor(ref.run - 1))
    cause = UNFINISHED[language].format(thread=ref.thread)
    try:
        async for items in sse.watched(batches, caller, sse.Until(ref.run)):
            for item in items:
                for event in encoder.encode(item.event) if own(item, inner) else ():
                    yield event
                    if "final_answer" in event:
                        return
            if not items:
                yield None
    except (InputError, StoreError) as error:
        cause = str(error)
    # The headers are gone: old clients read the cause as the answer.
    yield {"final_answer": cause}


async def _streamed(events: AsyncGenerator[Event | None]) -> AsyncGenerator[bytes]:
    # Old clients take each read of the socket for one event, so every event is a write of its own.
    async for event in events:
        yield _ping() if event is None else _frame(event)


async def _whole(events: AsyncGenerator[Event | None]) -> AsyncGenerator[bytes]:
    answer: list[str] = []
    final = ""
    async for event in events:
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
    "model_attributes_type": ("value is not a valid dict", "type_error.dict"),
    "greater_than_equal": ("ensure this value is greater than or equal to {limit_value}", "value_error.number.not_ge"),
    "less_than_equal": ("ensure this value is less than or equal to {limit_value}", "value_error.number.not_le"),
    "value_error": ("{error}", "value_error"),
}
_OLD_KINDS = {
    "string": ("str type expected", "type_error.str"),
    "list": ("value is not a valid list", "type_error.list"),
    "bool": ("value could not be parsed to a boolean", "type_error.bool"),
    "int": ("value is not a valid integer", "type_error.integer"),
    "float": ("value is not a valid float", "type_error.float"),
    "finite": ("value is not a valid float", "type_error.float"),
}
_OLD_NAMES = {"prompt": "prompt_name", "model": "model_name"}


def old_errors(error: RequestValidationError) -> dict[str, Any]:
    """Return a refusal in the wording of pydantic 1, which old clients read."""
    return {"detail": [_old_error(each) for each in error.errors()]}


def _old_error(error: dict[str, Any]) -> dict[str, Any]:
    kind, loc = error["type"], [_clean(part) for part in error["loc"]]
    given: dict[str, Any] = error.get("ctx") or {}
    if loc == ["body"]:  # without an object no field is there
        kind, loc = "missing", ["body", "query"]
    limit = given.get("le", given.get("ge"))
    if error.get("input", "") is None and kind != "missing":
        message, old = "none is not an allowed value", "type_error.none.not_allowed"
    elif kind in _OLD_WORDS:
        message, old = _OLD_WORDS[kind]
        message = message.format(limit_value=limit, error=given.get("error"))
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


def _clean(part: Any) -> Any:
    return clean(part) if isinstance(part, str) else part
