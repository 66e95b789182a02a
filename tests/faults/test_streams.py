"""A stream is whole for whoever reads it, however often they are cut off, and a run needs no readers (F10-F12)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepwell.events import RunEnded
from tests.faults.support.case import Person, calls, case, run
from tests.faults.support.examine import of
from tests.support.endpoint import Reply, chunk, ending, text
from tests.support.server import WAIT, Frame, Stream

TURNS = [
    calls(("note", {"what": "a"}), ("look", {"what": "b"}), said="First.", number=1),
    calls(("put", {"what": "c"}), said="Second.", number=2),
]


async def read(stream: Stream, count: int) -> list[Frame]:
    """Read so many frames, or all where there are fewer."""
    frames: list[Frame] = []
    while len(frames) < count and (frame := await stream.frame()) is not None:
        frames.append(frame)
    return frames


def letters(frames: Sequence[Frame]) -> list[Any]:
    """Return what a reader has in the end: stored events as they came, and every letter of the pieces between."""
    found: list[Any] = []
    for frame in frames:
        event = frame.body["event"] if frame.data else {}
        if "offset" not in (frame.body if frame.data else {}):
            found.append(frame)
            continue
        place = event.get("message") or event.get("call")
        found += [(event["type"], place, event.get("index"), letter) for letter in event.get("name", "")]
        found += [(event["type"], place, event.get("index"), letter) for letter in event.get("text", "")]
    return found


def test_f10_a_client_that_is_cut_off_after_any_event_of_the_past_reads_the_same_bytes(tmp_path: Path) -> None:
    async def main() -> None:
        async with case(tmp_path, [*TURNS, text("That", " is", " all.")]) as it, it.serving() as (person, _):
            thread = await person.thread()
            await person.say(thread, "go")

            async def bytes_of(after: str, run: int) -> bytes:
                stream = await person.follow(thread, after, run)
                await stream.rest()
                return b"".join(stream.writes)

            whole = await person.follow(thread, run=1)
            frames = await whole.rest()
            everything = b"".join(whole.writes)
            assert len(frames) == 21
            for place in range(len(frames) + 1):
                stream = await person.follow(thread, run=1)
                seen = await read(stream, place)
                stream.cut(reset=True)
                start = b"".join(f"id: {each.id}\ndata: {each.data}\n\n".encode() for each in seen)
                assert start + await bytes_of(seen[-1].id if seen else "", 1) == everything

    run(main)


def test_f10_clients_that_are_cut_off_at_every_event_of_a_run_under_way_miss_nothing_and_read_nothing_twice(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        held = [asyncio.Event() for _ in range(3)]
        last = Reply([chunk(content="That "), held[1], chunk(content="is "), held[2], chunk(content="all."), *ending()])
        turns = [Reply([*TURNS[0].pieces[:3], held[0], *TURNS[0].pieces[3:]]), TURNS[1], last]
        async with case(tmp_path, turns) as it, it.serving() as (person, _):
            thread = await person.thread()
            await person.start(thread, "go")
            cut = [asyncio.create_task(cut_after(person, thread, place, held)) for place in range(45)]
            whole = await (await person.follow(thread, run=1)).rest()
            async with asyncio.timeout(WAIT):
                found = await asyncio.gather(*cut)
            for place, frames in enumerate(found):
                assert letters(frames) == letters(whole), place
            ids = [frame.id for frame in whole]
            assert len(set(ids)) == len(ids)

    run(main)


async def cut_after(person: Person, thread: str, place: int, held: Sequence[asyncio.Event]) -> list[Frame]:
    """Read so many frames, be cut off, come back with the last one's number, and read on."""
    stream = await person.follow(thread, run=1)
    seen: list[Frame] = []
    while len(seen) < place and (frame := await stream.frame()) is not None:
        seen.append(frame)
        release(seen, held)
    stream.cut(reset=True)
    stream = await person.follow(thread, seen[-1].id if seen else "", 1, header=True)
    while (frame := await stream.frame()) is not None:
        seen.append(frame)
        release(seen, held)
    return seen


def release(seen: Sequence[Frame], held: Sequence[asyncio.Event]) -> None:
    """Let the model go on as soon as somebody has seen how far it is."""
    said = "".join(frame.body["event"].get("text", "") for frame in seen if frame.data and "_delta" in frame.data)
    for words, event in zip(("First.", "That ", "That is "), held, strict=True):
        if words in said:
            event.set()


def test_f11_an_impossible_place_is_refused_at_once_and_shows_nothing_of_others(tmp_path: Path) -> None:
    async def main() -> None:
        async with case(tmp_path, [text("Mine."), text("Other.")]) as it, it.serving() as (person, _):
            mine, other, gone = [await person.thread() for _ in range(3)]
            await person.say(mine, "hi")
            await person.call("PATCH", f"/api/threads/{other}", json={"title": "moved on"})
            await person.say(other, "hi")
            await person.call("DELETE", f"/api/threads/{gone}")
            for path, status in (
                (f"{mine}/events?after=999", 422),
                (f"{mine}/events?after=-1", 422),
                (f"{mine}/events?after=1.-2", 422),
                (f"{mine}/events?after=none", 422),
                (f"{mine}/events?run=2", 404),
                (f"{mine}/events?run=99", 404),
                (f"{gone}/events", 404),
                (f"{'0' * 32}/events", 404),
            ):
                for headers in ({}, {"accept": "text/event-stream"}):
                    found, body = await person.call("GET", f"/api/threads/{path}", headers=headers)
                    assert found == status, (path, found, body)
                    assert body["error"]["message"]
                    assert "Other." not in str(body)
            status, body = await person.call(
                "GET", f"/api/threads/{mine}/events", headers={"last-event-id": "999", "accept": "text/event-stream"}
            )
            assert (status, body["error"]["field"]) == (422, "Last-Event-ID")

    run(main)


def test_f12_a_run_without_any_reader_ends_and_is_kept(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        turns = [*TURNS, Reply([chunk(content="That "), held, chunk(content="is all."), *ending()])]
        async with case(tmp_path, turns) as it:
            async with it.serving(grace=WAIT) as (person, _):
                thread = await person.thread()
                stream = await person.stream("POST", f"/api/threads/{thread}/messages", {"content": "go"})
                await read(stream, 3)
                stream.cut(reset=True)
                last = await it.endpoint.request(2)
                held.set()
                async with asyncio.timeout(WAIT):
                    await last.answered.wait()
        assert of(it.log, RunEnded) == [RunEnded("answer")]

    run(main)
