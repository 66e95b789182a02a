"""Images from users and tools: who is shown them, what they cost, and how the oldest give way."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import pytest

from stepwell.agent.base import BaseAgent, ToolOutput
from stepwell.agent.budget import meter
from stepwell.agent.memory import MemoryLog
from stepwell.agent.options import AgentOptions, ExecutionOptions, ImageOptions, MultimodalOptions, context_spec
from stepwell.engines.base import Engine
from stepwell.events import ContextCompacted, Recorded, StepStarted, ToolEnded, WindowLearned
from stepwell.messages import Image, Message, ToolSpec, ToolSpecs, Transcript
from stepwell.models.base import Failure, Model, ModelProfile, ModelRequest
from stepwell.models.scripted import Answer, ScriptedModel, call, reply
from stepwell.runs.contexts import context_of
from stepwell.runs.replay import replay
from stepwell.runs.service import NewThread
from stepwell.specs import ContextSpec, RunSpec
from stepwell.store.memory import MemoryStore
from stepwell.tools.base import Media, Toolbox
from stepwell.tools.mark import tool
from stepwell.wiring.engine import EngineMaker
from tests.support.asking import collect, model_at
from tests.support.audit import audit
from tests.support.endpoint import Endpoint, text
from tests.support.runs import OWNER, Rig, bounded, end_of, events_of


def png(side: int, shade: int = 0) -> bytes:
    """Return a grey picture of this many pixels a side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes([shade]) * side) * side)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def image(shade: int = 0, side: int = 56) -> Image:
    return Image(f"data:image/png;base64,{base64.b64encode(png(side, shade)).decode()}")


@tool(effect="pure")
async def photo(shade: int, side: int = 56) -> list[Any]:
    """Take a photo."""
    return [f"photo {shade}", Media(png(side, shade), "image/png")]


SEES = ModelProfile(window=100_000, images=True, image_tokens="qwen")
BLIND = ModelProfile(window=100_000)


class Shown(Rig):
    """A service over a model and one that sees, with what replays its runs."""

    def __init__(self, model: Model, seeing: Model | None = None) -> None:
        super().__init__(MemoryStore(), model, (photo,))
        self.seeing = seeing

    def assemble(self, spec: RunSpec) -> Engine:
        return EngineMaker(spec, self.model, self.toolbox, None, image_model=self.seeing)(spec)

    async def go(self, *images: Image, options: AgentOptions | None = None, **spec: Any) -> list[Recorded]:
        facts = self.seeing.profile if self.seeing else None
        context = context_spec(options or AgentOptions(), self.model.profile, 500, facts)
        run = RunSpec(context=context, tools=("photo",), model="main", **spec)
        log = await self.ended(await self.service.start(OWNER, Message("user", "Look!", images), run))
        await self.service.stop(0.0)
        assert await replay(log, _Parts(self)) is None
        return log


class _Parts:
    """What engines of a replay are made of."""

    def __init__(self, made: Shown) -> None:
        self._made = made

    def versions(self, spec: RunSpec) -> dict[str, str]:
        return {}

    def toolbox(self, spec: RunSpec) -> Toolbox:
        return self._made.toolbox

    def engine(self, spec: RunSpec, model: Model, toolbox: Toolbox) -> Engine:
        model.profile = self._made.model.profile
        return EngineMaker(spec, model, toolbox, None, image_model=model if self._made.seeing else None)(spec)


def shown(messages: Sequence[Message]) -> list[Image]:
    return [each for message in messages for each in message.images]


SWITCH = AgentOptions(multimodal=MultimodalOptions(image=ImageOptions(model="eyes")))
OFF = AgentOptions(multimodal=MultimodalOptions(image=ImageOptions(enable=False, model="eyes")))


def test_a_model_that_sees_is_shown_the_images_of_users_and_of_tools() -> None:
    async def main() -> None:
        model = ScriptedModel([reply("", call("photo", shade=1), call("photo", shade=2)), "Grey."], profile=SEES)
        made = Shown(model)
        log = await made.go(image(9))
        assert shown(model.calls[0].messages) == [image(9)]
        assert shown(model.calls[1].messages) == [image(9), image(1), image(2)]
        results = [each for each in model.calls[1].messages if each.role == "tool"]
        assert [len(each.images) for each in results] == [0, 2]
        assert [each.images for each in events_of(log, ToolEnded)] == [(image(1),), (image(2),)]
        assert "[image 1: image/png, " in results[0].content

    bounded(main)


