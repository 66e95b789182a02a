"""Python literals: where brackets close, and what values they are; nothing is run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.models.dialects.literals import MOST_CHARACTERS, Balanced, as_keywords, keywords_json, literal_json


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("(a)b", 3),
        ("{'}': [1, (2)]}x", 15),
        ('{"a": "}\\"}"} ', 13),
        ("('\\'')'", 6),
        ('("""a\n")""") ', 12),
        ("(", -1),
        ("{'", -1),
        ("{'a\\'}", -1),
        ("[}", 2),
    ],
)
def test_a_bracket_closes_where_it_is_no_part_of_a_text(text: str, end: int) -> None:
    assert Balanced().feed(text) == end
    one_by_one = Balanced()
    closed = next((at + 1 for at, letter in enumerate(text) if one_by_one.feed(letter) > 0), -1)
    assert closed == end


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'a': 1, 'b': [True, None, -2.5,],}", {"a": 1, "b": [True, None, -2.5]}),
        ("(1, 'x')", [1, "x"]),
        ("[true, false, null]", [True, False, None]),
        ("'a' 'b'", "ab"),
        (r"'\x41\u00e9\n\d'", "Aé\n\\d"),
        ("+1", 1),
        (" 5 ", 5),
    ],
)
def test_a_literal_is_its_value(text: str, value: Any) -> None:
    found = literal_json(text)
    assert found is not None
    assert json.loads(found) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "f(1)",
        "1 + 1",
        "2 ** 99999",
        "[x for x in y]",
        "lambda: 1",
        "f'{1}'",
        "b'x'",
        "1j",
        "{1: 2}",
        "{1, 2}",
        "...",
        "{**a}",
        "{'a': 1, 'a': 2}",
        "1e999",
        "__import__('os').system('true')",
        "(" * 5000,
        "-" * 100_000 + "1",
        "[" * 90_000,
        "\0",
        "'\n'",
        "1;2",
        "x := 1",
        "'" + "a" * MOST_CHARACTERS + "'",
        "NaN",
        "9" * 5000,
    ],
)
def test_what_is_no_value_of_json_is_none(text: str) -> None:
    assert literal_json(text) is None


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("()", {}),
        ("(a=1, b='x', )", {"a": 1, "b": "x"}),
        ("({'a': 1})", {"a": 1}),
        ("(**{'a b': 1}, c=2)", {"a b": 1, "c": 2}),
        ("(\n  a = {'b': [1]},\n)", {"a": {"b": [1]}}),
    ],
)
def test_the_arguments_of_a_call_are_an_object(text: str, values: dict[str, Any]) -> None:
    found = keywords_json(text)
    assert found is not None
    assert json.loads(found) == values


@pytest.mark.parametrize(
    "text",
    ["(1)", "('a')", "(1, 2)", "(a=b)", "(a=1, a=2)", "(**{'a': 1}, a=2)", "(*a)", "(a=f())", "()()", "().b", "(a=1"],
)
def test_what_is_no_object_of_arguments_is_none(text: str) -> None:
    assert keywords_json(text) is None


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("{}", ""),
        ('{"a": 1, "b": "x\'y", "c": [true, null, 1.5]}', 'a=1, b="x\'y", c=[True, None, 1.5]'),
        ('{"a b": 1}', None),
        ('{"class": 1}', None),
        ('{"é": 1}', None),
        ('{"a": 1, "a": 2}', None),
        ('{"a": 0.10000000000000000000001}', None),
        ('{"a": 1e5}', None),
        ('{"a": 1e400}', None),
        ('{"a": ' + "9" * 5000 + "}", None),
    ],
)
def test_an_object_is_written_as_keywords_only_where_it_reads_back_the_same(text: str, written: str | None) -> None:
    assert as_keywords(text) == written


@settings(deadline=None)
@given(st.text(st.sampled_from("(){}[]'\"\\,=:a1 \n#-+*f."), max_size=40))
def test_any_text_is_a_value_or_none(text: str) -> None:
    for found in (literal_json(text), keywords_json(f"({text})")):
        assert found is None or json.loads(found) is not ...
