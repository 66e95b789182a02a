"""Langchain-Chatchat's database: which rows become conversations, and which files are refused."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from stepwell.errors import InputError
from stepwell.imports import chatchat as module
from stepwell.imports.base import Rating, Skipped, Talk
from stepwell.imports.reading import open_file
from tests.imports.making import CONVERSATION, MESSAGE, chatchat, read, said, talk, talks

AT = "2023-11-01 10:00:0"
MILLISECONDS = 1_698_832_800_000


def test_questions_and_answers_stand_in_order_under_the_name_of_their_conversation(tmp_path: Path) -> None:
    rows = [
        ("m2", "c1", "and then?", "home", AT + "2"),
        ("m1", "c1", "去哪里", "北京", AT + "1"),
        ("m3", "c1", "why?", "because", AT + "2.500000"),
    ]
    found = talk(chatchat(tmp_path / "info.db", rows, [("c1", "旅行计划")]))
    assert (found.title, found.origin, found.created) == ("旅行计划", "c1", MILLISECONDS + 1000)
    assert [content for _, content in said(found)] == ["去哪里", "北京", "and then?", "home", "why?", "because"]
    assert [role for role, _ in said(found)] == ["user", "assistant"] * 3
    assert [each - MILLISECONDS for each in found.times] == [1000, 1000, 2000, 2000, 2500, 2500]


def test_messages_without_a_conversation_are_kept_apart_from_each_other(tmp_path: Path) -> None:
    rows = [
        ("m1", "", "my secret", "ok", AT + "1"),
        ("m2", None, "other", "ok", AT + "2"),
        ("m3", "c9", "q", "a", AT + "3"),
    ]
    found = talks(chatchat(tmp_path / "info.db", rows))
    assert [(each.origin, each.title) for each in found] == [
        ("message m1", "my secret"),
        ("message m2", "other"),
        ("c9", "q"),
    ]


def test_a_question_that_is_stored_twice_is_asked_once_and_rated_once(tmp_path: Path) -> None:
    rows = [
        ("m1", "c1", "q", "", AT + "1", -1),
        ("m2", "c1", "q", "a", AT + "1", 90),
        ("m3", "c1", "never answered", None, "no time", None),
    ]
    found = talk(chatchat(tmp_path / "info.db", rows))
    assert said(found) == [("user", "q"), ("assistant", "a"), ("user", "never answered")]
    assert found.times == (MILLISECONDS + 1000, MILLISECONDS + 1000, 0)
    assert found.ratings == (Rating(1, 90, ""),)
    assert found.left_out == {"double": 1}


def test_a_rating_belongs_to_an_answer_and_says_why(tmp_path: Path) -> None:
    rows = [
        ("m1", "c1", "one", "a", AT + "1", 100, "so 好"),
        ("m2", "c1", "two", "", AT + "2", 0, "no answer"),
        ("m3", "c1", "three", "b", AT + "3", 0, None),
        ("m4", "c1", "four", "c", AT + "4", "ninety", "x"),
        ("m5", "c1", "five", "d", AT + "5", 2**40, "x"),
    ]
    found = talk(chatchat(tmp_path / "info.db", rows))
    assert found.ratings == (Rating(1, 100, "so 好"), Rating(4, 0, ""))
    assert found.left_out == {"feedback": 1}


def test_the_oldest_conversation_comes_first_and_empty_ones_are_named(tmp_path: Path) -> None:
    rows = [("m1", "a", "new", "x", AT + "9"), ("m2", "z", "old", "x", AT + "1")]
    file = chatchat(tmp_path / "info.db", rows, [("a", "A"), ("z", "Z"), ("e", "Empty")])
    old, new, empty = read(file)
    assert [each.title for each in (old, new) if isinstance(each, Talk)] == ["Z", "A"]
    assert empty == Skipped("e", "empty")


def test_a_database_that_somebody_writes_to_is_refused_and_nothing_beside_it_is_made(tmp_path: Path) -> None:
    file = chatchat(tmp_path / "info.db", [("m1", "c1", "q", "a", AT + "1")])
    for suffix in ("-wal", "-journal"):
        beside = tmp_path / f"info.db{suffix}"
        beside.write_bytes(b"x")
        with pytest.raises(InputError, match="not whole"):
            open_file(file)
        beside.write_bytes(b"")
        assert len(talks(file)) == 1
        beside.unlink()
    before = file.read_bytes()
    assert len(talks(file)) == 1
    assert file.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["info.db"]


def test_a_name_with_signs_of_an_address_is_a_name(tmp_path: Path) -> None:
    file = chatchat(tmp_path / "a?mode=rwc#b%20.db", [("m1", "c1", "q", "a", AT + "1")])
    assert len(talks(file)) == 1


@pytest.mark.parametrize(
    "tables",
    [
        ["CREATE TABLE message (id, text)"],
        ["CREATE TABLE other (id)"],
        [MESSAGE.replace("TABLE message", "TABLE m"), "CREATE VIEW message AS SELECT * FROM m"],
    ],
)
def test_a_database_of_something_else_is_refused(tmp_path: Path, tables: list[str]) -> None:
    file = chatchat(tmp_path / "info.db", [], tables=tables)
    with pytest.raises(InputError, match="no database of Langchain-Chatchat"):
        read(file)


def test_a_file_that_only_begins_like_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "info.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(InputError, match="no database"):
        read(tmp_path / "info.db")


def test_a_database_without_names_of_conversations_is_read(tmp_path: Path) -> None:
    file = chatchat(tmp_path / "info.db", [("m1", "c1", "q", "a", AT + "1")], tables=[MESSAGE])
    assert talk(file).title == "q"


def test_rows_that_hold_no_text_or_too_much_leave_only_their_conversation_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROW_LIMIT", 10_000)
    rows = [
        ("m1", "blob", b"\xff\xfe", "a", AT + "1"),
        ("m2", "long", "x" * 20_000, "a", AT + "2"),
        ("m3", "good", "q", "a", AT + "3"),
        ("m4", "i" * 300, "q", "a", AT + "4"),
    ]
    found = read(chatchat(tmp_path / "info.db", rows, tables=[CONVERSATION, MESSAGE]))
    causes = {each.place: each.cause for each in found if isinstance(each, Skipped)}
    assert causes == {"blob": "form", "long": "long", "i" * 200: "form"}
    assert [each.origin for each in found if isinstance(each, Talk)] == ["good"]


def test_a_damaged_database_gives_what_can_be_read_and_says_so(tmp_path: Path) -> None:
    rows = [(f"m{number}", f"c{number % 50}", f"q{number}" * 50, "a" * 500, AT + "1") for number in range(2000)]
    file = chatchat(tmp_path / "info.db", rows)
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40_000] = b"\x5a" * 40_000
    file.write_bytes(data)
    assert apsw.Connection(str(file)).execute("PRAGMA quick_check(1)").get != "ok"
    found = read(file)
    assert "database" in {each.cause for each in found if isinstance(each, Skipped)}


def test_a_view_that_poses_as_a_table_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "info.db"
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE pragma_table_list(schema, name, type)")
    db.execute("INSERT INTO pragma_table_list VALUES('main', 'message', 'table')")
    db.execute(
        "CREATE VIEW message AS WITH RECURSIVE c(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM c) "
        "SELECT id, id AS rowid, 'c' AS conversation_id, 'q' AS query, 'a' AS response, 1 AS feedback_score, "
        "'' AS feedback_reason, '' AS create_time FROM c"
    )
    db.close()
    with pytest.raises(InputError, match="no table `message`"):
        read(path)


@pytest.mark.parametrize(
    "row",
    [
        "INSERT INTO message(id, conversation_id, query) VALUES('m1', CAST(x'ff61' AS TEXT), 'q')",
        "INSERT INTO conversation(id) VALUES(CAST(x'ff61' AS TEXT))",
    ],
)
def test_an_id_that_is_no_text_is_told_and_no_crash(tmp_path: Path, row: str) -> None:
    path = chatchat(tmp_path / "info.db", [])
    db = apsw.Connection(str(path))
    db.execute(CONVERSATION.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"))
    db.execute(row)
    db.close()
    (found,) = read(path)
    assert isinstance(found, Skipped)
    assert found.cause == "database"


def test_a_time_with_a_zone_is_of_that_zone(tmp_path: Path) -> None:
    rows = [("m1", "c1", "q", "a", "2023-11-01 18:00:01+08:00")]
    assert talk(chatchat(tmp_path / "info.db", rows)).times == (MILLISECONDS + 1000,) * 2
