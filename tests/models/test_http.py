"""POST requests over aiohttp's connections: what goes out, what comes back, and what becomes of the connection."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import ipaddress
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from yarl import URL

from stepwell.models.http import Client, Response
from stepwell.models.openai import OpenAIModel
from stepwell.models.retries import Retries, Timeouts
from tests.support.asking import asked, collect, joined, model_at
from tests.support.endpoint import WAIT, Endpoint, chunk, ending, stream

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nHi"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncGenerator[URL]:
    """Serve each connection by a function; it is closed when that returns."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client left
        finally:
            writer.close()

    async with asyncio.timeout(WAIT), await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls) as server:
        yield URL(f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/x")
    await asyncio.gather(*tasks)


def client(url: URL, silence: float = WAIT, **headers: str) -> Client:
    return Client(url, headers, WAIT, silence)


async def whole(response: Response) -> bytes:
    parts: list[bytes] = []
    try:
        while data := await response.read():
            parts.append(data)
    finally:
        response.close()
    return b"".join(parts)


async def request(reader: asyncio.StreamReader) -> tuple[list[str], bytes]:
    """Return the lines of a request's head and its body."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    size = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length"))
    return lines, await reader.readexactly(size)


def answers(*responses: bytes, connections: list[int] | None = None) -> Serve:
    """Return what answers the requests of each connection with these in turn, and then leaves."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if connections is not None:
            connections.append(0)
        for response in responses:
            await request(reader)
            if connections is not None:
                connections[-1] += 1
            writer.write(response)

    return serve


def gets(serve: Serve, times: int = 1) -> list[tuple[int, bytes]]:
    """Send a request some times and return status and body of each response."""

    async def main() -> list[tuple[int, bytes]]:
        async with serving(serve) as url:
            sender, found = client(url), list[tuple[int, bytes]]()
            for _ in range(times):
                response = await sender.post([b"{}"])
                found.append((response.status, await whole(response)))
                assert response.whole
            await sender.close()
            return found

    return asyncio.run(main())


def fails(serve: Serve, error: type[Exception]) -> None:
    async def main() -> None:
        async with serving(serve) as url:
            sender = client(url)
            with pytest.raises(error):
                await whole(await sender.post([b"{}"]))
            await sender.close()

    asyncio.run(main())


# what goes out


def test_a_request_has_each_header_once_and_its_length() -> None:
    seen: list[tuple[list[str], bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await request(reader))
        writer.write(OK)

    async def main() -> URL:
        async with serving(serve) as url:
            address = url.with_user("ann").with_password("s t").with_query(a="1")
            sender = Client(address, {"x-own": "1", "accept": "mine", "Content-Length": "9"}, WAIT, WAIT)
            assert await whole(await sender.post([b'{"a":', bytearray(b"1"), b"}"])) == b"Hi"
            await sender.close()
            return url

    url = asyncio.run(main())
    [(lines, body)] = seen
    assert (lines[0], body) == ("POST /v1/x?a=1 HTTP/1.1", b'{"a":1}')
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    assert len(headers) == len(lines) - 1
    assert headers["host"] == f"127.0.0.1:{url.port}"
    assert (headers["x-own"], headers["accept"], headers["content-length"]) == ("1", "mine", "7")
    assert headers["authorization"] == "basic yw5uonmgda=="


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "a\x01b"])
def test_no_header_can_begin_another(value: str) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="line break"):
            client(URL("http://127.0.0.1:1/"), key=value)

    asyncio.run(main())


def test_an_address_and_a_header_do_not_both_say_who_asks() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="authorizes"):
            client(URL("http://ann:pw@127.0.0.1:1/"), authorization="Bearer key")

    asyncio.run(main())


# what comes back


def test_interim_responses_are_no_response() -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    assert gets(answers(early + OK)) == [(200, b"Hi")]


