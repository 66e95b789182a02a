"""One run through many faces: whoever speaks to it, the log is one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.cli.running import Cli
from tests.server.agui.client_of_agui import Agui, of
from tests.support.endpoint import Endpoint, text, tool_calls
from tests.support.openai_client import official
from tests.support.server import scripted, serving

ASKS: dict[str, Any] = {"rules": [{"tool": "calculate", "decision": "ask"}]}


def test_a_run_begun_through_responses_is_shown_approved_over_agui_and_finished_over_the_native_stream(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        calls = tool_calls(("c1", "calculate", [json.dumps({"query": "6*7"})]))
        async with (
            Endpoint([calls, text("It is ", "42.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), approvals=ASKS) as server,
            official(server) as client,
        ):
            begun = await client.responses.create(model="stepwell", input="6*7?", background=True)
            thread, run = begun.id.split("_")[1:]
            native = await server.follow(thread, "0", int(run))
            await native.until("run_waiting")

            shown = await Cli(tmp_path, STEPWELL_DATA=str(server.config.folder)).run("show", thread)
            assert "asks whether the call c1 may run" in shown.out, shown

            face = Agui(server, thread)
            (waits,) = of(await face.run("r1"), "RUN_FINISHED")
            (interrupt,) = waits["outcome"]["interrupts"]
            resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": True}}]
            assert of(await face.run("r2", resume=resume), "RUN_FINISHED")

            frames = await native.rest()
            said = "".join(each.body["event"]["text"] for each in frames if each.type == "text_delta")
            assert said == "It is 42."
            assert frames[-1].body["event"] == {"type": "run_ended", "reason": "answer"}
            kept = await client.responses.retrieve(begun.id)
            last = await client.responses.retrieve(kept.to_dict()["stepwell"]["next"])  # type: ignore[index]
            assert last.output_text == "It is 42."

    asyncio.run(main())
