"""A run that is stopped ends once, in one way, whatever else happens at that moment (F16)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from stepwell.events import CancelRequested, RunEnded
from tests.faults.support.case import Person, calls, case, run
from tests.faults.support.examine import of
from tests.support.endpoint import Cut, Reply, Request, chunk, ending, text
from tests.support.server import Server

SEEDS = 1000
AT_ONCE = 20


def test_f16_a_cancel_twice_and_one_after_the_end_change_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with case(tmp_path, [Reply([chunk(content="x"), Cut.STALL]), text("Done.")]) as it:
            async with it.serving() as (person, _):
                thread = await person.thread()
                await person.start(thread, "go")
                await it.endpoint.request(0)
                cancel = f"/api/threads/{thread}/runs/1/cancel"
                await asyncio.gather(*(person.post(cancel) for _ in range(5)))
                over = await person.over(thread)
                await person.post(cancel)
                assert await person.events(thread) == over
                run = (await person.post(f"/api/threads/{thread}/messages", {"content": "more"}))["run"]
                await person.over(thread, 2)
                before = await person.events(thread)
                await person.post(f"/api/threads/{thread}/runs/{run}/cancel")
                await person.post(cancel)
                assert await person.events(thread) == before
                assert (await person.call("POST", f"/api/threads/{thread}/runs/2/cancel"))[0] == 404
        assert len(of(it.log, CancelRequested)) == 1
        assert [end.reason for end in of(it.log, RunEnded)] == ["cancelled", "answer"]

    run(main)


class Finish:
    """A model that calls a tool and then waits with the end of its answer, a run at a time."""

    def __init__(self) -> None:
        self.held: dict[str, asyncio.Event] = {}
        self.asked: dict[str, asyncio.Event] = {}

    def add(self, name: str) -> None:
        self.held[name], self.asked[name] = asyncio.Event(), asyncio.Event()

    def __call__(self, request: Request) -> Reply:
        messages = request.body["messages"]
        if messages[-1]["role"] == "user":
            return calls(("look", {"what": "a"}), together=True)
        name = messages[1]["content"]
        self.asked[name].set()
        return Reply([chunk(content="Done."), self.held[name], *ending()])


async def one(person: Person, server: Server, model: Finish, seed: int) -> None:
    """Race a cancel against the last bytes of an answer: a seed says who is first, by how many turns of the loop."""
    chance, name = random.Random(seed), str(seed)
    model.add(name)
    begun = await person.post("/api/messages", {"content": name})
    thread, run = begun["thread"], begun["run"]
    await model.asked[name].wait()

    async def cancel() -> None:
        if chance.random() < 0.5:
            await server.service.cancel("local", thread, run)
        else:
            await person.post(f"/api/threads/{thread}/runs/{run}/cancel")

    async def finish() -> None:
        model.held[name].set()

    racers = [cancel, finish]
    chance.shuffle(racers)
    first = asyncio.create_task(racers[0]())
    for _ in range(chance.randrange(40)):
        await asyncio.sleep(0)
    await racers[1]()
    await first
    await person.over(thread)


@pytest.mark.limit(90)
def test_f16_a_cancel_that_races_the_end_leaves_one_end_and_it_is_the_winners(tmp_path: Path) -> None:
    async def main() -> None:
        model = Finish()
        async with case(tmp_path, model) as it:
            async with it.serving() as (person, server):
                for start in range(0, SEEDS, AT_ONCE):
                    seeds = range(start, start + AT_ONCE)
                    await asyncio.gather(*(one(person, server, model, seed) for seed in seeds))
        assert len(it.logs) == SEEDS
        ends = Counter(end.reason for log in it.logs.values() for end in of(log, RunEnded))
        assert ends["cancelled"] + ends["answer"] == SEEDS, ends
        assert min(ends["cancelled"], ends["answer"]) > SEEDS // 20, ends
        for log in it.logs.values():
            (end,) = of(log, RunEnded)
            assert (end.reason == "cancelled") == bool(of(log, CancelRequested)), log

    run(main, 80)
