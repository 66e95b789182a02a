"""Settings: what they are, their defaults, and where they come from. The only reader of the environment.

Sources, strongest first: arguments of a command, `STEPWELL_…` variables (`__` between levels, such as
`STEPWELL_TOOLS__SHELL__ENABLED`), the TOML file (`STEPWELL_CONFIG`, else `stepwell.toml` here). It builds nothing.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from stepwell.config_base import Names, Table, is_address
from stepwell.config_mcp import McpServerSettings, McpSettings, ServerName
from stepwell.errors import ConfigError

OFFLINE = "offline"
"""Name of the embedded model, always there."""


AgentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""Stands in the path of its events."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelSettings(_Section):
    """One model that agents can use."""

    kind: Literal["openai", "offline", "scripted", "anthropic", "bedrock", "google", "mistral", "provider"] = "openai"
    """`openai`: any OpenAI-compatible chat-completions endpoint. `offline`: the embedded one. `scripted`: a file.
    Vendors: their own protocol. `provider`: that of the vendor in `model`, such as `groq:llama-3.3-70b-versatile`."""
    script: Path | None = None
    """The file of the kind `scripted`."""
    base_url: str = ""
    """The endpoint up to and including `/v1`."""
    model: str = ""
    """The name sent to the endpoint; empty: the section's own name."""
    api_key: SecretStr = SecretStr("")
    """The endpoint's key; better in `api_key_env`."""
    api_key_env: str = ""
    """Name of the variable that holds the endpoint's key."""
    dialect: str = ""
    """`native`, the name of a dialect such as `react`, or empty: what the model's family is known to do."""
    window: int | None = Field(default=None, ge=256)
    """Context window in tokens; empty: the family's."""
    images: bool | None = None
    """Whether it sees images; empty: the family's."""
    max_output: int | None = Field(default=None, ge=1)
    """Tokens of its longest reply; empty: the family's."""
    price_input: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Money for a million tokens of requests; empty: the family's list price, where it is known."""
    price_output: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Money for a million tokens of replies; set together with `price_input`."""
    json_mode: bool | None = None
    """Whether the endpoint keeps a reply to a JSON schema (`response_format`); empty: the family's."""
    connect_timeout: float = Field(default=10.0, gt=0)
    """Seconds to wait for a connection."""
    stall_timeout: float = Field(default=120.0, gt=0)
    """Seconds to wait between two bytes of a reply."""
    attempts: int = Field(default=4, ge=1, le=20)
    """Tries of a call, counted with the first, while no byte of a reply has come."""
    extra: Annotated[dict[str, Any], Table] = {}
    """Further fields of each request's body."""

    @model_validator(mode="after")
    def _complete(self) -> ModelSettings:
        if (self.kind == "openai" or self.base_url) and not is_address(self.base_url):
            raise ValueError("base_url must be the endpoint's address, such as http://127.0.0.1:11434/v1")
        if self.kind == "provider" and not all(self.model.partition(":")):
            raise ValueError("model must begin with its vendor, such as anthropic:claude-opus-5")
        if self.kind == "scripted" and self.script is None:
            raise ValueError("script must name the file that says what this model answers")
        if (self.price_input is None) != (self.price_output is None):
            raise ValueError("price_input and price_output belong together; set both, 0 for what costs nothing")
        return self


class ThreadLimitSettings(_Section):
    """What all runs of a thread may use together; empty means no limit."""

    steps: int | None = Field(default=None, ge=1)
    """Model calls."""
    tool_calls: int | None = Field(default=None, ge=1)
    """Tool calls."""
    tokens: int | None = Field(default=None, ge=1)
    """Tokens of all requests and replies together."""
    seconds: float | None = Field(default=None, gt=0)
    """Wall-clock seconds."""
    money: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """In the unit in which the prices of the models are given."""


class LimitSettings(ThreadLimitSettings):
    """What one run may use, and when it goes in circles; empty means no limit."""

    steps: int | None = Field(default=50, ge=1)
    """Model calls."""
    repetitions: int = Field(default=3, ge=0)
    """The same call with the same result so often in a row stops the run and asks; 0 for never."""
    thread: ThreadLimitSettings = ThreadLimitSettings()


class RuleSettings(_Section):
    """One row of the table that says which calls of tools run at once."""

    decision: Literal["allow", "ask", "deny"]
    """`allow` runs the call, `deny` refuses it, `ask` asks a person."""
    tool: str = Field(default="*", min_length=1)
    """Name of the tool, with `*` and `?` as in names of files."""
    effect: Literal["", "pure", "idempotent", "write"] = ""
    """The tool's effect; empty for any."""
    place: Literal["", "workspace", "outside"] = ""
    """`workspace` for tools that reach no further than the workspace; empty for any."""
    untrusted: bool | None = None
    """Whether untrusted text stands in the context; empty for either."""
    arguments: dict[str, str] = {}
    """What arguments must look like: a pattern as for `tool`, by the name of a top-level argument."""


class ApprovalSettings(_Section):
    """Which calls of tools are asked for."""

    rules: Annotated[list[RuleSettings], Table] = []
    """The first that fits decides; below them stands a built-in one: ask before a `write` outside the workspace."""
    seconds: float | None = Field(default=None, gt=0)
    """Seconds until a question expires unanswered; empty for never."""


