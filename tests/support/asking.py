"""Asking an `OpenAIModel` at a scripted endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from stepwell.messages import Message, Transcript
from stepwell.models.base import Delta, Model, ModelRequest, Settings
from stepwell.models.openai import OpenAIModel
from stepwell.models.retries import Retries
from tests.support.endpoint import WAIT, Endpoint, Reply, Request

KEY = "sk-secret-0123456789"
AT_ONCE = Retries(attempts=3, base=0.0)


def asked(content: str = "Hello?", settings: Settings | None = None, **more: Any) -> ModelRequest:
    return ModelRequest(Transcript([Message("user", content)]), settings=settings, **more)


def model_at(endpoint: Endpoint, **options: Any) -> OpenAIModel:
    return OpenAIModel(endpoint.base_url, "m", **{"api_key": KEY, "retries": AT_ONCE, **options})


async def collect(model: Model, request: ModelRequest | None = None) -> list[Delta]:
    async with asyncio.timeout(WAIT):
        return [delta async for delta in model.stream(request or asked())]


def asks(*replies: Reply, settings: Settings | None = None, **options: Any) -> tuple[list[Delta], list[Request]]:
    """Ask an endpoint with these replies once; return the deltas and the requests that came."""

    async def main() -> tuple[list[Delta], list[Request]]:
        async with Endpoint(replies) as endpoint:
            model = model_at(endpoint, **options)
            deltas = await collect(model, asked(settings=settings))
            await model.close()
            return deltas, endpoint.requests

    return asyncio.run(main())


def joined(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)
