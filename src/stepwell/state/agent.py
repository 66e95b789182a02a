"""What one agent knows and has come to: the fold of the events that happened to it.

A run's own agent and those inside it, which do tasks for it, are folded alike. What concerns the whole thread is in
`thread.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, assert_never, cast, get_args

import msgspec

from stepwell.contexts import WRAPPED, LongTermContext, TaskConclusion
from stepwell.events import (
    CancelRequested,
    ContextCompacted,
    HistoryCleared,
    LongTermUpdated,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    ModelFailed,
    PauseRequested,
    PlanChanged,
    PlanMade,
    Recorded,
    ResumeRequested,
    RunClaimed,
    RunEnded,
    RunWaiting,
    Steered,
    StepEnded,
    StepStarted,
    SummaryEnded,
    SummaryStarted,
    TaskSubmitted,
    ToolEnded,
    ToolStarted,
    WindowLearned,
    WorkingUpdated,
)
from stepwell.messages import Message, Transcript
from stepwell.plans import Plan
from stepwell.rendering import long_term
from stepwell.specs import RunSpec
from stepwell.state.history import History
from stepwell.state.run import OpenCall, RunState

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
    | RunWaiting
    | Steered
    | PauseRequested
    | ResumeRequested
    | PlanMade
    | PlanChanged
    | TaskSubmitted
)
"""What happens inside a run."""

NOTHING_KNOWN = LongTermContext()

_OF_CONTEXTS = frozenset(get_args(ContextEvent))


class Working(msgspec.Struct, frozen=True):
    """The open working context.

    Args:
        time: When it began, in milliseconds since 1970.
        event: What it holds.
        steps: Steps that were taken before it.
    """

    time: int
    event: WorkingUpdated
    steps: int


class AgentState:
    """The fold of one agent's events.

    Attributes:
        seq: Number of the newest applied event.
        path: The agent; empty for the run's own.
        history: The conversation as the model sees it.
        longterm: What the agent knows for long.
        working: The open working context, or None.
        steps: Replies of all runs that are a part of the conversation, since it was last cleared.
        calls: Calls of tools in them.
        cleared: Number of the event that cleared it last; 0 for none.
        untrusted: Text of strangers stands in the conversation.
        windows: Windows that endpoints taught, in tokens, by the model's name.
        run: The open run or task, or None.
        last: The newest run that ended, with its end.
    """

    __slots__ = (
        "_ids",
        "_imported",
        "_language",
        "_limits",
        "_profile",
        "calls",
        "cleared",
        "history",
        "last",
        "longterm",
        "path",
        "run",
        "seq",
        "steps",
        "untrusted",
        "windows",
        "working",
    )

    def __init__(self, path: str = "") -> None:
        self.seq = self.steps = self.calls = self.cleared = 0
        self.path, self.untrusted = path, False
        self.windows: dict[str, int] = {}
        self.history = History()
        self.longterm = NOTHING_KNOWN
        self.working: Working | None = None
        self._profile, self._language, self._imported = "", "en", False
        self._limits: tuple[object, ...] = ()
        self.run: RunState | None = None
        self.last: tuple[RunState, RunEnded] | None = None
        self._ids: set[str] = set()

    @property
    def transcript(self) -> Transcript:
        """The conversation as a model sees it, system message first."""
        return self.history.transcript

    def has_call(self, id: str) -> bool:
        """Tell whether a call of this thread has this id."""
        return id in self._ids

    def open(self, run: RunState) -> None:
        """Begin a run or task."""
        self.run = run
        self.counted_by(run.spec)

    def begin_task(self, run: RunState, parent: AgentState) -> None:
        """Begin a task with what the agent that it is done for knows."""
        known = parent.longterm
        self.windows, self._ids, self.untrusted = parent.windows, parent._ids, parent.untrusted
        self.longterm = LongTermContext(
            user_message=known.user_message,
            past_tasks=known.past_tasks,
            pinned=known.pinned,
            rolled=known.rolled,
            current_goal=run.task.goal if run.task else "",
        )
        self.open(run)

    def apply(self, recorded: Recorded) -> None:
        """Take in the next event of this agent."""
        self.seq, kind = recorded.seq, type(recorded.event)
        event, run = recorded.event, self.run
        if kind in _OF_CONTEXTS:
            self.apply_to_context(recorded, cast(ContextEvent, event))
        elif isinstance(event, MessageAdded):
            self.message_added(recorded.seq, event)
        elif run is not None and (take := self.IN_RUNS.get(kind)) is not None:
            take(self, run, recorded.seq, event)

    def past_task(self, conclusion: TaskConclusion) -> None:
        """Add what became of a task to what the agent knows."""
        past = (*self.longterm.past_tasks, conclusion)
        self.longterm = msgspec.structs.replace(self.longterm, past_tasks=past)
        self._set_system()

    def counted_by(self, spec: RunSpec) -> None:
        """Go on by another spec."""
        limits = (spec.system, spec.model, spec.model_name, spec.context.window if spec.context else 0)
        if limits != self._limits:
            self._limits = limits
            self.history.uncut_system()
        self._profile, self._language = spec.system, spec.language
        self.history.counted_by(spec.model, spec.model_name, spec.dialect, spec.prompt, spec.tools)
        self._set_system()

    def _set_system(self) -> None:
        known = "" if self.longterm is NOTHING_KNOWN else long_term(self.longterm, self._language)
        self.history.set_system(f"{self._profile}\n\n{known}" if self._profile and known else self._profile or known)

    def message_added(self, seq: int, event: MessageAdded) -> None:
        """Take in a message that came whole."""
        self._imported = self._imported or event.source == "history"
        self.history.append(event.message, seq)

    def repair_imported(self) -> None:
        """Make messages that came from elsewhere a conversation that strict endpoints take, before it goes on."""
        if self._imported:
            self._imported = False
            self.history.repair()

    def apply_to_context(self, recorded: Recorded, event: ContextEvent) -> None:
        """Take in a change of what the agent knows."""
        match event:
            case LongTermUpdated():
                self._know(event)
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
                self._summary_started(event)
            case SummaryEnded():
                self._summary_ended(event)
            case _:
                assert_never(event)

    def _know(self, event: LongTermUpdated) -> None:
        self.longterm = _updated(self.longterm, event)
        if event.rolled is not None:
            self.history.summaries.pop("rolling", None)
        self._set_system()

    def _window_learned(self, event: WindowLearned) -> None:
        self.windows[event.model] = event.window
        if self.run is not None:
            self.run.failure, self.run.learned = None, self.run.learned + 1

    def _summary_started(self, event: SummaryStarted) -> None:
        self.history.summary_started(event)
        if self.run is not None:
            self.run.spent.reserved += event.reserved

    def _summary_ended(self, event: SummaryEnded) -> None:
        started = self.history.summarizing.get(event.kind)
        self.history.summary_ended(event)
        if self.run is None:
            return
        if started is not None:
            self.run.spent.settle(started.reserved, event.cost)
        if event.usage is not None:
            self.run.spent.usage += event.usage

    def _step_started(self, run: RunState, seq: int, event: StepStarted) -> None:
        run.step, run.steps, run.reserved, run.unheard = seq, run.steps + 1, event.reserved, ()
        run.broken = 0
        run.spent.steps += 1
        run.spent.reserved += event.reserved
        run.aside, run.repaired = event.aside, event.repairs
        if event.repairs and run.kept:
            self.history.drop_reply(run.kept)
            self.steps -= 1
        run.kept = 0
        own = event.tools is None and not event.model
        plain = own and not event.tail and not event.reply
        self.history.asked(plain, own, None if event.reply else event.tail)

    def _step_ended(self, run: RunState, seq: int, event: StepEnded) -> None:
        run.step = 0
        if run.reserved:  # a fork at the beginning of a step: nobody was asked
            run.spent.settle(run.reserved, 0)
            run.reserved = 0

    def _message_started(self, run: RunState, seq: int, event: MessageStarted) -> None:
        run.message = seq

    def _message_ended(self, run: RunState, seq: int, event: MessageEnded) -> None:
        run.message = 0
        self._take_reply(run, seq, event)
        if not run.open:
            self._hear(run)

    def _take_reply(self, run: RunState, seq: int, event: MessageEnded) -> None:
        if run.reserved or event.cost:
            run.spent.settle(run.reserved, event.cost)
            run.reserved = 0
        if event.usage is not None:
            run.spent.usage += event.usage
        if event.stop == "error":
            if run.failure is not None and run.failure.kind == "interrupted":
                run.steps -= 1  # it is made again, and a limit must not tell whether the process stopped
                run.spent.steps -= 1
            return
        if event.usage is not None and event.usage.input <= _most_counted(run.spec):
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
        if run.calls or message.calls:
            run.calls = {call.id: OpenCall(call) for call in message.calls}
            run.open = len(run.calls)
            self._ids.update(run.calls)

    def _tool_started(self, run: RunState, seq: int, event: ToolStarted) -> None:
        opened = run.calls.get(event.call)
        if opened is None or opened.ended is not None:
            return
        opened.started, opened.effect, opened.threaded = seq, event.effect, event.threaded
        self.untrusted = self.untrusted or event.untrusted

    def _tool_ended(self, run: RunState, seq: int, event: ToolEnded) -> None:
        opened = run.calls.get(event.call)
        if opened is None or opened.ended is not None:
            return
        opened.ended, opened.seq = event, seq
        run.open -= 1
        run.spent.tool_calls += 1
        if run.open:
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
        run.all_answered()
        self._hear(run)

    def _steered(self, run: RunState, seq: int, event: Steered) -> None:
        run.pending += ((seq, event.message),)
        if event.interrupt:
            run.interrupted, run.broken = True, seq
        self._hear(run)

    def _hear(self, run: RunState) -> None:
        """Put what was said to the agent where the conversation can take it: never between a call and its result."""
        if run.message or run.open:
            return
        run.interrupted = False
        if run.pending:
            for seq, message in run.pending:
                self.history.append(message, seq)
            run.unheard += tuple(message for _, message in run.pending)
            run.pending, run.submission = (), None  # work that was submitted is taken up again

    def _model_failed(self, run: RunState, seq: int, event: ModelFailed) -> None:
        run.failure = event

    def _plan_changed(self, run: RunState, seq: int, event: PlanMade | PlanChanged | TaskSubmitted) -> None:
        _apply_to_plan(run, event)

    def _asked_of(self, run: RunState, seq: int, event: _OfPeople) -> None:
        _asked_of(run, event)

    IN_RUNS: ClassVar[Mapping[type, Callable[[AgentState, RunState, int, Any], None]]] = MappingProxyType(
        {
            StepStarted: _step_started,
            StepEnded: _step_ended,
            MessageStarted: _message_started,
            MessageEnded: _message_ended,
            ModelFailed: _model_failed,
            ToolStarted: _tool_started,
            ToolEnded: _tool_ended,
            Steered: _steered,
            CancelRequested: _asked_of,
            RunClaimed: _asked_of,
            RunWaiting: _asked_of,
            PauseRequested: _asked_of,
            ResumeRequested: _asked_of,
            PlanMade: _plan_changed,
            PlanChanged: _plan_changed,
            TaskSubmitted: _plan_changed,
        }
    )
    """What takes each event in that happens in an open run or task; a look-up is quicker than a row of cases."""


def _most_counted(spec: RunSpec) -> float:
    """Return the tokens above which a provider's count of a request that it took is no count of it."""
    return math.inf if spec.context is None else max(spec.context.window, spec.context.image_window)


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


