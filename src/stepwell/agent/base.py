"""The agent: what it knows, how it asks, and how its knowledge changes (XAgent's BaseAgent).

An agent holds no state of its own: what it knows is the fold of its log, and each change is an event. It runs no
tools and decides no next step; engines do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from stepwell import prompts
from stepwell.agent.accounts import Accounts
from stepwell.agent.arguments import ToolOutput, message_of, settings_with, tools_of
from stepwell.agent.asking import TAIL_PART, Asked, Asker
from stepwell.agent.memory import MemoryLog
from stepwell.agent.options import AgentOptions, context_spec
from stepwell.agent.replies import ReplySchema, built_in, repair_prompt, reply_schema
from stepwell.agent.summaries import Summaries
from stepwell.agent.views import PastCalls, PastSteps, basic_info, working_context
from stepwell.contexts import WRAPPED, LongTermContext, TaskConclusion, WorkingContext, cut_text
from stepwell.errors import ConfigError, ReplyMisfit
from stepwell.events import (
    HistoryCleared,
    LongTermUpdated,
    RunEnded,
    RunStarted,
    StepEnded,
    Stored,
    SummaryEnded,
    ToolEnded,
    ToolStarted,
    Warned,
    WorkingUpdated,
)
from stepwell.log import NO_BLOBS, Log
from stepwell.messages import NO_TOOLS, Message, ToolCall, ToolSpec, ToolSpecs, clean
from stepwell.models.base import Model, Settings
from stepwell.models.dialects.base import Dialect
from stepwell.rendering import call_text, fill, long_term, working
from stepwell.specs import RunSpec
from stepwell.state.run import OpenCall, RunState
from stepwell.tokens import Counter
from stepwell.tools.bounds import shorten

CONCLUSION = ""
"""Stands for the template `conclusion.default` in the agent's language."""
STEP_PROMPT = "What's next?"
CHAT_PROMPT = "Answer the user's query based on the history."

_NO_RESULT = ("No result was given for this call.", "此调用没有给出结果。")
_CHINESE = {STEP_PROMPT: "接下来做什么？", CHAT_PROMPT: "请根据历史记录回答用户的问题。"}

Replies = str | dict[str, Any] | ReplySchema | type | None
"""What names the form of a reply; see `replies.output_of`."""


