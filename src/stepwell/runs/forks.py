"""Forks: a thread that begins with another's events up to a point, perhaps with one of them changed, and goes on.

Functions over the run service. The prefix is copied in the store and nothing of it happens or is paid again; what the
open run does then is decided by its engine, as after a crash.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from itertools import takewhile
from typing import Literal, NamedTuple

import msgspec

from stepwell.errors import Conflict, InputError, NotFound
from stepwell.events import (
    Answered,
    Forked,
    MessageAdded,
    MessageEnded,
    QueueEdited,
    Recorded,
    ResumeRequested,
    Steered,
    Stored,
    ToolEnded,
    Unknown,
)
from stepwell.messages import Message, clean
from stepwell.runs.people import Admit
from stepwell.runs.requests import Once, RunRef
from stepwell.runs.service import RunService
from stepwell.runs.threads import check_known
from stepwell.specs import RunSpec
from stepwell.state.thread import State
from stepwell.store.base import KeyUse, ThreadInfo
from stepwell.tools.arguments import BadArguments, read_object

_UNKNOWN = {
    "en": "The outcome is unknown: the conversation was forked while this tool ran. It was not run again. "
    "Check whether it took effect before you repeat it.",
    "zh": "结果未知：工具运行期间对话被分叉，系统没有再次执行它。重试之前请先确认它是否已经生效。",
}


class Edit(msgspec.Struct, frozen=True, kw_only=True):
    """How the event at which a thread is forked is changed: one of three things.

    Args:
        content: The text of a message.
        call: Id of the call whose arguments are changed; empty where the reply has but one.
        arguments: Its arguments as JSON text.
        result: What a tool returned; a result that was kept whole beside it is left out.
    """

    content: str | None = None
    call: str = ""
    arguments: str | None = None
    result: str | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message, a call or a result, for a screen.

    Args:
        seq: Number of its event.
        path: The agent; empty for the run's own.
        kind: What it is.
        name: Who speaks, or the tool.
        text: What was said, the arguments, or the result.
        call: Id of the call.
        status: How a call ended.
    """

    seq: int
    path: str = ""
    kind: Literal["message", "call", "result"]
    name: str = ""
    text: str = ""
    call: str = ""
    status: str = ""


class Diff(msgspec.Struct, frozen=True):
    """Where two threads part.

    Args:
        common: How many events from the beginning are the same in both.
        one: What the one has then.
        other: What the other has.
    """

    common: int
    one: tuple[Line, ...]
    other: tuple[Line, ...]


async def fork(
    service: RunService,
    owner: str,
    thread: str,
    at: int,
    *,
    edit: Edit | None = None,
    spec: RunSpec | None = None,
    title: str = "",
    once: Once | None = None,
    admit: Admit | None = None,
) -> RunRef:
    """Make a thread with the events of another up to a number; a run that is open there goes on in it.

    Args:
        service: The threads.
        owner: Who asks.
        thread: Which thread.
        at: Number of the last event that is copied.
        edit: How that event is changed; None leaves it.
        spec: How the open run goes on; None for as before.
        title: Of the new thread; empty for the other's.
        once: Makes the request happen once.
        admit: Says how the open run goes on, given `spec` or how it went before.

    Returns:
        The new thread, with the number of the run that goes on, or 0.

    Raises:
        NotFound: There is no such thread.
        InputError: There is no such event, or it is none that is changed so.
        KeyReused: The idempotency key came before with another body.
    """
    making = _Making(service, owner, thread, once, admit)
    return await service.do_once(owner, once, lambda: making.make(at, edit, spec, title))


