"""From a call's input, as a model wrote it in text, to the JSON text of its arguments.

Shared by dialects. It finds no calls and validates nothing: arguments that fit no tool are handed on as they
are, for the toolbox to complain about.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, cast

import msgspec

from stepwell.messages import ToolSpec
from stepwell.models.dialects.literals import literal_json

_MARK = re.compile(r'[{}"\\]')
_OPENING = re.compile(r"\s*(?:```[\w+-]*\s*)?(?=\{)")
_CONTAINER = ("[", "{", "True", "False", "None")
_FIRST = {'"': "string", "{": "object", "[": "array", "t": "boolean", "f": "boolean", "n": "null"}
_FIRST_KEY = re.compile(r"\s*\{(?:\s*[\"'“]([^\"'“”]{1,200})[\"'”]\s*[:：])?")
_FENCE = re.compile(r"```(?:[\w+-]*[ \t]*\r?\n)?")


class ObjectEnd:
    """Finds where the JSON object that a text starts with closes; the text comes in pieces, each read once."""

    __slots__ = ("_begun", "_depth", "_escaped", "_quoted")

    def __init__(self) -> None:
        self._begun = self._quoted = self._escaped = False
        self._depth = 0

    def feed(self, text: str) -> int:
        """Read the next piece of the text.

        Returns:
            The place in the piece behind the closing brace; 0 if the text starts with no object, bare or
            fenced; -1 while that is open.
        """
        if not self._begun and (lead := text.lstrip()):
            self._begun = True
            if lead[0] not in "{`":
                return 0
        skip = 0 if self._escaped else -1
        for found in _MARK.finditer(text):
            at, mark = found.start(), found[0]
            if at == skip:
                continue
            if self._quoted:
                skip = at + 1 if mark == "\\" else skip
                self._quoted = mark != '"'
            elif mark == '"':
                self._quoted = self._depth > 0
            elif mark != "\\":
                self._depth += 1 if mark == "{" else -1
                if self._depth <= 0:
                    return found.end()
        self._escaped = skip == len(text)
        return -1


def object_arguments(tool: ToolSpec | None, text: str) -> str | None:
    """Return the JSON text of the object that the input is, or None if it is none or is not meant so.

    For a tool that takes one text, an object is the arguments only if its keys are the tool's parameters:
    otherwise it is that text.

    Args:
        tool: The tool called; None if it is unknown.
        text: The input up to the closing brace, with the opening of a fence where there is one. The object may be
            Python's.
    """
    opening = _OPENING.match(text)
    decoded = loose_object(text[opening.end() :]) if opening else None
    if decoded is None:
        return None
    if tool is not None and takes_one_text(tool) and not decoded[0].keys() <= parameters_of(tool).keys():
        return None
    return decoded[1]


def given_arguments(tool: ToolSpec | None, given: str, *, plain: bool) -> str:
    """Return the arguments that a JSON value of a call stands for.

    An object is the arguments as it is written, and so is one inside a string; null is none.

    Args:
        tool: The tool called; None if it is unknown.
        given: The JSON text of the value; empty for none.
        plain: Whether any other text is the tool's one string argument, where it has one.
    """
    if given in ("", "null"):
        return ""
    if given[0] != '"':
        return given
    text = msgspec.json.decode(given, type=str)
    if (found := loose_object(text.strip())) is not None:
        if not plain or tool is None or not takes_one_text(tool) or found[0].keys() <= parameters_of(tool).keys():
            return found[1]
    return text_arguments(tool, text, quoted=False) if plain else text


def text_arguments(tool: ToolSpec | None, text: str, *, quoted: bool = True) -> str:
    """Return the arguments that plain text stands for: an object, or the text itself where no object fits.

    The text is the tool's one string argument, also when empty; of an unknown tool it is called `input`. A JSON
    string is decoded, quotes round a text without quotes and a fence round the whole are taken off. What begins as the
    object that the tool wants and is none stays as it is, and is not taken for that argument.

    Args:
        tool: The tool called; None if it is unknown.
        text: The whole input.
        quoted: Whether quotes, fences and outer whitespace are the form's; otherwise they are the text's.
    """
    text = _unfence(text.strip()).strip() if quoted else text
    if tool is not None and (found := object_arguments(tool, text)) is not None:
        return found
    name = "input" if tool is None else _text_parameter(tool)
    if not name or (tool is not None and _is_broken_object(tool, text)):
        return _well_formed(text)
    return msgspec.json.encode({name: _well_formed(_unquote(text) if quoted else text)}).decode()


def loose_object(text: str) -> tuple[dict[str, Any], str] | None:
    """Decode an object of JSON or, with single quotes or trailing commas, of Python; None if it is neither.

    Returns:
        The object, and its JSON text: as it stands where it is JSON.
    """
    decoded = _decode_object(text)
    if decoded is None and (written := literal_json(text)) is not None:
        decoded = _decode_object(written)
    return decoded


def sent_object(arguments: str) -> str:
    """Return the arguments of a past call as the JSON text of an object.

    Nothing becomes `{}`, and what is no object one whose field `_invalid` holds the text, as it goes to models with
    tool calls of their own.
    """
    if not arguments.strip():
        return "{}"
    decoded = _decode_object(arguments)
    return decoded[1].strip() if decoded else msgspec.json.encode({"_invalid": _well_formed(arguments)}).decode()


def typed_object(tool: ToolSpec | None, values: Iterable[tuple[str, str]]) -> str:
    """Return the arguments that texts stand for, each of the type that the tool's schema gives its parameter.

    Args:
        tool: The tool called; None if it is unknown.
        values: Names and texts.
    """
    fields = [f"{_quoted(name)}: {typed_value(tool, name, text)}" for name, text in values]
    return f"{{{', '.join(fields)}}}"


def typed_value(tool: ToolSpec | None, name: str, text: str) -> str:
    """Return the JSON text of the value that a text is as a parameter.

    It is a value of JSON, else one of Python with brackets or a name, else the text itself; and it is the text where
    the parameter may be a string and may not be what the text could be besides.

    Args:
        tool: The tool called; None if it is unknown.
        name: The parameter.
        text: What was written.
    """
    kinds = _kinds(parameters_of(tool).get(name)) if tool is not None else set[str]()
    value = None if kinds == {"string"} else _json_value(text.strip())
    if value is None or ("string" in kinds and not _kinds_of(value) & kinds):
        return _quoted(text)
    return value


def takes_one_text(tool: ToolSpec) -> bool:
    """Return whether the tool has one parameter and that is a string."""
    return len(parameters_of(tool)) == 1 and _text_parameter(tool) != ""


def _decode_object(text: str) -> tuple[dict[str, Any], str] | None:
    """Decode a JSON object; where raw control characters stand in its strings, its text is written anew."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any]), text
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        pass
    try:
        decoded = json.loads(text, strict=False, parse_constant=_refuse)
        if isinstance(decoded, dict):
            return cast(dict[str, Any], decoded), _well_formed(json.dumps(decoded, ensure_ascii=False))
    except (ValueError, RecursionError):
        pass
    return None


