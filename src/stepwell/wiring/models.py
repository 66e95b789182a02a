"""The models that the settings name: what is known of each, and each as an adapter, built when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from stepwell.agent.options import AgentOptions
from stepwell.config import OFFLINE, Config, ModelSettings
from stepwell.errors import ConfigError, InputError
from stepwell.models.base import Model, ModelProfile
from stepwell.runs.catalog import ModelInfo, Wish
from stepwell.specs import ContextSpec, RunSpec
from stepwell.wiring.parts import context_of, dialect_for, make_model, model_profile, summarizer

if TYPE_CHECKING:
    from stepwell.agent.summaries import Summaries

KEPT = 256
"""Ways to keep requests inside a window that are kept, one for each model and longest reply."""


async def faults(config: Config) -> dict[str, str]:
    """Return why models of the settings can answer nothing, by their names, as far as this machine can tell.

    Endpoints are not asked: what is told are missing extras, keys and scripts.
    """
    found: dict[str, str] = {}
    for name, settings in config.models.items():
        try:
            await make_model(name, settings, config.api_key(settings)).close()
        except ConfigError as error:
            found[name] = str(error).removeprefix(f"models.{name}: ")
    return found


class ConfiguredModels:
    """The models of the settings, by name.

    Args:
        config: The settings.
        options: How requests are built.
    """

    def __init__(self, config: Config, options: AgentOptions) -> None:
        self._config, self._options = config, options
        self._models: dict[str, Model] = {}
        self._profiles: dict[str, ModelProfile] = {}
        self._contexts: dict[tuple[str, int | None], ContextSpec] = {}

    def info(self, name: str) -> ModelInfo:
        """Return what clients may know of a model."""
        settings = self.settings(name)
        profile = self.profile(name)
        return ModelInfo(
            name=name,
            kind=settings.kind,
            model=settings.model or name,
            window=profile.window,
            dialect=dialect_for(settings.dialect, profile),
            images=profile.images,
            default=name == self._config.model_names[0],
        )

    def seeing(self) -> ModelProfile | None:
        """Return the facts of the model that is asked about images in place of those that do not see, or None."""
        other = self._options.multimodal.image.model
        return self.profile(other) if other else None

    def profile_of_name(self, model_name: str) -> ModelProfile:
        """Return what is known of a model that is asked by another name than its settings have."""
        from stepwell.models.profiles import profile_for

        return profile_for(model_name)

    def image_model(self, spec: RunSpec) -> Model | None:
        """Return the model that is asked where a run's request holds images, or None for its own."""
        name = spec.context.image_model if spec.context else ""
        return self.model(name) if name else None

    def summaries(self, spec: RunSpec, model: Model) -> Callable[[], Summaries]:
        """Return what makes the summaries of a run."""
        name = self._config.execution.summary.model
        return summarizer(self.model(name), other=name) if name else summarizer(model, spec.model_name)

    def context(self, name: str, max_tokens: int | None) -> ContextSpec:
        """Return how requests to a model are kept inside its window, kept for later runs."""
        found = self._contexts.get((name, max_tokens))
        if found is None:
            profile = self.profile(name)
            found = context_of(self._options, profile, max_tokens, self.seeing())
            if len(self._contexts) >= KEPT:
                self._contexts.clear()
            self._contexts[name, max_tokens] = found
        return found

    def settings(self, name: str) -> ModelSettings:
        """Return a model's settings.

        Raises:
            ConfigError: They are gone.
        """
        if name in self._config.models:
            return self._config.models[name]
        if name == OFFLINE:
            return ModelSettings(kind="offline")
        known = ", ".join(self._config.model_names)
        raise ConfigError(f"there is no model {name!r} in the settings any more; known: {known}")

    def model(self, name: str) -> Model:
        """Return a model, built when it is first needed.

        Raises:
            ConfigError: Its settings are gone, or its API key is missing.
        """
        model = self._models.get(name)
        if model is None:
            settings = self.settings(name)
            model = self._models[name] = make_model(name, settings, self._config.api_key(settings))
        return model

    def find(self, wish: Wish) -> tuple[str, str]:
        """Return the name of the wished model's settings, and the name to send where it is another.

        Raises:
            InputError: There is no such model.
        """
        names = self._config.model_names
        if not wish.model or wish.model in names:
            return wish.model or names[0], ""
        for name in names:
            if self.settings(name).model == wish.model:
                return name, ""
        if wish.any_model:
            return names[0], wish.model
        raise InputError(f"There is no model {wish.model!r}; known: {', '.join(names)}.", "model")

    def dialect(self, wish: Wish, name: str) -> str:
        """Return the dialect that a wished model is to be spoken to in: empty for native tool calls."""
        settings = self.settings(name)
        # The embedded model understands tool calls only; no wish makes it write a dialect.
        wished = "" if settings.kind == "offline" else wish.dialect
        return dialect_for(wished or settings.dialect, self.profile(name))

    def profile(self, name: str) -> ModelProfile:
        """Return what is known of a model."""
        found = self._profiles.get(name)
        if found is None:
            found = self._profiles[name] = model_profile(name, self.settings(name))
        return found

    async def close(self) -> None:
        """Let go of connections."""
        for model in self._models.values():
            await model.close()
