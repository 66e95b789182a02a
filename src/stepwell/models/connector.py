"""Connections to endpoints: aiohttp's own, without what it does for each read and each chunk of a response.

A stream has a chunk for every token. aiohttp makes a new timer at each read, and from 3.14 on asks its parser to go on
after each chunk that is taken, also where nothing was held back. What is overridden here is no public part of it: where
a release calls it otherwise, its own takes effect again. It opens no session and knows no protocol of models.
"""

from __future__ import annotations

import asyncio
from functools import partial

import aiohttp
from aiohttp.client_proto import ResponseHandler


class _Handler(ResponseHandler):
    """One connection.

    Attributes:
        heard: When its peer was heard last, or somebody began to wait for it; None while nobody does, and then it may
            be silent as long as it likes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.heard: float | None = None

    def start_timeout(self) -> None:
        """Begin to wait for the peer; the timer of an earlier wait goes on, and looks again when it is over."""
        timeout = self._read_timeout
        if timeout:
            self.heard = self._loop.time()
            if self._read_timeout_handle is None:
                self._read_timeout_handle = self._loop.call_later(timeout, self._look)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Let the parser and the socket go on, if they were told to stop."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Take note that nothing more will come."""
        super().connection_lost(exc)
        super()._drop_timeout()

    def _reschedule_timeout(self) -> None:
        if self.heard is not None:
            self.heard = self._loop.time()

    def _drop_timeout(self) -> None:
        self.heard = None

    def _look(self) -> None:
        self._read_timeout_handle = None
        if self.heard is None or not self._read_timeout:
            return
        due = self.heard + self._read_timeout
        if self._loop.time() < due:
            self._read_timeout_handle = self._loop.call_at(due, self._look)
        else:
            self.heard = None
            self._on_read_timeout()


class Connector(aiohttp.TCPConnector):
    """A pool without a limit: a slow stream holds its connection as long as it lasts.

    Made inside a running event loop, as aiohttp's own.
    """

    def __init__(self) -> None:
        super().__init__(limit=0)  # pyright: ignore[reportUnknownMemberType]
        self._factory = partial(_Handler, loop=asyncio.get_running_loop())


def expect(response: aiohttp.ClientResponse, waits: bool) -> None:
    """Say whether somebody waits for more of a response; the read time-out runs only then.

    Args:
        response: One that came over a `Connector`.
        waits: Whether somebody begins to wait, or ends.
    """
    connection = response.connection
    if connection is None:
        return  # all of it is here, and the connection may be another's by now
    handler = connection.protocol
    if waits and handler is not None:
        handler.start_timeout()
    elif isinstance(handler, _Handler):
        handler.heard = None
