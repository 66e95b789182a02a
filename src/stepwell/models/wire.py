"""Requests in the chat-completions wire format: messages, tools and settings as JSON.

It follows OpenAI's chat-completions reference. It reads no replies (`reply.py` does) and opens no
connection (`openai.py` does).
"""

from __future__ import annotations

import re
from typing import Any, cast

import msgspec

from stepwell.messages import Message, ToolSpecs
from stepwell.models.base import ModelProfile, ModelRequest

_encoder = msgspec.json.Encoder()
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])

_UNSENDABLE = "[\ud800-\udfff\0]"  # compiled by the first text that may hold such


def clean(text: str) -> str:
    """Return the text with U+FFFD for lone surrogates and NUL, which neither UTF-8 nor databases carry."""
    return re.sub(_UNSENDABLE, "\ufffd", text)


def clean_counting(text: str) -> tuple[str, int]:
    """Return the same as `clean`, and how many characters were replaced."""
    return re.subn(_UNSENDABLE, "\ufffd", text)


def clean_all(value: Any) -> Any:
    """Return plain values with every text in them cleaned."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(key)): clean_all(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [clean_all(item) for item in cast("list[Any]", value)]
    return value


def to_json(value: Any) -> bytes:
    """Encode plain values as JSON; text that UTF-8 cannot carry is cleaned first."""
    try:
        data = _encoder.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(clean_all(value))
    return _encoder.encode(clean_all(value)) if b"\\u0000" in data else data


class MessageEncoder:
    """Turns messages into their wire JSON; keep one, as `Transcript.rendering` knows it by identity.

    Args:
        profile: Facts about the family; `system_role`, `images`, `thinking_back` and `thinking_field` are used.
    """

    __slots__ = ("_sees", "_system_role", "_thinking_field")

    def __init__(self, profile: ModelProfile) -> None:
        self._system_role, self._sees = profile.system_role, profile.images
        self._thinking_field = profile.thinking_field if profile.thinking_back else ""

    def __call__(self, message: Message) -> bytes:
        """Return the message as one JSON object. Raw text stays at home, and thinking unless the family wants it."""
        match message.role:
            case "system":
                return to_json({"role": self._system_role, "content": message.content})
            case "user":
                return to_json({"role": "user", "content": self._content(message)})
            case "assistant":
                fields = _assistant(message)
                if self._thinking_field and message.calls:
                    fields[self._thinking_field] = message.thinking
                return to_json(fields)
            case "tool":
                return self._result(message)

    def _content(self, message: Message) -> str | list[dict[str, Any]]:
        if not message.images:
            return message.content
        return _parts(message) if self._sees else _without_images(message)

    def _result(self, message: Message) -> bytes:
        """Return a result; its images follow in a user's message, for a tool's message holds none in this format."""
        text = message.content if self._sees else _without_images(message)
        result = to_json({"role": "tool", "tool_call_id": message.call, "content": text})
        if not message.images or not self._sees:
            return result
        shown = Message("user", "[images of the results above]", message.images)
        return result + b"," + to_json({"role": "user", "content": _parts(shown)})


def _parts(message: Message) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": message.content}] if message.content else []
    for image in message.images:
        url = {"url": image.url, "detail": image.detail} if image.detail else {"url": image.url}
        parts.append({"type": "image_url", "image_url": url})
    return parts


def _without_images(message: Message) -> str:
    """Return a text with a line for the images that the model does not see."""
    if not message.images:
        return message.content
    return f"{message.content}\n[{len(message.images)} image(s), not shown: this model does not see]".lstrip()


def _assistant(message: Message) -> dict[str, Any]:
    if not message.calls:
        return {"role": "assistant", "content": message.content}
    calls = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": sent_arguments(call.arguments)},
        }
        for call in message.calls
    ]
    return {"role": "assistant", "content": message.content or None, "tool_calls": calls}


def sent_arguments(arguments: str) -> str:
    """Return the arguments of a past call as JSON text of an object, which strict servers insist on.

    A valid object is sent as it was written. Nothing becomes `{}`. Anything else becomes an object whose one
    field `_invalid` holds the text, so that the model sees what it wrote and the error result still fits.
    """
    if not arguments.strip():
        return "{}"
    if is_object(arguments):
        return arguments
    return to_json({"_invalid": arguments}).decode()


def is_object(text: str) -> bool:
    """Tell whether the text is one JSON object."""
    try:
        _object_decoder.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def tools_json(tools: ToolSpecs) -> bytes:
    """Return the tools as the `tools` field of a request."""
    return to_json([{"type": "function", "function": msgspec.structs.asdict(tool)} for tool in tools])


def tail_fields(request: ModelRequest, profile: ModelProfile) -> dict[str, Any]:
    """Return the fields of a request besides `model` and `messages`; `tools` only if `extra` has them."""
    settings = request.settings
    fields: dict[str, Any] = {"stream": True}
    if profile.usage_in_stream:
        fields["stream_options"] = {"include_usage": True}
    if settings.temperature is not None and profile.temperature:
        fields["temperature"] = settings.temperature
    if settings.max_tokens is not None:
        fields[profile.max_tokens_name] = settings.max_tokens
    if settings.stop:
        fields["stop"] = settings.stop
    if settings.tool_choice and request.tools:
        fields["tool_choice"] = _tool_choice(settings.tool_choice)
    if settings.response_format is not None:
        fields["response_format"] = _response_format(settings.response_format)
    fields.update((name, value) for name, value in settings.extra.items() if name not in ("model", "messages"))
    return fields


def _tool_choice(choice: str) -> str | dict[str, Any]:
    if choice in ("auto", "none", "required"):
        return choice
    return {"type": "function", "function": {"name": choice}}


def _response_format(schema: dict[str, Any]) -> dict[str, Any]:
    """Wrap a JSON schema; a format that is already in the wire's own form stays as it is."""
    if schema.get("type") in ("json_object", "json_schema", "text"):
        return schema
    name = re.sub(r"[^A-Za-z0-9_-]", "_", str(schema.get("title", "")))[:64]
    return {"type": "json_schema", "json_schema": {"name": name or "reply", "schema": schema}}