@pytest.mark.parametrize(
    "response",
    [
        OK,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nH\r\n1\r\ni\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nHi",
        b"HTTP/1.0 200 OK\r\n\r\nHi",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(gzip.compress(b"Hi", mtime=0))
        + gzip.compress(b"Hi", mtime=0),
    ],
    ids=["length", "chunked", "until it closes", "HTTP 1.0", "compressed although it was not asked for"],
)
def test_a_body_ends_as_its_head_says(response: bytes) -> None:
    assert gets(answers(response)) == [(200, b"Hi")]


def test_a_response_may_have_no_body() -> None:
    assert gets(answers(b"HTTP/1.1 204 No Content\r\n\r\n")) == [(204, b"")]


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"HTTP/1.1 200",
        b"220 mail.example.org ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nHi",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nHi\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nHi\r\n",
    ],
    ids=["nothing", "half a head", "another protocol", "a short body", "no last chunk", "no chunk"],
)
def test_what_is_cut_or_no_http_is_an_error(response: bytes) -> None:
    fails(answers(response), aiohttp.ClientError)


# what becomes of the connection


def test_a_connection_serves_one_request_after_the_other() -> None:
    connections: list[int] = []
    assert gets(answers(OK, OK, OK, connections=connections), 3) == [(200, b"Hi")] * 3
    assert connections == [3]


def test_a_connection_that_the_other_side_closes_serves_no_second() -> None:
    connections: list[int] = []
    closing = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nHi"
    assert gets(answers(closing, OK, connections=connections), 2) == [(200, b"Hi")] * 2
    assert connections == [1, 1]


def test_an_answer_may_come_before_the_whole_request_was_taken() -> None:
    connections: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.Event())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nNo")
        await connections[-1].wait()

    async def main() -> None:
        async with serving(serve) as url:
            sender = client(url)
            for _ in range(2):
                response = await sender.post([b"x" * 20_000_000])
                assert (response.status, await whole(response), response.whole) == (413, b"No", True)
            for each in connections:
                each.set()
            await sender.close()

    asyncio.run(main())
    assert len(connections) == 2


def test_a_response_that_is_closed_closes_its_connection() -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK[:-1])
        assert await reader.read() == b""
        gone.set()

    async def main() -> None:
        async with serving(serve) as url:
            sender = client(url)
            response = await sender.post([b"{}"])
            assert (await response.read(), response.whole) == (b"H", False)
            response.close()
            response.close()
            assert response.whole
            await gone.wait()
            await sender.close()

    asyncio.run(main())


async def _read_slowly(response: Response) -> None:
    try:
        assert await response.read() == b"H"
        await asyncio.sleep(0.5)  # nobody waits
        assert not response.whole
        await response.read()
    finally:
        response.close()


@pytest.mark.parametrize("sent", [b"", OK[:20], OK[:-1]], ids=["nothing", "half a head", "half a body"])
def test_silence_ends_a_request_only_while_somebody_waits(sent: bytes) -> None:
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (OK, sent):
            requests.append((await request(reader))[1])
            writer.write(answer)
        await reader.read()

    async def main() -> None:
        async with serving(serve) as url:
            sender = client(url, silence=0.3)
            assert await whole(await sender.post([b"1"])) == b"Hi"
            await asyncio.sleep(0.5)  # nobody waits: the connection stays, and takes the next request
            with pytest.raises(aiohttp.SocketTimeoutError):
                await _read_slowly(await sender.post([b"2"]))
            await sender.close()

    asyncio.run(main())
    assert requests == [b"1", b"2"]


# what it costs


class _Counting(asyncio.SelectorEventLoop):
    """An event loop that counts the timers it is asked for."""

    timers = 0

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, **others: Any) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(when, callback, *args, **others)


def test_many_replies_of_many_reads_take_one_timer_of_their_connection() -> None:
    replies = [stream(*(chunk(content=str(number)) for number in range(30)), *ending()) for _ in range(10)]

    async def main(loop: _Counting) -> int:
        async with Endpoint(replies) as endpoint:
            model = model_at(endpoint, timeouts=Timeouts(stall=60))
            await collect(model)
            before = loop.timers
            for _ in replies[1:]:
                assert joined(await collect(model)) == "".join(map(str, range(30)))
            taken = loop.timers - before
            await model.close()
            return taken

    with asyncio.Runner(loop_factory=_Counting) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, _Counting)
        # The bytes behind a finish reason have time-outs of their own.
        assert runner.run(main(loop)) <= 3 * len(replies)


