"""A scripted endpoint for runs in which a front talks with a person while a plan of one task works."""

from __future__ import annotations

import asyncio
import json

from tests.support.endpoint import Reply, Request, text, tool_calls

FIRST = {"name": "count", "goal": "Count them."}
GOALS: dict[str, list[str]] = {"reached_goals": [], "failed_goals": []}


def one(name: str, **arguments: object) -> Reply:
    return tool_calls((f"call_{name}", name, [json.dumps(arguments)]))


class Model:
    """Decides by what a request offers and holds. The worker's first reply waits until `held` is set."""

    def __init__(self) -> None:
        self.held = asyncio.Event()

    def __call__(self, request: Request) -> Reply:
        names = {each["function"]["name"] for each in request.body.get("tools", ())}
        messages = request.body["messages"]
        said = [str(each["content"]) for each in messages if each["role"] == "user"]
        if "start_task" in names:
            return one("start_task", task="Count the pens.")
        if "exit_task" in names:
            return self.judge(said)
        if "generate_plan" in names:
            return one("generate_plan", subtasks=[FIRST])
        if "subtask_operations" in names:
            return self.edit(str(messages))
        if "conclusion" in names:
            return one("conclusion", summary="counted", status="success", reply="There are 7.", **GOALS)
        if "subtask_submit" in names:
            reply = one("subtask_submit", submit_type="success", result="7 pens")
            return Reply([reply.pieces[0], self.held, *reply.pieces[1:]])
        return text(f"It is at: {'count' in str(messages)}.")

    def judge(self, said: list[str]) -> Reply:
        words = next(each for each in reversed(said) if each in WORDS)
        return WORDS[words]

    def edit(self, asked: str) -> Reply:
        if "Also the pencils" in asked and "pencils goal" not in asked:
            added = {"name": "pencils", "goal": "pencils goal"}
            return one("subtask_operations", operation="add", target_subtask_id="1.1", subtasks=[added])
        return one("subtask_operations", operation="exit")


WORDS = {
    "How far is it?": one("chat", engine="plan", question="How far is it?"),
    "Also the pencils.": one("detail", instruction="Also the pencils."),
    "Stop it.": one("exit_task", reason="no use any more"),
}
