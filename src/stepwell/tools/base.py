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
from typing import Any, Protocol, cast, runtime_checkable

import msgspec

from stepwell.errors import ConfigError, ToolError
from stepwell.events import Effect, ToolStatus
from stepwell.messages import Image, ToolCall, ToolSpec, ToolSpecs, clean
from stepwell.tools.arguments import BadArguments, check, preview, read_object, takes
from stepwell.tools.mark import ATTRIBUTE, Options
from stepwell.tools.schema import read_function
from stepwell.tools.threads import Threads

Complete = Callable[[str], Awaitable[str]]
"""Asks the agent's model one plain question and returns its answer."""

DETAILS_LIMIT = 200_000
"""Bytes of JSON that the details of one result may take in the log."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class ToolContext(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a running tool may know of its call.

    Args:
        thread: Id of the thread.
        run: Number of the run in the thread.
        call: Id of the call.
        key: The same for every attempt at this call: an idempotency key for services outside.
        progress: Tells people how far the call is.
        complete: Asks the agent's model; None where there is none.
    """

    thread: str
    run: int
    call: str
    key: str
    progress: Callable[[str], None]
    complete: Complete | None = None


class ToolResult(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What came of a call.

    Args:
        content: What the model is told.
        status: How it ended.
        images: Shown to models that see.
        details: For people's screens; plain JSON values.
    """

    content: str
    status: ToolStatus = "ok"
    images: tuple[Image, ...] = ()
    details: dict[str, Any] | None = None


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

    __slots__ = ("_function", "_parameters", "_threads", "effect", "output_limit", "spec", "timeout")

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        name = options.name or getattr(function, "__name__", "")
        where = f"Tool `{name or repr(function)}`"
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{where}: a name is 1 to 64 of a-z, A-Z, 0-9, _ and -; set `name` in the decorator.")
        if not options.timeout > 0:
            raise ConfigError(f"{where}: `timeout` is {options.timeout}; it must be more than 0 seconds.")
        if options.output_limit < 1:
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
            return to_result(await self._function(**arguments))
        return to_result(await self._call_in_thread(self._threads, arguments, context))

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
    """

    tool: Tool
    arguments: dict[str, Any]


class Toolbox:
    """The tools of an agent.

    Args:
        tools: Tools and functions, in the order in which the model is told of them.

    Raises:
        ConfigError: Two have the same name, or one cannot be a tool.
    """

    __slots__ = ("_tools", "names", "specs")

    def __init__(self, tools: Sequence[Tool | Callable[..., Any]] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        for each in map(as_tool, tools):
            if each.spec.name in self._tools:
                raise ConfigError(f"Two tools are named `{each.spec.name}`; rename one of them.")
            self._tools[each.spec.name] = each
        self.names = tuple(self._tools)
        self.specs = ToolSpecs(each.spec for each in self._tools.values())

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
                f"{takes(tool.spec.parameters)[:1000]} Sent was: {preview(call.arguments)}"
            )
            return ToolResult(clean(content), "invalid")

    async def run(self, prepared: Prepared, context: ToolContext) -> ToolResult:
        """Run a prepared call within the tool's time and output limits.

        Raises:
            asyncio.CancelledError: The caller was cancelled; nothing else is raised.
        """
        tool = prepared.tool
        scope = asyncio.timeout(None if math.isinf(tool.timeout) else tool.timeout)
        try:
            async with scope:
                result = to_result(await tool.call(prepared.arguments, context))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            result = ToolResult("The tool cancelled itself.", "cancelled")
        except ToolError as error:
            result = ToolResult(str(error), "failed")
        except (Exception, SystemExit) as error:  # the boundary to foreign code: every failure is told to the model
            expired = isinstance(error, TimeoutError) and scope.expired()
            result = _timed_out(tool) if expired else ToolResult(_describe(error), "failed")
        return bound(result, tool.output_limit)


def to_result(value: object) -> ToolResult:
    """Turn what a function returned into a result: text stays, nothing is empty, all else becomes JSON."""
    if isinstance(value, ToolResult):
        return value
    if isinstance(value, str):
        return ToolResult(value)
    if value is None:
        return ToolResult("")
    try:
        return ToolResult(msgspec.json.encode(value, enc_hook=_plain).decode())
    except (TypeError, ValueError, OverflowError, RecursionError):
        # JSON has no words for it: a huge number, a dict with odd keys, an object within itself.
        return ToolResult(str(value))


def bound(result: ToolResult, limit: int) -> ToolResult:
    """Return the result as it may be stored and told: within the limit, no NUL, no lone surrogate, plain details."""
    content = clean(cut(result.content, limit))
    if content is result.content and result.details is None:
        return result
    details = None if result.details is None else _plain_details(result.details)
    return ToolResult(content, result.status, result.images, details)


def cut(text: str, limit: int) -> str:
    """Return the text's head and tail where it is longer than `limit` characters, with a line that says so."""
    if len(text) <= limit:
        return text
    head = max(limit - 60, 0) * 2 // 3
    tail = max(limit - 60, 0) - head
    left_out = f"\n[... {len(text) - head - tail} characters left out ...]\n"
    return text[:head] + left_out + text[len(text) - tail :]


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


def _timed_out(tool: Tool) -> ToolResult:
    content = f"The tool did not end within {tool.timeout:g} seconds and was given up."
    if isinstance(tool, FunctionTool) and tool.threaded:
        content += " It may still finish; its result is dropped."
    return ToolResult(content, "timeout")


def _describe(error: BaseException) -> str:
    name = type(error).__name__
    try:
        message = str(error)
    except Exception:  # the boundary to foreign code: an exception may fail to describe itself
        message = ""
    return f"{name}: {message}" if message else name


def _plain(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    return str(value) if dump is None else dump(mode="json")


def _plain_details(details: dict[str, Any]) -> dict[str, Any]:
    try:
        data = msgspec.json.encode(_clean_all(msgspec.to_builtins(details, str_keys=True, enc_hook=_plain)))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return {"left_out": f"The details are not JSON: {_describe(error)}"}
    if len(data) > DETAILS_LIMIT:
        return {"left_out": f"The details have {len(data)} bytes; the limit is {DETAILS_LIMIT}."}
    return cast(dict[str, Any], msgspec.json.decode(data))


def _clean_all(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(name)): _clean_all(each) for name, each in cast(dict[object, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [_clean_all(each) for each in cast(list[Any], value)]
    return value
