"""The port to language models: one request in, a stream of deltas out.

A model never raises into its caller: whatever goes wrong is the last delta's `failure`. It is not the
place for tool execution, prompts or history; it renders nothing but its own wire format.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal, Protocol

import msgspec

from stepwell.messages import NO_TOOLS, Message, StopReason, ToolSpecs, Transcript, Usage
from stepwell.specs import Prices
from stepwell.tokens import ImageRule, Tokenizer

FailureKind = Literal[
    "connect", "auth", "rate_limit", "overflow", "request", "server", "stall", "broken", "interrupted", "internal"
]
"""What went wrong with a model call: no connection; bad key; too many requests; the request is over the
window; the endpoint refused the request; the endpoint failed; no byte for too long; the stream was cut or
unreadable; our process stopped; a fault of our own."""


class Failure(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Why a model call failed.

    Args:
        kind: The class of cause.
        message: The cause in the endpoint's words, without secrets.
        status: The HTTP status, or 0.
        retry_in: Seconds until the adapter tries again; None when it has given up.
    """

    kind: FailureKind
    message: str
    status: int = 0
    retry_in: float | None = None


class CallPart(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A piece of a tool call; the pieces of one call share `index` and are joined in order.

    Args:
        index: Which call of the reply.
        id: Set once, on the first piece; may be empty.
        name: Set on the first piece.
        arguments: More of the arguments' JSON text.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Delta(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Everything that one read brought of a reply.

    Args:
        text: More visible text.
        thinking: More of the model's thinking.
        calls: Pieces of tool calls.
        usage: Tokens counted by the provider.
        failure: What went wrong. With `stop` unset the adapter is about to try again.
        stop: Set on the last delta and only there.
        raw: On the last delta of a dialect, the reply as the model wrote it.
        unmarked: On the last delta of a dialect: the reply followed no form, its thinking is its answer.
        signed: On the last delta, the reply in the form in which its vendor wants it back, as JSON text.
        replaced: Characters that no store takes, or bytes that were no text, which became U+FFFD here.
    """

    text: str = ""
    thinking: str = ""
    calls: tuple[CallPart, ...] = ()
    usage: Usage | None = None
    failure: Failure | None = None
    stop: StopReason | None = None
    raw: str = ""
    unmarked: bool = False
    signed: str = ""
    replaced: int = 0


class ModelProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a family of models, as data.

    Args:
        window: Context window in tokens.
        native_tools: Whether it takes tool schemas and answers with tool calls.
        dialect: The dialect to use where it has no native tools.
        images: Whether it sees images.
        max_tokens_name: How its endpoint names the limit of the reply.
        system_role: The role of the system message.
        thinking_field: The field in which its endpoint streams thinking.
        usage_in_stream: Whether the endpoint sends usage when asked with `stream_options`.
        thinking_back: Whether a reply that calls tools must be sent back with the thinking that led to them.
        temperature: Whether it takes a temperature.
        json_mode: Whether its endpoint keeps a reply to a JSON schema (`response_format`).
        replies: Whether it can be asked for a reply of a given form.
        max_output: The longest reply it can give, in tokens; 0 when unknown.
        prices: What its vendor's own endpoint charges; None when unknown.
        tokenizer: Its tokenizer, where text can be counted exactly; empty when unknown.
        image_tokens: The rule by which it counts images (`tokens.RULES`); empty when unknown.
        call_ids: The most characters of a call's id that its endpoint takes, of letters, digits, `_` and `-`;
            9: exactly so many letters and digits; 0: any.
        signed_back: Whether its endpoint wants back what it signed of a call (`extra_content`).
    """

    window: int = 8192
    native_tools: bool = True
    dialect: str = "react"
    images: bool = False
    max_tokens_name: str = "max_tokens"
    system_role: str = "system"
    thinking_field: str = "reasoning_content"
    usage_in_stream: bool = True
    thinking_back: bool = False
    temperature: bool = True
    json_mode: bool = False
    replies: bool = True
    max_output: int = 0
    prices: Prices | None = None
    tokenizer: Tokenizer = ""
    image_tokens: ImageRule = ""
    call_ids: int = 40
    signed_back: bool = False


class Settings(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the reply should be made; None leaves it to the endpoint.

    Args:
        temperature: 0.0 to 2.0.
        max_tokens: Limit of the reply, in tokens.
        stop: Texts that end the reply.
        tool_choice: Empty, `auto`, `none`, `required`, or a tool's name.
        response_format: A JSON schema of the reply, or None.
        extra: Further fields of the request body, sent as they are.
    """

    temperature: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    tool_choice: str = ""
    response_format: dict[str, Any] | None = None
    extra: dict[str, Any] = {}


class ModelRequest:
    """One question to a model.

    Args:
        messages: The conversation. The system message, if any, is the first.
        tools: What the model may call.
        settings: How to answer.
        model: The name sent to the endpoint; empty for the adapter's own.
        tail: Messages of this request alone, after the conversation.
    """

    __slots__ = ("messages", "model", "settings", "tail", "tools")

    def __init__(
        self,
        messages: Transcript,
        tools: ToolSpecs = NO_TOOLS,
        settings: Settings | None = None,
        model: str = "",
        tail: tuple[Message, ...] = (),
    ) -> None:
        self.messages, self.tools, self.model, self.tail = messages, tools, model, tail
        self.settings = settings or Settings()

    @property
    def all(self) -> Sequence[Message]:
        """The conversation and the tail."""
        return [*self.messages, *self.tail] if self.tail else self.messages

    def digest(self) -> str:
        """Return the SHA-256 of the whole request, as 43 characters of URL-safe base64.

        It costs the new messages only. Replay compares it (`docs/architecture.md`, "Replay").
        """
        tail = _encode((*self.tail, self.model, self.settings)) + self.tools.encoded
        return urlsafe_b64encode(self.messages.digest(tail))[:43].decode()


_encode = msgspec.json.Encoder(order="deterministic").encode


class Model(Protocol):
    """Answers requests as a stream. Adapters are safe for many requests at once."""

    profile: ModelProfile

    def stream(self, request: ModelRequest) -> AsyncGenerator[Delta]:
        """Stream one reply; the last delta carries `stop`, also on failure. Never raises but for cancellation."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
