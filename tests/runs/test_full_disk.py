"""A store that takes nothing for a while: what waits beside the append that failed goes on once there is room."""

from __future__ import annotations

import asyncio

import pytest

from stepwell.errors import StoreFull
from stepwell.events import Asked, ToolEnded, Warned
from stepwell.models.base import ModelRequest
from stepwell.models.scripted import Answer, Gate, Step, call, reply
from stepwell.runs.people import answer, questions
from stepwell.store.base import ThreadInfo
from stepwell.tools.mark import tool
from tests.support.runs import OWNER, WAIT, HeldStore, Rig, answer_of, bounded, events_of, is_, rig, until


async def let_go(made: Rig) -> None:
    async with asyncio.timeout(WAIT):
        while made.service._logs:
            await asyncio.sleep(0)


async def given(store: HeldStore) -> None:
    """Wait until a store is given something."""
    async with asyncio.timeout(WAIT):
        while not store.waiting:
            await asyncio.sleep(0)


def test_a_run_under_way_goes_on_although_something_beside_it_found_no_room() -> None:
    async def main() -> None:
        store, gate = HeldStore(), Gate()
        script: list[Step] = [reply("lost", gates={0: gate}), "found again"]
        async with rig(script, store=store) as made:
            ref = await made.start()
            await gate.reached.wait()
            store.full = True
            with pytest.raises(StoreFull):
                await made.service.rename(OWNER, ref.thread, "no room for this")
            store.full = False
            await let_go(made)
            await made.service.rename(OWNER, ref.thread, "there is room")
            assert answer_of(await made.ended(ref)) == "found again"

    bounded(main)


def test_a_log_whose_events_found_no_room_is_let_go_although_nobody_waits_for_them() -> None:
    async def main() -> None:
        store = HeldStore()
        async with rig(["a"], store=store) as made:
            ref = await made.start()
            await made.ended(ref)
            store.held = True
            renaming = asyncio.ensure_future(made.service.rename(OWNER, ref.thread, "never mind"))
            await given(store)
            renaming.cancel()
            await asyncio.wait((renaming,))
            store.full = True
            store.release()
            await let_go(made)
            store.full = False
            assert (await made.service.rename(OWNER, ref.thread, "again")).title == "again"

    bounded(main)


def test_another_attempt_at_a_write_begins_only_when_the_yes_to_it_is_stored() -> None:
    store, ran, begun = HeldStore(), list[str](), asyncio.Event()

    @tool
    async def write() -> str:
        """Write it."""
        ran.append("write")
        begun.set()
        if len(ran) == 1:
            await asyncio.Event().wait()
        return "written"

    def brain(request: ModelRequest) -> Answer:
        return "Done." if any(each.role == "tool" for each in request.messages) else call("write")

    async def main() -> None:
        async with rig(brain, write) as made:
            ref = await made.start()
            await begun.wait()
            left = await made.store.read(ref.thread)
        await store.append(ref.thread, left, expect=0, new=ThreadInfo(ref.thread, OWNER))
        async with rig(brain, write, store=store) as made:
            await made.service.resume()
            await until(made.service, ref.thread, is_(Asked))
            (asked,) = await questions(made.service, OWNER, ref.thread)
            assert (asked.kind, ran) == ("outcome", ["write"])
            store.held = True
            answering = asyncio.ensure_future(answer(made.service, OWNER, ref.thread, asked.seq, "retry"))
            await given(store)
            for _ in range(50):
                await asyncio.sleep(0)
            assert ran == ["write"]
            store.release()
            await answering
            log = await made.ended(ref)
            assert ran == ["write", "write"]
            assert [each.content for each in events_of(log, ToolEnded)] == ["written"]
            assert len(events_of(log, Warned)) == 1

    bounded(main)
