"""ChatGPT's export: `conversations.json`, or the zip that holds it.

Each conversation is a tree of messages (`mapping`); the branch that ends in `current_node` is read. Names in the
zip are looked up and never written to. OpenAI describes the export nowhere; the fields are those of 2023 to 2026.
"""

from __future__ import annotations

import base64
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from stepwell.errors import InputError
from stepwell.imports.base import (
    ID_LIMIT,
    IMAGE,
    OBJECTS_LIMIT,
    Builder,
    Found,
    Skipped,
    Source,
    Unfit,
    is_dense,
    is_shown,
    milliseconds,
)
from stepwell.messages import Image
from stepwell.tools.json_text import mend

JSON_LIMIT = 500_000_000
"""Bytes of one `conversations.json`, unpacked: it is held in memory."""
PICTURE_LIMIT = 14_000_000
"""Bytes of an image in the zip."""
PICTURES_LIMIT = 50_000_000
"""Room that images leave to the texts of a conversation, in bytes."""

_PARTS = re.compile(r"(?:[^/\\]+/)*conversations(?:-\d+)?\.json")
_ASSET = re.compile(r"(?:[^/\\]+/)*(file[-_][A-Za-z0-9]+)[^/\\]*")
_POINTER = re.compile(r"(?:file-service|sediment)://(file[-_][A-Za-z0-9]+)")
_ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError)
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_KINDS = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
)
_HIDDEN = ("user_editable_context", "model_editable_context")
_THOUGHTS = ("thoughts", "reasoning_recap")


class _Node(msgspec.Struct):
    parent: str | None = None
    message: msgspec.Raw = msgspec.Raw()


class _Conversation(msgspec.Struct):
    mapping: dict[str, _Node]
    id: str | None = None
    conversation_id: str | None = None
    title: str | None = None
    create_time: float | None = None
    current_node: str | None = None


class _Author(msgspec.Struct):
    role: str = ""
    name: str | None = None


class _Content(msgspec.Struct):
    content_type: str = ""
    parts: list[msgspec.Raw] | None = None
    text: msgspec.Raw = msgspec.Raw()
    result: msgspec.Raw = msgspec.Raw()


class _Metadata(msgspec.Struct):
    is_visually_hidden_from_conversation: bool | None = None


class _Message(msgspec.Struct):
    author: _Author
    content: _Content | None = None
    create_time: float | None = None
    recipient: str | None = None
    metadata: _Metadata | None = None


class _Part(msgspec.Struct):
    content_type: str | None = None
    text: str | None = None
    asset_pointer: str | None = None


_raws = msgspec.json.Decoder(list[msgspec.Raw])
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_conversation = msgspec.json.Decoder(_Conversation)
_message = msgspec.json.Decoder(_Message)
_part = msgspec.json.Decoder(_Part | str)
_text = msgspec.json.Decoder(str)


