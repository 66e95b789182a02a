"""`POST /chat/chat` and `POST /other/completion` of Langchain-Chatchat 0.2: a model without tools."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec
from fastapi import APIRouter, Request, Response

from stepwell.config import Config
from stepwell.messages import Message
from stepwell.runs.catalog import Catalog, Wish
from stepwell.runs.log import now_ms
from stepwell.runs.requests import NewThread
from stepwell.runs.service import RunService
from stepwell.server import sse
from stepwell.server.asking import Key, run_headers
from stepwell.server.asking import once_of as once_of_request
from stepwell.server.auth import Caller, caller_of
from stepwell.server.chatchat.bodies import History, OldChatBody, OldCompletionBody
from stepwell.server.chatchat.conversations import once_of, rounds, start, thread_of
from stepwell.server.chatchat.frames import Event, ping, plain, streamed
from stepwell.server.chatchat.texts import Said, texts
from stepwell.server.chatchat.wishes import DAY, wish
from stepwell.server.chatchat.words import prompted


def chat_route(router: APIRouter, config: Config, service: RunService, catalog: Catalog) -> None:
    """Add `POST /chat/chat`.

    Args:
        router: Of the old routes.
        config: The settings.
        service: Threads and runs.
        catalog: Models and tools.
    """

    @router.post("/chat/chat", tags=["chatchat"])
    async def chat(  # pyright: ignore[reportUnusedFunction]
        request: Request, body: OldChatBody, idempotency_key: Key = None
    ) -> Response:
        """Chat with a model as Langchain-Chatchat 0.2 does, in a conversation or without one."""
        caller = caller_of(request.scope)
        owner, once = caller.owner, await once_of(request, idempotency_key)
        message = Message("user", prompted(body.prompt_name, body.query, config.chatchat.language))
        spec = catalog.spec(_wish(config, body, caller.key))
        if not await service.came_before(owner, once):
            await catalog.admit(spec)
        history = await _history(service, caller, body)
        if body.conversation_id:
            ref = await start(service, owner, body.conversation_id, message, spec, history=history, once=once)
        else:
            new = NewThread(history=history, expires=now_ms() + config.chatchat.keep_days * DAY)
            ref = await service.start(owner, message, spec, new=new, once=once)
        said = texts(service, caller, ref, config.chatchat.language)
        encode = _events if body.stream else _whole
        return sse.response(streamed(encode(said, once.key)), run_headers(ref))


def completion_route(router: APIRouter, config: Config, service: RunService, catalog: Catalog) -> None:
    """Add `POST /other/completion`; see `chat_route`."""

    @router.post("/other/completion", tags=["chatchat"])
    async def completion(  # pyright: ignore[reportUnusedFunction]
        request: Request, body: OldCompletionBody, idempotency_key: Key = None
    ) -> Response:
        """Have a model go on from a text; the events are bare text."""
        caller = caller_of(request.scope)
        once = await once_of_request(request, idempotency_key)
        message = Message("user", prompted(body.prompt_name, body.query, config.chatchat.language))
        spec = catalog.spec(_wish(config, body, caller.key))
        if not await service.came_before(caller.owner, once):
            await catalog.admit(spec)
        new = NewThread(expires=now_ms() + config.chatchat.keep_days * DAY)
        ref = await service.start(caller.owner, message, spec, new=new, once=once)
        said = texts(service, caller, ref, config.chatchat.language)
        return sse.response(_plain(said, body.query if body.echo else "", body.stream), run_headers(ref))


def _wish(config: Config, body: OldChatBody | OldCompletionBody, key: str) -> Wish:
    plain = wish(
        config,
        text=body.query,
        key=key,
        model=body.model_name,
        temperature=body.temperature,
        max_tokens=body.max_tokens,
    )
    return msgspec.structs.replace(plain, tools=())


async def _history(service: RunService, caller: Caller, body: OldChatBody) -> list[Message]:
    """Return what the model is shown before the query: what the request brings, or stored rounds."""
    if isinstance(body.history, list) and body.history:
        return [_message(each) for each in body.history]
    most = body.history if isinstance(body.history, int) else body.history_len
    if not body.conversation_id or most <= 0:
        return []
    thread = await thread_of(service, caller.owner, body.conversation_id)
    return await rounds(service, caller.owner, thread, most)


def _message(each: History) -> Message:
    return Message("user" if each.role == "user" else "assistant", each.content)


async def _events(said: AsyncGenerator[Said | None], id: str) -> AsyncGenerator[Event | None]:
    async for each in said:
        yield None if each is None else _event(each.text, id, each.error)


async def _whole(said: AsyncGenerator[Said | None], id: str) -> AsyncGenerator[Event | None]:
    parts: list[str] = []
    error = ""
    async for each in said:
        if each is None:
            yield None
        else:
            parts.append(f"\n{each.text}" if each.error and parts else each.text)
            error = each.error
    yield _event("".join(parts), id, error)


def _event(text: str, id: str, error: str) -> Event:
    event: Event = {"text": text, "message_id": id}
    return {**event, "error": error} if error else event


async def _plain(said: AsyncGenerator[Said | None], before: str, stream: bool) -> AsyncGenerator[bytes]:
    parts = [before] if before else []
    if stream and before:
        yield plain(before)
    async for each in said:
        if each is None:
            yield ping()
        elif stream:
            yield plain(each.text)
        else:
            parts.append(f"\n{each.text}" if each.error and parts else each.text)
    if not stream:
        yield plain("".join(parts))
