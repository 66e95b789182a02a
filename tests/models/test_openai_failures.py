"""The adapter for OpenAI-compatible endpoints, against a scripted one: what it does when something fails."""

import asyncio
import json
import re
import socket
from email.utils import formatdate
from typing import Any

import pytest

from stepwell.models.base import Delta, Failure, FailureKind, ModelProfile, ModelRequest, Settings
from stepwell.models.failures import MESSAGE_LIMIT, RETRIED
from stepwell.models.openai import OpenAIModel
from stepwell.models.retries import Retries, Timeouts
from tests.support.asking import KEY, asked, asks, collect, joined, model_at
from tests.support.endpoint import (
    DONE,
    Cut,
    Endpoint,
    Reply,
    Request,
    call_chunk,
    chunk,
    document,
    ending,
    error,
    stream,
    text,
)

STALL = Timeouts(stall=0.3)


def failures(deltas: list[Delta]) -> list[Failure]:
    return [delta.failure for delta in deltas if delta.failure]


def only(deltas: list[Delta]) -> Failure:
    """Return the failure of a reply that has nothing else and was not retried."""
    [delta] = deltas
    assert delta.stop == "error"
    assert delta.failure is not None
    assert delta.failure.retry_in is None
    return delta.failure


# retries


@pytest.mark.parametrize("status", sorted(RETRIED))
def test_a_passing_trouble_is_announced_and_retried(status: int) -> None:
    deltas, requests = asks(error(status, "Try later."), error(status, "Try later."), text("Hi"))
    kind: FailureKind = "rate_limit" if status == 429 else "server"
    announced = Delta(failure=Failure(kind, "Try later.", status, 0.0))
    assert deltas[:2] == [announced, announced]
    assert (joined(deltas[2:]), deltas[-1].stop, deltas[-1].failure) == ("Hi", "stop", None)
    assert len({request.raw for request in requests}) == 1


def test_when_no_attempt_is_left_the_last_failure_stands() -> None:
    deltas, requests = asks(*[error(500, f"No {number}.") for number in range(3)])
    assert [delta.failure.retry_in for delta in deltas if delta.failure] == [0.0, 0.0, None]
    assert deltas[-1] == Delta(failure=Failure("server", "No 2.", 500), stop="error")
    assert len(requests) == 3


def test_waits_are_random_below_a_doubling_bound() -> None:
    async def main() -> None:
        async with Endpoint(lambda request: error(500, "No.")) as endpoint:
            model = model_at(endpoint, retries=Retries(attempts=5, base=0.001, cap=0.003))
            runs = [[failure.retry_in for failure in failures(await collect(model))] for _ in range(40)]
            for waits, bound in zip(zip(*runs, strict=True), (0.001, 0.002, 0.003, 0.003), strict=False):
                assert 0 <= min(waits) < bound / 4 < bound * 3 / 4 < max(waits) <= bound
            assert [waits[-1] for waits in runs] == [None] * 40
            await model.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("header", "value", "least", "most"),
    [("Retry-After", "0.05", 0.05, 0.06), ("retry-after", "0", 0.0, 0.01), ("retry-after-ms", "20", 0.02, 0.03)],
)
def test_a_wait_that_the_endpoint_asks_for_is_kept_with_a_little_more(
    header: str, value: str, least: float, most: float
) -> None:
    deltas, _ = asks(error(429, "Slow.", headers={header: value}), text("Hi"), retries=Retries(base=0.01))
    wait = failures(deltas)[0].retry_in
    assert wait is not None
    assert least <= wait <= most
    assert joined(deltas) == "Hi"


def test_a_date_to_come_back_at_is_understood() -> None:
    past = error(503, "Down.", headers={"Retry-After": formatdate(0, usegmt=True)})
    deltas, _ = asks(past, text("Hi"))
    assert failures(deltas) == [Failure("server", "Down.", 503, 0.0)]


