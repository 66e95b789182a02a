"""The screen of a person: colours, tables, and thinking that steps back. Plain text goes to what is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TextIO

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from stepwell.cli.screen import Screen, Style, visible

_STYLES: Mapping[Style, str] = MappingProxyType(
    {"": "", "dim": "dim", "tool": "cyan", "good": "green", "bad": "red", "warn": "yellow", "strong": "bold"}
)

NARROW = 60
"""Characters of a line below which a table would be more folds than text."""


class Colour(Screen):
    """Writes to a terminal with `rich`."""

    def __init__(self, language: str) -> None:
        super().__init__(language)
        self._consoles = {stream: Console(file=stream, soft_wrap=True) for stream in (sys.stdout, sys.stderr)}

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a table with a heading; long cells wrap. A narrow screen gets lines as programs do."""
        if not self.watched or self._consoles[sys.stdout].width < NARROW:
            super().table(columns, rows)
            return
        # The first cell names its row for other commands, so it stays whole; of the others nothing is left out.
        names = (Column(name, no_wrap=not place, overflow="fold") for place, name in enumerate(columns))
        table = Table(*names, box=SIMPLE, header_style="bold")
        for row in rows:
            table.add_row(*(Text(visible(cell)) for cell in row))
        self._consoles[sys.stdout].print(table, soft_wrap=False)

    def _put(self, stream: TextIO, words: str, style: Style) -> None:
        if not style or not stream.isatty():  # plain text stays as it is, tabs too
            super()._put(stream, words, style)
            return
        # A `Text` is shown as it is: no markup, no emoji, nothing highlighted inside what a model says.
        self._consoles[stream].print(Text(visible(words), _STYLES[style]), end="")
        stream.flush()
