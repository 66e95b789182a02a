"""The conversation as a model sees it: the fold of messages and compactions.

Messages stand in a transcript that only grows between two compactions. A compaction lets the oldest leave: what
they came to stands, as a digest, in front of the first user message that stays. What left is kept in short form
for the next digest, up to a bound; all of it is in the log for ever. It decides nothing and counts no tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import reduce
from typing import Any, NamedTuple

import msgspec

from stepwell.contexts import WRAPPED, cut_text, handle_of_event
from stepwell.events import ContextCompacted, Cut, SummaryEnded, SummaryStarted, ToolStatus
from stepwell.messages import Message, ToolCall, Transcript
from stepwell.specs import SummaryKind

PAST_ENTRIES = 512
"""Messages that left the view and are kept for the next digest."""
PAST_CHARACTERS = 2000
"""Characters kept of each of them."""
PAST_SUMMARIES = 64
"""Summaries kept of each kind."""


class Entry(msgspec.Struct, frozen=True):
    """A message that left the view.

    Args:
        seq: Number of the event that brought it.
        message: The message, its texts cut.
        status: On a result, how its call ended.
    """

    seq: int
    message: Message
    status: ToolStatus = "ok"


class Mark(msgspec.Struct, frozen=True):
    """The provider's count of a request.

    Args:
        messages: How many messages of the transcript it held.
        tokens: What the provider counted.
        exact: Whether it held nothing besides them, the system message and the run's own tools.
        own: Whether the run's own model counted it, with at least the run's own tools.
        handles: Whether the tools held the one that reads handles.
    """

    messages: int
    tokens: int
    exact: bool
    own: bool = True
    handles: bool = False


class Segment(NamedTuple):
    """Messages whose tokens are known as the difference of two counts of the provider.

    Args:
        seq: Number of the event that brought the first.
        messages: How many.
        tokens: What the provider counted.
    """

    seq: int
    messages: int
    tokens: int


class History:
    """What one agent has before it.

    Attributes:
        transcript: The messages of the next request, system message first.
        past: What left, newest last.
        gone: How many messages left in all.
        first: Lowest number of an event that left; 0 while none has.
        upto: Messages up to this number have left.
        marks: The provider's counts since the transcript was last rewritten.
        first_mark: Its first count since the system message changed: what tools and system message take at most.
        proved: Whether the provider's counts are of whole requests, as far as can be told.
        segments: Parts of the transcript that the provider's counts tell, oldest first.
        excess: Tokens by which the provider counted more than the bound.
        handles: Whether a text with a handle stands in the view.
        compactions: How many there were.
        summaries: Finished summaries by kind, oldest first.
        summarizing: Summaries under way, by kind.
        summarized: Number up to which summaries of a kind were ever started.
        faults: What was repaired of imported history.
    """

    def __init__(self) -> None:
        self.transcript = Transcript()
        self.past: tuple[Entry, ...] = ()
        self.gone = self.first = self.upto = self.excess = self.compactions = 0
        self.marks: list[Mark] = []
        self.first_mark: Mark | None = None
        self.segments: list[Segment] = []
        self.handles = False
        self.summaries: dict[SummaryKind, list[SummaryEnded]] = {}
        self.summarizing: dict[SummaryKind, SummaryStarted] = {}
        self.summarized: dict[SummaryKind, int] = {}
        self.faults: tuple[str, ...] = ()
        self._asked: Mark | None = None
        self._counting: tuple[object, ...] = ()
        self._doubted = self.proved = False
        self._tail: Sequence[Message] | None = None
        self._statuses: dict[int, ToolStatus] = {}
        self._anchor: tuple[int, Message] | None = None
        self._system = ""
        self._system_cut: Cut | None = None

    @property
    def system(self) -> str:
        """The text of the system message, whole."""
        return self._system

    def set_system(self, text: str) -> None:
        """Replace the system message."""
        if text == self._system:
            return
        if (cut := self._system_cut) is not None:
            # Pins and conclusions stand near the end: what is new of them is shown.
            more = max(0, len(text) - len(self._system))
            self._system_cut = msgspec.structs.replace(cut, tail=cut.tail + more)
        self._system, self.first_mark = text, None
        if len(self.transcript) or self._system_cut:
            self._rewrite(self._entries())
        else:
            self.transcript.append(Message("system", text))

    def uncut_system(self) -> None:
        """Show the system message whole again: what it was cut for has changed."""
        if self._system_cut is not None:
            self._system_cut = self.first_mark = None
            self._rewrite(self._entries())

    def append(self, message: Message, seq: int) -> None:
        """Add a message at the end."""
        self.transcript.append(message, seq)

    def add_results(self, results: list[tuple[int, Message, ToolStatus, bool]]) -> None:
        """Add the results of one reply's calls in their order; their images stand together, after the last.

        Args:
            results: Number of the event, the message, how the call ended, and whether its text has a handle.
        """
        images = tuple(image for _, message, _, _ in results for image in message.images)
        for at, (seq, message, status, out_of_line) in enumerate(results):
            shown = images if at == len(results) - 1 else ()
            same = message.images == shown
            self.transcript.append(message if same else msgspec.structs.replace(message, images=shown), seq)
            self.handles = self.handles or out_of_line
            if status != "ok":
                self._statuses[seq] = status

    def drop_reply(self, seq: int) -> None:
        """Take back the newest message if this event brought it and it has no calls: another takes its place."""
        entries = self._entries()
        if entries and entries[-1][1] == seq and not entries[-1][0].calls:
            self._rewrite(entries[:-1])

    def counted_by(self, *who: object) -> None:
        """Forget the counts of another model or of other tools.

        Args:
            who: What the provider's counts depend on besides the messages.
        """
        if who != self._counting:
            self._counting, self._doubted, self.proved, self.excess = who, False, False, 0
            self._forget_counts()

    def asked(self, plain: bool, own: bool = True, tail: Sequence[Message] | None = None) -> None:
        """Remember what the request holds that is about to be sent.

        Args:
            plain: Whether it is the transcript alone.
            own: Whether it goes to the run's own model with at least the run's own tools.
            tail: What else it holds; None where that is not known.
        """
        self._asked = Mark(len(self.transcript), 0, plain, own, self.handles)
        self._tail = () if plain else tail

    def counted(self, tokens: int) -> None:
        """Take in the provider's count of the request that was sent last."""
        asked, self._asked = self._asked, None
        if asked is None or tokens <= 0 or not asked.messages:
            return
        last = self.marks[-1] if self.marks else None
        if last is not None and not self.proved and self._tail is not None:
            new = [*self.transcript[last.messages : asked.messages], *self._tail]
            # More than is new: it counts the whole request, and not only what was in no cache.
            self.proved = bool(new) and tokens > sum(map(_most, new)) and not self._doubted
        grown = last is not None and last.exact and asked.own and asked.messages > last.messages
        if last is not None and grown and tokens <= last.tokens:
            # A request that grew cannot count less.
            self._doubted, self.proved = True, False
            self._forget_counts()
        elif last is not None and grown and asked.exact and not self._doubted:
            seq = self.transcript.seqs[last.messages]
            self.segments.append(Segment(seq, asked.messages - last.messages, tokens - last.tokens))
        mark = Mark(asked.messages, tokens, asked.exact, asked.own and not self._doubted, asked.handles)
        self.marks.append(mark)
        if mark.own and self.first_mark is None:
            self.first_mark = mark

    def _forget_counts(self) -> None:
        self.marks, self.segments, self.first_mark, self._asked = [], [], None, None

    def clear(self) -> None:
        """Forget all but the system message."""
        self.past = ()
        self.segments.clear()
        self.gone = self.first = self.upto = 0
        self.summaries = {kind: kept for kind, kept in self.summaries.items() if kind == "rolling"}
        self._anchor, self._system_cut, self.handles = None, None, False
        self._rewrite([])

    def compact(self, event: ContextCompacted) -> None:
        """Rewrite the view as a compaction says."""
        before = self._entries()
        left = [(each, seq) for each, seq in before if seq <= event.upto]
        kept = [(self._original(each, seq), seq) for each, seq in before if seq > event.upto]
        anchor = None if kept and kept[0][0].role == "user" else self._last_user(left)
        self._leave(left, anchor)
        if anchor is not None:
            kept.insert(0, anchor)
        kept = _cut_all(kept, event.cuts)
        self._anchor = None
        if event.digest:
            if not kept or kept[0][0].role != "user":
                # An agent without a user is told of its past in a message of its own.
                kept.insert(0, (Message("user"), 0))
            message, seq = kept[0]
            self._anchor = (seq, message)
            content = f"{event.digest}\n\n{message.content}" if message.content else event.digest
            kept[0] = (msgspec.structs.replace(message, content=content), seq)
        self.compactions += 1
        self.excess = max(self.excess, event.excess)
        self.handles = True
        changed = {cut.seq for cut in event.cuts} | {seq for _, seq in kept[:1]}
        self._system_cut = next((cut for cut in event.cuts if not cut.seq), self._system_cut)
        self._rewrite(kept)
        self._keep_segments(changed)

    def entry(self, message: Message, seq: int) -> Entry:
        """Return a message of the view in the short form in which it leaves."""
        return Entry(seq, _short(self._original(message, seq), seq), self.status(seq))

    def status(self, seq: int) -> ToolStatus:
        """Return how a call ended whose result stands in the view."""
        return self._statuses.get(seq, "ok")

    def entries(self) -> list[tuple[Message, int]]:
        """Return the conversation without system message and digest, with the numbers of its events."""
        return [(self._original(message, seq), seq) for message, seq in self._entries() if seq]

    def _keep_segments(self, changed: set[int]) -> None:
        """Drop the counts of what left or was cut."""
        at = {seq: index for index, seq in enumerate(self.transcript.seqs) if seq}
        seqs = self.transcript.seqs
        self.segments = [
            each
            for each in self.segments
            if each.seq in at and changed.isdisjoint(seqs[at[each.seq] : at[each.seq] + each.messages])
        ]

    def _last_user(self, left: list[tuple[Message, int]]) -> tuple[Message, int] | None:
        for message, seq in reversed(left):
            if message.role == "user" and seq:
                return self._original(message, seq), seq
        return None

    def _original(self, message: Message, seq: int) -> Message:
        return self._anchor[1] if self._anchor is not None and self._anchor[0] == seq else message

    def _leave(self, left: list[tuple[Message, int]], anchor: tuple[Message, int] | None) -> None:
        gone: list[Entry] = []
        for message, seq in left:
            if not seq or (anchor is not None and seq == anchor[1]):
                continue
            gone.append(self.entry(message, seq))
            self._statuses.pop(seq, None)
            self.gone += 1
            self.first = min(self.first or seq, seq)
            self.upto = max(self.upto, seq)
        self.past = (*self.past, *gone)[-PAST_ENTRIES:]

    def _entries(self) -> list[tuple[Message, int]]:
        """Return the messages behind the system message."""
        entries = list(zip(self.transcript, self.transcript.seqs, strict=True))
        return entries[1:] if entries and entries[0][0].role == "system" and not entries[0][1] else entries

    def _rewrite(self, entries: list[tuple[Message, int]]) -> None:
        if self._system:
            system = Message("system", self._system)
            cut = self._system_cut
            if cut is not None:
                system = Message("system", cut_text(self._system, cut.head, cut.tail, "the settings"))
            entries = [(system, 0), *entries]
        self.transcript = Transcript([message for message, _ in entries], [seq for _, seq in entries])
        self.marks = []
        self._asked = None

    def copy(self) -> History:
        """Return a copy that can be compacted for trial."""
        copied = copy(self)
        copied.segments = self.segments.copy()
        copied._statuses = self._statuses.copy()
        return copied

    def repair(self) -> None:
        """Make imported messages valid for strict endpoints: each call gets a result, each result its call."""
        repaired, faults = _repair(self._entries())
        if faults:
            self.faults = tuple(faults)
            self._rewrite(repaired)

    def summary_started(self, event: SummaryStarted) -> None:
        """Take in that a summary is under way."""
        self.summarizing[event.kind] = event
        self.summarized[event.kind] = max(event.last, self.summarized.get(event.kind, 0))

    def stale(self, event: SummaryStarted | SummaryEnded) -> bool:
        """Tell whether what a summary covers is no part of the past any more."""
        return event.kind != "rolling" and not (self.first and self.first <= event.first)

    def summary_ended(self, event: SummaryEnded) -> None:
        """Take in a summary, or that there will be none."""
        self.summarizing.pop(event.kind, None)
        if event.status == "cancelled":
            self.summarized[event.kind] = min(event.first - 1, self.summarized.get(event.kind, 0))
        if event.status == "ok" and not self.stale(event):
            kept = self.summaries.setdefault(event.kind, [])
            kept.append(event)
            del kept[:-PAST_SUMMARIES]


