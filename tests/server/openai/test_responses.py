"""Responses as the official client makes, reads, goes on with and removes them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.support.endpoint import Endpoint, Reply, Request, chunk, ending, stream, text, tool_calls
from tests.support.openai_client import official
from tests.support.server import Server, scripted, serving

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather of a place.",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
    "AABJRU5ErkJggg=="
)


@asynccontextmanager
async def at_work(
    folder: Path, endpoint: Endpoint, model: dict[str, Any] | None = None, **settings: Any
) -> AsyncGenerator[tuple[Server, Any]]:
    """Give a server whose models the endpoint serves, and the official client of it."""
    async with serving(folder, models=scripted(endpoint, **(model or {})), **settings) as server:
        async with official(server) as client:
            yield server, client


def asks_weather(*places: str) -> Reply:
    calls = ((f"c{n}", "weather", [json.dumps({"place": each})]) for n, each in enumerate(places))
    return tool_calls(*calls)


def calculates(*queries: str, said: str = "") -> Reply:
    calls = ((f"c{n}", "calculate", [json.dumps({"query": each})]) for n, each in enumerate(queries))
    return tool_calls(*calls, said=said)


def output(item: Any, said: str) -> Any:
    """Return what a client sends for a call."""
    return {"type": "function_call_output", "call_id": item.call_id, "output": said}


async def sent(endpoint: Endpoint, number: int) -> list[Any]:
    """Return the messages of a request without the system's."""
    messages = (await endpoint.request(number)).body["messages"]
    return [(each["role"], each.get("content")) for each in messages if each["role"] != "system"]


def test_a_text_is_answered_and_the_answer_can_be_asked_for_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("for", "ty-two", thinking=["six ", "sevens"], tokens_used=(11, 3))]) as endpoint,
            at_work(tmp_path, endpoint) as (server, client),
        ):
            made = await client.responses.create(
                model="m", input="What is 6*7?", instructions="Be brief.", top_p=0.5, max_output_tokens=50
            )
            assert (made.status, made.output_text, made.model) == ("completed", "forty-two", "m")
            assert (made.instructions, made.top_p, made.max_output_tokens) == ("Be brief.", 0.5, 50)
            assert [each.type for each in made.output] == ["reasoning", "message"]
            assert made.usage is not None
            assert (made.usage.input_tokens, made.usage.output_tokens, made.usage.total_tokens) == (11, 3, 14)
            assert made.error is None
            assert made.previous_response_id is None
            assert (await client.responses.retrieve(made.id)).to_dict() == made.to_dict()
            body = (await endpoint.request(0)).body
            assert (body["top_p"], body["max_tokens"]) == (0.5, 50)
            assert body["messages"] == [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "What is 6*7?"},
            ]
            thread = made.id.split("_")[1]
            assert (await server.call("GET", f"/api/threads/{thread}"))[0] == 200
            info = await server.service.info("local", thread)
            assert info.expires - info.created == pytest.approx(30 * 24 * 3600 * 1000, abs=10_000)

    asyncio.run(main())


