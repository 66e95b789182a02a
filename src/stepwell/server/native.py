"""The native face: threads, messages, events and runs over HTTP, with server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Header, Path, Query, Request, Response

from stepwell.agent.replies import output_of
from stepwell.errors import ConfigError, InputError, NotFound, StoreError
from stepwell.events import Recorded, RunStarted
from stepwell.images import check
from stepwell.messages import Image, Message
from stepwell.runs import contexts
from stepwell.runs.catalog import Catalog, Wish
from stepwell.runs.channel import Cursor, parse_cursor
from stepwell.runs.service import RunService
from stepwell.server import sse
from stepwell.server.asking import JsonRoute, Key, json_response, once_of, run_headers, wants_stream
from stepwell.server.auth import Caller, caller_of
from stepwell.server.bodies import CancelBody, LimitsBody, MessageBody, PinBody, ThreadBody, TitleBody
from stepwell.server.sse import Until
from stepwell.specs import Limits, RunSpec
from stepwell.store.base import ThreadInfo

PAGE = 200
"""Most events or threads of one page."""

ThreadId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="The thread's id.")]
Number = Annotated[int, Path(ge=1, le=2**31, description="The run's number.")]
PinId = Annotated[str, Path(pattern="^[0-9a-f]{12}$", description="The pin's id.")]
AnyNumber = Annotated[int | None, Query(ge=1, le=2**31)]

LONGEST_FORM = 65_536
"""Bytes of the JSON schema of an answer."""


def native_router(service: RunService, catalog: Catalog, max_pixels: int) -> APIRouter:
    """Return the routes under `/api`.

    Args:
        service: Threads and runs.
        catalog: Models and tools.
        max_pixels: Of an image that comes with a message.
    """
    router = APIRouter(prefix="/api", route_class=JsonRoute, strict_content_type=False)
    # A request is compared with one route after the other, twice, so what is asked for most stands first.
    _run_routes(router, service, catalog, max_pixels)
    _event_routes(router, service)
    _thread_routes(router, service)
    _context_routes(router, service)
    _catalog_routes(router, catalog)
    return router


def _thread_routes(router: APIRouter, service: RunService) -> None:
    @router.post("/threads", status_code=201, tags=["threads"])
    async def create_thread(
        request: Request, body: Annotated[ThreadBody | None, Body()] = None, idempotency_key: Key = None
    ) -> Response:
        """Make a thread."""
        once = await once_of(request, idempotency_key)
        title = body.title if body else ""
        return json_response(_thread(await service.create(caller_of(request.scope).owner, title=title, once=once)), 201)

    @router.get("/threads", tags=["threads"])
    async def list_threads(
        request: Request,
        before: Annotated[
            str, Query(pattern="^([0-9a-f]{32})?$", description="The last thread of the page before.")
        ] = "",
        limit: Annotated[int, Query(ge=1, le=PAGE)] = 50,
    ) -> Response:
        """List your threads, newest first."""
        return json_response(await _threads(service, caller_of(request.scope).owner, before, limit))

    @router.get("/threads/{thread}", tags=["threads"])
    async def get_thread(request: Request, thread: ThreadId) -> Response:
        """Show a thread."""
        return json_response(_thread(await service.info(caller_of(request.scope).owner, thread)))

    @router.patch("/threads/{thread}", tags=["threads"])
    async def rename_thread(request: Request, thread: ThreadId, body: TitleBody) -> Response:
        """Give a thread another title."""
        return json_response(_thread(await service.rename(caller_of(request.scope).owner, thread, body.title)))

    @router.delete("/threads/{thread}", status_code=204, tags=["threads"])
    async def delete_thread(request: Request, thread: ThreadId) -> Response:
        """Remove a thread; its open run is cancelled first."""
        await service.delete(caller_of(request.scope).owner, thread)
        return Response(status_code=204)


def _event_routes(router: APIRouter, service: RunService) -> None:
    @router.get("/threads/{thread}/events", tags=["events"])
    async def get_events(
        request: Request,
        thread: ThreadId,
        after: Annotated[str, Query(max_length=32, description="The last event seen: `12` or `12.40`.")] = "",
        limit: Annotated[int, Query(ge=1, le=PAGE, description="Most events of a JSON page.")] = PAGE,
        run: Annotated[int, Query(ge=0, le=2**31, description="End the stream with this run.")] = 0,
        last_event_id: Annotated[str | None, Header(max_length=32)] = None,
    ) -> Response:
        """Read a thread's events: a page of JSON, or with `Accept: text/event-stream` a stream that goes on."""
        caller = caller_of(request.scope)
        field = "Last-Event-ID" if last_event_id else "after"
        cursor = _cursor(last_event_id or after or "0", field)
        info = await service.info(caller.owner, thread)
        if cursor.seq > info.seq:
            raise InputError(f"The thread ends with event {info.seq}; {cursor} is not there yet.", field)
        over = run > 0 and run != info.run
        if over:
            await _check_run(service, caller.owner, thread, run)
        if wants_stream(request):
            until = Until(run, info.seq if over else 0)
            direct = sse.Direct()
            return sse.response(_stream(service, caller, thread, cursor, until, direct), direct=direct)
        events = await service.events(caller.owner, thread, after=cursor.seq, limit=limit)
        return _page(events, len(events) == limit)


