"""Replies of a fixed form, apart from tools: their schemas, how a model is asked for one, how its answer is read.

Pure functions: nothing here calls a model or records an event, and no reply is ever mended; a broken one becomes
a `Fault` that tells the model what to correct. The seed of these replies is XAgent's object generator.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache, partial
from types import MappingProxyType
from typing import Any, Literal, cast

import msgspec

from stepwell import prompts
from stepwell.agent.reply_reading import faults, object_in, read_rules, unfenced
from stepwell.errors import ConfigError
from stepwell.messages import Message, ToolCall, ToolSpec, ToolSpecs, clean
from stepwell.models.base import ModelProfile, Settings
from stepwell.tools.arguments import BadArguments, Object, read_object

Form = Literal["tool", "json", "text"]
"""How a reply is asked for: as one more function, by the endpoint's JSON mode, or in words."""

LONGEST_REASON = 800
"""Characters of a fault's reason."""
LONGEST_SHOWN = 4_000
"""Characters of a broken reply that its repair shows."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_PLACE = re.compile(r"(.*) - at `\$\.?(.*)`$", re.DOTALL)
_encode = msgspec.json.encode


class ReplySchema(msgspec.Struct, frozen=True):
    """The form of a reply.

    Args:
        name: What the model calls it: 1 to 64 of letters, digits, `_` and `-`.
        description: What it is for, for the model.
        schema: A JSON schema of type `object`; references point to its own `$defs`.

    Raises:
        ConfigError: The name or the schema is no such thing.
    """

    name: str
    description: str
    schema: Object

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"Reply schema {self.name[:80]!r}: a name is 1 to 64 of a-z, A-Z, 0-9, `_` and `-`.")
        try:
            _encode(self)
            rules = read_rules(self.schema)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ConfigError(f"Reply schema {self.name!r} is no JSON schema: {error}.") from None
        if rules.type != "object":
            raise ConfigError(f'Reply schema {self.name!r}: its `type` must be "object", for a reply has named fields.')


class Output(msgspec.Struct, frozen=True):
    """A reply's form and what becomes of its fields.

    Args:
        schema: The form.
        convert: Makes the caller's object of fields that follow the schema; raises ValueError or TypeError where
            they do not suit it.
    """

    schema: ReplySchema
    convert: Callable[[Object], object]


class Value(msgspec.Struct, frozen=True):
    """A reply that follows its schema.

    Args:
        fields: As the model wrote them.
        value: What `Output.convert` made of them; without one, `fields`.
    """

    fields: Object
    value: object


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with a reply.

    Args:
        path: The first field at fault, such as `failed_goals[0].reason`; empty for the reply as a whole.
        reason: All that is wrong, in words for the model, at most `LONGEST_REASON` characters.
    """

    path: str
    reason: str


def _object(properties: Object, *optional: str) -> Object:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _text(description: str) -> Object:
    return {"type": "string", "description": description}


def _list(description: str, items: Object | None = None, **rules: int) -> Object:
    return {"type": "array", "description": description, "items": items or {"type": "string"}, **rules}


