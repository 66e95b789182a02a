"""Follows a run for a person who may answer its questions, say something or stop it while it is shown.

Everything that happens, in the run and at the keyboard, is taken in one order by one task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing, nullcontext
from typing import Literal

from stepwell.cli.asked import keys_of, lines_of, typed
from stepwell.cli.connection import Connection
from stepwell.cli.lines import Lines
from stepwell.cli.place import PLAIN, Manner, Place
from stepwell.cli.screen import Screen, short
from stepwell.cli.stopping import Stop
from stepwell.errors import InputError, StepwellError
from stepwell.events import Answered, Asked, QueueEdited, Recorded, RunEnded, RunStarted, RunWaiting
from stepwell.runs.channel import Item
from stepwell.runs.people import QuestionInfo

Outcome = Literal["ended", "waits", "left"]
"""The run is over; it waits for people, and nobody is here to answer; the person has left."""

_Happening = list[Item] | str | StepwellError | None
SHOWN = 60
_COMMANDS = frozenset({"steer", "interrupt", "queue", "stop", "pause", "resume"})
"""What can be typed after `/`."""


def is_command(line: str) -> bool:
    """Tell whether a typed line is for the run and not for the agent: `/stop` is, a path such as `/etc` is not."""
    return line.startswith("/") and line[1:].strip().partition(" ")[0] in _COMMANDS


class Session:
    """One run after the other of a thread.

    Args:
        connection: Where they are.
        screen: Where the person is.
        stop: Hears Ctrl-C.
        show: Shows what happens in a run.
        lines: Where the person types; None where nobody does.
        manner: How what they type besides answers is to be answered.
    """

    def __init__(
        self,
        connection: Connection,
        screen: Screen,
        stop: Stop,
        show: Callable[[Item], None],
        lines: Lines | None,
        manner: Manner = PLAIN,
    ) -> None:
        self._connection, self._people, self._screen = connection, connection.people, screen
        self._stop, self._show, self._lines = stop, show, lines
        # A front that talks hears what is said while others work; what waits would come too late for it.
        self._manner = manner._replace(policy="steer") if manner.engine == "interaction" else manner
        self._place = Place()
        self._asked: list[QuestionInfo] = []
        self._shown = self._halt = 0
        self._open = False
        """Whether the run that is shown goes on."""
        self._mine: set[int] = set()
        """Numbers of the waiting messages and of the runs that were begun here and are not shown yet."""

    async def follow(self, place: Place) -> Outcome:
        """Show a run to its end, and those of messages that were typed meanwhile."""
        self._place, self._open, happenings = place, place.run > 0, asyncio.Queue[_Happening]()
        if place.run:
            self._stop.started(place)
        else:
            self._wait_for(place.queued)
        pump = asyncio.create_task(self._pump((place.run or place.queued) - 1, happenings))
        try:
            with self._lines.listening(happenings.put_nowait) if self._lines else nullcontext():
                while True:
                    outcome = await self._take(await happenings.get())
                    if outcome is not None:
                        return outcome
        finally:
            pump.cancel()
            await asyncio.wait([pump])
            self._keep(happenings)

    def _keep(self, happenings: asyncio.Queue[_Happening]) -> None:
        """Leave what was typed and not taken to whoever reads the next line."""
        while self._lines is not None and not happenings.empty():
            happened = happenings.get_nowait()
            if happened is None or isinstance(happened, str):
                self._lines.keep(happened)

    async def _pump(self, after: int, happenings: asyncio.Queue[_Happening]) -> None:
        try:
            async with aclosing(self._connection.follow(Place(self._place.thread), after)) as batches:
                async for items in batches:
                    happenings.put_nowait(items)
            happenings.put_nowait(StepwellError(self._screen.say("ended_other")))
        except StepwellError as error:
            happenings.put_nowait(error)

    async def _take(self, happened: _Happening) -> Outcome | None:
        match happened:
            case None:
                return "left" if self._lines is not None and self._lines.leave() else None
            case str():
                await self._said(happened)
            case StepwellError():
                raise happened
            case _:
                for item in happened:
                    outcome = await self._happened(item)
                    if outcome is not None:
                        return outcome
        return None

    async def _happened(self, item: Item) -> Outcome | None:
        if isinstance(item.event, RunStarted) and (mine := self._mine & {item.event.queued, item.run}):
            self._mine -= mine
            self._place, self._open = self._place._replace(run=item.run), True
            self._stop.next(self._place)
        if self._is_taken_out(item) or item.run in (0, self._place.run):
            self._show(item)
            if isinstance(item, Recorded):
                await self._look(item)
        if not self._open and not self._mine:
            return "ended"
        return "waits" if self._halt and item.seq >= self._halt else None

    def _is_taken_out(self, item: Item) -> bool:
        """Tell whether somebody took out a message that is waited for here."""
        return isinstance(item.event, QueueEdited) and item.event.removed and item.event.item in self._mine

    async def _look(self, recorded: Recorded) -> None:
        match recorded.event:
            case Asked() if self._lines is not None:
                await self._refresh()
            case Answered(question=number):
                self._asked = [each for each in self._asked if each.seq != number]
                self._ask()
            case QueueEdited(item=number, removed=True) if number in self._mine:
                self._mine.discard(number)
                self._screen.note(self._screen.say("event_queue_removed", item=number), "warn")
            case RunWaiting() if self._lines is None:
                self._halt = await self._people.waits(self._place.thread)
            case RunEnded():
                self._asked, self._open = [], False
                self._stop.ended()
            case _:
                pass

    async def _refresh(self) -> None:
        self._asked = await self._people.questions(self._place.thread)
        self._ask()

    def _ask(self) -> None:
        """Show the oldest open question, unless it stands there already."""
        if self._asked and self._asked[0].seq != self._shown:
            question = self._asked[0]
            self._shown = question.seq
            self._screen.aside("\n".join(["", *lines_of(question, self._screen)]) + "\n", "warn")
            self._screen.aside("  " + keys_of(question, self._screen) + "\n")

    async def _said(self, line: str) -> None:
        """Do what a line asks for that was typed while the run goes on."""
        if not line.strip():
            return
        try:
            if is_command(line) or (line.startswith("/") and not self._asked):
                await self._command(line)
            elif self._asked:
                await self._decide(self._asked[0], line)
            else:
                await self._send(line, self._manner)
        except InputError as error:
            self._screen.fail(str(error))
            self._shown = 0
            await self._refresh()

    async def _decide(self, question: QuestionInfo, line: str) -> None:
        reply = typed(question, line)
        if reply is None:
            self._screen.note(keys_of(question, self._screen), "warn")
        else:
            await self._people.answer(self._place.thread, question.seq, reply)

    async def _send(self, text: str, manner: Manner) -> None:
        place = await self._connection.send(text, thread=self._place.thread, manner=manner)
        if place.queued:
            self._wait_for(place.queued)
        elif place.steered and self._manner.policy != "steer":  # there the front answers
            self._screen.note(self._screen.say("steered"))
        elif place.run != self._place.run:  # the run that is shown was over, and this one is shown next
            self._mine.add(place.run)

    def _wait_for(self, item: int) -> None:
        self._mine.add(item)
        self._screen.note(self._screen.say("queued", item=item))

    async def _command(self, line: str) -> None:
        word, _, rest = line[1:].strip().partition(" ")
        match word:
            case "steer" | "queue" | "interrupt" if rest:
                await self._send(rest, self._manner._replace(policy=word))
            case "queue":
                waiting = await self._people.queue(self._place.thread)
                for each in waiting:
                    self._screen.note(f"{each.item}  {short(each.text, SHOWN)}")
                if not waiting:
                    self._screen.note(self._screen.say("no_queue"))
            case "stop":
                await self._connection.cancel(self._place)
            case "pause":
                await self._people.pause(self._place)
            case "resume":
                await self._people.go_on(self._place)
            case _:
                self._screen.note(self._screen.say("commands"), "warn")