def _context_routes(router: APIRouter, service: RunService) -> None:
    @router.get("/threads/{thread}/context", tags=["context"])
    async def get_context(
        request: Request, thread: ThreadId, run: AnyNumber = None, step: AnyNumber = None
    ) -> Response:
        """Show what the request of a step held and what it left out; without numbers that of the newest step."""
        owner = caller_of(request.scope).owner
        return json_response(await contexts.context(service, owner, thread, run=run or 0, step=step or 0))

    @router.get("/threads/{thread}/pins", tags=["context"])
    async def list_pins(request: Request, thread: ThreadId) -> Response:
        """List the pinned facts, oldest first."""
        return json_response({"pins": await contexts.pins(service, caller_of(request.scope).owner, thread)})

    @router.post("/threads/{thread}/pins", status_code=201, tags=["context"])
    async def add_pin(request: Request, thread: ThreadId, body: PinBody) -> Response:
        """Keep a fact in the agent's context from the next request on; a fact that is there already stays."""
        return json_response(await contexts.pin(service, caller_of(request.scope).owner, thread, body.text), 201)

    @router.delete("/threads/{thread}/pins/{pin}", status_code=204, tags=["context"])
    async def remove_pin(request: Request, thread: ThreadId, pin: PinId) -> Response:
        """Let go of a pinned fact from the next request on."""
        await contexts.unpin(service, caller_of(request.scope).owner, thread, pin)
        return Response(status_code=204)


def _run_routes(router: APIRouter, service: RunService, catalog: Catalog, max_pixels: int) -> None:
    @router.post("/messages", status_code=202, tags=["runs"])
    async def begin_thread(request: Request, body: MessageBody, idempotency_key: Key = None) -> Response:
        """Say something to the agent in a new thread; answers as `POST /api/threads/{thread}/messages` does."""
        return await send(request, "", body, idempotency_key)

    @router.post("/threads/{thread}/messages", status_code=202, tags=["runs"])
    async def send_message(
        request: Request, thread: ThreadId, body: MessageBody, idempotency_key: Key = None
    ) -> Response:
        """Say something to the agent: 202 with the run, or with `Accept: text/event-stream` the run as a stream."""
        await service.info(caller_of(request.scope).owner, thread)
        return await send(request, thread, body, idempotency_key)

    async def send(request: Request, thread: str, body: MessageBody, idempotency_key: str | None) -> Response:
        if not body.content and not body.images:
            raise InputError("The message is empty; write something or add an image.", "content")
        caller = caller_of(request.scope)
        once = await once_of(request, idempotency_key)
        images = tuple(Image(each.url, each.detail) for each in body.images)  # type: ignore[arg-type]
        for index, image in enumerate(images):
            check(image, max_pixels=max_pixels, field=f"images.{index}.url")
        spec = catalog.spec(_wish(body))
        _check_output(spec)
        ref = await service.start(caller.owner, Message("user", body.content, images), spec, thread=thread, once=once)
        if wants_stream(request):
            direct = sse.Direct()
            stream = _stream(service, caller, ref.thread, Cursor(ref.run - 1), Until(ref.run), direct)
            return sse.response(stream, run_headers(ref), direct)
        answer = {"thread": ref.thread, "run": ref.run, "repeated": ref.repeated}
        return json_response(answer, 202, run_headers(ref))

    @router.post("/threads/{thread}/runs/{run}/cancel", status_code=202, tags=["runs"])
    async def cancel_run(
        request: Request, thread: ThreadId, run: Number, body: Annotated[CancelBody | None, Body()] = None
    ) -> Response:
        """Ask a run to stop; nothing happens when it is over."""
        await service.cancel(caller_of(request.scope).owner, thread, run, body.reason if body else "")
        return json_response({"thread": thread, "run": run}, 202)


