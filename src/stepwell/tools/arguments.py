"""From the text that a model wrote as arguments to an object that a tool may be given, or to what is wrong with it.

Text that is not one JSON object of the tool's schema is never mended and never taken for an empty object.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType, NoneType
from typing import Any, cast

from stepwell.messages import clean

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 100
MAX_DIGITS = 4300
MAX_COMPARED = 100_000
"""Parts of a schema that arguments are compared with, before it is given up: one may refer to itself in many ways."""
PREVIEW = 800
"""Characters of the sent text that an answer to a bad call repeats at most."""
TOLD = 1000
"""Characters of what a tool takes that it tells at most."""

Object = dict[str, Any]
KINDS: Mapping[type, str] = MappingProxyType(
    {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number", NoneType: "null"}
)
"""What JSON calls a value, by its Python type."""


class BadArguments(ValueError):
    """The arguments are no object of the tool's schema; the message says why."""


def read_object(text: str) -> Object:
    """Read the text of a call's arguments: exactly one JSON object.

    Control characters inside strings are taken as they are, because models write raw line breaks there.

    Raises:
        BadArguments: It is something else, ambiguous, or beyond the limits above.
    """
    if len(text) > MAX_CHARACTERS:
        raise BadArguments(f"they are {len(text):,} characters long; the limit is {MAX_CHARACTERS:,}")
    try:
        value: object = _decoder.decode(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise BadArguments(_syntax(error, text)) from None
    except RecursionError:
        raise BadArguments(_TOO_DEEP) from None
    if not isinstance(value, dict):
        raise BadArguments(f"they are {_kind(value)}, not a JSON object")
    value = cast(Object, value)
    if text.count("{") + text.count("[") > MAX_DEPTH and _is_deep(value):
        raise BadArguments(_TOO_DEEP)
    if "\\ud" in text or "\\uD" in text or not _encodable(text):
        value = cast(Object, _cleaned(value))
    return value


def preview(text: str) -> str:
    """Return the text for a message, its middle left out where it is longer than `PREVIEW` characters."""
    if len(text) <= PREVIEW:
        return text
    left_out = f" [... {len(text):,} characters in all ...] "
    return text[: PREVIEW - 200 - len(left_out)] + left_out + text[-200:]


def check(schema: Object, value: Object) -> list[str]:
    """Compare a tool's arguments with its JSON schema and return what is wrong, one text a fault.

    It knows the keywords that decide the shape (`type`, `enum`, `const`, `properties`, `required`,
    `additionalProperties`, `items`, `anyOf`, `oneOf`, `allOf`, `$ref` into the same schema) and leaves
    all others to the tool. The schema must be none that `malformed` finds fault with.
    """
    try:
        return list(_faults(schema, value, "", _Walk(schema), 0))
    except BadArguments as error:
        return [str(error)]


def malformed(schema: object) -> str | None:
    """Return where a JSON schema of a stranger is none that arguments can be compared with, and why; None if it is.

    What a `$ref` leads to is looked at wherever it stands.
    """
    refs: list[str] = []
    fault = _malformed(schema, "", 0, refs)
    seen: set[int] = set()
    while fault is None and refs:
        ref = refs.pop()
        found = _resolve(cast(Object, schema), ref)
        if isinstance(found, dict) and id(cast(object, found)) not in seen:
            seen.add(id(cast(object, found)))
            fault = _malformed(cast(object, found), ref[-200:], 0, refs)
    return fault


def _malformed(schema: object, place: str, depth: int, refs: list[str]) -> str | None:
    if isinstance(schema, bool):
        return None
    where = place or "the schema"
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return f"{where} is nested too deep" if isinstance(schema, dict) else f"{where} is no object"
    rules = cast(Object, schema)
    for keyword, kind in _SHAPES.items():
        if keyword in rules and not isinstance(rules[keyword], kind):
            return f"{where}: `{keyword}` is {_kind(rules[keyword])}"
    if not all(isinstance(name, str) for name in rules.get("required", ())):
        return f"{where}: `required` holds more than names"
    if "$ref" in rules:
        refs.append(rules["$ref"])
    inner = [(f"{place}.{name}".lstrip("."), each) for name, each in rules.get("properties", {}).items()]
    inner += [(f"{place}.{name}".lstrip("."), each) for name, each in rules.get("$defs", {}).items()]
    inner += [(f"{where}: {keyword}", each) for keyword in _COMBINED for each in rules.get(keyword, ())]
    inner += [(f"{place}[]", rules["items"])] if "items" in rules else []
    return next((fault for name, each in inner if (fault := _malformed(each, name[-200:], depth + 1, refs))), None)


def takes(schema: Object) -> str:
    """Say in one line which fields a tool takes, for the answer to a bad call; of very many the first."""
    fields: list[str] = []
    for name, each in cast(Object, schema.get("properties", {})).items():
        required = ", required" if name in schema.get("required", ()) else ""
        fields.append(f"{name} ({_type_name(each, schema)}{required})")
        if sum(map(len, fields)) > TOLD:
            break
    return f"It takes: {', '.join(fields)}."[:TOLD] if fields else "It takes no fields."


_COMBINED = ("anyOf", "oneOf", "allOf")
_SHAPES: Mapping[str, type | tuple[type, ...]] = MappingProxyType(
    {
        "type": (str, list),
        "enum": list,
        "properties": dict,
        "required": list,
        "$ref": str,
        "$defs": dict,
        **dict.fromkeys(_COMBINED, list),
    }
)
"""What the keywords must be, by which arguments are compared."""


class _Walk:
    """A comparison with one schema.

    Args:
        root: The whole of it.
    """

    __slots__ = ("left", "root")

    def __init__(self, root: Object) -> None:
        self.root, self.left = root, MAX_COMPARED


_TOO_DEEP = f"they are nested more than {MAX_DEPTH} deep"


def _syntax(error: json.JSONDecodeError, text: str) -> str:
    if error.msg.startswith("Extra data"):
        return f"there is more text after the first JSON value, at character {error.pos + 1}"
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
        return f"they are cut off: {error.msg} at character {error.pos + 1}"
    return f"they are not valid JSON: {error.msg} at character {error.pos + 1}"


def _unique(pairs: list[tuple[str, Any]]) -> Object:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise BadArguments(f"field `{clean(twice[:80])}` is there twice")
    return found


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise BadArguments(f"a whole number has {len(text):,} digits; the limit is {MAX_DIGITS:,}")
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise BadArguments(f"the number {text[:40]} is too large")
    return value


def _constant(text: str) -> Any:
    raise BadArguments(f"{text} is not a JSON number")


_decoder = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_real, parse_constant=_constant, strict=False
)


