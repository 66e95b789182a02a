"""Replies in the chat-completions wire format: the bytes of a response body into deltas.

It follows OpenAI's chat-completions reference and is liberal in what it takes, since a dozen vendors speak
variants of it. It opens no connection and decides about no retry (`openai.py` does).
"""

from __future__ import annotations

from stepwell.messages import StopReason, Usage
from stepwell.models.base import CallPart, Delta, Failure
from stepwell.models.chunk import KNOWN_FIELDS, Choice, Chunk, Function, Part, Piece, loosely, strictly
from stepwell.models.failures import problem_inside
from stepwell.models.sse import LIMIT, EventTooLong, SSEReader
from stepwell.models.wire import clean, clean_counting, is_object

_STOPS: dict[str, StopReason] = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "content_filter",
    "sensitive": "content_filter",
}
"""By finish reason, in lower case. Whatever is not here means `stop`, or `tool_calls` when there are calls."""

_FAILED = ("error", "network_error")
"""Finish reasons by which OpenRouter, Mistral and Zhipu say that the reply failed on their side."""

_NO_REASON = ("", "null")

_SHOWN = 4096
"""The most bytes of unreadable data that a message repeats; `openai.py` cuts further."""

_BLANK = b"\xef\xbb\xbf \t\r\n"
"""The bytes of a byte order mark and of white space: what may stand before a body."""

_NOTHING = Chunk(choices=[])
_DONE = b"[DONE]"


class _Call:
    """A tool call that is still arriving."""

    __slots__ = ("arguments", "given", "id", "index", "name", "new")

    def __init__(self, index: int) -> None:
        self.index, self.id, self.name = index, "", ""
        self.arguments: list[str] = []
        self.new: list[str] = []
        self.given = False


class _Calls:
    """Puts the pieces of a reply's tool calls together, also where a server is careless about them.

    Servers leave out the index or the id, repeat the name in every piece, number every call 0, or send calls
    whole. A piece belongs to the call with its index, else to that with its id, else to the newest. It opens
    a new call all the same if it brings another name, or the name again after the call's arguments were whole.
    """

    __slots__ = ("_by_index", "_touched", "all", "replaced")

    def __init__(self) -> None:
        self.all: list[_Call] = []
        self.replaced = 0
        self._by_index: dict[int, _Call] = {}
        self._touched: list[_Call] = []

    def add(self, piece: Piece) -> None:
        function = piece.function or Function()
        name, text = function.name or "", function.arguments or ""
        call = self._find(piece.index, piece.id or "")
        if call is None or _opens_another(call, piece.id or "", name, text):
            call = _Call(len(self.all))
            self.all.append(call)
        if piece.index is not None:
            self._by_index[piece.index] = call
        if not call.given:
            call.id, call.name = call.id or piece.id or "", call.name or name
        if text:
            call.arguments.append(text)
            call.new.append(text)
        if call not in self._touched:
            self._touched.append(call)

    def take(self, *, last: bool) -> tuple[CallPart, ...]:
        """Return what is new; a call without a name waits for it, unless this is the end."""
        parts: list[CallPart] = []
        waiting: list[_Call] = []
        for call in self._touched:
            if call.name or last:
                parts.append(self._part(call))
            else:
                waiting.append(call)
        self._touched = waiting
        return tuple(parts)

    def _part(self, call: _Call) -> CallPart:
        text = self._clean("".join(call.new))
        call.new.clear()
        if call.given:
            return CallPart(call.index, arguments=text)
        call.given = True
        return CallPart(call.index, self._clean(call.id), self._clean(call.name), text)

    def _clean(self, text: str) -> str:
        if "\0" in text or not text.isascii():
            text, replaced = clean_counting(text)
            self.replaced += replaced
        return text

    def _find(self, index: int | None, id: str) -> _Call | None:
        if index is not None:
            return self._by_index.get(index)
        if id:
            return next((call for call in self.all if call.id == id), None)
        return self.all[-1] if self.all else None


def _opens_another(call: _Call, id: str, name: str, text: str) -> bool:
    if not name or not call.name or (id and id == call.id):
        return False
    if name != call.name:
        return True
    return bool(id or text.strip()) and is_object("".join(call.arguments))


