"""Chat completions as the official client asks for them and reads them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.endpoint import Endpoint, Reply, chunk, ending, stream, text, tool_calls, whole
from tests.support.openai_client import official, user
from tests.support.server import scripted, serving

ASK: Any = [user("What is 6*7?")]
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


async def chunks_of(client: Any, **fields: Any) -> list[Any]:
    made = await client.chat.completions.create(**{"model": "m", "messages": ASK, "stream": True, **fields})
    return [each async for each in made]


def content_of(chunks: list[Any]) -> str:
    return "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)


def finish_of(chunks: list[Any]) -> str:
    (reason,) = [each.choices[0].finish_reason for each in chunks if each.choices and each.choices[0].finish_reason]
    return reason


def calculates(query: str, said: str = "") -> Reply:
    return tool_calls(("c1", "calculate", [json.dumps({"query": query})]), said=said)


def test_a_bare_model_gets_what_the_client_says_and_nothing_else(tmp_path: Path) -> None:
    sampling: dict[str, Any] = {
        "top_p": 0.5,
        "seed": 7,
        "stop": "END",
        "presence_penalty": 0.1,
        "frequency_penalty": -0.1,
        "logit_bias": {"50256": -100},
        "reasoning_effort": "low",
    }

    async def main() -> None:
        async with (
            Endpoint([text("for", "ty-two", tokens_used=(11, 3))]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), agent={"system": "Not for bare models."}) as server,
            official(server) as client,
        ):
            messages: Any = [
                {"role": "system", "content": "Be brief."},
                {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
                user("Hello."),
                {"role": "assistant", "content": "Hi."},
                *ASK,
            ]
            answer = await client.chat.completions.create(
                model="m", messages=messages, temperature=0.3, max_completion_tokens=50, user="u1", **sampling
            )
            assert answer.choices[0].message.content == "forty-two"
            assert answer.choices[0].finish_reason == "stop"
            assert answer.model == "m"
            assert answer.usage is not None
            assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 3)
            sent = (await endpoint.request(0)).body
            assert sent.pop("stream_options") == {"include_usage": True}
            assert sent == {
                "model": "m",
                "stream": True,
                "messages": [
                    {"role": "system", "content": "Be brief.\n\nBe kind."},
                    user("Hello."),
                    {"role": "assistant", "content": "Hi."},
                    *ASK,
                ],
                "temperature": 0.3,
                "max_tokens": 50,
                **sampling,
                "stop": ["END"],
            }

    asyncio.run(main())


def test_without_words_of_a_system_a_bare_model_gets_the_message_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("42"), text("43")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            answer = await client.chat.completions.create(model="model:m", messages=ASK)
            assert answer.choices[0].message.content == "42"
            sent = (await endpoint.request(0)).body
            assert sent["messages"] == ASK
            assert "tools" not in sent
            only: Any = [{"role": "system", "content": "Say 43."}]
            answer = await client.chat.completions.create(model="m", messages=only)
            assert answer.choices[0].message.content == "43"
            assert (await endpoint.request(1)).body["messages"] == only

    asyncio.run(main())


def test_an_answer_streams_as_it_is_made_with_thinking_and_usage(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        reply = stream(
            chunk(role="assistant", content=""),
            chunk(reasoning_content="Six times seven."),
            chunk(content="forty"),
            held,
            chunk(content="-two"),
            *ending("stop", (11, 3)),
        )
        async with (
            Endpoint([reply]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            options: Any = {"include_usage": True}
            made = await client.chat.completions.create(model="m", messages=ASK, stream=True, stream_options=options)
            chunks: list[Any] = []
            async for each in made:
                chunks.append(each)
                if content_of(chunks) == "forty":
                    held.set()  # so the first half came before the second was made
            assert chunks[0].choices[0].delta.role == "assistant"
            assert content_of(chunks) == "forty-two"
            thoughts = [getattr(each.choices[0].delta, "reasoning_content", None) for each in chunks if each.choices]
            assert [each for each in thoughts if each] == ["Six times seven."]
            assert finish_of(chunks) == "stop"
            assert chunks[-1].choices == []
            assert chunks[-1].usage.prompt_tokens == 11
            assert chunks[-1].usage.completion_tokens == 3
            assert [each.usage for each in chunks[:-1]] == [None] * (len(chunks) - 1)
            thread, run = server_place(chunks[-2])
            assert {each.id for each in chunks} == {f"chatcmpl-{thread}-{run}"}
            assert {(each.model, each.object) for each in chunks} == {("m", "chat.completion.chunk")}

    asyncio.run(main())


def server_place(chunk: Any) -> tuple[str, int]:
    return chunk.stepwell["thread"], chunk.stepwell["run"]


@pytest.mark.parametrize("streamed", [True, False])
def test_an_agents_texts_stand_apart_and_its_own_tools_are_progress_and_no_calls(
    tmp_path: Path, streamed: bool
) -> None:
    async def main() -> None:
        replies = [calculates("6*7", "Let me see."), calculates("1+1"), text("It is ", "42.")]
        async with (
            Endpoint(replies) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            if not streamed:
                answer = await client.chat.completions.create(model="stepwell", messages=ASK)
                assert answer.choices[0].message.content == "Let me see.\n\nIt is 42."
                assert answer.choices[0].message.tool_calls is None
                return
            chunks = await chunks_of(client, model="stepwell")
            assert content_of(chunks) == "Let me see.\n\nIt is 42."
            assert [each.choices[0].delta.tool_calls for each in chunks if each.choices[0].delta.tool_calls] == []
            told = [each.stepwell for each in chunks if hasattr(each, "stepwell")]
            assert [each.get("type") for each in told] == ["tool_started", "tool_ended"] * 2 + [None]
            assert (told[0]["name"], told[0]["arguments"]) == ("calculate", '{"query": "6*7"}')
            assert (told[1]["status"], told[1]["call"]) == ("ok", told[0]["call"])
            assert "42" in told[1]["content"]
            assert all(each.choices[0].delta.content is None for each in chunks if hasattr(each, "stepwell"))

    asyncio.run(main())


def test_what_the_client_says_to_an_agent_stands_below_the_agents_own_words(tmp_path: Path) -> None:
    agents = {"writer": {"description": "Writes.", "system": "You write.", "tools": ["calculate"]}}

    async def main() -> None:
        async with (
            Endpoint([text("Yes.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), agents=agents) as server,
            official(server) as client,
        ):
            messages: Any = [{"role": "system", "content": "In verse."}, *ASK]
            await client.chat.completions.create(model="writer", messages=messages)
            sent = (await endpoint.request(0)).body
            assert sent["messages"] == [{"role": "system", "content": "You write.\n\nIn verse."}, *ASK]
            assert [each["function"]["name"] for each in sent["tools"]] == ["calculate"]

    asyncio.run(main())


def test_images_reach_a_model_that_sees(tmp_path: Path) -> None:
    parts: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
        {"type": "text", "text": "Be brief."},
    ]

    async def main() -> None:
        async with (
            Endpoint([text("A dot.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint, images=True)) as server,
            official(server) as client,
        ):
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": parts}])
            (sent,) = (await endpoint.request(0)).body["messages"]
            assert sent["content"] == [{"type": "text", "text": "What is this?\nBe brief."}, parts[1]]

    asyncio.run(main())


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


def form(name: str = "calculate") -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": SCHEMA}}


@pytest.mark.parametrize("streamed", [True, False])
def test_json_that_follows_a_schema_is_all_of_the_content_after_tools_and_a_repair(
    tmp_path: Path, streamed: bool
) -> None:
    async def main() -> None:
        given = ("c2", "calculate_2", ['{"n": 42}'])
        replies = [calculates("6*7", "Let me see."), text("It is 42, isn't it?"), tool_calls(given)]
        async with (
            Endpoint(replies) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            fields: Any = {"model": "stepwell", "response_format": form()}
            if streamed:
                chunks = await chunks_of(client, **fields)
                assert json.loads(content_of(chunks)) == {"n": 42}
                assert finish_of(chunks) == "stop"
            else:
                answer = await client.chat.completions.create(messages=ASK, **fields)
                assert json.loads(answer.choices[0].message.content or "") == {"n": 42}
                assert answer.choices[0].message.tool_calls is None

    asyncio.run(main())


def test_json_without_a_schema_is_an_object(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text('{"a": [1, 2]}')]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            answer = await client.chat.completions.create(
                model="m", messages=ASK, response_format={"type": "json_object"}
            )
            assert json.loads(answer.choices[0].message.content or "") == {"a": [1, 2]}

    asyncio.run(main())


def test_a_reply_cut_at_its_longest_and_a_run_out_of_steps_end_with_length(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [text("It is", finish="length"), calculates("1+1"), text("", finish="length")]
        async with (
            Endpoint(replies) as endpoint,
            serving(tmp_path, models=scripted(endpoint), limits={"steps": 1}) as server,
            official(server) as client,
        ):
            cut = await client.chat.completions.create(model="m", messages=ASK, max_tokens=2)
            assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("It is", "length")
            limited: Any = await client.chat.completions.create(model="stepwell", messages=ASK)
            assert (limited.choices[0].message.content, limited.choices[0].finish_reason) == ("", "length")
            assert limited.stepwell["cause"] == "steps"
            assert limited.stepwell["detail"]
            silent: Any = await client.chat.completions.create(model="m", messages=ASK)
            assert (silent.choices[0].message.content, silent.choices[0].finish_reason) == ("", "length")

    asyncio.run(main())


def test_what_was_filtered_is_told_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("I", finish="content_filter")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            answer = await client.chat.completions.create(model="m", messages=ASK)
            assert answer.choices[0].finish_reason == "content_filter"

    asyncio.run(main())


def test_an_endpoint_that_does_not_stream_is_enough(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([whole("42", tokens_used=(5, 2))]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            chunks = await chunks_of(client, stream_options={"include_usage": True})
            assert content_of(chunks) == "42"
            assert chunks[-1].usage.total_tokens == 7

    asyncio.run(main())


def test_usage_is_that_of_all_steps_with_what_was_cached(tmp_path: Path) -> None:
    async def main() -> None:
        first = tool_calls(("c1", "calculate", ['{"query": "6*7"}']), tokens_used=(10, 5))
        last = stream(chunk(content="42"), chunk("stop"), usage_chunk(20, 3, 8), b"data: [DONE]\n\n")
        async with (
            Endpoint([first, last]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            answer = await client.chat.completions.create(model="stepwell", messages=ASK)
            used = answer.usage
            assert used is not None
            assert (used.prompt_tokens, used.completion_tokens, used.total_tokens) == (30, 8, 38)
            assert used.prompt_tokens_details is not None
            assert used.prompt_tokens_details.cached_tokens == 8

    asyncio.run(main())


def usage_chunk(prompt: int, completion: int, cached: int) -> dict[str, Any]:
    details = {"cached_tokens": cached}
    counted = {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": details}
    return {**chunk(), "choices": [], "usage": counted}


def test_two_clients_at_once_get_each_their_own_answer(tmp_path: Path) -> None:
    async def main() -> None:
        def reply(request: Any) -> Reply:
            said = request.body["messages"][-1]["content"]
            return text(*(f"{said}{n} " for n in range(20)))

        async with (
            Endpoint(reply) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as one,
            official(server) as other,
        ):
            first, second = await asyncio.gather(
                chunks_of(one, messages=[user("a")]), chunks_of(other, messages=[user("b")])
            )
            assert content_of(first) == "".join(f"a{n} " for n in range(20))
            assert content_of(second) == "".join(f"b{n} " for n in range(20))

    asyncio.run(main())


def test_a_key_makes_a_repeated_request_happen_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("42")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            headers = {"Idempotency-Key": "k1"}
            first = await client.chat.completions.create(model="m", messages=ASK, extra_headers=headers)
            again = await client.chat.completions.create(model="m", messages=ASK, extra_headers=headers)
            assert again.id == first.id
            assert again.choices == first.choices
            body = {"model": "m", "messages": [user("Other.")]}
            status, told = await server.call("POST", "/v1/chat/completions", json=body, headers=headers)
            assert (status, told["error"]["param"]) == (409, "Idempotency-Key")

    asyncio.run(main())


# threads


def test_a_thread_can_be_gone_on_with_by_the_last_message_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("Hello."), text("42")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            thread = await server.thread()
            await server.say(thread, "Hi.", model="m", tools=[], system="")
            messages: Any = [user("Not taken."), {"role": "assistant", "content": "Nor this."}, *ASK]
            more = {"stepwell": {"thread": thread}}
            answer: Any = await client.chat.completions.create(model="m", messages=messages, extra_body=more)
            assert answer.stepwell["thread"] == thread
            sent = (await endpoint.request(1)).body["messages"]
            assert sent == [user("Hi."), {"role": "assistant", "content": "Hello."}, *ASK]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("more", "status", "param"),
    [
        ({"thread": "0" * 32}, 404, "stepwell.thread"),
        ({"thread": "x"}, 400, "stepwell.thread"),
        ({"agent": "x"}, 400, "stepwell.agent"),
        ({"engine": "none"}, 400, "stepwell.engine"),
        ({"engine": "react"}, 400, "stepwell.engine"),
    ],
)
def test_a_thread_or_option_that_is_not_there_is_refused(
    tmp_path: Path, more: dict[str, Any], status: int, param: str
) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            body = {"model": "offline", "messages": ASK, "stepwell": more}
            got, told = await server.call("POST", "/v1/chat/completions", json=body)
            assert (got, told["error"]["param"]) == (status, param), told

    asyncio.run(main())


def test_threads_of_these_requests_go_when_their_time_is_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("42")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), openai={"keep_days": 2}) as server,
            official(server) as client,
        ):
            answer: Any = await client.chat.completions.create(model="m", messages=ASK)
            info = await server.service.info("local", answer.stepwell["thread"])
            assert info.expires - info.created in range(2 * 86_400_000 - 60_000, 2 * 86_400_000 + 1)
            assert info.title == "What is 6*7?"

    asyncio.run(main())
