"""What becomes of a request: it begins a run, answers one that waits, tells one something, or only follows it.

The server's own history is the truth. Of the conversation that a client sends with every request only what is new at
its end is taken, but for a thread that is new here, whose history it becomes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from stepwell.errors import InputError, NotFound
from stepwell.events import (
    Answered,
    Asked,
    MessageAdded,
    MessageEnded,
    Recorded,
    RunStarted,
    Steered,
)
from stepwell.messages import Message
from stepwell.runs.answers import answer_all
from stepwell.runs.catalog import Catalog
from stepwell.runs.log import ThreadLog
from stepwell.runs.requests import NewThread, Once, RunRef
from stepwell.runs.service import RunService
from stepwell.server.agui.answers import Answering, unanswered
from stepwell.server.agui.bodies import InputMessageBody, RunInputBody
from stepwell.server.agui.inputs import News, earlier, message_of, news_of, policy_of, spec_of, unheard
from stepwell.server.agui.segments import Segment, segment_of
from stepwell.server.agui.wire import custom, encode
from stepwell.server.auth import Caller
from stepwell.specs import RunSpec
from stepwell.state.thread import State

_NOTHING = "There is nothing to do; send a message of the user after the last reply, or responses as `resume`."


class Entered(NamedTuple):
    """What a request came to.

    Args:
        segment: What its client follows.
        told: Events that tell it of interrupts that were decided before.
    """

    segment: Segment
    told: list[bytes]


async def thread_of(service: RunService, owner: str, id: str) -> tuple[str, bool]:
    """Return our id of a client's thread, and whether there is that thread.

    One that is the id of a thread of the owner is that thread, whatever face began it; any other stands for a thread
    of this face.
    """
    named = len(id) == 32 and set(id) <= set("0123456789abcdef")
    derived = hashlib.sha256("\0".join((owner, "agui", id)).encode()).hexdigest()[:32]
    for candidate in (id, derived) if named else (derived,):
        try:
            await service.info(owner, candidate)
        except NotFound:
            continue
        return candidate, True
    return derived, False


class Entering:
    """One request.

    Args:
        service: Threads and runs.
        catalog: Models, tools and agents.
        caller: Who asks.
        body: What they ask.
        agent: Name of the agent; empty for the default one.
        max_pixels: Of an image.

    Attributes:
        body: What is asked.
        news: What is new in it.
    """

    def __init__(
        self,
        service: RunService,
        catalog: Catalog,
        caller: Caller,
        body: RunInputBody,
        agent: str,
        max_pixels: int,
    ) -> None:
        self._service, self._catalog, self._caller = service, catalog, caller
        self._owner, self.body, self._agent, self._max_pixels = caller.owner, body, agent, max_pixels
        self.news: News = news_of(body.messages)
        key = hashlib.sha256("\0".join((body.threadId, body.runId)).encode()).hexdigest()
        self._once = Once("agui", key, "")

    async def enter(self) -> Entered:
        """Do what the request asks for; the same request again does nothing and leads to the same.

        Raises:
            InputError: Something of it cannot be done; names the field.
        """
        known = [each.name for each in self._catalog.agents()]
        if self._agent and self._agent not in known:
            raise NotFound(f"There is no agent {self._agent[:80]!r}; known: {', '.join(known)}.", "agent")
        thread, exists = await thread_of(self._service, self._owner, self.body.threadId)
        if await self._service.came_before(self._owner, self._once):
            return Entered(await self._located(await self._service.do_once(self._owner, self._once, _never)), [])
        if not exists:
            return await self._begin(thread)
        return await self._go_on(thread)

    async def _begin(self, thread: str) -> Entered:
        """Begin a thread with the client's conversation."""
        if self.body.resume:
            named = ", ".join(each.interruptId for each in self.body.resume)
            raise InputError(f"The thread is new and has no interrupts {named[:200]}.", "resume")
        message, past = message_of(self.news.user, self._max_pixels), earlier(self.body, self.news)
        if message is None and not (past and past[-1].role == "tool"):
            raise InputError(_NOTHING, "messages")
        spec = await self._spec(message)
        new = NewThread(history=past, id=thread)
        ref = await self._service.start(self._owner, message, spec, new=new, once=self._once)
        return Entered(await self._located(ref), [])

    async def _go_on(self, thread: str) -> Entered:
        events = await self._service.events(self._owner, thread, limit=2**31)
        async with self._service.using(self._owner, thread) as log:
            user = self._user(events, log.state)
            message = message_of(user, self._max_pixels)
            self._check(log.state, events, message)
            entered = await self._answer(log, events, message)
        if entered is not None:
            return entered
        if message is None:
            return self._attached(thread, events)
        spec = await self._spec(message)
        policy = policy_of(self.body)
        ref = await self._service.start(self._owner, message, spec, thread=thread, once=self._once, policy=policy)
        return Entered(await self._located(ref), decided(events, self.body))

    def _user(self, events: Sequence[Recorded], state: State) -> list[tuple[int, InputMessageBody]]:
        """Return what the user says now; what a failed run left unanswered is said again if there is nothing else."""
        user = unheard(self.news.user, _since_reply(events))
        again = not user and state.run is None and not (self.body.resume or self.news.given)
        return self.news.user[-1:] if again else user

    def _check(self, state: State, events: Sequence[Recorded], message: Message | None) -> None:
        """Refuse what comes in place of responses, and results of calls that were never made."""
        calls = {
            call.id for each in events if isinstance(each.event, MessageEnded) for call in each.event.message.calls
        }
        for each in self.news.given:
            if each.call not in calls:
                raise InputError(f"There is no call {each.call[:80]!r} in this thread.", "messages")
        pending = {each.event.call for each in state.questions.values()}
        new = message is not None or any(each.call in pending for each in self.news.given)
        if new and not self.body.resume and _waits(state) and (missing := unanswered(state.questions)):
            raise InputError(missing, "resume")

    async def _answer(self, log: ThreadLog, events: Sequence[Recorded], message: Message | None) -> Entered | None:
        """Answer what is open; return None where nothing of the request does that."""
        body, thread = self.body, log.thread
        asked = frozenset(each.seq for each in events if isinstance(each.event, Asked))
        goes_on = message is not None and _waits(log.state)
        if not (body.resume or self.news.given or (goes_on and log.state.questions)):
            return None
        answering = Answering(self._service.now, body.resume or (), self.news.given, asked, goes_on=goes_on)
        choose, once, admit = answering.replies, self._once, self._admit
        ref = await answer_all(self._service, self._owner, thread, choose, said=message, once=once, admit=admit)
        if ref.run or ref.queued:
            return Entered(await self._located(ref), decided(events, body))
        if message is not None:
            return None
        events = await self._service.events(self._owner, thread, limit=2**31)  # another request was quicker
        return self._attached(thread, events, decided(events, body))

    def _attached(self, thread: str, events: Sequence[Recorded], told: list[bytes] | None = None) -> Entered:
        """Return what goes on in a thread, or went on last; or after what the request answers, if it was decided."""
        runs = [each.seq for each in events if isinstance(each.event, RunStarted)]
        if not runs:
            raise InputError(_NOTHING, "messages")
        ids = {each.interruptId for each in self.body.resume or ()}
        answers = [each for each in events if isinstance(each.event, Answered) and str(each.event.question) in ids]
        if answers and answers[-1].run:
            return Entered(segment_of(thread, events, answers[-1].run, answers[-1].seq), told or [])
        return Entered(segment_of(thread, events, runs[-1]), told or [])

    async def _located(self, ref: RunRef) -> Segment:
        """Return the segment that a request led to."""
        if ref.queued:
            return Segment(ref.thread, 0, queued=ref.queued)
        store, anchor = self._service.store, ref.steered or ref.run
        found = await store.read(ref.thread, after=anchor - 1, limit=1)
        run = found[0].run if found else ref.run
        return segment_of(ref.thread, await store.read(ref.thread, after=run - 1), run, anchor)

    async def _spec(self, message: Message | None) -> RunSpec:
        text = message.content if message is not None else ""
        spec = spec_of(self._catalog, self.body, text, self._agent, self._caller.key)
        await self._catalog.admit(spec)
        return spec

    async def _admit(self, spec: RunSpec) -> RunSpec:
        spec = msgspec.structs.replace(spec, key=self._caller.key)
        await self._catalog.admit(spec)
        return spec


