"""One run of a LangChain agent as events of our log.

What happens is appended as far as the fold shows that it has not been: so a reply, its calls and their results stay
nested whatever a graph does. Callbacks are `recorder.py`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.outputs import LLMResult

from stepwell.engines.base import cancelled_calls
from stepwell.errors import RunFailed
from stepwell.events import (
    CallDelta,
    EndReason,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    ModelFailed,
    StepEnded,
    StepStarted,
    Stored,
    TextDelta,
    ThinkingDelta,
    ToolEnded,
    ToolProgress,
    ToolStarted,
    Transient,
    Warned,
)
from stepwell.integrations.langchain.reading import (
    Piece,
    Reply,
    answer_in,
    asked_in,
    digest_of,
    failed,
    is_command,
    reply_of,
    result_of,
    results_in,
    shown,
    talk_of,
)
from stepwell.integrations.outside import Decide, OutsideRun
from stepwell.messages import Message, ToolCall, clean
from stepwell.runs.requests import NewThread
from stepwell.runs.service import RunService
from stepwell.specs import Limits, RunSpec
from stepwell.state.agent import AgentState
from stepwell.state.run import RunState

FACE = "langchain"
GONE = "The run is over in Stepwell: somebody cancelled it, or another process took it."
INTERRUPTED = "The agent waits for people; its next run goes on."


class Where(NamedTuple):
    """Where runs are recorded, and under which name; as the arguments of `recorder.StepwellRecorder`."""

    service: RunService
    owner: str
    agent: str
    language: str


class Request(NamedTuple):
    """A model is asked.

    Args:
        id: LangChain's id of the call.
        messages: What it is asked.
        given: Settings and facts of the call, as LangChain passes them on.
    """

    id: UUID
    messages: Sequence[BaseMessage]
    given: Mapping[str, Any]


class _Late(NamedTuple):
    """A reply that came while another step was open."""

    request: Request
    reply: Reply


class Recording:
    """What is recorded of one outermost run.

    Args:
        where: Where it is recorded.
        inputs: What the outermost run was given.

    Attributes:
        run: The open run; None before it has begun.
        refused: It could not begin, and nothing is recorded.
    """

    def __init__(self, where: Where, inputs: object) -> None:
        self.run: OutsideRun | None = None
        self.refused = False
        self._where, self._inputs = where, inputs
        self._asked: dict[UUID, Request] = {}
        """Model calls under way."""
        self._current: UUID | None = None
        """The one whose reply is the open message."""
        self._late: list[_Late] = []
        self._halts = False
        self._ids: dict[str, str] = {}
        """Our ids of calls by LangChain's, which need not be unique in a thread."""
        self._tools: dict[UUID, tuple[str, str]] = {}
        """Tools that run: the id of the call, empty for none, and what is called."""
        self._errors: dict[str, str] = {}
        """What tools raised, by LangChain's ids of their calls, until it is known what the model is told of it."""
        self._results: dict[str, tuple[ToolStarted | None, ToolEnded | None]] = {}
        """What became of calls whose reply is not recorded yet, by LangChain's ids."""

    async def begin(self, thread: str, request: Request | None) -> OutsideRun:
        """Record the start of the run, with what the user says.

        Args:
            thread: The thread; empty makes one.
            request: What the model is asked, if that is what happens first.

        Raises:
            Busy: The thread has an open run.
            StoreError: The store failed.
        """
        goes_on = is_command(self._inputs)
        talk = talk_of(request.messages if request and not goes_on else asked_in(self._inputs))
        user = talk.user if talk.user.content or talk.user.images else Message("user", clean(shown(self._inputs)))
        spec = _spec(self._where, talk.system, request)
        new = NewThread(history=talk.history) if not thread else None
        self.refused = True  # until it has begun
        self.run = await OutsideRun.begin(self._where.service, self._where.owner, user, spec, thread, new)
        self.refused = False
        return self.run

    # model calls

    async def asked(self, request: Request) -> None:
        """Record the beginning of a step; beside an open one it is recorded when it is whole.

        Raises:
            RunFailed: Somebody cancelled the run.
        """
        self._asked[request.id] = request
        await self._record(lambda state, run: self._unresolved(run, request.messages, errors=True))
        self._errors.clear()
        if self._current is None and self._step_is_over():
            await self._start_step(request)

    async def _start_step(self, request: Request) -> None:
        self._current = request.id
        digest = digest_of(request.messages)
        await self._record(lambda state, run: [StepStarted(run.steps + 1, digest), MessageStarted()])

    def _step_is_over(self) -> bool:
        run = self.run.run if self.run else None
        return run is not None and not run.step

    async def piece(self, id: UUID, tool: UUID | None, text: str, thinking: str, pieces: Sequence[Piece]) -> None:
        """Show a piece of a reply; of one that a tool asks for, as the tool's progress.

        Raises:
            RunFailed: Somebody cancelled the run.
        """
        if tool is not None:
            self._progress(tool, text)
        elif id == self._current and self.run is not None:
            self._check()
            run = self.run.run
            deltas = _deltas(run.message, text, thinking, pieces) if run is not None else []
            self.run.publish(*deltas)

    async def replied(self, id: UUID, result: LLMResult) -> None:
        """Record a whole reply."""
        request = self._asked.pop(id, None)
        if request is None:
            return
        reply = reply_of(result)
        if id != self._current:
            self._late.append(_Late(request, reply))
        else:
            await self._take(reply)
        await self._catch_up()

    async def _take(self, reply: Reply) -> None:
        """Record a reply, and what became of its calls as far as that is known."""
        self._current = None
        calls: list[ToolCall] = []

        def decide(state: AgentState, run: RunState) -> list[Stored]:
            if not run.message:
                return []
            calls[:] = [self._own(state, call, number) for number, call in enumerate(reply.message.calls)]
            message = Message("assistant", reply.message.content, thinking=reply.message.thinking, calls=tuple(calls))
            ended = MessageEnded(message, reply.stop, reply.usage)
            return [ended] if calls else [ended, StepEnded()]

        await self._record(decide)
        for call in reply.message.calls:
            for event in self._results.pop(call.id, ()):
                if event is not None:
                    await self._record_call(event)

    def _own(self, state: AgentState, call: ToolCall, number: int) -> ToolCall:
        """Return a call with an id that the thread does not have yet."""
        id = clean(call.id) or f"call_{number}"
        while state.has_call(id) or (id in self._ids.values() and self._ids.get(call.id) != id):
            id += "_"
        self._ids[call.id] = id
        return ToolCall(id, call.name, call.arguments)

    async def model_failed(self, id: UUID, error: BaseException) -> None:
        """Record that a model call failed."""
        request = self._asked.pop(id, None)
        if request is None or id != self._current:
            return
        self._current = None
        detail, outside = _words(error), self.run

        def decide(state: AgentState, run: RunState) -> list[Stored]:
            if not run.message or outside is None:
                return []
            said = outside.partial(run.message)
            if isinstance(error, asyncio.CancelledError):
                return [MessageEnded(said, "cancelled"), StepEnded()]
            return [ModelFailed("server", detail), MessageEnded(said, "error"), StepEnded()]

        await self._record(decide, check=False)
        await self._catch_up()

    async def _catch_up(self) -> None:
        """Record replies that came beside a step which is over now."""
        while self._late and self._current is None and self._step_is_over():
            late = self._late.pop(0)
            await self._start_step(late.request)
            await self._take(late.reply)

    # tools

    async def tool_started(
        self, id: UUID, call: str, name: str, given: Mapping[str, object] | str, *, threaded: bool
    ) -> None:
        """Record that a tool is about to run; what it does outside is unknown.

        Raises:
            RunFailed: Somebody cancelled the run.
        """
        self._check()
        self._tools[id] = (call, f"{name}({clean(shown(given))})")
        if call:
            await self._record_call(ToolStarted(call, clean(name), "write", threaded))
            self._check()

    async def tool_ended(self, id: UUID, output: object) -> None:
        """Record the result of a tool, or keep the error that it raised: it may be tried again, or be put in words."""
        call, called = self._tools.pop(id, ("", ""))
        if isinstance(output, BaseException):
            if _is_of(output, "GraphBubbleUp"):
                return  # it halts for people and has no result yet
            text, error = _words(output), True
        else:
            text, error = clean(result_of(output)), failed(output)
        if call and isinstance(output, BaseException):
            self._errors[call] = text
        elif call:
            self._errors.pop(call, None)
            await self._record_call(ToolEnded(call, text, "failed" if error else "ok"))
            await self._catch_up()
        elif called:
            await self._warn(f"{called}: {text}")

    async def _warn(self, detail: str) -> None:
        """Record a tool that ran although no recorded reply asked for it."""
        await self._record(lambda state, run: [Warned("tool_without_call", clean(detail))], check=False)

    def tool_inside(self, tool: UUID, name: str, given: Mapping[str, object] | str) -> None:
        """Show that a tool runs inside another."""
        self._progress(tool, f"{name}({clean(shown(given))})\n")

    async def results(self, outputs: object) -> None:
        """Record results that came without a tool's callback, such as that of a tool that there is not."""
        found = results_in(outputs)
        if found and self.run is not None:
            await self._record(lambda state, run: self._unresolved(run, found), check=False)
            await self._catch_up()

    def _unresolved(self, run: RunState, messages: Sequence[BaseMessage], *, errors: bool = False) -> list[Stored]:
        """Return results for calls that have none, from messages that hold them, or from what tools raised."""
        held = {id: (text, True) for id, text in self._errors.items()} if errors else {}
        results = [each for each in messages if isinstance(each, ToolMessage)]
        held |= {each.tool_call_id: (clean(result_of(each)), failed(each)) for each in results}
        given = {self._ids.get(id, id): found for id, found in held.items()}
        running = {self._ids.get(call, call) for call, _ in self._tools.values()}
        ended: list[Stored] = [
            ToolEnded(each.call.id, found[0], "failed" if found[1] else "ok")
            for each in run.unanswered()
            if (found := given.get(each.call.id)) is not None and each.call.id not in running
        ]
        return [*ended, StepEnded()] if ended and len(ended) == run.open else ended

    async def _record_call(self, event: ToolStarted | ToolEnded) -> None:
        """Record what becomes of a call, now or when its reply is recorded."""
        known = True

        def decide(state: AgentState, run: RunState) -> list[Stored]:
            nonlocal known
            id = self._ids.get(event.call, event.call)
            opened = run.calls.get(id)
            known = opened is not None
            if opened is None or opened.ended is not None:
                return []
            if isinstance(event, ToolStarted):
                return [] if opened.started else [_renamed(event, id)]
            return [_renamed(event, id), StepEnded()] if run.open == 1 else [_renamed(event, id)]

        await self._record(decide, check=False)
        if not known:
            started, ended = self._results.get(event.call, (None, None))
            is_start = isinstance(event, ToolStarted)
            self._results[event.call] = (event, ended) if is_start else (started, event)

    def _progress(self, tool: UUID, text: str) -> None:
        call = self._tools.get(tool, ("", ""))[0]
        if call and text and self.run is not None:
            self.run.publish(ToolProgress(self._ids.get(call, call), clean(text)))

    # the end

    def node_failed(self, error: BaseException) -> None:
        """Note that a graph halts for people: its node raises, and the graph ends as if all were well."""
        self._halts = self._halts or _is_of(error, "GraphInterrupt")

    async def end(self, outputs: object, error: BaseException | None) -> None:
        """Record the end of the run.

        Args:
            outputs: What it came to.
            error: What it failed of; None if it did not.
        """
        outside = self.run
        if outside is None:
            return
        await self._record(lambda state, run: self._unresolved(run, (), errors=True), check=False)
        await self._leftovers()
        if error is not None:
            reason, cause = _end_of(error)
            await outside.end(reason, cause, _words(error))
        elif self._halts:
            await outside.end("cancelled", "interrupted", INTERRUPTED)
        else:
            answer = clean(answer_in(outputs))
            await self._record(lambda state, run: _said(run, answer), check=False)
            await outside.end("answer")

    async def _leftovers(self) -> None:
        """Record what has found no place so far: replies beside others, and results of calls that nobody made."""
        while self._late and self._current is None and self.run is not None and self.run.run is not None:
            await self._record(lambda state, run: _step_closed(run), check=False)
            await self._catch_up()
        for call, (_, ended) in self._results.items():
            if ended is not None:
                await self._warn(f"{call}: {ended.content}")
        self._results.clear()

    async def _record(self, decide: Decide, *, check: bool = True) -> None:
        if self.run is None:
            return
        if not await self.run.record(decide) and check:
            raise RunFailed(GONE, "cancelled")

    def _check(self) -> None:
        run = self.run.run if self.run is not None else None
        if run is None or run.cancel is not None:
            raise RunFailed(GONE, "cancelled")


