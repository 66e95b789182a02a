"""What is kept of a log whose appender lost its place to another writer, and what is decided again.

Facts have happened: they are appended after what the other wrote, if they can still follow. Intents are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stepwell.contexts import handle_of_blob
from stepwell.events import (
    Answered,
    CancelRequested,
    Feedback,
    LongTermUpdated,
    MessageAdded,
    MessageEnded,
    MessageQueued,
    MessageStarted,
    ModelFailed,
    PauseRequested,
    PlanChanged,
    PlanMade,
    PolicyChanged,
    QueueEdited,
    Recorded,
    ResumeRequested,
    RunClaimed,
    RunStarted,
    Steered,
    StepEnded,
    StepStarted,
    Stored,
    SummaryEnded,
    SummaryStarted,
    TaskStarted,
    TitleChanged,
    ToolEnded,
    ToolStarted,
    Unknown,
    WindowLearned,
)
from stepwell.plans import Plan
from stepwell.state.agent import AgentState
from stepwell.state.run import OpenCall, RunState
from stepwell.state.thread import State, parent_of

FACTS = (
    MessageEnded,
    ToolEnded,
    MessageAdded,
    CancelRequested,
    TitleChanged,
    LongTermUpdated,
    WindowLearned,
    SummaryEnded,
    Answered,
    Steered,
    PauseRequested,
    ResumeRequested,
    MessageQueued,
    QueueEdited,
    PolicyChanged,
    Feedback,
    PlanMade,
    PlanChanged,
)
"""What has happened and is kept when another writer came first; the rest was intent and is decided again."""

KEPT = (*FACTS, ModelFailed)
"""What is kept of events that come while the place is lost: a reply that failed is nothing without its failure."""


def referred(event: Stored, blobs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the blobs that an event refers to, by their hash or by a handle in its text."""
    if not isinstance(event, ToolEnded):
        return {}
    return {hash: data for hash, data in blobs.items() if hash == event.blob or handle_of_blob(hash) in event.content}


def taken_back(recorded: Recorded, state: State) -> list[Answered]:
    """Return the ends of questions that another attempt at a call asked, where a fact is the call's result."""
    event = recorded.event
    if not isinstance(event, ToolEnded):
        return []
    asked = [each for each in state.questions.values() if each.path == recorded.path]
    return [Answered(each.seq, "cancelled") for each in asked if each.event.call == event.call]


def _is_command(event: Stored | Unknown) -> bool:
    """Tell whether somebody asked for it from outside, whichever run is open."""
    if isinstance(event, LongTermUpdated):
        return event.pinned is not None or event.unpinned is not None
    return isinstance(event, TitleChanged | MessageQueued | QueueEdited | PolicyChanged | Feedback)


def facts(unsaved: list[Recorded]) -> list[Recorded]:
    """Return the facts with the brackets that they end; a run that lost the race to start is dropped whole."""
    starts = [index for index, each in enumerate(unsaved) if isinstance(each.event, RunStarted)]
    if starts:
        commands = [each for each in unsaved[starts[0] :] if _is_command(each.event)]
        unsaved = unsaved[: starts[0]] + commands
    summaries = {(each.path, _covered(each.event)) for each in unsaved if isinstance(each.event, SummaryEnded)}
    ended = {(each.path, each.event.call) for each in unsaved if isinstance(each.event, ToolEnded)}
    replies = {each.path: index for index, each in enumerate(unsaved) if isinstance(each.event, MessageEnded)}
    kept: list[Recorded] = []
    for index, each in enumerate(unsaved):
        match each.event:
            case ToolStarted(call=call):
                keep = (each.path, call) in ended
            case SummaryStarted() as started:
                keep = (each.path, _covered(started)) in summaries
            case StepStarted() | StepEnded() | MessageStarted() | ModelFailed():
                keep = index < replies.get(each.path, -1)
            case TaskStarted():
                # Without it nothing that its agent did has a place.
                keep = any(path == each.path or path.startswith(f"{each.path}/") for path in replies)
            case Answered(decision="cancelled") | PlanChanged(operation="exit"):
                # What the run takes back itself is decided again with its end; numbers of what was dealt with change.
                keep = False
            case RunClaimed():
                keep = True  # whoever goes on without it would not be known to have taken the run
            case event:
                keep = isinstance(event, FACTS)
        if keep:
            kept.append(each)
    return kept


