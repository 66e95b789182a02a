"""What a request for a response may say, and its input read into our records.

https://platform.openai.com/docs/api-reference/responses/create. Fields that OpenAI does not have are ignored; fields
that cannot be honoured are refused with their name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NamedTuple, cast

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from stepwell.errors import InputError
from stepwell.messages import Image, Message, ToolCall
from stepwell.runs.catalog import Catalog
from stepwell.server.bodies import Name, Text
from stepwell.server.counts import Counted
from stepwell.server.openai.messages import (
    arguments_of,
    as_list,
    as_object,
    as_text,
    content,
    fitted,
    last_said,
    metadata_of,
    output_of,
    tool_choice,
    tool_specs,
)
from stepwell.server.openai.models import DEFAULT, resolve
from stepwell.server.openai.responses_items import BACKGROUND, ELICITATION, LABEL, Object, parse_place
from stepwell.specs import Limits, RunSpec
from stepwell.tools.client import MOST

Effort = Annotated[Text, Field(max_length=40)] | None


class ReasoningBody(BaseModel):
    """How the model thinks."""

    effort: Effort = None
    """How long."""


class ResponseBody(BaseModel):
    """A request for a response. Null is no value."""

    model_config = ConfigDict(allow_inf_nan=False, use_attribute_docstrings=True)

    model: Name | None = None
    """Name of an agent or of a model; empty for the default agent."""
    input: Annotated[Any, Counted] = None
    """A text, or items."""
    instructions: str | None = None
    """Added to the agent's system message, for this run only."""
    tools: Annotated[list[Any] | None, Field(max_length=MOST)] = None
    """Functions that the client carries out."""
    tool_choice: Any = None
    """Which of them may or must be called."""
    parallel_tool_calls: bool | None = None
    """Whether a reply may call several."""
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    """Sampling temperature."""
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    """Part of the probability that is sampled from."""
    max_output_tokens: Annotated[int | None, Field(ge=1, le=10**9)] = None
    """Longest reply in tokens."""
    max_tool_calls: Annotated[int | None, Field(ge=0, le=1_000_000)] = None
    """Calls of tools at most."""
    text: dict[str, Any] | None = None
    """The form of the answer, as `format`, and its `verbosity`."""
    reasoning: ReasoningBody | None = None
    """How the model thinks."""
    metadata: dict[str, Any] | None = None
    """What the client attaches, for its own use."""
    store: bool | None = None
    """Whether it can be asked for later; left out, it can."""
    previous_response_id: Annotated[str | None, Field(max_length=200)] = None
    """The response that this one goes on from."""
    conversation: str | dict[str, Any] | None = None
    """A thread to go on in: its id."""
    background: bool | None = None
    """Answer at once."""
    stream: bool | None = None
    """Send the answer while it is made."""
    include: list[Any] | None = None
    """Taken without effect."""
    prompt: Any = None
    """Not taken."""


class Answer(NamedTuple):
    """What the client sends for a question of a run.

    Args:
        field: Where it stands in the request.
        thread: The thread's id.
        question: Number of the question.
        approve: Yes or no; None for the output of a function.
        text: The output, or the reason.
        before: How many of the messages stand before it.
        known: The call stands in the same input.
        declined: The output says that it is none.
        images: Whether images are part of the output.
    """

    field: str
    thread: str
    question: int
    approve: bool | None
    text: str
    before: int
    known: bool = False
    declined: bool = False
    images: bool = False


class Said(NamedTuple):
    """The input of a request.

    Args:
        messages: Without system messages.
        system: The texts of the system's and the developer's messages, a blank line between two.
        answers: What may be for questions of a run.
    """

    messages: tuple[Message, ...]
    system: str = ""
    answers: tuple[Answer, ...] = ()

    @property
    def after(self) -> int:
        """How many of the messages stand before the last answer."""
        return self.answers[-1].before if self.answers else 0

    def may_be_past(self, answer: Answer) -> bool:
        """Tell whether an answer may be one of an earlier turn, so that it is history where nothing waits for it."""
        return answer.known if answer.approve is None else answer.before < len(self.messages)


Find = Callable[[str], Awaitable[Object | None]]
"""Returns the item of an id, or None."""


