"""What limits of an API key mean for open runs: how many calls of a reply run, also side by side and after a crash."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stepwell.agent.accounts import NO_CALLS, Accounts
from stepwell.agent.base import BaseAgent
from stepwell.engines.base import Engine
from stepwell.engines.chat import ChatEngine
from stepwell.events import Recorded, RunEnded, ToolEnded
from stepwell.log import Log
from stepwell.messages import ToolCall
from stepwell.models.base import Model
from stepwell.models.scripted import Gate, reply
from stepwell.runs.replay import replay
from stepwell.runs.replay_parts import ReplayModel
from stepwell.runs.service import RunService
from stepwell.specs import Limits, RunSpec
from stepwell.store.base import Spending
from stepwell.tools.base import Toolbox
from stepwell.tools.mark import tool
from tests.support.runs import Rig, bounded, end_of, events_of, open_store, rig

MOST = 4


class KeyRig(Rig):
    """Runs on the account of a key that allows `MOST` calls, of as many seconds."""

    def __init__(self, *parts: object) -> None:
        super().__init__(*parts)  # type: ignore[arg-type]
        self.accounts, self.time = Accounts(self._load), 1_000_000
        self.service = RunService(self.store, self.assemble, clock=lambda: self.time, ended=self.accounts.ended)

    async def _load(self, key: str) -> tuple[Limits | None, Spending]:
        return Limits(tool_calls=MOST, seconds=MOST), await self.store.spent(key)

    def assemble(self, spec: RunSpec) -> Engine:
        return self.engine(spec, self.model, self.toolbox)

    def engine(self, spec: RunSpec, model: Model, toolbox: Toolbox) -> Engine:
        accounts = model.accounts if isinstance(model, ReplayModel) else self.accounts

        def make_agent(log: Log) -> BaseAgent:
            return BaseAgent(
                step_prompt="", default_replies=None, model=model, tools=toolbox.specs, log=log, accounts=accounts
            )

        return ChatEngine(make_agent, toolbox)


class Parts:
    """What a replay is made of: neither the model nor the tools can be reached."""

    def __init__(self, made: KeyRig) -> None:
        self._made = made

    def versions(self, spec: RunSpec) -> dict[str, str]:
        return {}

    def toolbox(self, spec: RunSpec) -> Toolbox:
        return self._made.toolbox

    def engine(self, spec: RunSpec, model: Model, toolbox: Toolbox) -> Engine:
        return self._made.engine(spec, model, toolbox)


class Works:
    """A tool that notes its calls, and waits where it is to be slow."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.gate = Gate()

        @tool(effect="pure")
        async def work(what: str) -> str:
            """Work."""
            self.ran.append(what)
            if what.startswith("slow"):
                await self.gate.wait()
            return f"worked {what}"

        self.work = work


def works(*names: str) -> list[ToolCall]:
    return [ToolCall(f"c{name}", "work", f'{{"what": "{name}"}}') for name in names]


def refused(log: list[Recorded]) -> list[str]:
    return [each.call for each in events_of(log, ToolEnded) if each.content in NO_CALLS.values()]


async def replayed(log: list[Recorded], made: KeyRig) -> None:
    for end in range(1, len(log) + 1):
        assert await replay(log[:end], Parts(made), "t") is None


@pytest.mark.parametrize("language", ["en", "zh"])
def test_calls_of_one_reply_beyond_what_the_key_has_left_are_not_run(language: str) -> None:
    async def main() -> None:
        tools = Works()
        script = [reply("", *works("a")), reply("", *works("b", "c", "d", "e", "f"))]
        async with rig(script, tools.work, kind=KeyRig) as made:
            assert isinstance(made, KeyRig)
            log = await made.ended(await made.start(key="k", language=language))
            assert sorted(tools.ran) == ["a", "b", "c", "d"]
            assert refused(log) == ["ce", "cf"]
            assert {each.content for each in events_of(log, ToolEnded) if each.status == "denied"} == {
                NO_CALLS[language]
            }
            end = end_of(log)
            assert (end.reason, end.cause) == ("limit", "key_tool_calls")
            assert len(made.asked) == 2
            await replayed(log, made)

    bounded(main)


def test_runs_side_by_side_make_no_more_calls_than_their_key_has() -> None:
    async def main() -> None:
        tools, gate = Works(), Gate()
        script = [reply("", *works(f"{name}1", f"{name}2", f"{name}3"), gates={0: gate}) for name in "ab"]
        async with rig(script, tools.work, kind=KeyRig) as made:
            assert isinstance(made, KeyRig)
            refs = [await made.start(key="k") for _ in range(2)]
            await gate.reached.wait()
            while len(made.asked) < 2:
                await asyncio.sleep(0)
            gate.set()
            logs = [await made.ended(ref) for ref in refs]
            assert len(tools.ran) == MOST
            assert sum(len(refused(log)) for log in logs) == 2
            assert [end_of(log).cause for log in logs] == ["key_tool_calls"] * 2
            for log in logs:
                await replayed(log, made)

    bounded(main)


def test_calls_that_a_crash_left_open_count_before_they_are_run_again(tmp_path: Path) -> None:
    async def main() -> None:
        tools = Works()
        async with rig(
            [reply("", *works("slow1", "slow2", "a"))],
            tools.work,
            store=open_store("sqlite", tmp_path),
            kind=KeyRig,
        ) as made:
            ref = await made.start(key="k")
            await tools.gate.reached.wait()
            log = await made.log(ref.thread)
            while not events_of(log, ToolEnded):
                log = await made.log(ref.thread)
        again = Works()
        async with rig(
            [reply("", *works("b", "c"))], again.work, store=open_store("sqlite", tmp_path), kind=KeyRig
        ) as made:
            assert isinstance(made, KeyRig)
            other = await made.ended(await made.start(key="k"))
            assert (again.ran, refused(other)) == (["b"], ["cc"])
            again.gate.set()
            assert await made.service.resume() == 1
            log = await made.ended(ref)
            assert sorted(again.ran) == ["b", "slow1", "slow2"]
            assert refused(log) == []
            assert end_of(log) == RunEnded("limit", "key_tool_calls", end_of(log).detail)
            assert (await made.store.spent("k")).tool_calls == 5
            await replayed(log, made)

    bounded(main)


@pytest.mark.parametrize("before", [0, 3])
def test_a_run_that_outlasts_the_seconds_of_its_key_asks_no_model_any_more(before: int) -> None:
    async def main() -> None:
        tools = Works()
        async with rig([*["one"][: before // 3], reply("", *works("slow")), "never"], tools.work, kind=KeyRig) as made:
            assert isinstance(made, KeyRig)
            if before:
                ref = await made.start(key="k")
                made.time += before * 1000
                await made.ended(ref)
            ref = await made.start(key="k")
            await tools.gate.reached.wait()
            made.time += (MOST - before) * 1000
            tools.gate.set()
            log = await made.ended(ref)
            assert (end_of(log).reason, end_of(log).cause) == ("limit", "key_seconds")
            await replayed(log, made)

    bounded(main)
