"""The native face for people: questions and their answers, what is said to a run, waiting messages, plans and forks.

What may be answered, and when, is the run service's business (`runs/people.py`, `queue.py`, `forks.py`).
"""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Query, Request, Response

from stepwell.errors import InputError, NotFound
from stepwell.events import Recorded
from stepwell.messages import Message, clean
from stepwell.runs import forks, people, queue
from stepwell.runs.catalog import Catalog
from stepwell.runs.outline import Outline, view
from stepwell.runs.respec import respec
from stepwell.runs.service import RunService
from stepwell.server.asking import Key, Number, ThreadId, json_response, once_of, run_headers
from stepwell.server.auth import Caller, caller_of
from stepwell.server.bodies import AnswerBody, EditBody, ForkBody, QueueChangeBody, ReasonBody, SteerBody
from stepwell.server.native_runs import address, answered
from stepwell.specs import RunSpec

# pyright: reportUnusedFunction=false

PAGE = 200
"""Most questions of one page."""


def people_routes(router: APIRouter, service: RunService, catalog: Catalog) -> None:
    """Add the routes by which people take part.

    Args:
        router: The native face's.
        service: Threads and runs.
        catalog: Models.
    """
    _question_routes(router, service, catalog)
    _plan_routes(router, service)
    _steering_routes(router, service)
    _queue_routes(router, service)
    _fork_routes(router, service, catalog)


def _question_routes(router: APIRouter, service: RunService, catalog: Catalog) -> None:
    @router.get("/questions", tags=["people"])
    async def list_all_questions(request: Request, limit: Annotated[int, Query(ge=1, le=PAGE)] = 50) -> Response:
        """List the open questions of all of your threads."""
        found = await people.pending(service, caller_of(request.scope).owner, limit)
        return json_response({"questions": found})

    @router.get("/threads/{thread}/questions", tags=["people"])
    async def list_questions(request: Request, thread: ThreadId) -> Response:
        """List the open questions of a thread, oldest first."""
        return json_response({"questions": await people.questions(service, caller_of(request.scope).owner, thread)})

    @router.post("/threads/{thread}/questions/{question}/answer", status_code=202, tags=["people"])
    async def answer_question(
        request: Request, thread: ThreadId, question: Number, body: AnswerBody, idempotency_key: Key = None
    ) -> Response:
        """Decide a question, once and for all."""
        caller = caller_of(request.scope)
        ref = await people.answer(
            service,
            caller.owner,
            thread,
            question,
            body.decision,
            text=body.text,
            arguments=_json_text(body.arguments, "arguments"),
            value=body.value,
            scope=body.scope,
            hash=body.hash,
            once=await once_of(request, idempotency_key),
            admit=_admitting(catalog, caller),
        )
        return json_response({**address(ref), "question": question, "decision": body.decision}, 202, run_headers(ref))


def _plan_routes(router: APIRouter, service: RunService) -> None:
    @router.get("/threads/{thread}/plan", tags=["people"])
    async def get_plan(request: Request, thread: ThreadId) -> Response:
        """Show the newest plan of a thread: the tree of its tasks, how far each is and what became of it."""
        events = await _events(service, caller_of(request.scope).owner, thread)
        outline = await asyncio.to_thread(Outline, events)
        if outline.plan is None:
            raise NotFound("The thread has no plan.", "plan")
        return json_response({"run": outline.run, "plan": view(outline.plan.root)})


def _steering_routes(router: APIRouter, service: RunService) -> None:
    @router.post("/threads/{thread}/runs/{run}/steer", status_code=202, tags=["people"])
    async def steer_run(
        request: Request, thread: ThreadId, run: Number, body: SteerBody, idempotency_key: Key = None
    ) -> Response:
        """Say something to a running agent; it meets that before its next model call."""
        message, owner = Message("user", body.content), caller_of(request.scope).owner
        once, (interrupt, path) = await once_of(request, idempotency_key), (body.interrupt, body.path)
        ref = await people.steer(service, owner, thread, run, message, interrupt=interrupt, path=path, once=once)
        return json_response(address(ref), 202)

    @router.post("/threads/{thread}/runs/{run}/pause", status_code=202, tags=["people"])
    async def pause_run(
        request: Request, thread: ThreadId, run: Number, body: Annotated[ReasonBody | None, Body()] = None
    ) -> Response:
        """Have a run halt before its next model call or tool."""
        await people.pause(service, caller_of(request.scope).owner, thread, run, body.reason if body else "")
        return json_response({"thread": thread, "run": run}, 202)

    @router.post("/threads/{thread}/runs/{run}/resume", status_code=202, tags=["people"])
    async def resume_run(request: Request, thread: ThreadId, run: Number) -> Response:
        """Have a halted run go on."""
        await people.go_on(service, caller_of(request.scope).owner, thread, run)
        return json_response({"thread": thread, "run": run}, 202)


