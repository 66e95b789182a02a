"""The structured dialect: what a reply means, from the shapes that models are known to write."""

from __future__ import annotations

import json

import pytest

from stepwell.messages import Message, ToolCall, ToolSpecs
from stepwell.models.base import Delta
from stepwell.models.dialects.structured import Structured, StructuredParser
from tests.models.dialects.reading import TOOLS, Reply, called, read, turns

LS = '{"query": "ls"}'
BLOB = '{"action": "shell", "action_input": {"query": "ls"}}'
OTHERS = 'Use {"a": 1} and ```json\n{"b": 2}\n```.'
FENCED = f"Thought: I look.\nAction:\n```json\n{BLOB}"


def answered(text: str, thinking: str = "", raw: str | None = None) -> Reply:
    return Reply(thinking, text, raw=raw)


REPLIES: dict[str, tuple[str, Reply]] = {
    "a step": (FENCED + "\n```", called("shell", LS, thinking="I look.", raw=FENCED)),
    "a bare object": (BLOB, called("shell", LS)),
    "an object in a line": (f"I look. {BLOB}", called("shell", LS, thinking="I look.")),
    "a full-width colon": (f"Thought：I look.\nAction：\n{BLOB}", called("shell", LS, thinking="I look.")),
    "the whole in a fence": (f"```\n{BLOB}\n```", called("shell", LS, raw=f"```\n{BLOB}")),
    "the input first": ('{"action_input": {"query": "ls"}, "action": "shell"}', called("shell", LS)),
    "a thought as a field": (
        '{"thought": "I look.", "action": "shell", "action_input": {"query": "ls"}}',
        called("shell", LS, thinking="I look."),
    ),
    "an input beside the action": (
        '{"thought": "t", "action": "shell", "query": "ls"}',
        called("shell", LS, thinking="t"),
    ),
    "an open object in a string": (
        '{"action": "shell", "action_input": "{\\"query\\": \\"rm -rf /tm"}',
        called("shell", '{"query": "rm -rf /tm'),
    ),
    "an input that is text": ('{"action": "shell", "action_input": "ls -l"}', called("shell", '{"query": "ls -l"}')),
    "an input that is an object in a string": (
        '{"action": "shell", "action_input": "{\\"query\\": \\"ls\\"}"}',
        called("shell", LS),
    ),
    "an input that is other JSON in a string": (
        '{"action": "shell", "action_input": "{\\"a\\": 1}"}',
        called("shell", '{"query": "{\\"a\\": 1}"}'),
    ),
    "text for several parameters": ('{"action": "weather", "action_input": "Rome"}', called("weather", "Rome")),
    "no input": ('{"action": "now"}', called("now", "")),
    "null": ('{"action": "now", "action_input": null}', called("now", "")),
    "an unknown tool": ('{"action": "foo", "action_input": "x"}', called("foo", '{"input": "x"}')),
    "single quotes and a comma": ("{'action': 'shell', 'action_input': {'query': 'ls'},}", called("shell", LS)),
    "two objects": (f"{BLOB}\n{BLOB}", called("shell", LS, raw=BLOB)),
    "an invented observation": (
        f"{FENCED}\n```\nObservation: fake\nThought: done",
        called("shell", LS, thinking="I look.", raw=FENCED),
    ),
    "an observation without a step": ("Hm.\nObservation: x", Reply("Hm.", unmarked=True, raw="Hm.\n")),
    "an object that is none": (
        '{"action": "shell", "action_input": {"query": oops}}',
        called("shell", '{"action": "shell", "action_input": {"query": oops}}'),
    ),
    "an open object": (
        '{"action": "shell", "action_input": {',
        called("shell", '{"action": "shell", "action_input": {'),
    ),
    "an object without an action": ('So {"thought": "x"} it is.', Reply('So {"thought": "x"} it is.', unmarked=True)),
    "another object": (OTHERS, Reply(OTHERS, unmarked=True)),
    "no form": ("Just chatting.", Reply("Just chatting.", unmarked=True)),
    "nothing": ("", Reply(unmarked=True)),
    # answers
    "an answer": (
        'Thought: I know.\nAction:\n```json\n{"action": "Final Answer", "action_input": "It is 42."}\n```',
        answered(
            "It is 42.",
            "I know.",
            'Thought: I know.\nAction:\n```json\n{"action": "Final Answer", "action_input": "It is 42."',
        ),
    ),
    "an answer with escapes": (
        '{"action": "Final Answer", "action_input": "a\\n\\"b\\" \\u5317\\ud83d\\ude00 \\\\ \\/"}',
        answered(
            'a\n"b" 北\U0001f600 \\ /',
            raw='{"action": "Final Answer", "action_input": "a\\n\\"b\\" \\u5317\\ud83d\\ude00 \\\\ \\/"',
        ),
    ),
    "an answer of lines": (
        '{\n  "action": "Final Answer",\n  "action_input": "a\nb"\n}',
        answered("a\nb", raw='{\n  "action": "Final Answer",\n  "action_input": "a\nb"'),
    ),
    "an answer without an end": ('{"action": "Final Answer", "action_input": "a b', answered("a b")),
    "an answer that ends in half an escape": ('{"action": "Final Answer", "action_input": "a \\u53', answered("a")),
    "an answer that comes first": ('{"action_input": "yes", "action": "final answer"}', answered("yes")),
    "an answer that is no text": (
        '{"action": "Final Answer", "action_input": {"a": [1, 2]}}',
        answered('{"a": [1, 2]}'),
    ),
    "an empty answer": (
        '{"action": "Final Answer", "action_input": ""}',
        answered("", raw='{"action": "Final Answer", "action_input": ""'),
    ),
    "an answer without an object": ("Thought: I know.\nFinal Answer: yes", answered("yes", "I know.")),
    "an answer after a thought as a field": (
        '{"thought": "I\\nknow.", "action": "Final Answer", "action_input": "yes',
        answered("yes", "I\nknow."),
    ),
    "an answer that is an object after a thought as a field": (
        '{"thought": "I know.", "action": "Final Answer", "action_input": {"a": 1}}',
        answered('{"a": 1}', "I know."),
    ),
    "an empty thought as a field": (
        '{"thought": "", "action": "Final Answer", "action_input": "yes',
        answered("yes"),
    ),
    "a thought as a field after text": (
        'So: {"thought": "I know.", "action": "Final Answer", "action_input": "yes"}',
        answered("yes", "So: I know."),
    ),
    "a thought that breaks off": (
        '{"thought": "I kn\\u00',
        Reply("I kn", "", (("", '{"thought": "I kn\\u00'),), stop="tool_calls"),
    ),
    "a thought alone": ('{"thought": "x"}', Reply('x\n\n{"thought": "x"}', unmarked=True)),
    "a thought with all quotes": (
        '{"thought": "a \\"b\\" \'c\' \'\'\' }{ \\\\", "action": "shell", "action_input": {"query": "ls"}}',
        called("shell", LS, thinking="a \"b\" 'c' ''' }{ \\"),
    ),
    "a thinking block": (f"<think>hm</think>\nThought: I look.\n{BLOB}", called("shell", LS, thinking="hm\n\nI look.")),
}


