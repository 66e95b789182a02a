"""The bound of a request in tokens, and the ladder that brings it under the window.

The bound is never below the truth: bytes, or exact counts where the tokenizer is known, with what chat templates
add; the provider's own count replaces it for exactly what it counted. It sends nothing and records nothing: a
compaction that it returns is an event for the log.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import msgspec

from stepwell.agent.ladder import MARKER, RUNGS, SLACK, Ladder
from stepwell.agent.refusals import named_window
from stepwell.events import ContextCompacted
from stepwell.messages import Message, ToolSpecs, Transcript
from stepwell.models.base import ModelRequest
from stepwell.models.dialects.base import Dialect
from stepwell.specs import ContextSpec
from stepwell.state.history import History, Mark
from stepwell.tokens import Allowance, Counter, trusted

TARGET = 0.7
"""Part of the history budget that a compaction leaves in use at most."""
IMAGE_LINE = 48
"""Tokens of the line that stands for an image where the model does not see."""
HUGE = 4_000_000
"""Characters of a message above which it counts as its bytes: no window holds them, and counting would take seconds."""
EACH = 64
"""Tokens that a message has beside its texts at most."""
FAULTLESS = 0.9
"""Part of the refused request's bound that is believed to fit where the endpoint names no window."""

_BYTES = Counter()


class Meter:
    """Counts messages as one model would.

    Args:
        tokenizer: Its tokenizer, where it is known.
        image_tokens: Its rule for images.
        images: Whether it is shown images.
        thinking: Whether thinking is sent back to it.
    """

    def __init__(self, tokenizer: str, image_tokens: str, images: bool, thinking: bool) -> None:
        self.counter = Counter(tokenizer, image_tokens)
        self._images, self._thinking, self.ready = images, thinking, False
        self.count: Callable[[Message], int] = self._count
        self.count_whole: Callable[[Message], int] = self._count_whole
        self.count_in_text: Callable[[Message], int] = self._count_in_text

    def load(self) -> None:
        """Load the tables of an exact count; call it in a thread."""
        self.ready = self.counter.exact or True

    def _count(self, message: Message) -> int:
        if len(message.content) > HUGE or any(len(call.arguments) > HUGE for call in message.calls):
            return _BYTES.message(message, thinking=self._thinking) + MARKER
        if not message.images:
            return self.counter.message(message, thinking=self._thinking)
        images = sum(map(self.counter.image, message.images)) if self._images else IMAGE_LINE * len(message.images)
        bare = Message(message.role, message.content, thinking=message.thinking, calls=message.calls, call=message.call)
        # Images of a result stand in a message of their own behind it.
        return self.counter.message(bare, thinking=self._thinking) + images + MARKER

    def _count_whole(self, message: Message) -> int:
        """Return the tokens of a message with what only a dialect sends of it."""
        return self._count(message) + self.counter.text(message.raw or message.thinking)

    def _count_in_text(self, message: Message) -> int:
        """Return the bound of a message inside a dialect's prompt, where marking off can double a text."""
        texts = [message.content, message.raw, *(call.name + call.arguments for call in message.calls)]
        images = sum(map(self.counter.image, message.images)) if self._images else 0
        return 2 * sum(map(_BYTES.text, texts)) + 64 + images


@cache
def meter(tokenizer: str, image_tokens: str, images: bool, thinking: bool) -> Meter:
    """Return the meter for these facts, the same each time: transcripts keep their counts under it."""
    return Meter(tokenizer, image_tokens, images, thinking)


