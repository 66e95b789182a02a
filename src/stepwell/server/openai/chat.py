"""`POST /v1/chat/completions`: a run as OpenAI's clients ask for one and read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from fastapi import APIRouter, Request, Response

from stepwell.config import Config
from stepwell.errors import Busy, InputError, NotFound, StepwellError, StoreError
from stepwell.messages import Message
from stepwell.runs.catalog import Catalog
from stepwell.runs.channel import Cursor
from stepwell.runs.requests import NewThread, Once, RunRef
from stepwell.runs.service import RunService
from stepwell.server import sse
from stepwell.server.asking import JsonRoute, Key, json_response, once_of, run_headers
from stepwell.server.auth import Caller, caller_of
from stepwell.server.openai.chat_bodies import (
    CompletionBody,
    Conversation,
    StepwellBody,
    check_usable,
    conversation_of,
    spec_of,
)
from stepwell.server.openai.chat_events import Chunks, Document, End, Turn
from stepwell.server.openai.chat_resume import Place, resumed
from stepwell.server.openai.errors import ONCE, error_body, openai_error, trouble
from stepwell.server.openai.leaving import Awaited, Streamed
from stepwell.specs import RunSpec

DAY = 24 * 3600 * 1000
"""Milliseconds of a day."""
DONE = b"data: [DONE]\n\n"
CUT = "The connection ends here, before the run does; thread {thread} will hold its answer."


def chat_router(config: Config, service: RunService, catalog: Catalog) -> APIRouter:
    """Return the route of chat completions.

    Args:
        config: How long threads are kept, and which images are taken.
        service: Threads and runs.
        catalog: Agents and models.
    """
    router = APIRouter(prefix="/v1", route_class=JsonRoute, strict_content_type=False)

    @router.post("/chat/completions", tags=["openai"])
    async def create_completion(  # pyright: ignore[reportUnusedFunction]
        request: Request, body: CompletionBody, idempotency_key: Key = None
    ) -> Response:
        """Answer a conversation as OpenAI's chat completions do."""
        caller, more = caller_of(request.scope), body.stepwell or StepwellBody()
        check_usable(body)
        conversation = conversation_of(body.messages, config.multimodal.image.max_pixels)
        await asyncio.sleep(0)  # others have their turn between two long pieces of work
        spec = spec_of(catalog, body, conversation, caller.key)
        once = await once_of(request, idempotency_key)
        place = await resumed(service, caller.owner, conversation.messages, spec, more.thread, once)
        if place is None:
            if not await service.came_before(caller.owner, once):
                await catalog.admit(spec)
            expires = service.now() + config.openai.keep_days * DAY
            place = await _started(service, caller.owner, conversation, spec, more.thread, expires, once)
        # Whoever is there to answer, has the thread or may ask again has no need of the connection.
        answer = _Answer(service, caller, place, cancels=not (more.people or more.thread or once))
        return _response(answer, body)

    return router


async def _started(
    service: RunService,
    owner: str,
    conversation: Conversation,
    spec: RunSpec,
    thread: str,
    expires: int,
    once: Once | None,
) -> Place:
    """Start a run on a conversation, in a thread of its own or on the last message in one that is there."""
    messages = conversation.messages
    last: Message | None = messages[-1] if messages and messages[-1].role == "user" else None
    if thread:
        if last is None:
            said = "The thread waits for no such results; send what the user says last."
            raise InputError(said, f"messages.{len(messages) - 1}")
        return _place(await _joined(service, owner, last, spec, thread, once))
    new = NewThread(history=messages[:-1] if last else messages, expires=expires)
    return _place(await service.start(owner, last, spec, new=new, once=once))


async def _joined(
    service: RunService, owner: str, message: Message, spec: RunSpec, thread: str, once: Once | None
) -> RunRef:
    try:
        return await service.start(owner, message, spec, thread=thread, once=once, policy="reject")
    except NotFound as error:
        raise NotFound(str(error), "stepwell.thread") from error
    except Busy as error:
        raise Busy(str(error), "stepwell.thread") from error


