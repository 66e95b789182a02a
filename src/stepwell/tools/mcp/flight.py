"""A call that is under way: its time, which stands still while a person is asked, and the questions of its server.

Over HTTP and pipes of the older protocol a server's question does not say which call it is about. So calls of a server
that asks are made one after the other; where calls of several threads are under way when it asks first, the question is
turned down.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal

from mcp.client.session import ClientRequestContext
from mcp_types import ElicitRequestParams, ElicitRequestURLParams, ElicitResult, ErrorData

from stepwell.questions import Inquiry
from stepwell.tools.arguments import check, malformed
from stepwell.tools.base import ToolContext
from stepwell.tools.mcp.base import MOST_SCHEMA, ServerSpec

TOLD = 0.05
"""Seconds between two messages of progress that are passed on."""
PROGRESS = 300
"""Characters of such a message."""

MOST_ASKED = 20
"""Questions of one call that people are asked; further ones are answered with `cancel`."""

Action = Literal["accept", "decline", "cancel"]


class Flight:
    """One call under way.

    Args:
        spec: The server.
        context: Of the call.
        seconds: It may take.
    """

    def __init__(self, spec: ServerSpec, context: ToolContext, seconds: float) -> None:
        self.spec, self.context = spec, context
        self.scope = asyncio.timeout(seconds)
        self._left, self._asking, self._told = seconds, 0, 0.0
        self._asked = 0
        self._questions: set[asyncio.Task[ElicitResult]] = set()

    async def tell(self, progress: float, total: float | None, message: str | None) -> None:
        """Pass on how far the call is; see the SDK's `ProgressFnT`."""
        now = asyncio.get_running_loop().time()
        if now - self._told < TOLD:
            return
        self._told = now
        share = f"{progress:g}" if not total else f"{progress:g}/{total:g}"
        self.context.progress(f"{share} {self.spec.plain(message, PROGRESS)}" if message else share)

    async def ask(self, params: ElicitRequestParams) -> ElicitResult:
        """Put a server's question to a person; the call's time stands still meanwhile."""
        self._asked += 1
        if self._asked > MOST_ASKED:
            return ElicitResult(action="cancel")
        question = asyncio.create_task(self._ask(params))
        self._questions.add(question)
        self._halt()
        try:
            return await question
        except asyncio.CancelledError:
            if not question.cancelled():  # the server takes it back
                question.cancel()
                raise
            return ElicitResult(action="cancel")  # the call is over
        finally:
            self._questions.discard(question)
            self._go_on()

    async def close(self) -> None:
        """Take back what is still asked."""
        for question in self._questions:
            question.cancel()
        if self._questions:
            await asyncio.wait(self._questions)

    def _halt(self) -> None:
        self._asking += 1
        if self._asking == 1 and (when := self.scope.when()) is not None:
            self._left = when - asyncio.get_running_loop().time()
            with contextlib.suppress(RuntimeError):  # its time is over by now
                self.scope.reschedule(None)

    def _go_on(self) -> None:
        self._asking -= 1
        if not self._asking:
            # The call may be over by now.
            with contextlib.suppress(RuntimeError):
                self.scope.reschedule(asyncio.get_running_loop().time() + max(self._left, 0.0))

    async def _ask(self, params: ElicitRequestParams) -> ElicitResult:
        inquiry = _inquiry(self.spec, params)
        answered = await self.context.ask(inquiry) if self.context.ask is not None and inquiry is not None else None
        if answered is None:
            return ElicitResult(action="cancel")
        actions: dict[str, Action] = {"answer": "accept", "deny": "decline"}
        action = actions.get(answered.decision, "cancel")
        if action != "accept" or inquiry is None or inquiry.form is None:
            return ElicitResult(action=action)
        value = answered.value or {}
        return (
            ElicitResult(action="cancel") if check(inquiry.form, value) else ElicitResult(action=action, content=value)
        )


def _inquiry(spec: ServerSpec, params: ElicitRequestParams) -> Inquiry | None:
    """Return a server's question as people are asked it, or None where nobody could answer."""
    said = f"{spec.name}: {spec.plain(params.message)}"
    if isinstance(params, ElicitRequestURLParams):
        return Inquiry(kind="elicitation", text=f"{said}\n{spec.plain(params.url)}", choices=("ok",))
    form = params.requested_schema
    if len(repr(form)) > MOST_SCHEMA or malformed(form) is not None or form.get("type") != "object":
        return None
    return Inquiry(kind="elicitation", text=said, form=form)


class Flights:
    """The calls of a connection that are under way.

    Args:
        spec: The server.
    """

    def __init__(self, spec: ServerSpec) -> None:
        self._spec = spec
        self.asks = False
        """The server asks questions that do not say which call they are about."""
        self.turn = asyncio.Lock()
        """Held by a call of such a server."""
        self.flying: list[Flight] = []

    async def elicit(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult | ErrorData:
        """Answer a question of the server; see the SDK's `ElicitationFnT`."""
        self.asks = True
        if len({each.context.thread for each in self.flying}) != 1:
            # Whoever is asked must not hear of another's call.
            return ElicitResult(action="cancel")
        return await self.flying[-1].ask(params)
