"""The ladder of compactions: what leaves the view and what is cut, the harder the higher the rung.

Each rung is a plan made from the history alone, so the same history gives the same plan. Whether the plan makes
enough room, and which rung is tried, is `budget`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import msgspec

from stepwell.agent.past import digest_of, superseded
from stepwell.events import ContextCompacted, Cut
from stepwell.headings import heading
from stepwell.messages import Message
from stepwell.specs import ContextSpec
from stepwell.state.history import History, cut_message
from stepwell.tokens import Counter, trusted

SLACK = 8
"""Tokens added to a part that is known as the difference of two counts."""
MARKER = 64
"""Tokens of the line that marks a cut."""
BEGINNING = 24
"""Tokens of the user's last message and of the system message that stay however little room there is."""
PINNED_PART = 3
"""Pinned facts and what follows them stay where they take at most this fraction of the window."""
LONGEST_TOKEN = 64
"""Characters of a token; longer ones are rare and may be missed where a text is cut."""


class Rung(NamedTuple):
    """How hard a compaction presses, in parts of the history budget.

    Args:
        keep: For the newest steps, which stay as they are.
        part: For a single text among them.
        digest: For what stands for the older ones.
        user: For the user's last message.
        images: For images.
        system: For the system message, in parts of what tools leave of the window; 1 leaves it alone.
    """

    keep: float
    part: float
    digest: float
    user: float
    images: float
    system: float = 1.0


RUNGS = (
    Rung(0.35, 0.12, 0.14, 0.18, 0.25),
    Rung(0.20, 0.08, 0.10, 0.14, 0.15),
    Rung(0.10, 0.04, 0.06, 0.10, 0.05),
    Rung(0.00, 0.02, 0.04, 0.08, 0.00),
    Rung(0.00, 0.02, 0.02, 0.10, 0.00, 0.25),
    Rung(0.00, 0.00, 0.00, 0.00, 0.00, 0.10),
)


class Placed(msgspec.Struct, frozen=True):
    """A message of the view.

    Args:
        message: The message, without a digest.
        seq: Number of the event that brought it.
        tokens: What it takes.
    """

    message: Message
    seq: int
    tokens: int


