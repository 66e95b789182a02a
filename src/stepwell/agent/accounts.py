"""Money: what a call may cost at most, what is left for it, and accounts of API keys that all runs of a process share.

What a run and its thread have spent stands in the fold of their log; an account adds what other threads of the same
key spend meanwhile. It asks no model and records nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from types import MappingProxyType

import msgspec

from stepwell.errors import ConfigError, InputError, LimitReached
from stepwell.events import MessageEnded, Stored, ToolEnded
from stepwell.log import Log
from stepwell.messages import Usage
from stepwell.models.base import Delta, Failure, Model, ModelProfile, ModelRequest
from stepwell.specs import NANO, Limits, Prices, RunSpec
from stepwell.state.run import RunState
from stepwell.store.base import Spending

LEAST_REPLY = 256
"""Tokens of the shortest reply that a call is worth its price for; less only where less is asked for."""
_FREE = ("connect", "auth", "rate_limit", "overflow", "request")
_TURNED_AWAY = (503, 529)
"""Statuses of an endpoint that has no capacity: it did not begin to work on the request."""
NO_CALLS = MappingProxyType(
    {
        "en": "Not run: the limit of tool calls of this API key is used up.",
        "zh": "未执行：此 API 密钥的工具调用次数已达上限。",
    }
)
"""The results of calls that a key's limit does not allow, by language."""
_WHOSE = {"money": "this run", "thread_money": "this thread", "key_money": "this API key"}


class Account:
    """What one key may spend, and what its runs have spent or reserved so far.

    What is changed here is changed in the same turn of the loop as the log of the run, so that runs side by side
    never reserve the same money. A reservation that is never settled, such as that of a call that was cut, counts as
    spent; the log says the same.

    Args:
        limits: What all runs of the key may use together.
        spent: What they have used so far.

    Attributes:
        money: Spent and reserved, in billionths of the unit.
    """

    def __init__(self, limits: Limits, spent: Spending) -> None:
        self.limits, self.money = limits, spent.money
        self._steps, self._tool_calls, self._tokens = spent.steps, spent.tool_calls, spent.tokens
        self._milliseconds = spent.milliseconds
        self._most = nanos(limits.money)

    def left(self) -> int | None:
        """Return what may still be reserved, in billionths; None for no limit."""
        return None if self._most is None else self._most - self.money

    def over(self, milliseconds: int = 0) -> str:
        """Return the name of a limit besides money that is used up, or nothing.

        Args:
            milliseconds: How long the run took by now that asks; a run is counted when it ends.
        """
        limits = self.limits
        used = (
            ("steps", limits.steps, self._steps),
            ("tool_calls", limits.tool_calls, self._tool_calls),
            ("tokens", limits.tokens, self._tokens),
            ("seconds", limits.seconds, (self._milliseconds + milliseconds) / 1000),
        )
        return next((name for name, limit, amount in used if limit is not None and amount >= limit), "")

    def add(self, money: int, usage: Usage | None = None, *, steps: int = 0) -> None:
        """Count what was reserved or used; what was reserved and is not needed comes with a minus."""
        self.money += money
        self._steps += steps
        self._tokens += usage.input + usage.output if usage else 0

    def take(self, calls: int) -> int:
        """Count the calls of a reply, and return how many of them may be run: those that come first."""
        most, before = self.limits.tool_calls, self._tool_calls
        self._tool_calls += calls
        return calls if most is None else min(calls, max(0, most - before))

    def ended(self, milliseconds: int) -> None:
        """Count how long a run took."""
        self._milliseconds += milliseconds

    def check(self) -> None:
        """Refuse a run for which nothing is left.

        Raises:
            LimitReached: A limit is used up; its name begins with `key_`.
        """
        left = self.left()
        name = self.over() or ("money" if left is not None and left <= 0 else "")
        if name:
            raise LimitReached(f"The limit of {name} of this API key is used up.", f"key_{name}")


Load = Callable[[str], Awaitable[tuple[Limits | None, Spending]]]
"""Reads a key's limits, None where it has none, and what its runs have spent."""


class Accounts:
    """The accounts of keys, one object for all runs of a process.

    Args:
        load: Reads an account; asked once for each key, before the first run of the key does anything here.
    """

    def __init__(self, load: Load) -> None:
        self._load, self._lock = load, asyncio.Lock()
        self._known: dict[str, Account | None] = {}

    async def of(self, key: str) -> Account | None:
        """Return the account of a key; None for a key without limits, or no key.

        Raises:
            StoreError: It cannot be read.
        """
        if not key:
            return None
        if key not in self._known:
            async with self._lock:
                if key not in self._known:
                    limits, spent = await self._load(key)
                    limited = limits is not None and limits != Limits()
                    self._known[key] = Account(limits, spent) if limits is not None and limited else None
        return self._known[key]

    def at(self, path: str) -> Accounts:
        """Return the accounts as an agent inside a run sees them: the same ones."""
        return self

    def ended(self, run: RunState) -> None:
        """Count how long a run took that has ended, where its key has limits.

        An account that is not read yet is read with it.
        """
        account = self._known.get(run.spec.key)
        if account is not None:
            account.ended(run.spent.milliseconds)


