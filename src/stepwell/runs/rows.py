"""What a store keeps of a thread besides its events, and cannot derive from them: told with an append where it changed.

It is taken from the fold of the log and kept nowhere else. It stores nothing itself.
"""

from __future__ import annotations

from stepwell.state.thread import NEVER, State
from stepwell.store.base import Spending, spending


class Rows:
    """What the store knows by now.

    Args:
        state: The fold of what is stored.
    """

    __slots__ = ("_accounts", "_unusual")

    def __init__(self, state: State) -> None:
        self._unusual = state.wake != (NEVER if state.run is None else 0)
        self._accounts = _accounts(state)

    def wake(self, state: State, more: bool) -> int | None:
        """Return when the thread has work by itself, where the start or end of a run does not say it.

        Args:
            state: The fold of all that is recorded.
            more: Whether a part of that is left for the next append: then it is the state after that one.
        """
        if more:
            self._unusual = True
            return 0  # the next append says more
        usual, wake = (NEVER if state.run is None else 0), state.wake
        told, self._unusual = self._unusual, wake != usual
        return wake if told or self._unusual else None

    def spent(self, state: State) -> dict[str, Spending]:
        """Return what the thread has put on accounts, where that has changed."""
        if not _pays(state):
            return {}
        before, self._accounts = self._accounts, _accounts(state)
        return {key: total for key, total in self._accounts.items() if before.get(key) != total}

    def forget(self) -> None:
        """Tell all of it again: another writer came first."""
        self._unusual, self._accounts = True, {}


def _accounts(state: State) -> dict[str, Spending]:
    """Return what the thread has put on the accounts of keys."""
    if not _pays(state):
        return {}
    keys = set(state.spent_by_key)
    if state.run is not None and state.run.spec.key:
        keys.add(state.run.spec.key)
    return {key: spending(state.account(key)) for key in keys}


def _pays(state: State) -> bool:
    """Tell whether the thread has put anything on the account of a key."""
    return bool(state.spent_by_key) or (state.run is not None and state.run.spec.key != "")
