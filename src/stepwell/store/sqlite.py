"""The default store: one SQLite file, one writer thread, group commit at `synchronous=FULL`.

Appends of all threads that wait while a commit is under way share the next one. An append fails alone: it is
checked against the newest number inside the transaction before anything of it is written. It does not
follow logs and holds no state of a thread in memory.
"""

# apsw's stubs name a type that Python 3.11 has not, so its methods are partly unknown to the checker.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar, cast

import apsw

from stepwell.errors import Conflict, StoreError, StoreFull
from stepwell.events import Recorded, RunEnded, RunStarted, TitleChanged, decode
from stepwell.state import NO_BLOBS
from stepwell.store.base import BLOB_LIMIT, ApiKey, KeyUse, ThreadInfo, is_prefix

T = TypeVar("T")
BATCH = 512
"""Most jobs in one commit."""
SCHEMA_VERSION = "2"

_log = logging.getLogger("stepwell.store")

_INSERT_EVENTS = "INSERT INTO events (id, time, run, path, body) VALUES "
_COLUMNS = 5
_THREAD_BITS = ~0xFFFFFFFF
"""The part of an event's id that names its thread."""
_HEADS = """
SELECT t.id, coalesce((SELECT max(e.id) FROM events e WHERE e.id > t.no << 32 AND e.id < (t.no + 1) << 32), t.no << 32)
FROM json_each(?) wanted JOIN threads t ON t.id = wanted.value
"""
_THREAD = """
SELECT t.id, t.owner, t.title, t.created,
       coalesce((SELECT max(e.id) & 4294967295 FROM events e
                 WHERE e.id > t.no << 32 AND e.id < (t.no + 1) << 32), 0),
       coalesce(r.run, 0), t.expires
FROM threads t LEFT JOIN running r ON r.no = t.no
"""
_UNUSED_BLOBS = """
DELETE FROM blobs WHERE hash IN (
    SELECT hash FROM blob_refs mine WHERE mine.thread = ?1
    AND NOT EXISTS (SELECT 1 FROM blob_refs other WHERE other.hash = mine.hash AND other.thread <> ?1))
"""
"""Removes what only one thread refers to."""


class _Job:
    """Work for the writer and the future of its result."""

    __slots__ = ("error", "future", "loop", "result")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self) -> None:
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class _Call(_Job):
    """A function of the connection."""

    __slots__ = ("work",)

    def __init__(self, work: Callable[[apsw.Connection], Any]) -> None:
        super().__init__()
        self.work = work


class _Append(_Job):
    """Events for one thread; see `Store.append`."""

    __slots__ = ("blobs", "events", "expect", "key", "new", "thread")

    def __init__(
        self,
        thread: str,
        events: Sequence[Recorded],
        expect: int,
        new: ThreadInfo | None,
        key: KeyUse | None,
        blobs: Mapping[str, bytes],
    ) -> None:
        super().__init__()
        self.thread, self.events, self.expect, self.new, self.key = thread, events, expect, new, key
        self.blobs = blobs


