"""Which tools the settings switch on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stepwell.config import Config
from stepwell.errors import ConfigError
from stepwell.tools.base import as_tool
from stepwell.tools.builtin.calculate import calculate
from stepwell.wiring.tools import chatchat_tools, configured_tools


def names(tmp_path: Path, **tools: Any) -> list[str]:
    return [tool.spec.name for tool in configured_tools(Config(**{"data": tmp_path / "data", "tools": tools}))]


def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> str:
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_tools_that_do_harm_are_off_until_they_are_switched_on(tmp_path: Path) -> None:
    assert names(tmp_path) == ["calculate", "now"]
    assert not (tmp_path / "data").exists()
    files = ["read_file", "write_file", "list_files"]
    assert names(tmp_path, files={"enabled": True}) == ["calculate", "now", *files]
    assert (tmp_path / "data" / "workspace").is_dir()
    both = names(tmp_path, files={"enabled": True}, shell={"enabled": True, "sandbox": "none"})
    assert both == ["calculate", "now", *files, "shell"]


def test_a_data_folder_that_is_made_for_its_workspace_is_its_owners_alone(tmp_path: Path) -> None:
    names(tmp_path, files={"enabled": True})
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_the_workspace_is_where_the_settings_say(tmp_path: Path) -> None:
    names(tmp_path, files={"enabled": True}, workspace=tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"tools\.workspace: cannot make .*file.*; name another"):
        names(tmp_path, files={"enabled": True}, workspace=tmp_path / "file" / "b")


@pytest.mark.parametrize("place", [".", "data", "link"])
def test_the_workspace_has_no_data_folder_in_it(tmp_path: Path, place: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match=r"tools\.workspace: .* has the data folder in it, and so the keys"):
        names(tmp_path, files={"enabled": True}, workspace=tmp_path / place)


def test_tools_are_left_out_by_name_and_unknown_names_are_told(tmp_path: Path) -> None:
    assert names(tmp_path, disabled=["now"]) == ["calculate"]
    assert names(tmp_path, disabled=["now", "calculate"]) == []
    with pytest.raises(ConfigError, match=r"tools\.disabled: there is no tool shell, x; remove the name"):
        names(tmp_path, disabled=["x", "now", "shell"])


def test_marked_functions_of_a_module_are_added_once_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "from stepwell import tool\n\n"
        "@tool\ndef beta() -> str:\n    return ''\n\n"
        "@tool(name='alpha')\nasync def first() -> str:\n    return ''\n\n"
        "again = beta\n\n"
        "def not_marked() -> str:\n    return ''\n"
    )
    mine = module(tmp_path, monkeypatch, "my_marked_tools", text)
    assert names(tmp_path, modules=[mine], disabled=["now"]) == ["calculate", "beta", "alpha"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "tools.modules: cannot import {name}"),
        ("import no_such_thing_anywhere", "tools.modules: cannot import {name}: No module named 'no_such_thing"),
        ("x = 1", "tools.modules: {name} has no function marked with @tool"),
        ("def broken(:", "tools.modules: {name} cannot be used: SyntaxError"),
        ("raise RuntimeError('at import')", "tools.modules: {name} cannot be used: RuntimeError: at import"),
        (
            "from stepwell import tool\n@tool\ndef now() -> str:\n    return ''",
            "tools: two tools are named now; rename one or add it to tools.disabled",
        ),
        ("from stepwell import tool\n@tool\ndef odd(*args):\n    return ''", "odd"),
    ],
)
def test_a_module_that_cannot_be_used_is_named_with_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, text: str | None, said: str
) -> None:
    name = f"wrong_tools_{abs(hash(request.node.name))}"
    if text is not None:
        module(tmp_path, monkeypatch, name, text)
    with pytest.raises(ConfigError) as caught:
        names(tmp_path, modules=[name])
    assert said.format(name=name) in str(caught.value)


def test_the_old_names_are_offered_in_their_order_whatever_is_switched_on(tmp_path: Path) -> None:
    old = [
        "calculate",
        "arxiv",
        "weather_check",
        "shell",
        "search_knowledgebase_complex",
        "search_internet",
        "Wolfram",
        "search_youtube",
    ]
    assert [tool.spec.name for tool in chatchat_tools([])] == old
    config = Config(**{"data": tmp_path, "tools": {"shell": {"enabled": True, "sandbox": "none"}}})
    found = {tool.spec.name: tool for tool in chatchat_tools(configured_tools(config))}
    assert list(found) == old
    assert found["calculate"].spec == as_tool(calculate).spec
    assert found["shell"].effect == "write"
    assert found["arxiv"].effect == "pure"
