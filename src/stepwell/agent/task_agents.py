"""The agents of tasks and plans (XAgent's ToolAgent and PlanAgent): what each is told and which calls are its own.

When they are asked, and what becomes of their calls, is the business of `engines/react.py` and `engines/plan.py`.
"""

from __future__ import annotations

from typing import Any

from stepwell import prompts
from stepwell.agent.asking import Asked, narrowed
from stepwell.agent.base import BaseAgent, Replies
from stepwell.messages import NO_TOOLS, Message, ToolSpec, ToolSpecs


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _list(description: str, items: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "array", "description": description, "items": items or {"type": "string"}}


def _call(name: str, description: str, properties: dict[str, Any], *required: str) -> ToolSpec:
    return ToolSpec(name, description, {"type": "object", "properties": properties, "required": list(required)})


_SUBTASKS = _list(
    "The tasks, in the order in which they are to be done.",
    {
        "type": "object",
        "properties": {
            "name": _text("A few words."),
            "goal": _text("What is to be reached, with all that its agent has to know."),
            "milestones": _list("How one can tell that it is reached, one each."),
            "prior_criticism": _text("What may go wrong, and what to watch for."),
            "needs": _list("Names of the siblings whose results it uses; empty if it needs none."),
        },
        "required": ["name", "goal", "milestones"],
    },
)

SUBMIT = _call(
    "subtask_submit",
    "End the task with what came of it.",
    {
        "submit_type": {
            "type": "string",
            "enum": ["success", "give_up", "max_tool_call", "human_suggestion"],
            "description": "Reached; cannot be reached; the steps ran out; a person has to decide.",
        },
        "result": _text("What was done and found, with all that later work needs."),
        "need_plan_rectification": {
            "type": "boolean",
            "description": "Whether the rest of the plan should be changed.",
        },
        "suggestions": _list("What should be changed, one each."),
    },
    "submit_type",
    "result",
)
ANSWER = _call(
    "answer_directly",
    "Answer the user at once, for what needs no tools and no plan.",
    {"answer": _text("The whole answer, as the user is to read it.")},
    "answer",
)
GENERATE = _call(
    "generate_plan", "Make the plan that is carried out task by task.", {"subtasks": _SUBTASKS}, "subtasks"
)
OPERATION = _call(
    "subtask_operations",
    "Change the plan by one operation, or end the change.",
    {
        "operation": {
            "type": "string",
            "enum": ["split", "add", "delete", "exit"],
            "description": "Replace a task by parts; put tasks right after one; take one out; end.",
        },
        "target_subtask_id": _text("Id of the task that it is done to, such as 1.2; empty for exit."),
        "subtasks": _SUBTASKS,
    },
    "operation",
)
ASK_HUMAN = "ask_human"
"""The tool by which a person is asked; it is no call of the engine's own."""
ONLY_SUBMIT, ONLY_PLAN = ToolSpecs((SUBMIT,)), ToolSpecs((GENERATE,))
ANSWER_OR_PLAN, ONLY_OPERATION = ToolSpecs((ANSWER, GENERATE)), ToolSpecs((OPERATION,))
PLAN_CALLS = ToolSpecs((ANSWER, GENERATE, OPERATION))
"""All that a plan agent is ever offered."""


