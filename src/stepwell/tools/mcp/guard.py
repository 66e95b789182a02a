"""Where a login may lead: to the server that the settings name, to hosts that they name besides, and to public ones.

A server says itself who logs people in at it, and could name an address inside of the network that this program is in.
So what it names is spoken to over HTTPS only, at addresses that everybody can reach, and at the one that was looked at.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import httpx2

from stepwell.errors import ToolError
from stepwell.tools.mcp.base import ServerSpec

MOST_ANSWER = 1 << 20
"""Bytes of one answer."""
SECONDS = 30.0
"""For one request."""


class Guarded(httpx2.AsyncBaseTransport):
    """Sends the requests of a login.

    Args:
        spec: The server.
    """

    def __init__(self, spec: ServerSpec) -> None:
        # Connections are known by address; one that was made for a host serves no other there.
        self._spec, self._inner = spec, httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_keepalive_connections=0))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; see `AsyncBaseTransport`.

        Raises:
            ToolError: It leads where nothing may be asked, or the answer is too long.
            TimeoutError: The answer takes too long.
        """
        async with asyncio.timeout(SECONDS):
            response = await self._inner.handle_async_request(await self._placed(request))
            if not isinstance(response.stream, httpx2.AsyncByteStream):
                return response
            body = b""
            try:
                async for part in response.stream:
                    body += part
                    if len(body) > MOST_ANSWER:
                        raise ToolError(f"the answer of {request.url.host} is too long")
            finally:
                await response.stream.aclose()
        # What is packed has no bounds once it is unpacked, and nothing packed was asked for.
        left_out = ("transfer-encoding", "content-encoding")
        headers = [each for each in response.headers.multi_items() if each[0].lower() not in left_out]
        return httpx2.Response(response.status_code, headers=headers, stream=httpx2.ByteStream(body))

    async def _placed(self, request: httpx2.Request) -> httpx2.Request:
        """Return a request as it is sent: to the very address that was looked at."""
        url = request.url
        check(self._spec, str(url))
        request.headers["accept-encoding"] = "identity"
        if _is_named(self._spec, url):
            return request
        address = await _public(url.host, url.port or 443)
        extensions = {**request.extensions, "sni_hostname": url.host}
        placed = url.copy_with(host=address)
        return httpx2.Request(
            request.method, placed, headers=request.headers, stream=request.stream, extensions=extensions
        )

    async def aclose(self) -> None:
        """Close its connections."""
        await self._inner.aclose()


def check(spec: ServerSpec, address: str) -> None:
    """Refuse an address where nobody may be led; where it is to be found is not looked up.

    Args:
        spec: The server.
        address: It.

    Raises:
        ToolError: It is of none of the kinds above.
    """
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL as error:
        raise ToolError("the login leads to what is no address") from error
    if url.scheme != "https" and not (url.scheme == "http" and _is_named(spec, url)):
        raise ToolError(f"the login leads to {url.scheme}://{url.netloc.decode()}, which is no HTTPS")


def _is_named(spec: ServerSpec, url: httpx2.URL) -> bool:
    own = httpx2.URL(spec.url)
    if (url.scheme, url.host, url.port) == (own.scheme, own.host, own.port):
        return True
    return url.host in spec.login_hosts or url.netloc.decode() in spec.login_hosts


async def _public(host: str, port: int) -> str:
    """Return an address of a host all of whose addresses everybody can reach.

    Raises:
        ToolError: It has others, or none.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ToolError(f"the login leads to {host}, which cannot be found") from error
    addresses = [str(each[4][0]) for each in found]
    if not addresses or not all(_is_public(each) for each in addresses):
        remedy = "name it in `oauth_hosts` if it may be asked"
        raise ToolError(f"the login leads to {host}, which is inside of a network; {remedy}")
    return addresses[0]


def _is_public(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # an address of one link only
        return False
    if found.version == 6 and found not in _PUBLIC:
        return False
    return found.is_global and not found.is_multicast and not any(found in each for each in _INSIDE)


_PUBLIC = ipaddress.ip_network("2000::/3")
"""All addresses of IPv6 that are given out to everybody; others stand for those of IPv4, or for networks."""
_INSIDE = tuple(
    map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "2001::/23", "2002::/16"))
)
"""Addresses that count as global, and lead to the services of a cloud, or stand for others."""
