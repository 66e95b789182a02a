"""What the settings offer, by name: models, tools, and how a run should go."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from stepwell.config import OFFLINE, Config, ModelSettings
from stepwell.engines.base import Engine
from stepwell.errors import ConfigError, InputError
from stepwell.models.base import Model, ModelProfile
from stepwell.prompts import load
from stepwell.runs.catalog import ModelInfo, ToolInfo, Wish
from stepwell.specs import ContextSpec, Limits, RunSpec
from stepwell.tools.base import Toolbox
from stepwell.wiring.engine import EngineMaker
from stepwell.wiring.parts import (
    NATIVE,
    agent_options,
    check_tools,
    completer,
    context_of,
    dialect_for,
    engine_versions,
    make_dialect,
    make_model,
    model_profile,
    summarizer,
)
from stepwell.wiring.tools import chatchat_tools, configured_tools

if TYPE_CHECKING:
    from stepwell.agent.summaries import Summaries

BOXES = 256
"""Toolboxes kept, one for each list of names that clients ask for."""

_CHINESE = re.compile(r"[\u3400-\u9fff]")

L = TypeVar("L", int, float)


class ConfigCatalog:
    """Models and tools of the settings; models are built when they are first needed and kept.

    Args:
        config: The settings.

    Raises:
        ConfigError: A tool cannot be built as the settings say.
    """

    def __init__(self, config: Config) -> None:
        self._config, self._options = config, agent_options(config)
        self._models: dict[str, Model] = {}
        self._tools = {tool.spec.name: tool for tool in configured_tools(config)}
        self._chatchat = {tool.spec.name: tool for tool in chatchat_tools(self._tools.values())}
        self._profiles: dict[str, ModelProfile] = {}
        self._versions: dict[tuple[str, str, str], dict[str, str]] = {}
        self._boxes: dict[tuple[str, ...], Toolbox] = {}
        self._contexts: dict[tuple[str, int | None], ContextSpec] = {}
        self._checked: set[tuple[ContextSpec, tuple[str, ...]]] = set()
        self._check()

    def _check(self) -> None:
        """Find what would refuse every request, before the first one comes."""
        agent, old = self._config.agent, self._config.chatchat
        for name in self._config.models:
            with _at(f"models.{name}.dialect"):
                dialect = self._info(name).dialect
                if dialect:
                    make_dialect(dialect, "default", "en")
            with _at("agent.prompt"):
                if dialect:
                    make_dialect(dialect, agent.prompt, "en")
        for name, dialect in old.dialects.items():
            with _at(f"chatchat.dialects.{name}"):
                if dialect != NATIVE:
                    make_dialect(dialect, "default", old.language)
        unknown = [name for name in agent.tools or () if name not in self._tools]
        if unknown:
            known = ", ".join(self._tools) or "none"
            raise ConfigError(f"agent.tools: there is no tool {', '.join(unknown)}; known: {known}")
        first = self._config.model_names[0]
        with _at(f"models.{first}.window"):
            check_tools(self._context(first, agent.max_tokens), self.toolbox(self._tool_names(Wish())).specs)

    def models(self) -> list[ModelInfo]:
        """Return the models, the default first."""
        return [self._info(name) for name in self._config.model_names]

    def _info(self, name: str) -> ModelInfo:
        settings = self._settings(name)
        profile = self._profile(name, settings)
        return ModelInfo(
            name=name,
            kind=settings.kind,
            model=settings.model or name,
            window=profile.window,
            dialect=dialect_for(settings.dialect, profile),
            images=profile.images,
            default=name == self._config.model_names[0],
        )

    def tools(self) -> list[ToolInfo]:
        """Return the tools that are switched on."""
        return [ToolInfo(tool.spec, tool.effect) for tool in self._tools.values()]

    def spec(self, wish: Wish) -> RunSpec:
        """Return how a run should go; see the port."""
        agent = self._config.agent
        name, model_name = self._find(wish)
        self._model(name)  # a missing key is told now, not by the run
        language, prompt = self._language(wish), wish.prompt or agent.prompt
        dialect, digests = self._dialect(wish, name, prompt, language)
        tools = self._tool_names(wish)
        context = self._context(name, wish.max_tokens or agent.max_tokens)
        self._check_tools(context, tools)
        return RunSpec(
            model=name,
            model_name=model_name,
            dialect=dialect,
            prompt=prompt,
            language=language,
            system=self._system(wish, language),
            tools=tools,
            temperature=agent.temperature if wish.temperature is None else wish.temperature,
            max_tokens=wish.max_tokens or agent.max_tokens,
            limits=self._limits(wish.limits or Limits()),
            context=context,
            output=wish.output,
            face=wish.face,
            versions=digests,
        )

    def _check_tools(self, context: ContextSpec, tools: tuple[str, ...]) -> None:
        if (context, tools) in self._checked:
            return
        try:
            check_tools(context, self.toolbox(tools).specs)
        except ConfigError as error:
            raise InputError(f"{error}.".capitalize(), "tools") from error
        if len(self._checked) >= BOXES:
            self._checked.clear()
        self._checked.add((context, tools))

    def assemble(self, spec: RunSpec) -> Engine:
        """Build the engine of a run; see the port."""
        model, helper, helper_name = self._model(spec.model), self._model(spec.model), spec.model_name
        if spec.face == "chatchat" and self._config.chatchat.agent_model:
            name, helper_name = self._find(Wish(model=self._config.chatchat.agent_model, any_model=True))
            helper = self._model(name)
        make_engine = EngineMaker(
            spec,
            model,
            self.toolbox(spec.tools),
            completer(helper, helper_name),
            self._settings(spec.model).extra,
            image_model=self._image_model(spec),
            summaries=self._summaries(spec, model),
        )
        return make_engine(spec)

    def _image_model(self, spec: RunSpec) -> Model | None:
        name = spec.context.image_model if spec.context else ""
        return self._model(name) if name else None

    def _summaries(self, spec: RunSpec, model: Model) -> Callable[[], Summaries]:
        name = self._config.execution.summary.model
        return summarizer(self._model(name)) if name else summarizer(model, spec.model_name)

    def _context(self, name: str, max_tokens: int | None) -> ContextSpec:
        found = self._contexts.get((name, max_tokens))
        if found is None:
            other = self._options.multimodal.image.model
            seeing = self._profile(other, self._settings(other)) if other else None
            found = context_of(self._options, self._profile(name, self._settings(name)), max_tokens, seeing)
            if len(self._contexts) >= BOXES:
                self._contexts.clear()
            self._contexts[name, max_tokens] = found
        return found

    async def close(self) -> None:
        """Let go of connections."""
        for model in self._models.values():
            await model.close()

    def _settings(self, name: str) -> ModelSettings:
        if name in self._config.models:
            return self._config.models[name]
        if name == OFFLINE:
            return ModelSettings(kind="offline")
        known = ", ".join(self._config.model_names)
        raise ConfigError(f"there is no model {name!r} in the settings any more; known: {known}")

    def _model(self, name: str) -> Model:
        model = self._models.get(name)
        if model is None:
            settings = self._settings(name)
            model = self._models[name] = make_model(name, settings, self._config.api_key(settings))
        return model

    def _find(self, wish: Wish) -> tuple[str, str]:
        """Return the name of the wished model's settings, and the name to send where it is another."""
        names = self._config.model_names
        if not wish.model or wish.model in names:
            return wish.model or names[0], ""
        for name in names:
            if self._settings(name).model == wish.model:
                return name, ""
        if wish.any_model:
            return names[0], wish.model
        raise InputError(f"There is no model {wish.model!r}; known: {', '.join(names)}.", "model")

    def _limits(self, wished: Limits) -> Limits:
        """Return what the settings allow, or less where less is wished."""
        allowed = self._config.limits

        def least(one: L | None, other: L | None) -> L | None:
            return other if one is None else one if other is None else min(one, other)

        return Limits(
            least(allowed.steps, wished.steps),
            least(allowed.tool_calls, wished.tool_calls),
            least(allowed.tokens, wished.tokens),
            least(allowed.seconds, wished.seconds),
        )

    def _language(self, wish: Wish) -> str:
        chosen = wish.language or self._config.agent.language
        if chosen != "auto":
            return chosen
        return "zh" if _CHINESE.search(wish.text) else "en"

    def _system(self, wish: Wish, language: str) -> str:
        if wish.system is not None:
            return wish.system
        return self._config.agent.system or load("system", "default", language).render()

    def _dialect(self, wish: Wish, name: str, prompt: str, language: str) -> tuple[str, dict[str, str]]:
        """Return the name of the dialect and the versions that replay compares."""
        settings = self._settings(name)
        # The embedded model understands tool calls only; no wish makes it write a dialect.
        wished = "" if settings.kind == "offline" else wish.dialect
        dialect = dialect_for(wished or settings.dialect, self._profile(name, settings))
        try:
            return dialect, self._versions_of(dialect, prompt, language)
        except ConfigError as error:
            raise InputError(str(error), "prompt") from error

    def _profile(self, name: str, settings: ModelSettings) -> ModelProfile:
        found = self._profiles.get(name)
        if found is None:
            found = self._profiles[name] = model_profile(name, settings)
        return found

    def _versions_of(self, dialect: str, prompt: str, language: str) -> dict[str, str]:
        """Return what replay compares; neither constants nor templates change while a process lives."""
        key = (dialect, prompt, language)
        found = self._versions.get(key)
        if found is None:
            made = make_dialect(dialect, prompt, language) if dialect else None
            found = self._versions[key] = engine_versions(made)
        return found

    def _tool_names(self, wish: Wish) -> tuple[str, ...]:
        if wish.face == "chatchat" and wish.tools is None:
            return tuple(self._chatchat)
        names = self._config.agent.tools if wish.tools is None else wish.tools
        if names is None:
            return tuple(self._tools)
        for index, name in enumerate(names):
            if name not in self._tools:
                known = ", ".join(self._tools) or "none"
                raise InputError(f"There is no tool {name!r}; known: {known}.", f"tools.{index}")
        return tuple(dict.fromkeys(names))

    def toolbox(self, names: tuple[str, ...]) -> Toolbox:
        """Return the tools of these names, kept for later runs.

        Raises:
            ConfigError: One of them is no longer in the settings.
        """
        box = self._boxes.get(names)
        if box is None:
            if len(self._boxes) >= BOXES:
                self._boxes.clear()
            known = self._chatchat | self._tools
            gone = [name for name in names if name not in known]
            if gone:
                raise ConfigError(f"tools of this run are no longer in the settings: {', '.join(gone)}")
            box = self._boxes[names] = Toolbox([known[name] for name in names])
        return box


@contextmanager
def _at(place: str) -> Generator[None]:
    """Tell the place of a setting that turns out wrong."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
