"""How a command reaches agents: in this process, or in the server that holds the data folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stepwell.cli.loading import load
from stepwell.cli.people import LocalPeople, People
from stepwell.cli.place import PLAIN, Manner, Place
from stepwell.cli.screen import Screen
from stepwell.cli.sources import OWNER, find_thread
from stepwell.config import Config
from stepwell.errors import DataInUse
from stepwell.runs import contexts
from stepwell.runs.catalog import Wish
from stepwell.runs.channel import Cursor, Item
from stepwell.runs.contexts import Pin
from stepwell.wiring.host import Host, open_host
from stepwell.wiring.library import user_message

if TYPE_CHECKING:
    from stepwell.cli.remote import Remote

FACE = "cli"
PATIENCE = 4.0
"""Seconds after which no new try is begun: the folder may be another `ask`'s, or a server's that is about to answer."""
PAUSE = 0.1
"""Seconds between two tries."""


class Connection(Protocol):
    """Threads and runs, wherever they are.

    Attributes:
        served: A server carries runs out, so that the command need not stay for them.
        people: What people do to them.
    """

    served: bool
    people: People

    async def find(self, prefix: str) -> Place:
        """Return the thread whose id begins so, with its open run; that run is gone on with.

        Raises:
            NotFound: There is none, or more than one.
        """
        ...

    async def look(self, prefix: str) -> Place:
        """Return the thread as `find` does, but leave its open run alone.

        Raises:
            NotFound: There is none, or more than one.
        """
        ...

    async def model(self) -> str:
        """Return the name of the model that answers where none is named."""
        ...

    async def send(self, text: str, *, thread: str = "", manner: Manner = PLAIN) -> Place:
        """Say something in a thread, or in a new one, and return the run that answers or that it waits for.

        Raises:
            InputError: There is no such thread or model, or the thread takes no message now.
        """
        ...

    def follow(self, place: Place, after: int = 0) -> AsyncGenerator[list[Item]]:
        """Yield everything of a run in batches as it happens, `RunEnded` last; without a run, of the thread, endlessly.

        Args:
            place: What is followed.
            after: Number of the last event that is left out; 0 begins with the run.
        """
        ...

    async def cancel(self, place: Place) -> None:
        """Ask a run to stop."""
        ...

    async def pins(self, prefix: str) -> list[Pin]:
        """Return the pinned facts of the thread whose id begins so.

        Raises:
            NotFound: There is none, or more than one.
        """
        ...

    async def pin(self, prefix: str, text: str) -> Pin:
        """Pin a fact in such a thread.

        Raises:
            InputError: There is no such thread, or the text is empty or too long.
        """
        ...

    async def unpin(self, prefix: str, id: str) -> None:
        """Let go of a pinned fact of such a thread.

        Raises:
            InputError: There is no such thread or pin.
        """
        ...

    async def close(self) -> None:
        """Let go of it; a run in this process is left to be resumed."""
        ...


@asynccontextmanager
async def connected(config: Config, screen: Screen, named: Path | None = None) -> AsyncGenerator[Connection]:
    """Open the data folder here, or reach the server that holds it.

    Args:
        config: The settings; a server has its own.
        screen: Told where the settings are not those of the server, and how to refuse.
        named: The settings file that the person named; None for none.

    Raises:
        DataInUse: Another process works on the folder and is no server that answers.
        StepwellError: The folder or a setting is no good.
    """
    connection = await _connect(config, screen, named)
    try:
        yield connection
    finally:
        await connection.close()


async def _connect(config: Config, screen: Screen, named: Path | None) -> Connection:
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE
    while True:
        try:
            return Local(open_host(config), screen)
        except DataInUse:
            found: Remote | None = await load("remote").find_server(config, screen)
            if found is not None:
                if named is not None and found.settings != config.fingerprint:
                    screen.note(screen.say("other_settings", url=found.url, file=named), "warn")
                return found
        if loop.time() > end:
            raise DataInUse(screen.say("in_use", folder=config.folder))
        await asyncio.sleep(PAUSE)


class Local:
    """Agents in this process.

    Args:
        host: The data folder.
        screen: Tells in which language to refuse.
    """

    served = False

    def __init__(self, host: Host, screen: Screen) -> None:
        self._host, self._service, self._screen = host, host.service, screen
        self.people: People = LocalPeople(host, OWNER)

    async def find(self, prefix: str) -> Place:
        """Return a thread and go on with what is unfinished; see the port."""
        info = await find_thread(self._service.store, self._screen, prefix)
        if info.run:
            await self._service.resume()
        return Place(info.id, info.run)

    async def look(self, prefix: str) -> Place:
        """Return a thread; see the port."""
        info = await find_thread(self._service.store, self._screen, prefix)
        return Place(info.id, info.run)

    async def model(self) -> str:
        """Return the default model's name."""
        return self._host.config.model_names[0]

    async def send(self, text: str, *, thread: str = "", manner: Manner = PLAIN) -> Place:
        """Start a run; see the port."""
        message = user_message(text)
        await self._host.start()
        wish = Wish(text=message.content, model=manner.model, face=FACE, engine=manner.engine, people=manner.people)
        spec = self._host.catalog.spec(wish)
        ref = await self._service.start(OWNER, message, spec, thread=thread, policy=manner.policy)
        return Place(ref.thread, ref.run, ref.queued, ref.steered)

    async def follow(self, place: Place, after: int = 0) -> AsyncGenerator[list[Item]]:
        """Yield a run as it happens; see the port."""
        owner = await self._owner(place.thread)
        batches = self._service.follow(owner, place.thread, Cursor(after or max(0, place.run - 1)))
        async with aclosing(batches):
            async for items in batches:
                yield items
                if place.run and any(item.run == place.run and item.ends_run for item in items):
                    return

    async def cancel(self, place: Place) -> None:
        """Ask a run to stop."""
        await self._service.cancel(await self._owner(place.thread), place.thread, place.run)

    async def _owner(self, thread: str) -> str:
        # Who has the folder may see all of it.
        found = await self._service.store.thread(thread)
        return found.owner if found else OWNER

    async def pins(self, prefix: str) -> list[Pin]:
        """Return the pinned facts of a thread; see the port."""
        return await contexts.pins(self._service, *await self._thread(prefix))

    async def pin(self, prefix: str, text: str) -> Pin:
        """Pin a fact; see the port."""
        return await contexts.pin(self._service, *await self._thread(prefix), text)

    async def unpin(self, prefix: str, id: str) -> None:
        """Let go of a pinned fact; see the port."""
        await contexts.unpin(self._service, *await self._thread(prefix), id)

    async def _thread(self, prefix: str) -> tuple[str, str]:
        # Unlike `find` it leaves an unfinished run alone.
        info = await find_thread(self._service.store, self._screen, prefix)
        return info.owner, info.id

    async def close(self) -> None:
        """Close the folder."""
        await self._host.close(grace=0)
