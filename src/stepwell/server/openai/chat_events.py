"""Turns a run's events into a chat completion: live chunks, or one document.

It knows nothing of HTTP. `Turn` says what a client sees, one thing after the other; `Chunks` and `Document` write it
down. https://platform.openai.com/docs/api-reference/chat/streaming has the form of chunks.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec

from stepwell.events import (
    Answered,
    Asked,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    Recorded,
    RunEnded,
    RunStarted,
    RunWaiting,
    StepStarted,
    Stored,
    TextDelta,
    ThinkingDelta,
    ToolEnded,
    ToolProgress,
    ToolStarted,
    Transient,
    Unknown,
)
from stepwell.messages import Message, ToolCall, Usage
from stepwell.runs.channel import Item

Finish = Literal["stop", "length", "tool_calls", "content_filter"]

BREAK = "\n\n"
"""Stands between the visible texts of two steps."""
LONGEST_SHOWN = 2000
"""Characters of a tool's result that are told as its progress."""

_json = msgspec.json.Encoder().encode


class End(msgspec.Struct, frozen=True):
    """How an answer ended.

    Args:
        finish: Why; None for a failure.
        cause: As in `RunEnded`; `tool_calls` where the client's results are waited for.
        detail: The cause in words; empty where there is none to tell.
    """

    finish: Finish | None
    cause: str = ""
    detail: str = ""


class Outlet(Protocol):
    """Writes down what a client sees."""

    def text(self, text: str) -> None:
        """Write visible text."""
        ...

    def thinking(self, text: str) -> None:
        """Write thinking."""
        ...

    def call(self, index: int, id: str, call: ToolCall) -> None:
        """Write a call that the client carries out."""
        ...

    def progress(self, told: dict[str, Any]) -> None:
        """Write what the agent does besides."""
        ...

    def void(self) -> bool:
        """Take back what was written of the reply that is open, and tell whether that could be done."""
        ...

    def kept(self) -> None:
        """Keep what was written of the reply that was open."""
        ...


def call_id(thread: str, question: int) -> str:
    """Return the id under which a client is told of a call.

    Args:
        thread: The thread's id.
        question: Number of the question for the call's result.
    """
    return f"call_{thread}_{question}"


