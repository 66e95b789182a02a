"""From a function's signature and docstring to the JSON schema of its arguments, and from arguments to its values.

Types are those that msgspec knows, and classes that bring `model_validate` and `model_json_schema` of their
own, as pydantic's models do. Pydantic itself is not imported.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any, cast, get_args, get_type_hints

import msgspec

from stepwell.errors import ConfigError
from stepwell.tools.arguments import BadArguments, Object

REF = "#/$defs/{name}"
_SECTION = re.compile(r"(Args|Arguments|Parameters|参数)[:：]\s*$")
_ENTRY = re.compile(r"(\s+)\*{0,2}(\w+)(?:\s*[(（].*?[)）])?[:：]\s*(.*)$")
_FIELD = re.compile(r":(?:param|parameter|arg)\s+(?:[^:]*\s)?(\w+)[:：]\s*(.*)$")
_HEADING = re.compile(r"(:\w+.*[:：]|[A-Z]\w+:\s*$|(参数|返回)[:：]\s*$)")
_PLACE = re.compile(r"(.*) - at `\$(.*)`$", re.DOTALL)
_NOT_FINITE = re.compile(r"\s*[+-]?(nan|inf|infinity)\s*$", re.IGNORECASE)


class Field(msgspec.Struct, frozen=True):
    """One parameter of a tool.

    Args:
        type: The annotation, or `Any`.
        default: As in `inspect.Parameter`.
    """

    type: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether the call must name it."""
        return self.default is inspect.Parameter.empty


class Parameters:
    """What a function takes.

    Args:
        description: The first paragraph of its docstring.
        schema: The JSON schema of its arguments.
        fields: Its parameters by name, without the injected one.
        injected: The name of the parameter that is filled in for the model, or empty.
    """

    __slots__ = ("_struct", "description", "fields", "injected", "schema")

    def __init__(self, description: str, schema: Object, fields: dict[str, Field], injected: str) -> None:
        self.description, self.schema, self.fields, self.injected = description, schema, fields, injected
        self._struct = msgspec.defstruct(
            "Arguments",
            [(name, each.type) if each.required else (name, each.type, None) for name, each in fields.items()],
            kw_only=True,
            forbid_unknown_fields=True,
        )

    def parse(self, arguments: Object) -> Object:
        """Turn arguments into values for the function; what was not given stays away.

        Liberal where models are loose and no doubt is left: a number or truth value written as a string, and
        null for a field that may be left out.

        Raises:
            BadArguments: Fields are missing, unknown or of the wrong type; names all of them.
        """
        try:
            values = msgspec.convert(arguments, self._struct, str_keys=True, dec_hook=_validate)
        except msgspec.ValidationError:
            return self._parse_each(arguments)
        return {name: getattr(values, name) for name in arguments}

    def _parse_each(self, arguments: Object) -> Object:
        faults = [f"unknown field `{name[:80]}`" for name in arguments if name not in self.fields]
        values: Object = {}
        for name, each in self.fields.items():
            if name not in arguments:
                if each.required:
                    faults.append(f"missing field `{name}`")
                continue
            try:
                values[name] = _convert(arguments[name], each.type)
            except msgspec.ValidationError as error:
                if arguments[name] is not None or each.required:
                    faults.append(_fault(name, str(error)))
        if faults:
            raise BadArguments("; ".join(faults))
        return values


def read_function(function: Callable[..., Any], injected: type, where: str) -> Parameters:
    """Read a function's signature, annotations and docstring.

    What a partial binds by name is left out of the schema: it is not the model's to see or to change.

    Args:
        function: The function, method, partial or callable object.
        injected: A parameter of this type is left out of the schema.
        where: Names the function in errors.

    Raises:
        ConfigError: An annotation cannot be resolved or described, or a parameter has no name of its own.
    """
    target = _target(function)
    hints = _hints(target, where)
    bound = _bound(function)
    fields: dict[str, Field] = {}
    context = ""
    for name, each in inspect.signature(function).parameters.items():
        if name in bound:
            continue
        if each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
            raise ConfigError(f"{where}: a model cannot fill `{each}`; give each parameter a name of its own.")
        hint = hints.get(name, Any)
        if hint is injected or injected in get_args(hint):
            context = name
        else:
            fields[name] = Field(Any if hint is object else hint, each.default)
    description, notes = read_docstring(inspect.getdoc(target) or inspect.getdoc(function) or "")
    return Parameters(description, _schema(fields, notes, where), fields, context)


