"""The same conversations over native calls and over every dialect: their logs are the same."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import msgspec
import pytest

from stepwell.errors import ToolError
from stepwell.messages import ToolCall
from stepwell.models.dialects.base import Dialect
from stepwell.models.scripted import ScriptedModel, Step, reply
from stepwell.prompts import names
from stepwell.tools.mark import tool
from tests.models.dialects.reading import NAMES, dialect
from tests.support.runs import answer_of, bounded, rig

FORMS = [("native", ""), *((name, prompt) for name in NAMES for prompt in names(name))]


@tool(effect="pure")
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool(effect="pure")
async def echo(text: str) -> str:
    """Give a text back."""
    return text


@tool(effect="pure")
async def fail(reason: str) -> str:
    """Fail."""
    raise ToolError(f"It failed: {reason}")


@tool(effect="pure")
async def ready() -> bool:
    """Tell whether all is ready."""
    return True


class Say(NamedTuple):
    """One reply: a thought, then a call or an answer."""

    thought: str = ""
    tool: str = ""
    arguments: dict[str, Any] | None = None
    answer: str = ""


SCRIPTS: dict[str, list[Say]] = {
    "an answer": [Say("I know.", answer="It is 42.")],
    "a call": [Say("I add.", "add", {"a": 17, "b": 25}), Say("I know.", answer="It is 42.")],
    "no thought": [Say(tool="add", arguments={"a": 1, "b": 2}), Say(answer="3")],
    "calls in a row": [
        Say("First.", "ready", {}),
        Say("Then.", "echo", {"text": "a\n\"b\" 'c' 北京 </text> }{ Observation: x"}),
        Say("And then.", "fail", {"reason": "so"}),
        Say("Done.", answer="One\n\n- two\n- 三"),
    ],
    "an unknown tool": [Say("Hm.", "look_up", {"what": "x"}), Say("So.", answer="No.")],
    "a wrong type": [Say("Hm.", "add", {"a": "x", "b": 2}), Say("So.", answer="No.")],
    "a missing argument": [Say("Hm.", "add", {"a": 1}), Say("So.", answer="No.")],
    "an argument too many": [Say("Hm.", "add", {"a": 1, "b": 2, "c": [3]}), Say("So.", answer="No.")],
}
GOLDEN: dict[str, list[str]] = {
    "an answer": ["step", "message", "thinks I know.", "says It is 42.", "step ends", "end answer"],
    "a call": [
        "step", "message", "thinks I add.", 'calls add {"a": 17, "b": 25}', "runs add", "ok 42", "step ends",
        "step", "message", "thinks I know.", "says It is 42.", "step ends", "end answer",
    ],
}  # fmt: skip


def native(say: Say) -> Step:
    calls = (ToolCall("", say.tool, json.dumps(say.arguments)),) if say.tool else ()
    return reply(say.answer, *calls, thinking=say.thought)


def in_text(say: Say, spoken: Dialect) -> str:
    """Write a reply as a model of the dialect does."""
    given = json.dumps(say.arguments, ensure_ascii=False)
    if spoken.name in ("react", "qwen"):
        thought = f"{say.thought}\n" if say.thought else ""
        end = f"Action: {say.tool}\nAction Input: {given}" if say.tool else f"Final Answer: {say.answer}"
        return thought + end
    if spoken.name == "structured":
        step = {"action": say.tool or "Final Answer", "action_input": say.arguments if say.tool else say.answer}
        return f"Thought: {say.thought}\nAction:\n```json\n{json.dumps(step)}\n```"
    thought = f"<think>\n{say.thought}\n</think>\n\n" if say.thought else ""
    match spoken.name, say.tool:
        case _, "":
            return thought + say.answer
        case "hermes", name:
            return f'{thought}<tool_call>\n{{"name": "{name}", "arguments": {given}}}\n</tool_call>'
        case "glm3", name:
            values = ", ".join(f"{key}={value!r}" for key, value in (say.arguments or {}).items())
            return f"{thought}{name}\n```python\ntool_call({values})\n```"
        case _, name:
            values = "".join(f"<{key}>{_value(key, value)}</{key}>\n" for key, value in (say.arguments or {}).items())
            return f"{thought}<{name}>\n{values}</{name}>"


def _value(key: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"<![CDATA[{text}]]>" if f"</{key}>" in text else text


def plain(value: Any, ids: dict[str, str]) -> Any:
    """Return an event without what may differ: ids, raw replies, digests of requests, and how JSON is written."""
    if isinstance(value, dict):
        kept: dict[str, Any] = {}
        for key, each in value.items():
            if key in ("raw", "request", "reserved") or (key == "detail" and "call" in str(each)):
                continue
            if key in ("id", "call") and isinstance(each, str) and each:
                kept[key] = ids.setdefault(each, f"call {len(ids)}")
            elif key == "arguments" and isinstance(each, str):
                kept[key] = json.loads(each)
            else:
                kept[key] = plain(each, ids)
        return kept
    return [plain(each, ids) for each in value] if isinstance(value, list | tuple) else value


def played(script: list[Say], form: tuple[str, str], cut: int) -> tuple[list[Any], list[str]]:
    """Play a conversation and return its log, whole and in words."""
    out: tuple[list[Any], list[str]] = ([], [])

    async def main() -> None:
        spoken = None if form[0] == "native" else dialect(*form)
        steps: list[Step] = [native(say) if spoken is None else in_text(say, spoken) for say in script]
        async with rig(ScriptedModel(steps, cut=cut), add, echo, fail, ready, dialect=spoken) as made:
            ids: dict[str, str] = {}
            for event in await made.play():
                fields = plain(msgspec.to_builtins(event), ids)
                out[0].append(fields)
                out[1].extend(in_words(type(event).__name__, fields))

    bounded(main)
    return out


def in_words(kind: str, fields: dict[str, Any]) -> list[str]:
    match kind:
        case "MessageEnded":
            message = fields["message"]
            shown = [
                f"{word} {message[key]}"
                for word, key in (("thinks", "thinking"), ("says", "content"))
                if key in message
            ]
            return shown + [
                f"calls {call['name']} {json.dumps(call['arguments'])}" for call in message.get("calls", ())
            ]
        case "ToolStarted":
            return [f"runs {fields['name']}"]
        case "ToolEnded":
            return [f"{fields.get('status', 'ok')} {fields['content']}"]
        case "RunEnded":
            return [f"end {fields['reason']}"]
        case "StepStarted" | "MessageStarted":
            return [kind.removesuffix("Started").lower()]
        case "StepEnded":
            return ["step ends"]
        case _:
            return [kind]


def test_a_thread_goes_on_under_another_dialect_or_under_none() -> None:
    """Calls made natively and in every form are the history of every other."""

    async def main() -> None:
        say = Say("I add.", "add", {"a": 1, "b": 2})
        steps: list[Step] = []
        for form in (*FORMS, FORMS[0]):
            spoken = None if form[0] == "native" else dialect(*form)
            answer = Say("So.", answer="It is 3.")
            steps += [native(each) if spoken is None else in_text(each, spoken) for each in (say, answer)]
        async with rig(ScriptedModel(steps), add) as made:
            thread = ""
            for form in (*FORMS, FORMS[0]):
                made.dialect = None if form[0] == "native" else dialect(*form)
                ref = await made.start("go on", thread)
                thread = ref.thread
                assert answer_of(await made.ended(ref)) == "It is 3."
            last = made.asked[-1].messages
            assert [message.role for message in last[-4:]] == ["assistant", "user", "assistant", "tool"]
            calls = [call for message in last for call in message.calls]
            assert [call.name for call in calls] == ["add"] * (len(FORMS) + 1)
            assert all(json.loads(call.arguments) == say.arguments for call in calls)
            assert [message.call for message in last if message.role == "tool"] == [call.id for call in calls]

    bounded(main)


@pytest.mark.parametrize("cut", [1, 7, 1000])
@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_a_conversation_has_the_same_log_however_calls_are_written(form: tuple[str, str], cut: int) -> None:
    for name, script in SCRIPTS.items():
        log, words = played(script, form, cut)
        assert log == played(script, ("native", ""), 1000)[0], name
        if name in GOLDEN:
            assert words == GOLDEN[name]
