"""The native face's messages and runs: what is said to the agent, and the run as a stream.

What people do to a run besides is in `native_people.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Request, Response

from stepwell.agent.replies import output_of
from stepwell.errors import ConfigError, InputError, StoreError
from stepwell.events import MessageQueued, QueueEdited, RunStarted
from stepwell.images import check
from stepwell.messages import Image, Message, ToolSpec
from stepwell.runs.catalog import Catalog, Wish
from stepwell.runs.channel import Cursor, Item
from stepwell.runs.requests import RunRef
from stepwell.runs.service import RunService
from stepwell.server import sse
from stepwell.server.asking import Key, Number, ThreadId, json_response, once_of, run_headers, wants_stream
from stepwell.server.auth import Caller, caller_of
from stepwell.server.bodies import LimitsBody, MessageBody, PlanBody, ReasonBody
from stepwell.server.sse import Until
from stepwell.specs import Limits, RunSpec, TaskOptions

LONGEST_FORM = 65_536
"""Bytes of the JSON schema of an answer."""


def run_routes(router: APIRouter, service: RunService, catalog: Catalog, max_pixels: int) -> None:
    """Add the routes of messages and runs.

    Args:
        router: The native face's.
        service: Threads and runs.
        catalog: Models and tools.
        max_pixels: Of an image that comes with a message.
    """

    @router.post("/messages", status_code=202, tags=["runs"])
    async def begin_thread(request: Request, body: MessageBody, idempotency_key: Key = None) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Say something to the agent in a new thread; answers as `POST /api/threads/{thread}/messages` does."""
        return await send(request, "", body, idempotency_key)

    @router.post("/threads/{thread}/messages", status_code=202, tags=["runs"])
    async def send_message(  # pyright: ignore[reportUnusedFunction]
        request: Request, thread: ThreadId, body: MessageBody, idempotency_key: Key = None
    ) -> Response:
        """Say something to the agent: 202 with the run, or with `Accept: text/event-stream` the run as a stream."""
        await service.info(caller_of(request.scope).owner, thread)
        return await send(request, thread, body, idempotency_key)

    async def send(request: Request, thread: str, body: MessageBody, idempotency_key: str | None) -> Response:
        caller = caller_of(request.scope)
        once = await once_of(request, idempotency_key)
        message, spec = _message(body, max_pixels), _spec(catalog, body, caller.key)
        if not await service.came_before(caller.owner, once):
            await catalog.admit(spec)
        policy = body.while_running or ""
        ref = await service.start(caller.owner, message, spec, thread=thread, once=once, policy=policy)
        return answered(service, caller, request, ref)

    @router.post("/threads/{thread}/runs/{run}/cancel", status_code=202, tags=["runs"])
    async def cancel_run(  # pyright: ignore[reportUnusedFunction]
        request: Request, thread: ThreadId, run: Number, body: Annotated[ReasonBody | None, Body()] = None
    ) -> Response:
        """Ask a run to stop; nothing happens when it is over."""
        await service.cancel(caller_of(request.scope).owner, thread, run, body.reason if body else "")
        return json_response({"thread": thread, "run": run}, 202)


def answered(service: RunService, caller: Caller, request: Request, ref: RunRef) -> Response:
    """Return the answer to a request that began, reached or waits for a run: its address, or what happens."""
    if not wants_stream(request) or not (ref.run or ref.queued):
        return json_response(address(ref), 202, run_headers(ref))
    if ref.queued:
        return sse.response(_told(_queued(service, caller, ref)), run_headers(ref))
    direct, first = sse.Direct(), ref.steered or ref.run
    frames = stream(service, caller, ref.thread, Cursor(first - 1), Until(ref.run), direct)
    return sse.response(frames, run_headers(ref), direct)


def address(ref: RunRef) -> dict[str, Any]:
    """Return a run's address as clients get it."""
    said: dict[str, Any] = {"thread": ref.thread, "run": ref.run or None, "repeated": ref.repeated}
    return said | {name: number for name in ("queued", "steered") if (number := getattr(ref, name))}


