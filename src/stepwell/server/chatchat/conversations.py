"""Which thread a conversation of the old service is, what it holds, and how a request goes on in it.

A conversation id is any text. It names a thread by its id, the thread that an imported conversation became, or else a
thread whose id follows from the owner and the text, so that nobody meets another's. What the model is shown of it is as
the request says, whatever else the thread holds: the log tells by `history_cleared` and the messages after it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from fastapi import Request

from stepwell.errors import NotFound
from stepwell.events import (
    HistoryCleared,
    MessageAdded,
    MessageEnded,
    MessageQueued,
    QueueEdited,
    Recorded,
    RunEnded,
    RunStarted,
    Stored,
)
from stepwell.messages import Message
from stepwell.runs import imports
from stepwell.runs.channel import Cursor, Item
from stepwell.runs.log import ThreadLog
from stepwell.runs.requests import NewThread, Once, RunRef
from stepwell.runs.service import RunService
from stepwell.runs.threads import PAGE
from stepwell.server import sse
from stepwell.server.auth import Caller
from stepwell.specs import RunSpec

ROUTE = "chatchat message"
"""Scope of the keys under which answers are known by their `message_id`."""
_THREAD = re.compile("[0-9a-f]{32}")


async def once_of(request: Request, key: str | None) -> Once:
    """Return what makes a request happen once; its key is the `message_id` of the answer, 32 hexadecimal digits.

    Args:
        request: The request.
        key: The client's idempotency key, if it sent one: the same key gives the same `message_id`.
    """
    said = f"{request.url.path}\0{key}".encode()
    id = hashlib.sha256(said).hexdigest()[:32] if key else secrets.token_hex(16)
    return Once(ROUTE, id, hashlib.sha256(await request.body()).hexdigest())


async def thread_of(service: RunService, owner: str, conversation: str) -> str:
    """Return the id of the thread that a conversation is; empty where it has none yet."""
    named = conversation if _THREAD.fullmatch(conversation) else ""
    imported = await imports.thread_of(service.store, owner, "chatchat", conversation)
    for id in filter(None, (named, imported, derived(owner, conversation))):
        try:
            return (await service.info(owner, id)).id
        except NotFound:
            continue
    return ""


def derived(owner: str, conversation: str) -> str:
    """Return the id of the thread that a conversation becomes."""
    return hashlib.sha256(f"chatchat\0{owner}\0{conversation}".encode()).hexdigest()[:32]


async def start(
    service: RunService,
    owner: str,
    conversation: str,
    message: Message,
    spec: RunSpec,
    *,
    history: Sequence[Message] | None,
    once: Once,
) -> RunRef:
    """Say something in a conversation; it waits where a run is open.

    Args:
        service: Threads and runs.
        owner: Who says it.
        conversation: Its id; not empty.
        message: What is said.
        spec: How the run goes.
        history: What the model is shown before it; None for all that the thread shows.
        once: Makes the request happen once.
    """
    thread = await thread_of(service, owner, conversation)
    if not thread:
        new = NewThread(history=history or (), id=derived(owner, conversation))
        return await service.start(owner, message, spec, new=new, once=once, policy="queue")

    async def enter() -> RunRef:
        async with service.using(owner, thread) as log:
            if log.state.run is not None and log.state.run.seq != log.carried:
                await log.refresh()  # another process carries it out, and may have ended it
            going_on = _GoingOn(log, message, spec, history)
            return going_on.ref(await service.decide(log, going_on.decide, once=once, number=going_on.number))

    return await service.do_once(owner, once, enter)


class _GoingOn:
    """A message on its way into the log of a conversation."""

    def __init__(self, log: ThreadLog, message: Message, spec: RunSpec, history: Sequence[Message] | None) -> None:
        self._log, self._message, self._spec, self._history = log, message, spec, history
        self._before, self._queued = 0, False

    def decide(self) -> list[tuple[str, Stored]]:
        """Return what is appended to the log as it is now."""
        state, history = self._log.state, self._history
        self._queued = state.run is not None or bool(state.queue)
        if self._queued:
            return [("", MessageQueued(self._message, self._spec))]
        anew: list[Stored] = []
        if history is not None and [(each.role, each.content) for each in history] != _shown(self._log):
            anew = [HistoryCleared(), *(MessageAdded(each, "history") for each in history)]
        self._before = len(anew)
        return [("", event) for event in (*anew, RunStarted(self._spec), MessageAdded(self._message))]

    def number(self, first: int) -> int:
        """Return the number of the run, or of the message that waits."""
        return first if self._queued else first + self._before

    def ref(self, first: int) -> RunRef:
        """Return the address of what came of it, whose first event has this number."""
        number = self.number(first)
        return RunRef(self._log.thread, 0, queued=number) if self._queued else RunRef(self._log.thread, number)


def _shown(log: ThreadLog) -> list[tuple[str, str]]:
    """Return what was said of what the model is shown, without calls and their results."""
    return [
        (message.role, message.content)
        for message, _ in log.state.history.entries()
        if message.role in ("user", "assistant") and message.content and not message.calls
    ]


async def rounds(service: RunService, owner: str, thread: str, most: int) -> list[Message]:
    """Return the newest questions of a thread that have an answer, each with it, oldest first.

    Args:
        service: Threads and runs.
        owner: Who asks.
        thread: Which thread; empty for none.
        most: How many questions.
    """
    found, after = _Rounds(), 0
    while thread and most > 0:
        events = await service.events(owner, thread, after=after, limit=PAGE)
        for each in events:
            if not each.path:
                found.take(each)
        if len(events) < PAGE:
            break
        after = events[-1].seq
    return [message for pair in found.pairs[-most:] for message in pair] if most > 0 else []


class _Rounds:
    """Questions and answers of a thread; what a client brought along again is none of its own."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Message, Message]] = []
        self._question: Message | None = None
        self._answer = ""
        self._brought = False

    def take(self, recorded: Recorded) -> None:
        """Look at the next event of the thread's own agent."""
        match recorded.event:
            case HistoryCleared():
                self._brought = True
            case RunStarted():
                self._brought, self._question, self._answer = False, None, ""
            case MessageAdded(source="history", message=message) if not self._brought:
                self._said_before(message)
            case MessageAdded(source="user", message=message):
                self._question = self._question or message
            case MessageAdded(source="engine", message=message) if message.role == "assistant":
                self._answer = message.content
            case MessageEnded(message=message, stop=stop) if stop != "error":
                self._answer = message.content
            case RunEnded(reason="answer"):
                self._add(self._answer)
            case _:
                pass

    def _said_before(self, message: Message) -> None:
        if message.role == "user":
            self._question = message
        elif message.role == "assistant" and message.content and not message.calls:
            self._add(message.content)

    def _add(self, answer: str) -> None:
        if self._question is not None and answer:
            self.pairs.append((Message("user", self._question.content), Message("assistant", answer)))
        self._question = None


async def follow(service: RunService, caller: Caller, ref: RunRef) -> AsyncGenerator[list[Item]]:
    """Yield what happens in a run, or in the one that takes a waiting message up; an empty batch for a heartbeat."""
    run = ref.run
    batches = service.follow(caller.owner, ref.thread, Cursor((ref.queued or run) - 1))
    watching = sse.watched(batches, caller, sse.Until(run))
    async with aclosing(watching):
        async for items in watching:
            kept: list[Item] = []
            for item in items:
                event = item.event
                if isinstance(event, RunStarted) and not run and event.queued == ref.queued:
                    run = item.run
                if run and item.run == run:
                    kept.append(item)
                if isinstance(event, QueueEdited) and event.item == ref.queued and event.removed:
                    return
            if kept or not items:
                yield kept
            if kept and kept[-1].ends_run:
                return
