"""The adapter over pydantic-ai, against an endpoint that speaks Bedrock's binary event stream."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from stepwell.messages import Message, ToolCall, ToolSpecs, Transcript, Usage
from stepwell.models.base import CallPart, Delta, Failure, ModelRequest
from stepwell.models.retries import Retries, Timeouts
from tests.models.test_providers import TOOL, asks, model_at
from tests.support import bedrock
from tests.support.asking import asked, collect, joined
from tests.support.endpoint import Cut, Endpoint, Piece, Reply, Request

HI = bedrock.streamed(bedrock.opening(), *bedrock.said(0, "Hi"), *bedrock.closing())


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in bedrock.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def tells(*replies: Reply, request: ModelRequest | None = None, **options: Any) -> tuple[list[Delta], list[Request]]:
    return asks(request or asked(), *replies, vendor="bedrock", api_key="", **options)


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_thinking_text_and_a_call_of_one_reply_come_in_order_however_the_frames_were_cut(cut: int) -> None:
    pieces: tuple[Piece, ...] = (
        bedrock.opening(),
        *bedrock.thought(0, "Hm", "m."),
        *bedrock.said(1, "Let me ", "see."),
        *bedrock.called(2, "tooluse_1", "calculate", '{"x":', '"17*23"}'),
        *bedrock.closing("tool_use", (12, 30, 4)),
    )
    deltas, [came] = tells(bedrock.streamed(*pieces, cut=cut), request=asked(tools=ToolSpecs([TOOL])))
    assert deltas[-1].signed
    assert [*deltas[:-1], msgspec.structs.replace(deltas[-1], signed="")] == [
        Delta(thinking="Hm"),
        Delta(thinking="m."),
        Delta("Let me "),
        Delta("see."),
        Delta(calls=(CallPart(0, "tooluse_1", "calculate"),)),
        Delta(calls=(CallPart(0, arguments='{"x":'),)),
        Delta(calls=(CallPart(0, arguments='"17*23"}'),)),
        Delta(usage=Usage(16, 30, 4), stop="tool_calls"),
    ]
    assert came.path == "/model/claude-x/converse-stream"
    assert "AKIATEST/" in came.headers["authorization"]
    (tool,) = came.body["toolConfig"]["tools"]
    assert tool["toolSpec"]["name"] == "calculate"


def test_a_call_and_its_result_go_back() -> None:
    talk = Transcript(
        [
            Message("user", "17*23?"),
            Message("assistant", calls=(ToolCall("tooluse_1", "calculate", '{"x":"17*23"}'),)),
            Message("tool", "391", call="tooluse_1"),
        ]
    )
    request = ModelRequest(talk, ToolSpecs([TOOL]))
    deltas, [came] = tells(HI, request=request)
    assert joined(deltas) == "Hi"
    _, call, result = came.body["messages"]
    assert call["content"] == [{"toolUse": {"toolUseId": "tooluse_1", "name": "calculate", "input": {"x": "17*23"}}}]
    (told,) = result["content"]
    assert told["toolResult"]["toolUseId"] == "tooluse_1"
    assert told["toolResult"]["content"] == [{"text": "391"}]


@pytest.mark.parametrize(
    ("reason", "stop"), [("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length")]
)
def test_the_end_of_a_reply_is_told(reason: str, stop: str) -> None:
    deltas, _ = tells(bedrock.streamed(bedrock.opening(), *bedrock.said(0, "Hi"), *bedrock.closing(reason)))
    assert (deltas[-1].stop, deltas[-1].failure) == (stop, None)


ERRORS = [
    ("throttlingException", "rate_limit", 429),
    ("serviceUnavailableException", "server", 503),
    ("internalServerException", "server", 500),
    ("modelStreamErrorException", "server", 424),
]


@pytest.mark.parametrize(("kind", "failure", "status"), ERRORS)
def test_an_error_in_the_middle_of_a_stream_ends_the_reply_with_what_came(kind: str, failure: Any, status: int) -> None:
    broken = bedrock.streamed(bedrock.opening(), *bedrock.said(0, "Ha"), bedrock.refused(kind, "Not now."))
    deltas, requests = tells(broken)
    assert joined(deltas) == "Ha"
    assert deltas[-1].stop == "error"
    assert deltas[-1].failure == Failure(failure, "Not now.", status)
    assert len(requests) == 1


def test_an_error_before_anything_came_is_retried() -> None:
    busy = bedrock.streamed(bedrock.opening(), bedrock.refused("throttlingException", "Too many."))
    deltas, requests = tells(busy, HI)
    assert deltas[0] == Delta(failure=Failure("rate_limit", "Too many.", 429, 0.0))
    assert joined(deltas) == "Hi"
    assert len(requests) == 2


def test_a_model_that_broke_off_before_anything_came_is_asked_again() -> None:
    broke = bedrock.streamed(bedrock.opening(), bedrock.refused("modelStreamErrorException", "It broke off."))
    deltas, requests = tells(broke, HI)
    assert deltas[0] == Delta(failure=Failure("server", "It broke off.", 424, 0.0))
    assert joined(deltas) == "Hi"
    assert len(requests) == 2


def test_a_refusal_inside_a_stream_is_not_asked_for_again() -> None:
    deltas, [_] = tells(bedrock.streamed(bedrock.refused("validationException", "No such thing.")))
    assert deltas == [Delta(failure=Failure("request", "No such thing.", 400), stop="error")]


def damaged(frame: bytes) -> bytes:
    return frame[:-6] + bytes([frame[-6] ^ 1]) + frame[-5:]


@pytest.mark.parametrize(
    "piece",
    [
        *(Cut.DROP, Cut.RESET),
        damaged(bedrock.event("contentBlockDelta", delta={"text": "x"}, contentBlockIndex=0)),
        b"<html>no frame at all</html>",
    ],
)
def test_a_stream_that_breaks_or_is_damaged_before_it_brought_anything_is_retried(piece: Piece) -> None:
    deltas, requests = tells(bedrock.streamed(bedrock.opening(), piece), HI)
    assert deltas[0].failure is not None
    assert deltas[0].failure.kind == "broken"
    assert joined(deltas) == "Hi"
    assert len(requests) == 2


def test_a_stream_without_an_end_is_no_whole_reply() -> None:
    deltas, _ = tells(bedrock.streamed(bedrock.opening(), *bedrock.said(0, "Hi")))
    assert deltas[-1].failure is not None
    assert (deltas[-1].stop, deltas[-1].failure.kind) == ("error", "broken")


def test_a_vendor_that_falls_silent_is_left() -> None:
    silent = bedrock.streamed(bedrock.opening(), *bedrock.said(0, "Ha"), Cut.STALL)
    deltas, _ = tells(silent, timeouts=Timeouts(stall=0.3), retries=Retries(attempts=1))
    assert joined(deltas) == "Ha"
    assert deltas[-1].failure == Failure("stall", "The vendor sent nothing for 0.3 s.")


def test_leaving_a_reply_closes_the_connection() -> None:
    async def main() -> None:
        endless = bedrock.streamed(bedrock.opening(), *bedrock.said(0, "a"), asyncio.Event())
        async with Endpoint([endless, endless]) as endpoint:
            model = model_at(endpoint, "bedrock", api_key="")
            async with aclosing(model.stream(asked())) as reply:
                assert (await anext(reply)).text == "a"
            await endpoint.all_closed()
            task = asyncio.ensure_future(collect(model))
            await endpoint.request(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await endpoint.all_closed()
            await model.close()

    asyncio.run(main())
