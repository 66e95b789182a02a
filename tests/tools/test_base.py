"""Tools and the toolbox: what a call may meet, and what the model is told of it."""

import asyncio
import hashlib
import json
import math
import sys
import threading
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable
from typing import Any, cast

import msgspec
import pydantic
import pytest

from stepwell.contexts import handle_of_blob
from stepwell.errors import ConfigError, ToolError
from stepwell.events import Effect, ToolEnded, decode, encode
from stepwell.messages import Image, ToolSpec
from stepwell.tools.base import FunctionTool, Media, Tool, Toolbox, ToolContext, ToolResult, as_tool
from stepwell.tools.mark import Options, tool
from tests.tools.running import called, context, prepared, refused


@tool(effect="pure")
async def add(a: int, b: int = 0) -> int:
    """Add two numbers."""
    return a + b


@tool(effect="pure")
def shout(text: str) -> str:
    """Say it loud."""
    return text.upper()


@tool
async def ping() -> str:
    """Answer."""
    return "pong"


class Foreign:
    """A tool that is no function, as tools of other programs are."""

    effect: Effect = "write"
    timeout = 5.0
    output_limit = 100

    def __init__(self, result: Any = None) -> None:
        parameters = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        self.spec = ToolSpec("foreign", "From elsewhere.", parameters)
        self.result = result

    async def call(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        """Give the result, or the arguments."""
        return self.result or ToolResult(json.dumps(arguments))


def run(tool: Any, arguments: dict[str, Any] | str = "") -> ToolResult:
    """Call a tool or function as an engine does."""
    return asyncio.run(called(as_tool(tool), arguments))


def test_a_toolbox_tells_of_its_tools_in_order() -> None:
    box = Toolbox([add, Foreign(), shout])
    assert box.names == ("add", "foreign", "shout")
    assert [spec.name for spec in box.specs] == ["add", "foreign", "shout"]
    assert box.specs.encoded is box.specs.encoded
    assert box.get("shout") is not None
    assert box.get("nope") is None


def test_sync_async_and_foreign_tools_run() -> None:
    assert run(add, {"a": 1, "b": 2}) == ToolResult("3")
    assert run(shout, {"text": "hi"}) == ToolResult("HI")
    assert run(Foreign(), {"n": 1, "more": 2}) == ToolResult('{"n": 1, "more": 2}')


# Calls that never run


def test_an_unknown_tool_is_answered_with_the_list_of_tools() -> None:
    result = refused(Toolbox([add, ping]), "foo", "{}")
    assert result == ToolResult("foo is not a valid tool, try one of [add, ping].", "unknown_tool")


@pytest.mark.parametrize(
    "name", ["Ping", "PING", "рing", "ping ", "mcp__x__ping", "ping\0", "", "p\u200bing", "x" * 10**6]
)
def test_a_name_that_is_not_exactly_a_tools_name_is_unknown(name: str) -> None:
    result = refused(Toolbox([ping]), name)
    assert result.status == "unknown_tool"
    assert len(result.content) < 300
    assert "\0" not in result.content


BAD_ARGUMENTS = [
    '{"a": 1',
    "null",
    "[1]",
    '{"a": 1, "a": 2}',
    '{"a": NaN}',
    '{"a": ' + "9" * 5000 + "}",
    '{"a": ' + "[" * 1000 + "]" * 1000 + "}",
    '{"a": "' + "x" * (1 << 20) + '"}',
    "",
    " \n",
    '{"a": 1}{"a": 2}',
    '{"a": "one"}',
    '{"b": 1}',
    '{"a": null, "c": 2}',
    '{"a": "\\ud800"}',
]


@pytest.mark.parametrize("text", BAD_ARGUMENTS, ids=range(len(BAD_ARGUMENTS)))
@pytest.mark.parametrize("name", ["add", "foreign"])
def test_arguments_that_are_no_object_of_the_schema_never_run(text: str, name: str) -> None:
    if name == "foreign":
        text = text.replace('"a"', '"n"')
    ran: list[object] = []

    @tool(name="add")
    async def note(a: int, b: int = 0) -> None:
        ran.append((a, b))

    box = Toolbox([note, Foreign()])
    result = refused(box, name, text)
    assert result.status == "invalid"
    assert result.content.startswith(f"Not run: the arguments of {name} are wrong: ")
    assert "It takes: " in result.content
    shown = result.content.partition("Sent was: ")[2]
    assert len(shown) <= 800
    assert shown[:20] == text[:20].replace("\ud800", "\ufffd")
    assert ran == []
    result.content.encode()


@pytest.mark.parametrize("text", ["", "  ", "{}"])
def test_a_tool_without_required_parameters_may_be_called_with_nothing(text: str) -> None:
    @tool
    async def greet(name: str = "you") -> str:
        return f"hello {name}"

    assert asyncio.run(called(as_tool(ping), text)).content == "pong"
    assert asyncio.run(called(as_tool(greet), text)).content == "hello you"


@pytest.mark.parametrize("text", ["null", "[]", '""', "{", "x", "\ufeff"])
def test_even_such_a_tool_is_not_called_with_broken_arguments(text: str) -> None:
    assert refused(Toolbox([ping]), "ping", text).status == "invalid"


# Calls that fail


def test_a_tools_own_error_is_told_by_its_message_alone() -> None:
    @tool
    async def fail() -> None:
        raise ToolError("No such city. Write it in English.")

    assert run(fail) == ToolResult("No such city. Write it in English.", "failed")


class Panic(BaseException):
    """What extensions written in Rust raise, and test runners to skip or fail a test."""


class Rude(Exception):
    """An exception that cannot describe itself."""

    def __str__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    ("error", "content"),
    [
        (ValueError("bad value"), "ValueError: bad value"),
        (KeyError("k"), "KeyError: 'k'"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (TimeoutError("the server was slow"), "TimeoutError: the server was slow"),
        (SystemExit(3), "SystemExit: 3"),
        (ExceptionGroup("many", [ValueError("x")]), "ExceptionGroup: many (1 sub-exception)"),
        (RecursionError("deep"), "RecursionError: deep"),
        (Rude(), "Rude"),
        (Panic("the extension panicked"), "Panic: the extension panicked"),
        (BaseExceptionGroup("many", [Panic("x")]), "BaseExceptionGroup: many (1 sub-exception)"),
    ],
)
@pytest.mark.parametrize("threaded", [False, True])
def test_any_exception_becomes_a_failed_result(error: BaseException, content: str, threaded: bool) -> None:
    def blocking() -> None:
        raise error

    async def waiting() -> None:
        raise error

    assert run(blocking if threaded else waiting) == ToolResult(content, "failed")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit])
