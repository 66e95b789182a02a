"""Which of LangChain's runs are open, and inside which: a chain, a tool, a model call each is a run there.

And the base of our handlers, which has models stream for them.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler


class Place(NamedTuple):
    """Where a run is.

    Args:
        root: The outermost run that was seen.
        tool: The outermost tool that it is inside of; None for none.
    """

    root: UUID
    tool: UUID | None


class Places:
    """The open runs; may be used from several threads."""

    def __init__(self) -> None:
        self._open: dict[UUID, tuple[Place, bool]] = {}
        self._lock = threading.Lock()

    def start(self, run: UUID, parent: UUID | None, *, is_tool: bool = False) -> Place:
        """Note that a run began; one whose parent was never seen is a root."""
        with self._lock:
            above, in_tool = self._open.get(parent, (None, False)) if parent is not None else (None, False)
            if above is None:
                place = Place(run, None)
            else:
                place = Place(above.root, above.tool or (parent if in_tool else None))
            self._open[run] = (place, is_tool)
            return place

    def of(self, run: UUID) -> Place:
        """Return where a run is; one that was never seen is a root."""
        found = self._open.get(run)
        return found[0] if found else Place(run, None)

    def end(self, run: UUID) -> Place:
        """Note that a run is over, and return where it was."""
        with self._lock:
            found = self._open.pop(run, None)
            return found[0] if found else Place(run, None)

    def __contains__(self, run: object) -> bool:
        return run in self._open


class StreamingHandler(AsyncCallbackHandler):
    """A handler for which models stream although their caller asked for whole replies.

    LangChain streams for every handler that has the two methods below (its protocol for `astream_events`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.places = Places()

    def tap_output_aiter(self, run_id: UUID, output: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Return the output as it is."""
        return output

    def tap_output_iter(self, run_id: UUID, output: Iterator[Any]) -> Iterator[Any]:
        """Return the output as it is."""
        return output
