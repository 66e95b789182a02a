"""The ids of responses and the items in them, as JSON values of `/v1/responses`.

Every id says where in a log the thing is, so that nothing has to be kept to find it again. Records and small functions;
when which item comes is said in `responses_events.py`.
"""

from __future__ import annotations

import json
import re
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

from stepwell.events import Asked, EndReason, ToolEnded
from stepwell.messages import ToolCall, ToolSpec, Usage
from stepwell.questions import Decision, QuestionKind
from stepwell.server.openai.models import DEFAULT
from stepwell.specs import RunSpec

Object = dict[str, Any]

LABEL = "stepwell"
"""The name of the server that the agent's own tools seem to be on."""
FUNCTIONS: frozenset[QuestionKind] = frozenset({"result", "question", "elicitation"})
"""Kinds of questions that are shown as calls of functions; their outputs are the answers."""
VERDICTS: MappingProxyType[QuestionKind, tuple[Decision, Decision]] = MappingProxyType(
    {
        "approval": ("approve", "deny"),
        "confirm": ("approve", "deny"),
        "repetition": ("continue", "stop"),
        "outcome": ("retry", "skip"),
    }
)
"""Kinds that are shown as requests of approvals, and what yes and no mean for each."""
ASK = "ask_human"
"""The agent's tool that asks a person."""
ELICITATION = "elicitation"
"""The function that a question of a running tool seems to be a call of."""
BACKGROUND = "stepwell.background"
"""Under which name a run remembers that its first response was to be made in the background."""

Part = Literal["msg", "rs", "fc", "call", "mcp", "mcpr", "fco", "mcpa"]
"""What an id is of: a message, a thought, a function's call and the same as calls refer to it, a call of the agent's
own, a request of an approval, and what the client sent: an output, an approval."""

_RESPONSE = re.compile(r"resp_([0-9a-f]{32})_([1-9][0-9]{0,9})(?:_([1-9][0-9]{0,9}))?")
_PLACE = re.compile(r"(msg|rs|fc|call|mcp|mcpr|fco|mcpa)_([0-9a-f]{32})_([1-9][0-9]{0,9})(?:_[0-9]{1,4})?")


class ResponseId(NamedTuple):
    """Where a response is: a run, or what follows when its questions were answered.

    Args:
        thread: The thread's id.
        run: Number of the run's `RunStarted`.
        answered: Number of the `Answered` that it begins with; 0 for the beginning of the run.
    """

    thread: str
    run: int
    answered: int = 0

    def __str__(self) -> str:
        return f"resp_{self.thread}_{self.run}" + (f"_{self.answered}" if self.answered else "")


class Place(NamedTuple):
    """What an id of an item says.

    Args:
        part: What it is of.
        thread: The thread's id.
        seq: Number of the event that brought it.
    """

    part: Part
    thread: str
    seq: int


def parse_response(text: str) -> ResponseId | None:
    """Read the id of a response; None for anything else."""
    found = _RESPONSE.fullmatch(text)
    return ResponseId(found[1], int(found[2]), int(found[3] or 0)) if found else None


def parse_place(text: str) -> Place | None:
    """Read the id of an item or a call; None for anything else."""
    found = _PLACE.fullmatch(text)
    return Place(cast(Part, found[1]), found[2], int(found[3])) if found else None


def item_id(part: Part, thread: str, seq: int) -> str:
    """Return the id of an item that an event brought."""
    return f"{part}_{thread}_{seq}"


# items


def message(id: str, text: str | None, status: str) -> Object:
    """Return a message of the agent; without a text its one part has not begun."""
    parts = [] if text is None else [output_text(text)]
    return {"id": id, "type": "message", "role": "assistant", "status": status, "content": parts}


