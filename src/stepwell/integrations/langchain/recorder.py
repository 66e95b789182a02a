"""Records a LangChain agent's runs into a thread, so that they are seen and followed like our own.

It maps callbacks to what happened; `recording.py` knows which events that becomes. It decides nothing, and streams
to nobody: whoever follows the thread sees it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any
from uuid import UUID

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.outputs import LLMResult

from stepwell.errors import ConfigError
from stepwell.integrations.langchain.outlet import Home, home
from stepwell.integrations.langchain.places import Place, StreamingHandler
from stepwell.integrations.langchain.reading import Piece, pieces_of, text_of, thinking_of
from stepwell.integrations.langchain.recording import Recording, Request, Where
from stepwell.messages import clean
from stepwell.runs.service import RunService


class StepwellRecorder(StreamingHandler):
    """Callback handler that writes what an agent does into one thread, run after run.

    A run that cannot be recorded does not go on: a callback that cannot write raises. So does one of a run that
    somebody cancelled, which is how the agent learns of it. Under LangChain's synchronous methods, which swallow
    what async handlers raise, neither holds.

    Args:
        service: The threads.
        owner: Whose thread it is.
        thread: The thread; empty makes one with the first run.
        agent: A name for the agent, shown with its runs.
        language: Of notices: `en` or `zh`.

    Attributes:
        thread: The thread's id; empty until the first run has begun.
        run: Number of the newest run; 0 before the first.

    Raises:
        ConfigError: It was not made inside the loop in which the service works, or an argument is wrong.
    """

    raise_error = True

    def __init__(
        self,
        service: RunService,
        owner: str = "local",
        thread: str = "",
        *,
        agent: str = "langchain",
        language: str = "en",
    ) -> None:
        super().__init__()
        loop = home()
        if loop is None:
            raise ConfigError("StepwellRecorder: make it in an async function, in the loop that the service works in.")
        if type(agent) is not str or language not in ("en", "zh"):  # what is stored must be read again
            raise ConfigError("StepwellRecorder: `agent` is a name, and `language` is `en` or `zh`.")
        self._home, self._turn = Home(loop), asyncio.Lock()
        self._where = Where(service, owner, clean(agent), language)
        self._recordings: dict[UUID, Recording] = {}
        self.thread, self.run = thread, 0

    # the run

    async def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the input of the outermost run; it begins with the first thing that happens in it."""
        if self.places.start(run_id, parent_run_id).root == run_id:
            self._recordings[run_id] = Recording(self._where, inputs)

    async def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Record results that came without a tool's callback, and the end of the outermost run."""
        place, recording = self._leave(run_id)
        if recording is None or place.tool is not None:
            return
        await self._do(recording.results(outputs))
        if place.root == run_id:
            await self._do(self._ended(recording, outputs, None))

    async def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Record the end of an outermost run that failed."""
        place, recording = self._leave(run_id)
        if recording is None:
            return
        if place.root == run_id:
            await self._do(self._ended(recording, None, error))
        else:
            recording.node_failed(error)

    def _leave(self, run: UUID) -> tuple[Place, Recording | None]:
        known = run in self.places
        place = self.places.end(run)
        recording = self._recordings.get(place.root) if known else None
        if place.root == run:
            self._recordings.pop(run, None)
        return place, recording

    async def _ended(self, recording: Recording, outputs: object, error: BaseException | None) -> None:
        await self._begun(recording, None)
        await recording.end(outputs, error)

    async def _begun(self, recording: Recording, request: Request | None) -> None:
        """Begin the run if it has not begun."""
        if recording.run is None and not recording.refused:
            run = await recording.begin(self.thread, request)
            self.thread, self.run = run.thread, run.number

    # model calls

    async def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: Sequence[Sequence[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record that a model is asked."""
        asked = list(messages[0]) if messages else []
        params: dict[str, Any] = kwargs.get("invocation_params") or {}
        given = {**params, **(metadata or {})}
        await self._ask(Request(run_id, asked, given), parent_run_id)

    async def on_llm_start(
        self,
        serialized: dict[str, Any] | None,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record that a model that knows no chat is asked."""
        asked: list[BaseMessage] = [HumanMessage(prompt) for prompt in prompts[:1]]
        await self._ask(Request(run_id, asked, metadata or {}), parent_run_id)

    async def _ask(self, request: Request, parent: UUID | None) -> None:
        place = self.places.start(request.id, parent)
        if place.root == request.id:  # a model without a chain around it
            self._recordings[request.id] = Recording(self._where, {"messages": request.messages})
        recording = self._recordings.get(place.root)
        if recording is not None and place.tool is None:
            await self._do(self._asked(recording, request))

    async def _asked(self, recording: Recording, request: Request) -> None:
        await self._begun(recording, request)
        await recording.asked(request)

    async def on_llm_new_token(self, token: str | list[Any], *, chunk: Any = None, run_id: UUID, **kwargs: Any) -> None:
        """Show a piece of a reply."""
        place = self.places.of(run_id)
        recording = self._recordings.get(place.root)
        if recording is None:
            return
        message = getattr(chunk, "message", None)
        read = isinstance(message, BaseMessage)
        thinking = thinking_of(message) if read else ""
        pieces: Sequence[Piece] = pieces_of(message) if read else ()
        await self._do(recording.piece(run_id, place.tool, text_of(token), thinking, pieces))

    async def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Record a whole reply."""
        place, recording = self._leave(run_id)
        if recording is None or place.tool is not None:
            return
        await self._do(recording.replied(run_id, response))
        if place.root == run_id:
            await self._do(self._ended(recording, None, None))

    async def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Record that a model failed."""
        place, recording = self._leave(run_id)
        if recording is None or place.tool is not None:
            return
        await self._do(recording.model_failed(run_id, error))
        if place.root == run_id:
            await self._do(self._ended(recording, None, error))

    # tools

    async def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record that a tool is about to run, before it does."""
        place = self.places.start(run_id, parent_run_id, is_tool=True)
        recording = self._recordings.get(place.root)
        if recording is None:
            return
        name = str((serialized or {}).get("name") or kwargs.get("name") or "")
        threaded = self._home.loop is not home()
        given: Mapping[str, object] | str = inputs if inputs is not None else input_str
        call = str(kwargs.get("tool_call_id") or "")
        await self._do(self._called(recording, place, (run_id, call, name, given, threaded)))

    async def _called(
        self, recording: Recording, place: Place, called: tuple[UUID, str, str, Mapping[str, object] | str, bool]
    ) -> None:
        run, call, name, given, threaded = called
        if place.tool is not None:
            recording.tool_inside(place.tool, name, given)
            return
        await self._begun(recording, None)
        await recording.tool_started(run, call, name, given, threaded=threaded)

    async def on_tool_end(self, output: object, *, run_id: UUID, **kwargs: Any) -> None:
        """Record the result of a tool."""
        place, recording = self._leave(run_id)
        if recording is not None and place.tool is None:
            await self._do(recording.tool_ended(run_id, output))

    async def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Record that a tool failed."""
        place, recording = self._leave(run_id)
        if recording is not None and place.tool is None:
            await self._do(recording.tool_ended(run_id, error))

    async def _do(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something in the loop of the service, in the order in which callbacks come.

        A callback of another thread whose call blocks that loop cannot wait for it: it is done afterwards.
        """
        if home() is self._home.loop:
            return await self._in_turn(work)
        assert self._home.loop is not None
        future = asyncio.run_coroutine_threadsafe(self._in_turn(work), self._home.loop)
        if await self._home.wait(future):
            future.result()
        return None

    async def _in_turn(self, work: Coroutine[Any, Any, None]) -> None:
        async with self._turn:
            await work
