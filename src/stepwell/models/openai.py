"""The adapter for any endpoint that speaks OpenAI's chat-completions protocol, over aiohttp.

It streams always, hands out one delta per network read, and retries only while nothing of the reply came.
It runs no tools, renders no prompts and keeps no history: a request's messages are encoded once, by their
transcript. Import it lazily: aiohttp makes TLS contexts when it is imported.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from stepwell.errors import ConfigError
from stepwell.messages import ToolSpecs
from stepwell.models.base import Delta, Failure, ModelProfile, ModelRequest
from stepwell.models.failures import RETRIED, refusal, retry_after
from stepwell.models.http import Client, Response
from stepwell.models.reply import ReplyReader
from stepwell.models.retries import RETRIES, TIMEOUTS, Retries, Timeouts
from stepwell.models.wire import MessageEncoder, refused_field, tail_fields, to_json, tools_json, without_refused

_PROFILE = ModelProfile()

_LINGER = 1.0
"""Seconds that a connection may take to end its response after `[DONE]`, so that it can be used again."""

_SHORTEST_SECRET = 8
_SECRET_NAME = "(?i)key|token|secret|auth|pass|sig|code"
"""In the names of parameters of an address that are secret."""
_ERROR_BODY = 64 * 1024
_TOOLS_KEPT = _MODELS_KEPT = 64
_NONE: frozenset[str] = frozenset()
_UNREAD = (400, 422)
"""Statuses by which endpoints refuse a request for what stands in it."""


class OpenAIModel:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        base_url: Such as `https://api.openai.com/v1`; a query is kept.
        model: The name sent where a request names none.
        api_key: Sent as a bearer token; never shown in a message.
        profile: Facts about the model's family.
        timeouts: How long to wait.
        retries: When to try again.
        headers: Sent with every request, over our own.

    Raises:
        ConfigError: If `base_url` is no http address.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str = "",
        profile: ModelProfile = _PROFILE,
        timeouts: Timeouts = TIMEOUTS,
        retries: Retries = RETRIES,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.profile = profile
        self._url = _completions_url(base_url)
        self._model, self._timeouts, self._retries = model, timeouts, retries
        api_key = api_key.strip()  # such as the end of a line of a file
        self._headers = _headers(api_key, headers or {})
        self._secrets = _secrets(api_key, headers or {}, self._url)
        self._encode = MessageEncoder(profile)
        self._tools: dict[bytes, bytes] = {}
        self._refused: dict[str, frozenset[str]] = {}
        self._clients: dict[asyncio.AbstractEventLoop, Client] = {}
        self._ending: set[Response] = set()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Delta]:
        """Stream one reply; each retry is announced by a delta with a failure and no `stop`.

        Closing the generator or cancelling its task closes the socket at once.
        """
        attempt, name = 0, request.model or self._model
        refused = known = self._refused.get(name, _NONE)
        while True:
            attempt += 1
            exchange = _Exchange(self._url, self._timeouts, self._reader(request))
            try:
                delta = await self._start(exchange, request, refused)
                while delta.stop is None:
                    yield delta
                    delta = await exchange.next()
            finally:
                if (ending := exchange.close()) is not None:
                    self._leave(ending)
            if delta.failure is None:
                if refused is not known:
                    self._learn(name, refused)
                yield delta
                return
            failure, asked = delta.failure, exchange.retry_after
            field = "" if exchange.reader.started else self._refused_field(request, failure, refused)
            may_pass = _may_pass(failure) and not exchange.reader.started
            delta, wait = self._retries.judge(delta, failure, attempt, asked, may_pass=may_pass, secrets=self._secrets)
            if field and delta.failure is not None:
                refused |= {field}
                delta, wait = Delta(failure=msgspec.structs.replace(delta.failure, retry_in=0.0)), 0.0
            yield delta
            if wait is None:
                return
            await asyncio.sleep(wait)

    async def close(self) -> None:
        """Close the connections of this event loop, and forget those of loops that are over."""
        for response in list(self._ending):
            self._end(response)
        here = asyncio.get_running_loop()
        for loop in [loop for loop in self._clients if loop is here or loop.is_closed()]:
            await self._clients.pop(loop).close()

    def _reader(self, request: ModelRequest) -> ReplyReader:
        return ReplyReader(self.profile.thinking_field, request.settings.max_tokens)

    async def _start(self, exchange: _Exchange, request: ModelRequest, refused: frozenset[str]) -> Delta:
        try:
            body = self._body(request, refused)
            client = self._clients.get(asyncio.get_running_loop()) or await self._new_client()
        except Exception as error:  # whatever cannot be sent is a failure of the reply: the port never raises
            exchange.reader.fail(_failure_of(error, self._url, self._timeouts))
        else:
            await exchange.open(client, body)
        return await exchange.next()

    async def _new_client(self) -> Client:
        over = [loop for loop in self._clients if loop.is_closed()]
        made = Client(self._url, self._headers, self._timeouts.connect, self._timeouts.stall)
        self._clients[asyncio.get_running_loop()] = made
        for loop in over:
            await self._clients.pop(loop).close()
        return made

    def _body(self, request: ModelRequest, refused: frozenset[str]) -> Sequence[bytes | bytearray]:
        fields = self._fields(request, refused)
        tools = b""
        if request.tools and "tools" not in fields:
            tools = b'"tools":' + self._tools_json(request.tools) + b","
        messages: bytes | bytearray = request.messages.rendering(self._encode).body
        if request.tail:
            messages = b",".join([*([messages] if messages else ()), *map(self._encode, request.tail)])
        model = to_json(request.model or self._model)
        return b'{"model":', model, b',"messages":[', messages, b"],", tools, to_json(fields)[1:]

    def _fields(self, request: ModelRequest, refused: frozenset[str]) -> dict[str, Any]:
        fields = tail_fields(request, self.profile)
        return without_refused(fields, refused, request.settings.extra) if refused else fields

    def _refused_field(self, request: ModelRequest, failure: Failure, refused: frozenset[str]) -> str:
        """Return the field that the endpoint did not take and that the request can go without, or nothing."""
        if failure.kind != "request" or failure.status not in _UNREAD:
            return ""
        extra = request.settings.extra
        sent = {name: value for name, value in self._fields(request, refused).items() if name not in extra}
        return refused_field(failure.message, sent, refused)

    def _learn(self, model: str, refused: frozenset[str]) -> None:
        """Keep what to leave out, now that a request without it was taken: a refusal may name fields for nothing."""
        if model not in self._refused and len(self._refused) >= _MODELS_KEPT:
            self._refused.clear()
        self._refused[model] = self._refused.get(model, _NONE) | refused

    def _tools_json(self, tools: ToolSpecs) -> bytes:
        found = self._tools.get(tools.encoded)
        if found is None:
            if len(self._tools) >= _TOOLS_KEPT:
                self._tools.clear()
            found = self._tools[tools.encoded] = tools_json(tools)
        return found

    def _leave(self, response: Response) -> None:
        """Give a response that was read to its end a moment for its last bytes: its connection can then go on."""
        timer = asyncio.get_running_loop().call_later(_LINGER, self._end, response)
        self._ending.add(response)

        def over() -> None:
            timer.cancel()
            self._ending.discard(response)

        response.when_whole(over)

    def _end(self, response: Response) -> None:
        self._ending.discard(response)
        response.close()


class _Exchange:
    """One request and its response.

    Args:
        url: Where the request goes.
        timeouts: For the words of a failure.
        reader: Makes deltas of the response.
    """

    __slots__ = ("_is_page", "_response", "_timeouts", "_url", "reader", "retry_after")

    def __init__(self, url: URL, timeouts: Timeouts, reader: ReplyReader) -> None:
        self._url, self._timeouts, self.reader = url, timeouts, reader
        self._response: Response | None = None
        self._is_page = False
        self.retry_after: float | None = None

    async def open(self, client: Client, body: Sequence[bytes | bytearray]) -> None:
        """Send the request and read the head of the response."""
        try:
            response = self._response = await client.post(body)
            if response.status >= 300:
                self.retry_after = retry_after(response.headers, time.time())
                self.reader.fail(await _refusal(response, self._url, self._timeouts))
            self._is_page = "text/html" in response.headers.get("Content-Type", "")
        except Exception as error:  # whatever a client library raises is a failure of the reply: the port never raises
            self.reader.fail(_failure_of(error, self._url, self._timeouts))

    async def next(self) -> Delta:
        """Return what the next read brings; the last delta has `stop` set."""
        reader, response = self.reader, self._response
        try:
            while not reader.done and response is not None:
                data = await (self._read_rest(response) if reader.finish else response.read())
                if data:
                    reader.feed(data)
                else:
                    self._end()
                if not reader.done and (delta := reader.take()):
                    return delta
        except Exception as error:  # as in `open`
            reader.fail(_failure_of(error, self._url, self._timeouts))
        return reader.last()

    def _end(self) -> None:
        if self._is_page and not self.reader.started:
            self.reader.fail(_web_page(self._url))
        self.reader.end()

    async def _read_rest(self, response: Response) -> bytes:
        """Read what follows the finish reason, but do not wait for it as long as for a reply."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeouts.finish):
                return await response.read()
        return b""

    def close(self) -> Response | None:
        """Close the socket, unless only the last bytes of a whole reply are missing: then return the response."""
        response = self._response
        if response is None or response.whole:
            return None
        if self.reader.done and self.reader.finish:
            return response
        response.close()
        return None


