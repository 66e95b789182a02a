"""Where a command's settings come from, and how it finds the database without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from stepwell.cli.screen import Screen
from stepwell.config import Config, load
from stepwell.errors import NotFound
from stepwell.messages import clean
from stepwell.store.base import Store, ThreadInfo
from stepwell.wiring.parts import make_store

DATABASE = "stepwell.db"
OWNER = "local"
"""Whose threads those of the command line are."""
PAGE = 500


class Sources(NamedTuple):
    """What the command line says of settings.

    Args:
        file: The settings file, if one is named.
        data: The data folder, if one is named.
    """

    file: Path | None = None
    data: Path | None = None

    def config(self, screen: Screen, **values: Any) -> Config:
        """Read the settings, and let the screen speak the language that they name.

        Raises:
            ConfigError: A setting is wrong.
        """
        config = load(self.file, data=self.data, **values)
        if config.agent.language != "auto":
            screen.language = config.agent.language
        return config


def open_store(config: Config, *, make: bool = False) -> Store | None:
    """Open the database beside whoever works on it, or return None where there is none yet.

    Raises:
        StoreError: It cannot be opened.
    """
    file = config.folder / DATABASE
    if not file.exists():
        if not make:
            return None
        config.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return make_store(file)


async def find_thread(store: Store, screen: Screen, prefix: str, owner: str = OWNER) -> ThreadInfo:
    """Return the thread with this id, whoever's it is, or the owner's only one whose id begins so.

    Raises:
        NotFound: There is none, or more than one.
    """
    prefix, owner = clean(prefix), clean(owner)
    found = await store.thread(prefix)
    if found is not None:
        return found
    matching: list[ThreadInfo] = []
    before = ""
    while page := await store.threads(owner, before=before, limit=PAGE):
        matching += [info for info in page if info.id.startswith(prefix)]
        before = page[-1].id
    if len(matching) != 1 or not prefix:
        name = "many_threads" if matching else "no_thread"
        raise NotFound(screen.say(name, id=repr(prefix), count=len(matching)), "thread")
    return matching[0]
