"""OpenAI's JSONL: one conversation a line, as `{"messages": [...]}`, the form of files for fine-tuning.

A line is held in memory, never the file. Tools that a line offers are not taken over, and nothing is called. The form
is described in OpenAI's guide to fine-tuning and its reference of chat completions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from stepwell.imports.base import IMAGE, Builder, Called, Found, Skipped, Source, Unfit, is_dense, is_shown
from stepwell.messages import Image
from stepwell.tools.json_text import mend

LINE_LIMIT = 100_000_000
"""Bytes of a line."""
ADDRESS = 2000
"""Characters kept of an image's address."""
_PIECE = 1 << 20


class _Url(msgspec.Struct):
    url: str = ""


class _Part(msgspec.Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None
    image_url: _Url | str | None = None


class _Function(msgspec.Struct):
    name: str = ""
    arguments: str = ""


class _Call(msgspec.Struct):
    id: str = ""
    function: _Function = msgspec.field(default_factory=_Function)


class _Said(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None
    tool_call_id: str | None = None
    name: str | None = None


class _Line(msgspec.Struct):
    messages: list[_Said]


_decoder = msgspec.json.Decoder(_Line)


class JsonlReader:
    """A file of such lines.

    Args:
        path: The file.
    """

    source: Source = "jsonl"

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")

    def read(self) -> Iterator[Found]:
        """Yield its conversations; see the port."""
        number = 0
        while (line := self._file.readline(LINE_LIMIT)) != b"":
            number += 1
            if not line.endswith(b"\n") and len(line) >= LINE_LIMIT:
                self._pass_over()
                yield Skipped(str(number), "long", f"> {LINE_LIMIT:,}")
                continue
            text = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if text:
                yield _talk(str(number), text)

    def _pass_over(self) -> None:
        """Go on behind the end of the line."""
        while (rest := self._file.readline(_PIECE)) and not rest.endswith(b"\n"):
            pass

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _talk(place: str, text: bytes) -> Found:
    if is_dense(text):
        return Skipped(place, "long", "too many values")
    try:
        line = _decode(text)
    except msgspec.ValidationError as error:
        return Skipped(place, "form", str(error))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return Skipped(place, "syntax", str(error))
    builder = Builder()
    try:
        for said in line.messages:
            _add(builder, said)
        return builder.finish(place, hashlib.sha256(text).hexdigest())
    except Unfit as unfit:
        return unfit.at(place)


def _decode(text: bytes) -> _Line:
    try:
        return _decoder.decode(text)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return _decoder.decode(mend(text))


def _add(builder: Builder, said: _Said) -> None:
    text, images = _content(said)
    match said.role:
        case "user":
            builder.user(text, images=images)
        case "assistant":
            text = text or said.refusal or ""
            noted = "\n".join(filter(None, [text, *(IMAGE for _ in images)]))
            builder.assistant(noted, calls=_calls(said), thinking=said.reasoning_content or "")
        case "tool":
            builder.result(text, call=said.tool_call_id or "", name=said.name or "")
        case "function":
            builder.result(text, name=said.name or "")
        case "system" | "developer":
            builder.leave_out("system")
        case _:
            builder.leave_out("role")


def _calls(said: _Said) -> list[Called]:
    calls = [Called(each.id, each.function.name, each.function.arguments) for each in said.tool_calls or ()]
    old = said.function_call
    return calls + ([Called("", old.name, old.arguments)] if old is not None else [])


def _content(said: _Said) -> tuple[str, list[Image]]:
    if not isinstance(said.content, list):
        return said.content or "", []
    texts: list[str] = []
    images: list[Image] = []
    for part in said.content:
        if part.image_url is not None:
            url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
            if is_shown(url):
                images.append(Image(url))
            else:  # an address would be fetched by whoever is asked next
                texts.append(f"{IMAGE} {url[:ADDRESS]}" if url.startswith("https://") else IMAGE)
        else:
            texts.append(part.text or part.refusal or "")
    return "\n".join(filter(None, texts)), images
