"""Content as AG-UI has it, text or a list of parts, and messages of a conversation in both directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from stepwell.errors import InputError
from stepwell.images import check
from stepwell.messages import Image, Message, ToolCall, clean
from stepwell.server.agui.bodies import InputMessageBody

Object = dict[str, Any]


def parts_of(text: str, images: Iterable[Image]) -> list[Object]:
    """Return text and images as parts."""
    parts: list[Object] = [{"type": "text", "text": text}] if text else []
    return parts + [{"type": "image", "source": _source(each.url)} for each in images]


def _source(url: str) -> Object:
    head, comma, data = url.partition(";base64,")
    if comma and head.startswith("data:"):
        return {"type": "data", "value": data, "mimeType": head.removeprefix("data:")}
    return {"type": "url", "value": url}


def text_of(content: object) -> str:
    """Return the text of content, without what is no text."""
    if isinstance(content, str):
        return clean(content)
    parts = _parts(content)
    texts = [cast(Object, each).get("text") for each in parts if isinstance(each, Mapping)]
    return clean("\n".join(each for each in texts if isinstance(each, str)))


def is_text(content: object) -> bool:
    """Tell whether content is text alone, or none at all."""
    parts = _parts(content)
    texts = all(isinstance(each, Mapping) and isinstance(cast(Object, each).get("text"), str) for each in parts)
    return content is None or isinstance(content, str) or (isinstance(content, list) and texts)


def _parts(content: object) -> list[object]:
    return cast("list[object]", content) if isinstance(content, list) else []


def said(bodies: Sequence[tuple[int, InputMessageBody]], max_pixels: int) -> Message:
    """Return what the user says now, as one message.

    Args:
        bodies: New messages with their places in the request.
        max_pixels: Of an image.

    Raises:
        InputError: There is a part that cannot be shown to a model.
    """
    texts: list[str] = []
    images: list[Image] = []
    for index, body in bodies:
        texts.append(text_of(body.content))
        parts = _parts(body.content)
        for place, part in enumerate(parts):
            field = f"messages.{index}.content.{place}"
            image = _image(part, field)
            if image is not None:
                check(image, max_pixels=max_pixels, field=f"{field}.source.value")
                images.append(image)
    text = "\n\n".join(each for each in texts if each)
    if not text and not images:
        raise InputError("The message is empty; write something or add an image.", f"messages.{bodies[-1][0]}.content")
    return Message("user", text, tuple(images))


def _image(part: object, field: str) -> Image | None:
    """Return the image of a part; None for a text.

    Raises:
        InputError: It is neither.
    """
    known: Object = dict(cast("Mapping[str, Any]", part)) if isinstance(part, Mapping) else {}
    kind = known.get("type")
    if kind == "text" and isinstance(known.get("text"), str):
        return None
    url = _url(known.get("source")) if kind == "image" else ""
    if not url:
        what = "Only text, and images with a source of the type `data` or `url`, can be shown to a model."
        raise InputError(what, field)
    return Image(url)


def _url(source: object) -> str:
    known: Object = dict(cast("Mapping[str, Any]", source)) if isinstance(source, Mapping) else {}
    value = known.get("value")
    if not isinstance(value, str) or clean(value) != value:
        return ""
    if known.get("type") == "data":
        return f"data:{known.get('mimeType', '')};base64,{value}"
    return value if known.get("type") == "url" and value.startswith(("https://", "data:image/")) else ""


def history(bodies: Iterable[InputMessageBody]) -> list[Message]:
    """Return earlier messages of a conversation that is new here; what a model cannot be shown is left out."""
    found: list[Message] = []
    for body in bodies:
        text = text_of(body.content)
        match body.role:
            case "user":
                found.append(Message("user", text, _old_images(body.content)))
            case "assistant":
                calls = tuple(
                    ToolCall(each.id, each.function.name, each.function.arguments) for each in body.toolCalls or ()
                )
                if text or calls:
                    found.append(Message("assistant", text, calls=calls))
            case "tool":
                told = text or body.error or ""
                found.append(Message("tool", told, _old_images(body.content), call=body.toolCallId))
            case _:
                pass
    return found


def _old_images(content: object) -> tuple[Image, ...]:
    found: list[Image] = []
    for part in _parts(content):
        with suppress(InputError):
            image = _image(part, "")
            if image is not None:
                check(image)
                found.append(image)
    return tuple(found)
