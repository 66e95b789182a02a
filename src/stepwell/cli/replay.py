"""`stepwell replay`: runs a thread again from its log, and prints the first decision or request that differs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stepwell.cli.screen import Screen, short
from stepwell.cli.sources import Sources, find_thread, open_store
from stepwell.errors import NotFound
from stepwell.events import Recorded, RunStarted, StepStarted
from stepwell.runs.replay import Difference, replay
from stepwell.wiring.replay import ConfigParts

SHOWN = 1000
"""Characters shown of an event."""


def run(screen: Screen, sources: Sources, *, thread: str, owner: str) -> int:
    """Replay, and return 0 if nothing differs."""
    return asyncio.run(_replay(screen, sources, thread, owner))


async def _replay(screen: Screen, sources: Sources, thread: str, owner: str) -> int:
    config = sources.config(screen)
    store = open_store(config)
    if store is None:
        raise NotFound(screen.say("no_data", folder=config.folder), "thread")
    try:
        info = await find_thread(store, screen, thread, owner)
        events = await store.read(info.id)
    finally:
        await store.close()
    found = await replay(events, ConfigParts(config))
    if found is None:
        screen.line(screen.say("same", **_counts(events)), "good")
        return 0
    _print(screen, found, events)
    return 1


def _counts(events: Sequence[Recorded]) -> dict[str, int]:
    runs = sum(isinstance(recorded.event, RunStarted) for recorded in events)
    steps = sum(isinstance(recorded.event, StepStarted) for recorded in events)
    return {"events": len(events), "runs": runs, "steps": steps}


def _print(screen: Screen, found: Difference, events: Sequence[Recorded]) -> None:
    gone = screen.say("gone")
    fields = {"seq": found.seq, "name": found.name, "stored": found.stored, "now": found.now or gone}
    screen.line(screen.say(f"differs_{found.kind}", **fields), "bad")
    if found.kind == "version":
        return
    stored, now = _apart(found.stored, found.now)
    screen.line("  " + screen.say("stored", what=stored))
    if found.kind in ("request", "event"):
        screen.line("  " + screen.say("now", what=now or screen.say("nothing")))
    if found.kind == "request":
        screen.line(screen.say("proved", proved=found.proved) if found.proved else screen.say("unproved"))


def _apart(stored: str, now: str) -> tuple[str, str]:
    """Return two texts shortened such that the place where they part can be seen."""
    start = next((at for at, (one, other) in enumerate(zip(stored, now, strict=False)) if one != other), 0)
    cut = max(0, start - SHOWN // 4)
    head = "…" if cut else ""
    return head + short(stored[cut:], SHOWN), head + short(now[cut:], SHOWN) if now else ""
