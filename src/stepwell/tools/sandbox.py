"""Where commands of a model run: under bubblewrap, or without protection where the settings say so.

Under bubblewrap a command sees the system's programs (read-only), its workspace (as `/workspace`), an empty
`/tmp`, no network, no other process and none of the server's environment; a filter refuses system calls that
reach past that, and the kernel refuses too many processes. It does not protect against faults of the kernel,
against a full disk under the workspace, nor the workspace against the command. Total memory is counted every
50 ms and the command stopped when it is too much. A server run by root needs control groups for the limit on
processes; where it cannot make one, they too are only counted. With `none` a command may do all that the
server's user may; the bounds on time and output still hold.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from stepwell.errors import ConfigError, ToolError
from stepwell.tools import cell, process, seccomp

Kind = Literal["bubblewrap", "none"]

MAX_COMMAND = 100_000
"""Bytes of a command; Linux takes 131,071 in one argument."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ETC = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types", "ssl/certs")
_INSIDE = Path("/workspace")


class Probe(msgspec.Struct, frozen=True):
    """Whether commands can be sandboxed here.

    Args:
        ok: They can.
        reason: Why not, in the system's words.
        remedy: What a person can do about it.
    """

    ok: bool
    reason: str = ""
    remedy: str = ""


class CommandLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one command may use.

    Args:
        processes: Processes and threads at once.
        memory: Bytes of memory of all its processes together.
        file_size: Bytes of one file that it writes.
        scratch: Bytes in `/tmp`, which is memory.
    """

    processes: int = 256
    memory: int = 2 << 30
    file_size: int = 256 << 20
    scratch: int = 64 << 20


class Sandbox:
    """Runs shell commands in a workspace folder.

    Args:
        kind: `bubblewrap`, or `none` for no protection at all.
        workspace: The folder that commands see and change; it is made if it is not there.
        limits: What a command may use.
        program: The bubblewrap program, by name or path.

    Raises:
        ConfigError: Bubblewrap does not work here; says why and what to do.
    """

    def __init__(
        self, kind: Kind, workspace: Path, limits: CommandLimits | None = None, program: str = "bwrap"
    ) -> None:
        self.kind, self.program, self.limits = kind, program, limits or CommandLimits()
        self.workspace = workspace.resolve()
        self.workspace.mkdir(parents=True, exist_ok=True)
        found = probe(program) if kind == "bubblewrap" else Probe(True)
        if not found.ok:
            raise ConfigError(f"Commands cannot be sandboxed: {found.reason} {found.remedy}")

    async def run(self, command: str, seconds: float, output: int) -> process.Outcome:
        """Run a command of `/bin/sh` and wait for its end.

        Args:
            command: The shell's text.
            seconds: Wall-clock time that it may take.
            output: Bytes kept of each of its output streams.

        Raises:
            ToolError: The command cannot be started.
        """
        if "\0" in command:
            raise ToolError("The command contains a NUL character; leave it out.")
        if len(command.encode("utf-8", "replace")) > MAX_COMMAND:
            raise ToolError(f"The command is longer than {MAX_COMMAND} bytes; write it to a file and run that.")
        bounds = process.Bounds(
            seconds=seconds, output=output, processes=self.limits.processes, memory=self.limits.memory
        )
        try:
            if self.kind == "none":
                argv, environment = _shell(_prelude(self.limits), command), _environment(self.workspace)
                return await process.run(argv, bounds, folder=self.workspace, environment=environment, find_strays=True)
            return await self._run_inside(command, bounds)
        except OSError as error:
            raise ToolError(f"The command could not be started: {error.strerror}.") from None

    async def _run_inside(self, command: str, bounds: process.Bounds) -> process.Outcome:
        room = cell.make(self.limits.processes)
        try:
            with _wrapped(self.program, self.workspace, self.limits, room, command) as (argv, kept):
                environment = _environment(_INSIDE)
                return await process.run(argv, bounds, folder=self.workspace, environment=environment, descriptors=kept)
        finally:
            if room is not None:
                await room.clear()


def probe(program: str = "bwrap") -> Probe:
    """Run a command under bubblewrap exactly as `Sandbox` does, and say whether that works. It takes some 20 ms.

    Args:
        program: The bubblewrap program, by name or path.
    """
    if not sys.platform.startswith("linux"):
        return Probe(False, "Bubblewrap runs on Linux only.", _UNPROTECTED)
    if shutil.which(program) is None:
        return Probe(False, f"There is no program `{program}`.", f"Install bubblewrap: {_INSTALL}.")
    limits = CommandLimits()
    room = cell.make(limits.processes)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            _wrapped(program, Path(folder), limits, room, ":") as (argv, kept),
        ):
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=10,
                check=False,
                env=_environment(_INSIDE),
                pass_fds=kept,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Probe(False, f"`{program}` could not be run: {error}.", f"Install bubblewrap again: {_INSTALL}.")
    finally:
        _clear(room)
    if done.returncode == 0:
        return Probe(True)
    said = done.stderr.decode("utf-8", "replace").strip()[:500] or f"exit code {done.returncode}"
    return Probe(False, f"`{program}` does not work here: {said}.", _remedy(said))


def _clear(room: cell.Cell | None) -> None:
    end = time.monotonic() + cell.REMOVE_SECONDS
    while room is not None and not room.remove() and time.monotonic() < end:
        time.sleep(0.001)


_INSTALL = "`apt-get install bubblewrap` (Debian, Ubuntu), `dnf install bubblewrap` (Fedora)"
_UNPROTECTED = 'Or set `tools.shell.sandbox = "none"`, and every command may do all that the server\'s user may.'
_APPARMOR = (
    "AppArmor keeps programs from making user namespaces. Allow bubblewrap: as root, write the lines"
    " `abi <abi/4.0>,` `include <tunables/global>` `profile bwrap /usr/bin/bwrap flags=(unconfined) { userns, }`"
    " to /etc/apparmor.d/bwrap and run `apparmor_parser -r /etc/apparmor.d/bwrap`."
)
_CONTAINER = (
    "In a container, start it with `--security-opt seccomp=unconfined --security-opt apparmor=unconfined"
    " --security-opt systempaths=unconfined`."
)


def _remedy(said: str) -> str:
    """Say what to do about bubblewrap's complaint."""
    if "Unknown option" in said:
        return f"Bubblewrap is too old; version 0.6 or later is needed: {_INSTALL}."
    if _is_set("kernel/apparmor_restrict_unprivileged_userns", "1"):
        return f"{_APPARMOR} {_UNPROTECTED}"
    if _is_set("kernel/unprivileged_userns_clone", "0"):
        return f"Run `sysctl -w kernel.unprivileged_userns_clone=1` as root. {_UNPROTECTED}"
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return f"{_CONTAINER} {_UNPROTECTED}"
    return f"See that user namespaces are allowed: `sysctl user.max_user_namespaces` is more than 0. {_UNPROTECTED}"


