"""Two hundred servers killed at random events of runs in which people take part: nothing is lost or done twice.

Each case has a seed, which says where its server dies, perhaps its next one too, what people say and what they decide.
A failing seed is in the message and can be played alone: `FAULTS_SEED=17 pytest tests/faults/test_kills.py`.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from stepwell.events import Answered, MessageQueued, RunClaimed, RunStarted, Steered
from tests.faults.support.case import Case, Parent, calls, run
from tests.faults.support.examine import of
from tests.faults.support.parent import Death
from tests.faults.support.talk import Talk, outlive
from tests.support.endpoint import Endpoint, Reply, Request, text
from tests.support.server import WAIT

CASES = 200
AT_ONCE = 4
CORES = 2
"""Of the machine on which the two hundred may take a minute."""
LAST = 60
"""No run of these has more events, so that some servers live until the end and are killed there."""
ASK = {"rules": [{"decision": "ask", "tool": "send"}, {"decision": "allow"}]}
MORE = ("queue", "steer", "interrupt")


def model(request: Request) -> Reply:
    """Decide by the request alone: how many results it holds, and whether somebody said more."""
    messages = request.body["messages"]
    done = sum(each["role"] == "tool" for each in messages)
    wants_more = any(each["role"] == "user" and each["content"] == "more" for each in messages)
    if not done:
        return calls(("note", {"what": "a"}), ("send", {"what": "b"}), ("look", {"what": "c"}), said="Now: ")
    if done < 5:
        return calls(("send", {"what": "d"}), ("put", {"what": "e"}), said="Then: ", number=1)
    if wants_more and done < 6:
        return calls(("note", {"what": "f"}), number=2)
    return text("It", " is", " done.")


async def play(folder: Path, parent: Parent, seed: int) -> Case:
    """Carry one case out: a server that dies, perhaps a second, and one that goes on to the end."""
    chance = random.Random(seed)
    more = {"content": "more", "while_running": chance.choice(MORE)}
    talk = Talk(seed, {"content": "go"}, more, chance.randrange(1, 20))
    deaths = [Death(at=chance.randrange(2, LAST), when=chance.choice(("committed", "told")))]
    if chance.random() < 0.2:
        deaths.append(Death(at=chance.randrange(1, 15)))
    folder.mkdir()
    async with Endpoint(model) as endpoint:
        it = Case(folder, endpoint, {"approvals": ASK, "limits": {"repetitions": 0}}, parent)
        await outlive(it, talk, deaths)
    await it.examine()
    return it


@pytest.mark.limit(300)
def test_no_kill_among_two_hundred_loses_anything_or_does_anything_twice(tmp_path: Path, parent: Parent) -> None:
    chosen = os.environ.get("FAULTS_SEED")
    seeds = [int(chosen)] if chosen else list(range(CASES))
    found: Counter[str] = Counter()

    async def one(seed: int, gate: asyncio.Semaphore) -> None:
        async with gate:
            try:
                async with asyncio.timeout(2 * WAIT):
                    it = await play(tmp_path / str(seed), parent, seed)
                check(it, found)
            except Exception as error:
                error.add_note(f"FAULTS_SEED={seed}")
                raise

    async def main() -> None:
        gate = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for seed in seeds:
                group.create_task(one(seed, gate))

    before = time.process_time() + parent.seconds()
    run(main, 290)
    assert not parent.children(), "victims are left"
    if chosen is None:
        # What others do on the machine meanwhile is not counted.
        assert (time.process_time() + parent.seconds() - before) / CORES < 60
        # The killing fell on all that can be cut off.
        for name in ("claimed", "queued", "steered", "interrupted", "retry", "done", "skip", "approve", "deny"):
            assert found[name] > 0, (name, found)


def check(it: Case, found: Counter[str]) -> None:
    """Check what this case alone promises, and count what it met."""
    log = it.log
    assert len(of(log, RunStarted)) <= 2
    told = len(of(log, MessageQueued)) + len(of(log, Steered))
    assert told <= 1, "a repeated message was taken twice"
    assert told + len(of(log, RunStarted)) >= 2, "a message was lost"
    found["claimed"] += len(of(log, RunClaimed))
    found["queued"] += len(of(log, MessageQueued))
    for each in of(log, Steered):
        found["interrupted" if each.interrupt else "steered"] += 1
    for each in of(log, Answered):
        found[each.decision] += 1
