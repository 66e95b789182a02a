"""Talks for tests of what requests hold: events folded by a real state, requests made as an agent makes them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from stepwell.agent.budget import TARGET, Budget
from stepwell.agent.ladder import MARKER, RUNGS
from stepwell.contexts import WRAPPED
from stepwell.events import (
    ContextCompacted,
    LongTermUpdated,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    Recorded,
    RunStarted,
    StepEnded,
    StepStarted,
    Stored,
    ToolEnded,
    ToolStarted,
    ToolStatus,
)
from stepwell.messages import Image, Message, ToolCall, ToolSpec, ToolSpecs, Usage
from stepwell.models.base import ModelProfile, ModelRequest
from stepwell.models.dialects.base import Dialect
from stepwell.models.openai import OpenAIModel
from stepwell.specs import ContextSpec, RunSpec
from stepwell.state.history import History
from stepwell.state.thread import State
from stepwell.tokens import Counter
from tests.support.audit import check_history

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of how the library reads its own files
    import bpe_openai

ENCODING = bpe_openai.get_encoding("o200k_base")
LEAST_ROOM = 600
"""Tokens that tools and fixed texts have to leave for a history."""


@lru_cache(4096)
def exact(text: str) -> int:
    """Count a text's tokens with the library alone."""
    return len(ENCODING._backend.encode(text))


def count_body(body: dict[str, Any], *, rule: str, message: int = 4, call: int = 8, request: int = 3) -> int:
    """Count all that a body sends to a model, images by their rule."""
    images = Counter("", rule)
    tokens = request + sum(exact(json.dumps(each, ensure_ascii=False)) for each in body.get("tools", ()))
    for each in body["messages"]:
        content = each["content"] or ""
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        tokens += message + exact(each.get("reasoning_content") or "") + exact(each.get("tool_call_id", ""))
        for part in parts:
            tokens += exact(part["text"]) if part["type"] == "text" else images.image(Image(part["image_url"]["url"]))
        for made in each.get("tool_calls", ()):
            told = made["function"]
            tokens += call + exact(told["name"]) + exact(told["arguments"]) + exact(made["id"])
    return tokens


def _shown(message: Message) -> str:
    return message.content + "".join(call.arguments for call in message.calls)


