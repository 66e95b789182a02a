"""`stepwell steer`, `pause`, `resume` and `cancel`: what is said to the open run of a thread."""

from __future__ import annotations

from typing import NamedTuple

from stepwell.cli import interrupts
from stepwell.cli.connection import Connection, connected
from stepwell.cli.place import Place, worded
from stepwell.cli.screen import Screen
from stepwell.cli.sources import Sources
from stepwell.cli.waiting import go_on
from stepwell.errors import InputError


class Said(NamedTuple):
    """What is said to an agent.

    Args:
        text: In words.
        interrupt: What is under way is closed first.
        path: The agent inside the run; empty for its own.
    """

    text: str
    interrupt: bool
    path: str


def run(
    screen: Screen,
    sources: Sources,
    *,
    action: str,
    thread: str,
    text: str = "",
    interrupt: bool = False,
    path: str = "",
) -> int:
    """Do `action` to the open run and return the exit code."""
    said = Said(worded(screen, text) if action == "steer" else "", interrupt, path)
    return interrupts.run(_steer(screen, sources, action, thread, said))


async def _steer(screen: Screen, sources: Sources, action: str, thread: str, said: Said) -> int:
    config = sources.config(screen)
    with interrupts.Interrupts() as ctrl_c:
        async with connected(config, screen) as connection:
            place = await connection.look(thread)
            if not place.run:
                raise InputError(screen.say("no_run"), "thread")
            after = await connection.people.waits(place.thread)
            await _do(connection, action, place, said)
            screen.note(screen.say(f"did_{action}"))
            if action == "pause":
                return 0
            if not after and not connection.served:
                await connection.find(place.thread)
            code = await go_on(connection, screen, sources, place, after, ctrl_c)
            return 0 if action == "cancel" else code


async def _do(connection: Connection, action: str, place: Place, said: Said) -> None:
    match action:
        case "steer":
            await connection.people.steer(place, said.text, interrupt=said.interrupt, path=said.path)
        case "pause":
            await connection.people.pause(place)
        case "resume":
            await connection.people.go_on(place)
        case _:
            await connection.cancel(place)
