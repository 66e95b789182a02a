"""All routes of old Langchain-Chatchat clients."""

from __future__ import annotations

from fastapi import APIRouter

from stepwell.config import Config
from stepwell.runs.catalog import Catalog
from stepwell.runs.service import RunService
from stepwell.server.asking import JsonRoute
from stepwell.server.chatchat.agent_chat import agent_chat_route
from stepwell.server.chatchat.chat import chat_route, completion_route
from stepwell.server.chatchat.completions import completions_route
from stepwell.server.chatchat.feedback import feedback_route
from stepwell.server.chatchat.models import model_routes, server_routes
from stepwell.server.chatchat.tools import tool_routes


def chatchat_router(config: Config, service: RunService, catalog: Catalog) -> APIRouter:
    """Return the routes of old clients.

    Args:
        config: The settings.
        service: Threads and runs.
        catalog: Models and tools.
    """
    router = APIRouter(route_class=JsonRoute, strict_content_type=False)
    agent_chat_route(router, config, service, catalog)
    chat_route(router, config, service, catalog)
    completion_route(router, config, service, catalog)
    completions_route(router, config, service, catalog)
    feedback_route(router, service)
    model_routes(router, catalog)
    server_routes(router, config, catalog)
    tool_routes(router, config, service, catalog)
    return router
