"""One AG-UI run as a stream: the part of a run's log that it covers, from its beginning or from where a client was."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from stepwell.errors import InputError, StoreError
from stepwell.events import QueueEdited, Recorded, RunStarted
from stepwell.runs.channel import Cursor, Item, Piece
from stepwell.runs.service import RunService
from stepwell.server import sse
from stepwell.server.agui.bodies import InputMessageBody
from stepwell.server.agui.encoder import Asking, Encoder
from stepwell.server.agui.past import Past, differs, snapshot
from stepwell.server.agui.replies import shown
from stepwell.server.agui.wire import PROTOCOL, Place, event, frames, opening
from stepwell.server.auth import Caller

Object = dict[str, Any]

QUIET = b": quiet\n\n"


class Conversation(NamedTuple):
    """The conversation as a client has it.

    Args:
        older: Its messages but for the new ones.
        new: The new ones, as they came.
        known: Whether the client has a conversation of its own at all; else it is sent none.
    """

    older: list[InputMessageBody]
    new: list[Object]
    known: bool = True


class Segment(NamedTuple):
    """Where an AG-UI run is in a log.

    Args:
        thread: Our id of the thread.
        run: Number of the run; 0 for one that begins when a message is taken up that waits.
        after: Number of the event after which it begins.
        queued: Number of that message.
    """

    thread: str
    run: int
    after: int = 0
    queued: int = 0


def segment_of(thread: str, events: Sequence[Recorded], run: int, anchor: int = 0) -> Segment:
    """Return the segment of a run that an event is part of.

    Args:
        thread: Our id of the thread.
        events: Those of the thread, from the run's `RunStarted` on or from before that.
        run: Number of the run.
        anchor: Number of the event; 0 for the newest segment.
    """
    encoder = Encoder(thread, run, Asking("", "", None))
    for each in events:
        if each.seq >= run and (not anchor or each.seq < anchor):
            encoder.take(each)
            if each.ends_run:
                break
    before = encoder.ends[:-1] if encoder.over and not anchor else encoder.ends
    return Segment(thread, run, before[-1] if before else run - 1)


class Following:
    """Follows a segment for a client.

    Args:
        service: Threads and runs.
        caller: Who listens.
        asking: What the AG-UI run was asked with.
        conversation: What the client has.
        place: Where the client was; None for the beginning.
        told: Further events for the beginning.
    """

    def __init__(
        self,
        service: RunService,
        caller: Caller,
        asking: Asking,
        conversation: Conversation,
        place: Place | None = None,
        told: list[bytes] | None = None,
    ) -> None:
        self._service, self._caller, self._asking = service, caller, asking
        self._conversation, self._place, self._told = conversation, place, told

    async def frames(self, segment: Segment) -> AsyncGenerator[bytes]:
        """Yield the segment as frames, up to its end."""
        try:
            stream = self._queued(segment) if segment.queued else self._segment(segment)
            async with aclosing(stream):
                async for data in stream:
                    yield data
        except (InputError, StoreError) as error:  # the headers are gone: the stream itself says why it ends
            code = "store" if isinstance(error, StoreError) else "request"
            yield _lost(str(error), code)

    async def _queued(self, segment: Segment) -> AsyncGenerator[bytes]:
        """Wait until a message is taken up, then yield its run."""
        batches = self._service.follow(self._caller.owner, segment.thread, Cursor(segment.queued - 1))
        watching = sse.watched(batches, self._caller, sse.Until())
        run = 0
        async with aclosing(watching):
            async for items in watching:
                if any(_taken_out(item, segment.queued) for item in items):
                    ids = {"threadId": self._asking.thread, "runId": self._asking.run}
                    over = event("RUN_FINISHED", outcome={"type": "cancelled"}, **ids)
                    yield b"data: %s\n\ndata: %s\n\n" % (event("RUN_STARTED", protocolVersion=PROTOCOL, **ids), over)
                    return
                run = next((item.run for item in items if _takes_up(item, segment.queued)), 0)
                if run:
                    break
                yield QUIET
        if not run:
            yield _lost(_CUT, "interrupted")
            return
        async for data in self._segment(Segment(segment.thread, run, run - 1)):
            yield data

    async def _segment(self, segment: Segment) -> AsyncGenerator[bytes]:
        thread, run, after, _ = segment
        encoder, place = Encoder(thread, run, self._asking), self._place
        events = await self._service.store.read(thread)
        opened = self._opened(encoder, events, segment)
        if place is None or (place.opening and place.cursor.seq == after):
            yield opening(opened, after, place.opening if place else 0)
            place = Place(Cursor(after))
        for each in events:
            if after < each.seq <= place.cursor.seq:
                encoder.take(each)
                if encoder.over and place.cursor.seq <= events[-1].seq:  # else it is refused
                    return
        encoder.seen(place.shown)
        batches = self._service.follow(self._caller.owner, thread, place.cursor)
        watching = sse.watched(batches, self._caller, sse.Until(run))
        writing = _Writing(encoder, place)
        async with aclosing(watching):
            async for items in watching:
                data = writing.write(items)
                if data or not items:
                    yield data or QUIET
                if encoder.over:
                    return
        yield _lost(_CUT, "interrupted")

    def _opened(self, encoder: Encoder, events: Sequence[Recorded], segment: Segment) -> list[bytes]:
        """Feed an encoder what was before a segment, and return the events that open it."""
        asking = self._asking
        past = Past(elsewhere=asking.thread == segment.thread)
        for each in events:
            if each.seq > segment.after:
                break
            past.take(each, asking.results)
            if each.seq >= segment.run:
                encoder.take(each)
        older, new, known = self._conversation
        lacks = known and (differs(past, older) if older or new else bool(past.messages))
        return encoder.begin(snapshot(past, older, new) if lacks else None, self._told)


class _Writing:
    """Writes items as frames.

    Args:
        encoder: Makes events of them.
        place: Where the client was.
    """

    def __init__(self, encoder: Encoder, place: Place) -> None:
        self._encoder, self._skip = encoder, place.part
        tail = shown(encoder.replies.values())
        self._last = (str(place.cursor).encode(), tail or (b"~" if place.cursor.offset else b""))

    def write(self, items: Sequence[Item]) -> bytes:
        """Return the frames of items up to the end of the AG-UI run."""
        encoder, out = self._encoder, list[bytes]()
        for item in items:
            data = encoder.take(item)
            tail = shown(encoder.replies.values())
            if isinstance(item, Piece):
                here = (b"%d.%d" % (item.seq, item.offset), tail or b"~")
            else:
                here = (b"%d" % item.seq, tail)
            if data:
                made = frames(data, self._last, here)
                out += made[self._skip :] if self._skip else made
            self._last, self._skip = here, 0
            if encoder.over:
                break
        return b"".join(out)


_CUT = "The connection ends here, before the run does; the run goes on. Send the request again to follow it."


def _lost(message: str, code: str) -> bytes:
    return b"data: %s\n\n" % event("RUN_ERROR", message=message, code=code)


def _takes_up(item: Item, queued: int) -> bool:
    return isinstance(item.event, RunStarted) and item.event.queued == queued


def _taken_out(item: Item, queued: int) -> bool:
    return isinstance(item.event, QueueEdited) and item.event.item == queued and item.event.removed