_BUILT_IN: tuple[tuple[str, str, Object], ...] = (
    (
        "simple_thought",
        "Say what you think about the next step. Give it together with the calls that follow from it.",
        _object({"thought": _text("What you make of the situation and what you do next.")}),
    ),
    (
        "action_reasoning",
        "Reason before you act. Give it together with the calls that follow from it.",
        _object(
            {
                "plan": _list("What to do next, as one entry; empty if nothing is left to do.", maxItems=1),
                "thought": _text("What you make of the situation, in about 50 words."),
                "reasoning": _text("Why the next action is the right one, in about 100 words."),
                "criticism": _text("What may be wrong with this, and what to watch for."),
            }
        ),
    ),
    (
        "observation_thought",
        "Say what the last results show and what follows. Give it together with the calls that follow from it.",
        _object(
            {
                "observation": _text("What the newest results say, and nothing that they do not say."),
                "thought": _text("What follows from that for the next step."),
            }
        ),
    ),
    (
        "chat",
        "Answer the user.",
        _object({"message": _text("The answer, as the user is to read it.")}),
    ),
    (
        "conclusion",
        "Conclude the task: what was reached, what was not and why, and what was learned.",
        _object(
            {
                "summary": _text("What was done and found, with the facts that later tasks need."),
                "status": {
                    "type": "string",
                    "enum": ["success", "failure"],
                    "description": "Whether the task as a whole was reached.",
                },
                "reached_goals": _list("The goals that were reached."),
                "failed_goals": _list(
                    "The goals that were not reached.",
                    _object(
                        {
                            "goal": _text("The goal."),
                            "reason": _text("Why it was not reached."),
                            "reflection": _text("What to do otherwise."),
                        },
                        "reflection",
                    ),
                ),
                "reflections": _list("Lessons for later tasks, one each."),
                "tool_reflection": _list(
                    "Lessons about tools.",
                    _object({"tool_name": _text("The tool."), "reflection": _list("One lesson each.")}),
                ),
                "reply": _text("What the user is told."),
            },
            "reflections",
            "tool_reflection",
        ),
    ),
)


@cache
def built_in() -> Mapping[str, ReplySchema]:
    """Return the replies that every agent knows, by name; made for the first who asks, as most chats need none."""
    return MappingProxyType({each[0]: ReplySchema(*each) for each in _BUILT_IN})


def reply_schema(given: object) -> ReplySchema | None:
    """Return the form of a reply; None for None, which asks for no form. Otherwise as `output_of`.

    Raises:
        ConfigError: It describes no reply; says why.
    """
    return None if given is None else output_of(given).schema


def output_of(given: object) -> Output:
    """Return the form of a reply and what becomes of its fields.

    Args:
        given: A name in `built_in`, a JSON schema with a `title`, a `ReplySchema`, an `Output`, or a class: a
            msgspec struct, dataclass or TypedDict, or one with `model_json_schema` and `model_validate`, as
            pydantic's models are.

    Raises:
        ConfigError: It describes no reply; says why.
    """
    if isinstance(given, Output):
        return given
    if isinstance(given, ReplySchema):
        return Output(given, _unchanged)
    if isinstance(given, str):
        if given not in built_in():
            raise ConfigError(f"There is no reply named {given[:80]!r}. Known: {', '.join(built_in())}.")
        return Output(built_in()[given], _unchanged)
    if isinstance(given, dict):
        schema = cast(Object, given)
        if not isinstance(title := schema.get("title"), str):
            raise ConfigError("A reply's JSON schema needs a `title`, a text that names the reply.")
        return Output(_named(title, schema), _unchanged)
    name = str(getattr(given, "__name__", given))[:80]
    if isinstance(given, type) and hasattr(given, "model_json_schema") and hasattr(given, "model_validate"):
        return Output(_named(name, _model_schema(name, given)), partial(_model, given))
    return Output(_named(name, _type_schema(name, given)), partial(_convert, given))


def choose_form(profile: ModelProfile, *, dialect: bool, tools: bool = True) -> Form:
    """Return how to ask a model for a reply.

    Args:
        profile: Facts about the model.
        dialect: Whether tools are put to it in words, which then hold for the reply too.
        tools: Whether it is offered tools besides.
    """
    if profile.json_mode and not tools:
        return "json"
    if dialect:
        return "text"
    return "tool" if profile.native_tools else "json" if profile.json_mode else "text"


def with_reply(
    tools: ToolSpecs, settings: Settings, schema: ReplySchema, form: Form, *, forced: bool = False, language: str = "en"
) -> tuple[ToolSpecs, Settings, str]:
    """Return the tools and settings that ask for a reply, and the instructions to append to the last message.

    In the form `tool` a reply that stands alone is forced by name. Beside tools, a choice that the settings
    make stands, save that `none` forces the reply.

    Args:
        tools: What else the model may call; equal tools and schemas give the same object again.
        settings: How replies are made.
        schema: The reply's form.
        form: How to ask for it; the instructions are empty but for `text`.
        forced: Beside tools, take no answer that is neither the reply nor a call.
        language: `en` or `zh`, of the instructions.

    Raises:
        ConfigError: A tool has the reply's name.
    """
    if form == "text":
        return tools, settings, prompts.load("reply", "plain", language).render(schema=_shown_schema(schema))
    if form == "json":
        return tools, msgspec.structs.replace(settings, response_format=_titled(schema)), ""
    choice = settings.tool_choice
    if not tools or choice == "none":
        choice = schema.name
    elif forced and choice in ("", "auto"):
        choice = "required"
    return _joined(_Pair(tools, schema)), msgspec.structs.replace(settings, tool_choice=choice), ""