def test_what_a_function_raises_in_its_thread_does_not_end_the_program(kind: type[BaseException]) -> None:
    def blocking() -> None:
        raise kind("x")

    assert run(blocking) == ToolResult(f"RuntimeError: the function raised {kind.__name__}(x)", "failed")


class Text(str):
    """A text as numpy and parsers of HTML return it."""


@pytest.mark.parametrize("result", [Text("found"), ToolResult(Text("found"))])
def test_a_text_of_another_library_is_told_and_can_be_stored(result: object) -> None:
    def find() -> object:
        return result

    made = run(find)
    assert (made.content, made.status, type(made.content)) == ("found", "ok", str)


@pytest.mark.parametrize(
    ("result", "named"),
    [
        (ToolResult("x", status=cast(Any, "error")), "`status` is 'error'"),
        (ToolResult(cast(Any, None)), "`content` is NoneType"),
        (ToolResult("x", details=cast(Any, [1])), "`details` is list"),
        (ToolResult("x", images=cast(Any, ("cat.png",))), "`images` holds something else"),
    ],
)
def test_a_result_that_could_not_be_read_from_the_log_is_a_failure_of_the_tool(result: ToolResult, named: str) -> None:
    async def odd() -> ToolResult:
        return result

    made = run(odd)
    assert made.status == "failed"
    assert named in made.content


