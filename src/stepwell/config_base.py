"""What the sections of the settings share: how lists and tables are read from variables, and what an address is.

The sections themselves are in `config.py` and, for MCP servers, in `config_mcp.py`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator


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
