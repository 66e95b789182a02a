"""Replays of runs under a limit of money of an API key: what others had spent by then is in no log of theirs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stepwell.agent.accounts import Accounts
from stepwell.config import Config, load
from stepwell.events import Recorded, RunEnded, StepStarted
from stepwell.messages import Message
from stepwell.runs.catalog import Wish
from stepwell.runs.replay import replay
from stepwell.runs.service import RunService
from stepwell.specs import NANO, Limits
from stepwell.store.base import Spending
from stepwell.store.memory import MemoryStore
from stepwell.wiring.catalog import ConfigCatalog
from stepwell.wiring.replay import ConfigParts
from tests.support.audit import audit

SCRIPT = """
{"says":["4"],"text":"It is 4."}
{"calls":[{"name":"calculate","arguments":{"query":"2+2"}}]}
"""


def settings(folder: Path) -> Config:
    (folder / "script.jsonl").write_text(SCRIPT)
    (folder / "s.toml").write_text(
        f"""
        [models.m]
        kind = "scripted"
        script = "{folder / "script.jsonl"}"
        max_output = 1000
        price_input = 1
        price_output = 1000
        """
    )
    return load(folder / "s.toml")


async def played(config: Config, left: float) -> list[Recorded]:
    """Return the log of a run whose key has so much money left."""

    async def account(key: str) -> tuple[Limits | None, Spending]:
        assert key == "k"
        return Limits(money=10), Spending(money=int((10 - left) * NANO))

    catalog = ConfigCatalog(config, Accounts(account))
    service = RunService(MemoryStore(), catalog.assemble)
    log = await service.begin("ann", Message("user", "Add."), catalog.spec(Wish(text="Add.", key="k")))
    await service.drive(log)
    events = await service.events("ann", log.thread)
    await service.stop()
    return events


@pytest.mark.parametrize(("left", "cause"), [(9.0, ""), (0.5, "key_money"), (0.1, "key_money")])
def test_a_run_that_its_key_held_short_replays_whole_and_cut_after_each_event(
    left: float, cause: str, tmp_path: Path
) -> None:
    async def main() -> None:
        config = settings(tmp_path)
        events = await played(config, left)
        audit(events)
        ended = events[-1].event
        assert isinstance(ended, RunEnded)
        assert ended.cause == cause
        reserved = [each.event.reserved for each in events if isinstance(each.event, StepStarted)]
        assert all(0 < amount <= left * NANO for amount in reserved)
        for end in range(len(events) + 1):
            assert await replay(events[:end], ConfigParts(config)) is None, f"cut after {end}"

    asyncio.run(main())
