"""What the settings offer, by name: models, tools, and how a run should go."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import msgspec

from stepwell.agent.accounts import Accounts, check_money
from stepwell.config import AgentSettings, Config, HelperSettings, ModelSettings, ThreadLimitSettings
from stepwell.engines.base import Engine
from stepwell.errors import ConfigError, InputError
from stepwell.messages import ToolSpec, ToolSpecs
from stepwell.models.base import ModelProfile
from stepwell.plans import Task
from stepwell.prompts import load
from stepwell.runs.catalog import AgentInfo, ModelInfo, ToolInfo, Wish
from stepwell.specs import ContextSpec, EngineName, Limits, RunSpec, TaskOptions
from stepwell.tools.base import Tool, Toolbox
from stepwell.tools.client import ClientTool, check_client_tools
from stepwell.wiring.engine import EngineMaker
from stepwell.wiring.mcp import McpTools
from stepwell.wiring.models import ConfiguredModels
from stepwell.wiring.parts import (
    NATIVE,
    agent_options,
    check_tools,
    completer,
    dialect_for,
    engine_versions,
    make_dialect,
)
from stepwell.wiring.tools import DELEGATING, approval_rules, asking_tools, chatchat_tools, configured_tools

if TYPE_CHECKING:
    pass

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
        self._config, self._accounts = config, accounts
        self._named = ConfiguredModels(config, agent_options(config))
        self._own: dict[str, Tool] = {tool.spec.name: tool for tool in configured_tools(config)}
        self._asks = asking_tools(config)
        self._mcp = McpTools(config, frozenset(self._own) | frozenset(self._asks))
        self._offered: dict[str, Tool] = {}
        self._rules = approval_rules(config)
        self._tasks = TaskOptions(**config.tasks.model_dump())
        self._thread_limits = _given_limits(config.limits.thread)
        self._chatchat = {tool.spec.name: tool for tool in chatchat_tools(self._own.values())}
        self._versions: dict[tuple[str, str, str, str, bool], dict[str, str]] = {}
        self._boxes: dict[tuple[str, ...], Toolbox] = {}
        self._checked: set[tuple[ContextSpec, tuple[str, ...]]] = set()
        self._check()

    @property
    def _tools(self) -> dict[str, Tool]:
        """The tools that are on: our own, and those of MCP servers as they are now."""
        if self._mcp.moved() or not self._offered:
            self._offered = {**self._own, **self._mcp.on}
            self._boxes.clear()
            self._checked.clear()
        return self._offered

    async def start(self) -> None:
        """Connect the MCP servers; those that were never seen are waited for, for a bounded while.

        Raises:
            ConfigError: A variable that a server is to be given is not set.
        """
        if self._config.mcp:
            await self._mcp.start()

    def _check(self) -> None:
        """Find what would refuse every request, before the first one comes."""
        agent, old = self._config.agent, self._config.chatchat
        for name in self._config.models:
            with _at(f"models.{name}.dialect"):
                dialect = self._named.info(name).dialect
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
            unknown = [name for name in names or () if name not in self._own | self._asks]
            if unknown := [name for name in unknown if not self._mcp.may_come(name)]:
                known = ", ".join(self._tools) or "none"
                raise ConfigError(f"{place}: there is no tool {', '.join(unknown)}; known: {known}")
        first, names = self._config.model_names[0], self._tool_names(Wish(), "chat", agent.tools)
        # Tools of others must keep no server from starting.
        specs = self.toolbox(tuple(name for name in names if name in self._own)).specs
        with _at(f"models.{first}.window"):
            check_tools(self._named.context(first, agent.max_tokens), specs)

    def models(self) -> list[ModelInfo]:
        """Return the models, the default first."""
        return [self._named.info(name) for name in self._config.model_names]

    def agents(self) -> list[AgentInfo]:
        """Return the agents, the default first."""
        first = self._config.model_names[0]
        helpers = self._config.agents.items()
        return [
            AgentInfo("default", "", first),
            *(AgentInfo(name, each.description, each.model or first) for name, each in helpers),
        ]

    def tools(self) -> list[ToolInfo]:
        """Return the tools that are switched on."""
        return [ToolInfo(tool.spec, tool.effect) for tool in self._tools.values()]

    def spec(self, wish: Wish) -> RunSpec:
        """Return how a run should go; see the port."""
        agent, wish = self._agent(wish)
        name, model_name = self._named.find(wish)
        self._named.model(name)  # a missing key is told now, not by the run
        language, prompt = self._language(wish), wish.prompt or agent.prompt
        engine = engine_of(wish)
        _check_engine(engine, wish, self._named.settings(name))
        tools = self._tool_names(wish, engine, agent.tools)
        check_client_tools(wish.client_tools, frozenset(tools))
        dialect = self._named.dialect(wish, name)
        digests = self._versions_of(dialect, prompt, language, engine, DELEGATING in tools)
        context = self._named.context(name, wish.max_tokens or agent.max_tokens)
        self._check_tools(context, tools, wish.client_tools)
        paid = self._named.profile_of_name(model_name) if model_name else self._named.profile(name)
        spec = RunSpec(
            agent=wish.agent or "default",
            model=name,
            model_name=model_name,
            dialect=dialect,
            prompt=prompt,
            language=language,
            system=self._system(wish, language, agent.system),
            tools=tools,
            temperature=agent.temperature if wish.temperature is None else wish.temperature,
            max_tokens=wish.max_tokens or agent.max_tokens,
            limits=self._limits(wish.limits or Limits()),
            context=context,
            output=wish.output,
            face=wish.face,
            people=wish.people,
            engine=engine,
            tasks=None if engine == "chat" else wish.tasks or self._tasks_of(wish.agent),
            key=wish.key,
            versions=digests,
            **self._bounds(wish, paid),
        )
        self._check_money(spec)
        return spec

    def _agent(self, wish: Wish) -> tuple[AgentSettings, Wish]:
        """Return the settings of the wished agent, and the wish with the agent's model where it names none."""
        agent = self._config.agent
        if wish.agent in ("", "default"):
            return agent, wish
        helper = self._config.agents.get(wish.agent)
        if helper is None:
            known = ", ".join(("default", *self._config.agents))
            raise InputError(f"There is no agent {wish.agent!r}; known: {known}.", "agent")
        own = {"system": helper.system or agent.system, "tools": agent.tools if helper.tools is None else helper.tools}
        return agent.model_copy(update=own), msgspec.structs.replace(wish, model=wish.model or helper.model)

    def _tasks_of(self, name: str) -> TaskOptions:
        helper = self._config.agents.get(name)
        if helper is None or helper.max_chain_length is None:
            return self._tasks
        return msgspec.structs.replace(self._tasks, max_chain_length=helper.max_chain_length)

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
            tools=parent.tools if helper.tools is None else self._given(helper.tools),
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
        settings, profile = self._named.settings(helper.model), self._named.profile(helper.model)
        return {
            "model": helper.model,
            "model_name": "",
            "dialect": dialect_for(settings.dialect, profile),
            "prompt": self._config.agent.prompt,
            "context": self._named.context(helper.model, parent.max_tokens),
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
                check_money(each, of_key, image=self._named.seeing())

    def _bounds(self, wish: Wish, paid: ModelProfile) -> dict[str, Any]:
        """Return what the client brings, what a run may do by itself, and what its calls cost."""
        return {
            "client_tools": wish.client_tools,
            "tool_choice": wish.tool_choice,
            "sampling": wish.sampling,
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

    def _check_tools(self, context: ContextSpec, tools: tuple[str, ...], client: tuple[ToolSpec, ...] = ()) -> None:
        if not client and (context, tools) in self._checked:
            return
        try:
            check_tools(context, ToolSpecs((*self.toolbox(tools).specs, *client)))
        except ConfigError as error:
            raise InputError(f"{error}.".capitalize(), "tools") from error
        if len(self._checked) >= BOXES:
            self._checked.clear()
        if not client:
            self._checked.add((context, tools))

    def assemble(self, spec: RunSpec) -> Engine:
        """Build the engine of a run; see the port."""
        model, helper, helper_name = self._named.model(spec.model), self._named.model(spec.model), spec.model_name
        if spec.face == "chatchat" and self._config.chatchat.agent_model:
            name, helper_name = self._named.find(Wish(model=self._config.chatchat.agent_model, any_model=True))
            helper = self._named.model(name)
        make_engine = EngineMaker(
            spec,
            model,
            self.toolbox_of(spec),
            None if _counts_money(spec) else completer(helper, helper_name),
            {**self._named.settings(spec.model).extra, **spec.sampling},
            image_model=self._named.image_model(spec),
            summaries=self._named.summaries(spec, model),
            accounts=self._accounts,
            delegate=self.delegate if DELEGATING in spec.tools else None,
            assemble=self.assemble,
        )
        return make_engine(spec)

    async def close(self) -> None:
        """Let go of connections."""
        await self._named.close()
        await self._mcp.close()

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

    def _system(self, wish: Wish, language: str, own: str) -> str:
        if wish.system is not None:
            return wish.system
        return own or load("system", "default", language).render()

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

    def _tool_names(self, wish: Wish, engine: str, own: Sequence[str] | None) -> tuple[str, ...]:
        if wish.face == "chatchat" and wish.tools is None:
            return tuple(self._chatchat)
        if wish.tools is None and own is not None:
            return self._given(own)
        tools = self._tools
        if wish.tools is None:
            # Whoever works on a task of its own has nobody to talk to but by asking.
            asks = tuple(self._asks) if engine != "chat" and wish.people else ()
            return tuple(dict.fromkeys((*tools, *asks)))
        known = tools | self._asks
        for index, name in enumerate(wish.tools):
            if name not in known:
                listed = ", ".join(known) or "none"
                raise InputError(f"There is no tool {name!r}; known: {listed}.", f"tools.{index}")
        return tuple(dict.fromkeys(wish.tools))

    def _given(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the tools of these names in the settings, without those of MCP servers that are off."""
        known = self._tools | self._asks
        return tuple(dict.fromkeys(name for name in names if name in known))

    def toolbox_of(self, spec: RunSpec) -> Toolbox:
        """Return the tools of a run, those of its client among them; see `toolbox`."""
        box = self.toolbox(spec.tools)
        return Toolbox([*box.tools, *map(ClientTool, spec.client_tools)]) if spec.client_tools else box

    def toolbox(self, names: tuple[str, ...]) -> Toolbox:
        """Return the tools of these names, kept for later runs.

        Raises:
            ConfigError: One of them is no longer in the settings.
        """
        tools = self._tools
        box = self._boxes.get(names)
        if box is None:
            if len(self._boxes) >= BOXES:
                self._boxes.clear()
            known = {**self._chatchat, **self._asks, **self._mcp.known, **tools}
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