class Talk:
    """One thread whose model says what the test wants.

    Args:
        spec: What requests may hold.
        dialect: How the model is spoken to.
        tools: What is offered.
        system: The system message.
        history: Imported messages.
        lenient: Requests whose bound may be below the truth, before the endpoint has told its counts.
        overhead: Tokens that the endpoint's template adds to a message, a call and a request.
        report: Turns the endpoint's count of a request, and of the one before, into what it tells; None for nothing.
    """

    def __init__(
        self,
        spec: ContextSpec,
        *,
        dialect: Dialect | None = None,
        tools: Sequence[ToolSpec] = (),
        system: str = "",
        history: Sequence[Message] = (),
        overhead: tuple[int, int, int] = (4, 8, 3),
        report: Callable[[int, int], int] | None = None,
    ) -> None:
        self.state, self.events = State(), list[Recorded]()
        self.spec, self.dialect, self.tools = spec, dialect, ToolSpecs(tools)
        self.budget = Budget(spec, spec.window, dialect)
        self.profile = ModelProfile(
            window=spec.window, images=spec.images, thinking_back=spec.thinking_back, native_tools=dialect is None
        )
        self.model = OpenAIModel("http://127.0.0.1:1/v1", "m", profile=self.profile)
        self.shares: list[float] = []
        self.calls = self.said = 0
        self._before = b""
        self.compacted = False
        self.lenient = 0
        self.overhead, self.report, self._counted = overhead, report, 0
        for each in history:
            self.record(MessageAdded(each, "history"))
        self.record(RunStarted(RunSpec(system=system)))

    def record(self, *events: Stored) -> None:
        for event in events:
            run = self.state.run.seq if self.state.run else 0
            recorded = Recorded(self.state.seq + 1, 0, run, event)
            self.state.apply(recorded)
            if isinstance(event, LongTermUpdated):
                self._before = b""
            self.events.append(recorded)

    def user(self, text: str, images: Sequence[Image] = ()) -> None:
        self.record(MessageAdded(Message("user", text, tuple(images))))
        self.said = self.state.seq

    def reply(
        self,
        text: str = "",
        calls: Sequence[tuple[str, str, str, ToolStatus, Sequence[Image]]] = (),
        *,
        thinking: str = "",
        raw: str = "",
    ) -> None:
        """Ask, and let the model answer with a text and with calls: name, arguments, result, status, images."""
        request = self.ask()
        usage, counted = 0, self.real(request)
        if self.report is not None:
            usage, self._counted = self.report(counted, self._counted), counted
        made = [ToolCall(f"call_{self.calls + at}", name, arguments) for at, (name, arguments, *_) in enumerate(calls)]
        self.calls += len(made)
        message = Message("assistant", text, thinking=thinking, calls=tuple(made), raw=raw)
        step = self.state.run.steps + 1 if self.state.run else 1
        self.record(StepStarted(step, request.digest()), MessageStarted())
        self.record(MessageEnded(message, "tool_calls" if made else "stop", Usage(usage, 1) if usage else None))
        self.record(*(ToolStarted(call.id, call.name) for call in made))
        # The results come in whatever order: here the last call is the first to end.
        for call, (_, _, content, status, images) in reversed(list(zip(made, calls, strict=True))):
            self.record(ToolEnded(call.id, content, status, tuple(images)))
        self.record(StepEnded())

    def make(self, history: History) -> ModelRequest:
        return ModelRequest(history.transcript, self.tools)

    def ask(self) -> ModelRequest:
        """Return the next request, compacted where it has to be, and check all that must hold of it."""
        history = self.state.history
        self.compacted = False
        if not self.budget.fits(self.make(history), history):
            event = self.budget.compact(self.make, history)
            if event is not None:
                self._compact(event)
        request = self.make(self.state.history)
        self._check(request)
        return request

    def body(self, request: ModelRequest) -> bytes:
        return b"".join(self.model._body(self.dialect.render(request) if self.dialect else request, frozenset()))

    def real(self, request: ModelRequest) -> int:
        """Return what the request takes, counted by the tokenizer's own library."""
        message, call, more = self.overhead
        body = json.loads(self.body(request))
        return count_body(body, rule=self.spec.image_tokens, message=message, call=call, request=more)

    def _compact(self, event: ContextCompacted) -> None:
        self.compacted = True
        before = self.state.history
        gone = {seq for seq in before.transcript.seqs if seq}
        self.record(event)
        history = self.state.history
        gone -= set(history.transcript.seqs)
        request = self.make(history)
        assert self.budget.bound(request, history) <= event.after
        fixed = self.budget.fixed(request, history)
        system = history.transcript.sums(self.budget.meter.count)[1] if history.system else 0
        free = max(0, self.budget.room - fixed - system)
        # A system message that is cut takes a little less than its part.
        slack = 2 * MARKER if any(not cut.seq for cut in event.cuts) else 1
        last = event.rung == len(RUNGS) - 1
        assert last or event.after <= self.budget.room - (1 - TARGET) * free + slack
        event.digest.encode()
        if gone:
            assert f"recall event:{history.first}-{history.upto}" in event.digest
            assert history.first <= min(gone)
            assert max(gone) <= history.upto <= event.upto
        assert event.digest.count(f"{WRAPPED} {history.gone} messages in all") <= 1
        for cut in event.cuts:
            message = next(m for m, s in zip(history.transcript, history.transcript.seqs, strict=True) if s == cut.seq)
            shown = _shown(message).removeprefix(event.digest).removeprefix("\n\n")
            assert not cut.seq or shown == _shown(self._original(cut.seq)) or f"event:{cut.seq}" in shown
        assert len(self.events) < 200 or list(State(self.events).transcript) == list(history.transcript)

    def _original(self, seq: int) -> Message:
        event = self.events[seq - 1].event
        if isinstance(event, ToolEnded):
            return Message("tool", event.content, event.images)
        assert isinstance(event, MessageAdded | MessageEnded)
        return event.message

    def _check(self, request: ModelRequest) -> None:
        history, room = self.state.history, self.budget.room
        bound, real = self.budget.bound(request, history), self.real(request)
        self.lenient -= 1
        assert real <= bound or self.lenient >= 0, (real, bound)
        if not self.report and room - self.budget.fixed(request, history) >= LEAST_ROOM:
            assert bound <= room, (bound, room, self.budget.fixed(request, history))
            assert real <= room
        check_history(list(request.messages), True)
        sent = [message for message in request.messages if message.role == "user"]
        if history.system:
            assert request.messages[0].role == "system"
            assert request.messages[0].content.startswith(history.system[:1])
        if self.said:
            event = self.events[self.said - 1].event
            assert isinstance(event, MessageAdded)
            assert any(event.message.content[:5] in message.content for message in sent)
        rendered = bytes(request.messages.rendering(self.model._encode).body)
        if self._before and not self.compacted:
            assert rendered.startswith(self._before)
            self.shares.append(len(self._before) / len(rendered))
        self._before = rendered
