"""Which calls run at once: the table of rules, and the facts of a tool that rules and approvals look at.

It runs nothing and asks nobody; what an engine makes of a decision is its own business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal, Protocol, cast

import msgspec

from stepwell.events import Effect
from stepwell.questions import Inquiry
from stepwell.specs import Rule
from stepwell.tools.arguments import read_object
from stepwell.tools.base import Tool

Decision = Literal["allow", "ask", "deny"]
Place = Literal["workspace", "outside"]


class Asking(Protocol):
    """A tool whose calls are answered by a person, not by running it."""

    def question(self, arguments: dict[str, Any]) -> Inquiry:
        """Return what a call wants to know.

        Args:
            arguments: The call's, as the model wrote them.

        Raises:
            ToolError: Nobody could answer that; says what is wrong with it.
        """
        ...


def asking_of(tool: Tool) -> Asking | None:
    """Return a tool whose calls are answered by a person as such a one, or None."""
    # Quicker than a comparison with the protocol, and made for every call.
    return cast(Asking, tool) if hasattr(tool, "question") else None


def decide(
    rules: Iterable[Rule], tool: str, effect: Effect, place: Place, arguments: Mapping[str, Any], untrusted: bool
) -> tuple[Decision, Rule | None]:
    """Return what the first fitting rule says of a call, with that rule; without one the call may run.

    Args:
        rules: The table, in order.
        tool: Name of the tool.
        effect: What running it twice does.
        place: How far it reaches.
        arguments: The call's arguments, as plain JSON values.
        untrusted: Whether text of strangers stands in the context.
    """
    for rule in rules:
        fits = (
            fnmatchcase(tool, rule.tool)
            and rule.effect in ("", effect)
            and rule.place in ("", place)
            and rule.untrusted in (None, untrusted)
            and all(name in arguments and _fits(arguments[name], rule.arguments[name]) for name in rule.arguments)
        )
        if fits:
            return rule.decision, rule
    return "allow", None


def _fits(value: object, pattern: str) -> bool:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return fnmatchcase(text, pattern)


def arguments_of(tool: Tool, text: str) -> dict[str, Any]:
    """Return a call's arguments as rules compare them: plain JSON values, with the defaults that the tool states.

    Raises:
        BadArguments: The text is no JSON object.
    """
    given = read_object(text) if text and not text.isspace() else {}
    stated = cast(dict[str, object], tool.spec.parameters.get("properties", {}))
    fields = {name: cast(dict[str, Any], each) for name, each in stated.items() if isinstance(each, dict)}
    return {**{name: each["default"] for name, each in fields.items() if "default" in each}, **given}


def place_of(tool: Tool) -> Place:
    """Return how far a tool reaches; one that does not say so reaches outside."""
    return "workspace" if getattr(tool, "place", "") == "workspace" else "outside"


def is_untrusted(tool: Tool) -> bool:
    """Tell whether a tool's results are text of strangers."""
    return getattr(tool, "untrusted", False) is True


def is_threaded(tool: Tool) -> bool:
    """Tell whether a tool runs in a thread, which nobody can stop."""
    return getattr(tool, "threaded", False) is True


def has_probe(tool: Tool) -> bool:
    """Tell whether the outside can be asked if a call of this tool took effect."""
    return getattr(tool, "probe", None) is not None


def version_of(tool: Tool) -> str:
    """Return a hash of all that a tool says of itself; an approval holds for one version of it."""
    said = (tool.spec, tool.effect, place_of(tool), str(getattr(tool, "version", "")))
    return hashlib.sha256(msgspec.json.encode(said, order="deterministic")).hexdigest()[:16]
