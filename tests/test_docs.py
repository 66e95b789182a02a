"""What the pages for readers say holds: links lead somewhere, commands exist, programs run, and nothing is left out."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from pydantic import BaseModel, SecretStr
from typer.main import get_command

from stepwell.agent.ladder import RUNGS
from stepwell.cli.app import _app
from stepwell.config import Config, ModelSettings, load
from stepwell.events import EndReason, Stored, ToolStatus, Transient
from stepwell.library import Agent
from stepwell.models.base import FailureKind
from stepwell.runs.service import RunService
from stepwell.server.app import create_app
from stepwell.store.memory import MemoryStore
from stepwell.tools.mark import Options
from stepwell.wiring.catalog import ConfigCatalog
from stepwell.wiring.tools import configured_tools

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
README, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"


def text_of(page: Path | str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(language: str) -> list[Any]:
    """Give each block of a language as a parameter of a test."""
    return [
        pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, block in enumerate(re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.S | re.M), 1)
    ]


def each_page(pattern: str) -> list[tuple[Path, str]]:
    return [(page, found) for page in PAGES for found in re.findall(pattern, text_of(page))]


def rows(page: str, heading: str = "") -> dict[str, str]:
    """Give the rows of a page's tables by the code in their first cell; with a heading only those below it."""
    text = text_of(page)
    if heading:
        text = re.split(r"^##? ", text.partition(f"\n{heading}\n")[2], maxsplit=1, flags=re.M)[0]
    return dict(re.findall(r"^\| `([^`]+)`[^|]*\| (.*) \|$", text, re.M))


def test_every_link_to_a_file_leads_there() -> None:
    links = [(page, link) for page, link in each_page(r"\]\(([^)#\s]+)[^)]*\)") if "://" not in link]
    assert ("settings.md", "models.md") in {(page.name, link) for page, link in links}
    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, left = set[Path](), [README]
    while left:
        page = left.pop()
        seen.add(page)
        found = {(page.parent / link).resolve() for link in re.findall(r"\]\(([^)#\s]+\.md)", text_of(page))}
        left += [each for each in found if each in PAGES and each not in seen]
    assert seen == set(PAGES)


def test_every_script_that_a_page_names_is_there() -> None:
    named = each_page(r"(?<![\w/])(?:\./)?(scripts/\w+)")
    assert ("CONTRIBUTING.md", "scripts/check") in {(page.name, script) for page, script in named}
    assert [f"{page.name}: {script}" for page, script in named if not (ROOT / script).is_file()] == []


def test_every_file_that_a_page_names_is_there() -> None:
    named = each_page(r"`((?:src|tests|docs|benchmarks|\.ci)/[\w./]+)`")
    assert ("models.md", "src/stepwell/prompts") in {(page.name, path) for page, path in named}
    assert [f"{page.name}: {path}" for page, path in named if not (ROOT / path).exists()] == []


def test_every_test_that_a_page_names_is_there() -> None:
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = {name for page in PAGES for name in re.findall(r"`(test_[a-z0-9_]+)`", page.read_text("utf-8"))}
    assert {name for name in named if f"def {name}(" not in tests} == set()
    assert len(named) > 10


