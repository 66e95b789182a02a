"""Requests on the wire: what messages, tools and settings become."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.messages import Image, Message, ToolCall, ToolSpec, ToolSpecs, Transcript
from stepwell.models.base import ModelProfile, ModelRequest, Settings
from stepwell.models.wire import MessageEncoder, sent_arguments, sent_id, tail_fields, tools_json

PROFILE = ModelProfile()
encode = MessageEncoder(PROFILE)


def wire(message: Message) -> dict[str, Any]:
    return json.loads(encode(message))


def fields(settings: Settings, profile: ModelProfile = PROFILE, tools: ToolSpecs | None = None) -> dict[str, Any]:
    return tail_fields(ModelRequest(Transcript(), tools or ToolSpecs(), settings), profile)


def test_plain_messages() -> None:
    assert wire(Message("system", "Be brief.")) == {"role": "system", "content": "Be brief."}
    assert wire(Message("user", "你好")) == {"role": "user", "content": "你好"}
    assert wire(Message("assistant", "Hi")) == {"role": "assistant", "content": "Hi"}
    assert wire(Message("tool", "391", call="c1")) == {"role": "tool", "tool_call_id": "c1", "content": "391"}


def test_the_system_role_is_the_profiles() -> None:
    developer = MessageEncoder(ModelProfile(system_role="developer"))
    assert json.loads(developer(Message("system", "x")))["role"] == "developer"
    assert json.loads(developer(Message("user", "x")))["role"] == "user"


def test_calls_of_an_assistant_and_null_for_no_text() -> None:
    calls = (ToolCall("c1", "f", '{"a": 1}'), ToolCall("c2", "g"))
    sent = [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    assert wire(Message("assistant", calls=calls)) == {"role": "assistant", "content": None, "tool_calls": sent}
    assert wire(Message("assistant", "Let me see.", calls=calls))["content"] == "Let me see."


def test_a_family_that_wants_it_gets_its_thinking_back_with_its_calls() -> None:
    encode = MessageEncoder(ModelProfile(thinking_back=True))
    called = Message("assistant", thinking="which tool?", calls=(ToolCall("c1", "lookup", '{"key":"k"}'),))
    assert json.loads(encode(called))["reasoning_content"] == "which tool?"
    assert "reasoning_content" not in json.loads(encode(Message("assistant", "x", thinking="y")))


def test_a_temperature_is_left_out_where_the_family_refuses_it() -> None:
    request = ModelRequest(Transcript(), settings=Settings(temperature=0.7))
    assert "temperature" not in tail_fields(request, ModelProfile(temperature=False))
    assert tail_fields(request, ModelProfile())["temperature"] == 0.7


def test_thinking_and_raw_text_are_not_sent_back_unasked() -> None:
    message = Message("assistant", "x", thinking="secret thought", raw="Thought: secret", unmarked=True)
    assert wire(message) == {"role": "assistant", "content": "x"}


SEEING = MessageEncoder(ModelProfile(images=True))


def test_images_are_parts_with_their_detail() -> None:
    images = (Image("https://example.org/a.png", "low"), Image("data:image/png;base64,AA=="))
    parts = [
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]
    for text, content in (("What?", [{"type": "text", "text": "What?"}, *parts]), ("", parts)):
        assert json.loads(SEEING(Message("user", text, images)))["content"] == content


def test_images_of_a_tool_result_follow_in_a_message_of_their_own() -> None:
    image = (Image("data:image/png;base64,AA=="),)
    result, shown = json.loads(b"[" + SEEING(Message("tool", "drawn", image, call="c")) + b"]")
    assert result == {"role": "tool", "tool_call_id": "c", "content": "drawn"}
    assert shown["role"] == "user"
    assert shown["content"][1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def test_a_model_that_does_not_see_is_told_how_many_images_there_are() -> None:
    image = (Image("data:image/png;base64,AA=="),)
    line = "[1 image(s), not shown: this model does not see]"
    for message, content in (
        (Message("tool", "drawn", image, call="c"), f"drawn\n{line}"),
        (Message("tool", "", image, call="c"), line),
        (Message("user", "What?", image), f"What?\n{line}"),
    ):
        assert wire(message)["content"] == content


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("f-1_X", "f-1_X"),
        ("", "_"),
        ("weather.of the 茶", "weather_of_the__"),
        ("$READ", "_READ"),
        ("n" * 99, "n" * 64),
    ],
)
def test_a_name_that_a_model_made_up_does_not_spoil_the_thread(name: str, sent: str) -> None:
    calls = wire(Message("assistant", calls=(ToolCall("c1", name),)))["tool_calls"]
    assert calls[0]["function"]["name"] == sent


IDS = [
    "call_1",
    "c" * 40,
    "c" * 41,
    "chatcmpl-tool-" + "0" * 32,
    "functions.search:0",
    "a b",
    "茶",
    "\ud800",
    "Ab3dE6gH9",
    "",
]


@pytest.mark.parametrize("id", IDS)
def test_an_id_of_another_endpoint_is_sent_in_a_form_that_this_one_takes(id: str) -> None:
    for profile, form in ((PROFILE, r"[a-zA-Z0-9_-]{1,40}"), (ModelProfile(call_ids=9), r"[a-zA-Z0-9]{9}")):
        encode = MessageEncoder(profile)
        called = json.loads(encode(Message("assistant", calls=(ToolCall(id, "f"),))))["tool_calls"][0]["id"]
        assert re.fullmatch(form, called)
        assert json.loads(encode(Message("tool", "x", call=id)))["tool_call_id"] == called
        assert called == id or not re.fullmatch(form, id)
    assert sent_id(id, 0) == id


def test_ids_stay_apart() -> None:
    assert len({sent_id(f"call_{number}_{'x' * 40}", 9) for number in range(1000)}) == 1000


ARGUMENTS = [
    ("", "{}"),
    ("  \n", "{}"),
    ("{}", "{}"),
    ('{ "a":  1 }', '{ "a":  1 }'),
    ("[1]", '{"_invalid":"[1]"}'),
    ("null", '{"_invalid":"null"}'),
    ("17*23", '{"_invalid":"17*23"}'),
    ('{"a": NaN}', r'{"_invalid":"{\"a\": NaN}"}'),
    ('{"a":1}{"b":2}', r'{"_invalid":"{\"a\":1}{\"b\":2}"}'),
    ('{"a": "cut', r'{"_invalid":"{\"a\": \"cut"}'),
    ('"\ud800\0"', '{"_invalid":"\\"\ufffd\ufffd\\""}'),
]


@pytest.mark.parametrize(("written", "sent"), ARGUMENTS)
def test_arguments_of_past_calls_are_sent_as_an_object(written: str, sent: str) -> None:
    assert sent_arguments(written) == sent


def test_deeply_nested_arguments_are_sent_as_text() -> None:
    deep = '{"a":' + "[" * 200_000 + "]" * 200_000 + "}"
    assert json.loads(sent_arguments(deep)) == {"_invalid": deep}


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_can_be_sent(text: str) -> None:
    message = Message("assistant", text, calls=(ToolCall(text, text, text),))
    sent = json.loads(encode(message))
    assert isinstance(json.loads(sent["tool_calls"][0]["function"]["arguments"]), dict)
    if text.isprintable() and text:
        assert sent["content"] == text
    else:
        assert "\0" not in (sent["content"] or "")


def test_tools_are_functions() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    tools = ToolSpecs([ToolSpec("f", "Does it.", schema), ToolSpec("g", "", {"type": "object"})])
    assert json.loads(tools_json(tools)) == [
        {"type": "function", "function": {"name": "f", "description": "Does it.", "parameters": schema}},
        {"type": "function", "function": {"name": "g", "description": "", "parameters": {"type": "object"}}},
    ]


def test_without_settings_only_streaming_is_asked_for() -> None:
    assert fields(Settings()) == {"stream": True, "stream_options": {"include_usage": True}}
    assert fields(Settings(), ModelProfile(usage_in_stream=False)) == {"stream": True}


def test_settings_have_the_names_of_the_profile() -> None:
    settings = Settings(temperature=0.0, max_tokens=10, stop=("\nObservation:", "x"))
    plain = ModelProfile(usage_in_stream=False, max_tokens_name="max_completion_tokens")
    assert fields(settings, plain) == {
        "stream": True,
        "temperature": 0.0,
        "max_completion_tokens": 10,
        "stop": ("\nObservation:", "x"),
    }


def test_a_tool_choice_is_a_word_or_a_tool_and_goes_only_with_tools() -> None:
    tools = ToolSpecs([ToolSpec("f", "", {"type": "object"})])
    for word in ("auto", "none", "required"):
        assert fields(Settings(tool_choice=word), tools=tools)["tool_choice"] == word
    chosen = {"type": "function", "function": {"name": "f"}}
    assert fields(Settings(tool_choice="f"), tools=tools)["tool_choice"] == chosen
    assert "tool_choice" not in fields(Settings(tool_choice="required"))


def test_a_schema_of_the_reply_is_wrapped_and_a_wire_format_is_not() -> None:
    schema = {"title": "Two words", "type": "object"}
    assert fields(Settings(response_format=schema))["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "Two_words", "schema": schema},
    }
    unnamed = fields(Settings(response_format={"type": "object"}))["response_format"]
    assert unnamed["json_schema"]["name"] == "reply"
    ready = {"type": "json_object"}
    assert fields(Settings(response_format=ready))["response_format"] == ready


def test_extra_fields_are_sent_as_they_are_over_our_own() -> None:
    extra = {"top_p": 0.5, "temperature": 1, "stream_options": {"x": 1}, "messages": [], "model": "other"}
    assert fields(Settings(temperature=0.1, extra=extra)) == {
        "stream": True,
        "stream_options": {"x": 1},
        "temperature": 1,
        "top_p": 0.5,
    }
