"""A process that is killed after any stored event leaves a log from which the next one comes to the same answer."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from pathlib import Path

import pytest

from stepwell.engines.base import Engine
from stepwell.events import (
    ContextCompacted,
    MessageEnded,
    Recorded,
    RunClaimed,
    SummaryEnded,
    SummaryStarted,
    ToolEnded,
    ToolStarted,
)
from stepwell.models.base import Model
from stepwell.runs.replay import replay
from stepwell.specs import RunSpec
from stepwell.tools.base import Toolbox
from tests.support.audit import audit
from tests.support.crash import ANSWER, BOOKED, CALLS, Case, carry_out, log_of, pages, tools
from tests.support.runs import answer_of, chat_engine, end_of, events_of

ROOT = Path(__file__).parents[2]
WRITES = {what for calls in CALLS for name, what in calls if name == "note"}


def check_ledger(folder: Path, log: list[Recorded]) -> Counter[str]:
    """Check what was done outside against the log; return how often a write's outcome was unknown, done or not."""
    lines = [line.split() for line in (folder / "ledger").read_text().splitlines()]
    replies = [each.message for each in events_of(log, MessageEnded)]
    calls = {call.id: json.loads(call.arguments)["what"] for reply in replies for call in reply.calls}
    status = {calls[each.call]: each.status for each in events_of(log, ToolEnded)}
    assert len(status) == 10
    done = Counter(what for _, what, _ in lines)
    for what, ended in status.items():
        assert ended == "ok" or (ended == "unknown" and what in WRITES)
        assert done[what] >= (ended == "ok")
        assert done[what] <= 1 or what not in WRITES, f"{what} was written {done[what]} times"
    keys = {(what, key) for name, what, key in lines if name == "put"}
    assert len(keys) == len({what for what, _ in keys}), "a call was repeated under another key"
    return Counter(f"{done[what]} times" for what, ended in status.items() if ended == "unknown")


class Parts:
    """What a replay is made of: neither the model nor the tools can be reached."""

    def versions(self, spec: RunSpec) -> dict[str, str]:
        return {}

    def toolbox(self, spec: RunSpec) -> Toolbox:
        return Toolbox(tools(Path("/nowhere")))

    def engine(self, spec: RunSpec, model: Model, toolbox: Toolbox) -> Engine:
        return chat_engine(model, toolbox)


def test_a_run_killed_after_any_stored_event_ends_with_the_same_answer(tmp_path: Path) -> None:
    carry_out(tmp_path, [Case("whole", 0, "told")])
    whole = log_of(tmp_path / "whole")
    assert answer_of(whole) == ANSWER
    assert len(events_of(whole, ToolStarted)) == 10
    numbers = range(2, len(whole) + 1)
    cases = [Case(f"{at}-committed", at, "committed") for at in numbers]
    cases += [Case(f"{at}-told", at, "told") for at in numbers]
    cases += [Case(f"{at}-again", at, "told", 5) for at in numbers if at % 4 == 0 and at < len(whole) - 10]
    ends = carry_out(tmp_path, cases)
    unknown: Counter[str] = Counter()
    for case in cases:
        log = log_of(tmp_path / case.name)
        killed = [-signal.SIGKILL] * (1 + bool(case.again))
        assert ends[case.name] == [*killed, 0], case
        assert answer_of(log) == ANSWER, case
        assert end_of(log) == end_of(whole)
        assert len(log) >= len(whole)
        audit(log)
        assert asyncio.run(replay(log, Parts())) is None, case
        claims = len(events_of(log, RunClaimed))
        assert claims <= len(killed)
        if case.when == "committed":  # the others may have stored a few more before they died
            assert claims == (case.at < len(whole)), case
        unknown += check_ledger(tmp_path / case.name, log)
    # The killing fell on both sides of the effects.
    assert unknown["0 times"] > 0
    assert unknown["1 times"] > 0


class LongParts(Parts):
    def toolbox(self, spec: RunSpec) -> Toolbox:
        return Toolbox(pages(Path("/nowhere")))


@pytest.mark.limit(120)
def test_a_long_run_killed_after_any_stored_event_pays_for_a_summary_at_most_once_more(tmp_path: Path) -> None:
    carry_out(tmp_path, [Case("whole", 0, "told", kind="long")])
    whole = log_of(tmp_path / "whole")
    assert answer_of(whole) == BOOKED
    assert len(events_of(whole, ContextCompacted)) > 2
    made = [each for each in events_of(whole, SummaryEnded) if each.status == "ok"]
    assert {each.kind for each in made} == {"tool_calls", "working_context"}
    cases = [Case(str(at), at, "told" if at % 2 else "committed", kind="long") for at in range(2, len(whole) + 1)]
    carry_out(tmp_path, cases)
    again = 0
    for case in cases:
        log, ledger = log_of(tmp_path / case.name), (tmp_path / case.name / "ledger").read_text().splitlines()
        assert answer_of(log) == BOOKED, case
        audit(log)
        assert asyncio.run(replay(log, LongParts())) is None, case
        booked = Counter(line for line in ledger if line.startswith("book"))
        assert max(booked.values()) == 1
        ended = events_of(log, SummaryEnded)
        ranges = Counter((each.kind, each.first, each.last) for each in ended if each.status == "ok")
        assert max(ranges.values(), default=1) == 1, "a summary was stored twice"
        assert all(each.text for each in ended if each.status == "ok"), "half a summary was stored"
        paid = sum(line.startswith("summary") for line in ledger)
        assert paid <= len(events_of(log, SummaryStarted))
        lost = sum(each.status == "cancelled" and each.detail == "the process stopped" for each in ended)
        assert lost <= 2, "one process left more than one summary of a kind open"
        again += lost
    assert again > 0, "no process died inside a summary"
