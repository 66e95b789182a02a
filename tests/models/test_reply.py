"""Replies off the wire: what a body of chunks becomes, whole and one byte at a time."""

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.messages import Usage
from stepwell.models.base import CallPart, Delta, Failure
from stepwell.models.reply import ReplyReader
from stepwell.models.sse import LIMIT
from tests.support.endpoint import DONE, call_chunk, chunk, usage, usage_field, whole


def event(value: Any) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def body(*chunks: Any) -> bytes:
    return b"".join(event(each) for each in chunks)


def read(data: bytes, cuts: Sequence[int] = (), **options: Any) -> list[Delta]:
    """Read a body cut at these places as the adapter does."""
    reader = ReplyReader(**options)
    deltas: list[Delta] = []
    for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True):
        reader.feed(data[a:b])
        if reader.done:
            break
        if delta := reader.take():
            deltas.append(delta)
    else:
        reader.end()
    return [*deltas, reader.last()]


def joined(deltas: Sequence[Delta]) -> Delta:
    """Join the deltas of a reply into one, as an agent does."""
    calls: dict[int, CallPart] = {}
    for part in (part for delta in deltas for part in delta.calls):
        had = calls.setdefault(part.index, CallPart(part.index, part.id, part.name))
        calls[part.index] = CallPart(part.index, had.id, had.name, had.arguments + part.arguments)
    last = deltas[-1]
    return Delta(
        "".join(delta.text for delta in deltas),
        "".join(delta.thinking for delta in deltas),
        tuple(calls.values()),
        last.usage,
        last.failure,
        last.stop,
    )


def both(data: bytes, **options: Any) -> Delta:
    """Return the reply, after a check that it is the same fed whole and byte by byte."""
    at_once = joined(read(data, **options))
    assert joined(read(data, range(1, len(data)), **options)) == at_once
    return at_once


def calls_of(*chunks: Any) -> list[tuple[str, str, str]]:
    reply = both(body(*chunks, chunk("tool_calls")) + DONE)
    assert [part.index for part in reply.calls] == list(range(len(reply.calls)))
    assert reply.stop == "tool_calls"
    return [(part.id, part.name, part.arguments) for part in reply.calls]


# text, thinking, usage


def test_the_texts_of_one_read_are_one_delta() -> None:
    data = body(chunk(content="a"), chunk(content="b"), chunk(reasoning_content="c"))
    reader = ReplyReader()
    reader.feed(data + event(chunk(content="d"))[:-1])
    assert reader.take() == Delta("ab", "c")
    assert reader.take() is None
    reader.feed(b"\n" + event(chunk("stop")) + DONE)
    assert reader.done
    assert reader.last() == Delta("d", stop="stop")


def test_thinking_is_taken_from_any_of_its_usual_fields() -> None:
    for name in ("reasoning_content", "reasoning"):
        reply = both(body(chunk(**{name: "hm"}), chunk(content="x"), chunk("stop")))
        assert (reply.thinking, reply.text) == ("hm", "x")


def test_thinking_under_two_names_counts_once() -> None:
    assert both(body(chunk(reasoning="hm", reasoning_content="hm"), chunk("stop"))).thinking == "hm"


THOUGHTS = [
    ("<think>hm</think>\n\nHi", "hm", "Hi"),
    (" \n<think>\nh\n\nm\n</think>Hi </think>", "h\n\nm", "Hi </think>"),
    ("<thinking>a</thinking> b", "a", "b"),
    ("<think>a</think> <think>b</think>c", "ab", "c"),
    ("<think>\n\n</think>\n\nHi", "", "Hi"),
    ("<think>a < b </thin", "a < b </thin", ""),
    ("<think>", "", ""),
    ("<thi", "", "<thi"),
    ("  Hi <think>x</think>", "", "  Hi <think>x</think>"),
    ("`<think>` is a tag", "", "`<think>` is a tag"),
    ("", "", ""),
]


@pytest.mark.parametrize(("content", "thinking", "text"), THOUGHTS)
def test_a_block_of_thinking_that_begins_a_reply_is_no_part_of_the_answer(
    content: str, thinking: str, text: str
) -> None:
    for size in (1, 2, 3, 7, 100):
        pieces = [chunk(content=content[at : at + size]) for at in range(0, len(content), size)]
        reply = both(body(*pieces, chunk("stop")) + DONE)
        assert (reply.thinking, reply.text, reply.stop) == (thinking, text, "stop")


