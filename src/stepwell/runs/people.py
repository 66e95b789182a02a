"""What people do to runs: they see what is asked, decide it, say something, halt a run and let it go on.

Functions over the run service: each looks at the fold, appends what was done, and has a waiting run go on. What becomes
of it is decided by engines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec

from stepwell.engines.approvals import as_started
from stepwell.errors import Decided, InputError, NotFound
from stepwell.events import Answered, PauseRequested, ResumeRequested, Steered, Stored
from stepwell.messages import Message, clean
from stepwell.questions import DECISIONS, Decision, QuestionKind, Scope, visible
from stepwell.runs.answers import (
    Admit,
    Reply,
    answer_all,
    call_of,
    run_of,
)
from stepwell.runs.log import ThreadLog
from stepwell.runs.requests import Once, RunRef
from stepwell.runs.service import RunService
from stepwell.state.run import Question, RunState


class QuestionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An open question as people see it.

    Args:
        thread: The thread's id.
        run: Number of the run that asks, or 0 where it is over and waits for nothing else.
        seq: Number of the question.
        path: The agent that asks; empty for the run's own.
        kind: What is asked.
        call: Id of the call that it is about; empty for none.
        tool: Name of the tool; empty for none.
        arguments: The arguments as they are stored and would run.
        shown: The same with invisible characters written out.
        text: The question in words.
        reason: Why it is asked.
        choices: Answers to choose from; empty for free text.
        form: JSON schema of an answer that has fields; None for text.
        hash: What an approval is bound to.
        time: When it was asked, in milliseconds since 1970.
        until: When it expires, in milliseconds since 1970; 0 for never.
        default: The answer that counts then, or None.
        decisions: What may be decided.
    """

    thread: str
    run: int
    seq: int
    path: str
    kind: QuestionKind
    call: str
    tool: str
    arguments: str
    shown: str
    text: str
    reason: str
    choices: tuple[str, ...]
    form: dict[str, Any] | None
    hash: str
    time: int
    until: int
    default: str | None
    decisions: tuple[Decision, ...]


async def questions(service: RunService, owner: str, thread: str) -> list[QuestionInfo]:
    """Return the open questions of a thread, oldest first.

    Raises:
        NotFound: There is no such thread.
    """
    async with service.using(owner, thread) as log:
        return [await _info(log, each) for _, each in sorted(log.state.questions.items())]


async def pending(service: RunService, owner: str, limit: int = 50) -> list[QuestionInfo]:
    """Return the open questions of all threads of an owner, the longest asked first, at most `limit`."""
    service.flush()
    found: list[QuestionInfo] = []
    for thread in await service.store.asking(owner, limit):
        try:
            found += await questions(service, owner, thread)
        except NotFound:  # removed meanwhile
            continue
    return sorted(found, key=lambda each: (each.time, each.thread, each.seq))[:limit]


async def answer(
    service: RunService,
    owner: str,
    thread: str,
    question: int,
    decision: str,
    *,
    text: str = "",
    arguments: str = "",
    value: dict[str, Any] | None = None,
    scope: str = "once",
    hash: str = "",
    once: Once | None = None,
    admit: Admit | None = None,
) -> RunRef:
    """Decide a question once and for all; it is durable on return, and the run goes on, or another after its end.

    Args:
        service: The threads.
        owner: Who decides.
        thread: Which thread.
        question: Number of its `Asked`.
        decision: One of those that its kind takes.
        text: The answer, the reason of a refusal, or the result of a call that is done.
        arguments: JSON text of the arguments that run instead of the model's; empty for those.
        value: The fields of an answer with a form.
        scope: How far an approval reaches.
        hash: What the one who decides has seen; empty for whatever is asked.
        once: Makes the request happen once.
        admit: Says how a run goes that the answer begins, or refuses it by raising.

    Raises:
        NotFound: There is no such thread or question.
        Decided: It was decided, its run is over, or `hash` is another.
        Expired: Its time is over.
        InputError: Its kind does not take this; names the field.
        KeyReused: The idempotency key came before with another body.
    """
    made = Answered(question, cast(Decision, decision), text, arguments, value, cast(Scope, scope))
    return await answer_all(service, owner, thread, lambda _: [Reply(made, hash)], once=once, admit=admit, whole=True)