def test_a_slow_tool_is_given_up_and_the_seconds_named() -> None:
    stopped: list[str] = []

    @tool(timeout=0.05)
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("stopped")

    assert run(slow) == ToolResult("The tool did not end within 0.05 seconds and was given up.", "timeout")
    assert stopped == ["stopped"]


def test_a_slow_function_in_a_thread_may_still_finish_and_that_is_said() -> None:
    released = threading.Event()

    @tool(timeout=0.05)
    def slow() -> None:
        released.wait(30)

    result = run(slow)
    released.set()
    assert result.status == "timeout"
    assert result.content.endswith("It may still finish; its result is dropped.")


def test_a_tool_without_a_time_limit_runs() -> None:
    assert run(tool(timeout=math.inf)(shout), {"text": "x"}).content == "X"


def test_a_tool_that_cancels_itself_is_a_result_and_not_a_cancelled_run() -> None:
    @tool
    async def give_up() -> None:
        raise asyncio.CancelledError

    assert run(give_up) == ToolResult("The tool cancelled itself.", "cancelled")


def test_a_cancelled_call_is_cancelled() -> None:
    async def main() -> None:
        started = asyncio.Event()

        @tool
        async def wait() -> None:
            started.set()
            await asyncio.Event().wait()

        box = Toolbox([wait])
        task = asyncio.create_task(box.run(prepared(box, "wait"), context()))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_of_three_calls_side_by_side_one_fails_one_is_cancelled_and_one_keeps_its_result() -> None:
    async def main() -> list[ToolResult | BaseException]:
        waiting = asyncio.Event()

        @tool
        async def good() -> str:
            await waiting.wait()
            return "done"

        @tool
        async def bad() -> str:
            await waiting.wait()
            raise ValueError("broken")

        @tool
        async def stuck() -> str:
            waiting.set()
            await asyncio.Event().wait()
            return "never"

        box = Toolbox([good, bad, stuck])
        tasks = [asyncio.create_task(box.run(prepared(box, name), context())) for name in box.names]
        await asyncio.wait(tasks[:2])
        tasks[2].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    good, bad, stuck = asyncio.run(main())
    assert good == ToolResult("done")
    assert bad == ToolResult("ValueError: broken", "failed")
    assert isinstance(stuck, asyncio.CancelledError)


# Results


class Model(pydantic.BaseModel):
    name: str


class Record(msgspec.Struct):
    name: str


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("text", "text"),
        ("", ""),
        (None, ""),
        (True, "true"),
        (3, "3"),
        (0.5, "0.5"),
        ({"城市": ["北京"]}, '{"城市":["北京"]}'),
        ([], "[]"),
        (Record("x"), '{"name":"x"}'),
        (Model(name="x"), '{"name":"x"}'),
        ([Model(name="x")], '[{"name":"x"}]'),
        (10**30, str(10**30)),
        ({(1, 2): 3}, '{"(1, 2)":3}'),
        (complex(1, 2), '"(1+2j)"'),
        (["a\ud800"], "['a\\ud800']"),
        ("\ufffe\ufeff😀", "\ufffe\ufeff😀"),
    ],
)
def test_what_a_function_returns_becomes_text(value: object, content: str) -> None:
    async def give() -> object:
        return value

    assert run(give) == ToolResult(content)


@pytest.mark.parametrize(
    ("value", "content", "details"),
    [
        ("a\0b\ud800c", "a\ufffdb\ufffdc", {"replaced_characters": 2}),
        ("\ufffd\0\ud83d\udea2", "\ufffd\ufffd🚢", {"replaced_characters": 1}),
        ("\ud83d\udea2", "🚢", None),
        (ToolResult("\0", details={"n": "\0\0"}), "\ufffd", {"n": "\ufffd\ufffd", "replaced_characters": 1}),
        (ToolResult("\0", details={"replaced_characters": 4}), "\ufffd", {"replaced_characters": 5}),
        (ToolResult("\0", details={"replaced_characters": "x"}), "\ufffd", {"replaced_characters": 1}),
        (ToolError("bad\0 \ud800 value"), "bad\ufffd \ufffd value", {"replaced_characters": 2}),
        (ToolResult("a", details={"replaced_characters": 4}), "a", {"replaced_characters": 4}),
    ],
)
def test_characters_that_no_store_takes_are_replaced_and_counted(
    value: object, content: str, details: dict[str, Any] | None
) -> None:
    async def give() -> object:
        if isinstance(value, ToolError):
            raise value
        return value

    assert run(give) == ToolResult(content, "failed" if isinstance(value, ToolError) else "ok", details=details)


