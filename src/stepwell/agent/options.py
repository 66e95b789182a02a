"""Options of an agent, under the names of XAgent's configuration.

They come from the settings or from a program; nothing here reads a file or the environment.
"""

from __future__ import annotations

import msgspec

from stepwell.models.base import ModelProfile
from stepwell.specs import ContextSpec, SummaryKind

RESERVE = 4096
"""Tokens kept for a reply at most where nothing else is said; never more than a quarter of the window."""


class SummaryOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Summaries, and what digests show (`execution.summary` there).

    Args:
        enable: Whether what left the view is summarised by a model at all.
        tool_calls: Whether tool calls are.
        working_context: Whether thoughts are.
        single_step_max_tokens: Tokens that the arguments and the result of one past call may take.
        max_return_tokens: Tokens that the results of all past calls may take.
    """

    enable: bool = True
    tool_calls: bool = True
    working_context: bool = True
    single_step_max_tokens: int = 2048
    max_return_tokens: int = 12384


class ExecutionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How requests are built (`execution` there).

    Args:
        max_message_tokens: Tokens of a request at most; 0 for as many as the window holds.
        summary: Summaries and digests.
    """

    max_message_tokens: int = 0
    summary: SummaryOptions = SummaryOptions()


class ImageOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Images (`multimodal.image` there).

    Args:
        enable: Whether images are shown to models that see.
        model: Asked instead of the agent's own model where a request holds images.
    """

    enable: bool = True
    model: str = ""


class MultimodalOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What besides text a model is shown (`multimodal` there)."""

    image: ImageOptions = ImageOptions()


class ExperimentOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options that change what an agent starts from (`experiment` there).

    Args:
        maintain_history_context: Whether steps and calls outlive `lazy_init`.
    """

    maintain_history_context: bool = False


class AgentOptions(msgspec.Struct, frozen=True, kw_only=True):
    """All options of an agent.

    Args:
        language: `en` or `zh`, of prompts and headings.
    """

    execution: ExecutionOptions = ExecutionOptions()
    multimodal: MultimodalOptions = MultimodalOptions()
    experiment: ExperimentOptions = ExperimentOptions()
    language: str = "en"


def context_spec(
    options: AgentOptions, profile: ModelProfile, max_tokens: int | None = None, seeing: ModelProfile | None = None
) -> ContextSpec:
    """Return what decides about the contents of requests, fixed for a run.

    Args:
        options: The agent's options.
        profile: Facts about its model.
        max_tokens: Longest reply in tokens, where it is asked for.
        seeing: Facts about the model that is asked where a request holds images, if there is one.
    """
    summary, image = options.execution.summary, options.multimodal.image
    other = seeing if image.enable and image.model and not profile.images else None
    reserve = max_tokens or min(profile.max_output or RESERVE, RESERVE)
    return ContextSpec(
        window=profile.window,
        reserve=min(reserve, profile.window // 4),
        tokenizer=profile.tokenizer,
        image_tokens=(other or profile).image_tokens,
        images=image.enable and (profile.images or other is not None),
        thinking_back=profile.thinking_back,
        call_tokens=summary.single_step_max_tokens,
        return_tokens=summary.max_return_tokens,
        max_tokens=options.execution.max_message_tokens,
        summarize=_kinds(summary),
        image_model=image.model if other else "",
        image_window=other.window if other else 0,
    )


def _kinds(summary: SummaryOptions) -> tuple[SummaryKind, ...] | None:
    if not summary.enable:
        return None
    wanted: list[SummaryKind] = ["tool_calls"] if summary.tool_calls else []
    return (*wanted, "working_context") if summary.working_context else tuple(wanted)
