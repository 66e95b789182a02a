"""Threads and runs as their owners see them: who may see what, what happens once, and what happens at the same time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from stepwell.errors import Busy, ConfigError, InputError, KeyReused, NotFound, StoreFull
from stepwell.events import (
    CancelRequested,
    MessageAdded,
    MessageStarted,
    Recorded,
    RunEnded,
    RunStarted,
    TextDelta,
    TitleChanged,
    ToolEnded,
    Unknown,
)
from stepwell.messages import Message
from stepwell.models.base import ModelRequest
from stepwell.models.scripted import Answer, Gate, Step, call, reply
from stepwell.runs.channel import Cursor, Item
from stepwell.runs.people import pause
from stepwell.runs.service import NewThread, Once, RunRef, RunService
from stepwell.specs import RunSpec
from stepwell.store.base import Store
from stepwell.store.memory import MemoryStore
from stepwell.tools.mark import tool
from tests.support.audit import audit
from tests.support.runs import (
    OWNER,
    WAIT,
    HeldStore,
    Rig,
    answer_of,
    bounded,
    end_of,
    events_of,
    held,
    is_,
    open_store,
    rig,
    until,
)

HELLO = Message("user", "hello")
BODY, OTHER = "1" * 64, "2" * 64
STORES = ("memory", "sqlite")


def once(key: str = "k", body: str = BODY) -> Once:
    return Once("/messages", key, body)


async def strictly(made: Rig, text: str, thread: str) -> RunRef:
    """Start a run where none may be open."""
    return await made.service.start(OWNER, Message("user", text), RunSpec(), thread=thread, policy="reject")


def echo(request: ModelRequest) -> str:
    return f"you said: {request.messages[-1].content}"


# owners


@pytest.mark.parametrize("kind", STORES)
def test_what_belongs_to_somebody_else_is_not_there(kind: str, tmp_path: Path) -> None:
    async def follow(service: RunService, owner: str, thread: str) -> None:
        async with aclosing(service.follow(owner, thread)) as batches:
            await anext(batches)

    async def main() -> None:
        gate = Gate()
        async with rig([reply("hi", gates={0: gate})], store=open_store(kind, tmp_path)) as made:
            service, spec = made.service, RunSpec()
            ref = await made.start()
            await gate.reached.wait()
            attempts: list[Callable[[str, str], Awaitable[object]]] = [
                service.info,
                lambda owner, thread: service.rename(owner, thread, "mine now"),
                service.delete,
                service.events,
                lambda owner, thread: service.start(owner, HELLO, spec, thread=thread),
                lambda owner, thread: service.begin(owner, HELLO, spec, thread=thread),
                lambda owner, thread: service.cancel(owner, thread, ref.run),
                lambda owner, thread: follow(service, owner, thread),
            ]
            for attempt in attempts:
                for owner, thread in (("eve", ref.thread), (OWNER, "nowhere"), (OWNER, "")):
                    if thread or attempt not in attempts[4:6]:  # no thread at all makes a new one
                        with pytest.raises(NotFound) as caught:
                            await attempt(owner, thread)
                        assert caught.value.field == "thread"
            assert await service.threads("eve") == []
            gate.set()
            assert end_of(await made.ended(ref)).reason == "answer"
            assert [info.id for info in await service.threads(OWNER)] == [ref.thread]

    bounded(main)


# threads


@pytest.mark.parametrize("kind", STORES)
def test_threads_are_made_renamed_listed_and_removed(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(echo, store=open_store(kind, tmp_path)) as made:
            service = made.service
            first = await service.create(OWNER, title="one\0")
            second = await service.create(OWNER)
            assert (first.title, second.title, len(first.id)) == ("one\ufffd", "", 32)
            assert await service.rename(OWNER, second.id, "two\ud800") == msgspec.structs.replace(
                second, title="two\ufffd", seq=1
            )
            assert [info.title for info in await service.threads(OWNER)] == ["two\ufffd", "one\ufffd"]
            await made.ended(await made.start("hi", second.id))
            await service.delete(OWNER, second.id)
            assert [info.id for info in await service.threads(OWNER)] == [first.id]
            with pytest.raises(NotFound):
                await made.start("hi", second.id)

    bounded(main)


def test_a_thread_is_named_after_its_first_message() -> None:
    async def main() -> None:
        async with rig(echo) as made:
            ref = await made.start("  What is\nthe   time?  " + "x" * 200)
            assert (await made.service.info(OWNER, ref.thread)).title == "What is the time? " + "x" * 62
            new = NewThread(title="Mine", expires=99)
            ref = await made.service.start(OWNER, HELLO, RunSpec(), new=new)
            info = await made.service.info(OWNER, ref.thread)
            assert (info.title, info.expires) == ("Mine", 99)

    bounded(main)


def test_a_conversation_goes_on_where_it_was_and_may_begin_with_a_history() -> None:
    async def main() -> None:
        history = [Message("user", "before\0"), Message("assistant", "yes")]
        async with rig(echo) as made:
            ref = await made.service.start(OWNER, HELLO, RunSpec(system="s"), new=NewThread(history=history))
            log = await made.ended(ref)
            assert [each.event for each in log[:4]] == [
                MessageAdded(Message("user", "before\ufffd"), "history"),
                MessageAdded(history[1], "history"),
                RunStarted(RunSpec(system="s")),
                MessageAdded(HELLO),
            ]
            assert (ref.run, log[0].run, log[2].run) == (3, 0, 3)
            again = await made.start("and?\ud800", ref.thread, system="s")
            log = await made.ended(again)
            assert answer_of(log) == "you said: and?\ufffd"
            assert [message.role for message in made.asked[1].messages] == ["system"] + ["user", "assistant"] * 2 + [
                "user"
            ]

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
def test_renaming_during_a_run_disturbs_nothing(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        async with rig([reply(["a", "b"], gates={1: gate})], store=open_store(kind, tmp_path)) as made:
            ref = await made.start()
            await gate.reached.wait()
            assert (await made.service.rename(OWNER, ref.thread, "new")).title == "new"
            gate.set()
            log = await made.ended(ref)
            assert [(each.run, each.event) for each in log[4:5]] == [(ref.run, TitleChanged("new"))]
            assert answer_of(log) == "ab"

    bounded(main)


# one open run


@pytest.mark.parametrize("kind", STORES)
def test_a_thread_has_one_open_run(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        gate, second = Gate(), Gate()
        script: list[Step] = [reply("one", gates={0: gate}), reply("two", gates={0: second})]
        async with rig(script, store=open_store(kind, tmp_path)) as made:
            ref = await made.start()
            with pytest.raises(Busy, match="wait for its end or cancel it"):
                await strictly(made, "again", ref.thread)
            gate.set()
            await made.ended(ref)
            outcomes = await asyncio.gather(
                *(strictly(made, "again", ref.thread) for _ in range(20)), return_exceptions=True
            )
            won = [each for each in outcomes if isinstance(each, RunRef)]
            assert len(won) == 1
            assert {type(each) for each in outcomes} == {RunRef, Busy}
            second.set()
            assert answer_of(await made.ended(won[0])) == "two"

    bounded(main)


def test_the_next_run_may_start_before_the_end_of_the_last_is_on_the_disk() -> None:
    async def main() -> None:
        store = HeldStore()
        gate = Gate()
        script: list[Step] = [reply("one", gates={0: gate}), "two", "three"]
        async with rig(script, store=store) as made:
            ref = await made.start()
            await gate.reached.wait()
            log = made.service._logs[ref.thread]
            store.held = True
            gate.set()
            while log.state.run is not None:
                await asyncio.sleep(0)
            starting = [asyncio.ensure_future(strictly(made, text, ref.thread)) for text in ("second", "third")]
            await asyncio.sleep(0)
            store.release()
            outcomes = await asyncio.gather(*starting, return_exceptions=True)
            assert [type(each) for each in outcomes] == [RunRef, Busy]
            assert isinstance(outcomes[0], RunRef)
            stored = await made.ended(outcomes[0])
            assert [each.content for each in [call.messages[-1] for call in made.asked]] == ["go", "second"]
            assert len(events_of(stored, RunEnded)) == 2

    bounded(main)


def test_a_run_is_told_only_when_it_is_on_the_disk() -> None:
    async def main() -> None:
        store = HeldStore()
        async with rig(echo, store=store) as made:
            store.held = True
            starting = asyncio.ensure_future(made.start())
            while not store.waiting:
                await asyncio.sleep(0)
            for _ in range(10):
                await asyncio.sleep(0)
            assert not starting.done()
            store.release()
            assert end_of(await made.ended(await starting)).reason == "answer"

    bounded(main)


def test_a_store_in_memory_forgets_old_threads_and_never_one_that_runs() -> None:
    async def main() -> None:
        gate = Gate()
        async with rig(lambda _: reply("x", gates={0: gate}), store=MemoryStore(limit=3)) as made:
            refs = [await made.start() for _ in range(6)]
            assert len(await made.service.threads(OWNER)) == 6
            gate.set()
            for ref in refs:
                await made.ended(ref)
            last = await made.start()
            await made.ended(last)
            assert len(await made.service.threads(OWNER)) == 3
            with pytest.raises(NotFound):
                await made.start("again", refs[0].thread)
            assert end_of(await made.ended(await made.start("again", last.thread))).reason == "answer"

    bounded(main)


# idempotency


@pytest.mark.parametrize("kind", STORES)
def test_a_repeated_request_finds_the_run_that_it_started(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(echo, store=open_store(kind, tmp_path)) as made:
            service, spec = made.service, RunSpec()
            first = await service.start(OWNER, HELLO, spec, once=once())
            assert await service.start(OWNER, HELLO, spec, once=once()) == first._replace(repeated=True)
            await made.ended(first)
            assert await service.start(OWNER, HELLO, spec, once=once()) == first._replace(repeated=True)
            with pytest.raises(KeyReused) as caught:
                await service.start(OWNER, HELLO, spec, once=once(body=OTHER))
            assert caught.value.field == "Idempotency-Key"
            for other in (once("l"), Once("/elsewhere", "k", OTHER)):
                assert not (await service.start(OWNER, HELLO, spec, once=other)).repeated
            assert not (await service.start("eve", HELLO, spec, once=once(body=OTHER))).repeated
            await service.delete(OWNER, first.thread)
            assert not (await service.start(OWNER, HELLO, spec, once=once())).repeated

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
def test_twins_at_the_same_time_start_one_run(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(echo, store=open_store(kind, tmp_path)) as made:
            start = made.service.start
            refs = await asyncio.gather(*(start(OWNER, HELLO, RunSpec(), once=once()) for _ in range(20)))
            assert {ref[:2] for ref in refs} == {refs[0][:2]}
            assert sorted(ref.repeated for ref in refs) == [False] + [True] * 19
            await made.ended(refs[0])
            assert len(await made.service.threads(OWNER)) == 1
            assert len(made.asked) == 1
            threads = await asyncio.gather(
                *(made.service.create(OWNER, title="t", once=Once("/threads", "k", BODY)) for _ in range(20))
            )
            assert len({thread.id for thread in threads}) == 1
            with pytest.raises(KeyReused):
                await made.service.create(OWNER, once=Once("/threads", "k", OTHER))
            assert made.service._keys == {}

    bounded(main)


def test_a_refused_request_leaves_its_key_free() -> None:
    async def main() -> None:
        gate = Gate()
        async with rig([reply("one", gates={0: gate}), "two"]) as made:
            ref = await made.start()
            with pytest.raises(Busy):
                await made.service.start(OWNER, HELLO, RunSpec(), thread=ref.thread, once=once(), policy="reject")
            gate.set()
            await made.ended(ref)
            again = await made.service.start(OWNER, HELLO, RunSpec(), thread=ref.thread, once=once())
            assert not again.repeated
            assert answer_of(await made.ended(again)) == "two"

    bounded(main)


def test_a_client_that_leaves_while_its_run_is_stored_finds_it_again() -> None:
    async def main() -> None:
        store = HeldStore()
        async with rig(echo, store=store) as made:
            store.held = True
            client = asyncio.ensure_future(made.service.start(OWNER, HELLO, RunSpec(), once=once()))
            while not store.waiting:
                await asyncio.sleep(0)
            client.cancel()
            await asyncio.wait([client])
            store.release()
            ref = await made.service.start(OWNER, HELLO, RunSpec(), once=once())
            assert ref.repeated
            assert answer_of(await made.ended(ref)) == "you said: hello"

    bounded(main)


# cancelling


@pytest.mark.parametrize("kind", STORES)
def test_cancelling_twice_or_after_the_end_changes_nothing_more(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with held("b", store=open_store(kind, tmp_path)) as (made, ref, _):
            cancel = made.service.cancel
            await asyncio.gather(*(cancel(OWNER, ref.thread, ref.run, str(number)) for number in range(3)))
            log = await made.ended(ref)
            assert events_of(log, CancelRequested) == [CancelRequested("0")]
            await cancel(OWNER, ref.thread, ref.run)
            assert await made.log(ref.thread) == log
            again = await made.ended(await made.start("again", ref.thread))
            await cancel(OWNER, ref.thread, ref.run)
            assert await made.log(ref.thread) == again

    bounded(main)


def test_a_run_that_never_was_cannot_be_cancelled() -> None:
    async def main() -> None:
        async with rig(["a"]) as made:
            ref = await made.start()
            await made.ended(ref)
            for run in (0, -1, 2, 99):
                with pytest.raises(NotFound) as caught:
                    await made.service.cancel(OWNER, ref.thread, run)
                assert caught.value.field == "run"

    bounded(main)


@pytest.mark.parametrize("number", [2**32, 2**62, 2**63, 10**30])
@pytest.mark.parametrize("kind", STORES)
def test_a_number_that_no_event_can_have_is_not_found(kind: str, number: int, tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(echo, store=open_store(kind, tmp_path)) as made:
            one, other = await made.start(), await made.start()
            log = await made.ended(one)
            await made.ended(other)
            with pytest.raises(NotFound, match="no such run"):
                await made.service.cancel(OWNER, one.thread, number)
            with pytest.raises(NotFound, match="no such run"):
                await pause(made.service, OWNER, one.thread, number)
            assert await made.service.events(OWNER, one.thread, after=number) == []
            if kind == "sqlite":
                assert await made.service.events(OWNER, other.thread, after=-(2**32)) == await made.log(other.thread)
            assert await made.log(one.thread) == log

    bounded(main)


def test_a_cancel_that_races_the_end_gives_one_end() -> None:
    """A thousand ways to meet: the cancel comes after so many turns of the loop."""

    @tool
    async def touch() -> str:
        """Touch."""
        await asyncio.sleep(0)
        return "touched"

    async def race(made: Rig, turns: int) -> str:
        ref = await made.start()
        for _ in range(turns):
            await asyncio.sleep(0)
        await made.service.cancel(OWNER, ref.thread, ref.run)
        log = await made.ended(ref)
        assert len(events_of(log, RunEnded)) == 1
        return end_of(log).reason

    def brain(request: ModelRequest) -> Answer:
        called = any(message.role == "tool" for message in request.messages)
        return "done" if called else reply("", call("touch"), call("touch"))

    async def main() -> None:
        chance = random.Random(7)
        async with rig(brain, touch) as made:
            reasons = [await race(made, chance.randrange(25)) for _ in range(1000)]
        store = HeldStore()
        async with rig(brain, touch, store=store) as made:
            reasons += [await race(made, chance.randrange(40)) for _ in range(500)]
        assert set(reasons) == {"answer", "cancelled"}

    bounded(main)


def test_a_run_may_be_cancelled_before_its_driver_has_begun() -> None:
    async def main() -> None:
        async with rig(["never"]) as made:
            log = await made.service.begin(OWNER, HELLO, RunSpec())
            made.service._submit(log)
            await made.service.cancel(OWNER, log.thread, 1)
            await made.service.cancel(OWNER, log.thread, 1)
            assert end_of(await made.ended(RunRef(log.thread, 1))).reason == "cancelled"
            assert made.asked == []

    bounded(main)


def test_a_tool_may_cancel_its_own_run() -> None:
    async def main() -> None:
        @tool
        async def enough() -> str:
            """Stop."""
            await made.service.cancel(OWNER, ref.thread, ref.run)
            return "stopping"

        async with rig([call("enough"), "never"], enough) as made:
            ref = await made.start()
            log = await made.ended(ref)
            assert end_of(log).reason == "cancelled"
            assert [each.content for each in events_of(log, ToolEnded)] == ["stopping"]

    bounded(main)


# removing


@pytest.mark.parametrize("kind", STORES)
def test_removing_a_thread_ends_its_run_and_its_readers(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        at, stopped = Gate(), asyncio.Event()

        @tool
        async def endless() -> None:
            """Never end."""
            try:
                await at.wait()
            finally:
                stopped.set()

        async with rig([call("endless")], endless, store=open_store(kind, tmp_path)) as made:
            ref = await made.start()
            reader = asyncio.ensure_future(until(made.service, ref.thread, lambda _: False))
            await at.reached.wait()
            await made.service.delete(OWNER, ref.thread)
            assert stopped.is_set()
            items = await reader
            assert [type(item.event) for item in items[-1:]] == [RunEnded]
            assert await made.store.thread(ref.thread) is None
            assert await made.store.read(ref.thread) == []
            assert made.service._logs == {}
            with pytest.raises(NotFound):
                await made.service.delete(OWNER, ref.thread)

    bounded(main)


def test_a_thread_removed_twice_at_the_same_time_is_gone_once() -> None:
    async def main() -> None:
        async with held() as (made, ref, _):
            delete = made.service.delete
            outcomes = await asyncio.gather(*(delete(OWNER, ref.thread) for _ in range(3)), return_exceptions=True)
            assert None in outcomes
            assert {type(each) for each in outcomes} <= {type(None), NotFound}
            assert made.service._logs == {}

    bounded(main)


def test_a_thread_removed_under_a_command_is_not_found() -> None:
    async def main() -> None:
        store = HeldStore()
        async with rig(echo, store=store) as made:
            info = await made.service.create(OWNER)
            store.held = True
            renaming = asyncio.ensure_future(made.service.rename(OWNER, info.id, "late"))
            while not store.waiting:
                await asyncio.sleep(0)
            await store.delete(info.id)
            store.release()
            with pytest.raises(NotFound):
                await renaming
            assert made.service._logs == {}

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
def test_threads_whose_time_is_over_are_removed_unless_a_run_is_open(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        script: list[Step] = ["a", "b", reply("c", gates={0: gate})]
        async with rig(script, store=open_store(kind, tmp_path)) as made:
            service = made.service
            refs = [
                await service.start(OWNER, HELLO, RunSpec(), new=NewThread(expires=expires)) for expires in (5, 0, 5)
            ]
            for ref in refs[:2]:
                await made.ended(ref)
            await gate.reached.wait()
            async with aclosing(service.follow(OWNER, refs[0].thread)) as batches:
                await anext(batches)
                assert await service.purge() == 1
                assert [batch async for batch in batches] == []
            assert {info.id for info in await service.threads(OWNER)} == {refs[1].thread, refs[2].thread}
            gate.set()
            await made.ended(refs[2])
            assert await service.purge() == 1

    bounded(main)


# following


def test_a_cursor_in_the_future_is_refused() -> None:
    async def main() -> None:
        async with rig(["a"]) as made:
            ref = await made.start()
            log = await made.ended(ref)
            for cursor in (Cursor(len(log) + 1), Cursor(99, 5)):
                with pytest.raises(InputError, match="is not there yet") as caught:
                    await until(made.service, ref.thread, is_(RunEnded), cursor)
                assert caught.value.field == "after"

    bounded(main)


def test_a_beat_gives_every_waiting_reader_an_empty_batch() -> None:
    async def main() -> None:
        async with rig(["a"]) as made:
            ref = await made.start()
            await made.ended(ref)
            async with aclosing(made.service.follow(OWNER, ref.thread)) as batches:
                assert await anext(batches)
                quiet = asyncio.ensure_future(anext(batches))
                await asyncio.sleep(0)
                made.service.beat()
                assert await quiet == []
                await made.service.rename(OWNER, ref.thread, "x")
                assert [item.event for item in await anext(batches)] == [TitleChanged("x")]

    bounded(main)


def test_stored_events_are_read_in_pages() -> None:
    async def main() -> None:
        async with rig(["a"]) as made:
            ref = await made.start()
            log = await made.ended(ref)
            assert await made.service.events(OWNER, ref.thread, after=2, limit=2) == log[2:4]
            assert await made.service.events(OWNER, ref.thread) == log

    bounded(main)


def test_a_stream_of_a_run_ends_with_its_end_and_leaving_it_stops_nothing() -> None:
    async def main() -> None:
        gate = Gate()
        async with rig(["one", reply(["t", "wo"], gates={1: gate})]) as made:
            items = [item async for item in made.service.stream(OWNER, HELLO, RunSpec())]
            assert isinstance(items[0].event, RunStarted)
            assert isinstance(items[-1].event, RunEnded)
            thread = (await made.service.threads(OWNER))[0].id
            seen: list[Item] = []
            async with aclosing(made.service.stream(OWNER, HELLO, RunSpec(), thread=thread)) as stream:
                async for item in stream:
                    seen.append(item)
                    if isinstance(item.event, TextDelta):
                        break
            gate.set()
            assert answer_of(await made.ended(RunRef(thread, seen[0].run))) == "two"

    bounded(main)


# logs in memory


@pytest.mark.parametrize("kind", STORES)
def test_a_thread_that_nobody_uses_is_not_kept_in_memory(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(echo, store=open_store(kind, tmp_path)) as made:
            service = made.service
            for ref in [await made.start(str(number)) for number in range(5)]:
                await made.ended(ref)
            ref = await made.start()
            await made.ended(ref)
            await service.rename(OWNER, ref.thread, "x")
            await service.cancel(OWNER, ref.thread, ref.run)
            with pytest.raises(NotFound):
                await service.cancel(OWNER, ref.thread, 77)
            async with asyncio.timeout(WAIT):
                while service._logs:
                    await asyncio.sleep(0)
            assert (service._loading, service._keys) == ({}, {})

    bounded(main)


def test_readers_that_come_and_go_during_a_run_share_one_log() -> None:
    async def main() -> None:
        async with held() as (made, ref, gate):
            log = made.service._logs[ref.thread]
            for _ in range(3):
                await asyncio.gather(*(until(made.service, ref.thread, is_(MessageStarted)) for _ in range(5)))
                assert made.service._logs == {ref.thread: log}
            gate.set()
            await made.ended(ref)

    bounded(main)


# a store that fails


def test_a_run_that_no_store_takes_is_refused_and_leaves_nothing() -> None:
    async def main() -> None:
        store = HeldStore()
        async with rig(lambda _: "a", store=store) as made:
            store.full = True
            with pytest.raises(StoreFull):
                await made.start()
            async with asyncio.timeout(WAIT):
                while made.service._logs:
                    await asyncio.sleep(0)
            store.full = False
            assert answer_of(await made.ended(await made.start())) == "a"
            assert len(await made.service.threads(OWNER)) == 1

    bounded(main)


def test_a_full_disk_ends_readers_with_the_cause_and_the_run_goes_on_when_there_is_room(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        store, gate = HeldStore(), Gate()
        script: list[Step] = [reply(["lost ", "words"], gates={1: gate}), "found again", "next"]
        async with rig(script, store=store) as made:
            ref = await made.start()
            readers = [asyncio.ensure_future(until(made.service, ref.thread, lambda _: False)) for _ in range(2)]
            await gate.reached.wait()
            store.full = True
            gate.set()
            outcomes = await asyncio.gather(*readers, return_exceptions=True)
            assert [type(each) for each in outcomes] == [StoreFull, StoreFull]
            assert f"run of thread {ref.thread} stays open: no room" in caplog.text
            store.full = False
            with pytest.raises(Busy):
                await strictly(made, "again", ref.thread)
            log = await made.ended(ref)
            assert answer_of(log) == "found again"
            assert answer_of(await made.ended(await made.start("again", ref.thread))) == "next"

    bounded(main)


@pytest.mark.parametrize("way", ["follow", "cancel", "delete", "repeat"])
def test_a_run_that_a_full_disk_stopped_goes_on_at_the_next_look_at_it(way: str) -> None:
    async def main() -> None:
        store, gate = HeldStore(), Gate()
        async with rig([reply("lost", gates={0: gate}), "found again"], store=store) as made:
            ref = await made.service.start(OWNER, HELLO, RunSpec(), once=once())
            await gate.reached.wait()
            store.full = True
            gate.set()
            async with asyncio.timeout(WAIT):
                while made.service._logs:
                    await asyncio.sleep(0)
            store.full = False
            if way == "delete":
                await made.service.delete(OWNER, ref.thread)
                assert await made.store.thread(ref.thread) is None
                return
            if way == "cancel":
                await made.service.cancel(OWNER, ref.thread, ref.run)
            elif way == "repeat":
                assert await made.service.start(OWNER, HELLO, RunSpec(), once=once()) == ref._replace(repeated=True)
            log = await made.ended(ref)
            assert end_of(log).reason == ("cancelled" if way == "cancel" else "answer")

    bounded(main)


# settings and versions that do not fit


def test_a_run_whose_settings_are_gone_ends_with_the_reason() -> None:
    async def main() -> None:
        def gone(spec: RunSpec) -> None:
            raise ConfigError("models.gone: there is no such model")

        async with rig(["never"]) as made:
            made.service = RunService(made.store, gone)  # type: ignore[arg-type]
            log = await made.ended(await made.start())
            assert end_of(log) == RunEnded("failed", "config", "models.gone: there is no such model")

    bounded(main)


def test_a_thread_of_a_newer_version_is_shown_and_never_written_to() -> None:
    async def newer(store: Store, thread: str, events: list[Recorded]) -> None:
        seq = len(events)
        raw = Unknown(msgspec.Raw(b'{"type":"steered","text":"a future event"}'))
        await store.append(thread, [Recorded(seq + 1, 0, events[-1].run, raw)], expect=seq)

    async def main() -> None:
        async with rig(["a", "b"]) as made:
            ref = await made.start()
            await newer(made.store, ref.thread, await made.ended(ref))
            service = made.service
            attempts: list[Callable[[], Awaitable[object]]] = [
                lambda: made.start("more", ref.thread),
                lambda: service.rename(OWNER, ref.thread, "x"),
            ]
            for attempt in attempts:
                with pytest.raises(InputError, match="newer version"):
                    await attempt()
            assert isinstance((await until(service, ref.thread, is_(Unknown)))[-1].event, Unknown)
            async with rig(["c"], store=made.store) as other:
                opened = await other.service.create(OWNER)
                started = Recorded(1, 0, 1, RunStarted(RunSpec()))
                await made.store.append(opened.id, [started], expect=0)
                await newer(made.store, opened.id, [started])
                assert await other.service.resume() == 0
                with pytest.raises(InputError, match="newer version"):
                    await other.service.cancel(OWNER, opened.id, 1)
                assert len(await made.store.read(opened.id)) == 2

    bounded(main)


# many at once


@pytest.mark.parametrize("kind", STORES)
def test_many_runs_at_once_keep_their_texts_apart(kind: str, tmp_path: Path) -> None:
    @tool(effect="pure")
    async def double(text: str) -> str:
        """Say it twice."""
        return text * 2

    def brain(request: ModelRequest) -> Answer:
        last = request.messages[-1]
        return call("double", text=last.content) if last.role == "user" else reply(f"<{last.content}>", cut="char")

    async def one(made: Rig, number: int) -> None:
        ref = await made.start(f"run {number} ")
        items = await until(made.service, ref.thread, lambda item: item.ends_run)
        text = "".join(item.event.text for item in items if isinstance(item.event, TextDelta))
        assert text == f"<run {number} run {number} >"
        assert answer_of(await made.log(ref.thread)) == text

    async def main() -> None:
        async with rig(brain, double, store=open_store(kind, tmp_path)) as made:
            await asyncio.gather(*(one(made, number) for number in range(200)))

    bounded(main)


def test_what_a_log_holds_is_what_was_followed() -> None:
    async def main() -> None:
        async with rig(["a"]) as made:
            ref = await made.start()
            items = await until(made.service, ref.thread, is_(RunEnded))
            stored = [item for item in items if isinstance(item, Recorded)]
            audit(stored)
            assert stored == await made.log(ref.thread)

    bounded(main)
