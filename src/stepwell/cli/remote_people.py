"""What people do to threads and runs of a server, over HTTP on this machine; see `people.People`."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from stepwell.cli.people import Reply, Waiting
from stepwell.cli.place import Place
from stepwell.events import Policy
from stepwell.messages import clean
from stepwell.runs.forks import Diff, Edit
from stepwell.runs.people import QuestionInfo


class Caller(Protocol):
    """Who speaks to the server."""

    async def call(
        self, method: str, path: str, body: object = None, params: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Make a request and return the JSON object of its answer."""
        ...


class RemotePeople:
    """People at a server.

    Args:
        server: Speaks to it.
    """

    def __init__(self, server: Caller) -> None:
        self._server = server

    async def questions(self, thread: str) -> list[QuestionInfo]:
        """Return the open questions of a thread; see the port."""
        found = await self._server.call("GET", f"/api/threads/{thread}/questions")
        return msgspec.convert(found["questions"], list[QuestionInfo])

    async def pending(self, limit: int) -> list[QuestionInfo]:
        """Return the open questions of all threads; see the port."""
        found = await self._server.call("GET", "/api/questions", params={"limit": str(limit)})
        return msgspec.convert(found["questions"], list[QuestionInfo])

    async def answer(self, thread: str, question: int, reply: Reply) -> Place:
        """Decide a question; see the port."""
        body = {name: value for name, value in reply._asdict().items() if value}
        body["text"] = clean(reply.text)
        return place_in(await self._server.call("POST", f"/api/threads/{thread}/questions/{question}/answer", body))

    async def waits(self, thread: str) -> int:
        """Tell whether the run waits; see the port."""
        found = await self._server.call("GET", f"/api/threads/{thread}")
        return int(found["seq"]) if found["waiting"] else 0

    async def steer(self, place: Place, text: str, *, interrupt: bool = False, path: str = "") -> None:
        """Say something to a running agent; see the port."""
        await self._run(place, "steer", {"content": clean(text), "interrupt": interrupt, "path": clean(path)})

    async def pause(self, place: Place) -> None:
        """Have a run halt; see the port."""
        await self._run(place, "pause")

    async def go_on(self, place: Place) -> None:
        """Have a halted run go on; see the port."""
        await self._run(place, "resume")

    async def _run(self, place: Place, what: str, body: object = None) -> None:
        await self._server.call("POST", f"/api/threads/{place.thread}/runs/{place.run}/{what}", body)

    async def queue(self, thread: str) -> list[Waiting]:
        """Return the messages that wait; see the port."""
        found = await self._server.call("GET", f"/api/threads/{thread}/queue")
        return [Waiting(each["item"], each["message"]["content"]) for each in found["queue"]]

    async def change(self, thread: str, item: int, *, text: str | None = None, before: int | None = None) -> None:
        """Change a waiting message; see the port."""
        given = {"content": text if text is None else clean(text), "before": before}
        body = {name: value for name, value in given.items() if value is not None}
        await self._server.call("PATCH", f"/api/threads/{thread}/queue/{item}", body)

    async def remove(self, thread: str, item: int) -> None:
        """Take a waiting message out; see the port."""
        await self._server.call("DELETE", f"/api/threads/{thread}/queue/{item}")

    async def set_policy(self, thread: str, policy: Policy) -> None:
        """Set the thread's policy; see the port."""
        await self._server.call("PATCH", f"/api/threads/{thread}", {"policy": policy})

    async def fork(self, thread: str, at: int, *, edit: Edit | None = None, model: str = "") -> Place:
        """Fork a thread; see the port."""
        body: dict[str, Any] = {"at": at, **({"model": clean(model)} if model else {})}
        if edit is not None:
            body["edit"] = {name: value for name, value in msgspec.to_builtins(edit).items() if value not in (None, "")}
        return place_in(await self._server.call("POST", f"/api/threads/{thread}/fork", body))

    async def regenerate(self, thread: str) -> Place:
        """Have the newest answer written again; see the port."""
        return place_in(await self._server.call("POST", f"/api/threads/{thread}/regenerate"))

    async def diff(self, one: str, other: str) -> Diff:
        """Return where two threads part; see the port."""
        return msgspec.convert(await self._server.call("GET", f"/api/threads/{one}/diff/{other}"), Diff)


def place_in(answer: dict[str, Any]) -> Place:
    """Return the run that an answer of the server names."""
    numbers = (int(answer.get(name) or 0) for name in ("run", "queued", "steered"))
    return Place(str(answer["thread"]), *numbers)
