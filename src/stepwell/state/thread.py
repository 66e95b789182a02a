"""What a thread's events add up to: the fold.

The state is never stored and never set from outside: `State.apply` is the only way to change it, so a new
process that applies the stored events holds the same thing. It decides nothing; engines do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple, cast, get_args

import msgspec

from stepwell.events import (
    Answered,
    Asked,
    Feedback,
    Forked,
    Imported,
    LongTermUpdated,
    MessageAdded,
    MessageQueued,
    Policy,
    PolicyChanged,
    QueueEdited,
    Recorded,
    RunEnded,
    RunStarted,
    RunWaiting,
    Steered,
    TaskEnded,
    TaskStarted,
    TitleChanged,
    Unknown,
    Warned,
)
from stepwell.messages import Message, Usage
from stepwell.specs import RunSpec
from stepwell.state.agent import AgentState, ContextEvent, RunEvent
from stepwell.state.run import Question, RunState, Spent

NEVER = 2**62
"""A time that does not come."""

ThreadEvent = (
    RunStarted
    | RunEnded
    | MessageAdded
    | TitleChanged
    | Warned
    | Asked
    | Answered
    | MessageQueued
    | QueueEdited
    | PolicyChanged
    | Forked
    | Imported
    | Feedback
    | TaskStarted
    | TaskEnded
    | Unknown
)
"""What opens and closes runs and tasks, and what concerns the whole thread."""

_OF_CONTEXTS = frozenset(get_args(ContextEvent))
_WAKING = frozenset(get_args(RunEvent | Answered | Forked)) - {RunWaiting}
"""What makes a waiting run go on."""


_OWN = ("agent", "engine", "system", "tools", "tasks", "output", "versions")
"""What the spec of a task does not share with that of its run."""


class Queued(NamedTuple):
    """A message that waits for the open run to end.

    Args:
        seq: Number of its `MessageQueued`, which names it.
        message: What was said, as it was edited last.
        spec: How its run will go.
    """

    seq: int
    message: Message
    spec: RunSpec


class State(AgentState):
    """The fold of one thread's events: what its own agent knows, and what concerns the whole thread.

    Attributes:
        title: The thread's title.
        policy: What becomes of messages that come while a run is open.
        queue: Messages that wait for the open run to end, in order.
        questions: Open questions to people, by number; those of all agents.
        allowed: Calls that somebody approved for the whole thread: name and hash, or name and nothing for any.
        spent: What runs that ended have used.
        spent_by_key: The same by the key whose account it is on, without what was copied from another thread.
        agents: What the agents inside the open run know, by path.
        foreign: Numbers of events that this version does not know.
        imported: Where its first messages come from, if it was imported.
    """

    __slots__ = (
        "agents",
        "allowed",
        "foreign",
        "imported",
        "policy",
        "questions",
        "queue",
        "spent",
        "spent_by_key",
        "title",
    )

    def __init__(self, events: Iterable[Recorded] = ()) -> None:
        super().__init__()
        self.title = ""
        self.policy: Policy = "queue"
        self.queue: list[Queued] = []
        self.questions: dict[int, Question] = {}
        self.allowed: set[tuple[str, str]] = set()
        self.spent = Spent()
        self.spent_by_key: dict[str, Spent] = {}
        self.agents: dict[str, AgentState] = {}
        self.foreign: list[int] = []
        self.imported: Imported | None = None
        for event in events:
            self.apply(event)

    @property
    def wake(self) -> int:
        """When the thread has work by itself, in milliseconds since 1970: 0 for now, `NEVER` where it has none."""
        run = self.run
        if self.foreign:
            return NEVER
        if run is None:
            return 0 if self.queue else NEVER
        if run.waiting is None:
            return 0
        return min(run.waiting.until or NEVER, self.over[0])

    @property
    def over(self) -> tuple[int, str]:
        """When the time of the open run is over, in milliseconds since 1970, and the name of the limit."""
        run, whole = self.run, self.run.spec.thread_limits if self.run is not None else None
        if run is None:
            return NEVER, ""
        seconds, together = run.spec.limits.seconds, whole.seconds if whole is not None else None
        over = NEVER if seconds is None else run.started + math.ceil(seconds * 1000)
        left = NEVER if together is None else math.ceil(together * 1000) - self.spent.milliseconds
        # A thread whose time was over before is its engine's business.
        return min((over, "seconds"), (run.started + left if 0 < left < NEVER else NEVER, "thread_seconds"))

    def account(self, key: str) -> Spent:
        """Return what the thread has put on the account of a key so far, the open run and its open calls included."""
        total = Spent()
        if key in self.spent_by_key:
            total.add(self.spent_by_key[key])
        if self.run is not None and self.run.spec.key == key:
            total.add(self.run.spent)
            total.tool_calls += self.run.open + sum(each.run.open for each in self.agents.values() if each.run)
        return total

    def at(self, path: str) -> AgentState:
        """Return what the agent of a path knows.

        Raises:
            KeyError: There is no such agent in the open run.
        """
        return self.agents[path] if path else self

    def apply(self, recorded: Recorded) -> None:
        """Take in the next event of the thread."""
        seq = self.seq = recorded.seq
        event, run = recorded.event, self.run
        kind = type(event)
        if run is not None and run.waiting is not None and kind in _WAKING:
            run.waiting = None
        take = self.IN_RUNS.get(kind)
        if recorded.path:
            self._apply_inside(recorded)
        elif take is not None:  # most events
            if run is not None:
                take(self, run, seq, event)
        elif kind in _OF_CONTEXTS:
            self._apply_to_contexts(recorded, cast(ContextEvent, event))
        else:
            self._apply_to_thread(recorded, cast(ThreadEvent, event))
        if kind is Steered:
            self._interrupted(recorded.path, cast(Steered, event))

    def _interrupted(self, path: str, event: Steered) -> None:
        """Have those who work for an agent close what they have under way, too, where somebody interrupts it."""
        inside = f"{path}/" if path else ""
        for agent in self.agents.values() if event.interrupt else ():
            run = agent.run
            if run is not None and agent.path != path and agent.path.startswith(inside):
                run.interrupted = bool(run.message or run.open)

    def _apply_inside(self, recorded: Recorded) -> None:
        event, agent = recorded.event, self.agents.get(recorded.path)
        match event:
            case TaskStarted():
                self._task_started(recorded, event)
            case TaskEnded():
                self._task_ended(recorded.path, event)
            case Asked():
                self._people_asked(recorded, event)
            case Answered():
                self._people_answered(event)
            case _:
                if agent is not None:
                    agent.apply(recorded)

    def _apply_to_contexts(self, recorded: Recorded, event: ContextEvent) -> None:
        self.apply_to_context(recorded, event)
        if isinstance(event, LongTermUpdated) and (event.pinned is not None or event.unpinned is not None):
            for agent in self.agents.values():
                agent.apply_to_context(recorded, event)

    def _apply_to_thread(self, recorded: Recorded, event: ThreadEvent) -> None:
        match event:
            case RunStarted():
                self._run_started(recorded, event)
            case MessageAdded():
                self.message_added(recorded.seq, event)
            case TitleChanged():
                self.title = event.title
            case RunEnded():
                self._run_ended(recorded, event)
            case Asked():
                self._people_asked(recorded, event)
            case Answered():
                self._people_answered(event)
            case Unknown():
                self.foreign.append(recorded.seq)
            case Forked():
                self._forked(recorded, event)
            case _:
                self._apply_to_queue(recorded.seq, event)

    def _apply_to_queue(self, seq: int, event: ThreadEvent) -> None:
        match event:
            case MessageQueued():
                self.queue.append(Queued(seq, event.message, event.spec))
            case QueueEdited():
                self._queue_edited(event)
            case PolicyChanged():
                self.policy = event.policy
            case Imported():
                self.imported, self.untrusted = event, True
            case Feedback():
                pass  # it is for people
            case _:
                assert isinstance(event, Warned), event

    def _forked(self, recorded: Recorded, event: Forked) -> None:
        """Go on with an open run as if it had begun now; what was copied is on no account of this thread."""
        self.spent_by_key.clear()
        run = self.run
        if run is None:
            return
        if event.spec is not None:
            self._go_on_by(run, event.spec)
        run.started = recorded.time
        if key := run.spec.key:
            self.spent_by_key[key] = _less(run.spent)

    def _go_on_by(self, run: RunState, spec: RunSpec) -> None:
        """Have the run go on otherwise, and with it those of its agents that have its model: it is asked for them."""
        old = (run.spec.model, run.spec.model_name)
        for agent in (self, *self.agents.values()):
            if agent.run is None or (agent.run.spec.model, agent.run.spec.model_name) != old:
                continue
            own = {name: getattr(agent.run.spec, name) for name in _OWN} if agent is not self else {}
            agent.run.spec = msgspec.structs.replace(spec, **own)
            agent.counted_by(agent.run.spec)

    def _run_started(self, recorded: Recorded, event: RunStarted) -> None:
        self.queue = [each for each in self.queue if each.seq != event.queued]
        self.repair_imported()
        self.open(RunState(recorded.seq, recorded.time, event.spec, Spent()))

    def _run_ended(self, recorded: Recorded, event: RunEnded) -> None:
        if self.run is None:
            return
        self.run.spent.milliseconds = max(0, recorded.time - self.run.started)
        self.spent.add(self.run.spent)
        if key := self.run.spec.key:
            self.spent_by_key.setdefault(key, Spent()).add(self.run.spent)
        if event.cause != "question":
            for seq in [seq for seq in self.questions if seq > self.run.seq]:
                del self.questions[seq]  # nobody needs answers any more
        self.last, self.run = (self.run, event), None
        self.agents.clear()

    def _task_started(self, recorded: Recorded, event: TaskStarted) -> None:
        parent = self.at(parent_of(recorded.path))
        if parent.run is None:
            return
        run = RunState(recorded.seq, recorded.time, event.spec, parent.run.spent, event.task)
        run.call = event.call
        agent = self.agents[recorded.path] = AgentState(recorded.path)
        agent.seq = recorded.seq
        agent.begin_task(run, parent)
        plan = parent.run.plan
        if plan is not None and not event.call and event.task.id in plan.nodes:
            plan.nodes[event.task.id].status = "DOING"

    def _task_ended(self, path: str, event: TaskEnded) -> None:
        agent, parent = self.agents.pop(path, None), self.at(parent_of(path))
        run = agent.run if agent else None
        if agent is None or run is None or run.task is None or parent.run is None:
            return
        parent.untrusted = parent.untrusted or agent.untrusted
        if run.call:
            if (opened := parent.run.calls.get(run.call)) is not None:
                opened.task = event
            return
        plan = parent.run.plan
        node = plan.nodes.get(run.task.id) if plan is not None else None
        if node is None:
            parent.run.done, parent.run.tasks = event, parent.run.tasks + 1
            return
        node.status = "SUCCESS" if event.status == "success" else "FAIL"
        node.submission, node.conclusion = run.submission, event.conclusion
        if event.conclusion is not None:
            parent.past_task(event.conclusion)

    def _people_asked(self, recorded: Recorded, event: Asked) -> None:
        question = Question(recorded.seq, recorded.time, recorded.path, event)
        self.questions[recorded.seq] = question
        agent = self.agents.get(recorded.path) if recorded.path else self
        if agent is None or agent.run is None or event.kind == "elicitation":
            return
        opened = agent.run.calls.get(event.call)
        if opened is not None:
            opened.asked = question
        else:
            agent.run.asked = question

    def _people_answered(self, event: Answered) -> None:
        question = self.questions.pop(event.question, None)
        if question is None:
            return
        question.answer = event
        agent = self.agents.get(question.path) if question.path else self
        if agent is None or agent.run is None:
            return
        if event.decision == "continue":
            agent.run.begin_again()
        opened = agent.run.calls.get(question.event.call)
        # Edited arguments were approved this once: nobody said yes to those that the model wrote.
        lasting = event.scope == "tool" or (event.scope == "call" and not event.arguments)
        if event.decision == "approve" and opened is not None and lasting:
            self.allowed.add((opened.call.name, question.event.hash if event.scope == "call" else ""))

    def _queue_edited(self, event: QueueEdited) -> None:
        at = next((at for at, each in enumerate(self.queue) if each.seq == event.item), None)
        if at is None:
            return
        item = self.queue[at]
        if event.message is not None:
            item = self.queue[at] = item._replace(message=event.message)
        if event.removed or event.before is not None:
            del self.queue[at]
        if event.before is not None and not event.removed:
            places = [place for place, each in enumerate(self.queue) if each.seq == event.before]
            self.queue.insert(places[0] if places else len(self.queue), item)


def _less(spent: Spent) -> Spent:
    """Return what takes away what was spent when it is added."""
    less, usage = Spent(), spent.usage
    less.usage = Usage(-usage.input, -usage.output, -usage.cached)
    less.steps, less.tool_calls, less.money = -spent.steps, -spent.tool_calls, -spent.money
    less.reserved, less.milliseconds = -spent.reserved, -spent.milliseconds
    return less


def parent_of(path: str) -> str:
    """Return the path of the agent that an agent works for."""
    return path.rpartition("/")[0]