def test_where_thinking_has_its_field_the_text_is_left_as_it_is() -> None:
    reply = both(body(chunk(reasoning_content="hm"), chunk(content="<think>a</think>"), chunk("stop")))
    assert (reply.thinking, reply.text) == ("hm", "<think>a</think>")


def test_text_that_could_have_begun_a_tag_is_not_lost_when_thinking_comes_in_its_field() -> None:
    reply = both(body(chunk(content="<t"), chunk(reasoning_content="hm"), chunk(content="d>"), chunk("stop")))
    assert (reply.thinking, reply.text) == ("hm", "<td>")


def test_white_space_without_end_is_not_held_back_without_end() -> None:
    reader = ReplyReader()
    shown = 0
    for _ in range(2000):
        reader.feed(body(chunk(content=" ")))
        if delta := reader.take():
            shown += len(delta.text)
    assert shown > 1000


def test_a_profile_can_name_another_thinking_field() -> None:
    chunks = body(chunk(thoughts="hm"), chunk(reasoning="m"), chunk(content="x"), chunk("stop"))
    assert both(chunks, thinking_field="thoughts") == Delta("x", "hmm", stop="stop")


def test_content_in_parts_is_read() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "x"}]
    assert both(body(chunk(content=parts), chunk(content="y"), chunk("stop"))) == Delta("xy", "hm", stop="stop")


def test_a_refusal_is_shown_as_text() -> None:
    assert both(body(chunk(refusal="I can"), chunk(refusal="not."), chunk("stop"))) == Delta("I cannot.", stop="stop")


USAGES = [
    (usage_field(7, 3), Usage(7, 3)),
    (usage_field(7, 3, 5), Usage(7, 3, 5)),
    ({"prompt_tokens": 7, "completion_tokens": 3, "prompt_cache_hit_tokens": 6}, Usage(7, 3, 6)),
    ({"prompt_tokens": 7, "completion_tokens": None, "prompt_tokens_details": None}, Usage(7, 0)),
    ({"prompt_tokens": 7.0, "completion_tokens": "3", "prompt_tokens_details": {"cached_tokens": "2"}}, Usage(7, 3, 2)),
    ({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 50}, Usage(7, 43)),
    ({"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": "50"}, Usage(7, 43)),
    ({"completion_tokens": 3, "total_tokens": 50}, Usage(0, 3)),
    ({"prompt_tokens": "many", "prompt_tokens_details": [1]}, Usage()),
    ({"prompt_tokens": 10**25, "completion_tokens": 3}, None),
    ({"prompt_tokens": 1e30, "completion_tokens": 3}, None),
    ({"prompt_tokens": 7, "completion_tokens": -3}, None),
    ({"prompt_tokens": 7, "completion_tokens": 3, "prompt_cache_hit_tokens": -1}, None),
]


@pytest.mark.parametrize(("field", "counted"), USAGES)
def test_usage_is_read_wherever_an_endpoint_puts_it(field: dict[str, Any], counted: Usage | None) -> None:
    last = chunk("stop")
    own = {**chunk(), "choices": [], "usage": field}
    inside = {**last, "choices": [{**last["choices"][0], "usage": field}]}
    for chunks in ([last, own], [{**last, "usage": field}], [inside]):
        assert both(body(chunk(content="x"), *chunks) + DONE) == Delta("x", usage=counted, stop="stop")


def test_usage_that_grows_with_every_chunk_is_told_once_and_last() -> None:
    chunks = [{**chunk(content="x"), "usage": usage_field(7, count)} for count in (1, 2, 3)]
    deltas = read(body(*chunks, chunk("stop")), [len(body(chunks[0]))])
    assert [delta.usage for delta in deltas] == [None, None, Usage(7, 3)]


# finish reasons

