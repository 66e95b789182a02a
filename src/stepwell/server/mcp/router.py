"""The route of MCP, `/mcp`. The SDK takes a second to import, and is imported only where the route is on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec

from fastapi import APIRouter
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from stepwell.config import Config
from stepwell.errors import ConfigError
from stepwell.runs.catalog import Catalog
from stepwell.runs.service import RunService

PATH = "/mcp"
METHODS = ("POST", "DELETE")
"""We tell clients nothing but in answers, so that there is no stream to be had by GET."""


class _Face:
    """Hands requests on to the sessions, once they are there."""

    def __init__(self) -> None:
        self.sessions: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.sessions
        if app is None or scope["method"] not in METHODS:
            status = 503 if app is None else 405
            app = Response(status_code=status, headers={"allow": ", ".join(METHODS)})
        await app(scope, receive, send)


def mcp_router(config: Config, service: RunService, catalog: Catalog) -> APIRouter:
    """Return the route of MCP, or none where it is off.

    Args:
        config: Whether it is on, and its bounds.
        service: Threads and runs.
        catalog: The agents.

    Raises:
        ConfigError: It is on, and the SDK is not installed.
    """
    if not config.mcp_server.enabled:
        return APIRouter()
    if find_spec("mcp") is None:
        raise ConfigError('mcp_server.enabled: the server of MCP needs an extra; pip install "stepwell[mcp]"')
    face = _Face()

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncGenerator[None]:
        sessions = import_module("stepwell.server.mcp.sessions")
        async with sessions.sessions(config, service, catalog) as app:
            face.sessions = app
            try:
                yield
            finally:
                face.sessions = None

    router = APIRouter(lifespan=lifespan)
    router.routes.append(Route(PATH, endpoint=face, include_in_schema=False))
    return router
