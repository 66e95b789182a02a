"""`stepwell fork` and `regenerate`: a new thread that begins with another's events, shown while it goes on."""

from __future__ import annotations

from stepwell.cli import interrupts
from stepwell.cli.connection import connected
from stepwell.cli.place import Place
from stepwell.cli.screen import Screen
from stepwell.cli.sources import Sources
from stepwell.cli.waiting import show
from stepwell.messages import clean
from stepwell.runs.forks import Edit


def run(
    screen: Screen,
    sources: Sources,
    *,
    action: str,
    thread: str,
    at: int = 0,
    changes: dict[str, str] | None = None,
    model: str = "",
) -> int:
    """Fork the thread, or have its newest answer written again, and return the exit code."""
    return interrupts.run(_fork(screen, sources, action, thread, at, changes or {}, clean(model)))


async def _fork(
    screen: Screen, sources: Sources, action: str, thread: str, at: int, changes: dict[str, str], model: str
) -> int:
    config = sources.config(screen)
    with interrupts.Interrupts() as interrupt:
        async with connected(config, screen) as connection:
            old = (await connection.look(thread)).thread
            place: Place
            if action == "regenerate":
                place = await connection.people.regenerate(old)
            else:
                place = await connection.people.fork(old, at, edit=_edit(changes), model=model)
            screen.note(screen.say("thread", id=place.thread))
            if not place.run:
                return 0
            return await show(connection, screen, sources, place, at, interrupt)


def _edit(changes: dict[str, str]) -> Edit | None:
    given = {name: clean(text) for name, text in changes.items() if text}
    return Edit(**given) if given else None
