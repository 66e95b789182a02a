"""Schemas from signatures and docstrings, and values from arguments."""

import dataclasses
import enum
import functools
from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

import msgspec
import pydantic
import pytest
from inline_snapshot import snapshot

from stepwell.errors import ConfigError
from stepwell.tools.arguments import BadArguments
from stepwell.tools.base import ToolContext
from stepwell.tools.schema import Parameters, read_docstring, read_function

if TYPE_CHECKING:
    from decimal import Decimal as Missing


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Options(TypedDict, total=False):
    deep: bool


class Range(msgspec.Struct):
    low: int
    high: int


class Owner(pydantic.BaseModel):
    name: str


class Pet(pydantic.BaseModel):
    age: int
    owner: Owner


def read(function: Callable[..., Any]) -> Parameters:
    return read_function(function, ToolContext, "Tool `f`")


def search(
    query: str,
    days: int = 7,
    color: Color = Color.RED,
    point: Point | None = None,
    *,
    tags: list[str] = [],  # noqa: B006
    sort: Literal["new", "old"] = "new",
    score: Annotated[float, msgspec.Meta(ge=0)] = 0.5,
    context: ToolContext,
) -> str:
    """Search the archive."""
    return query


search.__doc__ = """Search the archive
    for something.

    It is slow.

    Args:
        query (str): What to look for: words
            or a phrase.
        days: How far back.
        context: Not for the model.

    Returns:
        nothing: at all
    """


def test_a_signature_and_its_docstring_become_a_schema() -> None:
    parameters = read(search)
    assert parameters.description == "Search the archive for something."
    assert parameters.injected == "context"
    assert parameters.schema == snapshot(
        {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "What to look for: words or a phrase."},
                "days": {"type": "integer", "description": "How far back.", "default": 7},
                "color": {"$ref": "#/$defs/Color", "default": "red"},
                "point": {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}]},
                "tags": {"type": "array", "items": {"type": "string"}, "default": []},
                "sort": {"enum": ["new", "old"], "default": "new"},
                "score": {"type": "number", "minimum": 0, "default": 0.5},
            },
            "required": ["query"],
            "additionalProperties": False,
            "$defs": {
                "Color": {"title": "Color", "enum": ["blue", "red"]},
                "Point": {
                    "title": "Point",
                    "type": "object",
                    "properties": {"x": {"type": "integer"}, "y": {"type": "integer", "default": 0}},
                    "required": ["x"],
                },
            },
        }
    )


def test_fields_in_rest_style_are_read() -> None:
    text = """Add numbers.

    :param int a: The first
        number.
    :param b: The second.
    :returns: c
    :raises ValueError: never
    """
    assert read_docstring("\n".join(line.strip() if ":" in line else line for line in text.splitlines())) == (
        "Add numbers.",
        {"a": "The first number.", "b": "The second."},
    )


def test_a_docstring_may_be_written_with_chinese_signs() -> None:
    text = "查询天气。\n\n参数：\n    城市（字符串）：城市名\n    days（整数, 可选）: 天数\n返回：\n    文本"
    assert read_docstring(text) == ("查询天气。", {"城市": "城市名", "days": "天数"})
    assert read_docstring(":param 城市： 城市名") == ("", {"城市": "城市名"})


def test_a_function_that_can_also_be_called_without_a_context_gets_it_all_the_same() -> None:
    def f(a: int, context: ToolContext | None = None) -> None:
        pass

    parameters = read(f)
    assert (parameters.injected, [*parameters.fields]) == ("context", ["a"])


def test_a_docstring_without_a_summary_has_no_description() -> None:
    assert read_docstring("Args:\n    a: The first.") == ("", {"a": "The first."})
    assert read_docstring(":param a: The first.") == ("", {"a": "The first."})
    assert read_docstring("") == ("", {})


def test_a_function_without_annotations_takes_anything() -> None:
    def f(a, b=None, c: object = 1):
        return a, b, c

    parameters = read(f)
    assert parameters.schema["properties"] == {"a": {}, "b": {}, "c": {"default": 1}}
    assert parameters.parse({"a": [1, {"x": None}]}) == {"a": [1, {"x": None}]}


def test_methods_partials_and_callable_objects_are_read() -> None:
    class Adder:
        def __init__(self, base: int) -> None:
            self.base = base

        def add(self, n: int) -> int:
            """Add to the base."""
            return self.base + n

        def __call__(self, n: int) -> int:
            """Add, when called."""
            return self.base + n

    for function, description in [
        (Adder(1).add, "Add to the base."),
        (Adder(1), "Add, when called."),
        (functools.partial(Adder.add, Adder(1)), "Add to the base."),
    ]:
        parameters = read(function)
        assert (parameters.description, list(parameters.fields)) == (description, ["n"])
        assert parameters.schema["properties"] == {"n": {"type": "integer"}}


def test_pydantic_models_are_described_and_checked() -> None:
    def f(pet: Pet, others: list[Pet] = []) -> None:  # noqa: B006
        """Take pets."""

    parameters = read(f)
    assert parameters.schema["$defs"]["Owner"]["required"] == ["name"]
    assert parameters.schema["properties"]["pet"]["properties"]["owner"] == {"$ref": "#/$defs/Owner"}
    good = {"age": 3, "owner": {"name": "x"}}
    assert parameters.parse({"pet": good}) == {"pet": Pet(age=3, owner=Owner(name="x"))}
    with pytest.raises(BadArguments) as raised:
        parameters.parse({"pet": good, "others": [{"age": "old", "owner": {}}]})
    assert str(raised.value).split("; ") == snapshot(
        [
            "field `others[0]`: age: Input should be a valid integer, unable to parse string as an integer",
            "owner.name: Field required",
        ]
    )


