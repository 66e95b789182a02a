"""Replies of a fixed form: where schemas come from, how they are asked for, and what is made of hostile text."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator

from stepwell.agent.replies import (
    LONGEST_REASON,
    LONGEST_SHOWN,
    Fault,
    Form,
    Output,
    ReplySchema,
    Value,
    built_in,
    choose_form,
    output_of,
    repair_prompt,
    reply_schema,
    split,
    validate,
    with_reply,
)
from stepwell.errors import ConfigError
from stepwell.messages import NO_TOOLS, Message, ToolCall, ToolSpec, ToolSpecs, Transcript
from stepwell.models.base import ModelProfile, ModelRequest, Settings
from stepwell.models.wire import tail_fields, tools_json

THOUGHT = built_in()["simple_thought"]
FORMS: tuple[Form, ...] = ("tool", "json", "text")
TOOLS = ToolSpecs((ToolSpec("search", "Search.", {"type": "object", "properties": {"q": {"type": "string"}}}),))


class Point(msgspec.Struct):
    """A place on a map."""

    x: Annotated[int, msgspec.Meta(ge=0)]
    y: float = 0.0


@dataclass
class Trip:
    name: str
    stops: list[Point] = field(default_factory=list[Point])


class Note(TypedDict):
    text: str
    tags: NotRequired[list[str]]


class Tree(BaseModel):
    """A tree of words."""

    word: str = Field(min_length=1)
    kind: Literal["leaf", "branch"] = "leaf"
    children: list["Tree"] = []

    @field_validator("word")
    @classmethod
    def _no_digits(cls, word: str) -> str:
        if any(character.isdigit() for character in word):
            raise ValueError("no digits in a word")
        return word


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    day: date
    pair: tuple[int, str]


class Add(msgspec.Struct, tag="add"):
    left: "Add | Mul | Number"
    right: "Add | Mul | Number"


class Mul(msgspec.Struct, tag="mul"):
    left: "Add | Mul | Number"
    right: "Add | Mul | Number"


class Number(msgspec.Struct, tag="number"):
    value: float


class Sum(msgspec.Struct):
    of: Add | Mul | Number


class Array(msgspec.Struct, array_like=True):
    x: int


def says(text: str) -> Message:
    return Message("assistant", text)


def calls(*given: ToolCall, content: str = "") -> Message:
    return Message("assistant", content, calls=given)


def form_of(**rules: Any) -> ReplySchema:
    return ReplySchema("it", "", {"type": "object", "properties": {"v": rules}})


def reason(given: ReplySchema | Output, text: str | None) -> str:
    fault = validate(given, text)
    assert isinstance(fault, Fault)
    return fault.reason


# Where schemas come from.

FULL: dict[str, dict[str, Any]] = {
    "simple_thought": {"thought": "t"},
    "action_reasoning": {"plan": ["p"], "thought": "t", "reasoning": "r", "criticism": "c"},
    "observation_thought": {"observation": "o", "thought": "t"},
    "chat": {"message": "m"},
    "conclusion": {
        "summary": "s",
        "status": "failure",
        "reached_goals": ["g"],
        "failed_goals": [{"goal": "g", "reason": "r", "reflection": "f"}],
        "reflections": ["l"],
        "tool_reflection": [{"tool_name": "search", "reflection": ["l"]}],
        "reply": "a",
    },
}


@pytest.mark.parametrize("name", FULL)
def test_a_built_in_reply_takes_what_it_describes_and_nothing_else(name: str) -> None:
    schema = reply_schema(name)
    assert schema is not None
    assert schema is built_in()[name]
    text = json.dumps(FULL[name])
    assert validate(schema, text) == Value(FULL[name], FULL[name])
    assert reason(schema, json.dumps({**FULL[name], "more": 1})) == "field `more` is unknown"
    for required in schema.schema["required"]:
        lacking = {key: value for key, value in FULL[name].items() if key != required}
        assert validate(schema, json.dumps(lacking)) == Fault(required, f"field `{required}` is missing")


def test_every_built_in_reply_is_tested() -> None:
    assert FULL.keys() == built_in().keys()


def test_no_schema_is_asked_for_by_none() -> None:
    assert reply_schema(None) is None


@pytest.mark.parametrize(
    ("source", "name", "description", "fields", "value"),
    [
        (Point, "Point", "A place on a map.", {"x": 3}, Point(3)),
        (Trip, "Trip", "Give your reply in this form.", {"name": "n", "stops": [{"x": 1}]}, Trip("n", [Point(1)])),
        (Note, "Note", "Give your reply in this form.", {"text": "t"}, {"text": "t"}),
        (Tree, "Tree", "A tree of words.", {"word": "w", "children": [{"word": "v"}]}, None),
        (Strict, "Strict", "Give your reply in this form.", {"day": "2024-02-29", "pair": [1, "a"]}, None),
        (
            {"title": "My reply!", "properties": {"a": {}}},
            "My_reply",
            "Give your reply in this form.",
            {"a": 1},
            {"a": 1},
        ),
        ({"title": "天气", "type": "object", "description": "d"}, "reply", "d", {}, {}),
        (THOUGHT, "simple_thought", THOUGHT.description, {"thought": "t"}, {"thought": "t"}),
        (output_of(Point), "Point", "A place on a map.", {"x": 3}, Point(3)),
    ],
)
def test_a_reply_is_described_by_many_things(
    source: object, name: str, description: str, fields: dict[str, Any], value: object
) -> None:
    output = output_of(source)
    assert (output.schema.name, output.schema.description) == (name, description)
    assert output.schema == reply_schema(source)
    assert output.schema.schema["type"] == "object"
    assert "$ref" not in output.schema.schema
    found = validate(output, json.dumps(fields))
    assert isinstance(found, Value)
    assert found.fields == fields
    assert found.value == (
        source.model_validate_json(json.dumps(fields)) if isinstance(source, type(BaseModel)) else value
    )


def test_a_class_that_looks_like_a_model_is_taken_as_one() -> None:
    class Looks:
        def __init__(self, fields: dict[str, Any]) -> None:
            self.fields = fields

        @classmethod
        def model_json_schema(cls) -> dict[str, Any]:
            return {"type": "object", "properties": {"a": {"type": "integer"}}}

        @classmethod
        def model_validate(cls, fields: dict[str, Any]) -> "Looks":
            if fields.get("a") == 13:
                raise ValueError("not thirteen")
            return cls(fields)

    found = validate(output_of(Looks), '{"a": 12}')
    assert isinstance(found, Value)
    assert isinstance(found.value, Looks)
    assert reason(output_of(Looks), '{"a": 13}') == "the reply is wrong: not thirteen"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("thought", "Known: simple_thought, action_reasoning, observation_thought, chat, conclusion"),
        ({"type": "object"}, "needs a `title`"),
        ({"title": 3, "type": "object"}, "needs a `title`"),
        ({"title": "T"}, '`type` must be "object"'),
        ({"title": "T", "type": "array"}, '`type` must be "object"'),
        ({"title": "T", "properties": {"a": {"type": 3}}}, "$.properties[...].type"),
        ({"title": "T", "properties": {"a": {"required": "a"}}}, "$.properties[...].required"),
        ({"title": "T", "properties": {"a": {"$ref": "#/$defs/No"}}}, "names nothing in its `$defs`"),
        ({"title": "T", "properties": {"a": {"$ref": "https://example.com/a"}}}, "names nothing in its `$defs`"),
        ({"title": "T", "properties": {"a": {"description": "\ud800"}}}, "surrogates"),
        ({"title": "T", "properties": {"a": {"default": object()}}}, "no JSON schema"),
        ({"title": "T", "properties": {"a": {"maximum": 10**400}}}, "no JSON schema"),
        (int, 'must be "object"'),
        (list[int], 'must be "object"'),
        (Add | Mul, 'must be "object"'),
        (Point | Trip, "describes no reply"),
        (Array, 'must be "object"'),
        (RootModel[list[int]], 'must be "object"'),
        (Point(1), "describes no reply"),
        (Tree(word="w"), "describes no reply"),
        (42, "describes no reply"),
        (object, "describes no reply"),
        (Annotated[Trip, 1] | complex, "describes no reply"),
    ],
)
def test_what_describes_no_reply_is_refused_with_the_reason(source: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        output_of(source)
    assert words in str(caught.value)


def test_a_schema_that_holds_itself_is_refused() -> None:
    endless: dict[str, Any] = {"title": "T", "type": "object"}
    endless["properties"] = {"a": endless}
    with pytest.raises(ConfigError, match="no JSON schema"):
        output_of(endless)


@pytest.mark.parametrize("name", ["", "a b", "a" * 65, "名字", "a\n"])
def test_a_reply_needs_a_name_that_endpoints_take(name: str) -> None:
    with pytest.raises(ConfigError, match="a name is 1 to 64"):
        ReplySchema(name, "", {"type": "object"})


def test_a_definition_is_kept_only_where_it_is_still_referred_to() -> None:
    assert "$defs" not in output_of(Point).schema.schema
    assert output_of(Trip).schema.schema["$defs"].keys() == {"Point"}
    assert output_of(Tree).schema.schema["$defs"].keys() == {"Tree"}


def test_pydantic_is_not_imported() -> None:
    program = "import sys, stepwell.agent.replies as r; r.output_of('chat'); sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=50, check=False).returncode == 0


# How a reply is asked for.


@pytest.mark.parametrize(
    ("native", "dialect", "json_mode", "form", "alone"),
    [
        (True, False, False, "tool", "tool"),
        (True, False, True, "tool", "json"),
        (True, True, True, "text", "json"),
        (False, False, True, "json", "json"),
        (False, False, False, "text", "text"),
        (False, True, False, "text", "text"),
    ],
)
def test_the_form_follows_from_what_the_model_can(
    native: bool, dialect: bool, json_mode: bool, form: Form, alone: Form
) -> None:
    profile = ModelProfile(native_tools=native, json_mode=json_mode)
    assert choose_form(profile, dialect=dialect) == form
    assert choose_form(profile, dialect=dialect, tools=False) == alone


@pytest.mark.parametrize(
    ("tools", "asked", "forced", "choice"),
    [
        (NO_TOOLS, "", False, "simple_thought"),
        (NO_TOOLS, "auto", True, "simple_thought"),
        (TOOLS, "", False, ""),
        (TOOLS, "auto", False, "auto"),
        (TOOLS, "", True, "required"),
        (TOOLS, "auto", True, "required"),
        (TOOLS, "required", False, "required"),
        (TOOLS, "none", False, "simple_thought"),
        (TOOLS, "none", True, "simple_thought"),
        (TOOLS, "search", True, "search"),
    ],
)
def test_beside_tools_the_model_may_give_reply_and_calls(
    tools: ToolSpecs, asked: str, forced: bool, choice: str
) -> None:
    before = Settings(temperature=0.3, tool_choice=asked)
    joined, after, words = with_reply(tools, before, THOUGHT, "tool", forced=forced)
    assert [tool.name for tool in joined] == [*(tool.name for tool in tools), "simple_thought"]
    assert joined[-1] == ToolSpec(THOUGHT.name, THOUGHT.description, THOUGHT.schema)
    assert (after, words) == (Settings(temperature=0.3, tool_choice=choice), "")


def test_the_wire_carries_a_forced_reply_as_a_function() -> None:
    tools, after, _ = with_reply(NO_TOOLS, Settings(), THOUGHT, "tool")
    fields = tail_fields(ModelRequest(Transcript(), tools, after), ModelProfile())
    assert fields["tool_choice"] == {"type": "function", "function": {"name": "simple_thought"}}
    assert json.loads(tools_json(tools))[0]["function"]["parameters"] == THOUGHT.schema


def test_the_wire_carries_a_reply_in_json_mode_as_its_schema() -> None:
    tools, after, words = with_reply(NO_TOOLS, Settings(temperature=0.3), THOUGHT, "json")
    assert (tools, words) == (NO_TOOLS, "")
    sent = tail_fields(ModelRequest(Transcript(), tools, after), ModelProfile())
    assert sent["temperature"] == 0.3
    assert sent["response_format"]["type"] == "json_schema"
    asked = sent["response_format"]["json_schema"]
    assert asked["name"] == "simple_thought"
    assert asked["schema"] == {"title": THOUGHT.name, "description": THOUGHT.description, **THOUGHT.schema}


@pytest.mark.parametrize(("language", "words"), [("en", "JSON schema"), ("zh", "对象")])
def test_a_reply_is_asked_for_in_words_of_either_language(language: str, words: str) -> None:
    before = Settings(tool_choice="auto")
    tools, after, said = with_reply(TOOLS, before, built_in()["conclusion"], "text", language=language)
    assert tools is TOOLS
    assert after is before
    assert words in said
    assert '"failed_goals"' in said


def test_equal_tools_and_schemas_are_encoded_once() -> None:
    first, _, _ = with_reply(TOOLS, Settings(), THOUGHT, "tool")
    again, _, _ = with_reply(
        ToolSpecs(tuple(TOOLS)), Settings(), output_of("simple_thought").schema, "tool", forced=True
    )
    other, _, _ = with_reply(TOOLS, Settings(), built_in()["chat"], "tool")
    assert first is again
    assert first is not other


def test_a_tool_that_has_the_name_of_a_reply_is_refused() -> None:
    tools = ToolSpecs((ToolSpec("chat", "Chat.", {"type": "object"}),))
    with pytest.raises(ConfigError, match="both named 'chat'"):
        with_reply(tools, Settings(), built_in()["chat"], "tool")


# How an answer is read.

SEARCH = ToolCall("1", "search", "{}")


@pytest.mark.parametrize("form", FORMS)
def test_the_reply_is_the_first_call_of_its_name_and_the_others_are_calls(form: Form) -> None:
    reply, second = ToolCall("2", "simple_thought", ' {"thought": "a"} '), ToolCall("3", "simple_thought", "{}")
    message = calls(SEARCH, reply, second, content='{"thought": "b"}')
    assert split(message, THOUGHT, form) == ('{"thought": "a"}', (SEARCH,))
    assert split(calls(SEARCH), THOUGHT, form) == (None, (SEARCH,))
    assert split(calls(ToolCall("2", "simple_thought")), THOUGHT, form) == ("{}", ())


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ('{"thought": "a"}', True),
        ('\n\t{"thought": "a"} \n', True),
        ('```json\n{"thought": "a"}\n```', True),
        ('```\n{"thought": "a"}```', True),
        ('Here it is:\n```json\n{"thought": "a"}\n```\nDone.', False),
        ('My thought is {"thought": "a"}.', False),
        ('The set {x, y} and {"k"} and {z}; so {"thought": "a"}', False),
        ('Like {"word": "w"} or {}: {"thought": "a"} {"thought": "b"}', False),
        ('A lone { and a lone " and then {"thought": "a"}', False),
        ('A lone {" and then {"thought": "a"}', False),
        ('{{"thought": "a"}}', False),
        ('{"thought": "b", "x": {"thought": "c"}, oops} {"thought": "a"}', False),
    ],
)
def test_a_reply_is_found_in_text(text: str, whole: bool) -> None:
    for form in FORMS:
        expected = '{"thought": "a"}' if whole or form != "tool" else None
        assert split(says(text), THOUGHT, form) == (expected, ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("No object at all.", None),
        ("{", None),
        ("{not json}", None),
        ('["thought"]', None),
        ('{"word": 1} {"other": 2}', '{"word": 1}'),
        ('So: {"thought": "a",} and more', '{"thought": "a",}'),
        ('{"plan": {"thought": "b"}, oops} end', '{"plan": {"thought": "b"}, oops}'),
        ('{"thought": "use {} to ', '{"thought": "use {} to'),
        ('{"thought": ["a", ', '{"thought": ["a",'),
    ],
)
def test_without_a_good_reply_the_broken_one_is_shown(text: str, expected: str | None) -> None:
    assert split(says(text), THOUGHT, "text") == (expected, ())
    if expected is not None:
        assert isinstance(validate(THOUGHT, expected), Fault)


_plain = st.text(st.characters(exclude_characters="{}\"'`\\", exclude_categories=["Cs"]), max_size=30)
_value = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(_plain, _plain, st.text(max_size=40), _value, st.booleans())
def test_padding_with_prose_never_hides_a_reply(before: str, after: str, thought: str, more: Any, ascii: bool) -> None:
    raw = json.dumps({"thought": thought, "more": more}, ensure_ascii=ascii)
    assert split(says(f"{before}{raw}{after}"), THOUGHT, "text")[0] == raw
    fenced = f"{before}\n```json\n{raw}\n```\n{after}"
    assert split(says(fenced), THOUGHT, "json")[0] == raw


@given(st.text(max_size=40), _value, st.data())
def test_a_reply_that_is_cut_anywhere_is_a_fault_and_never_mended(thought: str, more: Any, data: st.DataObject) -> None:
    raw = json.dumps({"thought": thought, "more": more})
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    found, _ = split(says(cut), THOUGHT, "text")
    assert found is None or cut.rstrip().endswith(found)
    assert isinstance(validate(THOUGHT, found), Fault)


@given(st.text(st.sampled_from('{}[]",:\\ ab0`\n'), max_size=200))
@settings(max_examples=300)
def test_any_text_is_read_without_an_error(text: str) -> None:
    for form in FORMS:
        found, others = split(says(text), THOUGHT, form)
        assert others == ()
        assert found is None or found in text
        assert isinstance(validate(THOUGHT, found), Fault)


MEGABYTE = 1_000_000
HOSTILE = {
    "braces": "{" * MEGABYTE,
    "nested without end": '{"a":' * 200_000,
    "10k nested": '{"a":' * 10_000 + "1" + "}" * 10_000,
    "objects begun": '{"a" ' * 200_000,
    "keys begun": '{"' * 500_000,
    "empty objects": "{}" * 500_000,
    "lists begun": ('{"a":[' + "0," * 500 + '"x"],"b":') * 950,
    "blanks": ("{" + " " * 1000) * 1000,
    "quotes": '"' * MEGABYTE,
    "backslashes": "{" + "\\" * MEGABYTE,
    "fences": "```" * 330_000,
    "cut": '{"thought":"' + "x" * (MEGABYTE - 20),
    "digits": '{"thought":' + "9" * (MEGABYTE - 20) + "}",
    "too long": '{"thought":"' + "x" * 2 * MEGABYTE + '"}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_of_hostile_text_is_a_fault_at_once(name: str) -> None:
    began = time.process_time()
    for form in FORMS:
        found, _ = split(says(HOSTILE[name]), THOUGHT, form)
        fault = validate(THOUGHT, found)
        assert isinstance(fault, Fault)
        assert 0 < len(fault.reason) <= LONGEST_REASON
    assert time.process_time() - began < 8


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ('{"v":"' + "x" * 999_000 + '"}', {"type": "string"}),
        ('{"v":[' + "0," * 490_000 + "0]}", {"type": "array", "items": {"type": "integer"}}),
        ("{" + ",".join(f'"{n}":""' for n in range(80_000)) + "}", {}),
    ],
)
def test_a_megabyte_of_good_reply_is_read_in_time(text: str, rules: dict[str, Any]) -> None:
    began = time.process_time()
    schema = form_of(**rules)
    found, _ = split(says(f"Reply: {text}"), schema, "text")
    assert isinstance(validate(schema, found), Value)
    assert time.process_time() - began < 6


def test_a_reply_of_nested_unions_is_checked_in_time() -> None:
    text = '{"type": "number", "value": 1}'
    for _ in range(40):
        text = f'{{"type": "mul", "left": {text}, "right": {{"type": "number", "value": 2}}}}'
    began = time.process_time()
    found = validate(output_of(Sum), f'{{"of": {text}}}')
    assert isinstance(found, Value)
    assert isinstance(found.value, Sum)
    assert isinstance(found.value.of, Mul)
    assert time.process_time() - began < 4


# What is wrong with an answer.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "the reply `simple_thought` is missing"),
        ("", "cut off"),
        ('{"thought": "a"', "cut off"),
        ('{"thought": "a",}', "not valid JSON"),
        ('{"thought": "a"} and more', "more text after"),
        ('["a"]', "an array, not a JSON object"),
        ("null", "null, not a JSON object"),
        ('{"thought": "a", "thought": "b"}', "`thought` is there twice"),
        ('{"thought": NaN}', "NaN is not a JSON number"),
        ('{"thought": -Infinity}', "-Infinity is not a JSON number"),
        ('{"thought": 1e999}', "too large"),
        ('{"thought": 3}', "field `thought` must be string, not integer"),
        ('{"thought": null}', "field `thought` must be string, not null"),
        ('{"Thought": "a"}', "field `thought` is missing; field `Thought` is unknown"),
    ],
)
def test_a_fault_says_what_is_wrong(text: str | None, words: str) -> None:
    assert words in reason(THOUGHT, text)


UNION = {"anyOf": [{"type": "integer", "minimum": 5}, {"type": "null"}]}
NODE = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}, "n": {"type": "integer"}},
    "required": ["n"],
}


@pytest.mark.parametrize(
    ("rules", "good", "bad", "words"),
    [
        ({"type": "boolean"}, True, 1, "must be boolean, not integer"),
        ({"type": "integer"}, 1.0, 1.5, "must be integer, not number"),
        ({"type": "integer"}, 1, True, "must be integer, not boolean"),
        ({"type": "number"}, 1, "1", "must be number, not string"),
        ({"type": ["string", "null"]}, None, 1, "must be string or null, not integer"),
        ({"enum": ["a", 1]}, 1, True, 'must be one of ["a", 1]'),
        ({"const": "好"}, "好", "坏", 'must be "好"'),
        ({"const": None}, None, 0, "must be null"),
        ({"type": "number", "minimum": 0.5}, 0.5, 0, "must be at least 0.5"),
        ({"maximum": 10}, 10, 10**300, "must be at most 10"),
        ({"exclusiveMinimum": 0}, 1, 0, "must be above 0"),
        ({"exclusiveMaximum": 1000000}, 1, 1000000, "must be below 1000000"),
        ({"minLength": 2}, "好的", "好", "at least 2 characters"),
        ({"maxLength": 2}, 12345, "abc", "at most 2 characters"),
        ({"minItems": 1}, [1], [], "at least 1 entries"),
        ({"maxItems": 1}, [1], [1, 2], "at most 1 entries"),
        ({"minProperties": 1}, {"a": 1}, {}, "at least 1 fields"),
        ({"maxProperties": 1}, {"a": 1}, {"a": 1, "b": 2}, "at most 1 fields"),
        (UNION, None, "x", "must be integer or null, not string"),
        (UNION, 5, 4, "must be at least 5"),
        ({"oneOf": [{"type": "string"}, {"type": "array"}]}, [], {}, "must be string or array, not object"),
        ({"allOf": [{"type": "string"}, {"maxLength": 1}]}, "a", "ab", "at most 1 characters"),
        ({"items": {"type": "string"}}, ["a"], ["a", 1], "field `v[1]` must be string"),
        ({"items": [{"type": "string"}, {}]}, ["a", 1, 2], [1], "field `v[0]` must be string"),
        ({"prefixItems": [{"type": "string"}], "items": False}, ["a"], ["a", 1], "field `v[1]` must not be there"),
        ({"additionalProperties": {"type": "integer"}}, {"a": 1}, {"a": ""}, "field `v.a` must be integer"),
        ({"additionalProperties": False, "patternProperties": {"a": {}}}, {"ab": 1}, None, ""),
        ({"required": ["a"]}, {"a": 1}, {}, "field `v.a` is missing"),
        (
            {"$ref": "#/$defs/Node"},
            {"n": 1, "next": {"n": 2}},
            {"n": 1, "next": {"n": ""}},
            "`v.next.n` must be integer",
        ),
        ({"$ref": "#/definitions/Old"}, "a", 1, "must be string"),
        ({"$ref": "#/$defs/a~1b~0"}, "a", 1, "must be string"),
        ({"$ref": "#/$defs/Loop"}, "a", None, ""),
        ({"items": {"$ref": "#"}}, [{"v": [{}]}], [{"v": [3]}], "field `v[0].v[0]` must be object"),
    ],
)
def test_the_keywords_of_a_schema_hold(rules: dict[str, Any], good: Any, bad: Any, words: str) -> None:
    definitions = {"Node": NODE, "a/b~": {"type": "string"}, "Loop": {"anyOf": [{"$ref": "#/$defs/Loop"}]}}
    schema = ReplySchema(
        "it",
        "",
        {
            "type": "object",
            "properties": {"v": rules},
            "$defs": definitions,
            "definitions": {"Old": {"type": "string"}},
        },
    )
    assert isinstance(validate(schema, json.dumps({"v": good})), Value)
    if words:
        assert words in reason(schema, json.dumps({"v": bad}))


def test_a_union_names_what_is_wrong_with_the_choice_that_comes_closest() -> None:
    found = validate(output_of(Sum), '{"of": {"type": "add", "left": {"type": "number", "value": "x"}, "right": 1}}')
    assert isinstance(found, Fault)
    assert found.path.startswith("of")


def test_faults_of_types_name_the_field() -> None:
    assert validate(output_of(Tree), '{"word": "a", "children": [{"word": "b1"}]}') == Fault(
        "children.0.word", "field `children.0.word` is wrong: Value error, no digits in a word"
    )
    assert validate(output_of(Strict), '{"day": "yesterday", "pair": [1, "a"]}').__class__ is Fault

    class Day(msgspec.Struct):
        day: date

    found = validate(output_of(Day), '{"day": "yesterday"}')
    assert isinstance(found, Fault)
    assert found.path == "day"
    assert "RFC3339" in found.reason


def test_a_whole_number_written_with_a_point_is_one() -> None:
    assert validate(output_of(Point), '{"x": 3.0}') == Value({"x": 3.0}, Point(3))


def test_a_reason_is_short_whatever_the_reply_holds() -> None:
    wide = json.dumps({"k" * 100_000 + str(n): n for n in range(5)})
    deep = '{"v":' * 30 + '"x"' + "}" * 30
    recursive = ReplySchema("it", "", {"type": "object", "properties": {"v": {"$ref": "#"}}})
    long = form_of(enum=["x" * 100_000])
    for schema, text in ((THOUGHT, wide), (recursive, deep), (long, '{"v": 1}')):
        fault = validate(schema, text)
        assert isinstance(fault, Fault)
        assert len(fault.reason) <= LONGEST_REASON
        assert len(fault.path) <= 200
    many = form_of(items={"type": "string"})
    assert reason(many, json.dumps({"v": list(range(1000))})).count("must be string") == 6


def test_a_reason_can_be_stored_and_sent_whatever_the_reply_holds() -> None:
    fault = validate(THOUGHT, '{"a\\u0000\\ud800": 1}')
    assert isinstance(fault, Fault)
    assert "\0" not in fault.reason
    assert fault.reason.encode()


def test_a_reply_nested_deeper_than_any_is_a_fault() -> None:
    schema = ReplySchema(
        "it", "", {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}, "$defs": {"Node": NODE}}
    )
    text = '{"next":' * 99 + "{}" + "}" * 99
    assert isinstance(validate(schema, text), Fault)


# How a broken reply is asked for again.


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_repair_shows_the_fault_the_reply_and_the_schema(language: str) -> None:
    words = repair_prompt(THOUGHT, '{"thought": {schema}}', Fault("thought", "the fault"), language)
    assert "the fault" in words
    assert '{"thought": {schema}}' in words
    assert '"What you make of the situation and what you do next."' in words


def test_a_repair_of_a_long_reply_shows_its_head_and_tail() -> None:
    words = repair_prompt(THOUGHT, "HEAD" + "x" * MEGABYTE + "TAIL\0", Fault("", "f"))
    assert "HEAD" in words
    assert "TAIL\ufffd" in words
    assert "1,000,009 characters in all" in words
    assert len(words) < LONGEST_SHOWN + 3_000
