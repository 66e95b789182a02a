"""The tools of the MCP servers that the settings name. The SDK is imported when the first of them is connected."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from stepwell.config import Config, McpSettings
from stepwell.errors import ConfigError, ToolError
from stepwell.tools.base import ToolContext, ToolResult
from stepwell.tools.mcp.base import LIST, LISTING, READ, Definition, Does, Offer, ServerSpec, effect_of
from stepwell.tools.mcp.grants import file_of
from stepwell.tools.mcp.pins import Pins
from stepwell.tools.mcp.tool import McpTool, of_resources

if TYPE_CHECKING:
    from stepwell.tools.mcp.server import McpServer

STARTING = LISTING + 2.0
"""Seconds that a start waits for servers that were never seen: their listing, and a program's start."""

_DOES: MappingProxyType[str, Does] = MappingProxyType({LIST: "list", READ: "read"})
_log = logging.getLogger("stepwell.mcp")


class McpTools:
    """The MCP servers of the settings and their tools, as they are pinned.

    Args:
        config: The settings.
        taken: Names that other tools have.
    """

    def __init__(self, config: Config, taken: frozenset[str]) -> None:
        self._config, self._taken = config, taken
        self._pins = Pins(config.folder)
        self._servers: dict[str, McpServer] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self._stale = True
        self._known: dict[str, McpTool] = {}
        self._on: dict[str, McpTool] = {}

    def moved(self) -> bool:
        """Look whether the pins are others than before, whoever changed them, and tell whether a tool may be.

        Raises:
            ConfigError: The pins cannot be read.
        """
        if not self._config.mcp:
            return False
        self._stale = self._pins.refresh() or self._stale
        if not self._stale:
            return False
        self._stale = False
        made = [each for name, settings in self._config.mcp.items() for each in self._tools(name, settings)]
        self._known = {each.spec.name: each for each in made}
        self._on = {name: each for name, each in self._known.items() if self._is_on(each)}
        return True

    def _is_on(self, tool: McpTool) -> bool:
        settings = self._config.mcp[tool.server]
        if not settings.enabled:
            return False
        return self._pins.is_on(tool.server, tool.name) if tool.does == "call" else settings.resources

    @property
    def known(self) -> Mapping[str, McpTool]:
        """All tools that are pinned, by the name by which models call them: what a stored run may name."""
        return self._known

    @property
    def on(self) -> Mapping[str, McpTool]:
        """Those of them that are on."""
        return self._on

    def may_come(self, name: str) -> bool:
        """Tell whether a name may be that of a tool whose server was not seen yet."""
        return name.partition("__")[0] in self._config.mcp and "__" in name

    def _tools(self, name: str, settings: McpSettings) -> list[McpTool]:
        spec = _told(name, settings)
        pinned = self._pins.tools(name)
        wanted = {tool: each for tool, each in pinned.items() if settings.tools is None or tool in settings.tools}
        found = [McpTool(spec, tool, each, self._call, self._pins) for tool, each in wanted.items()]
        found += [each for each in self._of_resources(name, spec) if each.name not in pinned]
        for taken in [each.spec.name for each in found if each.spec.name in self._taken]:
            _log.warning("mcp.%s: there is another tool named %s; it is left out", name, taken)
        return [each for each in found if each.spec.name not in self._taken]

    def _of_resources(self, name: str, spec: ServerSpec) -> list[McpTool]:
        """Return the tools of a server's resources, also where they are off: a stored run may name them."""
        seen = self._pins.server(name)
        if seen is None or not seen.resources:
            return []
        told = of_resources(name)
        return [McpTool(spec, tool, told[tool], self._call, self._pins, does) for tool, does in _DOES.items()]

    async def _call(self, tool: McpTool, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        if not self._config.mcp[tool.server].enabled:
            raise ToolError(f"The MCP server {tool.server} is switched off in the settings.")
        if tool.does != "call" and not self._config.mcp[tool.server].resources:
            raise ToolError(f"Resources of the MCP server {tool.server} are switched off in the settings.")
        server = await self._server(tool.server)
        return await server.call(tool.name, arguments, context, tool.effect, tool.check, tool.does)

    async def _server(self, name: str) -> McpServer:
        if name not in self._servers:
            # The SDK takes a second to import; others go on meanwhile.
            spec = server_spec(self._config, name)
            make = await asyncio.to_thread(_imported)
            if name not in self._servers:
                if self._config.mcp[name].cwd is None:
                    with suppress(OSError):  # then its start fails, and says so
                        spec.folder.mkdir(parents=True, exist_ok=True)
                self._servers[name] = make(spec, partial(self._seen, name))
        return self._servers[name]

    def _seen(self, name: str, offer: Offer) -> None:
        """Compare what a server offers with the pins, and say in the log what is off."""
        first = self._pins.server(name) is None
        if not self._pins.see(name, offer):
            return
        self._stale = True
        for tool, reason in offer.refused.items():
            _log.warning("mcp.%s: the tool %s is left out: %s", name, tool, reason)
        seen = self._pins.server(name)
        off = {tool: pin.state for tool, pin in seen.tools.items() if pin.state != "on"} if seen is not None else {}
        for tool, state in off.items():
            _log.warning("mcp.%s: the tool %s is %s and off; `stepwell mcp confirm %s`", name, tool, state, name)
        if first:
            _log.info("mcp.%s: %d tools are pinned as they are now", name, len(offer.tools))

    async def start(self) -> None:
        """Connect all servers in the background, and wait a bounded while for those that were never seen.

        Raises:
            ConfigError: See `server_spec`.
        """
        wanted = [name for name, settings in self._config.mcp.items() if settings.enabled]
        for name in wanted:
            server_spec(self._config, name)
        new = {name for name in wanted if self._pins.server(name) is None}
        self._starting = {asyncio.create_task(self._first(name), name=name) for name in wanted}
        waits = {task for task in self._starting if task.get_name() in new}
        if waits:
            await asyncio.wait(waits, timeout=STARTING)
        for task in waits:
            if not task.done():
                _log.warning("mcp.%s: it has not listed its tools yet; going on without them", task.get_name())

    async def _first(self, name: str) -> None:
        """Begin to keep a server connected, and wait for what comes of the first attempt."""
        await asyncio.shield((await self._server(name)).start())

    async def close(self) -> None:
        """End all connections and the servers' programs."""
        for task in self._starting:
            task.cancel()
        if self._starting:
            await asyncio.wait(self._starting)
        async with asyncio.TaskGroup() as group:
            for server in self._servers.values():
                group.create_task(server.close())


class McpRow(NamedTuple):
    """One tool of a server, as a person is shown it.

    Args:
        server: The server.
        tool: Its name there.
        state: `on`, `changed`, `new`; `refused` where it cannot be used.
        effect: What running it twice does; empty where it is refused.
        said: What the server says of it now, or why it is refused.
        before: What it said when it was pinned, where that was something else.
        digest: Of what it says now, where that waits for a person.
    """

    server: str
    tool: str
    state: str
    effect: str
    said: str
    before: str = ""
    digest: str = ""


def mcp_rows(config: Config, server: str) -> list[McpRow] | None:
    """Return the tools of a server that is in the settings; None where it has never been seen.

    Raises:
        ConfigError: The pins cannot be read.
    """
    pins = Pins(config.folder)
    pins.refresh()
    seen = pins.server(server)
    if seen is None:
        return None
    spec = _told(server, config.mcp[server])
    rows = [McpRow(server, tool, "refused", "", reason) for tool, reason in seen.refused.items()]
    for tool, pin in seen.tools.items():
        now = pin.offered or pin.pinned
        if now is None or (spec.tools is not None and tool not in spec.tools):
            continue
        before = _said(pin.pinned) if pin.pinned is not None and pin.offered is not None else ""
        digest = pin.offered.digest if pin.offered is not None else ""
        rows.append(McpRow(server, tool, pin.state, effect_of(spec, tool, now), _said(now), before, digest))
    if spec.resources and seen.resources:
        told = {tool: each for tool, each in of_resources(server).items() if tool not in seen.tools}
        effects = {tool: effect_of(spec, tool, each, _DOES[tool]) for tool, each in told.items()}
        rows += [McpRow(server, tool, "on", effects[tool], _said(each)) for tool, each in told.items()]
    return sorted(rows)


def mcp_prompts(config: Config, server: str) -> dict[str, str]:
    """Return what a server said of its prompts when it was last seen, by name; nothing uses them.

    Raises:
        ConfigError: The pins cannot be read.
    """
    pins = Pins(config.folder)
    pins.refresh()
    seen = pins.server(server)
    return seen.prompts if seen is not None else {}


async def mcp_login(config: Config, server: str, show: Callable[[str], None]) -> None:
    """Have a person log in at a server, and keep what that brings.

    Args:
        config: The settings.
        server: The server.
        show: Shows a person the address where to log in.

    Raises:
        ConfigError: It is none where people log in; or see `server_spec`.
        ToolError: It came to nothing; says why.
    """
    spec = server_spec(config, server)
    if spec.login is None:
        raise ConfigError(f"mcp.{server}.oauth is off; switch it on to log in at the server")
    _imported()
    from stepwell.tools.mcp.login import login

    await login(spec, spec.login, show)


def mcp_confirm(config: Config, server: str, looked_at: Mapping[str, str]) -> list[str]:
    """Pin what a server says now of its tools; see `Pins.confirm`."""
    return Pins(config.folder).confirm(server, looked_at)


def _said(definition: Definition) -> str:
    given = {"read-only": definition.read_only, "idempotent": definition.idempotent}
    hints = [name for name, is_so in given.items() if is_so]
    parameters = msgspec.json.encode(definition.parameters).decode()
    description = definition.description.replace("\n", "\\n")  # lest it looks like further lines of ours
    return " ".join((description, parameters, *hints)).strip()


def server_spec(config: Config, name: str) -> ServerSpec:
    """Return a server as the settings have it, with what it is given of the environment.

    Raises:
        ConfigError: A variable that it is to be given is not set, or the SDK is not installed.
    """
    if find_spec("mcp") is None:
        raise ConfigError(f'mcp.{name}: servers of MCP need an extra; pip install "stepwell[mcp]"')
    settings = config.mcp[name]
    try:
        environment = settings.environment(config.environment)
        headers = settings.sent_headers(config.environment)
    except ConfigError as error:
        raise ConfigError(f"mcp.{name}.{error}") from error
    return _told(
        name,
        settings,
        command=(settings.command, *settings.args) if settings.command else (),
        environment=environment,
        folder=settings.cwd or config.workspace,
        url=settings.url,
        headers=headers,
        login=file_of(config.folder, name) if settings.oauth else None,
        login_hosts=tuple(settings.oauth_hosts),
        secrets=settings.secrets(config.environment),
    )


def _told(name: str, settings: McpSettings, **more: Any) -> ServerSpec:
    """Return a server with what decides about its tools; without more it cannot be connected."""
    return ServerSpec(
        name=name,
        tools=None if settings.tools is None else tuple(settings.tools),
        effects=dict(settings.effects),
        trust_hints=settings.trust_hints,
        resources=settings.resources,
        timeout=settings.timeout,
        **more,
    )


def _imported() -> type[McpServer]:
    from stepwell.tools.mcp.server import McpServer

    # What a server does wrong is said by our own log, in a line; the SDK writes a traceback for it.
    for each in ("mcp", "client"):
        logging.getLogger(each).setLevel(logging.CRITICAL)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # below, it writes addresses with the keys that stand in them
    return McpServer