FINISHES = [
    ("stop", "stop"),
    ("length", "length"),
    ("max_tokens", "length"),
    ("MAX_TOKENS", "length"),
    ("model_context_window_exceeded", "length"),
    ("content_filter", "content_filter"),
    ("content_filter: RECITATION", "content_filter"),
    ("sensitive", "content_filter"),
    ("SAFETY", "content_filter"),
    ("PROHIBITED_CONTENT", "content_filter"),
    ("refusal", "content_filter"),
    ("tool_calls", "stop"),
    ("eos", "stop"),
    ("something_new", "stop"),
]


@pytest.mark.parametrize(("reason", "stop"), FINISHES)
def test_finish_reasons_without_calls(reason: str, stop: str) -> None:
    assert both(body(chunk(content="x"), chunk(reason))).stop == stop


@pytest.mark.parametrize(
    ("reason", "stop"),
    [("tool_calls", "tool_calls"), ("function_call", "tool_calls"), ("stop", "tool_calls"), ("length", "length")],
)
def test_finish_reasons_with_calls(reason: str, stop: str) -> None:
    assert both(body(call_chunk(0, "1", "f", "{}"), chunk(reason))).stop == stop


def test_calls_that_end_at_the_token_limit_count_as_cut() -> None:
    data = body(call_chunk(0, "1", "f", '{"a'), chunk("tool_calls"), usage(5, 20))
    assert both(data, max_tokens=20).stop == "length"
    assert both(data, max_tokens=21).stop == "tool_calls"
    assert both(data).stop == "tool_calls"
    thought = {**usage(5, 20), "usage": {"prompt_tokens": 5, "completion_tokens": 20, "total_tokens": 500}}
    data = body(call_chunk(0, "1", "f", "{}"), chunk("tool_calls"), thought)
    assert both(data, max_tokens=21) == Delta(calls=both(data).calls, usage=Usage(5, 495), stop="tool_calls")


def test_an_empty_reply_with_a_finish_reason_is_a_reply() -> None:
    assert both(body(chunk(role="assistant", content=""), chunk("stop")) + DONE) == Delta(stop="stop")


@pytest.mark.parametrize("nothing", ["", "null", None])
def test_an_empty_finish_reason_is_none(nothing: str | None) -> None:
    assert both(body(chunk(nothing, content="x"), chunk("stop", content="y"))) == Delta("xy", stop="stop")


FAILED = [("error", 0), ("network_error", 0), ("insufficient_system_resource", 500), ("abort", 500),
          ("MALFORMED_FUNCTION_CALL", 500)]  # fmt: skip


@pytest.mark.parametrize(("reason", "status"), FAILED)
def test_a_finish_reason_that_tells_of_a_failure_is_one(reason: str, status: int) -> None:
    reply = both(body(chunk(content="x"), chunk(reason)))
    message = f"The endpoint ended the reply with finish reason {reason!r}."
    assert reply == Delta("x", failure=Failure("server", message, status), stop="error")


def test_a_second_choice_is_left_alone() -> None:
    other = {**chunk(), "choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": "length"}]}
    assert both(body(chunk(content="x"), other, chunk("stop"))) == Delta("x", stop="stop")


# tool calls


def test_calls_in_pieces_by_index_also_interleaved() -> None:
    assert calls_of(
        call_chunk(0, "a", "f", ""),
        call_chunk(1, "b", "g", ""),
        call_chunk(0, arguments='{"x":'),
        call_chunk(1, arguments="{"),
        call_chunk(0, arguments="1}"),
        call_chunk(1, arguments="}"),
    ) == [("a", "f", '{"x":1}'), ("b", "g", "{}")]


def test_indexes_that_do_not_start_at_0() -> None:
    assert calls_of(call_chunk(3, "a", "f", "{}"), call_chunk(1, "b", "g", "{}")) == [
        ("a", "f", "{}"),
        ("b", "g", "{}"),
    ]


def test_several_whole_calls_in_one_chunk() -> None:
    two = [{"index": i, "id": str(i), "function": {"name": "f", "arguments": f'{{"n":{i}}}'}} for i in range(2)]
    assert calls_of(chunk(tool_calls=two)) == [("0", "f", '{"n":0}'), ("1", "f", '{"n":1}')]


