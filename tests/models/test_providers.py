"""The adapter over pydantic-ai, against endpoints that speak vendors' protocols: replies and requests."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import msgspec
import pytest

from stepwell.messages import Image, Message, ToolCall, ToolSpec, ToolSpecs, Transcript, Usage
from stepwell.models.base import CallPart, Delta, ModelProfile, ModelRequest, Settings
from stepwell.models.providers import ProviderModel, provider_model
from stepwell.models.retries import Retries
from tests.support import anthropic
from tests.support.asking import KEY, asked, collect, joined
from tests.support.endpoint import DONE, Endpoint, Reply, Request, call_chunk, chunk, stream, usage_field

PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
TOOL = ToolSpec("calculate", "Computes.", {"type": "object", "properties": {"x": {"type": "string"}}})
NOW = ToolSpec("now", "Tells the time.", {"type": "object", "properties": {}})
HI = stream(anthropic.opening(), *anthropic.said(0, "Hi"), *anthropic.closing())


def model_at(endpoint: Endpoint, vendor: str = "anthropic", **options: Any) -> ProviderModel:
    given: dict[str, Any] = {"api_key": KEY, "retries": Retries(attempts=3, base=0.0), **options}
    url = endpoint.base_url.removesuffix("/v1")
    return provider_model(vendor, "claude-x", base_url=url, **given)


def asks(request: ModelRequest, *replies: Reply, **options: Any) -> tuple[list[Delta], list[Request]]:
    """Ask an endpoint with these replies once; return the deltas and the requests that came."""

    async def main() -> tuple[list[Delta], list[Request]]:
        async with Endpoint(replies) as endpoint:
            model = model_at(endpoint, **options)
            try:
                return await collect(model, request), endpoint.requests
            finally:
                await model.close()

    return asyncio.run(main())


def sent(request: ModelRequest, **options: Any) -> dict[str, Any]:
    deltas, [came] = asks(request, HI, **options)
    assert joined(deltas) == "Hi"
    return came.body


# Anthropic


def test_thinking_text_and_a_call_of_one_reply_come_in_order() -> None:
    pieces = (
        anthropic.opening(12, 4),
        *anthropic.thought(0, "Hm", "m."),
        *anthropic.said(1, "Let me ", "see."),
        *anthropic.called(2, "toolu_1", "calculate", "", '{"x":', '"17*23"}'),
        *anthropic.closing("tool_use", 30),
    )
    deltas, _ = asks(asked(tools=ToolSpecs([TOOL])), stream(*pieces))
    bare = [*deltas[:-1], msgspec.structs.replace(deltas[-1], signed="")]
    assert deltas[-1].signed
    assert bare == [
        Delta(thinking="Hm"),
        Delta(thinking="m."),
        Delta("Let me "),
        Delta("see."),
        Delta(calls=(CallPart(0, "toolu_1", "calculate"),)),
        Delta(calls=(CallPart(0, arguments='{"x":'),)),
        Delta(calls=(CallPart(0, arguments='"17*23"}'),)),
        Delta(usage=Usage(16, 30, 4), stop="tool_calls"),
    ]


def test_a_request_has_the_key_the_model_and_the_settings() -> None:
    settings = Settings(0.5, 100, ("END",), "calculate", None, {"top_p": 0.9, "parallel_tool_calls": False})
    _, [came] = asks(asked(settings=settings, tools=ToolSpecs([TOOL, NOW])), HI)
    assert came.path.partition("?")[0] == "/v1/messages"
    assert KEY in came.headers.get("x-api-key", came.headers.get("authorization", ""))
    assert came.body["stream"] is True
    assert came.body["model"] == "claude-x"
    assert (came.body["temperature"], came.body["top_p"], came.body["max_tokens"]) == (0.5, 0.9, 100)
    assert came.body["stop_sequences"] == ["END"]
    assert came.body["tool_choice"] == {"type": "tool", "name": "calculate", "disable_parallel_tool_use": True}
    tool = came.body["tools"][0]
    assert (tool["name"], tool["description"], tool["input_schema"]) == ("calculate", "Computes.", TOOL.parameters)


def test_a_request_can_name_another_model() -> None:
    assert sent(asked(model="claude-y"))["model"] == "claude-y"


def test_a_temperature_is_left_out_where_the_family_takes_none() -> None:
    profile = ModelProfile(temperature=False)
    assert "temperature" not in sent(asked(settings=Settings(temperature=0.5)), profile=profile)


def test_what_stands_between_two_replies_is_one_message() -> None:
    calls = ToolCall("toolu_1", "calculate", '{"x":"17*23"}'), ToolCall("toolu_2", "calculate", "17*23")
    messages = (
        Message("system", "You compute."),
        Message("user", "How much?", (Image(PIXEL),)),
        Message("assistant", "Let me see.", thinking="Hm.", calls=calls),
        Message("tool", "391", call="toolu_1"),
        Message("tool", "No JSON.", call="toolu_2"),
        Message("user", "Well?"),
    )
    body = sent(ModelRequest(Transcript(messages), ToolSpecs([TOOL])), profile=ModelProfile(images=True))
    assert "You compute." in json.dumps(body["system"])
    question, reply, results = body["messages"]
    assert [part["type"] for part in question["content"]] == ["text", "image"]
    assert question["content"][1]["source"]["media_type"] == "image/png"
    assert [part["type"] for part in reply["content"]] == ["text", "tool_use", "tool_use"]
    assert [part["input"] for part in reply["content"][1:]] == [{"x": "17*23"}, {"_invalid": "17*23"}]
    assert [part["type"] for part in results["content"]] == ["tool_result", "tool_result", "text"]
    assert [part.get("tool_use_id") for part in results["content"]] == ["toolu_1", "toolu_2", None]
    assert "Hm." not in json.dumps(body)


def test_names_and_ids_of_past_calls_are_sent_as_every_vendor_takes_them() -> None:
    calls = ToolCall("functions.a:0", "wind.of the 茶", "{}"), ToolCall("c" * 60, "", "{}")
    results = (Message("tool", "unknown", call=call.id) for call in calls)
    messages = Message("user", "Hello?"), Message("assistant", calls=calls), *results
    body = sent(ModelRequest(Transcript(messages), ToolSpecs([TOOL])))
    used = [(part["name"], part["id"]) for part in body["messages"][1]["content"]]
    assert [name for name, _ in used] == ["wind_of_the__", "_"]
    assert all(re.fullmatch("[a-zA-Z0-9_-]{1,40}", id) for _, id in used)
    assert [part["tool_use_id"] for part in body["messages"][2]["content"]] == [id for _, id in used]


def test_signed_thinking_goes_back_with_the_results_of_its_calls() -> None:
    called = anthropic.called(1, "toolu_1", "calculate", '{"x":"17*23"}')
    reply = stream(anthropic.opening(), *anthropic.thought(0, "Hm."), *called, *anthropic.closing("tool_use"))

    def results(arguments: str, signed: str) -> ModelRequest:
        calls = (ToolCall("toolu_1", "calculate", arguments),)
        said = Message("assistant", thinking="Hm.", calls=calls, signed=signed)
        messages = said, Message("tool", "391", call="toolu_1")
        return ModelRequest(Transcript([Message("user", "Hello?"), *messages]), ToolSpecs([TOOL]))

    async def main() -> list[list[str]]:
        async with Endpoint([reply, HI, HI, HI]) as endpoint:
            first, other = model_at(endpoint), model_at(endpoint)
            signed = (await collect(first))[-1].signed
            await collect(other, results('{"x":"17*23"}', signed))
            await collect(first, results('{"x":"cut"}', signed))
            await collect(first, results('{"x":"17*23"}', "[]"))
            await first.close()
            await other.close()
            return [[part["type"] for part in came.body["messages"][1]["content"]] for came in endpoint.requests[1:]]

    assert asyncio.run(main()) == [["thinking", "tool_use"], ["tool_use"], ["tool_use"]]


def test_images_of_a_result_are_shown() -> None:
    calls = (ToolCall("toolu_1", "look", "{}"),)
    messages = (
        Message("user", "Look."),
        Message("assistant", calls=calls),
        Message("tool", "here", (Image(PIXEL),), call="toolu_1"),
    )
    body = sent(ModelRequest(Transcript(messages)), profile=ModelProfile(images=True))
    assert [part["type"] for part in body["messages"][-1]["content"][0]["content"]] == ["text", "image"]


def test_a_model_that_does_not_see_is_told_how_many_images_there_are() -> None:
    body = sent(ModelRequest(Transcript([Message("user", "Look.", (Image(PIXEL), Image(PIXEL)))])))
    assert "2 image(s), not shown" in json.dumps(body)
    assert "base64" not in json.dumps(body)


def test_an_image_by_address_is_left_to_a_vendor_that_fetches_it_itself() -> None:
    image = Image("https://example.org/cat.png")
    body = sent(ModelRequest(Transcript([Message("user", "Look.", (image,))])), profile=ModelProfile(images=True))
    assert body["messages"][0]["content"][1]["source"] == {"type": "url", "url": image.url}


def test_an_image_in_unusual_spelling_is_sent_as_its_bytes() -> None:
    image = Image(PIXEL.replace("data:image/png", "DATA:IMAGE/PNG;charset=utf-8"))
    body = sent(ModelRequest(Transcript([Message("user", "Look.", (image,))])), profile=ModelProfile(images=True))
    assert body["messages"][0]["content"][1]["source"]["media_type"] == "image/png"


def test_an_image_that_cannot_be_read_does_not_spoil_a_thread() -> None:
    message = Message("user", "Look.", (Image(PIXEL + "A"), Image(PIXEL)))
    body = sent(ModelRequest(Transcript([message])), profile=ModelProfile(images=True))
    told, image = body["messages"][0]["content"]
    assert told["text"] == "Look.\n[1 image(s), not shown: it cannot be read]"
    assert image["type"] == "image"


SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "title": "person"}


@pytest.mark.parametrize("form", [SCHEMA, {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}])
def test_the_form_of_a_reply_is_sent_as_a_schema(form: dict[str, Any]) -> None:
    body = sent(asked(model="claude-sonnet-4-6", settings=Settings(response_format=form)))
    assert body["output_config"]["format"]["schema"]["properties"] == SCHEMA["properties"]


def test_the_form_of_a_reply_stands_in_the_prompt_of_a_model_that_takes_no_schema() -> None:
    body = sent(asked(settings=Settings(response_format={"type": "json_object"})))
    assert '{"type": "object"' in body["system"][0]["text"]
    assert "system" not in sent(asked(settings=Settings(response_format={"type": "text"})))


def test_text_that_no_wire_carries_is_cleaned() -> None:
    body = sent(asked("a\0b\ud800c"))
    assert "a\ufffdb\ufffdc" in json.dumps(body, ensure_ascii=False)


def test_one_model_serves_several_event_loops() -> None:
    async def main(model: ProviderModel) -> None:
        assert joined(await collect(model)) == "Hi"
        await model.close()

    async def together() -> None:
        async with Endpoint([HI, HI]) as endpoint:
            model = model_at(endpoint)
            await main(model)
            await asyncio.to_thread(lambda: asyncio.run(main(model)))

    asyncio.run(together())


# Gemini


def told(*parts: dict[str, Any], **more: Any) -> bytes:
    """Return one event of `streamGenerateContent`."""
    candidate = {"index": 0, "content": {"role": "model", "parts": list(parts)}}
    if "finish" in more:
        candidate["finishReason"] = more.pop("finish")
    return b"data: " + json.dumps({"candidates": [candidate], "modelVersion": "gemini", **more}).encode() + b"\n\n"


def test_gemini_thinks_speaks_and_calls() -> None:
    used = {"promptTokenCount": 12, "candidatesTokenCount": 5, "totalTokenCount": 17, "cachedContentTokenCount": 4}
    call = {"functionCall": {"name": "calculate", "args": {"x": "17*23"}}}
    events = (
        told({"text": "Hm.", "thought": True}),
        told({"text": "Let me "}),
        told({"text": "see."}),
        told(call, finish="STOP", usageMetadata=used),
    )
    request = ModelRequest(Transcript([Message("user", "How much?")]), ToolSpecs([TOOL]), model="gemini-2.5-flash")
    deltas, [came] = asks(request, stream(*events), vendor="google")
    assert came.path == "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    assert came.headers["x-goog-api-key"] == KEY
    assert "".join(delta.thinking for delta in deltas) == "Hm."
    assert joined(deltas) == "Let me see."
    [part] = [part for delta in deltas for part in delta.calls]
    assert part.id
    assert (part.index, part.name, json.loads(part.arguments)) == (0, "calculate", {"x": "17*23"})
    assert deltas[-1] == Delta(usage=Usage(12, 5, 4), stop="tool_calls")


def test_nobody_here_fetches_an_image_for_gemini() -> None:
    fetched: list[str] = []

    async def noted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fetched.append(str(await reader.readline()))
        writer.close()

    async def main() -> dict[str, Any]:
        server = await asyncio.start_server(noted, "127.0.0.1", 0)
        async with server, Endpoint([stream(told({"text": "Hi"}, finish="STOP"))]) as endpoint:
            image = Image(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/cat.png", "high")
            shown = Image(PIXEL, "high")
            calls = (ToolCall("1", "look", "{}"),)
            messages = (
                Message("user", "Look.", (image, shown)),
                Message("assistant", calls=calls),
                Message("tool", "here", (image,), call="1"),
            )
            model = model_at(endpoint, vendor="google", profile=ModelProfile(images=True))
            assert joined(await collect(model, ModelRequest(Transcript(messages), model="gemini-2.5-flash"))) == "Hi"
            await model.close()
            return endpoint.requests[0].body

    body = asyncio.run(main())
    assert not fetched
    assert [list(part) for part in body["contents"][0]["parts"]] == [["text"], ["inlineData"]]
    assert json.dumps(body).count("1 image(s), not shown: given by address") == 2
    assert "cat.png" not in json.dumps(body)


# Mistral


def test_mistral_speaks_and_calls() -> None:
    reply = stream(
        chunk(role="assistant", content="Let me "),
        chunk(content="see."),
        call_chunk(0, "abcdefghi", "calculate", '{"x":'),
        call_chunk(0, None, "", '"17*23"}'),
        chunk("tool_calls", content="") | {"usage": usage_field(12, 5)},
        DONE,
    )
    deltas, [came] = asks(asked(tools=ToolSpecs([TOOL])), reply, vendor="mistral")
    assert came.path.startswith("/v1/chat/completions")
    assert came.headers["authorization"] == f"Bearer {KEY}"
    assert deltas == [
        Delta("Let me "),
        Delta("see."),
        Delta(calls=(CallPart(0, "abcdefghi", "calculate", '{"x":'),)),
        Delta(calls=(CallPart(0, arguments='"17*23"}'),)),
        Delta(usage=Usage(12, 5), stop="tool_calls"),
    ]


def test_ids_of_another_endpoint_are_sent_to_mistral_in_its_form() -> None:
    called = Message("assistant", calls=(ToolCall("call_1", "calculate", "{}"),))
    messages = Message("user", "Hello?"), called, Message("tool", "1", call="call_1")
    request = ModelRequest(Transcript(messages), ToolSpecs([TOOL]))
    profile = ModelProfile(call_ids=9)
    reply = stream(chunk("stop", content="Hi") | {"usage": usage_field(1, 1)}, DONE)
    _, [came] = asks(request, reply, vendor="mistral", profile=profile)
    call, result = came.body["messages"][1:3]
    assert re.fullmatch("[a-zA-Z0-9]{9}", call["tool_calls"][0]["id"])
    assert result["tool_call_id"] == call["tool_calls"][0]["id"]
