"""The default store: one SQLite file, one writer thread, group commit at `synchronous=FULL`.

Appends of all threads that wait while a commit is under way share the next one. An append fails alone: it is
checked against the newest number inside the transaction before anything of it is written. It does not
follow logs and holds no state of a thread in memory.
"""

# apsw's stubs name a type that Python 3.11 has not, so its methods are partly unknown to the checker.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import errno
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import apsw
import msgspec

from stepwell.errors import StoreError, StoreFull
from stepwell.events import Recorded
from stepwell.log import NO_BLOBS
from stepwell.store import sqlite_rows as rows
from stepwell.store.base import BLOB_LIMIT, NO_SPENDING, ApiKey, KeyUse, Spending, ThreadInfo

T = TypeVar("T")
BATCH = 512
"""Most jobs in one commit."""
CHECKPOINT = 250
"""Pages of the write-ahead log that are folded into the file at once: a log that stays short is written over instead of
growing, and a commit that makes a file grow costs half as much again."""
PATIENCE = 10
"""Seconds that others may keep the file locked."""
SCHEMA_VERSION = "3"
OLDER = ("1", "2")
"""Versions of the schema that are brought up to this one."""

NO_ROOM = "no room left on the disk; free some and send the message again"
_LIMITS = (errno.EDQUOT, errno.EFBIG)
"""Why a write fails at a quota, and at a limit on the size of files."""

_log = logging.getLogger("stepwell.store")


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

    __slots__ = ("blobs", "events", "expect", "key", "new", "spent", "thread", "wake")

    def __init__(
        self,
        thread: str,
        events: Sequence[Recorded],
        expect: int,
        new: ThreadInfo | None,
        key: KeyUse | None,
        blobs: Mapping[str, bytes],
        wake: int | None,
        spent: Mapping[str, Spending],
    ) -> None:
        super().__init__()
        self.thread, self.events, self.expect, self.new, self.key = thread, events, expect, new, key
        self.blobs, self.wake, self.spent = blobs, wake, spent


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
        wake: int | None = None,
        spent: Mapping[str, Spending] = NO_SPENDING,
    ) -> asyncio.Future[None]:
        """Append events; see the port."""
        job = _Append(thread, events, expect, new, key, blobs, wake, spent)
        if (largest := max(map(len, blobs.values()), default=0)) > BLOB_LIMIT:
            job.future.set_exception(StoreError(f"a blob has {largest} bytes; the limit is {BLOB_LIMIT}"))
            return job.future
        return self._put(job)

    def fork(
        self, thread: str, upto: int, new: ThreadInfo, events: Sequence[Recorded], *, key: KeyUse | None = None
    ) -> asyncio.Future[None]:
        """Make a thread that begins with another's events; see the port."""
        return self._submit(lambda db: rows.fork(db, thread, upto, new, events, key))

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
                    rows.append(self._writer, [job for job in group if isinstance(job, _Append)])
                else:
                    _call(self._writer, [job for job in group if isinstance(job, _Call)])
            self._writer.execute("COMMIT")
        except apsw.IOError as error:
            if self._is_room_over(error):
                self._fail(jobs, StoreFull(NO_ROOM))
                return
            self._give_up(error)
        except apsw.Error as error:
            self._fail(jobs, _translate(error))
        except Exception as error:  # the boundary of the thread: data that no row can hold must not end the writer
            self._roll_back()
            if len(jobs) == 1:
                jobs[0].error = StoreError(f"this cannot be stored: {error}")
            else:
                for job in jobs:
                    self._commit([job])

    def _fail(self, jobs: list[_Job], error: StoreError) -> None:
        self._roll_back()
        for job in jobs:
            job.error = error

    def _is_room_over(self, error: apsw.IOError) -> bool:
        """Tell whether a write failed as on a full disk: SQLite knows no word for a quota or a limit on the file."""
        kind: int = getattr(error, "extendedresult", 0)
        return kind == apsw.SQLITE_IOERR_WRITE and self._writer.system_errno in _LIMITS

    def _roll_back(self) -> None:
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except apsw.Error as error:
            self._give_up(error)

    def _give_up(self, error: apsw.Error) -> NoReturn:
        # After a failed fsync nobody knows what is on the disk; going on would acknowledge what may be lost.
        _log.critical("the disk failed while writing %s: %s; stopping", self.path, error)
        os._exit(70)

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
        return await self._read(lambda db: rows.read_events(db, thread, after, -1 if limit is None else limit))

    async def blob(self, thread: str, prefix: str, *, offset: int = 0, length: int | None = None) -> bytes | None:
        """Return a part of a blob; see the port."""
        return await self._read(lambda db: rows.read_blob(db, thread, prefix, offset, length))

    async def blob_size(self, thread: str, prefix: str) -> int | None:
        """Return how many bytes a blob has, or None."""
        return await self._read(lambda db: rows.blob_size(db, thread, prefix))

    async def thread(self, thread: str) -> ThreadInfo | None:
        """Return the thread's row, or None."""
        found = await self._read(lambda db: rows.read_threads(db, rows.THREAD + "WHERE t.id = ?", (thread,)))
        return found[0] if found else None

    async def threads(self, owner: str, *, before: str = "", limit: int = 50) -> list[ThreadInfo]:
        """Return an owner's threads, newest first."""
        where = """WHERE t.owner = ? AND t.no < coalesce((SELECT no FROM threads WHERE id = ?), 9223372036854775807)
                   ORDER BY t.no DESC LIMIT ?"""
        return await self._read(lambda db: rows.read_threads(db, rows.THREAD + where, (owner, before, limit)))

    async def due(self, now: int) -> list[ThreadInfo]:
        """Return the threads that have work by now; see the port."""
        sql = rows.THREAD + "WHERE t.no IN (SELECT no FROM running WHERE wake <= ?) ORDER BY t.no"
        return await self._read(lambda db: rows.read_threads(db, sql, (now,)))

    async def next_wake(self, now: int) -> int:
        """Return the first time after now that a thread waits for; see the port."""
        return await self._read(lambda db: rows.next_wake(db, now))

    async def overdue(self, now: int) -> list[ThreadInfo]:
        """Return the threads of which a time is over; see the port."""
        return await self._read(lambda db: rows.overdue(db, now))

    async def asking(self, owner: str, limit: int) -> list[str]:
        """Return the ids of an owner's threads that have open questions; see the port."""
        return await self._read(lambda db: rows.asking(db, owner, limit))

    async def spent(self, key: str) -> Spending:
        """Return what is on the account of a key; see the port."""
        return await self._read(lambda db: rows.spent(db, key))

    async def expired(self, now: int) -> list[str]:
        """Return threads whose time is over."""
        sql = rows.THREAD + rows.EXPIRED
        return [info.id for info in await self._read(lambda db: rows.read_threads(db, sql, (now,)))]

    async def delete(self, thread: str) -> bool:
        """Remove a thread; late appends to it fail because its row is gone."""
        return await asyncio.shield(self._submit(lambda db: rows.delete(db, thread)))

    async def key_use(self, owner: str, route: str, key: str) -> KeyUse | None:
        """Return how an idempotency key was used, or None."""
        sql = "SELECT owner, route, key, body, thread, run FROM key_uses WHERE owner = ? AND route = ? AND key = ?"
        rows = await self._read(lambda db: list(db.execute(sql, (owner, route, key))))
        return KeyUse(*rows[0]) if rows else None

    async def add_api_key(self, key: ApiKey) -> None:
        """Keep a new API key."""
        sql = "INSERT INTO api_keys (id, owner, hash, created, revoked, limits) VALUES (?, ?, ?, ?, ?, ?)"
        limits = msgspec.json.encode(key.limits).decode() if key.limits is not None else ""
        values = (key.id, key.owner, key.hash, key.created, key.revoked, limits)
        await asyncio.shield(self._submit(lambda db: db.execute(sql, values) and None))

    async def api_keys(self) -> list[ApiKey]:
        """Return all API keys, oldest first."""
        return await self._read(rows.api_keys)

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
    db.set_busy_timeout(PATIENCE * 1000)
    _keep_log(db)
    for pragma in ("synchronous=FULL", "journal_size_limit=4194304", "trusted_schema=OFF"):
        db.execute(f"PRAGMA {pragma}")
    db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT}")
    return db


