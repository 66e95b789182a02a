"""The react engine: one bounded task, done step by step with tools until it is submitted (XAgent's ReActEngine).

It works on a run's own agent, whose task is the newest message, or on the task of an agent inside a run. All decisions
are made from the log, so a process that takes over ends the task as the first would have.

A task ends by `subtask_submit`. Of several submissions in a reply the first that can be read counts; calls before it
are run, calls after it are not. A reply that calls nothing is told so; the third in a row is taken for the submission.
After the submission the agent is asked for the conclusion, whose status is the task's one status: a task that was given
up may be concluded as reached, and the other way round. What is said to the agent before its end reopens the task, too;
where no step is left for that, the conclusion is asked for with it. Without a conclusion that fits, what was submitted
stands for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache

from stepwell import prompts
from stepwell.agent.asking import Asking, narrowed
from stepwell.agent.options import AgentOptions
from stepwell.agent.task_agents import ANSWER, GENERATE, OPERATION, SUBMIT, ToolAgent
from stepwell.contexts import TaskConclusion
from stepwell.engines.base import close, wait
from stepwell.engines.calls import Calls
from stepwell.engines.concluding import Over, conclude, failed, finish, own_call, received
from stepwell.engines.planning import Unfit, overview, submission_of, task_text
from stepwell.engines.task_words import TASK_WORDS, told
from stepwell.engines.turns import limit_reached, paused, put_off, repetition, repetition_words, settle
from stepwell.engines.unconcluded import STATED, accepted, answered, of_submission, of_task, request_of
from stepwell.engines.words import words
from stepwell.errors import ContextFull, LimitReached
from stepwell.events import MessageAdded, StepEnded, StepStarted, Stored, TaskSubmitted, ToolEnded
from stepwell.log import Log
from stepwell.messages import Message, ToolSpec, ToolSpecs
from stepwell.plans import TaskSubmission
from stepwell.specs import TaskOptions
from stepwell.state.run import RunState
from stepwell.state.thread import parent_of
from stepwell.tools.base import Toolbox

MOST_TEXTS = 3
"""Replies in a row that call nothing; the last of them is taken for the submission."""


def constants() -> dict[str, str]:
    """Return what decides how tasks go besides the log, by name; replay compares it with the run's own."""
    return {"react.texts": str(MOST_TEXTS), "react.prompts": digest_of("task", "conclusion"), STATED: "1"}


@lru_cache(maxsize=8)
def digest_of(*kinds: str) -> str:
    """Return a short hash of all prompts of these kinds, of the words of tasks and of the calls of their agents."""
    hashed = hashlib.sha256(
        repr(sorted(TASK_WORDS.items())).encode() + ToolSpecs((SUBMIT, ANSWER, GENERATE, OPERATION)).encoded
    )
    for kind in kinds:
        for name in prompts.names(kind):
            hashed.update("".join(prompts.load(kind, name, each).digest for each in ("en", "zh")).encode())
    return hashed.hexdigest()[:12]


