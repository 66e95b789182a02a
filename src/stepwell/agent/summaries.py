"""Summaries made by a model in the background: of calls, of thoughts, and of what the long-term context outgrew.

Only what has left the view is summarised, each part once, and no step waits for it: until a summary is there the
digest shows the entries themselves. It changes no history; a summary is an event that the next compaction uses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing, suppress
from functools import cache, partial
from typing import Any, Final

import msgspec

from stepwell import prompts
from stepwell.agent.accounts import Charge, Metered, Purse, terms_of, terms_of_profile
from stepwell.agent.budget import Budget
from stepwell.agent.past import entries_of
from stepwell.agent.replies import ReplySchema, Value, split, validate
from stepwell.contexts import LongTermContext, cut_text
from stepwell.errors import ConfigError, LimitReached, StoreError
from stepwell.events import SummaryEnded, SummaryStarted
from stepwell.log import Log
from stepwell.messages import Message, Transcript, Usage, clean
from stepwell.models.base import Model, ModelProfile, ModelRequest, Settings
from stepwell.rendering import LEAST_DIGEST, LINE, PastEntry, conclusion_text, digest, entry_text, long_term
from stepwell.specs import SummaryKind
from stepwell.state.agent import AgentState
from stepwell.tokens import Allowance, Counter

LEAST_ENTRIES = 6
"""Entries that make a summary worth its price."""
LONG_TERM_PART = 0.25
"""Part of a request that the user's messages and past tasks may take before the oldest are rolled into a summary."""
MOST_CHARACTERS = 60_000
"""Characters that one summary is made of at most."""

LONGEST = 12_000
"""Characters of a reply above which its middle is left out."""
LONGEST_REPLY = 4096
"""Tokens of a reply that are paid for under a limit of money."""
REPLY_PART = 4
"""A summary and what asks for it leave at least this fraction of the model's window for the reply."""

_ROLLING: Final = "rolling"
_STRING: dict[str, Any] = {"type": "string"}
_SELECTION: tuple[str, str, dict[str, Any]] = (
    "actions_selection",
    "What the calls were for, and which matter.",
    {
        "type": "object",
        "properties": {"intentions": _STRING, "critical_actions": {"type": "array", "items": {"type": "integer"}}},
        "required": ["intentions"],
    },
)
_SUMMARY: tuple[str, str, dict[str, Any]] = (
    "working_context_summary",
    "What was done, and what should be done otherwise.",
    {
        "type": "object",
        "properties": {"summary": _STRING, "self_examination": {"anyOf": [_STRING, {"type": "null"}]}},
        "required": ["summary"],
    },
)

_log = logging.getLogger("stepwell.agent")


