"""What the pages for readers say holds: their links lead somewhere, their commands exist, their programs run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PROGRAMS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M), 1
    )
]


def each_page(pattern: str) -> list[tuple[Path, str]]:
    return [(page, found) for page in PAGES for found in re.findall(pattern, page.read_text(encoding="utf-8"))]


def test_every_link_to_a_file_leads_there() -> None:
    links = [(page, link) for page, link in each_page(r"\]\(([^)#\s]+)[^)]*\)") if "://" not in link]
    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []


def test_every_script_that_a_page_names_is_there() -> None:
    named = each_page(r"(?<![\w/])(?:\./)?(scripts/\w+)")
    assert ("CONTRIBUTING.md", "scripts/check") in {(page.name, script) for page, script in named}
    assert [f"{page.name}: {script}" for page, script in named if not (ROOT / script).is_file()] == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_in_the_pages_runs_without_settings(program: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "-W", "error", "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