class _Making(NamedTuple):
    """Who forks which thread; as the arguments of `fork`."""

    service: RunService
    owner: str
    thread: str
    once: Once | None
    admit: Admit | None

    async def make(self, at: int, edit: Edit | None = None, spec: RunSpec | None = None, title: str = "") -> RunRef:
        """Fork it once; a key that was used raises Conflict."""
        service, owner, thread, once, _ = self
        events, info = await _prefix(service, owner, thread, at)
        upto = at
        if edit is not None:
            events[-1], upto = _edited(events[-1], edit), at - 1
        state = State(events)
        spec = await self._going_on(state, spec)
        forked = Forked(thread, at, at if edit is not None else 0, spec, *await _origin(service, info, at))
        added = _recorded(state, service.now(), [("", forked), *_closing(state, owner)])
        run, name = state.run.seq if state.run is not None else 0, clean(title) or state.title or info.title
        id, now = secrets.token_hex(16), service.now()
        expires = now + info.expires - info.created if info.expires else 0  # it is kept for as long as the other
        new = ThreadInfo(id, owner, name, now, run=run, expires=expires, parent=thread, forked=at)
        use = KeyUse(owner, once.route, once.key, once.body, new.id, run) if once is not None else None
        # A client that leaves must not leave a run that nobody carries out.
        await asyncio.shield(_make(service, thread, upto, new, [*events[upto:], *added], use))
        return RunRef(new.id, run)

    async def _going_on(self, state: State, spec: RunSpec | None) -> RunSpec | None:
        """Return how the open run goes on, or None where there is none or nothing is another."""
        if state.run is None:
            return None
        if self.admit is not None:
            spec = await self.admit(spec or state.run.spec)
        return None if spec == state.run.spec else spec


async def _prefix(service: RunService, owner: str, thread: str, at: int) -> tuple[list[Recorded], ThreadInfo]:
    async with service.using(owner, thread) as log:
        await service.committed(log)
        check_known(log)
        if not 1 <= at <= log.state.seq:
            said = f"The thread has the events 1 to {log.state.seq}." if log.state.seq else "The thread has no events."
            raise InputError(said, "at")
        events = await service.store.read(thread, limit=at)
        info = await service.info(owner, thread)
    if len(events) < at:
        raise NotFound("There is no such thread.", "thread")
    return events, info


async def _origin(service: RunService, info: ThreadInfo, at: int) -> tuple[str, tuple[int, ...]]:
    """Return where an event happened of which a thread only has a copy, and which events up to it were changed since.

    Both are empty for an event that happened in the thread itself.
    """
    if at > info.forked:
        return "", ()
    later = await service.store.read(info.id, after=at, limit=info.forked + 1 - at)
    found = [each.event for each in later if isinstance(each.event, Forked)]
    changed = {seq for fork in found for seq in (fork.edited, *fork.earlier) if 0 < seq <= at}
    return (found[0].origin or found[0].parent if found else ""), tuple(sorted(changed))


async def regenerate(
    service: RunService, owner: str, thread: str, *, once: Once | None = None, admit: Admit | None = None
) -> RunRef:
    """Have the newest run that ended made again, in a fork at the message or the history that it began with.

    Args:
        service: The threads.
        owner: Who asks.
        thread: Which thread.
        once: Makes the request happen once.
        admit: Says how the run goes, given how it went before.

    Raises:
        NotFound: There is no such thread, or no run of it has ended.
        KeyReused: The idempotency key came before with another body.
    """
    making = _Making(service, owner, thread, once, admit)

    async def make() -> RunRef:
        return await making.make(await _beginning(service, owner, thread))

    return await service.do_once(owner, once, make)


async def _beginning(service: RunService, owner: str, thread: str) -> int:
    """Return the number of the message that the newest run that ended began with, or of its start without one."""
    async with service.using(owner, thread) as log:
        if log.state.last is None:
            raise NotFound("No run of the thread has ended.", "run")
        run = log.state.last[0].seq
        events = await log.read(after=run)
    for each in events:
        if isinstance(each.event, MessageAdded) and each.event.source == "user" and each.run == run:
            return each.seq
    return run


async def diff(service: RunService, owner: str, one: str, other: str) -> Diff:
    """Return where two threads part, and the messages, calls and results of both from there on.

    Raises:
        NotFound: There is no such thread.
    """
    mine, theirs = await _events(service, owner, one), await _events(service, owner, other)
    return await asyncio.to_thread(_compare, mine, theirs)


async def _events(service: RunService, owner: str, thread: str) -> list[Recorded]:
    async with service.using(owner, thread) as log:
        return await log.read()


def _compare(mine: list[Recorded], theirs: list[Recorded]) -> Diff:
    pairs = zip(mine, theirs, strict=False)
    common = sum(1 for _ in takewhile(lambda pair: _same(*pair), pairs))
    return Diff(common, _lines(mine[common:]), _lines(theirs[common:]))


def _same(one: Recorded, other: Recorded) -> bool:
    return (one.run, one.path, one.event) == (other.run, other.path, other.event)


def _lines(events: Sequence[Recorded]) -> tuple[Line, ...]:
    return tuple(line for each in events for line in _lines_of(each))


