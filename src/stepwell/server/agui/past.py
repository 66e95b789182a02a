"""What was said in a thread so far, as AG-UI's messages: for clients whose own conversation lacks some of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stepwell.events import MessageAdded, MessageEnded, MessageStarted, Recorded, Steered, StepStarted, ToolEnded
from stepwell.messages import Message
from stepwell.server.agui.bodies import InputMessageBody
from stepwell.server.agui.parts import parts_of, text_of
from stepwell.server.agui.wire import is_mine, message_id, number_of

Object = dict[str, Any]


class Past:
    """The conversation with the agent of a thread itself, as far as it was taken in.

    Args:
        elsewhere: The thread began elsewhere, and its history with it.

    Attributes:
        messages: As AG-UI has them, with our ids.
        ours: Ids of those that no client can have brought: replies and results of the agent's own tools.
        last: Number of the newest event.
    """

    def __init__(self, *, elsewhere: bool = False) -> None:
        self._sources = ("engine", "history") if elsewhere else ("engine",)
        self.messages: list[Object] = []
        self.ours: set[str] = set()
        self.last = 0
        self._started, self._aside = 0, False

    def take(self, recorded: Recorded, theirs: frozenset[str] = frozenset()) -> None:
        """Take in the next event of the thread.

        Args:
            recorded: It.
            theirs: Calls whose results the client has under ids of its own.
        """
        event, self.last = recorded.event, recorded.seq
        if recorded.path:
            return
        match event:
            case StepStarted():
                self._aside = event.aside
            case MessageStarted():
                self._started = recorded.seq
            case MessageEnded() if not self._aside and event.stop != "error":
                self._add(self._started, event.message, ours=True)
            case MessageAdded() if event.source != "engine" or event.message.role == "assistant":
                self._add(recorded.seq, event.message, ours=event.source in self._sources)
            case Steered() if event.source == "user":
                self._add(recorded.seq, event.message, ours=False)
            case ToolEnded():
                message = Message("tool", event.content, event.images, call=event.call)
                self._add(recorded.seq, message, ours=event.call not in theirs)
            case _:
                pass

    def _add(self, seq: int, message: Message, *, ours: bool) -> None:
        made = _as_message(message_id(seq), message)
        if made is not None:
            self.messages.append(made)
            if ours:
                self.ours.add(made["id"])


def _as_message(id: str, message: Message) -> Object | None:
    content = parts_of(message.content, message.images) if message.images else message.content
    made: Object = {"id": id, "role": message.role, "content": content}
    match message.role:
        case "assistant":
            calls = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in message.calls
            ]
            made |= {"content": message.content} | ({"toolCalls": calls} if calls else {})
            return made if message.content or calls else None
        case "tool":
            return made | {"toolCallId": message.call}
        case "user" | "system":
            return made


def differs(past: Past, bodies: Iterable[InputMessageBody]) -> bool:
    """Tell whether a client's conversation lacks something of the past, or has something that comes after it."""
    known = {body.id for body in bodies}
    return not past.ours <= known or any(_comes_after(past, id) for id in known)


def _comes_after(past: Past, id: str) -> bool:
    begun = id.partition("-t")[0]  # thinking has the id of its reply in front
    return is_mine(begun) and number_of(begun) > past.last


def snapshot(past: Past, bodies: list[InputMessageBody], new: list[Object]) -> list[Object]:
    """Return all messages for a client.

    As long as its own conversation is the same, its ids stand; what parts from it there has ours, so that the client
    puts it at the end, in order. Thinking that comes after the past is emptied, for it is shown again.

    Args:
        past: What was said.
        bodies: The client's conversation.
        new: Its messages that are not part of the past yet, as they came.
    """
    found: list[Object] = []
    theirs = [body for body in bodies if body.role in ("user", "assistant", "tool")]
    same = True
    for index, each in enumerate(past.messages):
        body = theirs[index] if index < len(theirs) else None
        same = same and body is not None and _same(each, body)
        found.append({**each, "id": body.id} if same and body is not None else each)
    return [*found, *_thoughts(past, bodies), *new]


def _thoughts(past: Past, bodies: Iterable[InputMessageBody]) -> list[Object]:
    """Return the client's thinking where some of it is to be emptied; without any a client keeps its own."""
    thoughts = [body for body in bodies if body.role == "reasoning"]
    if not any(_comes_after(past, body.id) for body in thoughts):
        return []
    return [
        {"id": body.id, "role": "reasoning", "content": "" if _comes_after(past, body.id) else text_of(body.content)}
        for body in thoughts
    ]


def _same(message: Object, body: InputMessageBody) -> bool:
    if message["id"] == body.id:
        return True
    if is_mine(body.id) or message["role"] != body.role:
        return False
    return text_of(message["content"]) == text_of(body.content)
