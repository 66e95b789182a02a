"""The rows of the SQLite store: what an append writes, what a fork copies, what is read and how it is let go.

Functions of a connection, each inside the transaction of its caller. Threads, queues and commits are in `sqlite.py`.
"""

# apsw's stubs name a type that Python 3.11 has not, so its methods are partly unknown to the checker.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Protocol, cast

import apsw
import msgspec

from stepwell.errors import Conflict
from stepwell.events import (
    Answered,
    Asked,
    Recorded,
    RunEnded,
    RunStarted,
    Stored,
    TitleChanged,
    Unknown,
    decode,
)
from stepwell.specs import Limits
from stepwell.state.thread import NEVER
from stepwell.store.base import ApiKey, KeyUse, Spending, ThreadInfo, is_prefix

_INSERT_EVENTS = "INSERT INTO events (id, time, run, path, body) VALUES "
_INSERT_THREADS = "INSERT INTO threads (id, owner, title, created, expires, parent, forked) VALUES "
_INSERT_RUNNING = "INSERT OR REPLACE INTO running (no, run) VALUES "
_SEQ_BITS = 0xFFFFFFFF
"""The part of an event's id that is its number in its thread."""
_HEADS = """
SELECT t.id, coalesce((SELECT max(e.id) FROM events e WHERE e.id > t.no << 32 AND e.id < (t.no + 1) << 32), t.no << 32)
FROM """
_OF_ONE = _HEADS + "threads t WHERE t.id = ?"
"""What most transactions ask for while few runs go on."""
_OF_MANY = _HEADS + "json_each(?) wanted JOIN threads t ON t.id = wanted.value"
THREAD = """
SELECT t.id, t.owner, t.title, t.created,
       coalesce((SELECT max(e.id) & 4294967295 FROM events e
                 WHERE e.id > t.no << 32 AND e.id < (t.no + 1) << 32), 0),
       coalesce(r.run, 0), t.expires, t.parent, t.forked
FROM threads t LEFT JOIN running r ON r.no = t.no
"""
EXPIRED = """
WHERE t.expires > 0 AND t.expires <= ?1 AND (coalesce(r.run, 0) = 0 OR r.wake > ?1)
AND coalesce((SELECT e.time FROM events e WHERE e.id > t.no << 32 AND e.id < (t.no + 1) << 32
              ORDER BY e.id DESC LIMIT 1), t.created) + t.expires - t.created <= ?1
"""
_OVERDUE_RUNS = "SELECT no FROM running WHERE wake > 0 AND wake <= ?1"
_OVERDUE_QUESTIONS = " UNION SELECT thread FROM questions WHERE until > 0 AND until <= ?1"
_NEXT_RUN = "SELECT coalesce(min(wake), ?2) FROM running WHERE wake > ?1"
_NEXT_QUESTION = "SELECT coalesce(min(until), ?2) FROM questions WHERE until > 0 AND until > ?1"
_ASKING = """
SELECT t.id FROM questions q JOIN threads t ON t.no = q.thread WHERE t.owner = ?
GROUP BY t.no ORDER BY min(q.time), t.no LIMIT ?
"""
_FORGET_QUESTIONS = """
DELETE FROM questions WHERE (thread, seq) IN (
    SELECT q.thread, q.seq FROM json_each(?) run JOIN questions q ON q.thread = run.value ->> 0
    WHERE q.seq BETWEEN run.value ->> 1 AND run.value ->> 2)
"""
"""What runs asked, each given as its thread and its first and last event."""
_SPENT = """
SELECT coalesce(sum(money), 0), coalesce(sum(tokens), 0), coalesce(sum(steps), 0), coalesce(sum(tool_calls), 0),
       coalesce(sum(milliseconds), 0)
FROM accounts WHERE key = ?
"""
_ACCOUNT = """
INSERT OR REPLACE INTO accounts (key, thread, money, tokens, steps, tool_calls, milliseconds)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_INHERIT = """
INSERT INTO accounts (key, thread, money, tokens, steps, tool_calls, milliseconds)
SELECT key, 0, money, tokens, steps, tool_calls, milliseconds FROM accounts WHERE thread = ?
ON CONFLICT (key, thread) DO UPDATE SET
    money = money + excluded.money, tokens = tokens + excluded.tokens, steps = steps + excluded.steps,
    tool_calls = tool_calls + excluded.tool_calls, milliseconds = milliseconds + excluded.milliseconds
