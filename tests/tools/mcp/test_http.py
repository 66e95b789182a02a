"""Servers over HTTP: one over the SDK in a process of its own, and such as answer what they should not."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from stepwell.config import McpSettings
from tests.support.mcp_clients import WAIT, holdups, kept, logged
from tests.support.mcp_sdk_server import COMMAND

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@asynccontextmanager
async def sdk_server(port: int, command: tuple[str, ...] = COMMAND, *more: str) -> AsyncGenerator[str]:
    program = await asyncio.create_subprocess_exec(*command, str(port), *more, stderr=asyncio.subprocess.DEVNULL)
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
async def serving(handle: Callable[[web.Request], Awaitable[web.StreamResponse]] | None) -> AsyncGenerator[str]:
    """Serve one handler at `/mcp`, or nothing at all, and yield the address."""
    app = web.Application()
    if handle is not None:
        app.router.add_route("*", "/mcp", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def answering(
    answer: Answer,
    goodbye: bool = True,
    come_back: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None,
) -> AsyncGenerator[str]:
    """Serve MCP by hand: the handshake and one tool `say`, the answers of the test to calls and GET, a goodbye."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method == "DELETE" and not goodbye:
            await asyncio.Event().wait()
        if request.method == "GET" and come_back is not None:
            return await come_back(request)
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
            case None if not goodbye:
                await asyncio.Event().wait()
                raise AssertionError
            case _:
                return web.Response(status=202)

    async with serving(handle) as url:
        yield url


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


@pytest.mark.parametrize("said", ["nothing", "Session not found", "Bad Request: No valid session ID provided"])
def test_a_server_that_forgot_its_session_is_greeted_again_also_for_a_call_that_writes(
    tmp_path: Path, said: str
) -> None:
    calls: list[int] = []

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        calls.append(1)
        if len(calls) == 1 and said == "nothing":
            return web.Response(status=404)
        if len(calls) == 1:
            code, status = (-32600, 404) if "found" in said else (-32000, 400)
            error = {"code": code, "message": said}
            return web.json_response({"jsonrpc": "2.0", "id": None, "error": error}, status=status)
        content = [{"type": "text", "text": "here"}]
        return web.json_response({"jsonrpc": "2.0", "id": body["id"], "result": {"content": content}})

    async def main() -> None:
        async with answering(answer) as url, kept("", tmp_path, url=url) as server:
            assert (await server.call("say")).content == "here"
            assert len(calls) == 2

    asyncio.run(main())


def sent(body: dict[str, Any], result: bytes, streamed: bool) -> web.Response:
    message = b'{"jsonrpc":"2.0","id":%d,"result":%s}' % (body["id"], result)
    if streamed:
        event = b"event: message\r\ndata: " + message + b"\r\n\r\n"
        return web.Response(body=event, content_type="text/event-stream")
    return web.Response(body=message, content_type="application/json")


PICTURE = b'{"content":[{"type":"text","text":"%s"}]}'
VALUES = b'{"content":[],"structuredContent":{"a":[%s]}}'
FAULTS = [
    (PICTURE % (b"x" * (40 << 20)), "it has more than 32 MB"),
    (VALUES % (b"{}," * 5_000_000 + b"{}"), "it is too much to take apart"),
    (b'5,"a":"%s"' % (b"x" * (30 << 20)), "it is no message"),
]


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_is_too_much_is_a_failed_call_in_words_and_the_connection_stays(
    tmp_path: Path, streamed: bool
) -> None:
    results = [each for each, _ in FAULTS] + [PICTURE % (b"x" * (2 << 20)), VALUES % b"{},{}"]
    left = iter(results)

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return sent(body, next(left), streamed)

    async def main() -> None:
        async with answering(answer) as url, kept("", tmp_path, url=url) as server, holdups() as longest:
            for _, words in FAULTS:
                failed = await server.call("say")
                assert failed.status == "failed"
                assert failed.content == (
                    f"The call reached the MCP server s, but its answer is not taken: {words}; ask it for less."
                )
            assert len((await server.call("say")).whole) == 2 << 20
            assert (await server.call("say")).content == '{"a":[{},{}]}'
            assert len(server.offers) == 1
            assert longest() < 1.0

    asyncio.run(main())


