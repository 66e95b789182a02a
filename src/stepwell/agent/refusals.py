"""What an endpoint's refusal of a request that is too long says about its window. It decides nothing."""

from __future__ import annotations

import re

_LEAST = 256
_NUMBER = r"(\d[\d,_]{1,10}\d)(?!\d|\s?[km]\b)"
_CODE = r"window exceeds limit \(\d+\)"
"""How MiniMax ends its words: with the code of the error."""
_PATTERNS = (  # compiled by the first refusal
    # "190000 + 20000 > 200000", "210000 tokens > 200000 maximum"
    rf">\s*{_NUMBER}",
    # "maximum context length is 4096 tokens", "context size (4096 tokens)", "window of 8,192", "n_ctx: 2048"
    rf"(?:context[ _-]?(?:length|size|window)|window|n_ctx|max_model_len|model'?s limit)[^\d]{{0,60}}?{_NUMBER}",
    # "4096 tokens maximum"
    rf"{_NUMBER}\s*(?:tokens?\s*)?(?:maximum|max\b|limit)",
    # "`max_new_tokens` must be <= 4096", "cannot exceed 4081", "less than 1024 tokens", "[1, 30720]"
    rf"(?:<=|cannot exceed|less than|\[\d+,)\s*{_NUMBER}",
    # "exceeds the maximum number of tokens allowed (1048576)", "maximum of 4096", "limit: 4096"
    rf"(?:maximum|max\b|limit|at most|allowed|最大|上限)[^\d]{{0,60}}?{_NUMBER}",
)


def named_window(message: str) -> int:
    """Return the window in tokens that the words of a refusal name; 0 where they name none.

    The words are those of OpenAI, vLLM, llama.cpp, Ollama, Anthropic and Gemini and others like them.
    """
    words = re.sub(_CODE, "", message[:4000], flags=re.IGNORECASE)
    for pattern in _PATTERNS:
        for match in re.finditer(pattern, words, re.IGNORECASE):
            number = int(re.sub(r"[,_]", "", match[1]))
            if number >= _LEAST:
                return number
    return 0
