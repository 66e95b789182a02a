"""The plan engine: a tree of tasks, each done by an agent of its own, and an overall conclusion (XAgent's PlanEngine).

It works on a run's own agent or on the task of an agent inside a run. All decisions are made from the log.

- Fast path: where it is switched on, and a plan is made at all, the plan agent is asked once to choose between
  `answer_directly`, for what it can answer in one reply without tools, and `generate_plan`.
- A plan that cannot be used is asked for once more; then, and where no plan is to be made, the whole is one task, and
  its conclusion is the overall one.
- A task begins when all that it needs is over, well or badly: its agent sees the conclusions.
- The plan is rectified, by `engines/planning.py`, when a task asked for it or somebody said something; tasks under way
  go on meanwhile, and none begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from stepwell.agent.asking import Asking, narrowed
from stepwell.agent.options import AgentOptions
from stepwell.agent.task_agents import ANSWER, GENERATE, PLAN_CALLS, PlanAgent
from stepwell.contexts import TaskConclusion
from stepwell.engines.base import Engine, close, side_by_side, wait
from stepwell.engines.concluding import Over, conclude, failed, finish, own_call, received
from stepwell.engines.planning import Answer, Subtasks, Unfit, first_plan, overview, read, standing, task_text
from stepwell.engines.react import digest_of, spoke_only
from stepwell.engines.rectifying import Rectification, begin, news, opened, operated, spoken
from stepwell.engines.task_words import told
from stepwell.engines.turns import limit_reached, paused, put_off, settle
from stepwell.engines.unconcluded import answered, of_plan, request_of
from stepwell.engines.words import words
from stepwell.errors import ContextFull, LimitReached, StoreError
from stepwell.events import (
    LongTermUpdated,
    MessageAdded,
    PlanChanged,
    PlanMade,
    StepEnded,
    StepStarted,
    Stored,
    TaskStarted,
    ToolEnded,
    Warned,
    WorkingUpdated,
)
from stepwell.log import Log
from stepwell.messages import Message, ToolCall
from stepwell.plans import ROOT, Node, Plan, Task
from stepwell.specs import RunSpec, TaskOptions
from stepwell.state.run import RunState

ATTEMPTS = 2
"""Replies that make no plan that can be used; then the whole is one task."""


def constants() -> dict[str, str]:
    """Return what decides how plans go besides the log, by name; replay compares it with the run's own."""
    return {"plan.attempts": str(ATTEMPTS), "plan.prompts": digest_of("plan", "conclusion")}