class ReactEngine:
    """Does one task.

    Args:
        make_agent: Makes the agent over the log of its path.
        calls: Runs its calls.
    """

    def __init__(self, make_agent: Callable[[Log], ToolAgent], calls: Calls) -> None:
        self._make_agent, self.calls = make_agent, calls
        self._agent: ToolAgent | None = None
        self._config: AgentOptions | None = None
        self._tell_tools = False

    @property
    def toolbox(self) -> Toolbox:
        """What the agent may call besides its submission."""
        return self.calls.toolbox

    async def lazy_init(self, config: AgentOptions | None = None, get_available_tools: bool = True) -> None:
        """Take other options, and have the agent told of its tools in its long-term context before its next step.

        Args:
            config: Options of the agent; None leaves them.
            get_available_tools: Whether it is told of its tools.
        """
        self._config, self._tell_tools = config or self._config, get_available_tools
        if self._agent is not None and config is not None:
            self._agent.config = config

    async def step(self, log: Log) -> bool:
        """Make one decision and carry it out; see `engines.base.Engine`."""
        run = log.state.run if not log.path or log.path in log.whole.agents else None
        if run is None:
            return False
        if await settle(log, run):
            return True
        agent = self._agent_of(log)
        try:
            return await self._decide(log, agent, run)
        except LimitReached as error:
            over = Over("limit", error.name, str(error))
        except ContextFull as error:
            over = Over("failed", "window", words("window", run.spec.language, detail=str(error)))
        await _stop(log, run, over)
        return False

    def asking(self, log: Log, started: StepStarted) -> Asking:
        """Return who made a request, and how; see `engines.base.Asks`."""
        agent = self._make_agent(log)
        return Asking(agent, narrowed(agent.settings, started.tools))

    async def close(self) -> None:
        """Give up the summaries under way."""
        if self._agent is not None and self._agent.summaries is not None:
            await self._agent.summaries.close()

    def _agent_of(self, log: Log) -> ToolAgent:
        if self._agent is None:
            self._agent = self._make_agent(log)
            if self._config is not None:
                self._agent.config = self._config
        return self._agent

    async def _decide(self, log: Log, agent: ToolAgent, run: RunState) -> bool:
        counts = accepted(run) if run.kept else None
        if counts is not None and run.submission is None and not run.unheard and not run.unanswered():
            await _submit(log, run, submission_of(counts.call))
            return True
        over = failed(agent, run) or _limited(log)
        if over is not None:
            await _stop(log, run, over, await received(log, agent))
            return False
        text = put_off(log) if not run.unheard else None
        if text is not None:
            await close(log, "answer", "question", text)
            return False
        if paused(log):
            await wait(log)
            return False
        if run.submission is not None:
            return await self._conclude(log, agent, run, run.submission)
        if run.unanswered():
            return await self._answer(log, agent, run)
        return await self._go_on(log, agent, run)

    async def _conclude(self, log: Log, agent: ToolAgent, run: RunState, submission: TaskSubmission) -> bool:
        answers = [
            ToolEnded(each.call.id, told("after_submission", run.spec.language), "cancelled")
            for each in run.unanswered()
        ]
        if answers:
            await log.record(*answers)
            return True
        if answered(log):
            await close(log, "answer", "", "")
            return False
        task, parent = request_of(log)[0], log.whole.at(parent_of(log.path)) if log.path else None
        plan = parent.run.plan if parent is not None and parent.run is not None else None
        seen = log.whole.seq
        found = await conclude(log, agent, task_text(task), lambda: overview(plan) if plan is not None else "-")
        if found is True or log.whole.seq != seen:  # while the log was read, something may have happened
            return True
        await finish(log, of_submission(task.goal, submission, run.spec.language) if found is False else found)
        return False

    async def _answer(self, log: Log, agent: ToolAgent, run: RunState) -> bool:
        """Answer the submissions of a reply, and what stands behind the one that counts; run the other calls."""
        events = _submissions(run)
        if events:
            await log.record(*events)
            return True
        went = await self.calls.run(log, agent)
        if not went:
            await wait(log)
        return went

    async def _go_on(self, log: Log, agent: ToolAgent, run: RunState) -> bool:
        most = (run.spec.tasks or TaskOptions()).max_chain_length
        refused = run.failure is not None and run.failure.kind == "overflow"
        used = run.steps - run.learned - refused
        if used >= most:
            await _submit(log, run, _chain_over(run, most))
            return True
        if spoke_only(log, run):
            await self._spoken(log, run)
            return True
        match await repetition(log):
            case "recorded":
                return True
            case "waits":
                await wait(log)
                return False
            case "stop":
                await _stop(log, run, Over("limit", *repetition_words(log)))
                return False
            case "clear":
                pass
        if await self._prepared(log, agent, run):
            return True
        asked = await agent.work(used + 1, most, people=run.spec.people)
        if asked.message.calls:
            await agent.setup_summaries()
        return True

    async def _spoken(self, log: Log, run: RunState) -> None:
        """Tell the model that its reply called nothing, or take the reply for the submission."""
        notice, language = told("no_call", run.spec.language), run.spec.language
        texts = _notices(log, notice) + 1
        if texts < MOST_TEXTS:
            await log.record(MessageAdded(Message("user", notice), "engine"))
            return
        said = run.reply.content.strip() if run.reply is not None else ""
        kind = "success" if said else "give_up"
        await _submit(log, run, TaskSubmission(submit_type=kind, result=said or told("nothing_said", language)))

    async def _prepared(self, log: Log, agent: ToolAgent, run: RunState) -> bool:
        """Tell the agent of its task and of its tools where it does not know them; return whether it was told."""
        if self._tell_tools:
            self._tell_tools = False
            tools = tuple(map(_shown, agent.tools))
            if log.state.longterm.available_tools != tools:
                await agent.update_longterm_context(available_tools=tools)
                return True
        if run.task is None or run.steps:
            return False
        task = task_text(run.task)
        opening = prompts.load("task", "start", run.spec.language)
        if any(message.role == "user" and task in message.content for message in log.state.transcript):
            return False
        parent = log.whole.at(parent_of(log.path)).run
        plan = overview(parent.plan) if parent is not None and parent.plan is not None else "-"
        await log.record(MessageAdded(Message("user", opening.render(task=task, overview=plan)), "engine"))
        return True