def _json_value(text: str) -> str | None:
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return literal_json(text) if text.startswith(_CONTAINER) else None
    return text


def _kinds(schema: Any) -> set[str]:
    """Return the types that a schema allows; nothing where that is not plain to see."""
    if not isinstance(schema, dict):
        return set()
    given = cast(dict[str, Any], schema)
    if isinstance(values := given.get("enum"), list):
        return {kind for value in cast(list[Any], values) for kind in _kinds_of(msgspec.json.encode(value).decode())}
    if choices := given.get("anyOf") or given.get("oneOf"):
        found = [_kinds(each) for each in cast(list[Any], choices)]
        return set[str]().union(*found) if all(found) else set()
    kind = given.get("type", [])
    return {kind} if isinstance(kind, str) else set(kind)


def _kinds_of(value: str) -> set[str]:
    """Return the types in whose place a value of JSON may stand."""
    if kind := _FIRST.get(value[0]):
        return {kind}
    return {"number"} if set(value) & set(".eE") else {"integer", "number"}


def _quoted(text: str) -> str:
    return msgspec.json.encode(_well_formed(text)).decode()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _well_formed(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _unfence(text: str) -> str:
    fences = text.count("```")
    if (opening := _FENCE.match(text)) and (fences == 1 or (fences == 2 and text.endswith("```"))):
        return text[opening.end() :].removesuffix("```")
    if fences == 1 and text.endswith(("\n```", "\r```")):
        return text.removesuffix("```")
    return text


def _unquote(text: str) -> str:
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    try:
        return msgspec.json.decode(text, type=str)
    except (msgspec.MsgspecError, UnicodeError):
        return text if '"' in text[1:-1] else text[1:-1]


def parameters_of(tool: ToolSpec) -> dict[str, Any]:
    """Return the schemas of a tool's parameters by name."""
    return tool.parameters.get("properties") or {}


def _text_parameter(tool: ToolSpec) -> str:
    """Return the name of the one parameter that plain text fills: the only required one, or the only one."""
    properties = parameters_of(tool)
    required: list[str] = tool.parameters.get("required") or []
    if len(required) != 1 and len(properties) != 1:
        return ""
    name = required[0] if len(required) == 1 else next(iter(properties))
    return name if _is_text(properties.get(name)) else ""


def _is_broken_object(tool: ToolSpec, text: str) -> bool:
    """Tell whether a text that is no object was meant as one: it begins so, and is no text that a tool could want."""
    begins = _FIRST_KEY.match(text)
    return begins is not None and (not takes_one_text(tool) or begins[1] in parameters_of(tool))


def _is_text(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return False
    schema = cast(dict[str, Any], schema)
    kind = schema.get("type", "")
    choices: list[Any] = schema.get("anyOf") or schema.get("oneOf") or []
    return kind == "string" or (isinstance(kind, list) and "string" in kind) or any(map(_is_text, choices))
