"""`stepwell context`: what the request of a step held and left out, read from the database beside a server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from stepwell.agent.rebuilding import agents_of, named, run_of, steps_of
from stepwell.agent.report import ContextReport, LeftOut
from stepwell.cli.screen import Screen
from stepwell.cli.sources import Sources, find_thread, open_store
from stepwell.errors import NotFound
from stepwell.events import Recorded
from stepwell.runs.contexts import context_of
from stepwell.wiring.catalog import ConfigCatalog

BAR = 30
"""Characters of the bar of a part that fills the window."""


Of = tuple[int, int, str]
"""Numbers of the run and of the step, 0 for the newest, and the agent's path; empty for the run's own."""


def run(screen: Screen, sources: Sources, *, thread: str, owner: str, of: Of, json: bool) -> int:
    """Print the context of a step and return 0."""
    return asyncio.run(_context(screen, sources, thread, owner, of, json))


async def _context(screen: Screen, sources: Sources, thread: str, owner: str, of: Of, json: bool) -> int:
    config = sources.config(screen)
    store = open_store(config)
    if store is None:
        raise NotFound(screen.say("no_data", folder=config.folder), "thread")
    catalog = ConfigCatalog(config)
    try:
        info = await find_thread(store, screen, thread, owner)
        events, (of_run, step, agent) = await store.read(info.id), of
        try:
            found = context_of(events, catalog.assemble, run=of_run, step=step, agent=agent)
        except NotFound as error:
            raise NotFound(_missing(screen, events, error.field, of), error.field) from None
    finally:
        await catalog.close()
        await store.close()
    if json:
        screen.line(msgspec.json.encode(found).decode())
    else:
        _print(screen, found)
    return 0


def _missing(screen: Screen, events: Sequence[Recorded], field: str, of: Of) -> str:
    """Return, in the person's language, what is not there and what is."""
    if field == "run":
        return screen.say("context_no_run")
    run, step, agent = run_of(events, of[0]), of[1], of[2]
    steps, others = steps_of(events, run, agent), named(agents_of(events, run))
    if steps:
        return screen.say("context_no_step", step=step, run=run, newest=steps[-1])
    name = ("context_no_agent", "context_no_agents") if agent else ("context_not_asked", "context_nothing")
    return screen.say(name[not others], run=run, agent=repr(agent), agents=others)


def _print(screen: Screen, found: ContextReport) -> None:
    screen.line(screen.say("context_step_of" if found.agent else "context_step", **_fields(found)), "strong")
    columns = [screen.say(f"column_{name}") for name in ("part", "tokens", "share")]
    screen.table([*columns, ""], _rows(screen, found))
    screen.line(screen.say(f"context_{found.counting}", tokens=found.bound, room=found.room, reserve=found.reserve))
    if found.counted is not None:
        screen.line(screen.say("context_counted", tokens=found.counted, cached=found.cached or 0.0))
    screen.line(
        screen.say("context_proved" if found.proved else "context_unproved"), "good" if found.proved else "warn"
    )
    if found.unknown_tools:
        screen.line(screen.say("context_unknown_tools", names=", ".join(found.unknown_tools)), "warn")
    if found.compaction is not None:
        screen.line(screen.say("context_compaction", **msgspec.structs.asdict(found.compaction)))
    for each in found.left_out:
        screen.line("  " + _left_out(screen, each))
    if not found.left_out:
        screen.line(screen.say("context_whole"))
    _print_further(screen, found)


def _print_further(screen: Screen, found: ContextReport) -> None:
    for each in found.summaries:
        screen.line(screen.say("context_summary", **msgspec.structs.asdict(each)))
    for kind in found.summarizing:
        screen.line(screen.say("context_summarizing", kind=kind))
    for model, window in found.learned.items():
        screen.line(screen.say("context_learned", model=model, window=window))
    for fault in found.repaired:
        screen.line(screen.say("context_repaired", fault=fault), "warn")


def _fields(found: ContextReport) -> dict[str, object]:
    names = ("step", "run", "seq", "model", "window", "agent")
    return {name: getattr(found, name) for name in names}


def _rows(screen: Screen, found: ContextReport) -> list[tuple[str, str, str, str]]:
    free = max(0, found.room - found.tokens)
    sizes = [(part.name, part.count, part.tokens) for part in found.parts]
    sizes += [("free", 0, free), ("reserve", 0, found.reserve)]
    rows: list[tuple[str, str, str, str]] = []
    for name, count, tokens in sizes:
        share = tokens / found.window
        label = screen.say(f"part_{name}") + (f" ({count})" if count > 1 else "")
        bar = ("·" if name in ("free", "reserve") else "█") * round(BAR * min(1.0, share))
        rows.append((label, f"{tokens:,}", f"{share:.1%}", bar))
    return rows


def _left_out(screen: Screen, each: LeftOut) -> str:
    name = f"left_{each.what}" if each.why != "model" else "left_unseen"
    return screen.say(name, handle=each.handle or "-", upto=each.upto, gone=each.gone, kept=each.kept)
