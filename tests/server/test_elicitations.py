"""Questions of a tool that runs, through every face that has a way to put and answer them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from stepwell.events import (
    Answered,
    Asked,
    MessageEnded,
    MessageStarted,
    Recorded,
    StepStarted,
    TaskEnded,
    TaskStarted,
    ToolEnded,
)
from stepwell.messages import Message, ToolCall
from stepwell.plans import Task
from stepwell.server.underway import UnderWay
from stepwell.specs import RunSpec
from tests.server.agui.client_of_agui import Agui, check, of, user
from tests.server.openai.test_responses import output
from tests.server.openai.test_responses_streams import check_every, rest, types
from tests.support.endpoint import Endpoint, Reply, text, tool_calls
from tests.support.mcp_servers import command
from tests.support.openai_client import official
from tests.support.server import Server, scripted, serving


def mcp(mode: str, **more: Any) -> dict[str, Any]:
    program, *rest = command(mode)
    return {"command": program, "args": rest, **more}


def settings(endpoint: Endpoint, **servers: Any) -> dict[str, Any]:
    return {"models": scripted(endpoint), "mcp": {"s": mcp("asks", effects={"ask": "pure"}), **servers}}


def asks(*more: tuple[str, str, list[str]]) -> Reply:
    return tool_calls(("c0", "s__ask", [json.dumps({"text": "How big?"})]), *more)


async def heard(server: Server, thread: str) -> list[Any]:
    """Return what the tools of a thread got as answers."""
    events = await server.service.events("local", thread)
    return [json.loads(each.event.content) for each in events if isinstance(each.event, ToolEnded)]


def test_a_responses_client_is_asked_by_a_function_call_and_answers_by_its_output(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([asks(), text("Fine.")]) as endpoint,
            serving(tmp_path, **settings(endpoint)) as server,
            official(server) as client,
        ):
            first = await client.responses.create(model="stepwell", input="Do it.")
            assert first.status == "completed"
            running, asked = first.output
            assert running.type == "mcp_call"
            assert running.status == "incomplete"
            assert asked.type == "function_call"
            assert asked.name == "elicitation"
            told = json.loads(asked.arguments)
            assert (told["question"], told["tool"], told["form"]["required"]) == ("s: How big?", "s__ask", ["size"])

            for wrong in ("big", '{"size": "big"}'):
                with pytest.raises(openai.BadRequestError) as refused:
                    await client.responses.create(input=[output(asked, wrong)], previous_response_id=first.id)
                assert refused.value.param == "input.[0].call_id"
            body = {"input": [output(asked, '{"size": 3}')], "previous_response_id": first.id, "stream": True}
            seen = await rest(await server.stream("POST", "/v1/responses", body))
            assert types(seen)[-1] == "completed"
            second = await client.responses.retrieve(seen[-1]["response"]["id"])
            assert second.id.startswith(f"{first.id}_")
            assert second.previous_response_id == first.id
            assert [each.type for each in second.output] == ["mcp_call", "message"]
            assert second.output_text == "Fine."
            assert await heard(server, first.id.split("_")[1]) == [{"action": "accept", "content": {"size": 3}}]
            (given,) = (await client.responses.input_items.list(second.id)).data
            assert given.type == "function_call_output"
            assert (given.call_id, given.output) == (asked.call_id, '{"size": 3}')
            kept = await client.responses.retrieve(first.id)
            assert kept.output == first.output
            await check_every(server, second.id, seen)

    asyncio.run(main())


def test_a_responses_client_declines_by_an_output_that_is_incomplete(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([asks(), text("Then not.")]) as endpoint,
            serving(tmp_path, **settings(endpoint)) as server,
            official(server) as client,
        ):
            first = await client.responses.create(model="stepwell", input="Do it.")
            declined: Any = {**output(first.output[1], "none of your business"), "status": "incomplete"}
            second = await client.responses.create(input=[declined], previous_response_id=first.id)
            assert second.output_text == "Then not."
            assert await heard(server, first.id.split("_")[1]) == [{"action": "decline"}]
            (given,) = (await client.responses.input_items.list(second.id)).data
            assert given.type == "function_call_output"
            assert (given.status, given.output) == ("incomplete", "none of your business")

    asyncio.run(main())


def test_a_function_of_the_name_that_questions_have_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server, official(server) as client:
            tools: list[Any] = [{"type": "function", "name": "elicitation", "parameters": {"type": "object"}}]
            with pytest.raises(openai.BadRequestError) as refused:
                await client.responses.create(model="offline", input="x", tools=tools)
            assert refused.value.param == "tools.[0].name"

    asyncio.run(main())


def test_a_question_is_shown_and_answered_while_another_call_goes_on_and_the_response_stays_the_same(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        hangs = mcp("hangs", effects={"hang": "pure"})
        async with (
            Endpoint([asks(("c1", "t__hang", ["{}"]))]) as endpoint,
            serving(tmp_path, **settings(endpoint, t=hangs)) as server,
            official(server) as client,
        ):
            stream = await client.responses.create(model="stepwell", input="Do it.", stream=True)
            asked: list[Any] = []
            async for each in stream:
                if each.type == "response.output_item.done" and each.item.type == "function_call":
                    asked.append(each.item)
                    break
            await stream.close()
            thread = asked[0].id.split("_")[1]
            answer = [output(asked[0], '{"size": 3}')]
            going = await client.responses.create(input=answer, conversation=thread, background=True)
            assert going.status == "in_progress"
            assert going.id == f"resp_{thread}_1"
            native = await server.follow(thread, "0", 1)
            await native.until("tool_ended")
            native.cut()
            cancelled = await client.responses.cancel(going.id)
            assert cancelled.status == "cancelled"
            done = [each for each in cancelled.output if each.type == "mcp_call" and each.status == "completed"]
            assert [json.loads(each.output or "")["content"] for each in done] == [{"size": 3}]

    asyncio.run(main())


def test_an_agui_client_is_interrupted_by_it_and_resumes_with_the_fields_of_its_form(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([asks(), text("Fine.")]) as endpoint,
            serving(tmp_path, **settings(endpoint)) as server,
        ):
            client = Agui(server)
            first = await client.run(messages=[user("Do it.")])
            check(first)
            (interrupt,) = first[-1]["outcome"]["interrupts"]
            assert (interrupt["reason"], interrupt["message"]) == ("input_required", "s: How big?")
            assert interrupt["responseSchema"]["required"] == ["size"]
            resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": {"size": 3}}]
            second = await client.run("r2", resume=resume)
            check(second)
            (result,) = of(second, "TOOL_CALL_RESULT")
            assert json.loads(result["content"]) == {"action": "accept", "content": {"size": 3}}
            assert second[-1]["outcome"] == {"type": "success"}

    asyncio.run(main())


def twice() -> list[Reply]:
    """Return replies of which the second calls a tool twice whose server is known to ask, so that one call waits."""
    return [asks(), asks(("c1", "s__ask", [json.dumps({"text": "How wide?"})])), text("Fine.")]


def test_an_agui_client_is_interrupted_though_another_call_waits_behind_the_one_that_asks(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint(twice()) as endpoint,
            serving(tmp_path, **settings(endpoint)) as server,
        ):
            client = Agui(server)
            run = await client.run(messages=[user("Do it.")])
            for turn in range(3):
                check(run)
                (interrupt,) = run[-1]["outcome"]["interrupts"]
                resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": {"size": turn}}]
                run = await client.run(f"next{turn}", resume=resume)
            assert run[-1]["outcome"] == {"type": "success"}
            answers = await heard(server, client.headers["x-stepwell-thread"])
            assert sorted(each["content"]["size"] for each in answers) == [0, 1, 2]

    asyncio.run(main())


def test_a_responses_client_answers_though_another_call_waits_behind_the_one_that_asks(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint(twice()) as endpoint,
            serving(tmp_path, **settings(endpoint)) as server,
            official(server) as client,
        ):
            made: Any = await client.responses.create(model="stepwell", input="Do it.")
            for turn in range(3):
                (asked,) = [each for each in made.output if each.type == "function_call"]
                answer = [output(asked, json.dumps({"size": turn}))]
                made = await client.responses.create(input=answer, previous_response_id=made.id)
            assert made.output_text == "Fine."
            answers = await heard(server, made.id.split("_")[1])
            assert sorted(each["content"]["size"] for each in answers) == [0, 1, 2]

    asyncio.run(main())


def test_a_chat_client_hears_of_it_in_the_stream_that_goes_on_when_somebody_has_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([asks(), text("Fine."), asks(), text("Nobody there.")]) as endpoint,
            serving(tmp_path, **settings(endpoint)) as server,
            official(server) as client,
        ):
            ask: list[Any] = [{"role": "user", "content": "Do it."}]
            extra = {"stepwell": {"people": True}}
            chunks = await client.chat.completions.create(model="stepwell", messages=ask, stream=True, extra_body=extra)
            said = ""
            async for each in chunks:
                told = each.to_dict().get("stepwell", {})
                said += each.choices[0].delta.content or ""
                if isinstance(told, dict) and told.get("type") == "asked":
                    assert (told["kind"], told["text"]) == ("elicitation", "s: How big?")
                    thread = each.id.split("-")[1]
                    path = f"/api/threads/{thread}/questions/{told['question']}/answer"
                    answer = {"decision": "answer", "value": {"size": 3}}
                    assert (await server.call("POST", path, json=answer))[0] == 202
            assert said == "Fine."
            alone = await client.chat.completions.create(model="stepwell", messages=ask)
            assert alone.choices[0].message.content == "Nobody there."
            assert await heard(server, alone.id.split("-")[1]) == [{"action": "cancel"}]

    asyncio.run(main())


# what counts as under way


def replied(*calls: str, stop: Any = "tool_calls", tool: str = "t") -> MessageEnded:
    return MessageEnded(Message("assistant", calls=tuple(ToolCall(each, tool) for each in calls)), stop)


INNER = TaskStarted(Task(name="inner", goal="Look."), RunSpec(), "c2")


@pytest.mark.parametrize(
    ("events", "held_up"),
    [
        ([replied("c1"), Asked("elicitation", "c1")], True),
        ([replied("c1"), Asked("approval", "c1")], False),
        ([replied("c1", "c2"), Asked("elicitation", "c1")], False),
        ([replied("c1", "c2"), Asked("elicitation", "c1"), ToolEnded("c2", "")], True),
        ([replied("c1", "c2"), Asked("elicitation", "c1"), Asked("approval", "c2")], True),
        ([replied("c1"), Asked("elicitation", "c1"), Answered(2, "answer", "x")], False),
        ([replied("c1", stop="error"), replied("c2"), Asked("elicitation", "c2")], True),
        (
            [
                StepStarted(1, "r", aside=True),
                replied("c0"),
                StepStarted(2, "r"),
                replied("c1"),
                Asked("elicitation", "c1"),
            ],
            True,
        ),
        ([replied("c2"), ("1", INNER), ("1", replied("c1")), ("1", Asked("elicitation", "c1"))], True),
        ([replied("c2"), ("1", INNER), ("1", replied("c1", "c3")), ("1", Asked("elicitation", "c1"))], False),
        ([replied("c1", "c2", tool="s__ask"), Asked("elicitation", "c1")], True),
        ([replied("c1", "c2", tool="s__ask"), Asked("approval", "c1")], False),
        (
            [
                *(replied("c1", "c2", tool="s__do"), Asked("approval", "c1")),
                *(("1", replied("c3", tool="t__ask")), ("1", Asked("elicitation", "c3"))),
            ],
            False,
        ),
        ([replied("c1", tool="s__ask"), ("1", replied("c2", tool="t__ask")), Asked("elicitation", "c1")], False),
        ([replied("c1", tool="s__ask"), ("1", replied("c2", tool="s__do")), Asked("elicitation", "c1")], True),
        ([replied("c1", "c2"), ("1", INNER), ("1", MessageStarted()), Asked("elicitation", "c1")], False),
        ([replied("c1", "c2"), ("1", INNER), ("1", TaskEnded("success")), Asked("elicitation", "c1")], False),
    ],
)
def test_a_run_is_held_up_when_all_that_is_under_way_are_tools_that_ask(events: list[Any], held_up: bool) -> None:
    found = UnderWay()
    for seq, each in enumerate(events, 1):
        path, event = each if isinstance(each, tuple) else ("", each)
        found.take(Recorded(seq, seq, 1, event, path))
    assert found.held_up is held_up
