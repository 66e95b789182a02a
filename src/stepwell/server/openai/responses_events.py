"""Turns the events of a run into those of one response, and adds up what the response holds.

A response is a span of its run: it ends with the run, or where the run waits for answers; what follows the answers is
another. Everything but the cut of texts is a function of the stored events, so that a stream can be gone on with at
each of its events, whenever somebody asks. It knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from stepwell.events import (
    Answered,
    Asked,
    Forked,
    MessageAdded,
    MessageEnded,
    MessageStarted,
    Recorded,
    RunEnded,
    RunStarted,
    RunWaiting,
    StepStarted,
    SummaryEnded,
    TextDelta,
    ThinkingDelta,
    ToolEnded,
    ToolStarted,
)
from stepwell.messages import Message, ToolCall, Usage
from stepwell.runs.channel import Item
from stepwell.server.openai import responses_items as items
from stepwell.server.openai.responses_frames import (
    LAST,
    LATE,
    NOTHING,
    REST,
    TEXT,
    THOUGHT,
    THOUGHT_ENDS,
    Flow,
    frame,
    number,
)
from stepwell.server.openai.responses_items import End, Object, ResponseId
from stepwell.server.underway import UnderWay
from stepwell.specs import RunSpec


class Encoder:
    """Encodes one response; takes the events of its run from `RunStarted` on.

    Args:
        id: Which response.
        after: Sequence number after which frames are wanted; `NOTHING` for none.
        previous: Id of the response before the run, or None.

    Attributes:
        after: As it was given.
        end: How it ended, or None.
        began: Whether it has begun.
        starts: Numbers of the `Answered` with which responses of the run began so far.
        waits: The run waits for answers, and no response goes on.
        questions: What is open, by the number of the question.
    """

    def __init__(self, id: ResponseId, after: int = NOTHING, previous: str | None = None) -> None:
        self.id, self.previous = id, previous
        self.end: End | None = None
        self.began = self.waits = False
        self.starts: list[int] = []
        self.questions: dict[int, Asked] = {}
        self.after, self._frames = after, list[bytes]()
        self._spec = RunSpec()
        self._created = self._completed = 0
        self._usage: Usage | None = None
        self._output: dict[int, Object] = {}
        self._count = 0
        self._told: set[int] = set()
        self._calls: dict[str, ToolCall] = {}
        self._approved: dict[str, int] = {}
        self._running: dict[str, tuple[int, Object]] = {}
        self._late: list[tuple[int, ToolEnded]] = []
        self._message = 0
        self._aside = False
        self._thought: Flow | None = None
        self._text: Flow | None = None
        self._formed: tuple[int, str, str] | None = None
        self._held: list[Recorded] = []
        self._under_way = UnderWay()

    def encode(self, item: Item) -> bytes:
        """Return the frames that an event becomes, joined; often none."""
        if self.end is not None and not isinstance(item, Recorded):
            return b""
        event = item.event
        kind = type(event)
        if kind is TextDelta or kind is ThinkingDelta:
            return self._piece(event) if self._message == event.message else b""  # type: ignore[union-attr]
        if item.run != self.id.run or not isinstance(item, Recorded):
            return b""
        if self._message and not (kind is MessageEnded and not item.path):
            self._held.append(item)  # its number is above those of the text that still comes
            return b""
        self._take(item)
        frames, self._frames = self._frames, []
        return b"".join(frames)

    @property
    def _inside(self) -> bool:
        return self.began and self.end is None

    def _take(self, recorded: Recorded) -> None:
        self._under_way.take(recorded)
        take = self._TAKEN.get(type(recorded.event))
        if take is not None:
            take(self, recorded, recorded.event)
        # Right after one answer of several only what cannot be otherwise counts: the others may be there, too.
        if self._under_way.stalled or (self._under_way.held_up and type(recorded.event) is not Answered):
            self._pause(recorded)

    def _emit(self, sequence: int, kind: str, **fields: Any) -> None:
        if sequence > self.after and self._inside:
            self._frames.append(frame(f"response.{kind}", fields, sequence))

    def snapshot(self) -> Object:
        """Return the response as it is now."""
        end, run = self.end, self.id.run
        told = items.echo(self._spec)
        return {
            "id": str(self.id),
            "object": "response",
            "created_at": self._created // 1000,
            "completed_at": self._completed // 1000 if end is not None and end.status == "completed" else None,
            "status": end.status if end is not None else "in_progress",
            "error": end.error if end is not None else None,
            "incomplete_details": {"reason": end.reason} if end is not None and end.reason else None,
            "output": [self._output[index] for index in sorted(self._output)],
            "previous_response_id": self.previous,
            "usage": items.usage(self._usage) if end is not None else None,
            **told,
            "stepwell": {
                "thread": self.id.thread,
                "run": run,
                "cause": end.cause if end is not None else "",
                "detail": end.detail if end is not None else "",
            },
        }

    # spans

    def _run_started(self, recorded: Recorded, event: RunStarted) -> None:
        self._spec = event.spec
        if not self.id.answered:
            self._begin(recorded)

    def _begin(self, recorded: Recorded) -> None:
        self.began, self._created = True, recorded.time
        for place, kind in enumerate(("created", "in_progress")):
            self._emit(number(recorded.seq, place), kind, response=self.snapshot())

    def _answered(self, recorded: Recorded, event: Answered) -> None:
        asked = self.questions.pop(event.question, None)
        if asked is not None and asked.kind == "approval" and event.decision == "approve":
            self._approved[asked.call] = event.question
            if event.arguments and asked.call in self._calls:
                call = self._calls[asked.call]
                self._calls[asked.call] = ToolCall(call.id, call.name, event.arguments)
        if not self.waits:
            return
        self.waits = False
        if recorded.seq == self.id.answered:
            before = self.starts[-1] if self.starts else 0
            self.previous = str(ResponseId(self.id.thread, self.id.run, before))
            self._begin(recorded)
        self.starts.append(recorded.seq)
        for place, (seq, ended) in enumerate(self._late):  # nothing was told while the run waited
            self._call_ends(seq, ended, number(recorded.seq, LATE + 8 * place))
        self._late.clear()

    def _run_waiting(self, recorded: Recorded, event: RunWaiting) -> None:
        self._pause(recorded)

    def _pause(self, recorded: Recorded) -> None:
        """End the response because people are waited for; those who answer have another."""
        if not self.questions or self.waits:
            return
        self._close(recorded.seq)
        for place, (index, item) in enumerate(self._running.values()):  # such as a task given to another agent
            self._done(number(recorded.seq, 64 + place), index, item | {"status": "incomplete"})
        self._running.clear()
        left = [seq for seq in self.questions if seq not in self._told] if self._inside else []
        for place, seq in enumerate(left):
            self._question(seq, self.questions[seq], number(recorded.seq, (1 << 16) + 8 * place))
        self.waits = True
        self._over(recorded, End("completed"))

    def _run_ended(self, recorded: Recorded, event: RunEnded) -> None:
        self._close(recorded.seq)
        self._over(recorded, items.end_of(event.reason, event.cause, event.detail))

    def _over(self, recorded: Recorded, end: End) -> None:
        if not self._inside:
            return
        self._completed = recorded.time
        self.end = end
        sequence = number(recorded.seq, LAST)
        if sequence > self.after:
            self._frames.append(frame(end.event, {"response": self.snapshot()}, sequence))

    def _forked(self, recorded: Recorded, event: Forked) -> None:
        if self.end is None:
            self._spec = event.spec or self._spec

    # items

    def _added(self, sequence: int, item: Object) -> int:
        """Announce an item; return its index."""
        index = self._count
        if self._inside:
            self._count += 1
        self._emit(sequence, "output_item.added", output_index=index, item=item)
        return index

    def _done(self, sequence: int, index: int, item: Object) -> None:
        if self._inside:
            self._output[index] = item
        self._emit(sequence, "output_item.done", output_index=index, item=item)

    def _question(self, seq: int, asked: Asked, sequence: int) -> None:
        self._told.add(seq)
        thread, call = self.id.thread, self._calls.get(asked.call)
        if asked.kind not in items.FUNCTIONS:
            item = items.approval_request(thread, seq, asked, call)
            index = self._added(sequence, item)
            self._done(sequence + 1, index, item)
            return
        item = items.function_call(thread, seq, asked, call, "completed")
        index = self._added(sequence, item | {"arguments": "", "status": "in_progress"})
        named = {"item_id": item["id"], "output_index": index}
        self._emit(sequence + 1, "function_call_arguments.delta", **named, delta=item["arguments"])
        told = {"name": item["name"], "arguments": item["arguments"]}
        self._emit(sequence + 2, "function_call_arguments.done", **named, **told)
        self._done(sequence + 3, index, item)

    def _asked(self, recorded: Recorded, event: Asked) -> None:
        self.questions[recorded.seq] = event
        if self._inside:
            self._question(recorded.seq, event, number(recorded.seq, 0))

    def _is_handed_out(self, name: str) -> bool:
        """Tell whether calls of a tool are shown as questions and not as the agent's own."""
        return name == items.ASK or any(tool.name == name for tool in self._spec.client_tools)

    def _tool_started(self, recorded: Recorded, event: ToolStarted) -> None:
        call = self._calls.get(event.call) or ToolCall(event.call, event.name)
        if not recorded.path and not self._is_handed_out(call.name):
            self._call_begins(recorded.seq, call, number(recorded.seq, 0))

    def _call_begins(self, seq: int, call: ToolCall, sequence: int) -> None:
        id, asked = items.item_id("mcp", self.id.thread, seq), self._approved.get(call.id)
        approved = items.item_id("mcpr", self.id.thread, asked) if asked is not None else None
        item = items.mcp_call(id, call, approved, None)
        index = self._added(sequence, item | {"arguments": ""})
        named = {"item_id": id, "output_index": index}
        self._emit(sequence + 1, "mcp_call.in_progress", **named)
        self._emit(sequence + 2, "mcp_call_arguments.delta", **named, delta=call.arguments)
        self._emit(sequence + 3, "mcp_call_arguments.done", **named, arguments=call.arguments)
        self._running[call.id] = (index, item)

    def _tool_ended(self, recorded: Recorded, event: ToolEnded) -> None:
        if recorded.path:
            return
        if self.waits:
            self._late.append((recorded.seq, event))
        else:
            self._call_ends(recorded.seq, event, number(recorded.seq, 0))

    def _call_ends(self, seq: int, event: ToolEnded, sequence: int) -> None:
        call = self._calls.get(event.call) or ToolCall(event.call, "")
        if self._is_handed_out(call.name):
            return
        if call.id not in self._running:
            self._call_begins(seq, call, sequence)
        index, item = self._running.pop(call.id)
        item = items.mcp_call(item["id"], call, item["approval_request_id"], event)
        happened = "completed" if event.status == "ok" else "failed"
        named = {"item_id": item["id"], "output_index": index}
        self._emit(sequence + 4, f"mcp_call.{happened}", **named)
        self._done(sequence + 5, index, item)

    def _message_added(self, recorded: Recorded, event: MessageAdded) -> None:
        said = event.message
        if not recorded.path and event.source == "engine" and said.role == "assistant" and said.content:
            self._whole(recorded.seq, 0, items.item_id("msg", self.id.thread, recorded.seq), said.content, "completed")

    def _whole(self, seq: int, place: int, id: str, text: str, status: str) -> None:
        """Tell a message in one piece."""
        flow = self._announce(number(seq, place), id)
        named = {"item_id": id, "output_index": flow.index, "content_index": 0}
        self._emit(number(seq, place + 2), "output_text.delta", **named, logprobs=[], delta=text)
        self._text_done(number(seq, place + 3), flow, text, status)

    # replies

    def _step_started(self, recorded: Recorded, event: StepStarted) -> None:
        if recorded.path:
            return
        self._aside = event.aside
        if event.repairs:
            self._formed = None
        elif self._formed is not None:
            self._close(recorded.seq)

    def _message_started(self, recorded: Recorded, event: MessageStarted) -> None:
        if recorded.path or self._aside or not self._inside:
            return
        self._message = recorded.seq
        for flow, place in ((self._thought, THOUGHT), (self._text, TEXT)):
            if flow is not None:  # an attempt before failed: what follows takes the place of what it said
                self._start(flow, place)

    def _start(self, flow: Flow, place: int) -> None:
        room = (THOUGHT_ENDS if place == THOUGHT else REST) - place - 2
        flow.start(number(self._message, place + 1), room)

    def _piece(self, event: TextDelta | ThinkingDelta) -> bytes:
        if type(event) is ThinkingDelta:
            if self._text is not None:
                return b""  # it is in the item's end
            flow = self._thought or self._think()
        elif self._spec.output is not None:
            return b""  # what is streamed need not be what is stored
        else:
            flow = self._text or self._speak()
        data = flow.delta(event.text, self.after)
        if not self._frames:
            return data
        frames, self._frames = self._frames, []
        return b"".join((*frames, data))

    def _think(self) -> Flow:
        id, at = items.item_id("rs", self.id.thread, self._message), number(self._message, THOUGHT)
        index = self._added(at, items.reasoning(id, None, "in_progress"))
        flow = Flow("response.reasoning_summary_text.delta", id, index, summary_index=0)
        named = {"item_id": id, "output_index": flow.index, "summary_index": 0}
        self._emit(at + 1, "reasoning_summary_part.added", **named, part=items.summary_text(""))
        self._start(flow, THOUGHT)
        self._thought = flow
        return flow

    def _speak(self) -> Flow:
        if self._thought is not None:
            self._thought_done(number(self._message, THOUGHT_ENDS), self._thought.text, "completed")
        self._text = self._announce(number(self._message, TEXT), items.item_id("msg", self.id.thread, self._message))
        self._start(self._text, TEXT)
        return self._text

    def _announce(self, sequence: int, id: str) -> Flow:
        index = self._added(sequence, items.message(id, None, "in_progress"))
        flow = Flow("response.output_text.delta", id, index, content_index=0, logprobs=[])
        named = {"item_id": id, "output_index": flow.index, "content_index": 0}
        self._emit(sequence + 1, "content_part.added", **named, part=items.output_text(""))
        return flow

    def _thought_done(self, sequence: int, text: str, status: str) -> None:
        flow = self._thought
        assert flow is not None
        named = {"item_id": flow.id, "output_index": flow.index, "summary_index": 0}
        self._emit(sequence, "reasoning_summary_text.done", **named, text=text)
        self._emit(sequence + 1, "reasoning_summary_part.done", **named, part=items.summary_text(text))
        self._done(sequence + 2, flow.index, items.reasoning(flow.id, text, status))

    def _text_done(self, sequence: int, flow: Flow, text: str, status: str) -> None:
        named = {"item_id": flow.id, "output_index": flow.index, "content_index": 0}
        self._emit(sequence, "output_text.done", **named, logprobs=[], text=text)
        self._emit(sequence + 1, "content_part.done", **named, part=items.output_text(text))
        self._done(sequence + 2, flow.index, items.message(flow.id, text, status))

    def _message_ended(self, recorded: Recorded, event: MessageEnded) -> None:
        self._calls.update({call.id: call for call in event.message.calls})
        self._count_tokens(event.usage)
        if recorded.path or not self._message:
            return
        thinking, text = _parts(event.message)
        self._rest(thinking, text)
        message, self._message = self._message, 0
        held, self._held = self._held, []
        for each in held:
            self._take(each)
        if event.stop == "error":
            return  # it is void; the next attempt goes on with the same items
        status = "completed" if event.stop in ("stop", "tool_calls") else "incomplete"
        if self._spec.output is not None and text:
            self._formed = (message, text, status)
        if self._formed is None or event.message.calls:
            self._close(recorded.seq, thinking, text, status)

    def _rest(self, thinking: str, text: str) -> None:
        """Tell what nobody saw of a reply that is whole now."""
        if thinking and self._text is None:
            flow = self._thought or self._think()
            self._frames.append(flow.rest(thinking, self.after))
        if text and self._spec.output is None:
            flow = self._text or self._speak()
            self._frames.append(flow.rest(text, self.after))

    def _close(
        self, seq: int, thinking: str | None = None, text: str | None = None, status: str = "incomplete"
    ) -> None:
        """End the items of the reply; without texts they end with what was shown of them."""
        thought, flow, formed = self._thought, self._text, self._formed
        if thought is not None:
            whole = thought.text if thinking is None else thinking
            if thought.index not in self._output:
                self._frames.append(thought.beyond(whole, number(seq, 0), self.after))
                self._thought_done(number(seq, 1), whole, status)
            elif whole:  # it went on after the text had begun
                self._output[thought.index] = items.reasoning(thought.id, whole, "completed")
        if formed is not None:
            id = items.item_id("msg", self.id.thread, formed[0])
            self._whole(seq, 8, id, *formed[1:])
        elif flow is not None:
            whole = flow.text if text is None else text
            self._frames.append(flow.beyond(whole, number(seq, 8), self.after))
            self._text_done(number(seq, 9), flow, whole, status)
        self._thought = self._text = self._formed = None

    def _summary_ended(self, recorded: Recorded, event: SummaryEnded) -> None:
        self._count_tokens(event.usage)

    def _count_tokens(self, counted: Usage | None) -> None:
        if counted is not None and self._inside:
            self._usage = counted if self._usage is None else self._usage + counted

    _TAKEN: ClassVar[Mapping[type, Callable[[Encoder, Recorded, Any], None]]] = MappingProxyType(
        {
            RunStarted: _run_started,
            RunEnded: _run_ended,
            RunWaiting: _run_waiting,
            Forked: _forked,
            Asked: _asked,
            Answered: _answered,
            StepStarted: _step_started,
            MessageStarted: _message_started,
            MessageEnded: _message_ended,
            MessageAdded: _message_added,
            ToolStarted: _tool_started,
            ToolEnded: _tool_ended,
            SummaryEnded: _summary_ended,
        }
    )


def _parts(message: Message) -> tuple[str, str]:
    """Return what was streamed of a reply as a thought, and its text."""
    thinking = message.thinking + message.content if message.unmarked else message.thinking
    return thinking, message.content