def test_a_wait_that_is_too_long_ends_the_call_at_once() -> None:
    deltas, _ = asks(error(429, "Slow down.", headers={"Retry-After": "3600"}))
    assert only(deltas) == Failure("rate_limit", "Slow down. It asks to wait 3600 s.", 429)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 413, 422, 501])
def test_a_refusal_is_not_retried(status: int) -> None:
    deltas, requests = asks(error(status, "No."))
    assert only(deltas).status == status
    assert len(requests) == 1


def test_cancelling_during_a_wait_ends_the_call() -> None:
    async def main() -> None:
        async with Endpoint([error(500, "No.")]) as endpoint:
            model = model_at(endpoint, retries=Retries(base=1000, cap=1000))
            deltas = model.stream(asked())
            assert (await anext(deltas)).failure is not None
            waiting = asyncio.ensure_future(anext(deltas))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await model.close()

    asyncio.run(main())


# what the endpoint says


def test_a_request_over_the_window_is_an_overflow() -> None:
    words = "This model's maximum context length is 8192 tokens."
    deltas, _ = asks(error(400, words, code="context_length_exceeded", type="invalid_request_error"))
    assert only(deltas) == Failure("overflow", words, 400)


def test_a_refused_key_is_never_shown() -> None:
    own = {"api-key": "other-secret-9876", "authorization": "Bearer third-secret", "x-short": "key"}
    deltas, _ = asks(error(401, f"Wrong key {KEY}, other-secret-9876 or third-secret."), headers=own)
    assert only(deltas) == Failure("auth", "Wrong key ***, *** or ***. Check the `api_key` of this model.", 401)


def test_the_body_of_an_error_that_does_not_end_is_not_waited_for() -> None:
    endless = Reply([b'{"error": "cut o', Cut.STALL], 400)
    deltas, _ = asks(endless, timeouts=Timeouts(finish=0.05))
    assert only(deltas) == Failure("request", '{"error": "cut o', 400)


def test_a_key_is_hidden_also_where_the_message_is_cut() -> None:
    deltas, _ = asks(error(400, "x" * (MESSAGE_LIMIT - 5) + KEY + "y" * 1000))
    message = only(deltas).message
    assert len(message) <= MESSAGE_LIMIT
    assert KEY[:4] not in message


def test_a_long_message_is_cut() -> None:
    deltas, _ = asks(error(400, "no " * 100_000))
    assert len(only(deltas).message) <= MESSAGE_LIMIT


def test_an_error_in_a_successful_response_is_a_failure_with_its_words() -> None:
    value = {"error": {"message": "The model is asleep.", "type": "server_error", "code": None}}
    for reply in (document(value), stream(value, DONE), stream(chunk(role="assistant"), value)):
        deltas, requests = asks(reply, retries=Retries(attempts=1))
        assert only(deltas) == Failure("server", "The model is asleep.", 500)
        assert len(requests) == 1


def test_an_error_in_a_successful_response_is_retried_when_it_may_pass() -> None:
    deltas, _ = asks(document({"error": {"message": "Slow down.", "code": 429}}), text("Hi"))
    assert failures(deltas) == [Failure("rate_limit", "Slow down.", 429, 0.0)]
    assert joined(deltas) == "Hi"
    deltas, _ = asks(document({"error": "unclear"}))
    assert only(deltas) == Failure("server", "unclear")


def test_a_web_page_is_named_as_one() -> None:
    page = Reply([b"<html><body>Welcome</body></html>"], headers={"content-type": "text/html"}, framing="length")
    deltas, _ = asks(page)
    failure = only(deltas)
    assert (failure.kind, "is a web page" in failure.message, "base_url" in failure.message) == ("request", True, True)
    deltas, _ = asks(Reply(text("Hi").pieces, headers={"content-type": "text/html"}))
    assert (joined(deltas), deltas[-1].stop) == ("Hi", "stop")


def test_a_redirect_is_not_followed_and_takes_the_key_nowhere() -> None:
    async def main() -> None:
        async with Endpoint([]) as other:
            there = {"Location": f"{other.base_url}/chat/completions"}
            async with Endpoint([document(b"", 307, there)]) as endpoint:
                model = model_at(endpoint)
                failure = only(await collect(model))
                assert (failure.kind, failure.status) == ("request", 307)
                assert there["Location"] in failure.message
                await model.close()
            assert other.connections == 0

    asyncio.run(main())


