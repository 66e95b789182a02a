"""A person talks over HTTP with a front while a plan works: asked, told more, and stopped after a confirmation."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.support.endpoint import Endpoint
from tests.support.front import Model
from tests.support.server import Server, Stream, scripted, serving


async def steer(server: Server, thread: str, run: int, content: str) -> None:
    body = {"content": content, "while_running": "steer"}
    status, ref = await server.call("POST", f"/api/threads/{thread}/messages", json=body)
    assert (status, ref["run"], "steered" in ref) == (202, run, True)


async def said_by_front(stream: Stream) -> str:
    """Return what the front says next."""
    while True:
        added = (await stream.until("message_added"))[-1].body
        if not added.get("path") and added["event"].get("source") == "engine":
            return added["event"]["message"]["content"]


async def ended(stream: Stream) -> dict[str, Any]:
    return (await stream.until("run_ended"))[-1].body["event"]


async def begin(server: Server) -> tuple[str, int, Stream]:
    """Start a task and return once somebody works on it."""
    thread = await server.thread()
    run = await server.start(thread, "Count the pens.", engine="interaction", plan={"fast_path": False})
    stream = await server.follow(thread, str(run - 1), run)
    while (await stream.until("task_started"))[-1].body.get("path") != "plan1/1.1":
        pass
    return thread, run, stream


def test_a_question_is_answered_and_a_detail_passed_on_while_the_work_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        model = Model()
        async with Endpoint(model) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread, run, stream = await begin(server)
            await steer(server, thread, run, "How far is it?")
            assert await said_by_front(stream) == "It is at: True."
            assert (await server.call("GET", f"/api/threads/{thread}"))[1]["run"] == run
            await steer(server, thread, run, "Also the pencils.")
            told = (await stream.until("steered"))[-1].body
            while told.get("path") != "plan1":
                told = (await stream.until("steered"))[-1].body
            assert told["event"]["message"]["content"] == "Also the pencils."
            model.held.set()
            assert (await ended(stream))["reason"] == "answer"
            shown = (await server.call("GET", f"/api/threads/{thread}/plan"))[1]["plan"]
            assert [(each["name"], each["status"]) for each in shown["tasks"]] == [
                ("count", "SUCCESS"),
                ("pencils", "SUCCESS"),
            ]

    asyncio.run(main())


def test_an_exit_stops_the_work_only_after_a_yes(tmp_path: Path) -> None:
    async def main() -> None:
        model = Model()
        async with Endpoint(model) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread, run, stream = await begin(server)
            for decision in ("deny", "approve"):
                await steer(server, thread, run, "Stop it.")
                asked = (await stream.until("asked"))[-1].body
                assert (asked["event"]["kind"], "no use any more" in asked["event"]["text"]) == ("confirm", True)
                assert (await server.call("GET", f"/api/threads/{thread}"))[1]["run"] == run
                path = f"/api/threads/{thread}/questions/{asked['seq']}/answer"
                assert (await server.call("POST", path, json={"decision": decision}))[0] == 202
            end = await ended(stream)
            assert (end["reason"], end["cause"]) == ("cancelled", "exit")
            shown = (await server.call("GET", f"/api/threads/{thread}/plan"))[1]["plan"]
            assert [each["conclusion"] for each in shown["tasks"]] == [None]

    asyncio.run(main())
