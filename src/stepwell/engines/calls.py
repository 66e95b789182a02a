"""The calls of a reply: judged, run side by side, and their results recorded; the same for every engine.

It asks no model and decides nothing about what comes after the results. What becomes of one call before it runs is
said in `approvals.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from stepwell.agent.base import BaseAgent
from stepwell.engines.approvals import Verdict, ended, judge, unknown_outcome
from stepwell.engines.delegating import Assemble, Delegate, Parts, carry, delegates, proposed
from stepwell.engines.inquiring import inquire, withdrawn
from stepwell.engines.turns import paused
from stepwell.errors import StoreError, ToolError
from stepwell.events import Answered, Stored, ToolEnded, ToolProgress, ToolStarted
from stepwell.log import NO_BLOBS, Log
from stepwell.messages import ToolCall, clean
from stepwell.questions import Inquiry
from stepwell.state.run import OpenCall, RunState
from stepwell.tools.base import Complete, Prepared, Toolbox, ToolContext, ToolResult
from stepwell.tools.policy import is_threaded, is_untrusted
from stepwell.tools.results import bound

Handler = Callable[[ToolCall], tuple[Stored, ...]]
"""Carries out a call that is the engine's own business, such as a submission: returns what is recorded at once, the
call's `ToolEnded` among it."""

NO_HANDLERS: Mapping[str, Handler] = MappingProxyType({})

Ready = list[tuple[OpenCall, Verdict]]


class Calls:
    """Runs the calls of an agent's newest reply.

    Args:
        toolbox: What may be called.
        complete: Asks a model one plain question, for tools that need one; None where there is none.
        delegate: Says how another agent does a task; None where there are no others.
        assemble: Builds the engine of such a task.
    """

    def __init__(
        self,
        toolbox: Toolbox,
        complete: Complete | None = None,
        delegate: Delegate | None = None,
        assemble: Assemble | None = None,
    ) -> None:
        self.toolbox, self.complete = toolbox, complete
        self.parts = Parts(delegate, assemble) if delegate is not None and assemble is not None else None

    async def run(self, log: Log, agent: BaseAgent, handlers: Mapping[str, Handler] = NO_HANDLERS) -> bool:
        """Bring the calls without a result as far as they go by themselves.

        Those that may run are started at once, whatever the others wait for; what people decide meanwhile is started,
        too. A failure of one to be recorded takes none of the others with it.

        Args:
            log: Whose newest reply it is.
            agent: Knows how much room there is for a result.
            handlers: Carries out calls of these names in place of a tool.

        Returns:
            False where nothing was done, for all that is left waits for people; then nothing was awaited since the
            look at the log.

        Raises:
            Conflict: Somebody else appended; ask again.
        """
        flight = _Flight(self, log, agent, handlers)
        ready = await flight.decide()
        run = log.state.run
        if len(ready) == 1 and run is not None and run.open == 1:
            await flight.carry_out(*ready[0])
        elif ready:
            async with asyncio.TaskGroup() as group:
                await flight.go(group, ready)
            if flight.error is not None:
                raise flight.error
        return flight.did or flight.stale()