@pytest.mark.parametrize(
    ("hint", "given", "value"),
    [
        (int, 3, 3),
        (int, "3", 3),
        (int, 3.0, 3),
        (int, 10**30, 10**30),
        (float, 1, 1.0),
        (float, "1.5", 1.5),
        (bool, "true", True),
        (str, "3", "3"),
        (str, "", ""),
        (int | str, "3", "3"),
        (int | None, None, None),
        (list[int], ["1", 2], [1, 2]),
        (dict[int, float], {"1": 2}, {1: 2.0}),
        (Literal["a", "b"], "b", "b"),
        (Color, "blue", Color.BLUE),
        (Point, {"x": "1"}, Point(1)),
        (Range, {"low": 1, "high": 2}, Range(1, 2)),
        (Options, {"deep": "false"}, {"deep": False}),
        (date, "2024-02-29", date(2024, 2, 29)),
        (list[Point], [{"x": 1, "y": 2}], [Point(1, 2)]),
    ],
)
def test_values_are_converted_where_no_doubt_is_left(hint: Any, given: Any, value: Any) -> None:
    def f(a: Any) -> None:
        """Take one value."""

    f.__annotations__["a"] = hint
    found = read(f).parse({"a": given})["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("hint", "given", "reason"),
    [
        (int, "three", "field `a`: Expected `int`, got `str`"),
        (int, 3.5, "field `a`: Expected `int`, got `float`"),
        (int, True, "field `a`: Expected `int`, got `bool`"),
        (int, None, "field `a`: Expected `int`, got `null`"),
        (int, "9" * 5000, "field `a`: Integer value out of range"),
        (str, 3, "field `a`: Expected `str`, got `int`"),
        (str, ["x"], "field `a`: Expected `str`, got `array`"),
        (bool, "yes", "field `a`: Expected `bool`, got `str`"),
        (float, "nan", "field `a`: Expected `float`, got `str`"),
        (list[float], [1, " -Infinity"], "field `a[1]`: Expected `float`, got `str`"),
        (list[int], "[1, 2]", "field `a`: Expected `array`, got `str`"),
        (dict[str, int], {"x": []}, "field `a[...]`: Expected `int`, got `array`"),
        (Literal["a", "b"], "c", "field `a`: Invalid enum value 'c'"),
        (Color, "green", "field `a`: Invalid enum value 'green'"),
        (Point, {"y": 1}, "field `a`: Object missing required field `x`"),
        (list[Point], [{"x": 1}, {"x": "one"}], "field `a[1].x`: Expected `int`, got `str`"),
        (Annotated[int, msgspec.Meta(ge=1)], 0, "field `a`: Expected `int` >= 1"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_and_its_place_named(hint: Any, given: Any, reason: str) -> None:
    def f(a: Any) -> None:
        """Take one value."""

    f.__annotations__["a"] = hint
    with pytest.raises(BadArguments) as raised:
        read(f).parse({"a": given})
    assert str(raised.value) == reason


def test_every_fault_of_a_call_is_named_at_once() -> None:
    with pytest.raises(BadArguments) as raised:
        read(search).parse({"days": "many", "colour": "red", "sort": "up"})
    assert str(raised.value).split("; ") == snapshot(
        [
            "unknown field `colour`",
            "missing field `query`",
            "field `days`: Expected `int`, got `str`",
            "field `sort`: Invalid enum value 'up'",
        ]
    )


def test_null_for_a_field_that_may_be_left_out_leaves_it_out() -> None:
    assert read(search).parse({"query": "x", "days": None, "point": None}) == {"query": "x", "point": None}


def test_only_what_was_given_reaches_the_function() -> None:
    assert read(search).parse({"query": "x"}) == {"query": "x"}


def test_the_injected_parameter_cannot_be_given() -> None:
    with pytest.raises(BadArguments, match="unknown field `context`"):
        read(search).parse({"query": "x", "context": {}})


def unresolved(a: "Missing") -> None:
    """Take a type that is not there at run time."""


def unnamed(*names: str) -> None:
    """Take any number."""


def keywords(**names: str) -> None:
    """Take any names."""


def positional(a: int, /) -> None:
    """Take it by place."""


def unknown(a: int, b: complex) -> None:
    """Take a type without a schema."""


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (unresolved, "Tool `f`: name 'Missing' is not defined; import the type where the function is defined"),
        (unnamed, r"Tool `f`: a model cannot fill `\*names: str`"),
        (keywords, r"Tool `f`: a model cannot fill `\*\*names: str`"),
        (positional, "Tool `f`: a model cannot fill `a: int`"),
        (unknown, "Tool `f`: parameter `b` has a type without a JSON schema: .*complex"),
    ],
)
def test_what_no_schema_can_say_is_refused_when_the_tool_is_made(function: Callable[..., Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read(function)


def test_what_a_partial_binds_by_name_is_neither_shown_nor_changed() -> None:
    def send(to: str, *, key: str, times: int = 1) -> str:
        """Send it."""
        return f"{to} {key} {times}"

    parameters = read(functools.partial(send, key="s3cret"))
    assert list(parameters.schema["properties"]) == ["to", "times"]
    assert "s3cret" not in str(parameters.schema)
    with pytest.raises(BadArguments, match="unknown field `key`"):
        parameters.parse({"to": "Ann", "key": "another"})


@pytest.mark.parametrize("annotation", ["1 | int", "list[int", "functools.nothing"])
def test_annotations_that_cannot_be_read_are_named_and_not_taken_for_none(annotation: str) -> None:
    def f(a: int, context: ToolContext) -> None:
        """Do it."""

    f.__annotations__["a"] = annotation
    with pytest.raises(ConfigError, match="annotations cannot be read"):
        read(f)
