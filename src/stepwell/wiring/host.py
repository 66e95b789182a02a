"""A data folder at work, and the server over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.wiring.parts import make_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.agent.accounts import Accounts
    from stepwell.config import Config
    from stepwell.runs.catalog import Catalog
    from stepwell.runs.service import RunService
    from stepwell.specs import Limits
    from stepwell.store.base import Spending, Store
    from stepwell.store.lock import FolderLock
    from stepwell.wiring.catalog import ConfigCatalog


class Host:
    """A data folder at work: its settings, catalog and run service.

    Args:
        config: The settings.
        catalog: What they offer.
        service: Threads and runs.
        lock: Holds the folder; None where it is only read.
    """

    def __init__(self, config: Config, catalog: ConfigCatalog, service: RunService, lock: FolderLock | None) -> None:
        self.config, self.service, self._lock = config, service, lock
        self.catalog: Catalog = catalog
        self._start, self._started = catalog.start, False

    async def start(self) -> None:
        """Connect what tools need, in the background; see `ConfigCatalog.start`. Once is enough."""
        if not self._started:
            self._started = True
            await self._start()

    async def close(self, grace: float = 5.0) -> None:
        """Stop runs, leaving them to be resumed, and let go of everything."""
        await self.service.stop(grace)
        await self.catalog.close()
        if self._lock is not None:
            self._lock.release()


def open_host(config: Config, *, read_only: bool = False) -> Host:
    """Open the data folder.

    Args:
        config: The settings.
        read_only: Look at it beside another process; no run may be started or resumed.

    Raises:
        DataInUse: Another process works on it.
        ConfigError: A setting cannot be carried out.
        StoreError: The database cannot be opened.
    """
    from stepwell.runs.service import RunService
    from stepwell.store.lock import FolderLock
    from stepwell.wiring.catalog import ConfigCatalog

    folder = config.folder
    lock = None if read_only else FolderLock(folder)
    try:
        store = make_store(folder / "stepwell.db")
        accounts = accounts_over(store)
        catalog = ConfigCatalog(config, accounts)
        return Host(config, catalog, RunService(store, catalog.assemble, ended=accounts.ended), lock)
    except BaseException:
        if lock is not None:
            lock.release()
        raise


def accounts_over(store: Store) -> Accounts:
    """Return the accounts of the API keys that a store keeps."""
    from stepwell.agent.accounts import Accounts

    async def load(key: str) -> tuple[Limits | None, Spending]:
        limits = [each.limits for each in await store.api_keys() if each.id == key]
        return limits[0] if limits else None, await store.spent(key)

    return Accounts(load)


def serve(config: Config, announce: Callable[[str, str], None]) -> None:
    """Serve the data folder until a signal asks to stop.

    Args:
        config: The settings.
        announce: Called once when requests are answered, with the address and, the first time that the folder is
            served, the new API key; else with an empty key.

    Raises:
        DataInUse: Another process works on the folder.
        ConfigError: A setting cannot be carried out.
    """
    import asyncio

    try:
        import uvloop
    except ImportError:  # not made for every system
        asyncio.run(_serve(config, announce))
    else:
        uvloop.run(_serve(config, announce))


async def _serve(config: Config, announce: Callable[[str, str], None]) -> None:
    from stepwell.server.app import create_app
    from stepwell.server.run import address, listen, serve, write_address
    from stepwell.store.keys import issue, token
    from stepwell.wiring.parts import preload

    host, settings = open_host(config), config.fingerprint
    store = host.service.store
    try:
        preload(config)
        listener = listen(config)
        await host.start()
        first = "" if await store.api_keys() or config.auth == "off" else await issue(store, "local")
        key = token()
        url = address(config, listener)
        app = create_app(config, host.catalog, host.service, key)

        async def started() -> None:
            write_address(config.folder, url, key, settings)
            announce(url, first)

        await serve(app, listener, started, host.service.stop)
    finally:
        (config.folder / "server.json").unlink(missing_ok=True)
        await host.close()
