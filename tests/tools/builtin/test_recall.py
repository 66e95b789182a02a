"""Reading and searching what was left out of view."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stepwell.contexts import WRAPPED
from stepwell.events import (
    ContextCompacted,
    HistoryCleared,
    LongTermUpdated,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    ModelFailed,
    Recorded,
    RunClaimed,
    RunEnded,
    RunStarted,
    StepStarted,
    Stored,
    SummaryEnded,
    SummaryStarted,
    TitleChanged,
    ToolEnded,
    ToolStarted,
    Unknown,
    Warned,
    WorkingUpdated,
)
from stepwell.messages import Image, Message, ToolCall
from stepwell.specs import RunSpec
from stepwell.tools.base import Toolbox, ToolContext, ToolResult
from stepwell.tools.bounds import PIECE
from stepwell.tools.builtin.recall import hits, recall_tool
from tests.tools.running import context, prepared


class Kept:
    """A thread's past."""

    def __init__(self, *events: Stored | Unknown, blobs: tuple[bytes, ...] = ()) -> None:
        self.events = [Recorded(at, 0, 1, event) for at, event in enumerate(events, 1)]
        self.blobs = {hashlib.sha256(data).hexdigest(): data for data in blobs}

    async def read(self, *, after: int = 0, limit: int | None = None) -> list[Recorded]:
        return self.events[after : None if limit is None else after + limit]

    async def blob(self, prefix: str) -> bytes | None:
        found = [hash for hash in self.blobs if hash.startswith(prefix) and len(prefix) >= 12]
        return self.blobs[found[0]] if len(found) == 1 else None


def handle_of(data: bytes) -> str:
    return f"blob:{hashlib.sha256(data).hexdigest()[:12]}"


async def asked(kept: Kept | None, handle: str, room: int = 0, **arguments: Any) -> ToolResult:
    box = Toolbox([recall_tool()])
    call = prepared(box, "recall", {"handle": handle, **arguments})
    heard: ToolContext = msgspec.structs.replace(context(), archive=kept, room=room)
    return await box.run(call, heard, most=room or None)


def told(kept: Kept | None, handle: str, room: int = 0, **arguments: Any) -> str:
    result = asyncio.run(asked(kept, handle, room, **arguments))
    assert (result.status, result.blobs) == ("ok", {}), result.content
    return result.content


def refused(kept: Kept | None, handle: str, **arguments: Any) -> str:
    result = asyncio.run(asked(kept, handle, **arguments))
    assert result.status == "failed"
    return result.content


USER = MessageAdded(Message("user", "What is 城市?", (Image("https://example.com/a.png"),)))
REPLY = MessageEnded(
    Message("assistant", "Let me look.", thinking="secret thought", calls=(ToolCall("c1", "look", '{"at":"城市"}'),)),
    "tool_calls",
)
RESULT = ToolEnded("c1", "a city", details={"only": "for people"})


# reading


def test_a_message_a_call_and_a_result_are_read_by_the_numbers_of_their_events() -> None:
    kept = Kept(USER, REPLY, RESULT)
    assert told(kept, "event:1") == "event:1, message of the user: characters 0-24 of 24\nWhat is 城市?\n[1 image(s)]"
    assert told(kept, "event:2") == 'event:2, reply: characters 0-30 of 30\nLet me look.\nlook({"at":"城市"})'
    assert told(kept, "event:3") == "event:3, result of call c1 (ok): characters 0-6 of 6\na city"


@pytest.mark.parametrize(
    "event", [REPLY, RESULT, ModelFailed("server", "secret address"), RunEnded("failed", "x", "y")]
)
def test_what_the_model_may_not_see_is_not_shown(event: Stored) -> None:
    text = told(Kept(event), "event:1") + told(Kept(event), "event:1-1")
    assert not re.search("secret|only|people", text)