def test_a_response_goes_on_in_place_from_the_last_and_in_a_fork_from_an_earlier_one(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [text("one"), text("two"), text("three"), text("four")]
        async with Endpoint(replies) as endpoint, at_work(tmp_path, endpoint) as (_, client):
            first = await client.responses.create(model="m", input="1?")
            second = await client.responses.create(model="m", input="2?", previous_response_id=first.id)
            third = await client.responses.create(model="m", input="3?", previous_response_id=first.id)
            fourth = await client.responses.create(model="m", input="4?", previous_response_id=third.id)
            threads = [each.id.split("_")[1] for each in (first, second, third, fourth)]
            assert threads[0] == threads[1] != threads[2] == threads[3]
            assert [each.previous_response_id for each in (first, second, third, fourth)] == [
                None,
                first.id,
                first.id,
                third.id,
            ]
            assert (
                (await sent(endpoint, 1))[:2] == (await sent(endpoint, 2))[:2] == [("user", "1?"), ("assistant", "one")]
            )
            assert [each[1] for each in await sent(endpoint, 3)] == ["1?", "one", "3?", "three", "4?"]
            for each in (first, second, third, fourth):
                assert (await client.responses.retrieve(each.id)).to_dict() == each.to_dict()

    asyncio.run(main())


def test_many_requests_that_go_on_from_one_response_do_not_mix(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint(lambda request: text(request.body["messages"][-1]["content"].upper())) as endpoint,
            at_work(tmp_path, endpoint) as (_, client),
        ):
            first = await client.responses.create(model="m", input="a")
            made = await asyncio.gather(
                *(client.responses.create(model="m", input=each, previous_response_id=first.id) for each in "bcdef")
            )
            assert [each.output_text for each in made] == list("BCDEF")
            assert {each.previous_response_id for each in made} == {first.id}
            assert len({each.id.split("_")[1] for each in made}) == 5
            lengths = {len(request.body["messages"]) for request in endpoint.requests[1:]}
            assert lengths == {3}

    asyncio.run(main())


class Sum(BaseModel):
    """A sum."""

    total: int
    words: str


@pytest.mark.parametrize("model", ["m", "stepwell"])
def test_an_answer_in_a_form_is_parsed(tmp_path: Path, model: str) -> None:
    wrong, good = '{"total": "many"}', '{"total": 5, "words": "five"}'

    def answers(request: Request) -> Reply:
        tools = request.body.get("tools") or []
        said = good if len(asked) else wrong
        asked.append(said)
        form = next((each["function"]["name"] for each in tools if each["function"]["name"] == "Sum"), "")
        return tool_calls((f"c{len(asked)}", form, [said])) if form else text(said)

    asked: list[str] = []

    async def main() -> None:
        async with Endpoint(answers) as endpoint, at_work(tmp_path, endpoint) as (_, client):
            made = await client.responses.parse(model=model, input="2+3?", text_format=Sum)
            assert made.output_parsed == Sum(total=5, words="five")
            assert len(asked) == 2
            form = made.to_dict()["text"]["format"]
            assert (form["type"], form["name"]) == ("json_schema", "Sum")
            assert len([each for each in made.output if each.type == "message"]) == 1

    asyncio.run(main())


def test_the_input_may_be_a_whole_conversation_and_is_listed(tmp_path: Path) -> None:
    said: list[Any] = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "c9", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c9", "output": [{"type": "input_text", "text": "sun"}]},
        {"type": "message", "role": "assistant", "id": "msg_1", "content": [{"type": "output_text", "text": "Sun."}]},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "And this?"},
                {"type": "input_image", "image_url": PIXEL, "detail": "low"},
            ],
        },
    ]

    async def main() -> None:
        async with (
            Endpoint([text("ok"), text("yes"), text("so")]) as endpoint,
            at_work(tmp_path, endpoint, {"images": True}) as (_, client),
        ):
            made = await client.responses.create(model="m", input=said)
            messages = (await endpoint.request(0)).body["messages"]
            assert [each["role"] for each in messages] == ["system", "user", "assistant", "tool", "assistant", "user"]
            assert messages[0]["content"] == "Be kind."
            assert messages[3]["content"] == "sun"
            assert messages[5]["content"][1]["image_url"]["url"] == PIXEL
            listed = await client.responses.input_items.list(made.id, limit=2)
            kinds = [(each.type, getattr(each, "role", None)) async for each in listed]
            assert kinds == [
                ("message", "user"),
                ("message", "assistant"),
                ("function_call_output", None),
                ("function_call", None),
                ("message", "user"),
            ]
            more: list[Any] = [
                {"type": "item_reference", "id": made.output[0].id},
                {"role": "user", "content": "More."},
            ]
            second = await client.responses.create(model="m", input=more, previous_response_id=made.id)
            (item,) = (await client.responses.input_items.list(second.id)).data
            assert item.content[0].text == "More."
            last = await client.responses.create(
                model="m",
                input=[{"type": "item_reference", "id": second.output[0].id}, {"role": "user", "content": "?"}],
            )
            assert last.output_text == "so"
            assert await sent(endpoint, 2) == [("assistant", "yes"), ("user", "?")]

    asyncio.run(main())


