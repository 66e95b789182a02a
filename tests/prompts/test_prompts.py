"""Prompt templates: what is there, and what a broken one is called."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import stepwell.prompts
from stepwell.errors import ConfigError
from stepwell.prompts import Template, load, names

FOLDER = Path(stepwell.prompts.__file__).parent
FILES = sorted(path.name for path in FOLDER.glob("*.txt"))


def test_every_prompt_comes_in_english_and_chinese() -> None:
    assert {name.rsplit(".", 2)[0] for name in FILES} == {
        "chat_about.default",
        "conclusion.default",
        "glm3.ChatGLM3",
        "glm3.default",
        "hermes.default",
        "judger.default",
        "plan.fast",
        "plan.generate",
        "plan.refine",
        "qwen.default",
        "react.ChatGLM3",
        "react.default",
        "repair.default",
        "reply.plain",
        "router.default",
        "structured.default",
        "summary.rolling",
        "summary.tool_calls",
        "summary.working_context",
        "system.default",
        "task.alone",
        "task.last",
        "task.start",
        "task.step",
        "xml.default",
    }
    assert len(FILES) == 50
    assert names("glm3") == ["ChatGLM3", "default"]
    assert names("plan") == ["fast", "generate", "refine"]
    assert names("react") == ["ChatGLM3", "default"]
    assert names("summary") == ["rolling", "tool_calls", "working_context"]
    assert names("system") == ["default"]


@pytest.mark.parametrize("file", FILES)
def test_a_prompt_is_its_file_without_the_last_line_end(file: str) -> None:
    kind, name, language, _ = file.split(".")
    template = load(kind, name, language)
    text = (FOLDER / file).read_text(encoding="utf-8").removesuffix("\n")
    assert template.render(**{name: "{" + name + "}" for name in template.variables}) == text
    assert template.digest == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert (template.kind, template.name, template.language) == (kind, name, language)
    assert load(kind, name, language) is template
    assert any("\u4e00" <= letter <= "\u9fff" for letter in text) == (language == "zh")


def test_a_language_that_lacks_is_given_in_english() -> None:
    assert load("system", "default", "fr") is load("system")
    assert load("react", "default", "zh") is not load("react")


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("react", "nope", "no react prompt named 'nope'. Known: ChatGLM3, default."),
        ("react", "Default", "no react prompt named 'Default'"),
        ("react", "../errors", "no react prompt named '../errors'"),
        ("system", "", "no system prompt named ''. Known: default."),
        ("nope", "default", "named 'nope'. Known: chat_about, conclusion, glm3, hermes, judger, plan, qwen, react,"),
    ],
)
def test_an_unknown_prompt_is_refused_with_the_known_ones(kind: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(kind, name)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("react", "{tools} {input}", "react.mine.en: missing {agent_scratchpad}, {history}, {tool_names}."),
        (
            "react",
            "{tools} {tool_names} {history} {input} {agent_scratchpad} {extra}",
            "react.mine.en: unknown {extra}.",
        ),
        ("system", "You are {name}.", "system.mine.en: unknown {name}."),
        ("conclusion", "{task}", "conclusion.mine.en: missing {tasks_overview}."),
        ("summary", "{actions}", "summary.mine.en: missing {context}."),
        ("summary", "{text} {actions} {context}", "summary.mine.en: unknown {text}."),
        ("repair", "{reply} {schema}", "repair.mine.en: missing {error}."),
        ("nope", "hello", "no such kind of prompt"),
    ],
)
def test_a_template_with_wrong_places_is_refused(kind: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Template(kind, "mine", "en", text)
    assert message in str(caught.value)


def test_values_are_put_in_once_and_other_braces_are_text() -> None:
    text = '{"a": {tools}} {tool_names}{tool_names} {history} {input} {agent_scratchpad} {{x} { tools }'
    with pytest.raises(ConfigError, match=r"unknown \{x\}"):
        Template("react", "mine", "en", text)
    template = Template("react", "mine", "en", text.replace("{{x} ", "{X} {} "))
    rendered = template.render(
        tools="{input}", tool_names="{tools}", history="", input="{input}", agent_scratchpad="%s"
    )
    assert rendered == '{"a": {input}} {tools}{tools}  {input} %s {X} {} { tools }'


def test_values_must_fit_the_places() -> None:
    with pytest.raises(ConfigError, match=r"system\.default\.en: unknown \{name\}\."):
        load("system").render(name="x")
    with pytest.raises(ConfigError, match=r"missing \{history\}"):
        load("react").render(tools="", tool_names="", input="", agent_scratchpad="")


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    ("kind", "name", "variables"),
    [
        ("conclusion", "default", {"task", "tasks_overview"}),
        ("plan", "fast", {"tools", "width"}),
        ("plan", "generate", {"tools", "width"}),
        ("plan", "refine", {"overview", "task", "suggestions", "edits"}),
        ("repair", "default", {"error", "reply", "schema"}),
        ("reply", "plain", {"schema"}),
        ("summary", "rolling", {"text"}),
        ("summary", "tool_calls", {"context", "actions"}),
        ("summary", "working_context", {"context", "actions"}),
        ("task", "alone", {"step", "steps"}),
        ("task", "last", {"steps"}),
        ("task", "start", {"task", "overview"}),
        ("task", "step", {"step", "steps"}),
    ],
)
def test_a_prompt_asks_for_what_its_caller_has(kind: str, name: str, variables: set[str], language: str) -> None:
    assert load(kind, name, language).variables == variables


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    ("name", "fields"),
    [("tool_calls", ["intentions", "critical_actions"]), ("working_context", ["summary", "self_examination"])],
)
def test_a_summary_shows_the_form_of_its_answer_as_json(name: str, fields: list[str], language: str) -> None:
    rendered = load("summary", name, language).render(context="{actions}", actions="{0.__class__}")
    assert "{actions}" in rendered
    assert "{0.__class__}" in rendered
    assert list(json.loads(rendered.splitlines()[-1])) == fields


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_prompts_of_plans_name_the_calls_that_they_ask_for(language: str) -> None:
    wanted = {
        ("plan", "fast"): ("answer_directly", "generate_plan", "`needs`"),
        ("plan", "generate"): ("generate_plan", "`needs`"),
        ("plan", "refine"): ("subtask_operations", "`split`", "`add`", "`delete`", "`exit`"),
        ("task", "step"): ("subtask_submit", "ask_human", "give_up", "human_suggestion", "need_plan_rectification"),
        ("task", "alone"): ("subtask_submit", "give_up"),
        ("task", "last"): ("subtask_submit", "max_tool_call"),
    }
    for (kind, name), words in wanted.items():
        template = load(kind, name, language)
        text = template.render(**dict.fromkeys(template.variables, ""))
        assert all(word in text for word in words), (kind, name)
    assert "ask_human" not in load("task", "alone", language).render(step="", steps="")
