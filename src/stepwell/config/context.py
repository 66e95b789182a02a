"""Settings of the context: how requests to models are built, `[execution]`, `[multimodal]` and `[experiment]`."""

from __future__ import annotations

from pydantic import Field

from stepwell.config.base import Section


class SummarySettings(Section):
    """Summaries of what left the window, and what stands for it."""

    enable: bool = True
    """Whether a model summarises in the background what left the window."""
    tool_calls: bool = True
    """Whether it summarises tool calls."""
    working_context: bool = True
    """Whether it summarises thoughts and what came of them."""
    single_step_max_tokens: int = Field(default=2048, ge=16)
    """Tokens that one past call or message may take in what stands for the past."""
    max_return_tokens: int = Field(default=12384, ge=64)
    """Tokens that all of what stands for the past may take."""
    model: str = ""
    """Name of the model that makes summaries, such as a cheaper one; empty: the run's own."""


class ExecutionSettings(Section):
    """How requests to models are built."""

    max_message_tokens: int | None = Field(default=None, ge=256)
    """Tokens of a request at most; empty: as many as the model's window holds."""
    summary: SummarySettings = SummarySettings()


class ImageSettings(Section):
    """Images of users and of tools."""

    enable: bool = True
    """Whether models that see are shown images."""
    model: str = ""
    """Name of the model that is asked where a conversation holds images and its own model does not see."""
    max_pixels: int = Field(default=50_000_000, ge=1)
    """Pixels of an image at most; a larger one is refused before it is decoded."""


class MultimodalSettings(Section):
    """What besides text models are shown."""

    image: ImageSettings = ImageSettings()


class ExperimentSettings(Section):
    """What an agent starts from."""

    maintain_history_context: bool = False
    """Whether steps and calls outlive `lazy_init` of an agent; threads of chats keep theirs in any case."""