class ChatGptReader:
    """An export.

    Args:
        path: The JSON file or the zip.

    Raises:
        InputError: It is a zip that cannot be read.
    """

    source: Source = "chatgpt"

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path) if zipfile.is_zipfile(path) else None
        except _ZIP_FAULTS as error:
            raise InputError(f"{path} is a zip that cannot be read: {error}", "file") from error
        self._pictures = _pictures(self._zip)

    def read(self) -> Iterator[Found]:
        """Yield its conversations; see the port."""
        for data in self._documents():
            raws = _split(self._path, data)
            while raws:  # the newest stands first
                number = len(raws)
                yield self._found(raws.pop(), str(number))

    def close(self) -> None:
        """Let go of the file."""
        if self._zip is not None:
            self._zip.close()

    def _documents(self) -> Iterator[bytes]:
        if self._zip is None:
            with self._path.open("rb") as file:
                yield _bounded(self._path, file)
            return
        infos = [each for each in self._zip.infolist() if _PARTS.fullmatch(each.filename) and _is_tame(each.filename)]
        if not infos:
            raise InputError(f"{self._path} is a zip without conversations.json", "file")
        for info in sorted(infos, key=lambda each: each.filename, reverse=True):
            try:
                with _opened(self._zip, info) as file:
                    yield _bounded(self._path, file)
            except _ZIP_FAULTS as error:
                raise InputError(f"{info.filename!r} in {self._path} cannot be read: {error}", "file") from error

    def _found(self, raw: msgspec.Raw, place: str) -> Found:
        try:
            talk = _conversation.decode(raw)
            place = (talk.conversation_id or talk.id or place)[:ID_LIMIT]
            return self._talk(talk, place)
        except Unfit as unfit:
            return unfit.at(place)
        except msgspec.ValidationError as error:
            return Skipped(place, "form", str(error))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            return Skipped(place, "syntax", str(error))

    def _talk(self, talk: _Conversation, place: str) -> Found:
        origin = talk.conversation_id or talk.id
        if not origin or len(origin) > ID_LIMIT:
            raise Unfit("form", f"`id` has {len(origin or '')} characters")
        branch = _branch(talk)
        builder = Builder()
        builder.leave_out("branch", sum(map(_is_filled, talk.mapping.values())) - len(branch))
        for message in branch:
            self._add(builder, message)
        return builder.finish(place, origin, talk.title or "", milliseconds(talk.create_time))

    def _add(self, builder: Builder, message: _Message) -> None:
        content, author, time = message.content, message.author, milliseconds(message.create_time)
        if author.role == "system":
            builder.leave_out("system")
        elif content is None or (message.metadata and message.metadata.is_visually_hidden_from_conversation):
            builder.leave_out("hidden")
        elif content.content_type in _HIDDEN:
            builder.leave_out("system")
        elif content.content_type in _THOUGHTS:
            builder.leave_out("thinking")
        elif author.role == "user":
            text, images = self._shown(content, builder.room() - PICTURES_LIMIT)
            builder.user(text, time, images)
        elif author.role in ("assistant", "tool"):
            builder.assistant(_said(message, content), time)
        else:
            builder.leave_out("role")

    def _shown(self, content: _Content, room: int) -> tuple[str, list[Image]]:
        """Return a message's text, and its images as far as there is room."""
        texts: list[str] = []
        images: list[Image] = []
        for part in _parts(content):
            image = self._image(part, room)
            if image is None:
                texts.append(_words(part))
            else:
                images.append(image)
                room -= len(image.url)
        return "\n".join(filter(None, texts)), images

    def _image(self, part: _Part | str, room: int) -> Image | None:
        pointer = _POINTER.match(part.asset_pointer or "") if isinstance(part, _Part) else None
        info = self._pictures.get(pointer[1]) if pointer is not None else None
        if self._zip is None or info is None or min(room // 2, PICTURE_LIMIT) < info.file_size:
            return None
        try:
            with _opened(self._zip, info) as file:
                data = file.read(PICTURE_LIMIT + 1)
        except _ZIP_FAULTS:
            return None  # the note in its place says that there was one
        kind = next((kind for start, kind in _KINDS if start.match(data)), "")
        url = f"data:{kind};base64,{base64.b64encode(data).decode()}" if kind else ""
        return Image(url) if is_shown(url) else None


def _pictures(archive: zipfile.ZipFile | None) -> dict[str, zipfile.ZipInfo]:
    """Return the files of a zip that messages can point to, by their ids."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist() if archive is not None else ():
        named = _ASSET.fullmatch(info.filename)
        if named is not None and _is_tame(info.filename):
            found.setdefault(named[1], info)
    return found


def _opened(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """Open a file of a zip.

    Raises:
        BadZipFile: It is packed in a way of which an export makes no use: some need as much memory as they ask for.
    """
    if info.compress_type not in _PACKED:
        raise zipfile.BadZipFile(f"its compression, {info.compress_type}, is none of an export")
    return archive.open(info)


def _is_tame(name: str) -> bool:
    """Tell whether a name in a zip leads nowhere else."""
    return not name.startswith("/") and ".." not in name.split("/")


def _bounded(path: Path, file: IO[bytes]) -> bytes:
    data = file.read(JSON_LIMIT + 1)
    if len(data) > JSON_LIMIT or is_dense(data):
        bound = f"{JSON_LIMIT:,} bytes" if len(data) > JSON_LIMIT else f"{OBJECTS_LIMIT:,} objects"
        more = f"{path} holds more than {bound} of JSON"
        raise InputError(f"{more}; take it apart and import the parts", "file")
    return data


def _split(path: Path, data: bytes) -> list[msgspec.Raw]:
    """Return the conversations of a document, not yet read: a list of them, or one alone."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    decoder = _raws if data[:1000].lstrip().startswith(b"[") else _fields
    try:
        try:
            found = decoder.decode(data)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:  # only a fault is worth a second reading
            data = mend(data)
            found = decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no export of ChatGPT: {error}", "file") from error
    return found if isinstance(found, list) else [msgspec.Raw(data)]


def _branch(talk: _Conversation) -> list[_Message]:
    """Return the messages of the branch that was shown last, in order."""
    at = talk.current_node
    if at not in talk.mapping:
        at = _newest(talk)
    found: list[_Message] = []
    seen = set[str]()
    while at is not None and (node := talk.mapping.get(at)) is not None:
        if at in seen:
            raise Unfit("circle")
        seen.add(at)
        message = _message_of(node)
        if message is not None:
            found.append(message)
        at = node.parent
    return found[::-1]


def _newest(talk: _Conversation) -> str | None:
    """Return the end of the branch with the newest message."""
    parents = {each.parent for each in talk.mapping.values()}
    ends = [id for id in talk.mapping if id not in parents]
    if not ends and talk.mapping:
        raise Unfit("circle")
    return max(ends, key=lambda id: _time_of(talk.mapping[id]), default=None)


def _time_of(node: _Node) -> int:
    message = _message_of(node)
    return milliseconds(message.create_time) if message is not None else 0


def _message_of(node: _Node) -> _Message | None:
    return _message.decode(node.message) if _is_filled(node) else None


def _is_filled(node: _Node) -> bool:
    return bytes(node.message) not in (b"", b"null")


def _said(message: _Message, content: _Content) -> str:
    """Return what an assistant or a tool said as text; what passed between the two is marked with the tool's name."""
    text = "\n".join(filter(None, map(_words, _parts(content))))
    other = message.author.name if message.author.role == "tool" else message.recipient
    if message.author.role == "assistant" and other in (None, "", "all"):
        return text
    return f"[{(other or 'tool')[:64]}]\n{text}" if text.strip() else ""


def _parts(content: _Content) -> list[_Part | str]:
    if content.parts is not None:
        return [_read(each) for each in content.parts]
    for raw in (content.text, content.result):
        if bytes(raw).startswith(b'"'):
            return [_text.decode(raw)]
    return []


def _read(raw: msgspec.Raw) -> _Part | str:
    try:
        return _part.decode(raw)
    except msgspec.ValidationError:
        return _Part()


def _words(part: _Part | str) -> str:
    if isinstance(part, str):
        return part
    kind = part.content_type or ""
    return part.text or (IMAGE if "image" in kind else f"[{kind.removesuffix('_asset_pointer')[:40]}]" if kind else "")
