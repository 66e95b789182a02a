"""Responses whose runs wait: for the results of functions, for approvals, for people; in the background, too."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.server.openai.test_responses import WEATHER, asks_weather, at_work, calculates, output, sent
from tests.server.openai.test_responses_streams import check_every, follow, rest, types
from tests.support.endpoint import Endpoint, Reply, chunk, ending, stream, text, tool_calls
from tests.support.server import Server

ASKS: Any = {"rules": [{"decision": "ask", "tool": "calculate"}]}


def of_type(response: Any, kind: str) -> list[Any]:
    return [each for each in response.output if each.type == kind]


async def settled(client: Any, server: Server, id: str) -> Any:
    """Return a response when it is over."""
    await rest(await follow(server, id))
    return await client.responses.retrieve(id)


async def begin(client: Any, **fields: Any) -> Any:
    return await client.responses.create(**{"model": "m", "input": "How is the weather?", "tools": [WEATHER], **fields})


def test_calls_of_functions_are_handed_out_and_their_outputs_resume_the_run_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [asks_weather("Rome", "Oslo"), asks_weather("Bonn"), text("Sun, snow and rain.", tokens_used=(9, 4))]
        async with Endpoint(replies) as endpoint:
            async with at_work(tmp_path, endpoint) as (server, client):
                first = await begin(client)
                assert first.status == "completed"
                assert [each.arguments for each in first.output] == ['{"place": "Rome"}', '{"place": "Oslo"}']
                assert {each.name for each in first.output} == {"weather"}
                again = [output(first.output[1], "snow"), output(first.output[0], "sun")]
                second = await begin(client, input=again, previous_response_id=first.id)
                assert second.id.startswith(f"{first.id}_")
                assert second.previous_response_id == first.id
                assert [each.arguments for each in second.output] == ['{"place": "Bonn"}']
                assert (await endpoint.request(0)).body["tools"][0]["function"]["name"] == "weather"
                assert await sent(endpoint, 1) == [
                    ("user", "How is the weather?"),
                    ("assistant", None),
                    ("tool", "sun"),
                    ("tool", "snow"),
                ]
            async with at_work(tmp_path, endpoint) as (server, client):
                last = [output(second.output[0], "rain")]
                seen = await rest(
                    await server.stream(
                        "POST",
                        "/v1/responses",
                        {"model": "m", "input": last, "previous_response_id": second.id, "stream": True},
                    )
                )
                assert types(seen)[0] == "created"
                third = seen[-1]["response"]
                assert third["output"][0]["content"][0]["text"] == "Sun, snow and rain."
                assert third["previous_response_id"] == second.id
                for each in (first, second):
                    kept = await client.responses.retrieve(each.id)
                    assert [item.to_dict() for item in kept.output] == [item.to_dict() for item in each.output]
                assert kept.to_dict()["stepwell"]["next"] == third["id"]
                await check_every(server, third["id"], seen)
                given = await client.responses.input_items.list(second.id, order="asc")
                assert [(each.type, each.call_id, each.output) for each in given.data] == [
                    (each["type"], each["call_id"], each["output"]) for each in again
                ]

    asyncio.run(main())


def test_the_stream_of_a_call_is_in_order_and_ends_with_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([asks_weather("Rome")]) as endpoint, at_work(tmp_path, endpoint) as (server, _):
            body = {"model": "m", "input": "x", "tools": [WEATHER], "stream": True}
            seen = await rest(await server.stream("POST", "/v1/responses", body))
            assert types(seen) == [
                "created",
                "in_progress",
                "output_item.added",
                "function_call_arguments.delta",
                "function_call_arguments.done",
                "output_item.done",
                "completed",
            ]
            await check_every(server, seen[-1]["response"]["id"], seen)

    asyncio.run(main())


def test_a_call_that_does_not_fit_never_reaches_the_client(tmp_path: Path) -> None:
    async def main() -> None:
        wrong = tool_calls(("c9", "weather", ['{"where": 1}']))
        replies = [wrong, asks_weather("Rome")]
        async with Endpoint(replies) as endpoint, at_work(tmp_path, endpoint) as (_, client):
            events = [each async for each in await begin(client, stream=True)]
            handed = [each.arguments for each in events if each.type == "response.function_call_arguments.done"]
            assert handed == ['{"place": "Rome"}']
            assert [each.type for each in events[-1].response.output] == ["function_call"]
            assert "where" not in str([each.to_dict() for each in events])

    asyncio.run(main())


def test_a_model_without_tool_calls_of_its_own_hands_them_out_alike(tmp_path: Path) -> None:
    async def main() -> None:
        written = 'Thought: I look.\nAction: weather\nAction Input: {"place": "Rome"}\n'
        replies = [text(*written), text(*"Thought: I know.\nFinal Answer: Warm.")]
        async with (
            Endpoint(replies) as endpoint,
            at_work(tmp_path, endpoint, {"dialect": "react"}) as (_, client),
        ):
            first = await begin(client, parallel_tool_calls=False)
            (call,) = of_type(first, "function_call")
            second = await begin(client, input=[output(call, "20")], previous_response_id=first.id)
            assert second.output_text == "Warm."
            asked = (await endpoint.request(0)).body
            assert asked.keys().isdisjoint({"tools", "tool_choice", "parallel_tool_calls"})

    asyncio.run(main())


def test_what_is_left_of_several_calls_is_shown_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([asks_weather("Rome", "Oslo"), text("done")]) as endpoint,
            at_work(tmp_path, endpoint) as (_, client),
        ):
            first = await begin(client)
            second = await begin(client, input=[output(first.output[0], "sun")], previous_response_id=first.id)
            assert [each.call_id for each in second.output] == [first.output[1].call_id]
            third = await begin(client, input=[output(second.output[0], "snow")], previous_response_id=second.id)
            assert third.output_text == "done"
            assert [each[1] for each in await sent(endpoint, 1) if each[0] == "tool"] == ["sun", "snow"]

    asyncio.run(main())


def test_a_client_that_sends_the_whole_conversation_resumes_the_run_by_the_ids_of_its_calls(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [asks_weather("Rome"), asks_weather("Oslo"), text("done"), text("as a story")]
        async with Endpoint(replies) as endpoint, at_work(tmp_path, endpoint) as (_, client):
            said: list[Any] = [{"role": "user", "content": "How is the weather?"}]
            first = await begin(client, input=said)
            said += [each.to_dict() for each in first.output] + [output(first.output[0], "sun")]
            second = await begin(client, input=said)
            assert second.previous_response_id == first.id
            said += [{"type": "item_reference", "id": second.output[0].id}, output(second.output[0], "snow")]
            third = await begin(client, input=[*said, {"role": "user", "content": "Be brief."}])
            assert third.previous_response_id == second.id
            assert (await sent(endpoint, 2))[-1] == ("user", "Be brief.")
            fourth = await begin(client, input=[*said, {"role": "user", "content": "Once more."}])
            assert fourth.previous_response_id is None
            told = await sent(endpoint, 3)
            assert [each[0] for each in told] == ["user", "assistant", "tool", "assistant", "tool", "user"]

    asyncio.run(main())


def test_outputs_that_nothing_waits_for_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([asks_weather("Rome"), text("done"), text("other")]) as endpoint,
            at_work(tmp_path, endpoint) as (_, client),
        ):
            first = await begin(client)
            good, other = output(first.output[0], "sun"), await begin(client, input="other", tools=[])
            thread = first.id.split("_")[1]

            async def refused(said: Any, **fields: Any) -> Any:
                with pytest.raises(openai.APIStatusError) as caught:
                    await begin(client, input=said, **fields)
                return caught.value

            for call in ("call_x", f"call_{thread}_1", f"call_{'0' * 32}_5"):
                wrong = {"type": "function_call_output", "call_id": call, "output": "x"}
                for fields in ({}, {"previous_response_id": first.id}):
                    error = await refused([wrong], **fields)
                    assert (error.status_code, error.param) == (400, "input.[0].call_id")
                    assert error.message.count(call) == 1
            assert (await refused([good], previous_response_id=other.id)).status_code == 400
            assert (await refused([good, good], previous_response_id=first.id)).param == "input.[1].call_id"
            error = await refused("And now?", previous_response_id=first.id)
            assert (error.status_code, first.output[0].call_id in error.message) == (400, True)
            approval = {"type": "mcp_approval_response", "approval_request_id": f"mcpr_{thread}_5", "approve": True}
            assert (await refused([approval])).param == "input.[0].approval_request_id"
            second = await begin(client, input=[good], previous_response_id=first.id)
            error = await refused([good], previous_response_id=first.id)
            assert (error.status_code, second.id in error.message) == (409, True)
            assert (await refused([good], previous_response_id=second.id)).status_code == 400

    asyncio.run(main())


@pytest.mark.parametrize("approve", [True, False])
def test_a_call_of_the_agent_is_approved_or_not_by_an_item(tmp_path: Path, approve: bool) -> None:
    async def main() -> None:
        async with (
            Endpoint([calculates("6*7"), text("done")]) as endpoint,
            at_work(tmp_path, endpoint, approvals=ASKS) as (server, client),
        ):
            seen = await rest(
                await server.stream("POST", "/v1/responses", {"model": "stepwell", "input": "6*7?", "stream": True})
            )
            assert types(seen)[2:] == ["output_item.added", "output_item.done", "completed"]
            first = await client.responses.retrieve(seen[-1]["response"]["id"])
            (asked,) = of_type(first, "mcp_approval_request")
            assert (asked.name, asked.arguments, asked.server_label) == ("calculate", '{"query": "6*7"}', "stepwell")
            said: Any = [
                {"type": "mcp_approval_response", "approval_request_id": asked.id, "approve": approve, "reason": "no."}
            ]
            second = await client.responses.create(model="stepwell", input=said, previous_response_id=first.id)
            call, answer = second.output
            assert (call.type, call.name) == ("mcp_call", "calculate")
            if approve:
                assert (call.output, call.error, call.approval_request_id) == ("42", None, asked.id)
            else:
                assert (call.output, call.status) == (None, "failed")
                assert "no." in json.dumps(call.to_dict()["error"])
            assert answer.type == "message"
            given = (await client.responses.input_items.list(second.id)).data
            assert [(each.type, each.approve) for each in given] == [("mcp_approval_response", approve)]

    asyncio.run(main())


def test_a_client_that_sends_the_whole_conversation_approves_and_goes_on_by_the_name_of_the_agents_server(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        own: Any = {"type": "mcp", "server_label": "stepwell", "server_url": "http://stepwell"}
        async with (
            Endpoint([calculates("6*7"), text("42"), text("Bye.")]) as endpoint,
            at_work(tmp_path, endpoint, approvals=ASKS) as (_, client),
        ):
            said: list[Any] = [{"role": "user", "content": "6*7?"}]
            fields: Any = {"model": "stepwell", "tools": [own]}
            first = await client.responses.create(input=said, **fields)
            (asked,) = of_type(first, "mcp_approval_request")
            answer: Any = {"type": "mcp_approval_response", "approval_request_id": asked.id, "approve": True}
            said += [*(each.to_dict() for each in first.output), answer]
            second = await client.responses.create(input=said, **fields)
            assert (second.output_text, second.id.startswith(first.id)) == ("42", True)
            with pytest.raises(openai.BadRequestError) as caught:
                await client.responses.create(input=said, **fields)
            assert caught.value.param == "input.[2].approval_request_id"
            said += [*(each.to_dict() for each in second.output), {"role": "user", "content": "Thanks."}]
            third = await client.responses.create(input=said, **fields)
            assert third.output_text == "Bye."
            assert [role for role, _ in await sent(endpoint, 2)] == ["user", "assistant", "tool", "assistant", "user"]
            with pytest.raises(openai.BadRequestError) as caught:
                await client.responses.create(input="x", model="m", tools=[{**own, "server_label": "other"}])
            assert caught.value.param == "tools.[0].type"

    asyncio.run(main())


def test_a_question_of_the_agent_is_a_call_of_ask_human(tmp_path: Path) -> None:
    async def main() -> None:
        asks = tool_calls(("c1", "ask_human", ['{"question": "Which?", "choices": ["red", "blue"]}']))
        async with (
            Endpoint([asks, text("blue it is")]) as endpoint,
            at_work(tmp_path, endpoint, agent={"tools": ["ask_human"]}) as (_, client),
        ):
            first = await client.responses.create(model="stepwell", input="go")
            (call,) = first.output
            assert call.type == "function_call"
            assert (call.name, json.loads(call.arguments)["question"]) == ("ask_human", "Which?")
            with pytest.raises(openai.BadRequestError) as caught:
                await client.responses.create(input=[output(call, "green")], previous_response_id=first.id)
            assert "red, blue" in caught.value.message
            second = await client.responses.create(input=[output(call, "blue")], previous_response_id=first.id)
            assert second.output_text == "blue it is"
            assert [each.type for each in second.output] == ["message"]

    asyncio.run(main())


def test_a_question_with_a_form_is_answered_by_a_json_object_of_that_form(tmp_path: Path) -> None:
    async def main() -> None:
        form = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        asks = tool_calls(("c1", "ask_human", [json.dumps({"question": "How many?", "form": form})]))
        async with (
            Endpoint([asks, text("five")]) as endpoint,
            at_work(tmp_path, endpoint, agent={"tools": ["ask_human"]}) as (_, client),
        ):
            first = await client.responses.create(model="stepwell", input="go")
            (call,) = first.output
            for given, said in (("5", "JSON object"), ("{", "JSON object"), ('{"n": "5"}', "does not fit the form")):
                with pytest.raises(openai.BadRequestError, match=said) as caught:
                    await client.responses.create(input=[output(call, given)], previous_response_id=first.id)
                assert caught.value.param == "input.[0].call_id"
            second = await client.responses.create(input=[output(call, '{"n": 5}')], previous_response_id=first.id)
            assert second.output_text == "five"

    asyncio.run(main())


def test_a_response_in_the_background_is_there_at_once_and_can_be_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        def reply() -> Reply:
            return stream(chunk(role="assistant", content="Wait"), gate, *ending())

        async with Endpoint([reply(), reply()]) as endpoint, at_work(tmp_path, endpoint) as (server, client):
            made = await client.responses.create(model="m", input="x", background=True)
            assert (made.status, made.output) == ("in_progress", [])
            await endpoint.request(0)
            with pytest.raises(openai.ConflictError):
                await client.responses.create(model="m", input="y", previous_response_id=made.id)
            followed = await follow(server, made.id)
            cancelled = await client.responses.cancel(made.id)
            assert cancelled.status == "cancelled"
            seen = await rest(followed)
            assert (seen[-1]["type"], seen[-1]["response"]["status"]) == ("response.incomplete", "cancelled")
            assert (await client.responses.cancel(made.id)).to_dict() == cancelled.to_dict()
            second = await client.responses.create(model="m", input="x", background=True, stream=True)
            first = await anext(aiter(second))
            await second.close()
            assert first.type == "response.created"
            gate.set()
            done = await settled(client, server, first.response.id)
            assert (done.status, done.output_text) == ("completed", "Wait")
            assert (await client.responses.cancel(done.id)).status == "completed"

    asyncio.run(main())


def test_a_response_says_whether_it_was_to_be_made_in_the_background(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("One."), text("Two.")]) as endpoint, at_work(tmp_path, endpoint) as (server, client):
            for background, attached in ((True, {"of": "me"}), (False, {})):
                made = await client.responses.create(model="m", input="x", background=background, metadata=attached)
                assert (made.background, made.metadata) == (background, attached)
                kept = await settled(client, server, made.id)
                assert (kept.status, kept.background, kept.metadata) == ("completed", background, attached)

    asyncio.run(main())


def test_a_run_that_waits_can_be_given_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([asks_weather("Rome")]) as endpoint, at_work(tmp_path, endpoint) as (server, client):
            first = await begin(client, background=True)
            first = await settled(client, server, first.id)
            kept = await client.responses.cancel(first.id)
            assert kept.status == "completed"
            after = await client.responses.retrieve(kept.to_dict()["stepwell"]["next"])
            assert (after.status, after.output) == ("cancelled", [])
            with pytest.raises(openai.ConflictError):
                await begin(client, input=[output(first.output[0], "sun")], previous_response_id=first.id)

    asyncio.run(main())


def test_a_run_begun_in_the_background_is_followed_and_approved_elsewhere(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([calculates("6*7"), text("It is 42.")]) as endpoint,
            at_work(tmp_path, endpoint, approvals=ASKS) as (server, client),
        ):
            made = await client.responses.create(model="stepwell", input="6*7?", background=True)
            thread, run = made.id.split("_")[1:]
            native = await server.follow(thread, "0", int(run))
            frames = await native.until("run_waiting")
            (question,) = [int(each.id) for each in frames if each.type == "asked"]
            waits = await client.responses.retrieve(made.id)
            assert (waits.status, [each.type for each in waits.output]) == ("completed", ["mcp_approval_request"])
            path = f"/api/threads/{thread}/questions/{question}/answer"
            assert (await server.call("POST", path, json={"decision": "approve"}))[0] == 202
            assert (await native.until("run_ended"))[-1].body["event"]["reason"] == "answer"
            kept = await client.responses.retrieve(made.id)
            assert kept.status == "completed"
            last = await client.responses.retrieve(kept.to_dict()["stepwell"]["next"])
            assert (last.status, last.output_text) == ("completed", "It is 42.")
            assert last.previous_response_id == made.id
            assert of_type(last, "mcp_call")[0].approval_request_id == waits.output[0].id

    asyncio.run(main())


def test_a_run_that_goes_in_circles_asks_whether_it_may_go_on(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [calculates("1+1"), calculates("1+1"), text("two")]
        async with (
            Endpoint(replies) as endpoint,
            at_work(tmp_path, endpoint, limits={"repetitions": 2}) as (_, client),
        ):
            first = await client.responses.create(model="stepwell", input="go")
            asked = first.output[-1]
            assert asked.type == "mcp_approval_request"
            assert asked.name == "repetition"
            assert [each.status for each in of_type(first, "mcp_call")] == ["completed", "completed"]
            said: Any = [{"type": "mcp_approval_response", "approval_request_id": asked.id, "approve": True}]
            second = await client.responses.create(input=said, previous_response_id=first.id)
            assert second.output_text == "two"

    asyncio.run(main())


def test_what_is_said_with_an_answer_is_heard(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([asks_weather("Rome"), text("done")]) as endpoint,
            at_work(tmp_path, endpoint) as (_, client),
        ):
            first = await begin(client)
            said: Any = [output(first.output[0], "sun"), {"role": "user", "content": "Be brief."}]
            second = await begin(client, input=said, previous_response_id=first.id)
            assert second.output_text == "done"
            assert (await sent(endpoint, 1))[-2:] == [("tool", "sun"), ("user", "Be brief.")]
            given = (await client.responses.input_items.list(second.id, order="asc")).data
            assert [each.type for each in given] == ["function_call_output", "message"]

    asyncio.run(main())
