"""Reading the text of a call's arguments, and comparing it with a schema."""

from typing import Any

import pytest

from stepwell.tools.arguments import PREVIEW, TOLD, BadArguments, check, malformed, preview, read_object, takes

BAD = {
    "truncated": ('{"query": "1+', "cut off"),
    "truncated in the middle": ('{"query": ', "cut off"),
    "null": ("null", "null, not a JSON object"),
    "a list": ("[]", "an array, not a JSON object"),
    "a text": ('"x"', "a string, not a JSON object"),
    "a number": ("1", "an integer, not a JSON object"),
    "true": ("true", "a boolean, not a JSON object"),
    "twice the same field": ('{"query": "a", "query": "b"}', "field `query` is there twice"),
    "twice in depth": ('{"a": [{"b": 1, "b": 1}]}', "field `b` is there twice"),
    "NaN": ('{"n": NaN}', "NaN is not a JSON number"),
    "Infinity": ('{"n": -Infinity}', "-Infinity is not a JSON number"),
    "beyond floats": ('{"n": 1e999}', "too large"),
    "5000 digits": ('{"n": ' + "9" * 5000 + "}", "5,000 digits"),
    "1000 deep": ('{"n": ' + "[" * 1000 + "]" * 1000 + "}", "nested more than 100 deep"),
    "100000 deep": ('{"n": ' + "[" * 100_000, "nested more than 100 deep"),
    "101 deep": ('{"n": ' + "[" * 100 + "]" * 100 + "}", "nested more than 100 deep"),
    "a megabyte": ('{"query": "' + "x" * 1_000_000 + '"}', "characters long"),
    "two objects": ('{"query": "a"}{"query": "b"}', "more text after the first JSON value, at character 15"),
    "an object and words": ('{"query": "a"} as asked', "more text after"),
    "Python": ("{'query': 'a'}", "not valid JSON"),
    "words": ("17*23", "more text after"),
}


@pytest.mark.parametrize("name", BAD)
def test_text_that_is_not_one_object_is_refused_with_the_reason(name: str) -> None:
    text, reason = BAD[name]
    with pytest.raises(BadArguments, match=reason.replace("(", r"\(")):
        read_object(text)


def test_an_object_is_read_as_it_is() -> None:
    assert read_object(' {"a": [1, 2.5, true, null, "x"], "b": {}}\n') == {"a": [1, 2.5, True, None, "x"], "b": {}}
    assert read_object('{"n": ' + "[" * 99 + "]" * 99 + "}")["n"] is not None
    assert read_object('{"n": 1' + "0" * 4000 + "}") == {"n": 10**4000}


def test_many_brackets_inside_texts_are_not_depth() -> None:
    assert read_object('{"query": "' + "[" * 500 + '"}') == {"query": "[" * 500}


def test_raw_line_breaks_in_texts_are_taken() -> None:
    assert read_object('{"query": "echo 1\necho 2\t"}') == {"query": "echo 1\necho 2\t"}


def test_a_byte_order_mark_in_front_is_passed_over() -> None:
    assert read_object('\ufeff{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"\\ud83d\\ude00"', "😀"),
        ('"\\ud83d"', "\ufffd"),
        ('"a\\uDE00b"', "a\ufffdb"),
        ('"\ud83d"', "\ufffd"),
        ('"\\u0000"', "\0"),
        ('"\\ud800\\u0000"', "\ufffd\0"),
        ('"\ufffe"', "\ufffe"),
    ],
)
def test_half_characters_become_the_replacement_character(text: str, value: str) -> None:
    assert read_object('{"a": ' + text + "}") == {"a": value}
    assert read_object('{"a": [{' + text + ": 1}]}") == {"a": [{value: 1}]}


def test_a_preview_is_never_longer_than_its_limit_and_shows_both_ends() -> None:
    assert preview("x" * PREVIEW) == "x" * PREVIEW
    shown = preview("start" + "x" * 1_000_000 + "end")
    assert len(shown) == PREVIEW
    assert shown.startswith("start")
    assert shown.endswith("end")
    assert "1,000,008 characters in all" in shown


