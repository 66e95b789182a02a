"""The adapter for OpenAI-compatible endpoints, against a scripted one: replies and requests when all goes well."""

import asyncio
import re
from typing import Any

import pytest

from stepwell.errors import ConfigError
from stepwell.messages import Message, ToolCall, ToolSpec, ToolSpecs, Transcript, Usage
from stepwell.models.base import CallPart, Delta, ModelProfile, ModelRequest, Settings
from stepwell.models.openai import OpenAIModel
from stepwell.models.profiles import profile_for
from stepwell.models.retries import Timeouts
from tests.support.asking import KEY, asked, asks, collect, joined, model_at
from tests.support.endpoint import Cut, Endpoint, Reply, Request, chunk, ending, error, stream, text, tool_calls, whole

# a reply


@pytest.mark.parametrize("cut", [0, 1, 7])
@pytest.mark.parametrize("together", [False, True])
def test_an_answer_streams_with_thinking_and_usage(cut: int, together: bool) -> None:
    reply = text("Hel", "lo, ", "世界", thinking=["Hm", "m"], tokens_used=(12, 3), cut=cut, together=together)
    deltas, _ = asks(reply)
    assert joined(deltas) == "Hello, 世界"
    assert "".join(delta.thinking for delta in deltas) == "Hmm"
    assert [delta.stop for delta in deltas] == [None] * (len(deltas) - 1) + ["stop"]
    assert [delta.usage for delta in deltas if delta.usage] == [Usage(12, 3)]
    assert all(delta.failure is None for delta in deltas)


def test_all_that_one_read_brings_is_one_delta() -> None:
    deltas, _ = asks(text(*"abcdefgh", together=True))
    assert deltas == [Delta("abcdefgh", stop="stop")]


def test_text_is_given_out_as_it_comes() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with Endpoint([stream(chunk(content="first"), gate, chunk(content=" then"), *ending())]) as endpoint:
            model = model_at(endpoint)
            seen: list[Delta] = []
            async for delta in model.stream(asked()):
                seen.append(delta)
                assert gate.is_set() == (len(seen) > 1)
                gate.set()
            assert seen[0] == Delta("first")
            assert joined(seen) == "first then"
            await model.close()

    asyncio.run(main())


def test_tool_calls_stream_in_pieces() -> None:
    calls = ("c1", "calculate", ['{"expression"', ':"17*23"}']), ("c2", "now", ["{}"])
    deltas, _ = asks(tool_calls(*calls, said="Let me see.", together=True))
    parts = (CallPart(0, "c1", "calculate", '{"expression":"17*23"}'), CallPart(1, "c2", "now", "{}"))
    assert deltas == [Delta("Let me see.", calls=parts, stop="tool_calls")]


SIGNED = {"google": {"thought_signature": "c2lnbmVk"}}


def signed_calls(*extras: object) -> Reply:
    calls = [
        {"index": 0, "id": f"c{at}", "function": {"name": "f", "arguments": "{}"}, "extra_content": extra}
        for at, extra in enumerate(extras)
    ]
    return stream(chunk(tool_calls=calls), *ending("tool_calls"))


def test_what_gemini_signs_of_a_call_goes_back_with_it_and_to_nobody_else() -> None:
    async def main() -> None:
        async with Endpoint([signed_calls(SIGNED, None), *[text("Hi")] * 4]) as endpoint:
            gemini = model_at(endpoint, profile=profile_for("gemini-3-pro"))
            signed = (await collect(gemini))[-1].signed
            calls = ToolCall("c0", "f", "{}"), ToolCall("c1", "f", "{}")

            async def sent(model: OpenAIModel, **message: Any) -> list[object]:
                said = Message("assistant", **{"calls": calls, "signed": signed, **message})
                results = (Message("tool", "x", call=call.id) for call in said.calls)
                await collect(model, ModelRequest(Transcript([Message("user", "?"), said, *results])))
                return [call.get("extra_content") for call in endpoint.requests[-1].body["messages"][1]["tool_calls"]]

            assert await sent(gemini) == [SIGNED, None]
            assert await sent(gemini, calls=calls[:1]) == [None]
            assert await sent(gemini, signed='[{"parts": []}]') == [None, None]
            other = model_at(endpoint)
            assert await sent(other) == [None, None]
            await gemini.close()
            await other.close()

    asyncio.run(main())


