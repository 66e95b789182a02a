"""What engines are made of today, for the replay of stored threads. No model is built."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from stepwell.config import Config, ModelSettings
from stepwell.engines.base import Engine
from stepwell.models.base import Delta, Model, ModelProfile, ModelRequest
from stepwell.runs.replay_parts import ReplayModel, ReplayToolbox
from stepwell.specs import RunSpec
from stepwell.tools.base import Toolbox
from stepwell.wiring.catalog import ConfigCatalog
from stepwell.wiring.engine import EngineMaker
from stepwell.wiring.parts import engine_versions, make_dialect, model_profile
from stepwell.wiring.tools import DELEGATING


class ConfigParts:
    """Tools, templates and constants as the settings have them; implements `runs.replay.Parts`.

    Args:
        config: The settings.

    Raises:
        ConfigError: A tool cannot be built as the settings say.
    """

    def __init__(self, config: Config) -> None:
        self._config, self._catalog = config, ConfigCatalog(config)

    def versions(self, spec: RunSpec) -> dict[str, str]:
        """Return the constants and hashes of templates in force; see the port."""
        dialect = make_dialect(spec.dialect, spec.prompt, spec.language) if spec.dialect else None
        return engine_versions(dialect, spec.engine, delegates=DELEGATING in spec.tools)

    def toolbox(self, spec: RunSpec) -> Toolbox:
        """Return the tools of a run; see the port."""
        return self._catalog.toolbox_of(spec)

    def engine(self, spec: RunSpec, model: Model, toolbox: Toolbox) -> Engine:
        """Build the engine of a run; see the port."""

        def assemble(task: RunSpec) -> Engine:
            tools = self.toolbox(task)
            return self.engine(task, model, toolbox.over(tools) if isinstance(toolbox, ReplayToolbox) else tools)

        settings = self._config.models.get(spec.model, ModelSettings(kind="offline"))
        # How a reply of a form is asked for, and whether another model sees for it, are facts about the model.
        known = model
        if spec.model in self._config.model_names:
            known = Known(model, model_profile(spec.model, settings))
        seeing = known if spec.context and spec.context.image_model else None
        make = EngineMaker(
            spec,
            known,
            toolbox,
            None,
            {**settings.extra, **spec.sampling},
            image_model=seeing,
            accounts=model.accounts if isinstance(model, ReplayModel) else None,
            delegate=self._catalog.delegate if DELEGATING in spec.tools else None,
            assemble=assemble,
        )
        return make(spec)


class Known:
    """A model of which other facts are known; implements `models.base.Model`.

    Args:
        model: Who answers.
        profile: The facts.
    """

    def __init__(self, model: Model, profile: ModelProfile) -> None:
        self._model, self.profile = model, profile

    def stream(self, request: ModelRequest) -> AsyncGenerator[Delta]:
        """Stream the reply; see the port."""
        return self._model.stream(request)

    async def close(self) -> None:
        """Let go of nothing: the model is somebody else's."""
