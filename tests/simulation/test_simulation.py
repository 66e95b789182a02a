"""Worlds with crashes, races and people in them hold what is promised, and each can be played again.

The rest tests the simulator itself: a fault of the kind that it is there for does not get past it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stepwell.engines import approvals
from stepwell.engines.approvals import Verdict
from stepwell.events import Recorded, TitleChanged
from stepwell.store.base import ThreadInfo
from stepwell.tools.base import Prepared, Toolbox
from tests.simulation import simulate as simulation
from tests.simulation.checks import check_effects
from tests.simulation.loop import PROCESS, Deadlock, SimLoop
from tests.simulation.model import SimModel
from tests.simulation.simulate import Outcome, Parts, main, simulate
from tests.simulation.world import Gone, Process, SimStore, World

ROOT = Path(__file__).parents[2]
SEEDS = 500
"""Worlds of a test run; `scripts/soak` plays more."""
HALVES = 2


def play(*arguments: str, hash_seed: str = "random") -> subprocess.Popen[str]:
    """Play worlds in a process of their own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.simulation.simulate", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def printed(*players: subprocess.Popen[str]) -> list[str]:
    try:
        return [player.communicate(timeout=170)[0] for player in players]
    finally:
        for player in players:
            player.kill()


@pytest.mark.limit(180)
def test_whatever_crashes_and_races_every_world_comes_to_a_good_end() -> None:
    part = SEEDS // HALVES
    players = [play("--from", str(1 + at * part), "--seeds", str(part)) for at in range(HALVES)]
    out = "".join(printed(*players))
    assert [player.returncode for player in players] == [0] * HALVES, out


def test_a_front_goes_on_from_what_another_process_appended() -> None:
    player = play("--seed", "70393")
    out = "".join(printed(player))
    assert player.returncode == 0, out


def test_a_replay_finds_when_agents_side_by_side_met_what_came_from_outside() -> None:
    # In these worlds an answer or a message was met later than it came, for whoever waited for it was not looking; an
    # agent began while another beside it ended; a call was refused, and the process died before it could tell.
    seeds = ("5669", "8273", "10688", "40237", "71335", "200057")
    players = [play("--seed", seed) for seed in seeds]
    out = "".join(printed(*players))
    assert [player.returncode for player in players] == [0] * len(seeds), out


def test_a_question_ends_with_its_call_and_nobody_waits_for_it_any_more() -> None:
    # In these worlds a result came in while another process asked for the same call, a run was over its limit while it
    # asked, another process cancelled a run whose tool was asking, and a task at its limit was asking after a crash.
    seeds = ("128", "725", "210046", "211673", "3100070")
    players = [play("--seed", seed) for seed in seeds]
    out = "".join(printed(*players))
    assert [player.returncode for player in players] == [0] * len(seeds), out


def test_what_tools_ask_while_they_run_and_what_came_meanwhile_replays() -> None:
    # In these worlds several tools asked side by side, an interrupt came from another process, a thread was forked
    # where its run was being closed, agents looked at a limit while an account was read, a tool could not ask, for
    # another process came first, a front passed something on or began a chat while it and the plan waited for the
    # store, and a plan looked at the log when two of its tasks had ended.
    seeds = ("75", "378", "787", "8016", "8236", "9110", "60478", "3100272", "3101729", "3130107")
    seeds += ("3122796", "3300509", "3500414")
    players = [play("--seed", seed) for seed in seeds]
    out = "".join(printed(*players))
    assert [player.returncode for player in players] == [0] * len(seeds), out


def test_a_disk_that_is_full_for_a_while_doubles_no_effect_and_keeps_nobody_busy() -> None:
    # In one of these a write was tried again before the yes to it was stored, in the other somebody waited in a circle.
    players = [play("--seed", seed) for seed in ("6757", "50457")]
    out = "".join(printed(*players))
    assert [player.returncode for player in players] == [0] * 2, out


def test_a_seed_leaves_the_same_logs_each_time() -> None:
    players = [play("--from", "1", "--seeds", "12", "--digests", hash_seed=each) for each in ("1", "2")]
    one, other = printed(*players)
    assert one == other
    assert len(set(one.splitlines())) == 13