@pytest.mark.parametrize("location", ["https://u:p4ssw0rd@other.example/v2?key=SECRET-0123", "/v2?key=SECRET-0123"])
def test_where_a_redirect_leads_is_told_without_what_is_secret_in_it(location: str) -> None:
    deltas, _ = asks(document(b"", 308, {"Location": location}))
    message = only(deltas).message
    assert "/v2: set `base_url`" in message
    assert not {"SECRET", "p4ssw0rd"} & set(re.split(r"\W", message.replace("-", " ")))


def test_a_status_that_only_looks_like_a_redirect_is_told_as_it_is() -> None:
    assert "status 304" in only(asks(Reply(status=304, framing="length"))[0]).message


def test_secrets_of_the_address_are_never_shown() -> None:
    async def main() -> None:
        said = "no such key: q-SECRET/123 q-SECRET%2F123 p@ssw0rd! 2024-10-21"
        async with Endpoint([error(401, said)]) as endpoint:
            base = endpoint.base_url.replace("http://", "http://user:p%40ssw0rd!@")
            model = OpenAIModel(f"{base}?api-version=2024-10-21&api_key=q-SECRET/123", "m")
            assert only(await collect(model)).message.startswith("no such key: *** *** *** 2024-10-21")
            await model.close()

    asyncio.run(main())


def test_a_wait_that_is_no_time_is_no_fault_of_ours() -> None:
    strange = {"Retry-After": "Fri, 99999999999999999999 Dec 2020 00:00:00 GMT"}
    deltas, requests = asks(error(429, "slow down", headers=strange), text("Hi"))
    assert [failure.kind for failure in failures(deltas)] == ["rate_limit"]
    assert (joined(deltas), len(requests)) == ("Hi", 2)


# fields that an endpoint does not take

REFUSALS: dict[str, tuple[int, Any]] = {
    "stream_options": (422, {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]}),
    "max_tokens": (
        400,
        {"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}},
    ),
    "temperature": (400, {"error": {"message": "Unsupported value: 'temperature' does not support 0.2."}}),
    "stop": (400, {"error": {"message": "Unsupported parameter: 'stop' is not supported with this model."}}),
}
ALL = Settings(temperature=0.2, max_tokens=50, stop=("x",))


def strict(request: Request) -> Reply:
    """Refuse what some endpoints refuse."""
    for name, (status, body) in REFUSALS.items():
        if name in request.body:
            return document(body, status)
    return text("Hi")


def test_a_field_that_an_endpoint_does_not_take_is_left_out_from_then_on() -> None:
    async def main() -> None:
        async with Endpoint(strict) as endpoint:
            model = model_at(endpoint, retries=Retries(attempts=1))
            deltas = await collect(model, asked(settings=ALL))
            assert [(each.kind, each.retry_in) for each in failures(deltas)] == [("request", 0.0)] * 4
            assert joined(deltas) == "Hi"
            again = await collect(model, asked(settings=ALL))
            assert (joined(again), failures(again), len(endpoint.requests)) == ("Hi", [], 6)
            sent = endpoint.requests[-1].body
            assert sent.keys() == {"model", "messages", "stream", "max_completion_tokens"}
            assert sent["max_completion_tokens"] == 50
            # Another name may stand for another model.
            await collect(model, ModelRequest(asked().messages, settings=ALL, model="other"))
            assert "stream_options" in endpoint.requests[6].body
            await model.close()

    asyncio.run(main())


