"""What an open run, or an open task of an agent inside it, has come to.

Filled by the folds in `thread.py` and `agent.py` and by nothing else; it decides nothing.
"""

from __future__ import annotations

from stepwell.events import (
    Answered,
    Asked,
    CancelRequested,
    Effect,
    ModelFailed,
    RunWaiting,
    TaskEnded,
    ToolEnded,
)
from stepwell.messages import Message, StopReason, ToolCall, Usage
from stepwell.plans import Plan, Task, TaskSubmission
from stepwell.specs import RunSpec


class Question:
    """Something that people are asked.

    Attributes:
        seq: Number of its `Asked`, which names it.
        time: When it was asked, in milliseconds since 1970.
        path: The agent that asks; empty for the run's own.
        event: What is asked.
        answer: What was decided; None while it is open.
    """

    __slots__ = ("answer", "event", "path", "seq", "time")

    def __init__(self, seq: int, time: int, path: str, event: Asked) -> None:
        self.seq, self.time, self.path, self.event = seq, time, path, event
        self.answer: Answered | None = None


class OpenCall:
    """A tool call of the newest reply.

    Attributes:
        call: What the model asked for.
        started: Number of its `ToolStarted`, or 0.
        seq: Number of its `ToolEnded`, or 0.
        effect: What running it twice does, once it is started.
        threaded: It runs in a thread.
        asked: The newest question about it, or None.
        task: How the task ended that it delegated, or None.
        ended: Its result, or None.
    """

    __slots__ = ("asked", "call", "effect", "ended", "seq", "started", "task", "threaded")

    def __init__(self, call: ToolCall) -> None:
        self.call = call
        self.started = self.seq = 0
        self.effect: Effect = "pure"
        self.threaded = False
        self.asked: Question | None = None
        self.task: TaskEnded | None = None
        self.ended: ToolEnded | None = None


_NOTHING = Usage()


class Spent:
    """What a run, with all of its agents and summaries, or all runs of a thread have used.

    Attributes:
        steps: Model calls of agents, but for those that were cut and are made again.
        tool_calls: Calls of tools ended.
        usage: Tokens of all model calls.
        money: What ended calls cost, in billionths of the unit of money.
        reserved: What calls under way may cost at most.
        milliseconds: How long ended runs took.
    """

    __slots__ = ("milliseconds", "money", "reserved", "steps", "tool_calls", "usage")

    def __init__(self) -> None:
        self.steps = self.tool_calls = self.money = self.reserved = self.milliseconds = 0
        self.usage = _NOTHING

    def settle(self, reserved: int, cost: int) -> None:
        """Replace what was reserved by what it cost."""
        self.reserved -= reserved
        self.money += cost

    def add(self, other: Spent) -> None:
        """Take in what another has used."""
        self.steps += other.steps
        self.tool_calls += other.tool_calls
        self.usage = other.usage if self.usage is _NOTHING else self.usage + other.usage
        self.money += other.money
        self.reserved += other.reserved
        self.milliseconds += other.milliseconds


class RunState:
    """What an open run or task has come to.

    Attributes:
        seq: The number of its `RunStarted` or `TaskStarted`.
        started: When it started, in milliseconds since 1970.
        spec: How it goes.
        spent: What the whole run has used; a task's is its run's.
        task: The task, of an agent inside a run; else None.
        call: The call that delegated the task; empty for others.
        submission: How the agent of a task ended its work, or None.
        plan: The tree of tasks, or None.
        done: How the newest task ended that neither a plan nor a call began, or None.
        tasks: How many such tasks ended.
        steps: Steps begun, but for those whose model call was cut and is made again.
        malformed: Replies in a row whose calls were all malformed.
        step: Number of the open `StepStarted`, or 0.
        reserved: What the open step has reserved.
        message: Number of the open `MessageStarted`, or 0.
        reply: The newest whole reply, or None.
        stop: Why the newest reply ended.
        failure: The newest model failure since the last whole reply, or None.
        calls: The calls of the newest reply, by id, in order.
        open: How many of them have no result yet.
        cancel: Who asked it to stop, or None.
        paused: Somebody asked it to halt.
        waiting: It waits for somebody or for a time, and nobody carries it out; None while it goes on.
        asked: The newest question that is about no call, or None.
        pending: What was said to it and has no place in the conversation yet, with numbers of the events.
        interrupted: What is under way is to be closed for the sake of what was said.
        unheard: What was said since the model was asked last, and has its place in the conversation.
        broken: Number of the newest interrupt since then, or 0.
        repeats: How often in a row the same calls had the same results.
        learned: How often an endpoint taught that its window is smaller.
        aside: The reply under way is no part of the conversation.
        kept: Number of the newest step's reply if it is a part of the conversation, or 0.
        repaired: The newest step asked again for a reply that did not fit its form.
        epoch: Counts the processes that took it over.
    """

    __slots__ = (
        "_done",
        "aside",
        "asked",
        "broken",
        "call",
        "calls",
        "cancel",
        "done",
        "epoch",
        "failure",
        "interrupted",
        "kept",
        "learned",
        "malformed",
        "message",
        "open",
        "paused",
        "pending",
        "plan",
        "repaired",
        "repeats",
        "reply",
        "reserved",
        "seq",
        "spec",
        "spent",
        "started",
        "step",
        "steps",
        "stop",
        "submission",
        "task",
        "tasks",
        "unheard",
        "waiting",
    )

    def __init__(self, seq: int, started: int, spec: RunSpec, spent: Spent, task: Task | None = None) -> None:
        self.seq, self.started, self.spec, self.spent, self.task = seq, started, spec, spent, task
        self.call = ""
        self.submission: TaskSubmission | None = None
        self.plan: Plan | None = None
        self.done: TaskEnded | None = None
        self.steps = self.malformed = self.epoch = self.learned = self.repeats = self.tasks = 0
        self.step = self.message = self.kept = self.reserved = self.broken = self.open = 0
        self.aside = self.repaired = self.paused = self.interrupted = False
        self.reply: Message | None = None
        self.stop: StopReason | None = None
        self.failure: ModelFailed | None = None
        self.calls: dict[str, OpenCall] = {}
        self.cancel: CancelRequested | None = None
        self.waiting: RunWaiting | None = None
        self.asked: Question | None = None
        self.pending: tuple[tuple[int, Message], ...] = ()
        self.unheard: tuple[Message, ...] = ()
        self._done: tuple[tuple[str, str, str], ...] = ()

    def unanswered(self) -> list[OpenCall]:
        """Return the calls of the newest reply that have no result yet, in order."""
        return [each for each in self.calls.values() if each.ended is None] if self.open else []

    def all_answered(self) -> None:
        """Count replies whose executed calls and their results are those of the reply before."""
        ended = [(each.call, each.ended) for each in self.calls.values() if each.ended is not None]
        self.malformed = self.malformed + 1 if all(end.status == "invalid" for _, end in ended) else 0
        done = tuple(
            (call.name, call.arguments, end.blob or end.content)
            for call, end in ended
            if end.status in ("ok", "failed", "timeout")
        )
        if done:
            self.repeats = self.repeats + 1 if done == self._done else 1
            self._done = done

    def begin_again(self) -> None:
        """Count repetitions anew: somebody said that it may go on."""
        self.repeats = 0
