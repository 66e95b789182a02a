"""How much of a conversation a request may bring, whatever face it comes through."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from stepwell.server.counts import MOST
from stepwell.server.openai import responses_store
from tests.support.endpoint import Endpoint, text, tool_calls
from tests.support.openai_client import WEATHER, official, user
from tests.support.server import Server, scripted, serving

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
FUNCTION: dict[str, Any] = {"type": "function", **WEATHER["function"]}


def said(count: int) -> list[dict[str, Any]]:
    """Return a conversation that the user has the last word in."""
    roles = ("user", "assistant")
    return [{"role": roles[(count - 1 - at) % 2], "content": f"word {at}"} for at in range(count)]


def ag_ui(messages: list[dict[str, Any]]) -> dict[str, Any]:
    named = [{"id": f"m{at}", **each} for at, each in enumerate(messages)]
    return {"threadId": f"of {len(messages)}", "runId": "r", "messages": named}


FACES: dict[str, tuple[str, str, Callable[[list[dict[str, Any]]], dict[str, Any]]]] = {
    "chat": (CHAT, "messages", lambda given: {"model": "offline", "messages": given}),
    "responses": (RESPONSES, "input", lambda given: {"model": "offline", "input": given}),
    "agui": ("/agui", "messages", ag_ui),
    "agent_chat": ("/chat/agent_chat", "history", lambda given: {"query": "hi", "history": given}),
    "old": ("/chat/chat", "history", lambda given: {"query": "hi", "history": given}),
    "completions": ("/chat/chat/completions", "messages", lambda given: {"messages": given}),
}


async def refusal(server: Server, path: str, body: dict[str, Any]) -> tuple[int, str, str]:
    """Return the status of a request, the field that it blames, and what it says."""
    status, told = await server.call("POST", path, json=body)
    if "detail" in told:
        return status, told["detail"][0]["loc"][-1], told["detail"][0]["msg"]
    error = told["error"]
    return status, error.get("param") or error.get("field"), error["message"]


@pytest.mark.parametrize("face", FACES)
def test_a_conversation_at_the_limit_is_answered_and_one_message_more_is_refused_by_its_field(
    face: str, tmp_path: Path
) -> None:
    path, field, body = FACES[face]

    async def main() -> None:
        async with serving(tmp_path) as server:
            assert (await server.call("POST", path, json=body(said(MOST))))[0] == 200
            status, place, message = await refusal(server, path, body(said(MOST + 1)))
            assert (status, place) == (400 if path.startswith("/v1") else 422, field)
            assert f"{MOST + 1:,}" in message
            assert f"{MOST:,}" in message
            assert "leave out the oldest" in message
            assert len(await server.service.threads("local")) == 1

    asyncio.run(main())


PARTS = [{"type": "text", "text": "x"}] * MOST
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"model": "offline", "messages": [{"role": "user", "content": PARTS}]}),
        (CHAT, {"model": "offline", "messages": [{"role": "assistant", "tool_calls": [CALL] * MOST}, user("x")]}),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}] * MOST}]}),
        (RESPONSES, {"input": [{"type": "function_call_output", "call_id": "c", "output": PARTS}]}),
        ("/agui", ag_ui([{"role": "user", "content": PARTS}])),
        ("/agui", ag_ui([{"role": "assistant", "content": "", "toolCalls": [CALL] * MOST}, user("x")])),
        ("/chat/chat/completions", {"messages": [{"role": "user", "content": PARTS}]}),
    ],
)
def test_parts_and_calls_count_like_messages(path: str, body: dict[str, Any], tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            status, _, message = await refusal(server, path, body)
            assert status in (400, 422), message
            assert "messages, parts and calls" in message

    asyncio.run(main())


def test_what_is_no_list_of_messages_is_refused_for_that(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            for given in ({"role": "user"}, 7, ["x"] * MOST):
                status, place, message = await refusal(server, CHAT, {"model": "offline", "messages": given})
                assert status == 400
                assert place.startswith("messages")
                assert "parts and calls" not in message

    asyncio.run(main())


@pytest.mark.parametrize(("path", "tool"), [(CHAT, WEATHER), (RESPONSES, FUNCTION)])
def test_too_many_tools_are_refused_before_they_are_read(path: str, tool: dict[str, Any], tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            body = {"model": "offline", "messages": [user("x")], "input": "x", "tools": [tool] * 129}
            status, place, message = await refusal(server, path, body)
            assert (status, place) == (400, "tools")
            assert "128" in message

    asyncio.run(main())


@contextmanager
def counting() -> Generator[list[int]]:
    """Count the Python functions that are called in the block."""
    calls = [0]

    def count(_: FrameType, event: str, __: object) -> None:
        calls[0] += event == "call"

    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("face", FACES)
def test_a_message_more_costs_the_same_however_many_there_are(face: str, tmp_path: Path) -> None:
    path, _, body = FACES[face]

    async def main() -> None:
        async with serving(tmp_path) as server:

            async def cost(count: int) -> int:
                with counting() as calls:
                    status, _ = await server.call("POST", path, json=body(said(count)))
                assert status == 200
                return calls[0]

            await cost(3)  # what is made but once
            assert await cost(8001) < 2 * 4 * await cost(2001)

    asyncio.run(main())


# what a request names costs reads of the store


@contextmanager
def reads(server: Server, monkeypatch: pytest.MonkeyPatch) -> Generator[list[str]]:
    """Collect which threads are looked up and read in the block."""
    seen: list[str] = []
    store = server.service.store
    with monkeypatch.context() as patch:
        for name in ("thread", "read"):
            real = getattr(store, name)

            async def spied(*args: Any, real: Any = real, **options: Any) -> Any:
                seen.append(str(args[0]))
                return await real(*args, **options)

            patch.setattr(store, name, spied)
        yield seen


def outputs(count: int) -> list[dict[str, Any]]:
    """Return past calls of as many threads as there are, with their results."""
    given: list[dict[str, Any]] = []
    for at in range(count):
        id = f"call_{at:032x}_7"
        given += [
            {"type": "function_call", "call_id": id, "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": id, "output": "rain"},
        ]
    return given


def test_results_of_many_threads_cost_no_more_reads_than_those_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server, official(server) as client:

            async def cost(count: int) -> int:
                given: list[Any] = [*outputs(count), user("x")]
                with reads(server, monkeypatch) as seen:
                    await client.responses.create(model="offline", input=given)
                assert len(set(seen)) == 2, "the thread that is made, and the one of the newest result"
                return sum(thread.startswith("0" * 24) for thread in seen)

            assert await cost(40) == await cost(1)
            results = [{"role": "tool", "tool_call_id": f"call_{at:032x}_7", "content": "rain"} for at in range(40)]
            calls = [{**CALL, "id": each["tool_call_id"]} for each in results]
            messages: list[Any] = [user("x"), {"role": "assistant", "tool_calls": calls}, *results]
            with reads(server, monkeypatch) as seen:
                await client.chat.completions.create(model="offline", messages=messages)
            assert len(set(seen)) <= 1

    asyncio.run(main())


def test_the_newest_result_decides_which_thread_goes_on_and_those_of_others_are_history(tmp_path: Path) -> None:
    async def main() -> None:
        turns = [tool_calls(("c1", "weather", ['{"place": "Rome"}'])), text("Rain.")]
        async with (
            Endpoint([*turns]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            asked = await client.responses.create(model="stepwell", input="?", tools=[FUNCTION])  # type: ignore[list-item]
            (call,) = asked.output
            assert call.type == "function_call"
            given: list[Any] = [user("?"), *outputs(3), call.to_dict()]
            given.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
            answer = await client.responses.create(model="stepwell", input=given, tools=[FUNCTION])  # type: ignore[list-item]
            assert answer.output_text == "Rain."
            assert answer.id.split("_")[1] == asked.id.split("_")[1]

    asyncio.run(main())


def test_items_that_are_only_named_are_read_once_and_of_so_many_events_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server, official(server) as client:
            made = [await client.responses.create(model="offline", input=f"{at}") for at in range(120)]
            named: list[Any] = [{"type": "item_reference", "id": each.output[0].id} for each in made]

            threads = {each.id.split("_")[1] for each in made}

            async def cost(given: list[Any]) -> int:
                said: list[Any] = [*given, user("x")]
                with reads(server, monkeypatch) as seen:
                    await client.responses.create(model="offline", input=said)
                return sum(thread in threads for thread in seen)

            alone = await cost(named[:1])
            assert alone == await cost(named[:1] * 500)
            assert await cost(named) == len(named) * alone
            events = len(await server.service.events("local", made[0].id.split("_")[1]))
            monkeypatch.setattr(responses_store, "MOST_READ", events * (len(named) - 1))
            status, place, message = await refusal(server, RESPONSES, {"input": [*named, user("x")]})
            assert (status, place) == (400, "input")
            assert f"{events * (len(named) - 1):,} events" in message

    asyncio.run(main())
