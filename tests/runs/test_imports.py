"""Imported conversations as threads: whole, once, with their times, and gone on with like any other."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from stepwell.errors import InputError, StoreFull
from stepwell.events import Feedback, Imported, MessageAdded, Recorded, Stored, TitleChanged, Unknown
from stepwell.imports import base
from stepwell.messages import Message
from stepwell.models.scripted import reply
from stepwell.runs import imports as module
from stepwell.runs.imports import Outcome, import_file
from stepwell.specs import RunSpec
from stepwell.store.base import Store
from stepwell.store.memory import MemoryStore
from stepwell.store.sqlite import SqliteStore
from tests.imports.making import assistant, calls, chatchat, chatgpt, conversation, jsonl, node, user
from tests.support.audit import audit
from tests.support.runs import OWNER, answer_of, bounded, open_store, rig

STORES = ("memory", "sqlite")
NOW = 1_795_000_000_000


async def brought(store: Store | None, path: Path, **options: Any) -> list[Outcome]:
    async with aclosing(import_file(store, path, owner=OWNER, **{"now": NOW, **options})) as outcomes:
        return [each async for each in outcomes]


async def collect(store: Store, path: Path, seen: list[Outcome]) -> None:
    async for each in import_file(store, path, owner=OWNER, now=NOW):
        seen.append(each)


async def stored(store: Store, thread: str) -> list[Recorded]:
    events = await store.read(thread)
    audit(events)
    return events


@pytest.mark.parametrize("kind", STORES)
def test_a_conversation_becomes_a_thread_with_its_title_and_times(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        store = open_store(kind, tmp_path)
        nodes = (node("a", None, "user", "hello", 1_700_000_001), node("b", "a", "assistant", "hi", 1_700_000_002.5))
        file = chatgpt(tmp_path / "conversations.json", conversation("c1", *nodes))
        (outcome,) = await brought(store, file)
        assert (outcome.became, outcome.title, outcome.messages, outcome.place) == ("imported", "Cats", 2, "c1")
        mark, hello, hi = await stored(store, outcome.thread)
        assert isinstance(mark.event, Imported)
        assert (mark.event.source, mark.event.origin, mark.event.messages) == ("chatgpt", "c1", 2)
        assert (mark.time, hello.time, hi.time) == (NOW, 1_700_000_001_000, 1_700_000_002_500)
        assert hello.event == MessageAdded(Message("user", "hello"), "history")
        (info,) = await store.threads(OWNER)
        assert (info.id, info.title, info.created, info.seq) == (outcome.thread, "Cats", 1_699_564_800_500, 3)
        await store.close()

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
def test_the_same_file_makes_no_doubles_for_an_owner(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        store = open_store(kind, tmp_path)
        file = jsonl(tmp_path / "a.jsonl", [user("a")], [user("b")], [user("a")], b"broken")
        first = await brought(store, file)
        assert [each.became for each in first] == ["imported", "imported", "known", "skipped"]
        assert first[2].thread == first[0].thread
        assert [each.became for each in await brought(store, file)] == ["known"] * 3 + ["skipped"]
        assert [each.thread for each in await brought(store, file)][:2] == [each.thread for each in first[:2]]
        assert len(await store.threads(OWNER)) == 2
        others = [each async for each in import_file(store, file, owner="bob", now=NOW)]
        assert [each.became for each in others][:2] == ["imported", "imported"]
        await store.delete(first[0].thread)
        assert [each.became for each in await brought(store, file)][:2] == ["imported", "known"]
        await store.close()

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
def test_what_was_said_since_is_added_where_nobody_went_on_here(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        store = open_store(kind, tmp_path)
        rows = [("m1", "c1", "q1", "a1", "2023-11-01 10:00:01"), ("m2", "c1", "q2", None, "2023-11-01 10:00:02")]
        (first,) = await brought(store, chatchat(tmp_path / "1.db", rows))
        rows[1:] = [("m2", "c1", "q2", "a2", rows[1][4]), ("m3", "c1", "q3", "a3", "2023-11-01 10:00:03")]
        newer = chatchat(tmp_path / "2.db", rows)
        assert [each.became for each in await brought(store, newer, trial=True)] == ["grown"]
        (grown,) = await brought(store, newer)
        assert (grown.became, grown.thread, grown.messages) == ("grown", first.thread, 3)
        events = [each.event for each in await stored(store, first.thread)]
        said = [each.message.content for each in events if isinstance(each, MessageAdded)]
        assert said == ["q1", "a1", "q2", "a2", "q3", "a3"]
        assert [each.messages for each in events if isinstance(each, Imported)] == [3, 3]
        assert [each.became for each in await brought(store, newer)] == ["known"]
        assert [each.became for each in await brought(store, tmp_path / "1.db")] == ["known"]
        await store.close()

    bounded(main)


def test_ratings_come_with_the_answers_that_they_are_about_and_a_thread_with_some_still_grows(tmp_path: Path) -> None:
    async def main() -> None:
        store, at = MemoryStore(), "2023-11-01 10:00:0"
        rows = [("m1", "c", "one", "a", f"{at}1", 90, "so"), ("m2", "c", "two", "b", f"{at}2")]
        (outcome,) = await brought(store, chatchat(tmp_path / "a.db", rows))
        events = await stored(store, outcome.thread)
        assert [each.event for each in events if isinstance(each.event, Feedback)] == [Feedback(3, 90, "so")]
        assert (events[-1].time, outcome.messages) == (events[2].time, 4)
        rows += [("m3", "c", "three", "c", f"{at}3", 10, "")]
        (grown,) = await brought(store, chatchat(tmp_path / "b.db", rows))
        assert (grown.became, grown.messages, grown.thread) == ("grown", 2, outcome.thread)
        events = await stored(store, outcome.thread)
        rated = [each.event for each in events if isinstance(each.event, Feedback)]
        assert rated == [Feedback(3, 90, "so"), Feedback(9, 10)]
        assert await module.thread_of(store, OWNER, "chatchat", "c") == outcome.thread
        assert await module.thread_of(store, "somebody else", "chatchat", "c") == ""

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
def test_a_thread_that_was_gone_on_with_or_says_something_else_is_left_as_it_is(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        async with rig([reply("Yes.")], store=open_store(kind, tmp_path)) as desk:
            first, more = node("a", None, "user", "q"), node("b", "a", "assistant", "a")
            file = tmp_path / "c.json"
            outcomes = await brought(desk.store, chatgpt(file, conversation("1", first), conversation("2", first)))
            threads = {each.place: each.thread for each in outcomes}
            before = await desk.ended(await desk.start("and?", threads["1"]))
            edited = conversation("2", node("a", None, "user", "another q"), more)
            for trial in (True, False):
                again = await brought(desk.store, chatgpt(file, conversation("1", first, more), edited), trial=trial)
                assert {each.place: each.thread for each in again} == threads
                assert [(each.became, each.messages) for each in again] == [("changed", 0)] * 2
            assert await desk.log(threads["1"]) == before
            assert len(await desk.log(threads["2"])) == 2

    bounded(main)


@pytest.mark.parametrize("kind", STORES)
def test_an_imported_thread_is_gone_on_with_as_any_other(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        async with rig([reply("Nice.")], store=open_store(kind, tmp_path)) as desk:
            asked = calls(("call_id", "weather", '{"at": 1}'), ("call_id", "weather", "{}"))
            messages = [
                {"role": "system", "content": "Obey the file."},
                user("go"),
                assistant(None, tool_calls=asked),
                {"role": "tool", "tool_call_id": "call_id", "content": "sunny"},
            ]
            (outcome,) = await brought(desk.store, jsonl(tmp_path / "a.jsonl", messages))
            log = await desk.ended(await desk.start("thanks", outcome.thread, system="Be kind."))
            assert answer_of(log) == "Nice."
            (request,) = desk.asked
            assert [(each.role, each.content) for each in request.messages] == [
                ("system", "Be kind."),
                ("user", "go"),
                ("assistant", ""),
                ("tool", "sunny"),
                ("tool", base.NO_RESULT),
                ("user", "thanks"),
            ]
            state = audit(log)
            assert state.untrusted
            assert state.imported is not None
            assert state.imported.left_out == {"system": 1}
            assert not [each for each in log if type(each.event).__name__ == "Warned"]

    bounded(main)


def test_a_thread_can_be_renamed_and_still_grows(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig([]) as desk:
            a, b = node("a", None, "user", "q"), node("b", "a", "assistant", "a")
            file = tmp_path / "c.json"
            (one,) = await brought(desk.store, chatgpt(file, conversation("1", a)))
            await desk.service.rename(OWNER, one.thread, "Dogs")
            (grown,) = await brought(desk.store, chatgpt(file, conversation("1", a, b)))
            assert grown.became == "grown"
            kinds: list[type[Stored | Unknown]] = [type(each.event) for each in await desk.log(one.thread)]
            assert kinds == [Imported, MessageAdded, TitleChanged, Imported, MessageAdded]

    bounded(main)


def test_times_that_cannot_be_are_not_believed(tmp_path: Path) -> None:
    async def main() -> None:
        store = MemoryStore()
        times = (None, 5.0, None, 9e9, -1, 1e300)
        names = "abcdef"
        nodes = [
            node(name, before, "user", name, time)
            for name, before, time in zip(names, [None, *names], times, strict=False)
        ]
        tree = {**conversation("c1", *nodes), "create_time": 1e15}
        (outcome,) = await brought(store, chatgpt(tmp_path / "c.json", tree))
        events = await stored(store, outcome.thread)
        assert [each.time for each in events] == [NOW, NOW, 5000, 5000, 5000, 5000, 5000]
        (info,) = await store.threads(OWNER)
        assert info.created == NOW

    bounded(main)


def test_a_trial_stores_nothing_and_needs_no_store(tmp_path: Path) -> None:
    async def main() -> None:
        file = jsonl(tmp_path / "a.jsonl", [user("a")], [{"role": "system", "content": "x"}])
        for store in (None, MemoryStore()):
            first, second = await brought(store, file, trial=True)
            assert (first.became, first.thread, first.messages) == ("imported", "", 1)
            assert (second.became, second.cause) == ("skipped", "empty")
            assert store is None or not await store.threads(OWNER)

    bounded(main)


class Full(SqliteStore):
    """A store that is full after so many threads."""

    left = 3

    def append(self, *args: Any, **options: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise StoreFull("no room left on the disk")
        return super().append(*args, **options)


def test_an_import_that_was_interrupted_is_finished_by_the_next_one(tmp_path: Path, monkeypatch: Any) -> None:
    async def main() -> None:
        monkeypatch.setattr(module, "BATCH", 2)
        file = jsonl(tmp_path / "a.jsonl", *([user(str(number)), assistant("a")] for number in range(5)))
        store = Full(tmp_path / "stepwell.db")
        seen: list[Outcome] = []
        with pytest.raises(StoreFull):
            await collect(store, file, seen)
        assert [each.became for each in seen] == ["imported", "imported"]
        store.left = 100
        became = [each.became for each in await brought(store, file)]
        assert became[:2] == ["known", "known"]
        assert became[3:] == ["imported", "imported"]
        threads = await store.threads(OWNER)
        assert len(threads) == 5
        for info in threads:
            assert len(await stored(store, info.id)) == 3
        await store.close()

    bounded(main)


def test_the_oldest_conversation_is_the_last_in_the_list(tmp_path: Path) -> None:
    async def main() -> None:
        store = MemoryStore()
        names = [f"q{number}" for number in range(500)]
        trees = [conversation(name, node("a", None, "user", name), title=None) for name in names]
        await brought(store, chatgpt(tmp_path / "c.json", *trees))
        assert [each.title for each in await store.threads(OWNER, limit=1000)] == [
            f"q{number}" for number in range(500)
        ]

    bounded(main)


def test_a_file_that_is_refused_or_gone_stores_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        store = MemoryStore()
        with pytest.raises(FileNotFoundError):
            await brought(store, tmp_path / "gone")
        with pytest.raises(InputError):
            await brought(store, tmp_path)
        with pytest.raises(InputError, match="no database"):
            await brought(store, jsonl(tmp_path / "a.jsonl", [user("a")]), source="chatchat")
        assert not await store.threads(OWNER)

    bounded(main)


def test_a_rule_for_untrusted_text_holds_from_the_first_run_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig([reply("ok")]) as desk:
            (outcome,) = await brought(desk.store, jsonl(tmp_path / "a.jsonl", [user("a")]))
            async with desk.service.using(OWNER, outcome.thread) as log:
                assert log.state.untrusted
            ref = await desk.service.start(OWNER, Message("user", "b"), RunSpec(), thread=outcome.thread)
            assert answer_of(await desk.ended(ref)) == "ok"

    bounded(main)
