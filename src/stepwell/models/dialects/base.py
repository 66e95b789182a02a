"""The port of dialects: a request with tools becomes a request without, and its reply is parsed back.

A dialect wraps no model. Whoever calls the model renders the request before and feeds each delta after:

    parser = dialect.parser(request.tools)
    async for delta in model.stream(dialect.render(request)):
        shown = parser.feed(delta)          # the last delta, too
        if parser.done:
            shown = parser.finish("stop")   # and close the model's stream
            break
"""

from __future__ import annotations

from typing import Any, Protocol

from stepwell.messages import StopReason, ToolSpecs
from stepwell.models.base import Delta, ModelRequest


class DialectParser(Protocol):
    """Takes one reply apart while it streams. The result does not depend on how the reply was cut."""

    @property
    def done(self) -> bool:
        """Whether nothing that the model may still write can matter: the caller closes the stream."""
        ...

    @property
    def thought(self) -> str:
        """What the reply says before its form begins: the answer, if the reply turns out unmarked.

        It lacks the thinking that came apart from the reply (`Delta.thinking` of the model).
        """
        ...

    def feed(self, delta: Delta) -> Delta | None:
        """Read a delta and return what can be shown by now, or None.

        The model's own thinking, its usage and failures pass through. A delta with `stop` set finishes the
        reply as `finish` does.
        """
        ...

    def finish(self, stop: StopReason) -> Delta:
        """End the reply where it stands and return the last delta.

        Args:
            stop: Why the model's stream ended; `stop` when the caller closed it because of `done`.

        Returns:
            A delta with `stop`, the rest of the text and thinking, the calls without ids, `raw` (the reply as
            written, as far as it was used: what follows its end is no part of it) and `unmarked`. Its `stop`
            is `tool_calls` if there is a call.
        """
        ...


class Dialect(Protocol):
    """A way to call tools in text. It is stateless: one serves any number of requests at once."""

    @property
    def name(self) -> str:
        """The name by which settings choose it."""
        ...

    @property
    def digest(self) -> str:
        """The hash of its template: 12 hexadecimal digits."""
        ...

    def render(self, request: ModelRequest) -> ModelRequest:
        """Return the request with tools, calls and results as text, and texts that end the reply in its settings."""
        ...

    def form(self, request: ModelRequest, answer: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Return a JSON schema to which an endpoint may keep the reply; None where no schema can say its form.

        Args:
            request: The request before it is rendered.
            answer: The schema of the answer; None for text.
        """
        ...

    def parser(self, tools: ToolSpecs) -> DialectParser:
        """Return a parser for one reply.

        Args:
            tools: The tools that the request offered.
        """
        ...
