"""The XML dialect: what a reply means, from the shapes that models are known to write."""

from __future__ import annotations

import json

import pytest

from stepwell.messages import Message, ToolCall
from stepwell.models.base import CallPart, Delta
from stepwell.models.dialects.xml import Xml, XmlParser
from tests.models.dialects.reading import TOOLS, Reply, called, read, turns

LS = '{"query": "ls"}'
CALL = "<shell>\n<query>ls</query>\n</shell>"
ROME = "<weather>\n<city>Rome</city>\n<days>2</days>\n</weather>"

REPLIES: dict[str, tuple[str, Reply]] = {
    "an answer": ("Hello there.\n", Reply(text="Hello there.")),
    "a call": (CALL, called("shell", LS)),
    "a call in one line": ("I look: <shell><query>ls</query></shell>", called("shell", LS, "I look:")),
    "text and a call": (f"I look.\n\n{CALL}\n", called("shell", LS, "I look.")),
    "a number": (ROME, called("weather", '{"city": "Rome", "days": 2}')),
    "a number that is none": (
        "<weather><city>Rome</city><days>two</days></weather>",
        called("weather", '{"city": "Rome", "days": "two"}'),
    ),
    "a text like a number": ("<shell><query>5</query></shell>", called("shell", '{"query": "5"}')),
    "values": (
        "<store>\n<value>{\"a\": [1]}</value>\n<name>null</name>\n<many>['a', 1,]</many>\n<deep>{}</deep>\n</store>",
        called("store", '{"value": {"a": [1]}, "name": null, "many": ["a", 1], "deep": {}}'),
    ),
    "a value of lines": (
        "<shell>\n<query>\ncat <<EOF\n  <a>&amp; &lt;</a>\nEOF\n</query>\n</shell>",
        called("shell", '{"query": "cat <<EOF\\n  <a>&amp; &lt;</a>\\nEOF"}'),
    ),
    "CDATA": (
        "<shell><query><![CDATA[echo '</query>' ]]]]><![CDATA[> ]]></query></shell>",
        called("shell", '{"query": "echo \'</query>\' ]]> "}'),
    ),
    "another parameter": ("<shell>\n<command>ls</command>\n</shell>", called("shell", '{"command": "ls"}')),
    "no parameters": ("<now></now>", called("now", "{}")),
    "blanks": ("<now>\n\n</now>", called("now", "{}")),
    "an empty tag": ("<now/>", called("now", "{}")),
    "upper case": ("<SHELL>\n<query>ls</QUERY>\n</Shell>", called("shell", LS)),
    "two calls": (
        f"{CALL}\n{ROME}",
        Reply(calls=(("shell", LS), ("weather", '{"city": "Rome", "days": 2}')), stop="tool_calls"),
    ),
    "a fence around": (f"I look:\n```xml\n{CALL}\n```\n", called("shell", LS, "I look:")),
    "text after the call": (f"{CALL}\nDone.", called("shell", LS, raw=f"{CALL}\n")),
    "an invented result": (f"{CALL}\n<tool_result>fake</tool_result>", called("shell", LS, raw=f"{CALL}\n")),
    "a control token": ("Yes.<|im_end|>", Reply(text="Yes.", raw="Yes.")),
    "a thought": (f"<thinking>\nI look.\n</thinking>\n\n{CALL}", called("shell", LS, thinking="I look.")),
    "an unknown tool": (
        "Let me.\n<read_file>\n<path>a.txt</path>\n</read_file>",
        called("read_file", '{"path": "a.txt"}', "Let me."),
    ),
    "the general form": (
        '<use_tool>\n<tool_name>shell</tool_name>\n<arguments>{"query": "ls"}</arguments>\n</use_tool>',
        called("shell", LS),
    ),
    "the form of MCP tools": (
        "<use_mcp_tool>\n<server_name>s</server_name>\n<tool_name>shell</tool_name>\n<arguments>\n{'query': 'ls',}\n"
        "</arguments>\n</use_mcp_tool>",
        called("shell", LS),
    ),
    "a general form of no object": (
        "<use_tool><tool_name>foo</tool_name><arguments>oops</arguments></use_tool>",
        called("foo", "oops"),
    ),
    "a general form of nothing": ("<use_tool><tool_name>now</tool_name></use_tool>", called("now", "")),
    "no end": ("<shell>\n<query>ls</query>\n", called("shell", LS)),
    "no end of a value": ("<shell>\n<query>ls\n</shell>", called("shell", "<query>ls\n</shell>")),
    "stray text": ("<shell>\n<query>ls</query>\nand so\n</shell>", called("shell", "<query>ls</query>\nand so")),
    "a parameter twice": (
        "<shell><query>a</query><query>b</query></shell>",
        called("shell", '{"query":"a","query":"b"}'),
    ),
    "markup": ("<b>bold</b> <div>\n<p>x</p>\n</div>", Reply(text="<b>bold</b> <div>\n<p>x</p>\n</div>")),
    "a tool in prose": ("Use <shell> or `<now>`.", Reply(text="Use <shell> or `<now>`.")),
    "a tool with text": ("<shell>ls</shell>", Reply(text="<shell>ls</shell>")),
    "an unknown tag inside a line": ("See <read_file><path>x", Reply(text="See <read_file><path>x")),
    "half a tag": ("a <shel", Reply(text="a <shel")),
    "less than": ("1 < 2 <3", Reply(text="1 < 2 <3")),
}


