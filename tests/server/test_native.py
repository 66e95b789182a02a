"""The native API: threads, messages, events, runs, and what clients are told of them."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from dirty_equals import IsInt, IsStr

from tests.support.endpoint import DONE, Endpoint, Reply, Request, chunk, ending, error, text, tool_calls, usage
from tests.support.server import SSE, Frame, Server, scripted, serving

IsThread = IsStr(regex="[0-9a-f]{32}")
IsTime = IsInt(ge=1_600_000_000_000)
CREATING = ("/threads", "/messages", "/agent_chat", "/answer", "/steer", "/fork", "/regenerate")
"""How the paths end by which something is made."""


def types(frames: list[Frame]) -> list[str]:
    return [frame.type for frame in frames]


def test_a_thread_is_made_listed_shown_renamed_and_removed(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            assert await server.call("GET", "/api/threads") == (200, {"threads": [], "next": None})
            status, made = await server.call("POST", "/api/threads", json={"title": "Trip to 杭州"})
            assert (status, made) == (
                201,
                {"id": IsThread, "title": "Trip to 杭州", "created": IsTime, "seq": 0, "run": None},
            )
            untitled = await server.thread()
            path = f"/api/threads/{made['id']}"
            made |= {"policy": "queue", "questions": 0, "queued": 0, "parent": None, "waiting": False}
            assert await server.call("GET", path) == (200, made)
            status, listed = await server.call("GET", "/api/threads")
            assert [each["id"] for each in listed["threads"]] == [untitled, made["id"]]
            status, renamed = await server.call("PATCH", path, json={"title": "Trip"})
            assert (status, renamed) == (200, {**made, "title": "Trip", "seq": 1})
            assert (await server.call("GET", path))[1]["title"] == "Trip"
            assert await server.call("DELETE", path) == (204, "")
            for method, sub, body in (("GET", "", None), ("DELETE", "", None), ("GET", "/events", None)):
                status, answer = await server.call(method, path + sub, json=body)
                assert (status, answer["error"]["field"]) == (404, "thread")
            assert [each["id"] for each in (await server.call("GET", "/api/threads"))[1]["threads"]] == [untitled]

    asyncio.run(main())


def test_a_message_is_answered_with_the_run_and_its_events_can_be_read_and_paged(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("Hel", "lo", tokens_used=(7, 2))]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            thread = await server.thread()
            status, answer = await server.call("POST", f"/api/threads/{thread}/messages", json={"content": "hi"})
            assert (status, answer) == (202, {"thread": thread, "run": 1, "repeated": False})
            await server.ended(thread, 1)
            status, page = await server.call("GET", f"/api/threads/{thread}/events")
            assert (status, page["next"]) == (200, None)
            assert [event["event"]["type"] for event in page["events"]] == [
                "run_started",
                "message_added",
                "step_started",
                "message_started",
                "message_ended",
                "step_ended",
                "run_ended",
            ]
            assert [event["seq"] for event in page["events"]] == [1, 2, 3, 4, 5, 6, 7]
            assert page["events"][4] == {
                "seq": 5,
                "time": IsTime,
                "run": 1,
                "event": {
                    "type": "message_ended",
                    "message": {"role": "assistant", "content": "Hello"},
                    "stop": "stop",
                    "usage": {"input": 7, "output": 2},
                },
            }
            pages: list[Any] = []
            after: int | None = 0
            while after is not None:
                status, part = await server.call("GET", f"/api/threads/{thread}/events?limit=3&after={after}")
                assert status == 200
                assert len(part["events"]) <= 3
                pages += part["events"]
                after = part["next"]
            assert pages == page["events"]
            assert (await server.call("GET", f"/api/threads/{thread}"))[1]["run"] is None

    asyncio.run(main())


def test_a_message_with_accept_event_stream_is_answered_with_its_run_as_it_happens(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        replies = [
            tool_calls(("call_1", "calculate", ['{"query":', '"6*7"}']), said="Let me see."),
            Reply([chunk(reasoning_content="hm"), chunk(content="It is "), held, chunk(content="42."), *ending()]),
        ]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            stream = await server.stream("POST", f"/api/threads/{thread}/messages", {"content": "6*7?"})
            assert stream.status == 200
            assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert stream.headers["cache-control"] == "no-cache"
            assert stream.headers["x-accel-buffering"] == "no"
            assert (stream.headers["x-stepwell-thread"], stream.headers["x-stepwell-run"]) == (thread, "1")
            frames: list[Frame] = []
            while not frames or "It is" not in frames[-1].data:
                frame = await stream.frame()
                assert frame is not None
                frames.append(frame)
            held.set()
            frames += await stream.rest()
            stored = [frame.body for frame in frames if "offset" not in frame.body]
            assert [event["seq"] for event in stored] == list(range(1, len(stored) + 1))
            assert stored == (await server.call("GET", f"/api/threads/{thread}/events"))[1]["events"]
            for frame in frames:
                seq, offset = frame.body["seq"], frame.body.get("offset")
                assert frame.id == (f"{seq}.{offset}" if offset else str(seq))
            ended = [event["event"] for event in stored if event["event"]["type"] == "tool_ended"]
            assert ended == [{"type": "tool_ended", "call": "call_1", "content": "42"}]
            told = [frame.body["event"]["text"] for frame in frames if frame.type == "text_delta"]
            assert "".join(told) == "Let me see.It is 42."
            assert [frame.body["event"]["text"] for frame in frames if frame.type == "thinking_delta"] == ["hm"]
            assert frames[-1].body["event"] == {"type": "run_ended", "reason": "answer"}

    asyncio.run(main())


def test_a_message_without_a_thread_makes_one_named_after_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("one"), text("two")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            status, answer = await server.call("POST", "/api/messages", json={"content": "What  is\nthis? " + "x" * 99})
            assert (status, answer) == (202, {"thread": IsThread, "run": 1, "repeated": False})
            title = (await server.call("GET", f"/api/threads/{answer['thread']}"))[1]["title"]
            assert (title[:14], len(title)) == ("What is this? ", 80)
            stream = await server.stream("POST", "/api/messages", {"content": "again"})
            assert stream.headers["x-stepwell-thread"] == IsThread
            assert stream.headers["x-stepwell-thread"] != answer["thread"]
            assert types(await stream.rest())[-1] == "run_ended"

    asyncio.run(main())


def test_the_fields_of_a_message_reach_the_model(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("ok")]) as endpoint,
            serving(
                tmp_path,
                models={
                    **scripted(endpoint, "a"),
                    **scripted(endpoint, "b", model="b-large", images=True, window=100_000),
                },
            ) as server,
        ):
            thread = await server.thread()
            await server.say(
                thread,
                "Look",
                model="b",
                system="Be short.",
                temperature=1.5,
                max_tokens=11,
                tools=["now"],
                images=[{"url": "data:image/png;base64,AA==", "detail": "low"}, {"url": "https://x.test/y.png"}],
            )
            (request,) = endpoint.requests
            assert request.body["model"] == "b-large"
            assert (request.body["temperature"], request.body["max_tokens"]) == (1.5, 11)
            assert [tool["function"]["name"] for tool in request.body["tools"]] == ["now"]
            assert request.body["messages"] == [
                {"role": "system", "content": "Be short."},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Look"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                        {"type": "image_url", "image_url": {"url": "https://x.test/y.png"}},
                    ],
                },
            ]

    asyncio.run(main())


def test_a_run_may_be_given_less_than_the_settings_allow_and_never_more(tmp_path: Path) -> None:
    async def main() -> None:
        def call_again(request: Request) -> Reply:
            return tool_calls((f"c{len(request.body['messages'])}", "now", ["{}"]))

        async with (
            Endpoint(call_again) as endpoint,
            serving(tmp_path, models=scripted(endpoint), limits={"steps": 3, "tool_calls": 5}) as server,
        ):
            for limits, cause, asked in (
                (None, "steps", 3),
                ({"steps": 2}, "steps", 2),
                ({"steps": 1000}, "steps", 3),
                ({"seconds": 50}, "steps", 3),
                ({"tool_calls": 1}, "tool_calls", 2),
                ({"tokens": 10**12, "tool_calls": 1000}, "steps", 3),
            ):
                before = len(endpoint.requests)
                frames = await server.say(await server.thread(), "go", limits=limits)
                end = frames[-1].body["event"]
                assert (end["reason"], end["cause"]) == ("limit", cause), limits
                assert len(endpoint.requests) - before == asked, limits

    asyncio.run(main())


def test_threads_are_listed_newest_first_page_by_page(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            made = [await server.thread(str(number)) for number in range(7)]
            found: list[str] = []
            following: str | None = ""
            while following is not None:
                status, page = await server.call("GET", f"/api/threads?limit=3&before={following}")
                assert status == 200
                found += [each["id"] for each in page["threads"]]
                following = page["next"]
            assert found == made[::-1]
            status, page = await server.call("GET", "/api/threads?limit=7")
            assert (len(page["threads"]), page["next"]) == (7, None)
            await server.call("DELETE", f"/api/threads/{made[3]}")
            gone = await server.call("GET", f"/api/threads?before={made[3]}")
            assert gone[0] == 404, "a page that is not there must not look like the first one"

    asyncio.run(main())


def test_a_second_message_during_a_run_is_refused_and_works_after_it(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        replies = [Reply([chunk(content="slow"), held, *ending()]), text("second")]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            run = await server.start(thread, "one")
            before = (await server.call("GET", f"/api/threads/{thread}/events"))[1]
            for headers in (server.headers(), server.headers(**SSE)):
                status, answer = await server.call(
                    "POST",
                    f"/api/threads/{thread}/messages",
                    json={"content": "two", "while_running": "reject"},
                    headers=headers,
                )
                assert (status, answer["error"]["field"]) == (409, "thread")
                assert "open run" in answer["error"]["message"]
            assert (await server.call("GET", f"/api/threads/{thread}/events"))[1]["events"][:2] == before["events"][:2]
            held.set()
            await server.ended(thread, run)
            assert types(await server.say(thread, "two"))[-1] == "run_ended"
            sent = endpoint.requests[1].body["messages"]
            assert [(each["role"], each["content"]) for each in sent[1:]] == [
                ("user", "one"),
                ("assistant", "slow"),
                ("user", "two"),
            ]

    asyncio.run(main())


def test_of_twenty_messages_at_once_one_starts_a_run(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        async with (
            Endpoint([Reply([chunk(content="x"), held, *ending()])]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            thread = await server.thread()
            path = f"/api/threads/{thread}/messages"
            bodies = [{"content": str(n), "while_running": "reject"} for n in range(20)]
            answers = await asyncio.gather(*(server.call("POST", path, json=body) for body in bodies))
            assert sorted(status for status, _ in answers) == [202] + [409] * 19
            held.set()
            events = await server.ended(thread, 1)
            assert types(events).count("run_started") == types(events).count("message_added") == 1

    asyncio.run(main())


def test_a_run_is_cancelled_and_the_thread_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        replies = [Reply([chunk(content="partial"), held, *ending()]), text("fine")]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            stream = await server.stream("POST", f"/api/threads/{thread}/messages", {"content": "x"})
            await stream.until("text_delta")
            path = f"/api/threads/{thread}/runs/1/cancel"
            for body in ({"reason": "changed my mind"}, None, {"reason": "again"}):
                assert await server.call("POST", path, json=body) == (202, {"thread": thread, "run": 1})
            frames = await stream.rest()
            events = [frame.body["event"] for frame in frames]
            assert events[0] == {"type": "cancel_requested", "reason": "changed my mind"}
            assert [event["type"] for event in events].count("cancel_requested") == 1
            assert events[1]["message"]["content"] == "partial"
            assert (events[-1]["type"], events[-1]["reason"]) == ("run_ended", "cancelled")
            await asyncio.wait_for(endpoint.requests[0].dropped.wait(), 5)
            assert (await server.call("POST", path))[0] == 202
            for number in (2, 3, 99):
                status, answer = await server.call("POST", f"/api/threads/{thread}/runs/{number}/cancel")
                assert (status, answer["error"]["field"]) == (404, "run")
            assert types(await server.say(thread, "go on"))[-1] == "run_ended"

    asyncio.run(main())


def test_a_thread_removed_during_a_run_takes_the_run_with_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([Reply([chunk(content="partial"), asyncio.Event(), *ending()])]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            thread = await server.thread()
            stream = await server.stream("POST", f"/api/threads/{thread}/messages", {"content": "x"})
            other = await server.follow(thread)
            for each in (stream, other):
                await each.until("text_delta")
            assert (await server.call("DELETE", f"/api/threads/{thread}"))[0] == 204
            for each in (stream, other):
                rest = await each.rest()
                assert all(frame.event == "error" or frame.type in _ENDING for frame in rest)
            assert (await server.call("GET", f"/api/threads/{thread}/events"))[0] == 404
            await asyncio.wait_for(endpoint.requests[0].dropped.wait(), 5)

    asyncio.run(main())


_ENDING = {"cancel_requested", "message_ended", "step_ended", "run_ended"}


def test_a_title_given_during_a_run_is_an_event_of_the_thread(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        async with (
            Endpoint([Reply([chunk(content="x"), held, *ending()])]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            thread = await server.thread()
            stream = await server.stream("POST", f"/api/threads/{thread}/messages", {"content": "x"})
            await stream.until("text_delta")
            assert (await server.call("PATCH", f"/api/threads/{thread}", json={"title": "New"}))[1]["title"] == "New"
            held.set()
            frames = await stream.rest()
            assert {"type": "title_changed", "title": "New"} in [frame.body["event"] for frame in frames]
            assert frames[-1].type == "run_ended"

    asyncio.run(main())


def test_a_failing_model_ends_the_run_with_the_cause_and_the_next_message_works(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [error(401, "this key is not known"), text("fine")]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            end = (await server.say(thread, "x"))[-1].body["event"]
            assert (end["reason"], end["cause"]) == ("failed", "auth")
            assert "this key is not known" in end["detail"]
            assert (await server.say(thread, "y"))[-1].body["event"]["reason"] == "answer"

    asyncio.run(main())


# Idempotency


async def count(server: Server) -> int:
    return len((await server.call("GET", "/api/threads?limit=200"))[1]["threads"])


def test_a_repeated_request_with_one_idempotency_key_makes_one_thing(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("one"), text("two"), text("three")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            key = {"idempotency-key": "k-1"}
            made = [await server.call("POST", "/api/threads", json={"title": "a"}, headers=key) for _ in range(3)]
            assert made[0] == made[1] == made[2]
            assert (made[0][0], await count(server)) == (201, 1)
            thread = made[0][1]["id"]
            # The same key on another route, and on another thread, is another request.
            path = f"/api/threads/{thread}/messages"
            answers = [await server.call("POST", path, json={"content": "a"}, headers=key) for _ in range(2)]
            await server.ended(thread, 1)
            answers.append(await server.call("POST", path, json={"content": "a"}, headers=key))
            assert [answer["run"] for _, answer in answers] == [1, 1, 1]
            assert [answer["repeated"] for _, answer in answers] == [False, True, True]
            begun = [await server.call("POST", "/api/messages", json={"content": "a"}, headers=key) for _ in range(2)]
            assert begun[0][1]["thread"] == begun[1][1]["thread"] != thread
            for other, body in (
                ("/api/threads", {"title": "b"}),
                ("/api/threads", None),
                (path, {"content": "b"}),
                ("/api/messages", {"content": "a", "model": "m"}),
            ):
                status, answer = await server.call("POST", other, json=body, headers=key)
                assert (status, answer["error"]["field"]) == (409, "Idempotency-Key")
            assert (await server.call("POST", path, json={"content": "a"}, headers={"idempotency-key": "k-2"}))[
                0
            ] == 202

    asyncio.run(main())


def test_a_repeated_stream_is_the_same_run_from_its_start(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        async with (
            Endpoint([Reply([chunk(content="first "), held, chunk(content="last"), *ending()])]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            thread = await server.thread()
            path, headers = f"/api/threads/{thread}/messages", server.headers(**{"idempotency-key": "k"})
            streams = [await server.stream("POST", path, {"content": "a"}, headers=headers) for _ in range(3)]
            for stream in streams:
                await stream.until("text_delta")
            streams[0].cut(reset=True)
            held.set()
            late = await server.stream("POST", path, {"content": "a"}, headers=headers)
            whole = await late.rest()
            assert types(whole)[0] == "run_started"
            for stream in streams[1:]:
                rest = await stream.rest()
                assert stored(rest) == stored(whole)[-len(stored(rest)) :]
            assert len(endpoint.requests) == 1

    asyncio.run(main())


def stored(frames: list[Frame]) -> list[dict[str, Any]]:
    return [frame.body for frame in frames if "offset" not in frame.body]


def test_twenty_requests_at_once_with_one_key_are_one_run(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("one"), text("two")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            thread = await server.thread()
            for path in (f"/api/threads/{thread}/messages", "/api/messages"):
                headers = {"idempotency-key": "k"}
                answers = await asyncio.gather(
                    *(server.call("POST", path, json={"content": "a"}, headers=headers) for _ in range(20))
                )
                assert {status for status, _ in answers} == {202}
                assert len({(answer["thread"], answer["run"]) for _, answer in answers}) == 1
                assert sorted(answer["repeated"] for _, answer in answers) == [False] + [True] * 19
                await server.ended(answers[0][1]["thread"], answers[0][1]["run"])
            answers = await asyncio.gather(
                *(server.call("POST", "/api/threads", headers={"idempotency-key": "t"}) for _ in range(20))
            )
            assert len({answer["id"] for _, answer in answers}) == 1
            assert len(endpoint.requests) == 2

    asyncio.run(main())


# The catalog, health, the document


def test_models_and_tools_are_listed_with_what_clients_need_to_know(tmp_path: Path) -> None:
    async def main() -> None:
        models = {
            "big": {"base_url": "http://127.0.0.1:1/v1", "model": "qwen-max", "window": 4096, "api_key": "hush"},
            "plain": {"base_url": "http://127.0.0.1:1/v1", "dialect": "react"},
        }
        async with serving(tmp_path, models=models, default_model="plain") as server:
            status, body = await server.call("GET", "/api/models")
            assert status == 200
            assert [each["name"] for each in body["models"]] == ["plain", "big", "offline"]
            assert [each["default"] for each in body["models"]] == [True, False, False]
            assert body["models"][1] == {
                "name": "big",
                "kind": "openai",
                "model": "qwen-max",
                "window": 4096,
                "dialect": "",
                "images": False,
                "default": False,
            }
            assert body["models"][0]["dialect"] == "react"
            status, body = await server.call("GET", "/api/tools")
            assert status == 200
            assert [(tool["name"], tool["effect"]) for tool in body["tools"]] == [
                ("calculate", "pure"),
                ("now", "pure"),
            ]
            assert all(tool["description"] and tool["parameters"]["type"] == "object" for tool in body["tools"])

    asyncio.run(main())


def test_health_answers_with_the_version(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, auth="keys") as server:
            status, body = await server.call("GET", "/health", headers={})
            assert (status, body) == (200, {"status": "ok", "version": IsStr(min_length=1)})

    asyncio.run(main())


def test_the_document_lists_every_route_with_its_fields(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            status, document = await server.call("GET", "/openapi.json")
        assert status == 200
        assert document["openapi"].startswith("3.1")
        # Those of other protocols are held against their own pages.
        assert {path for path in document["paths"] if path.startswith(("/api/", "/health"))} == {
            "/api/threads",
            "/api/threads/{thread}",
            "/api/threads/{thread}/context",
            "/api/threads/{thread}/events",
            "/api/threads/{thread}/messages",
            "/api/threads/{thread}/pins",
            "/api/threads/{thread}/pins/{pin}",
            "/api/threads/{thread}/diff/{other}",
            "/api/threads/{thread}/fork",
            "/api/threads/{thread}/plan",
            "/api/threads/{thread}/questions",
            "/api/threads/{thread}/questions/{question}/answer",
            "/api/threads/{thread}/queue",
            "/api/threads/{thread}/queue/{item}",
            "/api/threads/{thread}/regenerate",
            "/api/threads/{thread}/runs/{run}/cancel",
            "/api/threads/{thread}/runs/{run}/pause",
            "/api/threads/{thread}/runs/{run}/resume",
            "/api/threads/{thread}/runs/{run}/steer",
            "/api/messages",
            "/api/models",
            "/api/questions",
            "/api/tools",
            "/health",
        }
        schemas = document["components"]["schemas"]
        assert set(schemas["AgentChatBody"]["properties"]) == {
            "query",
            "history",
            "stream",
            "model_name",
            "temperature",
            "max_tokens",
            "prompt_name",
        }
        assert schemas["MessageBody"]["required"] == ["content"]
        references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
        assert references <= set(schemas)
        for path, item in document["paths"].items():
            for method, operation in item.items():
                assert operation["summary"], (method, path)
                assert operation["responses"], (method, path)
                named = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
                assert named == set(re.findall(r"{(\w+)}", path)), (method, path)
                headers = {each["name"] for each in operation.get("parameters", []) if each["in"] == "header"}
                creates = method == "post" and path.endswith(CREATING)
                assert ("Idempotency-Key" in headers) == creates or not path.startswith("/api/"), (method, path)
        operations = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
        assert len(operations) == len(set(operations))

    asyncio.run(main())


def test_methods_that_a_path_does_not_have_are_405_and_name_those_it_has(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            thread = await server.thread()
            for path, allowed in (
                ("/health", {"GET"}),
                ("/api/models", {"GET"}),
                ("/chat/agent_chat", {"POST"}),
                (f"/api/threads/{thread}/messages", {"POST"}),
                (f"/api/threads/{thread}/runs/1/cancel", {"POST"}),
            ):
                for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - allowed:
                    async with server.session.request(method, server.url + path) as response:
                        assert response.status == 405, (method, path)
                        assert set(response.headers["allow"].replace(" ", "").split(",")) == allowed
                        body = await response.read()
                        if method == "HEAD":
                            assert body == b""
                        elif path.startswith("/chat/"):
                            assert json.loads(body)["detail"] == "Method Not Allowed"
                        else:
                            assert json.loads(body)["error"]["message"] == "Method Not Allowed"
            for method in ("PUT", "POST", "OPTIONS"):
                assert (await server.call(method, f"/api/threads/{thread}"))[0] == 405

    asyncio.run(main())


@pytest.mark.parametrize("run", [0, 1])
def test_a_follower_gets_what_was_what_is_and_what_comes(tmp_path: Path, run: int) -> None:
    async def main() -> None:
        held = asyncio.Event()
        replies = [Reply([chunk(content="a"), held, chunk(content="b"), *ending()]), text("next run")][: 2 - run]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            await server.start(thread, "x")
            follower = await server.follow(thread, run=run)
            frames = await follower.until("text_delta")
            held.set()
            if run:
                frames += await follower.rest()
                assert frames[-1].type == "run_ended"
            else:
                frames += await follower.until("run_ended")
                second = await server.start(thread, "y")
                frames += await follower.until("run_ended")
                assert frames[-1].body["run"] == second
            assert stored(frames) == (await server.call("GET", f"/api/threads/{thread}/events"))[1]["events"]

    asyncio.run(main())


def test_a_stream_up_to_a_run_that_is_over_ends_wherever_it_begins(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [text("one"), text("two"), text("three")]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            ends: list[int] = []
            for number in range(3):
                frames = await server.say(thread, str(number))
                ends.append(frames[-1].body["seq"])
                await server.call("PATCH", f"/api/threads/{thread}", json={"title": f"after {number}"})
            events = (await server.call("GET", f"/api/threads/{thread}/events"))[1]["events"]
            second = ends[0] + 2
            assert events[second - 1]["event"]["type"] == "run_started"
            for after in range(len(events) + 1):
                frames = await (await server.follow(thread, str(after), second)).rest()
                expected = [event for event in events if after < event["seq"] <= ends[1]]
                if after >= ends[1]:
                    assert all(frame.body["run"] == 0 for frame in frames)
                else:
                    assert [frame.body for frame in frames] == expected, after
            for number in (2, second + 1, len(events) + 5):
                status, answer = await server.call("GET", f"/api/threads/{thread}/events?run={number}", headers=SSE)
                assert (status, answer["error"]["field"]) == (404, "run")

    asyncio.run(main())


def test_an_unreadable_stream_of_the_model_is_no_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([Reply([chunk(content="half"), b"data: {nonsense\n\n", usage(1, 1), DONE])]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            end = (await server.say(await server.thread(), "x"))[-1].body["event"]
            assert (end["reason"], end["cause"]) == ("failed", "broken")

    asyncio.run(main())
