"""Prompt templates: what is there, and what a broken one is called."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import stepwell.prompts
from stepwell.errors import ConfigError
from stepwell.prompts import Template, load, names

FOLDER = Path(stepwell.prompts.__file__).parent
FILES = sorted(path.name for path in FOLDER.glob("*.txt"))


def test_every_prompt_comes_in_english_and_chinese() -> None:
    assert {name.rsplit(".", 2)[0] for name in FILES} == {"react.default", "react.ChatGLM3", "system.default"}
    assert len(FILES) == 6
    assert names("react") == ["ChatGLM3", "default"]
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
    assert ("。" in text) == (language == "zh")


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
        ("nope", "default", "no kind of prompt named 'nope'. Known: react, system."),
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