class PlanEngine:
    """Makes a plan, has its tasks done, and concludes.

    Args:
        make_agent: Makes the plan agent over the log of its path.
        make_task_engine: Makes the engine of one task.
    """

    def __init__(self, make_agent: Callable[[Log], PlanAgent], make_task_engine: Callable[[], Engine]) -> None:
        self._make_agent, self._make_engine = make_agent, make_task_engine
        self._agent: PlanAgent | None = None
        self._config: AgentOptions | None = None
        self._engines: dict[str, Engine] = {}
        self._working: dict[str, asyncio.Task[int]] = {}
        self._idle: dict[str, int] = {}
        """Paths of tasks that wait for people, with the number of the event that each saw last."""

    async def lazy_init(self, config: AgentOptions | None = None, get_available_tools: bool = True) -> None:
        """Take other options; the plan agent is told of the tools of its tasks in each request for a plan anyway."""
        self._config = config or self._config
        if self._agent is not None and config is not None:
            self._agent.config = config

    async def step(self, log: Log) -> bool:
        """Make one decision and carry it out; see `engines.base.Engine`."""
        run = log.state.run if not log.path or log.path in log.whole.agents else None
        if run is None:
            return False
        try:
            return await self._step(log, run)
        except StoreError:
            # What they have under way may have effects: each ends its decision, and meets the same error.
            try:
                await asyncio.gather(*self._working.values(), return_exceptions=True)
            finally:
                await self._halt()
            raise
        except BaseException:
            await self._halt()
            raise

    def asking(self, log: Log, started: StepStarted) -> Asking:
        """Return who made a request, and how; see `engines.base.Asks`."""
        agent = self._make_agent(log)
        return Asking(agent, narrowed(agent.settings, started.tools), PLAN_CALLS)

    async def close(self) -> None:
        """Give up the tasks and summaries under way."""
        await self._halt()
        engines, self._engines = self._engines, {}
        for engine in engines.values():
            await engine.close()
        if self._agent is not None and self._agent.summaries is not None:
            await self._agent.summaries.close()

    async def _step(self, log: Log, run: RunState) -> bool:
        seen = log.whole.seq
        if await settle(log, run):
            return True
        if self._agent is None:
            self._agent = self._make_agent(log)
            self._agent.config = self._config or self._agent.config
        agent = self._agent
        answer = _answered(run)
        if answer is not None:
            await finish(log, TaskConclusion(summary=answer, status="success", reply=answer))
            return False
        reached = limit_reached(log)
        over = Over("limit", *reached) if reached is not None else failed(agent, run)
        if over is None:
            try:
                return await self._decide(log, agent, run, seen)
            except LimitReached as error:
                over = Over("limit", error.name, str(error))
            except ContextFull as error:
                over = Over("failed", "window", words("window", run.spec.language, detail=str(error)))
        await self._ended(log, run, over)
        found = await received(log, agent)
        if found is not None:
            await finish(log, found, over if run.unheard else None)
            return False
        worth = over.reason == "limit" or run.plan is not None
        await finish(log, of_plan(run, over.detail), over, tell=worth)
        return False

    async def _ended(self, log: Log, run: RunState, over: Over) -> None:
        """End the tasks under way; a limit holds for them, too, and they end with what they have."""
        if over.reason != "limit":
            return await self._halt()
        # A model call that is cut off would not count, and the limit might not be reached any more.
        await asyncio.gather(*self._working.values(), return_exceptions=True)
        self._forget()
        for path in _under_way(log, run.plan):
            while await self._engine(path).step(log.at(path)):
                pass

    async def _decide(self, log: Log, agent: PlanAgent, run: RunState, seen: int) -> bool:
        text = put_off(log) if not (run.unheard and _may_change(run)) else None
        if text is not None:
            await self._halt()
            await close(log, "answer", "question", text)
            return False
        plan = run.plan
        if plan is not None and not plan.rectified:
            # What was said before the plan was asked for is a part of it.
            upto = run.step or request_of(log)[1]
            await log.record(PlanChanged("exit", upto=upto), *((StepEnded(),) if run.step else ()))
            return True
        halted = paused(log)
        if plan is None and not halted:
            return await self._begin(log, agent, run)
        if plan is not None and not halted:
            if await self._rectified(log, agent, run, plan):
                return True
            if await self._started(log, run, plan):
                return True
        paths = _under_way(log, plan)
        if paths:
            return await self._work(log, paths, seen)
        if plan is None or halted:
            await wait(log)
            return False
        return await self._end(log, agent, run, plan)

    # the first plan

    async def _begin(self, log: Log, agent: PlanAgent, run: RunState) -> bool:
        root = msgspec.structs.replace(request_of(log)[0], id=ROOT)
        options = run.spec.tasks or TaskOptions()
        if log.state.working is not None and log.state.working.event.basic_info:
            await log.record(WorkingUpdated({}))  # the plan of an earlier run
            return True
        if run.task is not None and not any(message.role == "user" for message in log.state.transcript):
            await log.record(MessageAdded(Message("user", task_text(run.task)), "engine"))
            return True
        if not options.initial_plan:
            await log.record(*_made(log, root, ()))
            return True
        if run.unanswered():
            await log.record(*_decided(run, root, options))
            return True
        decided = _decision(run)
        if decided is not None and decided.name == GENERATE.name:
            tasks = first_plan(read(decided, Subtasks).subtasks, root, options, run.spec.language)
            await log.record(*_made(log, root, tasks))
            return True
        notice = told("plan_called_nothing", run.spec.language, names=_offered(options))
        silent = spoke_only(log, run)
        if _attempts(log, run, notice) + silent >= ATTEMPTS:
            await log.record(Warned("no_plan", notice), *_made(log, root, ()))
        elif silent:
            await log.record(MessageAdded(Message("user", notice), "engine"))
        else:
            await agent.generate_plan(options.max_plan_tree_width, fast=options.fast_path)
        return True

    # rectification

    async def _rectified(self, log: Log, agent: PlanAgent, run: RunState, plan: Plan) -> bool:
        """Take the next step of a rectification, or begin one; return whether there was anything to do."""
        now = opened(log.state)
        calls = run.unanswered()
        if calls:
            await log.record(*operated(log.state, run, plan, now, calls))
            return True
        if now is None:
            now = begin(log.state, run, plan)
            if now is None:
                return False
            await log.record(now.working())
            return True
        if run.step and not run.aside and run.failure is None and run.reply is not None:
            # The step is over once its reply is dealt with.
            await log.record(*spoken(log.state, run, plan, now))
            return True
        current = now.current(plan)
        await agent.refine(overview(plan), current, _reasons(log, run, plan, now), now.edits)
        return True

    # tasks

    async def _started(self, log: Log, run: RunState, plan: Plan) -> bool:
        options = run.spec.tasks or TaskOptions()
        nodes = plan.next(max(1, options.max_parallel_tasks))
        for node in nodes:
            await log.record(TaskStarted(node.task, _task_spec(run.spec)), path=_path(log, node))
        return bool(nodes)

    async def _work(self, log: Log, paths: list[str], seen: int) -> bool:
        """Have the tasks under way go on: one alone takes a step, several go on side by side until one stops."""
        if len(paths) > 1 or self._working:
            for path in paths:
                if path not in self._working and path not in self._idle:
                    self._working[path] = side_by_side(log.at(path), _carry(self._engine(path), log.at(path)))
            if self._working:
                await self._until_one_stops(log, seen)
                return True
        self._idle.clear()
        seq, went = log.whole.seq, False
        for path in paths:
            went = await self._engine(path).step(log.at(path))
            if went:
                break
        if went or log.whole.seq != seq:
            await self._let_go(log)
            return True
        await wait(log)
        return False

    async def _until_one_stops(self, log: Log, seen: int) -> None:
        """Wait until a task ends or has to wait, or somebody outside does something."""
        outside = asyncio.ensure_future(log.changed(min((seen, *self._idle.values()))))
        try:
            await asyncio.wait({*self._working.values(), outside}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            outside.cancel()
        await log.workers.turn(log.path)
        if outside.done() and not outside.cancelled():
            self._idle.clear()
        for path, task in [*self._working.items()]:
            if task.done():
                del self._working[path]
                if task.cancelled():
                    continue  # it was interrupted, and goes on in the next round with what is to be closed first
                at = task.result()
                if path in log.whole.agents:
                    self._idle[path] = at
        await self._let_go(log)

    def _engine(self, path: str) -> Engine:
        if path not in self._engines:
            self._engines[path] = self._make_engine()
        return self._engines[path]

    async def _let_go(self, log: Log) -> None:
        for path in [path for path in self._engines if path not in log.whole.agents]:
            await self._engines.pop(path).close()

    async def _halt(self) -> None:
        tasks = [*self._working.values()]
        self._forget()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self) -> None:
        self._working, self._idle = {}, {}

    # the end

    async def _end(self, log: Log, agent: PlanAgent, run: RunState, plan: Plan) -> bool:
        root = plan.root
        if run.unheard and run.step:
            # The plan may not be changed any more: what was said is met by whoever concludes.
            await log.record(StepEnded())
            return True
        if not run.unheard and not root.children and root.conclusion is not None and root.submission is not None:
            await finish(log, root.conclusion)
            return False
        if answered(log):
            await close(log, "answer", "", "")
            return False
        seen = log.whole.seq
        found = await conclude(log, agent, task_text(root.task), lambda: overview(plan))
        if found is True or log.whole.seq != seen:  # while the log was read, something may have happened
            return True
        if found is False:
            found = standing(plan, told("no_conclusion", run.spec.language), run.spec.language)
        await finish(log, found)
        return False


