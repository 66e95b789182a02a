"""The application as a whole: secrets stay inside, faults of our own are told without their details."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest
from opentelemetry import trace

from stepwell.server import app
from tests.support.endpoint import Endpoint, Reply, Request, chunk, document, ending, error, text, tool_calls
from tests.support.server import SSE, scripted, serving

ENDPOINT_KEY = "sk-canary-endpoint-7f3a"
OTHER_KEY = "sk-canary-variable-91bc"
HIDDEN = "canary-of-the-environment-55d0"
PRIVATE = "canary-of-a-conversation-8e21"


def leaks(request: Request) -> Reply:
    """Answer as the worst endpoint does: with the key in every error."""
    sent = request.headers["authorization"]
    said = request.body["messages"][-1]["content"]
    match said.rpartition("case ")[2][:1]:
        case "1":
            return error(401, f"Incorrect API key provided: {sent}")
        case "2":
            return document(f"<title>{sent} was refused</title>".encode(), 403)
        case "3":
            return Reply([chunk(content="x"), f'data: {{"error": {{"message": "{sent}"}}}}\n\n'.encode()])
        case "4":
            return document({"error": sent})
        case _:
            return text("Final Answer: ok")


@pytest.mark.parametrize("auth", ["off", "keys"])
def test_no_key_is_in_any_answer_event_log_line_or_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    auth: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("CANARY_KEY", OTHER_KEY)
    monkeypatch.setenv("CANARY_HIDDEN", HIDDEN)

    async def main() -> tuple[list[str], list[str]]:
        async with Endpoint(leaks) as endpoint:
            models = {
                **scripted(endpoint, "m", api_key=ENDPOINT_KEY, attempts=1),
                **scripted(endpoint, "v", api_key_env="CANARY_KEY", attempts=1, model="v-1"),
            }
            secrets = [ENDPOINT_KEY, OTHER_KEY, HIDDEN]
            shown: list[str] = []
            async with serving(tmp_path, auth=auth, models=models) as server:
                if server.key:
                    secrets += [server.key, server.key.split("_", 2)[2]]
                secrets.append(server.local_key.split("_", 2)[2])
                for case in range(5):
                    for model in ("m", "v"):
                        thread = await server.thread()
                        shown += [
                            frame.data for frame in await server.say(thread, f"{PRIVATE} case {case}", model=model)
                        ]
                        shown.append(str(await server.call("GET", f"/api/threads/{thread}/events")))
                        stream = await server.agent_chat(
                            f"{PRIVATE} case {case}", model_name=model, stream=case % 2 == 0
                        )
                        shown += [frame.data for frame in await stream.rest()]
                assert {request.headers["authorization"] for request in endpoint.requests} == {
                    f"Bearer {ENDPOINT_KEY}",
                    f"Bearer {OTHER_KEY}",
                }
                for path in ("/api/models", "/api/tools", "/openapi.json", "/health", "/api/threads", "/api/none"):
                    shown.append(str(await server.call("GET", path)))
                wrong = {"content": "x", "model": "none", "system": ["x"]}
                shown.append(str(await server.call("POST", "/api/messages", json=wrong)))
                shown.append(str(await server.call("GET", "/api/threads", headers={"x-api-key": "sw_1_wrong"})))
                shown += [record.getMessage() for record in server.logged]
            return secrets, shown

    secrets, shown = asyncio.run(main())
    assert "***" in "".join(shown)
    logged = [*capfd.readouterr(), caplog.text]
    assert PRIVATE in "".join(shown)
    assert PRIVATE not in "".join(logged)
    shown += logged
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert "stepwell.db" in [path.name for path in files]
    for secret in secrets:
        assert secret not in "".join(shown)
        for path in files:
            assert secret.encode() not in path.read_bytes(), path


def test_a_fault_of_our_own_is_told_without_its_details_and_logged_with_them(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, quiet=False) as server:

            async def boom() -> None:
                raise RuntimeError(f"the inside: {HIDDEN}")

            # OpenAI's clients repeat by themselves what failed so, and a run may have begun.
            for path, again in (("/boom", None), ("/v1/boom", "false")):
                server.app.add_api_route(path, boom)
                async with server.session.get(server.url + path) as response:
                    assert (response.status, response.headers.get("x-should-retry")) == (500, again)
                    body = json.loads(await response.text())
                assert HIDDEN not in str(body)
                assert "RuntimeError" in body["error"]["message"]
            assert [record.exc_info is not None for record in server.logged] == [True, True]
            assert (await server.call("GET", "/health"))[0] == 200

    asyncio.run(main())


def test_a_fault_of_a_tool_is_told_to_the_model_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_tools.py").write_text(
        "import sys\nfrom stepwell import tool\n\n"
        "@tool(effect='pure')\ndef stumble(how: str) -> str:\n"
        "    if how == 'exit':\n        sys.exit(3)\n"
        "    if how == 'deep':\n        return stumble(how)\n"
        "    raise {'value': ValueError, 'interrupt': BaseExceptionGroup}[how]('stumbled', [ValueError('x')])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    async def main() -> None:
        replies = [tool_calls(*((how, "stumble", [json.dumps({"how": how})]) for how in ("value", "exit", "deep")))]
        async with (
            Endpoint([*replies, text("ok")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), tools={"modules": ["failing_tools"]}) as server,
        ):
            frames = await server.say(await server.thread(), "x")
            ended = [frame.body["event"] for frame in frames if frame.type == "tool_ended"]
            assert {each["call"]: each["status"] for each in ended} == dict.fromkeys(
                ("value", "exit", "deep"), "failed"
            )
            assert frames[-1].body["event"]["reason"] == "answer"

    asyncio.run(main())


def test_a_full_disk_is_a_503_that_says_so_and_nothing_half_done_is_left(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint(leaks) as endpoint:
            async with serving(tmp_path, models=scripted(endpoint, api_key="k"), quiet=False) as server:
                thread = await server.thread()
                db = server.service.store._writer  # pyright: ignore - the store has no way to fill a disk
                pages = db.execute("PRAGMA page_count").get
                db.execute(f"PRAGMA max_page_count={pages}")
                body = {"content": "x" * 200_000}
                for path in (f"/api/threads/{thread}/messages", "/api/messages"):
                    for headers in ({}, SSE):
                        status, answer = await server.call("POST", path, json=body, headers=headers)
                        assert status == 503, answer
                        assert "disk" in answer["error"]["message"]
                stream = await server.agent_chat("x" * 200_000)
                assert stream.status == 503
                db.execute("PRAGMA max_page_count=1000000")
                assert (await server.say(thread, "again"))[-1].body["event"]["reason"] == "answer"
                status, page = await server.call("GET", f"/api/threads/{thread}/events")
                assert [event["event"]["type"] for event in page["events"]].count("run_started") == 1
                assert [each["id"] for each in (await server.call("GET", "/api/threads"))[1]["threads"]] == [thread]

    asyncio.run(main())


def test_a_run_that_a_full_disk_stopped_goes_on_by_itself_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "HEARTBEAT", 0.05)

    async def main() -> None:
        gate = asyncio.Event()
        slow = Reply([chunk(content="x" * 200_000), gate, *ending()])
        async with (
            Endpoint([slow, text("in time")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), quiet=False) as server,
        ):
            thread = await server.thread()
            run = await server.start(thread, "x")
            await endpoint.request(0)
            db = server.service.store._writer  # pyright: ignore - the store has no way to fill a disk
            db.execute(f"PRAGMA max_page_count={db.execute('PRAGMA page_count').get}")
            gate.set()
            async with asyncio.timeout(10):
                while not server.service.orphaned:
                    await asyncio.sleep(0)
            db.execute("PRAGMA max_page_count=1000000")
            stream = await server.follow(thread, str(run - 1), run)
            assert (await stream.until("run_ended"))[-1].body["event"] == {"type": "run_ended", "reason": "answer"}

    asyncio.run(main())


def test_threads_are_independent_of_a_model_whose_key_variable_is_missing(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("ok"), text("Final Answer: ok")]) as endpoint:
            models = {**scripted(endpoint, "good"), **scripted(endpoint, "bad", api_key_env="NOT_SET_ANYWHERE")}
            async with serving(tmp_path, models=models) as server:
                status, body = await server.call("GET", "/api/models")
                assert (status, [each["name"] for each in body["models"]]) == (200, ["good", "bad", "offline"])
                thread = await server.thread()
                for path in (f"/api/threads/{thread}/messages", "/api/messages"):
                    status, body = await server.call("POST", path, json={"content": "x", "model": "bad"})
                    assert status == 503
                    assert "NOT_SET_ANYWHERE" in body["error"]["message"]
                stream = await server.agent_chat("x", model_name="bad")
                assert stream.status == 503
                assert b"NOT_SET_ANYWHERE" in await stream.content()
                assert (await server.say(thread, "x"))[-1].body["event"]["reason"] == "answer"
                stream = await server.agent_chat("x", model_name="good")
                assert (await stream.rest())[-1].body == {"final_answer": "ok"}
                assert len((await server.call("GET", "/api/threads"))[1]["threads"]) == 2

    asyncio.run(main())


def test_a_run_whose_model_is_gone_from_the_settings_ends_with_the_cause(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([Reply([chunk(content="x"), asyncio.Event(), *ending()])]) as endpoint:
            async with serving(tmp_path, models=scripted(endpoint)) as server:
                thread = await server.thread()
                stream = await server.stream("POST", f"/api/threads/{thread}/messages", {"content": "x"})
                await stream.until("text_delta")
        async with serving(tmp_path) as server:
            end = (await server.ended(thread, 1))[-1].body["event"]
            assert (end["reason"], end["cause"]) == ("failed", "config")
            assert "'m'" in end["detail"]
            assert (await server.say(thread, "what is 2+2?"))[-1].body["event"]["reason"] == "answer"

    asyncio.run(main())


class Listening(trace.TracerProvider):
    """What a process has whose environment sets OpenTelemetry up; keeps who asked it for a tracer."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def get_tracer(self, instrumenting_module_name: str, *_: object, **__: object) -> trace.Tracer:
        self.asked.append(instrumenting_module_name)
        return trace.NoOpTracer()


def test_the_framework_sends_nothing_of_a_request_to_anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Listening()
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)

    async def main() -> None:
        async with serving(tmp_path) as server:
            assert (await server.call("GET", "/health"))[0] == 200

    asyncio.run(main())
    assert provider.asked == []
