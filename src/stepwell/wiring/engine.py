"""Builds the engine of a run from its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from stepwell.wiring.parts import make_dialect

if TYPE_CHECKING:
    from stepwell.agent.base import BaseAgent
    from stepwell.agent.summaries import Summaries
    from stepwell.engines.base import Engine
    from stepwell.models.base import Model
    from stepwell.specs import RunSpec
    from stepwell.state import Log
    from stepwell.tools.base import Complete, Toolbox

NO_EXTRA: Mapping[str, object] = MappingProxyType({})


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
    ) -> None:
        # Once for all runs: an import costs a look-up each time.
        from stepwell.agent.base import BaseAgent
        from stepwell.agent.replies import ReplySchema
        from stepwell.engines.chat import ChatEngine
        from stepwell.models.base import Settings
        from stepwell.tools.builtin.recall import recall_tool

        self._agent_type, self._engine_type, self._form_type = BaseAgent, ChatEngine, ReplySchema

        self._spec, self._model, self._image_model = spec, model, image_model
        self._complete, self._summaries = complete, summaries
        self._dialect = make_dialect(spec.dialect, spec.prompt, spec.language) if spec.dialect else None
        self._settings = Settings(temperature=spec.temperature, max_tokens=spec.max_tokens, extra=dict(extra))
        self._specs, recall = toolbox.specs, recall_tool()
        self._recall = recall.spec if toolbox.names else None
        self._toolbox = toolbox.including(recall) if toolbox.names else toolbox

    def __call__(self, run: RunSpec) -> Engine:
        """Return the engine of one run."""
        output = self._form_type(**run.output) if run.output else None
        return self._engine_type(self._agent, self._toolbox, self._complete, output)

    def _agent(self, log: Log) -> BaseAgent:
        return self._agent_type(
            None,
            self._spec.system,
            "",
            default_replies=None,
            model=self._model,
            tools=self._specs,
            log=log,
            dialect=self._dialect,
            settings=self._settings,
            model_name=self._spec.model_name,
            image_model=self._image_model,
            recall=self._recall,
            summaries=self._summaries() if self._summaries else None,
        )
