"""The adapter over pydantic-ai, against endpoints that speak vendors' protocols: what it does when something fails."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from contextlib import aclosing

import pytest

from stepwell.config import ModelSettings
from stepwell.errors import ConfigError
from stepwell.models.base import Delta, Failure
from stepwell.models.providers import provider_model
from stepwell.models.retries import Retries, Timeouts
from stepwell.wiring.parts import make_model, model_profile
from tests.models.test_providers import HI, asks, model_at, told
from tests.support import anthropic, bedrock
from tests.support.asking import KEY, asked, collect, joined
from tests.support.endpoint import Cut, Endpoint, Piece, Reply, document, stream

BUSY = anthropic.refused(529, "overloaded_error", "Overloaded")


def failed(*replies: Reply, **options: object) -> Failure:
    """Return the failure of a reply that has nothing else and was not retried."""
    [delta], _ = asks(asked(), *replies, **options)
    assert delta.stop == "error"
    assert delta.failure is not None
    assert delta.failure.retry_in is None
    return delta.failure


# retries


def test_too_many_requests_are_made_again_after_the_time_that_the_vendor_asks_for() -> None:
    slow = anthropic.refused(429, "rate_limit_error", "Slow down.", {"retry-after": "0"})
    deltas, requests = asks(asked(), slow, HI)
    assert deltas[0] == Delta(failure=Failure("rate_limit", "Slow down.", 429, 0.0))
    assert joined(deltas) == "Hi"
    assert len(requests) == 2


def test_a_vendor_that_asks_to_wait_for_long_is_not_waited_for() -> None:
    failure = failed(anthropic.refused(429, "rate_limit_error", "Slow down.", {"retry-after": "3600"}))
    assert failure == Failure("rate_limit", "Slow down. It asks to wait 3600 s.", 429)


def test_an_overloaded_vendor_is_asked_as_often_as_set_and_no_more() -> None:
    deltas, requests = asks(asked(), BUSY, BUSY, BUSY)
    assert [delta.failure for delta in deltas] == [
        Failure("server", "Overloaded", 529, 0.0),
        Failure("server", "Overloaded", 529, 0.0),
        Failure("server", "Overloaded", 529),
    ]
    assert [delta.stop for delta in deltas] == [None, None, "error"]
    assert len(requests) == 3


def test_an_error_inside_a_stream_that_brought_nothing_is_retried() -> None:
    error = {"type": "overloaded_error", "message": "Overloaded"}
    deltas, _ = asks(asked(), stream(anthropic.opening(), anthropic.event("error", error=error)), HI)
    assert deltas[0] == Delta(failure=Failure("server", "Overloaded", 529, 0.0))
    assert joined(deltas) == "Hi"


@pytest.mark.parametrize("cut", [Cut.DROP, Cut.RESET])
def test_a_stream_that_breaks_before_it_brought_anything_is_retried(cut: Cut) -> None:
    deltas, _ = asks(asked(), stream(anthropic.opening(), cut), HI)
    assert deltas[0].failure is not None
    assert (deltas[0].failure.kind, deltas[0].failure.retry_in) == ("broken", 0.0)
    assert joined(deltas) == "Hi"


def test_a_stream_without_an_end_is_no_whole_reply() -> None:
    deltas, requests = asks(asked(), stream(anthropic.opening(), *anthropic.said(0, "It is")))
    assert joined(deltas) == "It is"
    assert deltas[-1].failure == Failure("broken", "The vendor's stream ended without a finish reason.")
    assert deltas[-1].stop == "error"
    assert len(requests) == 1


def test_used_up_credit_is_not_asked_for_again() -> None:
    failure = failed(anthropic.refused(400, "invalid_request_error", "Your credit balance is too low."))
    assert failure == Failure("request", "Your credit balance is too low.", 400)


# what a failure tells


def test_a_wrong_key_is_told_without_the_key() -> None:
    failure = failed(anthropic.refused(401, "authentication_error", f"invalid x-api-key {KEY}"))
    assert failure == Failure("auth", "invalid x-api-key *** Check the `api_key` of this model.", 401)


def test_a_request_over_the_window_is_told_as_such() -> None:
    failure = failed(anthropic.refused(400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000"))
    assert failure.kind == "overflow"


def test_a_web_page_in_place_of_an_error_is_told_by_its_title() -> None:
    page = document(b"<html><title>Bad gateway</title></html>", 502, {"content-type": "text/html"})
    deltas, _ = asks(asked(), page, HI)
    assert deltas[0].failure == Failure("server", "Bad gateway", 502, 0.0)


@pytest.mark.parametrize("vendor", ["anthropic", "google", "mistral"])
def test_a_refusal_without_a_word_is_known_by_its_status(vendor: str) -> None:
    failure = failed(Reply(status=503), vendor=vendor, retries=Retries(attempts=1))
    assert (failure.kind, failure.status) == ("server", 503)


def test_a_vendor_that_falls_silent_is_left() -> None:
    silent = stream(anthropic.opening(), *anthropic.said(0, "It is"), Cut.STALL)
    deltas, _ = asks(asked(), silent, timeouts=Timeouts(stall=0.3), retries=Retries())
    assert joined(deltas) == "It is"
    assert deltas[-1].failure == Failure("stall", "The vendor sent nothing for 0.3 s.")


def test_where_nobody_listens_the_address_is_what_to_check() -> None:
    async def main() -> list[Delta]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
            model = provider_model("anthropic", "m", api_key=KEY, base_url=url, retries=Retries(attempts=1))
            deltas = await collect(model)
            await model.close()
            return deltas

    [delta] = asyncio.run(main())
    assert delta.failure is not None
    assert delta.failure.kind == "connect"
    assert "`base_url`" in delta.failure.message


def test_gemini_says_when_to_come_again() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "3600s"}]
    error = {"code": 429, "message": "Resource exhausted.", "status": "RESOURCE_EXHAUSTED", "details": details}
    failure = failed(document({"error": error}, 429), vendor="google")
    assert failure == Failure("rate_limit", "Resource exhausted. It asks to wait 3600 s.", 429)


def test_the_client_of_bedrock_makes_no_retries_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in bedrock.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    busy = document({"message": "Too busy."}, 503, {"x-amzn-errortype": "ServiceUnavailableException"})
    deltas, requests = asks(asked(), busy, busy, busy, vendor="bedrock", api_key="")
    assert [delta.failure and (delta.failure.status, delta.failure.message) for delta in deltas] == [
        (503, "Too busy.")
    ] * 3
    assert len(requests) == 3
    assert "AKIATEST/" in requests[0].headers["authorization"]


# leaving


@pytest.mark.parametrize(
    ("vendor", "said"),
    [("anthropic", [anthropic.opening(), *anthropic.said(0, "a")]), ("google", [told({"text": "a"})])],
)
def test_leaving_a_reply_closes_the_connection(vendor: str, said: list[Piece]) -> None:
    async def main() -> None:
        endless = stream(*said, asyncio.Event())
        async with Endpoint([endless, endless]) as endpoint:
            model = model_at(endpoint, vendor)
            async with aclosing(model.stream(asked())) as reply:
                assert (await anext(reply)).text == "a"
            await endpoint.all_closed()
            task = asyncio.ensure_future(collect(model))
            await endpoint.request(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await endpoint.all_closed()
            await model.close()

    asyncio.run(main())


# settings


def configured(kind: str, **more: object) -> ModelSettings:
    return ModelSettings.model_validate({"kind": kind, **more})


def test_a_missing_key_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"models\.claude: anthropic wants a key; .*`api_key_env`"):
        make_model("claude", configured("anthropic"), "")


@pytest.mark.parametrize("vendor", ["anthropic", "google", "mistral"])
def test_a_key_with_the_end_of_a_line_is_sent_without_and_one_that_is_none_is_refused_unseen(vendor: str) -> None:
    async def main() -> None:
        async with Endpoint([Reply(status=401)]) as endpoint:
            model = model_at(endpoint, vendor=vendor, api_key=f" {KEY}\n")
            [delta] = await collect(model)
            await model.close()
            assert delta.failure is not None
            assert delta.failure.kind == "auth"
            [came] = endpoint.requests
            assert KEY in {value.removeprefix("Bearer ") for value in came.headers.values()}

    asyncio.run(main())
    for wrong in ("sk-two\nlines", "sk-\u5bc6", "sk-\x07bell"):
        with pytest.raises(ConfigError, match="characters that no key has") as caught:
            provider_model(vendor, "m", api_key=wrong)
        assert "sk-" not in str(caught.value)


def test_an_unknown_vendor_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"models\.m: there is no vendor 'acme'"):
        make_model("m", configured("provider", model="acme:large"), KEY)


def test_without_the_extra_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stepwell.models.providers", None)
    with pytest.raises(ConfigError, match=r'models\.claude: .* pip install "stepwell\[providers\]"'):
        make_model("claude", configured("anthropic"), KEY)


def test_without_the_client_of_a_vendor_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "groq", None)
    monkeypatch.delitem(sys.modules, "pydantic_ai.providers.groq", raising=False)
    with pytest.raises(ConfigError, match=r'pip install "pydantic-ai-slim\[groq\]"'):
        make_model("m", configured("provider", model="groq:llama"), KEY)


@pytest.mark.parametrize(
    ("kind", "model"), [("anthropic", "claude-opus-4-5"), ("provider", "anthropic:claude-opus-4-5")]
)
def test_both_ways_to_name_a_vendor_know_the_family(kind: str, model: str) -> None:
    profile = model_profile("m", configured(kind, model=model))
    assert (profile.window, profile.images) == (200_000, True)
    assert profile.prices is not None


@pytest.mark.parametrize(("kind", "model"), [("anthropic", "claude-x"), ("provider", "anthropic:claude-x")])
def test_both_ways_to_name_a_vendor_reach_it(kind: str, model: str) -> None:
    async def main() -> None:
        async with Endpoint([HI]) as endpoint:
            settings = configured(kind, model=model, base_url=endpoint.base_url.removesuffix("/v1"))
            adapter = make_model("m", settings, KEY)
            assert joined(await collect(adapter)) == "Hi"
            assert endpoint.requests[0].body["model"] == "claude-x"
            await adapter.close()

    asyncio.run(main())


def test_who_configures_no_vendor_does_not_pay_for_their_clients() -> None:
    program = (
        "import sys\n"
        "from stepwell.config import ModelSettings\n"
        "from stepwell.wiring.parts import make_model\n"
        "make_model('m', ModelSettings(base_url='http://127.0.0.1:1/v1'), '')\n"
        "assert not {'pydantic_ai', 'anthropic', 'httpx2', 'boto3'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)
