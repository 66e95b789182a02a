"""What stands for messages that left the view: entries of the past, with the summaries that were made of them.

It chooses what the digest is made of; how it reads is `rendering`'s business, and when it is made `budget`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from stepwell.contexts import WRAPPED, cut_text, handle_of_event
from stepwell.events import Cut, SummaryEnded
from stepwell.messages import Message, ToolCall
from stepwell.rendering import LEAST_DIGEST, LINE, PastEntry, digest, file_path
from stepwell.state.history import Entry, History
from stepwell.tokens import Counter

LEAST_VERSION = 240
"""Characters below which a text is not worth cutting because a newer version of its file is there."""
LEAST_LINE = 16
"""Characters that a line of a digest has at least."""
SAMPLE = 40
"""Entries of which it is measured how many characters a token has."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def past_entries(history: History, left: Sequence[Entry]) -> list[PastEntry]:
    """Return what left the view, in the order of the log, with summaries in the place of what they cover.

    Args:
        history: Where most of it left before.
        left: What leaves now.
    """
    of_calls = [each for each in history.summaries.get("tool_calls", []) if each.text]
    of_all = history.summaries.get("working_context", [])
    critical = {seq for each in history.summaries.get("tool_calls", []) for seq in each.critical}
    calls: dict[str, ToolCall] = {}
    entries = [PastEntry(each.last, "summary", _summary_text(each)) for each in (*of_calls, *of_all)]
    for entry in sorted([*history.past, *left], key=lambda each: each.seq):
        message = entry.message
        calls.update((call.id, call) for call in message.calls)
        hiding = of_calls if message.role == "tool" else []
        hidden = any(each.first <= entry.seq <= each.last for each in (*hiding, *of_all))
        if message.role == "user" or not hidden or entry.seq in critical:
            entries += _entries(entry, calls, critical)
    return sorted(entries, key=lambda each: each.seq)


def entries_of(left: Iterable[Entry]) -> list[PastEntry]:
    """Return messages that left the view, as entries of the past."""
    calls: dict[str, ToolCall] = {}
    entries: list[PastEntry] = []
    for entry in sorted(left, key=lambda each: each.seq):
        calls.update((call.id, call) for call in entry.message.calls)
        entries += _entries(entry, calls, set())
    return entries


def _summary_text(summary: SummaryEnded) -> str:
    """Return a summary with the range in which all that it covers can be recalled."""
    text = f"{handle_of_event(summary.first)}-{summary.last}: {summary.text}"
    return f"{text}\n{summary.self_examination}" if summary.self_examination else text


def _entries(entry: Entry, calls: dict[str, ToolCall], critical: set[int]) -> Iterable[PastEntry]:
    seq, message = entry.seq, entry.message
    match message.role:
        case "user" | "assistant":
            text = message.content or message.thinking
            # What was said beside calls is told by them where there is nothing to say.
            if text or message.role == "user":
                yield PastEntry(seq, message.role, text)
        case "tool":
            call = calls.get(message.call, ToolCall(message.call, "?"))
            yield PastEntry(
                seq, "result", message.content, call.name, call.arguments, entry.status, critical=seq in critical
            )
        case "system":
            pass


def digest_of(
    history: History, left: Sequence[tuple[Message, int]], most: int, counter: Counter, limit: int, language: str
) -> str:
    """Return what stands for all that has left the view: it ends in a line that names the range of its events.

    Args:
        history: The history before it leaves.
        left: What leaves now, with the numbers of its events.
        most: Tokens of all but the last line.
        counter: Counts them.
        limit: Tokens that one of them may take.
        language: `zh`, or else English.
    """
    numbers = [seq for _, seq in left]
    count, first = history.gone + len(left), min([*numbers, *([history.first] if history.gone else [])])
    range_ = f"{WRAPPED} {count} messages in all; recall event:{first}-{max([history.upto, *numbers])}"
    entries = past_entries(history, [history.entry(message, seq) for message, seq in left])
    entries = [_shortened(each, 3 * limit) for each in entries[-max(1, 3 * most // LEAST_LINE) :]]
    # A character may be several tokens or a part of one: a sample, and then what was measured, tells how many.
    sample = "\n".join(each.text[:LINE] for each in entries[-SAMPLE:]) or "."
    budget = most * 95 * len(sample) // (100 * max(len(sample) // 3, counter.text(sample)))
    while entries and budget >= LEAST_DIGEST:
        text = digest(entries, budget, language)
        tokens = counter.text(text)
        if tokens <= most:
            return f"{text}\n{range_}".lstrip()
        budget = min(budget - 1, int(budget * most / tokens * 0.95))
    return range_


def _shortened(entry: PastEntry, limit: int) -> PastEntry:
    text = cut_text(entry.text, limit * 2 // 3, limit // 3, handle_of_event(entry.seq))
    return entry if text == entry.text else msgspec.structs.replace(entry, text=text)


def superseded(history: History, entries: Sequence[tuple[Message, int]]) -> list[Cut]:
    """Return the cuts that leave of each file only its newest version: the newest call about it that worked.

    Args:
        history: Where it stands.
        entries: Messages with the numbers of their events, oldest first.
    """
    paths = {
        call.id: path
        for message, _ in entries
        for call in message.calls
        if (path := file_path(call.name, call.arguments))
    }
    newest: dict[str, str] = {}
    cuts: list[Cut] = []
    for message, seq in reversed(entries if paths else ()):
        if message.role == "tool" and (path := paths.get(message.call)):
            if path in newest and len(message.content) > LEAST_VERSION:
                cuts.append(Cut(seq))
            elif history.status(seq) == "ok":
                newest.setdefault(path, message.call)
        big = [call for call in message.calls if len(call.arguments) > LEAST_VERSION]
        if big and all(newest.get(paths.get(call.id, ""), call.id) != call.id for call in big):
            cuts.append(Cut(seq, LEAST_VERSION // 4, part="arguments"))
    return cuts
