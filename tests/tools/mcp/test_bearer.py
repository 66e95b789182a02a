"""Tokens that are renewed while they are used: what comes in their place, and what stands in no message."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from stepwell.errors import ToolError
from stepwell.tools.mcp.bearer import Bearer
from stepwell.tools.mcp.grants import Grant, locked, read, write
from tests.support.mcp_clients import WAIT, kept
from tests.tools.mcp.test_http import answering
from tests.tools.mcp.test_login import listening, spec_of

SECRET = "s3cret-token"


def granted(url: str, folder: Path, endpoint: str, **more: Any) -> Bearer:
    spec = spec_of(url, folder)
    assert spec.login is not None
    write(spec.login, Grant(url=url, access="old-token", refresh="r-token", client="c", endpoint=endpoint, **more))
    return Bearer(spec, spec.login)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"access_token": SECRET, "expires_in": "3600", "refresh_token": None}, ""),
        ({"access_token": SECRET, "expires_in": 3600.5}, ""),
        ({"access_token": SECRET, "expires_in": 10**30}, ""),
        ({"access_token": SECRET, "expires_in": None}, ""),
        ({"access_token": f"a\n{SECRET}"}, "could not be renewed: status 200"),
        ({"access_token": f"一{SECRET}"}, "could not be renewed: status 200"),
        ({"access_token": ""}, "could not be renewed: status 200"),
        ({"error": SECRET}, "could not be renewed: status 200"),
        ([SECRET], "could not be renewed: status 200"),
    ],
    ids=str,
)
def test_what_comes_in_place_of_a_token_is_taken_or_refused(tmp_path: Path, given: Any, words: str) -> None:
    async def renew(request: web.Request) -> web.Response:
        return web.json_response(given)

    async def main() -> None:
        async with listening(renew) as origin:
            bearer = granted(f"{origin}/mcp", tmp_path, f"{origin}/token", expires=1000)
            if not words:
                assert await bearer.token() == SECRET
                kept = read(tmp_path / "mcp_logins" / "s.json")
                assert kept is not None
                assert kept.refresh == "r-token"
                assert kept.expires < time.time() + 11 * 365 * 24 * 3600
                return
            with pytest.raises(ToolError, match=words) as failed:
                await bearer.token()
            assert SECRET not in str(failed.value)

    asyncio.run(main())


@pytest.mark.parametrize("change", ["forgotten", "elsewhere"])
def test_a_login_that_another_process_takes_away_meanwhile_is_sent_nowhere(tmp_path: Path, change: str) -> None:
    async def renew(request: web.Request) -> web.Response:
        raise AssertionError

    async def main() -> None:
        async with listening(renew) as origin:
            bearer = granted(f"{origin}/mcp", tmp_path, f"{origin}/token", expires=1000)
            file = tmp_path / "mcp_logins" / "s.json"
            async with asyncio.timeout(WAIT), locked(file):
                asking = asyncio.create_task(bearer.token())
                await asyncio.sleep(0)
                grant = read(file)
                assert grant is not None
                if change == "forgotten":
                    file.unlink()
                else:
                    write(file, msgspec.structs.replace(grant, url="https://other.example/mcp", access=SECRET))
            with pytest.raises(ToolError, match=r"nobody has logged in at it|is for another address"):
                await asking
            assert file.exists() == (change == "elsewhere")

    asyncio.run(main())


def test_a_token_that_was_renewed_meanwhile_stands_in_no_message(tmp_path: Path) -> None:
    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        said = request.headers["authorization"]
        if said == "Bearer old-token":
            return web.Response(status=401)
        return web.json_response({"jsonrpc": "2.0", "id": body["id"], "error": {"code": -32000, "message": said}})

    async def renew(request: web.Request) -> web.Response:
        return web.json_response({"access_token": SECRET, "token_type": "Bearer"})

    async def main() -> None:
        async with answering(answer) as url, listening(renew) as other:
            spec = spec_of(url, tmp_path, login_hosts=(other.removeprefix("http://"),))
            granted(url, tmp_path, f"{other}/token")
            async with kept("", tmp_path, url=url, login=spec.login, login_hosts=spec.login_hosts) as server:
                failed = await server.call("say")
                assert failed.content == "The MCP server s refused the call: Bearer ***"

    asyncio.run(main())