class Terms(msgspec.Struct, frozen=True):
    """What is known of the price of a model's replies.

    Args:
        model: Its name in the settings.
        prices: None where they are unknown.
        max_output: Tokens of its longest reply; 0 where that is unknown.
    """

    model: str
    prices: Prices | None
    max_output: int

    def check(self, wanted: int | None) -> Prices:
        """Return the prices of a model that can be asked under a limit of money.

        Args:
            wanted: Longest reply in tokens that is asked for; None for the model's own.

        Raises:
            ConfigError: Its prices, or its longest reply, are unknown.
        """
        place = f"models.{self.model or 'NAME'}"
        if self.prices is None:
            raise ConfigError(
                f"A limit of money needs the prices of the model {self.model!r}, which are unknown; set "
                f"{place}.price_input and {place}.price_output, or leave the limit out."
            )
        if wanted is None and not self.max_output and self.prices.output:
            raise ConfigError(
                f"A limit of money needs the longest reply of the model {self.model!r}, which is unknown; set "
                f"{place}.max_output or max_tokens, or leave the limit out."
            )
        return self.prices


def terms_of(spec: RunSpec) -> Terms:
    """Return the terms of a run's own model."""
    return Terms(spec.model_name or spec.model, spec.prices, spec.max_output)


def terms_of_profile(name: str, profile: ModelProfile) -> Terms:
    """Return the terms of another model."""
    return Terms(name, profile.prices, profile.max_output)


def check_money(spec: RunSpec, of_key: Limits | None = None, *, image: ModelProfile | None = None) -> None:
    """Refuse a run under a limit of money whose calls have no known price.

    Args:
        spec: How it is to go.
        of_key: The limits of its key.
        image: Facts about the model that is asked where a request holds images, if there is one.

    Raises:
        InputError: The prices or the longest reply of a model are unknown; names the setting.
    """
    limits = (spec.limits, spec.thread_limits, of_key)
    if all(each is None or each.money is None for each in limits):
        return
    terms = [terms_of(spec)]
    if image is not None and spec.context is not None and spec.context.image_model:
        terms.append(terms_of_profile(spec.context.image_model, image))
    try:
        for each in terms:
            each.check(spec.max_tokens)
    except ConfigError as error:
        raise InputError(str(error), "limits.money") from error


class Purse:
    """What the calls of one agent are paid from: its run's limit of money, its thread's and its key's.

    Args:
        run: What the run may use, in billionths; None for no limit.
        thread: The same of its thread.
        account: That of its key, if it has limits.
    """

    def __init__(self, run: int | None, thread: int | None, account: Account | None) -> None:
        self._run, self._thread, self.account = run, thread, account

    def left(self, log: Log, run: RunState) -> list[tuple[str, int]]:
        """Return what each limit leaves for the next call, by its name; nothing without a limit of money."""
        spent = run.spent.money + run.spent.reserved
        found: list[tuple[str, int]] = []
        if self._run is not None:
            found.append(("money", self._run - spent))
        if self._thread is not None:
            before = log.whole.spent
            found.append(("thread_money", self._thread - spent - before.money - before.reserved))
        if self.account is not None and (left := self.account.left()) is not None:
            found.append(("key_money", left))
        return found

    def charge(self, log: Log, run: RunState, terms: Terms, tokens: int, wanted: int | None, room: int) -> Charge:
        """Return what a call may cost, reserved nowhere yet; nothing may be awaited until it is.

        A call that does not fit whole is made with as many tokens of reply as can be paid, `LEAST_REPLY` at least.

        Args:
            log: The agent's.
            run: Its open run or task.
            terms: The prices of the model that is asked.
            tokens: Tokens of the request at most.
            wanted: Longest reply that is asked for; None for as long as the model can.
            room: Tokens that the model's window leaves for the reply, where nothing is asked for.

        Raises:
            LimitReached: What is left is too little, or another limit of the key is used up.
            ConfigError: The price of the call is unknown.
        """
        if self.account is not None:
            root = log.whole.run or run  # it was admitted, so its first call is made
            took = max(0, log.now() - root.started) if root.spent.steps else 0
            if name := self.account.over(took):
                raise LimitReached(f"The limit of {name} of this API key is used up.", f"key_{name}")
        limits = self.left(log, run)
        if not limits:
            return Charge(self.account, None, None, 0)
        prices = terms.check(wanted)
        most = wanted or (min(terms.max_output, room) if terms.max_output else 0)
        least = prices.cost(tokens, min(most, LEAST_REPLY))
        for name, left in limits:
            if least > left:
                raise LimitReached(
                    f"The next model call could cost {least / NANO:.6f}, and {_WHOSE[name]} has less money left.", name
                )
        most = affordable(prices, tokens, most, min(left for _, left in limits))
        return Charge(self.account, prices, most or None, prices.cost(tokens, most))


