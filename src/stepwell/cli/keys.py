"""`stepwell keys`: makes, lists and revokes the server's API keys, beside a server if one runs."""

from __future__ import annotations

import asyncio
import time

from stepwell.cli.screen import Screen, when
from stepwell.cli.sources import Sources, open_store
from stepwell.errors import InputError, NotFound
from stepwell.messages import clean
from stepwell.store.base import Store
from stepwell.store.keys import issue

OWNER_LENGTH = 100


def run(screen: Screen, sources: Sources, *, action: str, name: str = "") -> int:
    """Do what is asked: `add` for the owner `name`, `list`, or `revoke` the key `name`; return 0."""
    return asyncio.run(_keys(screen, sources, action, name))


async def _keys(screen: Screen, sources: Sources, action: str, name: str) -> int:
    config = sources.config(screen)
    if action == "add" and not (0 < len(name) <= OWNER_LENGTH and name.isprintable() and name.strip()):
        raise InputError(screen.say("key_owner_wrong"), "owner")
    store = open_store(config, make=action == "add")
    if store is None and action == "revoke":
        raise NotFound(screen.say("no_key", id=name), "id")
    if store is None:
        screen.note(screen.say("no_keys"))
        return 0
    try:
        match action:
            case "add":
                key = await issue(store, name)
                screen.note(screen.say("key_made", owner=name))
                screen.line(key, "strong")
            case "revoke":
                await _revoke(screen, store, clean(name))
            case _:
                await _list(screen, store)
    finally:
        await store.close()
    return 0


async def _revoke(screen: Screen, store: Store, id: str) -> None:
    if not await store.revoke_api_key(id, time.time_ns() // 1_000_000):
        raise NotFound(screen.say("no_key", id=id), "id")
    screen.note(screen.say("key_revoked", id=id))


async def _list(screen: Screen, store: Store) -> None:
    keys = await store.api_keys()
    if not keys:
        screen.note(screen.say("no_keys"))
        return
    columns = [screen.say(f"column_{name}") for name in ("key", "owner", "created", "state")]
    states = [screen.say("revoked" if key.revoked else "good") for key in keys]
    rows = [(key.id, key.owner, when(key.created), state) for key, state in zip(keys, states, strict=True)]
    screen.table(columns, rows)