class _TaskAgent(BaseAgent):
    """What both have in common: they ask with prompts by name, and for conclusions aside."""

    async def conclusion_tail(self, task: str, overview: str) -> tuple[Message, ...]:
        """Return the last messages of a request for a conclusion."""
        return await self._tail({"mode": "conclusion", "task": task, "tasks_overview": overview}, None, chat=False)

    async def ask_conclusion(self, tail: tuple[Message, ...]) -> None:
        """Ask for a conclusion; the reply stands in the log and is no part of the conversation."""
        await self.ask(tail, self.conclusion_arguments, NO_TOOLS, narrowed(self.settings, ()), aside=True)

    async def repair_conclusion(self, asked: Asked, tail: tuple[Message, ...]) -> None:
        """Ask once more for a conclusion that did not fit its form.

        Raises:
            ReplyMisfit: It does not fit again.
        """
        await self.repair(asked, tail, self.conclusion_arguments, narrowed(self.settings, ()), aside=True)

    async def get_step_message(self, mode: str = "default", **kwargs: object) -> str:
        """Return the prompt of a step; see `BaseAgent`. Modes with a dot name a template: its kind and its name."""
        kind, _, name = mode.partition(".")
        if not name or mode not in self.modes:
            return await super().get_step_message(mode, **kwargs)
        template = prompts.load(kind, name, self.language)
        return template.render(**{each: str(kwargs[each]) for each in template.variables})

    async def _work(self, mode: str, tools: ToolSpecs | None, values: dict[str, object]) -> Asked:
        tail = await self._tail({"mode": mode, **values}, None, chat=False)
        names = None if tools is None else [each.name for each in tools]
        return await self.ask(tail, self.default_replies, tools, narrowed(self.settings, names))


class ToolAgent(_TaskAgent):
    """Does one task with tools, and ends it with `subtask_submit`.

    The arguments are those of `BaseAgent`; `tools` are those besides the submission. A reply has no form of its own
    unless `default_replies` asks for one, such as XAgent's `observation_thought`: models without much room for forms do
    better with calls alone.
    """

    modes = ("default", "conclusion", "task.step", "task.alone", "task.last")

    def __init__(self, *args: Any, default_replies: Replies = None, tools: ToolSpecs = NO_TOOLS, **more: Any) -> None:
        super().__init__(*args, default_replies=default_replies, tools=ToolSpecs((*tools, SUBMIT)), **more)

    async def work(self, step: int, steps: int, *, people: bool) -> Asked:
        """Take one step of the task; in the last one nothing but the submission can be called.

        Args:
            step: Its number, from 1.
            steps: How many there may be.
            people: Whether somebody can be asked, where the agent has `ask_human`.
        """
        if step >= steps:
            return await self._work("task.last", ONLY_SUBMIT, {"steps": steps})
        asking = people and any(tool.name == ASK_HUMAN for tool in self.tools)
        return await self._work("task.step" if asking else "task.alone", None, {"step": step, "steps": steps})


class PlanAgent(_TaskAgent):
    """Makes a plan, changes it, and concludes it.

    The arguments are those of `BaseAgent`; `tools` are those of the agents that do the tasks: it is told of them and
    calls none.
    """

    modes = ("default", "conclusion", "generate", "plan.fast", "plan.generate", "plan.refine")

    def __init__(self, *args: Any, default_replies: Replies = None, **more: Any) -> None:
        super().__init__(*args, default_replies=default_replies, **more)

    async def get_step_message(self, mode: str = "default", **kwargs: object) -> str:
        """Return the prompt of a step; `generate` asks for the first plan. See `BaseAgent`."""
        return await super().get_step_message("plan.generate" if mode == "generate" else mode, **kwargs)

    async def generate_plan(self, width: int, *, fast: bool) -> Asked:
        """Ask for a plan.

        Args:
            width: Tasks that it may have.
            fast: Whether the answer may be given at once instead.
        """
        tools = ANSWER_OR_PLAN if fast else ONLY_PLAN
        values: dict[str, object] = {"tools": self._told_tools(), "width": width}
        return await self._work("plan.fast" if fast else "generate", tools, values)

    async def refine(self, overview: str, task: str, suggestions: str, edits: int) -> Asked:
        """Ask for one operation on the plan.

        Args:
            overview: The plan, one task a line.
            task: Id of the current task.
            suggestions: What asks for a change.
            edits: How many edits are left.
        """
        values = {"overview": overview, "task": task, "suggestions": suggestions, "edits": edits}
        return await self._work("plan.refine", ONLY_OPERATION, {**values})

    def _told_tools(self) -> str:
        lines = (f"- {tool.name}: {' '.join(tool.description.split())}"[:400] for tool in self.tools)
        return "\n".join(lines) or "-"
