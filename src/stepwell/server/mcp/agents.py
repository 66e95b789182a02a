"""Agents as tools: a call starts a run and waits for its end, telling what happens and asking what the run asks.

A client of before 2026-07-28 is asked while its call waits. A later one gets the questions as the call's outcome, and
calls again with the answers; the run waits meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import Annotated, Any

import anyio
import mcp_types as types
import msgspec
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from stepwell.config import Config
from stepwell.errors import InputError, StepwellError
from stepwell.messages import Message, clean
from stepwell.runs import people
from stepwell.runs.catalog import Catalog, Wish
from stepwell.runs.channel import Cursor
from stepwell.runs.people import QuestionInfo
from stepwell.runs.requests import NewThread, RunRef
from stepwell.runs.service import RunService
from stepwell.server import sse
from stepwell.server.auth import Caller
from stepwell.server.mcp.answers import NOBODY, Given, decide
from stepwell.server.mcp.questions import form_of
from stepwell.server.mcp.turn import Turn

PREFIX = "ask_"
DAY = 24 * 3600 * 1000
"""Milliseconds of a day."""
CANCELLING = 5.0
"""Seconds that the cancel of a run may take."""

_log = logging.getLogger("stepwell.server")
Context = ServerRequestContext[Any, Any]
RunNumber = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
_INPUT = {
    "type": "object",
    "properties": {
        "message": {"type": "string", "description": "What to say to the agent."},
        "thread": {"type": "string", "description": "The thread to go on with; a new one without it."},
    },
    "required": ["message"],
}
_OUTPUT = {
    "type": "object",
    "properties": {"thread": {"type": "string"}, "run": {"type": "integer"}, "answer": {"type": "string"}},
    "required": ["thread", "run", "answer"],
}


class Agents:
    """The agents of the settings, as tools.

    Args:
        config: How long the threads that they make are kept.
        service: Threads and runs.
        catalog: The agents.
    """

    def __init__(self, config: Config, service: RunService, catalog: Catalog) -> None:
        self._keep = config.mcp_server.keep_days * DAY
        self._service, self._catalog = service, catalog
        self.stopping = False
        """The server is about to end; runs are left to be gone on with."""

    async def list(
        self, context: Context, caller: Caller, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        """Return a tool for each agent."""
        tools = [
            types.Tool(
                name=PREFIX + each.name,
                description=each.description or "Ask the agent, which has tools of its own.",
                input_schema=_INPUT,
                output_schema=_OUTPUT,
            )
            for each in self._catalog.agents()
        ]
        return types.ListToolsResult(tools=tools)

    async def call(
        self, context: Context, caller: Caller, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        """Run an agent to its end, or until a client that is to call again has something to answer."""
        capabilities = context.session.client_capabilities
        can_ask = capabilities is not None and capabilities.elicitation is not None
        entering = asyncio.create_task(self._entered(caller, params, can_ask))
        try:
            ref = await asyncio.shield(entering)
            return await _Call(self._service, context, caller, ref, can_ask).run()
        except StepwellError as error:
            return _failed(str(error))
        except asyncio.CancelledError:
            if not self.stopping:
                with anyio.move_on_after(CANCELLING, shield=True):
                    await self._cancel(caller, entering)
            raise

    async def _cancel(self, caller: Caller, entering: asyncio.Task[RunRef]) -> None:
        """Cancel the run of a call, also where it has only just begun."""
        try:
            ref = await entering
            await self._service.cancel(caller.owner, ref.thread, ref.run, "The client cancelled.")
        except (StepwellError, MCPError) as error:  # there is none, or it is over
            _log.info("a run of MCP was not cancelled: %s", error)

    async def _entered(self, caller: Caller, params: types.CallToolRequestParams, can_ask: bool) -> RunRef:
        """Start the run that is asked for, or find the one whose questions are answered."""
        names = [each.name for each in self._catalog.agents()]
        agent = params.name.removeprefix(PREFIX)
        if agent not in names or agent == params.name:
            raise MCPError(types.INVALID_PARAMS, f"There is no tool {params.name[:100]!r}.")
        if params.request_state is not None:
            return await self._answered(caller, params)
        given = params.arguments or {}
        message, thread = given.get("message"), given.get("thread", "")
        if not isinstance(message, str) or not isinstance(thread, str) or not message.strip():
            raise InputError(
                "`message` must be a text that says something, and `thread` the id of a thread.", "message"
            )
        said = Message("user", clean(message))
        spec = self._catalog.spec(Wish(agent=agent, text=said.content, face="mcp", people=can_ask, key=caller.key))
        await self._catalog.admit(spec)
        if thread:
            return await self._service.start(caller.owner, said, spec, thread=clean(thread), policy="reject")
        new = NewThread(expires=self._service.now() + self._keep)
        return await self._service.start(caller.owner, said, spec, new=new)

    async def _answered(self, caller: Caller, params: types.CallToolRequestParams) -> RunRef:
        try:
            thread, run = msgspec.json.decode(params.request_state or "", type=tuple[str, RunNumber])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InputError("`requestState` is not as it was sent.", "requestState") from error
        await self._service.info(caller.owner, thread)
        await self._service.check_run(thread, run)
        found = await people.questions(self._service, caller.owner, thread)
        open_ = {str(each.seq): each for each in found if form_of(each) is not None}
        said = (params.input_responses or {}).items()
        given = [Given(open_[key], each) for key, each in said if key in open_ and isinstance(each, types.ElicitResult)]
        ref = RunRef(thread, run)
        await decide(self._service, caller.owner, ref, given)
        return ref


class _Call:
    """A call that waits for its run.

    Args:
        service: The threads.
        context: Of the request.
        caller: Who asks.
        ref: The run.
        can_ask: Whether the client can put questions to a person.
    """

    def __init__(self, service: RunService, context: Context, caller: Caller, ref: RunRef, can_ask: bool) -> None:
        self._service, self._context, self._caller = service, context, caller
        self._ref, self._can_ask = ref, can_ask
        self._direct = context.session.can_send_request
        self._turn = Turn(ref.run)
        self._asking: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> types.CallToolResult | types.InputRequiredResult:
        """Follow the run to its end, or to questions that the client is to come back with."""
        try:
            return await self._follow()
        finally:
            for each in self._asking.values():
                each.cancel()

    async def _follow(self) -> types.CallToolResult | types.InputRequiredResult:
        owner, thread, run = self._caller.owner, self._ref.thread, self._ref.run
        batches = self._service.follow(owner, thread, Cursor(run - 1))
        async with aclosing(sse.watched(batches, self._caller, sse.Until(run))) as watched:
            async for items in watched:
                told = [(self._turn.done, text) for item in items if (text := self._turn.take(item))]
                for done, text in told[-3:]:
                    await self._context.session.report_progress(done, None, text)
                if self._turn.asked and self._can_ask:
                    self._turn.asked = False
                    if asked := await self._ask():
                        return asked
        end = self._turn.end
        if end is None:
            return _failed(f"The server stops; thread {thread} will hold the answer.")
        if end.reason != "answer":
            return _failed(f"The run ended without an answer: {end.reason}. {end.detail}".strip())
        answer = {"thread": thread, "run": run, "answer": self._turn.answer}
        content: list[types.ContentBlock] = [types.TextContent(text=self._turn.answer)]
        return types.CallToolResult(content=content, structured_content=answer)

    async def _ask(self) -> types.InputRequiredResult | None:
        """Put open questions of the run to the person behind the client."""
        found = await people.questions(self._service, self._caller.owner, self._ref.thread)
        mine = {each.seq: each for each in found if each.run == self._ref.run and each.kind != "result"}
        # The protocol has no form for some, which then count as turned down.
        if formless := [seq for seq, each in mine.items() if form_of(each) is None]:
            await self._decide([Given(mine.pop(seq), NOBODY) for seq in formless])
        for seq in self._asking.keys() - mine:
            self._asking.pop(seq).cancel()
        if not self._direct:
            return self._required(mine) if mine else None
        for seq, each in mine.items():
            if seq not in self._asking:
                self._asking[seq] = asyncio.create_task(self._put(each))
        return None

    def _required(self, asked: dict[int, QuestionInfo]) -> types.InputRequiredResult:
        requests: dict[str, types.InputRequest] = {
            str(seq): types.ElicitRequest(params=_params(each)) for seq, each in asked.items()
        }
        state = msgspec.json.encode((self._ref.thread, self._ref.run)).decode()
        return types.InputRequiredResult(input_requests=requests, request_state=state)

    async def _put(self, asked: QuestionInfo) -> None:
        """Ask the client, which may be long, and decide as it says."""
        params = _params(asked)
        try:
            answer = await self._context.session.elicit_form(
                params.message, params.requested_schema, self._context.request_id
            )
        except (MCPError, ValidationError) as error:  # it cannot ask after all, which is no answer
            _log.info("a client of MCP does not put a question to anybody: %s", type(error).__name__)
            answer = NOBODY
        await self._decide([Given(asked, answer)])

    async def _decide(self, given: list[Given]) -> None:
        try:
            await decide(self._service, self._caller.owner, self._ref, given)
        except StepwellError as error:  # the thread is gone, or cannot be written
            _log.info("questions of a run were not decided over MCP: %s", error)


def _params(asked: QuestionInfo) -> types.ElicitRequestFormParams:
    form = form_of(asked)
    assert form is not None
    return types.ElicitRequestFormParams(message=form.message, requested_schema=form.schema)


def _failed(words: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=words)], is_error=True)
