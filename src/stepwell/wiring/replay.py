"""What engines are made of today, for the replay of stored threads. No model is built."""

from __future__ import annotations

from stepwell.config import Config, ModelSettings
from stepwell.engines.base import Engine
from stepwell.models.base import Model
from stepwell.specs import RunSpec
from stepwell.tools.base import Toolbox
from stepwell.wiring.catalog import ConfigCatalog
from stepwell.wiring.engine import EngineMaker
from stepwell.wiring.parts import engine_versions, make_dialect, model_profile


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
        return engine_versions(make_dialect(spec.dialect, spec.prompt, spec.language) if spec.dialect else None)

    def toolbox(self, spec: RunSpec) -> Toolbox:
        """Return the tools of a run; see the port."""
        return self._catalog.toolbox(spec.tools)

    def engine(self, spec: RunSpec, model: Model, toolbox: Toolbox) -> Engine:
        """Build the engine of a run; see the port."""
        settings = self._config.models.get(spec.model, ModelSettings(kind="offline"))
        # How a reply of a form is asked for, and whether another model sees for it, are facts about the model.
        if spec.model in self._config.model_names:
            model.profile = model_profile(spec.model, settings)
        seeing = model if spec.context and spec.context.image_model else None
        return EngineMaker(spec, model, toolbox, None, settings.extra, image_model=seeing)(spec)
