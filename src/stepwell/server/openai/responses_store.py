"""Responses as the log has them: the log is their only store, and this reads it.

Nothing is written here but the removal of a thread.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple

from stepwell.errors import Busy, InputError, NotFound
from stepwell.events import Answered, Asked, Forked, MessageAdded, Recorded, RunStarted, Steered
from stepwell.messages import Message
from stepwell.runs.service import RunService
from stepwell.server.openai import responses_items as items
from stepwell.server.openai.responses_events import Encoder
from stepwell.server.openai.responses_items import Object, ResponseId, item_id, parse_place, parse_response
from stepwell.store.base import ThreadInfo

UNKEPT = 1
"""When the thread of a response expires that is not to be stored, in milliseconds since 1970: as soon as it is over."""
_PAGE = 500
_BACK = 64
"""Events that are looked at together on the way back to the run before, at first; then more and more."""
_MOST_BACK = 4096
"""The most of them."""
MOST_READ = 50_000
"""Events of the runs whose items one request may name, each of which is read whole."""


class Kept(NamedTuple):
    """A response as the log has it now.

    Args:
        id: Its id.
        info: The row of its thread.
        encoder: After all events of its run.
    """

    id: ResponseId
    info: ThreadInfo
    encoder: Encoder

    @property
    def newest(self) -> ResponseId:
        """The newest response of the same run."""
        starts = self.encoder.starts
        return self.id._replace(answered=starts[-1] if starts else 0)

    @property
    def next(self) -> ResponseId | None:
        """The response that went on after this one's questions were answered."""
        later = (seq for seq in self.encoder.starts if seq > self.id.answered)
        return next((self.id._replace(answered=seq) for seq in later), None)

    def shown(self) -> Object:
        """Return the response for a client."""
        told = self.encoder.snapshot()
        told["stepwell"]["next"] = str(self.next) if self.next is not None else None
        return told


async def kept(service: RunService, owner: str, text: str) -> Kept:
    """Return a stored response.

    Args:
        service: The threads.
        owner: Who asks.
        text: Its id.

    Raises:
        NotFound: There is none, or it was not to be stored and is over.
    """
    id = parse_response(text)
    if id is None:
        raise _unknown(text)
    try:
        info = await service.info(owner, id.thread)
    except NotFound as error:
        raise _unknown(text) from error
    return await folded(service, id, info)


async def folded(service: RunService, id: ResponseId, info: ThreadInfo | None = None) -> Kept:
    """Return a response of a thread whose row is known, or that was just made.

    Raises:
        NotFound: There is no such response in it.
    """
    events = [each async for each in _events_of(service, id)]
    if not events:  # nor is there anything to go back from
        raise _unknown(str(id))
    encoder = _encoded(id, events, await _previous(service, id))
    over = info is not None and info.expires == UNKEPT and info.run != id.run
    if not encoder.began or over:
        raise _unknown(str(id))
    return Kept(id, info or ThreadInfo(id.thread, ""), encoder)


def _encoded(id: ResponseId, events: Sequence[Recorded], previous: str | None = None) -> Encoder:
    encoder = Encoder(id, previous=previous)
    for each in events:
        encoder.encode(each)
    return encoder


def _unknown(id: str) -> NotFound:
    return NotFound(f"Response with id {id[:100]!r} not found.", "response_id")


async def _events_of(service: RunService, id: ResponseId) -> AsyncGenerator[Recorded]:
    """Yield the stored events of a run, and those of the thread between them."""
    after = id.run - 1
    while True:
        page = await service.store.read(id.thread, after=after, limit=_PAGE)
        for each in page:
            begins = isinstance(each.event, RunStarted)
            if begins != (each.seq == id.run):
                return
            yield each
        if len(page) < _PAGE:
            return
        after = page[-1].seq


async def _previous(service: RunService, id: ResponseId) -> str | None:
    """Return the id of the newest response before a run; a copied one has the id that it has where it was made."""
    before, parent, copied, width = id.run, "", 0, _BACK
    while before > 1:
        first = max(0, before - 1 - width)
        for each in reversed(await service.store.read(id.thread, after=first, limit=before - 1 - first)):
            if isinstance(each.event, Forked) and not parent:
                parent, copied = each.event.parent, each.event.at
            if each.run:
                run = ResponseId(id.thread, each.run)
                found = _encoded(run, [event async for event in _events_of(service, run)])
                thread = parent if parent and each.seq <= copied else id.thread
                return str(ResponseId(thread, each.run, found.starts[-1] if found.starts else 0))
        before, width = first + 1, min(4 * width, _MOST_BACK)
    return None