def check_usable(body: ResponseBody) -> None:
    """Refuse what cannot be honoured; raises InputError with its name."""
    if body.prompt is not None:
        raise InputError("There are no stored prompts here; send `instructions` and `input`.", "prompt")
    if body.background and body.store is False:
        raise InputError("What runs in the background has to be stored; leave out `store`.", "store")
    if body.previous_response_id and body.conversation:
        raise InputError("Give `previous_response_id` or `conversation`.", "conversation")
    if body.input in (None, "", []):
        raise InputError("Say something, or send what was asked for.", "input")


def spec_of(catalog: Catalog, body: ResponseBody, said: Said, key: str) -> RunSpec:
    """Return how the run goes that a request asks for.

    Raises:
        NotFound: There is no such agent or model.
        InputError: Something about it cannot be honoured; names the field.
    """
    brought = tool_specs(body.tools, inner="", label=LABEL)
    for index, each in enumerate(brought):
        if each.name == ELICITATION:
            raise InputError("Questions of tools come as calls of this name; rename yours.", f"tools.{index}.name")
    offered, choice = tool_choice(body.tool_choice, brought)
    text = body.text or {}
    wish = msgspec.structs.replace(
        resolve(catalog, body.model or DEFAULT),
        text=last_said(said.messages),
        client_tools=offered,
        tool_choice=choice,
        sampling=_sampling(body, text, bool(offered)),
        temperature=body.temperature,
        max_tokens=body.max_output_tokens,
        limits=Limits(tool_calls=body.max_tool_calls),
        output=output_of(text.get("format"), "text.format"),
        face="openai",
        people=True,
        key=key,
    )
    try:
        spec = fitted(catalog.spec(wish))
    except InputError as error:
        if error.field == "output":
            raise InputError(str(error), "text.format") from error
        raise
    system = "\n\n".join(filter(None, (spec.system, as_text(body.instructions, "instructions"), said.system)))
    attached = metadata_of(body.metadata) | ({BACKGROUND: "true"} if body.background else {})
    return msgspec.structs.replace(spec, system=system, metadata=attached)


def _sampling(body: ResponseBody, text: Object, tools: bool) -> Object:
    given: Object = {"top_p": body.top_p} if body.top_p is not None else {}
    if body.reasoning is not None and body.reasoning.effort:
        given["reasoning_effort"] = body.reasoning.effort
    if verbosity := as_text(text.get("verbosity"), "text.verbosity"):
        given["verbosity"] = verbosity[:40]
    if tools and body.parallel_tool_calls is not None:  # endpoints refuse it without tools
        given["parallel_tool_calls"] = body.parallel_tool_calls
    return given


async def read_input(given: object, max_pixels: int, find: Find | None) -> Said:
    """Read the input of a request.

    Args:
        given: As it came.
        max_pixels: Of one image.
        find: Looks up what the client only names; None where the conversation is known anyway.

    Raises:
        InputError: An item is broken or of a type that no agent is shown; names the field.
    """
    if isinstance(given, str):
        return Said((Message("user", as_text(given, "input")),))
    reader = _Reader(max_pixels)
    for index, each in enumerate(as_list(given, "input")):
        field = f"input.{index}"
        item = as_object(each, field)
        if item.get("type") == "item_reference" or set(item) == {"id"}:
            if find is None:
                continue
            item = await find(as_text(item.get("id"), f"{field}.id"))
            if item is None:
                raise InputError("There is no such item; send it itself.", f"{field}.id")
        reader.take(item, field)
    return reader.said()


