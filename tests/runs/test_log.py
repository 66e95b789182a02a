"""The one appender of a thread: numbers, commits, what is shown when, and what is kept when another came first."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import msgspec
import pytest

from stepwell.contexts import handle_of_blob
from stepwell.errors import Conflict, NotFound, StoreError, StoreFull
from stepwell.events import (
    Answered,
    Asked,
    CallDelta,
    CancelRequested,
    ContextCompacted,
    HistoryCleared,
    LongTermUpdated,
    MessageAdded,
    MessageEnded,
    MessageQueued,
    MessageStarted,
    ModelFailed,
    QueueEdited,
    Recorded,
    RunClaimed,
    RunEnded,
    RunStarted,
    RunWaiting,
    Steered,
    StepEnded,
    StepStarted,
    Stored,
    SummaryEnded,
    SummaryStarted,
    TaskStarted,
    TextDelta,
    ThinkingDelta,
    TitleChanged,
    ToolEnded,
    ToolProgress,
    ToolStarted,
    Unknown,
    Warned,
    WindowLearned,
    WorkingUpdated,
)
from stepwell.messages import Message, ToolCall, Usage
from stepwell.plans import Task
from stepwell.runs.channel import Cursor
from stepwell.runs.log import ThreadLog
from stepwell.specs import RunSpec
from stepwell.state.thread import State
from stepwell.store.base import KeyUse, Spending, Store, ThreadInfo
from stepwell.store.memory import MemoryStore
from tests.support.audit import audit
from tests.support.runs import HeldStore, bounded, open_store

STARTED: tuple[Stored, ...] = (RunStarted(RunSpec()), MessageAdded(Message("user", "go")))
STEP: tuple[Stored, ...] = (StepStarted(1, "…"), MessageStarted())
CALLS = MessageEnded(Message("assistant", calls=(ToolCall("a", "t"), ToolCall("b", "t"))), "tool_calls")

SUMMARY = SummaryStarted("tool_calls", 1, 2)
SUMMED = SummaryEnded("tool_calls", 1, 2, text="both")


def clock() -> int:
    return 7


def made(store: Store) -> ThreadLog:
    log = ThreadLog(store, "t", State(), "ann", clock)
    log.make(ThreadInfo("t", "ann"))
    return log


def shown(log: ThreadLog) -> list[object]:
    return [item.event for item in log.channel.after(Cursor())[0]]


async def other(store: Store, *events: Stored) -> None:
    """Append as another process does, which knows only what is stored."""
    log = ThreadLog(store, "t", State(await store.read("t")), "ann", clock)
    log.append(*events)
    await log.committed()


async def given(store: HeldStore) -> None:
    """Wait until the store was given the first append."""
    while not store.waiting:
        await asyncio.sleep(0)
    assert len(store.waiting) == 1


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_events_are_numbered_at_once_and_stored_in_order(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        store = open_store(kind, tmp_path)
        log = made(store)
        assert log.append(*STARTED) == 1
        assert log.append(*STEP) == 3
        assert (log.state.seq, log.state.run and log.state.run.message) == (4, 4)
        await log.record(TitleChanged("x"), durable=True)
        stored = await store.read("t")
        assert [(each.seq, each.time, each.run) for each in stored] == [(number, 7, 1) for number in range(1, 6)]
        assert [each.event for each in stored] == shown(log)
        await log.committed()
        await store.close()

    bounded(main)


def test_what_is_not_on_the_disk_is_not_shown() -> None:
    async def main() -> None:
        store = HeldStore()
        store.held = True
        log = made(store)
        log.append(*STARTED)
        waiter = asyncio.ensure_future(log.committed())
        await given(store)
        log.append(TitleChanged("x"))
        assert shown(log) == []
        assert log.busy
        store.release()
        await waiter
        assert shown(log) == list(STARTED)
        await log.committed()
        assert shown(log) == [*STARTED, TitleChanged("x")]

    bounded(main)


def test_a_run_and_what_its_driver_begins_in_the_next_turn_of_the_loop_are_one_commit() -> None:
    async def main() -> None:
        store = HeldStore()
        store.held = True
        log = made(store)
        log.append(*STARTED)

        async def drive() -> None:
            log.append(*STEP)

        await asyncio.ensure_future(drive())
        await given(store)
        store.release()
        assert [each.event for each in await store.read("t")] == [*STARTED, *STEP]
        await log.committed()

    bounded(main)


def test_what_waits_for_no_disk_is_shown_before_memory_has_it_and_once() -> None:
    async def main() -> None:
        store = MemoryStore()
        log = made(store)
        log.append(*STARTED, *STEP)
        await log.visible()
        log.publish(TextDelta(4, "a"))
        assert await store.read("t") == []
        assert shown(log) == [*STARTED, *STEP, TextDelta(4, "a")]
        log.append(CALLS, ToolStarted("a", "t"))
        log.publish(ToolProgress("a", "5%"))
        assert shown(log)[5:] == []
        await log.visible()
        log.append(ToolStarted("b", "t"))
        log.publish(ToolProgress("b", "1%"))
        log.flush()
        rest = [CALLS, ToolStarted("a", "t"), ToolProgress("a", "5%"), ToolStarted("b", "t"), ToolProgress("b", "1%")]
        assert shown(log)[5:] == rest
        assert [each.seq for each in await store.read("t")] == list(range(1, 8))

    bounded(main)


def test_nothing_is_visible_before_the_disk_has_it() -> None:
    async def main() -> None:
        store = HeldStore()
        store.held = True
        log = made(store)
        log.append(*STARTED)
        waiter = asyncio.ensure_future(log.visible())
        await asyncio.sleep(0)
        assert (shown(log), waiter.done()) == ([], False)
        store.release()
        await waiter
        assert shown(log) == list(STARTED)

    bounded(main)


def test_a_cancelled_waiter_undoes_nothing() -> None:
    async def main() -> None:
        store = HeldStore()
        store.held = True
        log = made(store)
        waiter = asyncio.ensure_future(log.record(*STARTED, durable=True))
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter])
        store.release()
        await log.committed()
        assert len(await store.read("t")) == 2

    bounded(main)


def test_progress_is_shown_after_the_call_that_it_belongs_to() -> None:
    async def main() -> None:
        store = HeldStore()
        log = made(store)
        log.append(*STARTED, *STEP, CALLS)
        await log.committed()
        store.held = True
        log.append(ToolStarted("a", "t"))
        log.publish(ToolProgress("a", "5%"))
        log.append(ToolStarted("b", "t"))
        log.publish(ToolProgress("b", "1%"))
        log.append(ToolEnded("a", ""))
        await asyncio.sleep(0)
        assert shown(log)[5:] == []
        store.release()
        await log.committed()
        assert shown(log)[5:] == [
            ToolStarted("a", "t"),
            ToolProgress("a", "5%"),
            ToolStarted("b", "t"),
            ToolProgress("b", "1%"),
            ToolEnded("a", ""),
        ]
        log.publish(ToolProgress("b", "9%"))
        assert shown(log)[10:] == [ToolProgress("b", "9%")]
        assert {item.run for item in log.channel.after(Cursor())[0]} == {1}

    bounded(main)


def test_the_partial_message_is_what_was_shown_of_it() -> None:
    async def main() -> None:
        log = made(MemoryStore())
        log.append(*STARTED)
        assert log.partial(0) == Message("assistant")
        log.append(*STEP)
        for delta in (ThinkingDelta(4, "h"), TextDelta(4, "a"), CallDelta(4, 0, "t", "{"), TextDelta(4, "b")):
            log.publish(delta)
        log.append(TitleChanged("x"))
        log.publish(ThinkingDelta(4, "m"))
        assert log.partial(4) == Message("assistant", "ab", thinking="hm")

    bounded(main)


def test_a_full_store_is_told_to_everybody_and_nothing_more_is_taken() -> None:
    async def main() -> None:
        store = HeldStore()
        log = made(store)
        log.append(*STARTED)
        await log.committed()
        store.full = True
        log.append(*STEP)
        waiting = log.channel.wait()
        outcomes = await asyncio.gather(log.committed(), log.committed(), waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StoreFull, StoreFull, bool]
        assert log.channel.closed
        for attempt in (log.committed(), log.record(TitleChanged("x")), log.rebase()):
            with pytest.raises(StoreFull):
                await attempt
        assert shown(log) == list(STARTED)

    bounded(main)


def test_what_cannot_be_written_fails_alone_and_the_store_works_on(tmp_path: Path) -> None:
    async def main() -> None:
        store = open_store("sqlite", tmp_path)
        bad, good = made(store), ThreadLog(store, "g", State(), "ann", clock)
        good.make(ThreadInfo("g", "ann"))
        bad.append(TitleChanged("\ud800"))
        good.append(TitleChanged("good"))
        outcomes = await asyncio.gather(bad.committed(), good.committed(), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StoreError, type(None)]
        assert await store.thread("t") is None
        assert [each.event for each in await store.read("g")] == [TitleChanged("good")]
        await store.close()

    bounded(main)


# another process came first


async def conflict(store: Store, log: ThreadLog, theirs: list[Stored], *ours: Stored) -> list[Recorded]:
    """Let another process append before our events are stored; return the audited log after the rebase."""
    await log.committed()
    await other(store, *theirs)
    log.append(*ours)
    with pytest.raises(Conflict):
        await log.committed()
    await log.rebase()
    await log.committed()
    stored = await store.read("t")
    audit(stored)
    assert shown(log) == [each.event for each in stored]
    assert log.state.seq == len(stored)
    return stored


@pytest.mark.parametrize(
    ("before", "theirs", "ours", "kept"),
    [
        # A claim stands when something small came first, and falls when another claim did.
        ([], [TitleChanged("x")], [RunClaimed(1)], [RunClaimed(1)]),
        ([], [RunClaimed(1)], [RunClaimed(1)], []),
        ([], [TitleChanged("x")], [RunClaimed(1), *STEP, CALLS], [RunClaimed(1), *STEP, CALLS]),
        # Facts stay, intents are decided again.
        ([*STEP], [TitleChanged("x")], [CALLS, ToolStarted("a", "t")], [CALLS]),
        ([*STEP, CALLS], [TitleChanged("x")], [ToolStarted("a", "t", "write")], []),
        ([*STEP, CALLS], [TitleChanged("x")], [ToolStarted("a", "t", "write"), TitleChanged("y")], [TitleChanged("y")]),
        (
            [*STEP, CALLS],
            [CancelRequested()],
            [ToolStarted("a", "t"), ToolStarted("b", "t"), ToolEnded("a", "1")],
            [ToolStarted("a", "t"), ToolEnded("a", "1")],
        ),
        ([], [TitleChanged("x")], [*STEP], []),
        ([], [TitleChanged("x")], [*STEP, CALLS], [*STEP, CALLS]),
        ([*STEP], [TitleChanged("x")], [ModelFailed("server", "", 500, 1.0)], []),
        (
            [*STEP],
            [TitleChanged("x")],
            [MessageEnded(Message("assistant", "hi"), "stop"), StepEnded(), RunEnded("answer")],
            [MessageEnded(Message("assistant", "hi"), "stop")],
        ),
        # Commands stay where they still mean something.
        ([], [TitleChanged("x")], [CancelRequested("mine")], [CancelRequested("mine")]),
        ([], [CancelRequested("theirs")], [CancelRequested("mine")], []),
        ([], [RunEnded("cancelled")], [CancelRequested("mine"), TitleChanged("y")], [TitleChanged("y")]),
        # Of what the agent knows, what was paid for or asked for stays; how requests are made is decided again.
        (
            [*STEP],
            [TitleChanged("x")],
            [
                CALLS,
                WorkingUpdated({}, "saw"),
                ContextCompacted(3, "digest"),
                HistoryCleared(),
                Warned("no_reply"),
                WindowLearned(4096, "m"),
                LongTermUpdated(current_goal="goal"),
                LongTermUpdated(pinned="fact"),
            ],
            [CALLS, WindowLearned(4096, "m"), LongTermUpdated(current_goal="goal"), LongTermUpdated(pinned="fact")],
        ),
        ([], [TitleChanged("x")], [SUMMARY, SUMMED], [SUMMARY, SUMMED]),
        ([SUMMARY], [TitleChanged("x")], [SUMMED], [SUMMED]),
        ([], [TitleChanged("x")], [SUMMARY, SummaryStarted("rolling", 1, 1)], []),
        ([SUMMARY, SUMMED], [TitleChanged("x")], [SUMMED], []),
        ([SUMMARY], [TitleChanged("x")], [SummaryEnded("tool_calls", 1, 3)], []),
        (
            [],
            [WindowLearned(2048, "m")],
            [WindowLearned(4096, "m"), WindowLearned(4096, "n")],
            [WindowLearned(4096, "n")],
        ),
        ([], [WindowLearned(4096, "m")], [WindowLearned(2048, "m")], [WindowLearned(2048, "m")]),
        (
            [SUMMARY],
            [RunClaimed(1)],
            [SUMMED, LongTermUpdated(rolled="r", rolled_messages=1), LongTermUpdated(unpinned="f"), WindowLearned(9)],
            [LongTermUpdated(unpinned="f")],
        ),
        # What they have closed is not ours any more.
        (
            [*STEP],
            [RunClaimed(1), ModelFailed("interrupted", ""), MessageEnded(Message("assistant"), "error"), StepEnded()],
            [CALLS],
            [],
        ),
        ([*STEP], [RunClaimed(1)], [CALLS], []),
        # A reply is nothing without its step, and belongs into no step of another.
        ([], [*STEP], [*STEP, CALLS, ToolStarted("a", "t"), ToolEnded("a", "1")], []),
        (
            [*STEP],
            [MessageEnded(Message("assistant"), "cancelled"), StepEnded(), StepStarted(2, "…"), MessageStarted()],
            [ModelFailed("interrupted", ""), MessageEnded(Message("assistant"), "error"), StepEnded(), *STEP, CALLS],
            [],
        ),
        # A result is there once, whoever brought it first.
        (
            [*STEP, CALLS, ToolStarted("a", "t")],
            [ToolEnded("a", "1")],
            [ToolEnded("a", "1"), ToolStarted("b", "t"), ToolEnded("b", "2")],
            [ToolStarted("b", "t"), ToolEnded("b", "2")],
        ),
        (
            [*STEP],
            [RunClaimed(1)],
            [MessageEnded(Message("assistant", "hi"), "stop"), StepEnded(), RunEnded("answer")],
            [],
        ),
        (
            [*STEP, CALLS, ToolStarted("a", "t", "write"), ToolStarted("b", "t")],
            [RunClaimed(1), ToolEnded("a", "?", "unknown")],
            [ToolEnded("a", "1"), ToolEnded("b", "2"), StepEnded(), *STEP],
            [ToolEnded("b", "2")],
        ),
    ],
)
def test_after_a_conflict_facts_stand_and_intents_are_dropped(
    before: list[Stored], theirs: list[Stored], ours: list[Stored], kept: list[Stored]
) -> None:
    async def main() -> None:
        store = HeldStore()
        log = made(store)
        log.append(*STARTED, *before)
        log.carried = 1
        stored = await conflict(store, log, theirs, *ours)
        assert [each.event for each in stored] == [*STARTED, *before, *theirs, *kept]
        claimed = any(isinstance(each, RunClaimed) for each in theirs)
        assert log.carried == (0 if claimed else 1)

    bounded(main)


def test_a_run_that_lost_the_race_to_start_leaves_nothing_behind() -> None:
    async def main() -> None:
        store = HeldStore()
        log = made(store)
        log.append(TitleChanged("x"))
        log.carried = 2
        lost = [*STARTED, LongTermUpdated(user_message="go"), *STEP, CALLS, ToolEnded("a", "")]
        asked = [TitleChanged("y"), LongTermUpdated(pinned="fact")]
        stored = await conflict(store, log, [*STARTED], *lost, *asked)
        assert [each.event for each in stored] == [TitleChanged("x"), *STARTED, *asked]
        assert log.carried == -1
        assert not log.busy

    bounded(main)


def test_facts_that_come_while_the_log_has_lost_its_place_are_kept_too() -> None:
    async def main() -> None:
        store = HeldStore()
        log = made(store)
        log.append(*STARTED, *STEP, CALLS, ToolStarted("a", "t", "write"), ToolStarted("b", "t", "write"))
        await log.committed()
        await other(store, TitleChanged("x"))
        log.append(ToolEnded("a", "1"))
        with pytest.raises(Conflict):
            await log.committed()
        with pytest.raises(Conflict):
            await log.record(ToolEnded("b", "2"), StepEnded())
        await log.rebase()
        await log.committed()
        assert [each.event for each in await store.read("t")][7:] == [
            TitleChanged("x"),
            ToolEnded("a", "1"),
            ToolEnded("b", "2"),
        ]

    bounded(main)


def test_only_the_first_of_many_rebases_does_anything(tmp_path: Path) -> None:
    async def main() -> None:
        store = open_store("sqlite", tmp_path)
        log = made(store)
        log.append(*STARTED)
        await log.committed()
        await other(store, TitleChanged("x"))
        log.append(CancelRequested("mine"))
        with pytest.raises(Conflict):
            await log.committed()
        await asyncio.gather(*(log.rebase() for _ in range(5)))
        log.append(TitleChanged("y"))
        await log.rebase()
        await log.committed()
        stored = await store.read("t")
        assert [each.event for each in stored][2:] == [TitleChanged("x"), CancelRequested("mine"), TitleChanged("y")]
        await store.close()

    bounded(main)


def test_whoever_drives_is_told_only_if_what_is_under_way_cannot_stand() -> None:
    async def main() -> None:
        for theirs, ours, told in (
            ([TitleChanged("x")], [TitleChanged("y")], False),
            ([TitleChanged("x")], [ToolStarted("a", "t")], True),
            ([TitleChanged("x")], [CancelRequested()], True),
            ([CancelRequested()], [TitleChanged("y")], True),
            ([RunClaimed(1)], [TitleChanged("y")], True),
        ):
            calls: list[bool] = []
            store = HeldStore()
            log = made(store)
            log.append(*STARTED, *STEP, CALLS)
            log.interrupt = lambda calls=calls: calls.append(True)
            await conflict(store, log, list(theirs), *ours)
            assert bool(calls) == told

    bounded(main)


def test_a_thread_that_was_removed_is_not_found_and_its_readers_are_told() -> None:
    async def main() -> None:
        store = HeldStore()
        log = made(store)
        log.append(*STARTED)
        await log.committed()
        await store.delete("t")
        log.append(TitleChanged("y"))
        with pytest.raises(Conflict):
            await log.committed()
        with pytest.raises(NotFound):
            await log.rebase()
        assert log.channel.closed

    bounded(main)


def test_nothing_is_appended_to_a_thread_of_a_newer_version() -> None:
    async def main() -> None:
        store = HeldStore()
        log = made(store)
        log.append(*STARTED)
        await log.committed()
        newer = Recorded(3, 0, 1, Unknown(msgspec.Raw(b'{"type":"future"}')))
        await store.append("t", [newer], expect=2)
        log.append(TitleChanged("y"))
        with pytest.raises(Conflict):
            await log.committed()
        await log.rebase()
        assert log.state.foreign == [3]
        assert (await store.read("t"))[2:] == [newer]
        assert shown(log)[2:] == [newer.event]

    bounded(main)


def test_a_key_is_stored_with_the_events_that_it_made() -> None:
    async def main() -> None:
        store = HeldStore()
        log = made(store)
        use = KeyUse("ann", "/r", "k", "0" * 64, "t", 1)
        log.use_key(use)
        log.append(*STARTED)
        await log.committed()
        log.append(TitleChanged("x"))
        await log.committed()
        assert await store.key_use("ann", "/r", "k") == use

    bounded(main)


def test_a_key_goes_with_its_own_events_alone() -> None:
    async def main() -> None:
        store = HeldStore()
        log = made(store)
        one, two, lost = (KeyUse("ann", "/r", key, "0" * 64, "t", 1) for key in ("one", "two", "lost"))
        log.use_key(one)
        log.append(*STARTED)
        log.use_key(two)
        log.append(TitleChanged("x"))
        await log.committed()
        assert await store.key_use("ann", "/r", "one") == one
        assert await store.key_use("ann", "/r", "two") == two
        await other(store, TitleChanged("theirs"))
        log.append(TitleChanged("ours"))
        with pytest.raises(Conflict):
            await log.committed()
        log.use_key(lost)
        with pytest.raises(Conflict):
            log.append(TitleChanged("never"), again=True)
        await log.rebase()
        log.append(TitleChanged("more"))
        await log.committed()
        assert await store.key_use("ann", "/r", "lost") is None
        assert [each.event for each in await store.read("t")][-2:] == [TitleChanged("ours"), TitleChanged("more")]

    asyncio.run(main())


def test_a_failure_that_comes_while_the_place_is_lost_stays_with_its_reply() -> None:
    async def main() -> None:
        store = HeldStore()
        log = made(store)
        log.append(*STARTED, *STEP)
        await log.committed()
        await other(store, TitleChanged("theirs"))
        log.append(TitleChanged("ours"))
        with pytest.raises(Conflict):
            await log.committed()
        failed = (ModelFailed("interrupted", ""), MessageEnded(Message("assistant"), "error"))
        with pytest.raises(Conflict):
            log.append(*failed)
        await log.rebase()
        await log.committed()
        stored = await store.read("t")
        audit(stored)
        assert [each.event for each in stored][-2:] == [*failed]

    asyncio.run(main())


def test_what_ran_on_an_approval_that_is_lost_is_run_again() -> None:
    async def main() -> None:
        store = HeldStore()
        log = made(store)
        log.append(*STARTED, *STEP, CALLS, Asked("approval", "a", "May it?"))
        await log.committed()
        await other(store, TitleChanged("theirs"))
        log.tell(Answered(log.state.seq, "approve", by="ann"), again=True)
        log.append(ToolStarted("a", "t"), ToolEnded("a", "1"), ToolStarted("b", "t"), ToolEnded("b", "2"))
        with pytest.raises(Conflict):
            await log.committed()
        await log.rebase()
        await log.committed()
        stored = [each.event for each in await store.read("t")]
        assert stored[-3:] == [TitleChanged("theirs"), ToolStarted("b", "t"), ToolEnded("b", "2")]
        assert len(log.state.questions) == 1

    asyncio.run(main())


# big results and the past

DATA = b"big" * 1000
HASH = hashlib.sha256(DATA).hexdigest()
BIG = ToolEnded("a", "bi…", blob=HASH, size=3000)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_big_result_is_stored_with_its_event_and_found_before_and_after(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        store = open_store(kind, tmp_path)
        log = made(store)
        log.append(*STARTED, *STEP, CALLS, ToolStarted("a", "t"))
        await log.record(BIG, blobs={HASH: DATA})
        assert await log.blob(HASH[:12]) == DATA
        assert await log.blob(HASH[:11]) is None
        await log.committed()
        assert await log.blob(HASH[:12]) == DATA
        assert await store.blob("t", HASH) == DATA
        assert await log.blob("0" * 12) is None
        await store.close()

    bounded(main)


def test_a_result_under_way_to_the_disk_can_be_read() -> None:
    async def main() -> None:
        store = HeldStore()
        store.held = True
        log = made(store)
        log.append(*STARTED, blobs={HASH: DATA})
        await given(store)
        same = HASH[:12] + "f" * 52
        log.append(TitleChanged("x"), blobs={same: b"other"})
        assert await log.blob(same) == b"other"
        assert await log.blob(HASH) == DATA
        assert await log.blob(HASH[:12]) is None
        store.release()
        await log.committed()
        assert await store.blob("t", same) == b"other"

    bounded(main)


def test_after_a_conflict_a_big_result_stays_with_the_result_that_stays() -> None:
    async def main() -> None:
        store = HeldStore()
        log = made(store)
        log.append(*STARTED, *STEP, CALLS, ToolStarted("a", "t"), ToolStarted("b", "t"))
        await log.committed()
        await other(store, TitleChanged("x"), ToolEnded("b", "theirs"))
        lost, stray = hashlib.sha256(b"lost").hexdigest(), hashlib.sha256(b"stray").hexdigest()
        log.append(BIG, blobs={HASH: DATA, stray: b"stray"})
        log.append(ToolEnded("b", "ours", blob=lost), blobs={lost: b"lost"})
        with pytest.raises(Conflict):
            await log.committed()
        await log.rebase()
        await log.committed()
        assert [each.event for each in await store.read("t")][9:] == [BIG]
        found = [await store.blob("t", hash) for hash in (HASH, lost, stray)]
        assert found == [DATA, None, None]

    bounded(main)


def test_a_big_result_that_comes_while_the_log_has_lost_its_place_is_kept_too() -> None:
    async def main() -> None:
        store = HeldStore()
        log = made(store)
        log.append(*STARTED, *STEP, CALLS, ToolStarted("a", "t"), ToolStarted("b", "t"))
        await log.committed()
        await other(store, TitleChanged("x"))
        log.append(BIG, blobs={HASH: DATA})
        with pytest.raises(Conflict):
            await log.committed()
        late = hashlib.sha256(b"late").hexdigest()
        with pytest.raises(Conflict):
            await log.record(ToolEnded("b", f"see {handle_of_blob(late)}"), blobs={late: b"late"})
        assert await log.blob(late) == b"late"
        await log.rebase()
        await log.committed()
        assert [await store.blob("t", hash) for hash in (HASH, late)] == [DATA, b"late"]

    bounded(main)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_the_past_is_read_with_what_is_not_yet_stored(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        store = open_store(kind, tmp_path)
        log = made(store)
        for number in range(1, 31):
            log.append(TitleChanged(str(number)))
            if number % 7 == 0:
                await log.committed()
            elif number % 3 == 0:
                await asyncio.sleep(0)
            for after, limit in ((0, None), (number - 3, None), (number - 4, 3), (number, 5), (0, 2), (5, 0)):
                start = max(after, 0)
                seqs = [each.seq for each in await log.read(after=start, limit=limit)]
                assert seqs == list(range(start + 1, number + 1))[:limit]
        await log.committed()
        await store.close()

    bounded(main)


def test_the_past_has_each_number_once_while_a_batch_is_under_way() -> None:
    async def main() -> None:
        store = HeldStore()
        log = made(store)
        log.append(*STARTED)
        await log.committed()
        store.held = True
        log.append(TitleChanged("a"))
        await asyncio.sleep(0)
        log.append(TitleChanged("b"))
        assert [each.event for each in await log.read(after=1)] == [STARTED[1], TitleChanged("a"), TitleChanged("b")]
        store.release()
        await log.committed()
        await other(store, TitleChanged("c"))
        log.append(TitleChanged("d"))
        with pytest.raises(Conflict):
            await log.committed()
        assert [each.event for each in await log.read(after=3)] == [TitleChanged("b"), TitleChanged("c")]
        await log.rebase()
        assert [each.seq for each in await log.read(after=3)] == [4, 5, 6]

    bounded(main)


# what is stored beside the events


def question(until: int = 0) -> Asked:
    return Asked("question", text="Which?", until=until)


async def waits(log: ThreadLog, until: int = 0) -> None:
    log.append(RunStarted(RunSpec()), question(until), RunWaiting(until))
    await log.committed()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_the_store_knows_when_a_thread_has_work_again(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        store = open_store(kind, tmp_path)
        told: list[int] = []
        log = ThreadLog(store, "t", State(), "ann", clock, told.append)
        log.make(ThreadInfo("t", "ann"))
        await waits(log, 500)
        assert told == [500, 500]
        assert await store.due(499) == []
        assert await store.next_wake(0) == 500
        log.tell(Answered(2, "answer", "this"))
        await log.committed()
        assert [info.id for info in await store.due(0)] == ["t"]
        log.append(RunEnded("answer"))
        await log.committed()
        log.append(MessageQueued(Message("user", "next"), RunSpec()))
        await log.committed()
        assert [(info.id, info.run) for info in await store.due(0)] == [("t", 0)]
        log.append(*(QueueEdited(each.seq, removed=True) for each in log.state.queue))
        await log.committed()
        assert await store.due(2**61) == []
        await store.close()

    asyncio.run(main())


def test_a_run_that_waits_after_a_conflict_is_stored_as_waiting() -> None:
    async def main() -> None:
        store = MemoryStore()
        log = made(store)
        await waits(log)
        log.append(Answered(2, "answer", "this", by="ann"))
        await log.committed()
        log.append(question(), RunWaiting())
        await other(store, TitleChanged("new"))
        with pytest.raises(Conflict):
            await log.committed()
        await log.rebase()
        log.append(question(), RunWaiting())
        await log.committed()
        assert await store.due(2**61) == []

    asyncio.run(main())


def test_what_is_decided_again_is_not_kept_after_a_conflict() -> None:
    async def main() -> None:
        store = MemoryStore()
        log = made(store)
        await waits(log)
        await other(store, TitleChanged("theirs"))
        log.tell(Answered(2, "answer", "this", by="ann"), again=True)
        log.append(TitleChanged("ours"))
        for _ in range(2):
            with pytest.raises(Conflict):
                log.append(Steered(Message("user", "more")), again=True) if log.error else await log.committed()
        await log.rebase()
        await log.committed()
        assert [type(each.event) for each in await store.read("t")][3:] == [TitleChanged, TitleChanged]
        assert 2 in log.state.questions
        log.tell(Answered(2, "answer", "this", by="ann"), again=True)
        await log.committed()
        # What was stored is no candidate for a later conflict.
        log.append(TitleChanged("more"))
        await other(store, TitleChanged("again"))
        with pytest.raises(Conflict):
            await log.committed()
        await log.rebase()
        assert [type(each.event) for each in await store.read("t")].count(Answered) == 1

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_what_a_thread_spends_is_on_the_accounts_of_its_keys(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        store = open_store(kind, tmp_path)
        log = made(store)
        step = (StepStarted(1, "r", reserved=50), MessageStarted())
        reply = MessageEnded(Message("assistant", "hi"), "stop", Usage(10, 5), cost=30)
        log.append(RunStarted(RunSpec(key="a")), *step)
        await log.committed()
        assert await store.spent("a") == Spending(money=50, steps=1)
        log.append(reply, StepEnded(), RunEnded("answer"), RunStarted(RunSpec(key="b")), *step)
        await log.committed()
        assert await store.spent("a") == Spending(30, 15, 1)
        assert await store.spent("b") == Spending(money=50, steps=1)
        again = ThreadLog(store, "t", State(await store.read("t")), "ann", clock)
        again.append(reply, StepEnded(), RunEnded("answer"), RunStarted(RunSpec()), *step, reply)
        await again.committed()
        assert [await store.spent(key) for key in ("a", "b", "")] == [Spending(30, 15, 1)] * 2 + [Spending()]
        await store.close()

    asyncio.run(main())


def test_two_agents_have_open_messages_at_once_and_each_keeps_its_own_text() -> None:
    async def main() -> None:
        log = made(MemoryStore())
        log.append(RunStarted(RunSpec()))
        for path in ("1.1", "1.2"):
            log.append(TaskStarted(Task(id=path, name="n", goal="g"), RunSpec()), path=path)
        one = log.append(StepStarted(1, "r"), MessageStarted(), path="1.1") + 1
        two = log.append(StepStarted(1, "r"), MessageStarted(), path="1.2") + 1
        await log.committed()
        for text in "abc":
            log.publish(TextDelta(one, text))
            log.at("1.2").publish(TextDelta(two, text.upper()))
        assert [log.partial(number).content for number in (one, two)] == ["abc", "ABC"]
        assert log.channel.held == {"1.1", "1.2"}
        log.append(MessageEnded(log.partial(one), "stop"), path="1.1")
        assert log.channel.held == {"1.2"}
        assert log.at("1.2").partial(two).content == "ABC"

    asyncio.run(main())
