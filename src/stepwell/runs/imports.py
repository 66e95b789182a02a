"""Stores conversations that other programs had as threads, each whole or not at all, and each once.

What is read from their files is the business of `stepwell.imports`. Nothing of it is run, and no model is asked.
Threads are appended to the store itself, so that a server may work on the same folder meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from stepwell.errors import Conflict, StoreError
from stepwell.events import Feedback, Imported, MessageAdded, Recorded, TitleChanged
from stepwell.imports.base import Cause, Found, Reader, Skipped, Source, Talk
from stepwell.imports.reading import open_file
from stepwell.messages import clean
from stepwell.runs.log import now_ms
from stepwell.store.base import KeyUse, Store, ThreadInfo

ROUTE = "import"
"""Scope of the keys by which conversations are known when they come again."""
BATCH = 200
"""Conversations that are stored together."""
BATCH_BYTES = 8_000_000
"""Bytes of messages from which a batch is full."""

Became = Literal["imported", "grown", "known", "changed", "skipped"]
"""What became of a conversation: it is a thread now; its new messages were added to its thread; it was there already;
it was there already, and its thread was gone on with or says something else; it is left out."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one conversation.

    Args:
        source: The format of its file.
        place: Where in the file it stands: the number of a line, or an id.
        became: What became of it.
        thread: Id of its thread; empty where it has none, and in a trial where it would be new.
        title: Its title.
        messages: How many messages were stored, or would be.
        left_out: How much of what was left out of it, as in `stepwell.imports.base.Left`.
        cause: Why it is left out.
        detail: More of it, in words.
    """

    source: Source
    place: str
    became: Became
    thread: str = ""
    title: str = ""
    messages: int = 0
    left_out: dict[str, int] = {}
    cause: Cause | Literal[""] = ""
    detail: str = ""


class _Import(NamedTuple):
    """Where conversations go.

    Args:
        store: Where threads live; None for a trial where there are none.
        owner: Whose they become.
        source: The format they come from.
        now: The time, in milliseconds since 1970.
        trial: Nothing is stored.
    """

    store: Store | None
    owner: str
    source: Source
    now: int
    trial: bool


async def import_file(
    store: Store | None,
    path: Path,
    *,
    owner: str,
    source: Source | None = None,
    trial: bool = False,
    now: int | None = None,
) -> AsyncGenerator[Outcome]:
    """Store the conversations of a file as threads, and yield what became of each.

    Whatever stops it, what was yielded as imported is on the disk, and the same file can be imported again.

    Args:
        store: Where threads live; a server may work on it meanwhile. None for a trial where there are none.
        path: A SQLite database of Langchain-Chatchat, OpenAI's JSONL, or ChatGPT's export.
        owner: Whose threads they become.
        source: The format; None looks at the file's first bytes.
        trial: Nothing is stored.
        now: The time, in milliseconds since 1970.

    Raises:
        InputError: It is no file of a known format.
        OSError: The file cannot be read.
        StoreError: The store failed.
    """
    reader = await asyncio.to_thread(open_file, path, source)
    try:
        job = _Import(store, clean(owner), reader.source, now or now_ms(), trial or store is None)
        async for batch in _batches(reader):
            for outcome in await _store(job, batch):
                yield outcome
    finally:
        reader.close()


async def _batches(reader: Reader) -> AsyncGenerator[list[Found]]:
    found = reader.read()
    while True:
        reading = asyncio.ensure_future(asyncio.to_thread(_take, found))
        try:
            batch = await asyncio.shield(reading)
        except asyncio.CancelledError:
            await asyncio.wait([reading])  # the file is closed next, and a thread must not be at it then
            raise
        if not batch:
            return
        yield batch


def _take(found: Iterator[Found]) -> list[Found]:
    batch: list[Found] = []
    size = 0
    for each in found:
        batch.append(each)
        size += each.size if isinstance(each, Talk) else 0
        if len(batch) >= BATCH or size >= BATCH_BYTES:
            break
    return batch


async def _store(job: _Import, batch: Sequence[Found]) -> list[Outcome]:
    """Store a batch: all of its conversations are given to the store before the first is waited for."""
    store = None if job.trial else job.store
    waiting = [_begin(job, store, each) if store is not None and isinstance(each, Talk) else None for each in batch]
    done = await asyncio.gather(*(each for each in waiting if each is not None), return_exceptions=True)
    results = iter(done)
    ended = [None if one is None else next(results) for one in waiting]
    return [await _outcome(job, each, end) for each, end in zip(batch, ended, strict=True)]


def _begin(job: _Import, store: Store, talk: Talk) -> asyncio.Future[str]:
    id = secrets.token_hex(16)
    events = _events(job, talk)
    created = talk.created if 0 < talk.created <= job.now else events[1].time
    info = ThreadInfo(id, job.owner, talk.title, created)
    appended = store.append(id, events, expect=0, new=info, key=_use(job, talk, id))
    return asyncio.ensure_future(_named(appended, id))


async def _named(appended: asyncio.Future[None], id: str) -> str:
    await appended
    return id


async def _outcome(job: _Import, found: Found, done: str | BaseException | None) -> Outcome:
    match found, done:
        case Skipped(), _:
            return Outcome(
                source=job.source, place=found.place, became="skipped", cause=found.cause, detail=found.detail
            )
        case Talk(), str():
            return _told(job, found, "imported", done, len(found.messages))
        case Talk(), None | Conflict():
            return await _again(job, job.store, found)
        case _, BaseException():
            raise done
        case _:
            raise AssertionError(found)


async def _again(job: _Import, store: Store | None, talk: Talk) -> Outcome:
    """Return what becomes of a conversation that may have come before."""
    use = _use(job, talk, "")
    used = await store.key_use(use.owner, use.route, use.key) if store is not None else None
    if used is None and job.trial:
        return _told(job, talk, "imported", "", len(talk.messages))
    if store is None or used is None:
        raise StoreError("somebody removed a thread while it was imported again; import the file once more")
    first = await store.read(used.thread, limit=1)
    if first and isinstance(first[0].event, Imported) and first[0].event.digest == talk.digest():
        return _told(job, talk, "known", used.thread)
    return await _grow(job, store, talk, used.thread)


async def _grow(job: _Import, store: Store, talk: Talk, thread: str) -> Outcome:
    """Add what is new of a conversation to its thread, if the thread holds its beginning and nothing else."""
    events = await store.read(thread)
    held = tuple(each.event.message for each in events if isinstance(each.event, MessageAdded))
    only = all(isinstance(each.event, Imported | MessageAdded | Feedback | TitleChanged) for each in events)
    if not only or held != talk.messages[: len(held)]:
        return _told(job, talk, "changed", thread)
    if len(held) == len(talk.messages):
        return _told(job, talk, "known", thread)
    if not job.trial:
        added = _events(job, talk, len(held), events[-1].seq)
        try:
            await store.append(thread, added, expect=events[-1].seq)
        except Conflict:
            return _told(job, talk, "changed", thread)  # somebody goes on with it at this moment
    return _told(job, talk, "grown", thread, len(talk.messages) - len(held))


def _events(job: _Import, talk: Talk, start: int = 0, seq: int = 0) -> list[Recorded]:
    """Return the mark, the messages from `start` on, numbered behind `seq`, and what people thought of them.

    Messages have the times at which they were said; one without gets that of the one before, or else that of the
    conversation.
    """
    messages = talk.messages[start:]
    mark = Imported(job.source, talk.origin, len(messages), talk.digest(), talk.left_out or None)
    events = [Recorded(seq + 1, job.now, 0, mark)]
    time = talk.created if 0 < talk.created <= job.now else job.now
    times = zip(talk.times, range(len(talk.messages)), strict=True)
    for said, at in times:
        time = said if 0 < said <= job.now else time
        if at >= start:
            events.append(Recorded(seq + 2 + at - start, time, 0, MessageAdded(talk.messages[at], "history")))
    for each in talk.ratings:
        if each.at >= start:
            answer = events[1 + each.at - start]
            rated = Feedback(answer.seq, each.score, each.reason)
            events.append(Recorded(events[-1].seq + 1, answer.time, 0, rated))
    return events


async def thread_of(store: Store, owner: str, source: Source, origin: str) -> str:
    """Return the id of the thread that a conversation became when it was imported; empty for none.

    Args:
        store: Where threads live.
        owner: Whose thread it is.
        source: The format that it came from.
        origin: Its id there.
    """
    used = await store.key_use(owner, ROUTE, _key(source, origin))
    return used.thread if used is not None else ""


def _key(source: Source, origin: str) -> str:
    return f"{source} {origin}"


def _use(job: _Import, talk: Talk, thread: str) -> KeyUse:
    """Return the key by which a conversation is known when it comes again, whatever it says then."""
    key = _key(job.source, talk.origin)
    return KeyUse(job.owner, ROUTE, key, hashlib.sha256(key.encode()).hexdigest(), thread, 1)


def _told(job: _Import, talk: Talk, became: Became, thread: str, messages: int = 0) -> Outcome:
    return Outcome(
        source=job.source,
        place=talk.place,
        became=became,
        thread=thread,
        title=talk.title,
        messages=messages,
        left_out=talk.left_out,
    )