def _spec(where: Where, system: str, request: Request | None) -> RunSpec:
    """Return how a run goes, as far as its first request tells; nobody here bounds it or answers it."""
    given: Mapping[str, Any] = request.given if request else {}
    model = given.get("ls_model_name") or given.get("model_name") or given.get("model")
    temperature = given.get("ls_temperature", given.get("temperature"))
    return RunSpec(
        agent=where.agent,
        model=clean(str(model)) if model else "",
        language=where.language,
        system=system,
        temperature=float(temperature) if isinstance(temperature, int | float) else None,
        limits=Limits(),
        face=FACE,
        people=False,
        outside=FACE,
    )


def _deltas(message: int, text: str, thinking: str, pieces: Sequence[Piece]) -> list[Transient]:
    if not message:
        return []
    found: list[Transient] = [ThinkingDelta(message, clean(thinking))] if thinking else []
    found += [TextDelta(message, clean(text))] if text else []
    return [*found, *(CallDelta(message, each.place, clean(each.name), clean(each.text)) for each in pieces)]


def _step_closed(run: RunState) -> list[Stored]:
    """Return what ends the open step whose calls get no results any more."""
    return [*cancelled_calls(run, "cancelled_call"), StepEnded()] if run.step and not run.message else []


def _said(run: RunState, answer: str) -> list[Stored]:
    """Return the answer as a message of its own, where no model said it."""
    said = run.reply.content if run.reply is not None else ""
    if not answer or answer == said or run.step:
        return []
    return [MessageAdded(Message("assistant", answer), "engine")]


def _end_of(error: BaseException) -> tuple[EndReason, str]:
    if isinstance(error, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt):
        return "cancelled", "cancelled"
    if _is_of(error, "GraphRecursionError"):
        return "limit", "steps"
    return "failed", "outside"


def _is_of(error: BaseException, name: str) -> bool:
    """Tell whether an error is of a class of LangGraph, which need not be installed."""
    return any(each.__name__ == name for each in type(error).__mro__)


def _renamed(event: ToolStarted | ToolEnded, id: str) -> Stored:
    if isinstance(event, ToolStarted):
        return ToolStarted(id, event.name, event.effect, event.threaded)
    return ToolEnded(id, event.content, event.status)


def _words(error: BaseException) -> str:
    return clean(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