LOOP: list[object] = []
LOOP.append(LOOP)


def test_a_result_that_contains_itself_is_still_a_result() -> None:
    async def give() -> object:
        return LOOP

    assert run(give).content == "[[...]]"


def test_a_result_of_the_tools_own_making_passes() -> None:
    made = ToolResult("seen", "ok", (Image("https://example.com/a.png"),), {"rows": [1, 2]})

    async def give() -> ToolResult:
        return made

    assert run(give) == made


def test_details_become_plain_json_that_the_log_can_hold() -> None:
    details = {
        "a\0": "x\ud800",
        "when": pytest,
        "tuple": (1, Record("r")),
        "deep": [{"m": Model(name="n")}],
        "n": 10**30,
    }

    async def give() -> ToolResult:
        return ToolResult("x", details=details)

    result = run(give)
    assert result.details is not None
    assert result.details.pop("when").startswith("<module")
    assert result.details == {
        "a\ufffd": "x\ufffd",
        "tuple": [1, {"name": "r"}],
        "deep": [{"m": {"name": "n"}}],
        "n": 10**30,
    }
    event = ToolEnded("c", result.content, details=result.details)
    assert decode(encode(event)) == event


@pytest.mark.parametrize("details", [{"x": "y" * 300_000}, {"x": LOOP}])
def test_details_that_the_log_cannot_hold_are_left_out_and_that_is_said(details: dict[str, Any]) -> None:
    async def give() -> ToolResult:
        return ToolResult("x", details=details)

    assert list(run(give).details or {}) == ["left_out"]


def asked(given: Any, most: int | None = None, **options: Any) -> ToolResult:
    """Call a tool that gives something, as an engine does that has room for `most` characters."""

    @tool(**options)
    async def give() -> object:
        if isinstance(given, Exception):
            raise given
        return given

    box = Toolbox([give])
    return asyncio.run(box.run(prepared(box, "give"), context(), most=most))


def test_long_output_keeps_its_head_and_tail_and_says_where_the_rest_is() -> None:
    whole = "head" + "x" * 1_000_000 + "tail"
    result = asked(whole, output_limit=1000)
    assert len(result.content) <= 1000
    head, line, tail = result.content.splitlines()
    assert head.startswith("head")
    assert tail.endswith("tail")
    assert 1.8 < len(head) / len(tail) < 2.1
    left_out = 1_000_008 - len(head) - len(tail)
    assert line == f"`wrapped` {left_out} characters left out; recall {handle_of_blob(result.hash)}"
    assert result.whole == whole.encode()
    assert result.hash == hashlib.sha256(result.whole).hexdigest()
    assert result.blobs == {result.hash: result.whole}


def test_output_at_the_limit_is_whole_and_nothing_is_kept_beside_it() -> None:
    for given in ("x" * 100, "城" * 100):
        assert asked(given, output_limit=100) == ToolResult(given)
        assert asked(given, 100) == ToolResult(given)
        assert asked(given, 99).whole == given.encode()
        assert asked(given + "x", output_limit=100).whole == (given + "x").encode()


def test_where_there_is_less_room_than_the_tool_may_take_the_room_counts() -> None:
    assert len(asked("x" * 5000, 300, output_limit=1000).content) <= 300
    assert len(asked("x" * 5000, 3000, output_limit=1000).content) <= 1000
    assert asked("x" * 5000, 0).content == ""
    assert asked("x" * 5000, -5).content == ""


