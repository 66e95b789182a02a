"""Parts of requests that OpenAI's protocols share, read into our records: content, images, tools, forms of answers.

Everything is checked here with the path of the field in the words of a refusal; nothing is asked of a model.
"""

from __future__ import annotations

import itertools
import json
from typing import Any, NamedTuple, cast

import msgspec

from stepwell.agent.replies import output_of as form_of
from stepwell.errors import ConfigError, InputError
from stepwell.images import check
from stepwell.messages import Image, Message, ToolSpec, clean
from stepwell.specs import RunSpec

Object = dict[str, Any]

LONGEST_FORM = 65_536
"""Bytes of the JSON schema of an answer."""
_TEXTS = frozenset({"text", "input_text", "output_text"})
_IMAGES = frozenset({"image_url", "input_image"})
_FORM_NAME = "answer"


class Choice(NamedTuple):
    """What a request says of its tools.

    Args:
        tools: Those that the model is offered.
        choice: As in `specs.RunSpec.tool_choice`.
    """

    tools: tuple[ToolSpec, ...]
    choice: str


def as_object(value: object, field: str) -> Object:
    """Return a JSON object; raises InputError for anything else."""
    if not isinstance(value, dict):
        raise InputError("This must be an object.", field)
    return cast(Object, value)


def as_list(value: object, field: str) -> list[Any]:
    """Return a JSON array; raises InputError for anything else."""
    if not isinstance(value, list):
        raise InputError("This must be an array.", field)
    return cast("list[Any]", value)


def metadata_of(given: object) -> dict[str, str]:
    """Read what a client attaches to a request: at most 16 texts by name.

    Raises:
        InputError: It is more, or something else.
    """
    found: dict[str, str] = {}
    for name, value in as_object(given, "metadata").items() if given is not None else ():
        if not isinstance(value, str):
            raise InputError("Each value is a text.", f"metadata.{clean(name)[:64]}")
        found[clean(name)] = clean(value)
    if len(found) > 16 or any(len(name) > 64 or len(value) > 512 for name, value in found.items()):
        said = "Attach at most 16 texts of up to 512 characters, by names of up to 64."
        raise InputError(said, "metadata")
    return found


