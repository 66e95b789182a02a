"""Bodies that would keep the server busy while they are taken apart."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest

from stepwell.server.asking import MOST_VALUES
from tests.support.server import Server, serving

ROUTES = ("/v1/chat/completions", "/v1/responses", "/agui", "/chat/chat", "/api/threads")
MANY = MOST_VALUES + 1
BODIES = {
    "numbers": b'{"model": [%s 1]}' % (b"1," * MANY),
    "objects": b'{"model": [%s {}]}' % (b"{}," * (MANY // 2)),
    "nested": b'{"model": %s' % (b"[" * MANY),
    "names": b"{%s}" % b",".join(b'"%d":1' % each for each in range(MANY)),
    "texts": b'["a\\\\", %s ""]' % (b'"\\"",' * MANY),
}


async def sent(server: Server, path: str, body: bytes) -> tuple[int, Any]:
    headers = server.headers(**{"content-type": "application/json"})
    return await server.call("POST", path, data=io.BytesIO(body), headers=headers)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_of_too_many_values_is_never_taken_apart(tmp_path: Path, body: bytes) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            for path in ROUTES:
                status, told = await sent(server, path, body)
                assert status == 413, told
                assert "200,000 values" in json.dumps(told)

    asyncio.run(main())


@pytest.mark.parametrize("text", [",", "[{", '",', "\\,", '\\"[', "中,"])
def test_what_stands_in_a_text_is_no_value(tmp_path: Path, text: str) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            said = {"model": "offline", "messages": [{"role": "user", "content": text * MANY}], "stop": ["\\"]}
            status, told = await sent(server, "/v1/chat/completions", json.dumps(said).encode())
            assert status != 413, told

    asyncio.run(main())