SCHEMA: dict[str, Any] = {
    "type": "object",
    "$defs": {
        "unit": {"enum": ["c", "f"]},
        "tree": {"type": "object", "properties": {"next": {"$ref": "#/$defs/tree"}}, "additionalProperties": False},
    },
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "share": {"type": "number"},
        "unit": {"$ref": "#/$defs/unit"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "place": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "kind": {"type": ["string", "null"]},
        "tree": {"$ref": "#/$defs/tree"},
        "fixed": {"const": 1},
        "both": {"allOf": [{"type": "string"}, {"enum": ["x"]}]},
        "free": True,
        "loop": {"$ref": "#/properties/loop"},
        "elsewhere": {"$ref": "https://example.com/schema"},
    },
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("more", "faults"),
    [
        ({}, []),
        ({"days": 3, "share": 1, "unit": "c", "tags": ["a"], "place": None, "kind": None, "free": {"x": [1]}}, []),
        ({"days": 3.0, "tree": {"next": {"next": {}}}, "fixed": 1, "both": "x", "loop": 1, "elsewhere": 1}, []),
        ({"days": "3"}, ["field `days` must be integer, not a string"]),
        ({"days": True}, ["field `days` must be integer, not a boolean"]),
        ({"days": 3.5}, ["field `days` must be integer, not a number"]),
        ({"share": "1"}, ["field `share` must be number, not a string"]),
        ({"unit": "k"}, ['field `unit` must be one of ["c", "f"]']),
        ({"tags": ["a", 1]}, ["field `tags[1]` must be string, not an integer"]),
        ({"place": 1}, ["field `place` must be string, not an integer"]),
        ({"kind": 1}, ["field `kind` must be string or null, not an integer"]),
        ({"tree": {"next": {"nxt": {}}}}, ["unknown field `tree.next.nxt`"]),
        ({"fixed": 2}, ["field `fixed` must be 1"]),
        ({"both": "y"}, ['field `both` must be one of ["x"]']),
        ({"town": "x", "days": None}, ["unknown field `town`", "field `days` must be integer, not null"]),
    ],
)
def test_arguments_are_compared_with_a_foreign_schema(more: dict[str, Any], faults: list[str]) -> None:
    assert check(SCHEMA, {"city": "x", **more}) == faults


def test_a_missing_field_is_named() -> None:
    assert check(SCHEMA, {}) == ["missing field `city`"]


def test_a_tool_says_what_it_takes() -> None:
    assert takes(SCHEMA).startswith("It takes: city (string, required), days (integer), share (number), unit (c or f),")
    assert takes({"type": "object"}) == "It takes no fields."


@pytest.mark.parametrize("wrong", [{"required": 5}, {"enum": 5}, {"anyOf": 5}, {"properties": [1]}, {"type": 5}])
def test_a_schema_is_looked_at_wherever_a_reference_leads(wrong: dict[str, Any]) -> None:
    for place in ("definitions", "x"):
        schema = {"type": "object", "properties": {"a": {"$ref": f"#/{place}/A"}}, place: {"A": wrong}}
        assert (malformed(schema) or "").startswith(f"#/{place}/A: `{next(iter(wrong))}` is ")
        inside = {**schema, place: {"A": {"items": {"$ref": f"#/{place}/B"}}, "B": wrong}}
        assert (malformed(inside) or "").startswith(f"#/{place}/B: ")
    around = {"type": "object", "properties": {"a": {"$ref": "#/x/A"}}, "x": {"A": {"items": {"$ref": "#/x/A"}}}}
    assert malformed(around) is None


def test_a_union_without_end_is_told_in_a_line() -> None:
    itself = {"properties": {"a": {"$ref": "#/$defs/N"}}, "$defs": {"N": {"anyOf": [{"$ref": "#/$defs/N"}] * 2}}}
    assert takes(itself) == "It takes: a (any or any or any or any)."
    steps: dict[str, Any] = {f"D{at}": {"anyOf": [{"$ref": f"#/$defs/D{at + 1}"}] * 9} for at in range(99)}
    wide = {"properties": {f"field{at}": {"$ref": "#/$defs/D0"} for at in range(500)}, "$defs": steps}
    assert len(takes(wide)) == TOLD
