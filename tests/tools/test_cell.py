"""Control groups that limit processes, where the system lets this user make one."""

import asyncio
import os
import subprocess
from pathlib import Path

from stepwell.tools import cell


def test_a_user_who_may_not_make_one_gets_none_and_root_gets_one_that_limits() -> None:
    made = cell.make(8)
    if made is None:
        # The kernel's own limit for each user holds for everybody but root.
        assert os.geteuid() != 0 or not os.access("/sys/fs/cgroup", os.W_OK)
        return
    command = "i=0; while [ $i -lt 20 ]; do sleep 1 & i=$((i+1)); done; wait"
    argv = [*made.entrance(), "/bin/sh", "-c", command]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert "fork" in done.stderr
    asyncio.run(made.clear())
    assert not made.folder.exists()
    assert made.remove()


def test_a_group_in_use_stays(tmp_path: Path) -> None:
    made = cell.Cell(tmp_path)
    (tmp_path / "task").touch()
    assert not made.remove()
