"""`stepwell doctor`: what it finds, what mends it, and its exit code."""

from __future__ import annotations

import asyncio
import fcntl
import resource
import signal
import sys
from pathlib import Path

import pytest

from stepwell.cli import doctor as doctor_module
from stepwell.cli.screen import Screen
from stepwell.cli.sources import Sources
from stepwell.config import Config, McpServerSettings
from tests.cli.running import Cli, Done, finish
from tests.support.endpoint import Cut, Endpoint, Reply, document, error, stream


def doctor(cli: Cli, *args: str) -> Done:
    return asyncio.run(cli.run("doctor", *args))


def remedy_of(done: Done, words: str) -> str:
    """Return the line after the one with these words."""
    lines = done.out.splitlines()
    return lines[next(number for number, line in enumerate(lines) if words in line) + 1]


def test_with_nothing_configured_all_is_well_and_nothing_is_made(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    done = doctor(cli)
    assert (done.code, done.err) == (0, "")
    assert "model offline (default)" in done.out
    assert "stepwell serve" in remedy_of(done, "server")
    assert "STEPWELL_TOOLS__SHELL__ENABLED=true" in remedy_of(done, "tool shell")
    assert done.out.endswith("Everything that is configured works.\n")
    assert not cli.data.exists()


def test_it_speaks_chinese_to_those_who_do(tmp_path: Path) -> None:
    done = doctor(Cli(tmp_path, LC_ALL="zh_CN.UTF-8"))
    assert done.code == 0
    assert "数据目录" in done.out
    assert done.out.endswith("所有已配置的部分都可用。\n")


def asked(tmp_path: Path, reply: Reply, **env: str) -> tuple[Done, Endpoint]:
    """Let it look at the model `m` at an endpoint with this reply."""

    async def main() -> tuple[Done, Endpoint]:
        async with Endpoint([reply]) as endpoint:
            return await Cli(tmp_path, **env).at(endpoint.base_url).run("doctor"), endpoint

    return asyncio.run(main())


def test_an_endpoint_that_lists_the_model_works_and_gets_the_key(tmp_path: Path) -> None:
    done, endpoint = asked(tmp_path, document({"object": "list", "data": [{"id": "m"}]}))
    assert done.code == 0
    assert "ok   model m (default)" in done.out
    (request,) = endpoint.requests
    assert (request.method, request.path) == ("GET", "/v1/models")
    assert request.headers["authorization"] == "Bearer sk-1"
    assert "sk-1" not in done.out


def test_an_endpoint_without_a_list_of_models_works(tmp_path: Path) -> None:
    done, _ = asked(tmp_path, error(404, "not here"))
    assert (done.code, "ok   model m" in done.out) == (0, True)


def test_an_endpoint_that_does_not_list_the_model_deserves_a_look(tmp_path: Path) -> None:
    done, _ = asked(tmp_path, document({"data": [{"id": "qwen3"}]}))
    assert (done.code, "!    model m" in done.out) == (0, True)
    assert "qwen3" in remedy_of(done, "model m")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (error(401, "wrong key"), "api_key_env"),
        (stream(Cut.DROP), "models.m.base_url"),
        (Reply([Cut.STALL]), "models.m.base_url"),
    ],
)
def test_an_endpoint_that_refuses_or_breaks_does_not_work(tmp_path: Path, reply: Reply, words: str) -> None:
    done, _ = asked(tmp_path, reply)
    assert (done.code, "BAD  model m" in done.out) == (1, True)
    assert words in remedy_of(done, "model m")
    assert done.out.endswith("Does not work: 1.\n")


def test_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([Reply([Cut.STALL])]) as endpoint:
            process = await Cli(tmp_path).at(endpoint.base_url).start("doctor")
            await endpoint.request(0)
            process.send_signal(signal.SIGINT)
            done = await finish(process)
            assert (done.code, done.out) == (130, "")

    asyncio.run(main())


def test_an_endpoint_that_is_not_there_does_not_work(tmp_path: Path) -> None:
    done = doctor(Cli(tmp_path).at("http://ada:secret@127.0.0.1:9/v1"))
    assert done.code == 1
    assert "127.0.0.1:9/v1" in done.out
    assert "secret" not in done.out + done.err


def test_a_key_variable_that_is_not_set_is_named_with_the_command(tmp_path: Path) -> None:
    cli = Cli(tmp_path).at("http://127.0.0.1:9/v1", STEPWELL_MODELS__M__API_KEY_ENV="MY_KEY")
    done = doctor(cli)
    assert done.code == 1
    assert "export MY_KEY=" in remedy_of(done, "model m")


def test_a_model_without_a_list_of_models_is_built_and_not_asked(tmp_path: Path) -> None:
    good = '[models.c]\nkind = "anthropic"\nmodel = "claude-x"\napi_key_env = "KEY"\n'
    (tmp_path / "stepwell.toml").write_text(good + '[models.v]\nkind = "provider"\nmodel = "nobody:x"\n')
    done = doctor(Cli(tmp_path, KEY="sk-ant-secret"))
    assert "ok   model c (default)" in done.out
    assert "anthropic, claude-x" in done.out
    assert "BAD  model v" in done.out
    assert "nobody" in done.out
    assert "sk-ant" not in done.out + done.err


