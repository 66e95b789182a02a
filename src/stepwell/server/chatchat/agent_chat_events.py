"""Turns a run's events into the old service's: `answer`, `tools`, `final_answer`, one key each.

It knows nothing of HTTP. Its labels are part of the wire format; do not translate them.
"""

from __future__ import annotations

import json
from types import MappingProxyType

from stepwell.events import (
    CallDelta,
    MessageEnded,
    MessageStarted,
    Recorded,
    RunEnded,
    RunStarted,
    Stored,
    TextDelta,
    ThinkingDelta,
    ToolEnded,
    Transient,
    Unknown,
)
from stepwell.messages import Message, ToolCall
from stepwell.runs.channel import Item
from stepwell.server.chatchat.frames import Event

FENCE = "\n```\n"
UNMARKED = "调用agent工具失败，该回答为大模型自身能力的回答:\n\n `{raw}`"
"""The old answer where the model's reply followed no form."""
OUT_OF_STEPS = "Agent stopped due to iteration limit or time limit."
"""The old answer where a limit was reached."""
UNFINISHED = MappingProxyType(
    {
        "en": "The connection ends here, before the run does; thread {thread} will hold its answer.",
        "zh": "连接在运行结束之前中断；最终回答将保存在线程 {thread} 中。",
    }
)
"""The answer where a stream ends before its run: the server stops, or the key was revoked."""
MARKER = "Final Answer: "
MARKED = ("react", "qwen")
"""Dialects in which the marker stands before every answer; in others it only parts a thought from it."""


class Encoder:
    """Encodes one run, event by event, from its `RunStarted` on.

    Text is sent as it streams; what a reader has missed of it is sent when its message ends.
    """

    def __init__(self) -> None:
        self._dialect = self._marked = False
        self._tools: tuple[str, ...] = ()
        self._calls: dict[str, ToolCall] = {}
        self._thinking = self._text = 0
        self._reply: Message | None = None

    def encode(self, event: Stored | Transient | Unknown) -> list[Event]:
        """Return the old events that one event becomes, often none."""
        match event:
            case RunStarted():
                self._dialect, self._tools = bool(event.spec.dialect), event.spec.tools
                self._marked = event.spec.dialect in MARKED
            case MessageStarted():
                self._thinking = self._text = 0
            case ThinkingDelta():
                return self._answer(thinking=event.text)
            case TextDelta():
                return self._answer(text=event.text)
            case MessageEnded():
                return self._message_ended(event)
            case ToolEnded():
                return [{"answer": ""}, {"tools": self._tool(event)}]
            case RunEnded(cause="question"):  # nobody can answer here: what is asked, and where, is the answer
                self._thinking = self._text = 0
                return [*self._answer(text=event.detail), {"final_answer": event.detail}]
            case RunEnded():
                return [{"final_answer": self._final(event)}]
            case _:
                pass
        return []

    def _answer(self, thinking: str = "", text: str = "") -> list[Event]:
        marker = ""
        if text and self._dialect and not self._text and (self._thinking or self._marked):
            marker = ("\n" if self._thinking else "") + MARKER
        self._thinking += len(thinking)
        self._text += len(text)
        shown = thinking + marker + text
        return [{"answer": shown}] if shown else []

    def _message_ended(self, event: MessageEnded) -> list[Event]:
        message = event.message
        self._calls.update({call.id: call for call in message.calls})
        if event.stop == "error":
            return []
        self._reply = message
        if message.unmarked:  # it was streamed as a thought
            return self._answer(thinking="" if self._thinking else message.content)
        return self._answer(message.thinking[self._thinking :]) + self._answer(text=message.content[self._text :])

    def _tool(self, event: ToolEnded) -> list[str]:
        call = self._calls.get(event.call) or ToolCall(event.call, "")
        if event.status == "unknown_tool":
            asked = {"requested_tool_name": call.name, "available_tool_names": list(self._tools)}
            return _success("invalid_tool", str(asked), event.content)
        if event.status == "ok":
            return _success(call.name, _shown(call.arguments), event.content.removeprefix("Answer:"))
        error = f"错误信息: {event.content}"
        return [FENCE, f"工具名称: {call.name}", "工具状态: 调用失败", error, "重新开始尝试", FENCE]

    def _final(self, event: RunEnded) -> str:
        reply = self._reply
        if event.reason == "limit":
            return OUT_OF_STEPS
        if event.reason == "answer" or event.cause == "empty_reply":
            if reply is None or reply.unmarked or not (reply.content or reply.raw):
                return UNMARKED.format(raw=reply.raw if reply else "")
            return reply.content
        return event.detail


def _success(name: str, given: str, output: str) -> list[str]:
    return [FENCE, f"工具名称: {name}", "工具状态: 调用成功", f"工具输入: {given}", f"工具输出: {output}", FENCE]


def _shown(arguments: str) -> str:
    """Return what ran as people read it: the text of a tool's one string argument, else the JSON."""
    try:
        values = json.loads(arguments)
    except ValueError:
        return arguments
    if isinstance(values, dict) and len(values) == 1:  # pyright: ignore[reportUnknownArgumentType]
        (value,) = values.values()  # pyright: ignore[reportUnknownVariableType]
        if isinstance(value, str):
            return value
    return arguments


def own(item: Item, inner: set[int]) -> bool:
    """Tell whether something happened to the run's own agent: old clients know no other.

    Args:
        item: What happened.
        inner: Numbers of the messages of other agents; filled here.
    """
    event = item.event
    if isinstance(item, Recorded):
        if item.path and isinstance(event, MessageStarted):
            inner.add(item.seq)
        return not item.path
    return not isinstance(event, TextDelta | ThinkingDelta | CallDelta) or event.message not in inner
