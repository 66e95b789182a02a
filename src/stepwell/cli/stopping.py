"""Ctrl-C as the wish that a run may stop: the run is cancelled, the command goes on."""

from __future__ import annotations

import asyncio

from stepwell.cli.connection import Connection
from stepwell.cli.interrupts import Interrupts
from stepwell.cli.place import Place
from stepwell.cli.screen import Screen
from stepwell.errors import StepwellError


class Stop:
    """What Ctrl-C does from when a run is asked for until it is over. A second one ends the command.

    Args:
        connection: Where the run is.
        screen: Says that Ctrl-C was heard.
        interrupts: Hears it.

    Attributes:
        wanted: Whether it was heard.
    """

    def __init__(self, connection: Connection, screen: Screen, interrupts: Interrupts) -> None:
        self.wanted = False
        self._connection, self._screen, self._interrupts = connection, screen, interrupts
        self._place: Place | None = None
        self._cancelling: asyncio.Task[None] | None = None
        self._failure: StepwellError | None = None
        interrupts.call = self._hear

    def _hear(self) -> None:
        self.wanted, self._interrupts.call = True, None
        self._screen.aside("\n" + self._screen.say("stopping") + "\n")
        self._cancel()

    def started(self, place: Place) -> None:
        """Name the run, which is cancelled at once if Ctrl-C came before."""
        self._place = place
        self._cancel()

    def next(self, place: Place) -> None:
        """Name the run that follows; Ctrl-C before it was meant for the one before."""
        self.wanted, self._place = False, place
        self._interrupts.call = self._hear

    def ended(self) -> None:
        """Take it that the run is over: there is nothing to stop any more."""
        self._interrupts.call = None

    def _cancel(self) -> None:
        if self.wanted and self._place is not None:
            self._cancelling = asyncio.create_task(self._ask(self._place))

    async def _ask(self, place: Place) -> None:
        try:
            await self._connection.cancel(place)
        except StepwellError as error:  # told by `over`, unless the command ends before
            self._failure = error

    async def over(self) -> None:
        """Let Ctrl-C be as before: the run is over.

        Raises:
            StepwellError: The run could not be cancelled.
        """
        self._interrupts.call = None
        if self._cancelling is not None:
            await self._cancelling
        if self._failure is not None:
            raise self._failure