class _Flight:
    """The calls of one reply while they are carried out."""

    _landed: asyncio.Event
    """Set when a call has ended; made where several may be under way."""

    def __init__(self, calls: Calls, log: Log, agent: BaseAgent, handlers: Mapping[str, Handler]) -> None:
        self.toolbox, self.complete, self.parts = calls.toolbox, calls.complete, calls.parts
        self.log, self.agent, self.handlers = log, agent, handlers
        self.flying: set[str] = set()
        self.waits: dict[str, int] = {}
        """Calls whose delegated tasks wait for people, with the number of the newest event that each saw."""
        self.error: Exception | None = None
        self.lost: dict[str, StoreError] = {}
        """Why running calls could not ask."""
        self.did = False
        self.seen = 0
        """Number of the newest event when the calls were looked at last."""

    def idle(self) -> list[OpenCall]:
        """Return the calls that have no result and are not under way here."""
        run = self.log.state.run
        return self._idle(run) if run is not None else []

    def _idle(self, run: RunState) -> list[OpenCall]:
        calls = run.unanswered()
        return [each for each in calls if each.call.id not in self.flying] if self.flying else calls

    def stale(self) -> bool:
        """Tell whether something happened since a call was left to wait."""
        return any(seen < self.log.whole.seq for seen in (self.seen, *self.waits.values()))

    async def decide(self) -> Ready:
        """Judge the calls that are not under way, record what comes of it, and return those that are to be started."""
        while True:
            self.seen = self.log.whole.seq
            verdicts = await self._judged()
            if self.log.whole.seq == self.seen:
                break  # else something happened while the log was read
        ready: Ready = []
        events: list[Stored] = []
        new: list[ToolStarted] = []
        durable = False
        blobs: dict[str, bytes] = {}
        for each, verdict in verdicts:
            events += [*withdrawn(self.log, each.call.id), *verdict.events]  # a cut off attempt may have asked
            if verdict.result is not None:
                result = self._bounded(each, verdict.result)
                events.append(ended(each, result))
                blobs |= result.blobs
            if verdict.run is None:
                continue
            ready.append((each, verdict))
            self.did = self.did or self.parts is None or not self._delegates(each)
            if not each.started:
                new.append(self._started(each, verdict.run))
            durable = durable or verdict.run.tool.effect != "pure"  # the yes to another attempt must be stored, too
        if events or new:
            self.did = True
            await self.log.record(*events, *new, durable=durable, blobs=blobs)
        return ready

    async def _judged(self) -> Ready:
        """Return what becomes of the calls that are not under way; those of handlers are carried out."""
        run, root = self.log.state.run, self.log.whole.run
        if run is None or root is None or root.cancel is not None or run.interrupted or paused(self.log):
            return []
        verdicts: Ready = []
        for each in self._affordable(run):
            handler = self.handlers.get(each.call.name)
            if each.call.id in self.waits:
                continue
            if handler is not None and run.stop != "length":
                self.did = True
                await self.log.record(*handler(each.call))
            else:
                verdict = await judge(self.log, run, self.toolbox, each)
                verdicts.append((each, verdict if self.parts is None else self._proposed(each, verdict, self.parts)))
        return verdicts

    def _delegates(self, each: OpenCall) -> bool:
        return self.parts is not None and delegates(self.toolbox, each)

    def _proposed(self, each: OpenCall, verdict: Verdict, parts: Parts) -> Verdict:
        """Refuse a call that gives no task that an agent could do."""
        if verdict.run is None or each.started or not self._delegates(each):
            return verdict
        made = proposed(self.log, self.toolbox, each, parts)
        return Verdict((made,)) if isinstance(made, ToolEnded) else verdict

    def _affordable(self, run: RunState) -> list[OpenCall]:
        """Return the idle calls that the limits of calls allow, those first that come first."""
        whole = self.log.whole
        spec = (whole.run or run).spec
        limit, of_thread = spec.limits.tool_calls, spec.thread_limits.tool_calls if spec.thread_limits else None
        if of_thread is not None:
            of_thread -= whole.spent.tool_calls
            limit = of_thread if limit is None else min(limit, of_thread)
        if limit is None:
            return self._idle(run)
        others = [agent for agent in (whole, *whole.agents.values()) if agent.path != self.log.path]
        busy = sum(bool(each.started) for agent in others if agent.run for each in agent.run.unanswered())
        allowed = run.unanswered()[: max(0, limit - run.spent.tool_calls - busy)]
        return [each for each in self._idle(run) if each.started or each in allowed]

    def _bounded(self, each: OpenCall, result: ToolResult) -> ToolResult:
        """Return the result of a client's tool as the model can be told it."""
        run, tool = self.log.state.run, self.toolbox.get(each.call.name)
        assert run is not None
        room = self.agent.result_room(run)
        return bound(result, room if tool is None else min(tool.output_limit, room))

    def _started(self, each: OpenCall, prepared: Prepared) -> ToolStarted:
        tool = self.toolbox.get(each.call.name) or prepared.tool
        id, name, effect = each.call.id, prepared.tool.spec.name, prepared.tool.effect
        return ToolStarted(id, name, effect, is_threaded(tool), is_untrusted(tool))

    async def go(self, group: asyncio.TaskGroup, ready: Ready) -> None:
        """Start calls, and whatever may start while they run; return when nothing more can be done."""
        self._landed = asyncio.Event()
        try:
            while True:
                while ready:
                    for each, verdict in ready:
                        self.flying.add(each.call.id)
                        group.create_task(self._fly(each, verdict))
                    ready = await self.decide()  # something may have been decided while it was recorded
                if self.error is not None or not self.flying:
                    return
                await self._news()
                if self.error is None:
                    ready = await self.decide()
        except Exception as error:  # raised by `run` when those under way, whose effects may be done, have ended
            self.error = self.error or error

    async def _news(self) -> None:
        """Wait until a call has ended, or somebody may have decided on one that waits."""
        told = asyncio.create_task(self._told()) if self.idle() else None
        waiting: list[asyncio.Task[object]] = [asyncio.create_task(self._landed.wait())]
        waiting += [told] if told is not None else []
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if told is not None and told.done():
                self.waits.clear()
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        self._landed.clear()

    async def _told(self) -> None:
        await self.log.changed(min((self.seen, *self.waits.values())))

    async def _fly(self, each: OpenCall, verdict: Verdict) -> None:
        task = asyncio.current_task()
        try:
            await self.carry_out(each, verdict, task.cancel if task is not None else None)
        except Exception as error:  # one that finds the log moved must not take the others with it
            self.error = self.error or error
        finally:
            self.flying.discard(each.call.id)
            self._landed.set()

    async def carry_out(self, each: OpenCall, verdict: Verdict, stop: Callable[[], object] | None = None) -> None:
        """Run one call and record its result; `stop` ends that where others run beside it."""
        run = self.log.state.run
        assert run is not None
        assert verdict.run is not None
        if self.parts is not None and self._delegates(each):
            await self._carry_on(each, self.parts, verdict.run.tool.output_limit, stop)
            return
        context = self._context(run, each)
        result: ToolResult | None = None
        if verdict.probe:
            try:
                result = await self.toolbox.probe(verdict.run, context, most=context.room)
            except ToolError:
                await self._land(each, unknown_outcome(run, self.toolbox, each))
                return
        if result is None:
            result = await self.toolbox.run(verdict.run, context, most=context.room)
        lost = self.lost.pop(each.call.id, None)
        if lost is not None and result.status == "failed":
            raise lost  # that is no fault of the tool
        await self._land(each, ended(each, result), result.blobs)

    async def _land(self, each: OpenCall, event: Stored, blobs: Mapping[str, bytes] = NO_BLOBS) -> None:
        """Record what came of a call, unless another process has ended it, or has another call of this id."""
        run = self.log.state.run
        opened = run.calls.get(each.call.id) if run is not None else None
        if opened is not None and opened.ended is None and opened.started == each.started:
            await self.log.record(*withdrawn(self.log, each.call.id), event, blobs=blobs)

    async def _carry_on(self, each: OpenCall, parts: Parts, most: int, stop: Callable[[], object] | None) -> None:
        """Carry the task on that a call gave to another agent; its end is the call's."""
        carried = await carry(self.log, self.toolbox, each, parts, stop)
        self.did = self.did or carried.moved
        run = self.log.state.run
        if carried.over is None or run is None:
            self.waits[each.call.id] = carried.seen
            return
        self.did = True
        result = bound(carried.over, min(most, self.agent.result_room(run)))
        await self.log.record(ended(each, result), blobs=result.blobs)

    async def _ask(self, call: str, inquiry: Inquiry) -> Answered | None:
        try:
            return await inquire(self.log, call, inquiry)
        except StoreError as error:
            self.lost[call] = error
            raise

    def _context(self, run: RunState, each: OpenCall) -> ToolContext:
        log, id = self.log, each.call.id

        def tell(text: str) -> None:
            current = log.state.run.calls.get(id) if log.state.run else None
            if current is not None and current.ended is None:
                log.publish(ToolProgress(id, clean(text)))

        return ToolContext(
            thread=log.thread,
            run=run.seq,
            call=id,
            key=f"{log.thread}.{each.started}",
            progress=tell,
            complete=self.complete,
            ask=partial(self._ask, id),
            archive=log,
            room=self.agent.result_room(run),
        )
