"""Processes that are known by a token in their environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from stepwell.tools import strays


@contextmanager
def sleeping(**environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that has exactly this environment."""
    pipe = subprocess.PIPE
    with subprocess.Popen(["/bin/sh", "-c", "echo; read line"], env=environment, stdin=pipe, stdout=pipe) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            yield process
        finally:
            process.kill()


def test_tokens_are_never_the_same() -> None:
    assert len({strays.new_token() for _ in range(100)}) == 100


def test_a_process_is_found_by_exactly_its_token_and_killed() -> None:
    token = strays.new_token()
    with (
        sleeping(STEPWELL_CALL=token) as mine,
        sleeping(STEPWELL_CALL=token + "0") as longer,
        sleeping(STEPWELL_CALL=token[:-1]) as shorter,
        sleeping(OTHER=f"STEPWELL_CALL={token}", MY_STEPWELL_CALL=token) as quoting,
    ):
        assert strays.look(token).found == [mine.pid]
        strays.end(token)
        assert mine.wait(10) == -9
        assert [each.poll() for each in (longer, shorter, quoting)] == [None] * 3
        assert strays.look(token).found == []


def test_a_look_at_younger_processes_leaves_older_ones_out() -> None:
    token = strays.new_token()
    with sleeping(STEPWELL_CALL=token) as older, sleeping(STEPWELL_CALL=token) as younger:
        assert sorted(strays.look(token).found) == sorted([older.pid, younger.pid])
        assert strays.look(token, above=older.pid).found == [younger.pid]
        # Numbers have gone round since: then all are looked at.
        assert sorted(strays.look(token, above=2**31).found) == sorted([older.pid, younger.pid])


def test_the_process_that_looks_is_never_among_them() -> None:
    token = strays.new_token()
    code = f"from stepwell.tools import strays; strays.end({token!r}); print(strays.look({token!r}).found)"
    environment = {**os.environ, strays.VARIABLE: token}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (0, b"[]\n")


def test_a_process_that_just_starts_a_program_is_looked_at_again() -> None:
    token = strays.new_token()
    loop = ["/bin/sh", "-c", 'exec /bin/sh -c "$0" "$0"', 'exec /bin/sh -c "$0" "$0"']
    with subprocess.Popen(loop, env={strays.VARIABLE: token}) as restless:
        try:
            for _ in range(300):
                assert strays.look(token, above=restless.pid - 1) != ([], False)
        finally:
            restless.kill()
