"""The connections of the OpenAI adapter: what of aiohttp is overridden is in effect, and takes nothing away."""

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from aiohttp.client_proto import ResponseHandler

from stepwell.models.openai import OpenAIModel
from stepwell.models.retries import Retries, Timeouts
from tests.support.asking import asked, collect, joined, model_at
from tests.support.endpoint import Endpoint, chunk, ending, stream


class _Counting(asyncio.SelectorEventLoop):
    """An event loop that counts the timers it is asked for."""

    timers = 0

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, **others: Any) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(when, callback, *args, **others)


def test_many_replies_of_many_reads_take_one_timer_of_their_connection() -> None:
    replies = [stream(*(chunk(content=str(number)) for number in range(30)), *ending()) for _ in range(10)]

    async def main(loop: _Counting) -> int:
        async with Endpoint(replies) as endpoint:
            model = model_at(endpoint, timeouts=Timeouts(stall=60))
            await collect(model)
            before = loop.timers
            for _ in replies[1:]:
                assert joined(await collect(model)) == "".join(map(str, range(30)))
            taken = loop.timers - before
            await model.close()
            return taken

    with asyncio.Runner(loop_factory=_Counting) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, _Counting)
        # The bytes behind a finish reason have time-outs of their own.
        assert runner.run(main(loop)) <= 3 * len(replies)


def test_a_parser_is_asked_to_go_on_only_where_it_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    resumed = 0
    original = ResponseHandler.resume_reading

    def resume(self: ResponseHandler, resume_parser: bool = True) -> None:
        nonlocal resumed
        resumed += 1
        original(self, resume_parser)

    monkeypatch.setattr(ResponseHandler, "resume_reading", resume)
    few, many = ["word "] * 200, [f"{number:07d} " * 125 for number in range(2000)]

    async def main(pieces: list[str], cut: int) -> int:
        nonlocal resumed
        resumed = 0
        reply = stream(*(chunk(content=each) for each in pieces), *ending(), together=True, cut=cut)
        async with Endpoint([reply]) as endpoint:
            model = model_at(endpoint)
            got: list[str] = []
            async for delta in model.stream(asked()):
                got.append(delta.text)
                await asyncio.sleep(0.3 if len(got) == 1 else 0)
            await model.close()
        assert "".join(got) == "".join(pieces)
        return resumed

    assert asyncio.run(main(few, 100)) == 0
    assert 0 < asyncio.run(main(many, 1000)) < 1000  # beyond what is buffered of a response


async def _silent(
    requests: list[bytes], left: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer the first request of a connection, begin to answer the second, and say no more."""
    requests.append(await reader.readuntil(b"\r\n\r\n"))
    body = b"".join(_event(each) for each in (chunk(content="Hi"), *ending()))
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    requests.append(await reader.readuntil(b"\r\n\r\n"))
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-le")
    await reader.read()
    writer.close()
    await writer.wait_closed()
    left.set()


def _event(piece: object) -> bytes:
    return piece if isinstance(piece, bytes) else b"data: %b\n\n" % json.dumps(piece).encode()


def test_silence_ends_a_connection_only_while_somebody_waits() -> None:
    async def main() -> list[bytes]:
        requests, left = list[bytes](), asyncio.Event()
        async with await asyncio.start_server(partial(_silent, requests, left), "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            model = OpenAIModel(
                f"http://127.0.0.1:{port}/v1", "m", timeouts=Timeouts(stall=0.3), retries=Retries(attempts=1)
            )
            assert joined(await collect(model)) == "Hi"
            await asyncio.sleep(0.5)  # nobody waits: the connection stays, and takes the next request
            deltas = await collect(model)
            assert [delta.failure.kind for delta in deltas if delta.failure] == ["stall"]
            await model.close()
            await left.wait()
            return requests

    assert len(asyncio.run(main())) == 2
