"""Messages that wait for the open run to end, as their owner sees and changes them, and the thread's policy.

Functions over the run service, which starts their runs.
"""

from __future__ import annotations

from typing import cast, get_args

import msgspec

from stepwell.errors import InputError, NotFound
from stepwell.events import Policy, PolicyChanged, QueueEdited, Stored
from stepwell.messages import clean
from stepwell.runs.service import RunService
from stepwell.state.thread import Queued


async def queue(service: RunService, owner: str, thread: str) -> list[Queued]:
    """Return the messages that wait, in order.

    Raises:
        NotFound: There is no such thread.
    """
    async with service.using(owner, thread) as log:
        return list(log.state.queue)


async def edit_queued(
    service: RunService, owner: str, thread: str, item: int, text: str, before: int | None = None
) -> None:
    """Change the words of a waiting message, which keeps its images, and perhaps its place with them.

    Args:
        service: The threads.
        owner: Who asks.
        thread: Which thread.
        item: Number of its `MessageQueued`.
        text: What it says from now on.
        before: As in `move_queued`; None leaves it in its place.

    Raises:
        NotFound: There is no such thread, or one of the messages does not wait any more; then nothing is changed.
    """
    await _edit(service, owner, thread, QueueEdited(item, before=None if before == item else before), text)


async def move_queued(service: RunService, owner: str, thread: str, item: int, before: int) -> None:
    """Put a waiting message in front of another, or at the end where `before` is 0.

    Raises:
        NotFound: There is no such thread, or one of the messages does not wait any more.
    """
    await _edit(service, owner, thread, QueueEdited(item, before=before))


async def remove_queued(service: RunService, owner: str, thread: str, item: int) -> None:
    """Take a waiting message out.

    Raises:
        NotFound: There is no such thread, or the message does not wait any more.
    """
    await _edit(service, owner, thread, QueueEdited(item, removed=True))


async def set_policy(service: RunService, owner: str, thread: str, policy: str) -> None:
    """Say what becomes of messages that come while a run is open; nothing is appended where it is so already.

    Raises:
        NotFound: There is no such thread.
        InputError: There is no such policy.
    """
    if policy not in get_args(Policy):
        raise InputError(f"A policy is one of {', '.join(get_args(Policy))}.", "policy")
    changed = PolicyChanged(cast(Policy, policy))
    async with service.using(owner, thread) as log:
        await service.decide(log, lambda: [] if log.state.policy == policy else [("", changed)])


async def _edit(service: RunService, owner: str, thread: str, edit: QueueEdited, text: str | None = None) -> None:
    def decide() -> list[tuple[str, Stored]]:
        waiting = {each.seq: each.message for each in log.state.queue}
        if edit.item not in waiting:
            raise NotFound("The message does not wait any more.", "item")
        if edit.before and edit.before not in waiting:
            raise NotFound("The other message does not wait any more.", "before")
        if text is not None:
            message = msgspec.structs.replace(waiting[edit.item], content=clean(text))
            return [("", msgspec.structs.replace(edit, message=message))]
        return [] if edit.before == edit.item else [("", edit)]

    async with service.using(owner, thread) as log:
        await service.decide(log, decide)
