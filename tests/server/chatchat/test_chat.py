"""`POST /chat/chat` and `POST /other/completion` as clients of Langchain-Chatchat 0.2 know them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from stepwell.runs.imports import import_file
from stepwell.runs.replay import replay
from stepwell.wiring.replay import ConfigParts
from tests.imports.making import chatchat
from tests.support.audit import audit
from tests.support.endpoint import Endpoint, Reply, Request, error, text
from tests.support.server import Frame, Server, scripted, serving

HEX = frozenset("0123456789abcdef")


async def chat(server: Server, query: str = "hi", **fields: Any) -> list[dict[str, Any]]:
    """Ask as a client does and return the events."""
    stream = await server.stream("POST", "/chat/chat", {"query": query, **fields})
    assert stream.status == 200, await stream.content()
    return [frame.body for frame in await stream.rest()]


def said(endpoint: Endpoint, at: int = -1) -> list[tuple[str, str]]:
    """Return what a request to the model held."""
    return [(each["role"], each["content"]) for each in endpoint.requests[at].body["messages"]]


def echo(request: Request) -> Reply:
    return text(f"answer to {request.body['messages'][-1]['content']}")


def test_a_stream_is_pieces_of_text_with_one_message_id_framed_as_it_was(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("灯", " 🏮", "\u2028!")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            stream = await server.stream("POST", "/chat/chat", {"query": "hi", "stream": "true", "extra": 1})
            frames: list[Frame] = await stream.rest()
            events = [frame.body for frame in frames]
            assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert stream.writes == [
                b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\r\n\r\n" for event in events
            ]
            assert "".join(event["text"] for event in events) == "灯 🏮\u2028!"
            assert {tuple(event) for event in events} == {("text", "message_id")}
            (id,) = {event["message_id"] for event in events}
            assert len(id) == 32
            assert set(id) <= HEX
            assert said(endpoint) == [("user", "hi")]
            assert "tools" not in endpoint.requests[0].body
            assert endpoint.requests[0].body["temperature"] == 0.7

    asyncio.run(main())


def test_without_stream_one_event_has_the_whole_text(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("a", "b")]) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            (event,) = await chat(server, stream=False, temperature=2, max_tokens=5, model_name="other")
            assert (list(event), event["text"]) == (["text", "message_id"], "ab")
            body = endpoint.requests[0].body
            assert (body["model"], body["temperature"], body["max_tokens"]) == ("other", 2, 5)

    asyncio.run(main())


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_is_told_in_the_last_event(tmp_path: Path, stream: bool) -> None:
    async def main() -> None:
        async with (
            Endpoint([error(400, "no such model")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            (event,) = await chat(server, stream=stream)
            assert "no such model" in event["text"]
            assert event["error"] == "request"

    asyncio.run(main())


def test_the_history_that_a_request_brings_is_what_the_model_sees(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint(echo) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            history = [{"role": "user", "content": "q"}, {"role": "system", "content": "a"}]
            for fields in ({}, {"conversation_id": "c", "history_len": 9}):
                await chat(server, "next", history=history, **fields)
                assert said(endpoint) == [("user", "q"), ("assistant", "a"), ("user", "next")]
            other = [{"role": "user", "content": "else"}, {"role": "assistant", "content": "yes"}]
            await chat(server, "last", history=other, conversation_id="c")
            assert said(endpoint) == [("user", "else"), ("assistant", "yes"), ("user", "last")]

    asyncio.run(main())


def test_a_conversation_is_one_thread_of_which_the_model_sees_as_many_rounds_as_the_request_says(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with Endpoint(echo) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            for query in ("one", "two", "three"):
                await chat(server, query, conversation_id="my talk")
                assert said(endpoint) == [("user", query)]
            rounds = [
                pair
                for query in ("one", "two", "three")
                for pair in (("user", query), ("assistant", f"answer to {query}"))
            ]
            await chat(server, "four", conversation_id="my talk", history_len=2)
            assert said(endpoint) == [*rounds[2:], ("user", "four")]
            await chat(server, "five", conversation_id="my talk", history=9)
            assert said(endpoint) == [*rounds, ("user", "four"), ("assistant", "answer to four"), ("user", "five")]
            await chat(server, "six", conversation_id="another", history_len=9)
            assert said(endpoint) == [("user", "six")]
            await chat(server, "seven", history_len=9)
            assert said(endpoint) == [("user", "seven")]
            threads = (await server.call("GET", "/api/threads"))[1]["threads"]
            assert len(threads) == 3

    asyncio.run(main())


def test_what_a_client_brings_is_no_round_of_the_conversation_a_second_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint(echo) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            history: list[dict[str, str]] = []
            for query in ("one", "two", "three"):
                (event,) = await chat(server, query, conversation_id="c", history=history)
                history += [{"role": "user", "content": query}, {"role": "assistant", "content": event["text"]}]
            thread = (await server.call("GET", "/api/threads"))[1]["threads"][0]["id"]
            events = await server.service.events("local", thread)
            # The client brought what the thread shows: nothing is stored twice.
            assert sum(each.event.__struct_config__.tag == "history_cleared" for each in events) == 0
            await chat(server, "four", conversation_id="c", history=history[-2:])
            await chat(server, "five", conversation_id="c", history_len=9)
            asked = [content for role, content in said(endpoint) if role == "user"]
            assert asked == ["one", "two", "three", "four", "five"]
            events = await server.service.events("local", thread)
            audit(events)
            assert await replay(events, ConfigParts(server.config), thread) is None

    asyncio.run(main())


def test_a_conversation_of_another_owner_with_the_same_id_is_another(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint(echo) as endpoint,
            serving(tmp_path, auth="keys", models=scripted(endpoint)) as server,
        ):
            await chat(server, "mine", conversation_id="c")
            own = (await server.call("GET", "/api/threads"))[1]["threads"][0]["id"]
            other = await server.key_for("eve")
            for id in ("c", own):
                body = {"query": "theirs", "conversation_id": id, "history_len": 9}
                stream = await server.stream("POST", "/chat/chat", body, headers=other)
                assert stream.status == 200
                await stream.rest()
                assert said(endpoint) == [("user", "theirs")]
                assert stream.headers["x-stepwell-thread"] != own

    asyncio.run(main())


def test_a_conversation_id_may_be_that_of_a_thread_or_of_an_imported_conversation(tmp_path: Path) -> None:
    file = chatchat(tmp_path / "info.db", [("m1", "old talk", "去哪里", "北京", "2023-11-01 10:00:01")])

    async def main() -> None:
        async with Endpoint(echo) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            (outcome,) = [each async for each in import_file(server.service.store, file, owner="local")]
            for id in ("old talk", outcome.thread):
                stream = await server.stream(
                    "POST", "/chat/chat", {"query": "再说", "conversation_id": id, "history": 1}
                )
                await stream.rest()
                assert stream.headers["x-stepwell-thread"] == outcome.thread
            assert said(endpoint, 0) == [("user", "去哪里"), ("assistant", "北京"), ("user", "再说")]
            assert said(endpoint) == [("user", "再说"), ("assistant", "answer to 再说"), ("user", "再说")]

    asyncio.run(main())


def test_a_message_of_a_conversation_with_an_open_run_waits_and_its_answer_is_streamed(tmp_path: Path) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        first = text("first")
        held = Reply([gate, *first.pieces])
        async with (
            Endpoint([held, text("second")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            one = await server.stream("POST", "/chat/chat", {"query": "a", "conversation_id": "c"})
            two = await server.stream("POST", "/chat/chat", {"query": "b", "conversation_id": "c"})
            gate.set()
            assert [frame.body["text"] for frame in await one.rest()] == ["first"]
            assert [frame.body["text"] for frame in await two.rest()] == ["second"]
            assert one.headers["x-stepwell-thread"] == two.headers["x-stepwell-thread"]

    asyncio.run(main())


def test_a_request_that_is_sent_again_under_its_key_gets_the_same_answer_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("once")]) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            headers = server.headers(**{"idempotency-key": "k"})
            answers: list[list[Frame]] = []
            for _ in range(2):
                body = {"query": "hi", "conversation_id": "c"}
                answers.append(await (await server.stream("POST", "/chat/chat", body, headers=headers)).rest())
            assert answers[0] == answers[1]
            status, body = await server.call("POST", "/chat/chat", json={"query": "else"}, headers=headers)
            assert (status, "Idempotency-Key" in str(body)) == (409, True)

    asyncio.run(main())


@pytest.mark.parametrize(("name", "wrapped"), [("default", False), ("with_history", False), ("py", True)], ids=str)
def test_the_old_templates_are_there(tmp_path: Path, name: str, wrapped: bool) -> None:
    async def main() -> None:
        async with Endpoint([text("x")]) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            await chat(server, "{input} {{ 6*7 }}", prompt_name=name)
            ((_, content),) = said(endpoint)
            assert content.endswith("{input} {{ 6*7 }}")
            assert ("Python" in content) is wrapped

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fields", "place", "message"),
    [
        ({"query": None}, ["body", "query"], "field required"),
        ({"temperature": 2.5}, ["body", "temperature"], "ensure this value is less than or equal to 2.0"),
        ({"prompt_name": "none"}, ["body", "prompt_name"], "none"),
        ({"prompt_name": "n" * 1_000_000}, ["body", "prompt_name"], "nnn"),
        ({"query": "\ud800"}, ["body", "query"], "surrogate"),
        ({"conversation_id": "x" * 201}, ["body", "conversation_id"], "at most 200 characters"),
        ({"history": [["user", "x"]]}, ["body", "history", 0], "value is not a valid dict"),
        ({"history": "many"}, ["body", "history"], "value is not a valid list"),
    ],
)
def test_what_is_wrong_is_told_as_it_was(tmp_path: Path, fields: dict[str, Any], place: Any, message: str) -> None:
    async def main() -> None:
        async with Endpoint([]) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            status, body = await server.call("POST", "/chat/chat", json={"query": "x", **fields})
            assert status == 422
            assert body["detail"][0]["loc"] == place
            assert message in body["detail"][0]["msg"]
            assert len(body["detail"][0]["msg"]) < 500

    asyncio.run(main())


@pytest.mark.parametrize("stream", [True, False])
def test_a_completion_is_bare_text(tmp_path: Path, stream: bool) -> None:
    async def main() -> None:
        async with Endpoint([text("one\n", "two")]) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            body = {"query": "count", "stream": stream, "echo": True}
            answer = await server.stream("POST", "/other/completion", body)
            frames = await answer.rest()
            whole = "".join(frame.data for frame in frames)
            assert whole == "countone\ntwo"
            assert (frames[0].data == "count") is stream
            assert endpoint.requests[0].body["max_tokens"] == 1024
            assert said(endpoint) == [("user", "count")]

    asyncio.run(main())
