"""A plain client of AG-UI for tests, and the protocol's rules: its types, and the order of its events."""

from __future__ import annotations

import json
from typing import Any

from ag_ui.core import Event
from pydantic import TypeAdapter

from tests.support.server import Client, Frame, Stream

Object = dict[str, Any]

_EVENT: TypeAdapter[Any] = TypeAdapter(Event)


def user(said: str, id: str = "u1") -> Object:
    return {"id": id, "role": "user", "content": said}


class Agui:
    """A client with one thread.

    Args:
        server: Where.
        thread: Its id of the thread.
        path: Of the endpoint.
    """

    def __init__(self, server: Client, thread: str = "t", path: str = "/agui") -> None:
        self.server, self.thread, self.path = server, thread, path
        self.headers: dict[str, str] = {}

    def body(self, run: str = "r1", **fields: Any) -> Object:
        """Return a request as the protocol has it."""
        empty: Object = {"messages": [], "state": {}, "tools": [], "context": [], "forwardedProps": {}}
        return {"threadId": self.thread, "runId": run, **empty, **fields}

    async def stream(self, run: str = "r1", *, last: str = "", **fields: Any) -> Stream:
        """Send a request; `last` is the id of the last event that came."""
        headers = self.server.headers(**({"last-event-id": last} if last else {}))
        return await self.server.stream("POST", self.path, self.body(run, **fields), headers=headers)

    async def frames(self, run: str = "r1", *, last: str = "", **fields: Any) -> list[Frame]:
        """Send a request and return its frames up to the end."""
        stream = await self.stream(run, last=last, **fields)
        assert stream.status == 200, await stream.content()
        self.headers = stream.headers
        return [frame for frame in await stream.rest() if frame.data]

    async def run(self, run: str = "r1", **fields: Any) -> list[Object]:
        """Send a request and return its events up to the end."""
        return bodies(await self.frames(run, **fields))

    async def refused(self, run: str = "r1", **fields: Any) -> tuple[int, Object]:
        """Send a request that is refused and return why."""
        return await self.server.call("POST", self.path, json=self.body(run, **fields))


def bodies(frames: list[Frame]) -> list[Object]:
    return [frame.body for frame in frames]


def names(events: list[Object]) -> list[str]:
    return [each["type"] for each in events]


def of(events: list[Object], kind: str) -> list[Object]:
    return [each for each in events if each["type"] == kind]


def told(events: list[Object], tag: str) -> list[Object]:
    return [each["value"] for each in of(events, "CUSTOM") if each["name"] == f"stepwell.{tag}"]


def text_of(events: list[Object]) -> list[str]:
    """Return what each text message says, in order."""
    found: dict[str, str] = {}
    for each in events:
        if each["type"] == "TEXT_MESSAGE_START":
            found[each["messageId"]] = ""
        elif each["type"] == "TEXT_MESSAGE_CONTENT":
            found[each["messageId"]] += each["delta"]
    return list(found.values())


_PAIRS = {
    "TEXT_MESSAGE": ("START", "CONTENT", "END", "messageId"),
    "REASONING_MESSAGE": ("START", "CONTENT", "END", "messageId"),
    "TOOL_CALL": ("START", "ARGS", "END", "toolCallId"),
    "REASONING": ("START", "", "END", "messageId"),
    "STEP": ("STARTED", "", "FINISHED", "stepName"),
    "SUBAGENT": ("STARTED", "", "FINISHED", "subagentRunId"),
}


def check(events: list[Object]) -> None:
    """Check that each event is one of the protocol without unknown fields, and that they are nested as it says."""
    for each in events:
        parsed = _EVENT.validate_python(each)
        unknown = parsed.model_extra or {}
        assert not unknown, f"{each['type']} has {unknown}"
        assert json.loads(parsed.model_dump_json(by_alias=True)) == each
    assert events[0]["type"] == "RUN_STARTED"
    assert events[-1]["type"] in ("RUN_FINISHED", "RUN_ERROR")
    assert not {"RUN_STARTED", "RUN_FINISHED", "RUN_ERROR"} & set(names(events[1:-1]))
    opened: set[tuple[str, str, str]] = set()
    for each in events:
        for group, (start, middle, end, id) in _PAIRS.items():
            owner = each.get("subagentRunId", "") if group == "STEP" else ""
            key = (group, str(each.get(id)), owner)
            kind = each["type"]
            if kind == f"{group}_{start}":
                assert key not in opened, f"{key} is open"
                opened.add(key)
            elif kind in (f"{group}_{end}", f"{group}_ERROR"):
                opened.remove(key)
            elif middle and kind == f"{group}_{middle}":
                assert key in opened, f"{key} is not open"
    assert not opened, f"{opened} never end"
