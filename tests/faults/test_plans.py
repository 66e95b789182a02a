"""A plan whose server is killed ends as it would have ended, with each effect once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stepwell.events import MessageAdded, PlanChanged, RunClaimed, RunEnded, TaskEnded
from tests.faults.support.case import Case, Parent, calls, run
from tests.faults.support.examine import of
from tests.faults.support.parent import Death
from tests.faults.support.talk import Talk, outlive
from tests.support.endpoint import Endpoint, Reply, Request
from tests.support.server import WAIT

AT_ONCE = 4
WORK = {"a": [("note", "a"), ("look", "a")], "b": [("put", "b"), ("note", "b")], "c": [("send", "c")]}
"""The calls of each task, side by side."""
BODY: dict[str, Any] = {"content": "Do it all.", "engine": "plan", "plan": {"max_parallel_tasks": 2}}
EDITS: tuple[dict[str, Any], ...] = (
    {"operation": "delete", "target_subtask_id": "1.1"},
    {
        "operation": "add",
        "target_subtask_id": "1.2",
        "subtasks": [{"name": "c", "goal": "c goal", "milestones": ["c is there"], "needs": ["1.1"]}],
    },
    {"operation": "exit"},
)
"""A refused edit, an accepted one, and the end."""


def planner(request: Request) -> Reply:
    """Decide by the request alone."""
    body = request.body
    messages, offered = body["messages"], {each["function"]["name"] for each in body["tools"]}
    made = [call for each in messages for call in each.get("tool_calls", ())]
    number = sum(map(ord, request.raw.decode())) % 100_003
    if "generate_plan" in offered:
        tasks = [{"name": name, "goal": f"{name} goal", "milestones": [f"{name} is there"]} for name in "ab"]
        return calls(("generate_plan", {"subtasks": tasks}), number=number)
    if "subtask_operations" in offered:
        edits = sum(call["function"]["name"] == "subtask_operations" for call in made)
        return calls(("subtask_operations", EDITS[edits % 3]), number=number)
    if "conclusion" in offered:
        told = {"summary": "done", "status": "success", "reached_goals": [], "failed_goals": [], "reply": "All done."}
        return calls(("conclusion", told), number=number)
    return work(messages, made, number)


def work(messages: list[dict[str, Any]], made: list[Any], number: int) -> Reply:
    """Do the calls of a task, then submit."""
    opening = next(each["content"] for each in messages if each["role"] == "user")
    name = opening.split("\n")[2].removesuffix(" goal")
    if not any(call["function"]["name"] == WORK[name][0][0] for call in made):
        return calls(*((tool, {"what": what}) for tool, what in WORK[name]), number=number)
    more = {"need_plan_rectification": True, "suggestions": ["add c"]} if name == "a" else {}
    return calls(("subtask_submit", {"submit_type": "success", "result": name, **more}), number=number)


async def play(folder: Path, parent: Parent, seed: int, *deaths: Death) -> Case:
    folder.mkdir()
    async with Endpoint(planner) as endpoint:
        it = Case(folder, endpoint, {"limits": {"repetitions": 0}}, parent)
        await outlive(it, Talk(seed, BODY), deaths)
    await it.examine()
    return it


def check(it: Case) -> None:
    log = it.log
    assert of(log, RunEnded) == [RunEnded("answer")]
    assert of(log, MessageAdded)[-1].message.content == "All done."
    assert [each.status for each in of(log, TaskEnded)] == ["success"] * 3
    assert Counter(each.operation for each in of(log, PlanChanged)) == {"exit": 2, "add": 1}


@pytest.mark.limit(200)
def test_a_plan_that_is_killed_at_any_event_ends_as_it_would_have_ended(tmp_path: Path, parent: Parent) -> None:
    async def main() -> None:
        whole = await play(tmp_path / "whole", parent, 0)
        check(whole)
        assert {json.dumps([each.tool, each.what]) for each in whole.effects} == {
            json.dumps(list(each)) for calls in WORK.values() for each in calls
        }
        gate, claims = asyncio.Semaphore(AT_ONCE), Counter[int]()

        async def one(at: int) -> None:
            async with gate, asyncio.timeout(2 * WAIT):
                death = Death(at=at, when="told" if at % 2 else "committed")
                it = await play(tmp_path / str(at), parent, at, death)
            check(it)
            claims[len(of(it.log, RunClaimed))] += 1

        async with asyncio.TaskGroup() as group:
            for at in range(2, len(whole.log)):
                group.create_task(one(at))
        assert claims[1] > len(whole.log) // 2, claims

    run(main, 190)
