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
        ("This model's maximum prompt length is 131072 but the request contains 537812 tokens.", 131_072),
        ("`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and 500", 4096),
        ("`inputs` must have less than 1024 tokens. Given: 2048", 1024),
        ("too many tokens: the prompt cannot exceed 4081 - received 4292.", 4081),
        ("Range of input length should be [1, 30720]", 30_720),
        ("prompt token count of 135000 exceeds the limit of 128000", 128_000),
        ("输入过长，最大上下文长度为 32768 个 token", 32_768),
        ("invalid params, context window exceeds limit (2013)", 0),
        ("maximum context length is 256k tokens", 0),
        ("context window of 1024 K", 0),
        ("too long", 0),
        ("error 400", 0),
        ("", 0),
    ],
)
def test_the_window_is_read_from_the_words(words: str, window: int) -> None:
    assert named_window(words) == window
