"""What the settings offer, by name: models, tools, and how a run should go."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import msgspec

from stepwell.agent.accounts import Accounts, check_money
from stepwell.config import OFFLINE, Config, HelperSettings, ModelSettings, ThreadLimitSettings
from stepwell.engines.base import Engine
from stepwell.errors import ConfigError, InputError
from stepwell.models.base import Model, ModelProfile
from stepwell.plans import Task
from stepwell.prompts import load
from stepwell.runs.catalog import ModelInfo, ToolInfo, Wish
from stepwell.specs import ContextSpec, EngineName, Limits, RunSpec, TaskOptions
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
from stepwell.wiring.tools import DELEGATING, approval_rules, asking_tools, chatchat_tools, configured_tools

if TYPE_CHECKING:
    from stepwell.agent.summaries import Summaries

BOXES = 256
"""Toolboxes kept, one for each list of names that clients ask for."""
NAME = 80
"""Characters of the name of a task that one agent gives another."""

_CHINESE = re.compile(r"[\u3400-\u9fff]")

L = TypeVar("L", int, float)


class ConfigCatalog:
    """Models and tools of the settings; models are built when they are first needed and kept.

    Args:
        config: The settings.
        accounts: The accounts of API keys; None where nobody pays together.

    Raises:
        ConfigError: A tool cannot be built as the settings say.
    """

    def __init__(self, config: Config, accounts: Accounts | None = None) -> None:
        self._config, self._options, self._accounts = config, agent_options(config), accounts
        self._models: dict[str, Model] = {}
        self._tools = {tool.spec.name: tool for tool in configured_tools(config)}
        self._asks = asking_tools(config)
        self._rules = approval_rules(config)
        self._tasks = TaskOptions(**config.tasks.model_dump())
        self._thread_limits = _given_limits(config.limits.thread)
        self._chatchat = {tool.spec.name: tool for tool in chatchat_tools(self._tools.values())}
        self._profiles: dict[str, ModelProfile] = {}
        self._versions: dict[tuple[str, str, str, str, bool], dict[str, str]] = {}
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
        helpers = ((f"agents.{name}.tools", each.tools) for name, each in self._config.agents.items())
        for place, names in (("agent.tools", agent.tools), *helpers):
            unknown = [name for name in names or () if name not in self._tools | self._asks]
            if unknown:
                known = ", ".join(self._tools) or "none"
                raise ConfigError(f"{place}: there is no tool {', '.join(unknown)}; known: {known}")
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
        engine = engine_of(wish)
        _check_engine(engine, wish, self._settings(name))
        tools = self._tool_names(wish, engine)
        dialect = self._dialect(wish, name)
        digests = self._versions_of(dialect, prompt, language, engine, DELEGATING in tools)
        context = self._context(name, wish.max_tokens or agent.max_tokens)
        self._check_tools(context, tools)
        paid = self._profile(name, self._settings(name)) if not model_name else self._profile_of_name(model_name)
        spec = RunSpec(
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
            people=wish.people,
            engine=engine,
            tasks=None if engine == "chat" else wish.tasks or self._tasks,
            key=wish.key,
            versions=digests,
            **self._bounds(wish, paid),
        )
        self._check_money(spec)
        return spec

    def delegate(self, parent: RunSpec, name: str, task: str) -> tuple[Task, RunSpec] | None:
        """Return what another agent is to do and how it goes, or None where the settings do not have the agent.

        Args:
            parent: How the agent goes that gives the task; what the settings do not say is as there.
            name: Of the agent.
            task: In words.
        """
        helper = self._config.agents.get(name)
        if helper is None:
            return None
        line = " ".join(task[:400].split())
        options = parent.tasks or self._tasks
        steps = helper.max_chain_length or options.max_chain_length
        spec = msgspec.structs.replace(
            parent,
            agent=name,
            engine="react",
            system=helper.system or parent.system,
            tools=parent.tools if helper.tools is None else tuple(dict.fromkeys(helper.tools)),
            tasks=msgspec.structs.replace(options, max_chain_length=steps),
            output=None,
            versions={},
            **self._model_of(helper, parent),
        )
        return Task(id="1", name=line if len(line) <= NAME else line[: NAME - 1] + "…", goal=task), spec

    def _model_of(self, helper: HelperSettings, parent: RunSpec) -> dict[str, Any]:
        """Return what follows from an agent's having another model than the one that gives it a task."""
        if helper.model in ("", parent.model):
            return {}
        settings = self._settings(helper.model)
        profile = self._profile(helper.model, settings)
        return {
            "model": helper.model,
            "model_name": "",
            "dialect": dialect_for(settings.dialect, profile),
            "prompt": self._config.agent.prompt,
            "context": self._context(helper.model, parent.max_tokens),
            "prices": profile.prices,
            "max_output": profile.max_output,
        }

    def _reached(self, spec: RunSpec) -> Iterator[RunSpec]:
        """Yield how a run goes, and how the agents go to which it may give tasks."""
        yield spec
        for name in self._config.agents if DELEGATING in spec.tools else ():
            found = self.delegate(spec, name, "-")
            if found is not None:
                yield found[1]

    def _check_money(self, spec: RunSpec, of_key: Limits | None = None) -> None:
        """Refuse a run under a limit of money some of whose calls have no known price."""
        limits = (spec.limits, spec.thread_limits, of_key)
        if any(each is not None and each.money is not None for each in limits):
            for each in self._reached(spec):
                check_money(each, of_key, image=self._seeing())

    def _bounds(self, wish: Wish, paid: ModelProfile) -> dict[str, Any]:
        """Return what a run may do by itself, and what its calls cost."""
        return {
            "approvals": self._rules,
            "question_seconds": self._config.approvals.seconds,
            "repetitions": self._config.limits.repetitions if wish.people else 0,
            "prices": paid.prices,
            "max_output": paid.max_output,
            "thread_limits": self._thread_limits,
        }

    async def admit(self, spec: RunSpec) -> None:
        """Refuse a run whose key has no means left; see the port."""
        account = await self._accounts.of(spec.key) if self._accounts is not None else None
        if account is not None:
            account.check()
            self._check_money(spec, account.limits)

    def _seeing(self) -> ModelProfile | None:
        other = self._options.multimodal.image.model
        return self._profile(other, self._settings(other)) if other else None

    def _profile_of_name(self, model_name: str) -> ModelProfile:
        """Return what is known of a model that is asked by another name than its settings have."""
        from stepwell.models.profiles import profile_for

        return profile_for(model_name)

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
            None if _counts_money(spec) else completer(helper, helper_name),
            self._settings(spec.model).extra,
            image_model=self._image_model(spec),
            summaries=self._summaries(spec, model),
            accounts=self._accounts,
            delegate=self.delegate if DELEGATING in spec.tools else None,
            assemble=self.assemble,
        )
        return make_engine(spec)

    def _image_model(self, spec: RunSpec) -> Model | None:
        name = spec.context.image_model if spec.context else ""
        return self._model(name) if name else None

    def _summaries(self, spec: RunSpec, model: Model) -> Callable[[], Summaries]:
        name = self._config.execution.summary.model
        return summarizer(self._model(name), other=name) if name else summarizer(model, spec.model_name)

    def _context(self, name: str, max_tokens: int | None) -> ContextSpec:
        found = self._contexts.get((name, max_tokens))
        if found is None:
            profile = self._profile(name, self._settings(name))
            found = context_of(self._options, profile, max_tokens, self._seeing())
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
            least(allowed.money, wished.money),
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

    def _dialect(self, wish: Wish, name: str) -> str:
        settings = self._settings(name)
        # The embedded model understands tool calls only; no wish makes it write a dialect.
        wished = "" if settings.kind == "offline" else wish.dialect
        return dialect_for(wished or settings.dialect, self._profile(name, settings))

    def _profile(self, name: str, settings: ModelSettings) -> ModelProfile:
        found = self._profiles.get(name)
        if found is None:
            found = self._profiles[name] = model_profile(name, settings)
        return found

    def _versions_of(self, dialect: str, prompt: str, language: str, engine: str, delegates: bool) -> dict[str, str]:
        """Return what replay compares; neither constants nor templates change while a process lives.

        Raises:
            InputError: There is no such dialect or prompt.
        """
        key = (dialect, prompt, language, engine, delegates)
        found = self._versions.get(key)
        if found is None:
            try:
                made = make_dialect(dialect, prompt, language) if dialect else None
            except ConfigError as error:
                raise InputError(str(error), "prompt") from error
            found = self._versions[key] = engine_versions(made, engine, delegates=delegates)
        return found

    def _tool_names(self, wish: Wish, engine: str = "chat") -> tuple[str, ...]:
        if wish.face == "chatchat" and wish.tools is None:
            return tuple(self._chatchat)
        names = self._config.agent.tools if wish.tools is None else wish.tools
        if names is None:
            # Whoever works on a task of its own has nobody to talk to but by asking.
            asks = tuple(self._asks) if engine != "chat" and wish.people else ()
            return tuple(dict.fromkeys((*self._tools, *asks)))
        known = self._tools | self._asks
        for index, name in enumerate(names):
            if name not in known:
                raise InputError(f"There is no tool {name!r}; known: {', '.join(known) or 'none'}.", f"tools.{index}")
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
            known = self._chatchat | self._asks | self._tools
            gone = [name for name in names if name not in known]
            if gone:
                raise ConfigError(f"tools of this run are no longer in the settings: {', '.join(gone)}")
            box = self._boxes[names] = Toolbox([known[name] for name in names])
        return box


