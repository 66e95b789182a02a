"""The live end of a thread: whatever place a reader comes from, it gets exactly the rest."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.errors import InputError
from stepwell.events import CallDelta, Recorded, TextDelta, ThinkingDelta, TitleChanged, ToolProgress, Transient, decode
from stepwell.runs import channel as module
from stepwell.runs.channel import Channel, Cursor, Item, Piece, join, parse_cursor, place_of
from tests.support.runs import Atom, atoms, before, bounded, cursors


def stored(seq: int) -> Recorded:
    return Recorded(seq, 0, 0, TitleChanged(str(seq)))


texts = st.text("ab一🦆\u0301", max_size=5)
deltas: st.SearchStrategy[Transient] = st.one_of(
    st.builds(TextDelta, st.integers(1, 2), texts),
    st.builds(ThinkingDelta, st.integers(1, 2), texts),
    st.builds(CallDelta, st.integers(1, 2), st.integers(0, 1), st.sampled_from(["", "", "add"]), texts),
    st.builds(ToolProgress, st.sampled_from(["x", "y"]), texts),
)
happenings = st.lists(st.one_of(deltas, st.integers(1, 4)), max_size=40)
"""What is shown: a delta, or so many stored events at once."""


def show(channel: Channel, happening: Transient | int) -> list[Item]:
    """Let something be shown and return it as one who never lost the line would see it."""
    if isinstance(happening, int):
        events = [stored(channel.seq + number + 1) for number in range(happening)]
        channel.stored(events)
        return list(events)
    channel.piece(1, happening)
    return [Piece(channel.seq, channel.offset, 1, happening)]


@settings(deadline=None, derandomize=True)
@given(happenings)
def test_a_reader_gets_exactly_what_lies_beyond_its_cursor(shown: list[Transient | int]) -> None:
    channel = Channel()
    everything = list(atoms([item for happening in shown for item in show(channel, happening)]))
    for cursor in cursors(everything):
        items, _ = channel.after(cursor)
        assert before(everything, cursor) + list(atoms(items)) == everything
        assert before(everything, cursor) + list(atoms(join(items))) == everything


@settings(deadline=None, derandomize=True)
@given(happenings)
def test_every_item_tells_the_place_behind_it(shown: list[Transient | int]) -> None:
    channel = Channel()
    for happening in shown:
        show(channel, happening)
    items, _ = channel.after(Cursor())
    for whole in (items, join(items)):
        for number, item in enumerate(whole):
            rest, _ = channel.after(place_of(item))
            assert list(atoms(rest)) == list(atoms(whole[number + 1 :]))
            told = decode(item.body) if isinstance(item, Recorded) else item.event
            assert told == item.event


@settings(deadline=None, derandomize=True)
@given(happenings, st.data())
def test_a_slow_reader_finds_what_it_missed_joined(shown: list[Transient | int], data: st.DataObject) -> None:
    channel = Channel()
    _, place = channel.after(Cursor())
    everything: list[Item] = []
    got: list[Item] = []
    for happening in shown:
        everything += show(channel, happening)
        if data.draw(st.booleans()):
            items, place = channel.since(place)
            assert items is not None
            got += join(items)
    items, place = channel.since(place)
    assert items is not None
    assert list(atoms(got + join(items))) == list(atoms(everything))


@settings(deadline=None, derandomize=True)
@given(happenings, st.integers(0, 40), st.integers(0, 40), st.data())
def test_trimming_takes_only_what_the_store_has_and_nothing_of_an_open_message(
    shown: list[Transient | int], open_at: int, end_at: int, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "KEEP", 2)
        patch.setattr(module, "TRIM", 4)
        channel = Channel()
        everything: list[Item] = []
        got: list[Atom] = []
        held, place, cursor = 0, 0, Cursor()
        for number, happening in enumerate(shown):
            if number == open_at:
                held = channel.seq + 1
                channel.hold(held)
            if number == end_at:
                held = 0
                channel.release("")
            everything += show(channel, 1 if number == open_at else happening)
            assert not held or channel.first < held
            if data.draw(st.booleans()):
                items, place = channel.since(place)
                if items is None:  # what was cut is in the store, up to `first`
                    got += [("stored", seq) for seq in range(cursor.seq + 1, channel.first + 1)]
                    items, place = channel.after(Cursor(channel.first))
                got += atoms(items)
                cursor = place_of(items[-1]) if items else cursor
        whole = list(atoms(everything))
        for cursor in cursors(whole):
            if cursor.seq >= channel.first:
                assert before(whole, cursor) + list(atoms(channel.after(cursor)[0])) == whole
        numbers = [atom[1] for atom in got if atom[0] == "stored"]
        assert numbers == list(range(1, len(numbers) + 1))
        rest = iter(whole)
        assert all(atom in rest for atom in got), "what the reader got came in another order"


def test_only_old_entries_are_let_go_and_not_those_of_an_open_message() -> None:
    channel = Channel()
    channel.stored([stored(seq) for seq in range(1, 11)])
    channel.hold(10)
    for number in range(module.TRIM):
        channel.piece(1, TextDelta(10, str(number % 10)))
    channel.stored([stored(11)])
    assert channel.first == 9
    assert len(channel.pieces(10)) == module.TRIM
    assert channel.since(0)[0] is None
    channel.release("")
    channel.stored([stored(seq) for seq in range(12, 100)])
    assert channel.first == 99 - module.KEEP
    assert [item.seq for item in channel.after(Cursor(90))[0]] == list(range(91, 100))


def test_pieces_of_an_open_message_are_found_and_no_others() -> None:
    channel = Channel()
    channel.stored([stored(1)])
    channel.piece(1, TextDelta(1, "old"))
    channel.stored([stored(2)])
    shown: list[Transient] = [TextDelta(2, "a"), ToolProgress("x", "5%"), CallDelta(2, 0, "add"), ThinkingDelta(2, "b")]
    for event in shown:
        channel.piece(1, event)
    channel.stored([stored(3)])
    channel.piece(1, TextDelta(2, "c"))
    assert channel.pieces(2) == [shown[0], *shown[2:], TextDelta(2, "c")]


def test_messages_of_two_agents_are_kept_and_found_side_by_side() -> None:
    channel = Channel()
    channel.stored([stored(seq) for seq in range(1, 11)])
    channel.hold(10, "1.1")
    channel.stored([stored(11)])
    channel.hold(11, "1.2")
    for number in range(module.TRIM):
        channel.piece(1, TextDelta(10 + number % 2, str(number % 10)))
    channel.stored([stored(12)])
    assert channel.held == {"1.1", "1.2"}
    assert channel.first == 9
    for message in (10, 11):
        pieces = channel.pieces(message)
        assert len(pieces) == module.TRIM // 2
        assert {piece.message for piece in pieces if isinstance(piece, TextDelta)} == {message}
    # A reader in the middle of both texts gets the rest of both, and no code point twice.
    middle = Cursor(11, module.TRIM // 2 + 1)
    rest = [item for item in channel.after(middle)[0] if isinstance(item, Piece)]
    assert len(rest) == module.TRIM // 2 - 1
    assert rest[0].offset == middle.offset + 1
    channel.release("1.1")
    channel.stored([stored(seq) for seq in range(13, 100)])
    assert channel.first == 10, "the other message is still open"
    assert channel.pieces(11)
    channel.release("1.2", "1.1")
    channel.stored([stored(seq) for seq in range(100, 700)])
    assert channel.first == 699 - module.KEEP


def test_texts_of_different_things_are_not_joined() -> None:
    channel = Channel()
    shown: list[Transient] = [
        TextDelta(1, "a"),
        TextDelta(2, "b"),
        ThinkingDelta(2, "c"),
        CallDelta(2, 0, "add", "{"),
        CallDelta(2, 1, "add", "{"),
        CallDelta(2, 1, "", "}"),
        CallDelta(2, 1, "late", ""),
        ToolProgress("x", "1"),
        ToolProgress("x", "2"),
        ToolProgress("y", "3"),
    ]
    for event in shown:
        channel.piece(1, event)
    events = [item.event for item in join(channel.after(Cursor())[0])]
    assert events == [*shown[:4], CallDelta(2, 1, "add", "{}"), shown[6], ToolProgress("x", "12"), shown[9]]


def test_a_piece_is_encoded_once_for_all_readers() -> None:
    piece = Piece(7, 3, 5, TextDelta(6, "一"))
    assert (
        piece.to_json() == '{"seq":7,"offset":3,"run":5,"event":{"type":"text_delta","message":6,"text":"一"}}'.encode()
    )
    assert piece.to_json() is piece.to_json()


def test_readers_wait_for_what_is_shown_and_are_woken_at_a_beat_and_at_the_end() -> None:
    async def main() -> None:
        channel = Channel()
        for wake, shown in (
            (lambda: channel.stored([stored(1)]), True),
            (lambda: channel.piece(1, TextDelta(1, "a")), True),
            (channel.beat, False),
            (channel.close, True),
        ):
            waiters = [asyncio.ensure_future(channel.wait()) for _ in range(2)]
            gone = asyncio.ensure_future(channel.wait())
            await asyncio.sleep(0)
            gone.cancel()
            wake()
            assert await asyncio.gather(*waiters) == [shown] * 2
            assert (await asyncio.gather(gone, return_exceptions=True))[0].__class__ is asyncio.CancelledError

    bounded(main)


@pytest.mark.parametrize(("text", "cursor"), [("0", Cursor()), ("12", Cursor(12)), (" 12.40 ", Cursor(12, 40))])
def test_a_cursor_is_read_as_it_was_written(text: str, cursor: Cursor) -> None:
    assert parse_cursor(text) == cursor
    assert str(cursor) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "12.x",
        "12.",
        ".5",
        "-1",
        "+1",
        "12.-3",
        "1e3",
        "١٢",
        "1²",
        "12.4.5",
        "1_000",
        "1 2",
        "9" * 16,
        "NaN",
        "12,4",
    ],
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no cursor") as caught:
        parse_cursor(text)
    assert caught.value.field == "after"


@pytest.mark.parametrize(("outcome", "shown"), [("left", True), ("full", False)])
def test_an_eager_reader_takes_what_it_can_and_is_woken_for_the_rest(outcome: str, shown: bool) -> None:
    async def main() -> None:
        channel, taken = Channel(), list[Item]()

        def eager(items: list[Item]) -> Any:
            if len(taken) == 2 and outcome == "left":
                return "left"
            taken.extend(items)
            return "taken" if len(taken) < 3 else outcome

        channel.stored([stored(1)])
        waiting = asyncio.ensure_future(channel.pass_on(eager, 1, Cursor(1)))
        await asyncio.sleep(0)
        for text in ("a", "b", "c"):
            assert not waiting.done()
            channel.piece(1, TextDelta(1, text))
        assert await waiting == (shown, 3 if outcome == "left" else 4, Cursor(1, 2 if outcome == "left" else 3))
        assert [item.event.text for item in taken if isinstance(item.event, TextDelta)] == list("abc")[: len(taken)]

    bounded(main)
