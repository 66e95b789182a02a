"""Agents and threads for clients of MCP: the SDK's own client against the real server, in both of its protocols."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp import Client
from mcp.client.session import ClientRequestContext
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from stepwell.events import Answered
from stepwell.questions import DECISIONS, QuestionKind
from stepwell.runs.people import QuestionInfo
from stepwell.server.mcp import sessions
from stepwell.server.mcp.questions import Decided, decided, form_of
from tests.support.endpoint import Cut, Endpoint, Reply, chunk, text, tool_calls
from tests.support.server import WAIT, Server, scripted, serving

ON: dict[str, Any] = {"mcp_server": {"enabled": True}}
BOTH = pytest.mark.parametrize("mode", ["legacy", "auto"])
ACCEPT = {"accept": "application/json, text/event-stream"}
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
HUMAN: dict[str, Any] = {"ask_human": {"enabled": True}}
APPROVE: dict[str, Any] = {"decision": "approve"}
ASKED: dict[str, Any] = {"approvals": {"rules": [{"decision": "ask", "tool": "calculate"}]}}


@asynccontextmanager
async def client_of(server: Server, mode: str, key: str = "", **more: Any) -> AsyncGenerator[Client]:
    headers = {"authorization": f"Bearer {key or server.key}"} if key or server.key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=WAIT) as http,
        Client(streamable_http_client(f"{server.url}/mcp", http_client=http), mode=mode, **more) as client,
    ):
        yield client


def words(result: types.CallToolResult) -> str:
    assert isinstance(result.content[0], types.TextContent)
    return result.content[0].text


@BOTH
def test_agents_are_tools_and_a_thread_goes_on(tmp_path: Path, mode: str) -> None:
    async def main() -> None:
        replies = [tool_calls(("c0", "calculate", ['{"query": "1+1"}'])), text("It is ", "2."), text("Still 2.")]
        agents = {"reader": {"description": "Reads."}}
        async with (
            Endpoint(replies) as endpoint,
            serving(tmp_path, auth="keys", models=scripted(endpoint), agents=agents, **ON) as server,
            client_of(server, mode) as client,
        ):
            tools = {each.name: each.description for each in (await client.list_tools()).tools}
            assert tools["ask_reader"] == "Reads."
            told: list[tuple[float, str | None]] = []

            async def tell(progress: float, total: float | None, message: str | None) -> None:
                told.append((progress, message))

            first = await client.call_tool("ask_default", {"message": "1+1?"}, progress_callback=tell)
            assert (words(first), first.is_error) == ("It is 2.", False)
            assert first.structured_content["answer"] == "It is 2."
            assert [message for _, message in told] == ["step 1", "calculate", "step 2"]
            assert [done for done, _ in told] == [1, 2, 3]
            thread = first.structured_content["thread"]
            second = await client.call_tool("ask_default", {"message": "Sure?", "thread": thread})
            assert (words(second), second.structured_content["thread"]) == ("Still 2.", thread)

            listed = await client.list_resources()
            assert [(each.name, each.title) for each in listed.resources] == [(thread, "1+1?")]
            read = (await client.read_resource(listed.resources[0].uri)).contents[0]
            assert isinstance(read, types.TextResourceContents)
            body = json.loads(read.text)
            assert [each["role"] for each in body["messages"]] == [
                "user", "assistant", "tool", "assistant", "user", "assistant"
            ]  # fmt: skip
            assert body["messages"][1]["calls"] == [{"tool": "calculate", "arguments": '{"query": "1+1"}'}]

    asyncio.run(main())


@BOTH
@pytest.mark.parametrize(
    ("action", "content", "ran"),
    [
        ("accept", {"decision": "approve"}, True),
        ("accept", {"decision": "deny", "reason": "Too dear."}, False),
        ("decline", None, False),
        ("accept", {"decision": "nonsense"}, False),
    ],
)
def test_a_question_of_the_run_is_put_to_the_person_behind_the_client(
    tmp_path: Path, mode: str, action: Any, content: Any, ran: bool
) -> None:
    async def main() -> None:
        asked: list[types.ElicitRequestParams] = []

        async def elicit(
            context: ClientRequestContext, params: types.ElicitRequestParams
        ) -> types.ElicitResult | types.ErrorData:
            asked.append(params)
            return types.ElicitResult(action=action, content=content)

        replies = [tool_calls(("c0", "calculate", ['{"query": "1+1"}'])), text("Done.")]
        async with (
            Endpoint(replies) as endpoint,
            serving(tmp_path, models=scripted(endpoint), **ON, **ASKED) as server,
            client_of(server, mode, elicitation_callback=elicit) as client,
        ):
            result = await client.call_tool("ask_default", {"message": "1+1?"})
            assert words(result) == "Done."
            assert isinstance(asked[0], types.ElicitRequestFormParams)
            assert 'calculate {"query": "1+1"}' in asked[0].message
            assert asked[0].requested_schema["properties"]["decision"]["enum"] == ["approve", "deny"]
            sent = (await endpoint.request(1)).body["messages"][-1]["content"]
            assert (sent == "2") is ran
            if content and "reason" in content:
                assert "Too dear." in sent

    asyncio.run(main())


TWO = tool_calls(("c0", "calculate", ['{"query": "1+1"}']), ("c1", "calculate", ['{"query": "2+2"}']))


@BOTH
@pytest.mark.parametrize(
    ("second", "decisions", "results"),
    [
        ({"decision": "approve"}, ["approve", "approve"], ["2", "4"]),
        ({"decision": "nonsense"}, ["approve", "deny"], ["2", "Not run: "]),
    ],
)
def test_questions_that_are_open_at_once_are_each_answered_and_in_one_step_where_they_come_together(
    tmp_path: Path, mode: str, second: Any, decisions: list[str], results: list[str]
) -> None:
    async def main() -> None:
        asked: list[str] = []

        async def elicit(
            context: ClientRequestContext, params: types.ElicitRequestParams
        ) -> types.ElicitResult | types.ErrorData:
            asked.append(params.message)
            return types.ElicitResult(action="accept", content=second if "2+2" in params.message else APPROVE)

        async with (
            Endpoint([TWO, text("Done.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), **ON, **ASKED) as server,
            client_of(server, mode, elicitation_callback=elicit) as client,
        ):
            result = await client.call_tool("ask_default", {"message": "1+1 and 2+2?"})
            assert words(result) == "Done."
            assert len(asked) == 2
            events = await server.service.store.read(result.structured_content["thread"])
            answers = [(each.seq, each.event) for each in events if isinstance(each.event, Answered)]
            assert sorted(each.decision for _, each in answers) == decisions
            if mode == "auto":
                assert answers[1][0] == answers[0][0] + 1
            sent = (await endpoint.request(1)).body["messages"][-2:]
            assert [each["content"][: len(told)] for each, told in zip(sent, results, strict=True)] == results

    asyncio.run(main())


def test_a_question_that_needs_an_answer_and_has_none_cancels_the_run_and_allows_nothing_else(tmp_path: Path) -> None:
    async def main() -> None:
        async def elicit(
            context: ClientRequestContext, params: types.ElicitRequestParams
        ) -> types.ElicitResult | types.ErrorData:
            approves = "1+1" in params.message
            return types.ElicitResult(action="accept" if approves else "decline", content=APPROVE if approves else None)

        asks = tool_calls(("c0", "calculate", ['{"query": "1+1"}']), ("c1", "ask_human", ['{"question": "Why?"}']))
        async with (
            Endpoint([asks]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), tools=HUMAN, **ON, **ASKED) as server,
            client_of(server, "auto", elicitation_callback=elicit) as client,
        ):
            result = await client.call_tool("ask_default", {"message": "1+1, and why?"})
            assert result.is_error
            assert "cancelled" in words(result)
            (thread,) = await server.service.threads("local")
            events = await server.service.store.read(thread.id)
            assert not [
                each for each in events if isinstance(each.event, Answered) and each.event.decision == "approve"
            ]

    asyncio.run(main())


@BOTH
def test_a_client_that_cannot_ask_has_a_run_without_people(tmp_path: Path, mode: str) -> None:
    async def main() -> None:
        replies = [tool_calls(("c0", "calculate", ['{"query": "1+1"}'])), text("I could not.")]
        async with (
            Endpoint(replies) as endpoint,
            serving(tmp_path, models=scripted(endpoint), **ON, **ASKED) as server,
            client_of(server, mode) as client,
        ):
            assert words(await client.call_tool("ask_default", {"message": "1+1?"})) == "I could not."

    asyncio.run(main())


@BOTH
def test_a_cancelled_call_cancels_its_run(tmp_path: Path, mode: str) -> None:
    async def main() -> None:
        async with (
            Endpoint([Reply([chunk(content="Well"), Cut.STALL])]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), **ON) as server,
            client_of(server, mode) as client,
        ):
            call = asyncio.create_task(client.call_tool("ask_default", {"message": "Hi"}))
            await endpoint.request(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            while not (threads := await server.service.threads("local")):
                await asyncio.sleep(0.01)
            stream = await server.follow(threads[0].id, "0", 1)
            ended = (await stream.until("run_ended"))[-1].body["event"]
            assert ended["reason"] == "cancelled"

    asyncio.run(main())


@BOTH
def test_a_call_that_is_under_way_when_the_server_stops_leaves_its_run_to_be_gone_on_with(
    tmp_path: Path, mode: str
) -> None:
    async def main() -> None:
        async with Endpoint([Reply([chunk(content="Well"), Cut.STALL]), text("Here.")]) as endpoint:
            async with serving(tmp_path, models=scripted(endpoint), **ON) as server:
                client = client_of(server, mode)
                entered = await client.__aenter__()
                call = asyncio.create_task(entered.call_tool("ask_default", {"message": "Hi"}))
                await endpoint.request(0)
            with suppress(Exception):
                stopped = await call
                assert "will hold the answer" in words(stopped)
            with suppress(Exception):
                await client.__aexit__(None, None, None)
            async with serving(tmp_path, models=scripted(endpoint), **ON) as server:
                (thread,) = await server.service.threads("local")
                stream = await server.follow(thread.id, "0", 1)
                assert (await stream.until("run_ended"))[-1].body["event"]["reason"] == "answer"

    asyncio.run(main())


def test_threads_of_others_are_not_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("Hello.")]) as endpoint,
            serving(tmp_path, auth="keys", models=scripted(endpoint), **ON) as server,
        ):
            other = (await server.key_for("eve"))["authorization"].removeprefix("Bearer ")
            async with client_of(server, "legacy") as mine, client_of(server, "legacy", other) as theirs:
                answer = await mine.call_tool("ask_default", {"message": "Hi"})
                thread = answer.structured_content["thread"]
                assert (await theirs.list_resources()).resources == []
                with pytest.raises(MCPError, match="thread"):
                    await theirs.read_resource(f"stepwell://threads/{thread}")
                refused = await theirs.call_tool("ask_default", {"message": "Hi", "thread": thread})
                assert refused.is_error

    asyncio.run(main())


def test_requests_without_a_key_from_other_origins_or_into_others_sessions_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, auth="keys", **ON) as server:
            assert (await server.call("POST", "/mcp", json=HELLO, headers=ACCEPT))[0] == 401
            evil = server.headers(**ACCEPT, origin="https://evil.example")
            assert (await server.call("POST", "/mcp", json=HELLO, headers=evil))[0] == 403
            named = server.headers(**ACCEPT, host="evil.example")
            assert (await server.call("POST", "/mcp", json=HELLO, headers=named))[0] == 403
            assert (await server.call("GET", "/mcp", headers=server.headers(**ACCEPT)))[0] == 405
            async with server.session.post(
                f"{server.url}/mcp", json=HELLO, headers=server.headers(**ACCEPT)
            ) as response:
                assert response.status == 200
                session = response.headers["mcp-session-id"]
            other = {**(await server.key_for("eve")), **ACCEPT, "mcp-session-id": session}
            ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
            assert (await server.call("POST", "/mcp", json=ping, headers=other))[0] == 404
            mine = server.headers(**ACCEPT, **{"mcp-session-id": session})
            assert (await server.call("POST", "/mcp", json=ping, headers=mine))[0] == 200

    asyncio.run(main())


@BOTH
def test_wrong_requests_are_refused_in_words(tmp_path: Path, mode: str) -> None:
    async def main() -> None:
        async with serving(tmp_path, **ON) as server, client_of(server, mode) as client:
            with pytest.raises(MCPError, match="There is no tool 'ask_nobody'"):
                await client.call_tool("ask_nobody", {"message": "Hi"})
            for arguments in ({}, {"message": 3}, {"message": " "}, {"message": "x", "thread": 3}):
                refused = await client.call_tool("ask_default", arguments)
                assert refused.is_error
                assert "`message` must be a text" in words(refused)
            unknown = await client.call_tool("ask_default", {"message": "x", "thread": "f" * 32})
            assert (unknown.is_error, "no such thread" in words(unknown).lower()) == (True, True)
            for uri in ("file:///etc/passwd", "stepwell://threads/", "stepwell://threads/../x"):
                with pytest.raises(MCPError):
                    await client.read_resource(uri)

    asyncio.run(main())


def test_a_state_that_was_never_sent_leads_nowhere(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("Hello.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), **ON) as server,
            client_of(server, "auto") as client,
        ):
            first = await client.call_tool("ask_default", {"message": "Hi"})
            assert first.structured_content is not None
            thread = first.structured_content["thread"]
            for state in ("", "[]", "5", f'["{thread}",{10**30}]', f'["{thread}",0]', f'["{thread}",2]', '["x",1]'):
                again = await client.session.call_tool("ask_default", {"message": "x"}, request_state=state)
                assert isinstance(again, types.CallToolResult)
                assert again.is_error, state

    asyncio.run(main())


def test_sessions_are_bounded_and_the_route_is_off_by_default(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, mcp_server={"enabled": True, "sessions": 1}) as server:
            async with client_of(server, "legacy") as first:
                assert (await first.list_tools()).tools
                status, refused = await server.call("POST", "/mcp", json=HELLO, headers=ACCEPT)
                assert (status, refused["error"]["message"]) == (503, "Too many open sessions")
            async with client_of(server, "legacy") as again:
                assert (await again.list_tools()).tools
        async with serving(tmp_path) as server:
            assert (await server.call("POST", "/mcp", json={}))[0] == 404

    asyncio.run(main())


def test_a_question_that_another_face_answers_is_taken_back_from_the_client(tmp_path: Path) -> None:
    async def main() -> None:
        asked, taken_back = asyncio.Event(), asyncio.Event()

        async def elicit(
            context: ClientRequestContext, params: types.ElicitRequestParams
        ) -> types.ElicitResult | types.ErrorData:
            asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                taken_back.set()
            raise AssertionError

        replies = [tool_calls(("c0", "calculate", ['{"query": "1+1"}'])), text("2.")]
        async with (
            Endpoint(replies) as endpoint,
            serving(tmp_path, models=scripted(endpoint), **ON, **ASKED) as server,
            client_of(server, "legacy", elicitation_callback=elicit) as client,
        ):
            call = asyncio.create_task(client.call_tool("ask_default", {"message": "1+1?"}))
            async with asyncio.timeout(WAIT):
                await asked.wait()
                (question,) = (await server.call("GET", "/api/questions"))[1]["questions"]
                path = f"/api/threads/{question['thread']}/questions/{question['seq']}/answer"
                approved = {"decision": "approve", "hash": question["hash"]}
                assert (await server.call("POST", path, json=approved))[0] == 202
                assert words(await call) == "2."
                await taken_back.wait()

    asyncio.run(main())


def test_a_session_that_nobody_uses_is_closed(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, mcp_server={"enabled": True, "idle": 0.2}) as server:
            async with server.session.post(f"{server.url}/mcp", json=HELLO, headers=ACCEPT) as response:
                session = {**ACCEPT, "mcp-session-id": response.headers["mcp-session-id"]}
            ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
            assert (await server.call("POST", "/mcp", json=ping, headers=session))[0] == 200
            await asyncio.sleep(0.5)
            assert (await server.call("POST", "/mcp", json=ping, headers=session))[0] == 404

    asyncio.run(main())


def test_a_body_that_is_too_long_or_no_message_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, max_body=2000, **ON) as server:
            assert (await server.call("POST", "/mcp", data=b"x" * 3000, headers=ACCEPT))[0] == 413
            assert (await server.call("POST", "/mcp", data=b" " * 1999 + b"{", headers=ACCEPT))[0] == 400
            for body in (b"{", b"[]", b"3", b"\xff", json.dumps({**HELLO, "method": 3}).encode()):
                sent = {**ACCEPT, "content-type": "application/json"}
                status, refused = await server.call("POST", "/mcp", data=body, headers=sent)
                assert status == 400
                assert "Traceback" not in str(refused)

    asyncio.run(main())


def test_what_takes_long_to_be_taken_apart_is_refused_unread(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, **ON) as server:
            body = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":[%s0]}}' % (b"{}," * 2_000_000)
            headers = server.headers(**ACCEPT, **{"content-type": "application/json"})
            assert (await server.call("POST", "/mcp", data=BytesIO(body), headers=headers))[0] == 413

    asyncio.run(main())


def question(kind: QuestionKind, **fields: Any) -> QuestionInfo:
    given: dict[str, Any] = dict.fromkeys(("call", "tool", "arguments", "shown", "text", "reason", "hash"), "")
    given |= {"thread": "t", "run": 1, "seq": 5, "path": "", "kind": kind, "choices": (), "form": None, "time": 0}
    return QuestionInfo(**{**given, "until": 0, "default": None, "decisions": DECISIONS[kind], **fields})


PLAIN = {"type": "object", "properties": {"size": {"type": "integer"}}}
NESTED = {"type": "object", "properties": {"size": {"type": "object"}}}


@pytest.mark.parametrize(
    ("asked", "fields", "content", "meant"),
    [
        (question("question", text="Why?"), {"answer"}, {"answer": "So."}, Decided("answer", "So.")),
        (question("question", choices=("a", "b")), {"answer"}, {"answer": "b"}, Decided("answer", "b")),
        (question("question", form=PLAIN), {"size"}, {"size": 3}, Decided("answer", value={"size": 3})),
        (question("elicitation", form=PLAIN), {"size"}, {"size": 3}, Decided("answer", value={"size": 3})),
        (question("outcome"), {"decision", "reason"}, {"decision": "retry"}, Decided("retry")),
        (question("repetition"), {"decision", "reason"}, {"decision": "stop"}, Decided("stop")),
        (question("approval"), {"decision", "reason"}, {"decision": "deny", "reason": "no"}, Decided("deny", "no")),
    ],
    ids=lambda each: each.kind if isinstance(each, QuestionInfo) else "",
)
def test_each_kind_of_question_has_a_form_of_plain_fields_and_its_answer_is_a_decision(
    asked: QuestionInfo, fields: set[str], content: dict[str, Any], meant: Decided
) -> None:
    form = form_of(asked)
    assert form is not None
    assert form.schema["properties"].keys() == fields
    assert decided(asked, "accept", content) == meant


@pytest.mark.parametrize(
    ("kind", "decision"),
    [
        ("approval", "deny"),
        ("outcome", "skip"),
        ("repetition", "stop"),
        ("confirm", "deny"),
        ("elicitation", "deny"),
        ("question", None),
    ],
)
def test_what_is_declined_is_refused_where_the_question_can_be(kind: QuestionKind, decision: str | None) -> None:
    assert decided(question(kind), "decline", None).decision == decision
    assert decided(question(kind), "cancel", None).decision == decision


def test_hidden_characters_of_arguments_are_shown_and_what_has_no_plain_form_is_not_asked() -> None:
    form = form_of(question("approval", tool="pay", arguments='{"to": "a\u202e"}', text="May it?"))
    assert form is not None
    assert form.message == 'May it?\npay {"to": "a\\u202e"}'
    padded = form_of(question("approval", tool="pay", arguments=f'{{"a": "{"x" * 50_000}", "to": "eve"}}'))
    assert padded is not None
    assert padded.message.endswith('"to": "eve"}')
    turned = form_of(question("question", text="Pay\u202e\x1b[2J?"))
    assert turned is not None
    assert turned.message == r"Pay\u202e\u001b[2J?"
    assert form_of(question("question", form=NESTED)) is None
    assert form_of(question("result")) is None


def test_sessions_that_clients_forgot_make_room_and_first_those_of_who_has_the_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with serving(tmp_path, auth="keys", mcp_server={"enabled": True, "sessions": 3}) as server:
            eve = await server.key_for("eve")
            ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}

            async def begun(key: dict[str, str]) -> dict[str, str]:
                headers = {**ACCEPT, **key}
                async with server.session.post(f"{server.url}/mcp", json=HELLO, headers=headers) as response:
                    assert response.status == 200
                    return {**headers, "mcp-session-id": response.headers["mcp-session-id"]}

            async def lives(session: dict[str, str]) -> bool:
                return (await server.call("POST", "/mcp", json=ping, headers=session))[0] == 200

            mine, first, second = await begun(server.headers()), await begun(eve), await begun(eve)
            assert (await server.call("POST", "/mcp", json=HELLO, headers={**ACCEPT, **eve}))[0] == 503
            monkeypatch.setattr(sessions, "UNUSED", 0.0)
            third = await begun(eve)
            assert [await lives(each) for each in (mine, first, second, third)] == [True, False, True, True]

    asyncio.run(main())
