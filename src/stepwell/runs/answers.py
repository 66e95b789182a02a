"""What people answer to open questions: whether it is one that the question takes, and what becomes of it in the log.

Every face comes here: it says by `Reply` what was answered, and where that stands in its request. Several answers are
decided in one append, so that all of them count or none does. What a run makes of an answer is decided by engines.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple, Protocol, get_args, runtime_checkable

import msgspec

from stepwell.errors import ConfigError, Decided, Expired, InputError, NotFound
from stepwell.events import Answered, Asked, MessageAdded, MessageQueued, RunEnded, RunStarted, Steered, Stored
from stepwell.messages import Message, ToolCall, clean
from stepwell.questions import DECISIONS, Scope
from stepwell.runs.log import ThreadLog
from stepwell.runs.requests import Once, RunRef
from stepwell.runs.service import RunService
from stepwell.specs import RunSpec
from stepwell.state.run import Question, RunState
from stepwell.state.thread import State
from stepwell.tools.arguments import BadArguments, check, read_object
from stepwell.tools.base import Toolbox

_SAID = MappingProxyType(
    {
        "en": 'You asked earlier: "{question}"\nThe answer is: {answer}',
        "zh": "你之前提问：“{question}”\n回答是：{answer}",
    }
)

Admit = Callable[[RunSpec], Awaitable[RunSpec]]
"""Says how a run goes that begins or goes on elsewhere, or refuses it by raising."""


@runtime_checkable
class HasToolbox(Protocol):
    """An engine whose tools can be looked at."""

    @property
    def toolbox(self) -> Toolbox:
        """What its agent may call."""
        ...


class Reply(NamedTuple):
    """What somebody says to an open question.

    Args:
        made: What is to be recorded, but for who decides.
        hash: What the one who decides has seen; empty for whatever is asked.
        lapses: Nobody answers, and the question ends as if its time were over: `made` says `expired`, and as its text
            the default.
        places: Where the fields stand in the request, by their names in `people.answer`; the empty name stands for all
            others. Errors name these places.
    """

    made: Answered
    hash: str = ""
    lapses: bool = False
    places: Mapping[str, str] = MappingProxyType({})


Choose = Callable[[ThreadLog], Sequence[Reply]]
"""Says what is answered in a thread as it is now; asked again where another process came first."""


async def answer_all(
    service: RunService,
    owner: str,
    thread: str,
    choose: Choose,
    *,
    said: Message | None = None,
    once: Once | None = None,
    admit: Admit | None = None,
    whole: bool = False,
) -> RunRef:
    """Decide questions of a thread in one append, all or none; it is durable on return, and the run goes on.

    An answer to what an ended run left open begins another, or waits as a message until the open one is over.

    Args:
        service: The threads.
        owner: Who decides.
        thread: Which thread.
        choose: Says what is answered; nothing for nothing to do.
        said: What the run is told besides.
        once: Makes the request happen once.
        admit: Says how a run goes that an answer begins, or refuses it by raising.
        whole: The address of an open run is its beginning; else the first answer, from which on it is followed.

    Returns:
        Where what follows begins, and the use of the key leads to; the number 0 where nothing was answered.

    Raises:
        NotFound: There is no such thread or question.
        Decided, Expired, InputError: As `check_reply` says, with the field in the request's own words.
        KeyReused: The idempotency key came before with another body.
    """

    async def decide() -> RunRef:
        async with service.using(owner, thread) as log:
            ended = await _ended(log, choose, admit)
            return await _Answering(service, log, choose, said, ended, whole).decide(once)

    return await service.do_once(owner, once, decide)


class _Answering:
    """Answers on their way into a log.

    Args:
        service: The threads.
        log: The log.
        choose: Says what is answered.
        said: What the run is told besides.
        ended: How the runs went that asked and are over, by question.
        whole: The address of an open run is its beginning.
    """

    def __init__(
        self,
        service: RunService,
        log: ThreadLog,
        choose: Choose,
        said: Message | None,
        ended: Mapping[int, RunSpec],
        whole: bool,
    ) -> None:
        self._service, self._log, self._choose, self._said = service, log, choose, said
        self._ended, self._whole = ended, whole
        self._events: list[tuple[str, Stored]] = []
        self._run = 0

    async def decide(self, once: Once | None) -> RunRef:
        """Append the answers, and return what they came to."""
        return self._ref(await self._service.decide(self._log, self._chosen, once=once, number=self._number))

    def _chosen(self) -> list[tuple[str, Stored]]:
        """Check the answers against the log as it is now, and return what is appended."""
        self._events = []
        # What the open run waits for comes first, for there the one who answers goes on reading.
        replies = sorted(self._choose(self._log), key=lambda each: self._run_of(each) is None)
        self._run = run.seq if replies and (run := self._run_of(replies[0])) is not None else 0
        seen: set[int] = set()
        for each in replies:
            with _placed(each):
                if each.made.question in seen:
                    raise InputError("The question has two answers; send one.", "question")
                seen.add(each.made.question)
                self._answer(each)
        if self._said is not None and self._events:
            self._say(self._said)
        return self._events

    def _number(self, first: int) -> int:
        """Return the number of the event where what follows begins, by that of the first one."""
        if self._run:
            return self._run if self._whole else first
        return first + self._begin()

    def _ref(self, first: int) -> RunRef:
        """Return what the answers came to, by the number of the first event; 0 for none."""
        thread, number = self._log.thread, self._number(first) if first else 0
        if number and not self._run and isinstance(self._events[self._begin()][1], MessageQueued):
            return RunRef(thread, 0, queued=number)
        return RunRef(thread, number)

    def _begin(self) -> int:
        """Return the place among the events of the run that begins, or of the message that waits; 0 for neither."""
        begins = (RunStarted, MessageQueued)
        return next((at for at, (_, event) in enumerate(self._events) if isinstance(event, begins)), 0)

    def _run_of(self, reply: Reply) -> RunState | None:
        return run_of(self._log.state, reply.made.question)

    def _answer(self, reply: Reply) -> None:
        log, question = self._log, reply.made.question
        asked = log.state.questions.get(question)
        if asked is None:
            raise Decided("The question was decided already.", "question")
        made = msgspec.structs.replace(reply.made, text=clean(reply.made.text), by=log.owner)
        check_reply(self._service, log, asked, reply._replace(made=made))
        if self._run_of(reply) is not None or made.decision == "expired":
            self._events.append((asked.path, made))
            return
        if (spec := self._ended.get(question)) is None:
            raise Decided("The run that asked is over.", "question")
        begun = self._is_open() or bool(log.state.queue)
        self._events += _begun_by(asked, made, spec, queued=begun)

    def _say(self, said: Message) -> None:
        queued = [event.spec for _, event in self._events if isinstance(event, MessageQueued)]
        if self._is_open():
            self._events.append(("", Steered(said)))
        elif queued:
            self._events.append(("", MessageQueued(said, queued[0])))

    def _is_open(self) -> bool:
        """Tell whether a run is open when the events so far are appended."""
        return self._log.state.run is not None or any(isinstance(event, RunStarted) for _, event in self._events)


@contextmanager
def _placed(reply: Reply) -> Generator[None]:
    """Have errors name the fields of the request that an answer came with."""
    try:
        yield
    except InputError as error:
        field = reply.places.get(error.field) or reply.places.get("", error.field)
        if field == error.field:
            raise
        raise type(error)(str(error), field) from error


# where a question stands


def run_of(state: State, question: int) -> RunState | None:
    """Return the open run if it is the one that asks; what an ended run left open is older than the next one."""
    return state.run if state.run is not None and state.run.seq < question else None


def call_of(state: State, question: Question) -> ToolCall | None:
    """Return the call that a question is about; None for none."""
    agent = state.agents.get(question.path) if question.path else state
    for run in (agent.run, agent.last[0] if agent.last else None) if agent else ():
        if run is not None and question.event.call in run.calls:
            return run.calls[question.event.call].call
    return None


async def _ended(log: ThreadLog, choose: Choose, admit: Admit | None) -> dict[int, RunSpec]:
    """Return how the runs will go that answers begin, by question; say why a question is not open."""
    if log.error is not None:
        await log.rebase()
    found: dict[int, RunSpec] = {}
    for each in choose(log):
        number = each.made.question
        with _placed(each):
            await _check_asked(log, number)
        spec = await _spec_of_ended(log, number)
        if spec is not None:
            found[number] = await admit(spec) if admit is not None else spec
    return found


async def _check_asked(log: ThreadLog, question: int) -> None:
    """Say why a question is not open."""
    if question in log.state.questions:
        return
    events = await log.read(after=question - 1) if 0 < question <= log.state.seq else []
    if not events or not isinstance(events[0].event, Asked):
        raise NotFound("There is no such question.", "question")
    for each in events:
        if isinstance(each.event, Answered) and each.event.question == question:
            if each.event.decision == "expired":
                raise Expired("The question's time is over.", "question")
            said = f"The question was decided already: {each.event.decision}."
            raise Decided(said, "question")
    raise Decided("The run that asked is over.", "question")


async def _spec_of_ended(log: ThreadLog, question: int) -> RunSpec | None:
    """Return how the run went that asked a question and ended because nobody was there."""
    asked = log.state.questions.get(question)
    if asked is None or asked.event.kind != "question" or run_of(log.state, question) is not None:
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


# what a question takes


def check_reply(service: RunService, log: ThreadLog, asked: Question, reply: Reply) -> None:
    """Refuse what is no answer to an open question.

    Args:
        service: Knows the time and the engines.
        log: The thread's.
        asked: The question.
        reply: What is said to it.

    Raises:
        Decided: Nobody waits for it any more, or what was seen of it is not what is asked.
        Expired: Its time is over.
        InputError: Its kind does not take this; names the field.
    """
    if 0 < asked.event.until <= service.now() and not reply.lapses:
        raise Expired("The question's time is over.", "question")
    if reply.hash and reply.hash != asked.event.hash:
        raise Decided("What is asked is not what you have seen; look at the question again.", "hash")
    _check_awaited(log, asked)
    if reply.lapses and reply.made.decision == "expired":
        return
    _check_decision(asked.event, reply.made)
    if reply.made.decision == "answer":
        _check_answer(asked.event, reply.made)
    if reply.made.arguments:
        _check_arguments(service, log, asked, reply.made.arguments)


def _check_awaited(log: ThreadLog, asked: Question) -> None:
    run = run_of(log.state, asked.seq)
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


def _check_decision(asked: Asked, made: Answered) -> None:
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


def _check_answer(asked: Asked, made: Answered) -> None:
    if asked.form is not None:
        if made.value is None:
            raise InputError("The question has a form; give its fields as `value`.", "value")
        if faults := check(asked.form, made.value):
            raise InputError(f"The answer does not fit the form: {'; '.join(faults)[:2000]}.", "value")
        if not _is_kept(made.value):
            said = "It is nested too deep, or a text or a number in it cannot be stored."
            raise InputError(said, "value")
    elif asked.choices and made.text not in asked.choices:
        raise InputError(f"Choose one of: {', '.join(asked.choices)}.", "text")
    elif not made.text.strip():
        raise InputError("The answer is empty.", "text")


def _is_kept(value: object) -> bool:
    """Tell whether a value is the same after it was stored; NaN and the infinite are not."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value)) == value
    except (ValueError, TypeError, OverflowError, RecursionError):  # halves of surrogate pairs are ValueErrors
        return False


def _check_arguments(service: RunService, log: ThreadLog, asked: Question, arguments: str) -> None:
    """Refuse edited arguments that the tool does not take."""
    if clean(arguments) != arguments:
        raise InputError("They hold a NUL character or half a surrogate pair; remove it.", "arguments")
    try:
        read_object(arguments)
    except BadArguments as error:
        raise InputError(f"These are no arguments: {error}.", "arguments") from error
    agent = log.state.agents.get(asked.path) if asked.path else log.state
    call = call_of(log.state, asked)
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
