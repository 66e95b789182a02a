"""`/v1/responses`: made, streamed, gone on with, asked for later, cancelled and removed.

https://platform.openai.com/docs/api-reference/responses. One more encoder over the log, which is also its only store:
what a request begins is said in `responses_runs.py`, how it is told in `responses_events.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from stepwell.config import Config
from stepwell.errors import InputError, NotFound, StepwellError, StoreError
from stepwell.runs.catalog import Catalog
from stepwell.runs.channel import Cursor
from stepwell.runs.requests import RunRef
from stepwell.runs.service import RunService
from stepwell.server import sse
from stepwell.server.asking import JsonRoute, Key, json_response, once_of, run_headers
from stepwell.server.auth import Caller, caller_of
from stepwell.server.openai.errors import ONCE, openai_error
from stepwell.server.openai.leaving import Awaited, Leave, Streamed
from stepwell.server.openai.responses_events import Encoder
from stepwell.server.openai.responses_frames import LAST, NOTHING, frame, number, number_of
from stepwell.server.openai.responses_input import ResponseBody, check_usable, read_input, spec_of
from stepwell.server.openai.responses_items import Object, ResponseId
from stepwell.server.openai.responses_runs import Asking, Beginner
from stepwell.server.openai.responses_store import Items, folded, input_items, kept, remove

# pyright: reportUnusedFunction=false

CUT = "The connection ends here, before response {id} does; a stored one can be asked for later."
PAGE = 100
"""Most input items of one page."""


def responses_router(config: Config, service: RunService, catalog: Catalog) -> APIRouter:
    """Return the routes of responses.

    Args:
        config: How long threads are kept, and how large images may be.
        service: Threads and runs.
        catalog: Agents and models.
    """
    router = APIRouter(prefix="/v1", route_class=JsonRoute, strict_content_type=False)
    _create_route(router, config, service, catalog)
    _stored_routes(router, service)
    _input_routes(router, service)
    return router


def _create_route(router: APIRouter, config: Config, service: RunService, catalog: Catalog) -> None:
    beginner = Beginner(service, catalog, config.openai.keep_days)
    max_pixels = config.multimodal.image.max_pixels

    @router.post("/responses", tags=["openai"])
    async def create_response(request: Request, body: ResponseBody, idempotency_key: Key = None) -> Response:
        """Make a response: whole, as a stream, or in the background."""
        caller = caller_of(request.scope)
        check_usable(body)

        known = body.previous_response_id or body.conversation
        said = await read_input(body.input, max_pixels, None if known else Items(service, caller.owner).find)
        spec = spec_of(catalog, body, said, caller.key)
        asking = Asking(caller.owner, body, said, spec, await once_of(request, idempotency_key))
        try:
            id = await beginner.begin(asking)
        except NotFound as error:
            if error.field != "previous_response_id":
                raise
            return openai_error(404, str(error), error.field, "previous_response_not_found")
        previous = (await folded(service, id)).encoder.previous
        if body.stream:
            return _stream(service, caller, Encoder(id, -1, previous), stays=body.store is not False)
        encoder = Encoder(id, NOTHING, previous)

        async def whole() -> Response:
            return await _whole(service, caller, encoder, waits=not body.background)

        if body.store is False:
            return Awaited(whole, _leaving(service, caller, encoder))
        return await whole()


def _stored_routes(router: APIRouter, service: RunService) -> None:
    @router.get("/responses/{response_id}", tags=["openai"])
    async def get_response(
        request: Request,
        response_id: str,
        stream: bool = False,
        starting_after: Annotated[int, Query(ge=-1, le=2**53)] = -1,
    ) -> Response:
        """Show a response, or its events from a `sequence_number` on."""
        caller = caller_of(request.scope)
        found = await kept(service, caller.owner, response_id)
        if not stream:
            return json_response(found.shown())
        if starting_after > number(found.info.seq, LAST):
            raise InputError("The response has no such event yet; give the `sequence_number` of one.", "starting_after")
        encoder = Encoder(found.id, starting_after, found.encoder.previous)
        return _stream(service, caller, encoder)

    @router.delete("/responses/{response_id}", tags=["openai"])
    async def delete_response(request: Request, response_id: str) -> Response:
        """Remove a response with its thread, where the thread has no other run."""
        caller = caller_of(request.scope)
        found = await kept(service, caller.owner, response_id)
        await remove(service, caller.owner, found)
        return json_response({"id": str(found.id), "object": "response", "deleted": True})

    @router.post("/responses/{response_id}/cancel", tags=["openai"])
    async def cancel_response(request: Request, response_id: str) -> Response:
        """Stop the run of a response and show what became of it; nothing happens when it is over."""
        caller = caller_of(request.scope)
        found = await kept(service, caller.owner, response_id)
        if found.next is None:
            await service.cancel(caller.owner, found.id.thread, found.id.run)
            await _ended(service, caller, found.id)
        return json_response((await folded(service, found.id)).shown())


def _input_routes(router: APIRouter, service: RunService) -> None:
    @router.get("/responses/{response_id}/input_items", tags=["openai"])
    async def list_input_items(
        request: Request,
        response_id: str,
        limit: Annotated[int, Query(ge=1, le=PAGE)] = 20,
        order: Annotated[str, Query(pattern="^(asc|desc)$")] = "desc",
        after: Annotated[str, Query(max_length=200)] = "",
    ) -> Response:
        """List what the request of a response said, the newest first."""
        found = await kept(service, caller_of(request.scope).owner, response_id)
        return json_response(_page(await input_items(service, found), limit, order, after))


def _page(given: list[Object], limit: int, order: str, after: str) -> Object:
    listed = given if order == "asc" else given[::-1]
    if after:
        at = next((index for index, each in enumerate(listed) if each["id"] == after), None)
        if at is None:
            raise InputError("There is no such item.", "after")
        listed = listed[at + 1 :]
    page = listed[:limit]
    ids = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    return {"object": "list", "data": page, **ids, "has_more": len(listed) > limit}


def _stream(service: RunService, caller: Caller, encoder: Encoder, *, stays: bool = True) -> Response:
    """Return the events of a response as they happen; where it does not stay, its run ends with the connection."""
    thread, run = encoder.id.thread, encoder.id.run
    frames, headers = _frames(service, caller, encoder), run_headers(RunRef(thread, run))
    if stays:
        return sse.response(frames, headers)

    return Streamed(frames, headers, _leaving(service, caller, encoder))


def _leaving(service: RunService, caller: Caller, encoder: Encoder) -> Leave:
    """Return what cancels the run of a response whose client went before its end."""

    async def leave() -> None:
        if encoder.end is None:
            with suppress(StepwellError):  # nobody is left to be told
                said = "the client closed the connection"
                await service.cancel(caller.owner, encoder.id.thread, encoder.id.run, said)

    return leave


async def _frames(service: RunService, caller: Caller, encoder: Encoder) -> AsyncGenerator[bytes]:
    """Yield the frames of a response as it happens."""
    id, last = encoder.id, b""
    batches = service.follow(caller.owner, id.thread, Cursor(id.run - 1))
    said = CUT.format(id=id)
    try:
        async with aclosing(sse.watched(batches, caller, sse.Until())) as watching:
            async for items in watching:
                data = b"".join(map(encoder.encode, items))
                last = data or last
                if data or not items:
                    yield data or b": quiet\n\n"
                if encoder.end is not None:
                    return
    except (InputError, StoreError) as error:
        said = str(error)
    # The headers are gone: the stream itself says why it ends, and can be gone on with from there.
    told = {"code": "server_error", "message": said, "param": None}
    yield frame("error", told, number_of(last) if last else max(encoder.after, number(id.answered or id.run, 0)))


async def _whole(service: RunService, caller: Caller, encoder: Encoder, *, waits: bool) -> Response:
    """Return a response as one object; where the connection ends before it, that it goes on."""
    id = encoder.id
    headers = run_headers(RunRef(id.thread, id.run))
    try:
        if waits:
            await _over(service, caller, encoder)
        found = await folded(service, id)
        if found.encoder.end is not None or not waits:
            return json_response(found.shown(), 200, headers)
    except StoreError:
        pass  # told below, as where the key was revoked
    return openai_error(503, CUT.format(id=id), code="interrupted", headers=headers | ONCE)


async def _over(service: RunService, caller: Caller, encoder: Encoder) -> None:
    """Wait until a response is over, or nobody here carries it on."""
    async with aclosing(_frames(service, caller, encoder)) as frames:
        async for _ in frames:
            pass


async def _ended(service: RunService, caller: Caller, id: ResponseId) -> None:
    """Wait until the whole run of a response is over."""
    batches = service.follow(caller.owner, id.thread, Cursor(id.run - 1))
    async with aclosing(sse.watched(batches, caller, sse.Until(id.run))) as watching:
        async for _ in watching:
            pass
