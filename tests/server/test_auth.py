"""Who may ask: keys, owners, hosts and origins, on every route."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import BaseRoute

from stepwell.server import sse
from stepwell.store.keys import issue
from tests.support.endpoint import Endpoint, Reply, Request, chunk, ending, text
from tests.support.server import OWNER, SSE, Server, scripted, serving

OPEN_ROUTES = {("GET", "/health")}
"""Routes that answer without a key."""
GUARDED_ROUTES = {
    ("GET", "/openapi.json"),
    ("HEAD", "/openapi.json"),
    ("GET", "/api/threads"),
    ("POST", "/api/threads"),
    ("GET", "/api/threads/{thread}"),
    ("PATCH", "/api/threads/{thread}"),
    ("DELETE", "/api/threads/{thread}"),
    ("GET", "/api/threads/{thread}/events"),
    ("GET", "/api/threads/{thread}/context"),
    ("POST", "/api/threads/{thread}/messages"),
    ("GET", "/api/threads/{thread}/pins"),
    ("POST", "/api/threads/{thread}/pins"),
    ("DELETE", "/api/threads/{thread}/pins/{pin}"),
    ("POST", "/api/threads/{thread}/runs/{run}/cancel"),
    ("POST", "/api/threads/{thread}/runs/{run}/steer"),
    ("POST", "/api/threads/{thread}/runs/{run}/pause"),
    ("POST", "/api/threads/{thread}/runs/{run}/resume"),
    ("GET", "/api/questions"),
    ("GET", "/api/threads/{thread}/questions"),
    ("POST", "/api/threads/{thread}/questions/{question}/answer"),
    ("GET", "/api/threads/{thread}/plan"),
    ("GET", "/api/threads/{thread}/queue"),
    ("PATCH", "/api/threads/{thread}/queue/{item}"),
    ("DELETE", "/api/threads/{thread}/queue/{item}"),
    ("POST", "/api/threads/{thread}/fork"),
    ("POST", "/api/threads/{thread}/regenerate"),
    ("GET", "/api/threads/{thread}/diff/{other}"),
    ("POST", "/api/messages"),
    ("GET", "/api/models"),
    ("GET", "/api/tools"),
    ("POST", "/chat/agent_chat"),
    ("POST", "/chat/chat"),
    ("POST", "/chat/chat/completions"),
    ("POST", "/chat/feedback"),
    ("POST", "/other/completion"),
    ("POST", "/llm_model/list_running_models"),
    ("POST", "/llm_model/list_config_models"),
    ("POST", "/llm_model/get_model_config"),
    ("POST", "/llm_model/stop"),
    ("POST", "/llm_model/change"),
    ("POST", "/server/configs"),
    ("POST", "/server/list_search_engines"),
    ("POST", "/server/get_prompt_template"),
    ("GET", "/tools"),
    ("POST", "/tools/call"),
    ("POST", "/agui"),
    ("POST", "/agui/{agent}"),
    ("GET", "/agui/threads/{thread}/events"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/responses/{response_id}"),
    ("DELETE", "/v1/responses/{response_id}"),
    ("POST", "/v1/responses/{response_id}/cancel"),
    ("GET", "/v1/responses/{response_id}/input_items"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{id:path}"),
}
"""Routes that need one: a new route has to be put here or above."""
UNKNOWN_PATHS = ("/", "/api", "/api/later", "/api/threads/x/y/z", "/chat/later", "/v1/later", "/static/x.js", "/docs")


def routes(found: list[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Yield method and path of every route, those of included routers too."""
    for route in found:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from routes(included.routes)
        else:
            path, methods = getattr(route, "path"), getattr(route, "methods")  # noqa: B009 - a route of any kind
            assert methods, f"{route} is no route over HTTP; classify it by hand"
            yield from ((method, path) for method in methods)


def filled(path: str) -> str:
    for name, value in (("thread", "0" * 32), ("other", "1" * 32), ("run", "1"), ("question", "1"), ("item", "1")):
        path = path.replace(f"{{{name}}}", value)
    return path


