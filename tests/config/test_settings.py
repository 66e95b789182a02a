"""Settings: where they come from, which wins, and what is said of wrong ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stepwell.config import Config, is_loopback, load, settings_file, unknown_variables
from stepwell.errors import ConfigError
from stepwell.specs import Rule, TaskOptions

FULL = """
host = "127.0.0.2"
port = 9000
data = "~/elsewhere"
auth = "off"
hosts = ["chat.test"]
origins = ["https://chat.test"]
max_body = 5000
default_model = "second"

[models.first]
base_url = "http://127.0.0.1:1/v1"
api_key = "sk-file"
window = 4096
images = true
connect_timeout = 1.5
stall_timeout = 3
attempts = 2
max_output = 1000
price_input = 0.5
price_output = 1
extra = { top_p = 0.5, stop_token_ids = [1, 2] }

[models.second]
base_url = "https://models.test/v1"
model = "second-large"
api_key_env = "SECOND_KEY"
dialect = "react"

[models.third]
kind = "offline"

[agent]
system = "Be brief."
tools = ["now"]
temperature = 0.1
max_tokens = 100
prompt = "ChatGLM3"
language = "zh"

[limits]
steps = 5
tool_calls = 6
tokens = 7000
seconds = 8.5
money = 0.25
repetitions = 4

[limits.thread]
steps = 50
money = 2

[approvals]
seconds = 60

[[approvals.rules]]
decision = "allow"
tool = "write_*"
effect = "write"
place = "workspace"
untrusted = false
arguments = { path = "notes/*" }

[[approvals.rules]]
decision = "deny"

[tasks]
max_chain_length = 9
initial_plan = false
max_plan_tree_depth = 2
max_plan_tree_width = 4
max_plan_refine_chain_length = 0
max_parallel_tasks = 3
fast_path = false

[agents.reader]
description = "Reads files."
model = "first"
tools = ["now"]
system = "Read."
max_chain_length = 3

[tools]
workspace = "/srv/work"
modules = ["my_tools"]
disabled = ["calculate"]

[tools.shell]
enabled = true
sandbox = "none"
approval = "allow"
timeout = 5

[tools.ask_human]
enabled = true

[tools.files]
enabled = true

