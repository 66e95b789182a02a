"""What stands outside the texts of a JSON text, however it comes in."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from stepwell.tools.json_text import OutsideTexts, marks

TEXT = st.text(st.sampled_from('ab,[]{}"\\\n é'), max_size=8)
JSON = st.recursive(
    st.none() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


def number_of_marks(value: object) -> int:
    """Count what opens and what parts the values of a JSON value, from the value itself."""
    if isinstance(value, dict):
        return 1 + max(0, len(value) - 1) + sum(map(number_of_marks, value.values()))
    if isinstance(value, list):
        return 1 + max(0, len(value) - 1) + sum(map(number_of_marks, value))
    return 0


@given(JSON, st.booleans(), st.lists(st.integers(0, 200), max_size=6))
def test_only_marks_outside_texts_are_seen_wherever_it_is_cut(value: object, wide: bool, cuts: list[int]) -> None:
    data = json.dumps(value, ensure_ascii=not wide, indent=1 if wide else None).encode()
    outside, places = OutsideTexts(), sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    pieces = [data[start:end] for start, end in pairwise(places)]
    assert sum(marks(outside.take(piece)) for piece in pieces) == number_of_marks(value)
