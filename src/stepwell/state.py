"""What a thread's events add up to: the fold, and the port through which agents and engines write more.

The state is never stored and never set from outside: `State.apply` is the only way to change it, so a new
process that applies the stored events holds the same thing. It decides nothing; engines do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, assert_never

from stepwell.events import (
    CancelRequested,
    Effect,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    ModelFailed,
    Recorded,
    RunClaimed,
    RunEnded,
    RunSpec,
    RunStarted,
    StepEnded,
    StepStarted,
    Stored,
    TitleChanged,
    ToolEnded,
    ToolStarted,
    Transient,
    Unknown,
)
from stepwell.messages import Message, StopReason, ToolCall, Transcript, Usage


class OpenCall:
    """A tool call of the newest reply.

    Args:
        call: What the model asked for.
    """

    __slots__ = ("call", "effect", "ended", "started")

    def __init__(self, call: ToolCall) -> None:
        self.call = call
        self.started = 0
        self.effect: Effect = "pure"
        self.ended: ToolEnded | None = None


class RunState:
    """What an open run has come to.

    Attributes:
        seq: The number of its `RunStarted`.
        started: When it started, in milliseconds since 1970.
        steps: Steps begun, but for those whose model call was cut and is made again.
        tool_calls: Tool calls ended.
        usage: Tokens of all its model calls.
        malformed: Replies in a row whose calls were all malformed.
        step: Number of the open `StepStarted`, or 0.
        message: Number of the open `MessageStarted`, or 0.
        reply: The newest whole reply, or None.
        stop: Why the newest reply ended.
        failure: The newest model failure since the last whole reply, or None.
        calls: The calls of the newest reply, by id, in order.
        cancel: Who asked it to stop, or None.
        epoch: Counts the processes that took it over.
    """

    __slots__ = (
        "calls",
        "cancel",
        "epoch",
        "failure",
        "malformed",
        "message",
        "reply",
        "seq",
        "spec",
        "started",
        "step",
        "steps",
        "stop",
        "tool_calls",
        "usage",
    )

    def __init__(self, seq: int, started: int, spec: RunSpec) -> None:
        self.seq, self.started, self.spec = seq, started, spec
        self.steps = self.tool_calls = self.malformed = self.step = self.message = self.epoch = 0
        self.usage = Usage()
        self.reply: Message | None = None
        self.stop: StopReason | None = None
        self.failure: ModelFailed | None = None
        self.calls: dict[str, OpenCall] = {}
        self.cancel: CancelRequested | None = None

    def unanswered(self) -> list[OpenCall]:
        """Return the calls of the newest reply that have no result yet, in order."""
        return [each for each in self.calls.values() if each.ended is None]


class State:
    """The fold of one thread's events.

    Attributes:
        seq: Number of the newest applied event.
        title: The thread's title.
        transcript: The conversation as a model sees it, system message first.
        run: The open run, or None.
        last: The newest run that ended, with its end.
        foreign: Numbers of events that this version does not know.
    """

    __slots__ = ("_ids", "foreign", "last", "run", "seq", "title", "transcript")

    def __init__(self, events: Iterable[Recorded] = ()) -> None:
        self.seq = 0
        self.title = ""
        self.transcript = Transcript()
        self.run: RunState | None = None
        self.last: tuple[RunState, RunEnded] | None = None
        self.foreign: list[int] = []
        self._ids: set[str] = set()
        for event in events:
            self.apply(event)

    def apply(self, recorded: Recorded) -> None:
        """Take in the next event of the thread."""
        self.seq = recorded.seq
        event, run = recorded.event, self.run
        match event:
            case RunStarted():
                self._run_started(recorded, event)
            case MessageAdded():
                self.transcript.append(event.message)
            case TitleChanged():
                self.title = event.title
            case RunEnded():
                if run is not None:
                    self.last, self.run = (run, event), None
            case Unknown():
                self.foreign.append(recorded.seq)
            case _:
                if run is not None:
                    self._apply_to_run(run, recorded.seq, event)

    def _run_started(self, recorded: Recorded, event: RunStarted) -> None:
        self.run = RunState(recorded.seq, recorded.time, event.spec)
        old = self.transcript[0].content if len(self.transcript) and self.transcript[0].role == "system" else ""
        if event.spec.system != old:
            rest = [message for message in self.transcript if message.role != "system"]
            head = [Message("system", event.spec.system)] if event.spec.system else []
            self.transcript = Transcript(head + rest)

    def _apply_to_run(
        self,
        run: RunState,
        seq: int,
        event: StepStarted
        | StepEnded
        | MessageStarted
        | MessageEnded
        | ModelFailed
        | ToolStarted
        | ToolEnded
        | CancelRequested
        | RunClaimed,
    ) -> None:
        match event:
            case StepStarted():
                run.step, run.steps = seq, run.steps + 1
            case MessageStarted():
                run.message = seq
            case MessageEnded():
                self._message_ended(run, event)
            case ToolStarted() | ToolEnded():
                self._call_changed(run, seq, event)
            case StepEnded():
                run.step = 0
            case ModelFailed():
                run.failure = event
            case CancelRequested():
                run.cancel = run.cancel or event
            case RunClaimed():
                run.epoch = event.epoch
            case _:
                assert_never(event)

    def _message_ended(self, run: RunState, event: MessageEnded) -> None:
        run.message = 0
        if event.usage is not None:
            run.usage += event.usage
        if event.stop == "error":
            if run.failure is not None and run.failure.kind == "interrupted":
                run.steps -= 1  # it is made again, and a limit must not tell whether the process stopped
            return
        message = event.message
        run.reply, run.stop, run.failure = message, event.stop, None
        if message.content or message.calls or message.images:  # strict endpoints refuse an empty message
            self.transcript.append(message)
        run.calls = {call.id: OpenCall(call) for call in message.calls}
        self._ids.update(run.calls)

    def _call_changed(self, run: RunState, seq: int, event: ToolStarted | ToolEnded) -> None:
        opened = run.calls.get(event.call)
        if opened is None or opened.ended is not None:
            return
        if isinstance(event, ToolStarted):
            opened.started, opened.effect = seq, event.effect
            return
        opened.ended = event
        run.tool_calls += 1
        if run.unanswered():
            return
        # All results are in: the model gets them in the order of its calls, whichever came first.
        ended = [each.ended for each in run.calls.values() if each.ended is not None]
        for result in ended:
            self.transcript.append(Message("tool", result.content, result.images, call=result.call))
        run.malformed = run.malformed + 1 if all(each.status == "invalid" for each in ended) else 0

    def has_call(self, id: str) -> bool:
        """Tell whether a call of this thread has this id."""
        return id in self._ids


class Log(Protocol):
    """One thread's log as agents and engines see it."""

    thread: str
    state: State

    async def record(self, *events: Stored, durable: bool = False) -> State:
        """Number, apply and store events.

        Args:
            events: Stored together, in order.
            durable: Wait until they are on the disk; without it they follow soon, in order.

        Raises:
            Conflict: Somebody else appended; look at the new state and decide again.
        """
        ...

    def publish(self, delta: Transient) -> None:
        """Show a transient event to whoever follows; everything recorded must be committed before the first."""
        ...

    async def committed(self) -> None:
        """Wait until everything recorded so far is on the disk."""
        ...

    def partial(self) -> Message:
        """Return what has been published of the open message."""
        ...
