"""Listens: uvicorn with the settings of a token-streaming server, and the file by which commands find it."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from stepwell.config import Config
from stepwell.errors import ConfigError

ADDRESS_FILE = "server.json"
"""In the data folder, for its owner alone: where the server is and a key for the command line."""
BACKLOG = 4096
"""Connections that may wait to be accepted."""
GC_THRESHOLD = 20_000
"""Allocations between two collections; the default of 700 costs a streaming server a third of its speed."""


def listen(config: Config) -> socket.socket:
    """Return the listening socket.

    Raises:
        ConfigError: The address is taken or not this machine's.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except (OSError, UnicodeError) as error:
        listener.close()
        remedy = "choose another with --port" if config.port else "name an address of this machine"
        raise ConfigError(f"host, port: cannot listen on {config.host}:{config.port}: {error}; {remedy}") from error
    listener.listen(BACKLOG)
    return listener


def address(config: Config, listener: socket.socket) -> str:
    """Return the address under which this machine reaches the server."""
    port = listener.getsockname()[1]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def write_address(folder: Path, url: str, key: str) -> Path:
    """Tell commands of the same user where the server is."""
    file = folder / ADDRESS_FILE
    file.unlink(missing_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        json.dump({"url": url, "key": key, "pid": os.getpid()}, out)
    return file


async def serve(app: FastAPI, listener: socket.socket, started: Callable[[], Awaitable[None]]) -> None:
    """Serve until a signal asks to stop.

    Args:
        app: The application.
        listener: The listening socket.
        started: Called when requests are answered.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, http="httptools", timeout_graceful_shutdown=2)
    )

    async def announce() -> None:
        while not server.started:
            await asyncio.sleep(0.005)
        await started()

    announcing = asyncio.create_task(announce())
    try:
        await server.serve(sockets=[listener])
    finally:
        announcing.cancel()
