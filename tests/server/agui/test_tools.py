"""Tools of the front end: a run ends with their calls, and the next goes on with their results."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.server.agui.client_of_agui import Agui, Object, check, names, of, text_of, user
from tests.support.endpoint import Endpoint, Reply, text, tool_calls
from tests.support.server import scripted, serving

LOOK: Object = {
    "name": "look",
    "description": "Look at a part of the screen.",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
ASK: Object = {"approvals": {"rules": [{"decision": "ask", "tool": "calculate"}]}}


def looks(*places: str) -> Reply:
    return tool_calls(*((f"c{n}", "look", [json.dumps({"at": place})]) for n, place in enumerate(places)))


def said(id: str) -> Object:
    """Return an assistant's message with one call, as a client keeps it."""
    call = {"id": "c0", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    return {"id": id, "role": "assistant", "toolCalls": [call]}


def result(call: str, content: str, **more: str) -> Object:
    return {"id": f"t-{call}", "role": "tool", "toolCallId": call, "content": content, **more}


async def told(endpoint: Endpoint, number: int) -> list[str]:
    request = await endpoint.request(number)
    return [each["content"] for each in request.body["messages"] if each["role"] in ("tool", "user")]


def test_calls_of_the_clients_tools_end_the_run_and_their_results_go_on_with_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([looks("top", "left"), text("A cat.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            client = Agui(server)
            first = await client.run(messages=[user("What is there?")], tools=[LOOK])
            check(first)
            assert first[-1]["outcome"] == {"type": "success", "pendingToolCallIds": ["c0", "c1"]}
            assert [each["toolCallName"] for each in of(first, "TOOL_CALL_START")] == ["look", "look"]
            reply = of(first, "TOOL_CALL_START")[0]["parentMessageId"]
            messages = [user("What is there?"), said(reply), result("c0", "ears"), result("c1", "", error="too dark")]
            second = await client.run("r2", messages=messages, tools=[LOOK])
            check(second)
            assert "TOOL_CALL_RESULT" not in names(second)
            assert "MESSAGES_SNAPSHOT" not in names(second)
            assert text_of(second) == ["A cat."]
            assert await told(endpoint, 1) == ["What is there?", "ears", "too dark"]
            again = await client.run("r2", messages=messages, tools=[LOOK])
            assert again == second

    asyncio.run(main())


def test_arguments_that_do_not_fit_are_told_with_their_result_and_not_left_to_the_client(tmp_path: Path) -> None:
    async def main() -> None:
        wrong = tool_calls(("c9", "look", ['{"where": 1}']))
        async with (
            Endpoint([wrong, looks("top")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            events = await Agui(server).run(messages=[user("What is there?")], tools=[LOOK])
            check(events)
            assert [each["delta"] for each in of(events, "TOOL_CALL_ARGS")] == ['{"where": 1}', '{"at": "top"}']
            (result,) = of(events, "TOOL_CALL_RESULT")
            assert (result["toolCallId"], result["metadata"]["stepwell"]["status"]) == ("c9", "invalid")
            assert events[-1]["outcome"]["pendingToolCallIds"] == ["c0"]

    asyncio.run(main())


PARTS: list[Object] = [
    {"type": "text", "text": "ears"},
    {"type": "image", "source": {"type": "data", "value": PIXEL, "mimeType": "image/png"}},
]


@pytest.mark.parametrize("content", [PARTS, PARTS[1:], {"seen": "ears"}])
def test_what_is_more_than_text_in_a_result_that_a_run_waits_for_is_refused_and_not_dropped(
    tmp_path: Path, content: object
) -> None:
    async def main() -> None:
        async with (
            Endpoint([looks("top"), text("A cat.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            client = Agui(server)
            first = await client.run(messages=[user("What is there?")], tools=[LOOK])
            reply = of(first, "TOOL_CALL_START")[0]["parentMessageId"]
            seen = result("c0", "") | {"content": content}
            body = {"threadId": "t", "runId": "r2", "messages": [user("What is there?"), said(reply), seen]}
            status, refused = await server.call("POST", "/agui", json=body | {"tools": [LOOK]})
            assert (status, refused["error"]["field"]) == (422, "messages.2.content")
            seen["content"] = PARTS[:1]
            assert text_of(await client.run("r2", messages=body["messages"], tools=[LOOK])) == ["A cat."]
            assert (await told(endpoint, 1))[1] == "ears"

    asyncio.run(main())


def test_an_image_in_a_result_of_a_conversation_that_is_new_here_is_shown(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("A cat.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint, images=True, window=32_000)) as server,
        ):
            seen = result("c0", "") | {"content": PARTS}
            messages = [user("What is there?"), said("a0"), seen]
            assert text_of(await Agui(server).run(messages=messages, tools=[LOOK])) == ["A cat."]
            assert PIXEL in json.dumps((await endpoint.request(0)).body)

    asyncio.run(main())


def test_a_message_in_place_of_a_result_is_heard_and_the_call_has_none(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([looks("top"), text("As you like.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            client = Agui(server)
            first = await client.run(messages=[user("What is there?")], tools=[LOOK])
            reply = of(first, "TOOL_CALL_START")[0]["parentMessageId"]
            messages = [user("What is there?"), said(reply), user("Never mind.", "u2")]
            second = await client.run("r2", messages=messages, tools=[LOOK])
            check(second)
            assert text_of(second) == ["As you like."]
            heard = await told(endpoint, 1)
            assert heard[1].startswith("The client did not carry it out")
            assert heard[2] == "Never mind."

    asyncio.run(main())


def test_approvals_and_results_are_answered_together(tmp_path: Path) -> None:
    async def main() -> None:
        both = tool_calls(("c0", "look", ['{"at": "top"}']), ("c1", "calculate", ['{"query": "1+1"}']))
        async with (
            Endpoint([both, text("Done.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), **ASK) as server,
        ):
            client = Agui(server)
            first = await client.run(messages=[user("Go.")], tools=[LOOK])
            check(first)
            (one,) = first[-1]["outcome"]["interrupts"]
            assert one["toolCallId"] == "c1"
            reply = of(first, "TOOL_CALL_START")[0]["parentMessageId"]
            messages = [user("Go."), said(reply), result("c0", "ears")]
            resume = [{"interruptId": one["id"], "status": "resolved", "payload": True}]
            second = await client.run("r2", messages=messages, tools=[LOOK], resume=resume)
            check(second)
            assert [each["toolCallId"] for each in of(second, "TOOL_CALL_RESULT")] == ["c1"]
            assert await told(endpoint, 1) == ["Go.", "ears", "2"]

    asyncio.run(main())


def test_a_result_that_another_face_sent_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([looks("top"), text("A cat.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            client = Agui(server)
            first = await client.run(messages=[user("What is there?")], tools=[LOOK])
            thread = client.headers["x-stepwell-thread"]
            (asked,) = (await server.call("GET", f"/api/threads/{thread}/questions"))[1]["questions"]
            path = f"/api/threads/{thread}/questions/{asked['seq']}/answer"
            assert (await server.call("POST", path, json={"decision": "done", "text": "ears"}))[0] == 202
            await server.ended(thread, asked["run"])
            reply = of(first, "TOOL_CALL_START")[0]["parentMessageId"]
            second = await client.run("r2", messages=[user("What is there?"), said(reply)], tools=[LOOK])
            check(second)
            assert [each["content"] for each in of(second, "TOOL_CALL_RESULT")] == ["ears"]
            assert text_of(second) == ["A cat."]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"messages": []}, 422, "messages"),
        ({"messages": [user("")]}, 422, "messages.0.content"),
        ({"messages": [user("x")], "tools": [{**LOOK, "name": "no spaces"}]}, 422, "tools.0.name"),
        ({"messages": [user("x")], "tools": [{**LOOK, "parameters": {"type": "array"}}]}, 422, "tools.0.parameters"),
        ({"messages": [user("x")], "forwardedProps": {"model": "none"}}, 422, "model"),
        ({"messages": [user("x")], "forwardedProps": {"stepwell": {"sudo": 1}}}, 422, "forwardedProps.stepwell.sudo"),
        ({"messages": [user("x")], "resume": [{"interruptId": "7", "status": "cancelled"}]}, 422, "resume"),
        ({"messages": [{"id": "m", "role": "king", "content": "x"}]}, 422, "messages.0.role"),
        ({"messages": [user("x"), {"id": "u", "role": "user", "content": [{"type": "audio"}]}]}, 422, None),
        ({"threadId": ""}, 422, "threadId"),
        ({"messages": [user("x")], "state": {"n": "\ud800"}}, 422, "state"),
        (
            {"messages": [user("x")], "tools": [{"name": "look", "parameters": {"title": "\ud800"}}]},
            422,
            "tools.0.parameters",
        ),
    ],
    ids=[
        *("nothing", "empty", "tool", "schema", "model", "option", "resume", "role", "audio", "thread"),
        *("surrogate", "surrogate in a tool"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_field(
    tmp_path: Path, fields: Object, status: int, field: str | None
) -> None:
    async def main() -> None:
        async with Endpoint([]) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            found, body = await Agui(server).refused(**fields)
            assert (found, body["error"]["field"]) == (status, field or "messages.1.content.0"), body
            assert body["error"]["message"]

    asyncio.run(main())


def test_an_unknown_agent_and_results_of_unknown_calls_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        agents = {"helper": {"description": "helps", "system": "You are the helper."}}
        async with (
            Endpoint([text("Hello."), text("Hi.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), agents=agents) as server,
        ):
            status, body = await Agui(server, path="/agui/nobody").refused(messages=[user("x")])
            assert (status, body["error"]["field"]) == (404, "agent")
            check(await Agui(server, path="/agui/helper").run(messages=[user("x")]))
            assert (await endpoint.request(0)).body["messages"][0]["content"].startswith("You are the helper.")
            client = Agui(server, "t2", "/agui/default")
            check(await client.run(messages=[user("x")]))
            status, body = await client.refused("r2", messages=[said("sw-9"), result("c77", "ears")])
            assert (status, body["error"]["field"]) == (422, "messages")
            assert "c77" in body["error"]["message"]

    asyncio.run(main())
