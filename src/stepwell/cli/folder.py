"""What `stepwell doctor` finds in the data folder: whether it can be written, and whether the database is whole."""

# apsw's stubs name a type that Python 3.11 has not, so its methods are partly unknown to the checker.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import apsw

from stepwell.cli.findings import Finding
from stepwell.cli.screen import Screen
from stepwell.cli.sources import DATABASE
from stepwell.config import Config

FAULTS = 3
"""Faults of a database that are shown."""


def look(config: Config, screen: Screen) -> list[Finding]:
    """Look at the folder and, if it is there, the database."""
    folder = config.folder
    try:
        found = _folder(folder, screen)
    except OSError as error:  # not even looking is allowed
        said = f"{folder}: {error.strerror}"
        return [Finding(screen.say("doctor_folder"), "bad", said, screen.say("doctor_folder_remedy"))]
    if found.state == "bad" or not (folder / DATABASE).exists():
        return [found]
    return [found, _database(folder / DATABASE, screen)]


def _folder(folder: Path, screen: Screen) -> Finding:
    name, other = screen.say("doctor_folder"), screen.say("doctor_folder_remedy")
    if not folder.exists():
        above = next(each for each in folder.absolute().parents if each.exists())
        if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
            return Finding(name, "ok", screen.say("doctor_folder_new", folder=folder))
        return Finding(name, "bad", screen.say("doctor_unwritable", folder=above), other)
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(bytes(4096))
            mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError as error:
        return Finding(name, "bad", f"{folder}: {error.strerror}", other)
    if mode & 0o077:
        remedy = f"chmod 700 {folder}"
        return Finding(name, "warn", screen.say("doctor_folder_open", folder=folder, mode=f"{mode:o}"), remedy)
    return Finding(name, "ok", str(folder))


def _database(file: Path, screen: Screen) -> Finding:
    name = screen.say("doctor_database")
    try:
        with_faults, threads, unfinished = _read(file)
    except apsw.Error as error:
        return Finding(name, "bad", f"{file}: {error}", screen.say("doctor_database_remedy", file=file))
    if with_faults:
        said = "; ".join(with_faults)
        return Finding(name, "bad", f"{file}: {said}", screen.say("doctor_database_remedy", file=file))
    size = f"{file.stat().st_size / 1000:,.0f}"
    facts = screen.say("doctor_database_facts", size=size, threads=threads, unfinished=unfinished)
    return Finding(name, "ok", facts, screen.say("doctor_unfinished") if unfinished else "")


def _read(file: Path) -> tuple[list[str], int, int]:
    """Return the first faults, the count of threads, and that of unfinished runs."""
    db = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.set_busy_timeout(5000)
        faults = [str(row[0]) for row in db.execute("PRAGMA quick_check(3)") if row[0] != "ok"]
        threads = int(db.execute("SELECT count(*) FROM threads").get)
        return faults[:FAULTS], threads, int(db.execute("SELECT count(*) FROM running").get)
    finally:
        db.close()
