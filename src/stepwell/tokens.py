"""How many tokens a text, an image, a message or tools cost a model at most: never fewer than the model will count.

Text is counted exactly where the model's tokenizer is known and the extra `tokens` is installed, else by its UTF-8
bytes. It knows no model by name and nothing of windows and budgets: the facts come from `models/profiles.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from importlib import import_module
from typing import Literal, Protocol, cast
from warnings import catch_warnings, simplefilter

import msgspec

from stepwell.errors import ConfigError
from stepwell.images import ImageSize, probe
from stepwell.messages import Image, Message, ToolCall, ToolSpecs, clean

Tokenizer = Literal["", "cl100k", "o200k"]
"""The tokenizers that are counted exactly; empty for all others."""

ImageRule = Literal[
    "",
    "openai_tiles",
    "openai_tiles_mini",
    "openai_patches",
    "openai_patches_large",
    "anthropic",
    "gemini",
    "qwen",
    "yi",
    "phi",
]
"""The names of `RULES`; empty where nothing is known."""

_ENCODINGS = {"cl100k": "cl100k_base", "o200k": "o200k_base"}

_PIECE = 16_384  # characters: long enough to be fast, short enough to be counted again when a cut is looked for
_LONGEST = 32_000  # characters without an edge; with a piece before them four bytes each are below 200,000,
# which is what the library takes in tokens. A longer stretch counts as its bytes.

_CONTINUED = bytes(range(0x80, 0xC0))  # bytes of UTF-8 that begin no character

_MOST_BYTES = 12  # to a token that are believed; prose and code have 3 to 5
_CACHED_TOOLS = 16


class Allowance(msgspec.Struct, frozen=True):
    """What chat templates add to the texts of a request, in tokens: role marks, wrapping, instructions for tools.

    Chosen above what is known of templates: ChatML and Llama 3 mark a message with 5 tokens, and OpenAI's cookbook
    counts 3. A server may have a template of its own; a reported count above the bound shows that.

    Args:
        message: For each message.
        tool: For each tool's wrapping around its JSON.
        call: For each call, and for what ties a result to it.
        request: Once for a request: default system lines, the opening of the reply.
        request_with_tools: Once more for a request with tools: what the model is told of how to call them.
    """

    message: int = 8
    tool: int = 16
    call: int = 16
    request: int = 64
    request_with_tools: int = 400


class Grid(msgspec.Struct, frozen=True):
    """A family's rule for images: so many tokens for each cell of a grid laid over the picture.

    Args:
        side: Of a cell, in pixels; 0 means one cell whatever the size.
        each: Tokens of a cell.
        base: Tokens added once.
        most: The cells at most; also what is taken for an image of unknown size.
        least: The cells at least.
        fit: The longer side is scaled down to this before; 0: it is not.
        short: The shorter side is scaled down to this before; 0: it is not.
        crop: Cells grow to the shorter side divided by this, up to `widest`; 0: they do not.
        widest: The side of a cell at most, where cells grow.
        low: Tokens of an image that is sent with the detail `low`; 0: the detail does not matter.
    """

    side: int
    each: float
    base: int = 0
    most: int = 1
    least: int = 1
    fit: int = 0
    short: int = 0
    crop: float = 0
    widest: int = 0
    low: int = 0

    def tokens(self, size: ImageSize | None, detail: str) -> int:
        """Return the tokens of one image.

        Args:
            size: None where it is unknown.
            detail: As in `Image`.
        """
        if self.low and detail == "low":
            return self.low
        cells = self.most if size is None else min(self.most, max(self.least, self._cells(size)))
        return math.ceil(round(self.base + self.each * cells, 6))

    def _cells(self, size: ImageSize) -> int:
        if not self.side:
            return 1
        scale = min(1.0, self.fit / max(size)) if self.fit else 1.0
        scale = min(scale, self.short / min(size)) if self.short else scale
        longer, shorter = max(size) * scale, min(size) * scale
        grown = min(self.widest, math.floor(shorter / self.crop)) if self.crop else 0
        side = max(self.side, grown)
        return math.ceil(round(longer / side, 6)) * math.ceil(round(shorter / side, 6))


_OPENAI_TILES = Grid(512, 170, base=85, most=8, fit=2048, short=768, low=85)

RULES: dict[str, tuple[Grid, ...]] = {
    # Nothing is known: the most of common open models, Pixtral's 64 x 64 patches with their line ends, and some more.
    "": (Grid(0, 4352),),
    # OpenAI, "Images and vision": GPT-4 Turbo, 4o, 4.1, 4.5. The least of the shrinking rules, without enlarging.
    "openai_tiles": (_OPENAI_TILES,),
    # The same page: GPT-4o mini is billed 33 times the tiles of GPT-4o.
    "openai_tiles_mini": (Grid(512, 5667, base=2833, most=8, fit=2048, short=768, low=2833),),
    # The same page: small models of GPT-4.1 and GPT-5 and o4-mini take patches times 1.2 (measured) to 2.46 (stated);
    # GPT-5, o1 and o3 take tiles of 140 and 150. The larger of both.
    "openai_patches": (Grid(32, 2.46, most=1536), _OPENAI_TILES),
    # The same page: from GPT-5.4 on up to 10,000 patches, from 5.6 on 30,000, above which an image is refused.
    # Measured at 1.2 a patch; the stated 1.62 of the small models is taken. `low` means 512 x 512 pixels.
    "openai_patches_large": (Grid(32, 1.62, most=30_000, low=415),),
    # Anthropic, "Vision": width x height / 750. Measured are patches of 28 pixels, up to 4,784 from Claude 4.7 on,
    # which is 4.5 % less for sizes without rest and more for others; so both, as patches times 1.05.
    "anthropic": (Grid(28, 1.05, most=4784),),
    # Google, "Image understanding": 258 for a crop of 256 to 768 pixels, a third of the picture's height or width;
    # one more for the whole. Gemini 3 takes 1,120 for any image. Nothing limits the crops but 50 million pixels.
    "gemini": (Grid(256, 258, base=258, most=100, crop=1.5, widest=768), Grid(0, 1120)),
    # Qwen2-VL's image processor: 14-pixel patches joined two by two, at most 16,384; the first Qwen-VL took 256 for
    # any image. Two marks. GLM-4.1V and 4.5V cut images the same way and allow fewer.
    "qwen": (Grid(28, 1, base=2, least=256, most=16_384),),
    # Yi-VL: a picture of 448 pixels in patches of 14.
    "yi": (Grid(0, 1024, base=4),),
    # Phi-4-multimodal: up to 36 crops of 448 pixels with 16 x 16 places and their line ends, one more for the whole.
    "phi": (Grid(448, 272, base=290, most=36),),
}
"""The rules for images by name; the larger figure counts where a rule has two."""


class _Encoding(Protocol):
    """What is used of `bpe_openai.Encoding`."""

    def encode_ordinary(self, text: str) -> list[int]: ...
    def decode_bytes(self, tokens: Sequence[int]) -> bytes: ...


@cache
def _encoding(tokenizer: str) -> _Encoding | None:
    """Return the tables of a tokenizer, or None where it is unknown or not installed."""
    if tokenizer not in _ENCODINGS:
        return None
    with catch_warnings():
        simplefilter("ignore", DeprecationWarning)  # of how the library reads its own files
        try:
            # Loaded on first use: half a second and some 150 MB, for models of one vendor, from an optional package.
            library = import_module("bpe_openai")
        except ImportError:
            return None
        return cast(_Encoding, library.get_encoding(_ENCODINGS[tokenizer]))


class Counter:
    """Counts what a request costs a model at most.

    Args:
        tokenizer: `cl100k`, `o200k`, or another name or empty for text counted by its bytes.
        image_rule: A name of `RULES`.
        allowance: What the model's chat template adds.

    Raises:
        ConfigError: If there is no such rule for images.
    """

    def __init__(self, tokenizer: str = "", image_rule: str = "", allowance: Allowance | None = None) -> None:
        if image_rule not in RULES:
            known = ", ".join(filter(None, RULES))
            raise ConfigError(f"there is no rule {image_rule!r} for images; the rules are {known}")
        self._tokenizer, self._rule = tokenizer, RULES[image_rule]
        self.allowance = allowance or Allowance()
        self._encoded = lru_cache(_CACHED_TOOLS)(self._count_encoded)

    @property
    def exact(self) -> bool:
        """Whether text is counted exactly; asking loads the tables."""
        return _encoding(self._tokenizer) is not None

    def text(self, text: str) -> int:
        """Return the tokens of a text; what looks like a special token is text.

        Args:
            text: Any, with lone surrogates too, each of which counts as the 3 bytes of U+FFFD.
        """
        encoding = self._encoding_for(text)
        if encoding is None:
            return _bytes(text)
        return sum(_count(encoding, text[start:end], exact) for start, end, exact in _pieces(text))

    def image(self, image: Image) -> int:
        """Return the tokens of an image; one of unknown size costs the most that its family takes."""
        size = probe(image)
        return max(grid.tokens(size, image.detail) for grid in self._rule)

    def message(self, message: Message, *, thinking: bool = False) -> int:
        """Return the tokens of a message with what the template adds.

        Args:
            message: Any.
            thinking: Whether the thinking that led to tool calls is sent back (`ModelProfile.thinking_back`).
        """
        tokens = self.allowance.message + self.text(message.content) + sum(map(self.image, message.images))
        if message.call:
            tokens += self.allowance.call + self.text(message.call)
        if message.calls:
            tokens += sum(map(self._call, message.calls))
            tokens += self.text(message.thinking) if thinking else 0
        return tokens

    def tools(self, tools: ToolSpecs) -> int:
        """Return the tokens of tools, counted once for the same tools; 0 for none."""
        return self._encoded(tools.encoded) + self.allowance.tool * len(tools) if tools else 0

    def cut(self, text: str, tokens: int) -> int:
        """Return how many leading characters of a text stay within so many tokens.

        Counted exactly, a little more might fit: less than a token's worth, or the rest of a stretch of more than
        32,000 characters that has no edge between words.
        """
        return self._fit(text, tokens, tail=False)

    def cut_tail(self, text: str, tokens: int) -> int:
        """Return how many characters at the end of a text stay within so many tokens, as `cut` does."""
        return self._fit(text, tokens, tail=True)

    def _encoding_for(self, text: str) -> _Encoding | None:
        """Return the tables for a text; none where it has lone surrogates, which the library would join or replace."""
        return _encoding(self._tokenizer) if _is_utf8(text) else None

    def _call(self, call: ToolCall) -> int:
        # Few templates show ids, but they may be of any length.
        named = self.text(call.name) + self.text(call.id)
        return self.allowance.call + named + self.text(_sent(call.arguments))

    def _count_encoded(self, encoded: bytes) -> int:
        return self.text(encoded.decode())

    def _fit(self, text: str, tokens: int, *, tail: bool) -> int:
        encoding = self._encoding_for(text)
        if encoding is None:
            return _fit_bytes(text, tokens, tail=tail)
        kept, left = 0, tokens
        for start, end, exact in _pieces_from_end(text) if tail else _pieces(text):
            piece = text[start:end]
            count = _count(encoding, piece, exact) if left > 0 else 1
            if count > left:
                # Only so much of a stretch without an edge is counted exactly.
                part = piece if exact else piece[-_LONGEST:] if tail else piece[:_LONGEST]
                return kept + max(_fit_bytes(piece, left, tail=tail), _fit_exact(encoding, part, left, tail=tail))
            kept, left = kept + len(piece), left - count
        return kept


def trusted(reported: int, size: int) -> bool:
    """Tell whether a provider's count of a request's tokens can be that of the whole request.

    Some report only what was not in their cache (Ollama's `prompt_eval_count`). Text of more than 12 bytes to a
    token is rare enough that such a count is not believed.

    Args:
        reported: Tokens of the request as the provider counted them.
        size: UTF-8 bytes of its text.
    """
    return reported > 0 and reported * _MOST_BYTES >= size


def _sent(arguments: str) -> str:
    """Return a call's arguments as they may be sent at the longest: what is no JSON object goes as a JSON string."""
    try:
        msgspec.json.decode(arguments, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):
        return msgspec.json.encode({"_invalid": clean(arguments)}).decode()
    return arguments


def _bytes(text: str) -> int:
    """Return the UTF-8 bytes of a text: no byte-level tokenizer makes more tokens of it."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _count(encoding: _Encoding, piece: str, exact: bool) -> int:
    return len(encoding.encode_ordinary(piece)) if exact else _bytes(piece)


_Piece = tuple[int, int, bool]
"""Start and end of a stretch of a text from one edge to another, and whether it may be counted exactly."""


def _pieces(text: str) -> Iterator[_Piece]:
    """Cut a text at edges into pieces whose counts add up.

    What is counted as bytes depends on the stretches without an edge alone, so a text counts the same in any pieces.
    """
    start, size = 0, len(text)
    while start < size:
        edge = _edge().search(text, start + _PIECE)
        end = edge.end() if edge else size
        if end - start > _LONGEST:
            last = _last_edge(text, start, start + _PIECE + 1) or start
            if end - last > _LONGEST:
                if last > start:
                    yield start, last, True
                yield last, end, False
                start = end
                continue
        yield start, end, True
        start = end


def _pieces_from_end(text: str) -> Iterator[_Piece]:
    """Cut a text as `_pieces` does, the last piece first."""
    end = len(text)
    while end > 0:
        start, stop = 0, end - _PIECE
        while stop > 0 and not (start := _last_edge(text, max(0, stop - _PIECE), stop)):
            stop -= _PIECE - 1  # windows share a character, as an edge is seen by two
        if end - start > _LONGEST:
            edge = _edge().search(text, start, end)
            first = edge.end() if edge else end
            if first - start > _LONGEST:
                if first < end:
                    yield first, end, True
                yield start, first, False
                end = start
                continue
        yield start, end, True
        end = start


@cache
def _edge() -> re.Pattern[str]:
    """Return what finds an edge; it takes 3 ms to compile, and most programs count bytes only.

    Where two such characters meet, both tokenizers always end one word and begin another, so that counts of the parts
    add up to that of the whole. Letters may go on with marks and with an apostrophe, and digits with other numbers.
    """
    return re.compile(
        r"[^\W_](?=[\t\n\r !-&(-/:-@\[-`{-~，。！？；：、（）《》「」])|[A-Za-z一-龥](?=[0-9])|[0-9](?=[A-Za-z一-龥])"
    )


def _last_edge(text: str, start: int, stop: int) -> int:
    """Return where the last edge of a stretch is, or 0."""
    last = 0
    for edge in _edge().finditer(text, start, stop):
        last = edge.end()
    return last


def _fit_bytes(text: str, tokens: int, *, tail: bool) -> int:
    size = max(0, tokens)
    near = text[max(0, len(text) - size) :] if tail else text[:size]
    if near.isascii():
        return len(near)
    data = near.encode("utf-8", "surrogatepass")
    return _characters(data, min(size, len(data)), tail=tail)


def _fit_exact(encoding: _Encoding, part: str, tokens: int, *, tail: bool) -> int:
    """Return how many characters at one end of a part stay within so many tokens."""
    found, data = encoding.encode_ordinary(part), part.encode()
    count, step = min(tokens, len(found)), 1
    while count > 0:
        size = len(encoding.decode_bytes(found[-count:] if tail else found[:count]))
        kept = _characters(data, size, tail=tail)
        # The tokens of a part are nearly always so many of the whole's; where words begin elsewhere there are more.
        if len(encoding.encode_ordinary(part[len(part) - kept :] if tail else part[:kept])) <= tokens:
            return kept
        count, step = count - step, step * 2
    return 0


def _characters(data: bytes, size: int, *, tail: bool) -> int:
    """Return how many characters are whole in the first or last `size` bytes of UTF-8."""
    if tail:
        return len(data[len(data) - size :].translate(None, _CONTINUED))
    while 0 < size < len(data) and data[size] & 0xC0 == 0x80:
        size -= 1
    return len(data[:size].translate(None, _CONTINUED))
