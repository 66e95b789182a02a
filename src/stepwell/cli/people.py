"""What people do to threads and runs from the command line: the port, and the one for the data folder of this process.

The other is in `remote_people.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from stepwell.cli.place import Place
from stepwell.events import Policy
from stepwell.messages import clean
from stepwell.questions import Decision, Scope
from stepwell.runs import forks, people, queue
from stepwell.runs.forks import Diff, Edit
from stepwell.runs.people import QuestionInfo
from stepwell.runs.requests import RunRef
from stepwell.runs.respec import respec
from stepwell.wiring.host import Host
from stepwell.wiring.library import user_message


class Reply(NamedTuple):
    """What somebody decides on a question.

    Args:
        decision: As in `events.Answered`, and so are the others.
        text: In words.
        arguments: As JSON text.
        value: The fields of a form.
        scope: How far it reaches.
        hash: What the person saw; empty for whatever it is.
    """

    decision: Decision
    text: str = ""
    arguments: str = ""
    value: dict[str, Any] | None = None
    scope: Scope = "once"
    hash: str = ""


class Waiting(NamedTuple):
    """A message that waits for the end of a run.

    Args:
        item: Its number.
        text: What it says.
    """

    item: int
    text: str


class People(Protocol):
    """What people do; threads are named by their whole ids. Everything raises `InputError` where it is refused."""

    async def questions(self, thread: str) -> list[QuestionInfo]:
        """Return the open questions of a thread, oldest first."""
        ...

    async def pending(self, limit: int) -> list[QuestionInfo]:
        """Return the open questions of all threads."""
        ...

    async def answer(self, thread: str, question: int, reply: Reply) -> Place:
        """Decide a question, and return the run that goes on."""
        ...

    async def waits(self, thread: str) -> int:
        """Return the number of the thread's newest event if its run waits for people, else 0."""
        ...

    async def steer(self, place: Place, text: str, *, interrupt: bool = False, path: str = "") -> None:
        """Say something to a running agent: the run's own, or the one at `path` inside it."""
        ...

    async def pause(self, place: Place) -> None:
        """Have a run halt before its next model call or tool."""
        ...

    async def go_on(self, place: Place) -> None:
        """Have a halted run go on."""
        ...

    async def queue(self, thread: str) -> list[Waiting]:
        """Return the messages that wait, in order."""
        ...

    async def change(self, thread: str, item: int, *, text: str | None = None, before: int | None = None) -> None:
        """Change what a waiting message says, or its place."""
        ...

    async def remove(self, thread: str, item: int) -> None:
        """Take a waiting message out."""
        ...

    async def set_policy(self, thread: str, policy: Policy) -> None:
        """Say what becomes of messages that come while a run is open."""
        ...

    async def fork(self, thread: str, at: int, *, edit: Edit | None = None, model: str = "") -> Place:
        """Begin a new thread with the events of another up to a number, and return its run."""
        ...

    async def regenerate(self, thread: str) -> Place:
        """Have the newest answer written again, in a fork, and return its run."""
        ...

    async def diff(self, one: str, other: str) -> Diff:
        """Return where two threads part."""
        ...


class LocalPeople:
    """People at the data folder of this process.

    Args:
        host: The data folder.
        owner: Whose threads they ask for where none is named.
    """

    def __init__(self, host: Host, owner: str) -> None:
        self._catalog, self._service, self._owner = host.catalog, host.service, owner

    async def _of(self, thread: str) -> str:
        """Return whose a thread is: who has the folder may see all of it."""
        found = await self._service.store.thread(thread)
        return found.owner if found else self._owner

    async def questions(self, thread: str) -> list[QuestionInfo]:
        """Return the open questions of a thread; see the port."""
        return list(await people.questions(self._service, await self._of(thread), thread))

    async def pending(self, limit: int) -> list[QuestionInfo]:
        """Return the open questions of all threads; see the port."""
        return list(await people.pending(self._service, self._owner, limit))

    async def answer(self, thread: str, question: int, reply: Reply) -> Place:
        """Decide a question; see the port."""
        owner = await self._of(thread)
        more = {name: value for name, value in reply._asdict().items() if name != "decision"}
        return _place(await people.answer(self._service, owner, thread, question, reply.decision, **more))

    async def waits(self, thread: str) -> int:
        """Tell whether the run waits; see the port."""
        async with self._service.using(await self._of(thread), thread) as log:
            run = log.state.run
            return log.state.seq if run is not None and run.waiting is not None else 0

    async def steer(self, place: Place, text: str, *, interrupt: bool = False, path: str = "") -> None:
        """Say something to a running agent; see the port."""
        owner, said = await self._of(place.thread), user_message(text)
        await people.steer(self._service, owner, place.thread, place.run, said, interrupt=interrupt, path=clean(path))

    async def pause(self, place: Place) -> None:
        """Have a run halt; see the port."""
        await people.pause(self._service, await self._of(place.thread), place.thread, place.run)

    async def go_on(self, place: Place) -> None:
        """Have a halted run go on; see the port."""
        await people.go_on(self._service, await self._of(place.thread), place.thread, place.run)

    async def queue(self, thread: str) -> list[Waiting]:
        """Return the messages that wait; see the port."""
        found = await queue.queue(self._service, await self._of(thread), thread)
        return [Waiting(each.seq, each.message.content) for each in found]

    async def change(self, thread: str, item: int, *, text: str | None = None, before: int | None = None) -> None:
        """Change a waiting message; see the port."""
        owner = await self._of(thread)
        if text is not None:
            await queue.edit_queued(self._service, owner, thread, item, text, before)
        elif before is not None:
            await queue.move_queued(self._service, owner, thread, item, before)

    async def remove(self, thread: str, item: int) -> None:
        """Take a waiting message out; see the port."""
        await queue.remove_queued(self._service, await self._of(thread), thread, item)

    async def set_policy(self, thread: str, policy: Policy) -> None:
        """Set the thread's policy; see the port."""
        await queue.set_policy(self._service, await self._of(thread), thread, policy)

    async def fork(self, thread: str, at: int, *, edit: Edit | None = None, model: str = "") -> Place:
        """Fork a thread; see the port."""
        owner, spec = await self._of(thread), None
        if model:
            spec = respec(await self._service.store.read(thread), at, model, self._catalog)
        return _place(await forks.fork(self._service, owner, thread, at, edit=edit, spec=spec))

    async def regenerate(self, thread: str) -> Place:
        """Have the newest answer written again; see the port."""
        return _place(await forks.regenerate(self._service, await self._of(thread), thread))

    async def diff(self, one: str, other: str) -> Diff:
        """Return where two threads part; see the port."""
        return await forks.diff(self._service, await self._of(one), one, other)


def _place(ref: RunRef) -> Place:
    return Place(ref.thread, ref.run, ref.queued, ref.steered)
