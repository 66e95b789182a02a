"""`stepwell run`: a task carried out with a plan or as one piece, shown step by step."""

from __future__ import annotations

from stepwell.cli import interrupts
from stepwell.cli.connection import connected
from stepwell.cli.lines import Lines
from stepwell.cli.live import Live
from stepwell.cli.place import Manner, worded
from stepwell.cli.screen import Screen
from stepwell.cli.session import Session
from stepwell.cli.sources import Sources
from stepwell.cli.stopping import Stop
from stepwell.cli.waiting import WAITS, tell
from stepwell.specs import EngineName


def run(
    screen: Screen, sources: Sources, *, goal: str, model: str, thread: str, engine: EngineName, follow: bool
) -> int:
    """Carry out `goal` and return 0 if there is an answer."""
    return interrupts.run(_run(screen, sources, goal, Manner(model, engine), thread, follow))


async def _run(screen: Screen, sources: Sources, goal: str, manner: Manner, thread: str, follow: bool) -> int:
    config, lines, goal = sources.config(screen), Lines(), worded(screen, goal)
    with interrupts.Interrupts() as interrupt:
        async with connected(config, screen, sources.file) as connection:
            stop = Stop(connection, screen, interrupt)
            inside = (await connection.look(thread)).thread if thread else ""
            place = await connection.send(goal, thread=inside, manner=manner)
            screen.note(screen.say("thread", id=place.thread))
            if not follow and connection.served:
                return 0
            live = Live(screen, screen.line)
            session = Session(connection, screen, stop, live.show, lines if lines.typed else None, manner)
            outcome = await session.follow(place)
            await stop.over()
            if outcome != "ended" and not stop.wanted:
                await tell(connection, screen, sources, place.thread, left=outcome == "left")
    if outcome == "waits":
        return WAITS
    return 130 if stop.wanted or outcome == "left" else 0 if live.answered else 1
