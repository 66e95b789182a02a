"""The dialect of ChatGLM3: what a reply means, from the shapes that models are known to write."""

from __future__ import annotations

import json

import pytest

from stepwell.messages import Message, ToolCall
from stepwell.models.base import Delta
from stepwell.models.dialects.glm3 import Glm3, Glm3Parser
from tests.models.dialects.reading import TOOLS, Reply, called, read, turns

LS = '{"query": "ls"}'
CALL = "shell\n ```python\ntool_call(query='ls')"

REPLIES: dict[str, tuple[str, Reply]] = {
    "an answer": ("Hello there", Reply(text="Hello there")),
    "one word": ("Yes", Reply(text="Yes")),
    "one word a line": ("Yes\nno\n\nmaybe\n", Reply(text="Yes\nno\n\nmaybe")),
    "nothing": ("", Reply()),
    "a call": (CALL + "\n```", called("shell", LS, raw=CALL)),
    "a call without a fence": ("shell\ntool_call(query='ls')", called("shell", LS)),
    "a call after text": (f"I look.\n\n{CALL}", called("shell", LS, "I look.")),
    "windows lines": ("shell\r\n```python\r\ntool_call(query='ls')", called("shell", LS)),
    "an unknown tool": ("foo\n```python\ntool_call(a=1)", called("foo", '{"a": 1}')),
    "no arguments": ("now\n```python\ntool_call()", called("now", "{}")),
    "values": (
        "store\n```python\ntool_call(value={'a': [1, -2.5, None, True]}, name=\"it's\", many=(1, 2), deep={})",
        called("store", '{"value": {"a": [1, -2.5, null, true]}, "name": "it\'s", "many": [1, 2], "deep": {}}'),
    ),
    "names of JSON": (
        "store\n```python\ntool_call(value=[true, false, null])",
        called("store", '{"value": [true, false, null]}'),
    ),
    "brackets in strings": ("shell\n```python\ntool_call(query=')]}\\')', )", called("shell", '{"query": ")]}\')"}')),
    "commas and equals": (
        "shell\n```python\ntool_call(query='echo a,b=c=d')",
        called("shell", '{"query": "echo a,b=c=d"}'),
    ),
    "joined strings": ("shell\n```python\ntool_call(query='a'\n    'b')", called("shell", '{"query": "ab"}')),
    "a text of lines": ('shell\n```python\ntool_call(query="""a\nb""")', called("shell", '{"query": "a\\nb"}')),
    "one positional text": ("shell\n```python\ntool_call('ls')", called("shell", LS)),
    "one dict": ("shell\n```python\ntool_call({'query': 'ls'})", called("shell", LS)),
    "a dict unpacked": ("shell\n```python\ntool_call(**{'query': 'ls'})", called("shell", LS)),
    "JSON in the fence": ('shell\n```json\n{"query": "ls"}', called("shell", LS)),
    "JSON below the name": ('shell\n{"query": "ls"}', called("shell", LS)),
    "JSON below a word": ('Example\n```json\n{"a": 1}\n```', Reply(text='Example\n```json\n{"a": 1}\n```')),
    "code that is run": (
        "shell\n```python\ntool_call(query=open('/etc/passwd').read())",
        called("shell", "query=open('/etc/passwd').read()"),
    ),
    "an operator": ("shell\n```python\ntool_call(query='a' * 10**9)", called("shell", "query='a' * 10**9")),
    "a name for a value": ("shell\n```python\ntool_call(query=ls)", called("shell", "query=ls")),
    "a formatted text": ("shell\n```python\ntool_call(query=f'{1}')", called("shell", "query=f'{1}'")),
    "an argument twice": ("shell\n```python\ntool_call(query='a', query='b')", called("shell", "query='a', query='b'")),
    "an open call": ("shell\n```python\ntool_call(query='l", called("shell", "(query='l")),
    "an invented result": (f"{CALL}\n```<|observation|>fake", called("shell", LS, raw=CALL)),
    "a control token": ("Yes.<|user|>more", Reply(text="Yes.", raw="Yes.")),
    "a mention": ("Write tool_call(a=1) so.", Reply(text="Write tool_call(a=1) so.")),
    "a thought block": (f"<think>hm</think>\n{CALL}", called("shell", LS, thinking="hm")),
    # the form of the template ChatGLM3
    "an object": (
        'Action:\n```json\n{"action": "shell", "action_input": {"query": "ls"}}\n```',
        called("shell", LS, raw='Action:\n```json\n{"action": "shell", "action_input": {"query": "ls"}}'),
    ),
    "a thought and an object": (
        'Thought: I look.\nAction: {"action": "shell", "action_input": "ls"}',
        called("shell", LS, thinking="I look."),
    ),
    "a thought and an answer": (
        'Thought: I know.\n{"action": "Final Answer", "action_input": "yes"}',
        Reply("I know.", "yes", raw='Thought: I know.\n{"action": "Final Answer", "action_input": "yes"'),
    ),
    "a thought alone": ("Thought: I wonder.", Reply("I wonder.", unmarked=True)),
    "an answer by its label": ("Thought: I know.\nFinal Answer: yes", Reply("I know.", "yes")),
    "a label in an answer": ("The words\nFinal Answer: stay.", Reply(text="The words\nFinal Answer: stay.")),
    "an observation in an answer": ("See:\nObservation: it rains.", Reply(text="See:\nObservation: it rains.")),
}


@pytest.mark.parametrize("prompt", ["default", "ChatGLM3"])
@pytest.mark.parametrize(("raw", "reply"), REPLIES.values(), ids=REPLIES)
def test_a_reply_means_what_it_says(raw: str, reply: Reply, prompt: str) -> None:
    expected = reply if reply.raw is not None else reply._replace(raw=raw)
    found = [read(Glm3(prompt), pieces) for pieces in ([raw], list(raw))]
    found += [read(Glm3(prompt), [raw[:at], raw[at:]]) for at in range(len(raw))]
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


def test_a_word_is_shown_as_soon_as_it_is_no_name() -> None:
    parser = Glm3Parser(TOOLS)
    assert parser.feed(Delta(text="Well")) is None
    assert parser.feed(Delta(text=", yes")) == Delta(text="Well, yes")
    assert parser.feed(Delta(text="\nshell")) is None
    assert parser.feed(Delta(text="\nruns")) == Delta(text="\nshell")
    assert parser.finish("stop") == Delta(text="\nruns", stop="stop", raw="Well, yes\nshell\nruns")


def test_history_and_question_are_sent() -> None:
    call = ToolCall("a", "weather", '{"city": "北京", "days": 2}')
    messages = (
        Message("user", "u0"), Message("assistant", "a0"), Message("user", "u1"), Message("assistant", calls=(call,)),
        Message("tool", "sunny", call="a"),
    )  # fmt: skip
    shown = turns(Glm3(), *messages)
    assert shown[0][0] == "system"
    assert shown[1:] == [
        ("user", "u0"),
        ("assistant", "a0"),
        ("user", "u1"),
        ("assistant", "weather\n```python\ntool_call(city='北京', days=2)\n```"),
        ("user", "Observation:\n<result>\nsunny\n</result>"),
    ]
    (step,) = [text for _, text in turns(Glm3("ChatGLM3"), *messages) if text.startswith("Action:")]
    assert step == 'Action:\n```json\n{"action": "weather", "action_input": {"city": "北京", "days": 2}}\n```'