@pytest.mark.parametrize("media", ["application/json", "text/event-stream"])
def test_an_answer_without_end_is_a_failed_call(tmp_path: Path, media: str) -> None:
    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": media})
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(b"x" * (1 << 20))
        return response

    async def main() -> None:
        async with answering(answer) as url, kept("", tmp_path, url=url) as server:
            failed = await server.call("say")
            assert failed.status == "failed"
            assert failed.content.startswith("The call reached the MCP server s, but its answer is not taken: it ")

    asyncio.run(main())


def test_events_come_through_however_they_are_cut(tmp_path: Path) -> None:
    cuts = [(line, size) for line in ("\n", "\r\n", "\r") for size in (1, 2, 3, 7, 1 << 16)]
    left = iter(cuts)
    told = {"jsonrpc": "2.0", "method": "notifications/progress"}

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-7"})
        await response.prepare(request)
        line, size = next(left)
        token = body["params"]["_meta"]["progressToken"]
        messages: list[dict[str, Any]] = [
            {**told, "params": {"progressToken": token, "progress": 1, "message": "half\n"}},
            {"jsonrpc": "2.0", "id": body["id"], "result": {"content": [{"type": "text", "text": "done 一"}]}},
        ]
        parts = [f": hello{line}{line}", f"id: 1{line}data:{line}{line}"]
        parts += [line.join(["event: message", f"data: {json.dumps(each)}", "", ""]) for each in messages]
        data = "".join(parts).encode()
        for start in range(0, len(data), size):
            await response.write(data[start : start + size])
            await asyncio.sleep(0)
        return response

    async def main() -> None:
        async with answering(answer) as url, kept("", tmp_path, url=url) as server:
            for _ in cuts:
                heard: list[str] = []
                assert (await server.call("say", told=heard)).content == "done 一"
                assert heard == ["1 half"]

    asyncio.run(main())


def test_a_server_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with answering(answer, goodbye=False) as url:
            async with kept("", tmp_path, url=url, timeout=0.2) as server:
                hung = await server.call("say")
                assert "did not answer within 0.2 seconds" in hung.content
                began = loop.time()
            assert loop.time() - began < 4

    asyncio.run(main())


def test_a_server_that_does_not_take_our_answer_holds_up_no_other_call(tmp_path: Path) -> None:
    question = {"message": "Sure?", "requestedSchema": {"type": "object", "properties": {}}}
    asked = {"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": question}

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        done = {"jsonrpc": "2.0", "id": body["id"], "result": {"content": [{"type": "text", "text": "done"}]}}
        events = b"".join(b"data: %s\n\n" % json.dumps(each).encode() for each in (asked, done))
        return web.Response(body=events, content_type="text/event-stream")

    async def main() -> None:
        async with answering(answer, goodbye=False) as url, kept("", tmp_path, url=url, timeout=5.0) as server:
            for _ in range(2):
                assert (await server.call("say")).content == "done"

    asyncio.run(main())


