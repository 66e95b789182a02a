"""Files of the data folder that their owner alone may read, and that several processes write one after the other."""

from __future__ import annotations

import os
from pathlib import Path


def replace(file: Path, data: bytes) -> None:
    """Have a file hold this and nothing else: after a crash what was there before, or all of this.

    Args:
        file: It; its folder is there.
        data: What it is to hold.

    Raises:
        OSError: It cannot be written.
    """
    made = file.with_suffix(".new")
    with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as out:
        os.fchmod(out.fileno(), 0o600)
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    os.replace(made, file)


def open_lock(file: Path) -> int:
    """Return a descriptor of what is locked while a file is written; makes its folder.

    Args:
        file: The file.

    Raises:
        OSError: The folder cannot be written.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
