"""The files of the SQLite store: how they grow, and those that older versions wrote."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from stepwell.errors import StoreError
from stepwell.events import Answered, Asked, MessageAdded, Recorded, RunStarted, encode
from stepwell.messages import Message
from stepwell.specs import RunSpec
from stepwell.state.thread import NEVER
from stepwell.store.base import ApiKey, Spending, ThreadInfo
from stepwell.store.sqlite import SqliteStore

SCHEMA = """
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE threads (
    no      INTEGER PRIMARY KEY,
    id      TEXT NOT NULL UNIQUE,
    owner   TEXT NOT NULL,
    title   TEXT NOT NULL DEFAULT '',
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX threads_by_owner ON threads (owner, no);
CREATE INDEX threads_by_expiry ON threads (expires) WHERE expires > 0;

CREATE TABLE events (
    id   INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    run  INTEGER NOT NULL,
    path TEXT,
    body TEXT NOT NULL
);

CREATE TABLE running (
    no  INTEGER PRIMARY KEY,
    run INTEGER NOT NULL
);

CREATE TABLE key_uses (
    owner  TEXT NOT NULL,
    route  TEXT NOT NULL,
    key    TEXT NOT NULL,
    body   TEXT NOT NULL,
    thread TEXT NOT NULL,
    run    INTEGER NOT NULL,
    PRIMARY KEY (owner, route, key)
) WITHOUT ROWID;
CREATE INDEX key_uses_by_thread ON key_uses (thread);

CREATE TABLE api_keys (
    id      TEXT PRIMARY KEY,
    owner   TEXT NOT NULL,
    hash    TEXT NOT NULL,
    created INTEGER NOT NULL,
    revoked INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

INSERT INTO meta VALUES ('schema', '{version}');
"""
"""What versions 1 and 2 began a file with; they differ in the number alone."""
BLOBS = """
CREATE TABLE IF NOT EXISTS blobs (no INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS blob_refs (
    thread INTEGER NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (thread, hash)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS blob_refs_by_hash ON blob_refs (hash);
"""
"""What version 2 added with a file's first big result."""
DRAFT = """
ALTER TABLE running ADD COLUMN wake INTEGER NOT NULL DEFAULT 0;
CREATE INDEX running_by_wake ON running (wake);
ALTER TABLE threads ADD COLUMN parent TEXT NOT NULL DEFAULT '';
ALTER TABLE threads ADD COLUMN forked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE api_keys ADD COLUMN limits TEXT NOT NULL DEFAULT '';
CREATE TABLE questions (
    thread INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    time   INTEGER NOT NULL,
    until  INTEGER NOT NULL,
    PRIMARY KEY (thread, seq)
) WITHOUT ROWID;
CREATE INDEX questions_by_until ON questions (until) WHERE until > 0;
CREATE TABLE accounts (
    key          TEXT NOT NULL,
    thread       INTEGER NOT NULL,
    money        INTEGER NOT NULL,
    tokens       INTEGER NOT NULL,
    steps        INTEGER NOT NULL,
    tool_calls   INTEGER NOT NULL,
    milliseconds INTEGER NOT NULL,
    PRIMARY KEY (key, thread)
) WITHOUT ROWID;
CREATE INDEX accounts_by_thread ON accounts (thread);
"""
"""What version 3 had at first: the tables for people from the beginning, and more indexes."""
HASH = "ab" * 32


def old_file(path: Path, version: int) -> list[Recorded]:
    """Write a file as it was once written: a thread with an open run, its key and, since version 2, a blob."""
    events = [
        Recorded(1, 10, 1, RunStarted(RunSpec(model="m"))),
        Recorded(2, 11, 1, MessageAdded(Message("user", "一"))),
    ]
    db = apsw.Connection(str(path))
    db.execute(SCHEMA.replace("{version}", str(version)))
    db.execute("INSERT INTO threads (no, id, owner, title, created, expires) VALUES (3, 't', 'ann', 'old', 9, 0)")
    for each in events:
        row = ((3 << 32) + each.seq, each.time, each.run, encode(each.event).decode())
        db.execute("INSERT INTO events (id, time, run, body) VALUES (?, ?, ?, ?)", row)
    db.execute("INSERT INTO running (no, run) VALUES (3, 1)")
    db.execute("INSERT INTO key_uses (owner, route, key, body, thread, run) VALUES ('ann', '/r', 'k', 'b', 't', 1)")
    db.execute("INSERT INTO api_keys (id, owner, hash, created) VALUES ('key', 'ann', 'h', 5)")
    if version > 1:
        db.execute(BLOBS)
        db.execute("INSERT INTO blobs (no, hash, data) VALUES (1, ?, ?)", (HASH, b"big"))
        db.execute("INSERT INTO blob_refs (thread, hash) VALUES (3, ?)", (HASH,))
    if version > 2:
        db.execute(DRAFT)
    db.close()
    return events


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_file_of_an_older_version_is_taken_over_and_has_all_that_is_new(version: int, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "stepwell.db"
        events = old_file(path, version)
        for seq in (3, 4):  # the second time it is a file of this version
            store = SqliteStore(path)
            assert [info.id for info in await store.due(0)] == ["t"]
            assert (await store.read("t"))[:2] == events
            assert await store.blob("t", HASH) == (b"big" if version > 1 else None)
            assert await store.api_keys() == [ApiKey("key", "ann", "h", 5)]
            used = await store.key_use("ann", "/r", "k")
            assert used is not None
            assert used.run == 1
            event = Asked("question", until=50) if seq == 3 else Answered(3, "answer")
            added = Recorded(seq, 12, 1, event)
            await store.append("t", [added], expect=seq - 1, wake=70, spent={"k": Spending(seq)})
            assert await store.asking("ann", 9) == (["t"] if seq == 3 else [])
            assert await store.next_wake(0) == (50 if seq == 3 else 70)
            assert await store.spent("k") == Spending(seq)
            await store.append("t", [], expect=seq, wake=0)
            await store.close()
        store = SqliteStore(path)
        await store.fork("t", 2, ThreadInfo("f", "ann", parent="t", forked=2), [])
        assert await store.read("f") == events
        assert await store.thread("f") == ThreadInfo("f", "ann", seq=2, parent="t", forked=2)
        assert await store.next_wake(0) == NEVER
        await store.close()

    asyncio.run(main())


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "stepwell.db"
    old_file(path, 4)
    with pytest.raises(StoreError, match="schema 4"):
        SqliteStore(path)
    db = apsw.Connection(str(path))
    assert db.execute("SELECT value FROM meta").get == "4"
    db.close()


def test_the_write_ahead_log_stays_short_while_commits_go_on(tmp_path: Path) -> None:
    async def main() -> int:
        store = SqliteStore(tmp_path / "x.db")
        first = Recorded(1, 1, 1, RunStarted(RunSpec()))
        await store.append("t", [first], expect=0, new=ThreadInfo("t", "ann"))
        longest = 0
        for seq in range(2, 402):
            added = Recorded(seq, 1, 1, MessageAdded(Message("user", "x" * 8000)))
            await store.append("t", [added], expect=seq - 1)
            longest = max(longest, (tmp_path / "x.db-wal").stat().st_size)
        await store.close()
        return longest

    assert asyncio.run(main()) < 2_000_000  # of some 6 million bytes in all


OPEN = """
import sys
from pathlib import Path
from stepwell.store.sqlite import SqliteStore
print("ready", flush=True)
sys.stdin.readline()
SqliteStore(Path(sys.argv[1]))
print("open", flush=True)
"""


@pytest.mark.parametrize("version", [0, 2])
def test_processes_that_open_a_new_or_an_old_file_at_once_all_get_it(version: int, tmp_path: Path) -> None:
    for attempt in range(3):
        path = tmp_path / f"{attempt}.db"
        if version:
            old_file(path, version)
        command = [sys.executable, "-c", OPEN, str(path)]
        many = [subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) for _ in range(4)]
        for each in many:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        for each in many:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        assert [each.communicate(timeout=60)[0] for each in many] == ["open\n"] * 4


LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from stepwell.errors import StoreFull
from stepwell.events import MessageAdded, Recorded
from stepwell.messages import Message
from stepwell.store.base import ThreadInfo
from stepwell.store.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.append("t", [], expect=0, new=ThreadInfo("t", "ann"))
    added = [Recorded(1, 1, 0, MessageAdded(Message("user", "x" * 1_000_000)))]
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, most))
    try:
        await store.append("t", added, expect=0)
    except StoreFull:
        print("full")
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    await store.append("t", added, expect=0)
    print(len(await store.read("t")))
    await store.close()

asyncio.run(main())
"""


def test_a_quota_is_met_like_a_full_disk_and_the_store_works_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "x.db")]
    made = subprocess.run(command, check=False, capture_output=True, timeout=60)
    assert (made.returncode, made.stdout.decode()) == (0, "full\n1\n"), made.stderr.decode()
