"""Asking a model: the request is built from the fold of the log, brought under the window, sent and recorded.

It knows nothing of steps, contexts or prompts, and runs no tools.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from stepwell.agent.budget import Budget
from stepwell.agent.options import AgentOptions, context_spec
from stepwell.agent.receiving import receive
from stepwell.agent.replies import Fault, Form, ReplySchema, Value, choose_form, split, validate, with_reply
from stepwell.errors import ContextFull
from stepwell.events import LongTermUpdated, MessageStarted, StepEnded, StepStarted, Warned, WindowLearned
from stepwell.history import History
from stepwell.messages import Message, ToolSpec, ToolSpecs, Transcript, clean
from stepwell.models.base import Model, ModelRequest, Settings
from stepwell.models.dialects.base import Dialect
from stepwell.specs import ContextSpec
from stepwell.state import Log, RunState

LEAST_WINDOW = 512
"""Tokens below which no window is believed."""
MOST_LEARNED = 8
"""Refusals of one run that teach its window; one more ends it."""
TAIL_PART = 4
"""A message at the end of a request takes at most this fraction of what a request may hold."""
RESULT_PART = 3
"""A result has at most this fraction of what a request may hold, in characters for tokens."""
LEAST_RESULT = 400
"""Characters that every result may have."""

Make = Callable[[History], ModelRequest]


class Asked(NamedTuple):
    """What one question to the model brought.

    Args:
        message: The reply as it stands in the log.
        fields: The fields of its form; None where there is none.
        fault: What is wrong with them.
    """

    message: Message
    fields: dict[str, Any] | None = None
    fault: Fault | None = None


class Asker:
    """Asks one model for one log.

    Args:
        model: Who answers.
        tools: What it may call.
        log: Where it records.
        config: Options, for a run whose spec says nothing of its context.
        dialect: Makes text of tools for a model that has no tool calls of its own; None for native calls.
        settings: How replies are made.
        model_name: The name sent to the endpoint; empty for the model's own.
        image_model: Asked instead where a request holds images and `model` does not see.
        recall: Offered besides the tools as soon as a text with a handle stands in the history.
    """

    def __init__(
        self,
        model: Model,
        tools: ToolSpecs,
        log: Log,
        config: AgentOptions,
        *,
        dialect: Dialect | None = None,
        settings: Settings | None = None,
        model_name: str = "",
        image_model: Model | None = None,
        recall: ToolSpec | None = None,
    ) -> None:
        self.model, self.tools, self.log, self.config, self.dialect = model, tools, log, config, dialect
        self.settings, self.model_name, self.image_model = settings or Settings(), model_name, image_model
        self._recall = recall
        self._with_recall: ToolSpecs | None = None
        self._budgets: dict[bool, tuple[RunState, int, Budget]] = {}

    async def ask(
        self,
        tail: tuple[Message, ...] = (),
        schema: ReplySchema | None = None,
        tools: ToolSpecs | None = None,
        settings: Settings | None = None,
        *,
        aside: bool = False,
        repairs: bool = False,
    ) -> Asked:
        """Ask the model once and record the reply; the step before ends with it. The only way to a model.

        A failure of the model is recorded, not raised.

        Args:
            tail: Messages of this request alone, after the history.
            schema: The form of the reply apart from calls; None for none.
            tools: What may be called in this step; None for the run's own.
            settings: How this reply is made; None for the agent's own.
            aside: The reply is no part of the conversation.
            repairs: The reply takes the place of the one before, which did not fit its form.

        Raises:
            ContextFull: The request cannot be brought under the window.
            Conflict: Somebody else appended to the log.
        """
        log, run = self.log, self.log.state.run
        assert run is not None
        await self._settle(run)
        make = self._maker(tail, schema, tools, settings or self.settings)
        request = await self._fitted(run, make)
        model, seeing, sent = self._sent(run, request)
        names, wanted = None if tools is None else tuple(each.name for each in tools), schema.name if schema else ""
        started = StepStarted(run.steps + 1, sent.digest(), request.tail, wanted, names, seeing, aside, repairs)
        await log.record(*((StepEnded(),) if run.step else ()), started, MessageStarted())
        received = await receive(log, model, sent, self.dialect.parser(request.tools) if self.dialect else None)
        form = self.form(self.tools if tools is None else tools)
        asked = self._read(received.message(), schema, form, failed=received.stop == "error")
        await log.record(*received.ended(asked.message))
        return asked

    def _sent(self, run: RunState, request: ModelRequest) -> tuple[Model, str, ModelRequest]:
        """Return who is asked, their name where it is not the run's own model, and the request as they get it."""
        model, seeing = self._seeing(run, request)
        if seeing:
            request.model = ""  # the name to send is one of the run's own model
        if run.spec.context is not None and not run.spec.context.images and self.model.profile.images:
            request = _unseen(request)
        return model, seeing, self.dialect.render(request) if self.dialect else request

    async def _settle(self, run: RunState) -> None:
        """Record what the last step taught, and what is wrong with the history that the run begins with."""
        failure, faults = run.failure, self.log.state.history.faults
        if failure is not None and failure.kind == "overflow":
            await self.log.record(WindowLearned(self._learned(run, failure.detail), model_key(run)))
        if faults and run.steps == 0 and self.log.state.last is None:
            await self.log.record(Warned("history_repaired", "; ".join(faults[:20])))

    def may_learn(self) -> bool:
        """Tell whether the refusal that the run met last teaches a window that the run can go on with."""
        run = self.log.state.run
        if run is None or run.failure is None or run.learned >= MOST_LEARNED:
            return False
        window = self._learned(run, run.failure.detail)
        if not LEAST_WINDOW <= window < self.budget(run).window:
            return False
        history, make = self.log.state.history, self._maker((), None, None, self.settings)
        smaller = self._bounded(run, self.budget(run).spec, window)
        return not smaller.fits(make(history), history) and smaller.compact(make, history) is not None

    def _learned(self, run: RunState, detail: str) -> int:
        budget, history = self.budget(run), self.log.state.history
        return budget.learned(detail, budget.bound(self._maker((), None, None, self.settings)(history), history))

    def result_room(self, run: RunState) -> int:
        """Return how many characters of one result stay in the conversation."""
        return max(LEAST_RESULT, self.budget(run).room // RESULT_PART)

    def budget(self, run: RunState, *, seeing: bool = False) -> Budget:
        """Return what requests of the run may hold; `seeing` for those that go to the model that sees."""
        known = self._budgets.get(seeing)
        if known is not None and known[:2] == (run, run.learned):
            return known[2]
        spec = run.spec.context or context_spec(self.config, self.model.profile, run.spec.max_tokens)
        window = min(spec.window, self.log.state.windows.get(model_key(run), spec.window))
        if seeing:
            window = min(window, spec.image_window or window)
            spec = msgspec.structs.replace(spec, tokenizer="", reserve=min(spec.reserve, window // 4))
        made = self._bounded(run, spec, window)
        self._budgets[seeing] = (run, run.learned, made)
        return made

    def _bounded(self, run: RunState, spec: ContextSpec, window: int) -> Budget:
        return Budget(spec, window, self.dialect, run.spec.language, self._offered)

    def _maker(
        self, tail: tuple[Message, ...], schema: ReplySchema | None, tools: ToolSpecs | None, settings: Settings
    ) -> Make:
        def make(history: History) -> ModelRequest:
            offered = self._offered(history.handles) if tools is None else tools
            if schema is None or not self.model.profile.replies:
                return ModelRequest(history.transcript, offered, settings, self.model_name, tail)
            language = self.log.state.run.spec.language if self.log.state.run else "en"
            joined, asking, words = with_reply(
                offered, settings, schema, self.form(offered), forced=not offered, language=language
            )
            last = (*tail, Message("user", words)) if words else tail
            return ModelRequest(history.transcript, joined, asking, self.model_name, last)

        return make

    def _offered(self, handles: bool) -> ToolSpecs:
        if not handles or self._recall is None:
            return self.tools
        if self._with_recall is None:
            self._with_recall = ToolSpecs((*self.tools, self._recall))
        return self._with_recall

    async def _fitted(self, run: RunState, make: Make) -> ModelRequest:
        """Return the next request, after a compaction where it would be over the window."""
        history = self.log.state.history
        request = make(history)
        budget = self.budget(run, seeing=bool(self._seeing(run, request)[1]))
        if budget.surely_fits(request, history):
            return request
        if budget.loads:
            await asyncio.to_thread(budget.meter.load)
            history = self.log.state.history
            request = make(history)
        if budget.fits(request, history):
            return request
        rolled = history.summaries.get("rolling")
        if rolled:
            newest = rolled[-1]
            await self.log.record(
                LongTermUpdated(rolled=newest.text, rolled_messages=newest.first, rolled_tasks=newest.last)
            )
        event = budget.compact(make, history)
        if event is not None:
            await self.log.record(event)
            history = self.log.state.history
            request = make(history)
        if not budget.fits(request, history) and not budget.may_fit(request, history):
            raise ContextFull(
                f"its window has {budget.window} tokens, and tools and fixed texts alone can take "
                f"{budget.fixed(request, history)}. Offer fewer tools or choose a model with a larger window."
            )
        return request

    def _seeing(self, run: RunState, request: ModelRequest) -> tuple[Model, str]:
        """Return who is asked: another model where the request holds images that this one does not see."""
        spec = run.spec.context
        if self.image_model is None or spec is None or not spec.image_model or self.model.profile.images:
            return self.model, ""
        seen = any(message.images for message in request.all)
        return (self.image_model, spec.image_model) if seen else (self.model, "")

    def form(self, tools: ToolSpecs) -> Form:
        """Return how a reply is asked for where these tools are offered besides."""
        return choose_form(self.model.profile, dialect=self.dialect is not None, tools=bool(tools))

    def _read(self, message: Message, schema: ReplySchema | None, form: Form, *, failed: bool) -> Asked:
        """Take the reply's form out of a message: what stays is text, and the calls of tools."""
        if failed or schema is None:
            return Asked(message)
        if not self.model.profile.replies:
            return _plain(message, schema)
        text, calls = split(message, schema, form)
        found = validate(schema, text)
        if isinstance(found, Value):
            plain = msgspec.json.encode(found.fields).decode()
            return Asked(msgspec.structs.replace(message, content=clean(plain), calls=calls), found.fields)
        if calls:
            return Asked(msgspec.structs.replace(message, calls=calls))
        return Asked(msgspec.structs.replace(message, content=message.content or text or "", calls=()), None, found)


def _unseen(request: ModelRequest) -> ModelRequest:
    """Return a request without its images, with lines that say so."""
    if not any(message.images for message in request.all):
        return request
    messages = Transcript(map(_without_images, request.messages), request.messages.seqs)
    tail = tuple(map(_without_images, request.tail))
    return ModelRequest(messages, request.tools, request.settings, request.model, tail)


def _without_images(message: Message) -> Message:
    if not message.images:
        return message
    text = f"{message.content}\n[{len(message.images)} image(s), not shown]".lstrip()
    return msgspec.structs.replace(message, content=text, images=())


def _plain(message: Message, schema: ReplySchema) -> Asked:
    """Put the text of a model that knows no forms into the one text field of the form."""
    text = message.content
    fields: dict[str, Any] = {
        "summary": text,
        "status": "success",
        "reached_goals": [],
        "failed_goals": [],
        "reply": text,
    }
    if schema.name != "conclusion":
        fields = dict.fromkeys(schema.schema.get("properties", {}), text)
    if message.calls and not text:
        return Asked(message)
    found = validate(schema, msgspec.json.encode(fields).decode())
    if isinstance(found, Value) and (len(fields) == 1 or schema.name == "conclusion"):
        return Asked(message, found.fields)
    return Asked(message, None, Fault("", "this model gives text only, and no replies of other forms"))


def model_key(run: RunState) -> str:
    """Return under which name a run's model has its window learned."""
    return f"{run.spec.model}/{run.spec.model_name}" if run.spec.model_name else run.spec.model