def test_a_history_that_ends_with_results_is_gone_on_with(tmp_path: Path) -> None:
    said: list[Any] = [
        {"role": "user", "content": "Weather?"},
        {"type": "function_call", "call_id": "c9", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c9", "output": "sun"},
    ]

    async def main() -> None:
        async with Endpoint([text("Sun.")]) as endpoint, at_work(tmp_path, endpoint) as (_, client):
            assert (await client.responses.create(model="m", input=said)).output_text == "Sun."
            assert [each[0] for each in await sent(endpoint, 0)] == ["user", "assistant", "tool"]

    asyncio.run(main())


def test_a_response_is_removed_with_its_thread_and_not_with_others(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [text("one"), text("two"), text("three")]
        async with Endpoint(replies) as endpoint, at_work(tmp_path, endpoint) as (_, client):
            first = await client.responses.create(model="m", input="1?")
            second = await client.responses.create(model="m", input="2?", previous_response_id=first.id)
            third = await client.responses.create(model="m", input="3?", previous_response_id=first.id)
            for each in (first, second):
                with pytest.raises(openai.ConflictError) as caught:
                    await client.responses.delete(each.id)
                assert "/api/threads/" in caught.value.message
            await client.responses.delete(third.id)
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(third.id)
            assert (await client.responses.retrieve(second.id)).output_text == "two"

    asyncio.run(main())


def test_what_is_not_to_be_stored_cannot_be_asked_for_and_goes(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("one"), asks_weather("Rome"), text("sun")]) as endpoint,
            at_work(tmp_path, endpoint) as (server, client),
        ):
            made = await client.responses.create(model="m", input="1?", store=False)
            assert made.output_text == "one"
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(made.id)
            with pytest.raises(openai.NotFoundError) as caught:
                await client.responses.create(model="m", input="2?", previous_response_id=made.id)
            assert caught.value.code == "previous_response_not_found"
            said: list[Any] = [{"role": "user", "content": "Weather?"}]
            asked = await client.responses.create(model="m", input=said, tools=[WEATHER], store=False)
            said += [each.to_dict() for each in asked.output] + [output(asked.output[0], "sun")]
            assert (
                await client.responses.create(model="m", input=said, tools=[WEATHER], store=False)
            ).output_text == "sun"
            assert await server.service.purge() == 2

    asyncio.run(main())


def test_what_is_not_to_be_stored_is_refused_in_a_thread_that_is(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("one")]) as endpoint, at_work(tmp_path, endpoint) as (_, client):
            made = await client.responses.create(model="m", input="1?")
            for place in ({"previous_response_id": made.id}, {"conversation": f"conv_{made.id.split('_')[1]}"}):
                with pytest.raises(openai.BadRequestError) as caught:
                    await client.responses.create(model="m", input="secret", store=False, **place)
                assert caught.value.param == "store"

    asyncio.run(main())


def test_an_image_in_what_a_run_waits_for_is_refused_and_not_dropped(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([asks_weather("Rome")]) as endpoint,
            at_work(tmp_path, endpoint, {"images": True}) as (_, client),
        ):
            said = [{"role": "user", "content": "Weather?"}]
            made = await client.responses.create(model="m", input=said, tools=[WEATHER])
            given = output(made.output[0], "") | {"output": [{"type": "input_image", "image_url": PIXEL}]}
            whole = {"input": [*said, made.output[0].to_dict(), given]}
            for more in (whole, {"input": [given], "previous_response_id": made.id}):
                with pytest.raises(openai.BadRequestError) as caught:
                    await client.responses.create(model="m", tools=[WEATHER], **more)
                assert caught.value.param == f"input.[{len(more['input']) - 1}].output"

    asyncio.run(main())