"""
"""What a thread that goes has spent stays on the account, under no thread."""
_COPY = """
INSERT INTO events (id, time, run, path, body)
SELECT (?2 << 32) | (id & 4294967295), time, run, path, body FROM events
WHERE id > ?1 << 32 AND id <= (?1 << 32) + ?3
"""
_SHARE = """
INSERT INTO blob_refs (thread, hash)
SELECT ?2, hash FROM blob_refs r WHERE thread = ?1 AND EXISTS (
    SELECT 1 FROM events e WHERE e.id > ?1 << 32 AND e.id <= (?1 << 32) + ?3
    AND instr(e.body, substr(r.hash, 1, 12)) AND instr(e.body, '"tool_ended'))
"""
"""Events name a blob by its whole hash or, as a handle in a text, by the first 12 digits."""
_UNUSED_BLOBS = """
DELETE FROM blobs WHERE hash IN (
    SELECT hash FROM blob_refs mine WHERE mine.thread = ?1
    AND NOT EXISTS (SELECT 1 FROM blob_refs other WHERE other.hash = mine.hash AND other.thread <> ?1))
"""
"""Removes what only one thread refers to."""


class Wanted(Protocol):
    """An append that is asked for; see `Store.append`."""

    thread: str
    events: Sequence[Recorded]
    expect: int
    new: ThreadInfo | None
    key: KeyUse | None
    blobs: Mapping[str, bytes]
    wake: int | None
    spent: Mapping[str, Spending]
    error: BaseException | None


def read_sql(name: str) -> str:
    """Return the text of a file of statements."""
    return files("stepwell.store").joinpath(f"sql/{name}.sql").read_text("utf-8")


def _number(db: apsw.Connection, thread: str) -> int | None:
    return db.execute("SELECT no FROM threads WHERE id = ?", (thread,)).get


def append(db: apsw.Connection, jobs: Sequence[Wanted]) -> None:
    """Append for many threads with few statements: at each one the writer waits for its turn among busy threads."""
    threads = list({job.thread for job in jobs})
    sql, wanted = (_OF_ONE, threads[0]) if len(threads) == 1 else (_OF_MANY, json.dumps(threads))
    found = cast("list[tuple[str, int]]", db.execute(sql, (wanted,)).fetchall())
    admitted = _admit(db, jobs, {id: head & _SEQ_BITS for id, head in found})
    numbers = {id: head >> 32 for id, head in found} | _make(db, [job.new for job in admitted if job.new is not None])
    rows: list[Any] = []
    due = _Due()
    for job in admitted:
        no = numbers[job.thread]
        rows += _rows(no, job.events)
        if job.blobs:
            _keep_blobs(db, no, job.blobs)
        _derive(db, no, job.events, due)
        if job.wake is not None:
            due.wakes[no] = job.wake
        if job.spent:
            _keep_spending(db, no, job.spent)
    _insert(db, _INSERT_EVENTS, 5, rows)
    _keep_due(db, due)


def _admit(db: apsw.Connection, jobs: Sequence[Wanted], seqs: dict[str, int]) -> list[Wanted]:
    """Return the appends that fit the newest numbers; the others fail alone, before anything of them is written.

    Args:
        db: Where the keys of the admitted are noted.
        jobs: In order.
        seqs: The newest number of each thread that is there; it goes on with the jobs.
    """
    admitted: list[Wanted] = []
    for job in jobs:
        try:
            _check(job, seqs.get(job.thread))
            _use(db, job.key)
        except Conflict as error:
            job.error = error
            continue
        seqs[job.thread] = job.expect + len(job.events)
        admitted.append(job)
    return admitted


def _check(job: Wanted, seq: int | None) -> None:
    if (seq is None) != (job.new is not None):
        there = "is gone" if seq is None else "is already there"
        raise Conflict(f"thread {job.thread} {there}")
    if (seq or 0) != job.expect:
        raise Conflict(f"thread {job.thread} ends with event {seq or 0}, not {job.expect}")


def _use(db: apsw.Connection, key: KeyUse | None) -> None:
    """Note the use of an idempotency key, or raise Conflict where it was used before."""
    if key is None:
        return
    sql = "INSERT INTO key_uses (owner, route, key, body, thread, run) VALUES (?, ?, ?, ?, ?, ?)"
    try:
        db.execute(sql, (key.owner, key.route, key.key, key.body, key.thread, key.run))
    except apsw.ConstraintError as error:
        raise Conflict(f"the idempotency key {key.key!r} was used") from error


def _make(db: apsw.Connection, new: Sequence[ThreadInfo]) -> dict[str, int]:
    """Make threads and return their numbers."""
    values = [
        field
        for each in new
        for field in (each.id, each.owner, each.title, each.created, each.expires, each.parent, each.forked)
    ]
    return dict(_insert(db, _INSERT_THREADS, 7, values, " RETURNING id, no"))


def fork(
    db: apsw.Connection, thread: str, upto: int, new: ThreadInfo, events: Sequence[Recorded], key: KeyUse | None
) -> None:
    """Make a thread that begins with another's events; see `Store.fork`."""
    parent = _number(db, thread)
    last = None if parent is None else db.execute("SELECT 1 FROM events WHERE id = ?", ((parent << 32) + upto,)).get
    if parent is None or (upto and last is None) or _number(db, new.id) is not None:
        raise Conflict(f"thread {thread} has no event {upto}")
    _use(db, key)
    no = _make(db, [new])[new.id]
    db.execute(_COPY, (parent, no, upto))
    if _has(db, "blobs"):
        db.execute(_SHARE, (parent, no, upto))
    due = _Due()
    if new.run:
        due.runs[no] = new.run
    _derive(db, no, events, due)
    _insert(db, _INSERT_EVENTS, 5, _rows(no, events))
    _keep_due(db, due)


