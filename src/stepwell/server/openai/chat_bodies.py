"""What a request for a chat completion may say, and what it asks of a run.

https://platform.openai.com/docs/api-reference/chat/create. Fields that OpenAI does not have are ignored; fields that
cannot be honoured are refused with their name.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from stepwell.errors import InputError
from stepwell.messages import Image, Message, ToolCall
from stepwell.runs.catalog import Catalog, Wish
from stepwell.server.bodies import Name, Strict, Text
from stepwell.server.counts import Counted
from stepwell.server.openai.messages import (
    arguments_of,
    as_list,
    as_object,
    as_text,
    content,
    fitted,
    last_said,
    output_of,
    tool_choice,
    tool_specs,
)
from stepwell.server.openai.models import is_bare, resolve
from stepwell.specs import EngineName, RunSpec
from stepwell.tools.client import MOST

Number = Annotated[float | None, Field(ge=-2, le=2)]
Stop = Annotated[Text, Field(max_length=1000)]
Stops = Annotated[list[Stop], Field(max_length=4)]
Word = Annotated[Text, Field(max_length=40)]
Token = Annotated[str, Field(pattern="^[0-9]{1,10}$")]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class StepwellBody(Strict):
    """What this server can do besides."""

    thread: str = Field(default="", pattern="^([0-9a-f]{32})?$")
    """The id of a thread to go on in: of `messages` only the last one, which the user says, is taken."""
    people: bool = False
    """Whether somebody can answer questions meanwhile; the answer waits for them."""
    engine: EngineName | None = None
    """Who decides the steps of an agent; left out, the settings' choice."""


class StreamOptions(BaseModel):
    """How a stream is sent."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    include_usage: bool | None = None
    """Whether a last event with the usage comes before `[DONE]`."""


class CompletionBody(BaseModel):
    """A request for a chat completion. Null is no value."""

    model_config = ConfigDict(allow_inf_nan=False, use_attribute_docstrings=True)

    model: Name
    """Name of an agent or of a model."""
    messages: Annotated[list[Any], Field(min_length=1), Counted]
    """The conversation, oldest first."""
    stream: bool | None = None
    """Send the answer while it is made."""
    stream_options: StreamOptions | None = None
    """How a stream is sent."""
    tools: Annotated[list[Any] | None, Field(max_length=MOST)] = None
    """Functions that the client carries out."""
    tool_choice: Any = None
    """Which of them may or must be called."""
    parallel_tool_calls: bool | None = None
    """Whether a reply may call several."""
    response_format: dict[str, Any] | None = None
    """Plain text, or JSON that follows a schema."""
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    """Sampling temperature."""
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    """Part of the probability that is sampled from."""
    stop: Annotated[Stops | None, BeforeValidator(_as_list)] = None
    """Texts that end a reply, 4 at most."""
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    """Makes sampling repeatable where the endpoint can."""
    presence_penalty: Number = None
    """Against words that were there."""
    frequency_penalty: Number = None
    """Against words that were there often."""
    logit_bias: dict[Token, Annotated[float, Field(ge=-100, le=100)]] | None = None
    """Likelihood of tokens by their number."""
    reasoning_effort: Word | None = None
    """How long the model thinks."""
    verbosity: Word | None = None
    """How much the model says."""
    max_tokens: Annotated[int | None, Field(ge=1, le=10**9)] = None
    """Longest reply in tokens."""
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=10**9)] = None
    """The same by its newer name, which goes first."""
    n: int | None = None
    """How many answers: 1."""
    stepwell: StepwellBody | None = None
    """What this server can do besides."""
    modalities: Any = None
    """Text only."""
    audio: Any = None
    """Not taken."""
    logprobs: Any = None
    """Not taken."""
    top_logprobs: Any = None
    """Not taken."""
    functions: Any = None
    """Not taken: `tools` took its place."""
    function_call: Any = None
    """Not taken: `tool_choice` took its place."""
    web_search_options: Any = None
    """Not taken."""


_PASSED = (
    "top_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "reasoning_effort",
    "verbosity",
)
"""Fields that are passed on to the model's endpoint as they are."""
_REFUSED = (
    ("audio", "Audio is not made here; leave it out."),
    ("logprobs", "Log probabilities are not told here; leave it out."),
    ("top_logprobs", "Log probabilities are not told here; leave it out."),
    ("functions", "Bring functions as `tools`."),
    ("function_call", "Choose by `tool_choice`."),
    ("web_search_options", "There is no search of the web here; leave it out."),
)


class Conversation(NamedTuple):
    """What a client says that was said so far.

    Args:
        messages: Without system messages; every call has its result behind it.
        system: The texts of the system's and the developer's messages, a blank line between two.
    """

    messages: tuple[Message, ...]
    system: str


def check_usable(body: CompletionBody) -> None:
    """Refuse what cannot be honoured; raises InputError with its name."""
    if body.n not in (None, 1):
        raise InputError("One answer is made to a request; leave out `n`.", "n")
    if body.modalities not in (None, [], ["text"]):
        raise InputError("Answers are text.", "modalities")
    for name, why in _REFUSED:
        if getattr(body, name) not in (None, False, 0, [], {}):
            raise InputError(why, name)