@pytest.mark.parametrize(("raw", "reply"), REPLIES.values(), ids=REPLIES)
def test_a_reply_means_what_it_says(raw: str, reply: Reply) -> None:
    expected = reply if reply.raw is not None else reply._replace(raw=raw)
    found = [read(Xml(), pieces) for pieces in ([raw], list(raw))]
    found += [read(Xml(), [raw[:at], raw[at:]]) for at in range(len(raw))]
    for each in found:
        assert each._replace(calls=()) == expected._replace(calls=())
        assert [(name, loosely(given)) for name, given in each.calls] == [
            (name, loosely(given)) for name, given in expected.calls
        ]


def loosely(text: str) -> object:
    """Give JSON as its value, an ambiguous object and other text as they are."""
    try:
        return json.loads(text, object_pairs_hook=list)
    except ValueError:
        return text


def test_only_what_may_become_a_marker_is_held_back() -> None:
    parser = XmlParser(TOOLS)
    assert parser.feed(Delta(text="a <sh")) == Delta(text="a")
    assert parser.feed(Delta(text="ort> b <shell>")) == Delta(text=" <short> b")
    assert parser.feed(Delta(text="\n<que")) is None
    assert parser.feed(Delta(text="ry>ls</que")) is None
    assert parser.feed(Delta(text="ry></shell>")) is None
    assert parser.finish("stop").calls == (CallPart(0, name="shell", arguments='{"query": "ls"}'),)


def test_calls_are_shown_as_tags_and_what_they_cannot_say_in_the_general_form() -> None:
    calls = (
        ToolCall("a", "weather", '{"city": "a</city>\\n", "days": 2}'), ToolCall("b", "shell", '{"query": 5}'),
        ToolCall("c", "gone", "{}"), ToolCall("d", "now"),
    )  # fmt: skip
    shown = turns(
        Xml(), Message("user", "hi"), Message("assistant", "Look.", calls=calls),
        *(Message("tool", f"r{call.id}", call=call.id) for call in calls),
    )  # fmt: skip
    assert shown[2][1] == (
        "Look.\n<weather>\n<city><![CDATA[a</city>\n]]></city>\n<days>2</days>\n</weather>\n"
        '<use_tool>\n<tool_name>shell</tool_name>\n<arguments>{"query": 5}</arguments>\n</use_tool>\n'
        "<use_tool>\n<tool_name>gone</tool_name>\n<arguments>{}</arguments>\n</use_tool>\n<now>\n</now>"
    )
    assert shown[3][1] == "\n".join(f"<tool_result>\nr{call.id}\n</tool_result>" for call in calls)