def test_a_model_that_does_not_see_reads_how_many_there_are() -> None:
    request = ModelRequest(Transcript([Message("user", "Look!", (image(1), image(2)))]))

    async def main() -> None:
        async with Endpoint([text("Nothing.")]) as endpoint:
            model = model_at(endpoint, profile=BLIND)
            await collect(model, request)
            await model.close()
            assert "2 image(s), not shown" in str(endpoint.requests[0].body)
            assert "base64" not in str(endpoint.requests[0].body)

    bounded(main)


def test_requests_with_images_go_to_the_model_that_sees_and_all_others_to_the_agents_own() -> None:
    async def main() -> None:
        model = ScriptedModel([call("photo", shade=1)], profile=BLIND)
        eyes = ScriptedModel(["Grey."], profile=SEES)
        made = Shown(model, eyes)
        log = await made.go(options=SWITCH, model_name="main-large")
        assert [each.model for each in events_of(log, StepStarted)] == ["", "eyes"]
        assert (len(model.calls), len(eyes.calls)) == (1, 1)
        assert shown(eyes.calls[0].messages) == [image(1)]
        # The name to send is one of the agent's own model.
        assert [model.calls[0].model, eyes.calls[0].model] == ["main-large", ""]
        assert end_of(log).reason == "answer"

    bounded(main)


def test_a_model_that_sees_is_not_switched_and_a_switch_that_is_off_does_nothing() -> None:
    async def main() -> None:
        for profile, options in ((SEES, SWITCH), (BLIND, OFF)):
            model, eyes = ScriptedModel(["Grey."], profile=profile), ScriptedModel([], profile=SEES)
            log = await Shown(model, eyes).go(image(1), options=options)
            assert [each.model for each in events_of(log, StepStarted)] == [""]
            assert eyes.calls == []

    bounded(main)


def test_images_that_are_switched_off_are_shown_to_no_model() -> None:
    async def main() -> None:
        model = ScriptedModel([call("photo", shade=1), "Nothing."], profile=SEES)
        await Shown(model).go(image(9), image(8), options=OFF)
        assert shown(model.calls[1].messages) == []
        assert model.calls[0].messages[-1].content == "Look!\n[2 image(s), not shown]"
        assert model.calls[1].messages[-1].content.endswith("\n[1 image(s), not shown]")

    bounded(main)


def test_images_count_by_the_rule_of_who_is_shown_them() -> None:
    message = Message("user", "Look!", (image(side=1400), image(side=56)))
    seen = context_spec(AgentOptions(), SEES)
    counted = meter("", seen.image_tokens, seen.images, False).count(message)
    bare = meter("", "qwen", True, False).count(Message("user", "Look!"))
    assert counted - bare >= 50 * 50 + 256
    switched = context_spec(SWITCH, BLIND, None, SEES)
    assert (switched.image_tokens, switched.images, switched.image_model, switched.image_window) == (
        "qwen",
        True,
        "eyes",
        100_000,
    )
    blind = context_spec(AgentOptions(), BLIND)
    assert (blind.images, blind.image_model, blind.image_window) == (False, "", 0)
    off = context_spec(OFF, SEES, None, SEES)
    assert (off.images, off.image_model) == (False, "")


def test_the_oldest_images_give_way_first_with_a_line_that_says_so() -> None:
    async def main() -> None:
        def brain(request: ModelRequest) -> Answer:
            return "Done." if len(model.calls) > 12 else call("photo", shade=len(model.calls), side=980)

        model = ScriptedModel(brain, profile=ModelProfile(window=12_000, images=True, image_tokens="qwen"))
        log = await Shown(model).go(image(200, 980))
        assert end_of(log).reason == "answer"
        compacted = events_of(log, ContextCompacted)
        assert compacted
        count = meter("", "qwen", True, False).count
        for each in model.calls:
            assert sum(map(count, each.messages)) <= 12_000 - 500
        last = [each.url for each in shown(model.calls[-1].messages)]
        order = [image(n, 980).url for n in (200, *range(1, 13))]
        assert last == order[-len(last) :]
        assert 0 < len(last) < len(order)
        assert "`wrapped` 1 image(s)" in str([each.content for each in model.calls[-1].messages])

    bounded(main)


