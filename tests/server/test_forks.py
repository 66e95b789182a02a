"""The native API for forks, and for plans as trees."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.support.endpoint import Endpoint, Reply, Request, text, tool_calls
from tests.support.server import Server, scripted, serving


def calls(**queries: str) -> Reply:
    return tool_calls(*((id, "calculate", [json.dumps({"query": each})]) for id, each in queries.items()))


async def stored(server: Server, thread: str) -> list[dict[str, Any]]:
    return (await server.call("GET", f"/api/threads/{thread}/events"))[1]["events"]


def number_of(events: list[dict[str, Any]], type: str) -> int:
    return next(each["seq"] for each in events if each["event"]["type"] == type)


def said(request: Request) -> list[str | None]:
    return [each["content"] for each in request.body["messages"][1:]]


def test_a_fork_reuses_what_came_before_and_asks_only_for_what_comes_after(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [calls(a="6*7"), text("42"), text("43"), text("84"), text("again")]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread("Sums")
            run = await server.start(thread, "6*7?")
            await server.ended(thread, run)
            events = await stored(server, thread)
            path = f"/api/threads/{thread}/fork"
            at = number_of(events, "tool_ended")
            forked = await server.stream("POST", path, {"at": at, "edit": {"result": "43"}, "title": "Fork"})
            frames = await forked.rest()
            assert frames[-1].type == "run_ended"
            assert said(await endpoint.request(2)) == ["6*7?", None, "43"]
            new = forked.headers["x-stepwell-thread"]
            shown = (await server.call("GET", f"/api/threads/{new}"))[1]
            assert (shown["title"], shown["parent"]) == ("Fork", {"thread": thread, "at": at})
            assert (await server.call("GET", f"/api/threads/{thread}"))[1]["parent"] is None
            assert await stored(server, thread) == events

            body = {"at": number_of(events, "message_ended"), "edit": {"arguments": {"query": "12*7"}}}
            status, ref = await server.call("POST", path, json=body)
            assert (status, ref["run"], ref["thread"] != thread) == (202, run, True)
            await server.ended(ref["thread"], run)
            assert said(await endpoint.request(3))[-1] == "84"

            status, again = await server.call("POST", f"/api/threads/{thread}/regenerate")
            assert status == 202
            await server.ended(again["thread"], run)
            assert said(await endpoint.request(4)) == ["6*7?"]

            status, diff = await server.call("GET", f"/api/threads/{thread}/diff/{new}")
            assert (status, diff["common"]) == (200, at - 1)
            assert [each["text"] for each in diff["one"]] == ["42", "42"]
            assert [each["text"] for each in diff["other"]] == ["43", "43"]

    asyncio.run(main())


def test_a_fork_goes_on_with_another_model_under_the_old_wishes(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("one"), text("two")]) as endpoint:
            models = {**scripted(endpoint), **scripted(endpoint, "n", model="other")}
            async with serving(tmp_path, models=models, default_model="m") as server:
                thread = await server.thread()
                await server.ended(thread, await server.start(thread, "hi", system="Be brief.", temperature=0.5))
                path = f"/api/threads/{thread}/fork"
                status, ref = await server.call("POST", path, json={"at": 2, "model": "n"})
                assert status == 202
                await server.ended(ref["thread"], ref["run"])
                sent = (await endpoint.request(1)).body
                assert (sent["model"], sent["temperature"]) == ("other", 0.5)
                assert sent["messages"][0]["content"] == "Be brief."
                status, answer = await server.call("POST", path, json={"at": 2, "model": "nope"})
                assert (status, answer["error"]["field"]) == (422, "model")

    asyncio.run(main())


def test_a_fork_that_cannot_be_is_refused_by_its_field(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([calls(a="1+1", b="2+2"), text("done")]) as endpoint,
            serving(tmp_path, auth="off", models=scripted(endpoint)) as server,
        ):
            thread = await server.thread()
            await server.ended(thread, await server.start(thread, "go"))
            events = await stored(server, thread)
            path, reply = f"/api/threads/{thread}/fork", number_of(events, "message_ended")
            for body, status, field in (
                ({"at": len(events) + 1}, 422, "at"),
                ({"at": 1, "edit": {"content": "x"}}, 422, "edit.content"),
                ({"at": 2, "edit": {"result": "x"}}, 422, "edit.result"),
                ({"at": 2, "edit": {"content": ""}}, 422, "edit.content"),
                ({"at": reply, "edit": {"arguments": {}}}, 422, "edit.call"),
                ({"at": reply, "edit": {"arguments": "{", "call": "a"}}, 422, "edit.arguments"),
                ({"at": reply, "edit": {"arguments": {"q": "\ud800"}, "call": "a"}}, 422, "edit.arguments"),
                ({"at": 2, "edit": {"content": "x", "result": "y"}}, 422, "edit"),
            ):
                found, answer = await server.call("POST", path, json=body)
                assert (found, answer["error"]["field"]) == (status, field), body
            before = (await server.call("GET", "/api/threads"))[1]["threads"]
            assert len(before) == 1
            foreign = "0" * 32
            for method, where in (
                ("POST", f"/api/threads/{foreign}/fork"),
                ("POST", f"/api/threads/{foreign}/regenerate"),
                ("GET", f"/api/threads/{thread}/diff/{foreign}"),
                ("GET", f"/api/threads/{foreign}/diff/{thread}"),
            ):
                found, answer = await server.call(method, where, json={"at": 1})
                assert (found, answer["error"]["field"]) == (404, "thread")
            empty = await server.thread()
            found, answer = await server.call("POST", f"/api/threads/{empty}/regenerate")
            assert (found, answer["error"]["field"]) == (404, "run")

    asyncio.run(main())


def one(name: str, **arguments: object) -> Reply:
    return tool_calls((f"call_{name}", name, [json.dumps(arguments)]))


def test_the_newest_plan_is_a_tree_with_what_each_task_came_to(tmp_path: Path) -> None:
    async def main() -> None:
        ended = {"status": "success", "reached_goals": [], "failed_goals": []}
        replies = [
            one(
                "generate_plan",
                subtasks=[{"name": "look", "goal": "g1"}, {"name": "do", "goal": "g2", "needs": ["look"]}],
            ),
            one("subtask_submit", submit_type="success", result="seen"),
            one("conclusion", summary="I looked.", reply="", **ended),
            one("subtask_submit", submit_type="give_up", result="stuck"),
            one("conclusion", summary="It did not work.", reply="", **ended),
            one("conclusion", summary="Half.", reply="Half of it.", **ended),
        ]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            run = await server.start(thread, "Do it.", engine="plan", plan={"max_chain_length": 3})
            await server.ended(thread, run)
            status, shown = await server.call("GET", f"/api/threads/{thread}/plan")
            assert (status, shown["run"]) == (200, run)
            first, second = shown["plan"]["tasks"]
            assert (shown["plan"]["id"], first["id"], first["name"], first["goal"]) == ("1", "1.1", "look", "g1")
            assert (first["status"], first["submission"]["result"]) == ("SUCCESS", "seen")
            assert first["conclusion"]["summary"] == "I looked."
            assert (second["needs"], second["submission"]["submit_type"]) == (["1.1"], "give_up")
            events = await stored(server, thread)
            spec = next(each["event"]["spec"] for each in events if each["event"]["type"] == "run_started")
            assert (spec["engine"], spec["tasks"]["max_chain_length"]) == ("plan", 3)

    asyncio.run(main())
