"""What every store must do; each adapter runs all of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stepwell.errors import Conflict, StoreError
from stepwell.events import MessageAdded, Recorded, RunEnded, RunSpec, RunStarted, TitleChanged
from stepwell.messages import Message
from stepwell.store.base import ApiKey, KeyUse, Store, ThreadInfo
from stepwell.store.memory import MemoryStore
from stepwell.store.sqlite import SqliteStore

Body = Callable[[Store], Awaitable[None]]
STORES = ("memory", "sqlite")


@asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncIterator[Store]:
    store: Store = MemoryStore() if kind == "memory" else SqliteStore(folder / "stepwell.db")
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(params=STORES)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Body], None]:
    async def main(body: Body) -> None:
        async with opened(request.param, tmp_path) as store:
            await body(store)

    return lambda body: asyncio.run(main(body))


def said(seq: int, text: str = "hello", run: int = 0) -> Recorded:
    return Recorded(seq, 1000 + seq, run, MessageAdded(Message("user", text)))


def row(id: str, owner: str = "ann", **more: object) -> ThreadInfo:
    return ThreadInfo(id, owner, "a title", 1000, **more)  # type: ignore[arg-type]


def test_events_come_back_as_they_were_appended(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        events = [said(1, "一 🦆"), Recorded(2, 5, 2, RunStarted(RunSpec(model="m", tools=("a",))), "sub/1")]
        await store.append("t", events, expect=0, new=row("t"))
        assert await store.read("t") == events
        assert await store.read("t", after=1) == events[1:]
        assert await store.read("t", limit=1) == events[:1]
        assert await store.read("nowhere") == []

    run(body)


def test_an_append_at_a_number_that_moved_is_refused_and_writes_nothing(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        await store.append("t", [said(1)], expect=0, new=row("t"))
        for expect in (0, 2):
            with pytest.raises(Conflict):
                await store.append("t", [said(expect + 1)], expect=expect)
        with pytest.raises(Conflict):
            await store.append("nowhere", [said(1)], expect=0)
        assert await store.read("t") == [said(1)]

    run(body)


def test_one_of_many_writers_wins_each_number(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        await store.append("t", [], expect=0, new=row("t"))
        tries = [store.append("t", [said(1, str(n))], expect=0) for n in range(20)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(outcome is None for outcome in outcomes) == 1
        assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 19
        assert len(await store.read("t")) == 1

    run(body)


def test_a_refused_append_takes_no_other_with_it(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        await store.append("a", [], expect=0, new=row("a"))
        good = [store.append("a", [said(n + 1)], expect=n) for n in range(3)]
        bad = store.append("a", [said(9)], expect=8)
        more = store.append("a", [said(4)], expect=3)
        outcomes = await asyncio.gather(*good, bad, more, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [type(None)] * 3 + [Conflict, type(None)]
        assert [event.seq for event in await store.read("a")] == [1, 2, 3, 4]

    run(body)


def test_threads_are_listed_by_owner_newest_first_and_in_pages(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        for n in range(5):
            await store.append(f"t{n}", [], expect=0, new=row(f"t{n}"))
        await store.append("x", [], expect=0, new=row("x", "bob"))
        assert [info.id for info in await store.threads("ann", limit=3)] == ["t4", "t3", "t2"]
        assert [info.id for info in await store.threads("ann", before="t2")] == ["t1", "t0"]
        assert [info.id for info in await store.threads("bob")] == ["x"]
        assert await store.threads("eve") == []

    run(body)


def test_rows_follow_the_events(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        events = [Recorded(1, 1, 1, RunStarted(RunSpec())), Recorded(2, 2, 0, TitleChanged("new"))]
        await store.append("t", events, expect=0, new=row("t"))
        info = await store.thread("t")
        assert info == ThreadInfo("t", "ann", "new", 1000, 2, 1)
        assert await store.open_runs() == [info]
        await store.append("t", [Recorded(3, 3, 1, RunEnded("answer"))], expect=2)
        assert await store.open_runs() == []
        assert await store.thread("nowhere") is None

    run(body)


def test_a_deleted_thread_is_gone_and_takes_no_late_events(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        use = KeyUse("ann", "/r", "k", "0" * 64, "t", 1)
        await store.append("t", [said(1)], expect=0, new=row("t"), key=use)
        assert await store.delete("t")
        assert not await store.delete("t")
        assert await store.thread("t") is None
        assert await store.read("t") == []
        assert await store.key_use("ann", "/r", "k") is None
        with pytest.raises(Conflict):
            await store.append("t", [said(2)], expect=1)

    run(body)


def test_an_idempotency_key_is_stored_with_its_events_and_once(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        use = KeyUse("ann", "/r", "k", "0" * 64, "t", 1)
        await store.append("t", [said(1)], expect=0, new=row("t"), key=use)
        assert await store.key_use("ann", "/r", "k") == use
        assert await store.key_use("bob", "/r", "k") is None
        with pytest.raises(Conflict):
            await store.append("t", [said(2)], expect=1, key=use)
        assert len(await store.read("t")) == 1

    run(body)


def test_threads_whose_time_is_over_are_found_unless_a_run_is_open(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        await store.append("old", [], expect=0, new=row("old", expires=10))
        await store.append("new", [], expect=0, new=row("new", expires=99))
        await store.append("kept", [], expect=0, new=row("kept"))
        busy = [Recorded(1, 1, 1, RunStarted(RunSpec()))]
        await store.append("busy", busy, expect=0, new=row("busy", expires=10))
        assert await store.expired(50) == ["old"]

    run(body)


def test_api_keys_are_kept_and_revoked_once(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        key = ApiKey("k1", "ann", "f" * 64, 5)
        await store.add_api_key(key)
        assert await store.api_keys() == [key]
        assert await store.revoke_api_key("k1", 9)
        assert not await store.revoke_api_key("k1", 10)
        assert not await store.revoke_api_key("nobody", 10)
        assert [each.revoked for each in await store.api_keys()] == [9]

    run(body)


def test_a_cancelled_waiter_undoes_nothing(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        future = store.append("t", [said(1)], expect=0, new=row("t"))
        waiter = asyncio.ensure_future(asyncio.shield(future))
        waiter.cancel()
        await asyncio.wait([future])
        assert len(await store.read("t")) == 1

    run(body)


def test_sqlite_keeps_everything_over_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened("sqlite", tmp_path) as store:
            await store.append("t", [said(1)], expect=0, new=row("t"))
        async with opened("sqlite", tmp_path) as store:
            assert await store.read("t") == [said(1)]

    asyncio.run(main())


def test_sqlite_refuses_a_file_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "stepwell.db").write_bytes(b"something else entirely, and long enough to be read as a header" * 20)
    with pytest.raises(StoreError, match="cannot open the database"):
        SqliteStore(tmp_path / "stepwell.db")


def test_sqlite_commits_at_full_synchronous_in_a_write_ahead_log(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened("sqlite", tmp_path) as store:
            assert isinstance(store, SqliteStore)
            pragma = await store._submit(
                lambda db: [db.execute("PRAGMA journal_mode").get, db.execute("PRAGMA synchronous").get]
            )
            assert pragma == ["wal", 2]

    asyncio.run(main())


def test_sqlite_answers_after_close_with_a_clear_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened("sqlite", tmp_path) as store:
            pass
        with pytest.raises(StoreError, match="closed"):
            await store.append("t", [said(1)], expect=0, new=row("t"))
        with pytest.raises(StoreError, match="closed"):
            await store.read("t")

    asyncio.run(main())
