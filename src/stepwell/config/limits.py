"""Settings of limits: what runs and threads may use, the sections `[limits]` and `[limits.thread]`."""

from __future__ import annotations

from pydantic import Field

from stepwell.config.base import LONGEST, MOST, Section


class ThreadLimitSettings(Section):
    """What all runs of a thread may use together; empty means no limit."""

    steps: int | None = Field(default=None, ge=1, le=MOST)
    """Model calls."""
    tool_calls: int | None = Field(default=None, ge=1, le=MOST)
    """Tool calls."""
    tokens: int | None = Field(default=None, ge=1, le=MOST)
    """Tokens of all requests and replies together."""
    seconds: float | None = Field(default=None, gt=0, le=LONGEST)
    """Wall-clock seconds."""
    money: float | None = Field(default=None, gt=0, le=MOST, allow_inf_nan=False)
    """In the unit in which the prices of the models are given."""


class LimitSettings(ThreadLimitSettings):
    """What one run may use, and when it goes in circles; empty means no limit."""

    steps: int | None = Field(default=50, ge=1, le=MOST)
    """Model calls."""
    repetitions: int = Field(default=3, ge=0)
    """The same call with the same result so often in a row stops the run and asks; 0 for never."""
    thread: ThreadLimitSettings = ThreadLimitSettings()
