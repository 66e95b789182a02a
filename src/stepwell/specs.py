"""What decides how a run goes: stored with its start, so that a new process can go on with it.

Records only; where they come from is the business of settings and wiring.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

SummaryKind = Literal["tool_calls", "working_context", "rolling"]


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one run may use at most; None means no limit.

    Args:
        steps: Model calls.
        tool_calls: Tool calls.
        tokens: Tokens of all requests and replies together.
        seconds: Wall-clock seconds since the run started.
    """

    steps: int | None = None
    tool_calls: int | None = None
    tokens: int | None = None
    seconds: float | None = None


class ContextSpec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Facts and settings that decide what a request holds, fixed for a run so that it can be replayed.

    Args:
        window: The model's window in tokens.
        reserve: Tokens of it that are kept for the reply.
        tokenizer: As in `models.base.ModelProfile`.
        image_tokens: As in `models.base.ModelProfile`.
        images: Whether the model is shown images.
        thinking_back: As in `models.base.ModelProfile`.
        call_tokens: Tokens that one past call may take in a digest (`summary.single_step_max_tokens`).
        return_tokens: Tokens that the results of past calls may take in a digest (`summary.max_return_tokens`).
        max_tokens: Tokens of a request at most, where that is less than the window (`max_message_tokens`); 0 for no
            other limit than the window.
        summarize: Kinds of summaries that are made in the background; None switches history to its raw form.
        image_model: Name of the model in the settings that is asked where a request holds images.
        image_window: Its window in tokens; 0 where there is none.
    """

    window: int = 8192
    reserve: int = 1024
    tokenizer: str = ""
    image_tokens: str = ""
    images: bool = False
    thinking_back: bool = False
    call_tokens: int = 2048
    return_tokens: int = 12384
    max_tokens: int = 0
    summarize: tuple[SummaryKind, ...] | None = ()
    image_model: str = ""
    image_window: int = 0


class RunSpec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Everything that decides how a run goes, so that a new process can go on with it.

    Args:
        agent: Name of the agent in the settings.
        model: Name of the model in the settings.
        model_name: The name sent to the endpoint, where it is not the model's own.
        dialect: Name of the dialect; empty for native tool calls.
        prompt: Name of the dialect's template.
        language: `en` or `zh`.
        system: The system message.
        tools: Names of the tools offered, in order.
        temperature: As in `models.base.Settings`.
        max_tokens: As in `models.base.Settings`.
        limits: What the run may use.
        context: How requests are kept inside the window; None for a run of a version that did not.
        output: Name, description and JSON schema of the final answer; None for plain text.
        face: The protocol through which it was asked for.
        versions: Short hashes of the prompts and constants in force, by name; replay compares them.
    """

    agent: str = "default"
    model: str = ""
    model_name: str = ""
    dialect: str = ""
    prompt: str = "default"
    language: str = "en"
    system: str = ""
    tools: tuple[str, ...] = ()
    temperature: float | None = None
    max_tokens: int | None = None
    limits: Limits = Limits()
    context: ContextSpec | None = None
    output: dict[str, Any] | None = None
    face: str = "native"
    versions: dict[str, str] = {}
