"""The port to tools: what a tool is, how a function becomes one, and the box that looks up, checks and runs them.

Whatever goes wrong with a call is a result with a status, never an exception. This module stores nothing
and asks nobody for approval: the engine decides when a prepared call runs.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import math
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import msgspec

from stepwell.contexts import WRAPPED, handle_of_blob
from stepwell.errors import ConfigError, InputError, ToolError
from stepwell.events import Effect, Recorded, ToolStatus
from stepwell.images import check as check_image
from stepwell.images import probe
from stepwell.messages import Image, ToolCall, ToolSpec, ToolSpecs, clean
from stepwell.tools.arguments import BadArguments, check, preview, read_object, takes
from stepwell.tools.bounds import PIECE, WHOLE_LIMIT, describe, plain, plain_details, shorten
from stepwell.tools.mark import ATTRIBUTE, Options
from stepwell.tools.schema import read_function
from stepwell.tools.threads import Threads

Complete = Callable[[str], Awaitable[str]]
"""Asks the agent's model one plain question and returns its answer."""

IMAGE_BYTES = 20_000_000
"""Bytes of the largest image of a tool that a model is shown (OpenAI's guide to vision)."""

_MEDIA_TYPE = re.compile(r"[\w.+-]{1,64}/[\w.+-]{1,64}", re.ASCII)
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class Archive(Protocol):
    """What a tool may read of its thread's past; `state.Log` is one."""

    async def read(self, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Return events with numbers above `after`, in order, at most `limit`."""
        ...

    async def blob(self, prefix: str) -> bytes | None:
        """Return a big result by the beginning of its hash, or None."""
        ...


class ToolContext(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a running tool may know of its call.

    Args:
        thread: Id of the thread.
        run: Number of the run in the thread.
        call: Id of the call.
        key: The same for every attempt at this call: an idempotency key for services outside.
        progress: Tells people how far the call is.
        complete: Asks the agent's model; None where there is none.
        archive: The thread's events and big results; None where there are none to read.
        room: Characters of this call's result that the model gets; 0 where only the tool's own limit counts.
    """

    thread: str
    run: int
    call: str
    key: str
    progress: Callable[[str], None]
    complete: Complete | None = None
    archive: Archive | None = None
    room: int = 0


class Media(msgspec.Struct, frozen=True, gc=False):
    """Bytes that a tool returns, alone or in a list among texts.

    Args:
        data: The bytes.
        media_type: Such as `image/png`; an image is shown to models that see, anything else is kept under a handle.

    Raises:
        ValueError: The media type is none.
    """

    data: bytes
    media_type: str

    def __post_init__(self) -> None:
        if not _MEDIA_TYPE.fullmatch(self.media_type):
            raise ValueError(f"media_type is {self.media_type[:80]!r}; write it as in image/png")

    def image(self) -> Image | None:
        """Return it as an image that models can be shown, or None where it is none."""
        if not self.media_type.lower().startswith("image/") or len(self.data) > IMAGE_BYTES:
            return None
        image = Image(f"data:{self.media_type.lower()};base64,{b64encode(self.data).decode()}")
        try:
            check_image(image)
        except InputError:
            return None
        return image if probe(image) else None


class ToolResult(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What came of a call.

    Args:
        content: What the model is told.
        status: How it ended.
        images: Shown to models that see.
        details: For people's screens; plain JSON values.
        whole: All of the result, where `content` is only a part of it: text as UTF-8, which `Toolbox.run` fills in,
            or the bytes of a `Media`.
        hash: SHA-256 of `whole`, 64 hexadecimal digits.
        size: Bytes of `whole`, where it is known and not at hand.
        attached: Bytes that `content` names by a handle, by their SHA-256.
    """

    content: str
    status: ToolStatus = "ok"
    images: tuple[Image, ...] = ()
    details: dict[str, Any] | None = None
    whole: bytes = b""
    hash: str = ""
    attached: dict[str, bytes] = {}
    size: int = 0

    @property
    def blobs(self) -> dict[str, bytes]:
        """What has to be stored with the result, by its SHA-256."""
        return {**self.attached, self.hash: self.whole} if self.hash else self.attached


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

    __slots__ = ("_included", "_tools", "names", "specs")

    def __init__(self, tools: Sequence[Tool | Callable[..., Any]] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        self._included: tuple[Tool, Toolbox] | None = None
        for each in map(as_tool, tools):
            if each.spec.name in self._tools:
                raise ConfigError(f"Two tools are named `{each.spec.name}`; rename one of them.")
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
                f"{takes(tool.spec.parameters)[:1000]} Sent was: {preview(call.arguments)}"
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
        limit = prepared.tool.output_limit if most is None else max(0, min(prepared.tool.output_limit, most))
        if len(result.content) > PIECE:
            return await asyncio.to_thread(bound, result, limit)
        return bound(result, limit)

    async def _call(self, prepared: Prepared, context: ToolContext) -> ToolResult:
        tool = prepared.tool
        scope = asyncio.timeout(None if math.isinf(tool.timeout) else tool.timeout)
        try:
            async with scope:
                result = await _settled(await tool.call(prepared.arguments, context))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            result = ToolResult("The tool cancelled itself.", "cancelled")
        except ToolError as error:
            result = ToolResult(str(error), "failed")
        except (Exception, SystemExit) as error:  # the boundary to foreign code: every failure is told to the model
            expired = isinstance(error, TimeoutError) and scope.expired()
            result = _timed_out(tool) if expired else ToolResult(describe(error), "failed")
        return result


def to_result(value: object) -> ToolResult:
    """Turn what a function returned into a result: text stays, nothing is empty, all else becomes JSON.

    `Media`, alone or in a list among texts, becomes images and lines that say what else there is (XAgent's
    unwrapping of tool outputs).
    """
    if isinstance(value, ToolResult):
        return value
    if isinstance(value, Media) or _has_media(value):
        return _unwrapped(value)
    return ToolResult(_text(value))


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    try:
        return msgspec.json.encode(value, enc_hook=plain).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        # JSON has no words for it: a huge number, a dict with odd keys, an object within itself.
        return str(value)


def _has_media(value: object) -> bool:
    return isinstance(value, (list, tuple)) and Media in set(map(type, cast(list[object], value)))


def _unwrapped(value: object) -> ToolResult:
    lines: list[str] = []
    images: list[Image] = []
    attached: dict[str, bytes] = {}

    def show(media: Media) -> str:
        kind = f"{media.media_type}, {len(media.data)} bytes"
        image = media.image()
        if image is not None:
            images.append(image)
            return f"[image {len(images)}: {kind}]"
        if len(media.data) > WHOLE_LIMIT:
            return f"{WRAPPED} {kind}; too large to be kept"
        hash = hashlib.sha256(media.data).hexdigest()
        attached[hash] = media.data
        return f"{WRAPPED} {kind}; recall {handle_of_blob(hash)}"

    def take(each: object) -> None:
        if isinstance(each, Media):
            lines.append(show(each))
        elif _has_media(each):
            for inner in cast(list[object], each):
                take(inner)
        elif each is not None:
            lines.append(_text(each))

    take(value)
    content = "\n".join(lines)
    if isinstance(value, Media) and attached:
        return ToolResult(content, whole=value.data, hash=next(iter(attached)))
    return ToolResult(content, images=tuple(images), attached=attached)


async def _settled(value: object) -> ToolResult:
    """Return the result of a call, away from the loop where that takes long."""
    if isinstance(value, Media) or _has_media(value):
        return await asyncio.to_thread(to_result, value)
    return to_result(value)


def bound(result: ToolResult, limit: int) -> ToolResult:
    """Return the result as it may be stored and told: within the limit, no NUL, no lone surrogate, plain details.

    A text beyond the limit is kept whole beside what the model is told of it.
    """
    if len(result.content) > limit:
        content, whole, hash = shorten(result.content, limit)
        attached = result.blobs
    else:
        content, whole, hash, attached = clean(result.content), result.whole, result.hash, result.attached
        if content is result.content and result.details is None:
            return result
    details = None if result.details is None else plain_details(result.details)
    return ToolResult(content, result.status, result.images, details, whole, hash, attached)


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
