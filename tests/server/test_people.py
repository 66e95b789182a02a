"""The native API for people: questions and answers, what is said to a run, waiting messages, plans."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stepwell.messages import Message
from stepwell.runs.catalog import Wish
from stepwell.specs import Rule
from stepwell.wiring.catalog import ConfigCatalog
from tests.support.endpoint import Cut, Endpoint, Reply, chunk, ending, stream, text, tool_calls
from tests.support.server import Frame, Server, Stream, scripted, serving

ASK = (Rule(decision="ask"),)


async def begin(server: Server, owner: str, said: str = "go", approvals: tuple[Rule, ...] = ASK) -> tuple[str, int]:
    """Start a run whose calls are put to a person."""
    spec = msgspec.structs.replace(ConfigCatalog(server.config).spec(Wish(text=said)), approvals=approvals)
    ref = await server.service.start(owner, Message("user", said), spec)
    return ref.thread, ref.run


async def waiting(server: Server, thread: str, run: int) -> Stream:
    """Follow a run until it waits."""
    stream = await server.follow(thread, str(run - 1), run)
    await stream.until("run_waiting")
    return stream


async def asked(server: Server, thread: str) -> list[dict[str, Any]]:
    status, body = await server.call("GET", f"/api/threads/{thread}/questions")
    assert status == 200, body
    return body["questions"]


async def decide(server: Server, thread: str, question: int, decision: str, **fields: Any) -> tuple[int, Any]:
    path = f"/api/threads/{thread}/questions/{question}/answer"
    return await server.call("POST", path, json={"decision": decision, **fields})


async def transcript(endpoint: Endpoint, number: int) -> list[str]:
    request = await endpoint.request(number)
    return [each["content"] for each in request.body["messages"][1:]]


def calls(*queries: str) -> Reply:
    return tool_calls(*((f"c{n}", "calculate", [json.dumps({"query": each})]) for n, each in enumerate(queries)))


def types(frames: list[Frame]) -> list[str]:
    return [frame.type for frame in frames if not frame.comment and "offset" not in frame.body]


def test_three_approvals_are_answered_in_another_order_and_exactly_the_approved_bytes_run(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([calls("1+1", "2+2", "3+3"), text("done")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            thread, run = await begin(server, "local")
            stream = await waiting(server, thread, run)
            first, second, third = await asked(server, thread)
            assert [each["arguments"] for each in (first, second, third)] == [
                '{"query": "1+1"}',
                '{"query": "2+2"}',
                '{"query": "3+3"}',
            ]
            assert {each["tool"] for each in (first, second, third)} == {"calculate"}
            shown = (await server.call("GET", f"/api/threads/{thread}"))[1]
            assert (shown["questions"], shown["waiting"], shown["run"]) == (3, True, run)
            inbox = (await server.call("GET", "/api/questions"))[1]["questions"]
            assert [each["seq"] for each in inbox] == [each["seq"] for each in (first, second, third)]
            status, answer = await decide(server, thread, third["seq"], "deny", text="too dear")
            assert (status, answer) == (
                202,
                {"thread": thread, "run": run, "repeated": False, "question": third["seq"], "decision": "deny"},
            )
            assert (await decide(server, thread, first["seq"], "approve", hash=first["hash"]))[0] == 202
            edited = {"query": "20+2"}
            assert (await decide(server, thread, second["seq"], "approve", arguments=edited))[0] == 202
            await stream.rest()
            said = await transcript(endpoint, 1)
            assert said[2] == "2"
            assert said[3].endswith("\n22")
            assert "too dear" in said[4]
            assert await asked(server, thread) == []

    asyncio.run(main())


def test_a_decision_on_what_is_not_open_is_refused_with_the_reason(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([calls("1+1"), text("done")]) as endpoint,
            serving(tmp_path, auth="keys", models=scripted(endpoint)) as server,
        ):
            thread, run = await begin(server, "ada")
            stream = await waiting(server, thread, run)
            (question,) = await asked(server, thread)
            number = question["seq"]
            path = f"/api/threads/{thread}/questions/{number}/answer"
            other = await server.key_for("eve")
            for method, foreign in (("POST", path), ("GET", f"/api/threads/{thread}/questions")):
                status, answer = await server.call(method, foreign, headers=other, json={"decision": "approve"})
                assert (status, answer["error"]["field"]) == (404, "thread")
            assert (await server.call("GET", "/api/questions", headers=other))[1] == {"questions": []}
            assert (await decide(server, thread, number + 1, "approve"))[0] == 404
            status, answer = await decide(server, thread, number, "approve", hash="0" * 64)
            assert (status, answer["error"]["field"]) == (409, "hash")
            assert (await decide(server, thread, number, "approve"))[0] == 202
            status, answer = await decide(server, thread, number, "deny")
            assert (status, answer["error"]["field"]) == (409, "question")
            assert "approve" in answer["error"]["message"]
            await stream.rest()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"decision": "perhaps"}, "decision"),
        ({"decision": "answer", "text": "x"}, "decision"),
        ({"decision": "approve", "arguments": {"query": 7}}, "arguments"),
        ({"decision": "approve", "arguments": '{"query": '}, "arguments"),
        ({"decision": "approve", "arguments": [1]}, "arguments"),
        ({"decision": "approve", "arguments": {"query": "\ud800"}}, "arguments"),
        ({"decision": "deny", "arguments": {"query": "1"}}, "arguments"),
        ({"decision": "approve", "scope": "ever"}, "scope"),
        ({"decision": "approve", "hash": "beef"}, "hash"),
        ({"decision": "approve", "value": {"a": 1}}, "value"),
        ({"decision": "approve", "verdict": 1}, "verdict"),
        ({}, "decision"),
    ],
)
def test_a_decision_that_does_not_fit_is_refused_by_its_field_and_the_question_stays(
    tmp_path: Path, body: dict[str, Any], field: str
) -> None:
    async def main() -> None:
        async with Endpoint([calls("1+1")]) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread, run = await begin(server, "local")
            await waiting(server, thread, run)
            (question,) = await asked(server, thread)
            path = f"/api/threads/{thread}/questions/{question['seq']}/answer"
            status, answer = await server.call("POST", path, json=body)
            assert (status, answer["error"]["field"].partition(".")[0]) == (422, field)
            assert await asked(server, thread) == [question]

    asyncio.run(main())


def test_a_question_whose_time_is_over_answers_410(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([calls("1+1"), text("never mind")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            spec = ConfigCatalog(server.config).spec(Wish(text="go"))
            spec = msgspec.structs.replace(spec, approvals=ASK, question_seconds=0.05)
            ref = await server.service.start("local", Message("user", "go"), spec)
            frames = await server.ended(ref.thread, ref.run)
            number = next(frame.body["seq"] for frame in frames if frame.type == "asked")
            status, answer = await decide(server, ref.thread, number, "approve")
            assert (status, answer["error"]["field"]) == (410, "question")

    asyncio.run(main())


def test_a_message_that_comes_while_a_run_is_open_waits_and_its_stream_is_that_of_its_own_run(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        replies = [stream(chunk(content="one"), held, *ending()), text("two"), text("three")]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            run = await server.start(thread, "first")
            await endpoint.request(0)
            path = f"/api/threads/{thread}/messages"
            status, answer = await server.call("POST", path, json={"content": "second"})
            queued = answer["queued"]
            assert (status, answer) == (202, {"thread": thread, "run": None, "repeated": False, "queued": queued})
            mine = await server.stream("POST", path, {"content": "third"})
            assert "x-stepwell-run" not in mine.headers
            first = await mine.frame()
            assert first is not None
            assert first.type == "message_queued"
            held.set()
            frames = [first, *await mine.rest()]
            assert types(frames)[:3] == ["message_queued", "run_started", "message_added"]
            assert types(frames)[-1] == "run_ended"
            assert frames[1].body["event"]["queued"] == first.body["seq"]
            assert [frame.body["event"]["message"]["content"] for frame in frames if frame.type == "message_ended"] == [
                "three"
            ]
            assert len({frame.body["run"] for frame in frames[1:] if not frame.comment} - {run}) == 1
            assert (await transcript(endpoint, 2))[-1] == "third"

    asyncio.run(main())


def test_waiting_messages_are_listed_changed_moved_and_taken_out(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        replies = [stream(chunk(content="one"), held, *ending()), text("two"), text("three")]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            await server.start(thread, "first")
            await endpoint.request(0)
            items: list[int] = []
            for said in ("a", "b", "c"):
                status, answer = await server.call(
                    "POST", f"/api/threads/{thread}/messages", json={"content": said, "while_running": "queue"}
                )
                assert status == 202
                items.append(answer["queued"])
            path = f"/api/threads/{thread}/queue"
            listed = (await server.call("GET", path))[1]["queue"]
            assert [(each["item"], each["message"]["content"], each["model"]) for each in listed] == [
                (item, said, "m") for item, said in zip(items, "abc", strict=True)
            ]
            assert (await server.call("GET", f"/api/threads/{thread}"))[1]["queued"] == 3
            a, b, c = items
            gone = await server.stream("POST", f"/api/threads/{thread}/messages", {"content": "d"})
            assert (await gone.until("message_queued"))[-1].body["seq"] == c + 1
            assert (await server.call("DELETE", f"{path}/{c + 1}"))[0] == 200
            assert types(await gone.rest()) == ["queue_edited"]
            changed = (await server.call("PATCH", f"{path}/{c}", json={"content": "C", "before": a}))[1]["queue"]
            assert [each["message"]["content"] for each in changed] == ["C", "a", "b"]
            left = (await server.call("DELETE", f"{path}/{a}"))[1]["queue"]
            assert [each["item"] for each in left] == [c, b]
            for method, item, body, status, field in (
                ("PATCH", a, {"content": "x"}, 404, "item"),
                ("DELETE", a, None, 404, "item"),
                ("PATCH", b, {"before": a}, 404, "before"),
                ("PATCH", b, {"content": "half", "before": a}, 404, "before"),
                ("PATCH", b, {}, 422, "body"),
                ("PATCH", b, {"content": ""}, 422, "content"),
            ):
                found, answer = await server.call(method, f"{path}/{item}", json=body)
                assert (found, answer["error"]["field"]) == (status, field)
            held.set()
            follow = await server.follow(thread)
            for _ in range(3):
                await follow.until("run_ended")
            assert (await transcript(endpoint, 1))[-1] == "C"
            assert (await transcript(endpoint, 2))[-1] == "b"

    asyncio.run(main())


def test_a_steered_message_is_met_before_the_next_model_call(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        replies = [stream(chunk(content="one"), held, *ending()), text("two")]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            run = await server.start(thread, "first")
            await endpoint.request(0)
            status, answer = await server.call(
                "POST", f"/api/threads/{thread}/messages", json={"content": "and?", "while_running": "steer"}
            )
            assert (status, answer["run"]) == (202, run)
            assert answer["steered"] > run
            held.set()
            await server.ended(thread, run)
            assert await transcript(endpoint, 1) == ["first", "one", "and?"]

    asyncio.run(main())


def test_an_interrupt_closes_what_is_under_way_and_keeps_its_text(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [stream(chunk(content="half"), Cut.STALL), text("whole")]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            run = await server.start(thread, "first")
            follow = await server.follow(thread, "0", run)
            await follow.until("text_delta")
            path = f"/api/threads/{thread}/runs/{run}/steer"
            status, answer = await server.call("POST", path, json={"content": "stop that", "interrupt": True})
            assert (status, answer["run"]) == (202, run)
            await follow.rest()
            assert await transcript(endpoint, 1) == ["first", "half", "stop that"]
            status, answer = await server.call("POST", path, json={"content": "late"})
            assert (status, answer["error"]["field"]) == (409, "run")
            for body, field in (({"content": ""}, "content"), ({}, "content"), ({"content": "x", "path": 1}, "path")):
                status, answer = await server.call("POST", path, json=body)
                assert (status, answer["error"]["field"]) == (422, field)

    asyncio.run(main())


def test_a_paused_run_halts_before_its_next_model_call_and_goes_on_when_it_is_resumed(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        first = calls("6*7")
        replies = [Reply([first.pieces[0], held, *first.pieces[1:]]), text("42")]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            run = await server.start(thread, "6*7?")
            await endpoint.request(0)
            path = f"/api/threads/{thread}/runs/{run}"
            assert (await server.call("POST", f"{path}/pause", json={"reason": "lunch"}))[0] == 202
            held.set()
            follow = await waiting(server, thread, run)
            assert len(endpoint.requests) == 1
            assert (await server.call("GET", f"/api/threads/{thread}"))[1]["waiting"] is True
            assert (await server.call("POST", f"{path}/resume"))[0] == 202
            assert types(await follow.rest())[-1] == "run_ended"
            assert (await server.call("POST", f"{path}/pause"))[0] == 409
            assert (await server.call("POST", f"/api/threads/{thread}/runs/{run + 1}/pause"))[0] == 404

    asyncio.run(main())


def test_the_policy_of_a_thread_decides_unless_the_message_says_otherwise(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        replies = [stream(chunk(content="one"), held, *ending()), text("two"), text("three")]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            path = f"/api/threads/{thread}"
            status, changed = await server.call("PATCH", path, json={"policy": "reject"})
            assert (status, changed["policy"]) == (200, "reject")
            for body in ({}, {"policy": "later"}, {"title": None}):
                assert (await server.call("PATCH", path, json=body))[0] == 422
            run = await server.start(thread, "first")
            await endpoint.request(0)
            status, answer = await server.call("POST", f"{path}/messages", json={"content": "x"})
            assert (status, answer["error"]["field"]) == (409, "thread")
            status, answer = await server.call(
                "POST", f"{path}/messages", json={"content": "x", "while_running": "whenever"}
            )
            assert (status, answer["error"]["field"]) == (422, "while_running")
            steered = await server.stream("POST", f"{path}/messages", {"content": "y", "while_running": "steer"})
            held.set()
            frames = await steered.rest()
            assert (types(frames)[0], types(frames)[-1]) == ("steered", "run_ended")
            assert {frame.body["run"] for frame in frames if not frame.comment} == {run}
            assert types(await server.say(thread, "z"))[-1] == "run_ended"

    asyncio.run(main())


def test_a_thread_without_a_plan_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            thread = await server.thread()
            status, answer = await server.call("GET", f"/api/threads/{thread}/plan")
            assert (status, answer["error"]["field"]) == (404, "plan")
            foreign = f"/api/threads/{'0' * 32}/plan"
            assert (await server.call("GET", foreign))[1]["error"]["field"] == "thread"

    asyncio.run(main())


def test_options_of_plans_go_with_engines_that_have_tasks(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            for body, field in (
                ({"engine": "chat", "plan": {"fast_path": False}}, "plan"),
                ({"engine": "magic"}, "engine"),
                ({"plan": {"max_chain_length": 0}}, "plan.max_chain_length"),
                ({"plan": {"depth": 1}}, "plan.depth"),
                ({"limits": {"money": 0}}, "limits.money"),
            ):
                status, answer = await server.call("POST", "/api/messages", json={"content": "x", **body})
                assert (status, answer["error"]["field"]) == (422, field)

    asyncio.run(main())