def test_a_result_that_is_kept_whole_is_read_from_where_it_is_kept() -> None:
    data = ("line\n" * 10_000).encode()
    kept = Kept(ToolEnded("c", "li…", blob=hashlib.sha256(data).hexdigest(), size=len(data)), blobs=(data,))
    by_event, by_blob = told(kept, "event:1", length=7), told(kept, handle_of(data), length=7)
    assert by_event == "event:1, result of call c (ok): characters 0-7 of 50000; go on with start=7\nline\nli"
    assert by_blob == f"{handle_of(data)}, whole result: characters 0-7 of 50000; go on with start=7\nline\nli"
    lost = Kept(ToolEnded("c", "li…", blob="0" * 64, size=50_000))
    assert told(lost, "event:1").endswith("\nli…")


def test_a_big_result_can_be_read_from_its_beginning_to_its_end() -> None:
    text = "".join(f"{number} 行\n" for number in range(200_000))
    kept, seen, start = Kept(blobs=(text.encode(),)), "", len(text) - 50_000
    while start < len(text):
        head, _, part = told(kept, handle_of(text.encode()), start=start, length=99_999).partition("\n")
        seen += part
        assert f"characters {start}-{start + len(part)} of {len(text)}" in head
        start += len(part)
        assert (f"go on with start={start}" in head) == (start < len(text))
    assert seen == text[-50_000:]


@pytest.mark.parametrize(
    "written", [" event:1", "`event:1`", "[event:1]", "recall event:1", '"event:1".', "event:01", "event:1\n"]
)
def test_a_handle_is_understood_as_models_write_it(written: str) -> None:
    assert told(Kept(USER), written).startswith("event:1, ")


def test_digits_of_a_big_result_may_be_in_upper_case_and_as_many_as_there_are() -> None:
    data = b"text"
    hash = hashlib.sha256(data).hexdigest()
    for written in (f"blob:{hash}", f"blob:{hash[:20].upper()}"):
        assert told(Kept(blobs=(data,)), written).endswith("\ntext")


EVERY: list[tuple[Stored | Unknown, str, str]] = [
    (RunStarted(RunSpec(system="system")), "run started", ""),
    (StepStarted(3, "h", tail=(Message("user", "the time"),)), "step started", "step 3\nthe time"),
    (MessageStarted(), "message started", ""),
    (ToolStarted("c", "look"), "start of look", ""),
    (ContextCompacted(5, "the digest"), "context compacted", "the digest"),
    (SummaryStarted("tool_calls", 3, 9), "summary started", "tool_calls, event:3-9"),
    (SummaryEnded("tool_calls", 3, 9, text="sum", self_examination="better"), "summary ended", "sum\nbetter"),
    (LongTermUpdated(pinned="fact"), "long term updated", '{"type":"long_term_updated","pinned":"fact"}'),
    (WorkingUpdated({}, "saw"), "working updated", '{"type":"working_updated","observation":"saw"}'),
    (HistoryCleared(), "history cleared", ""),
    (TitleChanged("title"), "title changed", "title"),
    (ModelFailed("server", "at 10.0.0.1"), "model failed", "server"),
    (Warned("no_reply", "detail"), "warned", "no_reply"),
    (RunClaimed(2), "run claimed", ""),
    (RunEnded("answer"), "run ended", "answer"),
    (Unknown(msgspec.Raw(b"{}")), "event of a newer version", ""),
]


@pytest.mark.parametrize(("event", "kind", "text"), EVERY, ids=[kind for _, kind, _ in EVERY])
def test_every_kind_of_event_can_be_read(event: Stored, kind: str, text: str) -> None:
    assert told(Kept(event), "event:1") == f"event:1, {kind}: characters 0-{len(text)} of {len(text)}\n{text}"


# ranges


def test_a_range_has_one_short_line_an_event() -> None:
    kept = Kept(USER, REPLY, ToolEnded("c1", "a\nb\n" * 1000, "failed"), TitleChanged("t"))
    head, *lines = told(kept, "event:1-3").splitlines()
    assert head.startswith("event:1-3, 3 events: characters 0-")
    assert lines[:2] == [
        "event:1 message of the user: What is 城市? [1 image(s)]",
        'event:2 reply: Let me look. look({"at":"城市"})',
    ]
    assert lines[2].startswith("event:3 result of call c1 (failed): a b a b")
    assert (len(lines), len(lines[2])) == (3, 160)
    assert told(kept, "event:0-99").startswith("event:1-4, 4 events:")
    assert told(kept, "event:4-event:4").endswith("event:4 title changed: t")


