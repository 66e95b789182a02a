"""Builds the engine of a run from its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from stepwell.wiring.parts import make_dialect

if TYPE_CHECKING:
    from stepwell.agent.accounts import Accounts
    from stepwell.agent.base import BaseAgent
    from stepwell.agent.summaries import Summaries
    from stepwell.engines.base import Engine
    from stepwell.engines.calls import Calls
    from stepwell.engines.delegating import Assemble, Delegate
    from stepwell.engines.react import ReactEngine
    from stepwell.log import Log
    from stepwell.messages import ToolSpecs
    from stepwell.models.base import Model
    from stepwell.specs import RunSpec
    from stepwell.tools.base import Complete, Toolbox

NO_EXTRA: Mapping[str, object] = MappingProxyType({})


class _Parts:
    """What engines are made of, imported with the first, once for all runs: an import costs a look-up each time."""

    def __init__(self) -> None:
        from stepwell.agent.base import BaseAgent
        from stepwell.agent.options import AgentOptions
        from stepwell.agent.replies import ReplySchema
        from stepwell.engines.calls import Calls
        from stepwell.engines.chat import ChatEngine
        from stepwell.models.base import Settings
        from stepwell.tools.builtin.recall import recall_tool

        self.agent, self.options, self.form = BaseAgent, AgentOptions(), ReplySchema
        self.calls, self.engine, self.settings = Calls, ChatEngine, Settings
        self.recall = recall_tool()


_parts = cache(_Parts)


class EngineMaker:
    """Makes an engine for each run of a spec; the form of the final answer may differ from run to run.

    Args:
        spec: How the runs go.
        model: Who answers.
        toolbox: What the agent may call.
        complete: Asks a model one plain question, for tools that need one.
        extra: Further fields of each request's body.
        image_model: Asked instead where a request holds images and `model` does not see.
        summaries: Makes what makes summaries of a run; None for none.
        accounts: The accounts of API keys; None where nobody pays together.
        delegate: Says how another agent does a task that one gives it; None where there are no others.
        assemble: Builds the engine of such a task.
    """

    def __init__(
        self,
        spec: RunSpec,
        model: Model,
        toolbox: Toolbox,
        complete: Complete | None,
        extra: Mapping[str, object] = NO_EXTRA,
        *,
        image_model: Model | None = None,
        summaries: Callable[[], Summaries] | None = None,
        accounts: Accounts | None = None,
        delegate: Delegate | None = None,
        assemble: Assemble | None = None,
    ) -> None:
        parts = self._parts = _parts()
        self._delegate, self._assemble = delegate, assemble
        self._spec, self._model, self._image_model = spec, model, image_model
        self._complete, self._summaries, self._accounts = complete, summaries, accounts
        self._dialect = make_dialect(spec.dialect, spec.prompt, spec.language) if spec.dialect else None
        stop, rest = _stop_texts(extra)
        self._settings = parts.settings(temperature=spec.temperature, max_tokens=spec.max_tokens, stop=stop, extra=rest)
        self._specs, recall = toolbox.specs, parts.recall
        self._recall = recall.spec if toolbox.names else None
        self._toolbox = toolbox.including(recall) if toolbox.names else toolbox

    def __call__(self, run: RunSpec) -> Engine:
        """Return the engine of one run."""
        match run.engine:
            case "chat":
                output = self._parts.form(**run.output) if run.output else None
                engine = self._parts.engine(self._agent, self._toolbox, self._complete, output)
                if self._delegate is not None:
                    engine.calls = self._calls()
                return engine
            case "react":
                return self._react()
            case "plan":
                return self._plan()
            case "interaction":
                from stepwell.engines.interaction import InteractionEngine

                return InteractionEngine(self._front, self._plan)

    def _react(self) -> ReactEngine:
        from stepwell.agent.task_agents import ToolAgent
        from stepwell.engines.react import ReactEngine

        return ReactEngine(lambda log: self._made(ToolAgent, log), self._calls())

    def _calls(self) -> Calls:
        return self._parts.calls(self._toolbox, self._complete, self._delegate, self._assemble)

    def _plan(self) -> Engine:
        from stepwell.agent.task_agents import PlanAgent
        from stepwell.engines.plan import PlanEngine

        return PlanEngine(lambda log: self._made(PlanAgent, log), self._react)

    def _agent(self, log: Log) -> BaseAgent:
        return self._made(self._parts.agent, log)

    def _front(self, log: Log) -> BaseAgent:
        """Return an agent that talks and has no tools."""
        from stepwell.messages import NO_TOOLS

        return self._made(self._parts.agent, log, NO_TOOLS)

    def _made(self, kind: Any, log: Log, tools: ToolSpecs | None = None) -> Any:
        return kind(
            self._parts.options,
            self._spec.system,
            "",
            default_replies=None,
            model=self._model,
            tools=self._specs if tools is None else tools,
            log=log,
            dialect=self._dialect,
            settings=self._settings,
            model_name=self._spec.model_name,
            image_model=self._image_model,
            recall=self._recall if tools is None else None,
            summaries=self._summaries() if self._summaries else None,
            accounts=self._accounts,
        )


def _stop_texts(extra: Mapping[str, object]) -> tuple[tuple[str, ...], dict[str, object]]:
    """Return the texts that end a reply, to which dialects add their own, and the other fields of a request's body."""
    stop: Any = extra.get("stop") or ()
    return (stop,) if isinstance(stop, str) else tuple(stop), {n: v for n, v in extra.items() if n != "stop"}
