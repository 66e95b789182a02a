"""The shape of the project: sizes, layers, dependencies, lock files and what a wheel carries."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "stepwell"
MODULES = sorted(SOURCE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = ("requirements.lock", "requirements-dev.lock")


def _name(requirement: str) -> str:
    """Give the normalised name of a requirement such as `Foo_bar[extra]>=1`."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def _locked(lock: str) -> dict[str, str]:
    """Give each pinned requirement of a lock file with its block of lines."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    return {_name(block): block for block in re.split(r"\n(?=\w)", text) if not block.startswith("#")}


def test_no_module_is_longer_than_500_lines() -> None:
    sizes = {str(path.relative_to(ROOT)): path.read_bytes().count(b"\n") for path in MODULES}
    assert {name: size for name, size in sizes.items() if size > 500} == {}


def test_no_function_is_longer_than_40_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > 40
    ]
    assert long == []


def test_every_module_says_what_it_is() -> None:
    silent = [str(path.relative_to(ROOT)) for path in MODULES if not ast.get_docstring(ast.parse(path.read_bytes()))]
    assert silent == []


def test_every_folder_of_modules_is_a_package_that_the_layers_see() -> None:
    folders = {path.parent for path in MODULES}
    assert [str(folder.relative_to(ROOT)) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_layers_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-logo"], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_installation_asks_for_at_most_20_packages() -> None:
    assert len(PROJECT["project"]["dependencies"]) <= 20


def test_the_build_backend_of_the_lock_files_is_the_one_that_builds() -> None:
    assert PROJECT["dependency-groups"]["build"] == PROJECT["build-system"]["requires"]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_pins_every_dependency_with_a_hash_and_names_no_place(lock: str) -> None:
    locked = _locked(lock)
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    if lock == "requirements-dev.lock":
        wanted += [entry for entry in PROJECT["dependency-groups"]["dev"] if isinstance(entry, str)]
    assert {_name(requirement) for requirement in wanted} <= locked.keys()
    assert [name for name, block in locked.items() if "==" not in block or "--hash=sha256:" not in block] == []
    assert not re.search(r"://|(^|\s)/", "".join(locked.values()))


def test_the_development_environment_has_the_versions_that_users_get() -> None:
    plain, dev = ({name: block.split()[0] for name, block in _locked(lock).items()} for lock in LOCKS)
    assert plain == {name: dev.get(name) for name in plain}


def test_a_wheel_carries_every_file_of_the_package(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "flit_core.wheel", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    files = {path for path in SOURCE.rglob("*") if path.is_file() and path.suffix not in (".pyc", ".pyo")}
    with zipfile.ZipFile(wheel) as archive:
        assert {str(path.relative_to(ROOT / "src")) for path in files} <= set(archive.namelist())
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
