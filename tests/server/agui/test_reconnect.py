"""A stream that is cut anywhere is taken up again without losing or doubling anything."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.server.agui.client_of_agui import Agui, Object, bodies, check, names, of, text_of, user
from tests.support.endpoint import DONE, Endpoint, Reply, chunk, stream, text, tool_calls
from tests.support.server import Frame, scripted, serving


def merged(events: list[Object]) -> list[Object]:
    """Join neighbouring pieces of one text: how they were cut is no part of what was told."""
    out: list[Object] = []
    for each in events:
        if out and each["type"].endswith("_CONTENT") and {**out[-1], "delta": ""} == {**each, "delta": ""}:
            out[-1] = {**each, "delta": out[-1]["delta"] + each["delta"]}
        else:
            out.append(each)
    return out


def replies() -> list[Reply]:
    return [
        tool_calls(("c1", "calculate", ['{"query":', '"1+1"}']), said="Let me see: ß🎈."),
        text("It ", "is ", "2. ", "🎈", thinking=["Hm", "m.", " Two?"], tokens_used=(20, 7)),
    ]


@pytest.mark.parametrize("restarted", [False, True], ids=["same server", "after a restart"])
def test_a_run_that_is_over_is_taken_up_at_every_frame(tmp_path: Path, restarted: bool) -> None:
    async def main() -> None:
        async with Endpoint(replies()) as endpoint:
            async with serving(tmp_path, models=scripted(endpoint)) as server:
                client = Agui(server)
                frames = await client.frames(messages=[user("What is 1+1?")])
                check(bodies(frames))
                assert len(frames) > 20
                assert all(frame.id for frame in frames)
                if not restarted:
                    await every_place(client, frames)
            if restarted:
                async with serving(tmp_path, models=scripted(endpoint)) as server:
                    await every_place(Agui(server), frames)

    asyncio.run(main())


async def every_place(client: Agui, frames: list[Frame], run: str = "r1", **fields: Any) -> None:
    """Take a run up after each of its frames, by the same request and by following the thread."""
    whole = merged(bodies(frames))
    for number, frame in enumerate(frames, 1):
        rest = await client.frames(run, last=frame.id, **{"messages": [user("What is 1+1?")], **fields})
        assert merged(bodies(frames[:number] + rest)) == whole, frame
        if ":" in frame.id:
            continue  # the stream has just been opened: what a follower is told first is not what who asks is told
        path = f"/agui/threads/{client.thread}/events?runId={run}&after={frame.id}"
        followed = await client.server.stream("GET", path)
        assert followed.status == 200, await followed.content()
        ended = [each for each in await followed.rest() if each.data]
        assert merged(bodies(frames[:number] + ended)) == whole, frame


def test_a_request_with_the_end_of_the_run_before_as_its_place_is_told_the_whole_of_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("One."), text("Two.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            client = Agui(server)
            first = await client.frames(messages=[user("Count.")])
            said = {"id": of(bodies(first), "TEXT_MESSAGE_START")[0]["messageId"], "role": "assistant"}
            messages = [user("Count."), {**said, "content": "One."}, user("Go on.", "u2")]
            second = bodies(await client.frames("r2", last=first[-1].id, messages=messages))
            check(second)
            assert text_of(second) == ["Two."]

    asyncio.run(main())


def test_both_parts_of_a_run_with_an_interrupt_are_taken_up_at_every_frame(tmp_path: Path) -> None:
    async def main() -> None:
        ask: Object = {"approvals": {"rules": [{"decision": "ask", "tool": "calculate"}]}}
        async with Endpoint(replies()) as endpoint:
            models = scripted(endpoint)
            async with serving(tmp_path, models=models, **ask) as server:
                client = Agui(server)
                first = await client.frames(messages=[user("What is 1+1?")])
                check(bodies(first))
                (asked,) = first[-1].body["outcome"]["interrupts"]
                resume = [{"interruptId": asked["id"], "status": "resolved", "payload": {"approved": True}}]
                second = await client.frames("r2", resume=resume)
                check(bodies(second))
                await every_place(client, first)
                await every_place(client, second, "r2", resume=resume, messages=[])
            async with serving(tmp_path, models=models, **ask) as server:
                await every_place(Agui(server), second, "r2", resume=resume, messages=[])

    asyncio.run(main())


def test_a_run_under_way_is_taken_up_after_every_single_frame(tmp_path: Path) -> None:
    async def main() -> None:
        gates = [asyncio.Event() for _ in range(8)]
        thinking = [piece for n in range(3) for piece in (chunk(reasoning_content=f"t{n} "), gates[n])]
        said = [piece for n in range(3, 8) for piece in (chunk(content=f"w{n} "), gates[n])]
        reply = stream(chunk(role="assistant", content=""), *thinking, *said, chunk("stop"), DONE)
        async with (
            Endpoint([reply]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            client, frames, last = Agui(server), list[Frame](), ""
            while not frames or frames[-1].body["type"] != "RUN_FINISHED":
                following = await client.stream(messages=[user("Count.")], last=last)
                frame = await following.frame()
                assert frame is not None
                following.cut(reset=len(frames) % 2 == 0)
                frames.append(frame)
                last = frame.id
                if frame.body["type"].endswith("_CONTENT"):
                    next(gate for gate in gates if not gate.is_set()).set()
            events = bodies(frames)
            check(events)
            assert text_of(events) == ["w3 w4 w5 w6 w7 "]
            assert "".join(each["delta"] for each in of(events, "REASONING_MESSAGE_CONTENT")) == "t0 t1 t2 "
            assert len(of(events, "TEXT_MESSAGE_CONTENT")) == 5

    asyncio.run(main())


def test_a_client_that_has_half_an_answer_and_no_place_is_told_to_forget_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("First."), text("It is 2.", thinking=["Hmm."])]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            client = Agui(server)
            first = await client.run(messages=[user("Hello.")])
            said = {"id": of(first, "TEXT_MESSAGE_START")[0]["messageId"], "role": "assistant", "content": "First."}
            messages = [user("Hello."), said, user("What is 1+1?", "u2")]
            second = await client.run("r2", messages=messages)
            half = {"id": of(second, "TEXT_MESSAGE_START")[0]["messageId"], "role": "assistant", "content": "It"}
            thought = {**half, "id": of(second, "REASONING_MESSAGE_START")[0]["messageId"], "role": "reasoning"}
            again = await client.run("r2", messages=[*messages, thought, half])
            check(again)
            (snapshot,) = of(again, "MESSAGES_SNAPSHOT")
            kept = [(each["id"], each["content"]) for each in snapshot["messages"]]
            assert kept == [("u1", "Hello."), (said["id"], "First."), (thought["id"], ""), ("u2", "What is 1+1?")]
            assert text_of(again) == ["It is 2."]

    asyncio.run(main())


def test_a_server_that_stops_says_that_only_the_connection_ends(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        reply = stream(chunk(role="assistant", content="One"), held, chunk("stop"), DONE)
        async with Endpoint([reply, text("One, two.")]) as endpoint:
            async with serving(tmp_path, models=scripted(endpoint)) as server:
                following = await Agui(server).stream(messages=[user("Count.")])
                frames = list[Frame]()
                while not frames or frames[-1].body["type"] != "TEXT_MESSAGE_CONTENT":
                    frame = await following.frame()
                    assert frame is not None
                    frames.append(frame)
                await server.service.stop(0.0)
                (last,) = await following.rest()
                assert (last.id, last.body["type"], last.body["code"]) == ("", "RUN_ERROR", "interrupted")
            async with serving(tmp_path, models=scripted(endpoint)) as server:
                rest = await Agui(server).frames(messages=[user("Count.")], last=frames[-1].id)
                check(bodies([*frames, *rest]))

    asyncio.run(main())


def test_a_client_that_knows_nothing_of_a_thread_is_sent_all_of_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("First."), text("Second."), text("Third.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            thread = await server.thread()
            await server.say(thread, "One?")
            await server.say(thread, "Two?")
            events = await Agui(server, thread).run()
            check(events)
            (snapshot,) = of(events, "MESSAGES_SNAPSHOT")
            assert [each["content"] for each in snapshot["messages"]] == ["One?", "First."]
            assert text_of(events) == ["Two?", "Second."]
            known = [
                *snapshot["messages"],
                *(
                    {"id": each["messageId"], "role": each["role"], "content": ""}
                    for each in of(events, "TEXT_MESSAGE_START")
                ),
            ]
            more = await Agui(server, thread).run("r2", messages=[*known, user("Three?", "u3")])
            check(more)
            assert ("MESSAGES_SNAPSHOT" in names(more), text_of(more)) == (False, ["Third."])

    asyncio.run(main())


def test_a_thread_is_followed_by_whoever_owns_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("Hello.")]) as endpoint,
            serving(tmp_path, auth="keys", models=scripted(endpoint)) as server,
        ):
            client = Agui(server)
            await client.run(messages=[user("Hi.")])
            for name in ("t", client.headers["x-stepwell-thread"]):
                followed = await server.stream("GET", f"/agui/threads/{name}/events")
                events = bodies([each for each in await followed.rest() if each.data])
                check(events)
                assert text_of(events) == ["Hi.", "Hello."]
            other = await server.key_for("eve")
            status, body = await server.call("GET", "/agui/threads/t/events", headers=other)
            assert (status, body["error"]["field"]) == (404, "thread")

    asyncio.run(main())


@pytest.mark.parametrize("after", ["x", "1.2", "-1", "1~1.2", "9" * 40, "1~" + "1.1.1.1.1," * 500])
def test_a_place_that_is_none_is_refused(tmp_path: Path, after: str) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("Hello.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            client = Agui(server)
            assert "RUN_FINISHED" in names(await client.run(messages=[user("Hi.")]))
            status, body = await server.call("GET", f"/agui/threads/t/events?after={after}")
            assert (status, body["error"]["field"]) == (422, "after"), json.dumps(body)

    asyncio.run(main())


def test_a_place_beyond_the_end_is_told_and_no_stream_without_events(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("Hello.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            body = {"threadId": "t", "runId": "r", "messages": [user("Hi.")]}
            (*_, last) = await (await server.stream("POST", "/agui", body)).rest()
            for after, expected in ((last.id, []), ("999", ["RUN_ERROR"])):
                headers = server.headers(**{"last-event-id": after})
                frames = await (await server.stream("POST", "/agui", body, headers=headers)).rest()
                assert [each.body["type"] for each in frames] == expected
            assert "999 is not there yet" in frames[0].body["message"]

    asyncio.run(main())
