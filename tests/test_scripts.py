"""The scripts make the environment once, from what they find on the PATH, and say what is missing.

They run in a copy of the checkout's skeleton, with a Python that records what pip is asked for.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("cat", "chmod", "cksum", "cp", "dirname", "find", "id", "mkdir", "readlink", "rm", "sh")

PYTHON = """\
case "$*" in
*version_info*:2*) echo python3.12-venv ;;
*version_info*) exit {old} ;;
*ensurepip*) exit {bare} ;;
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo venv >>"$LOG" ;;
"-m pip --version") ;;
"-m pip install "*)
    echo "$*" >>"$LOG"
    stepwell=$(dirname -- "$0")/stepwell
    printf '#!/bin/sh\\necho "stepwell $*"\\n' >"$stepwell" && chmod +x "$stepwell"
    ;;
*) exec '{real}' "$@" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Give a copy of what the scripts read, on a path with a space."""
    root = tmp_path / "a checkout"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    for name in ("pyproject.toml", "requirements.lock", "requirements-dev.lock"):
        shutil.copy(ROOT / name, root)
    return root


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Give an environment whose PATH holds the common tools and nothing else."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in TOOLS:
        (tools / name).symlink_to(shutil.which(name) or pytest.fail(f"this machine has no {name}"))
    return {"PATH": str(tools), "LOG": str(tmp_path / "log")}


def add_python(environment: dict[str, str], name: str = "python3", *, old: int = 0, bare: int = 0) -> None:
    program = PYTHON.format(old=old, bare=bare, real=sys.executable)
    add_command(environment, name, program)


def add_command(environment: dict[str, str], name: str, line: str) -> None:
    path = Path(environment["PATH"], name)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def start(checkout: Path, environment: dict[str, str], script: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [checkout / "scripts" / script, *args],
        env=environment,
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(checkout: Path, environment: dict[str, str], script: str, *args: str) -> tuple[int | None, str, str]:
    process = start(checkout, environment, script, *args)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def work(environment: dict[str, str]) -> list[str]:
    """Give what the recording Python was asked to make."""
    log = Path(environment["LOG"])
    return log.read_text().splitlines() if log.exists() else []


def test_the_first_call_installs_from_the_lock_file_and_the_next_installs_nothing(
    checkout: Path, environment: dict[str, str]
) -> None:
    add_python(environment)
    code, out, err = run(checkout, environment, "serve", "--config", "my file")
    assert (code, out) == (0, "stepwell serve --config my file\n"), err
    made = work(environment)
    assert [line.split(" ")[0] for line in made] == ["venv", "-m", "-m"]
    assert "--require-hashes" in made[1]
    assert made[1].endswith(f"-r {checkout}/requirements.lock")
    assert made[2].endswith(f"--no-deps --no-build-isolation -e {checkout}")
    assert run(checkout, environment, "stepwell", "chat") == (0, "stepwell chat\n", "")
    assert work(environment) == made


def test_a_changed_lock_file_is_installed_anew(checkout: Path, environment: dict[str, str]) -> None:
    add_python(environment)
    run(checkout, environment, "stepwell")
    with (checkout / "requirements.lock").open("a") as lock:
        lock.write("\n")
    run(checkout, environment, "stepwell")
    assert [line.split(" ")[0] for line in work(environment)] == ["venv", "-m", "-m", "-m", "-m"]


def test_a_moved_checkout_gets_an_environment_that_knows_its_place(checkout: Path, environment: dict[str, str]) -> None:
    add_python(environment)
    run(checkout, environment, "stepwell")
    moved = checkout.rename(checkout.with_name("moved"))
    assert run(moved, environment, "stepwell", "x")[:2] == (0, "stepwell x\n")
    assert [line.split(" ")[0] for line in work(environment)] == ["venv", "-m", "-m"] * 2


def test_two_first_calls_at_once_make_one_environment(checkout: Path, environment: dict[str, str]) -> None:
    add_python(environment)
    both = [start(checkout, environment, "stepwell", str(n)) for n in range(2)]
    ends = [process.communicate(timeout=30) for process in both]
    assert sorted(out for out, _ in ends) == ["stepwell 0\n", "stepwell 1\n"], ends
    assert len(work(environment)) == 3


def test_a_broken_python_and_an_old_one_are_passed_over(checkout: Path, environment: dict[str, str]) -> None:
    add_python(environment, "python3.13", old=1)
    add_python(environment, "python3.12", bare=1)
    add_python(environment, "python")
    code, _, err = run(checkout, environment, "stepwell")
    assert code == 0
    assert f"with {environment['PATH']}/python\n" in err


def test_without_a_python_that_is_new_enough_the_version_and_the_command_are_named(
    checkout: Path, environment: dict[str, str]
) -> None:
    add_python(environment, old=1)
    code, out, err = run(checkout, environment, "serve")
    assert (code, out) == (1, "")
    assert "Python 3.11 or newer" in err
    assert "apt-get install python3 python3-venv" in err


def test_without_ensurepip_the_package_is_named(checkout: Path, environment: dict[str, str]) -> None:
    add_python(environment, bare=1)
    code, out, err = run(checkout, environment, "serve")
    assert (code, out) == (1, "")
    assert "python3 lacks ensurepip" in err
    assert "apt-get install python3.12-venv" in err


def test_a_build_server_without_python_gets_one(checkout: Path, environment: dict[str, str]) -> None:
    add_python(environment, "later")
    add_command(environment, "apt-get", 'cp "$PATH/later" "$PATH/python3"')
    add_command(environment, "env", 'shift; exec "$@"')
    add_command(environment, "sudo", 'exec "$@"')
    assert run(checkout, environment | {"CI": "true"}, "stepwell", "x")[:2] == (0, "stepwell x\n")


def test_a_soak_plays_the_worlds_that_are_asked_for(checkout: Path, environment: dict[str, str]) -> None:
    add_python(environment)
    simulation = checkout / "tests" / "simulation"
    simulation.mkdir(parents=True)
    (simulation / "simulate.py").write_text("import sys\nprint(*sys.argv[1:])\nsys.exit(7)\n")
    assert run(checkout, environment, "soak", "--seeds", "3", "--from", "5")[:2] == (7, "--seeds 3 --from 5\n")
    assert work(environment)[1].endswith(f"-r {checkout}/requirements-dev.lock")


@pytest.mark.parametrize(("variables", "installs"), [({}, False), ({"CI": "true"}, True)])
def test_system_packages_are_installed_on_a_build_server_only(
    checkout: Path, environment: dict[str, str], variables: dict[str, str], installs: bool
) -> None:
    add_python(environment)
    add_command(environment, "apt-get", 'echo "apt-get $*" >>"$LOG"')
    add_command(environment, "env", 'shift; exec "$@"')
    add_command(environment, "sudo", 'exec "$@"')
    (checkout / "scripts" / "check").write_text("#!/bin/sh\nexit 3\n")
    code, _, err = run(checkout, environment | variables, "test")
    assert code == 3, err
    assert ("apt-get install -y -qq bubblewrap" in work(environment)) == installs
    assert ("install it with: apt-get install bubblewrap" in err) != installs


def test_the_programs_are_executable() -> None:
    programs = [path for path in (ROOT / "scripts").iterdir() if not path.name.startswith("_")] + [ROOT / ".ci" / "run"]
    assert [path.name for path in programs if not os.access(path, os.X_OK)] == []
