"""Bad input: whatever a client sends, it is told which field is wrong, and the server and its logs stay whole."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import random
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from stepwell.events import Unknown
from stepwell.server import auth, run
from tests.support.endpoint import Endpoint, Reply, Request, text
from tests.support.server import SSE, Server, scripted, serving

LONE = "\ud83d"
JSON = {"content-type": "application/json"}
MAX_BODY = 100_000


def answer(request: Request) -> Reply:
    return text("Final Answer: ok")


def with_server(tmp_path: Path, work: Callable[[Server], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Run a test against a server whose log is checked afterwards."""

    async def main() -> None:
        async with Endpoint(answer) as endpoint:
            chosen = {"models": scripted(endpoint), "max_body": MAX_BODY, **settings}
            async with serving(tmp_path, **chosen) as server:
                await work(server)
                assert (await server.say(await server.thread(), "still there?"))[-1].type == "run_ended"
                await logs_are_valid(server)

    asyncio.run(main())


async def logs_are_valid(server: Server) -> None:
    for info in await server.service.threads("local", limit=10_000):
        events = await server.service.events("local", info.id, limit=10_000)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        for event in events:
            assert not isinstance(event.event, Unknown)
            shown = event.to_json().decode()
            assert "\\u0000" not in shown
            assert not any(0xD800 <= ord(char) < 0xE000 for char in shown)
            json.loads(shown)


async def refused(server: Server, method: str, path: str, body: bytes, **headers: str) -> tuple[int, str, str]:
    """Send a body as it is; return status, field and message of the refusal."""
    status, got = await server.call(method, path, headers=server.headers(**(JSON | headers)), data=body)
    if "detail" in got:
        first = got["detail"][0]
        assert set(first) >= {"loc", "msg", "type"}
        return status, ".".join(str(part) for part in first["loc"][1:]), first["msg"]
    return status, got["error"]["field"], got["error"]["message"]


# Wrong fields

MESSAGE = {
    "content": "x",
    "images": [{"url": "https://x.test/y.png", "detail": "low"}],
    "model": "m",
    "tools": ["now"],
    "system": "s",
    "temperature": 1.0,
    "max_tokens": 5,
    "limits": {"steps": 1, "tool_calls": 1, "tokens": 100, "seconds": 1.0},
    "output": {"title": "Answer", "type": "object", "properties": {"x": {"type": "string"}}},
}
VALUES: list[Any] = [None, True, 7, -7, 0.5, "text", "", [], ["x"], [None], {}, {"x": 1}, [[]], "9" * 400, 10**400]

WRONG_FIELDS: list[tuple[str, Any, str]] = [
    *(("content", value, "content") for value in (None, True, 7, 0.5, [], {}, "a\0b", LONE)),
    ("content", "", "content"),
    *(("images", value, "images") for value in (None, True, 7, "text", {})),
    ("images", [7], "images.0"),
    ("images", [{}], "images.0.url"),
    *(
        ("images", [{"url": url}], "images.0.url")
        for url in (None, 7, "", "ftp://x", "http://x", "file:///x", "x.png", "data:text/html,x", "https://x\0", LONE)
    ),
    *(("images", [{"url": "https://x", "detail": each}], "images.0.detail") for each in (None, 7, "huge", "low\n")),
    ("images", [{"url": "https://x", "more": 1}], "images.0.more"),
    ("images", [{"url": "https://x"}] * 101, "images"),
    *(("model", value, "model") for value in (None, True, 7, [], {}, "none such", "m\0", LONE, "x" * 201)),
    *(("tools", value, "tools") for value in (True, 7, "now", {})),
    *(
        ("tools", ["now", value], "tools.1")
        for value in (None, True, 7, [], {}, "none such", "NOW", "nοw", "shell", "")
    ),
    ("tools", ["x" * 201], "tools.0"),
    ("tools", ["now"] * 501, "tools"),
    *(("system", value, "system") for value in (True, 7, [], {}, "\0", LONE)),
    *(("temperature", value, "temperature") for value in (-0.1, 2.1, "warm", [], {}, 10**400, "nan", "inf")),
    *(("max_tokens", value, "max_tokens") for value in (0, -1, 0.5, "many", [], {}, 10**10, 10**400)),
    *(("limits", value, "limits") for value in (True, 7, "x", [])),
    *(("limits", {"steps": value}, "limits.steps") for value in (0, -1, 0.5, "x", [], 10**400)),
    *(("limits", {"tool_calls": value}, "limits.tool_calls") for value in (-1, 0.5, "x", [])),
    *(("limits", {"tokens": value}, "limits.tokens") for value in (0, "x", 10**400)),
    *(("limits", {"seconds": value}, "limits.seconds") for value in (0, -1, "x", 10**400, "nan", "inf")),
    ("limits", {"minutes": 1}, "limits.minutes"),
    *(("output", value, "output") for value in (True, 7, "x", [])),
    *(
        ("output", {"title": "T", "type": "object", **wrong}, "output")
        for wrong in (
            {"title": 7},
            {"type": "array"},
            {"properties": 7},
            {"description": "\0"},
            {"description": LONE},
            {"description": "x" * 70_000},
            {"title": "now"},
            {"title": "recall"},
        )
    ),
    ("output", {"type": "object"}, "output"),
    ("limit", 1, "limit"),
    ("thread", "x", "thread"),
    (LONE, 1, "body"),
    ("a\0b", 1, "a\ufffdb"),
    ("", 1, "body"),
]


