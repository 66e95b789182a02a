"""One script, played by every adapter of the port of models: what `test_contract.py` holds them to.

A script is a list of replies of `ScriptedModel`. Adapters of endpoints get it from a loopback endpoint in their own
protocol, the one over pydantic-ai from its `FunctionModel`, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from pydantic_ai.exceptions import ModelConnectionError, ModelHTTPError
from pydantic_ai.messages import FinishReason, ModelMessage
from pydantic_ai.models import StreamedResponse
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.models.wrapper import WrapperModel

from stepwell.messages import StopReason, ToolCall
from stepwell.models.base import Model, ModelProfile
from stepwell.models.openai import OpenAIModel
from stepwell.models.providers import ProviderModel, provider_model
from stepwell.models.providers_clients import Client
from stepwell.models.retries import Retries
from stepwell.models.scripted import Reply, ScriptedModel
from tests.support import anthropic, endpoint
from tests.support.endpoint import Cut, Endpoint, Piece

ADAPTERS = ("scripted", "openai", "pydantic-ai", "anthropic")

Thought = tuple[str]
Step = str | Thought | tuple[int, ToolCall] | asyncio.Event


@asynccontextmanager
async def opened(adapter: str, script: Sequence[Reply]) -> AsyncIterator[Model]:
    """Open an adapter whose requests are answered by the replies in order."""
    facts: dict[str, Any] = {"profile": ModelProfile(images=True), "retries": Retries(attempts=1)}
    if adapter == "scripted":
        yield ScriptedModel(script)
    elif adapter == "pydantic-ai":
        vendor = Client(lambda name: played)
        played = Ending(script)
        yield ProviderModel(lambda: vendor, "m", **facts)
    else:
        async with Endpoint([_WIRES[adapter](reply) for reply in script], strict=False) as server:
            model = (
                OpenAIModel(server.base_url, "m", **facts)
                if adapter == "openai"
                else provider_model(adapter, "m", api_key="k", base_url=server.base_url, **facts)
            )
            try:
                yield model
            finally:
                await model.close()


class Ending(WrapperModel):
    """pydantic-ai's `FunctionModel`, which plays a script and, unlike that, says why a reply ended."""

    def __init__(self, script: Sequence[Reply]) -> None:
        self._script = list(script)
        super().__init__(FunctionModel(stream_function=partial(_play, Reply())))

    @asynccontextmanager
    async def request_stream(self, *args: Any, **kwargs: Any) -> AsyncGenerator[StreamedResponse]:
        reply = self._script.pop(0)
        model = FunctionModel(stream_function=partial(_play, reply), model_name="m")
        async with model.request_stream(*args, **kwargs) as response:
            response.finish_reason = _REASONS[_stop(reply)]
            yield response


async def _play(reply: Reply, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
    if reply.failure is not None and reply.failure.status:
        raise ModelHTTPError(reply.failure.status, "m", {"error": {"message": reply.failure.message}})
    for step in _steps(reply):
        match step:
            case asyncio.Event():
                await step.wait()
            case str():
                yield step
            case (str() as thought,):
                yield {0: DeltaThinkingPart(content=thought)}
            case (int() as index, ToolCall() as call):
                yield {1 + index: DeltaToolCall(call.name, tool_call_id=call.id)}
                yield {1 + index: DeltaToolCall(json_args=call.arguments)}
    if reply.failure is not None:
        raise ModelConnectionError("m", reply.failure.message, phase="read")


_REASONS: dict[StopReason, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_call",
    "content_filter": "content_filter",
}


def _steps(reply: Reply) -> Iterator[Step]:
    """Return what a reply says, in order, with the gates before what they hold back."""
    texts = (reply.text,) if isinstance(reply.text, str) else reply.text
    thoughts = (reply.thinking,) if isinstance(reply.thinking, str) else reply.thinking
    said: list[Step] = [*((piece,) for piece in thoughts if piece), *(piece for piece in texts if piece)]
    said += enumerate(reply.calls)
    for number, step in enumerate(said):
        if number in reply.gates:
            yield reply.gates[number]
        yield step
    if len(said) in reply.gates:
        yield reply.gates[len(said)]


def _stop(reply: Reply) -> StopReason:
    return reply.stop or ("tool_calls" if reply.calls else "stop")


def _openai(reply: Reply) -> endpoint.Reply:
    if reply.failure is not None and reply.failure.status:
        return endpoint.error(reply.failure.status, reply.failure.message)
    pieces: list[Piece] = [endpoint.chunk(role="assistant", content="")]
    for step in _steps(reply):
        match step:
            case asyncio.Event():
                pieces.append(step)
            case str():
                pieces.append(endpoint.chunk(content=step))
            case (str() as thought,):
                pieces.append(endpoint.chunk(reasoning_content=thought))
            case (int() as index, ToolCall() as call):
                pieces.append(endpoint.call_chunk(index, call.id, call.name, ""))
                pieces.append(endpoint.call_chunk(index, arguments=call.arguments))
    if reply.failure is not None:
        return endpoint.stream(*pieces, Cut.DROP)
    used = reply.usage
    pieces.append(endpoint.chunk(_stop(reply)))
    pieces += [endpoint.usage(used.input, used.output, used.cached)] if used else []
    return endpoint.stream(*pieces, endpoint.DONE)


def _anthropic(reply: Reply) -> endpoint.Reply:
    if reply.failure is not None and reply.failure.status:
        return anthropic.refused(reply.failure.status, "invalid_request_error", reply.failure.message)
    used = reply.usage
    pieces: list[Piece] = [anthropic.opening(used.input - used.cached, used.cached) if used else anthropic.opening()]
    for index, step in enumerate(_steps(reply)):
        match step:
            case asyncio.Event():
                pieces.append(step)
            case str():
                pieces += anthropic.said(index, step)
            case (str() as thought,):
                pieces += anthropic.thought(index, thought)
            case (int(), ToolCall() as call):
                pieces += anthropic.called(index, call.id, call.name, *_halves(call.arguments))
    if reply.failure is not None:
        return endpoint.stream(*pieces, Cut.DROP)
    reasons = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
    pieces += anthropic.closing(reasons.get(_stop(reply), "end_turn"), used.output if used else 1)
    return endpoint.stream(*pieces)


def _halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


_WIRES = {"openai": _openai, "anthropic": _anthropic}
