"""Goes through a stored thread again with the real engine, and says where it would decide otherwise today.

The log is the world: replies, results of tools, cancellations, crashes, times and the order of parallel results are
read from it. Decisions and requests are made anew and compared. No model is asked, no tool runs, no connection
is opened, and nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from typing import Any, Literal, NoReturn, Protocol, cast

import msgspec

from stepwell.engines.base import Engine, close
from stepwell.engines.words import words
from stepwell.errors import ConfigError, ReplayDiffers
from stepwell.events import (
    CancelRequested,
    Effect,
    EndReason,
    LongTermUpdated,
    MessageAdded,
    MessageEnded,
    ModelFailed,
    Recorded,
    RunClaimed,
    RunEnded,
    RunStarted,
    StepEnded,
    StepStarted,
    Stored,
    SummaryEnded,
    SummaryStarted,
    TitleChanged,
    ToolEnded,
    Transient,
    Unknown,
    encode,
)
from stepwell.messages import Message, StopReason, ToolCall, ToolSpec
from stepwell.models.base import CallPart, Delta, Failure, FailureKind, Model, ModelProfile, ModelRequest
from stepwell.specs import RunSpec
from stepwell.state import NO_BLOBS, RunState, State
from stepwell.tools.base import Prepared, Tool, Toolbox, ToolContext, ToolResult

Kind = Literal["version", "request", "event", "model", "tool"]

FAULTS = ("config", "internal")
"""Causes of an end that lie outside the log: settings of that time, and faults of our own."""


class Difference(msgspec.Struct, frozen=True):
    """The first place where a replay leaves the log.

    Args:
        seq: Number of the stored event.
        kind: A `version` in force changed; a `request` or another `event` is made otherwise; the engine would ask
            the `model` or run a `tool` where the log says that something else came.
        name: The version, the number of the step, or the tool.
        stored: What the log has: a version, a request's hash, or an event as JSON.
        now: What is made of it today; empty where there is nothing.
        proved: Number of the newest step whose request was the same: what is different was recorded after it.
    """

    seq: int
    kind: Kind
    name: str
    stored: str
    now: str
    proved: int


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


async def replay(events: Sequence[Recorded], parts: Parts) -> Difference | None:
    """Carry out every run of a thread again and compare; an open run is compared as far as it got.

    Args:
        events: All of the thread, from number 1.
        parts: What engines are made of.

    Returns:
        The first difference, or None.

    Raises:
        ReplayDiffers: An engine reached past its toolbox for a tool.
    """
    log = ReplayLog(events)
    while log.difference is None and (recorded := log.next()) is not None:
        if isinstance(recorded.event, RunStarted):
            log.difference = _changed_version(recorded, recorded.event.spec, parts)
            log.take()
            await _carry_out(log, parts)
        else:
            log.difference = _difference(recorded, None, log.proved)
    return log.difference


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
        if isinstance(recorded.event, RunClaimed):
            log.take()
            interrupted = False
            continue
        if interrupted or run.cancel is not None:
            await log.carry(_end(log, run))
        else:
            interrupted = await log.carry(_advance(log, run, parts))


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
    except Exception as error:  # the boundary of a run, as in the driver: this end is compared, too
        await log.close("failed", "internal", words("internal", run.spec.language, detail=type(error).__name__))


async def _end(log: ReplayLog, run: RunState) -> None:
    end, language = log.interruption(), run.spec.language
    if end is not None and end.cause in FAULTS:
        await log.close(end.reason, end.cause, end.detail)
    elif run.cancel is not None:
        await log.close("cancelled", "cancelled", words("cancelled", language))
    else:
        await log.close("limit", "seconds", words("seconds", language, limit=run.spec.limits.seconds or 0.0))


class ReplayLog:
    """A stored log as engines see it: what they record is compared with what stands there.

    Implements `state.Log`. Where the log says that the run was interrupted, taken over or not carried on, the work
    in hand is cancelled, as it was then.

    Args:
        events: All of a thread.
    """

    def __init__(self, events: Sequence[Recorded]) -> None:
        self.thread = ""
        self.state = State()
        self.difference: Difference | None = None
        self.proved = 0
        self._events, self._at = events, 0
        self._moved = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._halted = self._closing = False
        self._take_inputs()

    def next(self) -> Recorded | None:
        """Return the stored event that comes next."""
        return self._events[self._at] if self._at < len(self._events) else None

    def take(self) -> None:
        """Apply the next event, and what others did right after it."""
        self._apply()
        self._take_inputs()
        self._moved.set()
        self._moved = asyncio.Event()

    def _apply(self) -> None:
        recorded = self._events[self._at]
        self._at += 1
        self.state.apply(recorded)
        if isinstance(recorded.event, StepStarted):
            self.proved = recorded.seq

    def _take_inputs(self) -> None:
        while (recorded := self.next()) is not None and _is_input(recorded.event):
            self._apply()

    def interruption(self) -> RunEnded | None:
        """Return the end of the run if it comes next and was not the engine's decision."""
        for at in range(self._at, len(self._events)):
            match self._events[at].event:
                case ToolEnded(status="cancelled") | MessageEnded(stop="cancelled") | StepEnded() | SummaryEnded():
                    continue
                case RunEnded() as end if end.reason == "cancelled" or end.cause in ("seconds", *FAULTS):
                    return end
                case _:
                    return None
        return None

    async def carry(self, work: Coroutine[Any, Any, None]) -> bool:
        """Carry out work until it is done or the log has something else to say; return whether it was cut off."""
        self._halted = False
        self._work = asyncio.ensure_future(work)
        try:
            await self._work
        except asyncio.CancelledError:
            if not self._halted:
                raise
        return self._halted

    async def close(self, reason: EndReason, cause: str, detail: str) -> None:
        """Close the run as the driver does; see `engines.base.close`."""
        self._closing = True
        try:
            await close(self, reason, cause, detail)
        finally:
            self._closing = False

    async def record(self, *events: Stored, durable: bool = False, blobs: Mapping[str, bytes] = NO_BLOBS) -> State:
        """Compare events with the stored ones and apply those; see `state.Log`."""
        for event in events:
            if isinstance(event, SummaryStarted | SummaryEnded):
                continue  # they come from the log, as those do that were made beside the run
            recorded = self.next()
            interrupted = not self._closing and self.interruption() is not None
            if recorded is None or interrupted or isinstance(recorded.event, RunClaimed):
                await self._halt()
            elif not _same(recorded.event, event):
                self.difference = _difference(recorded, event, self.proved)
                await self._halt()
            self.take()
        return self.state

    def publish(self, delta: Transient) -> None:
        """Do nothing: nobody follows a replay."""

    async def committed(self) -> None:
        """Do nothing: all of it is stored."""

    async def read(self, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Return stored events that were applied by now."""
        return [*self._events[after : self._at]][:limit]

    async def blob(self, prefix: str) -> bytes | None:
        """Return None: no tool runs that could ask."""
        return None

    def partial(self) -> Message:
        """Return an empty message: what had been published is in the log, and is what counts."""
        return Message("assistant")

    def failure_end(self) -> MessageEnded | None:
        """Return the end of the message whose last failure comes next; None where the model tried again."""
        following = self._events[self._at + 1].event if self._at + 1 < len(self._events) else None
        return following if isinstance(following, MessageEnded) and following.stop == "error" else None

    async def result(self, call: str, tool: str) -> ToolEnded:
        """Wait until the log has the result of a call, after those that came before it, and return it."""
        while True:
            match self.next():
                case Recorded(event=ToolEnded() as ended) if self._runs(ended.call):
                    if ended.call == call:
                        return ended
                    await self._moved.wait()
                case _:
                    await self.stop("tool", tool)

    def _runs(self, call: str) -> bool:
        opened = self.state.run.calls.get(call) if self.state.run else None
        return opened is not None and opened.ended is None

    async def stop(self, kind: Kind, name: str) -> NoReturn:
        """Cut the work off that waits for a model or tool: the log ends, or the process did, or it differs."""
        recorded = self.next()
        if recorded is not None and not isinstance(recorded.event, RunClaimed):
            self.difference = Difference(recorded.seq, kind, name, recorded.body.decode(), "", self.proved)
        await self._halt()

    async def _halt(self) -> NoReturn:
        assert self._work is not None
        self._halted = True
        self._work.cancel()
        # The work may be waiting for this very task, so it is the work that is cancelled, never this task alone.
        await asyncio.Event().wait()
        raise AssertionError


class ReplayModel:
    """Answers with the replies of a log.

    Args:
        log: Where the replies stand.
    """

    profile = ModelProfile()

    def __init__(self, log: ReplayLog) -> None:
        self._log = log

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Delta]:
        """Stream the stored reply, with the failures that came before it."""
        while True:
            recorded = self._log.next()
            match recorded.event if recorded else None:
                case ModelFailed() as failed:
                    kind = cast(FailureKind, failed.kind)
                    failure = Failure(kind, failed.detail, failed.status, failed.retry_in)
                    end = self._log.failure_end()
                    yield Delta(failure=failure, usage=end.usage, stop="error") if end else Delta(failure=failure)
                case MessageEnded() as ended:
                    yield _delta(ended)
                case _:
                    await self._log.stop("model", "")

    async def close(self) -> None:
        """Do nothing: there is no connection."""


def _delta(ended: MessageEnded) -> Delta:
    """Return a stored reply in one piece, as the model wrote it where a dialect took it apart."""
    message = ended.message
    if message.raw:
        kept: tuple[StopReason, ...] = ("length", "content_filter")
        return Delta(text=message.raw, usage=ended.usage, stop=ended.stop if ended.stop in kept else "stop")
    calls = tuple(CallPart(index, call.id, call.name, call.arguments) for index, call in enumerate(message.calls))
    return Delta(message.content, message.thinking, calls, ended.usage, stop=ended.stop)


class ReplayToolbox(Toolbox):
    """Looks calls up and checks them as the real one does, and takes their results from a log.

    Args:
        real: The tools.
        log: Where the results stand.
    """

    __slots__ = ("_log",)

    def __init__(self, real: Toolbox, log: ReplayLog) -> None:
        super().__init__(real.tools)
        self.names, self.specs, self._log = real.names, real.specs, log

    def including(self, tool: Tool) -> ReplayToolbox:
        """Return a box that knows one more tool."""
        return ReplayToolbox(super().including(tool), self._log)

    def prepare(self, call: ToolCall) -> Prepared | ToolResult:
        """Look a call up and check its arguments; its tool cannot be run."""
        prepared = super().prepare(call)
        return Prepared(Sealed(prepared.tool), {}) if isinstance(prepared, Prepared) else prepared

    async def run(self, prepared: Prepared, context: ToolContext, *, most: int | None = None) -> ToolResult:
        """Return the stored result of the call."""
        ended = await self._log.result(context.call, prepared.tool.spec.name)
        return ToolResult(ended.content, ended.status, ended.images, ended.details, hash=ended.blob, size=ended.size)


class Sealed:
    """A tool that is known and cannot be run.

    Args:
        tool: The tool.
    """

    __slots__ = ("effect", "output_limit", "spec", "timeout")

    def __init__(self, tool: Tool) -> None:
        self.spec: ToolSpec = tool.spec
        self.effect: Effect = tool.effect
        self.timeout, self.output_limit = tool.timeout, tool.output_limit

    async def call(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        """Refuse.

        Raises:
            ReplayDiffers: Always.
        """
        raise ReplayDiffers(f"A replay reached for the tool {self.spec.name}; nothing may be run in a replay.")


def _is_input(event: Stored | Unknown) -> bool:
    """Tell whether an event came from outside the engine and changes none of its work in hand."""
    if isinstance(event, MessageAdded):
        return event.source != "engine"
    if isinstance(event, LongTermUpdated):
        return event.rolled is None  # somebody pinned a fact; what rolls up, the agent decides
    return isinstance(event, TitleChanged | CancelRequested | SummaryStarted | SummaryEnded)


def _same(stored: Stored | Unknown, made: Stored) -> bool:
    if not isinstance(stored, MessageEnded) or not isinstance(made, MessageEnded):
        return stored == made
    if stored.stop != made.stop or stored.stop in ("error", "cancelled"):
        return stored.stop == made.stop  # what was streamed until then is void or came from outside
    if not stored.message.raw:
        return stored == made
    # The raw text of a dialect is without the thinking that the endpoint streamed apart from it.
    thinking = stored.message.thinking
    same = msgspec.structs.replace(made.message, thinking=thinking) == stored.message
    return same and thinking.endswith(made.message.thinking)


def _difference(recorded: Recorded, made: Stored | None, proved: int) -> Difference:
    stored = recorded.event
    if isinstance(stored, StepStarted) and isinstance(made, StepStarted) and stored.step == made.step:
        return Difference(recorded.seq, "request", str(stored.step), stored.request, made.request, proved)
    now = encode(made).decode() if made is not None else ""
    return Difference(recorded.seq, "event", "", recorded.body.decode(), now, proved)