[chatchat]
model = "gpt-x"
agent_model = "first"
temperature = 0.3
history_rounds = 5
dialects = { "gpt-x" = "native" }
max_steps = 4
keep_days = 2
language = "en"
"""


def settings(tmp_path: Path, text: str, **values: Any) -> Config:
    file = tmp_path / "s.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, **values)


def refusal(tmp_path: Path, text: str = "", **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, text, **values)
    return str(caught.value)


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(variables: Mapping[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


def test_without_any_settings_everything_has_a_safe_default() -> None:
    config = load()
    assert (config.host, config.port, config.auth) == ("127.0.0.1", 8700, "keys")
    assert config.model_names == ["offline"]
    assert (config.tools.shell.enabled, config.tools.files.enabled) == (False, False)
    assert config.folder == Path.home() / ".local" / "share" / "stepwell"
    assert config.workspace == config.folder / "workspace"
    assert (config.limits.steps, config.chatchat.max_steps, config.chatchat.keep_days) == (50, 15, 30)
    assert (config.limits.money, config.limits.thread.steps, config.limits.repetitions) == (None, None, 3)
    assert (config.tools.shell.approval, config.tools.ask_human.enabled) == ("ask", False)
    assert (config.approvals.rules, config.approvals.seconds, config.agents) == ([], None, {})


def test_tasks_go_by_the_same_figures_whether_settings_or_a_program_start_them() -> None:
    assert TaskOptions(**Config().tasks.model_dump()) == TaskOptions()


def test_a_file_sets_everything(tmp_path: Path) -> None:
    config = settings(tmp_path, FULL)
    assert (config.host, config.port, config.auth, config.max_body) == ("127.0.0.2", 9000, "off", 5000)
    assert (config.hosts, config.origins) == (["chat.test"], ["https://chat.test"])
    assert config.folder == Path.home() / "elsewhere"
    assert config.model_names == ["second", "first", "third", "offline"]
    first = config.models["first"]
    assert (first.window, first.images, first.attempts, first.stall_timeout) == (4096, True, 2, 3.0)
    assert first.extra == {"top_p": 0.5, "stop_token_ids": [1, 2]}
    assert config.api_key(first) == "sk-file"
    assert (config.models["second"].model, config.models["second"].dialect) == ("second-large", "react")
    assert config.models["third"].kind == "offline"
    assert (config.agent.tools, config.agent.prompt, config.agent.language) == (["now"], "ChatGLM3", "zh")
    assert (config.limits.steps, config.limits.seconds) == (5, 8.5)
    assert (config.tools.shell.enabled, config.tools.shell.sandbox, config.tools.shell.timeout) == (True, "none", 5.0)
    assert (config.tools.modules, config.tools.disabled) == (["my_tools"], ["calculate"])
    assert config.workspace == Path("/srv/work")
    assert (first.max_output, first.price_input, first.price_output) == (1000, 0.5, 1.0)
    assert (config.limits.money, config.limits.repetitions) == (0.25, 4)
    assert config.limits.thread.model_dump(exclude_none=True) == {"steps": 50, "money": 2.0}
    assert config.approvals.seconds == 60
    assert [Rule(**each.model_dump()) for each in config.approvals.rules] == [
        Rule(
            decision="allow",
            tool="write_*",
            effect="write",
            place="workspace",
            untrusted=False,
            arguments={"path": "notes/*"},
        ),
        Rule(decision="deny"),
    ]
    assert TaskOptions(**config.tasks.model_dump()) == TaskOptions(
        max_chain_length=9,
        initial_plan=False,
        max_plan_tree_depth=2,
        max_plan_tree_width=4,
        max_plan_refine_chain_length=0,
        max_parallel_tasks=3,
        fast_path=False,
    )
    reader = config.agents["reader"]
    assert (reader.description, reader.model, reader.tools, reader.system) == (
        "Reads files.",
        "first",
        ["now"],
        "Read.",
    )
    assert (reader.max_chain_length, config.tools.shell.approval, config.tools.ask_human.enabled) == (3, "allow", True)
    assert config.chatchat.dialects == {"gpt-x": "native"}
    assert (config.chatchat.history_rounds, config.chatchat.language) == (5, "en")


def test_a_file_of_the_current_folder_is_found_and_a_named_one_wins(tmp_path: Path, env: Any) -> None:
    Path("stepwell.toml").write_text("port = 1111")
    assert (load().port, settings_file()) == (1111, Path("stepwell.toml"))
    (tmp_path / "named.toml").write_text("port = 2222")
    env({"STEPWELL_CONFIG": str(tmp_path / "named.toml")})
    assert load().port == 2222
    (tmp_path / "argument.toml").write_text("port = 3333")
    assert load(tmp_path / "argument.toml").port == 3333


def test_a_variable_wins_over_the_file_and_an_argument_over_both(tmp_path: Path, env: Any) -> None:
    text = 'port = 1\nhost = "127.0.0.2"\nhosts = ["a"]'
    env({"STEPWELL_PORT": "2", "STEPWELL_HOSTS": "b,c"})
    config = settings(tmp_path, text)
    assert (config.port, config.host, config.hosts) == (2, "127.0.0.2", ["b", "c"])
    assert settings(tmp_path, text, port=3).port == 3
    assert settings(tmp_path, text, port=None).port == 2


def test_variables_reach_every_level_and_make_models(tmp_path: Path, env: Any) -> None:
    env(
        {
            "STEPWELL_MODELS__MAIN__BASE_URL": "http://127.0.0.1:1/v1",
            "STEPWELL_MODELS__MAIN__API_KEY": "sk-env",
            "STEPWELL_MODELS__MAIN__WINDOW": "9000",
            "STEPWELL_MODELS__MAIN__IMAGES": "true",
            "STEPWELL_MODELS__FIRST__MODEL": "from-env",
            "STEPWELL_DEFAULT_MODEL": "main",
            "STEPWELL_TOOLS__SHELL__ENABLED": "true",
            "STEPWELL_TOOLS__SHELL__SANDBOX": "none",
            "STEPWELL_TOOLS__MODULES": " one , two.three ",
            "STEPWELL_TOOLS__DISABLED": "",
            "STEPWELL_AGENT__TOOLS": "now, calculate",
            "STEPWELL_AGENT__TEMPERATURE": "0.5",
            "STEPWELL_LIMITS__SECONDS": "1.5",
            "STEPWELL_LIMITS__THREAD__MONEY": "0.75",
            "STEPWELL_AGENTS__READER__DESCRIPTION": "Reads.",
            "STEPWELL_APPROVALS__RULES": '[{"decision": "deny", "tool": "shell"}]',
            "STEPWELL_CHATCHAT__KEEP_DAYS": "3",
            "STEPWELL_DATA": str(tmp_path / "data"),
            "STEPWELL_ORIGINS": "https://a.test,https://b.test",
        }
    )
    config = settings(tmp_path, '[models.first]\nbase_url = "http://127.0.0.1:2/v1"\nwindow = 512\n[agent]\nprompt="x"')
    assert config.model_names == ["main", "first", "offline"]
    main, first = config.models["main"], config.models["first"]
    assert (main.base_url, main.window, main.images) == ("http://127.0.0.1:1/v1", 9000, True)
    assert config.api_key(main) == "sk-env"
    assert (first.base_url, first.model, first.window) == ("http://127.0.0.1:2/v1", "from-env", 512)
    assert (config.tools.shell.enabled, config.tools.shell.sandbox) == (True, "none")
    assert (config.tools.modules, config.tools.disabled) == (["one", "two.three"], [])
    assert (config.agent.tools, config.agent.temperature, config.agent.prompt) == (["now", "calculate"], 0.5, "x")
    assert (config.limits.seconds, config.chatchat.keep_days) == (1.5, 3)
    assert (config.limits.thread.money, config.agents["reader"].description) == (0.75, "Reads.")
    assert [(each.decision, each.tool) for each in config.approvals.rules] == [("deny", "shell")]
    assert config.folder == tmp_path / "data"
    assert config.origins == ["https://a.test", "https://b.test"]


def test_dictionaries_and_lists_may_be_given_as_json_in_a_variable(env: Any) -> None:
    env(
        {
            "STEPWELL_MODELS": '{"main": {"base_url": "http://127.0.0.1:1/v1", "extra": {"top_k": 3}}}',
            "STEPWELL_CHATCHAT__DIALECTS": '{"gpt-4": "native"}',
            "STEPWELL_HOSTS": '["a.test", "b.test"]',
        }
    )
    config = load()
    assert config.models["main"].extra == {"top_k": 3}
    assert config.chatchat.dialects == {"gpt-4": "native"}
    assert config.hosts == ["a.test", "b.test"]
    env({"STEPWELL_HOSTS": "[a", "STEPWELL_MODELS": "{'main': 1}"})
    with pytest.raises(ConfigError) as caught:
        load()
    assert "hosts: it is no JSON" in str(caught.value)
    assert "models: it is no JSON" in str(caught.value)


def test_an_empty_variable_is_as_good_as_none(tmp_path: Path, env: Any) -> None:
    env({"STEPWELL_DATA": "", "STEPWELL_PORT": "", "STEPWELL_CONFIG": "", "STEPWELL_AUTH": ""})
    config = settings(tmp_path, "port = 5")
    assert (config.port, config.auth) == (5, "keys")
    assert config.folder == Path.home() / ".local" / "share" / "stepwell"


WRONG: list[tuple[str, str, str]] = [
    ("port = 70000", "port", "65535"),
    ('port = "many"', "port", "integer"),
    ("port = -1", "port", "0"),
    ('auth = "of"', "auth", "'keys' or 'off'"),
    ('host = ""', "host", "at least 1"),
    ("prot = 1", "prot", "no such setting"),
    ("max_body = 1", "max_body", "1000"),
    ('default_model = "none"', "default_model", "offline"),
    ("[model.m]", "model", "no such setting"),
    ("[models.m]", "models.m", "base_url"),
    ('[models.m]\nbase_url = "127.0.0.1:1"', "models.m", "http://127.0.0.1:11434/v1"),
    ('[models.m]\nbase_url = "http://"', "models.m", "http://127.0.0.1:11434/v1"),
    ('[models.m]\nbase_url = "http:///v1"', "models.m", "http://127.0.0.1:11434/v1"),
    ('[models.m]\nbase_url = "http://[::1/v1"', "models.m", "http://127.0.0.1:11434/v1"),
    ('[models.m]\nkind = "claude"', "models.m.kind", "'mistral' or 'provider'"),
    ('[models.m]\nkind = "provider"\nmodel = "claude-haiku-4-5"', "models.m", "anthropic:claude-opus-5"),
    ('[models.m]\nkind = "anthropic"\nbase_url = "gateway"', "models.m", "http://127.0.0.1:11434/v1"),
    ('[models.m]\nbase_url = "http://x/v1"\nbaseurl = "x"', "models.m.baseurl", "no such setting"),
    ('[models.m]\nbase_url = "http://x/v1"\nwindow = 1', "models.m.window", "256"),
    ('[models.m]\nbase_url = "http://x/v1"\nattempts = 0', "models.m.attempts", "1"),
    ('[models.m]\nbase_url = "http://x/v1"\nstall_timeout = 0', "models.m.stall_timeout", "greater than 0"),
    ('[models.m]\nbase_url = "http://x/v1"\napi_key = 7', "models.m.api_key", "string"),
    ('[models.m]\nbase_url = "http://x/v1"\nprice_input = 1', "models.m", "price_output"),
    ('[models.m]\nbase_url = "http://x/v1"\nprice_output = 1', "models.m", "price_input"),
    ('[models.m]\nkind = "offline"\nprice_input = -1\nprice_output = 1', "models.m.price_input", "0"),
    ('[models.m]\nkind = "offline"\nprice_input = nan\nprice_output = 1', "models.m.price_input", "finite"),
    ('[models.m]\nkind = "offline"\nmax_output = 0', "models.m.max_output", "1"),
    ("[limits]\nmoney = 0", "limits.money", "0"),
    ("[limits]\nmoney = inf", "limits.money", "finite"),
    ("[limits]\nrepetitions = -1", "limits.repetitions", "0"),
    ("[limits.thread]\ntokens = 0", "limits.thread.tokens", "1"),
    ("[limits.thread]\nrepetitions = 3", "limits.thread.repetitions", "no such setting"),
    ('[[approvals.rules]]\ntool = "shell"', "approvals.rules.0.decision", "required"),
    ('[[approvals.rules]]\ndecision = "maybe"', "approvals.rules.0.decision", "'allow', 'ask' or 'deny'"),
    ('[[approvals.rules]]\ndecision = "ask"\neffect = "read"', "approvals.rules.0.effect", "'write'"),
    ('[[approvals.rules]]\ndecision = "ask"\nname = "x"', "approvals.rules.0.name", "no such setting"),
    ("[approvals]\nseconds = 0", "approvals.seconds", "0"),
    ("[tasks]\nmax_chain_length = 0", "tasks.max_chain_length", "1"),
    ("[tasks]\nmax_parallel_tasks = 0", "tasks.max_parallel_tasks", "1"),
    ("[agents.a]", "agents.a.description", "required"),
    ('[agents.a]\ndescription = "x"\nmodel = "none"', "agents.a.model", "offline"),
    ('[agents."a/b"]\ndescription = "x"', "agents.a/b", "pattern"),
    ('[tools.shell]\napproval = "never"', "tools.shell.approval", "'ask' or 'allow'"),
    ("[agent]\ntemperature = 3", "agent.temperature", "2"),
    ('[agent]\nlanguage = "fr"', "agent.language", "'auto', 'en' or 'zh'"),
    ("[agent]\ntools = 7", "agent.tools", "list"),
    ("[limits]\nsteps = 0", "limits.steps", "1"),
    ("[limits]\nseconds = 0", "limits.seconds", "0"),
    ("[limits]\nstep = 1", "limits.step", "no such setting"),
    ("[tools.shell]\nenabled = 7", "tools.shell.enabled", "boolean"),
    ('[tools.shell]\nsandbox = "docker"', "tools.shell.sandbox", "bubblewrap"),
    ("[tools]\nshell = true", "tools.shell", ""),
    ("[chatchat]\ntemperature = 1.5", "chatchat.temperature", "1"),
    ("[chatchat]\nhistory_rounds = -1", "chatchat.history_rounds", "0"),
    ("[chatchat]\nkeep_days = 0", "chatchat.keep_days", "1"),
    ('data = "~nobody-of-this-name/x"', "data", "set HOME or write the whole path"),
    ('data = "a\\u0000b"', "data", "U+0000"),
    ('[tools]\nworkspace = "~nobody-of-this-name"', "tools.workspace", "set HOME or write the whole path"),
    ('[models.m]\nkind = "scripted"\nscript = "a\\u0000b"', "models.m.script", "U+0000"),
    ('[mcp.m]\ncommand = "x"\ncwd = "~nobody-of-this-name"', "mcp.m.cwd", "set HOME or write the whole path"),
    ('[models.m]\nbase_url = "http://127.0.0.1:99999/v1"', "models.m", "http://127.0.0.1:11434/v1"),
    ('[models.m]\nkind = "offline"\nstall_timeout = inf', "models.m.stall_timeout", "1000000000"),
    ("[approvals]\nseconds = inf", "approvals.seconds", "1000000000"),
    ("[approvals]\nseconds = 1e18", "approvals.seconds", "1000000000"),
    ("[limits]\nseconds = inf", "limits.seconds", "1000000000"),
    ("[limits]\nmoney = 1e300", "limits.money", "1000000000000000"),
    ("[limits]\ntokens = 100000000000000000000", "limits.tokens", "1000000000000000"),
    ("[tools.shell]\ntimeout = inf", "tools.shell.timeout", "1000000000"),
    ("[openai]\nkeep_days = 99999999999", "openai.keep_days", "36500"),
]


@pytest.mark.parametrize(("text", "place", "remedy"), WRONG)
def test_a_wrong_setting_is_named_with_its_place_and_remedy(tmp_path: Path, text: str, place: str, remedy: str) -> None:
    message = refusal(tmp_path, text)
    assert message.startswith((f"{place}: ", f"{place}.")) or place in ("default_model", "agents.a.model")
    assert place in message
    assert remedy in message
    assert "s.toml" in message
    assert "\n" not in message


def test_without_a_home_folder_the_data_folder_has_to_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless(path: str) -> str:
        return path  # as for a user without HOME and without an entry among the system's users

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "expanduser", homeless)
    with pytest.raises(ConfigError, match="data: there is no home folder for ~; set HOME or write the whole path"):
        load()
    assert load(data=tmp_path).folder == tmp_path


def test_a_file_nested_without_end_is_refused(tmp_path: Path) -> None:
    assert "nested too deeply" in refusal(tmp_path, "a = " + "[" * 5000)


@pytest.mark.parametrize("origin", ["https://chat.test/", "chat.test", "null", "*", "https://Chat.test", "https://"])
def test_what_no_browser_sends_as_an_origin_is_refused(tmp_path: Path, origin: str) -> None:
    message = refusal(tmp_path, f'origins = ["{origin}"]')
    assert repr(origin) in message
    assert "https://chat.example.org" in message


def test_all_wrong_settings_are_named_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, 'port = "x"\nauth = "y"\n[limits]\nsteps = 0')
    assert [line.partition(":")[0] for line in message.split("\n")] == ["port", "auth", "limits.steps"]


def test_a_wrong_variable_is_named_as_such(tmp_path: Path, env: Any) -> None:
    env({"STEPWELL_LIMITS__STEPS": "none"})
    message = refusal(tmp_path)
    assert message.startswith("limits.steps: ")
    assert "STEPWELL_LIMITS__STEPS" in message


def test_a_misspelt_variable_inside_a_section_is_refused_and_others_are_listed(tmp_path: Path, env: Any) -> None:
    env({"STEPWELL_PROT": "1", "STEPWELL_PORT": "1", "STEPWELL_CONFIG": ""})
    assert unknown_variables() == ["STEPWELL_PROT"]
    env({"STEPWELL_TOOLS__SHEL__ENABLED": "true"})
    message = refusal(tmp_path)
    assert message.startswith("tools.shel: there is no such setting")
    assert "STEPWELL_TOOLS__SHEL" in message


@pytest.mark.parametrize("broken", ["port = ", "[models", "port = 1\nport = 2", "\x00", "port = 08700"])
def test_a_file_that_is_no_toml_is_named_with_the_line(tmp_path: Path, broken: str) -> None:
    message = refusal(tmp_path, broken)
    assert "s.toml is no valid TOML" in message
    assert "line" in message or "end of document" in message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, env: Any) -> None:
    for missing in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match="there is no settings file"):
            load(missing)
    env({"STEPWELL_CONFIG": str(tmp_path / "none.toml")})
    with pytest.raises(ConfigError, match="there is no settings file"):
        load()
    latin = tmp_path / "latin.toml"
    latin.write_bytes('host = "m\xfcller"'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.toml is no valid TOML"):
        load(latin)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.test", "127.0.0.1.evil.test"])
def test_auth_may_be_off_on_loopback_only(tmp_path: Path, host: str) -> None:
    message = refusal(tmp_path, f'host = "{host}"\nauth = "off"')
    assert host in message
    assert "127.0.0.1" in message
    assert settings(tmp_path, f'host = "{host}"').auth == "keys"
    for mine in ("127.0.0.1", "localhost", "::1", "127.3.2.1"):
        assert settings(tmp_path, f'host = "{mine}"\nauth = "off"').host == mine


def test_loopback_is_what_only_this_machine_reaches() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.255.1.2", "::1", "localhost")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "::", "10.0.0.1", "127.evil.test", "localhost.evil.test", "127.1")))


def test_the_key_of_a_model_comes_from_its_variable_and_a_missing_one_is_named(tmp_path: Path, env: Any) -> None:
    config = settings(tmp_path, FULL)
    with pytest.raises(ConfigError, match="SECOND_KEY"):
        config.api_key(config.models["second"])
    env({"SECOND_KEY": "sk-second"})
    assert config.api_key(config.models["second"]) == "sk-second"


def test_no_key_is_shown_when_settings_are_printed_or_wrong(tmp_path: Path) -> None:
    config = settings(tmp_path, FULL)
    assert "sk-file" not in f"{config!r} {config} {config.model_dump()} {config.model_dump_json()}"
    wrong = '[models.m]\nbase_url = "nowhere"\napi_key = "sk-canary"\nwindow = "sk-canary"'
    assert "sk-canary" not in refusal(tmp_path, wrong)


def test_settings_cannot_be_changed_afterwards(tmp_path: Path) -> None:
    config = settings(tmp_path, FULL)
    for section, name in ((config, "port"), (config.limits, "steps"), (config.models["first"], "api_key")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(section, name, 1)