def test_a_reply_without_anything_signed_is_not_signed() -> None:
    deltas, _ = asks(signed_calls(None, {}))
    assert deltas[-1].signed == ""
    deltas, _ = asks(signed_calls({"x": "y" * 300_000}))
    assert deltas[-1].signed == ""


def test_an_empty_reply_with_a_finish_reason_is_not_retried() -> None:
    deltas, requests = asks(text())
    assert deltas == [Delta(stop="stop")]
    assert len(requests) == 1


def test_a_completion_that_is_not_streamed_is_a_reply() -> None:
    deltas, _ = asks(whole("Hello", tokens_used=(4, 2)))
    assert deltas == [Delta("Hello", usage=Usage(4, 2), stop="stop")]


def test_a_stream_labelled_as_json_and_the_other_way_round_are_read_as_what_they_are() -> None:
    for reply, headers in ((text("Hi"), {"content-type": "application/json"}), (whole("Hi"), {})):
        deltas, _ = asks(Reply(reply.pieces, headers=headers, framing=reply.framing))
        assert (joined(deltas), deltas[-1].stop) == ("Hi", "stop")


def test_a_stream_without_done_ends_with_its_connection() -> None:
    deltas, _ = asks(Reply([chunk(content="Hi"), chunk("stop")], framing="close"))
    assert (joined(deltas), deltas[-1].stop) == ("Hi", "stop")


def test_a_stream_that_stays_open_after_its_finish_reason_is_over_soon() -> None:
    deltas, requests = asks(stream(chunk(content="Hi"), chunk("stop"), Cut.STALL), timeouts=Timeouts(finish=0.05))
    assert (joined(deltas), deltas[-1].stop) == ("Hi", "stop")
    assert len(requests) == 1


def test_a_connection_that_breaks_after_the_finish_reason_breaks_no_reply() -> None:
    for cut in (Cut.DROP, Cut.RESET):
        deltas, _ = asks(stream(chunk("stop", content="Hi"), cut))
        assert (joined(deltas), deltas[-1].stop, deltas[-1].failure) == ("Hi", "stop", None)


# a request


def test_a_request_has_the_form_of_the_protocol() -> None:
    async def main() -> None:
        async with Endpoint([text("Hi")]) as endpoint:
            model = model_at(endpoint, headers={"X-Title": "tests", "User-Agent": "mine"})
            tools = ToolSpecs([ToolSpec("f", "Does it.", {"type": "object"})])
            messages = Transcript([Message("system", "Be brief."), Message("user", "Hello?")])
            await collect(model, ModelRequest(messages, tools, Settings(temperature=0.5)))
            request = endpoint.requests[0]
            assert (request.method, request.path) == ("POST", "/v1/chat/completions")
            assert request.headers["authorization"] == f"Bearer {KEY}"
            assert request.headers["content-type"] == "application/json"
            assert (request.headers["x-title"], request.headers["user-agent"]) == ("tests", "mine")
            function = {"name": "f", "description": "Does it.", "parameters": {"type": "object"}}
            assert request.body == {
                "model": "m",
                "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}],
                "tools": [{"type": "function", "function": function}],
                "stream": True,
                "stream_options": {"include_usage": True},
                "temperature": 0.5,
            }
            await model.close()

    asyncio.run(main())


def test_without_key_tools_and_messages_a_request_is_still_valid() -> None:
    async def main() -> None:
        async with Endpoint([text("Hi")]) as endpoint:
            model = model_at(endpoint, api_key="", profile=ModelProfile(usage_in_stream=False))
            await collect(model, ModelRequest(Transcript(), model="another"))
            assert endpoint.requests[0].body == {"model": "another", "messages": [], "stream": True}
            assert "authorization" not in endpoint.requests[0].headers
            await model.close()

    asyncio.run(main())