def test_whole_calls_without_an_index() -> None:
    same = {"name": "f", "arguments": '{"n":1}'}
    assert calls_of(chunk(tool_calls=[{"id": "a", "function": same}, {"id": "b", "function": same}])) == [
        ("a", "f", '{"n":1}'),
        ("b", "f", '{"n":1}'),
    ]


def test_pieces_without_an_index_go_to_the_newest_call() -> None:
    assert calls_of(
        call_chunk(None, "a", "f", '{"x"'), call_chunk(None, arguments=":1}"), call_chunk(None, "b", "f", "{}")
    ) == [("a", "f", '{"x":1}'), ("b", "f", "{}")]


def test_pieces_without_an_index_but_with_their_id() -> None:
    assert calls_of(
        call_chunk(None, "a", "f", "{"), call_chunk(None, "b", "g", "{"), call_chunk(None, "a", None, "}"),
        call_chunk(None, "b", None, "}"),
    ) == [("a", "f", "{}"), ("b", "g", "{}")]  # fmt: skip


def test_whole_calls_without_index_and_id() -> None:
    assert calls_of(call_chunk(None, None, "f", '{"n":1}'), call_chunk(None, None, "f", '{"n":2}')) == [
        ("", "f", '{"n":1}'),
        ("", "f", '{"n":2}'),
    ]


def test_calls_that_are_all_numbered_0() -> None:
    assert calls_of(
        call_chunk(0, "a", "f", '{"n":1}'), call_chunk(0, "b", "f", '{"n":2}'), call_chunk(0, "c", "g", "")
    ) == [
        ("a", "f", '{"n":1}'),
        ("b", "f", '{"n":2}'),
        ("c", "g", ""),
    ]


def test_a_name_repeated_in_every_piece() -> None:
    pieces = [("a", ""), ("a", '{"n"'), ("", ":1}"), ("", "")]
    assert calls_of(*(call_chunk(0, id, "f", text) for id, text in pieces)) == [("a", "f", '{"n":1}')]


WHOLE = '{"to":"bob","text":"{hi}"}'
PIECES = ['{"to":', '"bob","te', 'xt":"{hi}"}']


@pytest.mark.parametrize(
    "pieces",
    [
        [(0, "a", "f", PIECES[0]), (0, None, None, PIECES[1]), (0, None, None, PIECES[2]), (0, None, None, WHOLE)],
        [(0, "a", "f", PIECES[0]), (0, "a", "f", PIECES[1]), (0, "a", "f", PIECES[2]), (0, "a", "f", WHOLE)],
        [(0, "a", "f", WHOLE), (0, None, "f", WHOLE)],
        [(0, "a", "f", ""), (0, "a", None, WHOLE), (0, "a", None, WHOLE), (0, "a", None, WHOLE)],
        [(0, "a", "f", WHOLE[:at]) for at in range(0, len(WHOLE) + 1, 5)] + [(0, "a", "f", WHOLE)],
        [(None, "a", "f", PIECES[0]), (None, "a", None, "".join(PIECES[:2])), (None, "a", None, WHOLE)],
    ],
)
def test_arguments_that_are_sent_again_count_once(pieces: list[tuple[int | None, str | None, str | None, str]]) -> None:
    assert calls_of(*(call_chunk(*piece) for piece in pieces)) == [("a", "f", WHOLE)]


def test_calls_with_ids_of_their_own_count_each_however_alike_they_are() -> None:
    assert calls_of(call_chunk(0, "a", "roll", "{}"), call_chunk(0, "b", "roll", "{}")) == [
        ("a", "roll", "{}"),
        ("b", "roll", "{}"),
    ]


def test_pieces_of_arguments_may_look_like_their_beginning() -> None:
    pieces = ['{"a":"', "{", '{"', ',"b":{', '"a":1}}']
    chunks = [call_chunk(0, "a", "f", ""), *(call_chunk(0, arguments=piece) for piece in pieces)]
    assert calls_of(*chunks) == [("a", "f", "".join(pieces))]


def test_a_piece_that_says_nothing_is_no_call() -> None:
    reply = both(body(chunk(content="x", tool_calls=[{"index": 0, "function": None}]), chunk("stop")))
    assert reply == Delta("x", stop="stop")