def _is_deep(value: object) -> bool:
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return False
    return any(isinstance(each, (dict, list)) for each in level)


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return cast(Object, value).values()
    return cast(list[object], value) if isinstance(value, list) else ()


def _encodable(text: str) -> bool:
    return text.isascii() or clean(text) is text


def _cleaned(value: object) -> object:
    """Replace lone surrogates; a NUL is left, for it is the tool's matter whether it can take one."""
    if isinstance(value, str):
        return "\0".join(clean(part) for part in value.split("\0"))
    if isinstance(value, list):
        return [_cleaned(each) for each in cast(list[object], value)]
    if isinstance(value, dict):
        return {cast(str, _cleaned(name)): _cleaned(each) for name, each in cast(Object, value).items()}
    return value


def _kind(value: object) -> str:
    name = KINDS[cast(type, type(value))]
    return name if value is None else f"{'an' if name[0] in 'aio' else 'a'} {name}"


def _type_name(schema: object, root: Object, depth: int = 0) -> str:
    rules = cast(Object, schema) if isinstance(schema, dict) else {}
    if isinstance(ref := rules.get("$ref"), str) and isinstance(named := _resolve(root, ref), dict):
        rules = cast(Object, named)
    if "anyOf" in rules and depth < 2:  # a union may refer to itself
        choices = cast(list[object], rules["anyOf"])[:20]
        return " or ".join(_type_name(each, root, depth + 1) for each in choices)[:TOLD]
    found = rules.get("enum") or rules.get("type") or "any"
    named = " or ".join(map(str, cast(list[object], found))) if isinstance(found, list) else str(found)
    return named[:TOLD]


def _faults(schema: Any, value: object, path: str, walk: _Walk, depth: int) -> Iterable[str]:
    # A schema may refer to itself without end; arguments are never nested this deep.
    if not isinstance(schema, dict) or depth > 2 * MAX_DEPTH:
        return
    walk.left -= 1
    if walk.left < 0:
        raise BadArguments("the tool's schema is too involved to compare them with it")
    rules = cast(Object, schema)
    if isinstance(ref := rules.get("$ref"), str):
        yield from _faults(_resolve(walk.root, ref), value, path, walk, depth + 1)
    where = f"field `{path}`" if path else "the object"
    if "type" in rules and not _has_type(value, rules["type"]):
        yield f"{where} must be {_type_name(rules, walk.root)}, not {_kind(value)}"
        return
    if "enum" in rules and value not in rules["enum"]:
        yield f"{where} must be one of {json.dumps(rules['enum'], ensure_ascii=False)[:400]}"
    if "const" in rules and value != rules["const"]:
        yield f"{where} must be {json.dumps(rules['const'], ensure_ascii=False)[:400]}"
    yield from _combined(rules, value, path, walk, depth)
    if isinstance(value, dict):
        yield from _object_faults(rules, cast(Object, value), path, walk, depth)
    elif isinstance(value, list) and "items" in rules:
        for index, each in enumerate(cast(list[object], value)):
            yield from _faults(rules["items"], each, f"{path}[{index}]", walk, depth + 1)


def _object_faults(rules: Object, value: Object, path: str, walk: _Walk, depth: int) -> Iterable[str]:
    prefix = f"{path}." if path else ""
    properties: Object = rules.get("properties", {})
    for name in rules.get("required", ()):
        if name not in value:
            yield f"missing field `{prefix}{name}`"
    for name, each in value.items():
        if name in properties:
            yield from _faults(properties[name], each, f"{prefix}{name}", walk, depth + 1)
        elif rules.get("additionalProperties") is False:
            yield f"unknown field `{prefix}{name[:80]}`"


def _combined(rules: Object, value: object, path: str, walk: _Walk, depth: int) -> Iterable[str]:
    for each in rules.get("allOf", ()):
        yield from _faults(each, value, path, walk, depth + 1)
    for keyword in ("anyOf", "oneOf"):
        choices = [list(_faults(each, value, path, walk, depth + 1)) for each in rules.get(keyword, ())]
        if choices and all(choices):
            yield min(choices, key=len)[0]


def _has_type(value: object, expected: object) -> bool:
    names = cast(list[object], expected) if isinstance(expected, list) else [expected]
    found = KINDS[cast(type, type(value))]
    whole = found == "integer" or (isinstance(value, float) and value.is_integer())
    return found in names or ("number" in names and found == "integer") or ("integer" in names and whole)


def _resolve(root: Object, ref: str) -> object:
    found: object = root
    for part in ref.removeprefix("#").strip("/").split("/"):
        if part:
            found = cast(Object, found).get(part) if isinstance(found, dict) else None
    return found if ref.startswith("#") else None
