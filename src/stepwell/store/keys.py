"""API keys: made at random, kept as hashes, compared in constant time. What a key may do is not decided here."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

from stepwell.specs import Limits
from stepwell.store.base import ApiKey, Store

PREFIX = "sw"


async def issue(store: Store, owner: str, limits: Limits | None = None) -> str:
    """Make a key for an owner and return it; it is shown this once and cannot be read again.

    Args:
        store: Where it is kept.
        owner: Whom requests with it speak for.
        limits: What all runs on its account may use together; None for no limit.
    """
    made = token()
    _, id, secret = made.split("_", 2)
    await store.add_api_key(ApiKey(id, owner, _hash(secret), time.time_ns() // 1_000_000, limits=limits))
    return made


def token() -> str:
    """Return a new key: a public id and 192 random bits."""
    return f"{PREFIX}_{secrets.token_hex(4)}_{secrets.token_urlsafe(24)}"


def same(one: str, other: str) -> bool:
    """Compare two keys in constant time."""
    return hmac.compare_digest(_hash(one), _hash(other))


def find(keys: list[ApiKey], token: str) -> ApiKey | None:
    """Return the good key that a token is, or None."""
    prefix, _, rest = token.partition("_")
    id, _, secret = rest.partition("_")
    found = next((key for key in keys if key.id == id), None)
    # The hash is compared for unknown ids too, so that an answer takes the same time.
    same = hmac.compare_digest(found.hash if found else _hash(""), _hash(secret))
    return found if found is not None and same and prefix == PREFIX and not found.revoked else None


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