def stream(
    service: RunService, caller: Caller, thread: str, cursor: Cursor, until: Until, direct: sse.Direct
) -> AsyncGenerator[bytes]:
    """Return what lies beyond a cursor and what happens then, as frames."""
    if until.last and cursor.seq >= until.last:
        return _nothing()
    return _told(sse.watched(service.follow(caller.owner, thread, cursor, direct.take), caller, until))


async def _nothing() -> AsyncGenerator[bytes]:
    for frame in ():
        yield frame


async def _told(batches: AsyncGenerator[list[Item]]) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(batches):
            async for items in batches:
                yield b"".join(map(sse.frame, items)) if items else b": quiet\n\n"
    except (InputError, StoreError) as error:  # the headers are gone: the stream itself says why it ends
        yield sse.error_frame(msgspec.json.encode({"error": {"message": str(error), "field": ""}}))


async def _queued(service: RunService, caller: Caller, ref: RunRef) -> AsyncGenerator[list[Item]]:
    """Yield what happens to a waiting message, then the run that takes it up; an empty batch for each heartbeat."""
    run = 0
    batches = service.follow(caller.owner, ref.thread, Cursor(ref.queued - 1))
    watching = sse.watched(batches, caller, Until())
    async with aclosing(watching):
        async for items in watching:
            kept: list[Item] = []
            for item in items:
                run = run or _taken_up(item, ref.queued)
                if _concerns(item, ref.queued, run):
                    kept.append(item)
                if _is_over(item, ref.queued, run):
                    yield kept
                    return
            if kept or not items:
                yield kept


def _taken_up(item: Item, queued: int) -> int:
    return item.run if isinstance(item.event, RunStarted) and item.event.queued == queued else 0


def _concerns(item: Item, queued: int, run: int) -> bool:
    match item.event:
        case MessageQueued():
            return item.seq == queued
        case QueueEdited():
            return item.event.item == queued
        case _:
            return bool(run) and item.run == run


def _is_over(item: Item, queued: int, run: int) -> bool:
    if isinstance(item.event, QueueEdited):
        return item.event.item == queued and item.event.removed
    return bool(run) and item.run == run and item.ends_run


def _message(body: MessageBody, max_pixels: int) -> Message:
    if not body.content and not body.images:
        raise InputError("The message is empty; write something or add an image.", "content")
    images = tuple(Image(each.url, each.detail) for each in body.images)  # type: ignore[arg-type]
    for index, image in enumerate(images):
        check(image, max_pixels=max_pixels, field=f"images.{index}.url")
    return Message("user", body.content, images)


def _spec(catalog: Catalog, body: MessageBody, key: str) -> RunSpec:
    spec = catalog.spec(
        Wish(
            text=body.content,
            agent=body.agent,
            model=body.model,
            system=body.system,
            tools=body.tools,
            client_tools=tuple(ToolSpec(each.name, each.description, each.parameters) for each in body.client_tools),
            temperature=body.temperature,
            max_tokens=body.max_tokens,
            limits=_limits(body.limits),
            output=_output(body.output),
            engine=body.engine or "",
            people=body.people,
            key=key,
        )
    )
    _check_output(spec)
    return _planned(spec, body.plan) if body.plan else spec


def _planned(spec: RunSpec, body: PlanBody) -> RunSpec:
    """Return a spec with what a request says of plans in place of what the settings say."""
    if spec.engine == "chat":
        raise InputError("The engine `chat` has no tasks; name `react`, `plan` or `interaction` as `engine`.", "plan")
    given = body.model_dump(exclude_none=True)
    return msgspec.structs.replace(spec, tasks=msgspec.structs.replace(spec.tasks or TaskOptions(), **given))


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
    if name in (*spec.tools, *(tool.name for tool in spec.client_tools), "recall"):
        raise InputError(f"There is a tool named {name!r}; give the schema another `title`.", "output")


def _limits(body: LimitsBody | None) -> Limits | None:
    return Limits(body.steps, body.tool_calls, body.tokens, body.seconds, body.money) if body else None
