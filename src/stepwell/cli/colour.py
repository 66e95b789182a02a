"""The screen of a person: colours, tables, and thinking that steps back. Plain text goes to what is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TextIO

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepwell.cli.screen import Screen, Style, visible

_STYLES: Mapping[Style, str] = MappingProxyType(
    {"": "", "dim": "dim", "tool": "cyan", "good": "green", "bad": "red", "warn": "yellow", "strong": "bold"}
)


class Colour(Screen):
    """Writes to a terminal with `rich`."""

    def __init__(self, language: str) -> None:
        super().__init__(language)
        self._consoles = {stream: Console(file=stream, soft_wrap=True) for stream in (sys.stdout, sys.stderr)}

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a table with a heading; long cells wrap."""
        if not self.watched:
            super().table(columns, rows)
            return
        table = Table(*columns, box=SIMPLE, header_style="bold")
        for row in rows:
            table.add_row(*(Text(visible(cell)) for cell in row))
        self._consoles[sys.stdout].print(table, soft_wrap=False)

    def _put(self, stream: TextIO, words: str, style: Style) -> None:
        if not stream.isatty():
            super()._put(stream, words, style)
            return
        # A `Text` is shown as it is: no markup, no emoji, nothing highlighted inside what a model says.
        self._consoles[stream].print(Text(visible(words), _STYLES[style]), end="")
        stream.flush()
