"""Chat completions whose run needs a person, and those whose client goes before the answer has come."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.server.openai.test_chat import ASK, calculates, chunks_of, content_of
from tests.support.endpoint import Endpoint, chunk, ending, stream, text
from tests.support.openai_client import official
from tests.support.server import Server, scripted, serving

APPROVALS = {"rules": [{"decision": "ask", "tool": "calculate"}]}


def test_a_person_can_approve_while_the_client_waits(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([calculates("6*7"), text("42")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), approvals=APPROVALS) as server,
            official(server) as client,
        ):
            more: Any = {"stepwell": {"people": True}}
            made = await client.chat.completions.create(model="stepwell", messages=ASK, stream=True, extra_body=more)
            chunks: list[Any] = []
            async for each in made:
                chunks.append(each)
                told = getattr(each, "stepwell", {})
                if told.get("type") == "asked":
                    assert told["kind"] == "approval"
                    place = f"/api/threads/{made.response.headers['x-stepwell-thread']}"
                    answer = {"decision": "approve"}
                    path = f"{place}/questions/{told['question']}/answer"
                    assert (await server.call("POST", path, json=answer))[0] == 202
            assert content_of(chunks) == "42"

    asyncio.run(main())


def test_without_people_what_must_be_asked_is_denied(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([calculates("6*7"), text("I may not.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), approvals=APPROVALS) as server,
            official(server) as client,
        ):
            chunks = await chunks_of(client, model="stepwell")
            told = [each.stepwell for each in chunks if hasattr(each, "stepwell")]
            assert [each["status"] for each in told if each.get("type") == "tool_ended"] == ["denied"]
            assert content_of(chunks) == "I may not."

    asyncio.run(main())


async def ended(server: Server, thread: str, run: int) -> str:
    frames = await server.ended(thread, run)
    return frames[-1].body["event"]["reason"]


@pytest.mark.parametrize(
    ("more", "headers", "reason"),
    [
        ({}, {}, "cancelled"),
        ({"people": True}, {}, "answer"),
        ({"thread": "new"}, {}, "answer"),
        ({}, {"Idempotency-Key": "k"}, "answer"),
    ],
    ids=["alone", "people", "thread", "key"],
)
def test_closing_a_stream_cancels_its_run_unless_somebody_else_has_it(
    tmp_path: Path, more: dict[str, Any], headers: dict[str, str], reason: str
) -> None:
    async def main() -> None:
        held = asyncio.Event()
        reply = stream(chunk(content="It"), held, chunk(content=" is 42."), *ending())
        async with (
            Endpoint([reply]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            if more.get("thread"):
                more["thread"] = await server.thread()
            made = await client.chat.completions.create(
                model="m", messages=ASK, stream=True, extra_body={"stepwell": more}, extra_headers=headers
            )
            async for each in made:
                if each.choices[0].delta.content:
                    break
            thread, run = made.response.headers["x-stepwell-thread"], int(made.response.headers["x-stepwell-run"])
            await made.close()
            if reason == "answer":
                held.set()
            assert await ended(server, thread, run) == reason
            held.set()

    asyncio.run(main())


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_is_gone_before_anything_was_sent_has_no_run_left(tmp_path: Path, streamed: bool) -> None:
    async def main() -> None:
        held = asyncio.Event()
        async with (
            Endpoint([stream(held)], strict=False) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            body = json.dumps({"model": "m", "messages": ASK, "stream": streamed}).encode()
            came: list[Any] = [{"type": "http.request", "body": body}]

            async def receive() -> Any:
                return came.pop() if came else {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                pass

            headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
            scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
            scope |= {"query_string": b"", "scheme": "http", "server": ("127.0.0.1", 80), "http_version": "1.1"}
            async with asyncio.timeout(10):
                await server.app(scope, receive, send)
            (info,) = await server.service.threads("local")
            assert await ended(server, info.id, 1) == "cancelled"
            held.set()

    asyncio.run(main())


def test_giving_up_an_answer_that_is_not_streamed_cancels_its_run(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        async with (
            Endpoint([stream(chunk(content="It"), held, *ending())]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            asking = asyncio.ensure_future(client.chat.completions.create(model="m", messages=ASK))
            request = await endpoint.request(0)
            asking.cancel()
            async with asyncio.timeout(10):
                await request.dropped.wait()
            (info,) = await server.service.threads("local")
            assert await ended(server, info.id, 1) == "cancelled"

    asyncio.run(main())