class Turn:
    """Follows a run, item by item from its `RunStarted` on, until the client has its answer or must do something.

    Text is written as it streams; what a reader has missed of it is written when its message ends.

    Args:
        thread: The thread's id.
        outlet: Writes it down.
        given: Numbers of the questions that this request answers: what came before their answers is known to the
            client.

    Attributes:
        end: How the answer ended; None while it goes on.
        usage: Of all replies of the answer together.
    """

    def __init__(self, thread: str, outlet: Outlet, given: frozenset[int] = frozenset()) -> None:
        self._thread, self._outlet, self._given = thread, outlet, set(given)
        self._client: frozenset[str] = frozenset()
        self._form = self._hidden = False
        self._calls: dict[str, ToolCall] = {}
        self._open: dict[int, Asked] = {}
        self._told = 0
        self._message = self._text = self._thinking = 0
        self._any = self._before = False
        self._reply: MessageEnded | None = None
        self.end: End | None = None
        self.usage = Usage()

    def take(self, item: Item) -> None:
        """Take in the next item."""
        event = item.event
        if isinstance(item, Recorded):
            self._stored(item, item.event)
        elif self._given:
            pass
        elif isinstance(event, TextDelta):
            if event.message == self._message and not (self._form or self._hidden):
                self._say(event.text)
        elif isinstance(event, ThinkingDelta):
            if event.message == self._message:
                self._think(event.text)
        elif isinstance(event, ToolProgress) and event.call in self._calls:
            self._outlet.progress({"type": "tool_progress", "call": event.call, "text": event.text})

    def _stored(self, item: Recorded, event: Stored | Transient | Unknown) -> None:
        match event:
            case StepStarted() if not item.path:
                self._hidden = bool(event.reply) or event.aside  # forms and asides are not for people
            case MessageStarted() if not item.path:
                self._message, self._text, self._thinking, self._before = item.seq, 0, 0, self._any
            case MessageEnded():
                self._ended(item.path, event)
            case ToolStarted() | ToolEnded():
                self._tool(item.path, event)
            case Asked() | Answered() | RunWaiting():
                self._people(item, event)
            case MessageAdded(source="engine") if not item.path and event.message.role == "assistant":
                self._added(event.message)
            case RunStarted():
                self._client = frozenset(each.name for each in event.spec.client_tools)
                self._form = event.spec.output is not None
            case RunEnded():
                self._over(event)
            case _:
                pass

    # replies

    def _say(self, text: str) -> None:
        if not self._text and self._any:
            self._outlet.text(BREAK)
        self._text += len(text)
        self._any = True
        self._outlet.text(text)

    def _think(self, text: str) -> None:
        self._thinking += len(text)
        self._outlet.thinking(text)

    def _ended(self, path: str, event: MessageEnded) -> None:
        message = event.message
        self._calls.update((call.id, call) for call in message.calls)
        if self._given:
            return
        self.usage += event.usage or Usage()
        if path:
            return
        if event.stop == "error":
            if self._outlet.void():
                self._any = self._before
            return
        self._reply = event
        if rest := message.thinking[self._thinking :]:
            self._think(rest)
        if not (self._form or self._hidden) and (rest := message.content[self._text :]):
            self._say(rest)
        self._message = 0
        self._outlet.kept()

    def _added(self, message: Message) -> None:
        """Write what an engine says in the agent's name."""
        if not self._given and message.content:
            self._outlet.text(BREAK + message.content if self._any else message.content)
            self._any = True
            self._outlet.kept()

    # tools

    def _tool(self, path: str, event: ToolStarted | ToolEnded) -> None:
        call = self._calls.get(event.call)
        if self._given or call is None or call.name in self._client:
            return
        told: dict[str, Any] = {"type": "tool_started", "call": event.call, "name": call.name}
        if isinstance(event, ToolStarted):
            told["arguments"] = call.arguments
        else:
            told |= {"type": "tool_ended", "status": event.status, "content": event.content[:LONGEST_SHOWN]}
        self._outlet.progress(told | ({"path": path} if path else {}))

    def _people(self, item: Recorded, event: Asked | Answered | RunWaiting) -> None:
        match event:
            case Asked():
                self._open[item.seq] = event
                if not self._given:
                    self._hand(item.seq, event)
            case Answered():
                self._open.pop(event.question, None)
                if event.question in self._given:
                    self._answered(event.question)
            case RunWaiting():
                if self._open and not self._given and all(each.kind == "result" for each in self._open.values()):
                    self.end = End("tool_calls", "tool_calls")

    def _answered(self, question: int) -> None:
        """Go on where the client's last result came; what else was asked by then is news to it."""
        self._given.discard(question)
        if not self._given:
            for seq, asked in self._open.items():
                self._hand(seq, asked)

    def _hand(self, seq: int, asked: Asked) -> None:
        call = self._calls.get(asked.call)
        if asked.kind == "result" and call is not None:
            self._outlet.call(self._told, call_id(self._thread, seq), call)
            self._told += 1
            return
        told = {"type": "asked", "question": seq, "kind": asked.kind, "text": asked.text}
        self._outlet.progress(told | ({"call": asked.call} if asked.call else {}))

    # the end

    def _over(self, event: RunEnded) -> None:
        cut = self._reply is not None and self._reply.stop == "length"
        if self._form and event.reason == "answer" and self._reply and not self._reply.message.calls:
            self._say(self._reply.message.content)
        match event.reason, event.cause:
            case ("answer", "length"):
                self.end = End("length", event.cause, event.detail)
            case ("answer", _):
                self.end = End("stop", event.cause)
            case ("limit", _):
                self.end = End("length", event.cause, event.detail)
            case (_, "content_filter"):
                self.end = End("content_filter", event.cause, event.detail)
            case (_, "empty_reply"):  # nothing was said, and that is what the client is told
                self.end = End("length" if cut else "stop", event.cause, event.detail)
            case _:
                self.end = End(None, event.cause or event.reason, event.detail)


def usage_of(usage: Usage) -> dict[str, Any]:
    """Return usage as OpenAI counts it."""
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


def _told(end: End, thread: str, run: int) -> dict[str, Any]:
    """Return what is told of an answer besides: where its run is, and why it ended early."""
    why = {"cause": end.cause, "detail": end.detail} if end.detail else {}
    return {"thread": thread, "run": run, **why}


