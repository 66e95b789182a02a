"""A stored log as engines see it in a replay: what they record is compared with what stands there.

Who carries a replay out is in `replay.py`; the models and tools of one are in `replay_parts.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, NoReturn

from stepwell.engines.base import close
from stepwell.errors import Conflict, ToolError
from stepwell.events import (
    Answered,
    Asked,
    EndReason,
    Forked,
    PauseRequested,
    Recorded,
    RunClaimed,
    RunEnded,
    RunWaiting,
    Steered,
    StepStarted,
    Stored,
    SummaryEnded,
    SummaryStarted,
    ToolEnded,
    ToolStarted,
    Transient,
    Warned,
)
from stepwell.log import NO_BLOBS, Log, NestedLog, Workers, worker_of
from stepwell.messages import Message
from stepwell.runs.replay_ahead import Ahead
from stepwell.runs.replay_compare import (
    RAN,
    TAKERS,
    Difference,
    Kind,
    asks,
    by_others,
    closes,
    closes_fork,
    difference_of,
    is_input,
    same,
)
from stepwell.runs.replay_ends import interruption
from stepwell.runs.replay_times import AT_ONCE, Doubt, Times
from stepwell.state.thread import State

SLICES = 100
"""Turns of the loop in which nothing moves, until it is thought that nothing will."""
LEVEL = 10
"""Turns that an agent waits longer for others than the one above it, who may be about to tell it something."""
PATIENCE = 5.0
"""Seconds that work in a thread gets then."""

LOOKED_AHEAD = 100
"""Events among which is looked for what an engine did after a command."""


class ReplayLog(Ahead):
    """A stored log as engines see it: what they record is compared with what stands there.

    Implements `log.Log`. Where the log says that the run was interrupted, taken over or not carried on, the work
    in hand is cancelled, as it was then.

    Args:
        events: All of a thread.
        thread: Its id.
        notice: When those inputs, by number, are met that are not met at once, and which doubts are true.
        patience: Turns of the loop that the reading of an account takes, in which agents beside it go on.
    """

    def __init__(
        self, events: Sequence[Recorded], thread: str = "", notice: Times = AT_ONCE, patience: int = 0
    ) -> None:
        super().__init__(events)
        self.patience = patience
        self.path = ""
        self.difference: Difference | None = None
        self.proved = 0
        self.cut = False
        """Somebody interrupted what was under way, and the run went on."""
        self.doubts: list[tuple[int, Doubt]] = []
        """What else may have been, with the numbers of the events."""
        self.recorder = ""
        """Path of the agent that recorded last, and was not kept waiting since."""
        self._notice = notice
        forks = [each.event for each in events if isinstance(each.event, Forked)]
        self._edited = {seq for fork in forks for seq in (fork.edited, *fork.earlier)}
        self._threads = [thread, *(fork.origin or fork.parent for fork in reversed(forks))]
        self.thread = self._threads.pop()
        self._moved = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._halted = self._closing = self._stopped = False
        self.workers: Workers = _Turns(self)
        """The agents that work side by side; see `log.Log`."""
        self._outside = 0
        self._awaited: set[str] = set()
        """Calls whose results somebody waits for."""
        self._interrupted: list[str] = []
        """Paths of agents whose work is cut off as soon as what had ended by then is recorded."""
        self._take_inputs()

    @property
    def whole(self) -> State:
        """What the whole thread has come to; see `log.Log`."""
        return self.state

    def at(self, path: str) -> Log:
        """Return the log as another agent sees it; see `log.Log`."""
        return _NestedLog(self, path) if path else self

    def now(self) -> int:
        """Return the time of the stored event that comes next; see `log.Log`."""
        recorded = self.next() or (self._events[self._at - 1] if self._at else None)
        return recorded.time if recorded else 0

    async def changed(self, seq: int) -> None:
        """Wait until something from outside was taken in; see `log.Log`."""
        await self.changed_at("", seq)

    async def changed_at(self, path: str, seq: int) -> None:
        """Wait until an agent meets something that came from outside; see `log.Log`."""
        while self._outside <= seq:
            if (recorded := self.next()) is None or not is_input(recorded.event):
                await self._moved.wait()
            elif not await self.moves():
                self._take_inputs(early=True)
                self._tell()
        if self._notice.get(self._outside) == "unseen":
            await self.let_others(path)

    def take(self) -> None:
        """Apply the next event, and what others did right after it."""
        forked = isinstance(self._events[self._at].event, Forked)
        self._apply()
        # What was open in the parent was closed together with the fork.
        while forked and (recorded := self.next()) is not None and closes_fork(recorded.event):
            self._apply()
        self._take_inputs()
        self._tell()

    def _tell(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def _apply(self) -> None:
        recorded = self._events[self._at]
        self._at += 1
        self.state.apply(recorded)
        match recorded.event:
            case StepStarted():
                self.proved = recorded.seq
            case Steered(interrupt=True):
                self._interrupted.append(recorded.path)
            case RunClaimed():
                self._awaited.clear()
            case Forked():
                self._awaited.clear()
                self.thread = self._threads.pop()
            case _:
                pass

    def _take_inputs(self, *, early: bool = False) -> None:
        while (recorded := self.next()) is not None and is_input(recorded.event) and (early or not self._is_early()):
            self._apply()
            self._outside = recorded.seq
        self._cut_off()

    def _cut_off(self) -> None:
        while self._interrupted and not self.lands(self._interrupted[0]):
            stop = worker_of(self.workers, self._interrupted.pop(0))
            self.cut, self._stopped = stop is None, stop is not None
            if stop is not None:
                stop()

    def _is_early(self) -> bool:
        """Tell whether what comes next is not met yet, for it came while a call was running, or being made."""
        asked = self._events[self._at].event
        if self._notice.get(self._events[self._at].seq) in ("late", "meanwhile"):
            return True
        if isinstance(asked, Asked):
            return asked.call not in self._awaited  # no tool asks before it runs
        if not isinstance(asked, PauseRequested | Steered):
            return False
        following = [each.event for each in islice(self._events, self._at + 1, self._at + LOOKED_AHEAD)]
        if isinstance(asked, PauseRequested) and asks(following):
            return True
        match next((event for event in following if not is_input(event)), None):
            case ToolEnded(call=call, status=status) if status in RAN and call not in self._awaited:
                opened = self.open_call(call)
            case Asked(kind="outcome", call=call) if call not in self._awaited:
                opened = self.open_call(call)
            case _:
                return False
        question = opened.asked if opened is not None else None
        return opened is not None and opened.started > 0 and (question is None or question.event.kind == "approval")

    def interruption(self) -> RunEnded | None:
        """Return the end of the run if it comes next and was not the engine's decision."""
        return interruption(self._events, self._at, self.state.run)

    async def carry(self, work: Coroutine[Any, Any, None]) -> bool:
        """Carry out work until it is done or the log has something else to say; return whether it was cut off."""
        self._halted = self.cut = False
        self._awaited.clear()
        self._work = asyncio.ensure_future(work)
        try:
            await self._work
        except asyncio.CancelledError:
            if not self._halted:
                raise
        self._take_inputs(early=True)
        return self._halted

    async def close(self, reason: EndReason, cause: str, detail: str) -> None:
        """Close the run as the driver does; see `engines.base.close`."""
        self._closing = True
        try:
            await close(self, reason, cause, detail)
        finally:
            self._closing = False

    async def record(
        self, *events: Stored, durable: bool = False, blobs: Mapping[str, bytes] = NO_BLOBS, path: str | None = None
    ) -> None:
        """Compare events with the stored ones and apply those; see `log.Log`."""
        mine = path or ""
        for event in events:
            if isinstance(event, SummaryStarted | SummaryEnded):
                continue  # they come from the log, as those do that were made beside the run
            await self.turn(mine)
            while self._runs_elsewhere(mine, event) and await self._others_move():
                pass
            recorded = self.next()
            interrupted = not self._closing and self.interruption() is not None
            if recorded is None or interrupted or isinstance(recorded.event, TAKERS):
                await self._halt()
            elif recorded.path != mine or not self._is_made(recorded, event):
                await self._leave_to_fork()
                self.difference = difference_of(recorded, event, self.proved)
                await self._halt()
            self.take()
            await self._let_stop()
        self.recorder = mine

    def _runs_elsewhere(self, path: str, made: Stored) -> bool:
        """Tell whether the log has the result of another call first, which this agent has under way."""
        match self.next():
            case Recorded(event=Steered()) as recorded if recorded.path == path:
                return not isinstance(made, Steered)  # another agent passes on what was said
            case Recorded(event=ToolEnded() as ended) as recorded if recorded.path == path:
                if self._closing or (isinstance(made, ToolEnded) and made.call == ended.call):
                    return False
                agent = self.state.agents.get(path) if path else self.state
                opened = agent.run.calls.get(ended.call) if agent is not None and agent.run is not None else None
                return opened is not None and opened.started > 0 and opened.ended is None
            case _:
                return False

    def _is_made(self, recorded: Recorded, event: Stored) -> bool:
        """Tell whether an event is the stored one; one that was changed for a fork is what it was changed to."""
        return same(recorded.event, event) or (recorded.seq in self._edited and type(recorded.event) is type(event))

    async def turn(self, path: str) -> None:
        """Wait until the next event is of this agent, or of none that still works; agents side by side take turns.

        Where somebody interrupted the work, or the run, it is cut off here.
        """
        while True:
            await self._let_stop()
            if self.cut or (not self._closing and self.interruption() is not None):
                await self._halt()
            recorded = self.next()
            if recorded is not None and is_input(recorded.event):
                if self._closing or not await self.moves():
                    self._take_inputs(early=True)
                    self._tell()
                continue
            if recorded is None or recorded.path == path or self._closing or isinstance(recorded.event, TAKERS):
                return
            if not await self._others_move():
                return

    async def _let_stop(self) -> None:
        if self._stopped:  # whoever is stopped may be the very one that comes by here
            self._stopped = False
            await asyncio.sleep(0)

    async def moves(self, slices: int = SLICES) -> bool:
        """Let others go on; return whether any of them recorded something."""
        at = self._at
        for _ in range(slices):
            await asyncio.sleep(0)
            if self._at != at:
                return True
        return False

    async def _others_move(self) -> bool:
        at = self._at
        if await self.moves():
            return True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._moved.wait(), PATIENCE)
        return self._at != at

    def publish(self, delta: Transient) -> None:
        """Do nothing: nobody follows a replay."""

    async def committed(self) -> None:
        """Let others do what they did while the commit was waited for."""
        await self.let_others("")

    visible = committed

    async def let_others(self, path: str) -> None:
        """Let others record what comes before the next event of an agent that had to wait for something.

        Whatever does not come by itself is not waited for: that is done by `turn`, once the agent records something.
        """
        recorded = self.next()
        if recorded is not None and recorded.path in ("", path) and self._notice.get(recorded.seq) == "meanwhile":
            self._take_inputs(early=True)
            self._tell()
        while (recorded := self.next()) is not None and (recorded.path != path or by_others(recorded.event)):
            # Whoever records it waits for others, too, and is above those to whom it is no news.
            slices = 2 * SLICES if recorded.path == path else SLICES + LEVEL * len(path.split("/") if path else ())
            if self._closing or isinstance(recorded.event, TAKERS) or not await self.moves(slices):
                return

    async def read(self, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Return stored events that were applied by now, and by others while they were read."""
        await self.let_others("")
        return self.applied(after, limit)

    async def begin(self, path: str) -> None:
        """Let others record what comes before the first event of an agent that begins beside them."""
        at, inside = self._at, f"{path}/"
        while (recorded := self.next()) is not None and not f"{recorded.path}/".startswith(inside):
            early = self._notice.get(recorded.seq) == "early" or isinstance(recorded.event, TAKERS)
            if early or not await self.moves():
                break
        for each in self._events[at : self._at]:
            self.doubts.append((each.seq, "early"))

    def is_refused(self) -> bool:
        """Tell whether a call is taken to be refused of which the log tells nothing, for the process died."""
        recorded = self.next()
        if recorded is None:
            return False
        self.doubts.append((recorded.seq, "refused"))
        return self._notice.get(recorded.seq) == "refused"

    async def blob(self, prefix: str) -> bytes | None:
        """Return None: no tool runs that could ask."""
        return None

    def partial(self, message: int) -> Message:
        """Return an empty message: what had been published is in the log, and is what counts."""
        return Message("assistant")

    async def result(self, call: str, tool: str) -> ToolEnded:
        """Wait until the log has the result of a call, after those that came before it, and return it.

        Raises:
            ToolError: A person was asked instead.
            Conflict: It was given up, for another process came first, and the run halts.
        """
        path = self.path_of(call) or ""
        self._awaited.add(call)
        at = self._at
        self._take_inputs()
        if self._at != at:
            self._tell()
        while True:
            await self.turn(path)
            match self.landing(call):
                case Recorded(event=ToolEnded() as ended) if self.path_of(ended.call) == path:
                    if ended.call == call:
                        return ended
                    if not await self._others_move():
                        await self.stop("tool", tool)
                case Recorded(event=Asked(kind="outcome", call=id)) if id == call:
                    raise ToolError("nobody could tell")
                case Recorded(event=RunWaiting()) if self.state.run is not None and self.state.run.paused:
                    raise Conflict("the tool could not ask")
                case Recorded(event=ToolStarted() | Asked() | Answered() | Warned() | Steered()) if (
                    await self._others_move()
                ):
                    continue  # another call of the same reply was decided meanwhile
                case _:
                    await self.stop("tool", tool)

    async def stop(self, kind: Kind, name: str) -> NoReturn:
        """Cut the work off that waits for a model or tool: the log ends, or the process did, or it differs."""
        recorded = self.next()
        if recorded is not None and not isinstance(recorded.event, TAKERS):
            await self._leave_to_fork()
            self.difference = Difference(recorded.seq, kind, name, recorded.body.decode(), "", self.proved)
        await self._halt()

    async def _leave_to_fork(self) -> None:
        """Take what was being closed when the thread was forked: why that was no copy says."""
        for at in range(self._at, len(self._events)):
            event = self._events[at].event
            if isinstance(event, Forked) and at > self._at:
                while self._at < at:
                    self._apply()
                await self._halt()
            if not closes(event):
                return

    async def _halt(self) -> NoReturn:
        assert self._work is not None
        self._halted = True
        self._work.cancel()
        # The work may be waiting for this very task, so it is the work that is cancelled, never this task alone.
        await asyncio.Event().wait()
        raise AssertionError


class _Turns(Workers):
    """The agents that work side by side in a replay; each looks at the log when its next event comes."""

    def __init__(self, log: ReplayLog) -> None:
        super().__init__()
        self._log = log

    async def turn(self, path: str) -> None:
        """Let others do what they did before this agent looked; see `log.Workers`."""
        await self._log.begin(path)


class _NestedLog(NestedLog):
    """The log of an agent inside a run that is replayed."""

    __slots__ = ("_replayed",)

    def __init__(self, root: ReplayLog, path: str) -> None:
        super().__init__(root, path)
        self._replayed = root

    async def changed(self, seq: int) -> None:
        """Wait until the agent meets something from outside; see `log.Log`."""
        await self._replayed.changed_at(self.path, seq)

    async def committed(self) -> None:
        """Let others do what they did while the commit was waited for."""
        await self._replayed.let_others(self.path)

    visible = committed

    async def read(self, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Return stored events that were applied by now, and by others while they were read."""
        await self._replayed.let_others(self.path)
        return self._replayed.applied(after, limit)