def spec_of(catalog: Catalog, body: CompletionBody, conversation: Conversation, key: str) -> RunSpec:
    """Return how the run goes that a request asks for.

    Raises:
        NotFound: There is no such agent or model.
        InputError: Something about it cannot be honoured; names the field.
    """
    wish, more = resolve(catalog, body.model), body.stepwell or StepwellBody()
    if is_bare(wish) and more.engine not in (None, "chat"):
        raise InputError("A model without an agent has no engine; name an agent as `model`.", "stepwell.engine")
    tools = tool_specs(body.tools)
    offered, choice = tool_choice(body.tool_choice, tools)
    wish = msgspec.structs.replace(
        wish,
        text=last_said(conversation.messages),
        client_tools=offered,
        tool_choice=choice,
        sampling=_sampling(body, bool(offered)),
        temperature=body.temperature,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        output=output_of(body.response_format),
        face="openai",
        engine=more.engine or wish.engine,
        people=more.people,
        key=key,
    )
    spec = fitted(_asked(catalog, wish))
    if not conversation.system:
        return spec
    system = f"{spec.system}\n\n{conversation.system}" if spec.system else conversation.system
    return msgspec.structs.replace(spec, system=system)


def _asked(catalog: Catalog, wish: Wish) -> RunSpec:
    try:
        return catalog.spec(wish)
    except InputError as error:  # a tool's parts stand one level deeper here, and a form has another name
        first, *rest = error.field.split(".")
        if first == "tools" and len(rest) > 1:
            raise InputError(str(error), ".".join((first, rest[0], "function", *rest[1:]))) from error
        if first in ("output", "engine"):
            raise InputError(str(error), "response_format" if first == "output" else "stepwell.engine") from error
        raise


def _sampling(body: CompletionBody, tools: bool) -> dict[str, Any]:
    given = {name: value for name in _PASSED if (value := getattr(body, name)) is not None}
    if body.stop:
        given["stop"] = body.stop
    if tools and body.parallel_tool_calls is not None:  # endpoints refuse it without tools
        given["parallel_tool_calls"] = body.parallel_tool_calls
    return given


# the conversation


def conversation_of(messages: list[Any], max_pixels: int) -> Conversation:
    """Read `messages`.

    Args:
        messages: As they came.
        max_pixels: Of one image.

    Raises:
        InputError: One of them is broken, or calls and results do not go together; names the field.
    """
    read: list[Message] = []
    system: list[str] = []
    waiting: dict[str, None] = {}
    for index, each in enumerate(messages):
        field = f"messages.{index}"
        message = _message(as_object(each, field), field, max_pixels)
        if message.role == "tool":
            if message.call not in waiting:
                said = f"No call {message.call[:80]!r} without a result stands before this."
                raise InputError(said, f"{field}.tool_call_id")
            del waiting[message.call]
        else:
            _check_answered(waiting, index)
        if message.role == "system":
            system.append(message.content)
            continue
        waiting |= dict.fromkeys(call.id for call in message.calls)
        read.append(message)
    _check_answered(waiting, len(messages))
    return Conversation(tuple(read), "\n\n".join(filter(None, system)))


def _check_answered(waiting: dict[str, None], index: int) -> None:
    if waiting:
        named = ", ".join(id[:80] for id in waiting)
        raise InputError(f"A tool's message must answer {named} here.", f"messages.{index}.tool_call_id")


def _message(given: dict[str, Any], field: str, max_pixels: int) -> Message:
    role = given.get("role")
    if role not in ("system", "developer", "user", "assistant", "tool"):
        said = f"A role is `system`, `developer`, `user`, `assistant` or `tool`, not {str(role)[:40]!r}."
        raise InputError(said, f"{field}.role")
    text, images = content(given.get("content"), f"{field}.content", max_pixels)
    if images and role not in ("user", "tool"):
        raise InputError("Show images in a message of the user.", f"{field}.content")
    match role:
        case "user":
            return Message("user", text, images)
        case "assistant":
            return _reply(given, text, field)
        case "tool":
            return _result(given, text, images, field)
        case _:
            return Message("system", text)


def _reply(given: dict[str, Any], text: str, field: str) -> Message:
    if given.get("function_call") is not None:
        raise InputError("Send calls as `tool_calls`.", f"{field}.function_call")
    place = f"{field}.tool_calls"
    calls = given.get("tool_calls")
    read = tuple(_call(each, f"{place}.{at}") for at, each in enumerate(as_list(calls, place) if calls else ()))
    if len({call.id for call in read}) < len(read):
        raise InputError("Two calls have one id.", place)
    text = text or as_text(given.get("refusal"), f"{field}.refusal")
    return Message("assistant", text, thinking=_thinking(given), calls=read)


def _thinking(given: dict[str, Any]) -> str:
    thought = given.get("reasoning_content")
    return as_text(thought, "") if isinstance(thought, str) else ""


def _call(given: object, field: str) -> ToolCall:
    call = as_object(given, field)
    if call.get("type", "function") != "function":
        raise InputError("Only functions can have been called.", f"{field}.type")
    described = as_object(call.get("function"), f"{field}.function")
    id, name = as_text(call.get("id"), f"{field}.id"), as_text(described.get("name"), f"{field}.function.name")
    if not id or not name:
        raise InputError("A call has an `id` and its function a `name`.", field)
    return ToolCall(id, name, arguments_of(described.get("arguments"), f"{field}.function.arguments"))


def _result(given: dict[str, Any], text: str, images: tuple[Image, ...], field: str) -> Message:
    id = as_text(given.get("tool_call_id"), f"{field}.tool_call_id")
    return Message("tool", text, images, call=id)
