"""The tool `ask_human`: the agent asks a person and goes on with the answer.

It waits for nobody itself: an engine records the question, and what a person answers becomes the result.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, cast

from stepwell.errors import ToolError
from stepwell.events import Effect
from stepwell.messages import ToolSpec, clean
from stepwell.questions import Inquiry
from stepwell.tools.arguments import check
from stepwell.tools.base import ToolContext, ToolResult

LONGEST = 4_000
"""Characters of a question, and of a choice."""
MOST_CHOICES = 20
MOST_SECONDS = 30 * 24 * 3600
"""Seconds that a question may wait where it has a time-out."""

_DESCRIPTION = (
    "Ask a person and wait for the answer. Use it for what only a person can know or decide, never for what "
    "another tool can find out."
)
_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "question": {"type": "string", "description": "What you want to know, with all that is needed to answer it."},
        "choices": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Answers to choose from; leave it out for a free answer.",
        },
        "form": {
            "type": "object",
            "description": "JSON schema of type object, for an answer with several fields; instead of choices.",
        },
        "timeout_seconds": {"type": "number", "description": "How long to wait at most; leave it out to wait on."},
        "default": {"type": "string", "description": "The answer that counts when nobody answers in time."},
    },
    "required": ["question"],
    "additionalProperties": False,
}


@cache
def ask_human_tool() -> AskHuman:
    """Return the tool, built once."""
    return AskHuman()


class AskHuman:
    """The tool; `tools.policy.Asking` is what engines use of it."""

    spec = ToolSpec("ask_human", _DESCRIPTION, _PARAMETERS)
    effect: Effect = "pure"
    timeout = math.inf
    output_limit = 30_000

    def question(self, arguments: dict[str, Any]) -> Inquiry:
        """Return what a call wants to know; see `tools.policy.Asking`."""
        text, choices = clean(str(arguments["question"])), tuple(map(clean, arguments.get("choices") or ()))
        form, default = arguments.get("form"), arguments.get("default")
        if not text.strip() or len(text) > LONGEST:
            raise ToolError(f"`question` has {len(text)} characters; write 1 to {LONGEST}.")
        if len(choices) > MOST_CHOICES or any(not each.strip() or len(each) > LONGEST for each in choices):
            raise ToolError(f"`choices` may be {MOST_CHOICES} at most, each of 1 to {LONGEST} characters.")
        if len(set(choices)) < len(choices):
            raise ToolError("`choices` holds the same answer twice.")
        _check_form(form, choices, default)
        if default is not None and choices and clean(default) not in choices:
            raise ToolError("`default` is none of the choices.")
        seconds = arguments.get("timeout_seconds")
        if seconds is not None and not 0 < seconds <= MOST_SECONDS:
            raise ToolError(f"`timeout_seconds` is {seconds}; write more than 0 and at most {MOST_SECONDS}.")
        return Inquiry(
            text=text,
            choices=choices,
            form=form,
            seconds=seconds,
            default=None if default is None else clean(default),
        )

    async def call(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        """Refuse: without an engine there is nobody to ask.

        Raises:
            ToolError: Always.
        """
        raise ToolError("Nobody can be asked here.")


def _check_form(form: dict[str, Any] | None, choices: tuple[str, ...], default: str | None) -> None:
    if form is None:
        return
    fields = form.get("properties")
    if form.get("type", "object") != "object" or not isinstance(fields, dict) or not fields:
        raise ToolError("`form` must be a JSON schema of type object with `properties`.")
    if choices or default is not None:
        raise ToolError("Give either `choices` or `form`, and no `default` for a form.")
    if not all(isinstance(each, dict) for each in cast(dict[str, object], fields).values()):
        raise ToolError("Each of the form's `properties` must be a JSON schema.")
    try:
        check(form, {})
    except (TypeError, AttributeError, ValueError, KeyError) as error:
        raise ToolError(f"`form` is no JSON schema that can be checked: {type(error).__name__}.") from error
