"""What a result may hold: text that every store takes, no more of it than its bound, plain details.

It looks at values only. Where a whole text is kept, and under which handle it is read again, is others' business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import msgspec

from stepwell.contexts import WRAPPED, cut_text, handle_of_blob
from stepwell.messages import clean

DETAILS_LIMIT = 200_000
"""Bytes of JSON that the details of one result may take in the log."""
WHOLE_LIMIT = 256_000_000
"""Bytes of the longest text that is kept whole; of a longer one only head and tail are left."""
PIECE = 500_000
"""Characters that are worked on at a time, so that other threads come to their turn in between."""

REPLACED = "replaced_characters"
"""Key of the details that says how many characters of a result became U+FFFD."""


class Whole(NamedTuple):
    """A text that is longer than its bound.

    Args:
        content: What stands for it: head and tail, with a line between them that says how to get the rest.
        data: All of it, as UTF-8; empty where it is longer than `WHOLE_LIMIT`.
        hash: SHA-256 of `data`, 64 hexadecimal digits; empty like it.
    """

    content: str
    data: bytes
    hash: str


def shorten(text: str, limit: int) -> Whole:
    """Return what a text comes to that is longer than `limit` characters, and the text itself, cleaned.

    Two thirds of the room go to its head. It costs a few passes over the text.
    """
    return shorten_counting(text, limit)[0]


def shorten_counting(text: str, limit: int) -> tuple[Whole, int]:
    """Return the same as `shorten`, and how many characters of the text were replaced."""
    encoded: list[bytes] = []
    digest, dirty, count = hashlib.sha256(), False, 0
    for piece in _pieces(text):
        cleaned = clean(piece)
        dirty, count = dirty or cleaned is not piece, count + replaced(piece, cleaned)
        encoded.append(cleaned.encode())
        digest.update(encoded[-1])
    if dirty:
        text = "".join(map(bytes.decode, encoded))
    if len(text) <= limit or sum(map(len, encoded)) > WHOLE_LIMIT:
        return Whole(shortened(text, limit, ""), b"", ""), count
    hash = digest.hexdigest()
    return Whole(shortened(text, limit, handle_of_blob(hash)), b"".join(encoded), hash), count


def replaced(text: str, cleaned: str) -> int:
    """Return how many characters of a text became U+FFFD when it was cleaned."""
    return 0 if cleaned is text else cleaned.count("\ufffd") - text.count("\ufffd")


def shortened(text: str, limit: int, handle: str) -> str:
    """Return at most `limit` characters of a text, with a line where the rest was; the text if it is no longer."""
    if len(text) <= limit:
        return text
    room = limit - len(f"\n{WRAPPED} {len(text)} characters left out; recall {handle}\n")
    if room > 0:
        head = room * 2 // 3
        return cut_text(text, head, room - head, handle)
    return f"{WRAPPED} {handle}"[:limit] if handle else text[:limit]


def plain(value: Any) -> Any:
    """Return what JSON can hold of an object that it has no words for."""
    dump = getattr(value, "model_dump", None)
    return str(value) if dump is None else dump(mode="json")


def plain_details(details: dict[str, Any]) -> dict[str, Any]:
    """Return details as plain JSON values within `DETAILS_LIMIT`, or a note on why they are left out."""
    try:
        data = msgspec.json.encode(_clean_all(msgspec.to_builtins(details, str_keys=True, enc_hook=plain)))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return {"left_out": f"The details are not JSON: {describe(error)}"}
    if len(data) > DETAILS_LIMIT:
        return {"left_out": f"The details have {len(data)} bytes; the limit is {DETAILS_LIMIT}."}
    return cast(dict[str, Any], msgspec.json.decode(data))


def describe(error: BaseException) -> str:
    """Return an exception's type and message."""
    name, message = type(error).__name__, message_of(error)
    return f"{name}: {message}" if message else name


def message_of(error: BaseException) -> str:
    """Return an exception's message; nothing where it cannot say it."""
    try:
        return str(error)
    except Exception:  # the boundary to foreign code: an exception may fail to describe itself
        return ""


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = start + PIECE
        while "\ud800" <= text[end - 1 : end] <= "\udbff":
            end += 1  # the other half of this surrogate may follow, and together they are one character
        yield text[start:end]
        start = end


def _clean_all(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(name)): _clean_all(each) for name, each in cast(dict[object, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [_clean_all(each) for each in cast(list[Any], value)]
    return value
