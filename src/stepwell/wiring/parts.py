"""Builds single parts by name: dialects, stores, models, engines. What they are part of is not decided here."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from stepwell.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from os import PathLike

    from stepwell.agent.options import AgentOptions
    from stepwell.agent.summaries import Summaries
    from stepwell.config import Config, ModelSettings
    from stepwell.messages import ToolSpecs
    from stepwell.models.base import Model, ModelProfile
    from stepwell.models.dialects.base import Dialect
    from stepwell.models.retries import Retries, Timeouts
    from stepwell.specs import ContextSpec
    from stepwell.store.base import Store
    from stepwell.tools.base import Complete

NATIVE = "native"
"""The setting that asks for a model's own tool calls instead of a dialect."""
DIALECTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "react": ("react", "React"),
        "qwen": ("react", "Qwen"),
        "glm3": ("glm3", "Glm3"),
        "hermes": ("hermes", "Hermes"),
        "structured": ("structured", "Structured"),
        "xml": ("xml", "Xml"),
    }
)
"""The dialects by name: where each is and what it is called."""


def make_dialect(name: str, prompt: str, language: str) -> Dialect:
    """Return a dialect by name.

    Raises:
        ConfigError: There is no such dialect or prompt.
    """
    from importlib import import_module

    if name not in DIALECTS:
        raise ConfigError(f"there is no dialect {name!r}; known: {NATIVE}, {', '.join(DIALECTS)}")
    module, made = DIALECTS[name]
    dialect: Callable[[str, str], Dialect] = getattr(import_module(f"stepwell.models.dialects.{module}"), made)
    return dialect(prompt, language)


def make_store(path: str | PathLike[str]) -> Store:
    """Open the database file at `path`."""
    from pathlib import Path

    from stepwell.store.sqlite import SqliteStore

    return SqliteStore(Path(path))


def make_model(name: str, settings: ModelSettings, api_key: str) -> Model:
    """Return the adapter of a configured model."""
    if settings.kind == "offline":
        from stepwell.models.offline import OfflineModel

        return OfflineModel()
    if settings.script is not None and settings.kind == "scripted":
        from stepwell.models.script_file import script_of
        from stepwell.models.scripted import ScriptedModel

        return ScriptedModel(script_of(settings.script), profile=model_profile(name, settings))
    from stepwell.models.retries import Retries, Timeouts

    timeouts = Timeouts(settings.connect_timeout, settings.stall_timeout)
    retries = Retries(settings.attempts)
    vendor, sent = _vendor(name, settings)
    if vendor:
        return _provider_model(vendor, sent, name, settings, api_key, timeouts, retries)
    from stepwell.models.openai import OpenAIModel

    return OpenAIModel(
        settings.base_url,
        sent,
        api_key=api_key,
        profile=model_profile(name, settings),
        timeouts=timeouts,
        retries=retries,
    )


def _vendor(name: str, settings: ModelSettings) -> tuple[str, str]:
    """Return the vendor whose own protocol a model speaks, empty for none, and the name that is sent."""
    if settings.kind == "provider":
        vendor, _, sent = settings.model.partition(":")
        return vendor, sent
    vendor = "" if settings.kind in ("openai", "offline", "scripted") else settings.kind
    return vendor, settings.model or name


def _provider_model(
    vendor: str, sent: str, name: str, settings: ModelSettings, api_key: str, timeouts: Timeouts, retries: Retries
) -> Model:
    """Return the adapter of a model that speaks its vendor's own protocol."""
    try:
        from stepwell.models.providers import provider_model
    except ImportError as error:
        remedy = 'pip install "stepwell[providers]"'
        raise ConfigError(f"models.{name}: the kind {settings.kind} needs an extra; {remedy}") from error
    try:
        return provider_model(
            vendor,
            sent,
            api_key=api_key,
            base_url=settings.base_url,
            profile=model_profile(name, settings),
            timeouts=timeouts,
            retries=retries,
        )
    except ConfigError as error:
        raise ConfigError(f"models.{name}: {error}") from error


def model_profile(name: str, settings: ModelSettings) -> ModelProfile:
    """Return what is known of a configured model, without its adapter and its key."""
    if settings.kind == "offline":
        from stepwell.models.offline import OfflineModel

        return OfflineModel.profile
    from stepwell.models.profiles import profile_for
    from stepwell.specs import Prices

    facts: dict[str, object] = {
        "window": settings.window,
        "images": settings.images,
        "json_mode": settings.json_mode,
        "max_output": settings.max_output,
    }
    if settings.price_input is not None and settings.price_output is not None:
        facts["prices"] = Prices(settings.price_input, settings.price_output)
    known = {key: value for key, value in facts.items() if value is not None}
    if settings.kind == "scripted":
        return profile_for("scripted", **{"native_tools": True, **known})
    return profile_for(_vendor(name, settings)[1], **known)


def dialect_name(setting: str, model: Model) -> str:
    """Return the dialect that a model is to be spoken to in: empty for native tool calls."""
    return dialect_for(setting, model.profile)


