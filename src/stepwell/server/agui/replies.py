"""Replies while they stream: text and thinking as AG-UI's messages, and how much of them was sent."""

from __future__ import annotations

from collections.abc import Collection

from stepwell.events import MessageEnded
from stepwell.server.agui.wire import NAME, Shown, encode, event, message_id, tagged


class Reply:
    """One open reply.

    Args:
        seq: Number of its `MessageStarted`.
        agent: The agent inside the run whose reply it is; empty for the run's own.
    """

    __slots__ = ("_said", "_thought", "agent", "id", "seq", "spans", "text", "thinking", "thinks")

    def __init__(self, seq: int, agent: str) -> None:
        self.seq, self.id = seq, message_id(seq)
        self.thinking = self.text = self.spans = 0
        self.thinks = False
        self.agent = agent
        self._said = b'{"type":"TEXT_MESSAGE_CONTENT","messageId":"%s"%s,"delta":' % (self.id.encode(), tagged(agent))
        self._thought = b""

    def seen(self, shown: Shown) -> None:
        """Go on where a client has so much of it."""
        self.thinking, self.text, self.spans = shown.thinking, shown.text, shown.spans
        self.thinks = bool(shown.open)
        self._thought = self._thinking()

    def say(self, text: str) -> list[bytes]:
        """Return events that show more text."""
        if not text:
            return []
        data = b"%s%s}" % (self._said, encode(text))
        if self.text:
            self.text += len(text)
            return [data]
        self.text = len(text)
        start = event("TEXT_MESSAGE_START", messageId=self.id, role="assistant", subagentRunId=self.agent or None)
        return [*self._thought_over(), start, data]

    def think(self, text: str) -> list[bytes]:
        """Return events that show more thinking."""
        if not text:
            return []
        events: list[bytes] = []
        if not self.thinks:
            self.thinks, self.spans = True, self.spans + 1
            self._thought = self._thinking()
            named = {"messageId": self._span, "subagentRunId": self.agent or None}
            events += [
                event("REASONING_START", **named),
                event("REASONING_MESSAGE_START", role="reasoning", **named),
            ]
        self.thinking += len(text)
        return [*events, b"%s%s}" % (self._thought, encode(text))]

    def end(self, ended: MessageEnded) -> list[bytes]:
        """Return events that show what is left of it and close it; a reply that is void is marked."""
        void, events = ended.stop == "error", list[bytes]()
        if not void:
            events += self.think(ended.message.thinking[self.thinking :])
            events += self.say(ended.message.content[self.text :])
        return events + self.close(void=void)

    def close(self, *, void: bool = False) -> list[bytes]:
        """Return events that close what is open of it."""
        events = self._thought_over()
        if self.text:
            mark = {NAME: {"void": True}} if void else None
            events.append(event("TEXT_MESSAGE_END", messageId=self.id, subagentRunId=self.agent or None, metadata=mark))
        return events

    @property
    def shown(self) -> Shown:
        """How much of it was sent."""
        return Shown(self.seq, self.thinking, self.text, self.spans, int(self.thinks))

    @property
    def _span(self) -> str:
        return f"{self.id}-t{self.spans}"

    def _thinking(self) -> bytes:
        tag = tagged(self.agent)
        return b'{"type":"REASONING_MESSAGE_CONTENT","messageId":"%s"%s,"delta":' % (self._span.encode(), tag)

    def _thought_over(self) -> list[bytes]:
        if not self.thinks:
            return []
        self.thinks = False
        named = {"messageId": self._span, "subagentRunId": self.agent or None}
        return [event("REASONING_MESSAGE_END", **named), event("REASONING_END", **named)]


def shown(replies: Collection[Reply]) -> bytes:
    """Return what the id of a frame says of the open replies; empty where nothing of any was sent."""
    if not replies:
        return b""
    rows = [b"%d.%d.%d.%d.%d" % each.shown for each in replies if each.text or each.spans]
    return b"~" + b",".join(rows) if rows else b""