def test_a_reply_of_very_many_calls_or_pieces_is_read_in_time_that_grows_with_it() -> None:
    def seconds(data: bytes) -> float:
        reader = ReplyReader()
        began = time.process_time()
        reader.feed(data)
        assert reader.last().stop == "tool_calls"
        return time.process_time() - began

    def calls(count: int) -> bytes:
        return body(chunk("tool_calls", tool_calls=[{"index": i, "function": {"name": "f"}} for i in range(count)]))

    def pieces(count: int) -> bytes:
        named = [call_chunk(0, None, "f", '{"a":"' if at == 0 else "word ") for at in range(count)]
        return body(*named, chunk("tool_calls"))

    for make in (calls, pieces):
        small, large = (min(seconds(make(count)) for _ in range(3)) for count in (2_500, 20_000))
        assert large < 15 * small + 0.3


def test_a_new_id_in_every_piece_does_not_cut_a_call() -> None:
    assert calls_of(call_chunk(0, "a", "f", '{"n"'), call_chunk(0, "b", "f", ":"), call_chunk(0, "c", None, "1}")) == [
        ("a", "f", '{"n":1}')
    ]


def test_a_name_that_comes_after_the_arguments_is_waited_for() -> None:
    data = body(call_chunk(0, "a", None, '{"n"')), body(call_chunk(0, None, "f", ":1}"))
    deltas = read(b"".join(data), [len(data[0])])
    assert deltas[0].calls == (CallPart(0, "a", "f", '{"n":1}'),)


def test_a_call_that_never_gets_a_name_is_still_told() -> None:
    assert calls_of(call_chunk(0, "a", None, "{}")) == [("a", "", "{}")]


def test_the_old_function_call_is_a_call() -> None:
    assert calls_of(chunk(function_call={"name": "f", "arguments": ""}), chunk(function_call={"arguments": "{}"})) == [
        ("", "f", "{}")
    ]


def test_arguments_that_are_no_text_are_written_as_text() -> None:
    piece = {"index": "0", "id": 7, "function": {"name": "f", "arguments": {"city": "杭州"}}}
    assert calls_of(chunk(tool_calls=[piece])) == [("7", "f", '{"city": "杭州"}')]


def test_null_fields_of_a_call_are_nothing() -> None:
    first = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": None}}
    then = {"index": 0, "id": None, "type": None, "function": {"name": None, "arguments": "{}"}}
    assert calls_of(chunk(tool_calls=[first], content=None), chunk(tool_calls=[then])) == [("a", "f", "{}")]


def test_a_call_is_told_as_it_comes() -> None:
    data = [body(call_chunk(0, "a", "f", "")), body(call_chunk(0, arguments="{")), body(call_chunk(0, arguments="}"))]
    deltas = read(b"".join(data), [len(data[0]), len(data[0] + data[1])])
    assert [part for delta in deltas for part in delta.calls] == [
        CallPart(0, "a", "f"),
        CallPart(0, arguments="{"),
        CallPart(0, arguments="}"),
    ]


# text that is no Unicode

TEXTS = [
    (rb'"a\ud800b"', "a\ufffdb"),
    (rb'"\udc00"', "\ufffd"),
    (rb'"\ud83d\ude00"', "😀"),
    (rb'"\ud83dx"', "\ufffdx"),
    (rb'"a\u0000b"', "a\ufffdb"),
    (b'"a\x00b"', "a\ufffdb"),
    (b'"a\xffb"', "a\ufffdb"),
    (b'"\xed\xa0\x80"', "\ufffd\ufffd\ufffd"),
    (b'"\xf0\x9f\x98\x80"', "😀"),
    (b'"\xf0\x9f\x98"', "\ufffd"),
    (rb'"\ufffe\uffff"', "\ufffe\uffff"),
    ('"a\u2028b\u2029c\u0085d"'.encode(), "a\u2028b\u2029c\u0085d"),
    ('"\ufeffx"'.encode(), "\ufeffx"),
    (b'"a\tb"', "a\tb"),
]


@pytest.mark.parametrize(("raw", "shown"), TEXTS)
def test_text_that_cannot_be_carried_is_replaced_and_the_stream_goes_on(raw: bytes, shown: str) -> None:
    def of(field: bytes) -> bytes:
        return b'{"choices":[{"delta":{' + field + b"}}]}"

    data = body(of(b'"content":' + raw), of(b'"reasoning_content":' + raw), chunk(content="!"), chunk("stop"))
    assert both(data) == Delta(shown + "!", shown, stop="stop")
    assert read(data)[-1].replaced == 2 * shown.count("\ufffd")
    assert read(body(chunk(content="\ufffd"), chunk("stop")))[-1].replaced == 0


def test_arguments_and_names_are_made_carriable_too() -> None:
    raw = json.dumps(call_chunk(0, "\0", "\0", "{\0\ud800")).encode()
    reply = both(body(raw, chunk("tool_calls")))
    assert reply.calls == (CallPart(0, "\ufffd", "\ufffd", "{\ufffd\ufffd"),)
    assert read(body(raw, chunk("tool_calls")))[-1].replaced == 4


@given(st.text(st.characters(exclude_categories=())), st.booleans())
def test_any_text_comes_through(text: str, escaped: bool) -> None:
    raw = json.dumps(chunk(content=text), ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    reply = both(body(raw, chunk("stop")))
    assert reply.stop == "stop"
    assert not any("\ud800" <= char <= "\udfff" or char == "\0" for char in reply.text)
    if text.isprintable():
        assert reply.text == text


# what is no stream, or a broken one


def test_a_whole_completion_is_a_reply() -> None:
    [data] = whole("Hello", tokens_used=(4, 2), reasoning_content="hm").pieces
    assert isinstance(data, bytes)
    assert both(data) == Delta("Hello", "hm", usage=Usage(4, 2), stop="stop")
    assert both(b" \n" + data + b"\n\n") == both(data)
    assert both(b"\xef\xbb\xbf" + data) == both(data)


def test_a_whole_completion_with_calls_is_a_reply() -> None:
    calls = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
             {"id": "b", "type": "function", "function": {"name": "f", "arguments": "{}"}}]  # fmt: skip
    [data] = whole(None, finish="tool_calls", tool_calls=calls).pieces
    assert isinstance(data, bytes)
    assert both(data).calls == (CallPart(0, "a", "f", "{}"), CallPart(1, "b", "f", "{}"))


def test_a_last_chunk_that_repeats_the_whole_message_adds_nothing() -> None:
    last = {**chunk("stop"), "choices": [{"index": 0, "message": {"content": "xy"}, "finish_reason": "stop"}]}
    assert both(body(chunk(content="x"), chunk(content="y"), last)) == Delta("xy", stop="stop")


NO_JSON = "The endpoint sent data that is no JSON object: "
ENDED = "The endpoint's stream ended without a finish reason."
CUT = "The endpoint's stream was cut inside a line."
BROKEN = [
    (b"", "The endpoint sent an empty reply."),
    (b"\n\n", "The endpoint sent an empty reply."),
    (DONE, ENDED),
    (b": keep-alive\n\n", ENDED),
    (body(chunk(role="assistant")), ENDED),
    (body(chunk(role="assistant")) + DONE, ENDED),
    (body(chunk(role="assistant")) + b'data: {"choices":[{"delta":{"con', CUT),
    (b"data: hello\n\n", NO_JSON + "hello"),
    (b"data: [1]\n\n", NO_JSON + "[1]"),
    (b"data: " + b"[" * 100_000 + b"\n\n", NO_JSON + "[" * 4096),
    (b'data: {"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}\n\n", NO_JSON + '{"a":' + "[" * 4091),
    (b"{half a docu", NO_JSON + "{half a docu"),
    (b"{}", ENDED),
    (b"<html>no model here</html>", ENDED),
]


@pytest.mark.parametrize(("data", "message"), BROKEN)
def test_a_body_without_a_finish_reason_is_broken(data: bytes, message: str) -> None:
    cuts = range(1, len(data)) if len(data) < 2000 else range(1, len(data), 999)
    for reply in (read(data), read(data, cuts)):
        assert reply == [Delta(failure=Failure("broken", message), stop="error")]


def test_what_came_before_a_break_is_kept() -> None:
    reply = both(body(chunk(content="Hel")) + b"data: {")
    assert reply == Delta("Hel", failure=Failure("broken", CUT), stop="error")


@pytest.mark.parametrize("after", [b"", DONE, b"data: {", b"data: what?\n\n", event({"error": "late"}), b": bye"])
def test_nothing_after_the_finish_reason_undoes_the_reply(after: bytes) -> None:
    assert both(body(chunk(content="x"), chunk("stop")) + after) == Delta("x", stop="stop")


def test_nothing_after_done_or_an_error_is_read() -> None:
    late = body(chunk(content="late"), usage(9, 9))
    assert both(body(chunk("stop", content="x")) + DONE + late) == Delta("x", stop="stop")
    assert both(body({"error": {"message": "Boom", "code": 500}}) + late).text == ""


@pytest.mark.parametrize("done", [b"data: [DONE]", b"data:[DONE]\n\n", b"data: [DONE] \r\n\r\n"])
def test_done_is_known_in_every_form(done: bytes) -> None:
    reader = ReplyReader()
    reader.feed(body(chunk("stop")) + done + b"\n\n")
    assert reader.done


@pytest.mark.parametrize(
    "quiet",
    [b"data:\n\n", b"data: {}\n\n", event({"choices": []}), event({"choices": [], "prompt_filter_results": []})],
)
def test_events_that_say_nothing_are_passed_over(quiet: bytes) -> None:
    assert both(quiet + body(chunk(content="x"), chunk("stop"))) == Delta("x", stop="stop")


def test_a_line_without_an_end_is_given_up() -> None:
    for start in (b"data: ", b"{"):
        reader = ReplyReader()
        reader.feed(start)
        block = b"x" * (1 << 20)
        for _ in range(LIMIT // len(block)):
            assert not reader.done
            reader.feed(block)
        assert reader.done
        failure = reader.last().failure
        assert failure is not None
        assert (failure.kind, str(LIMIT) in failure.message) == ("broken", True)


# errors inside a successful response


def problem(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


ERRORS = [
    (problem("Boom", type="server_error", code=None), Failure("server", "Boom", 500)),
    (problem("Slow", code=429), Failure("rate_limit", "Slow", 429)),
    (problem("Slow", code="rate_limit_exceeded", type="tokens"), Failure("rate_limit", "Slow", 429)),
    (problem("Busy", type="overloaded_error"), Failure("server", "Busy", 529)),
    (problem("No", code="invalid_api_key", type="invalid_request_error"), Failure("auth", "No", 401)),
    (problem("Long", code="context_length_exceeded", type="invalid_request_error"), Failure("overflow", "Long", 400)),
    (problem("Bad", type="BadRequestError", code=400), Failure("request", "Bad", 400)),
    (problem("Prompt 超长", code=1261), Failure("overflow", "Prompt 超长")),
    (problem("Odd", code=1234), Failure("server", "Odd")),
    ({"error": "just text"}, Failure("server", "just text")),
    ({"error": {"reason": "unusual"}}, Failure("server", '{"reason": "unusual"}')),
    ({"object": "error", "message": "vLLM", "type": "BadRequestError", "code": 400}, Failure("request", "vLLM", 400)),
    ({"code": "InvalidParameter", "message": "Wrong"}, Failure("request", "Wrong", 400)),
    ([problem("Listed", code=503, status="UNAVAILABLE")], Failure("server", "Listed", 503)),
    ({**chunk("error", content=""), **problem("Upstream", code=502)}, Failure("server", "Upstream", 502)),
]


@pytest.mark.parametrize(("value", "failure"), ERRORS)
def test_an_error_in_the_place_of_a_reply_is_a_failure_in_its_own_words(value: Any, failure: Failure) -> None:
    assert both(json.dumps(value).encode()) == Delta(failure=failure, stop="error")
    if isinstance(value, dict):
        data = body(chunk(role="assistant"), value, chunk("stop"))
        assert both(data) == Delta(failure=failure, stop="error")


def test_an_error_after_some_text_keeps_the_text() -> None:
    reply = both(body(chunk(content="Hel"), {"error": {"message": "Boom", "code": 500}}))
    assert reply == Delta("Hel", failure=Failure("server", "Boom", 500), stop="error")
