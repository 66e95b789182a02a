"""A client that lost its connection says what it saw last, and gets exactly the rest."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from stepwell.events import Asked, MessageEnded, Recorded, RunClaimed, RunWaiting, TextDelta
from stepwell.models.base import ModelRequest
from stepwell.models.scripted import Answer, Gate, Step, call, reply
from stepwell.runs import channel, threads
from stepwell.runs.channel import Cursor, Item, place_of
from stepwell.runs.people import answer
from stepwell.runs.service import RunRef
from stepwell.tools.base import ToolContext
from stepwell.tools.builtin.ask_human import ask_human_tool
from stepwell.tools.mark import tool
from tests.support.runs import (
    OWNER,
    Rig,
    answer_of,
    atoms,
    before,
    bounded,
    cursors,
    events_of,
    is_,
    open_store,
    rig,
    said,
    until,
)

STORES = ("memory", "sqlite")
TEXT = "".join(f"{number:02} 一二三四五 🦆." for number in range(8))
"""Eighty-odd characters of several widths."""


@tool(effect="pure")
async def count(to: int, context: ToolContext) -> str:
    """Count, and tell how far it is."""
    for number in range(to):
        context.progress(f"{number} of {to}; ")
    return f"counted to {to}"


class Cuts:
    """A run that stops at gates, and readers that join it at every stop at every place."""

    def __init__(self) -> None:
        self.gates = [Gate() for _ in range(6)]
        one, two, three, four, five, six = self.gates
        self.script: list[Step] = [
            reply(
                TEXT,
                call("count", to=3),
                call("count", to=2),
                thinking="Let me think about that.",
                cut=3,
                gates={0: one, 5: two, 20: three},
            ),
            reply(TEXT, cut="char", gates={1: four, 40: five, 80: six}),
        ]

    async def readers(self, made: Rig, ref: RunRef) -> list[tuple[Cursor, asyncio.Task[list[Item]]]]:
        joined: list[tuple[Cursor, asyncio.Task[list[Item]]]] = []
        seen: list[Item] = []
        watching = asyncio.ensure_future(self._watch(made, ref, seen))
        for gate in self.gates:
            await gate.reached.wait()
            await made.service._logs[ref.thread].committed()
            while self._behind(made, ref, seen):
                await asyncio.sleep(0)
            places = [cursor for cursor in cursors(list(atoms(seen))) if cursor.offset % 10 == 0]
            for place in places:
                reader = until(made.service, ref.thread, lambda item: item.ends_run, place)
                joined.append((place, asyncio.ensure_future(reader)))
            await asyncio.sleep(0)
            gate.set()
        await watching
        return [(Cursor(), watching), *joined]

    async def _watch(self, made: Rig, ref: RunRef, seen: list[Item]) -> list[Item]:
        def note(item: Item) -> bool:
            seen.append(item)
            return item.ends_run

        return await until(made.service, ref.thread, note)

    def _behind(self, made: Rig, ref: RunRef, seen: list[Item]) -> bool:
        shown = made.service._logs[ref.thread].channel
        last = seen[-1] if seen else None
        return last is None or channel.place_of(last) < Cursor(shown.seq, shown.offset)


@pytest.mark.parametrize("kind", STORES)
def test_a_client_cut_anywhere_sees_exactly_the_uninterrupted_stream(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        cuts = Cuts()
        async with rig(cuts.script, count, store=open_store(kind, tmp_path)) as made:
            ref = await made.start()
            (_, whole), *readers = await cuts.readers(made, ref)
            everything = list(atoms(whole.result()))
            assert "".join(str(atom[-1]) for atom in everything if atom[0] is TextDelta) == TEXT * 2
            assert {atom[0] for atom in everything if atom[0] in ("name", "call", "progress")} == {
                "name",
                "call",
                "progress",
            }
            assert len(readers) > 100
            for place, reader in readers:
                assert before(everything, place) + list(atoms(await reader)) == everything, place
            assert [item for item in whole.result() if isinstance(item, Recorded)] == await made.log(ref.thread)

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
def test_a_client_that_comes_back_after_the_end_gets_the_same_events_and_the_whole_text(
    kind: str, tmp_path: Path
) -> None:
    async def main() -> None:
        cuts = Cuts()
        for gate in cuts.gates:
            gate.set()
        async with rig(cuts.script, count, store=open_store(kind, tmp_path)) as made:
            ref = await made.start()
            live = list(atoms(await until(made.service, ref.thread, lambda item: item.ends_run)))
            log = await made.ended(ref)
            assert not made.service._logs
            for place in cursors(live):
                if place.seq < len(log):
                    items = await until(made.service, ref.thread, lambda item: item.ends_run, place)
                    assert items == log[place.seq :]
            texts = [each.event.message.content for each in log if isinstance(each.event, MessageEnded)]
            assert texts == [TEXT, TEXT]

    bounded(main)


class _Reader:
    """A client that follows a run from a place to the run's end."""

    def __init__(self, made: Rig, ref: RunRef, place: Cursor) -> None:
        self.place, self.seen = place, list[Item]()
        self.task = asyncio.ensure_future(until(made.service, ref.thread, self._note, place))

    def _note(self, item: Item) -> bool:
        self.seen.append(item)
        return item.ends_run

    def text(self) -> str:
        return "".join(item.event.text for item in self.seen if isinstance(item.event, TextDelta))