async def steer(
    service: RunService,
    owner: str,
    thread: str,
    run: int,
    message: Message,
    *,
    interrupt: bool = False,
    path: str = "",
    once: Once | None = None,
) -> RunRef:
    """Say something to a running agent; it meets that before its next model call.

    Args:
        service: The threads.
        owner: Who says it.
        thread: Which thread.
        run: Number of the run.
        message: What is said.
        interrupt: What is under way is closed first.
        path: The agent inside the run; empty for its own.
        once: Makes the request happen once.

    Raises:
        NotFound: There is no such thread, run or agent.
        Decided: The run is over.
        KeyReused: The idempotency key came before with another body.
    """
    decide = _steering(msgspec.structs.replace(message, content=clean(message.content)), interrupt, path)

    async def tell() -> RunRef:
        seq = await _to_run(service, owner, thread, run, decide, interrupts=interrupt, once=once)
        return RunRef(thread, run, steered=seq)

    return await service.do_once(owner, once, tell)


def _steering(said: Message, interrupt: bool, path: str) -> Callable[[RunState, ThreadLog], list[tuple[str, Stored]]]:
    def decide(state: RunState, log: ThreadLog) -> list[tuple[str, Stored]]:
        if path and path not in log.state.agents:
            raise NotFound("There is no such agent at work.", "path")
        if state.cancel is not None:
            raise Decided("The run is being cancelled.", "run")
        return [(path, Steered(said, interrupt))]

    return decide


async def pause(service: RunService, owner: str, thread: str, run: int, reason: str = "") -> RunRef:
    """Have a run halt before its next model call or tool; one that is halted stays so.

    Raises:
        NotFound: There is no such thread or run.
        Decided: The run is over.
    """

    def decide(state: RunState, log: ThreadLog) -> list[tuple[str, Stored]]:
        return [] if state.paused else [("", PauseRequested(clean(reason)))]

    await _to_run(service, owner, thread, run, decide)
    return RunRef(thread, run)


async def go_on(service: RunService, owner: str, thread: str, run: int) -> RunRef:
    """Have a halted run go on; nothing happens to one that is not halted.

    Raises:
        NotFound: There is no such thread or run.
        Decided: The run is over.
    """

    def decide(state: RunState, log: ThreadLog) -> list[tuple[str, Stored]]:
        return [("", ResumeRequested())] if state.paused else []

    await _to_run(service, owner, thread, run, decide)
    return RunRef(thread, run)


async def _to_run(
    service: RunService,
    owner: str,
    thread: str,
    run: int,
    decide: Callable[[RunState, ThreadLog], list[tuple[str, Stored]]],
    *,
    interrupts: bool = False,
    once: Once | None = None,
) -> int:
    """Append to an open run what `decide` says; return the number of the first event, or 0."""

    def to_open() -> list[tuple[str, Stored]]:
        state = log.state.run
        if state is None or state.seq != run:
            raise Decided("The run is over.", "run")
        if state.spec.outside:
            raise InputError(f"The run is carried out by {state.spec.outside}, which hears nothing; cancel it.", "run")
        return decide(state, log)

    async with service.using(owner, thread) as log:
        if log.state.run is None or log.state.run.seq != run:
            await service.check_run(thread, run)
        return await service.decide(log, to_open, interrupts=interrupts, once=once)


async def _info(log: ThreadLog, question: Question) -> QuestionInfo:
    event, call = question.event, call_of(log.state, question)
    run = run_of(log.state, question.seq)
    if event.kind == "outcome" and call is not None and run is not None:
        call = await as_started(log.at(question.path), run, call)
    arguments = call.arguments if call else ""
    return QuestionInfo(
        thread=log.thread,
        run=run.seq if run else 0,
        seq=question.seq,
        path=question.path,
        kind=event.kind,
        call=event.call,
        tool=call.name if call else "",
        arguments=arguments,
        shown=visible(arguments),
        text=event.text,
        reason=event.reason,
        choices=event.choices,
        form=event.form,
        hash=event.hash,
        time=question.time,
        until=event.until,
        default=event.default,
        decisions=DECISIONS[event.kind],
    )
