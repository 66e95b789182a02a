"""`stepwell threads`: the threads of an owner, newest first, read from the database beside whoever works on it."""

from __future__ import annotations

import asyncio

from stepwell.cli.screen import Screen, short, when
from stepwell.cli.sources import Sources, open_store
from stepwell.messages import clean

TITLE = 60
SHOWN_ID = 12
"""Characters of an id that a person sees; its beginning is enough for every command."""


def run(screen: Screen, sources: Sources, *, owner: str, limit: int) -> int:
    """Print the list and return 0."""
    return asyncio.run(_list(screen, sources, clean(owner), limit))


async def _list(screen: Screen, sources: Sources, owner: str, limit: int) -> int:
    config = sources.config(screen)
    store = open_store(config)
    if store is None:
        screen.note(screen.say("no_data", folder=config.folder))
        return 0
    try:
        infos = await store.threads(owner, limit=limit)
    finally:
        await store.close()
    if not infos:
        screen.note(screen.say("no_threads", owner=owner))
    columns = [screen.say(f"column_{name}") for name in ("thread", "created", "events", "state", "title")]
    rows = [
        (
            info.id[:SHOWN_ID] if screen.watched else info.id,
            when(info.created),
            str(info.seq),
            screen.say("open") if info.run else "",
            short(info.title, TITLE),
        )
        for info in infos
    ]
    if rows:
        screen.table(columns, rows)
    return 0
