"""`POST /chat/feedback`: what people think of an answer, kept in its thread's log."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from stepwell.errors import NotFound
from stepwell.events import Feedback, MessageAdded, MessageEnded, RunEnded, RunStarted
from stepwell.runs.service import RunService
from stepwell.runs.threads import PAGE
from stepwell.server.auth import caller_of
from stepwell.server.chatchat.bodies import OldFeedbackBody
from stepwell.server.chatchat.conversations import ROUTE
from stepwell.server.chatchat.envelope import envelope


def feedback_route(router: APIRouter, service: RunService) -> None:
    """Add the route.

    Args:
        router: Of the old routes.
        service: Threads and runs.
    """

    @router.post("/chat/feedback", tags=["chatchat"])
    async def feedback(request: Request, body: OldFeedbackBody) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Say what you think of an answer; of several times the last counts."""
        owner = caller_of(request.scope).owner
        try:
            thread, message = await _answer(service, owner, body.message_id)
            async with service.using(owner, thread) as log:
                await service.tell(log, Feedback(message, body.score, body.reason))
        except NotFound as error:
            return envelope(None, 404, str(error))
        return envelope(None, 200, f"已反馈聊天记录 {body.message_id}")


async def _answer(service: RunService, owner: str, id: str) -> tuple[str, int]:
    """Return the thread of an answer, and the number of the event that brought it.

    Raises:
        NotFound: There is no answer of this id.
    """
    used = await service.store.key_use(owner, ROUTE, id)
    if used is None:
        raise NotFound(f"There is no answer with the message_id {id!r}.", "message_id")
    run = found = 0
    after = used.run - 1
    while events := await service.events(owner, used.thread, after=after, limit=PAGE):
        for each in events:
            match each.event:
                case RunStarted(queued=queued) if used.run in (each.seq, queued):
                    run = each.seq
                case MessageEnded(stop=stop) if each.run == run and not each.path and stop != "error":
                    found = each.seq
                case MessageAdded(source="engine") if each.run == run and not each.path:
                    found = each.seq
                case RunEnded() if each.run == run and found:
                    return used.thread, found
                case _:
                    pass
        after = events[-1].seq
    raise NotFound(f"The message_id {id!r} has no answer yet, or got none.", "message_id")
