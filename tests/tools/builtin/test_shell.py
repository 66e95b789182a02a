"""The tool `shell`."""

import asyncio
import shutil
from pathlib import Path

import pytest

from stepwell.errors import ConfigError
from stepwell.tools.base import Toolbox, ToolResult
from stepwell.tools.builtin.shell import shell_tool
from stepwell.tools.sandbox import CommandLimits, Kind
from tests.tools.running import called
from tests.tools.test_sandbox import INSTALL


@pytest.fixture(params=["bubblewrap", "none"])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Toolbox:
    kind: Kind = request.param
    if kind == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.fail(INSTALL)
    return Toolbox([shell_tool(kind, tmp_path / "workspace", timeout=20)])


def ran(box: Toolbox, command: str) -> ToolResult:
    """Run a command as an engine does."""
    return asyncio.run(called(box, {"query": command}))


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("echo 1\necho 2", "1\n2\n"),
        ("echo hi; echo Answer: two", "hi\nAnswer: two\n"),
        ("echo 'a' \"b c\"", "a b c\n"),
        ("echo 北京（朝阳）", "北京（朝阳）\n"),
        ("", ""),
        ("printf 'no line end'", "no line end"),
        ("# nothing", ""),
    ],
)
def test_a_command_that_works_gives_exactly_what_it_prints(box: Toolbox, command: str, printed: str) -> None:
    details = {"stdout": printed, "stderr": "", "exit_code": 0}
    assert ran(box, command) == ToolResult(printed, "ok", details=details)


def test_a_command_that_fails_shows_output_errors_and_exit_code_apart(box: Toolbox) -> None:
    result = ran(box, "echo out; printf err >&2; exit 3")
    assert result.content == "stdout:\nout\nstderr:\nerr\nexit code: 3"
    assert (result.status, result.details) == ("failed", {"stdout": "out\n", "stderr": "err", "exit_code": 3})
    assert ran(box, "exit 1").content == "stdout:\nstderr:\nexit code: 1"


def test_warnings_of_a_command_that_works_are_shown(box: Toolbox) -> None:
    result = ran(box, "echo out; echo careful >&2")
    assert (result.status, result.content) == ("ok", "stdout:\nout\nstderr:\ncareful\nexit code: 0")


def test_files_stay_in_the_workspace_between_commands(box: Toolbox, tmp_path: Path) -> None:
    assert ran(box, "echo kept > note").status == "ok"
    assert ran(box, "cat note").content == "kept\n"
    assert (tmp_path / "workspace" / "note").read_text() == "kept\n"


def test_a_command_without_end_is_stopped_and_says_when(tmp_path: Path) -> None:
    tool = shell_tool("none", tmp_path, timeout=0.2)
    result = asyncio.run(called(tool, {"query": "echo begun; sleep 600"}))
    assert result.status == "timeout"
    assert result.content.startswith("stdout:\nbegun\n")
    assert result.content.endswith("(the command was stopped: it ran longer than 0.2 seconds)")
    assert tool.timeout > 5.2


def test_a_command_that_uses_too_much_is_stopped_and_says_what(tmp_path: Path) -> None:
    tool = shell_tool("none", tmp_path, limits=CommandLimits(processes=3))
    result = asyncio.run(called(tool, {"query": "sleep 600 & sleep 600 & sleep 600 & wait"}))
    assert result.status == "failed"
    assert "it had more than 3 processes" in result.content


def test_much_output_is_cut(tmp_path: Path) -> None:
    tool = shell_tool("none", tmp_path, output_limit=1000)
    result = asyncio.run(called(tool, {"query": "head -c 5000000 /dev/zero | tr '\\0' x"}))
    assert "left out" in result.content
    assert len(result.content) <= 1000
    assert result.details is not None
    assert len(result.details["stdout"]) < 1100


def test_odd_bytes_and_commands_are_told(box: Toolbox) -> None:
    odd = ran(box, "printf 'a\\0b\\377'; printf '\\376' >&2")
    assert odd.content == "stdout:\na\ufffdb\ufffd\nstderr:\n\ufffd\nexit code: 0"
    assert odd.details is not None
    assert odd.details["replaced_characters"] == 3
    told = ran(box, "printf '\\357\\277\\275'")
    assert (told.content, "replaced_characters" in (told.details or {})) == ("\ufffd", False)
    result = ran(box, "echo a\0b")
    assert (result.status, result.content) == ("failed", "The command contains a NUL character; leave it out.")
    assert "longer than" in ran(box, "x" * 200_000).content


def test_where_there_is_no_sandbox_there_is_no_tool(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no program .* Install bubblewrap"):
        shell_tool("bubblewrap", tmp_path, program=str(tmp_path / "bwrap"))


def test_its_effect_is_a_write(box: Toolbox) -> None:
    tool = box.get("shell")
    assert tool is not None
    assert (tool.effect, list(tool.spec.parameters["properties"])) == ("write", ["query"])
