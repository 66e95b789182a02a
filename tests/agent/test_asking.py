"""Asking in a dialect: an endpoint that keeps replies to a JSON schema is given the dialect's, and no other is."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec

from stepwell.agent.replies import output_of
from stepwell.engines.base import Engine
from stepwell.events import MessageEnded, Recorded, RunEnded, ToolEnded
from stepwell.models.base import Model, ModelProfile
from stepwell.models.openai import OpenAIModel
from stepwell.runs.replay import replay
from stepwell.specs import RunSpec
from stepwell.store.memory import MemoryStore
from stepwell.tools.base import Toolbox
from stepwell.tools.mark import tool
from stepwell.wiring.engine import EngineMaker
from tests.support.endpoint import Endpoint, Reply, error, text
from tests.support.runs import WAIT, Rig, answer_of, bounded, end_of, events_of

KEEPS, PLAIN = ModelProfile(json_mode=True, native_tools=False), ModelProfile(native_tools=False)


class Total(msgspec.Struct):
    """The sum."""

    total: int


@tool(effect="pure")
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Parts:
    """What engines are made of, in a run and in its replay."""

    def __init__(self, profile: ModelProfile) -> None:
        self._profile = profile

    def versions(self, spec: RunSpec) -> dict[str, str]:
        return {}

    def toolbox(self, spec: RunSpec) -> Toolbox:
        return Toolbox([add] if spec.tools else [])

    def engine(self, spec: RunSpec, model: Model, toolbox: Toolbox) -> Engine:
        model.profile = self._profile
        return EngineMaker(spec, model, toolbox, None, spec.sampling)(spec)


class Asking(Rig):
    """A service whose runs are put together as programs' runs are."""

    def assemble(self, spec: RunSpec) -> Engine:
        parts = Parts(self.model.profile)
        return parts.engine(spec, self.model, parts.toolbox(spec))


def said(**step: Any) -> Reply:
    return text(*json.dumps(step, indent=2))


CALLS = said(thought="I add.", action="add", action_input={"a": 1, "b": 2})
ANSWERS = said(thought="I know.", action="Final Answer", action_input="It is 3.")


def play(
    script: list[Reply], profile: ModelProfile = KEEPS, **spec: Any
) -> tuple[list[Recorded], list[dict[str, Any]]]:
    """Carry a run out and return its log and what the endpoint was sent; no replay of the log differs."""
    out: list[tuple[list[Recorded], list[dict[str, Any]]]] = []

    async def main() -> None:
        async with Endpoint(script) as endpoint:
            model = OpenAIModel(endpoint.base_url, "m", profile=profile)
            made = Asking(MemoryStore(), model)
            log = await made.ended(await made.start(**{"dialect": "structured", "tools": ("add",), **spec}))
            await made.service.stop(0.0)
            await model.close()
            out.append((log, [request.body for request in endpoint.requests]))
        for now in () if "output" in spec else (KEEPS, PLAIN):
            async with asyncio.timeout(WAIT):
                assert await replay(log, Parts(now)) is None

    bounded(main)
    return out[0]


def schema_of(body: dict[str, Any]) -> dict[str, Any]:
    form = body["response_format"]
    assert form["type"] == "json_schema"
    return form["json_schema"]["schema"]


def test_an_endpoint_that_keeps_to_schemas_is_given_that_of_a_step() -> None:
    log, sent = play([CALLS, ANSWERS])
    assert end_of(log) == RunEnded("answer")
    assert answer_of(log) == "It is 3."
    assert [each.content for each in events_of(log, ToolEnded)] == ["3"]
    assert [each.message.thinking for each in events_of(log, MessageEnded)] == ["I add.", "I know."]
    for body in sent:
        called, answered = schema_of(body)["anyOf"]
        assert list(called["properties"]) == ["thought", "action", "action_input"]
        assert called["properties"]["action"] == {"const": "add"}
        assert called["properties"]["action_input"]["required"] == ["a", "b"]
        assert answered["properties"]["action"] == {"const": "Final Answer"}
        assert answered["properties"]["action_input"] == {"type": "string"}
        assert "tools" not in body


def test_no_other_request_has_a_schema() -> None:
    for profile, spec, answer in (
        (PLAIN, {}, ANSWERS),
        (KEEPS, {"tools": ()}, text("It is 3.")),
        (KEEPS, {"dialect": "react"}, text("Final Answer: It is 3.")),
        (KEEPS, {"dialect": "hermes"}, text("It is 3.")),
        (KEEPS, {"dialect": "xml"}, text("It is 3.")),
        (KEEPS, {"dialect": "glm3"}, text("It is 3.")),
        (KEEPS, {"dialect": "qwen"}, text("Final Answer: It is 3.")),
    ):
        log, (body,) = play([answer], profile, **spec)
        assert answer_of(log) == "It is 3."
        assert "response_format" not in body


def test_a_form_that_a_request_brings_is_sent_as_it_stands() -> None:
    own = {"type": "json_object"}
    log, (body,) = play([ANSWERS], sampling={"response_format": own})
    assert answer_of(log) == "It is 3."
    assert body["response_format"] == own


def test_an_answer_of_a_form_is_kept_to_it_while_tools_can_be_called() -> None:
    form = msgspec.structs.asdict(output_of(Total).schema)
    final = said(thought="", action="Final Answer", action_input={"total": 3})
    log, sent = play([CALLS, final], output=form)
    assert end_of(log) == RunEnded("answer")
    assert json.loads(answer_of(log)) == {"total": 3}
    for body in sent:
        _, answered = schema_of(body)["anyOf"]
        wanted = {"type": "object", "properties": {"total": {"type": "integer"}}, "required": ["total"]}
        assert answered["properties"]["action_input"] == wanted


def test_what_has_to_be_called_first_is_all_that_the_schema_allows() -> None:
    for choice in ("required", "add"):
        _, sent = play([CALLS, ANSWERS], tool_choice=choice)
        assert [len(schema_of(body)["anyOf"]) for body in sent] == [1, 2]


def test_an_endpoint_that_refuses_the_schema_ends_the_run_with_its_words() -> None:
    log, _ = play([error(400, "response_format is not supported")])
    end = end_of(log)
    assert (end.reason, end.cause) == ("failed", "request")
    assert "response_format is not supported" in end.detail