def split(message: Message, schema: ReplySchema, form: Form) -> tuple[str | None, tuple[ToolCall, ...]]:
    """Return the JSON text of the reply in a message, unread, and the calls of tools.

    The reply is the first call that bears its name, in every form. Else it is an object in the text: the first
    with all required fields, or the first at all, broken ones too; in the form `tool`, where text is the answer
    of a model that chose to give no reply, only one that is all of the text. Takes time linear in the text.

    Args:
        message: What the model said.
        schema: The reply's form.
        form: How it was asked for.
    """
    calls = tuple(call for call in message.calls if call.name != schema.name)
    for call in message.calls:
        if call.name == schema.name:
            return call.arguments.strip() or "{}", calls
    text = unfenced(message.content) if form == "tool" else message.content
    found = object_in(text, schema.schema.get("required", ()))
    return (found if form != "tool" or found == text else None), calls


def validate(given: ReplySchema | Output, text: str | None) -> Value | Fault:
    """Read a reply strictly and compare it with its schema.

    Known are the keywords that pydantic and msgspec write, but for `pattern`, `patternProperties`,
    `propertyNames`, `format`, `multipleOf` and `uniqueItems`, which are left to the type, and `$ref` beyond `$defs`.

    Args:
        given: The reply's form; with an `Output`, the object that it makes is the value.
        text: JSON text, or None where the model gave no reply.
    """
    schema = given.schema if isinstance(given, Output) else given
    if text is None:
        return Fault("", f"the reply `{schema.name}` is missing")
    try:
        fields = read_object(text)
        found = faults(read_rules(schema.schema), fields)
    except BadArguments as error:
        return Fault("", clean(f"the fields of the reply cannot be read: {error}")[:LONGEST_REASON])
    except RecursionError:
        return Fault("", "the fields of the reply are nested too deep")
    if found:
        return _fault([(each.path, each.reason) for each in found])
    if isinstance(given, ReplySchema):
        return Value(fields, fields)
    try:
        return Value(fields, given.convert(fields))
    except (ValueError, TypeError) as error:
        return _fault(_reasons(error))


def repair_prompt(schema: ReplySchema, text: str, fault: Fault, language: str = "en") -> str:
    """Return the words that ask a model to give a broken reply again.

    Args:
        schema: The reply's form.
        text: The reply as the model gave it; the middle of a long one is left out.
        fault: What is wrong with it.
        language: `en` or `zh`.
    """
    if len(text) > LONGEST_SHOWN:
        left_out = f" [... {len(text):,} characters in all ...] "
        half = (LONGEST_SHOWN - len(left_out)) // 2
        text = text[:half] + left_out + text[-half:]
    template = prompts.load("repair", "default", language)
    return template.render(error=fault.reason, reply=clean(text), schema=_shown_schema(schema))


def _fault(found: list[tuple[str, str]]) -> Fault:
    """Return a fault of pairs of a path and a reason."""
    words = [f"field `{path[:200]}` {reason}" if path else f"the reply {reason}" for path, reason in found]
    reason = clean("; ".join(words))
    if len(reason) > LONGEST_REASON:
        reason = reason[: LONGEST_REASON - 1] + "…"
    return Fault(clean(found[0][0][:200]), reason)


