"""Messages that come while a run is open: they wait in order, are heard, close what is under way, or are refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stepwell.errors import Busy, InputError, NotFound
from stepwell.events import MessageAdded, MessageEnded, MessageQueued, PolicyChanged, Recorded, RunEnded, RunStarted
from stepwell.messages import Message
from stepwell.models.base import ModelRequest
from stepwell.models.scripted import Gate, reply
from stepwell.runs.queue import edit_queued, move_queued, queue, remove_queued, set_policy
from stepwell.runs.service import Once, RunRef
from stepwell.specs import RunSpec
from stepwell.state.thread import NEVER
from tests.support.audit import audit
from tests.support.runs import OWNER, WAIT, Rig, answer_of, bounded, end_of, events_of, open_store, rig, said, until

STORES = ("memory", "sqlite")


def echo(request: ModelRequest) -> str:
    return f"you said: {request.messages[-1].content}"


async def say(made: Rig, text: str, thread: str, *, policy: str = "", key: str = "", model: str = "") -> RunRef:
    once = Once("/messages", key, "1" * 64) if key else None
    spec = RunSpec(model=model)
    return await made.service.start(OWNER, Message("user", text), spec, thread=thread, policy=policy, once=once)


async def finished(made: Rig, thread: str, runs: int) -> list[Recorded]:
    """Wait for so many ends of runs and return the audited log."""
    ends = 0

    def last(item: object) -> bool:
        nonlocal ends
        ends += isinstance(item, Recorded) and item.ends_run
        return ends == runs

    async with asyncio.timeout(WAIT):
        await until(made.service, thread, last)
    return await made.log(thread)


@pytest.mark.parametrize("kind", STORES)
def test_messages_wait_for_the_open_run_and_are_answered_in_order(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        script = [reply("one", gates={0: gate}), "two", "three"]
        async with rig(script, store=open_store(kind, tmp_path)) as made:
            ref = await made.start()
            await gate.reached.wait()
            second, third = await say(made, "b", ref.thread, model="m"), await say(made, "c", ref.thread)
            assert [second.run, third.run] == [0, 0]
            assert [each.seq for each in await queue(made.service, OWNER, ref.thread)] == [second.queued, third.queued]
            gate.set()
            log = await finished(made, ref.thread, 3)
            starts = [each for each in log if isinstance(each.event, RunStarted)]
            assert [each.event.queued for each in starts] == [0, second.queued, third.queued]  # type: ignore[union-attr]
            assert starts[1].event.spec.model == "m"  # type: ignore[union-attr]
            for each in starts[1:]:
                assert isinstance(log[each.seq - 2].event, RunEnded)
                assert isinstance(log[each.seq].event, MessageAdded)
            asked = [each.messages[-1].content for each in made.asked]
            assert asked == ["go", "b", "c"]
            assert await made.service.store.due(NEVER - 1) == []

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
def test_waiting_messages_are_changed_moved_and_taken_out(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        script = [reply("one", gates={0: gate}), "two", "three", "four"]
        async with rig(script, store=open_store(kind, tmp_path)) as made:
            service = made.service
            ref = await made.start()
            await gate.reached.wait()
            a, b, c, d = [(await say(made, text, ref.thread)).queued for text in "abcd"]
            await edit_queued(service, OWNER, ref.thread, b, "B\0")
            await move_queued(service, OWNER, ref.thread, d, a)
            await move_queued(service, OWNER, ref.thread, a, 0)
            await move_queued(service, OWNER, ref.thread, b, b)
            await remove_queued(service, OWNER, ref.thread, c)
            waiting = await queue(service, OWNER, ref.thread)
            assert [(each.seq, each.message.content) for each in waiting] == [(d, "d"), (b, "B\ufffd"), (a, "a")]
            for attempt in (
                remove_queued(service, OWNER, ref.thread, c),
                remove_queued(service, "eve", ref.thread, a),
                move_queued(service, OWNER, ref.thread, a, c),
                edit_queued(service, OWNER, ref.thread, 1, "x"),
                edit_queued(service, OWNER, ref.thread, a, "x", c),
                queue(service, "eve", ref.thread),
            ):
                with pytest.raises(NotFound):
                    await attempt
            await edit_queued(service, OWNER, ref.thread, a, "A", a)
            await edit_queued(service, OWNER, ref.thread, b, "B", d)
            await move_queued(service, OWNER, ref.thread, d, b)
            gate.set()
            await finished(made, ref.thread, 4)
            assert [each.messages[-1].content for each in made.asked] == ["go", "d", "B", "A"]
            with pytest.raises(NotFound):
                await remove_queued(service, OWNER, ref.thread, a)

    bounded(main)


def test_what_waits_survives_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        async with rig([reply("one", gates={0: gate})], store=open_store("sqlite", tmp_path)) as made:
            ref = await made.start()
            await gate.reached.wait()
            for text in "bc":
                await say(made, text, ref.thread)
        async with rig(echo, store=open_store("sqlite", tmp_path)) as made:
            assert [each.message.content for each in await queue(made.service, OWNER, ref.thread)] == ["b", "c"]
            assert await made.service.resume() == 1
            log = await finished(made, ref.thread, 3)
            said_last = [each.message.content for each in events_of(log, MessageEnded)][-2:]
            assert said_last == ["you said: b", "you said: c"]

    bounded(main)


def test_a_queue_without_an_open_run_is_taken_up_by_the_next_process(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(["one"], store=open_store("sqlite", tmp_path)) as made:
            ref = await made.start()
            log = await made.ended(ref)
            left = [
                Recorded(log[-1].seq + at, 1, 0, MessageQueued(Message("user", t), RunSpec()))
                for at, t in ((1, "b"), (2, "c"))
            ]
            await made.store.append(ref.thread, left, expect=log[-1].seq, wake=0)
        async with rig(echo, store=open_store("sqlite", tmp_path)) as made:
            assert await made.service.resume() == 1
            log = await finished(made, ref.thread, 3)
            assert answer_of(log) == "you said: c"
            assert await made.service.resume() == 0

    bounded(main)


def test_a_message_that_finds_others_waiting_does_not_overtake_them(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(echo, store=open_store("sqlite", tmp_path)) as made:
            ref = await made.start()
            log = await made.ended(ref)
            left = Recorded(log[-1].seq + 1, 1, 0, MessageQueued(Message("user", "b"), RunSpec()))
            await made.store.append(ref.thread, [left], expect=log[-1].seq, wake=0)
            with pytest.raises(Busy):
                await say(made, "c", ref.thread, policy="reject")
            late = await say(made, "c", ref.thread, policy="steer")
            assert (late.run, late.queued) == (0, left.seq + 1)
            log = await finished(made, ref.thread, 3)
            assert [each.queued for each in events_of(log, RunStarted)] == [0, left.seq, late.queued]

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
def test_the_policy_of_a_thread_decides_where_a_message_names_none(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        script = [reply("one", gates={0: gate}), reply(["Half", "!"], gates={1: Gate()}), "three"]
        async with rig(script, store=open_store(kind, tmp_path)) as made:
            service = made.service
            ref = await made.start()
            await gate.reached.wait()
            await set_policy(service, OWNER, ref.thread, "reject")
            await set_policy(service, OWNER, ref.thread, "reject")
            with pytest.raises(Busy):
                await say(made, "no", ref.thread)
            await set_policy(service, OWNER, ref.thread, "steer")
            heard = await say(made, "heard", ref.thread)
            assert (heard.run, heard.queued, heard.steered > 0) == (ref.run, 0, True)
            gate.set()
            await until(service, ref.thread, said("Half"))
            cut = await say(made, "cut", ref.thread, policy="interrupt")
            assert cut.run == ref.run
            log = await made.ended(ref)
            assert [(each.message.content, each.stop) for each in events_of(log, MessageEnded)] == [
                ("one", "stop"),
                ("Half", "cancelled"),
                ("three", "stop"),
            ]
            assert [each.policy for each in events_of(log, PolicyChanged)] == ["reject", "steer"]
            with pytest.raises(InputError) as caught:
                await set_policy(service, OWNER, ref.thread, "shout")
            assert caught.value.field == "policy"
            with pytest.raises(NotFound):
                await set_policy(service, "eve", ref.thread, "queue")
            # With no run open each of them starts one.
            assert (await say(made, "again", ref.thread)).steered == 0

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("policy", ["queue", "steer", "interrupt"])
def test_a_repeated_message_is_answered_as_the_first_time(policy: str, kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        script = [reply("one", gates={0: gate}), "two", "three"]
        async with rig(script, store=open_store(kind, tmp_path)) as made:
            ref = await made.start()
            await gate.reached.wait()
            first = await say(made, "b", ref.thread, policy=policy, key="k")
            again = await say(made, "b", ref.thread, policy=policy, key="k")
            assert again == first._replace(repeated=True)
            twins = await asyncio.gather(*(say(made, "c", ref.thread, policy=policy, key="l") for _ in range(4)))
            assert len({each._replace(repeated=False) for each in twins}) == 1
            gate.set()
            log = await finished(made, ref.thread, 3 if policy == "queue" else 1)
            assert await say(made, "b", ref.thread, policy=policy, key="k") == again
            users = [each.content for each in audit(log).transcript if each.role == "user"]
            assert users == ["go", "b", "c"]

    bounded(main)


def test_a_cancel_ends_the_run_alone_and_the_next_begins() -> None:
    async def main() -> None:
        gate = Gate()
        async with rig([reply("one", gates={0: gate}), "two", "three"]) as made:
            ref = await made.start()
            await gate.reached.wait()
            late = await say(made, "b", ref.thread)
            await made.service.cancel(OWNER, ref.thread, ref.run)
            steered = await say(made, "c", ref.thread, policy="steer")
            assert (steered.run, steered.steered) == (0, 0)  # nobody would answer it in a run that is about to end
            log = await finished(made, ref.thread, 3)
            assert [each.reason for each in events_of(log, RunEnded)] == ["cancelled", "answer", "answer"]
            assert [each.queued for each in events_of(log, RunStarted)] == [0, late.queued, steered.queued]

    bounded(main)


def test_a_thread_that_is_removed_takes_its_waiting_messages_with_it() -> None:
    async def main() -> None:
        gate = Gate()
        async with rig([reply("one", gates={0: gate}), "two"]) as made:
            ref = await made.start()
            await gate.reached.wait()
            await say(made, "b", ref.thread)
            await made.service.delete(OWNER, ref.thread)
            assert await made.store.thread(ref.thread) is None
            assert len(made.asked) == 1

    bounded(main)


def test_a_run_in_the_callers_own_task_hands_the_next_to_the_service() -> None:
    async def main() -> None:
        gate = Gate()
        async with rig([reply("one", gates={0: gate}), "two"]) as made:
            log = await made.service.begin(OWNER, Message("user", "a"), RunSpec())
            driving = asyncio.ensure_future(made.service.drive(log))
            await gate.reached.wait()
            await say(made, "b", log.thread)
            gate.set()
            await driving
            stored = await finished(made, log.thread, 2)
            assert end_of(stored).reason == "answer"

    bounded(main)
