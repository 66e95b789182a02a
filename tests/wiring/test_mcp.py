"""Tools of MCP servers at a running server: pinned at the first start, asked for, called, replayed, switched off."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from stepwell.config import Config
from stepwell.errors import ConfigError
from stepwell.events import ToolEnded, ToolStarted
from stepwell.runs.replay import replay
from stepwell.wiring.catalog import ConfigCatalog
from stepwell.wiring.mcp import mcp_confirm, mcp_rows
from stepwell.wiring.replay import ConfigParts
from tests.support.endpoint import Endpoint, Reply, text, tool_calls
from tests.support.mcp_clients import living
from tests.support.mcp_servers import PIXEL, command
from tests.support.server import Server, scripted, serving
from tests.tools.mcp.test_http import answering


def mcp(mode: str, *arguments: str, **more: Any) -> dict[str, Any]:
    program, *rest = command(mode, *arguments)
    return {"command": program, "args": rest, **more}


def calls(name: str, **arguments: Any) -> Reply:
    return tool_calls(("c0", name, [json.dumps(arguments)]))


async def tools_of(server: Server) -> dict[str, str]:
    _, body = await server.call("GET", "/api/tools")
    return {each["name"]: each["effect"] for each in body["tools"] if "__" in each["name"]}


async def run(server: Server, question: str = "Do it.", **fields: Any) -> tuple[str, int]:
    thread = await server.thread()
    return thread, await server.start(thread, question, **fields)


async def events(server: Server, thread: str, kind: type) -> list[Any]:
    return [each.event for each in await server.service.events("local", thread) if isinstance(each.event, kind)]


def test_a_first_start_pins_a_write_asks_and_a_replay_needs_no_server(tmp_path: Path) -> None:
    before = living()

    async def main() -> None:
        async with Endpoint([calls("files__say", text="hello"), text("Done.")]) as endpoint:
            settings: Any = {
                "models": scripted(endpoint),
                "mcp": {"files": mcp("plain", effects={"image": "pure"})},
            }
            async with serving(tmp_path, **settings) as server:
                assert (await tools_of(server))["files__image"] == "pure"
                thread, number = await run(server)
                stream = await server.follow(thread, "0", number)
                await stream.until("run_waiting")
                stream.cut()
                (asked,) = (await server.call("GET", f"/api/threads/{thread}/questions"))[1]["questions"]
                assert (asked["kind"], asked["tool"], asked["arguments"]) == (
                    "approval",
                    "files__say",
                    '{"text": "hello"}',
                )
                answer = {"decision": "approve", "hash": asked["hash"]}
                path = f"/api/threads/{thread}/questions/{asked['seq']}/answer"
                assert (await server.call("POST", path, json=answer))[0] == 202
                await server.ended(thread, number)
                (began,) = await events(server, thread, ToolStarted)
                assert (began.name, began.effect, began.untrusted) == ("files__say", "write", True)
                (ended,) = await events(server, thread, ToolEnded)
                assert (ended.content, ended.status) == ("hello", "ok")
                stored = await server.service.events("local", thread)
        gone = Config(**{**server.config.model_dump(exclude={"mcp"}), "mcp": {"files": {"command": "/gone"}}})
        assert await replay(stored, ConfigParts(gone), thread) is None

    asyncio.run(main())
    assert living() <= before


def test_an_image_of_a_server_is_shown_to_the_model(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([calls("s__image"), text("A dot.")], strict=False) as endpoint:
            models = scripted(endpoint, images=True, window=64_000)
            settings: Any = {"models": models, "mcp": {"s": mcp("plain", effects={"image": "pure"})}}
            async with serving(tmp_path, **settings) as server:
                thread, number = await run(server)
                await server.ended(thread, number)
                (ended,) = await events(server, thread, ToolEnded)
                assert ended.content == f"[image 1: image/png, {len(PIXEL)} bytes]"
            sent = json.dumps((await endpoint.request(1)).body)
            assert "data:image/png;base64," in sent

    asyncio.run(main())


def test_a_question_of_a_server_is_a_question_of_the_run(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([calls("s__ask", text="How big?"), text("Fine.")]) as endpoint:
            settings: Any = {
                "models": scripted(endpoint),
                "mcp": {"s": mcp("asks", effects={"ask": "pure"})},
            }
            async with serving(tmp_path, **settings) as server:
                thread, number = await run(server)
                stream = await server.follow(thread, "0", number)
                await stream.until("asked")
                stream.cut()
                (asked,) = (await server.call("GET", f"/api/threads/{thread}/questions"))[1]["questions"]
                assert (asked["kind"], asked["text"]) == ("elicitation", "s: How big?")
                assert asked["form"]["required"] == ["size"]
                path = f"/api/threads/{thread}/questions/{asked['seq']}/answer"
                wrong = {"decision": "answer", "value": {"size": "big"}}
                assert (await server.call("POST", path, json=wrong))[0] == 422
                assert (await server.call("POST", path, json={"decision": "answer", "value": {"size": 3}}))[0] == 202
                await server.ended(thread, number)
                (ended,) = await events(server, thread, ToolEnded)
                assert json.loads(ended.content) == {"action": "accept", "content": {"size": 3}}

    asyncio.run(main())


def test_a_cancelled_run_cancels_the_call_at_its_server(tmp_path: Path) -> None:
    async def main() -> None:
        heard = tmp_path / "heard"
        async with Endpoint([calls("s__hang")]) as endpoint:
            settings: Any = {
                "models": scripted(endpoint),
                "mcp": {"s": mcp("hangs", str(heard), effects={"hang": "pure"})},
            }
            async with serving(tmp_path, **settings) as server:
                thread, number = await run(server)
                while not heard.exists():
                    await asyncio.sleep(0.01)
                assert (await server.call("POST", f"/api/threads/{thread}/runs/{number}/cancel"))[0] == 202
                await server.ended(thread, number)
                while "notifications/cancelled" not in heard.read_text():
                    await asyncio.sleep(0.01)

    asyncio.run(main())


def test_a_changed_tool_is_off_until_it_is_confirmed_also_by_another_process(tmp_path: Path) -> None:
    file = tmp_path / "tools.json"

    def say(**descriptions: str) -> None:
        file.write_text(json.dumps([{"name": name, "description": said} for name, said in descriptions.items()]))

    async def main() -> None:
        say(a="Good.", b="Also.")
        settings: Any = {"mcp": {"s": mcp("described", str(file))}, "agent": {"tools": ["s__a", "now"]}}
        async with serving(tmp_path, **settings) as server:
            assert (await tools_of(server)).keys() == {"s__a", "s__b"}
        say(a="Evil.", b="Also.", c="New.")
        async with serving(tmp_path, quiet=False, **settings) as server:
            while (await tools_of(server)).keys() != {"s__b"}:
                await asyncio.sleep(0.01)
            thread = await server.thread()
            status, refused = await server.call(
                "POST", f"/api/threads/{thread}/messages", json={"content": "x", "tools": ["s__a"]}
            )
            assert (status, refused["error"]["field"]) == (422, "tools.0")
            assert (await server.call("POST", f"/api/threads/{thread}/messages", json={"content": "x"}))[0] == 202
            rows = {row.tool: row for row in mcp_rows(server.config, "s") or ()}
            assert {name: row.state for name, row in rows.items()} == {"a": "changed", "b": "on", "c": "new"}
            assert (rows["a"].before[:5], rows["a"].said[:5]) == ("Good.", "Evil.")
            assert mcp_confirm(server.config, "s", {"a": rows["a"].digest, "c": rows["c"].digest}) == ["a", "c"]
            assert (await tools_of(server)).keys() == {"s__a", "s__b", "s__c"}

    asyncio.run(main())


def test_a_server_that_hangs_delays_a_first_start_for_a_bounded_while_and_later_ones_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("stepwell.wiring.mcp.STARTING", 0.5)

    async def main() -> None:
        settings: Any = {"mcp": {"bad": mcp("silent"), "good": mcp("plain")}}
        loop = asyncio.get_running_loop()
        async with serving(tmp_path, quiet=False, **settings) as server:
            assert "good__say" in await tools_of(server)
            told = [each.getMessage() for each in caplog.records]
            assert "mcp.bad: it has not listed its tools yet; going on without them" in told
        began = loop.time()
        async with serving(tmp_path, quiet=False, mcp={"good": mcp("silent")}) as server:
            assert loop.time() - began < 1.0
            assert "good__say" in await tools_of(server)

    asyncio.run(main())


def test_a_tool_of_a_name_that_is_taken_is_left_out(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "own_s.py").write_text(
            "from stepwell import tool\n\n@tool\ndef s__say(text: str) -> str:\n    'Own.'\n    return text\n"
        )
        sys.path.insert(0, str(tmp_path))
        try:
            settings: Any = {"mcp": {"s": mcp("plain")}, "tools": {"modules": ["own_s"]}}
            async with serving(tmp_path, quiet=False, **settings) as server:
                _, body = await server.call("GET", "/api/tools")
                assert [each["description"] for each in body["tools"] if each["name"] == "s__say"] == ["Own."]
                assert "there is another tool named s__say" in str([each.getMessage() for each in server.logged])
        finally:
            sys.path.remove(str(tmp_path))

    asyncio.run(main())


def test_an_allow_list_and_a_disabled_server_leave_tools_out(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, mcp={"s": mcp("plain", tools=["say"])}) as server:
            assert (await tools_of(server)).keys() == {"s__say"}
        async with serving(tmp_path, mcp={"s": mcp("plain", enabled=False)}) as server:
            assert await tools_of(server) == {}

    asyncio.run(main())


def test_a_key_in_the_address_of_a_server_stands_in_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        raise AssertionError

    async def main() -> None:
        caplog.set_level(logging.DEBUG)
        logging.getLogger("httpx2").setLevel(logging.NOTSET)
        async with answering(answer) as url, serving(tmp_path, mcp={"s": {"url": f"{url}?key=s3cret-123"}}) as server:
            assert await tools_of(server) == {"s__say": "write"}
        ours = [each.getMessage() for each in caplog.records if not each.name.startswith("aiohttp")]
        assert any("1 tools" in each for each in ours)
        assert not any("s3cret-123" in each for each in ours)

    asyncio.run(main())


def test_an_address_that_the_model_made_is_asked_for_and_a_list_is_not(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [calls("s__list_resources"), calls("s__read_resource", uri="n://x?secret"), text("No.")]
        async with Endpoint(replies) as endpoint:
            on = mcp("resourceful", resources=True)
            async with serving(tmp_path, mcp={"s": on}, models=scripted(endpoint)) as server:
                assert await tools_of(server) == {"s__list_resources": "pure", "s__read_resource": "write"}
                thread, number = await run(server)
                stream = await server.follow(thread, "0", number)
                await stream.until("asked")
                stream.cut()
                (asked,) = (await server.call("GET", f"/api/threads/{thread}/questions"))[1]["questions"]
                assert (asked["kind"], asked["arguments"]) == ("approval", '{"uri": "n://x?secret"}')
                path = f"/api/threads/{thread}/questions/{asked['seq']}/answer"
                assert (await server.call("POST", path, json={"decision": "deny"}))[0] == 202
                await server.ended(thread, number)
                began = await events(server, thread, ToolStarted)
                assert [each.name for each in began] == ["s__list_resources"]

    asyncio.run(main())


def test_resources_are_offered_where_the_settings_say_so_with_the_effects_that_they_say(tmp_path: Path) -> None:
    async def main() -> None:
        effects = {"list_resources": "write", "read_resource": "pure"}
        off, on = mcp("resourceful", effects=effects), mcp("resourceful", resources=True, effects=effects)
        async with serving(tmp_path, mcp={"s": mcp("resourceful")}) as server:
            assert await tools_of(server) == {}
        read = calls("s__read_resource", uri="n://two/2")
        async with Endpoint([calls("s__read_resource", uri="n://empty"), text("Done."), read, text("No.")]) as endpoint:
            settings: Any = {"models": scripted(endpoint)}
            async with serving(tmp_path, mcp={"s": on}, **settings) as server:
                expected = {"s__list_resources": "write", "s__read_resource": "pure"}
                assert await tools_of(server) == expected
                thread, number = await run(server)
                await server.ended(thread, number)
                (began,) = await events(server, thread, ToolStarted)
                assert (began.name, began.effect, began.untrusted) == ("s__read_resource", "pure", True)
                (ended,) = await events(server, thread, ToolEnded)
                assert (ended.content, ended.status) == ("The resource is empty.", "ok")
                stored = await server.service.events("local", thread)
                rows = {row.tool: (row.state, row.effect) for row in mcp_rows(server.config, "s") or ()}
                assert rows == {"list_resources": ("on", "write"), "read_resource": ("on", "pure")}
            async with serving(tmp_path, quiet=False, mcp={"s": off}, **settings) as server:
                assert await tools_of(server) == {}
                assert await replay(stored, ConfigParts(server.config), thread) is None
                thread, number = await run(server)
                await server.ended(thread, number)
                (ended,) = await events(server, thread, ToolEnded)
                assert ended.status != "ok"

    asyncio.run(main())


def test_a_tool_of_the_server_comes_before_ours_of_its_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, mcp={"s": mcp("resourceful", "own", resources=True)}) as server:
            _, body = await server.call("GET", "/api/tools")
            told = {each["name"]: each["description"] for each in body["tools"] if each["name"].startswith("s__")}
            assert told == {
                "s__list_resources": "Its own.",
                "s__read_resource": "Read a resource of the server s by its address.",
            }

    asyncio.run(main())


def test_a_missing_variable_stops_the_start_and_names_it(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match=r"mcp\.s\.env_pass: the variable NO_SUCH_TOKEN is not set"):
            async with serving(tmp_path, mcp={"s": mcp("plain", env_pass=["NO_SUCH_TOKEN"])}):
                pass

    asyncio.run(main())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "set either `command`"),
        ({"command": "x", "url": "http://a/"}, "set either `command`"),
        ({"url": "ftp://a/"}, "url must be the address"),
        ({"url": "http://a/", "args": ["x"]}, "args cannot go with `url`"),
        ({"command": "x", "headers": {"a": "b"}}, "headers cannot go with `command`"),
        ({"command": "x", "oauth": True}, "oauth cannot go with `command`"),
        ({"url": "http://a/", "oauth": True}, "url must begin with https:// where oauth is on"),
        ({"command": "x", "effects": {"a": "none"}}, "effects"),
        ({"command": "x", "comand": "y"}, "comand"),
    ],
)
def test_wrong_settings_are_told(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Config.model_validate({"mcp": {"s": settings}})


def test_an_agent_may_name_a_tool_whose_server_was_never_seen(tmp_path: Path) -> None:
    settings: Any = {"data": tmp_path, "agent": {"tools": ["s__any", "now"]}}
    ConfigCatalog(Config.model_validate({**settings, "mcp": {"s": {"command": "x"}}}))
    with pytest.raises(ConfigError, match="there is no tool s__any"):
        ConfigCatalog(Config(**settings))


def test_the_sdk_is_imported_only_where_a_server_is_connected(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom stepwell.config import Config\n"
        "from stepwell.wiring.catalog import ConfigCatalog\n"
        "config = Config(data=Path(sys.argv[1]), mcp={'s': {'command': 'x'}})\n"
        "ConfigCatalog(config).tools()\nassert 'mcp' not in sys.modules\nassert 'anyio' not in sys.modules or True\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=30)


def test_without_the_sdk_servers_and_the_route_name_the_extra_and_stored_threads_can_still_be_read(
    tmp_path: Path,
) -> None:
    program = (
        "import sys, asyncio, importlib.util\nfrom pathlib import Path\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'mcp' else found(name, *rest)\n"
        "from stepwell.config import Config\nfrom stepwell.errors import ConfigError\n"
        "from stepwell.wiring.catalog import ConfigCatalog\nfrom stepwell.server.mcp.router import mcp_router\n"
        "config = Config(data=Path(sys.argv[1]), mcp={'s': {'command': 'x'}}, mcp_server={'enabled': True})\n"
        "catalog = ConfigCatalog(config)\n"
        "for use in (lambda: asyncio.run(catalog.start()), lambda: mcp_router(config, None, catalog)):\n"
        "    try:\n        use()\n    except ConfigError as error:\n"
        "        assert 'stepwell[mcp]' in str(error)\n"
        "        assert str(error).startswith(('mcp.s: ', 'mcp_server.'))\n"
        "    else:\n        raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=30)
