"""The one event vocabulary: what can happen in a thread, as a tagged union of frozen records.

Events are nested like brackets: every `…Started` gets its `…Ended`, on failure and on cancel too.
Transient events (deltas, progress) are streamed and never stored. The fold of a log is in `state/`;
this folder only says what the records are and how they are written.

Each type has a version of its own, written in its tag from the second on (`tool_ended.2`). `decode`
upgrades older rows on reading (`UPGRADES`) and never rewrites them. A tag that this version does not
know decodes to `Unknown`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec

from stepwell.events.base import Effect, EndReason, Event, Policy, ToolStatus
from stepwell.events.knowledge import (
    ContextCompacted,
    Cut,
    HistoryCleared,
    LongTermUpdated,
    SummaryEnded,
    SummaryStarted,
    WindowLearned,
    WorkingUpdated,
)
from stepwell.events.people import (
    Answered,
    Asked,
    CancelRequested,
    Feedback,
    Forked,
    MessageQueued,
    PauseRequested,
    PolicyChanged,
    QueueEdited,
    ResumeRequested,
    Steered,
    TitleChanged,
)
from stepwell.events.runs import (
    CallDelta,
    Imported,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    ModelFailed,
    RunClaimed,
    RunEnded,
    RunStarted,
    RunWaiting,
    StepEnded,
    StepStarted,
    TextDelta,
    ThinkingDelta,
    ToolEnded,
    ToolProgress,
    ToolStarted,
    Warned,
)
from stepwell.events.tasks import PlanChanged, PlanMade, TaskEnded, TaskStarted, TaskSubmitted

__all__ = [
    "UPGRADES",
    "Answered",
    "Asked",
    "CallDelta",
    "CancelRequested",
    "ContextCompacted",
    "Cut",
    "Effect",
    "EndReason",
    "Event",
    "Feedback",
    "Forked",
    "HistoryCleared",
    "Imported",
    "LongTermUpdated",
    "MessageAdded",
    "MessageEnded",
    "MessageQueued",
    "MessageStarted",
    "ModelFailed",
    "PauseRequested",
    "PlanChanged",
    "PlanMade",
    "Policy",
    "PolicyChanged",
    "QueueEdited",
    "Recorded",
    "ResumeRequested",
    "RunClaimed",
    "RunEnded",
    "RunStarted",
    "RunWaiting",
    "Steered",
    "StepEnded",
    "StepStarted",
    "Stored",
    "SummaryEnded",
    "SummaryStarted",
    "TaskEnded",
    "TaskStarted",
    "TaskSubmitted",
    "TextDelta",
    "ThinkingDelta",
    "TitleChanged",
    "ToolEnded",
    "ToolProgress",
    "ToolStarted",
    "ToolStatus",
    "Transient",
    "Unknown",
    "Warned",
    "WindowLearned",
    "WorkingUpdated",
    "decode",
    "encode",
]


class Unknown(msgspec.Struct, frozen=True):
    """An event of a type or version that this version does not know: shown, never acted on.

    Args:
        raw: The row's JSON text.
    """

    raw: msgspec.Raw


Stored = (
    RunStarted
    | RunEnded
    | RunClaimed
    | MessageAdded
    | StepStarted
    | StepEnded
    | MessageStarted
    | MessageEnded
    | ModelFailed
    | ToolStarted
    | ToolEnded
    | CancelRequested
    | TitleChanged
    | LongTermUpdated
    | WorkingUpdated
    | HistoryCleared
    | ContextCompacted
    | WindowLearned
    | SummaryStarted
    | SummaryEnded
    | Warned
    | Asked
    | Answered
    | RunWaiting
    | Steered
    | PauseRequested
    | ResumeRequested
    | MessageQueued
    | QueueEdited
    | PolicyChanged
    | PlanMade
    | PlanChanged
    | TaskStarted
    | TaskSubmitted
    | TaskEnded
    | Forked
    | Imported
    | Feedback
)
Transient = TextDelta | ThinkingDelta | CallDelta | ToolProgress

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
UPGRADES: dict[str, Upgrade] = {}
"""By the tag of an older version: turns its JSON object into the next version's, tag included."""

_encoder = msgspec.json.Encoder()


@cache
def _decoder() -> msgspec.json.Decoder[Stored]:
    # Made when it is needed first: a program that keeps nothing never reads an event.
    return msgspec.json.Decoder(Stored)


def encode(event: Stored | Transient | Unknown) -> bytes:
    """Return the event as one line of JSON, tagged with its type and version."""
    if isinstance(event, Unknown):
        return bytes(event.raw)
    return _encoder.encode(event)


def decode(data: bytes | str) -> Stored | Unknown:
    """Read an event as `encode` wrote it, in this version or an older one."""
    try:
        return _decoder().decode(data)
    except msgspec.ValidationError:
        return _upgrade(data)


def _upgrade(data: bytes | str) -> Stored | Unknown:
    obj = msgspec.json.decode(data)
    while upgrade := UPGRADES.get(obj.get("type", "")):
        obj = upgrade(obj)
    try:
        return msgspec.convert(obj, Stored)
    except msgspec.ValidationError:
        return Unknown(msgspec.Raw(data.encode() if isinstance(data, str) else data))


class Recorded(msgspec.Struct, gc=False, eq=False):
    """An event with its place in a log.

    Args:
        seq: Its number in the thread, from 1.
        time: When it was recorded, in milliseconds since 1970 (UTC).
        run: The number of its run's `RunStarted`; 0 outside runs.
        event: What happened.
        path: The agent inside the run that it happened to; empty for the run's own.
    """

    seq: int
    time: int
    run: int
    event: Stored | Unknown
    path: str = ""
    _body: bytes | None = None

    @property
    def body(self) -> bytes:
        """The event as JSON, encoded once."""
        if self._body is None:
            self._body = encode(self.event)
        return self._body

    @property
    def ends_run(self) -> bool:
        """Whether its run is over with it."""
        return isinstance(self.event, RunEnded)

    def to_json(self) -> bytes:
        """Return the record as clients get it."""
        path = b',"path":' + _encoder.encode(self.path) if self.path else b""
        return b'{"seq":%d,"time":%d,"run":%d%s,"event":%s}' % (self.seq, self.time, self.run, path, self.body)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Recorded):
            return NotImplemented
        mine = (self.seq, self.time, self.run, self.path, self.event)
        return mine == (other.seq, other.time, other.run, other.path, other.event)

    def __hash__(self) -> int:
        return hash((self.seq, self.time))
