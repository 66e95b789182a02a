"""What a request held and what it left out, read from the log: the context of one step by part and in tokens.

How the request is made again from the log is in `rebuilding.py`; its hash tells whether it is the same. Nothing is
asked, recorded or changed.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence
from typing import Literal

import msgspec

from stepwell.agent.asking import Asking
from stepwell.agent.budget import IMAGE_LINE, MARKER, Budget, Meter
from stepwell.agent.rebuilding import Before, Rebuild, locate, rebuilt, usage
from stepwell.contexts import handle_of_blob, handle_of_event
from stepwell.events import Recorded, StepStarted
from stepwell.messages import Message
from stepwell.rendering import long_term
from stepwell.specs import ContextSpec, SummaryKind
from stepwell.state.history import History
from stepwell.tokens import Allowance

PartName = Literal[
    "system",
    "long_term",
    "pins",
    "tools",
    "form",
    "digest",
    "user",
    "replies",
    "calls",
    "results",
    "images",
    "tail",
    "dialect",
    "allowances",
]
"""The agent's profile; what it knows for long but for the pins; the pins; the tools; what asks for a reply of a given
form; what stands for messages that left; what users said; what the model said; its calls; their results; images;
messages of this request alone; what a dialect's template adds, tools included; what chat templates add."""


class Part(msgspec.Struct, frozen=True):
    """A part of a request.

    Args:
        name: What it is.
        tokens: What it costs.
        count: How many messages, tools, pins, calls or images it is made of.
    """

    name: PartName
    tokens: int
    count: int = 0


