"""The decorator `tool`."""

import subprocess
import sys
from typing import Any

import pytest

from stepwell.tools.base import FunctionTool, ToolContext, as_tool
from stepwell.tools.mark import tool


def test_a_marked_function_is_still_the_same_function() -> None:
    def double(n: int) -> int:
        return 2 * n

    assert tool(double) is double
    assert tool(effect="pure")(double) is double
    assert double(4) == 8


def test_the_options_reach_the_tool() -> None:
    @tool(name="twice", description="Doubles.", effect="pure", timeout=5, output_limit=10)
    def double(n: int) -> int:
        """Multiply by two."""
        return 2 * n

    made = as_tool(double)
    assert (made.spec.name, made.spec.description) == ("twice", "Doubles.")
    assert (made.effect, made.timeout, made.output_limit) == ("pure", 5, 10)


def test_a_tool_says_how_far_it_reaches_whose_text_it_brings_and_how_to_look_for_its_effect() -> None:
    async def look(key: str, arguments: dict[str, Any], context: ToolContext) -> None: ...

    @tool(place="workspace", untrusted=True, probe=look)
    def fetch(url: str) -> str:
        """Fetch it."""
        return url

    made = as_tool(fetch)
    assert isinstance(made, FunctionTool)
    assert (made.place, made.untrusted, made.probe) == ("workspace", True, look)


def test_a_tool_without_options_is_a_write_with_the_usual_limits() -> None:
    @tool
    def note(text: str) -> None:
        """Write it down."""

    made = as_tool(note)
    assert (made.effect, made.timeout, made.output_limit) == ("write", 60, 30_000)
    assert isinstance(made, FunctionTool)
    assert (made.place, made.untrusted, made.probe) == ("outside", False, None)


def test_what_cannot_carry_a_mark_is_named() -> None:
    with pytest.raises(TypeError, match="built-in function len"):
        tool(len)


def test_the_decorator_costs_no_import() -> None:
    code = """
import sys, typing, collections.abc
before = set(sys.modules)
import stepwell.tools.mark
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "['__future__', 'importlib', 'stepwell']"
