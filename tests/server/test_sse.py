"""Streams that are cut and taken up again, read by several, read slowly, or read by nobody."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from stepwell.server import app
from tests.support.endpoint import Endpoint, Piece, Reply, Request, call_chunk, chunk, ending, text, tool_calls
from tests.support.server import Frame, Server, Stream, scripted, serving

HELD = 28
"""Characters of the answer that come before the gate."""
WORDS = "The lamp 灯 over the old 🏮 door is lit at six, and nobody knows who lights it. "


def stored(frames: list[Frame]) -> list[dict[str, Any]]:
    return [frame.body for frame in frames if "offset" not in frame.body]


def told(frames: list[Frame]) -> list[list[Any]]:
    """Return the stream however its text was cut: stored events as they are, transient text character by character."""
    out: list[list[Any]] = []
    for frame in frames:
        body, event = frame.body, frame.body["event"]
        if "offset" not in body:
            out.append([body["seq"], body["time"], str(event)])
            continue
        what = (event["type"], event.get("message"), event.get("index"), event.get("call"))
        letters = event.get("name", "") + event.get("text", "")
        first = body["offset"] - len(letters)
        out += [[body["seq"], first + at + 1, *what, letter] for at, letter in enumerate(letters)]
    return out


def long_run(gate: asyncio.Event | None = None) -> list[Reply]:
    """Return the replies of a run with thinking, text, two calls at once and an answer in many pieces."""
    held: list[Piece] = [gate] if gate else []
    thinking: list[Piece] = [chunk(reasoning_content=word + " ") for word in "I had better count first".split()]
    calls: list[Piece] = [
        call_chunk(0, "a", "calculate", ""),
        *(call_chunk(0, arguments=piece) for piece in ('{"qu', 'ery": "', "12*", '12"}')),
        call_chunk(1, "b", "now", ""),
        call_chunk(1, arguments="{}"),
    ]
    answer: list[Piece] = [chunk(content=WORDS[at : at + 7]) for at in range(0, len(WORDS), 7)]
    return [
        Reply([*thinking, chunk(content="One moment."), *calls, *ending("tool_calls")]),
        Reply([*answer[: HELD // 7], *held, *answer[HELD // 7 :], *ending()]),
    ]


async def take(stream: Stream, letters: int) -> tuple[list[Frame], str]:
    """Read one frame and drop the connection; of text keep so many characters up to a multiple.

    Return what was kept and the id to go on from; the id is empty at the end of the run.
    """
    frame = await stream.frame()
    assert frame is not None
    stream.cut(reset=True)
    body = frame.body
    if letters and body["event"]["type"] == "text_delta":
        first = body["offset"] - len(body["event"]["text"])
        kept = min(len(body["event"]["text"]), letters - first % letters)
        event = {**body["event"], "text": body["event"]["text"][:kept]}
        part = {**body, "offset": first + kept, "event": event}
        return [_Changed(frame.id, part)], f"{body['seq']}.{first + kept}"
    return [frame], "" if body["event"]["type"] == "run_ended" else frame.id


class _Changed(Frame):
    """A frame of which a client has read only a part."""

    def __init__(self, id: str, body: dict[str, Any]) -> None:
        super().__init__(id)
        object.__setattr__(self, "_body", body)

    @property
    def body(self) -> dict[str, Any]:
        return getattr(self, "_body")  # noqa: B009 - frozen


async def cut_everywhere(
    server: Server, thread: str, *, letters: int, header: bool, gate: asyncio.Event | None = None
) -> list[Frame]:
    """Read run 1 with a new connection for every frame; open the gate once everything before it is read."""
    frames: list[Frame] = []
    cursor = "0"
    while cursor:
        more, cursor = await take(await server.follow(thread, cursor, 1, header=header), letters)
        frames += more
        if gate is not None and text_of(frames).endswith(WORDS[:HELD]):
            gate.set()
    return frames


def text_of(frames: list[Frame]) -> str:
    return "".join(each[-1] for each in told(frames) if each[2] == "text_delta")


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("letters", [0, 10, 1])
def test_a_client_cut_at_every_event_and_inside_messages_sees_the_uninterrupted_stream(
    tmp_path: Path, letters: int, header: bool
) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with Endpoint(long_run(gate)) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            whole = await server.stream("POST", f"/api/threads/{thread}/messages", {"content": "x"})
            # Somebody who stays keeps the text of messages in memory until all have read it.
            stays = await server.follow(thread)
            interrupted = await cut_everywhere(server, thread, letters=letters, header=header, gate=gate)
            uninterrupted = await whole.rest()
            assert told(interrupted) == told(uninterrupted) == told(await stays.until("run_ended"))
            assert text_of(interrupted) == "One moment." + WORDS
            if letters:
                assert len([frame for frame in interrupted if frame.type == "text_delta"]) >= len(WORDS) / letters
            # After the run the stored events are the whole of it.
            later = await cut_everywhere(server, thread, letters=letters, header=header)
            assert stored(later) == stored(uninterrupted)

    asyncio.run(main())


def test_a_client_that_goes_on_from_any_character_gets_exactly_the_rest(tmp_path: Path) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with Endpoint(long_run(gate)) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            whole = await server.stream("POST", f"/api/threads/{thread}/messages", {"content": "x"})
            frames: list[Frame] = []
            while not frames or "old" not in frames[-1].data:
                frame = await whole.frame()
                assert frame is not None
                frames.append(frame)
            begun = told(frames)
            cursors = [f"{each[0]}.{each[1]}" if len(each) > 3 else str(each[0]) for each in begun]
            clients = [await server.follow(thread, cursor, 1, header=True) for cursor in cursors]
            gate.set()
            frames += await whole.rest()
            everything = told(frames)
            for number, client in enumerate(clients):
                assert told(await client.rest()) == everything[number + 1 :], cursors[number]
            # Now nothing is running: an unfinished message is replaced by the whole one.
            for number, cursor in enumerate(cursors):
                late = await (await server.follow(thread, cursor, 1, header=True)).rest()
                rest = [each for each in everything[number + 1 :] if len(each) == 3]
                assert [each for each in told(late) if len(each) == 3] == rest, cursor

    asyncio.run(main())


def test_a_thread_that_was_let_go_is_followed_from_its_store(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint(long_run()) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            frames = stored(await server.say(thread, "x"))
        async with serving(tmp_path) as server:
            for after in range(len(frames) + 1):
                late = await (await server.follow(thread, str(after), 1)).rest()
                assert [frame.body for frame in late] == frames[after:]
                if after < len(frames):
                    late = await (await server.follow(thread, f"{after}.7", 1)).rest()
                    assert [frame.body for frame in late] == frames[after:]

    asyncio.run(main())


def test_two_clients_at_once_see_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with Endpoint(long_run(gate)) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            first = await server.stream("POST", f"/api/threads/{thread}/messages", {"content": "x"})
            second = await server.follow(thread, run=1)
            gate.set()
            one, other = await asyncio.gather(first.rest(), second.rest())
            assert told(one) == told(other)

    asyncio.run(main())


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("face", ["native", "chatchat", "chatchat, whole"])
def test_a_dropped_connection_never_stops_a_run(tmp_path: Path, face: str, reset: bool) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        replies = [
            Reply([chunk(content="Thought: so\nFinal Answer: begun"), gate, chunk(content=" and ended"), *ending()])
        ]
        async with Endpoint(replies) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            if face == "native":
                thread = await server.thread()
                stream = await server.stream("POST", f"/api/threads/{thread}/messages", {"content": "x"})
            else:
                stream = await server.agent_chat("x", stream=face == "chatchat")
                thread = stream.headers["x-stepwell-thread"]
            run = int(stream.headers["x-stepwell-run"])
            await endpoint.request(0)
            stream.cut(reset=reset)
            gate.set()
            events = await server.ended(thread, run)
            assert events[-1].body["event"]["reason"] == "answer"
            assert "begun and ended" in events[-3].data

    asyncio.run(main())


def test_a_run_that_nobody_ever_looked_at_is_finished_and_saved(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint(long_run()) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            await server.start(thread, "x")
            async with asyncio.timeout(10):
                while (await server.call("GET", f"/api/threads/{thread}"))[1]["run"]:
                    pass
            _, page = await server.call("GET", f"/api/threads/{thread}/events")
            assert page["events"][-1]["event"] == {"type": "run_ended", "reason": "answer"}
            assert page["events"][-3]["event"]["message"]["content"] == WORDS

    asyncio.run(main())


def test_a_quiet_stream_carries_comments_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "HEARTBEAT", 0.01)

    async def main() -> None:
        gate = asyncio.Event()
        async with (
            Endpoint([Reply([chunk(content="a"), gate, chunk(content="b"), *ending()])]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
        ):
            thread = await server.thread()
            stream = await server.stream("POST", f"/api/threads/{thread}/messages", {"content": "x"})
            await stream.until("text_delta")
            for _ in range(3):
                frame = await stream.frame()
                assert frame == Frame(comment="quiet")
            gate.set()
            rest = [frame for frame in await stream.rest() if not frame.comment]
            assert [frame.type for frame in rest] == ["text_delta", "message_ended", "step_ended", "run_ended"]

    asyncio.run(main())


BIG = 400
PIECE = "x" * 5000
"""Together 2 MB, more than the buffers of both sockets."""


def test_a_reader_that_stalls_holds_up_nobody_and_gets_everything_when_it_reads_on(tmp_path: Path) -> None:
    def flood(request: Request) -> Reply:
        return Reply([*(chunk(content=PIECE) for _ in range(BIG)), *ending()])

    async def main() -> None:
        async with Endpoint(flood) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            thread = await server.thread()
            with socket.socket() as stalled:
                stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                stalled.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(stalled, ("127.0.0.1", server.port))
                request = f"GET /api/threads/{thread}/events?run=1 HTTP/1.1\r\nhost: 127.0.0.1\r\n"
                run = await server.start(thread, "x")
                await loop.sock_sendall(stalled, f"{request}accept: text/event-stream\r\n\r\n".encode())
                head = await loop.sock_recv(stalled, 16)
                assert head.startswith(b"HTTP/1.1 200")
                events = await server.ended(thread, run)
                assert len(events[-3].body["event"]["message"]["content"]) == BIG * len(PIECE)
                data = bytearray()
                async with asyncio.timeout(20):
                    while not data.endswith(b"0\r\n\r\n"):
                        data += await loop.sock_recv(stalled, 1 << 16)
                assert b'"run_ended"' in data[-400:]
                # What it missed came joined, not as four hundred frames that waited for it.
                assert data.count(b'"text_delta"') < BIG * 3 / 4

    asyncio.run(main())


@pytest.mark.parametrize("question", ["first", "second"])
def test_a_run_in_one_thread_is_not_seen_in_another(tmp_path: Path, question: str) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        def answer(request: Request) -> Reply:
            said = request.body["messages"][-1]["content"]
            return Reply([chunk(content=f"about {said}"), gate, *ending()])

        async with Endpoint(answer) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            threads = [await server.thread() for _ in range(2)]
            streams = [
                await server.stream("POST", f"/api/threads/{thread}/messages", {"content": content})
                for thread, content in zip(threads, ("first", "second"), strict=True)
            ]
            gate.set()
            for stream, mine, other in zip(streams, ("first", "second"), ("second", "first"), strict=True):
                data = "".join(frame.data for frame in await stream.rest())
                assert f"about {mine}" in data
                assert f"about {other}" not in data

    asyncio.run(main())


def test_the_progress_of_a_tool_is_part_of_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "progressing_tools.py"
    module.write_text(
        "from stepwell import tool\n"
        "from stepwell.tools.base import ToolContext\n\n"
        "@tool(effect='pure')\n"
        "async def dig(context: ToolContext) -> str:\n"
        "    context.progress('half \\ud83d')\n"
        "    context.progress(' done')\n"
        "    return 'gold'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    async def main() -> None:
        async with (
            Endpoint([tool_calls(("a", "dig", ["{}"])), text("ok")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), tools={"modules": ["progressing_tools"]}) as server,
        ):
            frames = await server.say(await server.thread(), "x")
            shown = [frame.body["event"] for frame in frames if frame.type == "tool_progress"]
            assert "".join(each["text"] for each in shown) == "half \ufffd done"
            assert {each["call"] for each in shown} == {"a"}

    asyncio.run(main())
