"""`stepwell mcp`: lists the tools of MCP servers, switches on those that changed, and has a person log in at a server.

Lists come from what was written down by whoever was connected; only a login speaks to a server.
"""

from __future__ import annotations

import asyncio
import sys

from stepwell.cli.screen import Screen, short
from stepwell.cli.sources import Sources
from stepwell.config import Config
from stepwell.errors import NotFound
from stepwell.wiring.mcp import McpRow, mcp_confirm, mcp_login, mcp_prompts, mcp_rows

SHOWN = 100
"""Characters of what a server says of a tool that a person is shown in a list."""


def run(screen: Screen, sources: Sources, *, action: str, server: str = "", tool: str = "") -> int:
    """Do what is asked: `list` the tools and prompts, `confirm` those of a server, or one of them, or `login` there."""
    config = sources.config(screen)
    if action == "list":
        return _list(screen, config)
    if server not in config.mcp:
        known = ", ".join(config.mcp) or "-"
        raise NotFound(screen.say("mcp_no_server", name=repr(server), known=known), "server")
    if action == "login":
        return _login(screen, config, server)
    return _confirm(screen, config, server, tool)


def _login(screen: Screen, config: Config, server: str) -> int:
    def show(address: str) -> None:
        screen.aside(screen.say("mcp_open") + "\n")
        screen.line(address, "strong")

    asyncio.run(mcp_login(config, server, show))
    screen.note(screen.say("mcp_logged_in", server=server))
    return 0


def _list(screen: Screen, config: Config) -> int:
    if not config.mcp:
        screen.note(screen.say("mcp_none"))
        return 0
    shown: list[tuple[str, ...]] = []
    for name in config.mcp:
        rows = mcp_rows(config, name)
        if rows is None:
            shown.append((name, "-", screen.say("mcp_unseen"), "", ""))
        for row in rows or ():
            said = short(row.said, SHOWN) if screen.watched else row.said
            shown.append((name, row.tool, screen.say(f"mcp_{row.state}"), row.effect, said))
        prompts = mcp_prompts(config, name)
        shown += [(name, prompt, screen.say("mcp_prompt"), "", said) for prompt, said in sorted(prompts.items())]
    columns = ("server", "tool", "state", "effect", "said")
    screen.table([screen.say(f"column_{name}") for name in columns], shown)
    return 0


def _confirm(screen: Screen, config: Config, server: str, tool: str) -> int:
    rows = [row for row in mcp_rows(config, server) or () if row.digest and tool in ("", row.tool)]
    if not rows:
        if tool:
            raise NotFound(screen.say("mcp_no_tool", server=server, name=repr(tool)), "tool")
        screen.note(screen.say("mcp_nothing", server=server))
        return 0
    for row in rows:
        _show(screen, row)
    if sys.stdin.isatty():
        screen.aside(screen.say("mcp_sure"))
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            screen.note(screen.say("mcp_left"))
            return 1
    done = mcp_confirm(config, server, {row.tool: row.digest for row in rows})
    if done:
        screen.note(screen.say("mcp_confirmed", names=", ".join(done)))
    if left := [row.tool for row in rows if row.tool not in done]:
        screen.note(screen.say("mcp_changed_again", names=", ".join(left)), "bad")
        return 1
    return 0


def _show(screen: Screen, row: McpRow) -> None:
    screen.line(f"{row.server}__{row.tool}: {screen.say(f'mcp_{row.state}')}", "strong")
    if row.before:
        screen.line("  " + screen.say("mcp_before", said=row.before))
    screen.line("  " + screen.say("mcp_now", said=row.said), "warn")
