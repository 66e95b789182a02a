"""Running one program with bounds."""

import asyncio
import os
from pathlib import Path

import pytest

from stepwell.tools.process import Bounds, Outcome, run, usage
from stepwell.tools.threads import Threads

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


async def sh(
    folder: Path,
    command: str,
    *,
    seconds: float = 20,
    output: int = 10_000,
    processes: int = 200,
    memory: int = 1 << 30,
) -> Outcome:
    """Run a shell command."""
    bounds = Bounds(seconds=seconds, output=output, processes=processes, memory=memory)
    return await run(["/bin/sh", "-c", command], bounds, folder=folder, environment=ENVIRONMENT)


def outcome(folder: Path, command: str, **bounds: int) -> Outcome:
    """Run a shell command to its end."""
    return asyncio.run(sh(folder, command, **bounds))


async def until_closed(pipe: Path) -> str:
    """Read a named pipe until nobody holds it open any more."""
    return await asyncio.wait_for(Threads().run(pipe.read_text), 10)


def test_output_errors_and_exit_code_are_kept_apart(tmp_path: Path) -> None:
    assert outcome(tmp_path, "echo out; echo err >&2; exit 3") == Outcome("out\n", "err\n", 3)
    assert outcome(tmp_path, "") == Outcome("", "", 0)
    assert outcome(tmp_path, "printf 'no end'") == Outcome("no end", "", 0)


def test_a_program_sees_its_folder_its_environment_and_no_input(tmp_path: Path) -> None:
    assert outcome(tmp_path, "pwd; cat; env | sort").stdout == (
        f"{tmp_path}\nLANG=C.UTF-8\nPATH=/usr/local/bin:/usr/bin:/bin\nPWD={tmp_path}\n"
    )


def test_a_program_ended_by_a_signal_has_the_shells_exit_code(tmp_path: Path) -> None:
    assert outcome(tmp_path, "kill -9 $$").exit_code == 137


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    bounds = Bounds(seconds=1, output=1, processes=1, memory=1)
    with pytest.raises(FileNotFoundError):
        asyncio.run(run([str(tmp_path / "no")], bounds, folder=tmp_path, environment={}))


def test_long_output_is_cut_in_its_middle_while_it_is_read(tmp_path: Path) -> None:
    found = outcome(tmp_path, "printf head; head -c 3000000 /dev/zero | tr '\\0' x; printf tail", output=1000).stdout
    assert found == f"head{'x' * 496}\n[... 2999008 bytes left out ...]\n{'x' * 496}tail"


def test_output_at_the_limit_is_whole(tmp_path: Path) -> None:
    assert outcome(tmp_path, "head -c 1000 /dev/zero | tr '\\0' x", output=1000).stdout == "x" * 1000


def test_a_cut_never_goes_through_a_character(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("字" * 1000, encoding="utf-8")
    for limit in range(100, 106):
        found = outcome(tmp_path, "cat text", output=limit).stdout
        head, _, tail = found.partition("\n[... ")
        assert "\ufffd" not in found
        assert set(head) | set(tail.partition("...]\n")[2]) == {"字"}


def test_bytes_that_are_no_text_become_the_replacement_character(tmp_path: Path) -> None:
    assert outcome(tmp_path, "printf 'a\\377b\\0c'").stdout == "a\ufffdb\0c"


def test_endless_output_stops_the_program(tmp_path: Path) -> None:
    found = outcome(tmp_path, "yes")
    assert found.stopped == "it wrote more than 64 MiB"
    assert not found.timed_out
    assert len(found.stdout) < 10_100


def test_a_slow_program_is_stopped_with_what_it_said_so_far(tmp_path: Path) -> None:
    found = asyncio.run(sh(tmp_path, "echo begun; exec sleep 60", seconds=0.3))
    assert found == Outcome("begun\n", "", 143, "it ran longer than 0.3 seconds", timed_out=True)


@pytest.mark.parametrize("command", ["trap '' TERM; echo $$; while :; do sleep 60; done"])
def test_a_program_that_ignores_the_request_to_end_is_killed(tmp_path: Path, command: str) -> None:
    found = asyncio.run(sh(tmp_path, command, seconds=0.3))
    assert (found.exit_code, found.timed_out) == (137, True)
    assert not Path(f"/proc/{found.stdout.strip()}").exists()


def test_a_child_that_keeps_the_output_open_does_not_hang_the_call(tmp_path: Path) -> None:
    found = outcome(tmp_path, "sleep 60 & echo over")
    assert (found.stdout, found.exit_code) == ("over\n", 0)


def test_even_a_child_in_a_session_of_its_own_does_not_hang_the_call(tmp_path: Path) -> None:
    daemon = "(setsid sh -c 'echo $$ > pid; exec sleep 60' &)"
    assert outcome(tmp_path, f"{daemon}; while [ ! -s pid ]; do :; done; echo over").stdout == "over\n"
    os.kill(int((tmp_path / "pid").read_text()), 9)


@pytest.mark.parametrize("how", ["end", "time", "cancel", "cancel twice"])
def test_no_process_of_the_group_is_left(tmp_path: Path, how: str) -> None:
    begun, alive = tmp_path / "begun", tmp_path / "alive"
    os.mkfifo(begun)
    os.mkfifo(alive)
    wait = "" if how == "end" else "; wait"
    # Children hold the pipe `alive` open as long as they live; one of them ignores SIGTERM.
    command = f"exec 3>alive; sleep 60 & (trap '' TERM; sleep 60; sleep 60) & echo > begun{wait}"

    async def main() -> None:
        running = asyncio.create_task(sh(tmp_path, command, seconds=0.5 if how == "time" else 30))
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
        assert await dead == ""

    asyncio.run(main())


@pytest.mark.parametrize("turns", range(12))
def test_a_call_cancelled_while_it_starts_leaves_no_process(tmp_path: Path, turns: int) -> None:
    alive = tmp_path / "alive"
    os.mkfifo(alive)

    async def main() -> None:
        reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
        # The test holds the pipe too, so that it is open even if the program never came so far.
        held = os.open(alive, os.O_WRONLY)
        os.set_blocking(reader, True)
        running = asyncio.create_task(sh(tmp_path, "exec 3>alive; sleep 60 & sleep 60"))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        os.close(held)
        with os.fdopen(reader) as pipe:
            assert await asyncio.wait_for(Threads().run(pipe.read), 10) == ""

    asyncio.run(main())


def test_too_many_processes_stop_the_program(tmp_path: Path) -> None:
    command = "for i in 1 2 3 4 5 6 7 8 9; do sleep 60 & done; wait"
    assert outcome(tmp_path, command, processes=5).stopped == "it had more than 5 processes and threads"
    assert outcome(tmp_path, "sleep 0.1 & sleep 0.1 & wait", processes=5).stopped == ""


def test_too_much_memory_stops_the_program(tmp_path: Path) -> None:
    command = "x=$(head -c 60000000 /dev/zero | tr '\\0' x); sleep 60; echo $x"
    assert outcome(tmp_path, command, memory=30 << 20).stopped == "it used more than 30 MiB of memory"


def test_a_process_that_is_gone_uses_nothing() -> None:
    assert usage(2**22 + 1, 10) == (0, 0)
    tasks, memory = usage(os.getpid(), 1000)
    assert tasks >= 1
    assert memory > 1 << 20
