"""The tool `recall`: reads and searches what was left out of the model's view, by the handle that stands in its place.

It sees the events and big results of its own thread, and of an event what the model may see: no details that are for
people, no thinking, no causes of failures. It changes nothing and summarises nothing.
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import Callable, Iterator
from functools import cache

import msgspec

from stepwell.contexts import WRAPPED
from stepwell.errors import ToolError
from stepwell.events import (
    ContextCompacted,
    LongTermUpdated,
    MessageAdded,
    MessageEnded,
    ModelFailed,
    Recorded,
    RunEnded,
    StepStarted,
    Stored,
    SummaryEnded,
    SummaryStarted,
    TitleChanged,
    ToolEnded,
    ToolStarted,
    Unknown,
    Warned,
    WorkingUpdated,
)
from stepwell.messages import Message
from stepwell.tools.base import Archive, Tool, ToolContext, as_tool
from stepwell.tools.bounds import PIECE
from stepwell.tools.mark import tool

MAX_LENGTH = 20_000
"""Characters of a text that one call shows."""
MAX_HITS = 20
MAX_SEARCH = 1000
MAX_EVENTS = 500
"""Events of a range that one call looks at."""
AROUND = 80
"""Characters shown on each side of a hit."""
LINE = 160
"""Characters of a line that stands for one event of a range."""

_OUTPUT = MAX_LENGTH + 500
_BIG = 200_000
"""Characters or bytes above which the loop does not wait for the work."""
_HANDLE = r"(?:recall )?(?:event:([0-9]{1,15})(?:-(?:event:)?([0-9]{1,15}))?|blob:([0-9a-fA-F]{1,64}))"
_FORMS = "Write event:NUMBER, event:FIRST-LAST or blob:DIGITS, exactly as it stands after " + WRAPPED + "."


class _Text(msgspec.Struct, frozen=True):
    """A text with the handle that it is called by and a word on what it is.

    It stays in pieces: to put a big one together would keep all other threads waiting.
    """

    handle: str
    kind: str
    pieces: list[str]

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))

    def part(self, start: int, end: int) -> str:
        parts: list[str] = []
        for piece in self.pieces:
            if start < len(piece) and end > 0:
                parts.append(piece[max(start, 0) : end])
            start, end = start - len(piece), end - len(piece)
        return "".join(parts)


@cache
def recall_tool() -> Tool:
    """Return the tool, built once; what it reads comes with each call's context."""
    return as_tool(recall)


@tool(effect="pure", timeout=30.0, output_limit=_OUTPUT)
async def recall(handle: str, context: ToolContext, start: int = 0, length: int = 4000, search: str = "") -> str:
    """Read or search text that was left out, by its handle such as event:12 or blob:0123456789ab.

    Args:
        handle: event:NUMBER for a message, call or result of this conversation, event:FIRST-LAST for a list of events
            with one line each, blob:DIGITS for a big result.
        context: Whose past is read.
        start: The first character to show, counted from 0; with search, where the search begins.
        length: How many characters to show, at most 20000.
        search: Show the places where this text occurs instead, in upper or lower case.
    """
    if length < 1:
        raise ToolError(f"length is {length}; use 1 to {MAX_LENGTH}.")
    if start < 0:
        raise ToolError(f"start is {start}; count from 0.")
    if len(search) > MAX_SEARCH:
        raise ToolError(f"The text to search has {len(search)} characters; use at most {MAX_SEARCH}.")
    if context.archive is None:
        raise ToolError("Nothing is kept here that could be recalled; work with what is in view.")
    room = min(context.room, _OUTPUT) if context.room > 0 else _OUTPUT
    found = re.fullmatch(_HANDLE, handle.strip(" \t\r\n`'\"[]().,;"))
    if found is None:
        raise ToolError(f"{handle[:80]!r} is no handle. {_FORMS}")
    first, last, hash = found.groups()
    if last:
        return await _range(context.archive, int(first), int(last), start, length, search, room)
    text = await (_event(context.archive, int(first)) if first else _blob(context.archive, hash.lower()))
    work = _searcher([text], start, search, room) if search.strip() else _shower(text, start, length, room)
    return await _aside(text.size, work)


async def _aside(size: int, work: Callable[[], str]) -> str:
    return await asyncio.to_thread(work) if size > _BIG else work()


# finding


