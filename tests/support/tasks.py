"""Runs of the task engines for tests: a log, a driver, and models that answer by what a request holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from stepwell.agent.options import AgentOptions, context_spec
from stepwell.agent.task_agents import PlanAgent, ToolAgent
from stepwell.engines.base import Engine
from stepwell.engines.calls import Calls
from stepwell.engines.plan import PlanEngine
from stepwell.engines.react import ReactEngine
from stepwell.events import MessageAdded, Recorded, RunClaimed, RunStarted, Stored
from stepwell.log import Log
from stepwell.messages import Message, ToolCall
from stepwell.models.base import Model, ModelRequest
from stepwell.models.dialects.base import Dialect
from stepwell.models.scripted import Brain, ScriptedModel, Step, call
from stepwell.plans import Task
from stepwell.runs.driver import drive
from stepwell.runs.log import ThreadLog
from stepwell.specs import EngineName, RunSpec, TaskOptions
from stepwell.state.thread import State
from stepwell.store.base import ThreadInfo
from stepwell.store.memory import MemoryStore
from stepwell.tools.base import Toolbox
from tests.support.audit import audit
from tests.support.runs import OWNER, WAIT


class MarkedLog(ThreadLog):
    """A log that knows where appends ended: a process that stops leaves nothing else."""

    def __init__(self, store: MemoryStore, state: State) -> None:
        super().__init__(store, "t", state, OWNER)
        self.ends: list[int] = []

    def append(self, *events: Stored, **more: Any) -> int:
        first = super().append(*events, **more)
        self.ends.append(self.state.seq)
        return first


class TaskRig:
    """Runs of one thread, carried out in this task.

    Args:
        model: Who answers: a model, a script, or a function of the request.
        tools: What tasks may call.
        engine: Which engine carries runs out.
        options: How tasks and plans are carried out.
        dialect: How the model is spoken to.
    """

    def __init__(
        self,
        model: ScriptedModel | Brain | Sequence[Step],
        *tools: Callable[..., Any],
        engine: EngineName = "plan",
        dialect: Dialect | None = None,
        **options: Any,
    ) -> None:
        self.model = model if isinstance(model, ScriptedModel) else ScriptedModel(model)
        self.answers: Model = self.model
        self.toolbox, self.engine, self.dialect = Toolbox(tools), engine, dialect
        self.options = TaskOptions(**options)
        self.store = MemoryStore()
        self.log = MarkedLog(self.store, State())
        self.log.make(ThreadInfo("t", OWNER))

    def assemble(self, spec: RunSpec) -> Engine:
        return self.react() if self.engine == "react" else PlanEngine(self.plan_agent, self.react)

    def parts(self) -> TaskParts:
        """Return what a replay makes engines of."""
        return TaskParts(self)

    def react(self) -> ReactEngine:
        return ReactEngine(self.tool_agent, Calls(self.toolbox))

    def tool_agent(self, log: Log) -> ToolAgent:
        return ToolAgent(model=self.answers, tools=self.toolbox.specs, log=log, dialect=self.dialect)

    def plan_agent(self, log: Log) -> PlanAgent:
        return PlanAgent(model=self.answers, tools=self.toolbox.specs, log=log, dialect=self.dialect)

    @property
    def asked(self) -> int:
        """How often the scripted model was asked."""
        return len(self.model.calls)

    def spec(self, **fields: Any) -> RunSpec:
        tools = tuple(tool.name for tool in self.toolbox.specs)
        context = context_spec(AgentOptions(), self.model.profile)
        return RunSpec(**{"engine": self.engine, "tools": tools, "tasks": self.options, "context": context, **fields})

    async def play(self, text: str = "go", **fields: Any) -> list[Recorded]:
        """Carry a new run out, and return the thread's audited log."""
        self.log.append(RunStarted(self.spec(**fields)), MessageAdded(Message("user", text)))
        return await self.go_on()

    async def go_on(self) -> list[Recorded]:
        """Carry the open run on to where it ends or waits, and return the thread's audited log."""
        run = self.log.state.run
        assert run is not None
        self.log.carried = run.seq
        async with asyncio.timeout(WAIT):
            await drive(self.log, self.assemble)
        return await self.events()

    async def events(self) -> list[Recorded]:
        """Return the thread's audited log."""
        await self.log.committed()
        events = await self.store.read("t")
        self.state = audit(events)
        return events

    async def take_over(self, events: Sequence[Recorded]) -> None:
        """Begin with the log of a process that stopped."""
        await self.store.append("t", events, expect=0, new=ThreadInfo("t", OWNER))
        self.log = MarkedLog(self.store, State(events))
        if self.log.state.run is not None:
            self.log.append(RunClaimed(self.log.state.run.epoch + 1))

    def outline(self) -> list[str]:
        """Return the tasks below the root of the newest plan: id, name and status."""
        found = self.log.state.last
        assert found is not None
        plan = found[0].plan
        assert plan is not None
        return [f"{node.task.id} {node.task.name} {node.status}" for node in plan.root.walk()][1:]

    def task(self, id: str) -> Task:
        """Return a task of the newest plan."""
        found = self.log.state.last
        assert found is not None
        assert found[0].plan is not None
        return found[0].plan.nodes[id].task

    def say(self, *events: Stored, path: str = "") -> None:
        """Append what comes from outside."""
        self.log.tell(*events, path=path)