@pytest.mark.parametrize("kind", STORES)
def test_a_late_reader_of_a_long_run_gets_old_events_from_the_store_and_the_open_message_whole(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "PAGE", 7)
    monkeypatch.setattr(channel, "KEEP", 4)
    monkeypatch.setattr(channel, "TRIM", 8)
    gate = Gate()

    def brain(request: ModelRequest) -> Answer:
        done = sum(message.role == "tool" for message in request.messages)
        return call("count", to=1) if done < 30 else reply(TEXT, cut=5, gates={9: gate})

    async def main() -> None:
        async with rig(brain, count, store=open_store(kind, tmp_path)) as made:
            ref = await made.start()
            async with aclosing(made.service.follow(OWNER, ref.thread)) as slow:
                seen = await anext(slow)
                await gate.reached.wait()
                await made.service.rename(OWNER, ref.thread, "in the middle of a message")
                readers = [_Reader(made, ref, Cursor(seq)) for seq in range(0, 150, 3)]
                while not all(reader.text() == TEXT[:45] for reader in readers):
                    await asyncio.sleep(0)
                gate.set()
                log = await made.ended(ref)
                for reader in readers:
                    await reader.task
                    assert [item for item in reader.seen if isinstance(item, Recorded)] == log[reader.place.seq :]
                    assert reader.text() == TEXT
                while not seen[-1].ends_run:
                    seen += await anext(slow)
            assert [item for item in seen if isinstance(item, Recorded)] == log

    bounded(main)


def test_a_reader_of_one_run_finds_the_next_one_too() -> None:
    async def main() -> None:
        async with rig(["one", "two"]) as made:
            ref = await made.start()
            reader = asyncio.ensure_future(until(made.service, ref.thread, lambda item: item.seq == 14))
            await made.ended(ref)
            again = await made.ended(await made.start("again", ref.thread))
            assert [item for item in await reader if isinstance(item, Recorded)] == again
            assert answer_of(again) == "two"

    bounded(main)


def test_a_place_in_a_text_that_another_process_showed_gets_the_stored_rest(tmp_path: Path) -> None:
    """The old process had shown fifty characters when it stopped; the new one makes the reply again."""

    async def main() -> None:
        gate = Gate()
        async with rig([reply(["a" * 50, "b"], gates={1: gate})], store=open_store("sqlite", tmp_path)) as made:
            ref = await made.start()
            await until(made.service, ref.thread, said("a" * 50))
            place = Cursor(len(await made.log(ref.thread)), 50)
        async with rig([reply(TEXT, cut=5)], store=open_store("sqlite", tmp_path)) as made:
            reader = asyncio.ensure_future(until(made.service, ref.thread, lambda item: item.ends_run, place))
            assert await made.service.resume() == 1
            items = await reader
            assert [item for item in items if isinstance(item, Recorded)] == (await made.ended(ref))[place.seq :]
            assert "".join(item.event.text for item in items if isinstance(item.event, TextDelta)) == TEXT

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
def test_a_reader_of_a_waiting_run_sees_it_go_on_and_one_that_comes_back_misses_nothing(
    kind: str, tmp_path: Path
) -> None:
    async def main() -> None:
        script = [call("ask_human", question="Which?"), reply(["It ", "is ", "blue"])]
        async with rig(script, ask_human_tool(), store=open_store(kind, tmp_path)) as made:
            ref = await made.start()
            staying = asyncio.ensure_future(until(made.service, ref.thread, lambda item: item.ends_run))
            waits = await until(made.service, ref.thread, is_(RunWaiting))
            left = place_of(waits[-1])
            (number,) = [item.seq for item in waits if isinstance(item.event, Asked)]
            await answer(made.service, OWNER, ref.thread, number, "answer", text="blue")
            back = await until(made.service, ref.thread, lambda item: item.ends_run, left)
            whole = list(atoms(await staying))
            log = await made.log(ref.thread)
            assert [atom for atom in whole if atom[0] == "stored"] == [("stored", each.seq) for each in log]
            assert before(whole, left) + list(atoms(back)) == whole
            # In one process nobody had to take it over from anybody while somebody read along.
            assert not events_of(log, RunClaimed)

    bounded(main)
