"""Where a login may lead, whatever a server says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest

from stepwell.errors import ToolError
from stepwell.tools.mcp.guard import Guarded, check
from tests.tools.mcp.test_login import spec_of


@pytest.mark.parametrize(
    "address",
    [
        "https://localhost/x",
        "https://10.1.2.3/x",
        "https://169.254.169.254/latest",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://[64:ff9b::7f00:1]/x",
        "https://[2002:7f00:1::]/x",
        "https://0.0.0.0/x",
        "https://100.64.0.1/x",
        "https://224.0.0.1/x",
        "https://192.0.0.192/opc/v2",
        "https://168.63.129.16/machine",
        "https://[fec0::1]/x",
        "https://[::7f00:1]/x",
        "https://[64:ff9b:1::7f00:1]/x",
        "https://[::ffff:0:127.0.0.1]/x",
    ],
)
def test_places_inside_of_a_network_are_not_asked(tmp_path: Path, address: str) -> None:
    async def main() -> None:
        spec = spec_of("https://mcp.example/x", tmp_path)
        async with httpx2.AsyncClient(transport=Guarded(spec), trust_env=False) as client:
            with pytest.raises(ToolError, match="inside of a network"):
                await client.get(address)

    asyncio.run(main())


def test_a_page_to_log_in_at_must_be_https_or_the_servers_own(tmp_path: Path) -> None:
    spec = spec_of("http://127.0.0.1:8000/mcp", tmp_path, login_hosts=("login.lan",))
    for good in ("https://login.example/a", "http://127.0.0.1:8000/a", "http://login.lan/a"):
        check(spec, good)
    for bad in ("http://login.example/a", "http://127.0.0.1:8001/a", "javascript:alert(1)", "file:///etc/passwd"):
        with pytest.raises(ToolError, match="no HTTPS"):
            check(spec, bad)


@pytest.mark.parametrize("address", ["https://[::1", "https://a:b/x", "https://example.org\x00/", "/x", ""])
def test_what_is_no_address_is_refused_in_words(tmp_path: Path, address: str) -> None:
    with pytest.raises(ToolError, match="the login leads to"):
        check(spec_of("https://mcp.example/x", tmp_path), address)
