"""`stepwell chat`: a conversation in the terminal, live. Without a terminal it reads one message a line from stdin.

Where nobody types, nobody can answer either: what would be asked for is refused, and the agent is told so.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version

from stepwell.cli import interrupts
from stepwell.cli.connection import Connection, connected
from stepwell.cli.lines import Lines
from stepwell.cli.live import Live
from stepwell.cli.place import PLAIN, Manner, Place
from stepwell.cli.program import command
from stepwell.cli.screen import Screen
from stepwell.cli.session import Session, is_command
from stepwell.cli.sources import Sources
from stepwell.cli.stopping import Stop
from stepwell.cli.waiting import tell
from stepwell.errors import InputError
from stepwell.specs import EngineName

PROMPT = "> "


def run(screen: Screen, sources: Sources, *, model: str, thread: str, engine: EngineName) -> int:
    """Talk until the input ends, and return 0 unless the last run failed."""
    return interrupts.run(_chat(screen, sources, Manner(model, engine), thread))


async def _chat(screen: Screen, sources: Sources, manner: Manner, thread: str) -> int:
    config = sources.config(screen)
    with interrupts.Interrupts() as interrupt:
        async with connected(config, screen, sources.file) as connection:
            talk = _Talk(connection, screen, interrupt, sources)
            talk.manner = manner._replace(people=talk.lines.typed)
            code = await talk.go_on(thread) if thread else 0
            if talk.lines.typed:
                name = manner.model or await connection.model()
                screen.aside(screen.say("welcome", version=version("stepwell"), model=name) + "\n")
            while (said := await talk.listen()) is not None:
                if said.strip():
                    code = await talk.answer(said)
            if talk.lines.typed and talk.place.thread:
                again = command(sources, "chat", "--thread", talk.place.thread[:12])
                screen.aside("\n" + screen.say("go_on", command=again) + "\n")
    return code


class _Talk:
    """A conversation: one thread, one run at a time."""

    def __init__(
        self, connection: Connection, screen: Screen, interrupt: interrupts.Interrupts, sources: Sources
    ) -> None:
        self.lines, self.place, self.manner, self._sources = Lines(), Place(), PLAIN, sources
        self._connection, self._screen, self._interrupt = connection, screen, interrupt

    async def go_on(self, thread: str) -> int:
        """Take an old thread up, with a run that is not over yet."""
        self.place = await self._connection.find(thread)
        if not self.place.run:
            return 0
        self._screen.note(self._screen.say("unfinished"))
        return await self._follow(Stop(self._connection, self._screen, self._interrupt))

    async def listen(self) -> str | None:
        """Return the next message, or None when there is none any more."""

        def hint() -> None:
            self._screen.aside("\n" + self._screen.say("hint") + "\n")
            self.lines.redraw(PROMPT, partial(self._screen.aside, style=""))

        self._interrupt.call = hint if self.lines.typed else None
        return await self.lines.next(PROMPT)

    async def answer(self, said: str) -> int:
        """Send a message and show the run that answers; return 0 unless it failed."""
        if self.lines.typed and is_command(said):
            self._screen.note(self._screen.say("no_run"), "warn")
            return 0
        stop = Stop(self._connection, self._screen, self._interrupt)
        try:
            self.place = await self._connection.send(said, thread=self.place.thread, manner=self.manner)
        except InputError as error:  # this message was refused; the next may be better
            self._screen.fail(str(error))
            return 1
        return await self._follow(stop)

    async def _follow(self, stop: Stop) -> int:
        live = Live(self._screen)
        lines = self.lines if self.lines.typed else None
        session = Session(self._connection, self._screen, stop, live.show, lines, self.manner)
        outcome = await session.follow(self.place)
        await stop.over()
        if outcome == "waits":
            await tell(self._connection, self._screen, self._sources, self.place.thread)
        return 0 if stop.wanted or live.answered else 1