class TaskParts:
    """What a replay makes engines of; implements `runs.replay.Parts`."""

    def __init__(self, rig: TaskRig) -> None:
        self._rig = rig

    def versions(self, spec: RunSpec) -> dict[str, str]:
        return {}

    def toolbox(self, spec: RunSpec) -> Toolbox:
        return self._rig.toolbox

    def engine(self, spec: RunSpec, model: Model, toolbox: Toolbox) -> Engine:
        self._rig.answers, self._rig.toolbox = model, toolbox
        return self._rig.assemble(spec)


def told(request: ModelRequest) -> str:
    """Return the last message of a request."""
    return request.all[-1].content


def offered(request: ModelRequest) -> set[str]:
    return {tool.name for tool in request.tools}


def task_of(request: ModelRequest) -> str:
    """Return the name of the task that a request is about; its goal is as `sub` makes it."""
    opening = next(message.content for message in request.messages if message.role == "user")
    return [*opening.split("\n"), "", ""][2].removesuffix(" goal")


def results(request: ModelRequest) -> list[str]:
    """Return the results of calls that a request holds."""
    return [message.content for message in request.messages if message.role == "tool"]


def plan(*subtasks: dict[str, Any]) -> ToolCall:
    """Return a call that makes a plan."""
    return call("generate_plan", subtasks=[*subtasks])


def operation(name: str, target: object = "", *subtasks: dict[str, Any]) -> ToolCall:
    """Return a call that changes a plan."""
    return call("subtask_operations", operation=name, target_subtask_id=target, subtasks=[*subtasks])


def concluded(summary: str = "done", status: str = "success", reply: str = "") -> ToolCall:
    """Return a conclusion."""
    return call("conclusion", summary=summary, status=status, reached_goals=[], failed_goals=[], reply=reply or summary)


def submit(result: str = "found", kind: str = "success", **more: Any) -> ToolCall:
    """Return a submission."""
    return call("subtask_submit", submit_type=kind, result=result, **more)


def sub(name: str, *needs: str) -> dict[str, Any]:
    """Return a task as a model names it."""
    return {"name": name, "goal": f"{name} goal", "milestones": [f"{name} is there"], "needs": [*needs]}


def of_path(events: Sequence[Recorded], path: str) -> list[Any]:
    """Return what happened to one agent."""
    return [each.event for each in events if each.path == path]


def last_said(events: Sequence[Recorded]) -> str:
    """Return the answer that an engine put into the conversation last."""
    added = [each.event for each in events if isinstance(each.event, MessageAdded)][-1]
    assert (added.source, added.message.role) == ("engine", "assistant")
    return added.message.content
