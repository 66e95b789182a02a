"""The tools `read_file`, `write_file` and `list_files`, for a workspace folder that no path leads out of.

Every path is resolved inside the workspace and then walked folder by folder without following links, so that
a link put there in between leads nowhere. What else may touch the files is not this module's concern.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import re
import secrets
import stat
import unicodedata
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from stepwell.errors import ToolError
from stepwell.tools.base import Tool, as_tool
from stepwell.tools.mark import tool

MAX_READ = 20_000_000
"""Bytes of the largest file that is read."""
MAX_LISTED = 1000
MAX_VISITED = 50_000
MAX_DEPTH = 50
"""Folders within folders that a listing goes into."""
MAX_PATH = 1000
OUTPUT = 30_000
"""Characters of a file that one call shows."""
_ROOM = 200
_PIECE = 1 << 16
"""Characters whose lines are counted at once."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BIDIRECTIONAL = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def file_tools(workspace: Path, *, write_limit: int = 1_000_000) -> tuple[Tool, Tool, Tool]:
    """Build `read_file`, `write_file` and `list_files`.

    Args:
        workspace: The folder that they see; it is made if it is not there.
        write_limit: Bytes of the largest file that may be written.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    files = _Files(workspace.resolve(), write_limit)
    return as_tool(files.read_file), as_tool(files.write_file), as_tool(files.list_files)


class _Files:
    def __init__(self, root: Path, write_limit: int) -> None:
        self.root, self.write_limit = root, write_limit

    @tool(effect="pure", output_limit=OUTPUT, place="workspace")
    def read_file(self, path: str, offset: int = 1, limit: int = 2000) -> str:
        """Read a text file of the workspace.

        Args:
            path: The file, relative to the workspace folder.
            offset: The first line to read, counted from 1.
            limit: How many lines to read at most.
        """
        if offset < 1 or limit < 1:
            raise ToolError("offset and limit are counted from 1.")
        return excerpt(_read(self.root, path), offset, limit)

    @tool(effect="idempotent", place="workspace")
    def write_file(self, path: str, content: str) -> str:
        """Write a text file of the workspace, whole; an older one is replaced and missing folders are made.

        Args:
            path: The file, relative to the workspace folder.
            content: All of its text.
        """
        data = content.encode("utf-8", "replace")
        if len(data) > self.write_limit:
            raise ToolError(
                f"The text has {len(data):,} bytes; the limit is {self.write_limit:,}. Write several files."
            )
        _write(self.root, path, data)
        return f"Wrote {len(data):,} bytes to {path}."

    @tool(effect="pure", output_limit=OUTPUT, place="workspace")
    def list_files(self, pattern: str = "*") -> str:
        """List files and folders of the workspace, one a line; folders end with a slash.

        Args:
            pattern: Which ones: * stands for any part of a name, ** for any folders, as in src/**/*.py.
        """
        return _list(self.root, pattern)


def excerpt(text: str, offset: int, limit: int) -> str:
    """Return lines of a text from number `offset` on, at most `limit` and as many as one result holds.

    A text that is not shown to its end is followed by a line that says how to go on.
    """
    # A list of all lines of a large file would take its size many times over, and hold all threads up meanwhile.
    count = text.count("\n") + (not text.endswith("\n") and text != "")
    if offset > max(count, 1):
        raise ToolError(f"The file has {count} lines; offset {offset} is beyond its end.")
    shown: list[str] = []
    room, place = OUTPUT - _ROOM, _after(text, offset - 1)
    while place < len(text) and len(shown) < limit:
        end = text.find("\n", place) + 1 or len(text)
        length = end - place
        if length > room and shown:
            break
        cut = f"{text[place : place + room]}[... line of {length} characters ...]\n"
        shown.append(text[place:end] if length <= room else cut)
        room, place = room - length, end
    last = offset - 1 + len(shown)
    if last >= count:
        return "".join(shown)
    return f"{''.join(shown)}[lines {offset} to {last} of {count}; go on with offset {last + 1}]\n"


def _after(text: str, lines: int) -> int:
    """Return where a text goes on after so many of its lines."""
    place = 0
    while lines and (found := text.count("\n", place, place + _PIECE)) < lines:
        lines, place = lines - found, place + _PIECE
    for _ in range(lines):
        place = text.index("\n", place) + 1
    return place


def _read(root: Path, path: str) -> str:
    with _opened(root, path) as (folder, name):
        # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise ToolError(f"{path} is {_kind(mode)}, not a file.")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_READ + 1)
        finally:
            os.close(descriptor)
    if len(data) > MAX_READ:
        raise ToolError(f"{path} is larger than {MAX_READ:,} bytes, which is too large to read.")
    if b"\0" in data[:8192]:
        raise ToolError(f"{path} is a binary file of {len(data):,} bytes; only text is read.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ToolError(f"{path} is not UTF-8 text: byte {error.start + 1} of {len(data):,} is not.") from None


def _write(root: Path, path: str, data: bytes) -> None:
    with _opened(root, path, make=True) as (folder, name):
        mode = _mode(folder, name)
        if mode is not None and not stat.S_ISREG(mode):
            raise ToolError(f"{path} is {_kind(mode)}; only a file can be replaced.")
        part = f".{secrets.token_hex(8)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(part, flags, 0o644, dir_fd=folder), "wb") as file:
            try:
                file.write(data)
                file.flush()
                if mode is not None:
                    os.fchmod(file.fileno(), stat.S_IMODE(mode) & 0o777)
                os.fsync(file.fileno())
                os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                os.unlink(part, dir_fd=folder)
                raise


def _mode(folder: int, name: str) -> int | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _opened(root: Path, path: str, *, make: bool = False) -> Generator[tuple[int, str]]:
    """Give the descriptor of a path's folder and the last name of the path; translate the system's errors."""
    folder = -1
    try:
        *folders, name = resolve(root, path).parts or (".",)
        folder = _descend(root, folders, make)
        yield folder, name
    except OSError as error:
        raise ToolError(_says(path, error)) from None
    finally:
        if folder >= 0:
            os.close(folder)


def resolve(root: Path, path: str) -> Path:
    """Return where a path leads, relative to the workspace, with links followed.

    Raises:
        ToolError: The path is malformed or leads out of the workspace.
    """
    if not path.strip():
        raise ToolError("The path is empty; name a file, relative to the workspace folder.")
    if len(path) > MAX_PATH:
        raise ToolError(f"The path has {len(path)} characters; the limit is {MAX_PATH}.")
    if odd := next((each for each in path if _is_odd(each)), None):
        raise ToolError(f"The path contains the character U+{ord(odd):04X}; leave it out.")
    if path.startswith(("/", "~")) or re.match(r"[A-Za-z]:", path):
        raise ToolError(f"{path} is not relative to the workspace folder; write it without the folders above that.")
    try:
        found = (root / path).resolve()
    except (OSError, RuntimeError) as error:
        raise ToolError(f"{path} leads nowhere: {_reason(error)}.") from None
    if not found.is_relative_to(root):
        raise ToolError(f"{path} leads out of the workspace folder.")
    return found.relative_to(root)


def _is_odd(character: str) -> bool:
    """Say whether a character hides what a name is: controls, marks that turn the direction, lone surrogates."""
    if character == "\\" or unicodedata.category(character) in ("Cc", "Cs"):
        return True
    return unicodedata.bidirectional(character) in _BIDIRECTIONAL


def _descend(root: Path, folders: list[str], make: bool) -> int:
    descriptor = os.open(root, _FOLDER)
    for name in folders:
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=descriptor)
            inner = os.open(name, _FOLDER, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = inner
    return descriptor


def _says(path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"There is no file {path} in the workspace. list_files shows what is there."
    if isinstance(error, NotADirectoryError):
        return f"{path} leads through something that is not a folder."
    if isinstance(error, IsADirectoryError):
        return f"{path} is a folder, not a file."
    return f"{path}: {_reason(error)}."


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return "a name in it is too long"
    if isinstance(error, RuntimeError) or (isinstance(error, OSError) and error.errno == errno.ELOOP):
        return "a link in it leads in a circle or was put there just now"
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISLNK, "a link"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for test, name in kinds if test(mode)), "a device")


def _list(root: Path, pattern: str) -> str:
    parts = [part for part in pattern.strip().split("/") if part not in ("", ".")]
    if pattern.startswith("/") or ".." in parts or "\0" in pattern or len(pattern) > MAX_PATH:
        raise ToolError("The pattern must be relative to the workspace folder, without `..`, such as src/**/*.py.")
    if not parts:
        parts = ["*"]
    walk = _Walk(parts)
    descriptor = os.open(root, _FOLDER)
    try:
        lines = sorted(walk.below(descriptor, "", walk.start))
    finally:
        os.close(descriptor)
    if walk.full:
        lines.append(f"[only a part is shown: the first {len(lines)}; narrow the pattern]")
    return "\n".join(lines) or f"Nothing in the workspace matches {pattern}."


class _Walk:
    """Walks folders that a pattern can match in. A state is the set of the pattern's parts that may come next."""

    def __init__(self, parts: list[str]) -> None:
        self.tests: list[Callable[[str], object] | None] = [
            None if part == "**" else re.compile(fnmatch.translate(part)).match for part in parts
        ]
        self.visited, self.listed, self.full = 0, 0, False
        self.start = self.closed({0})

    def closed(self, state: set[int]) -> frozenset[int]:
        """Add what follows each `**`, which may stand for no folder at all."""
        for index, test in enumerate(self.tests):
            if test is None and index in state:
                state.add(index + 1)
        return frozenset(state)

    def after(self, state: frozenset[int], name: str) -> frozenset[int]:
        found: set[int] = set()
        for index in state:
            if index < len(self.tests):
                test = self.tests[index]
                if test is None:
                    found.add(index)
                elif test(name):
                    found.add(index + 1)
        return self.closed(found)

    def below(self, folder: int, prefix: str, state: frozenset[int]) -> Iterator[str]:
        with os.scandir(folder) as entries:
            for entry in entries:
                self.visited += 1
                if self.listed >= MAX_LISTED or self.visited > MAX_VISITED:
                    self.full = True
                    return
                following = self.after(state, entry.name)
                if following:
                    yield from self.entry(entry, folder, prefix, following)

    def entry(self, entry: os.DirEntry[str], folder: int, prefix: str, state: frozenset[int]) -> Iterator[str]:
        inside = entry.is_dir(follow_symlinks=False)
        if len(self.tests) in state:
            self.listed += 1
            yield _CONTROLS.sub(_written, f"{prefix}{entry.name}{_note(entry, inside)}")
        if not inside or min(state) == len(self.tests):
            return
        if prefix.count("/") >= MAX_DEPTH:
            self.full = True
            return
        with contextlib.suppress(OSError):
            descriptor = os.open(entry.name, _FOLDER, dir_fd=folder)
            try:
                yield from self.below(descriptor, f"{prefix}{entry.name}/", state)
            finally:
                os.close(descriptor)


def _written(control: re.Match[str]) -> str:
    """Write a control character out, so that a name is one line and does not look like several."""
    return f"\\x{ord(control[0]):02x}"


def _note(entry: os.DirEntry[str], inside: bool) -> str:
    if inside:
        return "/"
    if entry.is_symlink():
        return " (a link)"
    try:
        return f" ({entry.stat(follow_symlinks=False).st_size:,} bytes)"
    except OSError:
        # It was removed in between.
        return ""