def _rows(no: int, events: Sequence[Recorded]) -> list[Any]:
    """Return the columns of events, one after another."""
    base = no << 32
    return [field for r in events for field in (base + r.seq, r.time, r.run, r.path or None, r.body.decode())]


def _insert(db: apsw.Connection, sql: str, columns: int, values: list[Any], returning: str = "") -> list[Any]:
    """Insert rows with few statements, and few texts of them: for up to 8 rows, or for 16, 32 or 64."""
    start, returned = 0, list[Any]()
    while left := (len(values) - start) // columns:
        size = left if left <= 8 else min(64, 1 << left.bit_length() - 1)
        end = start + size * columns
        returned += db.execute(_statement(sql, size, columns, returning), values[start:end])
        start = end
    return returned


@cache
def _statement(sql: str, size: int, columns: int, returning: str) -> str:
    row = f"({', '.join('?' * columns)})"
    return sql + ", ".join([row] * size) + returning


class _Due:
    """What the appends of one transaction change of when threads have work, by their numbers.

    Attributes:
        runs: The open run, or 0 where it has ended.
        wakes: A time that the start or end of a run does not say.
        over: Thread, first and last event of runs whose questions nobody needs answered any more.
    """

    __slots__ = ("over", "runs", "wakes")

    def __init__(self) -> None:
        self.runs: dict[int, int] = {}
        self.wakes: dict[int, int] = {}
        self.over: list[tuple[int, int, int]] = []

    def set_run(self, no: int, run: int) -> None:
        self.runs[no] = run
        self.wakes.pop(no, None)


def _keep_due(db: apsw.Connection, due: _Due) -> None:
    if ended := [no for no, run in due.runs.items() if not run]:
        db.execute("DELETE FROM running WHERE no IN (SELECT value FROM json_each(?))", (json.dumps(ended),))
    _insert(db, _INSERT_RUNNING, 2, [field for no, run in due.runs.items() if run for field in (no, run)])
    for no, wake in due.wakes.items():
        _set_wake(db, no, wake)
    if due.over and _has(db, "questions"):
        db.execute(_FORGET_QUESTIONS, (json.dumps(due.over),))


_DERIVED = frozenset({RunStarted, RunEnded, TitleChanged, Asked, Answered})
"""Events that more is kept of than themselves."""


