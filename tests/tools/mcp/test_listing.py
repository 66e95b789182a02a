"""What is taken of a listing, and why the rest is not."""

import asyncio
import json
from pathlib import Path

from tests.support.mcp_clients import kept
from tests.tools.running import context


def test_of_definitions_that_are_too_much_together_the_rest_is_left_out_and_said_so(tmp_path: Path) -> None:
    file = tmp_path / "tools.json"
    fields = {f"field{number}": {"type": "string", "description": "x" * 400} for number in range(100)}
    schema = {"type": "object", "properties": fields}
    file.write_text(json.dumps([{"name": f"tool{number}", "inputSchema": schema} for number in range(40)]))

    async def main() -> None:
        async with kept("described", tmp_path, str(file)) as server:
            (offer,) = server.offers
            assert list(offer.tools) == [f"tool{number}" for number in range(len(offer.tools))]
            assert 20 <= len(offer.tools) < 30
            assert len(offer.refused) == 40 - len(offer.tools)
            said = "the server says more than 1 MB of its tools; name those that are used in mcp.s.tools"
            assert set(offer.refused.values()) == {said}
            assert server.pins.file.stat().st_size < 2 << 20
        async with kept("described", tmp_path, str(file), tools=("tool39",)) as server:
            assert list(server.offers[0].tools) == ["tool39"]

    asyncio.run(main())


def test_a_tool_that_is_none_is_left_out_with_the_reason_and_takes_no_other_with_it(tmp_path: Path) -> None:
    file = tmp_path / "tools.json"
    wrong = [{"name": "a", "inputSchema": None}, {"name": 5}, {"name": "b", "annotations": {"readOnlyHint": "maybe"}}]
    file.write_text(json.dumps([{"name": "good"}, {"name": "untyped", "inputSchema": {}}]))

    async def main() -> None:
        async with kept("described", tmp_path, str(file)) as server:
            assert server.offers[0].tools["untyped"].parameters == {"type": "object"}
            file.write_text(json.dumps([{"name": "good"}, *wrong]))
            assert (await server.server.call("reload", {}, context(), "write")).status == "ok"
            offer = await server.listed(2)
            assert list(offer.tools) == ["good"]
            assert list(offer.refused) == ["a", "5", "b"]
            assert offer.refused["a"] == "it is no tool: inputSchema: Input should be a valid dictionary"

    asyncio.run(main())
