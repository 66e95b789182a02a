"""Puts the parts of a `library.Agent` together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from stepwell.errors import ConfigError
from stepwell.wiring.parts import chat_engine, completer, dialect_name, engine_versions, make_dialect, make_store

if TYPE_CHECKING:
    from os import PathLike

    from stepwell.engines.base import Engine
    from stepwell.events import RunSpec
    from stepwell.messages import Message
    from stepwell.models.base import Model
    from stepwell.runs.service import RunService
    from stepwell.tools.base import Tool, Toolbox


def user_message(text: str, images: Sequence[str] = ()) -> Message:
    """Return a user's message."""
    from stepwell.messages import Image, Message, clean

    return Message("user", clean(text), tuple(Image(url) for url in images))


class LibraryParts:
    """What one `library.Agent` is made of; the store is opened on first use.

    Args:
        model: Who answers.
        toolbox: What it may call.
        spec: How its runs go.
        path: The database file; None keeps threads in memory.
    """

    def __init__(self, model: Model, toolbox: Toolbox, spec: RunSpec, path: str | PathLike[str] | None) -> None:
        self.model, self.spec = model, spec
        self._toolbox, self._path = toolbox, path
        self._service: RunService | None = None
        self._engine: Engine | None = None

    def service(self) -> RunService:
        """Return the run service, over the file or memory."""
        if self._service is None:
            from stepwell.runs.service import RunService
            from stepwell.store.memory import MemoryStore

            store = MemoryStore() if self._path is None else make_store(self._path)
            self._service = RunService(store, self._assemble)
        return self._service

    def _assemble(self, _: RunSpec) -> Engine:
        if self._engine is None:
            self._engine = chat_engine(self.spec, self.model, self._toolbox, completer(self.model))
        return self._engine

    async def close(self) -> None:
        """Close the store and the model's connections."""
        if self._service is not None:
            await self._service.stop()
            self._service = None
        await self.model.close()


def library_parts(
    model: str | Model,
    *,
    base_url: str,
    api_key: str,
    system: str,
    tools: Sequence[Tool | Callable[..., Any]],
    path: str | PathLike[str] | None,
    dialect: str,
    language: str,
    temperature: float | None,
    max_tokens: int | None,
    max_steps: int | None,
    max_seconds: float | None,
    window: int | None,
) -> LibraryParts:
    """Put the parts of a `library.Agent` together; see there for the arguments.

    Raises:
        ConfigError: An argument is wrong.
    """
    from stepwell.events import Limits, RunSpec
    from stepwell.tools.base import Toolbox

    toolbox = Toolbox(tools)
    adapter = _library_model(model, base_url, api_key, window) if isinstance(model, str) else model
    name = dialect_name(dialect, adapter)
    spec = RunSpec(
        model=model if isinstance(model, str) else type(model).__name__,
        dialect=name,
        language=language,
        system=system,
        tools=toolbox.names,
        temperature=temperature,
        max_tokens=max_tokens,
        limits=Limits(steps=max_steps, seconds=max_seconds),
        face="library",
        versions=engine_versions(make_dialect(name, "default", language) if name else None),
    )
    return LibraryParts(adapter, toolbox, spec, path)


def _library_model(model: str, base_url: str, api_key: str, window: int | None) -> Model:
    if base_url:
        from stepwell.models.openai import OpenAIModel
        from stepwell.models.profiles import profile_for

        facts = {} if window is None else {"window": window}
        return OpenAIModel(base_url, model, api_key=api_key, profile=profile_for(model, **facts))
    if model not in ("", "offline"):
        raise ConfigError(f"model {model!r} needs `base_url`, the address of its endpoint; `offline` needs none")
    from stepwell.models.offline import OfflineModel

    return OfflineModel()