def dialect_for(setting: str, profile: ModelProfile) -> str:
    """Return the dialect of a model of which this is known: empty for native tool calls."""
    if setting:
        return "" if setting == NATIVE else setting
    return "" if profile.native_tools else profile.dialect


def preload(config: Config) -> None:
    """Import what the first run would have to wait for."""
    from contextlib import suppress
    from importlib import import_module

    wanted = ["agent.base", "engines.chat", "engines.interaction", "engines.plan"]
    if any(each.kind == "openai" for each in config.models.values()):
        wanted.append("models.openai")
    for name in wanted:
        import_module(f"stepwell.{name}")
    if config.mcp_server.enabled:
        # Before a thread imports the SDK for servers of MCP: its modules import each other, and two threads that begin
        # at different ones meet halves of them. What is not installed is told where the route is made.
        with suppress(ImportError):
            import_module("stepwell.server.mcp.sessions")
    for vendor in {_vendor("", each)[0] for each in config.models.values()} - {""}:
        # What is not installed is told when the model is asked for.
        with suppress(ImportError):
            import_module("stepwell.models.providers")
            import_module(f"pydantic_ai.models.{vendor}")


def engine_versions(dialect: Dialect | None, engine: str = "chat", *, delegates: bool = False) -> dict[str, str]:
    """Return what replay compares: constants of the engine and hashes of templates, by name.

    Args:
        dialect: How the model is spoken to; None for native calls.
        engine: The engine's name.
        delegates: Whether tasks may be given to other agents, whatever the engine.
    """
    from stepwell.engines import chat

    constants = chat.constants()
    if engine != "chat" or delegates:
        from stepwell.engines import react

        constants |= react.constants()
    if engine in ("plan", "interaction"):
        from stepwell.engines import plan

        constants |= plan.constants()
    if engine == "interaction":
        from stepwell.engines import choices

        constants |= choices.constants()
    return {**constants, **({f"prompt.{dialect.name}": dialect.digest} if dialect else {})}


def completer(model: Model, model_name: str = "") -> Complete:
    """Return a function that asks a model one plain question, for tools that need one."""
    from stepwell.errors import ToolError
    from stepwell.messages import Message, Transcript
    from stepwell.models.base import ModelRequest

    async def complete(question: str) -> str:
        text: list[str] = []
        async for delta in model.stream(ModelRequest(Transcript([Message("user", question)]), model=model_name)):
            text.append(delta.text)
            if delta.failure is not None and delta.stop is not None:
                raise ToolError(f"The model that helps this tool failed: {delta.failure.message}")
        return "".join(text)

    return complete


def agent_options(config: Config) -> AgentOptions:
    """Return the options of an agent as the settings have them."""
    from stepwell.agent.options import (
        AgentOptions,
        ExecutionOptions,
        ExperimentOptions,
        ImageOptions,
        MultimodalOptions,
        SummaryOptions,
    )

    execution, image = config.execution, config.multimodal.image
    summary = SummaryOptions(**execution.summary.model_dump(exclude={"model"}))
    return AgentOptions(
        execution=ExecutionOptions(max_message_tokens=execution.max_message_tokens or 0, summary=summary),
        multimodal=MultimodalOptions(image=ImageOptions(enable=image.enable, model=image.model)),
        experiment=ExperimentOptions(**config.experiment.model_dump()),
    )


def context_of(
    options: AgentOptions, profile: ModelProfile, max_tokens: int | None, seeing: ModelProfile | None = None
) -> ContextSpec:
    """Return what decides about the contents of a run's requests."""
    from importlib.util import find_spec

    from stepwell.agent.options import context_spec

    if profile.tokenizer and find_spec("bpe_openai") is None:
        import msgspec

        # A replay has to count as the run did, whatever is installed by then.
        profile = msgspec.structs.replace(profile, tokenizer="")
    return context_spec(options, profile, max_tokens, seeing)


def check_tools(context: ContextSpec, specs: ToolSpecs) -> None:
    """Check that a model's window holds the tools' descriptions, with room for a conversation.

    Raises:
        ConfigError: It does not; names the size of the largest tool and of all.
    """
    from stepwell.tokens import Counter

    room = (context.window - context.reserve) * 9 // 10
    if Counter().tools(specs) <= room:
        return
    counter = Counter(context.tokenizer)
    tokens = counter.tools(specs)
    # Few tokenizers need more than half a token for a byte, and then the endpoint has the last word.
    if tokens > (room if context.tokenizer else 2 * room):
        largest, name = max((counter.tools(type(specs)([each])), each.name) for each in specs)
        raise ConfigError(
            f"the model's window of {context.window} tokens does not hold the descriptions of its tools, which take up "
            f"to {tokens}; the largest, `{name}`, takes {largest}. Leave tools out or use a model with a larger window"
        )


def summarizer(model: Model, model_name: str = "", other: str = "") -> Callable[[], Summaries]:
    """Return a function that makes what makes summaries with this model; see `agent.summaries.Summaries`."""
    from stepwell.agent.summaries import Summaries

    return lambda: Summaries(model, model_name, other)
