"""Replies with something signed, in the form in which their vendor wants them back.

Anthropic and Gemini sign what a model thought before it called a tool, and want it back with the results as long as
the calls go on. The form is pydantic-ai's own JSON; it stands in the log with the reply (`Message.signed`).
"""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_ai.messages import ModelMessagesTypeAdapter, ModelResponse, TextPart, ThinkingPart, ToolCallPart

from stepwell.messages import Message
from stepwell.models.providers_reply import text_of
from stepwell.models.wire import clean


def signed_form(reply: ModelResponse) -> str:
    """Return a reply as JSON text if it calls tools and holds something signed, else nothing."""
    signed = any(isinstance(part, ThinkingPart) and part.signature for part in reply.parts)
    signed = signed or any(isinstance(part, ToolCallPart) and part.provider_details for part in reply.parts)
    if not signed or not any(isinstance(part, ToolCallPart) for part in reply.parts):
        return ""
    return ModelMessagesTypeAdapter.dump_json([reply]).decode()


def as_signed(message: Message) -> ModelResponse | None:
    """Return the reply that a message was made of, unless the message says anything else by now."""
    if not message.signed:
        return None
    try:
        found = ModelMessagesTypeAdapter.validate_json(message.signed)
    except ValidationError:  # written by a release whose form this one does not read: it goes unsigned
        return None
    reply = found[0] if len(found) == 1 else None
    if not isinstance(reply, ModelResponse):
        return None
    calls = [
        (part.tool_call_id, clean(part.tool_name), text_of(part.args))
        for part in reply.parts
        if isinstance(part, ToolCallPart)
    ]
    text = clean("".join(part.content for part in reply.parts if isinstance(part, TextPart)))
    same = calls == [(call.id, call.name, call.arguments) for call in message.calls]
    return reply if same and text.strip() == message.content.strip() else None
