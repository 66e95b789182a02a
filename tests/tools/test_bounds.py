"""The bounds of results, for any text and any limit."""

import hashlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stepwell.contexts import WRAPPED, handle_of_blob
from stepwell.messages import clean
from stepwell.tools import bounds
from stepwell.tools.bounds import shorten, shorten_counting

ANY = st.text(st.characters(codec=None), min_size=1, max_size=50)


@settings(max_examples=300)
@given(ANY, st.integers(1, 30), st.integers(0, 400))
@example("\ud83e\udd86", 10, 5)
@example("a", 1, 0)
def test_a_short_form_is_within_its_limit_and_the_whole_text_is_kept(text: str, times: int, limit: int) -> None:
    text *= times
    short = shorten(text, limit)
    assert len(short.content) <= limit
    short.content.encode()
    cleaned = clean(text)
    if len(cleaned) <= limit:
        assert short == (cleaned, b"", "")
        return
    assert short.data == cleaned.encode()
    assert short.hash == hashlib.sha256(short.data).hexdigest()
    handle = handle_of_blob(short.hash)
    assert (handle in short.content) == (limit >= len(f"{WRAPPED} {handle}"))


@pytest.mark.parametrize("piece", [1, 2, 3, 7])
def test_a_character_of_two_halves_is_not_torn_between_pieces(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "PIECE", piece)
    text = "ab\ud83e\udd86c\ud83e\ud83e\udd86\0" * 20
    assert shorten(text, 10).data.decode() == clean(text)
    assert shorten_counting(text, 10)[1] == 40


def test_a_text_too_long_to_be_kept_has_no_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "WHOLE_LIMIT", 999)
    short = shorten("x" * 1000, 100)
    assert (short.data, short.hash) == (b"", "")
    assert short.content.splitlines()[1].endswith("characters left out")
    assert shorten("x" * 1000, 10).content == "x" * 10
    assert shorten("x" * 999, 100).data == b"x" * 999
