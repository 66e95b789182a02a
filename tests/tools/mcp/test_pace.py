"""What a server over pipes may ask of us and tell us, and how often: it holds up itself."""

import asyncio
from pathlib import Path

import pytest

from stepwell.events import Answered
from stepwell.questions import Inquiry
from stepwell.tools.mcp.flight import MOST_ASKED
from stepwell.tools.mcp.pace import MOST_OWED
from tests.support.mcp_clients import holdups, kept
from tests.support.mcp_hostile_servers import PROGRAM


def test_a_server_that_asks_without_end_and_reads_no_answer_piles_nothing_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("", tmp_path, command=(*PROGRAM, "demands"), timeout=2.0) as server, holdups() as longest:
            assert "did not answer within 2 seconds" in (await server.call("go")).content
            assert len(asyncio.all_tasks()) < MOST_OWED + 30
            assert longest() < 1.0

    asyncio.run(main())


def test_a_call_asks_people_so_often_and_no_more(tmp_path: Path) -> None:
    asked: list[Inquiry] = []

    async def ask(inquiry: Inquiry) -> Answered | None:
        asked.append(inquiry)
        return Answered(1, "answer", value={})

    async def main() -> None:
        async with kept("", tmp_path, command=(*PROGRAM, "asks_without_end")) as server:
            assert (await server.call("go", ask=ask)).content == str(200 - MOST_ASKED)
            assert len(asked) == MOST_ASKED

    asyncio.run(main())


def test_what_a_server_asks_and_takes_back_counts_no_more(tmp_path: Path) -> None:
    async def never(inquiry: Inquiry) -> Answered | None:
        await asyncio.Event().wait()
        return None

    async def main() -> None:
        async with kept("", tmp_path, command=(*PROGRAM, "takes_back")) as server:
            for _ in range(3):
                assert (await server.call("go", ask=never)).status == "ok"
            assert (await server.call("say", {"text": "still here"})).content == "still here"

    asyncio.run(main())


def test_a_server_whose_tools_are_others_again_and_again_is_listed_ever_more_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepwell.tools.mcp.server.CALM", 0.1)

    async def main() -> None:
        async with kept("", tmp_path, command=(*PROGRAM, "storms")) as server:
            now = asyncio.get_running_loop().time
            await server.listed(2)
            began = now()
            await server.listed(5)
            assert now() - began >= 0.1 + 0.2 + 0.4
            assert server.pins.refusal("s", "say", server.offers[0].tools["say"].digest)

    asyncio.run(main())


def test_what_a_server_writes_to_stderr_without_end_holds_nobody_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("", tmp_path, command=(*PROGRAM, "shouts")) as server:
            await server.call("say", {"text": "begun"})
            async with asyncio.timeout(2):
                for _ in range(300):
                    assert (await server.call("say", {"text": "x"})).content == "x"

    asyncio.run(main())
