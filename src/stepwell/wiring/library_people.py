"""What people do to the runs of a `library.Agent`: answers, steering, forks; functions over its run service."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from stepwell.errors import Decided, Expired, InputError, RunWaits

if TYPE_CHECKING:
    from stepwell.events import Policy, Stored, Transient, Unknown
    from stepwell.messages import Message
    from stepwell.runs.channel import Item
    from stepwell.runs.forks import Diff
    from stepwell.runs.log import ThreadLog
    from stepwell.runs.outline import TaskView
    from stepwell.runs.people import QuestionInfo
    from stepwell.runs.requests import RunRef
    from stepwell.runs.service import RunService
    from stepwell.specs import RunSpec
    from stepwell.state.thread import Queued, State


class Answer(NamedTuple):
    """What is decided on a question.

    Args:
        decision: Such as `approve`, `deny`, `answer`; `QuestionInfo.decisions` names those that the question takes.
        text: The answer, the reason of a refusal, or the result of a call that is done.
        arguments: JSON text of the arguments that run instead of the model's.
        value: The fields of an answer with a form.
        scope: How far an approval reaches: `once`, `call` or `tool`.
    """

    decision: str
    text: str = ""
    arguments: str = ""
    value: dict[str, Any] | None = None
    scope: str = "once"


class At(NamedTuple):
    """An event with the agent that it happened to.

    Args:
        path: Empty for the run's own agent, else that of the agent inside it, such as `1.2`.
        event: What happened.
    """

    path: str
    event: Stored | Transient | Unknown


Said = Answer | bool | str
"""`True` approves or goes on, `False` refuses or stops; a text is an answer."""

Ask = Callable[["QuestionInfo"], "Said | Awaitable[Said]"]
"""Answers a question of a run."""


def answer_of(question: QuestionInfo, said: Said) -> Answer:
    """Return what somebody's words decide.

    Raises:
        InputError: The question takes no such answer.
    """
    if isinstance(said, Answer):
        return said
    if isinstance(said, str):
        return Answer("answer" if question.kind in ("question", "elicitation") else "done", said)
    if said is not True and said is not False:  # what is merely true approves nothing
        raise InputError(f"`ask` returned {type(said).__name__}; return True, False, a text or an `Answer`.", "ask")
    first, second = {"approval": ("approve", "deny"), "confirm": ("approve", "deny")}.get(
        question.kind, ("continue", "stop")
    )
    if question.kind in ("question", "elicitation", "outcome", "result"):
        raise InputError(f"The question {question.seq} is no yes or no; return an `Answer` or a text.", "ask")
    return Answer(first if said else second)


async def settle_run(service: RunService, owner: str, log: ThreadLog, number: int, ask: Ask | None) -> None:
    """Answer what a run asks, again and again, until it has ended.

    Raises:
        RunWaits: It waits, and there is nobody to ask.
        InputError: Nobody carries it out, for the thread has events of a newer version.
    """
    from stepwell.runs.threads import check_known

    while _is_open(log, number):
        check_known(log)
        await _idle(service, owner, log, number)
        if not _is_open(log, number):
            return
        open_ones = await all_questions(service, owner, log.thread)
        if ask is None or not open_ones:
            waits = ", ".join(str(each.seq) for each in open_ones) or "somebody who lets it go on"
            raise RunWaits(f"The run {number} waits for: {waits}.", log.thread, number)
        for each in open_ones:
            if each.seq in log.state.questions:  # else it was decided meanwhile
                said = ask(each)
                decided = answer_of(each, await said if inspect.isawaitable(said) else said)
                await _decide(service, owner, log, each.seq, decided)


async def _decide(service: RunService, owner: str, log: ThreadLog, question: int, decided: Answer) -> None:
    """Answer a question of an open run, unless it was decided or its time was over before."""
    try:
        await give_answer(service, owner, log.thread, question, decided)
    except Expired:
        await service.expire()
    except Decided:
        if question in log.state.questions:
            raise


def _is_open(log: ThreadLog, number: int) -> bool:
    return log.state.run is not None and log.state.run.seq == number


async def _idle(service: RunService, owner: str, log: ThreadLog, number: int) -> None:
    """Wait until the run has ended or waits for people."""
    from stepwell.runs.channel import Cursor

    async with aclosing(service.follow(owner, log.thread, Cursor(number))) as batches:
        async for _ in batches:
            run = log.state.run
            if run is None or run.seq != number or run.waiting is not None:
                return


async def all_questions(service: RunService, owner: str, thread: str) -> list[QuestionInfo]:
    """Return the open questions of a thread; see `runs.people.questions`."""
    from stepwell.runs.people import questions

    return await questions(service, owner, thread)


async def give_answer(service: RunService, owner: str, thread: str, question: int, given: Answer) -> RunRef:
    """Decide a question; see `runs.people.answer`."""
    from stepwell.runs.people import answer

    decision, text, arguments, value, scope = given
    return await answer(
        service, owner, thread, question, decision, text=text, arguments=arguments, value=value, scope=scope
    )


async def open_run(service: RunService, owner: str, thread: str) -> int:
    """Return the number of a thread's open run.

    Raises:
        InputError: There is none.
    """
    info = await service.info(owner, thread)
    if not info.run:
        raise InputError("The thread has no open run.", "thread")
    return info.run


async def newest_run(service: RunService, owner: str, thread: str, run: int = 0) -> int:
    """Return the number of a thread's open run, or of its last where none is open; `run` itself where it is not 0.

    Raises:
        NotFound: There is no such thread or run.
        InputError: It never had one.
    """
    async with service.using(owner, thread) as log:
        if run:
            await service.check_run(thread, run)
            return run
        newest = log.state.run or (log.state.last[0] if log.state.last else None)
    if newest is None:
        raise InputError("The thread has no run.", "thread")
    return newest.seq


async def ended_state(log: ThreadLog, number: int) -> State:
    """Return what a thread had come to when a run ended, or what it has come to now where that did not."""
    from stepwell.state.thread import State

    state = log.state
    if state.run is None and state.last is not None and state.last[0].seq == number:
        return state
    events = await log.read()
    end = next((at for at, each in enumerate(events, 1) if each.run == number and each.ends_run), 0)
    return await asyncio.to_thread(State, events[:end]) if end else log.state


async def newest_plan(service: RunService, owner: str, thread: str) -> TaskView | None:
    """Return the tree of a thread's newest plan, or None."""
    from stepwell.runs.outline import Outline, view

    async with service.using(owner, thread) as log:
        events = await log.read()
    plan = (await asyncio.to_thread(Outline, events)).plan
    return view(plan.root) if plan is not None else None