def test_an_answer_to_another_request_is_taken_for_none_of_them(tmp_path: Path) -> None:
    asked: list[int] = []
    both, wrong = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        asked.append(body["id"])
        if len(asked) == 2:
            both.set()
            content = [{"type": "text", "text": "of another"}]
            return web.json_response({"jsonrpc": "2.0", "id": asked[0], "result": {"content": content}})
        await both.wait()
        await wrong.wait()
        content = [{"type": "text", "text": "its own"}]
        return web.json_response({"jsonrpc": "2.0", "id": str(body["id"]), "result": {"content": content}})

    async def main() -> None:
        async with answering(answer) as url, kept("", tmp_path, url=url) as server:
            first, second = (asyncio.create_task(server.call("say", thread=each)) for each in "ab")
            ended, _ = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
            wrong.set()
            (failed,) = (each.result() for each in ended)
            assert failed.content.endswith("but what it answers is another request.")
            contents = {(await each).content for each in (first, second)}
            assert contents == {failed.content, "its own"}

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["error", "failed"])
def test_a_key_that_a_server_repeats_stands_in_no_message(tmp_path: Path, kind: str) -> None:
    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        said = f"key {request.headers['authorization'].partition(' ')[2]} is not good"
        failed = {"result": {"isError": True, "content": [{"type": "text", "text": said}]}}
        told = {"error": {"code": -32000, "message": said}} if kind == "error" else failed
        return web.json_response({"jsonrpc": "2.0", "id": body["id"], **told})

    async def main() -> None:
        async with answering(answer) as url:
            settings = McpSettings(url=url, headers={"Authorization": SecretStr("Bearer k3y-1234567")})
            sent = {"headers": settings.sent_headers({}), "secrets": settings.secrets({})}
            async with kept("", tmp_path, url=url, **sent) as server:
                failed = await server.call("say")
                assert failed.status == "failed"
                assert failed.content.endswith("key *** is not good")

    asyncio.run(main())


def test_a_server_that_answers_nothing_any_more_is_greeted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepwell.tools.mcp.connection.PING", 0.3)
    greeted: list[int] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.method == "POST" else {}
        known = {"mcp-session-id": str(len(greeted))}
        match body.get("method"):
            case "initialize":
                greeted.append(1)
                told = {"protocolVersion": body["params"]["protocolVersion"], "capabilities": {"tools": {}}}
                result: dict[str, Any] = {**told, "serverInfo": {"name": "hand", "version": "1"}}
            case "tools/list":
                result = {"tools": [{"name": "say", "inputSchema": {"type": "object"}}]}
            case "notifications/initialized":
                return web.Response(status=202)
            case "tools/call" if len(greeted) > 1:
                result = {"content": [{"type": "text", "text": "here"}]}
            case _:
                await asyncio.Event().wait()
                raise AssertionError
        return web.json_response({"jsonrpc": "2.0", "id": body["id"], "result": result}, headers=known)

    async def main() -> None:
        async with serving(handle) as url, kept("", tmp_path, url=url, timeout=0.3) as server:
            for _ in range(2):
                assert "did not answer within 0.3 seconds" in (await server.call("say")).content
            await server.listed(2)
            assert (await server.call("say")).content == "here"

    asyncio.run(main())


def test_a_key_that_is_refused_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=401)

    async def main() -> None:
        async with serving(refuse) as url, kept("", tmp_path, url=url, start=False) as server:
            assert (await server.started()).startswith("it refuses the handshake: ")

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
            for words in (
                "error response",
                "Unexpected content type",
                "but its answer cannot be read",
                "not followed",
            ):
                failed = await server.call("say")
                assert failed.status == "failed"
                assert words in failed.content

    asyncio.run(main())


def test_an_address_that_is_no_server_of_mcp_is_told_in_words(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(None) as url, kept("", tmp_path, url=url, start=False) as server:
            assert (await server.started()).startswith("it refuses the handshake: ")

    asyncio.run(main())


@pytest.mark.parametrize("media", ["application/json", "text/event-stream"])
def test_half_a_letter_in_an_answer_is_replaced(tmp_path: Path, media: str) -> None:
    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        result = {"content": [{"type": "text", "text": "half \ud83d"}]}
        came = json.dumps({"jsonrpc": "2.0", "id": body["id"], "result": result})
        text = f"event: message\ndata: {came}\n\n" if media == "text/event-stream" else came
        return web.Response(text=text, content_type=media)

    async def main() -> None:
        async with answering(answer) as url, kept("", tmp_path, url=url) as server:
            assert (await server.call("say")).content == "half \ufffd"

    asyncio.run(main())
