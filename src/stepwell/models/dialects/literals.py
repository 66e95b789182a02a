"""Python literals as models write them: where a bracket closes, and what stands in a call, as JSON text.

Text is parsed, never run: names, operators and calls inside a literal are no values.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
import warnings
from typing import Any, cast

MOST_CHARACTERS = 200_000
"""Longer text is not read as Python, whose parser needs many times its memory."""

QUOTES = ("'", '"')
_SIGN = re.compile(r"\"+|'+|[\\(){}\[\]]")
_JSON_NAMES = {"true": True, "false": False, "null": None}
_REFUSED = (SyntaxError, ValueError, RecursionError, MemoryError)


class Balanced:
    """Finds where the bracket closes that a text starts with; the text comes in pieces, each read once.

    Brackets inside quotes of either kind, also threefold ones, do not count. It serves JSON, Python and what lies
    between.
    """

    __slots__ = ("_depth", "_escaped", "_quote", "_run")

    def __init__(self) -> None:
        self._depth, self._quote, self._escaped = 0, "", False
        self._run = ""  # quotes at the end of a piece, of which more may follow

    def feed(self, text: str, at: int = 0) -> int:
        """Read the next piece of the text, from a place on.

        Returns:
            The place in the piece behind the closing bracket, -1 while it is open.
        """
        skip = at if self._escaped else -1
        for found in _SIGN.finditer(text, at):
            place, sign = found.start(), found[0]
            if place == skip:
                sign = sign[1:]
            if self._run and not (place == at and sign[:1] == self._run[0]):
                self._take_run()
            if sign[:1] in QUOTES:
                self._run += sign
                if found.end() < len(text):
                    self._take_run()
            elif self._quote:
                skip = place + 1 if sign == "\\" else skip
            elif sign != "\\":
                self._depth += 1 if sign in "([{" else -1
                if self._depth <= 0:
                    return found.end()
        if self._run and text[-1:] != self._run[0]:
            self._take_run()
        self._escaped = skip == len(text)
        return -1

    def _take_run(self) -> None:
        """Read quotes in a row."""
        quote, count = self._run[:1], len(self._run)
        self._run = ""
        while count:
            if not self._quote:
                taken = 3 if count >= 3 else 1
                self._quote = quote * taken
            elif quote != self._quote[0] or count < len(self._quote):
                return
            else:
                taken = len(self._quote)
                self._quote = ""
            count -= taken


def literal_json(text: str) -> str | None:
    """Return a Python literal as JSON text, or None if it is none that JSON can say.

    `true`, `false` and `null` are taken for what they mean in JSON.
    """
    tree = _parse(text.strip())
    try:
        return None if tree is None else _json(_value(tree))
    except _REFUSED:
        return None


def keywords_json(text: str) -> str | None:
    """Return the arguments of a Python call as the JSON text of an object, or None if they cannot be read.

    Args:
        text: What stands in the call's parentheses, with them: `(a=1, b='x')`; or one dict.
    """
    tree = _parse("f" + text.strip())
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name) or len(tree.args) > 1:
        return None
    try:
        values: dict[str, Any] = {}
        for given in [*tree.args, *(each.value for each in tree.keywords if each.arg is None)]:
            more = _value(given)
            if not isinstance(more, dict) or (values and more):
                return None
            values = cast(dict[str, Any], more)
        for each in tree.keywords:
            if each.arg is not None:
                if each.arg in values:
                    return None
                values[each.arg] = _value(each.value)
        return _json(values)
    except _REFUSED:
        return None


def as_keywords(text: str) -> str | None:
    """Return the JSON text of an object as a Python call's arguments, or None if they would not read back the same.

    Returns:
        What stands between the parentheses: `a=1, b='x'`.
    """
    try:
        values: dict[str, Any] = json.loads(text)
        if not all(name.isascii() and name.isidentifier() and not keyword.iskeyword(name) for name in values):
            return None
        written = ", ".join(f"{name}={value!r}" for name, value in values.items())
        read = keywords_json(f"({written})")
        return written if read is not None and _exact(read) == _exact(text) else None
    except _REFUSED:
        return None


def _parse(text: str) -> ast.expr | None:
    if len(text) > MOST_CHARACTERS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a backslash that escapes nothing is no fault of ours
            return ast.parse(text, mode="eval").body
    except _REFUSED:
        return None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.Name(id=name) if name in _JSON_NAMES:
            return _JSON_NAMES[name]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=int() | float() as value)):
            return -value if isinstance(sign, ast.USub) else value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(each) for each in items]
        case ast.Dict(keys=keys, values=values):
            names = [_name(key) for key in keys]
            if len(set(names)) < len(names):
                raise ValueError("a key stands twice")
            return dict(zip(names, map(_value, values), strict=True))
        case _:
            raise ValueError("this is no value")


def _name(key: ast.expr | None) -> str:
    if isinstance(key, ast.Constant) and isinstance(key.value, str):
        return key.value
    raise ValueError("a key of JSON is a text")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace").decode()


def _exact(text: str) -> object:
    """Return a JSON text as what tells it from every text that means something else."""
    # A float is compared as it is written: one with more digits than it can hold would come back as another.
    return json.loads(text, parse_float=_written, object_pairs_hook=list)


def _written(text: str) -> str:
    return text.lower().replace("e+", "e")