def as_text(value: object, field: str) -> str:
    """Return a text, null as an empty one, without what no store can hold; raises InputError for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError("This must be a text.", field)
    return clean(value)


def content(value: object, field: str, max_pixels: int) -> tuple[str, tuple[Image, ...]]:
    """Read the content of a message: a text, null, or parts; texts of several parts stand on lines of their own.

    Args:
        value: As it came.
        field: Its path, such as `messages.0.content`.
        max_pixels: Of one image.

    Raises:
        InputError: It has a part that no model is shown here, or that is broken.
    """
    if not isinstance(value, list):
        return as_text(value, field), ()
    texts: list[str] = []
    images: list[Image] = []
    for index, each in enumerate(as_list(cast(object, value), field)):
        place = f"{field}.{index}"
        part = as_object(each, place)
        kind = str(part.get("type"))
        if kind in _TEXTS:
            texts.append(as_text(part.get("text"), f"{place}.text"))
        elif kind == "refusal":
            texts.append(as_text(part.get("refusal"), f"{place}.refusal"))
        elif kind in _IMAGES:
            images.append(_image(part, place, max_pixels))
        else:
            raise InputError(f"Parts of the type {kind[:40]!r} are not taken; send text and images.", place)
    return "\n".join(texts), tuple(images)


def _image(part: Object, place: str, max_pixels: int) -> Image:
    given = part.get("image_url")
    inner: Object = cast(Object, given) if isinstance(given, dict) else {"url": given, "detail": part.get("detail")}
    place = f"{place}.image_url.url" if isinstance(given, dict) else f"{place}.image_url"
    image = Image(as_text(inner.get("url"), place))
    if inner.get("detail") in ("low", "high"):
        image = Image(image.url, inner["detail"])
    check(image, max_pixels=max_pixels, field=place)
    return image


def tool_specs(tools: object, field: str = "tools", inner: str = "function", label: str = "") -> tuple[ToolSpec, ...]:
    """Read the tools that a client brings; only functions are taken.

    Args:
        tools: An array, or None.
        field: Its path.
        inner: The field of a tool that describes its function; empty where the tool itself does.
        label: By which name of an MCP server clients tell that they know the agent's own tools: some could not approve
            a call otherwise. It brings none.

    Raises:
        InputError: One of them is no function, or not described as one.
    """
    read: list[ToolSpec] = []
    for index, each in enumerate(as_list(tools, field) if tools is not None else ()):
        place = f"{field}.{index}"
        tool = as_object(each, place)
        kind = tool.get("type", "function")
        if label and kind == "mcp" and tool.get("server_label") == label:
            continue
        if kind != "function":
            said = f"Tools of the type {str(kind)[:40]!r} are not taken; bring functions."
            raise InputError(said, f"{place}.type")
        place = f"{place}.{inner}" if inner else place
        described = as_object(tool.get(inner), place) if inner else tool
        name = as_text(described.get("name"), f"{place}.name")
        about = as_text(described.get("description"), f"{place}.description")
        given = described.get("parameters")
        parameters = {"type": "object"} if given is None else as_object(given, f"{place}.parameters")
        if len(about) > 20_000:
            raise InputError("A description has at most 20,000 characters.", f"{place}.description")
        read.append(ToolSpec(name, about, _storable(parameters, f"{place}.parameters")))
    return tuple(read)


def tool_choice(choice: object, tools: tuple[ToolSpec, ...], field: str = "tool_choice") -> Choice:
    """Read which tools may or must be called; `none` takes the client's away.

    Args:
        choice: A word, an object, or None.
        tools: What the client brings.
        field: The path of the choice.

    Raises:
        InputError: It is none of those that OpenAI has, or names a tool that is not there.
    """
    if choice in (None, "auto"):
        return Choice(tools, "")
    if choice == "none":
        return Choice((), "")
    if choice == "required":
        if not tools:
            raise InputError("Nothing can be required without `tools`.", field)
        return Choice(tools, "required")
    if isinstance(choice, str):
        raise InputError("A choice is `none`, `auto`, `required`, or an object that names a function.", field)
    given = as_object(choice, field)
    if given.get("type") == "allowed_tools":
        return _allowed(as_object(given.get("allowed_tools", given), field), tools, field)
    return Choice(tools, _function(given, tools, field))


def _function(given: Object, tools: tuple[ToolSpec, ...], field: str) -> str:
    if given.get("type") != "function":
        raise InputError("Only functions can be chosen.", f"{field}.type")
    described, place = given, f"{field}.name"
    if "function" in given:
        described, place = as_object(given["function"], f"{field}.function"), f"{field}.function.name"
    name = as_text(described.get("name"), place)
    if name not in (each.name for each in tools):
        raise InputError(f"There is no tool {name[:64]!r} among `tools`.", place)
    return name


def _allowed(given: Object, tools: tuple[ToolSpec, ...], field: str) -> Choice:
    listed = as_list(given.get("tools"), f"{field}.tools")
    names = {_function(as_object(each, field), tools, f"{field}.tools.{at}") for at, each in enumerate(listed)}
    kept = tuple(each for each in tools if each.name in names)
    return Choice(kept, "required" if given.get("mode") == "required" and kept else "")


def output_of(given: object, field: str = "response_format") -> Object | None:
    """Read the form of an answer as a run has it; None for plain text.

    Args:
        given: `response_format` of chat completions, or `text.format` of responses.
        field: Its path.

    Raises:
        InputError: There is no such form, or its schema is not that of an object.
    """
    if given is None:
        return None
    form = as_object(given, field)
    match form.get("type"):
        case "text":
            return None
        case "json_object":
            return _form({"type": "object", "title": _FORM_NAME, "description": "The answer, as JSON."}, field)
        case "json_schema":
            pass
        case other:
            said = f"A format is `text`, `json_object` or `json_schema`, not {str(other)[:40]!r}."
            raise InputError(said, f"{field}.type")
    place = f"{field}.json_schema" if "json_schema" in form else field
    described = as_object(form.get("json_schema", form), place)
    schema = as_object(described.get("schema") or {"type": "object"}, f"{place}.schema")
    if schema.get("type", "object") != "object" and "$ref" not in schema:
        raise InputError("The schema of an answer must have the type `object`.", f"{place}.schema")
    named: Object = {"type": "object"} | schema if "$ref" not in schema else dict(schema)
    named["title"] = as_text(described.get("name"), f"{place}.name") or _FORM_NAME
    if about := as_text(described.get("description"), f"{place}.description"):
        named["description"] = about
    return _form(named, f"{place}.schema")


def _form(schema: Object, field: str) -> Object:
    try:
        form = form_of(schema).schema
    except ConfigError as error:
        raise InputError(str(error), field) from error
    made = msgspec.structs.asdict(form)
    if len(msgspec.json.encode(_storable(made, field))) > LONGEST_FORM:
        raise InputError(f"The schema has more than {LONGEST_FORM:,} bytes.", field)
    return made


def fitted(spec: RunSpec) -> RunSpec:
    """Return a spec as its model can be asked.

    The form of its answer bears no tool's name, for models give it by a call of its name. Where tools are put to the
    model in words, its endpoint hears nothing of them, for it would refuse what is said of none.
    """
    if spec.dialect:
        sampling = {name: value for name, value in spec.sampling.items() if name != "parallel_tool_calls"}
        spec = msgspec.structs.replace(spec, sampling=sampling)
    if spec.output is None:
        return spec
    taken = {"recall", *spec.tools, *(each.name for each in spec.client_tools)}
    given: str = spec.output["name"]
    names = (f"{given[:58]}_{number}" for number in itertools.count(2))
    name = next(each for each in itertools.chain((given,), names) if each not in taken)
    return msgspec.structs.replace(spec, output={**spec.output, "name": name})


def last_said(messages: tuple[Message, ...]) -> str:
    """Return what the user said last; empty for nothing."""
    return next((each.content for each in reversed(messages) if each.role == "user"), "")


def arguments_of(value: object, field: str) -> str:
    """Return the arguments of a past call as JSON text; some clients send the object itself."""
    return clean(json.dumps(value, ensure_ascii=False)) if isinstance(value, dict) else as_text(value, field)


def _storable(value: Object, field: str) -> Object:
    """Return JSON values that every store can hold; raises InputError for others."""
    try:
        encoded = msgspec.json.encode(value)
    except (ValueError, OverflowError, TypeError, RecursionError) as error:
        said = "It cannot be stored; remove halves of surrogate pairs and numbers beyond 64 bits."
        raise InputError(said, field) from error
    if b"\\u0000" in encoded:
        raise InputError("It holds a NUL character; remove it.", field)
    return value