async def send_message(
    service: RunService, owner: str, message: Message, spec: RunSpec, thread: str, policy: Policy | None
) -> RunRef:
    """Say something in a thread, whether a run is open or not; see `RunService.start`.

    Raises:
        InputError: There is no such policy.
    """
    from stepwell.events import Policy

    if policy is not None and policy not in (known := get_args(Policy)):
        raise InputError(f"`policy` is one of {', '.join(known)}, not {policy!r}.", "policy")
    return await service.start(owner, message, spec, thread=thread, policy=policy or "")


async def waiting_messages(service: RunService, owner: str, thread: str) -> list[Queued]:
    """Return the messages that wait; see `runs.queue.queue`."""
    from stepwell.runs.queue import queue

    return await queue(service, owner, thread)


class Places:
    """Tells which agent an event happened to; those that are shown and not stored follow one that is."""

    def __init__(self) -> None:
        self._messages: dict[int, str] = {}
        self._calls: dict[str, str] = {}

    def of(self, item: Item) -> str:
        """Return the path of the next event of a run."""
        from stepwell.events import MessageStarted, Recorded, ToolProgress, ToolStarted

        event = item.event
        if isinstance(item, Recorded):
            if isinstance(event, MessageStarted):
                self._messages[item.seq] = item.path
            elif isinstance(event, ToolStarted):
                self._calls[event.call] = item.path
            return item.path
        if isinstance(event, ToolProgress):
            return self._calls.get(event.call, "")
        return self._messages.get(getattr(event, "message", 0), "")


async def steer_run(service: RunService, owner: str, thread: str, message: Message, *, interrupt: bool) -> None:
    """Say something to the open run; see `runs.people.steer`."""
    from stepwell.runs.people import steer

    await steer(service, owner, thread, await open_run(service, owner, thread), message, interrupt=interrupt)


async def pause_run(service: RunService, owner: str, thread: str) -> None:
    """Halt the open run; see `runs.people.pause`."""
    from stepwell.runs.people import pause

    await pause(service, owner, thread, await open_run(service, owner, thread))


async def let_go_on(service: RunService, owner: str, thread: str) -> None:
    """Let a halted run go on; see `runs.people.go_on`."""
    from stepwell.runs.people import go_on

    await go_on(service, owner, thread, await open_run(service, owner, thread))


async def fork_thread(
    service: RunService, owner: str, thread: str, at: int, edit: dict[str, str], spec: RunSpec | None
) -> RunRef:
    """Make a thread from the beginning of another; see `runs.forks.fork`."""
    from stepwell.runs.forks import Edit, fork

    return await fork(service, owner, thread, at, edit=Edit(**edit) if edit else None, spec=spec)


async def compare_threads(service: RunService, owner: str, one: str, other: str) -> Diff:
    """Tell where two threads part; see `runs.forks.diff`."""
    from stepwell.runs.forks import diff

    return await diff(service, owner, one, other)
