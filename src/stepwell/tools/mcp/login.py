"""A person's login at a server, once: where it leads, who this program is there, and what it brings, which is kept.

The SDK does discovery, registration and PKCE. The person comes back over an address of this machine alone.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
from mcp.client.auth import OAuthClientProvider, OAuthFlowError, OAuthRegistrationError, OAuthTokenError
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

from stepwell.errors import ToolError
from stepwell.tools.mcp.base import ServerSpec
from stepwell.tools.mcp.grants import Grant, end_of, locked, write
from stepwell.tools.mcp.guard import Guarded, check

PERSON = 600.0
"""Seconds in which a person may log in."""
READING = 5.0
"""Seconds in which a browser sends its request."""
PATH = "/callback"
_VERSION = "2025-11-25"
_PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
_HEADERS = {"accept": "application/json, text/event-stream", "mcp-protocol-version": _VERSION}
_STATUS, _CODE = re.compile(r"[A-Za-z_ ]*[a-z](?:: \d{3}| \(\d{3}\))?"), re.compile(r'"error" ?: ?"[a-z_]{1,40}"')
"""What an error of the SDK says before it repeats an answer, and a code of RFC 6749 in the latter."""
_DONE = "Stepwell: you can close this window. 可以关闭此窗口。"


class _Nothing:
    """Keeps nothing: each login begins anew, for the address that a person comes back to is another each time."""

    async def get_tokens(self) -> OAuthToken | None:
        return None

    async def set_tokens(self, tokens: OAuthToken) -> None:
        pass

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        pass


class _Return:
    """The address that a person comes back to.

    Args:
        spec: The server.
        show: Shows a person where to go.
    """

    def __init__(self, spec: ServerSpec, show: Callable[[str], None]) -> None:
        self._spec, self._show = spec, show
        self._state = ""
        self._came: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self.address = ""

    async def lead(self, address: str) -> None:
        """Send a person to log in; what comes back must bring the state that they were sent with."""
        check(self._spec, address)
        parts = urlsplit(address)
        if parts.fragment:
            raise ToolError("the login leads to an address with a fragment, where what is asked would be lost")
        self._state = parse_qs(parts.query)["state"][-1]  # a server may have put one before it
        self._show(address)

    async def wait(self) -> AuthorizationCodeResult:
        """Return what a person comes back with.

        Raises:
            ToolError: The login was refused, or nobody came.
        """
        try:
            async with asyncio.timeout(PERSON):
                came = await self._came
        except TimeoutError as error:
            raise ToolError(f"nobody logged in within {PERSON:g} seconds") from error
        if "code" not in came:
            raise ToolError(f"the login was refused: {self._spec.plain(came.get('error', ''), 200) or 'no code came'}")
        return AuthorizationCodeResult(code=came["code"], state=came.get("state"), iss=came.get("iss"))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one request of a browser; what does not belong to the login changes nothing."""
        status, words = "404 Not Found", "There is nothing here."
        with suppress(TimeoutError, ValueError, ConnectionError):
            async with asyncio.timeout(READING):
                line = (await reader.readline()).decode("latin-1").split(" ")
                while (await reader.readline()).strip():
                    pass
            came = self._parameters(line)
            if came is not None:
                status, words = "200 OK", _DONE
                if not self._came.done():
                    self._came.set_result(came)
            body = words.encode()
            head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {len(body)}\r\n"
            writer.write(f"{head}connection: close\r\n\r\n".encode() + body)
            await writer.drain()
        writer.close()

    def _parameters(self, line: list[str]) -> dict[str, str] | None:
        parts = urlsplit(line[1]) if len(line) == 3 and line[0] == "GET" else urlsplit("")
        given = {name: values[0] for name, values in parse_qs(parts.query).items()}
        fits = self._state and secrets.compare_digest(given.get("state", "").encode(), self._state.encode())
        return given if parts.path == PATH and fits else None


@asynccontextmanager
async def _returning(spec: ServerSpec, show: Callable[[str], None]) -> AsyncGenerator[_Return]:
    found = _Return(spec, show)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, limit=1 << 14)
    found.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{PATH}"
    try:
        yield found
    finally:
        server.close()


async def login(spec: ServerSpec, file: Path, show: Callable[[str], None]) -> None:
    """Have a person log in at a server, and keep what that brings.

    Args:
        spec: The server.
        file: Where it is kept.
        show: Shows a person the address where to log in.

    Raises:
        ToolError: It came to nothing; says why.
    """
    async with _returning(spec, show) as back:

        async def lead(address: str) -> None:
            known = provider.context.oauth_metadata
            if known is not None and "S256" not in (known.code_challenge_methods_supported or ()):
                raise ToolError(
                    "who logs people in there does not say that it takes PKCE, without which it is not safe"
                )
            await back.lead(address)

        metadata = OAuthClientMetadata(client_name="Stepwell", redirect_uris=[AnyUrl(back.address)])
        provider = OAuthClientProvider(spec.url, metadata, _Nothing(), lead, back.wait)
        try:
            async with httpx2.AsyncClient(
                auth=provider, transport=Guarded(spec), headers=spec.headers, trust_env=False
            ) as client:
                response = await client.post(spec.url, json=_PING, headers=_HEADERS)
        except (OAuthFlowError, httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, ValueError) as error:
            raise ToolError(f"the login came to nothing: {_words(spec, error)}") from error
    if provider.context.current_tokens is None:
        raise ToolError(f"the server asks for no login: it answers with status {response.status_code}")
    if response.status_code in (401, 403):
        raise ToolError(f"the server does not take the login that it gave: status {response.status_code}")
    async with locked(file):
        write(file, _grant(spec, provider))


def _words(spec: ServerSpec, error: Exception) -> str:
    """Say why a login came to nothing, without what servers answered where tokens stand."""
    kind, said = type(error).__name__, str(error)
    if isinstance(error, ValueError | httpx2.LocalProtocolError | httpx2.InvalidURL):
        return kind
    if isinstance(error, OAuthTokenError | OAuthRegistrationError):
        found = _STATUS.match(said), _CODE.search(said)
        return ": ".join((kind, *(each[0] for each in found if each)))
    return f"{kind}: {spec.plain(said, 300)}"


def _grant(spec: ServerSpec, provider: OAuthClientProvider) -> Grant:
    context = provider.context
    tokens, client, known = context.current_tokens, context.client_info, context.oauth_metadata
    assert tokens is not None
    assert client is not None
    endpoint = str(known.token_endpoint) if known is not None else urljoin(spec.url, "/token")
    return Grant(
        url=spec.url,
        access=tokens.access_token,
        refresh=tokens.refresh_token or "",
        expires=end_of(tokens.expires_in),
        client=client.client_id,
        secret=client.client_secret or "",
        method=client.token_endpoint_auth_method or "",
        endpoint=endpoint,
        resource=context.get_resource_url() if context.should_include_resource_param(_VERSION) else "",
    )