def _reasons(error: ValueError | TypeError) -> list[tuple[str, str]]:
    """Take apart what a type says about fields; pydantic's own text has many lines with addresses in them."""
    if isinstance(error, msgspec.ValidationError):
        place = _PLACE.match(str(error))
        return [(place[2], f"is wrong: {place[1]}") if place else ("", f"is wrong: {error}")]
    listed: Callable[[], list[Object]] | None = getattr(error, "errors", None)
    if listed is None:
        return [("", f"is wrong: {error}")]
    return [(".".join(map(str, each.get("loc", ()))), f"is wrong: {each.get('msg', '')}") for each in listed()[:6]]


def _unchanged(fields: Object) -> object:
    return fields


def _named(title: str, schema: Object) -> ReplySchema:
    """Move title and description out of a schema, and the definition that is the schema itself to its top."""
    try:
        schema = _opened(schema)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ConfigError(f"Reply schema {title[:80]!r} is no JSON schema: {error}.") from None
    name = re.sub(r"[^a-zA-Z0-9_-]+", "_", title).strip("_")[:64] or "reply"
    description = str(schema.get("description", ""))
    if description.startswith(f"{title}("):
        # A dataclass without a docstring is given its signature for one.
        description = ""
    rules = {key: value for key, value in schema.items() if key not in ("title", "description")}
    if "properties" in rules:
        rules.setdefault("type", "object")
    return ReplySchema(name, description or "Give your reply in this form.", rules)


def _opened(schema: Object) -> Object:
    ref, definitions = schema.get("$ref"), cast(object, schema.get("$defs"))
    if not isinstance(ref, str) or not isinstance(definitions, dict):
        return schema
    others = cast(Object, {**definitions})
    target = others.pop(ref.removeprefix("#/$defs/"), None)
    if not isinstance(target, dict):
        return schema
    top = {**cast(Object, target), **schema, "$defs": others}
    del top["$ref"]
    if b'"$ref":' + _encode(ref) in _encode(top):
        return {**top, "$defs": definitions}
    return top if others else {key: value for key, value in top.items() if key != "$defs"}


def _model_schema(name: str, model: Any) -> Object:
    try:
        return model.model_json_schema()
    except (RuntimeError, TypeError, ValueError, NameError) as error:
        # Pydantic's own errors are some of these.
        raise ConfigError(f"Reply {name!r} has no JSON schema: {str(error).splitlines()[0]}") from None


def _type_schema(name: str, kind: Any) -> Object:
    try:
        (schema,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    except (TypeError, NameError) as error:
        known = "a name, a JSON schema, or a class that msgspec or pydantic describes"
        reason = str(error).strip().splitlines()[-1]
        raise ConfigError(f"{name!r} describes no reply ({reason}); give {known}.") from None
    return {**schema, "$defs": definitions} if definitions else schema


def _model(model: Any, fields: Object) -> object:
    from_json = getattr(model, "model_validate_json", None)
    # A strict model takes a date or a tuple from JSON text and not from a dict.
    return model.model_validate(fields) if from_json is None else from_json(json.dumps(fields))


def _convert(kind: Any, fields: Object) -> object:
    try:
        return msgspec.convert(fields, kind, str_keys=True)
    except msgspec.ValidationError:
        # 1.0 is an integer to JSON schema, and to msgspec only when it is lenient.
        return msgspec.convert(fields, kind, str_keys=True, strict=False)


class _Pair:
    """Tools and a reply, alike if they say the same."""

    __slots__ = ("_key", "schema", "tools")

    def __init__(self, tools: ToolSpecs, schema: ReplySchema) -> None:
        self.tools, self.schema = tools, schema
        self._key = (tools.encoded, _encode(schema))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Pair) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@lru_cache(maxsize=32)
def _joined(pair: _Pair) -> ToolSpecs:
    schema = pair.schema
    if any(tool.name == schema.name for tool in pair.tools):
        raise ConfigError(f"A tool and the reply schema are both named {schema.name!r}; rename one of them.")
    return ToolSpecs((*pair.tools, ToolSpec(schema.name, schema.description, schema.schema)))


def _titled(schema: ReplySchema) -> Object:
    return {"title": schema.name, "description": schema.description, **schema.schema}


def _shown_schema(schema: ReplySchema) -> str:
    return json.dumps(_titled(schema), ensure_ascii=False)
