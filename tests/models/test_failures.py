"""What endpoints say went wrong: statuses, error bodies and when to come back."""

import json
from email.utils import formatdate
from typing import Any

import pytest

from stepwell.models.base import FailureKind
from stepwell.models.failures import MESSAGE_LIMIT, bounded, refusal, retry_after

KINDS: list[tuple[int, FailureKind]] = [
    (302, "request"),
    (400, "request"),
    (401, "auth"),
    (402, "request"),
    (403, "auth"),
    (404, "request"),
    (408, "server"),
    (409, "server"),
    (413, "request"),
    (422, "request"),
    (425, "server"),
    (429, "rate_limit"),
    (500, "server"),
    (501, "server"),
    (503, "server"),
    (522, "server"),
    (529, "server"),
]


@pytest.mark.parametrize(("status", "kind"), KINDS)
def test_a_status_tells_the_kind_of_failure(status: int, kind: FailureKind) -> None:
    failure = refusal(status, b'{"error":{"message":"The words of the endpoint."}}')
    assert (failure.kind, failure.status) == (kind, status)
    assert failure.message.startswith("The words of the endpoint.")


OVERFLOWS = [
    {"message": "x", "code": "context_length_exceeded"},
    {"message": "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."},
    {"message": "prompt is too long: 210000 tokens > 200000 maximum"},
    {
        "message": "the request exceeds the available context size, try increasing it",
        "type": "exceed_context_size_error",
    },
    {"message": "The input token count (1100000) exceeds the maximum number of tokens allowed (1048576)."},
    {"message": "Range of input length should be [1, 30720]"},
    {"message": "Invalid request: Your request exceeded model token limit: 8192"},
    {"message": "Please reduce the length of the messages or completion."},
    {"message": "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000"},
    {"message": "This model's maximum prompt length is 131072 but the request contains 537812 tokens."},
    {"message": "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and 500"},
    {"message": "`inputs` must have less than 1024 tokens. Given: 2048"},
    {"message": "prompt token count of 135000 exceeds the limit of 128000"},
    {"message": "Prompt 超长"},
    {"message": "输入超过模型最大长度"},
]


@pytest.mark.parametrize("error", OVERFLOWS)
def test_a_request_over_the_window_is_known_by_the_vendors_words(error: dict[str, Any]) -> None:
    body = json.dumps({"error": error}).encode()
    assert refusal(400, body).kind == "overflow"
    assert refusal(500, body).kind == "overflow"
    assert refusal(429, body).kind == "rate_limit"


def test_what_stands_behind_openrouters_words_tells_the_kind() -> None:
    raw = json.dumps({"error": {"message": "This model's maximum context length is 8192 tokens."}})
    error = {"message": "Provider returned error", "code": 400, "metadata": {"raw": raw}}
    assert refusal(400, json.dumps({"error": error}).encode()).kind == "overflow"


@pytest.mark.parametrize("status", [413, 429])
def test_one_request_over_the_tokens_of_a_minute_is_not_waited_for(status: int) -> None:
    words = "Request too large for gpt-4 on tokens per min (TPM): Limit 10000, Requested 12000."
    assert refusal(status, json.dumps({"error": {"message": words}}).encode()).kind == "overflow"


@pytest.mark.parametrize("body", [b"404 page not found", b'{"detail":"Not Found"}'])
def test_an_address_where_nothing_is_names_the_remedy(body: bytes) -> None:
    assert refusal(404, body).message.endswith("Check `base_url`: most end with /v1.")
    assert "base_url" not in refusal(404, b'{"error":"model \'x\' not found"}').message


@pytest.mark.parametrize("words", ["今日调用次数超过限制", "Requests per day exceed the limit of 1000"])
def test_another_limit_than_that_of_the_window_is_no_overflow(words: str) -> None:
    assert refusal(400, json.dumps({"error": {"message": words}}).encode()).kind == "request"


BODIES = [
    (b'{"error": "text"}', "text"),
    (b'{"detail": "Not Found"}', "Not Found"),
    (b'{"detail": [{"msg": "field required", "loc": ["body"]}]}', '[{"msg": "field required", "loc": ["body"]}]'),
    (b'{"message": "top"}', "top"),
    (b'{"error_msg": "Baidu"}', "Baidu"),
    (b'[{"error": {"message": "listed"}}]', "listed"),
    (b'{"error": {"code": 7}}', '{"code": 7}'),
    (
        b'{"error":{"message":"Provider said","metadata":{"raw":"{\\"error\\":{\\"message\\":\\"No credit\\"}}"}}}',
        "Provider said: No credit",
    ),
    (
        b'{"error": {"message": "Provider returned error", "metadata": {"raw": "slow down"}}}',
        "Provider returned error: slow down",
    ),
    (b'{"error": {"message": "E", "metadata": {"raw": {"error": "nested"}}}}', "E: nested"),
    (b'{"error": {"message": "E", "metadata": [1]}}', "E"),
    (b"plain \n words", "plain words"),
    (b"<html><head><title>502 Bad\nGateway</title></head><body>x</body></html>", "502 Bad Gateway"),
    (b"", "The endpoint answered with status 500 and gave no reason."),
    (b"{}", "{}"),
    (b"\xff\x00", "\ufffd\ufffd"),
    (b'{"error": {"message": "a\\ud800\\u0000b"}}', "a\ufffd\ufffdb"),
    (b'{"error": {"message": "cut off', '{"error": {"message": "cut off'),
    (b"[" * 100_000, "[" * (MESSAGE_LIMIT - 1) + "…"),
]


@pytest.mark.parametrize(("body", "message"), BODIES)
def test_the_reason_is_found_wherever_an_endpoint_puts_it(body: bytes, message: str) -> None:
    failure = refusal(500, body)
    assert (failure.kind, bounded(failure.message), failure.status) == ("server", message, 500)


def test_a_long_reason_is_cut() -> None:
    assert len(bounded("x" * 10_000)) == MESSAGE_LIMIT
    assert bounded("x" * MESSAGE_LIMIT) == "x" * MESSAGE_LIMIT


def test_a_refused_key_names_the_remedy() -> None:
    assert refusal(401, b'{"error": "Wrong key."}').message == "Wrong key. Check the `api_key` of this model."


NOW = 1_700_000_000.0
WAITS = [
    ({}, None),
    ({"retry-after": "7"}, 7.0),
    ({"retry-after": "1.5"}, 1.5),
    ({"retry-after": "0"}, 0.0),
    ({"retry-after": "-3"}, 0.0),
    ({"retry-after": "soon"}, None),
    ({"retry-after": "Fri, 99999999999999999999 Dec 2020 00:00:00 GMT"}, None),
    ({"retry-after": "1 Jan 1 1:1:1 +999999999999999999999"}, None),
    ({"retry-after": "nan"}, None),
    ({"retry-after": "inf"}, None),
    ({"retry-after": ""}, None),
    ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30.0),
    ({"retry-after": formatdate(NOW - 30, usegmt=True)}, 0.0),
    ({"retry-after": "Tue, 14 Nov 2023 22:13:50 -0000"}, 30.0),
    ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
    ({"retry-after-ms": "x", "retry-after": "1"}, 1.0),
]


@pytest.mark.parametrize(("headers", "seconds"), WAITS)
def test_when_to_come_back_is_read_as_seconds_or_as_a_date(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds
