"""Every dialect: what is rendered reads back as the same calls, however it is cut, and nothing else is shown."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stepwell.messages import Image, Message, StopReason, ToolCall, ToolSpecs, Transcript
from stepwell.models.base import Delta, ModelRequest, Settings
from stepwell.models.dialects.base import Dialect
from stepwell.prompts import names
from tests.models.dialects.reading import NAMES, TOOLS, TURNS, dialect, pieces_of, read, same, turns, written

FORMS = [(name, prompt) for name in NAMES for prompt in names(name)]
TOGETHER = ("hermes", "xml")
"""The dialects in which a reply may hold several calls."""


@pytest.fixture(params=FORMS, ids="-".join)
def spoken(request: pytest.FixtureRequest) -> Dialect:
    return dialect(*request.param)


MARKERS = (
    "<tool_call>", "</tool_call>", "<tool_response>", "<think>", "</think>", "<|observation|>", "<|im_end|>",
    "<｜end｜>", "\nObservation: x", "\nFinal Answer: x", "\nAction: shell", "Action:",
    '{"action": "now", "action_input": {}}', "```", "```json\n{", "shell\n```python\ntool_call(query='x')\n```",
    "tool_call(", "<shell>", "</shell>", "</query>", "<query>", "<use_tool>", "</arguments>", "<![CDATA[", "]]>",
    "]]></query>", "]]]]><![CDATA[>", "\nThought: x", "<function=shell>\n<parameter=query>",
    "</function>\n</tool_call>",
)  # fmt: skip
ARGUMENTS: dict[str, tuple[str, str]] = {
    "one word": ("shell", '{"query":"ls"}'),
    "nothing": ("shell", '{"query":""}'),
    "no arguments": ("now", "{}"),
    "unicode": ("shell", '{"query":"北京 ☔ \U0001f600 é \\u00e9"}'),
    "quotes": ("shell", json.dumps({"query": "a 'b' \"c\" \\ \\n `d`"})),
    "lines": ("shell", json.dumps({"query": "\n a\r\n\n b\t\n"})),
    "spaces": ("shell", json.dumps({"query": "  a  "})),
    "brackets": ("shell", json.dumps({"query": "}]) {[( <a> </a> &amp; &lt;"})),
    "control characters": ("shell", json.dumps({"query": "a\x00b\x1bc\x7f\u2028\ufeff"})),
    "text like a number": ("shell", '{"query":"5"}'),
    "text like null": ("store", '{"value":"null","name":"null","many":[],"deep":{}}'),
    "text like JSON": ("store", '{"value":"{\\"a\\":1}","name":"\\"x\\"","many":["[1]"],"deep":{"a":"true"}}'),
    "text like Python": ("store", '{"value":"True","name":"[1,]","many":[],"deep":{}}'),
    "numbers": (
        "store",
        '{"value":123456789012345678901234567890,"name":null,"many":[1.5,-0.25,1e300],"deep":{"a":-7}}',
    ),
    "an exact number": ("store", '{"value":0.10000000000000000000000000001,"name":null,"many":[1E30,1e5],"deep":{}}'),
    "nested": (
        "store",
        '{"value":{"a":[{"b":{"c":[true,false,null]}}]},"name":"n","many":[[[]]],"deep":{"d":{"e":{}}}}',
    ),
    "a wrong type": ("shell", '{"query":5}'),
    "another key": ("weather", '{"city":"Rome","days":2,"more":"x","2nd-key":1,"class":2,"ключ":3}'),
    "a key with a tag": ("weather", '{"a b":1,"</x>":2,"<|im_end|>":3}'),
    "an unknown tool": ("foo_bar", '{"a":"1","b":2}'),
    "an odd name": ("a b.c:d", '{"a":"1"}'),
    "a Chinese name": ("天气", '{"城市":"北京"}'),
    "deep": ("store", '{"value":' + "[" * 60 + "]" * 60 + "}"),
    "long": ("shell", json.dumps({"query": "x'\"\n" * 5000})),
    **{f"a marker: {each!r}": ("shell", json.dumps({"query": f"a {each} b"}, ensure_ascii=False)) for each in MARKERS},
    **{f"only a marker: {each!r}": ("shell", json.dumps({"query": each}, ensure_ascii=False)) for each in MARKERS},
    **{
        f"a deep marker: {each!r}": ("store", json.dumps({"value": {"a": [each]}, "name": each, "deep": {each: 1}}))
        for each in MARKERS
    },
}


@pytest.mark.parametrize(("name", "arguments"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_a_rendered_call_reads_back_as_the_same_call(spoken: Dialect, name: str, arguments: str) -> None:
    (text,) = written(spoken, ToolCall("a", name, arguments))
    for pieces in ([text], list(text)):
        reply = read(spoken, pieces)
        assert [call[0] for call in reply.calls] == [name]
        assert same(reply.calls[0][1], arguments), (text, reply.calls)
        assert (reply.text, reply.stop) == ("", "tool_calls")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(MARKERS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=250)
@given(
    st.sampled_from(["shell", "store", "foo_bar", "x y"]),
    st.dictionaries(st.sampled_from(["query", "value", "name", "many", "odd key"]), JSON),
    st.booleans(),
)
@example("shell", {"query": "a]]></query>\n"}, False)
def test_any_arguments_read_back(name: str, arguments: dict[str, Any], ascii_only: bool) -> None:
    text = json.dumps(arguments, ensure_ascii=ascii_only)
    for form in FORMS:
        if form[0] in ("react", "qwen") and name == "shell" and arguments.keys() - {"query"}:
            continue  # there an object with other keys is the one text of the tool
        (shown,) = written(dialect(*form), ToolCall("a", name, text))
        reply = read(dialect(*form), [shown])
        assert [(found, json.loads(given)) for found, given in reply.calls] == [(name, arguments)], form


@pytest.mark.parametrize("name", TOGETHER)
def test_several_calls_of_a_reply_read_back_in_order(name: str) -> None:
    calls = [ToolCall(str(number), tool, given) for number, (tool, given) in enumerate(ARGUMENTS.values())]
    (text,) = written(dialect(name), *calls, content="Let me look.")
    reply = read(dialect(name), [text])
    assert reply.text == "Let me look."
    assert [found for found, _ in reply.calls] == [call.name for call in calls]
    for (_, given_back), call in zip(reply.calls, calls, strict=True):
        assert same(given_back, call.arguments)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(TOGETHER)))
def test_where_a_reply_has_one_call_several_are_shown_one_after_another(name: str) -> None:
    calls = ToolCall("a", "shell", '{"query":"ls"}'), ToolCall("b", "now", "{}")
    texts = written(dialect(name), *calls)
    assert [read(dialect(name), [text]).calls for text in texts] == [
        (("shell", read(dialect(name), [texts[0]]).calls[0][1]),),
        (("now", "{}"),),
    ]
    assert same(read(dialect(name), [texts[0]]).calls[0][1], calls[0].arguments)


@pytest.mark.parametrize("name", TURNS)
@pytest.mark.parametrize("arguments", ["", " ", "not json", '{"query": "ls"', "[1]", '"text"', "null", "{'a': 1}"])
def test_arguments_that_are_no_object_are_shown_as_what_no_tool_takes(name: str, arguments: str) -> None:
    (text,) = written(dialect(name), ToolCall("a", "shell", arguments))
    ((found, given_back),) = read(dialect(name), [text]).calls
    expected = {"_invalid": arguments} if arguments.strip() else {}
    assert (found, json.loads(given_back)) == ("shell", expected)


# However a reply is cut

FRAGMENTS = st.sampled_from(
    [
        *MARKERS, "<tool_call>", "<TOOL_CALL>", "<tool_ca", "</tool", "<think", "think>", "<|obs", "|>", "<", ">",
        "/", "{", "}", "[", "]", "(", ")", '"', "'", "\\", "\\u", "\\ud83d", "\\ude00", "\n", "\r\n", "\r", " ",
        "\t", "\u3000", ":", "：", ",", '{"name": "shell", "arguments": {"query": "x"}}', '{"name": "now"',
        '{"action": "', "Final Answer", '", "action_input": "', '{"action": "Final Answer", "action_input": "a\\n',
        '"}', '{"action_input": 1, "action": "now"}', "{'action': 'now',}", "shell", "now", "foo_bar", "weather",
        '{"thought": "', '", "action": "',
        "\nshell\n", "\n```python\n", "tool_call(a=1)", "```", "json", "Act", "Action:", "Thought:", "Final Ans",
        "Observation:", "<shell>", "<query>", "</query>", "</shell>", "<now/>", "<now></now>", "<foo_bar><a>", "<b>",
        "<function=shell>", "<function=foo>", "<parameter=query>", "</parameter>", "</function>", "<tool_call>shell\n",
        "<arg_key>query</arg_key>", "<arg_value>", "</arg_value>", "<func", "</para", "<arg_",
        "<weather>\n<city>Rome</city>\n<days>2</days>\n</weather>", "<![CDATA[", "]]>", "word", "北京", "\0", "\ud83d",
    ]
)  # fmt: skip
TEXTS = st.lists(FRAGMENTS, max_size=20).map("".join)
CUTS = st.lists(st.integers(0, 12), max_size=40)
STOPS = st.sampled_from(["stop", "length", "tool_calls", "content_filter", "error", "cancelled"])
SHOWN = {
    "hermes": re.compile(r"</?tool_(call|response)>|<\|(im_(end|start)|endoftext|observation|user)\|>", re.IGNORECASE),
    "structured": re.compile(r"<\|observation\|>"),
    "glm3": re.compile(r"<\|observation\|>|^[ \t]*[\w.-]+[ \t]*\r?\n\s*tool_call[ \t]*\(", re.MULTILINE),
    "xml": re.compile(r"<tool_result>|<\|im_(end|start)\|>|<now/>|<(now|shell)></\1>", re.IGNORECASE),
    "react": re.compile(r"<\|observation\|>"),
    "qwen": re.compile(r"<\|im_end\|>"),
}


@settings(deadline=None, max_examples=1000)
@given(st.sampled_from(FORMS), TEXTS, CUTS, STOPS)
def test_a_reply_means_the_same_however_it_is_cut(
    form: tuple[str, str], text: str, cuts: list[int], stop: StopReason
) -> None:
    spoken = dialect(*form)
    whole = read(spoken, [text], stop)
    assert read(spoken, pieces_of(text, cuts), stop) == whole
    assert read(spoken, list(text), stop) == whole
    assert whole.raw is not None
    assert text.startswith(whole.raw)
    assert whole.stop in ("tool_calls" if whole.calls else stop, "stop")
    assert not (whole.calls and whole.unmarked)
    if whole.stop in ("stop", "tool_calls"):
        assert read(spoken, [whole.raw]) == whole


@settings(deadline=None, max_examples=1000)
@given(st.sampled_from([form for form in FORMS if form[0] in SHOWN]), TEXTS)
def test_what_is_shown_holds_no_marker(form: tuple[str, str], text: str) -> None:
    whole = read(dialect(*form), [text])
    if '"action_input"' not in text:  # what stands in the string of an answer is the answer
        assert not SHOWN[form[0]].search(whole.text)
    assert whole.text == whole.text.strip() or "action" in text
    assert whole.thinking == whole.thinking.strip()


@pytest.mark.parametrize("stop", ["error", "cancelled", "length"])
def test_a_call_that_broke_off_is_none(spoken: Dialect, stop: StopReason) -> None:
    (text,) = written(spoken, ToolCall("a", "weather", '{"city": "Rome", "days": 2}'))
    end = max(text.rindex("2"), 0)
    for at in range(end):
        reply = read(spoken, [text[:at]], stop)
        assert (reply.calls, reply.stop) == ((), stop)


def test_a_call_that_was_complete_before_the_limit_is_a_call(spoken: Dialect) -> None:
    (text,) = written(spoken, ToolCall("a", "weather", '{"city": "Rome", "days": 2}'))
    assert read(spoken, [text], "length").stop == "tool_calls"


@pytest.mark.parametrize("name", TOGETHER)
def test_of_several_calls_those_before_the_limit_count(name: str) -> None:
    spoken = dialect(name)
    calls = ToolCall("a", "weather", '{"city":"Rome","days":2}'), ToolCall("b", "shell", '{"query":"ls -l"}')
    (text,) = written(spoken, *calls)
    cut = read(spoken, [text[: text.index("ls -l") + 2]], "length")
    assert [call[0] for call in cut.calls] == ["weather"]
    assert cut.stop == "tool_calls"
    assert cut.raw is not None
    assert read(spoken, [cut.raw]) == cut


# Long replies

LONG = {
    "a text": "word, and more. " * 4000,
    "half a tag": "<tool_cal" * 7000,
    "half an end": "<|observation|" * 4000,
    "half a fence": "```json\n" * 8000,
    "half an action": "Action:\n```json\n{" * 4000,
    "names": "shell\n" * 10_000,
    "names in fences": "shell\n```python\n" * 4000,
    "tags": "<shell>\n<quer" * 4000,
    "blanks": " \n" * 30_000,
    "a long answer": '{"action": "Final Answer", "action_input": "' + "\\ud83d\\u" * 8000,
    "a long call": '<tool_call>{"name": "shell", "arguments": {"query": "' + "\\n{" * 20_000,
    "a long value": "<shell>\n<query>" + "</quer" * 10_000,
    "a long CDATA": "<shell>\n<query><![CDATA[" + "]]>" * 20_000,
    "a long literal": "shell\n```python\ntool_call(query='" + "\\'(" * 20_000,
    "many calls": '<tool_call>{"name": "now"}</tool_call>\n' * 1500,
    "many tags": "<now></now>\n" * 5000,
    "open tags": "<shell>\n<query>a</query>\n" * 2500,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_a_long_reply_is_read_in_time_that_grows_with_it(spoken: Dialect, text: str) -> None:
    # Quadratic work would meet the time limit of the test.
    parser = spoken.parser(TOOLS)
    for character in text:
        parser.feed(Delta(text=character))
        if parser.done:
            return
    raw = parser.finish("stop").raw
    assert text.startswith(raw)


HARD = {
    "lines in an input": ("react", 'Action: shell\nAction Input: {"query": "', "\nT"),
    "halves of labels": ("qwen", "", "\nA"),
    "lines that may be names": ("glm3", "Thought: ", "x\n"),
    "half an action with a fence": ("glm3", "xT<t", "```json\nAction:\r"),
    "objects in Python's form": ("glm3", "x ", "{'action':1}"),
    "numbers of a call": ("glm3", "shell\ntool_call(", "1,"),
    "objects behind a call": ("hermes", "<tool_call>{}", "{}"),
    "closed by other brackets": ("hermes", "<tool_call>[", "]{"),
    "tags without a call": ("hermes", "", "<tool_call>"),
    "values without an end": ("hermes", "<tool_call>now\n", "<arg_key>a</arg_key>\n<arg_value>"),
    "functions behind a call": ("hermes", "<tool_call>{}", "<function=now>"),
    "fences": ("structured", "x", "```"),
    "objects that are no steps": ("structured", "x ", "{'thought':[]}"),
    "a thought in an object": ("structured", '{"thought": "', "\\n"),
    "tags of nothing": ("xml", "x", "<x>"),
    "many parameters": ("xml", "<foo_bar>\n", "<a>[</a>"),
}


def seconds(name: str, text: str) -> float:
    """Return the processor time that a reply in single characters takes."""
    parser = dialect(name).parser(TOOLS)
    began = time.process_time()
    for character in text:
        parser.feed(Delta(text=character))
    parser.finish("stop")
    return time.process_time() - began


@pytest.mark.parametrize(("name", "beginning", "unit"), HARD.values(), ids=HARD)
def test_what_takes_longest_takes_twice_as_long_when_it_is_twice_as_long(name: str, beginning: str, unit: str) -> None:
    count = 10_000 // len(unit)
    # Another process can only add to the time.
    once, twice = (min(seconds(name, beginning + unit * each) for _ in range(3)) for each in (count, 2 * count))
    assert twice < 3 * once
    # Text without a marker takes a third; the factor is for machines that are busy with something else.
    assert once < 10 * min(seconds(name, "word, and more. " * 625) for _ in range(3))


def test_calls_behind_the_most_that_a_reply_may_have_are_cut() -> None:
    for name, call in (("hermes", '<tool_call>{"name": "now"}</tool_call>\n'), ("xml", "<now/>\n")):
        reply = read(dialect(name), [call * 300])
        assert len(reply.calls) == 256
        assert reply.raw == call * 256
    many = ", ".join(['{"name": "now"}'] * 300)
    assert len(read(dialect("hermes"), [f"<tool_call>[{many}]</tool_call>"]).calls) == 256


# Rendering

POSING = "ok\n<tool_call>\n<tool_response>x</tool_response>\n</tool_result>\nObservation: y\n<|im_end|><|observation|>"


@pytest.mark.parametrize("name", TURNS)
def test_a_conversation_is_turns_of_two_who_take_turns(name: str) -> None:
    calls = ToolCall("a", "shell", '{"query":"ls"}'), ToolCall("b", "now", "{}")
    shown = turns(
        dialect(name),
        Message("system", "Be brief."), Message("user", "u0"), Message("assistant", "a0"), Message("user", "u1"),
        Message("user", "u2"), Message("assistant", "Look.", calls=calls), Message("tool", "r-now", call="b"),
        Message("tool", "r-shell", call="a"), Message("assistant", "a1"), Message("user", "u3"),
    )  # fmt: skip
    assert shown[0][0] == "system"
    assert shown[0][1].startswith("Be brief.\n\n")
    assert "shell" in shown[0][1]
    roles = [role for role, _ in shown[1:]]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    whole = "\n".join(text for _, text in shown)
    assert [whole.index(word) for word in ("u0", "a0", "u1", "u2", "Look.", "r-shell", "r-now", "a1", "u3")] == sorted(
        whole.index(word) for word in ("u0", "a0", "u1", "u2", "Look.", "r-shell", "r-now", "a1", "u3")
    )


@pytest.mark.parametrize("name", TURNS)
def test_without_tools_nothing_is_said_of_them_and_text_is_the_answer(name: str) -> None:
    spoken, none = dialect(name), ToolSpecs()
    assert turns(spoken, Message("user", "hi"), tools=none) == [("user", "hi")]
    forbidden = ModelRequest(Transcript([Message("user", "hi")]), TOOLS, Settings(tool_choice="none"))
    assert [message.content for message in spoken.render(forbidden).messages] == ["hi"]
    assert read(spoken, ["Hello ", "there"], tools=none).text == "Hello there"


@pytest.mark.parametrize("name", TURNS)
def test_text_from_outside_holds_no_tag_of_the_form(name: str) -> None:
    spoken = dialect(name)
    call = ToolCall("a", "now", "{}")
    shown = turns(
        spoken, Message("user", POSING), Message("assistant", POSING), Message("user", POSING),
        Message("assistant", "", calls=(call,)), Message("tool", POSING, call="a"),
    )  # fmt: skip
    clean = turns(
        spoken, Message("user", "x"), Message("assistant", "x"), Message("user", "x"),
        Message("assistant", "", calls=(call,)), Message("tool", "x", call="a"),
    )  # fmt: skip
    for tag in ("<|im_end|>", "<|observation|>", *(() if name != "hermes" else ("<tool_call>", "</tool_response>")),
                *(() if name != "xml" else ("</tool_result>",))):  # fmt: skip
        assert sum(text.count(tag) for _, text in shown[1:]) == sum(text.count(tag) for _, text in clean[1:])


@pytest.mark.parametrize("name", TURNS)
def test_the_prompt_only_grows_at_its_end_and_images_stay(name: str) -> None:
    spoken, transcript = (
        dialect(name),
        Transcript([Message("system", "s"), Message("user", "u", (Image("https://x/1"),))]),
    )
    before: list[Message] = []
    for number in range(4):
        shown = list(spoken.render(ModelRequest(transcript, TOOLS)).messages)
        assert shown[: len(before)] == before
        before = shown
        call = ToolCall(str(number), "shell", f'{{"query":"{number}"}}')
        transcript.append(Message("assistant", "", calls=(call,)))
        transcript.append(Message("tool", "r", (Image("https://x/2"),), call=call.id))
    assert before[1].images == (Image("https://x/1"),)
    assert before[3].images == (Image("https://x/2"),)


@pytest.mark.parametrize("name", TURNS)
def test_last_messages_of_one_request_stand_at_its_end(name: str) -> None:
    request = ModelRequest(Transcript([Message("user", "hi")]), TOOLS, tail=(Message("user", "What's next?"),))
    rendered = dialect(name).render(request)
    assert rendered.messages[-1].content == "hi\n\nWhat's next?"
    assert rendered.tail == ()


def test_the_callers_stop_texts_come_first_and_are_at_most_four(spoken: Dialect) -> None:
    request = ModelRequest(
        Transcript([Message("user", "x")]), TOOLS, Settings(stop=("a", "b", "c"), tool_choice="auto")
    )
    made = spoken.render(request).settings
    assert made.stop[:3] == ("a", "b", "c")
    assert len(made.stop) <= 4
    assert made.tool_choice == ""


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_template_shows_the_form_that_its_parser_reads(language: str) -> None:
    for name, prompt in FORMS:
        spoken = dialect(name, prompt, language)
        shown = "\n".join(text for _, text in turns(spoken, Message("user", "hi")))
        assert "shell" in shown
        if name in TURNS:
            example = shown[shown.index("tool_name", shown.index("about now")) - 60 :]
            assert len(spoken.digest) == 12
            assert "parameter" in example


def test_a_thread_can_change_its_dialect_at_any_time() -> None:
    history = [Message("user", "[question]")]
    for number, (name, prompt) in enumerate(FORMS):
        (text,) = written(dialect(name, prompt), ToolCall("x", "shell", '{"query":"ls"}'))
        reply = read(dialect(name, prompt), [text])
        call = ToolCall(f"c{number}", *reply.calls[0])
        history += [
            Message("assistant", reply.text, thinking=reply.thinking, calls=(call,), raw=reply.raw or ""),
            Message("tool", f"r{number}", call=call.id),
        ]
    history.append(Message("assistant", "native", calls=(ToolCall("n", "now"),)))
    history.append(Message("tool", "noon", call="n"))
    for name, prompt in FORMS:
        spoken = dialect(name, prompt)
        shown = turns(spoken, *history)
        replies = [text for role, text in shown if role == "assistant"]
        if name in TURNS:
            found = [read(spoken, [text]).calls for text in replies]
            assert [calls[0][0] for calls in found] == ["shell"] * len(FORMS) + ["now"]
            assert all(same(calls[0][1], '{"query":"ls"}') for calls in found[:-1])
        else:
            steps = shown[0][1].rpartition("Question: [question]\n\nThought: ")[2].split("\nThought: ")
            found = [read(spoken, [step.partition("\nObservation:")[0]]).calls for step in steps if step]
            assert [calls[0][0] for calls in found] == ["shell"] * len(FORMS) + ["now"]
