"""Tools that the client carries out: calls are handed back, and the next request goes on with the run in place."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

from stepwell.runs.replay import replay
from stepwell.wiring.replay import ConfigParts
from tests.server.openai.test_chat import PIXEL
from tests.support.endpoint import Endpoint, Reply, Request, text, tool_calls
from tests.support.openai_client import WEATHER, official, user
from tests.support.server import Server, scripted, serving

ASK: list[Any] = [user("How is the weather?")]


def looks(*places: str, said: str = "") -> Reply:
    calls = ((f"c{n}", "weather", ['{"place":', f'"{place}"', "}"]) for n, place in enumerate(places))
    return tool_calls(*calls, said=said)


class Assembled:
    """An answer put together from its chunks, as clients do."""

    def __init__(self) -> None:
        self.content = ""
        self.finish = ""
        self.calls: list[dict[str, Any]] = []
        self.place: dict[str, Any] = {}

    @property
    def message(self) -> dict[str, Any]:
        calls = {"tool_calls": self.calls} if self.calls else {}
        return {"role": "assistant", "content": self.content or None, **calls}

    def add(self, chunk: Any) -> None:
        choice = chunk.choices[0]
        self.content += choice.delta.content or ""
        self.finish = choice.finish_reason or self.finish
        for piece in choice.delta.tool_calls or ():
            if piece.index == len(self.calls):
                assert piece.id
                assert piece.type == "function"
                function = {"name": piece.function.name, "arguments": ""}
                self.calls.append({"id": piece.id, "type": "function", "function": function})
            self.calls[piece.index]["function"]["arguments"] += piece.function.arguments or ""
        self.place = getattr(chunk, "stepwell", self.place)


async def ask(client: AsyncOpenAI, messages: Sequence[Any], *, streamed: bool = True, **fields: Any) -> Assembled:
    asked: dict[str, Any] = {"model": "m", "messages": messages, "tools": [WEATHER], **fields}
    answer = Assembled()
    if streamed:
        async for chunk in await client.chat.completions.create(stream=True, **asked):
            answer.add(chunk)
        return answer
    made: Any = await client.chat.completions.create(**asked)
    message = made.choices[0].message
    answer.content, answer.finish, answer.place = message.content or "", made.choices[0].finish_reason, made.stepwell
    answer.calls = [each.model_dump() for each in message.tool_calls or ()]
    return answer


def results(answer: Assembled, *texts: str) -> list[dict[str, Any]]:
    pairs = zip(answer.calls, texts, strict=True)
    return [{"role": "tool", "tool_call_id": call["id"], "content": said} for call, said in pairs]


async def told(endpoint: Endpoint, number: int) -> list[str]:
    sent = (await endpoint.request(number)).body["messages"]
    return [each["content"] for each in sent if each["role"] == "tool"]


async def check_log(server: Server, thread: str) -> None:
    assert await replay(await server.service.events("local", thread), ConfigParts(server.config), thread) is None


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("model", ["m", "stepwell"])
def test_several_rounds_of_parallel_calls_are_one_run(tmp_path: Path, model: str, streamed: bool) -> None:
    async def main() -> None:
        own = tool_calls(("c9", "calculate", ['{"query": "20-10"}']), ("c8", "weather", ['{"place": "Bonn"}']))
        replies = [looks("Rome", "Oslo", said="I look."), own if model == "stepwell" else looks("Bonn"), text("Warm.")]
        async with (
            Endpoint(replies) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            first = await ask(client, ASK, model=model, streamed=streamed)
            assert (first.content, first.finish) == ("I look.", "tool_calls")
            assert [json.loads(each["function"]["arguments"]) for each in first.calls] == [
                {"place": "Rome"},
                {"place": "Oslo"},
            ]
            assert all(each["id"].startswith(f"call_{first.place['thread']}_") for each in first.calls)
            history = [*ASK, first.message, *results(first, "20 degrees", "10 degrees")]
            second = await ask(client, history, model=model, streamed=streamed)
            assert second.place["run"] == first.place["run"]
            assert (second.content, second.finish) == ("", "tool_calls")
            assert [each["function"]["name"] for each in second.calls] == ["weather"]
            assert (await told(endpoint, 1))[-2:] == ["20 degrees", "10 degrees"]
            history += [second.message, *results(second, "5 degrees")]
            third = await ask(client, history, model=model, streamed=streamed)
            assert (third.content, third.finish, third.calls) == ("Warm.", "stop", [])
            assert third.place["thread"] == first.place["thread"]
            assert (await told(endpoint, 2))[-1] == "5 degrees"
            await check_log(server, first.place["thread"])

    asyncio.run(main())


def test_a_bare_model_is_offered_the_clients_tools_and_choices_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([looks("Rome"), text("a"), text("b"), text("c")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            await ask(client, ASK, tool_choice="required", parallel_tool_calls=False)
            sent = (await endpoint.request(0)).body
            assert sent["tools"] == [WEATHER]
            assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("required", False)
            named = {"type": "function", "function": {"name": "weather"}}
            await ask(client, ASK, tool_choice=named)
            assert (await endpoint.request(1)).body["tool_choice"] == named
            await ask(client, ASK, tool_choice="none")
            assert "tools" not in (await endpoint.request(2)).body
            allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named]}}
            other = {"type": "function", "function": {"name": "other"}}
            await ask(client, ASK, tools=[other, WEATHER], tool_choice=allowed)
            assert (await endpoint.request(3)).body["tools"] == [WEATHER]

    asyncio.run(main())


@pytest.mark.parametrize("streamed", [True, False])
def test_the_same_request_again_finds_its_results_there(tmp_path: Path, streamed: bool) -> None:
    async def main() -> None:
        async with (
            Endpoint([looks("Rome"), text("Warm."), text("Elsewhere.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            first = await ask(client, ASK, streamed=streamed)
            history = [*ASK, first.message, *results(first, "20 degrees")]
            second = await ask(client, history, streamed=streamed)
            again = await ask(client, history, streamed=streamed)
            assert (again.content, again.place) == (second.content, second.place) == ("Warm.", first.place)
            history[-1]["content"] = "30 degrees"
            other = await ask(client, history, streamed=streamed)
            assert other.content == "Elsewhere."
            assert other.place["thread"] != first.place["thread"]
            assert await told(endpoint, 2) == ["30 degrees"]

    asyncio.run(main())


def test_two_equal_requests_at_once_are_one_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([looks("Rome", "Oslo"), text("Warm.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            first = await ask(client, ASK)
            history = [*ASK, first.message, *results(first, "20", "10")]
            answers = await asyncio.gather(*(ask(client, history, streamed=n % 2 == 0) for n in range(4)))
            assert {each.content for each in answers} == {"Warm."}
            assert {each.place["thread"] for each in answers} == {first.place["thread"]}

    asyncio.run(main())


def test_a_run_goes_on_with_results_after_the_server_was_gone(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([looks("Rome", "Oslo"), text("Warm.")]) as endpoint:
            models = scripted(endpoint)
            async with serving(tmp_path, models=models) as server, official(server) as client:
                first = await ask(client, ASK)
                # One result came another way, as after a crash in the midst of them.
                number = first.calls[1]["id"].rpartition("_")[2]
                path = f"/api/threads/{first.place['thread']}/questions/{number}/answer"
                assert (await server.call("POST", path, json={"decision": "done", "text": "10"}))[0] == 202
            async with serving(tmp_path, models=models) as server, official(server) as client:
                second = await ask(client, [*ASK, first.message, *results(first, "20", "10")])
                assert (second.content, second.place) == ("Warm.", first.place)
                assert await told(endpoint, 1) == ["20", "10"]
                await check_log(server, first.place["thread"])

    asyncio.run(main())


def renamed(history: list[Any], id: str) -> list[Any]:
    """Return a conversation in which the call has another id."""
    first, reply, result = history
    call = {**reply["tool_calls"][0], "id": id}
    return [first, {**reply, "tool_calls": [call]}, {**result, "tool_call_id": id}]


Change = Callable[[list[Any]], list[Any]] | dict[str, Any]
CHANGED: dict[str, Change] = {
    "said_before": lambda history: [user("Other."), *history[1:]],
    "said_after": lambda history: [*history, user("And now?")],
    "earlier": lambda history: [user("Hi."), {"role": "assistant", "content": "Hi."}, *history],
    "system": lambda history: [{"role": "system", "content": "Be brief."}, *history],
    "unknown_question": lambda history: renamed(history, history[2]["tool_call_id"].rpartition("_")[0] + "_99999"),
    "unknown_thread": lambda history: renamed(history, f"call_{'0' * 32}_5"),
    "foreign_id": lambda history: renamed(history, "call_abc"),
    "no_tools": {"tool_choice": "none"},
    "other_choice": {"tool_choice": "required"},
    "temperature": {"temperature": 0.5},
    "model": {"model": "n"},
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_a_request_that_differs_begins_a_thread_with_all_that_the_client_says(tmp_path: Path, change: Change) -> None:
    async def main() -> None:
        async with Endpoint([looks("Rome"), text("Anew.")]) as endpoint:
            models = scripted(endpoint) | scripted(endpoint, "n")
            async with serving(tmp_path, models=models) as server, official(server) as client:
                first = await ask(client, ASK)
                history: list[Any] = [*ASK, first.message, *results(first, "20")]
                fields: dict[str, Any] = {}
                if isinstance(change, dict):
                    fields = change
                else:
                    history = change(history)
                second = await ask(client, history, **fields)
                assert second.content == "Anew."
                assert second.place["thread"] != first.place["thread"]
                sent = (await endpoint.request(1)).body["messages"]
                assert [(each["role"], each["content"]) for each in sent] == [
                    (each["role"], each["content"]) for each in history
                ]

    asyncio.run(main())


def test_results_of_another_owners_run_begin_a_thread_of_ones_own(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([looks("Rome"), text("Anew.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), auth="keys") as server,
            official(server) as ada,
        ):
            first = await ask(ada, ASK)
            key = (await server.key_for("bob"))["authorization"].removeprefix("Bearer ")
            async with official(server, key=key) as bob:
                second = await ask(bob, [*ASK, first.message, *results(first, "20")])
            assert second.place["thread"] != first.place["thread"]
            status, questions = await server.call("GET", f"/api/threads/{first.place['thread']}/questions")
            assert (status, len(questions["questions"])) == (200, 1)

    asyncio.run(main())


def test_a_history_with_calls_of_elsewhere_is_gone_on_with(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("Warm.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            function = {"name": "weather", "arguments": '{"place":"Rome"}'}
            called = {"role": "assistant", "tool_calls": [{"id": "x1", "type": "function", "function": function}]}
            result = {"role": "tool", "tool_call_id": "x1", "content": [{"type": "text", "text": "20"}]}
            answer = await ask(client, [*ASK, called, result])
            assert answer.content == "Warm."
            sent = (await endpoint.request(0)).body["messages"]
            assert sent[1]["tool_calls"] == called["tool_calls"]
            assert sent[2] == {"role": "tool", "tool_call_id": "x1", "content": "20"}

    asyncio.run(main())


def test_a_thread_of_ones_own_is_gone_on_with_by_results(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("Hello."), looks("Rome"), text("Warm.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            thread = await server.thread()
            await server.say(thread, "Hi.", model="m")
            more: Any = {"extra_body": {"stepwell": {"thread": thread}}}
            first = await ask(client, ASK, **more)
            history = [user("Whatever."), *ASK, first.message, *results(first, "20")]
            second = await ask(client, history, **more)
            assert (second.content, second.place["thread"]) == ("Warm.", thread)
            with pytest.raises(BadRequestError) as raised:
                await ask(client, [*history[:-1], {**history[-1], "content": "30"}], **more)
            assert raised.value.param == "messages.[3]"

    asyncio.run(main())


def test_a_result_of_many_megabytes_is_kept_and_shown_in_part(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([looks("Rome"), text("Much.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            first = await ask(client, ASK)
            second = await ask(client, [*ASK, first.message, *results(first, "degrees\n" * 1_250_000)])
            assert second.content == "Much."
            assert len((await told(endpoint, 1))[0]) < 31_000

    asyncio.run(main())


def test_arguments_that_do_not_fit_never_reach_the_client(tmp_path: Path) -> None:
    async def main() -> None:
        wrong = tool_calls(("c0", "weather", ['{"where": 1}']))
        async with (
            Endpoint([wrong, looks("Rome")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            answer = await ask(client, ASK)
            assert [each["function"]["arguments"] for each in answer.calls] == ['{"place":"Rome"}']

    asyncio.run(main())


def test_a_run_of_whose_calls_one_waits_for_a_person_is_handed_back_after_that(tmp_path: Path) -> None:
    async def main() -> None:
        both = tool_calls(("c1", "weather", ['{"place": "Rome"}']), ("c2", "calculate", ['{"query": "6*7"}']))
        approvals = {"rules": [{"decision": "ask", "tool": "calculate"}]}
        async with (
            Endpoint([both, text("Done.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), approvals=approvals) as server,
            official(server) as client,
        ):
            fields: dict[str, Any] = {"model": "stepwell", "extra_body": {"stepwell": {"people": True}}}
            asking = asyncio.ensure_future(ask(client, ASK, **fields))
            async with asyncio.timeout(20):
                while not (found := await server.service.threads("local")):  # a model is asked before the commit
                    pass
            (info,) = found
            stream = await server.follow(info.id)
            await stream.until("run_waiting")
            assert not asking.done()
            _, body = await server.call("GET", f"/api/threads/{info.id}/questions")
            (approval,) = [each["seq"] for each in body["questions"] if each["kind"] == "approval"]
            path = f"/api/threads/{info.id}/questions/{approval}/answer"
            assert (await server.call("POST", path, json={"decision": "approve"}))[0] == 202
            first = await asking
            assert (first.finish, len(first.calls)) == ("tool_calls", 1)
            second = await ask(client, [*ASK, first.message, *results(first, "20")], **fields)
            assert (second.content, second.place) == ("Done.", first.place)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([*ASK, {"role": "tool", "tool_call_id": "x", "content": "20"}], "messages.[1].tool_call_id"),
        ([*ASK, "CALLS", {"role": "tool", "tool_call_id": "z", "content": "20"}], "messages.[2].tool_call_id"),
        ([*ASK, "CALLS", {"role": "tool", "tool_call_id": "x", "content": "20"}], "messages.[3].tool_call_id"),
        (
            [
                *ASK,
                "CALLS",
                {"role": "tool", "tool_call_id": "x", "content": "20"},
                {"role": "tool", "tool_call_id": "x", "content": "20"},
            ],
            "messages.[3].tool_call_id",
        ),
        ([*ASK, "CALLS", *ASK], "messages.[2].tool_call_id"),
        ([*ASK, "CALLS"], "messages.[2].tool_call_id"),
    ],
    ids=["no_call", "other_call", "one_missing", "twice", "user_between", "none"],
)
def test_calls_and_results_that_do_not_go_together_are_refused(tmp_path: Path, messages: list[Any], param: str) -> None:
    function = {"name": "weather", "arguments": "{}"}
    calls = [{"id": id, "type": "function", "function": function} for id in "xy"]
    sent = [{"role": "assistant", "tool_calls": calls} if each == "CALLS" else each for each in messages]

    async def main() -> None:
        async with serving(tmp_path) as server, official(server) as client:
            with pytest.raises(BadRequestError) as raised:
                await ask(client, sent, model="offline")
            assert (raised.value.param, raised.value.type) == (param, "invalid_request_error")

    asyncio.run(main())


def replaced(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {**WEATHER["function"], **fields}}


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([replaced(name="no spaces")], "tools.[0].function.name"),
        ([WEATHER, WEATHER], "tools.[1].function.name"),
        ([replaced(name="calculate")], "tools.[0].function.name"),
        ([replaced(parameters={"type": "array"})], "tools.[0].function.parameters"),
        ([replaced(parameters=[1])], "tools.[0].function.parameters"),
        ([replaced(description="x" * 20_001)], "tools.[0].function.description"),
        ([{"type": "custom", "custom": {"name": "x"}}], "tools.[0].type"),
        ([{"type": "function"}], "tools.[0].function"),
        ([7], "tools.[0]"),
    ],
)
def test_tools_that_no_model_could_be_told_of_are_refused(tmp_path: Path, tools: list[Any], param: str) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server, official(server) as client:
            with pytest.raises(BadRequestError) as raised:
                await ask(client, ASK, model="stepwell", tools=tools)
            assert raised.value.param == param

    asyncio.run(main())


def works(request: Request) -> Reply:
    """Answer as a model of a plan of one task, whose worker looks at the weather first."""
    names = {each["function"]["name"] for each in request.body.get("tools", ())}
    said = str(request.body["messages"])
    if "generate_plan" in names:
        return one("generate_plan", subtasks=[{"name": "look", "goal": "Look."}])
    if "subtask_operations" in names:
        return one("subtask_operations", operation="exit")
    if "conclusion" in names:
        goals: dict[str, list[str]] = {"reached_goals": [], "failed_goals": []}
        return one("conclusion", summary="looked", status="success", reply="It is warm.", **goals)
    if "weather" in names and "20 degrees" not in said:
        return one("weather", place="Rome")
    return one("subtask_submit", submit_type="success", result="20 degrees")


def one(name: str, **arguments: object) -> Reply:
    return tool_calls((f"call_{name}", name, [json.dumps(arguments)]))


@pytest.mark.parametrize("engine", ["react", "plan"])
@pytest.mark.parametrize("streamed", [True, False])
def test_an_agent_with_tasks_hands_calls_back_and_says_its_conclusion(
    tmp_path: Path, engine: str, streamed: bool
) -> None:
    async def main() -> None:
        async with (
            Endpoint(works) as endpoint,
            serving(tmp_path, models=scripted(endpoint), tasks={"fast_path": False}) as server,
            official(server) as client,
        ):
            fields: dict[str, Any] = {"model": "stepwell", "streamed": streamed}
            fields["extra_body"] = {"stepwell": {"engine": engine}}
            first = await ask(client, ASK, **fields)
            assert (first.content, first.finish, len(first.calls)) == ("", "tool_calls", 1)
            second = await ask(client, [*ASK, first.message, *results(first, "20 degrees")], **fields)
            assert (second.content, second.finish) == ("It is warm.", "stop")
            assert second.place == first.place

    asyncio.run(main())


def test_a_model_without_tool_calls_of_its_own_hands_them_back_alike(tmp_path: Path) -> None:
    async def main() -> None:
        written = 'Thought: I look.\nAction: weather\nAction Input: {"place": "Rome"}\n'
        replies = [text(*written), text(*"Thought: I know.\nFinal Answer: Warm.")]
        async with (
            Endpoint(replies) as endpoint,
            serving(tmp_path, models=scripted(endpoint, dialect="react")) as server,
            official(server) as client,
        ):
            first = await ask(client, ASK, parallel_tool_calls=True)
            assert (first.content, first.finish) == ("", "tool_calls")
            assert json.loads(first.calls[0]["function"]["arguments"]) == {"place": "Rome"}
            second = await ask(client, [*ASK, first.message, *results(first, "20")], parallel_tool_calls=True)
            assert (second.content, second.place) == ("Warm.", first.place)
            sent = (await endpoint.request(0)).body
            assert sent.keys().isdisjoint({"tools", "tool_choice", "parallel_tool_calls"})

    asyncio.run(main())


def test_an_image_in_a_result_is_shown_to_the_model_and_not_dropped(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([looks("Oslo"), text("A cloud.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint, images=True)) as server,
            official(server) as client,
        ):
            asked = await ask(client, ASK)
            (result,) = results(asked, "")
            result["content"] = [{"type": "text", "text": "so"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
            answer = await ask(client, [*ASK, asked.message, result])
            assert answer.content == "A cloud."
            assert PIXEL in json.dumps((await endpoint.request(1)).body)

    asyncio.run(main())