class Ladder:
    """The plans for one history.

    Args:
        history: As it is; nothing of it is changed.
        spec: Settings of the run.
        language: Of the digest: `en` or `zh`.
        count: Counts the tokens of a message.
        counter: Counts the tokens of a text.
    """

    def __init__(
        self, history: History, spec: ContextSpec, language: str, count: Callable[[Message], int], counter: Counter
    ) -> None:
        self._history, self._spec, self._language = history, spec, language
        self._count, self._counter = count, counter
        self._entries = self._placed()
        self._groups = _groups(self._entries)
        last = _last_user(self._entries)
        self._last_user = last.seq if last else 0
        self._old = superseded(history, [(each.message, each.seq) for each in self._entries])
        self._known = self._known_groups()
        self._pinned = self._pinned_tokens()
        self.least_system = self._pinned + 2 * MARKER + BEGINNING if self._pinned else 0
        """Tokens of a system message that is cut, at least."""
        self._cuts: dict[int, list[Cut]] = {}

    def _pinned_tokens(self) -> int:
        """Return the tokens at the end of the system message that stay: the pinned facts and what follows them."""
        system = self._history.system
        at = system.rfind(f"# {heading('pinned', self._language)}\n- ")
        tokens = self._counter.text(system[at:]) + SLACK if at >= 0 else 0
        # Pins alone have a bound; what is longer is no section of pins, or has a goal behind it that can be cut.
        return tokens if tokens <= self._spec.window // PINNED_PART else 0

    def plan(self, rung: Rung, room: int, system: int | None) -> ContextCompacted | None:
        """Return what a rung would do, or None if nothing.

        Args:
            rung: How hard it presses.
            room: Tokens for the history.
            system: Tokens for the system message; None leaves it alone.
        """
        self._cuts = {}
        if system is not None:
            # Whatever the system message is cut to is cut of its whole text.
            self._cut_text(Message("system", self._history.system), 0, system, BEGINNING, self._pinned)
        for cut in self._old:
            self._cut(cut)
        self._evict(int(room * rung.images))
        left, stays = self._split(rung, room)
        leaves = [entry for group in left for entry in group]
        anchor = None if stays and stays[0][0].message.role == "user" else _last_user(leaves)
        if anchor is not None:
            self._shorten(anchor, int(room * rung.user))
        kept = {each.seq for group in stays for each in group} | {0, anchor.seq if anchor else 0}
        cuts = tuple(cut for seq, found in self._cuts.items() if seq in kept for cut in found)
        out = [entry for entry in leaves if entry is not anchor]
        if not out and not cuts:
            return None
        upto = max((each.seq for each in leaves), default=self._history.upto)
        return ContextCompacted(upto, self._digest(out, int(room * rung.digest)), cuts)

    def _digest(self, out: Sequence[Placed], most: int) -> str:
        if not out and not self._history.gone:
            return ""
        spec = self._spec
        most = min(most, spec.return_tokens)
        numbered = [(each.message, each.seq) for each in out]
        return digest_of(self._history, numbered, most, self._counter, spec.call_tokens, self._language)

    def _split(self, rung: Rung, room: int) -> tuple[list[list[Placed]], list[list[Placed]]]:
        """Return the groups that leave and the newest, which stay."""
        free = int(room * rung.keep)
        stays = 0
        for group in reversed(self._groups):
            # The newest step stays on the first rungs however many results it has.
            part = rung.part if stays else min(rung.part, rung.keep * 0.9 / len(group))
            before = {each.seq: list(self._cuts.get(each.seq, ())) for each in group}
            tokens = 0
            for each in group:
                share = max(part, rung.user) if each.seq == self._last_user else part
                tokens += self._shorten(each, int(room * share))
            tokens = min(tokens, self._known.get(group[0].seq, tokens))
            if tokens > free:
                self._cuts.update(before)
                break
            free -= tokens
            stays += 1
        at = len(self._groups) - stays
        return self._groups[:at], self._groups[at:]

    def _placed(self) -> list[Placed]:
        """Return what is in the view, counted before where it was."""
        transcript, entries = self._history.transcript, self._history.entries()
        sums, first = transcript.sums(self._count), len(transcript) - len(entries)
        return [
            Placed(message, seq, sums[at + 1] - sums[at] if transcript[at] is message else self._count(message))
            for at, (message, seq) in enumerate(entries, first)
        ]

    def _known_groups(self) -> dict[int, int]:
        """Return the tokens of groups that the provider counted."""
        sizes = {group[0].seq: (len(group), sum(each.tokens for each in group)) for group in self._groups}
        return {
            seq: tokens + SLACK
            for seq, messages, tokens in self._history.segments
            if self._history.proved and seq in sizes and sizes[seq][0] == messages and trusted(tokens, sizes[seq][1])
        }

    def _shorten(self, entry: Placed, most: int) -> int:
        """Cut what is too long of a message and return its tokens then."""
        seq, most = entry.seq, max(MARKER, most)
        message, tokens = self._shown(entry)
        if tokens <= most:
            return tokens
        if self._is_over(message.content, most):
            self._cut_text(message, seq, most, BEGINNING if seq == self._last_user else 0)
        if self._is_over("".join(call.arguments for call in message.calls), most):
            self._cut(Cut(seq, max(16, most // (16 * len(message.calls))), 0, "arguments"))
        if seq not in self._cuts and (message.raw or message.thinking):
            # What the model wrote besides stands in a dialect's prompt; any cut drops it.
            self._cut(Cut(seq, len(message.content)))
        return self._shown(entry)[1]

    def _is_over(self, text: str, most: int) -> bool:
        return len(text) > LONGEST_TOKEN * most or self._counter.text(text) > most

    def _shown(self, entry: Placed) -> tuple[Message, int]:
        """Return a message as it is by now, and its tokens."""
        cuts = self._cuts.get(entry.seq)
        if not cuts:
            return entry.message, entry.tokens
        message = reduce(cut_message, cuts, entry.message)
        return message, self._count(message)

    def _cut_text(self, message: Message, seq: int, most: int, least: int = 0, last: int = 0) -> None:
        room = max(0, most - 2 * MARKER)
        tail = max(last, room // 3)
        head = max(least, min(room * 2 // 3, room - tail))
        text = message.content
        first = self._counter.cut(text[: LONGEST_TOKEN * head], head)
        last = self._counter.cut_tail(text[len(text) - min(len(text), LONGEST_TOKEN * tail) :], tail)
        self._cut(Cut(seq, first, last))

    def _cut(self, cut: Cut) -> None:
        self._cuts.setdefault(cut.seq, []).append(cut)

    def _evict(self, room: int) -> None:
        """Drop the oldest images while they take more than their part."""
        for each in reversed(self._entries):
            if each.message.images:
                room -= sum(map(self._counter.image, each.message.images))
                if room < 0:
                    self._cut(Cut(each.seq, part="images"))


def _groups(entries: list[Placed]) -> list[list[Placed]]:
    """Return messages such that a reply stands with the results of its calls."""
    groups: list[list[Placed]] = []
    for entry in entries:
        if entry.message.role == "tool" and groups:
            groups[-1].append(entry)
        else:
            groups.append([entry])
    return groups


def _last_user(entries: Sequence[Placed]) -> Placed | None:
    return next((entry for entry in reversed(entries) if entry.message.role == "user"), None)