def test_an_output_is_shown_behind_its_call_wherever_it_stands(tmp_path: Path) -> None:
    def call(id: str) -> dict[str, Any]:
        return CALLED | {"call_id": id}

    def out(id: str) -> dict[str, Any]:
        return OUTPUT | {"call_id": id, "output": f"of {id}"}

    async def main() -> None:
        async with Endpoint([text("ok")] * 3) as endpoint, at_work(tmp_path, endpoint) as (_, client):
            said, more = {"role": "user", "content": "x"}, {"role": "assistant", "content": "hm"}
            for given in (
                [said, call("a"), said, out("a"), said],
                [said, call("a"), call("b"), out("a"), call("c"), out("b"), out("c"), said],
                [said, call("a"), more, call("b"), out("b"), out("a"), said],
            ):
                await client.responses.create(model="m", input=given)
                sent = endpoint.requests[-1].body["messages"]
                results = [(each["tool_call_id"], each["content"]) for each in sent if each["role"] == "tool"]
                calls = [one["id"] for each in sent for one in each.get("tool_calls") or ()]
                assert results == [(id, f"of {id}") for id in calls]

    asyncio.run(main())


def test_giving_up_an_answer_that_is_not_stored_cancels_its_run(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        async with (
            Endpoint([stream(chunk(content="It"), held, *ending())]) as endpoint,
            at_work(tmp_path, endpoint) as (server, client),
        ):
            asking = asyncio.ensure_future(client.responses.create(model="m", input="1?", store=False))
            request = await endpoint.request(0)
            asking.cancel()
            async with asyncio.timeout(10):
                await request.dropped.wait()
            (info,) = await server.service.threads("local")
            last = (await server.ended(info.id, 1))[-1].body["event"]
            assert (last["type"], last["reason"]) == ("run_ended", "cancelled")

    asyncio.run(main())


def test_what_is_named_a_thousand_times_is_read_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("one"), text("two")]) as endpoint,
            at_work(tmp_path, endpoint) as (server, client),
        ):
            past: list[Any] = [{"role": "user", "content": f"{n}?"} for n in range(1000)]
            made = await client.responses.create(model="m", input=past)
            thread = made.id.split("_")[1]
            reads, store = 0, server.service.store
            read = store.read

            async def counted(*given: Any, **more: Any) -> Any:
                nonlocal reads
                reads += 1
                return await read(*given, **more)

            store.read = counted  # type: ignore[method-assign]
            named: list[Any] = [{"type": "item_reference", "id": made.output[0].id}] * 1000
            await client.responses.create(model="m", input=[*named, {"role": "user", "content": "x"}])
            assert reads < 1200
            reads = 0
            ids = [f"call_{thread}_{n}" for n in range(1, 1001)]
            results: list[Any] = [{"type": "function_call_output", "call_id": id, "output": "x"} for id in ids]
            with pytest.raises(openai.BadRequestError):
                await client.responses.create(model="m", input=results)
            assert reads < 10

    asyncio.run(main())


def test_halves_of_surrogate_pairs_are_in_no_id_and_in_no_wish(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("one")]) as endpoint, at_work(tmp_path, endpoint) as (server, _):
            for conversation in ("\ud800", {"id": "\ud800"}):
                body = {"model": "m", "input": "x", "conversation": conversation}
                status, told = await server.call("POST", "/v1/responses", json=body)
                assert (status, told["error"]["param"]) == (404, "conversation")
            body = {"model": "m", "input": "x", "text": {"verbosity": "\ud800"}}
            status, told = await server.call("POST", "/v1/responses", json=body)
            assert (status, told["status"]) == (200, "completed")
            assert (await endpoint.request(0)).body["verbosity"] == "\ufffd"

    asyncio.run(main())


