"""The tool `shell`: runs a command in the workspace, under a sandbox.

It does not decide whether it may be offered: it is off unless the settings switch it on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stepwell.tools.base import Tool, ToolResult, as_tool
from stepwell.tools.bounds import REPLACED
from stepwell.tools.mark import tool
from stepwell.tools.process import Outcome
from stepwell.tools.sandbox import CommandLimits, Kind, Sandbox

MARGIN = 15.0
"""Seconds that ending a command may take beyond its time."""


def shell_tool(
    sandbox: Kind,
    workspace: Path,
    *,
    timeout: float = 60.0,
    output_limit: int = 30_000,
    limits: CommandLimits | None = None,
    program: str = "bwrap",
) -> Tool:
    """Build the tool.

    Args:
        sandbox: `bubblewrap`, or `none` for no protection at all.
        workspace: The folder in which commands run.
        timeout: Seconds that a command may take.
        output_limit: Characters of the result, and bytes kept of each output stream.
        limits: What else a command may use.
        program: The bubblewrap program, by name or path.

    Raises:
        ConfigError: Bubblewrap does not work here; says why and what to do.
    """
    place = Sandbox(sandbox, workspace, limits, program)

    @tool(effect="write", timeout=timeout + MARGIN, output_limit=output_limit)
    async def shell(query: str) -> ToolResult:
        """Run a command with the Linux shell and return what it prints.

        Args:
            query: The command, as one would type it. It runs in the workspace folder, without input.
        """
        return _result(await place.run(query, timeout, output_limit))

    return as_tool(shell)


def _result(outcome: Outcome) -> ToolResult:
    details: dict[str, Any] = {"stdout": outcome.stdout, "stderr": outcome.stderr, "exit_code": outcome.exit_code}
    if outcome.replaced:
        details[REPLACED] = outcome.replaced
    if outcome.timed_out:
        return ToolResult(_labelled(outcome), "timeout", details=details)
    if outcome.stopped or outcome.exit_code:
        return ToolResult(_labelled(outcome), "failed", details=details)
    return ToolResult(_labelled(outcome) if outcome.stderr else outcome.stdout, details=details)


def _labelled(outcome: Outcome) -> str:
    parts = [("stdout", outcome.stdout), ("stderr", outcome.stderr)]
    text = "".join(f"{label}:\n{said}{'' if said.endswith(chr(10)) or not said else chr(10)}" for label, said in parts)
    why = f" (the command was stopped: {outcome.stopped})" if outcome.stopped else ""
    return f"{text}exit code: {outcome.exit_code}{why}"
