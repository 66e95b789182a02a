"""The command line. This module only starts it; what can be typed is in `app.py`."""

from __future__ import annotations

import sys
from typing import NoReturn

from stepwell.cli.loading import load


def main() -> NoReturn:
    """Run the command line of this process and end it with the command's exit code.

    0: done. 1: it failed, and stderr says why. 2: the command line is wrong. 130: ended by Ctrl-C. 141: nobody reads
    stdout any more.
    """
    try:
        # Everything is loaded in here, so that Ctrl-C is as quiet while a command starts as it is later.
        sys.exit(load("app").run())
    except KeyboardInterrupt:
        sys.exit(130)