def test_a_grown_conversation_keeps_the_bytes_of_its_start() -> None:
    async def main() -> None:
        async with Endpoint([text("One"), text("Two")]) as endpoint:
            model = model_at(endpoint)
            messages = Transcript([Message("user", "1")])
            await collect(model, ModelRequest(messages))
            messages.append(Message("assistant", "One"))
            await collect(model, ModelRequest(messages))
            first, second = (request.raw.split(b"]")[0] for request in endpoint.requests)
            assert second == first + b',{"role":"assistant","content":"One"}'
            await model.close()

    asyncio.run(main())


def test_tools_in_extra_replace_the_requests_own() -> None:
    async def main() -> None:
        async with Endpoint([text("Hi")]) as endpoint:
            model = model_at(endpoint)
            tools = ToolSpecs([ToolSpec("f", "", {"type": "object"})])
            own = [{"type": "web_search"}]
            await collect(model, ModelRequest(Transcript(), tools, Settings(extra={"tools": own})))
            assert endpoint.requests[0].body["tools"] == own
            assert endpoint.requests[0].raw.count(b'"tools"') == 1
            await model.close()

    asyncio.run(main())


def test_a_request_of_megabytes_arrives_whole() -> None:
    async def main() -> None:
        async with Endpoint([error(503, "again"), text("Hi")]) as endpoint:
            model = model_at(endpoint)
            await collect(model, asked("x" * 3_000_000))
            assert [len(request.body["messages"][0]["content"]) for request in endpoint.requests] == [3_000_000] * 2
            await model.close()

    asyncio.run(main())


@pytest.mark.parametrize("base", ["{}", "{}/", "{}/chat/completions", " {} "])
def test_the_address_may_be_written_in_several_ways(base: str) -> None:
    async def main() -> None:
        async with Endpoint([text("Hi")]) as endpoint:
            model = OpenAIModel(base.format(endpoint.base_url), "m")
            await collect(model)
            assert endpoint.requests[0].path == "/v1/chat/completions"
            await model.close()

    asyncio.run(main())


def test_an_escaped_slash_in_the_address_stays_one() -> None:
    async def main() -> None:
        async with Endpoint([text("Hi")]) as endpoint:
            model = OpenAIModel(endpoint.base_url + "/a%2Fb/", "m")
            assert joined(await collect(model)) == "Hi"
            assert endpoint.requests[0].path == "/v1/a%2Fb/chat/completions"
            await model.close()

    asyncio.run(main())


def test_white_space_round_a_key_is_no_part_of_it() -> None:
    deltas, [request] = asks(text("Hi"), api_key=f" {KEY}\n")
    assert joined(deltas) == "Hi"
    assert request.headers["authorization"] == f"Bearer {KEY}"


def test_a_query_in_the_address_is_kept() -> None:
    async def main() -> None:
        async with Endpoint([text("Hi")]) as endpoint:
            model = OpenAIModel(f"{endpoint.base_url}/?api-version=2024-10-21", "m")
            await collect(model)
            assert endpoint.requests[0].path == "/v1/chat/completions?api-version=2024-10-21"
            await model.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "base", ["", "localhost:8000/v1", "ftp://host/v1", "http://", "http://host:port/v1", "http://[::1"]
)
def test_an_address_that_is_none_is_refused_at_once(base: str) -> None:
    with pytest.raises(ConfigError, match=f"base_url {re.escape(repr(base))} is no http address"):
        OpenAIModel(base, "m")


def test_a_wrong_address_with_a_password_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match=r"^base_url is no http address"):
        OpenAIModel("http://user:secret@host:port/v1", "m")


# connections


async def exchange_beside() -> None:
    """Have an exchange with another endpoint: what was on its way before has then arrived."""
    async with Endpoint([text("Beside")]) as other:
        beside = model_at(other)
        await collect(beside)
        await beside.close()