def _catalog_routes(router: APIRouter, catalog: Catalog) -> None:
    @router.get("/models", tags=["catalog"])
    async def list_models() -> Response:
        """List the models that agents can use, the default first."""
        return json_response({"models": catalog.models()})

    @router.get("/tools", tags=["catalog"])
    async def list_tools() -> Response:
        """List the tools that are switched on."""
        tools = [{**msgspec.structs.asdict(tool.spec), "effect": tool.effect} for tool in catalog.tools()]
        return json_response({"tools": tools})


def _cursor(text: str, field: str) -> Cursor:
    try:
        return parse_cursor(text)
    except InputError as error:
        raise InputError(str(error), field) from error


async def _check_run(service: RunService, owner: str, thread: str, run: int) -> None:
    found = await service.events(owner, thread, after=run - 1, limit=1)
    if not found or not isinstance(found[0].event, RunStarted):
        raise NotFound("There is no such run.", "run")


async def _stream(
    service: RunService, caller: Caller, thread: str, cursor: Cursor, until: Until, direct: sse.Direct
) -> AsyncGenerator[bytes]:
    if until.last and cursor.seq >= until.last:
        return
    try:
        async for items in sse.watched(service.follow(caller.owner, thread, cursor, direct.take), caller, until):
            yield b"".join(map(sse.frame, items)) if items else b": quiet\n\n"
    except (InputError, StoreError) as error:  # the headers are gone: the stream itself says why it ends
        yield sse.error_frame(msgspec.json.encode({"error": {"message": str(error), "field": ""}}))


def _wish(body: MessageBody) -> Wish:
    return Wish(
        text=body.content,
        model=body.model,
        system=body.system,
        tools=body.tools,
        temperature=body.temperature,
        max_tokens=body.max_tokens,
        limits=_limits(body.limits),
        output=_output(body.output),
    )


def _output(schema: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the form of an answer as a run has it."""
    if schema is None:
        return None
    try:
        form = output_of(schema).schema
    except ConfigError as error:
        raise InputError(str(error), "output") from error
    encoded = msgspec.json.encode(form)
    if len(encoded) > LONGEST_FORM:
        said = f"The schema has {len(encoded):,} bytes; one of at most {LONGEST_FORM:,} can be asked for."
        raise InputError(said, "output")
    if b"\\u0000" in encoded:
        raise InputError("The schema holds a NUL character; remove it.", "output")
    return msgspec.structs.asdict(form)


def _check_output(spec: RunSpec) -> None:
    """Refuse a form that bears the name of a tool, for a model gives it by a call of that name."""
    name = spec.output["name"] if spec.output else ""
    if name in (*spec.tools, "recall"):
        raise InputError(f"There is a tool named {name!r}; give the schema another `title`.", "output")


def _limits(body: LimitsBody | None) -> Limits | None:
    return Limits(body.steps, body.tool_calls, body.tokens, body.seconds) if body else None


async def _threads(service: RunService, owner: str, before: str, limit: int) -> dict[str, Any]:
    if before:
        await service.info(owner, before)
    found = await service.threads(owner, before=before, limit=limit + 1)
    more = found[limit - 1].id if len(found) > limit else None
    return {"threads": [_thread(info) for info in found[:limit]], "next": more}


def _thread(info: ThreadInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "title": info.title,
        "created": info.created,
        "seq": info.seq,
        "run": info.run or None,
    }


def _page(events: list[Recorded], more: bool) -> Response:
    following = str(events[-1].seq).encode() if events and more else b"null"
    body = b'{"events":[%s],"next":%s}' % (b",".join(event.to_json() for event in events), following)
    return Response(body, media_type="application/json")