def test_a_parser_is_asked_to_go_on_only_where_it_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    resumed = 0
    original = ResponseHandler.resume_reading

    def resume(self: ResponseHandler, resume_parser: bool = True) -> None:
        nonlocal resumed
        resumed += 1
        original(self, resume_parser)

    monkeypatch.setattr(ResponseHandler, "resume_reading", resume)
    few, many = ["word "] * 200, [f"{number:07d} " * 125 for number in range(2000)]

    async def main(pieces: list[str], cut: int) -> int:
        nonlocal resumed
        resumed = 0
        reply = stream(*(chunk(content=each) for each in pieces), *ending(), together=True, cut=cut)
        async with Endpoint([reply]) as endpoint:
            model = model_at(endpoint)
            got: list[str] = []
            async for delta in model.stream(asked()):
                got.append(delta.text)
                await asyncio.sleep(0.3 if len(got) == 1 else 0)
            await model.close()
        assert "".join(got) == "".join(pieces)
        return resumed

    assert asyncio.run(main(few, 100)) == 0
    assert asyncio.run(main(many, 1000)) > 0  # beyond what is buffered of a response


# what breaks


def test_silence_behind_an_interim_response_ends_a_request() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await reader.read()

    async def main() -> None:
        async with serving(serve) as url:
            sender = client(url, silence=0.3)
            with pytest.raises(aiohttp.SocketTimeoutError):
                await sender.post([b"{}"])
            await sender.close()

    asyncio.run(main())


def test_who_speaks_first_is_no_endpoint() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(0)
        writer.write(b"220 mail.example.org ESMTP\r\n")
        await reader.read()

    connections: list[int] = []
    fails(serve, aiohttp.ClientError)
    assert len(connections) == 1


def test_what_is_no_http_in_the_middle_of_a_body_is_told_to_its_reader() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nHi\r\n")
        await asyncio.sleep(0.1)
        writer.write(b"no chunk\r\n")
        await reader.read()

    fails(serve, aiohttp.ClientPayloadError)


def test_a_request_that_is_given_up_leaves_no_socket_behind_although_nobody_takes_its_body() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        taken.set()
        with suppress(ConnectionError):
            while await reader.read(1 << 20):
                await asyncio.sleep(0.01)
        gone.set()

    taken, gone = asyncio.Event(), asyncio.Event()

    async def main() -> None:
        async with serving(serve) as url:
            sender = client(url)
            posting = asyncio.create_task(sender.post([b"x" * 50_000_000]))
            await taken.wait()
            posting.cancel()
            await asyncio.wait([posting])
            await gone.wait()
            await sender.close()

    asyncio.run(main())


def test_a_peer_that_has_said_all_and_takes_nothing_is_waited_for_no_longer_than_silence_may_last() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write_eof()
        await over.wait()

    over = asyncio.Event()

    async def main() -> None:
        async with serving(serve) as url:
            sender = client(url, silence=0.5)
            with pytest.raises(aiohttp.SocketTimeoutError):
                await sender.post([b"x" * 50_000_000])
            over.set()
            await sender.close()

    asyncio.run(main())


@pytest.mark.parametrize("with_body", [True, False], ids=["with the last bytes of a body", "later"])
def test_what_comes_unasked_answers_no_request(with_body: bool) -> None:
    unasked = OK.replace(b"Hi", b"No")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent.append(asyncio.Event())
        await request(reader)
        writer.write(OK + unasked if with_body else OK)
        await answered[len(sent) - 1].wait()
        if not with_body:
            writer.write(unasked)
        sent[-1].set()
        await reader.read()

    sent: list[asyncio.Event] = []
    answered = [asyncio.Event(), asyncio.Event()]

    async def main() -> None:
        async with serving(serve) as url:
            sender = client(url)
            for each in answered:
                assert await whole(await sender.post([b"{}"])) == b"Hi"
                each.set()
                await sent[-1].wait()
                await asyncio.sleep(0.1)  # it has been sent, and is read in the next turns of the loop
            await sender.close()

    asyncio.run(main())
    assert len(sent) == 2


