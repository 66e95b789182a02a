"""What a server sends, taken at a bounded pace: one that says more than it is asked holds itself up, not us.

What it writes meanwhile stays in its own pipe or connection.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Protocol, Self, cast

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse, Tool
from pydantic import ValidationError

from stepwell.tools.mcp.base import MOST_TOOLS
from stepwell.tools.mcp.weight import GIVEN_UP

ANSWERS, OTHERS = 20_000, 1_000
"""Messages of a server in a second: answers to requests, and all else."""
LISTED = 4 * MOST_TOOLS
"""Things listed in one answer that are looked at; who names a tool in the settings may have it further behind."""

MOST_OWED = 64
"""Requests of a server that wait for our answer; with more of them nothing is taken before it reads some."""
HEAVY, REST = 0.005, 3.0
"""Seconds of taking a message apart after which others come first, and for how many times as long."""
MOST_PARTS = 1_000
"""Parts of one result that are looked at; to look at a million takes seconds in which nobody else is heard."""


class Outgoing(Protocol):
    """The messages to a server, as sessions of the SDK write them."""

    async def send(self, item: SessionMessage, /) -> None:
        """Write a message."""
        ...

    async def aclose(self) -> None:
        """Write nothing more."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> bool | None: ...


class Spending:
    """Time that many small things take together, after which others come first."""

    def __init__(self) -> None:
        self._seconds = 0.0

    async def add(self, seconds: float) -> None:
        """Count what one of them took.

        Args:
            seconds: That it took.
        """
        self._seconds += seconds
        if self._seconds > HEAVY:
            spent, self._seconds = self._seconds, 0.0
            await Incoming.spend(spent)


class Incoming(ABC):
    """The messages of a server, as sessions of the SDK read them; `ended` is set when nothing more comes."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.why = ""
        """Why nothing more is taken, where that is our doing."""
        self.heard = 0
        """Answers of the server that came."""
        self.faulty: dict[str, str] = {}
        """Why tools of a listing are none, by name; the SDK would refuse the whole listing."""
        self._second, self._answers, self._others = 0.0, 0, 0
        self._owed: dict[object, int] = {}
        self._settled = asyncio.Event()

    @abstractmethod
    async def take(self) -> SessionMessage | Exception | None:
        """Return what comes next, or None at the end."""

    async def receive(self) -> SessionMessage | Exception:
        """Return what comes next.

        Raises:
            anyio.EndOfStream: Nothing more comes.
        """
        item = None if self.ended.is_set() else await self.take()
        if item is None:
            self.ended.set()
            raise anyio.EndOfStream
        message = item.message if isinstance(item, SessionMessage) else None
        if isinstance(message, JSONRPCResponse):
            _cut(message.result)
            if isinstance(listed := message.result.get("tools"), list):
                message.result["tools"] = [each for each in cast("list[object]", listed) if self._is_tool(each)]
        answer = isinstance(message, JSONRPCResponse | JSONRPCError)
        given_up = isinstance(message, JSONRPCError) and message.error.code == GIVEN_UP
        self.heard += answer and not given_up
        await self.count(answer)
        if isinstance(message, JSONRPCRequest):
            await self._owe(message.id)
        elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            self.settle((message.params or {}).get("requestId"))
        return item

    def _is_tool(self, listed: object) -> bool:
        given = cast("dict[str, Any]", listed) if isinstance(listed, dict) else {}
        if isinstance(schema := given.get("inputSchema"), dict):
            cast("dict[str, Any]", schema).setdefault("type", "object")  # some leave it out, for it can be nothing else
        try:
            Tool.model_validate(listed, by_name=False)
        except ValidationError as error:
            self.faulty[str(given.get("name", "?"))[:100]] = fault_of(error)
            return False
        return True

    async def _owe(self, id: object) -> None:
        """Note that a request of the server waits for our answer, and wait where too many do."""
        self._owed[id] = self._owed.get(id, 0) + 1
        while sum(self._owed.values()) > MOST_OWED:
            self._settled.clear()
            await self._settled.wait()

    def settle(self, id: object) -> None:
        """Note that a request of the server waits no more.

        Args:
            id: Its id.
        """
        if isinstance(id, int | str) and id in self._owed:
            self._owed[id] -= 1
            if not self._owed[id]:
                del self._owed[id]
            self._settled.set()

    async def count(self, answer: bool) -> None:
        """Count a message, and wait for the next second where there were too many in this one."""
        now = asyncio.get_running_loop().time()
        if now - self._second >= 1.0:
            self._second, self._answers, self._others = now, 0, 0
        if answer:
            self._answers += 1
        else:
            self._others += 1
        if self._answers > ANSWERS or self._others > OTHERS:
            await asyncio.sleep(self._second + 1.0 - now)

    @staticmethod
    async def spend(seconds: float) -> None:
        """Leave time to others where a message took some to be taken apart.

        Args:
            seconds: That it took.
        """
        if seconds > HEAVY:
            await asyncio.sleep(REST * seconds)

    async def aclose(self) -> None:
        """Take nothing more."""
        self.ended.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.aclose()


class Answering:
    """The messages to a server, of which those that answer are counted.

    Args:
        inner: Writes them.
        incoming: Counts.
    """

    def __init__(self, inner: Outgoing, incoming: Incoming) -> None:
        self._inner, self._incoming = inner, incoming

    async def send(self, item: SessionMessage, /) -> None:
        """Write a message."""
        await self._inner.send(item)
        if isinstance(item.message, JSONRPCResponse | JSONRPCError):
            self._incoming.settle(item.message.id)

    async def aclose(self) -> None:
        """Write nothing more."""
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self._inner.__aexit__(exc_type, exc_val, exc_tb)


def fault_of(error: ValidationError) -> str:
    """Return what is wrong with something that a server sent: the first fault."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _cut(result: dict[str, Any]) -> None:
    """Take out of an answer what is too much of it, before each of its parts is looked at."""
    for name in ("tools", "resources", "resourceTemplates", "prompts", "contents"):
        if isinstance(listed := result.get(name), list):
            del listed[LISTED:]
    parts = result.get("content")
    if isinstance(parts, list) and (left := len(cast("list[object]", parts)) - MOST_PARTS) > 0:
        parts[MOST_PARTS:] = [{"type": "text", "text": f"[{left} further parts are left out]"}]
