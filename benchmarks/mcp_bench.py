"""A call of a tool of an MCP server over pipes: through Stepwell, and with the SDK's own client, in one process.

    python mcp_bench.py [CALLS]

Both speak to a process of the same server, one call after the other, in turns of `ROUND` calls; prints microseconds a
call as JSON: medians of both, and the median over the turns of what Stepwell adds.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from mcp.client.session import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client

from stepwell.messages import ToolCall
from stepwell.tools.base import Toolbox, ToolContext
from stepwell.tools.mcp.base import ServerSpec
from stepwell.tools.mcp.pins import Pins
from stepwell.tools.mcp.server import McpServer
from stepwell.tools.mcp.tool import McpTool

ROUND = 100
SERVER = """
from mcp.server.mcpserver import MCPServer
server = MCPServer("bench", log_level="ERROR")
@server.tool()
def say(text: str) -> str:
    return text
server.run("stdio")
"""
COMMAND = (sys.executable, "-E", "-c", SERVER)


async def timed(call, count):
    began = time.perf_counter()
    for _ in range(count):
        await call()
    return (time.perf_counter() - began) / count * 1e6


async def main(calls):
    with tempfile.TemporaryDirectory() as folder:
        pins = Pins(Path(folder))
        spec = ServerSpec(name="s", command=COMMAND, environment={"PATH": "/usr/bin:/bin"}, folder=Path(folder))
        server = McpServer(spec, lambda offer: pins.see("s", offer))
        assert await server.start() == ""

        async def at_server(tool, arguments, context):
            return await server.call(tool.name, arguments, context, tool.effect, tool.check)

        box = Toolbox([McpTool(spec, "say", pins.tools("s")["say"], at_server, pins)])
        context = ToolContext(thread="t", run=1, call="c", key="t.1", progress=lambda _: None)
        sent = ToolCall("c", "s__say", '{"text": "hello"}')

        async def ours():
            result = await box.run(box.prepare(sent), context)
            assert result.content == "hello", result

        parameters = StdioServerParameters(command=COMMAND[0], args=list(COMMAND[1:]))
        async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
            await session.initialize()

            async def theirs():
                result = await session.call_tool("say", {"text": "hello"})
                assert result.content[0].text == "hello"

            await timed(ours, ROUND)
            await timed(theirs, ROUND)
            turns = [(await timed(ours, ROUND), await timed(theirs, ROUND)) for _ in range(calls // ROUND)]
        await server.close()
    ours_us, theirs_us = (statistics.median(turn[side] for turn in turns) for side in (0, 1))
    added = statistics.median(one - other for one, other in turns)
    print(json.dumps({"stepwell_us": round(ours_us), "sdk_us": round(theirs_us), "added_us": round(added)}))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 2000))
