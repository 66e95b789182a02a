"""What the parsers of all dialects share: pieces come in, what can be shown goes out, half a marker waits.

`ReplyParser` is any dialect's; `MarkerParser` is for those in which a call begins with a marker anywhere in the text.
What the markers are and what a call is, is the grammars' business. Nothing is read twice but half a marker, whose
length is bounded.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Literal, NamedTuple

from stepwell.messages import StopReason, ToolSpecs
from stepwell.models.base import CallPart, Delta

Channel = Literal["thinking", "thought", "text"]
"""Where text is shown: as thinking that is no answer whatever comes, as thinking that is the answer if the reply turns
out unmarked, or as text."""

_BLANK = re.compile(r"\s*")


class ReplyParser(ABC):
    """Takes one reply apart while it streams; see `DialectParser`.

    Args:
        tools: What the request offered.
    """

    __slots__ = (
        "_apart", "_channel", "_cut", "_held", "_offset", "_received", "_separate", "_shown", "_space", "_text",
        "_thinking", "_thought", "_tools", "done",
    )  # fmt: skip

    def __init__(self, tools: ToolSpecs) -> None:
        self.done = False
        self._tools = tools
        self._received: list[str] = []
        self._offset = 0  # characters received before the first of the next buffer
        self._held = ""  # half a marker
        self._cut: int | None = None
        self._channel: Channel = "thought"
        self._space: list[str] = []  # whitespace that is shown once something follows it
        self._shown = False
        self._apart = self._separate = False
        self._thought: list[str] = []
        self._thinking: list[str] = []  # this and `_text`: not yet returned
        self._text: list[str] = []

    @property
    def thought(self) -> str:
        """What stands before the first marker: the answer, if the reply is unmarked."""
        return "".join(self._thought)

    def feed(self, delta: Delta) -> Delta | None:
        """Read a delta and return what can be shown by now, or None; see `DialectParser.feed`."""
        if delta.thinking and not self._thought:
            self._separate = True
        if delta.text and not self.done:
            self._received.append(delta.text)
            self._scan(self._held + delta.text)
        if delta.stop is not None:
            return self._last(delta, delta.stop)
        thinking, text = self._take_shown(delta)
        if not (thinking or text or delta.usage or delta.failure):
            return None
        return Delta(text=text, thinking=thinking, usage=delta.usage, failure=delta.failure)

    def finish(self, stop: StopReason) -> Delta:
        """End the reply where it stands and return the last delta; see `DialectParser.finish`."""
        return self._last(Delta(), stop)

    def _last(self, delta: Delta, stop: StopReason) -> Delta:
        if not self.done and self._held:
            self._release()
        calls: tuple[CallPart, ...] = ()
        whole = stop not in {"error", "cancelled"}
        complete = whole and (self.done or stop in {"stop", "tool_calls"})
        if complete or stop == "length":
            calls = self._calls(complete=complete)
        if complete or calls:
            stop = "tool_calls" if calls else "stop"
        thinking, text = self._take_shown(delta)
        return Delta(
            text=text,
            thinking=thinking,
            calls=calls,
            usage=delta.usage,
            failure=delta.failure,
            stop=stop,
            raw="".join(self._received)[: self._cut],
            unmarked=whole and not calls and self._is_unmarked(),
        )

    def _take_shown(self, delta: Delta) -> tuple[str, str]:
        thinking, text = delta.thinking, ""
        if self._text:
            text = "".join(self._text)
            self._text.clear()
        if self._thinking:
            thinking = "".join((thinking, "\n\n" if self._separate else "", *self._thinking))
            self._separate = False
            self._thinking.clear()
        return thinking, text

    def _scan(self, buffer: str) -> None:
        self._held, at = "", 0
        while at < len(buffer) and not self.done:
            at = self._step(buffer, at)
        self._offset += len(buffer) - len(self._held)

    def _show(self, text: str, channel: Channel) -> None:
        """Show text without outer whitespace."""
        if channel != self._channel:
            self._apart = self._shown and channel == "thought"
            self._channel, self._shown, self._space = channel, False, []
        body = text.rstrip()
        if not body:
            self._space.append(text)
            return
        shown = body
        if not self._shown:
            shown = body.lstrip()
        elif self._space:
            shown = "".join((*self._space, body))
        self._shown = True
        if self._space or len(body) < len(text):
            self._space = [text[len(body) :]]
        if channel == "text":
            self._text.append(shown)
            return
        if channel == "thought":
            self._thought.append(shown)
        self._thinking.append("\n\n" + shown if self._apart else shown)
        self._apart = False

    def _end(self, at: int) -> None:
        """End the reply at this place of the buffer: nothing behind it counts."""
        self.done, self._cut = True, self._offset + at

    @abstractmethod
    def _step(self, buffer: str, at: int) -> int:
        """Read on from a place of the buffer and return the next place; what waits for more goes to `_held`."""

    @abstractmethod
    def _release(self) -> None:
        """Read what was held back: nothing follows it."""

    @abstractmethod
    def _calls(self, *, complete: bool) -> tuple[CallPart, ...]:
        """Return the calls; where the reply is not complete, only those that are."""

    @abstractmethod
    def _is_unmarked(self) -> bool:
        """Return whether the reply, which holds no call, followed no form."""


class Part(NamedTuple):
    """A part of a marker.

    Args:
        full: The expression of all of it.
        half: The expression of a beginning of it; the text ends there.
    """

    full: str
    half: str


def word(*texts: str) -> Part:
    """Return a fixed text, or a choice of some of which none begins another."""
    full = "|".join(map(re.escape, texts))
    return Part(full if len(texts) == 1 else f"(?:{full})", _beginnings(texts) or "(?!)")


def _beginnings(texts: Iterable[str]) -> str:
    """Return the expression of what such texts begin with, but for the whole of one; each letter is tried once."""
    rests: dict[str, list[str]] = {}
    for text in texts:
        if len(text) > 1:
            rests.setdefault(text[0], []).append(text[1:])
    found = ((re.escape(letter), _beginnings(more)) for letter, more in rests.items())
    return "|".join(f"{letter}(?:{more})?" if more else letter for letter, more in found)


def some(characters: str, most: int, least: int = 0) -> Part:
    """Return a run of characters of a class; what follows it begins with none of them."""
    return Part(f"{characters}{{{least},{most}}}+", f"{characters}{{0,{most}}}+")


def maybe(part: Part) -> Part:
    """Return a part that may be left out; what follows it begins otherwise."""
    return Part(f"(?:{part.full})?+", part.half)


def one_of(*parts: Part) -> Part:
    """Return a choice."""
    return Part(f"(?:{'|'.join(part.full for part in parts)})", f"(?:{'|'.join(part.half for part in parts)})")


def named(name: str, part: Part) -> Part:
    """Return a part that is a group of the match."""
    return Part(f"(?P<{name}>{part.full})", part.half)


def row(*parts: Part) -> Part:
    """Return parts one after another."""
    half = ""
    for part in reversed(parts):
        full = re.sub(r"\(\?P<\w+>", "(?:", part.full)
        half = f"(?:{full}(?:{half})?|{part.half})" if half else f"(?:{part.half})"
    return Part("".join(part.full for part in parts), half)


LINE = Part(r"(?<![^\r\n])", "(?!)")
"""The start of a line."""

FENCE = row(word("```"), some(r"[\w+-]", 16), some(r"\s", 32))
"""The opening of a fence."""


class Markers(NamedTuple):
    """Finds markers.

    Args:
        more: Finds the first marker, or as the group `half` what may become one.
        last: The same in a text that nothing follows.
        signs: Finds characters of which one stands in every marker's first place, or right before it.
    """

    more: re.Pattern[str]
    last: re.Pattern[str]
    signs: re.Pattern[str]


def markers(*parts: Part, otherwise: str = "(?!)", cased: bool = False, signs: str = "", lines: str = "") -> Markers:
    """Return what finds the leftmost of these.

    Args:
        parts: The markers; of two that begin at one place the first counts.
        otherwise: An expression of what is one only where none of the parts can still follow.
        cased: Whether letters have to be as they are given.
        signs: Characters of which one begins every marker, so that no other place is looked at; empty for any.
        lines: Characters of which one may, besides, begin a marker at the start of a line.
    """
    flags = 0 if cased else re.IGNORECASE
    first = f"[{signs}]|{LINE.full}[{lines}]" if lines else f"[{signs}]" if signs else r"[\s\S]"
    ends = r"\r\n" if lines else ""
    full = "|".join(part.full for part in parts)
    half = "|".join(part.half for part in parts)
    more = rf"(?={first})(?:{full}|(?P<half>(?:{half})\Z)|{otherwise})"
    last = f"(?={first})(?:{full}|{otherwise})"
    return Markers(re.compile(more, flags), re.compile(last, flags), re.compile(f"[{signs}{ends}]" if signs else first))


_THINKING = markers(named("closing", word("</think>", "</thinking>")))
_THINK = word("<think>", "<thinking>")
_START = markers(named("think", _THINK))
_START_LABELLED = markers(named("think", _THINK), named("label", word("Thought:", "Thought：")))


class MarkerParser(ReplyParser):
    """Takes a reply apart in which calls begin with a marker.

    A leading `<think>` block is thinking. Text follows, up to the first marker; with it a body begins, which the
    grammar reads. What stands between two calls is the grammar's too.

    Attributes:
        found: The markers that begin or end something in text.
        labelled: Whether a leading `Thought:` makes a thought of the text.
    """

    __slots__ = ("_before", "_final", "_prose", "_state")

    found: Markers
    labelled = False

    def __init__(self, tools: ToolSpecs, *, prose: Channel = "text") -> None:
        super().__init__(tools)
        self._before: str = "\n"  # one character of context: a marker may have to stand at the start of a line
        self._prose: Channel = prose
        self._state: Literal["start", "thinking", "text", "body", "after"] = "start"
        self._offset = -1
        self._final = False

    def _scan(self, buffer: str) -> None:
        self._held, at = "", 1
        buffer = self._before + buffer
        while at < len(buffer) and not self.done:
            at = self._step(buffer, at)
        read = len(buffer) - len(self._held)
        self._before = buffer[read - 1]
        self._offset += read - 1

    def _step(self, buffer: str, at: int) -> int:
        match self._state:
            case "text":
                return self._read_text(buffer, at)
            case "body":
                return self._read_body(buffer, at)
            case "after":
                return self._read_after(buffer, at)
            case "thinking":
                return self._read_thinking(buffer, at)
            case "start":
                return self._read_start(buffer, at)

    def _release(self) -> None:
        self._final = True
        self._scan(self._held)

    def _pattern(self, known: Markers) -> re.Pattern[str]:
        return known.last if self._final else known.more

    def _holds(self, buffer: str, found: re.Match[str]) -> bool:
        """Hold half a marker back and tell whether it is half a one."""
        if self._final or found["half"] is None:
            return False
        self._held = buffer[found.start() :]
        return True

    def _read_start(self, buffer: str, at: int) -> int:
        blank = _BLANK.match(buffer, at)
        at = blank.end() if blank else at
        if at == len(buffer):
            return at
        found = self._pattern(_START_LABELLED if self.labelled else _START).match(buffer, at)
        if found is None:
            self._state = "text"
            return at
        if self._holds(buffer, found):
            return len(buffer)
        if found["think"]:
            self._state = "thinking"
        else:
            self._state, self._prose = "text", "thought"
        return found.end()

    def _read_thinking(self, buffer: str, at: int) -> int:
        found = self._pattern(_THINKING).search(buffer, at)
        end = found.start() if found else len(buffer)
        if end > at:
            self._show(buffer[at:end], "thinking")
        if found is None or self._holds(buffer, found):
            return len(buffer)
        self._state = "start"
        return found.end()

    def _read_text(self, buffer: str, at: int) -> int:
        found = self.found.signs.search(buffer, at - 1)
        if found is not None:
            found = self._pattern(self.found).search(buffer, max(at, found.start()))
        end = len(buffer) if found is None else found.start()
        if end > at:
            self._show(buffer[at:end], self._prose)
        if found is None or self._holds(buffer, found):
            return len(buffer)
        return self._begin(found)

    @abstractmethod
    def _begin(self, found: re.Match[str]) -> int:
        """Take a marker in text and return where to read on, past its beginning."""

    @abstractmethod
    def _read_body(self, buffer: str, at: int) -> int:
        """Read on inside a call and return where to read on."""

    @abstractmethod
    def _read_after(self, buffer: str, at: int) -> int:
        """Read on behind a call and return where to read on."""
