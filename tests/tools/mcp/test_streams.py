"""Streams of events of servers that have us come back, or read on, without end."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.mcp_clients import holdups, kept
from tests.tools.mcp.test_http import answering

EMPTY = b"id: 1\nretry: 0\ndata:\n\n"


async def told(request: web.Request, *events: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for each in events:
        await response.write(each)
    return response


def test_a_stream_that_ends_at_once_is_opened_again_at_a_bounded_pace(tmp_path: Path) -> None:
    opened: list[float] = []
    enough = asyncio.Event()

    async def come_back(request: web.Request) -> web.StreamResponse:
        opened.append(time.monotonic())
        if len(opened) == 4:
            enough.set()
        return await told(request, EMPTY)

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=202)

    async def main() -> None:
        async with answering(answer, come_back=come_back) as url, kept("", tmp_path, url=url):
            async with asyncio.timeout(10):
                await enough.wait()
            assert opened[3] - opened[0] >= 1.4

    asyncio.run(main())


def test_an_answer_that_never_comes_is_not_asked_for_any_more_when_its_call_is_over(tmp_path: Path) -> None:
    opened: list[str] = []

    async def come_back(request: web.Request) -> web.StreamResponse:
        if request.headers.get("last-event-id"):
            opened.append(request.headers["last-event-id"])
            return await told(request, EMPTY)
        return web.Response(status=405)

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await told(request, EMPTY)

    async def main() -> None:
        async with answering(answer, come_back=come_back) as url, kept("", tmp_path, url=url, timeout=1.2) as server:
            assert "did not answer within" in (await server.call("say")).content
            assert 2 <= len(opened) <= 4
            before = len(opened)
            assert "did not answer within" in (await server.call("say")).content
            assert len(opened) <= 2 * before + 1

    asyncio.run(main())


def test_what_goes_on_without_end_is_read_no_more_when_its_call_is_over_and_holds_nobody_up(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = await told(request)
        try:
            while True:
                await response.write(b":\n\n" * 20_000)
        finally:
            left.set()

    async def main() -> None:
        async with answering(answer) as url, kept("", tmp_path, url=url, timeout=1.0) as server, holdups() as longest:
            began = time.thread_time()
            assert "did not answer within" in (await server.call("say")).content
            spent = time.thread_time() - began
            async with asyncio.timeout(5):
                await left.wait()
            assert spent < 0.7
            assert longest() < 0.5

    asyncio.run(main())


def test_a_call_that_is_cancelled_lets_go_of_its_connection(tmp_path: Path) -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["params"]["arguments"]:
            return web.json_response({"jsonrpc": "2.0", "id": body["id"], "result": {"content": []}})
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        raise AssertionError

    async def main() -> None:
        async with answering(answer) as url, kept("", tmp_path, url=url) as server:
            calling = asyncio.create_task(server.call("say"))
            async with asyncio.timeout(5):
                await begun.wait()
                calling.cancel()
                await left.wait()
            assert (await server.call("say", {"a": 1})).status == "ok"

    asyncio.run(main())


def test_an_answer_goes_on_in_another_stream_where_the_server_says_so(tmp_path: Path) -> None:
    asked: list[int] = []

    async def come_back(request: web.Request) -> web.StreamResponse:
        if request.headers.get("last-event-id") != "1":
            return web.Response(status=405)
        result = {"content": [{"type": "text", "text": "late"}]}
        message = {"jsonrpc": "2.0", "id": asked[-1], "result": result}
        return await told(request, b"data: " + json.dumps(message).encode() + b"\n\n")

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        asked.append(body["id"])
        return await told(request, EMPTY)

    async def main() -> None:
        async with answering(answer, come_back=come_back) as url, kept("", tmp_path, url=url) as server:
            for _ in range(2):
                assert (await server.call("say")).content == "late"

    asyncio.run(main())


@pytest.mark.parametrize("media", ["application/json", "text/event-stream"])
def test_an_answer_in_very_small_parts_holds_nobody_up(tmp_path: Path, media: str) -> None:
    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": media})
        response.enable_chunked_encoding()
        await response.prepare(request)
        assert request.transport is not None
        while True:
            request.transport.write(b"1\r\nx\r\n" * 5_000)
            await asyncio.sleep(0)
            while request.transport.get_write_buffer_size() > 1 << 16:
                await asyncio.sleep(0.001)

    async def main() -> None:
        async with answering(answer) as url, kept("", tmp_path, url=url, timeout=1.5) as server, holdups() as longest:
            assert "did not answer within" in (await server.call("say")).content
            assert longest() < 0.2

    asyncio.run(main())
