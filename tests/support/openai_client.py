"""OpenAI's official client against the server of a test."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from openai import AsyncOpenAI

from tests.support.server import WAIT, Server

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}


@asynccontextmanager
async def official(server: Server, *, retries: int = 0, key: str = "") -> AsyncGenerator[AsyncOpenAI]:
    """Give the official client, without proxies of the environment and by default without retries."""
    made = AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key=key or server.key or "none", max_retries=retries, timeout=WAIT
    )
    async with made as client:
        yield client


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}
