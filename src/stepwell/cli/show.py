"""`stepwell show`: the events of a thread, one a line, read from the database beside whoever works on it."""

from __future__ import annotations

import asyncio

from stepwell.cli.describe import describe
from stepwell.cli.screen import Screen, when
from stepwell.cli.sources import Sources, find_thread, open_store
from stepwell.errors import NotFound

PAGE = 500


def run(screen: Screen, sources: Sources, *, thread: str, owner: str, json: bool) -> int:
    """Print the events and return 0."""
    return asyncio.run(_show(screen, sources, thread, owner, json))


async def _show(screen: Screen, sources: Sources, thread: str, owner: str, json: bool) -> int:
    config = sources.config(screen)
    store = open_store(config)
    if store is None:
        raise NotFound(screen.say("no_data", folder=config.folder), "thread")
    try:
        info = await find_thread(store, screen, thread, owner)
        after = 0
        while page := await store.read(info.id, after=after, limit=PAGE):
            after = page[-1].seq
            for recorded in page:
                if json:
                    screen.line(recorded.to_json().decode())
                else:
                    words, style = describe(recorded.event, screen)
                    inside = f"[{recorded.path}] " if recorded.path else ""
                    screen.line(f"{recorded.seq:>5}  {when(recorded.time)}  {inside}{words}", style)
    finally:
        await store.close()
    return 0
