"""JSONL of OpenAI's form: which lines become conversations, and which of their messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwell.imports import base
from stepwell.imports import jsonl as module
from stepwell.imports.base import Builder, Called, Skipped, Talk, Unfit
from stepwell.messages import Image, Message, ToolCall
from tests.imports.making import PICTURE, assistant, calls, jsonl, read, said, talk, talks, user


def test_a_line_is_a_conversation_titled_by_its_beginning(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [user("Hello\n there " + "x" * 100), assistant("Hi.")], [user("二")])
    first, second = talks(file)
    assert said(first) == [("user", "Hello\n there " + "x" * 100), ("assistant", "Hi.")]
    assert (first.title, second.title) == ("Hello there " + "x" * 68, "二")
    assert (first.place, second.place, first.times) == ("1", "2", (0, 0))


def test_the_same_line_has_the_same_origin_wherever_it_stands(tmp_path: Path) -> None:
    one = talks(jsonl(tmp_path / "a.jsonl", [user("a")], [user("b")]))
    other = talks(jsonl(tmp_path / "b.jsonl", [user("b")], [user("a")]))
    assert {each.origin for each in one} == {each.origin for each in other}
    assert one[0].origin != one[1].origin


def test_system_and_developer_messages_and_unknown_roles_do_not_get_in(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Obey the file."},
        {"role": "developer", "content": "Obey."},
        {"role": "critic", "content": "Bad."},
        user("hi"),
        {"role": "system", "content": "Now obey."},
        assistant("ho"),
    ]
    found = talk(jsonl(tmp_path / "a.jsonl", messages))
    assert said(found) == [("user", "hi"), ("assistant", "ho")]
    assert found.left_out == {"system": 3, "role": 1}


def test_results_stand_behind_their_calls_in_their_order_and_each_call_has_one(tmp_path: Path) -> None:
    asked = calls(("call_id", "get.weather", '{"at": 1}'), ("call_id", "b", "broken"), ("c", "é" * 80, "{}"))
    messages = [
        user("go"),
        assistant(None, tool_calls=asked),
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "third"}]},
        {"role": "tool", "tool_call_id": "call_id", "content": "first"},
        {"role": "tool", "tool_call_id": "nobody's", "content": "?"},
        assistant("done"),
        {"role": "tool", "tool_call_id": "c", "content": "late"},
    ]
    found = talk(jsonl(tmp_path / "a.jsonl", messages))
    assert found.messages == (
        Message("user", "go"),
        Message(
            "assistant",
            calls=(
                ToolCall("imported_1", "get_weather", '{"at": 1}'),
                ToolCall("imported_2", "b", "broken"),
                ToolCall("imported_3", "_" * 64, "{}"),
            ),
        ),
        Message("tool", "first", call="imported_1"),
        Message("tool", base.NO_RESULT, call="imported_2"),
        Message("tool", "third", call="imported_3"),
        Message("assistant", "done"),
    )
    assert found.left_out == {"result": 2}


def test_calls_of_the_old_form_are_understood(tmp_path: Path) -> None:
    call = {"name": "look", "arguments": "{}"}
    messages = [user("a"), assistant(None, function_call=call), {"role": "function", "name": "look", "content": "x"}]
    assert said(talk(jsonl(tmp_path / "a.jsonl", messages)))[1:] == [("assistant", ""), ("tool", "x")]


def test_images_come_along_as_bytes_and_never_as_addresses(tmp_path: Path) -> None:
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": PICTURE}},
        {"type": "image_url", "image_url": "https://tracker.example/a.png"},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,!"}},
    ]
    (message,) = talk(jsonl(tmp_path / "a.jsonl", [user(parts)])).messages
    assert message.images == (Image(PICTURE),)
    assert message.content.split("\n") == ["What is it?", "[image] https://tracker.example/a.png", "[image]", "[image]"]
    (other,) = talk(jsonl(tmp_path / "b.jsonl", [assistant(parts[:2])])).messages
    assert (other.content, other.images) == ("What is it?\n[image]", ())


def test_thinking_and_refusals_are_kept(tmp_path: Path) -> None:
    messages = [user("a"), assistant("b", reasoning_content="hm"), assistant(None, refusal="No.")]
    found = talk(jsonl(tmp_path / "a.jsonl", messages))
    assert found.messages[1:] == (Message("assistant", "b", thinking="hm"), Message("assistant", "No."))


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b'{"messages": [', "syntax"),
        (b'{"x":' + b"[" * 100_000, "syntax"),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "syntax"),
        (b"5", "form"),
        (b'{"prompt": "a", "completion": "b"}', "form"),
        (b'{"messages": [{"content": "a"}]}', "form"),
        (b'{"messages": [{"role": "user", "content": 5}]}', "form"),
        (b'{"messages": []}', "empty"),
        (b'{"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": " "}]}', "empty"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path: Path, line: bytes, cause: str) -> None:
    before, bad, after = read(jsonl(tmp_path / "a.jsonl", [user("a")], line, [user("b")]))
    assert isinstance(bad, Skipped)
    assert (bad.place, bad.cause) == ("2", cause)
    assert isinstance(before, Talk)
    assert isinstance(after, Talk)
    assert after.place == "3"


def test_empty_lines_a_mark_of_bytes_and_windows_breaks_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(
        b'\xef\xbb\xbf{"messages":[{"role":"user","content":"a"}]}\r\n\r\n{"messages":[{"role":"user","content":"b"}]}'
    )
    assert [(each.place, said(each)) for each in talks(file)] == [("1", [("user", "a")]), ("3", [("user", "b")])]


def test_text_that_no_store_holds_is_mended(tmp_path: Path) -> None:
    line = rb'{"messages":[{"role":"user","content":"a\u0000b \ud800 \ud83d\ude00 \\ud800"}]}'
    assert said(talk(jsonl(tmp_path / "a.jsonl", line))) == [("user", "a\ufffdb \ufffd 😀 \\ud800")]


def test_a_title_steers_no_screen(tmp_path: Path) -> None:
    assert talk(jsonl(tmp_path / "a.jsonl", [user("\x1b[31mred\u202e\tx")])).title == "[31mred x"


def test_a_line_over_the_limit_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_LIMIT", 100)
    monkeypatch.setattr(module, "_PIECE", 7)
    long, short = read(jsonl(tmp_path / "a.jsonl", [user("x" * 500)], [user("b")]))
    assert isinstance(long, Skipped)
    assert (long.place, long.cause) == ("1", "long")
    assert isinstance(short, Talk)
    assert short.place == "2"


def test_a_line_of_more_values_than_a_conversation_has_is_named_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "OBJECTS_LIMIT", 100)
    heavy = b'{"messages": [{"role": "user", "content": [' + b"{}," * 100 + b"{}]}]}"
    skipped, other = read(jsonl(tmp_path / "a.jsonl", heavy, [user("q")]))
    assert skipped == Skipped("1", "long", "too many values")
    assert isinstance(other, Talk)


def test_a_message_of_10_mb_is_taken_and_one_over_the_limit_is_not(tmp_path: Path) -> None:
    taken, refused = read(jsonl(tmp_path / "a.jsonl", [user("x" * 10_000_000)], [user("x" * base.MESSAGE_LIMIT)]))
    assert isinstance(taken, Talk)
    assert taken.size > 10_000_000
    assert isinstance(refused, Skipped)
    assert (refused.place, refused.cause) == ("2", "long")


def test_a_conversation_is_bounded_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "THREAD_LIMIT", 1000)
    builder = Builder()
    builder.user("x" * 600)
    with pytest.raises(Unfit, match="long"):
        builder.user("x" * 600)
    monkeypatch.setattr(base, "MESSAGES_LIMIT", 3)
    builder = Builder()
    builder.assistant("a", calls=[Called("1", "f", "{}"), Called("2", "f", "{}"), Called("3", "f", "{}")])
    with pytest.raises(Unfit, match="long"):
        builder.finish("1", "o")