def _completions_url(base_url: str) -> URL:
    try:
        url = URL(base_url.strip())
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        # An address with a password or a query in it is not repeated.
        shown = "" if set("@?") & set(base_url) else f" {base_url!r}"
        raise ConfigError(f"base_url{shown} is no http address; write it like https://api.openai.com/v1")
    path = url.raw_path.rstrip("/")
    if path.endswith("/chat/completions"):
        return url
    return url.with_path(f"{path}/chat/completions", encoded=True, keep_query=True)


def _headers(api_key: str, others: Mapping[str, str]) -> dict[str, str]:
    headers = {
        "content-type": "application/json",
        "accept": "text/event-stream, application/json",
        # A compressed stream waits for its blocks to fill.
        "accept-encoding": "identity",
        "user-agent": "stepwell",
    }
    if api_key:
        headers["authorization"] = f"Bearer {api_key}"
    return headers | {name.lower(): value for name, value in others.items()}


def _secrets(api_key: str, headers: Mapping[str, str], url: URL) -> list[str]:
    """Return what no message may show: the key, and all in headers and address that is long enough to be one."""
    named = [value for name, value in url.query.items() if re.search(_SECRET_NAME, name)]
    given = [
        *headers.values(),
        *named,
        *(quote(value, safe="") for value in named),
        url.password or "",
        url.raw_password or "",
    ]
    words = {word for value in given for word in value.split() if len(word) >= _SHORTEST_SECRET}
    return sorted(words | {api_key} - {""}, key=len, reverse=True)


