"""What a thread's events add up to: the fold, and the port through which agents and engines write more.

The state is never stored and never set from outside: `State.apply` is the only way to change it, so a new
process that applies the stored events holds the same thing. It decides nothing; engines do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol, assert_never, cast, get_args

import msgspec

from stepwell.contexts import WRAPPED, LongTermContext
from stepwell.events import (
    CancelRequested,
    ContextCompacted,
    Effect,
    HistoryCleared,
    LongTermUpdated,
    MessageAdded,
    MessageEnded,
    MessageStarted,
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
    ToolStarted,
    Transient,
    Unknown,
    Warned,
    WindowLearned,
    WorkingUpdated,
)
from stepwell.history import History
from stepwell.messages import Message, StopReason, ToolCall, Transcript, Usage
from stepwell.rendering import long_term
from stepwell.specs import RunSpec

ContextEvent = (
    LongTermUpdated | WorkingUpdated | HistoryCleared | ContextCompacted | WindowLearned | SummaryStarted | SummaryEnded
)
"""What changes what the agent knows, inside a run or outside."""

RunEvent = (
    StepStarted
    | StepEnded
    | MessageStarted
    | MessageEnded
    | ModelFailed
    | ToolStarted
    | ToolEnded
    | CancelRequested
    | RunClaimed
)
"""What happens inside a run."""

NOTHING_KNOWN = LongTermContext()

_OF_RUNS, _OF_CONTEXTS = frozenset(get_args(RunEvent)), frozenset(get_args(ContextEvent))


class Working(NamedTuple):
    """The open working context.

    Args:
        time: When it began, in milliseconds since 1970.
        event: What it holds.
        steps: Steps that were taken before it.
    """

    time: int
    event: WorkingUpdated
    steps: int


class OpenCall:
    """A tool call of the newest reply.

    Args:
        call: What the model asked for.
    """

    __slots__ = ("call", "effect", "ended", "seq", "started")

    def __init__(self, call: ToolCall) -> None:
        self.call = call
        self.started = self.seq = 0
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
        learned: How often an endpoint taught that its window is smaller.
        aside: The reply under way is no part of the conversation.
        kept: Number of the newest step's reply if it is a part of the conversation, or 0.
        repaired: The newest step asked again for a reply that did not fit its form.
        epoch: Counts the processes that took it over.
    """

    __slots__ = (
        "aside",
        "calls",
        "cancel",
        "epoch",
        "failure",
        "kept",
        "learned",
        "malformed",
        "message",
        "repaired",
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
        self.steps = self.tool_calls = self.malformed = self.epoch = self.learned = 0
        self.step = self.message = self.kept = 0
        self.aside = self.repaired = False
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
        history: The conversation as the model sees it.
        longterm: What the agent knows for long.
        working: The open working context, or None.
        steps: Replies of all runs that are a part of the conversation, since it was last cleared.
        calls: Calls of tools in them.
        cleared: Number of the event that cleared it last; 0 for none.
        windows: Windows that endpoints taught, in tokens, by the model's name.
        run: The open run, or None.
        last: The newest run that ended, with its end.
        foreign: Numbers of events that this version does not know.
    """

    __slots__ = (
        "_ids",
        "_imported",
        "_language",
        "_profile",
        "calls",
        "cleared",
        "foreign",
        "history",
        "last",
        "longterm",
        "run",
        "seq",
        "steps",
        "title",
        "windows",
        "working",
    )

    def __init__(self, events: Iterable[Recorded] = ()) -> None:
        self.seq = self.steps = self.calls = self.cleared = 0
        self.title = ""
        self.windows: dict[str, int] = {}
        self.history = History()
        self.longterm = NOTHING_KNOWN
        self.working: Working | None = None
        self._profile, self._language, self._imported = "", "en", False
        self.run: RunState | None = None
        self.last: tuple[RunState, RunEnded] | None = None
        self.foreign: list[int] = []
        self._ids: set[str] = set()
        for event in events:
            self.apply(event)

    @property
    def transcript(self) -> Transcript:
        """The conversation as a model sees it, system message first."""
        return self.history.transcript

    def apply(self, recorded: Recorded) -> None:
        """Take in the next event of the thread."""
        self.seq = recorded.seq
        event, run, kind = recorded.event, self.run, type(recorded.event)
        if kind in _OF_RUNS:  # most events; a look-up is quicker than a row of cases
            if run is not None:
                self._apply_to_run(run, recorded.seq, cast(RunEvent, event))
        elif kind in _OF_CONTEXTS:
            self._apply_to_context(recorded, cast(ContextEvent, event))
        else:
            self._apply_to_thread(recorded, event)

    def _apply_to_thread(self, recorded: Recorded, event: Stored | Unknown) -> None:
        match event:
            case RunStarted():
                self._run_started(recorded, event)
            case MessageAdded():
                self._message_added(recorded.seq, event)
            case TitleChanged():
                self.title = event.title
            case RunEnded():
                if self.run is not None:
                    self.last, self.run = (self.run, event), None
            case Unknown():
                self.foreign.append(recorded.seq)
            case _:
                assert isinstance(event, Warned), event

    def _apply_to_context(self, recorded: Recorded, event: ContextEvent) -> None:
        match event:
            case LongTermUpdated():
                self.longterm = _updated(self.longterm, event)
                if event.rolled is not None:
                    self.history.summaries.pop("rolling", None)
                self._set_system()
            case WorkingUpdated():
                self.working = Working(recorded.time, event, self.steps)
            case HistoryCleared():
                self.history.clear()
                self.steps, self.calls, self.cleared, self.working = 0, 0, recorded.seq, None
            case ContextCompacted():
                self.history.compact(event)
            case WindowLearned():
                self._window_learned(event)
            case SummaryStarted():
                self.history.summary_started(event)
            case SummaryEnded():
                self._summary_ended(event)
            case _:
                assert_never(event)

    def _window_learned(self, event: WindowLearned) -> None:
        self.windows[event.model] = event.window
        if self.run is not None:
            self.run.failure, self.run.learned = None, self.run.learned + 1

    def _summary_ended(self, event: SummaryEnded) -> None:
        self.history.summary_ended(event)
        if self.run is not None and event.usage is not None:
            self.run.usage += event.usage

    def _run_started(self, recorded: Recorded, event: RunStarted) -> None:
        self.run = RunState(recorded.seq, recorded.time, event.spec)
        spec = event.spec
        self._profile, self._language = spec.system, spec.language
        self.history.counted_by(spec.model, spec.model_name, spec.dialect, spec.prompt, spec.tools)
        self._set_system()

    def _set_system(self) -> None:
        known = "" if self.longterm is NOTHING_KNOWN else long_term(self.longterm, self._language)
        self.history.set_system(f"{self._profile}\n\n{known}" if self._profile and known else self._profile or known)

    def _message_added(self, seq: int, event: MessageAdded) -> None:
        if event.source == "user" and event.message.role == "user" and self._imported:
            self._imported = False
            self.history.repair()
        self._imported = self._imported or event.source == "history"
        self.history.append(event.message, seq)

    def _apply_to_run(
        self,
        run: RunState,
        seq: int,
        event: RunEvent,
    ) -> None:
        match event:
            case StepStarted():
                run.step, run.steps = seq, run.steps + 1
                run.aside, run.repaired = event.aside, event.repairs
                if event.repairs and run.kept:
                    self.history.drop_reply(run.kept)
                    self.steps -= 1
                run.kept = 0
                self._asked(event)
            case MessageStarted():
                run.message = seq
            case MessageEnded():
                self._message_ended(run, seq, event)
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

    def _asked(self, event: StepStarted) -> None:
        own = event.tools is None and not event.model
        plain = own and not event.tail and not event.reply
        self.history.asked(plain, own, None if event.reply else event.tail)

    def _message_ended(self, run: RunState, seq: int, event: MessageEnded) -> None:
        run.message = 0
        if event.usage is not None:
            run.usage += event.usage
        if event.stop == "error":
            if run.failure is not None and run.failure.kind == "interrupted":
                run.steps -= 1  # it is made again, and a limit must not tell whether the process stopped
            return
        if event.usage is not None:
            self.history.counted(event.usage.input)
        run.failure = None
        if run.aside:
            return
        message = event.message
        run.reply, run.stop = message, event.stop
        if event.stop != "cancelled":
            run.kept = seq
            self.steps, self.calls = self.steps + 1, self.calls + len(message.calls)
        if message.content or message.calls or message.images:  # strict endpoints refuse an empty message
            self.history.append(message, seq)
        run.calls = {call.id: OpenCall(call) for call in message.calls}
        self._ids.update(run.calls)

    def _call_changed(self, run: RunState, seq: int, event: ToolStarted | ToolEnded) -> None:
        opened = run.calls.get(event.call)
        if opened is None or opened.ended is not None:
            return
        if isinstance(event, ToolStarted):
            opened.started, opened.effect = seq, event.effect
            return
        opened.ended, opened.seq = event, seq
        run.tool_calls += 1
        if run.unanswered():
            return
        # All results are in: the model gets them in the order of its calls, whichever came first.
        ended = [(each.seq, each.ended) for each in run.calls.values() if each.ended is not None]
        self.history.add_results(
            [
                (
                    number,
                    Message("tool", result.content, result.images, call=result.call),
                    result.status,
                    WRAPPED in result.content,
                )
                for number, result in ended
            ]
        )
        run.malformed = run.malformed + 1 if all(each.status == "invalid" for _, each in ended) else 0

    def has_call(self, id: str) -> bool:
        """Tell whether a call of this thread has this id."""
        return id in self._ids


_REPLACED = ("experience", "skills_description", "ideas", "current_goal", "available_tools", "resource", "rolled")


def _updated(old: LongTermContext, event: LongTermUpdated) -> LongTermContext:
    changes = {name: value for name in _REPLACED if (value := getattr(event, name)) is not None}
    messages, tasks = old.user_message[event.rolled_messages :], old.past_tasks[event.rolled_tasks :]
    if event.user_message is not None:
        messages += (event.user_message,)
    if event.past_task is not None:
        tasks += (event.past_task,)
    pinned = tuple(fact for fact in old.pinned if fact != event.unpinned)
    if event.pinned is not None and event.pinned not in pinned:
        pinned += (event.pinned,)
    return msgspec.structs.replace(old, user_message=messages, past_tasks=tasks, pinned=pinned, **changes)


NO_BLOBS: Mapping[str, bytes] = MappingProxyType({})


class Log(Protocol):
    """One thread's log as agents and engines see it."""

    thread: str
    state: State

    async def record(self, *events: Stored, durable: bool = False, blobs: Mapping[str, bytes] = NO_BLOBS) -> State:
        """Number, apply and store events.

        Args:
            events: Stored together, in order.
            durable: Wait until they are on the disk; without it they follow soon, in order.
            blobs: Results stored whole with them, by SHA-256 as 64 hexadecimal digits.

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

    async def read(self, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Return events with numbers above `after`, in order, at most `limit`, those not yet stored as well."""
        ...

    async def blob(self, prefix: str) -> bytes | None:
        """Return a result of this thread that was stored whole, by the beginning of its SHA-256; None if none is."""
        ...