class Summaries:
    """The summaries of one run.

    Args:
        model: Who makes them.
        model_name: The name sent to the endpoint; empty for the model's own.
        other: Name of the model in the settings, where it is another than the run's: what it costs is a fact of its
            own; empty for the run's own model.
    """

    def __init__(self, model: Model, model_name: str = "", other: str = "") -> None:
        self._model, self._model_name, self._other = model, model_name, other
        self._tasks: dict[SummaryKind, asyncio.Task[None]] = {}
        self._gave_up: frozenset[SummaryKind] = frozenset()
        """Kinds that are not tried again: the same would be asked, or nothing fits the model's window."""

    def task(self, kind: SummaryKind) -> asyncio.Task[None] | None:
        """Return the task that makes a summary now, or None."""
        return self._tasks.get(kind)

    @staticmethod
    def concerns(state: AgentState) -> bool:
        """Tell whether there is anything that could be summarised, which costs nothing to know."""
        known = state.longterm
        return bool(state.history.gone or state.history.summarizing or known.user_message or known.past_tasks)

    async def start(self, log: Log, budget: Budget, purse: Purse | None = None) -> None:
        """Start the summaries that are due; one of a kind at a time.

        Args:
            log: The agent's.
            budget: What its requests may hold.
            purse: What they are paid from; one that cannot be paid is not made.
        """
        kinds = budget.spec.summarize
        if kinds is None:
            return
        for kind in (*kinds, _ROLLING):
            if kind not in self._tasks and kind not in self._gave_up:
                await self._end_left_open(log, kind)
                await self._start(log, kind, budget, purse)

    async def settle(self) -> None:
        """Wait for the summaries under way."""
        if self._tasks:
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def close(self) -> None:
        """Give up the summaries under way; what the log says of them is the caller's business."""
        if self._tasks:
            for task in self._tasks.values():
                task.cancel()
            await self.settle()

    async def _end_left_open(self, log: Log, kind: SummaryKind) -> None:
        """End a summary whose maker is gone: it is made again, by us and once more."""
        found = log.state.history.summarizing.get(kind)
        if found is not None:
            await log.record(
                SummaryEnded(
                    kind, found.first, found.last, "cancelled", detail="the process stopped", cost=found.reserved
                )
            )

    async def _start(self, log: Log, kind: SummaryKind, budget: Budget, purse: Purse | None) -> None:
        room = _Room(self._model.profile, budget)
        question = _rolling(log.state, budget, room) if kind == _ROLLING else _of_past(log.state, kind, room)
        if question is None:
            return
        if not question.text:
            self._gave_up = self._gave_up.union((kind,))
            return
        charge = None
        if purse is not None:
            try:
                charge = self._charge(log, purse, question.text, room)
            except (LimitReached, ConfigError):
                return  # the run can do without, and ends by itself where it cannot be paid either
            started = msgspec.structs.replace(question.started, reserved=charge.reserved)
            question = msgspec.structs.replace(question, started=started)
            charge.reserve()
        try:
            await log.record(question.started)
        except StoreError:
            if charge is not None:
                charge.release()
            raise
        task = self._tasks[kind] = asyncio.create_task(self._make(log, question, charge))
        task.add_done_callback(lambda _: self._tasks.pop(kind, None))

    def _charge(self, log: Log, purse: Purse, text: str, room: _Room) -> Charge:
        run = log.state.run
        assert run is not None
        terms = terms_of_profile(self._other, self._model.profile) if self._other else terms_of(run.spec)
        tokens = room.tokens(text) + Allowance().request + Allowance().message
        longest = min(LONGEST_REPLY, terms.max_output or LONGEST_REPLY)
        return purse.charge(log, run, terms, tokens, longest, longest)

    async def _make(self, log: Log, question: _Question, charge: Charge | None) -> None:
        started = question.started
        model = self._model if charge is None else Metered(self._model, charge)
        try:
            await log.committed()  # what is paid for is known to have begun, also after a crash
        except StoreError:
            # Somebody else came first, or the store failed: nothing was paid, and the run meets it by itself.
            if charge is not None:
                charge.release()
            return
        try:
            ended = await self._ask(question, model, charge)
        except Exception as error:  # the boundary of a task that nobody waits for: its failure is an event
            _log.exception("a summary failed")
            ended = SummaryEnded(started.kind, started.first, started.last, "failed", detail=type(error).__name__)
            ended = msgspec.structs.replace(ended, cost=started.reserved)
        else:
            if charge is not None and isinstance(model, Metered):
                ended = msgspec.structs.replace(ended, cost=model.cost())
        history = log.state.history
        if history.summarizing.get(started.kind) != started:
            return  # the run ended, or another process took it over
        if ended.status == "failed" and started.kind == _ROLLING:
            self._gave_up = self._gave_up.union((started.kind,))
        if history.stale(started):
            ended = msgspec.structs.replace(ended, status="stale", text="", self_examination="", critical=())
        # The log keeps the fact when somebody else came first, and the run meets a store that fails by itself.
        with suppress(StoreError):
            await log.record(ended)
            if charge is not None:
                await charge.settle(log, ended.cost, ended.usage)

    async def _ask(self, question: _Question, model: Model, charge: Charge | None) -> SummaryEnded:
        text: list[str] = []
        usage: Usage | None = None
        kind, first, last = question.started.kind, question.started.first, question.started.last
        settings = Settings(max_tokens=charge.max_tokens) if charge is not None else None
        request = ModelRequest(Transcript([Message("user", question.text)]), settings=settings, model=self._model_name)
        async with aclosing(model.stream(request)) as deltas:
            async for delta in deltas:
                text.append(delta.text)
                usage = delta.usage or usage
                if delta.failure is not None and delta.stop is not None:
                    return SummaryEnded(kind, first, last, "failed", detail=clean(delta.failure.message), usage=usage)
                if delta.failure is not None:
                    text.clear()  # it is asked again, and what came so far is void
        said = _short(clean("".join(text)).strip())
        numbers = question.numbers
        if kind == _ROLLING:
            status = "ok" if said else "failed"
            return SummaryEnded(kind, first, last, status, said, detail="" if said else "it is empty", usage=usage)
        schema = _form(kind)
        found = validate(schema, split(Message("assistant", said), schema, "text")[0])
        if not isinstance(found, Value):
            return SummaryEnded(kind, first, last, "failed", detail=found.reason, usage=usage)
        fields = found.fields
        if kind == "tool_calls":
            named: list[int] = fields.get("critical_actions", [])
            critical = tuple(dict.fromkeys(numbers[at] for at in named[:5] if 0 <= at < len(numbers)))
            return SummaryEnded(kind, first, last, text=fields["intentions"].strip(), critical=critical, usage=usage)
        if not (said := fields["summary"].strip()):  # it would hide what it covers and tell nothing of it
            return SummaryEnded(kind, first, last, "failed", detail="it is empty", usage=usage)
        examined = fields.get("self_examination") or ""
        return SummaryEnded(kind, first, last, text=said, self_examination=examined, usage=usage)


