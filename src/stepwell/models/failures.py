"""What an endpoint says went wrong, as a `Failure`: error bodies, statuses and `Retry-After`.

It only reads. Whether and when a request is made again is decided in `retries.py`, which also takes secrets out
of messages before it cuts them to `MESSAGE_LIMIT`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, cast

import msgspec

from stepwell.models.base import Failure, FailureKind
from stepwell.models.wire import clean_all

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
"""Statuses after which the same request may work: RFC 9110, RFC 8470, RFC 6585, 52x of Cloudflare where it does not
reach a server behind it, and 529 of overloaded vendors."""

MESSAGE_LIMIT = 500
"""The most characters of a failure's message."""

_OVERFLOW = (  # compiled by the first refusal
    r"context[_ ](length|size|window|limit)|maximum context|max_model_len|prompt is too long|input is too long|"
    r"too many (input )?tokens|exceeds the max\w* number of tokens|token limit|input length should be|"
    r"reduce the length|max\w* (prompt|input|model) length|token count of \d+ exceeds|"
    r"`max_new_tokens` must be <=|`inputs` must have less than|"
    r"超长|上下文长度|超过.{0,12}长度|(token数|长度|字数).{0,12}超过.{0,12}限制"
)
"""How endpoints say that a request is over the window: OpenAI, vLLM, llama.cpp, DeepSeek, Anthropic, Gemini,
Mistral, Moonshot, DashScope, Zhipu, xAI, GitHub's, Hugging Face's text-generation-inference."""

_TOO_LARGE = "request too large for"
"""How OpenAI and Groq say that one request has more tokens than they take in a minute: no waiting helps."""

_STATUS_WORDS = (
    ("rate_limit", 429),
    ("overloaded", 529),
    ("unavailable", 503),
    ("timeout", 504),
    ("api_key", 401),
    ("authentication", 401),
    ("permission", 403),
    ("invalid", 400),
    ("badrequest", 400),
    ("server", 500),
    ("internal", 500),
)
"""What the type or code of an error inside a reply stands for, by a part of it."""


class _Problem(msgspec.Struct, frozen=True):
    message: str
    code: str


def refusal(status: int, body: bytes) -> Failure:
    """Return the failure that a response with an error status stands for.

    Args:
        status: The HTTP status, 300 or more.
        body: The response body, or its start.
    """
    problem = _problem(body) or _Problem(_plain(body), "")
    message = problem.message.strip() or f"The endpoint answered with status {status} and gave no reason."
    kind = _kind(status, f"{problem.code} {message}")
    remedy = " Check the `api_key` of this model." if kind == "auth" else ""
    if status in (404, 405) and "model" not in message.lower():
        remedy = " Check `base_url`: most end with /v1."
    return Failure(kind, message + remedy, status)


def problem_inside(body: bytes) -> Failure | None:
    """Return the failure that a JSON text inside a successful response stands for, or None if it tells of none.

    Its status is the one in the text, else the one that its words stand for, else 0.
    """
    problem = _problem(body)
    if problem is None:
        return None
    status = _status(problem.code.lower())
    return Failure(_kind(status, f"{problem.code} {problem.message}"), problem.message, status)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that the endpoint asks to wait, or None if it does not say.

    Args:
        headers: Of the response; looked up without regard to case by its mapping.
        now: Seconds since 1970, for a `Retry-After` that is a date (RFC 9110, 10.2.3).
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "")
    seconds = _number(value)
    if seconds is not None or not value:
        return seconds
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)


def bounded(message: str) -> str:
    """Return the message with its spaces collapsed and cut to `MESSAGE_LIMIT`."""
    message = " ".join(message.split())
    return message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 1] + "…"


def _kind(status: int, words: str) -> FailureKind:
    if status in (401, 403):
        return "auth"
    if _TOO_LARGE in words.lower():
        return "overflow"
    if status == 429:
        return "rate_limit"
    if re.search(_OVERFLOW, words, re.IGNORECASE):
        return "overflow"
    return "request" if 300 <= status < 500 and status not in RETRIED else "server"


def _status(code: str) -> int:
    if code.isascii() and code.isdigit() and len(code) == 3:
        return int(code)
    return next((status for word, status in _STATUS_WORDS if word in code), 0)


def _problem(body: bytes) -> _Problem | None:
    """Find the error in a JSON text: vendors put it under `error`, or at the top, as a text or an object."""
    try:
        value = clean_all(json.loads(body.decode("utf-8", "replace"), strict=False))
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list) and value:
        value = cast("list[Any]", value)[0]
    if not isinstance(value, dict):
        return None
    top = cast("dict[str, Any]", value)
    error = top.get("error") or top
    if isinstance(error, str):
        return _Problem(error, str(top.get("code", "")))
    if not isinstance(error, dict):
        return None
    fields = cast("dict[str, Any]", error)
    names = ("message", "msg", "detail", "error_msg", "error_message")
    message = next((fields[name] for name in names if fields.get(name)), None)
    if message is None and error is top:
        return None
    text = message if isinstance(message, str) else json.dumps(message or fields, ensure_ascii=False)
    if cause := _behind(fields.get("metadata")):
        text = f"{text}: {cause}"
    code = fields.get("code") or fields.get("status") or ""
    return _Problem(text, str(code) if _status(str(code)) else f"{code} {fields.get('type') or ''}")


def _behind(metadata: object) -> str:
    """Return what the vendor behind OpenRouter said, whose own message says only that there was an error."""
    raw = cast("dict[str, Any]", metadata).get("raw") if isinstance(metadata, dict) else None
    if not raw:
        return ""
    text = raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False)
    problem = _problem(text.encode())
    return problem.message if problem else text


def _plain(body: bytes) -> str:
    """Return an error body that is no JSON as text; of a web page, its title."""
    text = body.decode("utf-8", "replace").replace("\0", "\ufffd")
    title = re.search(r"<title[^>]*>(.*?)</title", text, re.IGNORECASE | re.DOTALL)
    return title[1] if title else text


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return max(0.0, number) if math.isfinite(number) else None
