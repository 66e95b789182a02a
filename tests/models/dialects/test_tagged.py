"""Calls in tags inside `<tool_call>`, as Qwen3-Coder and GLM-4.5 were trained to write them, which `hermes` reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.messages import StopReason, ToolSpecs
from stepwell.models.dialects.hermes import Hermes
from tests.models.dialects.reading import Reply, called, pieces_of, read, tool

LS = '{"query": "ls"}'
QWEN = "<tool_call>\n<function=shell>\n<parameter=query>\nls\n</parameter>\n</function>\n</tool_call>"
GLM = "<tool_call>shell\n<arg_key>query</arg_key>\n<arg_value>ls</arg_value>\n</tool_call>"
FLAT = "<tool_call>shell<arg_key>query</arg_key><arg_value>ls</arg_value></tool_call>"
JSON_CALL = f'<tool_call>\n{{"name": "shell", "arguments": {LS}}}\n</tool_call>'
TWICE = (("shell", LS), ("shell", LS))


def both(*calls: tuple[str, str], text: str = "", raw: str | None = None) -> Reply:
    return Reply(text=text, calls=calls, stop="tool_calls", raw=raw)


def qwen(value: str, key: str = "query", name: str = "shell") -> str:
    return f"<tool_call>\n<function={name}>\n<parameter={key}>\n{value}\n</parameter>\n</function>\n</tool_call>"


def glm(value: str, key: str = "query", name: str = "shell") -> str:
    return f"<tool_call>{name}\n<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n</tool_call>"


BARE = QWEN.removeprefix("<tool_call>\n")
REPLIES: dict[str, tuple[str, Reply]] = {
    "Qwen3-Coder": (QWEN, called("shell", LS)),
    "GLM-4.5": (GLM, called("shell", LS)),
    "GLM-4.7": (FLAT, called("shell", LS)),
    "thought and text before": (f"<think>hm</think>I look.\n\n{QWEN}", called("shell", LS, "I look.", thinking="hm")),
    "in a line of text": (f"I look: {FLAT}", called("shell", LS, "I look:")),
    "in a line of text, by name": ("I look: <tool_call>now</tool_call>", called("now", "{}", "I look:")),
    "several calls": (f"{QWEN}\n{QWEN}", both(*TWICE)),
    "several calls of GLM": (GLM + GLM, both(*TWICE)),
    "all forms after one another": (f"{QWEN}{GLM}\n{JSON_CALL}{FLAT}\n{BARE}", both(*TWICE, *TWICE, ("shell", LS))),
    "two functions in one tag": (QWEN.replace("\n</tool_call>", "\n" + BARE), both(*TWICE)),
    "no opening tag": (f"I look.\n\n{BARE}", called("shell", LS, "I look.")),
    "no opening tag, then no more": (
        BARE.replace("\n</tool_call>", "\nSo it is."),
        called("shell", LS, raw=BARE.replace("\n</tool_call>", "\n")),
    ),
    "no opening tag and no such tool": (
        "I look.\n<function=foo>\n<parameter=a>",
        Reply(text="I look.\n<function=foo>\n<parameter=a>"),
    ),
    "a value that ends with a CR": (qwen("ls\r"), called("shell", '{"query": "ls\\r"}')),
    "a value between CRLF": (
        "<tool_call>\r\n<function=shell>\r\n<parameter=query>\r\nls\r\n</parameter>\r\n</function>\r\n</tool_call>",
        called("shell", LS),
    ),
    "no opening tag inside a line": ("Write <function=shell> so.", Reply(text="Write <function=shell> so.")),
    "no arguments": ("<tool_call>\n<function=now>\n</function>\n</tool_call>", called("now", "{}")),
    "no arguments of GLM": ("<tool_call>now\n</tool_call>", called("now", "{}")),
    "an unknown tool": (qwen("5", "a", "foo"), called("foo", '{"a": 5}')),
    "an unknown tool of GLM": (glm("x", "a", "foo"), called("foo", '{"a": "x"}')),
    "values of all types": (
        "<tool_call>\n<function=store>\n<parameter=value>\n{'a': None,}\n</parameter>\n<parameter=name>\nnull\n"
        '</parameter>\n<parameter=many>\n[1, 2]\n</parameter>\n<parameter=deep>\n{\n  "a": 1\n}\n</parameter>\n'
        "</function>\n</tool_call>",
        called("store", '{"value": {"a": null}, "name": null, "many": [1, 2], "deep": {"a": 1}}'),
    ),
    "a string that may be null and looks like a number": (glm("5", "name", "store"), called("store", '{"name": "5"}')),
    "a number": (glm("5", "days", "weather"), called("weather", '{"days": 5}')),
    "no number": (glm("five", "days", "weather"), called("weather", '{"days": "five"}')),
    "a string that looks like JSON": (qwen('{"a": 1}'), called("shell", '{"query": "{\\"a\\": 1}"}')),
    "an empty value": (glm(""), called("shell", '{"query": ""}')),
    "an empty block": (qwen(""), called("shell", '{"query": ""}')),
    "lines and blanks": (qwen("\n a\n\n b \n"), called("shell", '{"query": "\\n a\\n\\n b \\n"}')),
    "lines and blanks of GLM": (glm("\n a\n"), called("shell", '{"query": "\\n a\\n"}')),
    "Windows lines": (QWEN.replace("\n", "\r\n"), called("shell", LS)),
    "upper case": (QWEN.replace("tool_call", "TOOL_CALL").replace("parameter", "Parameter"), called("shell", LS)),
    "tags of the form in a value": (
        qwen(f"{GLM}\n</tool_call>\n<tool_call>\n<function=now>\n<tool_response>"),
        called("shell", json.dumps({"query": f"{GLM}\n</tool_call>\n<tool_call>\n<function=now>\n<tool_response>"})),
    ),
    "tags of the form in a value of GLM": (
        glm("</tool_call></parameter><function=now></function>"),
        called("shell", json.dumps({"query": "</tool_call></parameter><function=now></function>"})),
    ),
    "a value that is not closed": (QWEN.replace("\n</parameter>", ""), called("shell", LS)),
    "a function that is not closed": (QWEN.replace("\n</function>", ""), called("shell", LS)),
    "nothing is closed": (QWEN.partition("\n</parameter>")[0], called("shell", LS)),
    "nothing of GLM is closed": (GLM.partition("</arg_value>")[0], called("shell", LS)),
    "a value of GLM that is not closed": (GLM.replace("</arg_value>", ""), called("shell", LS)),
    "a key of GLM without a value": (
        "<tool_call>shell\n<arg_key>query</arg_key>\n</tool_call>",
        called("shell", "<arg_key>query</arg_key>"),
    ),
    "an object in place of parameters": (
        f"<tool_call>\n<function=shell>\n{LS}\n</function>\n</tool_call>",
        called("shell", LS),
    ),
    "an object after a name": (f"<tool_call>shell\n{LS}\n</tool_call>", called("shell", LS)),
    "words in place of parameters": (
        "<tool_call>\n<function=shell>\nls\n</function>\n</tool_call>",
        called("shell", "ls"),
    ),
    "a fence around": (f"```xml\n{QWEN}\n```", called("shell", LS)),
    "text after the call": (f"{GLM}\nIt says", called("shell", LS, raw=f"{GLM}\n")),
    "a control token after the call": (f"{GLM}<|observation|>x", called("shell", LS, raw=GLM)),
    "a control token": ("Yes.<|user|>", Reply(text="Yes.", raw="Yes.")),
    "the tag of no tool in a line": ("Write <tool_call>x</tool_call> so.", Reply(text="Write x so.")),
    "half a function": ("a\n<function=sh", Reply(text="a\n<function=sh")),
}


@pytest.mark.parametrize(("raw", "reply"), REPLIES.values(), ids=REPLIES)
def test_a_call_in_tags_means_what_it_says(raw: str, reply: Reply) -> None:
    expected = reply if reply.raw is not None else reply._replace(raw=raw)
    found = [read(Hermes(), pieces) for pieces in ([raw], list(raw))]
    found += [read(Hermes(), [raw[:at], raw[at:]]) for at in range(len(raw))]
    for each in found:
        assert each._replace(calls=(), raw=None) == expected._replace(calls=(), raw=None)
        assert [(name, loosely(text)) for name, text in each.calls] == [
            (name, loosely(text)) for name, text in expected.calls
        ]
        assert each.raw is not None
        assert expected.raw is not None
        assert each.raw.rstrip("`\n") == expected.raw.rstrip("`\n")


def loosely(text: str) -> object:
    """Give JSON as its value, other text as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@pytest.mark.parametrize("call", [QWEN, GLM, FLAT])
