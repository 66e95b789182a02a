"""Calls that give a task to another agent: how it begins, is carried on, and what its giver is told of it.

The agent of such a task has a path of its own, `NAME:NUMBER`, where the number is that of the call's `ToolStarted`. Its
calls are judged by the same rules as all others. Which agents there are is the business of settings and wiring.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import msgspec

from stepwell.engines.base import Engine
from stepwell.engines.turns import end_delegated, put_off
from stepwell.engines.words import words
from stepwell.errors import ToolError
from stepwell.events import TaskEnded, TaskStarted, ToolEnded, ToolStatus
from stepwell.log import Log
from stepwell.messages import clean
from stepwell.plans import Task
from stepwell.specs import RunSpec
from stepwell.state.run import OpenCall, RunState
from stepwell.state.thread import parent_of
from stepwell.tools.base import Toolbox
from stepwell.tools.policy import arguments_of
from stepwell.tools.results import ToolResult

DEEPEST = 2
"""Delegations inside each other; who works at this depth is not offered the tool."""

Delegate = Callable[[RunSpec, str, str], tuple[Task, RunSpec] | None]
"""Says how another agent does a task: from the spec of the one that gives it, the agent's name and the task's text;
None where there is no such agent."""
Assemble = Callable[[RunSpec], Engine]
"""Builds the engine of a task; raises ConfigError for a name that the settings do not have."""


@runtime_checkable
class Delegating(Protocol):
    """A tool whose calls are carried out by another agent, not by running it."""

    def delegation(self, arguments: dict[str, Any]) -> tuple[str, str]:
        """Return the name of the agent and its task in words.

        Args:
            arguments: The call's, as the model wrote them.

        Raises:
            ToolError: That is no task; says what is wrong with it.
        """
        ...


class Parts(msgspec.Struct, frozen=True):
    """What delegating needs from wiring."""

    delegate: Delegate
    assemble: Assemble


class Carried(msgspec.Struct, frozen=True):
    """How far a delegated task came.

    Args:
        over: What the one is told that gave it; None while it waits.
        seen: Number of the newest event when its engine looked last.
        moved: Whether anything was done.
    """

    over: ToolResult | None
    seen: int
    moved: bool


def delegates(toolbox: Toolbox, each: OpenCall) -> bool:
    """Tell whether a call gives a task to another agent."""
    return isinstance(toolbox.get(each.call.name), Delegating)


def proposed(log: Log, toolbox: Toolbox, each: OpenCall, parts: Parts) -> tuple[Task, RunSpec] | ToolEnded:
    """Return the task that a call gives and how it goes, or the call's result where it gives none."""
    run = log.state.run
    assert run is not None
    try:
        name, text = _given(toolbox, each)
    except ToolError as error:
        return ToolEnded(each.call.id, clean(str(error)), "invalid")
    found = parts.delegate(run.spec, name, text)
    if found is None:
        return ToolEnded(each.call.id, words("no_such_agent", run.spec.language, detail=name[:80]), "invalid")
    task, spec = found
    if log.path.count(":") + 1 >= DEEPEST:
        spec = msgspec.structs.replace(spec, tools=tuple(tool for tool in spec.tools if tool != each.call.name))
    return task, spec


async def carry(
    log: Log, toolbox: Toolbox, each: OpenCall, parts: Parts, stop: Callable[[], object] | None = None
) -> Carried:
    """Carry a delegated task on until it is over or waits; a started call begins it.

    Args:
        log: The log of the agent that gave it.
        toolbox: What that may call.
        each: The started call.
        parts: From wiring.
        stop: Stops this, where other calls are carried out beside it, when somebody interrupts the agent.

    Raises:
        Conflict: Somebody else appended; look again.
        ConfigError: The settings do not have its model or a tool any more.
    """
    run, id = log.state.run, each.call.id
    assert run is not None
    path, moved = _open_path(log, id), False
    if path is None and run.calls[id].task is None:
        made = proposed(log, toolbox, each, parts)
        if isinstance(made, ToolEnded):
            return Carried(ToolResult(made.content, made.status), log.whole.seq, True)
        name = f"{_given(toolbox, each)[0]}:{each.started}"
        path, moved = f"{log.path}/{name}" if log.path else name, True
        await log.record(TaskStarted(*made, id), path=path)
    seen = log.whole.seq
    if path is not None:
        with _beside(log, path, stop):
            seen, moved = await _stepped(log.at(path), parts.assemble, moved)
        if path in log.whole.agents and put_off(log.at(path)) is not None:
            # Its question stays for later, so that what waits for the task can go on.
            await end_delegated(log, run, "question", "", keep=True, only=id)
            return Carried(ToolResult(words("answered_later", run.spec.language)), seen, True)
    ended = run.calls[id].task
    over = None if ended is None else _told(run, ended, _named(toolbox, each))
    return Carried(over, seen, moved)


@contextmanager
def _beside(log: Log, path: str, stop: Callable[[], object] | None) -> Generator[None]:
    """Have an interrupt of an agent stop it alone."""
    if stop is not None:
        log.workers[path] = stop
    try:
        yield
    finally:
        log.workers.pop(path, None)


async def _stepped(inner: Log, assemble: Assemble, moved: bool) -> tuple[int, bool]:
    task = inner.state.run
    assert task is not None
    engine = assemble(task.spec)
    try:
        seen = inner.whole.seq
        while inner.path in inner.whole.agents and await engine.step(inner):
            seen, moved = inner.whole.seq, True
    finally:
        await engine.close()
    return seen, moved or inner.path not in inner.whole.agents


def _open_path(log: Log, call: str) -> str | None:
    """Return the path of the agent that has a task from a call; its number may be of a start that was decided again."""
    for path, agent in log.whole.agents.items():
        if agent.run is not None and agent.run.call == call and parent_of(path) == log.path:
            return path
    return None


def _given(toolbox: Toolbox, each: OpenCall) -> tuple[str, str]:
    """Return agent and task of a call, by the arguments that a person approved."""
    tool = toolbox.get(each.call.name)
    assert isinstance(tool, Delegating)
    asked = each.asked.answer if each.asked is not None else None
    text = asked.arguments if asked is not None and asked.arguments else each.call.arguments
    return tool.delegation(arguments_of(tool, text))


def _named(toolbox: Toolbox, each: OpenCall) -> str:
    try:
        return _given(toolbox, each)[0]
    except ToolError:
        return each.call.name


_STATUS: dict[str, ToolStatus] = {"success": "ok", "failure": "failed", "cancelled": "cancelled"}


def _told(run: RunState, ended: TaskEnded, name: str) -> ToolResult:
    said = words(f"delegated_{ended.status}", run.spec.language, detail=name)
    conclusion = ended.conclusion
    text = (conclusion.reply or conclusion.summary) if conclusion is not None else ended.detail
    return ToolResult(f"{said}\n\n{text}" if text else said, _STATUS[ended.status])
