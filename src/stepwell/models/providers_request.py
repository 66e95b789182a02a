"""Requests in pydantic-ai's types: messages, tools and settings. It sends nothing.

Thinking stays at home, but for that of signed replies (`providers_kept.py`).
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from typing import Any, cast

from pydantic_ai.messages import (
    BinaryContent,
    ImageUrl,
    ModelMessage,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)
from pydantic_ai.messages import (
    ModelRequest as VendorRequest,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.profiles import ModelProfile as VendorProfile
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from stepwell.messages import Image, Message
from stepwell.models.base import ModelProfile, ModelRequest
from stepwell.models.providers_kept import as_signed
from stepwell.models.wire import clean, clean_all, sent_arguments, sent_id, sent_name

FETCHING = frozenset(
    {"anthropic", "azure", "google-cloud", "groq", "mistral", "openai", "openai-chat", "openrouter", "xai"}
)
"""Vendors that fetch images by address themselves. For Gemini, Bedrock and perhaps others pydantic-ai would, here."""
DETAILED = frozenset({"azure", "openai", "openai-chat", "openrouter", "xai"})
"""Vendors that take how closely to look at an image; Gemini's client refuses the word."""


def messages_of(request: ModelRequest, profile: ModelProfile, vendor: str = "") -> list[ModelMessage]:
    """Return the conversation; what stands between two replies becomes one message, as vendors want it.

    Args:
        request: The request.
        profile: Facts about the family; `images` and `call_ids` are used.
        vendor: pydantic-ai's name of it.
    """
    done: list[ModelMessage] = []
    parts: list[ModelRequestPart] = []
    names: dict[str, str] = {}
    for message in request.all:
        if message.role != "assistant":
            parts.append(_part(message, names, vendor if profile.images else None, profile.call_ids))
            continue
        names.update((call.id, sent_name(call.name)) for call in message.calls)
        if parts:
            done.append(VendorRequest(parts))
            parts = []
        reply = as_signed(message) or ModelResponse(list(_said(message)))
        for part in reply.parts:
            if type(part) is ToolCallPart:
                part.tool_name = sent_name(part.tool_name)
                part.tool_call_id = sent_id(part.tool_call_id, profile.call_ids)
        done += [reply] if reply.parts else []
    if parts:
        done.append(VendorRequest(parts))
    return done


def parameters_of(request: ModelRequest, profile: VendorProfile) -> ModelRequestParameters:
    """Return tools and the form of the reply.

    Args:
        request: The request.
        profile: What pydantic-ai knows of the model: without JSON schemas, the schema is part of the prompt.
    """
    tools = [
        ToolDefinition(name=tool.name, parameters_json_schema=tool.parameters, description=tool.description)
        for tool in request.tools
    ]
    form = _form(request.settings.response_format)
    if form is None:
        return ModelRequestParameters(function_tools=tools)
    mode = "native" if profile.get("supports_json_schema_output") else "prompted"
    return ModelRequestParameters(function_tools=tools, output_mode=mode, output_object=form)


def settings_of(
    request: ModelRequest, profile: ModelProfile, unsupported: Iterable[str], stall: float
) -> ModelSettings:
    """Return the settings, without those that the vendor's endpoint does not have.

    Args:
        request: The request; `extra` holds further settings by pydantic-ai's names.
        profile: Facts about the family; `temperature` is used.
        unsupported: Names of settings that the endpoint does not have.
        stall: Seconds without a byte.
    """
    asked = request.settings
    fields: dict[str, Any] = {}
    if asked.temperature is not None and profile.temperature:
        fields["temperature"] = asked.temperature
    if asked.max_tokens is not None:
        fields["max_tokens"] = asked.max_tokens
    if asked.stop:
        fields["stop_sequences"] = list(asked.stop)
    if asked.tool_choice and request.tools:
        whole = asked.tool_choice in ("auto", "none", "required")
        fields["tool_choice"] = asked.tool_choice if whole else [asked.tool_choice]
    fields |= asked.extra
    # Only one may try again, and the texts are ours: pydantic-ai adds no explanations of its own to them.
    fields |= {"max_retries": 0, "timeout": stall, "framing_announcement": "never"}
    for name in unsupported:
        fields.pop(name, None)
    return cast("ModelSettings", fields)


def _part(message: Message, names: dict[str, str], vendor: str | None, ids: int) -> ModelRequestPart:
    text = clean(message.content)
    shown: list[UserContent] = []
    for line, images in _unseen(message.images, shown, vendor).items():
        text = f"{text}\n[{images} image(s), not shown: {line}]".lstrip()
    content: list[UserContent] = [*([text] if text else []), *shown]
    if message.role == "system":
        return SystemPromptPart(text)
    if message.role == "tool":
        name = names.get(message.call, "tool")
        return ToolReturnPart(name, cast("list[Any]", content) if shown else text, sent_id(message.call, ids))
    return UserPromptPart(content if shown else text)


def _unseen(images: Iterable[Image], shown: list[UserContent], vendor: str | None) -> dict[str, int]:
    """Add what can be shown of images to a list, and return how many cannot, by the reason.

    Args:
        images: Of one message.
        shown: The list.
        vendor: None where the model does not see.
    """
    reasons: dict[str, int] = {}
    for image in images:
        made = "this model does not see" if vendor is None else _image(image, vendor)
        if isinstance(made, str):
            reasons[made] = reasons.get(made, 0) + 1
        else:
            shown.append(made)
    return reasons


def _said(message: Message) -> Iterable[ModelResponsePart]:
    if message.content:
        yield TextPart(clean(message.content))
    for call in message.calls:
        yield ToolCallPart(clean(call.name), clean(sent_arguments(call.arguments)), call.id)


def _image(image: Image, vendor: str) -> BinaryContent | ImageUrl | str:
    """Return an image, or why it cannot be shown."""
    detail = {"detail": image.detail} if image.detail and vendor in DETAILED else None
    head, _, data = image.url.partition(",")
    if head[:5].lower() != "data:":
        return ImageUrl(image.url, vendor_metadata=detail) if vendor in FETCHING else "given by address"
    try:
        held = binascii.a2b_base64(data)
    except ValueError:
        return "it cannot be read"
    return BinaryContent(held, media_type=head[5:].partition(";")[0].lower(), vendor_metadata=detail)


def _form(given: dict[str, Any] | None) -> OutputObjectDefinition | None:
    """Return a form from a JSON schema, or from OpenAI's wrapping of one."""
    if given is None or given.get("type") == "text":
        return None
    if given.get("type") == "json_object":
        return OutputObjectDefinition({"type": "object"}, "reply")
    schema = given
    title = given.get("title", "")
    if given.get("type") == "json_schema":
        wrapped = cast("dict[str, Any]", given.get("json_schema") or {})
        schema, title = wrapped.get("schema") or {"type": "object"}, wrapped.get("name", "")
    name = re.sub(r"[^A-Za-z0-9_-]", "_", str(title))[:64]
    return OutputObjectDefinition(clean_all(schema), name or "reply")