def engine_of(wish: Wish) -> EngineName:
    """Return the engine that a wish asks for.

    Raises:
        InputError: There is no such engine.
    """
    known, wished = get_args(EngineName), wish.engine or "chat"
    if wished not in known:
        raise InputError(f"There is no engine {wished!r}; known: {', '.join(known)}.", "engine")
    return wished


def _check_engine(engine: EngineName, wish: Wish, model: ModelSettings) -> None:
    if engine == "chat":
        return
    if model.kind == "offline":
        raise InputError(f"The embedded model only talks; configure a model for the engine {engine}.", "engine")
    if wish.output is not None:
        raise InputError(f"The engine {engine} concludes in its own form; leave out `output`, or use chat.", "output")


def _counts_money(spec: RunSpec) -> bool:
    """Tell whether each call of a model has to be paid for from a limit: what tools ask for is in no log."""
    return spec.limits.money is not None or spec.thread_limits is not None or bool(spec.key)


def _given_limits(settings: ThreadLimitSettings) -> Limits | None:
    limits = Limits(settings.steps, settings.tool_calls, settings.tokens, settings.seconds, settings.money)
    return None if limits == Limits() else limits


@contextmanager
def _at(place: str) -> Generator[None]:
    """Tell the place of a setting that turns out wrong."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