def test_a_wrong_setting_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "stepwell.toml").write_text("port = 'many'\n")
    done = doctor(Cli(tmp_path))
    assert done.code == 1
    assert "BAD  settings: port" in done.out
    assert "stepwell.toml" in done.out
    (tmp_path / "stepwell.toml").write_text("port = 8701\n")
    assert str(tmp_path / "stepwell.toml") in doctor(Cli(tmp_path)).out


def test_a_misspelt_variable_is_pointed_out(tmp_path: Path) -> None:
    done = doctor(Cli(tmp_path, STEPWELL_DATTA="x"))
    assert done.code == 0
    assert "unset STEPWELL_DATTA" in remedy_of(done, "STEPWELL_DATTA")


def test_a_broken_database_is_found(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    asyncio.run(cli.run("ask", "what is 2+3?"))
    assert "1 threads, 0 unfinished" in doctor(cli).out
    file = cli.data / "stepwell.db"
    data = bytearray(file.read_bytes())
    data[4096:] = b"\x55" * (len(data) - 4096)
    file.write_bytes(data)
    done = doctor(cli)
    assert (done.code, "BAD  database" in done.out) == (1, True)
    assert str(file) in remedy_of(done, "database")


def test_a_folder_that_cannot_be_used_is_found(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    done = doctor(Cli(tmp_path))
    assert (done.code, "BAD  data folder" in done.out) == (1, True)
    assert "STEPWELL_DATA" in remedy_of(done, "data folder")


def test_a_folder_and_a_file_that_may_not_even_be_looked_at_are_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refused)
    assert doctor_module.run(Screen("en"), Sources(data=tmp_path / "data")) == 1
    said = capsys.readouterr().out
    assert f"BAD  data folder: {tmp_path / 'data'}: Permission denied" in said
    assert "tools: calculate, now" in said
    monkeypatch.setattr(Path, "is_file", refused)
    assert doctor_module.run(Screen("en"), Sources(tmp_path / "s.toml")) == 1
    assert "BAD  settings: [Errno 13] Permission denied" in capsys.readouterr().out


def test_a_folder_that_others_can_read_is_pointed_out(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.data.mkdir(mode=0o755)
    done = doctor(cli)
    assert done.code == 0
    assert remedy_of(done, "data folder").endswith(f"chmod 700 {cli.data}")


def test_a_folder_that_takes_no_bytes_is_found(tmp_path: Path) -> None:
    def forbid() -> None:  # as on a full disk, a file can be made there and nothing be written to it
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    cli = Cli(tmp_path)
    cli.data.mkdir(mode=0o700)
    done = asyncio.run(cli.run("doctor", preexec_fn=forbid))
    assert (done.code, "BAD  data folder" in done.out) == (1, True)


def test_the_server_of_another_folder_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    async def main() -> None:
        one, other = Cli(tmp_path / "one"), Cli(tmp_path / "other")
        for each in (one, other):
            each.data.mkdir(mode=0o700, parents=True)
        async with one.serving() as server:
            address = f'{{"url": "{server.url}", "key": "sw_00000000_of_a_server_that_died", "pid": 1}}'
            (other.data / "server.json").write_text(address)
            assert f"ok   server: {server.url}" in (await one.run("doctor")).out
            assert "off  server:" in (await other.run("doctor")).out

    asyncio.run(main())


def test_a_running_server_and_a_folder_held_otherwise_are_told_apart(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        async with cli.serving() as server:
            assert f"ok   server: {server.url}" in (await cli.run("doctor")).out
        with open(cli.data / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = await cli.run("doctor")
        assert (done.code, "!    server" in done.out) == (0, True)

    asyncio.run(main())


def test_tools_that_cannot_be_built_are_found(tmp_path: Path) -> None:
    done = doctor(Cli(tmp_path, STEPWELL_TOOLS__MODULES="no_such_module_here"))
    assert (done.code, "BAD  tools: " in done.out) == (1, True)
    assert "no_such_module_here" in done.out


def test_a_shell_without_its_sandbox_does_not_work_and_one_without_protection_deserves_a_look(tmp_path: Path) -> None:
    bare = Cli(tmp_path, STEPWELL_TOOLS__SHELL__ENABLED="true", PATH=str(Path(sys.executable).parent))
    done = doctor(bare)
    assert (done.code, "BAD  tool" in done.out, "bubblewrap" in done.out) == (1, True, True)
    open_ = Cli(tmp_path, STEPWELL_TOOLS__SHELL__ENABLED="true", STEPWELL_TOOLS__SHELL__SANDBOX="none")
    done = doctor(open_)
    assert (done.code, "!    tool shell" in done.out) == (0, True)
    assert "SANDBOX=bubblewrap" in remedy_of(done, "tool shell")


def test_an_extra_that_the_server_needs_and_does_not_find_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor_module, "find_spec", lambda name: None)
    config, screen = Config(mcp_server=McpServerSettings(enabled=True)), Screen("en")
    (found,) = doctor_module._look_at_extras(config, screen)
    assert (found.state, found.remedy) == ("bad", 'pip install "stepwell[mcp]"')
    assert doctor_module._look_at_extras(Config(), screen) == []
