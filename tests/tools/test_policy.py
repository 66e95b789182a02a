"""The table that says which calls run at once."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.events import Effect
from stepwell.messages import ToolSpec
from stepwell.specs import Rule
from stepwell.tools.base import ToolContext, ToolResult, as_tool
from stepwell.tools.builtin.files import file_tools
from stepwell.tools.mark import tool
from stepwell.tools.policy import (
    arguments_of,
    decide,
    has_probe,
    is_threaded,
    is_untrusted,
    place_of,
    version_of,
)

SHELL: dict[str, Any] = {"command": "rm -rf\n/", "n": 3, "deep": {"a": [1, "ö"]}, "on": True, "no": None}


@pytest.mark.parametrize(
    "rule",
    [
        Rule(decision="deny"),
        Rule(decision="deny", tool="sh*"),
        Rule(decision="deny", tool="s?ell"),
        Rule(decision="deny", effect="write"),
        Rule(decision="deny", place="outside"),
        Rule(decision="deny", untrusted=False),
        Rule(decision="deny", arguments={"command": "rm *"}),
        Rule(decision="deny", arguments={"command": "*/", "n": "3"}),
        Rule(decision="deny", arguments={"deep": '{"a":[[]1,"ö"]}', "on": "true", "no": "null"}),
    ],
)
def test_a_rule_fits(rule: Rule) -> None:
    assert decide((rule,), "shell", "write", "outside", SHELL, False) == ("deny", rule)


@pytest.mark.parametrize(
    "rule",
    [
        Rule(decision="deny", tool="Shell"),
        Rule(decision="deny", tool="she"),
        Rule(decision="deny", effect="pure"),
        Rule(decision="deny", place="workspace"),
        Rule(decision="deny", untrusted=True),
        Rule(decision="deny", arguments={"command": "rm"}),
        Rule(decision="deny", arguments={"command": "RM *"}),
        Rule(decision="deny", arguments={"missing": "*"}),
        Rule(decision="deny", tool="shell", effect="write", arguments={"command": "rm *", "n": "4"}),
    ],
)
def test_a_rule_does_not_fit_and_without_one_a_call_runs(rule: Rule) -> None:
    assert decide((rule,), "shell", "write", "outside", SHELL, False) == ("allow", None)


def test_the_first_rule_that_fits_decides() -> None:
    rules = (
        Rule(decision="allow", tool="shell", arguments={"command": "ls*"}),
        Rule(decision="ask", tool="shell"),
        Rule(decision="deny"),
    )
    assert decide(rules, "shell", "write", "outside", {"command": "ls -l"}, True) == ("allow", rules[0])
    assert decide(rules, "shell", "write", "outside", {"command": "rm"}, True) == ("ask", rules[1])
    assert decide(rules, "other", "pure", "workspace", {}, False) == ("deny", rules[2])
    assert decide((), "other", "write", "outside", {}, True) == ("allow", None)


async def _probe(key: str, arguments: dict[str, Any], context: ToolContext) -> None: ...


@tool(place="workspace", untrusted=True, probe=_probe)
def near(path: str = "/tmp", deep: bool = False) -> str:
    """Work near by."""
    return path


@tool
async def far() -> None:
    """Work far away."""


class Bare:
    """A tool of somebody else, with what the port asks for and no more."""

    spec = ToolSpec("bare", "Bare.", {"properties": {"a": True, "b": {"default": 1}}})
    effect: Effect = "write"
    timeout, output_limit = 1.0, 10

    async def call(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        """Return nothing."""
        return ToolResult("")


def test_what_a_tool_says_of_itself_is_read_and_what_it_does_not_say_is_the_careful_thing() -> None:
    made = as_tool(near)
    assert (place_of(made), is_untrusted(made), is_threaded(made), has_probe(made)) == ("workspace", True, True, True)
    for other in (as_tool(far), as_tool(Bare())):
        facts = (place_of(other), is_untrusted(other), is_threaded(other), has_probe(other))
        assert facts == ("outside", False, False, False)


def test_defaults_are_arguments_too() -> None:
    assert arguments_of(as_tool(near), "") == {"path": "/tmp", "deep": False}
    assert arguments_of(as_tool(near), '{"path": "x"}') == {"path": "x", "deep": False}
    assert arguments_of(Bare(), '{"a": [1]}') == {"a": [1], "b": 1}


def test_a_version_changes_with_what_a_tool_says_of_itself() -> None:
    @tool(name="far", description="Work farther away.")
    async def farther() -> None: ...

    @tool(name="far", place="workspace", description="Work far away.")
    async def nearer() -> None: ...

    class Newer(Bare):
        version = "2"

    versions = {version_of(as_tool(each)) for each in (far, farther, nearer, Bare(), Newer())}
    assert len(versions) == 5
    assert version_of(Bare()) == version_of(Bare())


def test_the_file_tools_reach_no_further_than_the_workspace(tmp_path: Any) -> None:
    assert [place_of(each) for each in file_tools(tmp_path)] == ["workspace"] * 3
