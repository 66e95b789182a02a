"""What MCP servers are given of the environment, and what must stand in no message."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwell.config import McpSettings, load
from stepwell.errors import ConfigError

OWN = {
    "PATH": "/bin",
    "HOME": "/home/ada",
    "LANG": "C",
    "TOKEN": "s3cret",
    "OTHER": "o",
    "STEPWELL_MODELS__M__API_KEY": "k",
}


def test_a_program_is_given_the_basics_what_is_passed_and_what_is_said() -> None:
    settings = McpSettings.model_validate({"command": "x", "env": {"A": "1", "LANG": "zh"}, "env_pass": ["TOKEN"]})
    assert settings.environment(OWN) == {"PATH": "/bin", "HOME": "/home/ada", "LANG": "zh", "TOKEN": "s3cret", "A": "1"}
    assert set(settings.secrets(OWN)) == {"s3cret"}
    assert "s3cret" not in repr(settings)


def test_headers_come_from_variables_and_the_settings() -> None:
    told = {"url": "http://a/mcp", "headers": {"X-A": "1"}, "headers_env": {"Authorization": "TOKEN"}}
    settings = McpSettings.model_validate(told)
    assert settings.sent_headers(OWN) == {"X-A": "1", "Authorization": "s3cret"}
    with pytest.raises(ConfigError, match=r"headers_env\.Authorization: the variable TOKEN is not set"):
        settings.sent_headers({"TOKEN": ""})


def test_a_key_of_a_header_stands_in_no_message_with_its_scheme_or_without() -> None:
    told = {"url": "https://a/mcp", "headers": {"Authorization": "Bearer k3y-12345"}, "headers_env": {"X-B": "OWN"}}
    settings = McpSettings.model_validate(told)
    assert set(settings.secrets({"OWN": "Basic YWRhOnB3"})) == {
        "Bearer k3y-12345",
        "k3y-12345",
        "Basic YWRhOnB3",
        "YWRhOnB3",
    }


def test_a_key_in_the_address_stands_in_no_message() -> None:
    settings = McpSettings.model_validate({"url": "https://ada:pass%20word@a.example/mcp?key=s3cret%2Fkey&v=1"})
    assert set(settings.secrets({})) == {"pass%20word", "s3cret/key", "s3cret%2Fkey"}


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(ConfigError, match="env_pass: the variable NOPE is not set; export the value in it"):
        McpSettings.model_validate({"command": "x", "env_pass": ["NOPE"]}).environment(OWN)


@pytest.mark.parametrize("name", ["a__b", "a_", "_a", "", "x" * 33, "ä", "a.b", "a b"])
def test_a_server_of_a_name_that_tools_cannot_bear_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="mcp"):
        load(mcp={name: {"command": "x"}})


def test_a_wrong_setting_of_a_file_is_named_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "stepwell.toml"
    file.write_text('[mcp.files]\ncommand = "x"\ntimout = 3\n')
    with pytest.raises(ConfigError, match=r"mcp\.files\.timout: there is no such setting"):
        load(file)


def test_a_header_that_ends_in_a_line_break_is_sent_without_it_and_others_are_refused_without_their_value() -> None:
    settings = McpSettings.model_validate({"url": "http://a/mcp", "headers_env": {"X-Key": "TOKEN"}})
    assert settings.sent_headers({"TOKEN": "s3cret-key\n"}) == {"X-Key": "s3cret-key"}
    assert "s3cret-key" in settings.secrets({"TOKEN": "s3cret-key\n"})
    for value in ("s3cret\nkey", "s3cret\0key", "密钥-s3cret"):
        with pytest.raises(
            ConfigError, match=r"headers_env\.X-Key: the value holds a line break or another"
        ) as refused:
            settings.sent_headers({"TOKEN": value})
        assert "s3cret" not in str(refused.value)
