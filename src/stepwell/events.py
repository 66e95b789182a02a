"""The one event vocabulary: what can happen in a thread, as a tagged union of frozen records.

Events are nested like brackets: every `…Started` gets its `…Ended`, on failure and on cancel too.
Transient events (deltas, progress) are streamed and never stored. The fold of a log is in `state.py`;
this module only says what the records are and how they are written.

Each type has a version of its own, written in its tag from the second on (`tool_ended.2`). `decode`
upgrades older rows on reading (`UPGRADES`) and never rewrites them. A tag that this version does not
know decodes to `Unknown`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from stepwell.contexts import TaskConclusion
from stepwell.messages import Image, Message, StopReason, Usage
from stepwell.specs import RunSpec, SummaryKind

Effect = Literal["pure", "idempotent", "write"]
"""What running a tool twice does: nothing outside at all; the same as once when the key is the same; harm."""

ToolStatus = Literal["ok", "failed", "timeout", "invalid", "unknown_tool", "cancelled", "unknown"]
"""How a call ended: it worked; the tool failed; it took too long; its arguments were wrong and it was not
run; there is no such tool; it was cancelled; the process died while it ran and nobody knows."""

EndReason = Literal["answer", "limit", "failed", "cancelled"]


class Event(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag_field="type"):
    """The base of all events. No event holds itself, so the garbage collector need not look at them."""


class RunStarted(Event, frozen=True, gc=False, tag="run_started"):
    """A run opened; at most one is open in a thread."""

    spec: RunSpec


class RunEnded(Event, frozen=True, gc=False, tag="run_ended"):
    """The run is over; nothing of it follows.

    Args:
        reason: How it ended.
        cause: A stable word for the cause, such as `steps`, `rate_limit`, `malformed_tool_call`.
        detail: The cause in words; shown to people.
    """

    reason: EndReason
    cause: str = ""
    detail: str = ""


class RunClaimed(Event, frozen=True, gc=False, tag="run_claimed"):
    """A process took an open run over from another that stopped.

    Args:
        epoch: Counts the takers of this run; a taker that meets a higher one leaves.
    """

    epoch: int


class MessageAdded(Event, frozen=True, gc=False, tag="message_added"):
    """A message that came whole: from a person, from imported history, or from the engine."""

    message: Message
    source: Literal["user", "history", "engine"] = "user"


class StepStarted(Event, frozen=True, gc=False, tag="step_started"):
    """A step began: one request to the model.

    Args:
        step: Counts the steps of the run from 1.
        request: SHA-256 of the request, as 43 characters of URL-safe base64.
        tail: Messages of this request alone, which stood after the conversation.
        reply: Name of the schema that the reply was asked to fit; empty for none.
        tools: Names of the tools offered, where they were not the run's own.
        model: The model asked, where it was not the run's own.
        aside: The reply is no part of the conversation.
        repairs: The reply takes the place of the one before, which did not fit its form.
    """

    step: int
    request: str
    tail: tuple[Message, ...] = ()
    reply: str = ""
    tools: tuple[str, ...] | None = None
    model: str = ""
    aside: bool = False
    repairs: bool = False


class StepEnded(Event, frozen=True, gc=False, tag="step_ended"):
    """The step is over, with the results of its tool calls."""


class MessageStarted(Event, frozen=True, gc=False, tag="message_started"):
    """A reply is about to stream. Its number in the log names the message in deltas."""


class TextDelta(Event, frozen=True, gc=False, tag="text_delta"):
    """More visible text of an open message. Transient."""

    message: int
    text: str


class ThinkingDelta(Event, frozen=True, gc=False, tag="thinking_delta"):
    """More thinking of an open message. Transient."""

    message: int
    text: str


class CallDelta(Event, frozen=True, gc=False, tag="call_delta"):
    """More of a tool call of an open message. Transient.

    Args:
        message: The open message.
        index: Which call of the message.
        name: Set on the call's first piece.
        text: More of the arguments' JSON text.
    """

    message: int
    index: int
    name: str = ""
    text: str = ""


class MessageEnded(Event, frozen=True, gc=False, tag="message_ended"):
    """The open message is whole; its text replaces whatever was streamed of it.

    Args:
        message: The reply; partial when `stop` is `error` or `cancelled`.
        stop: Why it ended.
        usage: Tokens counted by the provider, if it told.
    """

    message: Message
    stop: StopReason
    usage: Usage | None = None


class ModelFailed(Event, frozen=True, gc=False, tag="model_failed"):
    """A call of the model failed. The text streamed by this attempt is void.

    Args:
        kind: As in `models.base.FailureKind`.
        detail: The cause in words.
        status: HTTP status, or 0.
        retry_in: Seconds until the next attempt; None when there is none.
    """

    kind: str
    detail: str
    status: int = 0
    retry_in: float | None = None


class ToolStarted(Event, frozen=True, gc=False, tag="tool_started"):
    """A tool is about to run: the intent, stored before any effect. A call that is refused has none.

    The idempotency key of the call is the thread's id and this event's number.

    Args:
        call: Id of the call.
        name: The tool.
        effect: What running it twice would do.
    """

    call: str
    name: str
    effect: Effect = "pure"


class ToolProgress(Event, frozen=True, gc=False, tag="tool_progress"):
    """A running tool tells how far it is. Transient."""

    call: str
    text: str


class ToolEnded(Event, frozen=True, gc=False, tag="tool_ended"):
    """A call has its result.

    Args:
        call: Id of the call.
        content: What the model is told.
        status: How it ended.
        images: Shown to models that see.
        details: For people's screens; the model is not told.
        blob: SHA-256 of the whole result, 64 hexadecimal digits, where `content` is only a part of it.
        size: Bytes of the whole result, where it is a blob.
    """

    call: str
    content: str
    status: ToolStatus = "ok"
    images: tuple[Image, ...] = ()
    details: dict[str, Any] | None = None
    blob: str = ""
    size: int = 0


class CancelRequested(Event, frozen=True, gc=False, tag="cancel_requested"):
    """Somebody asked the open run to stop."""

    reason: str = ""


class TitleChanged(Event, frozen=True, gc=False, tag="title_changed"):
    """The thread has a new title."""

    title: str


class LongTermUpdated(Event, frozen=True, gc=False, tag="long_term_updated"):
    """What the agent knows for long changed; None leaves a part as it is.

    Args:
        user_message: Added to the user's messages.
        past_task: Added to the past tasks.
        pinned: Added to the pinned facts.
        unpinned: Taken out of the pinned facts.
        rolled: Replaces the rolling summary, which takes in as many of the oldest user messages and past tasks as
            `rolled_messages` and `rolled_tasks` say.
    """

    user_message: str | None = None
    past_task: TaskConclusion | None = None
    experience: str | None = None
    skills_description: tuple[str, ...] | None = None
    ideas: tuple[str, ...] | None = None
    current_goal: str | None = None
    available_tools: tuple[dict[str, Any], ...] | None = None
    resource: tuple[str, ...] | None = None
    pinned: str | None = None
    unpinned: str | None = None
    rolled: str | None = None
    rolled_messages: int = 0
    rolled_tasks: int = 0


class WorkingUpdated(Event, frozen=True, gc=False, tag="working_updated"):
    """A new working context began.

    Args:
        basic_info: What the step should know besides time and number, by name.
        observation: What came of the step before; None where nothing is said.
    """

    basic_info: dict[str, str] = {}
    observation: str | None = None


class HistoryCleared(Event, frozen=True, gc=False, tag="history_cleared"):
    """The agent begins anew: steps and calls so far are no part of what it is shown."""


class Cut(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """How a message that stays in the conversation is shortened.

    Args:
        seq: Number of the event that brought it.
        head: Characters kept of its beginning; for arguments of calls, of each long text in them.
        tail: Characters kept of its end.
        part: What is shortened.
    """

    seq: int
    head: int = 0
    tail: int = 0
    part: Literal["content", "arguments", "images"] = "content"


class ContextCompacted(Event, frozen=True, gc=False, tag="context_compacted"):
    """The conversation as the model sees it was rewritten so that requests fit the window.

    Args:
        upto: Messages up to this event's number are left out; `digest` stands for them.
        digest: What stands in front of the first user message that is kept.
        cuts: How kept messages are shortened.
        rung: How hard it was pressed, from 0.
        before: Upper bound of the request's tokens before.
        after: The same after.
        excess: Tokens by which the provider's count was above the bound so far; the allowance is raised by them.
    """

    upto: int
    digest: str = ""
    cuts: tuple[Cut, ...] = ()
    rung: int = 0
    before: int = 0
    after: int = 0
    excess: int = 0


class WindowLearned(Event, frozen=True, gc=False, tag="window_learned"):
    """The endpoint refused a request as too long: the window is smaller than was thought.

    Args:
        window: What is believed from now on, in tokens.
        model: The model's name in the settings, and the one sent where it is another.
    """

    window: int
    model: str = ""


class SummaryStarted(Event, frozen=True, gc=False, tag="summary_started"):
    """A model is asked for a summary in the background.

    Args:
        kind: Of what: tool calls, working contexts, or what rolled out of the long-term context.
        first: Number of the first event that it covers.
        last: Number of the last.
    """

    kind: SummaryKind
    first: int
    last: int


class SummaryEnded(Event, frozen=True, gc=False, tag="summary_ended"):
    """The summary is there, or will not come.

    Args:
        kind: As it started.
        first: As it started.
        last: As it started.
        status: `stale` came too late to be of use.
        text: The summary, where the status is `ok`.
        self_examination: What the model would do better.
        critical: Numbers of the results that matter most.
        detail: Why there is none.
        usage: Tokens counted by the provider.
    """

    kind: SummaryKind
    first: int
    last: int
    status: Literal["ok", "failed", "cancelled", "stale"] = "ok"
    text: str = ""
    self_examination: str = ""
    critical: tuple[int, ...] = ()
    detail: str = ""
    usage: Usage | None = None


class Warned(Event, frozen=True, gc=False, tag="warned"):
    """Something is not as it should be and the run goes on.

    Args:
        code: A stable word, such as `no_reply`.
        detail: What it is, in words.
    """

    code: str
    detail: str = ""


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
)
Transient = TextDelta | ThinkingDelta | CallDelta | ToolProgress

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
UPGRADES: dict[str, Upgrade] = {}
"""By the tag of an older version: turns its JSON object into the next version's, tag included."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Stored)


def encode(event: Stored | Transient | Unknown) -> bytes:
    """Return the event as one line of JSON, tagged with its type and version."""
    if isinstance(event, Unknown):
        return bytes(event.raw)
    return _encoder.encode(event)


def decode(data: bytes | str) -> Stored | Unknown:
    """Read an event as `encode` wrote it, in this version or an older one."""
    try:
        return _decoder.decode(data)
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
