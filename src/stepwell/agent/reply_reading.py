"""Finding a JSON object in what a model wrote, and comparing an object with a JSON schema.

Both take time linear in the text, whatever it is. What a reply is and how it is asked for is in `replies.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from operator import ge, gt, le, lt
from types import MappingProxyType
from typing import Any, cast

import msgspec

from stepwell.tools.arguments import KINDS, Object

MOST_FAULTS = 6
"""Faults that are looked for in one value at most."""

_LONGEST_NAME = 80
_LONGEST_CHOICE = 400
_DEFINITIONS = re.compile(r"#/(?:\$defs|definitions)/")
_OPENING = re.compile(r'\{\s*["}]')
_STRUCTURE = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[{}]', re.DOTALL)
_FENCED = re.compile(r"```\w*\s")
_UNREAD = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str, strict=False)


def object_in(text: str, required: Iterable[str] = ()) -> str | None:
    """Return the first JSON object in a text that has the required fields, else the first, which may be broken.

    An object may stand alone, in a fenced block or amid prose. Nothing inside a broken object is taken for it.
    """
    required = tuple(required)
    found = None
    for raw, names in _objects(text):
        if names is not None and all(name in names for name in required):
            return raw
        found = found or raw
    return found


def unfenced(text: str) -> str:
    """Return a text without the blanks and the one fence around it."""
    text = text.strip()
    opening = _FENCED.match(text)
    return text[opening.end() :].removesuffix("```").strip() if opening else text


def _objects(text: str) -> Iterator[tuple[str, Object | None]]:
    """Yield the text of each object from left to right, with the object unless it is broken."""
    at, end, unclosed = 0, len(text.rstrip()), False
    # A failure may cost as much as the text is long, so a long text is given few of them.
    for _ in range(8 + 200_000 // max(end, 1)):
        opening = _OPENING.search(text, at)
        if opening is None:
            return
        start = opening.start()
        try:
            fields, at = cast(tuple[Object, int], _UNREAD.raw_decode(text, start))
            yield text[start:at], fields
        except RecursionError:
            yield text[start:end], None
            return
        except json.JSONDecodeError as error:
            # After one brace that is never closed the scan for another's end may be as long and as vain.
            closed = 0 if unclosed else _closed(text, start)
            unclosed = not closed
            yield text[start : closed or end], None
            if error.pos >= end or error.msg.startswith("Unterminated"):
                return
            at = closed or start + 1


def _closed(text: str, start: int) -> int:
    """Return where the brace at `start` is closed, or 0."""
    depth = 0
    for match in _STRUCTURE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if not depth:
            return match.end()
    return 0


class Rules(msgspec.Struct, frozen=True, rename="camel"):
    """A JSON schema, of which it knows the keywords that `replies.validate` names."""

    ref: str = msgspec.field(default="", name="$ref")
    defs: dict[str, Rules | bool] = msgspec.field(default_factory=dict[str, "Rules | bool"], name="$defs")
    definitions: dict[str, Rules | bool] = {}
    type: str | tuple[str, ...] = ()
    enum: tuple[Any, ...] | None = None
    const: Any = msgspec.UNSET
    all_of: tuple[Rules | bool, ...] = ()
    any_of: tuple[Rules | bool, ...] = ()
    one_of: tuple[Rules | bool, ...] = ()
    properties: dict[str, Rules | bool] = {}
    pattern_properties: dict[str, Rules | bool] = {}
    required: tuple[str, ...] = ()
    additional_properties: Rules | bool = True
    prefix_items: tuple[Rules | bool, ...] = ()
    items: Rules | bool | tuple[Rules | bool, ...] = True
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: float | None = None
    exclusive_maximum: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    min_items: int | None = None
    max_items: int | None = None
    min_properties: int | None = None
    max_properties: int | None = None


def read_rules(schema: Object) -> Rules:
    """Return the rules of a JSON schema.

    Raises:
        ValueError: A keyword has a value that it cannot have, or a reference names nothing.
    """
    rules = msgspec.convert(schema, Rules)
    for ref in _references(schema):
        if _target(rules, ref) is None:
            raise ValueError(f"`$ref` {ref[:_LONGEST_NAME]!r} names nothing in its `$defs`")
    return rules


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        fields = cast(Object, schema)
        if isinstance(ref := fields.get("$ref"), str):
            yield ref
        for each in fields.values():
            yield from _references(each)
    elif isinstance(schema, list):
        for each in cast(list[object], schema):
            yield from _references(each)


def _target(root: Rules, ref: str) -> Rules | bool | None:
    if ref == "#":
        return root
    name, definitions = _DEFINITIONS.sub("", ref, count=1), root.defs if "/$defs/" in ref else root.definitions
    return definitions.get(name.replace("~1", "/").replace("~0", "~")) if _DEFINITIONS.match(ref) else None


class Found(msgspec.Struct, frozen=True):
    """One thing that is wrong with a value.

    Args:
        path: Where, from the value on; empty for the value itself.
        reason: What, to stand after the name of the place.
        wanted: The type that the value itself should have had, or empty.
    """

    path: str
    reason: str
    wanted: str = ""


def faults(rules: Rules, value: object) -> list[Found]:
    """Return what is wrong with a value by rules, at most `MOST_FAULTS`."""
    return _Check(rules).faults(rules, value)


_Bounds = tuple[tuple[str, Callable[[Any, Any], bool], str], ...]
_NUMBER: _Bounds = (
    ("minimum", ge, "be at least {}"),
    ("maximum", le, "be at most {}"),
    ("exclusive_minimum", gt, "be above {}"),
    ("exclusive_maximum", lt, "be below {}"),
)
_BOUNDS: Mapping[type, _Bounds] = MappingProxyType(
    {
        int: _NUMBER,
        float: _NUMBER,
        str: (("min_length", ge, "have at least {} characters"), ("max_length", le, "have at most {} characters")),
        list: (("min_items", ge, "have at least {} entries"), ("max_items", le, "have at most {} entries")),
        dict: (("min_properties", ge, "have at least {} fields"), ("max_properties", le, "have at most {} fields")),
    }
)
_SIZED = (str, list, dict)


class _Check:
    """One comparison; it remembers what was found behind references.

    A schema of unions that refer to themselves would else be walked in twice as many ways with each level.
    """

    def __init__(self, root: Rules) -> None:
        self._root = root
        self._seen: dict[tuple[str, int], list[Found]] = {}
        self._targets: dict[str, Rules | bool] = {}
        self._plain: dict[int, bool] = {}

    def faults(self, rules: Rules | bool, value: object) -> list[Found]:
        if isinstance(rules, bool):
            return [] if rules else [Found("", "must not be there")]
        kind = KINDS[type(value)]
        if rules.type and kind != rules.type and not _has_type(value, kind, rules.type):
            return [_mistyped(_names(rules.type), value)]
        if (plain := self._plain.get(id(rules))) is None:
            plain = self._plain[id(rules)] = rules == Rules(type=rules.type)
        return [] if plain else list(islice(self._each(rules, value), MOST_FAULTS))

    def _each(self, rules: Rules, value: object) -> Iterator[Found]:
        if rules.ref:
            yield from self._referred(rules.ref, value)
        for each in rules.all_of:
            yield from self.faults(each, value)
        for choices in (rules.any_of, rules.one_of):
            if choices:
                yield from self._chosen(choices, value)
        if rules.enum is not None and not any(_same(each, value) for each in rules.enum):
            yield Found("", f"must be one of {_json(rules.enum)}")
        if rules.const is not msgspec.UNSET and not _same(rules.const, value):
            yield Found("", f"must be {_json(rules.const)}")
        yield from _out_of_bounds(rules, value)
        if isinstance(value, dict):
            yield from self._fields(rules, cast(Object, value))
        elif isinstance(value, list):
            yield from self._entries(rules, cast(list[object], value))

    def _referred(self, ref: str, value: object) -> list[Found]:
        key = (ref, id(value))
        if key not in self._seen:
            # A reference that leads to itself without a step into the value says nothing about it.
            self._seen[key] = []
            self._seen[key] = self.faults(self._target(ref), value)
        return self._seen[key]

    def _target(self, ref: str) -> Rules | bool:
        if ref not in self._targets:
            self._targets[ref] = _target(self._root, ref) or False
        return self._targets[ref]

    def _chosen(self, choices: tuple[Rules | bool, ...], value: object) -> list[Found]:
        tried: list[list[Found]] = []
        for each in choices:
            if not (found := self.faults(each, value)):
                return []
            tried.append(found)
        if fitting := [found for found in tried if not found[0].wanted]:
            return min(fitting, key=len)
        return [_mistyped([found[0].wanted for found in tried], value)]

    def _fields(self, rules: Rules, value: Object) -> Iterator[Found]:
        for name in rules.required:
            if name not in value:
                yield Found(name[:_LONGEST_NAME], "is missing")
        for name, each in value.items():
            if (known := rules.properties.get(name)) is not None:
                yield from _inside(name, self.faults(known, each))
            elif rules.additional_properties is False and not rules.pattern_properties:
                yield Found(name[:_LONGEST_NAME], "is unknown")
            elif isinstance(rules.additional_properties, Rules) and not rules.pattern_properties:
                yield from _inside(name, self.faults(rules.additional_properties, each))

    def _entries(self, rules: Rules, value: list[object]) -> Iterator[Found]:
        first, rest = rules.prefix_items, rules.items
        if isinstance(rest, tuple):
            first, rest = rest, True
        for index, each in enumerate(value):
            if found := self.faults(first[index] if index < len(first) else rest, each):
                yield from _inside(f"[{index}]", found)


def _inside(name: str, found: list[Found]) -> Iterator[Found]:
    for each in found:
        dot = "." if each.path and not each.path.startswith("[") else ""
        yield Found(f"{name[:_LONGEST_NAME]}{dot}{each.path}", each.reason)


def _out_of_bounds(rules: Rules, value: object) -> Iterator[Found]:
    kind = cast(type, type(value))
    for keyword, holds, words in _BOUNDS.get(kind, ()):
        limit = getattr(rules, keyword)
        if limit is not None and not holds(len(cast("list[object]", value)) if kind in _SIZED else value, limit):
            yield Found("", f"must {words.format(f'{limit:.15g}')}")


def _names(types: str | tuple[str, ...]) -> list[str]:
    return [types] if isinstance(types, str) else list(types)


def _mistyped(wanted: list[str], value: object) -> Found:
    either = " or ".join(dict.fromkeys(wanted))
    return Found("", f"must be {either}, not {KINDS[type(value)]}", either)


def _has_type(value: object, kind: str, types: str | tuple[str, ...]) -> bool:
    names = _names(types)
    if kind == "number":
        return "number" in names or ("integer" in names and cast(float, value).is_integer())
    return kind in names or (kind == "integer" and "number" in names)


def _same(one: object, other: object) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)[:_LONGEST_CHOICE]
