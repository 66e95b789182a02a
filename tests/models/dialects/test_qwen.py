"""The ReAct form of Qwen 1: what differs from `react`."""

from __future__ import annotations

import json

import pytest

from stepwell.messages import Message, ToolCall
from stepwell.models.dialects.react import Qwen
from tests.models.dialects.reading import Reply, read, turns

ACTION = "I look.\nAction: weather\nAction Input: "
WIDE = "I look.\nAction：weather\nAction Input：```json\n"
ROME = '{"city": "Rome", "days": 2}'


@pytest.mark.parametrize(
    ("raw", "given", "kept"),
    [
        (ACTION + ROME, ROME, ACTION + ROME),
        (ACTION + ROME + "\nObservation: fake", ROME, ACTION + ROME),
        (ACTION + "{'city': 'Rome', 'days': 2,}", ROME, ACTION + "{'city': 'Rome', 'days': 2,}"),
        (WIDE + ROME + "\n```", ROME, WIDE + ROME),
        (ACTION + "Rome<|im_end|>\n<|endoftext|>", "Rome", ACTION + "Rome"),
    ],
)
def test_a_call_is_an_object_in_the_form_of_json_or_python(raw: str, given: str, kept: str) -> None:
    for pieces in ([raw], list(raw)):
        reply = read(Qwen(), pieces)
        ((name, arguments),) = reply.calls
        assert (name, reply.thinking, reply.raw) == ("weather", "I look.", kept)
        assert (json.loads(arguments) == json.loads(given)) if given.startswith("{") else arguments == given


def test_control_tokens_of_the_family_end_a_reply() -> None:
    raw = "I know.\nFinal Answer: yes<|im_end|>\n<|im_start|>user"
    for pieces in ([raw], list(raw)):
        assert read(Qwen(), pieces) == Reply("I know.", "yes", raw="I know.\nFinal Answer: yes")
    assert read(Qwen(), ["x <|observation|> y"]).thinking == "x <|observation|> y"


def test_tools_are_shown_with_their_schemas_and_steps_as_the_model_wrote_them() -> None:
    shown = turns(
        Qwen(), Message("user", "hi"),
        Message("assistant", thinking="I look.", calls=(ToolCall("a", "weather", ROME),), raw=ACTION + ROME),
        Message("tool", "sunny", call="a"),
    )  # fmt: skip
    ((role, text),) = shown
    assert role == "user"
    assert 'shell: about shell Parameters: {"type":"object"' in text
    assert text.endswith(f"\n\nQuestion: hi\n\nThought: {ACTION}{ROME}\nObservation: sunny\nThought: ")
