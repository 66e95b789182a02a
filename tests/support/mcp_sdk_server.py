"""An MCP server over the SDK, as a program: over its pipes, or with a port over HTTP.

python mcp_sdk_server.py [PORT]
"""

import asyncio
import base64
import sys

from mcp.server.mcpserver import Context, Image, MCPServer
from pydantic import BaseModel

COMMAND = (sys.executable, "-E", "-P", __file__)
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Size(BaseModel):
    size: int


server = MCPServer("sdk")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def dot() -> Image:
    """Show a dot."""
    return Image(data=base64.b64decode(DOT), format="png")


@server.tool()
async def work(context: Context) -> str:
    """Work for a while."""
    await context.report_progress(1, 2, "half")
    return "done"


@server.tool()
async def hang() -> str:
    """Never end."""
    await asyncio.Event().wait()
    return ""


@server.tool()
async def ask(question: str, context: Context) -> str:
    """Ask the person."""
    answer = await context.elicit(question, Size)
    return f"{answer.action} {answer.data.size if answer.action == 'accept' else '-'}"


@server.tool()
def echo_header(context: Context) -> str:
    """Tell a header of the request."""
    return str((context.headers or {}).get("x-secret"))


@server.resource("note://today", name="today", description="What is on.", mime_type="text/plain")
def today() -> str:
    return "Nothing."


@server.resource("note://dot", name="dot", mime_type="image/png")
def dot_again() -> bytes:
    return base64.b64decode(DOT)


@server.resource("note://days/{day}", name="day")
def of_day(day: str) -> str:
    return f"Nothing on {day}."


@server.prompt(description="Greet somebody.")
def greet(name: str) -> str:
    return f"Say hello to {name}."


if __name__ == "__main__":
    if sys.argv[1:]:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run("stdio")
