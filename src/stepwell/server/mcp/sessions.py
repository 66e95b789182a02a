"""Sessions of MCP's clients over streamable HTTP: bounded in number, closed when idle, each of one owner."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, TypeVar

import mcp_types as types
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from starlette.types import ASGIApp, Receive, Scope, Send

from stepwell.config import Config
from stepwell.errors import NotFound, StepwellError
from stepwell.runs.catalog import Catalog
from stepwell.runs.service import RunService
from stepwell.server.auth import Caller, caller_of
from stepwell.server.mcp.agents import Agents
from stepwell.server.mcp.threads import Threads

Context = ServerRequestContext[Any, Any]
P = TypeVar("P")
R = TypeVar("R")

MOST_BODY = 4 << 20
"""Bytes of a request: nothing that clients send is as long, and nobody else is heard while one is taken apart."""

_log = logging.getLogger("stepwell.server")


@asynccontextmanager
async def sessions(config: Config, service: RunService, catalog: Catalog) -> AsyncGenerator[ASGIApp]:
    """Serve MCP while the block runs.

    Args:
        config: How many sessions there may be, and how long.
        service: Threads and runs.
        catalog: The agents.
    """
    for name in ("mcp", "client"):  # what clients do wrong they are told; the SDK writes a traceback for it
        logging.getLogger(name).setLevel(logging.CRITICAL)
    agents, threads = Agents(config, service, catalog), Threads(service)
    server: Server[Any] = Server(
        "stepwell",
        version=version("stepwell"),
        instructions="Agents answer questions as tools; a thread that one returns goes on with the next question.",
        on_list_tools=_told(agents.list),
        on_call_tool=_told(agents.call),
        on_list_resources=_told(threads.list),
        on_list_resource_templates=_told(threads.templates),
        on_read_resource=_told(threads.read),
    )
    manager = StreamableHTTPSessionManager(
        server,
        session_idle_timeout=config.mcp_server.idle,
        max_sessions=config.mcp_server.sessions,
        max_request_body_size=min(config.max_body, MOST_BODY),
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # The SDK keeps a session to whoever began it, by what it knows of the user.
        owner = AccessToken(token="", client_id=caller_of(scope).owner, scopes=[])
        await manager.asgi_app({**scope, "user": AuthenticatedUser(owner)}, receive, send)

    async with manager.run():
        try:
            yield app
        finally:
            agents.stopping = True


def _told(
    handle: Callable[[Context, Caller, P], Awaitable[R]],
) -> Callable[[Context, P], Awaitable[R]]:
    """Have a handler know who asks, and its failures told in words."""

    async def handler(context: Context, params: P) -> R:
        request = context.request
        assert request is not None
        try:
            return await handle(context, caller_of(request.scope), params)
        except MCPError:
            raise
        except NotFound as error:
            raise MCPError(types.INVALID_PARAMS, str(error)) from error
        except StepwellError as error:
            raise MCPError(types.INVALID_REQUEST, str(error)) from error
        except Exception as error:  # the boundary to the wire: a fault of ours is logged, and not shown
            _log.exception("a request of MCP failed")
            said = f"Stepwell itself failed ({type(error).__name__}); its log has the details."
            raise MCPError(types.INTERNAL_ERROR, said) from error

    return handler
