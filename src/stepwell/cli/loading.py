"""The one place of the command line that imports a module when it is needed, so that commands start fast.

A command loads its own module, the screen of a person only where one watches, and HTTP only to talk to a server.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def load(name: str) -> Any:
    """Return the module `stepwell.cli.NAME`."""
    return import_module(f"stepwell.cli.{name}")
