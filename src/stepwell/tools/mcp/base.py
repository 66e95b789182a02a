"""What an MCP server is to us, and what it says of its tools. Nothing here imports the protocol's SDK.

The bounds of what a server may send are here, too; they are generous for honest servers and hard for others.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import msgspec

from stepwell.errors import ToolError
from stepwell.events import Effect
from stepwell.messages import clean
from stepwell.questions import visible
from stepwell.tools.arguments import malformed
from stepwell.tools.mcp.grants import secrets_of

MOST_TOOLS = 256
"""Tools of one server that are looked at; further ones are left out."""
MOST_SCHEMA = 50_000
"""Bytes of a tool's schema as JSON."""
MOST_SCHEMAS = 1 << 20
"""Bytes of all definitions of one server's tools together."""
MOST_DESCRIPTION = 8_000
"""Characters of a tool's description that models are told."""
MOST_MESSAGE = 32 << 20
"""Bytes of one message of a server: an image of 20 MB in base64, and some. A longer one is passed over."""
MOST_PASSED_OVER = 8 * MOST_MESSAGE
"""Bytes of a message after which its server is let go."""
LISTING = 10.0
"""Seconds that a server has to start, shake hands and list its tools."""
SILENT, PING = 2, 5.0
"""Calls in a row that a server lets run out of time without a word, and seconds that it then has for a ping."""
WORDS = 2_000
"""Characters of a server's own words that a message of ours repeats."""

