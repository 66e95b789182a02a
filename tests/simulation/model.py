"""A model whose replies follow from the request, and whose luck follows from the seed; and the tools that it calls."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Mapping
from random import Random
from typing import Any

from stepwell.engines.choices import JUDGMENTS, ROUTES
from stepwell.errors import ToolError
from stepwell.messages import ToolSpec, Usage
from stepwell.models.base import CallPart, Delta, Failure, ModelProfile, ModelRequest
from stepwell.questions import Inquiry
from stepwell.tools.base import FunctionTool, Tool, ToolContext
from stepwell.tools.builtin.ask_human import ask_human_tool
from stepwell.tools.builtin.delegate import DelegateTool
from stepwell.tools.mark import Options
from tests.simulation.loop import PROCESS
from tests.simulation.world import Effect, World

WINDOW = 100_000
LONGEST_REPLY = 2_000
"""Tokens of a reply."""
NUMBERS = 6
"""Tools are called with numbers below."""
CLIENT_TOOLS = tuple(
    ToolSpec(name, f"Has the client {name} something.", {"type": "object", "properties": {"n": {"type": "integer"}}})
    for name in ("measure", "scan")
)
"""What clients of runs carry out."""
TOLD = ", as people said: "
SIZES: dict[str, Any] = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}
"""The form of what some tools ask."""
FAVOURITES = (*(tool.name for tool in CLIENT_TOOLS), "wonder", "order")
"""What the model likes to call, where it is offered."""
OWN = (
    *("subtask_submit", "generate_plan", "subtask_operations", "answer_directly", "conclusion"),
    *(tool.name for tool in (*ROUTES, *JUDGMENTS)),
)
"""Calls that are the business of engines."""
FAILURES = (
    Failure("rate_limit", "too many requests", 429),
    Failure("server", "the endpoint failed", 500),
    Failure("connect", "no connection"),
    Failure("stall", "no byte for too long"),
    Failure("broken", "the stream was cut"),
    Failure("auth", "no such key", 401),
)


class SimModel:
    """Answers by the request alone; how long that takes and what goes wrong is chance.

    Args:
        world: Where it is.
        trouble: How probable a failure is.
    """

    profile = ModelProfile(window=WINDOW, max_output=LONGEST_REPLY)
    name = "model"

    def __init__(self, world: World, trouble: float) -> None:
        self.world, self.trouble = world, trouble
        self._luck = world.chance(self.name)
        self.pace = self._luck.choice((0.001, 0.05, 0.5, 2.0))
        self.busy = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Delta]:
        calm, luck = self.world.calm, self._luck
        trouble = 0.0 if calm else self.trouble
        deltas = self.replies(Random(f"{self.world.seed}/{request.digest()}"), request, calm=calm)
        await self._wait()
        while luck.random() < trouble:
            seconds = luck.choice((0.0, 0.5, 7.0))
            yield Delta(failure=Failure("rate_limit", "later", 429, seconds))
            await asyncio.sleep(seconds)
        fails_at = luck.randint(0, len(deltas)) if luck.random() < trouble else -1
        for number, delta in enumerate(deltas):
            if number == fails_at:
                usage = Usage(1, 1) if luck.random() < 0.5 else None
                yield Delta(failure=luck.choice(FAILURES), usage=usage, stop="error")
                return
            yield delta
            await self._wait()

    def replies(self, chance: Random, request: ModelRequest, *, calm: bool) -> list[Delta]:
        """Return what it says."""
        return replies(chance, request, calm=calm)

    async def _wait(self) -> None:
        if not self.world.calm:
            await asyncio.sleep(self._luck.expovariate(1 / self.pace))

    async def close(self) -> None:
        pass


class SimSummarizer(SimModel):
    """Makes summaries; some do not have the form that was asked for."""

    name = "summarizer"

    def replies(self, chance: Random, request: ModelRequest, *, calm: bool) -> list[Delta]:
        """Return a summary of whichever kind."""
        text = json.dumps(
            {
                "intentions": f"to know {chance.randrange(100)}",
                "critical_actions": [chance.randrange(12) for _ in range(chance.randrange(3))],
                "summary": f"something was done {chance.randrange(100)}",
                "self_examination": chance.choice((None, "do it otherwise")),
            }
        )
        text = chance.choice((text, text, text, "no summary", ""))
        usage = Usage(len(request.all), 7) if chance.random() < 0.7 else None
        return [Delta(text=text[:20]), Delta(text=text[20:]), Delta(usage=usage, stop="stop")]


def replies(chance: Random, request: ModelRequest, *, calm: bool) -> list[Delta]:
    """Return what the model says."""
    offered = {each.name: each.parameters for each in request.tools}
    messages = request.all
    since = max((at for at, each in enumerate(messages) if each.role == "user"), default=0)
    done = sum(each.role == "tool" for each in messages[since:])
    tired = calm or chance.random() < 0.2 + 0.15 * done or done > 8
    calls = _calls(chance, offered, request.settings.tool_choice, tired=tired, calm=calm)
    text = _text(chance, request.settings.response_format)
    odd = 0.0 if calm else 0.04
    deltas: list[Delta] = []
    if chance.random() < 0.2:
        deltas.append(Delta(thinking="Let me think."))
    if not calls or chance.random() < 0.3:
        cut = chance.randint(0, len(text))
        deltas += [Delta(text=part) for part in (text[:cut], text[cut:]) if part]
    if chance.random() < odd and not calls:
        deltas = []
    for index, (name, arguments) in enumerate(calls):
        cut = chance.randint(0, len(arguments))
        id = chance.choice(("", f"c{chance.randint(0, 9)}"))
        deltas.append(Delta(calls=(CallPart(index, id, name, arguments[:cut]),)))
        deltas.append(Delta(calls=(CallPart(index, arguments=arguments[cut:]),)))
    stop = "length" if chance.random() < odd else "tool_calls" if calls else "stop"
    usage = Usage(len(messages), chance.randint(1, 50)) if chance.random() < 0.7 else None
    return [*deltas, Delta(usage=usage, stop=stop)]


def _text(chance: Random, form: dict[str, Any] | None) -> str:
    if form is not None:
        return json.dumps(instance(chance, form))
    return f"I have thought of {chance.randint(0, 10**6)}."


def _calls(
    chance: Random, offered: Mapping[str, dict[str, Any]], choice: str, *, tired: bool, calm: bool
) -> list[tuple[str, str]]:
    own = [name for name in offered if name in OWN]
    if choice in offered:
        names = [choice]
    elif own and (tired or choice == "required" or len(own) == len(offered)):
        names = [chance.choice(own)]
    elif tired or not offered:
        return []
    else:
        most = chance.choice((1, 1, 2, 3))
        known = [*offered, *3 * [name for name in offered if name in FAVOURITES]]
        names = [chance.choice([*known, "nothing"] if chance.random() < 0.05 else known) for _ in range(most)]
    return [(name, _arguments(chance, name, offered.get(name, {}), calm=calm)) for name in names]


def _arguments(chance: Random, name: str, schema: dict[str, Any], *, calm: bool) -> str:
    if not calm and chance.random() < 0.04:
        return chance.choice(("", "{", "[1]", '{"n": "many"}', "null", '{"n": 1, "m": 2}'))
    if name == "ask_human":
        asked: dict[str, Any] = {"question": "What now?"}
        if chance.random() < 0.4:
            asked["choices"] = ["left", "right"]
        if chance.random() < 0.4:
            asked |= {"timeout_seconds": chance.choice((0.5, 5, 60))} | (
                {"default": "left"} if chance.random() < 0.5 else {}
            )
        return json.dumps(asked)
    return json.dumps(instance(chance, schema))


def instance(chance: Random, schema: Mapping[str, Any], name: str = "") -> Any:
    """Return something that fits a schema, more or less."""
    if "enum" in schema:
        return chance.choice(schema["enum"])
    kind = schema.get("type")
    kind = next((each for each in kind if each != "null"), "null") if isinstance(kind, list) else kind
    match kind:
        case "object":
            required = schema.get("required", ())
            fields: Mapping[str, Any] = schema.get("properties", {})
            chosen = [key for key in fields if key in required or chance.random() < 0.6]
            return {key: instance(chance, fields[key], key) for key in chosen}
        case "array":
            most = 1 if name == "needs" else 3
            return [instance(chance, schema.get("items", {}), name) for _ in range(chance.randint(0, most))]
        case "integer" | "number":
            return chance.randrange(NUMBERS)
        case "boolean":
            return chance.random() < 0.5
        case _:
            return _word(chance, name)


def _word(chance: Random, name: str) -> str:
    if name == "target_subtask_id":
        return chance.choice(("1", "1.1", "1.2", "1.3", "1.2.1", "1.02", "9", ""))
    if name in ("name", "needs"):
        return f"part {chance.randrange(4)}"
    return f"word {chance.randrange(1000)}"


class Outside:
    """What tools do; what has an effect stands in the ledger.

    Args:
        world: Where it is.
    """

    def __init__(self, world: World) -> None:
        self.world, self._luck = world, world.chance("tools")
        self._pace = self._luck.choice((0.001, 0.1, 1.0, 4.0))
        self._more = ", and there is more to be said of it" * 10 if world.has_summaries else ""

    def tools(self) -> list[Tool]:
        """Return the tools."""
        asking = [
            FunctionTool(self.wonder, Options(effect="idempotent", timeout=20)),
            FunctionTool(self.order, Options(timeout=math.inf)),
        ]
        return [
            FunctionTool(self.look, Options(effect="pure", timeout=5)),
            FunctionTool(self.fetch, Options(effect="pure", timeout=5, untrusted=True)),
            FunctionTool(self.put, Options(effect="idempotent", timeout=10)),
            FunctionTool(self.send, Options(timeout=5)),
            FunctionTool(self.save, Options(timeout=5, place="workspace")),
            FunctionTool(self.book, Options(timeout=5, probe=self.booked)),
            ask_human_tool(),
            DelegateTool({"scout": "Looks around.", "clerk": "Writes."}),
            *(asking if self.world.has_askers else ()),
        ]

    async def _work(self) -> None:
        if self.world.calm:
            return
        await asyncio.sleep(self._luck.expovariate(1 / self._pace))
        if self._luck.random() < 0.05:
            raise ToolError("it did not work")
        if self._luck.random() < 0.03:
            raise ValueError("a fault of the tool")

    async def _do(self, name: str, n: int, context: ToolContext) -> str:
        await self._work()
        number = getattr(PROCESS.get(), "number", 0)
        self.world.effects.append(Effect(name, context.key, n, number))
        await self._work()
        return f"{name} {n} is done"

    async def look(self, n: int, context: ToolContext) -> str:
        """Look something up."""
        context.progress(f"looking for {n}")
        await self._work()
        return f"there is {n}{self._more}"

    async def fetch(self, n: int) -> str:
        """Fetch what a stranger wrote."""
        await self._work()
        return f"a stranger says {n}{self._more}"

    async def put(self, n: int, context: ToolContext) -> str:
        """Put something in its place."""
        return await self._do("put", n, context)

    async def send(self, n: int, context: ToolContext) -> str:
        """Send something off."""
        return await self._do("send", n, context)

    async def save(self, n: int, context: ToolContext) -> str:
        """Write a file."""
        return await self._do("save", n, context)

    async def book(self, n: int, context: ToolContext) -> str:
        """Book something."""
        return await self._do("book", n, context)

    async def wonder(self, n: int, context: ToolContext) -> str:
        """Put something where people say."""
        return await self._ask_and_do("wonder", n, context)

    async def order(self, n: int, context: ToolContext) -> str:
        """Order something, as people say."""
        return await self._ask_and_do("order", n, context)

    async def _ask_and_do(self, name: str, n: int, context: ToolContext) -> str:
        luck, told = self._luck, list[object]()
        asks_first = luck.random() < 0.7
        done = "" if asks_first else await self._do(name, n, context)
        for _ in range(luck.choice((1, 1, 2))):
            inquiry = Inquiry(
                kind="elicitation",
                text=f"What of {n}?",
                choices=luck.choice(((), ("big", "small"))),
                seconds=luck.choice((None, None, 1.0, 20.0)),
            )
            if luck.random() < 0.3:
                inquiry = Inquiry(kind="elicitation", text=f"How much of {n}?", form=SIZES)
            assert context.ask is not None
            answer = await context.ask(inquiry)
            if answer is not None:
                if not self.world.disk.holds(context.thread, answer):
                    self.world.errors.append(f"{name} of {context.key} was told {answer} before it was stored")
                told.append([answer.decision, answer.text, answer.value])
            await self._work()
        done = done or await self._do(name, n, context)
        return f"{done}{TOLD}{json.dumps(told)}"

    async def booked(self, key: str, arguments: dict[str, Any], context: ToolContext) -> str | None:
        """Tell whether something was booked."""
        await self._work()
        done = any(each.key == key for each in self.world.effects)
        return f"book {arguments['n']} was done" if done else None
