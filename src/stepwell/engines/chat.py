"""The chat engine: ask the model, run the tools that it calls, again until it answers.

Every decision is taken from the log's fold, so there is no difference between going on and resuming.
"""

from __future__ import annotations

import asyncio
import hashlib

from stepwell.agent.base import BaseAgent
from stepwell.engines.base import close
from stepwell.engines.words import WORDS, words
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
        agent: Who is asked.
        toolbox: What it may call.
        complete: Asks a model one plain question, for tools that need one; None where there is none.
    """

    def __init__(self, agent: BaseAgent, toolbox: Toolbox, complete: Complete | None = None) -> None:
        self.agent, self.toolbox, self.complete = agent, toolbox, complete

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
        over = self._over(run)
        if run.unanswered() and over is None:
            await self._run_calls(log, run)
            return True
        if over is not None:
            await close(log, *over)
            return False
        await self.agent.step(log)
        return True

    def _over(self, run: RunState) -> tuple[EndReason, str, str] | None:
        """Return how the run ends if it ends here: reason, cause and words."""
        language, failure = run.spec.language, run.failure
        if failure is not None and failure.retry_in is None and failure.kind != "interrupted":
            return "failed", failure.kind, words("model_failed", language, detail=failure.detail)
        if run.reply is not None and not run.reply.calls:
            return _answered(run, run.reply, language)
        if run.malformed > MALFORMED_LIMIT:
            return "failed", "malformed_tool_call", words("malformed_tool_call", language, limit=run.malformed)
        return _over_limit(run, language)

    async def _run_calls(self, log: Log, run: RunState) -> None:
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
            await self._run_call(log, run, *ready[0])
        elif ready:
            # One that finds the log moved must not take the others with it: their effects are under way.
            calls = [self._run_call(log, run, each, prepared) for each, prepared in ready]
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                if outcome is not None:
                    raise outcome

    async def _run_call(self, log: Log, run: RunState, each: OpenCall, prepared: Prepared) -> None:
        id = each.call.id

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
        )
        await log.record(_ended(each, await self.toolbox.run(prepared, context)))


def _ended(each: OpenCall, result: ToolResult) -> ToolEnded:
    return ToolEnded(each.call.id, result.content, result.status, result.images, result.details)


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
