"""What can be known of an image without decoding its pixels: its size, and whether it may be shown to a model.

It fetches nothing, and reads of a `data:` URL only the few bytes of its header that name width and height.
How many tokens an image costs is in `tokens.py`.
"""

from __future__ import annotations

import re
from binascii import a2b_base64
from collections.abc import Callable
from struct import unpack
from typing import NamedTuple

from stepwell.errors import InputError
from stepwell.messages import Image

_DATA_URL = r"(?i)data:image/[\w.+-]{1,64}(?:;[\w.+=-]{1,64}){0,4};base64,"  # compiled by the first image
_HEADER = 24  # bytes that every supported format needs at least to say its size
_SEGMENTS = 500  # of a JPEG file before its size; cameras write some dozens


class ImageSize(NamedTuple):
    """Width and height of an image.

    Args:
        width: In pixels, above 0.
        height: In pixels, above 0.
    """

    width: int
    height: int


class _Payload:
    """The bytes of a `data:` URL, each decoded only when it is asked for."""

    __slots__ = ("_start", "_url")

    def __init__(self, url: str, start: int) -> None:
        self._url, self._start = url, start

    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset`; fewer at the end. Raises ValueError where they are no base64."""
        # Four characters are three bytes, so any place can be decoded without what stands before it.
        first, last = offset // 3, -((offset + count) // -3)
        chunk = self._url[self._start + 4 * first : self._start + 4 * last]
        return a2b_base64(chunk.encode("ascii"), strict_mode=True)[offset - 3 * first :][:count]

    def take(self, offset: int, count: int) -> bytes:
        """Return exactly `count` bytes from `offset`. Raises ValueError where there are fewer."""
        data = self.read(offset, count)
        if len(data) < count:
            raise ValueError("the image ends within its header")
        return data


def probe(image: Image) -> ImageSize | None:
    """Return the size that the header of a `data:` URL states: PNG, JPEG, GIF, WebP or BMP.

    Args:
        image: Any image.

    Returns:
        None for an `https:` address, another format, or a header that is cut or broken.
    """
    found = re.match(_DATA_URL, image.url)
    if not found:
        return None
    payload = _Payload(image.url, found.end())
    try:
        magic = payload.read(0, 16)
        reader = next((reader for start, reader in _READERS if magic.startswith(start)), None)
        size = reader(payload) if reader else None
    except ValueError:
        return None
    return size if size and min(size) > 0 else None


def check(
    image: Image, *, max_pixels: int = 50_000_000, max_bytes: int = 20_000_000, field: str = "images.0.url"
) -> None:
    """Refuse an image that should not be kept or sent, without decoding more than its header.

    The bytes are counted from the length of the base64 text. OpenAI's guide to vision names 20 MB an image.

    Args:
        image: As it came from a client or a tool.
        max_pixels: Width times height that a header may state.
        max_bytes: Size of the encoded image.
        field: What to call the place in the request.

    Raises:
        InputError: With the field and the remedy.
    """
    if image.url[:8].lower() == "https://":
        return
    found = re.match(_DATA_URL, image.url)
    if not found:
        raise InputError(
            f"`{field}` is no image address: send an `https://` address or `data:image/png;base64,...`", field
        )
    size = (len(image.url) - found.end()) // 4 * 3
    if size > max_bytes:
        raise InputError(f"`{field}` holds {size:,} bytes; send an image of at most {max_bytes:,} bytes", field)
    _check_base64(_Payload(image.url, found.end()), field)
    pixels = probe(image)
    if pixels and pixels.width * pixels.height > max_pixels:
        raise InputError(
            f"`{field}` has {pixels.width} x {pixels.height} pixels; scale it down to at most {max_pixels:,} of them",
            field,
        )


def _check_base64(payload: _Payload, field: str) -> None:
    try:
        data = payload.read(0, _HEADER)
    except ValueError:
        data = b""
    if not data:
        raise InputError(
            f"`{field}` has no readable base64 after its comma; encode the file with the standard alphabet and padding",
            field,
        )


def _png(payload: _Payload) -> ImageSize | None:
    kind, width, height = unpack(">4sII", payload.take(12, 12))
    return ImageSize(width, height) if kind == b"IHDR" else None


def _gif(payload: _Payload) -> ImageSize:
    return ImageSize(*unpack("<HH", payload.take(6, 4)))


def _bmp(payload: _Payload) -> ImageSize:
    (header,) = unpack("<I", payload.take(14, 4))
    if header == 12:
        return ImageSize(*unpack("<HH", payload.take(18, 4)))
    width, height = unpack("<ii", payload.take(18, 8))
    return ImageSize(width, abs(height))  # a negative height says that the rows go from the top down


def _webp(payload: _Payload) -> ImageSize | None:
    """Read the three kinds of WebP file (RFC 9649, section 2)."""
    if payload.take(8, 4) != b"WEBP":
        return None
    match payload.take(12, 4):
        case b"VP8 ":
            mark, width, height = unpack("<3sHH", payload.take(23, 7))
            return ImageSize(width & 0x3FFF, height & 0x3FFF) if mark == b"\x9d\x01\x2a" else None
        case b"VP8L":
            mark, bits = unpack("<BI", payload.take(20, 5))
            return ImageSize((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1) if mark == 0x2F else None
        case b"VP8X":
            data = payload.take(24, 6)
            return ImageSize(int.from_bytes(data[:3], "little") + 1, int.from_bytes(data[3:], "little") + 1)
        case _:
            return None


def _jpeg(payload: _Payload) -> ImageSize | None:
    """Walk the segments up to the frame header, which names the size (ITU-T T.81, annex B)."""
    at = 2
    for _ in range(_SEGMENTS):
        mark, kind, length = unpack(">BBH", payload.take(at, 4))
        if mark != 0xFF or kind in (0xD9, 0xDA):
            return None
        if kind == 0xFF:  # a fill byte
            at += 1
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = unpack(">HH", payload.take(at + 5, 4))
            return ImageSize(width, height)
        elif kind == 0x01 or 0xD0 <= kind <= 0xD8:  # a mark without a length
            at += 2
        else:
            at += 2 + length
    return None


_READERS: tuple[tuple[bytes, Callable[[_Payload], ImageSize | None]], ...] = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8", _jpeg),
    (b"GIF87a", _gif),
    (b"GIF89a", _gif),
    (b"RIFF", _webp),
    (b"BM", _bmp),
)
