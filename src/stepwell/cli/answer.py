"""`stepwell answer`, `approve` and `deny`: decide what a run asks, or list what is asked."""

from __future__ import annotations

from typing import Any

from stepwell.cli.asked import keys_of, lines_of, typed
from stepwell.cli.connection import connected
from stepwell.cli.interrupts import Interrupts
from stepwell.cli.interrupts import run as run_until_interrupted
from stepwell.cli.people import Reply
from stepwell.cli.screen import Screen
from stepwell.cli.sources import Sources
from stepwell.cli.waiting import go_on
from stepwell.errors import InputError
from stepwell.messages import clean
from stepwell.questions import DECISIONS, Scope
from stepwell.runs.people import QuestionInfo


def run(
    screen: Screen,
    sources: Sources,
    *,
    thread: str,
    number: int = 0,
    text: str = "",
    approval: dict[str, Any] | None = None,
) -> int:
    """Decide question `number` as the options of an approval or `text` say, or list what is open; return the code."""
    reply = None if approval is None else _approval(**approval)
    return run_until_interrupted(_answer(screen, sources, thread, number, clean(text), reply))


def _approval(*, deny: bool, reason: str, arguments: str, always: str) -> Reply:
    """Return the decision that the options of `approve` and `deny` make.

    Raises:
        InputError: They contradict each other.
    """
    if deny:
        if arguments or always:
            raise InputError("A call that is refused has no arguments and no `--always`.", "deny")
        return Reply("deny", clean(reason))
    if reason:
        raise InputError("A reason goes with `--deny`.", "reason")
    scope: Scope = "tool" if always == "tool" else "call" if always == "call" else "once"
    if always not in ("", "call", "tool"):
        raise InputError("`--always` takes `call` or `tool`.", "always")
    return Reply("approve", arguments=clean(arguments), scope=scope)


async def _answer(screen: Screen, sources: Sources, thread: str, number: int, text: str, reply: Reply | None) -> int:
    config = sources.config(screen)
    with Interrupts() as interrupt:
        async with connected(config, screen) as connection:
            place = await connection.look(thread)
            questions = await connection.people.questions(place.thread)
            found = next((each for each in questions if each.seq == number), None)
            if not number or (found is not None and reply is None and not text):
                _list(screen, questions if not number else [found] if found else [])
                return 0
            after = await connection.people.waits(place.thread)
            decided = _reply(screen, found, text, reply)
            place = await connection.people.answer(place.thread, number, decided)
            screen.note(screen.say("event_answered", question=number, decision=decided.decision))
            if not after and not connection.served:
                await connection.find(place.thread)
            return await go_on(connection, screen, sources, place, after, interrupt)


def _list(screen: Screen, questions: list[QuestionInfo]) -> None:
    if not questions:
        screen.note(screen.say("no_questions"))
    for each in questions:
        for line in lines_of(each, screen):
            screen.line(line)
        screen.note("  " + keys_of(each, screen))


def _reply(screen: Screen, found: QuestionInfo | None, text: str, reply: Reply | None) -> Reply:
    if found is None:  # whoever keeps the question says why it cannot be answered any more
        return reply or Reply("answer", text)
    if reply is None:
        reply = typed(found, text)
    if reply is None or reply.decision not in DECISIONS[found.kind]:
        raise InputError(keys_of(found, screen), "text")
    return reply._replace(hash=found.hash)
