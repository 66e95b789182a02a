"""The Hermes dialect: what a reply means, from the shapes that models are known to write."""

from __future__ import annotations

import json

import pytest

from stepwell.messages import Message, ToolCall, ToolSpecs
from stepwell.models.base import CallPart, Delta
from stepwell.models.dialects.hermes import Hermes, HermesParser
from tests.models.dialects.reading import TOOLS, Reply, called, read, turns

CALL = '<tool_call>\n{"name": "shell", "arguments": {"query": "ls"}}\n</tool_call>'
LS = '{"query": "ls"}'

REPLIES: dict[str, tuple[str, Reply]] = {
    "an answer": ("Hello there.\n", Reply(text="Hello there.")),
    "nothing": ("", Reply()),
    "a call": (CALL, called("shell", LS)),
    "text and a call": (f"Let me look.\n\n{CALL}\n", called("shell", LS, "Let me look.")),
    "a thought and a call": (f"<think>\nI look.\n</think>\n\n{CALL}", called("shell", LS, thinking="I look.")),
    "a thought and an answer": ("<think>\nhm\n\nso\n</think>\n\nYes.", Reply("hm\n\nso", "Yes.")),
    "an empty thought": ("<think>\n\n</think>\n\nYes.", Reply(text="Yes.")),
    "a thought without an end": ("<think>hm", Reply("hm")),
    "a call inside a thought": (f"<think>maybe {CALL}</think>No.", Reply(f"maybe {CALL}", "No.")),
    "a thought later is text": ("Yes <think>x</think>", Reply(text="Yes <think>x</think>")),
    "two calls": (
        f'{CALL}\n<tool_call>\n{{"name": "now", "arguments": {{}}}}\n</tool_call>',
        Reply(calls=(("shell", LS), ("now", "{}")), stop="tool_calls"),
    ),
    "two calls in one tag": (
        '<tool_call>\n{"name": "now"}\n{"name": "now", "arguments": {}}\n</tool_call>',
        Reply(calls=(("now", ""), ("now", "{}")), stop="tool_calls"),
    ),
    "a list of calls": (
        '<tool_call>[{"name": "now"}, {"name": "shell", "arguments": {"query": "ls"}}]</tool_call>',
        Reply(calls=(("now", ""), ("shell", LS)), stop="tool_calls"),
    ),
    "a second tag without an end of the first": (
        '<tool_call>{"name": "now"}<tool_call>{"name": "now"}',
        Reply(calls=(("now", ""), ("now", "")), stop="tool_calls"),
    ),
    "text after the call": (f"{CALL}\nIt says", called("shell", LS, raw=f"{CALL}\n")),
    "an invented result": (
        f"{CALL}\n<tool_response>\nfake\n</tool_response>\nDone.",
        called("shell", LS, raw=f"{CALL}\n"),
    ),
    "an invented result alone": ("Look: <tool_response>x", Reply(text="Look:", raw="Look: ")),
    "a control token": ("Yes.<|im_end|>\n<|im_start|>user", Reply(text="Yes.", raw="Yes.")),
    "a control token after the call": (f"{CALL}<|im_end|>x", called("shell", LS, raw=CALL)),
    "upper case": ('<TOOL_CALL>{"name": "shell", "arguments": {"query": "ls"}}</Tool_Call>', called("shell", LS)),
    "no end": ('<tool_call>\n{"name": "shell", "arguments": {"query": "ls"}}', called("shell", LS)),
    "blanks": (
        '<tool_call> \n\n\t{ "name" : "shell" , "arguments" : {"query": "ls"} } \n\n</tool_call>\n\n',
        called("shell", LS),
    ),
    "a fence inside": ('<tool_call>\n```json\n{"name": "now"}\n```\n</tool_call>', called("now", "")),
    "a fence around": (
        'I look:\n```xml\n<tool_call>\n{"name": "now"}\n</tool_call>\n```',
        called("now", "", "I look:"),
    ),
    "arguments as a string": (
        '<tool_call>{"name": "shell", "arguments": "{\\"query\\": \\"ls\\"}"}</tool_call>',
        called("shell", LS),
    ),
    "arguments beside the name": (
        '<tool_call>{"name": "shell", "id": "c1", "query": "ls"}</tool_call>',
        called("shell", LS),
    ),
    "wrong arguments beside the name": (
        '<tool_call>{"name": "now", "zone": 1}</tool_call>',
        called("now", '{"zone": 1}'),
    ),
    "arguments that are no object": (
        '<tool_call>{"name": "shell", "arguments": "ls"}</tool_call>',
        called("shell", "ls"),
    ),
    "arguments by other names": (
        '<tool_call>{"function": "shell", "parameters": {"query": "ls"}}</tool_call>',
        called("shell", LS),
    ),
    "the form of an endpoint": (
        '<tool_call>{"type": "function", "function": {"name": "shell", "arguments": {"query": "ls"}}}</tool_call>',
        called("shell", LS),
    ),
    "arguments before the name": (
        '<tool_call>{"arguments": {"query": "ls"}, "name": "shell"}</tool_call>',
        called("shell", LS),
    ),
    "null": ('<tool_call>{"name": "now", "arguments": null}</tool_call>', called("now", "")),
    "single quotes": (
        "<tool_call>{'name': 'shell', 'arguments': {'query': 'it\\'s {'}}</tool_call>",
        called("shell", '{"query": "it\'s {"}'),
    ),
    "a comma too many": (
        '<tool_call>{"name": "shell", "arguments": {"query": "ls",},}</tool_call>',
        called("shell", LS),
    ),
    "raw lines in a string": (
        '<tool_call>{"name": "shell", "arguments": {"query": "a\nb"}}</tool_call>',
        called("shell", '{"query":"a\\nb"}'),
    ),
    "an unknown tool": ('<tool_call>{"name": "foo", "arguments": {"a": 1}}</tool_call>', called("foo", '{"a": 1}')),
    "a name with blanks": ('<tool_call>{"name": " now "}</tool_call>', called("now", "")),
    "no name": ('<tool_call>{"a": 1}</tool_call>', called("", '{"a": 1}')),
    "an object that is none": (
        '<tool_call>{"name": "shell", "arguments": {"query": oops}}</tool_call>',
        called("shell", '{"name": "shell", "arguments": {"query": oops}}'),
    ),
    "a brace too few": (
        '<tool_call>{"name": "shell", "arguments": {"query": "ls"}</tool_call>',
        called("shell", '{"name": "shell", "arguments": {"query": "ls"}'),
    ),
    "tags in a string": (
        '<tool_call>{"name": "shell", "arguments": {"query": "</tool_call> <tool_call> }"}}</tool_call>',
        called("shell", '{"query": "</tool_call> <tool_call> }"}'),
    ),
    "a tag in prose": ("Write <tool_call> and </tool_call> so.", Reply(text="Write  and  so.")),
    "half a tag": ("a <tool_cal", Reply(text="a <tool_cal")),
    "another tag": ("a <tool_calls> b </tool>", Reply(text="a <tool_calls> b </tool>")),
    "a lone end": ("Done.</tool_call>", Reply(text="Done.")),
    "a call without an object": (
        "I look.\n<tool_call>\nshell\nquery: ls\n</tool_call>",
        called("shell", "shell\nquery: ls", "I look."),
    ),
    "nothing in the tag": ("<tool_call></tool_call>", called("", "")),
    "nested tags": ('<tool_call><tool_call>{"name": "now"}</tool_call></tool_call>', called("now", "")),
    "an object of text": ('It is {"name": "now"}.', Reply(text='It is {"name": "now"}.')),
}


