"""What must hold of a data folder after every case: the one auditor, and what only the outside can tell."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec

from stepwell.config import Config
from stepwell.events import Answered, Asked, MessageEnded, Recorded, ToolEnded, ToolStarted
from stepwell.runs.replay import replay
from stepwell.server.auth import LOCAL
from stepwell.store.sqlite import SqliteStore
from stepwell.wiring.replay import ConfigParts
from tests.faults.support.tools import Effect
from tests.support.audit import audit

Logs = dict[str, list[Recorded]]


async def examine(config: Config, effects: Sequence[Effect], *, open_runs: bool = False) -> Logs:
    """Check every thread of a data folder and return their logs, oldest first.

    Args:
        config: The settings of the server that worked on it.
        effects: What was done outside.
        open_runs: Whether runs may still wait for somebody.
    """
    path = config.folder / "stepwell.db"
    _check_file(path)
    store = SqliteStore(path)
    try:
        logs = {thread: await store.read(thread) for thread in _threads(path)}
        rows = {thread: await store.thread(thread) for thread in logs}
        asking = set(await store.asking(LOCAL, len(logs) + 1))
        due = await store.due(time.time_ns() // 1_000_000)
        assert not due, f"nobody carries these on: {due}"
    finally:
        await store.close()
    parts = ConfigParts(config)
    for thread, log in logs.items():
        state, row = audit(log), rows[thread]
        assert row is not None
        said = (row.seq, row.run, thread in asking)
        assert said == (state.seq, state.run.seq if state.run else 0, bool(state.questions)), row
        if not open_runs:
            assert state.run is None, f"a run of {thread} is open: {log[-1]}"
            assert not state.questions, f"{thread} waits for answers"
        difference = await replay(log, parts)
        assert difference is None, f"{thread}: {difference}"
    check_effects(logs, effects)
    return logs


def _check_file(path: Path) -> None:
    with apsw.Connection(str(path)) as db:
        assert db.execute("PRAGMA integrity_check").get == "ok"
    db.close()


def _threads(path: Path) -> list[str]:
    db = apsw.Connection(str(path))
    found = [str(id) for (id,) in db.execute("SELECT id FROM threads ORDER BY no")]
    db.close()
    return found


def check_effects(logs: Logs, effects: Sequence[Effect]) -> None:
    """Check what was done outside against the intents, the decisions of people and the results in the logs."""
    intents = {f"{id}.{each.seq}": (id, each) for id, log in logs.items() for each in log if _is(each, ToolStarted)}
    done = Counter(each.key for each in effects)
    for effect in effects:
        assert effect.key in intents, f"{effect} was done without an intent"
        intent = intents[effect.key][1].event
        assert isinstance(intent, ToolStarted)
        assert intent.name == effect.tool, f"{effect} is not what {intent} meant"
    counted = {effect.tool for effect in effects}
    for key, (thread, recorded) in intents.items():
        intent = recorded.event
        assert isinstance(intent, ToolStarted)
        _check_call(logs[thread], intent, done[key], counted)


def _check_call(log: Sequence[Recorded], intent: ToolStarted, done: int, counted: set[str]) -> None:
    asked = {each.seq for each in log if isinstance(each.event, Asked) and each.event.call == intent.call}
    answers = [each.event for each in log if isinstance(each.event, Answered) and each.event.question in asked]
    retries = sum(each.decision == "retry" for each in answers)
    said_done = any(each.decision == "done" for each in answers)
    ended = [each.event for each in log if isinstance(each.event, ToolEnded) and each.event.call == intent.call]
    if intent.effect == "write":
        assert done <= 1 + retries, f"{intent} took effect {done} times"
    if ended and ended[0].status == "ok" and intent.name in counted and not said_done:
        assert done >= 1, f"{intent} has a result and no effect"


def _is(recorded: Recorded, kind: type[msgspec.Struct]) -> bool:
    return isinstance(recorded.event, kind)


def check_wire(body: dict[str, Any]) -> None:
    """Check a request as the strictest provider does: every call answered at once, in order, nothing left over."""
    waiting: list[str] = []
    for place, message in enumerate(body["messages"]):
        role = message["role"]
        assert role != "system" or place == 0, "a system message inside"
        if waiting:
            assert role == "tool", f"{waiting} have no results before {message}"
            assert message["tool_call_id"] == waiting.pop(0), "results in another order than their calls"
            continue
        assert role != "tool", f"a result of no call: {message}"
        if role == "assistant":
            calls = message.get("tool_calls", [])
            assert message.get("content") or calls, "an empty reply"
            waiting = [call["id"] for call in calls]
            assert len(set(waiting)) == len(waiting), "an id is there twice"
            for call in calls:
                assert isinstance(json.loads(call["function"]["arguments"], parse_int=str), dict)
    assert not waiting, f"no results for {waiting}"


def of(log: Sequence[Recorded], *kinds: type[Any]) -> list[Any]:
    """Return the events of these kinds, in order."""
    return [each.event for each in log if isinstance(each.event, kinds)]


def replies(log: Sequence[Recorded]) -> list[str]:
    """Return the texts of all replies."""
    return [each.message.content for each in of(log, MessageEnded)]
