"""`stepwell import`: what a person is told, what is stored, and how the threads are gone on with."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import get_args

import pytest

from stepwell.cli.texts import TEXTS
from stepwell.imports.base import Cause, Left
from stepwell.runs.imports import Became
from tests.cli.running import Cli
from tests.imports.making import assistant, calls, chatchat, chatgpt, conversation, jsonl, node, user


def test_each_format_is_told_by_the_file_and_its_threads_are_listed(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        chatchat(tmp_path / "info.db", [("m1", "c1", "去哪里", "北京", "2023-11-01 10:00:01")], [("c1", "旅行计划")])
        jsonl(tmp_path / "a.jsonl", [user("hello"), assistant("hi")])
        chatgpt(tmp_path / "conversations.json", conversation("c1", node("a", None, "user", "q")))
        files = [("info.db", "旅行计划", 2), ("a.jsonl", "hello", 2), ("conversations.json", "Cats", 1)]
        for name, title, messages in files:
            done = await cli.run("import", name)
            assert done.code == 0, done
            became, thread, count, shown = done.out.strip("\n").split("\t")
            assert (became, count, shown) == ("imported", str(messages), title)
            assert done.err.startswith("1 imported, 0 added to, 0 here already")
            assert (await cli.threads())[0] == thread
            again = await cli.run("import", name)
            assert (again.code, again.out.split("\t")[:2]) == (0, ["here already", thread])
        assert len(await cli.threads()) == 3

    asyncio.run(main())


def test_an_imported_thread_is_shown_gone_on_with_and_replayed(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        asked = assistant(None, tool_calls=calls(("call_id", "look", "{}")))
        result = {"role": "tool", "tool_call_id": "call_id", "content": "a cat"}
        jsonl(tmp_path / "a.jsonl", [{"role": "system", "content": "obey"}, user("look"), asked, result])
        assert (await cli.run("import", "a.jsonl")).code == 0
        (thread,) = await cli.threads()
        mark, first, *_ = await cli.shown(thread)
        assert mark.startswith("imported from jsonl (")
        assert mark.endswith("3 messages; left out: 1 system")
        assert first == "user: look"
        done = await cli.run("ask", "--thread", thread, "what is 6*7?")
        assert (done.code, done.out.strip()) == (0, "6*7 = 42")
        done = await cli.run("replay", thread)
        assert done.code == 0, done
        done = await cli.run("import", "a.jsonl")
        assert (done.code, done.out.split("\t")[0]) == (0, "here already")

    asyncio.run(main())


def test_what_cannot_be_read_is_named_and_the_rest_is_imported(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        jsonl(tmp_path / "a.jsonl", [user("a")], b"{broken", [{"role": "system", "content": "x"}], {"prompt": "b"})
        done = await cli.run("import", "a.jsonl")
        assert done.code == 1
        assert done.out.startswith("imported\t")
        assert "line 2 is left out: it is broken JSON" in done.err
        assert "line 3 is left out: nobody says anything in it" in done.err
        assert "line 4 is left out: it does not have the form of a conversation" in done.err
        assert "1 imported, 0 added to, 0 here already, 0 changed, 3 left out; 1 messages" in done.err

    asyncio.run(main())


def test_a_thread_that_was_gone_on_with_is_named_and_is_no_failure(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        nodes = [node("a", None, "user", "q"), node("b", "a", "assistant", "a"), node("c", "b", "user", "r")]
        chatgpt(tmp_path / "c.json", conversation("c1", *nodes[:1]))
        await cli.run("import", "c.json")
        chatgpt(tmp_path / "c.json", conversation("c1", *nodes[:2]))
        done = await cli.run("import", "c.json")
        assert (done.code, done.out.split("\t")[0]) == (0, "added to")
        (thread,) = await cli.threads()
        await cli.run("ask", "--thread", thread, "what is 6*7?")
        chatgpt(tmp_path / "c.json", conversation("c1", *nodes))
        done = await cli.run("import", "c.json")
        assert (done.code, done.out) == (0, "")
        assert f"conversation c1: it is thread {thread} already" in done.err

    asyncio.run(main())


def test_a_trial_tells_everything_and_makes_no_folder(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path, LANG="zh_CN.UTF-8")
        jsonl(tmp_path / "a.jsonl", [{"role": "system", "content": "x"}, user("你好")])
        done = await cli.run("import", "a.jsonl", "--dry-run")
        assert (done.code, done.out) == (0, "将导入\t-\t1\t你好\n")
        assert "1 system 与 developer 消息" in done.err
        assert "未保存任何内容" in done.err
        assert not cli.data.exists()

    asyncio.run(main())


def test_the_owner_is_who_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        jsonl(tmp_path / "a.jsonl", [user("a")])
        assert (await cli.run("import", "a.jsonl", "--owner", "ann")).code == 0
        assert await cli.threads() == []
        assert len((await cli.run("threads", "--owner", "ann")).out.splitlines()) == 1
        done = await cli.run("import", "a.jsonl", "--owner", " ")
        assert (done.code, done.out) == (1, "")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["gone.jsonl"], 1, "gone.jsonl"),
        (["."], 1, "is no file"),
        (["empty"], 1, "is none of"),
        (["a.jsonl", "--format", "chatchat"], 1, "is no database"),
        (["a.jsonl", "--format", "other"], 2, "--format"),
        ([], 2, "file"),
    ],
)
def test_a_file_that_is_refused_leaves_no_trace(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    cli = Cli(tmp_path)
    (tmp_path / "empty").touch()
    jsonl(tmp_path / "a.jsonl", [user("a")])
    done = asyncio.run(cli.run("import", *arguments))
    assert (done.code, done.out) == (code, "")
    assert words in done.err
    assert "There is no conversation" not in done.err, "nobody has looked"
    assert not cli.data.exists() or not asyncio.run(cli.threads())


def test_a_file_without_conversations_is_told_so(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    (tmp_path / "conversations.json").write_text("[]")
    done = asyncio.run(cli.run("import", "conversations.json", "--format", "chatgpt"))
    assert (done.code, done.out) == (0, "")
    assert done.err.strip() == "There is no conversation in conversations.json."


def test_it_works_beside_a_server_that_then_has_the_threads(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        jsonl(tmp_path / "a.jsonl", [user("hello")])
        async with cli.serving():
            assert (await cli.run("import", "a.jsonl")).code == 0
            (thread,) = await cli.threads()
            done = await cli.run("ask", "--thread", thread, "what is 6*7?")
            assert (done.code, done.out.strip()) == (0, "6*7 = 42")

    asyncio.run(main())


def test_everything_that_can_become_of_a_conversation_has_its_words() -> None:
    words = {f"import_cause_{each}" for each in get_args(Cause)} | {f"import_left_{each}" for each in get_args(Left)}
    words |= {f"import_{each}" for each in get_args(Became)}
    assert words <= TEXTS.keys()
