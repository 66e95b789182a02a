"""Resources of servers: listed page by page and read, by two tools of ours."""

import asyncio
import json
from pathlib import Path

from tests.support.mcp_clients import kept
from tests.support.mcp_sdk_server import COMMAND


def test_resources_of_a_server_over_the_sdk_are_listed_and_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("", tmp_path, command=COMMAND, resources=True) as server:
            (offer,) = server.offers
            assert (offer.resources, offer.prompts) == (True, {"greet": "Greet somebody."})
            listed = [json.loads(line) for line in (await server.call("list_resources")).content.splitlines()]
            assert listed == [
                {"uri": "note://today", "name": "today", "type": "text/plain", "description": "What is on."},
                {"uri": "note://dot", "name": "dot", "type": "image/png"},
                {"template": "note://days/{day}", "name": "day", "type": "text/plain"},
            ]
            assert (await server.call("read_resource", {"uri": "note://today"})).content == "Nothing."
            assert (await server.call("read_resource", {"uri": "note://days/Monday"})).content == "Nothing on Monday."
            shown = await server.call("read_resource", {"uri": "note://dot"})
            assert [each.url.partition(",")[0] for each in shown.images] == ["data:image/png;base64"]
            unknown = await server.call("read_resource", {"uri": "note://nowhere"})
            assert unknown.status == "failed"
            assert "refused the call" in unknown.content
            assert (await server.call("read_resource", {})).status == "invalid"

    asyncio.run(main())


def test_a_long_list_comes_in_pages_and_hides_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("resourceful", tmp_path, resources=True) as server:
            first = (await server.call("list_resources")).content.splitlines()
            assert len(first) == 502
            assert first[:1] == [r'{"uri":"n://0","name":"n\\u202e0"}']
            assert first[-2:] == [
                "[100 further resources of this page are left out]",
                '[there are more: call again with the cursor "600"]',
            ]
            second = (await server.call("list_resources", {"cursor": "600"})).content.splitlines()
            assert second[-1] == "[100 further resources of this page are left out]"
            assert json.loads(second[0])["uri"] == "n://600"
            made = await server.call("list_resources", {"cursor": "what the model knows"})
            assert (made.status, made.content) == (
                "failed",
                "The list has no such cursor; leave `cursor` out to begin anew.",
            )

    asyncio.run(main())


def test_what_is_read_becomes_a_result_whatever_it_is(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("resourceful", tmp_path, resources=True) as server:
            read = {}
            for name in ("empty", "data", "wrong", "two", "none", "much"):
                result = await server.call("read_resource", {"uri": f"n://{name}"})
                read[name] = (result.status, result.content)
            assert read["empty"] == ("ok", "The resource is empty.")
            assert read["data"][0] == "ok"
            assert "application/zip" in read["data"][1]
            assert "image/png that cannot be read" in read["wrong"][1]
            assert read["two"] == ("ok", "[resource n://two/1]\none\n[resource n://two/2]\ntwo")
            assert read["none"] == ("failed", "The MCP server s refused the call: No such resource.")
            assert read["much"][0] == "failed"
            assert "it has more than 32 MB" in read["much"][1]
            assert len(server.offers) == 1

    asyncio.run(main())


def test_what_is_no_list_of_resources_fails_in_words(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("resourceful", tmp_path, "broken", resources=True) as server:
            failed = await server.call("list_resources")
            assert (failed.status, failed.content) == ("failed", "The MCP server s sent what is no result of a call.")

    asyncio.run(main())


def test_a_server_without_resources_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("plain", tmp_path, resources=True) as server:
            (offer,) = server.offers
            assert not offer.resources
            assert offer.refused == dict.fromkeys(("list_resources", "read_resource"), "the server has no resources")

    asyncio.run(main())
