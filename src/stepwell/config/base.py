"""What the sections of the settings share: their base, how variables hold lists and tables, what addresses are."""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\sA-Z/?#@]+")


class Section(BaseModel):
    """A table of the settings file: it takes no key that it does not know, and it does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _read(value: Any) -> Any:
    """Read a table or list that a variable holds as JSON."""
    try:
        return json.loads(value) if isinstance(value, str) and value.lstrip()[:1] in ("{", "[") else value
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}") from error
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _split(value: Any) -> Any:
    value = _read(value)
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_split)]
Table = BeforeValidator(_read)


def _usable(path: Path) -> Path:
    """Resolve `~`, and refuse what can be the name of no file."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError("it is no UTF-8 text; name another") from None
    if "\0" in str(path):
        raise ValueError("it contains the character U+0000; leave it out")
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"there is no home folder for {path.parts[0]}; set HOME or write the whole path") from None


Place = Annotated[Path, AfterValidator(_usable)]
"""A file or folder; `~` is the home folder."""
LONGEST = 1e9
"""Seconds of the longest time that can be set, some 30 years; later moments would be no numbers of the store."""
MOST = 10**15
"""The highest limit of what is counted or paid; its billionths are numbers that a float can be made of."""
MOST_DAYS = 36_500
"""Days for which a thread can be kept at most, a hundred years."""


def is_address(url: str) -> bool:
    """Tell whether a text is the address of something that speaks HTTP."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def is_origin(text: str) -> bool:
    """Tell whether a text is the origin of web pages as a browser sends it: scheme, host, perhaps a port."""
    return _ORIGIN.fullmatch(text) is not None


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
