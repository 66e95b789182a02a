"""What people are shown of a call, and what their decision is bound to."""

from __future__ import annotations

import sys
import unicodedata
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.questions import DECISIONS, QuestionKind, call_hash, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rm -rf \u202etxt.exe", "rm -rf \\u202etxt.exe"),
        ("\u2066a\u2069\u200f\u061c", "\\u2066a\\u2069\\u200f\\u061c"),
        ("ad\u200bmin\u200d\u2060\ufeff", "ad\\u200bmin\\u200d\\u2060\\ufeff"),
        ("x\ufe0f\U000e0101", "x\\ufe0f\\U000e0101"),
        ("go\U000e0041\U000e007f", "go\\U000e0041\\U000e007f"),
        ("a\xa0b\u3000c\u2003", "a\\u00a0b\\u3000c\\u2003"),
        ("\x1b[31mred\x1b[0m\x07", "\\u001b[31mred\\u001b[0m\\u0007"),
        ("\ue000\U000f0000", "\\ue000\\U000f0000"),
        ("a\r\nb", "a\\u000d\nb"),
        ("line\u2028para\u2029", "line\\u2028para\\u2029"),
        ("\u3164\u115f\u034f\u2800\xad\x7f\x85\0", "\\u3164\\u115f\\u034f\\u2800\\u00ad\\u007f\\u0085\\u0000"),
        ("\ud800", "\\ud800"),
        ("\ufff9\ufffc\ufdd0", "\\ufff9\\ufffc\\ufdd0"),
    ],
)
def test_what_nobody_would_see_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_what_can_be_seen_stays_as_it_is() -> None:
    for text in ("", "plain text\n\twith lines", "Größe 你好 привет שלום 🙂 é e\u0301 \ufffd", '{"a": "\\u202e"}'):
        assert visible(text) is text


@given(st.text())
def test_everything_that_is_shown_has_a_shape(text: str) -> None:
    shown = visible(text)
    hidden = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
    assert not [each for each in shown if each not in "\n\t" and unicodedata.category(each) in hidden]
    assert visible(shown) == shown


def test_no_character_that_a_terminal_or_a_page_acts_on_passes() -> None:
    passed = [
        char
        for char in map(chr, range(sys.maxunicode + 1))
        if visible(char) == char and unicodedata.bidirectional(char) in ("BN", "LRE", "RLE", "LRO", "RLO", "PDF", "LRI")
    ]
    assert passed == []


def test_an_approval_holds_for_one_tool_its_arguments_and_its_version() -> None:
    hashes = {
        call_hash("t", "{}", "1"),
        call_hash("t", "{ }", "1"),
        call_hash("t", "{}", "2"),
        call_hash("u", "{}", "1"),
        call_hash("t{", "}", "1"),
        call_hash("t", "{}1", ""),
        call_hash("t", '{"\ud800": 1}', "1"),
    }
    assert len(hashes) == 7
    assert {len(each) for each in hashes} == {64}
    assert call_hash("t", "{}", "1") == call_hash("t", "{}", "1")


def test_every_kind_of_question_has_its_own_answers() -> None:
    kinds = get_args(QuestionKind)
    assert set(DECISIONS) == {*kinds}
    assert len(kinds) == 7
    assert not {"expired", "cancelled", "forked"}.intersection(*DECISIONS.values())
