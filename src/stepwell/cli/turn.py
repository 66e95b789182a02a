"""What a run has come to so far, put together from its events as a client gets them. It shows nothing."""

from __future__ import annotations

from stepwell.events import MessageEnded, RunEnded, StepStarted, ToolEnded
from stepwell.messages import ToolCall, Usage
from stepwell.runs.channel import Item


class Turn:
    """The fold of one run for whoever waits for its answer.

    Attributes:
        answer: The text of the newest whole reply.
        steps: Model calls so far.
        usage: Tokens that the provider counted.
        calls: All tool calls by id.
        results: Their results, in the order in which they came.
        end: How the run ended, or None.
    """

    def __init__(self) -> None:
        self.answer = ""
        self.steps = 0
        self.usage = Usage()
        self.calls: dict[str, ToolCall] = {}
        self.results: list[ToolEnded] = []
        self.end: RunEnded | None = None

    def take(self, item: Item) -> None:
        """Take in the next event of the run."""
        match item.event:
            case StepStarted():
                self.steps += 1
            case MessageEnded() as ended:
                self.usage += ended.usage or Usage()
                if ended.stop != "error":
                    self.answer = ended.message.content
                    self.calls |= {call.id: call for call in ended.message.calls}
            case ToolEnded() as result:
                self.results.append(result)
            case RunEnded() as end:
                self.end = end
            case _:
                pass
