"""The adapter for vendors with protocols of their own, over `pydantic_ai.direct`: Anthropic, Gemini, Bedrock, Mistral.

It keeps our port: deltas and failures as in `openai.py`, retries as in `retries.py`. pydantic-ai makes the requests and
reads the replies; its own retries are off. It needs the extra `providers`, and importing it takes seconds: import it
lazily. It runs no tools and keeps no history. `docs/providers.md` tells what it sends and what it leaves out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager

import msgspec
from pydantic_ai.direct import model_request_stream
from pydantic_ai.models import StreamedResponse

from stepwell.errors import ConfigError
from stepwell.models.base import Delta, ModelProfile, ModelRequest
from stepwell.models.providers_clients import Client, client_of, closing_responses
from stepwell.models.providers_failures import Setback, setback_of
from stepwell.models.providers_kept import signed_form
from stepwell.models.providers_reply import EventReader
from stepwell.models.providers_request import messages_of, parameters_of, settings_of
from stepwell.models.retries import RETRIES, TIMEOUTS, Retries, Timeouts

_PROFILE = ModelProfile()


def provider_model(
    vendor: str,
    model: str,
    *,
    api_key: str = "",
    base_url: str = "",
    profile: ModelProfile = _PROFILE,
    timeouts: Timeouts = TIMEOUTS,
    retries: Retries = RETRIES,
) -> ProviderModel:
    """Return a model of a vendor that pydantic-ai knows.

    Args:
        vendor: pydantic-ai's name of it, such as `anthropic`.
        model: The vendor's name of the model, sent where a request names none.
        api_key: Never shown in a message; empty: what the vendor's client finds for itself. White space around it,
            such as the end of a line of a file, is no part of it.
        base_url: Empty: the vendor's own endpoint.
        profile: Facts about the model's family.
        timeouts: How long to wait.
        retries: When to try again.

    Raises:
        ConfigError: There is no such vendor, its client is not installed, or something it needs is not set or no key.
    """
    api_key = api_key.strip()
    if not (api_key.isascii() and api_key.isprintable()):
        # Clients that cannot send it would say so with the key, written such that we do not find it.
        raise ConfigError("`api_key` holds characters that no key has; set it anew, without breaks and quotation marks")

    def connect() -> Client:
        return client_of(vendor, api_key=api_key, base_url=base_url, connect=timeouts.connect, stall=timeouts.stall)

    secrets = (api_key,) if api_key else ()
    return ProviderModel(connect, model, profile=profile, timeouts=timeouts, retries=retries, secrets=secrets)


class ProviderModel:
    """A model behind a client of pydantic-ai.

    Args:
        connect: Makes a client; called at once, so that a wrong setting shows, and once more for each further event
            loop.
        model: The name sent where a request names none.
        profile: Facts about the model's family.
        timeouts: How long to wait.
        retries: When to try again.
        secrets: What no message may show.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        model: str,
        *,
        profile: ModelProfile = _PROFILE,
        timeouts: Timeouts = TIMEOUTS,
        retries: Retries = RETRIES,
        secrets: tuple[str, ...] = (),
    ) -> None:
        self.profile = profile
        self._connect, self._model, self._secrets = connect, model, secrets
        self._timeouts, self._retries = timeouts, retries
        self._unused: Client | None = connect()
        self._clients: dict[asyncio.AbstractEventLoop, Client] = {}

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Delta]:
        """Stream one reply; each retry is announced by a delta with a failure and no `stop`.

        Closing the generator or cancelling its task closes the vendor's connection.
        """
        attempt = 0
        while True:
            attempt += 1
            reader = EventReader(request.settings.max_tokens)
            setback: Setback | None = None
            try:
                client = self._client()
                async with closing_responses(), self._open(client, request) as events:
                    async for event in events:
                        if (delta := reader.read(event)) is not None:
                            yield delta
                    reply = events.get()
                    delta = msgspec.structs.replace(reader.last(reply), signed=signed_form(reply))
            except Exception as error:  # whatever a vendor's client raises is a failure of the reply
                setback = setback_of(error, self._timeouts.connect, self._timeouts.stall)
                delta = Delta(failure=setback.failure, stop="error")
            if delta.failure is None:
                yield delta
                return
            failure, asked = delta.failure, setback.retry_after if setback is not None else None
            may_pass = failure.kind == "broken" if setback is None else setback.may_pass
            may_pass = may_pass and not reader.started
            delta, wait = self._retries.judge(delta, failure, attempt, asked, may_pass=may_pass, secrets=self._secrets)
            yield delta
            if wait is None:
                return
            await asyncio.sleep(wait)

    async def close(self) -> None:
        """Close the connections of this event loop, and forget those of loops that are over."""
        here = asyncio.get_running_loop()
        for loop in [loop for loop in self._clients if loop is not here and loop.is_closed()]:
            del self._clients[loop]
        if (client := self._clients.pop(here, None)) is not None:
            await client.close()
        if self._unused is not None:
            await self._unused.close()
            self._unused = None

    def _client(self) -> Client:
        here = asyncio.get_running_loop()
        client = self._clients.get(here)
        if client is None:
            client, self._unused = self._unused or self._connect(), None
            for loop in [loop for loop in self._clients if loop.is_closed()]:
                del self._clients[loop]
            self._clients[here] = client
        return client

    def _open(self, client: Client, request: ModelRequest) -> AbstractAsyncContextManager[StreamedResponse]:
        model = client.model(request.model or self._model)
        return model_request_stream(
            model,
            messages_of(request, self.profile, client.vendor),
            model_settings=settings_of(request, self.profile, model.unsupported_settings, self._timeouts.stall),
            model_request_parameters=parameters_of(request, model.profile),
            instrument=False,
        )
