"""What the sections of the settings share: their base, how variables hold lists and tables, what addresses are."""

from __future__ import annotations

import ipaddress
import json
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """A table of the settings file: it takes no key that it does not know, and it does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _read(value: Any) -> Any:
    """Read a table or list that a variable holds as JSON."""
    try:
        return json.loads(value) if isinstance(value, str) and value.lstrip()[:1] in ("{", "[") else value
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}") from error


def _split(value: Any) -> Any:
    value = _read(value)
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_split)]
Table = BeforeValidator(_read)


def is_address(url: str) -> bool:
    """Tell whether a text is the address of something that speaks HTTP."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
