"""The run service: the one door to threads and runs for faces, the command line and the library.

It checks owners, starts, follows and cancels runs; who carries them out is in `carrying.py`. It knows no wire protocol
and appends through the one `ThreadLog` of each thread. What people do to runs and threads besides is in `people.py`,
`queue.py` and `forks.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from stepwell.engines.base import Engine
from stepwell.errors import Busy, Conflict, InputError, NotFound
from stepwell.events import CancelRequested, MessageAdded, MessageQueued, Policy, RunEnded, RunStarted, Steered
from stepwell.messages import Message, clean
from stepwell.runs.carrying import Carrying
from stepwell.runs.channel import Cursor, Item
from stepwell.runs.log import ThreadLog
from stepwell.runs.requests import NewThread, Once, RunRef
from stepwell.runs.threads import check_known, cleaned
from stepwell.specs import RunSpec

__all__ = ["NewThread", "Once", "RunRef", "RunService"]


class RunService(Carrying):
    """Threads and runs over a store; arguments are those of `Carrying`."""

    async def delete(self, owner: str, thread: str) -> None:
        """Remove a thread; an open run is cancelled first."""
        async with self.using(owner, thread) as log:
            self._leaving.add(thread)
            try:
                if log.state.run is not None and not log.state.foreign:  # else nobody carries it out or writes to it
                    await self.cancel(owner, thread, log.state.run.seq)
                async with log.turn:  # whoever drove the run has left
                    await self._remove(thread)
            finally:
                self._leaving.discard(thread)

    async def start(
        self,
        owner: str,
        message: Message | None,
        spec: RunSpec,
        *,
        thread: str = "",
        new: NewThread | None = None,
        once: Once | None = None,
        policy: Policy | str = "",
    ) -> RunRef:
        """Store a message and start a run on it; both are durable when this returns.

        Args:
            owner: Who asks.
            message: What they say; None to go on from the history of a new thread.
            spec: How the run goes.
            thread: Where; empty makes a thread.
            new: How to make it.
            once: Makes the request happen once.
            policy: What becomes of it while a run is open; empty for what the thread says.

        Returns:
            The run; or 0 and the number under which the message waits; or the open run and the number under which it
            was told of it.

        Raises:
            NotFound: There is no such thread.
            Busy: The thread has an open run, and the policy is `reject`.
            KeyReused: The idempotency key came before with another body.
        """

        async def enter() -> RunRef:
            made = new or NewThread()
            known = thread or await self._known(owner, made.id)
            log = await self._current(owner, known) if known else self._make(owner, message, made)
            return await self._entered(log, message, spec, policy, once, None if known else made)

        return await self.do_once(owner, once, enter)

    async def _entered(
        self,
        log: ThreadLog,
        message: Message | None,
        spec: RunSpec,
        policy: str,
        once: Once | None,
        new: NewThread | None,
    ) -> RunRef:
        try:
            ref = self._enter(log, message, spec, policy, once, new)
            await log.committed()
        finally:
            self._let_go(log)
        return ref

    def _enter(
        self,
        log: ThreadLog,
        message: Message | None,
        spec: RunSpec,
        policy: str,
        once: Once | None,
        new: NewThread | None,
    ) -> RunRef:
        """Start a run, or do with the message what the policy says."""
        state, run = log.state, log.state.run
        if message is None and new is None:
            raise InputError("The thread waits for a message; send one.", "content")
        if message is None or (run is None and not state.queue):
            self._begin(log, message and cleaned(message), spec, once, new)
            self._submit(log)
            return RunRef(log.thread, log.carried)
        message = cleaned(message)
        policy = policy or state.policy
        if policy == "reject":
            raise Busy("The thread has an open run; wait for its end or cancel it.", "thread")
        if run is None or policy == "queue" or run.cancel is not None or run.spec.outside:
            return RunRef(log.thread, 0, queued=self._put(log, (("", MessageQueued(message, spec)),), once=once))
        interrupts = policy == "interrupt"
        seq = self._put(log, (("", Steered(message, interrupts)),), interrupts=interrupts, once=once)
        return RunRef(log.thread, run.seq, steered=seq)

    async def begin(
        self,
        owner: str,
        message: Message,
        spec: RunSpec,
        *,
        thread: str = "",
        new: NewThread | None = None,
        once: Once | None = None,
    ) -> ThreadLog:
        """Record a message and the start of a run without driving it; see `start`.

        Raises:
            Busy: The thread has an open run.
        """
        log = await self._current(owner, thread) if thread else self._make(owner, message, new or NewThread())
        if log.state.run is not None:
            self._let_go(log)
            raise Busy("The thread has an open run; wait for its end or cancel it.", "thread")
        self._begin(log, cleaned(message), spec, once, new)
        return log

    def _begin(
        self, log: ThreadLog, message: Message | None, spec: RunSpec, once: Once | None, new: NewThread | None
    ) -> None:
        history = [MessageAdded(cleaned(each), "history") for each in (new.history if new else ())]
        log.carried = log.state.seq + len(history) + 1
        self._use_key(log, once, log.carried)
        said = () if message is None else (MessageAdded(message),)
        log.append(*history, RunStarted(spec), *said, again=True)

    async def stream(self, owner: str, message: Message, spec: RunSpec, *, thread: str = "") -> AsyncGenerator[Item]:
        """Start a run and yield everything of it as it happens, its `RunEnded` last; see `start`."""
        ref = await self.start(owner, message, spec, thread=thread, policy="reject")
        async with aclosing(self.follow(owner, ref.thread, Cursor(ref.run - 1))) as batches:
            async for items in batches:
                for item in items:
                    yield item
                    if item.run == ref.run and isinstance(item.event, RunEnded):
                        return

    async def cancel(self, owner: str, thread: str, run: int, reason: str = "") -> None:
        """Ask a run to stop; nothing happens when it is over.

        Raises:
            NotFound: There is no such thread or run.
        """
        async with self.using(owner, thread) as log:
            state = log.state.run
            if state is None or state.seq != run:
                await self.check_run(thread, run)
                return
            check_known(log)
            if state.cancel is None:
                with suppress(Conflict):  # it is kept, and appended after what came first
                    log.append(CancelRequested(clean(reason)))
                if log.interrupt is not None:
                    log.interrupt()
                else:
                    self._submit(log)
            await self.committed(log)

    async def check_run(self, thread: str, run: int) -> None:
        """Raise NotFound where a thread never had a run of this number."""
        found = await self.store.read(thread, after=run - 1, limit=1) if run > 0 else []
        if not found or not isinstance(found[0].event, RunStarted):
            raise NotFound("There is no such run.", "run")

    def engine(self, spec: RunSpec) -> Engine:
        """Build the engine of a run."""
        return self._assemble(spec)
