"""What people do to runs: they see what is asked, decide it, say something, halt a run and let it go on.

Functions over the run service: each looks at the fold, appends what was done, and has a waiting run go on. What becomes
of it is decided by engines.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast, get_args, runtime_checkable

import msgspec

from stepwell.errors import ConfigError, Decided, Expired, InputError, NotFound
from stepwell.events import (
    Answered,
    MessageAdded,
    MessageQueued,
    PauseRequested,
    ResumeRequested,
    RunEnded,
    RunStarted,
    Steered,
    Stored,
)
from stepwell.events import Asked as AskedEvent
from stepwell.messages import Message, ToolCall, clean
from stepwell.questions import DECISIONS, Decision, QuestionKind, Scope, visible
from stepwell.running import Question, RunState
from stepwell.runs.log import ThreadLog
from stepwell.runs.requests import Once, RunRef
from stepwell.runs.service import RunService
from stepwell.specs import RunSpec
from stepwell.state import State
from stepwell.tools.arguments import BadArguments, check, read_object
from stepwell.tools.base import Toolbox

_SAID = {
    "en": 'You asked earlier: "{question}"\nThe answer is: {answer}',
    "zh": "你之前提问：“{question}”\n回答是：{answer}",
}


Admit = Callable[[RunSpec], Awaitable[RunSpec]]
"""Says how a run goes that begins or goes on elsewhere, or refuses it by raising."""


@runtime_checkable
class HasToolbox(Protocol):
    """An engine whose tools can be looked at."""

    @property
    def toolbox(self) -> Toolbox:
        """What its agent may call."""
        ...


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
        return [_info(log, each) for _, each in sorted(log.state.questions.items())]


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
    made = Answered(question, cast(Decision, decision), clean(text), arguments, value, cast(Scope, scope), owner)
    return await service.do_once(owner, once, lambda: _decide(service, thread, made, hash, once, admit))


async def _decide(
    service: RunService, thread: str, made: Answered, hash: str, once: Once | None, admit: Admit | None
) -> RunRef:
    async with service.using(made.by, thread) as log:
        await _check_asked(log, made.question)
        ended = await _spec_of_ended(log, made.question)
        ended = await admit(ended) if ended is not None and admit is not None else ended
        answering = _Answering(service, log, made, hash, ended)
        return answering.ref(await service.decide(log, answering.decide, once=once, number=answering.number))


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


class _Answering:
    """An answer on its way into a log.

    Args:
        service: The threads.
        log: The log.
        made: The answer.
        hash: What the one who decides has seen.
        ended: How the run went that asked and is over; None where it is not.

    Attributes:
        run: Number of the open run that it is for; 0 for none.
        queued: A message waits that takes it up.
    """

    def __init__(self, service: RunService, log: ThreadLog, made: Answered, hash: str, ended: RunSpec | None) -> None:
        self._service, self._log, self._made, self._hash, self._ended = service, log, made, hash, ended
        self.run, self.queued = 0, False

    def decide(self) -> list[tuple[str, Stored]]:
        """Check the answer against the log as it is now, and return what is appended."""
        log, made = self._log, self._made
        asked = log.state.questions.get(made.question)
        if asked is None:
            raise Decided("The question was decided already.", "question")
        _check_bound(self._service, log, asked, self._hash)
        _check_decision(asked.event, made)
        if made.arguments:
            _check_arguments(self._service, log, asked, made.arguments)
        run = _run_of(log.state, made.question)
        self.run, self.queued = run.seq if run is not None else 0, False
        if run is not None:
            return [(asked.path, made)]
        if self._ended is None:
            raise Decided("The run that asked is over.", "question")
        self.queued = log.state.run is not None or bool(log.state.queue)
        return _begun_by(asked, made, self._ended, queued=self.queued)

    def ref(self, first: int) -> RunRef:
        """Return what the answer came to, whose event has this number."""
        thread = self._log.thread
        return RunRef(thread, 0, queued=first + 1) if self.queued else RunRef(thread, self.run or first + 1)

    def number(self, first: int) -> int:
        """Return the number of that run, or of the message that waits."""
        return self.run or first + 1


def _info(log: ThreadLog, question: Question) -> QuestionInfo:
    event, call = question.event, _call_of(log.state, question)
    run = _run_of(log.state, question.seq)
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


def _run_of(state: State, question: int) -> RunState | None:
    """Return the open run if it is the one that asks; what an ended run left open is older than the next one."""
    return state.run if state.run is not None and state.run.seq < question else None


def _call_of(state: State, question: Question) -> ToolCall | None:
    agent = state.agents.get(question.path) if question.path else state
    for run in (agent.run, agent.last[0] if agent.last else None) if agent else ():
        if run is not None and question.event.call in run.calls:
            return run.calls[question.event.call].call
    return None


async def _check_asked(log: ThreadLog, question: int) -> None:
    """Say why a question is not open."""
    if question in log.state.questions:
        return
    events = await log.read(after=question - 1) if question > 0 else []
    if not events or not isinstance(events[0].event, AskedEvent):
        raise NotFound("There is no such question.", "question")
    for each in events:
        if isinstance(each.event, Answered) and each.event.question == question:
            if each.event.decision == "expired":
                raise Expired("The question's time is over.", "question")
            said = f"The question was decided already: {each.event.decision}."
            raise Decided(said, "question")
    raise Decided("The run that asked is over.", "question")


def _check_bound(service: RunService, log: ThreadLog, asked: Question, hash: str) -> None:
    if 0 < asked.event.until <= service.now():
        raise Expired("The question's time is over.", "question")
    if hash and hash != asked.event.hash:
        raise Decided("What is asked is not what you have seen; look at the question again.", "hash")
    run = _run_of(log.state, asked.seq)
    agent = log.state.agents.get(asked.path) if asked.path else log.state
    if run is None:
        return
    if run.cancel is not None:
        raise Decided("The run that asked is being cancelled.", "question")
    if agent is None or agent.run is None:
        raise Decided("The agent that asked is not at work any more.", "question")
    opened = agent.run.calls.get(asked.event.call)
    if opened is not None and opened.ended is not None:
        raise Decided("The call has its result by now.", "question")


def _check_decision(asked: AskedEvent, made: Answered) -> None:
    taken = DECISIONS[asked.kind]
    if made.decision not in taken:
        raise InputError(f"This question takes {' or '.join(taken)}, not {made.decision[:40]!r}.", "decision")
    approves = asked.kind == "approval" and made.decision == "approve"
    if made.arguments and not approves:
        raise InputError("Only an approval takes other arguments.", "arguments")
    if made.scope not in get_args(Scope):
        raise InputError(f"A scope is one of {', '.join(get_args(Scope))}.", "scope")
    if made.scope != "once" and (not approves or made.arguments):
        raise InputError("Only an approval of the arguments as they are reaches further than this once.", "scope")
    if made.value is not None and (asked.form is None or made.decision != "answer"):
        raise InputError("The question has no form; answer with `text`.", "value")
    if made.decision == "answer":
        _check_answer(asked, made)


def _check_answer(asked: AskedEvent, made: Answered) -> None:
    if asked.form is not None:
        if made.value is None:
            raise InputError("The question has a form; give its fields as `value`.", "value")
        if faults := check(asked.form, made.value):
            raise InputError(f"The answer does not fit the form: {'; '.join(faults)[:2000]}.", "value")
        try:
            msgspec.json.encode(made.value)
        except (UnicodeEncodeError, ValueError, TypeError) as error:
            raise InputError("A text in it cannot be stored.", "value") from error
    elif asked.choices and made.text not in asked.choices:
        raise InputError(f"Choose one of: {', '.join(asked.choices)}.", "text")
    elif not made.text.strip():
        raise InputError("The answer is empty.", "text")


def _check_arguments(service: RunService, log: ThreadLog, asked: Question, arguments: str) -> None:
    """Refuse edited arguments that the tool does not take."""
    if clean(arguments) != arguments:
        raise InputError("They hold a NUL character or half a surrogate pair; remove it.", "arguments")
    try:
        read_object(arguments)
    except BadArguments as error:
        raise InputError(f"These are no arguments: {error}.", "arguments") from error
    agent = log.state.agents.get(asked.path) if asked.path else log.state
    call = _call_of(log.state, asked)
    if agent is None or agent.run is None or call is None:
        return
    if fault := _fault(service, agent.run.spec, call.name, arguments):
        raise InputError(fault, "arguments")


def _fault(service: RunService, spec: RunSpec, name: str, arguments: str) -> str | None:
    """Return what a tool of an agent has against arguments."""
    try:
        engine = service.engine(spec)
    except ConfigError as error:
        return f"The tool cannot be looked at: {error}"
    if not isinstance(engine, HasToolbox) or engine.toolbox.get(name) is None:
        return None  # a call that is the engine's own business
    prepared = engine.toolbox.prepare(ToolCall("edited", name, arguments))
    return getattr(prepared, "content", None)


async def _spec_of_ended(log: ThreadLog, question: int) -> RunSpec | None:
    """Return how the run went that asked a question and ended because nobody was there."""
    asked = log.state.questions.get(question)
    if asked is None or asked.event.kind != "question" or _run_of(log.state, question) is not None:
        return None
    after = await log.read(after=question - 1)
    number = after[0].run
    if not any(each.run == number and isinstance(each.event, RunEnded) for each in after):
        return None
    first = (await log.read(after=number - 1, limit=1))[0].event
    return first.spec if isinstance(first, RunStarted) else None


def _begun_by(asked: Question, made: Answered, spec: RunSpec, *, queued: bool) -> list[tuple[str, Stored]]:
    """Return the answer to a question of a run that is over, and the run that takes it up."""
    told = made.text if made.value is None else msgspec.json.encode(made.value).decode()
    words = _SAID["zh" if spec.language == "zh" else "en"]
    message = Message("user", words.format(question=asked.event.text, answer=told))
    spec = msgspec.structs.replace(spec, people=True)
    if queued:
        return [("", made), ("", MessageQueued(message, spec))]
    return [("", made), ("", RunStarted(spec)), ("", MessageAdded(message))]
