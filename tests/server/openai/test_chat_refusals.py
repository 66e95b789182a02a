"""What is refused or fails in a chat completion, in the shape that the official client reads."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import openai
import pytest

from stepwell.specs import Limits
from stepwell.store.keys import issue
from tests.server.openai.test_chat import PIXEL, content_of
from tests.support.endpoint import Cut, Endpoint, chunk, ending, error, stream, text, tool_calls
from tests.support.openai_client import official, user
from tests.support.server import scripted, serving

ASK: list[Any] = [user("What is 6*7?")]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": 7}, "stop"),
        ({"stop": ["a", 7]}, "stop.[1]"),
        ({"logit_bias": {"word": 1}}, "logit_bias.word.[key]"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages.[0]"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages.[0].role"),
        ({"messages": [{"content": "x"}]}, "messages.[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages.[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.[0].content.[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages.[0].content.[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://x"}}]}]},
            "messages.[0].content.[0].image_url.url",
        ),
        (
            {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]}]},
            "messages.[0].content",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]}]},
            "messages.[0].content",
        ),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "messages.[0].function_call"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": ""}]}]}, "messages.[0].tool_calls.[0].function"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_schema", "json_schema": 7}}, "response_format.json_schema"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice.function.name"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice.type"),
        ({"model": None}, "model"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(tmp_path: Path, fields: dict[str, Any], param: str) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            body = {"model": "offline", "messages": ASK, **fields}
            status, told = await server.call("POST", "/v1/chat/completions", json=body)
            assert (status, told["error"]["param"], told["error"]["type"]) == (400, param, "invalid_request_error")
            assert told["error"]["message"]
            assert await server.service.threads("local") == []

    asyncio.run(main())


def test_null_is_no_value_and_what_nobody_knows_is_ignored(tmp_path: Path) -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ["n", "stream", "tools", "tool_choice", "response_format", "stop", "seed", "logprobs", "audio", "max_tokens"]
    )
    ignored = {"store": True, "metadata": {"a": "b"}, "service_tier": "auto", "prediction": None, "foo": [1]}

    async def main() -> None:
        async with (
            Endpoint([text("42")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            body = {"model": "m", "messages": [{**ASK[0], "name": "ada"}], **nothing, **ignored}
            status, answer = await server.call("POST", "/v1/chat/completions", json=body)
            assert (status, answer["choices"][0]["message"]["content"]) == (200, "42")
            sent = (await endpoint.request(0)).body
            assert sent.keys() == {"model", "messages", "stream", "stream_options"}
            assert sent["messages"] == ASK

    asyncio.run(main())


def test_a_body_that_is_no_json_and_an_unknown_model_are_told_in_openais_shape(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server, official(server) as client:
            headers = {"content-type": "application/json"}
            for data in (b"{", b'{"model": "m", "model": "n"}', b"[]"):
                status, told = await server.call("POST", "/v1/chat/completions", data=data, headers=headers)
                assert (status, told["error"]["type"]) == (400, "invalid_request_error")
            status, told = await server.call(
                "POST", "/v1/chat/completions", data=b"x", headers={"content-type": "text/plain"}
            )
            assert (status, told["error"]["type"]) == (415, "invalid_request_error")
            with pytest.raises(openai.NotFoundError) as raised:
                await client.chat.completions.create(model="gpt-5", messages=ASK)
            assert (raised.value.code, raised.value.param) == ("model_not_found", "model")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        (error(401, "bad key"), openai.InternalServerError, "auth"),
        (error(400, "no such field"), openai.BadRequestError, "request"),
        (
            error(400, "too long", code="context_length_exceeded"),
            openai.BadRequestError,
            "context_length_exceeded",
        ),
        (
            error(429, "slow down", headers={"retry-after": "1000"}),
            openai.RateLimitError,
            "rate_limit_exceeded",
        ),
        (stream(chunk(content="It"), Cut.RESET), openai.InternalServerError, "broken"),
    ],
    ids=["auth", "request", "overflow", "rate_limit", "broken"],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_a_failure_of_the_model_is_an_error_of_the_client(
    tmp_path: Path, reply: Any, kind: type[openai.APIStatusError], code: str, streamed: bool
) -> None:
    async def main() -> None:
        async with (
            Endpoint(lambda _: reply) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            asked: Any = {"model": "m", "messages": ASK}
            if not streamed:
                with pytest.raises(kind) as refused:
                    await client.chat.completions.create(**asked)
                assert refused.value.code == code
                return
            made = await client.chat.completions.create(**asked, stream=True)
            with pytest.raises(openai.APIError) as failed:
                async for _ in made:
                    pass
            assert failed.value.code == code
            assert failed.value.message

    asyncio.run(main())


def test_a_failed_stream_ends_with_an_error_and_done(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([stream(chunk(content="It"), Cut.RESET)]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            body = {"model": "m", "messages": ASK, "stream": True}
            frames = await (await server.stream("POST", "/v1/chat/completions", body)).rest()
            assert frames[-1].data == "[DONE]"
            assert frames[-2].body["error"]["type"] == "api_error"
            assert frames[1].body["choices"][0]["delta"] == {"content": "It"}

    asyncio.run(main())


def test_a_cancelled_run_is_an_error_that_nobody_tries_again(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        async with (
            Endpoint([stream(chunk(content="It"), held, *ending())]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server, retries=2) as client,
        ):
            made = await client.chat.completions.create(model="m", messages=ASK, stream=True)
            place = made.response.headers
            path = f"/api/threads/{place['x-stepwell-thread']}/runs/{place['x-stepwell-run']}/cancel"

            async def read() -> None:
                async for each in made:
                    if content_of([each]):
                        await server.call("POST", path)

            with pytest.raises(openai.APIError) as raised:
                await read()
            assert raised.value.code == "cancelled"
            held.set()

    asyncio.run(main())


def test_a_thread_with_an_open_run_takes_no_second_message(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        async with (
            Endpoint([stream(chunk(content="It"), held, *ending())]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            thread = await server.thread()
            run = await server.start(thread, "Hello.", model="m")
            await endpoint.request(0)
            more: Any = {"stepwell": {"thread": thread}}
            with pytest.raises(openai.ConflictError) as raised:
                await client.chat.completions.create(model="m", messages=ASK, extra_body=more)
            assert raised.value.param == "stepwell.thread"
            held.set()
            await server.ended(thread, run)

    asyncio.run(main())


def test_an_answer_that_never_fits_its_form_is_a_failure(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema}}

    async def main() -> None:
        wrong = [tool_calls((f"c{n}", "number", ['{"n": "x"}'])) for n in range(2)]
        async with (
            Endpoint(wrong) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            with pytest.raises(openai.InternalServerError) as raised:
                await client.chat.completions.create(model="m", messages=ASK, response_format=form)
            assert raised.value.code == "invalid_output"

    asyncio.run(main())


def test_a_key_without_means_gets_too_many_requests(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("42", tokens_used=(600, 500))]) as endpoint,
            serving(tmp_path, auth="keys", models=scripted(endpoint)) as server,
            official(server, key=await issue(server.service.store, "ada", Limits(tokens=1000))) as client,
        ):
            await client.chat.completions.create(model="m", messages=ASK)
            with pytest.raises(openai.RateLimitError) as raised:
                await client.chat.completions.create(model="m", messages=ASK)
            assert raised.value.code == "insufficient_quota"

    asyncio.run(main())


def test_a_server_that_stops_ends_the_stream_and_the_run_goes_on_later(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        async with Endpoint([stream(chunk(content="It"), held, *ending()), text("42")]) as endpoint:
            models = scripted(endpoint)
            async with serving(tmp_path, models=models) as server:
                body = {"model": "m", "messages": ASK, "stream": True}
                stream_ = await server.stream("POST", "/v1/chat/completions", body)
                thread, run = stream_.headers["x-stepwell-thread"], int(stream_.headers["x-stepwell-run"])
                while b"It" not in await stream_.chunk():
                    pass
                stopping = asyncio.ensure_future(server.service.stop(0.0))
                frames = await stream_.rest()
                await stopping
                assert frames[-2].body["error"]["code"] == "interrupted"
                assert frames[-1].data == "[DONE]"
            held.set()
            async with serving(tmp_path, models=models) as server:
                events = await server.ended(thread, run)
                assert events[-1].body["event"]["reason"] == "answer"

    asyncio.run(main())


# anything at all

NAMES = ["role", "content", "type", "text", "image_url", "url", "tool_calls", "id", "function", "name", "arguments"]
NAMES += [
    "parameters",
    "properties",
    "json_schema",
    "schema",
    "title",
    "$ref",
    "tool_call_id",
    "thread",
    "\0",
    "\ud800",
]
WORDS = ["user", "assistant", "tool", "system", "text", "image_url", "function", "object", "json_schema", "required"]
WORDS += ["call_" + "0" * 32 + "_1", PIXEL, "a\0b", "\ud800", "{}", "", "auto", "x"]


def anything(rng: random.Random, depth: int = 0) -> Any:
    match rng.randrange(9 if depth < 4 else 5):
        case 0:
            return rng.choice([None, True, False])
        case 1:
            return rng.choice([0, 1, -1, 2**31, 2**64, 10**30, 0.5, 1e308])
        case 2 | 3 | 4:
            return rng.choice(WORDS)
        case 5 | 6:
            return [anything(rng, depth + 1) for _ in range(rng.randrange(4))]
        case _:
            return {rng.choice(NAMES): anything(rng, depth + 1) for _ in range(rng.randrange(4))}


def somewhat(rng: random.Random, value: Any) -> Any:
    """Return a good value with something else in a place of it."""
    if rng.random() < 0.2:
        return anything(rng)
    if isinstance(value, dict) and value:
        name = rng.choice(list(value))
        return {**value, name: somewhat(rng, value[name])}
    if isinstance(value, list) and value:
        at = rng.randrange(len(value))
        return [*value[:at], somewhat(rng, value[at]), *value[at + 1 :]]
    return value if rng.random() < 0.3 else anything(rng)


GOOD: dict[str, Any] = {
    "model": "offline",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "Hi."}, {"type": "image_url", "image_url": {"url": PIXEL}}
        ]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "x", "type": "function", "function": {"name": "look", "arguments": "{}"}},
        ]},
        {"role": "tool", "tool_call_id": "x", "content": "ears"},
        {"role": "user", "content": "And?"},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {
        "type": "object", "properties": {"at": {"type": "string", "enum": ["a"]}}, "required": ["at"]}}}],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
        "type": "object", "properties": {"n": {"type": "array", "items": {"type": "integer"}}}}}},
    "stop": ["x"],
    "logit_bias": {"5": 1},
    "reasoning_effort": "low",
    "stream_options": {"include_usage": True},
    "stepwell": {"people": False},
}  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_no_body_makes_the_server_fail(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)

    async def main() -> None:
        async with serving(tmp_path) as server:
            answers: dict[int, int] = {}
            for _ in range(300):
                body = somewhat(rng, {name: GOOD[name] for name in rng.sample(list(GOOD), rng.randint(1, len(GOOD)))})
                if isinstance(body, dict):
                    body = {"model": "offline", "messages": ASK, **body}
                data = json.dumps(body).encode()
                headers = {"content-type": "application/json"}
                status, told = await server.call("POST", "/v1/chat/completions", data=data, headers=headers)
                # The embedded model gives no JSON, which is no failure of the server.
                assert status < 500 or told["error"]["code"] == "invalid_output", (told, data)
                if status != 200:
                    assert told["error"].keys() == {"message", "type", "param", "code"}
                answers[status] = answers.get(status, 0) + 1
            assert answers[400] > 100
            assert answers[200] > 5

    asyncio.run(main())