def _queue_routes(router: APIRouter, service: RunService) -> None:
    @router.get("/threads/{thread}/queue", tags=["people"])
    async def list_queue(request: Request, thread: ThreadId) -> Response:
        """List the messages that wait for the open run to end, in order."""
        return await queued(caller_of(request.scope).owner, thread)

    @router.patch("/threads/{thread}/queue/{item}", tags=["people"])
    async def change_queued(request: Request, thread: ThreadId, item: Number, body: QueueChangeBody) -> Response:
        """Change what a waiting message says, or its place."""
        owner, given = caller_of(request.scope).owner, body.model_fields_set
        if "content" in given:
            before = body.before if "before" in given else None
            await queue.edit_queued(service, owner, thread, item, body.content, before)
        else:
            await queue.move_queued(service, owner, thread, item, body.before)
        return await queued(owner, thread)

    @router.delete("/threads/{thread}/queue/{item}", tags=["people"])
    async def remove_queued(request: Request, thread: ThreadId, item: Number) -> Response:
        """Take a waiting message out."""
        owner = caller_of(request.scope).owner
        await queue.remove_queued(service, owner, thread, item)
        return await queued(owner, thread)

    async def queued(owner: str, thread: str) -> Response:
        found = await queue.queue(service, owner, thread)
        items = [{"item": each.seq, "message": each.message, "model": each.spec.model} for each in found]
        return json_response({"queue": items})


def _fork_routes(router: APIRouter, service: RunService, catalog: Catalog) -> None:
    @router.post("/threads/{thread}/fork", status_code=202, tags=["people"])
    async def fork_thread(request: Request, thread: ThreadId, body: ForkBody, idempotency_key: Key = None) -> Response:
        """Begin a new thread with the events of this one up to a number, perhaps with one changed; it goes on."""
        caller = caller_of(request.scope)
        once, admit = await once_of(request, idempotency_key), _admitting(catalog, caller)
        spec: RunSpec | None = None
        if body.model:
            spec = respec(await _events(service, caller.owner, thread), body.at, body.model, catalog)
        edit = _edit(body.edit) if body.edit else None
        at, title = body.at, body.title
        ref = await forks.fork(
            service, caller.owner, thread, at, edit=edit, spec=spec, title=title, once=once, admit=admit
        )
        return answered(service, caller, request, ref)

    @router.post("/threads/{thread}/regenerate", status_code=202, tags=["people"])
    async def regenerate(request: Request, thread: ThreadId, idempotency_key: Key = None) -> Response:
        """Have the newest answer written again, in a fork."""
        caller = caller_of(request.scope)
        once, admit = await once_of(request, idempotency_key), _admitting(catalog, caller)
        ref = await forks.regenerate(service, caller.owner, thread, once=once, admit=admit)
        return answered(service, caller, request, ref)

    @router.get("/threads/{thread}/diff/{other}", tags=["people"])
    async def diff_threads(request: Request, thread: ThreadId, other: ThreadId) -> Response:
        """Show where two threads part and what each has then."""
        return json_response(await forks.diff(service, caller_of(request.scope).owner, thread, other))


def _admitting(catalog: Catalog, caller: Caller) -> people.Admit:
    """Return what puts a run on the account of the caller's key, or refuses it where that is used up."""

    async def admit(spec: RunSpec) -> RunSpec:
        spec = msgspec.structs.replace(spec, key=caller.key)
        await catalog.admit(spec)
        return spec

    return admit


async def _events(service: RunService, owner: str, thread: str) -> list[Recorded]:
    await service.info(owner, thread)
    return await service.store.read(thread)


def _json_text(value: dict[str, Any] | str | None, field: str) -> str:
    """Return JSON text as it is, and an object as JSON text."""
    if value is None or isinstance(value, str):
        return value or ""
    text = json.dumps(value, ensure_ascii=False)
    if clean(text) != text:
        raise InputError("A text in it holds half a surrogate pair; remove it.", field)
    return text


def _edit(body: EditBody) -> forks.Edit:
    return forks.Edit(
        content=body.content,
        call=body.call,
        arguments=None if body.arguments is None else _json_text(body.arguments, "edit.arguments"),
        result=body.result,
    )