def _keep_log(db: apsw.Connection) -> None:
    """Have the file keep a write-ahead log, also where another process is about to do the same."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except apsw.BusyError:  # SQLite does not wait here, lest two that want this wait for each other
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def _prepare(db: apsw.Connection) -> None:
    _run_once(db, _is_fresh, "schema")
    try:
        version = _version(db)
    except apsw.SQLError as error:
        raise StoreError("the file is a database, but not one of Stepwell's") from error
    if version in OLDER:
        # Version 2 has more than the first only with its first blob; an older program must leave it alone from now on.
        _run_once(db, lambda db: _version(db) in OLDER, "upgrade")
    elif version != SCHEMA_VERSION:
        raise StoreError(f"the database has schema {version}; this version of Stepwell reads schema {SCHEMA_VERSION}")


def _run_once(db: apsw.Connection, needed: Callable[[apsw.Connection], bool], name: str) -> None:
    """Run a file of statements where it is needed; of processes that open a file at once one does it."""
    if not needed(db):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        if needed(db):
            db.execute(rows.read_sql(name))
        db.execute("COMMIT")
    finally:
        if db.in_transaction:  # it failed, and would keep others waiting
            db.execute("ROLLBACK")


def _is_fresh(db: apsw.Connection) -> bool:
    return db.execute("SELECT count(*) FROM sqlite_master").get == 0


def _version(db: apsw.Connection) -> str:
    return db.execute("SELECT value FROM meta WHERE name = 'schema'").get


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
        return StoreFull(NO_ROOM)
    if isinstance(error, apsw.BusyError):
        return StoreError("another process keeps the database locked; try again")
    return StoreError(f"the database failed: {error}")


def _call(db: apsw.Connection, jobs: list[_Call]) -> None:
    for job in jobs:
        try:
            job.result = job.work(db)
        except StoreError as error:  # checked before it wrote anything: it fails alone
            job.error = error
