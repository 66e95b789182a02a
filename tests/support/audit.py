"""The one auditor of logs: what must hold of every thread, at every event of it."""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.events import (
    Answered,
    Asked,
    ContextCompacted,
    Feedback,
    Forked,
    HistoryCleared,
    Imported,
    LongTermUpdated,
    MessageAdded,
    MessageEnded,
    MessageQueued,
    MessageStarted,
    ModelFailed,
    PlanMade,
    PolicyChanged,
    QueueEdited,
    Recorded,
    RunClaimed,
    RunEnded,
    RunStarted,
    RunWaiting,
    Steered,
    StepEnded,
    StepStarted,
    SummaryEnded,
    SummaryStarted,
    TaskEnded,
    TaskStarted,
    TaskSubmitted,
    TitleChanged,
    ToolEnded,
    ToolStarted,
    Unknown,
    WorkingUpdated,
    decode,
    encode,
)
from stepwell.messages import Message
from stepwell.specs import NANO
from stepwell.state.thread import State, parent_of

OUTSIDE = (
    RunStarted,
    MessageAdded,
    TitleChanged,
    LongTermUpdated,
    HistoryCleared,
    MessageQueued,
    QueueEdited,
    PolicyChanged,
    Forked,
    Answered,
    Imported,
    Feedback,
)
"""What may stand outside of runs."""


def audit(events: Sequence[Recorded]) -> State:
    """Check what must hold of every log, at every moment, and return its fold."""
    state, check = State(), _Thread()
    for place, recorded in enumerate(events):
        assert recorded.seq == place + 1, f"number {recorded.seq} stands at place {place + 1}"
        assert decode(encode(recorded.event)) == recorded.event
        check.take(recorded)
        state.apply(recorded)
        assert (state.run.seq if state.run else 0) == check.run
        assert set(state.agents) == {path for path in check.agents if path}
        assert set(state.questions) == set(check.questions)
        _check_money(state, recorded)
    assert state.seq == len(events)
    assert not state.foreign
    for agent in (state, *state.agents.values()):
        check_history(list(agent.transcript), agent.run is not None)
    return state


def _check_money(state: State, recorded: Recorded) -> None:
    run = state.run or (state.last[0] if state.last else None)
    if run is None:
        return
    spent = run.spent
    assert spent.money >= 0, f"{recorded}: less than nothing was spent"
    assert spent.reserved >= 0, f"{recorded}: less than nothing is reserved"
    if run.spec.limits.money is not None:
        assert spent.money + spent.reserved <= run.spec.limits.money * NANO, f"{recorded}: more than may be spent"
    assert state.run is not None or not spent.reserved, f"{recorded} leaves something reserved"


class _Thread:
    """The brackets of a log, checked as it goes."""

    def __init__(self) -> None:
        self.run = self.epoch = 0
        self.agents: dict[str, _Agent] = {}
        self.questions: dict[int, Asked] = {}
        self.answered: set[int] = set()
        self.queue: set[int] = set()
        self.ids: set[str] = set()
        self.offered: frozenset[str] = frozenset()

    def take(self, recorded: Recorded) -> None:
        event, path = recorded.event, recorded.path
        assert not isinstance(event, Unknown), f"{recorded} is not known"
        if isinstance(event, RunStarted):
            self._run_started(recorded, event)
        assert recorded.run == self.run, f"{recorded} belongs to run {recorded.run} inside run {self.run}"
        if not isinstance(event, OUTSIDE):
            assert self.run, f"{recorded} stands outside of runs"
        if isinstance(event, TaskStarted | TaskEnded | RunEnded):
            self._bracket(recorded, event, path)
        elif isinstance(event, Asked | Answered | RunWaiting):
            self._people(recorded, event)
        elif isinstance(event, MessageQueued | QueueEdited):
            self._queued(recorded, event)
        elif isinstance(event, RunClaimed):
            assert event.epoch == self.epoch + 1
            self.epoch += 1
        elif self.run and not isinstance(event, RunStarted):
            assert path in self.agents, f"{recorded} happened to no agent"
            self.agents[path].take(recorded)

    def _bracket(self, recorded: Recorded, event: TaskStarted | TaskEnded | RunEnded, path: str) -> None:
        match event:
            case TaskStarted():
                assert path, "a task has an agent of its own"
                assert path not in self.agents, f"{recorded}: its agent is at work"
                assert parent_of(path) in self.agents, f"{recorded} is done for nobody"
                self.agents[path] = _Agent(self)
            case TaskEnded():
                self._ended(recorded, path)
                del self.agents[path]
            case RunEnded():
                assert list(self.agents) == [""], f"{recorded} leaves tasks open: {list(self.agents)}"
                self._ended(recorded, "")
                started, self.run, self.agents = self.run, 0, {}
                left = [seq for seq in self.questions if seq > started and event.cause != "question"]
                assert not left, f"{recorded} leaves questions {left} open"

    def _run_started(self, recorded: Recorded, event: RunStarted) -> None:
        assert not self.run, f"{recorded}: a run is open"
        assert not event.queued or event.queued in self.queue, f"{recorded} takes up nothing"
        self.queue.discard(event.queued)
        self.run, self.epoch, self.agents = recorded.seq, 0, {"": _Agent(self)}
        self.offered = frozenset(event.spec.tools)

    def _ended(self, recorded: Recorded, path: str) -> None:
        left = self.agents[path].left()
        assert left == (0, 0, {}, {}), f"{recorded} leaves {left} open"

    def _people(self, recorded: Recorded, event: Asked | Answered | RunWaiting) -> None:
        match event:
            case Asked():
                assert recorded.path in self.agents, f"{recorded}: nobody asks"
                self.questions[recorded.seq] = event
                if event.call:
                    self.agents[recorded.path].asked(recorded, event.call)
            case Answered():
                assert event.question not in self.answered, f"{recorded}: decided before"
                assert self.questions.pop(event.question, None), f"{recorded}: there is no such question"
                self.answered.add(event.question)
            case RunWaiting():
                assert not any(agent.message for agent in self.agents.values()), f"{recorded} inside a message"

    def _queued(self, recorded: Recorded, event: MessageQueued | QueueEdited) -> None:
        if isinstance(event, MessageQueued):
            self.queue.add(recorded.seq)
            return
        assert event.item in self.queue, f"{recorded}: it does not wait"
        if event.removed:
            self.queue.discard(event.item)


