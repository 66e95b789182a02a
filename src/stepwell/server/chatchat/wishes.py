"""What all old chat routes ask of their runs."""

from __future__ import annotations

from stepwell.config import Config
from stepwell.runs.catalog import Wish
from stepwell.specs import Limits

DAY = 24 * 3600 * 1000
"""Milliseconds of a day."""


def model_of(config: Config, name: str) -> str:
    """Return the model that answers where a request has this name, or none."""
    return name or config.chatchat.model or config.model_names[0]


def wish(
    config: Config,
    *,
    text: str,
    key: str,
    model: str,
    temperature: float | None = None,
    max_tokens: int | None = None,
) -> Wish:
    """Return what the wishes of all old requests have in common: one without a dialect, to which nobody answers.

    Args:
        config: The settings.
        text: What the user says.
        key: Id of the API key.
        model: As in `model_of`.
        temperature: None for the settings'.
        max_tokens: Longest reply in tokens; 0 and less mean no limit.
    """
    settings = config.chatchat
    return Wish(
        text=text,
        model=model_of(config, model),
        any_model=True,
        dialect="native",
        language=settings.language,
        system="",
        temperature=settings.temperature if temperature is None else temperature,
        max_tokens=max_tokens if max_tokens and max_tokens > 0 else None,
        limits=Limits(steps=settings.max_steps, seconds=config.limits.seconds, tokens=config.limits.tokens),
        face="chatchat",
        engine="chat",
        people=False,
        key=key,
    )
