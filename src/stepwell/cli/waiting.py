"""Runs that wait for people: what a command says of them before it ends, and how it goes on after an answer."""

from __future__ import annotations

from stepwell.cli.asked import lines_of
from stepwell.cli.connection import Connection
from stepwell.cli.interrupts import Interrupts
from stepwell.cli.live import Live
from stepwell.cli.place import Place
from stepwell.cli.program import command
from stepwell.cli.screen import Screen
from stepwell.cli.session import Session
from stepwell.cli.sources import Sources
from stepwell.cli.stopping import Stop

WAITS = 3
"""Exit code of a command whose run waits for people."""
SHOWN_ID = 12
"""Characters of an id that a person sees; its beginning is enough for every command."""


async def tell(connection: Connection, screen: Screen, sources: Sources, thread: str, *, left: bool = False) -> None:
    """Say what a run waits for, and the commands that let it go on; one that a person left may wait for nothing."""
    questions = await connection.people.questions(thread)
    id = thread[:SHOWN_ID] if screen.watched else thread
    for each in questions:
        for line in lines_of(each, screen):
            screen.note(line, "warn")
        word = "approve" if each.kind in ("approval", "confirm") else "answer"
        screen.note("  " + screen.say("answer_with", command=command(sources, word, id, str(each.seq))))
    if not questions and left:
        screen.note(screen.say("go_on", command=command(sources, "chat", "--thread", id)))
    elif not questions:
        screen.note(screen.say("resume_with", command=command(sources, "resume", id)), "warn")


async def go_on(
    connection: Connection, screen: Screen, sources: Sources, place: Place, after: int, interrupt: Interrupts
) -> int:
    """Stay with a run of this process until it is over or waits, and return the exit code.

    A server needs nobody to stay.

    Args:
        connection: Where the run is.
        screen: Where it is shown.
        sources: The settings.
        place: The run.
        after: Number of the last event that is not shown.
        interrupt: Hears Ctrl-C.
    """
    if connection.served or not place.run:
        return 0
    return await show(connection, screen, sources, place, after, interrupt)


async def show(
    connection: Connection, screen: Screen, sources: Sources, place: Place, after: int, interrupt: Interrupts
) -> int:
    """Show a run until it is over or waits, and return the exit code; see `go_on`."""
    live, stop = Live(screen, after=after), Stop(connection, screen, interrupt)
    outcome = await Session(connection, screen, stop, live.show, None).follow(place)
    await stop.over()
    if outcome == "waits":
        await tell(connection, screen, sources, place.thread)
        return WAITS
    return 130 if stop.wanted else 0 if live.answered else 1
