"""How this program is called, so that a person can type what it recommends."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from stepwell.cli.sources import Sources


def command(sources: Sources, *words: str) -> str:
    """Return a command line that works in the folder where the person is, with the settings of this one."""
    program = Path(sys.argv[0]).absolute()
    script = Path(sys.prefix).parent / "scripts" / program.name
    if program.is_relative_to(sys.prefix) and script.is_file():
        program = script  # a checkout: its script also keeps the environment up to date
    found = shutil.which(program.name)
    if found is not None and Path(found).absolute() == program:
        name = program.name
    elif program.is_relative_to(Path.cwd()):
        name = f"./{program.relative_to(Path.cwd())}"
    else:
        name = str(program)
    options = [("--config", sources.file), ("--data", sources.data)]
    given = [part for option, path in options if path is not None for part in (option, str(path))]
    return shlex.join([name, *words, *given])
