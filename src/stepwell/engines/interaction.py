"""The interaction engine: a front that talks with a person while a plan works (XAgent's InteractionEngine).

A new message is routed: answered, asked back about, or made a task. One that comes while the plan works is judged:
it asks to stop, it is answered, it is a question about the work, or it changes the work. The front's own conversation
holds only what was said; what the working agents know is not touched by it. A message in place of an answer takes the
question back. An interrupt is judged before the work goes on.

What the front looks at while others work is looked at right after an event of its own, so that a replay, which keeps
the order of events, sees the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec

from stepwell import prompts
from stepwell.agent.asking import Asking, narrowed
from stepwell.agent.base import BaseAgent
from stepwell.agent.options import AgentOptions
from stepwell.contexts import TaskConclusion
from stepwell.engines.base import Engine, close, ends, pass_on, side_by_side, wait
from stepwell.engines.choices import (
    CHAT,
    JUDGMENTS,
    ROUTES,
    asked_back,
    asked_to_exit,
    fields_of,
    heard,
    is_asked,
    line_of,
    must_ask,
    plan_of,
    read_choice,
    said_by,
    spoken,
    stopping,
    to_say,
    trouble_of,
    work_path,
    work_shown,
    working,
)
from stepwell.engines.planning import overview
from stepwell.engines.turns import limit_reached, paused, put_off, settle
from stepwell.engines.words import words
from stepwell.errors import ContextFull, LimitReached, StoreError
from stepwell.events import (
    Answered,
    EndReason,
    MessageAdded,
    Steered,
    StepEnded,
    StepStarted,
    TaskEnded,
    TaskStarted,
    ToolEnded,
)
from stepwell.log import Log
from stepwell.messages import Message, ToolSpecs, clean
from stepwell.models.base import Settings
from stepwell.plans import Task
from stepwell.specs import Limits
from stepwell.state.run import OpenCall, RunState


class InteractionEngine:
    """Talks with a person, and lets a plan work.

    Args:
        make_agent: Makes the agent that talks, over the log of a path.
        make_plan: Makes the engine that works.
    """

    def __init__(self, make_agent: Callable[[Log], BaseAgent], make_plan: Callable[[], Engine]) -> None:
        self._make_agent, self._make_plan = make_agent, make_plan
        self._agent: BaseAgent | None = None
        self._plan: Engine | None = None
        self._config: AgentOptions | None = None

    async def lazy_init(self, config: AgentOptions | None = None, get_available_tools: bool = True) -> None:
        """Take other options; what can be called stands in each request anyway.

        Args:
            config: Options of the agent; None leaves them.
            get_available_tools: Taken for the sake of engines that tell their agent of its tools once.
        """
        self._config = config or self._config
        if self._agent is not None and config is not None:
            self._agent.config = config

    async def step(self, log: Log) -> bool:
        """Make one decision and carry it out; see `engines.base.Engine`."""
        run = log.state.run
        if run is None:
            return False
        if await settle(log, run) or await _settled_inside(log):
            return True
        agent = self._agent = self._agent or self._made(log)
        try:
            return await self._decide(log, agent, run)
        except LimitReached as error:
            await _over(log, run, "limit", error.name, str(error))
        except ContextFull as error:
            await _over(log, run, "failed", "window", words("window", run.spec.language, detail=str(error)))
        return False

    def _made(self, log: Log) -> BaseAgent:
        agent = self._make_agent(log)
        if self._config is not None:
            agent.config = self._config
        return agent

    def asking(self, log: Log, started: StepStarted) -> Asking:
        """Return who made a request, and how; see `engines.base.Asks`."""
        agent = self._make_agent(log)
        return Asking(agent, narrowed(agent.settings, started.tools), ToolSpecs((*ROUTES, *JUDGMENTS)))

    async def close(self) -> None:
        """Give up what goes on beside the run."""
        plan, self._plan = self._plan, None
        for each in (plan, self._agent.summaries if self._agent else None):
            if each is not None:
                await each.close()

    async def _decide(self, log: Log, agent: BaseAgent, run: RunState) -> bool:
        text, reached = put_off(log), limit_reached(log)
        if text is not None:
            await close(log, "answer", "question", text)
            return False
        if working(log):
            # A limit holds for those who work, too: they end with what they have.
            return await self._work(log, agent, run, mute=reached is not None)
        if self._plan is not None:
            plan, self._plan = self._plan, None
            await plan.close()
        if reached is not None:
            return await _over(log, run, "limit", *reached)
        if paused(log):
            await wait(log)
            return False
        if run.unanswered():
            if not await self._answer(log):
                await wait(log)
                return False
            return True
        said = to_say(log, run)
        if said:
            await log.record(*said)
            return True
        if must_ask(agent, run, working=False):
            await self._ask(log, agent, prompts.load("router", "default", run.spec.language).render(), ROUTES)
            return True
        return await _finish(log, agent, run)

    async def _ask(self, log: Log, agent: BaseAgent, text: str, tools: ToolSpecs) -> None:
        settings = narrowed(agent.settings, [each.name for each in tools])
        await agent.ask((Message("user", text),), None, tools, settings)

    # beside the work

    async def _work(self, log: Log, agent: BaseAgent, run: RunState, *, mute: bool) -> bool:
        """Let the plan work, and talk with whoever says something meanwhile."""
        if stopping(run):
            return await _stopped(log)
        if run.broken and run.unheard and not mute and not paused(log):
            await self._judge(log, agent)
            await self._answer(log)
        plan, path = self._plan or self._make_plan(), work_path(log)
        self._plan = plan
        work = side_by_side(log.at(path), _carry(plan, log.at(path)))
        try:
            # Looked up again each time: after another process appended, the fold is a new one.
            while not work.done() and (open := log.state.run) is not None and not stopping(open):
                seq = log.whole.seq
                talked, mute = await self._talk(log, agent, open, mute)
                if not talked:
                    await _either(work, log, seq)
        except StoreError:
            await asyncio.wait({work})  # what it has under way may have effects; it meets the same error
            raise
        finally:
            if not work.done():
                log.workers.pop(path, None)
                work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        return await self._stands(log, agent, work, mute=mute)

    async def _stands(self, log: Log, agent: BaseAgent, work: asyncio.Task[int], *, mute: bool) -> bool:
        """Tell whether there is anything to do now that the work has halted; else wait for people."""
        run = log.state.run
        if run is not None and stopping(run):
            return await _stopped(log)
        if work.cancelled() or run is None or not working(log) or log.whole.seq != work.result():
            return True
        return (not mute and self._said(log, agent, run)) or not await _waits(log)

    def _said(self, log: Log, agent: BaseAgent, run: RunState) -> bool:
        """Tell whether there is something for the front to do."""
        if paused(log):
            return False
        idle = [each for each in run.unanswered() if run.pending or not is_asked(each)]
        return bool(idle) or (not run.unanswered() and must_ask(agent, run, working=True))

    async def _talk(self, log: Log, agent: BaseAgent, run: RunState, mute: bool) -> tuple[bool, bool]:
        """Do one thing about what was said: return whether there was any, and whether no more can be said."""
        if mute or run.message or paused(log):
            return False, mute
        if run.unanswered():
            return await self._answer(log), mute
        said = to_say(log, run)
        if said:
            await log.record(*said)
            return True, mute
        if not must_ask(agent, run, working=True):
            return await _sorry(log, agent, run), mute
        try:
            await self._judge(log, agent)
        except (LimitReached, ContextFull):  # the work goes on, and ends with the same where that holds for it, too
            return False, True
        return True, mute

    async def _judge(self, log: Log, agent: BaseAgent) -> None:
        run = log.state.run
        assert run is not None
        if run.step:
            await log.record(StepEnded())
        plan = plan_of(log)
        shown = overview(plan) if plan is not None else "-"
        await self._ask(log, agent, prompts.load("judger", "default", run.spec.language).render(plan=shown), JUDGMENTS)

    # what was chosen

    async def _answer(self, log: Log) -> bool:
        """Carry out the choices of the newest reply; return False where all that are left wait for an answer."""
        did = False
        while (run := log.state.run) is not None:
            each = next((each for each in run.unanswered() if run.pending or not is_asked(each)), None)
            if each is None:
                break
            if is_asked(each) and each.asked is not None:
                await log.record(Answered(each.asked.seq, "cancelled"))
            await self._chosen(log, run, each)
            did = True
        return did

    async def _chosen(self, log: Log, run: RunState, each: OpenCall) -> None:
        """Take the next step of one choice."""
        (name, given), id, language, path = read_choice(each.call), each.call.id, run.spec.language, work_path(log)
        match name:
            case "start_task":
                await _begin(log, run, each, given)
            case "ask_user":
                await log.record(*asked_back(run, each, given))
            case "answer_user" | "respond":
                await log.record(ToolEnded(id, words("user_told", language)))
            case "chat":
                await self._chat(log, run, each)
                await log.record(ToolEnded(id, words("user_told", language)))
            case "exit_task":
                await log.record(*asked_to_exit(log, run, each, given))
            case "detail" if path in log.whole.agents:
                if not heard(log.at(path), given, run.kept):
                    await log.record(Steered(Message("user", given), source="engine"), path=path)
                await log.record(ToolEnded(id, words("passed_on", language)))
            case "detail":
                await log.record(ToolEnded(id, words("work_over", language), "failed"))
            case _:
                names = ", ".join(tool.name for tool in (JUDGMENTS if working(log) else ROUTES))
                await log.record(ToolEnded(id, words("no_such_choice", language, detail=names), "invalid"))

    async def _chat(self, log: Log, run: RunState, opened: OpenCall) -> None:
        """Answer a question about the work by an agent of its own, which sees what the asked one knows."""
        if opened.task is not None:
            return
        path, fields = f"{CHAT}{run.kept}", fields_of(opened.call)
        question = clean(str(fields.get("question", "")))
        if path not in log.whole.agents:
            spec = msgspec.structs.replace(run.spec, engine="chat", tools=(), output=None, versions={})
            task = Task(name=line_of(question), goal=question)
            await log.record(TaskStarted(task, spec, opened.call.id), path=path)
        shown = work_shown(log, run, str(fields.get("engine", "")))
        inner = log.at(path)
        known = inner.state.run
        assert known is not None
        await settle(inner, known)
        if known.reply is None or known.stop == "cancelled":
            text = prompts.load("chat_about", "default", run.spec.language).render(work=shown, question=question)
            with suppress(LimitReached, ContextFull):
                await self._make_agent(inner).ask((Message("user", text),), None, ToolSpecs(()), Settings())
        reply = known.reply.content if known.reply is not None and known.failure is None else ""
        text = reply or words("chat_failed", run.spec.language)
        conclusion = TaskConclusion(summary=text, status="success" if reply else "failure", reply=text)
        await pass_on(inner)
        await inner.record(*ends(inner), TaskEnded(conclusion.status, conclusion))


async def _settled_inside(log: Log) -> bool:
    """Close what an interrupt left open in those who work, the agent of this log and those inside it."""
    inside = f"{log.path}/" if log.path else ""
    for path in [path for path in log.whole.agents if f"{path}/".startswith(inside)]:
        agent = log.whole.agents.get(path)
        run = agent.run if agent is not None else None
        if run is not None and run.interrupted and await settle(log.at(path), run):
            return True
    return False


async def _carry(plan: Engine, inner: Log) -> int:
    """Let the plan work until it ends or waits; return the number of the newest event that it saw.

    Interrupted as one of the workers it goes on at once from the log, whatever the front does meanwhile.
    """
    while True:
        try:
            return await _steps(plan, inner)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or inner.path not in inner.workers:
                raise
            while task.uncancel():
                pass


async def _steps(plan: Engine, inner: Log) -> int:
    await inner.workers.turn(inner.path)
    while await _settled_inside(inner):
        pass
    seen = inner.whole.seq
    while inner.path in inner.whole.agents and await plan.step(inner):
        seen = inner.whole.seq
    return seen


async def _waits(log: Log) -> bool:
    """Wait for people, unless nobody is there to answer what was asked; return whether it does."""
    if put_off(log) is not None:
        return False
    await wait(log)
    return True


async def _either(work: asyncio.Future[int], log: Log, seq: int) -> None:
    news = asyncio.ensure_future(log.changed(seq))
    try:
        await asyncio.wait({work, news}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        news.cancel()


async def _sorry(log: Log, agent: BaseAgent, run: RunState) -> bool:
    """Tell, once, that what was said could not be dealt with; return whether that was done."""
    trouble = trouble_of(agent, run)
    if trouble is None:
        return False
    text, told = words("not_judged", run.spec.language, detail=trouble[1]), list(log.state.transcript)[-1:]
    if told and told[0].role == "assistant" and told[0].content == text:
        return False
    await log.record(MessageAdded(said_by(text), "engine"))
    return True


async def _finish(log: Log, agent: BaseAgent, run: RunState) -> bool:
    """End the run with what the work came to, or with what was said last."""
    trouble = trouble_of(agent, run)
    spoke = run.reply is not None and (run.reply.content or any(map(spoken, run.calls.values())))
    if run.done is not None:
        cause, detail = run.done.cause, run.done.detail
        await close(log, _reason(cause), cause, detail)
    elif trouble is not None:
        await close(log, "failed", *trouble)
    elif not spoke:
        await close(log, "failed", "empty_reply", words("empty_reply", run.spec.language))
    else:
        await close(log, "answer", "", "")
    return False


def _reason(cause: str) -> EndReason:
    """Return how a run ends whose work ended for a cause."""
    if cause in ("", "exit"):
        return "cancelled" if cause else "answer"
    name = cause.removeprefix("thread_").removeprefix("key_")
    return "limit" if name in Limits.__struct_fields__ or name == "repetition" else "failed"


async def _over(log: Log, run: RunState, reason: EndReason, cause: str, detail: str) -> bool:
    """End the run otherwise; what the work came to is told first."""
    done = to_say(log, run)[-1:] if run.done is not None else []
    if done:
        asked = [each.asked for each in run.unanswered() if is_asked(each) and each.asked is not None]
        taken = [Answered(each.seq, "cancelled") for each in asked]
        await log.record(*taken, *(ends(log) if run.unanswered() else ()), *done)
    await close(log, reason, cause, detail)
    return False


async def _stopped(log: Log) -> bool:
    run = log.state.run
    assert run is not None
    await close(log, "cancelled", "exit", words("cancelled", run.spec.language))
    return False


async def _begin(log: Log, run: RunState, each: OpenCall, given: str) -> None:
    """Begin the work, or tell that it has begun."""
    path, language = work_path(log), run.spec.language
    if path not in log.whole.agents:
        spec = msgspec.structs.replace(run.spec, engine="plan", output=None, versions={})
        await log.record(TaskStarted(Task(id="1", name=line_of(given), goal=given), spec), path=path)
    begun = log.whole.agents[path].run
    if begun is not None and begun.task is not None and begun.task.goal == given:
        await log.record(ToolEnded(each.call.id, words("task_begun", language)))
    else:
        names = ", ".join(tool.name for tool in JUDGMENTS)
        await log.record(ToolEnded(each.call.id, words("no_such_choice", language, detail=names), "invalid"))
