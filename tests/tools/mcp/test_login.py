"""A person's login at a server: where it leads, what is kept of it, and what becomes of it when it ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import msgspec
import pytest
from aiohttp import web

from stepwell.errors import ToolError
from stepwell.tools.mcp.base import ServerSpec
from stepwell.tools.mcp.grants import Grant, file_of, read, write
from stepwell.tools.mcp.login import login
from tests.support.mcp_clients import WAIT, kept
from tests.support.mcp_login_server import COMMAND
from tests.tools.mcp.test_http import answering, free_port, sdk_server


@asynccontextmanager
async def login_server(seconds: int = 3600) -> AsyncGenerator[str]:
    async with sdk_server(free_port(), COMMAND, str(seconds)) as url:
        yield url


def spec_of(url: str, folder: Path, **more: Any) -> ServerSpec:
    return ServerSpec(name="s", url=url, login=file_of(folder, "s"), **more)


async def browse(address: str) -> httpx2.Response:
    """Open an address as a browser does."""
    async with httpx2.AsyncClient(follow_redirects=True, timeout=WAIT, trust_env=False) as client:
        return await client.get(address)


async def log_in(spec: ServerSpec, visit: Callable[[str], Any] = browse) -> None:
    assert spec.login is not None
    visits: list[asyncio.Task[Any]] = []
    async with asyncio.timeout(WAIT):
        await login(spec, spec.login, lambda address: visits.append(asyncio.create_task(visit(address))))
        await asyncio.gather(*visits)


def test_what_a_login_brings_is_kept_for_its_owner_alone_and_used(tmp_path: Path) -> None:
    async def main() -> None:
        async with login_server() as url:
            spec = spec_of(url, tmp_path)
            await log_in(spec)
            assert spec.login is not None
            assert spec.login.stat().st_mode & 0o777 == 0o600
            assert spec.login.parent.stat().st_mode & 0o777 == 0o700
            grant = read(spec.login)
            assert grant is not None
            assert grant.access.startswith("access-")
            assert grant.access not in repr(grant)
            async with kept("", tmp_path, url=url, login=spec.login) as server:
                assert (await server.call("renewed")).content == "0"

    asyncio.run(main())


def test_a_token_that_is_not_taken_any_more_is_renewed_once_however_many_calls_there_are(tmp_path: Path) -> None:
    async def main() -> None:
        async with login_server() as url:
            spec = spec_of(url, tmp_path)
            await log_in(spec)
            async with (
                kept("", tmp_path, url=url, login=spec.login) as server,
                kept("", tmp_path, url=url, login=spec.login) as other,
            ):
                await server.call("forget")
                asked = [each.call("renewed") for each in (server, other) for _ in range(10)]
                assert [each.content for each in await asyncio.gather(*asked)] == ["1"] * 20

    asyncio.run(main())


def test_a_token_is_renewed_before_it_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with login_server(seconds=20) as url:
            spec = spec_of(url, tmp_path)
            await log_in(spec)
            async with kept("", tmp_path, url=url, login=spec.login) as server:
                assert int((await server.call("renewed")).content) > 0

    asyncio.run(main())


def test_a_login_that_has_ended_or_is_not_there_is_told_with_the_remedy_and_a_new_one_counts_at_once(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with login_server() as url:
            spec = spec_of(url, tmp_path)
            assert spec.login is not None
            async with kept("", tmp_path, url=url, login=spec.login, start=False) as server:
                refused = "it refuses the handshake: nobody has logged in at it; run `stepwell mcp login s`"
                assert await server.started() == refused
                await log_in(spec)
                assert await server.started() == ""
                await server.call("forget_all")
                failed = await server.call("renewed")
                assert (failed.status, failed.content) == (
                    "failed",
                    "The MCP server s was not asked: its login is not taken any more; run `stepwell mcp login s`.",
                )
                grant = read(spec.login)
                assert grant is not None
                write(spec.login, msgspec.structs.replace(grant, refresh=""))
                assert "the login has ended; run `stepwell" in (await server.call("renewed")).content
                write(spec.login, msgspec.structs.replace(grant, url="https://elsewhere.example/mcp"))
                assert "the login is for another address; run `stepwell" in (await server.call("renewed")).content
                await log_in(spec)
                assert (await server.call("renewed")).content == "0"

    asyncio.run(main())


def test_a_server_that_does_not_take_what_it_gave_is_told(tmp_path: Path) -> None:
    asked: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(request.headers.get("authorization", ""))
        if request.path == "/token":
            return web.json_response({"access_token": f"new-{len(asked)}", "token_type": "bearer"})
        return web.Response(status=401)

    async def main() -> None:
        async with listening(handle) as origin:
            spec = spec_of(f"{origin}/mcp", tmp_path)
            assert spec.login is not None
            grant = Grant(url=spec.url, access="old", refresh="r", client="c", endpoint=f"{origin}/token")
            write(spec.login, grant)
            async with kept("", tmp_path, url=spec.url, login=spec.login, start=False) as server:
                assert "it does not take the login; run `stepwell mcp login s`" in await server.started()
            assert asked[:3] == ["Bearer old", "", "Bearer new-2"]

    asyncio.run(main())


def test_who_comes_back_without_what_they_were_sent_with_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with login_server() as url:

            async def visit(address: str) -> None:
                given = parse_qs(urlsplit(address).query)
                back = given["redirect_uri"][0]
                assert given["code_challenge_method"] == ["S256"]
                for wrong in ({"code": "c"}, {"code": "c", "state": "x"}, {"error": "denied", "state": "é"}):
                    assert (await browse(f"{back}?{urlencode(wrong)}")).status_code == 404
                assert (await browse(back.replace("/callback", "/favicon.ico"))).status_code == 404
                assert (await browse(address)).text.startswith("Stepwell: you can close this window.")

            await log_in(spec_of(url, tmp_path), visit)

    asyncio.run(main())


def test_a_login_that_the_person_refuses_keeps_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with login_server() as url:
            spec = spec_of(url, tmp_path)

            async def visit(address: str) -> None:
                given = parse_qs(urlsplit(address).query)
                said = {"error": "access_denied\u202e", "state": given["state"][0]}
                await browse(f"{given['redirect_uri'][0]}?{urlencode(said)}")

            with pytest.raises(ToolError, match=r"the login was refused: access_denied\\u202e"):
                await log_in(spec, visit)
            assert spec.login is not None
            assert not spec.login.exists()

    asyncio.run(main())


@asynccontextmanager
async def listening(handle: Callable[[web.Request], Any]) -> AsyncGenerator[str]:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def test_a_server_cannot_lead_the_login_to_other_places_of_the_network(tmp_path: Path) -> None:
    visited: list[str] = []

    async def inside(request: web.Request) -> web.Response:
        visited.append(request.path)
        return web.Response(status=404)

    async def main() -> None:
        async with listening(inside) as other:
            wanted = other

            async def handle(request: web.Request) -> web.Response:
                if request.method == "POST":
                    told = f'Bearer resource_metadata="{wanted}/meta"'
                    return web.Response(status=401, headers={"www-authenticate": told})
                return web.Response(status=404)

            async with listening(handle) as origin:
                with pytest.raises(ToolError, match=f"the login leads to {other}, which is no HTTPS"):
                    await log_in(spec_of(f"{origin}/mcp", tmp_path))
                wanted = other.replace("http:", "https:")
                with pytest.raises(ToolError, match=r"leads to 127\.0\.0\.1, which is inside of a network; name it in"):
                    await log_in(spec_of(f"{origin}/mcp", tmp_path))
                assert visited == []
                wanted = other
                hosts = (urlsplit(other).netloc,)
                with pytest.raises(ToolError, match="the login came to nothing"):
                    await log_in(spec_of(f"{origin}/mcp", tmp_path, login_hosts=hosts))
                assert visited[0] == "/meta"

    asyncio.run(main())


def test_an_answer_without_end_and_a_server_without_login_are_told(tmp_path: Path) -> None:
    async def endless(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * (2 << 20))

    async def never(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"jsonrpc": "2.0", "id": body["id"], "result": {}})

    async def main() -> None:
        async with listening(endless) as origin:
            with pytest.raises(ToolError, match=r"the answer of 127\.0\.0\.1 is too long"):
                await log_in(spec_of(f"{origin}/mcp", tmp_path))
        async with answering(never) as url:
            with pytest.raises(ToolError, match="the server asks for no login: it answers with status 202"):
                await log_in(spec_of(url, tmp_path))

    asyncio.run(main())


@asynccontextmanager
async def logging_in(
    token: dict[str, Any] | bytes = b"", status: int = 200, told: str = "", **metadata: Any
) -> AsyncGenerator[str]:
    """Serve an address whose login answers as the test says: with this token, and with this of itself."""
    given: dict[str, Any] = {"response_types_supported": ["code"], "code_challenge_methods_supported": ["S256"]}

    async def handle(request: web.Request) -> web.Response:
        origin = str(request.url.origin())
        match request.path:
            case "/mcp" if "authorization" in request.headers:
                return web.json_response({"jsonrpc": "2.0", "id": 1, "result": {}})
            case "/mcp":
                return web.Response(status=401, headers={"www-authenticate": told} if told else {})
            case "/.well-known/oauth-authorization-server":
                named = {f"{each}_endpoint": f"{origin}/{each}" for each in ("token", "registration")}
                said = {"issuer": origin, "authorization_endpoint": f"{origin}/authorize", **named, **given, **metadata}
                return web.json_response(
                    {
                        name: each.replace("HERE", origin) if isinstance(each, str) else each
                        for name, each in said.items()
                    }
                )
            case "/registration":
                known = {"client_id": "c", "token_endpoint_auth_method": "none"}
                return web.json_response({**known, **await request.json()}, status=201)
            case "/authorize":
                back = {"code": "abc", "state": request.query.getall("state")[-1]}
                raise web.HTTPFound(f"{request.query['redirect_uri']}?{urlencode(back)}")
            case "/token":
                body = token if isinstance(token, bytes) else json.dumps(token).encode()
                return web.Response(body=body, status=status, content_type="application/json")
            case _:
                return web.Response(status=404)

    async with listening(handle) as origin:
        yield f"{origin}/mcp"


SECRET = "s3cret-token"
GIVEN = {"access_token": SECRET, "token_type": "Bearer"}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"token": {**GIVEN, "access_token": f"a\n{SECRET}"}}, "LocalProtocolError"),
        ({"token": {**GIVEN, "access_token": f"一{SECRET}"}}, "UnicodeEncodeError"),
        ({"token": {**GIVEN, "expires_in": {"a": SECRET}}}, "OAuthTokenError: Invalid token response"),
        ({"token": {"error": "invalid_grant", "was": SECRET}, "status": 400}, r"\(400\): \"error\": \"invalid_grant\""),
        ({"token": b"\xff\xfe", "status": 400}, "UnicodeDecodeError"),
        ({"authorization_endpoint": "HERE/authorize#x"}, "an address with a fragment"),
        ({"code_challenge_methods_supported": ["plain"]}, "does not say that it takes PKCE"),
        ({"code_challenge_methods_supported": None}, "does not say that it takes PKCE"),
        ({"issuer": "https://evil.example"}, "issuer mismatch"),
        ({"token_endpoint": "https://192.0.0.192/token", "token": GIVEN}, "inside of a network"),
        ({"told": 'Bearer resource_metadata="http://[::1"'}, "InvalidURL"),
    ],
    ids=str,
)
def test_a_login_that_goes_wrong_is_told_without_what_is_secret(
    tmp_path: Path, how: dict[str, Any], words: str
) -> None:
    async def main() -> None:
        async with logging_in(**how) as url:
            spec = spec_of(url, tmp_path)
            with pytest.raises(ToolError, match=words) as failed:
                await log_in(spec)
            assert SECRET not in str(failed.value)
            assert spec.login is not None
            assert not spec.login.exists()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("seconds", "least", "most"), [(None, 0, 0), (-5, 0, 0), (10**30, 9.9, 10.1), (365 * 24 * 3600, 0.9, 1.1)]
)
def test_a_token_ends_when_the_server_says_and_within_bounds(
    tmp_path: Path, seconds: int | None, least: float, most: float
) -> None:
    async def main() -> None:
        given = {**GIVEN, "expires_in": seconds} if seconds is not None else GIVEN
        async with logging_in(given, authorization_endpoint="HERE/authorize?state=chosen") as url:
            spec = spec_of(url, tmp_path)
            await log_in(spec)
            assert spec.login is not None
            grant = read(spec.login)
            assert grant is not None
            years = (grant.expires - time.time()) / (365 * 24 * 3600) if grant.expires else 0
            assert least <= years <= most

    asyncio.run(main())


def test_a_token_that_a_server_says_again_stands_in_no_message(tmp_path: Path) -> None:
    secret = "access-1234567"

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        error = {"code": -32000, "message": f"not {request.headers['authorization']}"}
        return web.json_response({"jsonrpc": "2.0", "id": body["id"], "error": error})

    async def main() -> None:
        async with answering(answer) as url:
            spec = spec_of(url, tmp_path)
            assert spec.login is not None
            write(spec.login, Grant(url=url, access=secret, client="c", endpoint=url))
            assert json.loads(spec.login.read_bytes())["access"] == secret
            async with kept("", tmp_path, url=url, login=spec.login) as server:
                failed = await server.call("say")
                assert failed.content == "The MCP server s refused the call: not Bearer ***"

    asyncio.run(main())