async def _event(archive: Archive, seq: int) -> _Text:
    events = await archive.read(after=seq - 1, limit=1) if seq else []
    if not events or events[0].seq != seq:
        raise ToolError(f"This conversation has no event {seq}. {_FORMS} event:1-{MAX_EVENTS} lists the first ones.")
    event = events[0].event
    text = text_of(event)
    if isinstance(event, ToolEnded) and event.blob:
        data = await archive.blob(event.blob)
        whole = None if data is None else await _decoded(data)
        if whole is not None:
            return _Text(f"event:{seq}", kind_of(event), whole)
    return _Text(f"event:{seq}", kind_of(event), pieces_of(text))


async def _blob(archive: Archive, hash: str) -> _Text:
    data = await archive.blob(hash)
    if data is None:
        raise ToolError(f"This conversation has no result blob:{hash[:64]}. {_FORMS} It has 12 digits or more.")
    text = await _decoded(data)
    if text is None:
        raise ToolError(f"blob:{hash[:12]} holds {len(data)} bytes that are no text and cannot be shown.")
    return _Text(f"blob:{hash[:12]}", "whole result", text)


async def _decoded(data: bytes) -> list[str] | None:
    return await asyncio.to_thread(_decode, data) if len(data) > _BIG else _decode(data)


def _decode(data: bytes) -> list[str] | None:
    """Decode UTF-8 in pieces; None where it is none."""
    decoder, view = codecs.getincrementaldecoder("utf-8")("strict"), memoryview(data)
    try:
        parts = [decoder.decode(view[at : at + PIECE]) for at in range(0, len(view), PIECE)]
        return [*parts, decoder.decode(b"", final=True)]
    except UnicodeDecodeError:
        return None


def pieces_of(text: str) -> list[str]:
    """Return a text in pieces that can be worked on without keeping other threads waiting."""
    return [text[at : at + PIECE] for at in range(0, len(text), PIECE)]


async def _range(archive: Archive, first: int, last: int, start: int, length: int, search: str, room: int) -> str:
    """Answer for a range: a line an event, or a search in the texts that the events themselves hold."""
    if last < first:
        raise ToolError(f"event:{first}-{last} ends before it begins; write event:{last}-{first}.")
    first = max(first, 1)
    events = await archive.read(after=first - 1, limit=min(last - first + 1, MAX_EVENTS))
    events = [recorded for recorded in events if recorded.seq <= last]
    if not events:
        raise ToolError(f"This conversation has no event from {first} on; write smaller numbers.")
    end = events[-1].seq
    more = f"; go on with event:{end + 1}-{last}" if end < last and len(events) == MAX_EVENTS else ""
    if search.strip():
        texts = [_Text(f"event:{each.seq}", kind_of(each.event), pieces_of(text_of(each.event))) for each in events]
        return await _aside(sum(each.size for each in texts), _searcher(texts, start, search, room, str(end), more))
    lines = "\n".join(map(_line, events))
    text = _Text(f"event:{first}-{end}", f"{len(events)} events{more}", pieces_of(lines))
    return _shower(text, start, length, room)()


def _line(recorded: Recorded) -> str:
    text = " ".join(text_of(recorded.event)[: 2 * LINE].split())
    line = f"event:{recorded.seq} {kind_of(recorded.event)}: {text}".rstrip(": ")
    return line if len(line) <= LINE else line[: LINE - 1] + "…"


# showing


def _shower(text: _Text, start: int, length: int, room: int) -> Callable[[], str]:
    def show() -> str:
        size = text.size
        if start > size or (start == size and size):
            raise ToolError(f"start is {start}, but {text.handle} has {size} characters; use 0 to {max(size - 1, 0)}.")
        longest = len(f"{text.handle}, {text.kind}: characters {size}-{size} of {size}; go on with start={size}\n")
        shown = min(length, MAX_LENGTH, room - longest)
        if shown < 1:
            return text.part(start, start + room)
        end = min(start + shown, size)
        more = f"; go on with start={end}" if end < size else ""
        head = f"{text.handle}, {text.kind}: characters {start}-{end} of {size}{more}"
        return f"{head}\n{text.part(start, end)}"

    return show


# searching