def test_a_refusal_that_repeats_the_request_teaches_nothing() -> None:
    def validating(request: Request) -> Reply:
        if "top_k" in request.body:
            return document({"detail": [{"msg": "Extra inputs are not permitted", "input": request.body}]}, 422)
        return text("Hi")

    async def main() -> None:
        async with Endpoint(validating) as endpoint:
            model = model_at(endpoint)
            wrong = Settings(temperature=0.2, max_tokens=50, extra={"top_k": 0})
            last = (await collect(model, asked(settings=wrong)))[-1]
            assert last.failure is not None
            assert last.stop == "error"
            assert len(endpoint.requests) <= 4
            assert joined(await collect(model, asked(settings=ALL))) == "Hi"
            assert {"stream_options", "temperature", "max_tokens", "stop"} <= endpoint.requests[-1].body.keys()
            await model.close()

    asyncio.run(main())


def test_requests_side_by_side_that_are_refused_for_one_field_are_all_made_again() -> None:
    async def main() -> None:
        async def together(request: Request) -> Reply:
            await endpoint.request(1)
            return strict(request)

        endpoint = Endpoint(together)
        async with endpoint:
            model = model_at(endpoint, retries=Retries(attempts=1))
            both = await asyncio.gather(*(collect(model, asked(settings=ALL)) for _ in range(2)))
            assert [joined(deltas) for deltas in both] == ["Hi", "Hi"]
            assert all(len(failures(deltas)) <= 4 for deltas in both)
            await model.close()

    asyncio.run(main())


def test_a_field_that_somebody_asked_for_is_not_left_out() -> None:
    async def main() -> None:
        async with Endpoint(strict) as endpoint:
            model = model_at(endpoint, profile=ModelProfile(usage_in_stream=False))
            deltas = await collect(model, asked(settings=Settings(extra={"temperature": 0.2})))
            assert only(deltas).kind == "request"
            assert len(endpoint.requests) == 1
            await model.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "words",
    [
        "'temperature' must be between 0 and 1",
        "max_tokens is too large: 50",
        "'max_tokens' and 'max_completion_tokens' are not supported",
        "Unsupported parameter: 'tools'",
    ],
)
def test_other_refusals_end_the_call(words: str) -> None:
    async def main() -> None:
        async with Endpoint(lambda _: error(400, words)) as endpoint:
            model = model_at(endpoint)
            last = (await collect(model, asked(settings=ALL)))[-1]
            assert last.failure is not None
            assert (last.failure.kind, last.failure.retry_in) == ("request", None)
            assert len(endpoint.requests) <= 2
            assert all({"max_tokens", "max_completion_tokens"} & request.body.keys() for request in endpoint.requests)
            await model.close()

    asyncio.run(main())


# broken streams

BROKEN = [
    ("nothing at all", Reply(framing="close"), "The endpoint sent an empty reply."),
    ("an empty body", document(b""), "The endpoint sent an empty reply."),
    ("no finish reason", stream(chunk(role="assistant"), DONE), "The endpoint's stream ended without a finish reason."),
    ("half a line", Reply([b'data: {"choi'], framing="close"), "The endpoint's stream was cut inside a line."),
    ("a drop", stream(chunk(role="assistant"), Cut.DROP), "The connection to the endpoint broke: "),
    ("a reset", stream(chunk(role="assistant"), Cut.RESET), "The connection to the endpoint broke: "),
    ("a short body", document(b'{"a":'), "The endpoint sent data that is no JSON object: "),
]


