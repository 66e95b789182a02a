"""What a thread's agent knows, for those who ask from outside: the context of a step, and facts that are pinned.

Functions over the run service: a pin is an event of the thread's one log, and a report only reads.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import msgspec

from stepwell.agent.asking import Asking
from stepwell.agent.budget import meter
from stepwell.agent.report import ContextReport, report
from stepwell.engines.base import Asks
from stepwell.errors import ConfigError, InputError, NotFound
from stepwell.events import LongTermUpdated, Recorded, StepStarted
from stepwell.log import Log
from stepwell.messages import clean
from stepwell.runs.driver import Assemble
from stepwell.runs.service import RunService
from stepwell.specs import RunSpec
from stepwell.state.thread import State

LONGEST_PIN = 4_000
"""Characters of a pin."""
ALL_PINS = 16_000
"""Characters of all pins of a thread together."""
PIN_PART = 4
"""All pins take at most this fraction of the window of the thread's newest run."""

_ID_DIGITS = 12


class Pin(msgspec.Struct, frozen=True):
    """A fact that stays in the context.

    Args:
        id: The first 12 digits of its text's SHA-256.
        text: What is kept.
    """

    id: str
    text: str


async def context(
    service: RunService, owner: str, thread: str, *, run: int = 0, step: int = 0, agent: str = ""
) -> ContextReport:
    """Return what the request of a step held; see `agent.report.report`.

    Raises:
        NotFound: There is no such thread, run, agent or step.
        InputError: The run's tools or model are not there any more, so its requests cannot be rebuilt; or a program
            outside carried it out.
    """
    await service.info(owner, thread)
    events = await service.store.read(thread)
    return await asyncio.to_thread(context_of, events, service.engine, run=run, step=step, agent=agent)


def context_of(
    events: Sequence[Recorded], assemble: Assemble, *, run: int = 0, step: int = 0, agent: str = ""
) -> ContextReport:
    """Return what the request of a step of this log held; see `context`.

    Args:
        events: The whole log of a thread.
        assemble: Builds the engine of a run or task.
        run: Number of the run; 0 for the newest.
        step: Number of the agent's step in the run; 0 for the newest.
        agent: Path of an agent inside the run, such as `1.2`; empty for the run's own.
    """

    def rebuild(spec: RunSpec, log: Log, started: StepStarted) -> Asking:
        engine = None if spec.outside else assemble(spec)
        if not isinstance(engine, Asks):
            by = spec.outside or spec.engine
            raise InputError(f"The requests of this run were made elsewhere, by `{by}`, and cannot be shown.", "run")
        return engine.asking(log, started)

    try:
        return report(events, rebuild, run=run, step=step, agent=agent)
    except ConfigError as error:
        raise InputError(f"The requests of this run cannot be rebuilt: {error}.", "run") from error


async def pins(service: RunService, owner: str, thread: str) -> list[Pin]:
    """Return the pinned facts of a thread, oldest first.

    Raises:
        NotFound: There is no such thread.
    """
    async with service.using(owner, thread) as log:
        return _pins(log.state)


async def pin(service: RunService, owner: str, thread: str, text: str) -> Pin:
    """Keep a fact in the thread's context, from the next request on; what is pinned already stays as it is.

    Args:
        service: The threads.
        owner: Who asks.
        thread: Which thread.
        text: 1 to `LONGEST_PIN` characters without the blanks around them.

    Raises:
        NotFound: There is no such thread.
        InputError: The text is empty or too long, or the pins would take too much of the window.
    """
    fact = clean(text).strip()
    if not 0 < len(fact) <= LONGEST_PIN:
        raise InputError(f"A pin has 1 to {LONGEST_PIN:,} characters; this one has {len(fact):,}.", "text")
    async with service.using(owner, thread) as log:
        if fact not in log.state.longterm.pinned:
            _check_size(log.state, fact)
            await service.tell(log, LongTermUpdated(pinned=fact))
        return _pin(fact)


async def unpin(service: RunService, owner: str, thread: str, id: str) -> None:
    """Let go of a pinned fact, from the next request on.

    Raises:
        NotFound: There is no such thread or pin.
    """
    async with service.using(owner, thread) as log:
        found = [each.text for each in _pins(log.state) if each.id == id]
        if not found:
            raise NotFound("There is no such pin.", "pin")
        await service.tell(log, LongTermUpdated(unpinned=found[0]))


def _pin(text: str) -> Pin:
    return Pin(hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS], text)


def _pins(state: State) -> list[Pin]:
    return [_pin(text) for text in state.longterm.pinned]


def _check_size(state: State, fact: str) -> None:
    together = [*state.longterm.pinned, fact]
    size = sum(map(len, together))
    if size > ALL_PINS:
        said = f"All pins together have at most {ALL_PINS:,} characters; with this one they had {size:,}. Remove one."
        raise InputError(said, "text")
    run = state.run or (state.last[0] if state.last else None)
    spec = run.spec.context if run else None
    if spec is None:
        return
    counter = meter(spec.tokenizer, spec.image_tokens, spec.images, spec.thinking_back).counter
    tokens = sum(map(counter.text, together))
    if tokens > spec.window // PIN_PART:
        raise InputError(
            f"With this pin all of them could take {tokens:,} tokens, and a quarter of the model's window is "
            f"{spec.window // PIN_PART:,}. Shorten it or remove another.",
            "text",
        )
