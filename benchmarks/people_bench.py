#!/usr/bin/env python3
"""Measures what people feel of a run, durable and without a network: prints one JSON object.

    python people_bench.py reach     how long an approval and an interruption take to reach an engine
    python people_bench.py waiting   what 10,000 waiting runs cost at the start-up of the next process
    python people_bench.py tasks     what a plan adds to its tasks, CPU a step

The model is a function in the process, so that nothing but Stepwell is measured.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stepwell.errors import Decided
from stepwell.events import Asked, StepStarted, ToolStarted
from stepwell.messages import Message
from stepwell.models.scripted import Reply, ScriptedModel, call
from stepwell.runs import people
from stepwell.runs.channel import Cursor
from stepwell.runs.service import RunService
from stepwell.specs import Rule, RunSpec, TaskOptions
from stepwell.store.sqlite import SqliteStore
from stepwell.tools.base import Toolbox
from stepwell.tools.mark import tool
from stepwell.wiring.engine import EngineMaker

OWNER = "local"
RUNS, ROUNDS = 10_000, 200


@tool(effect="write")
async def send(to: str) -> str:
    """Send something."""
    return f"sent to {to}"


@tool(effect="pure")
async def wait_for(what: str) -> str:
    """Wait."""
    await asyncio.sleep(3600)
    return what


@tool(effect="pure")
async def look(key: str) -> str:
    """Look."""
    return f"seen {key}"


def service_over(path: str, brain, tools) -> RunService:
    toolbox = Toolbox(tools)

    def assemble(spec: RunSpec):
        return EngineMaker(spec, ScriptedModel(brain), toolbox, None)(spec)

    return RunService(SqliteStore(Path(path)), assemble)


def spec_of(tools, **more) -> RunSpec:
    rules = (Rule(decision="ask", effect="write"),)
    return RunSpec(model="scripted", tools=Toolbox(tools).names, approvals=rules, **more)


def once(name: str):
    """Return a model that calls a tool once and then answers."""

    def brain(request):
        newest = request.all[-1]
        return "done" if newest.role != "user" or newest.content == "now" else call(name, **ARGUMENTS[name])

    return brain


ARGUMENTS = {"send": {"to": "Ann"}, "wait_for": {"what": "it"}}


async def until(service: RunService, thread: str, after: int, kind: type) -> int:
    """Return the number of the next event of a kind."""
    async for items in service.follow(OWNER, thread, Cursor(after)):
        for item in items:
            if isinstance(item.event, kind):
                return item.seq
    raise AssertionError


async def reach() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        approved, interrupted = [], []
        service = service_over(f"{folder}/one.db", once("send"), [send])
        for _ in range(ROUNDS):
            ref = await service.start(OWNER, Message("user", "go"), spec_of([send]))
            asked = await until(service, ref.thread, 0, Asked)
            await settled(service)
            begun = time.perf_counter()
            await people.answer(service, OWNER, ref.thread, asked, "approve")
            await until(service, ref.thread, asked, ToolStarted)
            approved.append(time.perf_counter() - begun)
        await service.stop(1)
        service = service_over(f"{folder}/two.db", once("wait_for"), [wait_for])
        for _ in range(ROUNDS):
            ref = await service.start(OWNER, Message("user", "go"), spec_of([wait_for]))
            running = await until(service, ref.thread, 0, ToolStarted)
            begun = time.perf_counter()
            await people.steer(service, OWNER, ref.thread, ref.run, Message("user", "now"), interrupt=True)
            await until(service, ref.thread, running, StepStarted)
            interrupted.append(time.perf_counter() - begun)
        await service.stop(1)
    return {
        "approval_ms": statistics.median(approved) * 1e3,
        "approval_p99_ms": sorted(approved)[int(ROUNDS * 0.99)] * 1e3,
        "interrupt_ms": statistics.median(interrupted) * 1e3,
        "interrupt_p99_ms": sorted(interrupted)[int(ROUNDS * 0.99)] * 1e3,
    }


async def settled(service: RunService) -> None:
    """Let whoever drove a run that waits leave it, so that the answer finds nobody at work."""
    while service._executor._tasks:
        await asyncio.sleep(0)


def rss() -> int:
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def fill(path: str) -> None:
    service = service_over(path, once("send"), [send])
    for start in range(0, RUNS, 500):
        refs = [await service.start(OWNER, Message("user", "go"), spec_of([send])) for _ in range(start, start + 500)]
        await asyncio.gather(*(until(service, ref.thread, 0, Asked) for ref in refs))
    await settled(service)
    await service.stop(5)


async def wake(path: str, count: int) -> dict[str, float]:
    before = rss()
    begun = time.perf_counter()
    service = service_over(path, once("send"), [send])
    resumed = await service.resume()
    took = time.perf_counter() - begun
    grown = rss() - before
    if resumed:
        raise Decided(f"{resumed} runs were resumed that should wait")
    open_ones = len(await people.pending(service, OWNER, 10)) if count else 0
    await service.stop(1)
    return {"startup_s": took, "rss": grown, "asked": open_ones}


async def waiting() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        full, empty = f"{folder}/full.db", f"{folder}/empty.db"
        await fill(full)
        service_over(empty, once("send"), [send])
        found = {}
        for name, path, count in (("empty", empty, 0), ("full", full, RUNS)):
            command = [sys.executable, __file__, "wake", path, str(count)]
            found[name] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        each = (found["full"]["rss"] - found["empty"]["rss"]) / RUNS
        return {"startup_s": found["full"]["startup_s"], "bytes_each": each, "asked": found["full"]["asked"]}


def worker(request):
    """Do a task in so many steps, and a plan of ten tasks."""
    offered = {each.name for each in request.tools}
    if "generate_plan" in offered:
        tasks = [{"name": f"T{n}", "goal": f"Look at {n}.", "milestones": ["seen"]} for n in range(10)]
        return call("generate_plan", subtasks=tasks)
    if "conclusion" in offered:
        fields = {"summary": "seen", "status": "success", "reached_goals": [], "failed_goals": [], "reply": "seen"}
        return call("conclusion", **fields)
    seen = sum(message.role == "tool" for message in request.messages)
    if seen < 5:
        return call("look", key=str(seen))
    return Reply(calls=(call("subtask_submit", submit_type="success", result="seen"),))


async def tasks() -> dict[str, float]:
    """Compare a plan of ten tasks with ten tasks by themselves: the same steps but for the plan's own."""
    options = TaskOptions(max_chain_length=8, max_plan_tree_width=10, fast_path=False)
    cost: dict[str, float] = {}
    steps: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for engine, times in (("react", 10), ("plan", 1)):
            service = service_over(f"{folder}/{engine}.db", worker, [look])
            used, count = [], 0
            for _ in range(8):
                begun = time.process_time()
                count = 0
                for _ in range(times):
                    spec = spec_of([look], engine=engine, tasks=options)
                    log = await service.begin(OWNER, Message("user", "Look around."), spec)
                    await service.drive(log)
                    assert log.state.last is not None
                    count += log.state.last[0].spent.steps
                used.append(time.process_time() - begun)
            cost[engine], steps[engine] = statistics.median(used), count
            await service.stop(1)
    added = cost["plan"] / steps["plan"] - cost["react"] / steps["react"]
    return {"plan_added_ms": added * 1e3, "react_ms": cost["react"] / steps["react"] * 1e3}


def main() -> None:
    name = sys.argv[1]
    work = {"reach": reach, "waiting": waiting, "tasks": tasks}.get(name)
    found = asyncio.run(work() if work is not None else wake(sys.argv[2], int(sys.argv[3])))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
