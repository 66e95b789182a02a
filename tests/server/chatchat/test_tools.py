"""`GET /tools` and `POST /tools/call` of Langchain-Chatchat 0.3: which calls run, and which are refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stepwell.specs import Limits
from stepwell.store.keys import issue
from tests.support.endpoint import Endpoint, text
from tests.support.server import Server, scripted, serving

SHELL: dict[str, Any] = {"shell": {"enabled": True, "sandbox": "none"}}


async def call(server: Server, name: str, given: Any = None, **headers: str) -> dict[str, Any]:
    body = {"name": name, **({} if given is None else {"tool_input": given})}
    status, answer = await server.call("POST", "/tools/call", json=body, headers=server.headers(**headers))
    assert status == 200, answer
    assert list(answer) == ["code", "msg", "data"]
    return answer


def test_tools_are_listed_by_name_with_their_arguments(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            status, answer = await server.call("GET", "/tools")
            assert (status, answer["code"], answer["msg"]) == (200, 200, "success")
            tool = answer["data"]["calculate"]
            assert list(tool) == ["name", "title", "description", "args", "config"]
            assert (tool["name"], tool["config"], tool["args"]["query"]["type"]) == ("calculate", {}, "string")
            assert "shell" not in answer["data"]

    asyncio.run(main())


def test_a_call_that_no_rule_asks_about_runs_without_a_model(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([]) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            assert await call(server, "calculate", {"query": "17*23+4"}) == {
                "code": 200,
                "msg": "success",
                "data": "395",
            }
            assert (await server.call("GET", "/api/threads"))[1]["threads"] == []

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "given", "code", "words"),
    [
        ("none", {}, 500, "no tool named 'none'"),
        ("calculate", {}, 422, "missing field `query`"),
        ("calculate", {"query": "1", "other": 2}, 422, "unknown field `other`"),
        ("calculate", {"query": "1/0"}, 500, "failed to call tool 'calculate'"),
        ("calculate", {"query": "\ud800\0"}, 500, "failed to call tool 'calculate'"),
    ],
)
def test_a_call_that_cannot_be_made_says_why(tmp_path: Path, name: str, given: Any, code: int, words: str) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            answer = await call(server, name, given)
            assert (answer["code"], answer["data"]) == (code, None)
            assert words in answer["msg"]

    asyncio.run(main())


def test_what_a_rule_asks_about_or_denies_does_not_run_and_the_rule_is_named(tmp_path: Path) -> None:
    rules = [{"decision": "deny", "tool": "calculate", "arguments": {"query": "*666*"}}]

    async def main() -> None:
        async with serving(tmp_path, tools=SHELL, approvals={"rules": rules}) as server:
            asked = await call(server, "shell", {"query": f"touch {tmp_path}/made"})
            assert (asked["code"], "effect write" in asked["msg"]) == (403, True)
            assert not (tmp_path / "made").exists()
            denied = await call(server, "calculate", {"query": "666+1"})
            assert (denied["code"], "query = *666*" in denied["msg"]) == (403, True)
            assert (await call(server, "calculate", {"query": "1+1"}))["data"] == "2"

    asyncio.run(main())


def test_a_tool_that_the_rules_allow_runs_with_its_effect(tmp_path: Path) -> None:
    tools = {"shell": {**SHELL["shell"], "approval": "allow"}}

    async def main() -> None:
        async with serving(tmp_path, tools=tools) as server:
            answer = await call(server, "shell", {"query": f"touch {tmp_path}/made; echo done"})
            assert (answer["code"], "done" in answer["data"]) == (200, True)
            assert (tmp_path / "made").exists()

    asyncio.run(main())


def test_tools_of_agents_are_no_tools_for_a_direct_call(tmp_path: Path) -> None:
    async def main() -> None:
        settings = {"tools": {"ask_human": {"enabled": True}}, "agents": {"helper": {"description": "helps"}}}
        async with serving(tmp_path, **settings) as server:
            for name, given in (("ask_human", {"question": "?"}), ("delegate", {"agent": "helper", "task": "x"})):
                answer = await call(server, name, given)
                assert answer["code"] == 403, answer

    asyncio.run(main())


def test_limits_hold_for_direct_calls(tmp_path: Path) -> None:
    async def main() -> None:
        priced: dict[str, Any] = {"price_input": 1, "price_output": 1, "max_output": 100}
        async with (
            Endpoint([]) as endpoint,
            serving(tmp_path / "c", limits={"money": 5}, models=scripted(endpoint, **priced)) as server,
        ):
            assert (await call(server, "calculate", {"query": "1+1"}))["data"] == "2"
        replies = [text("one", tokens_used=(60, 40))]
        async with (
            Endpoint(replies) as endpoint,
            serving(tmp_path / "b", auth="keys", models=scripted(endpoint)) as server,
        ):
            server.key = await issue(server.service.store, "ada", Limits(tokens=100))
            assert (await call(server, "calculate", {"query": "1+1"}))["data"] == "2"
            stream = await server.stream("POST", "/chat/chat", {"query": "x"})
            await stream.rest()
            answer = await call(server, "calculate", {"query": "1+1"})
            assert (answer["code"], answer["data"]) == (429, None)

    asyncio.run(main())


def test_a_direct_call_cannot_be_promised_to_happen_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            answer = await call(server, "calculate", {"query": "1+1"}, **{"idempotency-key": "k"})
            assert (answer["code"], answer["data"]) == (422, None)

    asyncio.run(main())
