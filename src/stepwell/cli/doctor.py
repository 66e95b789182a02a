"""`stepwell doctor`: what is configured, what works, what is missing, and what mends it. It changes nothing."""

from __future__ import annotations

import asyncio
import platform
import sys
from importlib.metadata import version
from importlib.util import find_spec

import apsw

from stepwell.cli import endpoints, folder
from stepwell.cli.findings import Finding, State
from stepwell.cli.program import command
from stepwell.cli.screen import Screen, Style
from stepwell.cli.sources import Sources
from stepwell.config import Config, settings_file, unknown_variables
from stepwell.errors import ConfigError
from stepwell.tools.sandbox import probe
from stepwell.wiring.catalog import ConfigCatalog
from stepwell.wiring.mcp import mcp_rows, server_spec


def run(screen: Screen, sources: Sources) -> int:
    """Print all findings, and return 1 if something that is configured does not work."""
    findings = asyncio.run(_look(screen, sources))
    for finding in findings:
        _print(screen, finding)
    bad = sum(finding.state == "bad" for finding in findings)
    screen.line(screen.say("doctor_bad", count=bad) if bad else screen.say("doctor_good"), "bad" if bad else "good")
    return 1 if bad else 0


async def _look(screen: Screen, sources: Sources) -> list[Finding]:
    findings = [_program()]
    try:
        file = settings_file(sources.file)
        config = sources.config(screen)
    except (ConfigError, OSError) as error:
        remedy = screen.say("doctor_settings_remedy")
        return [*findings, Finding(screen.say("doctor_settings"), "bad", str(error), remedy)]
    used = str(file.absolute()) if file else screen.say("doctor_no_file")
    findings.append(Finding(screen.say("doctor_settings"), "ok", used))
    findings += [
        Finding(screen.say("doctor_variable"), "warn", name, screen.say("doctor_variable_remedy", name=name))
        for name in unknown_variables()
    ]
    findings += folder.look(config, screen)
    findings.append(await endpoints.look_at_server(config, screen, command(sources, "serve")))
    findings += await endpoints.look_at_models(config, screen)
    findings += await asyncio.to_thread(_look_at_tools, config, screen)
    findings += [_look_at_mcp(config, screen, sources, name) for name in config.mcp]
    return findings + _look_at_extras(config, screen)


def _program() -> Finding:
    sqlite = apsw.sqlite_lib_version()
    facts = f"{version('stepwell')}, Python {platform.python_version()}, SQLite {sqlite}, {sys.platform}"
    return Finding("stepwell", "ok", facts)


def _look_at_tools(config: Config, screen: Screen) -> list[Finding]:
    """Look at the tools; a probe of the sandbox runs a program."""
    name = screen.say("doctor_tools")
    try:
        names = [info.spec.name for info in ConfigCatalog(config).tools()]
    except ConfigError as error:
        return [Finding(name, "bad", str(error))]
    findings = [Finding(name, "ok", ", ".join(names) or "-")]
    settings = config.tools
    if not settings.files.enabled:
        remedy = screen.say("doctor_switch_on", variable="STEPWELL_TOOLS__FILES__ENABLED=true")
        findings.append(Finding(screen.say("doctor_tool", name="files"), "off", screen.say("doctor_off"), remedy))
    shell = screen.say("doctor_tool", name="shell")
    if not settings.shell.enabled:
        remedy = screen.say("doctor_switch_on", variable="STEPWELL_TOOLS__SHELL__ENABLED=true")
        return [*findings, Finding(shell, "off", screen.say("doctor_off"), remedy)]
    if settings.shell.sandbox == "none":
        return [*findings, Finding(shell, "warn", screen.say("doctor_no_sandbox"), screen.say("doctor_sandbox_on"))]
    found = probe()
    return [*findings, Finding(shell, "ok" if found.ok else "bad", found.reason or "bubblewrap", found.remedy)]


def _look_at_mcp(config: Config, screen: Screen, sources: Sources, server: str) -> Finding:
    """Look at what is known of an MCP server; it is not connected."""
    name = screen.say("doctor_mcp", name=server)
    if not config.mcp[server].enabled:
        return Finding(name, "off", screen.say("doctor_mcp_disabled"))
    try:
        server_spec(config, server)
        rows = mcp_rows(config, server)
    except ConfigError as error:
        return Finding(name, "bad", str(error))
    if rows is None:
        return Finding(name, "ok", screen.say("doctor_mcp_unseen"))
    off = [f"{row.tool} ({screen.say(f'mcp_{row.state}')})" for row in rows if row.state != "on"]
    count = len(rows) - len(off)
    if not off:
        return Finding(name, "ok", screen.say("doctor_mcp_tools", count=count))
    remedy = ""
    if any(row.digest for row in rows):
        remedy = screen.say("doctor_mcp_remedy", command=command(sources, "mcp", "confirm", server))
    return Finding(name, "warn", screen.say("doctor_mcp_off", count=count, names=", ".join(off)), remedy)


def _look_at_extras(config: Config, screen: Screen) -> list[Finding]:
    """Look for what the server needs beside the core, where that is missing."""
    if not config.mcp_server.enabled or find_spec("mcp") is not None:
        return []
    return [Finding("mcp_server.enabled", "bad", screen.say("doctor_mcp_extra"), 'pip install "stepwell[mcp]"')]


def _print(screen: Screen, finding: Finding) -> None:
    mark, style = _mark(finding.state)
    screen.write(f"{mark:<5}", style)
    screen.line(f"{finding.name}: {finding.detail}")
    if finding.remedy:
        screen.line(f"     → {finding.remedy}", "dim" if finding.state == "off" else "strong")


def _mark(state: State) -> tuple[str, Style]:
    match state:
        case "ok":
            return "ok", "good"
        case "off":
            return "off", "dim"
        case "warn":
            return "!", "warn"
        case "bad":
            return "BAD", "bad"
