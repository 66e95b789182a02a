"""Replies in the chat-completions wire format: the bytes of a response body into deltas.

It follows OpenAI's chat-completions reference and is liberal in what it takes, since a dozen vendors speak
variants of it. It opens no connection and decides about no retry (`openai.py` does).
"""

from __future__ import annotations

from stepwell.messages import StopReason, Usage
from stepwell.models.base import CallPart, Delta, Failure
from stepwell.models.chunk import KNOWN_FIELDS, Choice, Chunk, Function, Part, Piece, WireUsage, loosely, strictly
from stepwell.models.failures import problem_inside
from stepwell.models.sse import LIMIT, EventTooLong, SSEReader
from stepwell.models.wire import clean, clean_counting, is_object, signed_calls

_STOPS: dict[str, StopReason] = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "content_filter": "content_filter",
    "sensitive": "content_filter",
    "refusal": "content_filter",
    "safety": "content_filter",
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
    "spii": "content_filter",
}
"""By finish reason, in lower case and up to a colon. Whatever is not here means `stop`, or `tool_calls` when there are
calls. The last five are Gemini's own, which its compatible endpoint hands through."""

_FAILED: dict[str, int] = {
    "error": 0,
    "network_error": 0,
    "insufficient_system_resource": 500,
    "abort": 500,
    "malformed_function_call": 500,
}
"""Finish reasons by which OpenRouter, Mistral, Zhipu, DeepSeek, vLLM, SGLang and Gemini say that the reply failed on
their side, with the status that says the same: the request may work a little later where there is one. It is none of an
endpoint that did not begin: work on the request may have been billed."""

_NO_REASON = ("", "null")

_SHOWN = 4096
"""The most bytes of unreadable data that a message repeats; `openai.py` cuts further."""

_BLANK = b"\xef\xbb\xbf \t\r\n"
"""The bytes of a byte order mark and of white space: what may stand before a body."""

_THINK = ("<think>", "<thinking>")
"""Tags of thinking in the text of models whose server does not take it out."""

_MOST_HELD = 256
"""Characters of white space that may wait for a tag behind them."""

_NOTHING = Chunk(choices=[])
_DONE = b"[DONE]"


class _Call:
    """A tool call that is still arriving."""

    __slots__ = ("arguments", "end", "extra", "given", "id", "index", "name", "new", "size")

    def __init__(self, index: int) -> None:
        self.index, self.id, self.name = index, "", ""
        self.arguments: list[str] = []
        self.size = 0
        self.end = ""
        """The last character of the arguments that is no white space."""
        self.new: list[str] = []
        self.given = False
        self.extra: object = None
        """What its vendor wants back with it, such as Gemini's signature of what it thought."""

    def take(self, text: str) -> None:
        """Take in more of the arguments, or what a piece adds that says all of them again."""
        # Nothing in JSON begins with a brace and then with all that came before.
        if len(text) >= self.size > 0 and text.lstrip()[:1] == "{":
            text = text.removeprefix("".join(self.arguments))
        self.arguments.append(text)
        self.new.append(text)
        self.size += len(text)
        self.end = text.rstrip()[-1:] or self.end


class _Calls:
    """Puts the pieces of a reply's tool calls together, also where a server is careless about them.

    Servers leave out the index or the id, repeat the name or all arguments so far in every piece, number every call
    0, or send calls whole, perhaps once more. A piece belongs to the call with its index, else to that with its id,
    else to the newest. It opens a new call all the same if it brings another name, or the name again after the call's
    arguments were whole.
    """

    __slots__ = ("_by_id", "_by_index", "_touched", "all", "replaced")

    def __init__(self) -> None:
        self.all: list[_Call] = []
        self.replaced = 0
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}
        self._touched: dict[_Call, None] = {}

    def add(self, piece: Piece) -> None:
        function = piece.function or Function()
        name, text = function.name or "", function.arguments or ""
        call = self._find(piece.index, piece.id or "")
        if call is None and not (piece.id or name or text):
            return
        if call is None or _opens_another(call, piece, name, text):
            call = _Call(len(self.all))
            self.all.append(call)
        if piece.index is not None:
            self._by_index[piece.index] = call
        if not call.given:
            call.id, call.name = call.id or piece.id or "", call.name or name
            self._by_id.setdefault(call.id, call)
        if text:
            call.take(text)
        if piece.extra_content:
            call.extra = piece.extra_content
        self._touched[call] = None

    def take(self, *, last: bool) -> tuple[CallPart, ...]:
        """Return what is new; a call without a name waits for it, unless this is the end."""
        touched, self._touched = self._touched, {}
        parts: list[CallPart] = []
        for call in touched:
            if call.name or last:
                parts.append(self._part(call))
            else:
                self._touched[call] = None
        return tuple(parts)

    def signed(self) -> str:
        """Return what is wanted back with the calls as JSON text, or nothing."""
        return signed_calls([call.extra for call in self.all])

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
            return self._by_id.get(id)
        return self.all[-1] if self.all else None


