"""Streams a LangChain agent's run as the JSON texts of Langchain-Chatchat 0.2's callback handler.

It stores nothing: `recorder.py` writes runs into a log.
"""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any
from uuid import UUID

from langchain_core.agents import AgentFinish
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult

from stepwell.integrations.langchain.outlet import Done, Outlet
from stepwell.integrations.langchain.places import StreamingHandler
from stepwell.integrations.langchain.reading import answer_in, result_of, shown, text_of

KEYS = ("tool_name", "input_str", "output_str", "status", "run_id", "llm_token", "final_answer", "error")
"""The keys of a whole object, in order."""
STOP_WORDS = ("Observation:", "Thought", '"', "（", "\n", "\t")
"""Where the old handler cut the input that it showed: at the first of these words that it held."""
SPECIAL_TOKENS = ("Action", "<|observation|>")
"""What made the old handler fall silent until the end of a tool."""
NOBODY = "agent"
"""Stands for the tool where something failed before the first tool."""


class Status:
    """The states of a run, by the numbers that clients know."""

    start = 1
    running = 2
    complete = 3
    agent_action = 4
    agent_finish = 5
    error = 6
    tool_finish = 7


def dumps(obj: Mapping[str, object]) -> str:
    """Return an object as JSON, with its keys in order and text as it is."""
    return json.dumps(obj, ensure_ascii=False)


Snapshot = dict[str, str | int]


