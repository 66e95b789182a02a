"""Tools whose effects are counted outside: each leaves a line in a ledger that outlives its process.

The variable `FAULTS_LEDGER` names the ledger. `FAULTS_DIE`, such as `after put c`, kills the process with SIGKILL
before or after the effect of one call.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import msgspec

from stepwell.questions import Inquiry
from stepwell.tools.base import ToolContext
from stepwell.tools.mark import tool


class Effect(msgspec.Struct, frozen=True):
    """A line of the ledger.

    Args:
        tool: Who did it.
        what: What was done.
        key: The idempotency key of the call.
    """

    tool: str
    what: str
    key: str


def effects(ledger: Path) -> list[Effect]:
    """Return what was done, in order."""
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    return [msgspec.json.decode(line, type=Effect) for line in lines]


def enter(name: str, what: str, context: ToolContext) -> str:
    """Do something outside, and die around it if that was ordered."""
    _die("before", name, what)
    file = os.open(os.environ["FAULTS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, msgspec.json.encode(Effect(name, what, context.key)) + b"\n")
    os.fsync(file)
    os.close(file)
    _die("after", name, what)
    return f"{name} {what} done"


def _die(when: str, name: str, what: str) -> None:
    if os.environ.get("FAULTS_DIE") == f"{when} {name} {what}":
        os.kill(os.getpid(), signal.SIGKILL)


@tool(effect="write")
async def note(what: str, context: ToolContext) -> str:
    """Note something down; twice is harm."""
    return enter("note", what, context)


@tool(effect="write")
async def send(what: str, context: ToolContext) -> str:
    """Send something to somebody; twice is harm."""
    return enter("send", what, context)


@tool(effect="idempotent")
async def paint(what: str, context: ToolContext) -> str:
    """Paint something in the colour that somebody says."""
    assert context.ask is not None
    said = await context.ask(Inquiry(kind="elicitation", text="Which colour?"))
    return enter("paint", f"{what} {said.text if said is not None else 'white'}", context)


@tool(effect="idempotent")
async def put(what: str, context: ToolContext) -> str:
    """Put something in its place."""
    return enter("put", what, context)


@tool(effect="pure")
async def look(what: str, context: ToolContext) -> str:
    """Look something up."""
    return enter("look", what, context)


@tool(effect="write", timeout=300.0)
def block(what: str, context: ToolContext) -> str:
    """Note something down and block a thread until somebody writes to the pipe of this name."""
    enter("block", what, context)
    gate = Path(os.environ["FAULTS_LEDGER"]).with_name(what)
    return f"block {what} {gate.read_text()}"


@tool(effect="write", timeout=300.0)
async def hang(what: str, context: ToolContext) -> str:
    """Note something down and wait for ever."""
    enter("hang", what, context)
    await asyncio.Event().wait()
    return "never"


@tool(effect="pure")
async def fail(what: str) -> str:
    """Fail."""
    raise ValueError(f"no {what} here")


@tool(effect="pure")
async def stop_itself(what: str) -> str:
    """Cancel itself."""
    raise asyncio.CancelledError(what)


@tool(effect="pure")
async def repeat(text: str, times: int = 1) -> str:
    """Return a text several times."""
    return text * times


@tool(effect="pure")
async def strange(name: str) -> str:
    """Return a text that no database likes."""
    return json.loads(Path(os.environ["FAULTS_LEDGER"]).with_name(name).read_text())


@tool(effect="write")
async def take(value: Any, context: ToolContext) -> str:
    """Take whatever it is."""
    return enter("take", repr(value)[:100], context)