async def _carry(engine: Engine, log: Log) -> int:
    """Let a task take steps until it ends or waits; return the number of the event that it saw last."""
    await log.workers.turn(log.path)
    while await engine.step(log):
        pass
    return log.whole.seq


def _under_way(log: Log, plan: Plan | None) -> list[str]:
    leaves = plan.leaves() if plan is not None else []
    return [_path(log, node) for node in leaves if node.status == "DOING"]


def _path(log: Log, node: Node) -> str:
    return f"{log.path}/{node.task.id}" if log.path else node.task.id


def _task_spec(spec: RunSpec) -> RunSpec:
    return msgspec.structs.replace(spec, engine="react", output=None, versions={})


def _made(log: Log, root: Task, tasks: tuple[Task, ...]) -> list[Stored]:
    """Return what records a plan."""
    known = root.goal in log.state.longterm.user_message[-1:]
    said = () if known else (LongTermUpdated(user_message=root.goal),)
    return [*said, PlanMade(root, tasks)]


def _decided(run: RunState, root: Task, options: TaskOptions) -> list[Stored]:
    """Return results for the calls of a reply that was to make a plan; the first that can be used decides."""
    language, events, over = run.spec.language, list[Stored](), _decision(run) is not None
    for each in run.unanswered():
        id, name = each.call.id, each.call.name
        try:
            if over:
                events.append(ToolEnded(id, told("first_counts", language), "cancelled"))
            elif name == GENERATE.name:
                tasks = first_plan(read(each.call, Subtasks).subtasks, root, options, language)
                ids = ", ".join(task.id for task in tasks)
                events += own_call(each, told("plan_made", language, count=len(tasks), ids=ids))
                over = True
            elif name == ANSWER.name and options.fast_path:
                _answer_of(each.call, language)
                events += own_call(each, told("answered", language), LongTermUpdated(user_message=root.goal))
                over = True
            else:
                text = told("no_such_call", language, name=name[:80], names=_offered(options))
                events.append(ToolEnded(id, text, "unknown_tool"))
        except Unfit as error:
            events.append(ToolEnded(id, told("bad_arguments", language, detail=error), "invalid"))
    return events


