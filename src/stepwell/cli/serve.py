"""`stepwell serve`: the server over the data folder, until Ctrl-C."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType

from stepwell.cli.screen import Screen
from stepwell.cli.sources import Sources
from stepwell.wiring.host import serve


def run(screen: Screen, sources: Sources, *, host: str | None, port: int | None) -> int:
    """Serve, and return 0 when a signal asked to stop."""
    config = sources.config(screen, host=host, port=port)

    def announce(url: str, key: str) -> None:
        screen.line(screen.say("serving", url=url), "good")
        if key:
            screen.line(screen.say("serving_key", key=key), "strong")
        screen.line(screen.say("serving_next", command=_next(sources)))
        screen.line(screen.say("serving_stop"), "dim")

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        serve(config, announce)
    except KeyboardInterrupt:
        screen.aside("\n")
    return 0


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """End like Ctrl-C does, so that all that is open is closed."""
    raise KeyboardInterrupt


def _next(sources: Sources) -> str:
    """Return the command that talks to this server, as it can be typed in the folder where the person is."""
    program = Path(sys.argv[0]).absolute()
    found = shutil.which(program.name)
    if found is not None and Path(found).absolute() == program:
        command = [program.name]
    elif program.is_relative_to(Path.cwd()):
        command = [str(Path(".") / program.relative_to(Path.cwd()))]
    else:
        command = [str(program)]
    for option, path in (("--config", sources.file), ("--data", sources.data)):
        command += [option, str(path)] if path else []
    return shlex.join([command[0], "chat", *command[1:]])
