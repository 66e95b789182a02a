"""What engines are made of today, for the replay of stored threads. No model is built."""

from __future__ import annotations

from stepwell.config import Config
from stepwell.engines.base import Engine
from stepwell.events import RunSpec
from stepwell.models.base import Model
from stepwell.tools.base import Toolbox
from stepwell.wiring.catalog import ConfigCatalog
from stepwell.wiring.parts import chat_engine, engine_versions, make_dialect


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
        settings = self._config.models.get(spec.model)
        return chat_engine(spec, model, toolbox, None, settings.extra if settings else {})
