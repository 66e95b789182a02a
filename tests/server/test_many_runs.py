"""Two hundred runs at once on real sockets: each stream is complete and knows nothing of the others."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.support.endpoint import Endpoint, Piece, Reply, Request, chunk, ending, text, tool_calls
from tests.support.server import Frame, Server, Stream, scripted, serving

RUNS = 200
STAGES = 4
CANARY = re.compile("«(\\d+)»")


class Slowly:
    """A model that says a piece of its answer only when every client has read the piece before."""

    def __init__(self) -> None:
        self.stages = [asyncio.Event() for _ in range(STAGES)]
        self.everybody = asyncio.Barrier(RUNS)

    def __call__(self, request: Request) -> Reply:
        said = request.body["messages"][-1]["content"]
        whole = str(request.body["messages"])
        canary = CANARY.findall(whole)[0]
        assert set(CANARY.findall(whole)) == {canary}, "a request holds the text of another run"
        native = "tools" in request.body
        if native and request.body["messages"][-1]["role"] == "user":
            return tool_calls((f"call-{canary}", "calculate", [f'{{"query": "{canary}+0"}}']), said=f"«{canary}» ")
        if not native and "Observation:" not in said.rpartition("Question:")[2]:
            return text(f"«{canary}» Thought", f"\nAction: calculate\nAction Input: {canary}+0")
        pieces: list[Piece] = [] if native else [chunk(content="Final Answer: ")]
        for number, stage in enumerate(self.stages):
            pieces += [chunk(content=f"«{canary}»stage-{number};"), stage]
        return Reply([*pieces, chunk(content=f"«{canary}»over"), *ending()])

    async def read(self, stream: Stream) -> list[Frame]:
        """Read one stream in step with all others."""
        frames: list[Frame] = []
        for number, stage in enumerate(self.stages):
            while not frames or f"stage-{number};" not in frames[-1].data:
                frame = await stream.frame()
                assert frame is not None, f"the stream ended before stage {number}"
                frames.append(frame)
            if await self.everybody.wait() == 0:
                stage.set()
        return frames + await stream.rest()


def whole_answer(canary: int) -> str:
    return "".join(f"«{canary}»stage-{number};" for number in range(STAGES)) + f"«{canary}»over"


async def begin(server: Server, number: int) -> Stream:
    query = f"Question «{number}»"
    if number % 2:
        return await server.agent_chat(query)
    return await server.stream("POST", "/api/messages", {"content": query})


@pytest.mark.limit(60)
def test_of_two_hundred_runs_at_once_every_stream_is_complete_and_shows_its_own_text_only(tmp_path: Path) -> None:
    async def main() -> None:
        slowly = Slowly()
        async with Endpoint(slowly) as endpoint, serving(tmp_path, models=scripted(endpoint)) as server:
            streams = await asyncio.gather(*(begin(server, number) for number in range(RUNS)))
            shown = await asyncio.gather(*(slowly.read(stream) for stream in streams))
            assert len(endpoint.requests) == 2 * RUNS
            for number, (stream, frames) in enumerate(zip(streams, shown, strict=True)):
                data = "".join(frame.data for frame in frames)
                assert set(CANARY.findall(data)) == {str(number)}
                if number % 2:
                    assert frames[-1].body == {"final_answer": whole_answer(number)}
                    answer = "".join(frame.body.get("answer", "") for frame in frames)
                    assert answer == f"«{number}» Thought" + "Final Answer: " + whole_answer(number)
                else:
                    stored = [frame.body for frame in frames if "offset" not in frame.body]
                    assert [event["seq"] for event in stored] == list(range(1, len(stored) + 1))
                    told = [frame.body["event"]["text"] for frame in frames if frame.type == "text_delta"]
                    assert "".join(told) == f"«{number}» " + whole_answer(number)
                    thread = stream.headers["x-stepwell-thread"]
                    assert stored == (await server.call("GET", f"/api/threads/{thread}/events"))[1]["events"]

    asyncio.run(main())