def test_long_errors_are_cut_and_kept_too() -> None:
    result = asked(ValueError("x" * 10_000), output_limit=100)
    assert (result.status, len(result.content) <= 100) == ("failed", True)
    assert result.whole == b"ValueError: " + b"x" * 10_000


def test_a_long_output_is_kept_as_it_may_be_stored() -> None:
    result = asked("a\0\ud800" + "é" * 300, output_limit=120)
    assert result.whole.decode() == "a\ufffd\ufffd" + "é" * 300
    assert result.content.startswith("a\ufffd\ufffdé")


def test_fifty_megabytes_are_cut_while_the_loop_goes_on() -> None:
    text = "快速的棕色狐狸。🦆\n" * 1_700_000

    @tool
    async def give() -> str:
        return text

    async def main() -> None:
        box = Toolbox([give])
        work = asyncio.ensure_future(box.run(prepared(box, "give"), context()))
        turns = 0
        while not work.done():
            await asyncio.sleep(0)
            turns += 1
        result = work.result()
        assert turns > 20
        assert len(result.content) <= 30_000
        assert result.hash == hashlib.sha256(text.encode()).hexdigest()
        assert result.whole.decode() == text

    asyncio.run(main())


# Bytes

PNG = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


def test_an_image_that_a_tool_returns_is_shown_to_the_model() -> None:
    result = asked(Media(PNG, "image/PNG"))
    assert result.content == f"[image 1: image/PNG, {len(PNG)} bytes]"
    assert [image.url for image in result.images] == ["data:image/png;base64," + b64encode(PNG).decode()]
    assert result.blobs == {}


@pytest.mark.parametrize(
    "media",
    [
        Media(b"%PDF" * 100, "application/pdf"),
        Media(b"<svg/>", "image/svg+xml"),
        Media(b"no png at all, though it says so", "image/png"),
        Media(PNG[:16] + b"\x00\x01\x00\x00" * 2 + PNG[24:], "image/png"),
        Media(PNG + bytes(20_000_000), "image/png"),
        Media(b"", "text/plain"),
    ],
    ids=["pdf", "svg", "broken", "pixels", "bytes", "empty"],
)
def test_other_bytes_are_kept_under_a_handle(media: Media) -> None:
    result = asked(media)
    handle = handle_of_blob(hashlib.sha256(media.data).hexdigest())
    assert result.content == f"`wrapped` {media.media_type}, {len(media.data)} bytes; recall {handle}"
    assert (result.images, result.whole) == ((), media.data)
    assert result.blobs == {result.hash: media.data}


@pytest.mark.parametrize("kind", [list, tuple])
def test_texts_and_bytes_stand_in_the_order_in_which_they_were_returned(kind: Any) -> None:
    pdf = b"%PDF"
    parts = [
        "see",
        Media(PNG, "image/png"),
        None,
        {"n": 1},
        [Media(pdf, "application/pdf"), "end"],
        Media(PNG, "image/png"),
    ]
    result = asked(kind(parts))
    size = len(PNG)
    handle = handle_of_blob(hashlib.sha256(pdf).hexdigest())
    assert result.content.splitlines() == [
        "see",
        f"[image 1: image/png, {size} bytes]",
        '{"n":1}',
        f"`wrapped` application/pdf, 4 bytes; recall {handle}",
        "end",
        f"[image 2: image/png, {size} bytes]",
    ]
    assert len(result.images) == 2
    assert list(result.blobs.values()) == [pdf]
    short = asked(kind(parts), 80)
    assert set(short.blobs.values()) == {pdf, result.content.encode()}
    assert len(short.content) <= 80


def test_bytes_are_kept_even_where_there_is_no_room_to_tell_of_them() -> None:
    result = asked(Media(b"%PDF", "application/pdf"), 20)
    assert b"%PDF" in result.blobs.values()
    assert len(result.content) <= 20


def test_plain_objects_are_never_taken_for_bytes() -> None:
    given = {"type": "binary", "media_type": "image/png", "data": "aGk="}
    assert json.loads(asked(given).content) == given
    assert asked([given]).images == ()