class SqliteStore:
    """Keeps threads in the SQLite file at `path`, made with its folder if it is not there.

    Args:
        path: The database file.

    Raises:
        StoreError: The file is no database of this version or cannot be opened.
    """

    instant = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = _connect(path)
            _prepare(self._writer)
            self._reader = _connect(path)
        except (apsw.Error, OSError) as error:
            raise StoreError(f"cannot open the database {path}: {error}") from error
        self._reading = ThreadPoolExecutor(1, "stepwell-read")
        self._thread = threading.Thread(target=self._write, name="stepwell-write", daemon=True)
        self._thread.start()
        self._closed = False

    # writing

    def append(
        self,
        thread: str,
        events: Sequence[Recorded],
        *,
        expect: int,
        new: ThreadInfo | None = None,
        key: KeyUse | None = None,
        blobs: Mapping[str, bytes] = NO_BLOBS,
    ) -> asyncio.Future[None]:
        """Append events; see the port."""
        job = _Append(thread, events, expect, new, key, blobs)
        if (largest := max(map(len, blobs.values()), default=0)) > BLOB_LIMIT:
            job.future.set_exception(StoreError(f"a blob has {largest} bytes; the limit is {BLOB_LIMIT}"))
            return job.future
        return self._put(job)

    def _submit(self, work: Callable[[apsw.Connection], Any]) -> asyncio.Future[Any]:
        return self._put(_Call(work))

    def _put(self, job: _Job) -> asyncio.Future[Any]:
        if self._closed:
            job.future.set_exception(StoreError("the store is closed"))
        else:
            self._jobs.put(job)
        return job.future

    def _write(self) -> None:
        open_ = True
        while open_:
            jobs = [self._jobs.get()]
            while len(jobs) < BATCH and jobs[-1] is not None:
                try:
                    jobs.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            open_ = jobs[-1] is not None
            work = [job for job in jobs if job is not None]
            if work:
                self._commit(work)
                _announce(work)

    def _commit(self, jobs: list[_Job]) -> None:
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for job in jobs:
                job.error = None
            for kind, group in groupby(jobs, type):
                if kind is _Append:
                    _append(self._writer, [job for job in group if isinstance(job, _Append)])
                else:
                    _call(self._writer, [job for job in group if isinstance(job, _Call)])
            self._writer.execute("COMMIT")
        except apsw.IOError as error:
            # After a failed fsync nobody knows what is on the disk; going on would acknowledge what may be lost.
            _log.critical("the disk failed while writing %s: %s; stopping", self.path, error)
            os._exit(70)
        except apsw.Error as error:
            self._roll_back()
            failure = _translate(error)
            for job in jobs:
                job.error = failure
        except Exception as error:  # the boundary of the thread: data that no row can hold must not end the writer
            self._roll_back()
            if len(jobs) == 1:
                jobs[0].error = StoreError(f"this cannot be stored: {error}")
            else:
                for job in jobs:
                    self._commit([job])

    def _roll_back(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    # reading

    async def _read(self, work: Callable[[apsw.Connection], T]) -> T:
        if self._closed:
            raise StoreError("the store is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, work, self._reader)
        except apsw.Error as error:
            raise _translate(error) from error

    async def read(self, thread: str, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Return events; see the port."""
        return await self._read(lambda db: _events(db, thread, after, -1 if limit is None else limit))

    async def blob(self, thread: str, prefix: str, *, offset: int = 0, length: int | None = None) -> bytes | None:
        """Return a part of a blob; see the port."""
        return await self._read(lambda db: _blob(db, thread, prefix, offset, length))

    async def blob_size(self, thread: str, prefix: str) -> int | None:
        """Return how many bytes a blob has, or None."""
        return await self._read(lambda db: _blob_size(db, thread, prefix))

    async def thread(self, thread: str) -> ThreadInfo | None:
        """Return the thread's row, or None."""
        found = await self._read(lambda db: _threads(db, _THREAD + "WHERE t.id = ?", (thread,)))
        return found[0] if found else None

    async def threads(self, owner: str, *, before: str = "", limit: int = 50) -> list[ThreadInfo]:
        """Return an owner's threads, newest first."""
        where = """WHERE t.owner = ? AND t.no < coalesce((SELECT no FROM threads WHERE id = ?), 9223372036854775807)
                   ORDER BY t.no DESC LIMIT ?"""
        return await self._read(lambda db: _threads(db, _THREAD + where, (owner, before, limit)))

    async def open_runs(self) -> list[ThreadInfo]:
        """Return the threads that have an open run."""
        return await self._read(lambda db: _threads(db, _THREAD + "WHERE r.run IS NOT NULL ORDER BY t.no", ()))

    async def expired(self, now: int) -> list[str]:
        """Return threads whose time is over."""
        where = "WHERE t.expires > 0 AND t.expires <= ? AND r.run IS NULL"
        return [info.id for info in await self._read(lambda db: _threads(db, _THREAD + where, (now,)))]

    async def delete(self, thread: str) -> bool:
        """Remove a thread; late appends to it fail because its row is gone."""
        return await asyncio.shield(self._submit(lambda db: _delete(db, thread)))

    async def key_use(self, owner: str, route: str, key: str) -> KeyUse | None:
        """Return how an idempotency key was used, or None."""
        sql = "SELECT owner, route, key, body, thread, run FROM key_uses WHERE owner = ? AND route = ? AND key = ?"
        rows = await self._read(lambda db: list(db.execute(sql, (owner, route, key))))
        return KeyUse(*rows[0]) if rows else None

    async def add_api_key(self, key: ApiKey) -> None:
        """Keep a new API key."""
        sql = "INSERT INTO api_keys (id, owner, hash, created, revoked) VALUES (?, ?, ?, ?, ?)"
        values = (key.id, key.owner, key.hash, key.created, key.revoked)
        await asyncio.shield(self._submit(lambda db: db.execute(sql, values) and None))

    async def api_keys(self) -> list[ApiKey]:
        """Return all API keys, oldest first."""
        sql = "SELECT id, owner, hash, created, revoked FROM api_keys ORDER BY created, id"
        return [ApiKey(*row) for row in await self._read(lambda db: list(db.execute(sql)))]

    async def revoke_api_key(self, id: str, now: int) -> bool:
        """Revoke a key."""
        sql = "UPDATE api_keys SET revoked = ? WHERE id = ? AND revoked = 0 RETURNING id"
        return await asyncio.shield(self._submit(lambda db: bool(list(db.execute(sql, (now, id))))))

    async def close(self) -> None:
        """Write what is queued, fold the write-ahead log into the file and close it."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        self._reading.shutdown()
        self._reader.close()
        self._writer.close()


def _connect(path: Path) -> apsw.Connection:
    db = apsw.Connection(str(path))
    db.set_busy_timeout(10_000)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "journal_size_limit=4194304", "trusted_schema=OFF"):
        db.execute(f"PRAGMA {pragma}")
    return db


def _prepare(db: apsw.Connection) -> None:
    with db:
        fresh = db.execute("SELECT count(*) FROM sqlite_master").get == 0
        if fresh:
            db.execute(_sql("schema"))
            return
    try:
        version = db.execute("SELECT value FROM meta WHERE name = 'schema'").get
    except apsw.SQLError as error:
        raise StoreError("the file is a database, but not one of Stepwell's") from error
    if version == "1":
        # What version 2 has more comes with the first blob; an older program must leave it alone from now on.
        db.execute("UPDATE meta SET value = ? WHERE name = 'schema' AND value = '1'", (SCHEMA_VERSION,))
    elif version != SCHEMA_VERSION:
        raise StoreError(f"the database has schema {version}; this version of Stepwell reads schema {SCHEMA_VERSION}")


def _sql(name: str) -> str:
    return files("stepwell.store").joinpath(f"sql/{name}.sql").read_text("utf-8")


def _announce(jobs: list[_Job]) -> None:
    """Wake each loop once for all of its jobs of this commit."""
    for loop in {job.loop for job in jobs}:
        mine = [job for job in jobs if job.loop is loop]
        try:
            loop.call_soon_threadsafe(_settle, mine)
        except RuntimeError:  # the loop is closed: nobody waits any more
            _log.debug("nobody waits for %d commits", len(mine))


def _settle(jobs: list[_Job]) -> None:
    for job in jobs:
        job.settle()


def _translate(error: apsw.Error) -> StoreError:
    if isinstance(error, apsw.FullError):
        return StoreFull("no room left on the disk; free some and send the message again")
    if isinstance(error, apsw.BusyError):
        return StoreError("another process keeps the database locked; try again")
    return StoreError(f"the database failed: {error}")


def _number(db: apsw.Connection, thread: str) -> int | None:
    return db.execute("SELECT no FROM threads WHERE id = ?", (thread,)).get


def _call(db: apsw.Connection, jobs: list[_Call]) -> None:
    for job in jobs:
        try:
            job.result = job.work(db)
        except StoreError as error:  # checked before it wrote anything: it fails alone
            job.error = error


def _append(db: apsw.Connection, jobs: list[_Append]) -> None:
    """Append for many threads with few statements: at each one the writer lets other threads run."""
    ids = json.dumps(list({job.thread for job in jobs}))
    found = cast("list[tuple[str, int]]", db.execute(_HEADS, (ids,)).fetchall())
    heads = dict(found)
    rows: list[Any] = []
    for job in jobs:
        try:
            head = heads[job.thread] = _admit(db, job, heads.get(job.thread))
        except Conflict as error:  # checked before it wrote anything: it fails alone
            job.error = error
            continue
        base = head & _THREAD_BITS
        for r in job.events:
            rows += (base + r.seq, r.time, r.run, r.path or None, r.body.decode())
        heads[job.thread] = head + len(job.events)
        if job.blobs:
            _keep_blobs(db, base >> 32, job.blobs)
        _derive(db, base >> 32, job.events)
    _insert_events(db, rows)


def _admit(db: apsw.Connection, job: _Append, head: int | None) -> int:
    """Check an append against the newest number, make its thread and note its key; return the head."""
    new, key, thread = job.new, job.key, job.thread
    if (head is None) != (new is not None):
        raise Conflict(f"thread {thread} is gone" if new is None else f"thread {thread} is already there")
    number = 0 if head is None else head & ~_THREAD_BITS
    if number != job.expect:
        raise Conflict(f"thread {thread} ends with event {number}, not {job.expect}")
    if key is not None:
        sql = "INSERT INTO key_uses (owner, route, key, body, thread, run) VALUES (?, ?, ?, ?, ?, ?)"
        try:
            db.execute(sql, (key.owner, key.route, key.key, key.body, key.thread, key.run))
        except apsw.ConstraintError as error:
            raise Conflict(f"the idempotency key {key.key!r} was used") from error
    if new is not None:
        sql = "INSERT INTO threads (id, owner, title, created, expires) VALUES (?, ?, ?, ?, ?) RETURNING no"
        head = int(db.execute(sql, (new.id, new.owner, new.title, new.created, new.expires)).get) << 32
    assert head is not None
    return head


def _insert_events(db: apsw.Connection, values: list[Any]) -> None:
    """Insert rows with one statement for 64, 32, … 1 of them, so that few texts of statements are kept."""
    start, size = 0, 64
    while start < len(values):
        while size * _COLUMNS > len(values) - start:
            size //= 2
        end = start + size * _COLUMNS
        db.execute(_INSERT_EVENTS + ", ".join(["(?, ?, ?, ?, ?)"] * size), values[start:end])
        start = end


def _derive(db: apsw.Connection, no: int, events: Sequence[Recorded]) -> None:
    """Keep the derived columns in step with the events, in their transaction."""
    for recorded in events:
        match recorded.event:
            case RunStarted():
                db.execute("INSERT OR REPLACE INTO running (no, run) VALUES (?, ?)", (no, recorded.seq))
            case RunEnded():
                db.execute("DELETE FROM running WHERE no = ?", (no,))
            case TitleChanged(title=title):
                db.execute("UPDATE threads SET title = ? WHERE no = ?", (title, no))
            case _:
                pass


def _keep_blobs(db: apsw.Connection, no: int, blobs: Mapping[str, bytes]) -> None:
    db.execute(_sql("blobs"))
    for hash, data in blobs.items():
        if db.execute("SELECT 1 FROM blobs WHERE hash = ?", (hash,)).get is None:
            db.execute("INSERT INTO blobs (hash, data) VALUES (?, ?)", (hash, data))
        db.execute("INSERT OR IGNORE INTO blob_refs (thread, hash) VALUES (?, ?)", (no, hash))


def _has_blobs(db: apsw.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'blob_refs'").get is not None


def _find_blob(db: apsw.Connection, thread: str, prefix: str) -> int | None:
    """Return the row id of the one blob that a thread names so."""
    if not is_prefix(prefix) or not _has_blobs(db):
        return None
    sql = """SELECT b.no FROM threads t JOIN blob_refs r ON r.thread = t.no JOIN blobs b ON b.hash = r.hash
             WHERE t.id = ? AND r.hash >= ? AND r.hash < ? LIMIT 2"""
    rows = cast("list[tuple[int]]", db.execute(sql, (thread, prefix, prefix + "g")).fetchall())
    return rows[0][0] if len(rows) == 1 else None


def _blob(db: apsw.Connection, thread: str, prefix: str, offset: int, length: int | None) -> bytes | None:
    with db:  # the row must not go between the two looks at it
        no = _find_blob(db, thread, prefix)
        if no is None:
            return None
        with db.blob_open("main", "blobs", "data", no, False) as blob:
            size = blob.length()
            blob.seek(min(offset, size))
            return blob.read(-1 if length is None else length)


def _blob_size(db: apsw.Connection, thread: str, prefix: str) -> int | None:
    with db:
        no = _find_blob(db, thread, prefix)
        return None if no is None else db.execute("SELECT length(data) FROM blobs WHERE no = ?", (no,)).get


def _events(db: apsw.Connection, thread: str, after: int, limit: int) -> list[Recorded]:
    no = _number(db, thread)
    if no is None:
        return []
    sql = "SELECT id, time, run, path, body FROM events WHERE id > ? AND id < ? ORDER BY id LIMIT ?"
    rows = db.execute(sql, ((no << 32) + after, (no + 1) << 32, limit))
    return [Recorded(id & 0xFFFFFFFF, time, run, decode(body), path or "") for id, time, run, path, body in rows]


def _threads(db: apsw.Connection, sql: str, values: tuple[Any, ...]) -> list[ThreadInfo]:
    return [ThreadInfo(*row) for row in db.execute(sql, values)]


def _delete(db: apsw.Connection, thread: str) -> bool:
    no = _number(db, thread)
    if no is None:
        return False
    db.execute("DELETE FROM events WHERE id > ? AND id < ?", (no << 32, (no + 1) << 32))
    db.execute("DELETE FROM running WHERE no = ?", (no,))
    db.execute("DELETE FROM key_uses WHERE thread = ?", (thread,))
    if _has_blobs(db):
        db.execute(_UNUSED_BLOBS, (no,))
        db.execute("DELETE FROM blob_refs WHERE thread = ?", (no,))
    db.execute("DELETE FROM threads WHERE no = ?", (no,))
    return True
