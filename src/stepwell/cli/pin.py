"""`stepwell pin`: keeps a fact before the model in a thread, lists such facts, or lets go of one."""

from __future__ import annotations

import asyncio

from stepwell.cli.connection import Connection, connected
from stepwell.cli.screen import Screen, short
from stepwell.cli.sources import Sources
from stepwell.errors import InputError
from stepwell.messages import clean

SHOWN = 100
"""Characters of a fact that a person is shown in a list."""


def run(screen: Screen, sources: Sources, *, thread: str, text: str, listing: bool, remove: str) -> int:
    """Pin `text`, remove the pin `remove`, or list the pins; return 0."""
    return asyncio.run(_pin(screen, sources, thread, text, listing, remove))


async def _pin(screen: Screen, sources: Sources, thread: str, text: str, listing: bool, remove: str) -> int:
    if bool(text) + listing + bool(remove) != 1:
        raise InputError(screen.say("pin_what"), "text")
    config = sources.config(screen)
    async with connected(config, screen) as connection:
        if listing:
            await _list(screen, connection, thread)
        elif remove:
            await connection.unpin(thread, remove)
            screen.note(screen.say("pin_removed", id=clean(remove)))
        else:
            screen.note(screen.say("pinned", id=(await connection.pin(thread, clean(text))).id))
    return 0


async def _list(screen: Screen, connection: Connection, thread: str) -> None:
    pins = await connection.pins(thread)
    if not pins:
        screen.note(screen.say("no_pins"))
        return
    rows = [(each.id, short(each.text, SHOWN) if screen.watched else each.text) for each in pins]
    screen.table([screen.say("column_pin"), screen.say("column_fact")], rows)