def _lines_of(each: Recorded) -> list[Line]:
    seq, path = each.seq, each.path
    match each.event:
        case MessageAdded(message=message) | Steered(message=message):
            return [Line(seq=seq, path=path, kind="message", name=message.role, text=message.content)]
        case MessageEnded(message=message):
            said = [Line(seq=seq, path=path, kind="message", name="assistant", text=message.content)]
            return [
                *(said if message.content or not message.calls else ()),
                *(
                    Line(seq=seq, path=path, kind="call", name=call.name, text=call.arguments, call=call.id)
                    for call in message.calls
                ),
            ]
        case ToolEnded() as ended:
            return [Line(seq=seq, path=path, kind="result", text=ended.content, call=ended.call, status=ended.status)]
        case _:
            return []


async def _make(
    service: RunService, thread: str, upto: int, new: ThreadInfo, events: Sequence[Recorded], use: KeyUse | None
) -> None:
    try:
        await service.store.fork(thread, upto, new, events, key=use)
    except Conflict as error:
        if use is not None:
            raise
        raise NotFound("There is no such thread.", "thread") from error
    if new.run:
        await service.carry(new.owner, new.id)


def _recorded(state: State, now: int, events: Sequence[tuple[str, Stored]]) -> list[Recorded]:
    run = state.run.seq if state.run is not None else 0
    return [Recorded(state.seq + 1 + at, now, run, event, path) for at, (path, event) in enumerate(events)]


def _closing(state: State, owner: str) -> list[tuple[str, Stored]]:
    """Return what is decided by the fork itself: open questions, calls under way, messages that wait, a halt."""
    events: list[tuple[str, Stored]] = [("", QueueEdited(each.seq, removed=True)) for each in state.queue]
    events += [(each.path, Answered(each.seq, "forked", by=owner)) for each in state.questions.values()]
    for agent in (state, *state.agents.values()):
        if agent.run is None:
            continue
        text = _UNKNOWN["zh" if agent.run.spec.language == "zh" else "en"]
        cut = [each for each in agent.run.unanswered() if each.started and each.effect == "write"]
        events += [(agent.path, ToolEnded(each.call.id, text, "unknown")) for each in cut]
    if state.run is not None and state.run.paused:
        events.append(("", ResumeRequested()))
    return events


def _edited(recorded: Recorded, edit: Edit) -> Recorded:
    """Return the event as it is in the fork."""
    if sum(each is not None for each in (edit.content, edit.arguments, edit.result)) != 1:
        raise InputError("Change one of `content`, `arguments` and `result`.", "edit")
    event = recorded.event
    changed: Stored | Unknown
    if edit.content is not None and isinstance(event, MessageAdded | MessageEnded):
        changed = msgspec.structs.replace(event, message=_said(event.message, clean(edit.content)))
    elif edit.arguments is not None and isinstance(event, MessageEnded):
        changed = msgspec.structs.replace(event, message=_called(event.message, edit.call, edit.arguments))
    elif edit.result is not None and isinstance(event, ToolEnded):
        changed = msgspec.structs.replace(event, content=clean(edit.result), images=(), details=None, blob="", size=0)
    else:
        name = "content" if edit.content is not None else "arguments" if edit.arguments is not None else "result"
        raise InputError(f"Event {recorded.seq} is a {type(event).__name__}; it has no such part.", f"edit.{name}")
    return Recorded(recorded.seq, recorded.time, recorded.run, changed, recorded.path)


def _said(message: Message, content: str) -> Message:
    if not content.strip() and not message.calls and not message.images:
        raise InputError("The message is empty.", "edit.content")
    return msgspec.structs.replace(message, content=content, raw="", unmarked=False, signed="")


def _called(message: Message, id: str, arguments: str) -> Message:
    ids = [call.id for call in message.calls]
    chosen = id or (ids[0] if len(ids) == 1 else "")
    if chosen not in ids:
        raise InputError(f"The reply has these calls: {', '.join(ids) or 'none'}.", "edit.call")
    try:
        read_object(arguments)
    except BadArguments as error:
        raise InputError(f"These are no arguments: {error}.", "edit.arguments") from error
    if clean(arguments) != arguments:
        raise InputError("They hold a NUL character or half a surrogate pair; remove it.", "edit.arguments")
    calls = tuple(
        msgspec.structs.replace(call, arguments=arguments) if call.id == chosen else call for call in message.calls
    )
    return msgspec.structs.replace(message, calls=calls, raw="", unmarked=False, signed="")
