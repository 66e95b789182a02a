"""Goes through a stored thread again with the real engine, and says where it would decide otherwise today.

The log is the world: replies, results of tools, cancellations, crashes, times and the order of parallel results are
read from it. Decisions and requests are made anew and compared. No model is asked, no tool runs, no connection
is opened, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, get_args

from stepwell.engines.base import Engine
from stepwell.engines.unconcluded import TIMES, out_of_time
from stepwell.engines.words import words
from stepwell.errors import ConfigError, Conflict, ReplayDiffers
from stepwell.events import (
    Forked,
    Recorded,
    RunStarted,
)
from stepwell.models.base import Model
from stepwell.runs.replay_compare import TAKERS, Difference, difference_of, has_place, is_input
from stepwell.runs.replay_ends import FAULTS
from stepwell.runs.replay_log import ReplayLog
from stepwell.runs.replay_parts import ReplayModel, ReplayToolbox
from stepwell.runs.replay_times import AT_ONCE, Doubt, Notice, Times
from stepwell.specs import RunSpec
from stepwell.state.run import RunState
from stepwell.tools.base import Toolbox

NOTICES: tuple[Notice, ...] = get_args(Notice)
PATIENCE = (0, 5)
"""Turns of the loop that the reading of an account may have taken; the log does not tell what others did meanwhile."""
MOST_INPUTS = 6
"""Inputs before a difference, and doubts, of which another time is tried."""


class Parts(Protocol):
    """What engines are made of today; wiring implements it."""

    def versions(self, spec: RunSpec) -> dict[str, str]:
        """Return the constants and hashes of templates in force, by name."""
        ...

    def toolbox(self, spec: RunSpec) -> Toolbox:
        """Return the tools of a run.

        Raises:
            ConfigError: A tool is no longer there.
        """
        ...

    def engine(self, spec: RunSpec, model: Model, toolbox: Toolbox) -> Engine:
        """Build the engine of a run over a given model and tools.

        Raises:
            ConfigError: A dialect or prompt is no longer there.
        """
        ...


class _Attempt(NamedTuple):
    """What came of a replay with certain times for what came from outside.

    Args:
        notice: The times.
        difference: The first place where it leaves the log; None for none.
        doubts: What else may have been, with the numbers of the events.
    """

    notice: Times
    difference: Difference | None
    doubts: list[tuple[int, Doubt]]


async def replay(events: Sequence[Recorded], parts: Parts, thread: str = "") -> Difference | None:
    """Carry out every run of a thread again and compare; an open run is compared as far as it got.

    Args:
        events: All of the thread, from number 1.
        parts: What engines are made of.
        thread: The thread's id, which some final answers name.

    Returns:
        The first difference, or None.

    Raises:
        ReplayDiffers: An engine reached past its toolbox for a tool.
    """
    first: Difference | None = None
    for patience in PATIENCE:
        found = await _searched(events, parts, thread, patience)
        if found is None or found.kind == "version":
            return found
        first = first or found
    return first


async def _searched(events: Sequence[Recorded], parts: Parts, thread: str, patience: int) -> Difference | None:
    """Return the first difference, unless there are times for the inputs at which there is none."""
    tried = await _attempt(events, parts, thread, AT_ONCE, patience)
    first = tried.difference
    while tried.difference is not None and tried.difference.kind != "version":
        better = await _another(events, parts, thread, tried, patience)
        if better is None:
            return first
        tried = better
    return tried.difference


async def _another(
    events: Sequence[Recorded], parts: Parts, thread: str, before: _Attempt, patience: int
) -> _Attempt | None:
    """Look for a time at which an input may have been met so that the log comes about further than before.

    Several agents were at work, and each looked at the log when it got to it: the log tells when something came, and
    not when who met it.
    """
    best, reached = None, before.difference.seq if before.difference is not None else 0
    for seq, times in _others(events[:reached], before):
        for when in times:
            found = await _attempt(events, parts, thread, {**before.notice, seq: when}, patience)
            if found.difference is None:
                return found
            if found.difference.seq > reached:
                best, reached = found, found.difference.seq
        if best is not None:
            return best
    return None


def _others(events: Sequence[Recorded], before: _Attempt) -> list[tuple[int, tuple[Notice | Doubt, ...]]]:
    """Return what else may have been before a difference, by the numbers of the events, the newest first."""
    known, choices = before.notice, dict[int, tuple[Notice | Doubt, ...]]()
    inputs = [each.seq for each in events[:-1] if is_input(each.event) and each.seq not in known]
    for seq in inputs[-MOST_INPUTS:]:
        choices[seq] = NOTICES
    doubts = sorted({each for each in before.doubts if each[0] <= len(events) and each[0] not in known})
    for seq, doubt in doubts[-MOST_INPUTS:]:
        choices[seq] = (*choices.get(seq, ()), doubt)
    return sorted(choices.items(), reverse=True)


async def _attempt(events: Sequence[Recorded], parts: Parts, thread: str, notice: Times, patience: int) -> _Attempt:
    log = ReplayLog(events, thread, notice, patience)
    while log.difference is None and (recorded := log.next()) is not None:
        if isinstance(recorded.event, RunStarted):
            log.difference = _changed_version(recorded, recorded.event.spec, parts)
            log.take()
            await _carry_out(log, parts)
        elif isinstance(recorded.event, Forked):
            log.take()
        else:
            log.difference = difference_of(recorded, None, log.proved)
    return _Attempt(notice, log.difference, log.doubts)


def _changed_version(recorded: Recorded, spec: RunSpec, parts: Parts) -> Difference | None:
    try:
        now = parts.versions(spec)
    except ConfigError:  # the prompt is gone: the engine cannot be built, and that is compared
        return None
    for name, stored in spec.versions.items():
        if now.get(name) != stored:
            return Difference(recorded.seq, "version", name, stored, now.get(name, ""), 0)
    return None


async def _carry_out(log: ReplayLog, parts: Parts) -> None:
    """Do what `driver.drive` does, with the log in place of a clock and of other tasks."""
    interrupted = False
    while (run := log.state.run) is not None and log.difference is None and (recorded := log.next()) is not None:
        if run.spec.outside:
            _take_outside(log, run, recorded)
            continue
        if isinstance(recorded.event, TAKERS):
            log.take()
            interrupted = False
            continue
        if interrupted or run.cancel is not None:
            await log.carry(_end(log, run))
        else:
            interrupted = await log.carry(_advance(log, run, parts)) and not log.cut


def _take_outside(log: ReplayLog, run: RunState, recorded: Recorded) -> None:
    """Take an event of a run whose decisions were made elsewhere; all that can be told is whether it has a place."""
    if has_place(run, recorded.event):
        log.take()
    else:
        log.difference = difference_of(recorded, None, log.proved)


async def _advance(log: ReplayLog, run: RunState, parts: Parts) -> None:
    try:
        toolbox = ReplayToolbox(parts.toolbox(run.spec), log)
        engine = parts.engine(run.spec, ReplayModel(log), toolbox)
        while await engine.step(log):
            pass
    except ConfigError as error:
        await log.close("failed", "config", str(error))
    except ReplayDiffers:
        raise
    except Conflict:
        return  # it looks at the log anew, as in the driver
    except Exception as error:  # the boundary of a run, as in the driver: this end is compared, too
        await log.close("failed", "internal", words("internal", run.spec.language, detail=type(error).__name__))


async def _end(log: ReplayLog, run: RunState) -> None:
    end, language = log.interruption(), run.spec.language
    if end is not None and end.cause in FAULTS:
        await log.close(end.reason, end.cause, end.detail)
    elif run.cancel is not None:
        await log.close("cancelled", "cancelled", words("cancelled", language))
    else:
        cause = end.cause if end is not None and end.cause in TIMES else "seconds"
        await log.close("limit", cause, out_of_time(run.spec, cause))
