"""Limits of money: what is reserved and settled, what is sent and refused, and that no ceiling is ever passed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import pytest

from stepwell.agent.accounts import LEAST_REPLY, Account, Accounts, affordable, check_money, nanos
from stepwell.agent.base import BaseAgent
from stepwell.agent.memory import MemoryLog
from stepwell.engines.base import Engine
from stepwell.engines.chat import ChatEngine
from stepwell.errors import ConfigError, InputError, LimitReached
from stepwell.events import (
    MessageAdded,
    MessageEnded,
    ModelFailed,
    Recorded,
    RunEnded,
    RunStarted,
    StepStarted,
    TaskStarted,
)
from stepwell.log import NO_BLOBS, Log
from stepwell.messages import Image, Message, Usage
from stepwell.models.base import Delta, Failure, Model, ModelProfile, ModelRequest, Settings
from stepwell.models.reply import ReplyReader
from stepwell.models.scripted import Answer, Gate, ScriptedModel, call, reply
from stepwell.plans import Task
from stepwell.runs.service import RunService
from stepwell.specs import NANO, ContextSpec, Limits, Prices, RunSpec
from stepwell.state.thread import State
from stepwell.store.base import NO_SPENDING, KeyUse, Spending, Store, ThreadInfo
from stepwell.store.memory import MemoryStore
from stepwell.tools.base import Toolbox
from stepwell.tools.mark import tool
from tests.support.audit import audit
from tests.support.runs import OWNER, HeldStore, Rig, answer_of, bounded, end_of, events_of, rig

PRICES = Prices(2, 8)
"""For a token of a request 2000 billionths, for one of a reply 8000."""
IN, OUT = 2000, 8000
CONTEXT = ContextSpec(window=100_000, reserve=1000)
PAID: Mapping[str, Any] = {"prices": PRICES, "max_output": 1000, "context": CONTEXT, "limits": Limits(money=1)}


@tool(effect="pure")
async def look(what: str) -> str:
    """Look something up."""
    return f"found {what}"


def looks(times: int) -> list[Answer]:
    """Return a script: so many calls and an answer, each of 100 tokens of request and 10 of reply."""
    calls = [reply("", call("look", what=str(at)), usage=Usage(100, 10)) for at in range(times)]
    return [*calls, reply("Done.", usage=Usage(100, 10))]


def steps_of(log: Sequence[Recorded]) -> list[StepStarted]:
    return events_of(log, StepStarted)


def costs_of(log: Sequence[Recorded]) -> list[int]:
    return [each.cost for each in events_of(log, MessageEnded)]


def spend(script: Any, *tools: Any, **spec: Any) -> tuple[list[Recorded], list[Any]]:
    """Carry out a run under a limit of money; return its log and what the model was asked."""
    out: tuple[list[Recorded], list[Any]] = ([], [])

    async def main() -> None:
        async with rig(script, *(tools or (look,))) as made:
            names = made.toolbox.names
            log = await made.ended(await made.start(**{**PAID, "tools": names, **spec}))
            out[0].extend(log)
            out[1].extend(made.asked)

    bounded(main)
    return out


# what is written down


def test_each_call_is_reserved_with_its_longest_reply_and_settled_by_what_the_provider_counted() -> None:
    log, asked = spend(looks(2))
    assert end_of(log) == RunEnded("answer")
    assert costs_of(log) == [100 * IN + 10 * OUT] * 3
    for step in steps_of(log):
        assert step.reserved % IN == 0
        bound = (step.reserved - 1000 * OUT) // IN
        assert 100 < bound < 2000
    assert [each.settings.max_tokens for each in asked] == [1000] * 3
    state = State(log)
    assert (state.spent.money, state.spent.reserved) == (3 * 280_000, 0)


def test_amounts_are_rounded_up_and_limits_down() -> None:
    assert Prices(0.15, 0.6).cost(1, 0) == 150
    assert Prices(0.0001, 0).cost(1, 0) == 1
    assert Prices(2, 8).cost(1_000_000, 1_000_000) == 10 * NANO
    assert (nanos(0.1), nanos(1e-9), nanos(1.9e-9), nanos(None)) == (100_000_000, 1, 1, None)


def test_the_longest_reply_that_a_request_asks_for_is_what_is_reserved() -> None:
    async def main() -> None:
        reserved: list[int] = []
        for most in (None, 50, 4000):
            model, log = ScriptedModel(looks(0)), MemoryLog()
            await log.record(RunStarted(RunSpec(**PAID)), MessageAdded(Message("user", "go")))
            settings = Settings(max_tokens=most)
            await BaseAgent(None, "", "", default_replies=None, model=model, log=log, settings=settings).ask()
            assert model.calls[0].settings.max_tokens == (most or 1000)
            reserved += [each.reserved for each in steps_of(log.events)]
        assert reserved[0] - reserved[1] == 950 * OUT
        assert reserved[2] - reserved[0] == 3000 * OUT

    bounded(main)


def test_a_reply_is_never_asked_to_be_longer_than_the_window_has_room_for() -> None:
    _, asked = spend(looks(0), max_output=4000, context=ContextSpec(window=4000, reserve=1000))
    assert 3000 <= asked[0].settings.max_tokens < 4000


def test_without_a_limit_of_money_nothing_is_reserved_and_no_limit_of_the_reply_is_sent() -> None:
    log, asked = spend(looks(1), limits=Limits())
    assert ([each.reserved for each in steps_of(log)], costs_of(log)) == ([0, 0], [0, 0])
    assert [each.settings.max_tokens for each in asked] == [None, None]


@pytest.mark.parametrize("limited", [True, False])
def test_what_a_call_may_cost_is_on_the_disk_before_the_request_goes_out(limited: bool) -> None:
    async def main() -> None:
        asked, store = asyncio.Event(), HeldStore()

        def brain(request: ModelRequest) -> Answer:
            asked.set()
            return reply("Done.", usage=Usage(100, 10))

        made = Rig(store, brain)
        spec = RunSpec(**{**PAID, "limits": Limits(money=1 if limited else None)})
        log = await made.service.begin(OWNER, Message("user", "go"), spec)
        store.held = True
        driving = asyncio.create_task(made.service.drive(log))
        for _ in range(50):
            await asyncio.sleep(0)
        assert asked.is_set() is not limited
        store.held = False
        store.release()
        await driving
        assert asked.is_set()
        assert end_of(await made.log(log.thread)) == RunEnded("answer")
        await made.service.stop(0.0)

    bounded(main)


# what a call costs that did not end as it should


def failed(kind: Any, status: int = 0, text: str = "", **more: Any) -> Answer:
    return reply(text, failure=Failure(kind, "no", status, **more))


FREE = [
    failed("connect"),
    failed("auth", 401),
    failed("rate_limit", 429),
    failed("overflow", 400),
    failed("server", 503),
]
DOUBTFUL = [
    failed("server", 500),
    failed("stall"),
    failed("broken", text="Half a "),
    failed("rate_limit", 429, text="Half a "),
    reply("Done."),
    reply("Done.", usage=Usage(0, 5)),
]


@pytest.mark.parametrize("answer", FREE)
def test_a_call_that_was_surely_not_billed_costs_nothing(answer: Answer) -> None:
    log, _ = spend([answer])
    assert costs_of(log) == [0]
    assert steps_of(log)[0].reserved > 0
    assert State(log).spent.reserved == 0


@pytest.mark.parametrize("answer", DOUBTFUL)
def test_a_call_whose_price_nobody_tells_costs_what_was_reserved(answer: Answer) -> None:
    log, _ = spend([answer])
    assert costs_of(log) == [steps_of(log)[0].reserved]


LIES = [Usage(-(10**9), 5), Usage(100, -(10**6)), Usage(100, 0)]


@pytest.mark.parametrize("usage", LIES, ids=["nothing asked", "less than nothing said", "nothing said"])
def test_a_count_that_cannot_be_true_costs_what_was_reserved(usage: Usage) -> None:
    log, _ = spend([reply("A long answer.", usage=usage)])
    assert costs_of(log) == [steps_of(log)[0].reserved]


@pytest.mark.parametrize("reason", ["abort", "insufficient_system_resource", "malformed_function_call", "error"])
def test_a_reply_that_its_endpoint_broke_off_costs_what_was_reserved(reason: str) -> None:
    reader = ReplyReader()
    reader.feed(b'data: {"choices":[{"delta":{},"finish_reason":"%b"}]}\n\ndata: [DONE]\n\n' % reason.encode())
    failure = reader.last().failure
    assert failure is not None
    log, asked = spend([failure, "Done."])
    assert (len(asked), costs_of(log)) == (1, [steps_of(log)[0].reserved])


def test_an_attempt_that_may_have_been_billed_is_not_made_again_and_one_that_was_not_is() -> None:
    log, asked = spend([Failure("stall", "too slow", 0, 0.1)])
    assert (len(asked), events_of(log, ModelFailed)) == (1, [ModelFailed("stall", "too slow")])
    assert costs_of(log) == [steps_of(log)[0].reserved]
    log, _ = spend([Failure("connect", "refused", 0, 0.1), reply("Done.", usage=Usage(100, 10))])
    assert (end_of(log), costs_of(log)) == (RunEnded("answer"), [280_000])
    log, _ = spend([Failure("stall", "too slow", 0, 0.1), "Done."], limits=Limits())
    assert end_of(log) == RunEnded("answer")


def test_a_call_that_a_crash_cut_counts_with_all_that_was_reserved_and_is_made_again() -> None:
    async def main() -> None:
        never = asyncio.Event()
        made = Rig(Disk(), [reply("Half", gates={1: never})])
        ref = await made.start(**PAID)
        while not made.asked:
            await asyncio.sleep(0)
        await made.service.stop(0.0)
        again = Rig(made.store, looks(0), [look])
        await again.service.resume()
        log = await again.ended(ref)
        assert end_of(log) == RunEnded("answer")
        first, second = steps_of(log)
        assert costs_of(log) == [first.reserved, 280_000]
        assert State(log).spent.money == first.reserved + 280_000
        assert second.reserved > 0
        await again.service.stop(0.0)

    bounded(main)


# the ceiling


def test_a_call_that_fits_only_with_a_shorter_reply_is_made_with_one() -> None:
    bound = steps_of(spend(looks(0))[0])[0].reserved - 1000 * OUT
    log, asked = spend(looks(0), limits=Limits(money=(bound + 300 * OUT) / NANO))
    assert asked[0].settings.max_tokens == 300
    assert steps_of(log)[0].reserved == bound + 300 * OUT
    assert end_of(log) == RunEnded("answer")


def test_a_call_that_could_cost_more_than_is_left_is_not_made_and_ends_the_run() -> None:
    bound = steps_of(spend(looks(0))[0])[0].reserved - 1000 * OUT
    log, asked = spend([], limits=Limits(money=(bound + LEAST_REPLY * OUT - 1) / NANO))
    ended = end_of(log)
    assert (asked, steps_of(log)) == ([], [])
    assert (ended.reason, ended.cause) == ("limit", "money")
    assert f"{(bound + LEAST_REPLY * OUT) / NANO:.6f}" in ended.detail


def test_a_short_reply_that_was_asked_for_is_not_made_shorter() -> None:
    bound = steps_of(spend(looks(0))[0])[0].reserved - 1000 * OUT
    assert end_of(spend(looks(0), max_output=20, limits=Limits(money=(bound + 20 * OUT) / NANO))[0]) == (
        RunEnded("answer")
    )
    log, asked = spend([], max_output=20, limits=Limits(money=(bound + 20 * OUT - 1) / NANO))
    assert (asked, end_of(log).cause) == ([], "money")


@pytest.mark.parametrize("left", [0, 1, 7999, 8000, 123_456, 8_000_000, 8_000_001])
@pytest.mark.parametrize("prices", [PRICES, Prices(0.15, 0.6), Prices(3, 0.07)])
def test_from_the_price_alone_the_same_reply_is_worked_out_again(prices: Prices, left: int) -> None:
    base = prices.cost(500, LEAST_REPLY)
    most = affordable(prices, 500, 4096, base + left)
    assert LEAST_REPLY <= most <= 4096
    assert prices.cost(500, most) <= base + left
    assert most == 4096 or prices.cost(500, most + 1) > base + left
    assert affordable(prices, 500, 4096, prices.cost(500, most)) == most


def test_a_thread_spends_from_one_purse_in_all_of_its_runs() -> None:
    async def main() -> None:
        async with rig(lambda _: reply("Done.", usage=Usage(100, 10)), look) as made:
            spec = {**PAID, "limits": Limits(), "thread_limits": Limits(money=0.008)}
            ref = await made.start(**spec)
            log = await made.ended(ref)
            while (end := end_of(log)).reason == "answer":
                log = await made.ended(await made.start(thread=ref.thread, **spec))
            assert (end.reason, end.cause) == ("limit", "thread_money")
            assert 0.006 * NANO < highest(log) <= 0.008 * NANO
            assert State(log).spent.money == sum(costs_of(log)) == (len(made.asked)) * 280_000
            assert len(made.asked) > 10

    bounded(main)


def highest(log: Sequence[Recorded]) -> int:
    """Return the most that a thread had spent and reserved together at any of its events."""
    state, most = State(), 0
    for recorded in log:
        state.apply(recorded)
        run = state.run.spent.money + state.run.spent.reserved if state.run else 0
        most = max(most, run + state.spent.money + state.spent.reserved)
    return most


def test_agents_side_by_side_spend_from_one_purse() -> None:
    async def main() -> None:
        log, spec = MemoryLog(), RunSpec(**{**PAID, "limits": Limits(money=0.05)})
        await log.record(RunStarted(spec), MessageAdded(Message("user", "go")))
        hold, billed = asyncio.Event(), Counter[str]()

        async def work(path: str) -> str:
            part = log.at(path)
            await part.record(
                TaskStarted(Task(id=path, name=path, goal=path), spec), MessageAdded(Message("user", "go"))
            )
            model = ScriptedModel(lambda _: reply("Yes.", usage=Usage(100, 10), gates={0: hold}))
            try:
                await BaseAgent(None, "", "", default_replies=None, model=model, log=part).ask()
            except LimitReached as error:
                return error.name
            billed[path] += 1
            return "done"

        tasks = [asyncio.create_task(work(str(number))) for number in range(1, 21)]
        for _ in range(100):
            await asyncio.sleep(0)
        run = log.state.run
        assert run is not None
        assert 0 < run.spent.reserved <= 0.05 * NANO
        hold.set()
        ended = Counter(await asyncio.gather(*tasks))
        assert ended["done"] == billed.total()
        assert set(ended) == {"done", "money"}
        assert run.spent.reserved == 0
        assert run.spent.money == ended["done"] * 280_000
        assert highest(log.events) <= 0.05 * NANO

    bounded(main)


# prices


def test_a_limit_of_money_is_refused_where_the_price_of_a_call_is_unknown() -> None:
    ways: list[dict[str, Any]] = [{"limits": Limits(money=1)}, {"thread_limits": Limits(money=1)}]
    for limits in ways:
        with pytest.raises(InputError, match=r"models\.main\.price_input") as caught:
            check_money(RunSpec(model="main", max_output=5, **limits))
        assert caught.value.field == "limits.money"
        with pytest.raises(InputError, match=r"models\.main\.max_output"):
            check_money(RunSpec(model="main", prices=PRICES, **limits))
        check_money(RunSpec(model="main", prices=PRICES, max_tokens=5, **limits))
        check_money(RunSpec(model="main", prices=PRICES, max_output=5, **limits))
        check_money(RunSpec(model="main", prices=Prices(1, 0), **limits))
    with pytest.raises(InputError, match="price_output"):
        check_money(RunSpec(model="main"), Limits(money=1))
    check_money(RunSpec(model="main", limits=Limits(steps=1)), Limits(tokens=1))


def test_the_model_that_sees_needs_a_price_of_its_own() -> None:
    spec = RunSpec(**{**PAID, "context": ContextSpec(image_model="eyes", image_window=8000)})
    check_money(spec)
    with pytest.raises(InputError, match=r"models\.eyes\.price_input"):
        check_money(spec, image=ModelProfile())
    check_money(spec, image=ModelProfile(prices=Prices(1, 1), max_output=10))


def test_a_run_that_came_without_the_check_asks_nothing_and_says_what_is_missing() -> None:
    log, asked = spend([], prices=None)
    ended = end_of(log)
    assert (ended.reason, ended.cause, asked) == ("failed", "config", [])
    assert "price_input" in ended.detail


def test_the_model_that_sees_is_paid_by_its_own_prices() -> None:
    async def main() -> None:
        eyes = ScriptedModel(
            [reply("A cat.", usage=Usage(100, 10))],
            profile=ModelProfile(window=50_000, images=True, prices=Prices(10, 100), max_output=40),
        )
        context = ContextSpec(window=100_000, reserve=1000, images=True, image_model="eyes", image_window=50_000)
        log = MemoryLog()
        cat = Image("data:image/png;base64,iVBORw0KGgo=")
        await log.record(
            RunStarted(RunSpec(**{**PAID, "context": context})), MessageAdded(Message("user", "What?", (cat,)))
        )
        await BaseAgent(None, "", "", default_replies=None, model=ScriptedModel([]), log=log, image_model=eyes).ask()
        (step,), (ended,) = events_of(log.events, StepStarted), events_of(log.events, MessageEnded)
        assert (step.model, ended.cost) == ("eyes", 100 * 10_000 + 10 * 100_000)
        assert (step.reserved - 40 * 100_000) % 10_000 == 0
        assert eyes.calls[0].settings.max_tokens == 40

    bounded(main)


def test_further_fields_cannot_make_a_reply_cost_more_than_was_reserved() -> None:
    async def main() -> None:
        model, log = ScriptedModel(looks(0) * 2), MemoryLog()
        await log.record(RunStarted(RunSpec(**PAID)), MessageAdded(Message("user", "go")))
        extra = {"n": 5, "best_of": 5, "max_completion_tokens": 700, "top_p": 0.5}
        agent = BaseAgent(None, "", "", default_replies=None, model=model, log=log, settings=Settings(extra=extra))
        await agent.ask()
        assert model.calls[0].settings == Settings(max_tokens=700, extra={"top_p": 0.5})

    bounded(main)


# keys


class Disk(MemoryStore):
    """A store whose contents outlive the service that closes it."""

    async def close(self) -> None:
        pass


class Ledger(Disk):
    """A store that adds up, at every stored event, what all threads have spent and reserved by then.

    Args:
        ceiling: In billionths; more is never stored.
    """

    def __init__(self, ceiling: int) -> None:
        super().__init__()
        self.ceiling, self.most, self.checked = ceiling, 0, 0
        self._states: dict[str, State] = {}
        self._amounts: dict[str, int] = {}

    def append(
        self,
        thread: str,
        events: Sequence[Recorded],
        *,
        expect: int,
        new: ThreadInfo | None = None,
        key: KeyUse | None = None,
        blobs: Mapping[str, bytes] = NO_BLOBS,
        wake: int | None = None,
        spent: Mapping[str, Spending] = NO_SPENDING,
    ) -> asyncio.Future[None]:
        done = super().append(thread, events, expect=expect, new=new, key=key, blobs=blobs, wake=wake, spent=spent)
        state = self._states.setdefault(thread, State())
        for recorded in events:
            state.apply(recorded)
            run = state.run.spent.money + state.run.spent.reserved if state.run else 0
            self._amounts[thread] = run + state.spent.money
            self.checked += 1
        total = sum(self._amounts.values())
        self.most = max(self.most, total)
        assert total <= self.ceiling, f"{total} of {self.ceiling} after {events[-1] if events else new}"
        return done


class Vendor:
    """A model of a vendor who bills what is sent, whatever becomes of the reply.

    Args:
        seed: Decides lengths, pauses and failures.
        at: After so many requests `crash` is set.
    """

    profile = ModelProfile(window=100_000)

    def __init__(self, seed: int, at: int) -> None:
        self.billed = self.requests = 0
        self.crash = asyncio.Event()
        self._at, self._random = at, random.Random(seed)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Delta]:
        self.requests += 1
        if self.requests >= self._at:
            self.crash.set()
        most, luck = request.settings.max_tokens, self._random.random()
        assert most is not None
        if luck < 0.05:
            yield Delta(failure=Failure("connect", "refused"), stop="error")
            return
        tokens = sum(len(each.content) // 4 + 4 for each in request.all)
        said = self._random.randint(1, most)
        self.billed += PRICES.cost(tokens, said)
        for _ in range(self._random.randint(0, 6)):
            await asyncio.sleep(0)
            yield Delta(text="word ")
        if luck < 0.1:
            yield Delta(failure=Failure("broken", "cut"), stop="error")
        elif luck < 0.2:
            yield Delta(stop="stop")
        else:
            yield Delta(calls=(), usage=Usage(tokens, said), stop="stop")

    async def close(self) -> None: ...


class Persistent(ChatEngine):
    """An engine that asks on and on, for a fixed number of steps."""

    def _over(self, agent: BaseAgent, log: Log, run: Any) -> Any:
        return ("answer", "", "") if run.steps >= 6 else None


def loader(store: Store, limits: Limits | None) -> Callable[[str], Any]:
    async def load(key: str) -> tuple[Limits | None, Spending]:
        return limits, await store.spent(key)

    return load


def service(store: Store, model: Model, limits: Limits | None) -> tuple[RunService, Accounts]:
    """Return a service as a process has it that begins with nothing but the store."""
    accounts = Accounts(loader(store, limits))

    def make_agent(log: Log) -> BaseAgent:
        return BaseAgent(None, "", "", default_replies=None, model=model, log=log, accounts=accounts)

    def assemble(spec: RunSpec) -> Engine:
        return Persistent(make_agent, Toolbox([]))

    return RunService(store, assemble), accounts


@pytest.mark.parametrize("seed", range(4))
def test_two_hundred_runs_of_one_key_never_pass_its_ceiling_through_any_number_of_crashes(seed: int) -> None:
    async def main() -> None:
        ceiling, chance = 2 * NANO, random.Random(seed)
        limits, spec = Limits(money=2), RunSpec(key="k", prices=PRICES, max_output=2000, context=CONTEXT)
        store, billed, requests = Ledger(ceiling), 0, 0
        vendor = Vendor(seed, 40)
        runs, accounts = service(store, vendor, limits)
        for number in range(200):
            await runs.start(OWNER, Message("user", f"go {number}"), spec)
        for life in range(6):
            crash = asyncio.create_task(vendor.crash.wait())
            idle = asyncio.create_task(over(runs))
            await asyncio.wait([crash, idle], return_when=asyncio.FIRST_COMPLETED)
            for task in (crash, idle):
                task.cancel()
            await asyncio.gather(crash, idle, return_exceptions=True)
            account = await accounts.of("k")
            assert account is not None
            assert account.money <= ceiling
            billed, requests = billed + vendor.billed, requests + vendor.requests
            assert billed <= ceiling
            await runs.stop(0.0)
            vendor = Vendor(seed * 10 + life, chance.randint(5, 60) if life < 4 else 10**6)
            runs, accounts = service(store, vendor, limits)
            await runs.resume()
        await over(runs)
        assert billed + vendor.billed <= ceiling
        ends: Counter[str] = Counter()
        for info in await runs.threads(OWNER, limit=500):
            log = await store.read(info.id)
            audit(log)
            ends[end_of(log).cause] += 1
        assert ends.total() == 200
        assert ends["key_money"] > 20
        assert requests + vendor.requests > 100
        assert store.most > ceiling * 0.9
        assert store.checked > 1000
        await runs.stop(0.0)

    bounded(main)


def test_what_a_call_did_not_cost_is_free_for_others_only_when_its_end_is_on_the_disk() -> None:
    async def main() -> None:
        store, gate, next_gate = HeldStore(), Gate(), Gate()
        first = reply("Done.", usage=Usage(100, 10), gates={1: gate})
        model = ScriptedModel([first, reply("Again.", gates={0: next_gate})])
        runs, accounts = service(store, model, Limits(money=1))
        log = await runs.begin(OWNER, Message("user", "go"), RunSpec(key="k", **{**PAID, "limits": Limits()}))
        driving = asyncio.create_task(runs.drive(log))
        await gate.reached.wait()
        (step,) = steps_of(await log.read())
        account = await accounts.of("k")
        assert account is not None
        assert account.money == step.reserved > 280_000
        store.held = True
        gate.set()
        while not store.waiting:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert log.state.run is not None
        assert log.state.run.spent.money == 280_000
        assert account.money == step.reserved
        store.release()
        await next_gate.reached.wait()
        assert account.money == 280_000 + steps_of(await log.read())[1].reserved
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)
        await runs.stop(0.0)

    bounded(main)


async def over(runs: RunService) -> None:
    """Wait until no thread has an open run."""
    for info in await runs.threads(OWNER, limit=500):
        async for items in runs.follow(OWNER, info.id):
            if any(item.ends_run for item in items):
                break


def test_two_runs_of_a_key_that_start_together_read_its_account_once() -> None:
    async def main() -> None:
        read, go = Counter[str](), asyncio.Event()

        async def load(key: str) -> tuple[Limits | None, Spending]:
            read[key] += 1
            await go.wait()
            return (Limits(money=1) if key == "k" else None), Spending(money=5)

        accounts = Accounts(load)
        both = [asyncio.create_task(accounts.of("k")) for _ in range(2)]
        await asyncio.sleep(0)
        go.set()
        one, other = await asyncio.gather(*both)
        assert one is other is await accounts.of("k")
        assert one is not None
        assert one.left() == NANO - 5
        assert (await accounts.of("free"), await accounts.of("free"), await accounts.of("")) == (None, None, None)
        assert read == {"k": 1, "free": 1}

    bounded(main)


USED = [
    (Limits(steps=3), Spending(steps=3), "key_steps"),
    (Limits(tool_calls=3), Spending(tool_calls=4), "key_tool_calls"),
    (Limits(tokens=3), Spending(tokens=3), "key_tokens"),
    (Limits(seconds=1.5), Spending(milliseconds=1500), "key_seconds"),
    (Limits(money=1), Spending(money=NANO), "key_money"),
]


@pytest.mark.parametrize(("limits", "spent", "name"), USED)
def test_a_key_whose_limit_is_used_up_gets_no_run_and_no_call(limits: Limits, spent: Spending, name: str) -> None:
    with pytest.raises(LimitReached) as caught:
        Account(limits, spent).check()
    assert caught.value.name == name
    Account(limits, Spending()).check()

    async def main() -> None:
        async def load(key: str) -> tuple[Limits | None, Spending]:
            return limits, spent

        model, log = ScriptedModel([]), MemoryLog()
        await log.record(RunStarted(RunSpec(**{**PAID, "limits": Limits(), "key": "k"})))
        agent = BaseAgent(None, "", "", default_replies=None, model=model, log=log, accounts=Accounts(load))
        before = list(log.events)
        with pytest.raises(LimitReached) as refused:
            await agent.ask()
        assert (refused.value.name, log.events) == (name, before)

    bounded(main)


def test_an_account_counts_what_its_runs_use_while_they_go_on() -> None:
    async def main() -> None:
        async def load(key: str) -> tuple[Limits | None, Spending]:
            return Limits(steps=3, tokens=10_000, tool_calls=100, seconds=60), Spending()

        accounts = Accounts(load)
        for number in range(3):
            log = MemoryLog()
            await log.record(RunStarted(RunSpec(key="k")), MessageAdded(Message("user", "go")))
            model = ScriptedModel([reply("Yes.", call("look", what="x"), usage=Usage(100, 10))])
            agent = BaseAgent(None, "", "", default_replies=None, model=model, log=log, accounts=accounts)
            await agent.ask()
            assert model.calls[0].settings.max_tokens is None
            account = await accounts.of("k")
            assert account is not None
            assert account.over() == ("steps" if number == 2 else "")
        other = Account(Limits(seconds=1), Spending())
        other.ended(999)
        assert other.over() == ""
        other.ended(1)
        assert other.over() == "seconds"

    bounded(main)


def test_runs_side_by_side_take_no_more_steps_than_their_key_has() -> None:
    async def main() -> None:
        gate = Gate()
        model = ScriptedModel(lambda _: reply("Yes.", usage=Usage(10, 1), gates={0: gate}))
        runs, accounts = service(Disk(), model, Limits(steps=3))
        for _ in range(12):
            await runs.start(OWNER, Message("user", "go"), RunSpec(key="k", context=CONTEXT))
        await gate.reached.wait()
        for _ in range(200):
            await asyncio.sleep(0)
        account = await accounts.of("k")
        assert account is not None
        assert (len(model.calls), account.over()) == (3, "steps")
        gate.set()
        await over(runs)
        ends = Counter[str]()
        for info in await runs.threads(OWNER, limit=50):
            ends[end_of(await runs.store.read(info.id)).cause] += 1
        assert ends["key_steps"] == 12
        assert len(model.calls) == 3
        await runs.stop(0.0)

    bounded(main)


def test_a_key_with_an_unknown_price_is_told_so_by_the_run() -> None:
    async def main() -> None:
        async def load(key: str) -> tuple[Limits | None, Spending]:
            return Limits(money=1), Spending()

        log = MemoryLog()
        await log.record(RunStarted(RunSpec(model="main", key="k")), MessageAdded(Message("user", "go")))
        agent = BaseAgent(None, "", "", model=ScriptedModel([]), log=log, accounts=Accounts(load))
        with pytest.raises(ConfigError, match=r"models\.main\.price_input"):
            await agent.ask()

    bounded(main)


def test_an_answer_is_the_same_with_and_without_a_limit() -> None:
    assert answer_of(spend(looks(2))[0]) == answer_of(spend(looks(2), limits=Limits())[0]) == "Done."
