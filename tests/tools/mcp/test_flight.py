"""Questions of servers during calls: over pipes, where they do not say which call they are about, and over HTTP."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepwell.events import Answered
from stepwell.questions import Decision, Inquiry
from tests.support.mcp_clients import Ask, kept
from tests.support.mcp_sdk_server import COMMAND
from tests.tools.mcp.test_http import free_port, sdk_server

FORM = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}


def answering(decision: Decision, value: dict[str, Any] | None = None, seen: list[Inquiry] | None = None) -> Ask:
    async def ask(inquiry: Inquiry) -> Answered | None:
        if seen is not None:
            seen.append(inquiry)
        return Answered(1, decision, value=value)

    return ask


async def nobody(inquiry: Inquiry) -> Answered | None:
    return None


@pytest.mark.parametrize(
    ("ask", "heard"),
    [
        (answering("answer", {"size": 3}), {"action": "accept", "content": {"size": 3}}),
        (answering("answer", {"size": "big"}), {"action": "cancel"}),
        (answering("deny"), {"action": "decline"}),
        (answering("expired"), {"action": "cancel"}),
        (answering("cancelled"), {"action": "cancel"}),
        (nobody, {"action": "cancel"}),
        (None, {"action": "cancel"}),
    ],
)
def test_what_a_person_decides_is_what_the_server_hears(tmp_path: Path, ask: Ask | None, heard: dict[str, Any]) -> None:
    async def main() -> None:
        async with kept("asks", tmp_path) as server:
            assert json.loads((await server.call("ask", {"text": "How big?"}, ask=ask)).content) == heard

    asyncio.run(main())


def test_a_question_names_the_server_hides_nothing_and_has_its_form(tmp_path: Path) -> None:
    async def main() -> None:
        seen: list[Inquiry] = []
        async with kept("asks", tmp_path) as server:
            await server.call("ask", {"text": "How \u202ebig?"}, ask=answering("deny", seen=seen))
        assert seen == [Inquiry(kind="elicitation", text=r"s: How \u202ebig?", form=FORM)]

    asyncio.run(main())


def test_time_stands_still_while_a_person_is_asked_and_goes_on_after(tmp_path: Path) -> None:
    async def slowly(inquiry: Inquiry) -> Answered | None:
        await asyncio.sleep(0.8)
        return Answered(1, "answer", value={"size": 1})

    async def main() -> None:
        async with kept("asks", tmp_path, timeout=0.5) as server:
            asked = await server.call("ask", {"text": "?"}, ask=slowly)
            assert asked.status == "ok"

    asyncio.run(main())


def test_the_time_of_a_call_begins_when_it_is_its_turn(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def slowly(inquiry: Inquiry) -> Answered | None:
        asked.set()
        await asyncio.sleep(0.8)
        return Answered(1, "answer", value={"size": 1})

    async def main() -> None:
        async with kept("asks", tmp_path, timeout=0.5) as server:
            await server.call("ask", {"text": "?"}, ask=answering("deny"))  # from now on it is known to ask
            first = asyncio.create_task(server.call("ask", {"text": "?"}, ask=slowly))
            await asked.wait()
            assert (await server.call("say", {"text": "on"})).content == "on"
            assert (await first).status == "ok"

    asyncio.run(main())


def test_a_call_that_is_cancelled_takes_its_question_back(tmp_path: Path) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def ask(inquiry: Inquiry) -> Answered | None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return None

    async def main() -> None:
        async with kept("asks", tmp_path) as server:
            call = asyncio.create_task(server.call("ask", {"text": "?"}, ask=ask))
            await asked.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert left.is_set()
            assert (await server.call("say", {"text": "on"})).content == "on"

    asyncio.run(main())


def test_a_question_is_never_put_to_the_wrong_person(tmp_path: Path) -> None:
    """Two threads call at once: the first question is turned down, and from then on calls take turns."""
    seen: dict[str, list[str]] = {"a": [], "b": []}

    def ask(thread: str) -> Ask:
        async def put(inquiry: Inquiry) -> Answered | None:
            seen[thread].append(inquiry.text)
            await asyncio.sleep(0)
            return Answered(1, "answer", value={"size": len(thread)})

        return put

    async def main() -> None:
        async with kept("asks", tmp_path) as server:

            def call(thread: str) -> Any:
                return server.call("ask", {"text": f"of {thread}"}, ask=ask(thread), thread=thread)

            first = await asyncio.gather(call("a"), call("b"))
            assert "cancel" in {json.loads(each.content)["action"] for each in first}
            for _ in range(3):
                both = await asyncio.gather(call("a"), call("b"))
                assert [json.loads(each.content)["action"] for each in both] == ["accept", "accept"]
        assert set(seen["a"]) <= {"s: of a"}
        assert set(seen["b"]) <= {"s: of b"}
        assert len(seen["a"]) >= 3

    asyncio.run(main())


def test_a_model_and_roots_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept("asks_else", tmp_path) as server:
            answers = json.loads((await server.call("ask")).content)
            assert [each["error"]["message"] for each in answers] == [
                "Sampling not supported",
                "List roots not supported",
            ]

    asyncio.run(main())


@pytest.mark.parametrize("over", ["pipes", "http"])
def test_a_server_over_the_sdk_asks_and_hears(tmp_path: Path, over: str) -> None:
    async def through(more: dict[str, Any]) -> None:
        async with kept("", tmp_path, **more) as server:
            size: Callable[..., Any] = answering("answer", {"size": 7})
            assert (await server.call("ask", {"question": "How big?"}, ask=size)).content == "accept 7"
            assert (await server.call("ask", {"question": "How big?"}, ask=answering("deny"))).content == "decline -"

    async def main() -> None:
        if over == "pipes":
            await through({"command": COMMAND})
        else:
            async with sdk_server(free_port()) as url:
                await through({"url": url})

    asyncio.run(main())


def test_a_server_that_knows_no_handshake_asks_by_the_outcome_of_a_call_and_is_heard_when_its_tools_change(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with kept("modern", tmp_path) as server:
            ask = answering("answer", {"size": 3})
            came = await asyncio.gather(
                server.call("ask", {"text": "?"}, ask=ask, thread="a"),
                server.call("ask", {"text": "?"}, ask=answering("deny"), thread="b"),
            )
            answers = [json.loads(each.content) for each in came]
            assert answers == [[{"action": "accept", "content": {"size": 3}}, "kept"], [{"action": "decline"}, "kept"]]
            samples = await server.call("samples", {"text": ""})
            assert samples.content == "The MCP server s asks for what it is not given: sampling/createMessage."
            forever = await server.call("forever", {"text": ""})
            assert forever.content == "The MCP server s asks again and again, and gives no result."
            assert "late" in (await server.listed(2)).tools

    asyncio.run(main())