def test_a_long_range_says_how_to_go_on() -> None:
    kept = Kept(*[TitleChanged(f"title {number}") for number in range(1200)])
    head = told(kept, "event:1-1100", length=1).partition("\n")[0]
    assert head.startswith("event:1-500, 500 events; go on with event:501-1100: characters 0-1 of ")
    assert "go on with event" not in told(kept, "event:901-1100", length=1)


def test_a_range_is_searched_in_the_events_themselves() -> None:
    kept = Kept(*[TitleChanged("x" * 200 + f"\nfind {number}") for number in range(5)])
    text = told(kept, "event:2-4", search="FIND")
    assert text.splitlines()[0] == "3 places; there are no more"
    assert [line[:32] for line in text.splitlines()[1:]] == [
        f"event:{seq} line 2, character 201: …" for seq in (2, 3, 4)
    ]
    many = Kept(*[TitleChanged("find " * 15) for _ in range(3)])
    first = told(many, "event:1-3", search="find")
    assert first.splitlines()[0] == "20 places; there are more: go on with event:2-3 and start=25"
    rest = told(many, "event:2-3", search="find", start=25)
    assert rest.splitlines()[0] == "20 places; there are more: go on with event:3-3 and start=50"
    assert told(many, "event:3-3", search="find", start=50).startswith("5 places; there are no more")


# searching


def test_places_are_found_in_upper_and_lower_case_with_line_and_character() -> None:
    text = "first\nSecond NEEDLE here\nneedle again"
    kept = Kept(blobs=(text.encode(),))
    assert told(kept, handle_of(text.encode()), search="Needle") == (
        "2 places; there are no more\n"
        f"line 2, character 13: {text.replace(chr(10), ' ')}\n"
        f"line 3, character 25: {text.replace(chr(10), ' ')}"
    )


def test_a_search_with_many_hits_goes_on_where_it_stopped() -> None:
    text = "ab" * 50
    kept, start, seen = Kept(MessageAdded(Message("user", text))), 0, 0
    while True:
        head, *lines = told(kept, "event:1", search="AB", start=start).splitlines()
        seen += len(lines)
        if head.endswith("there are no more"):
            break
        start = int(head.rpartition("=")[2])
    assert seen == 50


TEXT = st.text(st.sampled_from("aAbB\nßİıΣσς城🦆"), max_size=60)


def lower(text: str) -> list[str]:
    return [each.lower().replace("ς", "σ") for each in text]


@settings(max_examples=300)
@given(TEXT, st.text(st.sampled_from("aAbB\nΣσς城🦆"), min_size=1, max_size=3), st.integers(1, 7), st.integers(0, 5))
@example("aaaa", "aa", 1, 0)
@example("İab", "AB", 2, 0)
def test_a_search_finds_the_same_in_pieces_of_any_size(text: str, search: str, size: int, start: int) -> None:
    wanted, letters, expected, at = lower(search), lower(text), list[tuple[int, int]](), start
    while at + len(wanted) <= len(letters):
        found = letters[at : at + len(wanted)] == wanted
        if found:
            expected.append((text.count("\n", 0, at) + 1, at))
        at += len(wanted) if found else 1
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert list(hits(pieces, search, start)) == expected


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=400), st.integers(1, 30_000), st.integers(0, 400), st.integers(0, 3000))
def test_an_answer_never_needs_more_room_than_there_is(text: str, length: int, start: int, room: int) -> None:
    text = re.sub("[\0\ud800-\udfff]", "?", text) * 40
    kept = Kept(MessageAdded(Message("user", text)))

    async def main() -> None:
        for more in ({}, {"search": text[:2]}, {"search": "?"}):
            result = await asked(kept, "event:1", room, length=length, start=start, **more)
            assert len(result.content) <= (room or 20_500)
            if result.status == "ok":
                assert WRAPPED not in result.content
                assert result.blobs == {}
        listed = await asked(Kept(*[TitleChanged(text)] * 9), "event:1-9", room)
        assert listed.blobs == {}

    asyncio.run(main())