def _is_set(setting: str, value: str) -> bool:
    try:
        return Path("/proc/sys", setting).read_text().strip() == value
    except OSError:
        return False


def _environment(home: Path) -> dict[str, str]:
    return {"PATH": _PATH, "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb"}


def _shell(prelude: str, command: str) -> list[str]:
    return ["/bin/sh", "-c", prelude, "sh", command]


def _prelude(limits: CommandLimits) -> str:
    """Return shell text that lowers the kernel's limits and then runs its first argument."""
    lower = f"ulimit -c 0; ulimit -v {limits.memory * 2 // 1024}; ulimit -f {limits.file_size // 512}"
    return f'{{ {lower}; }} 2>/dev/null; exec /bin/sh -c "$1"'


def _inner_prelude(limits: CommandLimits) -> str:
    if not _counts_apart():
        return _prelude(limits)
    # Shells do not agree on the letter.
    return f"{{ ulimit -u {limits.processes} || ulimit -p {limits.processes}; }} 2>/dev/null; {_prelude(limits)}"


def _counts_apart() -> bool:
    """Say whether the kernel counts a user's processes for each user namespace, as Linux does from 5.14 on."""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int("".join(filter(str.isdigit, minor)) or 0)) >= (5, 14)


@contextmanager
def _wrapped(
    program: str, workspace: Path, limits: CommandLimits, room: cell.Cell | None, command: str
) -> Generator[tuple[list[str], tuple[int, ...]]]:
    """Give a command line under bubblewrap and the descriptors that it inherits."""
    options = [*_namespaces(), *_files(workspace, limits)]
    filter = seccomp.program(os.uname().machine)
    with ExitStack() as opened:
        kept: list[int] = []
        if filter is not None:
            kept.append(opened.enter_context(_readable(filter)))
            options += ["--seccomp", str(kept[0])]
        # As a file, so that a command does not find the workspace's path in its parent's command line.
        kept.append(opened.enter_context(_readable(b"".join(os.fsencode(each) + b"\0" for each in options))))
        entrance = [] if room is None else room.entrance()
        yield [*entrance, program, "--args", str(kept[-1]), "--", *_shell(_inner_prelude(limits), command)], tuple(kept)


@contextmanager
def _readable(data: bytes) -> Generator[int]:
    """Give the descriptor of a file in memory that holds the data."""
    descriptor = os.memfd_create("stepwell")
    try:
        os.write(descriptor, data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _namespaces() -> list[str]:
    user = ["--unshare-user", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"]
    return ["--unshare-all", *user, "--hostname", "sandbox", "--die-with-parent", "--new-session"]


def _files(workspace: Path, limits: CommandLimits) -> list[str]:
    argv = ["--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"):
        if os.path.islink(name):
            argv += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            argv += ["--ro-bind", name, name]
    for name in _ETC:
        argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    # Files under /proc/sys belong to root: for a server run by root, only a read-only /proc keeps them as they are.
    argv += ["--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    for name in ("/dev/shm", "/tmp"):
        argv += ["--size", str(limits.scratch), "--tmpfs", name]
    return [*argv, "--bind", str(workspace), str(_INSIDE), "--remount-ro", "/", "--chdir", str(_INSIDE)]
