"""Where a command's words go, and how they are to be answered."""

from __future__ import annotations

from typing import Literal, NamedTuple

from stepwell.cli.screen import Screen
from stepwell.errors import InputError
from stepwell.events import Policy
from stepwell.specs import EngineName


class Place(NamedTuple):
    """A thread, or a run in it.

    Args:
        thread: The thread's id; empty for a new one.
        run: Number of the run's `RunStarted`; 0 for none.
        queued: Number of the message that waits for the run's end, or 0.
        steered: Number of the event by which the run was told, or 0.
    """

    thread: str = ""
    run: int = 0
    queued: int = 0
    steered: int = 0


class Manner(NamedTuple):
    """How a message is to be answered; empty values leave it to the settings and the thread.

    Args:
        model: Name of a model in the settings.
        engine: Who decides the steps.
        policy: What becomes of it while a run is open.
        people: Whether somebody can answer questions.
    """

    model: str = ""
    engine: EngineName | Literal[""] = ""
    policy: Policy | Literal[""] = ""
    people: bool = True


PLAIN = Manner()


def worded(screen: Screen, text: str) -> str:
    """Return what a person says, unless they say nothing: an empty variable of a shell is no question that costs money.

    Raises:
        InputError: It is blank.
    """
    if not text.strip():
        raise InputError(screen.say("nothing_said"), "content")
    return text
