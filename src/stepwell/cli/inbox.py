"""`stepwell inbox`: the open questions of all threads."""

from __future__ import annotations

import asyncio

from stepwell.cli.asked import lines_of
from stepwell.cli.connection import connected
from stepwell.cli.screen import Screen
from stepwell.cli.sources import Sources

SHOWN_ID = 12
"""Characters of an id that a person sees; its beginning is enough for every command."""


def run(screen: Screen, sources: Sources, *, limit: int) -> int:
    """Print the questions and return 0."""
    return asyncio.run(_inbox(screen, sources, limit))


async def _inbox(screen: Screen, sources: Sources, limit: int) -> int:
    config = sources.config(screen)
    async with connected(config, screen) as connection:
        questions = await connection.people.pending(limit)
    if not questions:
        screen.note(screen.say("no_questions"))
    for each in questions:
        screen.line(each.thread[:SHOWN_ID] if screen.watched else each.thread, "strong")
        for line in lines_of(each, screen):
            screen.line(f"  {line}")
    return 0
