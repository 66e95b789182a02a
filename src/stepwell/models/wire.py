"""Requests in the chat-completions wire format: messages, tools and settings as JSON.

It follows OpenAI's chat-completions reference. It reads no replies (`reply.py` does) and opens no
connection (`openai.py` does).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import msgspec

from stepwell.messages import Message, ToolSpecs, Usage
from stepwell.models.base import ModelProfile, ModelRequest

_encoder = msgspec.json.Encoder()
_signed_decoder = msgspec.json.Decoder(dict[str, list[Any]])
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])

_MOST_TOKENS = 10**9
"""Above the tokens of any request or reply."""

_OPTIONAL = {
    "stream_options": r"\bstream_options\b",
    "temperature": r"\btemperature\b",
    "stop": r"['\"`]stop['\"`]",
    "max_tokens": r"\bmax_tokens\b",
    "max_completion_tokens": r"\bmax_completion_tokens\b",
}
"""Fields of a request that some endpoints refuse, and how their refusals name them."""
_OTHER_NAME = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_NOT_TAKEN = (  # compiled by the first refusal
    r"unsupported|not (?:be )?(?:support|permit|allow)|unrecogni[sz]ed|unknown|unexpected|does not support|不支持"
)
"""How endpoints say that they do not take a field: OpenAI, Azure, Mistral, servers on pydantic."""

_LONGEST_SIGNED = 256 * 1024
"""Characters of what goes back with the calls of a reply; no vendor needs more."""

_MISTRAL = 9
"""Characters of the ids of calls that Mistral's endpoint takes, never fewer."""
_HASHED = 16
"""Characters at most of an id that stands for another one: no more than a bound of a request allows for."""

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
        profile: Facts about the family; `system_role`, `images`, `thinking_back`, `thinking_field`, `call_ids` and
            `signed_back` are used.
    """

    __slots__ = ("_ids", "_sees", "_signed", "_system_role", "_thinking_field")

    def __init__(self, profile: ModelProfile) -> None:
        self._system_role, self._sees, self._ids = profile.system_role, profile.images, profile.call_ids
        self._signed = profile.signed_back
        self._thinking_field = profile.thinking_field if profile.thinking_back else ""

    def __call__(self, message: Message) -> bytes:
        """Return the message as one JSON object. Raw text stays at home, and thinking unless the family wants it."""
        match message.role:
            case "system":
                return to_json({"role": self._system_role, "content": message.content})
            case "user":
                return to_json({"role": "user", "content": self._content(message)})
            case "assistant":
                fields = _assistant(message, self._ids, signed=self._signed)
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
        result = to_json({"role": "tool", "tool_call_id": sent_id(message.call, self._ids), "content": text})
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


def _assistant(message: Message, ids: int, *, signed: bool) -> dict[str, Any]:
    if not message.calls:
        return {"role": "assistant", "content": message.content}
    calls: list[dict[str, Any]] = [
        {
            "id": sent_id(call.id, ids),
            "type": "function",
            "function": {"name": sent_name(call.name), "arguments": sent_arguments(call.arguments)},
        }
        for call in message.calls
    ]
    if signed and message.signed:
        for call, extra in zip(calls, _extras(message.signed, len(calls)), strict=True):
            if extra:
                call["extra_content"] = extra
    return {"role": "assistant", "content": message.content or None, "tool_calls": calls}


def signed_calls(extras: Sequence[object]) -> str:
    """Return what a vendor wants back with each call of a reply as JSON text, or nothing where it wants nothing."""
    text = to_json({"extra_content": extras}).decode() if any(extras) else ""
    return text if len(text) <= _LONGEST_SIGNED else ""


def _extras(signed: str, calls: int) -> list[Any]:
    """Return what was signed of each call of a message; nothing where another adapter signed it."""
    try:
        extras = _signed_decoder.decode(signed)["extra_content"]
    except (ValueError, KeyError, RecursionError):
        return [None] * calls
    return extras if len(extras) == calls else [None] * calls


def sent_name(name: str) -> str:
    """Return the name of a past call as strict servers take it: a model may have made one up that they refuse."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "_"


def sent_id(id: str, most: int) -> str:
    """Return the id of a past call as an endpoint takes it: another one's may be longer, or of another form.

    Args:
        id: The id; equal ones stay equal.
        most: As `ModelProfile.call_ids`.
    """
    form = "[a-zA-Z0-9]{9}" if most == _MISTRAL else f"[a-zA-Z0-9_-]{{1,{most}}}"
    if not most or re.fullmatch(form, id):
        return id
    return hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()[: min(most, _HASHED)]


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


def usage_of(input: int | None, output: int | None, cached: int | None) -> Usage | None:
    """Return what a provider counted, or None where a number counts no tokens: nobody is to pay or be paid for it."""
    counts = (input or 0, output or 0, cached or 0)
    return Usage(*counts) if all(0 <= count <= _MOST_TOKENS for count in counts) else None


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


def refused_field(message: str, fields: Mapping[str, Any], refused: Collection[str]) -> str:
    """Return the field that a refusal says the endpoint does not take and that a request can go without, or nothing.

    Args:
        message: The endpoint's words.
        fields: What was sent of our own accord.
        refused: What it refused before: where the limit of tokens has no other name left, it stays.
    """
    if not re.search(_NOT_TAKEN, message, re.IGNORECASE):
        return ""
    named = (name for name, words in _OPTIONAL.items() if name in fields and re.search(words, message))
    return next((name for name in named if _OTHER_NAME.get(name) not in refused), "")


def without_refused(fields: dict[str, Any], refused: Collection[str], extra: Collection[str]) -> dict[str, Any]:
    """Return the fields without those that the endpoint does not take; the limit of tokens goes by its other name.

    Args:
        fields: As `tail_fields`.
        refused: Their names.
        extra: Names of fields that somebody asked for.
    """
    taken = {name: value for name, value in fields.items() if name in extra or name not in refused}
    for name in refused:
        if name in _OTHER_NAME and name in fields and name not in taken:
            taken[_OTHER_NAME[name]] = fields[name]
    return taken


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