def _place(ref: RunRef) -> Place:
    if not ref.run:
        raise Busy("The message waits behind others in the thread; follow it there.", "stepwell.thread")
    return Place(ref.thread, ref.run)


class _Answer:
    """An answer under way; when nobody waits for it any more, its run is cancelled.

    Args:
        service: The threads.
        caller: Who asked.
        place: Where it begins.
        cancels: Whether the end of the connection is the end of the run.
    """

    def __init__(self, service: RunService, caller: Caller, place: Place, *, cancels: bool) -> None:
        self._service, self._caller, self._cancels = service, caller, cancels
        self.place, self.created = place, service.now() // 1000
        self._turn: Turn | None = None

    async def follow(self, turn: Turn) -> AsyncGenerator[bool]:
        """Have a turn take what happens; yields after each batch whether there was anything in it.

        The turn has its end when this is over.
        """
        self._turn, thread, run = turn, self.place.thread, self.place.run
        batches = self._service.follow(self._caller.owner, thread, Cursor(run - 1))
        try:
            async with aclosing(sse.watched(batches, self._caller, sse.Until(run))) as watched:
                async for items in watched:
                    for item in items:
                        turn.take(item)
                        if turn.end is not None:
                            break
                    yield bool(items)
                    if turn.end is not None:
                        return
        except (InputError, StoreError) as error:
            turn.end = End(None, "interrupted", str(error))
        if turn.end is None:
            turn.end = End(None, "interrupted", CUT.format(thread=thread))

    async def leave(self) -> None:
        """Cancel the run if the client went before the answer had its end."""
        if self._cancels and (self._turn is None or self._turn.end is None):
            thread, run = self.place.thread, self.place.run
            with suppress(StepwellError):  # nobody is left to be told
                await self._service.cancel(self._caller.owner, thread, run, "the client closed the connection")


def _response(answer: _Answer, body: CompletionBody) -> Response:
    headers = run_headers(RunRef(answer.place.thread, answer.place.run))
    if body.stream:
        usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        return Streamed(_streamed(answer, body.model, usage=usage), headers, answer.leave)

    async def make() -> Response:
        return await _whole(answer, body.model, headers)

    return Awaited(make, answer.leave)


async def _streamed(answer: _Answer, model: str, *, usage: bool) -> AsyncGenerator[bytes]:
    thread, run = answer.place.thread, answer.place.run
    chunks = Chunks(thread, run, model, answer.created, usage=usage)
    turn = Turn(thread, chunks, answer.place.given)
    chunks.start()
    async with aclosing(answer.follow(turn)) as batches:
        yield chunks.taken()
        async for anything in batches:
            if frames := chunks.taken():
                yield frames
            elif not anything:
                yield b": quiet\n\n"
    assert turn.end is not None
    if turn.end.finish is None:
        yield sse_error(turn.end)
    else:
        chunks.finish(turn)
        yield chunks.taken() + DONE


def sse_error(end: End) -> bytes:
    """Return the events that tell that an answer failed, and end the stream."""
    found = trouble(end.cause)
    body = error_body(found.status, end.detail or end.cause, found.field, found.code)
    return b"data: %s\n\n%s" % (json_response(body).body, DONE)


async def _whole(answer: _Answer, model: str, headers: dict[str, str]) -> Response:
    document = Document()
    turn = Turn(answer.place.thread, document, answer.place.given)
    async with aclosing(answer.follow(turn)) as batches:
        async for _ in batches:
            pass
    assert turn.end is not None
    if turn.end.finish is None:
        found, headers = trouble(turn.end.cause), headers | ONCE
        return openai_error(found.status, turn.end.detail or turn.end.cause, found.field, found.code, headers)
    body = document.body(turn, answer.place.thread, answer.place.run, model, answer.created)
    return json_response(body, 200, headers)