def _decision(run: RunState) -> ToolCall | None:
    """Return the call of the newest reply that decided between a plan and an answer, or None."""
    calls = (each for each in run.calls.values() if each.ended is not None and each.ended.status == "ok")
    return next((each.call for each in calls if each.call.name in (ANSWER.name, GENERATE.name)), None)


def _offered(options: TaskOptions) -> str:
    return ", ".join(tool.name for tool in ((ANSWER, GENERATE) if options.fast_path else (GENERATE,)))


def _answered(run: RunState) -> str | None:
    """Return the answer that stands in place of a plan, unless something was said since; None where there is none."""
    open = run.plan is None and bool(run.kept) and not run.unheard and not run.unanswered()
    decided = _decision(run) if open else None
    return _answer_of(decided, run.spec.language) if decided is not None and decided.name == ANSWER.name else None


def _answer_of(call: ToolCall, language: str) -> str:
    answer = read(call, Answer).answer.strip()
    if not answer:
        raise Unfit(told("empty_answer", language))
    return answer


def _may_change(run: RunState) -> bool:
    return (run.spec.tasks or TaskOptions()).max_plan_refine_chain_length > 0


def _attempts(log: Log, run: RunState, notice: str) -> int:
    """Return how many replies of this run made no plan that can be used, and were told so."""
    state = log.state
    said = [message for message, seq in zip(state.transcript, state.transcript.seqs, strict=True) if seq > run.seq]
    calling = sum(1 for message in said if message.calls)
    # An answer after which something was said is no attempt that failed.
    return calling - (_decision(run) is not None) + sum(1 for message in said if message.content == notice)


def _reasons(log: Log, run: RunState, plan: Plan, now: Rectification) -> str:
    """Return what asks for the change of the plan, one thing a line."""
    language, reasons = run.spec.language, list[str]()
    for id in now.asking:
        node = plan.nodes.get(id)
        if node is not None and node.submission is not None:
            text = "; ".join(node.submission.suggestions) or told("no_reason", language)
            reasons.append(told("asked_by", language, id=id, name=node.task.name, text=text))
    reasons += (told("new_information", language, text=text) for _, text in news(log.state, plan))
    if now.note:
        reasons.append(now.note)
    return "\n".join(reasons)
