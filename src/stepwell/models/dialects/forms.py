"""The steps of a dialect as one JSON schema, for endpoints that keep a reply to a schema.

The servers of open models make grammars of schemas: XGrammar in vLLM and SGLang, llama.cpp's own in Ollama and LM
Studio. Each refuses some keywords, so only those stay that all of them know, and what a tool's schema says beyond that
is the toolbox's to check. It knows nothing of how replies are read.
"""

from __future__ import annotations

from typing import Any, cast

from stepwell.messages import ToolSpecs

Object = dict[str, Any]

_KINDS = ("string", "number", "integer", "boolean", "null", "object", "array")
_ANY: tuple[str, ...] = tuple(kind for kind in _KINDS if kind != "integer")
_DEEPEST = 16
"""Schemas nested deeper allow anything there."""


def steps(tools: ToolSpecs, final: str, answer: Object | None, choice: str = "") -> Object:
    """Return the schema of one step: a thought, the name of an action, and its input.

    Args:
        tools: What may be called.
        final: The action that gives the answer.
        answer: The schema of the answer; None for text.
        choice: As `Settings.tool_choice`: with `required` or a tool's name a step is a call.
    """
    called = [tool for tool in tools if choice in ("", "auto", "required", tool.name)]
    each = [_step(tool.name, loosened({"type": "object", **tool.parameters})) for tool in called]
    if choice in ("", "auto"):
        each.append(_step(final, {"type": "string"} if answer is None else loosened(answer)))
    return {"title": "step", "type": "object", "anyOf": each}


def _step(action: str, given: Object) -> Object:
    # Grammars write fields in this order: what was thought decides about the action.
    fields = {"thought": {"type": "string"}, "action": {"const": action}, "action_input": given}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def loosened(schema: object, depth: int = 0) -> Object:
    """Return a schema of few keywords that allows what another one does, and maybe more.

    Args:
        schema: The other one; parts that a `$ref` stands for allow anything.
        depth: How deep it is nested.
    """
    given = cast(Object, schema) if isinstance(schema, dict) and depth < _DEEPEST else {}
    for word in ("const", "enum"):
        if given.get(word, []) != []:
            return {word: given[word]}
    choices: object = given.get("anyOf") or given.get("oneOf")
    if isinstance(choices, list) and choices:
        return {"anyOf": [loosened(each, depth + 1) for each in cast(list[object], choices)]}
    stated: object = given.get("type")
    if isinstance(stated, str):
        return _of_kind(stated, given, depth)
    kinds = cast(list[str], stated) if isinstance(stated, list) and stated else list(_ANY)
    return {"anyOf": [_of_kind(kind, given, depth) for kind in kinds]}


def _of_kind(kind: str, given: Object, depth: int) -> Object:
    # A bare object or array allows any content in each of these servers; one that states no more forbids it in some.
    if kind == "array" and "items" in given:
        return {"type": kind, "items": loosened(given["items"], depth + 1)}
    named: object = given.get("properties")
    if kind == "object" and isinstance(named, dict):
        fields = cast(Object, named)
        made: Object = {"type": kind, "properties": {name: loosened(each, depth + 1) for name, each in fields.items()}}
        required: object = given.get("required")
        made["required"] = [name for name in fields if name in cast(list[str], required or [])]
        if more := given.get("additionalProperties"):
            made["additionalProperties"] = more if more is True else loosened(more, depth + 1)
        return made
    return {"type": kind} if kind in _KINDS else loosened({})
