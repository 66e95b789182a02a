"""A model that answers from a script, for tests: steps in, deltas out.

It complains when it is asked more often than its script says, and when asked less often if the test wants to
know. It is shipped so that users can test their own agents with it; it thinks of nothing itself.

    model = ScriptedModel([call("calculate", expression="17*23"), "The result is 391."])
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from stepwell.errors import ScriptError
from stepwell.messages import Message, StopReason, ToolCall, ToolSpecs, Usage
from stepwell.models.base import CallPart, Delta, Failure, ModelProfile, ModelRequest, Settings

Cut = Literal["whole", "char"] | int
"""How texts are cut into deltas: not at all, by character, or into so many characters each."""

_NO_GATES: Mapping[int, asyncio.Event] = {}


class Gate(asyncio.Event):
    """An event that holds a stream until it is set, and tells when a stream waits at it."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()

    async def wait(self) -> Literal[True]:
        """Wait until the gate is set."""
        self.reached.set()
        return await super().wait()


class Reply(msgspec.Struct, frozen=True):
    """One reply of a script.

    Args:
        text: The visible text; a tuple gives the deltas one by one.
        calls: Tools that it asks for; an empty id is filled in.
        thinking: Comes before the text.
        usage: Told with the last delta.
        stop: Why it ends; None means `tool_calls` if there are calls, else `stop`.
        failure: Ends the reply after what it has, and with it the request.
        cut: How texts are cut; None leaves it to the model.
        gates: By the number of a delta from 0: what it waits for before it is given out. The last delta,
            which carries `stop`, has a number too.
    """

    text: str | tuple[str, ...] = ""
    calls: tuple[ToolCall, ...] = ()
    thinking: str | tuple[str, ...] = ""
    usage: Usage | None = None
    stop: StopReason | None = None
    failure: Failure | None = None
    cut: Cut | None = None
    gates: Mapping[int, asyncio.Event] = _NO_GATES


Answer = Reply | str | list[str] | ToolCall | Failure
"""What answers a request: a reply, its text, its text in pieces, one tool call, or a failure. A failure with
`retry_in` is an announced retry: the next step answers the same request."""

Brain = Callable[[ModelRequest], Answer]

Step = Answer | Brain


class ModelCall(msgspec.Struct, frozen=True):
    """A request that a scripted model was given.

    Args:
        messages: As they were then.
        tools: What it might call.
        settings: How to answer.
        model: The name that the request carried.
    """

    messages: tuple[Message, ...]
    tools: ToolSpecs
    settings: Settings
    model: str


WINDOW = 1_000_000
"""Tokens of the window where a test says nothing else, so that what it scripts is not shortened."""


class ScriptedModel:
    """Answers the n-th request with the n-th step, or every request as a function says.

    Args:
        script: Steps in order, or a function of the request that decides alone: it holds no position, so
            that a run can go on with it in another process.
        profile: Facts to claim.
        cut: How texts are cut into deltas where a reply does not say.
    """

    def __init__(
        self, script: Iterable[Step] | Brain, *, profile: ModelProfile | None = None, cut: Cut = "whole"
    ) -> None:
        self.profile = profile or ModelProfile(window=WINDOW)
        self.calls: list[ModelCall] = []
        """The requests so far."""
        self._cut: Cut = cut
        self._brain = script if callable(script) else None
        self._steps = [] if callable(script) else list(script)
        self._used = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Delta]:
        """Stream the reply that the script has for this request.

        Raises:
            ScriptError: If the script has no step left; the one exception to the port's rule.
        """
        self.calls.append(ModelCall(tuple(request.all), request.tools, request.settings, request.model))
        answer = self._next(request)
        while isinstance(answer, Failure) and answer.retry_in is not None:
            yield Delta(failure=answer)
            answer = self._next(request)
        reply = _reply_of(answer)
        for number, delta in enumerate(_deltas(reply, reply.cut or self._cut, request)):
            if number in reply.gates:
                await reply.gates[number].wait()
            yield delta

    async def close(self) -> None:
        """Let go of nothing: there are no connections."""

    def assert_complete(self) -> None:
        """Check that every step was used.

        Raises:
            ScriptError: If steps are left.
        """
        if left := len(self._steps) - self._used:
            raise ScriptError(
                f"{left} of {len(self._steps)} steps were not used; the next is {self._steps[self._used]!r}"
            )

    def _next(self, request: ModelRequest) -> Answer:
        if self._brain is not None:
            return self._brain(request)
        if self._used >= len(self._steps):
            last = request.all[-1] if request.all else None
            raise ScriptError(
                f"request {len(self.calls)} came, but the script has {self._used} steps; it ends: {last!r}"
            )
        step = self._steps[self._used]
        self._used += 1
        return step(request) if callable(step) else step


def reply(
    text: str | Iterable[str] = "",
    *calls: ToolCall,
    thinking: str | Iterable[str] = "",
    usage: Usage | None = None,
    stop: StopReason | None = None,
    failure: Failure | None = None,
    cut: Cut | None = None,
    gates: Mapping[int, asyncio.Event] | None = None,
) -> Reply:
    """Make a reply with a text, tool calls, or both. The arguments are those of `Reply`."""
    return Reply(_texts(text), calls, _texts(thinking), usage, stop, failure, cut, gates or _NO_GATES)


def call(tool: str, /, **arguments: Any) -> ToolCall:
    """Make a call of a tool with these arguments, as a step of its own or a part of `reply`."""
    return ToolCall("", tool, msgspec.json.encode(arguments).decode())


def _texts(text: str | Iterable[str]) -> str | tuple[str, ...]:
    return text if isinstance(text, str) else tuple(text)


def _reply_of(answer: Answer) -> Reply:
    match answer:
        case Reply():
            return answer
        case str():
            return Reply(answer)
        case list():
            return Reply(tuple(answer))
        case ToolCall():
            return Reply(calls=(answer,))
        case Failure():
            return Reply(failure=answer)


def _deltas(reply: Reply, cut: Cut, request: ModelRequest) -> Iterator[Delta]:
    for piece in _pieces(reply.thinking, cut):
        yield Delta(thinking=piece)
    for piece in _pieces(reply.text, cut):
        yield Delta(text=piece)
    for index, asked in enumerate(reply.calls):
        # The length of the conversation, unlike a counter, is the same again after a restart.
        id = asked.id or f"call_{len(request.messages)}_{index}"
        first, *others = _pieces(asked.arguments, cut) or [""]
        yield Delta(calls=(CallPart(index, id, asked.name, first),))
        for piece in others:
            yield Delta(calls=(CallPart(index, arguments=piece),))
    stop = reply.stop or ("tool_calls" if reply.calls else "stop")
    yield Delta(usage=reply.usage, failure=reply.failure, stop="error" if reply.failure else stop)


def _pieces(text: str | tuple[str, ...], cut: Cut) -> list[str]:
    if isinstance(text, tuple):
        return list(text)
    size = len(text) if cut == "whole" else 1 if cut == "char" else max(1, cut)
    return [text[at : at + size] for at in range(0, len(text), size)] if text else []
