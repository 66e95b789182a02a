"""One reply of a model while it streams: shown piece by piece, then whole.

It builds no request and decides nothing about what the reply says.
"""

from __future__ import annotations

from stepwell.events import CallDelta, MessageEnded, ModelFailed, TextDelta, ThinkingDelta
from stepwell.log import Log
from stepwell.messages import Message, StopReason, ToolCall, Usage, clean
from stepwell.models.base import CallPart, Delta, Failure, Model, ModelRequest
from stepwell.models.dialects.base import DialectParser
from stepwell.tools.bounds import replaced


async def receive(log: Log, model: Model, request: ModelRequest, parser: DialectParser | None) -> Received:
    """Ask a model and show its reply as it streams; a failure is in the result, not raised.

    The message must have been started in the log, and is not ended here.
    """
    run = log.state.run
    assert run is not None
    reply = Received(log, run.message, parser)
    deltas = model.stream(request)
    try:
        async for delta in deltas:
            await reply.take(delta)
            if reply.stop is not None:
                break
    finally:
        await deltas.aclose()
    return reply


class _Call:
    """A tool call while its pieces arrive."""

    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id = self.name = ""
        self.arguments: list[str] = []


class Received:
    """A reply while it streams: shows its pieces and adds them up."""

    def __init__(self, log: Log, number: int, parser: DialectParser | None) -> None:
        self._log, self._number, self._parser = log, number, parser
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._own_thinking: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._failure: Failure | None = None
        self._shown = self._unmarked = False
        self._raw = self._signed = ""
        self._usage: Usage | None = None
        self._replaced = 0
        self.stop: StopReason | None = None

    async def take(self, delta: Delta) -> None:
        """Take in what one read brought; sets `stop` when the rest of the reply cannot matter."""
        if delta.usage is not None:
            self._usage = delta.usage
        self._replaced += delta.replaced
        self._signed = delta.signed or self._signed
        if delta.failure is not None:
            self._failure = delta.failure
            if delta.stop is None:
                await self._log.record(_failed(delta.failure))
                return
        if self._parser is None:
            if self._shown:
                self._take_in(delta)
            else:
                await self._show(delta)
            self.stop = delta.stop
            return
        if delta.thinking:
            self._own_thinking.append(delta.thinking)
        shown = self._parser.feed(delta)
        if shown is not None:
            await self._show(shown)
        if self._parser.done and (shown is None or shown.stop is None):
            shown = self._parser.finish("stop")
            await self._show(shown)
        if shown is not None and shown.stop is not None:
            self._raw, self._unmarked, self.stop = shown.raw, shown.unmarked, shown.stop

    async def _show(self, delta: Delta) -> None:
        if not self._shown and (delta.text or delta.thinking or delta.calls):
            # A delta may be shown only after the commit of the event that it hangs from.
            await self._log.visible()
            self._shown = True
        self._take_in(delta)

    def _take_in(self, delta: Delta) -> None:
        publish, number = self._log.publish, self._number
        if delta.thinking:
            self._thinking.append(thinking := self._clean(delta.thinking))
            publish(ThinkingDelta(number, thinking))
        if delta.text:
            self._text.append(text := self._clean(delta.text))
            publish(TextDelta(number, text))
        for part in delta.calls:
            publish(self._take_part(part))

    def _take_part(self, part: CallPart) -> CallDelta:
        call = self._calls.get(part.index)
        if call is None:
            call = self._calls[part.index] = _Call()
        name = "" if call.name else self._clean(part.name)
        call.id, call.name = call.id or self._clean(part.id), call.name or name
        call.arguments.append(text := self._clean(part.arguments))
        return CallDelta(self._number, part.index, name, text)

    def _clean(self, text: str) -> str:
        cleaned = clean(text)
        if cleaned is not text:
            self._replaced += replaced(text, cleaned)
        return cleaned

    def ended(self, message: Message | None = None) -> list[ModelFailed | MessageEnded]:
        """Return the events that end the message.

        Args:
            message: What is stored as the reply; None for the reply as it came.
        """
        message = message or self.message()
        if self._failure is not None and self.stop == "error":
            ended = MessageEnded(message, "error", self._usage, replaced_characters=self._replaced)
            return [_failed(self._failure), ended]
        stop = self.stop or "stop"
        stop = "tool_calls" if message.calls and stop == "stop" else stop
        return [MessageEnded(message, stop, self._usage, replaced_characters=self._replaced)]

    def message(self) -> Message:
        """Return the reply as far as it came."""
        text, thinking = "".join(self._text), "".join(self._thinking)
        if self._unmarked and self._parser is not None:
            # What was shown as a thought turns out to be all there is: it is the answer.
            text, thinking = clean(self._parser.thought).strip(), clean("".join(self._own_thinking))
        calls = () if self.stop == "error" else self._tool_calls()
        return Message(
            "assistant",
            text,
            thinking=thinking,
            calls=calls,
            raw=clean(self._raw),
            unmarked=self._unmarked,
            signed=clean(self._signed),
        )

    def _tool_calls(self) -> tuple[ToolCall, ...]:
        calls: list[ToolCall] = []
        taken: set[str] = set()
        for index, call in sorted(self._calls.items()):
            id = call.id
            if not id or id in taken or self._log.state.has_call(id):
                id = f"call_{self._number}_{index}"
            taken.add(id)
            calls.append(ToolCall(id, call.name, "".join(call.arguments)))
        return tuple(calls)


def _failed(failure: Failure) -> ModelFailed:
    return ModelFailed(failure.kind, clean(failure.message), failure.status, failure.retry_in)