def _most(message: Message) -> int:
    """Return more tokens than a message can have; images count without end."""
    if message.images:
        return 1 << 40
    calls = "".join(call.id + call.name + call.arguments for call in message.calls)
    text = message.content + message.thinking + message.raw + message.call + calls
    return len(text.encode("utf-8", "surrogatepass")) + 64 + 32 * len(message.calls)


def _short(message: Message, seq: int) -> Message:
    content = cut_text(message.content, PAST_CHARACTERS * 3 // 4, PAST_CHARACTERS // 4, handle_of_event(seq))
    if message.images:
        content = _joined(content, f"{WRAPPED} {len(message.images)} image(s)")
    calls = tuple(
        call if len(call.arguments) <= PAST_CHARACTERS else ToolCall(call.id, call.name, cut_arguments(call, 200, ""))
        for call in message.calls
    )
    thinking = message.thinking[:PAST_CHARACTERS] if not content else ""
    return Message(message.role, content, thinking=thinking, calls=calls, call=message.call)


def _cut_all(entries: list[tuple[Message, int]], cuts: tuple[Cut, ...]) -> list[tuple[Message, int]]:
    by_seq: dict[int, list[Cut]] = {}
    for cut in cuts:
        by_seq.setdefault(cut.seq, []).append(cut)
    return [(reduce(cut_message, by_seq.get(seq, ()), message), seq) for message, seq in entries]


def cut_message(message: Message, cut: Cut) -> Message:
    """Return a message shortened as a cut says, with a line that tells where the rest is."""
    handle = handle_of_event(cut.seq)
    match cut.part:
        case "content":
            content = cut_text(message.content, cut.head, cut.tail, handle)
            return msgspec.structs.replace(message, content=content, raw="", thinking="", signed="")
        case "arguments":
            calls = tuple(ToolCall(call.id, call.name, cut_arguments(call, cut.head, handle)) for call in message.calls)
            return msgspec.structs.replace(message, calls=calls, raw="", thinking="", signed="")
        case "images":
            if not message.images:
                return message
            line = f"{WRAPPED} {len(message.images)} image(s) left out; recall {handle}"
            return msgspec.structs.replace(message, content=_joined(message.content, line), images=())


def _joined(text: str, line: str) -> str:
    return f"{text}\n{line}" if text else line


def cut_arguments(call: ToolCall, head: int, handle: str) -> str:
    """Return the arguments of a call as a valid JSON object whose long texts are cut to `head` characters.

    Short ones come back as they are.
    """
    if len(call.arguments) <= head + 60:
        return call.arguments
    try:
        arguments: Any = msgspec.json.decode(call.arguments)
    except (msgspec.DecodeError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        return msgspec.json.encode({"_wrapped": cut_text(call.arguments, head, 0, handle)}).decode()
    room = max(8, 4096 // max(1, head)) if head else 8
    cut: dict[str, Any] = {}
    for name, value in arguments.items():  # pyright: ignore[reportUnknownVariableType] # whatever JSON holds
        if len(cut) >= room:
            cut["_wrapped"] = f"{WRAPPED} {len(arguments) - len(cut)} more"  # pyright: ignore[reportUnknownArgumentType]
            break
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        cut[str(name)[:64]] = value if len(text) <= head + 60 else cut_text(text, head, 0, handle)  # pyright: ignore[reportUnknownArgumentType]
    return call.arguments if cut == arguments else msgspec.json.encode(cut).decode()


def _repair(entries: list[tuple[Message, int]]) -> tuple[list[tuple[Message, int]], list[str]]:
    out: list[tuple[Message, int]] = []
    faults: list[str] = []
    waiting: dict[str, int] = {}
    results: dict[str, tuple[Message, int]] = {}

    def settle() -> None:
        faults.extend(f"call {id} of event {seq} had no result" for id, seq in waiting.items() if id not in results)
        if results.keys() == waiting.keys() and list(results) != list(waiting):
            faults.append(f"results of event {next(iter(waiting.values()))} stood in another order than its calls")
        # Strict endpoints want the results in the order of the calls.
        none = f"{WRAPPED} no result was kept"
        out.extend(results.get(id) or (Message("tool", none, call=id), seq) for id, seq in waiting.items())
        waiting.clear()
        results.clear()

    for message, seq in entries:
        if message.role == "tool":
            if message.call in waiting and message.call not in results:
                results[message.call] = (message, seq)
            else:
                faults.append(f"the result of event {seq} had no call")
            continue
        settle()
        if message.role == "assistant" and not message.content and not message.calls:
            faults.append(f"the reply of event {seq} was empty")
            continue
        unique = tuple({call.id: call for call in message.calls}.values())
        if len(unique) < len(message.calls):
            faults.append(f"two calls of event {seq} had one id")
        waiting.update((call.id, seq) for call in unique)
        out.append((msgspec.structs.replace(message, calls=unique), seq))
    settle()
    return out, faults
