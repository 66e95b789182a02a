"""The token of a login, as requests to its server bring it: read from its file, and renewed when it ends.

Nobody is asked here: where there is no login, or it is refused, that is told with the remedy.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import httpx2
import msgspec

from stepwell.errors import ToolError
from stepwell.tools.mcp.base import ServerSpec
from stepwell.tools.mcp.grants import Grant, end_of, locked, read, write
from stepwell.tools.mcp.guard import Guarded

EARLY = 30
"""Seconds before its end in which a token is renewed."""


class _Token(msgspec.Struct):
    access_token: Annotated[str, msgspec.Meta(pattern=r"^[!-~]+$")]
    expires_in: float | None = None
    refresh_token: str | None = None


class Bearer:
    """The token of a login.

    Args:
        spec: The server.
        file: Where its login is kept.
    """

    def __init__(self, spec: ServerSpec, file: Path) -> None:
        self._spec, self._file = spec, file
        self._renewing: asyncio.Task[Grant] | None = None

    async def token(self, refused: str = "") -> str:
        """Return the token for a request, a new one where it ends.

        Args:
            refused: A token that the server does not take any more; empty for none.

        Raises:
            ToolError: There is no login, or none that can be used; says what to do.
        """
        grant = self._grant()
        if grant.access != refused and not 0 < grant.expires - EARLY < time.time():
            return grant.access
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renewed(grant))
            self._renewing.add_done_callback(_heard)
        # A caller may leave; what the server gave out instead of the old token must be kept all the same.
        return (await asyncio.shield(self._renewing)).access

    def _grant(self) -> Grant:
        grant = read(self._file)
        if grant is None:
            raise ToolError(f"nobody has logged in at it; {self._remedy}")
        if grant.url != self._spec.url:
            raise ToolError(f"the login is for another address; {self._remedy}")
        return grant

    @property
    def _remedy(self) -> str:
        return f"run `stepwell mcp login {self._spec.name}`"

    async def _renewed(self, used: Grant) -> Grant:
        async with locked(self._file):
            grant = self._grant()
            if grant.access != used.access:  # another process was quicker
                return grant
            if not grant.refresh:
                raise ToolError(f"the login has ended; {self._remedy}")
            made = await self._asked(grant)
            refresh, expires = made.refresh_token or grant.refresh, end_of(made.expires_in)
            new = msgspec.structs.replace(grant, access=made.access_token, refresh=refresh, expires=expires)
            write(self._file, new)
            return new

    async def _asked(self, grant: Grant) -> _Token:
        form = {"grant_type": "refresh_token", "refresh_token": grant.refresh, "client_id": grant.client}
        headers = {"accept": "application/json"}
        if grant.resource:
            form["resource"] = grant.resource
        if grant.secret and grant.method == "client_secret_basic":  # RFC 6749, 2.3.1
            pair = f"{quote(grant.client, safe='')}:{quote(grant.secret, safe='')}"
            headers["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        elif grant.secret:
            form["client_secret"] = grant.secret
        try:
            async with httpx2.AsyncClient(transport=Guarded(self._spec), trust_env=False) as client:
                response = await client.post(grant.endpoint, data=form, headers=headers)
        except (httpx2.HTTPError, TimeoutError) as error:
            raise ToolError(f"its login could not be renewed: {type(error).__name__}") from error
        if response.status_code in (400, 401, 403):
            raise ToolError(f"its login is not taken any more; {self._remedy}")
        try:
            if response.status_code == 200:
                return msgspec.json.decode(response.content, type=_Token, strict=False)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
        raise ToolError(f"its login could not be renewed: status {response.status_code}")


def _heard(task: asyncio.Task[Grant]) -> None:
    """Take note of what a task failed by that nobody waits for any more."""
    if not task.cancelled():
        task.exception()
