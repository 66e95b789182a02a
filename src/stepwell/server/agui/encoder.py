"""Turns the log of a run into AG-UI's events.

One of our runs is one or more AG-UI runs: such a run ends where ours waits for people or for results of the client,
and the next goes on from there. Where they part is a function of the log alone (`Encoder.over`), so an encoder that is
fed a run from its beginning knows each of them. It knows nothing of HTTP, frames or requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from stepwell.events import (
    Answered,
    Asked,
    CancelRequested,
    ContextCompacted,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    ModelFailed,
    PauseRequested,
    PlanChanged,
    PlanMade,
    Recorded,
    ResumeRequested,
    RunEnded,
    RunStarted,
    RunWaiting,
    Steered,
    StepEnded,
    StepStarted,
    TaskEnded,
    TaskStarted,
    TaskSubmitted,
    TextDelta,
    ThinkingDelta,
    ToolEnded,
    ToolProgress,
    ToolStarted,
    Transient,
    Warned,
)
from stepwell.events import encode as native
from stepwell.messages import Message, Usage
from stepwell.runs.channel import Item, Piece
from stepwell.server.agui.agents import Agents
from stepwell.server.agui.board import Board
from stepwell.server.agui.interrupts import Open, interrupt
from stepwell.server.agui.parts import parts_of
from stepwell.server.agui.replies import Reply
from stepwell.server.agui.wire import NAME, PROTOCOL, Shown, custom, event, message_id
from stepwell.server.underway import UnderWay

Object = dict[str, Any]

_TOLD = frozenset(
    {
        Answered,
        Asked,
        CancelRequested,
        ContextCompacted,
        ModelFailed,
        PauseRequested,
        ResumeRequested,
        Steered,
        TaskSubmitted,
        ToolStarted,
        Warned,
    }
)
"""Events that are told as they are, besides what they become."""


NOTHING = frozenset[str]()


class Asking:
    """What the AG-UI run that is encoded was asked with, as far as its events depend on it.

    Args:
        thread: The client's id of the thread.
        run: The client's id of its run.
        state: The client's state; None where it is no object.
        said: What the user says in it, perhaps after what was said before: the client has that message.
        results: Calls whose results the client has.
    """

    def __init__(
        self,
        thread: str,
        run: str,
        state: Object | None,
        said: str = "",
        results: frozenset[str] = NOTHING,
    ) -> None:
        self.thread, self.run, self.state, self.said, self.results = thread, run, state, said, results


class Encoder:
    """Encodes one run, event by event, from its `RunStarted` on.

    Args:
        thread: Our id of the thread.
        run: Number of its `RunStarted`.
        asking: What is asked.

    Attributes:
        over: The AG-UI run ended with what was taken last; what follows belongs to the next.
        ends: Numbers of the events with which one ended.
        replies: Those that are open, by number.
    """

    def __init__(self, thread: str, run: int, asking: Asking) -> None:
        self._thread, self._run, self._asking = thread, run, asking
        self._board = Board(thread, run, asking.state)
        self._agents, self._under_way = Agents(), UnderWay()
        self._questions: dict[int, Open] = {}
        self._used: dict[str, Usage] = {}
        self._said = asking.said
        self.replies: dict[int, Reply] = {}
        self.over = False
        self.ends: list[int] = []

    def begin(self, messages: list[Object] | None = None, told: list[bytes] | None = None) -> list[bytes]:
        """Return events that open the AG-UI run which begins after what was taken so far.

        Args:
            messages: All messages up to here, where the client does not have them.
            told: Further events.
        """
        self.over = False
        self._used.clear()
        mark = {NAME: {"thread": self._thread, "run": self._run}}
        ids = {"threadId": self._asking.thread, "runId": self._asking.run}
        events = [event("RUN_STARTED", **ids, protocolVersion=PROTOCOL, metadata=mark)]
        if messages is not None:
            events.append(event("MESSAGES_SNAPSHOT", messages=messages))
        events += self._board.snapshot()
        for each in self._agents.all():
            events += each.begin()
        return events + (told or [])

    def seen(self, shown: tuple[Shown, ...]) -> None:
        """Go on where a client has so much of the open replies."""
        for each in shown:
            if each.message in self.replies:
                self.replies[each.message].seen(each)

    def take(self, item: Item) -> list[bytes]:
        """Return the events that an item becomes, often none."""
        if isinstance(item, Piece):
            return self._piece(item.event)
        happened, kind = item.event, type(item.event)
        self._board.take(item)
        self._under_way.take(item)
        take = self._TAKES.get(kind)
        if take is None and kind not in _TOLD:
            return []
        if self.over:
            self.begin()
        events = take(self, item, happened) if take is not None else []
        if self.over:
            self.ends.append(item.seq)
        if kind in _TOLD:
            tag, agent = str(happened.__struct_config__.tag), self._agents.at(item.path)
            events.insert(0, custom(tag, item.to_json(), agent.id))
        return events

    def _piece(self, happened: Transient) -> list[bytes]:
        match happened:
            case TextDelta():
                reply = self.replies.get(happened.message)
                return reply.say(happened.text) if reply is not None else []
            case ThinkingDelta():
                reply = self.replies.get(happened.message)
                return reply.think(happened.text) if reply is not None else []
            case ToolProgress():
                return [custom("tool_progress", native(happened))]
            case _:
                return []  # the id of a call is known when the reply is whole

    # the run

    def _run_started(self, item: Recorded, started: RunStarted) -> list[bytes]:
        self._agents.at("").model = started.spec.model
        return []

    def _run_ended(self, item: Recorded, ended: RunEnded) -> list[bytes]:
        code, usage = ended.cause or ended.reason, self._usage()
        if ended.reason in ("failed", "limit"):
            failed = event("RUN_ERROR", message=ended.detail or code, code=code, usage=usage)
            return [*self._closed(), self._over(failed)]
        if ended.reason == "cancelled":
            self._questions.clear()
            return self._finished({"type": "cancelled"})
        if ended.cause == "question" and self._interrupts():
            return self._interrupted()
        return self._finished({"type": "success"}, self._agents.at("").reply)

    def _waiting(self, item: Recorded, waiting: RunWaiting) -> list[bytes]:
        if self._interrupts():
            return self._interrupted()
        pending = [each.asked.call for each in self._questions.values()]
        if pending:
            return self._finished({"type": "success", "pendingToolCallIds": pending})
        return [custom("run_waiting", item.to_json())]

    def _interrupted(self) -> list[bytes]:
        found = [interrupt(each, self._agents.at(each.path).id) for each in self._interrupts()]
        return self._finished({"type": "interrupt", "interrupts": found})

    def _interrupts(self) -> list[Open]:
        return [each for each in self._questions.values() if each.asked.kind != "result"]

    def _finished(self, outcome: Object, result: str | None = None) -> list[bytes]:
        ids = {"threadId": self._asking.thread, "runId": self._asking.run}
        end = event("RUN_FINISHED", **ids, result=result, outcome=outcome, usage=self._usage())
        return [*self._closed(), self._over(end)]

    def _over(self, end: bytes) -> bytes:
        self.over = True
        return end

    def _closed(self) -> list[bytes]:
        """Return what closes everything that is open in this AG-UI run."""
        events = [data for each in self.replies.values() for data in each.close()]
        events += self._board.changes()
        for each in reversed(self._agents.all()):
            asks = [str(open.seq) for open in self._interrupts() if open.path == each.path]
            events += each.suspend(asks)
        return events

    def _usage(self) -> list[Object] | None:
        """Return the tokens of this AG-UI run, by model."""
        rows: list[Object] = []
        for model, used in self._used.items():
            counts = {"inputTokens": used.input, "outputTokens": used.output, "cachedInputTokens": used.cached}
            rows.append({"model": model, **counts, "totalTokens": used.input + used.output})
        return rows or None

    # questions

    def _asked(self, item: Recorded, asked: Asked) -> list[bytes]:
        call = self._agents.at(item.path).calls.get(asked.call)
        self._questions[item.seq] = Open(item.seq, item.path, asked, call)
        return self._stalled()

    def _answered(self, item: Recorded, answered: Answered) -> list[bytes]:
        self._questions.pop(answered.question, None)
        return []

    def _stalled(self) -> list[bytes]:
        """Return what ends the AG-UI run where all that is under way are tools that ask people, or wait behind them."""
        return self._interrupted() if self._under_way.held_up else []

    # messages

    def _message_added(self, item: Recorded, added: MessageAdded) -> list[bytes]:
        if added.source == "history" or (added.source == "engine" and added.message.role == "user"):
            return []  # what an engine tells an agent is not said by anybody
        return self._whole(item, added.message)

    def _steered(self, item: Recorded, steered: Steered) -> list[bytes]:
        return self._whole(item, steered.message) if steered.source == "user" else []

    def _whole(self, item: Recorded, message: Message) -> list[bytes]:
        """Return a message that came whole, unless the client sent it."""
        agent, said = self._agents.at(item.path), message.content
        if message.role == "user" and said and self._sent(said):
            return []
        if not said or message.role not in ("user", "assistant"):
            return []
        if message.role == "assistant":
            agent.reply = said
        ids = {"messageId": message_id(item.seq), "subagentRunId": agent.tag}
        return [
            event("TEXT_MESSAGE_START", role=message.role, **ids),
            event("TEXT_MESSAGE_CONTENT", delta=said, **ids),
            event("TEXT_MESSAGE_END", **ids),
        ]

    def _sent(self, said: str) -> bool:
        """Tell whether the client sent this, and take it from what it sent."""
        rest = self._said
        if rest == said or rest.endswith(f"\n\n{said}"):
            self._said = ""
        elif rest.startswith(f"{said}\n\n"):
            self._said = rest[len(said) + 2 :]
        else:
            return False
        return True

    def _message_started(self, item: Recorded, _: MessageStarted) -> list[bytes]:
        agent = self._agents.at(item.path)
        if not agent.aside:
            self.replies[item.seq] = Reply(item.seq, agent.id)
        return []

    def _message_ended(self, item: Recorded, ended: MessageEnded) -> list[bytes]:
        agent = self._agents.at(item.path)
        if ended.usage is not None:
            self._used[agent.model] = self._used.get(agent.model, Usage()) + ended.usage
        reply = next((each for each in self.replies.values() if each.agent == agent.id), None)
        if reply is None:
            return []
        del self.replies[reply.seq]
        events = reply.end(ended)
        if ended.stop == "error":
            return events
        agent.reply = ended.message.content
        for call in ended.message.calls:
            agent.calls[call.id] = call
            named = {"toolCallId": call.id, "subagentRunId": agent.tag}
            events.append(event("TOOL_CALL_START", toolCallName=call.name, parentMessageId=reply.id, **named))
            if call.arguments:
                events.append(event("TOOL_CALL_ARGS", delta=call.arguments, **named))
            events.append(event("TOOL_CALL_END", **named))
        return events

    def _tool_ended(self, item: Recorded, ended: ToolEnded) -> list[bytes]:
        agent = self._agents.at(item.path)
        if agent.calls.pop(ended.call, None) is None:
            return []
        events: list[bytes] = []
        if ended.call not in self._asking.results:
            content = parts_of(ended.content, ended.images) if ended.images else ended.content
            mark = None if ended.status == "ok" else {NAME: {"status": ended.status}}
            ids = {"messageId": message_id(item.seq), "toolCallId": ended.call, "subagentRunId": agent.tag}
            events.append(event("TOOL_CALL_RESULT", content=content, role="tool", metadata=mark, **ids))
        return [*events, *self._stalled()]

    # steps and tasks

    def _step_started(self, item: Recorded, started: StepStarted) -> list[bytes]:
        agent = self._agents.at(item.path)
        agent.aside = started.aside
        agent.model = started.model or agent.model
        return [*agent.step_ends(), *agent.step_begins(f"step {started.step}")]

    def _step_ended(self, item: Recorded, _: StepEnded) -> list[bytes]:
        return [*self._agents.at(item.path).step_ends(), *self._board.changes()]

    def _task_started(self, item: Recorded, started: TaskStarted) -> list[bytes]:
        agent = self._agents.add(item.seq, item.path, started)
        agent.model = started.spec.model
        return [*agent.begin(), *self._board.changes()]

    def _task_ended(self, item: Recorded, ended: TaskEnded) -> list[bytes]:
        agent = self._agents.remove(item.path)
        events = agent.end(ended) if agent is not None else []
        return [*events, *self._board.changes(), *self._stalled()]

    def _plan_changed(self, item: Recorded, _: PlanMade | PlanChanged | TaskSubmitted) -> list[bytes]:
        return self._board.changes()

    _TAKES: ClassVar[Mapping[type, Callable[[Encoder, Recorded, Any], list[bytes]]]] = MappingProxyType(
        {
            RunStarted: _run_started,
            RunEnded: _run_ended,
            RunWaiting: _waiting,
            Asked: _asked,
            Answered: _answered,
            MessageAdded: _message_added,
            Steered: _steered,
            MessageStarted: _message_started,
            MessageEnded: _message_ended,
            ToolEnded: _tool_ended,
            StepStarted: _step_started,
            StepEnded: _step_ended,
            TaskStarted: _task_started,
            TaskEnded: _task_ended,
            PlanMade: _plan_changed,
            PlanChanged: _plan_changed,
            TaskSubmitted: _plan_changed,
        }
    )
    """What turns an event of each type into events here; a look-up is quicker than a row of cases."""
