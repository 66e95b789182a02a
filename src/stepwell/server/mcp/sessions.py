"""Sessions of MCP's clients over streamable HTTP: bounded in number, closed when idle, each of one owner."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, TypeVar

import anyio
import mcp_types as types
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, AuthorizationContext
from mcp.server.auth.provider import AccessToken
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http import StreamableHTTPServerTransport
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

UNUSED = 10.0
"""Seconds for which a session was not used that may be closed to make room."""

_log = logging.getLogger("stepwell.server")


class _Manager(StreamableHTTPSessionManager):
    """The SDK's, in which sessions that clients forgot keep nobody out."""

    def _admit_session(self, requestor: AuthorizationContext | None) -> StreamableHTTPServerTransport | None:
        made = super()._admit_session(requestor)
        if made is None and (left := self._unused()) is not None:
            self._session_owners.pop(left, None)
            if (scope := self._server_instances.pop(left).idle_scope) is not None:
                scope.cancel()
            made = super()._admit_session(requestor)
        return made

    def _unused(self) -> str | None:
        """Return the session that was not used for longest, of the owner who has the most of such."""
        latest = anyio.current_time() + (self.session_idle_timeout or 0.0) - UNUSED
        ends = {id: each.idle_scope.deadline for id, each in self._server_instances.items() if each.idle_scope}
        ends = {id: end for id, end in ends.items() if end <= latest and not math.isinf(end)}
        owners = {id: self._session_owners[id]["client_id"] for id in ends}
        held = Counter(owners.values())
        return max(ends, key=lambda id: (held[owners[id]], -ends[id]), default=None)


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
    manager = _Manager(
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
