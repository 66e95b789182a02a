"""The native face: threads, events, contexts and the catalog over HTTP, with server-sent events.

Messages and runs are in `native_runs.py`; questions, waiting messages and forks in `native_people.py`.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Header, Path, Query, Request, Response

from stepwell.errors import InputError, NotFound
from stepwell.events import Recorded, RunStarted
from stepwell.runs import contexts, queue
from stepwell.runs.catalog import Catalog
from stepwell.runs.channel import Cursor, parse_cursor
from stepwell.runs.service import RunService
from stepwell.server import sse
from stepwell.server.asking import JsonRoute, Key, ThreadId, json_response, once_of, wants_stream
from stepwell.server.auth import caller_of
from stepwell.server.bodies import PinBody, ThreadBody, ThreadChangeBody
from stepwell.server.native_people import people_routes
from stepwell.server.native_runs import run_routes, stream
from stepwell.server.sse import Until
from stepwell.store.base import ThreadInfo

PAGE = 200
"""Most events or threads of one page."""

PinId = Annotated[str, Path(pattern="^[0-9a-f]{12}$", description="The pin's id.")]
AnyNumber = Annotated[int | None, Query(ge=1, le=2**31)]
AnyAgent = Annotated[str, Query(max_length=500, description="Path of an agent inside the run, such as `1.2`.")]


def native_router(service: RunService, catalog: Catalog, max_pixels: int) -> APIRouter:
    """Return the routes under `/api`.

    Args:
        service: Threads and runs.
        catalog: Models and tools.
        max_pixels: Of an image that comes with a message.
    """
    router = APIRouter(prefix="/api", route_class=JsonRoute, strict_content_type=False)
    # A request is compared with one route after the other, twice, so what is asked for most stands first.
    run_routes(router, service, catalog, max_pixels)
    _event_routes(router, service)
    _thread_routes(router, service)
    people_routes(router, service, catalog)
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
        """Show a thread and what it waits for."""
        return json_response(await _shown(service, caller_of(request.scope).owner, thread))

    @router.patch("/threads/{thread}", tags=["threads"])
    async def change_thread(request: Request, thread: ThreadId, body: ThreadChangeBody) -> Response:
        """Give a thread another title, or say what becomes of messages that come while a run is open."""
        return json_response(await _changed(service, caller_of(request.scope).owner, thread, body))

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
            return sse.response(stream(service, caller, thread, cursor, until, direct), direct=direct)
        events = await service.events(caller.owner, thread, after=cursor.seq, limit=limit)
        return _page(events, len(events) == limit)


def _context_routes(router: APIRouter, service: RunService) -> None:
    @router.get("/threads/{thread}/context", tags=["context"])
    async def get_context(
        request: Request, thread: ThreadId, run: AnyNumber = None, step: AnyNumber = None, agent: AnyAgent = ""
    ) -> Response:
        """Show what the request of a step held and what it left out; without numbers that of the newest step."""
        owner = caller_of(request.scope).owner
        found = await contexts.context(service, owner, thread, run=run or 0, step=step or 0, agent=agent)
        return json_response(found)

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


async def _changed(service: RunService, owner: str, thread: str, body: ThreadChangeBody) -> dict[str, Any]:
    if "title" in body.model_fields_set:
        await service.rename(owner, thread, body.title)
    if "policy" in body.model_fields_set:
        await queue.set_policy(service, owner, thread, body.policy)
    return await _shown(service, owner, thread)


async def _shown(service: RunService, owner: str, thread: str) -> dict[str, Any]:
    """Return a thread with what it waits for and where it comes from."""
    async with service.using(owner, thread) as log:
        state = log.state
        more: dict[str, Any] = {
            "run": state.run.seq if state.run is not None else None,
            "policy": state.policy,
            "questions": len(state.questions),
            "queued": len(state.queue),
            "waiting": state.run is not None and state.run.waiting is not None,
        }
        await service.committed(log)  # or the row and the events would be behind what is told here
        info = await service.info(owner, thread)
    parent = {"thread": info.parent, "at": info.forked} if info.parent else None
    return _thread(info) | more | {"parent": parent}


def _page(events: list[Recorded], more: bool) -> Response:
    following = str(events[-1].seq).encode() if events and more else b"null"
    body = b'{"events":[%s],"next":%s}' % (b",".join(event.to_json() for event in events), following)
    return Response(body, media_type="application/json")
