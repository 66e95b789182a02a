"""Locks by key, made when they are needed and dropped when nobody wants them. They hold inside one loop only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypeVar

K = TypeVar("K")


class Lock(asyncio.Lock):
    """A lock that knows how many want it."""

    users = 0


@asynccontextmanager
async def held(locks: dict[K, Lock], key: K | None) -> AsyncGenerator[None]:
    """Hold the lock of a key; without a key there is nothing to hold."""
    if key is None:
        yield
        return
    lock = locks.setdefault(key, Lock())
    lock.users += 1
    try:
        async with lock:
            yield
    finally:
        lock.users -= 1
        if not lock.users:
            del locks[key]
