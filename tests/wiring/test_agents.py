"""Agents of the settings that do tasks for others, and people who talk while a plan works: through the server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from stepwell.config import Config
from stepwell.errors import ConfigError, InputError
from stepwell.runs.catalog import Wish
from stepwell.runs.replay import replay
from stepwell.specs import Limits, Prices
from stepwell.wiring.catalog import ConfigCatalog
from stepwell.wiring.replay import ConfigParts
from tests.support.contexts import proved
from tests.support.endpoint import Endpoint, Reply, Request, text, tool_calls
from tests.support.server import scripted, serving

AT = "http://127.0.0.1:1/v1"
READER: dict[str, Any] = {"description": "reads", "model": "small", "tools": ["now"], "system": "You read."}


def catalog(tmp_path: Path, agents: dict[str, Any] | None = None, **settings: Any) -> ConfigCatalog:
    models = {"m": {"base_url": AT}, "small": {"base_url": AT, "model": "gpt-4o-mini"}}
    found = {"reader": READER} if agents is None else agents
    return ConfigCatalog(Config(**{"data": tmp_path, "models": models, "agents": found, **settings}))


def test_the_tool_is_offered_where_there_are_agents_and_nobody_left_it_out(tmp_path: Path) -> None:
    found = catalog(tmp_path)
    assert "delegate" in found.spec(Wish()).tools
    assert "delegate" not in found.spec(Wish(tools=["now"])).tools
    assert "delegate" not in found.spec(Wish(face="chatchat")).tools
    assert "delegate" not in catalog(tmp_path, {}).spec(Wish()).tools
    assert "delegate" not in catalog(tmp_path, tools={"disabled": ["delegate"]}).spec(Wish()).tools
    assert "delegate" not in catalog(tmp_path, {}, tools={"disabled": ["delegate"]}).spec(Wish()).tools
    (spec,) = [each.spec for each in found.tools() if each.spec.name == "delegate"]
    assert spec.parameters["properties"]["agent"]["enum"] == ["reader"]
    assert "- reader: reads" in spec.description


def test_an_agent_goes_as_the_settings_say_and_else_like_the_one_that_gives_the_task(tmp_path: Path) -> None:
    found = catalog(tmp_path, {"reader": {**READER, "max_chain_length": 3}, "twin": {"description": "same"}})
    parent = found.spec(Wish(text="x", temperature=0.5, key="k"))
    assert "react.texts" in parent.versions
    made = found.delegate(parent, "reader", "Read\nthis. " + "x" * 100)
    assert made is not None
    task, spec = made
    assert task.goal.startswith("Read\nthis.")
    assert task.name.startswith("Read this.")
    assert len(task.name) == 80
    assert (spec.agent, spec.engine, spec.model, spec.system, spec.tools) == (
        "reader",
        "react",
        "small",
        "You read.",
        ("now",),
    )
    assert spec.tasks is not None
    assert spec.tasks.max_chain_length == 3
    assert spec.context is not None
    assert spec.context.window == 128_000
    assert (spec.temperature, spec.key, spec.approvals) == (0.5, "k", parent.approvals)
    assert found.assemble(spec)
    twin = found.delegate(parent, "twin", "x")
    assert twin is not None
    assert (twin[1].model, twin[1].system, twin[1].tools) == (parent.model, parent.system, parent.tools)
    assert found.delegate(parent, "nobody", "x") is None


def test_tools_of_an_agent_that_are_not_there_are_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"agents\.reader\.tools: there is no tool shell; known: "):
        catalog(tmp_path, {"reader": {**READER, "tools": ["shell"]}})


def test_under_a_limit_of_money_the_prices_of_every_agent_are_needed(tmp_path: Path) -> None:
    paid = {"base_url": AT, "price_input": 1.0, "price_output": 2.0, "max_output": 100}
    models = {"m": paid, "small": {"base_url": AT}}
    found = catalog(tmp_path, models=models)
    with pytest.raises(InputError, match=r"models\.small\.price_input"):
        found.spec(Wish(limits=Limits(money=1.0)))
    assert found.spec(Wish(limits=Limits(money=1.0), tools=["now"])).prices == Prices(1.0, 2.0)
    found = catalog(tmp_path, models={"m": paid, "small": {**paid, "price_input": 3.0}})
    made = found.delegate(found.spec(Wish(limits=Limits(money=1.0))), "reader", "x")
    assert made is not None
    assert made[1].prices == Prices(3.0, 2.0)


def calls(name: str, **arguments: Any) -> Reply:
    return tool_calls(("", name, [json.dumps(arguments)]), tokens_used=(10, 10))


def offered(request: Request) -> set[str]:
    return {each["function"]["name"] for each in request.body.get("tools", ())}


def concluded(request: Request) -> Reply | None:
    """Return a conclusion where one is asked for, in whichever form."""
    said = {"summary": "made", "status": "success", "reached_goals": [], "failed_goals": [], "reply": "Made."}
    if "conclusion" in offered(request):
        return calls("conclusion", **said)
    return text(json.dumps(said)) if "response_format" in request.body else None


def helped(request: Request) -> Reply:
    found = concluded(request)
    if found is not None:
        return found
    if "delegate" in offered(request):
        done = any(each["role"] == "tool" for each in request.body["messages"])
        return text("All done.", tokens_used=(10, 10)) if done else calls("delegate", agent="reader", task="Read it.")
    return calls("subtask_submit", submit_type="success", result="read")


def test_an_agent_does_a_task_for_another_through_the_server_and_a_replay_agrees(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint(helped) as endpoint:
            facts = {"price_input": 1.0, "price_output": 2.0, "max_output": 100}
            models = {**scripted(endpoint, "m", **facts), **scripted(endpoint, "small", model="tiny", **facts)}
            settings: dict[str, Any] = {"models": models, "agents": {"reader": READER}}
            async with serving(tmp_path, **settings) as server:
                thread = await server.thread()
                frames = await server.say(thread, "go", limits={"money": 1.0})
                assert frames[-1].body["event"]["reason"] == "answer"
                ended = next(
                    each.body["event"] for each in frames if each.type == "tool_ended" and not each.body.get("path")
                )
                assert ended["content"] == "The agent reader did the task.\n\nMade."
                assert {each.body["model"] for each in endpoint.requests} == {"m", "tiny"}
                log = await server.service.store.read(thread)
                assert any(each.path.startswith("reader:") for each in log)
                assert await replay(log, ConfigParts(server.config), thread) is None

    asyncio.run(main())


def test_the_context_that_is_shown_of_a_run_is_that_of_its_own_agent(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint(helped) as endpoint:
            models = {**scripted(endpoint, "m"), **scripted(endpoint, "small", model="tiny")}
            async with serving(tmp_path, models=models, agents={"reader": READER}) as server:
                thread = await server.thread()
                await server.say(thread, "go")
                for asked, step in ({}, 2), ({"step": 1}, 1), ({"step": 2}, 2):
                    status, found = await server.call("GET", f"/api/threads/{thread}/context", params=asked)
                    assert (status, found["model"], found["step"], found["proved"]) == (200, "m", step, True)

    asyncio.run(main())


def talked(request: Request) -> Reply:
    found = concluded(request)
    names = offered(request)
    if found is not None:
        return found
    if "start_task" in names:
        return calls("start_task", task="Make it.")
    if "generate_plan" in names:
        subtask = {"name": "a", "goal": "a goal", "milestones": ["a"]}
        return calls("generate_plan", subtasks=[subtask])
    return calls("subtask_submit", submit_type="success", result="read")


def test_a_person_talks_with_a_front_through_the_server_and_a_replay_agrees(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint(talked) as endpoint:
            async with serving(tmp_path, models=scripted(endpoint), tasks={"fast_path": False}) as server:
                thread = await server.thread()
                frames = await server.say(thread, "go", engine="interaction")
                said = [each.body["event"] for each in frames if each.type == "message_added"]
                assert said[-1]["message"]["content"] == "Made."
                assert frames[-1].body["event"]["reason"] == "answer"
                log = await server.service.store.read(thread)
                assert await replay(log, ConfigParts(server.config), thread) is None
                found = proved(log, server.service.engine)
                assert {path for _, path, _ in found} == {"", "plan1", "plan1/1.1"}

    asyncio.run(main())