class Chunks:
    """Writes an answer as server-sent events.

    Args:
        thread: The thread's id.
        run: The run's number.
        model: As the request named it.
        created: Seconds since 1970.
        usage: Whether the client asked for usage.
    """

    def __init__(self, thread: str, run: int, model: str, created: int, *, usage: bool) -> None:
        self._thread, self._run, self._usage = thread, run, usage
        self._begin = b'data: {"id":"chatcmpl-%s-%d","object":"chat.completion.chunk","created":%d,"model":%s,' % (
            thread.encode(),
            run,
            created,
            _json(model),
        )
        self._choice = self._begin + b'"choices":[{"index":0,"delta":'
        self._close = b'],"usage":null' if usage else b"]"
        self._more = b',"logprobs":null,"finish_reason":null}' + self._close
        self._end = self._more + b"}\n\n"
        self._frames: list[bytes] = []

    def taken(self) -> bytes:
        """Return what was written since the last call."""
        frames, self._frames = self._frames, []
        return b"".join(frames)

    def start(self) -> None:
        """Write the first chunk, which says who speaks."""
        self._frames.append(self._choice + b'{"role":"assistant","content":""}' + self._end)

    def text(self, text: str) -> None:
        """Write visible text."""
        self._frames.append(b'%s{"content":%s}%s' % (self._choice, _json(text), self._end))

    def thinking(self, text: str) -> None:
        """Write thinking, in the field that most endpoints have for it."""
        self._frames.append(b'%s{"reasoning_content":%s}%s' % (self._choice, _json(text), self._end))

    def call(self, index: int, id: str, call: ToolCall) -> None:
        """Write a call: its name first, then its arguments."""
        named = {"index": index, "id": id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        given = {"index": index, "function": {"arguments": call.arguments or "{}"}}
        for piece in (named, given):
            self._frames.append(b'%s{"tool_calls":[%s]}%s' % (self._choice, _json(piece), self._end))

    def progress(self, told: dict[str, Any]) -> None:
        """Write a chunk without a delta, which strict clients pass over."""
        self._frames.append(b'%s{}%s,"stepwell":%s}\n\n' % (self._choice, self._more, _json(told)))

    def void(self) -> bool:
        """Leave what was sent: it cannot be taken back."""
        return False

    def kept(self) -> None:
        """Leave what was sent."""

    def finish(self, turn: Turn) -> None:
        """Write how the answer ended, but for a failure, and the usage."""
        assert turn.end is not None
        told = _json(_told(turn.end, self._thread, self._run))
        finish = b'{},"logprobs":null,"finish_reason":%s}' % _json(turn.end.finish)
        self._frames.append(b'%s%s%s,"stepwell":%s}\n\n' % (self._choice, finish, self._close, told))
        if self._usage:
            self._frames.append(b'%s"choices":[],"usage":%s}\n\n' % (self._begin, _json(usage_of(turn.usage))))


class Document:
    """Writes an answer as one object."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._marks = (0, 0)
        self._calls: list[dict[str, Any]] = []

    def text(self, text: str) -> None:
        """Write visible text."""
        self._text.append(text)

    def thinking(self, text: str) -> None:
        """Write thinking."""
        self._thinking.append(text)

    def call(self, index: int, id: str, call: ToolCall) -> None:
        """Write a call that the client carries out."""
        function = {"name": call.name, "arguments": call.arguments or "{}"}
        self._calls.append({"id": id, "type": "function", "function": function})

    def progress(self, told: dict[str, Any]) -> None:
        """Leave out what is over when the document comes."""

    def void(self) -> bool:
        """Take back what was written of the open reply."""
        del self._text[self._marks[0] :], self._thinking[self._marks[1] :]
        return True

    def kept(self) -> None:
        """Keep what was written of the reply."""
        self._marks = (len(self._text), len(self._thinking))

    def body(self, turn: Turn, thread: str, run: int, model: str, created: int) -> dict[str, Any]:
        """Return the object; see `Chunks` for the arguments."""
        assert turn.end is not None
        text = "".join(self._text)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if self._thinking:
            message["reasoning_content"] = "".join(self._thinking)
        if self._calls:
            message |= {"content": text or None, "tool_calls": self._calls}
        return {
            "id": f"chatcmpl-{thread}-{run}",
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": turn.end.finish}],
            "usage": usage_of(turn.usage),
            "stepwell": _told(turn.end, thread, run),
        }
