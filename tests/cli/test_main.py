"""The command line as a whole: help, version, texts and what a start costs."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from stepwell.cli.screen import short, visible
from stepwell.cli.texts import TEXTS, text
from tests.cli.running import Cli

COMMANDS = ["serve", "chat", "ask", "threads", "show", "replay", "doctor", "keys"]


def test_the_version_is_told(tmp_path: Path) -> None:
    done = asyncio.run(Cli(tmp_path).run("--version"))
    assert (done.code, done.out) == (0, f"stepwell {version('stepwell')}\n")


@pytest.mark.parametrize(("language", "words"), [("C.UTF-8", "Serve the data folder"), ("zh_CN.UTF-8", "提供服务")])
def test_help_names_every_command_in_the_language_of_the_person(tmp_path: Path, language: str, words: str) -> None:
    done = asyncio.run(Cli(tmp_path, LANG=language).run("--help"))
    assert done.code == 0
    assert words in done.out
    assert [command for command in COMMANDS if command not in done.out] == []


@pytest.mark.parametrize("command", [*COMMANDS, "keys add"])
def test_every_command_explains_itself(tmp_path: Path, command: str) -> None:
    done = asyncio.run(Cli(tmp_path).run(*command.split(), "--help"))
    assert (done.code, done.err) == (0, "")
    assert "--data" in done.out or command == "keys"


@pytest.mark.parametrize("command", ["--help", "--version", "doctor"])
def test_an_output_that_takes_nothing_is_an_error_told_once(tmp_path: Path, command: str) -> None:
    with open("/dev/full", "w") as full:
        done = asyncio.run(Cli(tmp_path).run(command, stdout=full))
    assert (done.code, done.err.count("No space left on device"), len(done.err.splitlines())) == (1, 1, 1)


def test_every_text_is_there_in_both_languages_with_the_same_values() -> None:
    def values(words: str) -> set[str]:
        return set(re.findall(r"\{([a-z]+)", words))

    assert {name: pair for name, pair in TEXTS.items() if values(pair[0]) != values(pair[1])} == {}
    assert [name for name, (_, chinese) in TEXTS.items() if not chinese] == []
    assert text("hint", "zh") != text("hint", "en")


def test_every_text_is_used_and_every_used_one_is_there() -> None:
    folder = Path(sys.modules["stepwell.cli.texts"].__file__ or "").parent
    source = "".join(path.read_text("utf-8") for path in folder.glob("*.py") if path.name != "texts.py")
    used = set(re.findall(r'say\(\s*"([a-z_]+)"', source))
    assert used - TEXTS.keys() == set()
    parts = ("column_", "context_", "differs_", "event_model_", "left_", "part_")
    made_up = {name for name in TEXTS if name.startswith(parts)}
    named = set(re.findall(r'"([a-z_]+)"', source))
    assert TEXTS.keys() - named - made_up == set()


def test_a_command_does_not_load_what_it_does_not_use() -> None:
    code = (
        "import sys, stepwell.cli\n"
        "print([name for name in ('typer', 'pydantic') if name in sys.modules])\n"
        "import stepwell.cli.app, stepwell.cli.ask\n"
        "print([name for name in ('rich', 'aiohttp', 'fastapi', 'uvicorn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n[]\n"


@pytest.mark.parametrize(
    ("words", "limit", "shown"),
    [("a  b\nc", 10, "a b c"), ("abcdef", 4, "abc…"), ("", 4, ""), (" " * 99, 4, "…"), ("abcd", 4, "abcd")],
)
def test_long_text_is_shortened_to_one_line(words: str, limit: int, shown: str) -> None:
    assert short(words, limit) == shown


def test_control_characters_are_made_visible() -> None:
    assert visible("a\x1b[0m\tb\r\nc\x07\x9b\rd") == "a\ufffd[0m\tb\nc\ufffd\ufffd\ufffdd"
    assert visible("a\u202etxt.exe\u2066b\u200d") == "a\ufffdtxt.exe\ufffdb\u200d"
