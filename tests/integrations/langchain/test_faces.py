"""A recorded LangChain agent, seen from outside: over the server's stream, and in `stepwell show`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from stepwell.integrations.langchain import StepwellRecorder
from tests.cli.running import Cli
from tests.integrations.langchain.scripted import agent, asks, given, user
from tests.support.server import serving


def test_a_recorded_run_is_followed_over_http_and_shown_by_the_command(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            recorder, goes_on = StepwellRecorder(server.service, "local"), asyncio.Event()

            @tool
            async def held(name: str) -> str:
                """Wait for the reader."""
                await goes_on.wait()
                return f"hello {name}"

            script = [asks("I call it.", ("held", {"name": "you"})), AIMessage("all done")]
            task = asyncio.create_task(agent(script, held).ainvoke(user("go"), given(recorder)))
            while not recorder.run:
                await asyncio.sleep(0)
            stream = await server.follow(recorder.thread, run=recorder.run)
            first = await stream.until("tool_started")
            goes_on.set()
            frames = [*first, *(frame for frame in await stream.rest() if not frame.comment)]
            await task
            text = [frame.body["event"]["text"] for frame in frames if frame.type == "text_delta"]
            assert "".join(text) == "I call it.all done"
            assert frames[-1].type == "run_ended"
            lines = await Cli(tmp_path).shown(recorder.thread)
            assert lines[0].startswith("run started:")
            assert lines[1] == "user: go"
            assert "tool result (ok, call_1): hello you" in lines
            assert lines[-1] == "run ended: answer"

    asyncio.run(main())
