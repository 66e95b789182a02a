"""The file tools and their workspace."""

import asyncio
import contextlib
import os
import shutil
import stat
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from stepwell.errors import ToolError
from stepwell.tools.base import Toolbox, ToolResult
from stepwell.tools.builtin import files
from stepwell.tools.builtin.files import file_tools
from tests.tools.running import called


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "content"
    folder.mkdir()
    (tmp_path / "content_evil").mkdir()
    (tmp_path / "content_evil" / "x").write_text("secret")
    (tmp_path / "secret").write_text("secret")
    return folder


def use(workspace: Path, name: str, **arguments: Any) -> ToolResult:
    """Call a file tool as an engine does."""
    return asyncio.run(called(Toolbox(file_tools(workspace, write_limit=1000)), arguments, name))


def outside(workspace: Path) -> dict[str, tuple[int, int, int]]:
    """Return the inode, size and time of everything beside the workspace."""
    found = {}
    for path in workspace.parent.rglob("*"):
        if not path.is_relative_to(workspace):
            status = path.lstat()
            found[str(path)] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def test_what_is_written_can_be_read_and_listed(workspace: Path) -> None:
    assert use(workspace, "write_file", path="a/b/c.txt", content="一\ntwo\n").content == "Wrote 8 bytes to a/b/c.txt."
    assert use(workspace, "read_file", path="a/b/c.txt") == ToolResult("一\ntwo\n")
    assert use(workspace, "read_file", path="./a/../a/b/c.txt") == ToolResult("一\ntwo\n")
    assert use(workspace, "list_files").content == "a/"
    assert use(workspace, "list_files", pattern="**/*.txt").content == "a/b/c.txt (8 bytes)"


def test_writing_replaces_the_whole_file_and_leaves_nothing_beside_it(workspace: Path) -> None:
    file = workspace / "run.sh"
    file.write_text("old and much longer")
    file.chmod(0o755)
    reader = file.open()
    assert use(workspace, "write_file", path="run.sh", content="new").status == "ok"
    assert reader.read() == "old and much longer"
    reader.close()
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o755
    assert os.listdir(workspace) == ["run.sh"]


def test_a_file_that_is_too_large_is_not_written(workspace: Path) -> None:
    result = use(workspace, "write_file", path="big", content="x" * 1001)
    assert (result.status, result.content[:41]) == ("failed", "The text has 1,001 bytes; the limit is 1,")
    assert os.listdir(workspace) == []


PATHS = [
    "../secret",
    "../content_evil/x",
    "../../x",
    "a/../../secret",
    "..",
    "/etc/passwd",
    "//etc/passwd",
    "~/x",
    "C:\\x",
    "C:x",
    "\\\\srv\\x",
    "..\\secret",
    "a\0b",
    "a\nb",
    "x\u202etxt.exe",
    "\u2066x",
    "",
    " ",
    "x" * 5000,
    "x" * 300,
    "a/" * 600,
    "out",
    "out/secret",
    "outfile",
    "loop",
    "loop/x",
    "self",
]


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
def test_no_path_leads_out_of_the_workspace(workspace: Path, path: str) -> None:
    (workspace / "out").symlink_to("..")
    (workspace / "outfile").symlink_to(workspace.parent / "secret")
    (workspace / "loop").symlink_to("loop")
    (workspace / "self").symlink_to(".")
    before = outside(workspace)
    for result in (
        use(workspace, "read_file", path=path),
        use(workspace, "write_file", path=path, content="owned"),
    ):
        assert result.status == "failed"
        assert "secret" not in result.content.replace(path, "")
        assert len(result.content) < 1300
    assert outside(workspace) == before
    assert sorted(os.listdir(workspace)) == ["loop", "out", "outfile", "self"]


def test_a_name_with_a_line_break_is_one_line_of_a_listing(workspace: Path) -> None:
    (workspace / "a\n[only a part is shown]\x1b[31m").write_text("x")
    assert use(workspace, "list_files").content == "a\\x0a[only a part is shown]\\x1b[31m (1 bytes)"


@pytest.mark.parametrize("path", ["..%2fsecret", "CON", "...", "..x", "a b", "-rf", "$(id)", "文件.txt", "😀", "x."])
def test_odd_names_that_lead_nowhere_else_are_names(workspace: Path, path: str) -> None:
    before = outside(workspace)
    assert use(workspace, "write_file", path=path, content="x").status == "ok"
    assert use(workspace, "read_file", path=path).content == "x"
    assert os.listdir(workspace) == [path]
    assert outside(workspace) == before


def test_links_inside_the_workspace_are_followed(workspace: Path) -> None:
    (workspace / "real").mkdir()
    (workspace / "real" / "x").write_text("in")
    (workspace / "link").symlink_to("real")
    assert use(workspace, "read_file", path="link/x").content == "in"
    assert use(workspace, "write_file", path="link/x", content="new").status == "ok"
    assert (workspace / "real" / "x").read_text() == "new"
    assert (workspace / "link").is_symlink()


