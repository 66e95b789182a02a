"""What agents and models say to each other: messages, their parts, tool calls, usage.

These are the records of the log and of a model request. They are not a wire format: each model
adapter and each face converts them at its own border.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal, overload

import msgspec

Role = Literal["system", "user", "assistant", "tool"]

StopReason = Literal["stop", "length", "tool_calls", "content_filter", "error", "cancelled"]
"""Why a reply ended: it was complete, cut at the token limit, asks for tools, was filtered, failed,
or was cancelled."""


class Image(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """An image shown to a model.

    Args:
        url: An `https:` address or a `data:` URL.
        detail: How closely the model should look; empty leaves it to the model.
    """

    url: str
    detail: Literal["", "low", "high"] = ""


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A model's request to run one tool.

    Args:
        id: Unique in its thread.
        name: The tool's name as the model wrote it; it may be unknown.
        arguments: The arguments as the model wrote them: JSON text of an object if all is well.
            Empty when the model gave none.
    """

    id: str
    name: str
    arguments: str = ""


class Message(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One message of a conversation, whole.

    Args:
        role: Who speaks.
        content: The visible text.
        images: Shown with the text, in order.
        thinking: What the model thought before its answer; never sent back to it as an answer.
        calls: The tools an assistant asks for, in order.
        call: On a `tool` message, the id of the call that it answers.
        raw: The reply as the model wrote it, where a dialect took it apart.
        unmarked: The reply followed no form of its dialect, so all of it was taken as the answer.
        signed: The reply in the form in which its vendor wants it back, as JSON text, where something in it is signed.
    """

    role: Role
    content: str = ""
    images: tuple[Image, ...] = ()
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    call: str = ""
    raw: str = ""
    unmarked: bool = False
    signed: str = ""


class Usage(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Tokens that a provider counted for one reply.

    Args:
        input: Tokens of the request.
        output: Tokens of the reply.
        cached: The part of `input` that came from the provider's prompt cache.
    """

    input: int = 0
    output: int = 0
    cached: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.input + other.input, self.output + other.output, self.cached + other.cached)


class ToolSpec(msgspec.Struct, frozen=True):
    """What a model is told about a tool.

    Args:
        name: How the model calls it.
        description: What it does, for the model.
        parameters: A JSON schema of type `object`.
    """

    name: str
    description: str
    parameters: dict[str, Any]


class ToolSpecs(tuple[ToolSpec, ...]):
    """The tools of a request, encoded once however many requests they are part of."""

    @cached_property
    def encoded(self) -> bytes:
        """The specifications as JSON, without the wrapping of any wire format."""
        return msgspec.json.encode(tuple(self), order="deterministic")


NO_TOOLS = ToolSpecs()


class Rendering:
    """The bytes of a transcript in one wire format, grown as the transcript grows.

    Args:
        encode: Turns one message into its bytes.
        separator: Stands between two messages.
    """

    __slots__ = ("body", "count", "encode", "separator")

    def __init__(self, encode: Callable[[Message], bytes], separator: bytes = b",") -> None:
        self.encode, self.separator = encode, separator
        self.body = bytearray()
        self.count = 0

    def update(self, messages: Sequence[Message]) -> Rendering:
        """Append the messages that are new since the last call and return itself."""
        if self.count < len(messages):
            new = self.separator.join(map(self.encode, messages[self.count :]))
            self.body += self.separator + new if self.count else new
            self.count = len(messages)
        return self


_encode = msgspec.json.Encoder(order="deterministic").encode


class Transcript(Sequence[Message]):
    """An append-only list of messages that encodes and counts each of them once.

    A request over a thousand messages costs the bytes of the newest, not of all
    (`docs/architecture.md`, "What makes it fast").

    Attributes:
        seqs: For each message the number of the event that brought it; 0 where none did.
        characters: Of all texts and calls together.
        images: How many there are.
    """

    __slots__ = ("_hash", "_hashed", "_messages", "_renderings", "_sums", "characters", "images", "seqs")

    def __init__(self, messages: Iterable[Message] = (), seqs: Iterable[int] = ()) -> None:
        self._messages: list[Message] = []
        self.seqs: list[int] = []
        self.characters = self.images = 0
        numbers = iter(seqs)
        for message in messages:
            self.append(message, next(numbers, 0))
        self._renderings: dict[Callable[[Message], bytes], Rendering] = {}
        self._sums: dict[Callable[[Message], int], list[int]] = {}
        self._hash = hashlib.sha256()
        self._hashed = 0

    def append(self, message: Message, seq: int = 0) -> None:
        """Add one message at the end; `seq` is the number of the event that brought it, 0 for none."""
        self._messages.append(message)
        self.seqs.append(seq)
        self.characters += len(message.content) + len(message.raw) + len(message.thinking)
        for call in message.calls:
            self.characters += len(call.name) + len(call.arguments) + len(call.id)
        self.images += len(message.images)

    def sums(self, count: Callable[[Message], int]) -> list[int]:
        """Return the running totals of `count`, from 0 before the first message; each is counted once.

        `count` must be the same object each time.
        """
        found = self._sums.get(count)
        if found is None:
            found = self._sums[count] = [0]
        for message in self._messages[len(found) - 1 :]:
            found.append(found[-1] + count(message))
        return found

    def rendering(self, encode: Callable[[Message], bytes]) -> Rendering:
        """Return the transcript's bytes under `encode`, which must be the same object each time."""
        found = self._renderings.get(encode)
        if found is None:
            found = self._renderings[encode] = Rendering(encode)
        return found.update(self._messages)

    def digest(self, tail: bytes) -> bytes:
        """Return the SHA-256 of all messages and then `tail`, hashing each message once."""
        if self._hashed < len(self._messages):
            # Each message ends with a line break, so that the hash does not depend on when it was asked for.
            self._hash.update(b"\n".join([*map(_encode, self._messages[self._hashed :]), b""]))
            self._hashed = len(self._messages)
        total = self._hash.copy()
        total.update(tail)
        return total.digest()

    def __len__(self) -> int:
        return len(self._messages)

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> list[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | list[Message]:
        return self._messages[index]

    def __iter__(self) -> Iterator[Message]:
        return iter(self._messages)

    def __reversed__(self) -> Iterator[Message]:
        return reversed(self._messages)


def clean(text: str) -> str:
    """Return text that every store and protocol can hold: NUL and lone surrogates become U+FFFD.

    What derives from `str`, such as the texts of numpy and of parsers of HTML, becomes a plain one.
    """
    if type(text) is not str:
        text = str.__str__(text)
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
