"""A person who does not give up while servers die under them: what they want to say, and what they decide."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import aiohttp

from tests.faults.support.case import Case, Victim
from tests.faults.support.parent import Death

GONE = (aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError)
"""What a client meets when its server dies."""


class Talk:
    """What a person wants to say and decide, and what of it has been accepted.

    Args:
        seed: Says what is decided.
        body: The first message, with how its run goes.
        more: The second one; None for none.
        after: Number of the event after which it is said.
    """

    def __init__(self, seed: int, body: dict[str, Any], more: dict[str, Any] | None = None, after: int = 0) -> None:
        self._chance = random.Random(seed)
        self._body, self._more, self._after = body, more, after
        self._takes_back = more is not None and more["while_running"] == "interrupt"
        self.thread = ""
        self.runs = 1 if more is None else 0
        """How many runs there will be; 0 while that is not known."""

    async def go_on(self, victim: Victim) -> None:
        """Do what is left to do, to the end of the last run; raises one of `GONE` where the server dies."""
        if not self.thread:
            self.thread = (await self._post(victim, "/api/messages", self._body, "first"))["thread"]
        stream, ended = await victim.follow(self.thread), 0
        while (frame := await stream.frame()) is not None:
            if not frame.data or "offset" in frame.body:
                continue
            seq, kind = frame.body["seq"], frame.type.partition(".")[0]
            if not self.runs and seq >= self._after and self._more is not None:
                path = f"/api/threads/{self.thread}/messages"
                self.runs = 1 if "steered" in await self._post(victim, path, self._more, "more") else 2
            if kind == "asked":
                for question in await victim.questions(self.thread):
                    await self._decide(victim, question)
            ended += kind == "run_ended"
            if self.runs and ended >= self.runs:
                stream.cut()
                return
        raise ConnectionResetError("the stream ended")

    async def _post(self, victim: Victim, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
        status, answer = await victim.call("POST", path, json=body, headers={"idempotency-key": key})
        assert status == 202, answer
        return answer

    async def _decide(self, victim: Victim, question: dict[str, Any]) -> None:
        body = {"decision": self._chance.choice(question["decisions"]), "hash": question["hash"]}
        path = f"/api/threads/{self.thread}/questions/{question['seq']}/answer"
        status, answer = await victim.call("POST", path, json=body)
        assert status == 202 or (status == 409 and self._takes_back), answer


async def outlive(it: Case, talk: Talk, deaths: Sequence[Death]) -> None:
    """Have a person go on over servers that die, one after the other, and the last one, which is killed at the end."""
    left, over = list(deaths), False
    while not over:
        death = left.pop(0) if left else None
        try:
            async with it.victim(death, lives=False) as victim:
                with suppress(*GONE):
                    await talk.go_on(victim)
                    over = True
                    victim.kill()
            assert over or death is not None, "it died of itself"
        except ConnectionResetError:
            assert death is not None, "it died before it was up"
