"""The one gate of the server: for every request it decides who asks, and whether they may.

It checks the `Host` and `Origin` headers against DNS rebinding and cross-site requests, the API key, and the
size of the body, before any route is chosen. What an owner may see is decided by the run service.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stepwell.config import Config, is_loopback
from stepwell.errors import StoreError
from stepwell.store.base import Store
from stepwell.store.keys import find, same

BODY_SECONDS = 60.0
"""Seconds that a body may take to come."""
OPEN = frozenset({"/health"})
"""Paths that need no key."""
LOCAL = "local"
"""The owner of everything where `auth` is off."""
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(r"(?:\[(?P<ip6>[0-9a-fA-F:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{1,5})?")


class Caller:
    """Who asks.

    Args:
        owner: Whose threads they see.
        still_good: Tells whether their key has not been revoked since.
        key: Id of their key, on whose account spending is; empty where keys are off.
    """

    __slots__ = ("key", "owner", "still_good")

    def __init__(self, owner: str, still_good: Callable[[], Awaitable[bool]], key: str = "") -> None:
        self.owner, self.still_good, self.key = owner, still_good, key


class Refusal(Exception):
    """The request goes no further.

    Args:
        status: The HTTP status.
        message: What is wrong and the remedy.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


Shape = Callable[[str, int, str], bytes | None]
"""Returns the JSON of a refusal from the path, the status and the words; None for the form of the native face."""


def _native(path: str, status: int, message: str) -> bytes | None:
    return None


class Gate:
    """Middleware around the whole application.

    In the `state` of a request it leaves its `Caller`, and `send` as it is before the application wraps it.

    Args:
        app: The application.
        config: Who may ask.
        store: Where the API keys are.
        local_key: A key for commands of the same user, good while this process lives; they are the owner `local`.
        shape: Writes refusals as the face of a path has them.
    """

    def __init__(self, app: ASGIApp, config: Config, store: Store, local_key: str = "", shape: Shape = _native) -> None:
        self._app, self._config, self._store, self._local_key = app, config, store, local_key
        self._shape = shape
        self._names = {"127.0.0.1", "localhost", config.host.lower(), *map(_named, config.hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request and hand it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            if scope["type"] != "http":
                raise Refusal(403, "This server speaks HTTP only.")
            headers = _headers(scope)
            self._check_host(headers)
            self._check_origin(scope["method"], headers)
            self._check_length(headers)
            state = scope.setdefault("state", {})
            state["caller"], state["send"] = await self._caller(scope["path"], headers), send
        except Refusal as refusal:
            await self._refuse(scope, refusal)(scope, receive, send)
            return
        except StoreError as error:  # without the store nobody can be told from anybody else
            await self._refuse(scope, Refusal(503, str(error)))(scope, receive, send)
            return
        await self._app(scope, _Bounded(receive, self._config.max_body), send)

    def _refuse(self, scope: Scope, refusal: Refusal) -> Response:
        native: dict[str, Any] = {"error": {"message": str(refusal), "field": ""}}
        body = self._shape(scope["path"], refusal.status, str(refusal)) or msgspec.json.encode(native)
        headers = {"www-authenticate": "Bearer"} if refusal.status == 401 else {}
        return Response(body, refusal.status, headers, "application/json")

    def _check_host(self, headers: Mapping[str, str]) -> None:
        sent = headers.get("host", "")
        name = _host_name(sent)
        if not name or not (name in self._names or is_loopback(name)):
            shown = (name or sent)[:100]
            raise Refusal(403, f"The host {shown!r} is not served here; add it to `hosts` in the settings.")

    def _check_origin(self, method: str, headers: Mapping[str, str]) -> None:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if origin is not None:
            own = origin in (f"http://{headers['host']}", f"https://{headers['host']}")
            if not own and origin not in self._config.origins:
                remedy = "deliver the page over HTTP" if origin == "null" else "add it to `origins` in the settings"
                raise Refusal(403, f"The origin {origin[:100]!r} may not call; {remedy}.")
        elif site not in ("none", "same-origin"):
            # A link from elsewhere may lead here; a page from elsewhere may not read or do anything.
            if method not in _SAFE or headers.get("sec-fetch-mode") != "navigate":
                raise Refusal(403, "Requests from other sites are refused.")

    def _check_length(self, headers: Mapping[str, str]) -> None:
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length[:20]) > self._config.max_body:
            raise Refusal(413, f"The body is over {self._config.max_body} bytes (`max_body`).")

    async def _caller(self, path: str, headers: Mapping[str, str]) -> Caller | None:
        if self._config.auth == "off":
            return Caller(LOCAL, _always)
        token = _token(headers)
        if not token:
            if path in OPEN:
                return None
            raise Refusal(401, "Send an API key as `Authorization: Bearer KEY`; `stepwell keys add` makes one.")
        found = await self._owner(token)
        if found is None:
            raise Refusal(401, "The API key is not valid.")

        async def still_good() -> bool:
            return await self._owner(token) is not None

        return Caller(found[0], still_good, found[1])

    async def _owner(self, token: str) -> tuple[str, str] | None:
        """Return whose a key is, and its id where it is one of the store."""
        if self._local_key and same(token, self._local_key):
            return LOCAL, ""
        key = find(await self._store.api_keys(), token)
        return (key.owner, key.id) if key else None


async def _always() -> bool:
    return True


def _headers(scope: Scope) -> dict[str, str]:
    """Return the first value of each header by its name; of `host` all, as two hosts are the name of none."""
    found: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name = raw.decode("latin-1")
        if name not in found:
            found[name] = value.decode("latin-1")
        elif name == "host":
            found[name] += ", " + value.decode("latin-1")
    return found


def _host_name(host: str) -> str:
    """Return the name of a `Host` header, without its port; empty where it is none."""
    match = _HOST.fullmatch(host)
    return (match["ip6"] or match["name"]).lower() if match else ""


def _named(host: str) -> str:
    """Return the name that a setting of `hosts` means; one with a port, as the header has it, means the same."""
    return _host_name(host) or host.lower()


def _token(headers: Mapping[str, str]) -> str:
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    found = {bearer.strip() if scheme.lower() == "bearer" else "", headers.get("x-api-key", "")} - {""}
    if len(found) > 1:
        raise Refusal(400, "Two different API keys were sent; send one.")
    return found.pop() if found else ""


class _Bounded:
    """Counts a body while it is read, whatever its headers say."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit, self._read = receive, limit, 0
        self._until: float | None = asyncio.get_running_loop().time() + BODY_SECONDS

    async def __call__(self) -> Message:
        if self._until is None:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"The body took over {BODY_SECONDS:.0f} seconds; send it faster.") from None
        if not message.get("more_body"):
            self._until = None  # what is waited for then is the end of the connection
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            if self._read > self._limit:
                raise HTTPException(413, f"The body is over {self._limit} bytes (`max_body`).")
        return message


def caller_of(scope: Scope) -> Caller:
    """Return who asks; every route but the open ones has one."""
    caller = scope["state"]["caller"]
    assert isinstance(caller, Caller)
    return caller
