"""The guards that hold for every test, shown on tests that break them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

BREAKING = """
import asyncio, os, socket, threading
import pytest

def test_a_connection_that_leaves_the_machine_is_refused():
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("192.0.2.1", 80), timeout=1)

def test_a_look_up_that_leaves_the_machine_is_refused():
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(asyncio.open_connection("example.invalid", 80))

def test_this_machine_is_reached_and_settings_are_gone():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1])).close()
    assert "STEPWELL_HOST" not in os.environ
    assert "https_proxy" not in os.environ
    assert os.path.expanduser("~") == os.getcwd() != "HOME"

@pytest.mark.limit(0.3)
def test_an_endless_wait_ends():
    asyncio.run(asyncio.Event().wait())

@pytest.mark.limit(0.3)
def test_an_endless_callback_ends():
    async def main():
        asyncio.get_running_loop().call_soon(spin)
        await asyncio.Event().wait()
    def spin():
        while True:
            pass
    asyncio.run(main())

@pytest.mark.limit(0.3)
def test_a_wait_for_a_thread_ends():
    threading.Event().wait()

def test_what_comes_after_still_runs():
    pass
"""


def test_a_test_that_leaves_the_machine_or_does_not_end_fails_and_the_others_go_on(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_breaking.py").write_text(BREAKING.replace("HOME", os.environ["HOME"]))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = limit(seconds)\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", str(tmp_path)],
        env=os.environ | {"STEPWELL_HOST": "0.0.0.0", "https_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stdout.count("not over after 0.3 s") >= 3, done.stdout
    assert "the test reached for [('192.0.2.1', 80)]" in done.stdout
    assert "the test reached for ['example.invalid']" in done.stdout
    assert "3 failed, 4 passed, 2 errors" in done.stdout
