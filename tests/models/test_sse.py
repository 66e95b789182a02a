"""The reader of server-sent events: which bytes are an event, however they are cut."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.models.sse import EventTooLong, SSEReader


def read(pieces: Iterable[bytes], limit: int = 1000) -> list[bytes]:
    reader = SSEReader(limit)
    return [event for piece in pieces for event in reader.feed(piece)] + reader.close()


def one_at_a_time(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


STREAMS = [
    (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
    (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    (b"data: a\r\n\ndata: b\n\r\ndata: c\r\n\r", [b"a", b"b", b"c"]),
    (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),
    (b"data: one\ndata: two\ndata\ndata: four\n\n", [b"one\ntwo\n\nfour"]),
    (b": comment\n\nevent: x\ndata: a\nid: 7\nretry: 5\n\nnothing: here\n\n", [b"a"]),
    (b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n\n", [b"a", b"b"]),
    (b"\xef\xbb\xbfdata: a\n\ndata: \xef\xbb\xbf\n\n", [b"a", b"\xef\xbb\xbf"]),
    (b"\xef\xbb\xbfdata: a", [b"a"]),
    (b"\xef\xbb\xbf\ndata: a\n\n", [b"a"]),
    (b"data: a\n\ndata: cut off", [b"a", b"cut off"]),
    (b"data: a\n\ndata: b\n", [b"a", b"b"]),
    (b"data:\n\ndata: \n\n", [b"", b""]),
    (b"data: a\n\nevent: ping", [b"a"]),
    (b"database: a\n\n data: b\n\nDATA: c\n\n", []),
    (b"data: a\ndata: b\n\ndata: c\n\n", [b"a\nb", b"c"]),
    (b"", []),
    (b"\r\n\r\n\r\n", []),
]


@pytest.mark.parametrize(("stream", "events"), STREAMS)
def test_events_are_the_same_whole_and_one_byte_at_a_time(stream: bytes, events: list[bytes]) -> None:
    assert read([stream]) == events
    assert read(one_at_a_time(stream)) == events


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\v", "\f", "\x1c", "\x1d", "\x1e"])
def test_only_cr_and_lf_end_a_line(separator: str) -> None:
    stream = f"data: a{separator}data: b\n\n".encode()
    assert read([stream]) == read(one_at_a_time(stream)) == [f"a{separator}data: b".encode()]


def test_a_crlf_cut_in_two_is_one_line_end() -> None:
    reader = SSEReader()
    assert reader.feed(b"data: a\r") == []
    assert reader.feed(b"\ndata: b\r") == []
    assert reader.feed(b"\n\r") == [b"a\nb"]
    assert reader.feed(b"\n") == []
    assert reader.feed(b"data: c\r\n\r\n") == [b"c"]


def test_an_event_is_given_out_as_soon_as_its_blank_line_came() -> None:
    reader = SSEReader()
    assert reader.feed(b"data: a\n\nda") == [b"a"]
    assert reader.feed(b"ta: b\n") == []
    assert reader.feed(b"\n") == [b"b"]


@given(st.data())
def test_no_cut_changes_what_is_read(data: st.DataObject) -> None:
    lines = st.sampled_from([b"data: x", b"data:y", b"data", b": c", b"event: e", b"z", b""])
    ends = st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r"])
    stream = b"".join(line + end for line, end in data.draw(st.lists(st.tuples(lines, ends), max_size=15)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(pieces) == read([stream]) == read(one_at_a_time(stream))


def test_a_line_without_an_end_is_refused_at_the_limit() -> None:
    reader = SSEReader(limit=100)
    reader.feed(b"data: " + b"x" * 90)
    with pytest.raises(EventTooLong, match="100 bytes"):
        reader.feed(b"xxxxxxx")


def test_the_limit_is_for_one_event_and_not_for_the_stream() -> None:
    assert len(read([b"data: " + b"x" * 80 + b"\n", b"\n"] * 100, limit=100)) == 100


def test_comments_without_blank_lines_do_not_pile_up_without_bound() -> None:
    with pytest.raises(EventTooLong):
        read([b": still here\n"] * 100, limit=500)