def test_connections_are_used_again() -> None:
    async def main() -> None:
        async with Endpoint([text("One"), text("Two", together=True), error(400, "no"), whole("Four")]) as endpoint:
            model = model_at(endpoint)
            for _ in range(4):
                await collect(model)
                await endpoint.requests[-1].answered.wait()
                await exchange_beside()
            assert endpoint.connections == 1
            await model.close()
            await endpoint.all_closed()

    asyncio.run(main())


def test_a_connection_whose_last_bytes_are_late_is_used_again() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with Endpoint([stream(chunk("stop", content="One"), *ending(), gate), text("Two")]) as endpoint:
            model = model_at(endpoint)
            assert joined(await collect(model)) == "One"
            gate.set()
            await endpoint.requests[0].answered.wait()
            await exchange_beside()
            assert joined(await collect(model)) == "Two"
            assert endpoint.connections == 1
            await model.close()

    asyncio.run(main())


@pytest.mark.parametrize("close", [True, False])
def test_a_connection_whose_last_bytes_never_come_is_closed(close: bool) -> None:
    async def main() -> None:
        async with Endpoint([stream(chunk("stop", content="One"), *ending(), Cut.STALL)]) as endpoint:
            model = model_at(endpoint)
            assert joined(await collect(model)) == "One"
            if close:
                await model.close()
            await endpoint.all_closed()
            await model.close()

    asyncio.run(main())


def test_many_streams_run_at_once_and_keep_apart() -> None:
    async def main() -> None:
        gate, count = asyncio.Event(), 300

        def answer(request: Request) -> Reply:
            name = request.body["messages"][0]["content"]
            return stream(*(chunk(content=f"{name}.{part} ") for part in range(3)), gate, *ending())

        async with Endpoint(answer) as endpoint:
            model = model_at(endpoint)
            asking = [asyncio.create_task(collect(model, asked(str(number)))) for number in range(count)]
            await endpoint.request(count - 1)
            assert endpoint.connections == count
            gate.set()
            for number, deltas in enumerate(await asyncio.gather(*asking)):
                assert joined(deltas) == f"{number}.0 {number}.1 {number}.2 "
            await model.close()

    asyncio.run(main())


def test_a_model_can_be_used_in_one_event_loop_after_another() -> None:
    model: list[OpenAIModel] = []

    async def main() -> None:
        async with Endpoint([text("Hi"), text("Hi")]) as endpoint:
            model.append(model_at(endpoint))
            for _ in range(2):
                assert joined(await collect(model[0])) == "Hi"
                await model[0].close()

    async def again(first: OpenAIModel) -> None:
        async with Endpoint([text("Hi")]) as endpoint:
            # The first endpoint is gone; what matters is that nothing of the first loop is in the way.
            assert (await collect(first))[-1].stop == "error"
            second = model_at(endpoint)
            assert joined(await collect(second)) == "Hi"
            await first.close()
            await second.close()

    asyncio.run(main())
    asyncio.run(again(model[0]))


# leaving


@pytest.mark.parametrize("way", ["aclose", "cancel"])
def test_leaving_a_stream_closes_its_socket_at_once(way: str) -> None:
    async def main() -> None:
        async with Endpoint([stream(chunk(content="Hel"), Cut.STALL)]) as endpoint:
            model = model_at(endpoint)
            deltas = model.stream(asked())
            assert (await anext(deltas)).text == "Hel"
            if way == "aclose":
                await deltas.aclose()
            else:
                waiting = asyncio.ensure_future(anext(deltas))
                await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            async with asyncio.timeout(1):
                await endpoint.requests[0].dropped.wait()
            await model.close()

    asyncio.run(main())


def test_cancelling_before_the_first_byte_closes_the_socket_too() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def never(request: Request) -> Reply:
            await gate.wait()
            return text("too late")

        async with Endpoint(never) as endpoint:
            model = model_at(endpoint)
            asking = asyncio.create_task(collect(model))
            await endpoint.request(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            gate.set()
            async with asyncio.timeout(1):
                await endpoint.requests[0].dropped.wait()
            await model.close()

    asyncio.run(main())
