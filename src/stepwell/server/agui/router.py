"""The routes of AG-UI: a run as its events, and a thread taken up again by our cursor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response

from stepwell.config import Config
from stepwell.errors import NotFound
from stepwell.events import Recorded, RunStarted
from stepwell.runs.catalog import Catalog
from stepwell.runs.channel import Cursor
from stepwell.runs.requests import RunRef
from stepwell.runs.service import RunService
from stepwell.server import sse
from stepwell.server.agui.bodies import RunInputBody
from stepwell.server.agui.encoder import Asking
from stepwell.server.agui.entering import Entering, thread_of
from stepwell.server.agui.inputs import news_of, own_state
from stepwell.server.agui.parts import text_of
from stepwell.server.agui.segments import Conversation, Following, Segment, segment_of
from stepwell.server.agui.wire import Place, check_sendable, is_mine, parse_place
from stepwell.server.asking import JsonRoute, run_headers
from stepwell.server.auth import Caller, caller_of

# pyright: reportUnusedFunction=false

LastEvent = Annotated[
    str | None, Header(alias="Last-Event-ID", max_length=4000, description="The `id` of the last event that came.")
]
AgentName = Annotated[str, Path(max_length=200, description="Name of an agent of the settings, or `default`.")]

ThreadName = Annotated[str, Path(max_length=1000, description="The client's id of the thread, or ours.")]
After = Annotated[str, Query(max_length=4000, description="The `id` of the last event that came.")]
RunName = Annotated[str, Query(alias="runId", max_length=1000, description="What `runId` of the events is to be.")]


def agui_router(config: Config, service: RunService, catalog: Catalog) -> APIRouter:
    """Return the routes under `/agui`."""
    router = APIRouter(prefix="/agui", route_class=JsonRoute, strict_content_type=False, tags=["agui"])
    max_pixels = config.multimodal.image.max_pixels

    @router.post("")
    async def run_default(request: Request, body: RunInputBody, last_event_id: LastEvent = None) -> Response:
        """Run the default agent, or go on with a run, as AG-UI's events."""
        caller = caller_of(request.scope)
        return await _run(service, Entering(service, catalog, caller, body, "", max_pixels), caller, last_event_id)

    @router.post("/{agent}")
    async def run_agent(
        request: Request, agent: AgentName, body: RunInputBody, last_event_id: LastEvent = None
    ) -> Response:
        """Run an agent, or go on with a run, as AG-UI's events."""
        caller = caller_of(request.scope)
        return await _run(service, Entering(service, catalog, caller, body, agent, max_pixels), caller, last_event_id)

    @router.get("/threads/{thread}/events")
    async def follow_thread(
        request: Request, thread: ThreadName, after: After = "", run_id: RunName = "", last_event_id: LastEvent = None
    ) -> Response:
        """Follow what goes on in a thread, or went on last, as AG-UI's events."""
        caller = caller_of(request.scope)
        id, exists = await thread_of(service, caller.owner, thread)
        events = await service.events(caller.owner, id, limit=2**31) if exists else []
        place = _place(after, "after") or _place(last_event_id, "Last-Event-ID")
        segment = _segment(id, events, place)
        asking = Asking(thread, run_id or str(segment.run), {})
        return _stream(service, caller, asking, segment, Conversation([], [], known=place is None), place, [])

    return router


async def _run(service: RunService, entering: Entering, caller: Caller, last_event_id: str | None) -> Response:
    body, place = entering.body, _place(last_event_id, "Last-Event-ID")
    state = own_state(body)
    check_sendable([each.content for each in body.messages], "messages")
    segment, told = await entering.enter()
    news = news_of(body.messages, segment.after) if segment.run else entering.news
    results = frozenset(each.toolCallId for each in body.messages if each.role == "tool" and not is_mine(each.id))
    said = "\n\n".join(text for _, each in news.user if (text := text_of(each.content)))
    asking = Asking(body.threadId, body.runId, state, said, results)
    new = [each.model_dump(exclude_none=True, exclude_defaults=True) for each in news.fresh]
    return _stream(service, caller, asking, segment, Conversation(news.older, new), place, told)


def _place(text: str | None, field: str) -> Place | None:
    return parse_place(text, field) if text else None


def _segment(thread: str, events: Sequence[Recorded], place: Place | None) -> Segment:
    """Return the segment that a place is in, or the newest one."""
    runs = [each.seq for each in events if isinstance(each.event, RunStarted)]
    if not runs:
        raise NotFound("There is no such thread, or nothing ran in it yet.", "thread")
    if place is None:
        return segment_of(thread, events, runs[-1])
    beyond = place.part or place.opening or place.cursor.offset
    anchor = place.cursor.seq + 1 if beyond else place.cursor.seq
    run = max((seq for seq in runs if seq <= anchor), default=runs[0])
    return segment_of(thread, events, run, max(anchor, 1))


def _stream(
    service: RunService,
    caller: Caller,
    asking: Asking,
    segment: Segment,
    conversation: Conversation,
    place: Place | None,
    told: list[bytes],
) -> Response:
    if place is not None and (place.cursor.seq < segment.after or place == Place(Cursor(segment.after))):
        place = None  # of another run, perhaps its very end: this one is sent whole
    following = Following(service, caller, asking, conversation, place, told)
    return sse.response(following.frames(segment), run_headers(RunRef(segment.thread, segment.run)))
