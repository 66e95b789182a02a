"""The eight old tools of the old chat service."""

import asyncio

import pytest

from stepwell.tools.base import Toolbox
from stepwell.tools.builtin.calculate import calculate
from stepwell.tools.builtin.now import now_tool
from stepwell.tools.builtin.unconfigured import chatchat_tools
from tests.tools.running import called

OLD = {
    "calculate": "query",
    "arxiv": "query",
    "weather_check": "location",
    "shell": "query",
    "search_knowledgebase_complex": "location",
    "search_internet": "location",
    "Wolfram": "location",
    "search_youtube": "location",
}


def test_all_eight_are_there_in_the_old_order_with_one_text_each() -> None:
    box = Toolbox(chatchat_tools([now_tool(), calculate]))
    assert {spec.name: list(spec.parameters["properties"]) for spec in box.specs} == {
        name: [argument] for name, argument in OLD.items()
    }
    assert list(box.names) == list(OLD)
    assert all(spec.description for spec in box.specs)


def test_a_tool_that_is_built_works() -> None:
    box = Toolbox(chatchat_tools([calculate]))
    assert asyncio.run(called(box, {"query": "1+1"}, "calculate")).content == "2"


@pytest.mark.parametrize("name", OLD)
def test_a_tool_that_is_not_built_says_so_in_the_failure_form(name: str) -> None:
    result = asyncio.run(called(Toolbox(chatchat_tools()), {OLD[name]: "x"}, name))
    assert result.status == "failed"
    assert result.content.startswith(f"{name} is not configured. ")
    assert "settings" in result.content


def test_the_reason_why_a_tool_is_not_there_is_passed_on() -> None:
    box = Toolbox(chatchat_tools(remedies={"shell": "Install bubblewrap."}))
    result = asyncio.run(called(box, {"query": "ls"}, "shell"))
    assert result.content == "shell is not configured. Install bubblewrap. Go on without it."


def test_a_shell_that_is_switched_off_runs_nothing() -> None:
    box = Toolbox(chatchat_tools([calculate]))
    assert asyncio.run(called(box, {"query": "touch /tmp/x"}, "shell")).status == "failed"
    for name in ("Shell", "SHELL", "ѕhell", "mcp__x__shell", "shell "):
        assert asyncio.run(called(box, {"query": "ls"}, name)).status == "unknown_tool"
    without = Toolbox([calculate])
    assert asyncio.run(called(without, {"query": "ls"}, "shell")).status == "unknown_tool"
    assert "shell" not in without.specs.encoded.decode()


def test_a_wrong_argument_name_is_told_to_the_model() -> None:
    result = asyncio.run(called(Toolbox(chatchat_tools()), {"query": "x"}, "search_internet"))
    assert result.status == "invalid"
    assert "missing field `location`; unknown field `query`" in result.content
