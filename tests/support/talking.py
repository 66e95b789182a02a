"""Runs of the interaction engine for tests: a person who talks, and a model that decides by what a request holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from stepwell.agent.base import BaseAgent
from stepwell.engines.base import Engine
from stepwell.engines.interaction import InteractionEngine
from stepwell.engines.plan import PlanEngine
from stepwell.events import (
    Answered,
    CancelRequested,
    MessageAdded,
    Recorded,
    Steered,
    Stored,
    ToolEnded,
)
from stepwell.log import Log
from stepwell.messages import Message
from stepwell.models.base import ModelRequest
from stepwell.models.scripted import Answer, Gate, call
from stepwell.questions import Decision
from stepwell.runs.replay import replay
from stepwell.specs import RunSpec
from stepwell.tools.mark import tool
from tests.support.tasks import TaskRig, concluded, offered, results, sub, submit, told

Script = Mapping[str, Answer]


class TalkRig(TaskRig):
    """Runs of one thread in which a front talks while a plan works."""

    def __init__(self, model: Any, *tools: Callable[..., Any], **options: Any) -> None:
        super().__init__(model, *tools, engine="interaction", **{"fast_path": False, **options})

    def assemble(self, spec: RunSpec) -> Engine:
        return InteractionEngine(self.front, lambda: PlanEngine(self.plan_agent, self.react))

    def front(self, log: Log) -> BaseAgent:
        return BaseAgent(None, "", "", default_replies=None, model=self.answers, log=log)

    @asynccontextmanager
    async def going(self, **fields: Any) -> AsyncIterator[None]:
        """Have a new run carried out beside the test, until it ends or waits."""
        task = asyncio.create_task(self.play("Make it.", **fields))
        try:
            yield
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def seen(self, kind: type[Stored], count: int = 1, path: str | None = None) -> Any:
        """Wait until so many events of a kind are recorded, and return the last of them."""
        while True:
            found = [
                each
                for each in await self.log.read()
                if isinstance(each.event, kind) and (path is None or each.path == path)
            ]
            if len(found) >= count:
                return found[count - 1]
            await asyncio.sleep(0)

    def steer(self, text: str, *, interrupt: bool = False, path: str = "") -> None:
        """Say something to the run, as the service does."""
        self.say(Steered(Message("user", text), interrupt), path=path)
        if interrupt and self.log.interrupt is not None:
            self.log.interrupt()

    def answer(self, decision: Decision, text: str = "") -> None:
        """Decide the one open question."""
        (question,) = self.log.state.questions.values()
        self.say(Answered(question.seq, decision, text), path=question.path)


class Work:
    """A tool that waits at a gate, and a model that decides by what a request holds.

    Args:
        routes: What the router chooses, by the newest message of the person.
        judgments: What the judger chooses, by the same.
        edits: What becomes of the plan, by what is asked for.
    """

    def __init__(self, routes: Script, judgments: Script | None = None, *, names: str = "ab") -> None:
        self.routes, self.judgments, self.names = routes, judgments or {}, names
        self.gate = Gate()
        self.ran: list[str] = []

        @tool(effect="pure")
        async def work(name: str) -> str:
            """Work."""
            self.ran.append(name)
            if name == names[0]:
                await self.gate.wait()
            return f"worked {name}"

        self.tool = work

    def __call__(self, request: ModelRequest) -> Answer:
        names = offered(request)
        said = [each.content for each in request.messages if each.role == "user"]
        if "start_task" in names:
            answered = results(request)
            return self.routes[answered[-1] if answered and answered[-1] in self.routes else said[-1]]
        if "exit_task" in names:
            return self.judgments[said[-1]]
        if "conclusion" in names:
            return concluded("all is made" if "generate_plan" in str(request.messages[0]) else "made", reply="Made.")
        if "generate_plan" in names:
            return call("generate_plan", subtasks=[sub(name) for name in self.names])
        if "subtask_operations" in names:
            return self.edit(told(request))
        if not names:
            return f"chat: {'worked' in told(request)} {'a goal' in told(request)}"
        return self.worker(request)

    def edit(self, asked: str) -> Answer:
        if "add c." in asked.lower() and "] c:" not in asked:
            return call("subtask_operations", operation="add", target_subtask_id="1.2", subtasks=[sub("c")])
        return call("subtask_operations", operation="exit")

    def worker(self, request: ModelRequest) -> Answer:
        opening = next(each.content for each in request.messages if each.role == "user")
        name = opening.split(" goal")[0][-1]
        return submit(f"made {name}") if results(request) else call("work", name=name)

    def rig(self, **options: Any) -> TalkRig:
        return TalkRig(self, self.tool, **options)


def closed(log: list[Recorded]) -> list[tuple[str, str]]:
    """Return the calls that were closed, as the agents were told of it."""
    ended = [(each.path, each.event) for each in log if isinstance(each.event, ToolEnded)]
    return [(path, event.content) for path, event in ended if event.status == "cancelled"]


def waits(made: TalkRig) -> bool:
    run = made.log.state.run
    return run is not None and run.waiting is not None


START = {"Make it.": call("start_task", task="Make a and b.")}


def spoken(log: list[Recorded]) -> list[str]:
    return [
        each.event.message.content
        for each in log
        if not each.path and isinstance(each.event, MessageAdded) and each.event.source == "engine"
    ]


async def replayed(log: list[Recorded], made: TalkRig) -> None:
    """Check that a replay of every beginning makes the same decisions; the end of a cancel is one."""
    answers, box = made.answers, made.toolbox
    stopped = next((each.seq for each in log if isinstance(each.event, CancelRequested)), len(log))
    for end in (*range(1, stopped), len(log)):
        found = await replay(log[:end], made.parts(), "t")
        made.answers, made.toolbox = answers, box
        assert found is None, (end, found)
