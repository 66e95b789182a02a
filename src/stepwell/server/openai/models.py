"""Names under `/v1`: agents and bare models, one list for all of OpenAI's protocols."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from stepwell.errors import NotFound
from stepwell.runs.catalog import Catalog, Wish
from stepwell.server.asking import JsonRoute, json_response

DEFAULT = "stepwell"
"""The name of the default agent."""
AGENT, MODEL = "agent:", "model:"
"""What a name begins with that means an agent, or a model, whatever else has the name."""


def resolve(catalog: Catalog, model: str) -> Wish:
    """Return what a name asks for: an agent with all that it has, or a model with nothing added.

    An agent goes before a model of the same name. A bare model (`is_bare`) has no tools, an empty system message and
    the engine `chat`; replace further fields with `msgspec.structs.replace`.

    Args:
        catalog: Agents and models.
        model: The field `model` of a request.

    Raises:
        NotFound: There is neither; its field is `model`.
    """
    agents, models = _agents(catalog), [each.name for each in catalog.models()]
    if model.startswith(AGENT) and (name := model.removeprefix(AGENT)) in {**agents, "default": "default"}:
        return Wish(agent=agents.get(name, name))
    if model.startswith(MODEL) and (name := model.removeprefix(MODEL)) in models:
        return _bare(name)
    if model in agents:
        return Wish(agent=agents[model])
    if model in models:
        return _bare(model)
    known = ", ".join(dict.fromkeys([*agents, *models]))
    raise NotFound(f"There is no agent or model {model[:200]!r}; known: {known}.", "model")


def is_bare(wish: Wish) -> bool:
    """Tell whether a wish of `resolve` asks for a model without an agent around it."""
    return bool(wish.model) and not wish.agent


def models_router(catalog: Catalog, created: int) -> APIRouter:
    """Return the routes that list what can be named.

    Args:
        catalog: Agents and models.
        created: What each of them has as its time, in seconds since 1970: the settings have none.
    """
    router = APIRouter(prefix="/v1", route_class=JsonRoute)

    @router.get("/models", tags=["openai"])
    async def list_openai_models() -> Response:  # pyright: ignore[reportUnusedFunction]
        """List agents and models as OpenAI lists models, the default agent first."""
        return json_response({"object": "list", "data": _listed(catalog, created)})

    @router.get("/models/{id:path}", tags=["openai"])
    async def get_openai_model(id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Show one agent or model."""
        wish = resolve(catalog, id)
        return json_response(_model(id, _kind(catalog, wish.model) if is_bare(wish) else "stepwell", created))

    return router


def _agents(catalog: Catalog) -> dict[str, str]:
    """Return the names of agents here, and those that they have in the settings."""
    return {DEFAULT: "default"} | {each.name: each.name for each in catalog.agents() if each.name != "default"}


def _bare(name: str) -> Wish:
    return Wish(model=name, tools=(), system="", engine="chat")


def _kind(catalog: Catalog, name: str) -> str:
    return next((each.kind for each in catalog.models() if each.name == name), "")


def _listed(catalog: Catalog, created: int) -> list[dict[str, Any]]:
    agents = _agents(catalog)
    listed = [_model(name, "stepwell", created) for name in agents]
    for each in catalog.models():
        name = each.name if each.name not in agents else MODEL + each.name
        listed.append(_model(name, each.kind, created))
    return listed


def _model(id: str, owner: str, created: int) -> dict[str, Any]:
    return {"id": id, "object": "model", "created": created, "owned_by": owner}
