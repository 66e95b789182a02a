"""The lock of a data folder: only its holder runs or resumes agents there."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from stepwell.errors import ConfigError, DataInUse


class FolderLock:
    """Holds a folder until it is released or the process ends, however it ends.

    Args:
        folder: Made if it is not there, for its owner alone.

    Raises:
        DataInUse: Another process holds it.
        ConfigError: The folder cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"data: the folder {folder} cannot be used: {error.strerror}; name another") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise DataInUse(f"another process works on the data folder {folder}") from error

    def release(self) -> None:
        """Let go of the folder."""
        os.close(self._file)
