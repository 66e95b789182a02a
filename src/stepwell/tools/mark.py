"""The decorator `tool`, which marks a function as a tool and imports nothing, so that `import stepwell` stays cheap.

It only notes the options. `base.as_tool` reads the signature when the tool is first needed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple, TypeVar, overload

ATTRIBUTE = "__stepwell_tool__"
"""The attribute of a marked function that holds its `Options`."""

F = TypeVar("F", bound=Callable[..., Any])

Probe = Callable[[str, dict[str, Any], Any], Awaitable[Any]]
"""Asks the outside whether a call took effect: gets its key, its arguments and the `ToolContext`; returns its result,
or None where it did not happen and may be run. Raises `ToolError` where nobody can tell."""


class Options(NamedTuple):
    """What a function's mark says; `tool` explains each."""

    name: str | None = None
    description: str | None = None
    effect: Literal["pure", "idempotent", "write"] = "write"
    timeout: float = 60.0
    output_limit: int = 30_000
    place: Literal["workspace", "outside"] = "outside"
    untrusted: bool = False
    probe: Probe | None = None


@overload
def tool(function: F, /) -> F: ...


@overload
def tool(
    function: None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    effect: Literal["pure", "idempotent", "write"] = "write",
    timeout: float = 60.0,
    output_limit: int = 30_000,
    place: Literal["workspace", "outside"] = "outside",
    untrusted: bool = False,
    probe: Probe | None = None,
) -> Callable[[F], F]: ...


def tool(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    effect: Literal["pure", "idempotent", "write"] = "write",
    timeout: float = 60.0,
    output_limit: int = 30_000,
    place: Literal["workspace", "outside"] = "outside",
    untrusted: bool = False,
    probe: Probe | None = None,
) -> F | Callable[[F], F]:
    """Mark a function, sync or async, as a tool; it stays callable as before.

    The model sees a schema made from the signature and the docstring: its first paragraph, and its
    `Args:` section or `:param x:` fields. A parameter annotated `ToolContext` is filled in and not shown.

    Args:
        function: The function, when the decorator is used without brackets.
        name: How the model calls it; the function's own name without it.
        description: What the model is told instead of the docstring's first paragraph.
        effect: What running it twice does: `pure` nothing outside, `idempotent` the same as once,
            `write` harm. After a crash only the first two are run again.
        timeout: Seconds until a call is given up.
        output_limit: Characters of its result that the model gets.
        place: `workspace` where it reaches no further than the workspace; rules of approval look at it.
        untrusted: Whether its results are text of strangers, such as pages of the web.
        probe: After a crash, tells whether a call happened, so that nobody has to be asked; see `Probe`.

    Raises:
        TypeError: The object cannot carry a mark.
    """
    options = Options(name, description, effect, timeout, output_limit, place, untrusted, probe)
    return (lambda marked: _mark(marked, options)) if function is None else _mark(function, options)


def _mark(function: F, options: Options) -> F:
    try:
        setattr(function, ATTRIBUTE, options)
    except AttributeError:
        raise TypeError(f"{function!r} cannot be marked as a tool; write a function that calls it.") from None
    return function