def test_whoever_reads_is_told_when_all_connections_are_closed() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK[:-1])
        await reader.read()

    async def main() -> None:
        async with serving(serve) as url:
            sender = client(url)
            response = await sender.post([b"{}"])
            assert await response.read() == b"H"
            reading = asyncio.create_task(whole(response))
            await asyncio.sleep(0)
            await sender.close()
            with pytest.raises(aiohttp.ClientConnectionError):
                await reading

    asyncio.run(main())


@pytest.mark.parametrize("chunks", [16_384, 16_385, 40_000])
def test_more_chunks_than_are_buffered_hold_nothing_back(chunks: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * chunks)
        await asyncio.sleep(0.4)
        writer.write(b"1\r\nA\r\n1\r\nB\r\n0\r\n\r\n")
        await reader.read()

    async def main() -> None:
        async with serving(serve) as url:
            sender = client(url, silence=5)
            response = await sender.post([b"{}"])
            await asyncio.sleep(0.2)
            assert await whole(response) == b"x" * chunks + b"AB"
            await sender.close()

    asyncio.run(main())


# certificates


def _certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Make a certificate for 127.0.0.1 that signs itself; return its file, and what serves with it."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "public.pem", folder / "private.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(public, private)
    return public, context


_ASKS = """
import asyncio, sys
from yarl import URL
from stepwell.models.http import Client

async def main():
    client = Client(URL(sys.argv[1]), {}, 20, 20)
    try:
        for size in map(int, sys.argv[2:]):
            response = await client.post([b"x" * size])
            print(response.status, (await response.read()).decode())
    except Exception as error:
        print(type(error).__name__)
    await client.close()

asyncio.run(main())
"""


async def _asks(url: URL, trusted: Path | None, *sizes: int) -> list[str]:
    """Send requests of these many bytes from a process that trusts a certificate; return what it prints."""
    env = {**os.environ, "SSL_CERT_FILE": str(trusted)} if trusted else dict(os.environ)
    command = [sys.executable, "-c", _ASKS, str(url), *map(str, sizes)]
    done = await asyncio.to_thread(subprocess.run, command, env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize(("trusted", "printed"), [(True, "200 Hi"), (False, "ClientConnectorCertificateError")])
def test_a_certificate_is_checked(trusted: bool, printed: str, tmp_path: Path) -> None:
    public, context = _certificate(tmp_path)

    async def main() -> list[str]:
        async with serving(answers(OK), context) as url:
            return await _asks(url, public if trusted else None, 2)

    assert asyncio.run(main()) == [printed]


def test_a_certificate_that_nobody_knows_is_named_with_the_remedy(tmp_path: Path) -> None:
    _, context = _certificate(tmp_path)

    async def main() -> None:
        async with serving(answers(OK), context) as url:
            model = OpenAIModel(str(url), "m", retries=Retries(attempts=1))
            [delta] = await collect(model)
            assert delta.failure is not None
            assert delta.failure.kind == "connect"
            assert "SSL_CERT_FILE" in delta.failure.message
            await model.close()

    asyncio.run(main())


def test_a_connection_whose_request_was_refused_unread_serves_no_second_under_tls(tmp_path: Path) -> None:
    public, context = _certificate(tmp_path)
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(0)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nNo")
        await over.wait()

    over = asyncio.Event()

    async def main() -> list[str]:
        async with serving(serve, context) as url:
            printed = await _asks(url, public, 20_000_000, 20_000_000)
            over.set()
            return printed

    assert asyncio.run(main()) == ["413 No", "413 No"]
    assert len(connections) == 2