def test_a_link_that_is_swapped_in_meanwhile_leads_nowhere(workspace: Path) -> None:
    (workspace / "real").mkdir()
    (workspace / "real" / "x").write_text("inside")
    (workspace / "way").symlink_to("real")
    over = threading.Event()

    def swap() -> None:
        targets = ("real", workspace.parent / "content_evil")
        while not over.is_set():
            for target in targets:
                (workspace / "new").symlink_to(target)
                (workspace / "new").replace(workspace / "way")

    async def main() -> set[str]:
        read_file = Toolbox(file_tools(workspace))
        return {(await called(read_file, {"path": "way/x"}, "read_file")).content for _ in range(500)}

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        seen = asyncio.run(main())
    finally:
        over.set()
        thread.join()
    assert "secret" not in seen
    assert "inside" in seen


def test_a_folder_that_becomes_a_link_is_not_written_through(workspace: Path) -> None:
    over = threading.Event()
    (workspace / "way").mkdir()

    def swap() -> None:
        while not over.is_set():
            shutil.rmtree(workspace / "aside", ignore_errors=True)
            with contextlib.suppress(OSError):  # a write may make the folder at any moment
                (workspace / "way").rename(workspace / "aside")
                (workspace / "way").symlink_to(workspace.parent / "content_evil")
                (workspace / "way").unlink()
                (workspace / "aside").rename(workspace / "way")

    async def main() -> None:
        box = Toolbox(file_tools(workspace))
        for _ in range(300):
            await called(box, {"path": "way/x", "content": "owned"}, "write_file")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        asyncio.run(main())
    finally:
        over.set()
        thread.join()
    assert (workspace.parent / "content_evil" / "x").read_text() == "secret"
    assert os.listdir(workspace.parent / "content_evil") == ["x"]


