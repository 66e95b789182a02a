"""The sandbox: what a command can reach in it, and what is said where there is none."""

import asyncio
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from stepwell.errors import ConfigError, ToolError
from stepwell.tools.process import Outcome
from stepwell.tools.sandbox import CommandLimits, Sandbox, probe
from tests.tools.test_process import until_closed

INSTALL = "bubblewrap is not installed; these tests need it: apt-get update && apt-get install -y bubblewrap"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    if shutil.which("bwrap") is None:
        pytest.fail(INSTALL)
    return tmp_path / "data" / "workspace"


async def inside(workspace: Path, command: str, limits: CommandLimits | None = None, seconds: float = 20) -> Outcome:
    """Run a command under bubblewrap."""
    return await Sandbox("bubblewrap", workspace, limits).run(command, seconds, 30_000)


def said(workspace: Path, command: str, limits: CommandLimits | None = None) -> str:
    """Return what a command under bubblewrap prints, errors after output."""
    outcome = asyncio.run(inside(workspace, command, limits))
    return outcome.stdout + outcome.stderr


def test_bubblewrap_works_here(workspace: Path) -> None:
    found = probe()
    assert found.ok, f"{found.reason} {found.remedy}"


def test_a_command_works_in_its_workspace(workspace: Path) -> None:
    assert said(workspace, "pwd; mkdir a; echo hi > a/b; cat a/b; echo $HOME") == "/workspace\nhi\n/workspace\n"
    assert (workspace / "a" / "b").read_text() == "hi\n"
    assert said(workspace, "echo out > /dev/stdout; echo x > /tmp/x; cat /tmp/x; ls /tmp; cat") == "out\nx\nx\n"
    assert said(workspace, "ls /tmp") == ""


