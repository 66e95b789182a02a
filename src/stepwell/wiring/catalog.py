"""What the settings offer, by name: models, tools, and how a run should go."""

from __future__ import annotations

import re

from stepwell.config import OFFLINE, Config, ModelSettings
from stepwell.engines.base import Engine
from stepwell.errors import ConfigError, InputError
from stepwell.events import Limits, RunSpec
from stepwell.models.base import Model
from stepwell.prompts import load
from stepwell.runs.catalog import ModelInfo, ToolInfo, Wish
from stepwell.tools.base import Toolbox
from stepwell.wiring.parts import chat_engine, completer, dialect_name, engine_versions, make_dialect, make_model
from stepwell.wiring.tools import chatchat_tools, configured_tools

_CHINESE = re.compile(r"[\u3400-\u9fff]")


class ConfigCatalog:
    """Models and tools of the settings; models are built when they are first needed and kept.

    Args:
        config: The settings.

    Raises:
        ConfigError: A tool cannot be built as the settings say.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._models: dict[str, Model] = {}
        self._tools = {tool.spec.name: tool for tool in configured_tools(config)}
        self._chatchat = {tool.spec.name: tool for tool in chatchat_tools(self._tools.values())}
        self._boxes: dict[tuple[str, ...], Toolbox] = {}

    def models(self) -> list[ModelInfo]:
        """Return the models, the default first."""
        return [self._info(name) for name in self._config.model_names]

    def _info(self, name: str) -> ModelInfo:
        settings, model = self._settings(name), self._model(name)
        return ModelInfo(
            name=name,
            kind=settings.kind,
            model=settings.model or name,
            window=model.profile.window,
            dialect=dialect_name(settings.dialect, model),
            images=model.profile.images,
            default=name == self._config.model_names[0],
        )

    def tools(self) -> list[ToolInfo]:
        """Return the tools that are switched on."""
        return [ToolInfo(tool.spec, tool.effect) for tool in self._tools.values()]

    def spec(self, wish: Wish) -> RunSpec:
        """Return how a run should go; see the port."""
        agent, limits = self._config.agent, self._config.limits
        name, model_name = self._find(wish)
        language, prompt = self._language(wish), wish.prompt or agent.prompt
        dialect, digests = self._dialect(wish, name, prompt, language)
        return RunSpec(
            model=name,
            model_name=model_name,
            dialect=dialect,
            prompt=prompt,
            language=language,
            system=self._system(wish, language),
            tools=self._tool_names(wish),
            temperature=agent.temperature if wish.temperature is None else wish.temperature,
            max_tokens=wish.max_tokens or agent.max_tokens,
            limits=wish.limits or Limits(limits.steps, limits.tool_calls, limits.tokens, limits.seconds),
            face=wish.face,
            versions=digests,
        )

    def assemble(self, spec: RunSpec) -> Engine:
        """Build the engine of a run; see the port."""
        model, helper, helper_name = self._model(spec.model), self._model(spec.model), spec.model_name
        if spec.face == "chatchat" and self._config.chatchat.agent_model:
            name, helper_name = self._find(Wish(model=self._config.chatchat.agent_model, any_model=True))
            helper = self._model(name)
        extra = self._settings(spec.model).extra
        return chat_engine(spec, model, self.toolbox(spec.tools), completer(helper, helper_name), extra)

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
        settings, model = self._settings(name), self._model(name)
        # The embedded model understands tool calls only; no wish makes it write a dialect.
        wished = "" if settings.kind == "offline" else wish.dialect
        dialect = dialect_name(wished or settings.dialect, model)
        try:
            return dialect, engine_versions(make_dialect(dialect, prompt, language) if dialect else None)
        except ConfigError as error:
            raise InputError(str(error), "prompt") from error

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
            known = self._chatchat | self._tools
            gone = [name for name in names if name not in known]
            if gone:
                raise ConfigError(f"tools of this run are no longer in the settings: {', '.join(gone)}")
            box = self._boxes[names] = Toolbox([known[name] for name in names])
        return box
