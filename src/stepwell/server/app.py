"""The application: faces behind the gate, errors in words, and what runs beside the requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
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
from stepwell.server.asking import json_response
from stepwell.server.auth import Gate
from stepwell.server.chatchat import chatchat_router, old_errors, old_refusal
from stepwell.server.native import native_router
from stepwell.server.sse import HEARTBEAT

PURGE = 3600.0
"""Seconds between two looks for threads whose time is over."""

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

    app = FastAPI(title="Stepwell", version=version("stepwell"), lifespan=lifespan, docs_url=None, redoc_url=None)
    app.include_router(native_router(service, catalog, config.multimodal.image.max_pixels))
    app.include_router(chatchat_router(config, service, catalog))

    @app.get("/health", tags=["health"])
    async def health() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        """Tell that the server is up."""
        return {"status": "ok", "version": app.version}

    _handle_errors(app)
    _guard(app, config, service, local_key)
    return app


def _guard(app: FastAPI, config: Config, service: RunService, local_key: str) -> None:
    app.add_middleware(Gate, config=config, store=service.store, local_key=local_key)
    if config.origins:  # what a browser asks for its page is answered before the page can send a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["authorization", "content-type", "idempotency-key", "last-event-id", "x-api-key"],
            expose_headers=["x-stepwell-run", "x-stepwell-thread"],
        )


async def _beat(service: RunService) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT)
        service.beat()


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
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        field = error.field if isinstance(error, InputError) else ""
        if _is_old(request) and status == 422:
            return json_response(old_refusal(str(error), field), 422)
        return _error(status, str(error), field)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        if _is_old(request):
            return json_response(old_errors(error), 422)
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return _error(422, f"The body is no JSON of one meaning: {first['ctx']['error']}.", "body")
        place = ".".join(str(part) for part in first["loc"][1:])
        return _error(422, first["msg"].removeprefix("Value error, "), place or str(first["loc"][0]))

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _error(error.status_code, str(error.detail), "", dict(error.headers or {}))

    async def failed(_: Request, error: Exception) -> Response:
        return _error(500, f"Stepwell itself failed ({type(error).__name__}); its log has the details.", "")

    app.add_exception_handler(StepwellError, told)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(Exception, failed)


def _is_old(request: Request) -> bool:
    return request.url.path.startswith("/chat/")


def _error(status: int, message: str, field: str, headers: dict[str, str] | None = None) -> Response:
    return json_response({"error": {"message": clean(message), "field": clean(field)}}, status, headers)
