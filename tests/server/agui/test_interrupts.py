"""Questions of a run as interrupts: one resume answers all of them, whatever face asks, answers or follows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.server.agui.client_of_agui import Agui, Object, check, names, of, text_of, told, user
from tests.support.endpoint import Endpoint, Reply, Request, text, tool_calls
from tests.support.server import scripted, serving

ASK: Object = {"approvals": {"rules": [{"decision": "ask", "tool": "calculate"}]}}


def calls(*queries: str) -> Reply:
    return tool_calls(*((f"c{n}", "calculate", [json.dumps({"query": each})]) for n, each in enumerate(queries)))


def interrupts(events: list[Object]) -> list[Object]:
    outcome = events[-1]["outcome"]
    assert outcome["type"] == "interrupt", events[-1]
    return outcome["interrupts"]


def approve(interrupt: Object, **payload: Any) -> Object:
    return {"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": True, **payload}}


def cancel(interrupt: Object) -> Object:
    return {"interruptId": interrupt["id"], "status": "cancelled"}


async def results(endpoint: Endpoint, number: int) -> list[str]:
    request = await endpoint.request(number)
    return [each["content"] for each in request.body["messages"] if each["role"] == "tool"]


def test_one_resume_answers_all_interrupts_and_the_run_goes_on_as_a_new_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([calls("1+1", "2+2", "3+3"), text("Done.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), **ASK) as server,
        ):
            client = Agui(server)
            first = await client.run(messages=[user("Go.")])
            check(first)
            one, two, three = interrupts(first)
            assert [each["toolCallId"] for each in (one, two, three)] == ["c0", "c1", "c2"]
            assert (one["reason"], one["metadata"]["stepwell"]["kind"]) == ("tool_call", "approval")
            assert one["metadata"]["stepwell"]["arguments"] == '{"query": "1+1"}'
            assert one["responseSchema"]["required"] == ["approved"]
            resume = [approve(two, editedArgs={"query": "20+2"}), approve(one), cancel(three)]
            second = await client.run("r2", resume=resume)
            check(second)
            assert (second[0]["runId"], second[-1]["outcome"]) == ("r2", {"type": "success"})
            assert [each["toolCallId"] for each in of(second, "TOOL_CALL_RESULT")] == ["c2", "c0", "c1"]
            assert "TOOL_CALL_START" not in names(second)
            said = await results(endpoint, 1)
            assert said[0] == "2"
            assert said[1].endswith("\n22")
            assert text_of(second) == ["Done."]

    asyncio.run(main())


def test_a_resume_for_others_or_not_for_all_answers_nothing_and_names_them(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([calls("1+1", "2+2"), text("Done.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), **ASK) as server,
        ):
            client = Agui(server)
            one, two = interrupts(await client.run(messages=[user("Go.")]))
            bad: list[tuple[Any, str, str]] = [
                ([approve(one)], "resume", two["id"]),
                ([approve(one), approve(two), approve({"id": "9999"})], "resume", "9999"),
                ([approve(one), approve({"id": "x"})], "resume", "x"),
                ([approve(one), approve(one)], "resume", "two responses"),
                ([approve(one, approved="yes"), approve(two)], "resume.0.payload.approved", "true or false"),
                ([approve(one), approve(two, editedArgs={"query": 7})], "resume.1.payload.editedArgs", ""),
                ([approve(one), {**approve(two), "payload": "yes"}], "resume.1.payload", "object"),
                ([approve(one), approve(two, scope="ever")], "resume.1.payload.scope", "once"),
            ]
            for resume, field, said in bad:
                status, body = await client.refused("r2", resume=resume)
                assert (status, body["error"]["field"]) == (422, field), body
                assert said in body["error"]["message"]
            status, body = await client.refused("r2", messages=[user("Go."), user("Something else.", "u2")])
            assert (status, body["error"]["field"]) == (422, "resume")
            assert one["id"] in body["error"]["message"]
            thread = client.headers["x-stepwell-thread"]
            assert len((await server.call("GET", f"/api/threads/{thread}/questions"))[1]["questions"]) == 2
            check(await client.run("r2", resume=[approve(one), cancel(two)]))

    asyncio.run(main())


def test_a_resume_goes_on_after_a_restart_of_the_server(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([calls("1+1", "2+2"), text("Done.")]) as endpoint:
            models = scripted(endpoint)
            async with serving(tmp_path, models=models, **ASK) as server:
                first = await Agui(server).run(messages=[user("Go.")])
            async with serving(tmp_path, models=models, **ASK) as server:
                attached = await Agui(server).run("r2")
                check(attached)
                assert attached[-1]["outcome"] == first[-1]["outcome"]
                second = await Agui(server).run("r3", resume=[approve(each) for each in interrupts(first)])
                check(second)
                assert await results(endpoint, 1) == ["2", "4"]

    asyncio.run(main())


def test_of_two_that_answer_an_interrupt_at_once_the_slower_is_told_how_it_was_decided(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([calls("1+1"), text("Done.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), **ASK) as server,
        ):
            (asked,) = interrupts(await Agui(server).run(messages=[user("Go.")]))
            deny = {**approve(asked), "payload": {"approved": False}}
            both = await asyncio.gather(
                Agui(server).run("r2", resume=[approve(asked)]), Agui(server).run("r3", resume=[deny])
            )
            told_of = [
                [each["value"] for each in of(one, "CUSTOM") if each["name"].endswith("decided")] for one in both
            ]
            assert sorted(map(len, told_of)) == [0, 1]
            (decided,) = next(each for each in told_of if each)
            assert decided["interruptId"] == asked["id"]
            assert decided["decision"] == ("approve" if not told_of[0] else "deny")
            for each in both:
                check(each)
                assert text_of(each) == ["Done."]

    asyncio.run(main())


def test_the_same_resume_twice_leads_to_the_same_run(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([calls("1+1"), text("Done.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), **ASK) as server,
        ):
            client = Agui(server)
            first = await client.run(messages=[user("Go.")])
            assert await client.run(messages=[user("Go.")]) == first
            second = await client.run("r2", resume=[approve(*interrupts(first))])
            check(second)
            again = await client.run("r2", resume=[approve(*interrupts(first))])
            assert again == second

    asyncio.run(main())


def test_what_another_face_decided_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([calls("1+1"), text("Done.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), **ASK) as server,
        ):
            client = Agui(server)
            (one,) = interrupts(await client.run(messages=[user("Go.")]))
            thread, run = client.headers["x-stepwell-thread"], int(client.headers["x-stepwell-run"])
            path = f"/api/threads/{thread}/questions/{one['id']}/answer"
            assert (await server.call("POST", path, json={"decision": "approve"}))[0] == 202
            await server.ended(thread, run)
            second = await client.run("r2", resume=[cancel(one)])
            check(second)
            (decided,) = told(second, "decided")
            assert (decided["interruptId"], decided["decision"]) == (one["id"], "approve")
            assert text_of(second) == ["Done."]

    asyncio.run(main())


def test_a_run_that_was_cancelled_while_it_waited_is_over_for_who_answers(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([calls("1+1")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), **ASK) as server,
        ):
            client = Agui(server)
            (one,) = interrupts(await client.run(messages=[user("Go.")]))
            thread, run = client.headers["x-stepwell-thread"], int(client.headers["x-stepwell-run"])
            assert (await server.call("POST", f"/api/threads/{thread}/runs/{run}/cancel"))[0] == 202
            await server.ended(thread, run)
            second = await client.run("r2", resume=[approve(one)])
            check(second)
            assert [each["decision"] for each in told(second, "decided")] == ["cancelled"]
            assert second[-1]["outcome"] == {"type": "cancelled"}
            assert [each["metadata"]["stepwell"]["status"] for each in of(second, "TOOL_CALL_RESULT")] == ["cancelled"]

    asyncio.run(main())


def test_two_agents_of_a_plan_are_answered_by_one_resume(tmp_path: Path) -> None:
    async def main() -> None:
        one = [{"name": "a", "goal": "ga"}, {"name": "b", "goal": "gb"}]
        said: dict[str, Any] = {"status": "success", "reached_goals": [], "failed_goals": [], "reply": "Both."}

        def model(request: Request) -> Reply:
            offered = {each["function"]["name"] for each in request.body.get("tools", ())}
            if "generate_plan" in offered:
                return tool_calls(("p", "generate_plan", [json.dumps({"subtasks": one})]))
            if "conclusion" in offered:
                return tool_calls(("e", "conclusion", [json.dumps({"summary": "done", **said})]))
            if any(each["role"] == "tool" for each in request.body["messages"]):
                submission = {"submit_type": "success", "result": "2"}
                return tool_calls(("s", "subtask_submit", [json.dumps(submission)]))
            return tool_calls(("c", "calculate", ['{"query": "1+1"}']))

        tasks = {"max_parallel_tasks": 2, "max_chain_length": 4}
        async with (
            Endpoint(model) as endpoint,
            serving(tmp_path, models=scripted(endpoint), tasks=tasks, **ASK) as server,
        ):
            client = Agui(server)
            first = await client.run(messages=[user("Do both.")], forwardedProps={"engine": "plan"})
            check(first)
            found = interrupts(first)
            agents = [each["subagentRunId"] for each in of(first, "SUBAGENT_STARTED")]
            assert sorted(each["subagentRunId"] for each in found) == sorted(agents)
            suspended = {each["subagentRunId"]: each["outcome"] for each in of(first, "SUBAGENT_FINISHED")}
            assert suspended == {
                each["subagentRunId"]: {"type": "suspended", "interruptIds": [each["id"]]} for each in found
            }
            second = await client.run("r2", resume=[approve(each) for each in found])
            check(second)
            assert [each["subagentRunId"] for each in of(second, "SUBAGENT_STARTED")] == agents
            assert second[-1]["result"] == "Both."

    asyncio.run(main())


def test_a_run_of_the_native_face_is_followed_and_approved_over_agui(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([calls("1+1"), text("Done.")]) as endpoint,
            serving(tmp_path, auth="keys", models=scripted(endpoint), **ASK) as server,
        ):
            status, ref = await server.call("POST", "/api/messages", json={"content": "Go."})
            assert status == 202
            stream = await server.follow(ref["thread"], "0", ref["run"])
            await stream.until("run_waiting")
            client = Agui(server, ref["thread"])
            first = await client.run()
            check(first)
            assert text_of(first) == ["Go."]
            second = await client.run("r2", resume=[approve(*interrupts(first))])
            check(second)
            assert (await stream.until("run_ended"))[-1].body["event"]["reason"] == "answer"
            other = await server.key_for("eve")
            status, body = await server.call("POST", "/agui", json=client.body("r3"), headers=other)
            assert (status, body["error"]["field"]) == (422, "messages")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("payload", "said"),
    [({"answer": "blue"}, "blue"), ("blue", "blue"), (None, "Nobody answered")],
    ids=["object", "text", "cancelled"],
)
def test_a_question_of_the_agent_is_answered_by_its_form(tmp_path: Path, payload: object, said: str) -> None:
    async def main() -> None:
        question = {"question": "Which colour?", "choices": ["blue", "red"]}
        ask = tool_calls(("c1", "ask_human", [json.dumps(question)]))
        async with (
            Endpoint([ask, text("I see.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), tools={"ask_human": {"enabled": True}}) as server,
        ):
            client = Agui(server)
            (one,) = interrupts(await client.run(messages=[user("Paint.")]))
            assert (one["reason"], one["message"]) == ("input_required", "Which colour?")
            assert one["responseSchema"]["properties"]["answer"] == {"enum": ["blue", "red"]}
            wrong = {"interruptId": one["id"], "status": "resolved", "payload": "green"}
            assert (await client.refused("r2", resume=[wrong]))[0] == 422
            answer = {**wrong, "payload": payload} if payload is not None else cancel(one)
            check(await client.run("r2", resume=[answer]))
            (result,) = await results(endpoint, 1)
            assert said in result

    asyncio.run(main())


def test_the_answer_to_what_a_run_left_open_and_what_is_said_besides_begin_another(tmp_path: Path) -> None:
    async def main() -> None:
        ask = tool_calls(("c1", "ask_human", [json.dumps({"question": "Which colour?", "choices": ["blue", "red"]})]))
        async with (
            Endpoint([ask, text("Blue.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), tools={"ask_human": {"enabled": True}}) as server,
        ):
            thread = await server.thread()
            await server.ended(thread, await server.start(thread, "Paint.", people=False))
            client = Agui(server, thread)
            (question,) = (await server.call("GET", f"/api/threads/{thread}/questions"))[1]["questions"]
            one = {"interruptId": str(question["seq"]), "status": "resolved", "payload": "green"}
            bad: list[tuple[Object, str, str]] = [
                (one, "resume.0.payload", "blue, red"),
                ({**one, "payload": {"answer": 7}}, "resume.0.payload", "answer"),
                ({**one, "status": "cancelled"}, "resume", "only be answered"),
            ]
            for response, field, said in bad:
                status, body = await client.refused("r1", resume=[response])
                assert (status, body["error"]["field"], said in body["error"]["message"]) == (422, field, True), body
            resume, messages = [{**one, "payload": "blue"}], [user("Be brief.", "u9")]
            second = await client.run("r2", resume=resume, messages=messages)
            check(second)
            assert text_of(second)[-1] == "Blue."
            sent = (await endpoint.request(1)).body["messages"]
            assert "blue" in sent[-2]["content"]
            assert sent[-1]["content"] == "Be brief."
            assert await client.run("r2", resume=resume, messages=messages) == second

    asyncio.run(main())


def test_an_expired_approval_ends_as_the_log_says(tmp_path: Path) -> None:
    async def main() -> None:
        settings: Object = {"approvals": {**ASK["approvals"], "seconds": 0.05}}
        async with (
            Endpoint([calls("1+1"), text("Too late.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), **settings) as server,
        ):
            client = Agui(server)
            (one,) = interrupts(await client.run(messages=[user("Go.")]))
            assert one["expiresAt"].endswith("+00:00")
            await server.ended(client.headers["x-stepwell-thread"], int(client.headers["x-stepwell-run"]))
            second = await client.run("r2", resume=[approve(one)])
            check(second)
            assert [each["decision"] for each in told(second, "decided")] == ["expired"]

    asyncio.run(main())
