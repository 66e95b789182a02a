"""What LangChain's objects hold, in our records: messages, calls, usage, the answer of a run.

It reads only, and takes whatever stands there: graphs put anything into their states.
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages import convert_to_messages as converted
from langchain_core.outputs import ChatGeneration, LLMResult

from stepwell.messages import Image, Message, StopReason, ToolCall, Usage, clean

STOPS: Mapping[str, StopReason] = {
    "length": "length",
    "max_tokens": "length",
    "MAX_TOKENS": "length",
    "content_filter": "content_filter",
    "SAFETY": "content_filter",
    "refusal": "content_filter",
}
"""What providers call the ends that are not plain."""

ANSWER_KEYS = ("structured_response", "output", "answer", "result", "text", "content")
MOST_TOKENS = 1 << 53
"""Tokens from which on a count is none; those of some providers are nothing, or fractions."""
ASKED_KEYS = ("input", "question", "query", "text", "content")


def _mapping(value: object) -> Mapping[str, object] | None:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else None


def _content(message: BaseMessage) -> object:
    return cast(object, message.content)  # pyright: ignore[reportUnknownMemberType]


def _blocks(content: object) -> list[Mapping[str, object]]:
    """Return the blocks of a message's content; a text is one block."""
    found = cast("list[object]", content) if isinstance(content, list) else [content]
    blocks = [{"type": "text", "text": each} if isinstance(each, str) else _mapping(each) for each in found]
    return [each for each in blocks if each is not None]


def text_of(content: object) -> str:
    """Return the visible text of a message's content, which is a text or a list of blocks."""
    if isinstance(content, str):
        return content
    return "".join(str(each.get("text", "")) for each in _blocks(content) if each.get("type") == "text")


def thinking_of(message: BaseMessage) -> str:
    """Return what the model thought, of a reply or a piece of one."""
    extra = cast("dict[str, object]", message.additional_kwargs).get("reasoning_content")
    if isinstance(extra, str):
        return extra
    if not isinstance(_content(message), list):
        return ""
    blocks = cast("list[Mapping[str, object]]", message.content_blocks)
    return "".join(str(block.get("reasoning", "")) for block in blocks if block.get("type") == "reasoning")


def shown(value: object) -> str:
    """Return any value as a text for people."""
    if isinstance(value, str):
        return value
    if isinstance(value, BaseMessage):
        return text_of(_content(value))
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(value)
    except RecursionError:
        return f"[{type(value).__name__} that is nested too deep]"


def messages_in(value: object) -> list[BaseMessage]:
    """Return the messages in the input or output of a run: a state with `messages`, a list of them, or one."""
    found = cast(object, getattr(value, "update", None)) if is_command(value) else value
    state = _mapping(found)
    found = found if state is None else state.get("messages")
    if isinstance(found, BaseMessage):
        return [found]
    if not isinstance(found, list | tuple):
        return []
    try:
        return converted(cast("Sequence[Any]", found))
    except (ValueError, TypeError, NotImplementedError):  # a list of something else
        return []


def answer_in(outputs: object) -> str:
    """Return the final answer in the output of a run, or an empty text."""
    state = _mapping(outputs)
    said = [each for each in messages_in(outputs) if isinstance(each, AIMessage)]
    if said and (state is None or shown(said[-1])):
        return shown(said[-1])
    if state is None:
        return outputs if isinstance(outputs, str) else ""
    return next((shown(state[key]) for key in ANSWER_KEYS if state.get(key) is not None), "")


class Talk(NamedTuple):
    """What a model is asked: the system message, what came before, and what the user says.

    Args:
        system: Empty for none.
        history: Earlier messages of the user and the assistant.
        user: The user's newest message.
    """

    system: str
    history: tuple[Message, ...]
    user: Message


def talk_of(messages: Iterable[BaseMessage]) -> Talk:
    """Take a request apart; calls and results of earlier turns are left out, as they were another run's."""
    system: list[str] = []
    said: list[Message] = []
    for each in messages:
        if isinstance(each, SystemMessage):
            system.append(shown(each))
        elif isinstance(each, HumanMessage):
            said.append(Message("user", clean(shown(each)), _images(each)))
        elif isinstance(each, AIMessage) and shown(each):
            said.append(Message("assistant", clean(shown(each))))
    at = max((at for at, each in enumerate(said) if each.role == "user"), default=-1)
    user = said[at] if at >= 0 else Message("user", "")
    return Talk(clean("\n\n".join(system)), tuple(said[:at]) if at > 0 else (), user)