@pytest.mark.parametrize(
    "text", ["The quick brown fox.\n" * 2_500_000, "快速的棕色狐狸。🦆\n" * 1_500_000], ids=["ascii", "cjk"]
)
def test_the_loop_goes_on_while_fifty_megabytes_are_searched(text: str) -> None:
    data = (text + "needle").encode()

    async def main() -> None:
        work = asyncio.ensure_future(asked(Kept(blobs=(data,)), handle_of(data), search="NEEDLE"))
        turns = 0
        while not work.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > 20
        head, line = work.result().content.splitlines()
        assert head == "1 places; there are no more"
        assert line.startswith(f"line {text.count(chr(10)) + 1}, character {len(text)}: …")

    asyncio.run(main())


def test_places_are_found_across_the_pieces_in_which_a_text_is_read() -> None:
    text = "界" * (PIECE - 3) + "\nneedle" + "界" * PIECE
    data = text.encode()
    line = told(Kept(blobs=(data,)), handle_of(data), search="Needle").splitlines()[1]
    assert line.startswith(f"line 2, character {PIECE - 2}: …")
    shown = told(Kept(blobs=(data,)), handle_of(data), start=PIECE - 4, length=10).partition("\n")[2]
    assert shown == text[PIECE - 4 : PIECE + 6]


# what is wrong


@pytest.mark.parametrize(
    ("handle", "arguments", "remedy"),
    [
        ("event:9", {}, "no event 9. Write event:NUMBER"),
        ("event:0", {}, "no event 0. Write event:NUMBER"),
        ("event:999999999999999", {}, "no event 999999999999999"),
        ("event:5-9", {}, "no event from 5 on; write smaller numbers"),
        ("event:3-2", {}, "ends before it begins; write event:2-3"),
        ("event:-1", {}, "'event:-1' is no handle. Write event:NUMBER"),
        ("event:one", {}, "is no handle"),
        ("", {}, "'' is no handle"),
        ("x" * 10_000, {}, "is no handle"),
        ("blob:0123456789ab", {}, "no result blob:0123456789ab. Write event:NUMBER"),
        ("blob:01", {}, "It has 12 digits or more"),
        ("event:1", {"start": 24}, "start is 24, but event:1 has 24 characters; use 0 to 23"),
        ("event:1", {"start": -1}, "start is -1; count from 0"),
        ("event:1", {"length": 0}, "length is 0; use 1 to 20000"),
        ("event:1", {"length": -5}, "length is -5; use 1 to 20000"),
        ("event:1", {"search": "x" * 1001}, "has 1001 characters; use at most 1000"),
        ("event:1", {"search": "nowhere"}, "event:1 does not hold that text from character 0 on. Try other words"),
        ("event:1-2", {"search": "nowhere"}, "event:1-2 does not hold that text"),
    ],
)
def test_what_cannot_be_recalled_is_answered_with_the_remedy(
    handle: str, arguments: dict[str, Any], remedy: str
) -> None:
    answer = refused(Kept(USER, REPLY), handle, **arguments)
    assert remedy in answer
    assert len(answer) < 400


def test_a_result_that_is_no_text_is_not_shown() -> None:
    data = b"\x89PNG\xff" * 100_000
    hash = hashlib.sha256(data).hexdigest()
    kept = Kept(ToolEnded("c", "a file", blob=hash, size=len(data)), blobs=(data,))
    assert "holds 500000 bytes that are no text" in refused(kept, handle_of(data))
    assert told(kept, "event:1").endswith("\na file")


def test_without_a_past_there_is_nothing_to_recall() -> None:
    assert "work with what is in view" in refused(None, "event:1")


def test_the_model_is_told_of_four_arguments_and_the_call_may_be_repeated() -> None:
    made = recall_tool()
    assert (made.spec.name, made.effect) == ("recall", "pure")
    assert list(made.spec.parameters["properties"]) == ["handle", "start", "length", "search"]
    assert made.spec.parameters["required"] == ["handle"]
