"""What a message weighs, however it is cut and whatever it hides its values behind."""

import json
import random
from typing import Any

import pytest

from stepwell.tools.mcp.weight import ENDS, LARGE, MOST_VALUES, Parts, Weight, answers, legible

BUSY: dict[str, Any] = {
    "a": ['"', "\\", '\\"', "{,[", "\n", "x" * 50],
    "b": {"c": [{}, {}, [], 1.5, None]},
    "一": "二,,,",
}


def weighed(data: bytes, *cuts: int) -> Weight:
    weight = Weight()
    for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
        weight.add(data[start:end])
    return weight


def test_only_what_is_outside_of_texts_counts_as_values() -> None:
    assert weighed(b'{"a":[1,2,{}]}').values == 1 + 1 + 2 + 1
    assert weighed(b'{"a":",,,,[[[{{{","b":"\\\\","c":"\\",,"}').values == 1 + 2
    assert weighed(b'"' + b"[" * 1000 + b'"').values == 0


def test_the_weight_does_not_depend_on_how_the_message_is_cut() -> None:
    chance = random.Random(1)
    for data in (json.dumps(BUSY).encode(), json.dumps(BUSY, indent=1, ensure_ascii=False).encode()):
        whole = sum(data.count(each) for each in (b"\n",)) + weighed(json.dumps(BUSY).encode()).values
        for _ in range(300):
            cuts = sorted(chance.sample(range(1, len(data)), chance.randint(1, 9)))
            # What costs by the byte is rounded down in each part.
            assert abs(weighed(data, *cuts).values - whole) <= 12


@pytest.mark.parametrize("lead", [b"", b': "\n', b'id: "\r\n', b'"\r', b'data: "\n', b'event: \\"\\\n'], ids=repr)
def test_a_quote_in_another_line_hides_nothing(lead: bytes) -> None:
    assert weighed(lead + b"data: [" + b"{}," * MOST_VALUES + b"{}]").fault == "it is too much to take apart"


@pytest.mark.parametrize(
    "data",
    [
        b"[" + b",".join([b"9" * 4000] * 2000) + b"]",
        b'["' + b"\\n" * (MOST_VALUES * 40) + b'"]',
        b'["' + "一".encode() * (MOST_VALUES * 30) + b'"]',
        b"\n" * (MOST_VALUES + 10),
        b" " * (MOST_VALUES * 40),
    ],
    ids=["digits", "escapes", "wide", "lines", "blanks"],
)
def test_what_else_takes_long_to_be_taken_apart_is_too_much(data: bytes) -> None:
    assert weighed(data, *range(1 << 16, len(data), 1 << 16)).fault


def test_a_picture_is_light() -> None:
    assert not weighed(b'{"data":"' + b"A" * (30 << 20) + b'"}').fault
    assert weighed(b'"' + b"A" * (33 << 20) + b'"').fault == "it has more than 32 MB"


BIG = ",".join(["0"] * (MOST_VALUES + 10))


@pytest.mark.parametrize(
    ("line", "id", "says"),
    [
        (f'{{"jsonrpc":"2.0","id":7,"result":{{"a":[{BIG}]}}}}', 7, False),
        (f'{{"jsonrpc": "2.0", "id": "x-7", "result": {{"a":[{BIG}]}}}}', "x-7", False),
        (f'{{"id":7,"jsonrpc":"2.0","error":{{"a":[{BIG}]}}}}', 7, False),
        (f'{{"result":{{"a":[{BIG}]}},"id":7,"jsonrpc":"2.0"}}', 7, False),
        (f'{{"jsonrpc":"2.0","result":{{"id":8,"a":[{BIG}]}},"id":7}} ', 7, False),
        (f'{{"jsonrpc":"2.0","result":{{"id":8,"a":[{BIG}]}}}}', None, False),
        (f'{{"jsonrpc":"2.0","method":"x","params":[{BIG}]}}', None, True),
        (f'{{"jsonrpc":"2.0","id":7,"method":"x","params":[{BIG}],"id":7}}', None, True),
    ],
)
@pytest.mark.parametrize("size", [1 << 16, 100])
def test_whom_a_message_that_is_too_much_answers_is_told_from_its_ends(
    line: str, id: int | str | None, says: bool, size: int
) -> None:
    parts = Parts()
    data = line.encode()
    for start in range(0, len(data), size):
        parts.add(data[start : start + size])
    assert parts.weight.fault
    assert (parts.answers(), parts.says()) == (id, says)
    assert parts.whole() == b""
    assert ENDS < len(data)


def test_what_no_text_can_hold_is_replaced_and_a_mark_of_bytes_is_taken_off() -> None:
    assert (
        legible(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00 \\ud83d \xe4\xb8"}')
        == '{"a": "\\ud83d\\ude00 \\ufffd \ufffd"}'.encode()
    )
    assert legible(b"\\ud83d" * LARGE) == b"\\ud83d" * LARGE


@pytest.mark.parametrize(
    ("data", "id"),
    [
        (b'{"jsonrpc":"2.0","id":3,"result":{{', 3),
        (b'{"id": "x", "jsonrpc": "2.0", "error": 5}', "x"),
        (b'{"message":"called","id":3}', None),
        (b'{"jsonrpc":"2.0","id":3,"method":"ping"', None),
        (b"done", None),
        (b'{"jsonrpc":"2.0","id":"\xff","result":{{', None),
        (b'{"jsonrpc":"2.0","id":"\x01","result":{{', None),
    ],
)
def test_what_cannot_be_read_answers_whom_its_beginning_names(data: bytes, id: int | str | None) -> None:
    assert answers(data) == id