class Losses:
    """What cannot follow because what it hangs from could not: a reply its step, a result its call.

    Args:
        news: What another writer appended: the step that was open before is over for the agents that it asked.
    """

    def __init__(self, news: Sequence[Recorded] = ()) -> None:
        self._steps = {each.path for each in news if isinstance(each.event, MessageStarted)}
        self._calls: set[tuple[str, str]] = set()

    def hold(self, recorded: Recorded) -> bool:
        """Tell whether an event hangs from one that is lost."""
        match recorded.event:
            case StepStarted():
                self._steps.discard(recorded.path)
                return False
            case MessageStarted() | ModelFailed() | MessageEnded() | StepEnded():
                return recorded.path in self._steps
            case ToolStarted(call=call) | ToolEnded(call=call):
                return (recorded.path, call) in self._calls
            case _:
                return False

    def add(self, recorded: Recorded) -> None:
        """Note an event that is lost."""
        match recorded.event:
            case StepStarted():
                self._steps.add(recorded.path)
            case MessageEnded(message=message):
                self._calls.update((recorded.path, call.id) for call in message.calls)
            case _:
                pass


def _covered(event: SummaryStarted | SummaryEnded) -> tuple[str, int, int]:
    return event.kind, event.first, event.last


def fits(recorded: Recorded, state: State, claimed: bool) -> bool:
    """Tell whether a fact can still follow: what it is about is open, and is not another process's by now."""
    event, run = recorded.event, state.run
    if _is_command(event):
        return True
    if isinstance(event, Answered):
        return event.question in state.questions
    if recorded.run != (run.seq if run else 0):
        return False
    if isinstance(event, TaskStarted):
        parent = state.agents.get(parent_of(recorded.path)) if parent_of(recorded.path) else state
        return not claimed and parent is not None and parent.run is not None and recorded.path not in state.agents
    if isinstance(event, Steered):
        return run is not None and (not recorded.path or recorded.path in state.agents)
    agent = state.agents.get(recorded.path) if recorded.path else state
    return agent is not None and _fits_agent(event, agent, claimed)


def _fits_agent(event: Stored | Unknown, agent: AgentState, claimed: bool) -> bool:
    match event:
        case LongTermUpdated():
            return not claimed
        case WindowLearned():
            known = agent.windows.get(event.model, 0)
            return not claimed and (not known or event.window < known)
        case SummaryStarted():
            return not claimed and event.kind not in agent.history.summarizing
        case SummaryEnded():
            under_way = agent.history.summarizing.get(event.kind)
            return not claimed and under_way is not None and _covered(under_way) == _covered(event)
        case _:
            return agent.run is not None and _fits_run(event, agent.run, claimed)


def _undecided(call: OpenCall) -> bool:
    """Tell whether the answer is lost on which a call was run: it is given again, and the call is run again."""
    asked = call.asked
    return asked is not None and asked.answer is None and asked.event.kind != "outcome"


def _fits_plan(event: PlanMade | PlanChanged, plan: Plan | None) -> bool:
    if isinstance(event, PlanMade):
        return plan is None
    return plan is not None and event.target in plan.nodes


def _fits_run(event: Stored | Unknown, run: RunState, claimed: bool) -> bool:
    match event:
        case RunClaimed():
            return not claimed and event.epoch == run.epoch + 1
        case CancelRequested():
            return run.cancel is None
        case PauseRequested() | ResumeRequested():
            return True
        case ToolStarted() | ToolEnded():
            call = run.calls.get(event.call)
            if call is None or _undecided(call):
                return False
            return not (call.started if isinstance(event, ToolStarted) else call.ended)
        case PlanMade() | PlanChanged():
            return not claimed and _fits_plan(event, run.plan)
        case StepStarted():
            return not claimed and not run.step and event.step == run.steps + 1
        case MessageStarted():
            return not claimed and run.step > 0 and not run.message
        case StepEnded():
            return not claimed and run.step > 0 and not run.message and not run.unanswered()
        case _:
            return not claimed and run.message > 0


def open_messages(state: State) -> set[str]:
    """Return the paths of agents that have an open message."""
    agents = [state, *state.agents.values()]
    return {agent.path for agent in agents if agent.run is not None and agent.run.message}
