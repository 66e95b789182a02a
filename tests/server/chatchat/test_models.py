"""`/llm_model/*` and `/server/*`: what old clients read of models and settings, and what they cannot change."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import serving

SECRET = "sk-0123456789"
SETTINGS: dict[str, Any] = {
    "models": {
        "big": {"base_url": "http://127.0.0.1:9/v1/hidden", "api_key": SECRET, "window": 9000},
        "small": {"base_url": "http://127.0.0.1:9/v1", "model": "real-name", "dialect": "react"},
    },
    "chatchat": {"agent_model": "small", "history_rounds": 4, "language": "en"},
}


def ask(tmp_path: Path, path: str, body: Any = None) -> Any:
    """Ask one route and return its body; nothing secret is in it."""

    async def main() -> Any:
        async with serving(tmp_path, **SETTINGS) as server:
            status, answer = await server.call("POST", path, json=body)
            assert status == 200
            told = json.dumps(answer)
            assert SECRET not in told
            assert "hidden" not in told
            assert str(tmp_path) not in told
            return answer

    return asyncio.run(main())


def test_running_models_are_those_of_the_settings(tmp_path: Path) -> None:
    answer = ask(tmp_path, "/llm_model/list_running_models", {"controller_address": "http://127.0.0.1:1"})
    assert (answer["code"], answer["msg"], list(answer["data"])) == (200, "success", ["big", "small", "offline"])
    assert answer["data"]["small"] == {
        "model_name": "real-name",
        "online_api": True,
        "context_length": 8192,
        "dialect": "react",
        "images": False,
        "default": False,
    }


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (None, {"local": ["offline"], "online": ["big", "small"]}),
        ({"types": ["online", "worker"]}, {"online": ["big", "small"]}),
    ],
)
def test_models_are_listed_by_where_they_are(tmp_path: Path, body: Any, found: Any) -> None:
    data = ask(tmp_path, "/llm_model/list_config_models", body)["data"]
    assert {kind: list(models) for kind, models in data.items()} == found


def test_one_model_can_be_looked_at(tmp_path: Path) -> None:
    answer = ask(tmp_path, "/llm_model/get_model_config", {"model_name": "big", "placeholder": None})
    assert (answer["code"], answer["data"]["context_length"]) == (200, 9000)
    assert ask(tmp_path, "/llm_model/get_model_config", {"model_name": "none"})["code"] == 404


@pytest.mark.parametrize("path", ["/llm_model/stop", "/llm_model/change"])
def test_no_request_changes_the_models(tmp_path: Path, path: str) -> None:
    answer = ask(tmp_path, path, {"model_name": "big", "new_model_name": "small"})
    assert (answer["code"], answer["data"]) == (403, None)


def test_settings_have_their_old_names(tmp_path: Path) -> None:
    answer = ask(tmp_path, "/server/configs")
    assert answer["LLM_MODELS"] == ["big", "small", "offline"]
    assert (answer["Agent_MODEL"], answer["HISTORY_LEN"], answer["TEMPERATURE"]) == ("small", 4, 0.7)
    assert answer["api_address"].startswith("http://127.0.0.1:")


def test_there_are_no_search_engines(tmp_path: Path) -> None:
    assert ask(tmp_path, "/server/list_search_engines") == {"code": 200, "msg": "success", "data": []}


def test_a_template_is_the_whole_answer_in_0_2_and_data_in_0_3(tmp_path: Path) -> None:
    route = "/server/get_prompt_template"
    assert ask(tmp_path, route) == "{input}"
    assert "{agent_scratchpad}" in ask(tmp_path, route, {"type": "agent_chat", "name": "ChatGLM3"})
    assert ask(tmp_path, route, {"type": "agent_chat", "name": "none"}) is None
    assert ask(tmp_path, route, {"type": "knowledge_base_chat"}) is None
    assert ask(tmp_path, route, {"type": "llm_model"})["data"] == "{input}"
    assert ask(tmp_path, route, {"type": "rag"})["code"] == 404


def test_an_old_route_that_is_not_here_says_so_in_both_old_shapes(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server:
            for method, path in (
                ("POST", "/chat/knowledge_base_chat"),
                ("GET", "/knowledge_base/list_knowledge_bases"),
                ("POST", "/other/embed_texts"),
                ("POST", "/tools/none"),
            ):
                status, body = await server.call(method, path, json={} if method == "POST" else None)
                assert (status, body["detail"], body["code"], body["data"]) == (404, "Not Found", 404, None)
                assert "docs/chatchat.md" in body["msg"]
            status, body = await server.call("GET", "/chat/chat")
            assert (status, body["detail"]) == (405, "Method Not Allowed")
            status, body = await server.call("GET", "/api/none")
            assert (status, list(body)) == (404, ["error"])

    asyncio.run(main())