def _searcher(
    texts: list[_Text], start: int, search: str, room: int, last: str = "", more: str = ""
) -> Callable[[], str]:
    """Return the work of a search; `start` counts in the first text, `last` ends the range where there is one."""

    def find() -> str:
        lines: list[str] = []
        left = room - 2 * AROUND
        for text in texts:
            name = f"{text.handle} " if last else ""
            for line, at in hits(text.pieces, search, start if text is texts[0] else 0):
                hit = f"{name}line {line}, character {at}: {_around(text, at, len(search))}"
                left -= len(hit) + 1
                if len(lines) == MAX_HITS or (left < 0 and lines):
                    on = f"{text.handle}-{last} and start={at}" if last else f"start={at}"
                    return _told(lines, f"there are more: go on with {on}")
                lines.append(hit)
        if not lines:
            place = f"{texts[0].handle}-{last}" if last else texts[0].handle
            raise ToolError(f"{place} does not hold that text from character {start} on{more}. Try other words.")
        return _told(lines, f"there are no more{more}")

    return lambda: find()[:room]


def _told(lines: list[str], rest: str) -> str:
    return "\n".join([f"{len(lines)} places; {rest}", *lines])


def _around(text: _Text, at: int, length: int) -> str:
    begin, end, size = max(at - AROUND, 0), at + min(length, AROUND) + AROUND, text.size
    inside = " ".join(text.part(begin, end).split())
    return f"{'…' if begin else ''}{inside}{'…' if end < size else ''}"


def hits(pieces: list[str], search: str, start: int = 0) -> Iterator[tuple[int, int]]:
    """Give line, from 1, and place, from 0, of each occurrence of a text in upper or lower case.

    They do not overlap.

    Args:
        pieces: A text in pieces.
        search: What is looked for, not empty.
        start: Where the search begins; lines are counted from the beginning all the same.
    """
    offset, line, free, window = 0, 1, start, ""
    for piece in pieces:
        window += piece
        counted = 0
        for place in _places(window, search, max(free - offset, 0)):
            line, counted, free = line + window.count("\n", counted, place), place, offset + place + len(search)
            yield line, offset + place
        # What a match may still begin in stays; a match that was found began before it.
        kept = max(len(window) - len(search) + 1, 0)
        line += window.count("\n", counted, kept)
        offset, window = offset + kept, window[kept:]


def _places(piece: str, search: str, start: int) -> Iterator[int]:
    lowered, wanted = _lower(piece), _lower(search)
    if len(lowered) != len(piece) or len(wanted) != len(search):
        # Few letters have a lower case of another length, and places in it are not those of the text.
        pattern = re.compile(re.escape(search), re.IGNORECASE)
        yield from (match.start() for match in pattern.finditer(piece, start))
        return
    at = lowered.find(wanted, start)
    while at >= 0:
        yield at
        at = lowered.find(wanted, at + len(wanted))


def _lower(text: str) -> str:
    """Return the text in lower case; a sigma is the same at the end of a word."""
    return text.lower() if text.isascii() else text.lower().replace("ς", "σ")


# what an event says


def kind_of(event: Stored | Unknown) -> str:
    """Return a word on what an event is."""
    match event:
        case MessageAdded(message=message):
            return f"message of the {message.role}"
        case MessageEnded():
            return "reply"
        case ToolStarted(name=name):
            return f"start of {name}"
        case ToolEnded(call=call, status=status):
            return f"result of call {call[:64]} ({status})"
        case Unknown():
            return "event of a newer version"
        case _:
            return str(event.__struct_config__.tag).partition(".")[0].replace("_", " ")


def text_of(event: Stored | Unknown) -> str:
    """Return what the model may see of an event; empty where that is nothing."""
    match event:
        case MessageAdded(message=message) | MessageEnded(message=message):
            return _message(message)
        case ToolEnded(content=content):
            return content
        case StepStarted(step=step, tail=tail):
            return "\n".join([f"step {step}", *map(_message, tail)])
        case ContextCompacted(digest=digest):
            return digest
        case SummaryEnded(text=text, self_examination=examination):
            return "\n".join(filter(None, (text, examination)))
        case SummaryStarted(kind=kind, first=first, last=last):
            return f"{kind}, event:{first}-{last}"
        case LongTermUpdated() | WorkingUpdated():
            return msgspec.json.encode(event).decode()
        case TitleChanged(title=title):
            return title
        case RunEnded(reason=word) | ModelFailed(kind=word) | Warned(code=word):
            return word
        case _:
            return ""


def _message(message: Message) -> str:
    lines = [message.content] if message.content else []
    if message.images:
        lines.append(f"[{len(message.images)} image(s)]")
    lines += [f"{call.name}({call.arguments})" for call in message.calls]
    return "\n".join(lines)
