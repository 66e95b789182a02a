"""The chat engine: ask the model, run the tools that it calls, again until it answers.

Every decision is taken from the log's fold, so there is no difference between going on and resuming.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress

import msgspec

from stepwell.agent.asking import Asked, Asking
from stepwell.agent.base import BaseAgent
from stepwell.agent.options import AgentOptions
from stepwell.agent.replies import Fault, ReplySchema, validate
from stepwell.engines.base import close, wait
from stepwell.engines.calls import Calls
from stepwell.engines.turns import limit_reached, paused, put_off, repeated, repetition, repetition_words, settle
from stepwell.engines.words import WORDS, words
from stepwell.errors import ContextFull, LimitReached, ReplyMisfit
from stepwell.events import EndReason, StepStarted
from stepwell.log import Log
from stepwell.messages import Message
from stepwell.models.base import Settings
from stepwell.state.run import RunState
from stepwell.tools.base import Complete, Toolbox

MALFORMED_LIMIT = 3
"""Replies in a row with nothing but malformed calls that are told to the model; one more ends the run."""


def constants() -> dict[str, str]:
    """Return what decides how runs go besides the log, by name; replay compares it with the run's own."""
    text = repr(sorted(WORDS.items())).encode()
    return {"chat.malformed_limit": str(MALFORMED_LIMIT), "chat.words": hashlib.sha256(text).hexdigest()[:12]}


class ChatEngine:
    """Drives one agent through a conversation with tools.

    Args:
        make_agent: Makes the agent over the run's log.
        toolbox: What it may call.
        complete: Asks a model one plain question, for tools that need one; None where there is none.
        output: The form of the final answer; None for plain text.
    """

    def __init__(
        self,
        make_agent: Callable[[Log], BaseAgent],
        toolbox: Toolbox,
        complete: Complete | None = None,
        output: ReplySchema | None = None,
    ) -> None:
        self.calls, self.make_agent = Calls(toolbox, complete), make_agent
        self._output = output
        self._agent: BaseAgent | None = None
        self._config: AgentOptions | None = None

    @property
    def agent(self) -> BaseAgent | None:
        """The agent, once there was a decision."""
        return self._agent

    @property
    def toolbox(self) -> Toolbox:
        """What the agent may call."""
        return self.calls.toolbox

    async def lazy_init(self, config: AgentOptions | None = None, get_available_tools: bool = True) -> None:
        """Take other options; what can be called stands in each request anyway.

        Args:
            config: Options of the agent; None leaves them.
            get_available_tools: Taken for the sake of engines that tell their agent of its tools once.
        """
        self._config = config or self._config
        if self._agent is not None and config is not None:
            self._agent.config = config

    async def step(self, log: Log) -> bool:
        """Make one decision and carry it out; see `Engine`."""
        run = log.state.run
        if run is None:
            return False
        if (run.message or run.interrupted or log.whole.agents) and await settle(log, run):
            return True
        agent = self._agent = self._agent or self._made(log)
        over = self._over(agent, log, run)
        if over is not None:
            await close(log, *over)
            return False
        if paused(log):
            await wait(log)
            return False
        if not run.open:
            return await self._ask(log, agent, run)
        if await self.calls.run(log, agent):
            return True
        await wait(log)
        return False

    def asking(self, log: Log, started: StepStarted) -> Asking:
        """Return who made a request, and how; see `engines.base.Asks`."""
        agent, run = self.make_agent(log), log.state.run
        if log.path or run is None:  # who is asked about the work of others answers with no settings
            return Asking(agent, Settings())
        return Asking(agent, (None if started.repairs else _forced(agent.settings, run)) or agent.settings)

    def _made(self, log: Log) -> BaseAgent:
        agent = self.make_agent(log)
        if self._config is not None:
            agent.config = self._config
        return agent

    async def close(self) -> None:
        """Give up the summaries under way."""
        if self._agent is not None and self._agent.summaries is not None:
            await self._agent.summaries.close()

    async def _ask(self, log: Log, agent: BaseAgent, run: RunState) -> bool:
        turn = await repetition(log) if repeated(run) else "clear"
        if turn == "waits":
            await wait(log)
            return False
        if turn == "stop":
            await close(log, "limit", *repetition_words(log))
            return False
        try:
            if turn == "clear":
                await self._ask_model(agent, run)
        except ContextFull as error:
            await close(log, "failed", "window", words("window", run.spec.language, detail=str(error)))
        except LimitReached as error:
            await close(log, "limit", error.name, str(error))
        return log.state.run is not None

    async def _ask_model(self, agent: BaseAgent, run: RunState) -> None:
        fault = self._misfit(run)
        if fault is None or run.reply is None or self._output is None:
            asked = await agent.ask((), self._output, settings=_forced(agent.settings, run))
            if asked.message.calls:
                await agent.setup_summaries()
            return
        with suppress(ReplyMisfit):  # the next decision ends the run with it
            await agent.repair(Asked(run.reply, None, fault), (), self._output, aside=False)

    def _misfit(self, run: RunState) -> Fault | None:
        """Return what is wrong with the form of a final answer."""
        if self._output is None or run.reply is None or run.reply.calls or run.unheard:
            return None
        if run.stop not in ("stop", "tool_calls"):
            return None
        found = validate(self._output, run.reply.content)
        return found if isinstance(found, Fault) else None

    def _over(self, agent: BaseAgent, log: Log, run: RunState) -> tuple[EndReason, str, str] | None:
        """Return how the run ends if it ends here: reason, cause and words."""
        language, failure = run.spec.language, run.failure
        if not run.open and not run.unheard and (kept := put_off(log)) is not None:
            return "answer", "question", kept
        if failure is not None and failure.retry_in is None and not _passes(agent, failure.kind):
            return "failed", failure.kind, words("model_failed", language, detail=failure.detail)
        if run.reply is not None and not run.reply.calls and failure is None and not run.unheard:
            fault = self._misfit(run)
            if fault is None:
                return _answered(run, run.reply, language)
            if run.repaired:
                return "failed", "invalid_output", words("invalid_output", language, detail=fault.reason)
        if run.malformed > MALFORMED_LIMIT:
            return "failed", "malformed_tool_call", words("malformed_tool_call", language, limit=run.malformed)
        limit = limit_reached(log)
        return None if limit is None else ("limit", *limit)


def _forced(settings: Settings, run: RunState) -> Settings | None:
    """Return how the first reply is made where something must be called in it; None for how all are."""
    choice = run.spec.tool_choice
    return msgspec.structs.replace(settings, tool_choice=choice) if choice and not run.kept else None


def _passes(agent: BaseAgent, kind: str) -> bool:
    """Tell whether the run goes on after a failure: the process stopped, or a smaller window was learned."""
    return kind == "interrupted" or (kind == "overflow" and agent.may_learn())


def _answered(run: RunState, reply: Message, language: str) -> tuple[EndReason, str, str]:
    if run.stop == "content_filter":
        return "failed", "content_filter", words("content_filter", language)
    if not reply.content:
        return "failed", "empty_reply", words("empty_reply", language)
    if run.stop == "length":
        return "answer", "length", words("length", language)
    return "answer", "", ""
