"""Whatever a model's endpoint does, a run goes on or ends with the true cause (F04, F14, F20-F22)."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from stepwell.events import MessageEnded, ModelFailed, RunEnded, StepStarted, ToolEnded, ToolStarted
from stepwell.messages import Usage
from tests.faults.support.case import Parent, calls, case, run, shown
from tests.faults.support.examine import of, replies
from tests.support.endpoint import (
    DONE,
    Cut,
    Piece,
    Reply,
    Request,
    chunk,
    document,
    ending,
    error,
    stream,
    text,
    usage,
)
from tests.support.server import WAIT, Frame, Stream


async def read_text(stream: Stream, size: int) -> list[Frame]:
    """Read a stream until so much visible text has come."""
    frames: list[Frame] = []
    while size > 0:
        frame = await stream.frame()
        assert frame is not None
        frames.append(frame)
        size -= len(shown([frame]))
    return frames


@pytest.mark.parametrize("deltas", [1, 50, 5000])
def test_f04_a_reply_that_was_cut_by_a_crash_is_asked_for_again_and_not_joined(
    tmp_path: Path, parent: Parent, deltas: int
) -> None:
    words = [f"w{number} " for number in range(deltas)]
    cut: list[Piece] = [chunk(role="assistant", content=""), *(chunk(content=word) for word in words), Cut.STALL]
    answer = "".join(words) + "and no more."

    async def main() -> None:
        again = text(*words, "and no more.", tokens_used=(20, 7))
        async with case(tmp_path, [Reply(cut), again], parent) as it:
            async with it.victim(lives=False) as victim:
                thread = await victim.thread()
                stream = await victim.stream("POST", f"/api/threads/{thread}/messages", {"content": "count"})
                frames = await read_text(stream, len("".join(words)))
                victim.kill()
            async with it.victim() as victim:
                stream = await victim.follow(thread, after=frames[-1].id, run=1)
                rest = await stream.rest()
                assert [frame.type for frame in rest if "offset" not in frame.body] == [
                    "run_claimed",
                    "model_failed",
                    "message_ended",
                    "step_ended",
                    "step_started",
                    "message_started",
                    "message_ended",
                    "step_ended",
                    "run_ended",
                ]
                await victim.over(thread)
            sent = [request.body["messages"] for request in it.endpoint.requests]
            assert sent[0] == sent[1], "what was streamed before the crash is no part of the second request"
        first, second = of(it.log, MessageEnded)
        assert (first.message.content, first.stop) == ("", "error")
        assert [failed.kind for failed in of(it.log, ModelFailed)] == ["interrupted"]
        assert (second.message.content, second.usage) == (answer, Usage(20, 7))
        assert [step.step for step in of(it.log, StepStarted)] == [1, 1]
        assert shown(frames) == "".join(words)

    run(main)


def test_f04_what_a_lost_attempt_may_have_cost_counts(tmp_path: Path, parent: Parent) -> None:
    async def main() -> None:
        replies_ = [Reply([chunk(content="Hel"), Cut.STALL]), text("Hello.", tokens_used=(100, 10))]
        prices = {"price_input": 1.0, "price_output": 10.0, "max_output": 1000}
        async with case(tmp_path, replies_, parent, model=prices, limits={"money": 1.0}) as it:
            async with it.victim(lives=False) as victim:
                thread = await victim.thread()
                stream = await victim.stream("POST", f"/api/threads/{thread}/messages", {"content": "hi"})
                await read_text(stream, 3)
                victim.kill()
            async with it.victim() as victim:
                await victim.over(thread)
        first, second = of(it.log, StepStarted)
        lost, whole = of(it.log, MessageEnded)
        assert lost.cost == first.reserved > 0
        assert second.reserved > whole.cost == 100 * 1_000 + 10 * 10_000

    run(main)


def test_f14_a_cancel_closes_the_models_socket_keeps_what_came_and_the_next_turn_works(tmp_path: Path) -> None:
    async def main() -> None:
        replies_ = [Reply([chunk(content="Half of "), chunk(content="it"), asyncio.Event()]), text("All of it.")]
        async with case(tmp_path, replies_) as it:
            async with it.serving() as (person, _):
                thread = await person.thread()
                stream = await person.stream("POST", f"/api/threads/{thread}/messages", {"content": "hi"})
                frames = await read_text(stream, len("Half of it"))
                before = time.monotonic()
                await person.post(f"/api/threads/{thread}/runs/1/cancel", {"reason": "enough"})
                request = await it.endpoint.request(0)
                async with asyncio.timeout(WAIT):
                    await request.dropped.wait()
                assert time.monotonic() - before < 1.0
                frames += await stream.rest()
                assert [frame.type for frame in frames][-3:] == ["message_ended", "step_ended", "run_ended"]
                await person.say(thread, "go on")
                sent = it.endpoint.requests[1].body["messages"]
                assert [each["content"] for each in sent[1:]] == ["hi", "Half of it", "go on"]
        first, second = of(it.log, MessageEnded)
        assert (first.message.content, first.stop) == ("Half of it", "cancelled")
        assert (second.message.content, second.stop) == ("All of it.", "stop")
        assert [end.reason for end in of(it.log, RunEnded)] == ["cancelled", "answer"]

    run(main)


def test_f20_calls_that_end_exactly_at_the_limit_of_tokens_count_as_cut_and_do_not_run(tmp_path: Path) -> None:
    async def main() -> None:
        replies_ = [calls(("note", {"what": "a"}), tokens_used=(10, 64)), text("Shorter.", tokens_used=(20, 3))]
        async with case(tmp_path, replies_) as it:
            async with it.serving() as (person, _):
                await person.say(await person.thread(), "go", max_tokens=64)
            assert it.effects == []
        ended = of(it.log, ToolEnded)
        assert [(each.status, "cut at its token limit" in each.content) for each in ended] == [("invalid", True)]
        assert of(it.log, ToolStarted) == []
        assert [each.stop for each in of(it.log, MessageEnded)] == ["length", "stop"]

    run(main)


def test_f21_characters_that_no_store_takes_become_the_mark_for_them_and_the_stream_goes_on(tmp_path: Path) -> None:
    strange = "\ufeffa\0b\ud800c\uffff\ufffe 🚢"
    mended = "\ufeffa\ufffdb\ufffdc\uffff\ufffe 🚢"

    def raw(content: str) -> bytes:
        return b"data: " + json.dumps(chunk(content=content)).encode() + b"\n\n"

    async def main() -> None:
        # The ship's four bytes come in two reads, and so does every other character.
        ship = "data: " + json.dumps(chunk(content="🚢!"), ensure_ascii=False) + "\n\n"
        last = Reply([b"\xef\xbb\xbf", raw(strange), ship.encode(), *ending()], cut=3)
        replies_ = [calls(("strange", {"name": "text"}), said=strange), last, text("Fine.")]
        (tmp_path / "text").write_text(json.dumps(strange))
        async with case(tmp_path, replies_) as it:
            async with it.serving() as (person, _):
                thread = await person.thread()
                frames = await person.say(thread, "go 🚢")
                assert shown(frames) == f"{mended}{mended}🚢!"
                stored = await person.events(thread)
                assert stored == [frame.body for frame in frames if "offset" not in frame.body]
                assert (await person.say(thread, "and now?"))[-1].type == "run_ended"
            answer = it.endpoint.requests[1].body["messages"][-1]
            assert (answer["role"], answer["content"]) == ("tool", mended)
        assert replies(it.log)[:2] == [mended, f"{mended}🚢!"]
        ended = of(it.log, ToolEnded)[0]
        assert (ended.content, ended.details) == (mended, {"replaced_characters": 2})
        shown_ = [each["event"]["details"] for each in stored if "details" in each["event"]]
        assert shown_ == [{"replaced_characters": 2}]

    run(main)


ANSWER = text("It works.")
RETRIED: dict[str, tuple[Reply, str]] = {
    "429 that says when": (error(429, "slow down", headers={"retry-after": "0"}), "slow down"),
    "429 that does not": (error(429, "too many"), "too many"),
    "500": (error(500, "it broke"), "it broke"),
    "529": (error(529, "overloaded"), "overloaded"),
    "a reset": (Reply([Cut.RESET]), "connection to the endpoint broke"),
    "silence": (Reply([Cut.STALL]), "sent nothing for 0.5 s"),
    "no byte": (Reply([], framing="close"), "sent an empty reply"),
    "an empty success": (document(b""), "sent an empty reply"),
}
"""Failures that may pass, before anything of a reply has come: asked again once, then told."""
FINAL: dict[str, tuple[Reply, str]] = {
    "429 that asks for too much": (error(429, "come back", headers={"retry-after": "900"}), "come back"),
    "an error inside a success": (document({"error": {"message": "the quota is used up"}}), "the quota is used up"),
    "half a line": (Reply([chunk(content="Half"), b'data: {"choi'], framing="close"), "cut inside a line"),
    "no end": (Reply([chunk(content="Half"), DONE]), "without a finish reason"),
    "no mark of the end": (Reply([chunk(content="Half")]), "without a finish reason"),
    "silence inside": (Reply([chunk(content="Half"), Cut.STALL]), "sent nothing for 0.5 s"),
    "a success that says nothing": (Reply([chunk(content=""), *ending()]), "empty reply"),
    "a success with tokens that says nothing": (Reply([chunk("stop"), usage(9, 0), DONE]), "empty reply"),
}
"""Failures that are told at once: nothing may be asked for twice of which something has come."""


class Flaky:
    """An endpoint that answers each question as its table says, and counts how often it was asked."""

    def __init__(self, *, heals: bool) -> None:
        self.heals = heals
        self.asked: dict[str, int] = {}

    def __call__(self, request: Request) -> Reply:
        name = request.body["messages"][-1]["content"]
        self.asked[name] = self.asked.get(name, 0) + 1
        if self.heals and self.asked[name] > 1:
            return ANSWER
        return (RETRIED | FINAL)[name][0]


QUICK = {"attempts": 2, "stall_timeout": 0.5}


def test_f22_a_failure_that_passes_is_met_by_one_more_attempt(tmp_path: Path) -> None:
    async def main() -> None:
        script = Flaky(heals=True)
        async with case(tmp_path, script, model=QUICK) as it:
            async with it.serving() as (person, _):
                threads = {name: await person.thread(name) for name in RETRIED}
                await asyncio.gather(*(person.say(threads[name], name) for name in RETRIED))
            assert script.asked == dict.fromkeys(RETRIED, 2)
        for log in it.logs.values():
            (failed,) = of(log, ModelFailed)
            assert failed.retry_in is not None
            assert replies(log) == ["It works."]

    run(main)


def test_f22_a_failure_that_stays_ends_the_run_with_its_true_cause_and_the_next_turn_works(tmp_path: Path) -> None:
    async def main() -> None:
        script = Flaky(heals=False)
        names = [*RETRIED, *FINAL]
        async with case(tmp_path, script, model=QUICK) as it:
            async with it.serving() as (person, _):
                threads = {name: await person.thread(name) for name in names}
                await asyncio.gather(*(person.say(threads[name], name) for name in names))
                assert script.asked == dict.fromkeys(RETRIED, 2) | dict.fromkeys(FINAL, 1)
                script.heals = True
                await asyncio.gather(*(person.say(threads[name], name) for name in names))
        for name in names:
            first, second = of(it.logs[threads[name]], RunEnded)
            assert first.reason == "failed"
            assert (RETRIED | FINAL)[name][1] in first.detail, (name, first)
            assert second.reason == "answer", (name, second)
            assert replies(it.logs[threads[name]])[-1] == "It works."

    run(main)


@pytest.mark.parametrize("dialect", ["native", "react"])
def test_f22_what_came_together_with_a_failure_is_kept_as_what_came_before_it_is(tmp_path: Path, dialect: str) -> None:
    async def main() -> None:
        pieces = [chunk(content="As far as I"), {"error": {"message": "no more of it", "code": 400}}]
        seen = list[str]()
        for together in (True, False):
            script = [stream(*pieces, together=together), text("It works.")]
            async with case(tmp_path / str(together), script, model={"attempts": 1, "dialect": dialect}) as it:
                async with it.serving() as (person, _):
                    thread = await person.thread("t")
                    await person.say(thread, "a")
                    await person.say(thread, "b")
            (ended,) = [each for each in of(it.log, MessageEnded) if each.stop == "error"]
            seen.append(ended.message.content or ended.message.thinking)
        assert seen == ["As far as I"] * 2

    run(main)


def test_f22_nobody_at_the_address_nobody_who_accepts_and_nobody_who_speaks_tls_are_told_apart(tmp_path: Path) -> None:
    async def main() -> None:
        with _full() as full:
            async with _resetting() as broken, case(tmp_path, []) as it:
                quick = {"attempts": 1, "connect_timeout": 0.5, "window": 32768}
                with socket.socket() as unused:
                    unused.bind(("127.0.0.1", 0))
                    models = {
                        "gone": {"base_url": f"http://127.0.0.1:{unused.getsockname()[1]}/v1", **quick},
                        "full": {"base_url": f"http://127.0.0.1:{full.port}/v1", **quick},
                        "broken": {"base_url": f"https://127.0.0.1:{broken}/v1", **quick},
                    }
                    it.settings["models"] = models
                    async with it.serving() as (person, _):
                        threads = {name: await person.thread(name) for name in models}
                        await asyncio.gather(*(person.say(threads[name], "hi", model=name) for name in models))
        told = {name: of(it.logs[thread], RunEnded)[0] for name, thread in threads.items()}
        assert {end.cause for end in told.values()} == {"connect"}
        assert "none within 0.5 s" in told["full"].detail
        for name, end in told.items():
            assert models[name]["base_url"].split("//")[1] in end.detail, end

    run(main)


class _full:
    """A listener whose queue is full, so that nobody gets a connection."""

    def __enter__(self) -> _full:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port = self._listener.getsockname()[1]
        self._waiting = [socket.socket() for _ in range(4)]
        for each in self._waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", self.port))
        return self

    def __exit__(self, *_: Any) -> None:
        for each in (*self._waiting, self._listener):
            each.close()


class _resetting:
    """A listener that breaks every connection as soon as something comes."""

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    async def __aexit__(self, *_: Any) -> None:
        self._server.close()