def test_nothing_of_the_server_can_be_read(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_KEY", "canary-in-environment")
    workspace.mkdir(parents=True)
    (workspace.parent / "stepwell.db").write_text("canary-in-database")
    home = tmp_path / "home" / ".ssh"
    home.mkdir(parents=True)
    (home / "id").write_text("canary-in-home")
    (workspace / "link").symlink_to(workspace.parent / "stepwell.db")
    command = f"""
        env
        cat {workspace.parent}/stepwell.db ../stepwell.db link {home}/id /etc/shadow /root/.ssh/* ~/../*
        cat /proc/*/environ /proc/{os.getpid()}/environ /proc/{os.getpid()}/mem /proc/1/mem /proc/1/root/etc/shadow
        ls -a / /etc /home /root /proc/1/cwd/..
        find / -name stepwell.db -o -name id -o -name shadow -not -path '/proc/*' -not -path '/usr/*'
    """
    found = said(workspace, command)
    assert "canary" not in found
    assert "root:" not in found
    assert "PATH=" in found


def test_no_process_but_its_own_is_there(workspace: Path) -> None:
    found = said(workspace, "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done; kill -9 1")
    assert "pytest" not in found
    assert len(found.splitlines()) <= 4


def test_nothing_outside_the_workspace_can_be_written(workspace: Path) -> None:
    command = """
        for f in /x /usr/x /etc/x /dev/x /proc/x /bin/x /workspace/../x; do touch $f 2>/dev/null && echo wrote $f; done
        for f in /proc/sys/kernel/core_pattern /proc/sys/vm/swappiness /proc/self/oom_score_adj /proc/sysrq-trigger; do
            [ -e $f ] && v=$(cat $f 2>/dev/null) && (echo "$v" > $f) 2>/dev/null && echo wrote $f
        done
        mount -t tmpfs x /tmp 2>/dev/null && echo mounted
        mount -o remount,rw / 2>/dev/null && echo mounted
        unshare -r true 2>/dev/null && echo unshared
        echo over
    """
    assert said(workspace, command) == "over\n"


def test_it_has_no_rights_and_a_filter(workspace: Path) -> None:
    found = said(workspace, "id -u; grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status")
    assert found.split() == [
        *("1000", "CapInh:", "0" * 16, "CapPrm:", "0" * 16, "CapEff:", "0" * 16, "CapBnd:", "0" * 16),
        *("CapAmb:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2"),
    ]


def test_there_is_no_network(workspace: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = f"""
            bash -c 'echo x > /dev/tcp/127.0.0.1/{port}' 2>/dev/null && echo connected
            bash -c 'echo x > /dev/tcp/169.254.169.254/80' 2>/dev/null && echo connected
            cat /proc/net/tcp /proc/net/tcp6 | grep -ci ':{port:04X} '
            tail -n +3 /proc/net/dev | cut -d: -f1
        """
        assert said(workspace, command).split() == ["0", "lo"]
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_processes_files_and_memory_are_limited(workspace: Path) -> None:
    limits = CommandLimits(processes=40, memory=100 << 20, file_size=1 << 20, scratch=1 << 20)
    found = said(workspace, "i=0; while [ $i -lt 80 ]; do sleep 2 & i=$((i+1)); done; wait", limits)
    assert "fork" in found.lower()
    found = said(workspace, "head -c 3000000 /dev/zero > big; ls -l big | cut -d' ' -f5", limits)
    assert int(found.split()[0]) == 1 << 20
    for place in ("/tmp", "/dev/shm"):
        found = said(workspace, f"head -c 3000000 /dev/zero | split -b 500000 - {place}/x; du -sb {place}", limits)
        assert "No space left" in found
    outcome = asyncio.run(inside(workspace, "x=$(head -c 150000000 /dev/zero | tr '\\0' x); echo $x", limits))
    assert outcome.stopped or outcome.exit_code, outcome.stdout[:100]


@pytest.mark.parametrize("how", ["end", "time", "cancel"])
def test_no_process_is_left_not_even_a_daemon(workspace: Path, how: str) -> None:
    workspace.mkdir(parents=True)
    begun, alive = workspace / "begun", workspace / "alive"
    os.mkfifo(begun)
    os.mkfifo(alive)
    wait = "" if how == "end" else "; sleep 60"
    command = f"exec 3>alive; (setsid sh -c \"trap '' TERM HUP; sleep 60; sleep 60\" &); echo > begun{wait}"

    async def main() -> None:
        running = asyncio.create_task(inside(workspace, command, seconds=0.5 if how == "time" else 30))
        dead = asyncio.create_task(until_closed(alive))
        assert await until_closed(begun) == "\n"
        if how == "cancel":
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        else:
            assert (await running).timed_out is (how == "time")
        assert await asyncio.wait_for(dead, 5) == ""

    asyncio.run(main())


def test_many_commands_at_once_do_not_meet(workspace: Path) -> None:
    async def main() -> list[Outcome]:
        box = Sandbox("bubblewrap", workspace)
        return await asyncio.gather(*(box.run(f"echo {n}; ls /tmp; touch /tmp/{n}", 30, 1000) for n in range(8)))

    assert [each.stdout for each in asyncio.run(main())] == [f"{n}\n" for n in range(8)]


def test_no_control_group_and_no_descriptor_is_left(workspace: Path) -> None:
    def left() -> list[Path]:
        mine = f"stepwell-{os.getpid()}-*"
        return [path for top in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup") for path in Path(top).glob(mine)]

    async def main() -> None:
        box = Sandbox("bubblewrap", workspace)
        await box.run("true", 20, 1000)
        before = len(os.listdir("/proc/self/fd"))
        for command in ("sleep 60 &", "exit 1", "kill -9 $$"):
            await box.run(command, 20, 1000)
            assert (left(), len(os.listdir("/proc/self/fd"))) == ([], before)

    asyncio.run(main())


@pytest.mark.parametrize(("command", "reason"), [("echo\0", "NUL"), ("x" * 100_001, "longer than 100000 bytes")])
def test_a_command_that_cannot_be_started_says_why(tmp_path: Path, command: str, reason: str) -> None:
    with pytest.raises(ToolError, match=reason):
        asyncio.run(Sandbox("none", tmp_path).run(command, 1, 1000))


# Where bubblewrap does not work


def script(path: Path, text: str) -> str:
    """Write a program and return its path."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_without_bubblewrap_the_sandbox_is_refused_and_the_remedy_named(tmp_path: Path) -> None:
    found = probe(str(tmp_path / "bwrap"))
    assert not found.ok
    assert "There is no program" in found.reason
    assert "apt-get install bubblewrap" in found.remedy
    with pytest.raises(ConfigError, match=r"cannot be sandboxed: There is no program .* `apt-get install bubblewrap`"):
        Sandbox("bubblewrap", tmp_path / "workspace", program=str(tmp_path / "bwrap"))


def test_where_namespaces_are_forbidden_the_sandbox_is_refused(workspace: Path, tmp_path: Path) -> None:
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces; exec bwrap "$@"'
    program = script(tmp_path / "bwrap", f"exec unshare --user --map-root-user sh -c '{forbid}' sh \"$@\"")
    found = probe(program)
    assert not found.ok
    assert "bwrap: " in found.reason
    assert 'sandbox = "none"' in found.remedy


@pytest.mark.parametrize(
    ("text", "reason", "remedy"),
    [
        ("echo 'bwrap: Unknown option --size' >&2; exit 1", "Unknown option --size", "too old"),
        ("exit 1", "exit code 1", 'sandbox = "none"'),
        ("head -c 5000 /dev/zero | tr '\\0' x >&2; exit 1", "xxx", 'sandbox = "none"'),
    ],
)
def test_what_bubblewrap_says_is_shown(tmp_path: Path, text: str, reason: str, remedy: str) -> None:
    found = probe(script(tmp_path / "bwrap", text))
    assert not found.ok
    assert reason in found.reason
    assert remedy in found.remedy
    assert len(found.reason) < 700


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bwrap").write_bytes(b"\0\0\0\0")
    (tmp_path / "bwrap").chmod(0o755)
    found = probe(str(tmp_path / "bwrap"))
    assert not found.ok
    assert "Exec format error" in found.reason


def test_without_protection_a_command_still_sees_none_of_the_servers_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY_KEY", "canary")
    outcome = asyncio.run(Sandbox("none", tmp_path / "w").run("env; pwd", 20, 10_000))
    assert "canary" not in outcome.stdout
    assert outcome.stdout.endswith(f"{tmp_path}/w\n")


@pytest.mark.parametrize("how", ["end", "late end", "time", "cancel", "cancel twice"])
def test_without_protection_a_command_leaves_no_process_in_a_session_of_its_own(tmp_path: Path, how: str) -> None:
    begun, alive = tmp_path / "begun", tmp_path / "alive"
    os.mkfifo(begun)
    os.mkfifo(alive)
    wait = {"end": "", "late end": "; sleep 1.1"}.get(how, "; sleep 60")
    # One is left behind by its parent, one is waited for, and one begins others that leave it in turn.
    strays = (
        "(setsid sleep 60 &); setsid sleep 60 & (setsid sh -c 'trap \"\" TERM; setsid setsid sleep 60; sleep 60' &)"
    )
    command = f"exec 3>alive; {strays}; echo > begun{wait}"

    async def main() -> None:
        running = asyncio.create_task(Sandbox("none", tmp_path).run(command, 0.5 if how == "time" else 30, 10_000))
        dead = asyncio.create_task(until_closed(alive))
        assert await until_closed(begun) == "\n"
        if how.startswith("cancel"):
            running.cancel()
            if how == "cancel twice":
                await asyncio.sleep(0)
                running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        else:
            assert (await running).timed_out is (how == "time")
        assert await asyncio.wait_for(dead, 5) == ""

    asyncio.run(main())


def test_without_protection_only_processes_of_the_call_are_killed(tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "60"], env={"STEPWELL_CALL": "0" * 32, "PATH": os.environ["PATH"]})
    try:

        async def main() -> None:
            place, begun = Sandbox("none", tmp_path), tmp_path / "begun"
            os.mkfifo(begun)
            stays = asyncio.create_task(place.run("echo > begun; setsid sleep 60", 30, 1000))
            assert await until_closed(begun) == "\n"
            assert (await place.run("setsid sleep 60", 0.2, 1000)).timed_out
            assert not stays.done()
            stays.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stays

        asyncio.run(main())
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