@pytest.mark.parametrize(("reply", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_reply_that_breaks_before_any_content_is_retried(reply: Reply, message: str) -> None:
    deltas, _ = asks(reply, text("Hi"))
    [failure] = failures(deltas)
    assert (failure.kind, failure.retry_in) == ("broken", 0.0)
    assert failure.message.startswith(message)
    assert joined(deltas) == "Hi"
    deltas, _ = asks(reply, retries=Retries(attempts=1))
    assert only(deltas).kind == "broken"


def test_a_connection_closed_before_the_head_is_retried() -> None:
    async def main() -> None:
        heads: list[bytes] = []

        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        model = OpenAIModel(f"http://{host}:{port}/v1", "m", retries=Retries(attempts=2, base=0))
        deltas = await collect(model)
        assert [failure.kind for failure in failures(deltas)] == ["broken", "broken"]
        assert len(heads) == 2
        await model.close()
        server.close()

    asyncio.run(main())


FIRSTS = [chunk(content="Hel"), chunk(reasoning_content="Hm"), call_chunk(0, "c1", "f", "")]
RESTS = [
    [Cut.DROP],
    [Cut.RESET],
    [b'data: {"choi', Cut.DROP],
    [b"data: what?\n\n"],
    [DONE],
    [{"error": {"message": "Boom", "code": 500}}],
]


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("first", FIRSTS)
@pytest.mark.parametrize("together", [True, False])
def test_a_reply_that_breaks_after_its_first_content_is_not_retried(
    rest: list[Any], first: dict[str, Any], together: bool
) -> None:
    pieces = [first, *rest]
    deltas, requests = asks(stream(*pieces, together=together and not isinstance(rest[-1], Cut)))
    assert len(requests) == 1
    assert [delta.stop for delta in deltas if delta.stop] == ["error"]
    assert [failure.retry_in for failure in failures(deltas)] == [None]
    assert any(delta.text or delta.thinking or delta.calls for delta in deltas)


def test_bytes_that_are_no_http_are_a_broken_reply() -> None:
    async def main() -> None:
        async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"\x16\x03\x01 what is this?\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(babble, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        model = OpenAIModel(f"http://{host}:{port}/v1", "m", retries=Retries(attempts=1))
        assert only(await collect(model)).kind == "broken"
        await model.close()
        server.close()

    asyncio.run(main())


# silence


@pytest.mark.parametrize(
    "pieces", [[Cut.STALL], [b": working on it\n\n", Cut.STALL], [chunk(role="assistant"), Cut.STALL]]
)
def test_silence_before_any_content_is_a_stall_and_retried(pieces: list[Any]) -> None:
    deltas, _ = asks(stream(*pieces), text("Hi"), timeouts=STALL)
    assert failures(deltas) == [Failure("stall", "The endpoint sent nothing for 0.3 s.", 0, 0.0)]
    assert joined(deltas) == "Hi"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_silence_in_the_middle_is_a_stall_and_closes_the_socket(count: int) -> None:
    async def main() -> None:
        gates = [asyncio.Event() for _ in range(count)]
        pieces = [piece for gate in gates for piece in (chunk(content="x"), gate)]
        async with Endpoint([stream(*pieces, Cut.STALL)]) as endpoint:
            model = model_at(endpoint, timeouts=STALL)
            deltas: list[Delta] = []
            async for delta in model.stream(asked()):
                deltas.append(delta)
                if delta.text:
                    gates[len(deltas) - 1].set()
            assert joined(deltas) == "x" * count
            assert deltas[-1] == Delta(failure=Failure("stall", "The endpoint sent nothing for 0.3 s."), stop="error")
            await endpoint.requests[0].dropped.wait()
            await model.close()

    asyncio.run(main())


def test_silence_before_the_head_is_a_stall() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def never(request: object) -> Reply:
            await gate.wait()
            return text("too late")

        async with Endpoint(never) as endpoint:
            model = model_at(endpoint, timeouts=STALL, retries=Retries(attempts=1))
            assert only(await collect(model)).kind == "stall"
            gate.set()
            await model.close()

    asyncio.run(main())


def test_a_slow_reader_is_no_stall() -> None:
    async def main() -> None:
        more = asyncio.Event()
        slow = stream(chunk(content="a"), chunk(content="b"), more, chunk(content="c"), *ending())
        async with Endpoint([slow]) as endpoint, Endpoint([stream(Cut.STALL)]) as clock:
            model = model_at(endpoint, timeouts=STALL)
            coming = model.stream(asked())
            deltas = [await anext(coming)]
            while joined(deltas) != "ab":
                deltas.append(await anext(coming))
            # A stall elsewhere, from its start to its end, takes longer than the time-out.
            beside = model_at(clock, timeouts=STALL, retries=Retries(attempts=1))
            assert only(await collect(beside)).kind == "stall"
            more.set()
            deltas += [delta async for delta in coming]
            assert (joined(deltas), deltas[-1].stop) == ("abc", "stop")
            await beside.close()
            await model.close()

    asyncio.run(main())


def test_a_stream_that_keeps_sending_comments_is_no_stall() -> None:
    async def main() -> None:
        beat = Timeouts(stall=0.75)
        async with Endpoint([stream(Cut.STALL)] * 3) as clock:
            gates = [asyncio.Event() for _ in range(3)]
            parts = [part for gate in gates for part in (b": still thinking\n\n", gate)]
            async with Endpoint([stream(*parts, chunk(content="Hi"), *ending())]) as endpoint:
                model = model_at(endpoint, timeouts=beat)
                asking = asyncio.create_task(collect(model))
                beside = model_at(clock, timeouts=Timeouts(stall=0.3), retries=Retries(attempts=1))
                for gate in gates:
                    assert only(await collect(beside)).kind == "stall"
                    gate.set()
                assert joined(await asking) == "Hi"
                await beside.close()
                await model.close()

    asyncio.run(main())


# no connection


def test_an_endpoint_that_is_not_there_is_named_with_the_remedy() -> None:
    async def main() -> None:
        async with Endpoint([]) as gone:
            address = gone.base_url
        model = OpenAIModel(address.replace("://", "://user:pass@") + "?key=hush", "m", retries=Retries(2, 0))
        deltas = await collect(model)
        assert [failure.retry_in for failure in failures(deltas)] == [0.0, None]
        message = failures(deltas)[-1].message
        assert failures(deltas)[-1].kind == "connect"
        assert message.startswith(f"No connection to {address}/chat/completions: ")
        assert message.endswith("Check that the endpoint runs and that `base_url` is right.")
        assert not [secret for secret in ("pass", "hush") if secret in message]
        await model.close()

    asyncio.run(main())


def test_an_endpoint_that_does_not_accept_is_given_up_after_the_connect_time_out() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        # A full queue of connections that nobody accepts: the next one gets no answer.
        with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
            waiting = [socket.socket() for _ in range(4)]
            for each in waiting:
                each.setblocking(False)
                each.connect_ex(server.getsockname())
            port = server.getsockname()[1]
            options = {"timeouts": Timeouts(connect=0.1), "retries": Retries(attempts=1)}
            model = OpenAIModel(f"http://127.0.0.1:{port}/v1", "m", **options)
            started = loop.time()
            failure = only(await collect(model))
            assert (failure.kind, "none within 0.1 s" in failure.message) == ("connect", True)
            assert loop.time() - started < 5
            await model.close()
            for each in waiting:
                each.close()

    asyncio.run(main())


def test_a_handshake_that_is_reset_is_no_connection() -> None:
    async def main() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.transport.abort()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        model = OpenAIModel(f"https://127.0.0.1:{port}/v1", "m", retries=Retries(attempts=2, base=0))
        assert [failure.kind for failure in failures(await collect(model))] == ["connect", "connect"]
        await model.close()
        server.close()

    asyncio.run(main())


# faults of our own


def test_what_cannot_be_sent_is_an_internal_failure_and_no_exception() -> None:
    deltas, requests = asks(settings=Settings(extra={"callback": print}))
    failure = only(deltas)
    assert failure.kind == "internal"
    assert "builtin_function_or_method" in failure.message
    assert requests == []


def test_a_request_that_is_none_is_an_internal_failure_too() -> None:
    async def main() -> None:
        async with Endpoint([]) as endpoint:
            model = model_at(endpoint)
            wrong = ModelRequest(None)  # pyright: ignore[reportArgumentType]
            assert only(await collect(model, wrong)).kind == "internal"
            await model.close()

    asyncio.run(main())


def test_a_key_that_fits_in_no_header_is_a_failure_that_does_not_show_it() -> None:
    deltas, _ = asks(api_key="sk-one\r\ntwo")
    failure = only(deltas)
    assert failure.kind == "internal"
    assert "sk-one" not in json.dumps(failure.message)
