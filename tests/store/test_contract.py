"""What every store must do; each adapter runs all of it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.contexts import handle_of_blob
from stepwell.errors import Conflict, StoreError
from stepwell.events import (
    Answered,
    Asked,
    Forked,
    MessageAdded,
    Recorded,
    RunClaimed,
    RunEnded,
    RunStarted,
    RunWaiting,
    TitleChanged,
    ToolEnded,
)
from stepwell.messages import Message
from stepwell.specs import Limits, RunSpec
from stepwell.state.thread import NEVER
from stepwell.store.base import BLOB_LIMIT, ApiKey, KeyUse, Spending, Store, ThreadInfo
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
    return msgspec.structs.replace(ThreadInfo(id, owner, "a title", 1000), **more)


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
        assert await store.due(0) == [info]
        await store.append("t", [Recorded(3, 3, 1, RunEnded("answer"))], expect=2)
        assert await store.due(0) == []
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


def test_a_thread_is_kept_for_so_long_after_its_newest_event(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        await store.append("t", [Recorded(1, 40, 0, TitleChanged("x"))], expect=0, new=row("t", created=5, expires=10))
        assert await store.expired(44) == []
        assert await store.expired(45) == ["t"]

    run(body)


def test_the_time_of_a_run_that_waits_passes_too(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        waits = [Recorded(1, 5, 1, RunStarted(RunSpec())), Recorded(2, 5, 1, RunWaiting())]
        await store.append("t", waits, expect=0, new=row("t", created=5, expires=10), wake=NEVER)
        assert await store.expired(10) == ["t"]
        await store.append("t", [Recorded(3, 6, 1, RunClaimed(1))], expect=2, wake=0)
        assert await store.expired(99) == []

    run(body)


def test_api_keys_are_kept_and_revoked_once(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        key = ApiKey("k1", "ann", "f" * 64, 5, limits=Limits(steps=3, money=0.5))
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


# big results


def kept(*blobs: bytes) -> dict[str, bytes]:
    return {hashlib.sha256(data).hexdigest(): data for data in blobs}


def name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_big_result_is_read_back_whole_and_in_parts_by_the_beginning_of_its_hash(
    run: Callable[[Body], None],
) -> None:
    async def body(store: Store) -> None:
        data = bytes(range(256)) * 50
        await store.append("t", [said(1)], expect=0, new=row("t"), blobs=kept(data))
        for prefix in (name(data)[:12], name(data)[:37], name(data)):
            assert await store.blob("t", prefix) == data
            assert await store.blob_size("t", prefix) == len(data)
        short = name(data)[:12]
        assert await store.blob("t", short, offset=5000, length=7) == data[5000:5007]
        assert await store.blob("t", short, offset=12_790, length=100) == data[12_790:]
        assert await store.blob("t", short, offset=10**12) == b""
        assert await store.blob("t", short, length=0) == b""
        assert [event.seq for event in await store.read("t")] == [1]

    run(body)


def test_what_is_no_beginning_of_a_hash_finds_nothing(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        data = b"x" * 100
        hash = name(data)
        assert await store.blob("t", hash) is None
        await store.append("t", [said(1)], expect=0, new=row("t"))
        assert await store.blob("t", hash) is None
        await store.append("t", [said(2)], expect=1, blobs=kept(data))
        for wrong in ("", hash[:11], hash[1:20], hash + "0", hash.upper(), "%" * 12, "'" * 12, hash[:11] + "g"):
            assert await store.blob("t", wrong) is None
            assert await store.blob_size("t", wrong) is None
        assert await store.blob("nowhere", hash) is None

    run(body)


def test_a_beginning_that_fits_two_results_finds_neither(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        one, other = "a" * 12 + "0" * 52, "a" * 12 + "1" * 52
        await store.append("t", [said(1)], expect=0, new=row("t"), blobs={one: b"1", other: b"2"})
        assert await store.blob("t", "a" * 12) is None
        assert await store.blob_size("t", "a" * 12) is None
        assert await store.blob("t", "a" * 12 + "1") == b"2"

    run(body)


def test_the_same_result_twice_is_kept_once_and_found(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        data = b"again" * 1000
        await store.append("t", [said(1)], expect=0, new=row("t"), blobs=kept(data))
        await store.append("t", [said(2)], expect=1, blobs=kept(data, b""))
        assert await store.blob("t", name(data)) == data
        assert await store.blob("t", name(b"")) == b""
        assert await store.blob_size("t", name(b"")) == 0

    run(body)


def test_a_thread_sees_no_results_of_others_and_loses_none_with_them(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        shared, own = b"shared" * 1000, b"own" * 1000
        await store.append("a", [said(1)], expect=0, new=row("a"), blobs=kept(shared, own))
        await store.append("b", [said(1)], expect=0, new=row("b"), blobs=kept(shared))
        assert await store.blob("b", name(own)) is None
        assert await store.delete("a")
        assert await store.blob("a", name(shared)) is None
        assert await store.blob("b", name(shared)) == shared
        assert await store.delete("b")
        await store.append("c", [said(1)], expect=0, new=row("c"))
        assert await store.blob("c", name(shared)) is None
        await store.append("c", [said(2)], expect=1, blobs=kept(shared))
        assert await store.blob("c", name(shared)) == shared

    run(body)


def test_a_refused_append_leaves_no_result_behind(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        await store.append("t", [said(1)], expect=0, new=row("t"))
        for data, expect in ((b"late" * 10, 0), (b"early" * 10, 5)):
            with pytest.raises(Conflict):
                await store.append("t", [said(expect + 1)], expect=expect, blobs=kept(data))
            assert await store.blob("t", name(data)) is None

    run(body)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.booleans()), max_size=20))
def test_whatever_is_kept_and_removed_a_thread_finds_exactly_its_own(steps: list[tuple[int, int, bool]]) -> None:
    async def main() -> None:
        there: dict[str, list[bytes]] = {}
        store = MemoryStore()
        for thread, number, remove in ((f"t{t}", n, r) for t, n, r in steps):
            data = bytes([number]) * 10
            if remove:
                assert await store.delete(thread) == (thread in there)
                there.pop(thread, None)
            elif thread in there:
                await store.append(thread, [], expect=0, blobs=kept(data))
                there[thread].append(data)
            else:
                await store.append(thread, [], expect=0, new=row(thread), blobs=kept(data))
                there[thread] = [data]
            for each in ("t0", "t1", "t2"):
                for n in range(4):
                    wanted = bytes([n]) * 10
                    found = await store.blob(each, name(wanted))
                    assert found == (wanted if wanted in there.get(each, []) else None)
        assert set(store._blobs.values()) == {data for each in there.values() for data in each}

    asyncio.run(main())


def count_blobs(path: Path) -> list[int]:
    db = apsw.Connection(str(path))
    try:
        return [db.execute("SELECT count(*) FROM blobs").get, db.execute("SELECT count(*) FROM blob_refs").get]
    finally:
        db.close()


def test_sqlite_holds_each_result_once_and_only_while_a_thread_refers_to_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened("sqlite", tmp_path) as store:
            for id in ("a", "b"):
                await store.append(id, [said(1)], expect=0, new=row(id), blobs=kept(b"shared", id.encode()))
            assert count_blobs(tmp_path / "stepwell.db") == [3, 4]
            await store.delete("a")
            assert count_blobs(tmp_path / "stepwell.db") == [2, 2]
        async with opened("sqlite", tmp_path) as store:
            assert await store.blob("b", name(b"shared")) == b"shared"
            await store.delete("b")
            assert count_blobs(tmp_path / "stepwell.db") == [0, 0]

    asyncio.run(main())


def tables(path: Path) -> set[str]:
    db = apsw.Connection(str(path))
    try:
        return {str(row[0]) for row in db.execute("SELECT name FROM sqlite_master")}
    finally:
        db.close()


LATER = ("blob", "questions", "accounts")
"""What the tables and indexes that come with their first row are called, or begin with."""


def later(path: Path) -> set[str]:
    return {each for each in LATER if any(name.startswith(each) for name in tables(path))}


def test_a_file_has_a_place_only_for_what_it_holds(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "stepwell.db"
        async with opened("sqlite", tmp_path) as store:
            # All that looks for such a row or takes it away does without the table.
            await store.append("t", [started(), answered(2, 1), ended(3)], expect=0, new=row("t"), wake=50)
            await store.fork("t", 3, row("f"), [])
            assert [await store.asking("ann", 9), await store.spent("k")] == [[], Spending()]
            assert [ids(await store.overdue(50)), await store.next_wake(0)] == [["t"], 50]
            await store.delete("t")
            assert later(path) == set()
            await store.append("f", [started(4), asked(5, run=4)], expect=3)
            assert later(path) == {"questions"}
            await store.append("f", [], expect=5, spent={"k": Spending(1)})
            await store.append("f", [], expect=5, blobs=kept(b"big"))
            assert later(path) == set(LATER)

    asyncio.run(main())


def test_what_another_process_puts_into_a_file_is_found_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened("sqlite", tmp_path) as one, opened("sqlite", tmp_path) as other:
            await one.append("t", [started()], expect=0, new=row("t"), wake=NEVER)
            for store in (one, other):
                assert [await store.asking("ann", 9), await store.spent("k")] == [[], Spending()]
            await other.append("t", [asked(2, 7000)], expect=1, spent={"k": Spending(5)})
            for store in (one, other):
                assert [await store.asking("ann", 9), await store.spent("k")] == [["t"], Spending(5)]
                assert [ids(await store.overdue(7000)), await store.next_wake(0)] == [["t"], 7000]
            await one.append("t", [answered(3, 2), asked(4)], expect=2, spent={"k": Spending(6), "l": Spending(1)})
            assert [await other.asking("ann", 9), await other.next_wake(0)] == [["t"], NEVER]
            assert await other.delete("t")
            assert [await one.asking("ann", 9), await one.spent("k")] == [[], Spending(6)]

    asyncio.run(main())


def test_a_first_row_that_is_not_stored_leaves_nothing_behind_and_the_next_is_stored(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "stepwell.db"
        async with opened("sqlite", tmp_path) as store:
            await store.append("t", [started()], expect=0, new=row("t"))
            with pytest.raises(StoreError, match="cannot be stored"):
                await store.append("t", [asked(2)], expect=1, spent={"k": Spending(2**70)})
            assert later(path) == set()
            await store.append("t", [asked(2)], expect=1, spent={"k": Spending(3)})
            assert [await store.asking("ann", 9), await store.spent("k")] == [["t"], Spending(3)]

    asyncio.run(main())


def test_the_loop_goes_on_while_sqlite_writes_and_reads_a_big_result(tmp_path: Path) -> None:
    async def main() -> None:
        data = b"0123456789abcdef" * 1_000_000
        async with opened("sqlite", tmp_path) as store:
            for begin in (
                lambda: store.append("t", [said(1)], expect=0, new=row("t"), blobs={"a" * 64: data}),
                lambda: asyncio.ensure_future(store.blob("t", "a" * 12)),
            ):
                work, turns = begin(), 0
                while not work.done():
                    await asyncio.sleep(0)
                    turns += 1
                assert turns > 20
            assert await store.blob("t", "a" * 12) == data
            assert await store.blob("t", "a" * 12, offset=15_999_990, length=6) == b"6789ab"

    asyncio.run(main())


class Endless(bytes):
    """Bytes that say they are more than they are."""

    def __len__(self) -> int:
        return BLOB_LIMIT + 1


def test_a_result_beyond_the_limit_is_refused_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened("sqlite", tmp_path) as store:
            await store.append("t", [], expect=0, new=row("t"))
            refused = store.append("t", [said(1)], expect=0, blobs={"a" * 64: Endless()})
            fine = store.append("t", [said(1)], expect=0)
            with pytest.raises(StoreError, match="the limit is 256000000"):
                await refused
            await fine

    asyncio.run(main())


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


# what waits, what is asked, what is spent


def started(seq: int = 1) -> Recorded:
    return Recorded(seq, 1000 + seq, seq, RunStarted(RunSpec()))


def asked(seq: int, until: int = 0, run: int = 1) -> Recorded:
    return Recorded(seq, 1000 + seq, run, Asked("question", text="Which?", until=until))


def answered(seq: int, question: int, run: int = 1) -> Recorded:
    return Recorded(seq, 1000 + seq, run, Answered(question, "answer", "this"))


def ended(seq: int, cause: str = "", run: int = 1) -> Recorded:
    return Recorded(seq, 1000 + seq, run, RunEnded("answer", cause))


def ids(infos: list[ThreadInfo]) -> list[str]:
    return [info.id for info in infos]


def test_a_waiting_run_is_due_only_when_its_time_has_come(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        for id, wake in (("now", None), ("later", 5000), ("never", NEVER)):
            await store.append(id, [started()], expect=0, new=row(id), wake=wake)
        assert ids(await store.due(4999)) == ["now"]
        assert ids(await store.due(5000)) == ["now", "later"]
        assert ids(await store.overdue(4999)) == []
        assert ids(await store.overdue(5000)) == ["later"]
        assert [await store.next_wake(now) for now in (0, 4999, 5000)] == [5000, 5000, NEVER]
        await store.append("never", [said(2)], expect=1, wake=0)
        assert ids(await store.due(0)) == ["now", "never"]
        await store.append("later", [ended(2)], expect=1)
        assert [await store.next_wake(0), ids(await store.overdue(9999))] == [NEVER, []]

    run(body)


def test_a_thread_whose_messages_wait_is_due_without_a_run(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        await store.append("t", [started()], expect=0, new=row("t"))
        await store.append("t", [ended(2)], expect=1, wake=0)
        assert [(info.id, info.run) for info in await store.due(0)] == [("t", 0)]
        await store.append("t", [said(3)], expect=2, wake=NEVER)
        assert await store.due(9999) == []
        await store.append("t", [started(4)], expect=3)
        assert [(info.id, info.run) for info in await store.due(0)] == [("t", 4)]

    run(body)


def test_open_questions_are_found_until_they_are_decided_or_their_run_is_over(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        for at, (id, owner) in enumerate([("b", "ann"), ("a", "ann"), ("x", "bob")]):
            question = Recorded(2, 9000 - at, 1, Asked("question", until=7000 + at))
            await store.append(id, [started(), question], expect=0, new=row(id, owner))
        assert await store.asking("ann", 9) == ["a", "b"]
        assert await store.asking("ann", 1) == ["a"]
        assert [await store.asking(owner, 9) for owner in ("bob", "eve")] == [["x"], []]
        # Of a run that goes on as well: it is never due by that, but overdue.
        assert await store.next_wake(0) == 7000
        assert ids(await store.overdue(7001)) == ["b", "a"]
        await store.append("b", [answered(3, 2)], expect=2)
        await store.append("a", [ended(3)], expect=2)
        await store.append("x", [ended(3, "question")], expect=2)
        assert [await store.asking(owner, 9) for owner in ("ann", "bob")] == [[], ["x"]]
        assert ids(await store.overdue(9999)) == ["x"]
        await store.append("x", [started(4), asked(5, run=4), ended(6, run=4)], expect=3)
        assert await store.asking("bob", 9) == ["x"]
        await store.append("x", [answered(7, 2, run=0)], expect=6)
        assert await store.asking("bob", 9) == []
        await store.append("x", [started(8), asked(9, 5, run=8)], expect=7)
        await store.delete("x")
        assert [await store.asking("bob", 9), await store.overdue(9), await store.next_wake(0)] == [[], [], NEVER]

    run(body)


def test_an_account_holds_what_all_threads_put_on_it_those_that_are_gone_too(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        assert await store.spent("k") == Spending()
        await store.append("a", [said(1)], expect=0, new=row("a"), spent={"k": Spending(5, 4, 3, 2, 1)})
        await store.append("b", [said(1)], expect=0, new=row("b"), spent={"k": Spending(1), "other": Spending(7)})
        await store.append("a", [said(2)], expect=1, spent={"k": Spending(10, 9, 8, 7, 6)})
        with pytest.raises(Conflict):
            await store.append("a", [said(2)], expect=1, spent={"k": Spending(1000)})
        assert [await store.spent(key) for key in ("k", "other")] == [Spending(11, 9, 8, 7, 6), Spending(7)]
        await store.delete("b")
        await store.delete("a")
        await store.append("c", [said(1)], expect=0, new=row("c"), spent={"k": Spending(100)})
        assert [await store.spent(key) for key in ("k", "other")] == [Spending(111, 9, 8, 7, 6), Spending(7)]
        await store.delete("c")
        assert await store.spent("k") == Spending(111, 9, 8, 7, 6)

    run(body)


# forks


def ran(seq: int, data: bytes, *, handle: bool = False) -> Recorded:
    hash = name(data)
    event = ToolEnded("c", f"see {handle_of_blob(hash)}") if handle else ToolEnded("c", "part", blob=hash, size=9)
    return Recorded(seq, 1000 + seq, 1, event)


def test_a_fork_has_the_first_events_and_then_its_own(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        events = [started(), said(2, "一", 1), said(3, "b", 1), ended(4)]
        await store.append("t", events, expect=0, new=row("t"))
        own = [said(3, "c", 1), Recorded(4, 5, 1, Forked("t", 3, 3))]
        new = row("f", title="fork", run=1, parent="t", forked=3)
        await store.fork("t", 2, new, own)
        assert await store.read("f") == [*events[:2], *own]
        assert await store.thread("f") == msgspec.structs.replace(new, seq=4)
        assert ids(await store.due(0)) == ["f"]
        await store.append("f", [ended(5)], expect=4)
        assert await store.read("t") == events
        assert await store.due(0) == []
        await store.delete("t")
        assert await store.read("f", limit=4) == [*events[:2], *own]
        assert [info.parent for info in await store.threads("ann")] == ["t"]

    run(body)


def test_a_fork_shares_what_its_events_refer_to_and_nothing_else(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        early, named, late = b"early" * 9, b"named" * 9, b"late" * 9
        events = [ran(1, early), ran(2, named, handle=True), ran(3, late)]
        await store.append("t", events, expect=0, new=row("t"), blobs=kept(early, named, late))
        await store.fork("t", 2, row("f", parent="t", forked=2), [said(3)])
        await store.fork("t", 0, row("g", parent="t", forked=1), [said(1)])
        assert [await store.blob("f", name(data)) for data in (early, named, late)] == [early, named, None]
        assert await store.blob("g", name(early)) is None
        await store.delete("t")
        assert await store.blob("f", name(early)[:12]) == early
        await store.delete("f")
        assert await store.blob("f", name(early)) is None

    run(body)


def test_a_fork_uses_an_idempotency_key_once_and_takes_it_along_when_it_goes(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        await store.append("t", [said(1)], expect=0, new=row("t"))
        use = KeyUse("ann", "/fork", "k", "body", "f", 0)
        await store.fork("t", 1, row("f"), [], key=use)
        assert await store.key_use("ann", "/fork", "k") == use
        with pytest.raises(Conflict):
            await store.fork("t", 1, row("g"), [], key=KeyUse("ann", "/fork", "k", "body", "g", 0))
        assert await store.thread("g") is None
        await store.delete("f")
        assert await store.key_use("ann", "/fork", "k") is None
        await store.fork("t", 1, row("h"), [], key=KeyUse("ann", "/fork", "k", "body", "h", 0))

    run(body)


def test_a_fork_of_what_is_not_there_makes_nothing(run: Callable[[Body], None]) -> None:
    async def body(store: Store) -> None:
        await store.append("t", [said(1)], expect=0, new=row("t"))
        for thread, upto, id in (("nowhere", 1, "f"), ("t", 2, "f"), ("t", 1, "t")):
            with pytest.raises(Conflict):
                await store.fork(thread, upto, row(id), [])
        assert ids(await store.threads("ann")) == ["t"]
        # It sees what was appended before it, though nobody waited for that.
        first = store.append("t", [said(2)], expect=1)
        await store.fork("t", 2, row("f"), [])
        assert first.done()
        assert await store.read("f") == await store.read("t")

    run(body)