@pytest.mark.parametrize("stop", ["error", "cancelled", "length"])
def test_a_call_in_tags_that_broke_off_is_none(call: str, stop: StopReason) -> None:
    for at in range(len(call) - len("</tool_call>") + 1):
        if call[:at].rstrip().endswith("</function>"):
            continue
        reply = read(Hermes(), [call[:at]], stop)
        assert (reply.calls, reply.stop) == ((), stop)
    cut = read(Hermes(), [f"{JSON_CALL}\n{call[:-20]}"], "length")
    assert (cut.calls, cut.raw) == ((("shell", LS),), JSON_CALL.removesuffix("\n</tool_call>"))


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["5", "null", "true", "[1]", "{'a': 1}", '"x"', "</tool_call>", "<parameter=x>", "\n", "</function>", "<arg_key>"]
)
VALUES: dict[str, Any] = {"query": TEXTS, "days": st.integers(), "deep": st.dictionaries(st.text(max_size=3), TEXTS)}
WIDE = ToolSpecs([tool("wide", query="string", days="integer", deep="object")])


@settings(deadline=None, max_examples=300)
@given(st.fixed_dictionaries({}, optional=VALUES), st.booleans(), st.lists(st.integers(0, 9), max_size=40))
def test_what_the_chat_templates_write_reads_back(values: dict[str, Any], coder: bool, cuts: list[int]) -> None:
    def said(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    if coder:
        given_ = "".join(f"<parameter={key}>\n{said(value)}\n</parameter>\n" for key, value in values.items())
        text = f"<tool_call>\n<function=wide>\n{given_}</function>\n</tool_call>"
    else:
        given_ = "".join(
            f"<arg_key>{key}</arg_key>\n<arg_value>{said(value)}</arg_value>\n" for key, value in values.items()
        )
        text = f"<tool_call>wide\n{given_}</tool_call>"
    reply = read(Hermes(), pieces_of(text, cuts), tools=WIDE)
    assert [(name, json.loads(arguments)) for name, arguments in reply.calls] == [("wide", values)]
    assert (reply.text, reply.raw) == ("", text)