def read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Return a docstring's first paragraph, in one line, and its notes on parameters by name.

    Google's `Args:` section and reST's `:param name:` fields are understood.
    """
    lines = text.splitlines()
    paragraph: list[str] = []
    for line in lines:
        if not line.strip() or _HEADING.match(line):
            break
        paragraph.append(line.strip())
    notes = _google(lines) | _rest(lines)
    return " ".join(paragraph), {name: " ".join(note.split()) for name, note in notes.items()}


def _google(lines: list[str]) -> dict[str, str]:
    notes: dict[str, str] = {}
    start = next((index for index, line in enumerate(lines) if _SECTION.match(line)), len(lines))
    name, indent = "", -1
    for line in lines[start + 1 :]:
        if line.strip() and not line[0].isspace():
            break
        entry = _ENTRY.match(line)
        if entry and (indent < 0 or len(entry[1]) <= indent):
            indent, name = len(entry[1]), entry[2]
            notes[name] = entry[3]
        elif name:
            notes[name] += " " + line
    return notes


def _rest(lines: list[str]) -> dict[str, str]:
    notes: dict[str, str] = {}
    name = ""
    for line in lines:
        if entry := _FIELD.match(line):
            name = entry[1]
            notes[name] = entry[2]
        elif name and line[:1].isspace():
            notes[name] += " " + line
        else:
            name = ""
    return notes


def _target(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the routine that carries the annotations and the docstring."""
    while isinstance(function, functools.partial):
        function = cast(Callable[..., Any], function.func)
    return function if inspect.isroutine(function) else type(function).__call__


def _bound(function: object) -> Iterable[str]:
    return cast("functools.partial[Any]", function).keywords if isinstance(function, functools.partial) else ()


def _hints(target: Callable[..., Any], where: str) -> dict[str, Any]:
    try:
        return get_type_hints(target, include_extras=True)
    except NameError as error:
        raise ConfigError(f"{where}: {error}; import the type where the function is defined.") from None
    except (TypeError, AttributeError, SyntaxError) as error:
        if getattr(target, "__annotations__", None):
            raise ConfigError(f"{where}: its annotations cannot be read: {error}") from None
        # A built-in function has none.
        return {}


def _schema(fields: dict[str, Field], notes: dict[str, str], where: str) -> Object:
    definitions: Object = {}
    hook = functools.partial(_describe, definitions)
    properties: Object = {}
    for name, each in fields.items():
        try:
            (schema,), found = msgspec.json.schema_components([each.type], schema_hook=hook, ref_template=REF)
        except TypeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ConfigError(f"{where}: parameter `{name}` has a type without a JSON schema: {reason}") from None
        definitions.update(found)
        properties[name] = _property(schema, each, notes.get(name, ""))
    required = [name for name, each in fields.items() if each.required]
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return schema | {"$defs": definitions} if definitions else schema


def _property(schema: Object, field: Field, note: str) -> Object:
    if note:
        schema = {**schema, "description": note}
    if field.required or field.default is None:
        return schema
    try:
        return {**schema, "default": msgspec.to_builtins(field.default, str_keys=True)}
    except TypeError:
        # A default that JSON has no words for is the function's own matter.
        return schema


def _describe(definitions: Object, type: Any) -> Object:
    describe = getattr(type, "model_json_schema", None)
    if describe is None:
        raise TypeError(f"type {type!r} is not supported")
    schema: Object = describe(ref_template=REF.replace("name", "model"))
    definitions.update(schema.pop("$defs", {}))
    return schema


def _validate(type: Any, value: object) -> Any:
    try:
        return type.model_validate(value)
    except ValueError as error:
        # Pydantic's own text is many lines with addresses in them.
        faults: Callable[[], list[Object]] | None = getattr(error, "errors", None)
        text = str(error) if faults is None else "; ".join(map(_model_fault, faults()))
        raise ValueError(text) from None


def _model_fault(fault: Object) -> str:
    return f"{'.'.join(map(str, fault.get('loc', ())))}: {fault.get('msg', '')}".removeprefix(": ")


def _convert(value: object, type: Any) -> Any:
    try:
        return msgspec.convert(value, type, str_keys=True, dec_hook=_validate)
    except msgspec.ValidationError:
        if any(map(_NOT_FINITE.match, _strings(value))):
            raise
        return msgspec.convert(value, type, strict=False, str_keys=True, dec_hook=_validate)


def _strings(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        inside = cast(Object, value).values() if isinstance(value, dict) else cast(list[object], value)
        for each in inside:
            yield from _strings(each)


def _fault(name: str, text: str) -> str:
    if place := _PLACE.match(text):
        return f"field `{name}{place[2][:200]}`: {place[1]}"
    return f"field `{name}`: {text}"