def test_a_request_for_the_model_that_sees_stays_inside_its_window() -> None:
    async def main() -> None:
        model = ScriptedModel([call("photo", shade=1)], profile=ModelProfile(window=200_000))
        eyes = ScriptedModel(
            lambda request: "Grey.", profile=ModelProfile(window=4_000, images=True, image_tokens="qwen")
        )
        made = Shown(model, eyes)
        context = context_spec(SWITCH, model.profile, 500, eyes.profile)
        history = [Message("user", "much to say " * 2000), Message("assistant", "I see.")]
        ref = await made.service.start(
            OWNER,
            Message("user", "Look!"),
            RunSpec(context=context, tools=("photo",)),
            new=NewThread(history=history),
        )
        log = await made.ended(ref)
        await made.service.stop(0.0)
        assert end_of(log).reason == "answer"
        assert sum(len(each.content) for each in model.calls[0].messages) > 20_000
        assert events_of(log, ContextCompacted)
        count = meter("", "qwen", True, False).count
        assert sum(map(count, eyes.calls[0].messages)) <= 4_000 - 500
        assert shown(eyes.calls[0].messages) == [image(1)]
        assert await replay(log, _Parts(made)) is None

    bounded(main)


def test_an_agent_by_itself_shows_images_of_messages_and_outputs() -> None:
    async def main() -> None:
        look = ToolSpec("look", "Look.", {"type": "object", "properties": {}})
        log, model, eyes = (
            MemoryLog(),
            ScriptedModel(["Text.", call("look")], profile=BLIND),
            ScriptedModel([call("look"), "Grey."], profile=SEES),
        )
        agent = BaseAgent(
            SWITCH, "", default_replies=None, model=model, image_model=eyes, log=log, tools=ToolSpecs([look])
        )
        await agent.step()
        _, calls = await agent.step(message=Message("user", "Look!", (image(1),)))
        await agent.update_tool_calls_output([ToolOutput(calls[0].id, "a photo", images=(image(2),))])
        await agent.step()
        assert [shown(each.messages) for each in eyes.calls] == [[image(1)], [image(2)]]
        assert [each.model for each in events_of(log.events, StepStarted)] == ["", "eyes", "eyes"]
        assert len(model.calls) == 1
        audit(log.events)

    bounded(main)


@pytest.mark.parametrize(
    "options", [AgentOptions(), AgentOptions(execution=ExecutionOptions(max_message_tokens=9_000))]
)
def test_without_a_model_that_sees_nothing_is_switched(options: AgentOptions) -> None:
    spec = context_spec(options, BLIND)
    assert spec == ContextSpec(
        window=100_000,
        reserve=4096,
        max_tokens=options.execution.max_message_tokens,
        summarize=("tool_calls", "working_context"),
    )


def test_a_window_that_the_model_that_sees_teaches_is_not_that_of_the_agents_own() -> None:
    def see(request: ModelRequest) -> Answer:
        if sum(len(each.content) for each in request.all) > 3000:
            return Failure("overflow", "This model's maximum context length is 4000 tokens.", 400)
        return "Grey."

    async def main() -> None:
        model = ScriptedModel([], profile=ModelProfile(window=200_000))
        eyes = ScriptedModel(see, profile=ModelProfile(window=100_000, images=True, image_tokens="qwen"))
        made = Shown(model, eyes)
        context = context_spec(SWITCH, model.profile, 500, eyes.profile)
        history = [Message("user", "much to say " * 1000), Message("assistant", "I see.")]
        ref = await made.service.start(
            OWNER,
            Message("user", "Look!", (image(),)),
            RunSpec(context=context, model="main"),
            new=NewThread(history=history),
        )
        log = await made.ended(ref)
        engine = made.assemble(RunSpec())
        await made.service.stop(0.0)
        assert end_of(log).reason == "answer"
        assert [(each.model, each.window) for each in events_of(log, WindowLearned)] == [("eyes", 4000)]
        assert await replay(log, _Parts(made)) is None
        told = context_of(log, lambda _: engine)
        assert (told.model, told.window, told.proved) == ("eyes", 4000, True)

    bounded(main)