@pytest.mark.limit(20)
def test_pipes_devices_and_folders_are_no_files(workspace: Path) -> None:
    os.mkfifo(workspace / "pipe")
    (workspace / "folder").mkdir()
    (workspace / "null").symlink_to("/dev/null")
    for path, kind in [("pipe", "a pipe"), ("folder", "a folder"), (".", "a folder"), ("null", "leads out")]:
        for result in (use(workspace, "read_file", path=path), use(workspace, "write_file", path=path, content="x")):
            assert (result.status, kind in result.content) == ("failed", True), result.content
    if os.geteuid() == 0:
        os.mknod(workspace / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        assert "zero is a device, not a file" in use(workspace, "read_file", path="zero").content
    assert use(workspace, "write_file", path="pipe/x", content="x").content.endswith("something that is not a folder.")


def test_no_descriptor_is_left_open(workspace: Path) -> None:
    (workspace / "folder").mkdir()
    (workspace / "file").write_text("x")
    tools = Toolbox(file_tools(workspace))

    async def main() -> tuple[int, int]:
        await called(tools, {"path": "file"}, "read_file")
        before = len(os.listdir("/proc/self/fd"))
        for path in ("file", "folder", ".", "no/x", "file/x", "folder/x"):
            await called(tools, {"path": path}, "read_file")
            await called(tools, {"path": f"{path}/y", "content": "x"}, "write_file")
            await called(tools, {"pattern": "**"}, "list_files")
        return before, len(os.listdir("/proc/self/fd"))

    before, after = asyncio.run(main())
    assert before == after


def test_a_missing_file_is_named_with_the_remedy(workspace: Path) -> None:
    result = use(workspace, "read_file", path="no/where.txt")
    assert result.content == "There is no file no/where.txt in the workspace. list_files shows what is there."


def test_binary_and_foreign_text_is_told_and_not_shown(workspace: Path) -> None:
    (workspace / "image").write_bytes(b"\x89PNG\0\0" + bytes(100))
    (workspace / "latin").write_bytes("Grüße".encode("latin-1"))
    assert (
        use(workspace, "read_file", path="image").content == "image is a binary file of 106 bytes; only text is read."
    )
    assert use(workspace, "read_file", path="latin").content == "latin is not UTF-8 text: byte 3 of 5 is not."
    (workspace / "bom").write_bytes(b"\xef\xbb\xbfhi")
    assert use(workspace, "read_file", path="bom").content == "hi"


def test_a_long_file_is_read_in_parts(workspace: Path) -> None:
    (workspace / "long").write_text("".join(f"line {n}\n" for n in range(1, 11)))
    part = use(workspace, "read_file", path="long", offset=4, limit=2).content
    assert part == "line 4\nline 5\n[lines 4 to 5 of 10; go on with offset 6]\n"
    assert use(workspace, "read_file", path="long", offset=10).content == "line 10\n"
    assert "beyond its end" in use(workspace, "read_file", path="long", offset=11).content
    assert use(workspace, "read_file", path="long", offset=0).status == "failed"
    (workspace / "empty").touch()
    assert use(workspace, "read_file", path="empty") == ToolResult("")


def test_following_the_offsets_reads_the_whole_of_a_large_file(workspace: Path) -> None:
    text = "".join(f"{n} {'x' * (n % 700)}\r\n" for n in range(500)) + "last\u2028line"
    (workspace / "large").write_text(text, newline="")
    offset, read = 1, ""
    while offset:
        part = use(workspace, "read_file", path="large", offset=offset).content
        assert len(part) <= files.OUTPUT
        shown, _, more = part.rpartition("[lines ")
        offset = int(more.rpartition("offset ")[2].rstrip("]\n")) if shown else 0
        read += shown or part
    assert read == text


def test_one_endless_line_is_cut_and_said_so(workspace: Path) -> None:
    (workspace / "line").write_text("x" * 100_000 + "\nend\n")
    part = use(workspace, "read_file", path="line").content
    assert "[... line of 100001 characters ...]" in part
    assert part.endswith("[lines 1 to 1 of 2; go on with offset 2]\n")


def test_a_file_that_is_too_large_is_not_read(workspace: Path) -> None:
    with (workspace / "huge").open("wb") as file:
        file.truncate(files.MAX_READ + 1)
    assert "larger than 20,000,000 bytes" in use(workspace, "read_file", path="huge").content


@pytest.mark.parametrize(
    ("pattern", "listed"),
    [
        ("*", ["a.py (1 bytes)", "link (a link)", "src/"]),
        ("", ["a.py (1 bytes)", "link (a link)", "src/"]),
        ("*.py", ["a.py (1 bytes)"]),
        ("**/*.py", ["a.py (1 bytes)", "src/b.py (1 bytes)", "src/deep/c.py (1 bytes)"]),
        ("src/*", ["src/b.py (1 bytes)", "src/deep/"]),
        ("src/**", ["src/", "src/b.py (1 bytes)", "src/deep/", "src/deep/c.py (1 bytes)", "src/deep/d.md (1 bytes)"]),
        ("./src//deep/?.md", ["src/deep/d.md (1 bytes)"]),
        ("**/deep/**/*.md", ["src/deep/d.md (1 bytes)"]),
        ("src/[bc].py", ["src/b.py (1 bytes)"]),
        ("link/*", ["Nothing in the workspace matches link/*."]),
        ("nope", ["Nothing in the workspace matches nope."]),
    ],
)
def test_patterns_choose_what_is_listed(workspace: Path, pattern: str, listed: list[str]) -> None:
    (workspace / "src" / "deep").mkdir(parents=True)
    for name in ("a.py", "src/b.py", "src/deep/c.py", "src/deep/d.md"):
        (workspace / name).write_text("x")
    (workspace / "link").symlink_to("..")
    assert use(workspace, "list_files", pattern=pattern).content.splitlines() == listed


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", "src/../../*", "a\0", "*/" * 600])
def test_a_pattern_that_leads_out_is_refused(workspace: Path, pattern: str) -> None:
    assert use(workspace, "list_files", pattern=pattern).status == "failed"


@pytest.mark.limit(20)
def test_a_pattern_made_to_take_forever_is_quick(workspace: Path) -> None:
    (workspace / ("a" * 200)).touch()
    assert use(workspace, "list_files", pattern="*a" * 100 + "b").content.startswith("Nothing")
    deep = workspace
    for _ in range(60):
        deep = deep / "d"
    deep.mkdir(parents=True)
    content = use(workspace, "list_files", pattern="**/" * 60 + "nope").content
    assert content.startswith("[only a part is shown")


def test_a_long_listing_is_cut_and_said_so(workspace: Path) -> None:
    for number in range(files.MAX_LISTED + 5):
        (workspace / str(number)).touch()
    lines = use(workspace, "list_files").content.splitlines()
    assert len(lines) == files.MAX_LISTED + 1
    assert lines[-1] == "[only a part is shown: the first 1000; narrow the pattern]"


def test_names_that_are_no_text_are_listed(workspace: Path) -> None:
    (Path(os.fsdecode(os.fsencode(workspace) + b"/\xff"))).touch()
    assert use(workspace, "list_files").content == "\ufffd (0 bytes)"


def test_the_effects_say_what_may_be_repeated(workspace: Path) -> None:
    assert {each.spec.name: each.effect for each in file_tools(workspace / "made")} == {
        "read_file": "pure",
        "write_file": "idempotent",
        "list_files": "pure",
    }
    assert (workspace / "made").is_dir()


@pytest.mark.parametrize("text", ["", "\n", "a", "a\nb", "a\nb\n", "\n\n\nx", "one\n" * 40_000 + "end"])
def test_a_part_of_a_text_begins_and_ends_where_its_lines_do(text: str) -> None:
    lines = text.splitlines(keepends=True)
    for offset in {1, 2, len(lines) - 1, len(lines), 20_000, 33_000} & set(range(1, len(lines) + 1)):
        part = files.excerpt(text, offset, 2)
        assert part.startswith("".join(lines[offset - 1 : offset + 1]))
        assert ("go on with" in part) == (offset + 1 < len(lines))
    with pytest.raises(ToolError, match=f"The file has {len(lines)} lines"):
        files.excerpt(text, len(lines) + 2, 1)


def test_a_large_file_of_short_lines_is_read_in_about_its_size() -> None:
    text = "a\n" * 1_000_000
    tracemalloc.start()
    try:
        assert files.excerpt(text, 1_000_000, 10) == "a\n"
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
