"""What a run has come to so far, put together from its events as a client gets them. It shows nothing."""

from __future__ import annotations

from stepwell.events import (
    CallDelta,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    Recorded,
    RunEnded,
    StepStarted,
    TextDelta,
    ThinkingDelta,
    ToolEnded,
)
from stepwell.messages import ToolCall, Usage
from stepwell.runs.channel import Item


class Turn:
    """The fold of one run for whoever waits for its answer.

    Attributes:
        answer: The text of the newest whole reply of the run's own agent that is a part of its conversation.
        steps: Model calls so far.
        usage: Tokens that the provider counted.
        calls: All tool calls by id.
        results: Their results, in the order in which they came.
        end: How the run ended, or None.
        inner: By the number of an open message the agent inside the run that writes it.
    """

    def __init__(self) -> None:
        self.answer = ""
        self.steps = 0
        self.usage = Usage()
        self.calls: dict[str, ToolCall] = {}
        self.results: list[ToolEnded] = []
        self.end: RunEnded | None = None
        self.inner: dict[int, str] = {}
        self._aside = False

    def take(self, item: Item) -> None:
        """Take in the next event of the run."""
        path = item.path if isinstance(item, Recorded) else ""
        match item.event:
            case StepStarted(aside=aside):
                self.steps += 1
                self._aside = aside if not path else self._aside
            case MessageStarted() if path:
                self.inner[item.seq] = path
            case MessageStarted() if self._aside:
                self.inner[item.seq] = ""
            case MessageEnded() as ended:
                self._message_ended(ended, own=not path and not self._aside)
            case MessageAdded(source="engine", message=message) if not path and message.role == "assistant":
                self.answer = message.content
            case ToolEnded() as result:
                self.results.append(result)
            case RunEnded() as end:
                self.end = end
                if end.cause == "question":  # nobody can answer here: what is asked, and where, is the answer
                    self.answer = end.detail
            case _:
                pass

    def _message_ended(self, ended: MessageEnded, *, own: bool) -> None:
        self.usage += ended.usage or Usage()
        if ended.stop == "error":
            return
        self.calls |= {call.id: call for call in ended.message.calls}
        if own:
            self.answer = ended.message.content

    def hidden(self, item: Item) -> bool:
        """Tell whether an event is a piece or the end of a message that is no part of the run's conversation."""
        match item.event:
            case TextDelta() | ThinkingDelta() | CallDelta():
                return item.event.message in self.inner
            case MessageStarted() | MessageEnded():
                return self._aside or (isinstance(item, Recorded) and bool(item.path))
            case _:
                return False
