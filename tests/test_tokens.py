"""Counts of tokens: never below the truth, exact where they can be, fast, and what a cut by tokens keeps."""

import random
import subprocess
import sys
import time
import warnings
from base64 import b64encode
from struct import pack
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.errors import ConfigError
from stepwell.messages import NO_TOOLS, Image, Message, ToolCall, ToolSpec, ToolSpecs
from stepwell.tokens import RULES, Allowance, Counter, ImageRule, trusted

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of how the library reads its own files
    import bpe_openai

TRUTH = {name: bpe_openai.get_encoding(f"{name}_base") for name in ("o200k", "cl100k")}
EXACT = {name: Counter(name) for name in TRUTH}
BYTES = Counter()
NAMES = pytest.mark.parametrize("name", TRUTH)

FRAGMENTS = [
    "the quick brown fox ",
    "It's John's, don't we'll I'VE ",
    "Ärger über größere Maße; ",
    "привет мир, ",
    "مرحبا بالعالم ",
    "中文文本，没有空格。",
    "日本語のテキスト、",
    "한국어 텍스트! ",
    "QmFzZTY0IGlzIG5vdCB0ZXh0+/aZ09==",
    "deadBEEF0123456789",
    "3.14159,2.71828\n",
    "def f(x: int) -> str:\n    return f'{x!r}'  # ok\n",
    '{"a": [1, 2, {"b": null}]}',
    "<|im_start|>user<|im_end|><|endoftext|>",
]
ODD = ["ไทยไม่มีช่องว่าง", "नमस्ते दुनिया। ", "e\u0301a\u0308 ", "½²Ⅷ٣", "😀🎉👩🏽\u200d🚀", "   ", "\n\n\n", "\t\t", "\r\n"]
ODD += ["\u3000\u00a0\u2028", "|---|---|\n", "-----", "====", "aaaaa", "AbCdEf", "\ufffd\x00\x85", "'", "/", "0"]
TEXT = st.lists(st.one_of(st.sampled_from(FRAGMENTS + ODD), st.text(max_size=20)), max_size=30).map("".join)
# Long enough to be counted in pieces, and with stretches without any place to cut.
LONG = st.builds(
    lambda parts, times: "".join(part * many for part, many in zip(parts, times, strict=True)),
    st.lists(st.sampled_from(FRAGMENTS + ODD), min_size=6, max_size=6),
    st.lists(st.sampled_from([1, 7, 300, 3000]), min_size=6, max_size=6),
)


def truth(name: str, text: str) -> int:
    """Count the whole text at once, which the library itself refuses for long ones."""
    return len(TRUTH[name]._backend.encode(text))


@NAMES
@given(TEXT)
def test_a_count_is_that_of_the_tokenizer_and_bytes_are_never_below_it(name: str, text: str) -> None:
    count = truth(name, text)
    assert EXACT[name].text(text) == count
    assert BYTES.text(text) == len(text.encode()) >= count


@NAMES
@settings(max_examples=40, deadline=None)
@given(LONG)
def test_a_count_in_pieces_is_never_below_that_of_the_whole(name: str, text: str) -> None:
    count = truth(name, text)
    assert count <= EXACT[name].text(text) <= len(text.encode())


@NAMES
def test_ordinary_long_texts_are_counted_exactly(name: str) -> None:
    for fragment in FRAGMENTS:
        assert EXACT[name].text(fragment * 6000) == truth(name, fragment * 6000)
    mixed = "".join(random.Random(1).choices(FRAGMENTS + ODD, k=30_000))
    assert EXACT[name].text(mixed) == truth(name, mixed)


@NAMES
@given(text=TEXT, tokens=st.integers(-2, 200), tail=st.booleans())
def test_what_a_cut_keeps_fits_and_little_more_would(name: str, text: str, tokens: int, tail: bool) -> None:
    for counter in (BYTES, EXACT[name]):
        kept = (counter.cut_tail if tail else counter.cut)(text, tokens)
        assert counter.text(end(text, kept, tail)) <= max(0, tokens)
        if counter.text(text) <= tokens:
            assert kept == len(text)
        elif counter is BYTES:
            assert counter.text(end(text, kept + 1, tail)) > tokens
        elif tokens > 0:
            # One token is at most 128 characters, and a cut inside a word costs a token or two.
            assert counter.text(end(text, kept + 128, tail)) >= tokens - 2