class TaskSettings(_Section):
    """How tasks and plans are carried out (XAgent's names and figures)."""

    max_chain_length: int = Field(default=7, ge=1)
    """Steps of a task; in the last one its submission is forced."""
    initial_plan: bool = True
    """Whether a plan is made before work begins."""
    max_plan_tree_depth: int = Field(default=3, ge=1)
    """How deep the tree of a plan may grow; the root has depth 1."""
    max_plan_tree_width: int = Field(default=5, ge=1)
    """Tasks that one task may have below it."""
    max_plan_refine_chain_length: int = Field(default=3, ge=0)
    """Successful edits of one rectification, and refused ones."""
    max_parallel_tasks: int = Field(default=1, ge=1)
    """Siblings done side by side where none needs the other."""
    fast_path: bool = True
    """Whether a question that needs no plan is answered without one."""


class HelperSettings(_Section):
    """An agent to which others may give tasks."""

    description: str = Field(min_length=1)
    """What it is good for, as the agent is told that gives it tasks."""
    model: str = ""
    """Name of its model; empty: that of the agent that gives the task."""
    tools: Names | None = None
    """Names of its tools in order; empty: those of the agent that gives the task."""
    system: str = ""
    """Its system message; empty: that of the agent that gives the task."""
    max_chain_length: int | None = Field(default=None, ge=1)
    """Steps of one of its tasks; empty: `tasks.max_chain_length`."""


class AgentSettings(_Section):
    """The agent that answers where a request names nothing else."""

    system: str = ""
    """The system message; empty: the built-in one in the language of the question."""
    tools: Names | None = None
    """Names of its tools in order; empty: all that are switched on."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Sampling temperature; empty: the endpoint's own."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest reply in tokens; empty: the endpoint's own."""
    prompt: str = "default"
    """Name of the dialect's template, where the model needs one."""
    language: Literal["auto", "en", "zh"] = "auto"
    """Language of prompts and notices; `auto`: that of the message."""


class SummarySettings(_Section):
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


class ExecutionSettings(_Section):
    """How requests to models are built."""

    max_message_tokens: int | None = Field(default=None, ge=256)
    """Tokens of a request at most; empty: as many as the model's window holds."""
    summary: SummarySettings = SummarySettings()


class ImageSettings(_Section):
    """Images of users and of tools."""

    enable: bool = True
    """Whether models that see are shown images."""
    model: str = ""
    """Name of the model that is asked where a conversation holds images and its own model does not see."""
    max_pixels: int = Field(default=50_000_000, ge=1)
    """Pixels of an image at most; a larger one is refused before it is decoded."""


class MultimodalSettings(_Section):
    """What besides text models are shown."""

    image: ImageSettings = ImageSettings()


class ExperimentSettings(_Section):
    """What an agent starts from."""

    maintain_history_context: bool = False
    """Whether steps and calls outlive `lazy_init` of an agent; threads of chats keep theirs in any case."""


class ShellSettings(_Section):
    """The tool `shell`, which runs commands on this machine."""

    enabled: bool = False
    """Off until switched on."""
    sandbox: Literal["bubblewrap", "none"] = "bubblewrap"
    """`none` runs commands with the rights of the server."""
    approval: Literal["ask", "allow"] = "ask"
    """`allow`: its calls run without an approval."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds for one command."""


class FileSettings(_Section):
    """The tools `read_file`, `write_file` and `list_files` in the workspace folder."""

    enabled: bool = False
    """Off until switched on."""


class AskHumanSettings(_Section):
    """The tool `ask_human`, with which the agent asks the person."""

    enabled: bool = False
    """Off until switched on."""


class ToolSettings(_Section):
    """The tools that the server's agents may have."""

    shell: ShellSettings = ShellSettings()
    files: FileSettings = FileSettings()
    ask_human: AskHumanSettings = AskHumanSettings()
    workspace: Path | None = None
    """Folder of the file tools and of `shell`; empty: `workspace` in the data folder."""
    modules: Names = []
    """Importable Python modules whose `@tool` functions are added."""
    disabled: Names = []
    """Names of tools to leave out."""


class ChatchatSettings(_Section):
    """The routes of old Langchain-Chatchat clients."""

    model: str = ""
    """Default of `model_name` (the first of `LLM_MODELS` there); empty: the default model."""
    agent_model: str = ""
    """Serves the model calls made inside tools (`Agent_MODEL` there); empty: the request's model."""
    temperature: float = Field(default=0.7, ge=0, le=1)
    """Default of `temperature`."""
    history_rounds: int = Field(default=3, ge=0)
    """Rounds of `history` that the model sees (`HISTORY_LEN` there, which kept twice as many)."""
    dialects: Annotated[dict[str, str], Table] = {}
    """Dialect by model name, or `native`; without one `glm3` for the names of ChatGLM3, `react` for all others."""
    max_steps: int = Field(default=15, ge=1)
    """Model calls of one request."""
    keep_days: int = Field(default=30, ge=1)
    """Days for which the threads of these requests are kept; conversations are kept until somebody deletes them."""
    statuses: Literal["0.3.1", "master"] = "0.3.1"
    """Numbers of `status` for 0.3 clients: those of 0.3.0 and 0.3.1, or of that service's last state (`master`)."""
    language: Literal["en", "zh"] = "zh"
    """Language of the prompt templates and notices."""


class OpenAISettings(_Section):
    """OpenAI's protocols under `/v1`."""

    keep_days: int = Field(default=30, ge=1)
    """Days for which the threads that these requests make are kept."""


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
    data: Path = Path("~/.local/share/stepwell")
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
        return self.data.expanduser()

    @property
    def workspace(self) -> Path:
        """The folder of the tools that work on files."""
        return (self.tools.workspace or self.folder / "workspace").expanduser()

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


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