class _Reader:
    """Reads items one after the other."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._messages: list[Message] = []
        self._system: list[str] = []
        self._answers: list[Answer] = []
        self._calls: set[str] = set()
        self._open: set[str] = set()
        """Calls behind which nothing but results stands."""
        self._outputs: set[str] = set()
        self._late: dict[str, Message] = {}
        """Results behind something else, by their calls."""

    def said(self) -> Said:
        messages = list[Message]()
        for each in self._messages:
            messages.append(each)
            messages += [self._late[call.id] for call in each.calls if call.id in self._late]
        return Said(tuple(messages), "\n\n".join(filter(None, self._system)), tuple(self._answers))

    def take(self, item: Object, field: str) -> None:
        match item.get("type", "message"):
            case "message":
                self._message(item, field)
            case "function_call":
                self._call(item, field)
            case "function_call_output":
                self._output(item, field)
            case "mcp_call":
                self._own_call(item, field)
            case "mcp_approval_response":
                self._approval(item, field)
            case "reasoning" | "mcp_approval_request" | "mcp_list_tools":
                pass  # the log has what the model is to know of it
            case other:
                raise InputError(f"Items of the type {str(other)[:40]!r} are not taken.", f"{field}.type")

    def _message(self, item: Object, field: str) -> None:
        role = item.get("role")
        text, images = content(item.get("content"), f"{field}.content", self._max_pixels)
        if images and role != "user":
            raise InputError("Show images in a message of the user.", f"{field}.content")
        match role:
            case "user":
                self._messages.append(Message("user", text, images))
                self._open.clear()
            case "assistant":
                self._messages.append(Message("assistant", text))
                self._open.clear()
            case "system" | "developer":
                self._system.append(text)
            case _:
                said = f"A role is `user`, `assistant`, `system` or `developer`, not {str(role)[:40]!r}."
                raise InputError(said, f"{field}.role")

    def _call(self, item: Object, field: str) -> None:
        id, name = as_text(item.get("call_id"), f"{field}.call_id"), as_text(item.get("name"), f"{field}.name")
        if not id or not name:
            raise InputError("A call has a `call_id` and a `name`.", field)
        if id in self._calls:
            raise InputError("Two calls have one id.", f"{field}.call_id")
        self._calls.add(id)
        self._called(ToolCall(id, name, arguments_of(item.get("arguments"), f"{field}.arguments")))
        self._open.add(id)

    def _called(self, call: ToolCall) -> None:
        """Put calls that stand side by side, and the text before them, into one message."""
        last = self._messages[-1] if self._messages else None
        if last is not None and last.role == "assistant":
            self._messages[-1] = msgspec.structs.replace(last, calls=(*last.calls, call))
        else:
            self._messages.append(Message("assistant", calls=(call,)))
            self._open.clear()

    def _output(self, item: Object, field: str) -> None:
        id, known = as_text(item.get("call_id"), f"{field}.call_id"), False
        place, output = parse_place(id), item.get("output")
        text, images = self._result(output, f"{field}.output")
        if id in self._outputs:
            raise InputError(f"The call {id[:100]} has two outputs; send one.", f"{field}.call_id")
        self._outputs.add(id)
        if id in self._calls:
            known, result = True, Message("tool", text, images, call=id)
            if id in self._open:
                self._messages.append(result)
            else:
                self._late[id] = result
        elif place is None or place.part != "call":
            said = f"No tool call found for function call output with call_id {id[:100]}."
            raise InputError(said, f"{field}.call_id")
        if place is not None and place.part == "call":
            declined, before = item.get("status") == "incomplete", len(self._messages) + len(self._late)
            answer = Answer(
                f"{field}.call_id", place.thread, place.seq, None, text, before, known, declined, bool(images)
            )
            self._answers.append(answer)

    def _result(self, output: object, field: str) -> tuple[str, tuple[Image, ...]]:
        if isinstance(output, str | list):
            return content(cast(object, output), field, self._max_pixels)
        raise InputError("An output is a text, or parts.", field)

    def _own_call(self, item: Object, field: str) -> None:
        """Take a past call of the agent's own tools, with what came of it."""
        id = as_text(item.get("id"), f"{field}.id") or f"mcp_{len(self._messages)}"
        name = as_text(item.get("name"), f"{field}.name")
        output, error = item.get("output"), item.get("error")
        told = as_text(output, f"{field}.output") if output is not None else str(error or "")[:4000]
        call = ToolCall(id, name, arguments_of(item.get("arguments"), f"{field}.arguments"))
        self._messages += [Message("assistant", calls=(call,)), Message("tool", told, call=id)]
        self._open.clear()

    def _approval(self, item: Object, field: str) -> None:
        id = as_text(item.get("approval_request_id"), f"{field}.approval_request_id")
        place, approve = parse_place(id), item.get("approve")
        if place is None or place.part != "mcpr":
            said = f"No approval request found for the response with approval_request_id {id[:100]!r}."
            raise InputError(said, f"{field}.approval_request_id")
        if not isinstance(approve, bool):
            raise InputError("This must be true or false.", f"{field}.approve")
        reason = as_text(item.get("reason"), f"{field}.reason")
        before = len(self._messages) + len(self._late)
        self._answers.append(Answer(f"{field}.approval_request_id", place.thread, place.seq, approve, reason, before))
