"""What stands for models and tools in a replay: their replies and results come from the log, and nothing is run."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, cast

from stepwell.agent.accounts import Account, Accounts
from stepwell.errors import Conflict, ReplayDiffers, ToolError
from stepwell.events import (
    Effect,
    MessageEnded,
    ModelFailed,
    Steered,
    StepStarted,
)
from stepwell.messages import StopReason, ToolCall, ToolSpec
from stepwell.models.base import CallPart, Delta, Failure, FailureKind, ModelProfile, ModelRequest
from stepwell.runs.replay_log import SLICES, ReplayLog
from stepwell.specs import Limits
from stepwell.store.base import Spending
from stepwell.tools.base import Prepared, Tool, Toolbox, ToolContext, ToolResult


class ReplayModel:
    """Answers with the replies of a log.

    Args:
        log: Where the replies stand.
    """

    profile = ModelProfile()

    def __init__(self, log: ReplayLog) -> None:
        self._log = log
        self.accounts = ReplayAccounts(log)
        """What the keys of its runs had left."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Delta]:
        """Stream the stored reply, with the failures that came before it."""
        path = self._log.recorder  # whoever asks has just begun a message
        while True:
            await self._log.turn(path)
            recorded = self._log.next()
            match recorded.event if recorded else None:
                case ModelFailed() as failed:
                    kind = cast(FailureKind, failed.kind)
                    failure = Failure(kind, failed.detail, failed.status, failed.retry_in)
                    end = self._log.failure_end()
                    yield Delta(failure=failure, usage=end.usage, stop="error") if end else Delta(failure=failure)
                case MessageEnded(stop="cancelled") | Steered() if await self._log.moves(3 * SLICES):
                    continue  # somebody closes the message, or passes on what was said, who waits for others, too
                case MessageEnded() as ended:
                    yield _delta(ended)
                case _:
                    await self._log.stop("model", "")

    async def close(self) -> None:
        """Do nothing: there is no connection."""


def _delta(ended: MessageEnded) -> Delta:
    """Return a stored reply in one piece, as the model wrote it where a dialect took it apart."""
    message = ended.message
    if message.raw:
        kept: tuple[StopReason, ...] = ("length", "content_filter")
        stop = ended.stop if ended.stop in kept else "stop"
        return Delta(text=message.raw, usage=ended.usage, stop=stop, signed=message.signed)
    calls = tuple(CallPart(index, call.id, call.name, call.arguments) for index, call in enumerate(message.calls))
    return Delta(message.content, message.thinking, calls, ended.usage, stop=ended.stop, signed=message.signed)


class ReplayToolbox(Toolbox):
    """Looks calls up and checks them as the real one does, and takes their results from a log.

    Args:
        real: The tools.
        log: Where the results stand.
    """

    __slots__ = ("_log",)

    def __init__(self, real: Toolbox, log: ReplayLog) -> None:
        super().__init__(real.tools)
        self.names, self.specs, self._log = real.names, real.specs, log

    def including(self, tool: Tool) -> ReplayToolbox:
        """Return a box that knows one more tool."""
        return ReplayToolbox(super().including(tool), self._log)

    def over(self, real: Toolbox) -> ReplayToolbox:
        """Return a box of other tools whose results come from the same log."""
        return ReplayToolbox(real, self._log)

    def prepare(self, call: ToolCall) -> Prepared | ToolResult:
        """Look a call up and check its arguments; its tool cannot be run."""
        prepared = super().prepare(call)
        return Prepared(Sealed(prepared.tool), {}) if isinstance(prepared, Prepared) else prepared

    async def run(self, prepared: Prepared, context: ToolContext, *, most: int | None = None) -> ToolResult:
        """Return the stored result of the call.

        Raises:
            Conflict: The tool could not ask, for another process came first; what became of it was asked instead.
        """
        try:
            return await self.probe(prepared, context)
        except ToolError as error:
            opened = self._log.open_call(context.call)
            if opened is None or opened.effect != "write":
                raise
            raise Conflict(str(error)) from error

    async def probe(self, prepared: Prepared, context: ToolContext, *, most: int | None = None) -> ToolResult:
        """Return the stored result of a call that was cut off.

        Raises:
            ToolError: Nobody could tell what became of it.
        """
        ended = await self._log.result(context.call, prepared.tool.spec.name)
        return ToolResult(ended.content, ended.status, ended.images, ended.details, hash=ended.blob, size=ended.size)


class Sealed:
    """A tool that is known and cannot be run.

    Args:
        tool: The tool.
    """

    __slots__ = ("effect", "output_limit", "spec", "timeout")

    def __init__(self, tool: Tool) -> None:
        self.spec: ToolSpec = tool.spec
        self.effect: Effect = tool.effect
        self.timeout, self.output_limit = tool.timeout, tool.output_limit

    async def call(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        """Refuse.

        Raises:
            ReplayDiffers: Always.
        """
        raise ReplayDiffers(f"A replay reached for the tool {self.spec.name}; nothing may be run in a replay.")


class ReplayAccount(Account):
    """The account of a run's key as it was: what it left for a call is what was reserved for it.

    Args:
        log: Where the reservations stand.
        path: The agent that asks.
    """

    def __init__(self, log: ReplayLog, path: str) -> None:
        super().__init__(Limits(), Spending())
        self._log, self._path = log, path

    def left(self) -> int | None:
        """Return what the next call reserved, 0 where it was refused; None where none was counted."""
        next = self._log.ahead(self._path)
        match next.event if next is not None else None:
            case StepStarted(reserved=reserved, max_tokens=longest):
                return None if not reserved and longest is None else reserved
            case None:
                return 0 if self._log.is_refused() else None
            case _:
                return 0

    def over(self, milliseconds: int = 0) -> str:
        """Return the name of the limit of the key, money aside, for which the next call was refused; empty for none."""
        next = self._log.ahead(self._path)
        if isinstance(next.event, StepStarted) if next is not None else not self._log.is_refused():
            return ""
        cause = self._log.cause_ahead()
        return cause.removeprefix("key_") if cause.startswith("key_") and cause != "key_money" else ""

    def take(self, calls: int) -> int:
        """Return how many calls of the reply that ends next the key allowed."""
        return self._log.allowed(self._path, calls)


class ReplayAccounts(Accounts):
    """The accounts of a replay.

    Args:
        log: Where the reservations stand.
        path: The agent that asks.
    """

    def __init__(self, log: ReplayLog, path: str = "") -> None:
        super().__init__(_unread)
        self._log, self._path = log, path
        self._account = ReplayAccount(log, path)

    def at(self, path: str) -> ReplayAccounts:
        """Return the accounts as an agent inside the run sees them."""
        return ReplayAccounts(self._log, path)

    async def of(self, key: str) -> Account | None:
        """Return the account of a key when it is the agent's turn, for it may have been read; None for no key."""
        if not key:
            return None
        if self._log.patience:  # those beside it look at the log meanwhile
            await self._log.moves(self._log.patience)
        await self._log.let_others(self._path)
        return self._account


async def _unread(key: str) -> tuple[Limits | None, Spending]:
    raise ReplayDiffers(f"A replay reached for the account {key}; nothing but the log may be read in a replay.")
