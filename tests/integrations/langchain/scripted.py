"""LangChain agents over a scripted chat model: what they say and call is given, nothing else is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool
from pydantic import PrivateAttr


class Says(BaseChatModel):
    """Answers with the next of its replies, a word at a time; an exception is raised, a function is called first."""

    replies: list[Any]
    _at: int = PrivateAttr(default=0)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self

    def _next(self) -> AIMessage:
        reply = self.replies[self._at]
        self._at += 1
        return reply

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._next())])

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        yield from self._chunks(self._next())

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        reply = self._next()
        if callable(reply):
            reply = await reply()
        for chunk in self._chunks(reply):
            await asyncio.sleep(0)
            yield chunk

    def _chunks(self, reply: AIMessage | Exception) -> Iterator[ChatGenerationChunk]:
        if isinstance(reply, Exception):
            raise reply
        words = reply.text.split(" ")
        for place, word in enumerate(words):
            if word:
                text = word if place == len(words) - 1 else word + " "
                yield ChatGenerationChunk(message=AIMessageChunk(content=text))
        calls = [
            tool_call_chunk(name=each["name"], args=json.dumps(each["args"]), id=each["id"], index=place)
            for place, each in enumerate(reply.tool_calls)
        ]
        if calls:
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=calls))
        if reply.usage_metadata:
            yield ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=reply.usage_metadata))


def asks(text: str, *calls: tuple[str, dict[str, Any]], first: int = 1) -> AIMessage:
    """Return a reply that calls tools, with ids `call_1`, `call_2` and so on."""
    made = [{"name": name, "args": args, "id": f"call_{place}"} for place, (name, args) in enumerate(calls, first)]
    return AIMessage(text, tool_calls=made)


def agent(
    replies: Sequence[AIMessage | Exception | Callable[[], Any]],
    *tools: BaseTool,
    system: str | None = None,
    middleware: Sequence[Any] = (),
) -> Any:
    """Return an agent of LangChain 1.x over a script."""
    return create_agent(Says(replies=list(replies)), list(tools), system_prompt=system, middleware=middleware)


def given(*handlers: BaseCallbackHandler) -> RunnableConfig:
    """Return a config with handlers."""
    return {"callbacks": list(handlers)}


def user(text: str) -> dict[str, Any]:
    """Return the input of an agent."""
    return {"messages": [("user", text)]}
