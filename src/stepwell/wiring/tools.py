"""Builds the tools that the settings switch on, the built-in ones and users' own."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path

from stepwell.config import Config
from stepwell.errors import ConfigError
from stepwell.specs import Rule
from stepwell.tools.base import Tool, as_tool
from stepwell.tools.builtin.calculate import calculate
from stepwell.tools.builtin.now import now_tool
from stepwell.tools.mark import ATTRIBUTE

ASKING, DELEGATING = "ask_human", "delegate"


def configured_tools(config: Config) -> list[Tool]:
    """Return the server's tools, in the order in which models are told of them.

    Raises:
        ConfigError: A tool cannot be built as the settings say, or two have one name.
    """
    tools = [as_tool(calculate), now_tool()]
    settings = config.tools
    if settings.files.enabled:
        from stepwell.tools.builtin.files import file_tools

        tools += file_tools(_workspace(config))
    if settings.shell.enabled:
        from stepwell.tools.builtin.shell import shell_tool

        tools.append(shell_tool(settings.shell.sandbox, _workspace(config), timeout=settings.shell.timeout))
    if settings.ask_human.enabled:
        tools += asking_tools(config).values()
    if config.agents:
        from stepwell.tools.builtin.delegate import DelegateTool

        tools.append(DelegateTool({name: each.description for name, each in config.agents.items()}))
    for name in settings.modules:
        tools += _module_tools(name)
    unknown = set(settings.disabled) - {tool.spec.name for tool in tools} - {ASKING, DELEGATING}
    if unknown:
        raise ConfigError(f"tools.disabled: there is no tool {', '.join(sorted(unknown))}; remove the name")
    kept = [tool for tool in tools if tool.spec.name not in settings.disabled]
    for name in {tool.spec.name for tool in kept}:
        if sum(tool.spec.name == name for tool in kept) > 1:
            raise ConfigError(f"tools: two tools are named {name}; rename one or add it to tools.disabled")
    return kept


def asking_tools(config: Config) -> dict[str, Tool]:
    """Return the tool with which agents ask people, by name, unless the settings leave it out."""
    from stepwell.tools.builtin.ask_human import ask_human_tool

    tool = ask_human_tool()
    return {} if tool.spec.name in config.tools.disabled else {tool.spec.name: tool}


def approval_rules(config: Config) -> tuple[Rule, ...]:
    """Return the table of calls that run at once: the settings' own rows, then the built-in ones."""
    rows = [Rule(**row.model_dump()) for row in config.approvals.rules]
    if config.tools.shell.enabled and config.tools.shell.approval == "allow":
        rows.append(Rule(decision="allow", tool="shell"))
    return (*rows, Rule(decision="ask", effect="write", place="outside"))


def chatchat_tools(built: Iterable[Tool]) -> list[Tool]:
    """Return the eight tools that old Langchain-Chatchat clients expect, in their order."""
    from stepwell.tools.builtin import unconfigured

    return list(unconfigured.chatchat_tools(built))


def _workspace(config: Config) -> Path:
    folder = config.workspace
    if config.folder.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"tools.workspace: {folder} has the data folder in it, and so the keys; name another")
    try:
        if folder.is_relative_to(config.folder):  # `doctor` may be first, and the keys come beside it
            config.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"tools.workspace: cannot make {folder}: {error.strerror}; name another") from error
    return folder


def _module_tools(name: str) -> list[Tool]:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"tools.modules: cannot import {name}: {error}; install it or put it on PYTHONPATH"
        ) from error
    except Exception as error:  # the boundary to foreign code: whatever its import raises is told
        raise ConfigError(f"tools.modules: {name} cannot be used: {type(error).__name__}: {error}") from error
    # By identity: a function may stand in its module under two names.
    marked = {id(each): each for each in vars(module).values() if isinstance(each, Tool) or hasattr(each, ATTRIBUTE)}
    found = [as_tool(each) for each in marked.values()]
    if not found:
        raise ConfigError(f"tools.modules: {name} has no function marked with @tool")
    return found
