"""The agents at work in a run, as AG-UI's subagents: what each has open, and the events that begin and end them."""

from __future__ import annotations

from stepwell.events import TaskEnded, TaskStarted
from stepwell.messages import ToolCall
from stepwell.server.agui.wire import event, message_id
from stepwell.state.thread import parent_of


class AgentAtWork:
    """An agent of a run: the run's own, or one that does a task inside it.

    Args:
        path: Its path; empty for the run's own.
        started: How its task began; None for the run's own.
        id: Its id in AG-UI; empty for the run's own.
        parent: The same of the agent that it works for.

    Attributes:
        step: Name of the open step, or empty.
        aside: The reply under way is no part of the conversation.
        model: Name of the model that was asked last.
        calls: Calls that have no result, by id.
        running: Ids of those that were begun.
        reply: The newest whole reply's text.
    """

    def __init__(self, path: str = "", started: TaskStarted | None = None, id: str = "", parent: str = "") -> None:
        self.path, self.started, self.id, self.parent = path, started, id, parent
        self.step = self.model = self.reply = ""
        self.aside = False
        self.calls: dict[str, ToolCall] = {}
        self.running: set[str] = set()

    @property
    def tag(self) -> str | None:
        """Its id for the field `subagentRunId`; None for the run's own."""
        return self.id or None

    def begin(self) -> list[bytes]:
        """Return events that begin it, or begin it again in a new AG-UI run, with its open step."""
        events: list[bytes] = []
        if self.started is not None:
            task, call = self.started.task, self.started.call or None
            events.append(
                event(
                    "SUBAGENT_STARTED",
                    subagentRunId=self.id,
                    name=task.name or task.id or self.path,
                    description=task.goal or None,
                    parentSubagentRunId=self.parent or None,
                    parentToolCallId=call,
                )
            )
        return [*events, *self.step_begins(self.step)]

    def step_begins(self, name: str) -> list[bytes]:
        """Return the event that begins a step; none for no name."""
        self.step = name
        return [event("STEP_STARTED", stepName=name, subagentRunId=self.tag)] if name else []

    def step_ends(self) -> list[bytes]:
        """Return the event that ends the open step, if there is one."""
        name, self.step = self.step, ""
        return [event("STEP_FINISHED", stepName=name, subagentRunId=self.tag)] if name else []

    def suspend(self, interrupts: list[str]) -> list[bytes]:
        """Return events that close it for this AG-UI run; it goes on in the next.

        Args:
            interrupts: Ids of those that it raised itself.
        """
        step = self.step
        events = self.step_ends()
        self.step = step
        if self.id:
            outcome = {"type": "suspended", "interruptIds": interrupts}
            events.append(event("SUBAGENT_FINISHED", subagentRunId=self.id, outcome=outcome))
        return events

    def end(self, ended: TaskEnded) -> list[bytes]:
        """Return events that end it for good."""
        events, conclusion = self.step_ends(), ended.conclusion
        said = (conclusion.reply or conclusion.summary) if conclusion is not None else ""
        if ended.status == "success":
            done = event("SUBAGENT_FINISHED", subagentRunId=self.id, result=said, outcome={"type": "success"})
        else:
            detail = ended.detail or said or ended.status
            done = event("SUBAGENT_ERROR", subagentRunId=self.id, message=detail, code=ended.cause or ended.status)
        return [*events, done]


class Agents:
    """All agents of a run that are at work, in the order in which they began."""

    def __init__(self) -> None:
        self._own = AgentAtWork()
        self._inside: dict[str, AgentAtWork] = {}

    def at(self, path: str) -> AgentAtWork:
        """Return the agent of a path; one that is not at work is nobody's concern, and forgotten."""
        return self._inside.get(path) or (AgentAtWork(path) if path else self._own)

    def all(self) -> list[AgentAtWork]:
        """Return them, the run's own first."""
        return [self._own, *self._inside.values()]

    def add(self, seq: int, path: str, started: TaskStarted) -> AgentAtWork:
        """Take in an agent whose task began."""
        parent = self.at(parent_of(path)).id
        made = self._inside[path] = AgentAtWork(path, started, message_id(seq), parent)
        return made

    def remove(self, path: str) -> AgentAtWork | None:
        """Let go of an agent whose task is over."""
        return self._inside.pop(path, None)