@pytest.mark.parametrize("kind", ["", "png", "image/", "image/png;x=1", "image/png\n", "圖/png", "a" * 65 + "/b"])
def test_a_media_type_that_is_none_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="write it as in image/png"):
        Media(b"", kind)


def test_a_foreign_tool_that_returns_no_result_is_understood() -> None:
    assert run(Foreign({"a": 1}), {"n": 1}) == ToolResult('{"a":1}')


# Context


def test_a_tool_that_asks_for_its_context_gets_it() -> None:
    @tool
    async def tell(text: str, ctx: ToolContext) -> str:
        ctx.progress(f"half of {text}")
        return f"{ctx.thread} {ctx.run} {ctx.call} {ctx.key} {ctx.complete}"

    @tool
    def tell_from_thread(context: ToolContext, text: str = "x") -> str:
        context.progress(text)
        return context.key

    async def main() -> None:
        told: list[str] = []
        box = Toolbox([tell, tell_from_thread])
        assert "context" not in box.specs.encoded.decode()
        first = await box.run(prepared(box, "tell", {"text": "it"}), context(told))
        assert first.content == "t 1 c t.2 None"
        second = await box.run(prepared(box, "tell_from_thread"), context(told))
        assert second.content == "t.2"
        assert told == ["half of it", "x"]

    asyncio.run(main())


def test_progress_from_a_thread_reaches_the_loop_and_stops_with_the_call() -> None:
    loops: list[bool] = []
    go_on, over = threading.Event(), threading.Event()

    async def main() -> None:
        here = threading.current_thread()

        @tool(timeout=0.2)
        def slow(ctx: ToolContext) -> None:
            ctx.progress("in time")
            go_on.wait(30)
            ctx.progress("too late")
            over.set()

        box = Toolbox([slow])
        heard = context()
        heard = msgspec.structs.replace(heard, progress=lambda _: loops.append(threading.current_thread() is here))
        assert (await box.run(prepared(box, "slow"), heard)).status == "timeout"
        go_on.set()
        await asyncio.to_thread(over.wait, 30)

    asyncio.run(main())
    assert loops == [True]


def test_an_async_tool_costs_neither_a_task_nor_a_thread() -> None:
    async def main() -> None:
        seen: list[object] = []

        @tool
        async def look() -> None:
            seen.append((asyncio.current_task(), threading.current_thread(), len(asyncio.all_tasks())))

        box = Toolbox([look])
        await box.run(prepared(box, "look"), context())
        assert seen == [(asyncio.current_task(), threading.current_thread(), 1)]

    asyncio.run(main())


# Functions that cannot be tools


def numbers() -> Any:
    """Yield."""
    yield 1


async def letters() -> AsyncIterator[str]:
    """Yield later."""
    yield "a"


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (tool(name="a b")(lambda: None), "Tool `a b`: a name is 1 to 64 of a-z"),
        (lambda: None, "Tool `<lambda>`: a name is 1 to 64"),
        (FunctionTool, "neither a tool nor a function"),
        (3, "3 is neither a tool nor a function"),
        (numbers, "Tool `numbers`: a generator returns no result"),
        (letters, "Tool `letters`: a generator returns no result"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_with_the_remedy(function: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        as_tool(function)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (Options(timeout=0), "`timeout` is 0; it must be more than 0 seconds"),
        (Options(timeout=math.nan), "`timeout` is nan"),
        (Options(output_limit=0), "`output_limit` is 0"),
    ],
)
def test_options_are_checked(options: Options, reason: str) -> None:
    if reason is None:
        assert (
            FunctionTool(numbers.__class__(numbers.__code__, {}, "f") if False else ping, options).spec.name == "ping"
        )
        return
    with pytest.raises(ConfigError, match=reason):
        FunctionTool(ping, options)


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="Two tools are named `ping`"):
        Toolbox([ping, as_tool(ping)])


def test_a_tool_is_returned_as_it_is() -> None:
    foreign: Tool = Foreign()
    assert as_tool(foreign) is foreign


