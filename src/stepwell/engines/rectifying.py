"""The rectification of a plan: what asks for one, how far it is, and what becomes of the plan agent's operations.

How far it is stands in the agent's working context, so that the log alone decides how it goes on. It asks no model and
records nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stepwell.agent.task_agents import OPERATION
from stepwell.engines.concluding import own_call
from stepwell.engines.planning import Operation, Unfit, operate, read, repeated
from stepwell.engines.task_words import told
from stepwell.events import LongTermUpdated, PlanChanged, StepEnded, Stored, ToolEnded, WorkingUpdated
from stepwell.plans import Plan
from stepwell.specs import TaskOptions
from stepwell.state.agent import AgentState
from stepwell.state.run import OpenCall, RunState

TASK, EDITS, REFUSALS = "Current task", "Edits left", "Refusals left"
ASKING, REVIEWED = "Change asked for by", "Plan reviewed after"


class Rectification(NamedTuple):
    """A rectification under way.

    Args:
        task: Id of the current task when it began.
        edits: How many edits are left.
        refusals: How many refused operations are left.
        asking: Ids of the tasks that asked for it.
        reviewed: Ids of those that asked before.
        note: What was wrong with the newest reply.
    """

    task: str
    edits: int
    refusals: int
    asking: tuple[str, ...] = ()
    reviewed: tuple[str, ...] = ()
    note: str = ""

    def working(self) -> WorkingUpdated:
        """Return the working context that says so."""
        info = {TASK: self.task, EDITS: str(self.edits), REFUSALS: str(self.refusals)}
        lists = {ASKING: ", ".join(self.asking), REVIEWED: ", ".join(self.reviewed)}
        return WorkingUpdated(info | {name: ids for name, ids in lists.items() if ids}, self.note or None)

    def current(self, plan: Plan) -> str:
        """Return the id of the current task; where it was deleted, of the next one, or else of the last."""
        if self.task in plan.nodes:
            return self.task
        return _current(plan)


def opened(state: AgentState) -> Rectification | None:
    """Return the rectification under way, or None."""
    info = _info(state)
    if TASK not in info:
        return None
    observation = state.working.event.observation if state.working else None
    asking, reviewed = _ids(info, ASKING), _ids(info, REVIEWED)
    return Rectification(info[TASK], int(info[EDITS]), int(info[REFUSALS]), asking, reviewed, observation or "")


def begin(state: AgentState, run: RunState, plan: Plan) -> Rectification | None:
    """Return the rectification that a task or a person asks for, or None."""
    most = (run.spec.tasks or TaskOptions()).max_plan_refine_chain_length
    reviewed = _ids(_info(state), REVIEWED)
    asking = tuple(
        node.task.id
        for node in plan.root.walk()
        if node.submission is not None and node.submission.need_plan_rectification and node.task.id not in reviewed
    )
    if most <= 0 or not (asking or news(state, plan)):
        return None
    return Rectification(asking[0] if asking else _current(plan), most, most, asking, reviewed)


def news(state: AgentState, plan: Plan) -> list[tuple[int, str]]:
    """Return what people said that the plan does not take in yet, with the numbers of the events."""
    found: list[tuple[int, str]] = []
    transcript = state.transcript
    for at in range(len(transcript) - 1, -1, -1):
        seq = transcript.seqs[at]
        if seq <= plan.rectified:
            break
        if transcript[at].role == "user":
            found.append((seq, transcript[at].content))
    return found[::-1]


def operated(
    state: AgentState, run: RunState, plan: Plan, now: Rectification | None, calls: Sequence[OpenCall]
) -> list[Stored]:
    """Return what becomes of the next call of a reply, and of the rectification where that ends it.

    Args:
        state: What the plan agent knows.
        run: Its run.
        plan: The plan.
        now: The rectification; None where nothing asks for one.
        calls: The calls without a result.
    """
    language = run.spec.language
    if now is None:
        return [ToolEnded(each.call.id, told("nobody_asked", language), "cancelled") for each in calls]
    each, *others = calls
    events, outcome = _called(each, run, plan, now)
    edits, refusals = now.edits - (outcome == "done"), now.refusals - (outcome == "refused")
    if outcome == "exit" or not edits or not refusals:
        rest = [ToolEnded(each.call.id, told("edits_used", language), "cancelled") for each in others]
        ended = _ended(state, run, plan, now)
        # An exit stands before its result, so that it is not lost in a copy of the log that ends between them.
        return [*ended, *events, *rest, StepEnded()] if outcome == "exit" else [*events, *ended, *rest, StepEnded()]
    left = now._replace(edits=edits, refusals=refusals, note="")
    return [*events, left.working(), *(() if others else (StepEnded(),))]


def spoken(state: AgentState, run: RunState, plan: Plan, now: Rectification) -> list[Stored]:
    """Return what becomes of a reply that called nothing: it counts as a refused operation."""
    if run.stop == "cancelled" or (run.reply is not None and run.reply.calls):
        return [StepEnded()]
    if now.refusals <= 1:
        return [StepEnded(), *_ended(state, run, plan, now)]
    note = told("plan_called_nothing", run.spec.language, names=OPERATION.name)
    return [now._replace(refusals=now.refusals - 1, note=note).working(), StepEnded()]


def _called(each: OpenCall, run: RunState, plan: Plan, now: Rectification) -> tuple[list[Stored], str]:
    id, name, language = each.call.id, each.call.name, run.spec.language
    if name != OPERATION.name:
        text = told("no_such_call", language, name=name[:80], names=OPERATION.name)
        return [ToolEnded(id, text, "unknown_tool")], "refused"
    try:
        wanted = read(each.call, Operation)
    except Unfit as error:
        return [ToolEnded(id, told("bad_arguments", language, detail=error), "invalid")], "refused"
    if each.started and repeated(plan, wanted):
        return own_call(each, told("operated", language)), "done"
    outcome = operate(plan, wanted, now.current(plan), run.spec.tasks or TaskOptions(), language)
    if outcome.kind == "refused":
        return [ToolEnded(id, outcome.text, "denied")], outcome.kind
    return own_call(each, outcome.text, *((outcome.event,) if outcome.event is not None else ())), outcome.kind


def _ended(state: AgentState, run: RunState, plan: Plan, now: Rectification) -> list[Stored]:
    """Return what ends a rectification: what was said before its last request was heard by it."""
    heard = [LongTermUpdated(user_message=text) for seq, text in news(state, plan) if seq < run.step]
    reviewed = (*now.reviewed, *now.asking)
    done = WorkingUpdated({REVIEWED: ", ".join(reviewed)} if reviewed else {})
    return [PlanChanged("exit", now.task, upto=run.step), *heard, done]


def _current(plan: Plan) -> str:
    leaves = plan.leaves()
    doing = next((node for node in leaves if node.status == "DOING"), None)
    if doing is None:
        doing = next(iter(plan.next(1)), None) or (leaves[-1] if leaves else plan.root)
    return doing.task.id


def _info(state: AgentState) -> dict[str, str]:
    return state.working.event.basic_info if state.working is not None else {}


def _ids(info: dict[str, str], name: str) -> tuple[str, ...]:
    return tuple(filter(None, info.get(name, "").split(", ")))
