"""Where a command writes: answers to stdout, all else to stderr, as plain text. `colour.py` is for terminals."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TextIO

from stepwell.cli.texts import text

Style = Literal["", "dim", "tool", "good", "bad", "warn", "strong"]

_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Screen:
    """Writes plain text, as programs and files want it.

    Args:
        language: `en` or `zh`.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self.watched = sys.stdout.isatty()
        """Whether a person sees stdout."""

    def say(self, name: str, /, **values: object) -> str:
        """Return a text in the person's language."""
        return text(name, self.language, **values)

    def write(self, words: str, style: Style = "") -> None:
        """Write a piece of an answer to stdout and show it at once."""
        self._put(sys.stdout, words, style)

    def line(self, words: str, style: Style = "") -> None:
        """Write a line to stdout."""
        self._put(sys.stdout, words + "\n", style)

    def aside(self, words: str, style: Style = "dim") -> None:
        """Write what belongs to no answer: between answers where a person watches, else to stderr."""
        self._put(sys.stdout if self.watched else sys.stderr, words, style)

    def note(self, words: str, style: Style = "dim") -> None:
        """Write a line to stderr."""
        self._put(sys.stderr, words + "\n", style)

    def fail(self, cause: str) -> None:
        """Say on stderr why it did not work."""
        self.note(self.say("error", cause=cause), "bad")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write rows to stdout: one a line, tabs between cells and no heading."""
        for row in rows:
            self.line("\t".join(short(cell, 1000) for cell in row))

    def _put(self, stream: TextIO, words: str, style: Style) -> None:
        stream.write(visible(words) if stream.isatty() else words)
        stream.flush()


def visible(words: str) -> str:
    """Return text that cannot steer a terminal: control characters, and those that turn text round, become U+FFFD."""
    return _UNSAFE.sub("\ufffd", words.replace("\r\n", "\n"))


def short(words: str, limit: int) -> str:
    """Return text on one line of at most `limit` characters."""
    line = " ".join(words[: limit * 4].split())
    return line if len(line) <= limit and len(words) <= limit * 4 else line[: limit - 1] + "…"


def when(milliseconds: int) -> str:
    """Return a time as this machine's clock shows it."""
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
