"""What a reader of a foreign format hands over: whole conversations that are valid for every endpoint, or why not.

It knows no format and stores nothing. What it is given is data from outside: only what users and assistants said, and
results with their calls, get through; nothing of it is run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from stepwell.errors import InputError
from stepwell.images import check
from stepwell.messages import Image, Message, ToolCall, clean

Source = Literal["chatchat", "jsonl", "chatgpt"]

Cause = Literal["syntax", "form", "long", "empty", "circle", "database"]
"""Why a conversation is left out: it cannot be read; it is no conversation; it is too long; nothing to say is in it;
its branches go round in a circle; the database has a fault there."""

Left = Literal["system", "role", "result", "empty", "hidden", "thinking", "branch", "double", "feedback"]
"""What is left out of a conversation: system and developer messages; unknown roles; results of no call; messages
without text; what its program did not show; thoughts; other branches; a question that was asked again
at once; what people thought of questions without an answer."""

SECOND = 1000
MESSAGE_LIMIT = 20_000_000
"""Bytes of the texts of one message, as of a request's body by default."""
THREAD_LIMIT = 200_000_000
"""Bytes of all messages of one conversation, images included: it is held in memory."""
MESSAGES_LIMIT = 100_000
"""Messages of one conversation."""
ID_LIMIT = 200
"""Characters of an id."""
TITLE_LIMIT = 200
REASON_LIMIT = 10_000
"""Characters that are kept of the reason of a rating."""
BEGINNING = 80
"""Characters of the first message that stand for a title."""
NO_RESULT = "[no result was kept]"
IMAGE = "[image]"
"""What stands for an image that is not kept."""
OBJECTS_LIMIT = 5_000_000
"""Braces that open in what is read at once: `{}` takes fifty times as much memory as it has bytes."""
VALUES_LIMIT = 50_000_000
"""Commas in what is read at once, for the same reason."""
IMAGE_LIMIT = 20_000_000
"""Characters of an image's `data:` URL, as in a request."""

_NAME = re.compile(r"[^A-Za-z0-9_-]")
_encode = msgspec.json.Encoder(order="deterministic").encode


class Rating(NamedTuple):
    """What somebody thought of an answer.

    Args:
        at: Index of the answer among the messages.
        score: By custom from 0 to 100.
        reason: Why, in words.
    """

    at: int
    score: int
    reason: str


