"""Chat completions that clients send again: by hand after a failure, or by themselves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, BadRequestError

from tests.server.openai.test_chat_tools import ASK, ask, looks, results, told
from tests.support.endpoint import Endpoint, chunk, error, stream, text, tool_calls
from tests.support.openai_client import WEATHER, official
from tests.support.server import scripted, serving


@pytest.mark.parametrize("how", ["failed", "closed"])
def test_results_that_came_to_no_answer_can_be_sent_again(tmp_path: Path, how: str) -> None:
    async def main() -> None:
        held = asyncio.Event()
        lost = error(400, "busy") if how == "failed" else stream(chunk(content="It"), held)
        async with (
            Endpoint([looks("Rome"), lost, text("Warm.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            first = await ask(client, ASK)
            history = [*ASK, first.message, *results(first, "20")]
            if how == "failed":
                with pytest.raises(BadRequestError):
                    await ask(client, history, streamed=False)
            else:
                body = {"model": "m", "messages": history, "tools": [WEATHER], "stream": True}
                left = await server.stream("POST", "/v1/chat/completions", body)
                await endpoint.request(1)
                left.cut()
            await server.ended(first.place["thread"], first.place["run"])
            again = await ask(client, history)
            assert (again.content, again.finish) == ("Warm.", "stop")
            assert again.place["thread"] != first.place["thread"]
            assert (await told(endpoint, 2)) == ["20"]

    asyncio.run(main())


def test_results_under_a_key_are_told_the_same_end_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Endpoint([looks("Rome"), error(400, "busy"), text("Warm.")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint)) as server,
            official(server) as client,
        ):
            first = await ask(client, ASK)
            history = [*ASK, first.message, *results(first, "20")]
            keyed: Any = {"streamed": False, "extra_headers": {"Idempotency-Key": "k"}}
            for _ in range(2):
                with pytest.raises(BadRequestError) as raised:
                    await ask(client, history, **keyed)
                assert raised.value.code == "request"
            with pytest.raises(APIStatusError) as raised:
                await ask(client, [*ASK, first.message, *results(first, "21")], **keyed)
            assert raised.value.status_code == 409
            assert (await ask(client, history, streamed=False)).content == "Warm."

    asyncio.run(main())


@pytest.mark.parametrize("model", ["m", "stepwell"])
def test_the_official_client_does_not_repeat_a_run_that_failed(tmp_path: Path, model: str) -> None:
    async def main() -> None:
        acts = tool_calls(("c1", "calculate", ['{"query": "6*7"}']))
        replies = [acts, error(500, "down")] if model == "stepwell" else [error(500, "down")]
        async with (
            Endpoint(replies) as endpoint,
            serving(tmp_path, models=scripted(endpoint, attempts=1)) as server,
            official(server, retries=2) as client,
        ):
            with pytest.raises(APIStatusError) as raised:
                await client.chat.completions.create(model=model, messages=ASK)
            assert (raised.value.status_code, raised.value.response.headers["x-should-retry"]) == (502, "false")
            assert len(await server.service.threads("local")) == 1

    asyncio.run(main())
