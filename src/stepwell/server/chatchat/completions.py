"""`POST /chat/chat/completions` of Langchain-Chatchat 0.3: a model, an agent with tools, or a tool and then a model."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request, Response

from stepwell.config import Config
from stepwell.errors import InputError, StoreError
from stepwell.messages import Message, clean
from stepwell.runs.catalog import Catalog
from stepwell.runs.log import now_ms
from stepwell.runs.requests import NewThread, Once, RunRef
from stepwell.runs.service import RunService
from stepwell.server import sse
from stepwell.server.asking import Key, json_response, run_headers
from stepwell.server.auth import Caller, caller_of
from stepwell.server.chatchat.agent_chat_events import UNFINISHED, own
from stepwell.server.chatchat.completions_bodies import OldCompletionsBody, asked, check_tools, conversation, wish_of
from stepwell.server.chatchat.completions_events import STATUSES, Chunks, whole
from stepwell.server.chatchat.conversations import follow, once_of, start
from stepwell.server.chatchat.frames import Event, streamed
from stepwell.server.chatchat.tools import Refused, call, check_once
from stepwell.server.chatchat.wishes import DAY, model_of
from stepwell.server.chatchat.words import with_result
from stepwell.specs import RunSpec


def completions_route(router: APIRouter, config: Config, service: RunService, catalog: Catalog) -> None:
    """Add the route.

    Args:
        router: Of the old routes.
        config: The settings.
        service: Threads and runs.
        catalog: Models and tools.
    """
    face = _Completions(config, service, catalog)

    @router.post("/chat/chat/completions", tags=["chatchat"])
    async def chat_completions(  # pyright: ignore[reportUnusedFunction]
        request: Request, body: OldCompletionsBody, idempotency_key: Key = None
    ) -> Response:
        """Chat as Langchain-Chatchat 0.3 does."""
        try:
            return await face.answer(request, body, idempotency_key)
        except Refused as refused:
            return json_response({"error": str(refused)}, refused.code)


class _Completions:
    """Answers requests; see `completions_route`."""

    def __init__(self, config: Config, service: RunService, catalog: Catalog) -> None:
        self._config, self._service, self._catalog = config, service, catalog

    async def answer(self, request: Request, body: OldCompletionsBody, key: str | None) -> Response:
        """Start a run and return its answer.

        Raises:
            Refused: The tool that is called before it is not.
        """
        config, service, catalog = self._config, self._service, self._catalog
        caller, wanted = caller_of(request.scope), asked(body)
        check_tools(catalog, wanted)
        history, message = conversation(body, config.multimodal.image.max_pixels)
        once = await once_of(request, key)
        spec = catalog.spec(wish_of(config, body, wanted, message.content, caller.key))
        if not await service.came_before(caller.owner, once):
            await catalog.admit(spec)
        table = STATUSES[config.chatchat.statuses] if wanted.agent else None
        chunks = Chunks(once.key, model_of(config, body.model), now_ms() // 1000, table)
        before: list[Event] = []
        if wanted.called:
            check_once(key)
            given, kept = body.tool_input or {}, body.conversation_id != ""
            found = await call(config, service, catalog, caller, wanted.called, given, kept=kept)
            before.append(chunks.reference(wanted.called, found.content))
            message = _with_result(config, message, body, wanted.called, found.content)
        ref = await self._start(caller, body, history, message, spec, once)
        events = _events(service, caller, ref, chunks, before, config.chatchat.language)
        if body.stream:
            return sse.response(streamed(events), run_headers(ref))
        told = whole([each async for each in events if each is not None])
        return json_response(told, 500 if "error" in told else 200, run_headers(ref))

    async def _start(
        self,
        caller: Caller,
        body: OldCompletionsBody,
        history: list[Message],
        message: Message,
        spec: RunSpec,
        once: Once,
    ) -> RunRef:
        """Start the run: without messages before the last one, a conversation goes on with all that it shows."""
        service, owner, id = self._service, caller.owner, body.conversation_id
        if id:
            return await start(service, owner, id, message, spec, history=history or None, once=once)
        new = NewThread(history=history, expires=now_ms() + self._config.chatchat.keep_days * DAY)
        return await service.start(owner, message, spec, new=new, once=once)


def _with_result(config: Config, message: Message, body: OldCompletionsBody, name: str, result: str) -> Message:
    given = json.dumps(body.tool_input, ensure_ascii=False)
    language = config.chatchat.language
    text = with_result(language, name=name, given=given, result=result, question=message.content)
    return Message("user", clean(text), message.images)


async def _events(
    service: RunService, caller: Caller, ref: RunRef, chunks: Chunks, before: list[Event], language: str
) -> AsyncGenerator[Event | None]:
    """Yield the chunks of a run, its end last, None for a heartbeat."""
    for event in before:
        yield event
    inner = set[int]()
    cause = UNFINISHED[language].format(thread=ref.thread)
    try:
        async for items in follow(service, caller, ref):
            for item in items:
                for event in chunks.encode(item.event) if own(item, inner) else ():
                    yield event
                if item.ends_run:
                    return
            if not items:
                yield None
    except (InputError, StoreError) as error:  # the headers are gone: the stream itself says why it ends
        cause = str(error)
    yield chunks.ended("failed", cause)