class Talk(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation that can be stored as it is.

    Args:
        place: Where in the file it stands: the number of a line, or an id.
        origin: Its id where it comes from, the same each time that it is read.
        title: Its title; never empty.
        created: When it began, in milliseconds since 1970; 0 where that is not known.
        messages: What was said.
        times: When, for each message, in milliseconds since 1970; 0 where that is not known.
        ratings: What people thought of its answers.
        left_out: How much of what is left out.
        size: Bytes of its messages.
    """

    place: str
    origin: str
    title: str
    created: int = 0
    messages: tuple[Message, ...]
    times: tuple[int, ...]
    ratings: tuple[Rating, ...] = ()
    left_out: dict[str, int] = {}
    size: int = 0

    def digest(self) -> str:
        """Return the SHA-256 of the messages, 64 hexadecimal digits."""
        total = hashlib.sha256()
        for message in self.messages:
            total.update(_encode(message) + b"\n")
        return total.hexdigest()


class Skipped(NamedTuple):
    """A conversation that is left out whole.

    Args:
        place: Where in the file it stands: the number of a line, or an id.
        cause: Why.
        detail: More of it, in words; may be empty.
    """

    place: str
    cause: Cause
    detail: str = ""


Found = Talk | Skipped


class Reader(Protocol):
    """A file in one format.

    Attributes:
        source: The format.
    """

    source: Source

    def read(self) -> Iterator[Found]:
        """Yield its conversations, as far as that can be the oldest first.

        Raises:
            InputError: The file is none of this format.
        """
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class Unfit(Exception):
    """Raised inside readers: this conversation is left out.

    Args:
        cause: Why.
        detail: More of it, in words.
    """

    def __init__(self, cause: Cause, detail: str = "") -> None:
        super().__init__(cause)
        self.cause: Cause = cause
        self.detail = detail

    def at(self, place: str) -> Skipped:
        """Return what became of the conversation at a place."""
        return Skipped(place, self.cause, self.detail)


class Called(NamedTuple):
    """A call as it stands in a file.

    Args:
        id: Its id there; may be empty, and the same as that of another.
        name: The tool.
        arguments: As they were written.
    """

    id: str
    name: str
    arguments: str


class Builder:
    """Puts one conversation together, so that a strict endpoint takes it: results after their calls, none missing."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._times: list[int] = []
        self._ratings: list[Rating] = []
        self._left: dict[str, int] = {}
        self._size = self._calls = 0
        self._open: list[tuple[Called, ToolCall]] = []
        self._results: dict[str, tuple[Message, int]] = {}

    def leave_out(self, what: Left, count: int = 1) -> None:
        """Note that something is left out."""
        if count > 0:
            self._left[what] = self._left.get(what, 0) + count

    def user(self, text: str, time: int = 0, images: Sequence[Image] = ()) -> None:
        """Add what a user said.

        Args:
            text: In words.
            time: When, in milliseconds since 1970; 0 where that is not known.
            images: Shown with it.

        Raises:
            Unfit: The conversation is too long.
        """
        if text.strip() or images:
            self._add(Message("user", clean(text), tuple(images)), time)
        else:
            self.leave_out("empty")

    def assistant(self, text: str, time: int = 0, calls: Sequence[Called] = (), thinking: str = "") -> None:
        """Add what an assistant said and the calls that it asked for; they get ids of their own.

        Raises:
            Unfit: The conversation is too long.
        """
        if not text.strip() and not calls:
            self.leave_out("empty")
            return
        opened: list[tuple[Called, ToolCall]] = []
        for each in calls:
            self._calls += 1
            name = _NAME.sub("_", each.name)[:64] or "tool"
            opened.append((each, ToolCall(f"imported_{self._calls}", name, clean(each.arguments))))
        made = tuple(call for _, call in opened)
        self._add(Message("assistant", clean(text), thinking=clean(thinking), calls=made), time)
        self._open = opened

    def result(self, text: str, time: int = 0, *, call: str = "", name: str = "") -> None:
        """Add the result of a call of the newest message, found by id or else by the name of its tool.

        Raises:
            Unfit: The conversation is too long.
        """
        for each, made in self._open:
            wanted = each.id == call if call else each.name == name
            if wanted and made.id not in self._results:
                self._results[made.id] = Message("tool", clean(text) or NO_RESULT, call=made.id), time
                return
        self.leave_out("result")

    def rate(self, score: int, reason: str) -> None:
        """Add what somebody thought of the newest message, an answer.

        Args:
            score: By custom from 0 to 100.
            reason: Why, in words.
        """
        self._ratings.append(Rating(len(self._messages) - 1, score, clean(reason)[:REASON_LIMIT]))

    def finish(self, place: str, origin: str, title: str = "", created: int = 0) -> Talk:
        """Return the conversation.

        Raises:
            Unfit: Nothing is in it, or it is too long.
        """
        self._settle()
        if not self._messages:
            raise Unfit("empty")
        named = _line(title)[:TITLE_LIMIT] or _beginning(self._messages)
        return Talk(
            place=place,
            origin=clean(origin),
            title=named,
            created=created,
            messages=tuple(self._messages),
            times=tuple(self._times),
            ratings=tuple(self._ratings),
            left_out=self._left,
            size=self._size,
        )

    def room(self) -> int:
        """Return how many bytes may still be added."""
        return THREAD_LIMIT - self._size

    def _add(self, message: Message, time: int) -> None:
        self._settle()
        self._put(message, time)

    def _settle(self) -> None:
        """Add the results of the newest message's calls, in the order of the calls."""
        opened, self._open = self._open, []
        results, self._results = self._results, {}
        for _, call in opened:
            message, time = results.get(call.id) or (Message("tool", NO_RESULT, call=call.id), 0)
            self._put(message, time)

    def _put(self, message: Message, time: int) -> None:
        texts = len(_encode(message))
        images = sum(len(image.url) for image in message.images)
        if texts - images > MESSAGE_LIMIT:
            raise Unfit("long", f"{texts - images:,} > {MESSAGE_LIMIT:,}")
        self._size += texts
        if self._size > THREAD_LIMIT:
            raise Unfit("long", f"> {THREAD_LIMIT:,}")
        if len(self._messages) >= MESSAGES_LIMIT:
            raise Unfit("long", f"> {MESSAGES_LIMIT:,}")
        self._messages.append(message)
        self._times.append(time)


def is_shown(url: str) -> bool:
    """Tell whether an image can be kept: its bytes are there, and models take them."""
    if not url.startswith("data:image/") or not url.isascii() or len(url) > IMAGE_LIMIT:
        return False
    try:
        check(Image(url))
    except InputError:
        return False
    return True


def is_dense(data: bytes) -> bool:
    """Tell whether JSON text has more values than conversations of its size ever have, before it is decoded."""
    return data.count(b"{") > OBJECTS_LIMIT or data.count(b",") > VALUES_LIMIT


def milliseconds(seconds: float | None) -> int:
    """Return a time as milliseconds since 1970, or 0 where it cannot be one."""
    return int(seconds * SECOND) if seconds is not None and 0 < seconds < 1e11 else 0


def _beginning(messages: Sequence[Message]) -> str:
    """Return the beginning of the first message that has words."""
    for message in messages:
        if words := _line(message.content[: 4 * BEGINNING]):
            return words[:BEGINNING]
    return "-"


def _line(text: str) -> str:
    """Return text as one line in which nothing steers a screen."""
    return " ".join("".join(each if each.isprintable() else " " for each in clean(text[:4000])).split())