def test_a_failed_seed_is_printed_with_the_command_that_plays_it_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(seed: int) -> Outcome:
        return Outcome("d", 3, 1.0, 9, ["it rained"], "Traceback\nAssertionError: wet" if seed == 8 else "")

    monkeypatch.setattr(simulation, "simulate", fail)
    assert main(["--from", "7", "--seeds", "3"]) == 1
    out = capsys.readouterr().out
    assert "seed 8 failed: AssertionError: wet\n    ./scripts/soak --seed 8\n" in out
    assert "3 worlds with 9 events; 1 failed" in out
    assert main(["--seed", "8"]) == 1
    assert "it rained" in capsys.readouterr().out
    assert main(["--seed", "9"]) == 0


def found(word: str, seeds: range) -> bool:
    """Tell whether one of these worlds fails with a word."""
    return any(word in simulate(seed).failure for seed in seeds)


def test_a_write_that_is_run_again_after_a_crash_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def again(log: Any, run: Any, toolbox: Any, each: Any) -> Verdict:
        prepared = toolbox.prepare(each.call)
        return Verdict(run=prepared) if isinstance(prepared, Prepared) else Verdict()

    monkeypatch.setattr(approvals, "_cut_off", again)
    assert found(check_effects.__name__, range(1, 200))


def test_a_commit_that_is_acknowledged_and_lost_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    die = SimStore.die

    def forget(self: SimStore) -> None:
        die(self)
        for events in self.disk._events.values():
            del events[-1:]

    monkeypatch.setattr(SimStore, "die", forget)
    assert found("was acknowledged and is gone", range(1, 60))


# the loop


def test_time_passes_without_waiting_and_in_order() -> None:
    loop, came = SimLoop(), list[tuple[str, float]]()

    async def sleep(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        came.append((name, loop.time()))

    async def body() -> None:
        await asyncio.gather(sleep("late", 3600.0), sleep("early", 0.5))

    loop.run_until_complete(body())
    loop.close()
    assert came == [("early", 0.5), ("late", 3600.0)]


def test_a_deadlock_names_who_waits_and_where() -> None:
    loop = SimLoop()

    async def forever() -> None:
        await asyncio.Event().wait()

    task = loop.create_task(forever(), name="the sleeper")
    with pytest.raises(Deadlock, match=r"the sleeper .*Event\.wait.*forever"):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


def in_world(body: Any) -> None:
    """Run a test in a world without people."""
    loop = SimLoop()
    world = World(1, loop)
    loop.run_until_complete(body(world))
    for process in world.processes:
        process.store.bury()
        loop.run_frozen(process)
    for task in loop.tasks():
        task.cancel()
    loop.run_until_complete(asyncio.sleep(1.0))
    loop.close()


def start(world: World) -> Process:
    return world.start(Parts(SimModel(world, 0.0), Toolbox()).assembling)


def test_nothing_of_a_dead_process_is_run_any_more() -> None:
    done: list[str] = []

    async def body(world: World) -> None:
        process = start(world)

        async def work(service: object) -> None:
            assert PROCESS.get() is process
            try:
                done.append("began")
                await asyncio.sleep(2.0)
                done.append("went on")
            finally:
                done.append("cleared up")

        world.loop.call_later(1.0, process.crash)
        with pytest.raises(Gone):
            await process.do(work)
        await asyncio.sleep(10.0)
        assert done == ["began"]

    in_world(body)


def test_a_store_that_dies_keeps_the_beginning_of_what_it_was_given() -> None:
    kept: set[int] = set()

    async def body(world: World) -> None:
        for number in range(60):
            store = SimStore(world, world.chance(f"store {number}"))
            id, heard = f"{number}", list[int]()
            for seq in range(1, 7):
                new = ThreadInfo(id, "ann") if seq == 1 else None
                event = Recorded(seq, 0, 0, TitleChanged(f"{seq}"))
                future = store.append(id, [event], expect=seq - 1, new=new)
                future.add_done_callback(lambda _, seq=seq, heard=heard: heard.append(seq))
            await asyncio.sleep(world.chance(id).random() * 2 * store.slow)
            store.die()
            events = await world.disk.read(id)
            assert [each.seq for each in events] == list(range(1, len(events) + 1))
            assert heard == list(range(1, len(heard) + 1))
            assert len(heard) <= len(events)
            kept.add(len(events))

    in_world(body)
    assert kept >= {0, 3, 6}
