"""The embedded default model: it chooses tools by the words of a question and reports what they say.

It has no weights, opens no connection and remembers nothing: a reply depends on the request alone. It is no
language model; where no tool fits, it says so and how to configure one. How it chooses is in `offline_choice.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from stepwell.messages import Message, StopReason, ToolCall, ToolSpec, clean
from stepwell.models import offline_words as words
from stepwell.models.base import CallPart, Delta, Failure, ModelProfile, ModelRequest
from stepwell.models.offline_arguments import QUOTED, Pick, spaced
from stepwell.models.offline_choice import choose, complete

REMEDY: Mapping[str, str] = {
    "en": """To talk to a real language model, name one in `stepwell.toml`:

[models.main]
base_url = "http://127.0.0.1:11434/v1"
model = "qwen3"

and make it the default: write `default_model = "main"` at the top of that file or set STEPWELL_DEFAULT_MODEL=main.
In a program: `Agent("qwen3", base_url="http://127.0.0.1:11434/v1")`.""",
    "zh": """要与真正的语言模型对话，请在 `stepwell.toml` 中写明一个模型：

[models.main]
base_url = "http://127.0.0.1:11434/v1"
model = "qwen3"

再把它设为默认模型：在该文件开头写 `default_model = "main"`，或设置环境变量 STEPWELL_DEFAULT_MODEL=main。
在程序中：`Agent("qwen3", base_url="http://127.0.0.1:11434/v1")`。""",
}
"""How to configure a real model, by language."""

LONGEST_QUESTION = 2_000
"""Characters of a question above which no tool is chosen."""
LONGEST_RESULT = 2_000
"""Characters of a tool's result that a report shows."""

_SAYS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "hello": "Hello! ",
        "unfit": "No tool of this agent fits that. ",
        "alone": "",
        "long": "That is too long for me to choose a tool by. ",
        "about": "I am Stepwell's embedded offline model. I understand no language: I match the words of a question "
        "with this agent's tools, run them and report what they say.",
        "tools": "Tools: {names}.",
        "no_tools": "This reply may use no tools.",
        "missing": "I would use {name} for this, but these are missing: {missing}. Nothing was run. "
        "Please give them, for example as {example}",
        "result": "{label}: ",
        "failed": "{label} failed: ",
        "empty": "(no output)",
        "cut": "… (the first {shown} of {total} characters)",
        "separator": ", ",
        "remedy": REMEDY["en"],
    },
    "zh": {
        "hello": "你好！",
        "unfit": "这个智能体没有适合这个问题的工具。",
        "alone": "",
        "long": "这段话太长，我无法据此选择工具。",
        "about": "我是 Stepwell 内置的离线模型。我并不理解语言："
        "我只把问题中的词与这个智能体的工具对照，运行工具并报告结果。",
        "tools": "工具：{names}。",
        "no_tools": "这次回复不能使用工具。",
        "missing": "这个问题可以用 {name}，但还缺少：{missing}。没有运行任何工具。请补充，例如 {example}",
        "result": "{label} 的结果：",
        "failed": "{label} 失败：",
        "empty": "（没有输出）",
        "cut": "……（共 {total} 个字符，这里是前 {shown} 个）",
        "separator": "、",
        "remedy": REMEDY["zh"],
    },
}
_GREETING = re.compile(
    r"^\W*(?:hello|hi|hey|help|good (?:morning|evening)|你好|您好|帮助)|\b(?:who|what) are you\b|\bwhat can you do\b"
    r"|你是谁|你是什么|能做什么|会做什么|会什么",
    re.I,
)
_FAILED = re.compile(
    r"(?:error|failed|failure|not run|traceback)\b[^:：\n]{0,40}[:：]|[a-z]\w*(?:Error|Exception)\b"
    r"|the tool did not end|\S+ is not a valid tool|错误|失败|出错|超时",
    re.I,
)
_NUMBER = re.compile(r"[-+−]?[\d.]\S*(?: \S+)?$|-?inf|nan")
_WORD = re.compile(r"\s*[\u3000-\u9fff\uff00-\uffef]|\s*[^\s\u3000-\u9fff\uff00-\uffef]+|\s+$")


class OfflineModel:
    """Answers by the agent's tools alone; safe for many requests at once."""

    profile = ModelProfile(window=1_000_000, native_tools=True, images=False, replies=False)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Delta]:
        """Stream one reply: tool calls for a question that fits a tool, else text; the last delta carries `stop`."""
        try:
            deltas = list(_deltas(request))
        except Exception as error:  # The port never raises, and the schemas of tools come from anywhere.
            deltas = [Delta(failure=Failure("internal", f"{type(error).__name__}: {error}"), stop="error")]
        for delta in deltas:
            yield delta

    async def close(self) -> None:
        """Do nothing: there is no connection."""