class BaseAgent(Asker):
    """One agent over one log.

    Attributes:
        modes: What `get_step_message` knows; a subclass that knows further ones names them too.

    Args:
        config: Options.
        profile: What it is told about itself: the system message.
        step_prompt: The last message of a step, filled with its `step_arguments`; empty for none.
        chat_prompt: The same of a step in `chat_mode`.
        conclusion_prompt: The same in the mode `conclusion`.
        default_replies: Form of the replies apart from calls; None for none.
        model: Who answers.
        tools: What it may call.
        log: Where it records; without one it keeps a log in memory.
        dialect: Makes text of tools for a model that has no tool calls of its own; None for native calls.
        settings: How replies are made.
        model_name: The name sent to the endpoint; empty for the model's own.
        image_model: Asked instead where a request holds images and `model` does not see.
        recall: Offered besides the tools as soon as a text with a handle stands in the history.
        summaries: Makes summaries in the background; None for none.
        accounts: The accounts of keys; None where nobody pays together.
    """

    modes: tuple[str, ...] = ("default", "conclusion")

    def __init__(
        self,
        config: AgentOptions | None = None,
        profile: str = "",
        step_prompt: str = STEP_PROMPT,
        chat_prompt: str = CHAT_PROMPT,
        conclusion_prompt: str = CONCLUSION,
        default_replies: Replies = "simple_thought",
        *,
        model: Model,
        tools: ToolSpecs = NO_TOOLS,
        log: Log | None = None,
        dialect: Dialect | None = None,
        settings: Settings | None = None,
        model_name: str = "",
        image_model: Model | None = None,
        recall: ToolSpec | None = None,
        summaries: Summaries | None = None,
        accounts: Accounts | None = None,
    ) -> None:
        super().__init__(
            model,
            tools,
            log or MemoryLog(),
            config or AgentOptions(),
            dialect=dialect,
            settings=settings,
            model_name=model_name,
            image_model=image_model,
            recall=recall,
            accounts=accounts,
        )
        self.profile = profile
        self.step_prompt, self.chat_prompt, self.conclusion_prompt = step_prompt, chat_prompt, conclusion_prompt
        self.default_replies, self.summaries = reply_schema(default_replies), summaries
        self._own_run = 0

    def __str__(self) -> str:
        return type(self).__name__

    @cached_property
    def conclusion_arguments(self) -> ReplySchema:
        """Form of its conclusions."""
        return built_in()["conclusion"]

    # what it knows

    @property
    def longterm_context(self) -> LongTermContext:
        """What it knows for long."""
        return self.log.state.longterm

    @property
    def working_context(self) -> WorkingContext:
        """What it has before it in this step."""
        return working_context(self.log.state)

    @property
    def history_working_context(self) -> PastSteps:
        """The steps so far; older ones are read from the log."""
        return PastSteps(self.log)

    @property
    def history_tool_calls(self) -> PastCalls:
        """The calls so far; older ones are read from the log."""
        return PastCalls(self.log)

    @property
    def _tool_call_summary_task(self) -> object | None:
        return self.summaries.task("tool_calls") if self.summaries else None

    @property
    def _context_summary_task(self) -> object | None:
        return self.summaries.task("working_context") if self.summaries else None

    async def lazy_init(self, config: AgentOptions) -> None:
        """Take other options, and begin anew unless they say that the history is maintained.

        Summaries under way are waited for first. A run of somebody else's goes on under its own options.
        """
        self.config = config
        if self.summaries is not None:
            await self.summaries.settle()
        await self._end()
        state = self.log.state
        if not config.experiment.maintain_history_context and (state.working or len(state.transcript)):
            await self.log.record(*self._unanswered(), HistoryCleared())

    def context(self) -> list[str]:
        """Return the long-term and the working context as text."""
        language = self.language
        return [long_term(self.longterm_context, language), working(self.working_context, language)]

    @property
    def language(self) -> str:
        """Language of prompts and headings."""
        run = self.log.state.run
        return run.spec.language if run else self.config.language

    # what it says at the end of a request

    async def get_step_message(self, mode: str = "default", **kwargs: object) -> str:
        """Return the prompt of a step, filled with values by name.

        Args:
            mode: One of `modes`.
            kwargs: The values; those without a place in the template are ignored.

        Raises:
            ConfigError: The template names a value that is not given, or there is no such mode.
        """
        if mode == "default":
            return fill(self._spoken(self.step_prompt), **kwargs)
        if mode != "conclusion":
            raise ConfigError(f"There is no mode {mode[:80]!r} of a step; known: {', '.join(self.modes)}.")
        if self.conclusion_prompt:
            return fill(self.conclusion_prompt, **kwargs)
        template = prompts.load("conclusion", "default", self.language)
        return template.render(**{name: str(kwargs[name]) for name in template.variables if name in kwargs})

    async def get_chat_message(self, **kwargs: object) -> str:
        """Return the prompt of a chat about the work, filled with values by name; see `get_step_message`."""
        return fill(self._spoken(self.chat_prompt), **kwargs)

    def _spoken(self, prompt: str) -> str:
        return _CHINESE.get(prompt, prompt) if self.language == "zh" else prompt

    async def get_history_message(self, max_tokens: int) -> list[dict[str, str]]:
        """Return the newest of the history that fits into a number of tokens, oldest first.

        The oldest that is returned is cut where only a part of it fits.
        """
        run = await self._begin()
        counter = self.budget(run).meter.counter
        shown: list[dict[str, str]] = []
        for message in reversed(self.log.state.transcript):
            content = "" if message.role == "system" else _shown(message)
            if not content:
                continue
            tokens = counter.text(content) + counter.allowance.message
            if tokens > max_tokens:
                content = _head(content, max_tokens - counter.allowance.message, counter)
            if content:
                shown.append({"role": message.role, "content": content})
            if tokens >= max_tokens:
                break
            max_tokens -= tokens
        return shown[::-1]

    # steps

    async def step(
        self,
        step_arguments: dict[str, Any] | None = None,
        message: Message | Mapping[str, Any] | None = None,
        replies: Replies = None,
        tools: Sequence[ToolSpec | Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        *,
        setup_summary_tasks: bool = True,
        update_working_context: bool = True,
        chat_mode: bool = False,
        **kwargs: Any,
    ) -> tuple[list[dict[str, Any]], list[ToolCall]]:
        """Take one step: ask the model, record what it says, return the replies and calls; a failure brings neither.

        Args:
            step_arguments: Fill the prompt's template; `mode` chooses the template.
            message: Stands last in this request.
            replies: Form of the reply in this step; None for the agent's own.
            tools: What may be called in this step; None for the agent's own.
            tool_choice: Which tool must be called in this step.
            setup_summary_tasks: Whether summaries may be started after it.
            update_working_context: Whether the reply becomes a part of the history.
            chat_mode: Whether it is a chat about the work.
            kwargs: For the model call: fields of `models.base.Settings` and further ones of the request.

        Raises:
            ReplyMisfit: The reply does not fit its form even after one repair. Else as `ask`.
        """
        await self._begin()
        schema = self.default_replies if replies is None else reply_schema(replies)
        tail = await self._tail(step_arguments or {}, None if message is None else message_of(message), chat_mode)
        settings, offered = (
            settings_with(self.settings, tool_choice, kwargs),
            None if tools is None else tools_of(tools),
        )
        asked = await self._asked(tail, schema, offered, settings, aside=not update_working_context)
        if setup_summary_tasks:
            await self._setup_summary_tasks()
        return await self._told(asked, schema)

    async def _asked(
        self,
        tail: tuple[Message, ...],
        schema: ReplySchema | None,
        tools: Sequence[ToolSpec | Mapping[str, Any]] | None,
        settings: Settings,
        *,
        aside: bool,
    ) -> Asked:
        """Ask until the request fits its endpoint and the reply its form, each within its bounds."""
        offered = None if tools is None else tools_of(tools)
        if unanswered := self._unanswered():
            await self.log.record(*unanswered)
        asked = await self.ask(tail, schema, offered, settings, aside=aside)
        while self._overflowed() and self.may_learn():
            asked = await self.ask(tail, schema, offered, settings, aside=aside)
        if asked.fault is not None and schema is not None:
            asked = await self.repair(asked, tail, schema, settings, aside=aside)
        return asked

    def _overflowed(self) -> bool:
        failure = self.log.state.run.failure if self.log.state.run else None
        return failure is not None and failure.kind == "overflow"

    async def _told(self, asked: Asked, schema: ReplySchema | None) -> tuple[list[dict[str, Any]], list[ToolCall]]:
        run = self.log.state.run
        thoughts, calls = [] if asked.fields is None else [asked.fields], list(asked.message.calls)
        if schema is None and asked.message.content and (run is None or run.failure is None):
            thoughts = [{"thought": asked.message.content}]
        if not thoughts and not calls:
            await self.log.record(Warned("no_reply", "the model gave neither a reply nor a call"))
        return thoughts, calls

    async def get_task_conclusion(self, task: str, tasks_overview: str = "`wrapped`") -> TaskConclusion:
        """Conclude a task and add the conclusion to the past tasks.

        Raises:
            ReplyMisfit: The model gives no conclusion even after one repair, or fails.
        """
        replies, _ = await self.step(
            step_arguments={"mode": "conclusion", "task": task, "tasks_overview": tasks_overview},
            replies=self.conclusion_arguments,
            tools=[],
            setup_summary_tasks=False,
        )
        if not replies:
            failure = self.log.state.run.failure if self.log.state.run else None
            why = f": {failure.detail}" if failure else ""
            raise ReplyMisfit(f"The model gave no conclusion{why}")
        conclusion = msgspec.convert(replies[0], TaskConclusion)
        await self.log.record(LongTermUpdated(past_task=conclusion))
        return conclusion

    async def repair(
        self,
        asked: Asked,
        tail: tuple[Message, ...],
        schema: ReplySchema,
        settings: Settings | None = None,
        *,
        aside: bool = False,
    ) -> Asked:
        """Ask once more for a reply that did not fit its form.

        Args:
            asked: The reply, with its fault.
            tail: As it was asked for.
            schema: As it was asked for.
            settings: As it was asked for.
            aside: As it was asked for.

        Raises:
            ReplyMisfit: It does not fit again.
        """
        assert asked.fault is not None
        words = repair_prompt(schema, asked.message.content, asked.fault, self.language)
        asked = await self.ask((*tail, Message("user", words)), schema, NO_TOOLS, settings, aside=aside, repairs=True)
        if asked.fault is not None:
            raise ReplyMisfit(f"The model's reply does not fit the form {schema.name}: {asked.fault.reason}")
        return asked

    # how its knowledge changes

    async def update_tool_calls_output(self, tool_calls: Sequence[ToolOutput]) -> str:
        """Record what came of calls of the newest step, and return it as one text: the observation.

        A call that has a result keeps it; a result too big for a request is stored whole beside what stands for it.
        """
        run = self.log.state.run
        calls = run.calls if run else {}
        told: list[str] = []
        limit = self.config.execution.summary.single_step_max_tokens
        for each in tool_calls:
            if run is None or (opened := calls.get(each.id)) is None:
                continue
            if opened.ended is None:
                await self._record_output(opened, each, self.result_room(run))
            ended = opened.ended
            assert ended is not None
            told.append(call_text(opened.call, ended.status, ended.content, limit, language=self.language))
        return "\n".join(told)

    async def _record_output(self, opened: OpenCall, given: ToolOutput, room: int) -> None:
        call = opened.call
        whole = shorten(given.output, room) if len(given.output) > room else None
        content, data, hash = whole or (clean(given.output), b"", "")
        started = () if opened.started else (ToolStarted(call.id, call.name),)
        ended = ToolEnded(call.id, content, given.status, given.images, None, hash, len(data))
        await self.log.record(*started, ended, blobs={hash: data} if hash else NO_BLOBS)

    async def update_longterm_context(
        self,
        user_message: str | None = None,
        experience: str | None = None,
        skills_description: Sequence[str] | None = None,
        ideas: Sequence[str] | None = None,
        current_goal: str | None = None,
        available_tools: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        """Change the long-term context: a user's message is added, all else replaced, None leaves a part alone."""
        await self.log.record(
            LongTermUpdated(
                user_message=None if user_message is None else clean(user_message),
                experience=None if experience is None else clean(experience),
                skills_description=None if skills_description is None else tuple(map(clean, skills_description)),
                ideas=None if ideas is None else tuple(map(clean, ideas)),
                current_goal=None if current_goal is None else clean(current_goal),
                available_tools=None if available_tools is None else tuple(available_tools),
            )
        )

    async def pin(self, text: str) -> None:
        """Keep a fact in the long-term context, whatever else is left out; a blank one is ignored."""
        fact = clean(text).strip()
        if fact and fact not in self.longterm_context.pinned:
            await self.log.record(LongTermUpdated(pinned=fact))

    async def update_working_context(
        self, basic_info: dict[str, str] | None = None, observation: str | None = None
    ) -> bool:
        """Begin a new working context; empty entries are left out. Returns True."""
        await self._begin()
        given = {name: clean(str(value)) for name, value in (basic_info or {}).items() if value}
        await self.log.record(WorkingUpdated(given, None if observation is None else clean(observation)))
        return True

    async def _get_basic_info(self) -> dict[str, str]:
        """Return the time of the working context and the number of the step."""
        return basic_info(self.log.state)

    async def setup_summaries(self) -> None:
        """Start the summaries that are due; they run beside the tools, and no step waits for them."""
        await self._setup_summary_tasks()

    async def _setup_summary_tasks(self) -> None:
        state = self.log.state
        if self.summaries is not None and state.run is not None and self.summaries.concerns(state):
            await self.summaries.start(self.log, self.budget(state.run), await self.purse(state.run))

    async def _begin(self) -> RunState:
        """Open a run in a log that has none, that of an agent used by itself, and return the open one."""
        if self.log.state.run is None:
            seeing = self.image_model.profile if self.image_model else None
            spec = context_spec(self.config, self.model.profile, self.settings.max_tokens, seeing)
            system = self.profile
            await self.log.record(RunStarted(RunSpec(system=system, language=self.config.language, context=spec)))
            self._own_run = self.log.state.run.seq if self.log.state.run else 0
        run = self.log.state.run
        assert run is not None
        return run

    async def _end(self) -> None:
        """End the run that `_begin` opened, so that the next has the options of its time."""
        run = self.log.state.run
        if run is None or run.seq != self._own_run:
            return
        events: list[Stored] = [*self._unanswered(), *((StepEnded(),) if run.step else ())]
        for each in self.log.state.history.summarizing.values():
            events.append(SummaryEnded(each.kind, each.first, each.last, "cancelled", cost=each.reserved))
        await self.log.record(*events, RunEnded("answer"))

    def _unanswered(self) -> list[ToolEnded]:
        """Return results for calls that have none: endpoints take no conversation with open calls."""
        run = self.log.state.run
        text = _NO_RESULT[self.language == "zh"]
        return [ToolEnded(each.call.id, text, "cancelled") for each in run.unanswered()] if run else []

    async def _tail(self, arguments: dict[str, Any], message: Message | None, chat: bool) -> tuple[Message, ...]:
        """Return the messages at the end: working context and prompt as one, and the caller's own."""
        run = await self._begin()
        prompt = await (self.get_chat_message if chat else self.get_step_message)(**arguments)
        # Thoughts and calls stand in the history.
        now = msgspec.structs.replace(self.working_context, thoughts=(), tool_calls=())
        shown = working(now, self.language) if self.log.state.working else ""
        said = "\n\n".join(filter(None, (shown, prompt)))
        budget = self.budget(run)
        parts = [Message("user", said)] if said else []
        parts += [message] if message is not None else []
        return tuple(_cut(each, budget.room // TAIL_PART, budget.meter.counter) for each in parts)


def _cut(message: Message, most: int, counter: Counter) -> Message:
    # Bytes are never fewer than tokens, and cost no tables.
    if len(message.content.encode()) <= most or counter.text(message.content) <= most:
        return message
    head, tail = counter.cut(message.content, most * 2 // 3 - 20), counter.cut_tail(message.content, most // 3 - 20)
    return msgspec.structs.replace(message, content=cut_text(message.content, head, tail, ""))


def _head(text: str, most: int, counter: Counter) -> str:
    """Return the beginning of a text in at most so many tokens, marked as cut; empty where nothing fits."""
    room = most - counter.text(f"\n{WRAPPED}") - 1
    return f"{text[: counter.cut(text, room)]}\n{WRAPPED}" if room > 0 else ""


def _shown(message: Message) -> str:
    calls = [call_text(call, "", None, 400) for call in message.calls]
    return "\n".join(filter(None, (message.content, *calls)))
