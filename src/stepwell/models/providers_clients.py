"""Clients of vendors, made by pydantic-ai from our settings. It makes no requests.

A key and an address are handed over explicitly; a client looks for what it is not given itself, as its vendor's
documents say (`AWS_DEFAULT_REGION`, for example). Connections are ours to close.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import httpx2
from pydantic_ai.exceptions import UserError
from pydantic_ai.models import Model, create_async_httpx2_client, infer_model
from pydantic_ai.providers import Provider, infer_provider_class

from stepwell.errors import ConfigError

INCLUDED = ("anthropic", "bedrock", "google", "mistral")
"""Vendors whose clients come with the extra `providers`."""

_NAMES_KEPT = 64

_OPENED: ContextVar[list[httpx2.Response] | None] = ContextVar("stepwell_opened_responses", default=None)


@asynccontextmanager
async def closing_responses() -> AsyncGenerator[None]:
    """Close the responses of the requests in a block, at the latest when it is left.

    Not every vendor's client closes the one that it is in the middle of: Google's leaves it to the collector.
    """
    opened: list[httpx2.Response] = []
    _OPENED.set(opened)
    try:
        yield
    finally:
        for response in opened:
            await response.aclose()
        opened.clear()


async def _note(response: httpx2.Response) -> None:
    if (opened := _OPENED.get()) is not None:
        opened.append(response)
    if response.is_error:
        await response.aread()  # Mistral's client does not read one without a content type, and stumbles over it


class Client:
    """A vendor's client, for one event loop.

    Args:
        make: Returns pydantic-ai's model of a name.
        shut: Closes connections.
        vendor: pydantic-ai's name of it.
    """

    def __init__(
        self,
        make: Callable[[str], Model],
        shut: Callable[[], Awaitable[None]] | None = None,
        vendor: str = "",
    ) -> None:
        self.vendor = vendor
        self._make, self._shut = make, shut
        self._models: dict[str, Model] = {}

    def model(self, name: str) -> Model:
        """Return pydantic-ai's model of this name."""
        found = self._models.get(name)
        if found is None:
            if len(self._models) >= _NAMES_KEPT:
                self._models.clear()
            found = self._models[name] = self._make(name)
        return found

    async def close(self) -> None:
        """Close the connections."""
        if self._shut is not None:
            await self._shut()


def client_of(vendor: str, *, api_key: str, base_url: str, connect: float, stall: float) -> Client:
    """Return a new client.

    Args:
        vendor: pydantic-ai's name of it.
        api_key: Empty: what the client finds for itself.
        base_url: Empty: the vendor's own.
        connect: Seconds until a connection stands.
        stall: Seconds without a byte.

    Raises:
        ConfigError: As for `provider_model`.
    """
    kind = _provider_class(vendor)
    known = inspect.signature(kind).parameters
    given: dict[str, Any] = {}
    for name, value in (("api_key", api_key), ("base_url", base_url)):
        if value and name not in known:
            raise ConfigError(f"`{name}` is no setting of a model of {vendor}; leave it out")
        if value:
            given[name] = value
    http: httpx2.AsyncClient | None = None
    if "http_client" in known:
        http = create_async_httpx2_client(timeout=httpx2.Timeout(stall, connect=connect))
        # A compressed stream waits for its blocks to fill.
        http.headers["accept-encoding"] = "identity"
        http.event_hooks["response"].append(_note)
        given["http_client"] = http
    elif vendor == "bedrock":
        given |= {"aws_read_timeout": stall, "aws_connect_timeout": connect}
    try:
        provider = kind(**given)
        if vendor == "bedrock":
            _without_retries(provider.client)
    except Exception as error:  # vendors' clients raise what they like over a setting that they miss
        raise ConfigError(_missing(vendor, error, key_wanted=not api_key and "api_key" in known)) from error
    return Client(lambda name: infer_model(f"{vendor}:{name}", lambda _: provider), http and http.aclose, vendor)


def _provider_class(vendor: str) -> type[Provider[Any]]:
    try:
        return infer_provider_class(vendor)
    except ImportError as error:
        extra = "stepwell[providers]" if vendor in INCLUDED else f"pydantic-ai-slim[{vendor}]"
        raise ConfigError(f'the client of {vendor} is not installed; pip install "{extra}"') from error
    except ValueError as error:
        raise ConfigError(f"there is no vendor {vendor!r}; known: {', '.join(INCLUDED)} and others") from error


def _missing(vendor: str, error: Exception, *, key_wanted: bool) -> str:
    """Say what to set; what a client says of itself may name its variables, but never a key."""
    if key_wanted and vendor != "bedrock" and isinstance(error, UserError):
        return f"{vendor} wants a key; name the variable that holds it in `api_key_env`"
    return f"{vendor} cannot be asked with these settings: {error}"


def _without_retries(client: Any) -> None:
    """Take the retries out of a client of boto3, which has no setting for them once it is made."""
    service = client.meta.service_model.service_id.hyphenize()
    client.meta.events.unregister(f"needs-retry.{service}", unique_id=f"retry-config-{service}")
