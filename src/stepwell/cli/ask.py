"""`stepwell ask`: one question; the answer alone on stdout, tool calls and causes on stderr."""

from __future__ import annotations

import msgspec

from stepwell.cli import interrupts
from stepwell.cli.connection import Connection, connected
from stepwell.cli.lines import Lines
from stepwell.cli.place import Manner, Place, worded
from stepwell.cli.screen import Screen, short
from stepwell.cli.session import Outcome, Session
from stepwell.cli.sources import Sources
from stepwell.cli.stopping import Stop
from stepwell.cli.turn import Turn
from stepwell.cli.waiting import WAITS, tell
from stepwell.events import ModelFailed, ToolEnded
from stepwell.runs.channel import Item

SHOWN = 200
"""Characters shown of a tool's arguments and of its result."""


def run(screen: Screen, sources: Sources, *, question: str, model: str, thread: str, json: bool) -> int:
    """Ask, and return 0 if there is an answer."""
    return interrupts.run(_ask(screen, sources, question, model, thread, json))


async def _ask(screen: Screen, sources: Sources, question: str, model: str, thread: str, json: bool) -> int:
    config, question = sources.config(screen), worded(screen, question)
    turn, outcome, manner = Turn(), "left", Manner(model)
    with interrupts.Interrupts() as interrupt:
        async with connected(config, screen, sources.file) as connection:
            place = await connection.find(thread) if thread else Place()
            stop = Stop(connection, screen, interrupt)
            if place.run:
                screen.note(screen.say("unfinished"))
                turn, outcome = await _follow(connection, place, screen, stop, manner)
            if not stop.wanted and (not place.run or outcome == "ended"):
                place = await connection.send(question, thread=place.thread, manner=manner)
                turn, outcome = await _follow(connection, place, screen, stop, manner)
            await stop.over()
            if outcome != "ended" and not stop.wanted:
                await tell(connection, screen, sources, place.thread, left=outcome == "left")
    if stop.wanted or outcome == "left":
        return 130
    if json:
        screen.line(_json(place, turn))
    return WAITS if outcome == "waits" else _report(screen, turn, silent=json)


async def _follow(
    connection: Connection, place: Place, screen: Screen, stop: Stop, manner: Manner
) -> tuple[Turn, Outcome]:
    """Follow a run until it is over or waits and return it."""
    turn, lines = Turn(), Lines()

    def show(item: Item) -> None:
        turn.take(item)
        _tell(screen, turn, item)

    session = Session(connection, screen, stop, show, lines if lines.typed else None, manner)
    return turn, await session.follow(place)


def _tell(screen: Screen, turn: Turn, item: Item) -> None:
    match item.event:
        case ToolEnded() as result:
            call = turn.calls.get(result.call)
            asked = f"{call.name} {short(call.arguments, SHOWN)}" if call else result.call
            screen.note(f"{asked} → {short(result.content, SHOWN)}", "tool" if result.status == "ok" else "warn")
        case ModelFailed() as failed if failed.retry_in is not None:
            screen.note(screen.say("retrying", cause=failed.detail, seconds=failed.retry_in), "warn")
        case _:
            pass


def _report(screen: Screen, turn: Turn, *, silent: bool) -> int:
    end = turn.end
    if end is None or end.reason != "answer":
        screen.fail((end and end.detail) or screen.say("ended_other"))
        return 1
    if not silent:
        screen.line(turn.answer)
    if end.detail and end.cause != "question":
        screen.note(end.detail, "warn")
    return 0


def _json(place: Place, turn: Turn) -> str:
    answered = turn.end is not None and turn.end.reason == "answer"
    results = [
        {
            "id": each.call,
            "name": call.name,
            "arguments": call.arguments,
            "status": each.status,
            "content": each.content,
        }
        for each in turn.results
        if (call := turn.calls.get(each.call)) is not None
    ]
    fields = {
        "thread": place.thread,
        "run": place.run,
        "answer": turn.answer if answered else None,
        "reason": turn.end.reason if turn.end else "",
        "cause": turn.end.cause if turn.end else "",
        "detail": turn.end.detail if turn.end else "",
        "steps": turn.steps,
        "usage": turn.usage,
        "tool_calls": results,
    }
    return msgspec.json.encode(fields).decode()