@NAMES
@settings(max_examples=40, deadline=None)
@given(text=LONG, tokens=st.sampled_from([1, 50, 5000, 40_000]), tail=st.booleans())
def test_what_a_cut_keeps_of_a_long_text_fits(name: str, text: str, tokens: int, tail: bool) -> None:
    counter = EXACT[name]
    kept = (counter.cut_tail if tail else counter.cut)(text, tokens)
    assert counter.text(end(text, kept, tail)) <= tokens
    assert kept == len(text) or kept >= min(tokens // 4, 32_000)


def end(text: str, size: int, tail: bool) -> str:
    return text[max(0, len(text) - size) :] if tail else text[:size]


@NAMES
def test_a_cut_of_ordinary_text_uses_its_tokens(name: str) -> None:
    text = "".join(random.Random(2).choices(FRAGMENTS, k=20_000))
    counter = EXACT[name]
    for tokens in (100, 1000, 12_384):
        assert tokens - 2 <= counter.text(text[: counter.cut(text, tokens)]) <= tokens
        assert tokens - 2 <= counter.text(text[-counter.cut_tail(text, tokens) :]) <= tokens


def test_a_cut_by_bytes_keeps_whole_characters() -> None:
    assert [BYTES.cut("a中🎉b", tokens) for tokens in range(11)] == [0, 1, 1, 1, 2, 2, 2, 2, 3, 4, 4]
    assert [BYTES.cut_tail("a中🎉b", tokens) for tokens in range(11)] == [0, 1, 1, 1, 1, 2, 2, 2, 3, 4, 4]


@NAMES
def test_lone_surrogates_count_as_three_bytes_each(name: str) -> None:
    for counter in (BYTES, EXACT[name]):
        assert counter.text("a\ud800b") == 5
        assert counter.text("\ud83d\ude00") == 6  # two halves: what is sent may be one character or two
        assert counter.cut("a\ud800b", 3) == counter.cut_tail("a\ud800b", 3) == 1
        assert counter.message(Message("user", "\udfff")) == 8 + 3


@NAMES
def test_what_looks_like_a_special_token_is_text(name: str) -> None:
    for text in ("<|endoftext|>", "<|im_start|>", "<|endofprompt|>"):
        assert EXACT[name].text(text) == truth(name, text) > 3


def test_an_unknown_tokenizer_counts_bytes() -> None:
    assert Counter("llama").text("héllo") == Counter().text("héllo") == 6
    assert not Counter("llama").exact
    assert Counter("o200k").exact


def test_without_the_library_bytes_are_counted() -> None:
    program = (
        "import sys; sys.modules['bpe_openai'] = None\n"
        "from stepwell.tokens import Counter; counter = Counter('o200k')\n"
        "assert counter.text('hello world') == 11 and not counter.exact and counter.cut('hello world', 5) == 5"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr


def test_the_tables_are_loaded_when_text_is_counted_and_not_before() -> None:
    program = (
        "import sys; from stepwell.tokens import Counter; import stepwell.models.profiles; counter = Counter('o200k')\n"
        "assert 'bpe_openai' not in sys.modules\n"
        "assert counter.text('hello world') == 2 and 'bpe_openai' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr


def megabyte(kind: str) -> str:
    rng, size = random.Random(3), 1_000_000
    match kind:
        case "English":
            words = "the of function return counter message, hello world. it's 1234 def f(x): \n\n    pass".split(" ")
            return " ".join(rng.choices(words, k=size // 3))[:size]
        case "CJK":
            return "".join(chr(rng.randint(0x4E00, 0x9FA5)) + ("，" if n % 17 == 0 else "") for n in range(size // 3))
        case "base64":
            return b64encode(rng.randbytes(size // 4 * 3)).decode()
        case "emoji":
            return "".join(rng.choices("😀🎉👩🏽🚀", k=size // 4))
        case _:
            return kind * size


@NAMES
@pytest.mark.parametrize("kind", ["English", "CJK", "base64", "emoji", "a", " ", "-", "1", "\n"])
def test_a_megabyte_is_counted_and_cut_in_time(name: str, kind: str) -> None:
    text, counter = megabyte(kind), EXACT[name]
    counter.text("warm")
    start = time.process_time()
    counted = counter.text(text)
    assert time.process_time() - start < 0.4
    assert counted >= truth(name, text)
    start = time.process_time()
    assert counter.text(text[: counter.cut(text, 12_384)]) <= 12_384
    assert counter.text(text[len(text) - counter.cut_tail(text, 12_384) :]) <= 12_384
    assert time.process_time() - start < 0.8


def test_a_message_counts_all_that_is_sent_of_it() -> None:
    assert BYTES.message(Message("user", "hello")) == 8 + 5
    assert BYTES.message(Message("tool", "done", call="c1")) == 8 + 4 + 16 + 2
    calls = (ToolCall("c1", "find", '{"a":1}'), ToolCall("c2", "go"))
    message = Message("assistant", "hm", thinking="deep", calls=calls)
    assert BYTES.message(message) == 8 + 2 + (16 + 2 + 4 + 7) + (16 + 2 + 2 + len('{"_invalid":""}'))
    assert BYTES.message(message, thinking=True) == BYTES.message(message) + 4
    answer = Message("assistant", "hm", thinking="deep")
    assert BYTES.message(answer, thinking=True) == BYTES.message(answer) == 8 + 2


def test_arguments_that_are_no_object_count_as_they_are_sent() -> None:
    deep = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
    for wrong in ('"' * 1000, "[1]", "\ud800", "{", deep):
        sent = Counter().message(Message("assistant", calls=(ToolCall("", "f", wrong),))) - 8 - 16 - 1
        assert sent >= len(msgspec.json.encode(wrong.replace("\ud800", "\ufffd"))) + len('{"_invalid":}')


def test_an_image_counts_with_its_message() -> None:
    counter = Counter("", "openai_tiles")
    image = picture(1024, 1024)
    assert counter.message(Message("user", "look", (image, image))) == 8 + 4 + 2 * 765


def test_the_allowance_can_be_set() -> None:
    assert Counter(allowance=Allowance(message=100)).message(Message("user", "hello")) == 105


def tool(name: str) -> ToolSpec:
    schema: dict[str, Any] = {"type": "object", "properties": {"q": {"type": "string"}}}
    return ToolSpec(name, "Find a page. 查找。", schema)


def test_tools_count_as_their_json_and_the_same_tools_are_counted_once() -> None:
    specs = ToolSpecs([tool("find"), tool("open")])
    assert BYTES.tools(specs) == len(specs.encoded) + 2 * 16
    assert BYTES.tools(NO_TOOLS) == 0
    counter = Counter("o200k")
    many = ToolSpecs(tool(f"find_{n}") for n in range(2000))
    first = counter.tools(many)
    assert first == truth("o200k", many.encoded.decode()) + 2000 * 16
    start = time.process_time()
    assert all(counter.tools(many) == first for _ in range(1000))
    assert time.process_time() - start < 0.1


def picture(width: int, height: int, detail: Any = "") -> Image:
    data = b"\x89PNG\r\n\x1a\n" + pack(">I4sII", 13, b"IHDR", width, height) + bytes(9)
    return Image("data:image/png;base64," + b64encode(data).decode(), detail)


# The examples of the vendors' pages, and sizes that were measured at their endpoints.
STATED = [
    ("openai_tiles", 1024, 1024, "", 765, 765),
    ("openai_tiles", 2048, 4096, "high", 1105, 1105),
    ("openai_tiles", 4096, 8192, "low", 85, 85),
    ("openai_tiles", 2049, 513, "", 1445, 1445),
    ("openai_tiles", 128, 64, "", 255, 255),
    ("openai_tiles_mini", 128, 64, "", 8500, 8500),
    ("openai_tiles_mini", 128, 64, "low", 2833, 2833),
    ("openai_patches", 1024, 1024, "", 1024, 2520),
    ("openai_patches", 1800, 2400, "", 1452, 3779),
    ("openai_patches", 1, 1, "", 225, 255),
    ("openai_patches_large", 1280, 720, "", 1104, 1491),
    ("openai_patches_large", 4032, 3024, "", 14_364, 19_392),
    ("openai_patches_large", 4032, 3024, "low", 308, 415),
    ("anthropic", 200, 200, "", 54, 68),
    ("anthropic", 1000, 1000, "", 1334, 1361),
    ("anthropic", 1920, 1080, "", 2691, 2826),
    ("anthropic", 8000, 8000, "", 4784, 5024),
    ("gemini", 300, 300, "", 258, 1290),
    ("gemini", 100, 90, "", 258, 1120),
    ("gemini", 960, 540, "", 1548, 1806),
    ("gemini", 1980, 1380, "", 1548, 1806),
    ("qwen", 1024, 1024, "", 1369, 1371),
    ("qwen", 10, 10, "", 4, 258),
    ("qwen", 7000, 7000, "", 16_384, 16_386),
    ("yi", 1000, 1000, "", 1024, 1028),
    ("phi", 448, 448, "", 545, 562),
    ("", 1024, 1024, "", 4160, 4352),
]


@pytest.mark.parametrize(("rule", "width", "height", "detail", "least", "count"), STATED)
def test_an_image_counts_at_least_what_its_vendor_says(
    rule: str, width: int, height: int, detail: str, least: int, count: int
) -> None:
    assert Counter("", rule).image(picture(width, height, detail)) == count >= least
    assert Counter("", rule).image(picture(height, width, detail)) == count


@pytest.mark.parametrize("rule", RULES)
@given(st.integers(1, 8000), st.integers(1, 6000))
def test_an_image_of_unknown_size_counts_the_most(rule: str, width: int, height: int) -> None:
    counter = Counter("", rule)
    most = counter.image(Image("https://example.com/a.png"))
    for detail in ("", "low", "high"):
        assert 0 < counter.image(picture(width, height, detail)) <= most


def test_every_rule_that_a_profile_can_name_is_there() -> None:
    assert set(get_args(ImageRule)) == set(RULES)


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(ConfigError, match="no rule 'tiles' for images; the rules are openai_tiles, "):
        Counter("", "tiles")


@given(TEXT)
def test_a_true_count_is_believed(text: str) -> None:
    prose = "word " * 100 + text
    assert trusted(truth("o200k", prose), len(prose.encode()))


def test_a_count_of_the_part_that_was_not_cached_is_not_believed() -> None:
    assert not trusted(0, 0)
    assert not trusted(0, 10)
    assert not trusted(99, 1200)
    assert trusted(100, 1200)
    assert trusted(1, 0)
