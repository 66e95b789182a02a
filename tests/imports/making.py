"""Files of other programs, as tests need them."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from stepwell.imports.base import Found, Skipped, Talk
from stepwell.imports.reading import open_file

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PICTURE = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
CONVERSATION = """CREATE TABLE conversation (
    id VARCHAR(32) PRIMARY KEY, name VARCHAR(50), chat_type VARCHAR(50), create_time DATETIME
)"""
MESSAGE = """CREATE TABLE message (
    id VARCHAR(32) PRIMARY KEY, conversation_id VARCHAR(32), chat_type VARCHAR(50), query VARCHAR(4096),
    response VARCHAR(4096), meta_data JSON, feedback_score INTEGER, feedback_reason VARCHAR(255), create_time DATETIME
)"""


def read(path: Path) -> list[Found]:
    reader = open_file(path)
    try:
        return list(reader.read())
    finally:
        reader.close()


def talks(path: Path) -> list[Talk]:
    """Return the conversations of a file of which all can be read."""
    found = read(path)
    assert not [each for each in found if isinstance(each, Skipped)], found
    return [each for each in found if isinstance(each, Talk)]


def talk(path: Path) -> Talk:
    (only,) = talks(path)
    return only


def said(talk: Talk) -> list[tuple[str, str]]:
    return [(each.role, each.content) for each in talk.messages]


def jsonl(path: Path, *lines: Any) -> Path:
    """Write lines: messages of a conversation, other JSON values, or bytes as they are."""
    rows = [
        each if isinstance(each, bytes) else json.dumps({"messages": each} if isinstance(each, list) else each).encode()
        for each in lines
    ]
    path.write_bytes(b"".join(row + b"\n" for row in rows))
    return path


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def calls(*named: tuple[str, str, str]) -> list[dict[str, Any]]:
    return [
        {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id, name, arguments in named
    ]


def chatchat(
    path: Path, messages: Sequence[Sequence[Any]], names: Sequence[tuple[str, str]] = (), tables: Sequence[str] = ()
) -> Path:
    """Write a database; a message is its id, conversation, query, response, time and perhaps score and reason."""
    db = apsw.Connection(str(path))
    for table in tables or (CONVERSATION, MESSAGE):
        db.execute(table)
    columns = "id, conversation_id, query, response, create_time, feedback_score, feedback_reason"
    sql = f"INSERT INTO message ({columns}) VALUES (?,?,?,?,?,?,?)"
    with db:
        for name in names:
            db.execute("INSERT INTO conversation (id, name) VALUES (?, ?)", name)
        db.executemany(sql, [(*each, *(-1, "")[len(each) - 5 :]) for each in messages])
    db.close()
    return path


def node(
    id: str, parent: str | None, role: str = "", content: Any = None, time: float | None = None, **more: Any
) -> Any:
    """Return a node of ChatGPT's tree; its content is a text, a list of parts, or an object."""
    if isinstance(content, str):
        content = [content]
    if isinstance(content, list):
        content = {"content_type": "text", "parts": content}
    author = {"role": role, "name": more.pop("name", None), "metadata": {}}
    message = {"id": id, "author": author, "create_time": time, "content": content, "recipient": "all", **more}
    return {"id": id, "parent": parent, "children": [], "message": message if role else None}


def conversation(id: str, *nodes: Any, current: str | None = "", title: str | None = "Cats", **more: Any) -> Any:
    end = nodes[-1]["id"] if current == "" else current
    mapping = {each["id"]: each for each in nodes}
    return {"id": id, "title": title, "create_time": 1_699_564_800.5, "current_node": end, "mapping": mapping, **more}


def chatgpt(path: Path, *conversations: Any) -> Path:
    path.write_text(json.dumps(conversations), "utf-8")
    return path


def archive(path: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path