def test_a_sync_function_that_returns_a_coroutine_is_awaited() -> None:
    def later(a: int) -> Any:
        return add(a, 1)

    assert run(later, {"a": 2}) == ToolResult("3")


def test_callable_objects_run_where_their_call_runs() -> None:
    class Async:
        __name__ = "async_object"

        async def __call__(self, n: int) -> int:
            """Count."""
            return n + 1

    class Sync:
        __name__ = "sync_object"

        def __call__(self, n: int) -> int:
            """Count."""
            return n + 1

    for made, threaded in ((as_tool(Async()), False), (as_tool(Sync()), True)):
        assert isinstance(made, FunctionTool)
        assert made.threaded is threaded
        assert run(made, {"n": 1}) == ToolResult("2")


def test_the_tools_module_loads_neither_pydantic_nor_a_client() -> None:
    code = "import sys, stepwell.tools.base; print([n for n in ('pydantic', 'aiohttp', 'httpx') if n in sys.modules])"

    async def main() -> bytes:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
        return (await process.communicate())[0]

    assert asyncio.run(main()).strip() == b"[]"


# looking whether a call happened


def looked(found: Any, *, timeout: float = 60.0, most: int | None = None) -> ToolResult | None:
    """Ask the probe of a tool, whose call is prepared, what came of it."""

    async def probe(key: str, arguments: dict[str, Any], context: ToolContext) -> Any:
        assert (key, arguments) == (context.key, {"a": 1})
        return await cast(Awaitable[object], found()) if callable(found) else found

    @tool(probe=probe, timeout=timeout)
    async def book(a: int) -> None:
        """Book it."""

    box = Toolbox([book])
    return asyncio.run(box.probe(prepared(box, "book", {"a": 1}), context(), most=most))


def test_a_probe_brings_the_result_of_a_call_that_happened() -> None:
    assert looked(None) is None
    assert looked("booked") == ToolResult("booked")
    assert looked({"id": 7}) == ToolResult('{"id":7}')
    assert looked(ToolResult("half", "failed")) == ToolResult("half", "failed")
    shortened = looked("x" * 1000, most=500)
    assert shortened is not None
    assert len(shortened.content) <= 500
    assert shortened.whole == b"x" * 1000


def test_a_tool_without_a_probe_never_happened() -> None:
    for each in (add, Foreign()):
        box = Toolbox([each])
        found = prepared(box, box.names[0], {"a": 1, "n": 1} if each is not add else {"a": 1})
        assert asyncio.run(box.probe(found, context())) is None


def test_a_probe_that_fails_or_takes_too_long_says_that_nobody_can_tell() -> None:
    async def broken() -> None:
        raise ValueError("no connection")

    async def told() -> None:
        raise ToolError("the page is gone")

    for found, why in (
        (broken, "ValueError: no connection"),
        (told, "the page is gone"),
        (asyncio.Event().wait, "Time"),
    ):
        with pytest.raises(ToolError, match=why):
            looked(found, timeout=0.05)


def test_a_note_stands_before_the_result_of_its_call() -> None:
    box = Toolbox([shout])
    call = msgspec.structs.replace(prepared(box, "shout", {"text": "hi"}), note="Other arguments ran.")
    assert asyncio.run(box.run(call, context())) == ToolResult("Other arguments ran.\nHI")


@pytest.mark.parametrize("effect", ["read", None, ["pure"]])
def test_an_effect_that_no_log_could_hold_is_refused(effect: Any) -> None:
    def look() -> str:
        return "seen"

    options: dict[str, Any] = {"effect": effect}
    with pytest.raises(ConfigError, match=r"Tool `look`: `effect` is .*, none of \('pure', 'idempotent', 'write'\)"):
        Toolbox([tool(**options)(look)])


@pytest.mark.parametrize("options", [{"timeout": "5"}, {"output_limit": 2.5}, {"output_limit": "9"}, {"name": 5}])
def test_options_of_another_type_are_refused_as_other_wrong_ones(options: Any) -> None:
    def look() -> str:
        return "seen"

    with pytest.raises(ConfigError, match="Tool `"):
        as_tool(tool(**options)(look))
