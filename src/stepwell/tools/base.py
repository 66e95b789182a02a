"""The port to tools: what a tool is, how a function becomes one, and the box that looks up, checks and runs them.

Whatever goes wrong with a call is a result with a status, never an exception. This module stores nothing
and asks nobody for approval: the engine decides when a prepared call runs.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from types import UnionType
from typing import Any, Protocol, get_args, runtime_checkable

import msgspec

from stepwell.errors import ConfigError, ToolError
from stepwell.events import Answered, Effect, Recorded
from stepwell.messages import ToolCall, ToolSpec, ToolSpecs, clean
from stepwell.questions import Inquiry
from stepwell.tools.arguments import BadArguments, check, preview, read_object, takes
from stepwell.tools.bounds import PIECE, describe, message_of
from stepwell.tools.mark import ATTRIBUTE, Options, Probe
from stepwell.tools.results import Media, ToolResult, bound, check_result, has_media, to_result
from stepwell.tools.schema import read_function
from stepwell.tools.threads import Threads

Complete = Callable[[str], Awaitable[str]]
"""Asks the agent's model one plain question and returns its answer."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_EFFECTS: tuple[str, ...] = get_args(Effect)


class Archive(Protocol):
    """What a tool may read of its thread's past; `log.Log` is one."""

    async def read(self, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Return events with numbers above `after`, in order, at most `limit`."""
        ...

    async def blob(self, prefix: str) -> bytes | None:
        """Return a big result by the beginning of its hash, or None."""
        ...


Ask = Callable[[Inquiry], Awaitable[Answered | None]]
"""Asks a person and waits: what was decided, or None where nobody can be asked."""


class ToolContext(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a running tool may know of its call.

    Args:
        thread: Id of the thread.
        run: Number of the run in the thread.
        call: Id of the call.
        key: The same for every attempt at this call: an idempotency key for services outside.
        progress: Tells people how far the call is.
        complete: Asks the agent's model; None where there is none.
        ask: Asks a person while the call runs, and waits; brings None where nobody can be asked.
        archive: The thread's events and big results; None where there are none to read.
        room: Characters of this call's result that the model gets; 0 where only the tool's own limit counts.
    """

    thread: str
    run: int
    call: str
    key: str
    progress: Callable[[str], None]
    complete: Complete | None = None
    ask: Ask | None = None
    archive: Archive | None = None
    room: int = 0


@runtime_checkable
class Tool(Protocol):
    """Something that an agent can call."""

    @property
    def spec(self) -> ToolSpec:
        """What the model is told about it."""
        ...

    @property
    def effect(self) -> Effect:
        """What running it twice does."""
        ...

    @property
    def timeout(self) -> float:
        """Seconds until a call is given up; `math.inf` for never."""
        ...

    @property
    def output_limit(self) -> int:
        """Characters of its result that the model gets."""
        ...

    async def call(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        """Run once, with arguments as `Toolbox.prepare` made them. May raise anything."""
        ...


class FunctionTool:
    """A Python function as a tool.

    Args:
        function: Sync functions run in a thread, async ones on the loop.
        options: As given to the decorator `tool`.

    Raises:
        ConfigError: The function or its options cannot be a tool.
    """

    __slots__ = (
        "_function",
        "_parameters",
        "_threads",
        "effect",
        "output_limit",
        "place",
        "probe",
        "spec",
        "timeout",
        "untrusted",
    )

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        name = options.name or getattr(function, "__name__", "")
        where = f"Tool `{name or repr(function)}`"
        if not (_is(name, str) and _NAME.fullmatch(name)):
            raise ConfigError(f"{where}: a name is 1 to 64 of a-z, A-Z, 0-9, _ and -; set `name` in the decorator.")
        if not (_is(options.timeout, int | float) and options.timeout > 0):
            raise ConfigError(f"{where}: `timeout` is {options.timeout}; it must be more than 0 seconds.")
        if not (_is(options.output_limit, int) and options.output_limit >= 1):
            raise ConfigError(f"{where}: `output_limit` is {options.output_limit}; it must be at least 1 character.")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigError(f"{where}: a generator returns no result; return it whole and report with `progress`.")
        self._function = function
        self._parameters = read_function(function, ToolContext, where)
        self._threads = None if _is_async(function) else Threads()
        described = self._parameters.description if options.description is None else options.description
        self.spec = ToolSpec(name, described, self._parameters.schema)
        self.effect: Effect = options.effect
        self.timeout, self.output_limit = options.timeout, options.output_limit
        self.place, self.untrusted, self.probe = options.place, options.untrusted, options.probe

    @property
    def threaded(self) -> bool:
        """Whether it runs in a thread, which goes on after a time-out or a cancel."""
        return self._threads is not None

    def parse(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Turn a call's arguments into values for the function; raises `BadArguments`."""
        return self._parameters.parse(arguments)

    async def call(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        """Call the function with values from `parse`."""
        if self._threads is None:
            if self._parameters.injected:
                arguments = {**arguments, self._parameters.injected: context}
            return await _settled(await self._function(**arguments))
        return await _settled(await self._call_in_thread(self._threads, arguments, context))

    async def _call_in_thread(self, threads: Threads, arguments: dict[str, Any], context: ToolContext) -> Any:
        relay = _Relay(context.progress)
        if self._parameters.injected:
            context = msgspec.structs.replace(context, progress=relay)
            arguments = {**arguments, self._parameters.injected: context}
        try:
            result = await threads.run(functools.partial(self._function, **arguments))
        finally:
            relay.open = False
        return await result if inspect.isawaitable(result) else result


class _Relay:
    """Brings progress from a thread to the loop, and drops what comes after the call is over."""

    __slots__ = ("loop", "open", "progress")

    def __init__(self, progress: Callable[[str], None]) -> None:
        self.progress, self.open = progress, True
        self.loop = asyncio.get_running_loop()

    def __call__(self, text: str) -> None:
        if self.open:
            self.loop.call_soon_threadsafe(self.tell, text)

    def tell(self, text: str) -> None:
        if self.open:
            self.progress(text)


def as_tool(function: Tool | Callable[..., Any]) -> Tool:
    """Return the tool that a function is, marked by `tool` or not; a tool is returned as it is.

    Raises:
        ConfigError: It cannot be a tool; names the function and the remedy.
    """
    if not isinstance(function, type):
        if isinstance(function, Tool):
            return function
        if callable(function):
            return FunctionTool(function, getattr(function, ATTRIBUTE, Options()))
    raise ConfigError(f"{function!r} is neither a tool nor a function.")


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """A call that may run: its tool is there and its arguments are good.

    Args:
        tool: The tool.
        arguments: As the tool takes them.
        note: What the model is told before its result.
    """

    tool: Tool
    arguments: dict[str, Any]
    note: str = ""


class Toolbox:
    """The tools of an agent.

    Args:
        tools: Tools and functions, in the order in which the model is told of them.

    Raises:
        ConfigError: Two have the same name, or one cannot be a tool.
    """

    __slots__ = ("_included", "_tools", "names", "specs")

    def __init__(self, tools: Sequence[Tool | Callable[..., Any]] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        self._included: tuple[Tool, Toolbox] | None = None
        for each in map(as_tool, tools):
            if each.spec.name in self._tools:
                raise ConfigError(f"Two tools are named `{each.spec.name}`; rename one of them.")
            if each.effect not in _EFFECTS:  # no log that holds another could be read again
                raise ConfigError(f"Tool `{each.spec.name}`: `effect` is {each.effect!r}, none of {_EFFECTS}.")
            self._tools[each.spec.name] = each
        self.names = tuple(self._tools)
        self.specs = ToolSpecs(each.spec for each in self._tools.values())

    def including(self, tool: Tool) -> Toolbox:
        """Return a box that can run one more tool, of which the model need not be told; the same for the same tool.

        Raises:
            ConfigError: There is another tool of its name.
        """
        if self._included is None or self._included[0] is not tool:
            box = Toolbox([*self._tools.values(), tool])
            box.names, box.specs = self.names, self.specs
            self._included = (tool, box)
        return self._included[1]

    @property
    def tools(self) -> tuple[Tool, ...]:
        """All that it can run."""
        return tuple(self._tools.values())

    def get(self, name: str) -> Tool | None:
        """Return the tool of exactly this name."""
        return self._tools.get(name)

    def prepare(self, call: ToolCall) -> Prepared | ToolResult:
        """Look a call up and check its arguments; a call that may not run is answered at once."""
        tool = self._tools.get(call.name)
        if tool is None:
            content = f"{call.name[:200]} is not a valid tool, try one of [{', '.join(self.names)}]."
            return ToolResult(clean(content), "unknown_tool")
        try:
            return Prepared(tool, _arguments(tool, call.arguments))
        except BadArguments as error:
            content = (
                f"Not run: the arguments of {tool.spec.name} are wrong: {str(error)[:2000]}. "
                f"{takes(tool.spec.parameters)} Sent was: {preview(call.arguments)}"
            )
            return ToolResult(clean(content), "invalid")

    async def run(self, prepared: Prepared, context: ToolContext, *, most: int | None = None) -> ToolResult:
        """Run a prepared call within the tool's time and output limits.

        Args:
            prepared: The call.
            context: What the tool may know.
            most: Characters of its result that there is room for, where they may be fewer than the tool's own limit.

        Raises:
            asyncio.CancelledError: The caller was cancelled; nothing else is raised.
        """
        result = await self._call(prepared, context)
        if prepared.note:
            result = msgspec.structs.replace(result, content=f"{prepared.note}\n{result.content}")
        return await _bounded(prepared.tool, result, most)

    async def probe(self, prepared: Prepared, context: ToolContext, *, most: int | None = None) -> ToolResult | None:
        """Ask the outside for the result of a call whose process stopped; see `run`.

        Returns:
            None where the call did not happen, or the tool has no probe.

        Raises:
            ToolError: Nobody can tell.
        """
        tool = prepared.tool
        probe: Probe | None = getattr(tool, "probe", None)
        if probe is None:
            return None
        try:
            async with asyncio.timeout(None if math.isinf(tool.timeout) else tool.timeout):
                found = await probe(context.key, prepared.arguments, context)
                settled = None if found is None else await _settled(found)
                if settled is not None:
                    check_result(settled)
        except (ToolError, asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # the boundary to foreign code: a person is asked instead
            raise ToolError(describe(error)) from error
        return None if settled is None else await _bounded(tool, settled, most)

    async def _call(self, prepared: Prepared, context: ToolContext) -> ToolResult:
        tool = prepared.tool
        scope = asyncio.timeout(None if math.isinf(tool.timeout) else tool.timeout)
        try:
            async with scope:
                result = await tool.call(prepared.arguments, context)
                if type(result) is not ToolResult:  # not all who write tools heed types
                    result = await _settled(result)
                check_result(result)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            result = ToolResult("The tool cancelled itself.", "cancelled")
        except ToolError as error:
            result = ToolResult(message_of(error), "failed")
        except (KeyboardInterrupt, GeneratorExit):  # those are for the program, not from the tool
            raise
        except BaseException as error:  # the boundary to foreign code: every failure is told to the model
            expired = isinstance(error, TimeoutError) and scope.expired()
            result = _timed_out(tool) if expired else ToolResult(describe(error), "failed")
        return result


async def _settled(value: object) -> ToolResult:
    """Return the result of a call, away from the loop where that takes long."""
    if isinstance(value, str):
        return ToolResult(value)
    if isinstance(value, Media) or has_media(value):
        return await asyncio.to_thread(to_result, value)
    return to_result(value)


async def _bounded(tool: Tool, result: ToolResult, most: int | None) -> ToolResult:
    limit = tool.output_limit if most is None else max(0, min(tool.output_limit, most))
    if len(result.content) > PIECE:
        return await asyncio.to_thread(bound, result, limit)
    return bound(result, limit)


def _arguments(tool: Tool, text: str) -> dict[str, Any]:
    if text and not text.isspace():
        arguments = read_object(text)
    elif tool.spec.parameters.get("required"):
        raise BadArguments("they are empty")
    else:
        arguments = {}
    if isinstance(tool, FunctionTool):
        return tool.parse(arguments)
    if faults := check(tool.spec.parameters, arguments):
        raise BadArguments("; ".join(faults))
    return arguments


def _is_async(function: Callable[..., Any]) -> bool:
    if inspect.iscoroutinefunction(function):
        return True
    return not inspect.isroutine(function) and inspect.iscoroutinefunction(type(function).__call__)


def _is(value: object, kind: type | UnionType) -> bool:
    """Tell whether somebody who heeds no types gave the right one."""
    return isinstance(value, kind)


def _timed_out(tool: Tool) -> ToolResult:
    content = f"The tool did not end within {tool.timeout:g} seconds and was given up."
    if isinstance(tool, FunctionTool) and tool.threaded:
        content += " It may still finish; its result is dropped."
    return ToolResult(content, "timeout")
