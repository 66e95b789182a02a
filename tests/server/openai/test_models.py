"""Which names there are under /v1, and what each of them means."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from openai import AuthenticationError, NotFoundError

from stepwell.config import Config
from stepwell.errors import NotFound
from stepwell.server.openai.models import is_bare, resolve
from stepwell.wiring.catalog import ConfigCatalog
from tests.support.openai_client import official
from tests.support.server import serving

MODELS: Any = {"m": {"base_url": "http://127.0.0.1:9/v1"}, "twin": {"base_url": "http://127.0.0.1:9/v1"}}
AGENTS: Any = {"twin": {"description": "Has a model's name."}, "writer": {"description": "Writes."}}


def catalog() -> ConfigCatalog:
    return ConfigCatalog(Config(models=MODELS, agents=AGENTS))


@pytest.mark.parametrize(
    ("name", "agent", "model"),
    [
        ("stepwell", "default", ""),
        ("agent:stepwell", "default", ""),
        ("agent:default", "default", ""),
        ("writer", "writer", ""),
        ("agent:writer", "writer", ""),
        ("twin", "twin", ""),
        ("agent:twin", "twin", ""),
        ("model:twin", "", "twin"),
        ("m", "", "m"),
        ("model:m", "", "m"),
        ("offline", "", "offline"),
    ],
)
def test_a_name_means_an_agent_before_a_model_and_either_where_it_says_so(name: str, agent: str, model: str) -> None:
    wish = resolve(catalog(), name)
    assert (wish.agent, wish.model, is_bare(wish)) == (agent, model, bool(model))
    if model:
        assert (wish.tools, wish.system, wish.engine) == ((), "", "chat")


@pytest.mark.parametrize("name", ["", "gpt-5", "agent:m", "model:writer", "model:", "agent:", "default"])
def test_another_name_is_refused_with_those_that_are_known(name: str) -> None:
    with pytest.raises(NotFound, match="known: stepwell, twin, writer, m") as raised:
        resolve(catalog(), name)
    assert raised.value.field == "model"


def test_an_agent_of_the_settings_may_take_the_default_agents_name() -> None:
    agents: Any = {"stepwell": {"description": "Another."}}
    own = ConfigCatalog(Config(agents=agents))
    assert resolve(own, "stepwell").agent == "stepwell"
    assert resolve(own, "agent:default").agent == "default"


def test_the_official_client_lists_agents_and_models_and_finds_each(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, models=MODELS, agents=AGENTS) as server, official(server) as client:
            listed = [(each.id, each.owned_by) async for each in client.models.list()]
            assert listed == [
                ("stepwell", "stepwell"),
                ("twin", "stepwell"),
                ("writer", "stepwell"),
                ("m", "openai"),
                ("model:twin", "openai"),
                ("offline", "offline"),
            ]
            for id, owner in listed:
                found = await client.models.retrieve(id)
                assert (found.id, found.owned_by, found.object) == (id, owner, "model")
                assert found.created > 1_700_000_000

    asyncio.run(main())


def test_an_unknown_model_is_not_found_in_openais_shape(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server, official(server) as client:
            with pytest.raises(NotFoundError) as raised:
                await client.models.retrieve("org/gpt-5")
            assert raised.value.body == {
                "message": "There is no agent or model 'org/gpt-5'; known: stepwell, offline.",
                "type": "not_found_error",
                "param": "model",
                "code": "model_not_found",
            }
            status, body = await server.call("GET", "/v1/nothing")
            assert (status, body["error"]["type"]) == (404, "not_found_error")
            status, body = await server.call("PUT", "/v1/models")
            assert (status, body["error"]["type"]) == (405, "invalid_request_error")

    asyncio.run(main())


def test_who_sends_no_good_key_or_comes_from_elsewhere_is_told_so_in_openais_shape(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, auth="keys", max_body=1000) as server:
            async with official(server, key="wrong") as client:
                with pytest.raises(AuthenticationError) as raised:
                    await client.models.list()
                assert raised.value.type == "authentication_error"
            status, body = await server.call("GET", "/v1/models", headers={"origin": "https://evil.example"})
            assert (status, body["error"]["type"], body["error"]["param"]) == (403, "invalid_request_error", None)
            big = {"model": "stepwell", "messages": [{"role": "user", "content": "x" * 2000}]}
            status, body = await server.call("POST", "/v1/chat/completions", json=big)
            assert (status, body["error"]["type"]) == (413, "invalid_request_error")
            assert "max_body" in body["error"]["message"]

    asyncio.run(main())


def test_a_page_of_an_allowed_origin_may_use_openais_client(tmp_path: Path) -> None:
    async def main() -> None:
        origin = "https://chat.example"
        async with serving(tmp_path, auth="keys", origins=[origin]) as server:
            asked = {"origin": origin, "access-control-request-method": "POST"}
            asked["access-control-request-headers"] = "authorization,content-type,x-stainless-lang,openai-project"
            path = server.url + "/v1/chat/completions"
            async with server.session.options(path, headers=asked) as answer:
                assert answer.status == 200
                assert answer.headers["access-control-allow-origin"] == origin

    asyncio.run(main())
