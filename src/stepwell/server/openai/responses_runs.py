"""What a request for a response begins or goes on with: a new run, one in place, one in a fork, or a run that waits.

How a response is told is not its business.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from stepwell.errors import Busy, Decided, InputError, NotFound
from stepwell.events import RunStarted
from stepwell.messages import Message, clean
from stepwell.runs import forks
from stepwell.runs.answers import Reply, answer_all
from stepwell.runs.catalog import Catalog
from stepwell.runs.locks import Lock, held
from stepwell.runs.log import ThreadLog, now_ms
from stepwell.runs.requests import NewThread, Once
from stepwell.runs.service import RunService
from stepwell.server.openai.responses_answers import joined, no_call, replies, told
from stepwell.server.openai.responses_input import ResponseBody, Said
from stepwell.server.openai.responses_items import ResponseId
from stepwell.server.openai.responses_store import UNKEPT, Kept, folded, kept
from stepwell.specs import RunSpec
from stepwell.store.base import ThreadInfo

DAY = 24 * 3600 * 1000
"""Milliseconds of a day."""


class Asking(NamedTuple):
    """A request that was read.

    Args:
        owner: Who asks.
        body: What was sent.
        said: Its input.
        spec: How a new run would go.
        once: Makes the request happen once.
    """

    owner: str
    body: ResponseBody
    said: Said
    spec: RunSpec
    once: Once | None


class Beginner:
    """Begins responses.

    Args:
        service: The threads.
        catalog: Says who may have runs.
        keep_days: Days for which a new thread is kept.
    """

    def __init__(self, service: RunService, catalog: Catalog, keep_days: int) -> None:
        self._service, self._catalog, self._keep = service, catalog, keep_days * DAY
        self._locks: dict[str, Lock] = {}

    async def begin(self, asking: Asking) -> ResponseId:
        """Do what a request asks for; what it comes to is durable on return.

        Raises:
            NotFound: There is no such response or thread.
            Busy: What it goes on from is not over.
            Decided: What it waited for was answered.
            InputError: The input does not fit what is there.
        """
        body, said = asking.body, asking.said
        if (used := await self._used(asking)) is not None:
            return used
        if body.previous_response_id:
            return await self._after(asking, await self._found(asking.owner, body.previous_response_id))
        if body.conversation:
            return await self._within(asking, _thread_of(body.conversation))
        if thread := await self._waiting(asking.owner, said):
            return await self._answer(asking, thread, 0, whole=True)
        return await self._new(asking)

    async def _used(self, asking: Asking) -> ResponseId | None:
        """Return what came of the same request before."""
        once = asking.once
        if once is None or not await self._service.came_before(asking.owner, once):
            return None
        use = await self._service.store.key_use(asking.owner, once.route, once.key)
        return await self._named(use.thread, use.run) if use is not None else None

    async def _found(self, owner: str, id: str) -> Kept:
        try:
            return await kept(self._service, owner, id)
        except NotFound as error:
            said = f"Previous response with id {id[:100]!r} not found."
            raise NotFound(said, "previous_response_id") from error

    async def _after(self, asking: Asking, before: Kept) -> ResponseId:
        """Go on from a response: answer what it waits for, or begin a run in its thread or in a fork."""
        encoder, id = before.encoder, before.id
        _check_kept(asking, before.info, "previous_response_id")
        if encoder.end is None:
            raise Busy(f"Previous response with id {id} is not completed yet.", "previous_response_id")
        if before.next is not None:
            said = f"What it waited for was answered; go on from {before.newest}."
            raise Decided(said, "previous_response_id")
        if encoder.waits:
            return await self._answer(asking, id.thread, id.run, whole=False)
        message = _next(asking.said)
        await self._catalog.admit(asking.spec)
        async with held(self._locks, id.thread):
            if (used := await self._used(asking)) is not None:  # the same request, come several times at once
                return used
            if not await self._is_last(asking.owner, id):
                return await self._fork(asking, message, id)
            try:
                return await self._start(asking, message, thread=id.thread)
            except Busy:  # another face began a run just now
                return await self._fork(asking, message, id)

    async def _is_last(self, owner: str, id: ResponseId) -> bool:
        async with self._service.using(owner, id.thread) as log:
            state = log.state
            return state.run is None and not state.queue and state.last is not None and state.last[0].seq == id.run

    async def _fork(self, asking: Asking, message: Message, id: ResponseId) -> ResponseId:
        after = await self._service.store.read(id.thread, after=id.run - 1)
        at = next(each.seq for each in after if each.run == id.run and each.ends_run)
        copy = await forks.fork(self._service, asking.owner, id.thread, at)
        return await self._start(asking, message, thread=copy.thread)

    async def _within(self, asking: Asking, thread: str) -> ResponseId:
        """Begin a run in a thread that the client names, or answer what it waits for."""
        try:
            info = await self._service.info(asking.owner, thread)
        except NotFound as error:
            raise NotFound(f"Conversation with id {thread[:100]!r} not found.", "conversation") from error
        _check_kept(asking, info, "conversation")
        if asking.said.answers:
            return await self._answer(asking, thread, 0, whole=False)
        message = _next(asking.said)
        await self._catalog.admit(asking.spec)
        return await self._start(asking, message, thread=thread)

    async def _new(self, asking: Asking) -> ResponseId:
        """Begin a thread with what was said."""
        for each in asking.said.answers:
            if not asking.said.may_be_past(each):
                raise no_call(each)
        if not asking.said.messages:
            raise InputError("Say something: the input has system messages only.", "input")
        await self._catalog.admit(asking.spec)
        history, message = asking.said.messages, None
        if history[-1].role == "user":
            history, message = history[:-1], history[-1]
        expires = UNKEPT if asking.body.store is False else now_ms() + self._keep
        return await self._start(asking, message, new=NewThread(history=history, expires=expires))

    async def _start(
        self, asking: Asking, message: Message | None, *, thread: str = "", new: NewThread | None = None
    ) -> ResponseId:
        ref = await self._service.start(
            asking.owner, message, asking.spec, thread=thread, new=new, once=asking.once, policy="reject"
        )
        return await self._named(ref.thread, ref.run)

    async def _named(self, thread: str, seq: int) -> ResponseId:
        """Return the response that begins with an event, or goes on with it: an answer may come while tools run."""
        (event,) = await self._service.store.read(thread, after=seq - 1, limit=1)
        first = ResponseId(thread, event.run)
        if isinstance(event.event, RunStarted):
            return first
        starts = (await folded(self._service, first)).encoder.starts
        return first._replace(answered=max((each for each in starts if each <= seq), default=0))

    # answers

    async def _waiting(self, owner: str, said: Said) -> str:
        """Return the thread whose questions an input answers that names no response; empty for none."""
        if not said.answers:
            return ""
        thread = said.answers[-1].thread  # what is answered now stands last; what was before is history
        waiting = await self._open(owner, thread)
        fits = [each.thread == thread and each.question in waiting for each in said.answers]
        for each, waits in zip(said.answers, fits, strict=True):
            if each.approve is not None and not waits and not said.may_be_past(each):
                raise no_call(each)
        return thread if any(fits) else ""

    async def _open(self, owner: str, thread: str) -> frozenset[int]:
        """Return the numbers of a thread's open questions; none where it is not there."""
        try:
            async with self._service.using(owner, thread) as log:
                return frozenset(log.state.questions)
        except NotFound:  # what answers them is history, or refused as such
            return frozenset()

    async def _answer(self, asking: Asking, thread: str, run: int, *, whole: bool) -> ResponseId:
        """Answer what a run waits for, all of it at once, so that it goes on as one response."""
        service, said = self._service, asking.said

        def choose(log: ThreadLog) -> list[Reply]:
            return replies(log, said, run, whole=whole)

        message = told(said, whole=whole)
        ref = await answer_all(service, asking.owner, thread, choose, said=message, once=asking.once)
        return await self._named(thread, ref.run)


def _check_kept(asking: Asking, info: ThreadInfo, named: str) -> None:
    """Refuse to add what is not to be stored to a thread that is."""
    if asking.body.store is False and info.expires != UNKEPT:
        said = f"It goes on in a thread that is stored; leave out `store`, or send the conversation without `{named}`."
        raise InputError(said, "store")


def _next(said: Said) -> Message:
    """Return what the user says in a conversation that is known here."""
    for each in said.answers:
        raise no_call(each)
    return joined(said.messages)


def _thread_of(conversation: str | dict[str, Any]) -> str:
    id = conversation if isinstance(conversation, str) else conversation.get("id")
    return clean(str(id)).removeprefix("conv_")
