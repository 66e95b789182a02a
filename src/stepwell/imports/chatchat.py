"""Langchain-Chatchat's SQLite database (`info.db`): its tables `conversation` and `message`, of 0.2 and 0.3.

A row of `message` is a question with its answer. Rows without a conversation were asked alone, perhaps by different
people, so each of them is a conversation of its own. The file is only read, and must be whole: one that a server still
writes to is refused. Times are those of SQLite's `CURRENT_TIMESTAMP`, which is UTC.
"""

# apsw's stubs name a type that Python 3.11 has not, so its methods are partly unknown to the checker.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import apsw

from stepwell.errors import InputError
from stepwell.imports.base import ID_LIMIT, MESSAGE_LIMIT, Builder, Found, Skipped, Source, Unfit, milliseconds

ROW_LIMIT = 2 * MESSAGE_LIMIT
"""Bytes of a row."""
COLUMNS = frozenset({"id", "conversation_id", "query", "response", "feedback_score", "feedback_reason", "create_time"})
"""What the table `message` must have; all versions have these."""
SCORE_LIMIT = 2**31
"""Largest rating; the old service checked none."""
# As statements: a table of the file may bear the name of the function `pragma_table_list`, but not theirs.
_TABLES = "PRAGMA main.table_list"
_COLUMNS = {name: f"PRAGMA main.table_info({name})" for name in ("message", "conversation")}
_TALKS = """
SELECT nullif(conversation_id, '') AS talk, CASE WHEN coalesce(conversation_id, '') = '' THEN id END AS alone
FROM message GROUP BY talk, alone ORDER BY min(create_time), min(rowid)
"""
_ROWS = """
SELECT query, response, feedback_score, feedback_reason, create_time FROM message
WHERE conversation_id = ? ORDER BY create_time, rowid
"""
_ROW = """
SELECT query, response, feedback_score, feedback_reason, create_time FROM message
WHERE id IS ? AND coalesce(conversation_id, '') = '' ORDER BY create_time, rowid
"""
_NAME = "SELECT name FROM conversation WHERE id = ?"
_EMPTY = """
SELECT id FROM conversation
WHERE id NOT IN (SELECT conversation_id FROM message WHERE conversation_id IS NOT NULL)
"""


class _Row(NamedTuple):
    query: object
    response: object
    score: object
    reason: object
    time: object


class ChatchatReader:
    """A database.

    Args:
        path: The file.

    Raises:
        InputError: It is none, or somebody writes to it.
    """

    source: Source = "chatchat"

    def __init__(self, path: Path) -> None:
        self._path = path
        for suffix in ("-wal", "-journal"):
            beside = path.with_name(path.name + suffix)
            if beside.exists() and beside.stat().st_size:
                raise InputError(
                    f"{beside} is not empty, so {path.name} is not whole: stop the program that uses it, or copy it "
                    "with `sqlite3 FILE '.backup COPY'` and import the copy",
                    "file",
                )
        try:
            self._db = _open(path)
        except apsw.Error as error:
            raise InputError(f"{path} is no database that can be read: {error}", "file") from error

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def read(self) -> Iterator[Found]:
        """Yield its conversations, the oldest first; see the port.

        Raises:
            InputError: It is a database of something else.
        """
        try:
            titled = self._check()
            for talk, alone in self._db.execute(_TALKS):
                yield self._found(talk, alone, titled)
            for (id,) in self._db.execute(_EMPTY) if titled else ():
                yield Skipped(str(id)[:ID_LIMIT], "empty")
        except (apsw.Error, UnicodeDecodeError) as error:
            yield Skipped("", "database", str(error))

    def _check(self) -> bool:
        """Tell whether its conversations have names, if it is one of Langchain-Chatchat."""
        try:
            tables = {str(row[1]) for row in self._db.execute(_TABLES) if row[2] == "table"}
            known = "message" in tables and self._names("message") >= COLUMNS
            titled = "conversation" in tables and self._names("conversation") >= {"id", "name"}
        except (apsw.Error, UnicodeDecodeError) as error:
            raise InputError(f"{self._path} is no database that can be read: {error}", "file") from error
        if not known:
            raise InputError(
                f"{self._path} is no database of Langchain-Chatchat: it has no table `message` with the columns "
                f"{', '.join(sorted(COLUMNS))}",
                "file",
            )
        return titled

    def _names(self, table: str) -> set[str]:
        return {str(row[1]) for row in self._db.execute(_COLUMNS[table])}

    def _found(self, talk: object, alone: object, titled: bool) -> Found:
        place = ""
        try:
            origin = _word(alone if talk is None else talk)
            place = origin[:ID_LIMIT]
            if not origin or len(origin) > ID_LIMIT:
                raise Unfit("form", f"`id` has {len(origin)} characters")
            title = self._db.execute(_NAME, (origin,)).get if titled and talk is not None else ""
            rows = self._db.execute(_ROW, (alone,)) if talk is None else self._db.execute(_ROWS, (origin,))
            return _talk(place, ("message " if talk is None else "") + origin, _word(title), map(_Row._make, rows))
        except Unfit as unfit:
            return unfit.at(place)
        except apsw.TooBigError:
            return Skipped(place, "long", f"> {ROW_LIMIT:,}")
        except UnicodeDecodeError as error:
            return Skipped(place, "form", str(error))
        except apsw.Error as error:
            return Skipped(place, "database", str(error))


def _open(path: Path) -> apsw.Connection:
    # What the file holds is not ours: its schema may run nothing, and rows are bounded before they are read.
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    db = apsw.Connection(path.absolute().as_uri() + "?mode=ro&immutable=1", flags=flags)
    db.limit(apsw.SQLITE_LIMIT_LENGTH, ROW_LIMIT)
    for pragma in ("trusted_schema=OFF", "query_only=ON", "cell_size_check=ON"):
        db.execute(f"PRAGMA {pragma}")
    return db


def _talk(place: str, origin: str, title: str, rows: Iterator[_Row]) -> Found:
    builder = Builder()
    before: _Row | None = None
    first = 0
    for row in rows:
        time = _time(row.time)
        first = first or time
        if before is not None:
            _add(builder, before, asked_again=before.query == row.query)
        before = row
    if before is not None:
        _add(builder, before)
    return builder.finish(place, origin, title, first)


def _add(builder: Builder, row: _Row, *, asked_again: bool = False) -> None:
    time, answer = _time(row.time), _word(row.response)
    if asked_again and not answer.strip():
        builder.leave_out("double")  # 0.3 stores each question twice, and the answer with the second
        return
    builder.user(_word(row.query), time)
    score = row.score if isinstance(row.score, int) and 0 <= row.score <= SCORE_LIMIT else None
    if answer.strip():
        builder.assistant(answer, time)
        if score is not None:
            builder.rate(score, _word(row.reason))
    elif score is not None:
        builder.leave_out("feedback")


def _word(value: object) -> str:
    """Return the text of a cell.

    Raises:
        Unfit: It holds something else.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unfit("form", f"`{type(value).__name__}` in place of text")
    return value


def _time(value: object) -> int:
    try:
        found = datetime.fromisoformat(str(value))
        return milliseconds((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return 0
