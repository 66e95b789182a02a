"""How a request is made again from the log: the step is found, the log folded up to it, the request built as it was.

What the request holds is told in `report.py`. Nothing is asked, recorded or changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from stepwell.agent.asking import Asker, Asking, paid
from stepwell.agent.memory import MemoryLog
from stepwell.agent.replies import ReplySchema, built_in, with_reply
from stepwell.errors import NotFound
from stepwell.events import (
    ContextCompacted,
    HistoryCleared,
    MessageEnded,
    Recorded,
    RunStarted,
    StepStarted,
    TaskStarted,
    ToolEnded,
)
from stepwell.log import Log
from stepwell.messages import ToolSpecs
from stepwell.models.base import ModelRequest
from stepwell.specs import RunSpec
from stepwell.state.agent import AgentState
from stepwell.state.run import RunState

MOST_NAMED = 20
"""Agents that are named to who asks for one that is not there."""


Rebuild = Callable[[RunSpec, Log, StepStarted], Asking]
"""Says who asked in a step of a run or task, and how."""


class Rebuilt(NamedTuple):
    """A request as it was made.

    Args:
        request: As the agent built it.
        sent: As its model got it.
        tools: What was offered but for what takes the reply.
        unknown: Names of tools that were offered and are not known any more.
    """

    request: ModelRequest
    sent: ModelRequest
    tools: ToolSpecs
    unknown: tuple[str, ...]


class Before:
    """The fold of a log up to a step, with what the state does not keep.

    Attributes:
        log: That of the agent whose step it is.
        compacted: The compaction in force.
        big: Results of which the agent sees a part, by number.

    Args:
        events: All that came before the step.
        path: The agent; empty for the run's own.
    """

    def __init__(self, events: Sequence[Recorded], path: str) -> None:
        whole = MemoryLog()
        self.log: Log = whole.at(path)
        self.compacted: Recorded | None = None
        self.big: dict[int, ToolEnded] = {}
        for each in events:
            whole.state.apply(each)
            if each.path == path:
                self._take(each)

    def _take(self, each: Recorded) -> None:
        match each.event:
            case ContextCompacted():
                self.compacted = each
            case HistoryCleared() | TaskStarted():
                self.compacted = None
            case ToolEnded(blob=blob) if blob:
                self.big[each.seq] = each.event
            case _:
                pass

    @property
    def state(self) -> AgentState:
        """What the agent knew."""
        return self.log.state

    @property
    def run(self) -> RunState:
        """Its open run or task."""
        assert self.state.run is not None
        return self.state.run

    @property
    def compaction(self) -> ContextCompacted | None:
        """The event of the compaction in force."""
        event = self.compacted.event if self.compacted else None
        return event if isinstance(event, ContextCompacted) else None


def run_of(events: Sequence[Recorded], run: int) -> int:
    """Return the number of the wanted run, of the newest for 0.

    Raises:
        NotFound: There is none.
    """
    runs = [each.seq for each in events if isinstance(each.event, RunStarted)]
    if not runs or (run and run not in runs):
        raise NotFound(
            f"There is no run {run} in this thread." if run else "There is no run in this thread yet.", "run"
        )
    return run or runs[-1]


def agents_of(events: Sequence[Recorded], run: int) -> list[str]:
    """Return the paths of the agents of a run that asked a model, in the order in which they began to."""
    return list(dict.fromkeys(each.path for each in events if each.run == run and isinstance(each.event, StepStarted)))


def steps_of(events: Sequence[Recorded], run: int, agent: str) -> list[int]:
    """Return the numbers of the steps of an agent of a run, in the order in which they began."""
    return [_number(each) for each in events if each.run == run and each.path == agent and _number(each)]


def named(agents: Sequence[str]) -> str:
    """Return the paths of agents inside a run as a list for people, of many the first."""
    inside = [path for path in agents if path]
    return ", ".join(inside[:MOST_NAMED]) + (", …" if len(inside) > MOST_NAMED else "")


def locate(events: Sequence[Recorded], run: int, step: int, agent: str) -> int:
    """Return the index of the wanted `StepStarted`; of several with one number the last, which got the reply.

    Args:
        events: The thread's log from its beginning.
        run: Number of the run; 0 for the newest.
        step: Number of the agent's step; 0 for its newest.
        agent: Its path; empty for the run's own.

    Raises:
        NotFound: There is no such run, agent or step; names the field.
    """
    wanted = run_of(events, run)
    for at in range(len(events) - 1, -1, -1):
        each = events[at]
        if each.run == wanted and each.path == agent and (number := _number(each)) and step in (0, number):
            return at
    steps, others = steps_of(events, wanted, agent), named(agents_of(events, wanted))
    hint = f" Agents inside it that did: {others}." if others else ""
    if agent and not steps:
        raise NotFound(f"Run {wanted} has no agent `{agent[:200]}` that asked a model.{hint}", "agent")
    whose = f"Agent {agent} of run {wanted}" if agent else f"Run {wanted}"
    if not steps:
        raise NotFound(f"{whose} has asked no model yet.{hint}", "step")
    raise NotFound(f"{whose} has no step {step}; its newest is {steps[-1]}.", "step")


def _number(recorded: Recorded) -> int:
    """Return the number of the step that an event begins; 0 for another event."""
    return recorded.event.step if isinstance(recorded.event, StepStarted) else 0


def usage(after: Sequence[Recorded], path: str) -> tuple[int | None, float | None]:
    """Return the provider's count of an agent's request and the part of it that was cached, where the log has them.

    Args:
        after: What follows the step.
        path: The agent.
    """
    for each in after:
        if isinstance(each.event, RunStarted):
            break
        if each.path != path:
            continue
        if isinstance(each.event, StepStarted):
            break
        if isinstance(each.event, MessageEnded):
            used = each.event.usage
            if used is None or used.input <= 0:
                break
            return used.input, round(used.cached / used.input, 4)
    return None, None


def rebuilt(before: Before, asking: Asking, started: StepStarted) -> Rebuilt:
    """Build the request of a step again, as `Asker.ask` made it."""
    agent, run, history = asking.agent, before.run, before.state.history
    offered, unknown = _offered(asking, history.handles, started.tools)
    schema, tools, settings = _form(agent, run, started.reply), offered, asking.settings
    if schema is not None:  # in the form `text` its words are the last message of the tail already
        language = run.spec.language
        tools, settings, _ = with_reply(tools, settings, schema, agent.form(tools), forced=not tools, language=language)
    # The run's own name of a model says nothing to another one.
    name = "" if started.model else agent.model_name
    request = ModelRequest(history.transcript, tools, settings, name, started.tail)
    sent = agent.rendered(run, request)
    limited = paid(sent.settings, started.max_tokens)
    return Rebuilt(request, ModelRequest(sent.messages, sent.tools, limited, sent.model, sent.tail), offered, unknown)


def _offered(asking: Asking, handles: bool, names: tuple[str, ...] | None) -> tuple[ToolSpecs, tuple[str, ...]]:
    """Return the tools of a request but for what takes the reply, and the names of those that are gone."""
    agent = asking.agent
    if names is None:
        return agent.offered(handles), ()
    known = {each.name: each for each in (*agent.offered(True), *asking.calls)}
    return ToolSpecs(known[name] for name in names if name in known), tuple(name for name in names if name not in known)


def _form(agent: Asker, run: RunState, name: str) -> ReplySchema | None:
    output = run.spec.output
    if not name or not agent.model.profile.replies:
        return None
    if output is not None and output.get("name") == name:
        return ReplySchema(**output)
    return built_in().get(name)