class LeftOut(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that the request did not hold.

    Args:
        what: Whole messages; the middle of a text; the middle of a call's arguments; images; most of a big result.
        why: The window is too small; the result is too big; the model does not see.
        handle: Where all of it can be recalled; of messages the first.
        upto: Number of the event up to which messages left.
        gone: How many messages or images; of a result all of its bytes.
        kept: Characters that are shown, of a text.
    """

    what: Literal["messages", "text", "arguments", "images", "result"]
    why: Literal["window", "size", "model"]
    handle: str = ""
    upto: int = 0
    gone: int = 0
    kept: int = 0


class Compaction(msgspec.Struct, frozen=True, omit_defaults=True):
    """The compaction that made the conversation as it was sent.

    Args:
        seq: Number of its event.
        rung: How hard it pressed, from 0.
        before: Upper bound of the request's tokens before.
        after: The same after.
        times: How many there have been so far.
    """

    seq: int
    rung: int
    before: int
    after: int
    times: int


class SummaryShown(msgspec.Struct, frozen=True, omit_defaults=True):
    """A summary that the next compaction can use, or that this one did.

    Args:
        kind: Of what.
        first: Number of the first event that it covers, or how many messages of the long-term context.
        last: Number of the last event, or how many past tasks.
        tokens: What its text costs.
        input: Tokens that making it took, as the provider counted them.
        output: The same of the reply.
    """

    kind: SummaryKind
    first: int
    last: int
    tokens: int
    input: int = 0
    output: int = 0


class ContextReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one request held, what it cost, and what was left out.

    Args:
        run: Number of the run.
        step: Number of the agent's step in the run, from 1.
        seq: Number of its `StepStarted`.
        model: The model that was asked, by its name in the settings.
        parts: What it held; parts of no tokens are left out.
        tokens: Their sum.
        bound: What the request could cost at most when it was sent: the sum, with the provider's own counts in the
            place of what they counted.
        counting: `exact` where texts are counted as the model does, `bound` where their bytes are an upper bound.
        room: What a request may hold: the window, or the settings' limit, less the reserve.
        window: The model's window as far as was known.
        reserve: Kept for the reply.
        counted: Tokens of the request as the provider counted them; None where it did not tell.
        cached: The part of `counted` that came from the provider's cache, 0 to 1.
        proved: Whether the request that is described has the hash that the log has of the one that was sent.
        unknown_tools: Names of tools that were offered and cannot be counted, for they are not known any more.
        left_out: What it did not hold, oldest first.
        compaction: What made room, or None where all fitted.
        summaries: Finished summaries.
        summarizing: Kinds of summaries that were being made.
        learned: Windows that endpoints taught, by model.
        repaired: What was mended of imported history.
        agent: Path of the agent inside the run that asked; empty for the run's own.
    """

    run: int
    step: int
    seq: int
    model: str
    parts: tuple[Part, ...]
    tokens: int
    bound: int
    counting: Literal["exact", "bound"]
    room: int
    window: int
    reserve: int
    counted: int | None
    cached: float | None
    proved: bool
    unknown_tools: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    compaction: Compaction | None
    summaries: tuple[SummaryShown, ...]
    summarizing: tuple[SummaryKind, ...]
    learned: dict[str, int]
    repaired: tuple[str, ...]
    agent: str = ""


def report(
    events: Sequence[Recorded], rebuild: Rebuild, *, run: int = 0, step: int = 0, agent: str = ""
) -> ContextReport:
    """Return what the request of a step held.

    Args:
        events: The thread's log from its beginning.
        rebuild: Says who asked in the step, and how.
        run: Number of the run; 0 for the newest.
        step: Number of the agent's step in the run; 0 for the newest.
        agent: Path of an agent inside the run; empty for the run's own.

    Raises:
        NotFound: There is no such run, agent or step.
    """
    at = locate(events, run, step, agent)
    started = events[at].event
    assert isinstance(started, StepStarted)
    before = Before(events[:at], agent)
    asking = rebuild(before.run.spec, before.log, started)
    return _Reading(before, asking, started).report(events[at], usage(events[at + 1 :], agent))


class _Reading:
    """One request taken apart."""

    def __init__(self, before: Before, asking: Asking, started: StepStarted) -> None:
        run = before.run
        self._before, self._run, self._agent, self._started = before, run, asking.agent, started
        self._history: History = before.state.history
        self._budget: Budget = asking.agent.budget(run, seeing=started.model != "")
        self._meter: Meter = self._budget.meter
        self._tokens: Tally[PartName] = Tally()
        self._counts: Tally[PartName] = Tally()
        self._request, self._sent, self._own, self._unknown = rebuilt(before, asking, started)

    def report(self, recorded: Recorded, usage: tuple[int | None, float | None]) -> ContextReport:
        """Return everything about the request."""
        for message, number in zip(self._history.transcript, self._history.transcript.seqs, strict=True):
            self._take(message, number)
        self._take_rest()
        spec, state = self._budget.spec, self._before.state
        parts = tuple(
            Part(name, tokens, self._counts[name]) for name in PartName.__args__ if (tokens := self._tokens[name]) > 0
        )
        return ContextReport(
            run=recorded.run,
            step=self._started.step,
            seq=recorded.seq,
            model=self._started.model or self._run.spec.model,
            parts=parts,
            tokens=sum(each.tokens for each in parts),
            bound=self._budget.bound(self._request, self._history),
            counting="exact" if spec.tokenizer and self._meter.counter.exact else "bound",
            room=self._budget.room,
            window=self._budget.window,
            reserve=min(spec.reserve, self._budget.window // 2),
            counted=usage[0],
            cached=usage[1],
            proved=self._sent.digest() == self._started.request,
            unknown_tools=self._unknown,
            left_out=tuple(self._left_out(spec)),
            compaction=self._compaction(),
            summaries=self._summaries(),
            summarizing=tuple(self._history.summarizing),
            learned=dict(state.windows),
            repaired=self._history.faults,
            agent=recorded.path,
        )

    def _add(self, name: PartName, tokens: int, count: int = 0) -> None:
        self._tokens[name] += tokens
        self._counts[name] += count

    def _take(self, message: Message, seq: int) -> None:
        """Add a message of the conversation to the parts that it belongs to."""
        total, text = self._meter.count(message), self._meter.counter.text(message.content)
        images = self._images(message)
        around = self._meter.counter.allowance.message
        self._add("images", images, len(message.images))
        self._add("allowances", around)
        rest = total - images - around
        match message.role:
            case "system":
                self._take_system(message, rest)
            case "user":
                digest = self._digest(message)
                self._add("digest", digest, 1 if digest else 0)
                self._add("user", rest - digest, 1 if seq else 0)
            case "assistant":
                thinking = self._meter.counter.text(message.thinking) if self._budget.spec.thinking_back else 0
                said = text + (thinking if message.calls else 0)
                self._add("replies", said, 1)
                self._add("calls", rest - said, len(message.calls))
            case "tool":
                self._add("results", rest, 1)

    def _take_system(self, message: Message, tokens: int) -> None:
        state, language = self._before.state, self._run.spec.language
        known = state.longterm
        text = self._meter.counter.text
        if message.content != self._history.system:  # it was cut: nobody can tell what is left of which
            self._add("system", tokens, 1)
            return
        with_pins = text(long_term(known, language))
        without = text(long_term(msgspec.structs.replace(known, pinned=()), language))
        self._add("pins", with_pins - without, len(known.pinned))
        self._add("long_term", without)
        self._add("system", tokens - with_pins, 1)

    def _images(self, message: Message) -> int:
        if not message.images:
            return 0
        seen = sum(map(self._meter.counter.image, message.images))
        return MARKER + (seen if self._budget.spec.images else IMAGE_LINE * len(message.images))

    def _digest(self, message: Message) -> int:
        compacted = self._before.compaction
        if compacted is None or not compacted.digest or self._tokens["digest"]:
            return 0
        return self._meter.counter.text(compacted.digest) if message.content.startswith(compacted.digest) else 0

    def _take_rest(self) -> None:
        """Add what stands besides the conversation."""
        allowance, counter = Allowance(), self._meter.counter
        tail = self._started.tail
        self._add("tail", sum(map(self._meter.count, tail)), len(tail))
        if self._agent.dialect is not None:
            self._take_dialect()
            return
        tools = counter.tools(self._own)
        self._add("tools", tools, len(self._own))
        self._add("form", counter.tools(self._request.tools) - tools)
        form = self._request.settings.response_format
        self._add("form", len(str(form).encode()) if form is not None else 0)
        with_tools = allowance.request_with_tools if self._request.tools else 0
        self._add("allowances", allowance.request + with_tools + self._history.excess)

    def _take_dialect(self) -> None:
        assert self._agent.dialect is not None
        rendered = self._agent.dialect.render(self._request)
        whole = Allowance().request + self._history.excess + sum(map(self._meter.count, rendered.all))
        del self._tokens["allowances"]
        self._add("dialect", max(0, whole - self._tokens.total()), len(self._own))

    def _left_out(self, spec: ContextSpec) -> list[LeftOut]:
        history, compacted = self._history, self._before.compaction
        found: list[LeftOut] = []
        if history.gone:
            first = handle_of_event(history.first)
            found.append(LeftOut("messages", "window", first, upto=history.upto, gone=history.gone))
        for cut in compacted.cuts if compacted else ():
            handle = handle_of_event(cut.seq) if cut.seq else ""
            what = "text" if cut.part == "content" else cut.part
            found.append(LeftOut(what, "window", handle, kept=cut.head + cut.tail))
        for message, seq in zip(history.transcript, history.transcript.seqs, strict=True):
            if message.role == "tool" and seq in self._before.big:
                big = self._before.big[seq]
                kept = len(message.content)
                found.append(LeftOut("result", "size", handle_of_blob(big.blob), gone=big.size, kept=kept))
            if message.images and not spec.images:
                found.append(LeftOut("images", "model", handle_of_event(seq), gone=len(message.images)))
        return found

    def _compaction(self) -> Compaction | None:
        recorded, event = self._before.compacted, self._before.compaction
        if recorded is None or event is None:
            return None
        return Compaction(recorded.seq, event.rung, event.before, event.after, self._history.compactions)

    def _summaries(self) -> tuple[SummaryShown, ...]:
        text = self._meter.counter.text
        return tuple(
            SummaryShown(
                each.kind,
                each.first,
                each.last,
                text(each.text) + text(each.self_examination),
                each.usage.input if each.usage else 0,
                each.usage.output if each.usage else 0,
            )
            for kind in self._history.summaries.values()
            for each in kind
        )