class ReplyReader:
    """Reads the body of one response.

    `feed` it what the network brings; `take` gives what came since as one delta. Once it is `done`, or after
    `end`, `last` gives the final delta. A whole `chat.completion` in place of a stream is read too.

    Args:
        thinking_field: The field of a delta that carries thinking; `reasoning_content` and `reasoning` always do.
        max_tokens: The limit that the request set, in tokens: calls that end exactly there count as cut.
    """

    def __init__(self, thinking_field: str = "reasoning_content", max_tokens: int | None = None) -> None:
        self._thinking_field, self._max_tokens = thinking_field, max_tokens
        self._decode = strictly if thinking_field in KNOWN_FIELDS else self._loosely
        self._sse = SSEReader()
        self._sniffed = False
        self._whole: list[bytes] | None = None
        self._whole_size = 0
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._calls: _Calls | None = None
        self._usage: Usage | None = None
        self._replaced = 0
        self.started = False
        """Whether any content was given out: text, thinking or a call."""
        self.done = False
        """Whether nothing more needs to be read."""
        self.finish = ""
        """The finish reason; with it the reply is whole, though usage may follow."""
        self.failure: Failure | None = None

    def feed(self, data: bytes) -> None:
        """Read more of the body."""
        if not self._sniffed:
            self._sniff(data)
        if self._whole is not None:
            self._whole.append(data)
            self._whole_size += len(data)
            if self._whole_size > LIMIT:
                self.fail(Failure("broken", f"The endpoint's reply is longer than {LIMIT} bytes."))
            return
        try:
            events = self._sse.feed(data)
        except EventTooLong as error:
            return self.fail(Failure("broken", f"The endpoint's stream is unreadable: {error}."))
        self._read(events)

    def end(self) -> None:
        """Take note that the body is over."""
        if self.done:
            return
        if self._whole is not None:
            self._read([b"".join(self._whole).lstrip(_BLANK)])
        elif rest := self._sse.close():
            self._read(rest)
            if self.failure is not None and self.failure.kind == "broken":
                self.failure = Failure("broken", "The endpoint's stream was cut inside a line.")
        elif not self._sniffed:
            self.fail(Failure("broken", "The endpoint sent an empty reply."))
        self.done = True

    def fail(self, failure: Failure) -> None:
        """Give the reply up, unless its finish reason came: then it is whole all the same."""
        if not self.finish and self.failure is None:
            self.failure = failure
        self.done = True

    def take(self) -> Delta | None:
        """Return what came since the last call, or None."""
        text, thinking, calls = self._take(last=False)
        return Delta(text, thinking, calls) if text or thinking or calls else None

    def last(self) -> Delta:
        """Return the final delta, with what was not taken yet."""
        failure, stop = self.failure, self._stop()
        if failure is None and not self.finish:
            failure = Failure("broken", "The endpoint's stream ended without a finish reason.")
        elif failure is None and stop == "error":
            failure = Failure("server", f"The endpoint ended the reply with finish reason {self.finish!r}.")
        text, thinking, calls = self._take(last=True)
        replaced = self._replaced + (self._calls.replaced if self._calls else 0)
        return Delta(text, thinking, calls, self._usage, failure, "error" if failure else stop, replaced=replaced)

    def _take(self, *, last: bool) -> tuple[str, str, tuple[CallPart, ...]]:
        text, thinking = "".join(self._text), ""
        self._text.clear()
        if self._thinking:
            thinking = "".join(self._thinking)
            self._thinking.clear()
        if "\0" in text or "\0" in thinking:
            self._replaced += text.count("\0") + thinking.count("\0")
            text, thinking = clean(text), clean(thinking)
        calls = self._calls.take(last=last) if self._calls else ()
        if text or thinking or calls:
            self.started = True
        return text, thinking, calls

    def _stop(self) -> StopReason:
        finish = self.finish.lower()
        if finish in _FAILED:
            return "error"
        if stop := _STOPS.get(finish):
            return stop
        if self._calls is None:
            return "stop"
        # A reply that used up exactly what the request allowed was cut, whatever its finish reason says.
        cut = self._max_tokens and self._usage and self._usage.output >= self._max_tokens
        return "length" if cut else "tool_calls"

    def _sniff(self, data: bytes) -> None:
        # Servers mislabel bodies both ways, and no line of a stream starts with a bracket.
        if head := data.lstrip(_BLANK):
            self._sniffed = True
            if head[:1] in (b"{", b"["):
                self._whole = []

    def _read(self, events: list[bytes]) -> None:
        decode, text = self._decode, self._text
        for event in events:
            if event == _DONE:
                self.done = True
                return
            try:
                chunk = decode(event)
            except (ValueError, RecursionError):
                chunk = self._loosely(event)
            choices = chunk.choices
            if not choices or chunk.usage or chunk.error:
                self._read_rest(chunk, event)
                if self.done:
                    return
                if not choices:
                    continue
            choice = choices[0]
            part = choice.delta
            if part is None or choice.finish_reason or choice.index or choice.usage:
                self._read_choice(choice)
            elif part.tool_calls or part.reasoning_content or part.reasoning or part.refusal or part.function_call:
                self._read_part(part)
            elif part.content:  # most chunks
                text.append(part.content)

    def _read_choice(self, choice: Choice) -> None:
        if choice.index:
            return
        part = choice.delta
        if part is None and not (self.started or self._text):
            part = choice.message
        if part is not None:
            self._read_part(part)
        if choice.finish_reason and choice.finish_reason not in _NO_REASON:
            self.finish = choice.finish_reason
        if choice.usage:
            self._usage = choice.usage.total()

    def _read_part(self, part: Part) -> None:
        if part.content:
            self._text.append(part.content)
        if thinking := part.reasoning_content or part.reasoning:
            self._thinking.append(thinking)
        if part.tool_calls or part.function_call or part.refusal:
            self._read_calls(part)

    def _read_calls(self, part: Part) -> None:
        if part.refusal:
            self._text.append(part.refusal)
        pieces = part.tool_calls or []
        if part.function_call:
            pieces.append(Piece(0, None, part.function_call))
        for piece in pieces:
            self._calls = self._calls or _Calls()
            self._calls.add(piece)

    def _read_rest(self, chunk: Chunk, event: bytes) -> None:
        if chunk.usage:
            self._usage = chunk.usage.total()
        if (chunk.error or (chunk.choices is None and chunk.usage is None)) and (failure := problem_inside(event)):
            self.fail(failure)

    def _loosely(self, event: bytes) -> Chunk:
        if event.startswith(b"[DONE]"):
            self.done = True
        elif event.strip():
            try:
                chunk, replaced = loosely(event, self._thinking_field)
                self._replaced += replaced
                return chunk
            except (ValueError, RecursionError):
                shown = event[:_SHOWN].decode("utf-8", "replace")
                self.fail(Failure("broken", f"The endpoint sent data that is no JSON object: {shown}"))
        return _NOTHING
