"""A log that lost its place to another process: what that wrote reaches those who work and wait here."""

from __future__ import annotations

import asyncio

from stepwell.errors import Conflict
from stepwell.events import MessageEnded, PolicyChanged, Recorded, RunStarted, Steered, Stored, TitleChanged
from stepwell.messages import Message
from stepwell.models.scripted import Gate, Step, reply
from stepwell.runs.log import ThreadLog
from stepwell.specs import RunSpec
from stepwell.state.thread import State
from stepwell.store.base import Store, ThreadInfo
from stepwell.store.memory import MemoryStore
from tests.support.runs import OWNER, WAIT, HeldStore, answer_of, bounded, events_of, rig

THREAD = "t" * 32


async def write(store: Store, thread: str, *events: Stored) -> None:
    """Append what another process has to say."""
    stored = await store.read(thread)
    seq, run = len(stored), stored[-1].run
    made = [Recorded(seq + at, 0, run, event) for at, event in enumerate(events, 1)]
    await store.append(thread, made, expect=seq)


def test_an_interrupt_of_another_process_cuts_off_what_is_under_way_as_soon_as_it_is_known() -> None:
    async def main() -> None:
        store, gate = HeldStore(), Gate()
        script: list[Step] = [reply(["Once upon", " a time"], gates={1: gate}), "Short."]
        async with rig(script, store=store) as made:
            ref = await made.start()
            await gate.reached.wait()
            await write(store, ref.thread, Steered(Message("user", "Be brief."), interrupt=True))
            await made.service.rename(OWNER, ref.thread, "that is how it is known")
            log = await made.ended(ref)
            assert [each.stop for each in events_of(log, MessageEnded)] == ["cancelled", "stop"]
            assert answer_of(log) == "Short."

    bounded(main)


def test_who_waits_for_news_sleeps_on_where_what_was_said_is_decided_again() -> None:
    async def main() -> None:
        store = MemoryStore()
        store.instant = False
        begun = Recorded(1, 0, 1, RunStarted(RunSpec()))
        await store.append(THREAD, [begun], expect=0, new=ThreadInfo(THREAD, OWNER, run=1))
        log = ThreadLog(store, THREAD, State([begun]), OWNER)
        log.tell(PolicyChanged("queue"), PolicyChanged("steer"), PolicyChanged("reject"), again=True)
        await write(store, THREAD, TitleChanged("theirs"))
        try:
            await log.committed()
        except Conflict:
            await log.rebase()
        assert log.state.seq == 2
        waiting = asyncio.ensure_future(log.changed(log.state.seq))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done()
        log.tell(PolicyChanged("queue"))
        async with asyncio.timeout(WAIT):
            await waiting

    bounded(main)