class CustomAsyncIteratorCallbackHandler(StreamingHandler):
    """Callback handler whose texts are read with `aiter`, while the agent runs.

    Callbacks wait while the queue is full, so an agent is never further ahead than `maxsize` texts; the last text of
    a run is always taken. Without any reader the agent therefore halts there. Once a reader has left before the
    end, nothing is kept and nobody waits. Make one for each run.

    Args:
        strict: Show things as the old handler did: the input of a tool cut at certain words, `Answer:` taken out of
            results, and no words after `Action` until a tool ends.
        maxsize: Texts that wait for the reader at most; 0 for no bound.

    Attributes:
        queue: The texts, with the methods of `asyncio.Queue`.
        done: Set when nothing follows: at the end of the outermost run, or by the caller.
        cur_tool: What was told last; empty after the finish.
        out: Whether words are shown.
        strict: As given.
    """

    def __init__(self, *, strict: bool = False, maxsize: int = 1000) -> None:
        super().__init__()
        self.queue = Outlet(maxsize)
        self.done = Done(self.queue.wake)
        self.cur_tool: Snapshot = {}
        self.out, self.strict = True, strict
        self._tools: dict[UUID, Snapshot] = {}
        """What was told of each tool that runs; several may at once."""
        self._parts: dict[str, tuple[object, str]] = {}
        """What was encoded last, with its value, by key."""
        self._lock = threading.Lock()
        self._told: BaseException | None = None
        self._finished = self._over = False

    def aiter(self) -> AsyncGenerator[str]:
        """Return the texts as they come, until the run is over and all were read."""
        self.queue.abandoned = False
        return self._texts()

    async def _texts(self) -> AsyncGenerator[str]:
        ended = False
        try:
            while (text := await self.queue.take(self.done.is_set)) is not None:
                yield text
            ended = True
        finally:
            if not ended:
                self.queue.abandon()

    # tools

    async def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Tell that a tool begins."""
        self.places.start(run_id, parent_run_id, is_tool=True)
        name = (serialized or {}).get("name") or kwargs.get("name") or ""
        if self.strict:
            word = next((word for word in STOP_WORDS if word in input_str), "")
            input_str = input_str.split(word, maxsplit=1)[0] if word else input_str
        tool: Snapshot = {"tool_name": str(name), "input_str": input_str, "output_str": ""}
        tool |= {"status": Status.agent_action, "run_id": run_id.hex, "llm_token": "", "final_answer": "", "error": ""}
        self._tools[run_id] = tool
        await self._tell(tool)

    async def on_tool_end(
        self,
        output: object,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Tell the result of a tool."""
        self.places.end(run_id)
        self.out = True
        text = result_of(output)
        if self.strict:
            text = text.replace("Answer:", "")
        await self._tell(self._tool(run_id), status=Status.tool_finish, output_str=text)

    async def on_tool_error(
        self,
        error: BaseException,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Tell that a tool failed."""
        self.places.end(run_id)
        self._told = error
        await self._tell(self._tool(run_id), status=Status.error, error=_words(error))

    def _tool(self, run: UUID) -> Snapshot:
        return self._tools.pop(run, self.cur_tool)

    # model calls

    async def on_llm_new_token(self, token: str | list[Any], **kwargs: Any) -> None:
        """Tell a piece of a reply."""
        if self._in_tool(kwargs):
            return
        text = text_of(token)
        if self.strict:
            word = next((word for word in SPECIAL_TOKENS if word in text), "")
            if word:
                self.out = False
                await self._tell(self.cur_tool, status=Status.running, llm_token=text.split(word)[0] + "\n")
        if text and self.out:
            await self._tell(self.cur_tool, status=Status.running, llm_token=text)

    async def on_llm_start(self, serialized: dict[str, Any] | None, prompts: list[str], **kwargs: Any) -> None:
        """Tell that a model is asked."""
        await self._model_start(kwargs)

    async def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: Sequence[Sequence[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Tell that a chat model is asked."""
        await self._model_start({"run_id": run_id, "parent_run_id": parent_run_id})

    async def _model_start(self, kwargs: Mapping[str, Any]) -> None:
        if kwargs.get("run_id") is not None:
            self.places.start(kwargs["run_id"], kwargs.get("parent_run_id"))
        if not self._in_tool(kwargs):
            await self._tell(self.cur_tool, status=Status.start, llm_token="")

    async def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        """Tell that a reply is whole."""
        if not self._model_over(kwargs):
            await self._tell(self.cur_tool, status=Status.complete, llm_token="\n")

    async def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        """Tell that a model failed."""
        if not self._model_over(kwargs):
            await self._fail(error)

    def _in_tool(self, kwargs: Mapping[str, Any]) -> bool:
        """Tell whether a model is asked by a tool: its words are the tool's business."""
        run: UUID | None = kwargs.get("run_id")
        return run is not None and self.places.of(run).tool is not None

    def _model_over(self, kwargs: Mapping[str, Any]) -> bool:
        run: UUID | None = kwargs.get("run_id")
        return run is not None and self.places.end(run).tool is not None

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
        """Begin anew with each outermost run."""
        if self.places.start(run_id, parent_run_id).root == run_id:
            self._finished = self._over = False
            self._told, self.cur_tool = None, {}
            self.done.clear()

    async def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Tell the finish at the end of the outermost run, where no agent told it."""
        if run_id in self.places and self.places.end(run_id).root == run_id:
            if not self._finished:
                await self._finish(answer_in(outputs))
            self._end()

    async def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Tell what the outermost run failed of, unless a tool or model told it."""
        if run_id in self.places and self.places.end(run_id).root == run_id:
            if error is not self._told:
                await self._fail(error)
            self._end()

    async def on_agent_finish(
        self,
        finish: AgentFinish,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Tell the final answer; agents of LangGraph leave it to the end of the outermost run."""
        place = self.places.of(run_id)
        if place.tool is None:
            await self._finish(finish.return_values["output"])

    def _end(self) -> None:
        self._over, self._told = True, None
        self._tools.clear()
        self.done.set()

    async def _finish(self, answer: object) -> None:
        self._finished = True
        await self._tell(self.cur_tool, force=True, status=Status.agent_finish, final_answer=shown(answer))
        self.cur_tool = {}

    async def _fail(self, error: BaseException) -> None:
        self._told = error
        with self._lock:
            self.cur_tool |= {"status": Status.error, "error": _words(error)}
            text = self._encode(self.cur_tool if "tool_name" in self.cur_tool else _whole(self.cur_tool))
        await self.queue.put(text, force=True)

    async def _tell(self, tool: Snapshot, *, force: bool = False, **changes: str | int) -> None:
        if self._over:  # a tool in a thread ended after its run
            return
        with self._lock:  # callbacks of tools come from their threads
            tool.update(changes)
            self.cur_tool = tool
            text = self._encode(tool)
        await self.queue.put(text, force=force)

    def _encode(self, tool: Snapshot) -> str:
        """Return what `dumps` does, without encoding a tool's result again for each word that follows it."""
        parts: list[str] = []
        for key, value in tool.items():
            known, text = self._parts.get(key, (None, ""))
            if known is not value:
                text = f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
                self._parts[key] = (value, text)
            parts.append(text)
        return f"{{{', '.join(parts)}}}"


def _whole(told: Snapshot) -> Snapshot:
    """Return an object with all keys, which clients need to show a failure."""
    empty: Snapshot = dict.fromkeys(KEYS, "")
    return {key: {**empty, "tool_name": NOBODY, **told}[key] for key in KEYS}


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