async def _never() -> RunRef:
    raise InputError("The request came before, and what it led to is gone.", "runId")


def _waits(state: State) -> bool:
    """Tell whether the open run of a thread waits for people."""
    run = state.run
    asks = any(each.event.kind == "elicitation" for each in state.questions.values())
    return run is not None and (run.waiting is not None or asks)


def _since_reply(events: Sequence[Recorded]) -> list[Message]:
    """Return what was said in a thread since its last reply."""
    found: list[Message] = []
    for each in events:
        match each.event:
            case MessageEnded(stop=stop) if not each.path and stop != "error":
                found.clear()
            case MessageAdded(message=message) if message.role != "user":
                found.clear()
            case MessageAdded(message=message) | Steered(message=message, source="user"):
                found.append(message)
            case _:
                pass
    return found


def decided(events: Sequence[Recorded], body: RunInputBody) -> list[bytes]:
    """Return events that tell which of the interrupts that a request answers were decided before, and how."""
    ids = {each.interruptId for each in body.resume or ()}
    found: list[bytes] = []
    for each in events:
        if isinstance(each.event, Answered) and str(each.event.question) in ids:
            value: dict[str, Any] = {"interruptId": str(each.event.question), "decision": each.event.decision}
            found.append(custom("decided", encode(value | {"text": each.event.text, "by": each.event.by})))
    return found
