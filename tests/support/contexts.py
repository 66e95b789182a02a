"""Looks at every request of a thread as it is rebuilt from its log."""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.agent.report import ContextReport
from stepwell.events import Recorded, StepStarted
from stepwell.runs.contexts import context_of
from stepwell.runs.driver import Assemble

Shown = dict[tuple[int, str, int], ContextReport]
"""Reports by number of the run, path of the agent and number of its step."""


def reports(events: Sequence[Recorded], assemble: Assemble) -> Shown:
    """Return what each request of a thread held."""
    found: Shown = {}
    for each in events:
        if isinstance(each.event, StepStarted):
            which = each.run, each.path, each.event.step
            found[which] = context_of(events, assemble, run=each.run, step=each.event.step, agent=each.path)
    return found


def proved(events: Sequence[Recorded], assemble: Assemble) -> Shown:
    """Return what each request of a thread held, and check that it is the one that was sent, of the right agent."""
    found = reports(events, assemble)
    assert found
    for which, each in found.items():
        assert (each.run, each.agent, each.step) == which
        assert each.proved, which
        assert each.unknown_tools == ()
        assert each.tokens == sum(part.tokens for part in each.parts) > 0
    return found
