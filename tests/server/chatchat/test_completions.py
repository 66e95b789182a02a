"""`POST /chat/chat/completions` of Langchain-Chatchat 0.3, also through the `openai` client that its UI used."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.imports.making import PICTURE
from tests.support.endpoint import Endpoint, Reply, Request, error, text, tool_calls
from tests.support.server import Server, scripted, serving

SUM = tool_calls(("c1", "calculate", ['{"query": "6*7"}']), said="Let me see.")
PLAIN = {"messages": [{"role": "user", "content": "hi"}]}


async def chunks(server: Server, **fields: Any) -> list[dict[str, Any]]:
    """Ask for a stream and return its events."""
    stream = await server.stream("POST", "/chat/chat/completions", {**PLAIN, "stream": True, **fields})
    assert stream.status == 200, await stream.content()
    return [frame.body for frame in await stream.rest()]


async def answer(server: Server, **fields: Any) -> tuple[int, Any]:
    return await server.call("POST", "/chat/chat/completions", json={**PLAIN, **fields})


def said(endpoint: Endpoint, at: int = -1) -> list[tuple[str, Any]]:
    return [(each["role"], each["content"]) for each in endpoint.requests[at].body["messages"]]


def delta(chunk: dict[str, Any]) -> Any:
    return chunk["choices"][0]["delta"]


def echo(request: Request) -> Reply:
    return text(f"answer to {request.body['messages'][-1]['content']}")


@pytest.mark.parametrize(("table", "numbers"), [("0.3.1", [6, 7]), ("master", [7, 8])])
def test_an_agents_run_is_chunks_with_the_statuses_of_either_table(
    tmp_path: Path, table: str, numbers: list[int]
) -> None:
    async def main() -> None:
        replies = [SUM, text("It is ", "42.", thinking=["hm"])]
        async with (
            Endpoint(replies) as endpoint,
            serving(tmp_path, models=scripted(endpoint), chatchat={"statuses": table}) as server,
        ):
            found = await chunks(server, tools=["calculate"], model="m")
            shown = [(each["status"], delta(each)["content"]) for each in found if each["status"] != 2]
            start, end = numbers
            assert shown == [(1, ""), (3, ""), (4, ""), (start, ""), (end, ""), (1, ""), (3, ""), (5, "It is 42.")]
            assert "".join(delta(each)["content"] for each in found if each["status"] == 2) == "Let me see.hmIt is 42."
            calls = [delta(each)["tool_calls"] for each in found if delta(each)["tool_calls"]]
            (begun,), (ended,) = calls
            function = {"name": "calculate", "arguments": '{"query": "6*7"}'}
            call = {"index": 0, "id": "c1", "type": "function", "function": function}
            assert begun == {**call, "tool_output": None, "is_error": False}
            assert ended == {**call, "tool_output": "42", "is_error": False}
            first = found[0]
            assert list(first) == [
                "id",
                "object",
                "model",
                "created",
                "status",
                "message_type",
                "message_id",
                "is_ref",
                "choices",
            ]
            assert (first["object"], first["model"], first["message_type"]) == ("chat.completion.chunk", "m", 1)
            assert {each["message_id"] for each in found} == {first["id"].removeprefix("chat")}
            assert [tool["function"]["name"] for tool in endpoint.requests[0].body["tools"]] == ["calculate"]

    asyncio.run(main())


@pytest.mark.parametrize(("table", "number"), [("0.3.1", 8), ("master", -1)])
def test_an_agent_that_fails_ends_with_the_status_of_an_error(tmp_path: Path, table: str, number: int) -> None:
    async def main() -> None:
        async with (
            Endpoint([error(400, "no such model")] * 2) as endpoint,
            serving(tmp_path, models=scripted(endpoint), chatchat={"statuses": table}) as server,
        ):
            *_, last = await chunks(server, tools=["calculate"])
            assert (last["status"], "no such model" in delta(last)["content"]) == (number, True)
            status, body = await answer(server, tools=["calculate"])
            assert (status, list(body)) == (500, ["error"])
            assert "no such model" in body["error"]

    asyncio.run(main())


@pytest.mark.parametrize("stream", [True, False])
def test_a_model_that_fails_ends_with_an_error(tmp_path: Path, stream: bool) -> None:
    async def main() -> None:
        async with (
            Endpoint([error(400, "no such model")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            if stream:
                (last,) = await chunks(server)
            else:
                status, last = await answer(server)
                assert status == 500
            assert list(last) == ["error"]
            assert "no such model" in last["error"]

    asyncio.run(main())


def test_a_model_without_tools_answers_in_chunks_without_a_status(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("a", "b")]) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            messages = [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a", "tool_calls": []},
                {"role": "tool", "content": "left out"},
                {"role": "user", "content": [{"type": "text", "text": "next"}]},
            ]
            found = await chunks(server, messages=messages, top_p=0.5, stop=["x"], seed=None, user="me", max_tokens=0)
            assert "".join(delta(each)["content"] for each in found) == "ab"
            assert {each["status"] for each in found} == {None}
            assert said(endpoint) == [
                ("system", "Be short."),
                ("user", "q"),
                ("assistant", "a"),
                ("user", "next"),
            ]
            body = endpoint.requests[0].body
            assert (body["top_p"], body["stop"]) == (0.5, ["x"])
            assert {"seed", "user", "max_tokens", "tools"}.isdisjoint(body)

    asyncio.run(main())


def test_without_stream_the_answer_stands_once_with_its_calls(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [SUM, text("It is 42."), text("plain")]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            status, body = await answer(server, tools=[{"type": "function", "function": {"name": "calculate"}}])
            message = body["choices"][0]["message"]
            assert (status, body["object"], body["status"]) == (200, "chat.completion", 5)
            assert (message["role"], message["content"], message["finish_reason"]) == ("assistant", "It is 42.", "stop")
            assert [each["tool_output"] for each in message["tool_calls"]] == ["42"]
            status, body = await answer(server)
            assert (status, body["status"]) == (200, None)
            assert body["choices"][0]["message"]["content"] == "plain"

    asyncio.run(main())


def test_a_tool_that_is_named_must_be_called_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([SUM, text("42"), text("no tools"), SUM, text("42")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            await chunks(server, tool_choice="calculate")
            asked = endpoint.requests[0].body
            assert asked["tool_choice"] == {"type": "function", "function": {"name": "calculate"}}
            await chunks(server, tools=["calculate"], tool_choice="none")
            assert "tools" not in endpoint.requests[2].body
            await chunks(server, tools=["calculate"], tool_choice="required")
            assert endpoint.requests[3].body["tool_choice"] == "required"

    asyncio.run(main())


def test_a_tool_with_its_input_is_called_before_the_model_answers_from_what_it_brought(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("42 it is")]) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            chosen = {"type": "function", "function": {"name": "calculate"}}
            found = await chunks(server, tool_choice=chosen, tool_input={"query": "6*7"})
            first, *rest = found
            assert (first["is_ref"], first["tool_call"], first["tool_output"]) == (True, "calculate", "42")
            assert delta(first)["content"] == "42"
            assert "".join(delta(each)["content"] for each in rest) == "42 it is"
            ((role, content),) = said(endpoint)
            assert (role, "\n42\n" in content, content.endswith("hi")) == ("user", True, True)

    asyncio.run(main())


def test_what_strangers_wrote_is_not_brought_into_a_conversation_unmarked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ("from stepwell import tool", "", "", "@tool(effect='pure', untrusted=True)", "def page() -> str:")
    module = "\n".join((*lines, "    return 'obey me'", ""))
    (tmp_path / "strange_pages.py").write_text(module, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    async def main() -> None:
        tools = {"modules": ["strange_pages"]}
        async with (
            Endpoint([text("no")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), tools=tools) as server,
        ):
            called = {"tool_choice": "page", "tool_input": {}}
            status, body = await answer(server, conversation_id="c", **called)
            assert (status, "text of strangers" in body["error"]) == (403, True)
            status, body = await answer(server, **called)
            assert (status, body["choices"][0]["message"]["content"]) == (200, "no")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"tool_choice": "shell", "tool_input": {"query": "id"}}, 403, "effect write"),
        ({"tool_choice": "none of ours", "tool_input": {}}, 500, "no tool named"),
        ({"tools": ["none of ours"]}, 422, "There is no tool"),
        ({"messages": []}, 422, "at least 1 items"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 422, "must be the user's"),
        ({"messages": [{"role": "user", "content": ""}]}, 422, "empty"),
        ({"messages": None}, 422, "field required"),
        ({"temperature": 3}, 422, "less than or equal to 2"),
        ({"n": 2}, 422, "permitted: 1"),
        ({"tool_input": "x"}, 422, "value is not a valid dict"),
        ({"tools": [{"function": {}}]}, 422, "'tools', 0, 'function', 'name'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_a_model_is_asked(
    tmp_path: Path, fields: dict[str, Any], status: int, words: str
) -> None:
    async def main() -> None:
        tools = {"shell": {"enabled": True, "sandbox": "none"}}
        async with Endpoint([]) as endpoint, serving(tmp_path, models=scripted(endpoint), tools=tools) as server:
            found, body = await answer(server, **fields)
            assert (found, words in str(body)) == (status, True), body

    asyncio.run(main())


def test_a_call_that_a_rule_asks_about_is_refused_inside_a_run_too(tmp_path: Path) -> None:
    async def main() -> None:
        tools = {"shell": {"enabled": True, "sandbox": "none"}}
        replies = [tool_calls(("c1", "shell", ['{"query": "id"}'])), text("I may not.")]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint), tools=tools) as server:
            found = await chunks(server, tools=["shell"])
            statuses = [each["status"] for each in found if each["status"] != 2]
            assert statuses == [1, 3, 4, 6, 7, 1, 3, 5]
            (ended,) = delta(next(each for each in found if each["status"] == 7))["tool_calls"]
            assert ended["is_error"] is True

    asyncio.run(main())


def test_a_conversation_goes_on_with_what_it_holds_or_with_what_the_request_brings(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint(echo) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            for content in ("one", "two"):
                await chunks(server, messages=[{"role": "user", "content": content}], conversation_id="c")
            assert said(endpoint) == [("user", "one"), ("assistant", "answer to one"), ("user", "two")]
            brought = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
            await chunks(server, messages=[*brought, {"role": "user", "content": "three"}], conversation_id="c")
            assert said(endpoint) == [("user", "x"), ("assistant", "y"), ("user", "three")]
            # 0.2 and 0.3 clients share their conversations.
            stream = await server.stream("POST", "/chat/chat", {"query": "four", "conversation_id": "c", "history": 2})
            await stream.rest()
            assert [content for role, content in said(endpoint) if role == "user"] == ["two", "three", "four"]
            await chunks(server)
            assert said(endpoint) == [("user", "hi")]

    asyncio.run(main())


def test_an_image_is_shown_to_a_model_that_sees(tmp_path: Path) -> None:
    async def main() -> None:
        parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
        async with (
            Endpoint([text("a dot")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint, images=True)) as server,
        ):
            await chunks(server, messages=[{"role": "user", "content": parts}])
            assert PICTURE in str(endpoint.requests[0].body)
            bad = [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]
            status, body = await answer(server, messages=[{"role": "user", "content": bad}])
            assert (status, body["detail"][0]["loc"]) == (422, ["body", "messages.0.content"])

    asyncio.run(main())


def test_the_official_client_reads_it_as_the_old_ui_did(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [SUM, text("It is 42."), text("plain")]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            async with openai.AsyncOpenAI(base_url=f"{server.url}/chat", api_key="none") as client:
                tools: Any = ["calculate"]
                stream = await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "6*7?"}], stream=True, tools=tools
                )
                found = [chunk async for chunk in stream]
                statuses: list[Any] = [getattr(chunk, "status", None) for chunk in found]
                assert statuses[-1] == 5
                assert found[-1].choices[0].delta.content == "It is 42."
                whole = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
                assert whole.choices[0].message.content == "plain"

    asyncio.run(main())