def asked_in(inputs: object) -> list[BaseMessage]:
    """Return what a run was asked, as messages, whatever the input looks like."""
    found = messages_in(inputs)
    if found:
        return found
    if is_command(inputs):
        return [HumanMessage(shown(getattr(inputs, "resume", None)))]
    state = _mapping(inputs) or {}
    return [HumanMessage(next((shown(state[key]) for key in ASKED_KEYS if key in state), None) or shown(inputs))]


def is_command(inputs: object) -> bool:
    """Tell whether a run goes on with a graph that halted."""
    return type(inputs).__name__ == "Command"


def _images(message: BaseMessage) -> tuple[Image, ...]:
    urls: list[str] = []
    for block in _blocks(_content(message)):
        held = block.get("image_url", block.get("url"))
        url = (_mapping(held) or {"url": held}).get("url")
        data = block.get("base64")
        if block.get("type") in ("image_url", "image") and isinstance(url, str):
            urls.append(url)
        elif block.get("type") == "image" and isinstance(data, str):
            urls.append(f"data:{block.get('mime_type', 'image/png')};base64,{data}")
    return tuple(Image(url) for url in urls if url.startswith(("https:", "data:")))


class Reply(NamedTuple):
    """A whole reply.

    Args:
        message: What the model said; its calls have the ids that LangChain knows.
        stop: Why it ended.
        usage: Tokens, where the provider told.
    """

    message: Message
    stop: StopReason
    usage: Usage | None


def reply_of(result: LLMResult) -> Reply:
    """Return the first reply of a result."""
    first = result.generations[0][0] if result.generations and result.generations[0] else None
    if not isinstance(first, ChatGeneration):
        return Reply(Message("assistant", clean(first.text if first else "")), "stop", None)
    reply = first.message
    calls = _calls(reply) if isinstance(reply, AIMessage) else ()
    message = Message("assistant", clean(shown(reply)), thinking=clean(thinking_of(reply)), calls=calls)
    told = cast("dict[str, object]", reply.response_metadata)  # pyright: ignore[reportUnknownMemberType]
    reason = str(told.get("finish_reason") or told.get("stop_reason") or "")
    stop: StopReason = STOPS.get(reason, "tool_calls" if calls else "stop")
    return Reply(message, stop, _usage(reply))


def _calls(reply: AIMessage) -> tuple[ToolCall, ...]:
    known = [ToolCall(each["id"] or "", each["name"], shown(each["args"])) for each in reply.tool_calls]
    bad = [
        ToolCall(each.get("id") or "", each.get("name") or "", each.get("args") or "")
        for each in reply.invalid_tool_calls
    ]
    return tuple(ToolCall(each.id, clean(each.name), clean(each.arguments)) for each in known + bad)


def _usage(reply: BaseMessage) -> Usage | None:
    used = _mapping(reply.usage_metadata) if isinstance(reply, AIMessage) else None
    if not used:
        return None
    details = _mapping(used.get("input_token_details")) or {}
    told = used.get("input_tokens"), used.get("output_tokens"), details.get("cache_read")
    return Usage(*(each if isinstance(each, int) and 0 < each < MOST_TOKENS else 0 for each in told))


def results_in(outputs: object) -> list[ToolMessage]:
    """Return the results of calls in the output of a run."""
    return [each for each in messages_in(outputs) if isinstance(each, ToolMessage)]


def result_of(output: object) -> str:
    """Return what a tool came to, as a text; it may be wrapped in a message or a command."""
    held = results_in(output) if is_command(output) else []
    value = held[-1] if held else output
    return shown(value) if isinstance(value, BaseMessage | str) else str(value)


def failed(output: object) -> bool:
    """Tell whether the result of a tool says that it failed."""
    return isinstance(output, ToolMessage) and output.status == "error"


class Piece(NamedTuple):
    """A piece of a tool call: which of the reply, its name on the first piece, and JSON text."""

    place: int
    name: str
    text: str


def pieces_of(message: BaseMessage) -> list[Piece]:
    """Return the pieces of calls in a piece of a reply."""
    chunks = message.tool_call_chunks if isinstance(message, AIMessageChunk) else []
    return [Piece(each["index"] or 0, each["name"] or "", each["args"] or "") for each in chunks]


def digest_of(messages: Iterable[BaseMessage]) -> str:
    """Return the SHA-256 of a request, as 43 characters of URL-safe base64."""
    hashed = hashlib.sha256()
    for each in messages:
        hashed.update(f"{each.type}\n{shown(_content(each))}\n".encode(errors="replace"))
    return urlsafe_b64encode(hashed.digest())[:43].decode()