def test_the_same_request_sent_again_is_done_once(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [text("one"), text("two"), text("three"), asks_weather("Rome"), text("sun")]
        async with Endpoint(replies) as endpoint, at_work(tmp_path, endpoint) as (_, client):

            async def twice(key: str, **fields: Any) -> Any:
                headers = {"Idempotency-Key": key}
                made = [await client.responses.create(model="m", extra_headers=headers, **fields) for _ in "ab"]
                assert made[0].to_dict() == made[1].to_dict()
                return made[0]

            first = await twice("k1", input="1?")
            await twice("k2", input="2?", previous_response_id=first.id)
            await twice("k3", input="3?", previous_response_id=first.id)
            asked = await twice("k4", input="Weather?", tools=[WEATHER])
            await twice("k5", input=[output(asked.output[0], "sun")], previous_response_id=asked.id)

    asyncio.run(main())


def test_the_same_request_sent_many_times_at_once_makes_one_fork(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("one"), text("two"), text("three")]) as endpoint,
            at_work(tmp_path, endpoint) as (server, client),
        ):
            first = await client.responses.create(model="m", input="1?")
            await client.responses.create(model="m", input="2?", previous_response_id=first.id)
            asked: dict[str, Any] = {"model": "m", "input": "3?", "previous_response_id": first.id}
            keyed = {"Idempotency-Key": "k"}
            made = await asyncio.gather(
                *(client.responses.create(**asked, extra_headers=keyed) for _ in range(5)),
            )
            assert {each.output_text for each in made} == {"three"}
            assert len({each.id for each in made}) == 1
            assert len(await server.service.threads("local")) == 2

    asyncio.run(main())


def test_a_conversation_is_a_thread(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("one"), text("two")]) as endpoint, at_work(tmp_path, endpoint) as (server, client):
            thread = await server.thread()
            first = await client.responses.create(model="m", input="1?", conversation=thread)
            second = await client.responses.create(model="m", input="2?", conversation={"id": f"conv_{thread}"})
            assert second.previous_response_id == first.id
            assert [each[1] for each in await sent(endpoint, 1)] == ["1?", "one", "2?"]
            with pytest.raises(openai.NotFoundError) as caught:
                await client.responses.create(model="m", input="3?", conversation="0" * 32)
            assert caught.value.param == "conversation"

    asyncio.run(main())


