"""Puts the parts of a `library.Agent` together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from stepwell.errors import ConfigError, RunFailed
from stepwell.wiring.engine import EngineMaker
from stepwell.wiring.parts import (
    check_tools,
    completer,
    context_of,
    dialect_name,
    engine_versions,
    make_dialect,
    make_store,
    summarizer,
)

if TYPE_CHECKING:
    from os import PathLike

    from stepwell.agent.options import AgentOptions
    from stepwell.agent.replies import Output
    from stepwell.agent.report import ContextReport
    from stepwell.engines.base import Engine
    from stepwell.messages import Message
    from stepwell.models.base import Model
    from stepwell.runs.service import RunService
    from stepwell.specs import EngineName, Prices, Rule, RunSpec, TaskOptions
    from stepwell.state.thread import State
    from stepwell.tools.base import Tool, Toolbox


def user_message(text: str, images: Sequence[str] = ()) -> Message:
    """Return a user's message.

    Raises:
        InputError: An image is none, or too large.
    """
    from stepwell.messages import Image, Message, clean

    if not images:
        return Message("user", clean(text))
    from stepwell.images import check

    shown = tuple(Image(url) for url in images)
    for index, image in enumerate(shown):
        check(image, field=f"images.{index}")
    return Message("user", clean(text), shown)


def answer_form(given: object) -> Output:
    """Return the form of an answer and what becomes of it; see `agent.replies.output_of`.

    Raises:
        ConfigError: It describes no answer.
    """
    from stepwell.agent.replies import output_of

    return output_of(given)


def with_output(spec: RunSpec, form: Output | None) -> RunSpec:
    """Return how a run goes whose answer has this form.

    Raises:
        ConfigError: A tool has the form's name.
    """
    if form is None:
        return spec
    import msgspec

    name = form.schema.name
    if name in spec.tools:
        raise ConfigError(f"output: there is a tool named {name!r}, and a model gives its answer by that name.")
    return msgspec.structs.replace(spec, output=msgspec.structs.asdict(form.schema))


def answer_object(form: Output, text: str) -> object:
    """Return the answer of a run as the object that was asked for.

    Raises:
        RunFailed: The text fits the form's schema and not its type, or was cut.
    """
    from stepwell.agent.replies import Fault, validate

    found = validate(form, text)
    if isinstance(found, Fault):
        raise RunFailed(f"The model's answer does not fit {form.schema.name}: {found.reason}", "invalid_output")
    return found.value


def answer_text(state: State) -> str:
    """Return what the agent said last, which is the answer of a run that ended with one."""
    last = next((each for each in reversed(state.transcript) if each.role == "assistant"), None)
    return last.content if last is not None else ""


async def pin_fact(service: RunService, owner: str, thread: str, text: str) -> None:
    """Pin a fact; see `runs.contexts.pin`."""
    from stepwell.runs.contexts import pin

    await pin(service, owner, thread, text)


async def context_report(
    service: RunService, owner: str, thread: str, run: int, step: int, agent: str
) -> ContextReport:
    """Return what a request held; see `runs.contexts.context`."""
    from stepwell.runs.contexts import context

    return await context(service, owner, thread, run=run, step=step, agent=agent)


class LibraryParts:
    """What one `library.Agent` is made of; the store is opened on first use.

    Args:
        model: Who answers.
        toolbox: What it may call.
        spec: How its runs go.
        path: The database file; None keeps threads in memory.
        summary_model: Who makes summaries; None for none.
        image_model: Who is asked where `model` does not see what is shown.
        tasks: How tasks and plans are carried out; None for the usual.
    """

    def __init__(
        self,
        model: Model,
        toolbox: Toolbox,
        spec: RunSpec,
        path: str | PathLike[str] | None,
        summary_model: Model | None = None,
        image_model: Model | None = None,
        tasks: TaskOptions | None = None,
    ) -> None:
        self._tasks = tasks
        self.model, self.spec = model, spec
        self._toolbox, self._path = toolbox, path
        self._summary_model, self._image_model = summary_model, image_model
        self._service: RunService | None = None
        self._loops: set[asyncio.AbstractEventLoop] = set()
        """Those in which the service is used."""
        self._lock = threading.Lock()
        self._make_engine: Callable[[RunSpec], Engine] | None = None

    def spec_for(self, engine: EngineName) -> RunSpec:
        """Return how a run of an engine goes.

        Raises:
            ConfigError: There is no such engine, or the options of its tasks are wrong.
            InputError: Under a limit of money something of the run has no known price.
        """
        spec = self.spec
        if engine != "chat":
            import msgspec

            spec = msgspec.structs.replace(spec, engine=engine, tasks=self._tasks, versions=self._versions(engine))
            _check_kept(spec)
        if spec.limits.money is not None:
            from stepwell.agent.accounts import check_money

            check_money(spec, image=self._image_model.profile if self._image_model else None)
        return spec

    def _versions(self, engine: EngineName) -> dict[str, str]:
        spec = self.spec
        return engine_versions(make_dialect(spec.dialect, spec.prompt, spec.language) if spec.dialect else None, engine)

    def service(self) -> RunService:
        """Return the run service, over the file or memory, in the running loop."""
        loop = asyncio.get_running_loop()
        if self._service is not None and loop in self._loops:
            return self._service
        with self._lock:
            return self._service_in(loop)

    def _service_in(self, loop: asyncio.AbstractEventLoop) -> RunService:
        from stepwell.runs.service import RunService
        from stepwell.store.memory import MemoryStore

        open_ones = {each for each in self._loops if not each.is_closed()}
        if self._service is None:
            store = MemoryStore() if self._path is None else make_store(self._path)
            self._service = RunService(store, self._assemble)
        elif not open_ones:
            self._service = self._service.moved()
        self._loops = {*open_ones, loop}
        return self._service

    def _assemble(self, spec: RunSpec) -> Engine:
        if self._make_engine is None:
            self._make_engine = EngineMaker(
                self.spec,
                self.model,
                self._toolbox,
                completer(self.model),
                image_model=self._image_model,
                summaries=summarizer(self._summary_model) if self._summary_model else None,
            )
        return self._make_engine(spec)

    async def close(self) -> None:
        """Close the store and the models' connections."""
        if self._service is not None:
            await self.service().stop()
            self._service, self._loops = None, set()
        for model in {id(each): each for each in (self.model, self._summary_model, self._image_model) if each}.values():
            await model.close()