@pytest.mark.parametrize("program", blocks("python"))
def test_every_program_in_the_pages_runs_without_settings(program: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "-W", "error", "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("settings", blocks("toml"))
def test_every_settings_file_in_the_pages_is_good(settings: str, tmp_path: Path) -> None:
    file = tmp_path / "stepwell.toml"
    file.write_text(settings, encoding="utf-8")
    assert load(file) != Config()


@pytest.mark.parametrize("value", blocks("json"))
def test_every_json_text_in_the_pages_can_be_read(value: str) -> None:
    assert json.loads(value)


@pytest.mark.parametrize("commands", blocks("sh"))
def test_every_shell_text_in_the_pages_can_be_read_by_a_shell(commands: str) -> None:
    done = subprocess.run(["/bin/sh", "-n"], input=commands, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr


def parts_of(page: Path) -> tuple[list[str], list[str], dict[str, int]]:
    """Give a page's blocks of code, the starts of its lines, and its links and other code, in whatever order."""
    text = text_of(page).replace("README.zh.md", "README.md")  # each links to the other
    code = re.findall(r"^```.*?^```", text, re.S | re.M)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    return code, re.findall(r"^(?:#+ |- |\|)", prose, re.M), Counter(re.findall(r"\]\([^)]+\)|`[^`\n]+`", prose))


def test_the_chinese_readme_has_the_headings_programs_tables_and_links_of_the_english_one() -> None:
    assert parts_of(CHINESE) == parts_of(README)


def settings_of(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give each setting's full name with its default, as the page writes them."""
    for name, field in section.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if name == "models":
            yield from settings_of(ModelSettings, "models.NAME.")
        elif isinstance(default, BaseModel):
            yield from settings_of(type(default), f"{prefix}{name}.")
        elif default is None:
            yield prefix + name, "none"
        else:
            value = default.get_secret_value() if isinstance(default, SecretStr) else default
            yield prefix + name, f"`{json.dumps(value, default=str)}`"


def test_the_page_of_settings_has_each_of_them_with_its_default_and_no_others() -> None:
    written = {name: rest.split(" | ")[0] for name, rest in rows("docs/settings.md").items()}
    assert written == dict(settings_of(Config))


def api() -> dict[str, Any]:
    config = Config()
    catalog = ConfigCatalog(config)
    return create_app(config, catalog, RunService(MemoryStore(), catalog.assemble)).openapi()


def test_the_pages_of_the_faces_have_every_route_and_no_others() -> None:
    routes = {f"{method.upper()} {path}" for path, methods in api()["paths"].items() for method in methods}
    assert {route for page in PAGES for route in rows(str(page.relative_to(ROOT)), "## Routes")} == routes


def test_every_field_that_a_request_may_have_is_explained() -> None:
    schemas = {name: each for name, each in api()["components"]["schemas"].items() if name.endswith("Body")}
    fields = [f"{name}.{field}" for name, each in schemas.items() for field in each["properties"]]
    assert "MessageBody.content" in fields
    faces = [page for page in PAGES if rows(str(page.relative_to(ROOT)), "## Routes")]
    pages = text_of("docs/agent_chat.md") + "".join(map(text_of, faces))
    assert [field for field in fields if not re.search(rf'[`"]{field.partition(".")[2]}[`"]', pages)] == []


@pytest.mark.parametrize(
    ("heading", "union"),
    [("## Stored events", Stored), ("## Transient events", Transient)],
    ids=["stored", "transient"],
)
def test_the_page_of_the_log_has_every_event_with_its_fields_and_no_others(heading: str, union: Any) -> None:
    told = rows("docs/log.md", heading)
    events = {str(kind.__struct_config__.tag): msgspec.structs.fields(kind) for kind in get_args(union)}
    assert {name for name in told if name not in get_args(ToolStatus) + get_args(EndReason)} == events.keys()
    missing = [
        f"{name}.{each.name}"
        for name, fields in events.items()
        for each in fields
        if f"`{each.name}`" not in told[name]
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("page", "words"),
    [("docs/log.md", ToolStatus), ("docs/log.md", EndReason), ("docs/models.md", FailureKind)],
    ids=["status", "reason", "failure"],
)
def test_every_word_for_how_things_end_is_explained(page: str, words: Any) -> None:
    assert set(get_args(words)) <= rows(page).keys()


def test_the_page_of_tools_has_every_built_in_tool_with_its_effect_and_no_others(tmp_path: Path) -> None:
    switched_on = {"files": {"enabled": True}, "shell": {"enabled": True, "sandbox": "none"}}
    tools = configured_tools(load(data=tmp_path, tools=switched_on))
    told = {name: rest.split(" | ")[0] for name, rest in rows("docs/tools.md", "## Built in").items()}
    assert told == {tool.spec.name: f"`{tool.effect}`" for tool in tools}


def test_the_arguments_of_the_decorator_and_of_an_agent_are_explained() -> None:
    assert [name for name in Options._fields if f"\n| `{name}` |" not in text_of("docs/tools.md")] == []
    library = text_of("docs/library.md")
    assert [name for name in list(signature(Agent).parameters) if f"`{name}`" not in library] == []


def commands_of(command: Any, name: str) -> dict[str, list[str]]:
    """Give each command's options by its words; typer brings its own click, which has no public name."""
    if hasattr(command, "commands"):
        return {k: v for word, each in command.commands.items() for k, v in commands_of(each, f"{name} {word}").items()}
    return {name: [option for each in command.params if each.param_type_name == "option" for option in each.opts]}


def test_the_page_of_the_command_line_has_every_command_and_option_and_no_others() -> None:
    commands = commands_of(get_command(_app("en")), "stepwell")
    page = text_of("docs/cli.md")
    told = re.findall(r"^\| `(stepwell [a-z ]*[a-z])", page, re.M)
    assert set(told) == commands.keys()
    table = re.findall(r"^\| (`-.*?`) \|", page, re.M)
    options = {option for line in table for option in re.findall(r"`(--?[\w-]+)`", line)}
    assert options - {"--version", "--help"} == {option for each in commands.values() for option in each}


def test_every_command_that_a_page_names_exists() -> None:
    commands = commands_of(get_command(_app("en")), "stepwell")
    words = {tuple(name.split()[1:]) for name in commands}
    named = each_page(r"scripts/stepwell ([a-z]+(?: (?:add|list|revoke|confirm|login))?)")
    assert ("README.md", "keys add") in {(page.name, command) for page, command in named}
    assert [f"{page.name}: {command}" for page, command in named if tuple(command.split()) not in words] == []


def test_the_page_of_the_architecture_has_every_part_of_the_package_and_no_others() -> None:
    source = ROOT / "src" / "stepwell"
    parts = {f"{path.name}/" if path.is_dir() else path.name for path in source.iterdir()}
    told = re.findall(r"^  (\w+(?:/|\.py)) ", text_of("docs/architecture.md"), re.M)
    assert set(told) == parts - {"__init__.py", "__pycache__/", "py.typed"}


def test_the_page_of_the_context_has_the_rungs_of_the_ladder() -> None:
    def told(part: float) -> str:
        return f"{part * 100:.0f} %" if part else "none"

    rows = re.findall(r"^\| (\d) \| (.+) \|$", text_of("docs/context.md"), re.MULTILINE)
    for (number, cells), (at, rung) in zip(rows, enumerate(RUNGS), strict=True):
        system = "" if rung.system == 1 else f"; the system message is cut to {told(rung.system)} of the request"
        assert (number, cells) == (str(at), " | ".join(map(told, rung[:5])) + system)