def with_server(tmp_path: Path, work: Callable[[Server], Coroutine[Any, Any, None]], **settings: Any) -> None:
    async def main() -> None:
        async with serving(tmp_path, **settings) as server:
            await work(server)

    asyncio.run(main())


def test_every_route_is_known_and_all_but_the_open_ones_refuse_who_sends_no_key(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        found = set(routes(server.app.routes))
        assert found == OPEN_ROUTES | GUARDED_ROUTES, "classify the new route above"
        refusals = set[str]()
        for method, path in sorted(found):
            for headers in ({}, SSE, {"authorization": "Bearer sw_00000000_nothing"}, {"x-api-key": "sw_x_y"}):
                status, body = await server.call(method, filled(path), headers=headers, json={"query": "x"})
                if (method, path) in OPEN_ROUTES and "authorization" not in headers and "x-api-key" not in headers:
                    assert status == 200
                else:
                    assert status == 401, (method, path, headers)
                    refusals.add(body["error"]["message"] if method != "HEAD" else "")
        assert len(refusals - {""}) == 2, "no key and a wrong key get one answer each, whatever the route"

    with_server(tmp_path, work, auth="keys")


def test_a_path_that_is_no_route_tells_nothing_without_a_key(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        for path in UNKNOWN_PATHS:
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"):
                assert (await server.call(method, path, headers={}))[0] == 401, (method, path)
            assert (await server.call("GET", path))[0] == 404, path

    with_server(tmp_path, work, auth="keys")


def test_the_key_is_taken_from_either_header_and_from_nowhere_else(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        key = server.key
        other = await issue(server.service.store, "bob")
        ok = [
            {"authorization": f"Bearer {key}"},
            {"authorization": f"bearer {key}"},
            {"Authorization": f"BEARER   {key} "},
            {"x-api-key": key},
            {"X-API-Key": key},
            {"authorization": f"Bearer {key}", "x-api-key": key},
            {"authorization": "Basic dXNlcjpwYXNz", "x-api-key": key},
        ]
        for headers in ok:
            assert (await server.call("GET", "/api/threads", headers=headers))[0] == 200, headers
        for headers in (
            {"authorization": f"Bearer {key}", "x-api-key": other},
            {"authorization": f"Bearer {key}", "x-api-key": "wrong"},
        ):
            status, body = await server.call("GET", "/api/threads", headers=headers)
            assert (status, "Two different API keys" in body["error"]["message"]) == (400, True)
        refused = [
            {"authorization": key},
            {"authorization": f"Basic {key}"},
            {"authorization": f"Bearer{key}"},
            {"authorization": "Bearer"},
            {"authorization": "Bearer "},
            {"authorization": "Bearer null"},
            {"authorization": "Bearer []"},
            {"authorization": f"Bearer {key}x"},
            {"authorization": f"Bearer {key[:-1]}"},
            {"authorization": f"Bearer {key.upper()}"},
            {"authorization": f"Bearer {key.rpartition('_')[0]}"},
            {"authorization": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ."},
            {"authorization": "Bearer \xe9\xe8"},
            {"cookie": f"key={key}; authorization=Bearer {key}"},
            {"x-api-key": ""},
        ]
        for headers in refused:
            for path in ("/api/threads", f"/api/threads?key={key}&api_key={key}&access_token={key}"):
                assert (await server.call("GET", path, headers=headers))[0] == 401, headers

    with_server(tmp_path, work, auth="keys")


def test_a_refusal_says_how_to_send_a_key_and_how_to_make_one(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        async with server.session.get(server.url + "/api/models") as response:
            assert response.headers["www-authenticate"] == "Bearer"
            message = (await response.json())["error"]["message"]
        assert "Authorization: Bearer" in message
        assert "stepwell keys add" in message

    with_server(tmp_path, work, auth="keys")


def test_the_key_of_the_address_file_speaks_for_the_owner_local(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        mine = {"authorization": f"Bearer {server.local_key}"}
        status, made = await server.call("POST", "/api/threads", headers=mine)
        assert status == 201
        assert (await server.service.info("local", made["id"])).owner == "local"
        assert (await server.call("GET", f"/api/threads/{made['id']}"))[0] == 404

    with_server(tmp_path, work, auth="keys")


def test_without_auth_everybody_on_this_machine_is_the_owner_local(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        thread = await server.thread()
        assert (await server.service.info("local", thread)).owner == "local"
        # A key of other times is no obstacle.
        assert (await server.call("GET", f"/api/threads/{thread}", headers={"x-api-key": "sw_a_b"}))[0] == 200

    with_server(tmp_path, work)


def test_a_revoked_key_is_refused_at_once_like_one_that_never_was(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        assert (await server.call("GET", "/api/threads"))[0] == 200
        assert await server.service.store.revoke_api_key(server.key.split("_")[1], 1)
        revoked = await server.call("GET", "/api/threads")
        unknown = await server.call("GET", "/api/threads", headers={"x-api-key": "sw_ffffffff_" + "x" * 32})
        assert revoked == unknown
        assert revoked[0] == 401

    with_server(tmp_path, work, auth="keys")


@pytest.mark.parametrize("face", ["native", "chatchat"])
def test_a_stream_that_is_open_when_its_key_is_revoked_ends_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, face: str
) -> None:
    monkeypatch.setattr(sse, "RECHECK", 0.0)

    async def main() -> None:
        held = asyncio.Event()
        reply = Reply([chunk(content="Final Answer: begun"), held, chunk(content=", ended"), *ending()])
        async with Endpoint([reply]) as endpoint, serving(tmp_path, auth="keys", models=scripted(endpoint)) as server:
            if face == "native":
                thread = await server.thread()
                stream = await server.stream("POST", f"/api/threads/{thread}/messages", {"content": "x"})
                await stream.until("text_delta")
            else:
                stream = await server.agent_chat("x")
                assert (await stream.frame()) is not None
                thread = stream.headers["x-stepwell-thread"]
            run = int(stream.headers["x-stepwell-run"])
            assert await server.service.store.revoke_api_key(server.key.split("_")[1], 1)
            server.service.beat()
            rest = await stream.rest()
            assert [frame for frame in rest if ", ended" in frame.data] == []
            assert [thread in frame.body["final_answer"] for frame in rest] == ([] if face == "native" else [True])
            again = await server.stream("GET", f"/api/threads/{thread}/events")
            assert again.status == 401
            held.set()
            mine = await server.key_for(OWNER)
            finished = await server.stream("GET", f"/api/threads/{thread}/events?run={run}", headers=mine)
            assert ", ended" in (await finished.rest())[-3].data

    asyncio.run(main())


HOSTS_SERVED = [
    "127.0.0.1",
    "127.0.0.1:{port}",
    "localhost",
    "LOCALHOST:{port}",
    "[::1]:{port}",
    "127.9.9.9",
    "own.test:1",
]
HOSTS_REFUSED = [
    "evil.com",
    "127.evil.com",
    "127.0.0.1.evil.com",
    "localhost.evil.com",
    "evil.com:{port}",
    "user@127.0.0.1",
    "127.0.0.1@evil.com",
    "evil.com#127.0.0.1",
    "evil.com/127.0.0.1",
    "evil.com\\127.0.0.1",
    "evil.com?127.0.0.1",
    "10.0.0.1",
    "0.0.0.0",
    "[::1",
    "::1]",
    "[evil]",
    "[::ffff:10.0.0.1]",
    "[2001:db8::1]",
    "127.0.0.1:port",
    "\xe9vil.com",
    "2130706433",
    "0x7f.1",
    "127.1",
    "",
    " ",
]


def test_only_hosts_of_this_machine_and_of_the_settings_are_served(tmp_path: Path) -> None:
    async def get(server: Server, *lines: str) -> int:
        head = "\r\n".join(("GET /health HTTP/1.1", *lines, "", ""))
        return (await server.raw(head.encode("latin-1"))).status

    async def work(server: Server) -> None:
        port = str(server.port)
        for host in HOSTS_SERVED:
            assert await get(server, f"Host: {host.replace('{port}', port)}") == 200, host
        for host in HOSTS_REFUSED:
            assert await get(server, f"Host: {host.replace('{port}', port)}") == 403, host
        assert await get(server) == 403
        assert await get(server, "Host: 127.0.0.1", "Host: evil.com") == 403
        assert await get(server, "Host: evil.com", "Host: 127.0.0.1") == 403

    for auth in ("off", "keys"):
        with_server(tmp_path, work, auth=auth, hosts=["Own.test"])


def test_a_host_may_stand_in_the_settings_with_its_port_and_a_refusal_names_what_to_add(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        for host in ("own.test:8443", "own.test", "[::2]:9"):
            assert (await server.raw(f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())).status == 200, host
        status, said = await server.call("GET", "/health", headers={"host": "evil.test:8443"})
        assert (status, said["error"]["message"].partition(";")[0]) == (403, "The host 'evil.test' is not served here")
        status, said = await server.call("GET", "/health", headers={"origin": "null"})
        assert (status, said["error"]["message"]) == (
            403,
            "The origin 'null' may not call; deliver the page over HTTP.",
        )

    with_server(tmp_path, work, hosts=["own.test:8443", "[::2]"])


def test_a_page_of_another_site_reaches_no_route(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        own = f"127.0.0.1:{server.port}"
        refused = [
            {"origin": "http://evil.com"},
            {"origin": "https://evil.com", "sec-fetch-site": "cross-site"},
            {"origin": "null"},
            {"origin": ""},
            {"origin": f"http://127.0.0.1:{server.port + 1}"},
            {"origin": f"http://{own}.evil.com"},
            {"origin": f"http://localhost:{server.port}"},
            {"origin": f"http://evil.com/?://{own}"},
            {"origin": "https://friend.test.evil.com"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "content-type": "text/plain"},
        ]
        before = await server.call("GET", "/api/threads")
        for headers in refused:
            for method, path in sorted(OPEN_ROUTES | GUARDED_ROUTES):
                status, _ = await server.call(
                    method, filled(path), headers=headers, data=b'{"query":"x","content":"x"}'
                )
                assert status == 403, (method, path, headers)
        assert await server.call("GET", "/api/threads") == before
        served = [
            {"origin": f"http://{own}"},
            {"origin": f"http://{own}", "sec-fetch-site": "same-origin"},
            {"origin": "https://friend.test"},
            {"origin": "https://friend.test", "sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-origin"},
            {"sec-fetch-site": "none"},
            {},
        ]
        for headers in served:
            assert (await server.call("POST", "/api/threads", headers=headers))[0] == 201, headers
            assert (await server.call("GET", "/api/threads", headers=headers))[0] == 200, headers
        # Following a link to this server is no attack.
        link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        assert (await server.call("GET", "/api/threads", headers=link))[0] == 200
        assert (await server.call("POST", "/api/threads", headers=link))[0] == 403

    with_server(tmp_path, work, origins=["https://friend.test"])


def test_a_page_of_an_origin_in_the_settings_can_call_from_its_browser(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        asked = {
            "origin": "https://friend.test",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,idempotency-key,last-event-id,mcp-session-id",
        }
        async with server.session.options(server.url + "/api/threads", headers=asked) as response:
            assert response.status == 200
            assert response.headers["access-control-allow-origin"] == "https://friend.test"
            assert "authorization" in response.headers["access-control-allow-headers"].lower()
            assert "DELETE" in response.headers["access-control-allow-methods"]
            assert "access-control-allow-credentials" not in response.headers
        for origin, allowed in (
            ("https://friend.test", "https://friend.test"),
            (f"http://127.0.0.1:{server.port}", None),
        ):
            headers = server.headers(origin=origin)
            async with server.session.post(server.url + "/api/threads", headers=headers) as response:
                assert response.status == 201
                assert response.headers.get("access-control-allow-origin") == allowed
        foreign = {**asked, "origin": "https://evil.test"}
        async with server.session.options(server.url + "/api/threads", headers=foreign) as response:
            assert response.status in (400, 403)
            assert "access-control-allow-origin" not in response.headers

    with_server(tmp_path, work, auth="keys", origins=["https://friend.test"])


def test_no_get_changes_anything(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        thread = await server.thread("kept")
        before = await server.call("GET", "/api/threads")
        for path in (f"/api/threads/{thread}/runs/1/cancel", f"/api/threads/{thread}/messages", "/chat/agent_chat"):
            for method in ("GET", "HEAD"):
                assert (await server.call(method, f"{path}?content=x&query=x"))[0] == 405
        assert await server.call("GET", "/api/threads") == before

    with_server(tmp_path, work)


def test_another_owners_thread_is_not_there_on_any_verb(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        replies = [Reply([chunk(content="ada's secret"), held, *ending()])]
        async with Endpoint(replies) as endpoint, serving(tmp_path, auth="keys", models=scripted(endpoint)) as server:
            thread = await server.thread("ada's title")
            run = await server.start(thread, "ada's question")
            bob = await server.key_for("bob")

            async def answers(id: str) -> list[Any]:
                found: list[Any] = []
                for method, path, body in (
                    ("GET", "", None),
                    ("PATCH", "", {"title": "x"}),
                    ("DELETE", "", None),
                    ("GET", "/events", None),
                    ("GET", f"/events?run={run}&after=1", None),
                    ("GET", "/events?after=3.1", None),
                    ("POST", "/messages", {"content": "x"}),
                    ("POST", f"/runs/{run}/cancel", None),
                    ("POST", f"/runs/{run}/cancel", {"reason": "x"}),
                ):
                    for extra in ({}, SSE, {"idempotency-key": "k"}):
                        answer = await server.call(
                            method, f"/api/threads/{id}{path}", headers={**bob, **extra}, json=body
                        )
                        assert answer[0] == 404, (method, path, answer)
                        found.append(answer)
                found.append(await server.call("GET", f"/api/threads?before={id}", headers=bob))
                return found

            assert await answers(thread) == await answers("f" * 32)
            assert await server.call("GET", "/api/threads", headers=bob) == (200, {"threads": [], "next": None})
            status, info = await server.call("GET", f"/api/threads/{thread}")
            assert (status, info["title"], info["run"]) == (200, "ada's title", run)
            held.set()
            events = [frame.body["event"] for frame in await server.ended(thread, run)]
            assert events[-1]["reason"] == "answer"
            assert "cancel_requested" not in [event["type"] for event in events]

    asyncio.run(main())


def test_an_idempotency_key_of_one_owner_is_not_one_of_another(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("Final Answer: one"), text("Final Answer: two")]) as endpoint,
            serving(tmp_path, auth="keys", models=scripted(endpoint)) as server,
        ):
            bob = await server.key_for("bob")
            threads = set[str]()
            for headers in (server.headers(), bob):
                sent = {**headers, "idempotency-key": "same"}
                stream = await server.agent_chat("x", headers=sent)
                assert stream.status == 200
                await stream.rest()
                threads.add(stream.headers["x-stepwell-thread"])
            assert len(threads) == 2

    asyncio.run(main())


def test_websockets_are_refused_or_answered_as_plain_requests_behind_the_gate(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        lines = (
            "GET /api/threads HTTP/1.1",
            f"Host: 127.0.0.1:{server.port}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )
        for extra, status in (((), 401), (("Origin: http://evil.com",), 403)):
            stream = await server.raw("\r\n".join((*lines, *extra, "", "")).encode())
            assert stream.status == status

    with_server(tmp_path, work, auth="keys")


def test_a_store_that_cannot_be_read_is_a_503_and_no_open_door(tmp_path: Path) -> None:
    async def work(server: Server) -> None:
        await server.service.store.close()
        status, body = await server.call("GET", "/api/threads")
        assert status == 503
        assert "store" in body["error"]["message"]

    with_server(tmp_path, work, auth="keys")


def test_the_model_is_asked_for_nobody_who_was_refused(tmp_path: Path) -> None:
    async def main() -> None:
        def unexpected(request: Request) -> Reply:
            raise AssertionError("a refused request reached the model")

        async with (
            Endpoint(unexpected) as endpoint,
            serving(tmp_path, auth="keys", models=scripted(endpoint)) as server,
        ):
            for headers in ({}, {"x-api-key": "sw_a_b"}):
                stream = await server.agent_chat("x", headers=headers)
                assert stream.status == 401
            assert endpoint.requests == []
            assert await server.service.threads(OWNER) == []

    asyncio.run(main())