def affordable(prices: Prices, tokens: int, most: int, left: int) -> int:
    """Return the tokens of reply, at most `most`, that can be paid from what is left, in billionths.

    The same comes out where just the price of what came out is left: a replay knows no more than that.
    """
    if prices.cost(tokens, most) <= left:
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if prices.cost(tokens, middle) <= left else (low, middle)
    return low


class Charge:
    """One model call from its reservation to its price.

    Args:
        account: That of the run's key, if it has limits.
        prices: What it is charged by; None where no money is limited.
        max_tokens: The longest reply that it pays for; None where its length costs nothing.
        reserved: What it costs at most, in billionths.
    """

    def __init__(self, account: Account | None, prices: Prices | None, max_tokens: int | None, reserved: int) -> None:
        self._account, self.prices, self.max_tokens, self.reserved = account, prices, max_tokens, reserved

    @property
    def longest(self) -> int | None:
        """The longest reply in tokens as the log has it; see `StepStarted.max_tokens`."""
        return None if self.prices is None else self.max_tokens or 0

    def reserve(self, steps: int = 0) -> None:
        """Take what the call costs at most from the key's account, before the event that says so is recorded.

        Args:
            steps: 1 for a step of a run: with others under way beside it, its end would be too late to count it.
        """
        if self._account is not None:
            self._account.add(self.reserved, steps=steps)

    def release(self, steps: int = 0) -> None:
        """Give back what was reserved for a call that is not made: its event did not come into the log."""
        if self._account is not None:
            self._account.add(-self.reserved, steps=-steps)

    def refused(self, run: RunState, reply: MessageEnded) -> list[Stored]:
        """Count the calls of a reply in the key's account, and return the results of those that it does not allow."""
        if self._account is None or run.aside or reply.stop == "error":
            return []
        calls, text = reply.message.calls, NO_CALLS["zh" if run.spec.language == "zh" else "en"]
        return [ToolEnded(each.id, text, "denied") for each in calls[self._account.take(len(calls)) :]]

    async def settle(self, log: Log, cost: int, usage: Usage | None) -> None:
        """Count in the key's account what the call did cost, in place of what was reserved.

        Args:
            log: Where its end was recorded.
            cost: In billionths.
            usage: What it used, if that is known.

        Raises:
            StoreError: The end did not come to the disk.
        """
        if self._account is None:
            return
        if self.prices is not None:
            # Others may have what is left over only when a crash cannot bring the reservation back.
            await log.committed()
        self._account.add(cost - self.reserved, usage)


class Metered:
    """A model whose reply is charged; it tells what it cost. Implements `models.base.Model` for one request.

    An attempt that may have been billed is not made again by the adapter: that would cost what nothing was reserved
    for.

    Args:
        model: Who answers.
        charge: What the call may cost.
    """

    def __init__(self, model: Model, charge: Charge) -> None:
        self._model, self._charge, self.profile = model, charge, model.profile
        self._usage: Usage | None = None
        self._failure: Failure | None = None
        self._began = False

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Delta]:
        """Stream the reply; see the port."""
        async with aclosing(self._model.stream(request)) as deltas:
            async for delta in deltas:
                self._usage = delta.usage or self._usage
                self._began = self._began or bool(delta.text or delta.thinking or delta.calls)
                failure = delta.failure
                if failure is not None and (delta.stop is not None or not self._may_retry(failure)):
                    self._failure = failure = msgspec.structs.replace(failure, retry_in=None)
                    yield msgspec.structs.replace(delta, failure=failure, stop="error")
                    return
                yield delta

    async def close(self) -> None:
        """Let go of nothing: the model is somebody else's."""

    def _may_retry(self, failure: Failure) -> bool:
        return self._charge.prices is None or self._free(failure)

    def _free(self, failure: Failure) -> bool:
        return not self._began and (failure.kind in _FREE or failure.status in _TURNED_AWAY)

    def cost(self) -> int:
        """Return what the reply cost, in billionths.

        It is what was reserved where nobody tells, or no tokens of what was said, and something may have been billed.
        What came from the provider's prompt cache is charged like the rest.
        """
        prices, usage = self._charge.prices, self._usage
        if prices is None:
            return 0
        if self._failure is not None:
            return 0 if self._free(self._failure) else self._charge.reserved
        if usage is None or usage.input <= 0 or usage.output < self._began:
            return self._charge.reserved
        return prices.cost(usage.input, usage.output)

    async def end(self, log: Log, events: Sequence[Stored]) -> None:
        """Record the end of the reply with what it cost, and settle the call.

        Calls that the key has left no more of get their results with it, so that no other run, crash or replay can
        let them run.

        Args:
            log: The agent's.
            events: As they are recorded without a limit.

        Raises:
            Conflict: Somebody else appended; what was reserved counts as spent until the account is read again.
        """
        (*before, last), run = events, log.state.run
        assert isinstance(last, MessageEnded)
        assert run is not None
        cost = self.cost()
        await log.record(*before, msgspec.structs.replace(last, cost=cost), *self._charge.refused(run, last))
        await self._charge.settle(log, cost, last.usage)


def nanos(money: float | None) -> int | None:
    """Return an amount in billionths of the unit, rounded down; None for None."""
    return None if money is None else math.floor(round(money * NANO, 3))