def _derive(db: apsw.Connection, no: int, events: Sequence[Recorded], due: _Due) -> None:
    """Keep the derived columns in step with the events, in their transaction."""
    for recorded in events:
        if type(recorded.event) not in _DERIVED:
            continue
        match recorded.event:
            case RunStarted():
                due.set_run(no, recorded.seq)
            case RunEnded(cause=cause):
                due.set_run(no, 0)
                if cause != "question":
                    due.over.append((no, recorded.run, recorded.seq))
            case TitleChanged(title=title):
                db.execute("UPDATE threads SET title = ? WHERE no = ?", (title, no))
            case Asked(until=until):
                _make_tables(db, "questions")
                sql = "INSERT INTO questions (thread, seq, time, until) VALUES (?, ?, ?, ?)"
                db.execute(sql, (no, recorded.seq, recorded.time, until))
            case Answered(question=question) if _has(db, "questions"):
                db.execute("DELETE FROM questions WHERE thread = ? AND seq = ?", (no, question))
            case _:
                pass


def _set_wake(db: apsw.Connection, no: int, wake: int) -> None:
    sql = "INSERT INTO running (no, run, wake) VALUES (?1, 0, ?2) ON CONFLICT (no) DO UPDATE SET wake = ?2"
    db.execute(sql, (no, wake))
    db.execute("DELETE FROM running WHERE no = ? AND run = 0 AND wake = ?", (no, NEVER))


def _keep_spending(db: apsw.Connection, no: int, spent: Mapping[str, Spending]) -> None:
    _make_tables(db, "accounts")
    for key, total in spent.items():
        db.execute(_ACCOUNT, (key, no, *msgspec.structs.astuple(total)))


def _keep_blobs(db: apsw.Connection, no: int, blobs: Mapping[str, bytes]) -> None:
    _make_tables(db, "blobs")
    for hash, data in blobs.items():
        if db.execute("SELECT 1 FROM blobs WHERE hash = ?", (hash,)).get is None:
            db.execute("INSERT INTO blobs (hash, data) VALUES (?, ?)", (hash, data))
        db.execute("INSERT OR IGNORE INTO blob_refs (thread, hash) VALUES (?, ?)", (no, hash))


def _make_tables(db: apsw.Connection, name: str) -> None:
    """Make the tables of a file of statements, if the first of them, which has its name, is not there."""
    if not _has(db, name):
        db.execute(read_sql(name))


def _has(db: apsw.Connection, table: str) -> bool:
    """Tell whether a table is there that comes with its first row.

    It is looked up each time, in 2 µs: another process may make it at any moment, and a transaction that made it may
    be rolled back.
    """
    return db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).get is not None


def _find_blob(db: apsw.Connection, thread: str, prefix: str) -> int | None:
    """Return the row id of the one blob that a thread names so."""
    if not is_prefix(prefix) or not _has(db, "blobs"):
        return None
    sql = """SELECT b.no FROM threads t JOIN blob_refs r ON r.thread = t.no JOIN blobs b ON b.hash = r.hash
             WHERE t.id = ? AND r.hash >= ? AND r.hash < ? LIMIT 2"""
    rows = cast("list[tuple[int]]", db.execute(sql, (thread, prefix, prefix + "g")).fetchall())
    return rows[0][0] if len(rows) == 1 else None


def read_blob(db: apsw.Connection, thread: str, prefix: str, offset: int, length: int | None) -> bytes | None:
    """Return a part of a blob; see `Store.blob`."""
    with db:  # the row must not go between the two looks at it
        no = _find_blob(db, thread, prefix)
        if no is None:
            return None
        with db.blob_open("main", "blobs", "data", no, False) as blob:
            size = blob.length()
            blob.seek(min(offset, size))
            return blob.read(-1 if length is None else length)


def blob_size(db: apsw.Connection, thread: str, prefix: str) -> int | None:
    """Return how many bytes a blob has; see `Store.blob_size`."""
    with db:
        no = _find_blob(db, thread, prefix)
        return None if no is None else db.execute("SELECT length(data) FROM blobs WHERE no = ?", (no,)).get


