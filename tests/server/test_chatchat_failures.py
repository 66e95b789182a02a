"""Whatever goes wrong behind `POST /chat/agent_chat`, its stream ends with one final answer that names the cause."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.endpoint import DONE, Cut, Endpoint, Reply, chunk, document, ending, error, text, whole
from tests.support.server import Server, scripted, serving

THOUGHT = "I look.\nFinal Answer: half of"
FAILURES: dict[str, tuple[Reply, str]] = {
    "a key that is not known": (error(401, "this key is not known"), "this key is not known"),
    "a forbidden model": (error(403, "not for you"), "not for you"),
    "a model that is not there": (error(404, "no such model m"), "no such model m"),
    "a request that is refused": (error(400, "the messages are not supported"), "the messages are not supported"),
    "a full context": (error(400, "maximum context length is 4096 tokens"), "4096 tokens"),
    "too many requests": (error(429, "slow down"), "slow down"),
    "too many requests, far too long to wait": (error(429, "come back", headers={"retry-after": "900"}), "come back"),
    "a broken endpoint": (error(500, "it broke"), "it broke"),
    "an overloaded endpoint": (error(529, "overloaded"), "overloaded"),
    "a redirect": (document({}, 302, {"location": "http://elsewhere.test/v1"}), "http://elsewhere.test/v1"),
    "a web page": (document(b"<html><title>Sign in</title>", headers={"content-type": "text/html"}), "web page"),
    "an error inside a success": (document({"error": {"message": "quota is used up"}}), "quota is used up"),
    "an error inside the stream": (
        Reply([chunk(content=THOUGHT), b'data: {"error": {"message": "the worker died"}}\n\n']),
        "the worker died",
    ),
    "nothing at all": (Reply([], framing="close"), "sent an empty reply"),
    "an empty success": (document(b""), "sent an empty reply"),
    "a connection reset at once": (Reply([Cut.RESET]), "connection to the endpoint broke"),
    "a connection reset inside the answer": (
        Reply([chunk(content=THOUGHT), Cut.RESET]),
        "connection to the endpoint broke",
    ),
    "a connection closed inside the answer": (
        Reply([chunk(content=THOUGHT), Cut.DROP]),
        "connection to the endpoint broke",
    ),
    "half an event": (Reply([chunk(content=THOUGHT), b'data: {"choi'], framing="close"), "cut inside a line"),
    "no end": (Reply([chunk(content=THOUGHT), DONE]), "without a finish reason"),
    "silence before the first byte": (Reply([Cut.STALL]), "sent nothing for 0.2 s"),
    "silence inside the answer": (Reply([chunk(content=THOUGHT), Cut.STALL]), "sent nothing for 0.2 s"),
    "what is no JSON": (Reply([chunk(content=THOUGHT), b"data: <oops>\n\n", *ending()]), "no JSON"),
    "a filter": (text("I look.\nFinal Answer: withheld", finish="content_filter"), "内容过滤器"),
}


def models(endpoint: Endpoint, **more: Any) -> dict[str, Any]:
    return scripted(endpoint, attempts=1, stall_timeout=0.2, **more)


async def ask(server: Server, *, stream: bool) -> list[dict[str, Any]]:
    response = await server.agent_chat("hi", stream=stream)
    assert response.status == 200
    return [frame.body for frame in await response.rest()]


def ends_once(events: list[dict[str, Any]]) -> str:
    """Return the final answer, which is the last event and the only one of its kind."""
    assert [index for index, event in enumerate(events) if "final_answer" in event] == [len(events) - 1]
    return events[-1]["final_answer"]


@pytest.mark.parametrize("name", FAILURES)
def test_a_failing_model_ends_in_a_final_answer_that_names_the_cause(tmp_path: Path, name: str) -> None:
    reply, cause = FAILURES[name]

    async def main() -> None:
        async with Endpoint([reply, reply]) as endpoint, serving(tmp_path, models=models(endpoint)) as server:
            for stream in (True, False):
                events = await ask(server, stream=stream)
                final = ends_once(events)
                assert cause in final
                assert final.startswith("模型调用失败：") or name == "a filter"
                if stream:
                    shown = "".join(event.get("answer", "") for event in events)
                    assert shown in ("", THOUGHT, "I look.\nFinal Answer: withheld")
                else:
                    assert [list(event) for event in events] == [["answer", "final_answer"]]

    asyncio.run(main())


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_after_a_tool_blames_the_model_and_not_the_tool(tmp_path: Path, stream: bool) -> None:
    async def main() -> None:
        replies = [text("Action: calculate\nAction Input: 6*7"), error(500, "it broke")]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=models(endpoint)) as server:
            events = await ask(server, stream=stream)
            assert "it broke" in ends_once(events)
            shown = str(events)
            assert ("工具状态: 调用成功" in shown, "工具状态: 调用失败" in shown) == (True, False)

    asyncio.run(main())


def test_nobody_at_the_address_is_said_with_the_address(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

        async def main() -> None:
            settings = {"m": {"base_url": f"http://127.0.0.1:{port}/v1", "attempts": 1}}
            async with serving(tmp_path, models=settings) as server:
                assert f"127.0.0.1:{port}" in ends_once(await ask(server, stream=True))

        asyncio.run(main())


def test_a_failure_that_passes_is_not_seen_by_the_client(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [
            error(429, "slow down", headers={"retry-after-ms": "1"}),
            Reply([Cut.RESET]),
            text("Thought: so\nFinal Answer: ok"),
        ]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            events = await ask(server, stream=True)
            assert ends_once(events) == "ok"
            assert "".join(event.get("answer", "") for event in events) == "so\nFinal Answer: ok"

    asyncio.run(main())


def test_calls_that_cannot_be_read_are_told_to_the_model_three_times_and_then_end_the_run(tmp_path: Path) -> None:
    wrong = text('Action: calculate\nAction Input: {"query": 7}')

    async def main() -> None:
        mended = [wrong, wrong, wrong, text("Final Answer: mended")]
        async with Endpoint(mended) as endpoint, serving(tmp_path, models=models(endpoint)) as server:
            events = await ask(server, stream=True)
            assert ends_once(events) == "mended"
            assert str(events).count("工具状态: 调用失败") == 3
            assert "Not run: the arguments of calculate are wrong" in str(endpoint.requests[1].body["messages"])
        async with Endpoint([wrong] * 4) as endpoint, serving(tmp_path, models=models(endpoint)) as server:
            assert ends_once(await ask(server, stream=True)) == "模型连续 4 次写出无法解析的工具调用。"

    asyncio.run(main())


def test_a_cut_reply_and_an_endpoint_that_does_not_stream_are_answers(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [text("Final Answer: cut sho", finish="length"), whole("Thought: x\nFinal Answer: whole")]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=models(endpoint)) as server:
            assert ends_once(await ask(server, stream=True)) == "cut sho"
            assert ends_once(await ask(server, stream=True)) == "whole"

    asyncio.run(main())


@pytest.mark.parametrize("stream", [True, False])
def test_a_run_out_of_time_ends_with_the_old_text(tmp_path: Path, stream: bool) -> None:
    async def main() -> None:
        reply = Reply([chunk(content="I th"), asyncio.Event()])
        async with (
            Endpoint([reply]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), limits={"seconds": 0.3}) as server,
        ):
            final = ends_once(await ask(server, stream=stream))
            assert final == "Agent stopped due to iteration limit or time limit."

    asyncio.run(main())
