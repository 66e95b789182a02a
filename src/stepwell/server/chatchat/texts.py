"""What a run says, as text and its end: all that the old routes without tools show of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple

from stepwell.errors import InputError, StoreError
from stepwell.events import MessageEnded, MessageStarted, RunEnded, Stored, TextDelta, Transient, Unknown
from stepwell.runs.requests import RunRef
from stepwell.runs.service import RunService
from stepwell.server.auth import Caller
from stepwell.server.chatchat.agent_chat_events import UNFINISHED, own
from stepwell.server.chatchat.conversations import follow


class Said(NamedTuple):
    """A piece of a run's text, or its end where it is no answer.

    Args:
        text: The piece; of an end what is wrong, in words.
        error: A stable word for what is wrong; empty for a piece.
    """

    text: str
    error: str = ""


class Texts:
    """Encodes one run: its visible text as it streams, and what a reader has missed of it when a message ends."""

    def __init__(self) -> None:
        self._shown = 0

    def encode(self, event: Stored | Transient | Unknown) -> Said | None:
        """Return what one event brings, often nothing."""
        match event:
            case MessageStarted():
                self._shown = 0
            case TextDelta():
                self._shown += len(event.text)
                return Said(event.text)
            case MessageEnded(stop="error"):
                return Said("\n") if self._shown else None  # the reply begins anew below it
            case MessageEnded():
                rest = event.message.content[self._shown :]
                return Said(rest) if rest else None
            case RunEnded() if event.reason != "answer":
                return Said(event.detail, event.cause or event.reason)
            case _:
                pass
        return None


async def texts(service: RunService, caller: Caller, ref: RunRef, language: str) -> AsyncGenerator[Said | None]:
    """Yield what a run says, None for a heartbeat; what is wrong comes last."""
    encoder, inner = Texts(), set[int]()
    cause = Said(UNFINISHED[language].format(thread=ref.thread), "unfinished")
    try:
        async for items in follow(service, caller, ref):
            for item in items:
                said = encoder.encode(item.event) if own(item, inner) else None
                if said is not None:
                    yield said
                if item.ends_run:
                    return
            if not items:
                yield None
    except (InputError, StoreError) as error:  # the headers are gone: the stream itself says why it ends
        cause = Said(str(error), "failed")
    yield cause
