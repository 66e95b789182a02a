"""Steps as a JSON schema: it allows what the tools take, in the keywords that grammars are made of."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.agent.reply_reading import faults, read_rules
from stepwell.messages import Message, ToolSpecs, Transcript
from stepwell.models.base import ModelRequest, Settings
from stepwell.models.dialects.forms import loosened, steps
from tests.models.dialects.reading import NAMES, TOOLS, dialect

KNOWN = {"type", "title", "const", "enum", "anyOf", "items", "properties", "required", "additionalProperties"}
ANY = {"anyOf": [{"type": kind} for kind in ("string", "number", "boolean", "null", "object", "array")]}
LOOSENED: dict[str, tuple[Any, dict[str, Any]]] = {
    "a text with rules": (
        {"type": "string", "description": "d", "minLength": 1, "pattern": "^a", "format": "date"},
        {"type": "string"},
    ),
    "a choice of texts": ({"type": "string", "enum": ["a", "b"]}, {"enum": ["a", "b"]}),
    "null alone": ({"const": None}, {"const": None}),
    "several kinds": ({"type": ["integer", "null"]}, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
    "one of several": ({"oneOf": [{"type": "number"}]}, {"anyOf": [{"type": "number"}]}),
    "anything": ({}, ANY),
    "true": (True, ANY),
    "what is defined elsewhere": ({"$ref": "#/$defs/x"}, ANY),
    "all of several": ({"allOf": [{"type": "string"}]}, ANY),
    "a kind that is none": ({"type": "text"}, ANY),
    "a list": ({"type": "array", "uniqueItems": True}, {"type": "array"}),
    "a list of texts": ({"type": "array", "items": {"type": "string"}}, {"type": "array", "items": {"type": "string"}}),
    "an object": ({"type": "object", "propertyNames": {}}, {"type": "object"}),
    "an object without fields": (
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {}, "required": []},
    ),
    "an object with others": (
        {"type": "object", "properties": {"a": {}}, "required": ["a", "b"], "additionalProperties": {"type": "null"}},
        {"type": "object", "properties": {"a": ANY}, "required": ["a"], "additionalProperties": {"type": "null"}},
    ),
}


@pytest.mark.parametrize(("schema", "expected"), LOOSENED.values(), ids=LOOSENED)
def test_a_schema_keeps_what_every_server_knows_of_it(schema: Any, expected: dict[str, Any]) -> None:
    assert loosened(schema) == expected


def test_a_schema_nested_without_end_is_kept_to_a_depth() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    made, depth = loosened(schema), 0
    while "items" in made:
        made, depth = made["items"], depth + 1
    assert (depth, made) == (16, ANY)


def fits(step: dict[str, Any], form: dict[str, Any]) -> bool:
    return any(not faults(read_rules(each), step) for each in form["anyOf"])


def keywords(schema: dict[str, Any]) -> set[str]:
    found = set(schema)
    inner = [*schema.get("anyOf", ()), *schema.get("properties", {}).values()]
    for each in (*inner, schema["items"]) if "items" in schema else inner:
        found |= keywords(each)
    return found


def test_the_schema_of_a_step_allows_calls_of_the_tools_and_an_answer() -> None:
    form = steps(TOOLS, "Final Answer", None)
    assert keywords(form) <= KNOWN
    for action, given, allowed in (
        ("shell", {"query": "ls"}, True),
        ("shell", {"query": 1}, False),
        ("shell", {}, False),
        ("weather", {"city": "Rome", "days": 2}, True),
        ("weather", {"query": "ls"}, False),
        ("now", {}, True),
        ("store", {"value": [1, {"a": None}], "name": None, "many": [[1]], "deep": {"a": 1}}, True),
        ("Final Answer", "yes", True),
        ("Final Answer", {}, False),
        ("another", {}, False),
    ):
        step = {"thought": "", "action": action, "action_input": given}
        assert fits(step, form) == allowed, step
    assert not fits({"action": "now", "action_input": {}}, form)


def test_only_a_dialect_whose_reply_is_one_object_has_a_schema() -> None:
    request = ModelRequest(Transcript([Message("user", "x")]), TOOLS)
    assert [name for name in NAMES if dialect(name).form(request) is not None] == ["structured"]


@pytest.mark.parametrize(
    ("choice", "actions"),
    [
        ("", ["shell", "weather", "store", "now", "Final Answer"]),
        ("auto", ["shell", "weather", "store", "now", "Final Answer"]),
        ("required", ["shell", "weather", "store", "now"]),
        ("now", ["now"]),
    ],
)
def test_the_schema_allows_what_may_be_called(choice: str, actions: list[str]) -> None:
    request = ModelRequest(Transcript(), TOOLS, Settings(tool_choice=choice))
    form = dialect("structured").form(request)
    assert form is not None
    assert [each["properties"]["action"]["const"] for each in form["anyOf"]] == actions


def test_where_no_tool_may_be_called_there_is_no_schema() -> None:
    spoken = dialect("structured")
    assert spoken.form(ModelRequest(Transcript(), TOOLS, Settings(tool_choice="none"))) is None
    assert spoken.form(ModelRequest(Transcript(), ToolSpecs())) is None
