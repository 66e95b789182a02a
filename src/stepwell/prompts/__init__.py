"""The texts that tell models what to do, as files in this folder, by kind, name and language.

A file is called `KIND.NAME.LANGUAGE.txt`. Templates put values in once and by name; they hold no logic,
and a value is never read as a template. What the values are is the business of whoever renders.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache

from stepwell.errors import ConfigError

_FOLDER = os.path.dirname(__file__)
_DEFAULT_LANGUAGE = "en"
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")

_REACT = frozenset({"tools", "tool_names", "history", "input", "agent_scratchpad"})
_TURNS = (frozenset({"tools", "tool_names"}),)
_VARIABLES: dict[str, tuple[frozenset[str], ...]] = {
    "chat_about": (frozenset({"work", "question"}),),
    "conclusion": (frozenset({"task", "tasks_overview"}),),
    "glm3": _TURNS,
    "hermes": (frozenset({"tools"}),),
    "judger": (frozenset({"plan"}),),
    "plan": (frozenset({"tools", "width"}), frozenset({"overview", "task", "suggestions", "edits"})),
    "qwen": (_REACT - {"tools"} | {"tool_schemas"},),
    "react": (_REACT, _REACT - {"tools"} | {"tool_schemas"}),
    "repair": (frozenset({"error", "reply", "schema"}),),
    "reply": (frozenset({"schema"}),),
    "router": (frozenset(),),
    "structured": _TURNS,
    "summary": (frozenset({"context", "actions"}), frozenset({"text"})),
    "system": (frozenset(),),
    "task": (frozenset({"task", "overview"}), frozenset({"step", "steps"}), frozenset({"steps"})),
    "xml": _TURNS,
}
"""By kind: the sets of placeholders that a template may have. It has all of one set, and no others."""


class Template:
    """A text with places for named values, written `{name}`; all other braces are text.

    Args:
        kind: What the template is for, such as `react`.
        name: Its name among those of its kind.
        language: `en` or `zh`.
        text: The template.

    Raises:
        ConfigError: A placeholder is unknown or missing.
    """

    __slots__ = ("_pieces", "digest", "kind", "language", "name", "variables")

    def __init__(self, kind: str, name: str, language: str, text: str) -> None:
        self.kind, self.name, self.language = kind, name, language
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        self._pieces = tuple(_PLACEHOLDER.split(text))
        self.variables = frozenset(self._pieces[1::2])
        accepted = _VARIABLES.get(kind, ())
        if self.variables not in accepted:
            raise ConfigError(f"Prompt {kind}.{name}.{language}: {_mistakes(self.variables, accepted)}.")

    def render(self, **values: str) -> str:
        """Return the text with the values in their places.

        Args:
            values: One for each of `variables`.

        Raises:
            ConfigError: A value is missing, or has no place in the template.
        """
        if values.keys() != self.variables:
            found = _mistakes(frozenset(values), (self.variables,))
            raise ConfigError(f"Prompt {self.kind}.{self.name}.{self.language}: {found}.")
        pieces = list(self._pieces)
        pieces[1::2] = [values[name] for name in pieces[1::2]]
        return "".join(pieces)


def _mistakes(found: frozenset[str], accepted: tuple[frozenset[str], ...]) -> str:
    if not accepted:
        return f"there is no such kind of prompt; known kinds: {', '.join(sorted(_VARIABLES))}"
    wanted = min(accepted, key=lambda names: len(names ^ found))
    missing, unknown = sorted(wanted - found), sorted(found - wanted)
    return "; ".join(
        f"{what} {', '.join('{' + name + '}' for name in names)}"
        for what, names in (("missing", missing), ("unknown", unknown))
        if names
    )


def load(kind: str, name: str = "default", language: str = _DEFAULT_LANGUAGE) -> Template:
    """Return a template; files are read on first use and once.

    Args:
        kind: What the template is for: `plan`, `system`, a dialect's name or another kind that is known.
        name: Its name, such as `default`.
        language: `en` or `zh`. A template that lacks the language is given in English.

    Raises:
        ConfigError: There is no such template, or it is broken.
    """
    files = _files()
    for candidate in (language, _DEFAULT_LANGUAGE):
        if (kind, name, candidate) in files:
            return _read(kind, name, candidate)
    known = ", ".join(names(kind))
    raise ConfigError(f"There is no {kind} prompt named {name!r}. Known: {known}.")


def names(kind: str) -> list[str]:
    """Return the names of a kind's templates, sorted.

    Raises:
        ConfigError: There is no such kind.
    """
    if kind not in _VARIABLES:
        raise ConfigError(f"There is no kind of prompt named {kind!r}. Known: {', '.join(sorted(_VARIABLES))}.")
    return sorted({name for of_kind, name, _ in _files() if of_kind == kind})


@lru_cache(maxsize=1)
def _files() -> frozenset[tuple[str, str, str]]:
    parts = (file.split(".") for file in os.listdir(_FOLDER) if file.endswith(".txt"))
    return frozenset((kind, name, language) for kind, name, language, _ in parts)


@lru_cache(maxsize=64)
def _read(kind: str, name: str, language: str) -> Template:
    # importlib.resources takes 8 ms to import, a fifth of what `from stepwell import Agent` may cost.
    with open(os.path.join(_FOLDER, f"{kind}.{name}.{language}.txt"), encoding="utf-8", newline="\n") as file:
        return Template(kind, name, language, file.read().removesuffix("\n"))