@cache
def _form(kind: SummaryKind) -> ReplySchema:
    """Return the form of a summary that is no text alone; made for the first of its kind, as most runs need none."""
    return ReplySchema(*(_SELECTION if kind == "tool_calls" else _SUMMARY))


def _short(text: str) -> str:
    return cut_text(text, LONGEST * 2 // 3, LONGEST // 3, "")


class _Room:
    """How much one question for a summary may hold.

    Args:
        profile: Facts about the model that is asked.
        budget: What the agent's requests may hold; what was learned of its window is believed here, too.
    """

    def __init__(self, profile: ModelProfile, budget: Budget) -> None:
        window = min(profile.window, budget.window)
        self._most = window - window // REPLY_PART - Allowance().request - Allowance().message
        exact = profile.tokenizer == budget.spec.tokenizer and not budget.loads
        counter = budget.meter.counter if exact else Counter()
        self.tokens = counter.text

    def fitted(self, make: Callable[[int], str], least: int = 1) -> str:
        """Return the longest text that fits of those that `make` makes of so many characters, or an empty one.

        Args:
            make: Makes a text.
            least: Characters below which none is made.
        """
        characters = MOST_CHARACTERS
        while characters >= least:
            text = make(characters)
            tokens = self.tokens(text)
            if tokens <= self._most:
                return text
            # A fixed part does not shrink with the rest, so this may take several turns.
            characters = min(characters - 1, int(min(characters, len(text)) * self._most / tokens * 0.9))
        return ""


class _Question(msgspec.Struct, frozen=True):
    """What a summary is asked of.

    Args:
        started: What it covers.
        text: Empty where no question fits the model's window.
        numbers: Numbers of the results that it lists.
    """

    started: SummaryStarted
    text: str
    numbers: tuple[int, ...] = ()


def _of_past(state: AgentState, kind: SummaryKind, room: _Room) -> _Question | None:
    """Return what is asked of the oldest entries that left the view and were not summarised; None if they are few."""
    done = state.history.summarized.get(kind, 0)
    entries = [entry for entry in state.history.past if entry.seq > done]
    while len(entries) >= LEAST_ENTRIES:
        shown = entries_of(entries)
        if kind == "tool_calls":
            shown = [each for each in shown if each.kind == "result"]
        if not any(each.kind != "user" for each in shown):
            return None
        started = SummaryStarted(kind, entries[0].seq, entries[-1].seq)
        text = room.fitted(partial(_asking_of_past, state, kind, shown), LEAST_DIGEST + LINE * len(shown))
        if text or len(entries) == LEAST_ENTRIES:
            return _Question(started, text, tuple(each.seq for each in shown))
        # Fewer fit, and the rest has a summary of its own.
        entries = entries[: max(LEAST_ENTRIES, len(entries) // 2)]
    return None


def _asking_of_past(state: AgentState, kind: SummaryKind, shown: list[PastEntry], characters: int) -> str:
    language = state.run.spec.language if state.run else "en"
    known = cut_text(long_term(state.longterm, language), characters // 6, characters // 12, "")
    actions = _numbered(shown, language, characters) if kind == "tool_calls" else digest(shown, characters, language)
    return prompts.load("summary", kind, language).render(context=known, actions=actions)


def _numbered(results: list[PastEntry], language: str, characters: int) -> str:
    share = characters // max(1, len(results))
    return "\n".join(f"{at}. {entry_text(each, share, language)}" for at, each in enumerate(results))


def _rolling(state: AgentState, budget: Budget, room: _Room) -> _Question | None:
    """Return what is asked of the oldest user messages and past tasks; None where they fit, or one waits to be used.

    The range counts them, for no two events name them.
    """
    known, language = state.longterm, state.run.spec.language if state.run else "en"
    first, last = len(known.user_message), len(known.past_tasks)
    if first + last < 2 or state.history.summaries.get(_ROLLING):
        return None
    told = LongTermContext(user_message=known.user_message, past_tasks=known.past_tasks, rolled=known.rolled)
    if room.tokens(long_term(told, language)) <= budget.room * LONG_TERM_PART:
        return None
    template = prompts.load("summary", _ROLLING, language)
    conclusions = [conclusion_text(each, language) for each in known.past_tasks]
    while True:
        first, last = (first + 1) // 2, (last + 1) // 2
        if first + last == 2 and first:
            last = 0
        parts = [known.rolled, *known.user_message[:first], *conclusions[:last]]
        whole = "\n\n".join(filter(None, parts))

        def make(characters: int, whole: str = whole) -> str:
            return template.render(text=cut_text(whole, characters * 2 // 3, characters // 3, ""))

        text = room.fitted(make)
        # Nothing is taken out that the question does not hold, but for the middle of a single text that is too long.
        if first + last == 1 or text == template.render(text=whole):
            return _Question(SummaryStarted(_ROLLING, first, last), text)