def _deltas(request: ModelRequest) -> Iterator[Delta]:
    if request.settings.response_format is not None:
        message = "The embedded offline model cannot reply in a given JSON schema; configure a language model."
        yield Delta(failure=Failure("request", message), stop="error")
        return
    reply = _reply(request)
    if isinstance(reply, str):
        yield from _text_deltas(reply, request.settings.stop, request.settings.max_tokens)
        return
    for index, pick in enumerate(reply):
        arguments = json.dumps(pick.arguments, ensure_ascii=False)
        yield Delta(calls=(CallPart(index, name=pick.tool.name, arguments=arguments),))
    yield Delta(stop="tool_calls")


def _text_deltas(reply: str, marks: Sequence[str], limit: int | None) -> Iterator[Delta]:
    for mark in filter(None, marks):
        reply = reply.partition(mark)[0]
    pieces = _WORD.findall(reply)
    stop: StopReason = "stop" if limit is None or len(pieces) <= limit else "length"
    pieces = pieces[:limit]
    for start in range(0, len(pieces), 8):
        yield Delta(text="".join(pieces[start : start + 8]))
    yield Delta(stop=stop)


def _reply(request: ModelRequest) -> str | list[Pick]:
    """Return the text or the calls that answer a request; after results always text, so that no run loops."""
    messages, choice = request.all, request.settings.tool_choice
    at = next((at for at in range(len(messages) - 1, -1, -1) if messages[at].role == "user"), -1)
    calls = {call.id: call for message in messages[at + 1 :] for call in message.calls}
    results = [message for message in messages[at + 1 :] if message.role == "tool"]
    says = _SAYS[_language(messages)]
    named = tuple(tool for tool in request.tools if tool.name == choice)
    if results and (not named or choice in {call.name for call in calls.values()}):
        return "\n".join(_report(calls.get(message.call), clean(message.content), says) for message in results)
    tools = () if choice == "none" else named or tuple(request.tools)
    question = clean(messages[at].content) if at >= 0 else ""
    if len(question) > LONGEST_QUESTION:
        return _about(says["long"], tools, says)
    picks = _picks(messages, at, tools, bool(named) or choice == "required") if question.strip() else []
    if not picks:
        opening = "hello" if _GREETING.search(question) or not question.strip() else "unfit" if tools else "alone"
        return _about(says[opening], tools, says)
    return _missing(picks[0], says) if picks[0].missing else picks


def _picks(messages: Sequence[Message], at: int, tools: Sequence[ToolSpec], forced: bool, depth: int = 4) -> list[Pick]:
    """Choose the calls for the user's message at `at`, which may answer what the reply before it said was missing."""
    question = clean(messages[at].content)
    picks = choose(question, tools, forced)
    if (picks and not picks[0].missing) or not depth or at < 2 or len(messages[at - 2].content) > LONGEST_QUESTION:
        return picks
    asked = messages[at - 1].content if (messages[at - 2].role, messages[at - 1].role) == ("user", "assistant") else ""
    before = _picks(messages, at - 2, tools, forced, depth - 1) if asked else []
    if before and before[0].missing and asked in [_missing(before[0], says) for says in _SAYS.values()]:
        return [complete(before[0], question)]
    return picks


def _language(messages: Sequence[Message]) -> str:
    """Return the language of the newest message of a person that has words at all."""
    for message in reversed(messages):
        if message.role == "user":
            text = message.content[:LONGEST_QUESTION]
            chinese = words.is_chinese(QUOTED.sub(" ", text))
            chinese = words.is_chinese(text) if chinese is None else chinese
            if chinese is not None:
                return "zh" if chinese else "en"
    return "en"


def _about(opening: str, tools: Sequence[ToolSpec], says: Mapping[str, str]) -> str:
    names = says["separator"].join(tool.name for tool in tools)
    offered = says["tools"].format(names=names) if tools else says["no_tools"]
    return f"{opening}{says['about']}\n{offered}\n\n{says['remedy']}"


def _missing(pick: Pick, says: Mapping[str, str]) -> str:
    example = " ".join(f"`{name}=…`" for name in pick.missing)
    return says["missing"].format(name=pick.tool.name, missing=says["separator"].join(pick.missing), example=example)


def _report(call: ToolCall | None, content: str, says: Mapping[str, str]) -> str:
    """Return what a tool said, labelled with its call; the text is shown and never read as a question."""
    arguments = _object(call.arguments) if call else {}
    shown = ", ".join(" ".join(clean(str(value))[:80].split()) for value in arguments.values())
    label = (f"{call.name}({shown})" if shown else call.name) if call else "tool"
    text = content.strip() or says["empty"]
    if len(text) > LONGEST_RESULT:
        text = text[:LONGEST_RESULT] + says["cut"].format(shown=LONGEST_RESULT, total=len(text))
    if call and "calculate" in words.terms(spaced(call.name)) and len(arguments) == 1 and _NUMBER.match(text):
        return f"{shown} = {text}"
    opening = says["failed" if _FAILED.match(text) else "result"].format(label=label)
    return f"{opening.rstrip()}\n{text}" if "\n" in text else opening + text


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeEncodeError):
        return {}
