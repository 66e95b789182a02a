"""`stepwell diff`: where two threads part, and what each has then."""

from __future__ import annotations

import asyncio

import msgspec

from stepwell.cli.connection import connected
from stepwell.cli.screen import Screen, Style, short
from stepwell.cli.sources import Sources
from stepwell.questions import visible
from stepwell.runs.forks import Diff, Line

SHOWN = 500
"""Characters shown of a text."""


def run(screen: Screen, sources: Sources, *, one: str, other: str, json: bool) -> int:
    """Print the difference and return 0."""
    return asyncio.run(_diff(screen, sources, one, other, json))


async def _diff(screen: Screen, sources: Sources, one: str, other: str, json: bool) -> int:
    config = sources.config(screen)
    async with connected(config, screen) as connection:
        first, second = await connection.look(one), await connection.look(other)
        found = await connection.people.diff(first.thread, second.thread)
    if json:
        screen.line(msgspec.json.encode(found).decode())
    else:
        _print(screen, found)
    return 0


def _print(screen: Screen, found: Diff) -> None:
    name = "diff_common" if found.one or found.other else "diff_same"
    screen.line(screen.say(name, count=found.common), "dim")
    sides: tuple[tuple[str, tuple[Line, ...], Style], ...] = (("-", found.one, "bad"), ("+", found.other, "good"))
    for mark, lines, style in sides:
        for each in lines:
            screen.line(f"{mark} {each.seq:>5} {_line(each)}", style)


def _line(line: Line) -> str:
    inside = f"[{line.path}] " if line.path else ""
    text = short(visible(line.text), SHOWN)
    match line.kind:
        case "message":
            return f"{inside}{line.name}: {text}"
        case "call":
            return f"{inside}• {line.name} {text}"
        case "result":
            return f"{inside}  → {line.status}: {text}"
