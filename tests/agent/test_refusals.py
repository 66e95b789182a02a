"""What refusals of endpoints say about their windows."""

from __future__ import annotations

import pytest

from stepwell.agent.refusals import named_window


@pytest.mark.parametrize(
    ("words", "window"),
    [
        ("This model's maximum context length is 4096 tokens. However, your messages resulted in 7279 tokens.", 4096),
        ("maximum context length is 8,192 tokens, however you requested 8500 tokens (8000 in the messages)", 8192),
        ("the request exceeds the available context size (4096 tokens), try increasing it", 4096),
        ("prompt is too long: 210000 tokens > 200000 maximum", 200_000),
        ("The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).", 1_048_576),
        ("requested tokens (5000) exceed context window of 2048", 2048),
        ("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000", 200_000),
        ("Prompt length 9000 is over max_model_len=4096", 4096),
        ("too long", 0),
        ("error 400", 0),
        ("", 0),
    ],
)
def test_the_window_is_read_from_the_words(words: str, window: int) -> None:
    assert named_window(words) == window
