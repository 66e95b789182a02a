"""`/llm_model/*` and `/server/*` of Langchain-Chatchat 0.2: what can be read of models and settings; nothing changes.

An address in a request is never called, and nothing secret is told.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response

from stepwell.config import Config
from stepwell.prompts import load, names
from stepwell.runs.catalog import Catalog, ModelInfo
from stepwell.server.asking import json_response
from stepwell.server.chatchat.bodies import OldModelBody, OldModelsBody, OldTemplateBody
from stepwell.server.chatchat.envelope import envelope
from stepwell.server.chatchat.wishes import model_of
from stepwell.server.chatchat.words import template

VERSION = "v0.2.10"
"""What the newest service of this protocol said that it is."""
LOCAL = ("offline", "scripted")
"""Kinds of models that need no endpoint."""
_REFUSED = "Models are switched on and off by the settings, not by a request; ask whoever runs the server."
_CHATS, _AGENTS = ("llm_chat", "llm_model"), ("agent_chat", "action_model")
"""What 0.2 and 0.3 call the types of templates that there are here."""
_OLD_TYPES = ("llm_chat", "knowledge_base_chat", "search_engine_chat", "agent_chat")
"""Types of templates in 0.2, where the answer is the bare template; 0.3 has it in the envelope."""


def model_routes(router: APIRouter, catalog: Catalog) -> None:
    """Add the routes under `/llm_model`.

    Args:
        router: Of the old routes.
        catalog: Models and tools.
    """

    def told(*kinds: str) -> dict[str, Any]:
        wanted = {"local": True, "online": False}
        return {
            kind: {each.name: _model(each) for each in catalog.models() if (each.kind in LOCAL) is wanted[kind]}
            for kind in kinds
            if kind in wanted
        }

    @router.post("/llm_model/list_running_models", tags=["chatchat"])
    async def list_running_models() -> Response:  # pyright: ignore[reportUnusedFunction]
        """List the models that answer: all of the settings."""
        return envelope({each.name: _model(each) for each in catalog.models()})

    @router.post("/llm_model/list_config_models", tags=["chatchat"])
    async def list_config_models(body: Annotated[OldModelsBody | None, Body()] = None) -> Response:  # pyright: ignore[reportUnusedFunction]
        """List the models of the settings by where they are."""
        return envelope(told(*(body or OldModelsBody()).types))

    @router.post("/llm_model/get_model_config", tags=["chatchat"])
    async def get_model_config(body: Annotated[OldModelBody | None, Body()] = None) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Show what may be known of a model."""
        name = body.model_name if body else ""
        found = next((each for each in catalog.models() if each.name == name or (not name and each.default)), None)
        if found is None:
            return envelope({}, 404, f"There is no model {name!r} in the settings.")
        return envelope(_model(found))

    @router.post("/llm_model/stop", tags=["chatchat"])
    @router.post("/llm_model/change", tags=["chatchat"])
    async def change_models() -> Response:  # pyright: ignore[reportUnusedFunction]
        """Refuse: a request cannot change which models there are."""
        return envelope(None, 403, _REFUSED)


def server_routes(router: APIRouter, config: Config, catalog: Catalog) -> None:
    """Add the routes under `/server`.

    Args:
        router: Of the old routes.
        config: The settings.
        catalog: Models and tools.
    """

    @router.post("/server/configs", tags=["chatchat"])
    async def configs(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Show settings under their old names, without secrets and paths."""
        return json_response({**_configs(config, catalog), "api_address": str(request.base_url).rstrip("/")})

    @router.post("/server/list_search_engines", tags=["chatchat"])
    async def list_search_engines() -> Response:  # pyright: ignore[reportUnusedFunction]
        """List search engines: there are none."""
        return envelope([])

    @router.post("/server/get_prompt_template", tags=["chatchat"])
    async def get_prompt_template(body: Annotated[OldTemplateBody | None, Body()] = None) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Show a template: in 0.2 it is the whole answer, in 0.3 the envelope's data."""
        wanted = body or OldTemplateBody()
        found = _template(wanted.type, wanted.name, config.chatchat.language)
        if wanted.type in _OLD_TYPES:
            return json_response(found)
        return envelope(found) if found is not None else envelope(None, 404, "Prompt template not found")


def _model(info: ModelInfo) -> dict[str, Any]:
    return {
        "model_name": info.model,
        "online_api": info.kind not in LOCAL,
        "context_length": info.window,
        "dialect": info.dialect or "native",
        "images": info.images,
        "default": info.default,
    }


def _configs(config: Config, catalog: Catalog) -> dict[str, Any]:
    settings = config.chatchat
    known = [each.name for each in catalog.models()]
    return {
        "VERSION": VERSION,
        "LLM_MODELS": [model_of(config, ""), *(name for name in known if name != model_of(config, ""))],
        "Agent_MODEL": settings.agent_model or None,
        "SUPPORT_AGENT_MODEL": known,
        "HISTORY_LEN": settings.history_rounds,
        "TEMPERATURE": settings.temperature,
        "MAX_TOKENS": config.agent.max_tokens,
        "OPEN_CROSS_DOMAIN": bool(config.origins),
    }


def _template(type: str, name: str, language: str) -> str | None:
    if type in _CHATS:
        return template(name, language)
    if type not in _AGENTS or name not in names("react"):
        return None
    found = load("react", name, language)
    return found.render(**{each: f"{{{each}}}" for each in found.variables})
