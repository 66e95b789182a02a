"""Servers over HTTP: one over the SDK in a process of its own, and such as answer what they should not."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from stepwell.tools.mcp.base import MOST_MESSAGE
from tests.support.mcp_clients import WAIT, kept, logged
from tests.support.mcp_sdk_server import COMMAND

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@asynccontextmanager
async def sdk_server(port: int) -> AsyncGenerator[str]:
    program = await asyncio.create_subprocess_exec(*COMMAND, str(port), stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(WAIT):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        program.kill()
        await program.wait()


@asynccontextmanager
async def answering(answer: Answer) -> AsyncGenerator[str]:
    """Serve MCP by hand: the handshake and one tool `say`, and what the test answers to its calls; never a goodbye."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method == "DELETE":
            await asyncio.Event().wait()
        if request.method != "POST":
            return web.Response(status=405)
        body = await request.json()
        match body.get("method"):
            case "initialize":
                told = {"protocolVersion": body["params"]["protocolVersion"], "capabilities": {"tools": {}}}
                result = {**told, "serverInfo": {"name": "hand", "version": "1"}}
                known = {"mcp-session-id": "1"}
                return web.json_response({"jsonrpc": "2.0", "id": body["id"], "result": result}, headers=known)
            case "tools/list":
                result = {"tools": [{"name": "say", "inputSchema": {"type": "object"}}]}
                return web.json_response({"jsonrpc": "2.0", "id": body["id"], "result": result})
            case "tools/call":
                return await answer(request, body)
            case _:
                return web.Response(status=202)

    app = web.Application()
    app.router.add_route("*", "/mcp", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
    finally:
        await runner.cleanup()


def test_a_server_over_http_works_and_gets_its_headers(tmp_path: Path) -> None:
    async def main() -> None:
        async with sdk_server(free_port()) as url, kept("", tmp_path, url=url, headers={"x-secret": "s3"}) as server:
            assert (await server.call("add", {"a": 2, "b": 3})).content == "5"
            assert (await server.call("echo_header")).content == "s3"
            told: list[str] = []
            assert (await server.call("work", told=told)).content == "done"
            assert told == ["1/2 half"]
            hanging = asyncio.create_task(server.call("hang"))
            await asyncio.sleep(0)
            hanging.cancel()
            await asyncio.gather(hanging, return_exceptions=True)
            assert len((await server.call("dot")).images) == 1

    asyncio.run(main())


def test_a_server_over_http_that_died_fails_in_words_and_is_there_again_when_it_is_back(tmp_path: Path) -> None:
    async def main() -> None:
        port = free_port()
        async with kept(
            "", tmp_path, url=f"http://127.0.0.1:{port}/mcp", effects={"add": "pure"}, start=False
        ) as server:
            assert "ConnectError" in await server.started()
            async with sdk_server(port):
                assert await server.started() == ""
                assert (await server.call("add", {"a": 1, "b": 1})).content == "2"
            gone = await server.call("add", {"a": 1, "b": 1})
            assert gone.status == "failed"
            assert gone.content.startswith("The MCP server s cannot be reached: ConnectError")
            async with sdk_server(port):
                assert (await server.call("add", {"a": 1, "b": 2})).content == "3"

    asyncio.run(main())


@pytest.mark.parametrize("said", ["nothing", "Bad Request: No valid session ID provided"])
def test_a_server_that_forgot_its_session_is_greeted_again_also_for_a_call_that_writes(
    tmp_path: Path, said: str
) -> None:
    calls: list[int] = []

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        calls.append(1)
        if len(calls) == 1 and said == "nothing":
            return web.Response(status=404)
        if len(calls) == 1:
            error = {"code": -32000, "message": said}
            return web.json_response({"jsonrpc": "2.0", "id": None, "error": error}, status=400)
        content = [{"type": "text", "text": "here"}]
        return web.json_response({"jsonrpc": "2.0", "id": body["id"], "result": {"content": content}})

    async def main() -> None:
        async with answering(answer) as url, kept("", tmp_path, url=url) as server:
            assert (await server.call("say")).content == "here"
            assert len(calls) == 2

    asyncio.run(main())


def test_an_answer_without_end_ends_the_connection(tmp_path: Path) -> None:
    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        try:
            for _ in range(2 * (MOST_MESSAGE >> 20)):
                await response.write(b"x" * (1 << 20))
        except ConnectionError:
            pass
        return response

    async def main() -> None:
        async with answering(answer) as url, kept("", tmp_path, url=url) as server:
            failed = await server.call("say")
            assert failed.status == "failed"
            assert "ended" in failed.content or "more than" in failed.content

    asyncio.run(main())


def test_a_server_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with answering(answer) as url:
            async with kept("", tmp_path, url=url, timeout=0.2) as server:
                hung = await server.call("say")
                assert "did not answer within 0.2 seconds" in hung.content
                began = loop.time()
            assert loop.time() - began < 4

    asyncio.run(main())


def test_a_key_that_is_refused_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=401)

    async def main() -> None:
        app = web.Application()
        app.router.add_route("*", "/mcp", refuse)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
            async with kept("", tmp_path, url=url, start=False) as server:
                assert (await server.started()).startswith("it refuses the handshake: ")
        finally:
            await runner.cleanup()

    asyncio.run(main())
    assert "MCP server s answers with status 401; look at its headers" in logged(caplog)


def test_an_error_of_http_or_another_page_fails_in_words(tmp_path: Path) -> None:
    answers = [
        web.Response(status=500, text="oops"),
        web.Response(text="<html>", content_type="text/html"),
        web.Response(text="{broken", content_type="application/json"),
        web.Response(status=302, headers={"location": "http://127.0.0.1:1/elsewhere"}),
    ]

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return answers.pop(0)

    async def main() -> None:
        async with answering(answer) as url, kept("", tmp_path, url=url) as server:
            for words in ("error response", "Unexpected content type", "parse", "not followed"):
                failed = await server.call("say")
                assert failed.status == "failed"
                assert words in failed.content

    asyncio.run(main())


def test_an_address_that_is_no_server_of_mcp_is_told_in_words(tmp_path: Path) -> None:
    async def main() -> None:
        app = web.Application()
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
            async with kept("", tmp_path, url=url, start=False) as server:
                assert (await server.started()).startswith("it refuses the handshake: ")
        finally:
            await runner.cleanup()

    asyncio.run(main())
