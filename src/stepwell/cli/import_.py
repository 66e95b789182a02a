"""`stepwell import`: makes threads of conversations that another program stored, beside a server if one runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import get_args

from stepwell.cli.keys import OWNER_LENGTH
from stepwell.cli.screen import Screen, short
from stepwell.cli.sources import Sources, open_store
from stepwell.cli.threads import SHOWN_ID, TITLE
from stepwell.errors import InputError
from stepwell.imports.base import Source
from stepwell.messages import clean
from stepwell.runs.imports import Became, Outcome, import_file

DETAIL = 200
"""Characters shown of a cause."""
HARMLESS = ("", "empty")
"""Causes that are no fault of a file."""


def run(screen: Screen, sources: Sources, *, file: Path, source: Source | None, owner: str, trial: bool) -> int:
    """Import the file, print a line for each conversation, and return 0, or 1 where one could not be read."""
    return asyncio.run(_import(screen, sources, file, source, clean(owner), trial))


async def _import(screen: Screen, sources: Sources, file: Path, source: Source | None, owner: str, trial: bool) -> int:
    config = sources.config(screen)
    if not (0 < len(owner) <= OWNER_LENGTH and owner.isprintable() and owner.strip()):
        raise InputError(screen.say("import_owner_wrong", limit=OWNER_LENGTH), "owner")
    file.stat()  # a name that was mistyped makes no data folder
    store = open_store(config, make=not trial)
    tally = _Tally()
    try:
        async with aclosing(import_file(store, file, owner=owner, source=source, trial=trial)) as outcomes:
            async for outcome in outcomes:
                _show(screen, outcome, trial)
                tally.add(outcome)
    finally:
        if store is not None:
            await store.close()
        if tally.began:
            tally.show(screen, trial)
    if not tally.began:  # it was read to its end, or an error says why not
        screen.note(screen.say("import_nothing", file=file))
    return 0 if tally.good else 1


def _show(screen: Screen, outcome: Outcome, trial: bool) -> None:
    place = screen.say(f"import_at_{outcome.source}", place=outcome.place or "?")
    match outcome.became:
        case "skipped":
            cause = screen.say(f"import_cause_{outcome.cause}", detail=short(outcome.detail, DETAIL))
            screen.note(screen.say("import_skipped", place=place, cause=cause), "warn")
        case "changed":
            screen.note(screen.say("import_changed", place=place, thread=outcome.thread), "warn")
        case "imported" | "grown" | "known":
            would = "would_" if trial and outcome.became != "known" else ""
            said = screen.say(f"import_{would}{outcome.became}")
            thread = outcome.thread[:SHOWN_ID] if screen.watched else outcome.thread
            screen.line("\t".join([said, thread or "-", str(outcome.messages), short(outcome.title, TITLE)]))


class _Tally:
    """What became of all conversations of a file.

    Attributes:
        good: Whether all of them could be read.
    """

    def __init__(self) -> None:
        self._became, self._left = Counter[str](), Counter[str]()
        self._messages, self.good = 0, True

    def add(self, outcome: Outcome) -> None:
        """Count one."""
        self._became[outcome.became] += 1
        self._messages += outcome.messages
        self.good = self.good and outcome.cause in HARMLESS
        if outcome.messages:
            self._left.update(outcome.left_out)

    @property
    def began(self) -> bool:
        """Whether there was any."""
        return bool(self._became)

    def show(self, screen: Screen, trial: bool) -> None:
        """Say it."""
        counts = {name: self._became[name] for name in get_args(Became)}
        screen.note(screen.say("import_summary", **counts, messages=self._messages))
        if self._left:
            left = [f"{count} {screen.say(f'import_left_{what}')}" for what, count in self._left.items()]
            screen.note(screen.say("import_left", left=", ".join(left)))
        if trial:
            screen.note(screen.say("import_trial"))