class _Agent:
    """The brackets of one agent."""

    def __init__(self, thread: _Thread) -> None:
        self.thread = thread
        self.step = self.steps = self.message = 0
        self.failing, self.aside = "", False
        self.open: dict[str, tuple[str, bool, bool]] = {}
        """Calls without a result: their tool, whether they have started, whether somebody was asked."""
        self.summaries: dict[str, SummaryStarted] = {}
        self.submitted = False

    def left(self) -> tuple[object, ...]:
        return self.step, self.message, self.open, self.summaries

    def asked(self, recorded: Recorded, call: str) -> None:
        assert call in self.open, f"{recorded} is about no open call"
        name, started, _ = self.open[call]
        self.open[call] = (name, started, True)

    def take(self, recorded: Recorded) -> None:
        event = recorded.event
        match event:
            case StepStarted() | StepEnded():
                self._step(recorded, event)
            case MessageStarted() | MessageEnded() | ModelFailed():
                self._message(recorded, event)
            case ToolStarted() | ToolEnded():
                self._call(recorded, event)
            case SummaryStarted() | SummaryEnded():
                self._summary(recorded, event)
            case ContextCompacted() | WorkingUpdated() | HistoryCleared():
                assert not self.message, f"{recorded} inside a message"
            case TaskSubmitted():
                assert not self.submitted, f"{recorded}: submitted before"
                self.submitted = True
            case Steered():
                self.submitted = False  # what was submitted is taken up again
            case PlanMade():
                assert not self.message, f"{recorded} inside a message"
            case _:
                pass

    def _summary(self, recorded: Recorded, event: SummaryStarted | SummaryEnded) -> None:
        if isinstance(event, SummaryStarted):
            assert event.kind not in self.summaries, f"{recorded}: one of its kind is open"
            self.summaries[event.kind] = event
            return
        opened = self.summaries.pop(event.kind)
        assert (opened.first, opened.last) == (event.first, event.last), f"{recorded} ends {opened}"

    def _step(self, recorded: Recorded, event: StepStarted | StepEnded) -> None:
        assert not self.message, f"{recorded} inside a message"
        assert not self.open, f"{recorded} before {self.open} ended"
        if isinstance(event, StepEnded):
            assert self.step, f"{recorded} ends no step"
            self.step = 0
            return
        assert not self.step, f"{recorded} inside a step"
        assert event.step == self.steps + 1
        self.step, self.steps, self.aside = recorded.seq, event.step, event.aside

    def _message(self, recorded: Recorded, event: MessageStarted | MessageEnded | ModelFailed) -> None:
        if isinstance(event, MessageStarted):
            assert self.step, f"{recorded} stands outside of steps"
            assert not self.message, f"{recorded} inside a message"
            self.message, self.failing = recorded.seq, ""
            return
        assert self.message, f"{recorded} belongs to no message"
        if isinstance(event, ModelFailed):
            self.failing = event.kind
            return
        assert event.stop != "error" or self.failing, f"{recorded} failed without a cause"
        self.message = 0
        if self.failing == "interrupted" and event.stop == "error":
            self.steps -= 1
        for call in () if self.aside else event.message.calls:  # what is asked for aside is nobody's to run
            assert call.id not in self.thread.ids, f"{recorded}: the id {call.id} is used twice"
            self.thread.ids.add(call.id)
            self.open[call.id] = (call.name, False, False)

    def _call(self, recorded: Recorded, event: ToolStarted | ToolEnded) -> None:
        assert event.call in self.open, f"{recorded} has no open call"
        name, started, asked = self.open[event.call]
        if isinstance(event, ToolStarted):
            assert not started, f"{recorded} started before"
            self.open[event.call] = (name, True, asked)
            return
        del self.open[event.call]
        refused = event.status in ("invalid", "unknown_tool", "denied", "cancelled")
        own = name not in self.thread.offered  # what an engine offers besides the tools, it carries out itself
        assert started or asked or refused or own, f"{recorded} was never started"


def check_history(messages: list[Message], running: bool) -> None:
    """Check that a strict endpoint takes the messages: results after their calls, in order, none missing or empty."""
    waiting: list[str] = []
    for place, message in enumerate(messages):
        assert message.role != "system" or place == 0
        if waiting:
            assert (message.role, message.call) == ("tool", waiting[0])
            waiting.pop(0)
            continue
        assert message.role != "tool", f"a result of no call: {message}"
        if message.role == "assistant":
            assert message.content or message.calls, "an empty message"
            waiting = [call.id for call in message.calls]
        message.content.encode()
        assert "\0" not in message.content
    assert running or not waiting, f"no results for {waiting}"