def test_the_settings_of_a_request_reach_the_run_and_its_limits_make_it_incomplete(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [text("par", finish="length"), calculates("1"), calculates("2")]
        async with Endpoint(replies) as endpoint, at_work(tmp_path, endpoint) as (_, client):
            made = await client.responses.create(
                model="m",
                input="x",
                tools=[WEATHER],
                tool_choice={"type": "function", "name": "weather"},
                parallel_tool_calls=False,
                temperature=0.3,
                reasoning={"effort": "low"},
                include=["reasoning.encrypted_content"],
                metadata={"a": "b"},
                user="u",
            )
            body = (await endpoint.request(0)).body
            assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
            wanted = {"parallel_tool_calls": False, "temperature": 0.3, "reasoning_effort": "low"}
            assert {name: body[name] for name in wanted} == wanted
            assert (made.status, made.output[0].to_dict()["status"]) == ("incomplete", "incomplete")
            assert made.incomplete_details is not None
            assert made.incomplete_details.reason == "max_output_tokens"
            assert made.to_dict()["tool_choice"] == {"type": "function", "name": "weather"}
            assert made.reasoning is not None
            assert (made.reasoning.effort, made.parallel_tool_calls, made.metadata) == ("low", False, {"a": "b"})
            assert made.tools[0].to_dict()["name"] == "weather"
            limited = await client.responses.create(model="stepwell", input="x", max_tool_calls=1)
            assert limited.status == "incomplete"
            assert limited.max_tool_calls == 1
            assert limited.to_dict()["stepwell"]["cause"] == "tool_calls"

    asyncio.run(main())


CALLED = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "sun"}
SEEN: dict[str, Any] = {"content": [{"type": "input_image", "image_url": PIXEL}]}
REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"model": "nobody"}, 404, "model"),
    ({"input": ""}, 400, "input"),
    ({"input": 5}, 400, "input"),
    ({"input": [{"role": "developer", "content": "x"}]}, 400, "input"),
    ({"input": [{"role": "judge", "content": "x"}]}, 400, "input.[0].role"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, 400, "input.[0].content.[0]"),
    ({"input": [{"type": "computer_call_output"}]}, 400, "input.[0].type"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, 400, "input.[0].id"),
    ({"input": [{"type": "function_call", "call_id": "c"}]}, 400, "input.[0]"),
    ({"tools": [{"type": "web_search"}]}, 400, "tools.[0].type"),
    ({"tools": [{**WEATHER, "parameters": {"type": "array"}}]}, 400, "tools.[0].parameters"),
    ({"tools": [{**WEATHER, "name": "no spaces"}]}, 400, "tools.[0].name"),
    ({"tool_choice": {"type": "function", "name": "weather"}}, 400, "tool_choice.name"),
    (
        {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "array"}}}},
        400,
        "text.format.schema",
    ),
    ({"text": {"format": {"type": "grammar"}}}, 400, "text.format.type"),
    ({"temperature": 3}, 400, "temperature"),
    ({"max_output_tokens": 0}, 400, "max_output_tokens"),
    ({"prompt": {"id": "p"}}, 400, "prompt"),
    ({"background": True, "store": False}, 400, "store"),
    ({"previous_response_id": "resp_x", "conversation": "x"}, 400, "conversation"),
    ({"previous_response_id": "resp_x"}, 404, "previous_response_id"),
    ({"conversation": {"id": ["x"]}}, 404, "conversation"),
    ({"input": [CALLED, OUTPUT, OUTPUT]}, 400, "input.[2].call_id"),
    ({"input": [SEEN | {"role": "assistant"}]}, 400, "input.[0].content"),
    ({"input": [SEEN | {"role": "system"}]}, 400, "input.[0].content"),
    ({"text": {"verbosity": 5}}, 400, "text.verbosity"),
    ({"metadata": {"a": 5}}, 400, "metadata.a"),
    ({"metadata": {str(n): "x" for n in range(17)}}, 400, "metadata"),
    ({"metadata": {"a": "x" * 513}}, 400, "metadata"),
    ({"reasoning": {"effort": "\0"}}, 400, "reasoning.effort"),
    ({"previous_response_id": f"resp_{'0' * 32}_1"}, 404, "previous_response_id"),
]


@pytest.mark.parametrize(("fields", "status", "param"), REFUSED)
def test_what_cannot_be_done_is_refused_with_the_name_of_the_field(
    tmp_path: Path, fields: dict[str, Any], status: int, param: str
) -> None:
    async def main() -> None:
        async with Endpoint([]) as endpoint, at_work(tmp_path, endpoint) as (server, client):
            with pytest.raises(openai.APIStatusError) as caught:
                await client.responses.create(**{"model": "m", "input": "x", **fields})
            assert (caught.value.status_code, caught.value.param) == (status, param)
            assert caught.value.message
            assert await server.service.threads("local") == []

    asyncio.run(main())


def test_a_response_that_is_not_there_is_not_found_whoever_asks(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("one")]) as endpoint,
            at_work(tmp_path, endpoint, auth="keys") as (server, client),
        ):
            made = await client.responses.create(model="m", input="1?")
            thread = made.id.split("_")[1]
            wrong = ["resp_x", f"resp_{'0' * 32}_1", f"resp_{thread}_2", f"{made.id}_4", f"resp_{thread}_9999999999"]
            for id in wrong:
                for call in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
                    with pytest.raises(openai.NotFoundError):
                        await call(id)
                with pytest.raises(openai.NotFoundError):
                    await client.responses.input_items.list(id)
            other = await server.key_for("bob")
            status, body = await server.call("GET", f"/v1/responses/{made.id}", headers=other)
            assert (status, body["error"]["param"]) == (404, "response_id")
            body = {"model": "m", "input": "x", "previous_response_id": made.id}
            status, body = await server.call("POST", "/v1/responses", headers=other, json=body)
            assert (status, body["error"]["code"]) == (404, "previous_response_not_found")
            with pytest.raises(openai.BadRequestError):
                await client.responses.input_items.list(made.id, after="msg_x")

    asyncio.run(main())
