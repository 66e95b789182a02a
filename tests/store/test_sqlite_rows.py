"""What one transaction of the SQLite store writes for many appends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

from stepwell.errors import Conflict
from stepwell.events import Asked, Recorded, RunEnded, RunStarted, TitleChanged
from stepwell.specs import RunSpec
from stepwell.store import sqlite_rows as rows
from stepwell.store.base import NO_SPENDING, KeyUse, Spending, ThreadInfo


class Wanted:
    """An append as a store hands it on."""

    def __init__(self, thread: str, *events: Recorded, new: bool = False, wake: int | None = None) -> None:
        self.thread, self.expect = thread, events[0].seq - 1
        self.events: Sequence[Recorded] = events
        self.new = ThreadInfo(thread, "ann", "", 5) if new else None
        self.key: KeyUse | None = None
        self.blobs: Mapping[str, bytes] = {}
        self.wake = wake
        self.spent: Mapping[str, Spending] = NO_SPENDING
        self.error: BaseException | None = None


def started(seq: int) -> Recorded:
    return Recorded(seq, 5, seq, RunStarted(RunSpec(model="m")))


def ended(seq: int, run: int) -> Recorded:
    return Recorded(seq, 6, run, RunEnded("answer"))


def titled(seq: int) -> Recorded:
    return Recorded(seq, 5, 0, TitleChanged("A title"))


@pytest.fixture
def db(tmp_path: Path) -> apsw.Connection:
    db = apsw.Connection(str(tmp_path / "stepwell.db"))
    db.execute(rows.read_sql("schema"))
    return db


def running(db: apsw.Connection) -> dict[str, tuple[int, int]]:
    found = db.execute("SELECT t.id, r.run, r.wake FROM running r JOIN threads t ON t.no = r.no")
    return {id: (run, wake) for id, run, wake in found}


def statements_for(db: apsw.Connection, jobs: list[Any]) -> int:
    seen: list[str] = []

    def note(cursor: object, sql: str, bindings: object) -> bool:
        seen.append(sql)
        return True

    db.exec_trace = note
    rows.append(db, jobs)
    db.exec_trace = None
    assert [job.error for job in jobs] == [None] * len(jobs)
    return len(seen)


def test_runs_that_begin_and_end_together_take_few_statements(db: apsw.Connection) -> None:
    names = [f"{number:032x}" for number in range(256)]
    assert statements_for(db, [Wanted(name, started(1), new=True) for name in names]) < 16
    assert running(db) == dict.fromkeys(names, (1, 0))
    assert statements_for(db, [Wanted(name, ended(2, 1)) for name in names]) < 16
    assert running(db) == {}


def test_appends_of_one_transaction_follow_each_other(db: apsw.Connection) -> None:
    jobs = [
        Wanted("a", started(1), new=True, wake=900),
        Wanted("b", started(1), new=True),
        Wanted("a", ended(2, 1), started(3)),
        Wanted("b", ended(2, 1), wake=700),
        Wanted("c", started(1), ended(2, 1), new=True),
    ]
    rows.append(db, jobs)
    assert [job.error for job in jobs] == [None] * 5
    # The time of `a` belonged to the run that has ended; that of `b` came after it.
    assert running(db) == {"a": (3, 0), "b": (0, 700)}
    assert [each.seq for each in rows.read_events(db, "a", 0, -1)] == [1, 2, 3]


def test_what_does_not_fit_fails_alone(db: apsw.Connection) -> None:
    jobs = [
        Wanted("a", started(1), new=True),
        Wanted("a", started(1), new=True),
        Wanted("gone", titled(1)),
        Wanted("a", titled(3)),
        Wanted("a", titled(2)),
    ]
    rows.append(db, jobs)
    assert [type(job.error) for job in jobs] == [type(None), Conflict, Conflict, Conflict, type(None)]
    assert [each.seq for each in rows.read_events(db, "a", 0, -1)] == [1, 2]


def test_questions_go_with_the_run_that_asked_them(db: apsw.Connection) -> None:
    asked = [Recorded(seq, 5, run, Asked("question", text="Which one?")) for seq, run in ((2, 1), (5, 4), (6, 4))]
    jobs = [
        Wanted("a", started(1), asked[0], ended(3, 1), started(4), asked[1], asked[2], new=True),
        Wanted("b", started(1), asked[0], new=True),
    ]
    rows.append(db, jobs)
    assert [job.error for job in jobs] == [None] * 2
    left = db.execute("SELECT t.id, q.seq FROM questions q JOIN threads t ON t.no = q.thread ORDER BY 1, 2").fetchall()
    assert left == [("a", 5), ("a", 6), ("b", 2)]
