"""What holds for every test: no network but this machine's own, no settings of the person who runs it, bounded time."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from collections.abc import Generator, Iterator
from types import FrameType
from typing import Any

import pytest

LIMIT = 60.0  # seconds for a test, its set-up and its clearing up each; the marker `limit` says otherwise
AGAIN = 5.0  # seconds until the alarm sounds again, should clearing up hang as well


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in its background so, and programs that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


class TooSlow(KeyboardInterrupt):
    """The test ran out of time. An event loop lets nothing but an interrupt through from inside a callback."""


def _with_alarm(item: pytest.Item) -> Generator[None, Any, Any]:
    marker = item.get_closest_marker("limit")
    limit = float(marker.args[0]) if marker else LIMIT

    def sound(signum: int, frame: FrameType | None) -> None:
        raise TooSlow

    previous = signal.signal(signal.SIGALRM, sound)
    signal.setitimer(signal.ITIMER_REAL, limit, AGAIN)
    try:
        return (yield)
    except TooSlow:
        pytest.fail(f"not over after {limit:g} s")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _with_alarm(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _with_alarm(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _with_alarm(item))


def _is_here(host: object) -> bool:
    """Say whether a host is this machine."""
    name = host.decode() if isinstance(host, bytes) else host
    if name is None or name in ("", "localhost"):
        return True
    address = _address(str(name))
    return address is not None and address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read a host as a number; a name has to be asked for elsewhere."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse every connection and every look-up that leaves the machine, and fail the test that tried.

    It fails at the end too, so that code which survives a refused connection does not hide it.
    """
    tried: list[object] = []

    def refuse(target: object) -> ConnectionRefusedError:
        tried.append(target)
        return ConnectionRefusedError(f"a test reached for {target}")

    def guarded(name: str) -> None:
        inner = getattr(socket.socket, name)

        def call(self: socket.socket, *args: Any) -> Any:
            address = args[-1]
            if self.family != socket.AF_UNIX and not _is_here(address[0]):
                raise refuse(address)
            return inner(self, *args)

        monkeypatch.setattr(socket.socket, name, call)

    for name in ("connect", "connect_ex", "sendto"):
        guarded(name)
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_here(host) and _address(str(host)) is None:
            raise refuse(host)
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield
    assert not tried, f"the test reached for {tried}"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Take the person's own settings, proxies, data folder and `stepwell.toml` out of reach."""
    for name in list(os.environ):
        if name.startswith("STEPWELL_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