def read_events(db: apsw.Connection, thread: str, after: int, limit: int) -> list[Recorded]:
    """Return events; see `Store.read`. A limit of -1 is none."""
    no = _number(db, thread)
    if no is None:
        return []
    sql = "SELECT id, time, run, path, CAST(body AS BLOB) FROM events WHERE id > ? AND id < ? ORDER BY id LIMIT ?"
    # Numbers that no event has must lead neither out of 64 bits nor into another thread.
    rows = db.execute(sql, ((no << 32) + min(max(after, 0), 0xFFFFFFFF), (no + 1) << 32, limit))
    return [Recorded(id & 0xFFFFFFFF, time, run, _event(body), path or "") for id, time, run, path, body in rows]


def _event(body: bytes | None) -> Stored | Unknown:
    """Return what a row holds; a damaged one is shown and never acted on, like that of a newer version."""
    try:
        return decode(body or b"")
    except (msgspec.DecodeError, AttributeError):  # no JSON, or no object
        text = (body or b"").decode("utf-8", "replace")
        return Unknown(msgspec.Raw(msgspec.json.encode({"type": "unreadable", "body": text})))


def read_threads(db: apsw.Connection, sql: str, values: tuple[Any, ...]) -> list[ThreadInfo]:
    """Return the rows of threads that a statement beginning with `THREAD` selects."""
    return [ThreadInfo(*row) for row in db.execute(sql, values)]


def overdue(db: apsw.Connection, now: int) -> list[ThreadInfo]:
    """Return the threads of which a time is over; see `Store.overdue`."""
    wanted = _OVERDUE_RUNS + _OVERDUE_QUESTIONS if _has(db, "questions") else _OVERDUE_RUNS
    return read_threads(db, THREAD + "WHERE t.no IN (" + wanted + ") ORDER BY t.no", (now,))


def next_wake(db: apsw.Connection, now: int) -> int:
    """Return the first time after now that a thread waits for; see `Store.next_wake`."""
    first = NEVER
    with db:  # both looks at one moment
        for sql in (_NEXT_RUN, _NEXT_QUESTION) if _has(db, "questions") else (_NEXT_RUN,):
            first = min(first, db.execute(sql, (now, NEVER)).get)
    return first


def asking(db: apsw.Connection, owner: str, limit: int) -> list[str]:
    """Return the ids of threads with open questions; see `Store.asking`."""
    if not _has(db, "questions"):
        return []
    return [id for (id,) in cast("list[tuple[str]]", db.execute(_ASKING, (owner, limit)).fetchall())]


def spent(db: apsw.Connection, key: str) -> Spending:
    """Return what is on the account of a key; see `Store.spent`."""
    if not _has(db, "accounts"):
        return Spending()
    return Spending(*cast("list[tuple[int, int, int, int, int]]", db.execute(_SPENT, (key,)).fetchall())[0])


def api_keys(db: apsw.Connection) -> list[ApiKey]:
    """Return all API keys, oldest first."""
    sql = "SELECT id, owner, hash, created, revoked, limits FROM api_keys ORDER BY created, id"
    return [
        ApiKey(*row, limits=msgspec.json.decode(limits, type=Limits) if limits else None)
        for *row, limits in db.execute(sql)
    ]


def delete(db: apsw.Connection, thread: str) -> bool:
    """Remove a thread; see `Store.delete`."""
    no = _number(db, thread)
    if no is None:
        return False
    db.execute("DELETE FROM events WHERE id > ? AND id < ?", (no << 32, (no + 1) << 32))
    db.execute("DELETE FROM running WHERE no = ?", (no,))
    if _has(db, "questions"):
        db.execute("DELETE FROM questions WHERE thread = ?", (no,))
    if _has(db, "accounts"):
        db.execute(_INHERIT, (no,))
        db.execute("DELETE FROM accounts WHERE thread = ?", (no,))
    db.execute("DELETE FROM key_uses WHERE thread = ?", (thread,))
    if _has(db, "blobs"):
        db.execute(_UNUSED_BLOBS, (no,))
        db.execute("DELETE FROM blob_refs WHERE thread = ?", (no,))
    db.execute("DELETE FROM threads WHERE no = ?", (no,))
    return True
