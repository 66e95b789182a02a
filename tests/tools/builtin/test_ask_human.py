"""The tool `ask_human`: what may be asked, and what is told of a question that nobody could answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stepwell.errors import ToolError
from stepwell.questions import Inquiry
from stepwell.tools.base import Tool, Toolbox
from stepwell.tools.builtin.ask_human import ask_human_tool
from stepwell.tools.policy import asking_of
from tests.tools.running import called, refused

FORM: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("arguments", "inquiry"),
    [
        ({"question": "Why?"}, Inquiry(text="Why?")),
        ({"question": "A\0", "choices": ["x", "y"]}, Inquiry(text="A\ufffd", choices=("x", "y"))),
        ({"question": "n?", "form": FORM}, Inquiry(text="n?", form=FORM)),
        (
            {"question": "?", "choices": ["x"], "timeout_seconds": 1.5, "default": "x"},
            Inquiry(text="?", choices=("x",), seconds=1.5, default="x"),
        ),
    ],
)
def test_a_question_can_be_free_or_have_choices_or_a_form(arguments: dict[str, Any], inquiry: Inquiry) -> None:
    assert ask_human_tool().question(arguments) == inquiry


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"question": " "}, "`question` has 1 characters"),
        ({"question": "x" * 4001}, "`question` has 4001 characters"),
        ({"question": "?", "choices": [""]}, "`choices` may be 20 at most"),
        ({"question": "?", "choices": list("abcdefghijklmnopqrstu")}, "`choices` may be 20 at most"),
        ({"question": "?", "choices": ["a", "a"]}, "the same answer twice"),
        ({"question": "?", "choices": ["a"], "default": "b"}, "none of the choices"),
        ({"question": "?", "timeout_seconds": 0}, "`timeout_seconds` is 0"),
        ({"question": "?", "timeout_seconds": 1e9}, "`timeout_seconds` is 1000000000.0"),
        ({"question": "?", "form": {}}, "`form` must be a JSON schema"),
        ({"question": "?", "form": {"type": "array", "properties": {"a": {}}}}, "`form` must be a JSON schema"),
        ({"question": "?", "form": {"properties": {"a": 1}}}, "must be a JSON schema"),
        ({"question": "?", "form": {**FORM, "required": 3}}, "can be checked: TypeError"),
        ({"question": "?", "form": FORM, "choices": ["a"]}, "either `choices` or `form`"),
        ({"question": "?", "form": FORM, "default": "a"}, "either `choices` or `form`"),
    ],
)
def test_a_question_that_nobody_could_answer_is_refused(arguments: dict[str, Any], fault: str) -> None:
    with pytest.raises(ToolError) as error:
        ask_human_tool().question(arguments)
    assert fault in str(error.value)


def test_it_is_a_tool_that_engines_know_and_its_arguments_are_checked() -> None:
    tool = ask_human_tool()
    assert isinstance(tool, Tool)
    assert asking_of(tool) is tool
    assert refused(Toolbox([tool]), "ask_human", {"choices": []}).status == "invalid"
    assert refused(Toolbox([tool]), "ask_human", {"question": "?", "more": 1}).status == "invalid"


def test_without_an_engine_there_is_nobody_to_ask() -> None:
    result = asyncio.run(called(ask_human_tool(), {"question": "?"}))
    assert (result.status, result.content) == ("failed", "Nobody can be asked here.")