class Budget:
    """What a request may hold.

    Args:
        spec: Facts and settings of the run.
        window: The model's window in tokens, as far as is known by now.
        dialect: What renders the request, or None.
        language: Of the digest: `en` or `zh`.
        offered: The run's own tools, without or with the one that reads handles; None where they are always the same.
    """

    def __init__(
        self,
        spec: ContextSpec,
        window: int,
        dialect: Dialect | None = None,
        language: str = "en",
        offered: Callable[[bool], ToolSpecs] | None = None,
    ) -> None:
        self._offered, self._language = offered, language
        self._measured: tuple[ToolSpecs | None, int] = (None, 0)
        facts = (spec.image_tokens, spec.images, spec.thinking_back)
        self._cheap, self.meter = meter("", *facts), meter(spec.tokenizer, *facts)
        self._dialect, self.spec, self.window = dialect, spec, window
        most = min(window, spec.max_tokens or window)
        self.room = most - min(spec.reserve, most // 2)

    @property
    def loads(self) -> bool:
        """Whether the next exact count has to load tables first, which takes most of a second."""
        return bool(self.spec.tokenizer) and not self.meter.ready

    def surely_fits(self, request: ModelRequest, history: History) -> bool:
        """Tell whether a request is inside the window by its bytes, which cost nothing to count."""
        if self._dialect is None and not request.messages.images and not request.tail and not history.excess:
            # Far inside: no character has more than four bytes, and half of the room is left for what a template adds.
            if request.tools is not self._measured[0]:
                self._measured = (request.tools, self._fixed(request, history, self._cheap))
            most = 4 * request.messages.characters + EACH * len(request.messages) + self._measured[1]
            if 2 * (most + _format(request)) <= self.room:
                return True
        return self._bound(request, history, self._cheap) <= self.room

    def fits(self, request: ModelRequest, history: History) -> bool:
        """Tell whether a request is surely inside the window."""
        # The tables of an exact count take time and memory.
        if self.surely_fits(request, history):
            return True
        return self.meter is not self._cheap and self._bound(request, history, self.meter) <= self.room

    def may_fit(self, request: ModelRequest, history: History) -> bool:
        """Tell whether a request that is over by the bound can still be inside the window.

        It holds for fixed texts and tools that no compaction makes smaller, under a tokenizer that is not known:
        few need more than half a token for a byte. It holds as well where only counts of the provider speak against
        it: one that was wrong would end every run of a thread. The endpoint has the last word.
        """
        if not self.spec.tokenizer and self._bound(request, history, self._cheap) <= 2 * self.room:
            return True
        uncounted = history.copy()
        uncounted.marks, uncounted.excess = [], 0
        return self.bound(request, uncounted) <= self.room

    def bound(self, request: ModelRequest, history: History) -> int:
        """Return the tokens that a request can have at most, without the reply."""
        return self._bound(request, history, self.meter)

    def fixed(self, request: ModelRequest, history: History) -> int:
        """Return the tokens of a request besides its conversation and system message."""
        return self._fixed(request, history, self.meter)

    def _fixed(self, request: ModelRequest, history: History, by: Meter) -> int:
        tokens = Allowance().request + history.excess
        if self._dialect is not None:
            empty = ModelRequest(Transcript(), request.tools, request.settings, request.model, request.tail)
            return tokens + sum(map(by.count, self._dialect.render(empty).all))
        return tokens + _tools(request.tools, by) + _format(request) + _tail(request, by)

    def _bound(self, request: ModelRequest, history: History, by: Meter) -> int:
        if self._dialect is not None:
            return self._bound_in_text(request, history, by)
        sums = request.messages.sums(by.count)
        system = sums[1] if history.system else 0
        most = self._fixed(request, history, by) + system
        told = sums[-1] - system - self._known(history, sums)
        bound = self._besides(request, history, most, by) + told + self._growth(request, history, by)
        mark = self._mark(request, history, most)
        if mark is None:
            return bound
        # The provider counted tools and all: only what is new comes on top.
        new = sums[-1] - sums[mark.messages] + self._growth(request, history, by, mark.messages)
        return min(bound, self._counted(request, history, mark, by) + new)

    def _growth(self, request: ModelRequest, history: History, by: Meter, first: int = 0) -> int:
        """Return what the messages from `first` on may take more than allowed for, as far as the last counts tell."""
        exact = [mark for mark in history.marks[-3:] if mark.exact]
        if not exact:
            return 0
        above, messages = self._above(request, history, exact[-1], by), exact[-1].messages
        if len(exact) > 1:
            above -= self._above(request, history, exact[-2], by)
            messages -= exact[-2].messages
        elif above > 0:
            # All that a template adds may stand with the messages.
            above += Allowance().request + Allowance().request_with_tools
        grown = -(-max(0, above) * (len(request.messages) - first) // max(1, messages))
        return grown if first else max(0, grown - history.excess)

    def _believes(self, history: History, most: int) -> bool:
        """Tell whether the provider is believed; nothing else is left where what is fixed may fill the window."""
        return history.proved or most > self.room

    def _besides(self, request: ModelRequest, history: History, most: int, by: Meter) -> int:
        """Return the tokens of all but the conversation, by the provider's first count where that is less."""
        mark = history.first_mark
        if mark is None or self._dialect is not None or history.excess or not self._believes(history, most):
            return most
        size = self._cheap.counter.text(history.system) + self._cheap.counter.tools(request.tools)
        if not trusted(mark.tokens, size):
            return most
        return min(most, self._counted(request, history, mark, by))

    def _counted(self, request: ModelRequest, history: History, mark: Mark, by: Meter) -> int:
        """Return what the provider counted, with what stands beside the conversation now and did not then."""
        return mark.tokens + self._more_tools(request, history, mark, by) + _format(request) + _tail(request, by)

    def _more_tools(self, request: ModelRequest, history: History, mark: Mark, by: Meter) -> int:
        if self._offered is None:
            return 0 if mark.handles == history.handles else _tools(request.tools, by)
        had = self._offered(mark.handles)
        if request.tools is had:
            return 0
        more = ToolSpecs(tool for tool in request.tools if tool not in had)
        return _tools(more, by) if more else 0

    def _mark(self, request: ModelRequest, history: History, most: int) -> Mark | None:
        """Return the newest count that can be believed."""
        mark = next((mark for mark in reversed(history.marks) if mark.own), None)
        if mark is None or not self._believes(history, most):
            return None
        return mark if trusted(mark.tokens, request.messages.sums(self._cheap.count)[mark.messages]) else None

    def _known(self, history: History, sums: list[int]) -> int:
        """Return by how much the provider's counts of parts are below the bound of these parts."""
        if not history.segments or not history.proved:
            return 0
        sizes = history.transcript.sums(self._cheap.count)
        at = {seq: index for index, seq in enumerate(history.transcript.seqs) if seq}
        less = 0
        for seq, messages, tokens in history.segments:
            start = at.get(seq, -1)
            if start >= 0 and trusted(tokens, sizes[start + messages] - sizes[start]):
                less += max(0, sums[start + messages] - sums[start] - tokens - SLACK)
        return less

    def _bound_in_text(self, request: ModelRequest, history: History, by: Meter) -> int:
        assert self._dialect is not None
        rendered = self._dialect.render(request)
        whole = Allowance().request + history.excess + sum(map(by.count, rendered.all))
        mark = next((mark for mark in reversed(history.marks) if mark.own), None)
        if mark is None or not (history.proved or self._fixed(request, history, by) > self.room):
            return whole
        if not trusted(mark.tokens, self._cheap.count(rendered.messages[0]) * mark.messages // len(request.messages)):
            return whole
        sums = request.messages.sums(by.count_in_text)
        new = sums[-1] - sums[mark.messages] + sum(map(by.count_in_text, request.tail))
        return min(whole, mark.tokens + new + 2 * self._more_tools(request, history, mark, self._cheap))

    def _above(self, request: ModelRequest, history: History, mark: Mark, by: Meter) -> int:
        """Return by how much a count of the transcript alone is above its bound; below 0 where it is not."""
        if not mark.exact:
            return 0
        tools = _tools(request.tools, by) - self._more_tools(request, history, mark, by)
        return mark.tokens - Allowance().request - tools - request.messages.sums(by.count)[mark.messages]

    def excess(self, request: ModelRequest, history: History) -> int:
        """Return by how much the provider counted more than the bound of what it counted."""
        if self._dialect is not None:
            return history.excess
        return max([history.excess, *(self._above(request, history, mark, self.meter) for mark in history.marks)])

    def compact(self, make: Callable[[History], ModelRequest], history: History) -> ContextCompacted | None:
        """Return the compaction that brings the next request under the window, or as near as can be.

        The lowest rung is taken that leaves `TARGET` of the history budget in use: of what the room for a request
        has besides tools, the system message and the request's own last messages. None if nothing makes the request
        smaller.

        Args:
            make: Builds the request over a history.
            history: The history as it is.
        """
        request = make(history)
        before, excess = self.bound(request, history), self.excess(request, history)
        fixed = self._fixed(request, history, self.meter) + excess - history.excess
        system = request.messages.sums(self.meter.count)[1] if history.system else 0
        besides = self._besides(request, history, fixed + system, self.meter)
        count = self.meter.count if self._dialect is None else self.meter.count_whole
        ladder = Ladder(history, self.spec, self._language, count, self.meter.counter)
        smallest = None
        # Counts of the provider go with what they counted, so what is compared does without.
        least = self._bound_after(make, history, None)
        for number, rung in enumerate(RUNGS):
            most = system
            if rung.system < 1 and besides == fixed + system:
                most = min(system, max(ladder.least_system, int((self.room - fixed) * rung.system)))
            room = max(0, self.room - besides + system - most)
            plan = ladder.plan(rung, room, most if most < system else None)
            if plan is None:
                continue
            plan = msgspec.structs.replace(plan, rung=number, before=before, excess=excess)
            plan = msgspec.structs.replace(plan, after=self._bound_after(make, history, plan))
            if plan.after <= self.room - (1 - TARGET) * room:
                return plan
            if plan.after < least:
                smallest, least = plan, plan.after
        return smallest

    def _bound_after(
        self, make: Callable[[History], ModelRequest], history: History, plan: ContextCompacted | None
    ) -> int:
        """Return the bound of the request after a compaction; None only lets go of the provider's last counts."""
        trial = history.copy()
        trial.marks = []
        if plan is not None:
            trial.compact(plan)
        return self.bound(make(trial), trial)

    def learned(self, message: str, bound: int) -> int:
        """Return what window an endpoint's refusal teaches.

        Args:
            message: The endpoint's words; a window that they name counts where it is below what was believed.
            bound: The bound of the refused request, in tokens.
        """
        named, pressed = named_window(message), int(bound * FAULTLESS) + self.spec.reserve
        if named < bound + self.spec.reserve and 0 < named < self.window:
            return named
        # A window that would have held the request teaches nothing, so the next request is made smaller.
        return min(self.window - 1, pressed)


def _tools(tools: ToolSpecs, by: Meter) -> int:
    return Allowance().request_with_tools + by.counter.tools(tools) if tools else 0


def _format(request: ModelRequest) -> int:
    wanted = request.settings.response_format
    return 0 if wanted is None else len(str(wanted).encode())


def _tail(request: ModelRequest, by: Meter) -> int:
    return sum(map(by.count, request.tail))
