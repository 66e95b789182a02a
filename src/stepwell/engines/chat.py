"""The chat engine: ask the model, run the tools that it calls, again until it answers.

Every decision is taken from the log's fold, so there is no difference between going on and resuming.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import suppress

from stepwell.agent.asking import Asked
from stepwell.agent.base import BaseAgent
from stepwell.agent.replies import Fault, ReplySchema, validate
from stepwell.engines.base import close
from stepwell.engines.words import WORDS, words
from stepwell.errors import ContextFull, ReplyMisfit
from stepwell.events import (
    EndReason,
    MessageEnded,
    ModelFailed,
    ToolEnded,
    ToolProgress,
    ToolStarted,
)
from stepwell.messages import Message, clean
from stepwell.state import Log, OpenCall, RunState
from stepwell.tools.base import Complete, Prepared, Toolbox, ToolContext, ToolResult

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
        self.toolbox, self.complete, self.make_agent = toolbox, complete, make_agent
        self._output = output
        self._agent: BaseAgent | None = None

    async def step(self, log: Log) -> bool:
        """Make one decision and carry it out; see `Engine`."""
        run = log.state.run
        if run is None:
            return False
        if run.message:
            # Only a process that stopped leaves a message open between two decisions.
            failed = ModelFailed("interrupted", "the process stopped while the model answered")
            await log.record(failed, MessageEnded(Message("assistant"), "error"))
            return True
        agent = self._agent = self._agent or self.make_agent(log)
        over = self._over(agent, run)
        if run.unanswered() and over is None:
            await self._run_calls(log, agent, run)
            return True
        if over is not None:
            await close(log, *over)
            return False
        try:
            await self._ask(agent, run)
        except ContextFull as error:
            await close(log, "failed", "window", words("window", run.spec.language, detail=str(error)))
            return False
        return True

    async def close(self) -> None:
        """Give up the summaries under way."""
        if self._agent is not None and self._agent.summaries is not None:
            await self._agent.summaries.close()

    async def _ask(self, agent: BaseAgent, run: RunState) -> None:
        fault = self._misfit(run)
        if fault is None or run.reply is None or self._output is None:
            asked = await agent.ask((), self._output)
            if asked.message.calls:
                await agent.setup_summaries()
            return
        with suppress(ReplyMisfit):  # the next decision ends the run with it
            await agent.repair(Asked(run.reply, None, fault), (), self._output, aside=False)

    def _misfit(self, run: RunState) -> Fault | None:
        """Return what is wrong with the form of a final answer."""
        if self._output is None or run.reply is None or run.reply.calls or run.stop not in ("stop", "tool_calls"):
            return None
        found = validate(self._output, run.reply.content)
        return found if isinstance(found, Fault) else None

    def _over(self, agent: BaseAgent, run: RunState) -> tuple[EndReason, str, str] | None:
        """Return how the run ends if it ends here: reason, cause and words."""
        language, failure = run.spec.language, run.failure
        if failure is not None and failure.retry_in is None and not _passes(agent, failure.kind):
            return "failed", failure.kind, words("model_failed", language, detail=failure.detail)
        if run.reply is not None and not run.reply.calls and failure is None:
            fault = self._misfit(run)
            if fault is None:
                return _answered(run, run.reply, language)
            if run.repaired:
                return "failed", "invalid_output", words("invalid_output", language, detail=fault.reason)
        if run.malformed > MALFORMED_LIMIT:
            return "failed", "malformed_tool_call", words("malformed_tool_call", language, limit=run.malformed)
        return _over_limit(run, language)

    async def _run_calls(self, log: Log, agent: BaseAgent, run: RunState) -> None:
        ready: list[tuple[OpenCall, Prepared]] = []
        limit = run.spec.limits.tool_calls
        for each in run.unanswered()[: None if limit is None else limit - run.tool_calls]:
            if each.started and each.effect == "write":
                await log.record(ToolEnded(each.call.id, words("unknown_outcome", run.spec.language), "unknown"))
            elif run.stop == "length":
                await log.record(ToolEnded(each.call.id, words("truncated_call", run.spec.language), "invalid"))
            else:
                prepared = self.toolbox.prepare(each.call)
                if isinstance(prepared, ToolResult):
                    await log.record(_ended(each, prepared))
                else:
                    ready.append((each, prepared))
        new = [
            ToolStarted(each.call.id, prepared.tool.spec.name, prepared.tool.effect)
            for each, prepared in ready
            if not each.started
        ]
        if new:
            await log.record(*new, durable=any(event.effect != "pure" for event in new))
        if len(ready) == 1:
            await self._run_call(log, agent, run, *ready[0])
        elif ready:
            # One that finds the log moved must not take the others with it: their effects are under way.
            calls = [self._run_call(log, agent, run, each, prepared) for each, prepared in ready]
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                if outcome is not None:
                    raise outcome

    async def _run_call(self, log: Log, agent: BaseAgent, run: RunState, each: OpenCall, prepared: Prepared) -> None:
        id, room = each.call.id, agent.result_room(run)

        def tell(text: str) -> None:
            if each.ended is None:
                log.publish(ToolProgress(id, clean(text)))

        context = ToolContext(
            thread=log.thread,
            run=run.seq,
            call=id,
            key=f"{log.thread}.{each.started}",
            progress=tell,
            complete=self.complete,
            archive=log,
            room=room,
        )
        result = await self.toolbox.run(prepared, context, most=room)
        await log.record(_ended(each, result), blobs=result.blobs)


def _ended(each: OpenCall, result: ToolResult) -> ToolEnded:
    return ToolEnded(
        each.call.id,
        result.content,
        result.status,
        result.images,
        result.details,
        result.hash,
        result.size or len(result.whole),
    )


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


def _over_limit(run: RunState, language: str) -> tuple[EndReason, str, str] | None:
    limits, calling = run.spec.limits, bool(run.unanswered())
    used = (
        ("steps", limits.steps, run.steps, not calling),
        ("tool_calls", limits.tool_calls, run.tool_calls, calling),
        ("tokens", limits.tokens, run.usage.input + run.usage.output, True),
    )
    for name, limit, amount, counts in used:
        if limit is not None and counts and amount >= limit:
            return "limit", name, words(name, language, limit=limit)
    return None
