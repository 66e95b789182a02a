"""A run that is followed at a keyboard, and what is typed in the moment of its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path

from stepwell.cli.connection import Local
from stepwell.cli.interrupts import Interrupts
from stepwell.cli.lines import Lines
from stepwell.cli.place import PLAIN, Manner, Place
from stepwell.cli.screen import Screen
from stepwell.cli.session import Session
from stepwell.cli.stopping import Stop
from stepwell.config import load
from stepwell.events import MessageEnded, RunEnded, RunStarted
from stepwell.runs.channel import Item
from stepwell.wiring.host import open_host


class Keyboard(Lines):
    """Lines that a test types."""

    def __init__(self) -> None:
        super().__init__()
        self.typed = True
        self.type: Callable[[str | None], None] = print

    @contextlib.contextmanager
    def listening(self, take: Callable[[str | None], None]) -> Generator[None]:
        self.type = take
        yield


class Late(Local):
    """Says something in a thread only when its run is over."""

    async def send(self, text: str, *, thread: str = "", manner: Manner = PLAIN) -> Place:
        while thread and (await self.look(thread)).run:
            await asyncio.sleep(0)
        return await super().send(text, thread=thread, manner=manner)


@contextlib.asynccontextmanager
async def late(tmp_path: Path) -> AsyncGenerator[Late]:
    connection = Late(open_host(load(data=tmp_path)), Screen("en"))
    try:
        yield connection
    finally:
        await connection.close()


async def shown(tmp_path: Path, on: type, *typed: str | None) -> tuple[list[str], Keyboard]:
    """Ask once, type as soon as an event is shown, and return the answers that were shown."""
    keyboard, answers, left = Keyboard(), list[str](), list(typed)

    def show(item: Item) -> None:
        if isinstance(item.event, MessageEnded) and item.event.message.content:
            answers.append(item.event.message.content)
        while isinstance(item.event, on) and left:
            keyboard.type(left.pop(0))

    async with asyncio.timeout(20), late(tmp_path) as connection:
        place = await connection.send("what is 1+1?")
        stop = Stop(connection, Screen("en"), Interrupts())
        assert await Session(connection, Screen("en"), stop, show, keyboard).follow(place) == "ended"
    return answers, keyboard


def test_what_is_said_just_as_a_run_ended_begins_another_that_is_shown_too(tmp_path: Path) -> None:
    answers, _ = asyncio.run(shown(tmp_path, RunStarted, "what is 2+2?"))
    assert answers == ["1+1 = 2", "2+2 = 4"]


def test_what_is_typed_after_the_end_of_a_run_is_the_next_message(tmp_path: Path) -> None:
    async def main() -> None:
        answers, keyboard = await shown(tmp_path, RunEnded, "what is 2+2?", "and 3+3?", None)
        assert answers == ["1+1 = 2"]
        assert [await keyboard.next("") for _ in range(3)] == ["what is 2+2?", "and 3+3?", None]

    asyncio.run(main())