_OfPeople = CancelRequested | PauseRequested | ResumeRequested | RunClaimed | RunWaiting


def _asked_of(run: RunState, event: _OfPeople) -> None:
    match event:
        case CancelRequested():
            run.cancel = run.cancel or event
        case PauseRequested():
            run.paused = True
        case ResumeRequested():
            run.paused = False
        case RunClaimed():
            run.epoch = event.epoch
        case RunWaiting():
            run.waiting = event
        case _:
            assert_never(event)


def _apply_to_plan(run: RunState, event: PlanMade | PlanChanged | TaskSubmitted) -> None:
    if isinstance(event, TaskSubmitted):
        run.submission = event.submission
        return
    if isinstance(event, PlanMade):
        run.plan = Plan(event.root)
        run.plan.attach(event.tasks, event.root.id)
        return
    plan = run.plan
    if plan is None:
        return
    match event.operation:
        case "split":
            plan.nodes[event.target].status = "SPLIT"
            plan.attach(event.tasks, event.target)
        case "add":
            parent = plan.nodes[event.target].parent
            assert parent is not None
            plan.attach(event.tasks, parent.task.id, event.target)
        case "delete":
            plan.detach(event.target)
        case "exit":
            plan.rectified = event.upto
        case _:
            assert_never(event.operation)
