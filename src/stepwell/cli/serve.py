"""`stepwell serve`: the server over the data folder, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from types import FrameType

from stepwell.cli.program import command
from stepwell.cli.screen import Screen
from stepwell.cli.sources import Sources
from stepwell.config import Config
from stepwell.wiring.host import serve
from stepwell.wiring.models import faults


def run(screen: Screen, sources: Sources, *, host: str | None, port: int | None) -> int:
    """Serve, and return 0 when a signal asked to stop."""
    config = sources.config(screen, host=host, port=port)
    unusable: dict[str, str] = {}

    def announce(url: str, key: str) -> None:
        screen.line(screen.say("serving", url=url), "good")
        if key:
            screen.line(screen.say("serving_key", key=key), "strong")
        screen.line(screen.say("serving_next", command=command(_elsewhere(sources, config), "chat")))
        screen.line(screen.say("serving_stop"), "dim")
        for name, cause in unusable.items():
            screen.note(screen.say("serving_without", name=name, cause=cause), "warn")

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        unusable |= asyncio.run(faults(config))
        serve(config, announce)
    except KeyboardInterrupt:
        screen.aside("\n")
    return 0


def _elsewhere(sources: Sources, config: Config) -> Sources:
    """Name the data folder where it is not the usual one: another terminal may lack the variable that does so here."""
    usual = Path(os.path.expanduser(Config.model_fields["data"].default))
    return sources if config.folder == usual else sources._replace(data=sources.data or config.folder)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """End like Ctrl-C does, so that all that is open is closed."""
    raise KeyboardInterrupt
