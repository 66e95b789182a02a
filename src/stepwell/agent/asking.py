"""Asking a model: the request is built from the fold of the log, brought under the window, sent and recorded.

It knows nothing of steps, contexts or prompts, and runs no tools.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from stepwell.agent.accounts import Accounts, Charge, Metered, Purse, nanos, terms_of, terms_of_profile
from stepwell.agent.budget import Budget
from stepwell.agent.options import AgentOptions, context_spec
from stepwell.agent.receiving import Received, receive
from stepwell.agent.replies import Fault, Form, ReplySchema, Value, choose_form, split, validate, with_reply
from stepwell.errors import ContextFull, StoreError
from stepwell.events import (
    LongTermUpdated,
    MessageStarted,
    StepEnded,
    StepStarted,
    Stored,
    Warned,
    WindowLearned,
)
from stepwell.log import Log
from stepwell.messages import NO_TOOLS, Message, ToolSpec, ToolSpecs, Transcript, clean
from stepwell.models.base import Model, ModelRequest, Settings
from stepwell.models.dialects.base import Dialect
from stepwell.specs import ContextSpec, RunSpec
from stepwell.state.history import History
from stepwell.state.run import RunState

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

_COSTLY = ("max_tokens", "max_completion_tokens", "n", "best_of")
"""Further fields of a request that would let a reply cost more than was reserved for it."""

Make = Callable[[History], ModelRequest]


class Asked(msgspec.Struct, frozen=True):
    """What one question to the model brought.

    Args:
        message: The reply as it stands in the log.
        fields: The fields of its form; None where there is none.
        fault: What is wrong with them.
    """

    message: Message
    fields: dict[str, Any] | None = None
    fault: Fault | None = None


class _Offer:
    """The tools of a run, with the one that reads handles where there are any.

    What holds it does not hold the agent, which is gone with its run at once if nothing of it goes round in a circle.
    """

    __slots__ = ("_joined", "_recall", "_tools")

    def __init__(self, tools: ToolSpecs, recall: ToolSpec | None) -> None:
        self._tools, self._recall = tools, recall
        self._joined: ToolSpecs | None = None

    def __call__(self, handles: bool) -> ToolSpecs:
        if not handles or self._recall is None:
            return self._tools
        if self._joined is None:
            self._joined = ToolSpecs((*self._tools, self._recall))
        return self._joined


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
        accounts: The accounts of keys; None where nobody pays together.
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
        accounts: Accounts | None = None,
    ) -> None:
        self.model, self.tools, self.log, self.config, self.dialect = model, tools, log, config, dialect
        self.settings, self.model_name, self.image_model = settings or Settings(), model_name, image_model
        self.offered: Callable[[bool], ToolSpecs] = _Offer(tools, recall)
        self._budgets: dict[bool, tuple[RunState, int, Budget]] = {}
        self._accounts = accounts.at(log.path) if accounts is not None else None
        self._purse: Purse | None = None
        self._purse_of: RunSpec | None = None

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
        """Ask the model once and record the reply or its failure; the step before ends. The only way to a model.

        Args:
            tail: Messages of this request alone, after the history.
            schema: The form of the reply apart from calls; None for none.
            tools: What may be called in this step; None for the run's own.
            settings: How this reply is made; None for the agent's own.
            aside: The reply is no part of the conversation.
            repairs: The reply takes the place of the one before, which did not fit its form.

        Raises:
            ContextFull: The request cannot be brought under the window.
            LimitReached: The call could cost more than is left; it is not made, and no step begins.
            Conflict: Somebody else appended to the log.
        """
        run = self.log.state.run
        assert run is not None
        purse = self._purse if self._purse_of is run.spec else await self.purse(run)
        request = await self._fitted(run, self._maker(tail, schema, tools, settings or self.settings))
        model, seeing, sent = self._sent(run, request)
        charge = None if purse is None else self._charge(purse, run, request, sent, seeing)
        names, form = None if tools is None else tuple(each.name for each in tools), schema.name if schema else ""
        cost, most = (0, None) if charge is None else (charge.reserved, charge.longest)
        started = StepStarted(
            run.steps + 1, sent.digest(), request.tail, form, names, seeing, aside, repairs, cost, most
        )
        self._keep_to_form(model, request, sent, schema)
        model = await self._paid(charge, model, (*((StepEnded(),) if run.step else ()), started, MessageStarted()))
        received = await receive(self.log, model, sent, self.dialect.parser(request.tools) if self.dialect else None)
        return await self._keep(model, received, schema, tools)

    async def _keep(
        self, model: Model, received: Received, schema: ReplySchema | None, tools: ToolSpecs | None
    ) -> Asked:
        """Record a reply as it stands in the log."""
        form = self.form(self.tools if tools is None else tools)
        asked = self._read(received.message(), schema, form, failed=received.stop == "error")
        ended = received.ended(asked.message)
        if isinstance(model, Metered):
            await model.end(self.log, ended)
        else:
            await self.log.record(*ended)
        return asked

    async def _paid(self, charge: Charge | None, model: Model, begun: Sequence[Stored]) -> Model:
        """Record the beginning of a call; what one that is charged may cost is on the disk before it is made."""
        if charge is None:
            await self.log.record(*begun)
            return model
        charge.reserve(1)
        try:
            await self.log.record(*begun, durable=charge.prices is not None)
        except StoreError:
            charge.release(1)
            raise
        return Metered(model, charge)

    async def purse(self, run: RunState) -> Purse | None:
        """Return what the calls of a run or task are paid from; None where nothing limits them.

        Raises:
            StoreError: The account of its key cannot be read.
        """
        if self._purse_of is run.spec:
            return self._purse
        spec, root = run.spec, (self.log.whole.run or run).spec
        if self._accounts is None and root.thread_limits is None and root.limits.money is spec.limits.money is None:
            self._purse, self._purse_of = None, spec
            return None
        account = await self._accounts.of(root.key or spec.key) if self._accounts is not None else None
        # What a task may use is a part of what its run may.
        run_money = [each.limits.money for each in (root, spec) if each.limits.money is not None]
        thread_money = root.thread_limits.money if root.thread_limits is not None else None
        purse = Purse(nanos(min(run_money, default=None)), nanos(thread_money), account)
        limited = bool(run_money) or thread_money is not None or account is not None
        self._purse, self._purse_of = (purse if limited else None), spec
        budget = self.budget(run)
        if limited and budget.loads:
            await asyncio.to_thread(budget.meter.load)
        return self._purse

    def _charge(self, purse: Purse, run: RunState, request: ModelRequest, sent: ModelRequest, seeing: str) -> Charge:
        """Return what the next call may cost, and send its limit along."""
        other = self.image_model if seeing else None
        terms = terms_of(run.spec) if other is None else terms_of_profile(seeing, other.profile)
        budget, settings = self.budget(run, seeing=other is not None), sent.settings
        tokens = budget.bound(request, self.log.state.history)
        asked = [settings.max_tokens, *(settings.extra.get(name) for name in _COSTLY[:2])]
        wanted = min((each for each in asked if isinstance(each, int)), default=None)
        room = max(budget.window - tokens, budget.window - budget.room)
        charge = purse.charge(self.log, run, terms, tokens, wanted, room)
        sent.settings = paid(settings, charge.longest)
        return charge

    def _sent(self, run: RunState, request: ModelRequest) -> tuple[Model, str, ModelRequest]:
        """Return who is asked, their name where it is not the run's own model, and the request as they get it."""
        model, seeing = self._seeing(run, request)
        if seeing:
            request.model = ""  # the name to send is one of the run's own model
        return model, seeing, self.rendered(run, request)

    def rendered(self, run: RunState, request: ModelRequest) -> ModelRequest:
        """Return a request as its model gets it."""
        if run.spec.context is not None and not run.spec.context.images and self.model.profile.images:
            request = _unseen(request)
        return self.dialect.render(request) if self.dialect else request

    def _keep_to_form(
        self, model: Model, request: ModelRequest, sent: ModelRequest, schema: ReplySchema | None
    ) -> None:
        """Send the form of the dialect along where the endpoint keeps replies to a JSON schema.

        The hash of the request is without it, for the form says nothing of what was asked: a replay is the same
        whether the endpoint did so or not.
        """
        if self.dialect is None or not model.profile.json_mode or sent.settings.response_format is not None:
            return
        form = self.dialect.form(request, None if schema is None else schema.schema)
        sent.settings = msgspec.structs.replace(sent.settings, response_format=form)

    async def _settle(self, run: RunState) -> None:
        """Record what the last step taught, and what is wrong with the history that the run begins with."""
        failure, faults = run.failure, self.log.state.history.faults
        if failure is not None and failure.kind == "overflow":
            name = self._eyes(run) or model_key(run)
            await self.log.record(WindowLearned(self._learned(run, failure.detail), name))
        if faults and run.steps == 0 and self.log.state.last is None:
            await self.log.record(Warned("history_repaired", "; ".join(faults[:20])))

    def may_learn(self) -> bool:
        """Tell whether the refusal that the run met last teaches a window that the run can go on with."""
        run = self.log.state.run
        if run is None or run.failure is None or run.learned >= MOST_LEARNED:
            return False
        window, budget = self._learned(run, run.failure.detail), self._refused(run)
        if not LEAST_WINDOW <= window < budget.window:
            return False
        history, make = self.log.state.history, self._maker((), None, None, self.settings)
        smaller = self._bounded(run, budget.spec, window)
        return not smaller.fits(make(history), history) and smaller.compact(make, history) is not None

    def _learned(self, run: RunState, detail: str) -> int:
        budget, history = self._refused(run), self.log.state.history
        return budget.learned(detail, budget.bound(self._maker((), None, None, self.settings)(history), history))

    def _refused(self, run: RunState) -> Budget:
        """Return the budget of the request that was refused last: what it teaches is true of who was asked."""
        return self.budget(run, seeing=self._eyes(run) != "")

    def _eyes(self, run: RunState) -> str:
        """Return the name of the model that sees where the conversation is sent to it; empty for the run's own."""
        return self._seeing(run, self._maker((), None, None, self.settings)(self.log.state.history))[1]

    def result_room(self, run: RunState) -> int:
        """Return how many characters of one result stay in the conversation."""
        return max(LEAST_RESULT, self.budget(run).room // RESULT_PART)

    def budget(self, run: RunState, *, seeing: bool = False) -> Budget:
        """Return what requests of the run may hold; `seeing` for those that go to the model that sees."""
        known = self._budgets.get(seeing)
        if known is not None and known[0] is run and known[1] == run.learned:
            return known[2]
        spec = run.spec.context or context_spec(self.config, self.model.profile, run.spec.max_tokens)
        windows = self.log.state.windows
        window = min(spec.window, windows.get(model_key(run), spec.window))
        if seeing:
            window = min(window, spec.image_window or window, windows.get(spec.image_model, window))
            spec = msgspec.structs.replace(spec, tokenizer="", reserve=min(spec.reserve, window // 4))
        made = self._bounded(run, spec, window)
        self._budgets[seeing] = (run, run.learned, made)
        return made

    def _bounded(self, run: RunState, spec: ContextSpec, window: int) -> Budget:
        return Budget(spec, window, self.dialect, run.spec.language, self.offered)

    def _maker(
        self, tail: tuple[Message, ...], schema: ReplySchema | None, tools: ToolSpecs | None, settings: Settings
    ) -> Make:
        def make(history: History) -> ModelRequest:
            offered = self.offered(history.handles) if tools is None else tools
            if schema is None or not self.model.profile.replies:
                return ModelRequest(history.transcript, offered, settings, self.model_name, tail)
            language = self.log.state.run.spec.language if self.log.state.run else "en"
            joined, asking, words = with_reply(
                offered, settings, schema, self.form(offered), forced=not offered, language=language
            )
            last = (*tail, Message("user", words)) if words else tail
            return ModelRequest(history.transcript, joined, asking, self.model_name, last)

        return make

    async def _fitted(self, run: RunState, make: Make) -> ModelRequest:
        """Return the next request, after what the last step taught, and a compaction where it is over the window."""
        if run.failure is not None or self.log.state.history.faults:
            await self._settle(run)
        history = self.log.state.history
        request = make(history)
        seeing = self.image_model is not None and self._seeing(run, request)[1] != ""
        budget = self.budget(run, seeing=seeing)
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
            most = budget.spec.max_tokens
            limited = f", of which execution.max_message_tokens leaves {most}" if 0 < most < budget.window else ""
            raise ContextFull(
                f"its window has {budget.window} tokens{limited}, and tools and fixed texts alone can take "
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


class Asking(msgspec.Struct, frozen=True):
    """Who asked in a step, and how.

    Args:
        agent: The agent, over a log that ends before the step.
        settings: How the reply was to be made, before its form and what was paid for.
        calls: Tools that its engine offers in place of the agent's own.
    """

    agent: Asker
    settings: Settings
    calls: ToolSpecs = NO_TOOLS


def paid(settings: Settings, longest: int | None) -> Settings:
    """Return how a reply is made where no longer one is paid for; see `StepStarted.max_tokens`."""
    if longest is None:
        return settings
    extra = {name: value for name, value in settings.extra.items() if name not in _COSTLY}
    return msgspec.structs.replace(settings, max_tokens=longest or None, extra=extra)


def narrowed(settings: Settings, tools: Sequence[str] | None) -> Settings:
    """Return how a reply is made in which only some calls are offered, of which one must be made.

    Args:
        settings: How the agent's replies are made.
        tools: The names of the tools; None for all of the agent's, of which none must be called.
    """
    choice = "" if not tools else tools[0] if len(tools) == 1 else "required"
    return settings if settings.tool_choice == choice else msgspec.structs.replace(settings, tool_choice=choice)


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
