"""Rows that something has damaged: their threads are shown and left alone, and no other thread suffers."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from stepwell.errors import InputError, NotFound
from stepwell.events import MessageAdded, Recorded, RunStarted, Unknown
from stepwell.messages import Message
from stepwell.runs.requests import RunRef
from stepwell.specs import RunSpec
from stepwell.store.base import ThreadInfo
from stepwell.store.sqlite import SqliteStore
from tests.support.runs import OWNER, answer_of, bounded, rig


async def left_open(path: Path, *ids: str) -> None:
    """Leave a file with threads whose runs are open."""
    store = SqliteStore(path)
    for id in ids:
        events = [Recorded(1, 1, 1, RunStarted(RunSpec())), Recorded(2, 1, 1, MessageAdded(Message("user", "go")))]
        await store.append(id, events, expect=0, new=ThreadInfo(id, OWNER))
    await store.close()


def damage(path: Path, body: str | bytes | None, run: int = 1) -> None:
    """Write over the second event of the first thread."""
    db = apsw.Connection(str(path))
    db.execute("UPDATE events SET body = ?, run = ? WHERE id = (SELECT min(id) + 1 FROM events)", (body, run))
    db.close()


@pytest.mark.parametrize("body", ["{not json", "", "[]", "3", b"\xff\x00", '{"type":"step_started","step":"x"}'])
def test_runs_of_other_threads_go_on_and_the_damaged_one_can_be_read_and_removed(
    body: str | bytes, tmp_path: Path
) -> None:
    async def main() -> None:
        path = tmp_path / "x.db"
        await left_open(path, "bad", "good")
        damage(path, body)
        async with rig(["fine"], store=SqliteStore(path)) as made:
            assert await made.service.resume() == 1
            assert answer_of(await made.ended(RunRef("good", 1))) == "fine"
            started, unreadable = await made.service.events(OWNER, "bad")
            assert isinstance(started.event, RunStarted)
            assert isinstance(unreadable.event, Unknown)
            assert unreadable.to_json()
            with pytest.raises(InputError, match="damaged"):
                await made.start("more", "bad")
            await made.service.delete(OWNER, "bad")
            with pytest.raises(NotFound):
                await made.service.info(OWNER, "bad")

    bounded(main)


def test_a_log_that_cannot_be_added_up_keeps_no_other_run_from_going_on(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "x.db"
        await left_open(path, "bad", "good")
        damage(path, '{"type":"task_started","task":{"id":"1","name":"n","goal":"g"},"spec":{}}')
        db = apsw.Connection(str(path))
        db.execute("UPDATE events SET path = '7/8' WHERE body LIKE '%task_started%'")  # of nobody who is there
        db.close()
        async with rig(["fine"], store=SqliteStore(path)) as made:
            assert await made.service.resume() == 1
            assert answer_of(await made.ended(RunRef("good", 1))) == "fine"

    bounded(main)
