"""Opens a file of conversations in the format that its first bytes tell, or in the one that is named."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec

from stepwell.errors import InputError
from stepwell.imports.base import Reader, Source
from stepwell.imports.chatchat import ChatchatReader
from stepwell.imports.chatgpt import ChatGptReader
from stepwell.imports.jsonl import JsonlReader

_HEAD = 1 << 20
"""Bytes that are looked at to tell the format."""


def open_file(path: Path, source: Source | None = None) -> Reader:
    """Open a file of conversations.

    Args:
        path: The file.
        source: Its format; None looks at its first bytes.

    Raises:
        InputError: It is no file of a known format.
        OSError: It cannot be opened.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{path} is no file; name the database, the JSONL file, the zip or conversations.json", "file")
    match source or _source(path):
        case "chatchat":
            return ChatchatReader(path)
        case "jsonl":
            return JsonlReader(path)
        case "chatgpt":
            return ChatGptReader(path)


def _source(path: Path) -> Source:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(b"SQLite format 3\0"):
        return "chatchat"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"PK") or text.startswith(b"["):
        return "chatgpt"
    if text.startswith(b"{"):
        return "chatgpt" if _has_mapping(text) else "jsonl"
    raise InputError(
        f"{path} is none of: a SQLite database of Langchain-Chatchat, JSONL with `messages`, an export of ChatGPT",
        "file",
    )


def _has_mapping(text: bytes) -> bool:
    """Tell whether an object is a conversation of ChatGPT's, from its beginning."""
    try:
        first = msgspec.json.decode(text.splitlines()[0], type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return b'"mapping"' in text
    return "mapping" in first