@pytest.mark.parametrize(("raw", "reply"), REPLIES.values(), ids=REPLIES)
def test_a_reply_means_what_it_says(raw: str, reply: Reply) -> None:
    expected = reply if reply.raw is not None else reply._replace(raw=raw)
    found = [read(Hermes(), pieces) for pieces in ([raw], list(raw))]
    found += [read(Hermes(), [raw[:at], raw[at:]]) for at in range(len(raw))]
    for each in found:
        assert each._replace(calls=(), raw=None) == expected._replace(calls=(), raw=None)
        assert [(name, loosely(given)) for name, given in each.calls] == [
            (name, loosely(given)) for name, given in expected.calls
        ]
        assert each.raw == expected.raw


def loosely(text: str) -> object:
    """Give JSON as its value, other text as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def test_only_what_may_become_a_marker_is_held_back() -> None:
    parser = HermesParser(TOOLS)
    assert parser.feed(Delta(text="One <to")) == Delta(text="One")
    assert parser.feed(Delta(text="p> two")) == Delta(text=" <top> two")
    assert parser.feed(Delta(text="\n<tool_call>\n")) is None
    assert parser.feed(Delta(text='{"name": "now"}')) is None
    assert parser.feed(Delta(text="</tool_")) is None
    assert not parser.done
    assert parser.feed(Delta(text="call>\nSo")) is None
    assert parser.done
    assert parser.finish("stop").calls == (CallPart(0, name="now", arguments=""),)


def test_thinking_of_the_endpoint_and_of_the_reply_are_both_shown() -> None:
    parser = HermesParser(TOOLS)
    assert parser.feed(Delta(thinking="own")) == Delta(thinking="own")
    assert parser.feed(Delta(text="<think>more</think>Yes")) == Delta(thinking="\n\nmore", text="Yes")
    assert parser.finish("stop") == Delta(stop="stop", raw="<think>more</think>Yes")


def test_tools_are_shown_as_signatures_and_results_in_their_tags() -> None:
    calls = (ToolCall("a", "shell", LS), ToolCall("b", "now"))
    shown = turns(
        Hermes(), Message("user", "hi"), Message("assistant", "Look.", calls=calls, thinking="secret"),
        Message("tool", "noon", call="b"), Message("tool", "x </tool_response> y", call="a"),
        tools=ToolSpecs(TOOLS[:1]),
    )  # fmt: skip
    assert '\n{"type":"function","function":{"name":"shell","description":"about shell","parameters":{' in shown[0][1]
    assert shown[1:] == [
        ("user", "hi"),
        (
            "assistant",
            'Look.\n<tool_call>\n{"name": "shell", "arguments": {"query": "ls"}}\n</tool_call>\n'
            '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        ),
        (
            "user",
            "<tool_response>\nx < /tool_response> y\n</tool_response>\n<tool_response>\nnoon\n</tool_response>",
        ),
    ]