def _may_pass(failure: Failure) -> bool:
    """Tell whether the same request may work a little later."""
    match failure.kind:
        case "connect" | "stall" | "broken":
            return True
        case "rate_limit" | "server":
            return failure.status in RETRIED
        case "auth" | "overflow" | "request" | "interrupted" | "internal":
            return False


async def _refusal(response: Response, url: URL, timeouts: Timeouts) -> Failure:
    to = response.headers.get("Location", "")
    if response.status < 400 and to:
        return Failure(
            "request", f"The endpoint redirects to {_target(url, to)}: set `base_url` to it.", response.status
        )
    body = b""
    # The status says enough where the rest of the body does not come.
    with suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(timeouts.finish):
            while len(body) < _ERROR_BODY and (data := await response.read()):
                body += data
    return refusal(response.status, body)


def _web_page(url: URL) -> Failure:
    shown = _shown(url)
    return Failure("request", f"{shown} is a web page, no model endpoint. Check `base_url`: most end with /v1.", 200)


def _failure_of(error: Exception, url: URL, timeouts: Timeouts) -> Failure:
    match error:
        case aiohttp.ConnectionTimeoutError() | aiohttp.ClientConnectorError():
            cause = f"none within {timeouts.connect:g} s" if isinstance(error, TimeoutError) else str(error)
            remedy = "Check that the endpoint runs and that `base_url` is right."
            if isinstance(error, aiohttp.ClientConnectorCertificateError):
                remedy = "If it is your own, name a file with its certificate in SSL_CERT_FILE."
            return Failure("connect", f"No connection to {_shown(url)}: {cause}. {remedy}")
        case aiohttp.SocketTimeoutError():
            return _stalled(timeouts)
        case aiohttp.ClientError():
            return Failure("broken", f"The connection to the endpoint broke: {str(error) or type(error).__name__}.")
        case _:
            return Failure("internal", f"{type(error).__name__}: {error}")


def _stalled(timeouts: Timeouts) -> Failure:
    return Failure("stall", f"The endpoint sent nothing for {timeouts.stall:g} s.")


def _target(url: URL, location: str) -> str:
    """Return where a redirect leads, without what may be secret in it; it may repeat our own query."""
    try:
        return _shown(url.join(URL(location)))
    except ValueError:
        return "no address"


def _shown(url: URL) -> str:
    """Return the address without what may be secret in it."""
    return str(url.with_user(None).with_query(None))
