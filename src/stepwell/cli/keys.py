"""`stepwell keys`: makes, lists and revokes the server's API keys, beside a server if one runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec

from stepwell.cli.screen import Screen, when
from stepwell.cli.sources import Sources, open_store
from stepwell.config.base import MOST
from stepwell.errors import InputError, NotFound
from stepwell.messages import clean
from stepwell.specs import Limits
from stepwell.store.base import Store
from stepwell.store.keys import issue

OWNER_LENGTH = 100
WHOLE = ("steps", "tool_calls", "tokens")
"""Limits that are counted."""


def run(screen: Screen, sources: Sources, *, action: str, name: str = "", limits: Sequence[str] = ()) -> int:
    """Do what is asked: `add` for the owner `name`, `list`, or `revoke` the key `name`; return 0.

    Args:
        screen: Where it is shown.
        sources: The settings.
        action: What is asked.
        name: Of the owner or the key.
        limits: What a new key may use, each as `NAME=NUMBER`.
    """
    return asyncio.run(_keys(screen, sources, action, name, _limits(screen, limits)))


def _limits(screen: Screen, given: Sequence[str]) -> Limits | None:
    """Return the limits that were typed; the last of a name counts."""
    amounts: dict[str, float | None] = {}
    for each in given:
        name, _, text = each.partition("=")
        amounts[name] = amount = _amount(name, text)
        if amount is None:
            raise InputError(screen.say("limit_wrong", given=each, known=", ".join(Limits.__struct_fields__)), "limit")
    return msgspec.convert(amounts, Limits) if amounts else None


def _amount(name: str, text: str) -> float | None:
    """Return the number of a limit, or None where it is none."""
    try:
        amount = int(text) if name in WHOLE else float(text)
    except ValueError:
        return None
    return amount if name in Limits.__struct_fields__ and 0 <= amount <= MOST else None


async def _keys(screen: Screen, sources: Sources, action: str, name: str, limits: Limits | None) -> int:
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
                key = await issue(store, name, limits)
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
    columns = [screen.say(f"column_{name}") for name in ("key", "owner", "created", "state", "limits")]
    states = [screen.say("revoked" if key.revoked else "good") for key in keys]
    rows = [
        (key.id, key.owner, when(key.created), state, _shown(key.limits))
        for key, state in zip(keys, states, strict=True)
    ]
    screen.table(columns, rows)


def _shown(limits: Limits | None) -> str:
    """Return limits as they are typed."""
    given = msgspec.structs.asdict(limits) if limits is not None else {}
    return " ".join(f"{name}={_number(amount)}" for name, amount in given.items() if amount is not None)


def _number(amount: float) -> str:
    # Whole numbers may be larger than any float.
    return str(amount) if isinstance(amount, int) else f"{amount:.15g}"
