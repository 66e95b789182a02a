"""`POST /chat/feedback`: where a rating is kept, and which are refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from stepwell.events import Feedback, MessageEnded
from stepwell.runs.replay import replay
from stepwell.wiring.replay import ConfigParts
from tests.support.audit import audit
from tests.support.endpoint import Endpoint, Reply, error, text
from tests.support.server import Server, scripted, serving


async def asked(server: Server, path: str = "/chat/chat", **fields: Any) -> tuple[str, str]:
    """Ask and return the thread and the `message_id`."""
    stream = await server.stream("POST", path, {"query": "hi", **fields})
    (*_, last) = await stream.rest()
    return stream.headers["x-stepwell-thread"], last.body["message_id"]


async def rate(server: Server, **fields: Any) -> tuple[int, Any]:
    status, body = await server.call("POST", "/chat/feedback", json=fields)
    assert status == 200
    return body["code"], body


def test_a_rating_stands_in_the_thread_and_names_the_event_of_the_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("a"), text("b")]) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread, first = await asked(server, conversation_id="c")
            _, second = await asked(server, conversation_id="c")
            assert await rate(server, message_id=first, score=90, reason="so 好") == (
                200,
                {"code": 200, "msg": f"已反馈聊天记录 {first}", "data": None},
            )
            assert (await rate(server, message_id=second, score="7"))[0] == 200
            assert (await rate(server, message_id=second, score=8.0, reason=None))[0] == 200
            events = await server.service.events("local", thread)
            answers = [each.seq for each in events if isinstance(each.event, MessageEnded)]
            assert [each.event for each in events if isinstance(each.event, Feedback)] == [
                Feedback(answers[0], 90, "so 好"),
                Feedback(answers[1], 7),
                Feedback(answers[1], 8),
            ]
            audit(events)
            assert await replay(events, ConfigParts(server.config), thread) is None

    asyncio.run(main())


def test_a_rating_while_the_next_run_is_open_disturbs_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        held = Reply([gate, *text("b").pieces])
        async with Endpoint([text("a"), held]) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread, first = await asked(server, conversation_id="c")
            stream = await server.stream("POST", "/chat/chat", {"query": "more", "conversation_id": "c"})
            assert (await rate(server, message_id=first, score=1))[0] == 200
            gate.set()
            assert [frame.body["text"] for frame in await stream.rest()] == ["b"]
            events = await server.service.events("local", thread)
            audit(events)
            assert await replay(events, ConfigParts(server.config), thread) is None

    asyncio.run(main())


def test_the_answer_to_a_message_that_waited_can_be_rated(tmp_path: Path) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        held = Reply([gate, *text("a").pieces])
        async with Endpoint([held, text("b")]) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            body = {"query": "x", "conversation_id": "c"}
            streams = [await server.stream("POST", "/chat/chat", body) for _ in range(2)]
            gate.set()
            ids = [(await stream.rest())[0].body["message_id"] for stream in streams]
            assert (await rate(server, message_id=ids[1], score=5))[0] == 200
            events = await server.service.events("local", streams[0].headers["x-stepwell-thread"])
            rated = next(each.event.message for each in events if isinstance(each.event, Feedback))
            answer = events[rated - 1].event
            assert isinstance(answer, MessageEnded)
            assert answer.message.content == "b"

    asyncio.run(main())


def test_what_is_no_answer_of_yours_cannot_be_rated(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("a"), error(400, "no")]) as endpoint,
            serving(tmp_path, auth="keys", models=scripted(endpoint)) as server,
        ):
            _, id = await asked(server)
            _, failed = await asked(server)
            body = {"message_id": id, "score": 1}
            other = await server.key_for("eve")
            assert (await server.call("POST", "/chat/feedback", json=body, headers=other))[1]["code"] == 404
            for unknown in ("", "0" * 32, failed):
                code, body = await rate(server, message_id=unknown, score=1)
                assert (code, body["data"]) == (404, None)
            status, body = await server.call("POST", "/chat/feedback", json={"message_id": "x" * 33})
            assert (status, body["detail"][0]["loc"]) == (422, ["body", "message_id"])

    asyncio.run(main())
