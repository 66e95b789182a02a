"""Scripts as files: which line answers, and what is said of a file that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwell.errors import ConfigError
from stepwell.messages import Message, Transcript
from stepwell.models.base import Failure, ModelRequest
from stepwell.models.script_file import script_of
from stepwell.models.scripted import Reply


def asked(*messages: Message) -> ModelRequest:
    return ModelRequest(Transcript(messages))


def test_the_first_line_that_fits_answers_also_behind_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "script.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"says": ["tea"], "text": "Green."}\r\n\n{"text": "What?"}\n')
    brain = script_of(path)
    assert brain(asked(Message("user", "Which tea?"))) == Reply("Green.")
    assert brain(asked(Message("user", "tea"), Message("assistant", "Green."), Message("user", "Hm."))) == Reply(
        "What?"
    )


def test_where_no_line_fits_the_model_fails_with_what_was_said(tmp_path: Path) -> None:
    path = tmp_path / "script.jsonl"
    path.write_bytes(b"")
    assert script_of(path)(asked(Message("user", "tea"))) == Failure("request", "no line of the script answers: tea")


DEEP = b'{"calls":[{"name":"x","arguments":' + b'{"a":' * 4000 + b"1" + b"}" * 4000 + b"}]}"


@pytest.mark.parametrize("line", [b"[]", b'{"text": 1}', b'{"word": "x"}', '{"text": "茶"}'.encode("gbk"), b"\0", DEEP])
def test_a_line_that_is_none_is_named(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "script.jsonl"
    path.write_bytes(b"{}\n" + line)
    with pytest.raises(ConfigError, match="line 2 of the script"):
        script_of(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the script"):
        script_of(tmp_path / "nothing")