class Endpoint(NamedTuple):
    """Where models are that are given by name; as the arguments of `library.Agent`."""

    base_url: str
    api_key: str
    window: int | None


class Manner(NamedTuple):
    """How an agent talks; as the arguments of `library.Agent`."""

    system: str
    dialect: str
    language: str
    temperature: float | None
    max_tokens: int | None


class Bounds(NamedTuple):
    """What its runs may do; as the arguments of `library.Agent`."""

    max_steps: int | None
    max_seconds: float | None
    max_money: float | None
    prices: Prices | None
    approvals: Sequence[Rule]
    people: bool
    tasks: TaskOptions | None


class Helpers(NamedTuple):
    """Models beside its own; as the arguments of `library.Agent`."""

    summaries: bool
    summary_model: str | Model | None
    image_model: str | Model | None


def library_parts(
    model: str | Model,
    tools: Sequence[Tool | Callable[..., Any]],
    path: str | PathLike[str] | None,
    endpoint: Endpoint,
    manner: Manner,
    bounds: Bounds,
    helpers: Helpers,
) -> LibraryParts:
    """Put the parts of a `library.Agent` together; see there for arguments and errors."""
    import msgspec

    from stepwell.specs import TaskOptions
    from stepwell.tools.base import Toolbox

    toolbox, adapter = Toolbox(tools), _library_model(model, *endpoint)
    helper = adapter if helpers.summary_model is None else _library_model(helpers.summary_model, *endpoint)
    seeing = None if helpers.image_model is None else _library_model(helpers.image_model, *endpoint)
    options, profile = _options(helpers.summaries, seeing is not None), seeing.profile if seeing else None
    context = context_of(options, adapter.profile, manner.max_tokens, profile)
    check_tools(context, toolbox.specs)
    plain = _spec(model, dialect_name(manner.dialect, adapter), manner.language)
    talk = {"system": manner.system, "temperature": manner.temperature, "max_tokens": manner.max_tokens}
    may = _may(bounds, adapter)
    spec = msgspec.structs.replace(plain, tools=toolbox.names, context=context, **talk, **may)
    _check_kept(spec)
    if spec.language not in ("en", "zh"):
        raise ConfigError(f"`language` is en or zh, not {spec.language!r}")
    summing = helper if helpers.summaries else None
    return LibraryParts(adapter, toolbox, spec, path, summing, seeing, bounds.tasks or TaskOptions())


def _check_kept(spec: RunSpec) -> None:
    """Refuse what could not be read again from the log; a thread with such a run could not be gone on with."""
    import msgspec

    try:
        kept = msgspec.json.decode(msgspec.json.encode(spec), type=type(spec))
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise ConfigError(f"an argument of the agent has a wrong value: {error}") from error
    if kept.limits != spec.limits or kept.temperature != spec.temperature:
        raise ConfigError("a limit or the temperature is infinite or no number; None is for no limit")


def _may(bounds: Bounds, model: Model) -> dict[str, Any]:
    """Return what of a spec says what a run may do."""
    from stepwell.specs import Limits

    limits = Limits(steps=bounds.max_steps, seconds=bounds.max_seconds, money=bounds.max_money)
    may: dict[str, Any] = {"limits": limits, "approvals": tuple(bounds.approvals), "people": bounds.people}
    if bounds.max_money is None:
        return may
    return {**may, "prices": bounds.prices or model.profile.prices, "max_output": model.profile.max_output}


def _spec(model: str | Model, dialect: str, language: str) -> RunSpec:
    from stepwell.specs import RunSpec

    return RunSpec(
        model=model if isinstance(model, str) else type(model).__name__,
        dialect=dialect,
        language=language,
        face="library",
        versions=engine_versions(make_dialect(dialect, "default", language) if dialect else None),
    )


def _options(summaries: bool, image_model: bool) -> AgentOptions:
    from stepwell.agent.options import (
        AgentOptions,
        ExecutionOptions,
        ImageOptions,
        MultimodalOptions,
        SummaryOptions,
    )

    return AgentOptions(
        execution=ExecutionOptions(summary=SummaryOptions(enable=summaries)),
        multimodal=MultimodalOptions(image=ImageOptions(model="image_model" if image_model else "")),
    )


def _library_model(model: str | Model, base_url: str, api_key: str, window: int | None) -> Model:
    if not isinstance(model, str):
        if not callable(getattr(model, "stream", None)):
            raise ConfigError(f"`model` is a name or a `Model`, not {type(model).__name__}")
        return model
    if base_url:
        from stepwell.models.openai import OpenAIModel
        from stepwell.models.profiles import profile_for

        facts = {} if window is None else {"window": window}
        return OpenAIModel(base_url, model, api_key=api_key, profile=profile_for(model, **facts))
    if model not in ("", "offline"):
        raise ConfigError(f"model {model!r} needs `base_url`, the address of its endpoint; `offline` needs none")
    from stepwell.models.offline import OfflineModel

    return OfflineModel()
