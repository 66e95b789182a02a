"""Settings of MCP servers whose tools agents may use: the sections `[mcp.NAME]`.

What a server is given of the environment is said here and looked up by whoever starts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, SecretStr, StringConstraints, model_validator

from stepwell.config.base import LONGEST, Names, Place, Section, is_address
from stepwell.errors import ConfigError

BASICS = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL")
"""Variables that every program is given."""
SECRET = 6
"""Characters of the shortest value that may be a secret; words like `true` stand in messages for other reasons."""

ServerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+(_[A-Za-z0-9-]+)*$", max_length=32)]
"""Stands before two underscores in the names of its tools, so that it holds no two and ends with none."""


class McpSettings(Section):
    """One MCP server whose tools agents may use."""

    enabled: bool = True
    """Whether it is used."""
    command: str = ""
    """The program to start, which speaks MCP over its standard input and output."""
    args: list[str] = []
    """Its arguments."""
    env: dict[str, SecretStr] = {}
    """Variables of its environment."""
    env_pass: Names = []
    """Names of variables of this program's environment that it is given."""
    cwd: Place | None = None
    """Where it runs; empty: the workspace folder."""
    url: str = ""
    """The address of a server that speaks streamable HTTP, in place of `command`."""
    headers: dict[str, SecretStr] = {}
    """Headers of each request."""
    headers_env: dict[str, str] = {}
    """Headers whose values are in variables: the name of the variable by that of the header."""
    oauth: bool = False
    """Whether a person logs in at the server at `url`, by `stepwell mcp login`."""
    oauth_hosts: Names = []
    """Hosts, or `host:port`, that may take part in the login though they are not public or not HTTPS."""
    tools: Names | None = None
    """Names of its tools that are used, as the server has them; empty: all."""
    effects: dict[str, Literal["pure", "idempotent", "write"]] = {}
    """What running a tool twice does, by the tool's name; `write` for all others."""
    trust_hints: bool = False
    """Whether what the server says of its tools' effects is believed."""
    resources: bool = False
    """Whether agents may list and read its resources, by two tools more."""
    timeout: float = Field(default=60.0, gt=0, le=LONGEST)
    """Seconds for one call; time in which a person is asked does not count."""

    @model_validator(mode="after")
    def _complete(self) -> McpSettings:
        if bool(self.command) == bool(self.url):
            raise ValueError("set either `command`, the program to start, or `url`, the address of a server")
        if self.url and not is_address(self.url):
            raise ValueError("url must be the address of a server, such as http://127.0.0.1:9000/mcp")
        of_url = {"headers", "headers_env", "oauth", "oauth_hosts"}
        wrong = {"args", "env", "env_pass", "cwd"} if self.url else of_url
        if misplaced := sorted(wrong & self.model_fields_set):
            raise ValueError(f"{', '.join(misplaced)} cannot go with {'`url`' if self.url else '`command`'}; remove it")
        parts = urlsplit(self.url)
        if self.oauth and parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("url must begin with https:// where oauth is on, for requests bring a token")
        return self

    def environment(self, own: Mapping[str, str]) -> dict[str, str]:
        """Return the whole environment of the program.

        Args:
            own: The environment of this one.

        Raises:
            ConfigError: A variable that it is to be given is not set.
        """
        given = {name: own[name] for name in BASICS if name in own}
        passed = {name: _value(own, name, "env_pass") for name in self.env_pass}
        return {**given, **passed, **{name: value.get_secret_value() for name, value in self.env.items()}}

    def sent_headers(self, own: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of each request.

        Args:
            own: The environment of this program.

        Raises:
            ConfigError: A variable that holds one is not set, or one holds what no header can.
        """
        told = {name: _header(value.get_secret_value(), f"headers.{name}") for name, value in self.headers.items()}
        for name, variable in self.headers_env.items():
            told[name] = _header(_value(own, variable, place := f"headers_env.{name}"), place)
        return told

    def secrets(self, own: Mapping[str, str]) -> tuple[str, ...]:
        """Return what must stand in no message: values of variables and headers, and what the address says of itself.

        Values too short to be secret are left out.

        Args:
            own: The environment of this program.
        """
        told = [each.get_secret_value() for each in self.env.values()] + [own.get(name, "") for name in self.env_pass]
        sent = [each.get_secret_value() for each in self.headers.values()]
        sent += [own.get(name, "") for name in self.headers_env.values()]
        told += [*sent, *(word for value in sent for word in value.split()[1:])]  # without `Bearer`, which says nothing
        parts = urlsplit(self.url)
        told += [parts.password or "", *(value for _, value in parse_qsl(parts.query))]
        told += [piece.partition("=")[2] for piece in parts.query.split("&")]  # as it is written
        return tuple({each for each in (*told, *map(str.strip, told)) if len(each) >= SECRET})


def _value(own: Mapping[str, str], name: str, place: str) -> str:
    if not own.get(name):
        raise ConfigError(f"{place}: the variable {name} is not set; export the value in it")
    return own[name]


def _header(value: str, place: str) -> str:
    """Return a header's value as it is sent: without the line break that files and variables often end in."""
    value = value.strip()
    if not (value.isascii() and value.isprintable()):
        raise ConfigError(f"{place}: the value holds a line break or another character that no header can hold")
    return value
