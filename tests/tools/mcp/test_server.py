"""Servers that keep to the protocol, and those that die, hang, flood, or write what is no message: real programs."""

import asyncio
import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from stepwell.errors import ToolError
from stepwell.tools.mcp.base import MOST_TOOLS, ServerSpec
from stepwell.tools.mcp.pace import MOST_PARTS
from tests.support.mcp_clients import BASIC, holdups, kept, listen, living, logged
from tests.support.mcp_sdk_server import COMMAND
from tests.support.mcp_servers import PIXEL
from tests.tools.running import context


def test_text_images_failures_structure_and_links_become_results(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("plain", tmp_path) as server:
            said = await server.call("say", {"text": "hello"})
            assert (said.content, said.status) == ("hello", "ok")
            shown = await server.call("image")
            assert shown.content == f"[image 1: image/png, {len(PIXEL)} bytes]"
            assert [each.url.partition(",")[0] for each in shown.images] == ["data:image/png;base64"]
            failed = await server.call("fails")
            assert (failed.content, failed.status) == ("It broke.", "failed")
            assert (await server.call("structured")).content == '{"count":3}'
            linked = await server.call("linked")
            assert linked.content == (
                "[resource file:///a.txt: a.txt, text/plain]\n[resource file:///b.txt]\nwhat is in b"
            )

    asyncio.run(main())


def test_a_call_that_the_server_refuses_fails_in_its_words(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("refuses", tmp_path) as server:
            refused = await server.call("say", {"text": "x"})
            assert refused.status == "failed"
            assert refused.content == "The MCP server s refused the call: No such file."
            assert len(server.offers) == 1

    asyncio.run(main())


def test_what_is_no_result_fails_in_words(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("plain", tmp_path) as server:
            for came in ({}, {"content": "text"}, {"content": [{"type": "smell"}]}, {"content": [{"type": "text"}]}):
                wrong = await server.call("raw", {"text": json.dumps(came)})
                assert (wrong.status, wrong.content) == ("failed", "The MCP server s sent what is no result of a call.")
            broken = {"content": [{"type": "image", "data": "%%%", "mimeType": "image/png"}]}
            assert "image/png that cannot be read" in (await server.call("raw", {"text": json.dumps(broken)})).content

    asyncio.run(main())


def test_of_a_result_with_very_many_parts_the_rest_is_left_out_and_said_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("plain", tmp_path) as server:
            came = {"content": [{"type": "text", "text": "a"}] * (MOST_PARTS + 7)}
            result = await server.call("raw", {"text": json.dumps(came)})
            assert result.content.endswith("a\n[7 further parts are left out]")
            assert result.content.count("a\n") == MOST_PARTS

    asyncio.run(main())


def test_a_server_over_the_sdk_works_with_progress_and_images(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("", tmp_path, command=COMMAND) as server:
            assert (await server.call("add", {"a": 2, "b": 3})).content == "5"
            assert len((await server.call("dot")).images) == 1
            told: list[str] = []
            assert (await server.call("work", told=told)).content == "done"
            assert told == ["1/2 half"]
            invalid = await server.call("add", {"a": 2})
            assert invalid.status == "invalid"

    asyncio.run(main())


def test_a_server_gets_of_the_environment_what_it_is_given_and_nothing_else(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("plain", tmp_path, environment={**BASIC, "TOKEN": "x"}) as server:
            found = json.loads((await server.call("environment")).content)
            assert found.keys() - {"LC_CTYPE", "__CF_USER_TEXT_ENCODING"} == {*BASIC, "TOKEN", "STEPWELL_CALL"}

    asyncio.run(main())


def test_a_server_that_died_is_started_again_by_the_next_call(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("plain", tmp_path, effects={"pid": "pure"}) as server:
            first = int((await server.call("pid")).content)
            died = await server.call("die")
            assert died.status == "failed"
            assert died.content == (
                "The connection to the MCP server s ended. "
                "Whether the call took effect is not known: look before you call again."
            )
            assert int((await server.call("pid")).content) != first

    asyncio.run(main())


@pytest.mark.parametrize(
    ("effect", "calls", "status"), [("pure", 2, "ok"), ("idempotent", 2, "ok"), ("write", 1, "failed")]
)
def test_a_call_is_repeated_once_where_it_may_be_and_never_where_it_writes(
    tmp_path: Path, effect: Any, calls: int, status: str
) -> None:
    async def main() -> None:
        file = tmp_path / "calls"
        async with kept("counting", tmp_path, str(file), effects={"count": effect}) as server:
            assert (await server.call("count", {"deaths": 1})).status == status
            assert file.read_text().count("call\n") == calls

    asyncio.run(main())


def test_a_server_that_dies_at_each_call_fails_in_words_after_one_more_attempt(tmp_path: Path) -> None:
    async def main() -> None:
        file = tmp_path / "calls"
        async with kept("counting", tmp_path, str(file), effects={"count": "pure"}) as server:
            failed = await server.call("count", {"deaths": 99})
            assert (failed.status, failed.content) == ("failed", "The connection to the MCP server s ended.")
            assert file.read_text().count("call\n") == 2

    asyncio.run(main())


def test_a_program_that_ends_at_once_or_is_not_there_is_told_in_words_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listen(caplog)

    async def main() -> None:
        async with kept("dies", tmp_path, start=False) as server:
            assert "refuses the handshake: Connection closed" in await server.started()
            with pytest.raises(ToolError, match="The MCP server s cannot be reached: it refuses the handshake"):
                await server.server.call("say", {}, context(), "pure")
        async with kept("", tmp_path, command=("/no/server",), start=False) as server:
            assert (await server.started()).startswith("its program /no/server cannot be started in ")

    asyncio.run(main())
    assert "s: no configuration" in logged(caplog)
    assert "started again in 0.5 s" in logged(caplog)


def test_a_silent_server_is_given_up_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = living()
    monkeypatch.setattr("stepwell.tools.mcp.connection.LISTING", 0.3)

    async def main() -> None:
        async with kept("silent", tmp_path, start=False) as server:
            assert await server.started() == "it did not list its tools in time"

    asyncio.run(main())
    assert living() <= before


def test_a_call_that_hangs_ends_with_its_time_and_the_server_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        file = tmp_path / "heard"
        async with kept("hangs", tmp_path, str(file), timeout=0.3) as server:
            hung = await server.call("hang")
            assert hung.status == "failed"
            assert hung.content.startswith("The MCP server s did not answer within 0.3 seconds. Whether")
            assert (await server.call("say", {"text": "still there"})).content == "still there"
            call, cancelled, _ = map(json.loads, file.read_text().splitlines())
            assert cancelled["method"] == "notifications/cancelled"
            assert cancelled["params"]["requestId"] == call["id"]

    asyncio.run(main())


def test_a_cancelled_call_tells_the_server_and_leaves_the_connection_to_others(tmp_path: Path) -> None:
    async def main() -> None:
        file = tmp_path / "heard"
        async with kept("hangs", tmp_path, str(file)) as server:
            call = asyncio.create_task(server.call("hang"))
            while not file.exists() or "hang" not in file.read_text():
                await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (await server.call("say", {"text": "on"})).content == "on"
            methods = [json.loads(line)["method"] for line in file.read_text().splitlines()]
            assert methods == ["tools/call", "notifications/cancelled", "tools/call"]

    asyncio.run(main())


def test_calls_run_side_by_side(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("plain", tmp_path) as server:
            said = await asyncio.gather(*(server.call("say", {"text": str(number)}) for number in range(50)))
            assert [each.content for each in said] == [str(number) for number in range(50)]

    asyncio.run(main())


def test_what_is_no_message_is_passed_over_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with kept("garbage", tmp_path) as server:
            for number in range(3):
                assert (await server.call("say", {"text": str(number)})).content == str(number)

    asyncio.run(main())
    told = [line for line in logged(caplog).splitlines() if "no message" in line]
    assert told == ["MCP server s writes what is no message to stdout, such as: Welcome to the server!"]


NOT_TAKEN = "The call reached the MCP server s, but its answer is not taken: it"
TOO_LONG = f"{NOT_TAKEN} has more than 32 MB; ask it for less."
TOO_MANY = f"{NOT_TAKEN} is too much to take apart; ask it for less."


@pytest.mark.parametrize("place", ["first", "last"])
def test_an_answer_that_is_too_much_is_a_failed_call_in_words_and_holds_nobody_up(tmp_path: Path, place: str) -> None:
    async def main() -> None:
        async with kept("huge", tmp_path, place, effects={"pid": "pure"}) as server, holdups() as longest:
            pid = (await server.call("pid")).content
            for tool, count, words in (("much", 40, TOO_LONG), ("values", 15_000_000, TOO_MANY)):
                failed = await server.call(tool, {"text": str(count)})
                assert (failed.status, failed.content) == ("failed", words)
            large = await server.call("much", {"text": "3"})
            assert (large.status, len(large.whole)) == ("ok", 3 << 20)
            assert len(large.content) < 40_000
            assert (await server.call("values", {"text": "150000"})).status == "ok"
            assert (await server.call("pid")).content == pid
            assert longest() < 1.0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("tool", "count", "place", "words"),
    [
        ("endless", "0", "first", "it sent a message of more than 256 MB"),
        ("much", "40", "nowhere", "it sent a message that is not taken: it has more than 32 MB"),
    ],
)
def test_a_message_without_end_or_owner_ends_the_connection_and_the_server_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tool: str, count: str, place: str, words: str
) -> None:
    async def main() -> None:
        async with kept("huge", tmp_path, place) as server, holdups() as longest:
            failed = await server.call(tool, {"text": count})
            assert failed.status == "failed"
            assert failed.content.startswith(f"The connection to the MCP server s ended: {words}. Whether the call")
            assert (await server.call("say", {"text": "here again"})).content == "here again"
            assert longest() < 1.0

    asyncio.run(main())
    assert f"MCP server s: {words}; started again" in logged(caplog)


def test_a_server_that_says_nothing_any_more_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("stepwell.tools.mcp.connection.PING", 0.3)

    async def main() -> None:
        async with kept("freezes", tmp_path, timeout=0.3, effects={"pid": "pure"}) as server:
            first = (await server.call("pid")).content
            for _ in range(2):
                assert "did not answer within 0.3 seconds" in (await server.call("freeze")).content
            await server.listed(2)
            assert (await server.call("pid")).content != first

    asyncio.run(main())
    assert "MCP server s: it answered nothing any more; started again in 0.5 s" in logged(caplog)


def test_a_server_whose_calls_hang_and_that_answers_else_is_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("hangs", tmp_path, timeout=0.2, effects={"pid": "pure"}) as server:
            first = (await server.call("pid")).content
            for _ in range(6):
                assert "did not answer" in (await server.call("hang")).content
            assert (await server.call("pid")).content == first
            assert len(server.offers) == 1

    asyncio.run(main())


def test_a_flood_of_notifications_holds_up_its_server_and_nobody_else(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("floods", tmp_path, timeout=30) as server:
            loop = asyncio.get_running_loop()
            began, used = loop.time(), psutil.Process().cpu_times()
            assert (await server.call("say", {"text": "through"})).content == "through"
            await asyncio.sleep(max(0.0, 2.0 - (loop.time() - began)))
            spent = psutil.Process().cpu_times()
            seconds = loop.time() - began
            assert (spent.user + spent.system - used.user - used.system) / seconds < 0.6

    asyncio.run(main())


def test_a_listing_without_end_is_cut_and_said_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("many", tmp_path, "20000") as server:
            (offer,) = server.offers
            assert len(offer.tools) == MOST_TOOLS
            assert offer.refused["…"] == ("the server has more than 256 tools; name those that are used in mcp.s.tools")
        async with kept("many", tmp_path, "100000", name="t", start=False) as server:
            assert await server.started() == (
                "it does not list its tools: its answer is not taken: it is too much to take apart; ask it for less"
            )
        async with kept("many", tmp_path, "500", tools=("tool499",)) as server:
            assert list(server.offers[0].tools) == ["tool499"]

    asyncio.run(main())


def test_nothing_that_a_server_started_is_left_when_it_is_closed(tmp_path: Path) -> None:
    async def main() -> list[int]:
        file = tmp_path / "pids"
        async with kept("children", tmp_path, str(file)):
            numbers = [int(each) for each in file.read_text().split()]
            assert all(psutil.pid_exists(each) for each in numbers)
        return numbers

    numbers = asyncio.run(main())
    alive = [each for each in numbers if psutil.pid_exists(each) and psutil.Process(each).status() != "zombie"]
    assert alive == []
    assert len(numbers) == 3


def test_what_a_server_says_on_stderr_is_logged_bounded_clean_and_without_secrets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listen(caplog)

    async def main() -> None:
        environment = {**BASIC, "TOKEN": "hunter2"}
        async with kept("talks", tmp_path, environment=environment, secrets=("hunter2",)) as server:
            await server.call("say", {"text": "x"})

    asyncio.run(main())
    lines = [line for line in logged(caplog).splitlines() if line.startswith("s: ")]
    assert lines[0] == r"s: line 0 \u001b[31m of ***"
    assert lines[-1] == "s: it says more than is logged"
    assert len(lines) == 41


def test_progress_is_passed_on_clean_and_not_too_often(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("progresses", tmp_path) as server:
            told: list[str] = []
            assert (await server.call("work", told=told)).content == "done"
            assert told[0] == r"0/500 at\u001b[31m work"
            assert len(told) < 100

    asyncio.run(main())


def test_a_server_can_be_closed_while_it_starts_and_twice(tmp_path: Path) -> None:
    before = living()

    async def main() -> None:
        async with kept("silent", tmp_path, start=False) as server:
            starting = server.server.start()
            await asyncio.sleep(0)
            await server.server.close()
            assert await starting == "this program is about to end"
            with pytest.raises(ToolError, match="not kept any more"):
                await server.server.call("say", {}, context(), "pure")

    asyncio.run(main())
    assert living() <= before


HALF = '{"content": [{"type": "text", "text": "half \\ud83d"}]}'
"""What servers send that cut a text in the middle of a letter."""


def test_half_a_letter_in_an_answer_is_replaced_and_what_cannot_be_read_fails_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("plain", tmp_path, timeout=60.0) as server:
            assert (await server.call("raw", {"text": HALF})).content == "half \ufffd"
            deep = await server.call("raw", {"text": '{"structuredContent":' + '{"a":' * 300 + "1" + "}" * 301})
            assert deep.status == "failed"
            assert deep.content == "The call reached the MCP server s, but its answer cannot be read."
            assert (await server.call("say", {"text": "x"})).content == "x"

    asyncio.run(main())


def test_a_secret_that_stands_where_a_text_is_cut_is_not_told_in_part(tmp_path: Path) -> None:
    spec = ServerSpec(name="s", secrets=("k3y-" + "0123456789" * 4,))
    for before in range(60):
        said = spec.plain("x" * before + spec.secrets[0] * 400, 300)
        assert set(said) <= {"x", "*"}
