"""Views on what an agent did: its working context now, and its past steps and calls, read from the log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from stepwell.contexts import WorkingContext
from stepwell.events import MessageEnded, Recorded, StepStarted, ToolEnded, ToolStatus, WorkingUpdated
from stepwell.log import Log
from stepwell.messages import Message, ToolCall
from stepwell.state.agent import AgentState

PAGE = 500
"""Events read from the log at a time."""

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def basic_info(state: AgentState) -> dict[str, str]:
    """Return when the working context began and how many steps were taken so far, as in XAgent; the time is UTC."""
    return _infos(state.working.time if state.working else state.run.started if state.run else 0, state.steps)


def working_context(state: AgentState) -> WorkingContext:
    """Return the working context as the log has it by now: what it was given, and what came of a step in it."""
    given = state.working
    infos = {**basic_info(state), **(given.event.basic_info if given else {})}
    run = state.run
    reply = run.reply if run and state.steps > (given.steps if given else 0) else None
    return WorkingContext(
        basic_info=_lines(infos),
        observation=(given.event.observation or "") if given else "",
        thoughts=(_thought(reply),) if reply and reply.content else (),
        tool_calls=reply.calls if reply else (),
    )


def _infos(time: int, steps: int) -> dict[str, str]:
    moment = datetime.fromtimestamp(time / 1000, UTC)
    return {
        "Time": f"{moment:%Y-%m-%d} {_WEEKDAYS[moment.weekday()]} {moment:%H:%M:%S}",
        "Step Id": f"No.{steps}",
    }


def _lines(infos: dict[str, str]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in infos.items() if value)


def _thought(message: Message) -> dict[str, Any]:
    try:
        return msgspec.json.decode(message.content, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return {"thought": message.content}


class PastCall(msgspec.Struct, frozen=True, gc=False):
    """A call with what came of it.

    Args:
        call: What the model asked for.
        output: What it was told; empty while the call is open.
        status: How it ended; empty while it is open.
        seq: Number of the event that holds the result; 0 while it is open.
    """

    call: ToolCall
    output: str = ""
    status: ToolStatus | str = ""
    seq: int = 0


class PastSteps:
    """The working contexts of all steps since the history was last cleared, oldest first.

    Only their number is at hand; all else is read from the log, in time linear in it.

    Args:
        log: Where they are read.
    """

    def __init__(self, log: Log) -> None:
        self._log = log

    def __len__(self) -> int:
        return self._log.state.steps

    async def read(self, first: int = 0, last: int | None = None) -> list[WorkingContext]:
        """Return a part of them, as a slice of a list does: `read(-3)` gives the newest three."""
        start, end, _ = slice(first, last).indices(len(self))
        found: list[WorkingContext] = []
        at = 0
        async for each in self:
            if at >= end:
                break
            if at >= start:
                found.append(each)
            at += 1
        return found

    async def __aiter__(self) -> AsyncIterator[WorkingContext]:
        held: WorkingContext | None = None
        given, since, number, aside = WorkingUpdated(), 0, 0, False
        async for recorded in _events(self._log):
            since = since or recorded.time
            match recorded.event:
                case WorkingUpdated() as given:
                    since = recorded.time
                case StepStarted() as started:
                    aside = started.aside
                    if held is not None and not started.repairs:
                        yield held
                        number += 1
                    if not aside or not started.repairs:
                        held = None
                case MessageEnded(stop=stop) as ended if not aside and stop not in ("error", "cancelled"):
                    infos = {**_infos(since, number), **given.basic_info}
                    held = WorkingContext(
                        basic_info=_lines(infos),
                        observation=given.observation or "",
                        thoughts=(_thought(ended.message),) if ended.message.content else (),
                        tool_calls=ended.message.calls,
                    )
                case _:
                    pass
        if held is not None:
            yield held


class PastCalls:
    """All calls since the history was last cleared, with their results, oldest first.

    Only their number is at hand; all else is read from the log, in time linear in it.

    Args:
        log: Where they are read.
    """

    def __init__(self, log: Log) -> None:
        self._log = log

    def __len__(self) -> int:
        return self._log.state.calls

    async def get(self, id: str) -> PastCall | None:
        """Return a call by its id, or None."""
        async for each in self:
            if each.call.id == id:
                return each
        return None

    async def read(self, first: int = 0, last: int | None = None) -> list[PastCall]:
        """Return a part of them, as a slice of a list does: `read(-3)` gives the newest three."""
        start, end, _ = slice(first, last).indices(len(self))
        found = [each async for each in self]
        return found[start:end]

    async def __aiter__(self) -> AsyncIterator[PastCall]:
        opened: dict[str, PastCall] = {}
        aside = False
        async for recorded in _events(self._log):
            match recorded.event:
                case StepStarted() as started:
                    aside = started.aside
                case MessageEnded(message=message, stop=stop) if not aside and stop not in ("error", "cancelled"):
                    for each in opened.values():
                        yield each
                    opened = {call.id: PastCall(call) for call in message.calls}
                case ToolEnded() as ended if ended.call in opened:
                    call = opened[ended.call].call
                    opened[ended.call] = PastCall(call, ended.content, ended.status, recorded.seq)
                case _:
                    pass
        for each in opened.values():
            yield each


async def _events(log: Log) -> AsyncIterator[Recorded]:
    """Give what happened since the history was last cleared."""
    after = log.state.cleared
    while page := await log.read(after=after, limit=PAGE):
        for recorded in page:
            yield recorded
        after = page[-1].seq
