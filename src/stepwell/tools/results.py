"""What comes of a call: how a value that a function returned becomes text and images for a model, within bounds.

It runs nothing. What becomes of errors and time-outs is said in `base.py`.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from types import NoneType
from typing import Any, cast, get_args

import msgspec

from stepwell.contexts import WRAPPED, handle_of_blob
from stepwell.errors import InputError
from stepwell.events import ToolStatus
from stepwell.images import check as check_image
from stepwell.images import probe
from stepwell.messages import Image, clean
from stepwell.tools.bounds import REPLACED, WHOLE_LIMIT, plain, plain_details, replaced, shorten_counting

IMAGE_BYTES = 20_000_000
"""Bytes of the largest image of a tool that a model is shown (OpenAI's guide to vision)."""

_MEDIA_TYPE = re.compile(r"[\w.+-]{1,64}/[\w.+-]{1,64}", re.ASCII)


class Media(msgspec.Struct, frozen=True, gc=False):
    """Bytes that a tool returns, alone or in a list among texts.

    Args:
        data: The bytes.
        media_type: Such as `image/png`; an image is shown to models that see, anything else is kept under a handle.

    Raises:
        ValueError: The media type is none.
    """

    data: bytes
    media_type: str

    def __post_init__(self) -> None:
        if not _MEDIA_TYPE.fullmatch(self.media_type):
            raise ValueError(f"media_type is {self.media_type[:80]!r}; write it as in image/png")

    def image(self) -> Image | None:
        """Return it as an image that models can be shown, or None where it is none."""
        if not self.media_type.lower().startswith("image/") or len(self.data) > IMAGE_BYTES:
            return None
        image = Image(f"data:{self.media_type.lower()};base64,{b64encode(self.data).decode()}")
        try:
            check_image(image)
        except InputError:
            return None
        return image if probe(image) else None


class ToolResult(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What came of a call.

    Args:
        content: What the model is told.
        status: How it ended.
        images: Shown to models that see.
        details: For people's screens; plain JSON values. `replaced_characters` says how many characters of the result
            no store takes, or were no text, and became U+FFFD.
        whole: All of the result, where `content` is only a part of it: text as UTF-8, which `Toolbox.run` fills in,
            or the bytes of a `Media`.
        hash: SHA-256 of `whole`, 64 hexadecimal digits.
        size: Bytes of `whole`, where it is known and not at hand.
        attached: Bytes that `content` names by a handle, by their SHA-256.
    """

    content: str
    status: ToolStatus = "ok"
    images: tuple[Image, ...] = ()
    details: dict[str, Any] | None = None
    whole: bytes = b""
    hash: str = ""
    attached: dict[str, bytes] = {}
    size: int = 0

    @property
    def blobs(self) -> dict[str, bytes]:
        """What has to be stored with the result, by its SHA-256."""
        return {**self.attached, self.hash: self.whole} if self.hash else self.attached


_KINDS: tuple[tuple[type, ...], ...] = (
    (str,),
    (str,),
    (tuple, list),
    (dict, NoneType),
    (bytes,),
    (str,),
    (dict,),
    (int,),
)
"""Of the fields of a result, in order."""
_USUAL = (str, str, tuple, NoneType, bytes, str, dict, int)
_STATUSES = get_args(ToolStatus)


def to_result(value: object) -> ToolResult:
    """Turn what a function returned into a result: text stays, nothing is empty, all else becomes JSON.

    `Media`, alone or in a list among texts, becomes images and lines that say what else there is (XAgent's
    unwrapping of tool outputs).
    """
    if isinstance(value, ToolResult):
        return value
    if isinstance(value, Media) or has_media(value):
        return _unwrapped(value)
    return ToolResult(_text(value))


def check_result(result: ToolResult) -> None:
    """Refuse a result that could be stored and not be read again.

    Raises:
        TypeError: A field has no value of its type.
    """
    values = cast(tuple[object, ...], msgspec.structs.astuple(result))
    if tuple(map(type, values)) != _USUAL:
        for name, value, kind in zip(result.__struct_fields__, values, _KINDS, strict=True):
            if not isinstance(value, kind):
                raise TypeError(f"ToolResult: `{name}` is {type(value).__name__}")
    if result.status not in _STATUSES:
        raise TypeError(f"ToolResult: `status` is {result.status[:80]!r}; it is one of {', '.join(_STATUSES)}")
    if result.images and not all(type(each) is Image for each in result.images):
        raise TypeError("ToolResult: `images` holds something else; give objects of `Image`, or return `Media`")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    try:
        return msgspec.json.encode(value, enc_hook=plain).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        # JSON has no words for it: a huge number, a dict with odd keys, an object within itself.
        return str(value)


def has_media(value: object) -> bool:
    """Tell whether a value is a list with `Media` in it."""
    return isinstance(value, (list, tuple)) and Media in set(map(type, cast(list[object], value)))


def _unwrapped(value: object) -> ToolResult:
    lines: list[str] = []
    images: list[Image] = []
    attached: dict[str, bytes] = {}

    def show(media: Media) -> str:
        kind = f"{media.media_type}, {len(media.data)} bytes"
        image = media.image()
        if image is not None:
            images.append(image)
            return f"[image {len(images)}: {kind}]"
        if len(media.data) > WHOLE_LIMIT:
            return f"{WRAPPED} {kind}; too large to be kept"
        hash = hashlib.sha256(media.data).hexdigest()
        attached[hash] = media.data
        return f"{WRAPPED} {kind}; recall {handle_of_blob(hash)}"

    def take(each: object) -> None:
        if isinstance(each, Media):
            lines.append(show(each))
        elif has_media(each):
            for inner in cast(list[object], each):
                take(inner)
        elif each is not None:
            lines.append(_text(each))

    take(value)
    content = "\n".join(lines)
    if isinstance(value, Media) and attached:
        return ToolResult(content, whole=value.data, hash=next(iter(attached)))
    return ToolResult(content, images=tuple(images), attached=attached)


def bound(result: ToolResult, limit: int) -> ToolResult:
    """Return the result as it may be stored and told: within the limit, no NUL, no lone surrogate, plain details.

    A text beyond the limit is kept whole beside what the model is told of it. The details say how many characters were
    replaced, where any were.
    """
    if len(result.content) > limit:
        (content, whole, hash), count = shorten_counting(result.content, limit)
        attached = result.blobs
    else:
        content, whole, hash, attached = clean(result.content), result.whole, result.hash, result.attached
        if content is result.content and result.details is None:
            return result
        count = replaced(result.content, content)
    details = None if result.details is None else plain_details(result.details)
    if count:
        before = details.get(REPLACED) if details is not None else None
        details = {**(details or {}), REPLACED: count + (before if isinstance(before, int) else 0)}
    return ToolResult(content, result.status, result.images, details, whole, hash, attached)
