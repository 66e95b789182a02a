"""How an agent asks: what the model is sent, what is shown of its reply, and what is kept of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from stepwell.agent.base import BaseAgent
from stepwell.events import CallDelta, MessageEnded, StepStarted, TextDelta, ThinkingDelta, Transient
from stepwell.messages import Image, Message, ToolCall
from stepwell.models.base import CallPart, Delta, ModelProfile, ModelRequest, Settings
from stepwell.models.dialects.base import Dialect
from stepwell.models.dialects.react import React
from stepwell.models.scripted import Gate, ScriptedModel, Step, call, reply
from stepwell.runs.channel import Cursor
from stepwell.runs.service import NewThread
from stepwell.tools.base import Toolbox
from stepwell.tools.mark import tool
from tests.support.audit import audit
from tests.support.runs import OWNER, HeldStore, RunSpec, bounded, events_of, rig


@tool(effect="pure")
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Pieces:
    """A model whose replies come in deltas made by hand, and which notes how its streams ended."""

    profile = ModelProfile()

    def __init__(self, *replies: Sequence[Delta]) -> None:
        self._replies = list(replies)
        self.closed: list[bool] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Delta]:
        whole = False
        try:
            for delta in self._replies.pop(0):
                yield delta
            whole = True
        finally:
            self.closed.append(whole)

    async def close(self) -> None: ...


STOP = Delta(stop="stop")


def shown(*replies: Sequence[Delta], dialect: Dialect | None = None) -> tuple[list[Transient], list[MessageEnded]]:
    """Return what was published of the replies of a run, piece by piece, and the messages that were kept."""
    out: tuple[list[Transient], list[MessageEnded]] = ([], [])

    async def main() -> None:
        async with rig(Pieces(*replies), add, dialect=dialect) as made:
            log = await made.service.begin(OWNER, Message("user", "go"), RunSpec())
            await made.service.drive(log)
            items = log.channel.after(Cursor())[0]
            out[0].extend(item.event for item in items if isinstance(item.event, Transient))
            out[1].extend(events_of(await made.log(log.thread), MessageEnded))

    bounded(main)
    return out


def test_the_model_is_sent_the_conversation_the_tools_and_the_settings() -> None:
    async def main() -> None:
        async with rig(["First.", "Second."], add) as made:
            history = [Message("user", "hi", (Image("https://example.com/a.png"),)), Message("assistant", "hello")]
            new = NewThread(history=history)
            ref = await made.service.start(OWNER, Message("user", "go"), RunSpec(system="Be short."), new=new)
            await made.ended(ref)
            (asked,) = made.asked
            assert asked.messages == (Message("system", "Be short."), *history, Message("user", "go"))
            assert [spec.name for spec in asked.tools] == ["add"]
            assert (asked.settings, asked.model) == (Settings(), "")

    bounded(main)


def test_an_agent_asks_under_its_own_name_and_settings() -> None:
    async def main() -> None:
        model = ScriptedModel(["Yes."])
        async with rig(model) as made:
            log = await made.service.begin(OWNER, Message("user", "go"), RunSpec())
            settings = Settings(temperature=0.5)
            agent = BaseAgent(default_replies=None, model=model, log=log, settings=settings, model_name="qwen3")
            assert str(agent) == "BaseAgent"
            await agent.ask()
            assert (made.asked[0].settings.temperature, made.asked[0].model) == (0.5, "qwen3")
            assert log.state.run is not None
            assert log.state.run.reply == Message("assistant", "Yes.")

    bounded(main)


def test_the_digest_of_a_step_is_that_of_its_request() -> None:
    async def main() -> None:
        script: list[Step] = [call("add", a=1, b=2), "3"]
        async with rig(script, add) as made:
            first = await made.ended(await made.start())
            made.model = ScriptedModel(list(script))
            second = await made.ended(await made.start())
            digests = [[each.request for each in events_of(log, StepStarted)] for log in (first, second)]
            assert digests[0] == digests[1]
            assert len(set(digests[0])) == 2
            made.toolbox = Toolbox()
            made.model = ScriptedModel(["3"])
            (other,) = events_of(await made.ended(await made.start()), StepStarted)
            assert other.request not in digests[0]

    bounded(main)


def test_nothing_of_a_reply_is_shown_before_the_message_is_on_the_disk() -> None:
    async def main() -> None:
        store, gate = HeldStore(), Gate()
        async with rig([reply(["a", "b"], gates={0: gate})], store=store) as made:
            starting = asyncio.ensure_future(made.start())
            store.held = True
            await gate.reached.wait()
            gate.set()
            for _ in range(10):
                await asyncio.sleep(0)
            (log,) = made.service._logs.values()
            assert log.channel.after(Cursor())[0] == []
            store.release()
            ref = await starting
            await made.ended(ref)

    bounded(main)


def test_pieces_are_shown_as_they_come_and_add_up_to_the_message() -> None:
    deltas, (ended,) = shown(
        [
            Delta(thinking="Hm"),
            Delta(text="It ", thinking="m."),
            Delta(),
            Delta(text="is."),
            Delta(text="", stop="stop", raw=""),
        ]
    )
    assert deltas == [ThinkingDelta(4, "Hm"), ThinkingDelta(4, "m."), TextDelta(4, "It "), TextDelta(4, "is.")]
    assert ended == MessageEnded(Message("assistant", "It is.", thinking="Hmm."), "stop")


def test_calls_in_pieces_are_put_together_whatever_order_they_come_in() -> None:
    one, two = '{"a": 1, "b": 2}', '{"a": 3, "b": 4}'
    deltas, (ended, _) = shown(
        [
            Delta(calls=(CallPart(1, "y", "add"), CallPart(0, "x", "add", one[:5]))),
            Delta(calls=(CallPart(1, "", "", two[:3]), CallPart(0, "", "add", one[5:]))),
            Delta(text="Wait.", calls=(CallPart(1, "z", "add", two[3:]),)),
            Delta(stop="tool_calls"),
        ],
        [Delta(text="Done."), STOP],
    )
    assert ended.message.calls == (ToolCall("x", "add", one), ToolCall("y", "add", two))
    assert ended.stop == "tool_calls"
    # A name that an endpoint repeats with every piece is shown once.
    assert [delta for delta in deltas if isinstance(delta, CallDelta)] == [
        CallDelta(4, 1, "add", ""),
        CallDelta(4, 0, "add", one[:5]),
        CallDelta(4, 1, "", two[:3]),
        CallDelta(4, 0, "", one[5:]),
        CallDelta(4, 1, "", two[3:]),
    ]


def test_every_call_has_an_id_of_its_own_in_its_thread() -> None:
    def calls(*ids: str) -> list[Delta]:
        parts = tuple(CallPart(index, id, "add", '{"a": 1, "b": 2}') for index, id in enumerate(ids))
        return [Delta(calls=parts), Delta(stop="stop")]

    _, ended = shown(calls("", "x", "x", ""), calls("x", "y", "call_4_0"), [Delta(text="Done."), STOP])
    ids = [call.id for each in ended for call in each.message.calls]
    assert ids[:4] == ["call_4_0", "x", "call_4_2", "call_4_3"]
    assert ids[5] == "y"
    assert len(set(ids)) == 7
    assert ended[0].stop == "tool_calls"


def test_a_dialect_asks_in_text_and_takes_the_reply_apart() -> None:
    async def main() -> None:
        raw = 'Thought: I must add.\nAction: add\nAction Input: {"a": 1, "b": 2}\nObservation: 99'
        script: list[Step] = [reply(raw, cut=3), "Thought: I know.\nFinal Answer: It is 3."]
        async with rig(script, add, dialect=React("default", "en")) as made:
            log = await made.ended(await made.start())
            assert not made.asked[0].tools
            assert "add" in made.asked[0].messages[0].content
            first, second = events_of(log, MessageEnded)
            (asked,) = first.message.calls
            assert (asked.name, asked.id) == ("add", "call_4_0")
            assert "I must add." in first.message.thinking
            assert first.message.raw.startswith("Thought: I must add.")
            assert "99" not in first.message.raw
            assert second.message.content == "It is 3."
            assert second.message.raw == script[1]
            audit(log)

    bounded(main)


def test_a_reply_without_any_form_is_the_answer_even_though_it_was_shown_as_a_thought() -> None:
    dialect = React("default", "en")
    deltas, (ended,) = shown(
        [Delta(thinking="(own) "), Delta(text="Just "), Delta(text="so\ud800."), STOP], dialect=dialect
    )
    assert ended.message == Message(
        "assistant", "Just so\ufffd.", thinking="(own) ", raw="Just so\ufffd.", unmarked=True
    )
    assert "Just so\ufffd." in "".join(delta.text for delta in deltas if isinstance(delta, ThinkingDelta))


def test_the_stream_is_closed_as_soon_as_nothing_more_can_matter() -> None:
    async def main() -> None:
        model = Pieces(
            [
                Delta(text='Action: add\nAction Input: {"a": 1, "b": 2}\nObs'),
                Delta(text="ervation: 9\n"),
                Delta(),
                STOP,
            ],
            [Delta(text="Final Answer: 3"), STOP],
        )
        async with rig(model, add, dialect=React("default", "en")) as made:
            log = await made.ended(await made.start())
            assert [each.message.content for each in events_of(log, MessageEnded)] == ["", "3"]
            assert model.closed[0] is False

    bounded(main)
