"""The scripted model: what it answers, how it cuts it, and when it complains."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from stepwell.errors import ScriptError
from stepwell.messages import Message, ToolCall, ToolSpec, ToolSpecs, Transcript, Usage
from stepwell.models.base import CallPart, Delta, Failure, Model, ModelProfile, ModelRequest, Settings
from stepwell.models.scripted import Answer, Gate, Reply, ScriptedModel, Step, call, reply

ASKED = Transcript([Message("user", "17*23?")])


async def collect(model: Model, messages: Transcript = ASKED) -> list[Delta]:
    return [delta async for delta in model.stream(ModelRequest(messages))]


def in_time(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 10))


def answers(step: Step, **options: Any) -> list[Delta]:
    return asyncio.run(collect(ScriptedModel([step], **options)))


STOP = Delta(stop="stop")
PART = CallPart(0, "call_1_0", "calculate", '{"expression":"17*23"}')
STEPS: list[tuple[Step, list[Delta]]] = [
    ("391", [Delta("391"), STOP]),
    ("", [STOP]),
    (["3", "9", "1"], [Delta("3"), Delta("9"), Delta("1"), STOP]),
    (reply("391", stop="length"), [Delta("391"), Delta(stop="length")]),
    (reply("391", thinking=["H", "m"]), [Delta(thinking="H"), Delta(thinking="m"), Delta("391"), STOP]),
    (reply("391", usage=Usage(5, 1)), [Delta("391"), Delta(usage=Usage(5, 1), stop="stop")]),
    (call("calculate", expression="17*23"), [Delta(calls=(PART,)), Delta(stop="tool_calls")]),
    (ToolCall("mine", "now"), [Delta(calls=(CallPart(0, "mine", "now"),)), Delta(stop="tool_calls")]),
    (ToolCall("", "now", "?"), [Delta(calls=(CallPart(0, "call_1_0", "now", "?"),)), Delta(stop="tool_calls")]),
    (Failure("server", "Boom", 500), [Delta(failure=Failure("server", "Boom", 500), stop="error")]),
    (reply("3", failure=Failure("stall", "…")), [Delta("3"), Delta(failure=Failure("stall", "…"), stop="error")]),
    (lambda request: request.messages[-1].content, [Delta("17*23?"), STOP]),
    (Reply("391"), [Delta("391"), STOP]),
]


@pytest.mark.parametrize(("step", "deltas"), STEPS)
def test_a_step_becomes_deltas(step: Step, deltas: list[Delta]) -> None:
    assert answers(step) == deltas


def test_several_calls_beside_a_text() -> None:
    deltas = answers(reply("Let me see.", call("now"), call("add", a=1, b=[2])))
    parts = [CallPart(0, "call_1_0", "now", "{}"), CallPart(1, "call_1_1", "add", '{"a":1,"b":[2]}')]
    assert deltas == [Delta("Let me see."), *(Delta(calls=(part,)) for part in parts), Delta(stop="tool_calls")]


def test_texts_are_cut_as_asked() -> None:
    step = reply("abcde", call("f", x=1), thinking="hmm")
    assert [delta.text for delta in answers(step, cut="char") if delta.text] == list("abcde")
    cut = answers(reply("abcde", call("f", x=1), thinking="hmm", cut=2), cut="char")
    assert [delta.text for delta in cut if delta.text] == ["ab", "cd", "e"]
    assert [delta.thinking for delta in cut if delta.thinking] == ["hm", "m"]
    parts = [part for delta in cut for part in delta.calls]
    assert parts[0] == CallPart(0, "call_1_0", "f", '{"')
    assert parts[1:] == [CallPart(0, arguments=piece) for piece in ('x"', ":1", "}")]


def test_text_given_in_pieces_is_not_cut_further() -> None:
    assert [delta.text for delta in answers(["abc", "de"], cut="char") if delta.text] == ["abc", "de"]


def test_requests_are_recorded_as_they_were() -> None:
    async def main() -> None:
        model = ScriptedModel(["One", "Two"], profile=ModelProfile(window=99))
        messages, tools = Transcript([Message("user", "1")]), ToolSpecs([ToolSpec("f", "", {})])
        request = ModelRequest(messages, tools, Settings(temperature=0.5), "other")
        async for _ in model.stream(request):
            pass
        messages.append(Message("assistant", "One"))
        await collect(model, messages)
        assert [len(each.messages) for each in model.calls] == [1, 2]
        first = model.calls[0]
        assert (first.messages[0].content, first.tools, first.settings.temperature) == ("1", tools, 0.5)
        assert (first.model, model.profile.window) == ("other", 99)
        model.assert_complete()
        await model.close()

    in_time(main())


def test_a_request_too_many_is_an_error_that_says_so() -> None:
    async def main() -> None:
        model = ScriptedModel(["One"])
        await collect(model)
        with pytest.raises(ScriptError, match=r"request 2 came, but the script has 1 steps.*17\*23\?"):
            await collect(model)

    in_time(main())


def test_steps_left_over_are_an_error_when_asked() -> None:
    model = ScriptedModel(["One", call("now")])
    with pytest.raises(ScriptError, match="2 of 2 steps were not used; the next is 'One'"):
        model.assert_complete()
    asyncio.run(collect(model))
    with pytest.raises(ScriptError, match="1 of 2 steps were not used; the next is ToolCall"):
        model.assert_complete()


def test_an_announced_retry_is_followed_by_the_next_step() -> None:
    async def main() -> None:
        slow = Failure("rate_limit", "Slow down.", 429, retry_in=0.1)
        model = ScriptedModel([slow, slow, "Hi"])
        assert await collect(model) == [Delta(failure=slow), Delta(failure=slow), Delta("Hi"), STOP]
        assert len(model.calls) == 1
        model.assert_complete()

    in_time(main())


def test_a_function_decides_by_the_request_and_holds_no_position() -> None:
    def brain(request: ModelRequest) -> Answer:
        done = sum(message.role == "tool" for message in request.messages)
        return call("step", number=done) if done < 2 else "done"

    async def main() -> None:
        messages = Transcript([Message("user", "go")])
        ids: list[str] = []
        for expected in (0, 1):
            # Another model of the same mind each time, as after a restart.
            deltas = await collect(ScriptedModel(brain), messages)
            [part] = [part for delta in deltas for part in delta.calls]
            assert part.arguments == f'{{"number":{expected}}}'
            ids.append(part.id)
            messages.append(Message("assistant", calls=(ToolCall(part.id, part.name, part.arguments),)))
            messages.append(Message("tool", "ok", call=part.id))
        assert len(set(ids)) == 2
        model = ScriptedModel(brain)
        assert (await collect(model, messages))[0].text == "done"
        model.assert_complete()

    in_time(main())


def test_a_gate_holds_a_stream_and_tells_when_it_is_reached() -> None:
    async def main() -> None:
        gate, end = Gate(), asyncio.Event()
        model = ScriptedModel([reply("abc", cut="char", gates={1: gate, 3: end})])
        seen: list[Delta] = []

        async def read() -> None:
            async for delta in model.stream(ModelRequest(ASKED)):
                seen.append(delta)

        reading = asyncio.create_task(read())
        await gate.reached.wait()
        assert seen == [Delta("a")]
        gate.set()
        end.set()
        await reading
        assert seen == [Delta("a"), Delta("b"), Delta("c"), STOP]

    in_time(main())


def test_a_stream_held_at_a_gate_can_be_left() -> None:
    async def main() -> None:
        gate = Gate()
        model = ScriptedModel([reply("abc", gates={0: gate})])
        reading = asyncio.create_task(collect(model))
        await gate.reached.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    in_time(main())
