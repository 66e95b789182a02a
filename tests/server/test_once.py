"""What people send twice under one idempotency key happens once: answers, steering, forks."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.endpoint import Endpoint, Reply, chunk, ending, stream, text, tool_calls
from tests.support.server import Server, scripted, serving

ASK: dict[str, Any] = {"approvals": {"rules": [{"decision": "ask", "tool": "calculate"}]}}


def calls(*queries: str) -> Reply:
    return tool_calls(*((f"c{n}", "calculate", [json.dumps({"query": each})]) for n, each in enumerate(queries)))


async def stored(server: Server, thread: str) -> list[dict[str, Any]]:
    return (await server.call("GET", f"/api/threads/{thread}/events"))[1]["events"]


async def count(server: Server, thread: str, type: str) -> int:
    return Counter(each["event"]["type"] for each in await stored(server, thread))[type]


async def post(server: Server, path: str, body: Any, key: str = "k") -> tuple[int, Any]:
    return await server.call("POST", path, json=body, headers=server.headers(**{"idempotency-key": key}))


async def refused(server: Server, path: str, body: Any) -> bool:
    """Tell whether another body under the same key is refused."""
    status, answer = await post(server, path, body)
    return (status, answer["error"]["field"]) == (409, "Idempotency-Key")


def test_an_answer_that_is_sent_again_decides_once_and_names_the_same_run(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([calls("1+1"), text("done")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), **ASK) as server,
        ):
            thread = await server.thread()
            run = await server.start(thread, "go")
            watching = await server.follow(thread, str(run - 1), run)
            await watching.until("run_waiting")
            (question,) = (await server.call("GET", f"/api/threads/{thread}/questions"))[1]["questions"]
            path = f"/api/threads/{thread}/questions/{question['seq']}/answer"
            made = await asyncio.gather(*(post(server, path, {"decision": "approve"}) for _ in range(5)))
            assert [status for status, _ in made] == [202] * 5
            assert {answer["run"] for _, answer in made} == {run}
            assert sorted(answer["repeated"] for _, answer in made) == [False, True, True, True, True]
            await watching.rest()
            status, late = await post(server, path, {"decision": "approve"})
            assert (status, late["run"], late["repeated"]) == (202, run, True)
            assert await refused(server, path, {"decision": "deny"})
            assert await count(server, thread, "answered") == 1

    asyncio.run(main())


def test_an_answer_after_the_end_that_is_sent_again_begins_one_run(tmp_path: Path) -> None:
    async def main() -> None:
        asked = tool_calls(("c", "ask_human", [json.dumps({"question": "Which?"})]))
        async with (
            Endpoint([asked, text("Thanks.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), tools={"ask_human": {"enabled": True}}) as server,
        ):
            thread = await server.thread()
            run = await server.start(thread, "go", people=False, tools=["ask_human"])
            await server.ended(thread, run)
            (question,) = (await server.call("GET", f"/api/threads/{thread}/questions"))[1]["questions"]
            path = f"/api/threads/{thread}/questions/{question['seq']}/answer"
            body = {"decision": "answer", "text": "The blue one."}
            first, second = [await post(server, path, body) for _ in range(2)]
            assert first[1]["run"] == second[1]["run"] > run
            assert (first[1]["repeated"], second[1]["repeated"]) == (False, True)
            await server.ended(thread, first[1]["run"])
            assert await count(server, thread, "run_started") == 2

    asyncio.run(main())


def test_what_is_said_twice_to_a_run_under_one_key_is_heard_once(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        async with (
            Endpoint([stream(chunk(content="one"), held, *ending()), text("two")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            thread = await server.thread()
            run = await server.start(thread, "go")
            await endpoint.request(0)
            path = f"/api/threads/{thread}/runs/{run}/steer"
            made = await asyncio.gather(*(post(server, path, {"content": "and?"}) for _ in range(5)))
            assert {(status, answer["run"]) for status, answer in made} == {(202, run)}
            assert len({answer["steered"] for _, answer in made}) == 1
            assert sorted(answer["repeated"] for _, answer in made) == [False, True, True, True, True]
            held.set()
            await server.ended(thread, run)
            assert (await post(server, path, {"content": "and?"}))[1]["repeated"] is True
            assert await refused(server, path, {"content": "or?"})
            assert await count(server, thread, "steered") == 1

    asyncio.run(main())


def test_a_fork_and_a_regeneration_that_are_asked_for_again_make_one_thread_each(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [text("one"), text("two"), text("three"), text("four")]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            run = await server.start(thread, "hi")
            await server.ended(thread, run)
            path, again = f"/api/threads/{thread}/fork", f"/api/threads/{thread}/regenerate"
            body = {"at": 2, "edit": {"content": "ho"}}
            made = await asyncio.gather(*(post(server, path, body) for _ in range(5)))
            assert {(status, answer["run"]) for status, answer in made} == {(202, run)}
            (fork,) = {answer["thread"] for _, answer in made}
            assert sorted(answer["repeated"] for _, answer in made) == [False, True, True, True, True]
            assert await refused(server, path, {"at": 1})
            await server.ended(fork, run)
            regenerated = [await post(server, again, None) for _ in range(2)]
            (other,) = {answer["thread"] for _, answer in regenerated}
            await server.ended(other, run)
            listed = (await server.call("GET", "/api/threads"))[1]["threads"]
            assert {each["id"] for each in listed} == {thread, fork, other}
            assert len(endpoint.requests) == 3
            # The key goes with the thread that it made.
            assert (await server.call("DELETE", f"/api/threads/{fork}"))[0] == 204
            status, new = await post(server, path, {"at": 1})
            assert (status, new["repeated"]) == (202, False)
            await server.ended(new["thread"], run)

    asyncio.run(main())
