"""`stepwell queue`: lists, changes, moves and removes messages that wait for the end of a run, and sets the policy."""

from __future__ import annotations

import asyncio
from typing import get_args

from stepwell.cli.connection import Connection, connected
from stepwell.cli.screen import Screen, short
from stepwell.cli.sources import Sources
from stepwell.errors import InputError
from stepwell.events import Policy
from stepwell.messages import clean

SHOWN = 100
"""Characters of a message that a person is shown in a list."""


def run(screen: Screen, sources: Sources, *, thread: str, action: str, item: str, value: str) -> int:
    """Do `action` to the waiting message `item` and return 0."""
    return asyncio.run(_queue(screen, sources, thread, action, clean(item), clean(value)))


async def _queue(screen: Screen, sources: Sources, thread: str, action: str, item: str, value: str) -> int:
    config = sources.config(screen)
    async with connected(config, screen) as connection:
        id = (await connection.look(thread)).thread
        match action:
            case "list":
                pass
            case "policy":
                await connection.people.set_policy(id, _policy(screen, item))
                screen.note(screen.say("event_policy", policy=screen.say(f"policy_{item}")))
                return 0
            case "edit" if value:
                await connection.people.change(id, _number(screen, item), text=value)
            case "move" if value:
                await connection.people.change(id, _number(screen, item), before=_number(screen, value))
            case "remove":
                await connection.people.remove(id, _number(screen, item))
            case _:
                raise InputError(screen.say("queue_what"), "action")
        await _list(screen, connection, id)
    return 0


def _number(screen: Screen, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InputError(screen.say("queue_what"), "item")
    return int(text)


def _policy(screen: Screen, text: str) -> Policy:
    for each in get_args(Policy):
        if each == text:
            return each
    raise InputError(screen.say("queue_what"), "policy")


async def _list(screen: Screen, connection: Connection, thread: str) -> None:
    waiting = await connection.people.queue(thread)
    if not waiting:
        screen.note(screen.say("no_queue"))
        return
    rows = [(str(each.item), short(each.text, SHOWN) if screen.watched else each.text) for each in waiting]
    screen.table([screen.say("column_item"), screen.say("column_message")], rows)
