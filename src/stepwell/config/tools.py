"""Settings of tools: the section `[tools]`. The tools of MCP servers are in `mcp.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stepwell.config.base import LONGEST, Names, Place, Section


class ShellSettings(Section):
    """The tool `shell`, which runs commands on this machine."""

    enabled: bool = False
    """Off until switched on."""
    sandbox: Literal["bubblewrap", "none"] = "bubblewrap"
    """`none` runs commands with the rights of the server."""
    approval: Literal["ask", "allow"] = "ask"
    """`allow`: its calls run without an approval."""
    timeout: float = Field(default=60.0, gt=0, le=LONGEST)
    """Seconds for one command."""


class FileSettings(Section):
    """The tools `read_file`, `write_file` and `list_files` in the workspace folder."""

    enabled: bool = False
    """Off until switched on."""


class AskHumanSettings(Section):
    """The tool `ask_human`, with which the agent asks the person."""

    enabled: bool = False
    """Off until switched on."""


class ToolSettings(Section):
    """The tools that the server's agents may have."""

    shell: ShellSettings = ShellSettings()
    files: FileSettings = FileSettings()
    ask_human: AskHumanSettings = AskHumanSettings()
    workspace: Place | None = None
    """Folder of the file tools and of `shell`; empty: `workspace` in the data folder."""
    modules: Names = []
    """Importable Python modules whose `@tool` functions are added."""
    disabled: Names = []
    """Names of tools to leave out."""