def test_a_wrong_field_of_a_message_is_named_and_nothing_is_stored(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        thread = await server.thread()
        for path in (f"/api/threads/{thread}/messages", "/api/messages"):
            for name, value, field in WRONG_FIELDS:
                body = json.dumps({**MESSAGE, name: value} | ({"images": []} if name == "content" else {})).encode()
                for headers in ({}, SSE, {"idempotency-key": "k"}):
                    status, told, message = await refused(server, "POST", path, body, **headers)
                    assert (status, told) == (422, field), (name, value, message)
                    assert message
        assert (await server.call("GET", f"/api/threads/{thread}"))[1]["seq"] == 0
        assert len((await server.call("GET", "/api/threads"))[1]["threads"]) == 1

    with_server(tmp_path, work)


@pytest.mark.parametrize(
    ("method", "path", "right", "wrong"),
    [
        ("POST", "/api/threads", {"title": "x"}, {"title": [None, 7, [], {}, "\0", LONE, "x" * 201], "more": [1]}),
        ("PATCH", "/api/threads/{thread}", {"title": "x"}, {"title": [None, 7, [], {}, "", "\0", LONE, "x" * 201]}),
        (
            "POST",
            "/api/threads/{thread}/runs/1/cancel",
            {"reason": "x"},
            {"reason": [None, 7, [], {}, "\0", LONE, "x" * 1001], "run": [1]},
        ),
        ("PATCH", "/api/threads/{thread}", {"policy": "steer"}, {"policy": [None, 7, "", "later"], "more": [1]}),
        ("PATCH", "/api/threads/{thread}/queue/1", {}, {"content": [None, 7, "", LONE], "before": [None, -1, "x"]}),
        (
            "POST",
            "/api/threads/{thread}/fork",
            {"at": 1},
            {"at": [None, 0, "x", 2**40], "edit": [7, {}], "model": [None, "x" * 201], "title": [None], "more": [1]},
        ),
        ("POST", "/api/threads/{thread}/fork", {"at": 1, "edit": {"call": "c", "content": "x"}}, {"edit": [[], "x"]}),
    ],
)
def test_a_wrong_field_of_another_body_is_named(
    tmp_path: Path, method: str, path: str, right: dict[str, Any], wrong: dict[str, list[Any]]
) -> None:
    async def work(server: Server) -> None:
        at = path.format(thread=await server.thread())
        for name, values in wrong.items():
            for value in values:
                status, field, _ = await refused(server, method, at, json.dumps({**right, name: value}).encode())
                assert (status, field) == (422, name), value
        if method == "PATCH":
            assert (await refused(server, method, at, b"{}"))[:2] == (422, "body")
            assert (await refused(server, method, at, b""))[:2] == (422, "body")

    with_server(tmp_path, work)


def bodies() -> Iterator[tuple[bytes, str]]:
    """Yield bodies that are no JSON object of one meaning, with a word that the refusal has."""
    yield b"", ""
    yield b"null", ""
    yield b"[]", ""
    yield b'"text"', ""
    yield b"7", ""
    yield b"true", ""
    yield b"{", "JSON"
    yield b"}", "JSON"
    yield b'{"content": "x"', "JSON"
    yield b'{"content": "x",}', "JSON"
    yield b"{'content': 'x'}", "JSON"
    yield b'{"content": x}', "JSON"
    yield b'{"content": "x"} trailing', "JSON"
    yield b'{"content": "x"}{"content": "y"}', "JSON"
    yield b'{"content": "a\nb"}', "JSON"
    yield b'{"content": "\\x41"}', "JSON"
    yield b'\xff\xfe{"content": "x"}', ""
    yield b'{"content": "\xff"}', "UTF-8"
    yield b'{"content": "\xed\xa0\x80"}', "UTF-8"
    yield b"\x00", "JSON"
    yield b'{"content": "x", "content": "y"}', "`content`"
    yield b'{"content": "x", "temperature": 0, "temperature": 1}', "`temperature`"
    yield b'{"content": "x", "limits": {"steps": 1, "steps": 2}}', "`steps`"
    yield b'{"content": "x", "temperature": NaN}', "NaN"
    yield b'{"content": "x", "temperature": Infinity}', "Infinity"
    yield b'{"content": "x", "temperature": -Infinity}', "Infinity"
    yield b'{"content": "x", "max_tokens": ' + b"9" * 5000 + b"}", "digits"
    yield b'{"content": "x", "max_tokens": -' + b"9" * 5000 + b"}", "digits"
    yield b'{"content": ' + b"[" * 40_000 + b"]" * 40_000 + b"}", "deep"
    yield b'{"content": ' * 6_000 + b"1" + b"}" * 6_000, "deep"


def test_a_body_that_is_no_json_of_one_meaning_is_refused_on_every_route(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        thread = await server.thread()
        for body, word in bodies():
            for path in ("/api/messages", f"/api/threads/{thread}/messages", "/chat/agent_chat"):
                name = b"query" if "chat" in path else b"content"
                status, field, message = await refused(server, "POST", path, body.replace(b"content", name))
                assert status == 422, (path, body[:60])
                if path.startswith("/api"):
                    assert field in ("body", "content"), (body[:60], message)
                    assert word in message, (body[:60], message)
                    if word:
                        assert field == "body"
        for body in (b"[]", b"7", b"{", b'{"title": "x", "title": "y"}', b"[" * 50_000):
            assert (await refused(server, "POST", "/api/threads", body))[:2] == (422, "body"), body[:60]
        assert len((await server.call("GET", "/api/threads"))[1]["threads"]) == 1

    with_server(tmp_path, work)


def test_a_body_that_is_not_called_json_is_refused_with_the_remedy(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        body = b'{"content": "x", "query": "x"}'
        for path in ("/api/messages", "/api/threads", "/chat/agent_chat"):
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json"):
                async with server.session.post(
                    server.url + path, data=body, headers={"content-type": kind}
                ) as response:
                    assert response.status == 415, (path, kind)
                    assert "application/json" in (await response.json())["error"]["message"]
        for kind in ("application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.x+json"):
            status, _ = await server.call(
                "POST", "/api/threads", data=b'{"title": "x"}', headers={"content-type": kind}
            )
            assert status == 201
        head = f"POST /api/threads HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\ncontent-length: 14\r\n\r\n"
        assert (await server.raw(head.encode(), b'{"title": "x"}')).status == 201

    with_server(tmp_path, work)


# Size


def test_a_body_over_the_limit_is_a_413_with_and_without_a_length(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        async def pieces(size: int) -> Any:
            for _ in range(size // 1000):
                yield b" " * 1000

        for path in ("/api/messages", "/api/threads", "/chat/agent_chat"):
            for data in (b" " * (MAX_BODY + 1), pieces(MAX_BODY + 1000), pieces(30 * MAX_BODY)):
                async with server.session.post(server.url + path, data=data, headers=JSON) as response:
                    assert response.status == 413, path
                    body = await response.json()
                    assert f"{MAX_BODY} bytes" in body["error"]["message"]
        fits = json.dumps({"title": "x"}).encode().ljust(MAX_BODY)
        assert (await server.call("POST", "/api/threads", data=fits, headers=JSON))[0] == 201
        # The connection is refused before the body is read.
        head = (
            f"POST /api/messages HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\ncontent-length: 999999999999999\r\n\r\n"
        )
        assert (await server.raw(head.encode())).status == 413

    with_server(tmp_path, work)


def test_a_head_without_end_is_a_431(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        for head in (
            b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"a" * 1_000_000,
            b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n" + b"x: y\r\n" * 200_000,
            b"GET /" + b"a" * 1_000_000,
        ):
            stream = await server.raw(head)
            assert stream.status == 431
            await stream.closed()
        long = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"a" * 20_000 + b"\r\n\r\n"
        assert (await server.raw(long)).status == 200

    with_server(tmp_path, work)


def test_what_is_no_http_is_a_400(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        host = f"host: 127.0.0.1:{server.port}\r\n".encode()
        for head in (
            b"nonsense\r\n\r\n",
            b"GET /health HTTP/9.9\r\n" + host + b"\r\n",
            b"GET /h\xc3\xa9 HTTP/1.1\r\n" + host + b"\r\n",
            b"GET /health HTTP/1.1\r\n" + host + b"no colon\r\n\r\n",
            b"GET /health HTTP/1.1\r\n" + host + b"x: a\x00b\r\n\r\n",
            b"POST /api/threads HTTP/1.1\r\n" + host + b"content-length: -1\r\n\r\n",
            b"POST /api/threads HTTP/1.1\r\n" + host + b"content-length: 1e3\r\n\r\n",
            b"POST /api/threads HTTP/1.1\r\n" + host + b"content-length: " + b"9" * 40 + b"\r\n\r\n",
            b"POST /api/threads HTTP/1.1\r\n" + host + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
            b"POST /api/threads HTTP/1.1\r\n" + host + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\x00" * 64,
        ):
            assert (await server.raw(head)).status == 400, head

    with_server(tmp_path, work)


# Places outside bodies

CURSORS = [
    "-1",
    "1.-1",
    "x",
    "1.x",
    "1.2.3",
    ".",
    "1.",
    ".5",
    "1e3",
    "+1",
    "0x1",
    "１",
    "1\0",
    "NaN",
    "99",
    "99.5",
    "999999999999999",
    "9" * 16,
    "9" * 31,
    "9" * 5000,
    "null",
    "1;DROP",
]


def test_a_cursor_that_is_garbage_or_in_the_future_is_refused(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        thread = await server.thread()
        await server.say(thread, "x")
        path = f"/api/threads/{thread}/events"
        for cursor in CURSORS:
            for accept in ({}, SSE):
                status, body = await server.call("GET", f"{path}?after={quote(cursor)}", headers=accept)
                assert (status, body["error"]["field"]) == (422, "after"), cursor
                if cursor.isascii() and "\0" not in cursor:
                    headers = {**accept, "last-event-id": cursor}
                    status, body = await server.call("GET", path, headers=headers)
                    assert (status, body["error"]["field"].lower()) == (422, "last-event-id"), cursor
        for cursor in ("", "0", "3", "007", "3.99999", "0.5"):
            assert (await server.call("GET", f"{path}?after={cursor}"))[0] == 200, cursor

    with_server(tmp_path, work)


def test_a_future_cursor_is_refused_during_a_run_too(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        async with (
            Endpoint([Reply([held, *text("ok").pieces])]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            thread = await server.thread()
            run = await server.start(thread, "x")
            for accept in ({}, SSE):
                status, body = await server.call("GET", f"/api/threads/{thread}/events?after=1000", headers=accept)
                assert (status, body["error"]["field"]) == (422, "after")
            held.set()
            await server.ended(thread, run)

    asyncio.run(main())


def test_numbers_and_ids_out_of_range_are_refused_by_name(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        thread = await server.thread()
        queries = [
            *((f"/api/threads?limit={value}", "limit") for value in ("0", "-1", "201", "x", "1.5", "9" * 5000, "%00")),
            *(
                (f"/api/threads?before={value}", "before")
                for value in ("x", "%00", "a" * 31, "A" * 32, "%27", "a" * 33)
            ),
            *(
                (f"/api/threads/{thread}/events?limit={value}", "limit")
                for value in ("0", "-1", "201", "x", "", "9" * 5000)
            ),
            *((f"/api/threads/{thread}/events?run={value}", "run") for value in ("-1", "x", "9" * 20, "9" * 5000)),
            *(
                (f"/api/threads/{value}", "thread")
                for value in ("x", "%00", "A" * 32, "a" * 33, "%ed%a0%80", "a" * 31 + "%0a", "0" * 5000)
            ),
            *((f"/api/threads/{value}/events", "thread") for value in ("x", "%00", "%F0%9F%92%A9")),
        ]
        for path, field in queries:
            for accept in ({}, SSE):
                status, body = await server.call("GET", path, headers=accept)
                assert (status, body["error"]["field"]) == (422, field), path[:80]
        for number in ("0", "-1", "x", "1.5", "9" * 20, "9" * 5000, "%00", "1%00"):
            status, body = await server.call("POST", f"/api/threads/{thread}/runs/{number}/cancel")
            assert (status, body["error"]["field"]) == (422, "run"), number
        for key in ("x" * 201,):
            status, body = await server.call("POST", "/api/threads", headers={"idempotency-key": key})
            assert (status, body["error"]["field"].lower()) == (422, "idempotency-key")
        for key in ("\xe9\xff", "x" * 200, "'; DROP TABLE threads", "%00"):
            assert (await server.call("POST", "/api/threads", headers={"idempotency-key": key}))[0] == 201, key

    with_server(tmp_path, work)


def test_odd_but_valid_text_is_kept_as_it_is(tmp_path: Path) -> None:
    odd = "\ufeff\ufffe\uffff\u2028\u2029\x85\x7f\x1b[31m\u202e🏮\U0010ffff 'quoted' \"twice\" \\ </script>\r\n\t"

    async def work(server: Server) -> None:
        thread = await server.thread(odd)
        assert (await server.call("GET", f"/api/threads/{thread}"))[1]["title"] == odd
        events = [frame.body["event"] for frame in await server.say(thread, odd, system=odd)]
        assert events[0]["spec"]["system"] == odd
        assert events[1]["message"]["content"] == odd
        for title in ("'; DROP TABLE threads; --", "%", "_", "NULL", "\\"):
            renamed = await server.call("PATCH", f"/api/threads/{thread}", json={"title": title})
            assert renamed[1]["title"] == title

    with_server(tmp_path, work)


def test_a_body_that_does_not_come_is_given_up_and_a_stream_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "BODY_SECONDS", 0.2)

    async def work(server: Server) -> None:
        head = "POST /api/messages HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        slow = await server.raw(f"{head}content-length: 100\r\n\r\n".encode(), b'{"content": "')
        assert slow.status == 408
        assert "faster" in json.loads(await slow.content())["error"]["message"]
        thread = await server.thread()
        stream = await server.follow(thread, "0")
        over = asyncio.get_running_loop().time() + 0.5
        while asyncio.get_running_loop().time() < over:
            await server.call("GET", "/health")
        await server.say(thread, "x")
        assert (await stream.until("run_ended"))[-1].type == "run_ended"

    with_server(tmp_path, work)


DEEP = [
    ("/api/messages", '{"content": "x", "client_tools": [{"name": "w", "parameters": {"type": "object", "x": %s}}]}'),
    ("/api/threads/%(thread)s/questions/1/answer", '{"decision": "approve", "arguments": %s}'),
    ("/v1/chat/completions", '{"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": [%s]}'),
    ("/v1/responses", '{"model": "m", "input": [{"type": "mcp_call", "name": "w", "arguments": {"a": %s}}]}'),
    ("/agui", '{"threadId": "%(depth)s", "runId": "r", "messages": [{"id": "1", "role": "user"}], "state": {"a": %s}}'),
]


def test_a_body_is_refused_at_every_depth_at_which_it_could_not_be_written_again(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        thread = await server.thread()
        for depth in (202, *range(930, 990)):
            nested = '{"a":' * depth + "1" + "}" * depth
            for path, form in DEEP:
                body = form.replace("%(depth)s", str(depth)).replace("%s", nested).encode()
                status, told = await server.call(
                    "POST", path.replace("%(thread)s", thread), headers=server.headers(**JSON), data=body
                )
                expected = 400 if path.startswith("/v1/") else 422
                assert (status, "nested too deep" in told["error"]["message"]) == (expected, True), (depth, path)

    with_server(tmp_path, work)


def test_a_body_that_is_packed_is_refused_for_that(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        packed = gzip.compress(b'{"content": "x"}')
        told = await refused(server, "POST", "/api/messages", packed, **{"content-encoding": "gzip"})
        assert (told[0], "content-encoding" in told[2]) == (422, True)

    with_server(tmp_path, work)


def test_a_stream_whose_request_has_a_body_that_nobody_reads_is_let_go_of(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        thread = await server.thread()
        head = f"GET /api/threads/{thread}/events HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: text/event-stream\r\n"
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [b"x" * 20_000] * 8)
        stream = await server.raw(f"{head}transfer-encoding: chunked\r\n\r\n".encode(), body)
        assert stream.status == 200
        assert await stream.rest() == []
        async with server.service.using("local", thread) as log:
            assert log.channel.readers == 1

    with_server(tmp_path, work)


async def closes(server: Server, *parts: bytes) -> bytes:
    """Send parts one after the other, the last again and again, and return what comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    over = asyncio.ensure_future(reader.read())
    try:
        async with asyncio.timeout(10):
            for part in itertools.chain(parts, itertools.repeat(parts[-1])):
                writer.write(part)
                await asyncio.wait([over], timeout=0.05)
                if over.done():
                    return b"" if over.exception() else over.result()
    finally:
        over.cancel()
        writer.close()
    raise AssertionError("unreachable")


def test_a_connection_on_which_no_request_comes_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "HEAD_SECONDS", 0.3)

    async def work(server: Server) -> None:
        thread = await server.thread()
        followed = await server.follow(thread, "0")
        assert await closes(server, b"") == b""
        begun = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        assert (await closes(server, begun, b"x: y\r\n")).startswith(b"HTTP/1.1 408 ")
        twice = await closes(server, begun + b"\r\n" + begun, b"x: y\r\n")
        assert twice.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 408 " in twice
        unread = b"POST /api/messages HTTP/1.1\r\nhost: elsewhere\r\ncontent-length: 1000\r\n\r\n"
        assert (await closes(server, unread, b"x")).startswith(b"HTTP/1.1 403 ")
        # What ends the wait for the next request, and begins none: the rest of a body, or an empty line.
        assert (await closes(server, unread, b"x" * 1000, b"")).startswith(b"HTTP/1.1 403 ")
        for more in ("", "connection: upgrade\r\nupgrade: websocket\r\n"):
            asked = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n%b\r\n" % more.encode()
            assert (await closes(server, asked, b"\r\n", b"")).startswith(b"HTTP/1.1 200 ")
        # A body behind another request has the time of a body.
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        made = b"POST /api/threads HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{"
        writer.write(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" + made)
        assert await closes(server, b"") == b""  # as long as a head may take, and longer
        writer.write(b"}")
        async with asyncio.timeout(10):
            assert b"HTTP/1.1 201 " in await reader.read()
        writer.close()
        await server.call("DELETE", f"/api/threads/{thread}")
        assert await followed.rest() == []  # it was open all the time

    with_server(tmp_path, work)


def test_a_field_that_is_there_twice_among_many_is_found_at_once(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        names = [f'"{number}":1' for number in range(90_000)]
        body = ("{" + ",".join([*names, '"content": "x"', '"content": "y"']) + "}").encode()
        _, _, message = await refused(server, "POST", "/api/messages", body)
        assert "`content` is there twice" in message

    with_server(tmp_path, work, max_body=10_000_000)


# Anything at all


def random_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(8 if depth < 3 else 6)
    match kind:
        case 0:
            return rng.choice([None, True, False])
        case 1:
            return rng.choice([0, 1, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30])
        case 2:
            return rng.choice([0.0, -0.5, 1e308, 5e-324, 0.1])
        case 3 | 4:
            return "".join(rng.choice("ab\0\ud800\udfff\u2028🏮\x1b%'\"\\") for _ in range(rng.randrange(5)))
        case 5:
            return rng.choice(["m", "now", "true", "5", "https://x", "default"])
        case 6:
            return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case _:
            names = ["content", "query", "url", "role", "steps", "x", "\0", "\ud800"]
            return {rng.choice(names): random_value(rng, depth + 1) for _ in range(rng.randrange(4))}


@pytest.mark.parametrize("seed", range(3))
def test_no_body_makes_the_server_fail(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)

    async def work(server: Server) -> None:
        _, document = await server.call("GET", "/openapi.json")
        thread = await server.thread()
        routes: list[tuple[str, str, dict[str, Any]]] = []
        documented = {path: item for path, item in document["paths"].items() if not path.startswith("/v1/")}
        for path, item in documented.items():
            for method, operation in item.items():
                schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
                if schema:
                    ref = next(each["$ref"] for each in [schema, *schema.get("anyOf", [])] if "$ref" in each)
                    fields = document["components"]["schemas"][ref.rpartition("/")[2]]["properties"]
                    names = {"run": 1, "question": 1, "item": 1, "agent": "default"}
                    routes.append((method.upper(), path.format(thread=thread, **names), fields))
        assert len(routes) == 22
        answers: dict[int, int] = {}
        for _ in range(400):
            method, path, fields = rng.choice(routes)
            chosen = rng.sample(sorted(fields), rng.randint(0, len(fields)))
            body = json.dumps({name: random_value(rng) for name in chosen}).encode()
            status, _ = await server.call(method, path, headers=JSON | rng.choice([{}, SSE]), data=body)
            assert status < 500, (method, path, body)
            answers[status] = answers.get(status, 0) + 1
        assert answers[422] > 100

    with_server(tmp_path, work)


@pytest.mark.parametrize("seed", range(3))
def test_no_path_query_or_header_makes_the_server_fail(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    parts = ["api", "threads", "events", "runs", "cancel", "messages", "chat", "agent_chat", "health", "1", "..", "%2e"]
    parts += ["context", "pins", "0123456789ab"]
    names = ["after", "before", "limit", "run", "step", "x", "", "%00"]
    headers = ["Last-Event-ID", "Idempotency-Key", "Accept", "Content-Type", "Cookie", "Range", "X-Api-Key", "If-Match"]

    def noise() -> str:
        return "".join(
            rng.choice(["%00", "%ff", "%ed%a0%80", "%", "a", "1", "-", ".", "/", "'", "%25", "%0a"])
            for _ in range(rng.randrange(6))
        )

    async def work(server: Server) -> None:
        parts.append(await server.thread())
        for _ in range(400):
            path = "/" + "/".join(rng.choice([rng.choice(parts), noise()]) for _ in range(rng.randint(1, 6)))
            query = "&".join(f"{rng.choice(names)}={noise()}" for _ in range(rng.randrange(3)))
            values = ["text/event-stream", "\xff\xfe", "'", "bytes=0-0," * 50, "1", "*", "application/json", "; ;"]
            lines = [f"{rng.choice(headers)}: {rng.choice(values)}" for _ in range(rng.randrange(3))]
            method = rng.choice(["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS"])
            if "/events" in path and any("event-stream" in line for line in lines) and "run=" not in query:
                query = "run=1"
            head = [f"{method} {path}?{query} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", "Connection: close", *lines]
            stream = await server.raw("\r\n".join([*head, "", ""]).encode("latin-1"))
            assert stream.status < 500, head
            stream.cut()

    with_server(tmp_path, work)
