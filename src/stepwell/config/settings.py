"""All settings together, and where they come from. The only reader of the environment.

Sources, strongest first: arguments of a command, `STEPWELL_…` variables (`__` between levels, such as
`STEPWELL_TOOLS__SHELL__ENABLED`), the TOML file (`STEPWELL_CONFIG`, else `stepwell.toml` here). It builds nothing.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from stepwell.config.agents import AgentName, AgentSettings, HelperSettings, TaskSettings
from stepwell.config.approvals import ApprovalSettings
from stepwell.config.base import Names, Place, Table, is_loopback, is_origin
from stepwell.config.context import ExecutionSettings, ExperimentSettings, MultimodalSettings
from stepwell.config.faces import ChatchatSettings, McpServerSettings, OpenAISettings
from stepwell.config.limits import LimitSettings
from stepwell.config.mcp import McpSettings, ServerName
from stepwell.config.models import OFFLINE, ModelSettings
from stepwell.config.tools import ToolSettings
from stepwell.errors import ConfigError


class Config(BaseSettings):
    """All settings of a server or command."""

    model_config = SettingsConfigDict(
        env_prefix="STEPWELL_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        enable_decoding=False,
    )

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on; another than loopback needs `auth = "keys"`."""
    port: int = Field(default=8700, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    data: Place = Field(default=Path("~/.local/share/stepwell"), validate_default=True)
    """The data folder: database, workspace, lock, key of the command line."""
    auth: Literal["keys", "off"] = "keys"
    """`off` is accepted on loopback only; everybody is then the owner `local`."""
    hosts: Names = []
    """Further names by which clients may address the server (its `Host` header)."""
    origins: Names = []
    """Web origins besides its own that may call it, such as https://chat.example.org."""
    max_body: int = Field(default=20_000_000, ge=1000)
    """Longest request body in bytes."""
    default_model: str = ""
    """Name of the model where a request names none; empty: the first of `models`, else `offline`."""
    models: Annotated[dict[str, ModelSettings], Table] = {}
    agent: AgentSettings = AgentSettings()
    agents: Annotated[dict[AgentName, HelperSettings], Table] = {}
    execution: ExecutionSettings = ExecutionSettings()
    multimodal: MultimodalSettings = MultimodalSettings()
    experiment: ExperimentSettings = ExperimentSettings()
    limits: LimitSettings = LimitSettings()
    approvals: ApprovalSettings = ApprovalSettings()
    tasks: TaskSettings = TaskSettings()
    tools: ToolSettings = ToolSettings()
    chatchat: ChatchatSettings = ChatchatSettings()
    openai: OpenAISettings = OpenAISettings()
    mcp: Annotated[dict[ServerName, McpSettings], Table] = {}
    mcp_server: McpServerSettings = McpServerSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put arguments before the environment before the file."""
        file = settings_cls.model_config.get("toml_file")
        sources = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, file)) if file else sources

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.default_model and self.default_model not in {*self.models, OFFLINE}:
            known = ", ".join([*self.models, OFFLINE])
            raise ValueError(f"default_model {self.default_model!r} is none of the models: {known}")
        for place, name in (
            ("execution.summary.model", self.execution.summary.model),
            ("multimodal.image.model", self.multimodal.image.model),
            *((f"agents.{name}.model", each.model) for name, each in self.agents.items()),
        ):
            if name and name not in {*self.models, OFFLINE}:
                raise ValueError(f"{place} {name!r} is none of the models: {', '.join([*self.models, OFFLINE])}")
        for each in self.origins:
            if not is_origin(each):
                raise ValueError(f"origins {each!r} is no origin; write it as browsers do: https://chat.example.org")
        if self.auth == "off" and not is_loopback(self.host):
            raise ValueError(f'host {self.host} can be reached by others; auth = "off" is for 127.0.0.1 only')
        return self

    @property
    def model_names(self) -> list[str]:
        """The names of all models, the default first."""
        first = self.default_model or next(iter(self.models), OFFLINE)
        return [first, *(name for name in [*self.models, OFFLINE] if name != first)]

    @property
    def folder(self) -> Path:
        """The data folder with `~` resolved."""
        return self.data

    @property
    def workspace(self) -> Path:
        """The folder of the tools that work on files."""
        return self.tools.workspace or self.folder / "workspace"

    @property
    def environment(self) -> Mapping[str, str]:
        """What MCP servers may be given of the environment, by the names that the settings have."""
        return os.environ

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings file as it is now, 64 digits; empty where none was read."""
        file = self.model_config.get("toml_file")
        return hashlib.sha256(file.read_bytes()).hexdigest() if isinstance(file, Path) else ""

    def api_key(self, model: ModelSettings) -> str:
        """Return the endpoint's key of a model, from its variable or the settings."""
        if model.api_key_env:
            key = os.environ.get(model.api_key_env, "")
            if not key:
                raise ConfigError(f"the variable {model.api_key_env} (api_key_env) is not set; export the key in it")
            return key
        return model.api_key.get_secret_value()


def settings_file(file: Path | None = None) -> Path | None:
    """Return the TOML file that is read, or None; the argument is that of `load`.

    Raises:
        ConfigError: The file is named and not there.
    """
    named = file or (Path(os.environ["STEPWELL_CONFIG"]) if os.environ.get("STEPWELL_CONFIG") else None)
    if named is not None and not named.is_file():
        raise ConfigError(f"there is no settings file {named}; make it or leave it out")
    return named or (Path("stepwell.toml") if Path("stepwell.toml").is_file() else None)


def unknown_variables() -> list[str]:
    """Return the names of `STEPWELL_…` variables that name no setting, such as misspelt ones."""
    known = {"CONFIG", *(name.upper() for name in Config.model_fields)}
    given = (name for name in os.environ if name.startswith("STEPWELL_"))
    return sorted(name for name in given if name.removeprefix("STEPWELL_").partition("__")[0] not in known)


def spoken_language() -> Literal["en", "zh"]:
    """Return the language in which the person's environment asks programs to speak."""
    named = next(filter(None, (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    return "zh" if named.lower().startswith("zh") else "en"


def load(file: Path | None = None, **values: Any) -> Config:
    """Read the settings.

    Args:
        file: The TOML file; empty: `STEPWELL_CONFIG`, else `stepwell.toml` if it is there.
        values: Settings that win over all others.

    Raises:
        ConfigError: A setting is wrong; the message names its place and the remedy.
    """
    path = settings_file(file)

    class FromFile(Config):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        return FromFile(**{name: value for name, value in values.items() if value is not None})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no valid TOML: {error}") from error
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply") from None
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(each, path) for each in error.errors())) from error


def _explain(error: Any, path: Path | None) -> str:
    place = ".".join(str(part) for part in error["loc"])
    variable = "STEPWELL_" + "__".join(map(str, error["loc"])).upper() if place else "the STEPWELL_… variables"
    source = f"{path} or {variable}" if path else variable
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = "there is no such setting; see docs/settings.md for their names"
    return f"{place}: {message} (in {source})" if place else f"{message} (in {source})"
