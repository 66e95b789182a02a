"""The context of a step, pins, answers of a given form, and images that are refused, over HTTP."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from struct import pack
from typing import Any

from dirty_equals import IsPartialDict, IsStr

from tests.server.test_interaction import begin, ended, said_by_front, steer
from tests.support.contexts import proved
from tests.support.endpoint import DONE, Endpoint, Reply, chunk, stream, text, tool_calls, usage
from tests.support.front import Model
from tests.support.server import Server, scripted, serving

FORM = {
    "title": "Sum",
    "type": "object",
    "properties": {"total": {"type": "integer"}},
    "required": ["total"],
}


def picture(width: int, height: int) -> str:
    header = b"\x89PNG\r\n\x1a\n" + pack(">I4sII", 13, b"IHDR", width, height) + b"\x08\x02" + bytes(7)
    return "data:image/png;base64," + b64encode(header).decode()


def with_server(folder: Path, replies: list[Reply], work: Callable[[Server, Endpoint], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Endpoint(replies) as endpoint, serving(folder, models=scripted(endpoint)) as server:
            await work(server, endpoint)

    asyncio.run(main())


def test_the_context_of_each_step_can_be_asked_for(tmp_path: Path) -> None:
    counted = stream(chunk(content="42"), chunk("stop"), usage(1000, 2, cached=500), DONE)
    replies = [tool_calls(("a", "calculate", ['{"query": "6*7"}'])), counted]

    async def work(server: Server, _: Endpoint) -> None:
        thread = await server.thread()
        await server.say(thread, "6*7?")
        path = f"/api/threads/{thread}/context"
        status, newest = await server.call("GET", path)
        assert status == 200
        assert newest == IsPartialDict(run=1, step=2, model="m", counted=1000, cached=0.5, proved=True, window=8192)
        assert {"system", "tools", "user", "calls", "results"} <= {part["name"] for part in newest["parts"]}
        assert newest["bound"] <= newest["room"] < newest["window"]
        first = (await server.call("GET", f"{path}?run=1&step=1"))[1]
        assert (first["step"], first["counted"], first["proved"]) == (1, None, True)
        for query, code, field in (
            ("step=3", 404, "step"),
            ("run=2", 404, "run"),
            ("run=0", 422, "run"),
            ("step=x", 422, "step"),
        ):
            status, body = await server.call("GET", f"{path}?{query}")
            assert (status, body["error"]["field"]) == (code, field), query
        assert (await server.call("GET", f"/api/threads/{'0' * 32}/context"))[0] == 404

    with_server(tmp_path, replies, work)


def test_the_requests_of_every_agent_of_a_run_can_be_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        model = Model()
        async with Endpoint(model) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread, run, stream = await begin(server)
            await steer(server, thread, run, "How far is it?")
            assert await said_by_front(stream) == "It is at: True."
            model.held.set()
            await ended(stream)
            path = f"/api/threads/{thread}/context"
            found = proved(await server.service.store.read(thread), server.service.engine)
            chat = next(each for _, each, _ in found if each.startswith("chat"))
            assert {each for _, each, _ in found} == {"", "plan1", "plan1/1.1", chat}
            for agent in ("plan1", "plan1/1.1", chat):
                status, shown = await server.call("GET", path, params={"agent": agent, "step": "1"})
                assert status == 200
                assert shown == IsPartialDict(agent=agent, run=run, step=1, proved=True)
                assert shown["seq"] == found[run, agent, 1].seq
            own = (await server.call("GET", path))[1]
            assert (own["proved"], "agent" in own) == (True, False)
            for query, code, field in (
                ({"agent": "nobody"}, 404, "agent"),
                ({"agent": "plan1", "step": "99"}, 404, "step"),
                ({"agent": "x" * 501}, 422, "agent"),
            ):
                status, body = await server.call("GET", path, params=query)
                assert (status, body["error"]["field"]) == (code, field), query
            assert "plan1, plan1/1.1" in (await server.call("GET", f"{path}?agent=nobody"))[1]["error"]["message"]

    asyncio.run(main())


def test_a_fact_is_pinned_shown_to_the_model_listed_and_removed(tmp_path: Path) -> None:
    async def work(server: Server, endpoint: Endpoint) -> None:
        thread = await server.thread()
        path = f"/api/threads/{thread}/pins"
        assert await server.call("GET", path) == (200, {"pins": []})
        pinned = {"id": IsStr(regex="[0-9a-f]{12}"), "text": "The code is 4711."}
        status, answer = await server.call("POST", path, json={"text": "The code is 4711."})
        assert (status, answer) == (201, pinned)
        assert (await server.call("POST", path, json={"text": "The code is 4711."})) == (201, answer)
        assert await server.call("GET", path) == (200, {"pins": [answer]})
        await server.say(thread, "What is the code?")
        assert "4711" in endpoint.requests[0].body["messages"][0]["content"]
        assert await server.call("DELETE", f"{path}/{answer['id']}") == (204, "")
        await server.say(thread, "And now?")
        assert "4711" not in endpoint.requests[1].body["messages"][0]["content"]
        status, body = await server.call("DELETE", f"{path}/{answer['id']}")
        assert (status, body["error"]["field"]) == (404, "pin")
        for wrong in ({}, {"text": ""}, {"text": " "}, {"text": "x" * 4001}, {"text": "a\0"}, {"text": 7}):
            status, body = await server.call("POST", path, json=wrong)
            assert (status, body["error"]["field"]) == (422, "text"), wrong

    with_server(tmp_path, [text("4711"), text("no")], work)


def test_an_answer_of_a_given_form_is_json_text(tmp_path: Path) -> None:
    async def work(server: Server, endpoint: Endpoint) -> None:
        thread = await server.thread()
        frames = await server.say(thread, "1 + 2?", output=FORM)
        stored = [frame.body["event"] for frame in frames if "offset" not in frame.body]
        assert stored[0]["spec"]["output"]["name"] == "Sum"
        assert [each["message"]["content"] for each in stored if each["type"] == "message_ended"] == ['{"total":3}']
        assert stored[-1] == {"type": "run_ended", "reason": "answer"}
        assert "Sum" in [each["function"]["name"] for each in endpoint.requests[0].body["tools"]]
        frames = await server.say(thread, "And 2 + 3?", output=FORM)
        assert frames[-1].body["event"] == IsPartialDict(reason="failed", cause="invalid_output")

    replies = [
        tool_calls(("a", "Sum", ['{"total": 3}'])),
        tool_calls(("b", "Sum", ['{"total": "many"}'])),
        text("five"),
    ]
    with_server(tmp_path, replies, work)


def test_a_form_that_is_none_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"type": "object"},
        {"title": "T", "type": "string"},
        {**FORM, "title": "calculate"},
        {**FORM, "title": "recall"},
        {**FORM, "description": "x" * 70_000},
    ]

    async def work(server: Server, _: Endpoint) -> None:
        for form in wrong:
            status, body = await server.call("POST", "/api/messages", json={"content": "hi", "output": form})
            assert (status, body["error"]["field"]) == (422, "output"), form
        assert (await server.call("GET", "/api/threads"))[1]["threads"] == []

    with_server(tmp_path, [], work)


def test_an_image_that_should_not_be_kept_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    async def work(server: Server, _: Endpoint) -> None:
        good = {"url": picture(640, 480)}
        for bad in (picture(40_000, 30_000), "data:image/png;base64,", "data:image/png,abc", "http://x.test/y.png"):
            body = {"content": "Look", "images": [good, {"url": bad}]}
            status, answer = await server.call("POST", "/api/messages", json=body)
            assert (status, answer["error"]["field"]) == (422, "images.1.url"), bad
        assert (await server.call("GET", "/api/threads"))[1]["threads"] == []

    with_server(tmp_path, [], work)


def test_the_pixels_of_an_image_are_bounded_by_the_setting(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, multimodal={"image": {"max_pixels": 1000}}) as server:
            body = {"content": "Look", "images": [{"url": picture(40, 30)}]}
            status, answer = await server.call("POST", "/api/messages", json=body)
            assert (status, answer["error"]["field"]) == (422, "images.0.url")
            assert "1,000" in answer["error"]["message"]

    asyncio.run(main())
