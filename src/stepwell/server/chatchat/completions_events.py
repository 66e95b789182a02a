"""Turns a run's events into chunks of Langchain-Chatchat 0.3, with the status of either table.

It knows nothing of HTTP. A model without tools has no status, as it had none there.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from stepwell.events import (
    MessageEnded,
    MessageStarted,
    RunEnded,
    Stored,
    TextDelta,
    ThinkingDelta,
    ToolEnded,
    ToolStarted,
    Transient,
    Unknown,
)
from stepwell.messages import ToolCall
from stepwell.server.chatchat.frames import Event


class Statuses(NamedTuple):
    """The numbers for what happens to an agent."""

    tool_start: int | None = None
    tool_end: int | None = None
    error: int | None = None
    llm_start: int | None = None
    llm_new_token: int | None = None
    llm_end: int | None = None
    agent_action: int | None = None
    agent_finish: int | None = None


STATUSES = MappingProxyType({"0.3.1": Statuses(6, 7, 8, 1, 2, 3, 4, 5), "master": Statuses(7, 8, -1, 1, 2, 3, 4, 5)})
"""The table of 0.3.0 and 0.3.1, and that of the service's last state."""
_FAILED = frozenset(table.error for table in STATUSES.values())
"""Statuses with which an agent ends that failed; no other last chunk has one of them."""
TEXT = 1
"""The `message_type` of text."""
_SHOWN = ("answer", "limit")
"""Ends that are an answer in words."""


class Chunks:
    """Encodes one run.

    Args:
        id: Of the answer: its `message_id`.
        model: Its name, as the request has it.
        created: When it was asked for, in seconds since 1970.
        statuses: The table of an agent with tools; None for a model without.
    """

    def __init__(self, id: str, model: str, created: int, statuses: Statuses | None) -> None:
        self._id, self._model, self._created = id, model, created
        self._agent, self._status = statuses is not None, statuses or Statuses()
        self._calls: dict[str, ToolCall] = {}
        self._started: set[str] = set()
        self._thinking = self._text = 0
        self._answer = ""

    def encode(self, event: Stored | Transient | Unknown) -> list[Event]:
        """Return the chunks that one event becomes, often none."""
        match event:
            case MessageStarted():
                self._thinking = self._text = 0
                return [self._chunk("", self._status.llm_start)] if self._agent else []
            case ThinkingDelta():
                return self._thought(event.text)
            case TextDelta():
                self._text += len(event.text)
                return [self._chunk(event.text, self._status.llm_new_token)]
            case MessageEnded():
                return self._message_ended(event)
            case ToolStarted():
                return self._tool_started(event.call)
            case ToolEnded():
                return self._tool_ended(event)
            case RunEnded():
                return [self.ended(event.reason, event.detail, event.cause)]
            case _:
                pass
        return []

    def ended(self, reason: str, detail: str, cause: str = "") -> Event:
        """Return the last event: the answer, or what is wrong.

        Args:
            reason: As in `RunEnded`; anything else is a failure.
            detail: In words.
            cause: As in `RunEnded`.
        """
        if not self._agent:
            return self._chunk("") if reason == "answer" else {"error": detail}
        if reason == "answer" and cause != "question":
            return self._chunk(self._answer, self._status.agent_finish)
        shown = reason in _SHOWN or cause == "question"
        return self._chunk(detail, self._status.agent_finish if shown else self._status.error)

    def reference(self, name: str, content: str) -> Event:
        """Return the chunk that shows what a tool brought which was called before the model."""
        chunk = self._chunk(content)
        return {**chunk, "is_ref": True, "tool_call": name, "tool_output": content}

    def _thought(self, text: str) -> list[Event]:
        self._thinking += len(text)
        return [self._chunk(text, self._status.llm_new_token)] if self._agent and text else []

    def _message_ended(self, event: MessageEnded) -> list[Event]:
        message = event.message
        self._calls.update({call.id: call for call in message.calls})
        if event.stop == "error":
            return [self._chunk("\n", self._status.llm_new_token)] if self._text else []
        self._answer = message.content
        chunks = self._thought(message.thinking[self._thinking :])
        if rest := message.content[self._text :]:
            chunks.append(self._chunk(rest, self._status.llm_new_token))
        return [*chunks, self._chunk("", self._status.llm_end)] if self._agent else chunks

    def _tool_started(self, call: str) -> list[Event]:
        self._started.add(call)
        return [
            self._chunk("", self._status.agent_action),
            self._chunk("", self._status.tool_start, [self._tool(call)]),
        ]

    def _tool_ended(self, event: ToolEnded) -> list[Event]:
        before = [] if event.call in self._started else self._tool_started(event.call)  # it was refused
        ended = {**self._tool(event.call), "tool_output": event.content, "is_error": event.status != "ok"}
        return [*before, self._chunk("", self._status.tool_end, [ended])]

    def _tool(self, id: str) -> dict[str, Any]:
        call = self._calls.get(id) or ToolCall(id, "")
        function = {"name": call.name, "arguments": call.arguments}
        return {"index": 0, "id": id, "type": "function", "function": function, "tool_output": None, "is_error": False}

    def _chunk(self, content: str, status: int | None = None, calls: Sequence[dict[str, Any]] = ()) -> Event:
        delta = {"content": content, "tool_calls": [*calls]}
        return {
            "id": f"chat{self._id}",
            "object": "chat.completion.chunk",
            "model": self._model,
            "created": self._created,
            "status": status,
            "message_type": TEXT,
            "message_id": self._id,
            "is_ref": False,
            "choices": [{"delta": delta, "role": "assistant"}],
        }


def whole(chunks: Sequence[Event]) -> Event:
    """Return what a stream of chunks comes to as one answer; an answer that an agent gives twice stands once."""
    last = chunks[-1]
    if "error" in last:
        return last
    texts = [chunk["choices"][0]["delta"]["content"] for chunk in chunks if not chunk["is_ref"]]
    if last["status"] in _FAILED:
        return {"error": texts[-1]}
    calls = [
        call
        for chunk in chunks
        for call in chunk["choices"][0]["delta"]["tool_calls"]
        if call["tool_output"] is not None
    ]
    content = "".join(texts) if last["status"] is None else texts[-1]
    message = {"role": "assistant", "content": content, "finish_reason": "stop", "tool_calls": calls}
    return {**last, "object": "chat.completion", "choices": [{"message": message}]}