class Items:
    """Items of an owner's responses, and of what these were asked; a run is read once, however many it is asked for.

    Args:
        service: The threads.
        owner: Who asks.
    """

    def __init__(self, service: RunService, owner: str) -> None:
        self._service, self._owner = service, owner
        self._read: dict[str, Object] = {}
        self._left = MOST_READ

    async def find(self, id: str) -> Object | None:
        """Return the item of an id, by what the id says; None for none.

        Raises:
            InputError: Items of too many responses were asked for.
        """
        place = parse_place(id)
        if place is None:
            return None
        id = item_id(place.part, place.thread, place.seq)
        if id in self._read:
            return self._read[id]
        if self._left <= 0:
            said = f"The items that are named are of runs with more than {MOST_READ:,} events; send items themselves."
            raise InputError(said, "input")
        try:
            await self._service.info(self._owner, place.thread)
        except NotFound:
            return None
        brought = await self._service.store.read(place.thread, after=place.seq - 1, limit=1)
        if not brought or not brought[0].run:
            return None
        self._read |= await self._items(ResponseId(place.thread, brought[0].run))
        return self._read.get(id)

    async def _items(self, run: ResponseId) -> dict[str, Object]:
        events = [each async for each in _events_of(self._service, run)]
        self._left -= len(events)
        items = dict[str, Object]()
        for answered in (0, *_encoded(run, events).starts):
            id = run._replace(answered=answered)
            for item in (*_encoded(id, events).snapshot()["output"], *_given_in(id, events)):
                items.setdefault(item["id"], item)
        return items


async def remove(service: RunService, owner: str, found: Kept) -> None:
    """Remove a response with its thread.

    Raises:
        Busy: The thread has other responses, which would go with it.
    """
    seq, runs = found.info.forked, 0
    while page := await service.store.read(found.id.thread, after=seq, limit=_PAGE):
        runs += sum(isinstance(each.event, RunStarted) for each in page)
        seq = page[-1].seq
    if runs > 1:
        said = f"Its thread has {runs} runs, and it is kept and removed as a whole: DELETE /api/threads/"
        raise Busy(f"{said}{found.id.thread} removes all of it.", "response_id")
    await service.delete(owner, found.id.thread)


# what a response was asked


async def input_items(service: RunService, found: Kept) -> list[Object]:
    """Return what the request of a response said, oldest first."""
    id, said = found.id, list[Object]()
    if not id.answered:
        for each in await _history(service, id):
            said += _said(id.thread, each.seq, each.event.message)  # type: ignore[union-attr]
    return said + _given_in(id, [each async for each in _events_of(service, id)])


def _given_in(id: ResponseId, events: Sequence[Recorded]) -> list[Object]:
    """Return what was said to a response in its run."""
    spans, given = Encoder(id), list[Object]()
    questions: dict[int, Asked] = {}
    for each in events:
        spans.encode(each)
        if isinstance(each.event, Asked):
            questions[each.seq] = each.event
        if (spans.starts[-1] if spans.starts else 0) == id.answered:
            given += _given(id.thread, each, questions)
    return given


async def _history(service: RunService, id: ResponseId) -> list[Recorded]:
    """Return the messages that were brought with the first message of a run."""
    found: list[Recorded] = []
    before = id.run
    while before > 1:
        first = max(0, before - 1 - _PAGE)
        for each in reversed(await service.store.read(id.thread, after=first, limit=before - 1 - first)):
            if each.run or not isinstance(each.event, MessageAdded) or each.event.source != "history":
                return found[::-1]
            found.append(each)
        before = first + 1
    return found[::-1]


def _given(thread: str, recorded: Recorded, questions: dict[int, Asked]) -> list[Object]:
    match recorded.event:
        case MessageAdded(source="user", message=message) | Steered(source="user", message=message):
            return _said(thread, recorded.seq, message) if not recorded.path else []
        case Answered() as answer:
            asked = questions.get(answer.question)
            return [_decided(thread, recorded.seq, answer, asked)] if asked is not None and answer.by else []
        case _:
            return []


def _decided(thread: str, seq: int, answer: Answered, asked: Asked) -> Object:
    if asked.kind in items.FUNCTIONS:
        called = item_id("call", thread, answer.question)
        text = answer.text if answer.value is None else json.dumps(answer.value, ensure_ascii=False)
        output = _output(item_id("fco", thread, seq), called, text)
        return output | ({"status": "incomplete"} if answer.decision == "deny" else {})
    yes = answer.decision in ("approve", "continue", "retry", "done")
    told = {"approval_request_id": item_id("mcpr", thread, answer.question), "approve": yes}
    id = item_id("mcpa", thread, seq)
    return {"id": id, "type": "mcp_approval_response", **told, "reason": answer.text or None}


def _output(id: str, call: str, text: str) -> Object:
    return {"id": id, "type": "function_call_output", "call_id": call, "output": text, "status": "completed"}


def _said(thread: str, seq: int, message: Message) -> list[Object]:
    id = item_id("msg", thread, seq)
    if message.role == "tool":
        return [_output(item_id("fco", thread, seq), message.call, message.content)]
    if message.role == "assistant":
        said = [items.message(id, message.content, "completed")] if message.content else []
        called = [(f"{item_id('fc', thread, seq)}_{at}", call) for at, call in enumerate(message.calls)]
        return [*said, *({**_call(call.id, call.name, call.arguments), "id": id} for id, call in called)]
    parts: list[Object] = [{"type": "input_text", "text": message.content}] if message.content else []
    parts += [
        {"type": "input_image", "image_url": each.url, "detail": each.detail or "auto"} for each in message.images
    ]
    return [{"id": id, "type": "message", "role": "user", "status": "completed", "content": parts}]


def _call(id: str, name: str, arguments: str) -> Object:
    return {"type": "function_call", "call_id": id, "name": name, "arguments": arguments, "status": "completed"}
