"""The limits of an API key over HTTP: what all of its runs may use together."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from stepwell.specs import Limits
from stepwell.store.keys import issue
from tests.support.endpoint import Cut, Endpoint, Reply, chunk, stream, text, tool_calls
from tests.support.server import Server, scripted, serving

PRICED: dict[str, Any] = {"price_input": 0, "price_output": 1000, "max_output": 1000, "window": 100_000}
"""A reply costs 0.001 for each of its tokens, 1 at most."""


def calls(query: str, used: tuple[int, int]) -> Reply:
    return tool_calls(("c", "calculate", [json.dumps({"query": query})]), tokens_used=used)


async def limited(server: Server, limits: Limits) -> dict[str, str]:
    """Return headers with a new key of the server's owner that has limits."""
    return {"authorization": f"Bearer {await issue(server.service.store, 'ada', limits)}"}


async def say(server: Server, key: dict[str, str], content: str = "go", **fields: Any) -> tuple[int, Any]:
    return await server.call("POST", "/api/messages", headers=key, json={"content": content, **fields})


async def end_of(server: Server, ref: dict[str, Any]) -> dict[str, Any]:
    return (await server.ended(ref["thread"], ref["run"]))[-1].body["event"]


def test_a_run_that_reaches_its_keys_money_ends_and_the_key_gets_no_more(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [calls("1+1", (10, 900)), text("never", tokens_used=(10, 900))]
        async with (
            Endpoint(replies) as endpoint,
            serving(tmp_path, auth="keys", models=scripted(endpoint, **PRICED)) as server,
        ):
            poor, other = await limited(server, Limits(money=1.1)), await limited(server, Limits(money=5))
            status, ref = await say(server, poor)
            assert status == 202
            end = await end_of(server, ref)
            assert (end["reason"], end["cause"]) == ("limit", "key_money")
            assert len(endpoint.requests) == 1
            # 0.2 is left, which pays for fewer tokens than a reply is worth asking for.
            end = await end_of(server, (await say(server, poor))[1])
            assert (end["reason"], end["cause"]) == ("limit", "key_money")
            assert (await end_of(server, (await say(server, other))[1]))["reason"] == "answer"

    asyncio.run(main())


def test_a_key_over_its_limit_gets_429_with_the_reason_for_messages_forks_and_new_runs(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [text("one", tokens_used=(60, 40)), text("two")]
        async with (
            Endpoint(replies) as endpoint,
            serving(tmp_path, auth="keys", models=scripted(endpoint)) as server,
        ):
            key = await limited(server, Limits(tokens=100))
            once = {**key, "idempotency-key": "k"}
            status, ref = await say(server, once)
            await end_of(server, ref)
            thread = ref["thread"]
            # What was accepted before and is sent again is no new run.
            assert await say(server, once) == (202, {**ref, "repeated": True})
            for path, body in (
                ("/api/messages", {"content": "go"}),
                (f"/api/threads/{thread}/messages", {"content": "go"}),
                (f"/api/threads/{thread}/fork", {"at": 2}),
                (f"/api/threads/{thread}/regenerate", None),
            ):
                status, answer = await server.call("POST", path, headers=key, json=body)
                assert status == 429, path
                assert "The limit of tokens of this API key is used up" in answer["error"]["message"]
            # What is forked with another key of the owner goes on its account.
            status, again = await server.call("POST", f"/api/threads/{thread}/regenerate")
            assert status == 202
            assert (await end_of(server, again))["reason"] == "answer"
            assert len((await server.call("GET", "/api/threads"))[1]["threads"]) == 2

    asyncio.run(main())


def test_the_seconds_of_runs_that_ended_count_at_once_also_of_those_that_were_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([stream(chunk(content="one"), Cut.STALL)]) as endpoint,
            serving(tmp_path, auth="keys", models=scripted(endpoint)) as server,
        ):
            key = await limited(server, Limits(seconds=0.001))
            status, ref = await say(server, key)
            assert status == 202
            await endpoint.request(0)
            watching = await server.follow(ref["thread"], "0", ref["run"])
            await watching.until("message_started")
            path = f"/api/threads/{ref['thread']}/runs/{ref['run']}/cancel"
            assert (await server.call("POST", path, headers=key))[0] == 202
            assert (await end_of(server, ref))["reason"] == "cancelled"
            status, answer = await say(server, key)
            assert (status, "The limit of seconds" in answer["error"]["message"]) == (429, True)

    asyncio.run(main())