def _shown(tool: ToolSpec) -> dict[str, object]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _limited(log: Log) -> Over | None:
    reached = limit_reached(log)
    return None if reached is None else Over("limit", *reached)


async def _stop(log: Log, run: RunState, over: Over, conclusion: TaskConclusion | None = None) -> None:
    """End a task that something else ends; a conclusion that is there already counts, unless more was said since."""
    if conclusion is not None:
        await finish(log, conclusion, over if run.unheard else None)
        return
    worth = over.reason == "limit" or run.submission is not None or accepted(run) is not None
    await finish(log, of_task(log, run, over.detail), over, tell=worth)


async def _submit(log: Log, run: RunState, submission: TaskSubmission) -> None:
    """Record the end of the work; an open step then is that of the conclusion."""
    await log.record(*((StepEnded(),) if run.step else ()), TaskSubmitted(submission))


def _submissions(run: RunState) -> list[Stored]:
    """Return the results of the submissions in the newest reply, and of the calls behind the one that counts."""
    events: list[Stored] = []
    language, counts = run.spec.language, False
    for each in run.calls.values():
        id, name = each.call.id, each.call.name
        if each.ended is not None:
            counts = counts or (name == SUBMIT.name and each.ended.status == "ok")
        elif counts:
            text = "submitted_before" if name == SUBMIT.name else "after_submission"
            events.append(ToolEnded(id, told(text, language), "cancelled"))
        elif name == SUBMIT.name:
            try:
                found = submission_of(each.call)
            except Unfit as error:
                events.append(ToolEnded(id, told("bad_arguments", language, detail=error), "invalid"))
            else:
                counts = True
                events += own_call(each, told("submitted", language, type=found.submit_type))
    return events


def _chain_over(run: RunState, most: int) -> TaskSubmission:
    said = run.reply.content.strip() if run.reply is not None else ""
    counts = accepted(run)
    if counts is not None:
        return submission_of(counts.call)
    text = told("chain_over", run.spec.language, limit=most)
    return TaskSubmission(submit_type="max_tool_call", result=f"{text}\n\n{said}" if said else text)


def spoke_only(log: Log, run: RunState) -> bool:
    """Tell whether the newest reply called nothing and nothing was said since."""
    if not run.kept or run.reply is None or run.reply.calls or run.failure is not None:
        return False
    return log.state.transcript.seqs[-1] <= run.kept


def _notices(log: Log, notice: str) -> int:
    """Return how often in a row the model was told that its reply called nothing."""
    count = 0
    for message in reversed(log.state.transcript):
        if message.role == "user" and message.content == notice:
            count += 1
        elif message.role != "assistant" or message.calls:
            break
    return count
