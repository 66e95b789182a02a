"""How a run goes on with another model where its thread is forked; nothing here appends or forks."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stepwell.errors import InputError
from stepwell.events import Forked, Recorded, RunStarted
from stepwell.runs.catalog import Catalog, Wish
from stepwell.specs import RunSpec


def respec(events: Sequence[Recorded], at: int, model: str, catalog: Catalog) -> RunSpec:
    """Return how the run at an event goes on with another model, and otherwise as before.

    Args:
        events: The whole log.
        at: Number of the event.
        model: Name of the model in the settings.
        catalog: The models.

    Raises:
        InputError: There is no such model, or there is no run before the event.
    """
    old: RunSpec | None = None
    for each in events[:at]:
        if isinstance(each.event, RunStarted | Forked):
            old = each.event.spec or old
    if old is None:
        raise InputError("No run began before this event, so no model goes on.", "model")
    wish = Wish(
        model=model,
        prompt=old.prompt,
        language=old.language,
        system=old.system,
        tools=old.tools,
        client_tools=old.client_tools,
        tool_choice=old.tool_choice,
        sampling=old.sampling,
        temperature=old.temperature,
        max_tokens=old.max_tokens,
        limits=old.limits,
        output=old.output,
        face=old.face,
        engine=old.engine,
        tasks=old.tasks,
        people=old.people,
        key=old.key,
    )
    return msgspec.structs.replace(catalog.spec(wish), agent=old.agent, metadata=old.metadata)
