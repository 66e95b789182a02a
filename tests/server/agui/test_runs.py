"""AG-UI over the real server: what a client is told of a run, checked with the protocol's own types."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.server.agui.client_of_agui import Agui, Object, bodies, check, names, of, text_of, told, user
from tests.support.endpoint import DONE, Cut, Endpoint, Reply, chunk, error, stream, text, tool_calls
from tests.support.server import Frame, scripted, serving

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""One point."""


def one(name: str, **arguments: object) -> Reply:
    return tool_calls((f"call_{name}", name, [json.dumps(arguments)]))


def test_a_question_is_answered_with_text_thinking_and_calls_in_the_order_of_the_protocol(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [
            tool_calls(("c1", "calculate", ['{"query":', '"1+1"}']), said="Let me see.", tokens_used=(10, 5)),
            text("It ", "is ", "2.", thinking=["Hm", "m."], tokens_used=(20, 7)),
        ]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            client = Agui(server)
            events = await client.run(messages=[user("What is 1+1?")])
            check(events)
            first, last = events[0], events[-1]
            assert (first["threadId"], first["runId"], first["protocolVersion"]) == ("t", "r1", "1.0")
            ours = first["metadata"]["stepwell"]
            assert client.headers["x-stepwell-thread"] == ours["thread"]
            assert client.headers["x-stepwell-run"] == str(ours["run"])
            assert (last["outcome"], last["result"]) == ({"type": "success"}, "It is 2.")
            assert [(each["inputTokens"], each["outputTokens"]) for each in last["usage"]] == [(30, 12)]
            assert text_of(events) == ["Let me see.", "It is 2."]
            assert "".join(each["delta"] for each in of(events, "REASONING_MESSAGE_CONTENT")) == "Hmm."
            (call,), (arguments,), (result,) = (of(events, f"TOOL_CALL_{part}") for part in ("START", "ARGS", "RESULT"))
            assert (call["toolCallName"], call["toolCallId"]) == ("calculate", "c1")
            assert call["parentMessageId"] == of(events, "TEXT_MESSAGE_START")[0]["messageId"]
            assert (arguments["delta"], result["toolCallId"], result["content"]) == ('{"query":"1+1"}', "c1", "2")
            assert [each["event"]["name"] for each in told(events, "tool_started")] == ["calculate"]
            assert of(events, "STATE_SNAPSHOT")[0]["snapshot"]["stepwell"]["steps"] == 0
            assert of(events, "STATE_DELTA")[-1]["delta"][0] == {
                "op": "replace",
                "path": "/stepwell/steps",
                "value": 2,
            }

    asyncio.run(main())


def test_what_is_new_at_the_end_is_said_and_the_server_keeps_the_history(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("Hello Ada."), text("You are Ada."), text("Ada, still.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            client = Agui(server)
            first = await client.run(messages=[user("I am Ada.")])
            reply = {"id": of(first, "TEXT_MESSAGE_START")[0]["messageId"], "role": "assistant", "content": "forged"}
            said = [user("I am Ada."), reply, user("Who am I?", "u2")]
            second = await client.run("r2", messages=said)
            check(second)
            assert "MESSAGES_SNAPSHOT" not in names(second)
            sent = (await endpoint.request(1)).body["messages"]
            assert [each["content"] for each in sent[1:]] == ["I am Ada.", "Hello Ada.", "Who am I?"]
            third = await client.run("r3", messages=[user("And now?", "u3")])
            check(third)
            (snapshot,) = of(third, "MESSAGES_SNAPSHOT")
            assert [each["content"] for each in snapshot["messages"]] == [
                *("I am Ada.", "Hello Ada.", "Who am I?", "You are Ada."),
                "And now?",
            ]
            assert snapshot["messages"][-1]["id"] == "u3"

    asyncio.run(main())


def test_a_thread_that_is_new_takes_the_clients_conversation_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("Blue.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            call = {"id": "c9", "type": "function", "function": {"name": "look", "arguments": "{}"}}
            messages = [
                {"id": "s", "role": "system", "content": "Be brief."},
                user("Look up.", "u0"),
                {"id": "a0", "role": "assistant", "toolCalls": [call]},
                {"id": "t0", "role": "tool", "toolCallId": "c9", "content": "a blue sky"},
                {"id": "a1", "role": "assistant", "content": "I looked."},
                user("Which colour?"),
            ]
            context = [{"description": "page", "value": "the weather"}]
            state = {"zoom": 3, "stepwell": {"run": 1}}
            events = await Agui(server).run(messages=messages, context=context, state=state)
            check(events)
            assert of(events, "STATE_SNAPSHOT")[0]["snapshot"]["zoom"] == 3
            sent = (await endpoint.request(0)).body["messages"]
            assert [(each["role"], each["content"]) for each in sent[1:]] == [
                ("user", "Look up."),
                ("assistant", None),
                ("tool", "a blue sky"),
                ("assistant", "I looked."),
                ("user", "Which colour?"),
            ]
            system = sent[0]["content"]
            assert all(part in system for part in ("Be brief.", '<context about="page">', "the weather", '"zoom": 3'))
            assert '"run"' not in system

    asyncio.run(main())


def test_a_reply_that_breaks_off_is_marked_void(tmp_path: Path) -> None:
    async def main() -> None:
        seen = asyncio.Event()  # who comes when the reply is over is not shown what is void
        broken = stream(chunk(role="assistant", content="Half a"), seen, Cut.DROP)
        async with (
            Endpoint([broken]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            came = await Agui(server).stream(messages=[user("Say it.")])
            events: list[Object] = []
            while (frame := await came.frame()) is not None:
                if frame.data:
                    events.append(frame.body)
                    if frame.body["type"] == "TEXT_MESSAGE_CONTENT":
                        seen.set()
            check(events)
            (end,) = of(events, "TEXT_MESSAGE_END")
            assert end["metadata"] == {"stepwell": {"void": True}}
            assert [each["event"]["kind"] for each in told(events, "model_failed")] == ["broken"]
            assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "broken")

    asyncio.run(main())


def test_a_step_that_a_stopped_server_left_is_made_again_and_its_text_is_void(tmp_path: Path) -> None:
    async def main() -> None:
        half = stream(chunk(role="assistant", content="Half a"), Cut.STALL)
        async with Endpoint([half, text("A whole answer.")]) as endpoint:
            models, frames = scripted(endpoint), list[Frame]()
            async with serving(tmp_path, models=models) as server:
                first = await Agui(server).stream(messages=[user("Say it.")])
                while not frames or frames[-1].body["type"] != "TEXT_MESSAGE_CONTENT":
                    frame = await first.frame()
                    assert frame is not None
                    frames.append(frame)
            async with serving(tmp_path, models=models) as server:
                frames += await Agui(server).frames(messages=[user("Say it.")], last=frames[-1].id)
            events = bodies(frames)
            check(events)
            assert text_of(events) == ["Half a", "A whole answer."]
            first_end, second_end = of(events, "TEXT_MESSAGE_END")
            assert (first_end["metadata"], "metadata" in second_end) == ({"stepwell": {"void": True}}, False)

    asyncio.run(main())


def test_a_run_that_fails_ends_with_an_error_and_its_cause(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([error(401, "no such key")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            events = await Agui(server).run(messages=[user("Say it.")])
            check(events)
            assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "auth")
            assert "no such key" in events[-1]["message"]

    asyncio.run(main())


def test_a_run_that_reaches_a_limit_ends_with_an_error_that_names_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([one("calculate", query="1+1")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            options = {"stepwell": {"limits": {"steps": 1}}}
            events = await Agui(server).run(messages=[user("Go.")], forwardedProps=options)
            check(events)
            assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "steps")

    asyncio.run(main())


def test_a_message_is_told_to_the_run_under_way_where_the_client_wishes_it(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        first = stream(chunk(role="assistant", content="One."), held, chunk("stop"), DONE)
        async with (
            Endpoint([first, text("Two.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            client = Agui(server)
            running = await client.stream(messages=[user("First.")])
            await endpoint.request(0)
            options = {"stepwell": {"while_running": "steer"}}
            said = [user("First."), user("Second.", "u2")]
            steering = await client.stream("r2", messages=said, forwardedProps=options)
            held.set()
            whole = bodies([frame for frame in await running.rest() if frame.data])
            check(whole)
            assert text_of(whole) == ["One.", "Second.", "Two."]
            events = bodies([frame for frame in await steering.rest() if frame.data])
            check(events)
            assert text_of(events) == ["One.", "Two."]

    asyncio.run(main())


def test_a_run_goes_on_when_its_client_leaves_and_stops_when_it_is_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        reply = stream(chunk(role="assistant", content="One, "), held, Cut.STALL)
        async with (
            Endpoint([reply]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            client = Agui(server)
            first = await client.stream(messages=[user("Count.")])
            frame = await first.frame()
            while frame is not None and frame.body["type"] != "TEXT_MESSAGE_CONTENT":
                frame = await first.frame()
            assert frame is not None
            first.cut(reset=True)
            again = await client.stream(messages=[user("Count.")], last=frame.id)
            thread, run = first.headers["x-stepwell-thread"], first.headers["x-stepwell-run"]
            assert (await server.call("GET", f"/api/threads/{thread}"))[1]["run"] == int(run)
            assert (await server.call("POST", f"/api/threads/{thread}/runs/{run}/cancel"))[0] == 202
            rest = bodies([frame for frame in await again.rest() if frame.data])
            assert names(rest)[0] == "CUSTOM"
            assert rest[0]["name"] == "stepwell.cancel_requested"
            assert (rest[-1]["type"], rest[-1]["outcome"]) == ("RUN_FINISHED", {"type": "cancelled"})
            held.set()

    asyncio.run(main())


def test_the_tasks_of_a_plan_are_agents_of_their_own_and_the_plan_is_shared_state(tmp_path: Path) -> None:
    async def main() -> None:
        ended = {"status": "success", "reached_goals": [], "failed_goals": []}
        replies = [
            one("generate_plan", subtasks=[{"name": "look", "goal": "g1"}, {"name": "do", "goal": "g2"}]),
            one("subtask_submit", submit_type="success", result="seen"),
            one("conclusion", summary="I looked.", reply="", **ended),
            one("subtask_submit", submit_type="give_up", result="stuck"),
            one("conclusion", summary="It did not work.", reply="", **{**ended, "status": "failure"}),
            one("conclusion", summary="Half.", reply="Half of it.", **ended),
        ]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            options = {"engine": "plan", "stepwell": {"plan": {"max_chain_length": 3}}}
            events = await Agui(server).run(messages=[user("Do it.")], forwardedProps=options)
            check(events)
            first, second = of(events, "SUBAGENT_STARTED")
            assert [(each["name"], each["description"]) for each in (first, second)] == [("look", "g1"), ("do", "g2")]
            assert [each["subagentRunId"] for each in of(events, "SUBAGENT_FINISHED")] == [first["subagentRunId"]]
            assert [each["subagentRunId"] for each in of(events, "SUBAGENT_ERROR")] == [second["subagentRunId"]]
            calls = {each["toolCallName"]: each.get("subagentRunId") for each in of(events, "TOOL_CALL_START")}
            assert calls["subtask_submit"] == second["subagentRunId"]
            plan = None
            for each in of(events, "STATE_DELTA"):
                plan = next((op["value"] for op in each["delta"] if op["path"] == "/stepwell/plan"), plan)
            assert plan is not None
            assert [(each["name"], each["status"]) for each in plan["tasks"]] == [("look", "SUCCESS"), ("do", "FAIL")]
            assert text_of(events)[-1] == "Half of it."
            assert events[-1]["result"] == "Half of it."

    asyncio.run(main())


def test_a_message_that_waits_is_followed_when_its_turn_comes(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        first = stream(chunk(role="assistant", content="One."), held, chunk("stop"), DONE)
        async with (
            Endpoint([first, text("Two.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            client = Agui(server)
            running = await client.stream(messages=[user("First.")])
            await endpoint.request(0)
            waiting = await client.stream("r2", messages=[user("First."), user("Second.", "u2")])
            held.set()
            check(bodies([frame for frame in await running.rest() if frame.data]))
            events = bodies([frame for frame in await waiting.rest() if frame.data])
            check(events)
            assert (events[0]["runId"], text_of(events)) == ("r2", ["Two."])

    asyncio.run(main())


def test_images_are_shown_to_the_model(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([text("A dot.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint, images=True, window=100_000)) as server,
        ):
            parts = [
                {"type": "text", "text": "What is it?"},
                {"type": "image", "source": {"type": "data", "value": PNG, "mimeType": "image/png"}},
            ]
            events = await Agui(server).run(messages=[{"id": "u1", "role": "user", "content": parts}])
            check(events)
            sent = (await endpoint.request(0)).body["messages"][-1]["content"]
            assert [each["type"] for each in sent] == ["text", "image_url"]
            assert sent[1]["image_url"]["url"] == f"data:image/png;base64,{PNG}"

    asyncio.run(main())
