"""Tools that the client of a run carries out: the run waits for their results, whoever sends them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stepwell.events import ToolEnded
from stepwell.runs.replay import replay
from stepwell.wiring.replay import ConfigParts
from tests.support.endpoint import Endpoint, Reply, text, tool_calls
from tests.support.server import Server, scripted, serving

LOOK: dict[str, Any] = {
    "name": "look",
    "description": "Look at a part of the screen.",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
}


def looks(*places: str) -> Reply:
    return tool_calls(*((f"c{n}", "look", ['{"at":"', place, '"}']) for n, place in enumerate(places)))


async def begin(server: Server, **fields: Any) -> tuple[str, int]:
    body = {"content": "What is on the screen?", "client_tools": [LOOK], **fields}
    status, ref = await server.call("POST", "/api/messages", json=body)
    assert status == 202, ref
    stream = await server.follow(ref["thread"], "0", ref["run"])
    await stream.until("run_waiting")
    stream.cut()
    return ref["thread"], ref["run"]


async def asked(server: Server, thread: str) -> list[dict[str, Any]]:
    return (await server.call("GET", f"/api/threads/{thread}/questions"))[1]["questions"]


async def send(server: Server, thread: str, question: int, decision: str, said: str) -> int:
    path = f"/api/threads/{thread}/questions/{question}/answer"
    status, _ = await server.call("POST", path, json={"decision": decision, "text": said})
    return status


async def end(server: Server, thread: str, run: int) -> dict[str, Any]:
    stream = await server.follow(thread, "0", run)
    return (await stream.until("run_ended"))[-1].body["event"]


async def told(endpoint: Endpoint, number: int) -> list[str]:
    request = await endpoint.request(number)
    return [each["content"] for each in request.body["messages"] if each["role"] == "tool"]


@pytest.mark.parametrize("people", [True, False])
def test_a_run_waits_for_results_of_the_client_and_goes_on_with_them_after_a_restart(
    tmp_path: Path, people: bool
) -> None:
    async def main() -> None:
        async with Endpoint([looks("top", "left"), text("A cat.")]) as endpoint:
            models = scripted(endpoint)
            async with serving(tmp_path, models=models) as server:
                thread, run = await begin(server, people=people)
            async with serving(tmp_path, models=models) as server:
                first, second = await asked(server, thread)
                assert (first["kind"], first["tool"], first["arguments"]) == ("result", "look", '{"at":"top"}')
                assert first["decisions"] == ["done", "skip"]
                assert await send(server, thread, second["seq"], "skip", "There is nothing on the left.") == 202
                assert await send(server, thread, first["seq"], "done", "ears") == 202
                assert (await end(server, thread, run))["reason"] == "answer"
                assert await told(endpoint, 1) == ["ears", "There is nothing on the left."]
                events = await server.service.events("local", thread)
                assert await replay(events, ConfigParts(server.config), thread) is None
            offered = (await endpoint.request(0)).body["tools"]
            assert [each["function"] for each in offered if each["function"]["name"] == "look"] == [LOOK]

    asyncio.run(main())


def test_arguments_that_do_not_fit_go_back_to_the_model_and_not_to_the_client(tmp_path: Path) -> None:
    async def main() -> None:
        wrong = tool_calls(("c0", "look", ['{"where": "top"}']))
        async with (
            Endpoint([wrong, looks("top"), text("A cat.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            thread, run = await begin(server)
            (question,) = await asked(server, thread)
            assert question["arguments"] == '{"at":"top"}'
            assert "at" in (await told(endpoint, 1))[0]
            assert await send(server, thread, question["seq"], "skip", "") == 202
            await end(server, thread, run)
            assert (await told(endpoint, 2))[1] == "The client did not carry out this call and gave no reason."

    asyncio.run(main())


def test_a_long_result_is_cut_for_the_model_and_kept_whole(tmp_path: Path) -> None:
    async def main() -> None:
        said = "\n".join(f"line {n}" for n in range(8_000))
        async with (
            Endpoint([looks("top"), text("A cat.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            thread, run = await begin(server)
            (question,) = await asked(server, thread)
            assert await send(server, thread, question["seq"], "done", said) == 202
            await end(server, thread, run)
            (shown,) = await told(endpoint, 1)
            assert len(shown) < 31_000
            events = await server.service.events("local", thread)
            (ended,) = [each.event for each in events if isinstance(each.event, ToolEnded)]
            whole = await server.service.store.blob(thread, ended.blob)
            assert whole is not None
            assert whole.decode() == said

    asyncio.run(main())


def test_the_run_can_be_cancelled_while_it_waits_for_a_result(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([looks("top")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            thread, run = await begin(server)
            (question,) = await asked(server, thread)
            assert (await server.call("POST", f"/api/threads/{thread}/runs/{run}/cancel"))[0] == 202
            assert (await end(server, thread, run))["reason"] == "cancelled"
            assert await send(server, thread, question["seq"], "done", "ears") == 409

    asyncio.run(main())


@pytest.mark.parametrize(
    ("tools", "field"),
    [
        ([{**LOOK, "name": "no spaces"}], "tools.0.name"),
        ([LOOK, LOOK], "tools.1.name"),
        ([{**LOOK, "name": "calculate"}], "tools.0.name"),
        ([{**LOOK, "name": "recall"}], "tools.0.name"),
        ([{**LOOK, "name": "subtask_submit"}], "tools.0.name"),
        ([{**LOOK, "parameters": {"properties": {"\ud800": {}}}}], "tools.0.parameters"),
        ([{**LOOK, "parameters": {"properties": {"a": {"enum": ["\0"]}}}}], "tools.0.parameters"),
        ([{**LOOK, "parameters": {"type": "array"}}], "tools.0.parameters"),
        ([{**LOOK, "parameters": {"properties": {"a": {"$ref": 1}}}}], "tools.0.parameters"),
        ([{**LOOK, "parameters": {"properties": {"a": 5}}}], "tools.0.parameters"),
        ([{**LOOK, "parameters": {"properties": {"a": {"items": {"anyOf": {}}}}}}], "tools.0.parameters"),
        ([{**LOOK, "parameters": {"required": [["a"]]}}], "tools.0.parameters"),
        ([{**LOOK, "description": "x" * 20_001}], "client_tools.0.description"),
    ],
)
def test_tools_that_no_model_could_be_told_of_are_refused(tmp_path: Path, tools: list[Any], field: str) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            body = {"content": "x", "client_tools": tools}
            status, answer = await server.call("POST", "/api/messages", json=body)
            assert status == 422
            assert answer["error"]["field"].endswith(field), answer

    asyncio.run(main())


def test_an_agent_of_the_settings_answers_with_its_own_model_tools_and_words(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("four")]) as endpoint:
            models = scripted(endpoint) | scripted(endpoint, "other", model="big")
            agents = {
                "counter": {"description": "Counts.", "model": "other", "tools": ["calculate"], "system": "Count."}
            }
            async with serving(tmp_path, models=models, agents=agents) as server:
                status, ref = await server.call("POST", "/api/messages", json={"content": "2+2?", "agent": "counter"})
                assert status == 202
                await end(server, ref["thread"], ref["run"])
                sent = (await endpoint.request(0)).body
                assert sent["model"] == "big"
                assert sent["messages"][0] == {"role": "system", "content": "Count."}
                assert sent["tools"][0]["function"]["name"] == "calculate"
                status, answer = await server.call("POST", "/api/messages", json={"content": "x", "agent": "nobody"})
                assert (status, answer["error"]["field"]) == (422, "agent")
                assert "counter" in answer["error"]["message"]

    asyncio.run(main())


def test_a_schema_that_refers_to_itself_without_end_holds_nobody_up(tmp_path: Path) -> None:
    async def main() -> None:
        again = {"anyOf": [{"$ref": "#"}, {"$ref": "#"}, {"type": "array"}]}
        tool = {**LOOK, "parameters": {"type": "object", **again}}
        async with (
            Endpoint([looks("top"), text("It cannot be done.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            body = {"content": "x", "client_tools": [tool]}
            _, ref = await server.call("POST", "/api/messages", json=body)
            assert (await end(server, ref["thread"], ref["run"]))["reason"] == "answer"
            assert "too involved" in (await told(endpoint, 1))[0]

    asyncio.run(main())
