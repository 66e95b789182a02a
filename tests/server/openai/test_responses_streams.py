"""The events of a response: their order, and that a stream can be gone on with at each of them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from stepwell.server import sse
from tests.server.openai.test_responses import at_work
from tests.support.endpoint import Cut, Endpoint, Reply, call_chunk, chunk, ending, stream, text
from tests.support.server import WAIT, Server, Stream

Event = dict[str, Any]
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def beyond(events: list[Event], after: int) -> list[Event]:
    """Return what of a stream lies beyond a number, neighbouring pieces of one text joined."""
    joined: list[Event] = []
    for each in events:
        last, delta = each["sequence_number"], each.get("delta", "")
        if last <= after:
            continue
        if each["type"].endswith("text.delta") and last - len(delta) < after:
            delta = delta[len(delta) - (last - after) :]
        before = joined[-1] if joined else {}
        if "delta" not in each:
            joined.append(each)
        elif (before.get("type"), before.get("item_id")) == (each["type"], each["item_id"]):
            joined[-1] = each | {"delta": before["delta"] + delta}
        else:
            joined.append(each | {"delta": delta})
    return joined


def types(events: list[Event]) -> list[str]:
    return [each["type"].removeprefix("response.") for each in beyond(events, -1)]


def check_numbers(events: list[Event]) -> None:
    numbers = [each["sequence_number"] for each in events]
    assert numbers == sorted(set(numbers))
    assert max(numbers) < 2**53


async def rest(stream: Stream) -> list[Event]:
    frames = [each for each in await stream.rest() if not each.comment]
    for each in frames:
        assert each.event == EVENTS.validate_json(each.data).type
    return [each.body for each in frames]


async def upto(stream: Stream, last: int) -> list[Event]:
    """Read a stream up to the event with a number."""
    found: list[Event] = []
    while not found or found[-1]["sequence_number"] < last:
        frame = await stream.frame()
        assert frame is not None
        found += [frame.body] if not frame.comment else []
    return found


async def follow(server: Server, id: str, after: int | None = None) -> Stream:
    query = "" if after is None else f"&starting_after={after}"
    found = await server.stream("GET", f"/v1/responses/{id}?stream=true{query}")
    assert found.status == 200
    return found


WORK = [
    "created",
    "in_progress",
    "output_item.added",
    "reasoning_summary_part.added",
    "reasoning_summary_text.delta",
    "reasoning_summary_text.done",
    "reasoning_summary_part.done",
    "output_item.done",
    "output_item.added",
    "content_part.added",
    "output_text.delta",
    "output_text.done",
    "content_part.done",
    "output_item.done",
    "output_item.added",
    "mcp_call.in_progress",
    "mcp_call_arguments.delta",
    "mcp_call_arguments.done",
    "mcp_call.completed",
    "output_item.done",
    "output_item.added",
    "content_part.added",
    "output_text.delta",
    "output_text.done",
    "content_part.done",
    "output_item.done",
    "completed",
]


def works(*gates: asyncio.Event) -> list[Reply]:
    """Return replies that think, speak, calculate and answer; each stops before a gate."""
    first, second = gates
    return [
        stream(
            chunk(role="assistant", content=""),
            *(chunk(reasoning_content=each) for each in ("Let ", "me 🤔", " see.")),
            *(chunk(content=each) for each in ("I'll ", "work")),
            first,
            chunk(content=" it out"),
            call_chunk(0, "c1", "calculate", ""),
            call_chunk(0, arguments='{"query": "6*7"}'),
            *ending("tool_calls", (10, 5)),
        ),
        stream(
            chunk(role="assistant", content=""),
            *(chunk(content=each) for each in ("It is ", "forty", "-two 🎉")),
            second,
            chunk(content=", of course."),
            *ending("stop", (20, 6)),
        ),
    ]


def test_a_stream_goes_on_at_each_event_while_it_runs_after_its_end_and_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        gates = asyncio.Event(), asyncio.Event()
        async with Endpoint(works(*gates)) as endpoint:
            async with at_work(tmp_path, endpoint) as (server, _):
                body = {"model": "stepwell", "input": "6*7?", "stream": True}
                whole = await server.stream("POST", "/v1/responses", body)
                assert whole.headers["content-type"].startswith("text/event-stream")
                seen: list[Event] = []
                waiting: list[tuple[int, list[Event], Stream]] = []
                id = ""
                for gate, held in zip(gates, ("work", "-two 🎉"), strict=True):
                    while not seen or seen[-1].get("delta", "")[-len(held) :] != held:
                        seen += await upto(whole, 0)
                    last, id = seen[-1]["sequence_number"], seen[0]["response"]["id"]
                    for after in (-1, *(each["sequence_number"] for each in seen)):
                        found = await follow(server, id, after)
                        waiting.append((after, await upto(found, last) if after < last else [], found))
                    gate.set()
                seen += await rest(whole)
                for after, begun, found in waiting:
                    got = [*begun, *await rest(found)]
                    check_numbers(got)
                    assert beyond(got, after) == beyond(seen, after), after
                check_numbers(seen)
                assert types(seen) == WORK
                await check_every(server, id, seen)
            async with at_work(tmp_path, endpoint) as (server, client):
                await check_every(server, id, seen)
                stored = await client.responses.retrieve(id)
                assert [each.to_dict() for each in stored.output] == seen[-1]["response"]["output"]
                assert stored.output_text == "I'll work it outIt is forty-two 🎉, of course."
                assert [each.type for each in stored.output] == ["reasoning", "message", "mcp_call", "message"]

    asyncio.run(main())


async def check_every(server: Server, id: str, seen: list[Event]) -> None:
    """Go on at every event and at every character of a text of a response that is over."""
    numbers = {-1, 0, *(each["sequence_number"] for each in seen)}
    for each in seen:
        if each["type"].endswith("text.delta"):
            last = each["sequence_number"]
            numbers.update(range(last - len(each["delta"]), last))
    for after in sorted(numbers):
        got = await rest(await follow(server, id, after))
        assert beyond(got, after) == beyond(seen, after), after


def test_the_official_client_reads_the_stream_and_goes_on_with_it(tmp_path: Path) -> None:
    async def main() -> None:
        gates = asyncio.Event(), asyncio.Event()
        for gate in gates:
            gate.set()
        async with Endpoint(works(*gates)) as endpoint, at_work(tmp_path, endpoint) as (_, client):
            async with client.responses.stream(model="stepwell", input="6*7?") as events:
                said = "".join([each.delta async for each in events if each.type == "response.output_text.delta"])
                final = await events.get_final_response()
            assert said == final.output_text == "I'll work it outIt is forty-two 🎉, of course."
            call = final.output[2]
            assert call.type == "mcp_call"
            assert (call.name, call.arguments, call.output) == ("calculate", '{"query": "6*7"}', "42")
            whole = [each async for each in await client.responses.retrieve(final.id, stream=True)]
            for at, each in enumerate(whole):
                after = each.sequence_number
                more = [
                    each async for each in await client.responses.retrieve(final.id, stream=True, starting_after=after)
                ]
                assert [each.to_dict() for each in more] == [each.to_dict() for each in whole[at + 1 :]]
            async with client.responses.stream(response_id=final.id, starting_after=whole[3].sequence_number) as events:
                again = [each.type async for each in events]
            assert again == [each.type for each in whole[4:]]

    asyncio.run(main())


def test_closing_the_stream_stops_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        reply = stream(chunk(role="assistant", content="a"), gate, chunk(content="b"), *ending())
        async with Endpoint([reply]) as endpoint, at_work(tmp_path, endpoint) as (server, client):
            events = await client.responses.create(model="m", input="x", stream=True)
            first = await anext(aiter(events))
            assert first.type == "response.created"
            await events.close()
            assert (await client.responses.retrieve(first.response.id)).status == "in_progress"
            followed = await follow(server, first.response.id)
            gate.set()
            assert (await rest(followed))[-1]["response"]["output"][0]["content"][0]["text"] == "ab"

    asyncio.run(main())


def test_closing_the_stream_of_what_is_not_stored_ends_its_run(tmp_path: Path) -> None:
    async def main() -> None:
        reply = stream(chunk(role="assistant", content="a"), Cut.STALL)
        async with Endpoint([reply]) as endpoint, at_work(tmp_path, endpoint) as (server, client):
            events = await client.responses.create(model="m", input="x", stream=True, store=False)
            first = await anext(aiter(events))
            _, thread, run = first.response.id.split("_")
            followed = await server.follow(thread, "0", int(run))
            await followed.until("message_started")
            await events.close()
            assert (await followed.until("run_ended"))[-1].body["event"]["reason"] == "cancelled"

    asyncio.run(main())


def test_a_reply_that_breaks_off_ends_the_stream_as_failed(tmp_path: Path) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        broken = stream(chunk(role="assistant", content="Hel"), gate, Cut.RESET)
        async with Endpoint([broken]) as endpoint, at_work(tmp_path, endpoint) as (server, client):
            whole = await server.stream("POST", "/v1/responses", {"model": "m", "input": "x", "stream": True})
            seen: list[Event] = []
            while not seen or "delta" not in seen[-1]:
                seen += await upto(whole, 0)
            gate.set()
            seen += await rest(whole)
            assert types(seen)[-4:] == ["output_text.done", "content_part.done", "output_item.done", "failed"]
            response = seen[-1]["response"]
            assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
            assert response["output"][0]["status"] == "incomplete"
            again = await client.responses.retrieve(response["id"])
            assert again.status == "failed"
            await check_every(server, response["id"], seen)

    asyncio.run(main())


def test_a_stream_goes_on_after_the_server_stopped_in_the_middle_of_a_reply(tmp_path: Path) -> None:
    async def main() -> None:
        cut = stream(chunk(role="assistant", content="", reasoning_content="hm"), chunk(content="Hel"), Cut.STALL)
        async with Endpoint([cut, text("Hel", "lo.", thinking=["hm"])]) as endpoint:
            seen: list[Event] = []
            async with at_work(tmp_path, endpoint) as (server, _):
                whole = await server.stream("POST", "/v1/responses", {"model": "m", "input": "x", "stream": True})
                while not seen or seen[-1]["type"] != "response.output_text.delta":
                    seen += await upto(whole, 0)
            id = seen[0]["response"]["id"]
            async with at_work(tmp_path, endpoint) as (server, client):
                again = [await rest(await follow(server, id, each["sequence_number"])) for each in seen]
                everything = await rest(await follow(server, id))
                for before, got in zip(seen, again, strict=True):
                    after = before["sequence_number"]
                    assert beyond(got, after) == beyond(everything, after)
                assert again[-1][-1]["type"] == "response.completed"
                assert (await client.responses.retrieve(id)).output_text == "Hello."
                await check_every(server, id, everything)

    asyncio.run(main())


async def followed(server: Server, threads: int) -> None:
    """Wait until there are so many threads and somebody follows the newest."""
    async with asyncio.timeout(WAIT):
        while len(found := await server.service.threads("local")) < threads:
            await server.call("GET", "/health")
        async with server.service.using("local", found[0].id) as log:
            while log.channel.readers < 2:
                await server.call("GET", "/health")


def test_a_server_that_stops_says_so_and_the_stream_goes_on_from_there(tmp_path: Path) -> None:
    async def main() -> None:
        cut = stream(chunk(role="assistant", content="Hel"), Cut.STALL)
        async with Endpoint([cut, cut, text("Hello."), text("Hello.")]) as endpoint:
            async with at_work(tmp_path, endpoint) as (server, _):
                ask = {"model": "m", "input": "x"}
                whole = await server.stream("POST", "/v1/responses", ask | {"stream": True})
                seen: list[Event] = []
                while not seen or seen[-1]["type"] != "response.output_text.delta":
                    seen += await upto(whole, 0)
                waiting = asyncio.ensure_future(server.stream("POST", "/v1/responses", ask))
                await followed(server, 2)
                await server.listening.shutdown([])
                (error,) = await rest(whole)
                told = await waiting
                refused = json.loads(await told.content())["error"]
            assert (error["type"], error["sequence_number"]) == ("error", seen[-1]["sequence_number"])
            id = seen[0]["response"]["id"]
            assert id in error["message"]
            assert (told.status, told.headers["x-should-retry"], refused["code"]) == (503, "false", "interrupted")
            other = f"resp_{told.headers['x-stepwell-thread']}_{told.headers['x-stepwell-run']}"
            assert other in refused["message"]
            async with at_work(tmp_path, endpoint) as (server, client):
                again = await rest(await follow(server, id, error["sequence_number"]))
                assert again[0]["sequence_number"] > error["sequence_number"]
                assert again[-1]["response"]["output"][0]["content"][0]["text"] == "Hello."
                await rest(await follow(server, other))
                assert (await client.responses.retrieve(other)).output_text == "Hello."

    asyncio.run(main())


def test_a_response_whose_key_is_revoked_is_not_answered_as_if_it_were_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "RECHECK", 0.0)

    async def main() -> None:
        held = asyncio.Event()
        cut = Reply([chunk(content="Hel"), held, *ending()])
        async with Endpoint([cut]) as endpoint, at_work(tmp_path, endpoint, auth="keys") as (server, _):
            asking = asyncio.ensure_future(server.call("POST", "/v1/responses", json={"model": "m", "input": "x"}))
            await endpoint.request(0)
            assert await server.service.store.revoke_api_key(server.key.split("_")[1], 1)
            while not asking.done():
                server.service.beat()
                await server.call("GET", "/health")
            status, body = await asking
            assert (status, body["error"]["code"]) == (503, "interrupted")
            held.set()

    asyncio.run(main())


def test_a_number_that_no_event_has_yet_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("Hello.")]) as endpoint, at_work(tmp_path, endpoint) as (server, client):
            made = await client.responses.create(model="m", input="x")
            last = (await rest(await follow(server, made.id)))[-1]["sequence_number"]
            assert await rest(await follow(server, made.id, last)) == []
            path = f"/v1/responses/{made.id}?stream=true&starting_after="
            status, body = await server.call("GET", f"{path}{last + 1}")
            assert (status, body["error"]["param"]) == (400, "starting_after")

    asyncio.run(main())


def test_a_reply_in_words_is_told_alike_while_it_comes_and_afterwards(tmp_path: Path) -> None:
    replies = [
        text("Thought: I should ", "calculate.\nAction: calculate\nAction ", 'Input: {"query": "6*7"}\n'),
        text("Thought: now I ", "know.\nFinal ", "Answer: It is ", "42."),
        text("\nJust ", "words.\n"),
    ]

    async def main() -> None:
        async with (
            Endpoint(replies) as endpoint,
            at_work(tmp_path, endpoint, {"dialect": "react"}) as (server, _),
        ):
            for _ in ("a form", "none"):
                body = {"model": "stepwell", "input": "6*7?", "stream": True}
                seen = await rest(await server.stream("POST", "/v1/responses", body))
                assert seen[-1]["type"] == "response.completed"
                await check_every(server, seen[-1]["response"]["id"], seen)
            kinds = [each["type"] for each in seen[-1]["response"]["output"]]
            assert kinds == ["reasoning", "message"]

    asyncio.run(main())
