"""Whether a request goes on with a run that waits for results of its client's tools, and in which place.

The request must say what the thread says: the same conversation up to there, the same wishes, and a result for every
call that was handed back. Whatever differs begins a thread of its own, in which the client's history counts; so does
a request that comes again because its run failed or was cancelled.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import NamedTuple

from stepwell.errors import Decided, NotFound
from stepwell.events import (
    Answered,
    Asked,
    CancelRequested,
    MessageAdded,
    Recorded,
    RunEnded,
    RunStarted,
    Stored,
    Unknown,
)
from stepwell.messages import Message, clean
from stepwell.runs.answers import Reply, answer_all
from stepwell.runs.requests import Once
from stepwell.runs.service import RunService
from stepwell.specs import RunSpec

_ID = re.compile(r"call_([0-9a-f]{32})_([1-9][0-9]{0,9})")
_SAME = (
    "agent",
    "model",
    "model_name",
    "system",
    "tools",
    "client_tools",
    "output",
    "sampling",
    "temperature",
    "max_tokens",
    "engine",
)
"""Fields of a run's spec in which a request must agree with it."""
_LAST = (CancelRequested, RunEnded)
"""What takes no results any more."""


class Place(NamedTuple):
    """Where an answer begins.

    Args:
        thread: The thread's id.
        run: The run's number.
        given: Numbers of the questions that the request answers.
    """

    thread: str
    run: int
    given: frozenset[int] = frozenset()


class _Found(NamedTuple):
    """A run for which a request has results.

    Args:
        run: Its number.
        results: The results at the end of the request by the questions that they answer.
        fresh: Which of these have no answer yet.
        lost: The run failed or was cancelled.
    """

    run: int
    results: dict[int, str]
    fresh: list[int]
    lost: bool


async def resumed(
    service: RunService,
    owner: str,
    messages: tuple[Message, ...],
    spec: RunSpec,
    joined: str = "",
    once: Once | None = None,
) -> Place | None:
    """Give a waiting run the results that a request ends with; None where it has none for a run as it stands.

    A request that comes again finds its results there, and the place is the same; but where the run came to no answer,
    only one with the same idempotency key is told so again.

    Args:
        service: The threads.
        owner: Who asks.
        messages: The conversation as the client has it.
        spec: What the client asks for.
        joined: The thread that the request names, whose history the client need not know; empty for none.
        once: Makes the request happen once.

    Raises:
        KeyReused: The idempotency key came before with another body.
    """
    ids = [_ID.fullmatch(each.call) for each in _tail(messages)]
    threads = {each[1] if each else "" for each in ids}
    if len(threads) != 1 or "" in threads or (joined and threads != {joined}):
        return None
    (thread,), again = threads, await service.came_before(owner, once)
    try:
        async with service.using(owner, thread) as log:
            while (found := _match(await log.read(after=0), messages, spec, joined)) is not None:
                if found.lost and not again:
                    return None
                with suppress(Decided):  # the same request, come twice at once, was quicker: look again
                    await _give(service, owner, thread, found, once)
                    return Place(thread, found.run, frozenset(found.results))
    except NotFound:
        pass
    return None


async def _give(service: RunService, owner: str, thread: str, found: _Found, once: Once | None) -> None:
    """Give a run the results that it waits for, all at once."""
    made = [Reply(Answered(each, "done", found.results[each])) for each in found.fresh]
    if made:
        await answer_all(service, owner, thread, lambda _: made, once=once, whole=True)


def _tail(messages: tuple[Message, ...]) -> list[Message]:
    """Return the results that a conversation ends with."""
    count = next((at for at, each in enumerate(reversed(messages)) if each.role != "tool"), len(messages))
    return list(messages[len(messages) - count :])


def _match(events: list[Recorded], messages: tuple[Message, ...], spec: RunSpec, joined: str) -> _Found | None:
    """Return the run for which a conversation has results, if it is that run's conversation."""
    asked = {each.seq: each for each in events if isinstance(each.event, Asked) and each.event.kind == "result"}
    answers = {each.event.question: each.event for each in events if isinstance(each.event, Answered)}
    if any(each.images for each in _tail(messages)):
        return None  # an answer is text; in a thread of its own the images are part of the history
    results = {_number(each): clean(each.content) for each in _tail(messages)}
    runs = {asked[number].run if number in asked else 0 for number in results}
    if len(runs) != 1 or 0 in runs:
        return None
    (run,) = runs
    started = next(each.event for each in events if each.seq == run)
    if not isinstance(started, RunStarted) or not _agrees(started.spec, spec):
        return None
    rest = _after(events, run, messages, joined)
    told = {_number(each): clean(each.content) for each in rest or () if each.role == "tool"}
    expected = {number for number, each in asked.items() if each.run == run and number <= max(results)}
    if rest is None or told.keys() != expected:
        return None
    for number, text in told.items():
        answer = answers.get(number)
        if answer is not None and (answer.decision, answer.text) != ("done", text):
            return None
    fresh = [number for number in results if number not in answers]
    waits = {number for number, each in asked.items() if each.run == run and number not in answers}
    last = [each.event for each in events if each.run == run and isinstance(each.event, _LAST)]
    if fresh and (waits != set(fresh) or last):
        return None
    return _Found(run, results, fresh, bool(last) and not _answers(last[-1]))


def _answers(event: Stored | Unknown) -> bool:
    """Tell whether a run ended with something that can be told once more."""
    return isinstance(event, RunEnded) and event.reason in ("answer", "limit")


def _number(message: Message) -> int:
    """Return the number of the question that a result answers; 0 for one of another kind."""
    found = _ID.fullmatch(message.call)
    return int(found[2]) if found else 0


def _agrees(old: RunSpec, new: RunSpec) -> bool:
    if new.tool_choice not in ("", old.tool_choice):  # a choice holds for the first reply of a run
        return False
    return all(getattr(old, name) == getattr(new, name) for name in _SAME)


def _after(events: list[Recorded], run: int, messages: tuple[Message, ...], joined: str) -> list[Message] | None:
    """Return what the client says happened in the run; None where it tells another beginning."""
    begun = [each.event.message for each in events if isinstance(each.event, MessageAdded) and each.seq <= run + 1]
    start = 0
    if joined:  # only what the user said last was taken from the client
        start = max((at for at, each in enumerate(messages) if each.role == "user"), default=0)
        begun = begun[-1:]
    rest = messages[start + len(begun) :]
    if list(messages[start : start + len(begun)]) != begun:
        return None
    return list(rest) if all(each.calls or each.role == "tool" for each in rest) else None
