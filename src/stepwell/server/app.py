"""The application: faces behind the gate, errors in words, and what runs beside the requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from stepwell.config import Config
from stepwell.errors import (
    Busy,
    ConfigError,
    Decided,
    Expired,
    InputError,
    KeyReused,
    LimitReached,
    NotFound,
    StepwellError,
    StoreError,
)
from stepwell.messages import clean
from stepwell.runs.catalog import Catalog
from stepwell.runs.service import RunService
from stepwell.server.agui.router import agui_router
from stepwell.server.asking import json_response
from stepwell.server.auth import Gate
from stepwell.server.chatchat.envelope import is_old, old_errors, old_missing, old_refusal
from stepwell.server.chatchat.routes import chatchat_router
from stepwell.server.description import describe
from stepwell.server.mcp.router import mcp_router
from stepwell.server.native import native_router
from stepwell.server.openai import errors as openai
from stepwell.server.openai.chat import chat_router
from stepwell.server.openai.models import models_router
from stepwell.server.openai.responses import responses_router
from stepwell.server.sse import HEARTBEAT

PURGE = 3600.0
"""Seconds between two looks for threads whose time is over."""

_HEADERS = (
    "authorization",
    "content-type",
    "idempotency-key",
    "last-event-id",
    "mcp-protocol-version",
    "mcp-session-id",
    "x-api-key",
)
"""What pages of other origins may send."""

_SILENT: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""A variable of the environment could have the framework send requests, with what is said in them, to somebody."""

_log = logging.getLogger("stepwell.server")


def create_app(config: Config, catalog: Catalog, service: RunService, local_key: str = "") -> FastAPI:
    """Return the server's application; runs of the store are resumed when it starts.

    Args:
        config: Who may ask, and how much.
        catalog: Models and tools.
        service: Threads and runs; closed by whoever made it.
        local_key: See `Gate`.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        resumed = await service.resume()
        if resumed:
            _log.info("going on with %d unfinished runs", resumed)
        tasks = [asyncio.create_task(_beat(service)), asyncio.create_task(_purge(service))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    no_pages: dict[str, Any] = {"docs_url": None, "redoc_url": None}
    app = FastAPI(title="Stepwell", version=version("stepwell"), lifespan=lifespan, telemetry=_SILENT, **no_pages)
    _include_faces(app, config, service, catalog)

    @app.get("/health", tags=["health"])
    async def health() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        """Tell that the server is up."""
        return {"status": "ok", "version": app.version}

    _handle_errors(app)
    describe(app, _face)
    _guard(app, config, service, local_key)
    return app


def _include_faces(app: FastAPI, config: Config, service: RunService, catalog: Catalog) -> None:
    # A request is compared with one route after the other, so what is asked for most stands first. The routes stand in
    # one list: at each request FastAPI would look whether those of a router that is included have changed.
    for face in (
        native_router(service, catalog, config.multimodal.image.max_pixels),
        chatchat_router(config, service, catalog),
        chat_router(config, service, catalog),
        responses_router(config, service, catalog),
        agui_router(config, service, catalog),
        models_router(catalog, service.now() // 1000),
    ):
        app.router.routes += face.routes
    app.include_router(mcp_router(config, service, catalog))  # it has a lifespan of its own


def _guard(app: FastAPI, config: Config, service: RunService, local_key: str) -> None:
    app.add_middleware(Gate, config=config, store=service.store, local_key=local_key, shape=_shape)
    if config.origins:  # what a browser asks for its page is answered before the page can send a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=[*_HEADERS, *openai.HEADERS],
            expose_headers=["x-stepwell-run", "x-stepwell-thread", "x-should-retry", "mcp-session-id"],
        )


async def _beat(service: RunService) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT)
        service.beat()
        if service.orphaned:  # the store took nothing for a while
            try:
                await service.resume()
            except StoreError as error:
                _log.error("runs that were left cannot be gone on with yet: %s", error)


async def _purge(service: RunService) -> None:
    while True:
        try:
            removed = await service.purge()
        except StoreError as error:
            _log.error("cannot remove expired threads: %s", error)
        else:
            if removed:
                _log.info("removed %d threads whose time was over", removed)
        await asyncio.sleep(PURGE)


_STATUS: tuple[tuple[type[StepwellError], int], ...] = (
    (NotFound, 404),
    (Busy, 409),
    (KeyReused, 409),
    (Decided, 409),
    (Expired, 410),
    (LimitReached, 429),
    (InputError, 422),
    (StoreError, 503),
    (ConfigError, 503),
)


def _handle_errors(app: FastAPI) -> None:
    async def told(request: Request, error: Exception) -> Response:
        assert isinstance(error, StepwellError)
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        field = error.field if isinstance(error, InputError) else ""
        match _face(request.url.path):
            case "openai":
                return openai.refused(error, status)
            case "chatchat" if status == 422:
                return json_response(old_refusal(str(error), field), 422)
            case _:
                return _error(status, str(error), field)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        match _face(request.url.path):
            case "openai":
                return openai.invalid_openai(error)
            case "chatchat":
                return json_response(old_errors(error, request.url.path), 422)
            case _:
                return _invalid(error)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code in (404, 405) and _face(request.url.path) == "chatchat":
            told = old_missing(error.status_code, str(error.detail))
            return json_response(told, error.status_code, dict(error.headers or {}))
        return _plain(request, error.status_code, str(error.detail), dict(error.headers or {}))

    async def failed(request: Request, error: Exception) -> Response:
        said = f"Stepwell itself failed ({type(error).__name__}); its log has the details."
        return _plain(request, 500, said, openai.ONCE if _face(request.url.path) == "openai" else None)

    app.add_exception_handler(StepwellError, told)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(Exception, failed)


def _face(path: str) -> str:
    """Return in whose shape a path is answered where something is wrong."""
    if path.startswith(openai.PREFIX):
        return "openai"
    return "chatchat" if is_old(path) else "native"


def _shape(path: str, status: int, message: str) -> bytes | None:
    """Write a refusal of the gate as the face of its path does."""
    return bytes(openai.openai_error(status, message).body) if _face(path) == "openai" else None


def _plain(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    if _face(request.url.path) == "openai":
        return openai.openai_error(status, message, headers=headers)
    return _error(status, message, "", headers)


def _invalid(error: RequestValidationError) -> Response:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _error(422, f"The body is no JSON of one meaning: {first['ctx']['error']}.", "body")
    place = ".".join(str(part) for part in first["loc"][1:])
    return _error(422, first["msg"].removeprefix("Value error, "), place or str(first["loc"][0]))


def _error(status: int, message: str, field: str, headers: dict[str, str] | None = None) -> Response:
    return json_response({"error": {"message": clean(message), "field": clean(field)}}, status, headers)