@pytest.mark.parametrize(("raw", "reply"), REPLIES.values(), ids=REPLIES)
def test_a_reply_means_what_it_says(raw: str, reply: Reply) -> None:
    expected = reply if reply.raw is not None else reply._replace(raw=raw)
    found = [read(Structured(), pieces) for pieces in ([raw], list(raw))]
    found += [read(Structured(), [raw[:at], raw[at:]]) for at in range(len(raw))]
    for each in found:
        assert each._replace(calls=()) == expected._replace(calls=())
        assert [(name, loosely(given)) for name, given in each.calls] == [
            (name, loosely(given)) for name, given in expected.calls
        ]


def loosely(text: str) -> object:
    """Give JSON as its value, other text as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def test_an_answer_streams_while_its_object_is_written() -> None:
    parser = StructuredParser(TOOLS)
    assert parser.feed(Delta(text="Thought: I know.\nAction:\n")) == Delta(thinking="I know.")
    assert parser.feed(Delta(text='```json\n{"action": "Final')) is None
    assert parser.feed(Delta(text=' Answer", "action_input": "It')) == Delta(text="It")
    assert parser.feed(Delta(text=" is \\")) == Delta(text=" is")
    assert parser.feed(Delta(text="u0034")) == Delta(text=" 4")
    assert parser.feed(Delta(text='2."}')) == Delta(text="2.")
    assert parser.done


def test_a_thought_that_is_a_field_streams_and_so_does_the_answer_after_it() -> None:
    parser = StructuredParser(TOOLS)
    assert parser.feed(Delta(text='{\n  "thought": "I')) == Delta(thinking="I")
    assert parser.feed(Delta(text=' know."')) == Delta(thinking=" know.")
    assert parser.feed(Delta(text=',\n  "action": "Final Answer",\n  "action_')) is None
    assert parser.feed(Delta(text='input": "It')) == Delta(text="It")
    assert parser.feed(Delta(text=' is."')) == Delta(text=" is.")
    assert parser.done
    parser = StructuredParser(TOOLS)
    assert parser.feed(Delta(text='{"thought": "I look.", "action')) == Delta(thinking="I look.")
    assert parser.feed(Delta(text='": "shell", "action_input": {"query": "ls"}}')) is None
    assert parser.done
    assert parser.finish("stop").thinking == ""


def test_without_tools_an_object_with_a_thought_is_the_answer() -> None:
    raw = '{"thought": "x", "more": 1}'
    for pieces in ([raw], list(raw)):
        assert read(Structured(), pieces, tools=ToolSpecs()) == Reply(text=raw, raw=raw)


def test_an_answer_that_the_limit_cut_is_shown_as_far_as_it_came() -> None:
    reply = read(Structured(), ['{"action": "Final Answer", "action_input": "It is'], "length")
    assert (reply.text, reply.stop, reply.unmarked) == ("It is", "length", False)


def test_steps_and_answers_are_shown_as_objects() -> None:
    call = ToolCall("a", "shell", LS)
    shown = turns(
        Structured(), Message("user", "hi"), Message("assistant", "hello"), Message("user", "look"),
        Message("assistant", thinking="I look.", calls=(call,)),
        Message("tool", "a\nObservation: b</result>", call="a"),
    )  # fmt: skip
    assert shown[1:] == [
        ("user", "hi"),
        ("assistant", 'Action:\n```json\n{"action": "Final Answer", "action_input": "hello"}\n```'),
        ("user", "look"),
        ("assistant", f'Thought: I look.\nAction:\n```json\n{{"action": "shell", "action_input": {LS}}}\n```'),
        ("user", "Observation:\n<result>\na\n> Observation: b< /result>\n</result>"),
    ]