LIST, READ = OWN = ("list_resources", "read_resource")
"""Names of the tools by which a server's resources are listed and read; they are ours, not the server's."""
Does = Literal["call", "list", "read"]
"""What a tool does at its server: it calls one there, or lists or reads resources."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PLAIN = re.compile(
    r"[\x00-\x1f\x7f-\xa0\u2000-\u200a\u202f\u205f\u3000]|(?<=[^\x00-\xff\u200c\u200d\ufe0f])\ufe0f?[\u200c\u200d]?"
)
"""Controls, blanks, and what joins letters and makes pictures of them: values may hold it, and it hides nothing."""
_WORDS = ("description", "title", "$comment")
"""Fields of a schema that are there to be read only."""
_EXACT = ("", "enum", "const", "required", "pattern", "$ref")
"""Fields that arguments are made of or compared with; names stand in none."""


class ServerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One server, as the settings have it.

    Args:
        name: Stands before its tools' names.
        command: The program and its arguments; empty where it is reached by `url`.
        environment: The whole environment of the program.
        folder: Where the program runs.
        url: The address of a server over HTTP.
        headers: Headers of each request.
        tools: Names of its tools that are used; None for all.
        effects: What running a tool twice does, by the tool's name.
        trust_hints: Whether what it says of effects is believed.
        login: Where a person's login at it is kept; None where it needs none.
        login_hosts: Hosts, or `host:port`, that may take part in the login though they are not public.
        resources: Whether agents may list and read its resources.
        timeout: Seconds for one call.
        secrets: What stands in no message, besides what `login` holds.
    """

    name: str
    command: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    folder: Path = Path()
    url: str = ""
    headers: dict[str, str] = {}
    tools: tuple[str, ...] | None = None
    effects: dict[str, Effect] = {}
    trust_hints: bool = False
    login: Path | None = None
    login_hosts: tuple[str, ...] = ()
    resources: bool = False
    timeout: float = 60.0
    secrets: tuple[str, ...] = ()

    def plain(self, text: str, limit: int = WORDS) -> str:
        """Return words of the server, or about it, fit for a message: bounded, nothing invisible, no secret."""
        told = self.struck(clean(text[: 4 * limit]))
        if len(text) > 4 * limit:  # the beginning of a secret may stand at the cut
            told = told[: -max(map(len, self._hidden()), default=0) or None]
        text = visible(told).strip()
        return text if len(text) <= limit else text[: limit - 1] + "…"

    def struck(self, text: str) -> str:
        """Return a text without what stands in no message; a login is another each time that it is renewed."""
        for secret in sorted(self._hidden(), key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def _hidden(self) -> tuple[str, ...]:
        return (*self.secrets, *(secrets_of(self.login) if self.login is not None else ()))


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of one of its tools.

    Args:
        digest: SHA-256 of all of it as the server sent it, 64 hexadecimal digits.
        description: What models are told; bounded, with nothing invisible in it.
        parameters: JSON schema of its arguments.
        read_only: It says that a call changes nothing.
        idempotent: It says that a call may be repeated.
    """

    digest: str
    description: str
    parameters: dict[str, Any]
    read_only: bool = False
    idempotent: bool = False


class Offer(msgspec.Struct, frozen=True):
    """What a server offers.

    Args:
        tools: By name, as the server has it.
        refused: Why a tool is left out, by a name of at most 64 characters.
        resources: It has resources.
        prompts: What it says of its prompts, by name.
    """

    tools: dict[str, Definition]
    refused: dict[str, str]
    resources: bool = False
    prompts: dict[str, str] = {}


class Lost(ToolError):
    """The connection to a server ended.

    Args:
        message: In words.
        sent: A call may have reached the server before.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class Switch(Protocol):
    """Tells what may be called at present."""

    def refusal(self, server: str, tool: str, digest: str) -> str:
        """Return why a tool may not be called, empty where it may.

        Args:
            server: The server.
            tool: The tool's name there.
            digest: Of the definition that the agent was told.
        """
        ...


def define(name: str, description: str, parameters: dict[str, Any], hints: tuple[bool, bool]) -> Definition:
    """Return what a server says of a tool.

    Args:
        name: The tool's name there.
        description: As it came.
        parameters: As they came.
        hints: Whether it says that it is read-only, and idempotent.

    Raises:
        ValueError: No model could be told of it; says why.
    """
    encoded = msgspec.json.encode((name, description, parameters, hints), order="deterministic")
    if not _NAME.fullmatch(name):
        raise ValueError("its name is no 1 to 64 letters, digits, `_` and `-`")
    if len(encoded) - len(description) > MOST_SCHEMA:
        raise ValueError(f"its schema takes more than {MOST_SCHEMA} bytes")
    if parameters.get("type", "object") != "object" or not isinstance(parameters.get("properties", {}), dict):
        raise ValueError("its schema is not that of an object")
    if fault := malformed(parameters):
        raise ValueError(f"its schema cannot be used: {fault}")
    parameters = cast("dict[str, Any]", _shown(parameters))
    told = visible(clean(description[: MOST_DESCRIPTION + 1]))
    told = told if len(told) <= MOST_DESCRIPTION else told[: MOST_DESCRIPTION - 1] + "…"
    return Definition(
        digest=hashlib.sha256(encoded).hexdigest(),
        description=told,
        parameters=parameters,
        read_only=hints[0],
        idempotent=hints[1],
    )


def _shown(value: object, of: str = "") -> object:
    """Return a part of a schema with nothing hidden in its words.

    Raises:
        ValueError: Something is hidden in what arguments are made of, such as names, which cannot be written out.
    """
    if isinstance(value, dict):
        parts = cast("dict[str, object]", value)
        return {cast(str, _shown(name)): _shown(each, name) for name, each in parts.items()}
    if isinstance(value, list):
        return [_shown(each, of) for each in cast("list[object]", value)]
    if not isinstance(value, str) or (value.isascii() and value.isprintable()):
        return value
    if of in _WORDS:
        return visible(clean(value.replace("\r\n", "\n")))
    if (seen := _PLAIN.sub("", value)) == visible(seen):
        return value
    if of not in _EXACT:
        return visible(value)
    raise ValueError(f"its schema hides characters in {visible(value[:80])}")


def tool_name(server: str, tool: str) -> str:
    """Return the name that models call a tool by.

    Raises:
        ValueError: It would be too long.
    """
    name = f"{server}__{tool}"
    if not _NAME.fullmatch(name):
        raise ValueError(f"with its server's name it has {len(name)} characters; the limit is 64")
    return name


def effect_of(spec: ServerSpec, tool: str, definition: Definition, does: Does = "call") -> Effect:
    """Return what running a tool twice does: as the settings say, else as the server does where it is trusted.

    To list is `pure`, for nothing of a model's own is said by it. To read is as to call: an address may say anything.
    """
    if tool in spec.effects:
        return spec.effects[tool]
    if does == "list" or (spec.trust_hints and definition.read_only):
        return "pure"
    return "idempotent" if spec.trust_hints and definition.idempotent else "write"