def _opens_another(call: _Call, piece: Piece, name: str, text: str) -> bool:
    id = piece.id or ""
    if not name or not call.name or (id and id == call.id):
        return False
    if name != call.name:
        return True
    if call.end != "}" or not (id or text.strip()):
        return False
    arguments = "".join(call.arguments)
    said_again = text == arguments and not id and piece.index is not None
    return not said_again and is_object(arguments)


class _Think:
    """Takes `<think>` blocks from the start of a reply, where servers without a field for thinking leave them."""

    __slots__ = ("_inside", "_seen", "_shown", "held", "over")

    def __init__(self) -> None:
        self.held = self._inside = ""
        """Text that may begin or end a tag."""
        self._seen = self._shown = False
        self.over = False
        """Whether the rest of the text is the answer."""

    def read(self, text: str, *, last: bool) -> tuple[str, str]:
        """Return of more text what is the answer's and what is thinking; half a tag waits, unless this is the end."""
        text, self.held = self.held + text, ""
        thinking: list[str] = []
        while text and not self.over:
            text = self._read_inside(text, thinking, last=last) if self._inside else self._read_start(text, last=last)
        return text, "".join(thinking)

    def _read_start(self, text: str, *, last: bool) -> str:
        head = text.lstrip()
        tag = next((tag for tag in _THINK if head.startswith(tag)), "")
        if tag:
            self._inside, self._seen, self._shown = tag.replace("<", "</"), True, False
            return head[len(tag) :]
        if not head and self._seen:
            return ""
        if not last and len(text) < _MOST_HELD and any(tag.startswith(head) for tag in _THINK):
            self.held = text
            return ""
        self.over = True
        return head if self._seen else text

    def _read_inside(self, text: str, thinking: list[str], *, last: bool) -> str:
        before, found, after = text.partition(self._inside)
        if not found and not last:
            halves = (n for n in range(len(self._inside) - 1, 0, -1) if text.endswith(self._inside[:n]))
            before = text[: len(text) - next(halves, 0)]
        body = before.rstrip()
        if found or last or len(before) < len(body) + _MOST_HELD:
            before = body
        if found:
            self._inside = ""
        elif not last:
            self.held = text[len(before) :]
        thinking.append(before if self._shown else before.lstrip())
        self._shown = self._shown or before != ""
        return after


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
        self._think: _Think | None = _Think()
        self._calls: _Calls | None = None
        self._usage: Usage | None = None
        self._completion = 0
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
            message = f"The endpoint ended the reply with finish reason {self.finish!r}."
            failure = Failure("server", message, _FAILED[self.finish.lower().partition(":")[0]])
        text, thinking, calls = self._take(last=True)
        replaced = self._replaced + (self._calls.replaced if self._calls else 0)
        end, signed = "error" if failure else stop, self._calls.signed() if self._calls else ""
        return Delta(text, thinking, calls, self._usage, failure, end, signed=signed, replaced=replaced)

    def _take(self, *, last: bool) -> tuple[str, str, tuple[CallPart, ...]]:
        text, thinking = "".join(self._text), ""
        self._text.clear()
        if self._thinking:
            thinking = "".join(self._thinking)
            self._thinking.clear()
            if self._think is not None:  # there is a field for it, so text is text, and what was held is, too
                text, self._think = self._think.held + text, None
        elif self._think is not None and (text or last):
            text, thinking = self._think.read(text, last=last)
            if self._think.over:
                self._think = None
        if "\0" in text or "\0" in thinking:
            self._replaced += text.count("\0") + thinking.count("\0")
            text, thinking = clean(text), clean(thinking)
        calls = self._calls.take(last=last) if self._calls else ()
        if text or thinking or calls:
            self.started = True
        return text, thinking, calls

    def _stop(self) -> StopReason:
        finish = self.finish.lower().partition(":")[0]
        if finish in _FAILED:
            return "error"
        if stop := _STOPS.get(finish):
            return stop
        if self._calls is None or not self._calls.all:
            return "stop"
        # A reply that used up exactly what the request allowed was cut, whatever its finish reason says.
        cut = self._max_tokens and self._completion >= self._max_tokens
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
            self._count(choice.usage)

    def _count(self, usage: WireUsage) -> None:
        self._usage = usage.total() or self._usage
        # What was thought may stand beside it, and be no part of what the request limits.
        self._completion = usage.completion_tokens or self._completion

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
            self._count(chunk.usage)
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
