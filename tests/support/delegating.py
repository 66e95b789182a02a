"""Runs whose agent gives tasks to other agents, over the real run service."""

from __future__ import annotations

import msgspec

from stepwell.agent.base import BaseAgent
from stepwell.agent.task_agents import ToolAgent
from stepwell.engines.base import Engine
from stepwell.engines.calls import Calls
from stepwell.engines.chat import ChatEngine
from stepwell.engines.react import ReactEngine
from stepwell.log import Log
from stepwell.plans import Task
from stepwell.specs import RunSpec, TaskOptions
from stepwell.tools.base import Toolbox
from stepwell.tools.builtin.delegate import DelegateTool
from tests.support.runs import Rig

DELEGATE = DelegateTool({"reader": "reads", "writer": "writes"})


class DelegatingRig(Rig):
    """A rig whose agent has colleagues: each does its task in a chain of calls."""

    def assemble(self, spec: RunSpec) -> Engine:
        box = Toolbox([each for each in self.toolbox.tools if each.spec.name in spec.tools])
        calls = Calls(box, None, self.delegate, self.assemble)

        def tool_agent(log: Log) -> ToolAgent:
            return ToolAgent(model=self.model, tools=box.specs, log=log)

        def agent(log: Log) -> BaseAgent:
            return BaseAgent(step_prompt="", default_replies=None, model=self.model, tools=box.specs, log=log)

        if spec.engine == "react":
            return ReactEngine(tool_agent, calls)
        engine = ChatEngine(agent, box)
        engine.calls = calls
        return engine

    def delegate(self, parent: RunSpec, name: str, text: str) -> tuple[Task, RunSpec]:
        """Say how a colleague does a task."""
        spec = msgspec.structs.replace(parent, agent=name, engine="react", tasks=TaskOptions())
        return Task(id="1", name=text[:80], goal=text), spec