def output_text(text: str) -> Object:
    """Return the one part of such a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def reasoning(id: str, text: str | None, status: str) -> Object:
    """Return what the model thought; without a text its one part has not begun."""
    return {"id": id, "type": "reasoning", "status": status, "summary": [] if text is None else [summary_text(text)]}


def summary_text(text: str) -> Object:
    """Return the one part of a thought."""
    return {"type": "summary_text", "text": text}


def mcp_call(id: str, call: ToolCall, approved: str | None, ended: ToolEnded | None) -> Object:
    """Return a call of one of the agent's own tools.

    Args:
        id: Of the item.
        call: It as it runs.
        approved: Id of the request that somebody approved for it.
        ended: What came of it; None while it is under way.
    """
    good = ended is not None and ended.status == "ok"
    failed = None if ended is None or good else {"type": "mcp_tool_execution_error", "content": _told(ended.content)}
    return {
        "id": id,
        "type": "mcp_call",
        "server_label": LABEL,
        "name": call.name,
        "arguments": call.arguments,
        "approval_request_id": approved,
        "output": ended.content if good and ended is not None else None,
        "error": failed,
        "status": "in_progress" if ended is None else "completed" if good else "failed",
    }


def _told(text: str) -> list[Object]:
    return [{"type": "text", "text": text}]


def function_call(thread: str, question: int, asked: Asked, call: ToolCall | None, status: str) -> Object:
    """Return a call of a function that the client carries out, or a question of the agent or of its tool as one."""
    if asked.kind == ELICITATION:
        told = _question(asked) | ({"tool": call.name} if call is not None else {})
        call = ToolCall("", ELICITATION, _text(told))
    return {
        "id": item_id("fc", thread, question),
        "type": "function_call",
        "call_id": item_id("call", thread, question),
        "name": call.name if call is not None else ASK,
        "arguments": call.arguments if call is not None else _text(_question(asked)),
        "status": status,
    }


def approval_request(thread: str, question: int, asked: Asked, call: ToolCall | None) -> Object:
    """Return a question that takes yes or no."""
    own = asked.kind == "approval" and call is not None
    return {
        "id": item_id("mcpr", thread, question),
        "type": "mcp_approval_request",
        "server_label": LABEL,
        "name": call.name if own and call is not None else asked.kind,
        "arguments": call.arguments if own and call is not None else _text(_question(asked)),
    }


def _question(asked: Asked) -> Object:
    told: Object = {"question": asked.text}
    if asked.choices:
        told["choices"] = asked.choices
    if asked.form is not None:
        told["form"] = asked.form
    return told


def _text(told: Object) -> str:
    return json.dumps(told, ensure_ascii=False)


# the response around them


class End(NamedTuple):
    """How a response ended.

    Args:
        status: As OpenAI has it.
        reason: Why it is incomplete.
        error: What went wrong.
        cause: The word for it in the log.
        detail: The same in words.
    """

    status: Literal["completed", "incomplete", "failed", "cancelled"]
    reason: str = ""
    error: Object | None = None
    cause: str = ""
    detail: str = ""

    @property
    def event(self) -> str:
        """Type of the event that a stream ends with; OpenAI has none for what was cancelled."""
        return f"response.{'incomplete' if self.status == 'cancelled' else self.status}"


_TOKENS = frozenset({"length", "tokens", "thread_tokens"})


def end_of(reason: EndReason, cause: str, detail: str) -> End:
    """Return how the response ends that ends with its run."""
    match reason:
        case "answer" if cause == "length":
            return End("incomplete", "max_output_tokens", None, cause, detail)
        case "answer":
            return End("completed", cause=cause, detail=detail)
        case "limit":
            return End("incomplete", "max_output_tokens" if cause in _TOKENS else "max_messages", None, cause, detail)
        case "failed" if cause == "content_filter":
            return End("incomplete", "content_filter", None, cause, detail)
        case "failed":
            code = "rate_limit_exceeded" if cause == "rate_limit" else "server_error"
            return End("failed", "", {"code": code, "message": detail}, cause, detail)
        case "cancelled":
            return End("cancelled", cause=cause, detail=detail)


def usage(counted: Usage | None) -> Object | None:
    """Return tokens as OpenAI counts them; None where no endpoint told them."""
    if counted is None:
        return None
    return {
        "input_tokens": counted.input,
        "input_tokens_details": {"cached_tokens": counted.cached, "cache_write_tokens": 0},
        "output_tokens": counted.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counted.input + counted.output,
    }


def echo(spec: RunSpec) -> Object:
    """Return what a response repeats of its request, as far as the log has it."""
    sampling, choice = spec.sampling, spec.tool_choice
    named = choice not in ("", "required")
    return {
        "model": model_of(spec),
        "instructions": spec.system or None,
        "tools": [_tool(each) for each in spec.client_tools],
        "tool_choice": {"type": "function", "name": choice} if named else choice or "auto",
        "parallel_tool_calls": sampling.get("parallel_tool_calls", True),
        "temperature": spec.temperature,
        "top_p": sampling.get("top_p"),
        "max_output_tokens": spec.max_tokens,
        "max_tool_calls": spec.limits.tool_calls,
        "reasoning": {"effort": sampling.get("reasoning_effort"), "summary": None},
        "text": {"format": _format(spec.output)},
        "truncation": "disabled",
        "background": BACKGROUND in spec.metadata,
        "metadata": {name: text for name, text in spec.metadata.items() if name != BACKGROUND},
    }


def model_of(spec: RunSpec) -> str:
    """Return the name under which `/v1` has the agent of a run, or its bare model."""
    if spec.agent != "default":
        return spec.agent
    return DEFAULT if spec.tools else spec.model


def _tool(tool: ToolSpec) -> Object:
    told = {"name": tool.name, "description": tool.description or None, "parameters": tool.parameters}
    return {"type": "function", **told, "strict": False}


def _format(output: Object | None) -> Object:
    if output is None:
        return {"type": "text"}
    told = {"name": output["name"], "description": output.get("description") or None}
    return {"type": "json_schema", **told, "schema": output.get("schema"), "strict": True}
